/*
 * Machines made deterministic (subset construction; a call is a symbol like a byte), trimmed to what leads to
 * an end, and laid out as tables for running.
 *
 * Bytes that no set of the grammar tells apart are one class; tables are by class.
 */
#include "model/grammar_internal.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct subset {
    uint32_t first, n; /* of `members` */
};

struct making {
    const struct grammar_builder *builder;
    struct grammar_watch watch;
    struct grammar *grammar;
    struct grammar_nfa nfa;
    struct grammar_pool places, calls, next; /* what the grammar gets */
    struct grammar_pool machines;
    struct grammar_set *set_classes; /* [sets] which classes a set has */
    /* Of the machine in hand. */
    struct grammar_pool subsets, members;
    uint32_t *slots; /* by content, 0: empty, else subset + 1 */
    size_t n_slots;
    uint32_t base;   /* its first place */
    uint32_t *marks; /* [n_marks] of states: in the closure number */
    size_t n_marks;
    uint32_t closure;
    struct grammar_pool todo;
    struct grammar_pool lists[256 + 1]; /* targets by class; the last: of a call */
};

static enum err no_memory(struct making *making)
{
    return err_set(making->watch.info, ERR_MEMORY, "no memory for the grammar");
}

/* ---- Classes of bytes ---- */

static void classes_split(uint8_t class_of[256], uint32_t *n, const struct grammar_set *set)
{
    int16_t other[256]; /* of a class: where its bytes outside the set go */
    uint16_t inside[256] = {0}, all[256] = {0};
    for (unsigned b = 0; b < 256; b++) {
        all[class_of[b]]++;
        inside[class_of[b]] = (uint16_t)(inside[class_of[b]] + grammar_set_has(set, b));
    }
    uint32_t n_old = *n;
    for (uint32_t c = 0; c < n_old; c++)
        other[c] = inside[c] == 0 || inside[c] == all[c] ? -1 : (int16_t)(*n)++;
    for (unsigned b = 0; b < 256; b++)
        if (other[class_of[b]] >= 0 && !grammar_set_has(set, b)) class_of[b] = (uint8_t)other[class_of[b]];
}

/* Sets of single bytes for the literals are appended to the builder's: byte_sets[256]. */
static enum err classes_make(struct making *making, struct grammar_builder *builder, uint32_t byte_sets[256])
{
    for (unsigned b = 0; b < 256; b++) {
        struct grammar_set set = {{0}};
        grammar_set_put(&set, b);
        if (!grammar_pool_reserve(&builder->sets, 1, sizeof set)) return no_memory(making);
        ((struct grammar_set *)builder->sets.items)[builder->sets.n] = set;
        byte_sets[b] = (uint32_t)builder->sets.n++;
    }
    bool used[256] = {false};
    for (size_t i = 0; i < builder->nodes.n; i++) {
        const struct grammar_node *node = &grammar_nodes(builder)[i];
        for (uint32_t j = 0; node->kind == NODE_LITERAL && j < node->n; j++)
            used[grammar_text(builder)[node->first + j]] = true;
    }
    struct grammar *grammar = making->grammar;
    grammar->n_classes = 1;
    const struct grammar_set *sets = grammar_sets(builder);
    for (size_t i = 0; i + 256 < builder->sets.n; i++) {
        enum err err = grammar_watch_check(&making->watch);
        if (err != ERR_OK) return err;
        classes_split(grammar->byte_class, &grammar->n_classes, &sets[i]);
    }
    for (unsigned b = 0; b < 256; b++)
        if (used[b]) classes_split(grammar->byte_class, &grammar->n_classes, &sets[byte_sets[b]]);
    making->set_classes = calloc(builder->sets.n, sizeof *making->set_classes);
    if (!making->set_classes) return no_memory(making);
    for (size_t i = 0; i < builder->sets.n; i++)
        for (unsigned b = 0; b < 256; b++)
            if (grammar_set_has(&sets[i], b))
                grammar_set_put(&making->set_classes[i], grammar->byte_class[b]);
    return ERR_OK;
}

/* ---- Subsets ---- */

