#include "config/utf8.h"
#include "model/jinja_builtin.h"
#include "model/jinja_sort.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Filters of one value; those over lists are in jinja_filter_list.c.
 */

bool jinja_bind(struct jinja_run *run, const char *what, const struct jinja_arguments *arguments,
                const char *const *names, struct jinja_value *out)
{
    size_t n = 0;
    for (; names[n]; n++) out[n] = (struct jinja_value){.type = JINJA_MISSING};
    if (arguments->n > n) {
        jinja_fail(run, "%s takes at most %zu argument(s)", what, n);
        return false;
    }
    for (size_t i = 0; i < arguments->n; i++) out[i] = arguments->values[i];
    for (size_t i = 0; i < arguments->n_named; i++) {
        struct jinja_value name = jinja_value_text(arguments->named[i].name);
        size_t at = 0;
        while (at < n && !jinja_value_is_text(&name, names[at])) at++;
        if (at == n || out[at].type != JINJA_MISSING) {
            jinja_fail(run, "%s takes no argument '%.*s'%s", what, (int)name.text.length, name.text.bytes,
                       at < n ? " twice" : "");
            return false;
        }
        out[at] = arguments->named[i].value;
    }
    return true;
}

static bool is_true(const struct jinja_value *value)
{
    return value->type != JINJA_MISSING && jinja_value_truth(value);
}

/* An integer argument, or what stands for it when it was not given. */
static bool int_argument(struct jinja_run *run, const struct jinja_value *value, int64_t otherwise,
                         int64_t *out)
{
    *out = otherwise;
    if (value->type == JINJA_MISSING || value->type == JINJA_NONE) return true;
    if (value->type == JINJA_INT) *out = value->integer;
    if (value->type == JINJA_BOOL) *out = value->boolean;
    if (value->type == JINJA_INT || value->type == JINJA_BOOL) return true;
    jinja_fail(run, "'%s' object cannot be interpreted as an integer", jinja_value_type(value));
    return false;
}

#define FILTER(name)                                                                                         \
    static struct jinja_value name(struct jinja_run *run, struct jinja_value value,                          \
                                   const struct jinja_arguments *arguments)

/* --- Text --- */

FILTER(filter_string)
{
    static const char *const names[] = {NULL};
    struct jinja_value none;
    return jinja_bind(run, "string", arguments, names, &none) ? jinja_str(run, value) : value;
}

FILTER(filter_safe)
{
    value = filter_string(run, value, arguments);
    value.markup = true;
    return value;
}

FILTER(filter_escape)
{
    value = filter_string(run, value, arguments);
    if (jinja_failed(run) || value.markup) return value;
    struct jinja_builder out;
    jinja_build(run, &out);
    jinja_write_escaped(&out, value.text);
    value = jinja_built(run, &out);
    value.markup = true;
    return value;
}

static struct jinja_value cased(struct jinja_run *run, struct jinja_value value, enum jinja_case mode)
{
    value = jinja_str(run, value);
    if (jinja_failed(run)) return value;
    struct jinja_builder out;
    jinja_build(run, &out);
    jinja_text_case(&out, value.text, mode);
    return jinja_built(run, &out);
}

FILTER(filter_upper)
{
    (void)arguments;
    return cased(run, value, JINJA_UPPER);
}

FILTER(filter_lower)
{
    (void)arguments;
    return cased(run, value, JINJA_LOWER);
}

FILTER(filter_capitalize)
{
    (void)arguments;
    return cased(run, value, JINJA_CAPITALIZE);
}

/* Words here are what white space and -([{< part; str.title knows others. */
FILTER(filter_title)
{
    (void)arguments;
    value = jinja_str(run, value);
    if (jinja_failed(run)) return value;
    struct jinja_text text = value.text;
    struct jinja_builder out;
    jinja_build(run, &out);
    for (size_t start = 0, at = 0, size; at < text.length; at += size) {
        uint32_t code = utf8_decode(text.bytes + at, &size);
        bool parts = jinja_char_is_space(code) || (code < 0x80 && strchr("-([{<", (int)code));
        if (!parts && at + size < text.length) continue;
        size_t end = parts ? at : at + size;
        jinja_text_case(&out, jinja_text_cut(text, start, end), JINJA_CAPITALIZE);
        if (parts) jinja_builder_add(&out, jinja_text_cut(text, at, at + size));
        start = at + size;
    }
    return jinja_built(run, &out);
}

