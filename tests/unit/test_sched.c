/* The scheduler's single promises: what a step holds, who is admitted, what is refused. Who is next:
 * test_sched_queue.c. All of it together: test_sched_sim.c. */
#include "server/sched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static const struct kv_shape shape = {.n_layers = 4, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64};

/* Uncalibrated; made for the whole file. */
enum { F16, O4, O2, FORMATS };
static struct kv_formats *formats;

static int create_formats(void **state)
{
    double inv_freq[32];
    (void)state;
    for (int i = 0; i < 32; i++) inv_freq[i] = 1;
    return kv_formats_create(&shape, "f16,o4,o2", NULL, 1, inv_freq, &formats, NULL) == ERR_OK ? 0 : -1;
}

static int free_formats(void **state)
{
    (void)state;
    kv_formats_free(formats);
    return 0;
}

static struct sched_config config_of(int parallel, int max_batch_tokens, int max_logits, int ctx_size,
                                     size_t kv_bytes)
{
    struct sched_config config = {.n_formats = FORMATS,
                                  .kv_bytes = kv_bytes,
                                  .ctx_size = ctx_size,
                                  .parallel = parallel,
                                  .max_batch_tokens = max_batch_tokens,
                                  .max_logits = max_logits};
    for (int f = 0; f < FORMATS; f++)
        config.policies[f] = (struct kv_policy){
            .shape = shape, .format = kv_formats_at(formats, f), .recent_blocks = 2, .sink_tokens = 4};
    return config;
}

static struct sched *sched_of(const struct sched_config *config)
{
    struct sched *sched = NULL;
    assert_int_equal(sched_create(config, &sched, NULL), ERR_OK);
    return sched;
}

static void test_what_can_never_fit_is_refused(void **state)
{
    (void)state;
    struct err_info info;
    size_t block = kv_block_bytes(KV_F16, &shape);
    struct sched_config config = config_of(4, 512, 8, 1000, 10 * block);
    struct sched *sched = sched_of(&config);

    assert_int_equal(sched_check(sched, F16, 600, 41, &info), ERR_OK); /* 640 in the cache */
    assert_int_equal(sched_check(sched, F16, 600, 42, &info), ERR_CAPACITY);
    assert_non_null(strstr(info.message, "--kv-cache-bytes"));
    assert_non_null(strstr(info.message, "600"));
    assert_int_equal(sched_check(sched, O2, 600, 400, &info), ERR_OK);
    assert_int_equal(sched_check(sched, O2, 600, 401, &info), ERR_CAPACITY);
    assert_non_null(strstr(info.message, "--ctx-size"));
    assert_non_null(strstr(info.message, "1001 tokens"));
    assert_int_equal(sched_check(sched, O2, 2147483647, 2147483647, &info), ERR_CAPACITY);
    assert_int_equal(sched_fitting(sched, F16, 320), 2);
    assert_true(sched_fitting(sched, O2, 320) > 2);
    sched_free(sched);
}

/* A long prompt beside sequences that generate: they get a token in every step. */
static void test_prefill_does_not_delay_decode(void **state)
{
    (void)state;
    struct sched_config config = config_of(8, 64, 8, 8192, (size_t)1 << 30);
    struct sched *sched = sched_of(&config);
    struct sched_seq decoders[3], prompt = {.format = O2, .n_prompt = 4000, .max_tokens = 5};
    struct sched_seq *const *chosen;

    for (int i = 0; i < 3; i++) {
        decoders[i] = (struct sched_seq){.format = O2, .n_prompt = 1, .max_tokens = 1000};
        sched_add(sched, &decoders[i], 0);
    }
    assert_int_equal(sched_plan(sched, 0, 512, &chosen), 3);
    sched_advance(sched);
    for (int i = 0; i < 3; i++) sched_token(&decoders[i]);
    sched_add(sched, &prompt, 0);
    for (int left = 4000; left > 0; left -= 61) {
        assert_int_equal(sched_plan(sched, 0, 512, &chosen), 4);
        for (int i = 0; i < 3; i++) assert_true(decoders[i].n_step == 1 && sched_samples(&decoders[i]));
        assert_int_equal(prompt.n_step, left < 61 ? left : 61);
        assert_int_equal(sched_samples(&prompt), left <= 61);
        sched_advance(sched);
        for (int i = 0; i < 3; i++) sched_token(&decoders[i]);
    }
    for (int i = 0; i < 3; i++) sched_cancel(sched, &decoders[i]);
    sched_cancel(sched, &prompt);
    sched_free(sched);
}

