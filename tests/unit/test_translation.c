/* Bodies of /v1/messages and /v1/responses become bodies of chats; faults name the client's own fields. */
#include "config/buf.h"
#include "server/messages.h"
#include "server/responses.h"
#include "server/translation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum protocol { MESSAGES, RESPONSES };

static struct json *parse(const char *text)
{
    struct json *tree;
    struct json_limits limits = json_limits_default;
    limits.max_bytes = 1 << 20;
    assert_int_equal(json_parse(text, strlen(text), &limits, &tree, NULL), ERR_OK);
    return tree;
}

static enum err translate(enum protocol protocol, const struct json *body, struct json **chat,
                          struct err_info *info)
{
    return protocol == MESSAGES ? messages_translate(body, false, chat, info)
                                : responses_translate(body, chat, info);
}

static void check(enum protocol protocol, const char *text, const char *expected)
{
    struct json *body = parse(text), *chat = NULL;
    struct err_info info = {0};
    struct buf out;
    buf_init(&out, 1 << 20);
    if (translate(protocol, body, &chat, &info) != ERR_OK) fail_msg("%s: %s", info.param, info.message);
    json_write_tree(&out, chat);
    assert_string_equal(out.data, expected);
    buf_free(&out);
    json_free(chat);
    json_free(body);
}

static void check_fault(enum protocol protocol, const char *text, const char *param)
{
    struct json *body = parse(text), *chat = NULL;
    struct err_info info = {0};
    assert_int_equal(translate(protocol, body, &chat, &info), ERR_INVALID);
    assert_null(chat);
    assert_string_equal(info.param, param);
    assert_int_equal(strncmp(info.message, param, strlen(param)), 0);
    json_free(body);
}

#define HELLO "{\"role\":\"user\",\"content\":\"Hi\"}"

static void test_messages(void **state)
{
    (void)state;
    check(MESSAGES, "{\"max_tokens\":5,\"messages\":[" HELLO "],\"system\":\"Be brief.\"}",
          "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"}," HELLO "],\"max_tokens\":5}");
    check(MESSAGES,
          "{\"max_tokens\":5,\"model\":\"m\",\"stream\":true,\"temperature\":1.0,\"top_k\":3,\"stop_"
          "sequences\":"
          "[\"a\"],\"metadata\":{\"user_id\":\"u\"},\"thinking\":{\"type\":\"disabled\"},\"messages\":[" HELLO
          "],\"stop\":\"not ours\",\"unknown\":1}",
          "{\"messages\":[" HELLO "],\"stop\":[\"a\"],\"user\":\"u\",\"chat_template_kwargs\":{"
          "\"enable_thinking\":false},\"max_tokens\":5,\"model\":\"m\",\"stream\":true,\"temperature\":1.0,"
          "\"top_k\":3}");
    check(MESSAGES,
          "{\"max_tokens\":5,\"messages\":[" HELLO
          ",{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"I \\\"am\\u0007\"}]}]}",
          "{\"messages\":[" HELLO ",{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":"
          "\"I \\\"am\\u0007\"}]}],\"continue_final_message\":true,\"max_tokens\":5}");
    check(
        MESSAGES,
        "{\"max_tokens\":5,\"messages\":[" HELLO
        ",{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\","
        "\"id\":\"a\",\"name\":\"f\",\"input\":{\"x\":[1,1.0,null,true]}},{\"type\":\"text\",\"text\":\"t\"},"
        "{\"type\":\"tool_use\",\"id\":\"b\",\"name\":\"g\",\"input\":{}}]},{\"role\":\"user\",\"content\":["
        "{\"type\":\"tool_result\",\"tool_use_id\":\"a\",\"content\":\"r\"},{\"type\":\"tool_result\","
        "\"tool_use_id\":\"b\"},{\"type\":\"text\",\"text\":\"So?\"},{\"type\":\"text\",\"text\":\"Now?\"}]}]"
        "}",
        "{\"messages\":[" HELLO ",{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"t\"}],"
        "\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
        "{\"x\":[1,1.0,null,true]}}},{\"id\":\"b\",\"type\":\"function\",\"function\":{\"name\":\"g\","
        "\"arguments\":{}}}]},{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":\"r\"},"
        "{\"role\":\"tool\",\"tool_call_id\":\"b\",\"content\":\"\"},{\"role\":\"user\",\"content\":["
        "{\"type\":\"text\",\"text\":\"So?\"},{\"type\":\"text\",\"text\":\"Now?\"}]}],\"max_tokens\":5}");
}

#define TOOL "{\"name\":\"f\",\"description\":\"d\",\"input_schema\":{\"type\":\"object\"}}"
#define CHAT_TOOL                                                                                            \
    "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":"    \
    "\"object\"}}}"