static const struct grammar_nfa_edge *edge_at(const struct making *making, uint32_t edge)
{
    return (const struct grammar_nfa_edge *)making->nfa.edges.items + edge;
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Appends to `members`, sorted, what empty edges reach from n states, without those that have only empty
   edges. */
static enum err closure_append(struct making *making, const uint32_t *states, size_t n, uint32_t *count)
{
    making->closure++;
    making->todo.n = 0;
    if (!grammar_pool_reserve(&making->todo, n, sizeof(uint32_t))) return no_memory(making);
    uint32_t *todo = making->todo.items;
    for (size_t i = 0; i < n; i++) {
        if (making->marks[states[i]] == making->closure) continue;
        making->marks[states[i]] = making->closure;
        todo[making->todo.n++] = states[i];
    }
    size_t first = making->members.n;
    while (making->todo.n > 0) {
        uint32_t state = ((uint32_t *)making->todo.items)[--making->todo.n];
        bool counts = state == making->nfa.accept;
        for (uint32_t e = ((uint32_t *)making->nfa.states.items)[state]; e != GRAMMAR_NONE;
             e = edge_at(making, e)->next) {
            uint32_t target = edge_at(making, e)->target;
            if (edge_at(making, e)->type != NFA_EMPTY) {
                counts = true;
            } else if (making->marks[target] != making->closure) {
                making->marks[target] = making->closure;
                if (!grammar_pool_reserve(&making->todo, 1, sizeof(uint32_t))) return no_memory(making);
                ((uint32_t *)making->todo.items)[making->todo.n++] = target;
            }
        }
        if (!counts) continue;
        if (!grammar_pool_reserve(&making->members, 1, sizeof(uint32_t))) return no_memory(making);
        ((uint32_t *)making->members.items)[making->members.n++] = state;
    }
    *count = (uint32_t)(making->members.n - first);
    qsort((uint32_t *)making->members.items + first, *count, sizeof(uint32_t), compare_u32);
    return grammar_watch_check(&making->watch);
}

static enum err place_add(struct making *making, uint32_t machine)
{
    size_t bytes = (making->places.n + 1) *
                       (sizeof(struct grammar_place) + making->grammar->n_classes * sizeof(int32_t)) +
                   making->members.n * sizeof(uint32_t);
    if (making->places.n >= making->watch.limits->max_states)
        return err_set(making->watch.info, ERR_LIMIT, "the grammar's automaton has more than %zu states",
                       making->watch.limits->max_states);
    if (bytes > making->watch.limits->max_bytes)
        return err_set(making->watch.info, ERR_LIMIT, "the grammar's automaton takes more than %zu bytes",
                       making->watch.limits->max_bytes);
    size_t n_classes = making->grammar->n_classes;
    if (!grammar_pool_reserve(&making->places, 1, sizeof(struct grammar_place)) ||
        !grammar_pool_reserve(&making->next, n_classes, sizeof(int32_t)))
        return no_memory(making);
    ((struct grammar_place *)making->places.items)[making->places.n++] =
        (struct grammar_place){.machine = machine};
    memset((int32_t *)making->next.items + making->next.n, 0xFF, n_classes * sizeof(int32_t));
    making->next.n += n_classes;
    return ERR_OK;
}

static enum err slots_grow(struct making *making)
{
    if (making->subsets.n * 2 < making->n_slots) return ERR_OK;
    size_t n_slots = making->n_slots ? making->n_slots * 4 : 256;
    uint32_t *slots = calloc(n_slots, sizeof *slots);
    if (!slots) return no_memory(making);
    const struct subset *subsets = making->subsets.items;
    for (size_t i = 0; i < making->n_slots; i++) {
        if (!making->slots[i]) continue;
        const struct subset *subset = &subsets[making->slots[i] - 1];
        const uint32_t *members = (const uint32_t *)making->members.items + subset->first;
        size_t slot = XXH3_64bits(members, subset->n * sizeof *members) & (n_slots - 1);
        while (slots[slot]) slot = (slot + 1) & (n_slots - 1);
        slots[slot] = making->slots[i];
    }
    free(making->slots);
    making->slots = slots;
    making->n_slots = n_slots;
    return ERR_OK;
}

/* The subset that n states reach, found or new; *out GRAMMAR_NONE when it is empty. is_head: new in any case,
   and never found again. */
static enum err subset_get(struct making *making, uint32_t machine, const uint32_t *states, size_t n,
                           bool is_head, uint32_t *out)
{
    uint32_t first = (uint32_t)making->members.n, count = 0;
    enum err err = closure_append(making, states, n, &count);
    if (err == ERR_OK) err = slots_grow(making);
    if (err != ERR_OK) return err;
    *out = GRAMMAR_NONE;
    if (count == 0 && !is_head) return ERR_OK;
    const uint32_t *members = making->members.items;
    size_t slot = XXH3_64bits(members + first, count * sizeof *members) & (making->n_slots - 1);
    for (; !is_head && making->slots[slot]; slot = (slot + 1) & (making->n_slots - 1)) {
        uint32_t known = making->slots[slot] - 1;
        const struct subset *subset = (const struct subset *)making->subsets.items + known;
        if (subset->n != count ||
            memcmp(members + subset->first, members + first, count * sizeof *members) != 0)
            continue;
        making->members.n = first;
        *out = known;
        return ERR_OK;
    }
    if (!grammar_pool_reserve(&making->subsets, 1, sizeof(struct subset))) return no_memory(making);
    err = place_add(making, machine);
    if (err != ERR_OK) return err;
    uint32_t made = (uint32_t)making->subsets.n++;
    ((struct subset *)making->subsets.items)[made] = (struct subset){first, count};
    if (!is_head) making->slots[slot] = made + 1;
    *out = made;
    return ERR_OK;
}

/* ---- One machine ---- */

static enum err list_add(struct making *making, struct grammar_pool *list, uint32_t state)
{
    if (!grammar_pool_reserve(list, 1, sizeof state)) return no_memory(making);
    ((uint32_t *)list->items)[list->n++] = state;
    return ERR_OK;
}

static bool list_equal(const struct grammar_pool *a, const struct grammar_pool *b)
{
    return a->n == b->n && memcmp(a->items, b->items, a->n * sizeof(uint32_t)) == 0;
}

/* Where the bytes of a subset lead. */
static enum err bytes_follow(struct making *making, uint32_t machine, uint32_t from, struct subset subset)
{
    uint32_t n_classes = making->grammar->n_classes;
    for (uint32_t c = 0; c < n_classes; c++) making->lists[c].n = 0;
    struct grammar_set any = {{0}};
    for (uint32_t i = 0; i < subset.n; i++) {
        uint32_t state = ((uint32_t *)making->members.items)[subset.first + i];
        for (uint32_t e = ((uint32_t *)making->nfa.states.items)[state]; e != GRAMMAR_NONE;
             e = edge_at(making, e)->next) {
            if (edge_at(making, e)->type != NFA_SET) continue;
            struct grammar_set classes = making->set_classes[edge_at(making, e)->what];
            for (int w = 0; w < 4; w++) {
                any.bits[w] |= classes.bits[w];
                for (; classes.bits[w]; classes.bits[w] &= classes.bits[w] - 1) {
                    unsigned class = (unsigned)w * 64 + (unsigned)__builtin_ctzll(classes.bits[w]);
                    enum err err = list_add(making, &making->lists[class], edge_at(making, e)->target);
                    if (err != ERR_OK) return err;
                }
            }
        }
    }
    /* Classes of one set have one list: a few that were seen last are looked at. */
    uint32_t recent[4], targets[4], n_recent = 0;
    for (uint32_t c = 0; c < n_classes; c++) {
        if (!grammar_set_has(&any, c)) continue;
        uint32_t target = GRAMMAR_NONE;
        bool found = false;
        for (uint32_t i = 0; i < 4 && i < n_recent && !found; i++) {
            found = list_equal(&making->lists[c], &making->lists[recent[i]]);
            if (found) target = targets[i];
        }
        if (!found) {
            enum err err =
                subset_get(making, machine, making->lists[c].items, making->lists[c].n, false, &target);
            if (err != ERR_OK) return err;
            recent[n_recent & 3] = c;
            targets[n_recent++ & 3] = target;
        }
        if (target != GRAMMAR_NONE)
            ((int32_t *)making->next.items)[(size_t)(making->base + from) * n_classes + c] =
                (int32_t)(making->base + target);
    }
    return ERR_OK;
}

/* The calls of a subset, one for each machine. */
static enum err calls_follow(struct making *making, uint32_t machine, uint32_t from, struct subset subset)
{
    struct grammar_pool *list = &making->lists[256];
    uint32_t first_call = (uint32_t)making->calls.n;
    for (int64_t last = -1;;) { /* machines in the order of their numbers */
        int64_t callee = INT64_MAX;
        list->n = 0;
        for (uint32_t i = 0; i < subset.n; i++) {
            uint32_t state = ((uint32_t *)making->members.items)[subset.first + i];
            for (uint32_t e = ((uint32_t *)making->nfa.states.items)[state]; e != GRAMMAR_NONE;
                 e = edge_at(making, e)->next) {
                if (edge_at(making, e)->type != NFA_CALL || edge_at(making, e)->what <= last) continue;
                if (edge_at(making, e)->what < callee) list->n = 0;
                if (edge_at(making, e)->what > callee) continue;
                callee = edge_at(making, e)->what;
                enum err err = list_add(making, list, edge_at(making, e)->target);
                if (err != ERR_OK) return err;
            }
        }
        if (callee == INT64_MAX) break;
        last = callee;
        uint32_t target = GRAMMAR_NONE;
        enum err err = subset_get(making, machine, list->items, list->n, false, &target);
        if (err != ERR_OK) return err;
        if (target == GRAMMAR_NONE) continue;
        if (making->calls.n - first_call >= UINT16_MAX)
            return err_set(making->watch.info, ERR_LIMIT,
                           "the grammar has too many alternatives at one place");
        if (!grammar_pool_reserve(&making->calls, 1, sizeof(struct grammar_call))) return no_memory(making);
        ((struct grammar_call *)making->calls.items)[making->calls.n++] =
            (struct grammar_call){(uint32_t)callee, making->base + target};
    }
    struct grammar_place *place = (struct grammar_place *)making->places.items + making->base + from;
    place->first_call = first_call;
    place->n_calls = (uint16_t)(making->calls.n - first_call);
    return ERR_OK;
}

static enum err marks_grow(struct making *making)
{
    if (making->nfa.states.n <= making->n_marks) return ERR_OK;
    size_t n = making->nfa.states.n * 2;
    uint32_t *marks = calloc(n, sizeof *marks);
    if (!marks) return no_memory(making);
    free(making->marks);
    making->marks = marks;
    making->n_marks = n;
    making->closure = 0;
    return ERR_OK;
}

static enum err machine_make(struct making *making, uint32_t number)
{
    enum err err = grammar_nfa_make(&making->nfa, number);
    if (err == ERR_OK) err = marks_grow(making);
    if (err != ERR_OK) return err;
    uint32_t at = ((uint32_t *)making->nfa.machines.items)[number];
    const struct grammar_node *node = &grammar_nodes(making->builder)[at];
    struct grammar_machine machine = {.start = (uint32_t)making->places.n,
                                      .counted = grammar_is_counted(node, making->nfa.facts)};
    if (machine.counted) {
        machine.min = making->nfa.facts[node->first].nullable ? 0 : (uint32_t)node->min;
        machine.max = node->max < 0 ? GRAMMAR_NONE : (uint32_t)node->max;
    }
    if (!grammar_pool_reserve(&making->machines, 1, sizeof machine)) return no_memory(making);
    ((struct grammar_machine *)making->machines.items)[making->machines.n++] = machine;
    making->base = machine.start;
    making->subsets.n = making->members.n = 0;
    if (making->slots) memset(making->slots, 0, making->n_slots * sizeof *making->slots);
    uint32_t first = 0;
    err = subset_get(making, number, &making->nfa.start, 1, machine.counted, &first);
    for (uint32_t i = 0; err == ERR_OK && i < making->subsets.n; i++) {
        struct subset subset = ((struct subset *)making->subsets.items)[i];
        const uint32_t *members = (const uint32_t *)making->members.items + subset.first;
        uint8_t flags = machine.counted && i == 0 ? STATE_HEAD : 0;
        for (uint32_t j = 0; j < subset.n; j++)
            if (members[j] == making->nfa.accept) flags |= STATE_FINAL;
        ((struct grammar_place *)making->places.items)[making->base + i].flags = flags;
        err = bytes_follow(making, number, i, subset);
        if (err == ERR_OK) err = calls_follow(making, number, i, subset);
    }
    return err;
}

/* ---- All machines ---- */

/* Takes away what leads to no end, until nothing changes; sets STATE_OUT. */
static enum err trim(struct making *making)
{
    struct grammar_place *places = making->places.items;
    struct grammar_call *calls = making->calls.items;
    int32_t *next = making->next.items;
    uint32_t n_classes = making->grammar->n_classes;
    const struct grammar_machine *machines = making->machines.items;
    bool *is_live = calloc(making->places.n + 1, sizeof *is_live);
    if (!is_live) return no_memory(making);
    enum err err = ERR_OK;
    for (bool changed = true; changed && err == ERR_OK;) {
        changed = false;
        for (size_t i = making->places.n; i-- > 0 && err == ERR_OK;) {
            err = grammar_watch_check(&making->watch);
            if (is_live[i]) continue;
            bool live = places[i].flags & STATE_FINAL;
            for (uint32_t c = 0; c < n_classes && !live; c++)
                live = next[i * n_classes + c] >= 0 && is_live[next[i * n_classes + c]];
            for (uint32_t c = 0; c < places[i].n_calls && !live; c++) {
                const struct grammar_call *call = &calls[places[i].first_call + c];
                live = is_live[call->back] && is_live[machines[call->machine].start];
            }
            is_live[i] = live;
            changed |= live;
        }
    }
    for (size_t i = 0; i < making->places.n && err == ERR_OK; i++) {
        bool out = false;
        for (uint32_t c = 0; c < n_classes; c++) {
            int32_t *target = &next[i * n_classes + c];
            if (*target >= 0 && !is_live[*target]) *target = -1;
            out |= *target >= 0;
        }
        uint16_t n_kept = 0;
        for (uint32_t c = 0; c < places[i].n_calls; c++) {
            struct grammar_call call = calls[places[i].first_call + c];
            if (is_live[call.back] && is_live[machines[call.machine].start])
                calls[places[i].first_call + n_kept++] = call;
        }
        places[i].n_calls = n_kept;
        if (out || n_kept) places[i].flags |= STATE_OUT;
    }
    bool is_empty = err == ERR_OK && !is_live[machines[0].start];
    free(is_live);
    if (is_empty) return err_set(making->watch.info, ERR_INVALID, "the grammar derives no text at all");
    return err;
}

/* Which bytes can follow a place: its own, and the first ones of what it calls. */
static enum err alive_fill(struct making *making)
{
    struct grammar_place *places = making->places.items;
    const struct grammar_machine *machines = making->machines.items;
    const struct grammar_call *calls = making->calls.items;
    const int32_t *next = making->next.items;
    uint32_t n_classes = making->grammar->n_classes;
    for (size_t i = 0; i < making->places.n; i++)
        for (uint32_t c = 0; c < n_classes; c++)
            if (next[i * n_classes + c] >= 0) grammar_set_put(&places[i].alive, c);
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < making->places.n; i++) {
            enum err err = grammar_watch_check(&making->watch);
            if (err != ERR_OK) return err;
            for (uint32_t c = 0; c < places[i].n_calls; c++) {
                const struct grammar_call *call = &calls[places[i].first_call + c];
                const struct grammar_set *first = &places[machines[call->machine].start].alive;
                for (int w = 0; w < 4; w++) {
                    changed |= (first->bits[w] & ~places[i].alive.bits[w]) != 0;
                    places[i].alive.bits[w] |= first->bits[w];
                }
            }
        }
    }
    return ERR_OK;
}

