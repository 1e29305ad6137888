/*
 * A model's life: config, weights, scratch. model_config.c reads the keys, model_weights.c hands the tensors
 * to the backend, model_forward.c runs a batch.
 */
#include "model/model.h"

#include "config/log.h"
#include "model/model_internal.h"

#include <assert.h>
#include <stdlib.h>

static const int64_t SMALL_MODEL_PARAMS = 1000000000;

static float *scratch_alloc(struct model *model, size_t rows, size_t width)
{
    size_t bytes = rows * width * sizeof(float);
    model->scratch.bytes += bytes;
    return model->backend->alloc(model->backend, bytes);
}

/* Small models feel the noise of 8-bit activations most, and cost least. */
static int activation_bits(const struct model *model)
{
    if (model->backend->activation_bits) return model->backend->activation_bits;
    return model->config.n_params < SMALL_MODEL_PARAMS ? 16 : 8;
}

/* Of a row: what stands in the scratch's halves, and the most columns that a product takes. */
static size_t halves_width(const struct model_config *c)
{
    size_t attention = 2 * (size_t)(c->n_heads + c->n_kv_heads) * (size_t)c->head_dim,
           feed_forward = 2 * (size_t)c->n_ff;
    return attention > feed_forward ? attention : feed_forward;
}

static int most_columns(const struct model_config *c)
{
    int wide = c->n_heads * c->head_dim, columns = wide > c->n_embd ? wide : c->n_embd;
    return c->n_ff > columns ? c->n_ff : columns;
}

/* What scratch_create will take of a card's memory. */
static size_t scratch_expect(const struct model *model)
{
    const struct model_config *c = &model->config;
    size_t row_floats = 2 * (size_t)c->n_embd + halves_width(c) + (size_t)c->head_dim;
    size_t prepared = (size_t)most_columns(c) * sizeof(uint16_t) + sizeof(float);
    return (size_t)model->max_rows * (row_floats * sizeof(float) + prepared) +
           (size_t)model->max_logits * (size_t)c->n_vocab * sizeof(float);
}

/* Whether a card is to keep quantized weights as they are. By itself it does when they, in fp16, would leave
   no room for activations and the cache: of the size that the user gave, or a quarter of what is free. */
static bool weights_keep(const struct model *model, const struct gguf *gguf)
{
    struct backend *backend = model->backend;
    if (backend->is_host) return false;
    if (backend->weights != BACKEND_WEIGHTS_AUTO) return backend->weights == BACKEND_WEIGHTS_FILE;
    size_t halves = 0, scratch = scratch_expect(model), free_bytes = backend->free_bytes(backend);
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        halves += tensor->bytes / dtype_block_bytes(tensor->dtype) * dtype_block_elements(tensor->dtype) *
                  sizeof(uint16_t);
    }
    size_t cache = backend->cache_bytes ? backend->cache_bytes + free_bytes / 32 : free_bytes / 4;
    if (halves + scratch + cache <= free_bytes) return false;
    log_info("model",
             "weights stay quantized: in fp16 they would take %zu bytes, and %s has %zu free, for %zu of "
             "activations and %zu of cache too",
             halves, backend->name, free_bytes, scratch, cache);
    return true;
}

static enum err scratch_create(struct model *model, struct err_info *info)
{
    const struct model_config *c = &model->config;
    struct model_scratch *s = &model->scratch;
    const size_t rows = (size_t)model->max_rows, embd = (size_t)c->n_embd, ff = (size_t)c->n_ff;
    const size_t wide = (size_t)c->n_heads * (size_t)c->head_dim,
                 narrow = (size_t)c->n_kv_heads * (size_t)c->head_dim;
    s->x = scratch_alloc(model, rows, embd);
    s->h = scratch_alloc(model, rows, embd);
    s->halves = scratch_alloc(model, rows, halves_width(c));
    s->cos = scratch_alloc(model, rows, (size_t)c->head_dim / 2);
    s->sin = scratch_alloc(model, rows, (size_t)c->head_dim / 2);
    s->logits = scratch_alloc(model, (size_t)model->max_logits, (size_t)c->n_vocab);
    const size_t logits = (size_t)model->max_logits * (size_t)c->n_vocab;
    if (!model->backend->is_host)
        s->host_logits = model->backend->host_alloc(model->backend, logits * sizeof *s->host_logits);
    s->seal_blocks = calloc(rows, sizeof(*s->seal_blocks));
    s->seal_index = calloc(rows, sizeof *s->seal_index);
    model->acts =
        model->backend->acts_create(model->backend, model->max_rows, most_columns(c), activation_bits(model));
    if (!s->x || !s->h || !s->halves || !s->cos || !s->sin || !s->logits || !s->seal_blocks ||
        !s->seal_index || !(s->host_logits || model->backend->is_host) || !model->acts) {
        return err_set_param(info, ERR_MEMORY, "max-batch-tokens",
                             "no memory for the activations of %d tokens (%zu bytes); lower "
                             "--max-batch-tokens",
                             model->max_rows, s->bytes);
    }
    s->q = s->halves;
    s->mix = s->q + rows * wide;
    s->k = s->mix + rows * wide;
    s->v = s->k + rows * narrow;
    s->gate = s->halves;
    s->up = s->gate + rows * ff;
    return ERR_OK;
}

