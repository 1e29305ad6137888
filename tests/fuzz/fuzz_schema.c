#include "model/grammar_text.h"

#include "tests/unit/support/grammar_probe.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A JSON schema. Whatever it is, it is refused with a message or becomes a grammar whose texts are JSON and
   from which every start can be finished. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct grammar_limits limits = {.max_nodes = 20000,
                                                 .max_states = 20000,
                                                 .max_bytes = 1 << 24,
                                                 .max_time_us = 200000,
                                                 .max_depth = 64};
    struct json_limits small = {.max_bytes = 1 << 14, .max_depth = 64, .max_values = 2000};
    struct json *schema, *value;
    if (json_parse((const char *)data, size, &small, &schema, NULL)) return 0;
    struct grammar_builder *builder = grammar_builder_create(&limits);
    struct grammar *grammar;
    struct err_info info = {.code = ERR_OK};
    int root = -1;
    if (!builder) abort();
    enum err err = grammar_schema(builder, schema, &root, &info);
    err = grammar_probe_build(builder, err, root, &grammar, &info);
    json_free(schema);
    if (err) {
        if (info.code != err || info.message[0] == '\0') abort();
        return 0;
    }
    struct grammar_probe probe;
    struct buf text;
    uint64_t seed = size + 1;
    grammar_probe_init(&probe, grammar);
    probe.favourites = "\"}]";
    buf_init(&text, SIZE_MAX);
    enum grammar_walk walk = grammar_probe_walk(&probe, &seed, 60, &text);
    if (walk == GRAMMAR_WALK_DEAD) abort();
    if (walk == GRAMMAR_WALK_ENDED) {
        /* Members that are not named may come twice, which our own reader refuses. */
        enum err read = json_parse(text.data, text.length, &json_limits_default, &value, &info);
        if (!read) json_free(value);
        if (read && !strstr(info.message, "duplicate key")) abort();
    }
    buf_free(&text);
    grammar_probe_free(&probe);
    return 0;
}