/* The byte leads from `from`, and by no call, to `to`; where `to` is between two of what a machine counts, to
   one more complete. Nothing else comes of it. */
static bool leads_to(const struct grammar *grammar, uint32_t from, unsigned byte, uint32_t to)
{
    unsigned class = grammar->byte_class[byte];
    const struct grammar_place *it = &grammar->places[from];
    for (uint32_t c = 0; c < it->n_calls; c++) {
        uint32_t callee = grammar->machines[grammar->calls[it->first_call + c].machine].start;
        if (grammar_set_has(&grammar->places[callee].alive, class)) return false;
    }
    int32_t target = grammar_next(grammar, from, class);
    if (target < 0) return false;
    if (grammar->places[to].flags & STATE_HEAD)
        return (grammar->places[target].flags & (STATE_FINAL | STATE_OUT)) == STATE_FINAL;
    if (grammar->machines[it->machine].counted && grammar->places[target].flags & STATE_FINAL) return false;
    return target == (int32_t)to;
}

/* Every character of more than one byte leads from `from` to `to`: all of its ways are the same. */
static bool wide_leads_to(const struct grammar *grammar, uint32_t from, uint32_t to)
{
    static const struct {
        uint8_t first, last, n, low, high; /* leads, bytes after, range of the first of them */
    } forms[] = {{0xC2, 0xDF, 1, 0x80, 0xBF}, {0xE0, 0xE0, 2, 0xA0, 0xBF}, {0xE1, 0xEC, 2, 0x80, 0xBF},
                 {0xED, 0xED, 2, 0x80, 0x9F}, {0xEE, 0xEF, 2, 0x80, 0xBF}, {0xF0, 0xF0, 3, 0x90, 0xBF},
                 {0xF1, 0xF3, 3, 0x80, 0xBF}, {0xF4, 0xF4, 3, 0x80, 0x8F}};
    for (size_t f = 0; f < sizeof forms / sizeof forms[0]; f++) {
        for (unsigned lead = forms[f].first; lead <= forms[f].last; lead++) {
            uint32_t at = from;
            unsigned low = lead, high = lead;
            for (int n = forms[f].n; n > 0; n--) {
                int32_t target = grammar_next(grammar, at, grammar->byte_class[low]);
                if (target < 0) return false;
                for (unsigned b = low; b <= high; b++)
                    if (!leads_to(grammar, at, b, (uint32_t)target)) return false;
                if (grammar->places[target].flags & STATE_FINAL) return false;
                at = (uint32_t)target;
                low = n == forms[f].n ? forms[f].low : 0x80;
                high = n == forms[f].n ? forms[f].high : 0xBF;
            }
            for (unsigned b = low; b <= high; b++)
                if (!leads_to(grammar, at, b, to)) return false;
        }
    }
    return true;
}

