#ifndef KERNELS_CUDA_PTX_90_CUH
#define KERNELS_CUDA_PTX_90_CUH

#include "kernels/cuda/ptx.cuh"

#include <cuda.h>

/*
 * Instructions of Hopper cards alone (sm_90a): barriers in shared memory, copies of tiles, clusters of thread
 * blocks, wgmma. Not for the emulated card. An address in shared memory is as ptx_shared gives it; `rank` is
 * a thread block's place in its cluster.
 */

/* An object of 8 bytes; `count` arrivals and the bytes that were announced end a phase. */
__device__ static inline void ptx_barrier_init(uint32_t barrier, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}

/* After the barriers' init, before the barrier of threads that shows them. */
__device__ static inline void ptx_barrier_publish()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Arrives, and announces so many bytes of copies. */
__device__ static inline void ptx_barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

__device__ static inline void ptx_barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* The same address in the shared memory of another thread block of the cluster. */
__device__ static inline uint32_t ptx_cluster_map(uint32_t at, int rank)
{
    uint32_t mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(at), "r"(rank));
    return mapped;
}

__device__ static inline void ptx_cluster_store(uint32_t mapped, float x)
{
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(mapped), "f"(x) : "memory");
}

__device__ static inline int ptx_cluster_rank()
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}

/* All threads of the cluster; what they wrote before can be read after. */
__device__ static inline void ptx_cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* Until the phase of this parity has ended. */
__device__ static inline void ptx_barrier_wait(uint32_t barrier, uint32_t parity)
{
    asm volatile("{\n.reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* The map's box at a column and row of its matrix; what lies beyond the matrix is zero. Its bytes count at
   the barrier. `to` is on 1024 bytes. */
__device__ static inline void ptx_tile_copy(uint32_t to, const CUtensorMap *map, int column, int row,
                                            uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(barrier)
                 : "memory");
}

/* Where is_one: as ptx_barrier_expect. Without a branch, so that a warp need not come together again. */
__device__ static inline void ptx_bulk_expect(uint32_t barrier, uint32_t bytes, int is_one)
{
    asm volatile("{\n.reg .pred one;\nsetp.ne.b32 one, %2, 0;\n"
                 "@one mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n}" ::"r"(barrier),
                 "r"(bytes), "r"(is_one)
                 : "memory");
}

/* Where is_one: bytes from the card's memory, all on 16, that count at the barrier; also without a branch. */
__device__ static inline void ptx_bulk_copy(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier,
                                            int is_one)
{
    asm volatile(
        "{\n.reg .pred one;\nsetp.ne.b32 one, %4, 0;\n"
        "@one cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n}" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(barrier), "r"(is_one)
        : "memory");
}

/* Until what the stream's work before this launch wrote can be read; that launch may have begun early. */
__device__ static inline void ptx_wait_before()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* Rows of 128 bytes whose 16-byte chunk c stands at chunk c ^ row % 8: the hardware's 128-byte swizzle. `at`
   is on 1024 bytes; 32 bytes further in a row are 2 more. */
__device__ static inline uint64_t ptx_tile(uint32_t at)
{
    return (uint64_t)(at >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

__device__ static inline void ptx_group_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ static inline void ptx_group_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int MOST> __device__ static inline void ptx_group_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(MOST) : "memory");
}

/*
 * wgmma.m64nNk16: c = a b, or c += a b; four warps together. a: 64 rows, b: N columns, each 16 long, as
 * ptx_tile says. c[4 j + 2 i + e]: row 16 warp + gid + 8 i, column 8 j + 2 tid + e.
 */
#define PTX_R0  "%0,%1,%2,%3"
#define PTX_R4  PTX_R0 ",%4,%5,%6,%7"
#define PTX_R8  PTX_R4 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define PTX_R16 PTX_R8 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define PTX_R32                                                                                              \
    PTX_R16                                                                                                  \
    ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,"      \
    "%56,%57,%58,%59,%60,%61,%62,%63"
#define PTX_F4(i)  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define PTX_F8(i)  PTX_F4(i), PTX_F4(i + 4)
#define PTX_F16(i) PTX_F8(i), PTX_F8(i + 8)
#define PTX_F32(i) PTX_F16(i), PTX_F16(i + 16)
#define PTX_F64(i) PTX_F32(i), PTX_F32(i + 32)
#define PTX_GROUP_MULTIPLY(N, REGISTERS, A, B, ADD, ...)                                                     \
    template <> __device__ inline void ptx_group_multiply<N>(float *c, uint64_t a, uint64_t b, int add)      \
    {                                                                                                        \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " ADD ", 0;\n"                                    \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" REGISTERS "}, " A ", " B     \
                     ", add, 1, 1, 0, 0;\n}"                                                                 \
                     : __VA_ARGS__                                                                           \
                     : "l"(a), "l"(b), "r"(add));                                                            \
    }
template <int N> __device__ inline void ptx_group_multiply(float *c, uint64_t a, uint64_t b, int add);
PTX_GROUP_MULTIPLY(8, PTX_R0, "%4", "%5", "%6", PTX_F4(0))
PTX_GROUP_MULTIPLY(16, PTX_R4, "%8", "%9", "%10", PTX_F8(0))
PTX_GROUP_MULTIPLY(32, PTX_R8, "%16", "%17", "%18", PTX_F16(0))
PTX_GROUP_MULTIPLY(64, PTX_R16, "%32", "%33", "%34", PTX_F32(0))
PTX_GROUP_MULTIPLY(128, PTX_R32, "%64", "%65", "%66", PTX_F64(0))

#endif
