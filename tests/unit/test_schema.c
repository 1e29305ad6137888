/* What grammar_schema takes, writes and refuses, and that hostile schemas come to an end. The languages are
 * judged by Python's jsonschema in tests/grammar. */
#include "model/grammar_text.h"

#include "tests/unit/support/grammar_probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct grammar_limits compile_limits;

/* schema NULL: any object. */
static enum err compile(const char *schema, struct grammar **out, struct err_info *info)
{
    struct grammar_builder *builder = grammar_builder_create(&compile_limits);
    struct json *tree = NULL;
    int root = -1;
    struct json_limits limits = json_limits_default;
    limits.max_depth = JSON_MAX_DEPTH;
    if (schema) assert_int_equal(json_parse(schema, strlen(schema), &limits, &tree, info), ERR_OK);
    enum err err = grammar_schema(builder, tree, &root, info);
    err = grammar_probe_build(builder, err, root, out, info);
    json_free(tree);
    return err;
}

/* texts: those that are derived, NULL, those that are not, NULL. */
static void assert_texts(const char *schema, const char *const *texts)
{
    struct grammar *grammar;
    struct grammar_probe probe;
    struct err_info info;
    if (compile(schema, &grammar, &info)) fail_msg("%s: %s", schema, info.message);
    grammar_probe_init(&probe, grammar);
    bool expected;
    size_t n;
    const char *wrong = grammar_probe_wrong(&probe, texts, &expected, &n);
    if (wrong)
        fail_msg("%s: %s is %s at byte %zu", schema ? schema : "any object", wrong,
                 expected ? "refused" : "accepted", n);
    grammar_probe_free(&probe);
}

#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void any_object_is_an_object_and_nothing_else(void **state)
{
    (void)state;
    assert_texts(
        NULL, TEXTS("{}", "{\"a\":[1,{\"b\":null}],\"c\":\"\\u00e9\"}", NULL, "[]", "1", "{", "{} ", " {}"));
}

static void white_space_is_bounded(void **state)
{
    (void)state;
    assert_texts("{\"type\":\"object\"}", TEXTS("{\"a\":1,\"b\":2}", "{\"a\": 1, \"b\": 2}", "{ \"a\": 1 }",
                                                "{\n  \"a\": 1,\n  \"b\": []\n}", NULL, "{\"a\":  1}",
                                                "{\"a\" : 1}", "{\"a\":1 ,\"b\":2}", "{  \"a\":1}", "{ }",
                                                "{\n\n\"a\":1}", "{\t\"a\":1}", "{\"a\":\n1}"));
}

static void strings_have_the_escapes_of_json(void **state)
{
    (void)state;
    assert_texts("{\"type\":\"string\",\"maxLength\":2}",
                 TEXTS("\"\\\"\\\\\"", "\"\\/\\b\"", "\"\\f\\n\"", "\"\\r\\t\"", "\"\\u00e9\\uD83D\\uDE00\"",
                       "\"\xF0\x9F\x98\x80x\"", "\"\\u0001\x7F\"", "\"\\uFFFF\"", NULL, "\"\\u0000\"",
                       "\"\\uD83D\"", "\"\\uDE00\"", "\"\\uD83D\\u0041\"", "\"\\x41\"", "\"\n\"", "\"\\'\"",
                       "\"abc\"", "\"\\u00e9\\u00e9\\u00e9\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\""));
}

static void names_that_are_taken_have_no_second_spelling(void **state)
{
    (void)state;
    assert_texts("{\"type\":\"object\",\"properties\":{\"a\\n\":{\"type\":\"integer\"}}}",
                 TEXTS("{\"a\\n\":1}", "{\"a\":\"x\"}", "{\"a\\r\":\"x\"}", "{\"a\\u0001\":\"x\"}", NULL,
                       "{\"a\\n\":\"x\"}", "{\"a\\u000a\":\"x\"}", "{\"a\\u000A\":\"x\"}",
                       "{\"\\u0061\\n\":\"x\"}"));
}

