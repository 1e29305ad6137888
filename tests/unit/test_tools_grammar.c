/* The grammar of replies that offer tools: what each style's calls may look like, that text stays free, and
 * that the parser reads as calls whatever the grammar lets through as such. */
#include "model/grammar.h"
#include "server/tools.h"
#include "tests/unit/support/grammar_probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char tools_text[] =
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"get\",\"parameters\":{\"type\":\"object\","
    "\"properties\":"
    "{\"city\":{\"type\":\"string\"}},\"required\":[\"city\"],\"additionalProperties\":false}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"get_time\"}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"go\",\"strict\":true,\"parameters\":{\"properties\":{"
    "\"n\":{\"type\":"
    "\"integer\"}},\"required\":[\"n\"],\"additionalProperties\":false}}}]";

/* The grammar of a body with these tools and more fields. */
static enum err make(enum tools_style style, const char *more, struct grammar **out, struct err_info *info)
{
    char text[2000];
    struct json *body;
    struct tools tools;
    struct arena *arena = arena_create(1 << 20);
    struct grammar_builder *builder = grammar_builder_create(&grammar_limits_default);
    bool own_tools = strncmp(more, "\"tools\"", 7) == 0;
    snprintf(text, sizeof text, own_tools ? "{%s%s}" : "{%s,%s}", own_tools ? "" : tools_text, more);
    assert_int_equal(json_parse(text, strlen(text), &json_limits_default, &body, info), ERR_OK);
    assert_int_equal(tools_parse(body, style, arena, &tools, info), ERR_OK);
    int root = -1;
    enum err err = tools_grammar(builder, &tools, &root, info);
    err = grammar_probe_build(builder, err, root, out, info);
    arena_free(arena);
    json_free(body);
    return err;
}

static struct grammar *made(enum tools_style style, const char *more)
{
    struct grammar *grammar = NULL;
    struct err_info info = {0};
    if (make(style, more, &grammar, &info) != ERR_OK) fail_msg("%s: %s", info.param, info.message);
    return grammar;
}

/* 'y': a whole reply; 'p': the beginning of one; 'n': neither. */
static char verdict(const struct grammar *grammar, const char *text, size_t length)
{
    void *memory = malloc(grammar_state_bytes(grammar));
    struct grammar_state *state = grammar_state_init(memory, grammar);
    char out = 'y';
    if (!grammar_accept_bytes(state, text, length))
        out = 'n';
    else if (!grammar_can_end(state))
        out = 'p';
    free(memory);
    return out;
}

struct expectation {
    const char *text;
    char verdict;
};

static void check(enum tools_style style, const char *more, const struct expectation *list, size_t n)
{
    struct grammar *grammar = made(style, more);
    for (size_t i = 0; i < n; i++) {
        char is = verdict(grammar, list[i].text, strlen(list[i].text));
        if (is != list[i].verdict)
            fail_msg("style %d %s: '%s' is '%c', not '%c'", style, more, list[i].text, is, list[i].verdict);
    }
    grammar_release(grammar);
}
#define CHECK(style, more, list) check(style, more, list, sizeof list / sizeof list[0])

#define OPEN  "<tool_call>\n"
#define CLOSE "\n</tool_call>"
#define GET   OPEN "{\"name\": \"get\", \"arguments\": {\"city\": \"Oslo\"}}" CLOSE
#define TIME  OPEN "{\"name\": \"get_time\", \"arguments\": {\"any\": [1, null]}}" CLOSE

static void test_hermes_required(void **state)
{
    (void)state;
    static const struct expectation list[] = {
        {"", 'p'},
        {"Hello", 'n'},
        {" " GET, 'n'},
        {GET, 'y'},
        {TIME, 'y'},
        {GET "\n" TIME "\n" GET, 'y'},
        {GET TIME, 'n'},
        {GET "\nx", 'n'},
        {OPEN "{\"name\": \"gone\"", 'n'},
        {OPEN "{\"name\": \"get\"", 'p'},
        {OPEN "{\"name\": \"get\", \"arguments\": {}", 'n'}, /* the city is required */
        {OPEN "{\"name\": \"get\", \"arguments\": {\"city\": 1", 'n'},
        {OPEN "{\"name\": \"get_time\", \"arguments\": {}}" CLOSE, 'y'},
        {OPEN "{\"name\": \"get_time\", \"arguments\": []", 'n'},
        {OPEN "{\"name\": \"go\", \"arguments\": {\"n\": 3}}" CLOSE, 'y'},
        {OPEN "{\"name\": \"go\", \"arguments\": \"", 'n'}, /* its schema does not say that it is an object */
        {OPEN "{\"arguments\"", 'n'},
    };
    CHECK(TOOLS_HERMES, "\"tool_choice\":\"required\"", list);
    CHECK(TOOLS_GENERIC, "\"tool_choice\":\"required\"", list);
    static const struct expectation single[] = {{GET, 'y'}, {GET "\n", 'n'}};
    CHECK(TOOLS_HERMES, "\"tool_choice\":\"required\",\"parallel_tool_calls\":false", single);
    /* As the control tokens that a vocabulary may have. */
    static const struct expectation control[] = {
        {"\xFF<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n\xFF</tool_call>", 'y'}};
    CHECK(TOOLS_HERMES, "\"tool_choice\":\"required\"", control);
}

