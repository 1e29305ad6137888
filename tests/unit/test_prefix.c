/* The prefix cache: what is cached is found with its bytes, what is used stays, what is idle makes room,
   oldest first, and nothing leaks. And its file. */
#include "cache/prefix_file.h"
#include "cache/sequence.h"
#include "tests/unit/support/memory_backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct kv_shape shape = {.n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32};
enum { RECENT = 2, SINKS = 4, MAX_TOKENS = 64 * 12 + 10, MAX_STEP = 1024 };

/* A head dimension of 32 has powers of two: the set's identity tables do. */
static struct kv_formats *formats;
static const double inv_freq[16] = {1, .5, .25, .1, .05, .02, .01, .005, .002, .001};

static int create_formats(void **state)
{
    (void)state;
    return kv_formats_create(&shape, "o2,f16,o4", NULL, 8, inv_freq, &formats, NULL) != ERR_OK;
}

static int free_formats(void **state)
{
    (void)state;
    kv_formats_free(formats);
    return 0;
}

struct bench {
    struct kv_policy policy;
    struct kv_pool *pool;
    struct kv_staging *staging;
    struct kv_prefix *prefix;
};

static void bench_open(struct bench *bench, const char *format, size_t pool_bytes)
{
    size_t class_bytes[KV_CLASSES] = {0};
    for (int f = 0; f < kv_formats_count(formats); f++) {
        struct kv_policy policy = {shape, kv_formats_at(formats, f), RECENT, SINKS};
        kv_policy_classes(&policy, class_bytes);
    }
    bench->policy = (struct kv_policy){shape, kv_formats_find(formats, format), RECENT, SINKS};
    assert_int_equal(kv_pool_create(class_bytes, pool_bytes, &bench->pool, NULL), ERR_OK);
    assert_int_equal(kv_prefix_create(bench->pool, SINKS, &bench->prefix, NULL), ERR_OK);
    bench->staging = kv_staging_create(&shape, MAX_STEP, &memory_backend);
    assert_non_null(bench->staging);
}

static void bench_close(struct bench *bench)
{
    kv_prefix_check(bench->prefix);
    kv_prefix_free(bench->prefix);
    kv_staging_free(bench->staging);
    kv_pool_check(bench->pool);
    kv_pool_free(bench->pool);
}

static struct kv_sequence *sequence_of(struct bench *bench)
{
    struct kv_sequence *seq;
    assert_int_equal(kv_sequence_create(&bench->policy, bench->pool, bench->staging, &memory_backend,
                                        MAX_TOKENS, &seq, NULL),
                     ERR_OK);
    kv_sequence_attach(seq, bench->prefix);
    return seq;
}

/* The chain of a text. */
static void keys_of(const int32_t *tokens, int n_blocks, struct kv_hash *keys)
{
    struct kv_hash key = kv_prefix_seed("model", 5);
    for (int b = 0; b < n_blocks; b++) keys[b] = key = kv_prefix_hash(key, tokens + b * KV_BLOCK_TOKENS);
}

/* What a block's memory must hold: it follows from its key and from which piece of it this is. */
static void stamp(char *memory, struct kv_hash key, int piece)
{
    uint64_t stamp[2] = {key.low + (uint64_t)piece, key.high};
    memcpy(memory, stamp, sizeof stamp);
}

static void check_stamp(const char *memory, struct kv_hash key, int piece)
{
    uint64_t stamp[2] = {key.low + (uint64_t)piece, key.high};
    assert_memory_equal(memory, stamp, sizeof stamp);
}

/* Extend by n tokens of a text with these keys: stamps what is written, checks what was there, shares. False
   when there is no room. */
static bool extend(struct bench *bench, struct kv_sequence *seq, const struct kv_hash *keys, int n)
{
    int before = kv_sequence_tokens(seq), after = before + n;
    struct attention_span span;
    kv_staging_reset(bench->staging);
    if (kv_sequence_begin(seq, n, NULL) != ERR_OK) return false;
    kv_sequence_span(seq, 0, &span);
    for (int b = 0; b < after / KV_BLOCK_TOKENS; b++) {
        const struct kv_block_ref *block = &span.blocks[b];
        bool is_new = b >= before / KV_BLOCK_TOKENS;
        for (int p = 0; p < KV_MAX_PARTS; p++)
            if (block->parts[p] != NULL)
                (is_new ? stamp(block->parts[p], keys[b], p) : check_stamp(block->parts[p], keys[b], p));
        for (int s = 0; s < __builtin_popcountll(block->sink_mask); s++)
            (is_new ? stamp(block->sinks[s], keys[b], 10 + s)
                    : check_stamp(block->sinks[s], keys[b], 10 + s));
        if (span.codec == NULL)
            (is_new ? stamp(block->f16, keys[b], 0) : check_stamp(block->f16, keys[b], 0));
    }
    assert_int_equal(kv_sequence_completes(seq), after / KV_BLOCK_TOKENS - before / KV_BLOCK_TOKENS);
    kv_sequence_end_shared(seq, keys + before / KV_BLOCK_TOKENS);
    kv_prefix_check(bench->prefix);
    return true;
}

