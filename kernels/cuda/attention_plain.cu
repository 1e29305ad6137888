#include "kernels/cuda/page.cuh"

/*
 * Attention in fp32 by the book (kernels/kv_codec.h, kernels/page.cuh), a thread block for each row and query
 * head, a thread for each of 64 tokens and then for each channel. Readable, slow; what the fast kernel is
 * compared with, and what serves shapes it does not know.
 */
enum { THREADS = 64, TOKENS = CUDA_TOKENS };

struct plain {
    float q[CUDA_MAX_DIM];      /* times scale * log2 e */
    float turned[CUDA_MAX_DIM]; /* q_frame */
    float mixed[CUDA_MAX_DIM];  /* q' */
    float out_half[CUDA_MAX_DIM], out_coded[CUDA_MAX_DIM];
    float p[TOKENS], weights[TOKENS], fold[TOKENS];
    float max, sum, coded_sum;
};

template <typename F> __device__ static float fold_tokens(plain *s, float x, F fold)
{
    s->fold[threadIdx.x] = x;
    __syncthreads();
    for (int step = TOKENS / 2; step > 0; step /= 2) {
        if (threadIdx.x < step)
            s->fold[threadIdx.x] = fold(s->fold[threadIdx.x], s->fold[threadIdx.x + step]);
        __syncthreads();
    }
    float result = s->fold[0];
    __syncthreads();
    return result;
}

/* One softmax step: this thread's token has this score. */
__device__ static void softmax_step(plain *s, float score, int n, bool is_coded)
{
    float max = fmaxf(s->max, fold_tokens(s, score, [](float a, float b) { return fmaxf(a, b); }));
    float factor = s->max > -INFINITY ? exp2f(s->max - max) : 0;
    float p = score > -INFINITY ? exp2f(score - max) : 0;
    s->p[threadIdx.x] = p;
    float sum = fold_tokens(s, p, [](float a, float b) { return a + b; });
    for (int i = threadIdx.x; i < n; i += THREADS) {
        s->out_half[i] *= factor;
        s->out_coded[i] *= factor;
    }
    if (threadIdx.x == 0) {
        s->max = max;
        s->sum = s->sum * factor + sum;
        s->coded_sum = s->coded_sum * factor + (is_coded ? sum : 0);
    }
    __syncthreads();
}

__device__ static void half_step(plain *s, const __half *page, int n, int n_tokens)
{
    int t = threadIdx.x;
    float score = -INFINITY;
    if (t < n_tokens) {
        score = 0;
        for (int i = 0; i < n; i++) score = fmaf(s->q[i], __half2float(page[i * TOKENS + t]), score);
    }
    softmax_step(s, score, n, false);
    for (int i = t; i < n; i += THREADS)
        for (int k = 0; k < n_tokens; k++)
            s->out_half[i] = fmaf(s->p[k], __half2float(page[(TOKENS + k) * n + i]), s->out_half[i]);
    __syncthreads();
}

__device__ static void sinks_step(plain *s, const cuda_block *block, int page, int n)
{
    int t = threadIdx.x, n_sinks = __popcll(block->sink_mask);
    size_t at = (size_t)page * 2 * n;
    float score = -INFINITY;
    if (t < n_sinks) {
        const __half *key = (const __half *)block->sinks[t] + at;
        score = 0;
        for (int i = 0; i < n; i++) score = fmaf(s->q[i], __half2float(key[i]), score);
    }
    softmax_step(s, score, n, false);
    for (int i = t; i < n; i += THREADS)
        for (int k = 0; k < n_sinks; k++) {
            const __half *value = (const __half *)block->sinks[k] + at + n;
            s->out_half[i] = fmaf(s->p[k], __half2float(value[i]), s->out_half[i]);
        }
    __syncthreads();
}

__device__ static void query_frame(plain *s, const cuda_codec *codec, int page, int frame, int n)
{
    int half = n / 2;
    for (int i = threadIdx.x; i < half; i += THREADS) {
        float c = codec->frame_cos[(size_t)frame * half + i], d = codec->frame_sin[(size_t)frame * half + i];
        s->turned[i] = s->q[i] * c + s->q[i + half] * d;
        s->turned[i + half] = s->q[i + half] * c - s->q[i] * d;
    }
    __syncthreads();
    const float *matrix = codec->query_transform + page * codec->query_transform_stride;
    for (int j = threadIdx.x; j < n; j += THREADS) {
        float sum = 0;
        for (int i = 0; i < n; i++) sum = fmaf(s->turned[i], matrix[i * n + j], sum);
        s->mixed[j] = sum;
    }
    __syncthreads();
}

