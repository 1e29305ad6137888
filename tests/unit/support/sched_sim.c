#include "tests/unit/support/sched_sim.h"

#include "server/sched_gate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const int sim_priorities[SIM_PRIORITIES] = {-10, -1, 0, 1, 5};

enum { VERIFY_STEPS = 61, FULL_VERIFY_STEPS = 997, PLAN_BUCKETS = 1000 };

struct client {
    struct sched_seq seq; /* first, so that an owner is its client */
    struct cache_holder holder;
    struct client *next_free;
    int place;   /* in sim->alive */
    int ends_at; /* generated tokens after which it finds its end token */
    int n_generated;
    int gap;      /* steps in a row in which it was due and got nothing */
    int priority; /* index in sim_priorities */
    int tenant;
    bool counted; /* its first admission was */
    bool queued;
    int64_t ahead;     /* tokens that may be computed before it is admitted, when there is one tenant */
    uint64_t computed; /* in all when it arrived */
};

struct sim {
    const struct sim_config *config;
    struct sched *sched;
    struct sched_gate gate;
    struct sched_cache ops;
    struct cache_model *model;
    struct client *clients, *free, **alive, **mail;
    int n_alive, n_mail, n_clients;
    uint64_t random, ids;
    int64_t now_us;
    long step;
    double owed; /* arrivals */
    struct sim_result result;
    double both_tokens[SIM_TENANTS];
    int backlog[SIM_TENANTS];                         /* waiting sequences */
    uint64_t last_order[SIM_PRIORITIES][SIM_TENANTS]; /* plus 1, of first admissions */
    long plans[PLAN_BUCKETS];                         /* by microseconds */
    long n_short;                                     /* preempted short of the progress that is promised */
};

#define CHECK(sim, condition)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: seed %llu, step %ld: does not hold: %s\n", __FILE__, __LINE__,           \
                    (unsigned long long)(sim)->config->seed, (sim)->step, #condition);                       \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* --- Chance --- */

static uint32_t draw(struct sim *sim, uint32_t below)
{
    sim->random = sim->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(((sim->random >> 32) * below) >> 32);
}

static double uniform(struct sim *sim)
{
    return (draw(sim, 1u << 30) + 0.5) / (double)(1u << 30);
}

static bool chance(struct sim *sim, double p)
{
    return p > 0 && uniform(sim) < p;
}

/* Pareto of exponent 1.4 above half the median, cut at `most`. */
static int heavy(struct sim *sim, int median, int most)
{
    double x = 0.61 * median * pow(uniform(sim), -1 / 1.4);
    return x < 1 ? 1 : x < most ? (int)x : most;
}

/* --- Arrivals --- */

static struct cache_holder *holder_of(void *owner)
{
    return &((struct client *)owner)->holder;
}

static int draw_tenant(struct sim *sim)
{
    int total = 0;
    for (int t = 0; t < SIM_TENANTS; t++) total += sim->config->tenant_weights[t];
    if (total == 0) return (int)draw(sim, SIM_TENANTS);
    int x = (int)draw(sim, (uint32_t)total), t = 0;
    while (x >= sim->config->tenant_weights[t]) x -= sim->config->tenant_weights[t++];
    return t;
}

static int draw_priority(struct sim *sim)
{
    uint32_t x = draw(sim, 20);
    return x == 0 ? 0 : x < 3 ? 1 : x < 15 ? 2 : x < 18 ? 3 : 4;
}

