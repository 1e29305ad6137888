#include "kernels/backend.h"
#include "kernels/cpu/matmul.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/*
 * Matrix products: against double precision on dequantized weights, and level against level bit for bit.
 */

static const enum dtype dtypes[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0,
                                    DTYPE_Q5_1, DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K};
enum { N_DTYPES = sizeof dtypes / sizeof *dtypes };

static uint64_t random_state = 88172645463325252u;

static uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static float random_float(void)
{
    return (float)random_u32() / 2147483648.0f - 1.0f;
}

static void put_half(uint8_t *at, float value)
{
    uint16_t half = dtype_f32_to_f16(value);
    memcpy(at, &half, sizeof half);
}

/* Any bytes are codes; scales must be numbers of an ordinary size. */
static uint8_t *random_weight(enum dtype dtype, int n_rows, int n_cols)
{
    size_t elements = dtype_block_elements(dtype), bytes = dtype_block_bytes(dtype);
    size_t n_blocks = (size_t)n_rows * (size_t)n_cols / elements;
    uint8_t *data = malloc(n_blocks * bytes);
    assert_non_null(data);
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = data + b * bytes;
        for (size_t i = 0; i < bytes; i++) block[i] = (uint8_t)random_u32();
        float value = random_float() / 16.0f, second = random_float() / 16.0f;
        switch (dtype) {
        case DTYPE_F32:
            memcpy(block, &value, 4);
            break;
        case DTYPE_F16:
            put_half(block, value);
            break;
        case DTYPE_BF16:
            memcpy(block, (char *)&value + 2, 2);
            break;
        case DTYPE_Q6_K:
            put_half(block + 208, value / 64.0f);
            break;
        case DTYPE_Q4_K:
        case DTYPE_Q5_K:
            put_half(block, value / 64.0f);
            put_half(block + 2, second / 64.0f);
            break;
        case DTYPE_Q4_1:
        case DTYPE_Q5_1:
            put_half(block, value);
            put_half(block + 2, second);
            break;
        default:
            put_half(block, value);
        }
    }
    return data;
}

static float *random_floats(size_t n, float scale)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = random_float() * scale * (random_u32() % 97 ? 1.0f : 30.0f);
    return x;
}

static int act_bits; /* every test runs with 8 and with 16 */

struct fixture {
    struct workers *workers;
    struct backend *backend[CPU_LEVELS]; /* NULL where the processor lacks it */
};

static int setup_bits(void **state, int bits)
{
    act_bits = bits;
    static struct fixture fixture;
    static const char *const names[] = {"scalar", "avx2", "avx512"};
    struct err_info info;
    if (workers_create(3, &fixture.workers, &info)) return -1;
    for (int level = 0; level < CPU_LEVELS; level++) {
        enum err err = backend_cpu_create(fixture.workers, names[level], &fixture.backend[level], &info);
        if (err && err != ERR_UNSUPPORTED) return -1;
        if (err) fprintf(stderr, "LOUD SKIP: %s\n", info.message);
    }
    *state = &fixture;
    return 0;
}

static int setup_8(void **state)
{
    return setup_bits(state, 8);
}

static int setup_16(void **state)
{
    return setup_bits(state, 16);
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    for (int level = 0; level < CPU_LEVELS; level++)
        if (fixture->backend[level]) fixture->backend[level]->destroy(fixture->backend[level]);
    workers_free(fixture->workers);
    return 0;
}

static struct weight *weight_of(struct backend *backend, enum dtype dtype, int n_rows, int n_cols,
                                const void *data, const int32_t *order)
{
    struct weight_source source = {.name = "test",
                                   .dtype = dtype,
                                   .n_rows = n_rows,
                                   .n_cols = n_cols,
                                   .data = data,
                                   .row_order = order,
                                   .multiply = true,
                                   .gather = true};
    struct weight *weight;
    struct err_info info;
    assert_int_equal(backend->weight_create(backend, &source, &weight, &info), ERR_OK);
    return weight;
}

static void multiply(struct backend *backend, enum dtype dtype, int n_rows, int n_cols, const void *data,
                     const int32_t *order, const float *x, int n_x, const float *bias, float *out)
{
    struct weight *weight = weight_of(backend, dtype, n_rows, n_cols, data, order);
    struct acts *acts = backend->acts_create(backend, n_x, n_cols, act_bits);
    assert_non_null(acts);
    backend->prepare(backend, x, n_x, n_cols, acts);
    backend->matmul(backend, weight, acts, bias, out);
    backend->acts_free(backend, acts);
    backend->weight_free(backend, weight);
}

/* The value that a quantized activation stands for, in double, from the definition in matmul.h. */
static void expected_acts(enum dtype dtype, const float *x, int n, double *out)
{
    for (int g = 0; g < n; g += 32) {
        float amax = 0;
        for (int i = g; i < g + 32; i++) amax = fmaxf(amax, fabsf(x[i]));
        float largest = act_bits == 16 ? 32767.0f : 127.0f, inverse = amax > 0 ? largest / amax : 0;
        for (int i = g; i < g + 32; i++)
            out[i] =
                dtype_block_elements(dtype) == 1 ? (double)x[i] : rint(x[i] * inverse) * (amax / largest);
    }
}

