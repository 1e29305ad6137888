/*
 * cuda_bench [o2|f16|SHAPE|VARIANT ...]: decode attention alone on the card, pages of random codes, in the
 * shapes (sequences, query heads, KV heads, context) that docs/cuda.md lists, of which SHAPE is the number, 1
 * to 6; every block and tier as it would be: 4 sinks, 8 recent blocks in all parts, the open block in f16,
 * frames and means. Beside it what the card copies. VARIANT: warps of a thread block. What is not named is
 * all of it.
 */
#include "tests/cuda/card.h"
#include "tests/unit/support/kv_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void wait_for(const void *memory)
{
    float x;
    cuda->download(cuda, &x, memory, sizeof x);
}

/* Random halves below 1 in absolute value: as codes, any; as scales, finite. */
static void fill(char *memory, size_t bytes)
{
    enum { PIECE = 1 << 22 };
    static uint16_t piece[PIECE / 2];
    uint64_t seed = 1;
    for (int i = 0; i < PIECE / 2; i++) piece[i] = (uint16_t)(kv_fixture_random(&seed) >> 20 & 0xbbff);
    for (size_t at = 0; at < bytes; at += PIECE)
        cuda->upload(cuda, memory + at, piece, bytes - at < PIECE ? bytes - at : PIECE);
}

struct bench {
    struct kv_shape shape;
    struct kv_codec *codec;
    int n_sequences, n_blocks;
    struct attention_span *spans;
    struct kv_block_ref *blocks;
    char *sinks[4];
    size_t read_bytes; /* of one layer */
};

static char *cut(char **at, size_t bytes)
{
    char *here = *at;
    *at += (bytes + 255) / 256 * 256;
    return here;
}

/* Every sequence's blocks, dealt out in a shuffled order; memory NULL: how much it takes. */
static size_t blocks_deal(struct bench *bench, char *memory)
{
    char *at = memory;
    const struct kv_shape *shape = &bench->shape;
    size_t f16 = kv_block_bytes(KV_F16, shape), sink = kv_block_bytes(KV_SINK, shape);
    int total = bench->n_sequences * bench->n_blocks, step = total % 7919 ? 7919 : 7907;
    bench->read_bytes = 0;
    for (int s = 0; s < 4; s++) bench->sinks[s] = cut(&at, sink);
    for (int i = 0, b = 0; i < total; i++, b = (b + step) % total) {
        int age = bench->n_blocks - 1 - b % bench->n_blocks;
        struct kv_block_ref *block = &bench->blocks[b];
        *block = (struct kv_block_ref){.f16_layer_stride = f16 / (size_t)shape->n_layers};
        if (!bench->codec || age == 0) block->f16 = cut(&at, f16), bench->read_bytes += f16;
        for (int p = 0;
             bench->codec && age > 0 && p < (age <= 8 ? bench->codec->n_parts : bench->codec->n_old_parts);
             p++) {
            size_t bytes = kv_codec_part_bytes(bench->codec, p);
            block->parts[p] = cut(&at, bytes), bench->read_bytes += bytes;
        }
        if (bench->codec && age == bench->n_blocks - 1) block->sink_mask = 15, block->sinks = bench->sinks;
    }
    bench->read_bytes /= (size_t)shape->n_layers;
    return (size_t)(at - memory);
}

/* A backend that uses this variant. */
static void variant_open(const char *variant)
{
    setenv("OCTAVO_CUDA_WARPS", variant, 1);
    card_open();
}

/* False after an error of the card. */
static bool variant_close(void)
{
    const char *failure = cuda->failure(cuda);
    if (failure) printf("FAILED: %s\n", failure);
    bool is_good = failure == NULL;
    cuda->destroy(cuda);
    return is_good;
}

