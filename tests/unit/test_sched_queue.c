/* Who is next: priorities that age, fair shares among tenants, deadlines, and the gate before the queue. */
#include "server/sched.h"
#include "server/sched_gate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const struct kv_shape shape = {.n_layers = 2, .n_heads = 2, .n_kv_heads = 1, .head_dim = 64};
static const int64_t ageing_us = 1000;

static struct sched *sched_of(int parallel, int max_batch_tokens)
{
    struct sched_config config = {.n_formats = 1,
                                  .policies = {{.shape = shape, .format = &kv_format_f16}},
                                  .kv_bytes = (size_t)1 << 30,
                                  .ctx_size = 8192,
                                  .parallel = parallel,
                                  .max_batch_tokens = max_batch_tokens,
                                  .max_logits = 64,
                                  .ageing_us = ageing_us};
    struct sched *sched = NULL;
    assert_int_equal(sched_create(&config, &sched, NULL), ERR_OK);
    return sched;
}

static uint64_t random_state = 1;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((random_state >> 33) % below);
}

/* --- The heap --- */

static void test_heap_against_a_search(void **state)
{
    enum { N = 200 };
    struct sched_heap_node nodes[N], *root = NULL;
    bool in[N] = {false};
    (void)state;

    for (int step = 0; step < 100000; step++) {
        int i = (int)draw(N), least = -1;
        if (in[i])
            sched_heap_remove(&root, &nodes[i]);
        else
            sched_heap_push(&root, &nodes[i], draw(50), (uint64_t)step);
        in[i] = !in[i];
        for (int j = 0; j < N; j++) {
            if (!in[j]) continue;
            if (least < 0 || nodes[j].key < nodes[least].key ||
                (nodes[j].key == nodes[least].key && nodes[j].tie < nodes[least].tie))
                least = j;
        }
        assert_ptr_equal(root, least < 0 ? NULL : &nodes[least]);
    }
}

/* --- Priorities --- */

/* One place, one tenant: sequences run in the order of arrival + priority * ageing. */
static void test_priorities_age(void **state)
{
    enum { N = 3000 };
    struct sched_seq *seqs = calloc(N, sizeof *seqs), *const * chosen;
    struct sched *sched = sched_of(1, 64);
    int n_added = 0, n_ended = 0, n_urgent_first = 0;
    int64_t now_us = 1;
    (void)state;
    assert_non_null(seqs);

    while (n_ended < N) {
        if (n_added < N && draw(2) == 0) {
            struct sched_seq *seq = &seqs[n_added++];
            seq->n_prompt = 1 + (int)draw(100);
            seq->priority = (int)draw(7) - 3;
            sched_add(sched, seq, now_us);
        }
        struct sched_seq *before = sched_running(sched);
        sched_plan(sched, now_us, 512, &chosen);
        struct sched_seq *seq = sched_running(sched);
        if (seq != NULL && seq != before) {
            for (int i = 0; i < n_added; i++) {
                if (seqs[i].state != SCHED_WAITING) continue;
                int64_t rank = seqs[i].arrived_us + seqs[i].priority * ageing_us;
                assert_true(rank >= seq->arrived_us + seq->priority * ageing_us);
                n_urgent_first += seqs[i].arrived_us < seq->arrived_us;
            }
        }
        sched_advance(sched);
        now_us += 1 + (int64_t)draw(40);
        if (seq != NULL && seq->n_cached == seq->n_prompt) {
            sched_finish(sched, seq);
            n_ended++;
        }
        sched_verify(sched);
    }
    assert_true(n_urgent_first > 100);
    sched_free(sched);
    free(seqs);
}

/* Against a flood of urgent requests that never ends, one that can wait is admitted when it has waited for
   its difference in priority. */
