#include "server/engine_cache.h"
#include "server/engine_snapshot.h"

#include "config/log.h"
#include "kernels/workers.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_STEP_MS = 400, MOST_CHOICES = 1024 /* of one request */ };

/* --- Creation --- */

static enum err check_options(const struct engine_options *options, struct err_info *info)
{
    if (options->sink_tokens < 0 || options->sink_tokens > KV_MAX_SINKS)
        return err_set_param(info, ERR_USAGE, "sink-tokens", "--sink-tokens is %d: it must be 0 to %d",
                             options->sink_tokens, KV_MAX_SINKS);
    if (options->recent_blocks < 0)
        return err_set_param(info, ERR_USAGE, "kv-recent", "--kv-recent is %d: it must not be negative",
                             options->recent_blocks);
    if (options->swap_bytes > 0 && options->no_prefix_cache)
        return err_set_param(info, ERR_USAGE, "swap-bytes",
                             "--swap-bytes is the second store of the prefix cache: do without "
                             "--no-prefix-cache");
    if (options->swap_bytes == 0 && options->swap_file != NULL)
        return err_set_param(info, ERR_USAGE, "swap-file", "--swap-file needs --swap-bytes, its size");
    return ERR_OK;
}

static void fill_defaults(struct engine *engine)
{
    struct engine_options *options = &engine->options;
    if (options->max_logits == 0)
        options->max_logits =
            options->parallel < options->max_batch_tokens ? options->parallel : options->max_batch_tokens;
    if (options->step_target_ms == 0) options->step_target_ms = DEFAULT_STEP_MS;

    struct kv_shape shape;
    model_kv_shape(options->model, &shape);
    engine->n_formats = kv_formats_count(options->formats);
    for (int format = 0; format < engine->n_formats; format++)
        engine->policies[format] = (struct kv_policy){.shape = shape,
                                                      .format = kv_formats_at(options->formats, format),
                                                      .recent_blocks = options->recent_blocks,
                                                      .sink_tokens = options->sink_tokens};
    engine->n_vocab = model_config(options->model)->n_vocab;
    engine->max_prompt_tokens = options->max_batch_tokens;
    engine->gate = (struct sched_gate){.parallel = options->parallel,
                                       .max_queue = options->max_queue,
                                       .max_queue_tokens = options->max_queue_tokens,
                                       .max_wait_us = options->max_queue_wait_us,
                                       .max_queued_per_key = options->max_queued_per_key};
}

static enum err create_cache(struct engine *engine, struct err_info *info)
{
    const struct engine_options *options = &engine->options;
    struct sched_config config = {.n_formats = engine->n_formats,
                                  .kv_bytes = options->kv_bytes,
                                  .ctx_size = options->ctx_size,
                                  .parallel = options->parallel,
                                  .max_sequences = options->parallel + options->max_queue + MOST_CHOICES,
                                  .max_batch_tokens = options->max_batch_tokens,
                                  .max_logits = options->max_logits,
                                  .admission = options->optimistic ? SCHED_OPTIMISTIC : SCHED_NO_EVICT};
    memcpy(config.policies, engine->policies, sizeof config.policies);
    enum err err = engine_device_create(engine, info);
    if (engine->prefix != NULL) config.cache = &engine->cache;
    if (err == ERR_OK) err = sched_create(&config, &engine->sched, info);
    return err == ERR_OK ? sched_gate_open(&engine->gate, config.max_sequences, info) : err;
}

static enum err create_batch(struct engine *engine, struct err_info *info)
{
    const struct engine_options *options = &engine->options;
    int n_workers = workers_count(options->workers);
    bool short_of_memory = false;

    engine->tokens = calloc((size_t)options->max_batch_tokens, sizeof *engine->tokens);
    engine->spans = calloc((size_t)options->parallel, sizeof *engine->spans);
    engine->rows = calloc((size_t)options->max_logits, sizeof *engine->rows);
    engine->logit_rows = calloc((size_t)options->max_logits, sizeof *engine->logit_rows);
    if (!options->backend->is_host) {
        engine->wishes = calloc((size_t)options->max_logits, sizeof *engine->wishes);
        engine->answers = calloc((size_t)options->max_logits, sizeof *engine->answers);
        if (engine->wishes == NULL || engine->answers == NULL) short_of_memory = true;
    }
    engine->samplers = calloc((size_t)n_workers, sizeof(struct sampler *));
    for (int i = 0; i < n_workers && engine->samplers != NULL; i++) {
        engine->samplers[i] = sampler_create(engine->n_vocab);
        if (engine->samplers[i] == NULL) short_of_memory = true;
    }
    if (engine->tokens == NULL || engine->spans == NULL || engine->rows == NULL ||
        engine->logit_rows == NULL || engine->samplers == NULL || short_of_memory)
        return err_set(info, ERR_MEMORY, "no memory for a batch of %d tokens", options->max_batch_tokens);
    return engine_grammar_create(engine, info);
}

