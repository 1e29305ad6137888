/*
 * bench_attention [LEVEL] [THREADS] [REPEATS] [LENGTH]: milliseconds that attention takes in one decode step
 * (all layers), and in a prefill of 512 tokens, for the shapes of two models and every format; and what
 * writing and sealing take. Medians. With LENGTH only batch 16 at that context. With one thread it is the
 * process's CPU time, which other load disturbs less. One layer's worth of many sequences would stay in the
 * caches, so every layer and sequence has pages of its own, as long as MEMORY allows.
 */
#include "kernels/workers.h"
#include "tests/unit/support/kv_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const size_t MEMORY = (size_t)3 << 30;

struct model {
    const char *name;
    struct kv_shape shape;
};

static const struct model models[] = {
    {"SmolLM2-135M", {30, 9, 3, 64}},
    {"Qwen2.5-1.5B", {28, 12, 2, 128}},
};

struct format {
    const char *name;
    enum kv_kind kind;
};

/* o2 with 8 recent blocks: the fixture keeps all complete blocks at 4 bits; `demoted` below replaces the old
   ones. */
static const struct format formats[] = {{"f16", KV_F16}, {"o4", KV_O4}, {"o2", KV_Q4}};
enum { RECENT = 8, FORMATS = sizeof formats / sizeof *formats };

static clockid_t bench_clock = CLOCK_MONOTONIC;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A sequence's blocks at a given length: pages with plausible contents (one layer's, sealed for real, copied
   to all layers), only the kinds that the format keeps. */
struct sequence {
    struct kv_block_ref *blocks;
    char *memory;
    size_t bytes;
};

