#include "server/completions.h"

#include "config/buf.h"
#include "server/api.h"
#include "server/engine.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* The most one request may take: prompts, records, logprobs. */
static const size_t arena_bytes_max = (size_t)64 << 20;

/* Everything about one request while its handler makes it; all of it stands in the arena. */
struct draft {
    struct api *api;
    struct arena *arena;
    struct completions_params params;
    struct completions_state *state;
    struct api_stop *stop;
    struct request *request;
};

static enum err no_room(struct err_info *info)
{
    return err_set_param(info, ERR_LIMIT, "max_tokens",
                         "prompts, max_tokens, n and logprobs together need more than the %zu MiB that one "
                         "request may take",
                         arena_bytes_max >> 20);
}

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static uint64_t random_bits(void)
{
    uint64_t bits = 0;
    ssize_t n = getrandom(&bits, sizeof(bits), 0);
    assert(n == sizeof(bits)); /* never fails for so few bytes once the system is up */
    (void)n;
    return bits;
}

/* --- Prompts --- */

/* Tokens of a text prompt, into the arena. */
static enum err encode_prompt(const struct draft *draft, const struct completions_prompt *prompt,
                              const int32_t **tokens, int *n, struct err_info *info)
{
    const struct api *api = draft->api;
    int32_t *encoded = NULL;
    size_t n_encoded = 0;
    enum err err = tokenizer_encode(api->tokenizer, prompt->text, prompt->length, true, true,
                                    (size_t)api->ctx_size, &encoded, &n_encoded, info);
    if (err == ERR_LIMIT)
        return err_set_param(info, ERR_CAPACITY, "prompt",
                             "the prompt has more tokens than the context holds (%d; --ctx-size)",
                             api->ctx_size);
    if (err != ERR_OK) return err;
    int32_t *copy = arena_alloc(draft->arena, n_encoded > 0 ? n_encoded : 1, sizeof(*copy));
    if (copy && n_encoded > 0) memcpy(copy, encoded, n_encoded * sizeof(*copy));
    free(encoded);
    if (!copy) return no_room(info);
    *tokens = copy;
    *n = (int)n_encoded;
    return ERR_OK;
}

static enum err check_length(const struct draft *draft, int n, int *max_tokens, struct err_info *info)
{
    int room = draft->api->ctx_size - n;
    if (n == 0) return err_set_param(info, ERR_INVALID, "prompt", "the prompt has no tokens");
    if (!draft->params.max_tokens_given && room > 0 && *max_tokens > room) *max_tokens = room;
    if (*max_tokens <= room) return ERR_OK;
    return err_set_param(
        info, ERR_CAPACITY, "max_tokens",
        "the prompt has %d tokens and max_tokens is %d, together %lld, but the context holds "
        "%d (--ctx-size)",
        n, *max_tokens, (long long)n + *max_tokens, draft->api->ctx_size);
}

/* The text that echo repeats: the client's own, or that of its tokens. */
static enum err fill_echo(const struct draft *draft, const struct completions_prompt *prompt,
                          const int32_t *tokens, int n, struct completions_echo *echo, struct err_info *info)
{
    const struct tokenizer *tokenizer = draft->api->tokenizer;
    struct buf text;
    buf_init(&text, SIZE_MAX);
    if (prompt->text) {
        size_t bos_length = 0;
        const char *bos = tokenizer_bytes(tokenizer, tokens[0], &bos_length);
        bool spelled = prompt->length >= bos_length && memcmp(prompt->text, bos, bos_length) == 0;
        echo->has_bos = tokens[0] == tokenizer_bos(tokenizer) && !spelled;
        buf_append(&text, prompt->text, prompt->length);
    } else {
        struct detokenizer detokenizer = {0};
        for (int i = 0; i < n; i++) detokenizer_push(&detokenizer, tokenizer, tokens[i], false, &text);
        detokenizer_flush(&detokenizer, &text);
    }
    if (!text.failed) echo->text = arena_copy(draft->arena, text.data ? text.data : "", text.length);
    echo->length = text.length;
    buf_free(&text);
    return echo->text ? ERR_OK : no_room(info);
}

/* --- The request --- */

