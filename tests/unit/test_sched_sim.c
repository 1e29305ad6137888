/*
 * The scheduler with everything at once, in the simulator (tests/unit/support/sched_sim.h), and the failures
 * that users of other servers report, which must not happen here. tests/tools/simulate_sched.c runs the same
 * for millions of steps.
 */
#include "tests/unit/support/sched_sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static const struct kv_shape shape = {.n_layers = 4, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64};
enum { F16, O2, O4, FORMATS };
static struct kv_formats *formats;

static int create_formats(void **state)
{
    double inv_freq[32];
    (void)state;
    for (int i = 0; i < 32; i++) inv_freq[i] = 1;
    return kv_formats_create(&shape, "f16,o2,o4", NULL, 1, inv_freq, &formats, NULL) == ERR_OK ? 0 : -1;
}

static int free_formats(void **state)
{
    (void)state;
    kv_formats_free(formats);
    return 0;
}

static struct kv_policy policy_of(int format)
{
    return (struct kv_policy){
        .shape = shape, .format = kv_formats_at(formats, format), .recent_blocks = 3, .sink_tokens = 4};
}

/* blocks: what the pool holds of fp16 blocks. */
static struct sim_config config_of(int ctx_size, int parallel, int max_batch_tokens, int max_logits,
                                   int blocks)
{
    struct sim_config config = {.sched = {.n_formats = FORMATS,
                                          .ctx_size = ctx_size,
                                          .parallel = parallel,
                                          .max_batch_tokens = max_batch_tokens,
                                          .max_logits = max_logits,
                                          .ageing_us = 100000},
                                .seed = 1,
                                .max_queue = 60,
                                .median_prompt = 90,
                                .median_output = 40,
                                .max_tokens_factor = 2,
                                .cancel_rate = 1e-4,
                                .deadline_share = .05,
                                .evict_rate = .01,
                                .shared = true,
                                .mixed = true};
    for (int f = 0; f < FORMATS; f++) config.sched.policies[f] = policy_of(f);
    config.sched.kv_bytes = (size_t)blocks * kv_policy_block_bytes(&config.sched.policies[F16], KV_F16);
    return config;
}

static void simulate(struct sim_config config, long n_steps, struct sim_result *out)
{
    config.n_steps = n_steps;
    *out = sim_run(&config);
    print_message("%s, parallel %d, batch %d: %ld finished, %ld refused, %ld left, %ld late; running %.1f, "
                  "preempted %llu, wasted %.2f %%, hits %.1f %%; passed over %d steps\n",
                  config.sched.admission == SCHED_OPTIMISTIC ? "optimistic" : "no-evict",
                  config.sched.parallel, config.sched.max_batch_tokens, out->finished, out->refused,
                  out->cancelled, out->expired, out->running, (unsigned long long)out->stats.preempted,
                  100 * out->wasted,
                  100. * (double)out->stats.hit_tokens / (double)out->stats.looked_up_tokens, out->worst_gap);
    assert_true(out->finished > 100);
}

/* Floods without end, in shapes of server that have nothing in common. */
static void test_shapes(void **state)
{
    (void)state;
    for (int admission = SCHED_NO_EVICT; admission <= SCHED_OPTIMISTIC; admission++) {
        struct sim_config shapes[] = {
            config_of(1024, 8, 64, 16, 40),    /* small */
            config_of(2048, 32, 512, 64, 400), /* usual */
            config_of(512, 16, 4, 16, 100),    /* more running than tokens in a step: turns */
            config_of(300, 16, 1, 1, 100),     /* one token a step */
            config_of(700, 64, 17, 3, 20),     /* hardly any memory, few logits */
            config_of(700, 4, 512, 4, 14),     /* hardly any memory, large steps */
        };
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            struct sim_result result;
            shapes[i].sched.admission = (enum sched_admission)admission;
            shapes[i].seed += i;
            simulate(shapes[i], 30000, &result);
        }
    }
}

static uint64_t random_state = 12345;

static int draw(int below)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int)((random_state >> 33) % (uint64_t)below);
}

/* Small as often as large. */
static int draw_size(int large, int small)
{
    return 1 + draw(draw(2) ? large : small);
}

