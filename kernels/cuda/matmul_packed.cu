#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/ptx.cuh"

#include <limits.h>

/*
 * Products of packed weights and fp16 activations for few tokens: each step of a decode reads the weights
 * once, so bytes are what counts. A warp has 16 rows of the weight and a segment of its columns; packed
 * blocks of 64 columns come to it by cp.async, each lane makes its own fragments of mma.m16n8k16 from them,
 * and no other warp sees them. Activations are a tile that the warps of a segment share, as ldmatrix wants
 * it.
 *
 * The order of a sum is that of the fp16 products beside it: columns of a segment in steps of 16 from the
 * first to the last, then the segments' sums from the first to the last (matmul_90.cu; matmul.cu has one
 * segment). As all segments of a row are in one thread block, the sums meet in shared memory.
 */
enum { BLOCK_COLUMNS = CUDA_PACKED_COLUMNS, LINE_BYTES = BLOCK_COLUMNS * 2, MOST_WARPS = 8 };

struct packed_part {
    const char *memory;
    const float *bias;
    float *out;
    int n_rows, n_tiles, out_rows;
    int first; /* thread block; of parts that are not there, none */
};

struct packed_args {
    packed_part parts[CUDA_MATMUL_PARTS];
    int n_cols, n_blocks, n_segments, segments_log2;
    int row_warps; /* tiles of a thread block; warp w has tile w % row_warps and segment w / row_warps */
    const __half *x;
    const float *scale;
    int n_tokens;
};

/* The ring has STAGES blocks of columns; records, of which those of K types are for four blocks, have their
 * own, of a power of two. */
template <typename FORM, int BN> struct packed_shape {
    static constexpr int STAGES = BN == 8 ? 12 : 5;
    static constexpr unsigned RECORDS = (BN == 8 ? 16 : 8) / (FORM::UNIT_BLOCKS == 1 ? 1 : 2);
    static constexpr int X_BYTES = BN * LINE_BYTES; /* of a segment */
    CUDA_BOTH static int stage_bytes(int n_warps, int n_segments)
    {
        return n_segments * X_BYTES + n_warps * FORM::CODE_BYTES;
    }
    CUDA_BOTH static int shared_bytes(int n_warps, int n_segments)
    {
        return STAGES * stage_bytes(n_warps, n_segments) + n_warps * RECORDS * FORM::RECORD_BYTES;
    }
};

__device__ static inline int segment_first(const packed_args &args, int segment)
{
    return args.n_blocks * segment >> args.segments_log2;
}

/* Of a token's line of 64 columns: chunk c of 8; ldmatrix meets no bank twice. */
__device__ static inline int chunk_at(int token, int c)
{
    return token * LINE_BYTES + ((c ^ token) & 7) * 16;
}

/* A thread's part of filling the ring: it copies for its own warp and its own segment. */
struct packed_copier {
    const char *tile;                /* its warp's, and its lane's bytes of each 512 */
    const __half *x;                 /* of the thread's first line, its chunk */
    int row, n_rows, chunk, n_lines; /* lines row, row + n_lines ... of the tokens' n_rows */
};

template <typename FORM>
__device__ static inline packed_copier copier_of(const packed_args &args, const packed_part &part, int tile,
                                                 int token0)
{
    int thread = threadIdx.x % (args.row_warps * 32);
    packed_copier copier;
    copier.tile = part.memory + tile * packed_tile_bytes<FORM>(args.n_blocks) + threadIdx.x % 32 * 16;
    copier.row = thread / 8, copier.chunk = thread % 8, copier.n_lines = args.row_warps * 4;
    copier.n_rows = args.n_tokens - token0;
    copier.x = args.x + (size_t)(token0 + copier.row) * args.n_cols + copier.chunk * 8;
    return copier;
}

/* The tokens' lines of a block of columns, zeros where there are none. */
template <int BN>
__device__ static inline void x_fill(const packed_args &args, const packed_copier &copier, int block,
                                     uint32_t to)
{
    bool has_columns = block * BLOCK_COLUMNS + copier.chunk * 8 < args.n_cols;
    const __half *from = copier.x + block * BLOCK_COLUMNS;
    size_t lines = (size_t)copier.n_lines * args.n_cols;
    for (int row = copier.row; row < BN; row += copier.n_lines, from += lines) {
        bool is_there = has_columns && row < copier.n_rows;
        ptx_copy_or_zero(to + chunk_at(row, copier.chunk), is_there ? from : args.x, is_there);
    }
}

