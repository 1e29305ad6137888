#include "model/grammar_regex.h"

#include "config/arena.h"
#include "config/buf.h"
#include "config/utf8.h"
#include "model/automaton.h"

#include <stdlib.h>
#include <string.h>

/*
 * From a pattern's tree to a grammar's nodes. A search is a match with any text before and after it, and the
 * anchors say where there is none: "^a|b$" is "a, then any text, or any text, then b". So the text around is
 * not put about the whole, but handed down to the pattern's edges, where an anchor may stop it. An anchor
 * that is not at an edge matches in few places if any; such patterns are refused.
 */

/* Longer patterns are left as they are: the time to make an automaton grows faster than they. */
enum { MAX_DETERMINED_BYTES = 1024 };

/* What lies beyond the left or the right end of a part of the pattern. */
enum edge {
    EDGE_INSIDE, /* more of the pattern */
    EDGE_OPEN,   /* any text, which the part has to make */
    EDGE_CLOSED, /* the text's end */
};

struct emitter {
    struct grammar_builder *builder;
    const struct regex *regex;
    const char *pattern;
    bool json_string;
    int any_text; /* the node; -1: not made yet */
    int *items;   /* of the sequences and choices being made, the innermost last */
    size_t n_items, items_capacity;
    struct buf literal; /* characters that follow each other, not yet an item */
    struct err_info *info;
    enum err err;
};

/* --- Characters --- */

static void set_bit(uint8_t set[32], int byte)
{
    set[byte >> 3] |= (uint8_t)(1u << (byte & 7));
}

/* "\u00" and the two digits of the control characters whose bits are set. */
static int control_escapes(struct grammar_builder *builder, uint32_t controls)
{
    static const char hex[] = "0123456789abcdef", upper[] = "0123456789ABCDEF";
    int choices[2], n = 0;
    for (int high = 0; high < 2; high++) {
        uint8_t low[32] = {0};
        for (int i = 0; i < 16; i++) {
            if (!(controls >> (16 * high + i) & 1)) continue;
            set_bit(low, hex[i]);
            set_bit(low, upper[i]);
        }
        if (!(controls >> (16 * high) & 0xFFFF)) continue;
        int digits[2] = {grammar_literal(builder, high ? "1" : "0", 1), grammar_byte(builder, low)};
        choices[n++] = grammar_sequence(builder, digits, 2);
    }
    int parts[2] = {grammar_literal(builder, "\\u00", 4), grammar_choice(builder, choices, n)};
    return grammar_sequence(builder, parts, 2);
}

static bool has(const struct grammar_range *ranges, int n, uint32_t code)
{
    for (int i = 0; i < n && ranges[i].first <= code; i++)
        if (ranges[i].last >= code) return true;
    return false;
}

/* Some of the characters of ranges, as they stand inside of a JSON string. */
static int json_characters(struct grammar_builder *builder, const struct grammar_range *ranges, int n)
{
    static const char meanings[] = "\"\\/\b\f\n\r\t", letters[] = "\"\\/bfnrt";
    /* U+0020 and on, but for the quote and the backslash. */
    static const struct grammar_range unescaped[] = {{0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0x10FFFF}};
    int choices[3], n_choices = 0, n_raw = 0;
    struct grammar_range *raw = malloc((size_t)(n + 3) * sizeof *raw);
    if (!raw) return -2;
    for (int i = 0, j = 0; i < n && j < 3;) {
        uint32_t first = ranges[i].first > unescaped[j].first ? ranges[i].first : unescaped[j].first;
        uint32_t last = ranges[i].last < unescaped[j].last ? ranges[i].last : unescaped[j].last;
        if (first <= last) raw[n_raw++] = (struct grammar_range){first, last};
        if (ranges[i].last < unescaped[j].last)
            i++;
        else
            j++;
    }
    if (n_raw > 0) choices[n_choices++] = grammar_character(builder, raw, n_raw, false);
    free(raw);
    uint8_t letter_set[32] = {0};
    bool letter_any = false;
    for (size_t i = 0; i < sizeof meanings - 1; i++) {
        if (!has(ranges, n, (uint32_t)(unsigned char)meanings[i])) continue;
        set_bit(letter_set, (unsigned char)letters[i]);
        letter_any = true;
    }
    if (letter_any) {
        int parts[2] = {grammar_literal(builder, "\\", 1), grammar_byte(builder, letter_set)};
        choices[n_choices++] = grammar_sequence(builder, parts, 2);
    }
    uint32_t controls = 0;
    for (uint32_t code = 0; code < 0x20; code++)
        if (has(ranges, n, code)) controls |= 1u << code;
    if (controls) choices[n_choices++] = control_escapes(builder, controls);
    return n_choices == 1 ? choices[0] : grammar_choice(builder, choices, n_choices);
}