/* Servers and clients drawn at random. */
static void test_random_shapes(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        int ctx_size = 100 + draw(3000), parallel = draw_size(100, 8);
        int batch = draw_size(600, 20), logits = draw_size(200, 4);
        struct sim_config config = config_of(ctx_size, parallel, batch, logits, 0);
        int blocks = (ctx_size + batch) / KV_BLOCK_TOKENS + 4; /* one of any format fits */
        blocks = blocks * (10 + draw(60)) / 10;
        config.sched.kv_bytes = (size_t)blocks * kv_policy_block_bytes(&config.sched.policies[F16], KV_F16);
        for (int f = 0; f < FORMATS; f++) config.sched.policies[f].recent_blocks = draw(10);
        config.sched.admission = draw(3) == 0 ? SCHED_NO_EVICT : SCHED_OPTIMISTIC;
        config.sched.ageing_us = 1 + draw(10000000);
        config.seed = (uint64_t)i;
        config.n_steps = 2500;
        config.max_queue = draw(300);
        config.max_queue_tokens = draw(2) * draw(20000);
        config.load = draw(2);
        config.arrivals = draw(100) / 100.;
        config.median_prompt = draw_size(400, 20);
        config.median_output = draw_size(400, 20);
        config.max_tokens_factor = 1 + draw(8);
        config.cancel_rate = draw(2) * 1e-3;
        config.deadline_share = draw(2) * .3;
        config.evict_rate = draw(3) * .5;
        config.shared = draw(4) > 0;
        if (draw(2) == 0)
            config.swap =
                (struct cache_model_swap){.bytes = config.sched.kv_bytes * (size_t)(1 + draw(40)) / 10,
                                          .bad = draw(3) * .02,
                                          .dear = draw(3) * .3,
                                          .slow = draw(3) * .4,
                                          .chances = draw(4)};
        config.mixed = draw(2);
        config.common_blocks = 1 + draw(ctx_size / KV_BLOCK_TOKENS + 1);
        config.all_common = draw(3) == 0;
        config.one_tenant = draw(3) == 0;
        config.one_priority = draw(3) == 0;
        sim_run(&config);
    }
}

/* Nothing shared, and no cache at all: what the engine does without one. */
static void test_without_a_cache(void **state)
{
    struct sim_config config = config_of(2048, 32, 256, 64, 200);
    struct sim_result result;
    (void)state;
    config.shared = false;
    simulate(config, 50000, &result);
    assert_int_equal(result.stats.hit_tokens, 0);
}

/* At 120 % of what it can do: little is computed twice, tenants get the same, better priorities wait less. */
static void test_overload(void **state)
{
    (void)state;
    for (int admission = SCHED_NO_EVICT; admission <= SCHED_OPTIMISTIC; admission++) {
        struct sim_config config = config_of(4096, 64, 256, 64, 300);
        struct sim_result result;
        config.sched.admission = (enum sched_admission)admission;
        config.sched.ageing_us = 2000000;
        config.max_queue = 30;
        simulate(config, 20000, &result);
        config.max_queue = 400;
        config.load = 1.2;
        config.arrivals = result.rate;
        simulate(config, 150000, &result);
        assert_true(result.wasted <= 0.02 && result.fairness > 0.98);
        assert_true(result.wait_us[0] < result.wait_us[2] && result.wait_us[2] < result.wait_us[4]);
    }
}

/* With one tenant, nothing is computed before a sequence is admitted but what came before it or is more
   urgent; sched_sim checks it for each. */
static void test_waiting_is_bounded(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct sim_config config = config_of(2048, 16, 128, 16, 100);
        struct sim_result result;
        config.sched.admission = i % 2 == 0 ? SCHED_NO_EVICT : SCHED_OPTIMISTIC;
        config.one_tenant = true;
        config.one_priority = i < 2;
        config.max_queue = 200;
        config.load = 1;
        config.arrivals = 0.2;
        simulate(config, 40000, &result);
    }
}

/* A tenant with twenty times the requests of each other one keeps nobody waiting but itself. */
static void test_a_flood_drowns_itself(void **state)
{
    struct sim_config config = config_of(2048, 32, 256, 32, 150);
    struct sim_result result;
    (void)state;
    config.one_priority = true;
    config.max_queue = 20;
    simulate(config, 20000, &result);
    config.tenant_weights[0] = 20;
    for (int t = 1; t < SIM_TENANTS; t++) config.tenant_weights[t] = 1;
    config.max_queue = 600;
    config.load = 1.2;
    config.arrivals = result.rate;
    simulate(config, 100000, &result);
    for (int t = 1; t < SIM_TENANTS; t++)
        assert_true(20 * result.tenant_wait_us[t] < result.tenant_wait_us[0]);
}

/* No-evict, and next to everything is shared: far more are admitted than without sharing. Everything
   idle is forgotten in every step and sharers leave at random; what was admitted ends all the same
   (sched_verify: the sum never passes the pool). */
