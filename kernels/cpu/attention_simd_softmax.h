/* Part of kernels/cpu/attention_simd.h: one step of the softmax, in three passes over the rows, so that what
   one row waits for (a maximum over lanes, a division) is hidden behind the others. */

enum { VECTORS = TOKENS / LANES };

/* Scores of dead tokens become -inf. */
INLINE __m256 mask_lanes(__m256 scores, uint64_t live)
{
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_and_si256(_mm256_set1_epi32((int)(live & 255)), bits);
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), scores,
                            _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bits)));
}

INLINE void scale_row(float *x, int n, __m256 factor)
{
    for (int i = 0; i < n; i += LANES) _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
}

INLINE float sum_tokens(const __m256 p[VECTORS])
{
    __m256 low = p[0], high = p[1];
    for (int v = 2; v < VECTORS; v += 2) {
        low = _mm256_add_ps(low, p[v]);
        high = _mm256_add_ps(high, p[v + 1]);
    }
    low = _mm256_add_ps(low, high);
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

/* The new maximum; sums and outputs move to it. */
INLINE void softmax_max(struct attention_tile *tile, int row, uint64_t live)
{
    int n = tile->head_dim;
    float *scores = tile->scores + row * TOKENS;
    __m256 maxes = _mm256_set1_ps(tile->max[row]);
    for (int v = 0; v < VECTORS; v++) {
        __m256 x = _mm256_loadu_ps(scores + v * LANES);
        if (~live) {
            x = mask_lanes(x, live >> (v * LANES));
            _mm256_storeu_ps(scores + v * LANES, x);
        }
        maxes = _mm256_max_ps(x, maxes);
    }
    float max = max_of_lanes(maxes);
    if (max > tile->max[row]) {
        float factor = attention_exp2(tile->max[row] - max);
        tile->sum[row] *= factor;
        tile->coded_sum[row] *= factor;
        scale_row(tile->out_half + row * n, n, _mm256_set1_ps(factor));
        scale_row(tile->out_coded + row * n, n, _mm256_set1_ps(factor));
        tile->max[row] = max;
    }
}

/* Scores become p, or with value_scales the weights p * scale, whose maximum is returned. */
INLINE float softmax_exp(struct attention_tile *tile, int row, const float *value_scales)
{
    float *scores = tile->scores + row * TOKENS;
    __m256 p[VECTORS], max = _mm256_set1_ps(tile->max[row]), maxes = _mm256_setzero_ps();
    for (int v = 0; v < VECTORS; v++) {
        p[v] = exp2_lanes(_mm256_sub_ps(_mm256_loadu_ps(scores + v * LANES), max));
        __m256 weight = p[v];
        if (value_scales) {
            weight = _mm256_mul_ps(p[v], _mm256_loadu_ps(value_scales + v * LANES));
            maxes = _mm256_max_ps(weight, maxes);
        }
        _mm256_storeu_ps(scores + v * LANES, weight);
    }
    float sum = sum_tokens(p);
    tile->sum[row] += sum;
    if (!value_scales) return 0;
    tile->coded_sum[row] += sum;
    return max_of_lanes(maxes);
}

INLINE void weights_quantize(struct attention_tile *tile, int row, float max)
{
    const float *weights = tile->scores + row * TOKENS;
    int is_zero = !(max >= ATTENTION_TINY);
    __m256 per_step = _mm256_set1_ps(is_zero ? 0 : 255.0f / max);
    __m256i sums = _mm256_setzero_si256();
    for (int t = 0; t < TOKENS; t += 4 * LANES) {
        __m256 x[4];
        for (int v = 0; v < 4; v++) x[v] = _mm256_mul_ps(_mm256_loadu_ps(weights + t + v * LANES), per_step);
        __m256i bytes = _mm256_packus_epi16(round_to_16(x[0], x[1]), round_to_16(x[2], x[3]));
        bytes = _mm256_permute4x64_epi64(bytes, 0xd8);
        bytes = _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(column_places()));
        _mm256_storeu_si256((__m256i *)(tile->w8 + row * TOKENS + t), bytes);
        sums = _mm256_add_epi32(sums, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    }
    tile->w8_scale[row] = is_zero ? 0 : max * (1.0f / 255.0f);
    tile->w8_sum[row] = sum_of_lanes(sums);
}

static void softmax(struct attention_tile *tile, int first_row, int n_rows, uint64_t live,
                    const uint16_t *value_scales)
{
    float floats[TOKENS], maxes[ATTENTION_TILE_ROWS];
    int end = first_row + n_rows;
    for (int row = first_row; row < end; row++) softmax_max(tile, row, live);
    if (!value_scales) {
        for (int row = first_row; row < end; row++) softmax_exp(tile, row, NULL);
        return;
    }
    for (int t = 0; t < TOKENS; t += LANES) _mm256_storeu_ps(floats + t, load_half(value_scales + t));
    for (int row = first_row; row < end; row++) maxes[row] = softmax_exp(tile, row, floats);
    for (int row = first_row; row < end; row++) weights_quantize(tile, row, maxes[row]);
}