static void check_choice(const char *choice, const char *expected)
{
    char body[700], chat[700];
    snprintf(body, sizeof body,
             "{\"max_tokens\":5,\"messages\":[" HELLO "],\"tools\":[" TOOL "],\"tool_choice\":%s}", choice);
    snprintf(chat, sizeof chat, "{\"messages\":[" HELLO "],\"tools\":[" CHAT_TOOL "],%s,\"max_tokens\":5}",
             expected);
    check(MESSAGES, body, chat);
}

static void test_messages_tools(void **state)
{
    (void)state;
    check_choice("{\"type\":\"auto\"}", "\"tool_choice\":\"auto\"");
    check_choice("{\"type\":\"any\"}", "\"tool_choice\":\"required\"");
    check_choice("{\"type\":\"none\"}", "\"tool_choice\":\"none\"");
    check_choice("{\"type\":\"tool\",\"name\":\"f\",\"disable_parallel_tool_use\":true}",
                 "\"parallel_tool_calls\":false,\"tool_choice\":{\"type\":\"function\",\"function\":{"
                 "\"name\":\"f\"}}");
    check(MESSAGES,
          "{\"max_tokens\":5,\"messages\":[" HELLO
          "],\"output_config\":{\"effort\":\"low\",\"format\":{\"type\":"
          "\"json_schema\",\"schema\":{\"type\":\"string\"}}}}",
          "{\"messages\":[" HELLO
          "],\"reasoning_effort\":\"low\",\"response_format\":{\"type\":\"json_schema\","
          "\"json_schema\":{\"name\":\"output\",\"schema\":{\"type\":\"string\"},\"strict\":true}},"
          "\"max_tokens\":5}");
}

static void test_responses(void **state)
{
    (void)state;
    check(RESPONSES,
          "{\"input\":\"Hi\",\"instructions\":\"Be brief.\",\"max_output_tokens\":5,\"store\":true}",
          "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"}," HELLO "],\"max_tokens\":5}");
    check(
        RESPONSES,
        "{\"input\":[{\"type\":\"function_call\",\"call_id\":\"z\",\"name\":\"f\",\"arguments\":\"\"},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"Hi\"}]},{\"type\":\"message\","
        "\"role\":\"assistant\",\"id\":\"msg_1\",\"content\":[{\"type\":\"output_text\",\"text\":\"t\","
        "\"annotations\":[]}]},{\"type\":\"function_call\",\"id\":\"fc_1\",\"call_id\":\"a\",\"name\":\"f\","
        "\"arguments\":\"{\\\"x\\\":1}\"},{\"type\":\"function_call\",\"call_id\":\"b\",\"name\":\"g\","
        "\"arguments\":\"{}\"},{\"type\":\"function_call_output\",\"call_id\":\"a\",\"output\":\"r\"},"
        "{\"type\":\"function_call_output\",\"call_id\":\"b\",\"output\":[{\"type\":\"input_text\",\"text\":"
        "\"s\"}]}]}",
        "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"z\",\"type\":"
        "\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]},{\"role\":\"user\",\"content\":["
        "{\"type\":\"text\",\"text\":\"Hi\"}]},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\","
        "\"text\":\"t\"}],\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\","
        "\"arguments\":\"{\\\"x\\\":1}\"}},{\"id\":\"b\",\"type\":\"function\",\"function\":{\"name\":\"g\","
        "\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":\"r\"},{\"role\":"
        "\"tool\",\"tool_call_id\":\"b\",\"content\":[{\"type\":\"text\",\"text\":\"s\"}]}]}");
    check(
        RESPONSES,
        "{\"input\":\"Hi\",\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"description\":\"d\","
        "\"parameters\":{\"type\":\"object\"},\"strict\":null}],\"tool_choice\":{\"type\":\"function\","
        "\"name\":"
        "\"f\"},\"parallel_tool_calls\":false,\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"n\","
        "\"schema\":{},\"strict\":true}},\"reasoning\":{\"effort\":\"high\"}}",
        "{\"messages\":[" HELLO "],\"tools\":[" CHAT_TOOL
        "],\"tool_choice\":{\"type\":\"function\",\"function\":{"
        "\"name\":\"f\"}},\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\","
        "\"schema\":{},\"strict\":true}},\"reasoning_effort\":\"high\",\"parallel_tool_calls\":false}");
    check(RESPONSES,
          "{\"input\":\"Hi\",\"text\":{\"format\":{\"type\":\"json_object\"}},\"tool_choice\":\"auto\"}",
          "{\"messages\":[" HELLO
          "],\"tool_choice\":\"auto\",\"response_format\":{\"type\":\"json_object\"}}");
}

