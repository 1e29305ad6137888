/*
 * One machine as a nondeterministic automaton, as in Thompson's construction: a node becomes edges between a
 * state where it starts and one where it ends. No edge leads back into the state where a node starts or out
 * of the one where it ends, so that these can be shared.
 *
 * A call of a machine stands for the texts of it that are not empty; where it derives the empty text too, an
 * empty edge goes beside the call.
 */
#include "model/grammar_internal.h"

static enum err no_memory(struct grammar_nfa *nfa)
{
    return err_set(nfa->watch->info, ERR_MEMORY, "no memory for the grammar");
}

static enum err state_add(struct grammar_nfa *nfa, uint32_t *state)
{
    size_t most = nfa->watch->limits->max_states * 4;
    if (nfa->states.n >= most)
        return err_set(nfa->watch->info, ERR_LIMIT,
                       "the grammar has more than %zu states (before it is made deterministic)", most);
    if (!grammar_pool_reserve(&nfa->states, 1, sizeof(uint32_t))) return no_memory(nfa);
    *state = (uint32_t)nfa->states.n++;
    ((uint32_t *)nfa->states.items)[*state] = GRAMMAR_NONE;
    return grammar_watch_check(nfa->watch);
}

static enum err edge_add(struct grammar_nfa *nfa, uint32_t from, uint32_t type, uint32_t what, uint32_t to)
{
    if (!grammar_pool_reserve(&nfa->edges, 1, sizeof(struct grammar_nfa_edge))) return no_memory(nfa);
    uint32_t *first = (uint32_t *)nfa->states.items + from;
    ((struct grammar_nfa_edge *)nfa->edges.items)[nfa->edges.n] =
        (struct grammar_nfa_edge){type, what, to, *first};
    *first = (uint32_t)nfa->edges.n++;
    return ERR_OK;
}

static enum err node_emit(struct grammar_nfa *nfa, uint32_t node, uint32_t from, uint32_t to);

static enum err literal_emit(struct grammar_nfa *nfa, const struct grammar_node *node, uint32_t from,
                             uint32_t to)
{
    if (node->n == 0) return edge_add(nfa, from, NFA_EMPTY, 0, to);
    enum err err = ERR_OK;
    for (uint32_t i = 0; err == ERR_OK && i < node->n; i++) {
        uint32_t after = to;
        if (i + 1 < node->n) err = state_add(nfa, &after);
        uint8_t byte = grammar_text(nfa->builder)[node->first + i];
        if (err == ERR_OK) err = edge_add(nfa, from, NFA_SET, nfa->byte_sets[byte], after);
        from = after;
    }
    return err;
}

static enum err sequence_emit(struct grammar_nfa *nfa, const struct grammar_node *node, uint32_t from,
                              uint32_t to)
{
    enum err err = ERR_OK;
    for (uint32_t i = 0; err == ERR_OK && i < node->n; i++) {
        uint32_t after = to;
        if (i + 1 < node->n) err = state_add(nfa, &after);
        if (err == ERR_OK) err = node_emit(nfa, grammar_links(nfa->builder)[node->first + i], from, after);
        from = after;
    }
    return err;
}

static enum err table_emit(struct grammar_nfa *nfa, const struct grammar_node *node, uint32_t from,
                           uint32_t to)
{
    const struct grammar_table *table =
        (const struct grammar_table *)nfa->builder->tables.items + node->first;
    const struct grammar_table_edge *edges =
        (const struct grammar_table_edge *)nfa->builder->table_edges.items + table->first_edge;
    uint32_t base = 0, state = 0;
    enum err err = ERR_OK;
    for (uint32_t i = 0; err == ERR_OK && i < table->n_states; i++) {
        err = state_add(nfa, &state);
        if (i == 0) base = state;
        if (err == ERR_OK && grammar_text(nfa->builder)[table->first_final + i])
            err = edge_add(nfa, state, NFA_EMPTY, 0, to);
    }
    if (err == ERR_OK) err = edge_add(nfa, from, NFA_EMPTY, 0, base);
    for (uint32_t i = 0; err == ERR_OK && i < table->n_edges; i++)
        err = edge_add(nfa, base + edges[i].from, NFA_SET, edges[i].set, base + edges[i].to);
    return err;
}

