#include "server/api_field.h"
#include "server/responses.h"
#include "server/translation.h"

#include <stdio.h>
#include <string.h>

/* --- Input --- */

static enum err translate_message(struct translation *t, const struct json *item, const char *path)
{
    static const char *const roles[] = {"user", "assistant", "system", "developer"};
    static const char *const input_types[] = {"input_text", "text", NULL};
    static const char *const output_types[] = {"output_text", "input_text", "text", NULL};
    char place[64];
    const struct json *role = NULL, *content = api_field_given(item, "content");
    enum err err = translation_member(t, item, path, "role", JSON_STRING, false, &role);
    if (err != ERR_OK) return err;
    size_t i = 0;
    while (i < 4 && strcmp(json_string(role, NULL), roles[i]) != 0) i++;
    snprintf(place, sizeof place, "%.55s.role", path);
    if (i == 4)
        return translation_fault(t, place, "is '%.40s'; it must be user, assistant, system or developer",
                                 json_string(role, NULL));
    snprintf(place, sizeof place, "%.55s.content", path);
    if (!content) return translation_fault(t, place, "is missing");
    translation_tree(t, "role", role);
    return translation_content(
        t, content, place, strcmp(json_string(role, NULL), "assistant") == 0 ? output_types : input_types);
}

/* The arguments are a string with JSON inside. */
static enum err check_arguments(const struct translation *t, const struct json *arguments, const char *path)
{
    size_t length;
    struct json *tree = NULL;
    struct json_limits limits = json_limits_default;
    const char *text = json_string(arguments, &length);
    limits.max_bytes = length;
    bool object = length == 0 || (json_parse(text, length, &limits, &tree, NULL) == ERR_OK &&
                                  json_type(tree) == JSON_OBJECT);
    json_free(tree);
    return object ? ERR_OK : translation_fault(t, path, "must be a string with a JSON object in it");
}

static enum err translate_call(struct translation *t, const struct json *item, const char *path)
{
    char place[64];
    const struct json *id = NULL, *name = NULL, *arguments = NULL;
    enum err err = translation_member(t, item, path, "call_id", JSON_STRING, false, &id);
    if (err == ERR_OK) err = translation_member(t, item, path, "name", JSON_STRING, false, &name);
    if (err == ERR_OK) err = translation_member(t, item, path, "arguments", JSON_STRING, false, &arguments);
    snprintf(place, sizeof place, "%.50s.arguments", path);
    if (err == ERR_OK) err = check_arguments(t, arguments, place);
    if (err == ERR_OK) translation_call(t, id, name, arguments);
    return err;
}

static enum err translate_output(struct translation *t, const struct json *item, const char *path)
{
    static const char *const types[] = {"input_text", "output_text", "text", NULL};
    char place[64];
    const struct json *id = NULL, *output = api_field_given(item, "output");
    enum err err = translation_member(t, item, path, "call_id", JSON_STRING, false, &id);
    if (err != ERR_OK) return err;
    snprintf(place, sizeof place, "%.55s.output", path);
    if (!output) return translation_fault(t, place, "is missing");
    translation_open(t, '{');
    translation_text(t, "role", "tool");
    translation_tree(t, "tool_call_id", id);
    err = translation_content(t, output, place, types);
    translation_close(t, '}');
    return err;
}

enum item_type { ITEM_MESSAGE, ITEM_CALL, ITEM_OUTPUT, ITEM_REASONING, ITEM_TYPES };

/* An item without a type is a message. */
static enum err item_type(const struct translation *t, const struct json *item, const char *path,
                          enum item_type *out)
{
    static const char *const names[] = {"message", "function_call", "function_call_output", "reasoning"};
    char place[64];
    const struct json *type = NULL;
    if (json_type(item) != JSON_OBJECT)
        return translation_fault(t, path, "must be an object, not %s", json_type_name(json_type(item)));
    enum err err = translation_member(t, item, path, "type", JSON_STRING, true, &type);
    if (err != ERR_OK) return err;
    size_t i = 0;
    while (type && i < ITEM_TYPES && strcmp(json_string(type, NULL), names[i]) != 0) i++;
    snprintf(place, sizeof place, "%.58s.type", path);
    if (i == ITEM_TYPES)
        return translation_fault(
            t, place, "is '%.40s'; it must be message, function_call, function_call_output or reasoning",
            json_string(type, NULL));
    *out = (enum item_type)i;
    return ERR_OK;
}

