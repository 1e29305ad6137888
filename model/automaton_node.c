#include "model/automaton.h"
#include "model/grammar_internal.h"

#include <stdlib.h>
#include <string.h>

/*
 * Between nodes of a grammar and automata: a node becomes a nondeterministic automaton (Thompson), that a
 * deterministic one (sets of states, as they are met); the way back is a table.
 */

enum { MAX_NFA_STATES = 40000, MAX_NFA_EDGES = 4 * MAX_NFA_STATES, MAX_DEPTH = 1000, EPSILON = -1 };

struct nfa_edge {
    int set; /* of the builder's; EPSILON; -2 - byte: that byte alone */
    int to, next;
};

struct nfa {
    const struct grammar_builder *builder;
    struct arena *arena;
    int n_states, n_edges;
    int *first; /* [MAX_NFA_STATES] edge, or -1 */
    struct nfa_edge *edges;
    int depth;
};

/* --- Thompson --- */

static int state_add(struct nfa *nfa)
{
    if (nfa->n_states == MAX_NFA_STATES) return -1;
    nfa->first[nfa->n_states] = -1;
    return nfa->n_states++;
}

static bool edge_add(struct nfa *nfa, int from, int set, int to)
{
    if (from < 0 || to < 0 || nfa->n_edges == MAX_NFA_EDGES) return false;
    nfa->edges[nfa->n_edges] = (struct nfa_edge){set, to, nfa->first[from]};
    nfa->first[from] = nfa->n_edges++;
    return true;
}

static bool node_expand(struct nfa *nfa, int node, int from, int to);

static bool sequence_expand(struct nfa *nfa, const uint32_t *links, uint32_t n, int from, int to)
{
    for (uint32_t i = 0; i < n; i++) {
        int next = i + 1 == n ? to : state_add(nfa);
        if (next < 0 || !node_expand(nfa, (int)links[i], from, next)) return false;
        from = next;
    }
    return n > 0 || edge_add(nfa, from, EPSILON, to);
}

static bool literal_expand(struct nfa *nfa, const uint8_t *bytes, uint32_t n, int from, int to)
{
    for (uint32_t i = 0; i < n; i++) {
        int next = i + 1 == n ? to : state_add(nfa);
        if (!edge_add(nfa, from, -2 - bytes[i], next)) return false;
        from = next;
    }
    return n > 0 || edge_add(nfa, from, EPSILON, to);
}

static bool repeat_expand(struct nfa *nfa, const struct grammar_node *node, int from, int to)
{
    int64_t copies = node->max < 0 ? node->min : node->max;
    if (copies > MAX_NFA_STATES) return false;
    for (int64_t i = 0; i < copies; i++) {
        int next = state_add(nfa);
        if (i >= node->min && !edge_add(nfa, from, EPSILON, to)) return false;
        if (next < 0 || !node_expand(nfa, (int)node->first, from, next)) return false;
        from = next;
    }
    if (node->max >= 0) return edge_add(nfa, from, EPSILON, to);
    /* A state of its own, so that what stands before cannot be entered from the loop. */
    int loop = state_add(nfa), back = state_add(nfa);
    return edge_add(nfa, from, EPSILON, loop) && edge_add(nfa, loop, EPSILON, to) &&
           edge_add(nfa, back, EPSILON, loop) && node_expand(nfa, (int)node->first, loop, back);
}

static bool table_expand(struct nfa *nfa, const struct grammar_table *table, int from, int to)
{
    const struct grammar_table_edge *edges = nfa->builder->table_edges.items;
    const uint8_t *finals = grammar_text(nfa->builder) + table->first_final;
    int base = nfa->n_states;
    for (uint32_t i = 0; i < table->n_states; i++) {
        int state = state_add(nfa);
        if (state < 0 || (finals[i] && !edge_add(nfa, state, EPSILON, to))) return false;
    }
    for (uint32_t e = table->first_edge; e < table->first_edge + table->n_edges; e++)
        if (!edge_add(nfa, base + (int)edges[e].from, (int)edges[e].set, base + (int)edges[e].to))
            return false;
    return edge_add(nfa, from, EPSILON, base);
}

