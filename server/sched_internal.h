#ifndef SERVER_SCHED_INTERNAL_H
#define SERVER_SCHED_INTERNAL_H

#include "server/sched.h"

/*
 * sched.c: life, sizes, admission, the end. sched_step.c: one step. sched_queue.c: who is next.
 * sched_tenant.c: what each tenant has waiting, and its rates. sched_preempt.c and sched_outlook.c:
 * optimistic admission. sched_verify.c: what must always hold.
 */

/* --- Lists: rings with a head inside their owner --- */

static inline void sched_list_init(struct sched_link *head)
{
    head->previous = head->next = head;
}

static inline bool sched_list_empty(const struct sched_link *head)
{
    return head->next == head;
}

static inline void sched_list_insert(struct sched_link *before, struct sched_link *link)
{
    link->previous = before->previous;
    link->next = before;
    before->previous->next = link;
    before->previous = link;
}

static inline void sched_list_remove(struct sched_link *link)
{
    link->previous->next = link->next;
    link->next->previous = link->previous;
    link->previous = link->next = NULL;
}

#define SCHED_OWNER(type, member, pointer) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

static inline struct sched_seq *sched_seq_of(const struct sched_link *link)
{
    return SCHED_OWNER(struct sched_seq, link, link);
}

static inline struct sched_seq *sched_side_seq_of(const struct sched_link *side_link)
{
    return SCHED_OWNER(struct sched_seq, side_link, side_link);
}

/* --- The queue --- */

/* One tenant; there while it has flows. */
struct sched_tenant {
    uint64_t id;
    struct sched_tenant *chain; /* in its bucket, or in the free list */
    int n_flows;
    int n_waiting; /* for their first admission */
    int64_t waiting_tokens;
    double finished_sum, tokens_sum; /* as the scheduler's, of this one */
    double since_us;                 /* sched->busy_us that they stand for */
};

/* The sequences of one tenant at one priority; there while it has any, waiting or running. */
struct sched_flow {
    uint64_t tenant;
    struct sched_tenant *account;
    struct sched_class *class;
    struct sched_flow *chain; /* in its bucket, or in the free list */
    int n_seqs;
    int64_t served;              /* tokens */
    struct sched_link waiting;   /* sequences by `link`, in order of arrival; without preempted ones */
    struct sched_heap_node node; /* in class->flows while `waiting` is not empty: least served first */
    struct sched_link prompts;   /* running ones with more than one token to compute, by `side_link` */
    struct sched_link link;      /* in class->prompt_flows while `prompts` is not empty */
    int demand;                  /* of this step, in tokens */
    struct sched_heap_node demand_node;
};

/* One priority; there while it has flows. */
struct sched_class {
    int priority;
    struct sched_class *chain;
    int n_flows;
    int n_waiting;
    int64_t served; /* of the flow last chosen, before it was charged */
    struct sched_heap_node *flows;
    struct sched_link arrivals; /* waiting ones by `side_link`, in order of arrival; without preempted ones */
    struct sched_link preempted;    /* by `link`, in order of rank; before all others */
    struct sched_heap_node node;    /* in sched->classes while one waits: by the rank of the oldest */
    struct sched_link prompt_flows; /* who was served longest ago first */
    struct sched_link link;         /* in sched->prompt_classes while prompt_flows is not empty */
    struct sched_heap_node prompt_node;
};

/* Bytes of a sequence of one format, by full blocks; from cache/policy.h. */
struct sched_sizes {
    size_t closed, open;           /* kv_policy_held_bytes without and with an open block */
    size_t upto_closed, upto_open; /* kv_policy_bytes */
    size_t sealing;                /* peak of the token that fills the next block */
};

/* Sums over running sequences by how much they are likely to have to go: bytes they hold, bytes at their end,
   slopes (bytes a token), slopes times tokens to go. */
enum { SCHED_OUTLOOK = 4 * 31 + 1 };
struct sched_outlook {
    double now, end, slope, rest;
};

struct sched {
    struct sched_config config;
    struct sched_sizes *sizes[KV_MAX_FORMATS]; /* [blocks of ctx_size + 1] */
    size_t headroom[KV_MAX_FORMATS];           /* kv_policy_step_bytes */

    struct sched_link running; /* by `link`; a ring that begins at `turn` when there is one */
    int n_running, n_waiting;
    int64_t waiting_tokens;
    int n_of_format[KV_MAX_FORMATS]; /* running */
    size_t reserved, held;           /* sums over the running */
    struct sched_memory memory;      /* as last asked for */
    struct sched_heap_node *deadlines;
    uint64_t n_orders;

    struct sched_flow *flows, *free_flows;       /* [max_sequences], of which n_flows were ever used */
    struct sched_class *classes, *free_classes;  /* [max_sequences], of which n_classes were ever used */
    struct sched_tenant *tenants, *free_tenants; /* [max_sequences], of which n_tenants were ever used */
    int n_flows, n_classes, n_tenants;
    struct sched_flow **flow_buckets;   /* [n_buckets] by priority and tenant */
    struct sched_class **class_buckets; /* [n_buckets] by priority */
    struct sched_tenant **tenant_buckets;
    size_t n_buckets; /* a power of two */
    struct sched_heap_node *class_heap;
    struct sched_link prompt_classes;