static void test_against_double(void **state)
{
    struct fixture *fixture = *state;
    enum { ROWS = 43, COLS = 512, TOKENS = 7 };
    for (int d = 0; d < N_DTYPES; d++) {
        uint8_t *data = random_weight(dtypes[d], ROWS, COLS);
        float *x = random_floats(TOKENS * COLS, 2.0f), *bias = random_floats(ROWS, 1.0f);
        memset(x + COLS + 64, 0, 32 * sizeof *x); /* a group of zeros */
        float weights[COLS], out[TOKENS * ROWS];
        double acts[COLS];
        multiply(fixture->backend[CPU_SCALAR], dtypes[d], ROWS, COLS, data, NULL, x, TOKENS, bias, out);
        size_t row_bytes = COLS / dtype_block_elements(dtypes[d]) * dtype_block_bytes(dtypes[d]);
        for (int t = 0; t < TOKENS; t++) {
            expected_acts(dtypes[d], x + t * COLS, COLS, acts);
            for (int r = 0; r < ROWS; r++) {
                dtype_to_f32(dtypes[d], data + (size_t)r * row_bytes, COLS, weights);
                double sum = bias[r], size = fabs(sum);
                for (int c = 0; c < COLS; c++) {
                    sum += weights[c] * acts[c];
                    size += fabs(weights[c] * acts[c]);
                }
                double error = fabs(out[t * ROWS + r] - sum);
                if (error > 1e-6 * size) {
                    fail_msg("%s: row %d token %d: %.9g, expected %.9g (terms sum to %g)",
                             dtype_name(dtypes[d]), r, t, out[t * ROWS + r], sum, size);
                }
            }
        }
        free(data);
        free(x);
        free(bias);
    }
}

/* Every level gives the scalar level's bits: all types, whole and broken last tiles, every block of rows. */
static void test_levels_agree(void **state)
{
    struct fixture *fixture = *state;
    static const int shapes[][2] = {{8, 256}, {1, 256}, {7, 512}, {16, 256}, {23, 768}, {37, 1280}};
    for (int d = 0; d < N_DTYPES; d++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int tokens = 1; tokens <= 9; tokens++) {
                int n_rows = shapes[s][0], n_cols = shapes[s][1];
                uint8_t *data = random_weight(dtypes[d], n_rows, n_cols);
                float *x = random_floats((size_t)tokens * n_cols, 1.0f);
                float *bias = tokens % 2 ? random_floats(n_rows, 1.0f) : NULL;
                size_t bytes = (size_t)tokens * n_rows * sizeof(float);
                float *expected = malloc(bytes), *out = malloc(bytes);
                assert_true(expected && out);
                multiply(fixture->backend[CPU_SCALAR], dtypes[d], n_rows, n_cols, data, NULL, x, tokens, bias,
                         expected);
                for (int level = CPU_AVX2; level < CPU_LEVELS; level++) {
                    if (!fixture->backend[level]) continue;
                    memset(out, 0xff, bytes);
                    multiply(fixture->backend[level], dtypes[d], n_rows, n_cols, data, NULL, x, tokens, bias,
                             out);
                    if (memcmp(out, expected, bytes))
                        fail_msg("%s differs for %s, %d x %d, %d tokens", fixture->backend[level]->name,
                                 dtype_name(dtypes[d]), n_rows, n_cols, tokens);
                }
                free(data);
                free(x);
                free(bias);
                free(expected);
                free(out);
            }
}

/* 32-column types need only 32 columns; the largest codes and activations must not overflow. */
static void test_extremes(void **state)
{
    struct fixture *fixture = *state;
    enum { ROWS = 17, TOKENS = 5 };
    static const uint8_t fills[] = {0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0};
    for (int d = 3; d < N_DTYPES; d++)
        for (size_t f = 0; f < sizeof fills; f++)
            for (int sign = -1; sign <= 1; sign += 2) {
                int n_cols = (int)dtype_block_elements(dtypes[d]);
                size_t block = dtype_block_bytes(dtypes[d]);
                uint8_t *data = malloc(ROWS * block);
                assert_non_null(data);
                memset(data, fills[f], ROWS * block);
                for (int r = 0; r < ROWS; r++) {
                    put_half(data + r * block + (dtypes[d] == DTYPE_Q6_K ? 208 : 0), 1.0f);
                    if (dtypes[d] != DTYPE_Q4_0 && dtypes[d] != DTYPE_Q5_0 && dtypes[d] != DTYPE_Q8_0 &&
                        dtypes[d] != DTYPE_Q6_K)
                        put_half(data + r * block + 2, -3.0f);
                }
                float x[TOKENS * 256], expected[TOKENS * ROWS], out[TOKENS * ROWS];
                for (int i = 0; i < TOKENS * n_cols; i++) x[i] = (float)sign * 127.0f;
                multiply(fixture->backend[CPU_SCALAR], dtypes[d], ROWS, n_cols, data, NULL, x, TOKENS, NULL,
                         expected);
                float weights[256];
                dtype_to_f32(dtypes[d], data, (size_t)n_cols, weights);
                double sum = 0;
                for (int c = 0; c < n_cols; c++) sum += weights[c] * x[c];
                assert_true(fabs(sum - expected[0]) <= 1e-6 * fabs(sum) + 1e-3);
                for (int level = CPU_AVX2; level < CPU_LEVELS; level++) {
                    if (!fixture->backend[level]) continue;
                    multiply(fixture->backend[level], dtypes[d], ROWS, n_cols, data, NULL, x, TOKENS, NULL,
                             out);
                    if (memcmp(out, expected, sizeof out))
                        fail_msg("%s differs for %s filled with %02x", fixture->backend[level]->name,
                                 dtype_name(dtypes[d]), fills[f]);
                }
                free(data);
            }
}

