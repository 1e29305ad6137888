#include "server/translation.h"

#include "server/api_field.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Far above what any body that the server takes can become. */
static const size_t chat_bytes_max = (size_t)1 << 30;

void translation_begin(struct translation *translation, struct err_info *info)
{
    translation->info = info;
    buf_init(&translation->out, chat_bytes_max);
    buf_text(&translation->out, "{");
}

enum err translation_end(struct translation *translation, enum err err, struct json **chat)
{
    struct buf *out = &translation->out;
    struct json_limits limits = {.max_bytes = SIZE_MAX, .max_depth = JSON_MAX_DEPTH, .max_values = SIZE_MAX};
    buf_text(out, "}");
    if (err == ERR_OK && out->failed)
        err = err_set(translation->info, ERR_MEMORY, "no memory for the request");
    if (err == ERR_OK) err = json_parse(out->data, out->length, &limits, chat, translation->info);
    buf_free(out);
    return err;
}

/* --- Writing --- */

static void separate(struct buf *out)
{
    char last = out->length > 0 ? out->data[out->length - 1] : '{';
    if (last != '{' && last != '[' && last != ':') buf_text(out, ",");
}

void translation_key(struct translation *translation, const char *name)
{
    separate(&translation->out);
    json_write_text(&translation->out, name);
    buf_text(&translation->out, ":");
}

void translation_open(struct translation *translation, char bracket)
{
    separate(&translation->out);
    buf_append(&translation->out, &bracket, 1);
}

void translation_close(struct translation *translation, char bracket)
{
    buf_append(&translation->out, &bracket, 1);
}

void translation_text(struct translation *translation, const char *name, const char *text)
{
    translation_key(translation, name);
    json_write_text(&translation->out, text);
}

enum err translation_thoughts(struct translation *translation, struct buf *thoughts, enum err err)
{
    if (thoughts->failed) err = err_set(translation->info, ERR_MEMORY, "no memory for the conversation");
    if (err == ERR_OK && thoughts->length > 0)
        translation_text(translation, "reasoning_content", thoughts->data);
    buf_free(thoughts);
    return err;
}

void translation_bool(struct translation *translation, const char *name, bool value)
{
    translation_key(translation, name);
    json_write_bool(&translation->out, value);
}

void translation_number(struct translation *translation, const char *name, double value)
{
    translation_key(translation, name);
    json_write_double(&translation->out, value);
}

void translation_tree(struct translation *translation, const char *name, const struct json *value)
{
    translation_key(translation, name);
    json_write_tree(&translation->out, value);
}

void translation_copy(struct translation *translation, const struct json *object, const char *from,
                      const char *to)
{
    const struct json *value = api_field_given(object, from);
    if (value) translation_tree(translation, to, value);
}

