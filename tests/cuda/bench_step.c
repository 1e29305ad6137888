/*
 * cuda_bench_step [ROWS ...]: what a step of llama-8b's sizes does beside attention, each operation alone,
 * and the products that meet the same rows one by one and at once; microseconds a call and bytes a second of
 * what it must read and write. Rows 64, 256, 750.
 */
#include "model/sampler.h"
#include "tests/cuda/card.h"
#include "tests/unit/support/kv_fixture.h"

#include <stdio.h>
#include <stdlib.h>

enum { EMBD = 4096, FF = 14336, VOCAB = 128256, HEADS = 32, KV_HEADS = 8, DIM = 128, ROUNDS = 200 };

static struct kv_shape shape = {1, HEADS, KV_HEADS, DIM};

/* All that the operations work on. */
struct bench {
    int n;
    float *x, *y, *h, *gate, *up, *q, *k, *v, *cosines, *sines, *logits, *gain, *host;
    struct acts *acts;
    struct attention_span *spans;
    struct kv_block_ref *blocks;
    struct backend_wish *wishes;
    struct backend_answer *answers;
    struct sampler_params params;
    double inv_freq[DIM / 2];
    int set; /* of weights, which take turns: all of one would stay in the card's cache */
};

/* Weights of a layer that meet the same rows: queries, keys and values; gate and up. */
enum { SETS = 4 };
static struct weight *projections[SETS][3], *gates[SETS][2];

static float *floats(int rows, int n)
{
    size_t size = (size_t)rows * (size_t)n;
    float *host = card_need(malloc(size * sizeof *host)),
          *card = card_need(cuda->alloc(cuda, size * sizeof *host));
    uint64_t seed = 1;
    for (size_t i = 0; i < size; i++) host[i] = i < 1 << 20 ? 4 * kv_fixture_gauss(&seed) : host[i & 0xfffff];
    cuda->upload(cuda, card, host, size * sizeof *host);
    free(host);
    return card;
}

static struct weight *weight_of(int n_rows, const uint16_t *data)
{
    struct weight_source source = {.name = "bench",
                                   .dtype = DTYPE_F16,
                                   .n_rows = n_rows,
                                   .n_cols = EMBD,
                                   .data = data,
                                   .multiply = true};
    struct weight *weight;
    struct err_info info;
    if (cuda->weight_create(cuda, &source, &weight, &info) == ERR_OK) return weight;
    printf("%s\n", info.message);
    exit(1);
}

static void weights_create(void)
{
    uint16_t *data = card_need(malloc((size_t)FF * EMBD * sizeof *data));
    uint64_t seed = 2;
    for (size_t i = 0; i < (size_t)FF * EMBD; i++)
        data[i] = i < 1 << 20 ? dtype_f32_to_f16(0.02f * kv_fixture_gauss(&seed)) : data[i & 0xfffff];
    for (int set = 0; set < SETS; set++) {
        for (int i = 0; i < 3; i++) projections[set][i] = weight_of((i ? KV_HEADS : HEADS) * DIM, data);
        for (int i = 0; i < 2; i++) gates[set][i] = weight_of(FF, data);
    }
    free(data);
}

static void project(struct bench *b, bool at_once)
{
    struct weight **w = projections[b->set++ % SETS];
    const struct backend_product products[] = {{w[0], NULL, b->q}, {w[1], NULL, b->k}, {w[2], NULL, b->v}};
    if (at_once)
        cuda->matmul_group(cuda, products, 3, b->acts);
    else
        for (int i = 0; i < 3; i++) cuda->matmul(cuda, w[i], b->acts, NULL, products[i].out);
}
static void feed(struct bench *b, bool at_once)
{
    struct weight **w = gates[b->set++ % SETS];
    const struct backend_product products[] = {{w[0], NULL, b->gate}, {w[1], NULL, b->up}};
    if (at_once)
        cuda->matmul_group(cuda, products, 2, b->acts);
    else
        for (int i = 0; i < 2; i++) cuda->matmul(cuda, w[i], b->acts, NULL, products[i].out);
}
static void project_each(struct bench *b)
{
    project(b, false);
}
static void project_group(struct bench *b)
{
    project(b, true);
}
static void feed_each(struct bench *b)
{
    feed(b, false);
}
static void feed_group(struct bench *b)
{
    feed(b, true);
}
static void norm(struct bench *b)
{
    cuda->add_norm_prepare(cuda, b->x, b->y, b->gain, 1e-5f, b->n, EMBD, b->h, b->acts);
}
static void prepare(struct bench *b)
{
    cuda->prepare(cuda, b->q, b->n, HEADS * DIM, b->acts);
}
static void swiglu(struct bench *b)
{
    cuda->swiglu_prepare(cuda, b->gate, b->up, b->n, FF, b->acts);
}
static void rotate(struct bench *b)
{
    struct kv_store_args store = {.shape = &shape, .n_spans = b->n, .spans = b->spans, .k = b->k, .v = b->v};
    cuda->rotate_store(cuda, &store, b->q, b->k, b->cosines, b->sines);
}
static void angles(struct bench *b)
{
    cuda->angles(cuda, b->n, b->spans, DIM / 2, b->inv_freq, b->cosines, b->sines);
}
static void choose(struct bench *b)
{
    cuda->choose(cuda, b->logits, b->n, VOCAB, b->wishes, b->host, b->answers);
}
static void parts(struct bench *b)
{
    (void)b;
    for (int i = 0; i < 10; i++) cuda->part_begin(cuda, i % 2 ? BACKEND_REST : BACKEND_PRODUCTS);
    cuda->part_begin(cuda, BACKEND_PARTS);
}

