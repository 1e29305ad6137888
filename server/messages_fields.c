#include "server/messages_fields.h"

#include "server/api_field.h"

#include <stdio.h>
#include <string.h>

/* --- Tools --- */

static enum err translate_tool(struct translation *t, const struct json *tool, const char *path)
{
    char place[64];
    const struct json *type = NULL, *name = NULL, *description = NULL, *schema = NULL, *strict = NULL;
    if (json_type(tool) != JSON_OBJECT)
        return translation_fault(t, path, "must be an object, not %s", json_type_name(json_type(tool)));
    enum err err = translation_member(t, tool, path, "type", JSON_STRING, true, &type);
    snprintf(place, sizeof place, "%.58s.type", path);
    if (err == ERR_OK && type && strcmp(json_string(type, NULL), "custom") != 0)
        return translation_fault(t, place, "is '%.40s'; only tools of type 'custom' are supported",
                                 json_string(type, NULL));
    if (err == ERR_OK) err = translation_member(t, tool, path, "name", JSON_STRING, false, &name);
    if (err == ERR_OK)
        err = translation_member(t, tool, path, "description", JSON_STRING, true, &description);
    if (err == ERR_OK) err = translation_member(t, tool, path, "input_schema", JSON_OBJECT, false, &schema);
    if (err == ERR_OK) err = translation_member(t, tool, path, "strict", JSON_BOOL, true, &strict);
    if (err != ERR_OK) return err;
    translation_tool(t, name, description, schema, strict);
    return ERR_OK;
}

static enum err translate_choice(struct translation *t, const struct json *body)
{
    static const char *const own[] = {"auto", "any", "none"}, *const chat[] = {"auto", "required", "none"};
    const struct json *choice = NULL, *name = NULL, *serial = NULL;
    const char *type = NULL;
    enum err err = translation_member(t, body, "", "tool_choice", JSON_OBJECT, true, &choice);
    if (err != ERR_OK || !choice) return err;
    err = translation_type(t, choice, "tool_choice", &type);
    if (err == ERR_OK)
        err = translation_member(t, choice, "tool_choice", "disable_parallel_tool_use", JSON_BOOL, true,
                                 &serial);
    if (err != ERR_OK) return err;
    if (serial) translation_bool(t, "parallel_tool_calls", !json_bool(serial));
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (strcmp(type, own[i]) == 0) {
            translation_text(t, "tool_choice", chat[i]);
            return ERR_OK;
        }
    if (strcmp(type, "tool") != 0)
        return translation_fault(t, "tool_choice.type", "is '%.40s'; it must be auto, any, tool or none",
                                 type);
    err = translation_member(t, choice, "tool_choice", "name", JSON_STRING, false, &name);
    if (err == ERR_OK) translation_choice(t, name);
    return err;
}

static enum err translate_tools(struct translation *t, const struct json *body)
{
    const struct json *tools = NULL;
    enum err err = translation_member(t, body, "", "tools", JSON_ARRAY, true, &tools);
    if (err != ERR_OK) return err;
    if (!tools) return translate_choice(t, body);
    translation_key(t, "tools");
    translation_open(t, '[');
    size_t i = 0;
    for (const struct json *tool = json_first(tools); tool && err == ERR_OK; tool = json_next(tool), i++) {
        char path[64];
        snprintf(path, sizeof path, "tools[%zu]", i);
        err = translate_tool(t, tool, path);
    }
    translation_close(t, ']');
    return err == ERR_OK ? translate_choice(t, body) : err;
}

/* --- Other fields --- */

static enum err translate_stops(struct translation *t, const struct json *body)
{
    const struct json *stops = NULL;
    enum err err = translation_member(t, body, "", "stop_sequences", JSON_ARRAY, true, &stops);
    if (err == ERR_OK && stops) translation_tree(t, "stop", stops);
    return err;
}

static enum err translate_metadata(struct translation *t, const struct json *body)
{
    const struct json *metadata = NULL, *user = NULL;
    enum err err = translation_member(t, body, "", "metadata", JSON_OBJECT, true, &metadata);
    if (err != ERR_OK || !metadata) return err;
    err = translation_member(t, metadata, "metadata", "user_id", JSON_STRING, true, &user);
    if (err == ERR_OK && user) translation_tree(t, "user", user);
    return err;
}

/* Templates that know about thinking are told whether there is to be any. How much, budget_tokens, is for the
   model to know: nothing cuts its thoughts short. */
static enum err translate_thinking(struct translation *t, const struct json *body)
{
    const struct json *thinking = NULL, *budget = NULL;
    const char *type = NULL;
    enum err err = translation_member(t, body, "", "thinking", JSON_OBJECT, true, &thinking);
    if (err != ERR_OK || !thinking) return err;
    err = translation_type(t, thinking, "thinking", &type);
    if (err == ERR_OK)
        err = translation_member(t, thinking, "thinking", "budget_tokens", JSON_NUMBER, true, &budget);
    if (err != ERR_OK) return err;
    bool disabled = strcmp(type, "disabled") == 0;
    if (!disabled && strcmp(type, "enabled") != 0 && strcmp(type, "adaptive") != 0)
        return translation_fault(t, "thinking.type", "is '%.40s'; it must be enabled, adaptive or disabled",
                                 type);
    if (api_field_given(body, "chat_template_kwargs")) return ERR_OK;
    translation_key(t, "chat_template_kwargs");
    translation_open(t, '{');
    translation_bool(t, "enable_thinking", !disabled);
    translation_close(t, '}');
    return ERR_OK;
}

static enum err translate_output(struct translation *t, const struct json *body)
{
    const struct json *config = NULL, *format = NULL, *schema = NULL, *effort = NULL;
    const char *type = NULL;
    enum err err = translation_member(t, body, "", "output_config", JSON_OBJECT, true, &config);
    if (err != ERR_OK || !config) return err;
    err = translation_member(t, config, "output_config", "effort", JSON_STRING, true, &effort);
    if (err == ERR_OK)
        err = translation_member(t, config, "output_config", "format", JSON_OBJECT, true, &format);
    if (err == ERR_OK && effort) translation_tree(t, "reasoning_effort", effort);
    if (err != ERR_OK || !format) return err;
    err = translation_type(t, format, "output_config.format", &type);
    if (err == ERR_OK && strcmp(type, "json_schema") != 0)
        return translation_fault(t, "output_config.format.type", "is '%.40s'; it must be json_schema", type);
    if (err == ERR_OK)
        err = translation_member(t, format, "output_config.format", "schema", JSON_OBJECT, false, &schema);
    if (err == ERR_OK) translation_schema(t, "output", schema, true);
    return err;
}

static enum err refuse_unsupported(const struct translation *t, const struct json *body)
{
    static const char *const names[] = {"mcp_servers", "container", "context_management", "output_format"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct json *value = api_field_given(body, names[i]);
        if (value && !(json_type(value) == JSON_ARRAY && json_length(value) == 0))
            return translation_fault(t, names[i], "is not supported");
    }
    return ERR_OK;
}

enum err messages_translate_fields(struct translation *t, const struct json *body)
{
    enum err err = refuse_unsupported(t, body);
    if (err == ERR_OK) err = translate_tools(t, body);
    if (err == ERR_OK) err = translate_stops(t, body);
    if (err == ERR_OK) err = translate_metadata(t, body);
    if (err == ERR_OK) err = translate_thinking(t, body);
    if (err == ERR_OK) err = translate_output(t, body);
    return err;
}