static void place_loops(struct grammar *grammar, uint32_t at, const uint32_t class_of[256])
{
    struct grammar_place *place = &grammar->places[at];
    uint32_t loses = 0;
    for (unsigned b = 0; b < 256; b++) {
        if (grammar_set_has(&place->alive, grammar->byte_class[b])) place->touches |= class_of[b];
        if (grammar_next(grammar, at, grammar->byte_class[b]) >= 0) place->bytes |= class_of[b];
        if (class_of[b] != grammar_vocabulary_wide && !(loses & class_of[b]) && !leads_to(grammar, at, b, at))
            loses |= class_of[b];
    }
    if (!wide_leads_to(grammar, at, at)) loses |= grammar_vocabulary_wide;
    place->loops = ~loses;
}

/* The place to which all plain characters lead, GRAMMAR_NONE: there is none. */
static uint32_t place_follows(const struct grammar *grammar, uint32_t at, const uint32_t class_of[256])
{
    int32_t to = grammar_next(grammar, at, grammar->byte_class['a']);
    if (grammar->places[at].flags & STATE_HEAD || to < 0) return GRAMMAR_NONE;
    for (unsigned b = 0; b < 0x80; b++)
        if (class_of[b] & grammar_vocabulary_plain && !leads_to(grammar, at, b, (uint32_t)to))
            return GRAMMAR_NONE;
    return wide_leads_to(grammar, at, (uint32_t)to) ? (uint32_t)to : GRAMMAR_NONE;
}

