#include "server/completions.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_VOCAB = 1000 };

struct parsed {
    struct json *body;
    struct arena *arena;
    struct completions_params params;
    struct err_info info;
    enum err err;
};

static struct parsed parse(const char *text)
{
    struct parsed parsed = {.arena = arena_create(1 << 24)};
    struct json_limits limits = json_limits_default;
    limits.max_bytes = 1 << 20;
    parsed.err = json_parse(text, strlen(text), &limits, &parsed.body, &parsed.info);
    assert_int_equal(parsed.err, ERR_OK);
    parsed.err = completions_parse(parsed.body, N_VOCAB, &completions_defaults, parsed.arena, &parsed.params,
                                   &parsed.info);
    return parsed;
}

static void release(struct parsed *parsed)
{
    json_free(parsed->body);
    arena_free(parsed->arena);
}

static void test_defaults(void **state)
{
    (void)state;
    struct parsed parsed =
        parse("{\"prompt\":\"Hello\",\"unknown\":{\"x\":[1]},\"stop\":null,\"seed\":null}");
    assert_int_equal(parsed.err, ERR_OK);
    const struct completions_params *params = &parsed.params;
    assert_null(params->common.model);
    assert_int_equal(params->n_prompts, 1);
    assert_string_equal(params->prompts[0].text, "Hello");
    assert_int_equal(params->common.n, 1);
    assert_int_equal(params->common.max_tokens, 16);
    assert_false(params->common.max_tokens_given);
    assert_false(params->common.stream || params->echo || params->common.ignore_eos || params->common.seeded);
    assert_true(params->common.sampler.temperature == 1 && params->common.sampler.top_p == 1 &&
                params->common.sampler.min_p == 0);
    assert_true(params->common.sampler.repetition_penalty == 1);
    assert_int_equal(params->common.sampler.n_logprobs, -1);
    assert_int_equal(params->common.stop.n, 0);
    release(&parsed);
}

static void test_everything(void **state)
{
    (void)state;
    struct parsed parsed = parse(
        "{\"model\":\"m\",\"prompt\":[[1,2],[3]],\"n\":2,\"best_of\":2,\"max_tokens\":0,\"temperature\":0,"
        "\"top_p\":0,\"top_k\":-1,\"min_p\":1,\"seed\":-7,\"stop\":[\"a\",\"bc\"],\"presence_penalty\":-2,"
        "\"frequency_penalty\":2.0,\"repetition_penalty\":1.5,\"logit_bias\":{\"7\":-100,\"999\":1e0},"
        "\"stream\":true,\"stream_options\":{\"include_usage\":true},\"echo\":true,\"logprobs\":20,"
        "\"ignore_eos\":true,\"stop_token_ids\":[5,6],\"user\":\"u\",\"suffix\":\"\",\"kv_format\":\"f16\"}");
    assert_int_equal(parsed.err, ERR_OK);
    const struct completions_params *params = &parsed.params;
    assert_int_equal(params->n_prompts, 2);
    assert_null(params->prompts[0].text);
    assert_int_equal(params->prompts[0].tokens.n, 2);
    assert_int_equal(params->prompts[1].tokens.tokens[0], 3);
    assert_int_equal(params->common.n, 2);
    assert_int_equal(params->common.max_tokens, 0);
    assert_true(params->common.max_tokens_given && params->common.stream && params->common.include_usage &&
                params->echo);
    assert_true(params->common.sampler.top_p > 0 && params->common.sampler.top_p < 1e-30f);
    assert_true(params->common.sampler.min_p < 1 && params->common.sampler.min_p > 0.999f);
    assert_true(params->common.seeded);
    assert_true(params->common.sampler.seed == (uint64_t)-7);
    assert_int_equal(params->common.stop.n, 2);
    assert_string_equal(params->common.stop.strings[1].text, "bc");
    assert_int_equal(params->common.sampler.n_bias, 2);
    assert_int_equal(params->common.sampler.bias[1].token, 999);
    assert_true(params->common.sampler.bias[0].bias == -100);
    assert_int_equal(params->common.n_stop_tokens, 2);
    assert_string_equal(params->common.kv_format, "f16");
    release(&parsed);
}

