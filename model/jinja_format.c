#include "config/utf8.h"
#include "model/jinja_builtin.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/*
 * Python's two ways to put values into a text: "%s" % x and "{}".format(x).
 */

/* One conversion: flags, width, precision, type. */
struct spec {
    bool left, plus, space, zero, alternate;
    char fill[5], align;  /* align '\0': none; fill as UTF-8 */
    int width, precision; /* precision -1: none */
    char type;            /* '\0': none */
};

enum { MAX_WIDTH = 10000 };

static int digits_read(const struct jinja_text *text, size_t *at)
{
    int n = 0;
    for (; *at < text->length && isdigit((unsigned char)text->bytes[*at]); (*at)++)
        if (n <= MAX_WIDTH) n = n * 10 + text->bytes[*at] - '0';
    return n;
}

/* Width and precision are small, so these calls cannot run away with memory. */
static bool widths_fit(struct jinja_run *run, const struct spec *spec)
{
    if (spec->width <= MAX_WIDTH && spec->precision <= 300) return true;
    jinja_fail(run, "a format's width or precision is too large");
    return false;
}

/* text at the width, on its side. */
static void pad(struct jinja_builder *out, struct jinja_text text, const struct spec *spec, char align)
{
    size_t n = jinja_text_chars(text);
    size_t room = spec->width > 0 && n < (size_t)spec->width ? (size_t)spec->width - n : 0;
    size_t before = align == '>' ? room : align == '^' ? room / 2 : 0;
    const char *fill = spec->fill[0] ? spec->fill : " ";
    for (size_t i = 0; i < before; i++) jinja_builder_string(out, fill);
    jinja_builder_add(out, text);
    for (size_t i = before; i < room; i++) jinja_builder_string(out, fill);
}

static void write_text(struct jinja_builder *out, struct jinja_text text, const struct spec *spec, char align)
{
    if (spec->precision >= 0)
        text = jinja_text_cut(text, 0, jinja_text_offset(text, (size_t)spec->precision));
    pad(out, text, spec, align);
}

static void write_integer(struct jinja_builder *out, int64_t value, const struct spec *spec)
{
    char digits[80], whole[8300];
    const char *format = spec->type == 'x'   ? "%llx"
                         : spec->type == 'X' ? "%llX"
                         : spec->type == 'o' ? "%llo"
                                             : "%llu";
    unsigned long long size = value < 0 ? 0 - (unsigned long long)value : (unsigned long long)value;
    int n = snprintf(digits, sizeof digits, format, size);
    const char *sign = value < 0 ? "-" : spec->plus ? "+" : spec->space ? " " : "";
    const char *base = !spec->alternate    ? ""
                       : spec->type == 'x' ? "0x"
                       : spec->type == 'X' ? "0X"
                       : spec->type == 'o' ? "0o"
                                           : "";
    int zeros = spec->precision > n ? spec->precision - n : 0;
    int used = n + (int)strlen(sign) + (int)strlen(base);
    if (spec->zero && !spec->left && spec->width > used + zeros) zeros = spec->width - used;
    if (zeros > 8000) zeros = 8000;
    int length = snprintf(whole, sizeof whole, "%s%s%0*d", sign, base, zeros, 0);
    if (zeros == 0) length--; /* "%0*d" of width 0 writes one digit */
    memcpy(whole + length, digits, (size_t)n);
    pad(out, (struct jinja_text){.bytes = whole, .length = (size_t)(length + n), .literal = true}, spec,
        spec->align && spec->align != '=' ? spec->align
        : spec->left                      ? '<'
                                          : '>');
}

static void write_real(struct jinja_builder *out, double value, const struct spec *spec)
{
    char format[16], whole[8300];
    snprintf(format, sizeof format, "%%%s%s%s*.*%c",
             spec->plus    ? "+"
             : spec->space ? " "
                           : "",
             spec->alternate ? "#" : "", spec->zero && !spec->left ? "0" : "", spec->type);
    int n = snprintf(whole, sizeof whole, format, spec->zero && spec->width < 8000 ? spec->width : 0,
                     spec->precision < 0 ? 6 : spec->precision, value);
    pad(out, (struct jinja_text){.bytes = whole, .length = (size_t)n, .literal = true}, spec,
        spec->align && spec->align != '=' ? spec->align
        : spec->left                      ? '<'
                                          : '>');
}

/* A number as the conversion wants it; false: the value is none. */
static bool as_integer(struct jinja_run *run, const struct jinja_value *value, char type, int64_t *out)
{
    bool real =
        value->type == JINJA_FLOAT && strchr("diu", type) && value->real > -9e18 && value->real < 9e18;
    if (value->type == JINJA_INT) *out = value->integer;
    if (value->type == JINJA_BOOL) *out = value->boolean;
    if (real) *out = (int64_t)value->real;
    if (value->type == JINJA_INT || value->type == JINJA_BOOL || real) return true;
    jinja_fail(run, "%%%c format: a number is required, not %s", type, jinja_value_type(value));
    return false;
}

