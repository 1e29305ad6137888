#include "server/sched_internal.h"

#include <assert.h>
#include <math.h>

/*
 * What each tenant has in the queue, and how fast it is served: for the gate, which must not let one of them
 * fill the queue and must tell it when to come back. A tenant is there while it has sequences; whoever is
 * refused for his own limit has some.
 *
 * Rates forget as those of all do, over the time spent in steps, but only when they are touched: a step costs
 * the same however many tenants there are.
 */

static struct sched_tenant **bucket_of(const struct sched *sched, uint64_t id)
{
    return &sched->tenant_buckets[sched_bucket(sched, id)];
}

static struct sched_tenant *find(const struct sched *sched, uint64_t id)
{
    struct sched_tenant *tenant = *bucket_of(sched, id);
    while (tenant != NULL && tenant->id != id) tenant = tenant->chain;
    return tenant;
}

struct sched_tenant *sched_tenant_join(struct sched *sched, uint64_t id)
{
    struct sched_tenant *tenant = find(sched, id), **bucket = bucket_of(sched, id);
    if (tenant == NULL) {
        tenant = sched->free_tenants;
        if (tenant != NULL)
            sched->free_tenants = tenant->chain;
        else
            tenant = &sched->tenants[sched->n_tenants++];
        *tenant = (struct sched_tenant){.id = id, .chain = *bucket, .since_us = sched->busy_us};
        *bucket = tenant;
    }
    tenant->n_flows++;
    return tenant;
}

void sched_tenant_part(struct sched *sched, struct sched_tenant *tenant)
{
    if (--tenant->n_flows > 0) return;
    struct sched_tenant **at = bucket_of(sched, tenant->id);
    assert(tenant->n_waiting == 0 && tenant->waiting_tokens == 0);
    while (*at != tenant) at = &(*at)->chain;
    *at = tenant->chain;
    tenant->chain = sched->free_tenants;
    sched->free_tenants = tenant;
}

void sched_tenant_count(struct sched_tenant *tenant, const struct sched_seq *seq, int change)
{
    tenant->n_waiting += change;
    tenant->waiting_tokens += change * (int64_t)seq->n_prompt;
}

void sched_tenant_served(const struct sched *sched, struct sched_tenant *tenant, int n_finished, int n_tokens)
{
    double keep = exp((tenant->since_us - sched->busy_us) / sched_memory_us);
    tenant->since_us = sched->busy_us;
    tenant->finished_sum = tenant->finished_sum * keep + n_finished;
    tenant->tokens_sum = tenant->tokens_sum * keep + n_tokens;
}

void sched_tenant_share(const struct sched *sched, uint64_t id, struct sched_share *out)
{
    const struct sched_tenant *tenant = find(sched, id);
    double window_us = sched->window_us;

    *out = (struct sched_share){.finish_interval_us = window_us, .token_interval_us = window_us};
    if (tenant == NULL) return;
    double keep = exp((tenant->since_us - sched->busy_us) / sched_memory_us);
    double finished = tenant->finished_sum * keep, tokens = tenant->tokens_sum * keep;
    out->n_waiting = tenant->n_waiting;
    out->waiting_tokens = tenant->waiting_tokens;
    if (finished > 0) out->finish_interval_us = window_us / finished;
    if (tokens > 0) out->token_interval_us = window_us / tokens;
}