__device__ static float mean_score(const plain *s, const cuda_codec *codec, int page, int offset, int n)
{
    int half = n / 2;
    const float *mean = codec->key_mean + (size_t)page * n;
    float sum = 0;
    for (int i = 0; i < half; i++) {
        float c = codec->rope_cos[i * codec->frame_tokens + offset],
              d = codec->rope_sin[i * codec->frame_tokens + offset];
        sum = fmaf(s->turned[i], mean[i] * c - mean[i + half] * d, sum);
        sum = fmaf(s->turned[i + half], mean[i + half] * c + mean[i] * d, sum);
    }
    return sum;
}

__device__ static void coded_step(plain *s, const cuda_codec *codec, const cuda_block *block, int page,
                                  int n_parts, int offset, int n)
{
    int t = threadIdx.x, n_groups = n / CUDA_GROUP;
    size_t cells = (size_t)page * n_groups;
    const cuda_part *last = &codec->parts[n_parts - 1];
    page_part parts[CUDA_MAX_PARTS];
    for (int p = 0; p < n_parts; p++) parts[p] = page_part_at(codec, p, block->parts[p], page);
    float score = 0;
    for (int p = 0; p < n_parts; p++)
        for (int i = 0; i < n; i++) {
            int g = i / CUDA_GROUP;
            if (parts[p].key_bits[g] == 0) continue;
            float factor = codec->parts[p].key_unit[cells + g] * last->key_gain[cells + g];
            score = fmaf(s->mixed[i] * factor, (float)key_level(&parts[p], n_groups, t, i), score);
        }
    score *= __half2float(__ushort_as_half(parts[n_parts - 1].key_scales[t]));
    if (codec->key_mean) score += mean_score(s, codec, page, offset + t, n);
    if (block->sink_mask >> t & 1) score = -INFINITY;
    softmax_step(s, score, n, true);
    s->weights[t] = s->p[t] * __half2float(__ushort_as_half(parts[n_parts - 1].value_scales[t]));
    __syncthreads();
    for (int i = t; i < n; i += THREADS) {
        int g = i / CUDA_GROUP;
        for (int p = 0; p < n_parts; p++) {
            if (parts[p].value_bits[g] == 0) continue;
            float factor = codec->parts[p].value_unit[cells + g] * last->value_gain[cells + g], sum = 0;
            for (int k = 0; k < TOKENS; k++)
                sum = fmaf(s->weights[k], (float)value_level(&parts[p], k, i), sum);
            s->out_coded[i] = fmaf(sum, factor, s->out_coded[i]);
        }
    }
    __syncthreads();
}

__global__ void __launch_bounds__(THREADS) plain_kernel(cuda_attention args)
{
    CUDA_SHARED(plain, shared);
    plain *s = &shared;
    cuda_row row = args.rows[blockIdx.x];
    if (row.span < 0) return;
    const cuda_span *span = &args.spans[row.span];
    const cuda_codec *codec = span->codec;
    int n = args.head_dim, head = blockIdx.y, kv_head = head / (args.n_heads / args.n_kv_heads);
    int page = args.layer * args.n_kv_heads + kv_head, own = row.position / TOKENS, frame = -1;
    size_t at = ((size_t)blockIdx.x * args.n_heads + head) * n;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        s->q[i] = args.q[at + i] * args.scale;
        s->out_half[i] = s->out_coded[i] = 0;
    }
    if (threadIdx.x == 0) s->max = -INFINITY, s->sum = s->coded_sum = 0;
    __syncthreads();
    for (int b = 0; b < own; b++) {
        const cuda_block *block = &span->blocks[b];
        if (!codec) {
            half_step(s, half_page(block, args.layer, kv_head, n), n, TOKENS);
            continue;
        }
        if (block->sink_mask) sinks_step(s, block, page, n);
        int n_parts = own - b > span->recent_blocks ? codec->n_old_parts : codec->n_parts;
        if (b * TOKENS / codec->frame_tokens != frame) {
            frame = b * TOKENS / codec->frame_tokens;
            query_frame(s, codec, page, frame, n);
        }
        coded_step(s, codec, block, page, n_parts, b * TOKENS % codec->frame_tokens, n);
    }
    half_step(s, half_page(&span->blocks[own], args.layer, kv_head, n), n, row.position % TOKENS + 1);
    float per_sum = 1 / s->sum;
    for (int d = threadIdx.x; d < n; d += THREADS) {
        float out = s->out_half[d];
        if (codec) {
            for (int i = 0; i < n; i++) out = fmaf(s->out_coded[i], codec->value_transform[i * n + d], out);
            if (codec->value_mean) out = fmaf(codec->value_mean[(size_t)page * n + d], s->coded_sum, out);
        }
        args.out[at + d] = out * per_sum;
    }
}

cudaError_t cuda_attention_plain_run(const struct cuda_attention *args, cudaStream_t stream)
{
    CUDA_LAUNCH(plain_kernel, dim3(args->n_rows, args->n_heads), THREADS, 0, stream, *args);
    return cudaGetLastError();
}
