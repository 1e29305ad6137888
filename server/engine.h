#ifndef SERVER_ENGINE_H
#define SERVER_ENGINE_H

#include "cache/format.h"
#include "cache/pool.h"
#include "cache/prefix.h"
#include "config/err.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "server/metrics.h"
#include "server/request.h"

/*
 * The engine thread: owns the model, the pool and the device. It takes requests from its mailbox, lets the
 * scheduler (server/sched.h) plan a step, runs it, samples, publishes tokens, and after the step hands the
 * list of requests with news to the courier, all at once. It allocates nothing per token; what it needs for a
 * request it takes from the request's arena in engine_submit, on the caller's thread.
 *
 * How many tokens a step holds never changes a result, so the engine makes prompts' chunks as small as it
 * takes for a step to last about step_target_ms: that bounds the time between two tokens of a stream and the
 * time until a cancellation is honoured.
 */
struct engine;

struct engine_options {
    struct backend *backend;
    struct workers *workers; /* for sampling rows in parallel */
    struct model *model;
    const struct tokenizer *tokenizer;           /* end tokens */
    const struct grammar_vocabulary *vocabulary; /* of that tokenizer; NULL: no request has a grammar */
    struct metrics *metrics;
    const struct kv_formats *formats; /* the first is the default */
    int recent_blocks;
    int sink_tokens;
    size_t kv_bytes;
    int ctx_size; /* longest prompt + output */
    int parallel; /* most sequences running */
    int max_batch_tokens;
    int max_logits; /* rows of logits the model was loaded with, at least min(parallel, max_batch_tokens); 0:
                       just that many. More rows let a prompt be scored in larger chunks. */
    int max_queue;  /* most sequences waiting while none of the places in the batch is free */
    int64_t max_queue_tokens; /* most prompt tokens waiting; 0: no limit */
    int64_t
        max_queue_wait_us;  /* longest wait in the queue that is likely (server/sched_gate.h); 0: no limit */
    int max_queued_per_key; /* of max_queue, most of one tenant (server/sched_gate.h); 0: all */
    bool optimistic;        /* admission (server/sched.h); else what was admitted finishes undisturbed */
    bool no_prefix_cache;
    const char *prompt_cache;      /* file that the prefix cache is read from and written to; NULL: none */
    size_t swap_bytes;             /* second store of cached blocks (cache/swap.h); 0: none */
    const char *swap_file;         /* where it is; NULL: host memory */
    bool swap_always;              /* and not only where that is cheaper than to compute; for tests */
    struct kv_hash cache_identity; /* of model, calibration and all else that blocks depend on */
    int step_target_ms;            /* 0: 400; below 0: steps are as large as max_batch_tokens allows */
    /* News: a list linked by next_news of requests that have new tokens or have finished; each carries one
       reference that the receiver releases, and in_news is true until the receiver clears it: with
       atomic_exchange, after it has read next_news and before it reads n_ready and finish. Called on the
       engine thread, must not block. */
    void (*deliver)(void *context, struct request *first);
    void *deliver_context;
    /* The device failed (ENGINE_LOST); has_stepped: not before a step had worked. Once, on the engine thread,
       must not block. NULL: nobody needs to know. */
    void (*lost)(void *context, bool has_stepped);
    void *lost_context;
};

/* Creates pool, staging and sequences, warms up, starts the thread; logs how many sequences fit in each
   format. Everything in options stays the caller's and outlives the engine. ERR_USAGE, ERR_CAPACITY (the pool
   does not hold one block), ERR_MEMORY. */
enum err engine_create(const struct engine_options *options, struct engine **out, struct err_info *info);

/* From any thread: the arithmetic of one format, by index. */
struct engine_capacity {
    size_t sequence_bytes; /* the most a sequence of n_tokens holds */
    size_t step_bytes;     /* kept free for a step */
    int fitting;           /* such sequences that fit the pool at once */
    double bits;           /* per cached value, all-in, at n_tokens */
};
void engine_capacity(const struct engine *engine, int format, int n_tokens, struct engine_capacity *out);

/* From any thread. Takes a reference of its own on success.
   ERR_INVALID: prompt empty or token id out of range. ERR_LIMIT: the arena has no room for the choices'
   places in the grammar. ERR_CAPACITY: prompt + max_tokens can never fit (context or pool; the message has
   needed, total and the option to raise). ERR_BUSY: queue full, *retry_after_s says when to come back, by the
   rates measured. ERR_CLOSED: draining. ERR_MEMORY: the request's arena is full. Outcomes: the engine counts
   every request that it accepted (OK, CANCELLED, ERROR) once, and the rejections it makes here; who parses
   counts the REJECTED_INVALID that never come here. */
enum err engine_submit(struct engine *engine, struct request *request, int *retry_after_s,
                       struct err_info *info);
/* The client left, or has enough: the engine forgets the request at its next step and publishes
 * FINISH_CANCELLED. */
void engine_cancel(struct engine *engine, struct request *request);

/* From any thread: the sequences that are alive, as they were after the last step. It costs the engine
   nothing to be asked. */
enum engine_phase { ENGINE_WAITING, ENGINE_PREFILL, ENGINE_DECODE };
struct engine_sequence {
    char id[48]; /* of the request */
    int index;   /* of the choice */
    int slot;    /* place in the batch, 0 to parallel - 1; -1: none */
    enum engine_phase phase;
    int n_prompt, n_output, max_tokens;
    int n_cached; /* tokens in the cache */
    int n_hit;    /* of the prompt, those that it did not have to compute */
    int n_preempted;
    int kv_format; /* index */
    size_t kv_bytes;
    int priority;
    int64_t arrived_us; /* monotonic */
};
struct engine_view {
    struct engine_sequence *sequences; /* those that run, then those that wait */
    int n;
    int n_more; /* waiting ones that are not listed */
};
/* out->sequences is malloc'ed, the caller frees. ERR_MEMORY. */
enum err engine_sequences(struct engine *engine, struct engine_view *out, struct err_info *info);

/* From any thread. When the device has failed, all that run, wait or come get ERR_DEVICE, for good. */
enum engine_state { ENGINE_SERVING, ENGINE_LOST };
enum engine_state engine_state(const struct engine *engine);

/* Stop taking requests; running and queued ones go on. */
void engine_drain(struct engine *engine);
/* True when nothing runs or waits. */
bool engine_idle(const struct engine *engine);
/* Finish what is running or waiting with FINISH_ERROR, join the thread, free everything. No other call may be
   under way. NULL-safe. */
void engine_free(struct engine *engine);

#endif
