#include "config/buf.h"
#include "config/json.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct json *parsed(const char *text)
{
    struct json *root = NULL;
    struct err_info info = {.message = ""};
    enum err err = json_parse(text, strlen(text), &json_limits_default, &root, &info);
    if (err) fail_msg("%s: %s", text, info.message);
    return root;
}

static void a_tree_keeps_types_order_and_names(void **state)
{
    (void)state;
    struct json *root = parsed(" {\"s\":\"a\\u00e9\\ud83d\\ude00\\n\",\"n\":-1.5e3,\"t\":true,\"f\":false,"
                               "\"z\":null,\"a\":[1,2,3],\"o\":{},\"\":0} ");
    assert_int_equal(json_type(root), JSON_OBJECT);
    assert_int_equal(json_length(root), 8);
    size_t length;
    assert_string_equal(json_string(json_get(root, "s"), &length), "a\xC3\xA9\xF0\x9F\x98\x80\n");
    assert_int_equal(length, 8);
    assert_true(json_number(json_get(root, "n")) == -1500);
    assert_int_equal(json_int64(json_get(root, "n")), -1500);
    assert_true(json_bool(json_get(root, "t")));
    assert_false(json_bool(json_get(root, "f")));
    assert_int_equal(json_type(json_get(root, "z")), JSON_NULL);
    assert_int_equal(json_int64(json_at(json_get(root, "a"), 2)), 3);
    assert_null(json_at(json_get(root, "a"), 3));
    assert_null(json_get(root, "S"));
    assert_null(json_get(json_get(root, "a"), "s"));
    assert_null(json_get(NULL, "s"));
    assert_null(json_first(json_get(root, "o")));
    assert_null(json_first(json_get(root, "s")));
    assert_non_null(json_get(root, ""));
    const char *names[] = {"s", "n", "t", "f", "z", "a", "o", ""};
    size_t i = 0;
    for (const struct json *child = json_first(root); child; child = json_next(child))
        assert_string_equal(json_key(child), names[i++]);
    assert_int_equal(i, 8);
    json_free(root);
    json_free(NULL);
}

static void integers_are_exact_or_not_integers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool integer;
    } cases[] = {{"0", true},
                 {"-0", true},
                 {"1.0", true},
                 {"1e3", true},
                 {"1.5", false},
                 {"9007199254740991", true},
                 {"-9007199254740991", true},
                 {"9007199254740992", false},
                 {"9007199254740993", false},
                 {"1e300", false},
                 {"\"1\"", false},
                 {"true", false},
                 {"1e-400", true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json *root = parsed(cases[i].text);
        if (json_is_integer(root) != cases[i].integer) fail_msg("%s", cases[i].text);
        json_free(root);
    }
    struct json *root = parsed("-9007199254740991");
    assert_int_equal(json_int64(root), -9007199254740991);
    json_free(root);
}