static void test_faults(void **state)
{
    (void)state;
    static const struct {
        const char *body, *param;
    } cases[] = {
        {"[1]", ""},
        {"{}", "prompt"},
        {"{\"prompt\":null}", "prompt"},
        {"{\"prompt\":5}", "prompt"},
        {"{\"prompt\":true}", "prompt"},
        {"{\"prompt\":{}}", "prompt"},
        {"{\"prompt\":[]}", "prompt"},
        {"{\"prompt\":[[]]}", "prompt[0]"},
        {"{\"prompt\":[\"a\",5]}", "prompt[1]"},
        {"{\"prompt\":[\"a\",[5]]}", "prompt[1]"},
        {"{\"prompt\":[5,\"a\"]}", "prompt[1]"},
        {"{\"prompt\":[5,6.5]}", "prompt[1]"},
        {"{\"prompt\":[-1]}", "prompt[0]"},
        {"{\"prompt\":[1000]}", "prompt[0]"},
        {"{\"prompt\":[1e300]}", "prompt[0]"},
        {"{\"prompt\":[[1],[1000]]}", "prompt[1][0]"},
        {"{\"prompt\":[[[1]]]}", "prompt[0][0]"},
        {"{\"prompt\":[true]}", "prompt[0]"},
        {"{\"prompt\":\"a\",\"model\":5}", "model"},
        {"{\"prompt\":\"a\",\"n\":0}", "n"},
        {"{\"prompt\":\"a\",\"n\":129}", "n"},
        {"{\"prompt\":\"a\",\"n\":1.5}", "n"},
        {"{\"prompt\":\"a\",\"n\":true}", "n"},
        {"{\"prompt\":\"a\",\"n\":\"1\"}", "n"},
        {"{\"prompt\":\"a\",\"n\":3,\"best_of\":2}", "best_of"},
        {"{\"prompt\":\"a\",\"best_of\":0}", "best_of"},
        {"{\"prompt\":\"a\",\"best_of\":129}", "best_of"},
        {"{\"prompt\":\"a\",\"best_of\":2,\"stream\":true}", "best_of"},
        {"{\"prompt\":\"a\",\"max_tokens\":-1}", "max_tokens"},
        {"{\"prompt\":\"a\",\"max_tokens\":2147483648}", "max_tokens"},
        {"{\"prompt\":\"a\",\"max_tokens\":1e30}", "max_tokens"},
        {"{\"prompt\":\"a\",\"temperature\":-0.1}", "temperature"},
        {"{\"prompt\":\"a\",\"temperature\":2.1}", "temperature"},
        {"{\"prompt\":\"a\",\"temperature\":false}", "temperature"},
        {"{\"prompt\":\"a\",\"temperature\":[]}", "temperature"},
        {"{\"prompt\":\"a\",\"top_p\":1.1}", "top_p"},
        {"{\"prompt\":\"a\",\"top_k\":-2}", "top_k"},
        {"{\"prompt\":\"a\",\"min_p\":-1}", "min_p"},
        {"{\"prompt\":\"a\",\"presence_penalty\":2.5}", "presence_penalty"},
        {"{\"prompt\":\"a\",\"frequency_penalty\":-2.5}", "frequency_penalty"},
        {"{\"prompt\":\"a\",\"repetition_penalty\":0}", "repetition_penalty"},
        {"{\"prompt\":\"a\",\"logprobs\":21}", "logprobs"},
        {"{\"prompt\":\"a\",\"logprobs\":true}", "logprobs"},
        {"{\"prompt\":\"a\",\"logprobs\":-1}", "logprobs"},
        {"{\"prompt\":\"a\",\"seed\":1.5}", "seed"},
        {"{\"prompt\":\"a\",\"seed\":\"x\"}", "seed"},
        {"{\"prompt\":\"a\",\"seed\":9007199254740992}", "seed"},
        {"{\"prompt\":\"a\",\"logit_bias\":[]}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"\":1}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"1000\":1}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"-1\":1}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"99999999999999999999\":1}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":101}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":true}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"stop\":5}", "stop"},
        {"{\"prompt\":\"a\",\"stop\":\"\"}", "stop"},
        {"{\"prompt\":\"a\",\"stop\":[\"a\",\"\"]}", "stop"},
        {"{\"prompt\":\"a\",\"stop\":[5]}", "stop"},
        {"{\"prompt\":\"a\",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\","
         "\"c\",\"d\","
         "\"e\",\"f\",\"g\",\"h\"]}",
         "stop"},
        {"{\"prompt\":\"a\",\"stop_token_ids\":5}", "stop_token_ids"},
        {"{\"prompt\":\"a\",\"stop_token_ids\":[1000]}", "stop_token_ids[0]"},
        {"{\"prompt\":\"a\",\"stream\":1}", "stream"},
        {"{\"prompt\":\"a\",\"stream_options\":{}}", "stream_options"},
        {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":5}", "stream_options"},
        {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":1}}",
         "stream_options.include_usage"},
        {"{\"prompt\":\"a\",\"echo\":\"yes\"}", "echo"},
        {"{\"prompt\":\"a\",\"ignore_eos\":0}", "ignore_eos"},
        {"{\"prompt\":\"a\",\"user\":5}", "user"},
        {"{\"prompt\":\"a\",\"suffix\":\"b\",\"echo\":true}", "echo"},
        {"{\"prompt\":\"a\",\"suffix\":5}", "suffix"},
        {"{\"prompt\":\"a\",\"kv_format\":2}", "kv_format"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct parsed parsed = parse(cases[i].body);
        if (parsed.err == ERR_OK) fail_msg("accepted: %s", cases[i].body);
        if (strcmp(parsed.info.param, cases[i].param) != 0)
            fail_msg("%s: names '%s' (%s)", cases[i].body, parsed.info.param, parsed.info.message);
        assert_true(parsed.info.message[0] != '\0');
        release(&parsed);
    }
}

