#include "server/engine_internal.h"

#include "config/log.h"
#include "kernels/workers.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { FRAME_TOKENS = 256, DEFAULT_STEP_MS = 400 };

/* --- Creation --- */

static enum err check_options(const struct engine_options *options, struct err_info *info)
{
    if (options->sink_tokens < 0 || options->sink_tokens > KV_MAX_SINKS)
        return err_set_param(info, ERR_USAGE, "sink-tokens", "--sink-tokens is %d: it must be 0 to %d",
                             options->sink_tokens, KV_MAX_SINKS);
    if (options->recent_blocks < 0)
        return err_set_param(info, ERR_USAGE, "kv-recent", "--kv-recent is %d: it must not be negative",
                             options->recent_blocks);
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
    for (int format = 0; format < KV_FORMATS; format++)
        engine->policies[format] = (struct kv_policy){.shape = shape,
                                                      .format = (enum kv_format)format,
                                                      .recent_blocks = options->recent_blocks,
                                                      .sink_tokens = options->sink_tokens};
    engine->n_vocab = model_config(options->model)->n_vocab;
    engine->max_prompt_tokens = options->max_batch_tokens;
}

static enum err create_tables(struct engine *engine, struct err_info *info)
{
    const struct engine_options *options = &engine->options;
    const double *inv_freq = model_inv_freq(options->model);
    const struct calibration *calibration = options->calibration;
    if (calibration != NULL) {
        int n_frames = options->ctx_size / calibration->frame_tokens + 1;
        return calibration_tables(calibration, n_frames, inv_freq, &engine->tables, info);
    }
    engine->tables = kv_tables_identity(&engine->policies[0].shape, FRAME_TOKENS,
                                        options->ctx_size / FRAME_TOKENS + 1, inv_freq);
    return engine->tables != NULL ? ERR_OK : err_set(info, ERR_MEMORY, "no memory for the KV cache's tables");
}

static enum err create_cache(struct engine *engine, struct err_info *info)
{
    const struct engine_options *options = &engine->options;
    const struct kv_shape *shape = &engine->policies[0].shape;
    struct sched_config config = {.kv_bytes = options->kv_bytes,
                                  .ctx_size = options->ctx_size,
                                  .parallel = options->parallel,
                                  .max_batch_tokens = options->max_batch_tokens,
                                  .max_logits = options->max_logits};
    memcpy(config.policies, engine->policies, sizeof config.policies);
    enum err err = sched_create(&config, &engine->sched, info);
    if (err == ERR_OK) err = kv_pool_create(shape, options->kv_bytes, &engine->pool, info);
    if (err != ERR_OK) return err;

    engine->staging = kv_staging_create(shape, options->max_batch_tokens, options->backend);
    err = create_tables(engine, info);
    if (err != ERR_OK) return err;
    engine->all_kv = calloc((size_t)options->parallel, sizeof *engine->all_kv);
    engine->free_kv = calloc((size_t)options->parallel, sizeof *engine->free_kv);
    if (engine->staging == NULL || engine->all_kv == NULL || engine->free_kv == NULL)
        return err_set(info, ERR_MEMORY, "no memory for the KV cache's tables");
    for (int i = 0; i < options->parallel; i++) {
        err = kv_sequence_create(&engine->policies[options->default_format], engine->pool, engine->staging,
                                 options->backend, options->ctx_size, &engine->all_kv[i], info);
        if (err != ERR_OK) return err;
        engine->free_kv[engine->n_free_kv++] = engine->all_kv[i];
    }
    return ERR_OK;
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
    engine->samplers = calloc((size_t)n_workers, sizeof(struct sampler *));
    for (int i = 0; i < n_workers && engine->samplers != NULL; i++) {
        engine->samplers[i] = sampler_create(engine->n_vocab);
        if (engine->samplers[i] == NULL) short_of_memory = true;
    }
    if (engine->tokens == NULL || engine->spans == NULL || engine->rows == NULL ||
        engine->logit_rows == NULL || engine->samplers == NULL || short_of_memory)
        return err_set(info, ERR_MEMORY, "no memory for a batch of %d tokens", options->max_batch_tokens);
    return ERR_OK;
}

