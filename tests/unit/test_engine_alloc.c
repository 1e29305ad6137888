/*
 * Nothing is allocated per token on the engine thread; and an engine that cannot be created for want of
 * memory says so and leaves nothing behind. malloc and its kin are replaced for the whole process by ones
 * that count in thread-local variables and fail on demand; the deliver callback, which runs on the engine
 * thread once a step, reads the count. Sanitizers bring their own malloc: there the tests say that they did
 * not run.
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
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS 0
#else
#define COUNTS 1
#endif

/* volatile: the compiler believes that malloc touches nothing of ours. */
static _Thread_local volatile long n_calls;
static _Thread_local volatile long n_held;            /* blocks allocated and not freed */
static _Thread_local volatile long n_until_none = -1; /* allocations until one fails, once; -1: none does */

#if COUNTS
/* glibc's own, under their other names. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *memory);

static bool allowed(void)
{
    n_calls++;
    if (n_until_none < 0 || n_until_none-- != 0) return true;
    errno = ENOMEM;
    return false;
}

static void *counted(void *memory)
{
    if (memory != NULL) n_held++;
    return memory;
}

void *malloc(size_t size)
{
    return allowed() ? counted(__libc_malloc(size)) : NULL;
}

void *calloc(size_t count, size_t size)
{
    return allowed() ? counted(__libc_calloc(count, size)) : NULL;
}

void *realloc(void *memory, size_t size)
{
    if (!allowed()) return NULL;
    void *moved = __libc_realloc(memory, size);
    return memory == NULL ? counted(moved) : moved;
}

void free(void *memory)
{
    n_calls++;
    if (memory != NULL) n_held--;
    __libc_free(memory);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return allowed() ? counted(__libc_memalign(alignment, size)) : NULL;
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *memory = allowed() ? counted(__libc_memalign(alignment, size)) : NULL;
    if (memory == NULL) return ENOMEM;
    *out = memory;
    return 0;
}
#endif

enum { BEFORE = 5, TOKENS = 200 };

static struct engine_fixture fixture;
static struct {
    uint64_t step;
    long calls;
} first, last;

static void look(void)
{
    uint64_t step = atomic_load(&fixture.metrics.engine_steps);
    if (step < BEFORE || step > BEFORE + TOKENS) return;
    last.step = step;
    last.calls = n_calls;
    if (first.step == 0) first = last;
}

/* Sixteen sequences, all features of sampling that need state, through the sealing and the aging of
 * blocks. */
static void test_decode_allocates_nothing(void **state)
{
    (void)state;
    if (!COUNTS) {
        print_message("a sanitizer owns malloc in this build: allocations are NOT counted\n");
        skip();
    }
    for (int format = 0; format < FIXTURE_FORMATS; format++) {
        struct request *requests[16];
        memset(&first, 0, sizeof first);
        fixture.on_deliver = look;
        engine_fixture_start(&fixture, (struct engine_options){.recent_blocks = 1, .sink_tokens = 4});
        for (int i = 0; i < 16; i++) {
            requests[i] = engine_fixture_request((uint64_t)i, 30 + i, BEFORE + TOKENS + 20, 1, false);
            requests[i]->kv_format = format;
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
        char name[KV_FORMAT_NAME_BYTES];
        strcpy(name, kv_formats_at(fixture.formats, format)->name);
        engine_fixture_stop(&fixture);
        print_message("%s: %ld calls of the allocator in steps %d to %d\n", name, last.calls - first.calls,
                      (int)first.step, (int)last.step);
        assert_true(last.step - first.step >= TOKENS / 2);
        assert_int_equal(last.calls - first.calls, 0);
    }
}

/* Every allocation of engine_create fails once. */
static void test_creation_without_memory(void **state)
{
    (void)state;
    int n_failed = 0;
    if (!COUNTS) {
        print_message("a sanitizer owns malloc in this build: failing allocations are NOT tried\n");
        skip();
    }
    fixture.on_deliver = NULL;
    engine_fixture_start(&fixture, (struct engine_options){.recent_blocks = 1, .sink_tokens = 4});
    for (;; n_failed++) {
        struct engine *engine = NULL;
        struct err_info info = {0};
        long held = n_held;
        n_until_none = n_failed;
        enum err err = engine_create(&fixture.options, &engine, &info);
        bool none_failed = n_until_none >= 0;
        n_until_none = -1;
        if (err == ERR_OK) engine_free(engine);
        if (none_failed) break;
        assert_int_equal(err, ERR_MEMORY);
        assert_int_equal(n_held, held);
        assert_true(info.message[0] != '\0');
    }
    print_message("each of %d allocations of engine_create failed once\n", n_failed);
    assert_true(n_failed > 20);
    engine_fixture_stop(&fixture);
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
        cmocka_unit_test(test_creation_without_memory),
        cmocka_unit_test(test_decode_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
