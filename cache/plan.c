/*
 * Two steps: what old blocks are read with, in one part or in two that are always read together; then what
 * recent blocks have besides, given that. In each step every side of every page says what it would lose at
 * any number of bits (cache/plan_search.h); then the bits go where they save most.
 *
 * What a page loses is measured in one currency, the squared error of the residual stream relative to the
 * stream itself: calibration knows how much of it a unit of distortion causes in the keys and in the values
 * of every page. For keys groups count by sigma^4, since sigma^2 scales both the variance of a balanced key
 * and that of the query that reads it; the channels of values are alike.
 */
#include "cache/plan.h"

#include "cache/plan_search.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Parts of one side, by the bits of its old blocks, in halves of a bit per value. */
struct ladder {
    int half_bits, n_old_parts, recent_half_bits;
};

static const struct ladder ladders[] = {{3, 1, 4}, {4, 1, 4}, {5, 2, 3}, {6, 2, 2}, {8, 2, 0}, {16, 2, 0}};

static const struct ladder *ladder_find(int half_bits)
{
    for (size_t i = 0; i < sizeof ladders / sizeof *ladders; i++)
        if (ladders[i].half_bits == half_bits) return &ladders[i];
    assert(!"bits that a format may have");
    return NULL;
}

enum side { VALUES, KEYS, SIDES };

/* A side of a page in one step. */
struct item {
    enum side side;
    size_t page;
    double *cost; /* [most + 1]: what it loses with so many bits */
    int most, bits;
    int next; /* the number of bits above `bits` to which each bit saves most, and how much; 0 bits: none */
    double saving;
};

struct planner {
    struct kv_plan plan;
    const struct calibration *calibration; /* or NULL */
    const struct ladder *ladders[SIDES];
    size_t n_pages;
    struct plan_search search;
    struct item *items; /* [SIDES * n_pages] */
    double *costs;      /* [SIDES * n_pages][PLAN_MAX_BITS + 1] */
};

static uint8_t *bits_of(const struct planner *planner, int part, const struct item *item)
{
    struct kv_code *code = &planner->plan.codes[part][item->page];
    return item->side == KEYS ? code->key_bits : code->value_bits;
}

/* Bits of all groups of a page. An average that groups cannot meet exactly is rounded up. */
static int page_bits(int n_groups, int half_bits)
{
    return (n_groups * half_bits + 1) / 2;
}

/* The item's search in this step, run. */
static void item_search(struct planner *planner, struct item *item, bool recent)
{
    struct plan_search *s = &planner->search;
    const struct ladder *ladder = planner->ladders[item->side];
    const struct calibration *c = planner->calibration;
    double weight = 1;
    if (c != NULL) weight = (double)(item->side == KEYS ? c->key_weight : c->value_weight)[item->page];
    s->is_key = item->side == KEYS;
    s->first = recent ? s->n_old_parts : 0;
    s->n_parts = recent ? 1 : ladder->n_old_parts;
    s->refined = !recent && ladder->recent_half_bits > 0;
    for (int g = 0; g < s->n_groups; g++) {
        s->weight[g] = weight;
        if (s->is_key && c != NULL)
            s->weight[g] *= pow((double)c->key_sigma[item->page * (size_t)s->n_groups + (size_t)g], 4);
        for (int p = 0; p < KV_MAX_PARTS; p++)
            s->bits[g][p] = p < s->first ? bits_of(planner, p, item)[g] : 0;
    }
    item->most = plan_search_bits(s);
    plan_search_run(s, item->cost);
}

static void item_next(struct item *item, int left)
{
    item->next = 0;
    item->saving = 0;
    for (int bits = item->bits + 1; bits <= item->most && bits <= item->bits + left; bits++) {
        double saving = (item->cost[item->bits] - item->cost[bits]) / (bits - item->bits);
        if (!(saving > item->saving)) continue;
        item->saving = saving;
        item->next = bits;
    }
}

/* Bits go one step after the other to where each saves most. Every item's steps save less and less (they
   follow the convex hull of its costs), so no other split of what has been given by then loses less. */
