/* Swapped = undisturbed, bit for bit: an engine whose cached blocks go to a second store and come back, or
   are damaged there, gives every request the tokens and log probabilities that it has when it runs alone. */
#define _GNU_SOURCE /* SEEK_DATA */
#include "server/engine_internal.h"
#include "server/engine_swap.h"
#include "server/sched_internal.h"
#include "tests/unit/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { REQUESTS = 5, MAX_TOKENS = 260 };

struct trial {
    int format, recent_blocks, max_batch_tokens;
    bool file;
    enum fault { NO_FAULT, TRUNCATED, DAMAGED, FULL_DISK } fault; /* of the file, after the first round */
};

static char path[64];

static struct request *request_of(int format, int i)
{
    struct request *request =
        engine_fixture_request((uint64_t)(format * REQUESTS + i), 40 + 50 * i, MAX_TOKENS, 1, i == 2);
    request->kv_format = format;
    request->ignore_eos = true;
    if (i % 2 == 1) request->choices[0].sampler.temperature = 0.8F;
    return request;
}

static void assert_same(const struct request *a, const struct request *b)
{
    const struct choice *one = &a->choices[0], *other = &b->choices[0];
    assert_int_equal(atomic_load(&other->finish), FINISH_LENGTH);
    assert_int_equal(atomic_load(&other->n_ready), MAX_TOKENS);
    assert_memory_equal(one->records, other->records, MAX_TOKENS * sizeof *one->records);
    if (one->prompt_records != NULL)
        assert_memory_equal(one->prompt_records + 1, other->prompt_records + 1,
                            (size_t)(one->n_prompt - 1) * sizeof *one->prompt_records);
}