static bool is_assistant(const struct json *item)
{
    const struct json *role = json_get(item, "role");
    return role && json_type(role) == JSON_STRING && strcmp(json_string(role, NULL), "assistant") == 0;
}

/* What an assistant thought before its turn, where it can be read: the item's content. */
static enum err translate_thoughts(struct translation *t, const struct json *item, size_t i)
{
    char path[64];
    size_t j = 0;
    const struct json *content = NULL;
    snprintf(path, sizeof path, "input[%zu]", i);
    enum err err = translation_member(t, item, path, "content", JSON_ARRAY, true, &content);
    struct buf thoughts;
    buf_init(&thoughts, SIZE_MAX);
    for (const struct json *part = json_first(content); part && err == ERR_OK; part = json_next(part), j++) {
        const struct json *text = NULL;
        snprintf(path, sizeof path, "input[%zu].content[%zu]", i, j);
        if (json_type(part) != JSON_OBJECT)
            err = translation_fault(t, path, "must be an object, not %s", json_type_name(json_type(part)));
        if (err == ERR_OK) err = translation_member(t, part, path, "text", JSON_STRING, false, &text);
        if (err == ERR_OK) buf_text(&thoughts, json_string(text, NULL));
    }
    return translation_thoughts(t, &thoughts, err);
}

/* Calls belong to the assistant's message before them: *item and *i move on over those that follow. Thoughts
   stand before the turn that they are of; those that none follows go. */
static enum err translate_turn(struct translation *t, const struct json **item, size_t *i,
                               enum item_type type, const struct json *thoughts)
{
    char path[64];
    bool calls = false;
    enum err err = ERR_OK;
    snprintf(path, sizeof path, "input[%zu]", *i);
    translation_open(t, '{');
    if (thoughts && (type == ITEM_CALL || is_assistant(*item))) err = translate_thoughts(t, thoughts, *i - 1);
    if (err != ERR_OK) {
        translation_close(t, '}');
        return err;
    }
    if (type == ITEM_MESSAGE) {
        bool assistant = is_assistant(*item);
        err = translate_message(t, *item, path);
        *item = json_next(*item), *i += 1;
        if (!assistant || err != ERR_OK) {
            translation_close(t, '}');
            return err;
        }
    } else {
        translation_text(t, "role", "assistant");
        translation_text(t, "content", "");
    }
    for (; *item && err == ERR_OK; *item = json_next(*item), *i += 1) {
        snprintf(path, sizeof path, "input[%zu]", *i);
        err = item_type(t, *item, path, &type);
        if (err != ERR_OK || type != ITEM_CALL) break;
        if (!calls) {
            translation_key(t, "tool_calls");
            translation_open(t, '[');
        }
        calls = true;
        err = translate_call(t, *item, path);
    }
    if (calls) translation_close(t, ']');
    translation_close(t, '}');
    return err;
}

static enum err translate_items(struct translation *t, const struct json *items)
{
    size_t i = 0;
    enum err err = ERR_OK;
    const struct json *thoughts = NULL;
    bool empty = true;
    for (const struct json *item = json_first(items); item && err == ERR_OK;) {
        char path[64];
        enum item_type type = ITEM_MESSAGE;
        snprintf(path, sizeof path, "input[%zu]", i);
        err = item_type(t, item, path, &type);
        if (err != ERR_OK) return err;
        if (type == ITEM_OUTPUT) err = translate_output(t, item, path);
        if (type == ITEM_OUTPUT || type == ITEM_REASONING) {
            thoughts = type == ITEM_REASONING ? item : NULL;
            item = json_next(item), i++;
        } else {
            err = translate_turn(t, &item, &i, type, thoughts);
            thoughts = NULL;
        }
        empty = empty && type == ITEM_REASONING;
    }
    return err == ERR_OK && empty ? translation_fault(t, "input", "has nothing but reasoning") : err;
}

static enum err translate_input(struct translation *t, const struct json *body)
{
    const struct json *input = api_field_given(body, "input"), *instructions = NULL;
    enum err err = translation_member(t, body, "", "instructions", JSON_STRING, true, &instructions);
    if (err != ERR_OK) return err;
    if (!input) return translation_fault(t, "input", "is missing");
    if (json_type(input) != JSON_STRING && json_type(input) != JSON_ARRAY)
        return translation_fault(t, "input", "must be a string or an array of items, not %s",
                                 json_type_name(json_type(input)));
    if (json_type(input) == JSON_ARRAY && json_length(input) == 0)
        return translation_fault(t, "input", "must not be empty");
    translation_key(t, "messages");
    translation_open(t, '[');
    if (instructions) {
        translation_open(t, '{');
        translation_text(t, "role", "system");
        translation_tree(t, "content", instructions);
        translation_close(t, '}');
    }
    if (json_type(input) == JSON_ARRAY) {
        err = translate_items(t, input);
    } else {
        translation_open(t, '{');
        translation_text(t, "role", "user");
        translation_tree(t, "content", input);
        translation_close(t, '}');
    }
    translation_close(t, ']');
    return err;
}

