/*
 * cuda_parity: the CUDA backend against the CPU's, and against the formulas in double precision, on a machine
 * with a card; without one it says so and exits with 77, which CTest counts as skipped.
 *
 *   rows and elements      within fp32 noise of the CPU
 *   products               within fp16 noise of the CPU at 16 bits; a token's bits do not depend on the batch
 *   kv_store, kv_seal      codes, scales and sinks equal to the CPU's, bit for bit; kv_unseal likewise
 *   attention              the plain kernel within 1e-5 of the formulas, the fast one within 2e-3; a row's
 * bits do not depend on the batch or the chunk; of rotatekv over what the CPU makes of the pages, and within
 * as much of the CPU's attention
 *
 * On the emulated card (tests/cuda/emulator) the same, over fewer tokens.
 */
#include "kernels/kv_rotate.h"
#include "tests/cuda/card.h"
#include "tests/unit/support/attention_reference.h"
#include "tests/unit/support/kv_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int is_plain;

/* ---- rows ---- */

static void check_rows(int rows, int n)
{
    size_t size = (size_t)rows * (size_t)n, bytes = size * sizeof(float);
    float *x = card_gauss(size, 1), *y = card_gauss(size, 2), *gain = card_gauss((size_t)n, 3);
    float *out = malloc(bytes), *card = card_put(x, bytes), *card_y = card_put(y, bytes);
    float *card_gain = card_put(gain, (size_t)n * sizeof *gain);
    cpu->rmsnorm(cpu, x, gain, 1e-5f, rows, n, out);
    cuda->rmsnorm(cuda, card, card_gain, 1e-5f, rows, n, card);
    cpu->swiglu(cpu, out, y, size, out);
    cuda->swiglu(cuda, card, card_y, size, card);
    cpu->add(cpu, out, y, size);
    cuda->add(cuda, card, card_y, size);
    int head_dim = 64, heads = n / head_dim;
    if (heads) {
        cpu->rope(cpu, out, rows, heads, head_dim, x, y);
        float *cosines = card_put(x, bytes);
        cuda->rope(cuda, card, rows, heads, head_dim, cosines, card_y);
        cuda->free(cuda, cosines);
    }
    float *got = card_get(card, bytes);
    double error = card_error(got, out, size);
    card_check(error < 1e-4, "rows", "", error);
    free(x), free(y), free(gain), free(out), free(got);
    cuda->free(cuda, card), cuda->free(cuda, card_y), cuda->free(cuda, card_gain);
}

/* ---- products ---- */

static void check_matmul(int n_rows, int n_cols)
{
    enum { MOST = 300 };
    static const int counts[] = {1, 7, 16, 17, 32, 64, 128, 129, MOST};
    size_t n_weights = (size_t)n_rows * (size_t)n_cols;
    float *data = card_gauss(n_weights, 4), *x = card_gauss((size_t)MOST * (size_t)n_cols, 5);
    float *bias = card_gauss((size_t)n_rows, 6);
    for (int c = 0; c < n_cols; c++) x[c] *= 1e6f; /* the first token needs its scale */
    struct weight_source source = {.name = "test",
                                   .dtype = DTYPE_F32,
                                   .n_rows = n_rows,
                                   .n_cols = n_cols,
                                   .data = data,
                                   .multiply = true};
    struct weight *on_cpu, *on_card;
    struct err_info info;
    if (cpu->weight_create(cpu, &source, &on_cpu, &info) ||
        cuda->weight_create(cuda, &source, &on_card, &info)) {
        printf("%s\n", info.message);
        exit(1);
    }
    struct acts *cpu_acts = cpu->acts_create(cpu, MOST, n_cols, 16),
                *acts = cuda->acts_create(cuda, MOST, n_cols, 16);
    size_t n_out = (size_t)MOST * (size_t)n_rows;
    float *out = malloc(n_out * sizeof *out), *first = NULL;
    float *card_x = card_put(x, (size_t)MOST * (size_t)n_cols * sizeof *x);
    float *card_bias = card_put(bias, (size_t)n_rows * sizeof *bias),
          *card_out = cuda->alloc(cuda, n_out * 4);
    cpu->prepare(cpu, x, MOST, n_cols, cpu_acts);
    cpu->matmul(cpu, on_cpu, cpu_acts, bias, out);
    for (int i = (int)(sizeof counts / sizeof *counts) - 1; i >= 0; i--) {
        size_t size = (size_t)counts[i] * (size_t)n_rows;
        cuda->prepare(cuda, card_x, counts[i], n_cols, acts);
        cuda->matmul(cuda, on_card, acts, card_bias, card_out);
        float *got = card_get(card_out, size * sizeof *got);
        double error = card_error(got + (counts[i] > 1 ? n_rows : 0), out + (counts[i] > 1 ? n_rows : 0),
                                  size - (counts[i] > 1 ? (size_t)n_rows : 0));
        card_check(error < 4e-3, "matmul", "against the CPU", error);
        if (!first)
            first = got;
        else
            card_check(!memcmp(first, got, size * sizeof *got), "matmul", "depends on the batch", counts[i]);
        if (got != first) free(got);
    }
    free(first), free(data), free(x), free(bias), free(out);
    cpu->weight_free(cpu, on_cpu), cuda->weight_free(cuda, on_card);
    cpu->acts_free(cpu, cpu_acts), cuda->acts_free(cuda, acts);
    cuda->free(cuda, card_x), cuda->free(cuda, card_bias), cuda->free(cuda, card_out);
}

