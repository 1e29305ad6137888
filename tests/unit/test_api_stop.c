#include "server/api_stop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The plain meaning: for every end, every string, compare; the longest at the earliest end. */
static size_t naive_find(const struct api_stop *stop, const char *text, size_t length, size_t *end)
{
    for (size_t at = 1; at <= length; at++) {
        size_t found = 0;
        for (int s = 0; s < stop->n; s++) {
            size_t n = stop->strings[s].length;
            if (n <= at && memcmp(text + at - n, stop->strings[s].text, n) == 0 && n > found) found = n;
        }
        if (found > 0) {
            *end = at;
            return found;
        }
    }
    return 0;
}

static size_t naive_held(const struct api_stop *stop, const char *text, size_t length)
{
    size_t held = 0;
    for (int s = 0; s < stop->n; s++)
        for (size_t n = 1; n < stop->strings[s].length && n <= length; n++)
            if (memcmp(text + length - n, stop->strings[s].text, n) == 0 && n > held) held = n;
    return held;
}

static void random_text(char *out, size_t length, int letters)
{
    for (size_t i = 0; i < length; i++) out[i] = (char)('a' + rand() % letters);
    out[length] = '\0';
}

/* Random texts over a tiny alphabet, fed in random pieces, against the plain search. */
static void test_random(void **state)
{
    (void)state;
    srand(7);
    int n_found = 0;
    for (int round = 0; round < 20000; round++) {
        struct arena *arena = arena_create(1 << 20);
        struct api_stop stop = {0};
        int letters = 2 + rand() % 2;
        char string[16], text[64];
        for (int s = rand() % 4; s >= 0; s--) {
            random_text(string, 1 + (size_t)rand() % 7, letters);
            assert_int_equal(api_stop_add(&stop, arena, string, strlen(string), NULL), ERR_OK);
        }
        random_text(text, (size_t)rand() % 60, letters);
        size_t length = strlen(text), wanted_end = 0, at = 0, end = 0, found = 0;
        size_t wanted = naive_find(&stop, text, length, &wanted_end);
        struct api_stop_scan scan = {0};
        while (at < length && found == 0) {
            size_t piece = 1 + (size_t)rand() % 5;
            if (piece > length - at) piece = length - at;
            found = api_stop_feed(&stop, &scan, text + at, piece, &end);
            at += found > 0 ? end : piece;
            if (found == 0) assert_int_equal(api_stop_held(&stop, &scan), naive_held(&stop, text, at));
        }
        assert_int_equal(found, wanted);
        if (wanted > 0) assert_int_equal(at, wanted_end);
        n_found += wanted > 0;
        arena_free(arena);
    }
    assert_true(n_found > 1000 && n_found < 20000);
}

static void test_limits(void **state)
{
    (void)state;
    struct arena *arena = arena_create(1 << 20);
    struct api_stop stop = {0};
    struct err_info info;
    assert_int_equal(api_stop_add(&stop, arena, "", 0, &info), ERR_INVALID);
    assert_string_equal(info.param, "stop");
    char *text = calloc(1, API_STOP_MAX_LENGTH + 2);
    memset(text, 'a', API_STOP_MAX_LENGTH + 1);
    assert_int_equal(api_stop_add(&stop, arena, text, API_STOP_MAX_LENGTH + 1, &info), ERR_LIMIT);
    assert_int_equal(api_stop_add(&stop, arena, text, API_STOP_MAX_LENGTH, &info), ERR_OK);
    for (int i = 1; i < API_STOP_MAX; i++)
        assert_int_equal(api_stop_add(&stop, arena, "x", 1, &info), ERR_OK);
    assert_int_equal(api_stop_add(&stop, arena, "x", 1, &info), ERR_LIMIT);
    /* The longest string is found at its very last byte. */
    struct api_stop_scan scan = {0};
    size_t end = 0;
    assert_int_equal(api_stop_feed(&stop, &scan, text, API_STOP_MAX_LENGTH - 1, &end), 0);
    assert_int_equal(api_stop_held(&stop, &scan), API_STOP_MAX_LENGTH - 1);
    assert_int_equal(api_stop_feed(&stop, &scan, "aa", 2, &end), API_STOP_MAX_LENGTH);
    assert_int_equal(end, 1);
    free(text);
    arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
