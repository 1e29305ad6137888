/* Part of kernels/cpu/attention_simd.h: coded blocks. */

/* Quad `part` (0 or 1 at 4 bits, 0..3 at 2 bits) of a packed group. */
INLINE __m256i code_expand(__m256i packed, enum code_reading reading, int part)
{
    if (reading == CODES_2) return _mm256_and_si256(_mm256_srli_epi16(packed, 2 * part), _mm256_set1_epi8(3));
    __m256i code = _mm256_and_si256(_mm256_srli_epi16(packed, 4 * part), _mm256_set1_epi8(15));
    if (reading == CODES_4) return code;
    const __m256i nested =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3));
    return _mm256_shuffle_epi8(nested, code);
}

/* The codes of a page times a few byte vectors, one byte per column: int8 queries (is_signed) or u8 weights.
   isums[vector][row]: exact. */
struct code_product {
    const uint8_t *codes;
    int n_rows, n_quads; /* of the codes: a multiple of 16; columns / 4, a multiple of 4 */
    const uint8_t *vectors;
    int vector_stride;
    int32_t *isums; /* [n_vectors][n_rows] */
};

/* How many vectors to take at once when n are left: with two tiles of codes, what the registers hold. */
INLINE int vectors_at_once(int n)
{
    return n <= 4 ? n : n <= 6 ? 3 : 4;
}

enum { TILES = 2, VECTORS_AT_ONCE = 4 };

INLINE void code_tiles(const struct code_product *product, enum code_reading reading, int is_signed,
                       int n_vectors, int row)
{
    int parts = reading == CODES_2 ? 4 : 2, largest = (reading == CODES_4 ? 15 : 3) * (is_signed ? 127 : 255);
    int most = dot_quads(largest) / 4 * 4, tile_bytes = product->n_quads / parts * 32;
    const uint8_t *codes = product->codes + row / 8 * tile_bytes;
    for (int first = 0; first < product->n_quads; first += most) {
        int end = first + most < product->n_quads ? first + most : product->n_quads;
        __m256i sums[VECTORS_AT_ONCE][TILES];
        for (int r = 0; r < n_vectors; r++)
            for (int t = 0; t < TILES; t++) sums[r][t] = _mm256_setzero_si256();
        for (int quad = first; quad < end; quad += parts) {
            __m256i packed[TILES];
            for (int t = 0; t < TILES; t++)
                packed[t] = _mm256_loadu_si256((const __m256i *)(codes + t * tile_bytes + quad / parts * 32));
            for (int part = 0; part < parts; part++) {
                __m256i code[TILES];
                for (int t = 0; t < TILES; t++) code[t] = code_expand(packed[t], reading, part);
                for (int r = 0; r < n_vectors; r++) {
                    int32_t word;
                    memcpy(&word, product->vectors + r * product->vector_stride + 4 * (quad + part),
                           sizeof word);
                    __m256i vector = _mm256_set1_epi32(word);
                    for (int t = 0; t < TILES; t++)
                        sums[r][t] = is_signed ? dot_step(sums[r][t], code[t], vector)
                                               : dot_step(sums[r][t], vector, code[t]);
                }
            }
        }
        for (int r = 0; r < n_vectors; r++) {
            for (int t = 0; t < TILES; t++) {
                __m256i *out = (__m256i *)(product->isums + r * product->n_rows + row + t * LANES);
                __m256i sum = dot_sum(sums[r][t]);
                _mm256_storeu_si256(out, first ? _mm256_add_epi32(_mm256_loadu_si256(out), sum) : sum);
            }
        }
    }
}

INLINE void code_rows(const struct code_product *product, enum code_reading reading, int is_signed,
                      int n_vectors)
{
    for (int row = 0; row < product->n_rows; row += TILES * LANES)
        code_tiles(product, reading, is_signed, n_vectors, row);
}