static size_t used_bytes(const struct bench *bench)
{
    struct kv_pool_stats stats;
    kv_pool_stats(bench->pool, &stats);
    return stats.budget_bytes - kv_pool_free_bytes(bench->pool);
}

static void text_of(int32_t *tokens, int n, int seed)
{
    for (int i = 0; i < n; i++) tokens[i] = seed * 1000003 + i * 7919;
}

static void test_keys(void **state)
{
    (void)state;
    int32_t tokens[2 * KV_BLOCK_TOKENS];
    struct kv_hash a[2], b[2];
    text_of(tokens, 2 * KV_BLOCK_TOKENS, 1);
    keys_of(tokens, 2, a);
    tokens[0]++;
    keys_of(tokens, 2, b);
    /* The second block's tokens are the same, its prefix is not. */
    assert_memory_not_equal(&a[1], &b[1], sizeof *a);
    assert_memory_not_equal(&a[0], &b[0], sizeof *a);
}

/* Two sequences of one text: blocks are held once, by the byte; the second goes on where it may. */
static void test_shared_once(void **state)
{
    (void)state;
    for (int f = 0; f < kv_formats_count(formats); f++) {
        struct bench bench;
        struct kv_hash keys[12];
        int32_t tokens[12 * KV_BLOCK_TOKENS];
        text_of(tokens, 12 * KV_BLOCK_TOKENS, 2);
        keys_of(tokens, 12, keys);
        bench_open(&bench, kv_formats_at(formats, f)->name, (size_t)8 << 20);
        struct kv_sequence *a = sequence_of(&bench), *b = sequence_of(&bench);
        assert_int_equal(kv_sequence_adopt(a, keys, 12, 99), 0);
        assert_true(extend(&bench, a, keys, 300));
        assert_true(extend(&bench, a, keys, 300));
        size_t alone = kv_sequence_bytes(a);

        assert_int_equal(kv_sequence_adopt(b, keys, 12, 99), 9);
        assert_int_equal(kv_sequence_tokens(b), 9 * KV_BLOCK_TOKENS);
        struct kv_prefix_stats stats;
        kv_prefix_stats(bench.prefix, &stats);
        assert_int_equal(stats.n_entries, 9);
        assert_int_equal(stats.n_idle, 0);
        assert_true(extend(&bench, b, keys, 24));
        /* Ten blocks more than nine: one open f16 block each. */
        assert_int_equal(kv_sequence_bytes(b), alone);
        assert_int_equal(used_bytes(&bench) - stats.idle_bytes,
                         alone + kv_policy_block_bytes(&bench.policy, KV_F16));
        kv_sequence_free(a);
        kv_sequence_free(b);
        kv_prefix_stats(bench.prefix, &stats);
        assert_int_equal(stats.used_bytes, 0);
        assert_int_equal(stats.n_idle, 9);
        assert_int_equal(stats.idle_bytes, used_bytes(&bench));
        bench_close(&bench);
    }
}

/* Both computed the same blocks at the same time: one copy stays. */
static void test_computed_twice(void **state)
{
    (void)state;
    struct bench bench;
    struct kv_hash keys[4];
    int32_t tokens[4 * KV_BLOCK_TOKENS];
    text_of(tokens, 4 * KV_BLOCK_TOKENS, 3);
    keys_of(tokens, 4, keys);
    bench_open(&bench, "o2", (size_t)8 << 20);
    struct kv_sequence *a = sequence_of(&bench), *b = sequence_of(&bench);
    assert_true(extend(&bench, a, keys, 256));
    size_t alone = used_bytes(&bench);
    assert_true(extend(&bench, b, keys, 256));
    assert_int_equal(used_bytes(&bench), alone);
    kv_sequence_free(a);
    assert_true(extend(&bench, b, keys, 10)); /* finds its bytes */
    kv_sequence_free(b);
    bench_close(&bench);
}

