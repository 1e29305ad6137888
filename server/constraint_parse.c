#include "server/constraint_internal.h"

#include "server/api_field.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/*
 * The names under which clients ask: OpenAI's response_format; vLLM's guided_* and, since they became one
 * object, structured_outputs; llama-server's grammar and json_schema. A field that would change the form in a
 * way that is not enforced here is refused.
 */

static enum err wrong_type(const char *field, const char *wanted, const struct json *value,
                           struct err_info *info)
{
    return err_set_param(info, ERR_INVALID, field, "%s must be %s, not %s", field, wanted,
                         json_type_name(json_type(value)));
}

static enum err unsupported(const char *field, struct err_info *info)
{
    return err_set_param(info, ERR_UNSUPPORTED, field, "%s is not supported", field);
}

/* Only one may ask. */
static enum err ask(struct constraint_ask *out, const char *field, enum metrics_constraint kind,
                    struct err_info *info)
{
    if (out->field)
        return err_set_param(info, ERR_INVALID, field,
                             "%s and %s are both given, but a reply can be held to one form only", out->field,
                             field);
    out->field = field;
    out->kind = kind;
    return ERR_OK;
}

/* --- Values --- */

static enum err read_schema(struct constraint_ask *out, const char *field, const struct json *value,
                            struct err_info *info)
{
    enum err err = ask(out, field, CONSTRAINT_JSON_SCHEMA, info);
    if (err == ERR_OK && json_type(value) != JSON_OBJECT)
        err = wrong_type(field, "a JSON schema, an object", value, info);
    out->value = value;
    return err;
}

/* vLLM takes a schema as a string too. */
static enum err read_schema_or_text(struct constraint_ask *out, const char *field, const struct json *value,
                                    struct err_info *info)
{
    struct err_info fault = {0};
    if (json_type(value) != JSON_STRING) return read_schema(out, field, value, info);
    struct json_limits limits = json_limits_default;
    const char *text = json_string(value, &limits.max_bytes);
    struct json *owned = NULL;
    enum err err = json_parse(text, limits.max_bytes, &limits, &owned, &fault);
    if (err != ERR_OK)
        return err_set_param(info, err, field, "%s is not JSON: %s%s%s", field, fault.param,
                             fault.param[0] ? ": " : "", fault.message);
    err = read_schema(out, field, owned, info);
    if (err == ERR_OK)
        out->owned = owned;
    else
        json_free(owned);
    return err;
}

static enum err read_text(struct constraint_ask *out, const char *field, enum metrics_constraint kind,
                          const struct json *value, struct err_info *info)
{
    enum err err = ask(out, field, kind, info);
    if (err != ERR_OK) return err;
    if (json_type(value) != JSON_STRING) return wrong_type(field, "a string", value, info);
    out->text = json_string(value, &out->length);
    return ERR_OK;
}

static enum err read_choices(struct constraint_ask *out, const char *field, const struct json *value,
                             struct err_info *info)
{
    enum err err = ask(out, field, CONSTRAINT_CHOICE, info);
    if (err != ERR_OK) return err;
    if (json_type(value) != JSON_ARRAY) return wrong_type(field, "an array of strings", value, info);
    if (json_length(value) == 0)
        return err_set_param(info, ERR_INVALID, field, "%s is empty: there is nothing to choose from", field);
    size_t i = 0;
    for (const struct json *item = json_first(value); item; item = json_next(item), i++)
        if (json_type(item) != JSON_STRING)
            return err_set_param(info, ERR_INVALID, field, "%s[%zu] must be a string, not %s", field, i,
                                 json_type_name(json_type(item)));
    out->value = value;
    return ERR_OK;
}

/* --- response_format --- */

