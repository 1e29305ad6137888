/* Part of kernels/cpu/attention_simd.h: the query in a frame. */

/* Lanes a, b at distance 1, 2 or 4 become a + b, a - b; `other` holds each lane's partner. */
#define BUTTERFLY(x, other, upper) _mm256_blend_ps(_mm256_add_ps(x, other), _mm256_sub_ps(other, x), upper)

/* One stride of the transform between vectors, each result times `factor`, unless that is 1. */
INLINE void hadamard_stride(float *x, int n, int stride, int is_last, __m256 factor)
{
    for (int i = 0; i < n; i += 2 * stride) {
        for (int j = i; j < i + stride; j += LANES) {
            __m256 a = _mm256_loadu_ps(x + j), b = _mm256_loadu_ps(x + j + stride);
            __m256 sum = _mm256_add_ps(a, b), difference = _mm256_sub_ps(a, b);
            _mm256_storeu_ps(x + j, is_last ? _mm256_mul_ps(sum, factor) : sum);
            _mm256_storeu_ps(x + j + stride, is_last ? _mm256_mul_ps(difference, factor) : difference);
        }
    }
}

INLINE void hadamard(const float *x, int n, float *out)
{
    for (int i = 0; i < n; i += LANES) {
        __m256 a = _mm256_loadu_ps(x + i);
        a = BUTTERFLY(a, _mm256_permute_ps(a, 0xb1), 0xaa);
        a = BUTTERFLY(a, _mm256_permute_ps(a, 0x4e), 0xcc);
        a = BUTTERFLY(a, _mm256_permute2f128_ps(a, a, 1), 0xf0);
        _mm256_storeu_ps(out + i, a);
    }
    __m256 norm = _mm256_set1_ps(1.0f / sqrtf((float)n));
    for (int stride = LANES; stride < n / 2; stride *= 2) hadamard_stride(out, n, stride, 0, norm);
    hadamard_stride(out, n, n / 2, 1, norm);
}

INLINE void transform_rows(const float *x, const float *matrix, int n, int n_columns, int n_rows, float *out)
{
    if (matrix) {
        struct row_product product = {.factors = x,
                                      .factor_stride = n,
                                      .matrix = matrix,
                                      .matrix_stride = n,
                                      .n = n,
                                      .out = out,
                                      .out_stride = n,
                                      .width = n_columns,
                                      .is_fresh = 1};
        product_rows(&product, 0, n_rows);
        return;
    }
    for (int row = 0; row < n_rows; row++, x += n, out += n) {
        /* Constant sizes let the strides unroll. */
        switch (n) {
        case 64:
            hadamard(x, 64, out);
            break;
        case 128:
            hadamard(x, 128, out);
            break;
        default:
            hadamard(x, n, out);
            break;
        }
    }
}

static void transform(const float *x, const float *matrix, int n, int n_rows, float *out)
{
    transform_rows(x, matrix, n, n, n_rows, out);
}

/* Rows times factors to 8 bits, in the places of their columns. */
INLINE void query_quantize_row(struct attention_tile *tile, const struct attention_groups *groups, int part,
                               int row)
{
    int n_most = groups->n_fours + groups->n_twos, n_coded = n_most + groups->n_ones;
    const float *mixed = tile->mixed + row * tile->head_dim;
    int8_t *q8 = tile->q8[part] + row * tile->head_dim;
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 scaled[2 * KV_MAX_CODE_GROUPS], amaxes = _mm256_setzero_ps();
    for (int i = 0; i < 2 * n_coded; i++) {
        scaled[i] = _mm256_mul_ps(_mm256_loadu_ps(mixed + i * LANES), _mm256_set1_ps(groups->factor[i / 2]));
        amaxes = _mm256_max_ps(amaxes, _mm256_and_ps(scaled[i], magnitude));
    }
    float amax = max_of_lanes(amaxes);
    int is_zero = !(amax >= ATTENTION_TINY);
    __m256 per_step = _mm256_set1_ps(is_zero ? 0 : 127.0f / amax);
    __m256i sums = _mm256_setzero_si256();
    for (int g = 0; g < n_coded; g++) {
        __m256i q =
            round_to_16(_mm256_mul_ps(scaled[2 * g], per_step), _mm256_mul_ps(scaled[2 * g + 1], per_step));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(q, _mm256_set1_epi16(g < n_most ? 15 : 8)));
        __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        bytes = _mm_shuffle_epi8(bytes, column_places());
        _mm_storeu_si128((__m128i *)(q8 + g * KV_CODE_GROUP), bytes);
    }
    tile->q8_scale[part][row] = is_zero ? 0 : amax * (1.0f / 127.0f);
    tile->q8_offset[part][row] = sum_of_lanes(sums);
}

