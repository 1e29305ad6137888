#include "server/sched_gate.h"

#include <assert.h>
#include <stdlib.h>

int sched_retry_after_s(double wait_us)
{
    double seconds = wait_us * 1e-6;
    return seconds < 1 ? 1 : seconds > 600 ? 600 : (int)seconds + 1;
}

/* --- Tenants --- */

enum err sched_gate_open(struct sched_gate *gate, int max_sequences, struct err_info *info)
{
    size_t n_slots = 64;
    if (gate->max_queued_per_key == 0) return ERR_OK;
    while (n_slots < 2 * (size_t)max_sequences) n_slots *= 2;
    gate->tenants = calloc((size_t)max_sequences, sizeof *gate->tenants);
    gate->slots = calloc(n_slots, sizeof *gate->slots);
    gate->slot_mask = n_slots - 1;
    gate->max_tenants = max_sequences;
    if (gate->tenants != NULL && gate->slots != NULL) return ERR_OK;
    sched_gate_close(gate);
    return err_set(info, ERR_MEMORY, "no memory for the tenants of %d sequences", max_sequences);
}

void sched_gate_close(struct sched_gate *gate)
{
    free(gate->tenants);
    free(gate->slots);
    gate->tenants = NULL;
    gate->slots = NULL;
}

/* The slot of a tenant, or a free one where it would stand. */
static size_t slot_of(const struct sched_gate *gate, uint64_t id)
{
    size_t at = (size_t)((id ^ id >> 32) * UINT64_C(0x9e3779b97f4a7c15) >> 32) & gate->slot_mask;
    while (gate->slots[at] != 0 && gate->tenants[gate->slots[at] - 1].id != id)
        at = (at + 1) & gate->slot_mask;
    return at;
}

static struct sched_gate_tenant *tenant_find(const struct sched_gate *gate, uint64_t id)
{
    int32_t index = gate->slots[slot_of(gate, id)];
    return index != 0 ? &gate->tenants[index - 1] : NULL;
}

static void tenant_place(struct sched_gate *gate, int index)
{
    struct sched_gate_tenant *tenant = &gate->tenants[index];
    tenant->slot = slot_of(gate, tenant->id);
    gate->slots[tenant->slot] = index + 1;
}

static void tenant_passed(struct sched_gate *gate, uint64_t id, int n, int64_t n_tokens)
{
    struct sched_gate_tenant *tenant = tenant_find(gate, id);
    if (tenant == NULL) {
        assert(gate->n_tenants < gate->max_tenants);
        tenant = &gate->tenants[gate->n_tenants];
        *tenant = (struct sched_gate_tenant){.id = id,
                                             .finish_interval_us = gate->finish_interval_us,
                                             .token_interval_us = gate->token_interval_us};
        tenant_place(gate, gate->n_tenants++);
    }
    tenant->n_passed += n;
    tenant->passed_tokens += n_tokens;
}

/* Whoever has nothing waiting any more goes. */
static void tenants_sync(struct sched_gate *gate, const struct sched *sched)
{
    int n_tenants = gate->n_tenants;
    for (int i = 0; i < n_tenants; i++) gate->slots[gate->tenants[i].slot] = 0;
    gate->n_tenants = 0;
    for (int i = 0; i < n_tenants; i++) {
        struct sched_gate_tenant tenant = gate->tenants[i];
        struct sched_share share;
        sched_tenant_share(sched, tenant.id, &share);
        tenant.n_waiting = share.n_waiting + tenant.n_passed;
        tenant.waiting_tokens = share.waiting_tokens + tenant.passed_tokens;
        tenant.n_passed = 0;
        tenant.passed_tokens = 0;
        tenant.finish_interval_us = share.finish_interval_us;
        tenant.token_interval_us = share.token_interval_us;
        if (tenant.n_waiting == 0) continue;
        gate->tenants[gate->n_tenants] = tenant;
        tenant_place(gate, gate->n_tenants++);
    }
}

/* --- Limits --- */

/* Of the last of so many sequences that wait; sched_gate_pass says how. */
static double likely_wait_us(const struct sched_gate *gate, int waiting)
{
    int free_places = gate->is_full ? 0 : gate->parallel - gate->n_running;
    if (waiting <= free_places) return 0;
    /* Before the first step all places will be taken by those ahead. */
    int n_running = gate->n_running > 0 ? gate->n_running : gate->parallel;
    return (waiting - free_places) * gate->run_us / n_running;
}

static double largest(double a, double b)
{
    return a > b ? a : b;
}

/* Until what is too much has gone. */
static double time_of(double interval_us, double token_interval_us, int excess, int64_t excess_tokens)
{
    return largest(excess > 0 ? excess * interval_us : 0,
                   excess_tokens > 0 ? (double)excess_tokens * token_interval_us : 0);
}

