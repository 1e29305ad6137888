#include "server/sched.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>

struct list {
    struct sched_seq *first, *last;
    int count;
};

struct sched {
    struct sched_config config;
    size_t headroom[KV_FORMATS]; /* kv_policy_step_bytes */
    struct list waiting, running;
    int n_of_format[KV_FORMATS]; /* running */
    size_t reserved, held;       /* bytes of the running */
    struct sched_seq *turn;      /* running; goes first in the next step */
    struct sched_seq **chosen;   /* [parallel] */
    int n_chosen;
    int64_t service_us; /* moving average from admission to the end; 0: none finished yet */
};

static void list_append(struct list *list, struct sched_seq *seq)
{
    seq->previous = list->last;
    seq->next = NULL;
    if (list->last != NULL)
        list->last->next = seq;
    else
        list->first = seq;
    list->last = seq;
    list->count++;
}

static void list_remove(struct list *list, struct sched_seq *seq)
{
    if (seq->previous != NULL)
        seq->previous->next = seq->next;
    else
        list->first = seq->next;
    if (seq->next != NULL)
        seq->next->previous = seq->previous;
    else
        list->last = seq->previous;
    seq->previous = seq->next = NULL;
    list->count--;
}

enum err sched_create(const struct sched_config *config, struct sched **out, struct err_info *info)
{
    if (config->ctx_size < 1 || config->parallel < 1 || config->max_batch_tokens < 1 ||
        config->max_logits < 1)
        return err_set(info, ERR_USAGE,
                       "ctx-size (%d), parallel (%d), max-batch-tokens (%d) and rows of logits (%d) must be "
                       "at least 1",
                       config->ctx_size, config->parallel, config->max_batch_tokens, config->max_logits);
    struct sched *sched = calloc(1, sizeof *sched);
    struct sched_seq **chosen = calloc((size_t)config->parallel, sizeof *chosen);
    if (sched == NULL || chosen == NULL) {
        free(sched);
        free(chosen);
        return err_set(info, ERR_MEMORY, "no memory for a scheduler of %d sequences", config->parallel);
    }
    sched->config = *config;
    sched->chosen = chosen;
    for (int format = 0; format < KV_FORMATS; format++)
        sched->headroom[format] = kv_policy_step_bytes(&config->policies[format], config->max_batch_tokens);
    *out = sched;
    return ERR_OK;
}

void sched_free(struct sched *sched)
{
    if (sched == NULL) return;
    free(sched->chosen);
    free(sched);
}

/* --- Admission --- */

/* The last generated token is never cached. */
static int cached_at_most(int n_prompt, int max_tokens)
{
    return n_prompt + (max_tokens > 0 ? max_tokens - 1 : 0);
}

enum err sched_check(const struct sched *sched, enum kv_format format, int n_prompt, int max_tokens,
                     struct err_info *info)
{
    const struct sched_config *config = &sched->config;
    assert(n_prompt >= 1 && max_tokens >= 0);

    if (n_prompt > config->ctx_size || max_tokens > config->ctx_size - n_prompt)
        return err_set_param(
            info, ERR_CAPACITY, "max_tokens",
            "prompt of %d tokens + max_tokens of %d = %lld tokens; the context is %d tokens: "
            "shorten the prompt, lower max_tokens, or raise --ctx-size",
            n_prompt, max_tokens, (long long)n_prompt + max_tokens, config->ctx_size);
    size_t bytes = kv_policy_bytes(&config->policies[format], cached_at_most(n_prompt, max_tokens));
    size_t needed = bytes + sched->headroom[format];
    if (needed > config->kv_bytes)
        return err_set_param(
            info, ERR_CAPACITY, "max_tokens",
            "prompt of %d tokens + max_tokens of %d need %zu bytes of %s KV cache (%zu and %zu "
            "for a step); it has %zu bytes: shorten the prompt, lower max_tokens, or raise "
            "--kv-cache-bytes",
            n_prompt, max_tokens, needed, kv_format_name(format), bytes, sched->headroom[format],
            config->kv_bytes);
    return ERR_OK;
}

