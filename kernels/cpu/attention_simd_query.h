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

static void transform(const float *x, const float *matrix, int n, int n_rows, float *out)
{
    if (matrix) {
        struct row_product product = {.factors = x,
                                      .factor_stride = n,
                                      .matrix = matrix,
                                      .matrix_stride = n,
                                      .n = n,
                                      .out = out,
                                      .out_stride = n,
                                      .width = n,
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

static void query_quantize(struct attention_tile *tile, int row, const float *x)
{
    int n = tile->head_dim;
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 amaxes = _mm256_setzero_ps();
    for (int i = 0; i < n; i += LANES)
        amaxes = _mm256_max_ps(amaxes, _mm256_and_ps(_mm256_loadu_ps(x + i), magnitude));
    float amax = max_of_lanes(amaxes);
    int is_zero = !(amax >= ATTENTION_TINY);
    __m256 per_step = _mm256_set1_ps(is_zero ? 0 : 127.0f / amax);
    __m256i sums = _mm256_setzero_si256();
    for (int i = 0; i < n; i += 2 * LANES) {
        __m256i q = round_to_16(_mm256_mul_ps(_mm256_loadu_ps(x + i), per_step),
                                _mm256_mul_ps(_mm256_loadu_ps(x + i + LANES), per_step));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(q, _mm256_set1_epi16(1)));
        __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        _mm_storeu_si128((__m128i *)(tile->q8 + row * n + i), bytes);
    }
    tile->q8_scale[row] = is_zero ? 0 : amax * (0.5f / 127.0f);
    tile->q8_sum[row] = sum_of_lanes(sums);
}

static void query_frame(struct attention_tile *tile, const float *cosines, const float *sines,
                        const float *matrix)
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
    transform(tile->q_frame, matrix, n, tile->n_rows, tile->mixed);
    for (int row = 0; row < tile->n_rows; row++) query_quantize(tile, row, tile->mixed + row * n);
}
