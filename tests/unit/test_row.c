#include "kernels/cpu/exp.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/row.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Row operations: the reference against double precision, AVX2 against the reference bit for bit, and the
   backend's splitting into items against one row at a time. */

enum { MAX_N = 1600 };

static uint32_t random_state = 2463534242u;

static float random_float(float scale)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return ((float)(random_state >> 8) / 8388608.0f - 1.0f) * scale;
}

static void fill(float *x, int n, float scale)
{
    for (int i = 0; i < n; i++) x[i] = random_float(scale);
}

static bool has_avx2(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return true;
    fprintf(stderr, "LOUD SKIP: this processor does not have AVX2\n");
    return false;
}

static void test_exp(void **state)
{
    (void)state;
    double worst = 0;
    for (float x = -87.0f; x <= 88.0f; x += 0.00373f) {
        double expected = exp((double)x), spacing = ldexp(1, (int)floor(log2(expected)) - 23);
        double error = fabs((double)exp_scalar(x) - expected) / spacing;
        worst = error > worst ? error : worst;
    }
    assert_true(worst < 1.0); /* within one unit in the last place */
    assert_true(exp_scalar(0.0f) == 1.0f);
    assert_true(exp_scalar(-INFINITY) == 0.0f && exp_scalar(-87.1f) == 0.0f);
    assert_true(exp_scalar(INFINITY) == exp_scalar(88.0f) && isfinite(exp_scalar(1000.0f)));
}

static void test_rmsnorm(void **state)
{
    (void)state;
    static const int sizes[] = {32, 576, 896, 1536, 1, 15, 17, 100};
    float x[MAX_N], gain[MAX_N], out[MAX_N], fast[MAX_N];
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int n = sizes[s];
        fill(x, n, 3.0f);
        fill(gain, n, 2.0f);
        row_scalar.rmsnorm(x, gain, 1e-5f, n, out);
        double sum = 0;
        for (int i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
        for (int i = 0; i < n; i++) {
            double expected = x[i] / sqrt(sum / n + 1e-5) * gain[i];
            assert_true(fabs(out[i] - expected) <= 1e-6 * fabs(expected) + 1e-12);
        }
        if (!has_avx2()) continue;
        row_avx2.rmsnorm(x, gain, 1e-5f, n, fast);
        assert_memory_equal(fast, out, (size_t)n * sizeof *out);
        row_avx2.rmsnorm(x, gain, 1e-5f, n, x); /* in place */
        assert_memory_equal(x, out, (size_t)n * sizeof *out);
    }
}

static void expect_codes(const float *x, const int16_t *codes, int largest, const struct act_head *head)
{
    double amax = 0;
    for (int i = 0; i < TILE_GROUP; i++) amax = fmax(amax, fabs((double)x[i]));
    int sums[2] = {0};
    for (int i = 0; i < TILE_GROUP; i++) {
        assert_true(fabs(codes[i] * (double)head->scale - (double)x[i]) <= 0.51 * amax / largest);
        sums[i / 16] += codes[i];
    }
    assert_int_equal(head->half_sum[0], sums[0]);
    assert_int_equal(head->half_sum[1], sums[1]);
    assert_true(head->sum == head->scale * (float)(sums[0] + sums[1]));
}

static void test_quantize(void **state)
{
    (void)state;
    enum { GROUPS = 40 };
    float x[GROUPS * TILE_GROUP];
    struct act_8 narrow[GROUPS], narrow_fast[GROUPS];
    struct act_16 wide[GROUPS], wide_fast[GROUPS];
    static const int place[4] = {0, 2, 1, 3};
    for (int g = 0; g < GROUPS; g++) fill(x + g * TILE_GROUP, TILE_GROUP, ldexpf(1.0f, g % 30 - 15));
    memset(x, 0, TILE_GROUP * sizeof *x);
    for (int i = 0; i < TILE_GROUP; i++) x[TILE_GROUP + i] = i % 2 ? -2.0f : 2.0f; /* the largest codes */
    row_scalar.quantize_8(x, GROUPS * TILE_GROUP, narrow);
    row_scalar.quantize_16(x, GROUPS * TILE_GROUP, wide);
    for (int g = 0; g < GROUPS; g++) {
        int16_t codes[TILE_GROUP];
        int pairs[2][2] = {{0}};
        for (int i = 0; i < TILE_GROUP; i++) {
            codes[i] = narrow[g].q[i];
            pairs[i / 16][i / 2 % 2] += 32 * codes[i];
        }
        expect_codes(x + g * TILE_GROUP, codes, 127, &narrow[g].head);
        for (int i = 0; i < 4; i++) assert_int_equal(narrow[g].pair_sum[i / 2][i % 2], pairs[i / 2][i % 2]);
        for (int i = 0; i < TILE_GROUP; i++) codes[i] = wide[g].q[i / 4 * 4 + place[i % 4]];
        expect_codes(x + g * TILE_GROUP, codes, 32767, &wide[g].head);
    }
    if (!has_avx2()) return;
    /* Whatever a broken model may send must give the same bits and no undefined behaviour. */
    x[5 * TILE_GROUP] = INFINITY;
    x[6 * TILE_GROUP + 3] = NAN;
    x[7 * TILE_GROUP + 31] = -INFINITY;
    x[8 * TILE_GROUP] = 1e-42f;
    row_scalar.quantize_8(x, GROUPS * TILE_GROUP, narrow);
    row_avx2.quantize_8(x, GROUPS * TILE_GROUP, narrow_fast);
    row_scalar.quantize_16(x, GROUPS * TILE_GROUP, wide);
    row_avx2.quantize_16(x, GROUPS * TILE_GROUP, wide_fast);
    for (int g = 0; g < GROUPS; g++) {
        assert_memory_equal(narrow[g].q, narrow_fast[g].q, sizeof narrow[g].q);
        assert_memory_equal(wide[g].q, wide_fast[g].q, sizeof wide[g].q);
        if (g == 5 || g == 7) continue; /* a NaN sum may differ in its sign */
        assert_memory_equal(&narrow[g], &narrow_fast[g], sizeof narrow[g]);
        assert_memory_equal(&wide[g], &wide_fast[g], sizeof wide[g]);
    }
}

