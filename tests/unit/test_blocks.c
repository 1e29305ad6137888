/* Replies of /v1/messages and /v1/responses: text and calls as blocks, the same however the text is cut; the
 * events of a stream add up to the whole reply. */
#include "server/blocks.h"
#include "server/messages.h"
#include "server/responses.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char tool_name[] = "get_weather";

/* One reply without a server: pieces go in, bytes come out. */
struct rig {
    struct arena *arena;
    struct request request;
    struct choice source;
    struct courier_choice choice;
    struct courier_reply reply;
    struct api_stop stop;
    struct tool tool;
    struct tools tools;
    struct tools_parser *parser;
    struct responses_state state; /* begins with a struct blocks */
    struct buf out;
};

static void begin(struct rig *rig, const struct courier_format *format, const struct blocks_format *blocks,
                  bool stream)
{
    memset(rig, 0, sizeof *rig);
    rig->arena = arena_create(1 << 22);
    strcpy(rig->request.id, format == &messages_format ? "msg_0123" : "resp_0123");
    rig->request.n_choices = 1;
    rig->request.choices = &rig->source;
    rig->source.n_prompt = 10;
    rig->source.n_cached = 4;
    rig->tool = (struct tool){.name = tool_name};
    rig->tools = (struct tools){.style = TOOLS_HERMES, .parallel = true, .n = 1, .list = &rig->tool};
    rig->parser = tools_parser_create(&rig->tools, rig->request.id, rig->arena);
    assert_non_null(rig->parser);
    rig->state = (struct responses_state){
        .blocks = {.common = {.model = "tiny", .n = 1, .n_logprobs = -1}, .format = blocks}, .echo = ""};
    rig->state.blocks.common.parsers = &rig->parser;
    rig->reply = (struct courier_reply){.request = &rig->request,
                                        .format = format,
                                        .stream = stream,
                                        .stop = &rig->stop,
                                        .state = &rig->state,
                                        .choices = &rig->choice};
    rig->choice.reply = &rig->reply;
    rig->choice.choice = &rig->source;
    buf_init(&rig->choice.text, 1 << 20);
    for (int i = 0; i < 4; i++) buf_init(&rig->choice.lists[i], 1 << 20);
    buf_init(&rig->out, 1 << 20);
}

static void give(struct rig *rig, const char *text, size_t length, bool first, const char *finish)
{
    rig->choice.finish = finish;
    rig->choice.n_read++;
    struct courier_piece piece = {
        .choice = &rig->choice, .text = text, .length = length, .first = first, .last = finish != NULL};
    rig->reply.format->piece(&piece, rig->reply.stream ? &rig->out : NULL);
}

static void end(struct rig *rig)
{
    buf_free(&rig->choice.text);
    for (int i = 0; i < 4; i++) buf_free(&rig->choice.lists[i]);
    buf_free(&rig->out);
    arena_free(rig->arena);
}

/* The whole text, in pieces of at most `most` bytes. */
static void run(struct rig *rig, const char *text, size_t most, const char *finish)
{
    size_t length = strlen(text), at = 0;
    do {
        size_t n = length - at < most ? length - at : 1 + (size_t)rand() % most;
        bool last = at + n == length;
        give(rig, text + at, n, at == 0, last ? finish : NULL);
        at += n;
    } while (at < length);
    rig->reply.format->end(&rig->reply, &rig->out);
    assert_false(rig->out.failed);
}

static struct json *parse(const char *text, size_t length)
{
    struct json *tree;
    struct json_limits limits = json_limits_default;
    limits.max_bytes = length;
    assert_int_equal(json_parse(text, length, &limits, &tree, NULL), ERR_OK);
    return tree;
}

static const char *string_at(const struct json *object, const char *name)
{
    const struct json *value = json_get(object, name);
    assert_non_null(value);
    return json_string(value, NULL);
}

/* Whole replies: "text(...) call(name, arguments) ... reason". */
static void tell_message(const struct json *message, char *out)
{
    for (const struct json *block = json_first(json_get(message, "content")); block;
         block = json_next(block)) {
        struct buf input;
        buf_init(&input, 1 << 16);
        if (strcmp(string_at(block, "type"), "text") == 0)
            out += sprintf(out, "text(%s) ", string_at(block, "text"));
        else {
            json_write_tree(&input, json_get(block, "input"));
            out += sprintf(out, "call(%s, %s) ", string_at(block, "name"), input.data);
        }
        buf_free(&input);
    }
    sprintf(out, "%s", string_at(message, "stop_reason"));
}

