/* What the front end of patterns takes and refuses. Its languages are compared with Python's in
 * tests/grammar. */
#include "model/grammar_text.h"

#include "tests/unit/support/grammar_probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct grammar_regex_options whole = {0}, search = {.search = true},
                                          json = {.json_string = true},
                                          json_search = {.search = true, .json_string = true};

static enum err compile(const char *pattern, size_t length, const struct grammar_regex_options *options,
                        struct grammar **out, struct err_info *info)
{
    struct grammar_builder *builder = grammar_builder_create(&grammar_limits_default);
    int root = -1;
    enum err err = grammar_regex(builder, pattern, length, options, &root, info);
    return grammar_probe_build(builder, err, root, out, info);
}

static void assert_fault(const char *pattern, enum err err, const char *message)
{
    struct grammar *grammar;
    struct err_info info;
    assert_int_equal(compile(pattern, strlen(pattern), &whole, &grammar, &info), err);
    assert_int_equal(info.code, err);
    assert_string_equal(info.message, message);
}

/* texts: those that match, NULL, those that do not, NULL. */
static void assert_language(const char *pattern, const struct grammar_regex_options *options,
                            const char *const *texts)
{
    struct grammar *grammar;
    struct grammar_probe probe;
    struct err_info info;
    bool expected;
    size_t n;
    if (compile(pattern, strlen(pattern), options, &grammar, &info) != ERR_OK)
        fail_msg("%s\n%s", pattern, info.message);
    grammar_probe_init(&probe, grammar);
    const char *wrong = grammar_probe_wrong(&probe, texts, &expected, &n);
    if (wrong) fail_msg("%s\non \"%s\"", pattern, wrong);
    grammar_probe_free(&probe);
}
#define LANGUAGE(pattern, options, ...)                                                                      \
    assert_language(pattern, &(options), (const char *const[]){__VA_ARGS__, NULL})

static void test_whole(void **state)
{
    (void)state;
    LANGUAGE("a|bc*", whole, "a", "b", "bccc", NULL, "", "ab", "ac");
    LANGUAGE("^(?:a|b)+$", whole, "abba", NULL, "", "c");
    LANGUAGE("\\d{4}-\\d{2}", whole, "2026-11", NULL, "226-11", "2026-1", "2026-111");
    LANGUAGE("(?<year>\\w)(?P<x>[^\\w\\s])", whole, "a-", "_!", NULL, "a ", "ab");
    LANGUAGE("", whole, "", NULL, "a");
    LANGUAGE("a||b", whole, "", "a", "b", NULL, "ab");
    LANGUAGE("{\"x\":[0-9]+}", whole, "{\"x\":12}", NULL, "{}");
    LANGUAGE("\\t\\n\\r\\v\\f\\x41\\u00e9\\u{1F600}\\uD83D\\uDE00\\cA\\.\\/\\-", whole,
             "\t\n\r\v\fA\xc3\xa9\xf0\x9f\x98\x80\xf0\x9f\x98\x80\x01./-", NULL, "");
    LANGUAGE("[\\b\\]\\\\^-]", whole, "\b", "]", "\\", "^", "-", NULL, "a", "[");
    LANGUAGE(".", whole, "a", "\xc3\xa9", NULL, "\n", "\r", "\xe2\x80\xa8", "");
    LANGUAGE("\xc3\xa9+?", whole, "\xc3\xa9\xc3\xa9", NULL, "", "\xc3");
}

static void test_search(void **state)
{
    (void)state;
    LANGUAGE("b", search, "b", "abc", "\nb\n", NULL, "", "ac");
    LANGUAGE("^b", search, "b", "bc", NULL, "ab", "\nb");
    LANGUAGE("b$", search, "b", "ab", NULL, "ba", "b\n");
    LANGUAGE("^b$", search, "b", NULL, "ab", "ba", "");
    LANGUAGE("^a|b$", search, "ax", "xb", "b", NULL, "xa", "bx");
    LANGUAGE("^(a|b)$", search, "a", "b", NULL, "ab");
    LANGUAGE("(^a|b)(c|d$)", search, "acx", "xbcx", "xbd", "ad", NULL, "xac", "bdx");
    LANGUAGE("", search, "", "x", NULL);
    LANGUAGE("^$", search, "", NULL, "x", "\n");
    LANGUAGE("^", search, "", "x", NULL);
    LANGUAGE("(a$)|(^b)", search, "xa", "bx", NULL, "ax", "xb");
    LANGUAGE("^x-", search, "x-", "x-\xc3\xa9", NULL, "x-\xff", "X-");
}