/* The texts of the node lead from one state to another. */
static bool node_expand(struct nfa *nfa, int number, int from, int to)
{
    const struct grammar_node *node = &grammar_nodes(nfa->builder)[number];
    bool has_links = node->kind == NODE_SEQUENCE || node->kind == NODE_CHOICE;
    const uint32_t *links = has_links ? grammar_links(nfa->builder) + node->first : NULL;
    bool done = true;
    if (++nfa->depth > MAX_DEPTH) return false;
    switch (node->kind) {
    case NODE_LITERAL:
        done = literal_expand(nfa, grammar_text(nfa->builder) + node->first, node->n, from, to);
        break;
    case NODE_BYTE:
        done = edge_add(nfa, from, (int)node->first, to);
        break;
    case NODE_SEQUENCE:
        done = sequence_expand(nfa, links, node->n, from, to);
        break;
    case NODE_CHOICE:
        for (uint32_t i = 0; i < node->n && done; i++) done = node_expand(nfa, (int)links[i], from, to);
        break;
    case NODE_REPEAT:
        done = repeat_expand(nfa, node, from, to);
        break;
    case NODE_TABLE:
        done = table_expand(nfa, (const struct grammar_table *)nfa->builder->tables.items + node->first, from,
                            to);
        break;
    case NODE_RULE:
        done = node->first != GRAMMAR_NONE && node_expand(nfa, (int)node->first, from, to);
        break;
    }
    nfa->depth--;
    return done;
}

/* --- Sets of states --- */

/* A set of states of the nondeterministic automaton, sorted; equal sets are one. */
struct subset {
    int n;
    int *states;
    struct subset *same_slot;
    uint16_t number;
};

enum { SUBSET_SLOTS = 1024, MAX_SUBSET_WORK = 20000000 };

struct subsets {
    const struct nfa *nfa;
    struct subset *slots[SUBSET_SLOTS];
    struct subset **list; /* [AUTOMATON_MAX_STATES] */
    int n;
    int *stack, *members; /* [n_states] */
    uint32_t *seen;       /* [n_states] the round in which it was met */
    uint32_t round;
    int64_t work;
};

