/*
 * Nothing is allocated per token on the engine thread. malloc and its kin are replaced for the whole process
 * by ones that count in a thread-local variable; the deliver callback, which runs on the engine thread once a
 * step, reads it. Sanitizers bring their own malloc: there the test says that it did not run.
 */
#include "config/log.h"
#include "tests/unit/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS 0
#else
#define COUNTS 1
#endif

static _Thread_local long n_calls;

#if COUNTS
/* glibc's own, under their other names. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *memory);

void *malloc(size_t size)
{
    n_calls++;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    n_calls++;
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    n_calls++;
    return __libc_realloc(memory, size);
}

void free(void *memory)
{
    n_calls++;
    __libc_free(memory);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    n_calls++;
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    n_calls++;
    *out = __libc_memalign(alignment, size);
    return *out != NULL ? 0 : ENOMEM;
}
#endif

enum { BEFORE = 5, TOKENS = 200 };

static struct engine_fixture fixture;
static long calls_at_first, calls_at_last;
static int n_delivered;

static void look(void)
{
    n_delivered++;
    if (n_delivered == BEFORE) calls_at_first = n_calls;
    if (n_delivered == BEFORE + TOKENS) calls_at_last = n_calls;
}

/* Sixteen sequences, all features of sampling that need state, through the sealing and the demotion of
 * blocks. */
static void test_decode_allocates_nothing(void **state)
{
    (void)state;
    if (!COUNTS) {
        print_message("a sanitizer owns malloc in this build: allocations are NOT counted\n");
        skip();
    }
    for (int format = 0; format < KV_FORMATS; format++) {
        struct request *requests[16];
        n_delivered = 0;
        fixture.on_deliver = look;
        engine_fixture_start(&fixture, (struct engine_options){.recent_blocks = 1, .sink_tokens = 4});
        for (int i = 0; i < 16; i++) {
            requests[i] = engine_fixture_request((uint64_t)i, 30 + i, BEFORE + TOKENS + 20, 1, false);
            requests[i]->kv_format = (enum kv_format)format;
            requests[i]->ignore_eos = true;
            struct sampler_params *sampler = &requests[i]->choices[0].sampler;
            sampler->temperature = i % 3 == 0 ? 0 : 0.8F;
            sampler->top_p = 0.9F;
            sampler->top_k = i % 4 == 0 ? 40 : 0;
            sampler->repetition_penalty = 1.1F;
            sampler->frequency_penalty = 0.1F;
            assert_int_equal(engine_fixture_submit(&fixture, requests[i]), ERR_OK);
        }
        for (int i = 0; i < 16; i++) {
            engine_fixture_wait(&fixture, requests[i]);
            request_release(requests[i]);
        }
        assert_true(n_delivered >= BEFORE + TOKENS);
        engine_fixture_stop(&fixture);
        print_message("%s: %ld calls of the allocator in %d steps of decoding\n",
                      kv_format_name((enum kv_format)format), calls_at_last - calls_at_first, TOKENS);
        assert_int_equal(calls_at_last - calls_at_first, 0);
    }
}

/* The counter counts: or the test above could not fail. */
static void test_counter_counts(void **state)
{
    (void)state;
    if (!COUNTS) skip();
    long before = n_calls;
    void *volatile memory = malloc(100);
    free(memory);
    assert_int_equal(n_calls, before + 2);
}

int main(void)
{
    log_configure(LOG_LEVEL_ERROR, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counter_counts),
        cmocka_unit_test(test_decode_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