static void tell_response(const struct json *response, char *out)
{
    for (const struct json *item = json_first(json_get(response, "output")); item; item = json_next(item)) {
        const char *status = string_at(item, "status");
        if (strcmp(string_at(item, "type"), "message") == 0)
            out += sprintf(out, "text(%s) ", string_at(json_at(json_get(item, "content"), 0), "text"));
        else
            out += sprintf(out, "call(%s, %s) ", string_at(item, "name"), string_at(item, "arguments"));
        if (strcmp(status, "completed") != 0) out += sprintf(out, "%s ", status);
    }
    sprintf(out, "%s", string_at(response, "status"));
}

/* A stream of messages, put together again as a message would be told. */
static void add_message_event(const struct json *data, char **out)
{
    const char *type = string_at(data, "type");
    if (strcmp(type, "content_block_start") == 0) {
        const struct json *block = json_get(data, "content_block");
        if (strcmp(string_at(block, "type"), "text") == 0)
            *out += sprintf(*out, "text(");
        else
            *out += sprintf(*out, "call(%s, ", string_at(block, "name"));
    } else if (strcmp(type, "content_block_delta") == 0) {
        const struct json *delta = json_get(data, "delta");
        bool text = strcmp(string_at(delta, "type"), "text_delta") == 0;
        *out += sprintf(*out, "%s", string_at(delta, text ? "text" : "partial_json"));
    } else if (strcmp(type, "content_block_stop") == 0) {
        *out += sprintf(*out, ") ");
    } else if (strcmp(type, "message_delta") == 0) {
        *out += sprintf(*out, "%s", string_at(json_get(data, "delta"), "stop_reason"));
    }
}

/* Reads a stream; every event has its name and its type alike. *last: the last event's tree, for the caller.
 */
static void read_stream(const struct rig *rig, char *told, struct json **last)
{
    int n = 0;
    *last = NULL;
    for (const char *at = rig->out.data; *at; n++) {
        char name[80];
        int used = 0;
        assert_int_equal(sscanf(at, "event: %79s\ndata: %n", name, &used), 1);
        const char *data = at + used, *stop = strstr(data, "\n\n");
        assert_non_null(stop);
        json_free(*last);
        *last = parse(data, (size_t)(stop - data));
        assert_string_equal(string_at(*last, "type"), name);
        if (rig->reply.format == &messages_format)
            add_message_event(*last, &told);
        else
            assert_int_equal(json_int64(json_get(*last, "sequence_number")), n);
        at = stop + 2;
    }
}

#define CALL(city)                                                                                           \
    "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":\"" city "\"}}\n</tool_call>"

static const struct {
    const char *text, *finish, *message, *response;
} cases[] = {
    {"Hello", "stop", "text(Hello) end_turn", "text(Hello) completed"},
    {"Hello", "length", "text(Hello) max_tokens", "text(Hello) incomplete incomplete"},
    {"", "stop", "end_turn", "text() completed"},
    {CALL("Rome"), "stop", "call(get_weather, {\"city\":\"Rome\"}) tool_use",
     "call(get_weather, {\"city\":\"Rome\"}) completed"},
    {"Let me see.\n" CALL("Rome") "\n" CALL("Paris"), "stop",
     "text(Let me see.) call(get_weather, {\"city\":\"Rome\"}) call(get_weather, {\"city\":\"Paris\"}) "
     "tool_use",
     "text(Let me see.) call(get_weather, {\"city\":\"Rome\"}) call(get_weather, {\"city\":\"Paris\"}) "
     "completed"},
    {CALL("Rome") " and then", "length", "call(get_weather, {\"city\":\"Rome\"}) text( and then) max_tokens",
     "call(get_weather, {\"city\":\"Rome\"}) text( and then) incomplete incomplete"},
    {"a <tool_call> that is none", "stop", "text(a <tool_call> that is none) end_turn",
     "text(a <tool_call> that is none) completed"},
    {"\xC3\xA9 \"quoted\" \\ \xF0\x9F\x98\x80\n", "stop",
     "text(\xC3\xA9 \"quoted\" \\ \xF0\x9F\x98\x80\n) end_turn",
     "text(\xC3\xA9 \"quoted\" \\ \xF0\x9F\x98\x80\n) completed"},
};

