/*
 * One step of the decoder over a batch: rows of several sequences, each at its own position.
 *
 * Everything here is written so that a row's result does not depend on the rows beside it. The operations of
 * the backend keep that law (kernels/backend.h), also those that are several in one; what this file adds is
 * the last layer's shortcut: rows whose logits nobody asked for stop after their keys and values are stored.
 *
 * Order within a layer matters: keys and values are stored, then blocks that became complete are sealed, then
 * the queries read, so a query reads an older block of its own chunk in coded form exactly as it would have,
 * had the block been sealed steps ago.
 */
#include "cache/format.h"
#include "model/model_internal.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* Blocks of one format that the step completes: a run of the scratch's seal_blocks. */
struct seals {
    const struct kv_codec *codec;
    int first, n;
};

/* The step's sizes, and what is the same in every layer. */
struct step {
    struct model *model;
    const struct model_batch *batch;
    struct kv_shape shape;
    int n_codecs;
    struct seals seals[KV_MAX_FORMATS];
};

static int count_seals(const struct attention_span *span)
{
    return (span->first_pos + span->n_rows) / KV_BLOCK_TOKENS - span->first_pos / KV_BLOCK_TOKENS;
}

static struct seals *seals_of(struct step *step, const struct kv_codec *codec)
{
    int i = 0;
    while (i < step->n_codecs && step->seals[i].codec != codec) i++;
    if (i == step->n_codecs) {
        assert(step->n_codecs < KV_MAX_FORMATS);
        step->seals[step->n_codecs++] = (struct seals){.codec = codec};
    }
    return &step->seals[i];
}

/* Blocks whose last token is in this step, sorted by codec; format f16 has nothing to seal. */
static void find_seals(struct step *step)
{
    struct model_scratch *s = &step->model->scratch;
    const struct model_batch *batch = step->batch;
    for (int i = 0; i < batch->n_spans; i++) {
        int n = count_seals(&batch->spans[i]);
        if (batch->spans[i].codec && n > 0) seals_of(step, batch->spans[i].codec)->n += n;
    }
    for (int i = 0, first = 0; i < step->n_codecs; i++) {
        struct seals *seals = &step->seals[i];
        seals->first = first;
        first += seals->n;
        seals->n = 0;
    }
    for (int i = 0; i < batch->n_spans; i++) {
        const struct attention_span *span = &batch->spans[i];
        int begin = span->first_pos / KV_BLOCK_TOKENS, end = begin + count_seals(span);
        if (!span->codec || begin == end) continue;
        struct seals *seals = seals_of(step, span->codec);
        for (int b = begin; b < end; b++) {
            s->seal_blocks[seals->first + seals->n] = &span->blocks[b];
            s->seal_index[seals->first + seals->n++] = b;
        }
    }
}

static void check_batch(const struct step *step)
{
    const struct model_batch *batch = step->batch;
    int row = 0;
    assert(batch->n_tokens > 0 && batch->n_tokens <= step->model->max_rows);
    assert(batch->n_logits >= 0 && batch->n_logits <= step->model->max_logits);
    for (int i = 0; i < batch->n_spans; i++) {
        const struct attention_span *span = &batch->spans[i];
        assert(span->first_row == row && span->n_rows > 0 && span->first_pos >= 0);
        assert(span->n_blocks > (span->first_pos + span->n_rows - 1) / KV_BLOCK_TOKENS);
        row += span->n_rows;
    }
    assert(row == batch->n_tokens);
    for (int i = 0; i < batch->n_logits; i++) {
        assert(batch->logit_rows[i] >= 0 && batch->logit_rows[i] < batch->n_tokens);
        assert(i == 0 || batch->logit_rows[i] > batch->logit_rows[i - 1]);
    }
    for (int i = 0; i < batch->n_tokens; i++) {
        assert(batch->tokens[i] >= 0 && batch->tokens[i] < step->model->config.n_vocab);
    }
    (void)row;
}

static void part_begin(const struct step *step, enum backend_part part)
{
    step->model->backend->part_begin(step->model->backend, part);
}

/* What became complete is sealed. */
static void seal_layer(const struct step *step, int index)
{
    struct model_scratch *s = &step->model->scratch;
    struct backend *backend = step->model->backend;
    for (int i = 0; i < step->n_codecs; i++) {
        const struct seals *seals = &step->seals[i];
        struct kv_seal_args seal = {
            .codec = seals->codec,
            .layer = index,
            .n_blocks = seals->n,
            .blocks = s->seal_blocks + seals->first,
            .block_index = s->seal_index + seals->first,
        };
        backend->kv_seal(backend, &seal);
    }
}

