#ifndef MODEL_MODEL_SHAPE_H
#define MODEL_MODEL_SHAPE_H

#include "config/err.h"
#include "kernels/dtype.h"
#include "kernels/kv_page.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * The sizes of a model, so that it can be measured without its weights: `octavo bench kernels` takes its
 * parts, model/dummy.h makes it whole.
 */
struct model_shape {
    char name[64];    /* of the model; "custom" when only keys were given */
    const char *arch; /* "llama" or "qwen2" */
    int n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    int n_ctx;
    bool tied;        /* the output matrix is the embeddings' */
    enum dtype dtype; /* of every matrix */
    uint64_t seed;    /* of the weights */
};

/* "llama-8b", "layers=2,width=256,heads=4", or a name and what differs: "llama-8b,layers=4,type=Q8_0". Keys:
   layers, width, heads, kv-heads, head-dim, ff, vocab, ctx, type (of all matrices), seed. Without a name
   kv-heads is heads, head-dim width / heads and ff three times the width, unless given. ERR_USAGE: an unknown
   name or key (the message has the nearest, or all of them), a number out of bounds, sizes that do not go
   together. */
enum err model_shape_parse(const char *text, struct model_shape *out, struct err_info *info);

/* Its cache. */
struct kv_shape model_shape_kv(const struct model_shape *shape);

#endif
