/*
 * What is known of each node before an automaton is made, and which nodes become machines of their own.
 *
 * Whatever is not recursive could be written out where it stands, and then a deterministic automaton has no
 * stack at all. A node becomes a machine that is called, with a stack, when it closes a cycle, when it is
 * large and used more than once, or when it repeats something too often to be written out; then the machine
 * counts.
 */
#include "model/grammar_internal.h"

#include <string.h>
#include <time.h>

enum {
    DEEPEST_NODE = 3000, /* of calls of the functions here, and so of the C stack */
    LARGE_NODE = 200,    /* states */
    LONG_REPEAT = 96,    /* states of one written out */
};

/* ---- Limits ---- */

static int64_t thread_time_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void grammar_watch_start(struct grammar_watch *watch, const struct grammar_limits *limits,
                         struct err_info *info)
{
    *watch = (struct grammar_watch){.limits = limits, .start_us = thread_time_us(), .info = info};
}

enum err grammar_watch_look(const struct grammar_watch *watch, struct err_info *info)
{
    if (thread_time_us() - watch->start_us <= watch->limits->max_time_us) return ERR_OK;
    return err_set(info, ERR_LIMIT, "the grammar takes more than %lld ms to compile",
                   (long long)(watch->limits->max_time_us / 1000));
}

enum err grammar_watch_check(struct grammar_watch *watch)
{
    return ++watch->n_checks & 1023 ? ERR_OK : grammar_watch_look(watch, watch->info);
}

/* ---- Nullable, productive ---- */

static bool set_is_empty(const struct grammar_set *set)
{
    return !(set->bits[0] | set->bits[1] | set->bits[2] | set->bits[3]);
}

static bool table_is_nullable(const struct grammar_builder *builder, const struct grammar_node *node)
{
    const struct grammar_table *table = &((const struct grammar_table *)builder->tables.items)[node->first];
    return grammar_text(builder)[table->first_final];
}

static void node_judge(const struct grammar_builder *builder, const struct grammar_node *node,
                       const struct grammar_facts *facts, bool *nullable, bool *productive)
{
    bool has_links = node->kind == NODE_SEQUENCE || node->kind == NODE_CHOICE;
    const uint32_t *links = has_links ? grammar_links(builder) + node->first : NULL;
    switch (node->kind) {
    case NODE_LITERAL:
        *nullable = node->n == 0;
        *productive = true;
        break;
    case NODE_BYTE:
        *nullable = false;
        *productive = !set_is_empty(&grammar_sets(builder)[node->first]);
        break;
    case NODE_TABLE:
        *nullable = table_is_nullable(builder, node);
        *productive = true; /* nearly: an automaton that derives nothing is trimmed away later */
        break;
    case NODE_SEQUENCE:
        *nullable = *productive = true;
        for (uint32_t i = 0; i < node->n; i++) {
            *nullable &= facts[links[i]].nullable;
            *productive &= facts[links[i]].productive;
        }
        break;
    case NODE_CHOICE:
        *nullable = *productive = false;
        for (uint32_t i = 0; i < node->n; i++) {
            *nullable |= facts[links[i]].nullable;
            *productive |= facts[links[i]].productive;
        }
        break;
    case NODE_REPEAT:
        *nullable = node->min == 0 || facts[node->first].nullable;
        *productive = node->min == 0 || facts[node->first].productive;
        break;
    case NODE_RULE:
        *nullable = node->first != GRAMMAR_NONE && facts[node->first].nullable;
        *productive = node->first != GRAMMAR_NONE && facts[node->first].productive;
        break;
    }
}

/* The least fixed point: facts only become true. */
static enum err all_judge(const struct grammar_builder *builder, struct grammar_facts *facts,
                          struct grammar_watch *watch)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < builder->nodes.n; i++) {
            bool nullable = false, productive = false;
            node_judge(builder, &grammar_nodes(builder)[i], facts, &nullable, &productive);
            changed |= nullable != facts[i].nullable || productive != facts[i].productive;
            facts[i].nullable = nullable;
            facts[i].productive = productive;
            enum err err = grammar_watch_check(watch);
            if (err != ERR_OK) return err;
        }
    }
    return ERR_OK;
}

