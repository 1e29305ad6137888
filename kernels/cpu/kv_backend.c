#include "kernels/cpu/kv_backend.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/kv_rotated.h"
#include "kernels/cpu/kv_write.h"

#include <stdlib.h>

struct kv_backend {
    struct kv_writer *writer;
    struct attention *attention;
};

static const struct kv_kernels *const kv_kernels[CPU_LEVELS] = {
    [CPU_SCALAR] = &kv_kernels_scalar,
    [CPU_AVX2] = &kv_kernels_avx2,
    [CPU_AVX512] = &kv_kernels_avx512,
};

static const struct attention_kernels *const attention_kernels[CPU_LEVELS] = {
    [CPU_SCALAR] = &attention_kernels_scalar,
    [CPU_AVX2] = &attention_kernels_avx2,
    [CPU_AVX512] = &attention_kernels_avx512,
};

static void kv_backend_store(struct backend *backend, const struct kv_store_args *args)
{
    kv_writer_store(cpu_state(backend)->kv->writer, args);
}

static void kv_backend_seal(struct backend *backend, const struct kv_seal_args *args)
{
    const struct cpu_state *cpu = cpu_state(backend);
    if (args->codec->rotate)
        kv_rotated_seal(cpu->workers, kv_kernels[cpu->level], args);
    else
        kv_writer_seal(cpu->kv->writer, args);
}

static void kv_backend_unseal(struct backend *backend, const struct kv_seal_args *args, int n_parts)
{
    const struct cpu_state *cpu = cpu_state(backend);
    if (args->codec->rotate)
        kv_rotated_unseal(cpu->workers, kv_kernels[cpu->level], args);
    else
        kv_writer_unseal(cpu->kv->writer, args, n_parts);
}

static void kv_backend_attention(struct backend *backend, const struct attention_args *args)
{
    const struct cpu_state *cpu = cpu_state(backend);
    kv_rotated_attention(cpu->workers, kv_kernels[cpu->level], cpu->kv->attention, args);
}

static void kv_backend_free(struct kv_backend *kv)
{
    if (!kv) return;
    kv_writer_free(kv->writer);
    attention_free(kv->attention);
    free(kv);
}

enum err kv_backend_attach(struct backend *backend, struct err_info *info)
{
    struct cpu_state *cpu = cpu_state(backend);
    struct kv_backend *kv = calloc(1, sizeof *kv);
    if (kv) {
        kv->writer = kv_writer_create(cpu->workers, kv_kernels[cpu->level]);
        kv->attention = attention_create(cpu->workers, attention_kernels[cpu->level]);
    }
    if (!kv || !kv->writer || !kv->attention) {
        kv_backend_free(kv);
        return err_set(info, ERR_MEMORY, "attention: out of memory");
    }
    cpu->kv = kv;
    backend->kv_store = kv_backend_store;
    backend->kv_seal = kv_backend_seal;
    backend->kv_unseal = kv_backend_unseal;
    backend->attention = kv_backend_attention;
    return ERR_OK;
}

void kv_backend_detach(struct backend *backend)
{
    kv_backend_free(cpu_state(backend)->kv);
    cpu_state(backend)->kv = NULL;
}