int sched_fitting(const struct sched *sched, enum kv_format format, int n_tokens)
{
    size_t bytes = kv_policy_bytes(&sched->config.policies[format], n_tokens);
    size_t headroom = sched->headroom[format];
    if (bytes == 0 || headroom > sched->config.kv_bytes) return 0;
    size_t n = (sched->config.kv_bytes - headroom) / bytes;
    return n < INT_MAX ? (int)n : INT_MAX;
}

void sched_add(struct sched *sched, struct sched_seq *seq, int64_t now_us)
{
    assert(seq->state == SCHED_OUT && seq->n_step == 0);
    seq->state = SCHED_WAITING;
    seq->n_tokens = seq->n_prompt;
    seq->n_cached = 0;
    seq->held_bytes = 0;
    seq->arrived_us = now_us;
    seq->reserved_bytes =
        kv_policy_bytes(&sched->config.policies[seq->format], cached_at_most(seq->n_prompt, seq->max_tokens));
    list_append(&sched->waiting, seq);
}

static bool can_admit(const struct sched *sched, const struct sched_seq *seq)
{
    size_t headroom = sched->headroom[seq->format];
    for (int format = 0; format < KV_FORMATS; format++) {
        if (sched->n_of_format[format] > 0 && sched->headroom[format] > headroom)
            headroom = sched->headroom[format];
    }
    return sched->running.count < sched->config.parallel &&
           sched->reserved + seq->reserved_bytes + headroom <= sched->config.kv_bytes;
}

static void admit(struct sched *sched, int64_t now_us)
{
    struct sched_seq *seq;
    while ((seq = sched->waiting.first) != NULL && can_admit(sched, seq)) {
        list_remove(&sched->waiting, seq);
        list_append(&sched->running, seq);
        seq->state = SCHED_RUNNING;
        seq->admitted_us = now_us;
        sched->reserved += seq->reserved_bytes;
        sched->n_of_format[seq->format]++;
    }
}

/* --- The step --- */

/* What is left of the step's limits. */
struct room {
    int tokens, logits;
    size_t bytes;
};

static bool samples(const struct sched_seq *seq, int n)
{
    return n > 0 && seq->max_tokens > 0 && seq->n_cached + n == seq->n_tokens;
}

bool sched_samples(const struct sched_seq *seq)
{
    return samples(seq, seq->n_step);
}

static int scored_rows(const struct sched_seq *seq, int n)
{
    int left = seq->n_prompt - 1 - seq->n_cached;
    if (!seq->score_prompt || left <= 0) return 0;
    return n < left ? n : left;
}

int sched_logits(const struct sched_seq *seq)
{
    return scored_rows(seq, seq->n_step) + samples(seq, seq->n_step);
}

static bool stays_in_block(const struct sched_seq *seq, int n)
{
    int filled = seq->n_cached % KV_BLOCK_TOKENS;
    return filled > 0 && filled + n < KV_BLOCK_TOKENS;
}

/* Bytes that n more tokens of seq add at their worst moment to what it holds. */
static size_t added_bytes(const struct sched *sched, const struct sched_seq *seq, int n)
{
    if (stays_in_block(seq, n)) return 0;
    return kv_policy_peak_bytes(&sched->config.policies[seq->format], seq->n_cached, n) - seq->held_bytes;
}

/* The most tokens, up to n, whose logits fit. A prompt that is scored leaves a row for everyone else. */
static int fit_logits(const struct sched *sched, const struct sched_seq *seq, int n, const struct room *room)
{
    if (room->logits < 1) return seq->score_prompt ? 0 : n - samples(seq, n);
    if (scored_rows(seq, n) == 0) return n;
    int rows = room->logits - (sched->running.count - 1);
    if (rows < 1) rows = 1;
    if (n > rows) n = rows;
    return n;
}

/* The most tokens, up to n, whose bytes fit: n, or less up to a block's edge, or what does not seal a block.
 */
