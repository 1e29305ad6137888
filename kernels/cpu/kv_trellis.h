#ifndef KERNELS_CPU_KV_TRELLIS_H
#define KERNELS_CPU_KV_TRELLIS_H

#include "kernels/kv_codec.h"

/*
 * The search for the 2-bit codes of a word (kernels/kv_codec.h): of all 4^16 words the one whose levels are
 * nearest to x. A level depends on a code and the one before it, so the codes are a path through a trellis of
 * four states, and Viterbi's algorithm finds the best path from a given start. The word is tail-biting: the
 * code before the first is the last. So the search runs once for each of the four codes that the last may be,
 * and the best of the four is exact. (Running around the circle once and starting from the state found there
 * is a quarter of the work, but costs 13 % in squared error.)
 *
 * (x - 4 level)^2 = x^2 + 8 (2 level^2 - x level), and x^2 is the same on every path: a step costs
 * 2 level^2 - x level, between -1152 and 1890 for |x| <= 96, so sums of 16 steps stay in int16.
 *
 * Of equals: at each step a state keeps the lowest previous state, and of the four starts the lowest wins.
 * Every implementation does the same, to the bit.
 */
enum {
    KV_TRELLIS_STATES = 4,
    KV_TRELLIS_STEPS = KV_CODE_GROUP,
    KV_TRELLIS_LANES = 16,
    KV_TRELLIS_LIMIT = 96
};

/* u of a code after another: level = 2 u - 15. */
static inline int kv_trellis_u(int previous, int code)
{
    return 5 * (code >> 1) + 3 * (code & 1) + 4 * (previous & 1) + 3 * (1 - (previous >> 1));
}

/* The same of code j of a word. */
static inline int kv_trellis_word_u(uint32_t word, int j)
{
    int before = (j + KV_TRELLIS_STEPS - 1) % KV_TRELLIS_STEPS;
    return kv_trellis_u((int)(word >> (2 * before) & 3), (int)(word >> (2 * j) & 3));
}

/* Sixteen words at a time. tile [steps][lanes]: on entry x, |x| <= 96; on return u. words [lanes]: the codes,
   code j at bits 2j, 2j + 1. */
void kv_trellis_scalar(int16_t *tile, uint32_t *words);

#endif