/* ---- the cache ---- */

/* The same sequence with its pages, queries, keys and values on the card. */
struct mirror {
    struct kv_fixture fixture;
    float *q, *k, *v;
};

static char *moved(const struct kv_fixture *from, char *memory, const char *at)
{
    return at ? memory + (at - from->memory) : NULL;
}

static struct mirror mirror_create(const struct kv_fixture *from)
{
    struct mirror mirror = {.fixture = *from};
    struct kv_fixture *to = &mirror.fixture;
    const struct kv_shape *shape = &from->shape;
    size_t n = (size_t)shape->n_layers * (size_t)from->n_tokens * (size_t)shape->head_dim * sizeof(float);
    to->memory = card_put(from->memory, from->memory_bytes);
    to->q = mirror.q = card_put(from->q, n * (size_t)shape->n_heads);
    to->k = mirror.k = card_put(from->k, n * (size_t)shape->n_kv_heads);
    to->v = mirror.v = card_put(from->v, n * (size_t)shape->n_kv_heads);
    to->blocks = malloc((size_t)from->n_blocks * sizeof *to->blocks);
    to->sinks = malloc(((size_t)from->n_blocks * 64 + 1) * sizeof *to->sinks);
    char **slot = to->sinks;
    for (int b = 0; b < from->n_blocks; b++) {
        struct kv_block_ref *block = &to->blocks[b];
        *block = from->blocks[b];
        block->f16 = moved(from, to->memory, block->f16);
        for (int p = 0; p < KV_MAX_PARTS; p++) block->parts[p] = moved(from, to->memory, block->parts[p]);
        block->sinks = slot;
        for (int s = 0; s < __builtin_popcountll(block->sink_mask); s++)
            *slot++ = moved(from, to->memory, from->blocks[b].sinks[s]);
    }
    return mirror;
}

static void mirror_free(struct mirror *mirror)
{
    cuda->free(cuda, mirror->fixture.memory);
    cuda->free(cuda, mirror->q), cuda->free(cuda, mirror->k), cuda->free(cuda, mirror->v);
    free(mirror->fixture.blocks), free(mirror->fixture.sinks);
}

static void check_pages(const struct kv_fixture *ours, const struct mirror *mirror, const char *what,
                        const char *name)
{
    char *got = card_get(mirror->fixture.memory, ours->memory_bytes);
    size_t different = 0;
    for (size_t i = 0; i < ours->memory_bytes; i++) different += got[i] != ours->memory[i];
    card_check(different == 0, what, name, (double)different);
    free(got);
}

/* Attention of some rows on the card. */
static float *attend(const struct mirror *mirror, int layer, int first, int n)
{
    const struct kv_fixture *f = &mirror->fixture;
    size_t width = (size_t)f->shape.n_heads * (size_t)f->shape.head_dim,
           bytes = (size_t)n * width * sizeof(float);
    float *out = cuda->alloc(cuda, bytes);
    kv_fixture_attend(f, cuda, layer, first, n, out);
    float *got = card_get(out, bytes);
    cuda->free(cuda, out);
    return got;
}

/* The blocks that row r of a span of format rotatekv reads, as blocks of f16: those before its own from
   `back`, where they were unsealed. */
