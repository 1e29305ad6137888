/* What bodies ask of a reply's form: which field asks for what, and what is refused. */
#include "server/constraint_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct json *read_json(const char *text)
{
    struct json_limits limits = json_limits_default;
    struct json *body;
    struct err_info info;
    limits.max_bytes = 1 << 20;
    if (json_parse(text, strlen(text), &limits, &body, &info) != ERR_OK)
        fail_msg("%s: %s", text, info.message);
    return body;
}

static const struct {
    const char *body, *field;
    enum metrics_constraint kind;
} taken[] = {
    {"{}", NULL, 0},
    {"{\"response_format\":null,\"guided_json\":null,\"grammar\":null,\"structured_outputs\":null}", NULL, 0},
    {"{\"response_format\":{\"type\":\"text\"}}", NULL, 0},
    {"{\"grammar\":\"\"}", NULL, 0},
    {"{\"grammar_lazy\":false,\"guided_decoding_backend\":\"xgrammar\"}", NULL, 0},
    {"{\"response_format\":{\"type\":\"json_object\"}}", "response_format", CONSTRAINT_JSON_OBJECT},
    {"{\"response_format\":{\"type\":\"json_object\",\"schema\":{}}}", "response_format.schema",
     CONSTRAINT_JSON_SCHEMA},
    {"{\"response_format\":{\"type\":\"json_schema\",\"schema\":{\"type\":\"null\"}}}",
     "response_format.schema", CONSTRAINT_JSON_SCHEMA},
    {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a-B_9\",\"strict\":true,"
     "\"description\":\"d\",\"schema\":{}}}}",
     "response_format.json_schema.schema", CONSTRAINT_JSON_SCHEMA},
    {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"strict\":null,"
     "\"schema\":{}}}}",
     "response_format.json_schema.schema", CONSTRAINT_JSON_SCHEMA},
    {"{\"guided_json\":{\"type\":\"object\"}}", "guided_json", CONSTRAINT_JSON_SCHEMA},
    {"{\"guided_json\":\" {\\\"type\\\": \\\"object\\\"} \"}", "guided_json", CONSTRAINT_JSON_SCHEMA},
    {"{\"guided_regex\":\"a+\"}", "guided_regex", CONSTRAINT_REGEX},
    {"{\"guided_regex\":\"\"}", "guided_regex", CONSTRAINT_REGEX},
    {"{\"guided_choice\":[\"a\",\"\",\"a\"]}", "guided_choice", CONSTRAINT_CHOICE},
    {"{\"guided_grammar\":\"root ::= [a]\"}", "guided_grammar", CONSTRAINT_GRAMMAR},
    {"{\"grammar\":\"root ::= [a]\",\"response_format\":{\"type\":\"text\"}}", "grammar", CONSTRAINT_GRAMMAR},
    {"{\"json_schema\":{\"enum\":[1]}}", "json_schema", CONSTRAINT_JSON_SCHEMA},
    {"{\"structured_outputs\":{\"json\":{}}}", "structured_outputs.json", CONSTRAINT_JSON_SCHEMA},
    {"{\"structured_outputs\":{\"json\":\"{}\",\"regex\":null}}", "structured_outputs.json",
     CONSTRAINT_JSON_SCHEMA},
    {"{\"structured_outputs\":{\"regex\":\"a\",\"disable_fallback\":true}}", "structured_outputs.regex",
     CONSTRAINT_REGEX},
    {"{\"structured_outputs\":{\"choice\":[\"x\"],\"disable_any_whitespace\":false}}",
     "structured_outputs.choice", CONSTRAINT_CHOICE},
    {"{\"structured_outputs\":{\"grammar\":\"root ::= [a]\"}}", "structured_outputs.grammar",
     CONSTRAINT_GRAMMAR},
    {"{\"structured_outputs\":{\"json_object\":true}}", "structured_outputs.json_object",
     CONSTRAINT_JSON_OBJECT},
};

static void test_taken(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        struct json *body = read_json(taken[i].body);
        struct constraint_ask ask;
        struct err_info info;
        if (constraint_parse(body, &ask, &info) != ERR_OK) fail_msg("%s: %s", taken[i].body, info.message);
        if (taken[i].field == NULL) {
            assert_null(ask.field);
        } else {
            assert_non_null(ask.field);
            assert_string_equal(ask.field, taken[i].field);
            assert_int_equal(ask.kind, taken[i].kind);
            bool text = ask.kind == CONSTRAINT_REGEX || ask.kind == CONSTRAINT_GRAMMAR;
            assert_int_equal(ask.text != NULL, text);
            assert_int_equal(ask.value != NULL, !text && ask.kind != CONSTRAINT_JSON_OBJECT);
        }
        json_free(ask.owned);
        json_free(body);
    }
}

