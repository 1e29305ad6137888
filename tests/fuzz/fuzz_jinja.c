#include "config/utf8.h"
#include "model/jinja.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Any bytes as a template, rendered with a conversation. Whatever it does, it ends, within its limits, with
   UTF-8 or with a message. */
static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"\xc3\x84\"},{\"role\":\"user\",\"content\":\"Hi "
    "\xf0\x9f\x8e\x89\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":\"f\","
    "\"arguments\":"
    "{\"a\":[1,2.5,true,null]}}}]},{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}],"
    "\"s\":\" \xe6\xbc\xa2"
    "b'\\\"\",\"n\":7,\"t\":true}";

static void check(const struct jinja_text *text, size_t limit)
{
    if (text->length > limit || utf8_valid(text->bytes, text->length) != text->length) abort();
    for (size_t i = 0; text->marks && i < text->length; i++)
        if (text->marks[i] > 1) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct jinja_limits limits = {
        .max_steps = 20000, .max_depth = 200, .max_output_bytes = 1 << 16};
    struct jinja *jinja;
    struct err_info info;
    enum err err = jinja_compile((const char *)data, size, &jinja, &info);
    if (err != ERR_OK) {
        if (info.code != err || info.message[0] == '\0') abort();
        return 0;
    }
    struct json *json;
    if (json_parse(conversation, sizeof conversation - 1, &json_limits_default, &json, NULL) != ERR_OK)
        abort();
    struct arena *arena = arena_create(1 << 22);
    struct jinja_variable variables[4];
    int n = 0;
    for (const struct json *item = json_first(json); item; item = json_next(item), n++)
        variables[n] = (struct jinja_variable){json_key(item), jinja_value_json(arena, item)};
    struct jinja_text text;
    err = jinja_render(jinja, arena, variables, n, 0, &limits, &text, &info);
    if (err == ERR_OK)
        check(&text, limits.max_output_bytes);
    else if (info.code != err || (info.message[0] == '\0' && err != ERR_INVALID))
        abort();
    arena_free(arena);
    json_free(json);
    jinja_free(jinja);
    return 0;
}
