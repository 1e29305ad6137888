#ifndef SERVER_ENGINE_H
#define SERVER_ENGINE_H

#include "cache/calibration.h"
#include "cache/pool.h"
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
    const struct tokenizer *tokenizer; /* end tokens */
    struct metrics *metrics;
    enum kv_format default_format;
    int recent_blocks;
    int sink_tokens;
    const struct calibration *calibration; /* of this model; NULL: identity, and a warning */
    size_t kv_bytes;
    int ctx_size; /* longest prompt + output */
    int parallel; /* most sequences running */
    int max_batch_tokens;
    int max_logits; /* rows of logits the model was loaded with, at least min(parallel, max_batch_tokens); 0:
                       just that many. More rows let a prompt be scored in larger chunks. */
    int max_queue;  /* most sequences waiting while none of the places in the batch is free */
    int step_target_ms; /* 0: 400; below 0: steps are as large as max_batch_tokens allows */
    /* News: a list linked by next_news of requests that have new tokens or have finished; each carries one
       reference that the receiver releases, and in_news is true until the receiver clears it: with
       atomic_exchange, after it has read next_news and before it reads n_ready and finish. Called on the
       engine thread, must not block. */
    void (*deliver)(void *context, struct request *first);
    void *deliver_context;
};

/* Creates pool, staging and tables, warms up, starts the thread; logs how many sequences fit in each format.
   Everything in options stays the caller's and outlives the engine. ERR_USAGE, ERR_CAPACITY (the pool does
   not hold one block), ERR_MEMORY. */
enum err engine_create(const struct engine_options *options, struct engine **out, struct err_info *info);

/* From any thread. Takes a reference of its own on success.
   ERR_INVALID: prompt empty or token id out of range. ERR_CAPACITY: prompt + max_tokens can never fit
   (context or pool; the message has needed, total and the option to raise). ERR_BUSY: queue full,
   *retry_after_s says when to come back. ERR_CLOSED: draining. ERR_MEMORY: the request's arena is full.
   Outcomes: the engine counts every request that it accepted (OK, CANCELLED, ERROR) once, and the rejections
   it makes here; who parses counts the REJECTED_INVALID that never come here. */
enum err engine_submit(struct engine *engine, struct request *request, int *retry_after_s,
                       struct err_info *info);
/* The client left, or has enough: the engine forgets the request at its next step and publishes
 * FINISH_CANCELLED. */
void engine_cancel(struct engine *engine, struct request *request);

/* Stop taking requests; running and queued ones go on. */
void engine_drain(struct engine *engine);
/* True when nothing runs or waits. */
bool engine_idle(const struct engine *engine);
/* Finish what is running or waiting with FINISH_ERROR, join the thread, free everything. No other call may be
   under way. NULL-safe. */
void engine_free(struct engine *engine);

#endif