static void numbers_are_bounded_in_digits(void **state)
{
    (void)state;
    assert_texts("{\"type\":\"number\"}",
                 TEXTS("0", "-0", "1e10", "1.5E-3", "12345678901234567890", NULL, "01", "1.", ".5", "+1",
                       "1e", "1e100", "123456789012345678901", "0.123456789012345678901", "NaN", "--1"));
    assert_texts("{\"type\":\"integer\"}", TEXTS("0", "-7", "10", NULL, "-0", "1.0", "1e3", "007"));
    assert_texts("{\"type\":\"number\",\"exclusiveMaximum\":0.3}",
                 TEXTS("0.29999", "-5", "0.2", NULL, "0.3", "0.30", "0.299999999999999999999", "1e-3", "3"));
    assert_texts("{\"type\":\"number\",\"multipleOf\":0.1}",
                 TEXTS("0.3", "1.70", "12", NULL, "0.35", "0.01"));
}

/* --- Faults --- */

static void assert_fault(const char *schema, enum err err, const char *message)
{
    struct grammar *grammar;
    struct err_info info = {.message = ""};
    enum err got = compile(schema, &grammar, &info);
    if (got != err || info.code != err || strncmp(info.message, message, strlen(message)) != 0)
        fail_msg("%s: %s: %s", schema, err_name(got), info.message);
}

static void faults_name_keyword_and_place(void **state)
{
    (void)state;
    assert_fault("{\"properties\":{\"a/b\":{\"items\":{\"wrong\":1}}}}", ERR_UNSUPPORTED,
                 "JSON schema, #/properties/a~1b/items/wrong: unknown keyword 'wrong'");
    assert_fault("{\"anyOf\":[{},{\"minLength\":-1}]}", ERR_INVALID,
                 "JSON schema, #/anyOf/1/minLength: must be an integer of at least 0, not a number");
    assert_fault("{\"type\":\"string\",\"pattern\":\"(\"}", ERR_INVALID, "JSON schema, #/pattern: ");
    assert_fault("{\"type\":\"string\",\"pattern\":\"(a)\\\\1\"}", ERR_UNSUPPORTED,
                 "JSON schema, #/pattern: ");
    assert_fault("{\"oneOf\":[{\"multipleOf\":2},{\"multipleOf\":3}],\"type\":\"integer\"}", ERR_UNSUPPORTED,
                 "JSON schema, #/oneOf: unsupported keyword 'oneOf' here: branches 0 and 1 may both hold");
    assert_fault("{\"items\":{\"if\":{\"uniqueItems\":true},\"then\":{\"maxItems\":1}}}", ERR_UNSUPPORTED,
                 "JSON schema, #/items/if: unsupported keyword 'if' here");
    assert_fault("{\"not\":{\"properties\":{\"a\":{\"const\":[1]}}}}", ERR_UNSUPPORTED,
                 "JSON schema, #/not: unsupported keyword 'not' of an array");
    assert_fault("{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/a\"}}}", ERR_INVALID,
                 "JSON schema, #/$defs/a: refers to itself");
    assert_fault("{\"$ref\":\"http://x/y#/a\"}", ERR_UNSUPPORTED, "JSON schema, #/$ref: unsupported");
    assert_fault("{\"type\":\"array\",\"uniqueItems\":true}", ERR_UNSUPPORTED,
                 "JSON schema, #/uniqueItems: ");
    assert_fault("{\"const\":18446744073709551616}", ERR_UNSUPPORTED, "JSON schema, #/const: ");
    assert_fault("false", ERR_INVALID, "");
}

/* --- Hostile schemas --- */

/* It ends, well or with a message. */
static void assert_ends(struct buf *schema)
{
    struct grammar *grammar;
    struct err_info info = {.message = ""};
    enum err err = compile(schema->data, &grammar, &info);
    if (!err) grammar_release(grammar);
    if (err && (!info.message[0] || (err != ERR_LIMIT && err != ERR_INVALID))) fail_msg("%s", info.message);
    buf_free(schema);
}

static void many_combinations_end(void **state)
{
    (void)state;
    struct buf text;
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"allOf\":["); /* 2^40 ways to choose */
    for (int i = 0; i < 40; i++)
        buf_printf(&text, "%s{\"anyOf\":[{\"required\":[\"a%d\"]},{\"required\":[\"b%d\"]}]}", i ? "," : "",
                   i, i);
    buf_text(&text, "]}");
    assert_ends(&text);
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"$ref\":\"#/$defs/d0\",\"$defs\":{"); /* each refers twice to the next */
    for (int i = 0; i < 60; i++)
        buf_printf(
            &text,
            "\"d%d\":{\"properties\":{\"x\":{\"$ref\":\"#/$defs/d%d\"},\"y\":{\"$ref\":\"#/$defs/d%d\"}}},",
            i, i + 1, i + 1);
    buf_text(&text, "\"d60\":{\"type\":\"null\"}}}");
    assert_ends(&text);
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"$ref\":\"#/$defs/d0\",\"$defs\":{"); /* the same in place */
    for (int i = 0; i < 60; i++)
        buf_printf(&text, "\"d%d\":{\"anyOf\":[{\"$ref\":\"#/$defs/d%d\"},{\"$ref\":\"#/$defs/d%d\"}]},", i,
                   i + 1, i + 1);
    buf_text(&text, "\"d60\":{\"type\":\"null\"}}}");
    assert_ends(&text);
}