static void test_nobody_starves(void **state)
{
    struct sched *sched = sched_of(1, 64);
    struct sched_seq patient = {.n_prompt = 64, .priority = 5},
                     urgent[2] = {{.n_prompt = 64}, {.n_prompt = 64}};
    struct sched_seq *const *chosen;
    int64_t now_us = 1;
    (void)state;

    sched_add(sched, &urgent[0], now_us);
    sched_add(sched, &urgent[1], now_us);
    sched_add(sched, &patient, now_us);
    for (; patient.state == SCHED_WAITING; now_us += 10) {
        assert_int_equal(sched_plan(sched, now_us, 64, &chosen), 1);
        struct sched_seq *seq = chosen[0];
        sched_advance(sched);
        if (seq == &patient) break;
        sched_finish(sched, seq);
        *seq = (struct sched_seq){.n_prompt = 64};
        sched_add(sched, seq, now_us + 10);
    }
    assert_true(now_us > 5 * ageing_us && now_us < 5 * ageing_us + 100);
    struct sched_priority gauges[4];
    assert_int_equal(sched_priorities(sched, gauges, 4), 2);
    assert_true(gauges[0].priority == 0 && gauges[0].n_waiting == 2);
    assert_true(gauges[1].priority == 5 && gauges[1].n_waiting == 0 && gauges[1].oldest_us == 0);
    sched_free(sched);
}

static void test_any_priority_is_taken(void **state)
{
    const int priorities[] = {INT32_MAX, 0, INT32_MIN, 7, -1000000};
    const int order[] = {2, 4, 1, 3, 0};
    struct sched_seq seqs[5] = {{0}}, *const * chosen;
    struct sched *sched = sched_of(1, 64);
    (void)state;

    for (int i = 0; i < 5; i++) {
        seqs[i] = (struct sched_seq){.n_prompt = 1, .priority = priorities[i]};
        sched_add(sched, &seqs[i], INT64_C(1) << 40);
    }
    for (int i = 0; i < 5; i++) {
        assert_int_equal(sched_plan(sched, (INT64_C(1) << 40) + i, 64, &chosen), 1);
        assert_ptr_equal(chosen[0], &seqs[order[i]]);
        sched_advance(sched);
        sched_finish(sched, chosen[0]);
    }
    sched_free(sched);
}

/* --- Tenants --- */

enum { FLOOD = 400, TENANTS = 3 };

/* Every tenant always has some waiting; requests of tenant t are (t + 1) times as long. In tokens all get the
   same, within two requests. */
static void test_tenants_share_in_tokens(void **state)
{
    static struct sched_seq seqs[TENANTS][FLOOD];
    struct sched_seq *const *chosen;
    struct sched *sched = sched_of(4, 64);
    int64_t served[TENANTS] = {0}, now_us = 1;
    int n_added[TENANTS] = {0}, most = 0;
    (void)state;

    for (int t = 0; t < TENANTS; t++) {
        for (int i = 0; i < (t == 0 ? FLOOD : 8);
             i++) { /* the first came with all it has, before the others */
            seqs[t][n_added[t]] = (struct sched_seq){
                .n_prompt = 40 * (t + 1), .max_tokens = 20 * (t + 1), .tenant = (uint64_t)t + 5};
            sched_add(sched, &seqs[t][n_added[t]++], now_us);
        }
    }
    for (int step = 0; step < 4000; step++) {
        int n = sched_plan(sched, now_us++, 64, &chosen);
        struct sched_seq *sampled[8];
        int n_sampled = 0;
        for (int i = 0; i < n; i++) {
            served[chosen[i]->tenant - 5] += chosen[i]->n_step;
            if (sched_samples(chosen[i])) sampled[n_sampled++] = chosen[i];
        }
        sched_advance(sched);
        for (int i = 0; i < n_sampled; i++) {
            struct sched_seq *seq = sampled[i];
            int t = (int)seq->tenant - 5;
            if (seq->n_tokens + 1 < seq->n_prompt + seq->max_tokens) {
                sched_token(seq);
                continue;
            }
            sched_finish(sched, seq);
            if (t == 0) continue;
            seqs[t][n_added[t]] = (struct sched_seq){
                .n_prompt = 40 * (t + 1), .max_tokens = 20 * (t + 1), .tenant = (uint64_t)t + 5};
            sched_add(sched, &seqs[t][n_added[t]++], now_us);
        }
        for (int t = 1; t < TENANTS; t++) {
            int gap = abs((int)(served[t] - served[0]));
            if (gap > most) most = gap;
        }
        if (step % 50 == 0) sched_verify(sched);
    }
    assert_true(served[0] > 10000 && sched_waiting_count(sched) > 50);
    assert_true(most <= 2 * 60 * TENANTS + 4 * 60 * TENANTS); /* two requests, and what is under way */
    sched_free(sched);
}

