#include "config/buf.h"
#include "config/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What parses can be written, and what was written parses to the same tree. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "fuzz_json: %s\n", what);
    abort();
}

static void write_node(struct buf *out, const struct json *node)
{
    bool object = json_type(node) == JSON_OBJECT;
    size_t length;
    switch (json_type(node)) {
    case JSON_NULL:
        buf_text(out, "null");
        break;
    case JSON_BOOL:
        json_write_bool(out, json_bool(node));
        break;
    case JSON_NUMBER:
        if (json_is_integer(node) && json_int64(node) != 0)
            json_write_int64(out, json_int64(node));
        else
            json_write_double(out, json_number(node));
        break;
    case JSON_STRING: {
        const char *text = json_string(node, &length);
        json_write_string(out, text, length);
        break;
    }
    case JSON_ARRAY:
    case JSON_OBJECT:
        buf_text(out, object ? "{" : "[");
        for (const struct json *child = json_first(node); child; child = json_next(child)) {
            if (child != json_first(node)) buf_text(out, ",");
            if (object) {
                json_write_text(out, json_key(child));
                buf_text(out, ":");
                check(json_get(node, json_key(child)) == child, "a member is found by its key");
            }
            write_node(out, child);
        }
        buf_text(out, object ? "}" : "]");
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_limits limits = {.max_bytes = 1 << 16, .max_depth = 64, .max_values = 10000};
    struct json *first, *second;
    struct err_info info = {.code = ERR_OK};
    enum err err = json_parse((const char *)data, size, &limits, &first, &info);
    if (err) {
        check(err != ERR_MEMORY, "cJSON builds whatever the scan accepts");
        check(info.code == err && info.message[0], "an error has a message");
        return 0;
    }
    limits.max_bytes = SIZE_MAX;
    struct buf once, twice;
    buf_init(&once, SIZE_MAX);
    buf_init(&twice, SIZE_MAX);
    write_node(&once, first);
    check(json_parse(once.data, once.length, &limits, &second, NULL) == ERR_OK, "what was written parses");
    write_node(&twice, second);
    check(once.length == twice.length && memcmp(once.data, twice.data, once.length) == 0, "same tree");
    buf_free(&once);
    buf_free(&twice);
    json_free(first);
    json_free(second);
    return 0;
}
