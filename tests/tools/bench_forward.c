/*
 * bench_forward MODEL.gguf [FORMAT [THREADS [BITS [cpu]]]]: tokens per second of the model alone, as
 * llama-bench and llama-batched-bench measure them: a prompt of 512 tokens, then steps of one token for 1, 4
 * and 16 sequences of 512. BITS: of activations, 8, 16 or 0 (auto). With `cpu` the clock is the process's
 * processor time (a busy machine, one thread). Medians of several runs.
 */
#include "tests/unit/support/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PROMPT = 512, CONTEXT = 128, RUNS = 3, STEPS = 12, MAX_BATCH = 16 };

static clockid_t bench_clock = CLOCK_MONOTONIC;
static int32_t prompt[PROMPT];

static double now_s(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return values[n / 2];
}

static void prefill(struct rig *rig)
{
    double times[RUNS];
    for (int run = 0; run < RUNS; run++) {
        struct kv_sequence *seq = rig_sequence(rig);
        double start = now_s();
        rig_step(rig, &(struct rig_part){seq, prompt, PROMPT, true}, 1);
        times[run] = now_s() - start;
        kv_sequence_free(seq);
    }
    printf("prefill %d: %.1f tokens/s\n", PROMPT, PROMPT / median(times, RUNS));
    fflush(stdout);
}

static void decode(struct rig *rig, struct rig_part *parts, int n)
{
    double times[STEPS];
    for (int step = 0; step < STEPS; step++) {
        double start = now_s();
        rig_step(rig, parts, n);
        times[step] = now_s() - start;
    }
    printf("decode, batch %2d: %.1f tokens/s\n", n, n / median(times, STEPS));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct rig_setup setup = {.level = "auto",
                              .threads = argc > 3 ? atoi(argv[3]) : 2,
                              .recent_blocks = 8,
                              .sink_tokens = 4,
                              .max_rows = PROMPT,
                              .max_logits = MAX_BATCH,
                              .max_tokens = PROMPT + 3 * STEPS,
                              .max_sequences = MAX_BATCH,
                              .activation_bits = argc > 4 ? atoi(argv[4]) : 0};
    struct err_info info;
    setup.formats = argc > 2 ? argv[2] : "f16";
    if (argc < 2 || kv_formats_check(setup.formats, &info)) {
        fprintf(stderr, "bench_forward MODEL.gguf [FORMAT [THREADS [8|16 [cpu]]]]\n");
        return 2;
    }
    if (argc > 5 && !strcmp(argv[5], "cpu")) bench_clock = CLOCK_PROCESS_CPUTIME_ID;
    setup.path = argv[1];
    for (int i = 0; i < PROMPT; i++) prompt[i] = 100 + i * 37 % 5000;
    struct rig *rig = rig_create(&setup);
    prefill(rig);
    struct rig_part parts[MAX_BATCH];
    for (int i = 0; i < MAX_BATCH; i++) {
        parts[i] = (struct rig_part){rig_sequence(rig), prompt, CONTEXT, true};
        rig_step(rig, &parts[i], 1);
        parts[i].n = 1;
        parts[i].tokens = prompt + i;
    }
    decode(rig, parts, 1);
    decode(rig, parts, 4);
    decode(rig, parts, MAX_BATCH);
    for (int i = 0; i < MAX_BATCH; i++) kv_sequence_free(parts[i].seq);
    rig_free(rig);
    return 0;
}
