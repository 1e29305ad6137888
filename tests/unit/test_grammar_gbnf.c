/* What GBNF's front end takes and refuses. Its languages are compared with Python's in tests/grammar. */
#include "model/grammar_text.h"

#include "tests/unit/support/grammar_probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static enum err compile(const char *text, size_t length, struct grammar **out, struct err_info *info)
{
    struct grammar_builder *builder = grammar_builder_create(&grammar_limits_default);
    int root = -1;
    enum err err = grammar_gbnf(builder, text, length, &root, info);
    return grammar_probe_build(builder, err, root, out, info);
}

static void assert_fault(const char *text, enum err err, const char *message)
{
    struct grammar *grammar;
    struct err_info info;
    assert_int_equal(compile(text, strlen(text), &grammar, &info), err);
    assert_int_equal(info.code, err);
    assert_string_equal(info.message, message);
}

/* texts: those that the grammar has, NULL, those that it has not, NULL. */
static void assert_language(const char *gbnf, const char *const *texts)
{
    struct grammar *grammar;
    struct grammar_probe probe;
    struct err_info info;
    bool expected;
    size_t n;
    if (compile(gbnf, strlen(gbnf), &grammar, &info) != ERR_OK) fail_msg("%s\n%s", gbnf, info.message);
    grammar_probe_init(&probe, grammar);
    const char *wrong = grammar_probe_wrong(&probe, texts, &expected, &n);
    if (wrong) fail_msg("%s\non \"%s\"", gbnf, wrong);
    grammar_probe_free(&probe);
}
#define LANGUAGE(gbnf, ...) assert_language(gbnf, (const char *const[]){__VA_ARGS__, NULL})

static void test_elements(void **state)
{
    (void)state;
    LANGUAGE("root ::= \"a\\n\\t\\r\\\\\\\"\\[\\]\\-\\x41\\u00e9\\U0001F600\"",
             "a\n\t\r\\\"[]-A\xc3\xa9\xf0\x9f\x98\x80", NULL, "a", "");
    LANGUAGE("root ::= [a-c\\]\\x30-9-]", "a", "c", "]", "0", "5", "9", "-", NULL, "d", "", "ab", "[");
    LANGUAGE("root ::= [^a-c\\n]", "d", "\xc3\xa9", "^", NULL, "a", "\n", "\xc3", "");
    LANGUAGE("root ::= [\xe3\x81\x81-\xe3\x82\x9f]+", "\xe3\x81\x81\xe3\x82\x9f", NULL, "\xe3\x81",
             "\xe3\x82\xa0", "");
    LANGUAGE("root ::= .", "a", "\n", "\xf0\x9f\x98\x80", NULL, "", "ab", "\xed\xa0\x80", "\xff");
    LANGUAGE("root ::= \"\"", "", NULL, "a");
    LANGUAGE("root ::= \"\\x80\"", "\xc2\x80", NULL, "\x80"); /* a code point, not a byte */
    LANGUAGE("root ::= \"two\nlines\"", "two\nlines", NULL, "two");
}

static void test_repetition(void **state)
{
    (void)state;
    LANGUAGE("root ::= \"ab\"* \"c\"+ \"d\"?", "c", "ababccd", NULL, "abab", "abc ", "aab", "cdd");
    LANGUAGE("root ::= \"a\"{2} \"b\"{1,} \"c\"{ 0 , 2 }", "aab", "aabbbcc", NULL, "ab", "aabccc", "aaab");
    LANGUAGE("root ::= [ab]{0,3}", "", "aba", NULL, "abab");
    LANGUAGE("root ::= \"a\"{2}{2}", "aaaa", NULL, "aa", "aaa", "aaaaa");
    LANGUAGE("root ::= (\"a\" | \"b\" \"c\")+ \"d\"{0}", "a", "abcbca", NULL, "", "ab", "ad");
}

static void test_layout(void **state)
{
    (void)state;
    LANGUAGE(
        "# a grammar\r\nroot ::= # of\r\n  one |\r\n  two # or two\r\n\r\none ::= \"1\"\r\ntwo ::= \"2\"",
        "1", "2", NULL, "", "12");
    LANGUAGE("root ::= \"a\"\n  | \"b\"\n# between\n  | \"c\"\n", "a", "b", "c", NULL, "ab");
    LANGUAGE("root::=(\n\"a\" # in parentheses\n\n\"b\"\n)\"c\"", "abc", NULL, "ab");
    LANGUAGE("root ::= | \"a\"", "", "a", NULL, "aa");
    LANGUAGE("x_1 ::= \"a\"\nroot ::= B-2\nB-2 ::= x_1", "a", NULL, "");
    LANGUAGE("root ::= \"x\" root | \"y\"", "y", "xxy", NULL, "x", "xyx");
    LANGUAGE("root ::= root \"x\" | \"y\"", "y", "yxx", NULL, "x", "yxy");
}

static void test_tokens(void **state)
{
    (void)state;
    LANGUAGE("root ::= <think> !</think>* </think>", "<think></think>", "<think>a</thinb</think>", NULL,
             "<think>", "<think></think></think>");
    struct grammar *grammar;
    struct grammar_probe probe;
    const char gbnf[] = "root ::= <|im_start|> \"a\"";
    bool ends;
    assert_int_equal(compile(gbnf, strlen(gbnf), &grammar, NULL), ERR_OK);
    grammar_probe_init(&probe, grammar);
    int32_t *tokens;
    size_t n;
    assert_int_equal(
        tokenizer_encode(grammar_probe_tokenizer(), "<|im_start|>a", 13, false, true, 10, &tokens, &n, NULL),
        ERR_OK);
    assert_int_equal(n, 2);
    assert_true(tokenizer_is_special(grammar_probe_tokenizer(), tokens[0]));
    assert_true(grammar_accept(probe.start, tokens[0]));
    assert_false(grammar_accept(probe.start, tokens[0]));
    assert_true(grammar_accept(probe.start, tokens[1]));
    assert_true(grammar_must_end(probe.start));
    grammar_probe_accept(&probe, "", 0, &ends);
    assert_true(ends);
    free(tokens);
    grammar_probe_free(&probe);
}

