#include "config/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void fills_and_returns_the_code(void **state)
{
    (void)state;
    struct err_info info = {.param = "old"};
    assert_int_equal(err_set(&info, ERR_IO, "open %s: %d", "x.gguf", 2), ERR_IO);
    assert_int_equal(info.code, ERR_IO);
    assert_string_equal(info.message, "open x.gguf: 2");
    assert_string_equal(info.param, "");
    assert_int_equal(err_set_param(&info, ERR_INVALID, "top_p", "must be <= 1"), ERR_INVALID);
    assert_string_equal(info.param, "top_p");
}

static void long_texts_are_cut_not_overrun(void **state)
{
    (void)state;
    char text[2000];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct err_info info;
    err_set_param(&info, ERR_LIMIT, text, "%s", text);
    assert_int_equal(strlen(info.message), sizeof info.message - 1);
    assert_int_equal(strlen(info.param), sizeof info.param - 1);
}

static void info_may_be_null(void **state)
{
    (void)state;
    assert_int_equal(err_set(NULL, ERR_BUSY, "full"), ERR_BUSY);
    assert_int_equal(err_set_param(NULL, ERR_BUSY, "n", "full"), ERR_BUSY);
}

static void every_code_has_a_name(void **state)
{
    (void)state;
    for (int i = ERR_OK; i <= ERR_CLOSED; i++)
        for (int j = ERR_OK; j < i; j++)
            assert_string_not_equal(err_name((enum err)i), err_name((enum err)j));
    for (int i = ERR_OK; i <= ERR_CLOSED; i++) assert_string_not_equal(err_name((enum err)i), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_and_returns_the_code),
        cmocka_unit_test(long_texts_are_cut_not_overrun),
        cmocka_unit_test(info_may_be_null),
        cmocka_unit_test(every_code_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