static void check_message(size_t i, bool stream, size_t most)
{
    struct rig rig;
    char told[1000] = "";
    begin(&rig, &messages_format, &messages_blocks, stream);
    run(&rig, cases[i].text, most, cases[i].finish);
    struct json *tree;
    if (stream)
        read_stream(&rig, told, &tree);
    else
        tell_message(tree = parse(rig.out.data, rig.out.length), told);
    assert_string_equal(told, cases[i].message);
    json_free(tree);
    end(&rig);
}

static void check_response(size_t i, bool stream, size_t most)
{
    struct rig rig;
    char told[1000] = "";
    begin(&rig, &responses_format, &responses_blocks, stream);
    run(&rig, cases[i].text, most, cases[i].finish);
    struct json *tree;
    if (stream)
        read_stream(&rig, told, &tree);
    else
        tree = parse(rig.out.data, rig.out.length);
    tell_response(stream ? json_get(tree, "response") : tree, told);
    assert_string_equal(told, cases[i].response);
    json_free(tree);
    end(&rig);
}

static void test_cases(void **state)
{
    (void)state;
    srand(5);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int round = 0; round < 40; round++) {
            /* Pieces are whole characters; only the last case has some of more than one byte. */
            bool ascii = i + 1 < sizeof cases / sizeof cases[0];
            size_t most = ascii ? 1 + (size_t)round % 9 : 1000;
            for (int stream = 0; stream < 2; stream++) {
                check_message(i, stream, most);
                check_response(i, stream, most);
            }
        }
}

/* A call that there was no room to end: told as far as it came when it is constrained. */
static void test_cut_call(void **state)
{
    (void)state;
    for (int message = 0; message < 2; message++) {
        struct rig rig;
        char told[1000] = "";
        begin(&rig, message ? &messages_format : &responses_format,
              message ? &messages_blocks : &responses_blocks, false);
        rig.tools.constrained = true;
        rig.parser = tools_parser_create(&rig.tools, "x", rig.arena);
        run(&rig, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":\"Ro", 3, "length");
        struct json *tree = parse(rig.out.data, rig.out.length);
        if (message)
            tell_message(tree, told);
        else
            tell_response(tree, told);
        assert_string_equal(told, message ? "call(get_weather, {}) max_tokens"
                                          : "call(get_weather, {\"city\":\"Ro) incomplete incomplete");
        json_free(tree);
        end(&rig);
    }
}

static void test_stop_sequence(void **state)
{
    (void)state;
    struct rig rig;
    size_t at;
    begin(&rig, &messages_format, &messages_blocks, false);
    assert_int_equal(api_stop_add(&rig.stop, rig.arena, "never", 5, NULL), ERR_OK);
    assert_int_equal(api_stop_add(&rig.stop, rig.arena, "\"op", 3, NULL), ERR_OK);
    assert_int_equal(api_stop_add(&rig.stop, rig.arena, "st\"op", 5, NULL), ERR_OK);
    assert_int_equal(api_stop_feed(&rig.stop, &rig.choice.scan, "a st\"op", 7, &at), 5);
    rig.choice.cut = true;
    run(&rig, "a ", 2, "stop");
    assert_non_null(strstr(rig.out.data, "\"stop_reason\":\"stop_sequence\",\"stop_sequence\":\"st\\\"op\""));
    assert_non_null(strstr(rig.out.data, "\"usage\":{\"input_tokens\":6,\"cache_creation_input_tokens\":0,"
                                         "\"cache_read_input_tokens\":4,\"output_tokens\":1}"));
    end(&rig);
}

/* What a client reads when the server gives up in the middle. */
static void test_failures(void **state)
{
    (void)state;
    struct courier_fault fault = {503, "the server is stopping", "", NULL};
    struct rig rig;
    begin(&rig, &messages_format, &messages_blocks, true);
    give(&rig, "Hello", 5, true, NULL);
    buf_clear(&rig.out);
    (messages_format.fail)(&rig.reply, &fault, &rig.out);
    assert_string_equal(rig.out.data,
                        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\","
                        "\"message\":\"the server is stopping\"}}\n\n");
    end(&rig);
    begin(&rig, &responses_format, &responses_blocks, true);
    give(&rig, "Hello", 5, true, NULL);
    (responses_format.fail)(&rig.reply, &fault, &rig.out);
    struct json *last;
    read_stream(&rig, NULL, &last);
    assert_string_equal(string_at(last, "type"), "response.failed");
    const struct json *response = json_get(last, "response");
    assert_string_equal(string_at(response, "status"), "failed");
    assert_string_equal(string_at(json_get(response, "error"), "message"), fault.message);
    json_free(last);
    end(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_cut_call),
        cmocka_unit_test(test_stop_sequence),
        cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