static int state_compare(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Adds a state and all that empty edges lead to. */
static void closure_add(struct subsets *subsets, int state, int *n)
{
    int depth = 0;
    if (subsets->seen[state] == subsets->round) return;
    subsets->seen[state] = subsets->round;
    subsets->stack[depth++] = state;
    while (depth > 0) {
        int at = subsets->stack[--depth];
        subsets->members[(*n)++] = at;
        for (int e = subsets->nfa->first[at]; e >= 0; e = subsets->nfa->edges[e].next) {
            const struct nfa_edge *edge = &subsets->nfa->edges[e];
            subsets->work++;
            if (edge->set != EPSILON || subsets->seen[edge->to] == subsets->round) continue;
            subsets->seen[edge->to] = subsets->round;
            subsets->stack[depth++] = edge->to;
        }
    }
}

/* The number of the set in members; AUTOMATON_NONE for the empty one, -1 when there are too many. */
static int subset_find(struct subsets *subsets, int n)
{
    if (n == 0) return AUTOMATON_NONE;
    qsort(subsets->members, (size_t)n, sizeof *subsets->members, state_compare);
    uint64_t hash = 0;
    for (int i = 0; i < n; i++) hash = (hash ^ (uint64_t)subsets->members[i]) * 0x9E3779B97F4A7C15u;
    struct subset **slot = &subsets->slots[hash >> 32 & (SUBSET_SLOTS - 1)];
    subsets->work += n;
    for (struct subset *known = *slot; known; known = known->same_slot)
        if (known->n == n && memcmp(known->states, subsets->members, (size_t)n * sizeof(int)) == 0)
            return known->number;
    if (subsets->n == AUTOMATON_MAX_STATES) return -1;
    struct subset *made = arena_alloc(subsets->nfa->arena, 1, sizeof *made);
    int *states = arena_alloc(subsets->nfa->arena, (size_t)n, sizeof *states);
    if (!made || !states) return -1;
    memcpy(states, subsets->members, (size_t)n * sizeof *states);
    *made = (struct subset){n, states, *slot, (uint16_t)subsets->n};
    *slot = made;
    subsets->list[subsets->n++] = made;
    return made->number;
}

static bool edge_reads(const struct nfa *nfa, const struct nfa_edge *edge, unsigned byte)
{
    if (edge->set < EPSILON) return edge->set == -2 - (int)byte;
    return edge->set >= 0 && grammar_set_has(&grammar_sets(nfa->builder)[edge->set], byte);
}

static int subset_step(struct subsets *subsets, const struct subset *from, unsigned byte)
{
    int n = 0;
    subsets->round++;
    for (int i = 0; i < from->n; i++)
        for (int e = subsets->nfa->first[from->states[i]]; e >= 0; e = subsets->nfa->edges[e].next) {
            subsets->work++;
            if (edge_reads(subsets->nfa, &subsets->nfa->edges[e], byte))
                closure_add(subsets, subsets->nfa->edges[e].to, &n);
        }
    return subsets->work > MAX_SUBSET_WORK ? -1 : subset_find(subsets, n);
}

struct determined {
    const struct subsets *subsets;
    const uint16_t (*next)[256];
    int accept;
};

static bool determined_step(const void *context, uint64_t state, uint8_t byte, uint64_t *next)
{
    const struct determined *determined = context;
    *next = determined->next[state][byte];
    return *next != AUTOMATON_NONE;
}

static bool determined_accepts(const void *context, uint64_t state)
{
    const struct determined *determined = context;
    const struct subset *subset = determined->subsets->list[state];
    return bsearch(&determined->accept, subset->states, (size_t)subset->n, sizeof(int), state_compare) !=
           NULL;
}

static struct automaton *nfa_determine(const struct nfa *nfa, int start, int accept)
{
    struct arena *arena = nfa->arena;
    size_t n = (size_t)nfa->n_states;
    struct subsets *subsets = arena_alloc(arena, 1, sizeof *subsets);
    if (!subsets) return NULL;
    subsets->nfa = nfa;
    subsets->stack = arena_alloc(arena, n, sizeof(int));
    subsets->members = arena_alloc(arena, n, sizeof(int));
    subsets->seen = arena_alloc(arena, n, sizeof *subsets->seen);
    subsets->list = arena_alloc(arena, AUTOMATON_MAX_STATES, sizeof *subsets->list);
    uint16_t(*next)[256] = arena_alloc(arena, AUTOMATON_MAX_STATES, sizeof *next);
    if (!subsets->stack || !subsets->members || !subsets->seen || !subsets->list || !next) return NULL;
    int n_members = 0;
    subsets->round = 1;
    closure_add(subsets, start, &n_members);
    if (subset_find(subsets, n_members) < 0) return NULL;
    for (int i = 0; i < subsets->n; i++) {
        if (grammar_builder_check(nfa->builder, NULL)) return NULL;
        for (unsigned byte = 0; byte < 256; byte++) {
            int to = subset_step(subsets, subsets->list[i], byte);
            if (to < 0) return NULL;
            next[i][byte] = (uint16_t)to;
        }
    }
    struct determined determined = {subsets, (const uint16_t(*)[256])next, accept};
    struct automaton_source source = {&determined, 0, determined_step, determined_accepts};
    return automaton_explore(arena, &source);
}

struct automaton *automaton_of_node(const struct grammar_builder *builder, struct arena *arena, int node)
{
    struct nfa nfa = {.builder = builder, .arena = arena};
    if (node < 0) return NULL;
    nfa.first = arena_alloc(arena, MAX_NFA_STATES, sizeof *nfa.first);
    nfa.edges = arena_alloc(arena, MAX_NFA_EDGES, sizeof *nfa.edges);
    if (!nfa.first || !nfa.edges) return NULL;
    int start = state_add(&nfa), accept = state_add(&nfa);
    return node_expand(&nfa, node, start, accept) ? nfa_determine(&nfa, start, accept) : NULL;
}

/* --- Back --- */

int automaton_node(struct grammar_builder *builder, struct arena *arena, const struct automaton *a)
{
    if (a->n == 0) return grammar_choice(builder, NULL, 0);
    size_t n = 0, capacity = 0;
    for (int i = 0; i < a->n; i++)
        for (int byte = 0; byte < 256; byte++)
            capacity +=
                a->next[i][byte] != AUTOMATON_NONE && (!byte || a->next[i][byte] != a->next[i][byte - 1]);
    struct grammar_table_edge *edges = arena_alloc(arena, capacity + 1, sizeof *edges);
    uint8_t *finals = arena_alloc(arena, (size_t)a->n, 1);
    if (!edges || !finals)
        return grammar_builder_fail(builder, ERR_LIMIT, "too little room for an automaton of %d states",
                                    a->n);
    for (int i = 0; i < a->n; i++) {
        bool done[256] = {false};
        finals[i] = a->accepts[i];
        for (int byte = 0; byte < 256; byte++) {
            uint16_t to = a->next[i][byte];
            if (to == AUTOMATON_NONE || done[byte]) continue;
            struct grammar_set set = {{0}};
            for (int other = byte; other < 256; other++) {
                if (a->next[i][other] != to) continue;
                grammar_set_put(&set, (unsigned)other);
                done[other] = true;
            }
            int index = grammar_set_add(builder, &set);
            if (index < 0) return -1;
            edges[n++] = (struct grammar_table_edge){(uint32_t)i, to, (uint32_t)index};
        }
    }
    return grammar_table_node(builder, edges, n, finals, (size_t)a->n);
}
