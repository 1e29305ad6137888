#include "kernels/cuda/launch.h"

/* Which kernel: kernels/cuda/attention.cuh has them. */

enum { TOKENS = CUDA_TOKENS, COLUMNS = 8, SEGMENT_BLOCKS = 16 };

struct partial_layout {
    int n_segments, n_parts;
};

template <int D>
cudaError_t tiles_launch(const cuda_attention *args, partial_layout layout, int first, int n, int stage_bytes,
                         int mean_columns, float *partials, cudaStream_t stream);

static size_t partial_floats(int head_dim)
{
    return 4 + 2 * (size_t)head_dim;
}

size_t cuda_attention_partial_floats(const struct cuda_attention *args, int n_segments)
{
    int n_parts = (args->n_heads / args->n_kv_heads + COLUMNS - 1) / COLUMNS;
    return (size_t)args->n_kv_heads * n_parts * n_segments * COLUMNS * partial_floats(args->head_dim);
}

int cuda_attention_tile_tokens(int group)
{
    return group >= COLUMNS ? 1 : COLUMNS / group;
}

int cuda_attention_segments(int position)
{
    return position / TOKENS / SEGMENT_BLOCKS + 1;
}

cudaError_t cuda_attention_run(const struct cuda_attention *args, int first, int n, int n_segments,
                               int stage_bytes, int mean_columns, float *partials, cudaStream_t stream)
{
    partial_layout layout = {n_segments, (args->n_heads / args->n_kv_heads + COLUMNS - 1) / COLUMNS};
    switch (args->head_dim) {
    case 64:
        return tiles_launch<64>(args, layout, first, n, stage_bytes, mean_columns, partials, stream);
    case 96:
        return tiles_launch<96>(args, layout, first, n, stage_bytes, mean_columns, partials, stream);
    case 128:
        return tiles_launch<128>(args, layout, first, n, stage_bytes, mean_columns, partials, stream);
    case 256:
        return tiles_launch<256>(args, layout, first, n, stage_bytes, mean_columns, partials, stream);
    }
    return cudaErrorNotSupported;
}
