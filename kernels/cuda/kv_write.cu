#include "kernels/cuda/page.cuh"

/*
 * The write path, to the bit what kernels/cpu/kv_write.c and kv_coder.c compute: the same products and sums
 * in the same order, a fused multiply-add exactly where the CPU has one (this file is compiled with
 * -fmad=false), the trellis search in integers. A thread block seals the keys or the values of one page; the
 * matrix z [head_dim][64] and what is left of it stand in shared memory.
 */

enum { THREADS = 256, TOKENS = CUDA_TOKENS };

__device__ static __half half_saturated(float x)
{
    x = x > -65504.0f ? x : -65504.0f;
    x = x < 65504.0f ? x : 65504.0f;
    return __float2half_rn(x);
}

/* ---- store ---- */

__global__ void store_kernel(cuda_store store)
{
    cuda_row row = store.rows[blockIdx.x];
    if (row.span < 0) return;
    int head = blockIdx.y, n = store.head_dim, slot = row.position % TOKENS;
    const cuda_block *block = &store.spans[row.span].blocks[row.position / TOKENS];
    __half *page = (__half *)half_page(block, store.layer, head, n);
    size_t from = ((size_t)blockIdx.x * store.n_kv_heads + head) * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        page[i * TOKENS + slot] = half_saturated(store.k[from + i]);
        page[(TOKENS + slot) * n + i] = half_saturated(store.v[from + i]);
    }
}

cudaError_t cuda_store_run(const struct cuda_store *store, cudaStream_t stream)
{
    CUDA_LAUNCH(store_kernel, dim3(store->n_rows, store->n_kv_heads), store->head_dim <= 128 ? 128 : 256, 0,
                stream, *store);
    return cudaGetLastError();
}

/* ---- one page in shared memory ---- */

struct page {
    const cuda_codec *codec;
    const cuda_block *block;
    int n, n_groups, index, head, offset, is_values;
    __half *f16;
    const float *frame_cos, *frame_sin;
    float *a, *b; /* [n][64] */
};

__device__ static page page_at(const cuda_seal *seal, char *shared)
{
    page page;
    const cuda_codec *codec = page.codec = seal->codec;
    int n = page.n = seal->head_dim, position = seal->block_index[blockIdx.x] * TOKENS;
    page.n_groups = n / CUDA_GROUP;
    page.block = &seal->blocks[blockIdx.x];
    page.head = blockIdx.y;
    page.index = seal->layer * seal->n_kv_heads + page.head;
    page.is_values = blockIdx.z;
    page.offset = position % codec->frame_tokens;
    page.f16 = (__half *)half_page(page.block, seal->layer, page.head, n);
    page.frame_cos = codec->frame_cos + (size_t)(position / codec->frame_tokens) * (n / 2);
    page.frame_sin = codec->frame_sin + (size_t)(position / codec->frame_tokens) * (n / 2);
    page.a = (float *)shared;
    page.b = page.a + n * TOKENS;
    return page;
}

__device__ __noinline__ static void columns_rotate(const page *page, float *x, float sign)
{
    int half = page->n / 2;
    for (int at = threadIdx.x; at < half * TOKENS; at += THREADS) {
        float *a = x + at, *b = a + half * TOKENS;
        float c = page->frame_cos[at / TOKENS], s = sign * page->frame_sin[at / TOKENS];
        float low = *a * c - *b * s, high = *b * c + *a * s;
        *a = low, *b = high;
    }
    __syncthreads();
}

__device__ __noinline__ static void columns_add_key_mean(const page *page, float *x, float sign)
{
    int half = page->n / 2;
    const cuda_codec *codec = page->codec;
    const float *mean = codec->key_mean + (size_t)page->index * page->n;
    for (int at = threadIdx.x; at < half * TOKENS; at += THREADS) {
        int i = at / TOKENS, angle = i * codec->frame_tokens + page->offset + at % TOKENS;
        float a = sign * mean[i], b = sign * mean[i + half];
        float c = codec->rope_cos[angle], s = codec->rope_sin[angle];
        x[at] += a * c - b * s;
        x[at + half * TOKENS] += b * c + a * s;
    }
    __syncthreads();
}

__device__ __noinline__ static void columns_add_value_mean(const page *page, float *x, float sign)
{
    const float *mean = page->codec->value_mean + (size_t)page->index * page->n;
    for (int at = threadIdx.x; at < page->n * TOKENS; at += THREADS) x[at] += sign * mean[at / TOKENS];
    __syncthreads();
}

