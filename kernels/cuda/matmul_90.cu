#include "kernels/cuda/matmul.h"

#ifdef OCTAVO_CUDA_EMULATED

void *cuda_matmul_90_open(void)
{
    return NULL;
}

int cuda_matmul_90_segments(const struct cuda_matmul *matmul)
{
    (void)matmul;
    return 1;
}

cudaError_t cuda_matmul_90_run(void *driver, const struct cuda_matmul *matmul, int n_processors,
                               cudaStream_t stream)
{
    (void)driver, (void)matmul, (void)n_processors, (void)stream;
    return cudaErrorNotSupported;
}

#else

#include "kernels/cuda/ptx_90.cuh"

/*
 * Products on Hopper cards, by wgmma: rows of the weight are M, tokens N. One warp has the card copy tiles of
 * 64 columns into a ring of shared memory; groups of four warps multiply them, each for 64 rows.
 *
 * Weights that meet the same tokens are one launch's: a tile of rows is of one of them.
 *
 * A sum's order depends on the weights' shapes alone: their columns are cut in segments, a segment's sum runs
 * over its columns in steps of 16 from the first to the last, and the segments' sums are added from the first
 * to the last. So tiles of all sizes give the same bits, and in one of two ways: one thread block goes
 * through all segments (LOOP), or each segment has its own and they are a cluster, whose sums meet at the end
 * (SPLIT), where there would be too few thread blocks for a few rows and tokens to have enough of the weight
 * on its way.
 */
enum matmul_mode { LOOP, SPLIT };
enum { COLUMNS = 64, TILE_ROWS = 64, LINE_BYTES = COLUMNS * 2, MOST_SEGMENTS = 8 };

struct matmul_args {
    CUtensorMap weight[CUDA_MATMUL_PARTS], x; /* boxes of a thread block's rows, tokens times COLUMNS */
    struct {
        const float *bias;
        float *out;
        int n_rows, out_rows;
    } parts[CUDA_MATMUL_PARTS];
    const float *scale;
    int first_tile[CUDA_MATMUL_PARTS]; /* of rows; of parts that are not there, the end */
    int n_tokens, n_blocks;            /* blocks of COLUMNS */
    int n_segments, n_row_tiles, n_token_tiles;
};

