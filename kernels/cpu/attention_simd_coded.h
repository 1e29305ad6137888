/*
 * Part of kernels/cpu/attention_simd.h: coded blocks.
 *
 * A product takes the codes of 16 rows (two tiles of 8) and a few vectors of bytes. The codes of a group of
 * columns come out of their runs a quad at a time: one register for each tile, 4 columns of 8 rows. Their
 * value is u, or what makes fewer sums overflow and is made good in the integers: value_tiles tells.
 */
enum { TILES = 2, VECTORS_AT_ONCE = 4, RUN = 32 };

/* How many vectors to take at once when n are left: with two tiles of codes, what the registers hold. */
INLINE int vectors_at_once(int n)
{
    return n <= 4 ? n : n <= 6 ? 3 : 4;
}

struct code_sums {
    __m256i steps[VECTORS_AT_ONCE][TILES]; /* of dot_step */
    __m256i sums[VECTORS_AT_ONCE][TILES];  /* int32 */
};

INLINE void sums_clear(struct code_sums *sums, int n_vectors)
{
    for (int r = 0; r < n_vectors; r++)
        for (int t = 0; t < TILES; t++) sums->steps[r][t] = sums->sums[r][t] = _mm256_setzero_si256();
}

INLINE void sums_flush(struct code_sums *sums, int n_vectors)
{
    for (int r = 0; r < n_vectors; r++) {
        for (int t = 0; t < TILES; t++) {
            sums->sums[r][t] = _mm256_add_epi32(sums->sums[r][t], dot_sum(sums->steps[r][t]));
            sums->steps[r][t] = _mm256_setzero_si256();
        }
    }
}

/* To be called at least as often as the steps could overflow. */
INLINE void sums_guard(struct code_sums *sums, int n_vectors)
{
    if (DOT_OVERFLOWS) sums_flush(sums, n_vectors);
}

/* Bit `bit` of every byte, moved to bit `to`; 16-bit shifts, whose strays the mask removes. */
INLINE __m256i bit_move(__m256i x, int bit, int to)
{
    x = bit < to ? _mm256_slli_epi16(x, to - bit) : _mm256_srli_epi16(x, bit - to);
    return _mm256_and_si256(x, _mm256_set1_epi8((char)(1 << to)));
}

/* How codes become bytes. */
enum code_form {
    FOUR_BITS,
    TWO_BITS,        /* looked up in a table by the code and the one before it */
    ONE_BIT_FIRST,   /* in the lower half of a run; 8 or 0 */
    ONE_BIT_SECOND,  /* in the upper half */
    PLAIN_BIT_FIRST, /* the same, but 1 or 0 */
    PLAIN_BIT_SECOND,
};

/* Quad q of a group. */
INLINE __m256i code_quad(const __m256i runs[2], enum code_form form, __m256i table, int q)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    switch (form) {
    case FOUR_BITS:
        return _mm256_and_si256(_mm256_srli_epi16(runs[q / 2], q % 2 * 4), nibble);
    case TWO_BITS: {
        __m256i window = q == 0 ? rotate_left_2(runs[0]) : _mm256_srli_epi16(runs[0], 2 * q - 2);
        return _mm256_shuffle_epi8(table, _mm256_and_si256(window, nibble));
    }
    case ONE_BIT_FIRST:
        return bit_move(runs[0], q, 3);
    case ONE_BIT_SECOND:
        return bit_move(runs[0], 4 + q, 3);
    case PLAIN_BIT_FIRST:
        return bit_move(runs[0], q, 0);
    default:
        return bit_move(runs[0], 4 + q, 0);
    }
}

/* Codes and vectors as they lie in memory, at one group of columns. */
struct code_cursor {
    const uint8_t *codes; /* of the first tile */
    size_t tile_bytes;
    const uint8_t *vectors; /* 16 bytes of the first vector */
    size_t vector_stride;
};

/* Adds a group of columns. is_signed: the vectors are, and the codes not; or the other way round. */
INLINE void sums_add(struct code_sums *sums, const struct code_cursor *at, enum code_form form, __m256i table,
                     int is_signed, int n_vectors)
{
    __m256i runs[TILES][2];
    for (int t = 0; t < TILES; t++)
        for (int i = 0; i < (form == FOUR_BITS ? 2 : 1); i++)
            runs[t][i] =
                _mm256_loadu_si256((const __m256i *)(at->codes + (size_t)t * at->tile_bytes + i * RUN));
    for (int q = 0; q < 4; q++) {
        __m256i codes[TILES];
        for (int t = 0; t < TILES; t++) codes[t] = code_quad(runs[t], form, table, q);
        for (int r = 0; r < n_vectors; r++) {
            int32_t word;
            memcpy(&word, at->vectors + (size_t)r * at->vector_stride + 4 * q, sizeof word);
            __m256i vector = _mm256_set1_epi32(word);
            for (int t = 0; t < TILES; t++)
                sums->steps[r][t] = is_signed ? dot_step(sums->steps[r][t], codes[t], vector)
                                              : dot_step(sums->steps[r][t], vector, codes[t]);
        }
    }
}

