#ifndef SERVER_EVALUATION_H
#define SERVER_EVALUATION_H

#include "cache/format.h"
#include "cache/policy.h"
#include "cache/pool.h"
#include "cache/sequence.h"
#include "server/eval_options.h"
#include "server/runtime.h"

#include <stdio.h>

struct buf;

/*
 * A model and the caches that `octavo eval` compares on it. Cache 0 is f16, the base; 1.. are the formats
 * asked for, each with each number of recent blocks. One pass carries rows of all of them, so whatever is
 * compared comes out of the same products.
 */
enum { EVALUATION_MAX_CACHES = 17 };

struct evaluation {
    const struct eval_options *options;
    struct runtime runtime;
    struct calibration *calibration; /* NULL: none */
    struct kv_formats *formats;
    int n_caches; /* known once it is open */
    struct evaluation_cache {
        int format; /* index in the set; -1: the base */
        int recent_blocks;
    } caches[EVALUATION_MAX_CACHES];
    struct kv_policy policies[EVALUATION_MAX_CACHES];
    struct kv_pool *pool;
    struct kv_staging *staging;
};

/* Opens file, tokenizer and backend. On failure nothing is left open. ERR_USAGE for formats that are none,
   and too many. */
enum err evaluation_open(const struct eval_options *options, struct evaluation *out, struct err_info *info);

struct evaluation_room {
    int max_rows, max_logits; /* of a pass */
    int max_tokens;           /* of a sequence */
    int n_sequences;          /* alive at once, all caches together; each of any of them */
};

/* Weights, calibration, formats and pool. */
enum err evaluation_load(struct evaluation *evaluation, const struct evaluation_room *room,
                         struct err_info *info);
/* Of a zeroed evaluation too. Sequences are freed before. */
void evaluation_close(struct evaluation *evaluation);

/* Is every token read coded (--rule all)? Then all sequences are of cache 0, and recent_blocks is 0. */
bool evaluation_codes_all(const struct evaluation *evaluation);

/* A sequence of cache c. */
enum err evaluation_sequence(struct evaluation *evaluation, int c, int max_tokens, struct kv_sequence **out,
                             struct err_info *info);

/* The file of --details, emptied; NULL without one. Opened before the work begins: hours of it are not to end
   at a path that cannot be written. ERR_IO. */
enum err evaluation_details_open(const struct evaluation *evaluation, FILE **out, struct err_info *info);
/* Appends what lines holds. ERR_IO; ERR_MEMORY when lines has failed. */
enum err evaluation_details_write(const struct evaluation *evaluation, FILE *file, const struct buf *lines,
                                  struct err_info *info);

/* A line about how far it is: overwritten in place on a terminal, otherwise a line of the log when
   `milestone` and nothing when not. */
void evaluation_progress(bool milestone, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
