/*
 * grammar: answers questions about the languages of grammars, for comparisons in Python. Each line of stdin
 * a JSON object {"regex", "gbnf" or "schema": the grammar, "search": bool, "json_string": bool,
 * "texts": [...], "walks": a number, "seed": a number, "favourites": bytes that walks prefer, "max_bytes": of
 * a walk}; each line of stdout is {"error": message, "code": name}, or
 * {"accepted": a "1" for each text that the grammar has, else "0", "alive": [how many bytes of each text it
 * follows], "walks": [random texts of the grammar], "dead": texts that it followed into a dead end}.
 */
#include "model/grammar_text.h"

#include "tests/unit/support/grammar_probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WALK_BYTES = 60 }; /* unless the job says */

static bool flag(const struct json *job, const char *name)
{
    const struct json *value = json_get(job, name);
    return value && json_bool(value);
}

static enum err compile(const struct json *job, struct grammar **out, struct err_info *info)
{
    struct grammar_builder *builder = grammar_builder_create(&grammar_limits_default);
    const struct json *regex = json_get(job, "regex"), *gbnf = json_get(job, "gbnf");
    struct grammar_regex_options options = {flag(job, "search"), flag(job, "json_string")};
    size_t length;
    int root = -1;
    enum err err;
    const char *text = regex || gbnf ? json_string(regex ? regex : gbnf, &length) : NULL;
    if (!text)
        err = grammar_schema(builder, json_get(job, "schema"), &root, info);
    else if (regex)
        err = grammar_regex(builder, text, length, &options, &root, info);
    else
        err = grammar_gbnf(builder, text, length, &root, info);
    return grammar_probe_build(builder, err, root, out, info);
}

static void answer_texts(struct grammar_probe *probe, const struct json *texts, struct buf *out)
{
    struct buf alive;
    buf_init(&alive, SIZE_MAX);
    buf_text(out, "{\"accepted\":\"");
    for (const struct json *item = texts ? json_first(texts) : NULL; item; item = json_next(item)) {
        size_t length;
        bool ends;
        const char *text = json_string(item, &length);
        size_t n = grammar_probe_accept(probe, text, length, &ends);
        buf_text(out, n == length && ends ? "1" : "0");
        buf_printf(&alive, "%s%zu", alive.length ? "," : "", n);
    }
    buf_text(out, "\",\"alive\":[");
    buf_append(out, alive.data, alive.length);
    buf_text(out, "]");
    buf_free(&alive);
}

static void answer_walks(struct grammar_probe *probe, const struct json *job, struct buf *out)
{
    const struct json *walks = json_get(job, "walks"), *seed = json_get(job, "seed");
    const struct json *favourites = json_get(job, "favourites"), *max = json_get(job, "max_bytes");
    size_t max_bytes = max ? (size_t)json_int64(max) : MAX_WALK_BYTES;
    probe->favourites = favourites ? json_string(favourites, NULL) : NULL;
    uint64_t state = (seed ? (uint64_t)json_int64(seed) : 0) * 2 + 1;
    struct buf text, dead;
    buf_init(&text, SIZE_MAX);
    buf_init(&dead, SIZE_MAX);
    buf_text(out, ",\"walks\":[");
    bool comma = false;
    for (int64_t i = 0; walks && i < json_int64(walks); i++) {
        buf_clear(&text);
        enum grammar_walk walk = grammar_probe_walk(probe, &state, max_bytes, &text);
        if (walk == GRAMMAR_WALK_CUT) continue;
        struct buf *to = walk == GRAMMAR_WALK_ENDED ? out : &dead;
        if (walk == GRAMMAR_WALK_ENDED ? comma : dead.length > 0) buf_text(to, ",");
        json_write_string(to, text.length ? text.data : "", text.length);
        comma |= walk == GRAMMAR_WALK_ENDED;
    }
    buf_text(out, "],\"dead\":[");
    buf_append(out, dead.data, dead.length);
    buf_text(out, "]}\n");
    buf_free(&text);
    buf_free(&dead);
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
        struct grammar *grammar;
        if (json_parse(line, (size_t)length, &json_limits_default, &job, &info) != ERR_OK) {
            fprintf(stderr, "%s\n", info.message);
            return 1;
        }
        enum err err = compile(job, &grammar, &info);
        if (err) {
            buf_text(&out, "{\"error\":");
            json_write_text(&out, info.message);
            buf_printf(&out, ",\"code\":\"%s\"}\n", err_name(err));
        } else {
            struct grammar_probe probe;
            grammar_probe_init(&probe, grammar);
            answer_texts(&probe, json_get(job, "texts"), &out);
            answer_walks(&probe, job, &out);
            grammar_probe_free(&probe);
        }
        json_free(job);
        fwrite(out.data, 1, out.length, stdout);
        buf_clear(&out);
    }
    free(line);
    buf_free(&out);
    return 0;
}