static void make(struct sim *sim, struct client *client)
{
    const struct sim_config *config = sim->config;
    int ctx = config->sched.ctx_size, block_count = ctx / KV_BLOCK_TOKENS + 1;
    struct cache_block **blocks = client->holder.blocks;
    int n_common = 0;

    *client = (struct client){.tenant = config->one_tenant ? 0 : draw_tenant(sim),
                              .priority = config->one_priority ? 2 : draw_priority(sim)};
    memset(blocks, 0, (size_t)block_count * sizeof(struct cache_block *));
    int most = config->common_blocks > 0 ? config->common_blocks : 16;
    uint64_t group = config->all_common ? 0 : draw(sim, 4);
    if (config->shared && config->all_common)
        n_common = KV_BLOCK_TOKENS * most;
    else if (config->shared && draw(sim, 2) == 0)
        n_common = KV_BLOCK_TOKENS * (1 + (int)draw(sim, (uint32_t)most)) * (int)(group + 1) / 4;
    int n_prompt = heavy(sim, config->median_prompt, ctx / 2) + n_common;
    if (n_prompt > ctx - 2) n_prompt = ctx - 2;
    client->ends_at = heavy(sim, config->median_output, ctx - n_prompt - 1);
    double asked = client->ends_at * (1 + uniform(sim) * 2 * (config->max_tokens_factor - 1));
    int max_tokens = asked < ctx - n_prompt ? (int)asked : ctx - n_prompt;
    if (draw(sim, 50) == 0) max_tokens = 0;
    client->seq = (struct sched_seq){
        .owner = client,
        .format = config->mixed ? (int)draw(sim, (uint32_t)config->sched.n_formats) : 0,
        .n_prompt = n_prompt,
        .max_tokens = max_tokens,
        .score_prompt = max_tokens == 0 || draw(sim, 30) == 0,
        .priority = sim_priorities[client->priority],
        .tenant = (uint64_t)client->tenant,
        .deadline_us =
            chance(sim, config->deadline_share) ? sim->now_us + 1 + (int64_t)(uniform(sim) * 60e6) : 0,
    };
    client->holder = (struct cache_holder){.seq = &client->seq,
                                           .tenant = (uint64_t)client->tenant,
                                           .group = group,
                                           .id = ++sim->ids,
                                           .n_common = n_common < n_prompt ? n_common : n_prompt,
                                           .blocks = blocks};
}

static void arrive(struct sim *sim)
{
    struct client *client = sim->free;
    CHECK(sim, client != NULL); /* the gate let in more than it may */
    struct client *next = client->next_free;
    make(sim, client);
    sim->result.submitted++;
    int retry_s = 0;
    struct sched_seq *seq = &client->seq;
    if (sched_check(sim->sched, seq->format, seq->n_prompt, seq->max_tokens, NULL) != ERR_OK ||
        sched_gate_pass(&sim->gate, seq->tenant, 1, seq->n_prompt, &retry_s, NULL) != ERR_OK) {
        CHECK(sim, retry_s >= 0 && retry_s <= 600);
        client->next_free = next;
        sim->result.refused++;
        return;
    }
    sim->free = next;
    sim->mail[sim->n_mail++] = client;
}

/* With one tenant, all that is computed until a sequence is first admitted is work of those that were there
   when it came, or came later with a better rank. */
static int64_t work_left(const struct sched_seq *seq)
{
    return seq->n_prompt + seq->max_tokens - (seq->n_high - seq->n_hit);
}

static void foresee(struct sim *sim, struct client *client)
{
    const struct sched_stats *stats = sched_stats(sim->sched);
    if (!sim->config->one_tenant) return;
    client->computed = stats->computed_tokens - stats->recomputed_tokens;
    for (int i = 0; i < sim->n_alive; i++) {
        struct client *other = sim->alive[i];
        if (other == client) continue;
        client->ahead += work_left(&other->seq);
        if (other->seq.rank > client->seq.rank) other->ahead += work_left(&client->seq);
    }
}

