#include "server/api_field.h"
#include "server/chat.h"
#include "server/tools.h"

#include <stdio.h>
#include <string.h>

/*
 * messages[] of a request as values for the template. A message keeps every field it has; role, content and
 * the arguments of tool calls are checked and brought into the form that templates expect.
 */
struct reader {
    struct arena *arena;
    const struct chat_template *chat;
    struct err_info *info;
    char path[64]; /* of what is being read, for errors */
};

static enum err fail(const struct reader *reader, const char *field, const char *what)
{
    return err_set_param(reader->info, ERR_INVALID, field, "%s %s", field, what);
}

static enum err no_room(const struct reader *reader)
{
    return err_set_param(reader->info, ERR_LIMIT, "messages", "messages are larger than one request may be");
}

/* The path of a field of what is being read. */
static const char *below(const struct reader *reader, const char *field, char out[64])
{
    snprintf(out, 64, "%.40s.%.20s", reader->path, field);
    return out;
}

/* --- Content --- */

/* A list of text parts; *length: bytes of the texts with a newline between. */
static enum err check_parts(const struct reader *reader, const struct json *parts, size_t *length)
{
    size_t i = 0, size;
    char path[64];
    *length = 0;
    for (const struct json *part = json_first(parts); part; part = json_next(part), i++) {
        const struct json *type = json_get(part, "type"), *text = json_get(part, "text");
        snprintf(path, sizeof path, "%.30s.content[%zu]", reader->path, i);
        if (json_type(part) != JSON_OBJECT) return fail(reader, path, "must be an object with a type");
        snprintf(path, sizeof path, "%.30s.content[%zu].type", reader->path, i);
        if (!type || json_type(type) != JSON_STRING) return fail(reader, path, "must be a string");
        if (strcmp(json_string(type, NULL), "text") != 0)
            return err_set_param(reader->info, ERR_INVALID, path,
                                 "%s is '%.40s'; only parts of type 'text' are supported", path,
                                 json_string(type, NULL));
        snprintf(path, sizeof path, "%.30s.content[%zu].text", reader->path, i);
        if (!text || json_type(text) != JSON_STRING) return fail(reader, path, "must be a string");
        json_string(text, &size);
        *length += size + (i > 0);
    }
    return ERR_OK;
}

/* For templates that only know strings: the parts as lines. */
static bool join_parts(const struct reader *reader, const struct json *parts, size_t length,
                       struct jinja_value *out)
{
    char *joined = arena_alloc(reader->arena, length, 1), *at = joined;
    if (!joined) return false;
    for (const struct json *part = json_first(parts); part; part = json_next(part)) {
        size_t size;
        const char *text = json_string(json_get(part, "text"), &size);
        if (part != json_first(parts)) *at++ = '\n';
        memcpy(at, text, size);
        at += size;
    }
    *out = jinja_value_string(joined, length, false);
    return true;
}

/* For templates that only know parts: the string as one. */
static bool wrap_text(const struct reader *reader, const struct json *text, struct jinja_value *out)
{
    struct jinja_value part = jinja_value_dict(reader->arena, 2);
    *out = jinja_value_list(reader->arena, JINJA_LIST_PLAIN, 1);
    if (part.type == JINJA_MISSING || out->type == JINJA_MISSING) return false;
    out->list->items[0] = part;
    return jinja_value_put_name(reader->arena, part.dict, "type", jinja_value_string("text", 4, true)) &&
           jinja_value_put_name(reader->arena, part.dict, "text", jinja_value_json(reader->arena, text));
}

static enum err read_content(const struct reader *reader, const struct json *message, bool optional,
                             struct jinja_dict *out)
{
    char path[64];
    const struct json *content = api_field_given(message, "content");
    below(reader, "content", path);
    if (!content) return optional ? ERR_OK : fail(reader, path, "is missing");
    enum json_type type = json_type(content);
    if (type != JSON_STRING && type != JSON_ARRAY)
        return err_set_param(reader->info, ERR_INVALID, path,
                             "%s must be a string or an array of parts, not %s", path, json_type_name(type));
    size_t length = 0;
    if (type == JSON_ARRAY) {
        if (json_length(content) == 0) return fail(reader, path, "must have at least one part");
        enum err err = check_parts(reader, content, &length);
        if (err != ERR_OK) return err;
    }
    struct jinja_value value;
    bool made = true;
    if (type == JSON_ARRAY && !reader->chat->takes_parts)
        made = join_parts(reader, content, length, &value);
    else if (type == JSON_STRING && !reader->chat->takes_text)
        made = wrap_text(reader, content, &value);
    else
        return ERR_OK; /* it is there already as it should be */
    return made && jinja_value_put_name(reader->arena, out, "content", value) ? ERR_OK : no_room(reader);
}

/* --- Tool calls --- */

