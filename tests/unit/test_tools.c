/* Tools: what a request may say of them, how styles are recognised, how they are told to models whose
 * template knows none, and the way from a reply's text to calls: the same however the text is cut, and
 * nothing lost that is not a call. */
#include "config/buf.h"
#include "server/chat.h"
#include "server/tools.h"
#include "server/tools_scan.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WEATHER "{\"type\":\"function\",\"function\":{\"name\":\"get_weather\"}}"
#define TIME    "{\"type\":\"function\",\"function\":{\"name\":\"time\"}}"

/* --- What a request may say --- */

/* "n choice named parallel names" of a body, or "field: message". */
static char *parsed(const char *text, char out[700])
{
    static const char *const choices[] = {"auto", "none", "required", "named"};
    struct json *body;
    struct err_info info = {0};
    struct tools tools;
    struct arena *arena = arena_create(1 << 20);
    assert_int_equal(json_parse(text, strlen(text), &json_limits_default, &body, &info), ERR_OK);
    enum err err = tools_parse(body, TOOLS_HERMES, arena, &tools, &info);
    if (err != ERR_OK) {
        assert_int_equal(err, ERR_INVALID);
        snprintf(out, 700, "%s: %s", info.param, info.message);
    } else {
        int at = snprintf(out, 700, "%d %s %s%s", tools.n, choices[tools.choice],
                          tools.named ? tools.named : "-", tools.parallel ? " parallel" : "");
        for (int i = 0; i < tools.n; i++)
            at += snprintf(out + at, 700 - (size_t)at, " %s%s%s", tools.list[i].name,
                           tools.list[i].strict ? "!" : "", tools.list[i].parameters ? "{}" : "");
    }
    arena_free(arena);
    json_free(body);
    return out;
}

static void check_parsed(const char *body, const char *expected)
{
    char out[700];
    assert_string_equal(parsed(body, out), expected);
}

static void test_parse(void **state)
{
    (void)state;
    check_parsed("{}", "0 auto - parallel");
    check_parsed("{\"tools\":[],\"tool_choice\":\"none\"}", "0 none - parallel");
    check_parsed("{\"tools\":null,\"tool_choice\":null,\"parallel_tool_calls\":null}", "0 auto - parallel");
    check_parsed("{\"tools\":[" WEATHER "," TIME "],\"parallel_tool_calls\":false}",
                 "2 auto - get_weather time");
    check_parsed("{\"tools\":[" WEATHER "],\"tool_choice\":\"required\"}",
                 "1 required - parallel get_weather");
    check_parsed("{\"tools\":[" WEATHER "," TIME "],\"tool_choice\":{\"type\":\"function\",\"function\":{"
                 "\"name\":\"time\"}}}",
                 "2 named time parallel get_weather time");
    check_parsed("{\"tools\":[" TIME "],\"tool_choice\":{\"type\":\"function\",\"name\":\"time\"}}",
                 "1 named time parallel time");
    check_parsed("{\"tools\":[" WEATHER "," TIME
                 "],\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":"
                 "{\"mode\":\"required\",\"tools\":[" TIME "]}}}",
                 "1 required - parallel time");
    check_parsed("{\"tools\":[" WEATHER "," TIME
                 "],\"tool_choice\":{\"type\":\"allowed_tools\",\"mode\":\"auto\","
                 "\"tools\":[{\"type\":\"function\",\"name\":\"get_weather\"}]}}",
                 "1 auto - parallel get_weather");
    check_parsed(
        "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":true,\"description\":"
        "\"d\",\"parameters\":{\"type\":\"object\"}}},{\"type\":\"function\",\"function\":{\"name\":\"g\","
        "\"parameters\":{},\"strict\":null}}]}",
        "2 auto - parallel f!{} g");
}

