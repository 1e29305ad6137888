/*
 * Logits and greedy continuations against transformers, recorded by tests/golden/make_golden.py from the same
 * GGUF files. Looks for the models in $OCTAVO_MODELS (default: models/) and skips, loudly, those that are not
 * there.
 */
#include "tests/unit/support/rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum {
    MAX_POSITIONS = 64,
    MAX_PROMPTS = 2,
    SANITIZED = 1
}; /* instrumented code takes twenty times as long */
#else
enum { MAX_POSITIONS = 1 << 20, MAX_PROMPTS = 1 << 20, SANITIZED = 0 };
#endif

enum { SAME_TOKENS = 32 }; /* of a greedy continuation that must agree */
static const double max_kl =
    1e-4; /* with 16-bit activations about 3e-6 is measured; with 8-bit .0005 to .002 */
static const float clear_gap = 0.02F; /* below it the reference's own choice is a matter of rounding */

struct golden {
    int n_positions, n_top, n_prompts, n_steps;
    const int32_t *tokens;  /* [n_positions] */
    const int32_t *top_ids; /* [n_positions][n_top] */
    const float *top_logprobs;
    const float *rest_logprob; /* [n_positions] */
    struct golden_prompt {
        int n;
        const int32_t *tokens, *greedy; /* [n], [n_steps] */
        const float *gap;               /* [n_steps] */
    } * prompts;
    char *bytes;
};

static const void *take(const char **at, size_t n)
{
    const char *taken = *at;
    *at += n * 4;
    return taken;
}

static void golden_read(const char *path, struct golden *out)
{
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("%s is missing", path);
    fseek(file, 0, SEEK_END);
    size_t length = (size_t)ftell(file);
    rewind(file);
    out->bytes = malloc(length);
    assert_non_null(out->bytes);
    assert_int_equal(fread(out->bytes, 1, length, file), length);
    fclose(file);
    const char *at = out->bytes;
    assert_memory_equal(take(&at, 1), "OGLD", 4);
    const int32_t *head = take(&at, 5);
    assert_int_equal(head[0], 1);
    out->n_positions = head[1];
    out->n_top = head[2];
    out->n_prompts = head[3];
    out->n_steps = head[4];
    size_t n = (size_t)out->n_positions, n_top = (size_t)out->n_top, n_steps = (size_t)out->n_steps;
    out->tokens = take(&at, n);
    out->top_ids = take(&at, n * n_top);
    out->top_logprobs = take(&at, n * n_top);
    out->rest_logprob = take(&at, n);
    out->prompts = calloc((size_t)out->n_prompts, sizeof *out->prompts);
    assert_non_null(out->prompts);
    for (int i = 0; i < out->n_prompts; i++) {
        struct golden_prompt *prompt = &out->prompts[i];
        prompt->n = *(const int32_t *)take(&at, 1);
        prompt->tokens = take(&at, (size_t)prompt->n);
        prompt->greedy = take(&at, n_steps);
        prompt->gap = take(&at, n_steps);
    }
    assert_ptr_equal(at, out->bytes + length);
    if (out->n_positions > MAX_POSITIONS) out->n_positions = MAX_POSITIONS;
    if (out->n_prompts > MAX_PROMPTS) out->n_prompts = MAX_PROMPTS;
}

/* KL(reference || ours) at one position, over the reference's top tokens and one bucket for all others: a
   lower bound of the full one, by less than what the bucket's inside could add. */
static double divergence(const struct golden *golden, int position, const float *logits, int n_vocab)
{
    const int32_t *ids = golden->top_ids + (size_t)position * (size_t)golden->n_top;
    const float *want = golden->top_logprobs + (size_t)position * (size_t)golden->n_top;
    double peak = -INFINITY, sum = 0, top = 0, kl = 0;
    for (int i = 0; i < n_vocab; i++) peak = fmax(peak, (double)logits[i]);
    for (int i = 0; i < n_vocab; i++) sum += exp((double)logits[i] - peak);
    for (int i = 0; i < golden->n_top; i++) {
        double ours = (double)logits[ids[i]] - peak - log(sum);
        top += exp(ours);
        kl += exp((double)want[i]) * ((double)want[i] - ours);
    }
    double rest = (double)golden->rest_logprob[position];
    return kl + exp(rest) * (rest - log(fmax(1 - top, 1e-12)));
}

