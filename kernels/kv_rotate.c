#include "kernels/kv_rotate.h"
#include "kernels/dtype.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = KV_BLOCK_TOKENS, MAX_GROUP = KV_MAX_HEAD_DIM };

#define CLIP .8f

/* --- The quantizer --- */

/* Codes of a group's n channels, whose rows of 64 tokens stand at rows[]. */
static void group_encode(const float *const *rows, int n, uint8_t *codes, uint16_t *scales, int16_t *zeros)
{
    float scale[TOKENS], zero[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        float low = rows[0][t], high = low;
        for (int i = 1; i < n; i++) {
            low = fminf(low, rows[i][t]);
            high = fmaxf(high, rows[i][t]);
        }
        low *= CLIP, high *= CLIP;
        scale[t] = fmaxf(high - low, 1e-8f) / 3;
        zero[t] = fmaxf(-32768, fminf(32767, rintf(-low / scale[t])));
        scales[t] = dtype_f32_to_f16(fminf(scale[t], 65504));
        zeros[t] = (int16_t)zero[t];
    }
    memset(codes, 0, (size_t)n / 4 * TOKENS);
    for (int i = 0; i < n; i++)
        for (int t = 0; t < TOKENS; t++) {
            float code = fmaxf(0, fminf(3, rintf(rows[i][t] / scale[t]) + zero[t]));
            codes[i / 4 * TOKENS + t] |= (uint8_t)((int)code << 2 * (i % 4));
        }
}

static void group_decode(const uint8_t *codes, const uint16_t *scales, const int16_t *zeros, int n,
                         float *const *rows)
{
    float scale[TOKENS];
    for (int t = 0; t < TOKENS; t++) scale[t] = dtype_f16_to_f32(scales[t]);
    for (int i = 0; i < n; i++)
        for (int t = 0; t < TOKENS; t++)
            rows[i][t] = scale[t] * (float)((codes[i / 4 * TOKENS + t] >> 2 * (i % 4) & 3) - zeros[t]);
}

/* Where things stand in a layer's bytes. */
struct layout {
    uint8_t *codes;
    uint16_t *scales; /* [groups][64] */
    int16_t *zeros;
};

static size_t side_bytes(int n_channels, int group)
{
    return (size_t)n_channels / 4 * TOKENS + (size_t)(n_channels / group) * TOKENS * 4;
}

static struct layout side_at(char *bytes, int n_channels, int group)
{
    struct layout layout = {.codes = (uint8_t *)bytes};
    layout.scales = (uint16_t *)(bytes + (size_t)n_channels / 4 * TOKENS);
    layout.zeros = (int16_t *)(layout.scales + n_channels / group * TOKENS);
    return layout;
}

/* order: the channel at each place; NULL: as they come. */
static void side_encode(float *x, const int32_t *order, int n_channels, int group, char *bytes)
{
    struct layout to = side_at(bytes, n_channels, group);
    const float *rows[MAX_GROUP];
    for (int first = 0; first < n_channels; first += group) {
        int g = first / group;
        for (int i = 0; i < group; i++) rows[i] = x + (order ? order[first + i] : first + i) * TOKENS;
        group_encode(rows, group, to.codes + first / 4 * TOKENS, to.scales + g * TOKENS,
                     to.zeros + g * TOKENS);
    }
}

static void side_decode(char *bytes, const int32_t *order, int n_channels, int group, float *x)
{
    struct layout from = side_at(bytes, n_channels, group);
    float *rows[MAX_GROUP];
    for (int first = 0; first < n_channels; first += group) {
        int g = first / group;
        for (int i = 0; i < group; i++) rows[i] = x + (order ? order[first + i] : first + i) * TOKENS;
        group_decode(from.codes + first / 4 * TOKENS, from.scales + g * TOKENS, from.zeros + g * TOKENS,
                     group, rows);
    }
}

/* --- Rotations --- */

/* Normalised Hadamard matrices (Sylvester's order, so symmetric and their own inverse) of `size` along n
   channels. stride: floats from channel to channel; the columns 0..stride-1 are all transformed. */
