#include "server/engine_internal.h"

#include "config/clock.h"
#include "kernels/workers.h"

#include <stdlib.h>

/*
 * A choice of a constrained request has a place in the request's grammar, in the request's arena. The worker
 * that draws its token asks for the mask before and moves the place on after; nobody else touches it, so
 * preemption, batching and threads mean nothing to it. What it costs is paid by constrained rows alone.
 */

static void find_ends(struct engine *engine)
{
    const struct tokenizer *tokenizer = engine->options.tokenizer;
    for (int token = 0; token < tokenizer_vocab_size(tokenizer); token++)
        if (tokenizer_is_end(tokenizer, token)) engine->ends[engine->n_ends++] = token;
}

/* The tokenizer may know fewer tokens than the model has logits; those are never allowed. */
enum err engine_grammar_create(struct engine *engine, struct err_info *info)
{
    const struct engine_options *options = &engine->options;
    int n_workers = workers_count(options->workers), n_tokens = tokenizer_vocab_size(options->tokenizer);
    int n_most = n_tokens > engine->n_vocab ? n_tokens : engine->n_vocab;
    if (options->vocabulary == NULL) return ERR_OK;
    engine->mask_words = ((size_t)n_most + 31) / 32;
    engine->ends = calloc((size_t)n_tokens, sizeof *engine->ends);
    engine->scratches = calloc((size_t)n_workers, sizeof(struct grammar_scratch *));
    engine->masks = calloc((size_t)n_workers, sizeof(uint32_t *));
    bool short_of_memory = engine->ends == NULL || engine->scratches == NULL || engine->masks == NULL;
    for (int i = 0; i < n_workers && !short_of_memory; i++) {
        engine->scratches[i] = grammar_scratch_create(options->vocabulary);
        engine->masks[i] = calloc(engine->mask_words, sizeof *engine->masks[i]);
        short_of_memory = engine->scratches[i] == NULL || engine->masks[i] == NULL;
    }
    if (short_of_memory) return err_set(info, ERR_MEMORY, "no memory for the masks of %d tokens", n_most);
    find_ends(engine);
    return ERR_OK;
}

void engine_grammar_free(struct engine *engine)
{
    int n_workers = workers_count(engine->options.workers);
    for (int i = 0; i < n_workers && engine->scratches != NULL; i++)
        grammar_scratch_free(engine->scratches[i]);
    for (int i = 0; i < n_workers && engine->masks != NULL; i++) free(engine->masks[i]);
    free(engine->scratches);
    free(engine->masks);
    free(engine->ends);
}

enum err engine_grammar_begin(const struct request *request, struct engine_job *jobs, struct err_info *info)
{
    if (request->grammar == NULL) return ERR_OK;
    for (int i = 0; i < request->n_choices; i++) {
        void *memory = arena_alloc(request->arena, 1, grammar_state_bytes(request->grammar));
        if (memory == NULL)
            return err_set_param(
                info, ERR_LIMIT, "n",
                "%d choices under a grammar need more than the memory that one request may take",
                request->n_choices);
        jobs[i].grammar = grammar_state_init(memory, request->grammar);
    }
    return ERR_OK;
}

/* ignore_eos: no end while anything else can follow. */
static int remove_ends(const struct engine *engine, uint32_t *allowed, int n)
{
    int n_found = 0;
    for (int i = 0; i < engine->n_ends; i++)
        n_found += allowed[engine->ends[i] >> 5] >> (engine->ends[i] & 31) & 1;
    if (n_found == n) return n;
    for (int i = 0; i < engine->n_ends; i++) allowed[engine->ends[i] >> 5] &= ~(1u << (engine->ends[i] & 31));
    return n - n_found;
}

const uint32_t *engine_grammar_mask(const struct engine *engine, struct engine_job *job, int worker)
{
    uint32_t *allowed = engine->masks[worker];
    int64_t start_ns = clock_ns();
    int n = grammar_mask(job->grammar, engine->scratches[worker], allowed);
    if (n > 0 && job->ticket->request->ignore_eos) n = remove_ends(engine, allowed, n);
    metrics_observe(&engine->options.metrics->grammar_mask, clock_ns() - start_ns);
    job->stuck = n == 0;
    return n > 0 ? allowed : NULL;
}

void engine_grammar_accept(struct engine_job *job, int32_t token)
{
    /* The model may give all that is allowed no probability, or not know the token: the text ends here. */
    job->stuck = !grammar_accept(job->grammar, token);
    job->complete = grammar_must_end(job->grammar);
}
