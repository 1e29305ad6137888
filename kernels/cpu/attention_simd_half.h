/* Part of kernels/cpu/attention_simd.h: chains of fmaf over the rows of a matrix. f16 blocks: lanes = tokens
   (scores) or channels (values). fp32: transforms and the mean's scores. */

/* out[r][j] (+)= sum_i factors[r][i] * matrix[i][j] in increasing i, j < width, a multiple of 8. */
struct row_product {
    const float *factors;
    int factor_stride;
    const void *matrix; /* [n][matrix_stride], fp16 or fp32 */
    int matrix_stride;
    int n;
    float *out;
    int out_stride;
    int width;
    int is_fresh; /* start from zero, not from what is in out */
};

INLINE __m256 load_lanes(const void *matrix, int at, int is_half)
{
    return is_half ? load_half((const uint16_t *)matrix + at) : _mm256_loadu_ps((const float *)matrix + at);
}

INLINE void product_tile(const struct row_product *p, int row, int column, int is_half, int n_rows,
                         int n_vectors)
{
    const float *factors = p->factors + row * p->factor_stride;
    float *out = p->out + row * p->out_stride + column;
    __m256 sums[6][4];
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            sums[r][v] =
                p->is_fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(out + r * p->out_stride + v * LANES);
    for (int i = 0, at = column; i < p->n; i++, at += p->matrix_stride) {
        /* Keep in registers whichever is less, the vectors or the factors. */
        __m256 x[4], factor[6];
        if (n_vectors < n_rows) {
            for (int v = 0; v < n_vectors; v++) x[v] = load_lanes(p->matrix, at + v * LANES, is_half);
            for (int r = 0; r < n_rows; r++) {
                factor[r] = _mm256_broadcast_ss(factors + r * p->factor_stride + i);
                for (int v = 0; v < n_vectors; v++) sums[r][v] = _mm256_fmadd_ps(factor[r], x[v], sums[r][v]);
            }
        } else {
            for (int r = 0; r < n_rows; r++)
                factor[r] = _mm256_broadcast_ss(factors + r * p->factor_stride + i);
            for (int v = 0; v < n_vectors; v++) {
                x[v] = load_lanes(p->matrix, at + v * LANES, is_half);
                for (int r = 0; r < n_rows; r++) sums[r][v] = _mm256_fmadd_ps(factor[r], x[v], sums[r][v]);
            }
        }
    }
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++) _mm256_storeu_ps(out + r * p->out_stride + v * LANES, sums[r][v]);
}

/* With few rows, more columns at once keep the multipliers busy. */
INLINE void product_columns(const struct row_product *p, int row, int is_half, int n_rows)
{
    int column = 0;
    if (n_rows <= 3)
        for (; column + 4 * LANES <= p->width; column += 4 * LANES)
            product_tile(p, row, column, is_half, n_rows, 4);
    for (; column + 2 * LANES <= p->width; column += 2 * LANES)
        product_tile(p, row, column, is_half, n_rows, 2);
    if (column < p->width) product_tile(p, row, column, is_half, n_rows, 1);
}

/* How many rows to take at once when n are left: never leave a single row behind. */
INLINE int rows_at_once(int n)
{
    return n <= 6 ? n : n <= 8 ? 4 : 6;
}

INLINE void product_rows(const struct row_product *p, int is_half, int n_rows)
{
    for (int row = 0, taken; row < n_rows; row += taken) {
        taken = rows_at_once(n_rows - row);
        switch (taken) {
        case 1:
            product_columns(p, row, is_half, 1);
            break;
        case 2:
            product_columns(p, row, is_half, 2);
            break;
        case 3:
            product_columns(p, row, is_half, 3);
            break;
        case 4:
            product_columns(p, row, is_half, 4);
            break;
        case 5:
            product_columns(p, row, is_half, 5);
            break;
        case 6:
            product_columns(p, row, is_half, 6);
            break;
        }
    }
}

static void scores_half(struct attention_tile *tile, const uint16_t *keys, int n_tokens)
{
    struct row_product product = {.factors = tile->q,
                                  .factor_stride = tile->head_dim,
                                  .matrix = keys,
                                  .matrix_stride = TOKENS,
                                  .n = tile->head_dim,
                                  .out = tile->scores,
                                  .out_stride = TOKENS,
                                  .width = (n_tokens + 2 * LANES - 1) / (2 * LANES) * (2 * LANES),
                                  .is_fresh = 1};
    product_rows(&product, 1, tile->n_rows);
}

static void values_half(struct attention_tile *tile, int first_row, int n_rows, const uint16_t *values,
                        int n_tokens)
{
    int n = tile->head_dim;
    struct row_product product = {.factors = tile->scores + first_row * TOKENS,
                                  .factor_stride = TOKENS,
                                  .matrix = values,
                                  .matrix_stride = n,
                                  .n = n_tokens,
                                  .out = tile->out_half + first_row * n,
                                  .out_stride = n,
                                  .width = n};
    product_rows(&product, 1, n_rows);
}