static void log_capacity(const struct engine *engine)
{
    const struct engine_options *options = &engine->options;
    struct engine_capacity capacity;

    for (int format = 0; format < engine->n_formats; format++) {
        engine_capacity(engine, format, options->ctx_size, &capacity);
        log_info("engine",
                 "KV cache of %zu bytes, format %s: %d concurrent sequences of %d tokens fit (%.2f bits per "
                 "value)%s",
                 options->kv_bytes, engine->policies[format].format->name, capacity.fitting,
                 options->ctx_size, capacity.bits, format == 0 ? "; the default" : "");
        if (capacity.fitting == 0)
            log_warn("engine",
                     "the KV cache does not hold one sequence of --ctx-size %d in format %s: longer requests "
                     "get an error; raise --kv-cache-bytes",
                     options->ctx_size, engine->policies[format].format->name);
    }
}

/* --- The thread --- */

static void update_waiting(struct engine *engine)
{
    /* Those in the mailbox were counted by who put them there. */
    int n_waiting = sched_waiting_count(engine->sched);
    atomic_fetch_add_explicit(&engine->options.metrics->waiting, n_waiting - engine->n_counted,
                              memory_order_relaxed);
    engine->n_counted = n_waiting;
}

static void check_invariants(const struct engine *engine)
{
#ifdef OCTAVO_CHECKS
    sched_verify(engine->sched);
    kv_pool_check(engine->pool);
    if (engine->swap != NULL) kv_swap_check(engine->swap);
    if (engine->prefix != NULL)
        kv_prefix_check(engine->prefix);
    else /* what the scheduler believes to be held is held, to the byte */
        assert(sched_held_bytes(engine->sched) + kv_pool_free_bytes(engine->pool) ==
               engine->options.kv_bytes);
#else
    (void)engine;
#endif
}

/* The step's news go out, in one list; then what ended no longer counts as alive. */
static void deliver_news(struct engine *engine)
{
    struct request *first = engine->news;
    int n_ended = engine->n_ended;

    engine->news = NULL;
    engine->n_ended = 0;
    if (first != NULL) engine->options.deliver(engine->options.deliver_context, first);
    atomic_fetch_sub(&engine->n_live, n_ended);
}

void engine_end_jobs(struct engine *engine, struct engine_ticket *ticket, enum finish_reason reason)
{
    int n_choices = ticket->request->n_choices;
    /* The last one takes the ticket with it, so it is counted beforehand. */
    for (int i = 0, left = ticket->n_open; i < n_choices && left > 0; i++) {
        struct engine_job *job = &ticket->jobs[i];
        if (job->seq.state == SCHED_OUT) continue;
        left--;
        engine_job_end(engine, job, reason);
    }
}

static void cancel_ticket(struct engine *engine, struct engine_ticket *ticket)
{
    ticket->cancelled = true;
    engine_end_jobs(engine, ticket, FINISH_CANCELLED);
}

static void accept_ticket(struct engine *engine, struct engine_ticket *ticket)
{
    struct request *request = ticket->request;

    ticket->previous = NULL;
    ticket->next = engine->live;
    if (engine->live != NULL) engine->live->previous = ticket;
    engine->live = ticket;
    for (int i = 0; i < request->n_choices; i++)
        sched_add(engine->sched, &ticket->jobs[i].seq, request->arrival_us);
    engine->n_counted += request->n_choices;
    if (atomic_load(&request->cancelled))
        cancel_ticket(engine, ticket);
    else if (request->max_tokens == 0 && request->choices[0].prompt_records == NULL)
        engine_end_jobs(engine, ticket, FINISH_LENGTH); /* nothing is asked for */
}