static const struct {
    const char *body, *field, *message; /* a part of it */
} refused[] = {
    {"{\"response_format\":\"text\"}", "response_format", "an object, not a string"},
    {"{\"response_format\":{}}", "response_format.type", "missing"},
    {"{\"response_format\":{\"type\":1}}", "response_format.type", "a string, not a number"},
    {"{\"response_format\":{\"type\":\"xml\"}}", "response_format.type", "'xml'"},
    {"{\"response_format\":{\"type\":\"structural_tag\"}}", "response_format.type", "structural_tag"},
    {"{\"response_format\":{\"type\":\"json_schema\"}}", "response_format.json_schema", "missing"},
    {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":[]}}", "response_format.json_schema",
     "an object, not an array"},
    {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{}}}}",
     "response_format.json_schema.name", "missing"},
    {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a b\",\"schema\":{}}}}",
     "response_format.json_schema.name", "letters"},
    {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"\",\"schema\":{}}}}",
     "response_format.json_schema.name", "letters"},
    {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":"
     "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",\"schema\":{}}}}",
     "response_format.json_schema.name", "64"},
    {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\"}}}",
     "response_format.json_schema.schema", "missing"},
    {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":\"{}\"}}}",
     "response_format.json_schema.schema", "an object, not a string"},
    {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":{},"
     "\"strict\":1}}}",
     "response_format.json_schema.strict", "a boolean"},
    {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":{},"
     "\"description\":1}}}",
     "response_format.json_schema.description", "a string"},
    {"{\"guided_json\":[]}", "guided_json", "an object, not an array"},
    {"{\"guided_json\":true}", "guided_json", "an object, not a boolean"},
    {"{\"guided_json\":\"[1]\"}", "guided_json", "an object, not an array"},
    {"{\"guided_json\":\"{\\\"type\\\":}\"}", "guided_json", "not JSON"},
    {"{\"guided_json\":\"{\\\"a\\\":1,\\\"a\\\":2}\"}", "guided_json", "not JSON"},
    {"{\"guided_regex\":1}", "guided_regex", "a string, not a number"},
    {"{\"guided_choice\":\"a\"}", "guided_choice", "an array of strings, not a string"},
    {"{\"guided_choice\":[]}", "guided_choice", "empty"},
    {"{\"guided_choice\":[\"a\",1]}", "guided_choice", "guided_choice[1]"},
    {"{\"guided_grammar\":{}}", "guided_grammar", "a string, not an object"},
    {"{\"grammar\":[]}", "grammar", "a string, not an array"},
    {"{\"json_schema\":\"{}\"}", "json_schema", "an object, not a string"},
    {"{\"structured_outputs\":[]}", "structured_outputs", "an object"},
    {"{\"structured_outputs\":{}}", "structured_outputs", "one of"},
    {"{\"structured_outputs\":{\"json_object\":false}}", "structured_outputs", "one of"},
    {"{\"structured_outputs\":{\"json_object\":1}}", "structured_outputs.json_object", "a boolean"},
    {"{\"structured_outputs\":{\"json\":{},\"regex\":\"a\"}}", "structured_outputs.regex",
     "structured_outputs.json and structured_outputs.regex"},
    {"{\"structured_outputs\":{\"structural_tag\":\"x\"}}", "structured_outputs.structural_tag",
     "not supported"},
    {"{\"structured_outputs\":{\"json\":{},\"whitespace_pattern\":\" \"}}",
     "structured_outputs.whitespace_pattern", "not supported"},
    {"{\"structured_outputs\":{\"json\":{},\"disable_any_whitespace\":true}}",
     "structured_outputs.disable_any_whitespace", "not supported"},
    {"{\"structured_outputs\":{\"json\":{},\"disable_additional_properties\":true}}",
     "structured_outputs.disable_additional_properties", "not supported"},
    {"{\"guided_options\":{}}", "guided_options", "not supported"},
    {"{\"guided_whitespace_pattern\":\" \"}", "guided_whitespace_pattern", "not supported"},
    {"{\"grammar\":\"root ::= [a]\",\"grammar_lazy\":true}", "grammar_lazy", "not supported"},
    {"{\"grammar\":\"root ::= [a]\",\"grammar_triggers\":[]}", "grammar_triggers", "not supported"},
    {"{\"grammar\":\"root ::= [a]\",\"json_schema\":{}}", "grammar", "json_schema and grammar"},
    {"{\"guided_json\":\"{}\",\"guided_choice\":[\"a\"]}", "guided_choice", "guided_json and guided_choice"},
    {"{\"guided_json\":\"{}\",\"response_format\":{\"type\":\"json_object\"}}", "guided_json",
     "response_format and guided_json"},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        struct json *body = read_json(refused[i].body);
        struct constraint_ask ask;
        struct err_info info;
        enum err err = constraint_parse(body, &ask, &info);
        if (err != ERR_INVALID && err != ERR_UNSUPPORTED) fail_msg("%s: taken", refused[i].body);
        assert_int_equal(err, info.code);
        assert_string_equal(info.param, refused[i].field);
        if (strstr(info.message, refused[i].message) == NULL)
            fail_msg("%s: %s", refused[i].body, info.message);
        json_free(body);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_taken), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
