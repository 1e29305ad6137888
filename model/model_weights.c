/*
 * Weights from the file to the backend. Each tensor is looked up by name, its shape compared with what the
 * config says, and handed over; a tensor that nobody asked for means a model that octavo does not know, and
 * is refused rather than ignored.
 */
#include "config/log.h"
#include "model/gguf_internal.h"
#include "model/model_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* State of one load. */
struct loader {
    struct model *model;
    const struct gguf *gguf;
    struct err_info *info;
    bool *used;       /* [tensors] */
    int32_t *order_q; /* row orders, NULL for archs whose rows stand as the kernels want them */
    int32_t *order_k;
    float *vector; /* next free place in model->vectors */
    float
        *vectors; /* the same memory, or where the backend's is not the host's, what goes there at the end */
};

static const struct gguf_tensor *find_tensor(struct loader *loader, const char *name)
{
    const struct gguf_tensor *tensor = gguf_tensor_find(loader->gguf, name);
    if (tensor) loader->used[tensor - gguf_tensor_at(loader->gguf, 0)] = true;
    return tensor;
}

/* "[576, 192]", as GGUF orders them. */
struct shape {
    char text[96];
};

static struct shape shape_of(int n_dims, const int64_t *dims)
{
    struct shape shape = {"["};
    for (int i = 0; i < n_dims; i++) {
        size_t at = strlen(shape.text);
        snprintf(shape.text + at, sizeof shape.text - at, "%s%lld", i ? ", " : "", (long long)dims[i]);
    }
    strcat(shape.text, "]");
    return shape;
}

/* The tensor, when it is there and has this shape. */
static enum err need_tensor(struct loader *loader, const char *name, int n_dims, const int64_t *dims,
                            const struct gguf_tensor **out)
{
    const struct gguf_tensor *tensor = find_tensor(loader, name);
    if (!tensor) return err_set_param(loader->info, ERR_FORMAT, name, "tensor '%s' is missing", name);
    bool equal = tensor->n_dims == n_dims;
    for (int i = 0; i < n_dims && equal; i++) equal = tensor->dims[i] == dims[i];
    if (!equal) {
        struct shape found = shape_of(tensor->n_dims, tensor->dims), expected = shape_of(n_dims, dims);
        return err_set_param(loader->info, ERR_FORMAT, name, "tensor '%s': shape %s found, %s expected", name,
                             found.text, expected.text);
    }
    *out = tensor;
    return ERR_OK;
}

static enum err load_matrix(struct loader *loader, const char *name, int n_rows, int n_cols,
                            const int32_t *row_order, bool multiply, bool gather, struct weight **out)
{
    const struct gguf_tensor *tensor;
    enum err err = need_tensor(loader, name, 2, (int64_t[]){n_cols, n_rows}, &tensor);
    if (err) return err;
    struct weight_source source = {
        .name = name,
        .dtype = tensor->dtype,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .data = tensor->data,
        .row_order = row_order,
        .multiply = multiply,
        .gather = gather,
        .keep = loader->model->keeps_weights,
    };
    struct backend *backend = loader->model->backend;
    return backend->weight_create(backend, &source, out, loader->info);
}

/* A norm or a bias: n elements, fp32 in the model's memory, in row_order when there is one. */
static enum err load_vector(struct loader *loader, const char *name, int n, const int32_t *row_order,
                            const float **out)
{
    const struct gguf_tensor *tensor;
    enum err err = need_tensor(loader, name, 1, (int64_t[]){n}, &tensor);
    if (err) return err;
    size_t element = dtype_block_bytes(tensor->dtype);
    if (dtype_block_elements(tensor->dtype) != 1) {
        return err_set_param(loader->info, ERR_FORMAT, name, "tensor '%s': a vector of type %s; F32 expected",
                             name, dtype_name(tensor->dtype));
    }
    float *vector = loader->vectors + (loader->vector - loader->model->vectors);
    for (int i = 0; i < n; i++) {
        int row = row_order ? row_order[i] : i;
        dtype_to_f32(tensor->dtype, (const char *)tensor->data + (size_t)row * element, 1, &vector[i]);
    }
    *out = loader->vector;
    loader->vector += n;
    return ERR_OK;
}