/* As OpenAI has it. */
static enum err check_name(const struct json *wrapper, struct err_info *info)
{
    static const char field[] = "response_format.json_schema.name";
    const struct json *value = api_field_given(wrapper, "name");
    size_t length = 0;
    if (!value) return err_set_param(info, ERR_INVALID, field, "%s is missing", field);
    if (json_type(value) != JSON_STRING) return wrong_type(field, "a string", value, info);
    const char *name = json_string(value, &length);
    bool good = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == length;
    if (good && length >= 1 && length <= 64) return ERR_OK;
    return err_set_param(info, ERR_INVALID, field,
                         "%s must be 1 to 64 letters, digits, underscores and dashes", field);
}

/* A field of the object with the path's last name; NULL: any type is checked elsewhere. */
static enum err check_type(const struct json *object, const char *name, const char *field,
                           enum json_type type, struct err_info *info)
{
    const struct json *value = api_field_given(object, name);
    if (!value || json_type(value) == type) return ERR_OK;
    return wrong_type(field, json_type_name(type), value, info);
}

static enum err read_wrapper(struct constraint_ask *out, const struct json *wrapper, struct err_info *info)
{
    static const char field[] = "response_format.json_schema",
                      schema_field[] = "response_format.json_schema.schema";
    if (json_type(wrapper) != JSON_OBJECT) return wrong_type(field, "an object", wrapper, info);
    const struct json *schema = api_field_given(wrapper, "schema");
    enum err err = check_name(wrapper, info);
    if (err == ERR_OK)
        err =
            check_type(wrapper, "description", "response_format.json_schema.description", JSON_STRING, info);
    /* Not strict means that OpenAI does not promise it; a promise more does no harm. */
    if (err == ERR_OK)
        err = check_type(wrapper, "strict", "response_format.json_schema.strict", JSON_BOOL, info);
    if (err == ERR_OK && !schema)
        err = err_set_param(info, ERR_INVALID, schema_field, "%s is missing", schema_field);
    return err == ERR_OK ? read_schema(out, schema_field, schema, info) : err;
}

static enum err read_format(struct constraint_ask *out, const struct json *format, struct err_info *info)
{
    static const char field[] = "response_format", type_field[] = "response_format.type";
    if (json_type(format) != JSON_OBJECT) return wrong_type(field, "an object", format, info);
    const struct json *type = api_field_given(format, "type");
    if (!type) return err_set_param(info, ERR_INVALID, type_field, "%s is missing", type_field);
    if (json_type(type) != JSON_STRING) return wrong_type(type_field, "a string", type, info);
    const char *name = json_string(type, NULL);
    const struct json *wrapper = api_field_given(format, "json_schema");
    /* llama-server: the schema beside the type, of either kind. */
    const struct json *schema = api_field_given(format, "schema");
    if (strcmp(name, "text") == 0) return ERR_OK;
    if (strcmp(name, "json_object") == 0 && !schema) return ask(out, field, CONSTRAINT_JSON_OBJECT, info);
    if (strcmp(name, "json_object") == 0 || (strcmp(name, "json_schema") == 0 && schema && !wrapper))
        return read_schema(out, "response_format.schema", schema, info);
    if (strcmp(name, "json_schema") == 0 && !wrapper)
        return err_set_param(info, ERR_INVALID, "response_format.json_schema",
                             "response_format.json_schema is missing");
    if (strcmp(name, "json_schema") == 0) return read_wrapper(out, wrapper, info);
    if (strcmp(name, "structural_tag") == 0)
        return err_set_param(info, ERR_UNSUPPORTED, type_field, "%s structural_tag is not supported",
                             type_field);
    return err_set_param(info, ERR_INVALID, type_field,
                         "%s '%.40s' is unknown; text, json_object and json_schema are taken", type_field,
                         name);
}

/* --- structured_outputs --- */

static enum err refuse_true(const struct json *object, const char *name, const char *field,
                            struct err_info *info)
{
    const struct json *value = api_field_given(object, name);
    if (!value) return ERR_OK;
    if (json_type(value) != JSON_BOOL) return wrong_type(field, "a boolean", value, info);
    return json_bool(value) ? unsupported(field, info) : ERR_OK;
}