static void test_rope(void **state)
{
    (void)state;
    static const int head_dims[] = {16, 64, 128, 80, 10};
    for (size_t d = 0; d < sizeof head_dims / sizeof *head_dims; d++) {
        int n = head_dims[d], half = n / 2;
        float x[3 * 128], cosines[64], sines[64], fast[3 * 128], original[3 * 128];
        fill(x, 3 * n, 2.0f);
        memcpy(original, x, sizeof x);
        memcpy(fast, x, sizeof x);
        for (int i = 0; i < half; i++) {
            cosines[i] = (float)cos(i * 0.37 + 1);
            sines[i] = (float)sin(i * 0.37 + 1);
        }
        row_scalar.rope(x, 3, n, cosines, sines);
        for (int h = 0; h < 3; h++)
            for (int i = 0; i < half; i++) {
                double a = original[h * n + i], b = original[h * n + half + i], angle = i * 0.37 + 1;
                assert_true(fabs(x[h * n + i] - (a * cos(angle) - b * sin(angle))) < 1e-6);
                assert_true(fabs(x[h * n + half + i] - (b * cos(angle) + a * sin(angle))) < 1e-6);
            }
        if (!has_avx2()) continue;
        row_avx2.rope(fast, 3, n, cosines, sines);
        assert_memory_equal(fast, x, (size_t)(3 * n) * sizeof *x);
    }
}

static void test_elements(void **state)
{
    (void)state;
    float gate[MAX_N], up[MAX_N], out[MAX_N], fast[MAX_N];
    fill(gate, MAX_N, 20.0f);
    fill(up, MAX_N, 3.0f);
    gate[0] = 200.0f;
    gate[1] = -200.0f;
    gate[2] = 0.0f;
    gate[3] = -88.5f;
    for (int n = MAX_N - 9; n <= MAX_N; n++) {
        row_scalar.swiglu(gate, up, (size_t)n, out);
        for (int i = 0; i < n; i++) {
            double expected = gate[i] / (1 + exp(-(double)gate[i])) * up[i];
            assert_true(fabs(out[i] - expected) <= 1e-6 * fabs(expected) + 1e-33);
        }
        if (!has_avx2()) return;
        row_avx2.swiglu(gate, up, (size_t)n, fast);
        assert_memory_equal(fast, out, (size_t)n * sizeof *out);
        memcpy(out, gate, sizeof gate);
        memcpy(fast, gate, sizeof gate);
        row_scalar.add(out, up, (size_t)n);
        row_avx2.add(fast, up, (size_t)n);
        assert_memory_equal(fast, out, (size_t)n * sizeof *out);
        assert_true(out[n - 1] == gate[n - 1] + up[n - 1]);
    }
}

/* Many rows on many workers are the rows one by one. */
static void test_backend(void **state)
{
    (void)state;
    enum { ROWS = 70, N = 192, HEADS = 3, DIM = 64 };
    struct workers *workers;
    struct backend *backend;
    struct err_info info;
    assert_int_equal(workers_create(3, &workers, &info), ERR_OK);
    assert_int_equal(backend_cpu_create(workers, "scalar", &backend, &info), ERR_OK);
    static float x[ROWS * N], y[ROWS * N], out[ROWS * N], expected[ROWS * N], cosines[ROWS * DIM / 2],
        sines[ROWS * DIM / 2];
    fill(x, ROWS * N, 1.0f);
    fill(y, ROWS * N, 1.0f);
    fill(cosines, ROWS * DIM / 2, 1.0f);
    fill(sines, ROWS * DIM / 2, 1.0f);
    for (int r = 0; r < ROWS; r++) row_scalar.rmsnorm(x + r * N, y, 1e-6f, N, expected + r * N);
    backend->rmsnorm(backend, x, y, 1e-6f, ROWS, N, out);
    assert_memory_equal(out, expected, sizeof out);

    memcpy(out, x, sizeof x);
    memcpy(expected, x, sizeof x);
    for (int r = 0; r < ROWS; r++)
        row_scalar.rope(expected + r * N, HEADS, DIM, cosines + r * DIM / 2, sines + r * DIM / 2);
    backend->rope(backend, out, ROWS, HEADS, DIM, cosines, sines);
    assert_memory_equal(out, expected, sizeof out);

    row_scalar.swiglu(x, y, ROWS * N - 3, expected);
    backend->swiglu(backend, x, y, ROWS * N - 3, out);
    assert_memory_equal(out, expected, (ROWS * N - 3) * sizeof *out);

    row_scalar.add(expected, y, ROWS * N);
    backend->add(backend, out, y, ROWS * N);
    assert_memory_equal(out, expected, (ROWS * N - 3) * sizeof *out);
    backend->destroy(backend);
    workers_free(workers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),  cmocka_unit_test(test_rmsnorm),  cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_rope), cmocka_unit_test(test_elements), cmocka_unit_test(test_backend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