FILTER(filter_trim)
{
    static const char *const names[] = {"chars", NULL};
    struct jinja_value chars;
    if (!jinja_bind(run, "trim", arguments, names, &chars)) return value;
    value = jinja_str(run, value);
    if (jinja_failed(run)) return value;
    bool given = chars.type != JINJA_MISSING && chars.type != JINJA_NONE;
    if (given && chars.type != JINJA_STRING) return jinja_fail(run, "strip arg must be None or str");
    value.text = jinja_text_strip(value.text, given ? &chars.text : NULL, true, true);
    return value;
}

FILTER(filter_replace)
{
    static const char *const names[] = {"old", "new", "count", NULL};
    struct jinja_value given[3];
    int64_t n;
    if (!jinja_bind(run, "replace", arguments, names, given)) return value;
    if (given[0].type == JINJA_MISSING || given[1].type == JINJA_MISSING)
        return jinja_fail(run, "replace needs the arguments 'old' and 'new'");
    value = jinja_str(run, value);
    given[0] = jinja_str(run, given[0]);
    given[1] = jinja_str(run, given[1]);
    if (!int_argument(run, &given[2], -1, &n) || !jinja_spend(run, value.text.length / 64)) return value;
    struct jinja_builder out;
    jinja_build(run, &out);
    jinja_text_replace(&out, value.text, given[0].text, given[1].text, n);
    return jinja_built(run, &out);
}

FILTER(filter_indent)
{
    static const char *const names[] = {"width", "first", "blank", NULL};
    struct jinja_value given[3];
    int64_t width = 4;
    if (!jinja_bind(run, "indent", arguments, names, given)) return value;
    value = jinja_str(run, value);
    if (given[0].type != JINJA_STRING && !int_argument(run, &given[0], 4, &width)) return value;
    if (jinja_failed(run)) return value;
    struct jinja_builder margin, out;
    jinja_build(run, &margin);
    jinja_build(run, &out);
    if (given[0].type == JINJA_STRING) jinja_builder_add(&margin, given[0].text);
    if (given[0].type != JINJA_STRING)
        for (int64_t i = 0; i < width && !margin.failed; i++) jinja_builder_bytes(&margin, " ", 1);
    struct jinja_text space = jinja_builder_text(&margin), text = value.text;
    if (is_true(&given[1])) jinja_builder_add(&out, space);
    for (size_t at = 0, next; !out.failed; at = next) {
        size_t end = jinja_text_line(text, at, &next);
        if (at > 0) jinja_builder_bytes(&out, "\n", 1);
        if (at > 0 && (end > at || is_true(&given[2]))) jinja_builder_add(&out, space);
        jinja_builder_add(&out, jinja_text_cut(text, at, end));
        if (next == end) break;
    }
    return jinja_built(run, &out);
}

FILTER(filter_truncate)
{
    static const char *const names[] = {"length", "killwords", "end", "leeway", NULL};
    struct jinja_value given[4];
    int64_t length, leeway;
    if (!jinja_bind(run, "truncate", arguments, names, given)) return value;
    value = jinja_str(run, value);
    if (!int_argument(run, &given[0], 255, &length) || !int_argument(run, &given[3], 5, &leeway))
        return value;
    struct jinja_value end =
        given[2].type == JINJA_MISSING ? jinja_value_string("...", 3, true) : jinja_str(run, given[2]);
    if (jinja_failed(run)) return value;
    int64_t n = (int64_t)jinja_text_chars(value.text), n_end = (int64_t)jinja_text_chars(end.text);
    if (length < n_end) return jinja_fail(run, "expected length >= %lld", (long long)n_end);
    if (n <= length + leeway) return value;
    struct jinja_text head =
        jinja_text_cut(value.text, 0, jinja_text_offset(value.text, (size_t)(length - n_end)));
    if (!is_true(&given[1])) {
        size_t space = jinja_text_find_last(head, (struct jinja_text){.bytes = " ", .length = 1});
        if (space != SIZE_MAX) head = jinja_text_cut(head, 0, space);
    }
    struct jinja_builder out;
    jinja_build(run, &out);
    jinja_builder_add(&out, head);
    jinja_builder_add(&out, end.text);
    return jinja_built(run, &out);
}

