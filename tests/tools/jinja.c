/*
 * jinja: renders chat templates, for the comparison with Python's Jinja2. Each line of stdin is a JSON object
 * {"template": text, "context": {name: value ...}, "literal": [names whose values count as the template's
 * own], "now": Unix time}; each line of stdout is {"output": text, "marks": "1" where a byte is literal, "0"
 * where it is data} or {"error": message, "at": "compile" or "render"}.
 */
#include "model/jinja.h"
#include "config/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_error(struct buf *out, const struct err_info *info, const char *at)
{
    buf_text(out, "{\"error\":");
    json_write_text(out, info->message);
    buf_printf(out, ",\"at\":\"%s\"}\n", at);
}

static void print_output(struct buf *out, const struct jinja_text *text)
{
    buf_text(out, "{\"output\":");
    json_write_string(out, text->bytes, text->length);
    buf_text(out, ",\"marks\":\"");
    for (size_t i = 0; i < text->length; i++)
        buf_text(out, (text->marks ? text->marks[i] != 0 : text->literal) ? "1" : "0");
    buf_text(out, "\"}\n");
}

static bool is_literal(const struct json *names, const char *name)
{
    for (const struct json *item = names ? json_first(names) : NULL; item; item = json_next(item))
        if (strcmp(json_string(item, NULL), name) == 0) return true;
    return false;
}

static void render(struct buf *out, const struct jinja *jinja, const struct json *job)
{
    enum { MAX_VARIABLES = 64 };
    struct jinja_variable variables[MAX_VARIABLES];
    struct arena *arena = arena_create((size_t)256 << 20);
    const struct json *literal = json_get(job, "literal"), *now = json_get(job, "now");
    struct err_info info;
    struct jinja_text text;
    int n = 0;
    const struct json *item = json_first(json_get(job, "context"));
    for (; item && n < MAX_VARIABLES; item = json_next(item), n++) {
        variables[n].name = json_key(item);
        variables[n].value = jinja_value_json(arena, item);
        if (is_literal(literal, json_key(item)) && variables[n].value.type == JINJA_STRING)
            variables[n].value.text.literal = true;
    }
    if (jinja_render(jinja, arena, variables, n, now ? (time_t)json_int64(now) : 0, &jinja_limits_default,
                     &text, &info) == ERR_OK)
        print_output(out, &text);
    else
        print_error(out, &info, "render");
    arena_free(arena);
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    struct buf out;
    buf_init(&out, SIZE_MAX);
    while ((length = getline(&line, &capacity, stdin)) > 0) {
        struct json *job;
        struct err_info info;
        if (json_parse(line, (size_t)length, &json_limits_default, &job, &info) != ERR_OK) {
            fprintf(stderr, "%s\n", info.message);
            return 1;
        }
        size_t source_length;
        const char *source = json_string(json_get(job, "template"), &source_length);
        struct jinja *jinja;
        if (jinja_compile(source, source_length, &jinja, &info) != ERR_OK) {
            print_error(&out, &info, "compile");
        } else {
            render(&out, jinja, job);
            jinja_free(jinja);
        }
        json_free(job);
        fwrite(out.data, 1, out.length, stdout);
        buf_clear(&out);
    }
    free(line);
    buf_free(&out);
    return 0;
}
