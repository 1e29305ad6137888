/*
 * cuda_packed: weights that stay quantized on a card against the same weights in fp16, on a machine with a
 * card; without one it says so and exits with 77, which CTest counts as skipped. All comparisons are of bits.
 *
 *   values      what gather brings of every row is dtype_to_f32 rounded to fp16, for every type
 *   products    alone and in groups of several types, of few tokens and many
 *   segments    sums cut as matmul_90.cu does it, against matmul.cu over each segment's columns
 */
#include "kernels/cuda/packed.h"
#include "tests/cuda/card.h"
#include "tests/unit/support/kv_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const enum dtype types[] = {DTYPE_Q4_0, DTYPE_Q5_0, DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q5_K,
                                   DTYPE_Q6_K, DTYPE_Q4_1, DTYPE_Q5_1, DTYPE_BF16};
enum { N_TYPES = sizeof types / sizeof *types, N_PACKED = 6 };

static void need(enum err err, const struct err_info *info)
{
    if (!err) return;
    printf("%s\n", info->message);
    exit(1);
}

/* Random bytes, whose scales are numbers: of either sign, some of them 0 or subnormal. */
static uint8_t *blocks_create(enum dtype dtype, size_t n_elements, uint64_t seed)
{
    size_t block = dtype_block_bytes(dtype), n_blocks = n_elements / dtype_block_elements(dtype);
    uint8_t *blocks = card_need(malloc(n_blocks * block));
    int first = dtype == DTYPE_Q6_K ? 208 : 0;
    bool has_minimum =
        dtype == DTYPE_Q4_K || dtype == DTYPE_Q5_K || dtype == DTYPE_Q4_1 || dtype == DTYPE_Q5_1;
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *to = blocks + b * block;
        for (size_t i = 0; i < block; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            to[i] = (uint8_t)(seed >> 56);
        }
        for (int h = 0; h <= has_minimum; h++) {
            float scale = 0.01f * kv_fixture_gauss(&seed);
            uint16_t half = dtype_f32_to_f16(b % 11 == 5 ? 0.0f : b % 7 == 3 ? scale * 1e-4f : scale);
            if (dtype != DTYPE_BF16) memcpy(to + first + 2 * h, &half, 2);
        }
        if (dtype == DTYPE_BF16) to[1] = 0x3c ^ (to[1] & 0x83); /* of moderate size */
    }
    return blocks;
}

static struct weight *weight_create(enum dtype dtype, const void *data, int n_rows, int n_cols,
                                    const int32_t *order, bool keep)
{
    struct weight_source source = {.name = "test",
                                   .dtype = dtype,
                                   .n_rows = n_rows,
                                   .n_cols = n_cols,
                                   .data = data,
                                   .row_order = order,
                                   .multiply = true,
                                   .gather = true,
                                   .keep = keep};
    struct weight *weight = NULL;
    struct err_info info;
    need(cuda->weight_create(cuda, &source, &weight, &info), &info);
    return weight;
}

static void check_bits(const void *a, const void *b, size_t bytes, const char *what, enum dtype dtype, int n)
{
    card_check(!memcmp(a, b, bytes), what, dtype_name(dtype), n);
}

/* ---- values ---- */

static void check_values(enum dtype dtype, int n_rows, int n_cols, bool is_turned)
{
    size_t n = (size_t)n_rows * (size_t)n_cols, bytes = n * sizeof(float);
    uint8_t *blocks = blocks_create(dtype, n, 3 + (uint64_t)n_cols);
    int32_t *order = card_need(malloc((size_t)n_rows * sizeof *order)),
            *tokens = card_need(malloc((size_t)n_rows * sizeof *tokens));
    float *expected = card_need(malloc(bytes)), *out = card_need(cuda->alloc(cuda, bytes));
    for (int r = 0; r < n_rows; r++) order[r] = n_rows - 1 - r, tokens[r] = r;
    struct weight *weight = weight_create(dtype, blocks, n_rows, n_cols, is_turned ? order : NULL, true);
    size_t row_bytes = (size_t)n_cols / dtype_block_elements(dtype) * dtype_block_bytes(dtype);
    for (int r = 0; r < n_rows; r++)
        dtype_to_f32(dtype, blocks + (size_t)(is_turned ? order[r] : r) * row_bytes, (size_t)n_cols,
                     expected + (size_t)r * (size_t)n_cols);
    for (size_t i = 0; i < n; i++) expected[i] = dtype_f16_to_f32(dtype_f32_to_f16(expected[i]));
    cuda->gather(cuda, weight, tokens, n_rows, out);
    float *got = card_get(out, bytes);
    check_bits(expected, got, bytes, "values", dtype, n_cols);
    size_t padded = (size_t)((n_rows + 15) / 16 * 16) * ((size_t)((n_cols + 63) / 64 * 64));
    if (cuda_packed_has(dtype))
        card_check(cuda->weight_bytes(weight) ==
                       padded / dtype_block_elements(dtype) * dtype_block_bytes(dtype),
                   "bytes", dtype_name(dtype), (double)cuda->weight_bytes(weight));
    cuda->weight_free(cuda, weight);
    cuda->free(cuda, out);
    free(blocks), free(order), free(tokens), free(expected), free(got);
}

