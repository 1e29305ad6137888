#include "kernels/kv_page.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

size_t kv_page_bytes(enum kv_kind kind, int head_dim)
{
    size_t d = (size_t)head_dim;
    switch (kind) {
    case KV_F16:
        return 2 * d * KV_BLOCK_TOKENS * sizeof(uint16_t);
    case KV_SINK:
        return 2 * d * sizeof(uint16_t);
    default:
        break;
    }
    assert(!"a kind of block whose size the shape tells");
    return 0;
}

size_t kv_block_bytes(enum kv_kind kind, const struct kv_shape *shape)
{
    return (size_t)shape->n_layers * (size_t)shape->n_kv_heads * kv_page_bytes(kind, shape->head_dim);
}

/* The struct that callers see comes first, so that its address is the allocation's. */
struct identity {
    struct kv_tables tables;
    float values[];
};

/* cosines[row * row_stride + i * pair_stride] and the sines of the angle of position row * row_tokens. */
static void angles_fill(float *cosines, float *sines, int n_rows, double row_tokens, int n_pairs,
                        const double *inv_freq, size_t row_stride, size_t pair_stride)
{
    for (int row = 0; row < n_rows; row++) {
        for (int i = 0; i < n_pairs; i++) {
            double angle = row * row_tokens * inv_freq[i];
            size_t at = (size_t)row * row_stride + (size_t)i * pair_stride;
            cosines[at] = (float)cos(angle);
            sines[at] = (float)sin(angle);
        }
    }
}

size_t kv_angles_count(int head_dim, int frame_tokens, int n_frames)
{
    return ((size_t)frame_tokens + (size_t)n_frames) * (size_t)head_dim +
           kv_mean_basis_count(head_dim, frame_tokens);
}

void kv_angles_fill(struct kv_tables *tables, int head_dim, int frame_tokens, int n_frames,
                    const double *inv_freq, float *memory)
{
    assert(frame_tokens > 0 && frame_tokens % KV_BLOCK_TOKENS == 0 && n_frames > 0);
    int n_pairs = head_dim / 2;
    float *rope_cos = memory, *rope_sin = rope_cos + (size_t)frame_tokens * n_pairs;
    float *frame_cos = rope_sin + (size_t)frame_tokens * n_pairs;
    float *frame_sin = frame_cos + (size_t)n_frames * n_pairs;
    angles_fill(rope_cos, rope_sin, frame_tokens, 1, n_pairs, inv_freq, 1, (size_t)frame_tokens);
    angles_fill(frame_cos, frame_sin, n_frames, frame_tokens, n_pairs, inv_freq, (size_t)n_pairs, 1);
    kv_mean_basis_fill(&tables->mean_basis, head_dim, frame_tokens, inv_freq,
                       frame_sin + (size_t)n_frames * n_pairs);
    tables->frame_tokens = frame_tokens;
    tables->n_frames = n_frames;
    tables->rope_cos = rope_cos;
    tables->rope_sin = rope_sin;
    tables->frame_cos = frame_cos;
    tables->frame_sin = frame_sin;
}

void kv_hadamard_fill(float *matrix, int head_dim)
{
    int block = head_dim & -head_dim;
    for (int i = 0; i < head_dim; i++) {
        for (int j = 0; j < head_dim; j++) {
            double sign = __builtin_parity((unsigned)(i % block) & (unsigned)(j % block)) ? -1 : 1;
            matrix[i * head_dim + j] = i / block == j / block ? (float)(sign / sqrt(block)) : 0;
        }
    }
}

struct kv_tables *kv_tables_identity(const struct kv_shape *shape, int frame_tokens, int n_frames,
                                     const double *inv_freq)
{
    int head_dim = shape->head_dim;
    assert(head_dim > 0 && head_dim % KV_CODE_GROUP == 0 && head_dim <= KV_MAX_HEAD_DIM);
    bool is_hadamard = (head_dim & -head_dim) == head_dim;
    size_t n_angles = kv_angles_count(head_dim, frame_tokens, n_frames);
    size_t n_matrix = (size_t)head_dim * (size_t)head_dim;
    size_t n_pages = (size_t)shape->n_layers * (size_t)shape->n_kv_heads;
    size_t n_values = n_angles + (is_hadamard ? 0 : n_matrix * n_pages);

    struct identity *identity = malloc(sizeof *identity + n_values * sizeof(float));
    if (!identity) return NULL;
    float *matrix = is_hadamard ? NULL : identity->values + n_angles;
    for (size_t page = 0; matrix && page < n_pages; page++)
        kv_hadamard_fill(matrix + page * n_matrix, head_dim);
    /* A Hadamard matrix is symmetric and its own inverse: one array serves every transform. */
    identity->tables = (struct kv_tables){.key_transform = matrix,
                                          .query_transform = matrix,
                                          .value_transform = matrix,
                                          .is_hadamard = is_hadamard};
    kv_angles_fill(&identity->tables, head_dim, frame_tokens, n_frames, inv_freq, identity->values);
    return &identity->tables;
}

void kv_tables_free(struct kv_tables *tables)
{
    free(tables);
}