/* ---- Machines ---- */

static uint64_t repeat_times(const struct grammar_node *node)
{
    return (uint64_t)(node->max < 0 ? node->min : node->max);
}

bool grammar_is_counted(const struct grammar_node *node, const struct grammar_facts *facts)
{
    if (node->kind != NODE_REPEAT || repeat_times(node) <= 1) return false;
    const struct grammar_facts *body = &facts[node->first];
    return repeat_times(node) * (body->is_machine ? 2 : body->size) > LONG_REPEAT;
}

struct search {
    const struct grammar_builder *builder;
    struct grammar_facts *facts;
    struct grammar_watch *watch;
    int depth;
};

static enum err node_visit(struct search *search, uint32_t at);

static enum err links_visit(struct search *search, const struct grammar_node *node, uint64_t *size)
{
    for (uint32_t i = 0; i < node->n; i++) {
        uint32_t child = grammar_links(search->builder)[node->first + i];
        enum err err = node_visit(search, child);
        if (err != ERR_OK) return err;
        *size += search->facts[child].is_machine ? 2 : search->facts[child].size;
    }
    return ERR_OK;
}

static enum err body_visit(struct search *search, uint32_t at, uint64_t *size)
{
    const struct grammar_node *node = &grammar_nodes(search->builder)[at];
    enum err err = ERR_OK;
    switch (node->kind) {
    case NODE_LITERAL:
        *size += node->n;
        break;
    case NODE_BYTE:
        *size += 1;
        break;
    case NODE_TABLE:
        *size += ((const struct grammar_table *)search->builder->tables.items)[node->first].n_states;
        break;
    case NODE_SEQUENCE:
    case NODE_CHOICE:
        err = links_visit(search, node, size);
        break;
    case NODE_RULE:
        if (node->first == GRAMMAR_NONE)
            return err_set(search->watch->info, ERR_INVALID, "rule '%s' is used and not defined",
                           (const char *)grammar_text(search->builder) + node->min);
        /* fall through */
    case NODE_REPEAT:
        err = node_visit(search, node->first);
        if (err != ERR_OK) break;
        const struct grammar_facts *body = &search->facts[node->first];
        uint64_t times = node->kind == NODE_RULE || repeat_times(node) == 0 ? 1 : repeat_times(node);
        if (grammar_is_counted(node, search->facts)) {
            search->facts[at].is_machine = true;
            times = 1;
        }
        *size += times * (body->is_machine ? 2 : body->size);
        break;
    }
    return err;
}

static enum err node_visit(struct search *search, uint32_t at)
{
    struct grammar_facts *facts = &search->facts[at];
    facts->n_uses++;
    if (facts->is_open) { /* only rules can be met inside themselves */
        facts->is_machine = true;
        return ERR_OK;
    }
    if (facts->is_seen) {
        if (facts->size > LARGE_NODE) facts->is_machine = true;
        return ERR_OK;
    }
    enum err err = grammar_watch_check(search->watch);
    if (err != ERR_OK) return err;
    if (++search->depth > DEEPEST_NODE)
        return err_set(search->watch->info, ERR_LIMIT, "the grammar is nested more than %d deep",
                       DEEPEST_NODE);
    facts->is_open = true;
    uint64_t size = 1;
    err = body_visit(search, at, &size);
    facts->is_open = false;
    facts->is_seen = true;
    facts->size = size > INT32_MAX ? INT32_MAX : (uint32_t)size;
    search->depth--;
    return err;
}

enum err grammar_analyse(const struct grammar_builder *builder, uint32_t root, struct grammar_facts *facts,
                         struct grammar_watch *watch)
{
    for (size_t i = 0; i < builder->nodes.n; i++) facts[i] = (struct grammar_facts){.machine = -1};
    struct search search = {builder, facts, watch, 0};
    enum err err = node_visit(&search, root);
    if (err == ERR_OK) err = all_judge(builder, facts, watch);
    if (err == ERR_OK && !facts[root].productive)
        return err_set(watch->info, ERR_INVALID, "the grammar derives no text at all");
    return err;
}