static void hadamard(float *x, int n, int size, int stride)
{
    for (int half = 1; half < size; half *= 2)
        for (int i = 0; i < n; i++) {
            if (i & half) continue;
            float *a = x + i * stride, *b = x + (i + half) * stride;
            for (int t = 0; t < stride; t++) {
                float sum = a[t] + b[t], difference = a[t] - b[t];
                a[t] = sum, b[t] = difference;
            }
        }
    float norm = 1 / sqrtf((float)size);
    for (int i = 0; i < n * stride; i++) x[i] *= norm;
}

/* RoPE of every token by its position (direction 1) or back (-1): pairs (i, i + head_dim / 2) of each head,
   the angle of the frame and the angle of the offset in it. */
static void rope(const struct kv_codec *codec, int block_index, float direction, float *x)
{
    const struct kv_tables *tables = codec->tables;
    int position = block_index * TOKENS, half = codec->shape.head_dim / 2;
    int frame = position / tables->frame_tokens, offset = position % tables->frame_tokens;
    assert(frame < tables->n_frames);
    for (int row = 0; row < codec->shape.n_kv_heads * half; row++) {
        int i = row % half;
        float *a = x + (row / half * 2 * half + i) * TOKENS, *b = a + half * TOKENS;
        float frame_cos = tables->frame_cos[frame * half + i];
        float frame_sin = tables->frame_sin[frame * half + i];
        const float *offset_cos = tables->rope_cos + i * tables->frame_tokens + offset;
        const float *offset_sin = tables->rope_sin + i * tables->frame_tokens + offset;
        for (int t = 0; t < TOKENS; t++) {
            float c = frame_cos * offset_cos[t] - frame_sin * offset_sin[t];
            float s = direction * (frame_sin * offset_cos[t] + frame_cos * offset_sin[t]);
            float low = a[t] * c - b[t] * s, high = b[t] * c + a[t] * s;
            a[t] = low, b[t] = high;
        }
    }
}

/* --- Blocks --- */

void kv_rotate_encode_keys(const struct kv_codec *codec, int layer, int block_index, float *x,
                           char *layer_codes)
{
    const struct kv_rotate *rotate = codec->rotate;
    const int32_t *order = rotate->key_order + (size_t)layer * (size_t)rotate->n_channels;
    rope(codec, block_index, -1, x);
    hadamard(x, rotate->n_channels, rotate->key_hadamard, TOKENS);
    side_encode(x, order, rotate->n_channels, rotate->key_group, layer_codes);
}

void kv_rotate_decode_keys(const struct kv_codec *codec, int layer, int block_index, const char *layer_codes,
                           float *x)
{
    const struct kv_rotate *rotate = codec->rotate;
    const int32_t *order = rotate->key_order + (size_t)layer * (size_t)rotate->n_channels;
    side_decode((char *)layer_codes, order, rotate->n_channels, rotate->key_group, x);
    hadamard(x, rotate->n_channels, rotate->key_hadamard, TOKENS);
    rope(codec, block_index, 1, x);
}

static char *values_at(const struct kv_rotate *rotate, const char *layer_codes)
{
    return (char *)layer_codes + side_bytes(rotate->n_channels, rotate->key_group);
}

void kv_rotate_encode_values(const struct kv_codec *codec, float *x, char *layer_codes)
{
    const struct kv_rotate *rotate = codec->rotate;
    hadamard(x, rotate->n_channels, rotate->value_hadamard, TOKENS);
    side_encode(x, NULL, rotate->n_channels, codec->shape.head_dim, values_at(rotate, layer_codes));
}

void kv_rotate_decode_values(const struct kv_codec *codec, const char *layer_codes, float *x)
{
    const struct kv_rotate *rotate = codec->rotate;
    side_decode(values_at(rotate, layer_codes), NULL, rotate->n_channels, codec->shape.head_dim, x);
    hadamard(x, rotate->n_channels, rotate->value_hadamard, TOKENS);
}

/* --- The codec --- */

struct place {
    float mean;
    int32_t channel;
};

/* By mean; of equals, the lower channel first, as a stable sort has it. */
static int place_compare(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->mean != y->mean) return x->mean < y->mean ? -1 : 1;
    return (x->channel > y->channel) - (x->channel < y->channel);
}

