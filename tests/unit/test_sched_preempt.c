/* Optimistic admission: who is preempted, and who comes back first. Blocks are fp16, so bytes are easy to
   follow: a sequence of n tokens holds n / 64 blocks, rounded up. */
#include "server/sched_internal.h"
#include "tests/unit/support/cache_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

enum { MOST = 4, BLOCKS = 32, CTX = 2000 };

struct client {
    struct sched_seq seq;
    struct cache_holder holder;
    struct cache_block *blocks[CTX / KV_BLOCK_TOKENS + 1];
};

struct rig {
    struct kv_policy policy;
    struct cache_model *model;
    struct sched_cache ops;
    struct sched *sched;
    struct client clients[MOST];
    int64_t now_us;
    int n_prompt_tokens; /* a step */
};

static int (*shared_tokens)(void *context, const struct sched_seq *seq);

static struct cache_holder *holder_of(void *owner)
{
    return &((struct client *)owner)->holder;
}

static void rig_start(struct rig *rig, int n_blocks)
{
    memset(rig, 0, sizeof *rig);
    rig->policy = (struct kv_policy){.shape = {.n_layers = 2, .n_heads = 2, .n_kv_heads = 1, .head_dim = 64},
                                     .format = &kv_format_f16};
    struct sched_config config = {.policies = {rig->policy},
                                  .n_formats = 1,
                                  .kv_bytes = (size_t)n_blocks * kv_policy_block_bytes(&rig->policy, KV_F16),
                                  .ctx_size = CTX,
                                  .parallel = MOST,
                                  .max_batch_tokens = 512,
                                  .max_logits = MOST,
                                  .admission = SCHED_OPTIMISTIC,
                                  .ageing_us = 1000000,
                                  .cache = &rig->ops};
    rig->model = cache_model_create(&rig->policy, 1, config.kv_bytes);
    cache_model_ops(rig->model, holder_of, &rig->ops);
    if (shared_tokens != NULL) rig->ops.shared_tokens = shared_tokens;
    assert_int_equal(sched_create(&config, &rig->sched, NULL), ERR_OK);
    rig->sched->reach = 0.5; /* as if requests had used half of what they asked for until now */
    rig->now_us = 10000000;
    rig->n_prompt_tokens = 512;
}

static struct sched_seq *rig_add(struct rig *rig, int i, int n_prompt, int max_tokens, int64_t arrived_us)
{
    struct client *client = &rig->clients[i];
    client->seq = (struct sched_seq){.owner = client, .n_prompt = n_prompt, .max_tokens = max_tokens};
    client->holder =
        (struct cache_holder){.seq = &client->seq, .id = (uint64_t)i + 1, .blocks = client->blocks};
    sched_add(rig->sched, &client->seq, arrived_us);
    return &client->seq;
}

static void rig_leave(struct rig *rig, struct sched_seq *seq)
{
    sched_cancel(rig->sched, seq);
    cache_model_release(rig->model, holder_of(seq->owner));
}

static void rig_step(struct rig *rig)
{
    struct sched_seq *const *chosen, *sampled[MOST];
    cache_model_plan(rig->model);
    int n_sampled = 0, n = sched_plan(rig->sched, rig->now_us++, rig->n_prompt_tokens, &chosen);
    for (int i = 0; i < n; i++) {
        cache_model_begin(rig->model, holder_of(chosen[i]->owner), chosen[i]->n_step);
        if (sched_samples(chosen[i])) sampled[n_sampled++] = chosen[i];
    }
    for (int i = 0; i < n; i++) cache_model_end(rig->model, holder_of(chosen[i]->owner));
    sched_advance(rig->sched);
    for (int i = 0; i < n_sampled; i++) {
        if (sampled[i]->n_tokens + 1 < sampled[i]->n_prompt + sampled[i]->max_tokens)
            sched_token(sampled[i]);
        else
            rig_leave(rig, sampled[i]);
    }
    sched_verify(rig->sched);
}

/* Until the next preemption. */
static void rig_run(struct rig *rig)
{
    uint64_t before = sched_stats(rig->sched)->preempted;
    for (int step = 0; step < 2000 && sched_stats(rig->sched)->preempted == before; step++) rig_step(rig);
    assert_int_equal(sched_stats(rig->sched)->preempted, before + 1);
}

static void rig_stop(struct rig *rig)
{
    for (int i = 0; i < MOST; i++) {
        if (rig->clients[i].seq.state != SCHED_OUT) rig_leave(rig, &rig->clients[i].seq);
    }
    sched_free(rig->sched);
    cache_model_free(rig->model);
}

/* Three that take more than was thought: the one goes that has the fewest tokens to compute again, but never
   the eldest, which has fewer; then the other; they come back in the order in which they came. */
static void test_least_loss_goes_and_the_eldest_stays(void **state)
{
    static struct rig rig;
    (void)state;
    rig_start(&rig, 24);
    struct sched_seq *a = rig_add(&rig, 0, 64, 600, rig.now_us - 3);
    struct sched_seq *b = rig_add(&rig, 1, 256, 600, rig.now_us - 2);
    struct sched_seq *c = rig_add(&rig, 2, 128, 600, rig.now_us - 1);

    rig_step(&rig);
    assert_int_equal(sched_running_count(rig.sched), 3);
    rig_run(&rig);
    assert_true(c->state == SCHED_WAITING && a->state == SCHED_RUNNING && b->state == SCHED_RUNNING);
    assert_true(c->n_tokens > 128 + 64 && c->n_cached == 0); /* what it generated is known */
    rig_leave(&rig, a);
    rig_step(&rig);
    assert_int_equal(c->state, SCHED_RUNNING);
    assert_true(c->n_hit == 0 && sched_stats(rig.sched)->resumed == 1);

    struct sched_seq *d = rig_add(&rig, 3, 100, 900, rig.now_us); /* b is the eldest now */
    rig_leave(&rig, c);
    rig_step(&rig);
    assert_int_equal(d->state, SCHED_RUNNING);
    rig_stop(&rig);
}