static int fit_bytes(const struct sched *sched, const struct sched_seq *seq, int n, const struct room *room)
{
    while (n > 0 && added_bytes(sched, seq, n) > room->bytes) {
        int edge = (seq->n_cached + n - 1) / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS;
        bool first_block = edge <= seq->n_cached;
        bool closes = (seq->n_cached + n) % KV_BLOCK_TOKENS == 0;
        n = !first_block ? edge - seq->n_cached : closes ? n - 1 : 0;
    }
    return n;
}

static void give(struct sched *sched, struct sched_seq *seq, int n, struct room *room)
{
    int pending = seq->n_tokens - seq->n_cached;
    if (n > pending) n = pending;
    if (n > room->tokens) n = room->tokens;
    n = fit_logits(sched, seq, n, room);
    n = fit_bytes(sched, seq, n, room);
    if (n <= 0) {
        /* Out of tokens is the fate of prompts that are not the oldest; anything else must not last. */
        if (room->tokens > 0 && sched->turn == NULL) sched->turn = seq;
        return;
    }
    seq->n_step = n;
    room->tokens -= n;
    room->logits -= sched_logits(seq);
    room->bytes -= added_bytes(sched, seq, n);
    sched->chosen[sched->n_chosen++] = seq;
}

static struct sched_seq *next_in_ring(const struct sched *sched, const struct sched_seq *seq)
{
    return seq->next != NULL ? seq->next : sched->running.first;
}

/* More running than tokens in a step: one token each, starting where the last step stopped. */
static void plan_turns(struct sched *sched, struct sched_seq *first, struct room *room)
{
    if (first == NULL) first = sched->running.first;
    struct sched_seq *seq = first;
    do {
        give(sched, seq, 1, room);
        seq = next_in_ring(sched, seq);
    } while (seq != first && room->tokens > 0);
    if (sched->turn == NULL) sched->turn = seq;
}

static void plan_step(struct sched *sched, struct sched_seq *first, struct room *room)
{
    /* Tokens that are left when everyone else has one. */
    int most = room->tokens - sched->running.count + 1;
    struct sched_seq *seq = first != NULL ? first : sched->running.first;

    for (int i = sched->running.count; i > 0; i--, seq = next_in_ring(sched, seq)) {
        /* A prompt that was due and got nothing last time need not wait for the generating ones. */
        if (seq->n_tokens - seq->n_cached == 1 || seq == first) give(sched, seq, most, room);
    }
    for (seq = sched->running.first; seq != NULL && room->tokens > 0; seq = seq->next) {
        if (seq->n_step == 0 && seq->n_tokens - seq->n_cached > 1) give(sched, seq, room->tokens, room);
    }
}

int sched_plan(struct sched *sched, int64_t now_us, int max_prompt_tokens, struct sched_seq *const **chosen)
{
    struct sched_seq *first = sched->turn;

    admit(sched, now_us);
    sched->turn = NULL;
    sched->n_chosen = 0;
    *chosen = sched->chosen;
    if (sched->running.count == 0) {
        assert(sched->waiting.count == 0); /* sched_check let nobody in who cannot run alone */
        return 0;
    }
    int tokens = sched->config.max_batch_tokens;
    if (max_prompt_tokens < tokens - sched->running.count) tokens = sched->running.count + max_prompt_tokens;
    struct room room = {
        .tokens = tokens, .logits = sched->config.max_logits, .bytes = sched->config.kv_bytes - sched->held};
    if (sched->running.count > room.tokens)
        plan_turns(sched, first, &room);
    else
        plan_step(sched, first, &room);
    assert(sched->n_chosen > 0);
    return sched->n_chosen;
}

void sched_skip(struct sched_seq *seq)
{
    seq->n_step = 0;
}

void sched_advance(struct sched *sched)
{
    for (int i = 0; i < sched->n_chosen; i++) {
        struct sched_seq *seq = sched->chosen[i];
        if (!stays_in_block(seq, seq->n_step)) {
            size_t held =
                kv_policy_held_bytes(&sched->config.policies[seq->format], seq->n_cached + seq->n_step);
            sched->held += held - seq->held_bytes;
            seq->held_bytes = held;
        }
        seq->n_cached += seq->n_step;
        seq->n_step = 0;
    }
    sched->n_chosen = 0;
}

