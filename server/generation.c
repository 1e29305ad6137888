#include "server/generation.h"

#include "cache/prefix.h"

#include "config/clock.h"
#include "server/api.h"
#include "server/constraint.h"
#include "server/engine.h"
#include "server/http_keys.h"
#include "server/marker.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* The most one request may take: prompts, records, logprobs. */
static const size_t arena_bytes_max = (size_t)64 << 20;

enum err generation_no_room(struct err_info *info)
{
    return err_set_param(info, ERR_LIMIT, "max_tokens",
                         "prompts, max_tokens, n and logprobs together need more than the %zu MiB that one "
                         "request may take",
                         arena_bytes_max >> 20);
}

static uint64_t random_bits(void)
{
    uint64_t bits = 0;
    ssize_t n = getrandom(&bits, sizeof(bits), 0);
    assert(n == sizeof(bits)); /* never fails for so few bytes once the system is up */
    (void)n;
    return bits;
}

/* --- For the kinds --- */

enum err generation_keep(const struct generation *generation, enum err encoded, int32_t *tokens, size_t n,
                         struct generation_prompt *out, struct err_info *info)
{
    int ctx_size = generation->api->ctx_size;
    if (encoded == ERR_LIMIT && info->param[0] == '\0')
        return err_set_param(info, ERR_CAPACITY, generation->kind->prompt_field,
                             "the prompt has more tokens than the context holds (%d; --ctx-size)", ctx_size);
    if (encoded != ERR_OK) return encoded;
    int32_t *copy = arena_alloc(generation->arena, n > 0 ? n : 1, sizeof(*copy));
    if (copy && n > 0) memcpy(copy, tokens, n * sizeof(*copy));
    free(tokens);
    if (!copy) return generation_no_room(info);
    *out = (struct generation_prompt){.tokens = copy, .n = (int)n};
    return ERR_OK;
}

struct generation_state generation_state(const struct generation *generation)
{
    struct generation_state state = {.created = (int64_t)time(NULL),
                                     .model = generation->api->model_name,
                                     .tokenizer = generation->api->tokenizer,
                                     .n = generation->params.n,
                                     .include_usage = generation->params.include_usage,
                                     .timings_per_token = generation->params.timings_per_token,
                                     .continuous_usage = generation->params.continuous_usage,
                                     .n_logprobs = generation->params.sampler.n_logprobs,
                                     .parsers = generation->parsers,
                                     .reasoning_parsers = generation->reasoning_parsers};
    if (state.parsers)
        state.n_shown = tools_shown_tokens(generation->tools->style, state.tokenizer, state.shown);
    if (state.reasoning_parsers)
        state.n_shown += marker_tokens(state.tokenizer, generation->reasoning.style->tags, REASONING_TAGS,
                                       state.shown + state.n_shown);
    return state;
}

/* --- The request --- */

/* The most tokens that can follow a prompt of n in the request's format. */
static int room_after(const struct generation *generation, int n)
{
    const struct api *api = generation->api;
    int most = api->ctx_size - n, least = 0;
    if (most > generation->params.max_tokens) most = generation->params.max_tokens;
    while (least < most) {
        int middle = most - (most - least) / 2;
        struct engine_capacity capacity;
        engine_capacity(api->engine, generation->request->kv_format, n + middle - 1, &capacity);
        if (capacity.fitting > 0)
            least = middle;
        else
            most = middle - 1;
    }
    return least;
}

static enum err check_length(const struct generation *generation, int n, int *max_tokens,
                             struct err_info *info)
{
    const char *field = generation->kind->prompt_field;
    int ctx_size = generation->api->ctx_size;
    if (n == 0) return err_set_param(info, ERR_INVALID, field, "the prompt has no tokens");
    if (!generation->params.max_tokens_given && n < ctx_size) {
        int room = room_after(generation, n);
        if (room > 0 && *max_tokens > room) *max_tokens = room;
    }
    if (*max_tokens <= ctx_size - n) return ERR_OK;
    if (!generation->params.max_tokens_given)
        return err_set_param(
            info, ERR_CAPACITY, field,
            "the prompt has %d tokens and leaves no room for an answer: the context holds %d "
            "(--ctx-size)",
            n, ctx_size);
    return err_set_param(
        info, ERR_CAPACITY, "max_tokens",
        "the prompt has %d tokens and max_tokens is %d, together %lld, but the context holds "
        "%d (--ctx-size)",
        n, *max_tokens, (long long)n + *max_tokens, ctx_size);
}