/* Copies the strings of a value whose JSON tree will go. */
static bool own_strings(struct arena *arena, struct jinja_value *value)
{
    if (value->type == JINJA_STRING) {
        value->text.bytes = arena_copy(arena, value->text.bytes, value->text.length);
        return value->text.bytes != NULL;
    }
    if (value->type == JINJA_LIST)
        for (size_t i = 0; i < value->list->n; i++)
            if (!own_strings(arena, &value->list->items[i])) return false;
    if (value->type == JINJA_DICT)
        for (size_t i = 0; i < value->dict->n; i++)
            if (!own_strings(arena, &value->dict->pairs[i].key) ||
                !own_strings(arena, &value->dict->pairs[i].value))
                return false;
    return value->type != JINJA_MISSING;
}

/* The arguments are a string with JSON inside; templates want what it says. */
static enum err read_arguments(const struct reader *reader, const struct json *arguments, const char *path,
                               struct jinja_value *out)
{
    size_t length;
    struct json *tree = NULL;
    if (json_type(arguments) == JSON_OBJECT) return ERR_OK;
    const char *text = json_type(arguments) == JSON_STRING ? json_string(arguments, &length) : NULL;
    if (!text) return fail(reader, path, "must be a string with a JSON object in it");
    if (length == 0) {
        *out = jinja_value_dict(reader->arena, 0);
        return out->type == JINJA_MISSING ? no_room(reader) : ERR_OK;
    }
    if (json_parse(text, length, &json_limits_default, &tree, NULL) != ERR_OK ||
        json_type(tree) != JSON_OBJECT) {
        json_free(tree);
        return fail(reader, path, "must be a string with a JSON object in it");
    }
    *out = jinja_value_json(reader->arena, tree);
    bool made = own_strings(reader->arena, out);
    json_free(tree);
    return made ? ERR_OK : no_room(reader);
}

static struct jinja_value *member(struct jinja_value *dict, const char *name)
{
    return (struct jinja_value *)jinja_value_get_name(dict->dict, name);
}

static enum err read_calls(const struct reader *reader, const struct json *calls, struct jinja_value *values)
{
    char path[64];
    size_t i = 0;
    for (const struct json *call = json_first(calls); call; call = json_next(call), i++) {
        const struct json *function = json_get(call, "function");
        snprintf(path, sizeof path, "%.24s.tool_calls[%zu].function", reader->path, i);
        if (json_type(call) != JSON_OBJECT || !function || json_type(function) != JSON_OBJECT)
            return fail(reader, path, "must be an object");
        const struct json *name = json_get(function, "name"), *arguments = json_get(function, "arguments");
        snprintf(path, sizeof path, "%.24s.tool_calls[%zu].function.name", reader->path, i);
        if (!name || json_type(name) != JSON_STRING) return fail(reader, path, "must be a string");
        snprintf(path, sizeof path, "%.24s.tool_calls[%zu].function.arguments", reader->path, i);
        if (!arguments) return fail(reader, path, "is missing");
        struct jinja_value *into = member(member(&values->list->items[i], "function"), "arguments");
        enum err err = read_arguments(reader, arguments, path, into);
        if (err != ERR_OK) return err;
    }
    return ERR_OK;
}

/* No calls is what null and an empty list say (clients send back a whole message of ours); templates ask
   only whether the field is there. */
static void forget_no_calls(struct jinja_dict *message)
{
    for (size_t i = 0; i < message->n; i++) {
        struct jinja_pair *pair = &message->pairs[i];
        bool none =
            pair->value.type == JINJA_NONE || (pair->value.type == JINJA_LIST && pair->value.list->n == 0);
        if (!none || !jinja_value_is_text(&pair->key, "tool_calls")) continue;
        memmove(pair, pair + 1, (--message->n - i) * sizeof *pair);
        return;
    }
}

/* Templates that know no calls want a text in every message; beside calls there may be none. */
static bool fill_content(const struct reader *reader, struct jinja_dict *message)
{
    const struct jinja_value *content = jinja_value_get_name(message, "content");
    bool given = content && content->type != JINJA_NONE;
    if (given || strstr(reader->chat->source, "tool_calls")) return true;
    return jinja_value_put_name(reader->arena, message, "content", jinja_value_string("", 0, true));
}

/* --- Messages --- */

/* Older names of an assistant's reasoning, as apply_chat_template has them: whichever is given is also found
   as reasoning_content, and as thinking. */
static bool alias_reasoning(const struct reader *reader, struct jinja_dict *message)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    for (size_t i = 0; i < 3; i++) {
        const struct jinja_value *given = jinja_value_get_name(message, names[i]);
        if (!given || given->type == JINJA_NONE) continue;
        struct jinja_value reasoning = *given;
        return jinja_value_put_name(reader->arena, message, "reasoning_content", reasoning) &&
               (jinja_value_get_name(message, "thinking") ||
                jinja_value_put_name(reader->arena, message, "thinking", reasoning));
    }
    return true;
}

