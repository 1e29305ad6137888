#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "config/err.h"
#include "kernels/backend.h"
#include "kernels/kv_page.h"
#include "model/gguf.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * A decoder: architectures `llama` and `qwen2`. Weights come from a GGUF file and go to the backend in its
 * own arrangement; llama's Q and K rows, which GGUF stores for interleaved RoPE, are put back in half-split
 * order here.
 */
struct model;

struct model_config {
    char arch[32];
    char name[128]; /* general.name, or empty */
    int n_layers, n_heads, n_kv_heads, head_dim;
    int n_embd, n_ff, n_vocab;
    int context_length; /* what the model was trained for */
    float rms_eps;
    float rope_freq_base;
    int64_t n_params;
};

/* The arch's keys, checked: what comes out is safe to multiply in size_t. Every error names the key. */
enum err model_config_read(const struct gguf *gguf, struct model_config *out, struct err_info *info);

/* gguf stays the caller's and must outlive the model. max_rows: the most tokens of one forward pass;
   max_logits: the most rows whose logits are asked for at once. Progress goes to the log. */
enum err model_load(const struct gguf *gguf, struct backend *backend, int max_rows, int max_logits,
                    struct model **out, struct err_info *info);
void model_free(struct model *model);

const struct model_config *model_config(const struct model *model);
void model_kv_shape(const struct model *model, struct kv_shape *out);
/* RoPE frequencies, [head_dim/2], with the file's scaling factors applied. */
const double *model_inv_freq(const struct model *model);
/* Bytes of weights the backend holds, and activations and scratch. */
size_t model_weight_bytes(const struct model *model);
size_t model_scratch_bytes(const struct model *model);

/* One layer's attention, all rows. */
struct model_attention {
    const float *x; /* [n_tokens][n_embd] what comes into the layer */
    const float *q; /* [n_tokens][n_heads][head_dim] after RoPE */
    const float *k; /* [n_tokens][n_kv_heads][head_dim] after RoPE */
    const float *v; /* [n_tokens][n_kv_heads][head_dim] */
    const float *o; /* [n_tokens][n_heads][head_dim] what the heads give */
};

struct model_batch {
    int n_tokens;          /* rows; at most max_rows */
    const int32_t *tokens; /* [n_tokens]; row r of a span has position span.first_pos + r - span.first_row */
    int n_spans;
    const struct attention_span *spans; /* cover the rows in order, without gaps; of up to KV_MAX_FORMATS
                                           codecs */
    int n_logits;
    const int32_t *logit_rows; /* [n_logits] rows whose logits are wanted, increasing */
    /* Where the backend's memory is not the host's: what is wanted of each row (kernels/choice.h), and where
       it goes; of *logits only rows of kind BACKEND_ROW are there then. NULL: all rows. */
    const struct backend_wish *wishes; /* [n_logits] */
    struct backend_answer *answers;    /* [n_logits] */
    /* Sees every layer's attention; for calibration. False ends the pass there, and no logits come. NULL:
       nobody looks. */
    bool (*tap)(void *context, int layer, const struct model_attention *attention);
    void *tap_context;
    /* Called in every layer when its keys and values are stored and nobody has read them yet; hidden
       [n_tokens][n_embd] is what entered the layer. For evaluations that change the pages. NULL: nobody does.
     */
    void (*stored)(void *context, int layer, const float *hidden);
    void *stored_context;
};

/* Runs the batch: writes its keys and values into the spans' blocks, seals blocks that become complete
   (formats other than f16), and puts logits [n_logits][n_vocab] into *logits, memory of the model valid until
   the next call. */
void model_forward(struct model *model, const struct model_batch *batch, const float **logits);
/* Row `row` of the last pass's logits after all, into its place in *logits. */
void model_fetch_row(struct model *model, int row);

#endif
