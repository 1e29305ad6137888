#include "tests/unit/support/kv_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *memory_or_exit(size_t n, size_t size)
{
    void *memory = calloc(n ? n : 1, size);
    if (!memory) {
        fprintf(stderr, "kv_fixture: out of memory\n");
        exit(1);
    }
    return memory;
}

uint64_t kv_fixture_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u); /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

float kv_fixture_gauss(uint64_t *state)
{
    double u = (double)((kv_fixture_random(state) >> 11) + 1) * 0x1p-53;
    double angle = 2 * M_PI * (double)(kv_fixture_random(state) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(angle));
}

/* ---- tables ---- */

struct random_tables {
    struct kv_tables tables;
    struct kv_tables *identity;
    float values[];
};

/* A and its inverse: two random reflections around a random diagonal. */
static void matrices_fill(float *a, float *inverse, int n, int is_orthogonal, uint64_t *seed)
{
    double u[KV_MAX_HEAD_DIM], w[KV_MAX_HEAD_DIM], diagonal[KV_MAX_HEAD_DIM], uu = 0, ww = 0;
    for (int i = 0; i < n; i++) {
        u[i] = kv_fixture_gauss(seed), w[i] = kv_fixture_gauss(seed);
        uu += u[i] * u[i], ww += w[i] * w[i];
        diagonal[i] = is_orthogonal ? 1 : exp2(kv_fixture_gauss(seed) / 2);
    }
    /* A = (1 - 2 u u') diag (1 - 2 w w'), A^-1 = (1 - 2 w w') diag^-1 (1 - 2 u u') */
    double cross = 0, cross_inverse = 0;
    for (int i = 0; i < n; i++)
        cross += u[i] * diagonal[i] * w[i], cross_inverse += u[i] * w[i] / diagonal[i];
    double ku = 2 / uu, kw = 2 / ww;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            double one = i == j;
            a[i * n + j] = (float)(one * diagonal[i] - ku * u[i] * u[j] * diagonal[j] -
                                   kw * diagonal[i] * w[i] * w[j] + ku * kw * cross * u[i] * w[j]);
            if (inverse)
                inverse[i * n + j] =
                    (float)(one / diagonal[i] - kw * w[i] * w[j] / diagonal[j] -
                            ku * u[i] * u[j] / diagonal[i] + ku * kw * cross_inverse * w[i] * u[j]);
        }
    }
}

struct kv_tables *kv_fixture_identity(const struct kv_shape *shape, int n_frames)
{
    double inv_freq[KV_MAX_HEAD_DIM / 2];
    for (int i = 0; i < shape->head_dim / 2; i++) inv_freq[i] = pow(10000.0, -2.0 * i / shape->head_dim);
    struct kv_tables *tables = kv_tables_identity(shape, 256, n_frames, inv_freq);
    if (!tables) exit(1);
    return tables;
}

struct kv_tables *kv_fixture_tables(const struct kv_shape *shape, int n_frames, int has_means, uint64_t seed)
{
    int n = shape->head_dim, n_pages = shape->n_layers * shape->n_kv_heads;
    size_t matrix = (size_t)n * n;
    size_t n_values = 2 * matrix * n_pages + matrix + 2 * (size_t)n * n_pages;
    struct random_tables *random = memory_or_exit(1, sizeof *random + n_values * sizeof(float));
    random->identity = kv_fixture_identity(shape, n_frames);
    random->tables = *random->identity;
    float *keys = random->values, *queries = keys + matrix * n_pages, *values = queries + matrix * n_pages;
    float *key_mean = values + matrix, *value_mean = key_mean + (size_t)n * n_pages;
    for (int page = 0; page < n_pages; page++)
        matrices_fill(keys + page * matrix, queries + page * matrix, n, 0, &seed);
    matrices_fill(values, NULL, n, 1, &seed);
    for (int i = 0; i < n * n_pages; i++) {
        key_mean[i] = 3 * kv_fixture_gauss(&seed);
        value_mean[i] = kv_fixture_gauss(&seed);
    }
    random->tables.key_transform = keys;
    random->tables.query_transform = queries;
    random->tables.value_transform = values;
    random->tables.key_mean = has_means ? key_mean : NULL;
    random->tables.value_mean = has_means ? value_mean : NULL;
    random->tables.is_hadamard = 0;
    return &random->tables;
}

void kv_fixture_tables_free(struct kv_tables *tables)
{
    struct random_tables *random = (struct random_tables *)tables;
    kv_tables_free(random->identity);
    free(random);
}

/* ---- the codec ---- */

