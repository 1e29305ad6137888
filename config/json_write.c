#include "config/buf.h"
#include "config/json.h"
#include "config/utf8.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* octavo never calls setlocale, so printf and strtod use a point. */

/* Bytes at text that go out as they are. */
static size_t plain_run(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length) {
        unsigned char byte = (unsigned char)text[at];
        if (byte < 0x20 || byte == '"' || byte == '\\') break;
        size_t size = utf8_sequence(text + at, length - at);
        if (size == 0) break;
        at += size;
    }
    return at;
}

static void write_escape(struct buf *out, unsigned char byte)
{
    switch (byte) {
    case '"':
        buf_append(out, "\\\"", 2);
        break;
    case '\\':
        buf_append(out, "\\\\", 2);
        break;
    case '\n':
        buf_append(out, "\\n", 2);
        break;
    case '\r':
        buf_append(out, "\\r", 2);
        break;
    case '\t':
        buf_append(out, "\\t", 2);
        break;
    case '\b':
        buf_append(out, "\\b", 2);
        break;
    case '\f':
        buf_append(out, "\\f", 2);
        break;
    default:
        if (byte < 0x20)
            buf_printf(out, "\\u%04x", byte);
        else
            buf_append(out, "\xEF\xBF\xBD", 3); /* U+FFFD */
    }
}

void json_write_string(struct buf *out, const char *text, size_t length)
{
    buf_append(out, "\"", 1);
    for (size_t at = 0; at < length;) {
        size_t run = plain_run(text + at, length - at);
        buf_append(out, text + at, run);
        at += run;
        if (at < length) write_escape(out, (unsigned char)text[at++]);
    }
    buf_append(out, "\"", 1);
}

void json_write_text(struct buf *out, const char *text)
{
    json_write_string(out, text, strlen(text));
}

/* Every decimal of FLT_DIG digits survives a trip through float (C17 5.2.4.2.2), and %g drops trailing
   zeros, so a value with a short form is found at the first try. */
void json_write_float(struct buf *out, float value)
{
    char text[32];
    if (!isfinite(value)) {
        buf_append(out, "null", 4);
        return;
    }
    for (int digits = FLT_DIG; digits <= FLT_DECIMAL_DIG; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    buf_text(out, text);
}

void json_write_double(struct buf *out, double value)
{
    char text[32];
    if (!isfinite(value)) {
        buf_append(out, "null", 4);
        return;
    }
    for (int digits = DBL_DIG; digits <= DBL_DECIMAL_DIG; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    buf_text(out, text);
}

void json_write_int64(struct buf *out, int64_t value)
{
    buf_printf(out, "%" PRId64, value);
}

void json_write_bool(struct buf *out, bool value)
{
    buf_text(out, value ? "true" : "false");
}

static void write_number(struct buf *out, const struct json *node)
{
    if (!json_is_integer(node)) {
        json_write_double(out, json_number(node));
        return;
    }
    json_write_int64(out, json_int64(node));
    if (json_is_fraction(node)) buf_text(out, ".0");
}

void json_write_tree(struct buf *out, const struct json *node)
{
    size_t length;
    const char *text;
    bool object = json_type(node) == JSON_OBJECT;
    switch (json_type(node)) {
    case JSON_NULL:
        buf_text(out, "null");
        return;
    case JSON_BOOL:
        json_write_bool(out, json_bool(node));
        return;
    case JSON_NUMBER:
        write_number(out, node);
        return;
    case JSON_STRING:
        text = json_string(node, &length);
        json_write_string(out, text, length);
        return;
    default:
        break;
    }
    buf_text(out, object ? "{" : "[");
    for (const struct json *item = json_first(node); item; item = json_next(item)) {
        if (item != json_first(node)) buf_text(out, ",");
        if (object) {
            json_write_text(out, json_key(item));
            buf_text(out, ":");
        }
        json_write_tree(out, item);
    }
    buf_text(out, object ? "}" : "]");
}
