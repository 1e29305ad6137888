#include "server/tools.h"

#include "server/api_field.h"

#include <stdio.h>
#include <string.h>

/* One parse under way. */
struct reader {
    const struct json *body;
    struct arena *arena;
    struct err_info *info;
};

static enum err fail(const struct reader *reader, const char *field, const char *what)
{
    return err_set_param(reader->info, ERR_INVALID, field, "%s %s", field, what);
}

static enum err wrong_type(const struct reader *reader, const char *field, const char *wanted,
                           const struct json *given)
{
    return err_set_param(reader->info, ERR_INVALID, field, "%s must be %s, not %s", field, wanted,
                         json_type_name(json_type(given)));
}

static enum err no_room(const struct reader *reader)
{
    return err_set_param(reader->info, ERR_LIMIT, "tools", "tools are larger than one request may be");
}

/* A member that must be a string; field is its whole path. */
static enum err read_string(const struct reader *reader, const struct json *object, const char *name,
                            const char *field, const char **out)
{
    const struct json *value = api_field_given(object, name);
    if (!value) return fail(reader, field, "is missing");
    if (json_type(value) != JSON_STRING) return wrong_type(reader, field, "a string", value);
    *out = json_string(value, NULL);
    return ERR_OK;
}

/* --- tools --- */

static bool is_name(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    size_t length = strspn(name, letters);
    return length >= 1 && length <= TOOLS_MAX_NAME && name[length] == '\0';
}

static struct tool *find(const struct tools *tools, const char *name)
{
    for (int i = 0; i < tools->n; i++)
        if (strcmp(tools->list[i].name, name) == 0) return &tools->list[i];
    return NULL;
}

static enum err read_parameters(const struct reader *reader, const struct json *function, const char *path,
                                struct tool *out)
{
    char field[64];
    snprintf(field, sizeof field, "%.30s.parameters", path);
    const struct json *parameters = api_field_given(function, "parameters");
    if (!parameters) return ERR_OK;
    if (json_type(parameters) != JSON_OBJECT)
        return wrong_type(reader, field, "a JSON schema (an object)", parameters);
    const struct json *type = json_get(parameters, "type");
    if (type && (json_type(type) != JSON_STRING || strcmp(json_string(type, NULL), "object") != 0)) {
        snprintf(field, sizeof field, "%.30s.parameters.type", path);
        return fail(reader, field, "must be 'object': arguments of a function are an object");
    }
    if (json_length(parameters) > 0) out->parameters = parameters;
    return ERR_OK;
}

static enum err read_function(const struct reader *reader, const struct json *function, const char *path,
                              const struct tools *before, struct tool *out)
{
    char field[64];
    const char *description = NULL;
    snprintf(field, sizeof field, "%.30s.name", path);
    enum err err = read_string(reader, function, "name", field, &out->name);
    if (err != ERR_OK) return err;
    if (!is_name(out->name))
        return err_set_param(reader->info, ERR_INVALID, field,
                             "%s is '%.80s'; it must be 1 to %d of the characters a-z, A-Z, 0-9, _ and -",
                             field, out->name, TOOLS_MAX_NAME);
    if (find(before, out->name))
        return err_set_param(reader->info, ERR_INVALID, field, "%s: there is a tool named '%s' already",
                             field, out->name);
    snprintf(field, sizeof field, "%.30s.description", path);
    if (api_field_given(function, "description"))
        err = read_string(reader, function, "description", field, &description);
    if (err == ERR_OK) err = read_parameters(reader, function, path, out);
    const struct json *strict = api_field_given(function, "strict");
    snprintf(field, sizeof field, "%.30s.strict", path);
    if (err == ERR_OK && strict && json_type(strict) != JSON_BOOL)
        return wrong_type(reader, field, "a boolean", strict);
    out->strict = strict && err == ERR_OK && json_bool(strict);
    return err;
}

