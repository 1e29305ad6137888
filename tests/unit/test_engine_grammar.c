/* Sequences that a grammar rules, on a tiny model: what they say, how they end, and that they say it to the
   bit whatever runs beside them. The judge of what they say is the C library's regular expressions. */
#include "config/buf.h"
#include "config/log.h"
#include "tests/unit/support/engine_fixture.h"
#include "tests/unit/support/tiny_model.h"

#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The same language twice. */
static const struct {
    const char *gbnf, *regex;
} languages[] = {
    {"root ::= \"yes\" | \"no\" | \"yes, but\"", "^(yes|no|yes, but)$"},
    {"root ::= [a-z]{3,9} (\" \" [0-9]{1,4})*", "^[a-z]{3,9}( [0-9]{1,4})*$"},
    {"root ::= \"{\" (pair (\", \" pair)*)? \"}\"\npair ::= \"\\\"\" [a-c]+ \"\\\": \" (\"true\" | [1-9] "
     "[0-9]*)",
     "^\\{(\"[a-c]+\": (true|[1-9][0-9]*)(, \"[a-c]+\": (true|[1-9][0-9]*))*)?\\}$"},
    {"root ::= (\"é\" | \"ß\" | \"語\" | [A-Z]){9}", "^(é|ß|語|[A-Z]){9}$"},
};
enum { LANGUAGES = sizeof languages / sizeof languages[0], REQUESTS = 12, MOST_TOKENS = 60 };

static struct engine_options options_of(int parallel, int max_batch_tokens)
{
    return (struct engine_options){
        .parallel = parallel, .max_batch_tokens = max_batch_tokens, .recent_blocks = 2, .sink_tokens = 4};
}

static void run(struct engine_fixture *fixture, struct request *request)
{
    assert_int_equal(engine_fixture_submit(fixture, request), ERR_OK);
    engine_fixture_wait(fixture, request);
}

/* What a client would read; malloc'ed. */
static char *text_of(const struct engine_fixture *fixture, const struct choice *choice)
{
    struct detokenizer detokenizer = {0};
    struct buf text;
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "");
    for (int i = 0; i < atomic_load(&choice->n_ready); i++)
        detokenizer_push(&detokenizer, fixture->tokenizer, choice->records[i].token, true, &text);
    detokenizer_flush(&detokenizer, &text);
    assert_false(text.failed);
    return text.data;
}

static void assert_matches(const struct engine_fixture *fixture, const struct choice *choice,
                           const char *pattern)
{
    regex_t regex;
    char *text = text_of(fixture, choice);
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    if (regexec(&regex, text, 0, NULL, 0) != 0) fail_msg("'%s' is not %s", text, pattern);
    regfree(&regex);
    free(text);
}

static struct request *mixed(struct engine_fixture *fixture, int i)
{
    struct request *request = engine_fixture_request((uint64_t)i, 3 + 29 * i, MOST_TOKENS, 1, i == 5);
    request->kv_format = i % FIXTURE_FORMATS;
    if (i % 2 == 1) request->choices[0].sampler.temperature = 1.0F;
    if (i % 3 == 1) request->choices[0].sampler.frequency_penalty = 0.5F;
    if (i % 5 == 4)
        request->ignore_eos = true; /* and no grammar, so that the batch has both */
    else
        engine_fixture_constrain(fixture, request, languages[i % LANGUAGES].gbnf);
    return request;
}

static void assert_same(const struct choice *one, const struct choice *other)
{
    int n = atomic_load(&one->n_ready);
    assert_int_equal(n, atomic_load(&other->n_ready));
    assert_int_equal(atomic_load(&one->finish), atomic_load(&other->finish));
    assert_memory_equal(one->records, other->records, (size_t)n * sizeof *one->records);
}

