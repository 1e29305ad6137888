/*
 * Nodes that speak of characters: what UTF-8 makes of them.
 */
#include "model/grammar_internal.h"

#include <stdlib.h>
#include <string.h>

enum { LAST_POINT = 0x10FFFF, FIRST_SURROGATE = 0xD800, LAST_SURROGATE = 0xDFFF };

/* ---- Characters ---- */

static int byte_range(struct grammar_builder *builder, unsigned low, unsigned high)
{
    uint8_t set[32] = {0};
    for (unsigned b = low; b <= high; b++) set[b >> 3] |= (uint8_t)(1u << (b & 7));
    return grammar_byte(builder, set);
}

static int encode(uint32_t point, uint8_t bytes[4])
{
    if (point < 0x80) {
        bytes[0] = (uint8_t)point;
        return 1;
    }
    int n = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, point >>= 6) bytes[i] = (uint8_t)(0x80 | (point & 0x3F));
    bytes[0] = (uint8_t)((n == 2 ? 0xC0 : n == 3 ? 0xE0 : 0xF0) | point);
    return n;
}

struct node_list {
    struct grammar_builder *builder;
    struct grammar_pool nodes; /* int */
    bool failed;
};

static void list_add(struct node_list *list, int node)
{
    if (node < 0 || !grammar_pool_reserve(&list->nodes, 1, sizeof node))
        list->failed = true;
    else
        ((int *)list->nodes.items)[list->nodes.n++] = node;
}

/* All points from first to last: split until the bytes of an end differ in a way that each byte has a range
   of its own. */
static void range_add(struct node_list *list, uint32_t first, uint32_t last)
{
    static const uint32_t steps[] = {0x7F, 0x7FF, 0xFFFF};
    for (int i = 0; i < 3; i++) {
        if (first <= steps[i] && last > steps[i]) {
            range_add(list, first, steps[i]);
            range_add(list, steps[i] + 1, last);
            return;
        }
    }
    for (int bits = 6; bits <= 18; bits += 6) {
        uint32_t low = (1u << bits) - 1;
        if (last < 0x80 || (first & ~low) == (last & ~low)) break;
        if (first & low) {
            range_add(list, first, first | low);
            range_add(list, (first | low) + 1, last);
            return;
        }
        if ((last & low) != low) {
            range_add(list, first, (last & ~low) - 1);
            range_add(list, last & ~low, last);
            return;
        }
    }
    uint8_t a[4], b[4];
    int n = encode(first, a), nodes[4];
    encode(last, b);
    for (int i = 0; i < n; i++) nodes[i] = byte_range(list->builder, a[i], b[i]);
    list_add(list, grammar_sequence(list->builder, nodes, n));
}

static void range_add_legal(struct node_list *list, uint32_t first, uint32_t last)
{
    if (last > LAST_POINT) last = LAST_POINT;
    if (first < FIRST_SURROGATE && last >= FIRST_SURROGATE) {
        range_add(list, first, FIRST_SURROGATE - 1);
        first = FIRST_SURROGATE;
    }
    if (first >= FIRST_SURROGATE && first <= LAST_SURROGATE) first = LAST_SURROGATE + 1;
    if (first <= last) range_add(list, first, last);
}

