/*
 * The builder: nodes in an array, children before parents but for rules. Equal nodes are one node, so that a
 * front end may make the same character class a thousand times.
 */
#include "model/grammar_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

const struct grammar_limits grammar_limits_default = {
    .max_nodes = 400000,
    .max_states = 200000,
    .max_bytes = (size_t)64 << 20,
    .max_time_us = 2000000,
    .max_depth = 1024,
};

enum { MANY_WORDS = 64 }; /* of literals in one choice */

bool grammar_pool_reserve(struct grammar_pool *pool, size_t n, size_t item_bytes)
{
    if (n <= pool->capacity - pool->n) return true;
    if (n > SIZE_MAX / 4 / item_bytes - pool->n) return false;
    size_t capacity = (pool->n + n) * 2 + 64;
    void *grown = realloc(pool->items, capacity * item_bytes);
    if (!grown) return false;
    pool->items = grown;
    pool->capacity = capacity;
    return true;
}

struct grammar_builder *grammar_builder_create(const struct grammar_limits *limits)
{
    struct grammar_builder *builder = calloc(1, sizeof *builder);
    if (!builder) return NULL;
    builder->limits = *limits;
    grammar_watch_start(&builder->watch, &builder->limits, &builder->fault);
    builder->n_slots = 256;
    builder->slots = calloc(builder->n_slots, sizeof *builder->slots);
    /* Never NULL: nodes without content point to their start. */
    if (builder->slots && grammar_pool_reserve(&builder->links, 1, sizeof(uint32_t)) &&
        grammar_pool_reserve(&builder->bytes, 1, 1))
        return builder;
    grammar_builder_free(builder);
    return NULL;
}

void grammar_builder_free(struct grammar_builder *builder)
{
    if (!builder) return;
    free(builder->nodes.items);
    free(builder->links.items);
    free(builder->bytes.items);
    free(builder->sets.items);
    free(builder->tables.items);
    free(builder->table_edges.items);
    free(builder->slots);
    free(builder);
}

int grammar_builder_fail(struct grammar_builder *builder, enum err code, const char *format, ...)
{
    if (builder->fault.code != ERR_OK) return -1;
    builder->fault.code = code;
    builder->fault.param[0] = 0;
    va_list args;
    va_start(args, format);
    vsnprintf(builder->fault.message, sizeof builder->fault.message, format, args);
    va_end(args);
    return -1;
}

enum err grammar_builder_check(const struct grammar_builder *builder, struct err_info *info)
{
    return grammar_watch_look(&builder->watch, info);
}

int grammar_fail(struct grammar_builder *builder, const struct err_info *info)
{
    if (builder->fault.code == ERR_OK) builder->fault = *info;
    return -1;
}

static int no_memory(struct grammar_builder *builder)
{
    return grammar_builder_fail(builder, ERR_MEMORY, "no memory for the grammar");
}

/* ---- Equal nodes ---- */

static const void *node_content(const struct grammar_builder *builder, const struct grammar_node *node,
                                size_t *length)
{
    *length = 0;
    if (node->kind == NODE_LITERAL) {
        *length = node->n;
        return grammar_text(builder) + node->first;
    }
    if (node->kind == NODE_SEQUENCE || node->kind == NODE_CHOICE) {
        *length = node->n * sizeof(uint32_t);
        return grammar_links(builder) + node->first;
    }
    return "";
}

static uint64_t node_hash(const struct grammar_builder *builder, const struct grammar_node *node)
{
    size_t length = 0;
    const void *content = node_content(builder, node, &length);
    uint64_t seed = (uint64_t)node->kind * 0x9E3779B97F4A7C15u;
    if (node->kind == NODE_BYTE || node->kind == NODE_REPEAT)
        seed += (uint64_t)node->first * 0xBF58476D1CE4E5B9u + (uint64_t)node->min * 31 + (uint64_t)node->max;
    return length ? XXH3_64bits_withSeed(content, length, seed) : XXH3_64bits(&seed, sizeof seed);
}