static void items_split(struct item *items, size_t n, int budget)
{
    int left = budget;
    for (size_t i = 0; i < n; i++) {
        items[i].bits = 0;
        while (items[i].cost[items[i].bits] == INFINITY) items[i].bits++;
        left -= items[i].bits;
    }
    for (size_t i = 0; i < n; i++) item_next(&items[i], left);
    while (left > 0) {
        struct item *best = NULL;
        for (size_t i = 0; i < n; i++) {
            if (items[i].next - items[i].bits > left) item_next(&items[i], left);
            if (items[i].next != 0 && (best == NULL || items[i].saving > best->saving)) best = &items[i];
        }
        if (best == NULL) return;
        left -= best->next - best->bits;
        best->bits = best->next;
        item_next(best, left);
    }
}

/* Every item starts with its even share. Without calibration it stays so: nobody knows better. Keys and
   values share when they were asked to have the same bits. */
static void bits_split(const struct planner *planner, struct item *items, size_t n)
{
    int budget = 0;
    size_t first = 0;
    for (size_t i = 0; i < n && planner->calibration != NULL; i++) {
        budget += items[i].bits;
        if (i + 1 < n && planner->ladders[items[i + 1].side] == planner->ladders[items[i].side]) continue;
        items_split(items + first, i + 1 - first, budget);
        first = i + 1;
        budget = 0;
    }
}

static void step_plan(struct planner *planner, bool recent)
{
    size_t n = 0;
    for (enum side side = 0; side < SIDES; side++) {
        const struct ladder *ladder = planner->ladders[side];
        int half_bits = recent ? ladder->recent_half_bits : ladder->half_bits;
        for (size_t page = 0; half_bits > 0 && page < planner->n_pages; page++, n++) {
            planner->items[n] =
                (struct item){.side = side, .page = page, .cost = planner->costs + n * (PLAN_MAX_BITS + 1)};
            planner->items[n].bits = page_bits(planner->search.n_groups, half_bits);
            item_search(planner, &planner->items[n], recent);
        }
    }
    bits_split(planner, planner->items, n);
    for (size_t i = 0; i < n; i++) {
        struct item *item = &planner->items[i];
        struct plan_search *s = &planner->search;
        item_search(planner, item, recent);
        plan_search_take(s, item->bits);
        for (int p = s->first; p < s->first + s->n_parts; p++)
            for (int g = 0; g < s->n_groups; g++) bits_of(planner, p, item)[g] = s->bits[g][p];
    }
}

static enum err planner_open(struct planner *planner, struct err_info *info)
{
    size_t n_items = SIDES * planner->n_pages;
    struct kv_code *codes = calloc((size_t)planner->plan.n_parts * planner->n_pages, sizeof *codes);
    planner->plan.codes[0] = codes;
    planner->search.cells = malloc(plan_cells_bytes(planner->search.n_groups));
    planner->items = malloc(n_items * sizeof *planner->items);
    planner->costs = malloc(n_items * (PLAN_MAX_BITS + 1) * sizeof *planner->costs);
    if (!codes || !planner->search.cells || !planner->items || !planner->costs)
        return err_set(info, ERR_MEMORY, "bits of the cache format: out of memory");
    for (int p = 0; p < planner->plan.n_parts; p++)
        planner->plan.codes[p] = codes + (size_t)p * planner->n_pages;
    return ERR_OK;
}

enum err kv_plan_make(const struct kv_shape *shape, const struct calibration *calibration, int key_half_bits,
                      int value_half_bits, struct kv_plan *out, struct err_info *info)
{
    const struct ladder *key = ladder_find(key_half_bits), *value = ladder_find(value_half_bits);
    int n_old = key->n_old_parts > value->n_old_parts ? key->n_old_parts : value->n_old_parts;
    bool recent = key->recent_half_bits > 0 || value->recent_half_bits > 0;
    struct planner planner = {.plan = {.n_parts = n_old + recent, .n_old_parts = n_old},
                              .calibration = calibration,
                              .ladders = {[KEYS] = key, [VALUES] = value},
                              .n_pages = (size_t)shape->n_layers * (size_t)shape->n_kv_heads,
                              .search = {.n_groups = shape->head_dim / KV_CODE_GROUP, .n_old_parts = n_old}};
    enum err err = planner_open(&planner, info);
    if (err == ERR_OK) step_plan(&planner, false);
    if (err == ERR_OK && recent) step_plan(&planner, true);
    if (err == ERR_OK)
        *out = planner.plan;
    else
        kv_plan_free(&planner.plan);
    free(planner.search.cells);
    free(planner.items);
    free(planner.costs);
    return err;
}

void kv_plan_free(struct kv_plan *plan)
{
    free(plan->codes[0]);
    *plan = (struct kv_plan){0};
}