/* Alone = among others, in batches of any size; and what ended by itself is in the language. */
static void test_batching_changes_nothing(void **state)
{
    (void)state;
    static const int batches[] = {1, 40, 512};
    static struct engine_fixture alone_fixture, fixture;
    struct request *alone[REQUESTS];
    int n_ended = 0;

    engine_fixture_start(&alone_fixture, options_of(1, 512));
    for (int i = 0; i < REQUESTS; i++) {
        alone[i] = mixed(&alone_fixture, i);
        run(&alone_fixture, alone[i]);
        struct choice *choice = &alone[i]->choices[0];
        if (alone[i]->grammar == NULL || atomic_load(&choice->finish) != FINISH_STOP) continue;
        assert_matches(&alone_fixture, choice, languages[i % LANGUAGES].regex);
        n_ended++;
    }
    assert_true(n_ended >= REQUESTS / 2);
    for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
        struct request *together[REQUESTS];
        engine_fixture_start(&fixture, options_of(REQUESTS, batches[b]));
        for (int i = 0; i < REQUESTS; i++) {
            together[i] = mixed(&fixture, i);
            assert_int_equal(engine_fixture_submit(&fixture, together[i]), ERR_OK);
        }
        for (int i = 0; i < REQUESTS; i++) {
            engine_fixture_wait(&fixture, together[i]);
            assert_same(&alone[i]->choices[0], &together[i]->choices[0]);
            request_release(together[i]);
        }
        engine_fixture_stop(&fixture);
    }
    for (int i = 0; i < REQUESTS; i++) request_release(alone[i]);
    assert_true(atomic_load(&alone_fixture.metrics.grammar_mask.sum) > 0);
    engine_fixture_stop(&alone_fixture);
}

/* Each choice has a place of its own. */
static void test_choices(void **state)
{
    (void)state;
    enum { CHOICES = 8 };
    static struct engine_fixture fixture;
    engine_fixture_start(&fixture, options_of(16, 64));
    struct request *request = engine_fixture_request(1, 20, 100, CHOICES, false);
    for (int i = 0; i < CHOICES; i++) request->choices[i].sampler.temperature = 1;
    engine_fixture_constrain(&fixture, request, "root ::= [a-z]{20,30} \".\"");
    run(&fixture, request);
    for (int i = 0; i < CHOICES; i++) {
        assert_int_equal(atomic_load(&request->choices[i].finish), FINISH_STOP);
        assert_matches(&fixture, &request->choices[i], "^[a-z]{20,30}\\.$");
        for (int j = 0; j < i; j++) /* they do say different things */
            assert_memory_not_equal(request->choices[i].records, request->choices[j].records,
                                    4 * sizeof(struct token_record));
    }
    request_release(request);
    engine_fixture_stop(&fixture);
}

static struct request *ended(struct engine_fixture *fixture, const char *gbnf, int max_tokens,
                             bool ignore_eos)
{
    struct request *request = engine_fixture_request(9, 10, max_tokens, 1, false);
    request->ignore_eos = ignore_eos;
    engine_fixture_constrain(fixture, request, gbnf);
    run(fixture, request);
    return request;
}

static void assert_ended(struct engine_fixture *fixture, const char *gbnf, int max_tokens, bool ignore_eos,
                         enum finish_reason finish, const char *text)
{
    struct request *request = ended(fixture, gbnf, max_tokens, ignore_eos);
    char *got = text_of(fixture, &request->choices[0]);
    assert_int_equal(atomic_load(&request->choices[0].finish), (int)finish);
    assert_string_equal(got, text);
    free(got);
    request_release(request);
}