static enum err read_tool(const struct reader *reader, const struct json *tool, const struct tools *before,
                          struct tool *out)
{
    char path[64];
    const char *type = NULL;
    snprintf(path, sizeof path, "tools[%d]", before->n);
    if (json_type(tool) != JSON_OBJECT) return wrong_type(reader, path, "an object", tool);
    snprintf(path, sizeof path, "tools[%d].type", before->n);
    enum err err = read_string(reader, tool, "type", path, &type);
    if (err != ERR_OK) return err;
    if (strcmp(type, "function") != 0)
        return err_set_param(reader->info, ERR_INVALID, path,
                             "%s is '%.40s'; only tools of type 'function' are supported", path, type);
    snprintf(path, sizeof path, "tools[%d].function", before->n);
    const struct json *function = api_field_given(tool, "function");
    if (!function) return fail(reader, path, "is missing");
    if (json_type(function) != JSON_OBJECT) return wrong_type(reader, path, "an object", function);
    *out = (struct tool){.index = before->n};
    return read_function(reader, function, path, before, out);
}

static enum err read_tools(const struct reader *reader, struct tools *out)
{
    const struct json *tools = api_field_given(reader->body, "tools");
    if (!tools) return ERR_OK;
    if (json_type(tools) != JSON_ARRAY) return wrong_type(reader, "tools", "an array of tools", tools);
    size_t n = json_length(tools);
    if (n > TOOLS_MAX)
        return err_set_param(reader->info, ERR_INVALID, "tools",
                             "tools has %zu entries, at most %d are taken", n, TOOLS_MAX);
    if (n == 0) return ERR_OK;
    out->list = arena_alloc(reader->arena, n, sizeof *out->list);
    if (!out->list) return no_room(reader);
    for (const struct json *tool = json_first(tools); tool; tool = json_next(tool)) {
        enum err err = read_tool(reader, tool, out, &out->list[out->n]);
        if (err != ERR_OK) return err;
        out->n++;
    }
    return ERR_OK;
}

/* --- tool_choice --- */

/* {"type":"function","function":{"name":...}} or {"type":"function","name":...}; path: of this object. */
static enum err read_named(const struct reader *reader, const struct json *object, const char *path,
                           const struct tools *tools, struct tool **out)
{
    char field[64];
    const char *name = NULL;
    const struct json *function = api_field_given(object, "function");
    bool flat = !function && api_field_given(object, "name");
    snprintf(field, sizeof field, flat ? "%.40s" : "%.40s.function", path);
    if (!flat && !function) return fail(reader, field, "is missing");
    if (!flat && json_type(function) != JSON_OBJECT)
        return wrong_type(reader, field, "an object with a name", function);
    snprintf(field, sizeof field, flat ? "%.40s.name" : "%.40s.function.name", path);
    enum err err = read_string(reader, flat ? object : function, "name", field, &name);
    if (err != ERR_OK) return err;
    *out = find(tools, name);
    if (*out) return ERR_OK;
    return err_set_param(reader->info, ERR_INVALID, field,
                         "%s: there is no tool named '%.80s' among the tools", field, name);
}

static enum err read_mode(const struct reader *reader, const struct json *object, const char *field,
                          enum tools_choice *out)
{
    const char *mode = NULL;
    enum err err = read_string(reader, object, "mode", field, &mode);
    if (err != ERR_OK) return err;
    if (strcmp(mode, "auto") != 0 && strcmp(mode, "required") != 0)
        return err_set_param(reader->info, ERR_INVALID, field, "%s is '%.40s'; it must be auto or required",
                             field, mode);
    *out = strcmp(mode, "auto") == 0 ? TOOLS_AUTO : TOOLS_REQUIRED;
    return ERR_OK;
}