static void log_capacity(const struct engine *engine)
{
    const struct engine_options *options = &engine->options;
    enum kv_format chosen = options->default_format;

    for (int f = 0; f < KV_FORMATS; f++) {
        enum kv_format format = (enum kv_format)f;
        log_info("engine",
                 "KV cache of %zu bytes, format %s: %d concurrent sequences of %d tokens fit (%.2f bits per "
                 "value)%s",
                 options->kv_bytes, kv_format_name(format),
                 sched_fitting(engine->sched, format, options->ctx_size), options->ctx_size,
                 kv_policy_bits(&engine->policies[format], options->ctx_size),
                 format == chosen ? "; the default" : "");
    }
    if (sched_fitting(engine->sched, chosen, options->ctx_size) == 0)
        log_warn("engine",
                 "the KV cache does not hold one sequence of --ctx-size %d: longer requests get an error; "
                 "raise --kv-cache-bytes",
                 options->ctx_size);
    if (chosen != KV_FORMAT_F16 && options->calibration == NULL)
        log_warn("engine",
                 "KV cache format %s is uncalibrated: its error is several times larger than after "
                 "`octavo calibrate`",
                 kv_format_name(chosen));
}

/* --- The thread --- */

static void update_metrics(struct engine *engine)
{
    struct metrics *metrics = engine->options.metrics;
    struct metrics_kv kv = {0};
    struct kv_pool_stats stats;

    for (struct sched_seq *seq = sched_running(engine->sched); seq != NULL; seq = seq->next)
        metrics_kv_add(&kv, &engine->policies[seq->format], seq->n_cached);
    kv_pool_stats(engine->pool, &stats);
    metrics_set_kv(metrics, &kv);
    metrics_set_pool(metrics, &stats);
    int64_t running = sched_running_count(engine->sched);
    atomic_store_explicit(&metrics->running, running, memory_order_relaxed);
    if (running > atomic_load_explicit(&metrics->running_peak, memory_order_relaxed))
        atomic_store_explicit(&metrics->running_peak, running, memory_order_relaxed);
    /* Those in the mailbox were counted by who put them there. */
    int n_waiting = sched_waiting_count(engine->sched);
    atomic_fetch_add_explicit(&metrics->waiting, n_waiting - engine->n_counted, memory_order_relaxed);
    engine->n_counted = n_waiting;
}

static void check_invariants(const struct engine *engine)
{
#ifdef OCTAVO_CHECKS
    sched_verify(engine->sched);
    kv_pool_check(engine->pool);
    /* What the scheduler believes to be held is held, to the byte. */
    assert(sched_held_bytes(engine->sched) + kv_pool_free_bytes(engine->pool) == engine->options.kv_bytes);
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

static void end_open_jobs(struct engine *engine, struct engine_ticket *ticket, enum finish_reason reason)
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
    end_open_jobs(engine, ticket, FINISH_CANCELLED);
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
        end_open_jobs(engine, ticket, FINISH_LENGTH); /* nothing is asked for */
}

static void cancel_tickets(struct engine *engine)
{
    if (!atomic_exchange(&engine->cancels, false)) return;
    for (struct engine_ticket *ticket = engine->live, *next; ticket != NULL; ticket = next) {
        next = ticket->next;
        if (atomic_load(&ticket->request->cancelled)) cancel_ticket(engine, ticket);
    }
}

static void fail_tickets(struct engine *engine)
{
    for (struct engine_ticket *ticket = engine->live, *next; ticket != NULL; ticket = next) {
        next = ticket->next;
        if (ticket->request->error.code == ERR_OK)
            err_set(&ticket->request->error, ERR_CLOSED,
                    "the server was stopped before the request was finished");
        end_open_jobs(engine, ticket, FINISH_ERROR);
    }
}