/* A small request behind a large one waits, though it would fit: order is by arrival. */
static void test_admission_is_in_order(void **state)
{
    (void)state;
    size_t block = kv_block_bytes(KV_F16, &shape);
    struct sched_config config = config_of(8, 512, 8, 1000, 10 * block);
    struct sched *sched = sched_of(&config);
    struct sched_seq a = {.format = F16, .n_prompt = 320, .max_tokens = 1};
    struct sched_seq b = {.format = F16, .n_prompt = 384, .max_tokens = 1};
    struct sched_seq c = {.format = F16, .n_prompt = 64, .max_tokens = 1};
    struct sched_seq *const *chosen;

    sched_add(sched, &a, 0);
    sched_add(sched, &b, 0);
    sched_add(sched, &c, 0);
    assert_int_equal(sched_plan(sched, 1, 512, &chosen), 1);
    assert_ptr_equal(sched_running(sched), &a);
    assert_int_equal(sched_waiting_count(sched), 2);
    sched_advance(sched);
    sched_finish(sched, &a);
    assert_int_equal(sched_plan(sched, 2000001, 512, &chosen), 2);
    assert_int_equal(b.state, SCHED_RUNNING);
    assert_int_equal(c.state, SCHED_RUNNING);
    /* One ended in the first two seconds. */
    assert_true(sched_finish_interval_us(sched) > 1.9e6 && sched_finish_interval_us(sched) < 2.2e6);
    sched_skip(&b);
    sched_skip(&c);
    sched_advance(sched);
    assert_int_equal(b.n_cached, 0);
    sched_cancel(sched, &b);
    sched_cancel(sched, &c);
    sched_free(sched);
}

/* Sequences in lockstep that seal a block in the same step, in a pool with room for exactly what they reserve
   and one step's headroom: not all of them can at once. One byte less, and one of them is not admitted. */
static void test_sealing_in_lockstep(void **state)
{
    (void)state;
    enum { N = 6 };
    struct sched_config config = config_of(N, 8, N, 1000, 0);
    const struct kv_policy *policy = &config.policies[O4];
    size_t exact = N * kv_policy_bytes(policy, 64) + kv_policy_step_bytes(policy, 8);

    for (size_t less = 0; less <= 1; less++) {
        config.kv_bytes = exact - less;
        struct sched *sched = sched_of(&config);
        struct sched_seq seqs[N];
        struct sched_seq *const *chosen;
        int steps = 0, n_waited = 0;
        for (int i = 0; i < N; i++) {
            seqs[i] = (struct sched_seq){.format = O4, .n_prompt = 1, .max_tokens = 64};
            sched_add(sched, &seqs[i], 0);
        }
        while (sched_plan(sched, 0, 8, &chosen) > 0) {
            size_t bytes = 0;
            int n = 0;
            if (steps++ == 0) assert_int_equal(sched_running_count(sched), N - less);
            for (int i = 0; i < N; i++) {
                bytes += kv_policy_peak_bytes(policy, seqs[i].n_cached, seqs[i].n_step) *
                         (seqs[i].state == SCHED_RUNNING);
                n_waited += seqs[i].state == SCHED_RUNNING && seqs[i].n_step == 0;
                n += seqs[i].n_step > 0;
            }
            assert_true(n > 0 && bytes <= config.kv_bytes);
            sched_advance(sched);
            for (int i = 0; i < N; i++) {
                if (seqs[i].state != SCHED_RUNNING || seqs[i].n_cached < seqs[i].n_tokens) continue;
                if (seqs[i].n_cached == 64)
                    sched_finish(sched, &seqs[i]);
                else
                    sched_token(&seqs[i]);
            }
        }
        assert_true(n_waited > 0 && steps < 200);
        sched_free(sched);
    }
}

static void test_scored_prompts_keep_to_the_logits(void **state)
{
    (void)state;
    struct sched_config config = config_of(4, 512, 40, 1000, (size_t)1 << 30);
    struct sched *sched = sched_of(&config);
    struct sched_seq seq = {.format = O2, .n_prompt = 100, .max_tokens = 0, .score_prompt = true};
    struct sched_seq *const *chosen;
    int rows = 0;

    sched_add(sched, &seq, 0);
    while (seq.n_cached < 100) {
        assert_int_equal(sched_plan(sched, 0, 512, &chosen), 1);
        assert_true(sched_logits(&seq) <= 40);
        rows += sched_logits(&seq);
        sched_advance(sched);
    }
    assert_int_equal(rows, 99);
    sched_finish(sched, &seq);
    sched_free(sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_can_never_fit_is_refused),
        cmocka_unit_test(test_prefill_does_not_delay_decode),
        cmocka_unit_test(test_admission_is_in_order),
        cmocka_unit_test(test_scored_prompts_keep_to_the_logits),
        cmocka_unit_test(test_sealing_in_lockstep),
    };
    return cmocka_run_group_tests(tests, create_formats, free_formats);
}