/* A thread block has GROUPS * 64 rows of the weight and BN tokens. */
template <int GROUPS, int BN, int ROOM_KB, int MODE> struct matmul_shape {
    static constexpr int BM = GROUPS * TILE_ROWS, N_CONSUMERS = GROUPS * 128;
    static constexpr int N_THREADS = N_CONSUMERS + 32, N_SUMS = BN / 2;
    static constexpr int WEIGHT_BYTES = BM * LINE_BYTES, STAGE_BYTES = WEIGHT_BYTES + BN * LINE_BYTES;
    /* Sums of the cluster's thread blocks; at least one of a thread for each of them. */
    static constexpr int SUMS_BYTES =
        MODE == SPLIT ? (N_SUMS > MOST_SEGMENTS ? N_SUMS : MOST_SEGMENTS) * N_CONSUMERS * 4 : 0;
    static constexpr int STAGES = (ROOM_KB * 1024 - SUMS_BYTES - 1024) / STAGE_BYTES;
    static constexpr int SHARED_BYTES =
        STAGES * STAGE_BYTES + SUMS_BYTES + 1024; /* 1024: to align the ring */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* What a thread block works on in its round-th turn. */
struct matmul_place {
    int part, row, token, first_block, end_block; /* row: of the part */
};

template <typename SHAPE, int BN, int MODE>
__device__ static bool place_at(const matmul_args &args, int round, matmul_place *place)
{
    int n_segments = MODE == SPLIT ? args.n_segments : 1,
        segment = MODE == SPLIT ? blockIdx.x % n_segments : 0;
    int tile = blockIdx.x / n_segments + round * (gridDim.x / n_segments);
    if (tile >= args.n_row_tiles * args.n_token_tiles) return false;
    int row_tile = tile / args.n_token_tiles, part = 0;
#pragma unroll
    for (int p = 1; p < CUDA_MATMUL_PARTS; p++) part += row_tile >= args.first_tile[p];
    place->part = part;
    place->row = (row_tile - args.first_tile[part]) * SHAPE::BM;
    place->token = tile % args.n_token_tiles * BN;
    place->first_block = args.n_blocks * segment / n_segments;
    place->end_block = args.n_blocks * (segment + 1) / n_segments;
    return true;
}

/* One thread, which fills the ring's stages in turn. */
template <typename SHAPE, int BN, int MODE>
__device__ static void produce(const matmul_args &args, uint32_t ring, uint32_t full, uint32_t empty)
{
    auto weight_copy = [&](const matmul_place &place, int block, int stage) {
        ptx_barrier_expect(full + stage * 8, SHAPE::STAGE_BYTES);
        ptx_tile_copy(ring + stage * SHAPE::STAGE_BYTES, &args.weight[place.part], block * COLUMNS, place.row,
                      full + stage * 8);
    };
    auto x_copy = [&](const matmul_place &place, int block, int stage) {
        ptx_tile_copy(ring + stage * SHAPE::STAGE_BYTES + SHAPE::WEIGHT_BYTES, &args.x, block * COLUMNS,
                      place.token, full + stage * 8);
    };
    int stage = 0;
    uint32_t parity = 1; /* a fresh barrier counts as past the phase before its first */
    matmul_place place;
    for (int round = 0; place_at<SHAPE, BN, MODE>(args, round, &place); round++) {
        int block = place.first_block;
        if (round == 0) { /* the weight does not depend on what runs before; x does */
            for (int s = 0; s < SHAPE::STAGES && block + s < place.end_block; s++)
                weight_copy(place, block + s, s);
            ptx_wait_before();
            for (; stage < SHAPE::STAGES && block < place.end_block; stage++, block++)
                x_copy(place, block, stage);
            if (stage == SHAPE::STAGES) stage = 0, parity ^= 1;
        }
        for (; block < place.end_block; block++) {
            ptx_barrier_wait(empty + stage * 8, parity);
            weight_copy(place, block, stage);
            x_copy(place, block, stage);
            if (++stage == SHAPE::STAGES) stage = 0, parity ^= 1;
        }
    }
}

/* Where the four warps that multiply are in the ring. All of it is the same in every thread, and the compiler
   knows: descriptors have to be in uniform registers, or they are moved there before each product. */
struct matmul_reader {
    uint64_t weights, xs; /* descriptors of stage 0 */
    int stage, previous;
    uint32_t parity;
};

template <typename SHAPE> __device__ static matmul_reader reader_start(uint32_t ring)
{
    int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    return {ptx_tile(ring + group * TILE_ROWS * LINE_BYTES), ptx_tile(ring + SHAPE::WEIGHT_BYTES), 0, 0, 0};
}

__device__ static inline void stage_release(uint32_t empty, int stage)
{
    if (threadIdx.x % 32 == 0) ptx_barrier_arrive(empty + stage * 8);
}

/* The sums over a segment of so many blocks. */
template <typename SHAPE, int BN>
__device__ static inline void segment_sum(float *sums, int n_blocks, uint32_t full, uint32_t empty,
                                          matmul_reader &at)
{
    for (int block = 0; block < n_blocks; block++) {
        uint64_t further = at.stage * (SHAPE::STAGE_BYTES / 16);
        ptx_barrier_wait(full + at.stage * 8, at.parity);
        ptx_group_fence();
#pragma unroll
        for (int k = 0; k < COLUMNS / 16; k++)
            ptx_group_multiply<BN>(sums, at.weights + further + 2 * k, at.xs + further + 2 * k,
                                   block > 0 || k > 0);
        ptx_group_commit();
        if (block > 0) {
            ptx_group_wait<1>();
            stage_release(empty, at.previous);
        }
        at.previous = at.stage;
        if (++at.stage == SHAPE::STAGES) at.stage = 0, at.parity ^= 1;
    }
    ptx_group_wait<0>();
    stage_release(empty, at.previous);
}

/* Row and token of a thread's sum i. */
__device__ static inline int row_of(const matmul_place &place, int i)
{
    return place.row + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
}

__device__ static inline int token_of(const matmul_place &place, int i)
{
    return place.token + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
}

__device__ static inline void sum_store(const matmul_args &args, int part, int row, int token, float sum)
{
    const float *bias = args.parts[part].bias;
    int n_rows = args.parts[part].n_rows;
    if (row < n_rows && token < args.n_tokens)
        args.parts[part].out[(size_t)token * args.parts[part].out_rows + row] =
            fmaf(sum, args.scale[token], bias ? bias[row] : 0.0f);
}

/* Each thread block of the cluster gets from all of them, itself too, the sums that it adds and stores. */
template <typename SHAPE>
__device__ static void sums_exchange(const float *sums, int n_segments, uint32_t room)
{
    int each = SHAPE::N_SUMS > n_segments ? SHAPE::N_SUMS / n_segments : 1, shift = __ffs(each) - 1;
    int first = ptx_cluster_rank() * each;
#pragma unroll
    for (int i = 0; i < SHAPE::N_SUMS; i++) {
        uint32_t at = room + ((first + (i & (each - 1))) * SHAPE::N_CONSUMERS + threadIdx.x) * 4;
        ptx_cluster_store(ptx_cluster_map(at, i >> shift), sums[i]);
    }
}

template <typename SHAPE>
__device__ static void sums_add(const matmul_args &args, const matmul_place &place, const float *room)
{
    int n = args.n_segments, each = SHAPE::N_SUMS > n ? SHAPE::N_SUMS / n : 1,
        first = ptx_cluster_rank() * each;
    for (int i = 0; i < each && first + i < SHAPE::N_SUMS; i++) {
        float sum = room[i * SHAPE::N_CONSUMERS + threadIdx.x];
        for (int s = 1; s < n; s++) sum += room[(s * each + i) * SHAPE::N_CONSUMERS + threadIdx.x];
        sum_store(args, place.part, row_of(place, first + i), token_of(place, first + i), sum);
    }
}

/* A thread's sums of a whole tile. No lane may leave the loop early: what follows would count as divergent,
   and matmul_reader says what that costs. */
template <typename SHAPE, int BN>
__device__ static void tile_store(const matmul_args &args, const matmul_place &place, const float *sums)
{
    const float *bias = args.parts[place.part].bias;
    int row = row_of(place, 0), token = token_of(place, 0), n_rows = args.parts[place.part].n_rows;
    int out_rows = args.parts[place.part].out_rows;
    bool has_low = row < n_rows, has_high = row + 8 < n_rows;
    float low = bias && has_low ? bias[row] : 0, high = bias && has_high ? bias[row + 8] : 0;
    float *out = args.parts[place.part].out + (size_t)token * out_rows + row;
#pragma unroll
    for (int j = 0; j < BN / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int t = j * 8 + e;
            if (token + t >= args.n_tokens) continue;
            float scale = args.scale[token + t];
            if (has_low) out[(size_t)t * out_rows] = fmaf(sums[j * 4 + e], scale, low);
            if (has_high) out[(size_t)t * out_rows + 8] = fmaf(sums[j * 4 + 2 + e], scale, high);
        }
}

template <typename SHAPE, int BN>
__device__ static void consume_loop(const matmul_args &args, uint32_t ring, uint32_t full, uint32_t empty)
{
    matmul_reader at = reader_start<SHAPE>(ring);
    matmul_place place;
    for (int round = 0; place_at<SHAPE, BN, LOOP>(args, round, &place); round++) {
        float sums[SHAPE::N_SUMS], totals[SHAPE::N_SUMS];
        for (int s = 0, first = 0; s < args.n_segments; s++) {
            int end = args.n_blocks * (s + 1) / args.n_segments;
            segment_sum<SHAPE, BN>(sums, end - first, full, empty, at);
#pragma unroll
            for (int i = 0; i < SHAPE::N_SUMS; i++) totals[i] = s == 0 ? sums[i] : totals[i] + sums[i];
            first = end;
        }
        ptx_wait_before(); /* scale is of the launch before */
        tile_store<SHAPE, BN>(args, place, totals);
    }
}

#endif

/* Empty in code for other cards, which cuda_matmul_90_open sees. */
template <int GROUPS, int BN, int ROOM_KB, int MODE>
__global__ void __launch_bounds__(matmul_shape<GROUPS, BN, ROOM_KB, MODE>::N_THREADS)
    matmul_90_kernel(const __grid_constant__ matmul_args args)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef matmul_shape<GROUPS, BN, ROOM_KB, MODE> SHAPE;
    CUDA_DYNAMIC_SHARED(shared);
    CUDA_SHARED(uint64_t, barriers, [2 * SHAPE::STAGES]);
    uint32_t base = ptx_shared(shared), ring = (base + 1023) & ~1023u;
    uint32_t full = ptx_shared(barriers), empty = full + SHAPE::STAGES * 8;
    uint32_t room = ring + SHAPE::STAGES * SHAPE::STAGE_BYTES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < SHAPE::STAGES; i++) {
            ptx_barrier_init(full + i * 8, 1);
            ptx_barrier_init(empty + i * 8, GROUPS * 4);
        }
        ptx_barrier_publish();
    }
    __syncthreads();
    if (MODE == SPLIT) ptx_cluster_sync(); /* all are there before one writes into another */
    ptx_begin_next();
    if (threadIdx.x >= SHAPE::N_CONSUMERS) {
        if (threadIdx.x % 32 == 0) produce<SHAPE, BN, MODE>(args, ring, full, empty);
        __syncwarp();
        if (MODE == SPLIT) ptx_cluster_sync();
    } else if (MODE == SPLIT) {
        matmul_reader at = reader_start<SHAPE>(ring);
        matmul_place place;
        float sums[SHAPE::N_SUMS];
        place_at<SHAPE, BN, MODE>(args, 0, &place);
        segment_sum<SHAPE, BN>(sums, place.end_block - place.first_block, full, empty, at);
        sums_exchange<SHAPE>(sums, args.n_segments, room);
        ptx_wait_before();
        ptx_cluster_sync();
        sums_add<SHAPE>(args, place, (const float *)(shared + (room - base)));
    } else {
        consume_loop<SHAPE, BN>(args, ring, full, empty);
    }
