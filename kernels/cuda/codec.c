#include "kernels/cuda/cuda.h"
#include "kernels/cuda/rotated.h"
#include "kernels/kv_rotate.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * A codec's arrays on the card, and what the kernels want to have made of them.
 */

static size_t rounded(size_t bytes)
{
    return (bytes + 15) / 16 * 16;
}

/* Arrays packed one after the other: the first pass counts, the second copies and tells where they will be.
 */
struct packer {
    char *host; /* NULL in the first pass */
    char *device;
    size_t at;
};

static const void *pack(struct packer *packer, const void *from, size_t bytes)
{
    if (!from) return NULL;
    size_t at = packer->at;
    packer->at += rounded(bytes);
    if (!packer->host) return NULL;
    memcpy(packer->host + at, from, bytes);
    return packer->device + at;
}

static void pack_parts(struct packer *packer, const struct kv_codec *codec, struct cuda_codec *out)
{
    size_t n_pages = (size_t)codec->n_pages, cells = n_pages * (size_t)codec->n_groups * sizeof(float);
    _Static_assert(sizeof(struct kv_code) == CUDA_CODE_BYTES, "codes as the kernels read them");
    _Static_assert(sizeof(size_t) == sizeof(uint64_t), "offsets as the kernels read them");
    for (int p = 0; p < codec->n_parts; p++) {
        const struct kv_part *part = &codec->parts[p];
        out->parts[p] =
            (struct cuda_part){.codes = pack(packer, part->codes, n_pages * sizeof *part->codes),
                               .offset = pack(packer, part->offset, (n_pages + 1) * sizeof(size_t)),
                               .key_unit = pack(packer, part->key_unit, cells),
                               .value_unit = pack(packer, part->value_unit, cells),
                               .key_gain = pack(packer, part->key_gain, cells),
                               .value_gain = pack(packer, part->value_gain, cells)};
    }
    out->key_weight = pack(packer, codec->key_weight, cells);
}

/* Room for an array that is computed where it will stand, zeros at first: on the host, NULL in the first
   pass. device: where that is on the card. */
static void *pack_room(struct packer *packer, size_t bytes, const void **device)
{
    size_t at = packer->at;
    packer->at += rounded(bytes);
    if (!packer->host) return NULL;
    *device = packer->device + at;
    return memset(packer->host + at, 0, bytes);
}

/* Row and column of value e of a lane in a tile of 16 x 16 as mma.m16n8k16 takes it. */
static int tile_row(int lane, int e)
{
    return lane / 4 + e / 2 % 2 * 8;
}

static int tile_column(int lane, int e)
{
    return lane % 4 * 2 + e % 2 + e / 4 * 8;
}

/* Each page's query transform transposed, in fp16, in the order in which a warp's lanes take it
   (kernels/cuda/launch.h). n_matrices: of the pages, or one for all. */
static void query_tiles_fill(const float *matrices, size_t n_matrices, int n, uint16_t *out, float *scale)
{
    for (size_t m = 0; m < n_matrices; m++, matrices += n * n) {
        float most = 1e-20f;
        for (int i = 0; i < n * n; i++) most = fmaxf(most, fabsf(matrices[i]));
        scale[m] = most;
        for (int tile = 0; tile < n * n / 256; tile++)
            for (int lane = 0; lane < 32; lane++)
                for (int e = 0; e < 8; e++) {
                    int row = tile / (n / 16) * 16 + tile_row(lane, e);
                    int column = tile % (n / 16) * 16 + tile_column(lane, e);
                    *out++ = dtype_f32_to_f16(matrices[column * n + row] / most);
                }
    }
}

static void mean_turned_fill(const struct kv_codec *codec, float *out)
{
    const struct kv_tables *tables = codec->tables;
    const float *mean = tables->key_mean, *c = tables->mean_basis.centre_cos,
                *s = tables->mean_basis.centre_sin;
    int n = codec->shape.head_dim, half = n / 2;
    for (int page = 0; page < codec->n_pages; page++, mean += n, out += n)
        for (int i = 0; i < half; i++) {
            out[i] = mean[i] * c[i] - mean[i + half] * s[i];
            out[i + half] = mean[i + half] * c[i] + mean[i] * s[i];
        }
}

/* x as fp16, and what that leaves, stride after it. */
static void halves_write(float x, uint16_t *out, size_t stride)
{
    out[0] = dtype_f32_to_f16(x);
    out[stride] = dtype_f32_to_f16(x - dtype_f16_to_f32(out[0]));
}