/*
 * The converter stores Q and K of `llama` for RoPE on neighbouring channels (2i, 2i+1); the kernels rotate
 * (i, i + D/2), as the models were trained. Channel s*D/2 + i of a head is therefore row 2i + s of the file.
 */
static int32_t *row_order_create(int n_heads, int head_dim)
{
    int32_t *order = malloc((size_t)n_heads * (size_t)head_dim * sizeof *order);
    if (!order) return NULL;
    for (int h = 0; h < n_heads; h++) {
        for (int c = 0; c < head_dim; c++) {
            int half = c / (head_dim / 2), i = c % (head_dim / 2);
            order[h * head_dim + c] = h * head_dim + 2 * i + half;
        }
    }
    return order;
}

static enum err load_bias(struct loader *loader, const char *name, int n, const int32_t *row_order,
                          const float **out)
{
    bool needed = strcmp(loader->model->config.arch, "qwen2") == 0;
    if (!needed && !gguf_tensor_find(loader->gguf, name)) return ERR_OK;
    return load_vector(loader, name, n, row_order, out);
}

static enum err load_layer(struct loader *loader, int index)
{
    const struct model_config *c = &loader->model->config;
    struct model_layer *layer = &loader->model->layers[index];
    const int n_q = c->n_heads * c->head_dim, n_kv = c->n_kv_heads * c->head_dim;
    char name[64];
    const struct {
        const char *name;
        int n_rows, n_cols;
        const int32_t *row_order;
        struct weight **out;
    } matrices[] = {
        {"attn_q", n_q, c->n_embd, loader->order_q, &layer->q},
        {"attn_k", n_kv, c->n_embd, loader->order_k, &layer->k},
        {"attn_v", n_kv, c->n_embd, NULL, &layer->v},
        {"attn_output", c->n_embd, n_q, NULL, &layer->o},
        {"ffn_gate", c->n_ff, c->n_embd, NULL, &layer->gate},
        {"ffn_up", c->n_ff, c->n_embd, NULL, &layer->up},
        {"ffn_down", c->n_embd, c->n_ff, NULL, &layer->down},
    };
    const float **biases[] = {&layer->q_bias, &layer->k_bias, &layer->v_bias};
    enum err err = ERR_OK;
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices && !err; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", index, matrices[i].name);
        err = load_matrix(loader, name, matrices[i].n_rows, matrices[i].n_cols, matrices[i].row_order, true,
                          false, matrices[i].out);
        if (err || i >= sizeof biases / sizeof *biases) continue;
        snprintf(name, sizeof name, "blk.%d.%s.bias", index, matrices[i].name);
        err = load_bias(loader, name, matrices[i].n_rows, matrices[i].row_order, biases[i]);
    }
    if (err) return err;
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", index);
    err = load_vector(loader, name, c->n_embd, NULL, &layer->attn_norm);
    if (err) return err;
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", index);
    return load_vector(loader, name, c->n_embd, NULL, &layer->ffn_norm);
}

static enum err load_ends(struct loader *loader)
{
    struct model *model = loader->model;
    const struct model_config *c = &model->config;
    bool tied = !gguf_tensor_find(loader->gguf, "output.weight");
    enum err err =
        load_matrix(loader, "token_embd.weight", c->n_vocab, c->n_embd, NULL, tied, true, &model->embd);
    if (!err && tied) model->output = model->embd;
    if (!err && !tied) {
        err = load_matrix(loader, "output.weight", c->n_vocab, c->n_embd, NULL, true, false, &model->output);
    }
    if (!err) err = load_vector(loader, "output_norm.weight", c->n_embd, NULL, &model->output_norm);
    return err;
}