static void order_fill(const struct kv_rotate *rotate, const float *key_mean, int n_layers, float *rotated,
                       struct place *places, int32_t *order)
{
    int n = rotate->n_channels;
    for (int layer = 0; layer < n_layers; layer++, order += n) {
        memset(rotated, 0, (size_t)n * sizeof *rotated);
        if (key_mean) memcpy(rotated, key_mean + (size_t)layer * (size_t)n, (size_t)n * sizeof *rotated);
        hadamard(rotated, n, rotate->key_hadamard, 1);
        for (int i = 0; i < n; i++) places[i] = (struct place){rotated[i], i};
        qsort(places, (size_t)n, sizeof *places, place_compare);
        for (int i = 0; i < n; i++) order[i] = places[i].channel;
    }
}

static struct kv_rotate rotate_describe(const struct kv_shape *shape, const struct kv_tables *tables)
{
    int heads = shape->n_kv_heads, dim = shape->head_dim;
    struct kv_rotate rotate = {.n_channels = heads * dim,
                               .key_group = 128,
                               .value_hadamard = dim & -dim, /* the largest power of two that divides it */
                               .max_blocks = tables->n_frames * (tables->frame_tokens / TOKENS)};
    while (rotate.n_channels % rotate.key_group) rotate.key_group /= 2;
    rotate.key_hadamard = rotate.value_hadamard;
    if ((rotate.n_channels & (rotate.n_channels - 1)) == 0) rotate.key_hadamard = rotate.n_channels;
    rotate.layer_bytes = side_bytes(rotate.n_channels, rotate.key_group) + side_bytes(rotate.n_channels, dim);
    return rotate;
}

static size_t rounded(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

/* One allocation each: this one, and the codec. */
static struct kv_rotate *rotate_create(const struct kv_shape *shape, const struct kv_tables *tables,
                                       const float *key_mean)
{
    struct kv_rotate described = rotate_describe(shape, tables);
    size_t n = (size_t)described.n_channels, blocks = (size_t)described.max_blocks;
    size_t order_at = rounded(sizeof described);
    size_t lanes_at = order_at + rounded((size_t)shape->n_layers * n * sizeof(int32_t));
    size_t refs_at = lanes_at + rounded(KV_ROTATE_LANES * n * TOKENS * sizeof(float));
    size_t f16_at = refs_at + rounded(blocks * sizeof *described.refs);
    size_t bytes = f16_at + blocks * (size_t)shape->n_kv_heads * kv_page_bytes(KV_F16, shape->head_dim);
    char *memory = aligned_alloc(64, rounded(bytes));
    if (!memory) return NULL;
    int32_t *order = (int32_t *)(memory + order_at);
    described.key_order = order;
    described.lanes = (float *)(memory + lanes_at);
    described.refs = (struct kv_block_ref *)(memory + refs_at);
    described.f16 = memory + f16_at;
    /* The lanes are not in use yet. */
    float *rotated = described.lanes;
    order_fill(&described, key_mean, shape->n_layers, rotated, (struct place *)(rotated + n), order);
    memcpy(memory, &described, sizeof described);
    return (struct kv_rotate *)memory;
}

void kv_rotate_free(struct kv_rotate *rotate)
{
    free(rotate);
}

enum err kv_rotate_codec_create(const struct kv_shape *shape, const struct kv_tables *tables,
                                const float *key_mean, struct kv_codec **out, struct err_info *info)
{
    struct {
        struct kv_codec codec;
        size_t offset[];
    } * memory;
    size_t n_pages = (size_t)shape->n_layers * (size_t)shape->n_kv_heads;
    memory = malloc(sizeof *memory + (n_pages + 1) * sizeof(size_t));
    struct kv_rotate *rotate = rotate_create(shape, tables, key_mean);
    if (!memory || !rotate) {
        free(memory);
        kv_rotate_free(rotate);
        return err_set(info, ERR_MEMORY, "cache format rotatekv: out of memory");
    }
    memory->codec = (struct kv_codec){.serial = kv_codec_serial(),
                                      .shape = *shape,
                                      .n_groups = shape->head_dim / KV_CODE_GROUP,
                                      .n_pages = (int)n_pages,
                                      .n_parts = 1,
                                      .n_old_parts = 1,
                                      .parts[0] = {.offset = memory->offset},
                                      .tables = tables,
                                      .rotate = rotate};
    /* Heads share a layer's bytes, of which each has an equal share. */
    for (size_t page = 0; page <= n_pages; page++)
        memory->offset[page] = page * (rotate->layer_bytes / (size_t)shape->n_kv_heads);
    *out = &memory->codec;
    return ERR_OK;
}