FILTER(filter_format)
{
    value = jinja_str(run, value);
    if (arguments->n > 0 && arguments->n_named > 0)
        return jinja_fail(run, "can't handle positional and keyword arguments at the same time");
    struct jinja_value given = jinja_made(run, jinja_value_list(run->arena, JINJA_LIST_TUPLE, arguments->n));
    if (arguments->n_named > 0) given = jinja_made(run, jinja_value_dict(run->arena, arguments->n_named));
    if (jinja_failed(run)) return value;
    for (size_t i = 0; i < arguments->n; i++) given.list->items[i] = arguments->values[i];
    for (size_t i = 0; i < arguments->n_named; i++)
        jinja_value_put(run->arena, given.dict, jinja_value_text(arguments->named[i].name),
                        arguments->named[i].value);
    return jinja_format_percent(run, value.text, given);
}

FILTER(filter_urlencode)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~/";
    (void)arguments;
    if (value.type == JINJA_DICT || value.type == JINJA_LIST)
        return jinja_fail(run, "urlencode of a '%s' is not supported", jinja_value_type(&value));
    value = jinja_str(run, value);
    if (jinja_failed(run)) return value;
    struct jinja_builder out;
    jinja_build(run, &out);
    for (size_t i = 0; i < value.text.length; i++) {
        static const char digits[] = "0123456789ABCDEF";
        unsigned char byte = (unsigned char)value.text.bytes[i];
        char escape[3] = {'%', digits[byte >> 4], digits[byte & 15]};
        if (byte && strchr(plain, byte))
            jinja_builder_add(&out, jinja_text_cut(value.text, i, i + 1));
        else
            jinja_builder_bytes(&out, escape, 3);
    }
    return jinja_built(run, &out);
}

FILTER(filter_wordcount)
{
    (void)arguments;
    value = jinja_str(run, value);
    if (jinja_failed(run)) return value;
    int64_t n = 0;
    bool inside = false;
    for (size_t at = 0, size; at < value.text.length; at += size) {
        uint32_t code = utf8_decode(value.text.bytes + at, &size);
        bool word = code == '_' || jinja_char_is_alpha(code) || jinja_char_is_digit(code);
        n += word && !inside;
        inside = word;
    }
    return jinja_value_int(n);
}

/* --- Anything --- */

FILTER(filter_length)
{
    size_t n;
    (void)arguments;
    return jinja_length(run, &value, &n) ? jinja_value_int((int64_t)n) : value;
}

FILTER(filter_default)
{
    static const char *const names[] = {"default_value", "boolean", NULL};
    struct jinja_value given[2];
    if (!jinja_bind(run, "default", arguments, names, given)) return value;
    bool replaced = value.type == JINJA_UNDEFINED || (is_true(&given[1]) && !jinja_value_truth(&value));
    if (!replaced) return value;
    return given[0].type == JINJA_MISSING ? jinja_value_string("", 0, true) : given[0];
}

static bool json_separators(struct jinja_run *run, const struct jinja_value *given,
                            struct jinja_json_style *style)
{
    if (given->type == JINJA_MISSING || given->type == JINJA_NONE) return true;
    const struct jinja_list *list = given->type == JINJA_LIST ? given->list : NULL;
    if (!list || list->n != 2 || list->items[0].type != JINJA_STRING || list->items[1].type != JINJA_STRING) {
        jinja_fail(run, "separators must be two strings");
        return false;
    }
    style->item_separator = list->items[0].text;
    style->key_separator = list->items[1].text;
    return true;
}

