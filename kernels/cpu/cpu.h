#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/backend.h"
#include "kernels/workers.h"

#include <stdint.h>

/*
 * The CPU backend's own state (struct backend.state). Each group of operations has one table of inner
 * kernels per level; what surrounds them (splitting into items, bookkeeping) is the same code at every level.
 */
enum cpu_level { CPU_SCALAR, CPU_AVX2, CPU_AVX512, CPU_LEVELS };

struct matmul_kernels; /* matmul.h */
struct row_kernels;    /* row.h: rmsnorm, quantization of activations, rope, swiglu, add */
struct kv_backend;     /* kv_backend.h: the paged cache, its writer and attention */

struct cpu_state {
    struct workers *workers;
    enum cpu_level level;
    const struct matmul_kernels *matmul;
    const struct row_kernels *rows;
    struct kv_backend *kv;
    enum backend_part part; /* that goes on; BACKEND_PARTS: none */
    int64_t part_since_ns;
    double part_seconds[BACKEND_PARTS];
};

static inline struct cpu_state *cpu_state(const struct backend *backend)
{
    return backend->state;
}

#endif