enum {
    MEAN_SCALE = 64
}; /* keeps coefficients within fp16, and functions' remainders clear of subnormal ones */

/* From a query turned to the frame to the coefficients of the slow pairs' terms, 8 even ones and 8 odd ones:
   of pair i, with queries a and b and the mean (m, k) at the centre, (a m + b k) even_terms + (b m - a k)
   odd_terms. */
static void mean_tiles_fill(const struct kv_mean_basis *basis, const float *mean, int n, int n_pages,
                            uint16_t *out)
{
    int half = n / 2, tiles = n / 16;
    for (int page = 0; page < n_pages; page++, mean += n, out += tiles * 512)
        for (int at = 0; basis->n_terms && at < tiles * 256; at++) {
            int tile = at / 256, lane = at / 8 % 32, e = at % 8, row = tile_row(lane, e);
            int channel = tile * 16 + tile_column(lane, e), i = channel % half, is_odd = row / KV_MEAN_TERMS;
            if (i < basis->n_fast) continue;
            const float *terms = is_odd ? basis->odd_terms : basis->even_terms;
            float m = mean[i], k = mean[i + half],
                  factor = channel < half ? (is_odd ? -k : m) : (is_odd ? m : k);
            halves_write(factor * terms[(i - basis->n_fast) * KV_MEAN_TERMS + row % KV_MEAN_TERMS] /
                             MEAN_SCALE,
                         out + at, (size_t)tiles * 256);
        }
}

/* Functions by place; rows in the order of kernels/cuda/walk_block.cuh. */
static void basis_tiles_fill(const struct kv_mean_basis *basis, int n_halves, int n_steps, int place_blocks,
                             uint16_t *out)
{
    int n_places = place_blocks * KV_BLOCK_TOKENS;
    size_t half = (size_t)(n_steps * place_blocks) * 1024;
    for (int step = 0; step < n_steps; step++)
        for (int tile = 0; tile < 4 * place_blocks; tile++, out += 256)
            for (int at = 0; at < 256; at++) {
                int lane = at / 8, e = at % 8, gid = lane / 4, h = e / 2 % 2, k = tile_column(lane, e);
                int place = tile / 4 * KV_BLOCK_TOKENS + 8 * gid + 4 * (h ^ gid % 2) + tile % 4;
                int index = k % 8, f = step ? 8 * (step - 1) + index : basis->n_fast + index;
                if (step ? f >= basis->n_fast : index >= basis->n_terms) continue;
                float x = (k < 8 ? basis->even : basis->odd)[f * n_places + place] * MEAN_SCALE;
                out[at] = dtype_f32_to_f16(x);
                if (n_halves == 2) out[half + (size_t)at] = dtype_f32_to_f16(x - dtype_f16_to_f32(out[at]));
            }
}

/* One fp16 value errs by 2^-12 of a mean's score, as a cache in fp16 does. Where biases make means that are
   much larger than what they are added to, as in Qwen2, that is not enough. */
#define LARGE_MEAN 16.0f
static int basis_halves_of(const struct kv_codec *codec)
{
    const float *mean = codec->tables->key_mean;
    size_t n = (size_t)codec->n_pages * (size_t)codec->shape.head_dim;
    for (size_t i = 0; mean && i < n; i++)
        if (fabsf(mean[i]) > LARGE_MEAN) return 2;
    return 1;
}

static int place_blocks_of(const struct kv_tables *tables)
{
    return tables->frame_tokens / (2 * KV_BLOCK_TOKENS);
}

static int basis_steps_of(const struct kv_tables *tables)
{
    return tables->key_mean ? 1 + (tables->mean_basis.n_fast + 7) / 8 : 0;
}

