#include "config/utf8.h"
#include "model/jinja_builtin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Values as text: Python's str and repr, and json.dumps.
 */

size_t jinja_write_float(double value, char out[40])
{
    if (isnan(value)) return (size_t)snprintf(out, 40, "nan");
    if (isinf(value)) return (size_t)snprintf(out, 40, value < 0 ? "-inf" : "inf");
    char digits[40];
    for (int precision = 0; precision < 18; precision++) {
        snprintf(digits, sizeof digits, "%.*e", precision, value);
        if (strtod(digits, NULL) == value) break;
    }
    int exponent = atoi(strchr(digits, 'e') + 1);
    int n_digits = (int)strcspn(digits, "e") - (digits[0] == '-') - (strchr(digits, '.') != NULL);
    if (exponent >= -4 && exponent < 16) {
        int decimals = n_digits - 1 - exponent;
        return (size_t)snprintf(out, 40, "%.*f", decimals > 1 ? decimals : 1, value);
    }
    return (size_t)snprintf(out, 40, "%.*e", n_digits - 1, value);
}

static void write_number(struct jinja_builder *out, const struct jinja_value *value)
{
    char digits[40];
    size_t length = value->type == JINJA_INT
                        ? (size_t)snprintf(digits, sizeof digits, "%lld", (long long)value->integer)
                        : jinja_write_float(value->real, digits);
    jinja_builder_bytes(out, digits, length);
}

/* --- str and repr --- */

static void write_escape(struct jinja_builder *out, uint32_t code, bool literal)
{
    char text[16];
    int n;
    if (code == '\n' || code == '\r' || code == '\t')
        n = snprintf(text, sizeof text, "\\%c", code == '\n' ? 'n' : code == '\r' ? 'r' : 't');
    else
        n = snprintf(text, sizeof text,
                     code < 0x100     ? "\\x%02x"
                     : code < 0x10000 ? "\\u%04x"
                                      : "\\U%08x",
                     code);
    jinja_builder_add(out, (struct jinja_text){.bytes = text, .length = (size_t)n, .literal = literal});
}

static void write_text_repr(struct jinja_builder *out, struct jinja_text text)
{
    bool single = memchr(text.bytes, '\'', text.length),
         both = single && memchr(text.bytes, '"', text.length);
    const char *quote = single && !both ? "\"" : "'";
    size_t size, plain = 0;
    jinja_builder_bytes(out, quote, 1);
    for (size_t at = 0; at < text.length; at += size) {
        uint32_t code = utf8_decode(text.bytes + at, &size);
        bool quoted = code == '\\' || code == (unsigned char)quote[0];
        if (!quoted && jinja_char_is_printable(code)) continue;
        jinja_builder_add(out, jinja_text_cut(text, plain, at));
        plain = at;
        if (quoted) {
            jinja_builder_bytes(out, "\\", 1);
            continue;
        }
        write_escape(out, code, jinja_text_literal_at(&text, at));
        plain = at + size;
    }
    jinja_builder_add(out, jinja_text_cut(text, plain, text.length));
    jinja_builder_bytes(out, quote, 1);
}

static void write_list_repr(struct jinja_run *run, struct jinja_builder *out, const struct jinja_list *list)
{
    bool tuple = list->kind == JINJA_LIST_TUPLE;
    if (list->kind > JINJA_LIST_TUPLE) {
        jinja_fail(run, "a generator, range or view cannot be written; make a list of it");
        return;
    }
    jinja_builder_string(out, tuple ? "(" : "[");
    for (size_t i = 0; i < list->n && !jinja_failed(run); i++) {
        if (i > 0) jinja_builder_string(out, ", ");
        jinja_write_repr(run, out, &list->items[i]);
    }
    jinja_builder_string(out, tuple ? list->n == 1 ? ",)" : ")" : "]");
}

static void write_dict_repr(struct jinja_run *run, struct jinja_builder *out, const struct jinja_dict *dict)
{
    jinja_builder_string(out, "{");
    for (size_t i = 0; i < dict->n && !jinja_failed(run); i++) {
        if (i > 0) jinja_builder_string(out, ", ");
        jinja_write_repr(run, out, &dict->pairs[i].key);
        jinja_builder_string(out, ": ");
        jinja_write_repr(run, out, &dict->pairs[i].value);
    }
    jinja_builder_string(out, "}");
}

