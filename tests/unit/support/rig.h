#ifndef SUPPORT_RIG_H
#define SUPPORT_RIG_H

#include "cache/policy.h"
#include "cache/sequence.h"
#include "model/model.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * A model with everything it needs to run, for tests: file, workers, backend, formats, pool, staging. What
 * the engine does around model_forward, without scheduler and threads. Aborts, with the message on stderr,
 * when something cannot be made.
 */
struct rig {
    struct gguf *gguf;
    struct workers *workers;
    struct backend *backend;
    struct model *model;
    struct kv_formats *formats;
    struct kv_policy policies[KV_MAX_FORMATS]; /* of the formats */
    struct kv_pool *pool;
    struct kv_staging *staging;
    int max_rows, max_tokens;
    struct attention_span *spans; /* [max_rows] */
    int32_t *tokens;              /* [max_rows] of the batch */
    int32_t *logit_rows;          /* [max_rows] */
};

struct rig_setup {
    const char *path;  /* of the GGUF file; or */
    const void *bytes; /* its content, which stays the caller's and outlives the rig */
    size_t length;
    struct gguf *gguf; /* or one that is open, which the rig takes over; NULL: none */
    const char *level; /* of the CPU's kernels: "auto", "scalar", ...; or a card: "cuda", "cuda:N" */
    int threads;
    int activation_bits; /* 8, 16; 0: as model_load chooses */
    enum backend_weights weights;
    const char *formats; /* names with commas between, uncalibrated; NULL: f16 */
    int recent_blocks, sink_tokens;
    int max_rows;      /* of a step */
    int max_logits;    /* rows whose logits one step can give; 0: max_rows */
    int max_tokens;    /* of a sequence */
    int max_sequences; /* that the pool has room for */
};

struct rig *rig_create(const struct rig_setup *setup);
void rig_free(struct rig *rig);

struct kv_sequence *rig_sequence(struct rig *rig); /* of the first format */
struct kv_sequence *rig_sequence_of(struct rig *rig, int format);

/* n more tokens of one sequence. */
struct rig_part {
    struct kv_sequence *seq;
    const int32_t *tokens;
    int n;
    bool last_only; /* logits of the last token only; otherwise of all */
};

/* One step over all parts: runs the model and returns logits, [rows asked for][n_vocab], in the parts' order;
   valid until the next step. */
const float *rig_step(struct rig *rig, const struct rig_part *parts, int n_parts);

#endif