__device__ __noinline__ static void columns_hadamard(const page *page, float *x)
{
    for (int stride = 1; stride < page->n; stride *= 2) {
        for (int at = threadIdx.x; at < page->n / 2 * TOKENS; at += THREADS) {
            int k = at / TOKENS, i = (k & ~(stride - 1)) * 2 + (k & (stride - 1));
            float *a = x + i * TOKENS + at % TOKENS, *b = a + stride * TOKENS;
            float sum = *a + *b, difference = *a - *b;
            *a = sum, *b = difference;
        }
        __syncthreads();
    }
    float norm = 1.0f / sqrtf((float)page->n);
    for (int at = threadIdx.x; at < page->n * TOKENS; at += THREADS) x[at] *= norm;
    __syncthreads();
}

/* page->a through the matrix, the result in page->a. */
__device__ __noinline__ static void columns_transform(page *page, const float *matrix)
{
    if (page->codec->is_hadamard) {
        columns_hadamard(page, page->a);
        return;
    }
    int n = page->n;
    for (int at = threadIdx.x; at < n * TOKENS; at += THREADS) {
        const float *row = matrix + at / TOKENS * n, *x = page->a + at % TOKENS;
        float sum = 0;
        for (int i = 0; i < n; i++) sum = fmaf(row[i], x[i * TOKENS], sum);
        page->b[at] = sum;
    }
    __syncthreads();
    float *a = page->a;
    page->a = page->b, page->b = a;
}

__device__ __noinline__ static void columns_transform_transposed(page *page, const float *matrix)
{
    if (page->codec->is_hadamard) {
        columns_hadamard(page, page->a);
        return;
    }
    int n = page->n;
    for (int at = threadIdx.x; at < n * TOKENS; at += THREADS) {
        const float *x = page->a + at % TOKENS;
        float sum = 0;
        for (int i = 0; i < n; i++) sum += matrix[i * n + at / TOKENS] * x[i * TOKENS];
        page->b[at] = sum;
    }
    __syncthreads();
    float *a = page->a;
    page->a = page->b, page->b = a;
}

/* ---- seal ---- */

__device__ static void page_load(page *page)
{
    int n = page->n;
    const cuda_codec *codec = page->codec;
    if (page->is_values) {
        for (int at = threadIdx.x; at < n * TOKENS; at += THREADS)
            page->a[at % n * TOKENS + at / n] = __half2float(page->f16[n * TOKENS + at]);
        __syncthreads();
        if (codec->value_mean) columns_add_value_mean(page, page->a, -1);
        columns_transform(page, codec->value_transform);
        return;
    }
    for (int at = threadIdx.x; at < n * TOKENS; at += THREADS) page->a[at] = __half2float(page->f16[at]);
    __syncthreads();
    columns_rotate(page, page->a, -1);
    if (codec->key_mean) columns_add_key_mean(page, page->a, -1);
    columns_transform(page, codec->key_transform + (size_t)page->index * n * n);
}

__device__ static float clamp(float x, float low, float high)
{
    x = x > low ? x : low;
    return x < high ? x : high;
}

__device__ static int symbol(float e, int bits)
{
    if (bits == 1) return e >= 0 ? 8 : 0;
    if (bits == 4) return (int)clamp(floorf(e * 0.5f), -8, 7) + 8;
    return (int)rintf(clamp(e * 4, -96, 96));
}

__device__ static int step_cost(int x, int previous, int code)
{
    int level = 2 * trellis_u(previous, code) - 15;
    return 2 * level * level - x * level;
}