static bool node_equal(const struct grammar_builder *builder, const struct grammar_node *a,
                       const struct grammar_node *b)
{
    if (a->kind != b->kind || a->n != b->n || a->min != b->min || a->max != b->max) return false;
    if (a->kind == NODE_BYTE || a->kind == NODE_REPEAT) return a->first == b->first;
    size_t length = 0;
    const void *content = node_content(builder, a, &length);
    return length == 0 || memcmp(content, node_content(builder, b, &length), length) == 0;
}

static bool slots_grow(struct grammar_builder *builder)
{
    if (builder->nodes.n * 2 < builder->n_slots) return true;
    size_t n_slots = builder->n_slots * 4;
    uint32_t *slots = calloc(n_slots, sizeof *slots);
    if (!slots) return false;
    for (size_t i = 0; i < builder->n_slots; i++) {
        if (!builder->slots[i]) continue;
        size_t slot = node_hash(builder, &grammar_nodes(builder)[builder->slots[i] - 1]) & (n_slots - 1);
        while (slots[slot]) slot = (slot + 1) & (n_slots - 1);
        slots[slot] = builder->slots[i];
    }
    free(builder->slots);
    builder->slots = slots;
    builder->n_slots = n_slots;
    return true;
}

/* A new node, never one that is there. */
static int node_append(struct grammar_builder *builder, const struct grammar_node *node)
{
    if (builder->fault.code != ERR_OK) return -1;
    if (builder->nodes.n >= builder->limits.max_nodes)
        return grammar_builder_fail(builder, ERR_LIMIT, "the grammar has more than %zu nodes",
                                    builder->limits.max_nodes);
    if (!grammar_pool_reserve(&builder->nodes, 1, sizeof *node)) return no_memory(builder);
    grammar_nodes(builder)[builder->nodes.n] = *node;
    return (int)builder->nodes.n++;
}

/* The node, or an equal one. Its content is the end of the pool, taken back when it is not needed. */
static int node_make(struct grammar_builder *builder, const struct grammar_node *node)
{
    if (builder->fault.code != ERR_OK || grammar_watch_check(&builder->watch) != ERR_OK) return -1;
    if (!slots_grow(builder)) return no_memory(builder);
    size_t slot = node_hash(builder, node) & (builder->n_slots - 1);
    for (; builder->slots[slot]; slot = (slot + 1) & (builder->n_slots - 1)) {
        uint32_t known = builder->slots[slot] - 1;
        if (!node_equal(builder, node, &grammar_nodes(builder)[known])) continue;
        if (node->kind == NODE_LITERAL) builder->bytes.n = node->first;
        if (node->kind == NODE_SEQUENCE || node->kind == NODE_CHOICE) builder->links.n = node->first;
        return (int)known;
    }
    int made = node_append(builder, node);
    if (made >= 0) builder->slots[slot] = (uint32_t)made + 1;
    return made;
}

static bool content_fits(struct grammar_builder *builder, size_t n)
{
    size_t most = builder->limits.max_bytes / 4;
    if (most > INT32_MAX) most = INT32_MAX;
    if (n <= most && builder->bytes.n + builder->links.n * sizeof(uint32_t) <= most - n) return true;
    grammar_builder_fail(builder, ERR_LIMIT, "the grammar's text takes more than %zu bytes", most);
    return false;
}

static int bytes_append(struct grammar_builder *builder, const void *bytes, size_t n)
{
    if (!content_fits(builder, n)) return -1;
    if (!grammar_pool_reserve(&builder->bytes, n, 1)) return no_memory(builder);
    size_t at = builder->bytes.n;
    if (n) memcpy((uint8_t *)builder->bytes.items + at, bytes, n);
    builder->bytes.n += n;
    return (int)at;
}

/* ---- Nodes ---- */

int grammar_literal(struct grammar_builder *builder, const char *bytes, size_t length)
{
    if (builder->fault.code != ERR_OK) return -1;
    int at = bytes_append(builder, bytes, length);
    if (at < 0) return -1;
    return node_make(builder,
                     &(struct grammar_node){.kind = NODE_LITERAL, .first = at, .n = (uint32_t)length});
}