/* One that was away does not come back with a claim to what it did not use. */
static void test_idle_tenants_save_nothing(void **state)
{
    static struct sched_seq a[60], b[60];
    struct sched_seq *const *chosen;
    struct sched *sched = sched_of(1, 64);
    int64_t now_us = 1;
    int n_a = 0, n_b = 0;
    (void)state;

    for (int i = 0; i < 60; i++) {
        a[i] = (struct sched_seq){.n_prompt = 64, .tenant = 1};
        b[i] = (struct sched_seq){.n_prompt = 64, .tenant = 2};
        sched_add(sched, &a[i], now_us);
    }
    for (int step = 0; step < 60; step++) {
        if (step == 20) {
            for (int i = 0; i < 60; i++) sched_add(sched, &b[i], now_us);
        }
        assert_int_equal(sched_plan(sched, now_us++, 64, &chosen), 1);
        n_a += step >= 20 && chosen[0]->tenant == 1;
        n_b += step >= 20 && chosen[0]->tenant == 2;
        sched_advance(sched);
        sched_finish(sched, chosen[0]);
    }
    assert_true(abs(n_a - n_b) <= 1);
    sched_free(sched);
}

/* Within a step, prompts of several tenants get equal shares, those of one come in order, and what one cannot
   use goes to the others. */
static void test_prompt_budget_is_shared(void **state)
{
    struct sched *sched = sched_of(16, 120);
    struct sched_seq whale = {.n_prompt = 4000, .max_tokens = 1, .tenant = 1};
    struct sched_seq b[3], small = {.n_prompt = 10, .max_tokens = 1, .tenant = 3};
    struct sched_seq late = {.n_prompt = 500, .max_tokens = 1, .tenant = 4, .priority = -1};
    struct sched_seq *const *chosen;
    (void)state;

    sched_add(sched, &whale, 0);
    assert_int_equal(sched_plan(sched, 1, 512, &chosen), 1);
    assert_int_equal(whale.n_step, 120);
    sched_advance(sched);
    for (int i = 0; i < 3; i++) {
        b[i] = (struct sched_seq){.n_prompt = 40, .max_tokens = 1, .tenant = 2};
        sched_add(sched, &b[i], 1);
    }
    sched_add(sched, &small, 1);
    sched_plan(sched, 2, 512, &chosen);
    assert_int_equal(small.n_step, 10);
    assert_int_equal(whale.n_step, 55);
    assert_true(b[0].n_step == 40 && b[1].n_step == 15 && b[2].n_step == 0);
    sched_advance(sched);
    sched_finish(sched, &small);
    sched_finish(sched, &b[0]);
    sched_add(sched, &late, 2);
    sched_plan(sched, 3, 512, &chosen); /* a better priority first, and all of it */
    assert_true(late.n_step == 120 && whale.n_step == 0 && b[1].n_step == 0);
    sched_advance(sched);
    sched_cancel(sched, &late);
    sched_plan(sched, 4, 512, &chosen);
    assert_true(whale.n_step == 120 - 60 && b[1].n_step == 25 && b[2].n_step == 35);
    sched_advance(sched);
    sched_verify(sched);
    sched_free(sched);
}

/* --- Deadlines --- */