/* kernels/cpu/kv_trellis.c, with two bits for the state before each. */
__device__ __noinline__ static uint32_t word_search(const int16_t *x)
{
    uint32_t word = 0;
    int best = 0x7fffffff;
#pragma unroll 1
    for (int start = 0; start < 4; start++) {
        int sums[4];
        uint8_t before[16];
#pragma unroll
        for (int code = 0; code < 4; code++) sums[code] = step_cost(x[0], start, code);
#pragma unroll 1
        for (int step = 1; step < 16; step++) {
            int next[4];
            uint32_t from = 0;
#pragma unroll
            for (int code = 0; code < 4; code++) {
                next[code] = 0x7fffffff;
                uint32_t least = 0;
#pragma unroll
                for (int previous = 0; previous < 4; previous++) {
                    int sum = sums[previous] + step_cost(x[step], previous, code);
                    if (sum >= next[code]) continue;
                    next[code] = sum;
                    least = previous;
                }
                from |= least << (2 * code);
            }
            before[step] = (uint8_t)from;
#pragma unroll
            for (int code = 0; code < 4; code++) sums[code] = next[code];
        }
        int cost = start == 0 ? sums[0] : start == 1 ? sums[1] : start == 2 ? sums[2] : sums[3];
        if (cost >= best) continue;
        best = cost;
        word = 0;
        uint32_t code = start;
#pragma unroll 1
        for (int step = 15; step > 0; step--) {
            word |= code << (2 * step);
            code = before[step] >> (2 * code) & 3;
        }
        word |= code;
    }
    return word;
}

/* The words of 16 values e, `stride` floats apart. */
__device__ __noinline__ static void word_encode(const float *y, int stride, float per_unit, int bits,
                                                uint32_t words[2])
{
    int16_t u[16];
#pragma unroll 1
    for (int i = 0; i < 16; i++) u[i] = (int16_t)symbol(y[i * stride] * per_unit, bits);
    words[0] = words[1] = 0;
    if (bits == 2) {
        words[0] = word_search(u);
        return;
    }
    for (int i = 0; i < 16; i++) {
        if (bits == 4)
            words[i % 4 / 2] |= (uint32_t)u[i] << (8 * (i / 4) + 4 * (i % 2));
        else
            words[0] |= (uint32_t)(u[i] >> 3) << (8 * (i / 4) + i % 4);
    }
}

struct coder {
    float zz[CUDA_MAX_GROUPS][TOKENS], zy[CUDA_MAX_GROUPS][TOKENS];
    float r[TOKENS], per_r[TOKENS];
    /* keys: [group][token]; values: [channel][tile of 16 tokens] */
    uint32_t words[CUDA_MAX_GROUPS * TOKENS][2];
};

__device__ static const uint8_t *part_bits(const page *page, int p)
{
    return page->codec->parts[p].codes + page->index * CUDA_CODE_BYTES + page->is_values * CUDA_MAX_GROUPS;
}

__device__ __noinline__ static void norms_fill(const page *page, coder *coder)
{
    const uint8_t *bits = part_bits(page, 0);
    const float *z = page->a;
    for (int at = threadIdx.x; at < page->n_groups * TOKENS; at += THREADS) {
        int g = at / TOKENS, t = at % TOKENS;
        float sum = 0;
        for (int i = 0; i < CUDA_GROUP; i++) {
            float x = z[(g * CUDA_GROUP + i) * TOKENS + t];
            sum = fmaf(x, x, sum);
        }
        coder->zz[g][t] = sum;
        coder->zy[g][t] = 0;
    }
    __syncthreads();
    for (int t = threadIdx.x; t < TOKENS; t += THREADS) {
        float norm = 0;
        int n_channels = 0;
        for (int g = 0; g < page->n_groups; g++) {
            if (bits[g] == 0) continue;
            n_channels += CUDA_GROUP;
            norm += coder->zz[g][t];
        }
        bool is_some = norm >= 1e-30f;
        coder->r[t] = is_some ? sqrtf(norm / (float)n_channels) : 0;
        coder->per_r[t] = is_some ? 1 / coder->r[t] : 0;
    }
    __syncthreads();
    for (int at = threadIdx.x; at < page->n * TOKENS; at += THREADS)
        page->b[at] = z[at] * coder->per_r[at % TOKENS];
    __syncthreads();
}

__device__ __noinline__ static void words_search(const page *page, coder *coder, const uint8_t *bits,
                                                 const float *unit)
{
    for (int at = threadIdx.x; at < page->n_groups * TOKENS; at += THREADS) {
        int g = page->is_values ? at / 4 / CUDA_GROUP : at / TOKENS;
        if (bits[g] == 0) continue;
        const float *y = page->is_values ? page->b + at / 4 * TOKENS + at % 4 * CUDA_GROUP
                                         : page->b + g * CUDA_GROUP * TOKENS + at % TOKENS;
        word_encode(y, page->is_values ? 1 : TOKENS, 1 / unit[g], bits[g], coder->words[at]);
    }
    __syncthreads();
}