/* x, to which the layer before adds what stands in h, -> q, k, v; then RoPE, and the keys and values of every
   row go to the cache. */
static void project_layer(const struct step *step, int index)
{
    struct model *model = step->model;
    struct backend *backend = model->backend;
    struct model_scratch *s = &model->scratch;
    const struct model_config *c = &model->config;
    const struct model_layer *layer = &model->layers[index];
    struct kv_store_args store = {
        .shape = &step->shape,
        .layer = index,
        .n_spans = step->batch->n_spans,
        .spans = step->batch->spans,
        .k = s->k,
        .v = s->v,
    };
    backend->add_norm_prepare(backend, s->x, index > 0 ? s->h : NULL, layer->attn_norm, c->rms_eps,
                              step->batch->n_tokens, c->n_embd, s->h, model->acts);
    part_begin(step, BACKEND_PRODUCTS);
    const struct backend_product products[] = {
        {layer->q, layer->q_bias, s->q}, {layer->k, layer->k_bias, s->k}, {layer->v, layer->v_bias, s->v}};
    backend->matmul_group(backend, products, 3, model->acts);
    part_begin(step, BACKEND_REST);
    backend->rotate_store(backend, &store, s->q, s->k, s->cos, s->sin);
}

static void attend_layer(const struct step *step, int index)
{
    struct backend *backend = step->model->backend;
    struct attention_args args = {
        .shape = &step->shape,
        .layer = index,
        .scale = (float)(1 / sqrt(step->shape.head_dim)),
        .n_spans = step->batch->n_spans,
        .spans = step->batch->spans,
        .q = step->model->scratch.q,
        .out = step->model->scratch.mix,
    };
    part_begin(step, BACKEND_ATTENTION);
    backend->attention(backend, &args);
    part_begin(step, BACKEND_REST);
}

/* What attention gave, through the output matrix, and the feed-forward network: n rows, into h. */
static void mix_layer(const struct step *step, const struct model_layer *layer, int n)
{
    struct model *model = step->model;
    struct backend *backend = model->backend;
    struct model_scratch *s = &model->scratch;
    const struct model_config *c = &model->config;
    backend->prepare(backend, s->mix, n, c->n_heads * c->head_dim, model->acts);
    part_begin(step, BACKEND_PRODUCTS);
    backend->matmul(backend, layer->o, model->acts, NULL, s->h);
    part_begin(step, BACKEND_REST);
    backend->add_norm_prepare(backend, s->x, s->h, layer->ffn_norm, c->rms_eps, n, c->n_embd, s->h,
                              model->acts);
    part_begin(step, BACKEND_PRODUCTS);
    const struct backend_product products[] = {{layer->gate, NULL, s->gate}, {layer->up, NULL, s->up}};
    backend->matmul_group(backend, products, 2, model->acts);
    part_begin(step, BACKEND_REST);
    backend->swiglu_prepare(backend, s->gate, s->up, n, c->n_ff, model->acts);
    part_begin(step, BACKEND_PRODUCTS);
    backend->matmul(backend, layer->down, model->acts, NULL, s->h);
    part_begin(step, BACKEND_REST);
}

/* Move the wanted rows of a matrix to its front; rows are increasing, so nothing is overwritten too early. */
static void keep_rows(struct backend *backend, float *matrix, int width, const int32_t *rows, int n)
{
    for (int i = 0; i < n; i++) {
        float *to = matrix + (size_t)i * (size_t)width;
        if (rows[i] == i) continue;
        backend->copy(backend, to, matrix + (size_t)rows[i] * (size_t)width, (size_t)width * sizeof *to);
    }
}

/* ---- those who look ---- */

/* n floats of the backend where the host can read them, `at` floats into the room for what is watched. */
static const float *watch(const struct step *step, const float *memory, size_t at, size_t n)
{
    struct model *model = step->model;
    struct backend *backend = model->backend;
    if (backend->is_host) return memory;
    backend->download(backend, model->scratch.watched + at, memory, n * sizeof *memory);
    return model->scratch.watched + at;
}

/* Room for all that a tap sees of a layer. */
static bool watch_prepare(const struct step *step)
{
    struct model *model = step->model;
    const struct model_config *c = &model->config;
    size_t heads = 2 * (size_t)(c->n_heads + c->n_kv_heads) * (size_t)c->head_dim;
    size_t n = (size_t)model->max_rows * ((size_t)c->n_embd + heads);
    if (model->backend->is_host || model->scratch.watched) return true;
    model->scratch.watched = malloc(n * sizeof(float));
    return model->scratch.watched != NULL;
}