static void test_named(void **state)
{
    (void)state;
    static const struct expectation list[] = {
        {TIME, 'y'}, {TIME "\n" TIME, 'y'}, {GET, 'n'}, {OPEN "{\"name\": \"get\"", 'n'}, {"x", 'n'}};
    CHECK(TOOLS_HERMES, "\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"get_time\"}}", list);
    static const struct expectation allowed[] = {{GET, 'y'}, {TIME, 'n'}, {"", 'p'}};
    CHECK(TOOLS_HERMES,
          "\"tool_choice\":{\"type\":\"allowed_tools\",\"mode\":\"required\",\"tools\":[{\"type\":"
          "\"function\",\"name\":"
          "\"get\"}]}",
          allowed);
}

static void test_hermes_auto(void **state)
{
    (void)state;
    static const struct expectation list[] = {
        {"", 'y'},
        {"Hello, W\xC3\xB6rld <tool> {\"name\": \"Alice\"} <tool_call", 'y'},
        {"\xFFx", 'n'},
        {"{\"name\": \"get\", \"x\": ", 'y'},
        {GET, 'y'},
        {"So: " GET " and\n" TIME "\n\nDone.", 'y'},
        {"<tool_call>", 'p'},
        {"<tool_call>x", 'n'},
        {OPEN "{\"name\": \"gone\"", 'n'},
        {OPEN "{\"name\": \"get\", \"arguments\": {}}" CLOSE, 'y'}, /* not strict */
        {OPEN "{\"name\": \"get\", \"arguments\": []", 'n'},
        {OPEN "{\"name\": \"go\", \"arguments\": {}", 'n'}, /* strict */
        {OPEN "{\"name\": \"go\", \"arguments\": {\"n\": 1}}" CLOSE "x", 'y'},
    };
    CHECK(TOOLS_HERMES, "\"tool_choice\":\"auto\"", list);
    static const struct expectation single[] = {{"x " GET, 'y'}, {GET "\n", 'n'}, {"x\n", 'y'}};
    CHECK(TOOLS_HERMES, "\"parallel_tool_calls\":false", single);
}

static void test_llama3(void **state)
{
    (void)state;
#define LGET  "{\"name\": \"get\", \"parameters\": {\"city\": \"Oslo\"}}"
#define LTIME "{\"name\": \"get_time\", \"parameters\": {}}"
    static const struct expectation required[] = {
        {LGET, 'y'}, {LGET "; " LTIME, 'y'}, {LGET LTIME, 'n'}, {" " LGET, 'n'}, {"x", 'n'}, {"", 'p'}};
    CHECK(TOOLS_LLAMA3, "\"tool_choice\":\"required\"", required);
    static const struct expectation list[] = {
        {"", 'y'},
        {"Hi {\"name\": \"get\"}", 'y'},
        {LGET, 'y'},
        {LGET "; " LTIME, 'y'},
        {"\xFF<|python_tag|>" LTIME, 'y'},
        {"Well. \xFF<|python_tag|>" LTIME, 'y'},
        {"\xFF<|python_tag|>x", 'n'},
        {"{", 'y'},
        {"{\"name\": \"Alice\"}", 'y'},
        {"{\"name\": \"ge\"}", 'y'},
        {"{\"name\": \"gets\"}", 'y'},
        {"{\"names\": 1}", 'y'},
        {"{\"name\" 1", 'y'},
        {"{\"name\": 1}", 'y'},
        {"{ }", 'y'},
        {"  {\"a\": {}}", 'y'},
        {"{\"name\": \"get\"", 'p'},
        {"{\"name\": \"get\"}", 'n'},
        {"{\"name\": \"get\", \"x\"", 'n'},
        {"  {\n  \"name\" : \"get\", \"parameters\": {\"a\": 1}}", 'y'},
        {"{\"name\": \"get_time\"}", 'n'},
        {"{\"name\": \"get_t\"}", 'y'},
        {"{\"name\": \"go\", \"parameters\": {}", 'n'},
        {"{\"name\": \"\xC3\xA9", 'y'},
        {LGET "\nMore", 'n'},
    };
    CHECK(TOOLS_LLAMA3, "\"tool_choice\":\"auto\"", list);
    static const struct expectation single[] = {{LGET, 'y'}, {LGET ";", 'n'}, {"x; y", 'y'}};
    CHECK(TOOLS_LLAMA3, "\"parallel_tool_calls\":false", single);
}

