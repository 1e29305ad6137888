/* Thoughts: the tags of templates, where a prompt ends, and the way from text to thoughts and answer: the
 * same however the text is cut. */
#include "config/buf.h"
#include "server/marker.h"
#include "server/reasoning.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct reasoning_style *style_of(const char *source)
{
    struct chat_template chat = {.source = (char *)(size_t)source};
    return reasoning_style_of(&chat);
}

static void test_styles(void **state)
{
    (void)state;
    assert_null(style_of("{{ messages }}"));
    assert_null(style_of("<think>"));
    assert_string_equal(style_of("{{ content.split('</think>')[-1] }}")->tags[0], "<think>");
    assert_string_equal(style_of("'[THINK]' + m.thinking + '[/THINK]'")->tags[1], "[/THINK]");
    assert_string_equal(style_of("<seed:think></seed:think>")->tags[0], "<seed:think>");
}

static void check_prompt(const char *prompt, enum reasoning_place place)
{
    const struct reasoning_style *style = style_of("</think>");
    assert_int_equal(reasoning_after_prompt(style, prompt, strlen(prompt)), place);
}

static void check_message(const char *text, enum reasoning_place place)
{
    const struct reasoning_style *style = style_of("</think>");
    assert_int_equal(reasoning_after_message(style, text, strlen(text)), place);
}

static void test_places(void **state)
{
    (void)state;
    check_prompt("", REASONING_MAY);
    check_prompt("<|im_start|>assistant\n", REASONING_MAY);
    check_prompt("<|im_start|>assistant\n<think>\n", REASONING_OPEN);
    check_prompt("<think>", REASONING_OPEN);
    check_prompt("<think>\n\n</think>\n\n", REASONING_NONE);
    check_prompt("<think>x", REASONING_MAY);
    check_message("", REASONING_MAY);
    check_message(" \n", REASONING_MAY);
    check_message("Well", REASONING_NONE);
    check_message("<think>Well", REASONING_OPEN);
    check_message("<think>Well</think>", REASONING_NONE);
    check_message("<think>Well</think>\n\nSo", REASONING_NONE);
}

/* The events of a text: "R(thoughts)T(answer)", neighbours joined. */
struct record {
    struct buf out;
    int last; /* enum tools_event_type, -1: none yet */
};

static void note(void *context, const struct tools_event *event)
{
    struct record *record = context;
    assert_true(event->length > 0);
    assert_true(event->type == TOOLS_REASONING || event->type == TOOLS_TEXT);
    assert_true(((unsigned char)event->text[0] & 0xC0) != 0x80); /* whole characters */
    if ((int)event->type != record->last) {
        if (record->last >= 0) buf_text(&record->out, ")");
        buf_text(&record->out, event->type == TOOLS_REASONING ? "R(" : "T(");
    }
    record->last = (int)event->type;
    buf_append(&record->out, event->text, event->length);
}

/* Cut before byte `first`, then every `step` bytes where characters begin; step 0: never again. */
static char *read_cut(struct reasoning reasoning, const char *text, size_t first, size_t step, size_t *end)
{
    struct record record = {.last = -1};
    struct arena *arena = arena_create(1 << 20);
    struct reasoning_parser *parser = reasoning_parser_create(&reasoning, arena);
    size_t length = strlen(text), from = 0;
    buf_init(&record.out, SIZE_MAX);
    for (size_t at = first; at < length; at++) {
        bool cuts = at == first || (step > 0 && (at - first) % step == 0);
        if (!cuts || ((unsigned char)text[at] & 0xC0) == 0x80) continue;
        reasoning_parser_feed(parser, text + from, at - from, false, note, &record);
        from = at;
    }
    reasoning_parser_feed(parser, text + from, length - from, true, note, &record);
    *end = reasoning_parser_end(parser);
    if (record.last >= 0) buf_text(&record.out, ")");
    arena_free(arena);
    return record.out.data ? record.out.data : strdup("");
}

static void check(enum reasoning_place place, bool exact, const char *text, const char *expected, size_t end)
{
    struct reasoning reasoning = {.style = style_of("</think>"), .place = place, .exact = exact};
    for (size_t first = 0; first <= strlen(text); first++)
        for (size_t step = 0; step < 4; step++) {
            size_t ends;
            char *events = read_cut(reasoning, text, first, step, &ends);
            if (strcmp(events, expected) != 0)
                fail_msg("'%s' cut at %zu, then every %zu: %s", text, first, step, events);
            assert_true(ends == end);
            free(events);
        }
}

#define ALL SIZE_MAX