/* Without the recent parts of the last blocks nobody can go on behind them. */
static void test_recent_parts_decide(void **state)
{
    (void)state;
    struct bench bench;
    struct kv_hash keys[12];
    int32_t tokens[12 * KV_BLOCK_TOKENS];
    text_of(tokens, 12 * KV_BLOCK_TOKENS, 4);
    keys_of(tokens, 12, keys);
    bench_open(&bench, "o2", (size_t)8 << 20);
    struct kv_sequence *a = sequence_of(&bench);
    assert_true(extend(&bench, a, keys, 10 * 64));
    /* All recent parts are still there, idle from block 7 down. */
    assert_int_equal(kv_prefix_longest(bench.prefix, keys, 12, RECENT), 10);
    assert_int_equal(kv_prefix_longest(bench.prefix, keys, 5, RECENT), 5);
    struct kv_prefix_stats stats;
    kv_prefix_stats(bench.prefix, &stats);
    assert_true(stats.idle_bytes > 0);
    /* Take the idle memory away: old parts in use stay, old recent parts go. */
    assert_true(kv_prefix_reclaim(bench.prefix, kv_pool_free_bytes(bench.pool) + stats.idle_bytes));
    assert_false(kv_prefix_reclaim(bench.prefix, kv_pool_free_bytes(bench.pool) + 1));
    assert_int_equal(kv_prefix_longest(bench.prefix, keys, 12, RECENT), 10);
    assert_int_equal(kv_prefix_longest(bench.prefix, keys, 9, RECENT), 0);
    kv_sequence_free(a);
    bench_close(&bench);
}

/* Many sequences of few texts that share beginnings, in a pool too small for all, growing, ending and coming
   back at random. */
static void test_random(void **state)
{
    (void)state;
    enum { SEQUENCES = 6, TEXTS = 8, BLOCKS = 12 };
    static int32_t tokens[TEXTS][BLOCKS * KV_BLOCK_TOKENS];
    static struct kv_hash keys[TEXTS][BLOCKS];
    srand(5);
    for (int t = 0; t < TEXTS; t++) {
        text_of(tokens[t], BLOCKS * KV_BLOCK_TOKENS, 100 + t);
        int common = t > 0 ? rand() % BLOCKS : 0; /* blocks that it has in common with an earlier one */
        memcpy(tokens[t], tokens[t > 0 ? rand() % t : 0], (size_t)common * KV_BLOCK_TOKENS * sizeof(int32_t));
        keys_of(tokens[t], BLOCKS, keys[t]);
    }
    for (int f = 0; f < kv_formats_count(formats); f++) {
        struct bench bench;
        int text[SEQUENCES] = {0};
        int64_t adopted = 0, refused = 0;
        struct kv_sequence *seqs[SEQUENCES];
        bool is_f16 = kv_formats_at(formats, f)->codec == NULL;
        bench_open(&bench, kv_formats_at(formats, f)->name, (size_t)(is_f16 ? 1000 : 350) << 10);
        for (int i = 0; i < SEQUENCES; i++) seqs[i] = sequence_of(&bench);
        for (int step = 0; step < 4000; step++) {
            int i = rand() % SEQUENCES, n = kv_sequence_tokens(seqs[i]);
            int left = BLOCKS * KV_BLOCK_TOKENS - n, n_new = 1 + rand() % 150;
            if (left == 0 || rand() % 30 == 0) {
                kv_sequence_reset(seqs[i], &bench.policy);
                text[i] = rand() % TEXTS;
                adopted += kv_sequence_adopt(seqs[i], keys[text[i]], rand() % (BLOCKS + 1), BLOCKS - RECENT);
            } else if (!extend(&bench, seqs[i], keys[text[i]], n_new < left ? n_new : left)) {
                refused++;
                kv_sequence_reset(seqs[i], &bench.policy);
            }
            if (step % 50 == 0) kv_pool_check(bench.pool);
        }
        assert_true(adopted > 500);
        assert_true(refused > 0);
        struct kv_prefix_stats stats;
        kv_prefix_stats(bench.prefix, &stats);
        assert_true(stats.evicted > 100);
        for (int i = 0; i < SEQUENCES; i++) kv_sequence_free(seqs[i]);
        bench_close(&bench);
    }
}

/* ---- the file ---- */

static const char path[] = "test_prefix.tmp";

static struct kv_prefix_identity identity_of(const char *name)
{
    return (struct kv_prefix_identity){kv_prefix_seed(name, strlen(name)), &shape};
}

