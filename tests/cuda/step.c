/*
 * cuda_step: what a step on a card does beside products and attention, on a machine with a card; without one
 * it says so and exits with 77, which CTest counts as skipped.
 *
 *   choices            a token drawn from what the card tells of a row is the one drawn from the row itself,
 *                      whatever the sampling; so it is in any batch, since a row alone decides
 *   groups             products at once are within fp16 noise of the CPU's, and a row's bits do not depend on
 *                      the batch
 *   fused operations   the same bits as their parts, and a row's bits do not depend on the batch
 *   angles             the CPU's, but for the last bit of a cosine
 *   uploads            arrive as they were, though the host's memory is used again at once
 */
#include "model/sampler.h"
#include "tests/cuda/card.h"
#include "tests/unit/support/kv_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- choices ---- */

enum { N_KINDS = 9 };

/* Rows of all sorts: peaked, flat, in ties, with what is no number, with nothing at all. */
static void row_fill(float *row, int n, int kind, uint64_t *seed)
{
    float spread = kind == 0 ? 4.0f : kind == 1 ? 0.01f : kind == 2 ? 1.0f : 2.5f;
    for (int i = 0; i < n; i++) row[i] = spread * kv_fixture_gauss(seed);
    if (kind == 3)
        for (int i = 0; i < n; i++) row[i] = roundf(row[i]);
    if (kind == 4)
        for (int i = 0; i < n; i += 3) row[i] = i % 2 ? NAN : -INFINITY;
    if (kind == 5)
        for (int i = 0; i < n; i++) row[i] = i % 2 ? NAN : -INFINITY;
    if (kind == 6) row[n / 2] = row[n - 1] = INFINITY;
    if (kind == 7)
        for (int i = 0; i < n; i++) row[i] = i == n - 2 ? -3.0f : -INFINITY;
    if (kind == 8)
        for (int i = 0; i < n; i++) row[i] = row[i] > 0 ? 1e5f * row[i] : -1e-5f * (float)i;
}