static bool as_real(struct jinja_run *run, const struct jinja_value *value, double *out)
{
    if (jinja_value_is_number(value)) {
        *out = jinja_value_number(value);
        return true;
    }
    jinja_fail(run, "must be real number, not %s", jinja_value_type(value));
    return false;
}

/* --- % --- */

struct percent {
    struct jinja_run *run;
    struct jinja_builder out;
    struct jinja_text format;
    size_t at;
    struct jinja_value arguments;
    size_t used;
};

static bool next_argument(struct percent *percent, struct jinja_value *out)
{
    bool tuple = percent->arguments.type == JINJA_LIST && percent->arguments.list->kind == JINJA_LIST_TUPLE;
    size_t n = tuple ? percent->arguments.list->n : 1;
    if (percent->used >= n) {
        jinja_fail(percent->run, "not enough arguments for format string");
        return false;
    }
    *out = tuple ? percent->arguments.list->items[percent->used] : percent->arguments;
    percent->used++;
    return true;
}

/* "(name)" picks from a dict. */
static bool named_argument(struct percent *percent, struct jinja_value *out)
{
    struct jinja_text close = {.bytes = ")", .length = 1};
    size_t end = jinja_text_find(percent->format, close, percent->at);
    if (end == SIZE_MAX || percent->arguments.type != JINJA_DICT) {
        jinja_fail(percent->run, end == SIZE_MAX ? "incomplete format key" : "format requires a mapping");
        return false;
    }
    struct jinja_value key = jinja_value_text(jinja_text_cut(percent->format, percent->at + 1, end));
    const struct jinja_value *found = jinja_value_get(percent->arguments.dict, &key);
    percent->at = end + 1;
    if (!found) {
        jinja_fail(percent->run, "the format names a key that is not there");
        return false;
    }
    *out = *found;
    percent->used = 1;
    return true;
}

static bool percent_spec(struct percent *percent, struct spec *spec)
{
    const struct jinja_text *format = &percent->format;
    for (; percent->at < format->length; percent->at++) {
        char c = format->bytes[percent->at];
        if (c == '-')
            spec->left = true;
        else if (c == '+')
            spec->plus = true;
        else if (c == ' ')
            spec->space = true;
        else if (c == '0')
            spec->zero = true;
        else if (c == '#')
            spec->alternate = true;
        else
            break;
    }
    spec->width = digits_read(format, &percent->at);
    if (percent->at < format->length && format->bytes[percent->at] == '.') {
        percent->at++;
        spec->precision = digits_read(format, &percent->at);
    }
    if (!widths_fit(percent->run, spec)) return false;
    if (percent->at == format->length) {
        jinja_fail(percent->run, "incomplete format");
        return false;
    }
    spec->type = format->bytes[percent->at++];
    return true;
}

static void percent_one(struct percent *percent)
{
    struct spec spec = {.precision = -1};
    struct jinja_value value = {.type = JINJA_MISSING};
    struct jinja_run *run = percent->run;
    int64_t integer = 0;
    double real = 0;
    bool named = percent->at < percent->format.length && percent->format.bytes[percent->at] == '(';
    if (named && !named_argument(percent, &value)) return;
    if (!percent_spec(percent, &spec)) return;
    if (spec.type == '%') {
        jinja_builder_string(&percent->out, "%");
        return;
    }
    if (!spec.type || !strchr("csrdiuxXofFeEgG", spec.type)) {
        jinja_fail(run, "unsupported format character '%c'",
                   isprint((unsigned char)spec.type) ? spec.type : '?');
        return;
    }
    if (!named && !next_argument(percent, &value)) return;
    struct jinja_builder text;
    switch (spec.type) {
    case 'c':
        if (value.type != JINJA_STRING || jinja_text_chars(value.text) != 1)
            jinja_fail(run, "%%c requires a char");
        else
            write_text(&percent->out, value.text, &spec, spec.left ? '<' : '>');
        return;
    case 's':
    case 'r':
        jinja_build(run, &text);
        if (spec.type == 's')
            jinja_write_str(run, &text, &value);
        else
            jinja_write_repr(run, &text, &value);
        write_text(&percent->out, jinja_builder_text(&text), &spec, spec.left ? '<' : '>');
        return;
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
        if (as_integer(run, &value, spec.type, &integer)) write_integer(&percent->out, integer, &spec);
        return;
    default:
        if (as_real(run, &value, &real)) write_real(&percent->out, real, &spec);
    }
}

