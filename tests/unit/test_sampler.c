/* The sampler: known answers of the generator, and what must hold whatever the numbers are. Its distribution,
 * penalties and logprobs are compared with NumPy in tests/sampler. */
#include "model/distribution.h"
#include "model/philox.h"
#include "model/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Random123's known answers for philox4x32, 10 rounds (its file kat_vectors). */
static void test_philox(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        uint32_t out[4];
        philox4x32_10(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
    for (uint64_t i = 0; i < 10000; i++) {
        double u = philox_uniform(i * 0x9E3779B97F4A7C15u, i);
        assert_true(u >= 0 && u < 1);
    }
}

static struct sampler_params defaults(void)
{
    return (struct sampler_params){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .n_logprobs = -1};
}

/* Exactly n logits on the heap, so that asan sees a read past the end. */
static float *row(int n, uint32_t seed)
{
    float *logits = malloc((size_t)n * sizeof *logits);
    assert_non_null(logits);
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        logits[i] = (float)(seed >> 8) * 0x1p-20f - 8;
    }
    return logits;
}

static struct sampler_params variant(int v)
{
    static const struct sampler_bias bias[] = {{0, 2.5f}, {3, -100}, {100000, 5}, {-1, 5}};
    struct sampler_params params = defaults();
    params.seed = (uint64_t)v * 77;
    if (v & 1) params.top_p = 0.9f;
    if (v & 2) params.top_k = 20;
    if (v & 4) params.min_p = 0.02f;
    if (v & 8) params.repetition_penalty = 1.2f;
    if (v & 16) params.presence_penalty = params.frequency_penalty = 0.4f;
    if (v & 32) params.n_logprobs = SAMPLER_MAX_LOGPROBS;
    if (v & 64) {
        params.bias = bias;
        params.n_bias = 4;
    }
    if (v % 11 == 0) params.temperature = 0;
    return params;
}

/* A draw depends on its arguments alone: not on the sampler, nor on what it drew before. */
static void test_draws_are_pure(void **state)
{
    (void)state;
    static const int sizes[] = {1, 5, 64, 65, 300, 5000};
    static const int32_t prompt[] = {0, 1, 1, 4, 299, 100000, -7}, output[] = {4, 4, 2, 0};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int n = sizes[s];
        float *logits = row(n, (uint32_t)n), *copy = row(n, (uint32_t)n);
        struct sampler *old = sampler_create(n);
        assert_non_null(old);
        for (int v = 0; v < 128; v++) {
            struct sampler *fresh = sampler_create(n);
            struct sampler_params params = variant(v);
            struct sampler_result a, b;
            memset(&a, 0x55, sizeof a);
            memset(&b, 0x55, sizeof b);
            sampler_draw(old, &params, logits, NULL, prompt, 7, output, 4, &a);
            sampler_draw(fresh, &params, logits, NULL, prompt, 7, output, 4, &b);
            assert_memory_equal(&a, &b, sizeof a);
            assert_memory_equal(logits, copy, (size_t)n * sizeof *logits);
            assert_in_range(a.token, 0, n - 1);
            assert_int_equal(a.n_top, params.n_logprobs < 0      ? 0
                                      : n < SAMPLER_MAX_LOGPROBS ? n
                                                                 : SAMPLER_MAX_LOGPROBS);
            for (int i = 1; i < a.n_top; i++) assert_true(a.top_logprob[i - 1] >= a.top_logprob[i]);
            sampler_free(fresh);
        }
        sampler_free(old);
        free(logits);
        free(copy);
    }
    sampler_free(NULL);
}

static void test_greedy(void **state)
{
    (void)state;
    float *logits = row(1000, 1);
    struct sampler *sampler = sampler_create(1000);
    struct sampler_params params = defaults();
    struct sampler_result result;
    params.temperature = 0;
    logits[640] = logits[641] = logits[900] = 100;
    sampler_draw(sampler, &params, logits, NULL, NULL, 0, NULL, 0, &result);
    assert_int_equal(result.token, 640);
    assert_int_equal(result.n_top, 0);
    params.n_logprobs = 2;
    sampler_draw(sampler, &params, logits, NULL, NULL, 0, NULL, 0, &result);
    assert_int_equal(result.n_top, 2);
    assert_int_equal(result.top_token[0], 640);
    assert_int_equal(result.top_token[1], 641);
    assert_true(fabsf(result.logprob - logf(1.0f / 3)) < 1e-6f);
    params.temperature = NAN; /* no temperature at all is greedy, not a crash */
    sampler_draw(sampler, &params, logits, NULL, NULL, 0, NULL, 0, &result);
    assert_int_equal(result.token, 640);
    sampler_free(sampler);
    free(logits);
}