/* Only some of the tools may be called; all are shown to the model. */
static enum err read_allowed(const struct reader *reader, const struct json *choice, struct tools *out)
{
    char path[64];
    const struct json *allowed = api_field_given(choice, "allowed_tools");
    const char *at = allowed ? "tool_choice.allowed_tools" : "tool_choice";
    if (allowed && json_type(allowed) != JSON_OBJECT) return wrong_type(reader, at, "an object", allowed);
    if (!allowed) allowed = choice;
    snprintf(path, sizeof path, "%s.mode", at);
    enum err err = read_mode(reader, allowed, path, &out->choice);
    if (err != ERR_OK) return err;
    const struct json *names = api_field_given(allowed, "tools");
    snprintf(path, sizeof path, "%s.tools", at);
    if (!names || json_type(names) != JSON_ARRAY || json_length(names) == 0)
        return fail(reader, path, "must be a non-empty array of tools");
    bool is_allowed[TOOLS_MAX] = {false};
    int i = 0, n = 0;
    for (const struct json *name = json_first(names); name; name = json_next(name), i++) {
        struct tool *tool;
        snprintf(path, sizeof path, "%s.tools[%d]", at, i);
        if (json_type(name) != JSON_OBJECT) return wrong_type(reader, path, "an object", name);
        err = read_named(reader, name, path, out, &tool);
        if (err != ERR_OK) return err;
        is_allowed[tool->index] = true;
    }
    for (i = 0; i < out->n; i++)
        if (is_allowed[i]) out->list[n++] = out->list[i];
    out->n = n;
    return ERR_OK;
}

static enum err read_choice_object(const struct reader *reader, const struct json *choice, struct tools *out)
{
    const char *type = NULL;
    enum err err = read_string(reader, choice, "type", "tool_choice.type", &type);
    if (err != ERR_OK) return err;
    if (strcmp(type, "allowed_tools") == 0) return read_allowed(reader, choice, out);
    if (strcmp(type, "function") != 0)
        return err_set_param(reader->info, ERR_INVALID, "tool_choice.type",
                             "tool_choice.type is '%.40s'; it must be function or allowed_tools", type);
    struct tool *tool;
    err = read_named(reader, choice, "tool_choice", out, &tool);
    if (err != ERR_OK) return err;
    out->choice = TOOLS_NAMED;
    out->named = tool->name;
    return ERR_OK;
}

static enum err read_choice(const struct reader *reader, struct tools *out)
{
    static const char *const names[] = {
        [TOOLS_AUTO] = "auto", [TOOLS_NONE] = "none", [TOOLS_REQUIRED] = "required"};
    const struct json *choice = api_field_given(reader->body, "tool_choice");
    if (!choice) return ERR_OK;
    bool word = json_type(choice) == JSON_STRING;
    if (!word && json_type(choice) != JSON_OBJECT)
        return wrong_type(reader, "tool_choice", "a string or an object", choice);
    bool none = word && strcmp(json_string(choice, NULL), "none") == 0;
    if (out->n == 0 && !none) return fail(reader, "tool_choice", "is only allowed when there are tools");
    if (!word) return read_choice_object(reader, choice, out);
    for (int i = 0; i < (int)(sizeof names / sizeof names[0]); i++)
        if (strcmp(json_string(choice, NULL), names[i]) == 0) {
            out->choice = (enum tools_choice)i;
            return ERR_OK;
        }
    return err_set_param(reader->info, ERR_INVALID, "tool_choice",
                         "tool_choice is '%.40s'; it must be none, auto, required or an object that names a "
                         "function",
                         json_string(choice, NULL));
}

enum err tools_parse(const struct json *body, enum tools_style style, struct arena *arena, struct tools *out,
                     struct err_info *info)
{
    struct reader reader = {.body = body, .arena = arena, .info = info};
    struct tools tools = {.style = style, .parallel = true};
    enum err err = read_tools(&reader, &tools);
    if (err == ERR_OK) err = read_choice(&reader, &tools);
    if (err == ERR_OK) err = api_field_bool(body, "parallel_tool_calls", &tools.parallel, info);
    if (err == ERR_OK) *out = tools;
    return err;
}

bool tools_offered(const struct tools *tools)
{
    return tools && tools->n > 0 && tools->choice != TOOLS_NONE;
}
