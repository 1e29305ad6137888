#include "kernels/backend.h"
#include "kernels/cpu/kv_coder.h"
#include "kernels/dtype.h"
#include "tests/unit/support/cpu_fixture.h"
#include "tests/unit/support/kv_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/*
 * Sealing and the way back: how much error the codes leave, that every instruction set writes the same bytes,
 * that a part does not depend on the parts after it, and what becomes of odd vectors. That the bytes are
 * those of kernels/kv_codec.h is tests/kernels/test_kv.py.
 */

enum { TOKENS = KV_BLOCK_TOKENS };

/* ---- error ---- */

/* E y yhat and E yhat^2 of the group's parts 0..p, from the distortion and what would make the code
   unbiased; keys' gains are a power of that. False: no bits. */
static bool moments_of(const struct kv_codec *codec, const struct kv_coder *coder, int is_values, int p,
                       int g, double *cross, double *power)
{
    uint8_t history[KV_MAX_PARTS];
    for (int q = 0; q <= p; q++) history[q] = coder->parts[q].bits[g];
    double distortion = kv_code_distortion(history, p + 1, codec->n_old_parts);
    if (distortion >= 1) return false;
    *cross = 1 / pow((double)coder->parts[p].gain[g], is_values ? 1 : 1 / 0.85);
    *power = distortion - 1 + 2 * *cross;
    return true;
}

/* A token's scale makes the vector's projection unbiased as a whole. */
static double scale_of(const struct kv_codec *codec, const struct kv_coder *coder, int is_values, int p)
{
    double wanted = 0, given = 0, cross, power;
    for (int g = 0; g < codec->n_groups; g++) {
        if (!moments_of(codec, coder, is_values, p, g, &cross, &power)) continue;
        wanted += 1;
        given += (double)coder->parts[p].gain[g] * cross;
    }
    return wanted / given;
}

/* Codes Gaussians of one page and compares the error of each group with what its bits promise, E (y - scale
   gain yhat)^2. In few channels the outliers of a Gaussian take part in the RMS, so the finer bits leave less
   than that; and the scale of a token is itself off by what the coarse groups of the vector add to it, a
   share of 1 / head_dim. */
static void check_error(const struct kv_fixture_bits *bits, int head_dim)
{
    enum { ROUNDS = 12 };
    struct kv_shape shape = {1, 1, 1, head_dim};
    struct kv_tables *tables = kv_fixture_identity(&shape, 1);
    struct kv_codec *codec = kv_fixture_codec(&shape, tables, bits);
    struct kv_block_ref block = {0};
    for (int p = 0; p < codec->n_parts; p++) block.parts[p] = malloc(kv_codec_part_bytes(codec, p));
    size_t n = (size_t)head_dim * TOKENS;
    float *z = malloc(n * sizeof *z), *y = malloc(n * sizeof *y);
    uint64_t seed = (uint64_t)head_dim;
    for (int is_values = 0; is_values < 2; is_values++) {
        double errors[KV_MAX_PARTS][KV_MAX_CODE_GROUPS] = {{0}};
        struct kv_coder coder = kv_coder_at(codec, &block, 0, is_values);
        for (int round = 0; round < ROUNDS; round++) {
            for (size_t i = 0; i < n; i++) z[i] = 3 * kv_fixture_gauss(&seed);
            kv_coder_encode(&coder, &kv_kernels_scalar, z, y);
            for (int p = 0; p < codec->n_parts; p++) {
                kv_coder_decode(&coder, p + 1, y);
                for (size_t i = 0; i < n; i++)
                    errors[p][i / (KV_CODE_GROUP * TOKENS)] += pow(y[i] - z[i], 2) / 9;
            }
        }
        for (int p = codec->n_old_parts - 1; p < codec->n_parts; p++) {
            for (int g = 0; g < codec->n_groups; g++) {
                double gain = scale_of(codec, &coder, is_values, p) * (double)coder.parts[p].gain[g];
                double expected = 1, cross, power;
                if (moments_of(codec, &coder, is_values, p, g, &cross, &power))
                    expected = 1 - 2 * gain * cross + gain * gain * power;
                double found = errors[p][g] / (ROUNDS * KV_CODE_GROUP * TOKENS);
                double low = (expected < 0.05 ? 0.65 : 0.8) * expected - 1e-3,
                       high = 1.05 * expected + 2e-4 + 0.1 / head_dim;
                if (!(found > low && found < high))
                    fail_msg("%s, head_dim %d, group %d, %d parts: error %g, expected %g",
                             is_values ? "values" : "keys", head_dim, g, p + 1, found, expected);
            }
        }
    }
    for (int p = 0; p < codec->n_parts; p++) free(block.parts[p]);
    free(z);
    free(y);
    kv_codec_free(codec);
    kv_tables_free(tables);
}