static struct attention_span span_back(const struct kv_fixture *ours, const struct kv_fixture *back,
                                       const struct attention_span *span, int r, struct kv_block_ref *refs)
{
    struct attention_span out = *span;
    int own = (span->first_pos + r) / KV_BLOCK_TOKENS;
    for (int b = 0; b <= own; b++) {
        refs[b] = (b < own ? back : ours)->blocks[b];
        refs[b].sink_mask = 0;
    }
    out.codec = NULL, out.blocks = refs;
    return out;
}

/* back: NULL, or of format rotatekv the blocks unsealed. */
static void check_attention(const struct kv_fixture *ours, const struct kv_fixture *back,
                            const struct mirror *mirror, const char *name)
{
    int n = ours->shape.head_dim, heads = ours->shape.n_heads, layer = ours->shape.n_layers - 1;
    size_t width = (size_t)heads * (size_t)n;
    int most = CARD_IS_EMULATED ? 70 : 150, first = ours->n_tokens > most ? ours->n_tokens - most : 0;
    int rows = ours->n_tokens - first;
    float *whole = attend(mirror, layer, first, rows);
    struct attention_span span = kv_fixture_span(ours, first, rows, 0);
    struct attention_args args = {
        .shape = &ours->shape, .layer = layer, .scale = (float)(1 / sqrt(n)), .n_spans = 1, .spans = &span};
    args.q = kv_fixture_q(ours, layer, first);
    struct kv_block_ref *refs = card_need(malloc((size_t)ours->n_blocks * sizeof *refs));
    double sum = 0, errors = 0, worst = 0;
    for (int r = 0; r < rows; r += 37) {
        struct attention_span read = back ? span_back(ours, back, &span, r, refs) : span;
        for (int h = 0; h < heads; h++) {
            double expected[KV_MAX_HEAD_DIM], row_sum = 0, row_errors = 0;
            attention_reference(&args, &read, r, h, ATTENTION_EXACT, expected);
            for (int i = 0; i < n; i++) {
                double e = (double)whole[(size_t)r * width + (size_t)(h * n + i)] - expected[i];
                row_errors += e * e, row_sum += expected[i] * expected[i];
            }
            sum += row_sum, errors += row_errors;
            double ratio = sqrt(row_errors / row_sum);
            worst = ratio > worst || isnan(ratio) ? ratio : worst;
        }
    }
    printf("  %s attention %s: error %.2e of all rows, %.2e of the worst\n", is_plain ? "plain" : "fast",
           name, sqrt(errors / sum), worst);
    free(refs);
    double limit = is_plain ? 1e-5 : 2e-3;
    card_check(sqrt(errors / sum) < limit && worst < 2 * limit, "attention", name, worst);
    for (int r = 0; r < rows; r += CARD_IS_EMULATED ? 23 : 11) {
        float *alone = attend(mirror, layer, first + r, 1);
        card_check(!memcmp(alone, whole + (size_t)r * width, width * sizeof *alone),
                   "attention depends on the batch", name, r);
        free(alone);
    }
    float *half = attend(mirror, layer, first + rows / 3, rows - rows / 3);
    card_check(
        !memcmp(half, whole + (size_t)(rows / 3) * width, (size_t)(rows - rows / 3) * width * sizeof *half),
        "attention depends on the chunk", name, 0);
    free(half), free(whole);
}

static void check_cache(int heads, int kv_heads, int head_dim, int n_tokens,
                        const struct kv_fixture_bits *bits, int has_tables, int recent, const char *name)
{
    struct kv_shape shape = {2, heads, kv_heads, head_dim};
    if (CARD_IS_EMULATED)
        n_tokens = n_tokens > 2000 ? n_tokens / 2 : n_tokens * 4 / 9; /* 1100: three segments */
    struct kv_tables *tables =
        has_tables ? kv_fixture_tables(&shape, 64, has_tables > 1, 7) : kv_fixture_identity(&shape, 64);
    struct kv_codec *codec = bits ? kv_fixture_codec(&shape, tables, bits) : NULL;
    struct kv_fixture ours, theirs;
    kv_fixture_init(&ours, &shape, codec, recent, n_tokens, 4, 1, 11);
    kv_fixture_init(&theirs, &shape, codec, recent, n_tokens, 4, 1, 11);
    struct mirror mirror = mirror_create(&theirs);
    kv_fixture_fill(&ours, cpu, 100);
    kv_fixture_fill(&mirror.fixture, cuda, 70);
    check_pages(&ours, &mirror, "seal", name);
    check_attention(&ours, NULL, &mirror, name);
    for (int p = 1; codec && p <= codec->n_parts; p++) {
        kv_fixture_unseal(&ours, cpu, p);
        kv_fixture_unseal(&mirror.fixture, cuda, p);
        check_pages(&ours, &mirror, "unseal", name);
    }
    mirror_free(&mirror);
    kv_fixture_free(&ours), kv_fixture_free(&theirs);
    kv_codec_free(codec);
    has_tables ? kv_fixture_tables_free(tables) : kv_tables_free(tables);
}

