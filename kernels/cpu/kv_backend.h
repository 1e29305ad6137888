#ifndef KERNELS_CPU_KV_BACKEND_H
#define KERNELS_CPU_KV_BACKEND_H

#include "kernels/cpu/cpu.h"

/* The seam between the backend table and the paged cache: fills kv_store, kv_seal, kv_unseal and attention
   of a CPU backend whose state has its workers and level, and makes their scratch (cpu_state.kv).
   ERR_MEMORY, and nothing is changed, when memory is short. */
enum err kv_backend_attach(struct backend *backend, struct err_info *info);
/* Frees what attach made; NULL-safe in cpu_state.kv. */
void kv_backend_detach(struct backend *backend);

#endif
