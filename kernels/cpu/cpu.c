#include "kernels/cpu/cpu.h"
#include "kernels/cpu/fused.h"
#include "kernels/cpu/kv_backend.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/row.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/*
 * The CPU's backend table: which instructions the processor has, which kernels that means, and the memory
 * that all operations share.
 */

enum { CPU_ALIGNMENT = 64 };

static void *cpu_alloc(struct backend *backend, size_t bytes)
{
    (void)backend;
    if (bytes > SIZE_MAX - CPU_ALIGNMENT) return NULL;
    size_t rounded = (bytes + CPU_ALIGNMENT - 1) / CPU_ALIGNMENT * CPU_ALIGNMENT;
    return aligned_alloc(CPU_ALIGNMENT, rounded ? rounded : CPU_ALIGNMENT);
}

static void cpu_free(struct backend *backend, void *memory)
{
    (void)backend;
    free(memory);
}

static void cpu_copy(struct backend *backend, void *to, const void *from, size_t bytes)
{
    (void)backend;
    memcpy(to, from, bytes);
}

static int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void part_begin(struct backend *backend, enum backend_part part)
{
    struct cpu_state *cpu = cpu_state(backend);
    if (part == cpu->part) return;
    int64_t now_ns = clock_ns();
    if (cpu->part != BACKEND_PARTS)
        cpu->part_seconds[cpu->part] += (double)(now_ns - cpu->part_since_ns) * 1e-9;
    cpu->part = part;
    cpu->part_since_ns = now_ns;
}

static void part_seconds(const struct backend *backend, double seconds[BACKEND_PARTS])
{
    memcpy(seconds, cpu_state(backend)->part_seconds, BACKEND_PARTS * sizeof *seconds);
}

static void cpu_destroy(struct backend *backend)
{
    if (!backend) return;
    struct cpu_state *cpu = backend->state;
    if (cpu) kv_backend_detach(backend);
    free(cpu);
    free(backend);
}

static bool cpu_has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

/* The highest level whose every instruction set, and the state the system saves for it, is there. The
   compiler's __builtin_cpu_supports asks CPUID and XGETBV. */
static enum cpu_level cpu_level_detect(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !cpu_has_f16c())
        return CPU_SCALAR;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni"))
        return CPU_AVX512;
    return CPU_AVX2;
}

static const char *const cpu_level_names[CPU_LEVELS] = {"scalar", "avx2", "avx512"};
static const char *const cpu_backend_names[CPU_LEVELS] = {"cpu (scalar)", "cpu (avx2)", "cpu (avx512)"};

static enum err cpu_level_choose(const char *name, enum cpu_level *out, struct err_info *info)
{
    enum cpu_level highest = cpu_level_detect();
    if (!strcmp(name, "auto")) {
        *out = highest;
        return ERR_OK;
    }
    for (int level = 0; level < CPU_LEVELS; level++) {
        if (strcmp(name, cpu_level_names[level])) continue;
        if (level > (int)highest)
            return err_set_param(info, ERR_UNSUPPORTED, "cpu",
                                 "cpu: this processor does not have %s; it can do up to %s", name,
                                 cpu_level_names[highest]);
        *out = (enum cpu_level)level;
        return ERR_OK;
    }
    return err_set_param(info, ERR_USAGE, "cpu", "cpu: '%s' is none of auto, scalar, avx2, avx512", name);
}

static void cpu_fill_matmul(struct backend *backend)
{
    static const struct matmul_kernels *const kernels[CPU_LEVELS] = {&matmul_scalar, &matmul_avx2,
                                                                     &matmul_avx512};
    cpu_state(backend)->matmul = kernels[cpu_state(backend)->level];
    backend->weight_create = matmul_weight_create;
    backend->weight_free = matmul_weight_free;
    backend->weight_bytes = matmul_weight_bytes;
    backend->acts_create = matmul_acts_create;
    backend->acts_free = matmul_acts_free;
    backend->prepare = matmul_prepare;
    backend->matmul = matmul_run;
    backend->gather = matmul_gather;
}

/* Rows and elements cost little beside the products: AVX2 serves the highest level too. */
static void cpu_fill_rows(struct backend *backend)
{
    cpu_state(backend)->rows = cpu_state(backend)->level == CPU_SCALAR ? &row_scalar : &row_avx2;
    backend->rmsnorm = row_rmsnorm;
    backend->rope = row_rope;
    backend->swiglu = row_swiglu;
    backend->add = row_add;
    backend->angles = row_angles;
    backend->matmul_group = fused_matmul_group;
    backend->add_norm_prepare = fused_add_norm_prepare;
    backend->swiglu_prepare = fused_swiglu_prepare;
    backend->rotate_store = fused_rotate_store;
}

enum err backend_cpu_create(struct workers *workers, const char *level_name, struct backend **out,
                            struct err_info *info)
{
    enum cpu_level level = CPU_SCALAR;
    enum err err = cpu_level_choose(level_name, &level, info);
    if (err) return err;
    struct backend *backend = calloc(1, sizeof *backend);
    struct cpu_state *cpu = calloc(1, sizeof *cpu);
    if (!backend || !cpu) goto memory;
    backend->state = cpu;
    backend->name = cpu_backend_names[level];
    backend->alloc = cpu_alloc;
    backend->free = cpu_free;
    backend->copy = backend->upload = backend->download = cpu_copy;
    backend->is_host = true;
    backend->part_begin = part_begin;
    backend->part_seconds = part_seconds;
    backend->destroy = cpu_destroy;
    cpu->part = BACKEND_PARTS;
    cpu->workers = workers;
    cpu->level = level;
    cpu_fill_matmul(backend);
    cpu_fill_rows(backend);
    err = kv_backend_attach(backend, info);
    if (err) {
        cpu_destroy(backend);
        return err;
    }
    *out = backend;
    return ERR_OK;
memory:
    free(cpu);
    free(backend);
    return err_set(info, ERR_MEMORY, "cpu backend: out of memory");
}