/* ---- products ---- */

enum { MOST_TOKENS = 200 };
struct part {
    enum dtype dtype;
    int n_rows;
};

static void outs_get(const struct backend_product *products, const struct part *parts, int n_parts,
                     int n_tokens, float **out)
{
    for (int i = 0; i < n_parts; i++)
        out[i] = card_get(products[i].out, (size_t)n_tokens * (size_t)parts[i].n_rows * sizeof **out);
}

/* A group with its weights kept against the same in fp16, whose tokens are all there at once. */
static void check_products(const struct part *parts, int n_parts, int n_cols)
{
    static const int counts[] = {MOST_TOKENS, 65, 64, 16, 3, 1};
    struct backend_product kept[BACKEND_GROUP] = {{0}}, halves[BACKEND_GROUP] = {{0}};
    float *x = card_gauss((size_t)MOST_TOKENS * (size_t)n_cols, 21), *bias = card_gauss(4096, 22);
    float *card_x = card_put(x, (size_t)MOST_TOKENS * (size_t)n_cols * sizeof *x);
    float *card_bias = card_put(bias, 4096 * sizeof *bias), *expected[BACKEND_GROUP], *got[BACKEND_GROUP];
    struct acts *acts = card_need(cuda->acts_create(cuda, MOST_TOKENS, n_cols, 16));
    for (int i = 0; i < n_parts; i++) {
        const struct part *part = &parts[i];
        uint8_t *blocks = blocks_create(part->dtype, (size_t)part->n_rows * (size_t)n_cols, 31 + (uint64_t)i);
        float *out = card_need(cuda->alloc(cuda, (size_t)MOST_TOKENS * (size_t)part->n_rows * sizeof *out));
        halves[i] =
            (struct backend_product){weight_create(part->dtype, blocks, part->n_rows, n_cols, NULL, false),
                                     i == 1 ? NULL : card_bias, out};
        kept[i] = halves[i];
        kept[i].weight = weight_create(part->dtype, blocks, part->n_rows, n_cols, NULL, true);
        free(blocks);
    }
    cuda->prepare(cuda, card_x, MOST_TOKENS, n_cols, acts);
    cuda->matmul_group(cuda, halves, n_parts, acts);
    outs_get(halves, parts, n_parts, MOST_TOKENS, expected);
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        cuda->prepare(cuda, card_x, counts[c], n_cols, acts);
        cuda->matmul_group(cuda, kept, n_parts, acts);
        outs_get(kept, parts, n_parts, counts[c], got);
        for (int i = 0; i < n_parts; i++) {
            check_bits(expected[i], got[i], (size_t)counts[c] * (size_t)parts[i].n_rows * sizeof(float),
                       "product", parts[i].dtype, counts[c]);
            free(got[i]);
        }
    }
    for (int i = 0; i < n_parts; i++) {
        cuda->weight_free(cuda, (struct weight *)kept[i].weight);
        cuda->weight_free(cuda, (struct weight *)halves[i].weight);
        cuda->free(cuda, kept[i].out);
        free(expected[i]);
    }
    cuda->acts_free(cuda, acts);
    cuda->free(cuda, card_x), cuda->free(cuda, card_bias);
    free(x), free(bias);
}

/* ---- segments ---- */