/* zl and the residual. */
__device__ __noinline__ static void levels_take(const page *page, coder *coder, const uint8_t *bits,
                                                const float *unit)
{
    for (int at = threadIdx.x; at < page->n_groups * TOKENS; at += THREADS) {
        int g = at / TOKENS, t = at % TOKENS;
        if (bits[g] == 0) continue;
        float dot = 0;
        for (int i = 0; i < CUDA_GROUP; i++) {
            int channel = g * CUDA_GROUP + i;
            float level = page->is_values ? (float)word_level(coder->words[channel * 4 + t / CUDA_GROUP],
                                                              bits[g], t % CUDA_GROUP)
                                          : (float)word_level(coder->words[at], bits[g], i);
            float *y = page->b + channel * TOKENS + t;
            dot = fmaf(page->a[channel * TOKENS + t], level, dot);
            *y = fmaf(-unit[g], level, *y);
        }
        coder->zy[g][t] += unit[g] * dot;
    }
    __syncthreads();
}

__device__ __noinline__ static void words_write(const page *page, const coder *coder, const uint8_t *bits,
                                                uint8_t *codes)
{
    for (int at = threadIdx.x; at < page->n_groups * TOKENS; at += THREADS) {
        int channel = at / 4, tile = at % 4, g = page->is_values ? channel / CUDA_GROUP : at / TOKENS, shift;
        if (bits[g] == 0) continue;
        int to = page->is_values ? value_word_at(bits, channel, tile, &shift)
                                 : key_word_at(bits, page->n_groups, g, at % TOKENS, &shift);
        if (shift) continue; /* written with the one it shares the run with */
        uint32_t word = coder->words[at][0];
        if (bits[g] == 1) {
            if (page->is_values)
                word |= coder->words[at + 1][0] << 4;
            else if (g + 1 < page->n_groups && bits[g + 1] == 1)
                word |= coder->words[at + TOKENS][0] << 4;
        }
        *(uint32_t *)(codes + to) = word;
        if (bits[g] == 4) *(uint32_t *)(codes + to + 32) = coder->words[at][1];
    }
}

__device__ __noinline__ static void scales_write(const page *page, const coder *coder, int p,
                                                 uint16_t *scales)
{
    int t = threadIdx.x;
    if (t >= TOKENS) return;
    const cuda_codec *codec = page->codec;
    const cuda_part *part = &codec->parts[p];
    size_t cells = (size_t)page->index * page->n_groups;
    const float *gain = (page->is_values ? part->value_gain : part->key_gain) + cells;
    float num = 0, den = 0;
    for (int g = 0; g < page->n_groups; g++) {
        int coded = 0;
        for (int before = 0; before <= p; before++) coded |= part_bits(page, before)[g];
        if (!coded) continue;
        float weight = page->is_values ? 1 : codec->key_weight[cells + g], gained = weight * gain[g];
        num += weight * coder->zz[g][t];
        den += gained * coder->zy[g][t];
    }
    float ratio = num / den, limit = 32 * coder->r[t];
    float scale = den > 0 ? (ratio < limit ? ratio : limit) : 0;
    scales[t] = __half_as_ushort(half_saturated(scale));
}

__device__ __noinline__ static void sinks_copy(const page *page, bool to_slots)
{
    int slot = 0, n = page->n, stride = page->is_values ? 1 : TOKENS;
    for (uint64_t mask = page->block->sink_mask; mask; mask &= mask - 1) {
        int t = __ffsll((long long)mask) - 1;
        __half *sink = (__half *)(page->block->sinks[slot++] + (size_t)page->index * 2 * n * sizeof(__half));
        __half *token = page->is_values ? page->f16 + (TOKENS + t) * n : page->f16 + t;
        if (page->is_values) sink += n;
        for (int i = threadIdx.x; i < n; i += THREADS) {
            if (to_slots)
                sink[i] = token[i * stride];
            else
                token[i * stride] = sink[i];
        }
    }
}