/* ---- rotatekv ---- */

static struct kv_codec *rotated_codec(const struct kv_shape *shape, const struct kv_tables *tables)
{
    float *mean = card_gauss((size_t)(shape->n_layers * shape->n_kv_heads * shape->head_dim), 5);
    struct kv_codec *codec;
    struct err_info info;
    if (kv_rotate_codec_create(shape, tables, mean, &codec, &info)) {
        printf("%s\n", info.message);
        exit(1);
    }
    free(mean);
    return codec;
}

static void check_rotated(int heads, int kv_heads, int head_dim, int n_tokens, const char *name)
{
    struct kv_shape shape = {2, heads, kv_heads, head_dim};
    if (CARD_IS_EMULATED) n_tokens = n_tokens * 4 / 9;
    struct kv_tables *tables = kv_fixture_identity(&shape, 64);
    struct kv_codec *codec = rotated_codec(&shape, tables);
    struct kv_fixture ours, theirs, back;
    kv_fixture_init(&ours, &shape, codec, 0, n_tokens, 4, 1, 11);
    kv_fixture_init(&theirs, &shape, codec, 0, n_tokens, 4, 1, 11);
    kv_fixture_init(&back, &shape, codec, 0, n_tokens, 4, 1, 11);
    struct mirror mirror = mirror_create(&theirs);
    kv_fixture_fill(&ours, cpu, 100), kv_fixture_fill(&back, cpu, 100);
    kv_fixture_fill(&mirror.fixture, cuda, 70);
    check_pages(&ours, &mirror, "seal", name);
    kv_fixture_unseal(&back, cpu, 1);
    check_attention(&ours, &back, &mirror, name);
    int rows = n_tokens < 80 ? n_tokens : 80, first = n_tokens - rows;
    size_t n = (size_t)rows * (size_t)heads * (size_t)head_dim;
    float *host = card_need(malloc(n * sizeof *host)), *card = attend(&mirror, 1, first, rows);
    kv_fixture_attend(&ours, cpu, 1, first, rows, host);
    double error = card_error(card, host, n);
    card_check(error < (is_plain ? 1e-4 : 1e-2), "attention against the CPU", name, error);
    kv_fixture_unseal(&mirror.fixture, cuda, 1);
    check_pages(&back, &mirror, "unseal", name);
    mirror_free(&mirror);
    free(host), free(card);
    kv_fixture_free(&ours), kv_fixture_free(&theirs), kv_fixture_free(&back);
    kv_codec_free(codec);
    kv_tables_free(tables);
}

/* Sequences of several formats and lengths in one call: each row's bits are those that it has alone. */
static void check_ragged(int heads, int kv_heads, int head_dim, const char *name)
{
    enum { N = 6 };
    static const int tokens[N] = {200, 150, 330, 140, 40, 256}, rows[N] = {1, 3, 70, 1, 2, 1};
    struct kv_shape shape = {1, heads, kv_heads, head_dim};
    struct kv_tables *tables = kv_fixture_identity(&shape, 64);
    struct kv_codec *rotated = rotated_codec(&shape, tables),
                    *o2 = kv_fixture_codec(&shape, tables, &kv_fixture_o2);
    const struct kv_codec *codecs[N] = {rotated, NULL, rotated, o2, rotated, rotated};
    struct kv_fixture fixtures[N];
    struct mirror mirrors[N];
    struct attention_span spans[N];
    size_t width = (size_t)heads * (size_t)head_dim, most = 100 * width * sizeof(float);
    char *q = card_need(cuda->alloc(cuda, most)), *out = card_need(cuda->alloc(cuda, most));
    int n_rows = 0;
    for (int i = 0; i < N; i++) {
        kv_fixture_init(&fixtures[i], &shape, codecs[i], 1, tokens[i], 4, 1, 20 + (uint64_t)i);
        mirrors[i] = mirror_create(&fixtures[i]);
        kv_fixture_fill(&mirrors[i].fixture, cuda, 70);
        spans[i] = kv_fixture_span(&mirrors[i].fixture, tokens[i] - rows[i], rows[i], n_rows);
        cuda->copy(cuda, q + (size_t)n_rows * width * sizeof(float),
                   kv_fixture_q(&mirrors[i].fixture, 0, tokens[i] - rows[i]),
                   (size_t)rows[i] * width * sizeof(float));
        n_rows += rows[i];
    }
    struct attention_args args = {.shape = &shape,
                                  .scale = 1 / sqrtf((float)head_dim),
                                  .n_spans = N,
                                  .spans = spans,
                                  .q = (float *)q,
                                  .out = (float *)out};
    cuda->attention(cuda, &args);
    float *together = card_get(out, (size_t)n_rows * width * sizeof *together);
    for (int i = 0; i < N; i++) {
        float *alone = attend(&mirrors[i], 0, tokens[i] - rows[i], rows[i]);
        card_check(!memcmp(alone, together + (size_t)spans[i].first_row * width,
                           (size_t)rows[i] * width * sizeof *alone),
                   "attention depends on the batch", name, i);
        free(alone);
        mirror_free(&mirrors[i]);
        kv_fixture_free(&fixtures[i]);
    }
    free(together);
    cuda->free(cuda, q), cuda->free(cuda, out);
    kv_codec_free(rotated), kv_codec_free(o2);
    kv_tables_free(tables);
}