const struct kv_fixture_bits kv_fixture_o2 = {2, 1, {"4211", "2222"}, {"2", "2"}};
const struct kv_fixture_bits kv_fixture_o4 = {2, 2, {"4444", "4220"}, {"4", "0"}};
const struct kv_fixture_bits kv_fixture_mixed = {
    3,
    1,
    {"44222110|4211|2222|4441", "2222|1111|22110000|2210", "1111|11110000"},
    {"2|4422|2111|1", "2|1100|2222", "1110|1"}};

static void pattern_read(const char *patterns, int page, int n_groups, uint8_t *bits)
{
    int n_patterns = 1;
    for (const char *c = patterns; *c; c++) n_patterns += *c == '|';
    for (int skip = page % n_patterns; skip > 0; skip--) patterns = strchr(patterns, '|') + 1;
    int length = (int)strcspn(patterns, "|");
    for (int g = 0; g < n_groups; g++) bits[g] = (uint8_t)(patterns[g * length / n_groups] - '0');
}

struct kv_codec *kv_fixture_codec(const struct kv_shape *shape, const struct kv_tables *tables,
                                  const struct kv_fixture_bits *bits)
{
    int n_pages = shape->n_layers * shape->n_kv_heads, n_groups = shape->head_dim / KV_CODE_GROUP;
    struct kv_code *codes = memory_or_exit((size_t)(bits->n_parts * n_pages), sizeof *codes);
    float *sigma = memory_or_exit((size_t)(n_pages * n_groups), sizeof *sigma);
    struct kv_codec_spec spec = {.shape = *shape,
                                 .tables = tables,
                                 .n_parts = bits->n_parts,
                                 .n_old_parts = bits->n_old_parts,
                                 .key_sigma = sigma};
    for (int page = 0; page < n_pages; page++) {
        for (int g = 0; g < n_groups; g++)
            sigma[page * n_groups + g] = exp2f(-(float)g * 3 / (float)n_groups);
        for (int p = 0; p < bits->n_parts; p++) {
            pattern_read(bits->keys[p], page, n_groups, codes[p * n_pages + page].key_bits);
            pattern_read(bits->values[p], page, n_groups, codes[p * n_pages + page].value_bits);
        }
    }
    for (int p = 0; p < bits->n_parts; p++) spec.codes[p] = codes + p * n_pages;
    struct kv_codec *codec;
    struct err_info info;
    if (kv_codec_create(&spec, &codec, &info)) {
        fprintf(stderr, "kv_fixture: %s\n", info.message);
        exit(1);
    }
    free(codes);
    free(sigma);
    return codec;
}

/* ---- the sequence ---- */