static int argmax(const float *logits, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

static double mean_divergence(struct rig *rig, const struct golden *golden, const char *name)
{
    enum { CHUNK = 128 };
    const int n_vocab = model_config(rig->model)->n_vocab;
    struct kv_sequence *seq = rig_sequence(rig);
    double sum = 0, worst = 0;
    for (int at = 0; at < golden->n_positions; at += CHUNK) {
        int n = golden->n_positions - at < CHUNK ? golden->n_positions - at : CHUNK;
        const float *logits = rig_step(rig, &(struct rig_part){seq, golden->tokens + at, n, false}, 1);
        for (int i = 0; i < n; i++) {
            double kl = divergence(golden, at + i, logits + (size_t)i * (size_t)n_vocab, n_vocab);
            sum += kl;
            worst = fmax(worst, kl);
        }
    }
    kv_sequence_free(seq);
    double mean = sum / golden->n_positions;
    print_message("%s: KL to transformers over %d tokens: mean %.1e, largest %.1e\n", name,
                  golden->n_positions, mean, worst);
    return mean;
}

/* How many prompts leave the reference within SAME_TOKENS. All run in one batch; one that left the reference,
   or came to a choice that is not clear, is finished. */
static int count_broken(struct rig *rig, const struct golden *golden, const char *name)
{
    const int n_vocab = model_config(rig->model)->n_vocab, n = golden->n_prompts;
    struct rig_part *parts = calloc((size_t)n, sizeof *parts);
    struct kv_sequence **seqs = calloc((size_t)n, sizeof *seqs);
    int *which = calloc((size_t)n, sizeof *which);
    int n_live = n, n_broken = 0, n_whole = 0, n_unclear = 0;
    assert_true(parts && seqs && which);
    for (int i = 0; i < n; i++) {
        const struct golden_prompt *prompt = &golden->prompts[i];
        seqs[i] = rig_sequence(rig);
        which[i] = i;
        parts[i] = (struct rig_part){seqs[i], prompt->tokens, prompt->n, true};
    }
    for (int step = 0; step < golden->n_steps && n_live > 0; step++) {
        const float *logits = rig_step(rig, parts, n_live);
        int kept = 0;
        for (int i = 0; i < n_live; i++) {
            const struct golden_prompt *prompt = &golden->prompts[which[i]];
            int token = argmax(logits + (size_t)i * (size_t)n_vocab, n_vocab);
            bool clear = prompt->gap[step] >= clear_gap, same = token == prompt->greedy[step];
            if (clear && !same) {
                print_message("%s: prompt %d leaves the reference at token %d: %d, not %d (gap %.3f)\n", name,
                              which[i], step, token, prompt->greedy[step], (double)prompt->gap[step]);
                n_broken += step < SAME_TOKENS;
            }
            n_unclear += !clear;
            if (!clear || !same) continue;
            which[kept] = which[i];
            parts[kept++] = (struct rig_part){seqs[which[i]], &prompt->greedy[step], 1, true};
        }
        n_live = kept;
    }
    n_whole = n_live;
    print_message(
        "%s: greedy: %d prompts, %d equal for all %d tokens, %d up to a choice that is not clear, %d "
        "broken within %d\n",
        name, n, n_whole, golden->n_steps, n_unclear, n_broken, SAME_TOKENS);
    for (int i = 0; i < n; i++) kv_sequence_free(seqs[i]);
    free(parts);
    free(seqs);
    free(which);
    return n_broken;
}

static void test_model(void **state)
{
    const char *name = *state, *folder = getenv("OCTAVO_MODELS");
    char path[4096], golden_path[256];
    struct golden golden;
    snprintf(path, sizeof path, "%s/%s.gguf", folder ? folder : "models", name);
    if (access(path, R_OK) != 0) {
        print_message("SKIPPED, NOT TESTED: there is no %s (see tests/models.sh)\n", path);
        skip();
    }
    if (SANITIZED && strcmp(name, "smollm2") != 0) {
        print_message("SKIPPED under a sanitizer: %s is too large; the release build tests it\n", name);
        skip();
    }
    snprintf(golden_path, sizeof golden_path, "tests/golden/%s.golden", name);
    golden_read(golden_path, &golden);
    struct rig *rig = rig_create(&(struct rig_setup){
        .path = path,
        .level = "auto",
        .threads = 2,
        .max_rows = 512,
        .max_logits = 128,
        .max_tokens = 1024,
        .max_sequences = golden.n_prompts + 1,
    });
    double kl = mean_divergence(rig, &golden, name);
    int n_broken = count_broken(rig, &golden, name);
    rig_free(rig);
    free(golden.prompts);
    free(golden.bytes);
    assert_true(kl >= 0 && kl <= max_kl);
    assert_int_equal(n_broken, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"smollm2", test_model, NULL, NULL, "smollm2"},
        {"qwen05", test_model, NULL, NULL, "qwen05"},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