static void test_deadlines_are_reported(void **state)
{
    struct sched *sched = sched_of(1, 64);
    struct sched_seq seqs[4] = {{.n_prompt = 100, .deadline_us = 50},
                                {.n_prompt = 100, .deadline_us = 30},
                                {.n_prompt = 100},
                                {.n_prompt = 100, .deadline_us = 40}};
    struct sched_seq *const *chosen;
    (void)state;

    for (int i = 0; i < 4; i++) sched_add(sched, &seqs[i], 1);
    assert_int_equal(sched_plan(sched, 1, 64, &chosen), 1); /* the first runs, the others wait */
    sched_advance(sched);
    assert_null(sched_expired(sched, 29));
    assert_ptr_equal(sched_expired(sched, 60), &seqs[1]);
    sched_cancel(sched, &seqs[1]);
    assert_ptr_equal(sched_expired(sched, 60), &seqs[3]);
    sched_cancel(sched, &seqs[3]);
    assert_ptr_equal(sched_expired(sched, 60), &seqs[0]);
    sched_cancel(sched, &seqs[0]);
    assert_null(sched_expired(sched, INT64_MAX));
    assert_int_equal(sched_waiting_count(sched), 1);
    assert_int_equal(sched_stats(sched)->cancelled, 3);
    sched_verify(sched);
    sched_free(sched);
}

/* --- The gate --- */

static struct sched_gate shared_gate;
static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;

static void *submit_many(void *passed)
{
    for (int i = 0; i < 1000; i++) {
        int retry_s;
        pthread_mutex_lock(&gate_lock);
        *(int *)passed += sched_gate_pass(&shared_gate, 0, 1, 10, &retry_s, NULL) == ERR_OK;
        pthread_mutex_unlock(&gate_lock);
    }
    return NULL;
}

/* Many at once, and no step in between: exactly as many pass as may wait. */
static void test_limits_are_counted_before_they_are_checked(void **state)
{
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    int passed[THREADS] = {0}, total = 0;
    (void)state;

    shared_gate = (struct sched_gate){.parallel = 8, .max_queue = 100};
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, submit_many, &passed[i]), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++) total += passed[i];
    assert_int_equal(total, 108);
    assert_true(shared_gate.n_passed == 108 && shared_gate.passed_tokens == 1080);
}

static void test_gate_counts_tokens(void **state)
{
    struct sched_gate gate = {
        .parallel = 2, .max_queue = 100, .max_queue_tokens = 1000, .token_interval_us = 1e4};
    struct err_info info;
    int retry_s = 0;
    (void)state;

    /* Alone in the queue, any length. */
    assert_int_equal(sched_gate_pass(&gate, 0, 1, 5000, &retry_s, &info), ERR_OK);
    assert_int_equal(sched_gate_pass(&gate, 0, 1, 1, &retry_s, &info), ERR_BUSY);
    assert_non_null(strstr(info.message, "--max-queue-tokens 1000"));
    assert_int_equal(retry_s, 41); /* 4,001 tokens too many, a hundred leave in a second */
    assert_true(gate.n_passed == 1 && gate.passed_tokens == 5000);

    gate.n_passed = 0;
    gate.passed_tokens = 0;
    gate.n_running = 2;
    gate.n_waiting = 3;
    gate.waiting_tokens = 400;
    assert_int_equal(sched_gate_pass(&gate, 0, 2, 600, &retry_s, &info), ERR_OK);
    assert_int_equal(sched_gate_pass(&gate, 0, 1, 1, &retry_s, &info), ERR_BUSY);
}

static void test_gate_counts_sequences(void **state)
{
    struct sched_gate gate = {.parallel = 4, .max_queue = 10, .finish_interval_us = 2e6};
    struct err_info info;
    int retry_s = 0;
    (void)state;

    assert_int_equal(sched_gate_pass(&gate, 0, 128, 128, &retry_s, &info), ERR_OK); /* idle: however many */
    assert_int_equal(sched_gate_pass(&gate, 0, 1, 1, &retry_s, &info), ERR_BUSY);
    assert_non_null(strstr(info.message, "--max-queue 10"));
    assert_int_equal(retry_s, (129 - 10 - 4) * 2 + 1);
    gate = (struct sched_gate){.parallel = 4, .max_queue = 0, .n_running = 3};
    assert_int_equal(sched_gate_pass(&gate, 0, 1, 1, &retry_s, &info), ERR_OK); /* into the free place */
    assert_int_equal(sched_gate_pass(&gate, 0, 1, 1, &retry_s, &info), ERR_BUSY);
    assert_int_equal(sched_retry_after_s(1e12), 600);
    assert_int_equal(sched_retry_after_s(0), 1);
}

