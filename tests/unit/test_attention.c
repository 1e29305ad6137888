#include "kernels/backend.h"
#include "tests/unit/support/attention_reference.h"
#include "tests/unit/support/cpu_fixture.h"
#include "tests/unit/support/kv_fixture.h"
#include "tests/unit/support/kv_pages.h"

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
 * Attention over pages of random codes: first against a reference in double precision, then bit for bit,
 * since the kernels are defined to the bit (kernels/cpu/attention.h): instruction sets with the scalar
 * reference, one row with the same row in company, old blocks with blocks that have only the parts that old
 * ones are read with. That a sealed page says what it should is
 * tests/unit/test_kv_write.c.
 */

static size_t row_floats(const struct kv_shape *shape)
{
    return (size_t)shape->n_heads * shape->head_dim;
}

/* Queries [n_tokens][n_heads][head_dim]; out likewise, rows from span->first_pos on. */
static void attend(struct backend *backend, const struct kv_shape *shape, int layer, const float *q,
                   const struct attention_span *spans, int n_spans, float *out)
{
    struct attention_args args = {.shape = shape,
                                  .layer = layer,
                                  .scale = 1 / sqrtf((float)shape->head_dim),
                                  .n_spans = n_spans,
                                  .spans = spans,
                                  .q = q,
                                  .out = out};
    backend->attention(backend, &args);
}

/* Attention of all rows from `first` on, in calls of `chunk` rows. */
static float *attend_all(const struct kv_pages *pages, struct backend *backend, const float *q, int layer,
                         int first, int chunk)
{
    size_t row = row_floats(&pages->shape);
    float *out = malloc((size_t)(pages->n_tokens - first) * row * sizeof *out);
    assert_non_null(out);
    for (int at = first; at < pages->n_tokens; at += chunk) {
        int n = at + chunk < pages->n_tokens ? chunk : pages->n_tokens - at;
        struct attention_span span = kv_pages_span(pages, at, n, 0);
        attend(backend, &pages->shape, layer, q + (size_t)at * row, &span, 1,
               out + (size_t)(at - first) * row);
    }
    return out;
}

static void assert_same_floats(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a)) fail_msg("%s: element %zu: %a and %a", what, i, a[i], b[i]);
}

/* ---- formats ---- */

enum tables_kind { IDENTITY, DENSE, MEANS };

/* A codec (NULL: f16) and its tables. */
struct format {
    enum tables_kind kind;
    struct kv_tables *tables;
    struct kv_codec *codec;
};

enum { N_FRAMES = 16 };

/* bits NULL: f16. */
static struct format format_create(const struct kv_shape *shape, enum tables_kind kind,
                                   const struct kv_fixture_bits *bits)
{
    struct format format = {.kind = kind};
    if (!bits) return format;
    format.tables = kind == IDENTITY ? kv_fixture_identity(shape, N_FRAMES)
                                     : kv_fixture_tables(shape, N_FRAMES, kind == MEANS, 3);
    format.codec = kv_fixture_codec(shape, format.tables, bits);
    return format;
}

static void format_free(struct format *format)
{
    if (!format->codec) return;
    kv_codec_free(format->codec);
    format->kind == IDENTITY ? kv_tables_free(format->tables) : kv_fixture_tables_free(format->tables);
}

/* ---- against the reference ---- */

static int draw(uint64_t *seed, int n)
{
    return (int)(kv_fixture_random(seed) % (uint64_t)n);
}

/* Bits that do not increase, each at most `most`; often 0 at the end. */
static void bits_draw(uint64_t *seed, int n_groups, int most, uint8_t *bits)
{
    static const uint8_t steps[] = {4, 2, 1, 0};
    int step = 0;
    for (int g = 0; g < n_groups; g++) {
        while (step < 3 && (steps[step] > most || draw(seed, n_groups / 2 + 1) == 0)) step++;
        bits[g] = steps[step];
    }
}

/* Random bits, different on every page. A third part refines only parts of at most 2 bits: for other
   histories there is no unit. */
