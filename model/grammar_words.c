/*
 * Many literals at one place, as one automaton: the smallest deterministic one for them, made word by word
 * from the sorted list (Daciuk, Mihov, Watson and Watson, "Incremental Construction of Minimal Acyclic
 * Finite-State Automata", 2000). Of the words so far, the states of the last one are still open; when the
 * next word leaves it, those below are closed, and each is the same as a known one or becomes known. An enum
 * of tens of thousands of values then takes as many states as its beginnings and ends differ.
 */
#include "model/grammar_internal.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct word {
    const uint8_t *bytes;
    uint32_t length;
};

struct word_edge {
    uint32_t byte, to;
};

struct word_state {
    uint32_t first, n; /* of the edges */
    bool is_final;
};

struct words {
    struct grammar_builder *builder;
    struct grammar_pool states, edges; /* closed */
    struct grammar_pool path;          /* open states, the start first; their edges in open */
    struct grammar_pool open;
    uint32_t *slots; /* of closed states by content; 0: empty, else state + 1 */
    size_t n_slots;
};

static int word_compare(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    uint32_t n = x->length < y->length ? x->length : y->length;
    int order = n ? memcmp(x->bytes, y->bytes, n) : 0;
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

static struct word_state *closed_at(const struct words *words, uint32_t i)
{
    return (struct word_state *)words->states.items + i;
}

static const struct word_edge *edges_of(const struct words *words, const struct word_state *state)
{
    return (const struct word_edge *)words->edges.items + state->first;
}

static size_t content_slot(const struct words *words, const struct word_edge *edges, uint32_t n,
                           bool is_final)
{
    uint64_t hash = n ? XXH3_64bits_withSeed(edges, n * sizeof *edges, is_final) : is_final;
    size_t slot = hash & (words->n_slots - 1);
    for (; words->slots[slot]; slot = (slot + 1) & (words->n_slots - 1)) {
        const struct word_state *known = closed_at(words, words->slots[slot] - 1);
        if (known->n == n && known->is_final == is_final &&
            memcmp(edges_of(words, known), edges, n * sizeof *edges) == 0)
            break;
    }
    return slot;
}

static bool slots_grow(struct words *words)
{
    if (words->states.n * 2 < words->n_slots) return true;
    size_t n = words->n_slots ? words->n_slots * 4 : 1024;
    uint32_t *old = words->slots, *slots = calloc(n, sizeof *slots);
    if (!slots) return false;
    words->slots = slots;
    words->n_slots = n;
    for (uint32_t i = 0; i < words->states.n; i++) {
        const struct word_state *state = closed_at(words, i);
        slots[content_slot(words, edges_of(words, state), state->n, state->is_final)] = i + 1;
    }
    free(old);
    return true;
}

/* Closes the last open state: its number. -1 without memory. */
static int64_t state_close(struct words *words)
{
    if (!slots_grow(words)) return -1;
    struct word_state *last = (struct word_state *)words->path.items + --words->path.n;
    const struct word_edge *edges = (const struct word_edge *)words->open.items + last->first;
    uint32_t n = (uint32_t)words->open.n - last->first;
    words->open.n = last->first;
    size_t slot = content_slot(words, edges, n, last->is_final);
    if (words->slots[slot]) return words->slots[slot] - 1;
    if (!grammar_pool_reserve(&words->states, 1, sizeof *last) ||
        !grammar_pool_reserve(&words->edges, n + 1, sizeof *edges)) /* never NULL */
        return -1;
    if (n) memcpy((struct word_edge *)words->edges.items + words->edges.n, edges, n * sizeof *edges);
    *closed_at(words, (uint32_t)words->states.n) =
        (struct word_state){(uint32_t)words->edges.n, n, last->is_final};
    words->edges.n += n;
    words->slots[slot] = (uint32_t)words->states.n + 1;
    return (int64_t)words->states.n++;
}

/* Closes the open states deeper than `depth`, which the last word ends in. */
static bool path_close(struct words *words, const struct word *word, size_t depth)
{
    while (words->path.n > depth + 1) {
        uint8_t byte = word->bytes[words->path.n - 2];
        int64_t state = state_close(words);
        if (state < 0 || !grammar_pool_reserve(&words->open, 1, sizeof(struct word_edge))) return false;
        ((struct word_edge *)words->open.items)[words->open.n++] = (struct word_edge){byte, (uint32_t)state};
    }
    return true;
}

static bool word_add(struct words *words, const struct word *before, const struct word *word)
{
    size_t shared = 0;
    while (before && shared < before->length && before->bytes[shared] == word->bytes[shared]) shared++;
    if (before && !path_close(words, before, shared)) return false;
    if (!grammar_pool_reserve(&words->path, word->length + 1, sizeof(struct word_state))) return false;
    struct word_state *path = words->path.items;
    while (words->path.n < (size_t)word->length + 1)
        path[words->path.n++] = (struct word_state){.first = (uint32_t)words->open.n};
    path[words->path.n - 1].is_final = true;
    return true;
}

/* The states as a table, which wants the start first: it was closed last. */
static int table_make(struct words *words)
{
    struct grammar_builder *builder = words->builder;
    uint32_t n = (uint32_t)words->states.n;
    size_t n_edges = 0;
    struct grammar_table_edge *edges = malloc((words->edges.n + 1) * sizeof *edges);
    uint8_t *finals = malloc(n);
    int sets[256], node = -1;
    bool failed = !edges || !finals;
    if (failed) grammar_builder_fail(builder, ERR_MEMORY, "no memory for the grammar");
    memset(sets, -1, sizeof sets);
    for (uint32_t i = 0; i < n && !failed; i++) {
        const struct word_state *state = closed_at(words, i);
        finals[n - 1 - i] = state->is_final;
        for (uint32_t e = 0; e < state->n && !failed; e++) {
            struct word_edge edge = edges_of(words, state)[e];
            struct grammar_set set = {{0}};
            grammar_set_put(&set, edge.byte);
            if (sets[edge.byte] < 0) sets[edge.byte] = grammar_set_add(builder, &set);
            failed = sets[edge.byte] < 0;
            edges[n_edges++] =
                (struct grammar_table_edge){n - 1 - i, n - 1 - edge.to, (uint32_t)sets[edge.byte]};
        }
    }
    if (!failed) node = grammar_table_node(builder, edges, n_edges, finals, n);
    free(edges);
    free(finals);
    return node;
}

static bool words_build(struct words *words, struct word *list, size_t n)
{
    const struct word *before = NULL;
    /* Never NULL, also when all words are empty. */
    if (!grammar_pool_reserve(&words->open, 1, sizeof(struct word_edge))) return false;
    for (size_t i = 0; i < n; i++) {
        if (grammar_watch_check(&words->builder->watch)) return false;
        if (before && word_compare(before, &list[i]) == 0) continue;
        if (!word_add(words, before, &list[i])) return false;
        before = &list[i];
    }
    return path_close(words, before, 0) && state_close(words) >= 0;
}

int grammar_words_node(struct grammar_builder *builder, const int *nodes, int n)
{
    struct words words = {.builder = builder};
    struct word *list = malloc((size_t)n * sizeof *list);
    int node = -1;
    for (int i = 0; i < n && list; i++) {
        const struct grammar_node *literal = &grammar_nodes(builder)[nodes[i]];
        list[i] = (struct word){grammar_text(builder) + literal->first, literal->n};
    }
    if (list) qsort(list, (size_t)n, sizeof *list, word_compare);
    if (list && words_build(&words, list, (size_t)n))
        node = table_make(&words);
    else
        grammar_builder_fail(builder, ERR_MEMORY, "no memory for the grammar"); /* or it is too late */
    free(list);
    free(words.states.items);
    free(words.edges.items);
    free(words.path.items);
    free(words.open.items);
    free(words.slots);
    return node;
}