/* Down into what a value holds. */
static bool enter(struct jinja_run *run)
{
    if (run->depth == run->limits->max_depth) {
        jinja_fail_depth(run);
        return false;
    }
    run->depth++;
    return jinja_spend(run, 1);
}

void jinja_write_repr(struct jinja_run *run, struct jinja_builder *out, const struct jinja_value *value)
{
    if (!enter(run)) return;
    switch (value->type) {
    case JINJA_STRING:
        write_text_repr(out, value->text);
        break;
    case JINJA_UNDEFINED:
        jinja_builder_string(out, "Undefined");
        break;
    case JINJA_NONE:
        jinja_builder_string(out, "None");
        break;
    case JINJA_BOOL:
        jinja_builder_string(out, value->boolean ? "True" : "False");
        break;
    case JINJA_INT:
    case JINJA_FLOAT:
        write_number(out, value);
        break;
    case JINJA_LIST:
        write_list_repr(run, out, value->list);
        break;
    case JINJA_DICT:
        write_dict_repr(run, out, value->dict);
        break;
    case JINJA_NAMESPACE:
        jinja_builder_string(out, "<Namespace ");
        write_dict_repr(run, out, value->dict);
        jinja_builder_string(out, ">");
        break;
    default:
        jinja_fail(run, "a '%s' cannot be written", jinja_value_type(value));
    }
    run->depth--;
}

void jinja_write_str(struct jinja_run *run, struct jinja_builder *out, const struct jinja_value *value)
{
    if (value->type == JINJA_STRING)
        jinja_builder_add(out, value->text);
    else if (value->type != JINJA_UNDEFINED)
        jinja_write_repr(run, out, value);
}

struct jinja_value jinja_str(struct jinja_run *run, struct jinja_value value)
{
    if (value.type == JINJA_STRING || jinja_failed(run)) return value;
    struct jinja_builder out;
    jinja_build(run, &out);
    jinja_write_str(run, &out, &value);
    return jinja_built(run, &out);
}

void jinja_write_escaped(struct jinja_builder *out, struct jinja_text text)
{
    static const char special[] = "&<>\"'";
    static const char *const entities[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    size_t plain = 0;
    for (size_t at = 0; at < text.length; at++) {
        const char *found = text.bytes[at] ? strchr(special, text.bytes[at]) : NULL;
        if (!found) continue;
        jinja_builder_add(out, jinja_text_cut(text, plain, at));
        jinja_builder_add(out, (struct jinja_text){.bytes = entities[found - special],
                                                   .length = strlen(entities[found - special]),
                                                   .literal = jinja_text_literal_at(&text, at)});
        plain = at + 1;
    }
    jinja_builder_add(out, jinja_text_cut(text, plain, text.length));
}

/* --- JSON --- */

static void write_json_escape(struct jinja_builder *out, uint32_t code, bool literal)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    char text[16];
    const char *short_form = code < 0x80 && code ? strchr(from, (int)code) : NULL;
    int n;
    if (short_form)
        n = snprintf(text, sizeof text, "\\%c", to[short_form - from]);
    else if (code < 0x10000)
        n = snprintf(text, sizeof text, "\\u%04x", code);
    else
        n = snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + ((code - 0x10000) >> 10),
                     0xDC00 + ((code - 0x10000) & 0x3FF));
    jinja_builder_add(out, (struct jinja_text){.bytes = text, .length = (size_t)n, .literal = literal});
}

static void write_json_text(struct jinja_builder *out, struct jinja_text text, bool ascii)
{
    size_t size, plain = 0;
    jinja_builder_bytes(out, "\"", 1);
    for (size_t at = 0; at < text.length; at += size) {
        uint32_t code = utf8_decode(text.bytes + at, &size);
        if (code >= 0x20 && code != '"' && code != '\\' && (!ascii || code < 0x7F)) continue;
        jinja_builder_add(out, jinja_text_cut(text, plain, at));
        write_json_escape(out, code, jinja_text_literal_at(&text, at));
        plain = at + size;
    }
    jinja_builder_add(out, jinja_text_cut(text, plain, text.length));
    jinja_builder_bytes(out, "\"", 1);
}