static void collect_mail(struct sim *sim)
{
    sched_gate_sync(&sim->gate, sim->sched);
    CHECK(sim, sim->gate.n_waiting == sched_waiting_count(sim->sched) + sim->n_mail);
    for (int i = 0; i < sim->n_mail; i++) {
        struct client *client = sim->mail[i];
        client->place = sim->n_alive;
        sim->alive[sim->n_alive++] = client;
        client->queued = true;
        sim->backlog[client->tenant]++;
        /* Requests are stamped where they come in, and handed over in another order. */
        int64_t late_us = sim->config->one_tenant ? 0 : draw(sim, 20000);
        sched_add(sim->sched, &client->seq, sim->now_us - late_us);
        client->holder.lasting_block = sched_lasting_block(sim->sched, &client->seq);
        foresee(sim, client);
    }
    sim->n_mail = 0;
}

/* Bursts: the load is 1.6 of its mean for 300 steps, then 0.4 of it for as long. */
static void arrivals(struct sim *sim)
{
    const struct sim_config *config = sim->config;
    if (config->load == 0) {
        while (sim->gate.n_waiting + sim->gate.n_passed < config->max_queue) {
            long refused = sim->result.refused;
            arrive(sim);
            if (sim->result.refused > refused) break;
        }
    } else {
        double rate = config->arrivals * config->load * (sim->step / 300 % 2 == 0 ? 1.6 : 0.4);
        sim->owed -= rate;
        while (sim->owed < 0) {
            arrive(sim);
            sim->owed -= log(uniform(sim));
        }
    }
    /* The limit holds for all that ever wait together, preempted ones aside. */
    CHECK(sim, config->sched.admission == SCHED_OPTIMISTIC ||
                   sim->gate.n_waiting + sim->gate.n_passed <= config->max_queue + config->sched.parallel);
}

/* --- The end --- */

static void leave(struct sim *sim, struct client *client, bool finished)
{
    if (client->queued) sim->backlog[client->tenant]--;
    if (finished)
        sched_finish(sim->sched, &client->seq);
    else
        sched_cancel(sim->sched, &client->seq);
    cache_model_release(sim->model, &client->holder);
    struct client *last = sim->alive[--sim->n_alive];
    sim->alive[client->place] = last;
    last->place = client->place;
    client->next_free = sim->free;
    sim->free = client;
}

static void departures(struct sim *sim)
{
    struct sched_seq *expired;
    while ((expired = sched_expired(sim->sched, sim->now_us)) != NULL) {
        CHECK(sim, expired->deadline_us <= sim->now_us);
        leave(sim, expired->owner, false);
        sim->result.expired++;
    }
    if (sim->n_alive > 0 && chance(sim, sim->config->cancel_rate * sim->n_alive)) {
        leave(sim, sim->alive[draw(sim, (uint32_t)sim->n_alive)], false);
        sim->result.cancelled++;
    }
    if (chance(sim, sim->config->evict_rate)) cache_model_evict(sim->model, 1 + (int)draw(sim, 64));
}

/* --- One step --- */

static void count_admission(struct sim *sim, struct client *client)
{
    double wait_us = (double)(client->seq.admitted_us - client->seq.arrived_us);
    int p = client->priority;
    uint64_t *last = &sim->last_order[p][client->tenant];
    CHECK(sim, *last < client->seq.order + 1); /* first come, first served */
    *last = client->seq.order + 1;
    client->counted = true;
    const struct sched_stats *stats = sched_stats(sim->sched);
    CHECK(sim, !sim->config->one_tenant || (int64_t)(stats->computed_tokens - stats->recomputed_tokens -
                                                     client->computed) <= client->ahead);
    sim->result.tenant_waits[client->tenant]++;
    sim->result.tenant_wait_us[client->tenant] += wait_us;
    sim->result.waits[p]++;
    sim->result.wait_us[p] += wait_us;
    if (wait_us > sim->result.worst_wait_us[p]) sim->result.worst_wait_us[p] = wait_us;
}