INLINE void code_vectors(const struct code_product *product, enum code_reading reading, int is_signed,
                         int n_vectors)
{
    switch (n_vectors) {
    case 1:
        code_rows(product, reading, is_signed, 1);
        break;
    case 2:
        code_rows(product, reading, is_signed, 2);
        break;
    case 3:
        code_rows(product, reading, is_signed, 3);
        break;
    case 4:
        code_rows(product, reading, is_signed, 4);
        break;
    }
}

INLINE void code_multiply(const struct code_product *product, enum code_reading reading, int is_signed,
                          int n_vectors)
{
    switch (reading) {
    case CODES_4:
        code_vectors(product, CODES_4, is_signed, n_vectors);
        break;
    case CODES_2:
        code_vectors(product, CODES_2, is_signed, n_vectors);
        break;
    case CODES_4_AS_2:
        code_vectors(product, CODES_4_AS_2, is_signed, n_vectors);
        break;
    }
}

/* What isums lack to be sums of levels: 2 isum - (2^b - 1) * sum of the vector, as float. */
INLINE __m256 level_sums(const int32_t *isums, __m256i offset)
{
    __m256i isum = _mm256_loadu_si256((const __m256i *)isums);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_add_epi32(isum, isum), offset));
}

INLINE __m256i level_offset(enum code_reading reading, int32_t vector_sum)
{
    return _mm256_set1_epi32((reading == CODES_4 ? 15 : 3) * vector_sum);
}

static void scores_coded(struct attention_tile *tile, const uint8_t *codes, enum code_reading reading,
                         const uint16_t *scales, const float *mean_scores)
{
    int n = tile->head_dim;
    int32_t isums[VECTORS_AT_ONCE * TOKENS];
    float floats[TOKENS];
    for (int t = 0; t < TOKENS; t += LANES) _mm256_storeu_ps(floats + t, load_half(scales + t));
    for (int first = 0, taken; first < tile->n_rows; first += taken) {
        taken = vectors_at_once(tile->n_rows - first);
        struct code_product product = {.codes = codes,
                                       .n_rows = TOKENS,
                                       .n_quads = n / 4,
                                       .vectors = (const uint8_t *)tile->q8 + first * n,
                                       .vector_stride = n,
                                       .isums = isums};
        code_multiply(&product, reading, 1, taken);
        for (int r = 0; r < taken; r++) {
            int row = first + r;
            __m256i offset = level_offset(reading, tile->q8_sum[row]);
            __m256 step = _mm256_set1_ps(tile->q8_scale[row]);
            for (int t = 0; t < TOKENS; t += LANES) {
                __m256 sum = level_sums(isums + r * TOKENS + t, offset);
                __m256 factor = _mm256_mul_ps(_mm256_loadu_ps(floats + t), step);
                __m256 score = mean_scores ? _mm256_fmadd_ps(sum, factor,
                                                             _mm256_loadu_ps(mean_scores + row * TOKENS + t))
                                           : _mm256_mul_ps(sum, factor);
                _mm256_storeu_ps(tile->scores + row * TOKENS + t, score);
            }
        }
    }
}

static void values_coded(struct attention_tile *tile, const uint8_t *codes, enum code_reading reading)
{
    int n = tile->head_dim;
    int32_t isums[VECTORS_AT_ONCE * KV_MAX_HEAD_DIM];
    for (int first = 0, taken; first < tile->n_rows; first += taken) {
        taken = vectors_at_once(tile->n_rows - first);
        struct code_product product = {.codes = codes,
                                       .n_rows = n,
                                       .n_quads = TOKENS / 4,
                                       .vectors = tile->w8 + first * TOKENS,
                                       .vector_stride = TOKENS,
                                       .isums = isums};
        code_multiply(&product, reading, 0, taken);
        for (int r = 0; r < taken; r++) {
            int row = first + r;
            __m256i offset = level_offset(reading, tile->w8_sum[row]);
            __m256 step = _mm256_set1_ps(tile->w8_scale[row]);
            float *out = tile->out_coded + row * n;
            for (int i = 0; i < n; i += LANES)
                _mm256_storeu_ps(out + i, _mm256_fmadd_ps(level_sums(isums + r * n + i, offset), step,
                                                          _mm256_loadu_ps(out + i)));
        }
    }
}
