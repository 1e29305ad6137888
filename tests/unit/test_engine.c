/* The engine on a tiny model: equalities bit for bit, reasons to finish, refusals. */
#include "config/log.h"
#include "tests/unit/support/engine_fixture.h"
#include "tests/unit/support/tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __SANITIZE_THREAD__
enum { REQUESTS = 8, MOST_TOKENS = 12 }; /* instrumented kernels are slow */
#else
enum { REQUESTS = 16, MOST_TOKENS = 40 };
#endif

/* Request i of the mix: prompts of 1 to about 400 tokens, every other one sampled. */
static struct request *mixed(int i, int format)
{
    static const int lengths[] = {1, 2, 63, 64, 65, 127, 128, 129, 200, 256, 300, 17, 400, 5, 320, 90};
    struct request *request =
        engine_fixture_request((uint64_t)i + 100, lengths[i % 16], MOST_TOKENS - i, 1, false);
    request->kv_format = format;
    request->ignore_eos = true;
    if (i % 2 == 1) {
        request->choices[0].sampler.temperature = 0.8F;
        request->choices[0].sampler.top_p = 0.95F;
    }
    return request;
}

static void run_alone(struct engine_fixture *fixture, struct request *request)
{
    assert_int_equal(engine_fixture_submit(fixture, request), ERR_OK);
    engine_fixture_wait(fixture, request);
}

static void assert_same(const struct request *a, const struct request *b)
{
    for (int c = 0; c < a->n_choices; c++) {
        const struct choice *one = &a->choices[c], *other = &b->choices[c];
        int n = atomic_load(&one->n_ready);
        assert_int_equal(n, atomic_load(&other->n_ready));
        assert_int_equal(atomic_load(&one->finish), atomic_load(&other->finish));
        /* Tokens and log probabilities, to the bit. */
        assert_memory_equal(one->records, other->records, (size_t)n * sizeof *one->records);
    }
}

static struct engine_options options_of(int parallel, int max_batch_tokens)
{
    return (struct engine_options){
        .parallel = parallel, .max_batch_tokens = max_batch_tokens, .recent_blocks = 2, .sink_tokens = 4};
}

static void wait_for_rest(struct engine_fixture *fixture)
{
    struct timespec nap = {.tv_nsec = 1000000};
    while (!engine_fixture_at_rest(fixture)) nanosleep(&nap, NULL);
}

/* Alone = with 15 others = in chunks of any size, for every format, greedy and sampled. */
static void test_batching_changes_nothing(void **state)
{
    (void)state;
    static const int batches[] = {1, 17, 64, 512};
    static struct request *alone[FIXTURE_FORMATS][REQUESTS];
    static struct engine_fixture fixture;
    int distinct = 0;

    engine_fixture_start(&fixture, options_of(1, 512));
    for (int format = 0; format < FIXTURE_FORMATS; format++) {
        for (int i = 0; i < REQUESTS; i++) {
            alone[format][i] = mixed(i, format);
            run_alone(&fixture, alone[format][i]);
            assert_int_equal(atomic_load(&alone[format][i]->choices[0].n_ready), MOST_TOKENS - i);
            const struct token_record *f16 = alone[FIXTURE_F16][i]->choices[0].records;
            const struct token_record *this = alone[format][i]->choices[0].records;
            distinct += memcmp(f16, this, (size_t)(MOST_TOKENS - i) * sizeof *f16) != 0;
        }
    }
    assert_true(distinct > REQUESTS); /* the formats do differ, so equality below means something */
    engine_fixture_stop(&fixture);

    for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
        engine_fixture_start(&fixture, options_of(REQUESTS, batches[b]));
        for (int format = 0; format < FIXTURE_FORMATS; format++) {
            struct request *together[REQUESTS];
            for (int i = 0; i < REQUESTS; i++) {
                together[i] = mixed(i, format);
                assert_int_equal(engine_fixture_submit(&fixture, together[i]), ERR_OK);
            }
            for (int i = 0; i < REQUESTS; i++) {
                engine_fixture_wait(&fixture, together[i]);
                assert_same(alone[format][i], together[i]);
                request_release(together[i]);
            }
        }
        wait_for_rest(&fixture);
        engine_fixture_stop(&fixture);
    }
    for (int format = 0; format < FIXTURE_FORMATS; format++) {
        for (int i = 0; i < REQUESTS; i++) request_release(alone[format][i]);
    }
}

