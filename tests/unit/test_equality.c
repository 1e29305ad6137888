/*
 * Bit for bit: the logits of a sequence are the same bytes whether its tokens are forwarded at once or in
 * chunks, alone or among fifteen others, by one thread or by three, with or without SIMD. On every format of
 * the cache.
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
    const char *name;
    enum kv_format format;
    int recent_blocks, sink_tokens, activation_bits;
};

static const struct format formats[] = {
    {"f16", KV_FORMAT_F16, 0, 0, 16},
    {"f16, 8-bit activations", KV_FORMAT_F16, 0, 0, 8},
    {"o4", KV_FORMAT_O4, 0, 4, 16},
    {"o2, recent 8", KV_FORMAT_O2, 8, 4, 16},
    {"o2, recent 1, 8-bit activations", KV_FORMAT_O2, 1, 4, 8},
    {"o2, recent 0, no sinks", KV_FORMAT_O2, 0, 0, 16},
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
        .format = format->format,
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
    for (int i = 0; i <= N_OTHERS; i++) seqs[i] = rig_sequence(rig);
    const int ours = N_OTHERS / 2;
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

static void assert_same(const float *want, const float *got, const char *format, const char *how)
{
    for (size_t i = 0; i < N_TOKENS; i++) {
        if (memcmp(want + i * n_vocab, got + i * n_vocab, n_vocab * sizeof *want) == 0) continue;
        fail_msg("%s: %s differs at token %zu", format, how, i);
    }
}

static void test_format(void **state)
{
    static const int chunks[] = {1, 17, 64, 512};
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
    struct CMUnitTest tests[sizeof formats / sizeof *formats];
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        tests[i] = (struct CMUnitTest){formats[i].name, test_format, NULL, NULL, (void *)&formats[i]};
    }
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