/* What is derived from the tables: computed once, in the second pass, where it will stand. */
static void pack_derived(struct packer *packer, const struct kv_codec *codec, const float *hadamard,
                         struct cuda_codec *out)
{
    const struct kv_tables *tables = codec->tables;
    const struct kv_mean_basis *basis = &tables->mean_basis;
    int D = codec->shape.head_dim, place_blocks = place_blocks_of(tables), n_steps = basis_steps_of(tables);
    size_t n = (size_t)D, n_pages = (size_t)codec->n_pages, n_matrices = tables->is_hadamard ? 1 : n_pages;
    const float *matrices = tables->is_hadamard ? hadamard : tables->query_transform;
    out->query_tiles_stride = tables->is_hadamard ? 0 : n * n / 8;
    int n_halves = basis_halves_of(codec);
    out->n_basis_steps = n_steps;
    out->values_hadamard =
        tables->is_hadamard || memcmp(tables->value_transform, hadamard, n * n * sizeof(float)) == 0;
    uint16_t *tiles = pack_room(packer, n_matrices * n * n * sizeof *tiles, (const void **)&out->query_tiles);
    float *scale = pack_room(packer, n_matrices * sizeof *scale, (const void **)&out->query_tiles_scale);
    if (packer->host) query_tiles_fill(matrices, n_matrices, D, tiles, scale);
    struct cuda_walk_page *pages =
        pack_room(packer, n_pages * sizeof *pages, (const void **)&out->walk_pages);
    for (int i = 0; pages && i < codec->n_pages; i++) cuda_walk_page_fill(codec, i, &pages[i]);
    if (!tables->key_mean) return;
    float *mean = pack_room(packer, n_pages * n * sizeof *mean, (const void **)&out->mean_turned);
    uint16_t *terms = pack_room(packer, n_pages * n * 32 * sizeof *terms, (const void **)&out->mean_tiles);
    uint16_t *functions =
        pack_room(packer, (size_t)(n_halves * n_steps * place_blocks) * 1024 * sizeof *functions,
                  (const void **)&out->basis_tiles);
    if (!packer->host) return;
    mean_turned_fill(codec, mean);
    mean_tiles_fill(basis, mean, D, codec->n_pages, terms);
    basis_tiles_fill(basis, n_halves, n_steps, place_blocks, functions);
}

static void pack_matrices(struct packer *packer, const struct kv_codec *codec, const float *hadamard,
                          struct cuda_codec *out)
{
    const struct kv_tables *tables = codec->tables;
    size_t n = (size_t)codec->shape.head_dim, n_pages = (size_t)codec->n_pages,
           matrix = n * n * sizeof(float);
    out->is_hadamard = tables->is_hadamard;
    out->key_mean = pack(packer, tables->key_mean, n_pages * n * sizeof(float));
    out->value_mean = pack(packer, tables->value_mean, n_pages * n * sizeof(float));
    if (tables->is_hadamard) {
        out->query_transform = out->value_transform = pack(packer, hadamard, matrix);
        return;
    }
    out->key_transform = pack(packer, tables->key_transform, n_pages * matrix);
    out->query_transform = pack(packer, tables->query_transform, n_pages * matrix);
    out->query_transform_stride = n * n;
    out->value_transform = pack(packer, tables->value_transform, matrix);
}

static void pack_angles(struct packer *packer, const struct kv_codec *codec, struct cuda_codec *out)
{
    const struct kv_tables *tables = codec->tables;
    const struct kv_mean_basis *basis = &tables->mean_basis;
    size_t pairs = (size_t)codec->shape.head_dim / 2, frame = (size_t)tables->frame_tokens;
    size_t offsets = pairs * frame * sizeof(float), frames = (size_t)tables->n_frames * pairs * sizeof(float);
    size_t functions = (size_t)(basis->n_fast + basis->n_terms) * (frame / 2) * sizeof(float);
    size_t terms = (pairs - (size_t)basis->n_fast) * KV_MEAN_TERMS * sizeof(float);
    out->frame_tokens = tables->frame_tokens;
    out->rope_cos = pack(packer, tables->rope_cos, offsets);
    out->rope_sin = pack(packer, tables->rope_sin, offsets);
    out->frame_cos = pack(packer, tables->frame_cos, frames);
    out->frame_sin = pack(packer, tables->frame_sin, frames);
    out->n_fast = basis->n_fast;
    out->n_terms = basis->n_terms;
    out->centre_cos = pack(packer, basis->centre_cos, pairs * sizeof(float));
    out->centre_sin = pack(packer, basis->centre_sin, pairs * sizeof(float));
    out->even = pack(packer, basis->even, functions);
    out->odd = pack(packer, basis->odd, functions);
    out->even_terms = pack(packer, basis->even_terms, terms);
    out->odd_terms = pack(packer, basis->odd_terms, terms);
}

/* The struct itself comes last. */
static size_t pack_codec(struct packer *packer, const struct kv_codec *codec, const float *hadamard)
{
    struct cuda_codec out = {.n_groups = codec->n_groups,
                             .n_parts = codec->n_parts,
                             .n_old_parts = codec->n_old_parts,
                             .head_dim = codec->shape.head_dim,
                             .n_kv_heads = codec->shape.n_kv_heads};
    pack_parts(packer, codec, &out);
    pack_matrices(packer, codec, hadamard, &out);
    pack_angles(packer, codec, &out);
    pack_derived(packer, codec, hadamard, &out);
    size_t at = packer->at;
    pack(packer, &out, sizeof out);
    return at;
}

