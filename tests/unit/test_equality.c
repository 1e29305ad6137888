/*
 * Bit for bit: the logits of a sequence are the same bytes whether its tokens are forwarded at once or in
 * chunks, alone or among fifteen others of several formats, forked or not, by one thread or by three, with or
 * without SIMD. On every format of the cache.
 */
#include "config/log.h"
#include "tests/unit/support/rig.h"
#include "tests/unit/support/tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { N_BLOCKS = 4 }; /* instrumented code is slow; recent blocks of 1 and 0 still age */
#else
enum { N_BLOCKS = 11 };
#endif

enum {
    N_TOKENS = 64 * N_BLOCKS + 9, /* more blocks than stay recent, more frames than one, and an open block */
    N_OTHERS = 15,
    MAX_ROWS = 1024,
};

struct format {
    const char *name, *formats; /* the first is ours; others that stand beside us */
    int recent_blocks, sink_tokens, activation_bits;
};

static const struct format formats[] = {
    {"f16", "f16,o2", 0, 0, 16},
    {"f16, 8-bit activations", "f16", 0, 0, 8},
    {"o8", "o8,o2", 0, 4, 16},
    {"o4", "o4,o2,f16", 0, 4, 16},
    {"o3, recent 2", "o3,o1.5", 2, 4, 16},
    {"o2.5, recent 0", "o2.5", 0, 4, 16},
    {"o2, recent 8", "o2,f16,o4,k4v2", 8, 4, 16},
    {"o2, recent 1, 8-bit activations", "o2,o4", 1, 4, 8},
    {"o2, recent 0, no sinks", "o2,o3", 0, 0, 16},
    {"o1.5, recent 2", "o1.5,f16", 2, 64, 16},
    {"k3v1.5, recent 1", "k3v1.5,k1.5v3,o2", 1, 4, 16},
    {"rotatekv", "rotatekv,o2,f16", 0, 4, 16},
};

static void *bytes;
static size_t length, n_vocab;
static int32_t tokens[N_TOKENS];

static struct rig *create(const struct format *format, const char *level, int threads)
{
    return rig_create(&(struct rig_setup){
        .bytes = bytes,
        .length = length,
        .level = level,
        .threads = threads,
        .activation_bits = format->activation_bits,
        .formats = format->formats,
        .recent_blocks = format->recent_blocks,
        .sink_tokens = format->sink_tokens,
        .max_rows = MAX_ROWS,
        .max_tokens = N_TOKENS,
        .max_sequences = N_OTHERS + 1,
    });
}

/* Logits of all tokens, forwarded `chunk` at a time. */
static void run_alone(struct rig *rig, int chunk, float *out)
{
    struct kv_sequence *seq = rig_sequence(rig);
    for (int at = 0, n; at < N_TOKENS; at += n) {
        n = N_TOKENS - at < chunk ? N_TOKENS - at : chunk;
        const float *logits = rig_step(rig, &(struct rig_part){seq, tokens + at, n, false}, 1);
        memcpy(out + (size_t)at * n_vocab, logits, (size_t)n * n_vocab * sizeof *out);
    }
    kv_sequence_free(seq);
}

/* The same among others, which start elsewhere in the text and move at another pace; ours stands in the
 * middle. */
static void run_among_others(struct rig *rig, float *out)
{
    struct kv_sequence *seqs[N_OTHERS + 1];
    int at[N_OTHERS + 1] = {0};
    const int ours = N_OTHERS / 2, n_formats = kv_formats_count(rig->formats);
    for (int i = 0; i <= N_OTHERS; i++) seqs[i] = rig_sequence_of(rig, i == ours ? 0 : i % n_formats);
    while (at[ours] < N_TOKENS) {
        struct rig_part parts[N_OTHERS + 1];
        int n_parts = 0, before = 0, n_ours = 0;
        for (int i = 0; i <= N_OTHERS; i++) {
            int start = i == ours ? 0 : 5 * i, left = N_TOKENS - start - at[i];
            int n = i == ours ? 29 : 1 + i * 5;
            if (n > left) n = left;
            if (n == 0) continue;
            if (i < ours) before += n;
            if (i == ours) n_ours = n;
            parts[n_parts++] = (struct rig_part){seqs[i], tokens + start + at[i], n, false};
            at[i] += n;
        }
        const float *logits = rig_step(rig, parts, n_parts);
        memcpy(out + (size_t)(at[ours] - n_ours) * n_vocab, logits + (size_t)before * n_vocab,
               (size_t)n_ours * n_vocab * sizeof *out);
    }
    for (int i = 0; i <= N_OTHERS; i++) kv_sequence_free(seqs[i]);
}

