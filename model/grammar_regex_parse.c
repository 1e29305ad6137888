#include "model/grammar_regex.h"

#include "config/utf8.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * What ECMA-262 (with the u flag) and Python's re read in the same way is read so. Where they differ in which
 * characters a class has, it has those that it has for both: \s, \S and "." keep away from the characters in
 * dispute, \d and \w are ASCII's (Python's with re.ASCII). Where they differ in meaning ("[]a]", "a{,3}"),
 * or one of them does not know the construct in a way that matters ("\A", "(?i)"), the pattern is refused.
 */

enum {
    MAX_PATTERN_BYTES = 1 << 16,
    MAX_DEPTH = 200, /* of groups */
};

struct parser {
    const char *pattern;
    size_t length, at;
    int depth;
    struct regex regex;
    struct err_info *info;
    enum err err;
};

/* --- Faults --- */

static enum err fail_at(struct err_info *info, enum err err, const char *pattern, size_t offset,
                        const char *format, va_list arguments)
{
    char what[400];
    vsnprintf(what, sizeof what, format, arguments);
    return err_set(info, err, "character %d: %s", 1 + (int)utf8_count(pattern, offset), what);
}

enum err regex_fail(struct err_info *info, enum err err, const char *pattern, int offset, const char *format,
                    ...)
{
    va_list arguments;
    va_start(arguments, format);
    fail_at(info, err, pattern, (size_t)offset, format, arguments);
    va_end(arguments);
    return err;
}

