/* Problems of `octavo eval --task`: their file, the numbers in answers, the worked examples. */
#include "server/eval_problems.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void number_is(const char *text, double expected)
{
    double number = -12345;
    if (!eval_answer_number(text, &number)) fail_msg("no number found in '%s'", text);
    if (number != expected) fail_msg("'%s': %.17g, not %.17g", text, number, expected);
}

static void test_numbers(void **state)
{
    (void)state;
    number_is("so 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", 18);
    number_is("#### 1,234", 1234);
    number_is("#### 1,234,567.", 1234567);
    number_is("#### -7", -7);
    number_is("It costs $1,234.00.", 1234);
    number_is("It is down by -$12.50 now", -12.5);
    number_is("$-3", -3);
    number_is("5-3", 3);
    number_is("(2)-3", 3);
    number_is("x = -3", -3);
    number_is("half of it, .5", .5);
    number_is("3.14.", 3.14);
    number_is("1,2345", 2345); /* no thousands comma */
    number_is("12,34", 34);
    number_is("25%", 25);
    number_is("The answer is 42. I have 7 cats", 42);
    number_is("The answer is 1. No, the answer is 2 apples and 3 pears", 2);
    number_is("so \\boxed{\\$1,080} in 12 months", 1080);
    number_is("the answer is \\boxed{x} or 5", 5);
    number_is("10 apples.\n#### none", 10);
    number_is("007", 7);
}

static void test_no_number(void **state)
{
    (void)state;
    double number;
    assert_false(eval_answer_number("", &number));
    assert_false(eval_answer_number("The answer is none, $, - and ...", &number));
    assert_false(eval_answer_number("\\boxed{}#### , ", &number));
}

static void test_long_number(void **state)
{
    (void)state;
    char digits[1001];
    double number;
    memset(digits, '9', 1000);
    digits[1000] = '\0';
    assert_true(eval_answer_number(digits, &number));
    assert_true(number > 1e60);
}

static void test_same(void **state)
{
    (void)state;
    assert_true(eval_answer_same(18, 18));
    assert_true(eval_answer_same(1e9, 1e9 + 1));
    assert_true(eval_answer_same(.1 + .2, .3));
    assert_false(eval_answer_same(18, 18.01));
    assert_false(eval_answer_same(-18, 18));
}

static void test_problems(void **state)
{
    (void)state;
    static const char text[] = "{\"question\": \"How many?\", \"answer\": \"Two.\\n#### 1,002\"}\n"
                               "\n"
                               "{\"answer\":\"#### -3\",\"question\":\"Wie \\u00fcbel?\",\"more\":[1]}\r\n"
                               "{\"question\":\"third\",\"answer\":\"3\"}";
    struct eval_problems problems;
    struct err_info info;
    assert_int_equal(eval_problems_parse("p", text, strlen(text), 0, &problems, &info), ERR_OK);
    assert_int_equal(problems.count, 3);
    assert_string_equal(problems.problems[0].question, "How many?");
    assert_true(problems.problems[0].answer == 1002);
    assert_string_equal(problems.problems[1].question, "Wie \xc3\xbc"
                                                       "bel?");
    assert_true(problems.problems[1].answer == -3);
    eval_problems_free(&problems);
    assert_int_equal(eval_problems_parse("p", text, strlen(text), 2, &problems, &info), ERR_OK);
    assert_int_equal(problems.count, 2);
    eval_problems_free(&problems);
}

static void problems_fail(const char *text, const char *message)
{
    struct eval_problems problems;
    struct err_info info;
    assert_int_equal(eval_problems_parse("file", text, strlen(text), 0, &problems, &info), ERR_FORMAT);
    if (!strstr(info.message, message)) fail_msg("'%s' does not say '%s'", info.message, message);
    assert_string_equal(info.param, "data");
}

static void test_problem_errors(void **state)
{
    (void)state;
#define GOOD "{\"question\":\"q\",\"answer\":\"1\"}\n"
    problems_fail("", "no problems");
    problems_fail(" \n\n", "no problems");
    problems_fail(GOOD "\n{\"question\":", "file, line 3: ");
    problems_fail(GOOD "{\"question\":\"q\"}", "file, line 2: not an object");
    problems_fail(GOOD "[]", "file, line 2: not an object");
    problems_fail(GOOD "{\"question\":1,\"answer\":\"1\"}", "line 2: not an object");
    problems_fail("{\"question\":\"q\",\"answer\":\"none\"}", "file, line 1: no number");
}

/* Every example stands by itself: a question, and an answer that ends with its number. */
static void test_examples(void **state)
{
    (void)state;
    assert_int_equal(eval_examples_length(0), 0);
    assert_int_equal(eval_examples_length(8), eval_examples_end - eval_examples);
    for (int i = 0; i < 8; i++) {
        char example[4096], *question;
        size_t from = eval_examples_length(i), length = eval_examples_length(i + 1) - from;
        double by_mark, last;
        assert_true(length < sizeof example);
        memcpy(example, eval_examples + from, length);
        example[length] = '\0';
        question = strstr(example, EVAL_QUESTION);
        assert_ptr_equal(question, example);
        assert_null(strstr(question + 1, EVAL_QUESTION));
        assert_non_null(strstr(example, "\nAnswer: "));
        assert_true(eval_answer_number(example, &by_mark));
        assert_true(eval_answer_number(strstr(example, "The answer is") + strlen("The answer is"), &last));
        assert_true(by_mark == last);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),     cmocka_unit_test(test_no_number),
        cmocka_unit_test(test_long_number), cmocka_unit_test(test_same),
        cmocka_unit_test(test_problems),    cmocka_unit_test(test_problem_errors),
        cmocka_unit_test(test_examples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