static void test_ends(void **state)
{
    (void)state;
    static struct engine_fixture fixture;
    engine_fixture_start(&fixture, options_of(4, 64));
    /* Nothing can follow: no end token is needed, nor drawn. */
    assert_ended(&fixture, "root ::= \"abc\"", 50, false, FINISH_STOP, "abc");
    assert_ended(&fixture, "root ::= \"abc\"", 50, true, FINISH_STOP, "abc");
    struct request *request = ended(&fixture, "root ::= \"abc\"", 50, false);
    int n = atomic_load(&request->choices[0].n_ready);
    assert_false(tokenizer_is_end(fixture.tokenizer, request->choices[0].records[n - 1].token));
    request_release(request);
    /* Nothing can be said at all: the end token is all there is. */
    for (int ignore_eos = 0; ignore_eos < 2; ignore_eos++) {
        request = ended(&fixture, "root ::= \"\"", 50, ignore_eos);
        assert_int_equal(atomic_load(&request->choices[0].n_ready), 1);
        assert_int_equal(atomic_load(&request->choices[0].finish), FINISH_STOP);
        assert_true(tokenizer_is_end(fixture.tokenizer, request->choices[0].records[0].token));
        request_release(request);
    }
    /* Cut short, and to the point. */
    assert_ended(&fixture, "root ::= \"~~~~~~~~\"", 5, false, FINISH_LENGTH, "~~~~~");
    assert_ended(&fixture, "root ::= \"~~~~~\"", 5, false, FINISH_STOP, "~~~~~");
    /* Without an end it goes on where it could stop. */
    struct sampler_bias bias = {.token = tiny_model_eos(), .bias = 1000};
    for (int ignore_eos = 0; ignore_eos < 2; ignore_eos++) {
        request = engine_fixture_request(9, 10, 30, 1, false);
        request->ignore_eos = ignore_eos;
        request->choices[0].sampler.bias = &bias;
        request->choices[0].sampler.n_bias = 1;
        engine_fixture_constrain(&fixture, request, "root ::= \"~\"{3,}");
        run(&fixture, request);
        char *text = text_of(&fixture, &request->choices[0]);
        assert_int_equal(atomic_load(&request->choices[0].finish), ignore_eos ? FINISH_LENGTH : FINISH_STOP);
        assert_string_equal(text, ignore_eos ? "~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~" : "~~~");
        free(text);
        request_release(request);
    }
    /* The log probability is the model's own, whatever the grammar left to choose from. */
    request = ended(&fixture, "root ::= \"~~\"", 5, false);
    assert_true(request->choices[0].records[0].logprob < -0.01F);
    request_release(request);
    engine_fixture_stop(&fixture);
}

/* The grammar wants a control token that the vocabulary lacks: the request fails, and says after how much. */
static void test_stuck(void **state)
{
    (void)state;
    static struct engine_fixture fixture;
    engine_fixture_start(&fixture, options_of(4, 64));
    struct request *request = engine_fixture_request(9, 10, 20, 1, false);
    struct grammar_builder *builder = grammar_builder_create(&grammar_limits_default);
    struct err_info info;
    int root = grammar_literal(builder, "~~\xFF<|nowhere|>", 14);
    assert_int_equal(grammar_build(builder, root, fixture.vocabulary, &request->grammar, &info), ERR_OK);
    grammar_builder_free(builder);
    run(&fixture, request);
    assert_int_equal(atomic_load(&request->choices[0].finish), FINISH_ERROR);
    assert_int_equal(atomic_load(&request->choices[0].n_ready), 2);
    assert_int_equal(request->error.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(request->error.message, "after 2 tokens"));
    request_release(request);
    engine_fixture_stop(&fixture);
}

/* No place in the grammar without memory for it. */
static void test_no_room(void **state)
{
    (void)state;
    static struct engine_fixture fixture;
    engine_fixture_start(&fixture, options_of(4, 64));
    struct request *request = engine_fixture_request(9, 10, 5, 1, false);
    engine_fixture_constrain(&fixture, request, "root ::= \"(\" root \")\" | \"x\"");
    while (arena_alloc(request->arena, 1, 4096) != NULL) {
    }
    while (arena_alloc(request->arena, 1, 16) != NULL) {
    }
    enum err err = engine_fixture_submit(&fixture, request);
    assert_true(err == ERR_LIMIT || err == ERR_MEMORY);
    request_release(request);
    engine_fixture_stop(&fixture);
}

int main(void)
{
    log_configure(LOG_LEVEL_WARN, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batching_changes_nothing),
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_stuck),
        cmocka_unit_test(test_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