/* u of a window: the code above the one before it (kernels/kv_codec.h), less `middle`. */
INLINE __m256i window_table(int middle)
{
    char u[16];
    for (int i = 0; i < 16; i++)
        u[i] = (char)(5 * (i >> 3) + 3 * (i >> 2 & 1) + 4 * (i & 1) + 3 * (1 - (i >> 1 & 1)) - middle);
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)u));
}

/* ---- keys: rows = tokens ---- */

struct key_product {
    const uint8_t *codes;
    const struct attention_groups *groups;
    size_t tile_bytes;
    const uint8_t *q8; /* from here on per vector: */
    const float *q8_scale;
    const int32_t *q8_offset;
    float *scores;
    int head_dim;
    int is_first, is_last;    /* part of those that are read */
    const float *scales;      /* [64] */
    const float *mean_scores; /* NULL: none */
};

/* The steps stand 8 quads of 15 * 127, which is two groups. Two groups of 1 bit, being 8 * 127, may even come
   on top of one of the others. */
INLINE void key_sums(const struct key_product *product, int row, struct code_sums *sums, int n_vectors)
{
    const struct attention_groups *groups = product->groups;
    const __m256i table = window_table(0);
    struct code_cursor at = {.codes = product->codes + (size_t)(row / 8) * product->tile_bytes,
                             .tile_bytes = product->tile_bytes,
                             .vectors = product->q8,
                             .vector_stride = (size_t)product->head_dim};
    int g = 0;
    for (; g < groups->n_fours; g++, at.codes += 2 * RUN, at.vectors += KV_CODE_GROUP) {
        sums_add(sums, &at, FOUR_BITS, table, 1, n_vectors);
        if (g & 1) sums_guard(sums, n_vectors);
    }
    for (; g < groups->n_fours + groups->n_twos; g++, at.codes += RUN, at.vectors += KV_CODE_GROUP) {
        sums_add(sums, &at, TWO_BITS, table, 1, n_vectors);
        if (g & 1) sums_guard(sums, n_vectors);
    }
    for (int left = groups->n_ones; left > 0; left -= 2, at.codes += RUN, at.vectors += KV_CODE_GROUP) {
        sums_add(sums, &at, ONE_BIT_FIRST, table, 1, n_vectors);
        if (left == 1) break;
        at.vectors += KV_CODE_GROUP;
        sums_add(sums, &at, ONE_BIT_SECOND, table, 1, n_vectors);
        sums_guard(sums, n_vectors);
    }
    sums_flush(sums, n_vectors);
}

INLINE void key_rows(const struct key_product *product, int n_vectors)
{
    for (int row = 0; row < TOKENS; row += TILES * LANES) {
        struct code_sums sums;
        sums_clear(&sums, n_vectors);
        key_sums(product, row, &sums, n_vectors);
        for (int r = 0; r < n_vectors; r++) {
            __m256i offset = _mm256_set1_epi32(product->q8_offset[r]);
            __m256 step = _mm256_set1_ps(product->q8_scale[r]);
            for (int t = 0; t < TILES; t++) {
                int token = row + t * LANES;
                float *out = product->scores + r * TOKENS + token;
                __m256i sum = sums.sums[r][t];
                __m256 level = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_add_epi32(sum, sum), offset));
                __m256 score = product->is_first ? _mm256_setzero_ps() : _mm256_loadu_ps(out);
                score = _mm256_fmadd_ps(level, step, score);
                if (product->is_last) {
                    __m256 scale = _mm256_loadu_ps(product->scales + token);
                    score = product->mean_scores
                                ? _mm256_fmadd_ps(
                                      score, scale,
                                      _mm256_loadu_ps(product->mean_scores + r * KV_FRAME_TOKENS + token))
                                : _mm256_mul_ps(score, scale);
                }
                _mm256_storeu_ps(out, score);
            }
        }
    }
}

INLINE void key_vectors(const struct key_product *product, int n_vectors)
{
    switch (n_vectors) {
    case 1:
        key_rows(product, 1);
        break;
    case 2:
        key_rows(product, 2);
        break;
    case 3:
        key_rows(product, 3);
        break;
    case 4:
        key_rows(product, 4);
        break;
    }
}