/* The k-th in line waits for k ends, of which each that runs gives one in run_us. */
static void test_gate_bounds_the_likely_wait(void **state)
{
    const struct sched_gate busy = {
        .parallel = 4, .max_queue = 100, .max_wait_us = 5000000, .n_running = 4, .run_us = 8e6};
    struct sched_gate gate = busy;
    struct err_info info;
    int retry_s = 0;
    (void)state;

    assert_int_equal(sched_gate_pass(&gate, 0, 2, 2, &retry_s, &info), ERR_OK); /* the second waits 4 s */
    assert_int_equal(sched_gate_pass(&gate, 0, 1, 1, &retry_s, &info), ERR_BUSY);
    assert_non_null(strstr(info.message, "about 6.0 s for the next one (--max-queue-wait-ms 5000)"));
    assert_int_equal(retry_s, 2);
    assert_int_equal(sched_gate_pass(&gate, 0, 2, 2, &retry_s, &info), ERR_BUSY); /* all or none */
    assert_true(gate.n_passed == 2 && gate.passed_tokens == 2);

    /* Free places count, unless memory is what is short. */
    gate = busy;
    gate.n_running = 2;
    assert_int_equal(sched_gate_pass(&gate, 0, 3, 3, &retry_s, &info), ERR_OK); /* one waits, 4 s */
    assert_int_equal(sched_gate_pass(&gate, 0, 1, 1, &retry_s, &info), ERR_BUSY);
    gate = busy;
    gate.n_running = 2;
    gate.is_full = true;
    assert_int_equal(sched_gate_pass(&gate, 0, 1, 1, &retry_s, &info), ERR_OK);
    assert_int_equal(sched_gate_pass(&gate, 0, 1, 1, &retry_s, &info), ERR_BUSY);

    /* Nothing is known yet; nothing runs; no limit. */
    gate = busy;
    gate.run_us = 0;
    assert_int_equal(sched_gate_pass(&gate, 0, 100, 100, &retry_s, &info), ERR_OK);
    gate = busy;
    gate.n_running = 0;
    assert_int_equal(sched_gate_pass(&gate, 0, 50, 50, &retry_s, &info), ERR_OK);
    assert_int_equal(sched_gate_pass(&gate, 0, 1, 1, &retry_s, &info),
                     ERR_BUSY); /* behind these, unseen as yet */
    gate = busy;
    gate.max_wait_us = 0;
    assert_int_equal(sched_gate_pass(&gate, 0, 100, 100, &retry_s, &info), ERR_OK);
}

static void pass_in(struct sched_gate *gate, uint64_t tenant, int n)
{
    int retry_s = 0;
    for (int i = 0; i < n; i++)
        assert_int_equal(sched_gate_pass(gate, tenant, 1, 10, &retry_s, NULL), ERR_OK);
}

/* One key floods: it is stopped at its own limit, told so and when to come back by its own rate, and the
   others find room. */
