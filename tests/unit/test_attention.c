#include "kernels/backend.h"
#include "kernels/workers.h"
#include "tests/unit/support/kv_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/*
 * The cache's kernels are defined to the bit (kernels/cpu/attention.h), so every comparison here is memcmp:
 * instruction sets with the scalar reference, one row with the same row in company, demoted pages with pages
 * read as if demoted. Their agreement with mathematics is tests/kernels/test_kv.py.
 */

struct engine {
    struct workers *workers;
    struct backend *backend;
};

/* NULL backend when the processor lacks the level. */
static struct engine engine_create(const char *level, int n_threads)
{
    struct engine engine = {0};
    assert_int_equal(workers_create(n_threads, &engine.workers, NULL), ERR_OK);
    enum err err = backend_cpu_create(engine.workers, level, &engine.backend, NULL);
    assert_true(err == ERR_OK || err == ERR_UNSUPPORTED);
    return engine;
}

static void engine_free(struct engine *engine)
{
    if (engine->backend) engine->backend->destroy(engine->backend);
    workers_free(engine->workers);
}

static size_t row_floats(const struct kv_fixture *fixture)
{
    return (size_t)fixture->shape.n_heads * fixture->shape.head_dim;
}

/* Attention of all rows from `first` on, in calls of `chunk` rows. */
static float *attend_all(const struct kv_fixture *fixture, struct backend *backend, int layer, int first,
                         int chunk)
{
    size_t row = row_floats(fixture);
    float *out = malloc((size_t)(fixture->n_tokens - first) * row * sizeof *out);
    assert_non_null(out);
    for (int at = first; at < fixture->n_tokens; at += chunk) {
        int n = at + chunk < fixture->n_tokens ? chunk : fixture->n_tokens - at;
        kv_fixture_attend(fixture, backend, layer, at, n, out + (size_t)(at - first) * row);
    }
    return out;
}

static void assert_same_floats(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a)) fail_msg("%s: element %zu: %a and %a", what, i, a[i], b[i]);
}

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
    enum kv_kind kind;
    int recent_blocks, n_tokens, n_sinks;
    enum tables_kind tables;
} parity_cases[] = {
    {{1, 1, 1, 16}, KV_F16, 0, 130, 0, IDENTITY},    {{2, 4, 2, 16}, KV_Q4, 1, 270, 4, IDENTITY},
    {{1, 3, 1, 32}, KV_Q4, 8, 200, 4, IDENTITY},     {{1, 5, 1, 32}, KV_Q2, 0, 193, 1, IDENTITY},
    {{1, 6, 3, 48}, KV_Q4, 1, 257, 4, IDENTITY},     {{1, 3, 1, 64}, KV_F16, 0, 150, 0, IDENTITY},
    {{1, 9, 3, 64}, KV_Q4, 1, 330, 4, IDENTITY},     {{1, 4, 1, 64}, KV_O4, 0, 129, 64, IDENTITY},
    {{1, 7, 1, 80}, KV_Q4, 0, 140, 2, IDENTITY},     {{1, 2, 2, 96}, KV_O4, 0, 160, 4, IDENTITY},
    {{1, 6, 1, 128}, KV_Q4, 1, 200, 4, IDENTITY},    {{1, 8, 1, 128}, KV_F16, 0, 100, 0, IDENTITY},
    {{1, 2, 1, 256}, KV_Q4, 1, 200, 4, IDENTITY},    {{1, 13, 1, 32}, KV_Q4, 0, 150, 4, IDENTITY},
    {{1, 16, 1, 16}, KV_Q2, 0, 150, 0, IDENTITY},    {{1, 4, 2, 32}, KV_Q4, 1, 340, 4, DENSE},
    {{1, 4, 2, 48}, KV_Q4, 1, 340, 4, MEANS},        {{2, 2, 1, 64}, KV_O4, 0, 300, 4, MEANS},
    {{1, 1, 1, 16}, KV_Q4, 2, 64 * 17, 4, IDENTITY}, {{1, 2, 1, 112}, KV_Q2, 0, 140, 3, DENSE},
};