/* A cache with blocks of two texts in two formats, saved. */
static void save(const struct kv_prefix_identity *identity, struct kv_hash keys[2][6])
{
    for (int f = 0; f < 2; f++) {
        int32_t tokens[6 * KV_BLOCK_TOKENS];
        text_of(tokens, 6 * KV_BLOCK_TOKENS, 20 + f);
        keys_of(tokens, 6, keys[f]);
    }
    struct bench bench;
    bench_open(&bench, "o2", (size_t)8 << 20);
    struct kv_sequence *seq = sequence_of(&bench);
    assert_true(extend(&bench, seq, keys[0], 390));
    bench.policy.format = kv_formats_find(formats, "f16");
    kv_sequence_reset(seq, &bench.policy);
    assert_true(extend(&bench, seq, keys[1], 390));
    kv_sequence_free(seq);
    assert_int_equal(kv_prefix_save(bench.prefix, bench.pool, formats, identity, path, NULL, NULL), ERR_OK);
    bench_close(&bench);
}

static void test_file(void **state)
{
    (void)state;
    struct kv_prefix_identity identity = identity_of("one"), other = identity_of("other");
    struct kv_hash keys[2][6];
    struct bench bench;
    struct err_info info;
    int64_t n = 0;
    save(&identity, keys);
    bench_open(&bench, "o2", (size_t)8 << 20);
    assert_int_equal(kv_prefix_load(bench.prefix, bench.pool, formats, &other, path, &n, &info), ERR_FORMAT);
    assert_non_null(strstr(info.message, "another model"));
    assert_int_equal(kv_prefix_load(bench.prefix, bench.pool, formats, &identity, path, &n, &info), ERR_OK);
    assert_int_equal(n, 12);
    struct kv_sequence *seq = sequence_of(&bench);
    assert_int_equal(kv_sequence_adopt(seq, keys[0], 6, 99), 6);
    assert_true(extend(&bench, seq, keys[0], 3)); /* finds its bytes */
    bench.policy.format = kv_formats_find(formats, "f16");
    kv_sequence_reset(seq, &bench.policy);
    assert_int_equal(kv_sequence_adopt(seq, keys[1], 6, 99), 6);
    assert_true(extend(&bench, seq, keys[1], 3));
    kv_sequence_free(seq);
    bench_close(&bench);

    /* A smaller pool takes what it can, the least recently used last. */
    bench_open(&bench, "o2", (size_t)230 << 10);
    assert_int_equal(kv_prefix_load(bench.prefix, bench.pool, formats, &identity, path, &n, &info), ERR_OK);
    assert_true(used_bytes(&bench) > (size_t)180 << 10);
    assert_non_null(kv_prefix_find(bench.prefix, keys[1][0]));
    assert_null(kv_prefix_find(bench.prefix, keys[0][5]));
    bench_close(&bench);
    unlink(path);
}

/* Cut anywhere, or with any bit turned, it is refused and leaves nothing behind. */
static void test_file_damaged(void **state)
{
    (void)state;
    struct kv_prefix_identity identity = identity_of("one");
    struct kv_hash keys[2][6];
    save(&identity, keys);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    static char bytes[1 << 20], changed[1 << 20];
    size_t length = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_true(length > 1000 && length < sizeof bytes);
    srand(6);
    for (int round = 0; round < 60; round++) {
        memcpy(changed, bytes, length);
        size_t kept = round % 2 ? (size_t)rand() % length : length;
        if (kept == length) changed[(size_t)rand() % length] ^= (char)(1 << rand() % 8);
        file = fopen(path, "wb");
        assert_int_equal(fwrite(changed, 1, kept, file), kept);
        fclose(file);
        struct bench bench;
        struct err_info info;
        int64_t n = 0;
        bench_open(&bench, "o2", (size_t)8 << 20);
        assert_int_equal(kv_prefix_load(bench.prefix, bench.pool, formats, &identity, path, &n, &info),
                         ERR_FORMAT);
        assert_int_equal(used_bytes(&bench), 0);
        bench_close(&bench);
    }
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),           cmocka_unit_test(test_shared_once),
        cmocka_unit_test(test_computed_twice), cmocka_unit_test(test_recent_parts_decide),
        cmocka_unit_test(test_random),         cmocka_unit_test(test_file),
        cmocka_unit_test(test_file_damaged),
    };
    return cmocka_run_group_tests(tests, create_formats, free_formats);
}
