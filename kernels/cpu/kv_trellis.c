#include "kernels/cpu/kv_trellis.h"

#include <limits.h>

enum { STATES = KV_TRELLIS_STATES, STEPS = KV_TRELLIS_STEPS, LANES = KV_TRELLIS_LANES };

static int step_cost(int x, int previous, int code)
{
    int level = 2 * kv_trellis_u(previous, code) - 15;
    return 2 * level * level - x * level;
}

/* The best path from `start` back to `start`: its cost, and at each step the state before each state. */
static int paths_search(const int *x, int start, uint8_t before[STEPS][STATES])
{
    int sums[STATES];
    for (int code = 0; code < STATES; code++) {
        sums[code] = step_cost(x[0], start, code);
        before[0][code] = (uint8_t)start;
    }
    for (int step = 1; step < STEPS; step++) {
        int next[STATES];
        for (int code = 0; code < STATES; code++) {
            next[code] = INT_MAX;
            for (int previous = 0; previous < STATES; previous++) {
                int sum = sums[previous] + step_cost(x[step], previous, code);
                if (sum >= next[code]) continue;
                next[code] = sum;
                before[step][code] = (uint8_t)previous;
            }
        }
        for (int code = 0; code < STATES; code++) sums[code] = next[code];
    }
    return sums[start];
}

static uint32_t word_search(const int *x)
{
    uint32_t word = 0;
    int best = INT_MAX;
    for (int start = 0; start < STATES; start++) {
        uint8_t before[STEPS][STATES];
        int cost = paths_search(x, start, before);
        if (cost >= best) continue;
        best = cost;
        word = 0;
        int code = start;
        for (int step = STEPS - 1; step >= 0; step--) {
            word |= (uint32_t)code << (2 * step);
            code = before[step][code];
        }
    }
    return word;
}

void kv_trellis_scalar(int16_t *tile, uint32_t *words)
{
    for (int lane = 0; lane < LANES; lane++) {
        int x[STEPS];
        for (int step = 0; step < STEPS; step++) x[step] = tile[step * LANES + lane];
        words[lane] = word_search(x);
        for (int step = 0; step < STEPS; step++)
            tile[step * LANES + lane] = (int16_t)kv_trellis_word_u(words[lane], step);
    }
}