static enum err read_role(const struct reader *reader, const struct json *message, const char **out)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    char path[64];
    const struct json *role = json_get(message, "role");
    below(reader, "role", path);
    if (!role || json_type(role) != JSON_STRING) return fail(reader, path, "must be a string");
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(json_string(role, NULL), roles[i]) == 0) {
            *out = roles[i];
            return ERR_OK;
        }
    return err_set_param(reader->info, ERR_INVALID, path,
                         "%s is '%.40s'; it must be system, developer, user, assistant or tool", path,
                         json_string(role, NULL));
}

static enum err check_text(const struct reader *reader, const struct json *message, const char *field,
                           bool needed)
{
    char path[64];
    const struct json *value = api_field_given(message, field);
    if (value ? json_type(value) == JSON_STRING : !needed) return ERR_OK;
    return fail(reader, below(reader, field, path), value ? "must be a string" : "is missing");
}

static enum err read_message(const struct reader *reader, const struct json *message, struct jinja_value *out)
{
    char path[64];
    const char *role = NULL;
    if (json_type(message) != JSON_OBJECT) return fail(reader, reader->path, "must be an object");
    *out = jinja_value_json(reader->arena, message);
    if (out->type == JINJA_MISSING) return no_room(reader);
    enum err err = read_role(reader, message, &role);
    if (err != ERR_OK) return err;
    bool assistant = strcmp(role, "assistant") == 0;
    const struct json *calls = api_field_given(message, "tool_calls");
    if (calls && (!assistant || json_type(calls) != JSON_ARRAY))
        return fail(reader, below(reader, "tool_calls", path),
                    assistant ? "must be an array" : "is only for messages of the role assistant");
    err = read_content(reader, message, assistant && calls, out->dict);
    if (err == ERR_OK) err = check_text(reader, message, "name", false);
    if (err == ERR_OK) err = check_text(reader, message, "tool_call_id", strcmp(role, "tool") == 0);
    if (err == ERR_OK && calls) err = read_calls(reader, calls, member(out, "tool_calls"));
    if (err != ERR_OK) return err;
    forget_no_calls(out->dict);
    if (strcmp(role, "developer") == 0 && !reader->chat->knows_developer) role = "system";
    /* One of our own words: templates build control tokens from it. */
    bool made = jinja_value_put_name(reader->arena, out->dict, "role",
                                     jinja_value_string(role, strlen(role), true)) &&
                fill_content(reader, out->dict) && alias_reasoning(reader, out->dict);
    return made ? ERR_OK : no_room(reader);
}

static enum err read_messages(const struct json *body, const struct chat_template *chat, struct arena *arena,
                              struct jinja_value *out, struct err_info *info)
{
    struct reader reader = {.arena = arena, .chat = chat, .info = info, .path = "messages"};
    const struct json *messages = api_field_given(body, "messages");
    if (!messages) return fail(&reader, "messages", "is missing");
    if (json_type(messages) != JSON_ARRAY || json_length(messages) == 0)
        return fail(&reader, "messages", "must be a non-empty array of messages");
    *out = jinja_value_list(arena, JINJA_LIST_PLAIN, json_length(messages));
    if (out->type == JINJA_MISSING) return no_room(&reader);
    size_t i = 0;
    for (const struct json *message = json_first(messages); message; message = json_next(message), i++) {
        snprintf(reader.path, sizeof reader.path, "messages[%zu]", i);
        enum err err = read_message(&reader, message, &out->list->items[i]);
        if (err != ERR_OK) return err;
    }
    return ERR_OK;
}

/* --- What else the template gets --- */

/* An array of objects; *out stays as it was when it is not given. */
static enum err read_objects(const struct json *body, const char *name, struct arena *arena,
                             struct jinja_value *out, struct err_info *info)
{
    const struct json *array = api_field_given(body, name);
    if (!array) return ERR_OK;
    bool right = json_type(array) == JSON_ARRAY;
    for (const struct json *item = json_first(array); right && item; item = json_next(item))
        right = json_type(item) == JSON_OBJECT;
    if (!right) return err_set_param(info, ERR_INVALID, name, "%s must be an array of objects", name);
    if (json_length(array) == 0) return ERR_OK;
    *out = jinja_value_json(arena, array);
    if (out->type == JINJA_MISSING)
        return err_set_param(info, ERR_LIMIT, name, "%s is larger than one request may be", name);
    return ERR_OK;
}

/* With tool_choice "none" too the template gets the tools, as in vLLM: the prompt of a conversation stays the
   same (and cached) whether or not its next answer may call. Models that would have to be told in words are
   told only of tools that they may call. */