/* Everything that must hold of a planned step, from the sequences alone. Returns its tokens. */
static int check_step(struct sim *sim, struct sched_seq *const *chosen, int n)
{
    const struct sched_config *config = &sim->config->sched;
    int n_running = 0, tokens = 0, logits = 0, n_chosen = 0;
    bool crowded = sched_running_count(sim->sched) > config->max_batch_tokens;

    for (struct sched_seq *seq = sched_running(sim->sched); seq != NULL; seq = sched_next(sim->sched, seq)) {
        struct client *client = seq->owner;
        bool due = seq->n_tokens - seq->n_cached == 1;
        n_running++;
        tokens += seq->n_step;
        logits += sched_logits(seq);
        n_chosen += seq->n_step > 0;
        CHECK(sim, seq->state == SCHED_RUNNING && seq->n_cached + seq->n_step <= seq->n_tokens);
        if (!client->counted) count_admission(sim, client);
        if (client->queued) sim->backlog[client->tenant]--;
        client->queued = false;
        client->gap = due && seq->n_step == 0 && !crowded ? client->gap + 1 : 0;
        /* Memory or rows of logits may hold one back while each other has its turn, also those who came
         * since. */
        CHECK(sim, client->gap <= 2 * config->parallel);
        if (client->gap > sim->result.worst_gap) sim->result.worst_gap = client->gap;
        sim->result.tenant_tokens[client->tenant] += seq->n_step;
    }
    CHECK(sim,
          n_chosen == n && n_running == sched_running_count(sim->sched) && n_running <= config->parallel);
    CHECK(sim, tokens <= config->max_batch_tokens && logits <= config->max_logits);
    bool nothing = sched_waiting_count(sim->sched) == 0 || sched_fetching(sim->sched);
    CHECK(sim, n > 0 || (n_running == 0 && nothing)); /* progress */
    for (int i = 0; i < n; i++) CHECK(sim, chosen[i]->n_step > 0);
    return tokens;
}

static void compare_tenants(struct sim *sim, struct sched_seq *const *chosen, int n)
{
    for (int t = 0; t < SIM_TENANTS; t++) {
        if (sim->backlog[t] == 0) return;
    }
    for (int i = 0; i < n; i++) {
        const struct client *client = chosen[i]->owner;
        sim->both_tokens[client->tenant] += chosen[i]->n_step;
    }
}

static void generate(struct sim *sim, struct client *client)
{
    struct sched_seq *seq = &client->seq;
    if (seq->max_tokens == 0) {
        if (seq->n_cached == seq->n_prompt) {
            leave(sim, client, true);
            sim->result.finished++;
        }
        return;
    }
    client->n_generated++;
    if (client->n_generated >= client->ends_at || client->n_generated >= seq->max_tokens) {
        CHECK(sim, seq->n_tokens + 1 == seq->n_prompt + client->n_generated);
        leave(sim, client, true);
        sim->result.finished++;
    } else {
        sched_token(seq);
    }
}

static void run_step(struct sim *sim, struct sched_seq *const *chosen, int n)
{
    static struct client *sampled[4096];
    int n_sampled = 0;

    for (int i = 0; i < n; i++) {
        struct client *client = chosen[i]->owner;
        cache_model_begin(sim->model, &client->holder, chosen[i]->n_step);
        if (sched_samples(chosen[i]) || chosen[i]->max_tokens == 0) sampled[n_sampled++] = client;
    }
    for (int i = 0; i < n; i++) cache_model_end(sim->model, holder_of(chosen[i]->owner));
    sched_advance(sim->sched);
    for (int i = 0; i < n_sampled; i++) generate(sim, sampled[i]);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now); /* of the processor: others may use it too */
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void find_preempted(struct sim *sim)
{
    CHECK(sim, sim->config->sched.admission == SCHED_OPTIMISTIC);
    for (int i = 0; i < sim->n_alive; i++) {
        struct client *client = sim->alive[i];
        const struct sched_seq *seq = &client->seq;
        if (seq->state != SCHED_WAITING || client->queued) continue;
        CHECK(sim, seq->n_preempted > 0 && client->holder.n_tokens == 0);
        sim->n_short += seq->n_tokens - seq->n_admitted < KV_BLOCK_TOKENS;
        client->queued = true;
        sim->backlog[client->tenant]++;
        if (seq->n_preempted > sim->result.worst_preempted) sim->result.worst_preempted = seq->n_preempted;
    }
}