#endif
}

typedef CUresult (*tile_encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                                CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill);

/* Of a matrix [n_rows][n_cols] of fp16, in boxes of so many rows. */
static bool map_encode(void *driver, CUtensorMap *map, const uint16_t *matrix, int n_rows, int n_cols,
                       int box_rows)
{
    cuuint64_t size[2] = {(cuuint64_t)n_cols, (cuuint64_t)n_rows}, row_bytes = (cuuint64_t)n_cols * 2;
    cuuint32_t box[2] = {COLUMNS, (cuuint32_t)box_rows}, step[2] = {1, 1};
    return ((tile_encode)driver)(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, (void *)matrix, size, &row_bytes,
                                 box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* Tiles of so many rows in all parts. */
static int row_tiles(const struct cuda_matmul *matmul, int rows)
{
    int n = 0;
    for (int i = 0; i < matmul->n_parts; i++) n += (matmul->parts[i].n_rows + rows - 1) / rows;
    return n;
}

/* The parts' places and maps. */
static bool parts_fill(void *driver, const struct cuda_matmul *matmul, int tile_rows, matmul_args *args)
{
    for (int i = 0; i < CUDA_MATMUL_PARTS; i++) {
        const struct cuda_matmul_part *part = &matmul->parts[i];
        args->first_tile[i] = args->n_row_tiles;
        if (i >= matmul->n_parts) continue;
        args->n_row_tiles += (part->n_rows + tile_rows - 1) / tile_rows;
        args->parts[i].bias = part->bias;
        args->parts[i].out = part->out;
        args->parts[i].n_rows = part->n_rows;
        args->parts[i].out_rows = part->out_rows;
        if (!map_encode(driver, &args->weight[i], part->weight, part->n_rows, matmul->n_cols, tile_rows))
            return false;
    }
    return true;
}

struct matmul_job {
    void *driver;
    const struct cuda_matmul *matmul;
    int n_segments, n_processors;
    cudaStream_t stream;
};

/* PER_PROCESSOR thread blocks fit a multiprocessor. */
template <int GROUPS, int BN, int PER_PROCESSOR, int MODE>
static cudaError_t matmul_launch(const matmul_job &job)
{
    enum { ROOM_KB = PER_PROCESSOR == 2 ? 112 : 226 };
    typedef matmul_shape<GROUPS, BN, ROOM_KB, MODE> SHAPE;
    auto kernel = matmul_90_kernel<GROUPS, BN, ROOM_KB, MODE>;
    const struct cuda_matmul *matmul = job.matmul;
    matmul_args args = {};
    args.scale = matmul->scale, args.n_tokens = matmul->n_tokens, args.n_segments = job.n_segments;
    args.n_blocks = (matmul->n_cols + COLUMNS - 1) / COLUMNS;
    args.n_token_tiles = (matmul->n_tokens + BN - 1) / BN;
    if (!parts_fill(job.driver, matmul, SHAPE::BM, &args) ||
        !map_encode(job.driver, &args.x, matmul->x, matmul->n_tokens, matmul->n_cols, BN))
        return cudaErrorInvalidValue;
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHAPE::SHARED_BYTES);
    if (error != cudaSuccess) return error;
    int n_tiles = args.n_row_tiles * args.n_token_tiles, at_once = job.n_processors * PER_PROCESSOR;
    cudaLaunchAttribute attributes[2] = {};
    /* With few tokens this may begin, and fetch weights, while what runs before ends; with many it would only
       be in the way. */
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = BN <= 64 && args.n_token_tiles == 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim = {(unsigned)job.n_segments, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = MODE == SPLIT ? n_tiles * job.n_segments : n_tiles < at_once ? n_tiles : at_once;
    config.blockDim = SHAPE::N_THREADS;
    config.dynamicSmemBytes = SHAPE::SHARED_BYTES;
    config.stream = job.stream;
    config.attrs = attributes;
    config.numAttrs = MODE == SPLIT ? 2 : 1;
    return cudaLaunchKernelEx(&config, kernel, args);
}

/* Until there are thread blocks for a card of about 130 multiprocessors; of at least 8 blocks of columns.
   Nothing but the weights' shapes may be looked at here: it decides on the bits. */
int cuda_matmul_90_segments(const struct cuda_matmul *matmul)
{
    int n_tiles = row_tiles(matmul, TILE_ROWS), n_blocks = (matmul->n_cols + COLUMNS - 1) / COLUMNS, n = 1;
    while (n < MOST_SEGMENTS && n_tiles * n < 128 && n_blocks >= n * 2 * 8) n *= 2;
    return n;
}

void *cuda_matmul_90_open(void)
{
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, matmul_90_kernel<1, 8, 112, LOOP>) != cudaSuccess) {
        cudaGetLastError(); /* not sticky */
        return NULL;
    }
    if (attributes.sharedSizeBytes == 0)
        return NULL; /* the body is not of this binary, or not for this card */
    void *driver = NULL;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &driver, 12000, cudaEnableDefault,
                                         &result) != cudaSuccess ||
        result != cudaDriverEntryPointSuccess)
        return NULL;
    return driver;
}