/* Formats side by side in one batch, in a pool so tight that sequences wait for each other. */
static void test_tight_pool_of_all_formats(void **state)
{
    (void)state;
    static struct engine_fixture fixture;
    struct request *alone[REQUESTS], *together[REQUESTS];
    struct engine_options options = options_of(REQUESTS, 100);

    engine_fixture_start(&fixture, options_of(1, 512));
    for (int i = 0; i < REQUESTS; i++) {
        alone[i] = mixed(i, i % FIXTURE_FORMATS);
        run_alone(&fixture, alone[i]);
    }
    engine_fixture_stop(&fixture);
    options.kv_bytes = 14 * 32768; /* two layers of two heads of 32: fp16 blocks of 32 KiB */
    engine_fixture_start(&fixture, options);
    for (int i = 0; i < REQUESTS; i++) {
        together[i] = mixed(i, i % FIXTURE_FORMATS);
        assert_int_equal(engine_fixture_submit(&fixture, together[i]), ERR_OK);
    }
    for (int i = 0; i < REQUESTS; i++) {
        engine_fixture_wait(&fixture, together[i]);
        assert_same(alone[i], together[i]);
        request_release(alone[i]);
        request_release(together[i]);
    }
    wait_for_rest(&fixture);
    engine_fixture_stop(&fixture);
}

/* The log probability of a prompt's token is the one it had when it was generated. */
static void test_prompt_scores(void **state)
{
    (void)state;
    static struct engine_fixture fixture;
    struct engine_options options = options_of(4, 100);
    options.max_logits = 24; /* chunks of a scored prompt are smaller than others */
    engine_fixture_start(&fixture, options);
    for (int format = 0; format < FIXTURE_FORMATS; format++) {
        struct request *first = engine_fixture_request(7, 150, 30, 1, false);
        struct request *second = engine_fixture_request(7, 180, 0, 1, true);
        int32_t *prompt = calloc(180, sizeof *prompt);
        first->kv_format = second->kv_format = format;
        first->ignore_eos = true;
        run_alone(&fixture, first);
        memcpy(prompt, first->choices[0].prompt, 150 * sizeof *prompt);
        for (int i = 0; i < 30; i++) prompt[150 + i] = first->choices[0].records[i].token;
        second->choices[0].prompt = prompt;
        run_alone(&fixture, second);
        assert_int_equal(atomic_load(&second->choices[0].finish), FINISH_LENGTH);
        assert_int_equal(atomic_load(&second->choices[0].n_ready), 0);
        for (int i = 1; i < 180; i++) assert_int_equal(second->choices[0].prompt_records[i].token, prompt[i]);
        assert_memory_equal(second->choices[0].prompt_records + 150, first->choices[0].records,
                            30 * sizeof(struct token_record));
        request_release(first);
        request_release(second);
        free(prompt);
    }
    engine_fixture_stop(&fixture);
}

static void test_reasons_to_finish(void **state)
{
    (void)state;
    static struct engine_fixture fixture;
    engine_fixture_start(&fixture, options_of(4, 64));
    struct request *free_run = engine_fixture_request(3, 10, 50, 2, false);
    free_run->ignore_eos = true;
    free_run->choices[1].sampler.temperature = 1;
    run_alone(&fixture, free_run);
    assert_int_equal(atomic_load(&free_run->choices[0].finish), FINISH_LENGTH);
    assert_int_equal(atomic_load(&free_run->choices[0].n_ready), 50);

    /* A token it produced, as a stop token: it is the last record. */
    const struct token_record *records = free_run->choices[1].records;
    int32_t stop = records[20].token;
    int first = 0;
    while (records[first].token != stop) first++;
    struct request *stopped = engine_fixture_request(3, 10, 50, 2, false);
    stopped->ignore_eos = true;
    stopped->choices[1].sampler.temperature = 1;
    stopped->stop_tokens = &stop;
    stopped->n_stop_tokens = 1;
    run_alone(&fixture, stopped);
    assert_int_equal(atomic_load(&stopped->choices[1].finish), FINISH_STOP);
    assert_int_equal(atomic_load(&stopped->choices[1].n_ready), first + 1);
    assert_int_equal(stopped->choices[1].records[first].token, stop);

    /* The model's end token, forced by a bias. */
    struct sampler_bias bias = {.token = tiny_model_eos(), .bias = 1000};
    struct request *ended = engine_fixture_request(3, 10, 50, 1, false);
    ended->choices[0].sampler.bias = &bias;
    ended->choices[0].sampler.n_bias = 1;
    run_alone(&fixture, ended);
    assert_int_equal(atomic_load(&ended->choices[0].finish), FINISH_STOP);
    assert_int_equal(atomic_load(&ended->choices[0].n_ready), 1);

    /* Nothing asked for. */
    struct request *nothing = engine_fixture_request(3, 10, 0, 1, false);
    run_alone(&fixture, nothing);
    assert_int_equal(atomic_load(&nothing->choices[0].finish), FINISH_LENGTH);

    request_release(free_run);
    request_release(stopped);
    request_release(ended);
    request_release(nothing);
    wait_for_rest(&fixture);
    assert_int_equal(atomic_load(&fixture.metrics.requests[OUTCOME_OK]), 4);
    assert_int_equal(atomic_load(&fixture.metrics.first_token.sum) > 0, 1);
    engine_fixture_stop(&fixture);
}