static void step(struct sim *sim)
{
    const struct sched_config *config = &sim->config->sched;
    struct sched_seq *const *chosen;
    uint64_t preempted = sched_stats(sim->sched)->preempted;
    int most = draw(sim, 4) == 0 ? 1 + (int)draw(sim, 300) : config->max_batch_tokens;
    const struct sched_seq *eldest = sched_running(sim->sched);
    for (const struct sched_seq *seq = eldest; seq != NULL; seq = sched_next(sim->sched, seq)) {
        if (seq->rank < eldest->rank || (seq->rank == eldest->rank && seq->order < eldest->order))
            eldest = seq;
    }
    cache_model_plan(sim->model);
    double start_s = now_s();
    int n = sched_plan(sim->sched, sim->now_us, most, &chosen);
    double plan_us = 1e6 * (now_s() - start_s);

    if (plan_us > sim->result.worst_plan_us) sim->result.worst_plan_us = plan_us;
    sim->result.plan_us += plan_us;
    sim->plans[plan_us < PLAN_BUCKETS - 1 ? (int)plan_us : PLAN_BUCKETS - 1]++;
    CHECK(sim, eldest == NULL || eldest->state == SCHED_RUNNING);
    if (sched_stats(sim->sched)->preempted > preempted) find_preempted(sim);
    int tokens = check_step(sim, chosen, n);
    compare_tenants(sim, chosen, n);
    run_step(sim, chosen, n);
    sim->now_us += 2000 + 100 * tokens;
    CHECK(sim, cache_model_used(sim->model) + cache_model_idle(sim->model) <= config->kv_bytes);
    sim->result.steps++;
    sim->result.idle_steps += n == 0;
    sim->result.running += sched_running_count(sim->sched);
    sim->result.used += (double)cache_model_used(sim->model) / (double)config->kv_bytes;
    sim->result.reserved += (double)sched_reserved_bytes(sim->sched) / (double)config->kv_bytes;
}

static void verify(struct sim *sim)
{
    sched_verify(sim->sched);
    if (sim->step % FULL_VERIFY_STEPS == 0) cache_model_verify(sim->model, sim->sched);
    int running = sched_running_count(sim->sched), waiting = sched_waiting_count(sim->sched);
    CHECK(sim, running + waiting == sim->n_alive); /* nobody is lost */
}

/* --- A run --- */

static void start(struct sim *sim, const struct sim_config *config)
{
    struct sched_config sched = config->sched;
    int n_clients = config->max_queue + 2 * sched.parallel + 8,
        n_blocks = sched.ctx_size / KV_BLOCK_TOKENS + 1;

    sim->config = config;
    sim->random = config->seed * 2 + 1;
    sim->now_us = 1000000;
    sim->model = cache_model_create(sched.policies, sched.n_formats, sched.kv_bytes);
    cache_model_swap(sim->model, &config->swap);
    cache_model_ops(sim->model, holder_of, &sim->ops);
    sched.cache = config->shared || sched.admission == SCHED_OPTIMISTIC ? &sim->ops : NULL;
    sched.max_sequences = n_clients;
    CHECK(sim, sched_create(&sched, &sim->sched, NULL) == ERR_OK);
    sim->gate = (struct sched_gate){.parallel = sched.parallel,
                                    .max_queue = config->max_queue,
                                    .max_queue_tokens = config->max_queue_tokens,
                                    .max_queued_per_key = config->max_queued_per_key};
    CHECK(sim, sched_gate_open(&sim->gate, n_clients, NULL) == ERR_OK);
    sim->n_clients = n_clients;
    sim->clients = calloc((size_t)n_clients, sizeof *sim->clients);
    sim->alive = calloc((size_t)n_clients, sizeof(struct client *));
    sim->mail = calloc((size_t)n_clients, sizeof(struct client *));
    CHECK(sim, sim->clients != NULL && sim->alive != NULL && sim->mail != NULL);
    for (int i = 0; i < n_clients; i++) {
        sim->clients[i].holder.blocks = calloc((size_t)n_blocks, sizeof(struct cache_block *));
        CHECK(sim, sim->clients[i].holder.blocks != NULL);
        sim->clients[i].next_free = sim->free;
        sim->free = &sim->clients[i];
    }
}