static void test_parse_faults(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"tools\":{}}", "tools: tools must be an array of tools, not an object"},
        {"{\"tools\":[1]}", "tools[0]: tools[0] must be an object, not a number"},
        {"{\"tools\":[{}]}", "tools[0].type: tools[0].type is missing"},
        {"{\"tools\":[{\"type\":\"custom\"}]}",
         "tools[0].type: tools[0].type is 'custom'; only tools of type 'function' are supported"},
        {"{\"tools\":[{\"type\":\"function\"}]}", "tools[0].function: tools[0].function is missing"},
        {"{\"tools\":[{\"type\":\"function\",\"function\":{}}]}",
         "tools[0].function.name: tools[0].function.name is missing"},
        {"{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":3}}]}",
         "tools[0].function.name: tools[0].function.name must be a string, not a number"},
        {"{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]}",
         "tools[0].function.name: tools[0].function.name is 'a b'; it must be 1 to 64 of the characters a-z, "
         "A-Z, "
         "0-9, _ and -"},
        {"{\"tools\":[" WEATHER "," WEATHER "]}",
         "tools[1].function.name: tools[1].function.name: there is a tool named 'get_weather' already"},
        {"{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":[]}}]}",
         "tools[0].function.parameters: tools[0].function.parameters must be a JSON schema (an object), not "
         "an "
         "array"},
        {"{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"
         "\"string\"}}}]}",
         "tools[0].function.parameters.type: tools[0].function.parameters.type must be 'object': arguments "
         "of a "
         "function are an object"},
        {"{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":1}}]}",
         "tools[0].function.strict: tools[0].function.strict must be a boolean, not a number"},
        {"{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":1}}]}",
         "tools[0].function.description: tools[0].function.description must be a string, not a number"},
        {"{\"tool_choice\":\"auto\"}", "tool_choice: tool_choice is only allowed when there are tools"},
        {"{\"tools\":[" TIME "],\"tool_choice\":\"any\"}",
         "tool_choice: tool_choice is 'any'; it must be none, auto, required or an object that names a "
         "function"},
        {"{\"tools\":[" TIME "],\"tool_choice\":[]}",
         "tool_choice: tool_choice must be a string or an object, not an array"},
        {"{\"tools\":[" TIME "],\"tool_choice\":{\"type\":\"x\"}}",
         "tool_choice.type: tool_choice.type is 'x'; it must be function or allowed_tools"},
        {"{\"tools\":[" TIME "],\"tool_choice\":{\"type\":\"function\"}}",
         "tool_choice.function: tool_choice.function is missing"},
        {"{\"tools\":[" TIME "],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}}",
         "tool_choice.function.name: tool_choice.function.name: there is no tool named 'f' among the tools"},
        {"{\"tools\":[" TIME "],\"tool_choice\":{\"type\":\"allowed_tools\",\"mode\":\"none\"}}",
         "tool_choice.mode: tool_choice.mode is 'none'; it must be auto or required"},
        {"{\"tools\":[" TIME
         "],\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"auto\","
         "\"tools\":[" WEATHER "]}}}",
         "tool_choice.allowed_tools.tools[0].function.name: "
         "tool_choice.allowed_tools.tools[0].function.name: there "
         "is no tool named 'get_weather' among the tools"},
        {"{\"tools\":[" TIME "],\"parallel_tool_calls\":\"yes\"}",
         "parallel_tool_calls: parallel_tool_calls must be a boolean, not a string"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) check_parsed(cases[i][0], cases[i][1]);
}

static void test_parse_limits(void **state)
{
    (void)state;
    char out[700], name[80];
    struct buf body;
    memset(name, 'n', sizeof name);
    for (int length = 64; length <= 65; length++) {
        buf_init(&body, SIZE_MAX);
        buf_printf(&body, "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"%.*s\"}}]}", length,
                   name);
        assert_true(!!strstr(parsed(body.data, out), "1 to 64") == (length == 65));
        buf_free(&body);
    }
    for (int n = TOOLS_MAX; n <= TOOLS_MAX + 1; n++) {
        buf_init(&body, SIZE_MAX);
        buf_text(&body, "{\"tools\":[");
        for (int i = 0; i < n; i++)
            buf_printf(&body, "%s{\"type\":\"function\",\"function\":{\"name\":\"f%d\"}}", i ? "," : "", i);
        buf_text(&body, "]}");
        bool refused =
            strcmp(parsed(body.data, out), "tools: tools has 129 entries, at most 128 are taken") == 0;
        assert_true(refused == (n == TOOLS_MAX + 1));
        buf_free(&body);
    }
}

/* --- Styles --- */

static enum tools_style style_of(const char *source)
{
    struct chat_template chat = {.source = (char *)source};
    return tools_style_of(&chat);
}