/* Output records of one choice. */
static bool init_records(const struct draft *draft, struct choice *choice)
{
    struct arena *arena = draft->arena;
    const struct completions_params *params = &draft->params;
    size_t n_top = params->sampler.n_logprobs > 0 ? (size_t)params->sampler.n_logprobs : 0;
    size_t n_output = (size_t)draft->request->max_tokens, n_prompt = (size_t)choice->n_prompt;
    choice->records = arena_alloc(arena, n_output > 0 ? n_output : 1, sizeof(*choice->records));
    bool fits = choice->records != NULL;
    if (n_top > 0 && n_output > 0) {
        choice->top = arena_alloc(arena, n_output * n_top, sizeof(*choice->top));
        fits = fits && choice->top;
    }
    if (!params->echo || params->sampler.n_logprobs < 0) return fits;
    choice->prompt_records = arena_alloc(arena, n_prompt, sizeof(*choice->prompt_records));
    fits = fits && choice->prompt_records;
    if (n_top > 0) {
        choice->prompt_top = arena_alloc(arena, n_prompt * n_top, sizeof(*choice->prompt_top));
        fits = fits && choice->prompt_top;
    }
    return fits;
}

/* The n choices of prompt p. With a seed, choice i draws with seed + i whatever else is in the request. */
static enum err init_prompt(const struct draft *draft, int p, int *max_tokens, struct err_info *info)
{
    const struct completions_params *params = &draft->params;
    const struct completions_prompt *prompt = &params->prompts[p];
    const int32_t *tokens = prompt->tokens;
    int n = prompt->n_tokens;
    enum err err = prompt->text ? encode_prompt(draft, prompt, &tokens, &n, info) : ERR_OK;
    if (err == ERR_OK) err = check_length(draft, n, max_tokens, info);
    if (err == ERR_OK && params->echo)
        err = fill_echo(draft, prompt, tokens, n, &draft->state->echoes[p], info);
    if (err != ERR_OK) return err;
    for (int i = 0; i < params->n; i++) {
        int index = p * params->n + i;
        struct choice *choice = &draft->request->choices[index];
        choice->request = draft->request;
        choice->index = index;
        choice->prompt = tokens;
        choice->n_prompt = n;
        choice->sampler = params->sampler;
        choice->sampler.seed = params->seeded ? params->sampler.seed + (uint64_t)i : random_bits();
    }
    return ERR_OK;
}

static enum err init_choices(struct draft *draft, struct err_info *info)
{
    struct request *request = draft->request;
    int max_tokens = draft->params.max_tokens;
    for (int p = 0; p < draft->params.n_prompts; p++) {
        enum err err = init_prompt(draft, p, &max_tokens, info);
        if (err != ERR_OK) return err;
    }
    request->max_tokens = max_tokens;
    for (int i = 0; i < request->n_choices; i++)
        if (!init_records(draft, &request->choices[i])) return no_room(info);
    return ERR_OK;
}

static enum err init_state(struct draft *draft, struct err_info *info)
{
    const struct completions_params *params = &draft->params;
    struct completions_state *state = arena_alloc(draft->arena, 1, sizeof(*state));
    struct api_stop *stop = arena_alloc(draft->arena, 1, sizeof(*stop));
    if (!state || !stop) return no_room(info);
    *stop = params->stop;
    *state = (struct completions_state){.created = (int64_t)time(NULL),
                                        .model = draft->api->model_name,
                                        .tokenizer = draft->api->tokenizer,
                                        .n = params->n,
                                        .include_usage = params->include_usage,
                                        .n_logprobs = params->sampler.n_logprobs,
                                        .echo = params->echo};
    if (params->echo) {
        state->echoes = arena_alloc(draft->arena, (size_t)params->n_prompts, sizeof(*state->echoes));
        if (!state->echoes) return no_room(info);
    }
    draft->state = state;
    draft->stop = stop;
    return ERR_OK;
}