static int fail(struct parser *parser, enum err err, size_t offset, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static int fail(struct parser *parser, enum err err, size_t offset, const char *format, ...)
{
    if (parser->err) return -1;
    va_list arguments;
    va_start(arguments, format);
    parser->err = fail_at(parser->info, err, parser->pattern, offset, format, arguments);
    va_end(arguments);
    return -1;
}

static int no_memory(struct parser *parser)
{
    if (!parser->err) parser->err = err_set(parser->info, ERR_MEMORY, "no memory to read a pattern");
    return -1;
}

/* --- The tree --- */

static int node_add(struct parser *parser, enum regex_type type, size_t offset)
{
    struct regex *regex = &parser->regex;
    if (parser->err) return -1;
    if (regex->n_nodes == regex->nodes_capacity) {
        int capacity = regex->nodes_capacity * 2 + 32;
        struct regex_node *grown = realloc(regex->nodes, (size_t)capacity * sizeof *grown);
        if (!grown) return no_memory(parser);
        regex->nodes = grown;
        regex->nodes_capacity = capacity;
    }
    regex->nodes[regex->n_nodes] =
        (struct regex_node){.type = type, .child = -1, .next = -1, .offset = (int)offset};
    regex->nodes[regex->n_nodes].anchored = type == REGEX_START || type == REGEX_END;
    return regex->n_nodes++;
}

/* child becomes the last of parent; *last is the one before it, -1 at first. */
static void node_append(struct parser *parser, int parent, int child, int *last)
{
    struct regex_node *nodes = parser->regex.nodes;
    if (*last < 0)
        nodes[parent].child = child;
    else
        nodes[*last].next = child;
    nodes[parent].anchored |= nodes[child].anchored;
    *last = child;
}

/* Adds to the set at the end of the tree's ranges. */
static bool range_add(struct parser *parser, struct regex_set *set, uint32_t first, uint32_t last)
{
    struct regex *regex = &parser->regex;
    if (regex->n_ranges == regex->ranges_capacity) {
        int capacity = regex->ranges_capacity * 2 + 32;
        struct grammar_range *grown = realloc(regex->ranges, (size_t)capacity * sizeof *grown);
        if (!grown) {
            no_memory(parser);
            return false;
        }
        regex->ranges = grown;
        regex->ranges_capacity = capacity;
    }
    regex->ranges[regex->n_ranges++] = (struct grammar_range){first, last};
    set->n++;
    return true;
}

static int set_node(struct parser *parser, size_t offset, const struct regex_set *set)
{
    int node = node_add(parser, REGEX_SET, offset);
    if (node >= 0) parser->regex.nodes[node].set = *set;
    return node;
}

static int character_node(struct parser *parser, size_t offset, uint32_t code)
{
    struct regex_set set = {.first = parser->regex.n_ranges};
    return range_add(parser, &set, code, code) ? set_node(parser, offset, &set) : -1;
}

/* --- Characters --- */

/* The byte `ahead` of the place; -1 past the end. */
static int peek(const struct parser *parser, size_t ahead)
{
    return parser->length - parser->at > ahead ? (unsigned char)parser->pattern[parser->at + ahead] : -1;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int hex_value(int c)
{
    if (is_digit(c)) return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* n digits at the place, which goes past them; -1 when they are not there. */
static int32_t read_hex(struct parser *parser, int n)
{
    int32_t code = 0;
    for (int i = 0; i < n; i++) {
        int value = hex_value(peek(parser, (size_t)i));
        if (value < 0) return -1;
        code = code << 4 | value;
    }
    parser->at += (size_t)n;
    return code;
}

/* After "\u" (the backslash at start): HHHH, a pair of surrogates, or {H...}. */
static int32_t read_unicode(struct parser *parser, size_t start)
{
    int32_t code;
    if (peek(parser, 0) == '{') {
        parser->at++;
        code = hex_value(peek(parser, 0)) < 0 ? -1 : 0;
        for (; code >= 0 && code <= 0x10FFFF && hex_value(peek(parser, 0)) >= 0; parser->at++)
            code = code << 4 | hex_value(peek(parser, 0));
        if (code < 0 || code > 0x10FFFF || peek(parser, 0) != '}')
            return fail(parser, ERR_INVALID, start, "\\u{...} needs the hexadecimal number of a character");
        parser->at++;
    } else {
        code = read_hex(parser, 4);
        if (code < 0) return fail(parser, ERR_INVALID, start, "\\u needs four hexadecimal digits");
        if (code >= 0xD800 && code < 0xDC00 && peek(parser, 0) == '\\' && peek(parser, 1) == 'u') {
            parser->at += 2;
            int32_t low = read_hex(parser, 4);
            if (low >= 0xDC00 && low <= 0xDFFF) return 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00);
        }
    }
    if (code >= 0xD800 && code <= 0xDFFF)
        return fail(parser, ERR_INVALID, start, "U+%04X is a surrogate, not a character", (unsigned)code);
    return code;
}

/* The escape of one character, at its backslash; -1: a fault. */
static int32_t read_escape(struct parser *parser, bool in_class)
{
    static const char letters[] = "tnrvf", meanings[] = "\t\n\r\v\f";
    size_t start = parser->at;
    int c = peek(parser, 1);
    if (c < 0) return fail(parser, ERR_INVALID, start, "nothing after the last '\\'");
    parser->at += 2;
    const char *letter = c > 0 ? strchr(letters, c) : NULL;
    if (letter) return meanings[letter - letters];
    if (c < 0x80 && !is_digit(c) && !is_letter(c)) return c;
    if (in_class && c == 'b') return '\b';
    if (c == '0' && !is_digit(peek(parser, 0))) return 0;
    if (c == 'u') return read_unicode(parser, start);
    if (c == 'x') {
        int32_t code = read_hex(parser, 2);
        return code >= 0 ? code : fail(parser, ERR_INVALID, start, "\\x needs two hexadecimal digits");
    }
    if (c == 'c' && is_letter(peek(parser, 0))) return (unsigned char)parser->pattern[parser->at++] & 0x1F;
    if ((c >= '1' && c <= '9' && !in_class) || (c == 'k' && !in_class))
        return fail(parser, ERR_UNSUPPORTED, start, "back references are not supported");
    if ((c == 'b' || c == 'B') && !in_class)
        return fail(parser, ERR_UNSUPPORTED, start, "word boundaries (\\%c) are not supported", c);
    if (c > 0 && strchr("AZzG", c) && !in_class)
        return fail(parser, ERR_UNSUPPORTED, start, "\\%c is not supported: write '^' or '$'", c);
    size_t size = utf8_sequence(parser->pattern + start + 1, parser->length - start - 1);
    return fail(parser, ERR_INVALID, start, "unknown escape '\\%.*s'", (int)size,
                parser->pattern + start + 1);
}

/* --- Classes --- */

static const struct grammar_range digits[] = {{'0', '9'}},
                                  words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
/* White space: what both languages have, and what one of them has at least. */
static const struct grammar_range spaces[] = {{9, 13},          {0x20, 0x20},     {0xA0, 0xA0},
                                              {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
                                              {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}},
                                  any_spaces[] = {{9, 13},          {0x1C, 0x20},     {0x85, 0x85},
                                                  {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
                                                  {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                                                  {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};

/* The ranges, which are in order; others: what lies between them. */
static bool add_ranges(struct parser *parser, struct regex_set *set, const struct grammar_range *ranges,
                       size_t n, bool others)
{
    uint32_t from = 0;
    for (size_t i = 0; i < n; i++) {
        if (!others && !range_add(parser, set, ranges[i].first, ranges[i].last)) return false;
        if (others && !range_add(parser, set, from, ranges[i].first - 1)) return false;
        from = ranges[i].last + 1;
    }
    return !others || range_add(parser, set, from, 0x10FFFF);
}

/* \p{...} or \P{...}. */
static bool read_property(struct parser *parser, struct regex_set *set)
{
    size_t start = parser->at, name = start + 3, end = name;
    bool others = peek(parser, 1) == 'P';
    if (peek(parser, 2) == '{')
        while (end < parser->length && parser->pattern[end] != '}') end++;
    if (peek(parser, 2) != '{' || end >= parser->length) {
        fail(parser, ERR_INVALID, start, "\\%c needs a property's name in braces", others ? 'P' : 'p');
        return false;
    }
    uint32_t bits = regex_categories(parser->pattern + name, end - name);
    if (bits == 0) {
        fail(parser, ERR_UNSUPPORTED, start,
             "the property '%.*s' is not supported: general categories are (L, Lu, Nd, ...)",
             (int)(end - name < 40 ? utf8_valid(parser->pattern + name, end - name) : 0),
             parser->pattern + name);
        return false;
    }
    set->categories |= others ? ~bits : bits;
    parser->at = end + 1;
    return true;
}

/* A class's escape (\d \D \w \W \s \S \p \P), added to the set. False: there is none here, or a fault. In a
   set that will be negated, more space is less. */
static bool read_class_escape(struct parser *parser, struct regex_set *set)
{
    if (peek(parser, 0) != '\\') return false;
    int c = peek(parser, 1), letter = c | 0x20;
    if (letter == 'p') return read_property(parser, set);
    if (letter != 'd' && letter != 'w' && letter != 's') return false;
    bool others = c != letter;
    parser->at += 2;
    if (letter == 'd') return add_ranges(parser, set, digits, 1, others);
    if (letter == 'w') return add_ranges(parser, set, words, 4, others);
    return others != set->negated ? add_ranges(parser, set, any_spaces, 11, others)
                                  : add_ranges(parser, set, spaces, 9, others);
}

/* A character of a class, or of a range in it; -1: a fault. */
static int32_t read_class_character(struct parser *parser)
{
    size_t size;
    if (peek(parser, 0) == '\\') return read_escape(parser, true);
    int32_t code = (int32_t)utf8_decode(parser->pattern + parser->at, &size);
    parser->at += size;
    return code;
}

/* A range, or a character alone. */
static bool read_class_range(struct parser *parser, struct regex_set *set)
{
    size_t start = parser->at;
    int32_t first = read_class_character(parser), last = first;
    if (first < 0) return false;
    if (peek(parser, 0) == '-' && peek(parser, 1) >= 0 && peek(parser, 1) != ']') {
        parser->at++;
        if (peek(parser, 0) == '\\' && peek(parser, 1) > 0 && strchr("dDwWsSpP", peek(parser, 1))) {
            fail(parser, ERR_INVALID, start, "a range that ends with a class (for a '-', write '\\-')");
            return false;
        }
        last = read_class_character(parser);
        if (last < 0) return false;
    }
    if (last < first) {
        fail(parser, ERR_INVALID, start, "a range that ends (U+%04X) before it begins (U+%04X)",
             (unsigned)last, (unsigned)first);
        return false;
    }
    return range_add(parser, set, (uint32_t)first, (uint32_t)last);
}

static int read_class(struct parser *parser)
{
    size_t start = parser->at++;
    struct regex_set set = {.first = parser->regex.n_ranges, .negated = peek(parser, 0) == '^'};
    parser->at += set.negated;
    if (peek(parser, 0) == ']')
        return fail(parser, ERR_INVALID, start, "an empty class (for the character ']', write '\\]')");
    while (peek(parser, 0) != ']') {
        if (peek(parser, 0) < 0) return fail(parser, ERR_INVALID, start, "a class without its closing ']'");
        size_t at = parser->at;
        if (!read_class_escape(parser, &set)) {
            if (parser->err || !read_class_range(parser, &set)) return -1;
        } else if (peek(parser, 0) == '-' && peek(parser, 1) != ']') {
            return fail(parser, ERR_INVALID, at, "a range that begins with a class (for a '-', write '\\-')");
        }
    }
    parser->at++;
    return set_node(parser, start, &set);
}

/* --- Groups --- */

static int read_choice(struct parser *parser);

/* After "(?": what makes it a group and no more. */
static bool read_group_kind(struct parser *parser, size_t start)
{
    int c = peek(parser, 0), next = peek(parser, 1);
    size_t name = c == 'P' && next == '<' ? 2 : 1;
    if (c == ':') {
        parser->at++;
        return true;
    }
    if (c == '=' || c == '!' || (c == '<' && (next == '=' || next == '!'))) {
        fail(parser, ERR_UNSUPPORTED, start, "look-around is not supported");
    } else if (c == '<' || name == 2) {
        size_t n = 0;
        for (c = peek(parser, name); is_letter(c) || is_digit(c) || c == '_' || c == '$' || c >= 0x80;
             c = peek(parser, name + ++n))
            ;
        if (n > 0 && c == '>') {
            parser->at += name + n + 1;
            return true;
        }
        fail(parser, ERR_INVALID, start, "a group's name is letters, digits and '_' up to '>'");
    } else if (c == 'P' && (next == '=' || next == '>')) {
        fail(parser, ERR_UNSUPPORTED, start, "back references are not supported");
    } else if (c > 0 && strchr("aiLmsuxdgyv-", c)) {
        fail(parser, ERR_UNSUPPORTED, start, "flags in the pattern, as (?i), are not supported");
    } else if (c == '>' || c == '(' || c == '#') {
        fail(parser, ERR_UNSUPPORTED, start, "(?%c is not supported", c);
    } else {
        fail(parser, ERR_INVALID, start, "unknown kind of group");
    }
    return false;
}

static int read_group(struct parser *parser)
{
    size_t start = parser->at++;
    if (parser->depth == MAX_DEPTH)
        return fail(parser, ERR_LIMIT, start, "more than %d groups in each other", MAX_DEPTH);
    parser->depth++;
    if (peek(parser, 0) == '?') {
        parser->at++;
        if (!read_group_kind(parser, start)) return -1;
    }
    int node = read_choice(parser);
    if (parser->err) return -1;
    if (peek(parser, 0) != ')') return fail(parser, ERR_INVALID, start, "'(' without its closing ')'");
    parser->at++;
    parser->depth--;
    return node;
}

/* --- Repetition --- */

static bool read_number(struct parser *parser, int64_t *out)
{
    size_t start = parser->at;
    int64_t value = 0;
    for (; is_digit(peek(parser, 0)); parser->at++) {
        value = value * 10 + (peek(parser, 0) - '0');
        if (value > INT_MAX) {
            fail(parser, ERR_LIMIT, start, "a repetition of more than %d", INT_MAX);
            return false;
        }
    }
    *out = value;
    return parser->at > start;
}

/* {m}, {m,} or {m,n}. */
static bool read_bounds(struct parser *parser, int64_t *min, int64_t *max)
{
    size_t start = parser->at++;
    bool well_formed = read_number(parser, min);
    *max = *min;
    if (well_formed && peek(parser, 0) == ',') {
        parser->at++;
        *max = -1;
        if (peek(parser, 0) != '}') well_formed = read_number(parser, max);
    }
    if (!well_formed || peek(parser, 0) != '}') {
        fail(parser, ERR_INVALID, start, "'{' begins a repetition ({m}, {m,} or {m,n}), or is written '\\{'");
        return false;
    }
    parser->at++;
    if (*max >= 0 && *max < *min) {
        fail(parser, ERR_INVALID, start, "a repetition whose most (%lld) is below its least (%lld)",
             (long long)*max, (long long)*min);
        return false;
    }
    return true;
}

/* A '{' that no language reads as the start of a repetition is a character. */
static bool at_repetition(const struct parser *parser)
{
    int c = peek(parser, 0);
    if (c == '{') return is_digit(peek(parser, 1)) || peek(parser, 1) == ',';
    return c == '*' || c == '+' || c == '?';
}

static int read_repetition(struct parser *parser, int child)
{
    size_t start = parser->at;
    int c = peek(parser, 0);
    int64_t min = c == '+', max = c == '?' ? 1 : -1;
    if (c != '{')
        parser->at++;
    else if (!read_bounds(parser, &min, &max))
        return -1;
    if (peek(parser, 0) == '?') parser->at++; /* lazy: the same texts */
    if (peek(parser, 0) == '+')
        return fail(parser, ERR_UNSUPPORTED, start, "possessive repetition is not supported");
    if (at_repetition(parser)) return fail(parser, ERR_INVALID, parser->at, "a repetition of a repetition");
    int node = node_add(parser, REGEX_REPEAT, start), last = -1;
    if (node < 0) return -1;
    node_append(parser, node, child, &last);
    parser->regex.nodes[node].min = min;
    parser->regex.nodes[node].max = max;
    return node;
}

/* --- Sequences and alternatives --- */

static int read_atom(struct parser *parser)
{
    size_t start = parser->at, size;
    int c = peek(parser, 0);
    struct regex_set set = {.first = parser->regex.n_ranges};
    if (c == '(') return read_group(parser);
    if (c == '[') return read_class(parser);
    if (c == '\\') {
        if (read_class_escape(parser, &set)) return set_node(parser, start, &set);
        int32_t code = parser->err ? -1 : read_escape(parser, false);
        return code < 0 ? -1 : character_node(parser, start, (uint32_t)code);
    }
    if (c == '^' || c == '$') {
        parser->at++;
        return node_add(parser, c == '^' ? REGEX_START : REGEX_END, start);
    }
    if (c == '.') {
        static const struct grammar_range line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
        parser->at++;
        set.negated = true;
        return add_ranges(parser, &set, line_ends, 3, false) ? set_node(parser, start, &set) : -1;
    }
    uint32_t code = utf8_decode(parser->pattern + start, &size);
    parser->at += size;
    return character_node(parser, start, code);
}

static int read_sequence(struct parser *parser)
{
    int node = node_add(parser, REGEX_SEQUENCE, parser->at), last = -1;
    while (!parser->err && peek(parser, 0) >= 0 && peek(parser, 0) != '|' && peek(parser, 0) != ')') {
        if (at_repetition(parser))
            return fail(parser, ERR_INVALID, parser->at, "nothing stands before '%c' that it could repeat",
                        peek(parser, 0));
        size_t start = parser->at;
        int item = read_atom(parser);
        if (parser->err) return -1;
        enum regex_type type = parser->regex.nodes[item].type;
        if (at_repetition(parser)) {
            if (type == REGEX_START || type == REGEX_END)
                return fail(parser, ERR_INVALID, parser->at, "'%c' cannot be repeated",
                            parser->pattern[start]);
            item = read_repetition(parser, item);
        }
        if (!parser->err) node_append(parser, node, item, &last);
    }
    return parser->err ? -1 : node;
}

static int read_choice(struct parser *parser)
{
    size_t start = parser->at;
    int node = read_sequence(parser), last = -1;
    if (parser->err || peek(parser, 0) != '|') return node;
    int choice = node_add(parser, REGEX_CHOICE, start);
    for (;;) {
        if (parser->err) return -1;
        node_append(parser, choice, node, &last);
        if (peek(parser, 0) != '|') return choice;
        parser->at++;
        node = read_sequence(parser);
    }
}

enum err regex_parse(const char *pattern, size_t length, struct regex *out, struct err_info *info)
{
    struct parser parser = {.pattern = pattern, .length = length, .info = info};
    if (length > MAX_PATTERN_BYTES)
        return err_set(info, ERR_LIMIT, "a pattern of %zu bytes, the most is %d", length, MAX_PATTERN_BYTES);
    size_t valid = utf8_valid(pattern, length);
    if (valid < length) return regex_fail(info, ERR_INVALID, pattern, (int)valid, "no UTF-8");
    parser.regex.root = read_choice(&parser);
    if (!parser.err && parser.at < length) fail(&parser, ERR_INVALID, parser.at, "')' without its '('");
    if (parser.err)
        regex_free(&parser.regex);
    else
        *out = parser.regex;
    return parser.err;
}

void regex_free(struct regex *regex)
{
    free(regex->nodes);
    free(regex->ranges);
}