/* Whatever else is asked for, a token that is not allowed is never drawn. */
static void test_mask(void **state)
{
    (void)state;
    static const int32_t prompt[] = {0, 1, 1, 4, 299}, output[] = {4, 4, 2, 0};
    static const int sizes[] = {1, 31, 32, 33, 64, 65, 300, 5000};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int n = sizes[s];
        size_t n_words = ((size_t)n + 31) / 32;
        float *logits = row(n, (uint32_t)n);
        uint32_t *allowed = malloc(n_words * sizeof *allowed), *all = malloc(n_words * sizeof *all);
        struct sampler *sampler = sampler_create(n);
        assert_true(allowed && all && sampler);
        for (int v = 0; v < 128; v++) {
            struct sampler_params params = variant(v);
            struct sampler_result masked, whole, free_draw;
            uint32_t random = (uint32_t)v;
            for (size_t i = 0; i < n_words; i++) {
                uint32_t valid = i + 1 < n_words || n % 32 == 0 ? UINT32_MAX : (1u << n % 32) - 1;
                random = random * 1664525u + 1013904223u;
                all[i] = valid;
                allowed[i] = (v % 3 ? random : random & random << 7 & random << 13) & valid;
            }
            allowed[(n - 1) / 32] |= 1u << (n - 1) % 32;
            sampler_draw(sampler, &params, logits, allowed, prompt, 5, output, 4, &masked);
            assert_in_range(masked.token, 0, n - 1);
            assert_true(allowed[masked.token / 32] >> masked.token % 32 & 1);
            memset(&whole, 0, sizeof whole);
            memset(&free_draw, 0, sizeof free_draw);
            sampler_draw(sampler, &params, logits, all, prompt, 5, output, 4, &whole);
            sampler_draw(sampler, &params, logits, NULL, prompt, 5, output, 4, &free_draw);
            assert_memory_equal(&whole, &free_draw, sizeof whole);
        }
        sampler_free(sampler);
        free(allowed);
        free(all);
        free(logits);
    }
}

static void test_score(void **state)
{
    (void)state;
    float *logits = row(70, 2);
    struct sampler *sampler = sampler_create(70);
    struct sampler_result result;
    double mass = 0;
    for (int32_t token = 0; token < 70; token++) {
        sampler_score(sampler, 1, logits, token, &result);
        assert_int_equal(result.token, token);
        assert_int_equal(result.n_top, 1);
        mass += exp((double)result.logprob);
    }
    assert_true(fabs(mass - 1) < 1e-5);
    sampler_free(sampler);
    free(logits);
}

/* drawn_logprobs changes no token; what they are of sums to 1 and is the model's own distribution without
   what min_p, top_k and top_p took away. */
static void test_drawn_logprobs(void **state)
{
    (void)state;
    float *logits = row(300, 5);
    struct sampler *sampler = sampler_create(300);
    for (int v = 0; v < 8; v++) {
        struct sampler_params params = defaults();
        params.n_logprobs = SAMPLER_MAX_LOGPROBS;
        if (v & 1) params.top_k = 9;
        if (v & 2) params.min_p = .2f;
        if (v & 4) params.top_p = .6f;
        for (params.seed = 0; params.seed < 20; params.seed++) {
            struct sampler_result own, drawn;
            sampler_draw(sampler, &params, logits, NULL, NULL, 0, NULL, 0, &own);
            params.drawn_logprobs = true;
            sampler_draw(sampler, &params, logits, NULL, NULL, 0, NULL, 0, &drawn);
            params.drawn_logprobs = false;
            assert_int_equal(own.token, drawn.token);
            assert_true(drawn.n_top >= 1 && drawn.n_top <= own.n_top);
            double gain = (double)drawn.top_logprob[0] - (double)own.top_logprob[0], mass = 0;
            assert_true(v == 0 ? fabs(gain) < 1e-5 : gain > 0);
            for (int i = 0; i < drawn.n_top; i++) {
                assert_int_equal(drawn.top_token[i], own.top_token[i]);
                assert_true(fabs((double)drawn.top_logprob[i] - (double)own.top_logprob[i] - gain) < 1e-5);
                mass += exp((double)drawn.top_logprob[i]);
            }
            assert_true(fabs((double)drawn.logprob - (double)own.logprob - gain) < 1e-5);
            assert_true(drawn.n_top == SAMPLER_MAX_LOGPROBS ? mass <= 1 + 1e-5 : fabs(mass - 1) < 1e-5);
            if (v & 1) assert_true(drawn.n_top <= 9);
        }
    }
    sampler_free(sampler);
    free(logits);
}

