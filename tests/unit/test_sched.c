/*
 * The scheduler in a simulator: random arrivals, sizes, formats and cancels over millions of steps, and after
 * each step everything that the header promises. Time is the simulator's.
 */
#include "server/sched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static const struct kv_shape shape = {.n_layers = 4, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64};

static struct sched_config config_of(int parallel, int max_batch_tokens, int max_logits, int ctx_size,
                                     size_t kv_bytes)
{
    struct sched_config config = {.kv_bytes = kv_bytes,
                                  .ctx_size = ctx_size,
                                  .parallel = parallel,
                                  .max_batch_tokens = max_batch_tokens,
                                  .max_logits = max_logits};
    for (int f = 0; f < KV_FORMATS; f++)
        config.policies[f] = (struct kv_policy){
            .shape = shape, .format = (enum kv_format)f, .recent_blocks = 2, .sink_tokens = 4};
    return config;
}

static struct sched *sched_of(const struct sched_config *config)
{
    struct sched *sched = NULL;
    assert_int_equal(sched_create(config, &sched, NULL), ERR_OK);
    return sched;
}

/* --- The simulator --- */

enum { CLIENTS = 96 };

struct client {
    struct sched_seq seq;
    uint64_t ticket;
    int ends_at; /* generated tokens after which it finds its end token */
    int missed;  /* steps in a row in which it was due and got nothing */
    int turns;   /* the same, while more are running than a step has tokens */
    int n_generated;
};

struct simulator {
    struct sched_config config;
    struct sched *sched;
    struct client clients[CLIENTS];
    uint64_t random, tickets, last_admitted;
    int64_t now_us;
    long n_admitted, n_finished, n_cancelled, n_tokens;
    int worst_missed;
};

static uint32_t draw(struct simulator *sim, uint32_t below)
{
    sim->random = sim->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((sim->random >> 33) % below);
}

static void arrive(struct simulator *sim, struct client *client, bool mixed)
{
    int ctx = sim->config.ctx_size;
    int n_prompt = 1 + (int)draw(sim, draw(sim, 4) == 0 ? (uint32_t)ctx - 1 : 40);
    int max_tokens = (int)draw(sim, (uint32_t)(ctx - n_prompt) + 1);
    if (draw(sim, 3) > 0 && max_tokens > 30) max_tokens = 30;
    enum kv_format format = mixed ? (enum kv_format)draw(sim, KV_FORMATS) : KV_FORMAT_O2;

    if (sched_check(sim->sched, format, n_prompt, max_tokens, NULL) != ERR_OK) return;
    memset(client, 0, sizeof *client);
    client->seq = (struct sched_seq){.owner = client,
                                     .format = format,
                                     .n_prompt = n_prompt,
                                     .max_tokens = max_tokens,
                                     .score_prompt = draw(sim, 8) == 0};
    client->ends_at = draw(sim, 2) == 0 ? 1 + (int)draw(sim, 64) : max_tokens;
    client->ticket = ++sim->tickets;
    sched_add(sim->sched, &client->seq, sim->now_us);
}

/* Everything that must hold of a planned step, computed from the sequences alone. */
static void check_step(struct simulator *sim, struct sched_seq *const *chosen, int n)
{
    const struct sched_config *config = &sim->config;
    bool crowded = sched_running_count(sim->sched) > config->max_batch_tokens;
    int tokens = 0, logits = 0, n_in_step = 0;
    size_t bytes = 0;

    for (struct sched_seq *seq = sched_running(sim->sched); seq != NULL; seq = seq->next) {
        struct client *client = seq->owner;
        const struct kv_policy *policy = &config->policies[seq->format];
        bytes += seq->n_step > 0 ? kv_policy_peak_bytes(policy, seq->n_cached, seq->n_step)
                                 : kv_policy_held_bytes(policy, seq->n_cached);
        tokens += seq->n_step;
        logits += sched_logits(seq);
        n_in_step += seq->n_step > 0;
        assert_true(seq->n_cached + seq->n_step <= seq->n_tokens);
        if (client->ticket > sim->last_admitted) { /* newly admitted: in order of arrival */
            sim->last_admitted = client->ticket;
            sim->n_admitted++;
        }
        client->turns = crowded && seq->n_step == 0 ? client->turns + 1 : 0;
        assert_true(client->turns <= 2 * config->parallel);
        if (seq->n_step > 0)
            client->missed = 0;
        else if (seq->n_tokens - seq->n_cached == 1 && !crowded)
            client->missed++;
        if (client->missed > sim->worst_missed) sim->worst_missed = client->missed;
    }
    assert_int_equal(n, n_in_step);
    for (int i = 0; i < n; i++) assert_true(chosen[i]->n_step > 0 && chosen[i]->state == SCHED_RUNNING);
    assert_true(tokens <= config->max_batch_tokens && logits <= config->max_logits);
    assert_true(bytes <= config->kv_bytes); /* no over-commit, at the worst moment of the step */
    sim->n_tokens += tokens;
}

