#ifndef CACHE_SEQUENCE_H
#define CACHE_SEQUENCE_H

#include "cache/policy.h"
#include "cache/pool.h"
#include "cache/prefix.h"
#include "kernels/backend.h"

/*
 * The block table of one sequence, and its life by steps:
 *
 *   kv_sequence_begin(seq, n)    blocks for n more tokens: the open block in f16; blocks that become complete
 *                                get their format's parts (and sink slots), and those that open and close
 *                                within the step have their f16 form in staging, one layer deep, because
 *                                layer l+1 overwrites what layer l wrote.
 *   kv_sequence_span(seq, ...)   what the kernels need (kernels/backend.h: attention_span)
 *   ... the model's forward pass stores, seals and attends ...
 *   kv_sequence_end(seq)         the tokens count; sealed blocks lose their f16 form; blocks older than
 *                                recent_blocks lose the parts that only recent ones are read with
 *
 * Between steps it holds exactly kv_policy_blocks(policy, tokens), within one at most kv_policy_peak_bytes.
 * No allocation after kv_sequence_create: tables are sized for max_tokens there, and kv_sequence_reset
 * readies the object for the next request.
 */
struct kv_sequence;

/* Staging for the f16 form of blocks that open and close within one step: one layer of blocks, for at most
   max_batch_tokens per step. Shared by all sequences of the engine. NULL when memory is short. */
struct kv_staging;
struct kv_staging *kv_staging_create(const struct kv_shape *shape, int max_batch_tokens,
                                     struct backend *backend);
void kv_staging_free(struct kv_staging *staging);
/* Start of a step: everything in staging is free again. */
void kv_staging_reset(struct kv_staging *staging);

/* ERR_MEMORY. Pool, staging and backend stay the caller's and outlive the sequence. */
enum err kv_sequence_create(const struct kv_policy *policy, struct kv_pool *pool, struct kv_staging *staging,
                            struct backend *backend, int max_tokens, struct kv_sequence **out,
                            struct err_info *info);
/* Releases its blocks. NULL-safe. */
void kv_sequence_free(struct kv_sequence *seq);

/* Empty again, under a policy of the same shape. */
void kv_sequence_reset(struct kv_sequence *seq, const struct kv_policy *policy);

/* Between steps: whatever `other` held is released, and it goes on from where seq stands, under the same
   policy. Sealed blocks (and full ones of format f16) are shared, which costs no bytes; the open block is
   copied. Both can be extended and freed in any order. other: of the same pool and backend, with max_tokens
   for what seq has. ERR_BUSY when the pool has no room for the open block; then `other` is empty. */
enum err kv_sequence_fork(const struct kv_sequence *seq, struct kv_sequence *other, struct err_info *info);

/* Of an empty sequence: share sealed blocks through this cache from now on, until it is freed. */
void kv_sequence_attach(struct kv_sequence *seq, struct kv_prefix *prefix);
/* Of an empty, attached sequence: take over the longest cached prefix (kv_prefix_longest) of the chain keys
   [n_keys]. Returns how many blocks: it has so many times KV_BLOCK_TOKENS tokens then, and goes on as if it
   had computed them. lasting_block: blocks from this one on will not grow old before the sequence ends. */
int kv_sequence_adopt(struct kv_sequence *seq, const struct kv_hash *keys, int n_keys, int lasting_block);
/* Tokens at its beginning that stand in blocks which other sequences use too. */
int kv_sequence_shared_tokens(const struct kv_sequence *seq);
int kv_sequence_tokens(const struct kv_sequence *seq);
/* Of all blocks it holds, shared ones too. */
size_t kv_sequence_bytes(const struct kv_sequence *seq);

/* n_tokens >= 1, at most max_tokens in all. Idle blocks of an attached cache make room. ERR_BUSY when the
   pool has none; then nothing was taken. */
enum err kv_sequence_begin(struct kv_sequence *seq, int n_tokens, struct err_info *info);
/* Fill *span for the tokens begun; first_row: where they stand in the batch. Valid until kv_sequence_end. */
void kv_sequence_span(const struct kv_sequence *seq, int first_row, struct attention_span *span);
void kv_sequence_end(struct kv_sequence *seq);
/* Blocks that the step in progress makes full. */
int kv_sequence_completes(const struct kv_sequence *seq);
/* kv_sequence_end of an attached sequence: the blocks that became full go into the cache, with all their
   parts, under these keys [kv_sequence_completes], before old ones lose some. */
void kv_sequence_end_shared(struct kv_sequence *seq, const struct kv_hash *keys);
/* Undo kv_sequence_begin (a step that failed before its forward pass finished). */
void kv_sequence_abort(struct kv_sequence *seq);

#endif
