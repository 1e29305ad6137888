#include "server/engine_cache.h"
#include "server/engine_swap.h"

#include "config/log.h"
#include "kernels/workers.h"

#include <assert.h>

/* --- The batch --- */

/* Its first step ever. */
static void note_start(struct engine *engine, struct engine_job *job)
{
    job->started = true;
    job->choice->n_cached = job->seq.n_cached;
    metrics_observe(&engine->options.metrics->queue_time, job->seq.admitted_us - job->seq.arrived_us);
}

static void add_rows(struct engine *engine, const struct engine_job *job, int first_row)
{
    const struct sched_seq *seq = &job->seq;
    for (int i = 0; i < seq->n_step; i++) {
        int position = seq->n_cached + i;
        engine->tokens[first_row + i] =
            position < seq->n_prompt ? job->choice->prompt[position] : job->output[position - seq->n_prompt];
    }
}

static int add_logits(struct engine *engine, struct engine_job *job, int first_row, int n_logits)
{
    const struct sched_seq *seq = &job->seq;
    int n = sched_logits(seq), scored = n - sched_samples(seq);
    for (int i = 0; i < n; i++) {
        bool samples = i == scored;
        engine->rows[n_logits + i] =
            (struct engine_row){.job = job, .scored = samples ? -1 : seq->n_cached + i + 1};
        engine->logit_rows[n_logits + i] = first_row + (samples ? seq->n_step - 1 : i);
        if (engine->wishes == NULL) continue;
        if (samples)
            sampler_wish(&job->choice->sampler, engine->n_vocab, job->grammar != NULL, job->n_output,
                         &engine->wishes[n_logits + i]);
        else
            engine->wishes[n_logits + i] = (struct backend_wish){.kind = BACKEND_ROW};
    }
    return n_logits + n;
}

/* Blocks, tokens, spans and wanted rows of the chosen sequences. */
static void build_batch(struct engine *engine, struct sched_seq *const *chosen, int n_chosen,
                        struct model_batch *batch)
{
    kv_staging_reset(engine->staging);
    *batch = (struct model_batch){.tokens = engine->tokens,
                                  .spans = engine->spans,
                                  .logit_rows = engine->logit_rows,
                                  .wishes = engine->wishes,
                                  .answers = engine->answers};
    for (int i = 0; i < n_chosen; i++) {
        struct engine_job *job = chosen[i]->owner;
        struct err_info info;
        if (job->kv == NULL) engine_cache_open(engine, job);
        if (!job->started) note_start(engine, job);
        if (kv_sequence_begin(job->kv, job->seq.n_step, &info) != ERR_OK) {
            log_error("engine", "%s: a planned step does not fit: %s", job->ticket->request->id,
                      info.message);
            job->failed = true;
            sched_skip(&job->seq);
            continue;
        }
        kv_sequence_span(job->kv, batch->n_tokens, &engine->spans[batch->n_spans++]);
        add_rows(engine, job, batch->n_tokens);
        batch->n_logits = add_logits(engine, job, batch->n_tokens, batch->n_logits);
        batch->n_tokens += job->seq.n_step;
    }
}

/* --- From logits to records --- */

static void store_top(struct token_top *top, int n_logprobs, const struct sampler_result *result)
{
    for (int i = 0; i < n_logprobs; i++) {
        bool have = i < result->n_top;
        top[i] = (struct token_top){.token = have ? result->top_token[i] : -1,
                                    .logprob = have ? result->top_logprob[i] : 0};
    }
}

/* From what the device tells of the row. False when it was asked for the whole row, or is to be. */
static bool draw_answer(const struct engine *engine, int item, int worker, struct sampler_result *result)
{
    struct engine_row *row = &engine->rows[item];
    const struct engine_job *job = row->job;
    if (engine->wishes == NULL || engine->wishes[item].kind == BACKEND_ROW) return false;
    row->is_short = !sampler_draw_answer(engine->samplers[worker], &job->choice->sampler,
                                         &engine->answers[item], job->n_output, result);
    return !row->is_short;
}