static void check_parity(const struct parity_case *c, uint64_t seed, const char *level)
{
    struct engine scalar = engine_create("scalar", 1), other = engine_create(level, 2);
    struct kv_tables *tables = tables_create(&c->shape, c->tables);
    struct kv_fixture a, b;
    kv_fixture_init(&a, &c->shape, tables, c->kind, c->recent_blocks, c->n_tokens, c->n_sinks, 1, seed);
    kv_fixture_init(&b, &c->shape, tables, c->kind, c->recent_blocks, c->n_tokens, c->n_sinks, 1, seed);
    kv_fixture_fill(&a, scalar.backend, c->n_tokens);
    kv_fixture_fill(&b, other.backend, 37);
    assert_memory_equal(a.memory, b.memory, a.memory_bytes);
    for (int layer = 0; layer < c->shape.n_layers; layer++) {
        int first = c->n_tokens - 80;
        float *x = attend_all(&a, scalar.backend, layer, first, 80);
        float *y = attend_all(&b, other.backend, layer, first, 80);
        assert_same_floats(x, y, 80 * row_floats(&a), level);
        free(x);
        free(y);
    }
    kv_fixture_free(&a);
    kv_fixture_free(&b);
    tables_free(tables, c->tables);
    engine_free(&scalar);
    engine_free(&other);
}

static void check_level(const char *level)
{
    struct engine engine = engine_create(level, 1);
    int is_there = engine.backend != NULL;
    engine_free(&engine);
    if (!is_there) {
        print_message("SKIPPED: this processor lacks %s\n", level);
        skip();
    }
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

/* ---- a row in any company ---- */

static void check_company(struct kv_shape shape, enum kv_kind kind, int recent_blocks, int n_tokens)
{
    struct engine alone = engine_create("auto", 1), company = engine_create("auto", 3);
    struct kv_tables *tables = kv_fixture_identity(&shape, 16);
    struct kv_fixture fixture, whole;
    kv_fixture_init(&fixture, &shape, tables, kind, recent_blocks, n_tokens, 4, 1, 5);
    kv_fixture_fill(&fixture, alone.backend, 1);
    kv_fixture_init(&whole, &shape, tables, kind, recent_blocks, n_tokens, 4, 1, 5);
    kv_fixture_fill(&whole, company.backend, n_tokens);
    assert_memory_equal(fixture.memory, whole.memory, fixture.memory_bytes);

    size_t n = (size_t)n_tokens * row_floats(&fixture);
    float *reference = attend_all(&fixture, alone.backend, 0, 0, 1);
    static const int chunks[] = {1, 5, 17, 64, 100, 1 << 20};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        float *out = attend_all(&fixture, company.backend, 0, 0, chunks[i]);
        assert_same_floats(reference, out, n, "chunked");
        free(out);
    }
    free(reference);
    kv_fixture_free(&fixture);
    kv_fixture_free(&whole);
    kv_tables_free(tables);
    engine_free(&alone);
    engine_free(&company);
}

static void row_is_the_same_in_any_company(void **state)
{
    (void)state;
    check_company((struct kv_shape){1, 3, 1, 16}, KV_F16, 0, 2100);
    check_company((struct kv_shape){1, 3, 1, 16}, KV_Q4, 1, 2100);
    check_company((struct kv_shape){1, 7, 1, 32}, KV_Q4, 8, 700);
    check_company((struct kv_shape){1, 4, 2, 64}, KV_O4, 0, 300);
}