static int set_node(struct emitter *emitter, const struct regex_set *set)
{
    struct grammar_range *ranges;
    int n;
    emitter->err = grammar_builder_check(emitter->builder, emitter->info);
    if (!emitter->err) emitter->err = regex_set_ranges(emitter->regex, set, &ranges, &n, emitter->info);
    if (emitter->err) return -1;
    int node = emitter->json_string ? json_characters(emitter->builder, ranges, n)
                                    : grammar_character(emitter->builder, ranges, n, false);
    free(ranges);
    if (node == -2) emitter->err = err_set(emitter->info, ERR_MEMORY, "no memory for a set of characters");
    return node;
}

/* The character that a node always is, in one spelling only; -1: it is not like that. */
static int64_t plain_character(const struct emitter *emitter, const struct regex_node *node)
{
    if (node->type != REGEX_SET || node->set.negated || node->set.categories || node->set.n != 1) return -1;
    struct grammar_range range = emitter->regex->ranges[node->set.first];
    if (range.first != range.last) return -1;
    bool escaped = range.first < 0x20 || (range.first < 0x80 && strchr("\"\\/", (int)range.first));
    if (emitter->json_string && escaped) return -1;
    return range.first;
}

/* --- Items of sequences and choices --- */

static void push(struct emitter *emitter, int node)
{
    if (emitter->n_items == emitter->items_capacity) {
        size_t capacity = emitter->items_capacity * 2 + 64;
        int *grown = realloc(emitter->items, capacity * sizeof *grown);
        if (!grown) {
            emitter->err = err_set(emitter->info, ERR_MEMORY, "no memory for a pattern");
            return;
        }
        emitter->items = grown;
        emitter->items_capacity = capacity;
    }
    emitter->items[emitter->n_items++] = node;
}

static void push_literal(struct emitter *emitter)
{
    if (emitter->literal.length == 0) return;
    push(emitter, grammar_literal(emitter->builder, emitter->literal.data, emitter->literal.length));
    buf_clear(&emitter->literal);
}

/* The items above base as one node. */
static int pop_sequence(struct emitter *emitter, size_t base)
{
    size_t n = emitter->n_items - base;
    emitter->n_items = base;
    if (n == 1) return emitter->items[base];
    return grammar_sequence(emitter->builder, n > 0 ? emitter->items + base : NULL, (int)n);
}

static int any_text(struct emitter *emitter)
{
    static const struct regex_set everything = {.negated = true};
    if (emitter->any_text < 0)
        emitter->any_text = grammar_repeat(emitter->builder, set_node(emitter, &everything), 0, -1);
    return emitter->any_text;
}

/* --- Nodes --- */

static int emit(struct emitter *emitter, int index, enum edge left, enum edge right);

static int emit_anchor(struct emitter *emitter, const struct regex_node *node, enum edge left,
                       enum edge right)
{
    bool start = node->type == REGEX_START;
    if ((start ? left : right) == EDGE_INSIDE) {
        emitter->err = regex_fail(emitter->info, ERR_UNSUPPORTED, emitter->pattern, node->offset,
                                  "'%c' is only supported at the %s of the pattern or of an alternative",
                                  start ? '^' : '$', start ? "start" : "end");
        return -1;
    }
    return (start ? right : left) == EDGE_OPEN ? any_text(emitter)
                                               : grammar_literal(emitter->builder, NULL, 0);
}