/* --- Tools --- */

static enum err translate_tool(struct translation *t, const struct json *tool, const char *path)
{
    char place[64];
    const char *type = NULL;
    const struct json *name = NULL, *description = NULL, *parameters = NULL, *strict = NULL;
    enum err err = translation_type(t, tool, path, &type);
    snprintf(place, sizeof place, "%.58s.type", path);
    if (err == ERR_OK && strcmp(type, "function") != 0)
        return translation_fault(t, place, "is '%.40s'; only tools of type 'function' are supported", type);
    if (err == ERR_OK) err = translation_member(t, tool, path, "name", JSON_STRING, false, &name);
    if (err == ERR_OK)
        err = translation_member(t, tool, path, "description", JSON_STRING, true, &description);
    if (err == ERR_OK) err = translation_member(t, tool, path, "parameters", JSON_OBJECT, true, &parameters);
    if (err == ERR_OK) err = translation_member(t, tool, path, "strict", JSON_BOOL, true, &strict);
    if (err == ERR_OK) translation_tool(t, name, description, parameters, strict);
    return err;
}

static enum err translate_choice(struct translation *t, const struct json *body)
{
    const struct json *choice = api_field_given(body, "tool_choice"), *name = NULL;
    const char *type = NULL;
    if (!choice) return ERR_OK;
    if (json_type(choice) == JSON_STRING) {
        translation_tree(t, "tool_choice", choice);
        return ERR_OK;
    }
    enum err err = translation_type(t, choice, "tool_choice", &type);
    if (err == ERR_OK && strcmp(type, "allowed_tools") == 0) { /* chats take this form too */
        translation_tree(t, "tool_choice", choice);
        return ERR_OK;
    }
    if (err == ERR_OK && strcmp(type, "function") != 0)
        return translation_fault(t, "tool_choice.type", "is '%.40s'; it must be function or allowed_tools",
                                 type);
    if (err == ERR_OK) err = translation_member(t, choice, "tool_choice", "name", JSON_STRING, false, &name);
    if (err == ERR_OK) translation_choice(t, name);
    return err;
}

static enum err translate_tools(struct translation *t, const struct json *body)
{
    const struct json *tools = NULL;
    size_t i = 0;
    enum err err = translation_member(t, body, "", "tools", JSON_ARRAY, true, &tools);
    if (err != ERR_OK) return err;
    if (tools) {
        translation_key(t, "tools");
        translation_open(t, '[');
    }
    for (const struct json *tool = json_first(tools); tool && err == ERR_OK; tool = json_next(tool), i++) {
        char path[64];
        snprintf(path, sizeof path, "tools[%zu]", i);
        err = translate_tool(t, tool, path);
    }
    if (tools) translation_close(t, ']');
    return err == ERR_OK ? translate_choice(t, body) : err;
}

/* --- Other fields --- */

static enum err translate_format(struct translation *t, const struct json *body)
{
    const struct json *text = NULL, *format = NULL, *name = NULL, *schema = NULL, *strict = NULL;
    const char *type = NULL;
    enum err err = translation_member(t, body, "", "text", JSON_OBJECT, true, &text);
    if (err != ERR_OK || !text) return err;
    err = translation_member(t, text, "text", "format", JSON_OBJECT, true, &format);
    if (err != ERR_OK || !format) return err;
    err = translation_type(t, format, "text.format", &type);
    if (err != ERR_OK) return err;
    if (strcmp(type, "json_schema") != 0) {
        translation_key(t, "response_format");
        translation_open(t, '{');
        translation_text(t, "type", type);
        translation_close(t, '}');
        return ERR_OK;
    }
    err = translation_member(t, format, "text.format", "name", JSON_STRING, false, &name);
    if (err == ERR_OK)
        err = translation_member(t, format, "text.format", "schema", JSON_OBJECT, false, &schema);
    if (err == ERR_OK) err = translation_member(t, format, "text.format", "strict", JSON_BOOL, true, &strict);
    if (err == ERR_OK) translation_schema(t, json_string(name, NULL), schema, strict && json_bool(strict));
    return err;
}