/* Of format rotatekv; the struct itself comes last too. */
static size_t pack_rotate(struct packer *packer, const struct kv_codec *codec)
{
    const struct kv_rotate *rotate = codec->rotate;
    const struct kv_tables *tables = codec->tables;
    size_t pairs = (size_t)codec->shape.head_dim / 2,
           offsets = pairs * (size_t)tables->frame_tokens * sizeof(float),
           frames = pairs * (size_t)tables->n_frames * sizeof(float),
           places = (size_t)codec->shape.n_layers * (size_t)rotate->n_channels;
    struct cuda_rotate out = {.key_group = rotate->key_group,
                              .key_hadamard = rotate->key_hadamard,
                              .value_hadamard = rotate->value_hadamard,
                              .frame_tokens = tables->frame_tokens,
                              .layer_bytes = rotate->layer_bytes};
    out.key_order = pack(packer, rotate->key_order, places * sizeof(int32_t));
    out.rope_cos = pack(packer, tables->rope_cos, offsets);
    out.rope_sin = pack(packer, tables->rope_sin, offsets);
    out.frame_cos = pack(packer, tables->frame_cos, frames);
    out.frame_sin = pack(packer, tables->frame_sin, frames);
    size_t at = packer->at;
    pack(packer, &out, sizeof out);
    return at;
}

/* The most that any page takes of each. */
static struct cuda_walk_room walk_room(const struct kv_codec *codec)
{
    struct cuda_walk_room most = {0};
    struct cuda_walk_page page;
    assert(CUDA_WALK_SEGMENT % (2 * place_blocks_of(codec->tables)) == 0); /* no frame is in two segments */
    for (int i = 0; i < codec->n_pages; i++) {
        cuda_walk_page_fill(codec, i, &page);
        cuda_walk_room_fit(&most, &page.room);
    }
    return most;
}

static size_t pack_all(struct packer *packer, const struct kv_codec *codec, const float *hadamard)
{
    return codec->rotate ? pack_rotate(packer, codec) : pack_codec(packer, codec, hadamard);
}

/* What the host has to know of it; at: where its struct stands. */
static struct cuda_resident resident_describe(const struct kv_codec *codec, void *memory, size_t bytes,
                                              size_t at)
{
    struct cuda_resident out = {.serial = codec->serial, .memory = memory, .bytes = bytes};
    void *where = (char *)memory + at;
    if (codec->rotate) {
        out.rotate = where;
        return out;
    }
    out.codec = where;
    out.room = walk_room(codec);
    out.n_basis_halves = basis_halves_of(codec);
    out.n_basis_steps = basis_steps_of(codec->tables);
    out.place_blocks = place_blocks_of(codec->tables);
    return out;
}

static bool codec_upload(struct cuda_state *cuda, const struct kv_codec *codec, struct cuda_resident *out)
{
    int n = codec->shape.head_dim;
    float *hadamard = malloc((size_t)n * (size_t)n * sizeof *hadamard);
    if (!hadamard) return cuda_check(cuda, cudaErrorMemoryAllocation, "cache format");
    kv_hadamard_fill(hadamard, n);
    struct packer packer = {0};
    pack_all(&packer, codec, hadamard);
    size_t bytes = packer.at;
    packer = (struct packer){.host = malloc(bytes)};
    void *memory = NULL;
    bool good = cuda_check(cuda, packer.host ? cudaMalloc(&memory, bytes) : cudaErrorMemoryAllocation,
                           "cache format");
    if (good) {
        packer.device = memory;
        size_t at = pack_all(&packer, codec, hadamard);
        good =
            cuda_check(cuda, cudaMemcpy(memory, packer.host, bytes, cudaMemcpyHostToDevice), "cache format");
        *out = resident_describe(codec, memory, bytes, at);
    }
    free(packer.host);
    free(hadamard);
    return good;
}

const struct cuda_resident *cuda_codec_resident(struct cuda_state *cuda, const struct kv_codec *codec)
{
    for (int i = 0; i < CUDA_MAX_CODECS; i++)
        if (cuda->codecs[i].memory && cuda->codecs[i].serial == codec->serial) return &cuda->codecs[i];
    struct cuda_resident *resident = &cuda->codecs[cuda->n_codecs++ % CUDA_MAX_CODECS];
    cudaStreamSynchronize(cuda->stream);
    cudaFree(resident->memory);
    *resident = (struct cuda_resident){0};
    return codec_upload(cuda, codec, resident) ? resident : NULL;
}