/* Output records of one choice. */
static bool init_records(const struct generation *generation, struct choice *choice)
{
    struct arena *arena = generation->arena;
    const struct sampler_params *sampler = &generation->params.sampler;
    size_t n_top = sampler->n_logprobs > 0 ? (size_t)sampler->n_logprobs : 0;
    size_t n_output = (size_t)generation->request->max_tokens, n_prompt = (size_t)choice->n_prompt;
    choice->records = arena_alloc(arena, n_output > 0 ? n_output : 1, sizeof(*choice->records));
    bool fits = choice->records != NULL;
    if (n_top > 0 && n_output > 0) {
        choice->top = arena_alloc(arena, n_output * n_top, sizeof(*choice->top));
        fits = fits && choice->top;
    }
    if (!generation->score_prompts) return fits;
    choice->prompt_records = arena_alloc(arena, n_prompt, sizeof(*choice->prompt_records));
    fits = fits && choice->prompt_records;
    if (n_top > 0) {
        choice->prompt_top = arena_alloc(arena, n_prompt * n_top, sizeof(*choice->prompt_top));
        fits = fits && choice->prompt_top;
    }
    return fits;
}

/* The n choices of prompt p. With a seed, choice i draws with seed + i whatever else is in the request. */
static void init_prompt(const struct generation *generation, int p)
{
    const struct generation_params *params = &generation->params;
    for (int i = 0; i < params->n; i++) {
        int index = p * params->n + i;
        struct choice *choice = &generation->request->choices[index];
        choice->request = generation->request;
        choice->index = index;
        choice->prompt = generation->prompts[p].tokens;
        choice->n_prompt = generation->prompts[p].n;
        choice->sampler = params->sampler;
        /* One that a client can send back to get the same again. */
        uint64_t drawn = random_bits() >> 11;
        choice->sampler.seed = params->seeded ? params->sampler.seed + (uint64_t)i : drawn;
    }
}

static enum err init_choices(struct generation *generation, struct err_info *info)
{
    struct request *request = generation->request;
    int max_tokens = generation->params.max_tokens;
    request->n_choices = generation->params.n * generation->n_prompts;
    request->choices = arena_alloc(generation->arena, (size_t)request->n_choices, sizeof(struct choice));
    if (!request->choices) return generation_no_room(info);
    for (int p = 0; p < generation->n_prompts; p++) {
        enum err err = check_length(generation, generation->prompts[p].n, &max_tokens, info);
        if (err != ERR_OK) return err;
        init_prompt(generation, p);
    }
    request->max_tokens = max_tokens;
    for (int i = 0; i < request->n_choices; i++)
        if (!init_records(generation, &request->choices[i])) return generation_no_room(info);
    return ERR_OK;
}

