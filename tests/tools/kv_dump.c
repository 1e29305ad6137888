/*
 * kv_dump LEVEL THREADS LAYERS HEADS KV_HEADS HEAD_DIM FORMAT RECENT TOKENS SINKS TABLES CHUNK FILE
 *
 * Builds a random sequence (tests/unit/support/kv_fixture.h), writes its cache, attends from every row and
 * brings the sealed blocks back to f16; then writes everything that an independent reference needs to FILE,
 * as records
 *
 *   name '\n' type ('f4', 'f2', 'u1' or 'u8') '\n' count '\n' bytes
 *
 * FORMAT f16, o2, o4, mixed; TABLES identity, dense, means.
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

static void record_tables(const struct kv_fixture *fixture, const struct kv_tables *tables)
{
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

static void record_part(const struct kv_codec *codec, int p)
{
    const struct kv_part *part = &codec->parts[p];
    size_t n_pages = (size_t)codec->n_pages, n = n_pages * (size_t)codec->n_groups;
    const struct {
        const char *name, *type;
        const void *data;
        size_t count;
    } records[] = {
        {"bits", "u1", part->codes, n_pages * sizeof *part->codes},
        {"offset", "u8", part->offset, n_pages + 1},
        {"key_unit", "f4", part->key_unit, n},
        {"value_unit", "f4", part->value_unit, n},
        {"key_gain", "f4", part->key_gain, n},
        {"value_gain", "f4", part->value_gain, n},
    };
    char name[64];
    for (size_t i = 0; i < sizeof records / sizeof *records; i++) {
        snprintf(name, sizeof name, "%s.%d", records[i].name, p);
        record(name, records[i].type, records[i].data, records[i].count);
    }
}

static void record_codec(const struct kv_codec *codec)
{
    if (!codec) return;
    uint8_t n_parts[] = {(uint8_t)codec->n_parts, (uint8_t)codec->n_old_parts};
    record("n_parts", "u1", n_parts, 2);
    record("key_weight", "f4", codec->key_weight, (size_t)codec->n_pages * (size_t)codec->n_groups);
    for (int p = 0; p < codec->n_parts; p++) record_part(codec, p);
}

static void record_half(const struct kv_fixture *fixture, const char *name, int block)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%d", name, block);
    record(full, "f2", fixture->blocks[block].f16, kv_block_bytes(KV_F16, &fixture->shape) / 2);
}

static void record_blocks(const struct kv_fixture *fixture)
{
    char name[64];
    for (int b = 0; b < fixture->n_blocks; b++) {
        const struct kv_block_ref *block = &fixture->blocks[b];
        record_half(fixture, "f16", b);
        for (int p = 0; p < KV_MAX_PARTS && block->parts[p]; p++) {
            snprintf(name, sizeof name, "part.%d.%d", p, b);
            record(name, "u1", block->parts[p], kv_codec_part_bytes(fixture->codec, p));
        }
        for (int s = 0, n = __builtin_popcountll(block->sink_mask); s < n; s++) {
            snprintf(name, sizeof name, "sink.%d.%d", b, s);
            record(name, "f2", block->sinks[s], kv_block_bytes(KV_SINK, &fixture->shape) / 2);
        }
    }
}

/* Overwrites the f16 pages. */
static void record_unsealed(struct kv_fixture *fixture, struct backend *backend)
{
    for (int p = 0; fixture->codec && p < fixture->codec->n_parts; p++) {
        char name[64];
        snprintf(name, sizeof name, "unsealed.%d", p);
        kv_fixture_unseal(fixture, backend, p + 1);
        for (int b = 0; b < fixture->n_tokens / KV_BLOCK_TOKENS; b++) record_half(fixture, name, b);
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

/* NULL: f16. */
static const struct kv_fixture_bits *format_bits(const char *name)
{
    return !strcmp(name, "o2")      ? &kv_fixture_o2
           : !strcmp(name, "o4")    ? &kv_fixture_o4
           : !strcmp(name, "mixed") ? &kv_fixture_mixed
                                    : NULL;
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
    const struct kv_fixture_bits *bits = format_bits(argv[7]);
    struct kv_codec *codec = bits ? kv_fixture_codec(&shape, tables, bits) : NULL;
    struct kv_fixture fixture;
    kv_fixture_init(&fixture, &shape, codec, atoi(argv[8]), n_tokens, atoi(argv[10]), 1, 1);
    kv_fixture_fill(&fixture, backend, atoi(argv[12]));
    size_t n = (size_t)shape.n_layers * n_tokens * shape.head_dim;
    record("q", "f4", fixture.q, n * shape.n_heads);
    record("k", "f4", fixture.k, n * shape.n_kv_heads);
    record("v", "f4", fixture.v, n * shape.n_kv_heads);
    record_tables(&fixture, tables);
    record_codec(codec);
    record_blocks(&fixture);
    record_attention(&fixture, backend, atoi(argv[12]));
    record_unsealed(&fixture, backend);
    int failed = fclose(file);
    kv_fixture_free(&fixture);
    kv_codec_free(codec);
    is_identity ? kv_tables_free(tables) : kv_fixture_tables_free(tables);
    backend->destroy(backend);
    workers_free(workers);
    return failed ? 1 : 0;
}