static enum err read_structured(struct constraint_ask *out, const struct json *object, struct err_info *info)
{
    static const char field[] = "structured_outputs";
    if (json_type(object) != JSON_OBJECT) return wrong_type(field, "an object", object, info);
    enum err err = ERR_OK;
    const struct json *value;
    const char *before = out->field;
    if (api_field_given(object, "structural_tag"))
        return unsupported("structured_outputs.structural_tag", info);
    if (api_field_given(object, "whitespace_pattern"))
        return unsupported("structured_outputs.whitespace_pattern", info);
    err = refuse_true(object, "disable_any_whitespace", "structured_outputs.disable_any_whitespace", info);
    if (err == ERR_OK)
        err = refuse_true(object, "disable_additional_properties",
                          "structured_outputs.disable_additional_properties", info);
    if (err == ERR_OK && (value = api_field_given(object, "json")))
        err = read_schema_or_text(out, "structured_outputs.json", value, info);
    if (err == ERR_OK && (value = api_field_given(object, "regex")))
        err = read_text(out, "structured_outputs.regex", CONSTRAINT_REGEX, value, info);
    if (err == ERR_OK && (value = api_field_given(object, "choice")))
        err = read_choices(out, "structured_outputs.choice", value, info);
    if (err == ERR_OK && (value = api_field_given(object, "grammar")))
        err = read_text(out, "structured_outputs.grammar", CONSTRAINT_GRAMMAR, value, info);
    if (err == ERR_OK && (value = api_field_given(object, "json_object"))) {
        if (json_type(value) != JSON_BOOL)
            err = wrong_type("structured_outputs.json_object", "a boolean", value, info);
        else if (json_bool(value))
            err = ask(out, "structured_outputs.json_object", CONSTRAINT_JSON_OBJECT, info);
    }
    if (err == ERR_OK && out->field == before)
        err = err_set_param(info, ERR_INVALID, field,
                            "%s must have one of json, regex, choice, grammar and json_object", field);
    return err;
}

/* --- The body --- */

static enum err refuse_unsupported(const struct json *body, struct err_info *info)
{
    static const char *const names[] = {"guided_options", "guided_whitespace_pattern", "structural_tag",
                                        "grammar_triggers"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (api_field_given(body, names[i])) return unsupported(names[i], info);
    return refuse_true(body, "grammar_lazy", "grammar_lazy", info);
}

enum err constraint_parse(const struct json *body, struct constraint_ask *out, struct err_info *info)
{
    struct constraint_ask found = {0};
    const struct json *value;
    enum err err = refuse_unsupported(body, info);
    if (err == ERR_OK && (value = api_field_given(body, "response_format")))
        err = read_format(&found, value, info);
    if (err == ERR_OK && (value = api_field_given(body, "structured_outputs")))
        err = read_structured(&found, value, info);
    if (err == ERR_OK && (value = api_field_given(body, "guided_json")))
        err = read_schema_or_text(&found, "guided_json", value, info);
    if (err == ERR_OK && (value = api_field_given(body, "guided_regex")))
        err = read_text(&found, "guided_regex", CONSTRAINT_REGEX, value, info);
    if (err == ERR_OK && (value = api_field_given(body, "guided_choice")))
        err = read_choices(&found, "guided_choice", value, info);
    if (err == ERR_OK && (value = api_field_given(body, "guided_grammar")))
        err = read_text(&found, "guided_grammar", CONSTRAINT_GRAMMAR, value, info);
    if (err == ERR_OK && (value = api_field_given(body, "json_schema")))
        err = read_schema(&found, "json_schema", value, info);
    /* llama-server's clients send "" for none. */
    value = api_field_given(body, "grammar");
    if (err == ERR_OK && value && !(json_type(value) == JSON_STRING && json_string(value, NULL)[0] == '\0'))
        err = read_text(&found, "grammar", CONSTRAINT_GRAMMAR, value, info);
    if (err == ERR_OK)
        *out = found;
    else
        json_free(found.owned);
    return err;
}