static void wait_for_rest(struct engine_fixture *fixture)
{
    while (!engine_fixture_at_rest(fixture)) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* One byte of each page that is there changes. */
static void damage_file(void)
{
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    for (off_t at = 4096; (at = lseek(fd, at, SEEK_DATA)) >= 0; at += 4096) {
        char byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    close(fd);
}

/* A limit on the size of files does what a full disk does: writes are cut short. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void spoil(enum fault fault)
{
    if (fault == TRUNCATED) assert_int_equal(truncate(path, 10000), 0);
    if (fault == DAMAGED) damage_file();
}

static void check_faults(const struct metrics *metrics, enum fault fault, uint64_t hits)
{
    uint64_t damaged = atomic_load(&metrics->swap_bad_checksums),
             failed = atomic_load(&metrics->swap_failures);
    if (fault == NO_FAULT) assert_true(hits > 0 && damaged + failed == 0);
    if (fault == TRUNCATED) assert_true(damaged + failed > 0);
    if (fault == DAMAGED) assert_true(damaged > 0 && failed == 0);
    if (fault == FULL_DISK) assert_true(failed > 0 && atomic_load(&metrics->swap_budget_bytes) == 0);
}

/* All at once, in memory for one at its end and for several at their start, twice: the second time blocks of
 * the first come back. */
static void run_crowd(const struct trial *trial, const struct kv_policy *policy, struct request *const *alone)
{
    static struct engine_fixture fixture;
    struct engine_options options = {.parallel = REQUESTS,
                                     .max_batch_tokens = trial->max_batch_tokens,
                                     .recent_blocks = trial->recent_blocks,
                                     .sink_tokens = 4,
                                     .optimistic = true,
                                     .swap_bytes = (size_t)16 << 20,
                                     .swap_file = trial->file ? path : NULL,
                                     .swap_always = true,
                                     .kv_bytes =
                                         kv_policy_bytes(policy, 40 + 50 * REQUESTS + MAX_TOKENS) * 5 / 4 +
                                         kv_policy_step_bytes(policy, trial->max_batch_tokens)};
    engine_fixture_start(&fixture, options);
    if (trial->fault == FULL_DISK) limit_files(4096 + 20000);
    fixture.engine->sched->reach = 0; /* as if requests never generated what they ask for; nothing runs yet */
    for (int round = 0; round < 2; round++) {
        struct request *crowd[REQUESTS];
        for (int i = 0; i < REQUESTS; i++) {
            crowd[i] = request_of(trial->format, i);
            assert_int_equal(engine_fixture_submit(&fixture, crowd[i]), ERR_OK);
        }
        for (int i = 0; i < REQUESTS; i++) engine_fixture_wait(&fixture, crowd[i]);
        wait_for_rest(&fixture);
        for (int i = 0; i < REQUESTS; i++) {
            assert_same(alone[i], crowd[i]);
            request_release(crowd[i]);
        }
        if (round == 0) spoil(trial->fault);
    }
    const struct metrics *metrics = &fixture.metrics;
    unsigned long long hits = atomic_load(&metrics->swap_hit_blocks);
    unsigned long long lost =
        atomic_load(&metrics->swap_bad_checksums) + atomic_load(&metrics->swap_failures);
    print_message("%s, recent %d, batch %d, %s: preempted %llu, %llu blocks came back, %llu lost\n",
                  policy->format->name, trial->recent_blocks, trial->max_batch_tokens,
                  trial->file ? "file" : "memory", (unsigned long long)atomic_load(&metrics->preemptions),
                  hits, lost);
    check_faults(metrics, trial->fault, hits);
    if (trial->fault == FULL_DISK) limit_files(RLIM_INFINITY);
    engine_fixture_stop(&fixture);
}

static void run_trial(const struct trial *trial)
{
    static struct engine_fixture fixture;
    struct request *alone[REQUESTS];
    struct engine_options options = {.parallel = 1,
                                     .max_batch_tokens = 64,
                                     .recent_blocks = trial->recent_blocks,
                                     .sink_tokens = 4,
                                     .no_prefix_cache = true};
    engine_fixture_start(&fixture, options);
    for (int i = 0; i < REQUESTS; i++) {
        alone[i] = request_of(trial->format, i);
        assert_int_equal(engine_fixture_submit(&fixture, alone[i]), ERR_OK);
        engine_fixture_wait(&fixture, alone[i]);
    }
    engine_fixture_stop_engine(&fixture);
    struct kv_policy policy = {.recent_blocks = trial->recent_blocks, .sink_tokens = 4};
    model_kv_shape(fixture.model, &policy.shape);
    policy.format = kv_formats_at(fixture.formats, trial->format);
    run_crowd(trial, &policy, alone);
    for (int i = 0; i < REQUESTS; i++) request_release(alone[i]);
    engine_fixture_stop(&fixture);
}

static void test_swapped_is_undisturbed(void **state)
{
    (void)state;
    static const struct trial trials[] = {
        {FIXTURE_F16, 0, 17, true, NO_FAULT},     {FIXTURE_O4, 2, 64, true, NO_FAULT},
        {FIXTURE_O2, 0, 64, false, NO_FAULT},     {FIXTURE_O2, 3, 17, true, NO_FAULT},
        {FIXTURE_O2, 2, 256, false, NO_FAULT},    {FIXTURE_K3V1_5, 2, 64, false, NO_FAULT},
        {FIXTURE_K3V1_5, 1, 200, true, NO_FAULT}, {FIXTURE_O2, 2, 64, true, TRUNCATED},
        {FIXTURE_O2, 2, 64, true, DAMAGED},       {FIXTURE_F16, 0, 64, true, FULL_DISK},
    };
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) run_trial(&trials[i]);
}

static void test_pays(void **state)
{
    (void)state;
    assert_true(engine_swap_pays(0, 64, 1, 1000));    /* nothing is known of tokens */
    assert_true(engine_swap_pays(10, 64, 0, 1000));   /* nor of bytes */
    assert_true(engine_swap_pays(10, 64, .5, 1000));  /* 500 us against 640 */
    assert_false(engine_swap_pays(10, 64, .7, 1000)); /* 700 against 640 */
}

static int start(void **state)
{
    (void)state;
    const char *folder = getenv("TMPDIR");
    signal(SIGXFSZ, SIG_IGN);
    snprintf(path, sizeof path, "%s/octavo-engine-swap-%ld", folder != NULL ? folder : "/tmp",
             (long)getpid());
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pays),
        cmocka_unit_test(test_swapped_is_undisturbed),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