static void sequence_init(struct sequence *sequence, struct backend *backend, const struct kv_shape *shape,
                          const struct kv_tables *tables, enum kv_kind kind, int n_tokens)
{
    struct kv_shape one = {1, shape->n_heads, shape->n_kv_heads, shape->head_dim};
    struct kv_fixture fixture;
    kv_fixture_init(&fixture, &one, tables, kind, RECENT, KV_BLOCK_TOKENS * 2 + 1, 4, 0, 1);
    kv_fixture_fill(&fixture, backend, 512);
    int n_blocks = (n_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    sequence->blocks = calloc((size_t)n_blocks, sizeof *sequence->blocks);
    sequence->bytes = 0;
    for (int pass = 0; pass < 2; pass++) {
        char *at = sequence->memory;
        for (int b = 0; b < n_blocks; b++) {
            struct kv_block_ref *ref = &sequence->blocks[b];
            int age = n_blocks - 1 - b;
            enum kv_kind of = age == 0 ? KV_F16 : kind == KV_Q4 && age > RECENT ? KV_Q2 : kind;
            size_t page = kv_page_bytes(of, shape->head_dim) * shape->n_kv_heads;
            if (pass) {
                char *from = of == KV_F16 ? fixture.blocks[0].f16 : fixture.blocks[0].coded, *demoted = NULL;
                if (of == KV_Q2) {
                    from = demoted = malloc(page);
                    backend->kv_demote(backend, &one, fixture.blocks[0].coded, demoted);
                }
                for (int layer = 0; layer < shape->n_layers; layer++) memcpy(at + layer * page, from, page);
                free(demoted);
                ref->coded_kind = of;
                ref->f16_layer_stride = page;
                *(of == KV_F16 ? &ref->f16 : &ref->coded) = at;
                at += page * shape->n_layers;
            } else {
                sequence->bytes += page * shape->n_layers;
            }
        }
        if (!pass) {
            sequence->memory = aligned_alloc(64, sequence->bytes);
            if (!sequence->memory || !sequence->blocks) exit(1);
        }
    }
    kv_fixture_free(&fixture);
}

static double decode_ms(struct backend *backend, const struct model *model, const struct kv_tables *tables,
                        enum kv_kind kind, int batch, int n_tokens, int repeats)
{
    const struct kv_shape *shape = &model->shape;
    struct sequence *sequences = calloc((size_t)batch, sizeof *sequences);
    struct attention_span *spans = calloc((size_t)batch, sizeof *spans);
    size_t n = (size_t)batch * shape->n_heads * shape->head_dim;
    float *q = malloc(n * sizeof *q), *out = malloc(n * sizeof *out);
    double *times = malloc((size_t)repeats * sizeof *times);
    uint64_t seed = 1;
    for (size_t i = 0; i < n; i++) q[i] = kv_fixture_gauss(&seed);
    int n_distinct = 0;
    for (int i = 0; i < batch; i++) {
        if (i == 0 || (size_t)(i + 1) * sequences[0].bytes <= MEMORY)
            sequence_init(&sequences[n_distinct++], backend, shape, tables, kind, n_tokens);
        spans[i] = (struct attention_span){.first_row = i,
                                           .n_rows = 1,
                                           .first_pos = n_tokens - 1,
                                           .n_blocks = (n_tokens - 1) / KV_BLOCK_TOKENS + 1,
                                           .blocks = sequences[i % n_distinct].blocks,
                                           .all_f16 = kind == KV_F16,
                                           .recent_blocks = RECENT};
    }
    for (int repeat = -1; repeat < repeats; repeat++) {
        double start = now_ms();
        for (int layer = 0; layer < shape->n_layers; layer++) {
            struct attention_args args = {.shape = shape,
                                          .tables = tables,
                                          .layer = layer,
                                          .scale = 1 / sqrtf((float)shape->head_dim),
                                          .n_spans = batch,
                                          .spans = spans,
                                          .q = q,
                                          .out = out};
            backend->attention(backend, &args);
        }
        if (repeat >= 0) times[repeat] = now_ms() - start;
    }
    qsort(times, (size_t)repeats, sizeof *times, compare);
    double median = times[repeats / 2];
    for (int i = 0; i < n_distinct; i++) free(sequences[i].memory), free(sequences[i].blocks);
    free(sequences), free(spans), free(q), free(out), free(times);
    return median;
}

/* Prefill of n tokens in one call: store, seal and attend one layer, times the layers. */
static void prefill_ms(struct backend *backend, const struct model *model, const struct kv_tables *tables,
                       enum kv_kind kind, int n_tokens, int repeats, double *write, double *attend)
{
    struct kv_shape one = model->shape;
    one.n_layers = 1;
    struct kv_fixture fixture;
    kv_fixture_init(&fixture, &one, tables, kind, RECENT, n_tokens, 4, 0, 1);
    float *out = malloc((size_t)n_tokens * one.n_heads * one.head_dim * sizeof *out);
    double *writes = malloc((size_t)repeats * sizeof *writes),
           *attends = malloc((size_t)repeats * sizeof *attends);
    for (int repeat = 0; repeat < repeats; repeat++) {
        double start = now_ms();
        kv_fixture_fill(&fixture, backend, n_tokens);
        double middle = now_ms();
        kv_fixture_attend(&fixture, backend, 0, 0, n_tokens, out);
        writes[repeat] = (middle - start) * model->shape.n_layers;
        attends[repeat] = (now_ms() - middle) * model->shape.n_layers;
    }
    qsort(writes, (size_t)repeats, sizeof *writes, compare);
    qsort(attends, (size_t)repeats, sizeof *attends, compare);
    *write = writes[repeats / 2], *attend = attends[repeats / 2];
    kv_fixture_free(&fixture);
    free(out), free(writes), free(attends);
}

int main(int argc, char **argv)
{
    const char *level = argc > 1 ? argv[1] : "auto";
    int n_threads = argc > 2 ? atoi(argv[2]) : 2, repeats = argc > 3 ? atoi(argv[3]) : 9;
    int only_length = argc > 4 ? atoi(argv[4]) : 0;
    if (n_threads == 1) bench_clock = CLOCK_PROCESS_CPUTIME_ID;
    struct workers *workers;
    struct backend *backend;
    struct err_info info;
    if (n_threads < 1 || repeats < 1 || workers_create(n_threads, &workers, &info) ||
        backend_cpu_create(workers, level, &backend, &info)) {
        fprintf(stderr, "usage: bench_attention [LEVEL] [THREADS] [REPEATS] [LENGTH]\n");
        return 2;
    }
    printf("%s, %d threads, median of %d, ms per step of all layers\n", backend->name, n_threads, repeats);
    printf("%-14s %-8s %6s %6s %9s %9s %9s %8s\n", "model", "", "batch", "tokens", "f16", "o4", "o2",
           "f16/o2");
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        struct kv_tables *tables = kv_fixture_identity(&models[m].shape, 64);
        static const int batches[] = {1, 16}, lengths[] = {512, 2000, 4000, 16000};
        for (int b = 0; b < 2; b++) {
            for (int l = 0; l < 4; l++) {
                double ms[FORMATS];
                if (only_length && (batches[b] != 16 || lengths[l] != only_length)) continue;
                for (int f = 0; f < FORMATS; f++)
                    ms[f] = decode_ms(backend, &models[m], tables, formats[f].kind, batches[b], lengths[l],
                                      batches[b] * lengths[l] > 64000 ? 3 : repeats);
                printf("%-14s %-8s %6d %6d %9.3f %9.3f %9.3f %8.2f\n", models[m].name, "decode", batches[b],
                       lengths[l], ms[0], ms[1], ms[2], ms[0] / ms[2]);
                fflush(stdout);
            }
        }
        for (int n = 512; n <= (only_length ? 512 : 2048); n *= 4) {
            double write[FORMATS], attend[FORMATS];
            for (int f = 0; f < FORMATS; f++)
                prefill_ms(backend, &models[m], tables, formats[f].kind, n, repeats, &write[f], &attend[f]);
            printf("%-14s %-8s %6d %6d %9.3f %9.3f %9.3f %8.2f\n", models[m].name, "prefill", 1, n, attend[0],
                   attend[1], attend[2], attend[0] / attend[2]);
            printf("%-14s %-8s %6d %6d %9.3f %9.3f %9.3f\n", models[m].name, "write", 1, n, write[0],
                   write[1], write[2]);
        }
        kv_tables_free(tables);
    }
    backend->destroy(backend);
    workers_free(workers);
    return 0;
}
