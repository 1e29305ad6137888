/* A model's chat template: what is found out about it, what a conversation becomes, what is refused. What
 * templates render is compared with Python's Jinja2 in tests/jinja. */
#include "model/gguf_writer.h"
#include "server/chat.h"
#include "tests/unit/support/tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct tokenizer *tokenizer;

static int set_up(void **state)
{
    (void)state;
    struct tiny_model tiny = tiny_model_default();
    size_t length;
    void *bytes = tiny_model_bytes(&tiny, &length);
    struct gguf *gguf;
    assert_int_equal(gguf_open_memory(bytes, length, &gguf, NULL), ERR_OK);
    assert_int_equal(tokenizer_create(gguf, &tokenizer, NULL), ERR_OK);
    gguf_close(gguf);
    free(bytes);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

/* source NULL: a file without a template. */
static enum err create(const char *source, struct chat_template **out, struct err_info *info)
{
    struct gguf_writer *writer = gguf_writer_create(32);
    if (source) gguf_writer_string(writer, "tokenizer.chat_template", source);
    size_t length = 0;
    void *file = gguf_writer_finish(writer, &length);
    struct gguf *gguf;
    assert_int_equal(gguf_open_memory(file, length, &gguf, info), ERR_OK);
    enum err err = chat_template_create(gguf, tokenizer, NULL, NULL, 0, out, info);
    gguf_close(gguf); /* the template must not need it */
    memset(file, 0xEE, length);
    free(file);
    return err;
}

static struct chat_template *made(const char *source)
{
    struct chat_template *chat = NULL;
    struct err_info info = {0};
    if (create(source, &chat, &info) != ERR_OK) fail_msg("%s", info.message);
    return chat;
}

/* The prompt that a body gives; "ERROR field: message" when it is refused. Freed by the caller. */
static char *prompt(const struct chat_template *chat, const char *body)
{
    struct json *json;
    struct chat_conversation conversation;
    struct jinja_text text;
    struct err_info info = {0};
    struct arena *arena = arena_create(1 << 22);
    assert_int_equal(json_parse(body, strlen(body), &json_limits_default, &json, &info), ERR_OK);
    enum err err = chat_parse_conversation(json, chat, arena, &conversation, &info);
    if (err == ERR_OK) err = chat_render(chat, arena, &conversation, &text, &info);
    char *out;
    if (err == ERR_OK) {
        out = strndup(text.bytes, text.length);
    } else {
        out = malloc(sizeof info + 20);
        sprintf(out, "ERROR %s: %s", info.param, info.message);
    }
    arena_free(arena);
    json_free(json);
    return out;
}

static void assert_prompt(const struct chat_template *chat, const char *body, const char *expected)
{
    char *text = prompt(chat, body);
    assert_string_equal(text, expected);
    free(text);
}

#define USER "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}"

static void test_fallback(void **state)
{
    (void)state;
    struct chat_template *chat = made(NULL);
    assert_true(chat->is_fallback && chat->takes_text && !chat->takes_parts && !chat->knows_developer);
    assert_prompt(chat, USER, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    assert_prompt(chat,
                  "{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                  "{\"type\":\"text\",\"text\":\"b\"}]}],\"add_generation_prompt\":false}",
                  "<|im_start|>system\na\nb<|im_end|>\n");
    chat_template_free(chat);
}

static void test_what_it_takes(void **state)
{
    (void)state;
    struct chat_template *both =
        made("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
             "{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}");
    assert_true(!both->is_fallback && both->takes_text && both->takes_parts);
    struct chat_template *parts =
        made("{% for m in messages %}{% for p in m.content %}[{{ p['text'] }}]{% endfor %}{% endfor %}");
    assert_true(!parts->takes_text && parts->takes_parts);
    assert_prompt(parts, USER, "[Hi]");
    struct chat_template *printed = made("{% for m in messages %}{{ m.content }}{% endfor %}");
    assert_true(printed->takes_text && !printed->takes_parts); /* it would print the list itself */
    struct chat_template *developer = made("{{ messages[0].role }}{# developer #}");
    assert_true(developer->knows_developer);
    assert_prompt(developer, "{\"messages\":[{\"role\":\"developer\",\"content\":\"x\"}]}", "developer");
    chat_template_free(both);
    chat_template_free(parts);
    chat_template_free(printed);
    chat_template_free(developer);
}

static void test_variables(void **state)
{
    (void)state;
    struct chat_template *chat =
        made("{{ bos_token }}|{{ eos_token }}|{{ think }}|{{ reasoning_effort }}|{{ tools }}|"
             "{{ documents[0].t if documents }}|{{ messages[0].reasoning_content }}");
    assert_prompt(chat, USER, "<|im_start|>|<|endoftext|>|||None||");
    assert_prompt(chat,
                  "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"reasoning\":\"r\"}],"
                  "\"chat_template_kwargs\":{\"think\":[1,1.0,true]},\"reasoning_effort\":\"low\","
                  "\"tools\":[],\"documents\":[{\"t\":\"d\"}]}",
                  "<|im_start|>|<|endoftext|>|[1, 1.0, True]|low|None|d|r");
    chat_template_free(chat);
}

static void test_calls(void **state)
{
    (void)state;
    struct chat_template *chat = made("{{ messages[0].tool_calls[0].function.arguments | tojson }}");
#define CALL(arguments)                                                                                      \
    "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"    \
    "\"" arguments "\"}}]}]}"
    assert_prompt(chat, CALL("{\\\"a\\\": [1, 2.0, \\\"\\u00e9\\\"]}"), "{\"a\": [1, 2.0, \"\xC3\xA9\"]}");
    assert_prompt(chat, CALL(""), "{}");
    assert_prompt(
        chat, CALL("[1]"),
        "ERROR messages[0].tool_calls[0].function.arguments: messages[0].tool_calls[0].function.arguments "
        "must be a string with a JSON object in it");
    chat_template_free(chat);
}

static void test_continued(void **state)
{
    (void)state;
    struct chat_template *chat = made("{% for m in messages %}<{{ m.content | trim }}>{% endfor %}");
#define GOES_ON(text)                                                                                        \
    "{\"messages\":[{\"role\":\"assistant\",\"content\":" text "}],\"continue_final_message\":true}"
    assert_prompt(chat, GOES_ON("\" I am \""), "<I am"); /* the template strips, and so does the prompt */
    assert_prompt(chat, GOES_ON("\"\""), "<");
    assert_prompt(chat, GOES_ON("[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]"),
                  "<a\nb");
    chat_template_free(chat);
    chat = made("{{ messages[0].role }}");
    assert_prompt(
        chat, GOES_ON("\"x\""),
        "ERROR continue_final_message: continue_final_message: the chat template does not show the last "
        "message's text");
    chat_template_free(chat);
}

static void test_raised(void **state)
{
    (void)state;
    struct chat_template *chat =
        made("{{ raise_exception('Roles must alternate: ' + messages[0].content) }}");
    assert_prompt(chat, USER, "ERROR messages: Roles must alternate: Hi");
    chat_template_free(chat);
    chat = made("\n\n{{ messages[0].nope.x }}");
    assert_prompt(chat, USER, "ERROR messages: chat template, line 3: 'dict object' has no attribute 'nope'");
    chat_template_free(chat);
}

static void test_refused(void **state)
{
    (void)state;
    struct chat_template *chat = NULL;
    struct err_info info;
    assert_int_equal(create("{{ bos_token }}\n {% include 'x' %}", &chat, &info), ERR_UNSUPPORTED);
    assert_string_equal(info.message,
                        "tokenizer.chat_template: line 2, column 5: the tag 'include' is not supported");
    assert_string_equal(info.param, "tokenizer.chat_template");
    assert_int_equal(create("{{ messages", &chat, &info), ERR_FORMAT);
    assert_int_equal(create("\xff", &chat, &info), ERR_FORMAT);
    assert_null(chat);
}

/* Text of the template and text of the client that look the same are not the same tokens. */
static void test_marks(void **state)
{
    (void)state;
    static const char text[] = "<|im_end|><|im_end|>";
    unsigned char marks[sizeof text - 1] = {0};
    int32_t *tokens = NULL;
    size_t n = 0;
    memset(marks, 1, 10);
    assert_int_equal(tokenizer_encode_marked(tokenizer, text, 20, marks, false, 100, &tokens, &n, NULL),
                     ERR_OK);
    assert_true(n > 2 && tokens[0] == tiny_model_eot());
    for (size_t i = 1; i < n; i++) assert_false(tokenizer_is_special(tokenizer, tokens[i]));
    free(tokens);
    for (size_t hole = 0; hole < 10; hole++) { /* one byte of another origin is enough */
        memset(marks, 1, sizeof marks);
        marks[hole] = 0;
        assert_int_equal(tokenizer_encode_marked(tokenizer, text, 20, marks, false, 100, &tokens, &n, NULL),
                         ERR_OK);
        assert_true(n > 2 && tokens[n - 1] == tiny_model_eot() && tokens[0] != tiny_model_eot());
        free(tokens);
    }
}

/* Tools in words, where a template has no system role, and where it takes parts only; a template that knows
   tools gets them as they are. */
static void test_told_tools(void **state)
{
    (void)state;
#define TOLD                                                                                                 \
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided "      \
    "with function signatures within <tools></tools> XML tags:\n<tools>\n{\"type\": \"function\", "          \
    "\"function\": {\"name\": \"f\"}}\n</tools>\n\nFor each function call, return a json object with "       \
    "function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": "         \
    "<function-name>, \"arguments\": <args-json-object>}\n</tool_call>"
#define F "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"
    static const char body[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":null,"
        "\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}"
        "\"}}]},"
        "{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"7\"}]," F "}";
    struct chat_template *chat =
        made("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
             "{{ m.role }}:{{ m.content }};{% endfor %}");
    assert_false(chat->knows_system);
    assert_prompt(chat, body,
                  "user:" TOLD
                  "\n\nHi;assistant:<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>;"
                  "user:<tool_response>\n7\n</tool_response>;");
    chat_template_free(chat);
    chat = made("{% for m in messages %}{{ m.role }}:{% for p in m.content %}[{{ p.text }}]{% endfor %};{% "
                "endfor %}");
    assert_true(chat->knows_system && chat->takes_parts && !chat->takes_text);
    assert_prompt(
        chat,
        "{\"messages\":[{\"role\":\"system\",\"content\":\"Be.\"},{\"role\":\"user\",\"content\":\"Hi\"}]," F
        "}",
        "system:[Be.][" TOLD "];user:[Hi];");
    assert_prompt(chat, body,
                  "system:[" TOLD "];user:[Hi];assistant:[<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n"
                  "</tool_call>];user:[<tool_response>\n7\n</tool_response>];");
    chat_template_free(chat);
    chat = made("{{ tools | tojson }} {{ messages | length }}{# <tool_call> \"arguments\": #}");
    assert_prompt(chat, body, "[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}] 3");
    chat_template_free(chat);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fallback),   cmocka_unit_test(test_what_it_takes),
        cmocka_unit_test(test_variables),  cmocka_unit_test(test_calls),
        cmocka_unit_test(test_continued),  cmocka_unit_test(test_raised),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_marks),
        cmocka_unit_test(test_told_tools),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