static float *gauss_array(size_t n, uint64_t *seed)
{
    float *x = memory_or_exit(n, sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = kv_fixture_gauss(seed);
    return x;
}

void kv_fixture_init(struct kv_fixture *fixture, const struct kv_shape *shape, const struct kv_codec *codec,
                     int recent_blocks, int n_tokens, int n_sinks, int scattered_sinks, uint64_t seed)
{
    int n_blocks = (n_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    *fixture = (struct kv_fixture){.shape = *shape,
                                   .codec = codec,
                                   .recent_blocks = recent_blocks,
                                   .n_tokens = n_tokens,
                                   .n_blocks = n_blocks};
    size_t n = (size_t)shape->n_layers * n_tokens * shape->head_dim;
    fixture->q = gauss_array(n * shape->n_heads, &seed);
    fixture->k = gauss_array(n * shape->n_kv_heads, &seed);
    fixture->v = gauss_array(n * shape->n_kv_heads, &seed);

    size_t f16_bytes = kv_block_bytes(KV_F16, shape), sink_bytes = kv_block_bytes(KV_SINK, shape);
    int n_sealed = codec ? n_tokens / KV_BLOCK_TOKENS : 0, n_slots = 0;
    fixture->blocks = memory_or_exit((size_t)n_blocks, sizeof *fixture->blocks);
    for (int b = 0; b < n_sealed; b++) {
        uint64_t mask = b == 0 && n_sinks ? ~(uint64_t)0 >> (64 - n_sinks) : 0;
        if (scattered_sinks && b % 3 == 1) mask |= (uint64_t)1 << 5 | (uint64_t)1 << 17 | (uint64_t)1 << 63;
        fixture->blocks[b].sink_mask = mask;
        n_slots += __builtin_popcountll(mask);
    }
    size_t sealed_bytes = 0;
    for (int p = 0; codec && p < codec->n_parts; p++) sealed_bytes += kv_codec_part_bytes(codec, p);
    fixture->memory_bytes =
        (size_t)n_blocks * f16_bytes + (size_t)n_sealed * sealed_bytes + (size_t)n_slots * sink_bytes + 64;
    fixture->memory = aligned_alloc(64, (fixture->memory_bytes + 63) / 64 * 64);
    fixture->sinks = memory_or_exit((size_t)n_slots, sizeof *fixture->sinks);
    if (!fixture->memory) exit(1);
    /* NaN everywhere: what nobody wrote, nobody may use. */
    memset(fixture->memory, 0xff, fixture->memory_bytes);
    char *at = fixture->memory, **slot = fixture->sinks;
    for (int b = 0; b < n_blocks; b++) {
        struct kv_block_ref *block = &fixture->blocks[b];
        block->f16 = at, at += f16_bytes;
        block->f16_layer_stride = shape->n_kv_heads * kv_page_bytes(KV_F16, shape->head_dim);
        for (int p = 0; b < n_sealed && p < codec->n_parts; p++)
            block->parts[p] = at, at += kv_codec_part_bytes(codec, p);
        block->sinks = slot;
        for (int i = 0; i < __builtin_popcountll(block->sink_mask); i++) *slot++ = at, at += sink_bytes;
    }
}

void kv_fixture_free(struct kv_fixture *fixture)
{
    free(fixture->q);
    free(fixture->k);
    free(fixture->v);
    free(fixture->blocks);
    free(fixture->sinks);
    free(fixture->memory);
}

struct attention_span kv_fixture_span(const struct kv_fixture *fixture, int first, int n, int first_row)
{
    return (struct attention_span){.first_row = first_row,
                                   .n_rows = n,
                                   .first_pos = first,
                                   .n_blocks = (first + n - 1) / KV_BLOCK_TOKENS + 1,
                                   .blocks = fixture->blocks,
                                   .codec = fixture->codec,
                                   .recent_blocks = fixture->recent_blocks};
}

static void fixture_store(struct kv_fixture *fixture, struct backend *backend, int layer, int chunk)
{
    const struct kv_shape *shape = &fixture->shape;
    size_t at = (size_t)layer * fixture->n_tokens * shape->n_kv_heads * shape->head_dim;
    for (int first = 0; first < fixture->n_tokens; first += chunk) {
        int n = first + chunk < fixture->n_tokens ? chunk : fixture->n_tokens - first;
        struct attention_span span = kv_fixture_span(fixture, first, n, first);
        struct kv_store_args store = {.shape = shape,
                                      .layer = layer,
                                      .n_spans = 1,
                                      .spans = &span,
                                      .k = fixture->k + at,
                                      .v = fixture->v + at};
        backend->kv_store(backend, &store);
    }
}

/* n_parts 0: seal; else unseal. */
static void complete_blocks_convert(struct kv_fixture *fixture, struct backend *backend, int n_parts)
{
    int n_sealed = fixture->codec ? fixture->n_tokens / KV_BLOCK_TOKENS : 0;
    const struct kv_block_ref **blocks = memory_or_exit((size_t)fixture->n_blocks, sizeof *blocks);
    int32_t *index = memory_or_exit((size_t)fixture->n_blocks, sizeof *index);
    for (int b = 0; b < n_sealed; b++) blocks[b] = &fixture->blocks[b], index[b] = b;
    for (int layer = 0; n_sealed && layer < fixture->shape.n_layers; layer++) {
        struct kv_seal_args seal = {.codec = fixture->codec,
                                    .layer = layer,
                                    .n_blocks = n_sealed,
                                    .blocks = blocks,
                                    .block_index = index};
        n_parts ? backend->kv_unseal(backend, &seal, n_parts) : backend->kv_seal(backend, &seal);
    }
    free(blocks);
    free(index);
}

void kv_fixture_seal(struct kv_fixture *fixture, struct backend *backend)
{
    complete_blocks_convert(fixture, backend, 0);
}

void kv_fixture_unseal(struct kv_fixture *fixture, struct backend *backend, int n_parts)
{
    complete_blocks_convert(fixture, backend, n_parts);
}

void kv_fixture_fill(struct kv_fixture *fixture, struct backend *backend, int chunk)
{
    for (int layer = 0; layer < fixture->shape.n_layers; layer++)
        fixture_store(fixture, backend, layer, chunk);
    kv_fixture_seal(fixture, backend);
}

void kv_fixture_attend(const struct kv_fixture *fixture, struct backend *backend, int layer, int first, int n,
                       float *out)
{
    struct attention_span span = kv_fixture_span(fixture, first, n, 0);
    struct attention_args args = {.shape = &fixture->shape,
                                  .layer = layer,
                                  .scale = 1 / sqrtf((float)fixture->shape.head_dim),
                                  .n_spans = 1,
                                  .spans = &span,
                                  .q = kv_fixture_q(fixture, layer, first),
                                  .out = out};
    backend->attention(backend, &args);
}
