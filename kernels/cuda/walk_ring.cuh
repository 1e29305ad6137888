#ifndef KERNELS_CUDA_WALK_RING_CUH
#define KERNELS_CUDA_WALK_RING_CUH

#include "kernels/cuda/ptx.cuh"
#if !defined(OCTAVO_CUDA_EMULATED) && __CUDA_ARCH__ >= 900
#include "kernels/cuda/ptx_90.cuh"
#define WALK_BULK 1
#else
#define WALK_BULK 0
#endif

/*
 * A warp's copies ahead of use, into two stages for pages and one for a frame's record. One page at least is
 * fetched after what is waited for, so with cp.async all but the newest group is there; on Hopper cards one
 * lane has the card copy a run of bytes (cp.async.bulk), and a barrier of 8 bytes for each stage counts them.
 */
enum { RING_STAGES = 2, RING_RECORD = RING_STAGES, RING_BARRIERS = RING_STAGES + 1 };

struct walk_ring {
    uint32_t barriers; /* shared: RING_BARRIERS of 8 bytes */
    uint32_t phases;   /* a bit each */
    int lane;
};

__device__ static inline void ring_begin(walk_ring &ring, char *barriers, int lane)
{
    ring.barriers = ptx_shared(barriers), ring.phases = 0, ring.lane = lane;
#if WALK_BULK
    if (lane == 0)
        for (int i = 0; i < RING_BARRIERS; i++) ptx_barrier_init(ring.barriers + 8 * i, 1);
    ptx_barrier_publish();
    __syncwarp();
#endif
}

/* So many bytes will be copied to the stage. Whoever read what stood there is done, and the warp knows. */
__device__ static inline void ring_expect(const walk_ring &ring, int stage, int bytes)
{
#if WALK_BULK
    ptx_bulk_expect(ring.barriers + 8 * stage, bytes, ring.lane == 0);
#endif
}

/* bytes: a multiple of 16, or none. */
__device__ static inline void ring_copy(const walk_ring &ring, int stage, void *to, const char *from,
                                        int bytes)
{
#if WALK_BULK
    ptx_bulk_copy(ptx_shared(to), from, bytes, ring.barriers + 8 * stage, ring.lane == 0 && bytes > 0);
#else
    for (int i = 16 * ring.lane; i < bytes; i += 512) ptx_copy(ptx_shared((char *)to + i), from + i);
#endif
}

__device__ static inline void ring_fetch(const walk_ring &ring, int stage, void *to, const char *from,
                                         int bytes)
{
    ring_expect(ring, stage, bytes);
    ring_copy(ring, stage, to, from, bytes);
}

/* The end of a page's fetch, or of one that there was none to make of. */
__device__ static inline void ring_commit()
{
#if !WALK_BULK
    ptx_copy_commit();
#endif
}

/* Until what was fetched to the stage is there. */
__device__ static inline void ring_wait(walk_ring &ring, int stage)
{
#if WALK_BULK
    ptx_barrier_wait(ring.barriers + 8 * stage, ring.phases >> stage & 1);
    ring.phases ^= 1u << stage;
#else
    ptx_copy_wait<1>();
    __syncwarp();
#endif
}

/* After the last page of an item. */
__device__ static inline void ring_drain()
{
#if !WALK_BULK
    ptx_copy_wait<0>();
    __syncwarp();
#endif
}

#endif