/* Back along places of which each leads to the next. */
static void reach_add(struct grammar *grammar, uint32_t at, uint32_t next)
{
    struct grammar_place *place = &grammar->places[at], *after = &grammar->places[next];
    bool ends = !(after->touches & grammar_vocabulary_plain); /* nor do exits: that is asked of the frame */
    if (at != next && !after->reach && !ends) return;
    place->reach = at == next || after->reach == GRAMMAR_NONE ? GRAMMAR_NONE : after->reach + 1;
    place->reach_touches = place->touches | after->touches | after->reach_touches;
    place->reach_returns = after->reach_returns || (place->flags | after->flags) & STATE_FINAL;
}

/* Where plain characters lead, and how far. Counting machines are followed while they run. */
static bool reach_fill(struct grammar *grammar, const uint32_t class_of[256])
{
    enum { UNKNOWN, OPEN, DONE };
    uint32_t n = grammar->n_places;
    uint32_t *follows = malloc(((size_t)n + 1) * sizeof *follows),
             *path = malloc(((size_t)n + 1) * sizeof *path);
    uint8_t *state = calloc((size_t)n + 1, 1);
    bool made = follows && path && state;
    for (uint32_t p = 0; made && p < n; p++) {
        struct grammar_place *place = &grammar->places[p];
        follows[p] = place_follows(grammar, p, class_of);
        place->enters = p;
        if (follows[p] == GRAMMAR_NONE || follows[p] == p) continue;
        uint32_t loops = grammar->places[follows[p]].loops;
        if ((loops & grammar_vocabulary_plain) == grammar_vocabulary_plain) place->enters = follows[p];
    }
    for (uint32_t p = 0; made && p < n; p++) {
        uint32_t n_path = 0, at = p;
        while (at != GRAMMAR_NONE && state[at] == UNKNOWN &&
               !grammar->machines[grammar->places[at].machine].counted) {
            state[at] = OPEN;
            path[n_path++] = at;
            at = follows[at];
        }
        while (n_path > 0) {
            at = path[--n_path];
            if (follows[at] != GRAMMAR_NONE && (follows[at] == at || state[follows[at]] == DONE))
                reach_add(grammar, at, follows[at]);
            state[at] = DONE;
        }
    }
    free(follows);
    free(path);
    free(state);
    return made;
}