static void test_one_key_does_not_fill_the_queue(void **state)
{
    struct sched *sched = sched_of(2, 512);
    struct sched_gate gate = {.parallel = 2, .max_queue = 10, .max_queued_per_key = 4};
    struct sched_seq seqs[12], *const *chosen;
    struct err_info info;
    int retry_s = 0;
    (void)state;

    assert_int_equal(sched_gate_open(&gate, 64, &info), ERR_OK);
    pass_in(&gate, 7, 6); /* two places are free beside its four */
    assert_int_equal(sched_gate_pass(&gate, 7, 1, 10, &retry_s, &info), ERR_BUSY);
    assert_non_null(strstr(info.message, "--max-queued-per-key 4"));
    assert_non_null(strstr(info.message, "6 of its sequences"));
    pass_in(&gate, 8, 6);
    assert_int_equal(sched_gate_pass(&gate, 9, 1, 10, &retry_s, &info), ERR_BUSY);
    assert_non_null(strstr(info.message, "--max-queue 10")); /* the limit of all is still there */

    sched_gate_sync(&gate, sched);
    for (int i = 0; i < 12; i++) {
        seqs[i] = (struct sched_seq){.n_prompt = 10, .max_tokens = 1, .tenant = i < 6 ? 7 : 8};
        sched_add(sched, &seqs[i], 1);
    }
    /* What waits is what counts: one of each runs. */
    assert_int_equal(sched_plan(sched, 1, 512, &chosen), 2);
    assert_true(chosen[0]->tenant != chosen[1]->tenant);
    sched_advance(sched);
    sched_gate_sync(&gate, sched);
    assert_true(gate.n_waiting == 10 && gate.n_tenants == 2);
    assert_int_equal(sched_gate_pass(&gate, 7, 1, 10, &retry_s, &info), ERR_BUSY);
    assert_non_null(strstr(info.message, "5 of its sequences"));

    /* A request of many choices passes where nothing else of its tenant waits. */
    sched_gate_close(&gate);
    gate = (struct sched_gate){.parallel = 2, .max_queue = 10, .max_queued_per_key = 4};
    assert_int_equal(sched_gate_open(&gate, 64, &info), ERR_OK);
    assert_int_equal(sched_gate_pass(&gate, 7, 8, 80, &retry_s, &info), ERR_OK);
    assert_int_equal(sched_gate_pass(&gate, 7, 1, 10, &retry_s, &info), ERR_BUSY);
    sched_verify(sched);
    sched_free(sched);
    sched_gate_close(&gate);
}

/* The same share of the prompt tokens: four tenths. */
static void test_one_key_does_not_fill_the_tokens(void **state)
{
    struct sched_gate gate = {
        .parallel = 2, .max_queue = 10, .max_queue_tokens = 1000, .max_queued_per_key = 4, .n_running = 2};
    struct err_info info;
    int retry_s = 0;
    (void)state;

    assert_int_equal(sched_gate_open(&gate, 64, &info), ERR_OK);
    assert_int_equal(sched_gate_pass(&gate, 7, 1, 350, &retry_s, &info), ERR_OK);
    assert_int_equal(sched_gate_pass(&gate, 7, 1, 51, &retry_s, &info), ERR_BUSY);
    assert_non_null(strstr(info.message, "350 of its prompt tokens wait, of 400"));
    assert_int_equal(sched_gate_pass(&gate, 7, 1, 50, &retry_s, &info), ERR_OK);
    assert_int_equal(sched_gate_pass(&gate, 8, 1, 600, &retry_s, &info), ERR_OK); /* its only one */
    assert_int_equal(sched_gate_pass(&gate, 9, 1, 1, &retry_s, &info), ERR_BUSY);
    assert_non_null(strstr(info.message, "--max-queue-tokens 1000"));
    sched_gate_close(&gate);
}

/* When a tenant may come back follows from how fast its own sequences finish: of one every second, of the
   other ten. */