static int emit_sequence(struct emitter *emitter, const struct regex_node *node, enum edge left,
                         enum edge right)
{
    const struct regex_node *nodes = emitter->regex->nodes;
    size_t base = emitter->n_items;
    int first = node->child, last = -1;
    for (; first >= 0 && nodes[first].type == REGEX_START && left != EDGE_INSIDE; first = nodes[first].next)
        left = EDGE_CLOSED;
    /* The last that is no '$' at the end. */
    for (int i = first; i >= 0; i = nodes[i].next)
        if (nodes[i].type != REGEX_END || right == EDGE_INSIDE) last = i;
    if (first >= 0 && (last < 0 || nodes[last].next >= 0)) right = EDGE_CLOSED;
    if (last < 0)
        return left == EDGE_OPEN || right == EDGE_OPEN ? any_text(emitter) : pop_sequence(emitter, base);
    for (int i = first;; i = nodes[i].next) {
        int64_t code = plain_character(emitter, &nodes[i]);
        enum edge before = i == first ? left : EDGE_INSIDE, after = i == last ? right : EDGE_INSIDE;
        if (code >= 0 && before != EDGE_OPEN && after != EDGE_OPEN) {
            char bytes[4];
            buf_append(&emitter->literal, bytes, utf8_encode((uint32_t)code, bytes));
        } else {
            push_literal(emitter);
            int item = emit(emitter, i, before, after);
            if (!emitter->err) push(emitter, item);
        }
        if (emitter->err) return -1;
        if (i == last) break;
    }
    push_literal(emitter);
    return emitter->err ? -1 : pop_sequence(emitter, base);
}

static int emit_choice(struct emitter *emitter, const struct regex_node *node, enum edge left,
                       enum edge right)
{
    size_t base = emitter->n_items;
    for (int i = node->child; i >= 0; i = emitter->regex->nodes[i].next) {
        int item = emit(emitter, i, left, right);
        if (!emitter->err) push(emitter, item);
        if (emitter->err) return -1;
    }
    size_t n = emitter->n_items - base;
    emitter->n_items = base;
    return grammar_choice(emitter->builder, emitter->items + base, (int)n);
}

/* A part in which no anchor is, with the text that its open edges ask for. */
static int emit_between(struct emitter *emitter, int index, bool before, bool after)
{
    int parts[3], n = 0;
    if (before) parts[n++] = any_text(emitter);
    parts[n++] = emit(emitter, index, EDGE_INSIDE, EDGE_INSIDE);
    if (after) parts[n++] = any_text(emitter);
    return emitter->err ? -1 : grammar_sequence(emitter->builder, parts, n);
}

static int emit(struct emitter *emitter, int index, enum edge left, enum edge right)
{
    const struct regex_node *node = &emitter->regex->nodes[index];
    if (!node->anchored && (left == EDGE_OPEN || right == EDGE_OPEN))
        return emit_between(emitter, index, left == EDGE_OPEN, right == EDGE_OPEN);
    switch (node->type) {
    case REGEX_SET:
        return set_node(emitter, &node->set);
    case REGEX_SEQUENCE:
        return emit_sequence(emitter, node, left, right);
    case REGEX_CHOICE:
        return emit_choice(emitter, node, left, right);
    case REGEX_START:
    case REGEX_END:
        return emit_anchor(emitter, node, left, right);
    case REGEX_REPEAT:
        break;
    }
    int child = emit(emitter, node->child, EDGE_INSIDE, EDGE_INSIDE);
    return emitter->err ? -1 : grammar_repeat(emitter->builder, child, node->min, node->max);
}

/* The node's texts by a deterministic automaton, where that is small: a pattern has many ways to read a text
   ("(.+\\n){3,}" somewhere in it), and a grammar would follow each of them, as far as its limit goes. */
static int determined(struct grammar_builder *builder, int node)
{
    struct arena *arena = arena_create((size_t)64 << 20);
    struct automaton *automaton = arena ? automaton_of_node(builder, arena, node) : NULL;
    if (automaton && automaton->n > 0) node = automaton_node(builder, arena, automaton);
    arena_free(arena);
    return node;
}

enum err grammar_regex(struct grammar_builder *builder, const char *pattern, size_t length,
                       const struct grammar_regex_options *options, int *out, struct err_info *info)
{
    struct regex regex;
    enum err err = regex_parse(pattern, length, &regex, info);
    if (err) return err;
    struct emitter emitter = {.builder = builder,
                              .regex = &regex,
                              .pattern = pattern,
                              .json_string = options->json_string,
                              .any_text = -1,
                              .info = info};
    buf_init(&emitter.literal, SIZE_MAX);
    enum edge edge = options->search ? EDGE_OPEN : EDGE_CLOSED;
    int node = emit(&emitter, regex.root, edge, edge);
    if (!emitter.err && emitter.literal.failed)
        emitter.err = err_set(info, ERR_MEMORY, "no memory for a pattern");
    if (!emitter.err) *out = node < 0 || length > MAX_DETERMINED_BYTES ? node : determined(builder, node);
    free(emitter.items);
    buf_free(&emitter.literal);
    regex_free(&regex);
    return emitter.err;
}