static bool loops_fill(struct grammar *grammar)
{
    uint32_t class_of[256];
    for (unsigned b = 0; b < 256; b++) class_of[b] = grammar_vocabulary_class(b);
    for (uint32_t p = 0; p < grammar->n_places; p++) place_loops(grammar, p, class_of);
    return reach_fill(grammar, class_of);
}

/* ---- Build ---- */

/* Gives back what the pool has not used; what it has stays when that fails. */
static void *pool_settle(struct grammar_pool *pool, size_t item_bytes)
{
    void *items = pool->n ? realloc(pool->items, pool->n * item_bytes) : NULL;
    if (items) {
        pool->items = items;
        pool->capacity = pool->n;
    }
    items = pool->items;
    pool->items = NULL;
    return items;
}

static enum err grammar_finish(struct making *making)
{
    struct grammar *grammar = making->grammar;
    grammar->n_places = (uint32_t)making->places.n;
    grammar->n_machines = (uint32_t)making->machines.n;
    grammar->n_calls = (uint32_t)making->calls.n;
    grammar->places = pool_settle(&making->places, sizeof(struct grammar_place));
    grammar->machines = pool_settle(&making->machines, sizeof(struct grammar_machine));
    grammar->calls = pool_settle(&making->calls, sizeof(struct grammar_call));
    grammar->next = pool_settle(&making->next, sizeof(int32_t));
    grammar->fixed_bytes = sizeof *grammar + making->places.capacity * sizeof(struct grammar_place) +
                           making->machines.capacity * sizeof(struct grammar_machine) +
                           making->calls.capacity * sizeof(struct grammar_call) +
                           making->next.capacity * sizeof(int32_t);
    if (!loops_fill(grammar)) return no_memory(making);
    int depth = making->watch.limits->max_depth;
    grammar->max_frames = depth < 16 ? 16 : depth > GRAMMAR_MAX_FRAMES ? GRAMMAR_MAX_FRAMES : (uint32_t)depth;
    size_t most = making->watch.limits->max_bytes;
    if (grammar->fixed_bytes > most)
        return err_set(making->watch.info, ERR_LIMIT, "the grammar's automaton takes more than %zu bytes",
                       most);
    grammar->cache = grammar_cache_create(grammar->vocabulary->n_words, most - grammar->fixed_bytes);
    return grammar->cache ? ERR_OK : no_memory(making);
}