/* First come, first served: nobody waits who came before one that runs. */
static void check_order(const struct simulator *sim)
{
    uint64_t last = 0;
    for (struct sched_seq *seq = sched_running(sim->sched); seq != NULL; seq = seq->next) {
        const struct client *client = seq->owner;
        assert_true(client->ticket > last);
        last = client->ticket;
    }
    for (struct sched_seq *seq = sched_waiting(sim->sched); seq != NULL; seq = seq->next) {
        const struct client *client = seq->owner;
        assert_true(client->ticket > last);
        last = client->ticket;
    }
}

static void step(struct simulator *sim)
{
    struct sched_seq *const *chosen;
    struct sched_seq *sampled[256];
    int n_sampled = 0;
    int n = sched_plan(sim->sched, sim->now_us, 1 + (int)draw(sim, 600), &chosen);

    check_step(sim, chosen, n);
    for (int i = 0; i < n; i++) {
        if (sched_samples(chosen[i]))
            sampled[n_sampled++] = chosen[i];
        else if (chosen[i]->max_tokens == 0 && chosen[i]->n_cached + chosen[i]->n_step == chosen[i]->n_prompt)
            sampled[n_sampled++] = chosen[i];
    }
    sched_advance(sim->sched);
    sim->now_us += 1000;
    for (int i = 0; i < n_sampled; i++) {
        struct client *client = sampled[i]->owner;
        client->n_generated++;
        if (client->n_generated >= client->ends_at || client->n_generated >= client->seq.max_tokens) {
            sched_finish(sim->sched, &client->seq, sim->now_us);
            sim->n_finished++;
        } else {
            sched_token(&client->seq);
        }
    }
}

static void simulate(struct sched_config config, long steps, bool mixed, uint64_t seed)
{
    static struct simulator sim;
    memset(&sim, 0, sizeof sim);
    sim.config = config;
    sim.random = seed;
    sim.sched = sched_of(&config);

    for (long i = 0; i < steps; i++) {
        bool busy = i / 5000 % 2 == 0; /* floods and droughts */
        if (draw(&sim, busy ? 2 : 40) == 0) {
            struct client *client = &sim.clients[draw(&sim, CLIENTS)];
            if (client->seq.state == SCHED_OUT) arrive(&sim, client, mixed);
        }
        if (draw(&sim, 50) == 0) {
            struct client *client = &sim.clients[draw(&sim, CLIENTS)];
            if (client->seq.state != SCHED_OUT) {
                sched_cancel(sim.sched, &client->seq);
                sim.n_cancelled++;
            }
        }
        step(&sim);
        if (i % 32 == 0) {
            sched_verify(sim.sched);
            check_order(&sim);
        }
    }
    /* No more arrivals: everything finishes, in a bounded number of steps. */
    long left = (long)CLIENTS * config.ctx_size + CLIENTS;
    while (sched_running_count(sim.sched) + sched_waiting_count(sim.sched) > 0 && left-- > 0) step(&sim);
    assert_int_equal(sched_running_count(sim.sched) + sched_waiting_count(sim.sched), 0);
    assert_int_equal(sched_held_bytes(sim.sched), 0);
    assert_int_equal(sched_reserved_bytes(sim.sched), 0);
    sched_verify(sim.sched);
    for (int i = 0; i < CLIENTS; i++) assert_int_equal(sim.clients[i].seq.state, SCHED_OUT);
    assert_int_equal(sim.tickets, sim.n_finished + sim.n_cancelled);
    assert_true(sim.n_admitted <= sim.n_finished + sim.n_cancelled && sim.n_finished > 100);
    /* Outside turns, one that generates is passed over at most now and then, for bytes, and never for long.
     */
    assert_true(sim.worst_missed <= CLIENTS);
    print_message(
        "parallel %d, batch %d, %zu bytes: %ld steps, %ld tokens, %ld finished, %ld cancelled, most "
        "steps passed over %d\n",
        config.parallel, config.max_batch_tokens, config.kv_bytes, steps, sim.n_tokens, sim.n_finished,
        sim.n_cancelled, sim.worst_missed);
    sched_free(sim.sched);
}

static void test_simulation(void **state)
{
    (void)state;
    size_t block = kv_policy_block_bytes(&shape, KV_F16);
    simulate(config_of(8, 64, 16, 1024, 40 * block), 300000, true, 1);
    simulate(config_of(32, 512, 64, 2048, 400 * block), 200000, true, 2);
    simulate(config_of(16, 4, 16, 512, 100 * block), 200000, true, 3); /* turns */
    simulate(config_of(16, 1, 1, 300, 100 * block), 200000, true, 4);
    simulate(config_of(64, 17, 3, 700, 12 * block), 200000, false, 5); /* a very tight pool */
    simulate(config_of(4, 512, 4, 700, 12 * block), 200000, true, 6);
}

