#ifndef SERVER_ENGINE_INTERNAL_H
#define SERVER_ENGINE_INTERNAL_H

#include "cache/sequence.h"
#include "server/engine.h"
#include "server/sched.h"

#include <pthread.h>
#include <time.h>

/* engine.c: life, mailbox, loop. engine_step.c: one step. engine_submit.c: what a request must be. */

/* One choice of a request; in the request's arena. */
struct engine_job {
    struct sched_seq seq;
    struct engine_ticket *ticket;
    struct choice *choice;
    struct kv_sequence *kv; /* NULL until its first step */
    int32_t *output;        /* [max_tokens] */
    int n_output;
    int64_t last_token_us;
    bool sampled; /* has a new token in this step */
    bool failed;  /* the pool refused it: a bug, but no reason to take the others down */
};

/* One request. In the mailbox only `next` is used. */
struct engine_ticket {
    struct request *request;
    struct engine_ticket *previous, *next;
    int n_open; /* choices that have not finished */
    bool cancelled;
    struct engine_job *jobs; /* [n_choices] */
};

/* One row of logits of a step. */
struct engine_row {
    struct engine_job *job;
    int scored; /* position of the prompt token that it scores; -1: a token is sampled */
};

struct engine {
    struct engine_options options;
    struct kv_policy policies[KV_FORMATS];
    struct kv_pool *pool;
    struct kv_staging *staging;
    struct kv_tables *tables;
    struct sched *sched;
    struct sampler **samplers; /* [workers] */
    pthread_t thread;
    bool started;

    /* The mailbox and what the engine publishes for engine_submit. */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct engine_ticket *mail_first, *mail_last;
    int n_mailed;             /* sequences in the mailbox */
    int n_waiting, n_running; /* sequences, as of the last step */
    int64_t pace_us;          /* between two completions */
    bool draining, stopping;

    _Atomic bool cancels; /* some request was cancelled since the last look */
    _Atomic int n_live;   /* tickets in the mailbox or with the engine */

    /* The engine thread's own. */
    struct engine_ticket *live;   /* doubly linked */
    struct kv_sequence **free_kv; /* [parallel] stack */
    struct kv_sequence **all_kv;  /* [parallel] */
    int n_free_kv;
    int32_t *tokens;              /* [max_batch_tokens] */
    struct attention_span *spans; /* [parallel] */
    struct engine_row *rows;      /* [max_logits] */
    int32_t *logit_rows;          /* [max_logits] */
    const float *logits;
    int n_vocab;
    int max_prompt_tokens; /* of the next step, see step_target_ms */
    struct request *news;  /* of this step */
    int n_ended;           /* tickets that ended in this step */
    int n_counted;         /* accepted sequences that the gauge `waiting` still has */
};

static inline int64_t engine_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* engine_step.c. Plan and run one step; nothing when nothing runs or waits. */
void engine_step(struct engine *engine);
/* The choice ends: its blocks are free, `reason` is published, news noted. Between steps. */
void engine_job_end(struct engine *engine, struct engine_job *job, enum finish_reason reason);
/* Two forward passes of a few tokens: pages in the weights and measures how large a step may be. */
enum err engine_warm_up(struct engine *engine, struct err_info *info);

/* engine_submit.c. A ticket for the request, with everything the engine will need, in its arena. */
enum err engine_ticket_create(const struct engine *engine, struct request *request,
                              struct engine_ticket **out, struct err_info *info);

#endif