static void query_quantize(struct attention_tile *tile, const struct attention_reading *reading)
{
    for (int p = 0; p < reading->n_parts; p++)
        for (int row = 0; row < tile->n_rows; row++)
            query_quantize_row(tile, &reading->parts[p].keys, p, row);
}

static void query_frame(struct attention_tile *tile, const float *cosines, const float *sines,
                        const float *matrix, int n_columns)
{
    int n = tile->head_dim, half = n / 2;
    for (int row = 0; row < tile->n_rows; row++) {
        const float *q = tile->q + row * n;
        float *turned = tile->q_frame + row * n;
        for (int i = 0; i < half; i += LANES) {
            __m256 c = _mm256_loadu_ps(cosines + i), s = _mm256_loadu_ps(sines + i);
            __m256 a = _mm256_loadu_ps(q + i), b = _mm256_loadu_ps(q + half + i);
            _mm256_storeu_ps(turned + i, _mm256_add_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)));
            _mm256_storeu_ps(turned + half + i, _mm256_sub_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)));
        }
    }
    transform_rows(tile->q_frame, matrix, n, n_columns, tile->n_rows, tile->mixed);
}

/* ---- the mean ---- */

enum { MEAN_ROWS = 6 };

/* The slow pairs' factors become those of the terms, behind the fast ones. */
INLINE void mean_terms(float *factors, int stride, const float *terms, int n_slow, int n_rows)
{
    float sums[MEAN_ROWS * KV_MEAN_TERMS];
    struct row_product product = {.factors = factors,
                                  .factor_stride = stride,
                                  .matrix = terms,
                                  .matrix_stride = KV_MEAN_TERMS,
                                  .n = n_slow,
                                  .out = sums,
                                  .out_stride = KV_MEAN_TERMS,
                                  .width = KV_MEAN_TERMS,
                                  .is_fresh = 1};
    product_rows(&product, 0, n_rows);
    for (int r = 0; r < n_rows; r++)
        memcpy(factors + r * stride, sums + r * KV_MEAN_TERMS, KV_MEAN_TERMS * sizeof *sums);
}

/* E or O of a few rows. */
static void mean_sums(float *factors, int stride, const struct kv_mean_basis *basis, const float *functions,
                      const float *terms, int n_places, int n_rows, float *out)
{
    if (basis->n_terms)
        mean_terms(factors + basis->n_fast, stride, terms, stride / 2 - basis->n_fast, n_rows);
    struct row_product product = {.factors = factors,
                                  .factor_stride = stride,
                                  .matrix = functions,
                                  .matrix_stride = n_places,
                                  .n = basis->n_fast + basis->n_terms,
                                  .out = out,
                                  .out_stride = n_places,
                                  .width = n_places,
                                  .is_fresh = 1};
    product_rows(&product, 0, n_rows);
}

static void scores_mean(struct attention_tile *tile, const struct kv_mean_basis *basis, int frame_tokens)
{
    float even[MEAN_ROWS * KV_FRAME_TOKENS / 2], odd[MEAN_ROWS * KV_FRAME_TOKENS / 2];
    const __m256i reverse = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    int n = tile->head_dim, n_places = frame_tokens / 2;
    for (int first = 0, taken; first < tile->n_rows; first += taken) {
        taken = rows_at_once(tile->n_rows - first);
        float *factors = tile->mean_factors + first * n;
        mean_sums(factors, n, basis, basis->even, basis->even_terms, n_places, taken, even);
        mean_sums(factors + n / 2, n, basis, basis->odd, basis->odd_terms, n_places, taken, odd);
        for (int r = 0; r < taken; r++) {
            float *centre = tile->mean_scores + (first + r) * KV_FRAME_TOKENS + n_places;
            for (int s = 0; s < n_places; s += LANES) {
                __m256 e = _mm256_loadu_ps(even + r * n_places + s);
                __m256 o = _mm256_loadu_ps(odd + r * n_places + s);
                _mm256_storeu_ps(centre + s, _mm256_add_ps(e, o));
                _mm256_storeu_ps(centre - LANES - s, _mm256_permutevar8x32_ps(_mm256_sub_ps(e, o), reverse));
            }
        }
    }
}