static enum err translate_reasoning(struct translation *t, const struct json *body)
{
    const struct json *reasoning = NULL, *effort = NULL;
    enum err err = translation_member(t, body, "", "reasoning", JSON_OBJECT, true, &reasoning);
    if (err != ERR_OK || !reasoning) return err;
    err = translation_member(t, reasoning, "reasoning", "effort", JSON_STRING, true, &effort);
    if (err == ERR_OK && effort) translation_tree(t, "reasoning_effort", effort);
    return err;
}

/* What needs a memory, and what would change the answer. */
static enum err refuse_unsupported(const struct translation *t, const struct json *body)
{
    static const char *const names[] = {"prompt", "conversation", "context_management", "moderation"};
    const struct json *background = NULL, *truncation = NULL, *top = api_field_given(body, "top_logprobs");
    if (api_field_given(body, "previous_response_id"))
        return translation_fault(t, "previous_response_id",
                                 "is not supported: this server stores no responses; send the whole "
                                 "conversation as input");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (api_field_given(body, names[i])) return translation_fault(t, names[i], "is not supported");
    enum err err = translation_member(t, body, "", "background", JSON_BOOL, true, &background);
    if (err == ERR_OK) err = translation_member(t, body, "", "truncation", JSON_STRING, true, &truncation);
    if (err != ERR_OK) return err;
    if (background && json_bool(background)) return translation_fault(t, "background", "is not supported");
    if (truncation && strcmp(json_string(truncation, NULL), "disabled") != 0)
        return translation_fault(t, "truncation", "other than 'disabled' is not supported");
    if (top && !(json_type(top) == JSON_NUMBER && json_number(top) == 0))
        return translation_fault(t, "top_logprobs", "other than 0 is not supported here");
    return ERR_OK;
}

/* Encrypted reasoning and the like are of what this server never makes. */
static enum err check_include(const struct translation *t, const struct json *body)
{
    const struct json *include = NULL;
    size_t i = 0;
    enum err err = translation_member(t, body, "", "include", JSON_ARRAY, true, &include);
    for (const struct json *item = json_first(include); item && err == ERR_OK; item = json_next(item), i++) {
        char path[64];
        snprintf(path, sizeof path, "include[%zu]", i);
        if (json_type(item) != JSON_STRING)
            err = translation_fault(t, path, "must be a string, not %s", json_type_name(json_type(item)));
        else if (strcmp(json_string(item, NULL), "message.output_text.logprobs") == 0)
            err = translation_fault(t, path, "is '%s', which is not supported", json_string(item, NULL));
    }
    return err;
}

/* Fields that are only repeated or ignored. */
static enum err check_types(const struct translation *t, const struct json *body)
{
    static const struct {
        const char *name;
        enum json_type type;
    } fields[] = {{"metadata", JSON_OBJECT}, {"store", JSON_BOOL}, {"stream_options", JSON_OBJECT}};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const struct json *value = NULL;
        enum err err = translation_member(t, body, "", fields[i].name, fields[i].type, true, &value);
        if (err != ERR_OK) return err;
    }
    return ERR_OK;
}

enum err responses_translate(const struct json *body, struct json **chat, struct err_info *info)
{
    struct translation t;
    enum err err = generation_parse_object(body, info);
    if (err != ERR_OK) return err;
    translation_begin(&t, info);
    err = refuse_unsupported(&t, body);
    if (err == ERR_OK) err = check_include(&t, body);
    if (err == ERR_OK) err = check_types(&t, body);
    if (err == ERR_OK) err = translate_input(&t, body);
    if (err == ERR_OK) err = translate_tools(&t, body);
    if (err == ERR_OK) err = translate_format(&t, body);
    if (err == ERR_OK) err = translate_reasoning(&t, body);
    if (err == ERR_OK) {
        translation_copy(&t, body, "max_output_tokens", "max_tokens");
        translation_copy(&t, body, "parallel_tool_calls", "parallel_tool_calls");
        translation_copy(&t, body, "user", "user");
        translation_copy_common(&t, body);
    }
    return translation_end(&t, err, chat);
}

void responses_rename(struct err_info *info)
{
    static const struct translation_name names[] = {
        {"messages", "input"},
        {"max_tokens", "max_output_tokens"},
        {"response_format.json_schema", "text.format"},
        {"response_format", "text.format"},
        {".function", ""},
        {"reasoning_effort", "reasoning.effort"},
        {NULL, NULL},
    };
    translation_rename(names, info);
}