/* The templates of the families, by the names that llama.cpp's collection has for them. */
static void test_styles(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum tools_style style;
    } known[] = {
        {"Qwen-Qwen2.5-7B-Instruct", TOOLS_HERMES},
        {"Qwen-Qwen3-0.6B", TOOLS_HERMES},
        {"Qwen-QwQ-32B", TOOLS_HERMES},
        {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", TOOLS_HERMES},
        {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use", TOOLS_HERMES},
        {"ibm-granite-granite-4.0", TOOLS_HERMES},
        {"meta-llama-Llama-3.1-8B-Instruct", TOOLS_LLAMA3},
        {"meta-llama-Llama-3.2-3B-Instruct", TOOLS_LLAMA3},
        {"meta-llama-Llama-3.3-70B-Instruct", TOOLS_LLAMA3},
        {"mistralai-Mistral-Nemo-Instruct-2407", TOOLS_MISTRAL},
        {"Mistral-Small-3.2-24B-Instruct-2506", TOOLS_MISTRAL_ARGS},
        {"mistralai-Ministral-3-14B-Reasoning-2512", TOOLS_MISTRAL_ARGS},
        {"unsloth-mistral-Devstral-Small-2507", TOOLS_MISTRAL_ARGS},
        /* They write calls in ways of their own, or know none. */
        {"Qwen3-Coder", TOOLS_GENERIC},
        {"GLM-4.6", TOOLS_GENERIC},
        {"unsloth-Apriel-1.5", TOOLS_GENERIC},
        {"meetkai-functionary-medium-v3.1", TOOLS_GENERIC},
        {"openai-gpt-oss-120b", TOOLS_GENERIC},
        {"google-gemma-2-2b-it", TOOLS_GENERIC},
    };
    const char *folder = getenv("OCTAVO_TEMPLATES");
    int seen = 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        char path[1000];
        snprintf(path, sizeof path, "%s/%s.jinja", folder ? folder : "models/templates", known[i].name);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        char source[40000];
        size_t length = fread(source, 1, sizeof source - 1, file);
        source[length] = '\0';
        fclose(file);
        if (style_of(source) != known[i].style)
            fail_msg("%s: style %d, not %d", known[i].name, style_of(source), known[i].style);
        seen++;
    }
    if (seen == 0) {
        print_message("SKIPPED: no chat templates; name their folder in OCTAVO_TEMPLATES\n");
        skip();
    }
    assert_int_equal(seen, sizeof known / sizeof known[0]);
}

/* The same without files: by what stands in the templates. */
static void test_style_marks(void **state)
{
    (void)state;
    assert_int_equal(style_of("{{ '<tool_call>\\n{\"name\": \"' }}{{ '\", \"arguments\": ' }}"),
                     TOOLS_HERMES);
    assert_int_equal(style_of("<tool_call>\\n{\\\"name\\\": <n>, \\\"arguments\\\": <a>}"), TOOLS_HERMES);
    assert_int_equal(style_of("<tool_call>\\n<function=f>\\n<parameter=p> \"arguments\":"), TOOLS_GENERIC);
    assert_int_equal(style_of("<tool_call>f\\n<arg_key> \"arguments\":"), TOOLS_GENERIC);
    assert_int_equal(style_of("<|header|>ipython {{ '\"parameters\": ' }}"), TOOLS_LLAMA3);
    assert_int_equal(style_of("[TOOL_CALLS] ["), TOOLS_MISTRAL);
    assert_int_equal(style_of("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}"), TOOLS_MISTRAL_ARGS);
    assert_int_equal(style_of("{{ messages[0].content }}"), TOOLS_GENERIC);
}

/* --- From text to calls --- */

struct reading {
    enum tools_style style;
    bool constrained, single; /* single: parallel_tool_calls false */
};

struct record {
    struct buf out; /* T(text) C0(name) A(arguments) E; text and arguments of several events as of one */
    enum tools_event_type last;
    int n_calls;
    char ids[16][48];
};

static void record_event(void *context, const struct tools_event *event)
{
    struct record *record = context;
    bool goes_on = record->out.length > 0 && record->last == event->type &&
                   (event->type == TOOLS_TEXT || event->type == TOOLS_ARGUMENTS);
    if (goes_on) record->out.length--; /* the bracket */
    switch (event->type) {
    case TOOLS_REASONING:
        fail_msg("no thoughts are a tools_parser's");
        break;
    case TOOLS_TEXT:
        assert_true(event->length > 0);
        if (!goes_on) buf_text(&record->out, "T(");
        break;
    case TOOLS_CALL:
        assert_int_equal(event->call, record->n_calls);
        buf_printf(&record->out, "C(%s", event->name);
        if (record->n_calls < 16) snprintf(record->ids[record->n_calls], 48, "%s", event->id);
        record->n_calls++;
        break;
    case TOOLS_ARGUMENTS:
        assert_int_equal(event->call, record->n_calls - 1);
        if (!goes_on) buf_text(&record->out, "A(");
        break;
    case TOOLS_CALL_END:
        buf_text(&record->out, "E(");
        break;
    }
    if (event->type == TOOLS_TEXT || event->type == TOOLS_ARGUMENTS)
        buf_append(&record->out, event->text, event->length);
    buf_text(&record->out, ")");
    record->last = event->type;
}