static void test_faults(void **state)
{
    (void)state;
    check_fault(MESSAGES, "{\"messages\":[" HELLO "]}", "max_tokens");
    check_fault(MESSAGES,
                "{\"max_tokens\":1,\"messages\":[" HELLO ",{\"role\":\"user\",\"content\":[{\"type\":"
                "\"tool_result\",\"tool_use_id\":\"a\",\"content\":[{\"type\":\"text\",\"text\":\"x\"},"
                "{\"type\":\"image\"}]}]}]}",
                "messages[1].content[0].content[1].type");
    check_fault(MESSAGES,
                "{\"max_tokens\":1,\"messages\":[" HELLO "],\"tool_choice\":{\"type\":\"auto\","
                "\"disable_parallel_tool_use\":1}}",
                "tool_choice.disable_parallel_tool_use");
    check_fault(MESSAGES,
                "{\"max_tokens\":1,\"messages\":[" HELLO ",{\"role\":\"assistant\",\"content\":[{\"type\":"
                "\"tool_use\",\"id\":\"a\",\"name\":\"f\",\"input\":{}},{\"type\":\"image\"}]}]}",
                "messages[1].content[1].type");
    check_fault(RESPONSES,
                "{\"input\":[" HELLO ",{\"type\":\"function_call\",\"call_id\":\"a\",\"name\":\"f\","
                "\"arguments\":\"[1]\"}]}",
                "input[1].arguments");
    check_fault(RESPONSES, "{\"input\":[{\"role\":\"assistant\",\"content\":\"x\"},7]}", "input[1]");
    check_fault(RESPONSES, "{\"input\":\"Hi\",\"previous_response_id\":\"resp_1\"}", "previous_response_id");
}

/* Names longer than the room for them are cut, and nothing is written beyond. */
static void test_long_names(void **state)
{
    (void)state;
    char body[4000] = "{\"max_tokens\":1,\"messages\":[";
    for (int i = 0; i < 120; i++) strcat(body, HELLO ",");
    strcat(body,
           "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"a\",\"content\":["
           "{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"text\",\"text\":5}]}]}]}");
    check_fault(MESSAGES, body, "messages[120].content[0].content[1].text");
}

static void check_rename(enum protocol protocol, const char *param, const char *message,
                         const char *new_param, const char *new_message)
{
    struct err_info info = {0};
    snprintf(info.param, sizeof info.param, "%s", param);
    snprintf(info.message, sizeof info.message, "%s", message);
    if (protocol == MESSAGES)
        messages_rename(&info);
    else
        responses_rename(&info);
    assert_string_equal(info.param, new_param);
    assert_string_equal(info.message, new_message);
}

static void test_rename(void **state)
{
    (void)state;
    check_rename(MESSAGES, "stop", "stop must hold strings", "stop_sequences",
                 "stop_sequences must hold strings");
    check_rename(MESSAGES, "stop", "a stop string must not be empty", "stop_sequences",
                 "a stop string must not be empty");
    check_rename(MESSAGES, "stop_token_ids", "stop_token_ids must be", "stop_token_ids",
                 "stop_token_ids must be");
    check_rename(MESSAGES, "tools[3].function.parameters", "tools[3].function.parameters: no",
                 "tools[3].input_schema", "tools[3].input_schema: no");
    check_rename(MESSAGES, "tools[3].function.name", "tools[3].function.name is", "tools[3].name",
                 "tools[3].name is");
    check_rename(MESSAGES, "messages[7].content", "messages[7].content is", "messages",
                 "messages[7].content is");
    check_rename(RESPONSES, "max_tokens", "the prompt has 5 tokens and max_tokens is 9, together 14",
                 "max_output_tokens", "the prompt has 5 tokens and max_output_tokens is 9, together 14");
    check_rename(RESPONSES, "response_format.json_schema.schema", "response_format.json_schema.schema: bad",
                 "text.format.schema", "text.format.schema: bad");
    check_rename(RESPONSES, "response_format", "response_format is", "text.format", "text.format is");
    check_rename(RESPONSES, "messages", "messages are larger", "input", "input are larger");
    check_rename(RESPONSES, "temperature", "temperature must", "temperature", "temperature must");
    check_rename(RESPONSES, "", "JSON: broken", "", "JSON: broken");
    struct err_info info = {0};
    memset(info.message, 'x', sizeof info.message - 1);
    memcpy(info.message, "max_tokens ", 11);
    strcpy(info.param, "max_tokens");
    responses_rename(&info);
    assert_int_equal(strlen(info.message), sizeof info.message - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),   cmocka_unit_test(test_messages_tools),
        cmocka_unit_test(test_responses),  cmocka_unit_test(test_faults),
        cmocka_unit_test(test_long_names), cmocka_unit_test(test_rename),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