static void long_chains_and_deep_nesting_end(void **state)
{
    (void)state;
    struct buf text;
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"$ref\":\"#/$defs/d0\",\"$defs\":{");
    for (int i = 0; i < 3000; i++) buf_printf(&text, "\"d%d\":{\"$ref\":\"#/$defs/d%d\"},", i, i + 1);
    buf_text(&text, "\"d3000\":{}}}");
    assert_ends(&text);
    buf_init(&text, SIZE_MAX);
    for (int i = 0; i < 120; i++) buf_text(&text, "{\"items\":{\"not\":");
    buf_text(&text, "{}");
    for (int i = 0; i < 120; i++) buf_text(&text, "}}");
    assert_ends(&text);
    buf_init(&text, SIZE_MAX);
    for (int i = 0; i < 250; i++) buf_text(&text, "{\"items\":");
    buf_text(&text, "{}");
    for (int i = 0; i < 250; i++) buf_text(&text, "}");
    assert_ends(&text);
}

static void large_lists_end(void **state)
{
    (void)state;
    struct buf text;
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"properties\":{");
    for (int i = 0; i < 3000; i++) buf_printf(&text, "%s\"p%d\":{\"minimum\":%d}", i ? "," : "", i, i);
    buf_text(&text, "}}");
    assert_ends(&text);
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"type\":\"string\",\"pattern\":\"(a|b)*a(a|b){30}\",\"maxLength\":4000}");
    assert_ends(&text);
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"type\":\"array\",\"minItems\":1000000000,\"items\":{\"type\":\"array\",\"minItems\":"
                    "1000000000}}");
    assert_ends(&text);
}

/* The same ones again and again, in place. */
static void wide_and_deep_references_end(void **state)
{
    (void)state;
    struct buf text;
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"allOf\":["); /* as many schemas at once as it takes */
    for (int i = 0; i < 6000; i++)
        buf_printf(&text, "%s{\"properties\":{\"p%d\":{\"maximum\":%d}}}", i ? "," : "", i, i);
    buf_text(&text, "]}");
    assert_ends(&text);
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"$ref\":\"#/$defs/d0\",\"$defs\":{");
    for (int i = 0; i < 100; i++) {
        buf_printf(&text, "\"d%d\":{\"allOf\":[", i);
        for (int k = 0; k < 30; k++) buf_printf(&text, "%s{\"$ref\":\"#/$defs/d%d\"}", k ? "," : "", i + 1);
        buf_text(&text, "]},");
    }
    buf_text(&text, "\"d100\":{\"type\":\"null\"}}}");
    assert_ends(&text);
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"type\":\"object\",\"oneOf\":["); /* all of them may hold at once */
    for (int i = 0; i < 40; i++) buf_printf(&text, "%s{\"required\":[\"a%d\",\"b%d\"]}", i ? "," : "", i, i);
    buf_text(&text, "]}");
    assert_ends(&text);
    buf_init(&text, SIZE_MAX);
    buf_text(&text,
             "{\"type\":\"object\",\"allOf\":["); /* conditions that have nothing to do with each other */
    for (int i = 0; i < 40; i++)
        buf_printf(&text, "%s{\"if\":{\"required\":[\"a%d\"]},\"then\":{\"required\":[\"b%d\"]}}",
                   i ? "," : "", i, i);
    buf_text(&text, "]}");
    assert_ends(&text);
}

/* As hash tables have it at worst: equal values, and a long list asked for by each of its own. */
static void long_enums_are_searched_by_hash(void **state)
{
    (void)state;
    struct buf text;
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"allOf\":[{\"enum\":[");
    for (int i = 0; i < 20000; i++) buf_printf(&text, "%s[%d]", i ? "," : "", i / 2);
    buf_text(&text, "]},{\"enum\":[");
    for (int i = 0; i < 20000; i++) buf_printf(&text, "%s[%d]", i ? "," : "", i + 9990);
    buf_text(&text, "]}]}");
    compile_limits.max_time_us *= 60; /* sanitizers and busy machines */
    assert_texts(text.data, TEXTS("[9990]", "[9999]", NULL, "[9989]", "[10000]"));
    buf_free(&text);
}

