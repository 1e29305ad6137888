/*
 * One step of the decoder over a batch: rows of several sequences, each at its own position.
 *
 * Everything here is written so that a row's result does not depend on the rows beside it. The operations of
 * the backend keep that law (kernels/backend.h); what this file adds are the angles of RoPE, which are a
 * function of a row's own position, and the last layer's shortcut: rows whose logits nobody asked for stop
 * after their keys and values are stored.
 *
 * Order within a layer matters: keys and values are stored, then blocks that became complete are sealed, then
 * the queries read, so a query reads an older block of its own chunk in coded form exactly as it would have,
 * had the block been sealed steps ago.
 */
#include "model/model_internal.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* The step's sizes, and what is the same in every layer. */
struct step {
    struct model *model;
    const struct model_batch *batch;
    struct kv_shape shape;
    int n_seals;
};

/* cos and sin of every row's position times every frequency: in double, because a float product of position
   and frequency is off by a visible angle at long contexts. */
static void rotate_angles(const struct step *step)
{
    struct model_scratch *s = &step->model->scratch;
    const int half = step->shape.head_dim / 2;
    for (int i = 0; i < step->batch->n_spans; i++) {
        const struct attention_span *span = &step->batch->spans[i];
        for (int r = 0; r < span->n_rows; r++) {
            size_t at = (size_t)(span->first_row + r) * (size_t)half;
            for (int f = 0; f < half; f++) {
                double angle = (double)(span->first_pos + r) * step->model->inv_freq[f];
                s->cos[at + (size_t)f] = (float)cos(angle);
                s->sin[at + (size_t)f] = (float)sin(angle);
            }
        }
    }
}

