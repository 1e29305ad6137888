#include "kernels/cuda/half.cuh"
#include "kernels/cuda/page.cuh"

/*
 * The write path, to the bit what kernels/cpu/kv_write.c and kv_coder.c compute: the same products and sums
 * in the same order, a fused multiply-add exactly where the CPU has one (this file is compiled with
 * -fmad=false), the trellis search in integers. A thread block seals half the tokens of a page's keys or
 * values, which have nothing to do with the other half; the matrix z [head_dim][32] and what is left of it
 * stand in shared memory. A step seals few pages, so what counts is how soon one is done: thread blocks are
 * as large as can be, and four threads search a word.
 */

enum { THREADS = 1024, TOKENS = CUDA_TOKENS, HALF = TOKENS / 2, TILES = HALF / CUDA_GROUP };
enum {
    STRIDE = HALF + 1
}; /* floats from channel to channel, so that neither way through meets a bank twice */

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

/* ---- half a page in shared memory ---- */

struct page {
    const cuda_codec *codec;
    const cuda_block *block;
    int n, n_groups, index, head, offset, is_values;
    int first; /* token */
    __half *f16;
    const float *frame_cos, *frame_sin;
    float *a, *b; /* [n][STRIDE] */
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
    page.is_values = blockIdx.z % 2;
    page.first = blockIdx.z / 2 * HALF;
    page.offset = position % codec->frame_tokens + page.first;
    page.f16 = (__half *)half_page(page.block, seal->layer, page.head, n);
    page.frame_cos = codec->frame_cos + (size_t)(position / codec->frame_tokens) * (n / 2);
    page.frame_sin = codec->frame_sin + (size_t)(position / codec->frame_tokens) * (n / 2);
    page.a = (float *)shared;
    page.b = page.a + n * STRIDE;
    return page;
}

/* Of number `at` of a half page's n * HALF values, token by token. */
__device__ static inline int cell(int at)
{
    return at / HALF * STRIDE + at % HALF;
}