static void many_strings_are_one_automaton(void **state)
{
    (void)state;
    struct buf text;
    struct grammar *grammar;
    struct grammar_probe probe;
    struct err_info info = {.message = ""};
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"enum\":[null");
    for (unsigned i = 0; i < 20000; i++) /* with little in common */
        buf_printf(&text, ",\"%x, \u00e9 %u\"", i * 2654435761u, i % 100);
    buf_text(&text, "]}");
    compile_limits.max_time_us *= 60;
    if (compile(text.data, &grammar, &info)) fail_msg("%s", info.message);
    grammar_probe_init(&probe, grammar);
    for (unsigned i = 0; i < 20001; i += 777) {
        bool ends = false;
        char value[80];
        int length = snprintf(value, sizeof value, "\"%x, \u00e9 %u\"", i * 2654435761u, i % 100);
        bool whole = grammar_probe_accept(&probe, value, (size_t)length, &ends) == (size_t)length && ends;
        assert_int_equal(whole, i < 20000);
    }
    bool ends = false;
    assert_int_equal(grammar_probe_accept(&probe, "null", 4, &ends), 4);
    assert_true(ends);
    grammar_probe_free(&probe);
    buf_free(&text);
}

/* The clock runs from the first node on, in each language: with no time at all the front ends themselves
 * stop. */
static void front_ends_keep_to_the_time(void **state)
{
    (void)state;
    struct err_info info = {.message = ""};
    struct grammar *grammar;
    struct buf text;
    compile_limits.max_time_us = 0;
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"properties\":{");
    for (int i = 0; i < 3000; i++) buf_printf(&text, "%s\"p%d\":{\"minimum\":%d}", i ? "," : "", i, i);
    buf_text(&text, "}}");
    assert_int_equal(compile(text.data, &grammar, &info), ERR_LIMIT);
    assert_non_null(strstr(info.message, "JSON schema, #: the grammar takes more than 0 ms to compile"));
    buf_clear(&text);
    struct grammar_builder *builder = grammar_builder_create(&compile_limits);
    struct grammar_regex_options options = {.search = false};
    int node = -1;
    for (int i = 0; i < 3000; i++) buf_text(&text, "[\\p{L}\\d]");
    assert_int_equal(grammar_regex(builder, text.data, text.length, &options, &node, &info), ERR_LIMIT);
    assert_non_null(strstr(info.message, "more than 0 ms to compile"));
    grammar_builder_free(builder);
    buf_clear(&text);
    builder = grammar_builder_create(&compile_limits);
    buf_text(&text, "root ::=");
    for (int i = 0; i < 3000; i++) buf_printf(&text, " \"%d\"", i);
    enum err err = grammar_gbnf(builder, text.data, text.length, &node, &info);
    assert_int_equal(grammar_probe_build(builder, err, node, &grammar, &info), ERR_LIMIT);
    assert_non_null(strstr(info.message, "more than 0 ms to compile"));
    buf_free(&text);
}

static int limits_reset(void **state)
{
    (void)state;
    compile_limits = grammar_limits_default;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(any_object_is_an_object_and_nothing_else, limits_reset),
        cmocka_unit_test_setup(white_space_is_bounded, limits_reset),
        cmocka_unit_test_setup(strings_have_the_escapes_of_json, limits_reset),
        cmocka_unit_test_setup(names_that_are_taken_have_no_second_spelling, limits_reset),
        cmocka_unit_test_setup(numbers_are_bounded_in_digits, limits_reset),
        cmocka_unit_test_setup(faults_name_keyword_and_place, limits_reset),
        cmocka_unit_test_setup(many_combinations_end, limits_reset),
        cmocka_unit_test_setup(long_chains_and_deep_nesting_end, limits_reset),
        cmocka_unit_test_setup(large_lists_end, limits_reset),
        cmocka_unit_test_setup(wide_and_deep_references_end, limits_reset),
        cmocka_unit_test_setup(long_enums_are_searched_by_hash, limits_reset),
        cmocka_unit_test_setup(many_strings_are_one_automaton, limits_reset),
        cmocka_unit_test_setup(front_ends_keep_to_the_time, limits_reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
