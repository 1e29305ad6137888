/*
 * json_check: one document a line on stdin, as hexadecimal digits. For each a line on stdout: "ok " and the
 * document written anew, in hexadecimal, or "no " and the message.
 */
#include "config/buf.h"
#include "config/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void node_write(struct buf *out, const struct json *node)
{
    bool object = json_type(node) == JSON_OBJECT;
    switch (json_type(node)) {
    case JSON_NULL:
        buf_text(out, "null");
        break;
    case JSON_BOOL:
        json_write_bool(out, json_bool(node));
        break;
    case JSON_NUMBER:
        json_write_double(out, json_number(node));
        break;
    case JSON_STRING:
        json_write_text(out, json_string(node, NULL));
        break;
    case JSON_ARRAY:
    case JSON_OBJECT:
        buf_text(out, object ? "{" : "[");
        for (const struct json *child = json_first(node); child; child = json_next(child)) {
            if (child != json_first(node)) buf_text(out, ",");
            if (object) {
                json_write_text(out, json_key(child));
                buf_text(out, ":");
            }
            node_write(out, child);
        }
        buf_text(out, object ? "}" : "]");
    }
}

static int digit(int c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

static void document_check(const char *hex, size_t digits)
{
    struct json *root;
    struct err_info info;
    struct buf text, out;
    buf_init(&text, SIZE_MAX);
    buf_init(&out, SIZE_MAX);
    buf_append(&text, "", 0);
    for (size_t i = 0; i + 1 < digits; i += 2) {
        char byte = (char)(digit(hex[i]) << 4 | digit(hex[i + 1]));
        buf_append(&text, &byte, 1);
    }
    if (json_parse(text.data, text.length, &json_limits_default, &root, &info)) {
        printf("no %s\n", info.message);
    } else {
        node_write(&out, root);
        printf("ok ");
        for (size_t i = 0; i < out.length; i++) printf("%02x", (unsigned char)out.data[i]);
        printf("\n");
        json_free(root);
    }
    buf_free(&text);
    buf_free(&out);
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    while ((length = getline(&line, &capacity, stdin)) > 0) document_check(line, (size_t)length - 1);
    free(line);
    return 0;
}
