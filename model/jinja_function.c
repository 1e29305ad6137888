#include "model/jinja_builtin.h"

#include <string.h>

/*
 * Functions that every template sees.
 */
#define FUNCTION(name)                                                                                       \
    static struct jinja_value name(struct jinja_run *run, const struct jinja_arguments *arguments)

FUNCTION(function_raise_exception)
{
    static const char *const names[] = {"message", NULL};
    struct jinja_value message;
    if (!jinja_bind(run, "raise_exception()", arguments, names, &message)) return message;
    message = jinja_str(run, message);
    if (jinja_failed(run)) return message;
    run->err = err_set(run->info, ERR_INVALID, "%.*s", (int)message.text.length, message.text.bytes);
    return message;
}

FUNCTION(function_strftime_now)
{
    static const char *const names[] = {"format", NULL};
    struct jinja_value format;
    char pattern[256], text[1024];
    struct tm now;
    if (!jinja_bind(run, "strftime_now()", arguments, names, &format)) return format;
    if (format.type != JINJA_STRING) return jinja_fail(run, "strftime_now() wants a string");
    if (format.text.length >= sizeof pattern)
        return jinja_fail(run, "strftime_now(): the format is too long");
    memcpy(pattern, format.text.bytes, format.text.length);
    pattern[format.text.length] = '\0';
    localtime_r(&run->now, &now);
    size_t length = strftime(text, sizeof text, pattern, &now);
    struct jinja_builder out;
    jinja_build(run, &out);
    jinja_builder_bytes(&out, text, length);
    return jinja_built(run, &out);
}

FUNCTION(function_range)
{
    int64_t bounds[3] = {0, 0, 1};
    if (arguments->n < 1 || arguments->n > 3 || arguments->n_named > 0)
        return jinja_fail(run, "range() takes 1 to 3 numbers");
    for (size_t i = 0; i < arguments->n; i++) {
        const struct jinja_value *value = &arguments->values[i];
        if (value->type != JINJA_INT && value->type != JINJA_BOOL)
            return jinja_fail(run, "'%s' object cannot be interpreted as an integer",
                              jinja_value_type(value));
        bounds[arguments->n == 1 ? 1 : i] = value->type == JINJA_INT ? value->integer : value->boolean;
    }
    int64_t start = bounds[0], stop = bounds[1], step = bounds[2], span;
    if (step == 0) return jinja_fail(run, "range() arg 3 must not be zero");
    if (__builtin_sub_overflow(step > 0 ? stop : start, step > 0 ? start : stop, &span) || step == INT64_MIN)
        return jinja_fail(run, "range(): the numbers are too large");
    int64_t size = step > 0 ? step : -step;
    int64_t n = span > 0 ? (span - 1) / size + 1 : 0;
    if (n > 100000)
        return jinja_fail(run, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
    if (!jinja_spend(run, (size_t)n)) return jinja_value_none();
    struct jinja_value out = jinja_made(run, jinja_value_list(run->arena, JINJA_LIST_RANGE, (size_t)n));
    for (int64_t i = 0; i < n && !jinja_failed(run); i++)
        out.list->items[i] = jinja_value_int(start + i * step);
    return out;
}

/* dict(mapping or nothing, name=value ...), and the same for namespace. */
static struct jinja_value table(struct jinja_run *run, const struct jinja_arguments *arguments)
{
    const struct jinja_dict *from = NULL;
    if (arguments->n > 1) return jinja_fail(run, "dict expected at most 1 argument, got %zu", arguments->n);
    if (arguments->n == 1) {
        const struct jinja_value *value = &arguments->values[0];
        if (value->type == JINJA_UNDEFINED) return jinja_fail_undefined(run, value);
        if (value->type != JINJA_DICT && value->type != JINJA_NAMESPACE)
            return jinja_fail(run, "dict() of a '%s' is not supported", jinja_value_type(value));
        from = value->dict;
    }
    size_t n = (from ? from->n : 0) + arguments->n_named;
    struct jinja_value out = jinja_made(run, jinja_value_dict(run->arena, n));
    for (size_t i = 0; from && i < from->n && !jinja_failed(run) && jinja_spend(run, i); i++)
        jinja_value_put(run->arena, out.dict, from->pairs[i].key, from->pairs[i].value);
    for (size_t i = 0; i < arguments->n_named && !jinja_failed(run); i++)
        jinja_value_put(run->arena, out.dict, jinja_value_text(arguments->named[i].name),
                        arguments->named[i].value);
    return out;
}

FUNCTION(function_dict)
{
    return table(run, arguments);
}

FUNCTION(function_namespace)
{
    struct jinja_value out = table(run, arguments);
    for (size_t i = 0; !jinja_failed(run) && i < out.dict->n; i++) {
        const struct jinja_value *key = &out.dict->pairs[i].key;
        if (key->type == JINJA_STRING && key->text.length > 0 && key->text.bytes[0] == '_')
            return jinja_fail(run, "a namespace takes no names that begin with _");
    }
    out.type = JINJA_NAMESPACE;
    return out;
}

static const struct jinja_function functions[] = {
    {"dict", function_dict},
    {"namespace", function_namespace},
    {"raise_exception", function_raise_exception},
    {"range", function_range},
    {"strftime_now", function_strftime_now},
};

const struct jinja_function *jinja_builtin_function(struct jinja_text name)
{
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (name.length == strlen(functions[i].name) &&
            memcmp(name.bytes, functions[i].name, name.length) == 0)
            return &functions[i];
    return NULL;
}