static void test_tenants_have_rates_of_their_own(void **state)
{
    enum { SLOW, FAST, PACES };
    struct sched *sched = sched_of(PACES, 512);
    struct sched_gate gate = {.parallel = PACES, .max_queue = 100, .max_queued_per_key = 4};
    struct sched_seq seqs[PACES][2], *now[PACES], *const *chosen;
    struct sched_share shares[PACES];
    struct err_info info;
    int64_t now_us = 1;
    int retry_s = 0;
    (void)state;

    assert_int_equal(sched_gate_open(&gate, 64, &info), ERR_OK);
    for (int tick = 0; tick < 2000; tick++, now_us += 100000) {
        for (int t = 0; t < PACES; t++) {
            if (tick > 0 && tick % (t == SLOW ? 10 : 1) != 0) continue;
            struct sched_seq *next = tick > 0 && now[t] == &seqs[t][0] ? &seqs[t][1] : &seqs[t][0];
            *next = (struct sched_seq){.n_prompt = 100, .max_tokens = 50, .tenant = (uint64_t)t};
            sched_add(sched, next, now_us);
            if (tick > 0) sched_finish(sched, now[t]);
            now[t] = next;
        }
        assert_int_equal(sched_plan(sched, now_us, 512, &chosen), PACES);
        sched_advance(sched);
        for (int t = 0; t < PACES; t++) sched_token(now[t]);
    }
    for (int t = 0; t < PACES; t++) sched_tenant_share(sched, (uint64_t)t, &shares[t]);
    assert_true(shares[SLOW].finish_interval_us > 0.9e6 && shares[SLOW].finish_interval_us < 1.1e6);
    assert_true(shares[FAST].finish_interval_us > 0.9e5 && shares[FAST].finish_interval_us < 1.1e5);
    assert_true(shares[FAST].token_interval_us > 0.9e3 && shares[FAST].token_interval_us < 1.1e3);

    for (int t = 0; t < PACES; t++) {
        struct sched_seq more[8];
        for (int i = 0; i < 8; i++) {
            more[i] = (struct sched_seq){.n_prompt = 10, .max_tokens = 1, .tenant = (uint64_t)t};
            sched_add(sched, &more[i], now_us);
        }
        pass_in(&gate, (uint64_t)t, 1); /* so that the gate knows of it */
        sched_gate_sync(&gate, sched);
        assert_int_equal(sched_gate_pass(&gate, (uint64_t)t, 6, 60, &retry_s, &info), ERR_BUSY);
        int too_many = 8 + 1 + 6 - 4; /* of those that wait and that have passed */
        assert_in_range(retry_s, t == SLOW ? too_many : 1, t == SLOW ? too_many + 2 : 2);
        for (int i = 0; i < 8; i++) sched_cancel(sched, &more[i]);
    }
    sched_verify(sched);
    sched_free(sched);
    sched_gate_close(&gate);
}

/* What the gate tells follows from what happened: two tokens of prompt a millisecond, a sequence every 50. */
static void test_rates_are_measured(void **state)
{
    struct sched *sched = sched_of(1, 512);
    struct sched_gate gate = {.parallel = 1, .max_queue = 1000};
    struct sched_seq seqs[100], *const *chosen;
    int64_t now_us = 1;
    (void)state;

    for (int i = 0; i < 100; i++) {
        seqs[i] = (struct sched_seq){.n_prompt = 100, .max_tokens = 4};
        sched_add(sched, &seqs[i], now_us);
    }
    for (int i = 0; i < 90; i++) {
        for (int token = 1; token <= 4; token++) {
            assert_int_equal(sched_plan(sched, now_us, 512, &chosen), 1);
            sched_advance(sched);
            now_us += 12500;
            if (token < 4) sched_token(&seqs[i]);
        }
        sched_finish(sched, &seqs[i]);
    }
    now_us += 1000000000; /* idle time is no time: */
    for (int i = 90; i < 100; i++) sched_cancel(sched, &seqs[i]);
    sched_gate_sync(&gate, sched);
    assert_true(gate.n_waiting == 0 && gate.n_running == 0);
    assert_true(gate.finish_interval_us > 45e3 && gate.finish_interval_us < 55e3);
    assert_true(gate.token_interval_us > 450 && gate.token_interval_us < 550);
    assert_true(gate.run_us > 49e3 && gate.run_us < 51e3); /* each ran alone */
    sched_free(sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heap_against_a_search),
        cmocka_unit_test(test_priorities_age),
        cmocka_unit_test(test_nobody_starves),
        cmocka_unit_test(test_any_priority_is_taken),
        cmocka_unit_test(test_tenants_share_in_tokens),
        cmocka_unit_test(test_idle_tenants_save_nothing),
        cmocka_unit_test(test_prompt_budget_is_shared),
        cmocka_unit_test(test_deadlines_are_reported),
        cmocka_unit_test(test_limits_are_counted_before_they_are_checked),
        cmocka_unit_test(test_gate_counts_tokens),
        cmocka_unit_test(test_gate_counts_sequences),
        cmocka_unit_test(test_gate_bounds_the_likely_wait),
        cmocka_unit_test(test_one_key_does_not_fill_the_queue),
        cmocka_unit_test(test_one_key_does_not_fill_the_tokens),
        cmocka_unit_test(test_tenants_have_rates_of_their_own),
        cmocka_unit_test(test_rates_are_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