static bool tap_layer(const struct step *step, int index)
{
    const struct model_batch *batch = step->batch;
    const struct model_scratch *s = &step->model->scratch;
    const size_t n = (size_t)batch->n_tokens, n_embd = n * (size_t)step->model->config.n_embd;
    const size_t n_q = n * (size_t)step->shape.n_heads * (size_t)step->shape.head_dim;
    const size_t n_kv = n * (size_t)step->shape.n_kv_heads * (size_t)step->shape.head_dim;
    if (!watch_prepare(step)) return false;
    struct model_attention attention = {
        watch(step, s->x, 0, n_embd), watch(step, s->q, n_embd, n_q), watch(step, s->k, n_embd + n_q, n_kv),
        watch(step, s->v, n_embd + n_q + n_kv, n_kv), watch(step, s->mix, n_embd + n_q + 2 * n_kv, n_q)};
    return batch->tap(batch->tap_context, index, &attention);
}

static void stored_layer(const struct step *step, int index)
{
    const struct model_batch *batch = step->batch;
    const size_t n = (size_t)batch->n_tokens * (size_t)step->model->config.n_embd;
    if (!watch_prepare(step)) return;
    batch->stored(batch->stored_context, index, watch(step, step->model->scratch.x, 0, n));
}

/* False when nobody wants logits, or a tap ended it. */
static bool layers_run(const struct step *step)
{
    struct model *model = step->model;
    const struct model_batch *batch = step->batch;
    struct model_scratch *s = &model->scratch;
    const struct model_config *c = &model->config;
    for (int i = 0; i < c->n_layers; i++) {
        const bool last = i == c->n_layers - 1;
        project_layer(step, i);
        seal_layer(step, i);
        if (batch->stored) stored_layer(step, i);
        if (last && batch->n_logits == 0 && !batch->tap) return false;
        attend_layer(step, i);
        if (batch->tap && !tap_layer(step, i)) return false;
        if (last && batch->n_logits == 0) return false;
        if (last) {
            keep_rows(model->backend, s->x, c->n_embd, batch->logit_rows, batch->n_logits);
            keep_rows(model->backend, s->mix, c->n_heads * c->head_dim, batch->logit_rows, batch->n_logits);
        }
        mix_layer(step, &model->layers[i], last ? batch->n_logits : batch->n_tokens);
    }
    return true;
}

static void project_logits(const struct step *step)
{
    struct model *model = step->model;
    struct backend *backend = model->backend;
    struct model_scratch *s = &model->scratch;
    const struct model_config *c = &model->config;
    const int n = step->batch->n_logits;
    backend->add_norm_prepare(backend, s->x, s->h, model->output_norm, c->rms_eps, n, c->n_embd, s->h,
                              model->acts);
    part_begin(step, BACKEND_PRODUCTS);
    backend->matmul(backend, model->output, model->acts, NULL, s->logits);
    part_begin(step, BACKEND_REST);
}

/* The step's results to the host, which waits for the device here. */
static void bring_logits(const struct step *step)
{
    const struct model_batch *batch = step->batch;
    struct model_scratch *s = &step->model->scratch;
    struct backend *backend = step->model->backend;
    const size_t n_vocab = (size_t)step->model->config.n_vocab;
    if (batch->wishes)
        backend->choose(backend, s->logits, batch->n_logits, (int)n_vocab, batch->wishes, s->host_logits,
                        batch->answers);
    else
        backend->download(backend, s->host_logits, s->logits,
                          (size_t)batch->n_logits * n_vocab * sizeof *s->logits);
}

void model_fetch_row(struct model *model, int row)
{
    struct backend *backend = model->backend;
    const size_t n_vocab = (size_t)model->config.n_vocab, at = (size_t)row * n_vocab;
    if (backend->is_host) return;
    backend->download(backend, model->scratch.host_logits + at, model->scratch.logits + at,
                      n_vocab * sizeof(float));
}

void model_forward(struct model *model, const struct model_batch *batch, const float **logits)
{
    struct step step = {.model = model, .batch = batch};
    struct backend *backend = model->backend;
    struct model_scratch *s = &model->scratch;
    model_kv_shape(model, &step.shape);
    check_batch(&step);
    find_seals(&step);
    *logits = backend->is_host ? s->logits : s->host_logits;
    if (backend->step_begin) backend->step_begin(backend, batch->n_spans, batch->spans);
    part_begin(&step, BACKEND_REST);
    backend->angles(backend, batch->n_spans, batch->spans, step.shape.head_dim / 2, model->inv_freq, s->cos,
                    s->sin);
    backend->gather(backend, model->embd, batch->tokens, batch->n_tokens, s->x);
    const bool whole = layers_run(&step);
    if (whole) project_logits(&step);
    part_begin(&step, BACKEND_PARTS);
    if (whole && !backend->is_host) bring_logits(&step);
}