struct jinja_value jinja_format_percent(struct jinja_run *run, struct jinja_text format,
                                        struct jinja_value arguments)
{
    struct percent percent = {.run = run, .format = format, .arguments = arguments};
    struct jinja_text sign = {.bytes = "%", .length = 1};
    jinja_build(run, &percent.out);
    while (!jinja_failed(run)) {
        size_t next = jinja_text_find(format, sign, percent.at);
        if (next == SIZE_MAX) next = format.length;
        jinja_builder_add(&percent.out, jinja_text_cut(format, percent.at, next));
        percent.at = next + 1;
        if (next == format.length) break;
        percent_one(&percent);
        if (!jinja_spend(run, 1)) break;
    }
    bool tuple = arguments.type == JINJA_LIST && arguments.list->kind == JINJA_LIST_TUPLE;
    size_t n = tuple                                                          ? arguments.list->n
               : arguments.type == JINJA_DICT || arguments.type == JINJA_LIST ? 0
                                                                              : 1;
    if (!jinja_failed(run) && percent.used < n)
        return jinja_fail(run, "not all arguments converted during string formatting");
    return jinja_built(run, &percent.out);
}

/* --- {} --- */

struct braces {
    struct jinja_run *run;
    struct jinja_builder out;
    const struct jinja_arguments *arguments;
    size_t next; /* of the fields without number */
};

/* The value of "", "0", "name", "name.attribute" or "name[key]". */
static bool field_value(struct braces *braces, struct jinja_text name, struct jinja_value *out)
{
    struct jinja_run *run = braces->run;
    size_t end = 0;
    while (end < name.length && name.bytes[end] != '.' && name.bytes[end] != '[') end++;
    struct jinja_text head = jinja_text_cut(name, 0, end);
    size_t digits = 0, index = (size_t)digits_read(&head, &digits);
    bool numbered = digits == head.length;
    if (head.length == 0) index = braces->next++;
    if (numbered && index >= braces->arguments->n) {
        jinja_fail(run, "Replacement index %zu out of range for positional args tuple", index);
        return false;
    }
    if (numbered) *out = braces->arguments->values[index];
    bool found = numbered;
    for (size_t i = 0; !found && i < braces->arguments->n_named; i++) {
        struct jinja_value given = jinja_value_text(braces->arguments->named[i].name);
        struct jinja_value wanted = jinja_value_text(head);
        found = jinja_value_equal(&given, &wanted);
        if (found) *out = braces->arguments->named[i].value;
    }
    if (!found) {
        jinja_fail(run, "the format names '%.*s', which was not given",
                   (int)(head.length < 60 ? head.length : 60), head.bytes);
        return false;
    }
    while (end < name.length && !jinja_failed(run)) {
        bool item = name.bytes[end] == '[';
        size_t start = ++end;
        while (end < name.length &&
               (item ? name.bytes[end] != ']' : name.bytes[end] != '.' && name.bytes[end] != '['))
            end++;
        struct jinja_text part = jinja_text_cut(name, start, end);
        size_t read = 0;
        int number = digits_read(&part, &read);
        struct jinja_value key = jinja_value_text(part);
        if (item && part.length > 0 && read == part.length) key = jinja_value_int(number);
        *out = item ? jinja_getitem(run, *out, key) : jinja_getattr(run, *out, part);
        if (item && end < name.length) end++;
    }
    return !jinja_failed(run);
}

/* [[fill]align][sign][#][0][width][.precision][type] */
static bool braces_spec(struct jinja_run *run, struct jinja_text text, struct spec *spec)
{
    size_t at = 0, size = 1;
    if (text.length > 0) utf8_decode(text.bytes, &size);
    if (text.length > size && strchr("<>=^", text.bytes[size]) && text.bytes[size]) {
        memcpy(spec->fill, text.bytes, size);
        spec->align = text.bytes[size];
        at = size + 1;
    } else if (text.length > 0 && text.bytes[0] && strchr("<>=^", text.bytes[0])) {
        spec->align = text.bytes[0];
        at = 1;
    }
    if (at < text.length && strchr("+- ", text.bytes[at]) && text.bytes[at]) {
        spec->plus = text.bytes[at] == '+';
        spec->space = text.bytes[at] == ' ';
        at++;
    }
    if (at < text.length && text.bytes[at] == '#') spec->alternate = text.bytes[at++];
    if (at < text.length && text.bytes[at] == '0') spec->zero = text.bytes[at++];
    spec->width = digits_read(&text, &at);
    if (at < text.length && text.bytes[at] == '.') {
        at++;
        spec->precision = digits_read(&text, &at);
    }
    if (at < text.length) spec->type = text.bytes[at++];
    if (!widths_fit(run, spec)) return false;
    if (at == text.length && (!spec->type || strchr("sdxXofFeEgG", spec->type)) && spec->align != '=') {
        spec->left = spec->align == '<';
        if (spec->align) spec->zero = false;
        return true;
    }
    jinja_fail(run, "the format '%.*s' is not supported", (int)(text.length < 60 ? text.length : 60),
               text.bytes);
    return false;
}

