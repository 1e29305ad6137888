#include "cache/plan_search.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* A choice for one group: levels[choice / PLAN_LEVELS] bits in the search's first part, and
   levels[choice % PLAN_LEVELS] in its second. */
static const uint8_t levels[PLAN_LEVELS] = {0, 1, 2, 4};
static const int choice_bits[PLAN_CHOICES] = {0, 1, 2, 4, 1, 2, 3, 5, 2, 3, 4, 6, 4, 5, 6, 8};

/* The least cost of the groups up to this one, and the choice of the group before it. */
struct plan_cell {
    double cost;
    int before;
};

size_t plan_cells_bytes(int n_groups)
{
    size_t cells = (size_t)n_groups * (size_t)(8 * n_groups + 1) * PLAN_CHOICES * PLAN_PARITIES;
    return cells * sizeof(struct plan_cell);
}

int plan_search_bits(const struct plan_search *search)
{
    return 4 * search->n_groups * search->n_parts;
}

static struct plan_cell *cell_at(const struct plan_search *s, int group, int used, int choice, int parity)
{
    int row = group * (plan_search_bits(s) + 1) + used;
    return &s->cells[(row * PLAN_CHOICES + choice) * PLAN_PARITIES + parity];
}

/* Bit p: one more group of 1 bit in part p of the search. Only keys pay for a group without a partner. */
static int choice_ones(const struct plan_search *s, int choice)
{
    return s->is_key ? (choice / PLAN_LEVELS == 1) | (choice % PLAN_LEVELS == 1) << 1 : 0;
}

static void choice_apply(struct plan_search *s, int group, int choice)
{
    s->bits[group][s->first] = levels[choice / PLAN_LEVELS];
    if (s->n_parts == 2) s->bits[group][s->first + 1] = levels[choice % PLAN_LEVELS];
}

/* The first part is what scales are taken from, so it codes something, and the second refines it. Values
   without a bit cost far more than their distortion says (measured: .032 instead of .019), so that they have
   one. Of three codes of a channel the second and the third have at most 2 bits (kv_code_distortion knows no
   others). */
static bool choice_allowed(const struct plan_search *s, int group, int choice)
{
    int first = choice / PLAN_LEVELS, second = choice % PLAN_LEVELS, n_before = 0;
    if (s->n_parts == 1 && second != 0) return false;
    if (s->first == 0 && first == 0 && (second != 0 || group == 0 || !s->is_key)) return false;
    for (int p = 0; p < s->first; p++) n_before += s->bits[group][p] != 0;
    if (n_before == 2) return levels[first] <= 2;
    return !s->refined || levels[second] <= 2;
}

/* The cheapest way to come to a cell by a choice that has no fewer bits in either part. */
static struct plan_cell cell_reach(const struct plan_search *s, int group, int used, int choice, int parity)
{
    struct plan_cell best = {INFINITY, 0};
    int used_before = used - choice_bits[choice], parity_before = parity ^ choice_ones(s, choice);
    if (used_before < 0) return best;
    if (group == 0) return (struct plan_cell){used_before == 0 && parity_before == 0 ? 0 : INFINITY, 0};
    for (int first = choice / PLAN_LEVELS; first < PLAN_LEVELS; first++)
        for (int second = choice % PLAN_LEVELS; second < PLAN_LEVELS; second++) {
            int before = first * PLAN_LEVELS + second;
            double cost = cell_at(s, group - 1, used_before, before, parity_before)->cost;
            if (cost < best.cost) best = (struct plan_cell){cost, before};
        }
    return best;
}

/* A code of distortion D that is scaled to be unbiased errs by D / (1 - D), unlike from token to token. A
   group without bits errs alike everywhere, which is worse than its distortion of 1 says. */
static double loss(double distortion)
{
    return distortion < 1 ? distortion / (1 - distortion) : 2;
}

static void group_search(struct plan_search *s, int group)
{
    int most = plan_search_bits(s);
    for (int choice = 0; choice < PLAN_CHOICES; choice++) {
        bool allowed = choice_allowed(s, group, choice);
        double cost = 0;
        choice_apply(s, group, choice);
        if (allowed)
            cost = s->weight[group] *
                   loss(kv_code_distortion(s->bits[group], s->first + s->n_parts, s->n_old_parts));
        for (int used = 0; used <= most; used++)
            for (int parity = 0; parity < PLAN_PARITIES; parity++) {
                struct plan_cell cell = {INFINITY, 0};
                if (allowed) cell = cell_reach(s, group, used, choice, parity);
                cell.cost += cost;
                *cell_at(s, group, used, choice, parity) = cell;
            }
    }
}

/* Of the last group's cells that end with `used` bits, those for missing partners included, the cheapest. */
static double end_find(const struct plan_search *s, int used, int *choice, int *parity)
{
    double best = INFINITY;
    for (int c = 0; c < PLAN_CHOICES; c++)
        for (int p = 0; p < PLAN_PARITIES; p++) {
            int paid = used - __builtin_popcount((unsigned)p);
            double cost = paid >= 0 ? cell_at(s, s->n_groups - 1, paid, c, p)->cost : INFINITY;
            if (!(cost < best)) continue;
            best = cost;
            *choice = c;
            *parity = p;
        }
    return best;
}

void plan_search_run(struct plan_search *search, double *cost)
{
    int choice, parity;
    for (int g = 0; g < search->n_groups; g++) group_search(search, g);
    for (int used = 0; used <= plan_search_bits(search); used++) {
        cost[used] = end_find(search, used, &choice, &parity);
        if (used > 0) cost[used] = fmin(cost[used], cost[used - 1]);
    }
}

void plan_search_take(struct plan_search *search, int limit)
{
    double best = INFINITY;
    int used = 0, choice = 0, parity = 0;
    for (int u = 0; u <= limit; u++) {
        int c = 0, p = 0;
        double cost = end_find(search, u, &c, &p);
        if (!(cost < best)) continue;
        best = cost;
        used = u - __builtin_popcount((unsigned)p);
        choice = c;
        parity = p;
    }
    assert(best < INFINITY);
    for (int g = search->n_groups - 1; g >= 0; g--) {
        int before = cell_at(search, g, used, choice, parity)->before;
        choice_apply(search, g, choice);
        used -= choice_bits[choice];
        parity ^= choice_ones(search, choice);
        choice = before;
    }
}