static void check_rotated_all(void)
{
    check_rotated(9, 3, 64, 900, "rotatekv D=64 G=3");
    check_rotated(12, 2, 128, 700, "rotatekv D=128 G=6");
    check_rotated(4, 4, 128, 500, "rotatekv D=128 G=1");
    check_rotated(16, 1, 128, 500, "rotatekv D=128 G=16");
    check_rotated(4, 2, 96, 500, "rotatekv D=96 G=2");
    check_rotated(8, 1, 256, 500, "rotatekv D=256 G=8");
    check_rotated(2, 2, 80, 400, "rotatekv D=80 G=1");    /* by the plain kernel, which any head_dim has */
    check_rotated(32, 32, 64, 150, "rotatekv, 32 heads"); /* fewer tokens to a thread block */
    check_ragged(4, 2, 64, "rotatekv and others");
}

/* A kernel over the formats. */
static void check_caches(void)
{
    check_cache(9, 3, 64, 900, NULL, 0, 8, "f16 D=64 G=3");
    check_cache(9, 3, 64, 900, &kv_fixture_o2, 0, 4, "o2 D=64 G=3");
    check_cache(9, 3, 64, 900, &kv_fixture_o2, 2, 4, "o2 tables, means D=64 G=3");
    check_cache(12, 2, 128, 700, &kv_fixture_o2, 2, 2, "o2 tables, means D=128 G=6");
    check_cache(8, 2, 128, 1500, &kv_fixture_o2, 2, 3, "o2 tables, means D=128 G=4");
    check_cache(8, 2, 128, 2200, &kv_fixture_o4, 1, 8, "o4 tables D=128 G=4");
    check_cache(4, 4, 128, 700, &kv_fixture_mixed, 2, 2, "mixed D=128 G=1");
    check_cache(16, 1, 128, 500, &kv_fixture_mixed, 2, 2, "mixed D=128 G=16");
    check_cache(4, 2, 96, 500, &kv_fixture_mixed, 2, 2, "mixed D=96 G=2");
    check_cache(8, 1, 256, 500, &kv_fixture_o2, 2, 2, "o2 D=256 G=8");
    check_rotated_all();
    card_check_failure();
}

int main(void)
{
    card_open();
    card_open_cpu(8);
    printf("%s\n", cuda->name);
    check_rows(3, 576), check_rows(70, 2048), check_rows(1, 8960);
    check_matmul(576, 576), check_matmul(1000, 1536), check_matmul(192, 96);
    if (!CARD_IS_EMULATED) check_matmul(1024, 4096), check_matmul(4096, 4096); /* sums of 8 segments, of 2 */
    check_caches();
    cuda->destroy(cuda);
    setenv("OCTAVO_CUDA_ROTATED_BYTES", "0", 1); /* each sequence's blocks alone in the scratch */
    card_open();
    check_ragged(4, 2, 64, "rotatekv and others, one by one");
    cuda->destroy(cuda);
    is_plain = 1;
    setenv("OCTAVO_CUDA_PLAIN", "1", 1);
    card_open();
    check_caches();
    cuda->destroy(cuda);
    return card_end();
}
