#ifndef SUPPORT_SCHED_SIM_H
#define SUPPORT_SCHED_SIM_H

#include "server/sched.h"
#include "tests/unit/support/cache_model.h"

/*
 * The scheduler in a simulator: clients, tenants, an abstract clock, a model of pool and prefix cache; after
 * each step everything that the headers promise is checked, and a failure aborts with the seed and the step.
 */
enum { SIM_PRIORITIES = 5, SIM_TENANTS = 6 };

struct sim_config {
    struct sched_config sched; /* cache is filled in */
    uint64_t seed;
    long n_steps;
    bool shared;   /* a prefix cache; else nothing is shared (no-evict only) */
    bool mixed;    /* formats; else the first */
    int max_queue; /* of the gate */
    int64_t max_queue_tokens;
    int max_queued_per_key;
    double load;                      /* of what it can do; 0: as many as the gate lets in, always */
    double arrivals;                  /* a step, at load 1; sim_result.rate of a run with load 0 */
    int median_prompt, median_output; /* heavy tails above */
    double max_tokens_factor;         /* what requests ask for, times what they use */
    double cancel_rate;               /* of all that are there, per step */
    double deadline_share;            /* of requests */
    double evict_rate;                /* steps in which idle blocks are forgotten */
    struct cache_model_swap swap;     /* the second store */
    bool one_priority, one_tenant;
    int common_blocks;               /* most that prompts of a group share; half of them share some; 0: 16 */
    bool all_common;                 /* all prompts share common_blocks */
    int tenant_weights[SIM_TENANTS]; /* of arrivals; all zero: equal */
};

struct sim_result {
    struct sched_stats stats;
    long submitted, refused, finished, cancelled, expired;
    long steps, idle_steps;
    double rate;                     /* finished in a step, the first quarter aside */
    double running, used, reserved;  /* means over the steps; of kv_bytes */
    long swapped_blocks, bad_blocks; /* that came back from the second store; that were damaged there */
    double wasted;                   /* recomputed tokens by computed ones */
    double wait_us[SIM_PRIORITIES], worst_wait_us[SIM_PRIORITIES]; /* until first admission */
    long waits[SIM_PRIORITIES];
    double fairness; /* Jain's index of tokens computed by tenant, over the time that all were waiting */
    double tenant_tokens[SIM_TENANTS], tenant_wait_us[SIM_TENANTS]; /* mean */
    long tenant_waits[SIM_TENANTS];
    int worst_preempted;                          /* times, of one sequence */
    int worst_gap;                                /* steps that one that generates was passed over */
    double plan_us, usual_plan_us, worst_plan_us; /* mean, 99 % are below, worst */
};

extern const int sim_priorities[SIM_PRIORITIES];

struct sim_result sim_run(const struct sim_config *config);

#endif