int grammar_set_add(struct grammar_builder *builder, const struct grammar_set *set)
{
    if (!grammar_pool_reserve(&builder->sets, 1, sizeof *set)) return no_memory(builder);
    struct grammar_set *sets = builder->sets.items;
    for (size_t i = builder->sets.n; i-- > 0 && builder->sets.n - i < 512;)
        if (memcmp(&sets[i], set, sizeof *set) == 0) return (int)i;
    if (!content_fits(builder, builder->sets.n * sizeof *set)) return -1;
    sets[builder->sets.n] = *set;
    return (int)builder->sets.n++;
}

static int set_node(struct grammar_builder *builder, const struct grammar_set *set)
{
    if (builder->fault.code != ERR_OK) return -1;
    int index = grammar_set_add(builder, set);
    if (index < 0) return -1;
    return node_make(builder, &(struct grammar_node){.kind = NODE_BYTE, .first = index});
}

int grammar_byte(struct grammar_builder *builder, const uint8_t set[32])
{
    struct grammar_set bits = {{0}};
    for (unsigned b = 0; b < 256; b++)
        if (set[b >> 3] >> (b & 7) & 1) grammar_set_put(&bits, b);
    return set_node(builder, &bits);
}

static bool nodes_are_given(struct grammar_builder *builder, const int *nodes, int n)
{
    if (builder->fault.code != ERR_OK) return false;
    for (int i = 0; i < n; i++) {
        if (nodes[i] < 0) return false; /* the reason was remembered where it was made */
        if ((size_t)nodes[i] >= builder->nodes.n) {
            grammar_builder_fail(builder, ERR_INVALID, "node %d of the grammar does not exist", nodes[i]);
            return false;
        }
    }
    return true;
}

static int list_node(struct grammar_builder *builder, enum grammar_kind kind, const int *nodes, int n)
{
    if (!content_fits(builder, (size_t)n * sizeof(uint32_t))) return -1;
    if (!grammar_pool_reserve(&builder->links, (size_t)n, sizeof(uint32_t))) return no_memory(builder);
    uint32_t *links = builder->links.items;
    uint32_t first = (uint32_t)builder->links.n;
    for (int i = 0; i < n; i++) links[builder->links.n++] = (uint32_t)nodes[i];
    return node_make(builder, &(struct grammar_node){.kind = kind, .first = first, .n = (uint32_t)n});
}

int grammar_sequence(struct grammar_builder *builder, const int *nodes, int n)
{
    if (!nodes_are_given(builder, nodes, n)) return -1;
    if (n == 0) return grammar_literal(builder, "", 0);
    return n == 1 ? nodes[0] : list_node(builder, NODE_SEQUENCE, nodes, n);
}

/* The node as one byte of a set. */
static bool node_set(const struct grammar_builder *builder, int at, struct grammar_set *set)
{
    const struct grammar_node *node = &grammar_nodes(builder)[at];
    if (node->kind == NODE_BYTE) {
        *set = grammar_sets(builder)[node->first];
        return true;
    }
    if (node->kind != NODE_LITERAL || node->n != 1) return false;
    *set = (struct grammar_set){{0}};
    grammar_set_put(set, grammar_text(builder)[node->first]);
    return true;
}

/* A choice with many literals: those as one node. */
static int words_choice(struct grammar_builder *builder, const int *nodes, int n)
{
    int *words = malloc((size_t)n * 2 * sizeof *words), *others = words + n, n_words = 0, n_others = 1;
    if (!words) return no_memory(builder);
    for (int i = 0; i < n; i++) {
        if (grammar_nodes(builder)[nodes[i]].kind == NODE_LITERAL)
            words[n_words++] = nodes[i];
        else
            others[n_others++] = nodes[i];
    }
    others[0] = grammar_words_node(builder, words, n_words);
    int node = others[0];
    if (node >= 0 && n_others > 1) node = list_node(builder, NODE_CHOICE, others, n_others);
    free(words);
    return node;
}

int grammar_choice(struct grammar_builder *builder, const int *nodes, int n)
{
    if (!nodes_are_given(builder, nodes, n)) return -1;
    struct grammar_set all = {{0}}, one;
    bool only_sets = true;
    for (int i = 0; i < n && only_sets; i++) {
        only_sets = node_set(builder, nodes[i], &one);
        for (int w = 0; only_sets && w < 4; w++) all.bits[w] |= one.bits[w];
    }
    if (n == 1) return nodes[0];
    int n_literals = 0;
    for (int i = 0; i < n && !only_sets; i++)
        n_literals += grammar_nodes(builder)[nodes[i]].kind == NODE_LITERAL;
    if (n_literals >= MANY_WORDS) return words_choice(builder, nodes, n);
    return only_sets ? set_node(builder, &all) : list_node(builder, NODE_CHOICE, nodes, n);
}

