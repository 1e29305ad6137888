#include "server/engine_cache.h"

#include <assert.h>

/*
 * What a request must be before it may enter the mailbox. All of it happens on the caller's thread and reads
 * only what never changes, so no lock is held.
 */

static enum err check_tokens(const struct engine *engine, const struct choice *choice, struct err_info *info)
{
    if (choice->n_prompt < 1)
        return err_set_param(info, ERR_INVALID, "prompt",
                             "the prompt is empty: it must have at least one token");
    for (int i = 0; i < choice->n_prompt; i++) {
        if (choice->prompt[i] < 0 || choice->prompt[i] >= engine->n_vocab)
            return err_set_param(info, ERR_INVALID, "prompt",
                                 "prompt token %d is %d; the vocabulary has %d tokens, 0 to %d", i,
                                 choice->prompt[i], engine->n_vocab, engine->n_vocab - 1);
    }
    for (int i = 0; i < choice->sampler.n_bias; i++) {
        int32_t token = choice->sampler.bias[i].token;
        if (token < 0 || token >= engine->n_vocab)
            return err_set_param(info, ERR_INVALID, "logit_bias",
                                 "logit_bias has token %d; the vocabulary has %d tokens, 0 to %d", token,
                                 engine->n_vocab, engine->n_vocab - 1);
    }
    return ERR_OK;
}

static enum err check_request(const struct engine *engine, const struct request *request,
                              struct err_info *info)
{
    assert(request->n_choices >= 1 && request->kv_format >= 0 && request->kv_format < engine->n_formats);
    if (request->max_tokens < 0)
        return err_set_param(info, ERR_INVALID, "max_tokens", "max_tokens is %d: it must not be negative",
                             request->max_tokens);
    for (int i = 0; i < request->n_choices; i++) {
        const struct choice *choice = &request->choices[i];
        enum err err = check_tokens(engine, choice, info);
        if (err == ERR_OK)
            err = sched_check(engine->sched, request->kv_format, choice->n_prompt, request->max_tokens, info);
        if (err != ERR_OK) return err;
    }
    return ERR_OK;
}

enum err engine_ticket_create(const struct engine *engine, struct request *request,
                              struct engine_ticket **out, struct err_info *info)
{
    enum err err = check_request(engine, request, info);
    if (err != ERR_OK) return err;

    size_t n_choices = (size_t)request->n_choices, max_tokens = (size_t)request->max_tokens;
    struct engine_ticket *ticket = arena_alloc(request->arena, 1, sizeof *ticket);
    struct engine_job *jobs = arena_alloc(request->arena, n_choices, sizeof *jobs);
    int32_t *output = arena_alloc(request->arena, n_choices * max_tokens + 1, sizeof *output);
    size_t n_keys = 0;
    for (size_t i = 0; i < n_choices; i++)
        n_keys += (size_t)engine_cache_keys(request->choices[i].n_prompt, request->max_tokens);
    struct kv_hash *keys = arena_alloc(request->arena, n_keys + 1, sizeof *keys);
    if (ticket == NULL || jobs == NULL || output == NULL || keys == NULL)
        return err_set(info, ERR_MEMORY, "no memory for %d choices of %d tokens", request->n_choices,
                       request->max_tokens);
    if (request->arrival_us == 0) request->arrival_us = clock_us();
    for (int i = 0; i < request->n_choices; i++) {
        struct choice *choice = &request->choices[i];
        jobs[i] = (struct engine_job){
            .seq = {.owner = &jobs[i],
                    .format = request->kv_format,
                    .n_prompt = choice->n_prompt,
                    .max_tokens = request->max_tokens,
                    .score_prompt = choice->prompt_records != NULL,
                    .priority = request->priority,
                    .tenant = request->tenant,
                    .deadline_us = request->timeout_us > 0 ? request->arrival_us + request->timeout_us : 0},
            .ticket = ticket,
            .keys = keys,
            .choice = choice,
            .output = output + (size_t)i * max_tokens};
        choice->engine_state = &jobs[i];
        keys += engine_cache_keys(choice->n_prompt, request->max_tokens);
    }
    err = engine_grammar_begin(request, jobs, info);
    if (err != ERR_OK) return err;
    *ticket = (struct engine_ticket){.request = request, .n_open = request->n_choices, .jobs = jobs};
    *out = ticket;
    return ERR_OK;
}
