#include "config/buf.h"
#include "config/json.h"
#include "config/option_table.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/*
 * The config file. Ini: `name = value` lines; '#' or ';' starts a comment at the start of a line or after a
 * space; a value with such characters, or with spaces at its ends, stands in double quotes, where \" and \\
 * are escapes. No sections: there is one command to configure. JSON: one object, option names to strings,
 * numbers and booleans.
 */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Index of the option that a file may set by this name; where is for the message. */
static enum err name_find(struct option_run *run, const char *where, const char *name, size_t *index)
{
    *index = option_find(run->table, name, strlen(name), false);
    if (*index < run->table->n_options) {
        const struct option *option = &run->table->options[*index];
        if (!option->command_line && !option->config_file) return ERR_OK;
        return err_set_param(run->info, ERR_USAGE, name, "%s: '%s' cannot be set in a file", where, name);
    }
    const char *nearest = option_nearest(run->table, name);
    return err_set_param(run->info, ERR_USAGE, name, "%s: unknown option '%s'%s%s%s", where, name,
                         nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}

/* The value at text..end, without its comment, into out (at least end - text + 1 bytes). False when what
   follows a quoted value is no comment, or the quotes do not close. */
static bool value_unquote(const char *text, const char *end, char *out)
{
    if (text < end && *text == '"') {
        for (text++; text < end && *text != '"'; text++) {
            if (*text == '\\' && text + 1 < end && (text[1] == '"' || text[1] == '\\')) text++;
            *out++ = *text;
        }
        *out = '\0';
        if (text == end) return false;
        for (text++; text < end && is_space(*text);) text++;
        return text == end || *text == '#' || *text == ';';
    }
    const char *stop = text;
    while (stop < end && !((*stop == '#' || *stop == ';') && (stop == text || is_space(stop[-1])))) stop++;
    while (stop > text && is_space(stop[-1])) stop--;
    memcpy(out, text, (size_t)(stop - text));
    out[stop - text] = '\0';
    return true;
}

static enum err line_apply(struct option_run *run, const char *file, int number, const char *text,
                           const char *end)
{
    while (text < end && is_space(*text)) text++;
    if (text == end || *text == '#' || *text == ';') return ERR_OK;
    if (*text == '[')
        return err_set(run->info, ERR_USAGE, "%s:%d: sections are not used here; write name = value", file,
                       number);
    const char *equals = memchr(text, '=', (size_t)(end - text));
    const char *name_end = equals ? equals : text;
    while (name_end > text && is_space(name_end[-1])) name_end--;
    if (name_end == text) return err_set(run->info, ERR_USAGE, "%s:%d: not 'name = value'", file, number);

    char *where = option_format(run->state, "%s:%d", file, number);
    char *name = arena_copy(run->state->arena, text, (size_t)(name_end - text));
    char *value = arena_alloc(run->state->arena, (size_t)(end - equals) + 1, 1);
    char *written = name ? option_format(run->state, "%s:%d: %s", file, number, name) : NULL;
    if (!where || !name || !value || !written) return option_memory(run);

    size_t index;
    enum err err = name_find(run, where, name, &index);
    if (err) return err;
    for (text = equals + 1; text < end && is_space(*text);) text++;
    if (!value_unquote(text, end, value))
        return err_set_param(run->info, ERR_USAGE, name, "%s: the quotes around the value are not in order",
                             written);
    return option_set(run, index, ORIGIN_FILE, written, value);
}

static enum err ini_apply(struct option_run *run, const char *file, const char *text, size_t length)
{
    const char *end = text + length;
    if (memchr(text, '\0', length))
        return err_set(run->info, ERR_USAGE, "%s: holds a NUL byte, so it is no text file", file);
    for (int number = 1; text < end; number++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *stop = newline ? newline : end;
        enum err err = line_apply(run, file, number, text, stop);
        if (err) return err;
        text = newline ? newline + 1 : end;
    }
    return ERR_OK;
}

static enum err member_apply(struct option_run *run, const char *file, const struct json *member)
{
    const char *name = json_key(member);
    char *written = option_format(run->state, "%s: %s", file, name);
    if (!written) return option_memory(run);
    size_t index;
    enum err err = name_find(run, file, name, &index);
    if (err) return err;

    const char *text = NULL;
    enum json_type type = json_type(member);
    if (type == JSON_STRING)
        text = json_string(member, NULL);
    else if (type == JSON_BOOL)
        text = json_bool(member) ? "true" : "false";
    else if (json_is_integer(member))
        text = option_format(run->state, "%" PRId64, json_int64(member));
    else if (type == JSON_NUMBER)
        text = option_format(run->state, "%.17g", json_number(member));
    else
        return err_set_param(run->info, ERR_USAGE, name, "%s is %s; a string, number or boolean is needed",
                             written, json_type_name(type));
    if (!text) return option_memory(run);
    return option_set(run, index, ORIGIN_FILE, written, text);
}

static enum err json_apply(struct option_run *run, const char *file, const char *text, size_t length)
{
    struct json_limits limits = json_limits_default;
    limits.max_values = 10000;
    struct json *root;
    struct err_info why = {.code = ERR_OK};
    enum err err = json_parse(text, length, &limits, &root, &why);
    if (err) return err_set_param(run->info, ERR_USAGE, why.param, "%s: %s", file, why.message);
    for (const struct json *member = json_first(root); member && !err; member = json_next(member))
        err = member_apply(run, file, member);
    json_free(root);
    return err;
}

enum err option_file_apply(struct option_run *run, const char *name, const char *text, size_t length)
{
    size_t start = 0;
    while (start < length && strchr(" \t\r\n", text[start]) && text[start]) start++;
    if (start < length && text[start] == '{') return json_apply(run, name, text, length);
    return ini_apply(run, name, text, length);
}

enum err option_file_read(struct option_run *run, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return err_set_param(run->info, ERR_USAGE, "config", "config file '%s': %s", path, strerror(errno));
    struct buf text;
    buf_init(&text, OPTION_FILE_BYTES);
    char piece[4096];
    size_t n;
    while (!text.failed && (n = fread(piece, 1, sizeof piece, file)) > 0) buf_append(&text, piece, n);
    enum err err = ERR_OK;
    if (ferror(file))
        err = err_set_param(run->info, ERR_USAGE, "config", "config file '%s': %s", path, strerror(errno));
    else if (text.failed)
        err = err_set_param(run->info, ERR_USAGE, "config", "config file '%s' is larger than %d bytes", path,
                            OPTION_FILE_BYTES);
    else if (text.length > 0)
        err = option_file_apply(run, path, text.data, text.length);
    fclose(file);
    buf_free(&text);
    return err;
}