static void wish(struct bench *b, float temperature, float top_p, int top_k)
{
    b->params = (struct sampler_params){.temperature = temperature,
                                        .top_p = top_p,
                                        .top_k = top_k,
                                        .repetition_penalty = 1,
                                        .n_logprobs = -1};
    for (int i = 0; i < b->n; i++) sampler_wish(&b->params, VOCAB, false, i, &b->wishes[i]);
}

/* bytes: of a row; fixed_bytes: of all */
static void measure(struct bench *b, const char *name, void (*run)(struct bench *b), double bytes,
                    double fixed_bytes)
{
    float x;
    for (int i = 0; i < 3; i++) run(b);
    cuda->download(cuda, &x, b->x, sizeof x);
    double start = card_now_s();
    for (int i = 0; i < ROUNDS; i++) run(b);
    cuda->download(cuda, &x, b->x, sizeof x);
    double us = (card_now_s() - start) / ROUNDS * 1e6;
    printf("%4d rows  %-28s %8.1f us  %6.0f GB/s\n", b->n, name, us,
           (bytes * b->n + fixed_bytes) / us * 1e-3);
    fflush(stdout);
}

static struct bench bench_create(int n)
{
    struct bench b = {.n = n};
    size_t f16 = kv_block_bytes(KV_F16, &shape);
    b.x = floats(n, EMBD), b.y = floats(n, EMBD), b.h = floats(n, EMBD);
    b.gate = floats(n, FF), b.up = floats(n, FF), b.gain = floats(1, EMBD);
    b.q = floats(n, HEADS * DIM), b.k = floats(n, KV_HEADS * DIM), b.v = floats(n, KV_HEADS * DIM);
    b.cosines = floats(n, DIM / 2), b.sines = floats(n, DIM / 2), b.logits = floats(n, VOCAB);
    b.host = card_need(cuda->host_alloc(cuda, (size_t)n * VOCAB * sizeof(float)));
    b.acts = card_need(cuda->acts_create(cuda, n, FF, 16));
    b.spans = card_need(calloc((size_t)n, sizeof *b.spans));
    b.blocks = card_need(calloc((size_t)n, sizeof *b.blocks));
    b.wishes = card_need(calloc((size_t)n, sizeof *b.wishes));
    b.answers = card_need(calloc((size_t)n, sizeof *b.answers));
    char *pages = card_need(cuda->alloc(cuda, f16 * (size_t)n));
    for (int i = 0; i < n; i++) {
        b.blocks[i] = (struct kv_block_ref){.f16 = pages + (size_t)i * f16, .f16_layer_stride = f16};
        b.spans[i] = (struct attention_span){
            .first_row = i, .n_rows = 1, .first_pos = i % 64, .n_blocks = 1, .blocks = &b.blocks[i]};
    }
    for (int i = 0; i < DIM / 2; i++) b.inv_freq[i] = 1.0 / (1 + i);
    return b;
}

static void bench_run(int n)
{
    struct bench b = bench_create(n);
    cuda->step_begin(cuda, n, b.spans);
    measure(&b, "ten changes of part", parts, 0, 0);
    const double qkv = (HEADS + 2 * KV_HEADS) * DIM, ff = 2 * FF;
    norm(&b);
    measure(&b, "q, k, v one by one", project_each, EMBD * 2 + qkv * 4, qkv * EMBD * 2);
    measure(&b, "q, k, v at once", project_group, EMBD * 2 + qkv * 4, qkv * EMBD * 2);
    measure(&b, "gate, up one by one", feed_each, EMBD * 2 + ff * 4, ff * EMBD * 2);
    measure(&b, "gate, up at once", feed_group, EMBD * 2 + ff * 4, ff * EMBD * 2);
    measure(&b, "angles", angles, DIM * 4, 0);
    measure(&b, "add, norm, prepare", norm, EMBD * 14, 0);
    measure(&b, "prepare", prepare, EMBD * 6, 0);
    measure(&b, "rope and store", rotate, (HEADS + KV_HEADS) * DIM * 8 + KV_HEADS * DIM * 8, 0);
    measure(&b, "swiglu, prepare", swiglu, FF * 10, 0);
    wish(&b, 0, 1, 0);
    measure(&b, "choice: best", choose, VOCAB * 4, 0);
    wish(&b, 1, 1, 0);
    measure(&b, "choice: draw", choose, VOCAB * 4, 0);
    wish(&b, 0.8f, 0.9f, 0);
    measure(&b, "choice: top_p", choose, VOCAB * 4, 0);
    wish(&b, 0.8f, 1, 40);
    measure(&b, "choice: top_k", choose, VOCAB * 4, 0);
    for (int i = 0; i < n; i++) b.wishes[i].kind = BACKEND_ROW;
    measure(&b, "choice: rows to the host", choose, VOCAB * 4, 0);
    /* The card's memory goes with the process. */
    free(b.spans), free(b.blocks), free(b.wishes), free(b.answers);
}

int main(int argc, char **argv)
{
    card_open();
    printf("%s\n", cuda->name);
    weights_create();
    for (int i = 1; i < argc; i++) bench_run(atoi(argv[i]));
    if (argc < 2) bench_run(64), bench_run(256), bench_run(750);
    const char *failure = cuda->failure(cuda);
    if (failure) printf("%s\n", failure);
    return failure != NULL;
}