static uint16_t *halves_random(size_t n, uint64_t seed)
{
    uint16_t *halves = card_need(malloc(n * sizeof *halves));
    for (size_t i = 0; i < n; i++) halves[i] = dtype_f32_to_f16(kv_fixture_gauss(&seed));
    return halves;
}

/* Columns [first, end) of a matrix, on the card. */
static uint16_t *columns_put(const uint16_t *matrix, int n_rows, int n_cols, int first, int end)
{
    size_t width = (size_t)(end - first);
    uint16_t *cut = card_need(malloc((size_t)n_rows * width * sizeof *cut));
    for (int r = 0; r < n_rows; r++)
        memcpy(cut + (size_t)r * width, matrix + (size_t)r * (size_t)n_cols + first, width * sizeof *cut);
    uint16_t *card = card_put(cut, (size_t)n_rows * width * sizeof *cut);
    free(cut);
    return card;
}

struct segments {
    struct cuda_packed packed;
    uint16_t *weight, *x; /* of the host: [n_rows][n_cols], [n_tokens][n_cols] */
    float *bias, *scale, *out;
    uint16_t *card_x;
    int n_tokens;
};

/* What matmul.cu gives for each segment, added in order. */
static float *segments_add(const struct segments *s, int n_segments, const float *bias, const float *scale,
                           const float *ones)
{
    int n_cols = s->packed.n_cols, n_rows = s->packed.n_rows, n_blocks = (n_cols + 63) / 64;
    size_t n = (size_t)s->n_tokens * (size_t)n_rows;
    float *sums = NULL;
    for (int i = 0; i < n_segments; i++) {
        int first = n_blocks * i / n_segments * 64, end = n_blocks * (i + 1) / n_segments * 64;
        if (end > n_cols) end = n_cols;
        uint16_t *weight = columns_put(s->weight, n_rows, n_cols, first, end),
                 *x = columns_put(s->x, s->n_tokens, n_cols, first, end);
        struct cuda_matmul matmul = {.parts = {{weight, NULL, s->out, n_rows, n_rows}},
                                     .n_parts = 1,
                                     .x = x,
                                     .scale = ones,
                                     .n_cols = end - first,
                                     .n_tokens = s->n_tokens};
        card_check(cuda_matmul_run(&matmul, NULL) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess,
                   "segments", "launch", i);
        float *got = card_get(s->out, n * sizeof *got);
        for (size_t e = 0; e < n && sums; e++) sums[e] += got[e];
        if (!sums)
            sums = got;
        else
            free(got);
        cuda->free(cuda, weight), cuda->free(cuda, x);
    }
    for (size_t e = 0; e < n; e++)
        sums[e] = fmaf(sums[e], scale[e / (size_t)n_rows], bias[e % (size_t)n_rows]);
    return sums;
}

/* A packed weight, and what unpacking makes of all its rows. */
static void segments_weight(struct segments *s, enum dtype dtype, int n_rows, int n_cols)
{
    size_t n = (size_t)n_rows * (size_t)n_cols, n_tiles = (size_t)(n_rows + 15) / 16;
    size_t row_bytes = (size_t)n_cols / dtype_block_elements(dtype) * dtype_block_bytes(dtype);
    uint8_t *blocks = blocks_create(dtype, n, 41),
            *memory = card_need(malloc(n_tiles * cuda_packed_tile_bytes(dtype, n_cols)));
    const void **rows = card_need(malloc((size_t)n_rows * sizeof *rows));
    uint16_t *unpacked = card_need(cuda->alloc(cuda, n * sizeof *unpacked));
    for (int r = 0; r < n_rows; r++) rows[r] = blocks + (size_t)r * row_bytes;
    cuda_packed_fill(dtype, rows, n_rows, n_cols, memory);
    s->packed = (struct cuda_packed){dtype, n_rows, n_cols,
                                     card_put(memory, n_tiles * cuda_packed_tile_bytes(dtype, n_cols))};
    cuda->download(cuda, memory, s->packed.memory, 1); /* it is there */
    card_check(cuda_packed_unpack_run(&s->packed, 0, n_rows, unpacked, NULL) == cudaSuccess &&
                   cudaDeviceSynchronize() == cudaSuccess,
               "segments", "unpack", n_rows);
    s->weight = card_get(unpacked, n * sizeof *unpacked);
    cuda->free(cuda, unpacked);
    free(blocks), free(memory), free(rows);
}