/* The same, forked after `at` tokens: both go on, in the same steps, the other one with other tokens until it
   is forked again from ours. */
static void run_forked(struct rig *rig, int at, float *out)
{
    enum { STEP = 40 };
    struct kv_sequence *seq = rig_sequence(rig), *fork = rig_sequence(rig);
    struct err_info info;
    const float *logits = rig_step(rig, &(struct rig_part){seq, tokens, at, false}, 1);
    memcpy(out, logits, (size_t)at * n_vocab * sizeof *out);
    for (int forked = 0, n; at < N_TOKENS; at += n, forked++) {
        if (forked % 3 == 0) assert_int_equal(kv_sequence_fork(seq, fork, &info), ERR_OK);
        n = N_TOKENS - at < STEP ? N_TOKENS - at : STEP;
        struct rig_part parts[] = {{fork, tokens + STEP - n, n, false}, {seq, tokens + at, n, false}};
        /* Whose turn it is to hold our tokens: the one that was forked, or the fork itself. */
        if (forked % 6 == 3) {
            struct kv_sequence *other = seq;
            seq = fork;
            fork = other;
            parts[0].seq = fork;
            parts[1].seq = seq;
        }
        logits = rig_step(rig, parts, 2);
        memcpy(out + (size_t)at * n_vocab, logits + (size_t)n * n_vocab, (size_t)n * n_vocab * sizeof *out);
    }
    kv_sequence_free(seq);
    kv_sequence_free(fork);
}

static void assert_same(const float *want, const float *got, const char *format, const char *how)
{
    for (size_t i = 0; i < N_TOKENS; i++) {
        if (memcmp(want + i * n_vocab, got + i * n_vocab, n_vocab * sizeof *want) == 0) continue;
        fail_msg("%s: %s differs at token %zu", format, how, i);
    }
}

static void test_format(void **state)
{
    static const int chunks[] = {1, 17, 64, 512}, forks[] = {1, 63, 64, 150};
    const struct format *format = *state;
    struct rig *rig = create(format, "auto", 2);
    n_vocab = (size_t)model_config(rig->model)->n_vocab;
    float *want = calloc(N_TOKENS * n_vocab, sizeof *want), *got = calloc(N_TOKENS * n_vocab, sizeof *got);
    assert_true(want && got);
    run_alone(rig, N_TOKENS, want);
    for (size_t i = 0; i < n_vocab; i++) assert_true(want[i] - want[i] == 0); /* finite */
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        char how[32];
        snprintf(how, sizeof how, "chunks of %d", chunks[i]);
        run_alone(rig, chunks[i], got);
        assert_same(want, got, format->name, how);
    }
    run_among_others(rig, got);
    assert_same(want, got, format->name, "among 15 others");
    for (size_t i = 0; i < sizeof forks / sizeof *forks; i++) {
        char how[32];
        snprintf(how, sizeof how, "forked after %d", forks[i]);
        run_forked(rig, forks[i], got);
        assert_same(want, got, format->name, how);
    }
    rig_free(rig);

    rig = create(format, "auto", 3);
    run_alone(rig, 200, got);
    assert_same(want, got, format->name, "with three threads");
    rig_free(rig);
    rig = create(format, "scalar", 1);
    run_alone(rig, N_TOKENS, got);
    assert_same(want, got, format->name, "without SIMD");
    rig_free(rig);
    free(want);
    free(got);
}

static int set_up(void **state)
{
    (void)state;
    log_configure(LOG_LEVEL_WARN, 0);
    struct tiny_model tiny = tiny_model_default();
    tiny.head_dim = 64;
    tiny.n_heads = 4;
    tiny.n_kv_heads = 2;
    tiny.q = tiny.up = DTYPE_Q4_1;
    tiny.o = DTYPE_Q5_0;
    tiny.down = DTYPE_Q4_K;
    tiny.gate = DTYPE_BF16;
    bytes = tiny_model_bytes(&tiny, &length);
    for (int i = 0; i < N_TOKENS; i++) tokens[i] = (int32_t)((unsigned)i * 2654435761U >> 24);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(bytes);
    return 0;
}

int main(void)
{
    /* Which threads meet where does not depend on the format: under TSan, minutes each, every third. */
#if defined __SANITIZE_THREAD__
    enum { STEP = 3 };
#else
    enum { STEP = 1 };
#endif
    struct CMUnitTest tests[sizeof formats / sizeof *formats / STEP];
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        const struct format *format = &formats[i * STEP];
        tests[i] = (struct CMUnitTest){format->name, test_format, NULL, NULL, (void *)format};
    }
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
