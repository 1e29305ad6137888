#include "config/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void grows_and_stays_terminated(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, SIZE_MAX);
    for (int i = 0; i < 1000; i++) buf_printf(&buf, "%d,", i);
    assert_false(buf.failed);
    assert_int_equal(buf.length, 10 * 2 + 90 * 3 + 900 * 4);
    assert_int_equal(strlen(buf.data), buf.length);
    buf_clear(&buf);
    assert_string_equal(buf.data, "");
    buf_append(&buf, "a\0b", 3);
    assert_int_equal(buf.length, 3);
    assert_memory_equal(buf.data, "a\0b", 4);
    buf_free(&buf);
    assert_null(buf.data);
}

static void failure_is_sticky_and_keeps_the_content(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 8);
    buf_text(&buf, "12345678");
    assert_false(buf.failed);
    buf_text(&buf, "9");
    assert_true(buf.failed);
    assert_string_equal(buf.data, "12345678");
    buf_consume(&buf, 4);
    buf_text(&buf, "x");
    buf_printf(&buf, "%d", 1);
    assert_string_equal(buf.data, "5678");
    buf_clear(&buf);
    buf_text(&buf, "x");
    assert_string_equal(buf.data, "x");
    assert_false(buf.failed);
    buf_free(&buf);
}

static void long_printf_lines_come_whole(void **state)
{
    (void)state;
    char text[3000];
    memset(text, 'z', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct buf buf;
    buf_init(&buf, 3001);
    buf_printf(&buf, "<%s>", text);
    assert_false(buf.failed);
    assert_int_equal(buf.length, 3001);
    assert_int_equal(buf.data[3000], '>');
    buf_printf(&buf, "%s", text);
    assert_true(buf.failed);
    assert_int_equal(buf.length, 3001);
    buf_free(&buf);
}

static void consume_takes_from_the_front(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 100);
    buf_consume(&buf, 5);
    buf_text(&buf, "hello world");
    buf_consume(&buf, 0);
    buf_consume(&buf, 6);
    assert_string_equal(buf.data, "world");
    buf_consume(&buf, 50);
    assert_string_equal(buf.data, "");
    assert_int_equal(buf.length, 0);
    buf_free(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_stays_terminated),
        cmocka_unit_test(failure_is_sticky_and_keeps_the_content),
        cmocka_unit_test(long_printf_lines_come_whole),
        cmocka_unit_test(consume_takes_from_the_front),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