static struct format format_draw(uint64_t *seed, const struct kv_shape *shape)
{
    int n_parts = 1 + draw(seed, 3), n_groups = shape->head_dim / KV_CODE_GROUP;
    size_t n_pages = (size_t)shape->n_layers * shape->n_kv_heads;
    struct format format = {.kind = (enum tables_kind)draw(seed, 3)};
    format.tables = format.kind == IDENTITY ? kv_fixture_identity(shape, N_FRAMES)
                                            : kv_fixture_tables(shape, N_FRAMES, format.kind == MEANS, *seed);
    struct kv_codec_spec spec = {
        .shape = *shape, .tables = format.tables, .n_parts = n_parts, .n_old_parts = 1 + draw(seed, n_parts)};
    struct kv_code *codes = calloc(KV_MAX_PARTS * n_pages, sizeof *codes);
    assert_non_null(codes);
    for (int p = 0; p < n_parts; p++) {
        int most = p > 0 && n_parts == 3 ? 2 : 4;
        for (size_t page = 0; page < n_pages; page++) {
            struct kv_code *code = &codes[(size_t)p * n_pages + page];
            bits_draw(seed, n_groups, most, code->key_bits);
            bits_draw(seed, n_groups, most, code->value_bits);
        }
        spec.codes[p] = codes + (size_t)p * n_pages;
    }
    assert_int_equal(kv_codec_create(&spec, &format.codec, NULL), ERR_OK);
    free(codes);
    return format;
}

static double distance(const double *want, const float *got, int n)
{
    double error = 0, size = 0;
    for (int i = 0; i < n; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        size += want[i] * want[i];
    }
    return sqrt(error / size);
}

/* Several sequences of different formats in one call; a few rows and heads of each against the reference.
   With rounding nothing but fp32 is between them, and now and then one step where fp32 and double round to
   different sides. Without it there is also what 8 bits cost. */
static void check_reference(uint64_t seed, struct backend *scalar, struct backend *other, double *worst)
{
    enum { N = 3, TRIES = 4 };
    static const int head_dims[] = {64, 80, 128, 256}, recents[] = {0, 1, 8};
    int n_kv_heads = 1 + draw(&seed, 3);
    struct kv_shape shape = {1 + draw(&seed, 2), n_kv_heads * (1 + draw(&seed, 16)), n_kv_heads,
                             head_dims[draw(&seed, 4)]};
    struct format formats[N];
    struct kv_pages pages[N];
    struct attention_span spans[N];
    int total = 0, layer = draw(&seed, shape.n_layers);
    for (int i = 0; i < N; i++) {
        formats[i] = i == N - 1 ? format_create(&shape, IDENTITY, NULL) : format_draw(&seed, &shape);
        int n_tokens = 65 + draw(&seed, 800), n_rows = draw(&seed, 2) ? 1 : 1 + draw(&seed, 65);
        kv_pages_init(&pages[i], &shape, formats[i].codec, KV_PAGES_ALL, recents[draw(&seed, 3)], n_tokens,
                      draw(&seed, 6), draw(&seed, 2), seed);
        spans[i] = kv_pages_span(&pages[i], n_tokens - n_rows, n_rows, total);
        total += n_rows;
    }
    size_t n = (size_t)total * row_floats(&shape);
    float *q = kv_pages_gauss(n, seed), *out = malloc(n * sizeof *out), *same = malloc(n * sizeof *same);
    assert_true(out && same);
    attend(scalar, &shape, layer, q, spans, N, out);
    attend(other, &shape, layer, q, spans, N, same);
    assert_same_floats(out, same, n, "mixed formats");
    struct attention_args args = {
        .shape = &shape, .layer = layer, .scale = 1 / sqrtf((float)shape.head_dim), .q = q};
    for (int i = 0; i < N * TRIES; i++) {
        const struct attention_span *span = &spans[i / TRIES];
        int r = draw(&seed, span->n_rows), h = draw(&seed, shape.n_heads);
        const float *got = out + ((size_t)(span->first_row + r) * shape.n_heads + h) * shape.head_dim;
        for (int rounding = ATTENTION_EXACT; rounding <= ATTENTION_ROUNDED; rounding++) {
            double want[KV_MAX_HEAD_DIM];
            attention_reference(&args, span, r, h, (enum attention_rounding)rounding, want);
            worst[rounding] = fmax(worst[rounding], distance(want, got, shape.head_dim));
        }
    }
    free(q), free(out), free(same);
    for (int i = 0; i < N; i++) kv_pages_free(&pages[i]), format_free(&formats[i]);
}

