#include "server/api_field.h"
#include "server/messages.h"
#include "server/messages_fields.h"
#include "server/translation.h"

#include <stdio.h>
#include <string.h>

static const char *const text_types[] = {"text", NULL};

/* "system" as the first message. */
static enum err translate_system(struct translation *t, const struct json *body)
{
    const struct json *system = api_field_given(body, "system");
    if (!system) return ERR_OK;
    bool empty = json_type(system) == JSON_ARRAY && json_length(system) == 0;
    if (empty) return ERR_OK;
    translation_open(t, '{');
    translation_text(t, "role", "system");
    enum err err = translation_content(t, system, "system", text_types);
    translation_close(t, '}');
    return err;
}

/* --- Messages --- */

/* What a tool gave becomes a message of the role tool. */
static enum err translate_result(struct translation *t, const struct json *block, const char *path)
{
    char place[64];
    const struct json *id = NULL, *content = api_field_given(block, "content");
    enum err err = translation_member(t, block, path, "tool_use_id", JSON_STRING, false, &id);
    if (err != ERR_OK) return err;
    translation_open(t, '{');
    translation_text(t, "role", "tool");
    translation_tree(t, "tool_call_id", id);
    snprintf(place, sizeof place, "%.55s.content", path);
    if (content && !(json_type(content) == JSON_ARRAY && json_length(content) == 0))
        err = translation_content(t, content, place, text_types);
    else
        translation_text(t, "content", "");
    translation_close(t, '}');
    return err;
}

/* A user's blocks: results are messages of their own, the texts between them one each. */
static enum err translate_user(struct translation *t, const struct json *blocks, const char *path)
{
    static const char *const types[] = {"text", "tool_result", NULL};
    bool open = false;
    size_t i = 0;
    for (const struct json *block = json_first(blocks); block; block = json_next(block), i++) {
        char place[64];
        const char *type = NULL;
        snprintf(place, sizeof place, "%.40s[%zu]", path, i);
        enum err err = translation_type(t, block, place, &type);
        if (err != ERR_OK) return err;
        bool result = strcmp(type, "tool_result") == 0;
        if (result && open) {
            translation_close(t, ']');
            translation_close(t, '}');
        }
        if (!result && !open) {
            translation_open(t, '{');
            translation_text(t, "role", "user");
            translation_key(t, "content");
            translation_open(t, '[');
        }
        open = !result;
        err = result ? translate_result(t, block, place) : translation_part(t, block, place, types);
        if (err != ERR_OK) return err;
    }
    if (!open) return ERR_OK;
    translation_close(t, ']');
    translation_close(t, '}');
    return ERR_OK;
}

static enum err translate_call(struct translation *t, const struct json *block, const char *path)
{
    const struct json *id = NULL, *name = NULL, *input = NULL;
    enum err err = translation_member(t, block, path, "id", JSON_STRING, false, &id);
    if (err == ERR_OK) err = translation_member(t, block, path, "name", JSON_STRING, false, &name);
    if (err == ERR_OK) err = translation_member(t, block, path, "input", JSON_OBJECT, false, &input);
    if (err != ERR_OK) return err;
    translation_call(t, id, name, input);
    return ERR_OK;
}

static bool is_thoughts(const char *type)
{
    return strcmp(type, "thinking") == 0 || strcmp(type, "redacted_thinking") == 0;
}

/* The blocks of an assistant that are calls, or those that are not. */
static enum err translate_blocks(struct translation *t, const struct json *blocks, const char *path,
                                 bool calls)
{
    static const char *const types[] = {"text", "tool_use", NULL};
    size_t i = 0;
    for (const struct json *block = json_first(blocks); block; block = json_next(block), i++) {
        char place[64];
        const char *type = NULL;
        snprintf(place, sizeof place, "%.40s[%zu]", path, i);
        enum err err = translation_type(t, block, place, &type);
        if (err != ERR_OK) return err;
        bool call = strcmp(type, "tool_use") == 0;
        if (call != calls || is_thoughts(type)) continue;
        err = call ? translate_call(t, block, place) : translation_part(t, block, place, types);
        if (err != ERR_OK) return err;
    }
    return ERR_OK;
}

static bool has_block(const struct json *blocks, const char *type)
{
    for (const struct json *block = json_first(blocks); block; block = json_next(block)) {
        const struct json *own = json_get(block, "type");
        if (own && json_type(own) == JSON_STRING && strcmp(json_string(own, NULL), type) == 0) return true;
    }
    return false;
}

/* What an assistant thought, where it can be read. */
static enum err translate_thoughts(struct translation *t, const struct json *blocks, const char *path)
{
    struct buf thoughts;
    size_t i = 0;
    enum err err = ERR_OK;
    buf_init(&thoughts, SIZE_MAX);
    for (const struct json *block = json_first(blocks); block && err == ERR_OK;
         block = json_next(block), i++) {
        char place[64];
        const char *type = NULL;
        const struct json *text = NULL;
        snprintf(place, sizeof place, "%.40s[%zu]", path, i);
        err = translation_type(t, block, place, &type);
        if (err != ERR_OK || strcmp(type, "thinking") != 0) continue;
        err = translation_member(t, block, place, "thinking", JSON_STRING, false, &text);
        if (err == ERR_OK)
            buf_printf(&thoughts, "%s%s", thoughts.length > 0 ? "\n" : "", json_string(text, NULL));
    }
    return translation_thoughts(t, &thoughts, err);
}