static enum err read_tools(const struct json *body, const struct chat_template *chat, struct arena *arena,
                           struct chat_input *out, struct err_info *info)
{
    struct tools tools;
    enum err err = tools_parse(body, tools_style_of(chat), arena, &tools, info);
    if (err == ERR_OK) err = read_objects(body, "tools", arena, &out->tools, info);
    if (err == ERR_OK && tools_offered(&tools)) err = tools_prompt(tools.style, chat, arena, out, info);
    return err;
}

enum err chat_check_variables(const struct json *given, struct err_info *info)
{
    static const char *const taken[] = {"messages",  "tools",     "documents",
                                        "bos_token", "eos_token", "add_generation_prompt"};
    if (json_type(given) != JSON_OBJECT)
        return err_set_param(info, ERR_INVALID, "chat_template_kwargs",
                             "chat_template_kwargs must be an object, not %s",
                             json_type_name(json_type(given)));
    for (const struct json *item = json_first(given); item; item = json_next(item))
        for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
            if (strcmp(json_key(item), taken[i]) == 0)
                return err_set_param(info, ERR_INVALID, "chat_template_kwargs",
                                     "chat_template_kwargs may not set '%s'", taken[i]);
    return ERR_OK;
}

/* Of two variables of one name the later one counts: the server's come first, then the request's. */
static enum err read_variables(const struct json *body, const struct json *defaults, struct arena *arena,
                               struct chat_input *out, struct err_info *info)
{
    const struct json *given = api_field_given(body, "chat_template_kwargs");
    const struct json *both[] = {defaults, given};
    const char *effort = NULL;
    enum err err = api_field_string(body, "reasoning_effort", &effort, info);
    if (err == ERR_OK && given) err = chat_check_variables(given, info);
    if (err != ERR_OK) return err;
    size_t n = 1;
    for (int i = 0; i < 2; i++) n += both[i] ? json_length(both[i]) : 0;
    struct jinja_variable *variables = arena_alloc(arena, n, sizeof *variables);
    if (!variables)
        return err_set_param(info, ERR_LIMIT, "chat_template_kwargs",
                             "chat_template_kwargs has too many members");
    int count = 0;
    for (int i = 0; i < 2; i++) {
        if (i == 1 && effort)
            variables[count++] = (struct jinja_variable){"reasoning_effort",
                                                         jinja_value_string(effort, strlen(effort), false)};
        for (const struct json *item = both[i] ? json_first(both[i]) : NULL; item; item = json_next(item)) {
            variables[count] = (struct jinja_variable){json_key(item), jinja_value_json(arena, item)};
            if (variables[count++].value.type == JINJA_MISSING)
                return err_set_param(info, ERR_LIMIT, "chat_template_kwargs",
                                     "chat_template_kwargs is too large");
        }
    }
    out->variables = variables;
    out->n_variables = count;
    return ERR_OK;
}

static enum err read_flags(const struct json *body, struct chat_conversation *out, struct err_info *info)
{
    enum err err = api_field_bool(body, "continue_final_message", &out->continue_final_message, info);
    out->input.add_generation_prompt = !out->continue_final_message;
    if (err == ERR_OK)
        err = api_field_bool(body, "add_generation_prompt", &out->input.add_generation_prompt, info);
    if (err == ERR_OK) err = api_field_bool(body, "add_special_tokens", &out->add_special_tokens, info);
    if (err == ERR_OK && out->continue_final_message && out->input.add_generation_prompt)
        return err_set_param(info, ERR_INVALID, "continue_final_message",
                             "continue_final_message and add_generation_prompt cannot both be true");
    const struct jinja_list *messages = out->input.messages.list;
    if (err == ERR_OK && out->continue_final_message &&
        jinja_value_get_name(messages->items[messages->n - 1].dict, "tool_calls"))
        return err_set_param(info, ERR_INVALID, "continue_final_message",
                             "continue_final_message: the last message calls tools; its text cannot go on");
    return err;
}

enum err chat_parse_conversation(const struct json *body, const struct chat_template *chat,
                                 struct arena *arena, struct chat_conversation *out, struct err_info *info)
{
    struct jinja_value missing = {.type = JINJA_MISSING};
    /* A template says itself where BOS belongs; ChatML, which stands in for none, does not. */
    struct chat_conversation conversation = {.input = {.tools = missing, .documents = missing},
                                             .add_special_tokens = chat->is_fallback};
    enum err err = read_messages(body, chat, arena, &conversation.input.messages, info);
    if (err == ERR_OK) err = read_objects(body, "documents", arena, &conversation.input.documents, info);
    if (err == ERR_OK) err = read_variables(body, chat->variables, arena, &conversation.input, info);
    if (err == ERR_OK) err = read_flags(body, &conversation, info);
    if (err == ERR_OK) err = read_tools(body, chat, arena, &conversation.input, info);
    if (err == ERR_OK) *out = conversation;
    return err;
}
