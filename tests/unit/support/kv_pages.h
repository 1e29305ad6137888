#ifndef TESTS_UNIT_SUPPORT_KV_PAGES_H
#define TESTS_UNIT_SUPPORT_KV_PAGES_H

#include "kernels/backend.h"

/*
 * A sequence whose pages hold random numbers, for tests of attention and its benchmark: every byte is a code,
 * so nothing has to be sealed.
 */
struct kv_pages {
    struct kv_shape shape;
    const struct kv_codec *codec; /* NULL: f16 */
    int recent_blocks;
    int n_tokens, n_blocks;
    struct kv_block_ref *blocks;
    char **sinks; /* of all blocks, in order */
    char *memory;
    size_t memory_bytes;
};

enum kv_pages_keep {
    KV_PAGES_ALL,    /* every block in f16 and in all parts */
    KV_PAGES_DECODE, /* only what a row behind the last token would read */
};

/* The first n_sinks tokens are sinks (at most 64); with scattered_sinks a few in later blocks too. The codec
   stays the caller's. Exits when memory is short. */
void kv_pages_init(struct kv_pages *pages, const struct kv_shape *shape, const struct kv_codec *codec,
                   enum kv_pages_keep keep, int recent_blocks, int n_tokens, int n_sinks, int scattered_sinks,
                   uint64_t seed);
void kv_pages_free(struct kv_pages *pages);

/* Rows [first, first + n) as a span whose rows start at batch row first_row. */
struct attention_span kv_pages_span(const struct kv_pages *pages, int first, int n, int first_row);

/* n floats, Gaussian. Exits when memory is short. */
float *kv_pages_gauss(size_t n, uint64_t seed);

#endif