static void draw_row(void *context, int item, int worker)
{
    const struct engine *engine = context;
    const struct engine_row *row = &engine->rows[item];
    struct engine_job *job = row->job;
    struct choice *choice = job->choice;
    const float *logits = engine->logits + (size_t)item * (size_t)engine->n_vocab;
    int n_logprobs = choice->sampler.n_logprobs;
    struct sampler_result result;
    struct token_record *record;
    struct token_top *top;

    if (row->scored >= 0) {
        sampler_score(engine->samplers[worker], n_logprobs, logits, choice->prompt[row->scored], &result);
        record = &choice->prompt_records[row->scored];
        top =
            choice->prompt_top != NULL ? choice->prompt_top + (size_t)row->scored * (size_t)n_logprobs : NULL;
    } else {
        const uint32_t *allowed = NULL;
        if (job->grammar != NULL && (allowed = engine_grammar_mask(engine, job, worker)) == NULL) return;
        if (!draw_answer(engine, item, worker, &result)) {
            if (row->is_short) return;
            sampler_draw(engine->samplers[worker], &choice->sampler, logits, allowed, choice->prompt,
                         choice->n_prompt, job->output, job->n_output, &result);
        }
        if (job->grammar != NULL) engine_grammar_accept(job, result.token);
        job->output[job->n_output] = result.token;
        record = &choice->records[job->n_output];
        top = choice->top != NULL ? choice->top + (size_t)job->n_output * (size_t)n_logprobs : NULL;
    }
    *record = (struct token_record){.token = result.token, .logprob = result.logprob};
    if (top != NULL && n_logprobs > 0) store_top(top, n_logprobs, &result);
}

static void draw_short_row(void *context, int item, int worker)
{
    struct engine *engine = context;
    if (!engine->rows[item].is_short) return;
    engine->rows[item].is_short = false;
    draw_row(context, item, worker);
}

static void draw_rows(struct engine *engine, int n)
{
    bool any_short = false;
    workers_run(engine->options.workers, n, draw_row, engine);
    for (int i = 0; i < n; i++) {
        if (!engine->rows[i].is_short) continue;
        any_short = true;
        engine->wishes[i].kind = BACKEND_ROW;
        model_fetch_row(engine->options.model, i);
    }
    if (any_short && engine_device_failure(engine) == NULL)
        workers_run(engine->options.workers, n, draw_short_row, engine);
}

/* --- Publishing --- */

static void note_news(struct engine *engine, struct request *request)
{
    if (atomic_exchange(&request->in_news, true)) return; /* the courier has yet to look at it */
    request_retain(request);
    request->next_news = engine->news;
    engine->news = request;
}

static void count_tenant(struct metrics *metrics, const struct engine_ticket *ticket)
{
    uint64_t n_prompt = 0, n_output = 0;
    if (ticket->request->tenant_number < 0) return;
    for (int i = 0; i < ticket->request->n_choices; i++) {
        n_prompt += (uint64_t)ticket->jobs[i].seq.n_prompt;
        n_output += (uint64_t)ticket->jobs[i].n_output;
    }
    metrics_add_tenant(metrics, ticket->request->tenant_number, n_prompt, n_output);
}

static void count_ticket(struct engine *engine, const struct engine_ticket *ticket, int64_t now_us)
{
    struct metrics *metrics = engine->options.metrics;
    const struct request *request = ticket->request;
    enum metrics_outcome outcome = OUTCOME_OK;

    if (request->error.code != ERR_OK)
        outcome = OUTCOME_ERROR;
    else if (ticket->cancelled && !atomic_load(&request->satisfied))
        outcome = OUTCOME_CANCELLED;
    atomic_fetch_add_explicit(&metrics->requests[outcome], 1, memory_order_relaxed);
    if (outcome == OUTCOME_OK) metrics_observe(&metrics->end_to_end, now_us - request->arrival_us);
    count_tenant(metrics, ticket);
}

static void end_ticket(struct engine *engine, struct engine_ticket *ticket)
{
    if (ticket->previous != NULL)
        ticket->previous->next = ticket->next;
    else
        engine->live = ticket->next;
    if (ticket->next != NULL) ticket->next->previous = ticket->previous;
    engine->n_ended++;
    request_release(ticket->request); /* the news holds another reference */
}