static enum err making_run(struct making *making, struct grammar_builder *builder, int root,
                           uint32_t byte_sets[256])
{
    /* The root gets a machine of its own, which nothing calls. */
    if (!grammar_pool_reserve(&builder->nodes, 1, sizeof(struct grammar_node))) return no_memory(making);
    uint32_t top = (uint32_t)builder->nodes.n++;
    grammar_nodes(builder)[top] = (struct grammar_node){.kind = NODE_RULE, .first = (uint32_t)root};
    making->nfa = (struct grammar_nfa){.builder = builder, .watch = &making->watch, .byte_sets = byte_sets};
    making->nfa.facts = malloc(builder->nodes.n * sizeof *making->nfa.facts);
    if (!making->nfa.facts) return no_memory(making);
    enum err err = grammar_analyse(builder, top, making->nfa.facts, &making->watch);
    if (err == ERR_OK) err = classes_make(making, builder, byte_sets);
    if (err != ERR_OK) return err;
    if (!grammar_pool_reserve(&making->nfa.machines, 1, sizeof(uint32_t))) return no_memory(making);
    ((uint32_t *)making->nfa.machines.items)[making->nfa.machines.n++] = top;
    making->nfa.facts[top].machine = 0;
    for (uint32_t i = 0; err == ERR_OK && i < making->nfa.machines.n; i++) err = machine_make(making, i);
    if (err == ERR_OK) err = trim(making);
    if (err == ERR_OK) err = alive_fill(making);
    if (err == ERR_OK) err = grammar_finish(making);
    return err;
}

