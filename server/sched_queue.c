#include "server/sched_internal.h"

#include <assert.h>
#include <stdlib.h>

/*
 * Who is next: the priority whose oldest sequence has the least rank (arrival, plus the priority's worth in
 * time); in it the preempted ones, then the tenant that was served the fewest tokens, and of that tenant the
 * oldest. Priorities and tenants are found through hash tables and ordered in heaps.
 */

/* --- Tables --- */

static size_t bucket_of(const struct sched *sched, int priority, uint64_t tenant)
{
    return sched_bucket(sched, (tenant ^ (uint64_t)(uint32_t)priority * UINT64_C(0x9e3779b97f4a7c15)) + 1);
}

static struct sched_class *class_join(struct sched *sched, int priority)
{
    struct sched_class **bucket = &sched->class_buckets[bucket_of(sched, priority, 0)];
    for (struct sched_class *class = *bucket; class != NULL; class = class->chain) {
        if (class->priority == priority) return class;
    }
    struct sched_class *class = sched->free_classes;
    if (class != NULL)
        sched->free_classes = class->chain;
    else
        class = &sched->classes[sched->n_classes++];
    *class = (struct sched_class){.priority = priority, .chain = *bucket};
    sched_list_init(&class->arrivals);
    sched_list_init(&class->preempted);
    sched_list_init(&class->prompt_flows);
    *bucket = class;
    return class;
}

static void class_part(struct sched *sched, struct sched_class *class)
{
    if (class->n_flows > 0) return;
    struct sched_class **at = &sched->class_buckets[bucket_of(sched, class->priority, 0)];
    while (*at != class) at = &(*at)->chain;
    *at = class->chain;
    class->chain = sched->free_classes;
    sched->free_classes = class;
}

void sched_queue_join(struct sched *sched, struct sched_seq *seq)
{
    struct sched_flow **bucket = &sched->flow_buckets[bucket_of(sched, seq->priority, seq->tenant)];
    struct sched_flow *flow = *bucket;
    while (flow != NULL && (flow->tenant != seq->tenant || flow->class->priority != seq->priority))
        flow = flow->chain;
    if (flow == NULL) {
        flow = sched->free_flows;
        if (flow != NULL)
            sched->free_flows = flow->chain;
        else
            flow = &sched->flows[sched->n_flows++];
        *flow = (struct sched_flow){.tenant = seq->tenant, .chain = *bucket};
        flow->account = sched_tenant_join(sched, seq->tenant);
        flow->class = class_join(sched, seq->priority);
        flow->class->n_flows++;
        sched_list_init(&flow->waiting);
        sched_list_init(&flow->prompts);
        *bucket = flow;
    }
    flow->n_seqs++;
    seq->flow = flow;
}

void sched_queue_part(struct sched *sched, struct sched_seq *seq)
{
    struct sched_flow *flow = seq->flow;
    struct sched_class *class = flow->class;
    seq->flow = NULL;
    if (--flow->n_seqs > 0) return;
    struct sched_flow **at = &sched->flow_buckets[bucket_of(sched, class->priority, flow->tenant)];
    while (*at != flow) at = &(*at)->chain;
    *at = flow->chain;
    flow->chain = sched->free_flows;
    sched->free_flows = flow;
    sched_tenant_part(sched, flow->account);
    class->n_flows--;
    class_part(sched, class);
}

/* --- Order --- */

static struct sched_flow *flow_of_node(const struct sched_heap_node *node)
{
    return SCHED_OWNER(struct sched_flow, node, node);
}

static struct sched_seq *first_of(const struct sched_link *list)
{
    return sched_list_empty(list) ? NULL : sched_seq_of(list->next);
}

static void class_reorder(struct sched *sched, struct sched_class *class, bool was_in)
{
    if (was_in) sched_heap_remove(&sched->class_heap, &class->node);
    if (class->n_waiting == 0) return;
    struct sched_seq *oldest = first_of(&class->preempted);
    if (!sched_list_empty(&class->arrivals)) {
        struct sched_seq *arrival = sched_side_seq_of(class->arrivals.next);
        if (oldest == NULL || arrival->rank < oldest->rank) oldest = arrival;
    }
    sched_heap_push(&sched->class_heap, &class->node, oldest->rank, oldest->order);
}

static void flow_reorder(struct sched_flow *flow, bool was_in)
{
    if (was_in) sched_heap_remove(&flow->class->flows, &flow->node);
    struct sched_seq *first = first_of(&flow->waiting);
    if (first != NULL) sched_heap_push(&flow->class->flows, &flow->node, flow->served, first->order);
}

static void count_waiting(struct sched *sched, struct sched_seq *seq, int change)
{
    seq->flow->class->n_waiting += change;
    sched->n_waiting += change;
    sched->waiting_tokens += change * (int64_t)seq->n_prompt;
}

