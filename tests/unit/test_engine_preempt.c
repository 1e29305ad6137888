/* Preempted = undisturbed, bit for bit: an engine that admits too many gives some of them up and lets them
   come back, and every token and log probability is what it is when each request runs alone. */
#include "server/engine_internal.h"
#include "server/sched_internal.h"
#include "tests/unit/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <time.h>

enum { REQUESTS = 6 };

/* Every third one is held to balanced brackets, whose depth is nowhere but in the grammar's state. */
static struct request *request_of(struct engine_fixture *fixture, int format, int i)
{
    struct request *request =
        engine_fixture_request((uint64_t)(format * REQUESTS + i), 40 + 30 * i, 420, 1, i == 2);
    request->kv_format = format;
    request->ignore_eos = true;
    if (i % 2 == 1) request->choices[0].sampler.temperature = 0.8F;
    if (i % 3 == 0)
        engine_fixture_constrain(fixture, request,
                                 "root ::= (\"(\" root \")\" | \"[\" root \"]\" | [a-z ])*");
    return request;
}

static void assert_same(const struct request *a, const struct request *b)
{
    const struct choice *one = &a->choices[0], *other = &b->choices[0];
    int n = atomic_load(&one->n_ready);
    assert_true(n == 420 && n == atomic_load(&other->n_ready));
    assert_int_equal(atomic_load(&other->finish), FINISH_LENGTH);
    assert_memory_equal(one->records, other->records, (size_t)n * sizeof *one->records);
    if (one->prompt_records != NULL)
        assert_memory_equal(one->prompt_records + 1, other->prompt_records + 1,
                            (size_t)(one->n_prompt - 1) * sizeof *one->prompt_records);
}

/* All at once, with room for two at their end and for all at their start. Returns how often one was
 * preempted. */
static unsigned long long run_crowd(const struct kv_policy *policy, int format, struct request *const *alone)
{
    static struct engine_fixture fixture;
    struct request *crowd[REQUESTS];
    struct engine_options options = {.parallel = REQUESTS,
                                     .max_batch_tokens = 64,
                                     .recent_blocks = 2,
                                     .sink_tokens = 4,
                                     .optimistic = true,
                                     .kv_bytes = 2 * kv_policy_bytes(policy, 40 + 30 * REQUESTS + 420) +
                                                 kv_policy_step_bytes(policy, 64)};

    engine_fixture_start(&fixture, options);
    fixture.engine->sched->reach = 0; /* as if requests never generated what they ask for; nothing runs yet */
    for (int i = 0; i < REQUESTS; i++) {
        crowd[i] = request_of(&fixture, format, i);
        assert_int_equal(engine_fixture_submit(&fixture, crowd[i]), ERR_OK);
    }
    for (int i = 0; i < REQUESTS; i++) engine_fixture_wait(&fixture, crowd[i]);
    while (!engine_fixture_at_rest(&fixture)) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    unsigned long long preempted = atomic_load(&fixture.metrics.preemptions);
    unsigned long long recomputed = atomic_load(&fixture.metrics.recomputed_tokens);
    print_message("%s: preempted %llu, %llu tokens computed again\n", policy->format->name, preempted,
                  recomputed);
    for (int i = 0; i < REQUESTS; i++) {
        assert_same(alone[i], crowd[i]);
        request_release(crowd[i]);
    }
    engine_fixture_stop(&fixture);
    return preempted;
}

static void run_format(int format)
{
    static struct engine_fixture fixture;
    struct request *alone[REQUESTS];
    struct engine_options options = {
        .parallel = 1, .max_batch_tokens = 64, .recent_blocks = 2, .sink_tokens = 4, .no_prefix_cache = true};

    engine_fixture_start(&fixture, options);
    for (int i = 0; i < REQUESTS; i++) {
        alone[i] = request_of(&fixture, format, i);
        assert_int_equal(engine_fixture_submit(&fixture, alone[i]), ERR_OK);
        engine_fixture_wait(&fixture, alone[i]);
    }
    engine_fixture_stop_engine(&fixture);
    struct kv_policy policy = {.recent_blocks = 2, .sink_tokens = 4};
    model_kv_shape(fixture.model, &policy.shape);
    policy.format = kv_formats_at(fixture.formats, format);
    /* On a machine with much to do they may come in one by one and never be too many. */
    unsigned long long preempted = 0;
    for (int tries = 0; tries < 10 && preempted == 0; tries++) preempted = run_crowd(&policy, format, alone);
    assert_true(preempted > 0);
    for (int i = 0; i < REQUESTS; i++) request_release(alone[i]);
    engine_fixture_stop(&fixture);
}

static void test_preempted_is_undisturbed(void **state)
{
    (void)state;
    for (int format = 0; format < FIXTURE_FORMATS; format++) run_format(format);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_preempted_is_undisturbed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