/* Weights that each have thread blocks for the whole card, so no segments alone or together: then one launch
   beside another is the better way for few tokens, as they overlap, and, as measured, for very many. */
static bool is_better_apart(const struct cuda_matmul *matmul)
{
    bool apart = matmul->n_parts > 1 && (matmul->n_tokens <= 32 || matmul->n_tokens > 512);
    for (int i = 0; i < matmul->n_parts; i++) apart &= matmul->parts[i].n_rows > 127 * TILE_ROWS;
    return apart;
}

cudaError_t cuda_matmul_90_run(void *driver, const struct cuda_matmul *matmul, int n_processors,
                               cudaStream_t stream)
{
    if (is_better_apart(matmul)) {
        cudaError_t error = cudaSuccess;
        for (int i = 0; i < matmul->n_parts && error == cudaSuccess; i++) {
            struct cuda_matmul part = *matmul;
            part.parts[0] = matmul->parts[i], part.n_parts = 1;
            error = cuda_matmul_90_run(driver, &part, n_processors, stream);
        }
        return error;
    }
    int n_segments = matmul->n_segments ? matmul->n_segments : cuda_matmul_90_segments(matmul);
    int n = matmul->n_tokens;
    matmul_job job = {driver, matmul, n_segments, n_processors, stream};
    bool is_split = n_segments > 1;
    /* Which tile is fastest was measured on an H200 (docs/cuda.md). */
    if (n <= 8) return is_split ? matmul_launch<1, 8, 2, SPLIT>(job) : matmul_launch<1, 8, 2, LOOP>(job);
    if (n <= 16) return is_split ? matmul_launch<1, 16, 2, SPLIT>(job) : matmul_launch<1, 16, 2, LOOP>(job);
    if (n <= 32) return is_split ? matmul_launch<1, 32, 2, SPLIT>(job) : matmul_launch<1, 32, 2, LOOP>(job);
    if (n <= 64) return is_split ? matmul_launch<2, 64, 1, SPLIT>(job) : matmul_launch<1, 64, 2, LOOP>(job);
    int n_large = row_tiles(matmul, 128) * ((n + 127) / 128);
    if (n_segments >= 4 && n_large * n_segments <= n_processors / 2)
        return matmul_launch<2, 128, 1, SPLIT>(job);
    int n_small = row_tiles(matmul, TILE_ROWS) * ((n + 63) / 64);
    return n_small <= 2 * n_processors ? matmul_launch<1, 64, 2, LOOP>(job)
                                       : matmul_launch<2, 128, 1, LOOP>(job);
}

#endif