void translation_copy_common(struct translation *translation, const struct json *body)
{
    static const char *const names[] = {"model",
                                        "stream",
                                        "temperature",
                                        "top_p",
                                        "top_k",
                                        "min_p",
                                        "seed",
                                        "presence_penalty",
                                        "logit_bias",
                                        "repetition_penalty",
                                        "ignore_eos",
                                        "kv_format",
                                        "frequency_penalty",
                                        "stop_token_ids",
                                        "chat_template_kwargs",
                                        "timeout_ms",
                                        "timings_per_token",
                                        "return_progress",
                                        "cache_salt",
                                        "reasoning_format",
                                        "priority",
                                        "guided_json",
                                        "guided_regex",
                                        "guided_choice",
                                        "grammar",
                                        "guided_grammar",
                                        "structured_outputs"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        translation_copy(translation, body, names[i], names[i]);
}

/* "function":{"name":... left open. */
static void open_function(struct translation *translation, const struct json *name)
{
    translation_text(translation, "type", "function");
    translation_key(translation, "function");
    translation_open(translation, '{');
    translation_tree(translation, "name", name);
}

static void close_two(struct translation *translation)
{
    translation_close(translation, '}');
    translation_close(translation, '}');
}

void translation_tool(struct translation *translation, const struct json *name,
                      const struct json *description, const struct json *parameters,
                      const struct json *strict)
{
    translation_open(translation, '{');
    open_function(translation, name);
    if (description) translation_tree(translation, "description", description);
    if (parameters) translation_tree(translation, "parameters", parameters);
    if (strict) translation_tree(translation, "strict", strict);
    close_two(translation);
}

void translation_call(struct translation *translation, const struct json *id, const struct json *name,
                      const struct json *arguments)
{
    translation_open(translation, '{');
    translation_tree(translation, "id", id);
    open_function(translation, name);
    translation_tree(translation, "arguments", arguments);
    close_two(translation);
}

void translation_choice(struct translation *translation, const struct json *name)
{
    translation_key(translation, "tool_choice");
    translation_open(translation, '{');
    open_function(translation, name);
    close_two(translation);
}

void translation_schema(struct translation *translation, const char *name, const struct json *schema,
                        bool strict)
{
    translation_key(translation, "response_format");
    translation_open(translation, '{');
    translation_text(translation, "type", "json_schema");
    translation_key(translation, "json_schema");
    translation_open(translation, '{');
    translation_text(translation, "name", name);
    translation_tree(translation, "schema", schema);
    translation_bool(translation, "strict", strict);
    close_two(translation);
}

/* --- Reading --- */

enum err translation_fault(const struct translation *translation, const char *path, const char *format, ...)
{
    char message[300];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return err_set_param(translation->info, ERR_INVALID, path, "%s %s", path, message);
}

enum err translation_member(const struct translation *translation, const struct json *object,
                            const char *path, const char *name, enum json_type type, bool optional,
                            const struct json **out)
{
    static const char *const wanted[] = {"null",     "a boolean", "a number",
                                         "a string", "an array",  "an object"};
    char place[64];
    const struct json *value = api_field_given(object, name);
    snprintf(place, sizeof place, "%.*s%s%s", (int)(sizeof place - 2 - strlen(name)), path,
             path[0] ? "." : "", name);
    if (!value && !optional) return translation_fault(translation, place, "is missing");
    if (value && json_type(value) != type)
        return translation_fault(translation, place, "must be %s, not %s", wanted[type],
                                 json_type_name(json_type(value)));
    *out = value;
    return ERR_OK;
}

enum err translation_type(const struct translation *translation, const struct json *object, const char *path,
                          const char **out)
{
    const struct json *type = NULL;
    if (json_type(object) != JSON_OBJECT)
        return translation_fault(translation, path, "must be an object, not %s",
                                 json_type_name(json_type(object)));
    enum err err = translation_member(translation, object, path, "type", JSON_STRING, false, &type);
    if (err == ERR_OK) *out = json_string(type, NULL);
    return err;
}

enum err translation_part(struct translation *translation, const struct json *part, const char *path,
                          const char *const *types)
{
    const char *type = NULL;
    const struct json *text = NULL;
    enum err err = translation_type(translation, part, path, &type);
    if (err != ERR_OK) return err;
    size_t i = 0;
    while (types[i] && strcmp(types[i], type) != 0) i++;
    if (!types[i]) {
        char place[64];
        snprintf(place, sizeof place, "%.58s.type", path);
        return translation_fault(translation, place, "is '%.40s', which is not supported here; '%s' is", type,
                                 types[0]);
    }
    err = translation_member(translation, part, path, "text", JSON_STRING, false, &text);
    if (err != ERR_OK) return err;
    translation_open(translation, '{');
    translation_text(translation, "type", "text");
    translation_tree(translation, "text", text);
    translation_close(translation, '}');
    return ERR_OK;
}

enum err translation_content(struct translation *translation, const struct json *content, const char *path,
                             const char *const *types)
{
    size_t i = 0;
    if (json_type(content) == JSON_STRING) {
        translation_tree(translation, "content", content);
        return ERR_OK;
    }
    if (json_type(content) != JSON_ARRAY)
        return translation_fault(translation, path, "must be a string or an array, not %s",
                                 json_type_name(json_type(content)));
    if (json_length(content) == 0) return translation_fault(translation, path, "must not be empty");
    translation_key(translation, "content");
    translation_open(translation, '[');
    for (const struct json *part = json_first(content); part; part = json_next(part), i++) {
        char place[64];
        snprintf(place, sizeof place, "%.40s[%zu]", path, i);
        enum err err = translation_part(translation, part, place, types);
        if (err != ERR_OK) return err;
    }
    translation_close(translation, ']');
    return ERR_OK;
}

/* --- Faults that the chat found --- */

static bool is_border(char byte)
{
    return !isalnum((unsigned char)byte) && byte != '_';
}

/* Where name stands as a whole in text; NULL: nowhere. */
static const char *find_name(const char *text, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = text; (at = strstr(at, name)); at++)
        if ((at == text || is_border(at[-1]) || is_border(name[0])) && is_border(at[length])) return at;
    return NULL;
}

/* Puts `to` in the place of length bytes at `at` inside of text; what does not fit is cut off. */
static void replace(char *text, size_t size, const char *at, size_t length, const char *to)
{
    char copy[sizeof((struct err_info *)0)->message];
    int before = (int)(at - text);
    snprintf(copy, sizeof copy, "%.*s%s%s", before, text, to, at + length);
    snprintf(text, size, "%.*s", (int)size - 1, copy);
}

void translation_rename(const struct translation_name *names, struct err_info *info)
{
    /* The chat's messages are not the client's: they have been split and joined. */
    if (strncmp(info->param, "messages[", 9) == 0) info->param[8] = '\0';
    for (; names->chat; names++) {
        const char *at = find_name(info->param, names->chat);
        if (!at) continue;
        char old[sizeof info->param];
        memcpy(old, info->param, sizeof old);
        replace(info->param, sizeof info->param, at, strlen(names->chat), names->own);
        /* A message starts with the field, or names it where it cannot be mistaken for a word. */
        bool word = strcspn(old, "_.[") == strlen(old);
        const char *named = word ? (find_name(info->message, old) == info->message ? info->message : NULL)
                                 : find_name(info->message, old);
        if (named) replace(info->message, sizeof info->message, named, strlen(old), info->param);
        return;
    }
}