static void test_mistral(void **state)
{
    (void)state;
#define MGET "{\"name\": \"get\", \"arguments\": {\"city\": \"Oslo\"}}"
    static const struct expectation required[] = {
        {"[TOOL_CALLS][" MGET "]", 'y'}, {"\xFF[TOOL_CALLS] [" MGET ", " MGET "]", 'y'},
        {"[TOOL_CALLS]" MGET, 'n'},      {"[TOOL_CALLS][" MGET, 'p'},
        {"[TOOL_CALLS][]", 'n'},         {"x", 'n'}};
    CHECK(TOOLS_MISTRAL, "\"tool_choice\":\"required\"", required);
    static const struct expectation list[] = {{"", 'y'},
                                              {"[1] [TOOL", 'y'},
                                              {"So. [TOOL_CALLS][" MGET "]", 'y'},
                                              {"[TOOL_CALLS]x", 'n'},
                                              {"[TOOL_CALLS][" MGET "] x", 'n'}};
    CHECK(TOOLS_MISTRAL, "\"tool_choice\":\"auto\"", list);
    static const struct expectation single[] = {{"[TOOL_CALLS][" MGET "]", 'y'},
                                                {"[TOOL_CALLS][" MGET ",", 'n'}};
    CHECK(TOOLS_MISTRAL, "\"parallel_tool_calls\":false", single);
    static const struct expectation args[] = {
        {"\xFF[TOOL_CALLS]get\xFF[ARGS]{\"city\": \"Oslo\"}", 'y'},
        {"[TOOL_CALLS]get[ARGS]{\"city\": \"Oslo\"}[TOOL_CALLS]get_time[CALL_ID]abcDEF123[ARGS]{}", 'y'},
        {"[TOOL_CALLS]get_time[CALL_ID]abc[ARGS]", 'n'},
        {"[TOOL_CALLS]gone", 'n'},
        {"[TOOL_CALLS]get[ARGS]{}", 'n'}};
    CHECK(TOOLS_MISTRAL_ARGS, "\"tool_choice\":\"required\"", args);
}

/* Schemas that cannot be enforced are refused by name of their place, where they would have to be. */
static void test_unsupported(void **state)
{
    (void)state;
    struct grammar *grammar = NULL;
    struct err_info info = {0};
#define BAD(strict)                                                                                          \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\"}},{\"type\":\"function\",\"function\":{" \
    "\"name\":\"f\","                                                                                        \
    "\"strict\":" strict                                                                                     \
    ",\"parameters\":{\"type\":\"object\",\"properties\":{\"x\":{\"$dynamicRef\":\"#a\"}}}}}]"
    enum err err = make(TOOLS_HERMES, BAD("false") ",\"tool_choice\":\"required\"", &grammar, &info);
    assert_int_equal(err, ERR_UNSUPPORTED);
    assert_string_equal(info.param, "tools[1].function.parameters");
    assert_non_null(strstr(info.message, "$dynamicRef"));
    assert_int_equal(make(TOOLS_HERMES, BAD("true"), &grammar, &info), ERR_UNSUPPORTED);
    assert_int_equal(make(TOOLS_HERMES, BAD("false"), &grammar, &info), ERR_OK);
    grammar_release(grammar);
}

static void test_many(void **state)
{
    (void)state;
    static const enum tools_style styles[] = {TOOLS_HERMES, TOOLS_LLAMA3, TOOLS_MISTRAL, TOOLS_MISTRAL_ARGS};
    static const char *const choices[] = {"", ",\"tool_choice\":\"required\""};
    static char body[40000];
    size_t at = (size_t)snprintf(body, sizeof body, "{\"tools\":[");
    for (int i = 0; i < TOOLS_MAX; i++)
        at += (size_t)snprintf(
            body + at, sizeof body - at,
            "%s{\"type\":\"function\",\"function\":{\"name\":\"%03d_%060d\",\"parameters\":{\"type\":"
            "\"object\",\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]}}}",
            i ? "," : "", i, 7);
    for (int i = 0; i < 8; i++) {
        struct json *json;
        struct tools tools;
        struct err_info info = {0};
        struct grammar *grammar = NULL;
        struct arena *arena = arena_create(1 << 20);
        snprintf(body + at, sizeof body - at, "]%s}", choices[i % 2]);
        assert_int_equal(json_parse(body, strlen(body), &json_limits_default, &json, &info), ERR_OK);
        assert_int_equal(tools_parse(json, styles[i / 2], arena, &tools, &info), ERR_OK);
        struct grammar_limits limits = grammar_limits_default;
        limits.max_time_us *= 60; /* sanitizers and busy machines: the sizes are what is tested */
        struct grammar_builder *builder = grammar_builder_create(&limits);
        int root = -1;
        assert_int_equal(tools_grammar(builder, &tools, &root, &info), ERR_OK);
        if (grammar_probe_build(builder, ERR_OK, root, &grammar, &info) != ERR_OK)
            fail_msg("style %d%s: %s", styles[i / 2], choices[i % 2], info.message);
        grammar_release(grammar);
        json_free(json);
        arena_free(arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hermes_required),
        cmocka_unit_test(test_named),
        cmocka_unit_test(test_hermes_auto),
        cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