void engine_job_end(struct engine *engine, struct engine_job *job, enum finish_reason reason)
{
    struct engine_ticket *ticket = job->ticket;
    bool is_last = --ticket->n_open == 0;

    if (reason == FINISH_STOP || reason == FINISH_LENGTH)
        sched_finish(engine->sched, &job->seq);
    else
        sched_cancel(engine->sched, &job->seq);
    engine_cache_close(engine, job);
    /* Before the end is seen: who has the reply finds it counted. */
    if (is_last) count_ticket(engine, ticket, clock_us());
    atomic_store(&job->choice->finish, (int)reason);
    note_news(engine, ticket->request);
    if (is_last) end_ticket(engine, ticket);
}

static bool is_stop(const struct engine *engine, const struct engine_job *job, int32_t token)
{
    const struct request *request = job->ticket->request;
    bool ends = !request->ignore_eos || job->grammar != NULL; /* a grammar's end is one */
    if (job->complete || (ends && tokenizer_is_end(engine->options.tokenizer, token))) return true;
    for (int i = 0; i < request->n_stop_tokens; i++) {
        if (request->stop_tokens[i] == token) return true;
    }
    return false;
}

static void publish_token(struct engine *engine, struct engine_job *job, int64_t now_us)
{
    struct metrics *metrics = engine->options.metrics;
    struct request *request = job->ticket->request;
    int32_t token = job->output[job->n_output++];

    atomic_store(&job->choice->n_ready, job->n_output);
    note_news(engine, request);
    if (atomic_load(&request->first_token_us) == 0) {
        atomic_store(&request->first_token_us, now_us);
        metrics_observe(&metrics->first_token, now_us - request->arrival_us);
    }
    if (job->n_output > 1) metrics_observe(&metrics->inter_token, now_us - job->last_token_us);
    job->last_token_us = now_us;
    atomic_fetch_add_explicit(&metrics->generated_tokens, 1, memory_order_relaxed);

    if (is_stop(engine, job, token))
        engine_job_end(engine, job, FINISH_STOP);
    else if (job->n_output == request->max_tokens)
        engine_job_end(engine, job, FINISH_LENGTH);
    else
        sched_token(&job->seq);
}

/* A preempted sequence reads what it had read again; that is no progress. */
static void publish_progress(struct engine *engine, const struct engine_job *job)
{
    const struct sched_seq *seq = &job->seq;
    struct request *request = job->ticket->request;
    int n = seq->n_cached < seq->n_prompt ? seq->n_cached : seq->n_prompt;
    if (!request->return_progress || job->failed || n <= atomic_load(&job->choice->n_processed)) return;
    atomic_store(&job->choice->n_processed, n);
    note_news(engine, request);
}

static void publish_job(struct engine *engine, struct engine_job *job, int64_t now_us)
{
    struct request *request = job->ticket->request;
    publish_progress(engine, job);
    if (job->failed) {
        if (request->error.code == ERR_OK)
            err_set(&request->error, ERR_BUSY, "the KV cache had no room for the next token");
        engine_job_end(engine, job, FINISH_ERROR);
    } else if (job->stuck) {
        if (request->error.code == ERR_OK)
            err_set(&request->error, ERR_UNSUPPORTED,
                    "after %d tokens the model's vocabulary has none that the grammar lets follow",
                    job->n_output);
        engine_job_end(engine, job, FINISH_ERROR);
    } else if (job->sampled) {
        publish_token(engine, job, now_us);
    } else if (request->max_tokens == 0 && job->seq.n_cached == job->seq.n_prompt) {
        engine_job_end(engine, job, FINISH_LENGTH);
    }
}

/* --- The step --- */

/* How large the next step may be, if n prompt tokens took so long. */
static void adapt_step(struct engine *engine, int n, int64_t took_us)
{
    enum { LEAST = 16 };
    int64_t target_us = (int64_t)engine->options.step_target_ms * 1000;
    double token_us = (double)took_us / n;
    engine->token_us += (token_us - engine->token_us) * (engine->token_us > 0 ? 0.25 : 1);
    if (target_us <= 0) return;
    int64_t fitting = n * target_us / (took_us > 0 ? took_us : 1);
    if (fitting < LEAST) fitting = LEAST;
    if (fitting > engine->options.max_batch_tokens) fitting = engine->options.max_batch_tokens;
    engine->max_prompt_tokens = (int)fitting;
}

static int count_prompt_tokens(struct sched_seq *const *chosen, int n_chosen)
{
    int n = 0;
    for (int i = 0; i < n_chosen; i++) {
        int left = chosen[i]->n_prompt - chosen[i]->n_cached;
        if (left > 0) n += left < chosen[i]->n_step ? left : chosen[i]->n_step;
    }
    return n;
}