static enum err translate_assistant(struct translation *t, const struct json *blocks, const char *path)
{
    bool calls = has_block(blocks, "tool_use"), texts = has_block(blocks, "text");
    translation_open(t, '{');
    translation_text(t, "role", "assistant");
    translation_key(t, "content");
    if (texts)
        translation_open(t, '[');
    else
        buf_text(&t->out, "\"\""); /* and nothing follows but the faults of other blocks */
    enum err err = translate_blocks(t, blocks, path, false);
    if (texts) translation_close(t, ']');
    if (err == ERR_OK) err = translate_thoughts(t, blocks, path);
    if (err == ERR_OK && calls) {
        translation_key(t, "tool_calls");
        translation_open(t, '[');
        err = translate_blocks(t, blocks, path, true);
        translation_close(t, ']');
    }
    translation_close(t, '}');
    return err;
}

static enum err translate_message(struct translation *t, const struct json *message, const char *path)
{
    char place[64];
    const struct json *role = NULL, *content = NULL;
    if (json_type(message) != JSON_OBJECT)
        return translation_fault(t, path, "must be an object, not %s", json_type_name(json_type(message)));
    enum err err = translation_member(t, message, path, "role", JSON_STRING, false, &role);
    if (err != ERR_OK) return err;
    const char *name = json_string(role, NULL);
    bool user = strcmp(name, "user") == 0, assistant = strcmp(name, "assistant") == 0;
    snprintf(place, sizeof place, "%.55s.role", path);
    if (!user && !assistant && strcmp(name, "system") != 0)
        return translation_fault(t, place, "is '%.40s'; it must be user, assistant or system", name);
    snprintf(place, sizeof place, "%.55s.content", path);
    content = api_field_given(message, "content");
    if (!content) return translation_fault(t, place, "is missing");
    if (json_type(content) == JSON_ARRAY && json_length(content) > 0 && (user || assistant))
        return user ? translate_user(t, content, place) : translate_assistant(t, content, place);
    translation_open(t, '{');
    translation_text(t, "role", name);
    err = translation_content(t, content, place, text_types);
    translation_close(t, '}');
    return err;
}

/* The end of a conversation that an assistant has begun to answer: the answer goes on. */
static enum err translate_prefill(struct translation *t, const struct json *last, size_t i)
{
    const struct json *role = json_get(last, "role"), *content = json_get(last, "content");
    char place[64];
    if (strcmp(json_string(role, NULL), "assistant") != 0) return ERR_OK;
    snprintf(place, sizeof place, "messages[%zu].content", i);
    if (has_block(content, "tool_use"))
        return translation_fault(t, place,
                                 "ends the conversation with a tool_use; its tool_result must follow");
    translation_bool(t, "continue_final_message", true);
    return ERR_OK;
}

static enum err translate_messages(struct translation *t, const struct json *body)
{
    const struct json *messages = NULL, *last = NULL;
    enum err err = translation_member(t, body, "", "messages", JSON_ARRAY, false, &messages);
    if (err != ERR_OK) return err;
    if (json_length(messages) == 0) return translation_fault(t, "messages", "must not be empty");
    translation_key(t, "messages");
    translation_open(t, '[');
    err = translate_system(t, body);
    size_t i = 0;
    for (const struct json *message = json_first(messages); message && err == ERR_OK;
         message = json_next(message), i++) {
        char path[64];
        snprintf(path, sizeof path, "messages[%zu]", i);
        err = translate_message(t, message, path);
        last = message;
    }
    translation_close(t, ']');
    return err == ERR_OK ? translate_prefill(t, last, i - 1) : err;
}

enum err messages_translate(const struct json *body, bool counting, struct json **chat, struct err_info *info)
{
    struct translation t;
    enum err err = generation_parse_object(body, info);
    if (err != ERR_OK) return err;
    translation_begin(&t, info);
    if (!counting && !api_field_given(body, "max_tokens"))
        err = translation_fault(&t, "max_tokens", "is missing");
    if (err == ERR_OK) err = translate_messages(&t, body);
    if (err == ERR_OK) err = messages_translate_fields(&t, body);
    if (err == ERR_OK) translation_copy(&t, body, "max_tokens", "max_tokens");
    if (err == ERR_OK) translation_copy_common(&t, body);
    return translation_end(&t, err, chat);
}

void messages_rename(struct err_info *info)
{
    static const struct translation_name names[] = {
        {"stop", "stop_sequences"},
        {"user", "metadata.user_id"},
        {"response_format.json_schema", "output_config.format"},
        {"response_format", "output_config.format"},
        {".function.parameters", ".input_schema"},
        {".function", ""},
        {"parallel_tool_calls", "tool_choice.disable_parallel_tool_use"},
        {"continue_final_message", "messages"},
        {"reasoning_effort", "output_config.effort"},
        {NULL, NULL},
    };
    translation_rename(names, info);
}