static void test_open(void **state)
{
    (void)state;
    check(REASONING_OPEN, false, "", "", ALL);
    check(REASONING_OPEN, false, "Hm. K\xC3\xB6ln?\n</think>\n\nYes.", "R(Hm. K\xC3\xB6ln?)T(Yes.)", 19);
    check(REASONING_OPEN, false, "\n\n</think>\n\nYes.", "T(Yes.)", 10);
    check(REASONING_OPEN, false, "</think>", "", 8);
    check(REASONING_OPEN, false, "a </thin", "R(a </thin)", ALL);
    check(REASONING_OPEN, false, "a </thinx </think>b", "R(a </thinx)T(b)", 18);
    check(REASONING_OPEN, false, "a<</think>b", "R(a<)T(b)", 10);
    check(REASONING_OPEN, false, "a  b </think> \t c </think> <think>", "R(a  b)T(c </think> <think>)", 13);
    /* A model that opens them once more. */
    check(REASONING_OPEN, false, "\n<think>\na</think>b", "R(a)T(b)", 18);
    check(REASONING_OPEN, false, " <thin", "R(<thin)", ALL);
    check(REASONING_OPEN, false, "a<think>b</think>c", "R(a<think>b)T(c)", 17);
}

static void test_may(void **state)
{
    (void)state;
    check(REASONING_MAY, false, "", "", 0);
    check(REASONING_MAY, false, "<think>\na\n</think>\n\nb", "R(a)T(b)", 18);
    check(REASONING_MAY, false, " \n<think></think>b", "T(b)", 17);
    check(REASONING_MAY, false, "<think>a", "R(a)", ALL);
    check(REASONING_MAY, false, "  K\xC3\xB6ln <think>a</think>", "T(  K\xC3\xB6ln <think>a</think>)", 0);
    check(REASONING_MAY, false, " <thin", "T( <thin)", 0);
    check(REASONING_MAY, false, "<<think>a</think>", "T(<<think>a</think>)", 0);
    check(REASONING_MAY, false, "</think>a", "T(</think>a)", 0);
    check(REASONING_MAY, false, "\n", "T(\n)", 0);
}

/* Behind the thoughts two line feeds go, and nothing else. */
static void test_exact(void **state)
{
    (void)state;
    check(REASONING_OPEN, true, "a\n</think>\n\n\n b", "R(a)T(\n b)", 10);
    check(REASONING_OPEN, true, "a</think>\n\n", "R(a)", 9);
    check(REASONING_MAY, true, "  {}", "T(  {})", 0);
    check(REASONING_MAY, true, "<think>a</think>\n\n {}", "R(a)T( {})", 16);
}

/* More white space than is held, more text than a chunk, characters over its end. */
static void test_long(void **state)
{
    (void)state;
    char text[8000] = "", expected[8000] = "R(x";
    strcat(text, "x");
    for (int i = 0; i < 1300; i++) strcat(text, "\xC3\xB6"), strcat(expected, "\xC3\xB6");
    for (int i = 0; i < 200; i++) strcat(text, " ");
    /* Rows of MARKER_SPACES + 1 are text; what is left of them goes. */
    for (int i = 0; i < 200 / (MARKER_SPACES + 1) * (MARKER_SPACES + 1); i++) strcat(expected, " ");
    strcat(text, "</think>\n\n");
    strcat(expected, ")T(");
    size_t end = strlen(text) - 2;
    for (int i = 0; i < 1100; i++) strcat(text, "\xE2\x82\xAC"), strcat(expected, "\xE2\x82\xAC");
    strcat(expected, ")");
    struct reasoning reasoning = {.style = style_of("</think>"), .place = REASONING_OPEN};
    for (size_t step = 0; step < 2000; step = step * 2 + 1) {
        size_t ends;
        char *events = read_cut(reasoning, text, step, step, &ends);
        assert_string_equal(events, expected);
        assert_true(ends == end);
        free(events);
    }
}

static void test_field(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        bool before, after, good;
    } cases[] = {
        {"{}", true, true, true},
        {"{}", false, false, true},
        {"{\"reasoning_format\":null}", true, true, true},
        {"{\"reasoning_format\":\"none\"}", true, false, true},
        {"{\"reasoning_format\":\"auto\"}", false, true, true},
        {"{\"reasoning_format\":\"deepseek\"}", false, true, true},
        {"{\"reasoning_format\":\"deepseek-legacy\"}", true, true, false},
        {"{\"reasoning_format\":1}", true, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json *body;
        struct err_info info = {0};
        bool split = cases[i].before;
        assert_int_equal(json_parse(cases[i].body, strlen(cases[i].body), &json_limits_default, &body, NULL),
                         ERR_OK);
        enum err err = reasoning_parse(body, &split, &info);
        assert_int_equal(err, cases[i].good ? ERR_OK : ERR_INVALID);
        assert_int_equal(split, cases[i].after);
        if (!cases[i].good) assert_string_equal(info.param, "reasoning_format");
        json_free(body);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_styles), cmocka_unit_test(test_places), cmocka_unit_test(test_open),
        cmocka_unit_test(test_may),    cmocka_unit_test(test_exact),  cmocka_unit_test(test_long),
        cmocka_unit_test(test_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
