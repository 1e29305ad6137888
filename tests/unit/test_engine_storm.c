/* Many clients of mixed length from several threads, a quarter of which leave at random: nothing leaks,
   nothing gets stuck, and what was not cancelled is what it would have been alone. */
#include "config/log.h"
#include "tests/unit/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __SANITIZE_THREAD__
enum { THREADS = 4, PER_THREAD = 20, MOST_CHOICES = 2 }; /* instrumented kernels are slow */
#else
enum { THREADS = 4, PER_THREAD = 60, MOST_CHOICES = 3 };
#endif

static struct engine_fixture fixture;
static atomic_int n_done, n_cancelled, n_refused;

static uint32_t draw(uint64_t *random, uint32_t below)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*random >> 33) % below);
}

static struct request *request_of(uint64_t number)
{
    uint64_t random = number * 977 + 5;
    int n_prompt = 1 + (int)draw(&random, draw(&random, 4) == 0 ? 500 : 60);
    int max_tokens = (int)draw(&random, draw(&random, 4) == 0 ? 200 : 30);
    bool scored = draw(&random, 6) == 0;
    struct request *request =
        engine_fixture_request(number, n_prompt, max_tokens, 1 + (int)draw(&random, MOST_CHOICES), scored);
    request->kv_format = draw(&random, FIXTURE_FORMATS);
    for (int i = 0; i < request->n_choices; i++)
        request->choices[i].sampler.temperature = draw(&random, 2) == 0 ? 0 : 0.9F;
    return request;
}

static void nap(uint32_t us)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)us * 1000}, NULL);
}

/* Each thread keeps two requests going and leaves some of them at a random time. */
static void *client_run(void *context)
{
    uint64_t first = (uint64_t)(uintptr_t)context * PER_THREAD, random = first + 17;
    struct request *previous = NULL;
    for (uint64_t i = 0; i < PER_THREAD; i++) {
        struct request *request = request_of(first + i);
        bool leaves = draw(&random, 4) == 0;
        while (engine_fixture_submit(&fixture, request) == ERR_BUSY) {
            atomic_fetch_add(&n_refused, 1);
            nap(500);
        }
        if (leaves) {
            nap(draw(&random, 4) == 0 ? 0 : draw(&random, 20000));
            engine_cancel(fixture.engine, request);
            atomic_fetch_add(&n_cancelled, 1);
        }
        if (previous != NULL) {
            engine_fixture_wait(&fixture, previous);
            request_release(previous);
            atomic_fetch_add(&n_done, 1);
        }
        previous = request;
    }
    engine_fixture_wait(&fixture, previous);
    request_release(previous);
    atomic_fetch_add(&n_done, 1);
    return NULL;
}

static void test_storm(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    struct engine_options options = {.parallel = 6,
                                     .max_batch_tokens = 96,
                                     .max_logits = 20,
                                     .max_queue = 4,
                                     .recent_blocks = 1,
                                     .sink_tokens = 4,
                                     .kv_bytes = 40 * 32768};
    engine_fixture_start(&fixture, options);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, client_run, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    while (!engine_fixture_at_rest(&fixture)) nap(1000);

    struct metrics *metrics = &fixture.metrics;
    uint64_t ended =
        atomic_load(&metrics->requests[OUTCOME_OK]) + atomic_load(&metrics->requests[OUTCOME_CANCELLED]);
    assert_int_equal(atomic_load(&n_done), THREADS * PER_THREAD);
    assert_int_equal(ended, THREADS * PER_THREAD);
    assert_int_equal(atomic_load(&metrics->requests[OUTCOME_ERROR]), 0);
    assert_int_equal(atomic_load(&metrics->requests[OUTCOME_REJECTED_BUSY]), atomic_load(&n_refused));
    print_message("%d requests, %d cancelled, refused %d times, %llu steps\n", THREADS * PER_THREAD,
                  atomic_load(&n_cancelled), atomic_load(&n_refused),
                  (unsigned long long)atomic_load(&metrics->engine_steps));

    /* Blocks were used, freed and used again by other kinds; still each request is what it was alone. */
    struct request *after = request_of(12), *again = request_of(12);
    assert_int_equal(engine_fixture_submit(&fixture, after), ERR_OK);
    engine_fixture_wait(&fixture, after);
    engine_fixture_stop(&fixture);
    options.kv_bytes = 0;
    engine_fixture_start(&fixture, options);
    assert_int_equal(engine_fixture_submit(&fixture, again), ERR_OK);
    engine_fixture_wait(&fixture, again);
    for (int i = 0; i < after->n_choices; i++) {
        int n = atomic_load(&after->choices[i].n_ready);
        assert_int_equal(n, atomic_load(&again->choices[i].n_ready));
        assert_memory_equal(after->choices[i].records, again->choices[i].records,
                            (size_t)n * sizeof(struct token_record));
    }
    request_release(after);
    request_release(again);
    engine_fixture_stop(&fixture);
}

int main(void)
{
    log_configure(LOG_LEVEL_ERROR, 0);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_storm)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