static void cancel_tickets(struct engine *engine)
{
    if (!atomic_exchange(&engine->cancels, false)) return;
    for (struct engine_ticket *ticket = engine->live, *next; ticket != NULL; ticket = next) {
        next = ticket->next;
        if (atomic_load(&ticket->request->cancelled)) cancel_ticket(engine, ticket);
    }
}

/* Whoever has run out of time, waiting or running. */
static void expire_tickets(struct engine *engine)
{
    struct sched_seq *seq;
    while ((seq = sched_expired(engine->sched, clock_us())) != NULL) {
        struct engine_ticket *ticket = ((struct engine_job *)seq->owner)->ticket;
        err_set(&ticket->request->error, ERR_TIMEOUT, "the request's time is up (timeout_ms)");
        engine_end_jobs(engine, ticket, FINISH_ERROR);
    }
}

static void fail_tickets(struct engine *engine, enum err code, const char *message)
{
    for (struct engine_ticket *ticket = engine->live, *next; ticket != NULL; ticket = next) {
        next = ticket->next;
        if (ticket->request->error.code == ERR_OK) err_set(&ticket->request->error, code, "%s", message);
        engine_end_jobs(engine, ticket, FINISH_ERROR);
    }
}

/* Take the mail, oldest first; wait for some while there is nothing to do. True: stop. */
static bool collect_mail(struct engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    while (engine->mail_first == NULL && engine->live == NULL && !engine->stopping) {
        sched_gate_sync(&engine->gate, engine->sched); /* the gate must not remember what ran last */
        pthread_cond_wait(&engine->wake, &engine->lock);
    }
    sched_gate_sync(&engine->gate, engine->sched);
    struct engine_ticket *mail = engine->mail_first;
    engine->mail_first = engine->mail_last = NULL;
    bool stopping = engine->stopping;
    pthread_mutex_unlock(&engine->lock);

    while (mail != NULL) {
        struct engine_ticket *next = mail->next;
        accept_ticket(engine, mail);
        mail = next;
    }
    return stopping;
}

static void run_step(struct engine *engine)
{
    engine_step(engine);
    engine_metrics_update(engine);
    check_invariants(engine);
}

static void fail_for_device(struct engine *engine)
{
    char message[256];
    snprintf(message, sizeof message, "the device failed: %s", engine_device_failure(engine));
    fail_tickets(engine, ERR_DEVICE, message);
}

static void *engine_run(void *context)
{
    struct engine *engine = context;
    for (bool lost = false;;) {
        bool stopping = collect_mail(engine);
        int64_t start_us = clock_us();
        if (stopping)
            fail_tickets(engine, ERR_CLOSED, "the server was stopped before the request was finished");
        else if (lost)
            fail_for_device(engine);
        else
            cancel_tickets(engine);
        expire_tickets(engine);
        if (!lost) run_step(engine);
        bool fails_now = !lost && engine_device_failure(engine) != NULL;
        if (fails_now) fail_for_device(engine);
        update_waiting(engine);
        engine_snapshot_publish(engine->snapshot, engine);
        deliver_news(engine);
        engine_metrics_turn(engine, start_us);
        if (stopping) return NULL;
        if (fails_now) engine_device_lose(engine);
        lost = lost || fails_now;
    }
}

enum err engine_create(const struct engine_options *options, struct engine **out, struct err_info *info)
{
    enum err err = check_options(options, info);
    if (err != ERR_OK) return err;
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) return err_set(info, ERR_MEMORY, "no memory for the engine");
    engine->options = *options;
    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->wake, NULL);
    fill_defaults(engine);
    err = create_cache(engine, info);
    if (err == ERR_OK) err = create_batch(engine, info);
    if (err == ERR_OK) err = engine_snapshot_create(options->parallel, &engine->snapshot, info);
    if (err == ERR_OK) err = engine_warm_up(engine, info);
    if (err == ERR_OK) err = engine_cache_load(engine, info);
    if (err != ERR_OK) goto out;
    engine_metrics_update(engine);
    log_capacity(engine);
    engine_metrics_log(engine);
    int failed = pthread_create(&engine->thread, NULL, engine_run, engine);
    if (failed != 0) {
        err = err_set(info, ERR_MEMORY, "cannot start the engine thread: %s", strerror(failed));
        goto out;
    }
    engine->started = true;
    *out = engine;
    engine = NULL;
out:
    engine_free(engine);
    return err;
}