/* (X{a,b}){min,max} is X{a min, b max} when no number of times between is left out: fewer ways to read a
   text. */
static void repeat_merge(const struct grammar_builder *builder, int *node, int64_t *min, int64_t *max)
{
    const struct grammar_node *inner = &grammar_nodes(builder)[*node];
    if (inner->kind != NODE_REPEAT) return;
    int64_t a = inner->min, b = inner->max;
    bool whole = *min == *max || (b < 0 ? *min > 0 || a <= 1 : a * (*min + 1) <= b * *min + 1);
    int64_t least = a * *min, most = b < 0 || *max < 0 ? -1 : b * *max;
    if (!whole || least > INT32_MAX || most > INT32_MAX) return;
    *node = (int)inner->first;
    *min = least;
    *max = most;
}

int grammar_repeat(struct grammar_builder *builder, int node, int64_t min, int64_t max)
{
    if (!nodes_are_given(builder, &node, 1)) return -1;
    if (min < 0 || max < -1 || (max >= 0 && max < min))
        return grammar_builder_fail(builder, ERR_INVALID, "%lld to %lld times is not possible",
                                    (long long)min, (long long)max);
    if (min > INT32_MAX || max > INT32_MAX)
        return grammar_builder_fail(builder, ERR_LIMIT, "something is repeated %lld times, more than %d",
                                    (long long)(max > min ? max : min), INT32_MAX);
    if (max == 0) return grammar_literal(builder, "", 0);
    repeat_merge(builder, &node, &min, &max);
    if (min == 1 && max == 1) return node;
    return node_make(builder, &(struct grammar_node){
                                  .kind = NODE_REPEAT, .first = (uint32_t)node, .min = min, .max = max});
}

int grammar_table_node(struct grammar_builder *builder, const struct grammar_table_edge *edges,
                       size_t n_edges, const uint8_t *finals, size_t n_states)
{
    if (builder->fault.code != ERR_OK) return -1;
    int first_final = bytes_append(builder, finals, n_states);
    if (first_final < 0) return -1;
    if (!grammar_pool_reserve(&builder->tables, 1, sizeof(struct grammar_table)) ||
        !grammar_pool_reserve(&builder->table_edges, n_edges + 1, sizeof *edges)) /* never NULL */
        return no_memory(builder);
    struct grammar_table_edge *all = builder->table_edges.items;
    if (n_edges > 0) memcpy(all + builder->table_edges.n, edges, n_edges * sizeof *edges);
    ((struct grammar_table *)builder->tables.items)[builder->tables.n] = (struct grammar_table){
        (uint32_t)n_states, (uint32_t)builder->table_edges.n, (uint32_t)n_edges, (uint32_t)first_final};
    builder->table_edges.n += n_edges;
    return node_append(builder,
                       &(struct grammar_node){.kind = NODE_TABLE, .first = (uint32_t)builder->tables.n++});
}

int grammar_rule(struct grammar_builder *builder, const char *name)
{
    if (builder->fault.code != ERR_OK) return -1;
    int at = bytes_append(builder, name, strlen(name) + 1);
    if (at < 0) return -1;
    return node_append(builder, &(struct grammar_node){.kind = NODE_RULE, .first = GRAMMAR_NONE, .min = at});
}

void grammar_define(struct grammar_builder *builder, int rule, int node)
{
    if (rule < 0 || node < 0 || !nodes_are_given(builder, (int[]){rule, node}, 2)) return;
    struct grammar_node *it = &grammar_nodes(builder)[rule];
    if (it->kind != NODE_RULE || it->first != GRAMMAR_NONE)
        grammar_builder_fail(builder, ERR_INVALID, "rule '%s' is defined twice",
                             it->kind == NODE_RULE ? (const char *)grammar_text(builder) + it->min : "");
    else
        it->first = (uint32_t)node;
}