static void making_free(struct making *making)
{
    free(making->nfa.facts);
    free(making->nfa.states.items);
    free(making->nfa.edges.items);
    free(making->nfa.machines.items);
    free(making->places.items);
    free(making->machines.items);
    free(making->calls.items);
    free(making->next.items);
    free(making->set_classes);
    free(making->subsets.items);
    free(making->members.items);
    free(making->slots);
    free(making->marks);
    free(making->todo.items);
    for (size_t i = 0; i < sizeof making->lists / sizeof making->lists[0]; i++) free(making->lists[i].items);
    free(making);
}

enum err grammar_build(struct grammar_builder *builder, int root, const struct grammar_vocabulary *vocabulary,
                       struct grammar **out, struct err_info *info)
{
    if (builder->fault.code != ERR_OK) {
        if (info) *info = builder->fault;
        return builder->fault.code;
    }
    if (root < 0 || (size_t)root >= builder->nodes.n)
        return err_set(info, ERR_INVALID, "the grammar has no start");
    struct making *making = calloc(1, sizeof *making);
    struct grammar *grammar = calloc(1, sizeof *grammar);
    if (!making || !grammar) {
        free(making);
        free(grammar);
        return err_set(info, ERR_MEMORY, "no memory for the grammar");
    }
    atomic_init(&grammar->n_references, 1);
    grammar->vocabulary = vocabulary;
    making->builder = builder;
    making->grammar = grammar;
    making->watch = builder->watch;
    making->watch.info = info;
    size_t n_nodes = builder->nodes.n, n_sets = builder->sets.n;
    uint32_t byte_sets[256];
    enum err err = making_run(making, builder, root, byte_sets);
    builder->nodes.n = n_nodes;
    builder->sets.n = n_sets;
    making_free(making);
    if (err == ERR_OK)
        *out = grammar;
    else
        grammar_release(grammar);
    return err;
}

void grammar_retain(struct grammar *grammar)
{
    atomic_fetch_add_explicit(&grammar->n_references, 1, memory_order_relaxed);
}

void grammar_release(struct grammar *grammar)
{
    if (!grammar || atomic_fetch_sub_explicit(&grammar->n_references, 1, memory_order_acq_rel) > 1) return;
    grammar_cache_free(grammar->cache);
    free(grammar->places);
    free(grammar->machines);
    free(grammar->calls);
    free(grammar->next);
    free(grammar);
}

size_t grammar_bytes(const struct grammar *grammar)
{
    return grammar->fixed_bytes + grammar_cache_bytes(grammar->cache);
}
