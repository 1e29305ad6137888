#ifndef KERNELS_CPU_MATMUL_H
#define KERNELS_CPU_MATMUL_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/tile.h"

/*
 * Products of quantized weights and activations: what is computed, exactly.
 *
 * A row x of activations is cut into groups of 32 columns. In each, amax = max |x|, scale = amax / Q, q = x *
 * (Q / amax) rounded to nearest even (amax = 0: all zero), sum = scale * (sum of q); Q is 127 or 32767, as
 * the backend's activation_bits say. For a row of weights whose group has codes c, step d and offset o
 * (weight = d c + o):
 *
 *   Q4_0        d, o = -8 d                Q4_K, Q5_K  d = d16 * sc, o = -(dmin16 * m)  (both exact)
 *   Q4_1, Q5_1  d, o = m                   Q8_0        d, no offset, codes signed
 *   Q5_0        d, o = -16 d               Q6_K        below
 *
 *   acc = 0; for each group in increasing order:
 *       n = sum of c * q               exact, |n| < 2^31
 *       acc = fmaf(d * scale, (float)n, acc)
 *       acc = fmaf(o, sum, acc)        where there is an offset
 *   out = acc + bias
 *
 * Q6_K has a scale sc for each half of a group, and codes c - 32. With 8 bits, n = the sum over both halves
 * of sc
 * * (c - 32) * q, and d = d16. With 16 bits that could overflow: there are two steps, one for each half, with
 * d = d16 * sc (exact).
 *
 * F32, F16, BF16: acc = fmaf(weight, x, acc) column by column on the fp32 activations.
 *
 * These fp32 operations in this order are the specification: every level, every number of rows and every
 * worker gives the same bits. (AVX512-BF16's dot product rounds otherwise, so it is not used.)
 */

/* 32 quantized activations. */
struct act_head {
    float scale, sum;
    int32_t half_sum[2]; /* of q over columns 0..15 and 16..31 */
};

struct act_8 {
    struct act_head head;
    int16_t pair_sum[2]
                    [2]; /* [half][pair]: 32 * the sum over the half's columns 4i + 2*pair, 4i + 2*pair + 1 */
    int32_t unused[2];
    int8_t q[TILE_GROUP];
};
_Static_assert(sizeof(struct act_8) == 64, "one cache line");

struct act_16 {
    struct act_head head;
    int16_t q[TILE_GROUP]; /* each quad's columns in the order 0, 2, 1, 3 */
};
_Static_assert(sizeof(struct act_16) == 80, "no padding");

/* Views of a group somewhere in acts->groups. */
static inline const struct act_head *act_head(const char *group)
{
    return (const void *)group;
}

static inline const struct act_8 *act_8(const char *group)
{
    return (const void *)group;
}

static inline const struct act_16 *act_16(const char *group)
{
    return (const void *)group;
}

static inline size_t act_bytes(int bits)
{
    return bits == 16 ? sizeof(struct act_16) : sizeof(struct act_8);
}

struct acts {
    int max_rows, max_cols;
    int bits; /* 8 or 16 */
    size_t group_bytes;
    int n_rows, n_cols;
    const float *x; /* [n_rows][n_cols], borrowed */
    char *groups;   /* [n_rows][n_cols/32] of struct act_8 or act_16 */
};

struct weight {
    enum dtype dtype;
    int n_rows, n_cols, n_tiles;
    char *tiles; /* [n_tiles][tile_bytes]; NULL when not for products */
    size_t tile_bytes;
    const char *data;   /* GGUF rows, borrowed; NULL when not for gather */
    int32_t *row_order; /* of data; NULL: as is */
};

/* Some neighbouring tiles times some neighbouring rows of activations. */
struct matmul_part {
    const char *tiles;
    size_t tile_bytes;
    int n_tiles;
    int n_outputs; /* rows of weights in these tiles: 8 a tile, but the last may have fewer */
    int n_cols;
    int n_rows;         /* of activations */
    int act_bits;       /* 8 or 16 */
    const char *groups; /* first row; rows are n_cols/32 groups apart */
    const float *x;     /* first row; rows are n_cols apart */
    const float *bias;  /* of the first output, or NULL */
    float *out;         /* first output of the first row */
    size_t out_stride;
};

struct matmul_kernels {
    void (*part)(enum dtype dtype, const struct matmul_part *part);
    int rows_at_once; /* rows of activations that it takes together: calls with a multiple of it lose nothing
                       */
};

extern const struct matmul_kernels matmul_scalar, matmul_avx2, matmul_avx512;

/* acc[0..n), plus bias, to out. */
static inline void matmul_store(const float *acc, const float *bias, int n, float *out)
{
    for (int i = 0; i < n; i++) out[i] = bias ? acc[i] + bias[i] : acc[i];
}

/* Operations of struct backend. */
enum err matmul_weight_create(struct backend *backend, const struct weight_source *source,
                              struct weight **out, struct err_info *info);
void matmul_weight_free(struct backend *backend, struct weight *weight);
size_t matmul_weight_bytes(const struct weight *weight);
struct acts *matmul_acts_create(struct backend *backend, int max_rows, int max_cols, int bits);
void matmul_acts_free(struct backend *backend, struct acts *acts);
void matmul_prepare(struct backend *backend, const float *x, int n_rows, int n, struct acts *acts);
void matmul_run(struct backend *backend, const struct weight *weight, const struct acts *acts,
                const float *bias, float *out);
void matmul_gather(struct backend *backend, const struct weight *weight, const int32_t *tokens, int n_tokens,
                   float *out);

#endif