static int compare_ranges(const void *a, const void *b)
{
    const struct grammar_range *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* ranges is sorted. */
static void ranges_add(struct node_list *list, const struct grammar_range *ranges, int n, bool negated)
{
    uint32_t from = 0; /* not spoken of yet */
    for (int i = 0; i < n && !list->failed; i++) {
        uint32_t first = ranges[i].first, last = ranges[i].last;
        if (last > LAST_POINT) last = LAST_POINT;
        if (last < first || last < from) continue;
        if (negated && first > from) range_add_legal(list, from, first - 1);
        if (!negated) range_add_legal(list, first > from ? first : from, last);
        from = last + 1;
    }
    if (negated && from <= LAST_POINT && !list->failed) range_add_legal(list, from, LAST_POINT);
}

int grammar_character(struct grammar_builder *builder, const struct grammar_range *ranges, int n,
                      bool negated)
{
    if (builder->fault.code != ERR_OK) return -1;
    struct grammar_range *sorted = malloc(((size_t)n + 1) * sizeof *sorted);
    if (!sorted) return grammar_builder_fail(builder, ERR_MEMORY, "no memory for the grammar");
    if (n) memcpy(sorted, ranges, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, compare_ranges);
    struct node_list list = {.builder = builder};
    ranges_add(&list, sorted, n, negated);
    free(sorted);
    /* What is one byte becomes one set. */
    int *nodes = list.nodes.items, n_ones = 0;
    for (size_t i = 0; i < list.nodes.n; i++) {
        if (grammar_nodes(builder)[nodes[i]].kind != NODE_BYTE) continue;
        int other = nodes[n_ones];
        nodes[n_ones++] = nodes[i];
        nodes[i] = other;
    }
    int result = -1;
    if (!list.failed && n_ones > 1) {
        nodes[0] = grammar_choice(builder, nodes, n_ones);
        memmove(nodes + 1, nodes + n_ones, (list.nodes.n - (size_t)n_ones) * sizeof *nodes);
        list.nodes.n -= (size_t)n_ones - 1;
    }
    if (!list.failed)
        result = grammar_choice(builder, nodes, (int)list.nodes.n);
    else
        grammar_builder_fail(builder, ERR_MEMORY, "no memory for the grammar");
    free(nodes);
    return result;
}

/* ---- Text without some strings ---- */

/* States of UTF-8 between bytes: 0 a character is complete; what may come next is in `low` and `high`. */
static const struct {
    uint8_t low, high;
} utf8_next[] = {{0, 0},       {0x80, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF},
                 {0xA0, 0xBF}, {0x80, 0x9F}, {0x90, 0xBF}, {0x80, 0x8F}};
enum { UTF8_STATES = 8 };

static int utf8_step(int state, unsigned byte)
{
    if (state == 0) {
        if (byte < 0x80) return 0;
        if (byte < 0xC2 || byte > 0xF4) return -1;
        if (byte < 0xE0) return 1;
        if (byte < 0xF0) return byte == 0xE0 ? 4 : byte == 0xED ? 5 : 2;
        return byte == 0xF0 ? 6 : byte == 0xF4 ? 7 : 3;
    }
    if (byte < utf8_next[state].low || byte > utf8_next[state].high) return -1;
    static const int after[] = {0, 0, 1, 2, 1, 1, 2, 2};
    return after[state];
}

/* Aho, Corasick: Efficient String Matching, 1975. */
struct matcher {
    int32_t (*next)[256]; /* a complete automaton */
    int32_t *fail, *queue;
    bool *is_match;
    size_t n;
};

static void matcher_fill(struct matcher *matcher, const char *const *strings, const size_t *lengths, int n)
{
    matcher->n = 1;
    memset(matcher->next[0], 0xFF, sizeof matcher->next[0]);
    for (int i = 0; i < n; i++) {
        int32_t at = 0;
        for (size_t j = 0; j < lengths[i]; j++) {
            int32_t *next = &matcher->next[at][(unsigned char)strings[i][j]];
            if (*next < 0) {
                *next = (int32_t)matcher->n++;
                memset(matcher->next[*next], 0xFF, sizeof matcher->next[0]);
            }
            at = matcher->next[at][(unsigned char)strings[i][j]];
        }
        matcher->is_match[at] = true;
    }
    size_t n_queue = 0;
    for (int b = 0; b < 256; b++) {
        int32_t *next = &matcher->next[0][b];
        if (*next < 0) *next = 0;
        if (*next) matcher->queue[n_queue++] = *next; /* fail is 0 */
    }
    for (size_t i = 0; i < n_queue; i++) {
        int32_t at = matcher->queue[i], fail = matcher->fail[at];
        matcher->is_match[at] |= matcher->is_match[fail];
        for (int b = 0; b < 256; b++) {
            int32_t *next = &matcher->next[at][b];
            if (*next < 0) {
                *next = matcher->next[fail][b];
            } else {
                matcher->fail[*next] = matcher->next[fail][b];
                matcher->queue[n_queue++] = *next;
            }
        }
    }
}

/* The product of the matcher and UTF-8, as far as it is reached. number: [n * UTF8_STATES], -1. */
static int product_node(struct grammar_builder *builder, const struct matcher *matcher, int32_t *number,
                        int32_t *queue, uint8_t *finals)
{
    struct grammar_pool edges = {0};
    size_t n_states = 1;
    int node = -1;
    number[0] = 0;
    queue[0] = 0;
    for (size_t i = 0; i < n_states; i++) {
        int32_t at = queue[i] / UTF8_STATES;
        int utf8 = queue[i] % UTF8_STATES;
        finals[i] = utf8 == 0;
        int32_t targets[256];
        for (unsigned b = 0; b < 256; b++) {
            int after = utf8_step(utf8, b);
            int32_t next = matcher->next[at][b];
            targets[b] = after < 0 || matcher->is_match[next] ? -1 : next * UTF8_STATES + after;
        }
        for (unsigned b = 0; b < 256; b++) {
            int32_t target = targets[b];
            if (target < 0) continue;
            struct grammar_set set = {{0}};
            for (unsigned c = b; c < 256; c++) {
                if (targets[c] != target) continue;
                grammar_set_put(&set, c);
                targets[c] = -1;
            }
            if (number[target] < 0) {
                queue[n_states] = target;
                number[target] = (int32_t)n_states++;
            }
            int index = grammar_set_add(builder, &set);
            if (index < 0 || !grammar_pool_reserve(&edges, 1, sizeof(struct grammar_table_edge))) goto out;
            ((struct grammar_table_edge *)edges.items)[edges.n++] =
                (struct grammar_table_edge){(uint32_t)i, (uint32_t)number[target], (uint32_t)index};
        }
    }
    node = grammar_table_node(builder, edges.items, edges.n, finals, n_states);
out:
    free(edges.items);
    return node;
}

int grammar_without(struct grammar_builder *builder, const char *const *strings, const size_t *lengths, int n)
{
    if (builder->fault.code != ERR_OK) return -1;
    size_t total = 1;
    for (int i = 0; i < n; i++) {
        if (lengths[i] == 0) return grammar_choice(builder, NULL, 0); /* every text has the empty one */
        if (lengths[i] > 65536 || total > 65536)
            return grammar_builder_fail(builder, ERR_LIMIT,
                                        "the strings that may not occur have more than 65536 bytes");
        total += lengths[i];
    }
    struct matcher matcher = {.next = malloc(total * sizeof *matcher.next),
                              .fail = calloc(total, sizeof *matcher.fail),
                              .queue = malloc(total * sizeof *matcher.queue),
                              .is_match = calloc(total, sizeof *matcher.is_match)};
    int32_t *number = malloc(total * UTF8_STATES * sizeof *number);
    int32_t *queue = malloc(total * UTF8_STATES * sizeof *queue);
    uint8_t *finals = malloc(total * UTF8_STATES);
    int node = -1;
    if (matcher.next && matcher.fail && matcher.queue && matcher.is_match && number && queue && finals) {
        memset(number, 0xFF, total * UTF8_STATES * sizeof *number);
        matcher_fill(&matcher, strings, lengths, n);
        node = product_node(builder, &matcher, number, queue, finals);
    }
    if (node < 0) grammar_builder_fail(builder, ERR_MEMORY, "no memory for the grammar");
    free(matcher.next);
    free(matcher.fail);
    free(matcher.queue);
    free(matcher.is_match);
    free(number);
    free(queue);
    free(finals);
    return node;
}