__global__ void __launch_bounds__(THREADS) seal_kernel(cuda_seal seal)
{
    CUDA_SHARED(struct coder, coder);
    CUDA_DYNAMIC_SHARED(page_memory);
    page page = page_at(&seal, page_memory);
    const cuda_codec *codec = page.codec;
    page_load(&page);
    norms_fill(&page, &coder);
    int n_parts = codec->n_parts;
    while (n_parts > 0 && !page.block->parts[n_parts - 1]) n_parts--;
    for (int p = 0; p < n_parts; p++) {
        const uint8_t *bits = part_bits(&page, p);
        size_t cells = (size_t)page.index * page.n_groups;
        const float *unit = (page.is_values ? codec->parts[p].value_unit : codec->parts[p].key_unit) + cells;
        words_search(&page, &coder, bits, unit);
        levels_take(&page, &coder, bits, unit);
        if (page.block->parts[p]) {
            page_part part = page_part_at(codec, p, page.block->parts[p], page.index);
            words_write(&page, &coder, bits, page.is_values ? part.values : part.keys);
            scales_write(&page, &coder, p, page.is_values ? part.value_scales : part.key_scales);
        }
        __syncthreads();
    }
    sinks_copy(&page, true);
}

/* ---- unseal ---- */

__device__ __noinline__ static void codes_load(const page *page, int n_parts)
{
    const cuda_codec *codec = page->codec;
    size_t cells = (size_t)page->index * page->n_groups;
    page_part last = page_part_at(codec, n_parts - 1, page->block->parts[n_parts - 1], page->index);
    const uint16_t *scales = page->is_values ? last.value_scales : last.key_scales;
    const float *gain =
        (page->is_values ? codec->parts[n_parts - 1].value_gain : codec->parts[n_parts - 1].key_gain) + cells;
    for (int at = threadIdx.x; at < page->n * TOKENS; at += THREADS) {
        int channel = at / TOKENS, t = at % TOKENS, g = channel / CUDA_GROUP;
        float z = 0;
        for (int p = 0; p < n_parts; p++) {
            page_part part = page_part_at(codec, p, page->block->parts[p], page->index);
            if (!(page->is_values ? part.value_bits : part.key_bits)[g]) continue;
            int level = page->is_values ? value_level(&part, t, channel)
                                        : key_level(&part, page->n_groups, t, channel);
            const float *unit =
                (page->is_values ? codec->parts[p].value_unit : codec->parts[p].key_unit) + cells;
            z += unit[g] * (float)level;
        }
        page->a[at] = z * (gain[g] * __half2float(__ushort_as_half(scales[t])));
    }
    __syncthreads();
}

__global__ void __launch_bounds__(THREADS) unseal_kernel(cuda_seal seal, int n_parts)
{
    CUDA_DYNAMIC_SHARED(page_memory);
    page page = page_at(&seal, page_memory);
    const cuda_codec *codec = page.codec;
    int n = page.n;
    codes_load(&page, n_parts);
    if (page.is_values) {
        columns_transform_transposed(&page, codec->value_transform);
        if (codec->value_mean) columns_add_value_mean(&page, page.a, 1);
        for (int at = threadIdx.x; at < n * TOKENS; at += THREADS)
            page.f16[n * TOKENS + at] = half_saturated(page.a[at % n * TOKENS + at / n]);
    } else {
        columns_transform(&page, codec->query_transform + page.index * codec->query_transform_stride);
        if (codec->key_mean) columns_add_key_mean(&page, page.a, 1);
        columns_rotate(&page, page.a, 1);
        for (int at = threadIdx.x; at < n * TOKENS; at += THREADS) page.f16[at] = half_saturated(page.a[at]);
    }
    __syncthreads();
    sinks_copy(&page, false);
}

static size_t page_bytes(const struct cuda_seal *seal)
{
    return 2 * (size_t)seal->head_dim * TOKENS * sizeof(float);
}

cudaError_t cuda_seal_run(const struct cuda_seal *seal, cudaStream_t stream)
{
    cudaError_t error =
        cudaFuncSetAttribute(seal_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)page_bytes(seal));
    if (error != cudaSuccess) return error;
    CUDA_LAUNCH(seal_kernel, dim3(seal->n_blocks, seal->n_kv_heads, 2), THREADS, page_bytes(seal), stream,
                *seal);
    return cudaGetLastError();
}

cudaError_t cuda_unseal_run(const struct cuda_seal *seal, int n_parts, cudaStream_t stream)
{
    cudaError_t error = cudaFuncSetAttribute(unseal_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)page_bytes(seal));
    if (error != cudaSuccess) return error;
    CUDA_LAUNCH(unseal_kernel, dim3(seal->n_blocks, seal->n_kv_heads, 2), THREADS, page_bytes(seal), stream,
                *seal, n_parts);
    return cudaGetLastError();
}