static void error_is_what_the_bits_promise(void **state)
{
    (void)state;
    static const struct kv_fixture_bits patterns[] = {
        {1, 1, {"4211"}, {"2"}},
        {2, 1, {"44222110", "22221110"}, {"2", "2"}},
        {2, 1, {"2", "2"}, {"4422", "2211"}},
        {2, 2, {"4", "4"}, {"4", "4"}},
        {3, 1, {"4421", "2211", "1111"}, {"2211", "2110", "1111"}},
        {3, 1, {"2110", "1111", "2222"}, {"1110", "2222", "2211"}},
    };
    static const int dims[] = {64, 80, 128, 256};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) check_error(&patterns[i], dims[d]);
}

/* ---- parity ---- */

enum tables_kind { IDENTITY, DENSE, MEANS };

static struct kv_tables *tables_create(const struct kv_shape *shape, enum tables_kind kind)
{
    return kind == IDENTITY ? kv_fixture_identity(shape, 16) : kv_fixture_tables(shape, 16, kind == MEANS, 3);
}

static void tables_free(struct kv_tables *tables, enum tables_kind kind)
{
    kind == IDENTITY ? kv_tables_free(tables) : kv_fixture_tables_free(tables);
}

static const struct parity_case {
    struct kv_shape shape;
    const struct kv_fixture_bits *bits;
    enum tables_kind tables;
    int n_tokens;
} parity_cases[] = {
    {{2, 2, 2, 64}, &kv_fixture_o2, IDENTITY, 330},    {{3, 4, 4, 128}, &kv_fixture_mixed, MEANS, 130},
    {{2, 4, 4, 64}, &kv_fixture_mixed, IDENTITY, 200}, {{1, 2, 1, 80}, &kv_fixture_o2, IDENTITY, 300},
    {{1, 2, 2, 256}, &kv_fixture_mixed, DENSE, 128},   {{1, 2, 2, 96}, &kv_fixture_o4, MEANS, 333},
    {{2, 3, 3, 48}, &kv_fixture_mixed, MEANS, 400},    {{2, 5, 5, 16}, &kv_fixture_mixed, DENSE, 640},
};

static void check_parity(const struct parity_case *c, uint64_t seed, const char *level)
{
    struct cpu_fixture scalar = cpu_fixture_create("scalar", 1), other = cpu_fixture_create(level, 2);
    struct kv_tables *tables = tables_create(&c->shape, c->tables);
    struct kv_codec *codec = kv_fixture_codec(&c->shape, tables, c->bits);
    struct kv_fixture a, b;
    kv_fixture_init(&a, &c->shape, codec, 1, c->n_tokens, 4, 1, seed);
    kv_fixture_init(&b, &c->shape, codec, 1, c->n_tokens, 4, 1, seed);
    kv_fixture_fill(&a, scalar.backend, c->n_tokens);
    kv_fixture_fill(&b, other.backend, 37);
    assert_memory_equal(a.memory, b.memory, a.memory_bytes);
    for (int n_parts = codec->n_parts; n_parts >= 1; n_parts--) {
        kv_fixture_unseal(&a, scalar.backend, n_parts);
        kv_fixture_unseal(&b, other.backend, n_parts);
        assert_memory_equal(a.memory, b.memory, a.memory_bytes);
    }
    kv_fixture_free(&a);
    kv_fixture_free(&b);
    kv_codec_free(codec);
    tables_free(tables, c->tables);
    cpu_fixture_free(&scalar);
    cpu_fixture_free(&other);
}

static void check_level(const char *level)
{
    cpu_fixture_require(level);
    for (size_t i = 0; i < sizeof parity_cases / sizeof *parity_cases; i++)
        check_parity(&parity_cases[i], i, level);
}

static void avx2_equals_scalar(void **state)
{
    (void)state;
    check_level("avx2");
}

static void avx512_equals_scalar(void **state)
{
    (void)state;
    check_level("avx512");
}

/* ---- parts ---- */

/* One sequence sealed by two codecs that share their first part; `kept` masks the parts that the blocks of
   the second have. */
