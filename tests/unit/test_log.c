#include "config/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* What one call of log_write puts on stderr. */
static size_t captured(char *out, size_t size, enum log_level level, const char *message)
{
    int pipes[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(pipes), 0);
    dup2(pipes[1], STDERR_FILENO);
    log_write(level, "test", "%s", message);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(pipes[1]);
    ssize_t length = read(pipes[0], out, size - 1);
    close(pipes[0]);
    assert_true(length >= 0);
    out[length] = '\0';
    return (size_t)length;
}

static void text_lines_have_time_level_and_module(void **state)
{
    (void)state;
    char line[16384];
    log_configure(LOG_LEVEL_INFO, 0);
    captured(line, sizeof line, LOG_LEVEL_WARN, "disk is \"full\"\nforged: line");
    assert_int_equal(line[10], 'T');
    assert_string_equal(line + 23, "Z warn  test: disk is \"full\"\\x0aforged: line\n");
}

static void json_lines_are_escaped(void **state)
{
    (void)state;
    char line[16384];
    log_configure(LOG_LEVEL_INFO, 1);
    captured(line, sizeof line, LOG_LEVEL_ERROR, "a\"b\\c\n\xFF\xC3\xA9");
    assert_memory_equal(line, "{\"time\":\"", 9);
    const char *rest = strchr(line, 'Z');
    assert_non_null(rest);
    assert_string_equal(rest, "Z\",\"level\":\"error\",\"where\":\"test\",\"message\":"
                              "\"a\\\"b\\\\c\\u000a\xEF\xBF\xBD\xC3\xA9\"}\n");
    log_configure(LOG_LEVEL_INFO, 0);
}

static void below_the_minimum_is_silent(void **state)
{
    (void)state;
    char line[16384];
    log_configure(LOG_LEVEL_WARN, 0);
    assert_int_equal(captured(line, sizeof line, LOG_LEVEL_INFO, "x"), 0);
    assert_true(captured(line, sizeof line, LOG_LEVEL_WARN, "x") > 0);
    log_configure(LOG_LEVEL_INFO, 0);
}

static void the_longest_message_is_cut_and_ends_its_line(void **state)
{
    (void)state;
    static char line[20000], message[5000];
    memset(message, '\n', sizeof message - 1);
    for (int json = 0; json <= 1; json++) {
        log_configure(LOG_LEVEL_INFO, json);
        size_t length = captured(line, sizeof line, LOG_LEVEL_INFO, message);
        assert_int_equal(line[length - 1], '\n');
        assert_non_null(strstr(line, json ? "...\"}" : "..."));
    }
    log_configure(LOG_LEVEL_INFO, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_lines_have_time_level_and_module),
        cmocka_unit_test(json_lines_are_escaped),
        cmocka_unit_test(below_the_minimum_is_silent),
        cmocka_unit_test(the_longest_message_is_cut_and_ends_its_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