static void test_best_of(void **state)
{
    (void)state;
    struct parsed parsed = parse("{\"prompt\":\"a\",\"n\":2,\"best_of\":5,\"suffix\":\"x\\ny\"}");
    assert_int_equal(parsed.err, ERR_OK);
    assert_int_equal(parsed.params.common.n, 5);
    assert_int_equal(parsed.params.n_wanted, 2);
    assert_int_equal(parsed.params.suffix_length, 3);
    assert_memory_equal(parsed.params.suffix, "x\ny", 3);
    release(&parsed);
}

/* Many prompts times n have a ceiling. */
static void test_many(void **state)
{
    (void)state;
    for (int n = GENERATION_MAX_CHOICES; n <= GENERATION_MAX_CHOICES + 1; n++) {
        char *text = malloc((size_t)n * 4 + 100);
        strcpy(text, "{\"prompt\":[");
        for (int i = 0; i < n; i++) strcat(text, i > 0 ? ",\"a\"" : "\"a\"");
        strcat(text, "]}");
        struct parsed parsed = parse(text);
        assert_int_equal(parsed.err == ERR_OK, n == GENERATION_MAX_CHOICES);
        release(&parsed);
        free(text);
    }
    struct parsed parsed =
        parse("{\"prompt\":[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\"],\"n\":128}");
    assert_int_equal(parsed.err, ERR_INVALID);
    assert_string_equal(parsed.info.param, "n");
    release(&parsed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_everything), cmocka_unit_test(test_faults),
        cmocka_unit_test(test_best_of),  cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