static void check_parts(const struct kv_fixture_bits *many, int kept)
{
    struct cpu_fixture engine = cpu_fixture_create("auto", 1);
    struct kv_shape shape = {2, 2, 2, 64};
    struct kv_tables *tables = kv_fixture_tables(&shape, 2, 1, 5);
    struct kv_codec *codec = kv_fixture_codec(&shape, tables, many);
    struct kv_fixture whole, partial;
    kv_fixture_init(&whole, &shape, codec, 1, 256, 4, 1, 8);
    kv_fixture_init(&partial, &shape, codec, 1, 256, 4, 1, 8);
    char *parts[4][KV_MAX_PARTS];
    for (int b = 0; b < 4; b++) {
        memcpy(parts[b], partial.blocks[b].parts, sizeof parts[b]);
        for (int p = 0; p < KV_MAX_PARTS; p++)
            if (!(kept >> p & 1)) partial.blocks[b].parts[p] = NULL;
    }
    kv_fixture_fill(&whole, engine.backend, 256);
    kv_fixture_fill(&partial, engine.backend, 256);
    for (int b = 0; b < 4; b++) {
        for (int p = 0; p < codec->n_parts; p++) {
            size_t n = kv_codec_part_bytes(codec, p);
            if (kept >> p & 1)
                assert_memory_equal(parts[b][p], whole.blocks[b].parts[p], n);
            else
                for (size_t i = 0; i < n; i++) assert_int_equal((unsigned char)parts[b][p][i], 0xff);
        }
    }
    kv_fixture_free(&whole);
    kv_fixture_free(&partial);
    kv_codec_free(codec);
    kv_fixture_tables_free(tables);
    cpu_fixture_free(&engine);
}

static void a_part_does_not_depend_on_which_are_kept(void **state)
{
    (void)state;
    for (int kept = 1; kept < 7; kept++) check_parts(&kv_fixture_mixed, kept);
}

static void part_0_is_the_same_without_the_others(void **state)
{
    (void)state;
    struct cpu_fixture engine = cpu_fixture_create("auto", 1);
    struct kv_shape shape = {2, 2, 2, 128};
    struct kv_tables *tables = kv_fixture_tables(&shape, 2, 1, 5);
    struct kv_fixture_bits one = kv_fixture_mixed;
    one.n_parts = 1;
    struct kv_codec *many = kv_fixture_codec(&shape, tables, &kv_fixture_mixed);
    struct kv_codec *alone = kv_fixture_codec(&shape, tables, &one);
    struct kv_fixture a, b;
    kv_fixture_init(&a, &shape, many, 1, 256, 4, 1, 8);
    kv_fixture_init(&b, &shape, alone, 1, 256, 4, 1, 8);
    kv_fixture_fill(&a, engine.backend, 256);
    kv_fixture_fill(&b, engine.backend, 256);
    assert_int_equal(kv_codec_part_bytes(many, 0), kv_codec_part_bytes(alone, 0));
    for (int block = 0; block < 4; block++)
        assert_memory_equal(a.blocks[block].parts[0], b.blocks[block].parts[0], kv_codec_part_bytes(many, 0));
    kv_fixture_free(&a);
    kv_fixture_free(&b);
    kv_codec_free(many);
    kv_codec_free(alone);
    kv_fixture_tables_free(tables);
    cpu_fixture_free(&engine);
}

/* ---- there and back ---- */

static float half_at(const struct kv_fixture *fixture, int layer, int head, int token, int channel,
                     int is_value)
{
    const struct kv_block_ref *block = &fixture->blocks[token / TOKENS];
    int n = fixture->shape.head_dim;
    const uint16_t *page =
        (const uint16_t *)(block->f16 + layer * block->f16_layer_stride + head * kv_page_bytes(KV_F16, n));
    int t = token % TOKENS;
    return dtype_f16_to_f32(is_value ? page[(TOKENS + t) * n + channel] : page[channel * TOKENS + t]);
}

/* With 4 + 4 bits what comes back is what went in: every rotation, mean and transform was undone. Keys of the
   second and third frame too, with means of ten times the keys. */
static void check_return(const struct kv_fixture_bits *bits, enum tables_kind kind, double worst)
{
    struct cpu_fixture engine = cpu_fixture_create("auto", 2);
    struct kv_shape shape = {2, 2, 2, 64};
    enum { N = 640 };
    struct kv_tables *tables = tables_create(&shape, kind);
    struct kv_codec *codec = kv_fixture_codec(&shape, tables, bits);
    struct kv_fixture before, after;
    kv_fixture_init(&before, &shape, codec, 1, N, 4, 1, 6);
    kv_fixture_init(&after, &shape, codec, 1, N, 4, 1, 6);
    kv_fixture_fill(&before, engine.backend, N);
    kv_fixture_fill(&after, engine.backend, N);
    for (int b = 0; b < N / TOKENS; b++) memset(after.blocks[b].f16, 0xff, kv_block_bytes(KV_F16, &shape));
    kv_fixture_unseal(&after, engine.backend, codec->n_parts);
    for (int is_value = 0; is_value < 2; is_value++) {
        double error = 0, norm = 0;
        for (int row = 0; row < 4 * N; row++) {
            int layer = row / 2 / N, head = row / N % 2, token = row % N;
            int is_sink = (int)(after.blocks[token / TOKENS].sink_mask >> token % TOKENS & 1);
            for (int i = 0; i < shape.head_dim; i++) {
                float x = half_at(&before, layer, head, token, i, is_value);
                float found = half_at(&after, layer, head, token, i, is_value);
                if (is_sink) assert_true(found == x);
                error += pow(found - x, 2), norm += pow(x, 2);
            }
        }
        if (!(sqrt(error / norm) < worst))
            fail_msg("%s: relative error %g", is_value ? "values" : "keys", sqrt(error / norm));
    }
    kv_fixture_free(&before);
    kv_fixture_free(&after);
    kv_codec_free(codec);
    tables_free(tables, kind);
    cpu_fixture_free(&engine);
}