/* Sixteen sequences of different lengths in one call, with prefill among decode. */
static void batch_equals_each_alone(void **state)
{
    (void)state;
    enum { N = 16 };
    struct engine engine = engine_create("auto", 2);
    struct kv_shape shape = {1, 6, 2, 32};
    struct kv_tables *tables = kv_fixture_identity(&shape, 16);
    struct kv_fixture fixtures[N];
    struct attention_span spans[N];
    int n_rows[N], total = 0;
    uint64_t seed = 9;
    for (int i = 0; i < N; i++) {
        int n_tokens = 1 + (int)(kv_fixture_random(&seed) % 1500);
        n_rows[i] = i % 4 == 3 ? 1 + n_tokens / 2 : i == 4 ? 0 : 1;
        kv_fixture_init(&fixtures[i], &shape, tables, i % 3 ? KV_Q4 : KV_F16, 2, n_tokens, 4, 0, (uint64_t)i);
        kv_fixture_fill(&fixtures[i], engine.backend, 512);
        spans[i] = kv_fixture_span(&fixtures[i], n_tokens - n_rows[i], n_rows[i], total);
        total += n_rows[i];
    }
    size_t row = row_floats(&fixtures[0]);
    float *q = malloc((size_t)total * row * sizeof *q), *out = malloc((size_t)total * row * sizeof *out);
    float *alone = malloc((size_t)total * row * sizeof *alone);
    for (int i = 0; i < N; i++) {
        if (!n_rows[i]) continue;
        memcpy(q + spans[i].first_row * row, kv_fixture_q(&fixtures[i], 0, spans[i].first_pos),
               (size_t)n_rows[i] * row * sizeof *q);
        kv_fixture_attend(&fixtures[i], engine.backend, 0, spans[i].first_pos, n_rows[i],
                          alone + spans[i].first_row * row);
    }
    struct attention_args args = {.shape = &shape,
                                  .tables = tables,
                                  .scale = 1 / sqrtf(32),
                                  .n_spans = N,
                                  .spans = spans,
                                  .q = q,
                                  .out = out};
    engine.backend->attention(engine.backend, &args);
    assert_same_floats(alone, out, (size_t)total * row, "batched");
    free(q), free(out), free(alone);
    for (int i = 0; i < N; i++) kv_fixture_free(&fixtures[i]);
    kv_tables_free(tables);
    engine_free(&engine);
}

/* ---- tiers ---- */

static void demoted_page_equals_page_read_as_two_bits(void **state)
{
    (void)state;
    struct engine engine = engine_create("auto", 1), scalar = engine_create("scalar", 1);
    static const int head_dims[] = {16, 48, 64, 128, 256};
    for (size_t i = 0; i < sizeof head_dims / sizeof *head_dims; i++) {
        struct kv_shape shape = {2, 4, 2, head_dims[i]};
        struct kv_tables *tables = kv_fixture_identity(&shape, 16);
        struct kv_fixture q4, q2;
        kv_fixture_init(&q4, &shape, tables, KV_Q4, 0, 300, 4, 1, 11);
        kv_fixture_init(&q2, &shape, tables, KV_Q2, 0, 300, 4, 1, 11);
        kv_fixture_fill(&q4, engine.backend, 300);
        kv_fixture_fill(&q2, engine.backend, 300);
        size_t bytes = kv_block_bytes(KV_Q2, &shape);
        char *demoted = malloc(bytes), *reference = malloc(bytes);
        for (int b = 0; b < 4; b++) {
            engine.backend->kv_demote(engine.backend, &shape, q4.blocks[b].coded, demoted);
            scalar.backend->kv_demote(scalar.backend, &shape, q4.blocks[b].coded, reference);
            assert_memory_equal(demoted, q2.blocks[b].coded, bytes);
            assert_memory_equal(demoted, reference, bytes);
        }
        float *a = attend_all(&q4, engine.backend, 1, 64, 100),
              *b = attend_all(&q2, engine.backend, 1, 64, 100);
        assert_same_floats(a, b, 236 * row_floats(&q4), "4 bits read as 2");
        free(a), free(b), free(demoted), free(reference);
        kv_fixture_free(&q4);
        kv_fixture_free(&q2);
        kv_tables_free(tables);
    }
    engine_free(&engine);
    engine_free(&scalar);
}