/* What a device tells of a row, the long way. */
static void answer_make(const struct backend_wish *wish, const float *logits, int n, float depth,
                        struct backend_listed *list, struct backend_answer *out)
{
    struct distribution distribution;
    assert_true(distribution_init(&distribution, n));
    distribution_scan(&distribution, logits);
    *out = (struct backend_answer){.max = distribution.max, .token = distribution_best(&distribution)};
    if (wish->kind != BACKEND_BEST && distribution.max != -INFINITY) {
        distribution_weigh(&distribution, 1 / wish->scale);
        out->mass = distribution.mass;
        if (wish->kind == BACKEND_DRAW) out->token = distribution_draw_all(&distribution, wish->u);
    }
    if (wish->kind == BACKEND_LIST) {
        out->threshold = distribution.max + depth;
        out->list = list;
        for (int i = 0; i < n; i++)
            if (logits[i] >= out->threshold) list[out->n++] = (struct backend_listed){logits[i], i};
    }
    distribution_free(&distribution);
}

/* Temperatures are powers of two, so that 1 / (1 / t) is t. */
static void test_answers(void **state)
{
    (void)state;
    enum { N = 700, ROUNDS = 40 };
    static const struct sampler_params cases[] = {
        {.temperature = 0, .top_p = 1},
        {.temperature = 1, .top_p = 1},
        {.temperature = 0.5f, .top_p = 0.9f},
        {.temperature = 1, .top_p = 0.99f},
        {.temperature = 1, .top_p = 1, .top_k = 20},
        {.temperature = 2, .top_p = 0.7f, .top_k = 60, .min_p = 0.05f},
        {.temperature = 1, .top_p = 1, .min_p = 0.1f},
    };
    static float logits[N];
    static struct backend_listed list[N];
    struct sampler *sampler = sampler_create(N);
    int n_short = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < N; i++)
            logits[i] = (float)(6 * philox_uniform(round, (uint64_t)i) + 4 * (i % 97 == 5));
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            struct sampler_params params = cases[c];
            struct sampler_result expected, got;
            struct backend_wish wish;
            struct backend_answer answer;
            params.n_logprobs = -1;
            params.repetition_penalty = 1;
            params.seed = round;
            sampler_wish(&params, N, false, 3, &wish);
            assert_int_not_equal(wish.kind, BACKEND_ROW);
            sampler_draw(sampler, &params, logits, NULL, NULL, 0, NULL, 3, &expected);
            for (int near = 0; near < 2; near++) {
                answer_make(&wish, logits, N, wish.depth[near], list, &answer);
                bool is_enough = sampler_draw_answer(sampler, &params, &answer, 3, &got);
                if (is_enough) assert_int_equal(got.token, expected.token);
                assert_true(is_enough || near); /* the far list has every token here */
                n_short += !is_enough;
            }
            answer.n = -1;
            assert_false(sampler_draw_answer(sampler, &params, &answer, 3, &got));
        }
    }
    assert_true(n_short > 0); /* and lists that are too short are noticed */
    sampler_free(sampler);
}

static void test_wishes_for_the_row(void **state)
{
    (void)state;
    const struct sampler_bias bias = {.token = 1, .bias = 1};
    const struct sampler_params plain = {
        .temperature = 1, .top_p = 1, .repetition_penalty = 1, .n_logprobs = -1};
    struct sampler_params biased = plain, penalized = plain, wordy = plain;
    struct backend_wish wish;
    biased.bias = &bias, biased.n_bias = 1;
    penalized.presence_penalty = 0.5f;
    wordy.n_logprobs = 0;
    sampler_wish(&plain, 100, false, 0, &wish);
    assert_int_equal(wish.kind, BACKEND_DRAW);
    sampler_wish(&plain, 100, true, 0, &wish);
    assert_int_equal(wish.kind, BACKEND_ROW);
    const struct sampler_params *whole[] = {&biased, &penalized, &wordy};
    for (int i = 0; i < 3; i++) {
        sampler_wish(whole[i], 100, false, 0, &wish);
        assert_int_equal(wish.kind, BACKEND_ROW);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),  cmocka_unit_test(test_draws_are_pure),
        cmocka_unit_test(test_greedy),  cmocka_unit_test(test_mask),
        cmocka_unit_test(test_score),   cmocka_unit_test(test_drawn_logprobs),
        cmocka_unit_test(test_answers), cmocka_unit_test(test_wishes_for_the_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
