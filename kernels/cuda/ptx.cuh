#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#include "kernels/cuda/launch.h"

/*
 * What plain C++ cannot say: launches, shared memory, and the instructions that the compiler offers only as
 * PTX. All of it stands here and nowhere else, because tests/cuda/emulator replaces this header's half for
 * the card by functions that do the same on a CPU. The layouts of fragments are those of the PTX ISA, chapter
 * "Warp Level Matrix Multiply-Accumulate Instructions"; lane = 4 * gid + tid.
 *
 *   CUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...)
 *   CUDA_SHARED(type, name, [dimensions]);   a variable of the thread block, undefined at its start
 *   CUDA_DYNAMIC_SHARED(name);               char name[], the shared_bytes of the launch, on 128 bytes
 */

#ifdef OCTAVO_CUDA_EMULATED
#include <emulated_ptx.h>
#else

#define CUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                          \
    kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define CUDA_SHARED(type, name, ...) __shared__ type name __VA_ARGS__
#define CUDA_DYNAMIC_SHARED(name)    extern __shared__ __align__(128) char name[]

/* An address in shared memory as the instructions below take it. */
__device__ static inline uint32_t ptx_shared(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* mma.m16n8k16: c += a b, fp32 += fp16 fp16. c: rows gid and gid + 8 of columns 2 tid and 2 tid + 1. a0: row
   gid, columns 2 tid and 2 tid + 1; a1: row gid + 8; a2, a3: the same of columns + 8. b0: rows 2 tid and
   2 tid + 1 of column gid; b1: of rows + 8. */
__device__ static inline void ptx_multiply(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* d = c + a b, of the same. */
__device__ static inline void ptx_multiply(float *d, const float *c, uint32_t a0, uint32_t a1, uint32_t a2,
                                           uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]),
                   "f"(c[3]));
}

/* mma.m16n8k32: c += a b, int32 += unsigned bytes times signed ones; c as above. a0: row gid, columns 4 tid
   to 4 tid + 3, the first in the lowest byte; a1: row gid + 8; a2, a3: the same of columns + 16. b0: rows 4
   tid to 4 tid + 3 of column gid; b1: of rows + 16. */
__device__ static inline void ptx_multiply_bytes_32(int *c, uint32_t a0, uint32_t a1, uint32_t a2,
                                                    uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* d = c + a b, of the same. */
__device__ static inline void ptx_multiply_bytes_32(int *d, const int *c, uint32_t a0, uint32_t a1,
                                                    uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%10,%11,%12,%13};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]), "r"(c[2]),
                   "r"(c[3]));
}

/* The stream's next launch may begin once all thread blocks are here, if it was launched so: it then waits by
   itself for what this one writes (ptx_wait_before). Nothing on cards before Hopper. */
__device__ static inline void ptx_begin_next()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* 2^x to 2^-22 or so; denormal results are 0, and so is that of -INFINITY. */
__device__ static inline float ptx_exp2(float x)
{
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}

/* 1 / x to 2^-23 or so, x no denormal. */
__device__ static inline float ptx_reciprocal(float x)
{
    asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}

/* The 8x8 matrix of 16-bit values of which each lane has columns 2 tid and 2 tid + 1 of row gid, transposed.
 */
__device__ static inline uint32_t ptx_transpose(uint32_t x)
{
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(x));
    return x;
}

/* (x & mask) | bits, in one instruction also where both are constants. */
__device__ static inline uint32_t ptx_pick(uint32_t x, uint32_t mask, uint32_t bits)
{
    uint32_t out;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(x), "r"(mask), "r"(bits));
    return out;
}

/* Four 8x8 matrices of 16-bit values; lane i gives the shared address of row i % 8 of matrix i / 8. */
__device__ static inline void ptx_load_matrix_4(uint32_t *out, uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at));
}

/* Two; the addresses of lanes 16 to 31 do not count. */
__device__ static inline void ptx_load_matrix_2(uint32_t *out, uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1])
                 : "r"(at));
}

/* 16 bytes from the card's memory to shared memory, both on 16 bytes; there once its group was waited for. */
__device__ static inline void ptx_copy(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}

/* The same, or zeros, without reading. */
__device__ static inline void ptx_copy_or_zero(uint32_t to, const void *from, bool is_there)
{
    int bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}

/* This thread's copies since the last call are a group. */
__device__ static inline void ptx_copy_commit()
{
    asm volatile("cp.async.commit_group;");
}

/* Until at most MOST of this thread's groups are under way. */
template <int MOST> __device__ static inline void ptx_copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(MOST));
}

#endif
#endif