__device__ __noinline__ static void columns_rotate(const page *page, float *x, float sign)
{
    int half = page->n / 2;
    for (int at = threadIdx.x; at < half * HALF; at += THREADS) {
        float *a = x + cell(at), *b = a + half * STRIDE;
        float c = page->frame_cos[at / HALF], s = sign * page->frame_sin[at / HALF];
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
    for (int at = threadIdx.x; at < half * HALF; at += THREADS) {
        int i = at / HALF, angle = i * codec->frame_tokens + page->offset + at % HALF;
        float a = sign * mean[i], b = sign * mean[i + half];
        float c = codec->rope_cos[angle], s = codec->rope_sin[angle];
        x[cell(at)] += a * c - b * s;
        x[cell(at) + half * STRIDE] += b * c + a * s;
    }
    __syncthreads();
}

__device__ __noinline__ static void columns_add_value_mean(const page *page, float *x, float sign)
{
    const float *mean = page->codec->value_mean + (size_t)page->index * page->n;
    for (int at = threadIdx.x; at < page->n * HALF; at += THREADS) x[cell(at)] += sign * mean[at / HALF];
    __syncthreads();
}

__device__ __noinline__ static void columns_hadamard(const page *page, float *x)
{
    for (int stride = 1; stride < page->n; stride *= 2) {
        for (int at = threadIdx.x; at < page->n / 2 * HALF; at += THREADS) {
            int k = at / HALF, i = (k & ~(stride - 1)) * 2 + (k & (stride - 1));
            float *a = x + i * STRIDE + at % HALF, *b = a + stride * STRIDE;
            float sum = *a + *b, difference = *a - *b;
            *a = sum, *b = difference;
        }
        __syncthreads();
    }
    float norm = 1.0f / sqrtf((float)page->n);
    for (int at = threadIdx.x; at < page->n * HALF; at += THREADS) x[cell(at)] *= norm;
    __syncthreads();
}

/* page->a through the matrix, the result in page->a. A thread has several rows of one token, at most LOT at
 * once. */
__device__ __noinline__ static void columns_transform(page *page, const float *matrix)
{
    enum { LOT = 4, APART = THREADS / HALF };
    if (page->codec->is_hadamard) {
        columns_hadamard(page, page->a);
        return;
    }
    int n = page->n, token = threadIdx.x % HALF;
    for (int first = threadIdx.x / HALF; first < n; first += LOT * APART) {
        const float *rows = matrix + (size_t)first * n, *x = page->a + token;
        int n_rows = (n - first + APART - 1) / APART;
        float sums[LOT] = {};
        for (int i = 0; i < n; i += 4) {
            float x0 = x[i * STRIDE], x1 = x[(i + 1) * STRIDE], x2 = x[(i + 2) * STRIDE],
                  x3 = x[(i + 3) * STRIDE];
#pragma unroll
            for (int r = 0; r < LOT; r++) {
                if (r >= n_rows) continue;
                float4 row = *(const float4 *)(rows + r * APART * n + i);
                sums[r] = fmaf(row.y, x1, fmaf(row.x, x0, sums[r]));
                sums[r] = fmaf(row.w, x3, fmaf(row.z, x2, sums[r]));
            }
        }
#pragma unroll
        for (int r = 0; r < LOT; r++)
            if (r < n_rows) page->b[(first + r * APART) * STRIDE + token] = sums[r];
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
    for (int at = threadIdx.x; at < n * HALF; at += THREADS) {
        const float *x = page->a + at % HALF;
        float sum = 0;
        for (int i = 0; i < n; i++) sum += matrix[i * n + at / HALF] * x[i * STRIDE];
        page->b[cell(at)] = sum;
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
        for (int at = threadIdx.x; at < n * HALF; at += THREADS)
            page->a[at % n * STRIDE + at / n] = __half2float(page->f16[(TOKENS + page->first) * n + at]);
        __syncthreads();
        if (codec->value_mean) columns_add_value_mean(page, page->a, -1);
        columns_transform(page, codec->value_transform);
        return;
    }
    for (int at = threadIdx.x; at < n * HALF; at += THREADS)
        page->a[cell(at)] = __half2float(page->f16[at / HALF * TOKENS + page->first + at % HALF]);
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

/* The cheapest of the paths that start in `start`: kernels/cpu/kv_trellis.c, with costs times four, so that
   the state before, which is the lesser one where costs are equal, stands below them. */
__device__ __noinline__ static int path_search(const float *y, int stride, float per_unit, int start,
                                               uint32_t *word)
{
    uint64_t before = 0, earlier = 0; /* eight bits for each step, the last one lowest */
    int sums[4], x = symbol(y[0] * per_unit, 2);
#pragma unroll
    for (int code = 0; code < 4; code++) sums[code] = 4 * step_cost(x, start, code);
#pragma unroll 1
    for (int step = 1; step < 16; step++) {
        int next[4];
        uint32_t from = 0;
        x = symbol(y[step * stride] * per_unit, 2);
#pragma unroll
        for (int code = 0; code < 4; code++) {
            int least = 0x7fffffff;
#pragma unroll
            for (int previous = 0; previous < 4; previous++)
                least = min(least, sums[previous] + (4 * step_cost(x, previous, code) + previous));
            next[code] = least & ~3;
            from |= (uint32_t)(least & 3) << (2 * code);
        }
        earlier = earlier << 8 | before >> 56;
        before = before << 8 | from;
#pragma unroll
        for (int code = 0; code < 4; code++) sums[code] = next[code];
    }
    uint32_t code = start, path = 0;
#pragma unroll 1
    for (int step = 15; step > 0; step--) {
        path |= code << (2 * step);
        code = (uint32_t)before >> (2 * code) & 3;
        before = before >> 8 | earlier << 56;
        earlier >>= 8;
    }
    *word = path | code;
    return start == 0 ? sums[0] : start == 1 ? sums[1] : start == 2 ? sums[2] : sums[3];
}

/* The words of 16 values e, `stride` floats apart, by four threads side by side, of which this is one. */
__device__ __noinline__ static void word_encode(const float *y, int stride, float per_unit, int bits,
                                                uint32_t words[2])
{
    int part = threadIdx.x % 4;
    uint32_t low = 0, high = 0;
    if (bits == 2) {
        /* The best of four starts, the first of equals. */
        int own = path_search(y, stride, per_unit, part, &low) + part, least = own;
        least = min(least, __shfl_xor_sync(~0u, least, 1));
        least = min(least, __shfl_xor_sync(~0u, least, 2));
        if (least == own) words[0] = low, words[1] = 0;
        return;
    }
#pragma unroll
    for (int q = 0; q < 4; q++) {
        uint32_t u = symbol(y[(part * 4 + q) * stride] * per_unit, bits);
        if (bits == 4)
            *(q < 2 ? &low : &high) |= u << (8 * part + 4 * (q % 2));
        else
            low |= (u >> 3) << (8 * part + q);
    }
    for (int step = 1; step < 4; step *= 2) {
        low |= __shfl_xor_sync(~0u, low, step);
        high |= __shfl_xor_sync(~0u, high, step);
    }
    if (part == 0) words[0] = low, words[1] = high;
}

struct coder {
    uint8_t bits[CUDA_MAX_PARTS][CUDA_MAX_GROUPS];
    float unit[CUDA_MAX_PARTS][CUDA_MAX_GROUPS], gain[CUDA_MAX_PARTS][CUDA_MAX_GROUPS];
    float weight[CUDA_MAX_GROUPS];
    float zz[CUDA_MAX_GROUPS][HALF], zy[CUDA_MAX_GROUPS][HALF];
    float r[HALF], per_r[HALF];
    /* keys: [group][token]; values: [channel][tile of 16 tokens] */
    uint32_t words[CUDA_MAX_GROUPS * HALF][2];
};

/* What the codec says of the page, to where it is at hand; to be followed by a barrier. */
__device__ static void coder_fill(const page *page, coder *coder)
{
    const cuda_codec *codec = page->codec;
    int p = threadIdx.x / CUDA_MAX_GROUPS, g = threadIdx.x % CUDA_MAX_GROUPS;
    if (p >= codec->n_parts || g >= page->n_groups) return;
    const cuda_part *part = &codec->parts[p];
    size_t cell = (size_t)page->index * page->n_groups + g;
    coder->bits[p][g] = part->codes[page->index * CUDA_CODE_BYTES + page->is_values * CUDA_MAX_GROUPS + g];
    coder->unit[p][g] = (page->is_values ? part->value_unit : part->key_unit)[cell];
    coder->gain[p][g] = (page->is_values ? part->value_gain : part->key_gain)[cell];
    if (p == 0) coder->weight[g] = page->is_values ? 1 : codec->key_weight[cell];
}

__device__ __noinline__ static void norms_fill(const page *page, coder *coder)
{
    const uint8_t *bits = coder->bits[0];
    const float *z = page->a;
    for (int at = threadIdx.x; at < page->n_groups * HALF; at += THREADS) {
        int g = at / HALF, t = at % HALF;
        float sum = 0;
        for (int i = 0; i < CUDA_GROUP; i++) {
            float x = z[(g * CUDA_GROUP + i) * STRIDE + t];
            sum = fmaf(x, x, sum);
        }
        coder->zz[g][t] = sum;
        coder->zy[g][t] = 0;
    }
    __syncthreads();
    for (int t = threadIdx.x; t < HALF; t += THREADS) {
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
    for (int at = threadIdx.x; at < page->n * HALF; at += THREADS)
        page->b[cell(at)] = z[cell(at)] * coder->per_r[at % HALF];
    __syncthreads();
}

__device__ __noinline__ static void words_search(const page *page, coder *coder, const uint8_t *bits,
                                                 const float *unit)
{
    /* A warp's eight words are of one group, so it stays together. */
    for (int i = threadIdx.x; i < page->n_groups * HALF * 4; i += THREADS) {
        int at = i / 4, g = page->is_values ? at / TILES / CUDA_GROUP : at / HALF;
        if (bits[g] == 0) continue;
        const float *y = page->is_values ? page->b + at / TILES * STRIDE + at % TILES * CUDA_GROUP
                                         : page->b + g * CUDA_GROUP * STRIDE + at % HALF;
        word_encode(y, page->is_values ? 1 : STRIDE, 1 / unit[g], bits[g], coder->words[at]);
    }
    __syncthreads();
}

/* zl and the residual. */
__device__ __noinline__ static void levels_take(const page *page, coder *coder, const uint8_t *bits,
                                                const float *unit)
{
    for (int at = threadIdx.x; at < page->n_groups * HALF; at += THREADS) {
        int g = at / HALF, t = at % HALF;
        if (bits[g] == 0) continue;
        float dot = 0;
        for (int i = 0; i < CUDA_GROUP; i++) {
            int channel = g * CUDA_GROUP + i;
            float level = page->is_values ? (float)word_level(coder->words[channel * TILES + t / CUDA_GROUP],
                                                              bits[g], t % CUDA_GROUP)
                                          : (float)word_level(coder->words[at], bits[g], i);
            float *y = page->b + channel * STRIDE + t;
            dot = fmaf(page->a[channel * STRIDE + t], level, dot);
            *y = fmaf(-unit[g], level, *y);
        }
        coder->zy[g][t] += unit[g] * dot;
    }
    __syncthreads();
}

__device__ __noinline__ static void words_write(const page *page, const coder *coder, const uint8_t *bits,
                                                uint8_t *codes)
{
    for (int at = threadIdx.x; at < page->n_groups * HALF; at += THREADS) {
        int channel = at / TILES, tile = page->first / CUDA_GROUP + at % TILES, shift;
        int g = page->is_values ? channel / CUDA_GROUP : at / HALF;
        if (bits[g] == 0) continue;
        int to = page->is_values ? value_word_at(bits, channel, tile, &shift)
                                 : key_word_at(bits, page->n_groups, g, page->first + at % HALF, &shift);
        if (shift) continue; /* written with the one it shares the run with */
        uint32_t word = coder->words[at][0];
        if (bits[g] == 1) {
            if (page->is_values)
                word |= coder->words[at + 1][0] << 4;
            else if (g + 1 < page->n_groups && bits[g + 1] == 1)
                word |= coder->words[at + HALF][0] << 4;
        }
        *(uint32_t *)(codes + to) = word;
        if (bits[g] == 4) *(uint32_t *)(codes + to + 32) = coder->words[at][1];
    }
}

__device__ __noinline__ static void scales_write(const page *page, const coder *coder, int p,
                                                 uint16_t *scales)
{
    int t = threadIdx.x;
    if (t >= HALF) return;
    float num = 0, den = 0;
    for (int g = 0; g < page->n_groups; g++) {
        int coded = 0;
        for (int before = 0; before <= p; before++) coded |= coder->bits[before][g];
        if (!coded) continue;
        float weight = coder->weight[g], gained = weight * coder->gain[p][g];
        num += weight * coder->zz[g][t];
        den += gained * coder->zy[g][t];
    }
    float ratio = num / den, limit = 32 * coder->r[t];
    float scale = den > 0 ? (ratio < limit ? ratio : limit) : 0;
    scales[page->first + t] = __half_as_ushort(half_saturated(scale));
}

__device__ __noinline__ static void sinks_copy(const page *page, bool to_slots)
{
    int slot = 0, n = page->n, stride = page->is_values ? 1 : TOKENS;
    for (uint64_t mask = page->block->sink_mask; mask; mask &= mask - 1) {
        int t = __ffsll((long long)mask) - 1;
        __half *sink = (__half *)(page->block->sinks[slot++] + (size_t)page->index * 2 * n * sizeof(__half));
        __half *token = page->is_values ? page->f16 + (TOKENS + t) * n : page->f16 + t;
        if (t / HALF != page->first / HALF) continue;
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
    coder_fill(&page, &coder);
    page_load(&page);
    norms_fill(&page, &coder);
    int n_parts = codec->n_parts;
    while (n_parts > 0 && !page.block->parts[n_parts - 1]) n_parts--;
    for (int p = 0; p < n_parts; p++) {
        const uint8_t *bits = coder.bits[p];
        const float *unit = coder.unit[p];
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
    for (int at = threadIdx.x; at < page->n * HALF; at += THREADS) {
        int channel = at / HALF, t = page->first + at % HALF, g = channel / CUDA_GROUP;
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
        page->a[cell(at)] = z * (gain[g] * __half2float(__ushort_as_half(scales[t])));
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
        for (int at = threadIdx.x; at < n * HALF; at += THREADS)
            page.f16[(TOKENS + page.first) * n + at] = half_saturated(page.a[at % n * STRIDE + at / n]);
    } else {
        columns_transform(&page, codec->query_transform + page.index * codec->query_transform_stride);
        if (codec->key_mean) columns_add_key_mean(&page, page.a, 1);
        columns_rotate(&page, page.a, 1);
        for (int at = threadIdx.x; at < n * HALF; at += THREADS)
            page.f16[at / HALF * TOKENS + page.first + at % HALF] = half_saturated(page.a[cell(at)]);
    }
    __syncthreads();
    sinks_copy(&page, false);
}

static size_t page_bytes(const struct cuda_seal *seal)
{
    return 2 * (size_t)seal->head_dim * STRIDE * sizeof(float);
}

cudaError_t cuda_seal_run(const struct cuda_seal *seal, cudaStream_t stream)
{
    cudaError_t error =
        cudaFuncSetAttribute(seal_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)page_bytes(seal));
    if (error != cudaSuccess) return error;
    CUDA_LAUNCH(seal_kernel, dim3(seal->n_blocks, seal->n_kv_heads, 4), THREADS, page_bytes(seal), stream,
                *seal);
    return cudaGetLastError();
}

cudaError_t cuda_unseal_run(const struct cuda_seal *seal, int n_parts, cudaStream_t stream)
{
    cudaError_t error = cudaFuncSetAttribute(unseal_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)page_bytes(seal));
    if (error != cudaSuccess) return error;
    CUDA_LAUNCH(unseal_kernel, dim3(seal->n_blocks, seal->n_kv_heads, 4), THREADS, page_bytes(seal), stream,
                *seal, n_parts);
    return cudaGetLastError();
}