static void test_sharing_keeps_its_promise(void **state)
{
    struct sim_config config = config_of(2048, 64, 256, 64, 160);
    struct sim_result alone, shared;
    (void)state;
    config.common_blocks = 20;
    config.all_common = true;
    config.evict_rate = 1;
    config.cancel_rate = 2e-4;
    config.median_prompt = 60;
    config.one_tenant = true;
    config.sched.n_formats = 1;
    config.mixed = false;
    simulate(config, 60000, &shared);
    config.all_common = false;
    config.shared = false;
    config.median_prompt = 1340;
    simulate(config, 60000, &alone);
    assert_true(shared.running > 2.5 * alone.running &&
                shared.stats.hit_tokens > shared.stats.computed_tokens);
    for (int f = O2; f < FORMATS; f++) {
        config.sched.policies[0] = policy_of(f);
        config.sched.kv_bytes /= 3;
        config.shared = config.all_common = true;
        config.median_prompt = 60;
        simulate(config, 60000, &shared);
    }
}

/* At the same bytes, many more of the small format run. */
static void test_small_blocks_admit_more(void **state)
{
    double running[2];
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct sim_config config = config_of(4096, 512, 512, 512, 300);
        struct sim_result result;
        config.mixed = false;
        config.sched.n_formats = 1;
        config.sched.policies[0] = policy_of(i == 0 ? F16 : O2);
        config.max_queue = 600;
        config.median_prompt = 900;
        simulate(config, 20000, &result);
        running[i] = result.running;
    }
    assert_true(running[1] > 4 * running[0]);
}

/* --- One prompt, many clients --- */

enum { CLIENTS = 64 };

struct herd_client {
    struct sched_seq seq;
    struct cache_holder holder;
};

static struct cache_holder *herd_holder(void *owner)
{
    return &((struct herd_client *)owner)->holder;
}

static void herd_step(struct sched *sched, struct cache_model *model, int64_t now_us)
{
    struct sched_seq *const *chosen, *sampled[CLIENTS];
    cache_model_plan(model);
    int n_sampled = 0, n = sched_plan(sched, now_us, 512, &chosen);

    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        cache_model_begin(model, herd_holder(chosen[i]->owner), chosen[i]->n_step);
        if (sched_samples(chosen[i])) sampled[n_sampled++] = chosen[i];
    }
    for (int i = 0; i < n; i++) cache_model_end(model, herd_holder(chosen[i]->owner));
    sched_advance(sched);
    cache_model_verify(model, sched);
    for (int i = 0; i < n_sampled; i++) {
        if (sampled[i]->n_tokens + 1 < sampled[i]->n_prompt + sampled[i]->max_tokens) {
            sched_token(sampled[i]);
            continue;
        }
        sched_finish(sched, sampled[i]);
        cache_model_release(model, herd_holder(sampled[i]->owner));
    }
    sched_verify(sched);
}

/* All come at once, to an empty cache. */
static void run_herd(int format, int n_common)
{
    static struct herd_client clients[CLIENTS];
    static struct cache_block *blocks[CLIENTS][64];
    struct kv_policy policy = policy_of(format);
    struct sched_config config = {.policies = {policy},
                                  .n_formats = 1,
                                  .kv_bytes = 2 * kv_policy_bytes(&policy, n_common) +
                                              CLIENTS * kv_policy_bytes(&policy, 4 * KV_BLOCK_TOKENS),
                                  .ctx_size = 4096,
                                  .parallel = CLIENTS,
                                  .max_batch_tokens = 512,
                                  .max_logits = CLIENTS};
    struct cache_model *model = cache_model_create(&policy, 1, config.kv_bytes);
    struct sched_cache ops;
    struct sched *sched;
    int most = 0;

    cache_model_ops(model, herd_holder, &ops);
    config.cache = &ops;
    assert_int_equal(sched_create(&config, &sched, NULL), ERR_OK);
    for (int i = 0; i < CLIENTS; i++) {
        struct herd_client *client = &clients[i];
        client->seq = (struct sched_seq){.owner = client, .n_prompt = n_common + 20, .max_tokens = 100};
        client->holder = (struct cache_holder){
            .seq = &client->seq, .id = (uint64_t)i, .n_common = n_common, .blocks = blocks[i]};
        sched_add(sched, &client->seq, 1);
        client->holder.lasting_block = sched_lasting_block(sched, &client->seq);
    }
    for (int64_t now_us = 1; sched_running_count(sched) + sched_waiting_count(sched) > 0; now_us++) {
        herd_step(sched, model, now_us);
        if (sched_running_count(sched) > most) most = sched_running_count(sched);
    }
    assert_true(most > CLIENTS / 2); /* held once */
    /* Beside the one prompt: of each client the tail of its prompt and what it generated. */
    assert_true(sched_stats(sched)->computed_tokens <= (uint64_t)(n_common + CLIENTS * (20 + 100)));
    sched_free(sched);
    cache_model_free(model);
}

/* The prompt they share is computed once, whether it is longer than a step or shorter than one. */
static void test_a_herd_computes_once(void **state)
{
    (void)state;
    for (int format = 0; format < FORMATS; format++) {
        run_herd(format, 3008);
        run_herd(format, 192);
    }
}

/* --- What users of other servers report --- */

