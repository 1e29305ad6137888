#ifndef MODEL_MODEL_INTERNAL_H
#define MODEL_MODEL_INTERNAL_H

#include "model/model.h"

struct model_layer {
    struct weight *q, *k, *v, *o, *gate, *up, *down;
    const float *attn_norm, *ffn_norm;     /* [n_embd] */
    const float *q_bias, *k_bias, *v_bias; /* NULL: none; in the rows' own order */
};

/* Buffers of one forward pass, made once for max_rows rows. The attention half of a layer (q, k, v, mix) and
   its feed-forward half (gate, up) are never alive together and share memory. */
struct model_scratch {
    float *x;         /* [max_rows][n_embd] the residual stream */
    float *h;         /* [max_rows][n_embd] a normalised row going in, a product coming out */
    float *q, *mix;   /* [max_rows][n_heads * head_dim] queries; what attention gives */
    float *k, *v;     /* [max_rows][n_kv_heads * head_dim] */
    float *gate, *up; /* [max_rows][n_ff] */
    float *cos, *sin; /* [max_rows][head_dim / 2] */
    float *logits;    /* [max_logits][n_vocab] */
    /* Of the host, where the backend's memory is not: the logits; what a tap or an evaluation looks at, made
       when the first one does. */
    float *host_logits, *watched;
    const struct kv_block_ref **seal_blocks; /* [max_rows] blocks that this step completes */
    int32_t *seal_index;                     /* [max_rows] their place in their sequences */
    size_t bytes;
    void *halves; /* where q, k, v, mix and gate, up stand */
};

struct model {
    struct model_config config;
    struct backend *backend;
    double *inv_freq; /* [head_dim / 2] */
    struct weight *embd;
    struct weight *output; /* embd itself when the embeddings are tied */
    const float *output_norm;
    struct model_layer *layers;
    float *vectors; /* every norm and bias, one after the other, in the backend's memory */
    size_t vector_bytes;
    struct model_scratch scratch;
    struct acts *acts;
    int max_rows, max_logits;
    bool keeps_weights; /* quantized, on a card */
};

/* RoPE frequencies from rope.freq_base, the linear scaling keys and rope_freqs.weight: inv_freq [head_dim/2].
 */
enum err model_rope_read(const struct gguf *gguf, const struct model_config *config, double *inv_freq,
                         struct err_info *info);

/* Fills embd, output, layers and vectors of a model whose config and backend are set. What was made before a
   failure, model_free releases. */
enum err model_weights_load(struct model *model, const struct gguf *gguf, struct err_info *info);
void model_weights_free(struct model *model);

#endif