static void what_is_sealed_comes_back(void **state)
{
    (void)state;
    const struct kv_fixture_bits fine = {2, 2, {"4", "4"}, {"4", "4"}};
    check_return(&fine, IDENTITY, 0.02);
    check_return(&fine, DENSE, 0.04);
    check_return(&fine, MEANS, 0.2); /* z is mostly mean, with its outliers */
}

/* ---- odd vectors ---- */

static void odd_vectors(void **state)
{
    (void)state;
    struct cpu_fixture engine = cpu_fixture_create("auto", 1);
    struct kv_shape shape = {1, 1, 1, 64};
    enum { N = 128 };
    struct kv_tables *tables = kv_fixture_identity(&shape, 1);
    struct kv_codec *codec = kv_fixture_codec(&shape, tables, &kv_fixture_o2);
    struct kv_fixture fixture;
    kv_fixture_init(&fixture, &shape, codec, 1, N, 0, 0, 3);
    for (int t = 0; t < N; t++) {
        for (int i = 0; i < 64; i++) {
            float *k = &fixture.k[t * 64 + i], *v = &fixture.v[t * 64 + i];
            switch (t % 8) {
            case 0: /* nothing */
                *k = *v = 0;
                break;
            case 1: /* the largest of fp16, and beyond */
                *k = *v = i % 3 ? 1e30f : -1e30f;
                break;
            case 2: /* one outlier in z, where it is hardest to code */
                *k = *v = 1000 * (i % 2 ? -1.0f : 1.0f);
                break;
            case 3: /* the smallest of fp16 */
                *k = *v = i == 0 ? 6e-8f : 0;
                break;
            case 4: /* all alike: one outlier in z */
                *k = *v = -7;
                break;
            case 5:
                *k = *v = NAN;
                break;
            case 6:
                *k = *v = i % 2 ? INFINITY : -INFINITY;
                break;
            default:
                break;
            }
        }
    }
    kv_fixture_fill(&fixture, engine.backend, N);
    for (int n_parts = 1; n_parts <= codec->n_parts; n_parts++) {
        for (int block = 0; block < N / TOKENS; block++) {
            struct kv_page page =
                kv_codec_page(codec, n_parts - 1, fixture.blocks[block].parts[n_parts - 1], 0);
            for (int t = 0; t < TOKENS; t++) {
                float key = dtype_f16_to_f32(page.key_scales[t]);
                float value = dtype_f16_to_f32(page.value_scales[t]);
                assert_true(key >= 0 && key <= 65504 && value >= 0 && value <= 65504);
                if (t % 8 == 0) assert_true(key == 0 && value == 0);
                if (t % 8 == 1 || t % 8 == 2 || t % 8 == 4 || t % 8 == 7) assert_true(key > 0 && value > 0);
            }
        }
        kv_fixture_unseal(&fixture, engine.backend, n_parts);
        for (int t = 0; t < N; t++) {
            for (int i = 0; i < 64; i++) {
                float k = half_at(&fixture, 0, 0, t, i, 0), v = half_at(&fixture, 0, 0, t, i, 1);
                assert_true(isfinite(k) && isfinite(v));
                if (t % 8 == 0) assert_true(k == 0 && v == 0);
            }
        }
    }
    kv_fixture_free(&fixture);
    kv_codec_free(codec);
    kv_tables_free(tables);
    cpu_fixture_free(&engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_is_what_the_bits_promise),
        cmocka_unit_test(avx2_equals_scalar),
        cmocka_unit_test(avx512_equals_scalar),
        cmocka_unit_test(a_part_does_not_depend_on_which_are_kept),
        cmocka_unit_test(part_0_is_the_same_without_the_others),
        cmocka_unit_test(what_is_sealed_comes_back),
        cmocka_unit_test(odd_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