static struct tools offered(struct reading reading, struct tool list[2])
{
    list[0] = (struct tool){.name = "get_weather"};
    list[1] = (struct tool){.name = "time", .index = 1};
    return (struct tools){.style = reading.style,
                          .parallel = !reading.single,
                          .constrained = reading.constrained,
                          .n = 2,
                          .list = list};
}

static bool is_character_start(char byte)
{
    return ((unsigned char)byte & 0xC0) != 0x80;
}

/* Reads length bytes in pieces that end where `cut` says: at one place, or (0) after every character. */
static void read_pieces(struct reading reading, const char *text, size_t length, size_t cut,
                        struct record *out)
{
    struct tool list[2];
    struct tools tools = offered(reading, list);
    struct arena *arena = arena_create(1 << 20);
    struct tools_parser *parser = tools_parser_create(&tools, "chatcmpl-1/0", arena);
    assert_non_null(parser);
    list[0].name = list[1].name = "gone"; /* the parser must not need them */
    *out = (struct record){0};
    buf_init(&out->out, SIZE_MAX);
    size_t from = 0;
    for (size_t at = 1; at <= length; at++) {
        bool ends = cut ? at == cut || at == length : at == length || is_character_start(text[at]);
        if (!ends) continue;
        tools_parser_feed(parser, text + from, at - from, at == length, record_event, out);
        from = at;
    }
    if (length == 0) tools_parser_feed(parser, text, 0, true, record_event, out);
    assert_int_equal(tools_parser_calls(parser), out->n_calls);
    arena_free(arena);
}

/* The same events at every cut. Returns them; the caller frees. */
static char *read_all(struct reading reading, const char *text, size_t length)
{
    struct record whole, cut;
    read_pieces(reading, text, length, length, &whole);
    for (size_t at = 0; at < length; at++) {
        if (at > 0 && !is_character_start(text[at])) continue;
        read_pieces(reading, text, length, at, &cut);
        if (strcmp(whole.out.data ? whole.out.data : "", cut.out.data ? cut.out.data : "") != 0)
            fail_msg("cut at %zu of '%s':\n%s\n%s", at, text, whole.out.data, cut.out.data);
        buf_free(&cut.out);
    }
    return whole.out.data ? whole.out.data : strdup("");
}

static void check(enum tools_style style, const char *text, const char *expected)
{
    char *events = read_all((struct reading){.style = style}, text, strlen(text));
    assert_string_equal(events, expected);
    free(events);
}

static void check_constrained(enum tools_style style, const char *text, const char *expected)
{
    char *events = read_all((struct reading){.style = style, .constrained = true}, text, strlen(text));
    assert_string_equal(events, expected);
    free(events);
}

#define CALL                                                                                                 \
    "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"K\xC3\xB6ln\"}}\n</tool_call>"
#define CALLED  "C(get_weather)A({\"city\": \"K\xC3\xB6ln\"})E()"
#define CALL2   "<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>"
#define CALLED2 "C(time)A({})E()"

static void test_hermes(void **state)
{
    (void)state;
    check(TOOLS_HERMES, "", "");
    check(TOOLS_HERMES, "Hello, W\xC3\xB6rld. ", "T(Hello, W\xC3\xB6rld. )");
    check(TOOLS_HERMES, CALL, CALLED);
    check(TOOLS_HERMES, CALL "\n" CALL2, CALLED CALLED2);
    check(TOOLS_HERMES, "\n\n" CALL CALL2 "\n", CALLED CALLED2);
    check(TOOLS_HERMES, "Let me see.\n" CALL "\nSo.", "T(Let me see.)" CALLED "T(\nSo.)");
    check(TOOLS_HERMES, "A < b <tool_c <tool_call", "T(A < b <tool_c <tool_call)");
    check(TOOLS_HERMES, "<<tool_call>{\"name\":\"time\",\"arguments\":{}}</tool_call>",
          "T(<)C(time)A({})E()");
    /* The order of members, others beside them, the other name of arguments, none. */
    check(TOOLS_HERMES,
          "<tool_call>{\"arguments\": {\"a\": [1, {\"name\": \"x\"}]}, \"name\": \"time\"}</tool_call>",
          "C(time)A({\"a\": [1, {\"name\": \"x\"}]})E()");
    check(TOOLS_HERMES,
          "<tool_call>{\"id\": 7, \"name\": \"time\", \"parameters\": {}, \"x\": null}</tool_call>", CALLED2);
    check(TOOLS_HERMES, "<tool_call>{\"name\": \"time\"}</tool_call>", CALLED2);
    /* Tags left out, or one for two. */
    check(TOOLS_HERMES, "<tool_call>{\"name\": \"time\", \"arguments\": {}}", CALLED2);
    check(TOOLS_HERMES, "<tool_call>{\"name\": \"time\", \"arguments\": {}}\n" CALL, CALLED2 CALLED);
    check(TOOLS_HERMES,
          "<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n{\"name\": \"time\", \"arguments\": "
          "{}}\n</tool_call>",
          CALLED2 CALLED2);
    check(TOOLS_HERMES, "<tool_call>{\"name\": \"time\", \"arguments\": {}}</tool_x", CALLED2 "T(</tool_x)");
}