FILTER(filter_tojson)
{
    static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys", NULL};
    struct jinja_value given[4];
    if (!jinja_bind(run, "tojson", arguments, names, given)) return value;
    struct jinja_json_style style = {.ascii = is_true(&given[0]),
                                     .sort_keys = is_true(&given[3]),
                                     .indented =
                                         given[1].type != JINJA_MISSING && given[1].type != JINJA_NONE,
                                     .item_separator = {.bytes = ", ", .length = 2, .literal = true},
                                     .key_separator = {.bytes = ": ", .length = 2, .literal = true}};
    struct jinja_builder indent, out;
    jinja_build(run, &indent);
    jinja_build(run, &out);
    if (style.indented) {
        int64_t width = 0;
        style.item_separator.length = 1;
        if (given[1].type == JINJA_STRING)
            jinja_builder_add(&indent, given[1].text);
        else if (!int_argument(run, &given[1], 0, &width))
            return value;
        for (int64_t i = 0; i < width && !indent.failed; i++) jinja_builder_bytes(&indent, " ", 1);
        style.indent = jinja_builder_text(&indent);
    }
    if (!json_separators(run, &given[2], &style)) return value;
    jinja_write_json(run, &out, &value, &style);
    return jinja_built(run, &out);
}

/* --- Numbers --- */

/* The whole text as Python's float() or int() reads it; false: it is none. */
static bool text_number(struct jinja_text text, bool whole, int base, double *real, int64_t *integer)
{
    char digits[80], *end;
    text = jinja_text_strip(text, NULL, true, true);
    if (text.length == 0 || text.length >= sizeof digits) return false;
    memcpy(digits, text.bytes, text.length);
    digits[text.length] = '\0';
    if (whole) {
        *integer = strtoll(digits, &end, base);
        return *end == '\0' && strspn(digits, " \t\n") == 0;
    }
    if (strpbrk(digits, "xXpP(")) return false;
    *real = strtod(digits, &end);
    return *end == '\0';
}

FILTER(filter_int)
{
    static const char *const names[] = {"default", "base", NULL};
    struct jinja_value given[2];
    int64_t base, integer = 0;
    double real = NAN;
    if (!jinja_bind(run, "int", arguments, names, given) || !int_argument(run, &given[1], 10, &base))
        return value;
    struct jinja_value otherwise = given[0].type == JINJA_MISSING ? jinja_value_int(0) : given[0];
    if (value.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, &value);
    if (value.type == JINJA_INT) return value;
    if (value.type == JINJA_BOOL) return jinja_value_int(value.boolean);
    if (value.type == JINJA_STRING) {
        if (base < 2 || base > 36) return jinja_fail(run, "int() base must be from 2 to 36");
        if (text_number(value.text, true, (int)base, &real, &integer)) return jinja_value_int(integer);
        if (!text_number(value.text, false, 10, &real, &integer)) return otherwise;
    } else if (value.type == JINJA_FLOAT) {
        real = value.real;
    }
    if (!(fabs(real) < 9e18)) return otherwise;
    return jinja_value_int((int64_t)real);
}

FILTER(filter_float)
{
    static const char *const names[] = {"default", NULL};
    struct jinja_value otherwise;
    int64_t integer;
    double real;
    if (!jinja_bind(run, "float", arguments, names, &otherwise)) return value;
    if (otherwise.type == JINJA_MISSING) otherwise = jinja_value_float(0);
    if (value.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, &value);
    if (jinja_value_is_number(&value)) return jinja_value_float(jinja_value_number(&value));
    if (value.type == JINJA_STRING && text_number(value.text, false, 10, &real, &integer))
        return jinja_value_float(real);
    return otherwise;
}

FILTER(filter_abs)
{
    (void)arguments;
    if (value.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, &value);
    if (value.type == JINJA_FLOAT) return jinja_value_float(fabs(value.real));
    if (value.type == JINJA_BOOL) return jinja_value_int(value.boolean);
    if (value.type != JINJA_INT || value.integer == INT64_MIN)
        return jinja_fail(run, "bad operand type for abs(): '%s'", jinja_value_type(&value));
    return jinja_value_int(value.integer < 0 ? -value.integer : value.integer);
}