/* --- Single promises --- */

static void test_check_says_the_arithmetic(void **state)
{
    (void)state;
    struct err_info info;
    size_t block = kv_policy_block_bytes(&shape, KV_F16);
    struct sched_config config = config_of(4, 512, 8, 1000, 10 * block);
    struct sched *sched = sched_of(&config);

    assert_int_equal(sched_check(sched, KV_FORMAT_F16, 600, 41, &info), ERR_OK); /* 640 in the cache */
    assert_int_equal(sched_check(sched, KV_FORMAT_F16, 600, 42, &info), ERR_CAPACITY);
    assert_non_null(strstr(info.message, "--kv-cache-bytes"));
    assert_non_null(strstr(info.message, "600"));
    assert_int_equal(sched_check(sched, KV_FORMAT_O2, 600, 400, &info), ERR_OK);
    assert_int_equal(sched_check(sched, KV_FORMAT_O2, 600, 401, &info), ERR_CAPACITY);
    assert_non_null(strstr(info.message, "--ctx-size"));
    assert_non_null(strstr(info.message, "1001 tokens"));
    assert_int_equal(sched_check(sched, KV_FORMAT_O2, 2147483647, 2147483647, &info), ERR_CAPACITY);
    assert_int_equal(sched_fitting(sched, KV_FORMAT_F16, 320), 2);
    assert_true(sched_fitting(sched, KV_FORMAT_O2, 320) > 2);
    sched_free(sched);
}

/* A long prompt beside sequences that generate: they get a token in every step. */
static void test_prefill_does_not_delay_decode(void **state)
{
    (void)state;
    struct sched_config config = config_of(8, 64, 8, 8192, (size_t)1 << 30);
    struct sched *sched = sched_of(&config);
    struct sched_seq decoders[3], prompt = {.format = KV_FORMAT_O2, .n_prompt = 4000, .max_tokens = 5};
    struct sched_seq *const *chosen;

    for (int i = 0; i < 3; i++) {
        decoders[i] = (struct sched_seq){.format = KV_FORMAT_O2, .n_prompt = 1, .max_tokens = 1000};
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
    size_t block = kv_policy_block_bytes(&shape, KV_F16);
    struct sched_config config = config_of(8, 512, 8, 1000, 10 * block);
    struct sched *sched = sched_of(&config);
    struct sched_seq a = {.format = KV_FORMAT_F16, .n_prompt = 320, .max_tokens = 1};
    struct sched_seq b = {.format = KV_FORMAT_F16, .n_prompt = 384, .max_tokens = 1};
    struct sched_seq c = {.format = KV_FORMAT_F16, .n_prompt = 64, .max_tokens = 1};
    struct sched_seq *const *chosen;

    sched_add(sched, &a, 0);
    sched_add(sched, &b, 0);
    sched_add(sched, &c, 0);
    assert_int_equal(sched_plan(sched, 0, 512, &chosen), 1);
    assert_ptr_equal(sched_running(sched), &a);
    assert_int_equal(sched_waiting_count(sched), 2);
    sched_advance(sched);
    sched_finish(sched, &a, 2000000);
    assert_int_equal(sched_plan(sched, 2000000, 512, &chosen), 2);
    assert_int_equal(b.state, SCHED_RUNNING);
    assert_int_equal(c.state, SCHED_RUNNING);
    /* a took two seconds, two run: one finishes each second. */
    assert_int_equal(sched_retry_after_s(sched_pace_us(sched, 2000000), 10), 11);
    assert_int_equal(sched_retry_after_s(1000000, 100000), 600);
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
    const struct kv_policy *policy = &config.policies[KV_FORMAT_O4];
    size_t exact = N * kv_policy_bytes(policy, 64) + kv_policy_step_bytes(policy, 8);

    for (size_t less = 0; less <= 1; less++) {
        config.kv_bytes = exact - less;
        struct sched *sched = sched_of(&config);
        struct sched_seq seqs[N];
        struct sched_seq *const *chosen;
        int steps = 0, n_waited = 0;
        for (int i = 0; i < N; i++) {
            seqs[i] = (struct sched_seq){.format = KV_FORMAT_O4, .n_prompt = 1, .max_tokens = 64};
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
                    sched_finish(sched, &seqs[i], 1);
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
    struct sched_seq seq = {.format = KV_FORMAT_O2, .n_prompt = 100, .max_tokens = 0, .score_prompt = true};
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
    sched_finish(sched, &seq, 1);
    sched_free(sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check_says_the_arithmetic),
        cmocka_unit_test(test_prefill_does_not_delay_decode),
        cmocka_unit_test(test_admission_is_in_order),
        cmocka_unit_test(test_scored_prompts_keep_to_the_logits),
        cmocka_unit_test(test_sealing_in_lockstep),
        cmocka_unit_test(test_simulation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