static void agrees_with_the_reference(void **state)
{
    (void)state;
    struct cpu_fixture scalar = cpu_fixture_create("scalar", 2), other = cpu_fixture_create("auto", 2);
    double worst[2] = {0, 0};
    for (uint64_t seed = 1; seed <= 20; seed++) check_reference(seed, scalar.backend, other.backend, worst);
    cpu_fixture_free(&scalar);
    cpu_fixture_free(&other);
    print_message("relative error: %.1e, with the same rounding %.1e\n", worst[ATTENTION_EXACT],
                  worst[ATTENTION_ROUNDED]);
    assert_true(worst[ATTENTION_EXACT] < .1);
    assert_true(worst[ATTENTION_ROUNDED] < 1e-3);
}

/* ---- instruction sets ---- */

static const struct kv_fixture_bits twos = {1, 1, {"2"}, {"2"}}, fours = {1, 1, {"4"}, {"4"}},
                                    ones = {1, 1, {"10"}, {"1"}}, one_four = {1, 1, {"1"}, {"4"}},
                                    refined = {2, 1, {"2", "2"}, {"2", "2"}},
                                    graded = {2, 1, {"4211", "2"}, {"4221", "20"}},
                                    odd_ones = {2, 2, {"42111", "1"}, {"22221", "10000"}},
                                    wide = {2, 2, {"44422000", "44"}, {"44400000", "4"}},
                                    eight = {2, 1, {"44222110", "20000000"}, {"2", "2"}},
                                    three = {3, 2, {"4", "1", "1"}, {"2", "1", "1"}},
                                    apart = {2, 2, {"0", "2"}, {"2", "0"}};

static const struct parity_case {
    struct kv_shape shape;
    const struct kv_fixture_bits *bits;
    int recent_blocks, n_tokens, n_sinks;
    enum tables_kind tables;
} parity_cases[] = {
    {{1, 1, 1, 16}, NULL, 0, 130, 0, IDENTITY},      {{2, 4, 2, 16}, &refined, 1, 270, 4, IDENTITY},
    {{1, 3, 1, 32}, &graded, 8, 200, 4, IDENTITY},   {{1, 5, 1, 32}, &ones, 0, 193, 1, IDENTITY},
    {{1, 6, 3, 48}, &graded, 1, 257, 4, IDENTITY},   {{1, 3, 1, 64}, NULL, 0, 150, 0, IDENTITY},
    {{1, 9, 3, 64}, &graded, 1, 330, 4, IDENTITY},   {{1, 4, 1, 64}, &fours, 0, 129, 64, IDENTITY},
    {{1, 7, 1, 80}, &odd_ones, 0, 140, 2, IDENTITY}, {{1, 2, 2, 96}, &wide, 0, 160, 4, IDENTITY},
    {{1, 6, 1, 128}, &eight, 1, 200, 4, IDENTITY},   {{1, 8, 1, 128}, NULL, 0, 100, 0, IDENTITY},
    {{1, 2, 1, 256}, &three, 1, 260, 4, IDENTITY},   {{1, 13, 1, 32}, &one_four, 0, 150, 4, IDENTITY},
    {{1, 16, 1, 16}, &apart, 0, 150, 0, IDENTITY},   {{1, 4, 2, 32}, &graded, 1, 340, 4, DENSE},
    {{1, 4, 2, 48}, &three, 1, 340, 4, MEANS},       {{2, 2, 1, 64}, &kv_fixture_mixed, 0, 300, 4, MEANS},
    {{1, 1, 1, 16}, &refined, 2, 64 * 17, 4, MEANS}, {{1, 2, 1, 112}, &odd_ones, 0, 140, 3, DENSE},
    {{1, 2, 1, 128}, &twos, 0, 140, 3, MEANS},
};

