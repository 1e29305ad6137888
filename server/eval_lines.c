#include "server/eval_lines.h"

#include "config/json.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

enum { LINE_BYTES = 1 << 20 };

int eval_lines_count(const char *text, size_t length)
{
    int n = 1;
    for (size_t i = 0; i < length; i++) n += text[i] == '\n';
    return n;
}

static bool is_blank(const char *line, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (!isspace((unsigned char)line[i])) return false;
    return true;
}

enum err eval_lines_each(const char *name, const char *text, size_t length, int limit,
                         enum err (*take)(void *context, const struct json *object, struct err_info *info),
                         void *context, struct err_info *info)
{
    const char *at = text, *end = text + length;
    struct json_limits limits = json_limits_default;
    struct err_info reason;
    int n_taken = 0;
    limits.max_bytes = LINE_BYTES;
    for (int number = 1; at < end && (limit == 0 || n_taken < limit); number++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t line_length = (size_t)((newline ? newline : end) - at);
        if (!is_blank(at, line_length)) {
            struct json *root;
            enum err err = json_parse(at, line_length, &limits, &root, &reason);
            if (err == ERR_OK) {
                err = take(context, root, &reason);
                json_free(root);
            }
            if (err != ERR_OK)
                return err_set_param(info, err == ERR_MEMORY ? err : ERR_FORMAT, "data", "%s, line %d: %s",
                                     name, number, reason.message);
            n_taken++;
        }
        at += line_length + 1;
    }
    if (n_taken == 0) return err_set_param(info, ERR_FORMAT, "data", "%s: there are no problems in it", name);
    return ERR_OK;
}
