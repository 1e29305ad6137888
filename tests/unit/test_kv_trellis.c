/* The search for the codes of a word: exact, the same on every instruction set, as good as measured. */
#include "kernels/cpu/kv_trellis.h"
#include "kernels/cpu/kv_write.h"
#include "kernels/workers.h"
#include "tests/unit/support/kv_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { STEPS = KV_TRELLIS_STEPS, LANES = KV_TRELLIS_LANES, CELLS = STEPS * LANES };

static int16_t limited(float x)
{
    x = fminf(fmaxf(x, -KV_TRELLIS_LIMIT), KV_TRELLIS_LIMIT);
    return (int16_t)rintf(x);
}

static void level_is_linear_in_the_bits(void **state)
{
    (void)state;
    for (int previous = 0; previous < 4; previous++) {
        for (int code = 0; code < 4; code++) {
            int level = 5 * (code & 2 ? 1 : -1) + 3 * (code & 1 ? 1 : -1) + 4 * (previous & 1 ? 1 : -1) -
                        3 * (previous & 2 ? 1 : -1);
            assert_int_equal(2 * kv_trellis_u(previous, code) - 15, level);
        }
    }
}

static long step_cost(const int16_t *tile, int lane, int step, int previous, int code)
{
    long miss = tile[step * LANES + lane] - 4 * (2 * kv_trellis_u(previous, code) - 15);
    return miss * miss;
}

/* The least cost of the words whose code j is fixed[j], or any where that is -1; found forward from the first
   code, where the search goes by the last. */
static long least_cost(const int16_t *tile, int lane, const int fixed[STEPS])
{
    const long far = 1L << 40;
    long best = far;
    for (int first = 0; first < 4; first++) {
        if (fixed[0] >= 0 && fixed[0] != first) continue;
        long sums[4] = {far, far, far, far};
        sums[first] = 0; /* what the first code costs depends on the last: added at the end */
        for (int j = 1; j < STEPS; j++) {
            long next[4] = {far, far, far, far};
            for (int to = 0; to < 4; to++) {
                if (fixed[j] >= 0 && fixed[j] != to) continue;
                for (int from = 0; from < 4; from++) {
                    long sum = sums[from] + step_cost(tile, lane, j, from, to);
                    if (sum < next[to]) next[to] = sum;
                }
            }
            memcpy(sums, next, sizeof sums);
        }
        for (int last = 0; last < 4; last++) {
            long sum = sums[last] + step_cost(tile, lane, 0, last, first);
            if (sum < best) best = sum;
        }
    }
    return best;
}

/* Of the words of least cost the one that the rule for equals names: the lowest last code, then, from the
   last step back, the lowest code before. */
static uint32_t expected_word(const int16_t *tile, int lane)
{
    int fixed[STEPS];
    for (int j = 0; j < STEPS; j++) fixed[j] = -1;
    long best = least_cost(tile, lane, fixed);
    uint32_t word = 0;
    for (int j = STEPS - 1; j >= 0; j--) {
        fixed[j] = 0;
        while (least_cost(tile, lane, fixed) != best) fixed[j]++;
        word |= (uint32_t)fixed[j] << (2 * j);
    }
    return word;
}

/* What the tests search: Gaussians as they come, uniform up to the limits, few values with many equals, and
   constants. */
static void tile_fill(int16_t *tile, int round, uint64_t *seed)
{
    for (int i = 0; i < CELLS; i++) {
        int random = (int)(kv_fixture_random(seed) >> 33);
        switch (round % 5) {
        case 0:
        case 1:
            tile[i] = limited(kv_fixture_gauss(seed) / 0.14f * (round % 5 ? 20 : 4));
            break;
        case 2:
            tile[i] = (int16_t)(random % (2 * KV_TRELLIS_LIMIT + 1) - KV_TRELLIS_LIMIT);
            break;
        case 3:
            tile[i] = (int16_t)(8 * (random % 3 - 1) * (round % 7));
            break;
        default:
            tile[i] =
                (int16_t)((i / LANES + i % LANES * round / 5) % 2 ? KV_TRELLIS_LIMIT : -KV_TRELLIS_LIMIT);
            if (round == 4) tile[i] = 0;
        }
    }
}

static void search_is_exact_and_decides_equals_as_documented(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int round = 0; round < 25; round++) {
        int16_t tile[CELLS], u[CELLS];
        uint32_t words[LANES];
        tile_fill(tile, round, &seed);
        memcpy(u, tile, sizeof u);
        kv_trellis_scalar(u, words);
        for (int lane = 0; lane < LANES; lane++) {
            assert_int_equal(words[lane], expected_word(tile, lane));
            for (int j = 0; j < STEPS; j++)
                assert_int_equal(u[j * LANES + lane], kv_trellis_word_u(words[lane], j));
        }
    }
}

/* tests/tools/code-units.py finds .0966 with units of .14 in NumPy. */
static void error_on_gaussians_is_as_measured(void **state)
{
    (void)state;
    enum { ROUNDS = 400 };
    const float unit = 0.14f;
    uint64_t seed = 3;
    double error = 0;
    for (int round = 0; round < ROUNDS; round++) {
        float y[CELLS];
        int16_t tile[CELLS];
        uint32_t words[LANES];
        for (int i = 0; i < CELLS; i++) y[i] = kv_fixture_gauss(&seed), tile[i] = limited(4 * y[i] / unit);
        kv_trellis_scalar(tile, words);
        for (int i = 0; i < CELLS; i++) error += pow(y[i] - unit * (float)(2 * tile[i] - 15), 2);
    }
    error /= ROUNDS * CELLS;
    assert_true(error > 0.095 && error < 0.0985);
}

static void check_level(const char *level, const struct kv_kernels *kernels)
{
    struct workers *workers;
    struct backend *backend;
    struct err_info info;
    assert_int_equal(workers_create(1, &workers, &info), ERR_OK);
    enum err err = backend_cpu_create(workers, level, &backend, &info);
    if (err == ERR_OK) backend->destroy(backend);
    workers_free(workers);
    if (err) {
        print_message("SKIPPED: this processor lacks %s\n", level);
        skip();
    }
    uint64_t seed = 4;
    for (int round = 0; round < 500; round++) {
        int16_t expected[CELLS], tile[CELLS];
        uint32_t expected_words[LANES], words[LANES];
        tile_fill(tile, round, &seed);
        memcpy(expected, tile, sizeof tile);
        kv_trellis_scalar(expected, expected_words);
        kernels->trellis(tile, words);
        assert_memory_equal(words, expected_words, sizeof words);
        assert_memory_equal(tile, expected, sizeof tile);
    }
}

static void avx2_equals_scalar(void **state)
{
    (void)state;
    check_level("avx2", &kv_kernels_avx2);
}

static void avx512_equals_scalar(void **state)
{
    (void)state;
    check_level("avx512", &kv_kernels_avx512);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(level_is_linear_in_the_bits),
        cmocka_unit_test(search_is_exact_and_decides_equals_as_documented),
        cmocka_unit_test(error_on_gaussians_is_as_measured),
        cmocka_unit_test(avx2_equals_scalar),
        cmocka_unit_test(avx512_equals_scalar),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