static void test_faults(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } faults[] = {
        {"", "there is no rule"},
        {"a ::= \"x\"", "there is no rule 'root', with which the text begins"},
        {"root ::= a b\na ::= \"x\"", "line 1, column 12: the rule 'b' is not defined"},
        {"root ::= \"\xc3\xa9\" \xc3\xa9",
         "line 1, column 14: an element, '|' or the end of the line was expected, "
         "not '\xc3\xa9'"},
        {"root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule 'root' is defined a second time"},
        {"root = \"a\"", "line 1, column 6: '::=' was expected after the rule's name, not '='"},
        {"root", "line 1, column 5: '::=' was expected after the rule's name, not the end"},
        {"\n  | \"a\"", "line 2, column 3: a rule's name was expected, not '|'"},
        {"root ::= \"a", "line 1, column 10: a literal without its closing '\"'"},
        {"root ::= \"a\\",
         "line 1, column 12: unknown escape: \\ before the end (there are \\n \\r \\t \\\\ \\\" "
         "\\[ \\] \\- \\xNN \\uNNNN \\UNNNNNNNN)"},
        {"root ::= [a", "line 1, column 10: a class without its closing ']'"},
        {"root ::= []", "line 1, column 10: an empty class (for any character, write '.')"},
        {"root ::= [z-a]", "line 1, column 11: a range that ends (U+0061) before it begins (U+007A)"},
        {"root ::= \"\\xg1\"", "line 1, column 11: \\x needs 2 hexadecimal digits"},
        {"root ::= \"\\u12\"", "line 1, column 11: \\u needs 4 hexadecimal digits"},
        {"root ::= \"\\U00110000\"", "line 1, column 11: U+110000: no character, the last is U+10FFFF"},
        {"root ::= \"\\uD800\"", "line 1, column 11: U+D800 is a surrogate, not a character"},
        {"root ::= (\"a\"", "line 1, column 10: '(' without its closing ')'"},
        {"root ::= (\"a\" }", "line 1, column 15: an element, '|' or ')' was expected, not '}'"},
        {"root ::= \"a\")",
         "line 1, column 13: an element, '|' or the end of the line was expected, not ')'"},
        {"root ::= *", "line 1, column 10: nothing stands before '*' that it could repeat"},
        {"root ::= \"a\" | {2}", "line 1, column 16: nothing stands before '{' that it could repeat"},
        {"root ::= \"a\"{}", "line 1, column 14: a number was expected, not '}'"},
        {"root ::= \"a\"{,2}", "line 1, column 14: a number was expected, not ','"},
        {"root ::= \"a\"{2;", "line 1, column 15: a repetition goes on with ',' or '}', not ';'"},
        {"root ::= \"a\"{3,2}", "line 1, column 13: a repetition whose most (2) is below its least (3)"},
        {"root ::= \"a\"\n\"b\"", "line 2, column 1: a rule's name was expected, not '\"'"},
        {"root ::= <>", "line 1, column 10: a token without a name"},
        {"root ::= <think", "line 1, column 10: a token without its closing '>'"},
        {"root ::= !a", "line 1, column 10: '!' without the '<' of a token"},
        {"root ::= \"\xff\"", "line 1, column 11: no UTF-8"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        assert_fault(faults[i].text, ERR_INVALID, faults[i].message);
    assert_fault(
        "root ::= <[12]>", ERR_UNSUPPORTED,
        "line 1, column 10: tokens by their number are not supported: write the token's text, as in <think>");
    assert_fault("root ::= !<a> \"b\"", ERR_UNSUPPORTED,
                 "line 1, column 10: a negated token is only supported repeated: !<a>*");
    assert_fault("root ::= \"a\"{2147483648}", ERR_LIMIT,
                 "line 1, column 14: a repetition of more than 2147483647");
}

static void test_limits(void **state)
{
    (void)state;
    enum { LONG = (1 << 20) + 1 };
    char *text = malloc(LONG);
    struct err_info info;
    struct grammar *grammar;
    assert_non_null(text);
    memset(text, '(', LONG);
    memcpy(text, "root ::= ", 9);
    assert_int_equal(compile(text, 9 + 200, &grammar, &info), ERR_INVALID);
    assert_int_equal(compile(text, 9 + 201, &grammar, &info), ERR_LIMIT);
    assert_string_equal(info.message, "line 1, column 210: more than 200 parentheses in each other");
    assert_int_equal(compile(text, LONG, &grammar, &info), ERR_LIMIT);
    assert_string_equal(info.message, "a grammar of 1048577 bytes, the most is 1048576");
    memset(text, 'a', 300);
    assert_int_equal(compile(text, 300, &grammar, &info), ERR_LIMIT);
    assert_string_equal(info.message, "line 1, column 1: a name of more than 256 characters");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elements), cmocka_unit_test(test_repetition), cmocka_unit_test(test_layout),
        cmocka_unit_test(test_tokens),   cmocka_unit_test(test_faults),     cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