static const struct sampler_params samplings[] = {
    {.temperature = 0, .top_p = 1, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
    {.temperature = 0.3f, .top_p = 1, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 0.95f, .repetition_penalty = 1},
    {.temperature = 0.7f, .top_p = 0.8f, .repetition_penalty = 1},
    {.temperature = 1.5f, .top_p = 0.999f, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 1, .top_k = 40, .repetition_penalty = 1},
    {.temperature = 0.7f, .top_p = 0.9f, .top_k = 20, .min_p = 0.05f, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 1, .min_p = 0.1f, .repetition_penalty = 1},
    {.temperature = 2, .top_p = 0.5f, .min_p = 0.001f, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 1, .top_k = 1, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 0.9f, .top_k = 1900, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 1, .repetition_penalty = 1.1f},
    {.temperature = 1e-6f, .top_p = 0.5f, .repetition_penalty = 1},
};
enum { N_SAMPLINGS = sizeof samplings / sizeof *samplings };

/* A row for every sampling, all at once; `first`: which kind of row the first one is. */
static void check_choice(int n_vocab, int first, struct sampler *sampler, int *n_answered)
{
    size_t size = (size_t)N_SAMPLINGS * (size_t)n_vocab;
    float *rows = card_need(malloc(size * sizeof *rows)),
          *whole = card_need(cuda->host_alloc(cuda, size * sizeof *rows));
    struct sampler_params params[N_SAMPLINGS];
    struct backend_wish wishes[N_SAMPLINGS];
    struct backend_answer answers[N_SAMPLINGS];
    uint64_t seed = (uint64_t)(first * 1000 + n_vocab);
    for (int i = 0; i < N_SAMPLINGS; i++) {
        row_fill(rows + (size_t)i * (size_t)n_vocab, n_vocab, (first + i) % N_KINDS, &seed);
        params[i] = samplings[i];
        params[i].n_logprobs = -1;
        params[i].seed = seed;
        sampler_wish(&params[i], n_vocab, false, first, &wishes[i]);
    }
    float *card = card_put(rows, size * sizeof *rows);
    cuda->choose(cuda, card, N_SAMPLINGS, n_vocab, wishes, whole, answers);
    for (int i = 0; i < N_SAMPLINGS; i++) {
        const float *row = rows + (size_t)i * (size_t)n_vocab;
        struct sampler_result expected, got;
        char name[64];
        snprintf(name, sizeof name, "sampling %d, row %d, vocabulary", i, (first + i) % N_KINDS);
        if (wishes[i].kind == BACKEND_ROW) {
            card_check(!memcmp(row, whole + (size_t)i * (size_t)n_vocab, (size_t)n_vocab * sizeof *row),
                       "whole row", name, n_vocab);
            continue;
        }
        sampler_draw(sampler, &params[i], row, NULL, NULL, 0, NULL, first, &expected);
        /* Past outputs matter to penalties alone, so `first` of them need not be there. */
        if (!sampler_draw_answer(sampler, &params[i], &answers[i], first, &got)) continue;
        ++*n_answered;
        card_check(got.token == expected.token, "choice", name, n_vocab);
    }
    cuda->free(cuda, card), cuda->host_free(cuda, whole);
    free(rows);
}

static void check_choices(int n_vocab, int n_rounds)
{
    struct sampler *sampler = card_need(sampler_create(n_vocab));
    int n_answered = 0;
    for (int first = 0; first < n_rounds; first++) check_choice(n_vocab, first, sampler, &n_answered);
    printf("  vocabulary %d: %d of %d rows did not have to come over\n", n_vocab, n_answered,
           n_rounds * N_SAMPLINGS);
    card_check(n_answered > n_rounds * N_SAMPLINGS / 2, "choices", "most rows come over", n_answered);
    sampler_free(sampler);
}

/* ---- fused operations ---- */

struct bench {
    int n_rows, n;
    struct weight *weight;
    struct acts *acts;
    float *product; /* [n_rows][32] on the card */
};

static struct bench bench_create(int n_rows, int n)
{
    struct bench bench = {.n_rows = n_rows, .n = n};
    float *data = card_gauss((size_t)n * 32, 77);
    struct weight_source source = {
        .name = "test", .dtype = DTYPE_F32, .n_rows = 32, .n_cols = n, .data = data, .multiply = true};
    struct err_info info;
    if (cuda->weight_create(cuda, &source, &bench.weight, &info)) {
        printf("%s\n", info.message);
        exit(1);
    }
    bench.acts = card_need(cuda->acts_create(cuda, n_rows, n, 16));
    bench.product = card_need(cuda->alloc(cuda, (size_t)n_rows * 32 * sizeof(float)));
    free(data);
    return bench;
}

static void bench_free(struct bench *bench)
{
    cuda->weight_free(cuda, bench->weight);
    cuda->acts_free(cuda, bench->acts);
    cuda->free(cuda, bench->product);
}

/* What is prepared shows in a product. */
static float *bench_product(const struct bench *bench, int n_rows)
{
    cuda->matmul(cuda, bench->weight, bench->acts, NULL, bench->product);
    return card_get(bench->product, (size_t)n_rows * 32 * sizeof(float));
}

static void same(const float *a, const float *b, size_t n, const char *what, const char *detail, int value)
{
    card_check(!memcmp(a, b, n * sizeof *a), what, detail, value);
}

static void check_norm(int n_rows, int n)
{
    struct bench bench = bench_create(n_rows, n);
    size_t size = (size_t)n_rows * (size_t)n, bytes = size * sizeof(float);
    float *x = card_gauss(size, 1), *y = card_gauss(size, 2), *gain = card_gauss((size_t)n, 3);
    for (int i = 0; i < n; i++) x[i] *= 1e4f;
    float *parts = card_put(x, bytes), *fused = card_put(x, bytes), *card_y = card_put(y, bytes);
    float *card_gain = card_put(gain, (size_t)n * sizeof *gain), *h = card_put(x, bytes);
    cuda->add(cuda, parts, card_y, size);
    cuda->rmsnorm(cuda, parts, card_gain, 1e-5f, n_rows, n, h);
    cuda->prepare(cuda, h, n_rows, n, bench.acts);
    float *expected = bench_product(&bench, n_rows), *expected_x = card_get(parts, bytes);
    cuda->add_norm_prepare(cuda, fused, card_y, card_gain, 1e-5f, n_rows, n, h, bench.acts);
    float *got = bench_product(&bench, n_rows), *got_x = card_get(fused, bytes);
    same(expected, got, (size_t)n_rows * 32, "add, norm, prepare", "are not their parts", n);
    same(expected_x, got_x, size, "add, norm, prepare", "leave another sum", n);
    /* The last row alone, without anything to add this time. */
    float *last = fused + size - (size_t)n;
    cuda->add_norm_prepare(cuda, last, NULL, card_gain, 1e-5f, 1, n, h, bench.acts);
    float *alone = bench_product(&bench, 1);
    same(expected + (size_t)(n_rows - 1) * 32, alone, 32, "norm", "depends on the batch", n);
    free(x), free(y), free(gain), free(expected), free(expected_x), free(got), free(got_x), free(alone);
    cuda->free(cuda, parts), cuda->free(cuda, fused), cuda->free(cuda, card_y);
    cuda->free(cuda, card_gain), cuda->free(cuda, h);
    bench_free(&bench);
}

static void check_swiglu(int n_rows, int n)
{
    struct bench bench = bench_create(n_rows, n);
    size_t size = (size_t)n_rows * (size_t)n, bytes = size * sizeof(float);
    float *gate = card_gauss(size, 4), *up = card_gauss(size, 5);
    float *parts = card_put(gate, bytes), *fused = card_put(gate, bytes), *card_up = card_put(up, bytes);
    cuda->swiglu(cuda, parts, card_up, size, parts);
    cuda->prepare(cuda, parts, n_rows, n, bench.acts);
    float *expected = bench_product(&bench, n_rows);
    cuda->swiglu_prepare(cuda, fused, card_up, n_rows, n, bench.acts);
    float *got = bench_product(&bench, n_rows);
    same(expected, got, (size_t)n_rows * 32, "swiglu, prepare", "are not their parts", n);
    float *again = card_put(gate + size - (size_t)n, (size_t)n * sizeof *gate);
    cuda->swiglu_prepare(cuda, again, card_up + size - (size_t)n, 1, n, bench.acts);
    float *alone = bench_product(&bench, 1);
    same(expected + (size_t)(n_rows - 1) * 32, alone, 32, "swiglu", "depends on the batch", n);
    free(gate), free(up), free(expected), free(got), free(alone);
    cuda->free(cuda, parts), cuda->free(cuda, fused), cuda->free(cuda, card_up), cuda->free(cuda, again);
    bench_free(&bench);
}

/* ---- groups of products ---- */

enum { GROUP_TOKENS = 300 };

struct group {
    struct backend *backend;
    struct acts *acts;
    float *x;
    struct backend_product products[BACKEND_GROUP];
};

static float *put(struct backend *backend, const float *from, size_t n)
{
    float *memory = card_need(backend->alloc(backend, n * sizeof *memory));
    backend->upload(backend, memory, from, n * sizeof *memory);
    return memory;
}

/* Parts of n_rows[i], 0: there are no more; the first has a bias. */
static struct group group_create(struct backend *backend, const int n_rows[BACKEND_GROUP], int n_cols)
{
    struct group group = {.backend = backend};
    struct err_info info;
    float *x = card_gauss((size_t)GROUP_TOKENS * (size_t)n_cols, 21);
    group.acts = card_need(backend->acts_create(backend, GROUP_TOKENS, n_cols, 16));
    group.x = put(backend, x, (size_t)GROUP_TOKENS * (size_t)n_cols);
    free(x);
    for (int i = 0; i < BACKEND_GROUP && n_rows[i]; i++) {
        float *data = card_gauss((size_t)n_rows[i] * (size_t)n_cols, 22 + (uint64_t)i);
        struct weight_source source = {.name = "test",
                                       .dtype = DTYPE_F32,
                                       .n_rows = n_rows[i],
                                       .n_cols = n_cols,
                                       .data = data,
                                       .multiply = true};
        struct weight *weight;
        if (backend->weight_create(backend, &source, &weight, &info)) {
            printf("%s\n", info.message);
            exit(1);
        }
        size_t n_out = (size_t)GROUP_TOKENS * (size_t)n_rows[i];
        float *out = card_need(backend->alloc(backend, n_out * sizeof *out));
        group.products[i] =
            (struct backend_product){weight, i ? NULL : put(backend, data, (size_t)n_rows[i]), out};
        free(data);
    }
    return group;
}

static void group_free(struct group *group)
{
    struct backend *backend = group->backend;
    for (int i = 0; i < BACKEND_GROUP && group->products[i].weight; i++) {
        backend->weight_free(backend, (struct weight *)group->products[i].weight);
        backend->free(backend, group->products[i].out);
    }
    backend->free(backend, (float *)group->products[0].bias);
    backend->free(backend, group->x);
    backend->acts_free(backend, group->acts);
}

/* All products over the first n tokens; the card's, brought over, into got. */
static void group_run(struct group *group, const int n_rows[BACKEND_GROUP], int n_cols, int n,
                      float *got[BACKEND_GROUP])
{
    struct backend *backend = group->backend;
    int n_products = 0;
    while (n_products < BACKEND_GROUP && n_rows[n_products]) n_products++;
    backend->prepare(backend, group->x, n, n_cols, group->acts);
    backend->matmul_group(backend, group->products, n_products, group->acts);
    for (int i = 0; i < n_products && got; i++)
        got[i] = card_get(group->products[i].out, (size_t)n * (size_t)n_rows[i] * sizeof *got[i]);
}

static void check_group(const int n_rows[BACKEND_GROUP], int n_cols)
{
    static const int counts[] = {GROUP_TOKENS, 129, 128, 65, 64, 33, 32, 17, 16, 8, 7, 1};
    struct group host = group_create(cpu, n_rows, n_cols), card = group_create(cuda, n_rows, n_cols);
    float *first[BACKEND_GROUP] = {NULL};
    group_run(&host, n_rows, n_cols, GROUP_TOKENS, NULL);
    group_run(&card, n_rows, n_cols, GROUP_TOKENS, first);
    for (int i = 0; i < BACKEND_GROUP && n_rows[i]; i++) {
        double error = card_error(first[i], host.products[i].out, (size_t)GROUP_TOKENS * (size_t)n_rows[i]);
        card_check(error < 4e-3, "group", "against the CPU", error);
    }
    for (size_t c = 1; c < sizeof counts / sizeof *counts; c++) {
        float *got[BACKEND_GROUP] = {NULL};
        group_run(&card, n_rows, n_cols, counts[c], got);
        for (int i = 0; i < BACKEND_GROUP && n_rows[i]; i++) {
            same(first[i], got[i], (size_t)counts[c] * (size_t)n_rows[i], "group", "depends on the batch",
                 counts[c]);
            free(got[i]);
        }
    }
    for (int i = 0; i < BACKEND_GROUP; i++) free(first[i]);
    group_free(&host), group_free(&card);
}

static void check_groups(void)
{
    check_group((const int[]){576, 192, 192}, 576);
    check_group((const int[]){200, 72, 0}, 96);
    check_group((const int[]){100, 0, 0}, 64);
    if (CARD_IS_EMULATED) return;
    check_group((const int[]){1536, 256, 256}, 1536);
    check_group((const int[]){4096, 1024, 1024}, 4096);
    check_group((const int[]){8960, 8960, 0}, 1536);
}

/* ---- rotation ---- */

enum { TOKENS = 150, PAST = 37 };

struct rotated {
    float *q, *k, *page;
};

/* A sequence's tokens PAST to PAST + TOKENS - 1 into f16 pages, on either backend: by rotate_store, or by its
   parts. */
static struct rotated rotate(struct backend *backend, const struct kv_shape *shape, bool in_parts)
{
    enum { BLOCKS = (PAST + TOKENS + 63) / 64 };
    size_t f16 = kv_block_bytes(KV_F16, shape), half = (size_t)shape->head_dim / 2;
    size_t n_q = (size_t)(TOKENS * shape->n_heads * shape->head_dim),
           n_k = (size_t)(TOKENS * shape->n_kv_heads * shape->head_dim), n_angles = TOKENS * half;
    float *host_q = card_gauss(n_q, 6), *host_k = card_gauss(n_k, 7), *host_v = card_gauss(n_k, 8);
    struct rotated out;
    out.q = card_need(backend->alloc(backend, n_q * sizeof(float)));
    out.k = card_need(backend->alloc(backend, n_k * sizeof(float)));
    out.page = card_need(backend->alloc(backend, f16 * BLOCKS));
    float *v = card_need(backend->alloc(backend, n_k * sizeof(float))),
          *zeros = card_need(calloc(BLOCKS, f16));
    float *cosines = card_need(backend->alloc(backend, n_angles * sizeof(float)));
    float *sines = card_need(backend->alloc(backend, n_angles * sizeof(float)));
    double inv_freq[KV_MAX_HEAD_DIM / 2];
    struct kv_block_ref blocks[BLOCKS] = {{0}};
    for (int b = 0; b < BLOCKS; b++) {
        blocks[b].f16 = (char *)out.page + (size_t)b * f16;
        blocks[b].f16_layer_stride = f16 / (size_t)shape->n_layers;
    }
    for (size_t i = 0; i < half; i++) inv_freq[i] = pow(500000, -(double)i / (double)half);
    backend->upload(backend, out.q, host_q, n_q * sizeof(float));
    backend->upload(backend, out.k, host_k, n_k * sizeof(float));
    backend->upload(backend, v, host_v, n_k * sizeof(float));
    backend->upload(backend, out.page, zeros, f16 * BLOCKS);
    struct attention_span spans[2] = {
        {.first_row = 0, .n_rows = 1, .first_pos = PAST, .n_blocks = 1, .blocks = blocks},
        {.first_row = 1, .n_rows = TOKENS - 1, .first_pos = PAST + 1, .n_blocks = BLOCKS, .blocks = blocks}};
    if (backend->step_begin) backend->step_begin(backend, 2, spans);
    backend->angles(backend, 2, spans, (int)half, inv_freq, cosines, sines);
    struct kv_store_args store = {
        .shape = shape, .layer = 1, .n_spans = 2, .spans = spans, .k = out.k, .v = v};
    if (in_parts) {
        backend->rope(backend, out.q, TOKENS, shape->n_heads, shape->head_dim, cosines, sines);
        backend->rope(backend, out.k, TOKENS, shape->n_kv_heads, shape->head_dim, cosines, sines);
        backend->kv_store(backend, &store);
    } else {
        backend->rotate_store(backend, &store, out.q, out.k, cosines, sines);
    }
    if (!backend->is_host) {
        float *q = card_get(out.q, n_q * sizeof(float)), *k = card_get(out.k, n_k * sizeof(float));
        float *page = card_get(out.page, f16 * BLOCKS);
        backend->free(backend, out.q), backend->free(backend, out.k), backend->free(backend, out.page);
        out = (struct rotated){q, k, page};
    }
    if (backend->step_begin) backend->step_begin(backend, 0, NULL);
    backend->free(backend, v), backend->free(backend, cosines), backend->free(backend, sines);
    free(host_q), free(host_k), free(host_v), free(zeros);
    return out;
}

static void check_rotation(int heads, int kv_heads, int head_dim)
{
    struct kv_shape shape = {2, heads, kv_heads, head_dim};
    size_t n_q = (size_t)(TOKENS * heads * head_dim), n_k = (size_t)(TOKENS * kv_heads * head_dim);
    size_t n_pages = kv_block_bytes(KV_F16, &shape) * ((PAST + TOKENS + 63) / 64) / sizeof(float);
    struct rotated fused = rotate(cuda, &shape, false), parts = rotate(cuda, &shape, true);
    struct rotated host = rotate(cpu, &shape, false);
    same(fused.q, parts.q, n_q, "rope and store", "are not their parts: queries", head_dim);
    same(fused.k, parts.k, n_k, "rope and store", "are not their parts: keys", head_dim);
    same(fused.page, parts.page, n_pages, "rope and store", "are not their parts: pages", head_dim);
    size_t different = 0;
    for (size_t i = 0; i < n_q; i++) different += !(fabsf(fused.q[i] - host.q[i]) <= 2e-6f);
    card_check(different == 0, "rope", "is not the CPU's", (double)different);
    free(fused.q), free(fused.k), free(fused.page), free(parts.q), free(parts.k), free(parts.page);
    cpu->free(cpu, host.q), cpu->free(cpu, host.k), cpu->free(cpu, host.page);
}

/* ---- uploads ---- */

static void check_uploads(void)
{
    enum { N = 60, WORDS = 300000 }; /* 72 MB: many times what is under way at once */
    uint32_t *words = card_need(malloc(WORDS * sizeof *words));
    char *card = card_need(cuda->alloc(cuda, (size_t)N * WORDS * sizeof *words));
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t w = 0; w < WORDS; w++) words[w] = i * 2654435761u + w;
        cuda->upload(cuda, card + (size_t)i * WORDS * sizeof *words, words, WORDS * sizeof *words);
    }
    uint32_t *got = card_get(card, (size_t)N * WORDS * sizeof *words);
    size_t different = 0;
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t w = 0; w < WORDS; w++) different += got[(size_t)i * WORDS + w] != i * 2654435761u + w;
    card_check(different == 0, "uploads", "", (double)different);
    cuda->free(cuda, card);
    free(got), free(words);
}

int main(void)
{
    card_open();
    card_open_cpu(2);
    printf("%s\n", cuda->name);
    check_uploads();
    check_groups();
    check_norm(3, 576), check_norm(70, 4096), check_norm(2, 8960), check_norm(1, 32);
    check_swiglu(3, 576), check_swiglu(9, 14336), check_swiglu(2, 28672);
    check_rotation(9, 3, 64), check_rotation(8, 2, 128);
    check_choices(300, 18), check_choices(49152 + 37, 9);
    check_choices(128256, CARD_IS_EMULATED ? 3 : 9);
    card_check_failure();
    cuda->destroy(cuda);
    return card_end();
}