/* The limits of all, of which the request is part already. */
static enum err check_all(const struct sched_gate *gate, int n, int64_t n_tokens, int *retry_after_s,
                          struct err_info *info)
{
    int waiting = gate->n_waiting + gate->n_passed;
    int64_t tokens = gate->waiting_tokens + gate->passed_tokens;
    bool idle = gate->n_running == 0 && waiting == n, alone = waiting == n;
    int excess = idle ? 0 : waiting - gate->max_queue - (gate->parallel - gate->n_running);
    int64_t excess_tokens = alone || gate->max_queue_tokens == 0 ? 0 : tokens - gate->max_queue_tokens;
    double excess_us =
        idle || gate->max_wait_us == 0 ? 0 : likely_wait_us(gate, waiting) - (double)gate->max_wait_us;
    if (excess <= 0 && excess_tokens <= 0 && excess_us <= 0) return ERR_OK;

    int seconds = sched_retry_after_s(largest(
        time_of(gate->finish_interval_us, gate->token_interval_us, excess, excess_tokens), excess_us));
    *retry_after_s = seconds;
    if (excess > 0)
        return err_set(info, ERR_BUSY,
                       "the queue is full: %d sequences run and %d wait (--max-queue %d); try again in %d s",
                       gate->n_running, waiting - n, gate->max_queue, seconds);
    if (excess_tokens <= 0)
        return err_set(info, ERR_BUSY,
                       "the queue is too long: %d sequences run and %d wait, about %.1f s for the next one "
                       "(--max-queue-wait-ms %lld); try again in %d s",
                       gate->n_running, waiting - n, (excess_us + (double)gate->max_wait_us) * 1e-6,
                       (long long)gate->max_wait_us / 1000, seconds);
    return err_set(info, ERR_BUSY,
                   "the queue is full: %lld prompt tokens wait (--max-queue-tokens %lld); try again in %d s",
                   (long long)(tokens - n_tokens), (long long)gate->max_queue_tokens, seconds);
}

static int64_t tokens_per_key(const struct sched_gate *gate)
{
    double share = (double)gate->max_queued_per_key / gate->max_queue;
    if (gate->max_queue_tokens == 0 || share >= 1) return INT64_MAX;
    return (int64_t)(share * (double)gate->max_queue_tokens);
}

/* Those of its tenant. */
static enum err check_tenant(const struct sched_gate *gate, uint64_t id, int n, int64_t n_tokens,
                             int *retry_after_s, struct err_info *info)
{
    const struct sched_gate_tenant *tenant = tenant_find(gate, id);
    if (tenant == NULL) return ERR_OK; /* it has nothing waiting */
    int waiting = tenant->n_waiting + tenant->n_passed;
    int64_t tokens = tenant->waiting_tokens + tenant->passed_tokens, most = tokens_per_key(gate);
    int excess = waiting + n - gate->max_queued_per_key - (gate->parallel - gate->n_running);
    int64_t excess_tokens = most == INT64_MAX ? 0 : tokens + n_tokens - most;
    if (excess <= 0 && excess_tokens <= 0) return ERR_OK;

    int seconds = sched_retry_after_s(
        time_of(tenant->finish_interval_us, tenant->token_interval_us, excess, excess_tokens));
    *retry_after_s = seconds;
    if (excess > 0)
        return err_set(info, ERR_BUSY,
                       "this API key's part of the queue is full: %d of its sequences wait "
                       "(--max-queued-per-key %d); try again in %d s",
                       waiting, gate->max_queued_per_key, seconds);
    return err_set(
        info, ERR_BUSY,
        "this API key's part of the queue is full: %lld of its prompt tokens wait, of %lld "
        "(--max-queued-per-key %d of --max-queue %d, in --max-queue-tokens %lld); try again in %d s",
        (long long)tokens, (long long)most, gate->max_queued_per_key, gate->max_queue,
        (long long)gate->max_queue_tokens, seconds);
}

enum err sched_gate_pass(struct sched_gate *gate, uint64_t tenant, int n, int64_t n_tokens,
                         int *retry_after_s, struct err_info *info)
{
    enum err err = ERR_OK;
    assert(n >= 1 && n_tokens >= n);
    gate->n_passed += n;
    gate->passed_tokens += n_tokens;
    if (gate->max_queued_per_key > 0) err = check_tenant(gate, tenant, n, n_tokens, retry_after_s, info);
    if (err == ERR_OK) err = check_all(gate, n, n_tokens, retry_after_s, info);
    if (err == ERR_OK) {
        if (gate->max_queued_per_key > 0) tenant_passed(gate, tenant, n, n_tokens);
        return ERR_OK;
    }
    gate->n_passed -= n;
    gate->passed_tokens -= n_tokens;
    return err;
}

void sched_gate_sync(struct sched_gate *gate, const struct sched *sched)
{
    gate->n_waiting = sched_waiting_count(sched) + gate->n_passed;
    gate->waiting_tokens = sched_waiting_tokens(sched) + gate->passed_tokens;
    gate->n_running = sched_running_count(sched);
    gate->is_full = sched_waiting_count(sched) > 0;
    gate->n_passed = 0;
    gate->passed_tokens = 0;
    gate->run_us = sched_run_us(sched);
    gate->finish_interval_us = sched_finish_interval_us(sched);
    gate->token_interval_us = sched_token_interval_us(sched);
    if (gate->max_queued_per_key > 0) tenants_sync(gate, sched);
}
