#ifndef SERVER_SCHED_GATE_H
#define SERVER_SCHED_GATE_H

#include "server/sched.h"

/*
 * The gate before the queue: requests come in from many threads, the scheduler sees them at its next step.
 * What has passed counts from the moment it passed, so the limits hold however many come at once: the count
 * comes first, then the check, and what is refused is taken out of the count again, all under one lock.
 *
 * A tenant may have a limit of its own, lower than that of all, so that a flood from one key leaves room in
 * the queue for the others. The gate keeps what each tenant has waiting in a table of its own, because the
 * scheduler's changes under the engine thread's hands.
 *
 * No lock of its own: the owner's lock, under which it also hands the sequences over, guards every call.
 */
struct sched_gate_tenant {
    uint64_t id;
    size_t slot;   /* its place in the gate's slots */
    int n_waiting; /* at the last sync */
    int n_passed;  /* since */
    int64_t waiting_tokens, passed_tokens;
    double finish_interval_us, token_interval_us;
};

struct sched_gate {
    /* Set by the owner. */
    int parallel;
    int max_queue;            /* most sequences waiting while no place in the batch is free */
    int64_t max_queue_tokens; /* most prompt tokens waiting; 0: no limit */
    int64_t max_wait_us;      /* longest wait that is likely; 0: no limit */
    int max_queued_per_key; /* most sequences of one tenant, likewise, and of prompt tokens the same share of
                               max_queue_tokens; 0: a tenant has no limit but that of all */

    /* Zero at first. */
    int n_passed, n_waiting, n_running; /* passed since the last sync; the scheduler's at the last sync */
    int64_t passed_tokens, waiting_tokens;
    double finish_interval_us, token_interval_us;
    double run_us; /* sched_run_us */
    bool is_full;  /* some were left waiting by the last plan: a free place is of no use, memory is short */

    /* sched_gate_open. */
    struct sched_gate_tenant *tenants; /* [max_tenants] those with anything waiting; n_tenants of them */
    int32_t *slots;                    /* [slot_mask + 1] index + 1; 0: free */
    size_t slot_mask;
    int n_tenants, max_tenants;
};

/* Room for tenants, when they have a limit: as many as there can be sequences. ERR_MEMORY. */
enum err sched_gate_open(struct sched_gate *gate, int max_sequences, struct err_info *info);
/* Fine on one that was never opened. */
void sched_gate_close(struct sched_gate *gate);

/* A request of n sequences with n_tokens tokens in their prompts, all of them or none. ERR_BUSY: a limit; the
   message names it and *retry_after_s says when to come back, by the rates measured: the tenant's own where
   his own limit is the one. What waits may fill max_queue beside the free places in the batch. No limit makes
   a request impossible: into an idle server goes one with any number of sequences, one that waits alone may
   have any number of tokens, and a tenant of whom nothing waits may send any one request that the limits of
   all let pass.

   The wait that is likely: n sequences that run for run_us each give a place every run_us / n, and the k-th
   in line needs k of them. It is how long the last ones ran, so a batch that is just filling up is not
   thought slower than it will be; until one has finished there is no estimate, and nobody is refused. What
   passed into an idle server takes all places, before the scheduler has seen it as after. */
enum err sched_gate_pass(struct sched_gate *gate, uint64_t tenant, int n, int64_t n_tokens,
                         int *retry_after_s, struct err_info *info);
/* Between steps: what passed is about to be added to the scheduler, or was thrown away. */
void sched_gate_sync(struct sched_gate *gate, const struct sched *sched);

/* 1 to 600 seconds. */
int sched_retry_after_s(double wait_us);

#endif
