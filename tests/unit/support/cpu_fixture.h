#ifndef SUPPORT_CPU_FIXTURE_H
#define SUPPORT_CPU_FIXTURE_H

#include "kernels/backend.h"
#include "kernels/workers.h"

/* A CPU backend with its workers, for tests of what every instruction set does alike. */
struct cpu_fixture {
    struct workers *workers;
    struct backend *backend; /* NULL: the processor lacks the level */
};

/* level: "auto", "scalar", "avx2", "avx512". */
struct cpu_fixture cpu_fixture_create(const char *level, int n_threads);
void cpu_fixture_free(struct cpu_fixture *fixture);

/* Skips the test, saying so, where the processor lacks the level. */
void cpu_fixture_require(const char *level);

#endif
