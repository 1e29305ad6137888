#include "config/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void allocations_are_zero_aligned_and_apart(void **state)
{
    (void)state;
    struct arena *arena = arena_create(SIZE_MAX);
    assert_non_null(arena);
    unsigned char *blocks[300];
    size_t sizes[300];
    for (size_t i = 0; i < 300; i++) {
        sizes[i] = i * i % 9001;
        blocks[i] = arena_alloc(arena, sizes[i], 1);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 16, 0);
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(blocks[i][k], 0);
        memset(blocks[i], (int)(i % 255 + 1), sizes[i]);
    }
    for (size_t i = 0; i < 300; i++)
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(blocks[i][k], i % 255 + 1);
    arena_free(arena);
}

static void the_limit_holds_and_failure_is_not_final(void **state)
{
    (void)state;
    struct arena *arena = arena_create(10000);
    assert_null(arena_alloc(arena, 10000, 1));
    assert_non_null(arena_alloc(arena, 9000, 1));
    assert_null(arena_alloc(arena, 2000, 1));
    assert_non_null(arena_alloc(arena, 100, 1));
    assert_true(arena_bytes(arena) <= 10000);
    arena_free(arena);
}

static void products_that_overflow_are_refused(void **state)
{
    (void)state;
    struct arena *arena = arena_create(SIZE_MAX);
    assert_null(arena_alloc(arena, SIZE_MAX / 2, 3));
    assert_null(arena_alloc(arena, SIZE_MAX, 1));
    assert_null(arena_copy(arena, "", SIZE_MAX));
    arena_free(arena);
    arena_free(NULL);
}

static void copies_end_in_nul(void **state)
{
    (void)state;
    struct arena *arena = arena_create(SIZE_MAX);
    assert_string_equal(arena_copy(arena, "hello world", 5), "hello");
    assert_string_equal(arena_copy(arena, NULL, 0), "");
    arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_are_zero_aligned_and_apart),
        cmocka_unit_test(the_limit_holds_and_failure_is_not_final),
        cmocka_unit_test(products_that_overflow_are_refused),
        cmocka_unit_test(copies_end_in_nul),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