/* A block of nothing but sinks leaves its coded pass without a token. */
static void block_of_sinks_only(void **state)
{
    (void)state;
    struct engine engine = engine_create("auto", 1);
    struct kv_shape shape = {1, 2, 1, 32};
    struct kv_tables *tables = kv_fixture_identity(&shape, 16);
    struct kv_fixture sinks, exact;
    kv_fixture_init(&sinks, &shape, tables, KV_Q2, 0, 100, 64, 0, 2);
    kv_fixture_init(&exact, &shape, tables, KV_F16, 0, 100, 0, 0, 2);
    kv_fixture_fill(&sinks, engine.backend, 100);
    kv_fixture_fill(&exact, engine.backend, 100);
    float *a = attend_all(&sinks, engine.backend, 0, 0, 100),
          *b = attend_all(&exact, engine.backend, 0, 0, 100);
    for (size_t i = 0; i < 100 * row_floats(&sinks); i++) assert_true(a[i] == b[i]);
    free(a), free(b);
    kv_fixture_free(&sinks);
    kv_fixture_free(&exact);
    kv_tables_free(tables);
    engine_free(&engine);
}

/* Zero and enormous vectors give finite results, the same on every level. */
static void extreme_vectors_stay_finite(void **state)
{
    (void)state;
    static const char *const levels[] = {"scalar", "avx2", "avx512"};
    static const float factors[] = {0, 1e-12f, 1e-4f, 3e3f, 1e30f};
    struct kv_shape shape = {1, 4, 2, 32};
    struct kv_tables *tables = kv_fixture_identity(&shape, 16);
    for (size_t f = 0; f < sizeof factors / sizeof *factors; f++) {
        float *reference = NULL;
        for (int l = 0; l < 3; l++) {
            struct engine engine = engine_create(levels[l], 1);
            if (!engine.backend) {
                engine_free(&engine);
                continue;
            }
            struct kv_fixture fixture;
            kv_fixture_init(&fixture, &shape, tables, KV_Q4, 1, 300, 4, 1, 4);
            for (int i = 0; i < 300 * 2 * 32; i++) {
                if (i / 64 % 3) fixture.k[i] *= factors[f], fixture.v[i] *= factors[f];
            }
            kv_fixture_fill(&fixture, engine.backend, 300);
            float *out = attend_all(&fixture, engine.backend, 0, 0, 300);
            size_t n = 300 * row_floats(&fixture);
            for (size_t i = 0; i < n; i++) assert_true(isfinite(out[i]));
            if (reference) {
                assert_same_floats(reference, out, n, levels[l]);
                free(out);
            } else {
                reference = out;
            }
            kv_fixture_free(&fixture);
            engine_free(&engine);
        }
        free(reference);
    }
    kv_tables_free(tables);
}

static void page_sizes(void **state)
{
    (void)state;
    assert_int_equal(kv_page_bytes(KV_F16, 128), 512 * 64);
    assert_int_equal(kv_page_bytes(KV_Q2, 128), 68 * 64);
    assert_int_equal(kv_page_bytes(KV_Q4, 128), 136 * 64);
    assert_int_equal(kv_page_bytes(KV_O4, 128), 132 * 64);
    assert_int_equal(kv_page_bytes(KV_SINK, 128), 512);
    struct kv_shape shape = {30, 9, 3, 64};
    assert_int_equal(kv_block_bytes(KV_Q2, &shape), 90 * 36 * 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page_sizes),
        cmocka_unit_test(avx2_equals_scalar),
        cmocka_unit_test(avx512_equals_scalar),
        cmocka_unit_test(row_is_the_same_in_any_company),
        cmocka_unit_test(batch_equals_each_alone),
        cmocka_unit_test(demoted_page_equals_page_read_as_two_bits),
        cmocka_unit_test(block_of_sinks_only),
        cmocka_unit_test(extreme_vectors_stay_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
