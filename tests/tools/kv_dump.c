/*
 * kv_dump LEVEL THREADS LAYERS HEADS KV_HEADS HEAD_DIM KIND RECENT TOKENS SINKS TABLES CHUNK FILE
 *
 * Builds a random sequence (tests/unit/support/kv_fixture.h), writes its cache and attends from every row;
 * then writes everything that an independent reference needs to FILE, as records
 *
 *   name '\n' type ('f4', 'f2' or 'u1') '\n' count '\n' bytes
 *
 * KIND f16, q4, o4, q2; TABLES identity, dense, means.
 */
#include "kernels/workers.h"
#include "tests/unit/support/kv_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *file;

static void record(const char *name, const char *type, const void *data, size_t count)
{
    if (!data) return;
    fprintf(file, "%s\n%s\n%zu\n", name, type, count);
    fwrite(data, (size_t)(type[1] - '0'), count, file);
}

static void record_tables(const struct kv_fixture *fixture)
{
    const struct kv_tables *tables = fixture->tables;
    size_t n = (size_t)fixture->shape.head_dim,
           n_pages = (size_t)fixture->shape.n_layers * fixture->shape.n_kv_heads;
    record("key_mean", "f4", tables->key_mean, n_pages * n);
    record("value_mean", "f4", tables->value_mean, n_pages * n);
    record("key_transform", "f4", tables->key_transform, n_pages * n * n);
    record("query_transform", "f4", tables->query_transform, n_pages * n * n);
    record("value_transform", "f4", tables->value_transform, n * n);
    record("rope_cos", "f4", tables->rope_cos, (size_t)tables->frame_tokens * n / 2);
    record("rope_sin", "f4", tables->rope_sin, (size_t)tables->frame_tokens * n / 2);
    record("frame_cos", "f4", tables->frame_cos, (size_t)tables->n_frames * n / 2);
    record("frame_sin", "f4", tables->frame_sin, (size_t)tables->n_frames * n / 2);
}

static void record_blocks(const struct kv_fixture *fixture)
{
    char name[64];
    for (int b = 0; b < fixture->n_blocks; b++) {
        const struct kv_block_ref *block = &fixture->blocks[b];
        snprintf(name, sizeof name, "f16.%d", b);
        record(name, "f2", block->f16, kv_block_bytes(KV_F16, &fixture->shape) / 2);
        if (!block->coded) continue;
        snprintf(name, sizeof name, "coded.%d", b);
        record(name, "u1", block->coded, kv_block_bytes(fixture->kind, &fixture->shape));
        for (int s = 0, n = __builtin_popcountll(block->sink_mask); s < n; s++) {
            snprintf(name, sizeof name, "sink.%d.%d", b, s);
            record(name, "f2", block->sinks[s], kv_block_bytes(KV_SINK, &fixture->shape) / 2);
        }
    }
}

static void record_attention(const struct kv_fixture *fixture, struct backend *backend, int chunk)
{
    const struct kv_shape *shape = &fixture->shape;
    size_t row = (size_t)shape->n_heads * shape->head_dim, n = (size_t)fixture->n_tokens * row;
    float *out = malloc(n * shape->n_layers * sizeof *out);
    if (!out) exit(1);
    for (int layer = 0; layer < shape->n_layers; layer++)
        for (int first = 0; first < fixture->n_tokens; first += chunk)
            kv_fixture_attend(fixture, backend, layer, first,
                              first + chunk < fixture->n_tokens ? chunk : fixture->n_tokens - first,
                              out + layer * n + first * row);
    record("out", "f4", out, n * shape->n_layers);
    free(out);
}

static enum kv_kind kind_of(const char *name)
{
    return !strcmp(name, "f16") ? KV_F16 : !strcmp(name, "q4") ? KV_Q4 : !strcmp(name, "o4") ? KV_O4 : KV_Q2;
}

int main(int argc, char **argv)
{
    if (argc != 14 || !(file = fopen(argv[13], "wb"))) {
        fprintf(stderr, "kv_dump: see the top of tests/tools/kv_dump.c\n");
        return 2;
    }
    struct kv_shape shape = {atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), atoi(argv[6])};
    struct workers *workers;
    struct backend *backend;
    struct err_info info;
    if (workers_create(atoi(argv[2]), &workers, &info) ||
        backend_cpu_create(workers, argv[1], &backend, &info)) {
        fprintf(stderr, "kv_dump: %s\n", info.message);
        return 1;
    }
    int n_tokens = atoi(argv[9]), n_frames = n_tokens / 256 + 1;
    int is_identity = !strcmp(argv[11], "identity");
    struct kv_tables *tables = is_identity
                                   ? kv_fixture_identity(&shape, n_frames)
                                   : kv_fixture_tables(&shape, n_frames, !strcmp(argv[11], "means"), 7);
    struct kv_fixture fixture;
    kv_fixture_init(&fixture, &shape, tables, kind_of(argv[7]), atoi(argv[8]), n_tokens, atoi(argv[10]), 1,
                    1);
    kv_fixture_fill(&fixture, backend, atoi(argv[12]));
    size_t n = (size_t)shape.n_layers * n_tokens * shape.head_dim;
    record("q", "f4", fixture.q, n * shape.n_heads);
    record("k", "f4", fixture.k, n * shape.n_kv_heads);
    record("v", "f4", fixture.v, n * shape.n_kv_heads);
    record_tables(&fixture);
    record_blocks(&fixture);
    record_attention(&fixture, backend, atoi(argv[12]));
    int failed = fclose(file);
    kv_fixture_free(&fixture);
    is_identity ? kv_tables_free(tables) : kv_fixture_tables_free(tables);
    backend->destroy(backend);
    workers_free(workers);
    return failed ? 1 : 0;
}