/* What is not quite a call stays text, all of it. */
static void test_hermes_broken(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "<tool_call>",
        "Go: <tool_call> x",
        "<tool_call>\n{\"name\": \"get_we",
        "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"",
        "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": Paris}}</tool_call>",
        "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"a\nb\"}}</tool_call>",
        "<tool_call>{\"name\": \"get_weather\", \"arguments\": \"{}\"}</tool_call>",
        "<tool_call>{\"name\": \"get_weather\", \"arguments\": null}</tool_call>",
        "<tool_call>{\"name\": \"get_weather\", \"arguments\": {}, \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{}</tool_call>",
        "<tool_call>[]</tool_call>",
        "<tool_call>{\"name\": \"time\", \"arguments\": {\"n\": 01}}</tool_call>",
        "<tool_call>{\"name\": \"time\", \"arguments\": {\"n\": \"\\x\"}}</tool_call>",
        "<tool_call>{\"name\": \"time\", \"arguments\": {,}}</tool_call>",
        "{\"name\": \"Alice\", \"age\": 30}",
        "{\"name\": \"time\", \"age\": 30}",
        "{\"arguments\": {}, \"name\": \"time\"}",
        "{\"name\": \"time\"}",
        "  {\"a\": 1}",
        "```python\nprint()\n```",
        "```json\n{\"a\": 1}\n```",
        "``{\"name\": \"time\", \"arguments\": {}}",
        "Use {\"name\": \"time\", \"arguments\": {}}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char expected[300];
        snprintf(expected, sizeof expected, "T(%s)", texts[i]);
        check(TOOLS_HERMES, texts[i], expected);
        check(TOOLS_GENERIC, texts[i], expected);
    }
    /* After it calls are found again. */
    check(TOOLS_HERMES,
          "<tool_call>{\"name\": <tool_call>{\"name\": \"time\", \"arguments\": {}}</tool_call>",
          "T(<tool_call>{\"name\": )C(time)A({})E()");
    check(TOOLS_HERMES, "<tool_call><tool_call>" CALL, "T(<tool_call><tool_call>)" CALLED);
}

/* A model that leaves out the tags. */
static void test_bare(void **state)
{
    (void)state;
    check(TOOLS_HERMES, "{\"name\": \"time\", \"arguments\": {}}", CALLED2);
    check(TOOLS_HERMES, " \n{\"name\": \"time\", \"arguments\": {}}\n", CALLED2);
    check(TOOLS_HERMES, "```json\n{\n  \"name\": \"time\",\n  \"arguments\": {}\n}\n```", CALLED2);
    check(TOOLS_HERMES, "```\n{\"name\": \"time\", \"arguments\": {}}\n```\nDone.", CALLED2 "T(\nDone.)");
    check(TOOLS_HERMES,
          "```json\n{\"name\": \"time\", \"arguments\": {}}\n```\n\n"
          "```json\n{\"name\": \"time\", \"arguments\": {}}\n```",
          CALLED2 CALLED2);
    check(TOOLS_HERMES, "{\"name\": \"time\", \"arguments\": {}}\n{\"name\": \"time\", \"arguments\": {}}",
          CALLED2 CALLED2);
    check(TOOLS_HERMES, "{\"name\": \"time\", \"arguments\": {}}\n" CALL, CALLED2 CALLED);
}