static enum err make_request(struct generation *generation, const struct kv_format *format,
                             int64_t arrival_us, struct err_info *info)
{
    const struct generation_params *params = &generation->params;
    struct request *request = arena_alloc(generation->arena, 1, sizeof(*request));
    if (!request) return generation_no_room(info);
    generation->request = request;
    request->arena = generation->arena;
    atomic_store(&request->references, 1);
    snprintf(request->id, sizeof(request->id), "%s%016llx%08x", generation->kind->id_prefix,
             (unsigned long long)random_bits(), (unsigned)random_bits());
    request->ignore_eos = params->ignore_eos;
    request->return_progress = params->return_progress;
    request->grammar = generation->grammar;
    request->stop_tokens = params->stop_tokens;
    request->n_stop_tokens = params->n_stop_tokens;
    request->kv_format = format->index;
    request->arrival_us = arrival_us;
    request->priority = params->priority;
    request->timeout_us = params->timeout_ms * 1000;
    if (params->cache_salt)
        request->cache_salt = kv_prefix_seed(params->cache_salt, strlen(params->cache_salt)).low;
    /* Without keys of its own the server takes what clients send for a name. */
    const struct http_tenant *tenant = generation->tenant;
    request->tenant_number = tenant ? tenant->number : -1;
    if (tenant)
        request->tenant = tenant->id;
    else if (generation->key)
        request->tenant = kv_prefix_seed(generation->key, strlen(generation->key)).low;
    enum err err = generation->kind->prepare(generation, info);
    if (err == ERR_OK) err = init_choices(generation, info);
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

static void fail(const struct generation *generation, struct http_call *call, struct err_info *info,
                 int retry_after_s)
{
    if (generation->translated) generation->kind->rename(info);
    api_fail(call, info, retry_after_s);
}

/* The arena now belongs to its request: from here on references rule. */
static void submit(struct generation *generation, struct http_call *call)
{
    struct request *request = generation->request;
    struct err_info info;
    struct deferral_context *context = arena_alloc(generation->arena, 1, sizeof(*context));
    struct api_stop *stop = arena_alloc(generation->arena, 1, sizeof(*stop));
    if (stop) *stop = generation->params.stop;
    const struct courier_order order = {.format = generation->kind->format,
                                        .stream = generation->params.stream,
                                        .places = generation->reasoning_parsers != NULL,
                                        .stop = stop,
                                        .state = generation->state};
    enum err err = context && stop ? courier_attach(request, call, &order, &info) : generation_no_room(&info);
    if (err != ERR_OK) {
        fail(generation, call, &info, 0);
        request_release(request);
        return;
    }
    struct engine *engine = generation->api->engine;
    *context = (struct deferral_context){.engine = engine, .request = request};
    /* First of all: the courier may reply before engine_submit returns. */
    http_defer(call, &(struct http_deferral){.left = client_left, .release = call_over, .context = context});
    int retry_after_s = 0;
    if (engine_submit(engine, request, &retry_after_s, &info) != ERR_OK)
        fail(generation, call, &info, retry_after_s);
}

/* What this file itself finds too long is too long for the context. */
static void refuse(const struct generation *generation, struct http_call *call, struct err_info *info)
{
    const struct api *api = generation->api;
    bool capacity = info->code == ERR_CAPACITY;
    if (generation->translated) generation->kind->rename(info);
    atomic_fetch_add(&api->metrics->requests[capacity ? OUTCOME_REJECTED_CAPACITY : OUTCOME_REJECTED_INVALID],
                     1);
    if (capacity)
        http_fail(call, 400, info->param, "context_length_exceeded", "%s", info->message);
    else
        api_fail(call, info, 0);
}

/* The format of the request's cache: the server's default, or another one of those it was started with. */
static enum err choose_format(const struct generation *generation, const struct kv_format **out,
                              struct err_info *info)
{
    const struct kv_formats *formats = generation->api->formats;
    const char *name = generation->params.kv_format;
    char list[KV_FORMAT_LIST_BYTES];
    *out = name ? kv_formats_find(formats, name) : kv_formats_at(formats, 0);
    if (*out) return ERR_OK;
    kv_formats_list(formats, list, sizeof(list));
    return err_set_param(info, ERR_INVALID, "kv_format",
                         "kv_format '%.40s' is not served; this server was started with %s", name, list);
}

static void handle_body(struct generation *generation, struct http_call *call, const struct json *body,
                        int64_t arrival_us)
{
    struct api *api = generation->api;
    const struct kv_format *format = NULL;
    struct err_info info;
    generation->arena = arena_create(arena_bytes_max);
    enum err err = generation->arena ? ERR_OK : generation_no_room(&info);
    if (err == ERR_OK) err = generation->kind->parse(generation, body, &info);
    if (generation->params.timeout_ms == 0) generation->params.timeout_ms = generation->timeout_ms;
    if (err == ERR_OK) err = choose_format(generation, &format, &info);
    if (err == ERR_OK && !api_has_model(api, call, generation->params.model)) {
        atomic_fetch_add(&api->metrics->requests[OUTCOME_REJECTED_INVALID], 1);
        arena_free(generation->arena);
        return;
    }
    if (err == ERR_OK)
        err = constraint_get(api->constraints, generation->translated ? generation->translated : body,
                             generation->tools, &generation->reasoning, &generation->grammar, &info);
    if (err == ERR_OK && generation->tools) generation->tools->constrained = true;
    if (err == ERR_OK) err = make_request(generation, format, arrival_us, &info);
    if (err == ERR_OK) {
        submit(generation, call);
        return;
    }
    refuse(generation, call, &info);
    grammar_release(generation->grammar); /* the request, if there is one, goes with the arena */
    arena_free(generation->arena);
}

/* X-Request-Timeout, in seconds. */
static bool header_timeout(const char *text, int64_t *timeout_ms)
{
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end != '\0' || !(seconds > 0 && seconds <= 86400)) return false;
    *timeout_ms = (int64_t)(seconds * 1000) + 1;
    return true;
}

void generation_handle(struct http_call *call, struct api *api, const struct generation_kind *kind)
{
    int64_t arrival_us = clock_us();
    struct json *body;
    if (!api_ready(api, call)) return;
    if (!api_body(api, call, &body)) {
        atomic_fetch_add(&api->metrics->requests[OUTCOME_REJECTED_INVALID], 1);
        return;
    }
    struct generation generation = {
        .api = api, .kind = kind, .key = http_call_key(call), .tenant = http_call_tenant(call)};
    const char *timeout = http_call_header(call, "X-Request-Timeout");
    if (timeout && !header_timeout(timeout, &generation.timeout_ms)) {
        atomic_fetch_add(&api->metrics->requests[OUTCOME_REJECTED_INVALID], 1);
        http_fail(call, 400, "X-Request-Timeout", NULL,
                  "the header X-Request-Timeout must be a number of seconds, more than 0 and at most 86400");
        json_free(body);
        return;
    }
    handle_body(&generation, call, body, arrival_us);
    json_free(generation.translated);
    json_free(body);
}
