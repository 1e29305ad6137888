#ifndef SERVER_BENCH_PAGES_H
#define SERVER_BENCH_PAGES_H

#include "cache/format.h"
#include "server/bench_kernel.h"

/*
 * Blocks of sequences of the same length, as attention meets them in the middle of a server's life: every
 * layer and sequence has pages of its own, as far as memory allows (few would stay in the caches), blocks of
 * a sequence lie apart, contents are random.
 */
struct bench_pages {
    struct backend *backend;
    struct kv_shape shape;
    const struct kv_format *format;
    int n_sequences, n_distinct;  /* the others share the pages of these */
    int n_blocks;                 /* of each sequence */
    struct attention_span *spans; /* [n_sequences] */
    struct kv_block_ref *blocks;  /* [n_distinct][n_blocks] */
    char **sinks;                 /* of all sequences' first blocks */
    char *memory;
    double read_bytes; /* of one layer, all sequences: pages by age */
};

/* The formats of a model of this shape as calibration would make them: means, dense transforms, graded bits;
   the numbers are made up. */
enum err bench_pages_formats(const struct kv_shape *shape, const char *names, int n_tokens,
                             struct kv_formats **out, struct err_info *info);

/* n_rows: tokens that each sequence computes in the step, the last of its n_tokens; pages for all of them.
   ERR_MEMORY; ERR_CAPACITY: not one sequence fits. */
enum err bench_pages_create(const struct bench_kernels *bench, const struct kv_format *format,
                            int n_sequences, int n_tokens, int n_rows, struct bench_pages *out,
                            struct err_info *info);
void bench_pages_free(struct bench_pages *pages);

#endif
