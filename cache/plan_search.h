#ifndef CACHE_PLAN_SEARCH_H
#define CACHE_PLAN_SEARCH_H

#include "kernels/kv_codec.h"

#include <stdbool.h>

/*
 * The best bits of one side (keys or values) of one page, for every number of bits that it may have.
 *
 * One search decides one part, or two parts that are always read together, given what the parts before them
 * have. It minimises the sum over groups of weight * the error that an unbiased code with all bits of the
 * group so far leaves. In a part bits do not increase from group to group, so what is left to search is
 * small, and a dynamic program finds the best of all: from group to group it keeps, for every number of bits
 * used, the bits of the last group and whether the groups of 1 bit so far are odd in number, since keys store
 * those in pairs.
 *
 * Bits are counted over groups: 1 is one bit for each channel of a group.
 */
enum { PLAN_LEVELS = 4, PLAN_CHOICES = PLAN_LEVELS * PLAN_LEVELS, PLAN_PARITIES = 4 };
enum { PLAN_MAX_BITS = 2 * 4 * KV_MAX_CODE_GROUPS };

struct plan_search {
    int n_groups;
    int n_old_parts;    /* of the codec (kv_code_distortion) */
    int first, n_parts; /* decided here: parts first .. first + n_parts - 1, one or two */
    bool is_key;
    bool refined; /* another part will refine these */
    double weight[KV_MAX_CODE_GROUPS];
    uint8_t bits[KV_MAX_CODE_GROUPS][KV_MAX_PARTS]; /* of the parts before `first`; the search adds its own */
    struct plan_cell *cells; /* [n_groups][bits + 1][PLAN_CHOICES][PLAN_PARITIES]: plan_cells_bytes */
};

size_t plan_cells_bytes(int n_groups);

/* Most bits that a side can use in such a search. */
int plan_search_bits(const struct plan_search *search);
/* Fills search->cells, and cost[0..plan_search_bits]: the least cost within so many bits; INFINITY where
   there is none. */
void plan_search_run(struct plan_search *search, double *cost);
/* After plan_search_run: sets search->bits of its parts to the best that `limit` bits allow (a limit of
   finite cost). */
void plan_search_take(struct plan_search *search, int limit);

#endif
