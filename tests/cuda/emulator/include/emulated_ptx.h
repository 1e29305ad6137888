#ifndef EMULATOR_PTX_H
#define EMULATOR_PTX_H

/* The other half of kernels/cuda/ptx.cuh, which says what each does. */
#include <cuda_fp16.h>

#define CUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                          \
    ((void)(stream), emulated_launch(#kernel, (const void *)(kernel), dim3(grid), dim3(block), shared_bytes, \
                                     [=] { kernel(__VA_ARGS__); }))
#define CUDA_SHARED(type, name, ...)                                                                         \
    typedef type emulated_type_##name __VA_ARGS__;                                                           \
    static char emulated_site_##name;                                                                        \
    emulated_type_##name &name =                                                                             \
        *(emulated_type_##name *)emulated_shared(&emulated_site_##name, sizeof(emulated_type_##name))
#define CUDA_DYNAMIC_SHARED(name) char *name = emulated_block.shared

static inline uint32_t ptx_shared(const void *p)
{
    return emulated_shared_address(p);
}

void emulated_multiply(void *const *args, unsigned mask);
void emulated_multiply_bytes(void *const *args, unsigned mask);
void emulated_transpose(void *const *args, unsigned mask);
void emulated_load_matrix(void *const *args, unsigned mask);

struct emulated_fragments {
    float *c;
    uint32_t a[4], b[2];
};

static inline void ptx_multiply(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                uint32_t b1)
{
    emulated_fragments fragments = {c, {a0, a1, a2, a3}, {b0, b1}};
    emulated_meet(emulated_multiply, "mma", ~0u, &fragments);
}

struct emulated_byte_fragments {
    int *c, n; /* n: columns of a, 16 or 32 */
    uint32_t a[4], b[2];
};

static inline void ptx_multiply_bytes_32(int *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                         uint32_t b0, uint32_t b1)
{
    emulated_byte_fragments fragments = {c, 32, {a0, a1, a2, a3}, {b0, b1}};
    emulated_meet(emulated_multiply_bytes, "mma of bytes", ~0u, &fragments);
}

static inline void ptx_multiply(float *d, const float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                uint32_t b0, uint32_t b1)
{
    for (int i = 0; i < 4; i++) d[i] = c[i];
    ptx_multiply(d, a0, a1, a2, a3, b0, b1);
}

static inline void ptx_multiply_bytes_32(int *d, const int *c, uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1)
{
    for (int i = 0; i < 4; i++) d[i] = c[i];
    ptx_multiply_bytes_32(d, a0, a1, a2, a3, b0, b1);
}

static inline void ptx_begin_next() {}

static inline float ptx_reciprocal(float x)
{
    return 1 / x;
}

static inline float ptx_exp2(float x)
{
    float y = exp2f(x);
    return y < 0x1p-126f ? 0 : y;
}

static inline uint32_t ptx_pick(uint32_t x, uint32_t mask, uint32_t bits)
{
    return (x & mask) | bits;
}

static inline uint32_t ptx_transpose(uint32_t x)
{
    emulated_meet(emulated_transpose, "movmatrix", ~0u, &x);
    return x;
}

struct emulated_matrices {
    uint32_t *out, at;
    int n;
};

static inline void ptx_load_matrix_4(uint32_t *out, uint32_t at)
{
    emulated_matrices matrices = {out, at, 4};
    emulated_meet(emulated_load_matrix, "ldmatrix", ~0u, &matrices);
}

static inline void ptx_load_matrix_2(uint32_t *out, uint32_t at)
{
    emulated_matrices matrices = {out, at, 2};
    emulated_meet(emulated_load_matrix, "ldmatrix", ~0u, &matrices);
}

static inline void ptx_copy(uint32_t to, const void *from)
{
    emulated_copy(to, from, 16);
}

static inline void ptx_copy_or_zero(uint32_t to, const void *from, bool is_there)
{
    emulated_copy(to, from, is_there ? 16 : 0);
}

static inline void ptx_copy_commit()
{
    emulated_copy_commit();
}

template <int MOST> static inline void ptx_copy_wait()
{
    emulated_copy_wait(MOST);
}

#endif
