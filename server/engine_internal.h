#ifndef SERVER_ENGINE_INTERNAL_H
#define SERVER_ENGINE_INTERNAL_H

#include "cache/sequence.h"
#include "cache/swap.h"
#include "config/clock.h"
#include "server/engine.h"
#include "server/sched.h"
#include "server/sched_gate.h"

#include <pthread.h>
#include <time.h>

/* engine.c: life, mailbox, loop. engine_step.c: one step. engine_submit.c: what a request must be.
   engine_cache.c: the prefix cache. engine_swap.c: the second store behind it. engine_grammar.c: text that a
   grammar rules. engine_device.c: what is on the device.
   engine_metrics.c: numbers. */

/* One choice of a request; in the request's arena. */
struct engine_job {
    struct sched_seq seq;
    struct engine_ticket *ticket;
    struct choice *choice;
    struct kv_sequence *kv; /* NULL until its first step, and while it is preempted */
    int slot;               /* of kv in all_kv */
    struct kv_hash *keys;   /* [engine_cache_keys] of its blocks */
    int n_keys;             /* that are known */
    int32_t *output;        /* [max_tokens] */
    int n_output;
    int64_t last_token_us;
    bool started;
    bool sampled;                  /* has a new token in this step */
    bool failed;                   /* the pool refused it: a bug, but no reason to take the others down */
    struct grammar_state *grammar; /* after `output`; NULL: any text will do */
    bool stuck;                    /* the vocabulary has nothing that could follow */
    bool complete;                 /* the grammar lets nothing follow */
};

/* One request. In the mailbox only `next` is used. */
struct engine_ticket {
    struct request *request;
    struct engine_ticket *previous, *next;
    int n_open; /* choices that have not finished */
    bool cancelled;
    struct engine_job *jobs; /* [n_choices] */
};

/* The next block of some sequence, in the step that has this number. */
struct engine_claim {
    struct kv_hash key;
    uint64_t step;
};

/* One row of logits of a step. */
struct engine_row {
    struct engine_job *job;
    int scored;    /* position of the prompt token that it scores; -1: a token is sampled */
    bool is_short; /* what the device told was not enough for the draw */
};

struct engine {
    struct engine_options options;
    int n_formats;
    struct kv_policy policies[KV_MAX_FORMATS]; /* [n_formats] */
    struct kv_pool *pool;
    struct kv_staging *staging;
    struct sched *sched;
    struct kv_prefix *prefix;       /* NULL: blocks are not shared */
    struct kv_swap *swap;           /* NULL: what the cache gives up is lost */
    double token_us;                /* to compute one of a prompt, as measured; 0: not yet */
    double swap_out_us, swap_in_us; /* to copy a byte, as measured; 0: not yet */
    struct kv_swap_stats swap_seen; /* when these were last measured */
    struct sched_cache cache;
    struct kv_hash seeds[KV_MAX_FORMATS];
    struct engine_claim *claims; /* [claim_mask + 1] */
    size_t claim_mask;
    uint64_t claim_step;
    struct sampler **samplers;          /* [workers] */
    struct grammar_scratch **scratches; /* [workers]; NULL without a vocabulary, and so are these: */
    uint32_t **masks;                   /* [workers][mask_words] */
    size_t mask_words;
    int32_t *ends; /* [n_ends] the end tokens */
    int n_ends;
    pthread_t thread;
    bool started;

    /* The mailbox and what the engine publishes for engine_submit. */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct engine_ticket *mail_first, *mail_last;
    struct sched_gate gate;
    bool draining, stopping;

    _Atomic bool cancels; /* some request was cancelled since the last look */
    _Atomic int n_live;   /* tickets in the mailbox or with the engine */

    /* The engine thread's own. */
    struct engine_ticket *live;   /* doubly linked */
    struct kv_sequence **free_kv; /* [parallel] stack */
    struct kv_sequence **all_kv;  /* [parallel] */
    int n_free_kv;
    int32_t *tokens;                /* [max_batch_tokens] */
    struct attention_span *spans;   /* [parallel] */
    struct engine_row *rows;        /* [max_logits] */
    int32_t *logit_rows;            /* [max_logits] */
    struct backend_wish *wishes;    /* [max_logits]; NULL: logits are the host's anyway */
    struct backend_answer *answers; /* [max_logits] */
    const float *logits;
    int n_vocab;
    int64_t forward_us;         /* of this turn of the loop; 0: it ran no step */
    int64_t turn_us, memory_us; /* when the last turn that ran one was over; when memory was last looked at */
    int max_prompt_tokens;      /* of the next step, see step_target_ms */
    struct engine_snapshot *snapshot;
    bool has_stepped;     /* a step worked */
    _Atomic int state;    /* enum engine_state */
    struct request *news; /* of this step */
    int n_ended;          /* tickets that ended in this step */
    int n_counted;        /* accepted sequences that the gauge `waiting` still has */
};

/* engine_step.c. Plan and run one step; nothing when nothing runs or waits. */
void engine_step(struct engine *engine);
/* The choice ends: its blocks are free, `reason` is published, news noted. Between steps. */
void engine_job_end(struct engine *engine, struct engine_job *job, enum finish_reason reason);
/* All open choices of the ticket end, and so does the ticket. */
void engine_end_jobs(struct engine *engine, struct engine_ticket *ticket, enum finish_reason reason);
/* Two forward passes of a few tokens: pages in the weights and measures how large a step may be. ERR_CAPACITY
   and the like from the cache; ERR_DEVICE when the device failed. */
enum err engine_warm_up(struct engine *engine, struct err_info *info);

/* engine_device.c. Pool, prefix cache, staging and sequences; what was made before an error, the second
   gives back. It also writes the file of the prefix cache, unless the device failed. */
enum err engine_device_create(struct engine *engine, struct err_info *info);
void engine_device_free(struct engine *engine);
/* NULL while it works. */
const char *engine_device_failure(const struct engine *engine);
/* After a failure, when every request was told: ENGINE_LOST. */
void engine_device_lose(struct engine *engine);

/* engine_metrics.c. After a step, and before the first. */
void engine_metrics_update(struct engine *engine);
/* A forward pass took so long, and what belongs to it on the host. */
void engine_metrics_forward(struct engine *engine, int64_t forward_us, int64_t host_us);
/* A turn of the loop is over that began at start_us. */
void engine_metrics_turn(struct engine *engine, int64_t start_us);
/* The card's memory by kind, to the log. */
void engine_metrics_log(const struct engine *engine);

/* engine_grammar.c. What the workers need for masks; frees what it has (also after a failure). */
enum err engine_grammar_create(struct engine *engine, struct err_info *info);
void engine_grammar_free(struct engine *engine);
/* Every job's place at the beginning of the request's grammar, when it has one. ERR_LIMIT. */
enum err engine_grammar_begin(const struct request *request, struct engine_job *jobs, struct err_info *info);
/* On a worker: the tokens that may follow, for the sampler; NULL and job->stuck when there are none. */
const uint32_t *engine_grammar_mask(const struct engine *engine, struct engine_job *job, int worker);
/* On a worker: one of them was drawn. */
void engine_grammar_accept(struct engine_job *job, int32_t token);

/* engine_submit.c. A ticket for the request, with everything the engine will need, in its arena. */
enum err engine_ticket_create(const struct engine *engine, struct request *request,
                              struct engine_ticket **out, struct err_info *info);

#endif