static void scores_coded(struct attention_tile *tile, const struct attention_reading *reading,
                         char *const *parts, const float *mean_scores)
{
    int n = tile->head_dim, last = reading->n_parts - 1;
    const uint16_t *scales = (const uint16_t *)(parts[last] + reading->parts[last].scales_at);
    float floats[TOKENS];
    for (int t = 0; t < TOKENS; t += LANES) _mm256_storeu_ps(floats + t, load_half(scales + t));
    for (int first = 0, taken; first < tile->n_rows; first += taken) {
        taken = vectors_at_once(tile->n_rows - first);
        for (int p = 0; p <= last; p++) {
            const struct attention_part *part = &reading->parts[p];
            struct key_product product = {.codes = (const uint8_t *)parts[p] + part->keys_at,
                                          .groups = &part->keys,
                                          .tile_bytes = (part->values_at - part->keys_at) / (TOKENS / 8),
                                          .q8 = (const uint8_t *)tile->q8[p] + first * n,
                                          .q8_scale = tile->q8_scale[p] + first,
                                          .q8_offset = tile->q8_offset[p] + first,
                                          .scores = tile->scores + first * TOKENS,
                                          .head_dim = n,
                                          .is_first = p == 0,
                                          .is_last = p == last,
                                          .scales = floats,
                                          .mean_scores =
                                              mean_scores ? mean_scores + first * KV_FRAME_TOKENS : NULL};
            key_vectors(&product, taken);
        }
    }
}

/* ---- values: rows = channels ---- */

struct value_product {
    const uint8_t *codes; /* of a group of channels: two tiles */
    const uint8_t *w8;    /* from here on per vector: */
    const float *w8_scale;
    const int32_t *w8_sum;
    float *out;
    int head_dim;
    float factor;
};

/* 16 channels of `bits`. The steps stand 4 quads of 255 * 15; with u - 8 for u 8 quads, and all 16 with a
   plain bit for u = 8. */
INLINE void value_tiles(const struct value_product *product, int bits, int n_vectors)
{
    const __m256i table = window_table(8);
    struct code_sums sums;
    sums_clear(&sums, n_vectors);
    struct code_cursor at = {.codes = product->codes,
                             .tile_bytes = (size_t)(bits * TOKENS),
                             .vectors = product->w8,
                             .vector_stride = TOKENS};
    for (int k = 0; k < TOKENS / KV_CODE_GROUP; k++, at.vectors += KV_CODE_GROUP) {
        at.codes = product->codes + k * bits / 2 * RUN;
        sums_add(&sums, &at,
                 bits == 4   ? FOUR_BITS
                 : bits == 2 ? TWO_BITS
                 : k % 2     ? PLAIN_BIT_SECOND
                             : PLAIN_BIT_FIRST,
                 table, 0, n_vectors);
        if (bits == 4 || (bits == 2 && k % 2)) sums_guard(&sums, n_vectors);
    }
    sums_flush(&sums, n_vectors);
    for (int r = 0; r < n_vectors; r++) {
        /* 2u - M from the sums over u, u - 8 or u / 8. */
        __m256i offset = _mm256_set1_epi32((bits == 4 ? 15 : bits == 2 ? -1 : 8) * product->w8_sum[r]);
        __m256 step = _mm256_set1_ps(product->w8_scale[r] * product->factor);
        for (int t = 0; t < TILES; t++) {
            float *out = product->out + r * product->head_dim + t * LANES;
            __m256i sum = _mm256_slli_epi32(sums.sums[r][t], bits == 1 ? 4 : 1);
            __m256 level = _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, offset));
            _mm256_storeu_ps(out, _mm256_fmadd_ps(level, step, _mm256_loadu_ps(out)));
        }
    }
}

/* All groups of channels of a part. */
INLINE void value_groups(struct value_product product, const struct attention_groups *groups, int n_vectors)
{
    const float *factor = groups->factor;
    for (int g = 0; g < groups->n_fours; g++, product.out += KV_CODE_GROUP, product.codes += 16 * RUN) {
        product.factor = *factor++;
        value_tiles(&product, 4, n_vectors);
    }
    for (int g = 0; g < groups->n_twos; g++, product.out += KV_CODE_GROUP, product.codes += 8 * RUN) {
        product.factor = *factor++;
        value_tiles(&product, 2, n_vectors);
    }
    for (int g = 0; g < groups->n_ones; g++, product.out += KV_CODE_GROUP, product.codes += 4 * RUN) {
        product.factor = *factor++;
        value_tiles(&product, 1, n_vectors);
    }
}

static void values_coded(struct attention_tile *tile, const struct attention_reading *reading,
                         char *const *parts)
{
    int n = tile->head_dim;
    for (int first = 0, taken; first < tile->n_rows; first += taken) {
        taken = vectors_at_once(tile->n_rows - first);
        for (int p = 0; p < reading->n_parts; p++) {
            const struct attention_part *part = &reading->parts[p];
            struct value_product product = {.codes = (const uint8_t *)parts[p] + part->values_at,
                                            .w8 = tile->w8 + first * TOKENS,
                                            .w8_scale = tile->w8_scale + first,
                                            .w8_sum = tile->w8_sum + first,
                                            .out = tile->out_coded + first * n,
                                            .head_dim = n};
            switch (taken) {
            case 1:
                value_groups(product, &part->values, 1);
                break;
            case 2:
                value_groups(product, &part->values, 2);
                break;
            case 3:
                value_groups(product, &part->values, 3);
                break;
            case 4:
                value_groups(product, &part->values, 4);
                break;
            }
        }
    }
}