/* Blocks whose last token is in this step; format f16 has nothing to seal. */
static void find_seals(struct step *step)
{
    struct model_scratch *s = &step->model->scratch;
    for (int i = 0; i < step->batch->n_spans; i++) {
        const struct attention_span *span = &step->batch->spans[i];
        if (span->all_f16) continue;
        int end = (span->first_pos + span->n_rows) / KV_BLOCK_TOKENS;
        for (int b = span->first_pos / KV_BLOCK_TOKENS; b < end; b++) {
            s->seal_blocks[step->n_seals] = &span->blocks[b];
            s->seal_index[step->n_seals++] = b;
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
        assert(span->all_f16 || batch->tables);
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

/* Keys and values of every row go to the cache, and what became complete is sealed. */
static void store_layer(const struct step *step, int index)
{
    struct model_scratch *s = &step->model->scratch;
    struct backend *backend = step->model->backend;
    struct kv_store_args store = {
        .shape = &step->shape,
        .layer = index,
        .n_spans = step->batch->n_spans,
        .spans = step->batch->spans,
        .k = s->k,
        .v = s->v,
    };
    backend->kv_store(backend, &store);
    if (step->n_seals == 0) return;
    struct kv_seal_args seal = {
        .shape = &step->shape,
        .tables = step->batch->tables,
        .layer = index,
        .n_blocks = step->n_seals,
        .blocks = s->seal_blocks,
        .block_index = s->seal_index,
    };
    backend->kv_seal(backend, &seal);
}

/* x -> q, k, v after RoPE, all rows. */
static void project_layer(const struct step *step, const struct model_layer *layer)
{
    struct model *model = step->model;
    struct backend *backend = model->backend;
    struct model_scratch *s = &model->scratch;
    const struct model_config *c = &model->config;
    const int n = step->batch->n_tokens;
    backend->rmsnorm(backend, s->x, layer->attn_norm, c->rms_eps, n, c->n_embd, s->h);
    backend->prepare(backend, s->h, n, c->n_embd, model->acts);
    backend->matmul(backend, layer->q, model->acts, layer->q_bias, s->q);
    backend->matmul(backend, layer->k, model->acts, layer->k_bias, s->k);
    backend->matmul(backend, layer->v, model->acts, layer->v_bias, s->v);
    backend->rope(backend, s->q, n, c->n_heads, c->head_dim, s->cos, s->sin);
    backend->rope(backend, s->k, n, c->n_kv_heads, c->head_dim, s->cos, s->sin);
}

static void attend_layer(const struct step *step, int index)
{
    struct backend *backend = step->model->backend;
    struct attention_args args = {
        .shape = &step->shape,
        .tables = step->batch->tables,
        .layer = index,
        .scale = (float)(1 / sqrt(step->shape.head_dim)),
        .n_spans = step->batch->n_spans,
        .spans = step->batch->spans,
        .q = step->model->scratch.q,
        .out = step->model->scratch.mix,
    };
    backend->attention(backend, &args);
}

/* What attention gave, through the output matrix, and the feed-forward network: n rows. */
static void mix_layer(const struct step *step, const struct model_layer *layer, int n)
{
    struct model *model = step->model;
    struct backend *backend = model->backend;
    struct model_scratch *s = &model->scratch;
    const struct model_config *c = &model->config;
    const size_t size = (size_t)n * (size_t)c->n_embd;
    backend->prepare(backend, s->mix, n, c->n_heads * c->head_dim, model->acts);
    backend->matmul(backend, layer->o, model->acts, NULL, s->h);
    backend->add(backend, s->x, s->h, size);
    backend->rmsnorm(backend, s->x, layer->ffn_norm, c->rms_eps, n, c->n_embd, s->h);
    backend->prepare(backend, s->h, n, c->n_embd, model->acts);
    backend->matmul(backend, layer->gate, model->acts, NULL, s->gate);
    backend->matmul(backend, layer->up, model->acts, NULL, s->up);
    backend->swiglu(backend, s->gate, s->up, (size_t)n * (size_t)c->n_ff, s->gate);
    backend->prepare(backend, s->gate, n, c->n_ff, model->acts);
    backend->matmul(backend, layer->down, model->acts, NULL, s->h);
    backend->add(backend, s->x, s->h, size);
}

/* Move the wanted rows of a matrix to its front; rows are increasing, so nothing is overwritten too early. */
static void keep_rows(float *matrix, int width, const int32_t *rows, int n)
{
    for (int i = 0; i < n; i++) {
        float *to = matrix + (size_t)i * (size_t)width;
        memmove(to, matrix + (size_t)rows[i] * (size_t)width, (size_t)width * sizeof *to);
    }
}

void model_forward(struct model *model, const struct model_batch *batch, const float **logits)
{
    struct step step = {.model = model, .batch = batch};
    struct backend *backend = model->backend;
    struct model_scratch *s = &model->scratch;
    const struct model_config *c = &model->config;
    model_kv_shape(model, &step.shape);
    check_batch(&step);
    rotate_angles(&step);
    find_seals(&step);
    *logits = s->logits;

    backend->gather(backend, model->embd, batch->tokens, batch->n_tokens, s->x);
    for (int i = 0; i < c->n_layers; i++) {
        const bool last = i == c->n_layers - 1;
        project_layer(&step, &model->layers[i]);
        if (batch->tap && !batch->tap(batch->tap_context, i, s->q, s->k, s->v)) return;
        store_layer(&step, i);
        if (last && batch->n_logits == 0) return;
        attend_layer(&step, i);
        if (last) {
            keep_rows(s->x, c->n_embd, batch->logit_rows, batch->n_logits);
            keep_rows(s->mix, c->n_heads * c->head_dim, batch->logit_rows, batch->n_logits);
        }
        mix_layer(&step, &model->layers[i], last ? batch->n_logits : batch->n_tokens);
    }
    backend->rmsnorm(backend, s->x, model->output_norm, c->rms_eps, batch->n_logits, c->n_embd, s->h);
    backend->prepare(backend, s->h, batch->n_logits, c->n_embd, model->acts);
    backend->matmul(backend, model->output, model->acts, NULL, s->logits);
}