/* A row's result is the same alone and among 36 others, at every level. */
static void test_rows_independent(void **state)
{
    struct fixture *fixture = *state;
    enum { ROWS = 100, COLS = 256, TOKENS = 37 };
    for (int d = 0; d < N_DTYPES; d++)
        for (int level = 0; level < CPU_LEVELS; level++) {
            if (!fixture->backend[level]) continue;
            uint8_t *data = random_weight(dtypes[d], ROWS, COLS);
            float *x = random_floats(TOKENS * COLS, 1.0f);
            float *together = malloc(TOKENS * ROWS * sizeof *together), alone[ROWS];
            assert_non_null(together);
            multiply(fixture->backend[level], dtypes[d], ROWS, COLS, data, NULL, x, TOKENS, NULL, together);
            for (int t = 0; t < TOKENS; t++) {
                multiply(fixture->backend[level], dtypes[d], ROWS, COLS, data, NULL, x + t * COLS, 1, NULL,
                         alone);
                assert_memory_equal(alone, together + t * ROWS, sizeof alone);
            }
            free(data);
            free(x);
            free(together);
        }
}

/* row_order permutes products and gathered rows alike; gather is dtype_to_f32. */
static void test_row_order_and_gather(void **state)
{
    struct fixture *fixture = *state;
    struct backend *backend = fixture->backend[CPU_SCALAR];
    enum { ROWS = 24, COLS = 256 };
    for (int d = 0; d < N_DTYPES; d++) {
        uint8_t *data = random_weight(dtypes[d], ROWS, COLS);
        float *x = random_floats(COLS, 1.0f), plain[ROWS], ordered[ROWS], gathered[2 * COLS], row[COLS];
        int32_t order[ROWS];
        for (int r = 0; r < ROWS; r++) order[r] = (r * 7 + 3) % ROWS;
        multiply(backend, dtypes[d], ROWS, COLS, data, NULL, x, 1, NULL, plain);
        multiply(backend, dtypes[d], ROWS, COLS, data, order, x, 1, NULL, ordered);
        for (int r = 0; r < ROWS; r++) assert_memory_equal(&ordered[r], &plain[order[r]], sizeof *plain);

        struct weight *weight = weight_of(backend, dtypes[d], ROWS, COLS, data, order);
        int32_t tokens[2] = {5, 23};
        backend->gather(backend, weight, tokens, 2, gathered);
        size_t row_bytes = COLS / dtype_block_elements(dtypes[d]) * dtype_block_bytes(dtypes[d]);
        for (int i = 0; i < 2; i++) {
            dtype_to_f32(dtypes[d], data + (size_t)order[tokens[i]] * row_bytes, COLS, row);
            assert_memory_equal(row, gathered + i * COLS, sizeof row);
        }
        backend->weight_free(backend, weight);
        free(data);
        free(x);
    }
}

static void test_bad_shapes(void **state)
{
    struct fixture *fixture = *state;
    struct backend *backend = fixture->backend[CPU_SCALAR];
    uint8_t data[4096] = {0};
    struct weight_source source = {
        .name = "odd", .dtype = DTYPE_F32, .n_rows = 2, .n_cols = 40, .data = data};
    struct weight *weight = NULL;
    struct err_info info;
    assert_int_equal(backend->weight_create(backend, &source, &weight, &info), ERR_UNSUPPORTED);
    assert_non_null(strstr(info.message, "odd"));
    source.dtype = DTYPE_Q4_K;
    source.n_cols = 32;
    assert_int_equal(backend->weight_create(backend, &source, &weight, &info), ERR_UNSUPPORTED);
    source.dtype = (enum dtype)99;
    assert_int_equal(backend->weight_create(backend, &source, &weight, &info), ERR_UNSUPPORTED);
    assert_null(weight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_levels_agree),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_rows_independent),
        cmocka_unit_test(test_row_order_and_gather),
        cmocka_unit_test(test_bad_shapes),
    };
    return cmocka_run_group_tests_name("8-bit activations", tests, setup_8, teardown) +
           cmocka_run_group_tests_name("16-bit activations", tests, setup_16, teardown);
}