static void check_parity(const struct parity_case *c, uint64_t seed, const char *level)
{
    enum { ROWS = 80 };
    struct cpu_fixture scalar = cpu_fixture_create("scalar", 1), other = cpu_fixture_create(level, 2);
    struct format format = format_create(&c->shape, c->tables, c->bits);
    struct kv_pages pages;
    kv_pages_init(&pages, &c->shape, format.codec, KV_PAGES_ALL, c->recent_blocks, c->n_tokens, c->n_sinks, 1,
                  seed);
    size_t row = row_floats(&c->shape);
    float *q = kv_pages_gauss((size_t)c->n_tokens * row, seed);
    for (int layer = 0; layer < c->shape.n_layers; layer++) {
        float *x = attend_all(&pages, scalar.backend, q, layer, c->n_tokens - ROWS, ROWS);
        float *y = attend_all(&pages, other.backend, q, layer, c->n_tokens - ROWS, ROWS);
        assert_same_floats(x, y, ROWS * row, level);
        free(x), free(y);
    }
    free(q);
    kv_pages_free(&pages);
    format_free(&format);
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

/* ---- a row in any company ---- */

static void check_company(struct kv_shape shape, const struct kv_fixture_bits *bits, enum tables_kind kind,
                          int recent_blocks, int n_tokens)
{
    struct cpu_fixture alone = cpu_fixture_create("auto", 1), company = cpu_fixture_create("auto", 3);
    struct format format = format_create(&shape, kind, bits);
    struct kv_pages pages;
    kv_pages_init(&pages, &shape, format.codec, KV_PAGES_ALL, recent_blocks, n_tokens, 4, 1, 5);
    size_t n = (size_t)n_tokens * row_floats(&shape);
    float *q = kv_pages_gauss(n, 6), *reference = attend_all(&pages, alone.backend, q, 0, 0, 1);
    static const int chunks[] = {1, 5, 17, 64, 100, 1 << 20};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        float *out = attend_all(&pages, company.backend, q, 0, 0, chunks[i]);
        assert_same_floats(reference, out, n, "chunked");
        free(out);
    }
    free(reference), free(q);
    kv_pages_free(&pages);
    format_free(&format);
    cpu_fixture_free(&alone);
    cpu_fixture_free(&company);
}

static void row_is_the_same_in_any_company(void **state)
{
    (void)state;
    check_company((struct kv_shape){1, 3, 1, 16}, NULL, IDENTITY, 0, 2100);
    check_company((struct kv_shape){1, 3, 1, 16}, &refined, IDENTITY, 1, 2100);
    check_company((struct kv_shape){1, 7, 1, 32}, &graded, IDENTITY, 8, 700);
    check_company((struct kv_shape){1, 3, 1, 48}, &three, MEANS, 2, 700);
    check_company((struct kv_shape){1, 4, 2, 64}, &fours, IDENTITY, 0, 300);
}

/* Sixteen sequences of different lengths and formats in one call, with prefill among decode. */
static void batch_equals_each_alone(void **state)
{
    (void)state;
    enum { N = 16, FORMATS = 3 };
    struct cpu_fixture engine = cpu_fixture_create("auto", 2);
    struct kv_shape shape = {1, 6, 2, 32};
    struct format formats[FORMATS] = {format_create(&shape, IDENTITY, NULL),
                                      format_create(&shape, IDENTITY, &kv_fixture_o2),
                                      format_create(&shape, MEANS, &wide)};
    struct kv_pages pages[N];
    struct attention_span spans[N];
    int total = 0;
    uint64_t seed = 9;
    for (int i = 0; i < N; i++) {
        int n_tokens = 1 + draw(&seed, 1500), n_rows = i % 4 == 3 ? 1 + n_tokens / 2 : i == 4 ? 0 : 1;
        kv_pages_init(&pages[i], &shape, formats[i % FORMATS].codec, KV_PAGES_ALL, 2, n_tokens, 4, 0,
                      (uint64_t)i);
        spans[i] = kv_pages_span(&pages[i], n_tokens - n_rows, n_rows, total);
        total += n_rows;
    }
    size_t row = row_floats(&shape), n = (size_t)total * row;
    float *q = kv_pages_gauss(n, 2), *out = malloc(n * sizeof *out), *alone = malloc(n * sizeof *alone);
    assert_true(out && alone);
    attend(engine.backend, &shape, 0, q, spans, N, out);
    for (int i = 0; i < N; i++) attend(engine.backend, &shape, 0, q, &spans[i], 1, alone);
    assert_same_floats(alone, out, n, "batched");
    free(q), free(out), free(alone);
    for (int i = 0; i < N; i++) kv_pages_free(&pages[i]);
    for (int i = 0; i < FORMATS; i++) format_free(&formats[i]);
    cpu_fixture_free(&engine);
}