static void count_step(struct engine *engine, const struct model_batch *batch, int n_prompt)
{
    struct metrics *metrics = engine->options.metrics;
    atomic_fetch_add_explicit(&metrics->engine_steps, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&metrics->step_tokens, (uint64_t)batch->n_tokens, memory_order_relaxed);
    atomic_fetch_add_explicit(&metrics->prompt_tokens, (uint64_t)n_prompt, memory_order_relaxed);
}

static void run_forward(struct engine *engine, const struct model_batch *batch)
{
    int64_t start_us = clock_us();
    model_forward(engine->options.model, batch, &engine->logits);
    engine->forward_us = clock_us() - start_us;
}

void engine_step(struct engine *engine)
{
    struct sched_seq *const *chosen;
    struct model_batch batch;
    int64_t start_us = clock_us();
    engine_cache_begin(engine);
    int n_chosen = sched_plan(engine->sched, start_us, engine->max_prompt_tokens, &chosen);
    if (n_chosen == 0) {
        engine_swap_wait(engine);
        return;
    }

    build_batch(engine, chosen, n_chosen, &batch);
    int n_prompt = count_prompt_tokens(chosen, n_chosen);
    if (batch.n_tokens > 0) run_forward(engine, &batch);
    bool failed = engine_device_failure(engine) != NULL;
    if (batch.n_logits > 0 && !failed) draw_rows(engine, batch.n_logits);
    failed = engine_device_failure(engine) != NULL;

    /* Whether a sequence has a new token is known before the step's tokens count, and acted upon after. */
    for (int i = 0; i < n_chosen; i++) {
        struct engine_job *job = chosen[i]->owner;
        job->sampled = sched_samples(chosen[i]);
        if (chosen[i]->n_step > 0) engine_cache_end(engine, job);
    }
    sched_advance(engine->sched);
    if (failed) return; /* nothing to publish: engine_device_lose */
    engine->has_stepped = true;
    count_step(engine, &batch, n_prompt);
    int64_t now_us = clock_us();
    for (int i = 0; i < n_chosen; i++) publish_job(engine, chosen[i]->owner, now_us);
    /* Steps without much of a prompt say nothing of how long one takes. */
    if (n_prompt >= engine->max_prompt_tokens / 2) adapt_step(engine, n_prompt, now_us - start_us);
}

/* --- Warm-up --- */

enum err engine_warm_up(struct engine *engine, struct err_info *info)
{
    enum { TOKENS = 32 };
    int n = engine->options.max_batch_tokens < TOKENS ? engine->options.max_batch_tokens : TOKENS;
    struct kv_sequence *kv = engine->all_kv[0];
    struct model_batch batch = {.n_tokens = n,
                                .tokens = engine->tokens,
                                .n_spans = 1,
                                .spans = engine->spans,
                                .n_logits = 1,
                                .logit_rows = engine->logit_rows};
    if (n > engine->options.ctx_size) n = batch.n_tokens = engine->options.ctx_size;
    for (int i = 0; i < n; i++) engine->tokens[i] = 0;
    engine->logit_rows[0] = n - 1;
    engine->max_prompt_tokens = engine->options.max_batch_tokens;
    for (int round = 0; round < 2; round++) {
        kv_staging_reset(engine->staging);
        kv_sequence_reset(kv, &engine->policies[0]);
        enum err err = kv_sequence_begin(kv, n, info);
        if (err != ERR_OK) return err;
        kv_sequence_span(kv, 0, engine->spans);
        int64_t start_us = clock_us();
        model_forward(engine->options.model, &batch, &engine->logits);
        int64_t took_us = clock_us() - start_us;
        kv_sequence_end(kv);
        engine_metrics_forward(engine, took_us, 0);
        adapt_step(engine, n, took_us);
        log_debug("engine", "warm-up: %d tokens took %.1f ms", n, (double)took_us * 1e-3);
    }
    kv_sequence_reset(kv, &engine->policies[0]);
    const char *failure = engine_device_failure(engine);
    if (failure != NULL) return err_set(info, ERR_DEVICE, "the device failed: %s", failure);
    return ERR_OK;
}