static double jain(const double *x, int n)
{
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) {
        sum += x[i];
        squares += x[i] * x[i];
    }
    return squares > 0 ? sum * sum / (n * squares) : 1;
}

static void finish(struct sim *sim)
{
    /* No more arrivals: everything ends, in a bounded number of steps. */
    collect_mail(sim);
    long left = (long)sim->n_alive * sim->config->sched.ctx_size + 1;
    for (; sim->n_alive > 0 && left > 0; left--) {
        sim->step++;
        step(sim);
    }
    sim->step = 0;
    verify(sim);
    struct sim_result *result = &sim->result;
    result->stats = *sched_stats(sim->sched);
    CHECK(sim, sim->n_alive == 0 && sched_held_bytes(sim->sched) == 0);
    CHECK(sim, sched_reserved_bytes(sim->sched) == 0 && cache_model_used(sim->model) == 0);
    CHECK(sim, result->submitted == result->refused + result->finished + result->cancelled + result->expired);
    CHECK(sim, (long)result->stats.cancelled == result->cancelled + result->expired);
    CHECK(sim, (long)result->stats.finished == result->finished);
    CHECK(sim, sim->config->sched.admission == SCHED_OPTIMISTIC || result->stats.preempted == 0);
    CHECK(sim, (long)result->stats.unprotected == sim->n_short);
    for (int p = 0; p < SIM_PRIORITIES; p++) {
        if (result->waits[p] > 0) result->wait_us[p] /= (double)result->waits[p];
    }
    for (int t = 0; t < SIM_TENANTS; t++) {
        if (result->tenant_waits[t] > 0) result->tenant_wait_us[t] /= (double)result->tenant_waits[t];
    }
    result->plan_us /= (double)result->steps;
    for (long below = 0, us = 0; us < PLAN_BUCKETS && below * 100 < result->steps * 99; us++) {
        below += sim->plans[us];
        result->usual_plan_us = (double)us + 1;
    }
    result->running /= (double)result->steps;
    result->used /= (double)result->steps;
    result->reserved /= (double)result->steps;
    result->wasted = (double)result->stats.recomputed_tokens / (double)(result->stats.computed_tokens + 1);
    result->fairness = jain(sim->both_tokens, SIM_TENANTS);
    cache_model_swapped(sim->model, &result->swapped_blocks, &result->bad_blocks);
    sched_free(sim->sched);
    sched_gate_close(&sim->gate);
    cache_model_free(sim->model);
    for (int i = 0; i < sim->n_clients; i++) free(sim->clients[i].holder.blocks);
    free(sim->clients);
    free(sim->alive);
    free(sim->mail);
}

struct sim_result sim_run(const struct sim_config *config)
{
    struct sim sim = {0};
    start(&sim, config);
    for (; sim.step < config->n_steps; sim.step++) {
        collect_mail(&sim);
        arrivals(&sim);
        departures(&sim);
        step(&sim);
        if (sim.step % VERIFY_STEPS == 0) verify(&sim);
        if (sim.step == config->n_steps / 4) sim.result.rate = -(double)sched_stats(sim.sched)->finished;
    }
    sim.result.rate += (double)sched_stats(sim.sched)->finished;
    sim.result.rate /= (double)(config->n_steps - config->n_steps / 4);
    finish(&sim);
    return sim.result;
}