static enum err make_request(struct draft *draft, int64_t arrival_us, struct err_info *info)
{
    const struct completions_params *params = &draft->params;
    struct request *request = arena_alloc(draft->arena, 1, sizeof(*request));
    if (!request) return no_room(info);
    draft->request = request;
    request->arena = draft->arena;
    atomic_store(&request->references, 1);
    snprintf(request->id, sizeof(request->id), "cmpl-%016llx%08x", (unsigned long long)random_bits(),
             (unsigned)random_bits());
    request->n_choices = params->n * params->n_prompts;
    request->choices = arena_alloc(draft->arena, (size_t)request->n_choices, sizeof(struct choice));
    if (!request->choices) return no_room(info);
    request->ignore_eos = params->ignore_eos;
    request->stop_tokens = params->stop_tokens;
    request->n_stop_tokens = params->n_stop_tokens;
    request->kv_format = draft->api->kv_format;
    request->arrival_us = arrival_us;
    enum err err = init_state(draft, info);
    if (err == ERR_OK) err = init_choices(draft, info);
    return err;
}

/* --- The handler --- */

struct deferral_context {
    struct engine *engine;
    struct request *request;
};

static void client_left(void *context)
{
    struct deferral_context *deferral = context;
    engine_cancel(deferral->engine, deferral->request);
}

static void call_over(void *context)
{
    struct deferral_context *deferral = context;
    request_release(deferral->request); /* the arena may go with it, and the context stands there */
}

/* The draft's arena now belongs to its request: from here on references rule. */
static void submit(struct draft *draft, struct http_call *call)
{
    struct request *request = draft->request;
    struct err_info info;
    struct deferral_context *context = arena_alloc(draft->arena, 1, sizeof(*context));
    enum err err = context ? courier_attach(request, call, &completions_format, draft->params.stream,
                                            draft->stop, draft->state, &info)
                           : no_room(&info);
    if (err != ERR_OK) {
        api_fail(call, &info, 0);
        request_release(request);
        return;
    }
    *context = (struct deferral_context){.engine = draft->api->engine, .request = request};
    /* First of all: the courier may reply before engine_submit returns. */
    http_defer(call, &(struct http_deferral){.left = client_left, .release = call_over, .context = context});
    int retry_after_s = 0;
    if (engine_submit(draft->api->engine, request, &retry_after_s, &info) != ERR_OK)
        api_fail(call, &info, retry_after_s);
}

/* What this file itself finds too long is too long for the context. */
static void refuse(const struct api *api, struct http_call *call, const struct err_info *info)
{
    bool capacity = info->code == ERR_CAPACITY;
    atomic_fetch_add(&api->metrics->requests[capacity ? OUTCOME_REJECTED_CAPACITY : OUTCOME_REJECTED_INVALID],
                     1);
    if (capacity)
        http_fail(call, 400, info->param, "context_length_exceeded", "%s", info->message);
    else
        api_fail(call, info, 0);
}

/* The server keeps one format for all requests. */
static enum err check_format(const struct api *api, const char *name, struct err_info *info)
{
    const char *served = kv_format_name(api->kv_format);
    if (!name || strcmp(name, served) == 0) return ERR_OK;
    return err_set_param(info, ERR_INVALID, "kv_format",
                         "kv_format '%.40s' is not served; this server has '%s'", name, served);
}

static void handle_body(struct api *api, struct http_call *call, const struct json *body, int64_t arrival_us)
{
    struct err_info info;
    struct draft draft = {.api = api, .arena = arena_create(arena_bytes_max)};
    enum err err = draft.arena ? ERR_OK : no_room(&info);
    if (err == ERR_OK)
        err =
            completions_parse(body, tokenizer_vocab_size(api->tokenizer), draft.arena, &draft.params, &info);
    if (err == ERR_OK) err = check_format(api, draft.params.kv_format, &info);
    if (err == ERR_OK && !api_has_model(api, call, draft.params.model)) {
        atomic_fetch_add(&api->metrics->requests[OUTCOME_REJECTED_INVALID], 1);
        arena_free(draft.arena);
        return;
    }
    if (err == ERR_OK) err = make_request(&draft, arrival_us, &info);
    if (err == ERR_OK) {
        submit(&draft, call);
        return;
    }
    refuse(api, call, &info);
    arena_free(draft.arena);
}

void completions_handle(struct http_call *call, void *context)
{
    struct api *api = context;
    int64_t arrival_us = now_us();
    struct json *body;
    if (!api_ready(api, call)) return;
    if (!api_body(api, call, &body)) {
        atomic_fetch_add(&api->metrics->requests[OUTCOME_REJECTED_INVALID], 1);
        return;
    }
    handle_body(api, call, body, arrival_us);
    json_free(body);
}