static void check_segments(enum dtype dtype, int n_rows, int n_cols, int n_tokens)
{
    struct segments s = {.n_tokens = n_tokens};
    segments_weight(&s, dtype, n_rows, n_cols);
    s.x = halves_random((size_t)n_tokens * (size_t)n_cols, 42);
    float *bias = card_gauss((size_t)n_rows, 43), *scale = card_gauss((size_t)n_tokens, 44);
    float *ones = card_need(malloc((size_t)n_tokens * sizeof *ones));
    for (int t = 0; t < n_tokens; t++) ones[t] = 1;
    size_t n = (size_t)n_tokens * (size_t)n_rows;
    s.out = card_need(cuda->alloc(cuda, n * sizeof *s.out));
    uint16_t *x = card_put(s.x, (size_t)n_tokens * (size_t)n_cols * sizeof *x);
    float *card_bias = card_put(bias, (size_t)n_rows * 4),
          *card_scale = card_put(scale, (size_t)n_tokens * 4),
          *card_ones = card_put(ones, (size_t)n_tokens * 4);
    for (int n_segments = 1; n_segments <= 8; n_segments *= 2) {
        float *expected = segments_add(&s, n_segments, bias, scale, card_ones);
        struct cuda_matmul matmul = {.parts = {{NULL, card_bias, s.out, n_rows, n_rows}},
                                     .n_parts = 1,
                                     .x = x,
                                     .scale = card_scale,
                                     .n_cols = n_cols,
                                     .n_tokens = n_tokens,
                                     .n_segments = n_segments};
        const struct cuda_packed *packed = &s.packed;
        card_check(cuda_matmul_packed_run(&packed, &matmul, NULL) == cudaSuccess &&
                       cudaDeviceSynchronize() == cudaSuccess,
                   "segments", dtype_name(dtype), n_segments);
        float *got = card_get(s.out, n * sizeof *got);
        check_bits(expected, got, n * sizeof *got, "segments", dtype, n_segments);
        free(expected), free(got);
    }
    cuda->free(cuda, s.out), cuda->free(cuda, x), cuda->free(cuda, card_bias), cuda->free(cuda, card_scale);
    cuda->free(cuda, card_ones), cuda->free(cuda, (void *)s.packed.memory);
    free(s.weight), free(s.x), free(bias), free(scale), free(ones);
}

int main(void)
{
    card_open();
    card_open_cpu(1);
    printf("%s\n", cuda->name);
    for (int i = 0; i < N_TYPES; i++) {
        bool is_k = dtype_block_elements(types[i]) == 256;
        check_values(types[i], 37, is_k ? 256 : 96, false);
        check_values(types[i], 16, is_k ? 768 : 320, true);
    }
    for (int i = 0; i < N_PACKED; i++) {
        bool is_k = dtype_block_elements(types[i]) == 256;
        check_products((struct part[]){{types[i], i % 2 ? 40 : 201}}, 1, is_k ? 512 : 224);
        check_segments(types[i], 37, is_k ? 768 : 544, i % 3 == 0 ? 1 : i % 3 == 1 ? 11 : 40);
    }
    check_products((struct part[]){{DTYPE_Q4_K, 96}, {DTYPE_Q4_K, 40}, {DTYPE_Q6_K, 40}}, 3, 256);
    check_products((struct part[]){{DTYPE_F16, 32}, {DTYPE_Q8_0, 70}, {DTYPE_F16, 40}}, 3, 96);
    check_products((struct part[]){{DTYPE_Q6_K, 96}, {DTYPE_Q4_K, 40}, {DTYPE_Q6_K, 40}}, 3, 256);
    if (!CARD_IS_EMULATED) { /* segments of Hopper cards, and several slices */
        check_products((struct part[]){{DTYPE_Q4_K, 1024}, {DTYPE_Q4_K, 256}, {DTYPE_Q6_K, 256}}, 3, 4096);
        check_products((struct part[]){{DTYPE_Q8_0, 4096}}, 1, 14336);
        check_products((struct part[]){{DTYPE_Q6_K, 20000}}, 1, 4096);
    }
    card_check_failure();
    cuda->destroy(cuda);
    return card_end();
}