static void test_llama3(void **state)
{
    (void)state;
    check(TOOLS_LLAMA3, "{\"name\": \"time\", \"parameters\": {}}", CALLED2);
    check(TOOLS_LLAMA3, "<|python_tag|>{\"name\": \"time\", \"parameters\": {}}", CALLED2);
    check(TOOLS_LLAMA3, "{\"type\": \"function\", \"name\": \"time\", \"parameters\": {}}", CALLED2);
    check(TOOLS_LLAMA3, "{\"name\": \"time\", \"parameters\": {}}; {\"name\": \"time\", \"parameters\": {}}",
          CALLED2 CALLED2);
    check(TOOLS_LLAMA3, "<|python_tag|>time.call(x=\"y\")", "T(<|python_tag|>time.call(x=\"y\"))");
    check(TOOLS_LLAMA3, "{\"name\": \"time\", \"parameters\": {}}; x", CALLED2 "T(; x)");
    check(TOOLS_LLAMA3, "It is {\"name\": \"time\", \"parameters\": {}}",
          "T(It is {\"name\": \"time\", \"parameters\": {}})");
    check(TOOLS_LLAMA3, "Now <tool_call>", "T(Now <tool_call>)");
}

static void test_mistral(void **state)
{
    (void)state;
    static const enum tools_style styles[] = {TOOLS_MISTRAL, TOOLS_MISTRAL_ARGS};
    for (int i = 0; i < 2; i++) {
        check(styles[i], "[TOOL_CALLS][{\"name\": \"time\", \"arguments\": {}}]", CALLED2);
        check(
            styles[i],
            "[TOOL_CALLS] [{\"name\": \"time\", \"arguments\": {}}, {\"arguments\": {}, \"name\": \"time\"}]",
            CALLED2 CALLED2);
        check(styles[i], "Well. [TOOL_CALLS]{\"name\": \"time\", \"arguments\": {}}", "T(Well.)" CALLED2);
        check(styles[i], "[TOOL_CALLS]time[ARGS]{}", CALLED2);
        check(styles[i], "[TOOL_CALLS]time[CALL_ID]abcdefghi[ARGS]{}[TOOL_CALLS]time{}", CALLED2 CALLED2);
        check(styles[i], "[TOOL_CALLS]time[ARGS]{}\n[TOOL_CALLS]get_weather[ARGS]{\"city\": \"K\xC3\xB6ln\"}",
              CALLED2 CALLED);
        check(styles[i], "[TOOL_CALLS]clock[ARGS]{}", "T([TOOL_CALLS]clock[ARGS]{})");
        check(styles[i], "[TOOL_CALLS]time[ARGS]{x}", "T([TOOL_CALLS]time[ARGS]{x})");
        check(styles[i], "[TOOL_CALLS]time[CALL_ID]x{}", "T([TOOL_CALLS]time[CALL_ID]x{})");
        check(styles[i], "[TOOL_CALLS]time is now", "T([TOOL_CALLS]time is now)");
        check(styles[i], "[TOOL_CALLS][TOOL_CALLS]", "T([TOOL_CALLS][TOOL_CALLS])");
        check(styles[i], "[TOOL_CALLS][[", "T([TOOL_CALLS][[)");
        check(styles[i], "[TOOL_CALLS][{\"name\": \"time\", \"arguments\": {}}", CALLED2);
        check(styles[i], "[TOOL_CALLS][{\"name\": \"time\", \"arguments\": {}} x", CALLED2 "T( x)");
        check(styles[i], "[1, 2]", "T([1, 2])");
    }
    struct record record;
    const char *text = "[TOOL_CALLS]time[ARGS]{}";
    read_pieces((struct reading){.style = TOOLS_MISTRAL}, text, strlen(text), 0, &record);
    assert_int_equal(strlen(record.ids[0]), 9);
    assert_int_equal(strspn(record.ids[0], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"),
                     9);
    buf_free(&record.out);
}

/* With the grammar in force arguments come as they are written; what the end cuts off has been told. */
static void test_constrained(void **state)
{
    (void)state;
    check_constrained(TOOLS_HERMES, "So: " CALL CALL2, "T(So:)" CALLED CALLED2);
    check_constrained(TOOLS_HERMES, "<tool_call>{\"name\": \"time\", \"arguments\": {\"a\": \"b",
                      "C(time)A({\"a\": \"b)E()");
    check_constrained(TOOLS_HERMES, "<tool_call>{\"name\": \"time\", \"argum",
                      "T(<tool_call>{\"name\": \"time\", \"argum)");
    check_constrained(TOOLS_HERMES, "<tool_call>{\"name\": \"time\", \"arguments\": {}}\n</tool_", CALLED2);
    check_constrained(TOOLS_HERMES, "{\"name\": \"time\", \"arguments\": {",
                      "T({\"name\": \"time\", \"arguments\": {)");
    check_constrained(TOOLS_LLAMA3, "{\"name\": \"time\", \"parameters\": {\"a\"", "C(time)A({\"a\")E()");
    check_constrained(TOOLS_LLAMA3, "{\"type\": \"function\", \"name\": \"time\", \"parameters\": {\"a\": x",
                      "T({\"type\": \"function\", \"name\": \"time\", \"parameters\": {\"a\": x)");
    check_constrained(TOOLS_MISTRAL_ARGS, "[TOOL_CALLS]time[ARGS]{\"a\"", "C(time)A({\"a\")E()");
    check_constrained(TOOLS_MISTRAL,
                      "[TOOL_CALLS][{\"name\": \"time\", \"arguments\": {\"a\": 1}}, {\"name\"",
                      "C(time)A({\"a\": 1})E()T(, {\"name\")");
    /* It comes at once. */
    struct tool list[2];
    struct tools tools = offered((struct reading){.style = TOOLS_HERMES, .constrained = true}, list);
    struct arena *arena = arena_create(1 << 20);
    struct tools_parser *parser = tools_parser_create(&tools, "x", arena);
    struct record record = {0};
    const char *head = "<tool_call>\n{\"name\": \"time\", \"arguments\": {";
    buf_init(&record.out, SIZE_MAX);
    tools_parser_feed(parser, head, strlen(head), false, record_event, &record);
    assert_string_equal(record.out.data, "C(time)A({)");
    tools_parser_feed(parser, "\"zone\"", 6, false, record_event, &record);
    assert_string_equal(record.out.data, "C(time)A({\"zone\")");
    buf_free(&record.out);
    arena_free(arena);
}

static void test_single(void **state)
{
    (void)state;
    const char *text = CALL "\n" CALL2 "\nDone.";
    char *events = read_all((struct reading){.style = TOOLS_HERMES, .single = true}, text, strlen(text));
    assert_string_equal(events, CALLED "T(\nDone.)");
    free(events);
}

static void test_none(void **state)
{
    (void)state;
    struct tool list[2];
    struct tools tools = offered((struct reading){0}, list);
    tools.choice = TOOLS_NONE;
    struct arena *arena = arena_create(1 << 20);
    struct tools_parser *parser = tools_parser_create(&tools, "x", arena);
    struct record record = {0};
    buf_init(&record.out, SIZE_MAX);
    tools_parser_feed(parser, CALL, strlen(CALL), true, record_event, &record);
    assert_string_equal(record.out.data, "T(" CALL ")");
    assert_int_equal(tools_parser_calls(parser), 0);
    assert_false(tools_offered(&tools));
    assert_false(tools_offered(NULL));
    buf_free(&record.out);
    arena_free(arena);
}

/* Ids tell calls, choices and replies apart. */
static void test_ids(void **state)
{
    (void)state;
    struct record record;
    struct reading reading = {.style = TOOLS_HERMES};
    const char *text = CALL CALL2 CALL2;
    read_pieces(reading, text, strlen(text), 0, &record);
    assert_int_equal(record.n_calls, 3);
    for (int i = 0; i < 3; i++) {
        assert_memory_equal(record.ids[i], "call_", 5);
        assert_true(strlen(record.ids[i]) >= 20);
        for (int j = 0; j < i; j++) assert_string_not_equal(record.ids[i], record.ids[j]);
    }
    buf_free(&record.out);
}

/* Of a large size, deep, and of the kinds that make a careless reader slow. */
static void test_hostile(void **state)
{
    (void)state;
    struct buf text;
    struct record record;
    struct reading reading = {.style = TOOLS_HERMES};
    /* Arguments longer than is held come as they are. */
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "<tool_call>{\"name\": \"time\", \"arguments\": {\"a\": \"");
    for (int i = 0; i < 50000; i++) buf_text(&text, "\xE2\x82\xAC");
    buf_text(&text, "\"}}</tool_call>");
    for (size_t cut = 0; cut < 2; cut++) {
        read_pieces(reading, text.data, text.length, cut ? text.length : 0, &record);
        assert_int_equal(record.n_calls, 1);
        assert_int_equal(record.out.length, strlen("C(time)A({\"a\": \"\"})E()") + 150000);
        buf_free(&record.out);
    }
    buf_free(&text);
    /* What never becomes a call is not held for ever, and comes out whole. */
    static const char *const parts[] = {"<tool_call>",
                                        "<tool_call>{\"name\": \"",
                                        "{\"a\":",
                                        " ",
                                        "<",
                                        "\n",
                                        "<tool_call>{",
                                        "`",
                                        "[",
                                        "<tool_call>{\"x\": \"<tool_call>\",",
                                        "\xE2\x82\xAC"};
    static const enum tools_style styles[] = {TOOLS_HERMES, TOOLS_LLAMA3, TOOLS_MISTRAL, TOOLS_MISTRAL_ARGS};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] * 4; i++) {
        const char *part = parts[i / 4];
        buf_init(&text, SIZE_MAX);
        while (text.length < 200000) buf_text(&text, part);
        for (size_t cut = 0; cut < 2; cut++) {
            reading = (struct reading){.style = styles[i % 4], .constrained = cut};
            read_pieces(reading, text.data, text.length, cut ? text.length : 0, &record);
            assert_int_equal(record.n_calls, 0);
            assert_int_equal(record.out.length, text.length + 3);
            assert_memory_equal(record.out.data + 2, text.data, text.length);
            buf_free(&record.out);
        }
        buf_free(&text);
    }
}