    struct sched_seq *turn;    /* running; goes first in the next step */
    struct sched_seq **chosen; /* [parallel] */
    int n_chosen;

    /* Optimistic. */
    double reach;                 /* share of what a sequence may still generate that it is counted for */
    double slope[KV_MAX_FORMATS]; /* bytes a token of an old block */
    struct sched_outlook outlook[SCHED_OUTLOOK];
    bool fetching; /* in the last plan: the next one's blocks are on their way */
    bool pressed;  /* one was preempted, and none has ended since */

    /* Rates: sums that forget, and the time they stand for. */
    int64_t planned_us; /* time of the last plan; 0: it had nothing to do */
    double busy_us;     /* spent in steps since creation */
    double window_us, finished_sum, tokens_sum;
    double step_us;     /* of the last step */
    double mean_run_us; /* from first admission to the end; 0: none has finished */
    double mean_output,
        mean_work; /* tokens that finished ones generated, and computed in all; 0: none has finished */
    struct sched_stats stats;
};

/* The bucket that a mixed key falls into. */
static inline size_t sched_bucket(const struct sched *sched, uint64_t key)
{
    key = (key ^ key >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    return (size_t)(key ^ key >> 32) & (sched->n_buckets - 1);
}

static const double sched_memory_us = 30e6; /* what rates remember, in time spent in steps */

enum { SCHED_FLOOR_TOKENS = KV_BLOCK_TOKENS }; /* progress that an admission promises, optimistic */

/* sched.c */
size_t sched_held_at(const struct sched *sched, int format, int n_tokens);
size_t sched_upto(const struct sched *sched, int format, int n_tokens);
int sched_cached_at_most(const struct sched_seq *seq);
/* Asks for used and saved bytes. */
void sched_look(struct sched *sched);
/* The sequence jumps to what is cached. */
void sched_take_hit(struct sched *sched, struct sched_seq *seq, const struct sched_hit *hit);
void sched_admit(struct sched *sched, int64_t now_us);
/* From running to nowhere. */
void sched_stop_running(struct sched *sched, struct sched_seq *seq);

/* sched_queue.c. Flow and class of a new sequence; gone with the last one. */
void sched_queue_join(struct sched *sched, struct sched_seq *seq);
void sched_queue_part(struct sched *sched, struct sched_seq *seq);
void sched_queue_push(struct sched *sched, struct sched_seq *seq);   /* a new one */
void sched_queue_return(struct sched *sched, struct sched_seq *seq); /* a preempted one */
void sched_queue_remove(struct sched *sched, struct sched_seq *seq);
struct sched_seq *sched_queue_first(const struct sched *sched); /* or NULL */
/* It is about to be admitted: its tenant is charged n tokens. */
void sched_queue_charge(struct sched *sched, struct sched_seq *seq, int n);
/* What it cost in the end. */
void sched_queue_settle(struct sched *sched, struct sched_seq *seq);
/* Running ones with a prompt to compute. */
void sched_prompts_add(struct sched *sched, struct sched_seq *seq);
void sched_prompts_remove(struct sched_seq *seq);
static inline bool sched_in_prompts(const struct sched_seq *seq)
{
    return seq->state == SCHED_RUNNING && seq->side_link.next != NULL;
}

/* sched_tenant.c. The tenant of a new flow; gone with the last one. */
struct sched_tenant *sched_tenant_join(struct sched *sched, uint64_t id);
void sched_tenant_part(struct sched *sched, struct sched_tenant *tenant);
/* One more or one less waits for its first admission. */
void sched_tenant_count(struct sched_tenant *tenant, const struct sched_seq *seq, int change);
/* So many of its sequences finished and prompt tokens left the queue. */
void sched_tenant_served(const struct sched *sched, struct sched_tenant *tenant, int n_finished,
                         int n_tokens);

/* sched_step.c. Bytes that n more tokens of seq add at their worst moment to what it holds. */
size_t sched_added_bytes(const struct sched *sched, const struct sched_seq *seq, int n);

/* sched_preempt.c */
void sched_reach_init(struct sched *sched);
void sched_reach_relax(struct sched *sched, int n_tokens); /* so many were computed */
/* Bytes that admission leaves free beside others. */
size_t sched_watermark(const struct sched *sched);
/* Preempt until every running sequence that generates can have its next token. True: some were. */
bool sched_relieve(struct sched *sched);
/* Preempt the one whose loss costs least; never the eldest. At least two run. */
void sched_preempt_one(struct sched *sched);

/* sched_outlook.c. Optimistic. What seq is likely to hold at its end. */
size_t sched_outlook_bytes(const struct sched *sched, const struct sched_seq *seq);
/* From the running ones, whose reserved_bytes it brings up to date; with one more, or one less. */
void sched_outlook_reset(struct sched *sched);
void sched_outlook_add(struct sched *sched, const struct sched_seq *seq);
void sched_outlook_remove(struct sched *sched, const struct sched_seq *seq);
double sched_outlook_peak(const struct sched *sched, double saved);

#endif