void sched_token(struct sched_seq *seq)
{
    assert(seq->n_cached == seq->n_tokens && seq->n_tokens < seq->n_prompt + seq->max_tokens);
    seq->n_tokens++;
}

/* --- The end --- */

void sched_cancel(struct sched *sched, struct sched_seq *seq)
{
    assert(seq->state != SCHED_OUT && seq->n_step == 0);
    if (seq->state == SCHED_WAITING) {
        list_remove(&sched->waiting, seq);
    } else {
        if (sched->turn == seq) sched->turn = seq->next;
        list_remove(&sched->running, seq);
        sched->reserved -= seq->reserved_bytes;
        sched->held -= seq->held_bytes;
        sched->n_of_format[seq->format]--;
    }
    seq->state = SCHED_OUT;
}

void sched_finish(struct sched *sched, struct sched_seq *seq, int64_t now_us)
{
    if (seq->state == SCHED_RUNNING) {
        int64_t service = now_us - seq->admitted_us;
        sched->service_us += sched->service_us == 0 ? service : (service - sched->service_us) / 8;
    }
    sched_cancel(sched, seq);
}

struct sched_seq *sched_waiting(const struct sched *sched)
{
    return sched->waiting.first;
}

struct sched_seq *sched_running(const struct sched *sched)
{
    return sched->running.first;
}

int sched_waiting_count(const struct sched *sched)
{
    return sched->waiting.count;
}

int sched_running_count(const struct sched *sched)
{
    return sched->running.count;
}

size_t sched_reserved_bytes(const struct sched *sched)
{
    return sched->reserved;
}

size_t sched_held_bytes(const struct sched *sched)
{
    return sched->held;
}

int64_t sched_pace_us(const struct sched *sched, int64_t now_us)
{
    /* By Little's law the running ones finish at a rate of their number over the time each takes; before the
       first has finished, its age is the least it can take. */
    int64_t service = sched->service_us;
    if (service == 0 && sched->running.first != NULL) service = now_us - sched->running.first->admitted_us;
    return sched->running.count > 0 ? service / sched->running.count : service;
}

int sched_retry_after_s(int64_t pace_us, int n_sequences)
{
    double seconds = (double)pace_us * 1e-6 * n_sequences;
    return seconds < 1 ? 1 : seconds > 600 ? 600 : (int)seconds + 1;
}

static void list_verify(const struct list *list, enum sched_state state)
{
    int count = 0;
    const struct sched_seq *previous = NULL;
    for (const struct sched_seq *seq = list->first; seq != NULL; seq = seq->next) {
        assert(seq->state == state && seq->previous == previous);
        previous = seq;
        count++;
    }
    assert(list->last == previous && list->count == count);
}

void sched_verify(const struct sched *sched)
{
    size_t reserved = 0, held = 0;
    int n_of_format[KV_FORMATS] = {0};

    list_verify(&sched->waiting, SCHED_WAITING);
    list_verify(&sched->running, SCHED_RUNNING);
    for (const struct sched_seq *seq = sched->running.first; seq != NULL; seq = seq->next) {
        const struct kv_policy *policy = &sched->config.policies[seq->format];
        assert(seq->held_bytes == kv_policy_held_bytes(policy, seq->n_cached));
        assert(seq->held_bytes <= seq->reserved_bytes);
        assert(seq->n_cached <= seq->n_tokens && seq->n_tokens <= seq->n_prompt + seq->max_tokens);
        reserved += seq->reserved_bytes;
        held += seq->held_bytes;
        n_of_format[seq->format]++;
    }
    assert(sched->running.count <= sched->config.parallel);
    assert(reserved == sched->reserved && held == sched->held && reserved <= sched->config.kv_bytes);
    for (int format = 0; format < KV_FORMATS; format++) {
        assert(n_of_format[format] == sched->n_of_format[format]);
    }
}