/* Of those who came in the same time; who came later has less standing, whatever it has to lose. */
static void test_standing_counts_before_loss(void **state)
{
    static struct rig rig;
    (void)state;
    rig_start(&rig, 24);
    struct sched_seq *a = rig_add(&rig, 0, 64, 600, rig.now_us - 9000000);
    struct sched_seq *b = rig_add(&rig, 1, 256, 600, rig.now_us - 2);
    struct sched_seq *c = rig_add(&rig, 2, 128, 600, rig.now_us - 5000000);
    rig_run(&rig);
    assert_true(b->state == SCHED_WAITING && a->state == SCHED_RUNNING && c->state == SCHED_RUNNING);
    rig_stop(&rig);
}

static int second_shares_its_prompt(void *context, const struct sched_seq *seq)
{
    (void)context;
    return seq->n_prompt == 256 ? 256 : 0;
}

/* What others hold too is no loss. */
static void test_shared_tokens_are_no_loss(void **state)
{
    static struct rig rig;
    (void)state;
    shared_tokens = second_shares_its_prompt;
    rig_start(&rig, 24);
    shared_tokens = NULL;
    rig_add(&rig, 0, 64, 600, rig.now_us - 3);
    struct sched_seq *b = rig_add(&rig, 1, 256, 600, rig.now_us - 2);
    rig_add(&rig, 2, 128, 600, rig.now_us - 1);
    rig_run(&rig);
    assert_int_equal(b->state, SCHED_WAITING);
    rig_stop(&rig);
}

/* Who was admitted late has the least to lose and yet stays until it has made its progress. */
static void test_progress_is_protected(void **state)
{
    static struct rig rig;
    (void)state;
    rig_start(&rig, 28);
    struct sched_seq *a = rig_add(&rig, 0, 192, 600, rig.now_us - 3);
    struct sched_seq *b = rig_add(&rig, 1, 256, 600, rig.now_us - 2);
    while (a->n_tokens < 192 + 400) rig_step(&rig);
    struct sched_seq *c = rig_add(&rig, 2, 150, 100, rig.now_us - 1);
    rig.n_prompt_tokens = 1; /* its prompt takes long */
    rig_run(&rig);
    assert_true(c->n_cached >= 150 && c->n_tokens < 150 + 64);
    assert_true(c->state == SCHED_RUNNING && a->state == SCHED_RUNNING && b->state == SCHED_WAITING);
    assert_int_equal(sched_stats(rig.sched)->unprotected, 0);
    rig_stop(&rig);
}

/* Several preempted ones wait in the order of their arrival, before all that never ran. */
static void test_preempted_come_back_in_order(void **state)
{
    static struct rig rig;
    (void)state;
    rig_start(&rig, 31);
    struct sched_seq *a = rig_add(&rig, 0, 64, 1800, rig.now_us - 4);
    struct sched_seq *b = rig_add(&rig, 1, 256, 900, rig.now_us - 3);
    struct sched_seq *c = rig_add(&rig, 2, 128, 800, rig.now_us - 2);
    rig_run(&rig);
    assert_true(c->state == SCHED_WAITING && b->state == SCHED_RUNNING);
    struct sched_seq *d = rig_add(&rig, 3, 10, 10, rig.now_us - 9000000); /* stamped before all others */
    rig_run(&rig);
    assert_true(a->state == SCHED_RUNNING && b->state == SCHED_WAITING);
    rig_leave(&rig, a);
    rig_step(&rig);
    assert_ptr_equal(sched_running(rig.sched), b);
    assert_true(c->state == SCHED_WAITING && d->state == SCHED_WAITING);
    rig_leave(&rig, b);
    rig_step(&rig);
    assert_ptr_equal(sched_running(rig.sched), c);
    assert_ptr_equal(sched_next(rig.sched, c), d);
    rig_stop(&rig);
}

static void test_it_needs_a_cache(void **state)
{
    struct sched_config config = {
        .policies = {{.shape = {.n_layers = 2, .n_heads = 2, .n_kv_heads = 1, .head_dim = 64},
                      .format = &kv_format_f16}},
        .n_formats = 1,
        .kv_bytes = 1 << 20,
        .ctx_size = 100,
        .parallel = 1,
        .max_batch_tokens = 1,
        .max_logits = 1,
        .admission = SCHED_OPTIMISTIC};
    struct err_info info;
    struct sched *sched;
    (void)state;
    assert_int_equal(sched_create(&config, &sched, &info), ERR_USAGE);
    assert_non_null(strstr(info.message, "--no-prefix-cache"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_least_loss_goes_and_the_eldest_stays),
        cmocka_unit_test(test_standing_counts_before_loss),
        cmocka_unit_test(test_shared_tokens_are_no_loss),
        cmocka_unit_test(test_progress_is_protected),
        cmocka_unit_test(test_preempted_come_back_in_order),
        cmocka_unit_test(test_it_needs_a_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
