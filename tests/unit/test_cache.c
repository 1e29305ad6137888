/* The cache: formats as arithmetic, the pool, and sequences that must agree with that arithmetic at every
 * step. */
#include "cache/sequence.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct kv_shape smollm2 = {.n_layers = 30, .n_heads = 9, .n_kv_heads = 3, .head_dim = 64};
static const struct kv_shape small = {.n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32};

static struct kv_policy policy_of(const struct kv_shape *shape, enum kv_format format, int recent, int sinks)
{
    return (struct kv_policy){
        .shape = *shape, .format = format, .recent_blocks = recent, .sink_tokens = sinks};
}

/* A backend of memory and of demotions that only mark the block. */
struct marks {
    int demotions;
};

static void *fake_alloc(struct backend *backend, size_t bytes)
{
    (void)backend;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void fake_free(struct backend *backend, void *memory)
{
    (void)backend;
    free(memory);
}

static void fake_demote(struct backend *backend, const struct kv_shape *shape, const char *q4, char *q2)
{
    struct marks *marks = backend->state;
    marks->demotions++;
    memcpy(q2, q4, kv_block_bytes(KV_Q2, shape));
}

static struct marks marks;
static struct backend backend = {
    .name = "marks", .state = &marks, .alloc = fake_alloc, .free = fake_free, .kv_demote = fake_demote};

static size_t used_bytes(const struct kv_pool *pool)
{
    struct kv_pool_stats stats;
    size_t bytes = 0;
    kv_pool_stats(pool, &stats);
    for (int kind = 0; kind < KV_KINDS; kind++) bytes += stats.used_bytes[kind];
    assert_int_equal(bytes, stats.budget_bytes - kv_pool_free_bytes(pool));
    return bytes;
}

static struct kv_pool *pool_of(const struct kv_shape *shape, size_t bytes)
{
    struct kv_pool *pool = NULL;
    struct err_info info;
    assert_int_equal(kv_pool_create(shape, bytes, &pool, &info), ERR_OK);
    return pool;
}

static void test_format_names(void **state)
{
    (void)state;
    enum kv_format format;
    struct err_info info;
    for (int f = 0; f < KV_FORMATS; f++) {
        assert_int_equal(kv_format_parse(kv_format_name((enum kv_format)f), &format, NULL), ERR_OK);
        assert_int_equal(format, f);
    }
    assert_int_equal(kv_format_parse("q2", &format, &info), ERR_USAGE);
    assert_non_null(strstr(info.message, "'q2'"));
    assert_non_null(strstr(info.message, "f16"));
}

static void test_known_numbers(void **state)
{
    (void)state;
    int counts[KV_KINDS];
    struct kv_policy f16 = policy_of(&smollm2, KV_FORMAT_F16, 8, 4);
    struct kv_policy o2 = policy_of(&smollm2, KV_FORMAT_O2, 8, 4);

    assert_int_equal(kv_policy_block_bytes(&smollm2, KV_F16), 1474560);
    kv_policy_blocks(&f16, 2000, counts);
    assert_int_equal(counts[KV_F16], 32);
    assert_int_equal(kv_policy_bytes(&f16, 2000), 32 * 1474560);

    kv_policy_blocks(&o2, 2000, counts); /* 31 sealed, 16 tokens open */
    assert_int_equal(counts[KV_F16], 1);
    assert_int_equal(counts[KV_Q4], 8);
    assert_int_equal(counts[KV_Q2], 23);
    assert_int_equal(counts[KV_SINK], 4);
    double ratio = (double)kv_policy_bytes(&f16, 2000) / (double)kv_policy_bytes(&o2, 2000);
    print_message("SmolLM2, 2,000 tokens: f16 %zu bytes, o2 %zu bytes, %.2f times; %.3f bits per value\n",
                  kv_policy_bytes(&f16, 2000), kv_policy_bytes(&o2, 2000), ratio, kv_policy_bits(&o2, 2000));
    assert_true(ratio > 4.8 && ratio < 5.0);
    assert_true(kv_policy_bits(&f16, 64) == 16.0);
}

static void test_pool_budget(void **state)
{
    (void)state;
    struct kv_pool *pool = NULL;
    struct err_info info;
    size_t f16 = kv_policy_block_bytes(&small, KV_F16);

    assert_int_equal(kv_pool_create(&small, f16 - 1, &pool, &info), ERR_CAPACITY);
    assert_string_equal(info.param, "kv-cache-bytes");

    pool = pool_of(&small, 3 * f16);
    char *a = kv_pool_take(pool, KV_F16), *b = kv_pool_take(pool, KV_F16), *c = kv_pool_take(pool, KV_F16);
    assert_true(a != NULL && b != NULL && c != NULL && a != b && b != c && a != c);
    assert_null(kv_pool_take(pool, KV_F16));
    assert_null(kv_pool_take(pool, KV_SINK));
    kv_pool_retain(pool, KV_F16, b);
    kv_pool_release(pool, KV_F16, b);
    assert_int_equal(kv_pool_free_bytes(pool), 0);
    kv_pool_release(pool, KV_F16, b);
    assert_int_equal(kv_pool_free_bytes(pool), f16);
    assert_ptr_equal(kv_pool_take(pool, KV_F16), b);
    kv_pool_release(pool, KV_F16, a);
    kv_pool_release(pool, KV_F16, b);
    kv_pool_release(pool, KV_F16, c);
    kv_pool_check(pool);
    kv_pool_free(pool);
}

/* Resident pages of the whole process, from the kernel's own count. */
static size_t resident_bytes(void)
{
    unsigned long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lu %lu", &total, &resident), 2);
    fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

#ifdef __SANITIZE_THREAD__
enum { RESIDENT_COUNTS = 0 }; /* its shadow memory is several times ours */
#else
enum { RESIDENT_COUNTS = 1 };
#endif

/* Filling the pool with one kind after the other keeps resident memory within one budget, not one per kind.
 */
static void test_pool_gives_memory_back(void **state)
{
    (void)state;
    size_t budget = (size_t)24 << 20;
    struct kv_pool *pool = pool_of(&smollm2, budget);
    char **blocks = calloc(budget / kv_pool_block_bytes(pool, KV_SINK) + 1, sizeof *blocks);
    size_t before = resident_bytes();

    for (int kind = 0; kind < KV_KINDS; kind++) {
        int n = 0;
        while ((blocks[n] = kv_pool_take(pool, (enum kv_kind)kind)) != NULL) {
            memset(blocks[n], kind + 1, kv_block_bytes((enum kv_kind)kind, &smollm2));
            n++;
        }
        assert_int_equal(n, budget / kv_pool_block_bytes(pool, (enum kv_kind)kind));
        if (RESIDENT_COUNTS) assert_true(resident_bytes() < before + budget + budget / 4);
        for (int i = 0; i < n; i++) {
            assert_int_equal(blocks[i][0], kind + 1);
            kv_pool_release(pool, (enum kv_kind)kind, blocks[i]);
        }
        kv_pool_check(pool);
    }
    free(blocks);
    kv_pool_free(pool);
}

/* Random takes and releases of all kinds, against a plain model: a block is its holder's alone. */
static void test_pool_random(void **state)
{
    (void)state;
    enum { HELD = 400 };
    struct held {
        char *block;
        enum kv_kind kind;
        unsigned char mark;
    } held[HELD];
    struct kv_pool *pool = pool_of(&small, 60 * kv_policy_block_bytes(&small, KV_F16));
    int n = 0, refused = 0;

    srand(1);
    for (int step = 0; step < 20000; step++) {
        enum kv_kind kind = (enum kv_kind)(rand() % KV_KINDS);
        char *block = n < HELD && rand() % 100 < 55 ? kv_pool_take(pool, kind) : NULL;
        if (block != NULL) {
            held[n] = (struct held){block, kind, (unsigned char)rand()};
            memset(block, held[n].mark, kv_block_bytes(kind, &small));
            n++;
        } else if (n > 0) {
            int i = rand() % n;
            size_t last = kv_block_bytes(held[i].kind, &small) - 1;
            assert_int_equal((unsigned char)held[i].block[0], held[i].mark);
            assert_int_equal((unsigned char)held[i].block[last], held[i].mark);
            kv_pool_release(pool, held[i].kind, held[i].block);
            held[i] = held[--n];
            refused++;
        }
        if (step % 64 == 0) kv_pool_check(pool);
    }
    assert_true(refused > 0);
    while (n > 0) {
        n--;
        kv_pool_release(pool, held[n].kind, held[n].block);
    }
    assert_int_equal(used_bytes(pool), 0);
    kv_pool_free(pool);
}

static void check_span(const struct kv_sequence *seq, const struct kv_policy *policy, int before, int n_new)
{
    struct attention_span span;
    int last = before + n_new;
    kv_sequence_span(seq, 7, &span);
    assert_int_equal(span.first_row, 7);
    assert_int_equal(span.n_rows, n_new);
    assert_int_equal(span.first_pos, before);
    assert_int_equal(span.n_blocks, (last + 63) / 64);
    assert_int_equal(span.all_f16, policy->format == KV_FORMAT_F16);
    for (int b = 0; b < span.n_blocks; b++) {
        const struct kv_block_ref *block = &span.blocks[b];
        bool sealed = policy->format != KV_FORMAT_F16 && 64 * (b + 1) <= last;
        bool written = 64 * (b + 1) > before; /* takes tokens in this step */
        assert_int_equal(block->coded != NULL, sealed);
        assert_int_equal(block->f16 != NULL, policy->format == KV_FORMAT_F16 || written);
        assert_int_equal(block->sink_mask, sealed ? kv_policy_sink_mask(policy, b) : 0);
        for (int s = 0; s < __builtin_popcountll(block->sink_mask); s++) assert_non_null(block->sinks[s]);
        if (block->f16 != NULL) {
            bool staged = sealed && 64 * b >= before;
            assert_int_equal(block->f16_layer_stride == 0, staged);
        }
    }
}

/* Grow one sequence by steps of `chunk` (0: random) and compare what the pool handed out with the arithmetic.
 */
static void grow(const struct kv_policy *policy, int chunk, int max_tokens)
{
    struct kv_pool *pool =
        pool_of(&policy->shape, kv_policy_bytes(policy, max_tokens) + kv_policy_step_bytes(policy, 512));
    struct kv_staging *staging = kv_staging_create(&policy->shape, 512, &backend);
    struct kv_sequence *seq = NULL;
    struct kv_pool_stats stats;
    size_t most = 0, headroom = kv_policy_step_bytes(policy, 512);
    assert_int_equal(kv_sequence_create(policy, pool, staging, &backend, max_tokens, &seq, NULL), ERR_OK);

    for (int n = 0; n < max_tokens;) {
        int n_new = chunk > 0 ? chunk : 1 + rand() % 512;
        if (n_new > max_tokens - n) n_new = max_tokens - n;
        size_t peak = kv_policy_peak_bytes(policy, n, n_new);
        kv_staging_reset(staging);
        assert_int_equal(kv_sequence_begin(seq, n_new, NULL), ERR_OK);
        if (rand() % 4 == 0) { /* a step that fails leaves no trace */
            kv_sequence_abort(seq);
            assert_int_equal(used_bytes(pool), kv_policy_held_bytes(policy, n));
            kv_staging_reset(staging);
            assert_int_equal(kv_sequence_begin(seq, n_new, NULL), ERR_OK);
        }
        assert_true(used_bytes(pool) <= peak);
        check_span(seq, policy, n, n_new);
        kv_sequence_end(seq);
        n += n_new;

        int counts[KV_KINDS];
        kv_policy_blocks(policy, n, counts);
        kv_pool_stats(pool, &stats);
        for (int kind = 0; kind < KV_KINDS; kind++) assert_int_equal(stats.used_blocks[kind], counts[kind]);
        size_t held = used_bytes(pool);
        if (held > most) most = held;
        assert_int_equal(held, kv_policy_held_bytes(policy, n));
        assert_int_equal(held, kv_sequence_bytes(seq));
        assert_int_equal(kv_sequence_tokens(seq), n);
        assert_true(most <= kv_policy_bytes(policy, n));
        if (chunk == 1) assert_int_equal(most, kv_policy_bytes(policy, n));
        assert_true(peak <= kv_policy_bytes(policy, n) + headroom);
        assert_int_equal(stats.stored_values, (int64_t)2 * n * policy->shape.n_layers *
                                                  policy->shape.n_kv_heads * policy->shape.head_dim);
    }
    kv_sequence_free(seq);
    kv_pool_stats(pool, &stats);
    assert_int_equal(stats.stored_values, 0);
    kv_staging_free(staging);
    kv_pool_free(pool);
}

static void test_growth_is_the_arithmetic(void **state)
{
    (void)state;
    static const int recents[] = {0, 1, 8}, sinks[] = {0, 4, 64}, chunks[] = {1, 63, 65, 512, 0};
    srand(2);
    for (int format = 0; format < KV_FORMATS; format++) {
        for (size_t r = 0; r < sizeof recents / sizeof recents[0]; r++) {
            for (size_t s = 0; s < sizeof sinks / sizeof sinks[0]; s++) {
                struct kv_policy policy = policy_of(&small, (enum kv_format)format, recents[r], sinks[s]);
                for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) grow(&policy, chunks[c], 900);
            }
        }
    }
}

/* A neighbour that holds all but `left` bytes of a pool, to the page. */
static struct {
    char *blocks[1100];
    enum kv_kind kinds[1100];
    int n;
} eaten;

static void eat_to(struct kv_pool *pool, size_t left)
{
    for (int kind = KV_F16; kind <= KV_SINK; kind += KV_SINK - KV_F16) {
        while (kv_pool_free_bytes(pool) >= left + kv_pool_block_bytes(pool, (enum kv_kind)kind)) {
            eaten.kinds[eaten.n] = (enum kv_kind)kind;
            eaten.blocks[eaten.n++] = kv_pool_take(pool, (enum kv_kind)kind);
        }
    }
    assert_int_equal(kv_pool_free_bytes(pool), left);
}

static void spit(struct kv_pool *pool)
{
    for (; eaten.n > 0; eaten.n--) kv_pool_release(pool, eaten.kinds[eaten.n - 1], eaten.blocks[eaten.n - 1]);
}

/* kv_policy_peak_bytes is not only a bound: the pool is really that full at the worst moment of the step. */
static void test_peak_is_reached(void **state)
{
    (void)state;
    for (int format = 0; format < KV_FORMATS; format++) {
        for (int recent = 0; recent <= 2; recent++) {
            struct kv_policy policy = policy_of(&small, (enum kv_format)format, recent, 4);
            for (int n = 1; n < 400; n += n % 64 == 0 ? 11 : 64 - n % 64 < 13 ? 64 - n % 64 : 13) {
                for (int n_new = 1; n_new < 300; n_new += 31) {
                    size_t peak = kv_policy_peak_bytes(&policy, n, n_new);
                    if (peak == kv_policy_held_bytes(&policy, n)) continue; /* needs nothing */
                    struct kv_staging *staging = kv_staging_create(&small, 512, &backend);
                    struct kv_sequence *seq = NULL;
                    /* With one page less than the peak the step or its demotions cannot be done. */
                    for (int less = 0; less <= 1; less++) {
                        struct kv_pool *pool = pool_of(&small, (size_t)4 << 20);
                        assert_int_equal(
                            kv_sequence_create(&policy, pool, staging, &backend, 1000, &seq, NULL), ERR_OK);
                        kv_staging_reset(staging);
                        assert_int_equal(kv_sequence_begin(seq, n, NULL), ERR_OK);
                        kv_sequence_end(seq);
                        assert_int_equal(used_bytes(pool), kv_policy_held_bytes(&policy, n));
                        /* A neighbour eats what the step is not entitled to. */
                        size_t page = kv_policy_block_bytes(&small, KV_SINK);
                        eat_to(pool, peak - used_bytes(pool) - (less ? page : 0));
                        kv_staging_reset(staging);
                        enum err err = kv_sequence_begin(seq, n_new, NULL);
                        if (err == ERR_OK) kv_sequence_end(seq);
                        bool whole = err == ERR_OK &&
                                     kv_sequence_bytes(seq) == kv_policy_held_bytes(&policy, n + n_new);
                        assert_int_equal(whole, !less);
                        kv_sequence_free(seq);
                        spit(pool);
                        kv_pool_free(pool);
                    }
                    kv_staging_free(staging);
                }
            }
        }
    }
}

/* A demotion that found no room is made up for later; reset readies the object for another format. */
static void test_late_demotion_and_reset(void **state)
{
    (void)state;
    struct kv_policy o2 = policy_of(&small, KV_FORMAT_O2, 1, 4), f16 = policy_of(&small, KV_FORMAT_F16, 1, 4);
    struct kv_pool *pool = pool_of(&small, (size_t)4 << 20);
    struct kv_staging *staging = kv_staging_create(&small, 512, &backend);
    struct kv_sequence *seq = NULL;
    struct kv_pool_stats stats;

    marks.demotions = 0;
    assert_int_equal(kv_sequence_create(&o2, pool, staging, &backend, 1000, &seq, NULL), ERR_OK);
    kv_staging_reset(staging);
    assert_int_equal(kv_sequence_begin(seq, 320, NULL), ERR_OK);
    eat_to(pool, 0);
    kv_sequence_end(seq);
    kv_pool_stats(pool, &stats);
    assert_int_equal(stats.used_blocks[KV_Q2], 0);
    assert_int_equal(stats.used_blocks[KV_Q4], 5);
    spit(pool);
    kv_staging_reset(staging);
    assert_int_equal(kv_sequence_begin(seq, 1, NULL), ERR_OK);
    kv_sequence_end(seq);
    assert_int_equal(used_bytes(pool), kv_policy_held_bytes(&o2, 321));
    assert_int_equal(marks.demotions, 4);

    kv_sequence_reset(seq, &f16);
    assert_int_equal(used_bytes(pool), 0);
    assert_int_equal(kv_sequence_begin(seq, 100, NULL), ERR_OK);
    kv_sequence_end(seq);
    assert_int_equal(used_bytes(pool), kv_policy_held_bytes(&f16, 100));
    kv_sequence_reset(seq, &o2);
    kv_staging_reset(staging);
    assert_int_equal(kv_sequence_begin(seq, 320, NULL), ERR_OK);
    kv_sequence_end(seq);
    assert_int_equal(used_bytes(pool), kv_policy_held_bytes(&o2, 320));
    kv_sequence_free(seq);
    kv_staging_free(staging);
    kv_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format_names),    cmocka_unit_test(test_known_numbers),
        cmocka_unit_test(test_pool_budget),     cmocka_unit_test(test_pool_gives_memory_back),
        cmocka_unit_test(test_pool_random),     cmocka_unit_test(test_growth_is_the_arithmetic),
        cmocka_unit_test(test_peak_is_reached), cmocka_unit_test(test_late_demotion_and_reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