/* ---- ages ---- */

/* A block that lost the parts it is too old for is read as before. */
static void old_blocks_need_only_their_parts(void **state)
{
    (void)state;
    static const char *const levels[] = {"scalar", "auto"};
    enum { TOKENS_HELD = 64 * 13 + 5, RECENT = 3 };
    struct kv_shape shape = {2, 4, 2, 64};
    for (int l = 0; l < 2; l++) {
        struct cpu_fixture engine = cpu_fixture_create(levels[l], 1);
        struct format format = format_create(&shape, MEANS, &three);
        struct kv_pages pages;
        kv_pages_init(&pages, &shape, format.codec, KV_PAGES_ALL, RECENT, TOKENS_HELD, 4, 1, 11);
        size_t row = row_floats(&shape);
        float *q = kv_pages_gauss(TOKENS_HELD * row, 1);
        float *all = attend_all(&pages, engine.backend, q, 1, TOKENS_HELD - 5, 5);
        for (int b = 0; b < pages.n_blocks - 1; b++) {
            pages.blocks[b].f16 = NULL;
            if (pages.n_blocks - 1 - b > RECENT) pages.blocks[b].parts[2] = NULL;
        }
        float *less = attend_all(&pages, engine.backend, q, 1, TOKENS_HELD - 5, 5);
        assert_same_floats(all, less, 5 * row, "with parts given back");
        free(q), free(all), free(less);
        kv_pages_free(&pages);
        format_free(&format);
        cpu_fixture_free(&engine);
    }
}

/* A block of nothing but sinks leaves its coded pass without a token. */
static void block_of_sinks_only(void **state)
{
    (void)state;
    struct cpu_fixture engine = cpu_fixture_create("auto", 1);
    struct kv_shape shape = {1, 2, 1, 32};
    struct format format = format_create(&shape, MEANS, &twos);
    struct kv_pages pages;
    kv_pages_init(&pages, &shape, format.codec, KV_PAGES_ALL, 0, 100, 64, 0, 2);
    size_t row = row_floats(&shape);
    float *q = kv_pages_gauss(100 * row, 1);
    float *coded = attend_all(&pages, engine.backend, q, 0, 64, 36);
    /* The same in f16: the sinks become the block. */
    uint16_t *half = (uint16_t *)pages.blocks[0].f16;
    for (int t = 0; t < 64; t++) {
        const uint16_t *sink = (const uint16_t *)pages.blocks[0].sinks[t];
        for (int i = 0; i < 32; i++) half[i * 64 + t] = sink[i], half[(64 + t) * 32 + i] = sink[32 + i];
    }
    pages.codec = NULL;
    float *exact = attend_all(&pages, engine.backend, q, 0, 64, 36);
    for (size_t i = 0; i < 36 * row; i++) assert_true(coded[i] == exact[i]);
    free(coded), free(exact), free(q);
    kv_pages_free(&pages);
    format_free(&format);
    cpu_fixture_free(&engine);
}