static void run(const int shape[4], const char *format, const char *variant, double copy)
{
    int n_sequences = shape[0], heads = shape[1], kv_heads = shape[2], context = shape[3];
    enum { LAYERS = 2, TIMES = 10 };
    struct bench bench = {
        .shape = {LAYERS, heads, kv_heads, 128}, .n_sequences = n_sequences, .n_blocks = context / 64};
    struct kv_tables *tables = kv_fixture_tables(&bench.shape, context / 256 + 1, 1, 3);
    static float hadamard[128 * 128]; /* as calibration leaves it */
    kv_hadamard_fill(hadamard, 128);
    tables->value_transform = hadamard;
    if (strcmp(format, "f16")) bench.codec = kv_fixture_codec(&bench.shape, tables, &kv_fixture_o2);
    bench.blocks = calloc((size_t)n_sequences * (size_t)bench.n_blocks, sizeof *bench.blocks);
    bench.spans = calloc((size_t)n_sequences, sizeof *bench.spans);
    if (!bench.blocks || !bench.spans) exit(1);
    size_t bytes = blocks_deal(&bench, NULL), n_q = (size_t)n_sequences * (size_t)heads * 128;
    char *memory = card_need(cuda->alloc(cuda, bytes)), *q = card_need(cuda->alloc(cuda, n_q * 4)),
         *out = card_need(cuda->alloc(cuda, n_q * 4));
    blocks_deal(&bench, memory);
    fill(memory, bytes);
    float *queries = calloc(n_q, sizeof *queries);
    uint64_t seed = 9;
    for (size_t i = 0; i < n_q; i++) queries[i] = kv_fixture_gauss(&seed);
    cuda->upload(cuda, q, queries, n_q * 4);
    for (int s = 0; s < n_sequences; s++)
        bench.spans[s] = (struct attention_span){.first_row = s,
                                                 .n_rows = 1,
                                                 .first_pos = context - 1,
                                                 .n_blocks = bench.n_blocks,
                                                 .blocks = bench.blocks + (size_t)s * (size_t)bench.n_blocks,
                                                 .codec = bench.codec,
                                                 .recent_blocks = 8};
    cuda->step_begin(cuda, n_sequences, bench.spans);
    double best = 1e9;
    for (int round = 0; round < 4; round++) {
        wait_for(out);
        double start = card_now_s();
        for (int i = 0; i < TIMES; i++) {
            struct attention_args args = {.shape = &bench.shape,
                                          .layer = i % LAYERS,
                                          .scale = .088f,
                                          .n_spans = n_sequences,
                                          .spans = bench.spans,
                                          .q = (float *)q,
                                          .out = (float *)out};
            cuda->attention(cuda, &args);
        }
        wait_for(out);
        double took = (card_now_s() - start) / TIMES;
        best = took < best ? took : best;
    }
    printf("%-4s %-5s (%d,%d,%d,%d): %.1f us, %.1f MB of pages, %.2f TB/s, %.0f %% of copy\n", format,
           variant, n_sequences, heads, kv_heads, context, best * 1e6, (double)bench.read_bytes / 1e6,
           (double)bench.read_bytes / best / 1e12, 100 * (double)bench.read_bytes / best / copy);
    fflush(stdout);
    cuda->step_begin(cuda, 0, NULL);
    cuda->free(cuda, memory), cuda->free(cuda, q), cuda->free(cuda, out);
    free(bench.blocks), free(bench.spans), free(queries);
    kv_codec_free(bench.codec);
    kv_fixture_tables_free(tables);
}

/* Bytes read and written a second. */
static double copy_speed(void)
{
    size_t bytes = (size_t)1 << 30;
    char *from = card_need(cuda->alloc(cuda, bytes)), *to = card_need(cuda->alloc(cuda, bytes));
    double best = 1e9;
    for (int round = 0; round < 5; round++) {
        wait_for(to);
        double start = card_now_s();
        for (int i = 0; i < 5; i++) cuda->copy(cuda, to, from, bytes);
        wait_for(to);
        double took = (card_now_s() - start) / 5;
        best = took < best ? took : best;
    }
    cuda->free(cuda, from), cuda->free(cuda, to);
    return 2 * (double)bytes / best;
}

/* Is it among the arguments, or none of its kind? */
static bool is_wanted(int argc, char **argv, const char *const *kind, const char *name)
{
    bool is_any = true;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], name)) return true;
        for (int k = 0; kind[k]; k++) is_any &= strcmp(argv[i], kind[k]) != 0;
    }
    return is_any;
}

int main(int argc, char **argv)
{
    static const int shapes[][4] = {{16, 32, 8, 32768}, {64, 32, 8, 8192}, {128, 32, 8, 4096},
                                    {64, 28, 4, 8192},  {8, 64, 8, 32768}, {1, 32, 8, 131072}};
    static const char *const numbers[] = {"1", "2", "3", "4", "5", "6", NULL};
    static const char *const formats[] = {"o2", "f16", NULL};
    static const char *const variants[] = {"16", "12", "8", NULL};
    bool is_good = true;
    variant_open("16");
    double copy = copy_speed();
    printf("%s: copies %.2f TB/s, bytes read and written\n", cuda->name, copy / 1e12);
    is_good &= variant_close();
    for (int s = 0; numbers[s]; s++)
        for (int f = 0; formats[f]; f++)
            for (int v = 0; variants[v]; v++) {
                bool is_f16 = !strcmp(formats[f], "f16"); /* always 4 */
                if (is_f16 && v > 0) continue;
                if (!is_wanted(argc, argv, numbers, numbers[s]) ||
                    !is_wanted(argc, argv, formats, formats[f]) ||
                    !is_wanted(argc, argv, variants, variants[v]))
                    continue;
                variant_open(variants[v]);
                run(shapes[s], formats[f], variants[v], copy);
                is_good &= variant_close();
            }
    return !is_good;
}