/* Take the mail, oldest first; wait for some while there is nothing to do. True: stop. */
static bool collect_mail(struct engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    engine->pace_us = sched_pace_us(engine->sched, engine_now_us());
    engine->n_waiting = sched_waiting_count(engine->sched);
    engine->n_running = sched_running_count(engine->sched);
    while (engine->mail_first == NULL && engine->live == NULL && !engine->stopping)
        pthread_cond_wait(&engine->wake, &engine->lock);
    struct engine_ticket *mail = engine->mail_first;
    engine->mail_first = engine->mail_last = NULL;
    engine->n_waiting += engine->n_mailed;
    engine->n_mailed = 0;
    bool stopping = engine->stopping;
    pthread_mutex_unlock(&engine->lock);

    while (mail != NULL) {
        struct engine_ticket *next = mail->next;
        accept_ticket(engine, mail);
        mail = next;
    }
    return stopping;
}

static void *engine_run(void *context)
{
    struct engine *engine = context;
    for (;;) {
        bool stopping = collect_mail(engine);
        if (stopping)
            fail_tickets(engine);
        else
            cancel_tickets(engine);
        engine_step(engine);
        update_metrics(engine);
        check_invariants(engine);
        deliver_news(engine);
        if (stopping) return NULL;
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
    if (err == ERR_OK) err = engine_warm_up(engine, info);
    if (err != ERR_OK) goto out;
    update_metrics(engine);
    log_capacity(engine);
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
    for (int i = 0; i < engine->options.parallel && engine->all_kv != NULL; i++)
        kv_sequence_free(engine->all_kv[i]);
    for (int i = 0; i < workers_count(engine->options.workers) && engine->samplers != NULL; i++)
        sampler_free(engine->samplers[i]);
    kv_staging_free(engine->staging);
    kv_pool_free(engine->pool);
    kv_tables_free(engine->tables);
    sched_free(engine->sched);
    free(engine->samplers);
    free(engine->all_kv);
    free(engine->free_kv);
    free(engine->tokens);
    free(engine->spans);
    free(engine->rows);
    free(engine->logit_rows);
    pthread_cond_destroy(&engine->wake);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

/* --- From other threads --- */

/* Into the mailbox, when there is room in the queue. What waits may fill max_queue beside the free places in
   the batch; into an idle engine even more, so that no request is refused for ever for its many choices. */
static enum err post(struct engine *engine, struct engine_ticket *ticket, int *retry_after_s,
                     struct err_info *info)
{
    const struct engine_options *options = &engine->options;
    int n = ticket->request->n_choices;
    enum err err = ERR_OK;

    pthread_mutex_lock(&engine->lock);
    int waiting = engine->n_waiting + engine->n_mailed;
    int places = options->parallel - engine->n_running;
    int excess = waiting + n - options->max_queue - places;
    if (engine->draining) {
        err = err_set(info, ERR_CLOSED, "the server is shutting down");
    } else if (excess > 0 && (waiting > 0 || engine->n_running > 0)) {
        *retry_after_s = sched_retry_after_s(engine->pace_us, excess);
        err = err_set(info, ERR_BUSY,
                      "the queue is full: %d sequences run and %d wait (--max-queue %d); try again in %d s",
                      engine->n_running, waiting, options->max_queue, *retry_after_s);
    } else {
        request_retain(ticket->request);
        atomic_fetch_add(&engine->n_live, 1);
        ticket->next = NULL;
        if (engine->mail_last != NULL)
            engine->mail_last->next = ticket;
        else
            engine->mail_first = ticket;
        engine->mail_last = ticket;
        engine->n_mailed += n;
        atomic_fetch_add_explicit(&options->metrics->waiting, n, memory_order_relaxed);
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

bool engine_idle(const struct engine *engine)
{
    return atomic_load(&engine->n_live) == 0;
}