static enum err check_unused(struct loader *loader)
{
    find_tensor(loader, "rope_freqs.weight"); /* read with the config */
    for (size_t i = 0; i < gguf_tensor_count(loader->gguf); i++) {
        if (loader->used[i]) continue;
        struct gguf_label name = gguf_label_of(gguf_tensor_at(loader->gguf, i)->name);
        return err_set_param(loader->info, ERR_UNSUPPORTED, name.text,
                             "tensor '%s' is not part of a %s model as octavo knows it", name.text,
                             loader->model->config.arch);
    }
    return ERR_OK;
}

static enum err loader_create(struct loader *loader)
{
    struct model *model = loader->model;
    const struct model_config *c = &model->config;
    const size_t per_layer =
        2 * (size_t)c->n_embd + (size_t)(c->n_heads + 2 * c->n_kv_heads) * (size_t)c->head_dim;
    model->vector_bytes = ((size_t)c->n_layers * per_layer + (size_t)c->n_embd) * sizeof(float);
    model->vectors = model->backend->alloc(model->backend, model->vector_bytes);
    model->layers = calloc((size_t)c->n_layers, sizeof *model->layers);
    loader->used = calloc(gguf_tensor_count(loader->gguf), sizeof *loader->used);
    loader->vector = model->vectors;
    loader->vectors = model->backend->is_host ? model->vectors : malloc(model->vector_bytes);
    bool permuted = strcmp(c->arch, "llama") == 0;
    if (permuted) {
        loader->order_q = row_order_create(c->n_heads, c->head_dim);
        loader->order_k = row_order_create(c->n_kv_heads, c->head_dim);
    }
    if (!model->vectors || !loader->vectors || !model->layers || !loader->used ||
        (permuted && !(loader->order_q && loader->order_k))) {
        return err_set(loader->info, ERR_MEMORY,
                       "no memory for the weights of %d layers; a smaller model is needed, or more memory",
                       c->n_layers);
    }
    return ERR_OK;
}

enum err model_weights_load(struct model *model, const struct gguf *gguf, struct err_info *info)
{
    struct loader loader = {.model = model, .gguf = gguf, .info = info};
    const int n_layers = model->config.n_layers;
    enum err err = loader_create(&loader);
    if (!err) err = load_ends(&loader);
    for (int i = 0; i < n_layers && !err; i++) {
        err = load_layer(&loader, i);
        /* Four lines at most: at every quarter of the layers. */
        if (!err && (i + 1) * 4 / n_layers > i * 4 / n_layers) {
            log_info("model", "weights: %d of %d layers", i + 1, n_layers);
        }
    }
    if (!err) err = check_unused(&loader);
    if (!model->backend->is_host) {
        if (!err) model->backend->upload(model->backend, model->vectors, loader.vectors, model->vector_bytes);
        free(loader.vectors);
    }
    free(loader.used);
    free(loader.order_q);
    free(loader.order_k);
    return err;
}

static void weight_free(struct model *model, struct weight *weight)
{
    if (weight) model->backend->weight_free(model->backend, weight);
}

void model_weights_free(struct model *model)
{
    for (int i = 0; model->layers && i < model->config.n_layers; i++) {
        struct model_layer *layer = &model->layers[i];
        struct weight *weights[] = {layer->q,    layer->k,  layer->v,   layer->o,
                                    layer->gate, layer->up, layer->down};
        for (size_t w = 0; w < sizeof weights / sizeof *weights; w++) weight_free(model, weights[w]);
    }
    if (model->output != model->embd) weight_free(model, model->output);
    weight_free(model, model->embd);
    if (model->vectors) model->backend->free(model->backend, model->vectors);
    free(model->layers);
    model->layers = NULL;
    model->embd = model->output = NULL;
    model->output_norm = NULL;
    model->vectors = NULL;
    model->vector_bytes = 0;
}
