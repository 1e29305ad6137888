#ifndef TESTS_UNIT_SUPPORT_KV_FIXTURE_H
#define TESTS_UNIT_SUPPORT_KV_FIXTURE_H

#include "kernels/backend.h"

/*
 * A sequence with random queries, keys and values and all its blocks, for tests of the cache's kernels and
 * their benchmark. Every block keeps its f16 page; every complete block also has all parts of the codec, when
 * there is one. The caller asks for spans over any rows.
 */
struct kv_fixture {
    struct kv_shape shape;
    const struct kv_codec *codec; /* NULL: f16 */
    int recent_blocks;
    int n_tokens, n_blocks;
    float *q, *k, *v; /* [layers][n_tokens][heads][head_dim] */
    struct kv_block_ref *blocks;
    char **sinks; /* of all blocks, in order */
    char *memory;
    size_t memory_bytes;
};

/* A small generator of our own: the same numbers everywhere. */
uint64_t kv_fixture_random(uint64_t *state);
float kv_fixture_gauss(uint64_t *state);

/* kv_tables_identity for RoPE of base 10000. */
struct kv_tables *kv_fixture_identity(const struct kv_shape *shape, int n_frames);
/* Tables with random invertible transforms and, if asked, means. */
struct kv_tables *kv_fixture_tables(const struct kv_shape *shape, int n_frames, int has_means, uint64_t seed);
void kv_fixture_tables_free(struct kv_tables *tables);

/* Bits of the parts. A pattern is a digit per group of channels, stretched or thinned to the groups that
   there are: "4211", or "2" for all. Patterns joined by '|' are for one page (layer, head) after another,
   over and over: "4211|2222". */
struct kv_fixture_bits {
    int n_parts, n_old_parts;
    const char *keys[KV_MAX_PARTS], *values[KV_MAX_PARTS];
};

/* A few that exercise the formats: graded keys, old blocks at 2 bits and recent ones at 4 (o2); 4 bits for
   all; three parts, pages that differ, groups without bits. */
extern const struct kv_fixture_bits kv_fixture_o2, kv_fixture_o4, kv_fixture_mixed;

/* With sigma that falls from group to group. The tables outlive it; kv_codec_free. */
struct kv_codec *kv_fixture_codec(const struct kv_shape *shape, const struct kv_tables *tables,
                                  const struct kv_fixture_bits *bits);

/* codec NULL: f16; it stays the caller's. n_sinks first tokens are sinks; with scattered_sinks a few in later
   blocks too. Exits when memory is short. Nothing is stored yet. */
void kv_fixture_init(struct kv_fixture *fixture, const struct kv_shape *shape, const struct kv_codec *codec,
                     int recent_blocks, int n_tokens, int n_sinks, int scattered_sinks, uint64_t seed);
void kv_fixture_free(struct kv_fixture *fixture);

/* Rows [first, first + n) as a span whose rows start at batch row first_row. */
struct attention_span kv_fixture_span(const struct kv_fixture *fixture, int first, int n, int first_row);

/* Store all tokens of all layers (in calls of `chunk` tokens) and seal the complete blocks. */
void kv_fixture_fill(struct kv_fixture *fixture, struct backend *backend, int chunk);

/* Seal the complete blocks of all layers again, or bring their first n_parts parts back to f16. */
void kv_fixture_seal(struct kv_fixture *fixture, struct backend *backend);
void kv_fixture_unseal(struct kv_fixture *fixture, struct backend *backend, int n_parts);

/* Attention of the rows [first, first + n) in one call; out [n][n_heads][head_dim]. */
void kv_fixture_attend(const struct kv_fixture *fixture, struct backend *backend, int layer, int first, int n,
                       float *out);

/* Addresses into the arrays. */
static inline const float *kv_fixture_q(const struct kv_fixture *f, int layer, int token)
{
    return f->q + ((size_t)layer * f->n_tokens + token) * f->shape.n_heads * f->shape.head_dim;
}

#endif