template <int BYTES> __device__ static inline void bytes_fill(uint32_t to, const char *from)
{
    int at = threadIdx.x % 32 * 16;
#pragma unroll
    for (int i = 0; i < BYTES; i += 512)
        if (i + 512 <= BYTES || at + i < BYTES) ptx_copy(to + at + i, from + i);
}

/* The sums of other segments to the first one's warps, which add them in order and store the results. */
template <int BN>
__device__ static void sums_store(const packed_args &args, const packed_part &part, int tile, int token0,
                                  float (*sums)[4], float *room)
{
    constexpr int NT = BN / 8;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, segment = warp / args.row_warps;
    ptx_copy_wait<0>();
    __syncthreads(); /* the ring is the room */
    for (int i = 0; i < NT * 4 && segment > 0; i++)
        room[((warp - args.row_warps) * NT * 4 + i) * 32 + lane] = sums[i / 4][i % 4];
    __syncthreads();
    if (segment > 0) return;
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float sum = sums[j][e];
            for (int s = 1; s < args.n_segments; s++)
                sum += room[(((s - 1) * args.row_warps + warp) * NT * 4 + j * 4 + e) * 32 + lane];
            int row = tile * CUDA_PACKED_ROWS + lane / 4 + e / 2 * 8;
            int token = token0 + j * 8 + lane % 4 * 2 + e % 2;
            if (row < part.n_rows && token < args.n_tokens)
                part.out[(size_t)token * part.out_rows + row] =
                    fmaf(sum, args.scale[token], part.bias ? part.bias[row] : 0.0f);
        }
}

/* Columns 32 PART to 32 PART + 31 of a block, of all tokens. */
template <typename FORM, int BN, int PART>
__device__ static inline void half_multiply(const packed_lane<FORM> &mine, uint32_t x_at, float (*sums)[4])
{
    int lane = threadIdx.x % 32;
    uint32_t a[2][4];
    packed_step<FORM, 2 * PART>(mine, a[0]);
    packed_step<FORM, 2 * PART + 1>(mine, a[1]);
#pragma unroll
    for (int j = 0; j < BN / 8; j++) {
        uint32_t b[4];
        ptx_load_matrix_4(b, x_at + chunk_at(j * 8 + lane % 8, 4 * PART + lane / 8));
        ptx_multiply(sums[j], a[0][0], a[0][1], a[0][2], a[0][3], b[0], b[1]);
        ptx_multiply(sums[j], a[1][0], a[1][1], a[1][2], a[1][3], b[2], b[3]);
    }
}

template <typename FORM, int BN>
__global__ void __launch_bounds__(MOST_WARPS * 32, 2) matmul_packed_kernel(const packed_args args)
{
    typedef packed_shape<FORM, BN> SHAPE;
    constexpr unsigned UNIT = FORM::UNIT_BLOCKS;
    CUDA_DYNAMIC_SHARED(shared);
    int n_warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int stage_bytes = SHAPE::stage_bytes(n_warps, args.n_segments), segment = warp / args.row_warps;
    int which = 0;
#pragma unroll
    for (int p = 1; p < CUDA_MATMUL_PARTS; p++) which += (int)blockIdx.x >= args.parts[p].first;
    const packed_part &part = args.parts[which];
    int tile = (blockIdx.x - part.first) * args.row_warps + warp % args.row_warps, token0 = blockIdx.y * BN;
    int first = segment_first(args, segment), n = segment_first(args, segment + 1) - first;
    int n_steps = (args.n_blocks + args.n_segments - 1) / args.n_segments; /* of the longest segment */
    int x_at = segment * SHAPE::X_BYTES;                                   /* in a stage */
    int codes_at = args.n_segments * SHAPE::X_BYTES + warp * FORM::CODE_BYTES;
    int records_at = SHAPE::STAGES * stage_bytes + warp * SHAPE::RECORDS * FORM::RECORD_BYTES;
    uint32_t base = ptx_shared(shared);
    bool has_tile = tile < part.n_tiles;
    packed_copier copier = copier_of<FORM>(args, part, has_tile ? tile : 0, token0);

    auto fill = [&](int step, int stage) {
        unsigned block = first + step;
        uint32_t to = base + stage * stage_bytes;
        if (step < n && has_tile) {
            const char *unit = copier.tile + packed_unit_at<FORM>(block);
            bytes_fill<FORM::CODE_BYTES>(to + codes_at, unit + block % UNIT * FORM::CODE_BYTES);
            if (step == 0 || block % UNIT == 0)
                bytes_fill<FORM::RECORD_BYTES>(base + records_at +
                                                   block / UNIT % SHAPE::RECORDS * FORM::RECORD_BYTES,
                                               unit + UNIT * FORM::CODE_BYTES);
        }
        if (step < n) x_fill<BN>(args, copier, block, to + x_at);
        ptx_copy_commit();
    };
    float sums[BN / 8][4] = {};
    for (int s = 0; s < SHAPE::STAGES - 1; s++) fill(s, s);
    for (int step = 0, stage = 0, next = SHAPE::STAGES - 1; step < n_steps; step++) {
        ptx_copy_wait<SHAPE::STAGES - 2>();
        __syncthreads();
        fill(step + SHAPE::STAGES - 1, next);
        if (step < n && has_tile) {
            unsigned at = stage * stage_bytes, block = first + step;
            packed_lane<FORM> mine;
            packed_codes_load(shared + at + codes_at, lane, mine);
            packed_scales_load(shared + records_at + block / UNIT % SHAPE::RECORDS * FORM::RECORD_BYTES,
                               block % UNIT, lane, mine);
            half_multiply<FORM, BN, 0>(mine, base + at + x_at, sums);
            half_multiply<FORM, BN, 1>(mine, base + at + x_at, sums);
        }
        next = stage;
        if (++stage == SHAPE::STAGES) stage = 0;
    }
    sums_store<BN>(args, part, tile, token0, sums, (float *)shared);
}

