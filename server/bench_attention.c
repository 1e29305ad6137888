#include "server/bench_kernel.h"
#include "server/bench_pages.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Attention, layer after layer in turn; and what becomes of new keys and values. */

struct attention {
    const struct bench_pages *pages;
    int layer; /* next */
    float *q, *out;
};

static void attention_run(void *context)
{
    struct attention *attention = context;
    const struct bench_pages *pages = attention->pages;
    struct attention_args args = {.shape = &pages->shape,
                                  .layer = attention->layer,
                                  .scale = 1 / sqrtf((float)pages->shape.head_dim),
                                  .n_spans = pages->n_sequences,
                                  .spans = pages->spans,
                                  .q = attention->q,
                                  .out = attention->out};
    pages->backend->attention(pages->backend, &args);
    attention->layer = (attention->layer + 1) % pages->shape.n_layers;
}

/* n_rows rows at the end of each of so many sequences of `context` tokens. */
static enum err attention_case(struct bench_kernels *bench, const struct kv_format *format, int n_sequences,
                               int context, int n_rows, struct err_info *info)
{
    struct backend *backend = bench->backend;
    struct bench_pages pages;
    struct err_info why;
    char what[40];
    snprintf(what, sizeof what, "%s, %d x %d", format->name, n_sequences, context);
    if (bench_pages_create(bench, format, n_sequences, context, n_rows, &pages, &why) != ERR_OK) {
        bench_skip("attention", what, why.message);
        return ERR_OK;
    }
    size_t n =
        (size_t)n_sequences * (size_t)n_rows * (size_t)pages.shape.n_heads * (size_t)pages.shape.head_dim;
    struct attention attention = {
        .pages = &pages, .q = bench_memory_floats(backend, n), .out = bench_memory_floats(backend, n)};
    enum err err = ERR_OK;
    if (attention.q == NULL || attention.out == NULL) {
        err = err_set(info, ERR_MEMORY, "attention: out of memory");
    } else {
        double pairs = (double)n_rows * (context - (n_rows - 1) / 2.0); /* of a query and a key it may see */
        struct bench_row row = {.kernel = n_rows > 1 ? "prefill" : "attention",
                                .type = format->name,
                                .n = n_rows > 1 ? n_rows : n_sequences,
                                .context = context,
                                .us = bench_time_us(bench, attention_run, &attention),
                                .bytes = n_rows > 1 ? 0 : pages.read_bytes,
                                .macs = 2 * pairs * n_sequences * pages.shape.n_heads * pages.shape.head_dim};
        snprintf(row.what, sizeof row.what, "%d heads, %d KV of %d", pages.shape.n_heads,
                 pages.shape.n_kv_heads, pages.shape.head_dim);
        bench_row_report(bench, &row);
    }
    if (attention.q != NULL) backend->free(backend, attention.q);
    if (attention.out != NULL) backend->free(backend, attention.out);
    bench_pages_free(&pages);
    return err;
}

static int longest_context(const struct bench_kernels *bench)
{
    int longest = 0;
    for (int i = 0; i < bench->contexts.n; i++)
        if (bench->contexts.values[i] > longest) longest = bench->contexts.values[i];
    return longest;
}

enum err bench_attention_run(struct bench_kernels *bench, bool decode, bool prefill, struct err_info *info)
{
    enum { PREFILL_ROWS = 512 };
    struct kv_shape shape = model_shape_kv(&bench->shape);
    struct kv_formats *formats;
    enum err err = bench_pages_formats(&shape, bench->formats, longest_context(bench), &formats, info);
    if (err != ERR_OK) return err;
    for (int f = 0; f < kv_formats_count(formats) && err == ERR_OK; f++) {
        const struct kv_format *format = kv_formats_at(formats, f);
        for (int c = 0; c < bench->contexts.n && err == ERR_OK; c++) {
            int context = bench->contexts.values[c], rows = context < PREFILL_ROWS ? context : PREFILL_ROWS;
            for (int b = 0; decode && b < bench->batches.n && err == ERR_OK; b++)
                err = attention_case(bench, format, bench->batches.values[b], context, 1, info);
            if (prefill && err == ERR_OK) err = attention_case(bench, format, 1, context, rows, info);
        }
    }
    kv_formats_free(formats);
    return err;
}