void sched_queue_push(struct sched *sched, struct sched_seq *seq)
{
    struct sched_flow *flow = seq->flow;
    struct sched_class *class = flow->class;
    bool flow_was_in = !sched_list_empty(&flow->waiting), class_was_in = class->n_waiting > 0;
    bool first = sched_list_empty(&class->arrivals);

    if (!flow_was_in && flow->served < class->served) flow->served = class->served;
    sched_list_insert(&flow->waiting, &seq->link);
    sched_list_insert(&class->arrivals, &seq->side_link);
    count_waiting(sched, seq, 1);
    sched_tenant_count(flow->account, seq, 1);
    if (!flow_was_in) flow_reorder(flow, false);
    if (first) class_reorder(sched, class, class_was_in);
}

void sched_queue_return(struct sched *sched, struct sched_seq *seq)
{
    struct sched_class *class = seq->flow->class;
    bool was_in = class->n_waiting > 0;
    struct sched_link *before = class->preempted.next;

    while (before != &class->preempted && sched_seq_of(before)->rank <= seq->rank) before = before->next;
    sched_list_insert(before, &seq->link);
    seq->side_link = (struct sched_link){0};
    count_waiting(sched, seq, 1);
    class_reorder(sched, class, was_in);
}

void sched_queue_remove(struct sched *sched, struct sched_seq *seq)
{
    struct sched_flow *flow = seq->flow;
    bool preempted = seq->side_link.next == NULL;
    bool leads = !preempted && flow->waiting.next == &seq->link;

    sched_list_remove(&seq->link);
    if (!preempted) {
        sched_list_remove(&seq->side_link);
        sched_tenant_count(flow->account, seq, -1);
    }
    count_waiting(sched, seq, -1);
    if (leads) flow_reorder(flow, true);
    class_reorder(sched, flow->class, true);
}

struct sched_seq *sched_queue_first(const struct sched *sched)
{
    if (sched->class_heap == NULL) return NULL;
    const struct sched_class *class = SCHED_OWNER(struct sched_class, node, sched->class_heap);
    struct sched_seq *preempted = first_of(&class->preempted);
    return preempted != NULL ? preempted : first_of(&flow_of_node(class->flows)->waiting);
}

/* --- Shares --- */

void sched_queue_charge(struct sched *sched, struct sched_seq *seq, int n)
{
    struct sched_flow *flow = seq->flow;
    (void)sched;
    assert(seq->state == SCHED_WAITING && seq->n_charged == 0);
    if (flow->class->served < flow->served) flow->class->served = flow->served;
    flow->served += n;
    seq->n_charged = n;
    flow_reorder(flow, true);
}

void sched_queue_settle(struct sched *sched, struct sched_seq *seq)
{
    struct sched_flow *flow = seq->flow;
    (void)sched;
    if (seq->n_charged == 0) return; /* it never ran */
    int computed = seq->n_high - seq->n_hit;
    flow->served += computed - seq->n_charged;
    if (!sched_list_empty(&flow->waiting)) flow_reorder(flow, true);
}

void sched_prompts_add(struct sched *sched, struct sched_seq *seq)
{
    struct sched_flow *flow = seq->flow;
    struct sched_class *class = flow->class;
    if (sched_list_empty(&class->prompt_flows)) sched_list_insert(&sched->prompt_classes, &class->link);
    if (sched_list_empty(&flow->prompts)) sched_list_insert(&class->prompt_flows, &flow->link);
    sched_list_insert(&flow->prompts, &seq->side_link);
}

void sched_prompts_remove(struct sched_seq *seq)
{
    struct sched_flow *flow = seq->flow;
    struct sched_class *class = flow->class;
    sched_list_remove(&seq->side_link);
    if (sched_list_empty(&flow->prompts)) sched_list_remove(&flow->link);
    if (sched_list_empty(&class->prompt_flows)) sched_list_remove(&class->link);
}

/* --- Gauges --- */

static int by_priority(const void *a, const void *b)
{
    int left = ((const struct sched_priority *)a)->priority,
        right = ((const struct sched_priority *)b)->priority;
    return (left > right) - (left < right);
}

int sched_priorities(const struct sched *sched, struct sched_priority *out, int max)
{
    int n = 0;
    for (int i = 0; i < sched->n_classes; i++) {
        const struct sched_class *class = &sched->classes[i];
        if (class->n_flows == 0) continue;
        if (n < max)
            out[n] = (struct sched_priority){
                .priority = class->priority,
                .n_waiting = class->n_waiting,
                .oldest_us =
                    class->n_waiting > 0 ? class->node.key - class->priority * sched->config.ageing_us : 0,
            };
        n++;
    }
    qsort(out, (size_t)(n < max ? n : max), sizeof *out, by_priority);
    return n;
}