static void test_json_string(void **state)
{
    (void)state;
    LANGUAGE(".*", json, "", "abc", "\\\"", "\\\\", "\\/", "/", "\\t", "\\u0009", "\\u001f", "\\u001F", NULL,
             "\"", "\\", "\n", "\\n", "\\u000a", "\\u0020", "\\u0041", "\\a");
    LANGUAGE("[^a]", json, "\\n", "\\u000A", "b", NULL, "a", "\n", "\\u0061");
    LANGUAGE("a\"b\\\\c\\n", json, "a\\\"b\\\\c\\n", "a\\\"b\\\\c\\u000a", NULL, "a\"b\\c\n");
    LANGUAGE("\xc4\xa2", json, "\xc4\xa2", NULL, "\\\"");
    LANGUAGE("b", json_search, "b", "\\\"b\\\\", "\\bb", NULL, "\\b", "\"b", "");
    LANGUAGE("^n", json_search, "n", "nx", NULL, "\\n");
    LANGUAGE("\\x00", json, "\\u0000", NULL, "\\0");
}

static void test_faults(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *message;
    } faults[] = {
        {"(a", "character 1: '(' without its closing ')'"},
        {"\xc3\xa9)", "character 2: ')' without its '('"},
        {"[a", "character 1: a class without its closing ']'"},
        {"[]a]", "character 1: an empty class (for the character ']', write '\\]')"},
        {"a|*", "character 3: nothing stands before '*' that it could repeat"},
        {"a{2}{3}", "character 5: a repetition of a repetition"},
        {"a{3,2}", "character 2: a repetition whose most (2) is below its least (3)"},
        {"a{,3}", "character 2: '{' begins a repetition ({m}, {m,} or {m,n}), or is written '\\{'"},
        {"^+", "character 2: '^' cannot be repeated"},
        {"a\\", "character 2: nothing after the last '\\'"},
        {"\\q", "character 1: unknown escape '\\q'"},
        {"[b-a]", "character 2: a range that ends (U+0061) before it begins (U+0062)"},
        {"[\\w-.]", "character 2: a range that begins with a class (for a '-', write '\\-')"},
        {"[+-\\d]", "character 2: a range that ends with a class (for a '-', write '\\-')"},
        {"\\uDC00", "character 1: U+DC00 is a surrogate, not a character"},
        {"\\u{110000}", "character 1: \\u{...} needs the hexadecimal number of a character"},
        {"a\xff", "character 2: no UTF-8"},
    };
    static const struct {
        const char *pattern, *message;
    } unsupported[] = {
        {"a(?=b)", "character 2: look-around is not supported"},
        {"(a)\\1", "character 4: back references are not supported"},
        {"\\ba", "character 1: word boundaries (\\b) are not supported"},
        {"(?i)a", "character 1: flags in the pattern, as (?i), are not supported"},
        {"a*+", "character 2: possessive repetition is not supported"},
        {"a^", "character 2: '^' is only supported at the start of the pattern or of an alternative"},
        {"(a$)b", "character 3: '$' is only supported at the end of the pattern or of an alternative"},
        {"(^a)*", "character 2: '^' is only supported at the start of the pattern or of an alternative"},
        {"\\p{Greek}",
         "character 1: the property 'Greek' is not supported: general categories are (L, Lu, Nd, ...)"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        assert_fault(faults[i].pattern, ERR_INVALID, faults[i].message);
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++)
        assert_fault(unsupported[i].pattern, ERR_UNSUPPORTED, unsupported[i].message);
    assert_fault("a{2147483648}", ERR_LIMIT, "character 3: a repetition of more than 2147483647");
}

static void test_limits(void **state)
{
    (void)state;
    enum { LONG = (1 << 16) + 1 };
    char *text = malloc(LONG);
    struct err_info info;
    struct grammar *grammar;
    assert_non_null(text);
    memset(text, '(', LONG);
    assert_int_equal(compile(text, 200, &whole, &grammar, &info), ERR_INVALID);
    assert_int_equal(compile(text, 201, &whole, &grammar, &info), ERR_LIMIT);
    assert_string_equal(info.message, "character 201: more than 200 groups in each other");
    assert_int_equal(compile(text, LONG, &whole, &grammar, &info), ERR_LIMIT);
    assert_string_equal(info.message, "a pattern of 65537 bytes, the most is 65536");
    memset(text, '^', LONG);
    assert_int_equal(compile(text, LONG - 1, &search, &grammar, &info), ERR_OK);
    grammar_release(grammar);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),  cmocka_unit_test(test_search), cmocka_unit_test(test_json_string),
        cmocka_unit_test(test_faults), cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