static void refusals_say_what_and_where(void **state)
{
    (void)state;
    static const struct {
        const char *text, *what, *param;
    } cases[] = {
        {"", "expected a value, but the text ends at byte 0", ""},
        {"  ", "but the text ends at byte 2", ""},
        {"{", "a key in quotes, but the text ends at byte 1", ""},
        {"[1,]", "expected a value, found ']' at byte 3", "[1]"},
        {"{\"a\":1,}", "a key in quotes, found '}' at byte 7", "a"},
        {"{\"a\" 1}", "expected ':', found '1' at byte 5", "a"},
        {"{\"a\":1 \"b\":2}", "expected ',' or '}', found '\"' at byte 7", "a"},
        {"[1 2]", "expected ',' or ']', found '2' at byte 3", "[0]"},
        {"[1}", "expected ',' or ']', found '}' at byte 2", "[0]"},
        {"{a:1}", "a key in quotes, found 'a' at byte 1", ""},
        {"{'a':1}", "a key in quotes, found ''' at byte 1", ""},
        {"1 2", "the end of the text, found '2' at byte 2", ""},
        {"{} x", "the end of the text, found 'x' at byte 3", ""},
        {"{\"t\":NaN}", "expected a value, found 'N' at byte 5", "t"},
        {"{\"t\":-Infinity}", "expected a digit, found 'I' at byte 6", "t"},
        {"{\"t\":Infinity}", "expected a value, found 'I' at byte 5", "t"},
        {"nul", "expected a value, found 'n' at byte 0", ""},
        {"True", "expected a value, found 'T' at byte 0", ""},
        {"truex", "the end of the text, found 'x' at byte 4", ""},
        {"01", "leading zero at byte 0", ""},
        {"-", "expected a digit, but the text ends at byte 1", ""},
        {"+1", "expected a value, found '+' at byte 0", ""},
        {".5", "expected a value, found '.' at byte 0", ""},
        {"5.", "expected a digit, but the text ends at byte 2", ""},
        {"1e+", "expected a digit, but the text ends at byte 3", ""},
        {"0x10", "the end of the text, found 'x' at byte 1", ""},
        {"{\"t\":1e309}", "number '1e309' is out of range at byte 5", "t"},
        {"-1e309", "out of range at byte 0", ""},
        {"1234567890123456789012345678901234567890123456789012345678901234", "longer than 63", ""},
        {"{\"p\":\"\\ud83d\"}", "lone surrogate \\ud83d at byte 6", "p"},
        {"{\"p\":\"\\ude00\"}", "lone surrogate \\ude00 at byte 6", "p"},
        {"\"\\ud83d\\u0041\"", "lone surrogate \\ud83d at byte 1", ""},
        {"\"\\ud83d\\ud83d\"", "lone surrogate \\ud83d at byte 1", ""},
        {"\"\\u0000\"", "\\u0000 is not accepted", ""},
        {"{\"a\\u0000\":1}", "\\u0000 is not accepted", ""},
        {"\"\\u12g4\"", "four hexadecimal digits at byte 1", ""},
        {"\"\\u12", "four hexadecimal digits at byte 1", ""},
        {"\"\\x41\"", "unknown escape in a string at byte 1", ""},
        {"\"\\", "the rest of an escape, but the text ends at byte 2", ""},
        {"\"abc", "unterminated string starting at byte 0", ""},
        {"\"a\nb\"", "raw control character 0x0a in a string at byte 2", ""},
        {"\"a\x01\"", "raw control character 0x01", ""},
        {"\"\xC3\"", "0xc3 does not continue valid UTF-8 at byte 1", ""},
        {"\"\xC0\xAF\"", "0xc0 does not continue", ""},
        {"\"\xED\xA0\x80\"", "0xed does not continue", ""},
        {"\"\xF4\x90\x80\x80\"", "0xf4 does not continue", ""},
        {"\xEF\xBB\xBF{}", "expected a value, found byte 0xef at byte 0", ""},
        {"{\"a\":1,\"b\":2,\"a\":3}", "duplicate key at byte 13", "a"},
        {"{\"a\":1,\"\\u0061\":3}", "duplicate key at byte 7", "a"},
        {"{\"x\":[{},{\"b\":{},\"b\":[]}]}", "duplicate key at byte 17", "x[1].b"},
        {"{\"messages\":[{\"role\":\"u\",\"content\":\"\\ud800\"}]}", "lone surrogate",
         "messages[0].content"},
        {"{\"a\":{\"b\":1,\"c\":2},\"d\":tru}", "found 't'", "d"},
        {"{\"a\\nb\":x}", "found 'x'", "a?b"},
        {"/* */ 1", "expected a value, found '/' at byte 0", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json *root = NULL;
        struct err_info info;
        enum err err = json_parse(cases[i].text, strlen(cases[i].text), &json_limits_default, &root, &info);
        if (err != ERR_INVALID || root) fail_msg("accepted: %s", cases[i].text);
        if (!strstr(info.message, cases[i].what) || strcmp(info.param, cases[i].param) != 0)
            fail_msg("%s: got '%s' (param '%s')", cases[i].text, info.message, info.param);
        assert_int_equal(json_parse(cases[i].text, strlen(cases[i].text), &json_limits_default, &root, NULL),
                         ERR_INVALID);
    }
    struct json *root = NULL;
    struct err_info info;
    assert_int_equal(json_parse("[1,\0]", 5, &json_limits_default, &root, &info), ERR_INVALID);
    assert_non_null(strstr(info.message, "found byte 0x00 at byte 3"));
}

static void limits_hold_on_their_edge(void **state)
{
    (void)state;
    struct json_limits limits = {.max_bytes = 12, .max_depth = 3, .max_values = 5};
    struct json *root;
    struct err_info info;
    static const struct {
        const char *text;
        enum err err;
    } cases[] = {{"[[[1]]]", ERR_OK},        {"[[[[]]]]", ERR_LIMIT},          {"[1,2,3,4]", ERR_OK},
                 {"[1,2,3,4,5]", ERR_LIMIT}, {"{\"a\":{\"b\":0}}", ERR_LIMIT}, {"\"1234567890\"", ERR_OK}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum err err = json_parse(cases[i].text, strlen(cases[i].text), &limits, &root, &info);
        if (err != cases[i].err) fail_msg("%s: %d %s", cases[i].text, err, info.message);
        if (!err) json_free(root);
    }
    limits = json_limits_default;
    limits.max_depth = JSON_MAX_DEPTH;
    char deep[2 * JSON_MAX_DEPTH + 2];
    memset(deep, '[', JSON_MAX_DEPTH);
    memset(deep + JSON_MAX_DEPTH, ']', JSON_MAX_DEPTH);
    assert_int_equal(json_parse(deep, 2 * JSON_MAX_DEPTH, &limits, &root, &info), ERR_OK);
    json_free(root);
}

static void many_keys_and_many_values_pass(void **state)
{
    (void)state;
    struct buf text;
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{");
    for (int i = 0; i < 50000; i++) buf_printf(&text, "\"key%d\":[%d],", i, i);
    buf_text(&text, "\"last\":{\"key1\":1}}");
    struct json *root = parsed(text.data);
    assert_int_equal(json_length(root), 50001);
    json_free(root);
    buf_consume(&text, 0);
    text.data[text.length - 1] = ',';
    buf_text(&text, "\"key49999\":0}");
    struct err_info info;
    assert_int_equal(json_parse(text.data, text.length, &json_limits_default, &root, &info), ERR_INVALID);
    assert_string_equal(info.param, "key49999");
    buf_free(&text);
}

static const char *written_string(struct buf *buf, const char *text, size_t length)
{
    buf_clear(buf);
    json_write_string(buf, text, length);
    return buf->data;
}

static void strings_are_escaped(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, SIZE_MAX);
    assert_string_equal(written_string(&buf, "", 0), "\"\"");
    assert_string_equal(written_string(&buf, "a\"\\/\b\f\n\r\t\x01\x7F", 11),
                        "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\x7F\"");
    assert_string_equal(written_string(&buf, "\0x", 2), "\"\\u0000x\"");
    assert_string_equal(written_string(&buf, "\xC3\xA9\xFF\xE2\x82z", 6),
                        "\"\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz\"");
    buf_free(&buf);
}

static void numbers_read_back_the_same(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, SIZE_MAX);
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "0"},
                 {-0.0, "-0"},
                 {0.1, "0.1"},
                 {1.0 / 3, "0.3333333333333333"},
                 {1e21, "1e+21"},
                 {DBL_MAX, "1.7976931348623157e+308"},
                 {NAN, "null"},
                 {INFINITY, "null"},
                 {1732442400, "1732442400"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buf_clear(&buf);
        json_write_double(&buf, cases[i].value);
        assert_string_equal(buf.data, cases[i].text);
    }
    static const struct {
        float value;
        const char *text;
    } floats[] = {{0.1f, "0.1"},
                  {-12.345679f, "-12.345679"},
                  {1.0f / 3, "0.33333334"},
                  {-INFINITY, "null"},
                  {16777216, "16777216"}};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        buf_clear(&buf);
        json_write_float(&buf, floats[i].value);
        assert_string_equal(buf.data, floats[i].text);
    }
    uint32_t bits = 12345;
    for (int i = 0; i < 20000; i++) {
        bits = bits * 1664525u + 1013904223u;
        float value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        buf_clear(&buf);
        json_write_float(&buf, value);
        assert_true(strtof(buf.data, NULL) == value);
        struct json *root = parsed(buf.data);
        assert_true((float)json_number(root) == value);
        json_free(root);
    }
    buf_clear(&buf);
    json_write_int64(&buf, INT64_MIN);
    json_write_bool(&buf, true);
    assert_string_equal(buf.data, "-9223372036854775808true");
    buf_free(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tree_keeps_types_order_and_names),
        cmocka_unit_test(integers_are_exact_or_not_integers),
        cmocka_unit_test(refusals_say_what_and_where),
        cmocka_unit_test(limits_hold_on_their_edge),
        cmocka_unit_test(many_keys_and_many_values_pass),
        cmocka_unit_test(strings_are_escaped),
        cmocka_unit_test(numbers_read_back_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