template <typename FORM, int BN> static cudaError_t packed_launch(packed_args args, cudaStream_t stream)
{
    auto kernel = matmul_packed_kernel<FORM, BN>;
    /* Four warps at least; eight where the activations that they share are the larger part. */
    int wanted = BN == 8 || args.n_segments == 1 ? 4 : MOST_WARPS;
    args.row_warps = wanted > args.n_segments ? wanted / args.n_segments : 1;
    int n_warps = args.row_warps * args.n_segments;
    int bytes = packed_shape<FORM, BN>::shared_bytes(n_warps, args.n_segments);
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    int n_blocks = 0;
    for (packed_part &part : args.parts) {
        part.first = part.n_tiles ? n_blocks : INT_MAX;
        n_blocks += (part.n_tiles + args.row_warps - 1) / args.row_warps;
    }
    dim3 grid(n_blocks, (args.n_tokens + BN - 1) / BN);
    CUDA_LAUNCH(kernel, grid, n_warps * 32, bytes, stream, args);
    return cudaGetLastError();
}

/* More than two segments of 64 tokens would not fit the shared memory. */
template <typename FORM> static cudaError_t packed_choose(const packed_args &args, cudaStream_t stream)
{
    if (args.n_tokens <= 8) return packed_launch<FORM, 8>(args, stream);
    if (args.n_tokens <= 32 || args.n_segments > 2) return packed_launch<FORM, 32>(args, stream);
    return packed_launch<FORM, 64>(args, stream);
}

cudaError_t cuda_matmul_packed_run(const struct cuda_packed *const *packed, const struct cuda_matmul *matmul,
                                   cudaStream_t stream)
{
    packed_args args = {};
    for (int i = 0; i < matmul->n_parts; i++) {
        const struct cuda_matmul_part *part = &matmul->parts[i];
        if (packed[i]->dtype != packed[0]->dtype) return cudaErrorInvalidValue;
        args.parts[i].memory = packed[i]->memory;
        args.parts[i].bias = part->bias;
        args.parts[i].out = part->out;
        args.parts[i].n_rows = part->n_rows;
        args.parts[i].n_tiles = (part->n_rows + CUDA_PACKED_ROWS - 1) / CUDA_PACKED_ROWS;
        args.parts[i].out_rows = part->out_rows;
    }
    args.n_cols = matmul->n_cols;
    args.n_blocks = (matmul->n_cols + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
    args.n_segments = matmul->n_segments ? matmul->n_segments : 1;
    while (1 << args.segments_log2 < args.n_segments) args.segments_log2++;
    args.x = (const __half *)matmul->x, args.scale = matmul->scale, args.n_tokens = matmul->n_tokens;
    return packed_launch_form(packed[0]->dtype,
                              [&](auto form) { return packed_choose<decltype(form)>(args, stream); });
}