/* Too deep for the reader: text. */
static void test_depth(void **state)
{
    (void)state;
    for (int depth = TOOLS_SCAN_MAX_DEPTH - 2; depth <= TOOLS_SCAN_MAX_DEPTH; depth++) {
        struct buf text;
        struct record record;
        buf_init(&text, SIZE_MAX);
        buf_text(&text, "<tool_call>{\"name\": \"time\", \"arguments\": {\"a\":");
        for (int i = 0; i < depth; i++) buf_text(&text, "[");
        for (int i = 0; i < depth; i++) buf_text(&text, "]");
        buf_text(&text, "}}</tool_call>");
        read_pieces((struct reading){.style = TOOLS_HERMES}, text.data, text.length, 0, &record);
        assert_int_equal(record.n_calls, depth <= TOOLS_SCAN_MAX_DEPTH - 2);
        buf_free(&record.out);
        buf_free(&text);
    }
}

/* The scanner says of every object what json_parse says. */
static void test_scan(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{}",
        "{ }",
        "{\"a\":1}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1 \"b\":2}",
        "{a:1}",
        "{\"a\":0}",
        "{\"a\":-0}",
        "{\"a\":-}",
        "{\"a\":00}",
        "{\"a\":1.}",
        "{\"a\":.1}",
        "{\"a\":1.5e}",
        "{\"a\":1.5e+}",
        "{\"a\":1.5E-07}",
        "{\"a\":1e5 }",
        "{\"a\":+1}",
        "{\"a\":true}",
        "{\"a\":tru}",
        "{\"a\":truee}",
        "{\"a\":null,\"b\":false}",
        "{\"a\":[]}",
        "{\"a\":[1,]}",
        "{\"a\":[,1]}",
        "{\"a\":[1 2]}",
        "{\"a\":[[{}],{\"b\":[]}]}",
        "{\"a\":[}",
        "{\"a\":[1}}",
        "{\"a\":\"\\u00e9\\n\\\"\"}",
        "{\"a\":\"\\u00g9\"}",
        "{\"a\":\"\\'\"}",
        "{\"a\":\"\t\"}",
        "{\t\"a\"\r\n:\n1}",
        "{\"\":\"\"}",
        "{\"a\":NaN}",
        "{\"a\":1]",
        "{\"a\":\"\xC3\xA9\"}",
        "{\"a\":{\"b\":{\"c\":\"}\"}}}",
        "{\"a\":1e400}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct tools_scan scan;
        enum tools_scan_result result = TOOLS_SCAN_MORE;
        size_t length = strlen(texts[i]), at = 0;
        tools_scan_init(&scan);
        while (at < length && result != TOOLS_SCAN_DONE && result != TOOLS_SCAN_WRONG)
            result = tools_scan_byte(&scan, texts[i][at++]);
        struct json *json = NULL;
        struct err_info info = {0};
        bool right = json_parse(texts[i], length, &json_limits_default, &json, &info) == ERR_OK;
        json_free(json);
        if (strstr(texts[i], "1e400")) right = true; /* its range is not the scanner's concern */
        if ((result == TOOLS_SCAN_DONE && at == length) != right)
            fail_msg("%s: scan %d at %zu, json_parse: %s", texts[i], (int)result, at, info.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),         cmocka_unit_test(test_parse_faults),
        cmocka_unit_test(test_parse_limits),  cmocka_unit_test(test_styles),
        cmocka_unit_test(test_style_marks),   cmocka_unit_test(test_hermes),
        cmocka_unit_test(test_hermes_broken), cmocka_unit_test(test_bare),
        cmocka_unit_test(test_llama3),        cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_constrained),   cmocka_unit_test(test_single),
        cmocka_unit_test(test_none),          cmocka_unit_test(test_ids),
        cmocka_unit_test(test_hostile),       cmocka_unit_test(test_depth),
        cmocka_unit_test(test_scan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