static void write_field(struct braces *braces, const struct jinja_value *value, struct jinja_text format)
{
    struct spec spec = {.precision = -1};
    struct jinja_run *run = braces->run;
    if (!braces_spec(run, format, &spec)) return;
    bool text = value->type == JINJA_STRING;
    if (!jinja_value_is_number(value) && !text && format.length > 0) {
        jinja_fail(run, "unsupported format string passed to %s.__format__", jinja_value_type(value));
        return;
    }
    if (text ? spec.type && spec.type != 's' : spec.type == 's') {
        jinja_fail(run, "Unknown format code '%c' for object of type '%s'", spec.type,
                   jinja_value_type(value));
        return;
    }
    int64_t integer = 0;
    double real = 0;
    if (spec.type && strchr("fFeEgG", spec.type)) {
        if (as_real(run, value, &real)) write_real(&braces->out, real, &spec);
    } else if (!text && (spec.type || (format.length > 0 && value->type == JINJA_INT))) {
        if (!spec.type) spec.type = 'd';
        if (value->type == JINJA_FLOAT)
            jinja_fail(run, "Unknown format code '%c' for object of type 'float'", spec.type);
        else if (as_integer(run, value, spec.type, &integer))
            write_integer(&braces->out, integer, &spec);
    } else {
        struct jinja_builder whole;
        jinja_build(run, &whole);
        jinja_write_str(run, &whole, value);
        char align = spec.align ? spec.align : text ? '<' : '>';
        write_text(&braces->out, jinja_builder_text(&whole), &spec, align);
    }
}

/* "{name!r:spec}", from after its brace; returns the place behind it. */
static size_t braces_one(struct braces *braces, struct jinja_text format, size_t at)
{
    struct jinja_text close = {.bytes = "}", .length = 1}, colon = {.bytes = ":", .length = 1};
    struct jinja_value value;
    size_t end = jinja_text_find(format, close, at);
    if (end == SIZE_MAX) {
        jinja_fail(braces->run, "expected '}' before end of string");
        return format.length;
    }
    struct jinja_text field = jinja_text_cut(format, at, end), spec = jinja_text_cut(format, end, end);
    if (memchr(field.bytes, '{', field.length)) {
        jinja_fail(braces->run, "formats within formats are not supported");
        return format.length;
    }
    size_t split = jinja_text_find(field, colon, 0);
    if (split != SIZE_MAX) {
        spec = jinja_text_cut(field, split + 1, field.length);
        field = jinja_text_cut(field, 0, split);
    }
    char conversion = '\0';
    if (field.length >= 2 && field.bytes[field.length - 2] == '!') {
        conversion = field.bytes[field.length - 1];
        field = jinja_text_cut(field, 0, field.length - 2);
    }
    if (!field_value(braces, field, &value)) return format.length;
    if (conversion == 's') value = jinja_str(braces->run, value);
    if (conversion == 'r') {
        struct jinja_builder text;
        jinja_build(braces->run, &text);
        jinja_write_repr(braces->run, &text, &value);
        value = jinja_built(braces->run, &text);
    } else if (conversion && conversion != 's') {
        jinja_fail(braces->run, "Unknown conversion specifier");
    }
    if (!jinja_failed(braces->run)) write_field(braces, &value, spec);
    return end + 1;
}

struct jinja_value jinja_format_braces(struct jinja_run *run, struct jinja_text format,
                                       const struct jinja_arguments *arguments)
{
    struct braces braces = {.run = run, .arguments = arguments};
    jinja_build(run, &braces.out);
    for (size_t at = 0; at < format.length && !jinja_failed(run) && jinja_spend(run, 1);) {
        size_t plain = at;
        while (plain < format.length && format.bytes[plain] != '{' && format.bytes[plain] != '}') plain++;
        jinja_builder_add(&braces.out, jinja_text_cut(format, at, plain));
        at = plain;
        if (at == format.length) break;
        bool doubled = at + 1 < format.length && format.bytes[at + 1] == format.bytes[at];
        if (doubled) {
            jinja_builder_add(&braces.out, jinja_text_cut(format, at, at + 1));
            at += 2;
        } else if (format.bytes[at] == '}') {
            return jinja_fail(run, "Single '}' encountered in format string");
        } else {
            at = braces_one(&braces, format, at + 1);
        }
    }
    return jinja_built(run, &braces.out);
}