/* ---- writing ---- */

struct writing {
    const struct bench_pages *pages;
    int layer;
    float *k, *v;
    const struct kv_block_ref **blocks;
    int32_t *index;
};

static void store_run(void *context)
{
    struct writing *writing = context;
    const struct bench_pages *pages = writing->pages;
    struct kv_store_args args = {.shape = &pages->shape,
                                 .layer = writing->layer,
                                 .n_spans = pages->n_sequences,
                                 .spans = pages->spans,
                                 .k = writing->k,
                                 .v = writing->v};
    pages->backend->kv_store(pages->backend, &args);
    writing->layer = (writing->layer + 1) % pages->shape.n_layers;
}

static void seal_run(void *context)
{
    struct writing *writing = context;
    const struct bench_pages *pages = writing->pages;
    struct kv_seal_args args = {.codec = pages->format->codec,
                                .layer = writing->layer,
                                .n_blocks = pages->n_blocks - 1, /* the last has no parts: it is open */
                                .blocks = writing->blocks,
                                .block_index = writing->index};
    pages->backend->kv_seal(pages->backend, &args);
    writing->layer = (writing->layer + 1) % pages->shape.n_layers;
}

static enum err writing_case(struct bench_kernels *bench, const struct kv_format *format, bool store,
                             bool seal, struct err_info *info)
{
    enum { SEALED = 8, TOKENS = SEALED * KV_BLOCK_TOKENS };
    struct backend *backend = bench->backend;
    struct bench_pages pages;
    const struct kv_block_ref *blocks[SEALED];
    int32_t index[SEALED];
    enum err err = bench_pages_create(bench, format, 1, TOKENS + 1, TOKENS + 1, &pages, info);
    if (err != ERR_OK) return err;
    for (int b = 0; b < SEALED; b++) {
        blocks[b] = &pages.blocks[b];
        index[b] = b;
    }
    size_t n = (size_t)(TOKENS + 1) * (size_t)pages.shape.n_kv_heads * (size_t)pages.shape.head_dim;
    struct writing writing = {.pages = &pages,
                              .k = bench_memory_floats(backend, n),
                              .v = bench_memory_floats(backend, n),
                              .blocks = blocks,
                              .index = index};
    if (writing.k == NULL || writing.v == NULL) {
        err = err_set(info, ERR_MEMORY, "seal: out of memory");
    } else {
        struct bench_row row = {.type = format->name, .n = TOKENS};
        snprintf(row.what, sizeof row.what, "%d KV heads of %d", pages.shape.n_kv_heads,
                 pages.shape.head_dim);
        /* What is sealed must be what keys and values look like. */
        for (int layer = 0; layer < pages.shape.n_layers; layer++) store_run(&writing);
        row.kernel = "store";
        row.us = store ? bench_time_us(bench, store_run, &writing) : 0;
        if (store) bench_row_report(bench, &row);
        row.kernel = "seal";
        row.us = seal && format->codec != NULL ? bench_time_us(bench, seal_run, &writing) : 0;
        if (row.us > 0) bench_row_report(bench, &row);
    }
    if (writing.k != NULL) backend->free(backend, writing.k);
    if (writing.v != NULL) backend->free(backend, writing.v);
    bench_pages_free(&pages);
    return err;
}

enum err bench_seal_run(struct bench_kernels *bench, bool store, bool seal, struct err_info *info)
{
    struct kv_shape shape = model_shape_kv(&bench->shape);
    struct kv_formats *formats;
    enum err err = bench_pages_formats(&shape, bench->formats, 1024, &formats, info);
    if (err != ERR_OK) return err;
    for (int f = 0; f < kv_formats_count(formats) && err == ERR_OK; f++) {
        const struct kv_format *format = kv_formats_at(formats, f);
        /* f16 pages are written alike whatever the format: once. */
        err = writing_case(bench, format, store && f == 0, seal, info);
    }
    kv_formats_free(formats);
    return err;
}