/* Sequences that each grow to most of the pool, admitted together: they must not throw each other out in
   turns. Everyone ends, after few preemptions, and little is computed twice. */
static void test_no_preemption_thrash(void **state)
{
    struct sim_config config = config_of(1500, 8, 256, 8, 24);
    struct sim_result result;
    (void)state;
    config.sched.admission = SCHED_OPTIMISTIC;
    config.mixed = false;
    config.sched.n_formats = 1; /* f16: a sequence of 1,500 tokens fills the pool */
    config.max_queue = 20;
    config.median_prompt = 20;
    config.median_output = 900;
    config.max_tokens_factor = 1;
    config.cancel_rate = config.deadline_share = config.evict_rate = 0;
    config.one_priority = config.one_tenant = true;
    config.shared = false;
    simulate(config, 300000, &result);
    assert_true(result.stats.preempted > 5); /* it does happen */
    assert_true(result.worst_preempted <= 4 && result.wasted <= 0.02);
}

/* The same crowd in no more memory, with a second store: next to nothing is computed twice while it holds all
   that is given up, however often sequences are preempted; what is damaged there is computed again; and when
   it holds little, things are no worse than without. */
static void test_second_store(void **state)
{
    struct sim_config config = config_of(1024, 32, 256, 32, 40);
    struct sim_result without, with, damaged, small;
    (void)state;
    config.sched.admission = SCHED_OPTIMISTIC;
    config.mixed = false;
    config.sched.n_formats = 1;
    config.max_queue = 20;
    config.median_prompt = 60;
    config.median_output = 150;
    config.max_tokens_factor = 1;
    config.cancel_rate = config.deadline_share = 0;
    config.shared = false;
    config.evict_rate = 1; /* others take what is idle in every step */
    simulate(config, 150000, &without);
    config.swap = (struct cache_model_swap){.bytes = 40 * config.sched.kv_bytes, .slow = .5};
    simulate(config, 150000, &with);
    config.swap.bad = .05;
    config.swap.dear = .05;
    simulate(config, 150000, &damaged);
    config.swap = (struct cache_model_swap){.bytes = config.sched.kv_bytes / 10};
    simulate(config, 150000, &small);
    print_message("computed twice of 10,000: %.1f; %.1f with a second store, %.1f with damage, %.1f small\n",
                  1e4 * without.wasted, 1e4 * with.wasted, 1e4 * damaged.wasted, 1e4 * small.wasted);
    assert_true(with.stats.preempted > 20 && with.swapped_blocks > 50 && with.bad_blocks == 0);
    assert_true(with.wasted < without.wasted / 2 && damaged.bad_blocks > 5);
    assert_true(damaged.wasted < without.wasted && small.wasted < 1.2 * without.wasted);
}

/* A pool as large as one request needs, to the byte, and full of idle blocks or empty: the request runs at
   once, whatever the policy; one byte less, and it is refused at once. */
static void test_no_waiting_on_capacity_with_an_empty_cache(void **state)
{
    (void)state;
    for (int admission = SCHED_NO_EVICT; admission <= SCHED_OPTIMISTIC; admission++) {
        for (int format = 0; format < FORMATS; format++) {
            struct sim_config config = config_of(1024, 4, 256, 4, 0);
            const struct kv_policy *policy = &config.sched.policies[format];
            config.sched.policies[0] = *policy;
            config.sched.n_formats = 1;
            config.mixed = false;
            size_t exact = kv_policy_bytes(policy, 1023) + kv_policy_step_bytes(policy, 256);
            config.sched.kv_bytes = exact - 1;
            struct sched *sched;
            assert_int_equal(sched_create(&config.sched, &sched, NULL), ERR_OK);
            assert_int_equal(sched_check(sched, 0, 1000, 24, NULL), ERR_CAPACITY);
            sched_free(sched);

            config.sched.kv_bytes = exact;
            config.sched.admission = (enum sched_admission)admission;
            config.median_prompt = 700;
            config.median_output = 300;
            struct sim_result result;
            simulate(config, 100000, &result);
            assert_true(result.idle_steps <= 1); /* the first, before anyone came */
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_random_shapes),
        cmocka_unit_test(test_without_a_cache),
        cmocka_unit_test(test_overload),
        cmocka_unit_test(test_small_blocks_admit_more),
        cmocka_unit_test(test_waiting_is_bounded),
        cmocka_unit_test(test_a_flood_drowns_itself),
        cmocka_unit_test(test_sharing_keeps_its_promise),
        cmocka_unit_test(test_a_herd_computes_once),
        cmocka_unit_test(test_no_preemption_thrash),
        cmocka_unit_test(test_second_store),
        cmocka_unit_test(test_no_waiting_on_capacity_with_an_empty_cache),
    };
    return cmocka_run_group_tests(tests, create_formats, free_formats);
}