void engine_free(struct engine *engine)
{
    if (engine == NULL) return;
    if (engine->started) {
        pthread_mutex_lock(&engine->lock);
        engine->draining = engine->stopping = true;
        pthread_cond_signal(&engine->wake);
        pthread_mutex_unlock(&engine->lock);
        pthread_join(engine->thread, NULL);
    }
    engine_device_free(engine);
    for (int i = 0; i < workers_count(engine->options.workers) && engine->samplers != NULL; i++)
        sampler_free(engine->samplers[i]);
    engine_grammar_free(engine);
    engine_snapshot_free(engine->snapshot);
    sched_free(engine->sched);
    sched_gate_close(&engine->gate);
    free(engine->samplers);
    free(engine->tokens);
    free(engine->spans);
    free(engine->rows);
    free(engine->logit_rows);
    free(engine->wishes);
    free(engine->answers);
    pthread_cond_destroy(&engine->wake);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

/* --- From other threads --- */

/* Into the mailbox, when the gate lets it pass. */
static enum err post(struct engine *engine, struct engine_ticket *ticket, int *retry_after_s,
                     struct err_info *info)
{
    int n = ticket->request->n_choices;
    int64_t n_tokens = 0;
    enum err err;
    for (int i = 0; i < n; i++) n_tokens += ticket->request->choices[i].n_prompt;

    pthread_mutex_lock(&engine->lock);
    if (engine->draining)
        err = err_set(info, ERR_CLOSED, "the server is shutting down");
    else
        err = sched_gate_pass(&engine->gate, ticket->request->tenant, n, n_tokens, retry_after_s, info);
    if (err == ERR_OK) {
        request_retain(ticket->request);
        atomic_fetch_add(&engine->n_live, 1);
        ticket->next = NULL;
        if (engine->mail_last != NULL)
            engine->mail_last->next = ticket;
        else
            engine->mail_first = ticket;
        engine->mail_last = ticket;
        atomic_fetch_add_explicit(&engine->options.metrics->waiting, n, memory_order_relaxed);
        pthread_cond_signal(&engine->wake);
    }
    pthread_mutex_unlock(&engine->lock);
    return err;
}

enum err engine_submit(struct engine *engine, struct request *request, int *retry_after_s,
                       struct err_info *info)
{
    struct engine_ticket *ticket = NULL;
    enum metrics_outcome outcome = OUTCOME_ERROR;
    enum err err = engine_ticket_create(engine, request, &ticket, info);
    if (err == ERR_OK) err = post(engine, ticket, retry_after_s, info);
    if (err == ERR_OK) return ERR_OK;
    if (err == ERR_INVALID) outcome = OUTCOME_REJECTED_INVALID;
    if (err == ERR_CAPACITY) outcome = OUTCOME_REJECTED_CAPACITY;
    if (err == ERR_BUSY || err == ERR_CLOSED) outcome = OUTCOME_REJECTED_BUSY;
    atomic_fetch_add_explicit(&engine->options.metrics->requests[outcome], 1, memory_order_relaxed);
    return err;
}

void engine_cancel(struct engine *engine, struct request *request)
{
    /* In this order: whoever sees the engine's flag sees the request's. While anything is alive the engine
       does not sleep, so there is nobody to wake. */
    atomic_store(&request->cancelled, true);
    atomic_store(&engine->cancels, true);
}

void engine_drain(struct engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    engine->draining = true;
    pthread_mutex_unlock(&engine->lock);
}

void engine_capacity(const struct engine *engine, int format, int n_tokens, struct engine_capacity *out)
{
    const struct kv_policy *policy = &engine->policies[format];
    *out = (struct engine_capacity){
        .sequence_bytes = kv_policy_bytes(policy, n_tokens),
        .step_bytes = kv_policy_step_bytes(policy, engine->options.max_batch_tokens),
        .fitting = sched_fitting(engine->sched, format, n_tokens),
        .bits = kv_policy_bits(policy, n_tokens),
    };
}

enum err engine_sequences(struct engine *engine, struct engine_view *out, struct err_info *info)
{
    return engine_snapshot_read(engine->snapshot, out, info);
}

enum engine_state engine_state(const struct engine *engine)
{
    return (enum engine_state)atomic_load(&engine->state);
}

bool engine_idle(const struct engine *engine)
{
    return atomic_load(&engine->n_live) == 0;
}