static void scratch_free(struct model *model)
{
    struct model_scratch *s = &model->scratch;
    void *buffers[] = {s->x, s->h, s->halves, s->cos, s->sin, s->logits};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        if (buffers[i]) model->backend->free(model->backend, buffers[i]);
    }
    if (s->host_logits) model->backend->host_free(model->backend, s->host_logits);
    free(s->watched);
    free(s->seal_blocks);
    free(s->seal_index);
    if (model->acts) model->backend->acts_free(model->backend, model->acts);
    model->acts = NULL;
    *s = (struct model_scratch){0};
}

enum err model_load(const struct gguf *gguf, struct backend *backend, int max_rows, int max_logits,
                    struct model **out, struct err_info *info)
{
    assert(max_rows > 0 && max_logits > 0);
    struct model *model = calloc(1, sizeof *model);
    if (!model) return err_set(info, ERR_MEMORY, "no memory for a model");
    model->backend = backend;
    model->max_rows = max_rows;
    model->max_logits = max_logits;
    enum err err = model_config_read(gguf, &model->config, info);
    if (err) goto out;
    const struct model_config *c = &model->config;
    log_info("model",
             "%s '%s': %d layers, %d heads, %d KV heads of %d, width %d, feed-forward %d, vocabulary %d",
             c->arch, c->name, c->n_layers, c->n_heads, c->n_kv_heads, c->head_dim, c->n_embd, c->n_ff,
             c->n_vocab);
    model->inv_freq = calloc((size_t)c->head_dim / 2, sizeof *model->inv_freq);
    err = model->inv_freq ? model_rope_read(gguf, c, model->inv_freq, info)
                          : err_set(info, ERR_MEMORY, "no memory for a model");
    if (!err) model->keeps_weights = weights_keep(model, gguf);
    if (!err) err = model_weights_load(model, gguf, info);
    if (!err) err = scratch_create(model, info);
    if (err) goto out;
    gguf_release_pages(gguf);
    log_info("model",
             "%lld parameters; the backend holds %zu bytes of weights and %zu of activations, which products "
             "take with %d bits",
             (long long)c->n_params, model_weight_bytes(model), model_scratch_bytes(model),
             activation_bits(model));
    *out = model;
    model = NULL;
out:
    model_free(model);
    return err;
}

void model_free(struct model *model)
{
    if (!model) return;
    scratch_free(model);
    model_weights_free(model);
    free(model->inv_freq);
    free(model);
}

const struct model_config *model_config(const struct model *model)
{
    return &model->config;
}

void model_kv_shape(const struct model *model, struct kv_shape *out)
{
    *out = (struct kv_shape){
        .n_layers = model->config.n_layers,
        .n_heads = model->config.n_heads,
        .n_kv_heads = model->config.n_kv_heads,
        .head_dim = model->config.head_dim,
    };
}

const double *model_inv_freq(const struct model *model)
{
    return model->inv_freq;
}

size_t model_weight_bytes(const struct model *model)
{
    size_t (*bytes)(const struct weight *) = model->backend->weight_bytes;
    size_t sum = model->vector_bytes + bytes(model->embd);
    if (model->output != model->embd) sum += bytes(model->output);
    for (int i = 0; i < model->config.n_layers; i++) {
        const struct model_layer *layer = &model->layers[i];
        sum += bytes(layer->q) + bytes(layer->k) + bytes(layer->v) + bytes(layer->o);
        sum += bytes(layer->gate) + bytes(layer->up) + bytes(layer->down);
    }
    return sum;
}

size_t model_scratch_bytes(const struct model *model)
{
    return model->scratch.bytes;
}