/* Scales and queries of zero and at their largest give finite results, the same on every level. */
static void extremes_stay_finite(void **state)
{
    (void)state;
    static const char *const levels[] = {"scalar", "avx2", "avx512"};
    static const float factors[] = {0, 1e-30f, 1e-4f, 1, 1e6f};
    struct kv_shape shape = {1, 4, 2, 32};
    struct format format = format_create(&shape, IDENTITY, &graded);
    struct kv_pages pages;
    kv_pages_init(&pages, &shape, format.codec, KV_PAGES_ALL, 1, 300, 4, 1, 4);
    for (int b = 0; b < 4; b++) {
        for (int p = 0; p < 2; p++) {
            static const uint16_t extreme[] = {0, 1, 0x7bff};
            uint16_t *scales = kv_codec_page(format.codec, p, pages.blocks[b].parts[p], 1).key_scales;
            for (int t = 0; t < 2 * KV_BLOCK_TOKENS; t++) scales[t] = extreme[(t + b) % 3];
        }
    }
    size_t n = 300 * row_floats(&shape);
    for (size_t f = 0; f < sizeof factors / sizeof *factors; f++) {
        float *reference = NULL, *q = kv_pages_gauss(n, f);
        for (size_t i = 0; i < n; i++) q[i] *= factors[f];
        for (int l = 0; l < 3; l++) {
            struct cpu_fixture engine = cpu_fixture_create(levels[l], 1);
            if (engine.backend) {
                float *out = attend_all(&pages, engine.backend, q, 0, 0, 300);
                for (size_t i = 0; i < n; i++) assert_true(isfinite(out[i]));
                if (reference) assert_same_floats(reference, out, n, levels[l]);
                free(reference);
                reference = out;
            }
            cpu_fixture_free(&engine);
        }
        free(reference), free(q);
    }
    kv_pages_free(&pages);
    format_free(&format);
}

/* The largest sums there are: every weight of query and softmax at its most, and so is every code. */
static void largest_sums_do_not_overflow(void **state)
{
    (void)state;
    static const char *const levels[] = {"scalar", "avx2", "avx512"};
    static const struct kv_fixture_bits *const formats[] = {&fours, &twos, &one_four, &eight, &three};
    /* All bits set: u = 15 at 4 bits, 12 at 2, 8 at 1. Codes 3 and 1 in turns: u = 15 and 7 at 2 bits. */
    static const uint8_t bytes[] = {0xff, 0xdd, 0x77, 0x00};
    struct kv_shape shape = {1, 3, 1, 256};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        struct format format = format_create(&shape, IDENTITY, formats[f]);
        for (size_t fill = 0; fill < sizeof bytes; fill++) {
            struct kv_pages pages;
            kv_pages_init(&pages, &shape, format.codec, KV_PAGES_ALL, 1, 65 + 64, 0, 0, 1);
            for (int b = 0; b < 2; b++) {
                for (int p = 0; p < format.codec->n_parts; p++) {
                    memset(pages.blocks[b].parts[p], bytes[fill], kv_codec_part_bytes(format.codec, p));
                    uint16_t *scales = kv_codec_page(format.codec, p, pages.blocks[b].parts[p], 0).key_scales;
                    for (int t = 0; t < 2 * KV_BLOCK_TOKENS; t++) scales[t] = 0x3c00;
                }
            }
            /* In frame 0 nothing turns, and the Hadamard makes all alike of the first unit vector. */
            size_t row = row_floats(&shape);
            float *q = calloc((size_t)pages.n_tokens, row * sizeof *q), *reference = NULL;
            assert_non_null(q);
            for (size_t i = 0; i < (size_t)pages.n_tokens * row; i += 256) q[i] = i % 512 ? -4 : 4;
            for (int l = 0; l < 3; l++) {
                struct cpu_fixture engine = cpu_fixture_create(levels[l], 1);
                if (engine.backend) {
                    float *out = attend_all(&pages, engine.backend, q, 0, pages.n_tokens - 1, 1);
                    if (reference) assert_same_floats(reference, out, row, levels[l]);
                    free(reference);
                    reference = out;
                }
                cpu_fixture_free(&engine);
            }
            free(q), free(reference);
            kv_pages_free(&pages);
        }
        format_free(&format);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_reference),    cmocka_unit_test(avx2_equals_scalar),
        cmocka_unit_test(avx512_equals_scalar),         cmocka_unit_test(row_is_the_same_in_any_company),
        cmocka_unit_test(batch_equals_each_alone),      cmocka_unit_test(old_blocks_need_only_their_parts),
        cmocka_unit_test(block_of_sinks_only),          cmocka_unit_test(extremes_stay_finite),
        cmocka_unit_test(largest_sums_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
