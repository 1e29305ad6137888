/* The interpreter's own promises: limits, messages, values. What templates render is compared with Python's
 * Jinja2 in tests/jinja. */
#include "model/jinja.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct rendering {
    struct arena *arena;
    struct json *json;
    struct jinja *jinja;
    enum err err;
    struct jinja_text text;
    struct err_info info;
};

static struct rendering render(const char *source, const char *context, const struct jinja_limits *limits,
                               size_t arena_bytes)
{
    struct rendering out = {.arena = arena_create(arena_bytes)};
    struct jinja_variable variables[8];
    int n = 0;
    assert_int_equal(json_parse(context, strlen(context), &json_limits_default, &out.json, NULL), ERR_OK);
    if (jinja_compile(source, strlen(source), &out.jinja, &out.info) != ERR_OK)
        fail_msg("%s", out.info.message);
    for (const struct json *item = json_first(out.json); item; item = json_next(item), n++)
        variables[n] = (struct jinja_variable){json_key(item), jinja_value_json(out.arena, item)};
    out.err = jinja_render(out.jinja, out.arena, variables, n, 0, limits, &out.text, &out.info);
    return out;
}

static void release(struct rendering *rendering)
{
    jinja_free(rendering->jinja);
    arena_free(rendering->arena);
    json_free(rendering->json);
}

static void assert_text(const char *source, const char *context, const char *expected)
{
    struct rendering out = render(source, context, &jinja_limits_default, 1 << 22);
    if (out.err != ERR_OK) fail_msg("%s", out.info.message);
    assert_int_equal(out.text.length, strlen(expected));
    assert_memory_equal(out.text.bytes, expected, out.text.length);
    release(&out);
}

static void test_values_of_json(void **state)
{
    (void)state;
    assert_text("{{ x }}", "{\"x\":[1,1.0,-0.5,1e2,9007199254740991,1e300,true,null,\"a\\n\",{\"k\":[]}]}",
                "[1, 1.0, -0.5, 100.0, 9007199254740991, 1e+300, True, None, 'a\\n', {'k': []}]");
}

static void test_errors_have_lines(void **state)
{
    (void)state;
    struct rendering out =
        render("a\n{% if true %}\n{{ x.y.z }}\n{% endif %}", "{\"x\":{}}", &jinja_limits_default, 1 << 20);
    assert_int_equal(out.err, ERR_INVALID);
    assert_string_equal(out.info.message, "chat template, line 3: 'dict object' has no attribute 'y'");
    release(&out);
    out = render("{{ raise_exception('no') }}", "{}", &jinja_limits_default, 1 << 20);
    assert_int_equal(out.err, ERR_INVALID);
    assert_string_equal(out.info.message, "no");
    release(&out);
}

static void assert_limited(const char *source, const struct jinja_limits *limits, size_t arena_bytes)
{
    struct rendering out =
        render(source, "{\"s\":\"0123456789012345678901234567890123456789\"}", limits, arena_bytes);
    assert_int_equal(out.err, ERR_LIMIT);
    assert_int_equal(out.info.code, ERR_LIMIT);
    release(&out);
}

static void test_limits(void **state)
{
    (void)state;
    struct jinja_limits few_steps = jinja_limits_default, shallow = few_steps, brief = few_steps;
    few_steps.max_steps = 100;
    shallow.max_depth = 20;
    brief.max_output_bytes = 100;
    assert_limited("{% for i in range(50) %}{{ i }}{% endfor %}", &few_steps, 1 << 20);
    assert_limited("{{ range(99999)|length }}", &few_steps, 1 << 24);
    assert_limited("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", &shallow, 1 << 20);
    assert_limited("{{ s|replace('', s) }}", &brief, 1 << 20);
    assert_limited("{{ s }}{{ s }}{{ s }}", &brief, 1 << 20);
    assert_limited("{% for i in range(9999) %}{{ [s] }}{% endfor %}", &jinja_limits_default, 1 << 16);
    assert_text("{{ s }}{{ s }}", "{\"s\":\"x\"}", "xx");
}

static void test_marks(void **state)
{
    (void)state;
    struct rendering out = render("<{{ s }}>", "{\"s\":\"ab\"}", &jinja_limits_default, 1 << 20);
    static const unsigned char expected[] = {1, 0, 0, 1};
    assert_int_equal(out.err, ERR_OK);
    assert_int_equal(out.text.length, 4);
    assert_memory_equal(out.text.marks, expected, 4);
    release(&out);
    out = render("abc", "{}", &jinja_limits_default, 1 << 20);
    assert_true(out.text.marks == NULL && out.text.literal);
    release(&out);
    out = render("{{ s }}", "{\"s\":\"ab\"}", &jinja_limits_default, 1 << 20);
    assert_true(out.text.marks == NULL && !out.text.literal);
    release(&out);
}

static void test_compile_errors(void **state)
{
    (void)state;
    struct jinja *jinja = NULL;
    struct err_info info;
    assert_int_equal(jinja_compile("\n {% block x %}", 15, &jinja, &info), ERR_UNSUPPORTED);
    assert_string_equal(info.message, "line 2, column 5: the tag 'block' is not supported");
    assert_int_equal(jinja_compile("{{ x", 4, &jinja, &info), ERR_FORMAT);
    assert_int_equal(jinja_compile("\xc3", 1, &jinja, &info), ERR_FORMAT);
    char deep[4000] = "{{ ";
    memset(deep + 3, '(', sizeof deep - 3);
    assert_int_equal(jinja_compile(deep, sizeof deep, &jinja, &info), ERR_LIMIT);
    assert_null(jinja);
    jinja_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_of_json), cmocka_unit_test(test_errors_have_lines),
        cmocka_unit_test(test_limits),         cmocka_unit_test(test_marks),
        cmocka_unit_test(test_compile_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
