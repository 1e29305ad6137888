#ifndef KERNELS_WORKERS_H
#define KERNELS_WORKERS_H

#include "config/err.h"

/*
 * A small pool for data-parallel loops. The caller is worker 0 and works too; the others spin briefly between
 * loops and then sleep. Which worker runs which item never changes a result: items write disjoint outputs.
 */
struct workers;

/* n_threads >= 1, the caller included. */
enum err workers_create(int n_threads, struct workers **out, struct err_info *info);
void workers_free(struct workers *workers);
int workers_count(const struct workers *workers);

/* Call body(context, item, worker) once for each item in [0, n_items), worker in [0, workers_count). Items
   are handed out dynamically in increasing order. Returns when all are done. Not reentrant. */
void workers_run(struct workers *workers, int n_items, void (*body)(void *context, int item, int worker),
                 void *context);

#endif
