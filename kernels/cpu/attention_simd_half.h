/* Part of kernels/cpu/attention_simd.h: f16 blocks. Chains of fmaf over `n` terms, lanes = tokens (scores) or
   channels (values). */

/* out[row][8 v] (+)= sum_i factors[row][i] * half[i][8 v], for n_rows rows and n_vectors vectors. */
INLINE void half_product(const float *factors, int factor_stride, const uint16_t *half, int half_stride,
                         int n, float *out, int out_stride, int is_fresh, int n_rows, int n_vectors)
{
    __m256 sums[6][4];
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            sums[r][v] = is_fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(out + r * out_stride + v * LANES);
    for (int i = 0; i < n; i++, half += half_stride) {
        /* Keep in registers whichever is less, the vectors or the factors. */
        __m256 x[4], factor[6];
        if (n_vectors < n_rows) {
            for (int v = 0; v < n_vectors; v++) x[v] = load_half(half + v * LANES);
            for (int r = 0; r < n_rows; r++) {
                factor[r] = _mm256_broadcast_ss(factors + r * factor_stride + i);
                for (int v = 0; v < n_vectors; v++) sums[r][v] = _mm256_fmadd_ps(factor[r], x[v], sums[r][v]);
            }
        } else {
            for (int r = 0; r < n_rows; r++) factor[r] = _mm256_broadcast_ss(factors + r * factor_stride + i);
            for (int v = 0; v < n_vectors; v++) {
                x[v] = load_half(half + v * LANES);
                for (int r = 0; r < n_rows; r++) sums[r][v] = _mm256_fmadd_ps(factor[r], x[v], sums[r][v]);
            }
        }
    }
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++) _mm256_storeu_ps(out + r * out_stride + v * LANES, sums[r][v]);
}

/* As half_product over `width` columns, a multiple of 16. With few rows, more columns at once keep the
   multipliers busy. */
INLINE void half_columns(const float *factors, int factor_stride, const uint16_t *half, int half_stride,
                         int n, float *out, int out_stride, int width, int is_fresh, int n_rows)
{
    int column = 0;
    if (n_rows <= 3)
        for (; column + 4 * LANES <= width; column += 4 * LANES)
            half_product(factors, factor_stride, half + column, half_stride, n, out + column, out_stride,
                         is_fresh, n_rows, 4);
    for (; column < width; column += 2 * LANES)
        half_product(factors, factor_stride, half + column, half_stride, n, out + column, out_stride,
                     is_fresh, n_rows, 2);
}

/* How many rows to take at once when n are left: never leave a single row behind. */
INLINE int rows_at_once(int n)
{
    return n <= 6 ? n : n == 7 ? 4 : n == 8 ? 4 : 6;
}

INLINE void half_rows(const float *factors, int factor_stride, const uint16_t *half, int half_stride, int n,
                      float *out, int out_stride, int width, int is_fresh, int n_rows)
{
    while (n_rows > 0) {
        int taken = rows_at_once(n_rows);
#define CASE(count)                                                                                          \
    case count:                                                                                              \
        half_columns(factors, factor_stride, half, half_stride, n, out, out_stride, width, is_fresh, count); \
        break;
        switch (taken) {
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
        }
#undef CASE
        n_rows -= taken, factors += taken * factor_stride, out += taken * out_stride;
    }
}

static void scores_half(struct attention_tile *tile, const uint16_t *keys, int n_tokens)
{
    int width = (n_tokens + 2 * LANES - 1) / (2 * LANES) * (2 * LANES);
    half_rows(tile->q, tile->head_dim, keys, TOKENS, tile->head_dim, tile->scores, TOKENS, width, 1,
              tile->n_rows);
}

static void values_half(struct attention_tile *tile, int first_row, int n_rows, const uint16_t *values,
                        int n_tokens)
{
    int n = tile->head_dim;
    half_rows(tile->scores + first_row * TOKENS, TOKENS, values, n, n_tokens, tile->out_half + first_row * n,
              n, n, 0, n_rows);
}