/* min times, then up to max or without end. */
static enum err repeat_emit(struct grammar_nfa *nfa, const struct grammar_node *node, uint32_t from,
                            uint32_t to)
{
    enum err err = ERR_OK;
    uint32_t after = 0;
    int64_t times = node->max < 0 ? node->min : node->max;
    for (int64_t i = 0; err == ERR_OK && i < times; i++) {
        if (i >= node->min) err = edge_add(nfa, from, NFA_EMPTY, 0, to);
        if (err == ERR_OK) err = state_add(nfa, &after);
        if (err == ERR_OK) err = node_emit(nfa, node->first, from, after);
        from = after;
    }
    if (err != ERR_OK) return err;
    if (node->max >= 0) return edge_add(nfa, from, NFA_EMPTY, 0, to);
    uint32_t start = 0, end = 0;
    err = state_add(nfa, &start);
    if (err == ERR_OK) err = state_add(nfa, &end);
    if (err == ERR_OK) err = edge_add(nfa, from, NFA_EMPTY, 0, start);
    if (err == ERR_OK) err = node_emit(nfa, node->first, start, end);
    if (err == ERR_OK) err = edge_add(nfa, end, NFA_EMPTY, 0, start);
    if (err == ERR_OK) err = edge_add(nfa, start, NFA_EMPTY, 0, to);
    return err;
}

static enum err body_emit(struct grammar_nfa *nfa, uint32_t at, uint32_t from, uint32_t to)
{
    const struct grammar_node *node = &grammar_nodes(nfa->builder)[at];
    enum err err = ERR_OK;
    switch (node->kind) {
    case NODE_LITERAL:
        return literal_emit(nfa, node, from, to);
    case NODE_BYTE:
        return edge_add(nfa, from, NFA_SET, node->first, to);
    case NODE_SEQUENCE:
        return sequence_emit(nfa, node, from, to);
    case NODE_TABLE:
        return table_emit(nfa, node, from, to);
    case NODE_RULE:
        return node_emit(nfa, node->first, from, to);
    case NODE_REPEAT:
        /* A machine that counts has what is repeated as its text. */
        if (grammar_is_counted(node, nfa->facts)) return node_emit(nfa, node->first, from, to);
        return repeat_emit(nfa, node, from, to);
    case NODE_CHOICE:
        for (uint32_t i = 0; err == ERR_OK && i < node->n; i++)
            err = node_emit(nfa, grammar_links(nfa->builder)[node->first + i], from, to);
    }
    return err;
}

static enum err call_emit(struct grammar_nfa *nfa, uint32_t at, uint32_t from, uint32_t to)
{
    struct grammar_facts *facts = &nfa->facts[at];
    if (facts->machine < 0) {
        if (!grammar_pool_reserve(&nfa->machines, 1, sizeof(uint32_t))) return no_memory(nfa);
        ((uint32_t *)nfa->machines.items)[nfa->machines.n] = at;
        facts->machine = (int32_t)nfa->machines.n++;
    }
    enum err err = edge_add(nfa, from, NFA_CALL, (uint32_t)facts->machine, to);
    if (err == ERR_OK && facts->nullable) err = edge_add(nfa, from, NFA_EMPTY, 0, to);
    return err;
}

static enum err node_emit(struct grammar_nfa *nfa, uint32_t at, uint32_t from, uint32_t to)
{
    if (!nfa->facts[at].productive) return grammar_watch_check(nfa->watch);
    return nfa->facts[at].is_machine ? call_emit(nfa, at, from, to) : body_emit(nfa, at, from, to);
}

enum err grammar_nfa_make(struct grammar_nfa *nfa, uint32_t machine)
{
    nfa->states.n = nfa->edges.n = 0;
    enum err err = state_add(nfa, &nfa->start);
    if (err == ERR_OK) err = state_add(nfa, &nfa->accept);
    if (err != ERR_OK) return err;
    return body_emit(nfa, ((uint32_t *)nfa->machines.items)[machine], nfa->start, nfa->accept);
}