struct json_writer {
    struct jinja_run *run;
    struct jinja_builder *out;
    const struct jinja_json_style *style;
    int level;
};

static void write_json(struct json_writer *writer, const struct jinja_value *value);

static void write_json_break(struct json_writer *writer)
{
    if (!writer->style->indented) return;
    jinja_builder_bytes(writer->out, "\n", 1);
    for (int i = 0; i < writer->level; i++) jinja_builder_add(writer->out, writer->style->indent);
}

static void write_json_list(struct json_writer *writer, const struct jinja_list *list)
{
    jinja_builder_string(writer->out, "[");
    writer->level++;
    for (size_t i = 0; i < list->n && !jinja_failed(writer->run); i++) {
        if (i > 0) jinja_builder_add(writer->out, writer->style->item_separator);
        write_json_break(writer);
        write_json(writer, &list->items[i]);
    }
    writer->level--;
    if (list->n > 0) write_json_break(writer);
    jinja_builder_string(writer->out, "]");
}

/* Keys that are not strings become what JSON makes of them, in quotes. */
static void write_json_key(struct json_writer *writer, const struct jinja_value *key)
{
    if (key->type == JINJA_STRING) {
        write_json_text(writer->out, key->text, writer->style->ascii);
        return;
    }
    if (key->type != JINJA_NONE && !jinja_value_is_number(key)) {
        jinja_fail(writer->run, "keys must be str, int, float, bool or None, not %s", jinja_value_type(key));
        return;
    }
    jinja_builder_string(writer->out, "\"");
    write_json(writer, key);
    jinja_builder_string(writer->out, "\"");
}

static void write_json_dict(struct json_writer *writer, const struct jinja_dict *dict)
{
    struct jinja_run *run = writer->run;
    const struct jinja_pair *pairs = dict->pairs;
    if (writer->style->sort_keys) pairs = jinja_sort_pairs(run, dict);
    jinja_builder_string(writer->out, "{");
    writer->level++;
    for (size_t i = 0; i < dict->n && !jinja_failed(run); i++) {
        if (i > 0) jinja_builder_add(writer->out, writer->style->item_separator);
        write_json_break(writer);
        write_json_key(writer, &pairs[i].key);
        jinja_builder_add(writer->out, writer->style->key_separator);
        write_json(writer, &pairs[i].value);
    }
    writer->level--;
    if (dict->n > 0) write_json_break(writer);
    jinja_builder_string(writer->out, "}");
}

static void write_json_float(struct jinja_builder *out, double value)
{
    if (isfinite(value)) {
        write_number(out, &(struct jinja_value){.type = JINJA_FLOAT, .real = value});
        return;
    }
    jinja_builder_string(out, isnan(value) ? "NaN" : value < 0 ? "-Infinity" : "Infinity");
}

static void write_json(struct json_writer *writer, const struct jinja_value *value)
{
    struct jinja_run *run = writer->run;
    if (!enter(run)) return;
    bool known = value->type != JINJA_LIST || value->list->kind <= JINJA_LIST_TUPLE;
    switch (known ? value->type : JINJA_MISSING) {
    case JINJA_NONE:
        jinja_builder_string(writer->out, "null");
        break;
    case JINJA_BOOL:
        jinja_builder_string(writer->out, value->boolean ? "true" : "false");
        break;
    case JINJA_INT:
        write_number(writer->out, value);
        break;
    case JINJA_FLOAT:
        write_json_float(writer->out, value->real);
        break;
    case JINJA_STRING:
        write_json_text(writer->out, value->text, writer->style->ascii);
        break;
    case JINJA_LIST:
        write_json_list(writer, value->list);
        break;
    case JINJA_DICT:
        write_json_dict(writer, value->dict);
        break;
    default:
        jinja_fail(run, "Object of type %s is not JSON serializable", jinja_value_type(value));
    }
    run->depth--;
}

void jinja_write_json(struct jinja_run *run, struct jinja_builder *out, const struct jinja_value *value,
                      const struct jinja_json_style *style)
{
    struct json_writer writer = {.run = run, .out = out, .style = style};
    write_json(&writer, value);
}
