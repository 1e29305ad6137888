#include "server/sched_internal.h"

#include <assert.h>

/* What must hold between two steps. With NDEBUG it does nothing. */

struct tally {
    int waiting, running, seqs;
    int64_t waiting_tokens;
};

static const struct sched_seq *oldest_of(const struct sched_seq *a, const struct sched_seq *b)
{
    return a == NULL || b->rank < a->rank ? b : a;
}

static void verify_list(const struct sched_link *head)
{
    const struct sched_link *at = head;
    do {
        assert(at->next->previous == at && at->previous->next == at);
        at = at->next;
    } while (at != head);
}

static void verify_heap(const struct sched_heap_node *node, const struct sched_heap_node *previous)
{
    for (const struct sched_heap_node *parent = previous; node != NULL;
         previous = node, node = node->sibling) {
        assert(node->previous == previous);
        assert(parent == NULL || parent->key < node->key ||
               (parent->key == node->key && parent->tie <= node->tie));
        verify_heap(node->child, node);
    }
}

static void verify_waiting(const struct sched *sched, const struct sched_seq *seq, struct tally *tally)
{
    assert(seq->state == SCHED_WAITING && seq->n_step == 0 && seq->n_cached == 0);
    assert(seq->held_bytes == 0 && seq->reserved_bytes == 0);
    assert(seq->rank == seq->arrived_us + seq->priority * sched->config.ageing_us);
    assert((seq->n_preempted > 0) == (seq->n_charged > 0));
    tally->waiting++;
    tally->waiting_tokens += seq->n_prompt;
}

static void verify_flow(const struct sched *sched, const struct sched_flow *flow, struct tally *tally)
{
    uint64_t order = 0;
    verify_list(&flow->waiting);
    verify_list(&flow->prompts);
    for (const struct sched_link *at = flow->waiting.next; at != &flow->waiting; at = at->next) {
        const struct sched_seq *seq = sched_seq_of(at);
        assert(seq->flow == flow && seq->tenant == flow->tenant && seq->n_preempted == 0);
        assert(at == flow->waiting.next || seq->order > order);
        order = seq->order;
        verify_waiting(sched, seq, tally);
    }
    for (const struct sched_link *at = flow->prompts.next; at != &flow->prompts; at = at->next) {
        const struct sched_seq *seq = sched_side_seq_of(at);
        assert(seq->flow == flow && seq->state == SCHED_RUNNING && seq->n_tokens - seq->n_cached >= 1);
    }
    assert(flow->n_seqs > 0 && flow->account->id == flow->tenant);
    tally->seqs += flow->n_seqs;
}

static void verify_class(const struct sched *sched, const struct sched_class *class, struct tally *tally)
{
    const struct sched_seq *oldest = NULL;
    int waiting = tally->waiting, n_flows = 0, n_arrived = 0;

    verify_list(&class->arrivals);
    verify_list(&class->preempted);
    verify_list(&class->prompt_flows);
    verify_heap(class->flows, NULL);
    for (int i = 0; i < sched->n_flows; i++) {
        const struct sched_flow *flow = &sched->flows[i];
        if (flow->n_seqs == 0 || flow->class != class) continue;
        verify_flow(sched, flow, tally);
        n_flows++;
    }
    for (const struct sched_link *at = class->arrivals.next; at != &class->arrivals; at = at->next) {
        oldest = oldest == NULL ? sched_side_seq_of(at) : oldest;
        n_arrived++;
    }
    assert(tally->waiting - waiting == n_arrived);
    int64_t rank = INT64_MIN;
    for (const struct sched_link *at = class->preempted.next; at != &class->preempted; at = at->next) {
        const struct sched_seq *seq = sched_seq_of(at);
        assert(seq->rank >= rank && seq->n_preempted > 0 && seq->flow->class == class);
        rank = seq->rank;
        oldest = oldest_of(oldest, seq);
        verify_waiting(sched, seq, tally);
    }
    assert(class->n_flows == n_flows && n_flows > 0);
    assert(tally->waiting - waiting == class->n_waiting);
    assert(class->n_waiting == 0 || class->node.key == oldest->rank);
}

static void verify_tenants(const struct sched *sched)
{
    int waiting = 0, n_flows = 0, flows = 0;
    for (int i = 0; i < sched->n_tenants; i++) {
        const struct sched_tenant *tenant = &sched->tenants[i];
        if (tenant->n_flows == 0) continue;
        assert(tenant->n_waiting >= 0 && tenant->waiting_tokens >= tenant->n_waiting);
        waiting += tenant->n_waiting;
        n_flows += tenant->n_flows;
    }
    for (int i = 0; i < sched->n_classes; i++) {
        const struct sched_class *class = &sched->classes[i];
        if (class->n_flows == 0) continue;
        flows += class->n_flows;
        for (const struct sched_link *at = class->arrivals.next; at != &class->arrivals; at = at->next)
            waiting--;
    }
    assert(waiting == 0 && n_flows == flows);
}

static void verify_running(const struct sched *sched, struct tally *tally)
{
    size_t reserved = 0, held = 0;
    int n_of_format[KV_MAX_FORMATS] = {0};

    verify_list(&sched->running);
    for (const struct sched_seq *seq = sched_running(sched); seq != NULL; seq = sched_next(sched, seq)) {
        const struct kv_policy *policy = &sched->config.policies[seq->format];
        assert(seq->state == SCHED_RUNNING && seq->n_charged > 0);
        assert(seq->held_bytes == kv_policy_held_bytes(policy, seq->n_cached));
        assert(sched->config.admission == SCHED_OPTIMISTIC || seq->held_bytes <= seq->reserved_bytes);
        assert(seq->n_cached <= seq->n_tokens && seq->n_tokens <= seq->n_prompt + seq->max_tokens);
        /* One that a hit in the cache left a single token may still be there. */
        assert(sched_in_prompts(seq) || seq->n_tokens - seq->n_cached <= 1);
        reserved += seq->reserved_bytes;
        held += seq->held_bytes;
        n_of_format[seq->format]++;
        tally->running++;
    }
    assert(tally->running == sched->n_running && tally->running <= sched->config.parallel);
    assert(reserved == sched->reserved && held == sched->held);
    for (int format = 0; format < KV_MAX_FORMATS; format++)
        assert(n_of_format[format] == sched->n_of_format[format]);
}

static void verify_memory(const struct sched *sched)
{
    struct sched_memory memory = {.used_bytes = sched->held};
    const struct sched_cache *cache = sched->config.cache;

    if (cache != NULL) cache->memory(cache->context, &memory);
    assert(memory.used_bytes <= sched->config.kv_bytes);
    if (sched->config.admission == SCHED_NO_EVICT) {
        assert(memory.saved_bytes <= sched->reserved);
        assert(sched->reserved - memory.saved_bytes <= sched->config.kv_bytes);
        assert(memory.used_bytes <= sched->reserved - memory.saved_bytes);
        assert(sched->stats.preempted == 0);
    }
}

void sched_verify(const struct sched *sched)
{
    struct tally tally = {0};

    for (int i = 0; i < sched->n_classes; i++) {
        if (sched->classes[i].n_flows > 0) verify_class(sched, &sched->classes[i], &tally);
    }
    verify_running(sched, &tally);
    verify_heap(sched->class_heap, NULL);
    verify_heap(sched->deadlines, NULL);
    assert(tally.waiting == sched->n_waiting && tally.waiting_tokens == sched->waiting_tokens);
    assert(tally.seqs == sched->n_waiting + sched->n_running);
    verify_tenants(sched);
    verify_memory(sched);
}