FILTER(filter_round)
{
    static const char *const names[] = {"precision", "method", NULL};
    struct jinja_value given[2];
    int64_t precision;
    if (!jinja_bind(run, "round", arguments, names, given) || !int_argument(run, &given[0], 0, &precision))
        return value;
    bool common = given[1].type == JINJA_MISSING || jinja_value_is_text(&given[1], "common");
    bool up = !common && jinja_value_is_text(&given[1], "ceil");
    if (!common && !up && !jinja_value_is_text(&given[1], "floor"))
        return jinja_fail(run, "method must be common, ceil or floor");
    if (!jinja_value_is_number(&value))
        return jinja_fail(run, "type %s doesn't define __round__ method", jinja_value_type(&value));
    if (precision < -300 || precision > 300) return jinja_fail(run, "the precision is out of range");
    if (common && value.type != JINJA_FLOAT && precision >= 0)
        return jinja_value_int(value.type == JINJA_INT ? value.integer : value.boolean);
    double real = jinja_value_number(&value), scale = pow(10, (double)precision);
    if (!common) return jinja_value_float((up ? ceil(real * scale) : floor(real * scale)) / scale);
    if (precision < 0) return jinja_value_float(nearbyint(real * scale) / scale);
    char digits[700];
    snprintf(digits, sizeof digits, "%.*f", (int)precision, real);
    return jinja_value_float(strtod(digits, NULL));
}

/* --- Table --- */

#define LIST_FILTER(name)                                                                                    \
    struct jinja_value name(struct jinja_run *run, struct jinja_value value,                                 \
                            const struct jinja_arguments *arguments)
LIST_FILTER(jinja_filter_dictsort);
LIST_FILTER(jinja_filter_first);
LIST_FILTER(jinja_filter_items);
LIST_FILTER(jinja_filter_join);
LIST_FILTER(jinja_filter_last);
LIST_FILTER(jinja_filter_list);
LIST_FILTER(jinja_filter_map);
LIST_FILTER(jinja_filter_max);
LIST_FILTER(jinja_filter_min);
LIST_FILTER(jinja_filter_reject);
LIST_FILTER(jinja_filter_rejectattr);
LIST_FILTER(jinja_filter_reverse);
LIST_FILTER(jinja_filter_select);
LIST_FILTER(jinja_filter_selectattr);
LIST_FILTER(jinja_filter_sort);
LIST_FILTER(jinja_filter_sum);
LIST_FILTER(jinja_filter_unique);

static const struct jinja_filter filters[] = {
    {"abs", filter_abs},
    {"capitalize", filter_capitalize},
    {"count", filter_length},
    {"d", filter_default},
    {"default", filter_default},
    {"dictsort", jinja_filter_dictsort},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"first", jinja_filter_first},
    {"float", filter_float},
    {"format", filter_format},
    {"indent", filter_indent},
    {"int", filter_int},
    {"items", jinja_filter_items},
    {"join", jinja_filter_join},
    {"last", jinja_filter_last},
    {"length", filter_length},
    {"list", jinja_filter_list},
    {"lower", filter_lower},
    {"map", jinja_filter_map},
    {"max", jinja_filter_max},
    {"min", jinja_filter_min},
    {"reject", jinja_filter_reject},
    {"rejectattr", jinja_filter_rejectattr},
    {"replace", filter_replace},
    {"reverse", jinja_filter_reverse},
    {"round", filter_round},
    {"safe", filter_safe},
    {"select", jinja_filter_select},
    {"selectattr", jinja_filter_selectattr},
    {"sort", jinja_filter_sort},
    {"string", filter_string},
    {"sum", jinja_filter_sum},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"truncate", filter_truncate},
    {"unique", jinja_filter_unique},
    {"upper", filter_upper},
    {"urlencode", filter_urlencode},
    {"wordcount", filter_wordcount},
};

static bool is_named(struct jinja_text name, const char *text)
{
    return name.length == strlen(text) && memcmp(name.bytes, text, name.length) == 0;
}

const struct jinja_filter *jinja_builtin_filter(struct jinja_text name)
{
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++)
        if (is_named(name, filters[i].name)) return &filters[i];
    return NULL;
}

bool jinja_builtin_refuses_filter(struct jinja_text name)
{
    static const char *const refused[] = {"attr",    "batch",    "center", "filesizeformat", "forceescape",
                                          "groupby", "pprint",   "random", "slice",          "striptags",
                                          "urlize",  "wordwrap", "xmlattr"};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (is_named(name, refused[i])) return true;
    return false;
}