/* While it is closed the engine thread stays where it tells of its first token. */
static atomic_bool gate_closed;

static void gate_pass(void)
{
    while (atomic_load(&gate_closed)) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void test_refusals(void **state)
{
    (void)state;
    static struct engine_fixture fixture;
    struct engine_options options = options_of(1, 64);
    struct err_info info;
    int retry = 0;
    options.max_queue = 2;
    options.kv_bytes = 8 * 32768;
    fixture.on_deliver = gate_pass;
    engine_fixture_start(&fixture, options);

    struct request *empty = engine_fixture_request(1, 0, 5, 1, false);
    assert_int_equal(engine_submit(fixture.engine, empty, &retry, &info), ERR_INVALID);
    assert_string_equal(info.param, "prompt");
    struct request *large = engine_fixture_request(1, 1000, 25, 1, false);
    assert_int_equal(engine_submit(fixture.engine, large, &retry, &info), ERR_CAPACITY);
    assert_non_null(strstr(info.message, "--ctx-size"));
    large->max_tokens = 1;
    assert_int_equal(engine_submit(fixture.engine, large, &retry, &info), ERR_CAPACITY);
    assert_non_null(strstr(info.message, "--kv-cache-bytes"));
    struct request *strange = engine_fixture_request(1, 3, 5, 1, false);
    int32_t tokens[] = {1, 99999, 2};
    strange->choices[0].prompt = tokens;
    assert_int_equal(engine_submit(fixture.engine, strange, &retry, &info), ERR_INVALID);
    assert_non_null(strstr(info.message, "99999"));

    /* One runs, two wait, the fourth is told when to come back. */
    atomic_store(&gate_closed, true);
    struct request *long_ones[3];
    for (int i = 0; i < 3; i++) {
        long_ones[i] = engine_fixture_request(1, 10, 400, 1, false);
        long_ones[i]->ignore_eos = true;
        assert_int_equal(engine_submit(fixture.engine, long_ones[i], &retry, &info), ERR_OK);
    }
    struct request *fourth = engine_fixture_request(1, 10, 400, 1, false);
    assert_int_equal(engine_submit(fixture.engine, fourth, &retry, &info), ERR_BUSY);
    assert_true(retry >= 1 && retry <= 600);
    assert_non_null(strstr(info.message, "--max-queue 2"));

    /* Cancelled in the queue and while it runs. */
    engine_cancel(fixture.engine, long_ones[2]);
    engine_cancel(fixture.engine, long_ones[0]);
    atomic_store(&gate_closed, false);
    engine_fixture_wait(&fixture, long_ones[2]);
    engine_fixture_wait(&fixture, long_ones[0]);
    assert_int_equal(atomic_load(&long_ones[2]->choices[0].finish), FINISH_CANCELLED);
    assert_int_equal(atomic_load(&long_ones[2]->choices[0].n_ready), 0);

    engine_drain(fixture.engine);
    assert_int_equal(engine_submit(fixture.engine, fourth, &retry, &info), ERR_CLOSED);
    engine_fixture_wait(&fixture, long_ones[1]);
    assert_int_equal(atomic_load(&long_ones[1]->choices[0].finish), FINISH_LENGTH);
    wait_for_rest(&fixture);
    assert_int_equal(atomic_load(&fixture.metrics.requests[OUTCOME_REJECTED_INVALID]), 2);
    assert_int_equal(atomic_load(&fixture.metrics.requests[OUTCOME_REJECTED_CAPACITY]), 2);
    assert_int_equal(atomic_load(&fixture.metrics.requests[OUTCOME_REJECTED_BUSY]), 2);
    assert_int_equal(atomic_load(&fixture.metrics.requests[OUTCOME_OK]), 1);
    for (int i = 0; i < 3; i++) request_release(long_ones[i]);
    request_release(empty);
    request_release(large);
    request_release(strange);
    request_release(fourth);
    engine_fixture_stop(&fixture);
}

/* False: the engine was done before this thread got a word in. */
static bool cancels_in_prefill(void)
{
    static struct engine_fixture fixture;
    engine_fixture_start(&fixture, options_of(2, 1));
    struct request *request = engine_fixture_request(5, 1000, 10, 1, false);
    assert_int_equal(engine_fixture_submit(&fixture, request), ERR_OK);
    while (atomic_load(&fixture.metrics.prompt_tokens) < 3)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    engine_cancel(fixture.engine, request);
    engine_fixture_wait(&fixture, request);
    bool in_time = atomic_load(&request->choices[0].n_ready) == 0;
    wait_for_rest(&fixture);
    if (in_time) {
        assert_int_equal(atomic_load(&request->choices[0].finish), FINISH_CANCELLED);
        assert_true(atomic_load(&fixture.metrics.prompt_tokens) < 1000);
        assert_int_equal(atomic_load(&fixture.metrics.requests[OUTCOME_CANCELLED]), 1);
    }
    request_release(request);
    engine_fixture_stop(&fixture);
    return in_time;
}

enum { PATIENCE = 200 }; /* a busy machine may let this thread wait while the engine works */

/* A client that leaves while its prompt is read: the engine does not read on. */
static void test_cancel_in_prefill(void **state)
{
    (void)state;
    int tries = 0;
    while (!cancels_in_prefill()) assert_true(++tries < PATIENCE);
}

/* Many choices into an idle engine are not refused for ever, whatever max_queue is. */
static void test_many_choices_when_idle(void **state)
{
    (void)state;
    static struct engine_fixture fixture;
    struct engine_options options = options_of(2, 64);
    options.max_queue = 1;
    engine_fixture_start(&fixture, options);
    struct request *request = engine_fixture_request(5, 20, 10, 12, false);
    for (int i = 0; i < 12; i++) request->choices[i].sampler.temperature = 1;
    request->ignore_eos = true;
    run_alone(&fixture, request);
    for (int i = 0; i < 12; i++) assert_int_equal(atomic_load(&request->choices[i].n_ready), 10);
    request_release(request);
    engine_fixture_stop(&fixture);
}

/* Returns how many of four requests were stopped; the others were done before. */
static int stopped_while_running(void)
{
    static struct engine_fixture fixture;
    struct request *requests[4];
    int n_stopped = 0;
    engine_fixture_start(&fixture, options_of(2, 64));
    for (int i = 0; i < 4; i++) {
        requests[i] = engine_fixture_request(9, 100, 900, 1, false);
        requests[i]->ignore_eos = true;
        assert_int_equal(engine_fixture_submit(&fixture, requests[i]), ERR_OK);
    }
    while (atomic_load(&requests[0]->choices[0].n_ready) == 0)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    engine_fixture_stop_engine(&fixture);
    for (int i = 0; i < 4; i++) {
        engine_fixture_wait(&fixture, requests[i]);
        if (atomic_load(&requests[i]->choices[0].finish) == FINISH_ERROR) {
            n_stopped++;
            assert_int_equal(requests[i]->error.code, ERR_CLOSED);
            assert_true(strlen(requests[i]->error.message) > 10);
        } else {
            assert_int_equal(atomic_load(&requests[i]->choices[0].finish), FINISH_LENGTH);
        }
        request_release(requests[i]);
    }
    assert_int_equal(atomic_load(&fixture.metrics.requests[OUTCOME_ERROR]), n_stopped);
    assert_int_equal(atomic_load(&fixture.metrics.running), 0);
    assert_int_equal(atomic_load(&fixture.metrics.waiting), 0);
    engine_fixture_stop(&fixture);
    return n_stopped;
}

/* The hard stop: what runs and what waits ends with an error that says why. */
static void test_stop_while_running(void **state)
{
    (void)state;
    int tries = 0;
    while (stopped_while_running() < 4) assert_true(++tries < PATIENCE);
}

int main(void)
{
    log_configure(LOG_LEVEL_ERROR, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reasons_to_finish),         cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cancel_in_prefill),         cmocka_unit_test(test_many_choices_when_idle),
        cmocka_unit_test(test_stop_while_running),        cmocka_unit_test(test_prompt_scores),
        cmocka_unit_test(test_tight_pool_of_all_formats), cmocka_unit_test(test_batching_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
