#include "tests/unit/support/engine_fixture.h"

#include "model/grammar_text.h"
#include "tests/unit/support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(enum err err, const struct err_info *info)
{
    if (err == ERR_OK) return;
    fprintf(stderr, "engine fixture: %s\n", info->message);
    abort();
}

/* What the courier keeps for a request, in its arena. */
struct client {
    int *n_read; /* [n_choices] */
    bool over;   /* under the fixture's lock */
};

/* True when every choice has finished. */
static bool read_request(struct request *request)
{
    struct client *client = request->http_state;
    bool over = true;
    for (int i = 0; i < request->n_choices; i++) {
        struct choice *choice = &request->choices[i];
        int finish = atomic_load(&choice->finish);
        int n_ready = atomic_load(&choice->n_ready);
        for (; client->n_read[i] < n_ready; client->n_read[i]++) {
            if (choice->records[client->n_read[i]].token < 0) abort();
        }
        over = over && finish != FINISH_NONE;
    }
    return over;
}

/* Look at a list of requests, tell the clients of those that are over, and let go of them. */
static void take_news(struct engine_fixture *fixture, struct request *request)
{
    while (request != NULL) {
        struct request *next = request->next_news;
        atomic_exchange(&request->in_news, false);
        if (read_request(request)) {
            struct client *client = request->http_state;
            pthread_mutex_lock(&fixture->lock);
            client->over = true;
            pthread_cond_broadcast(&fixture->over);
            pthread_mutex_unlock(&fixture->lock);
        }
        request_release(request);
        request = next;
    }
}

static void *courier_run(void *context)
{
    struct engine_fixture *fixture = context;
    pthread_mutex_lock(&fixture->lock);
    for (;;) {
        while (fixture->first == NULL && !fixture->closing) pthread_cond_wait(&fixture->news, &fixture->lock);
        struct request *request = fixture->first;
        fixture->first = NULL;
        if (request == NULL) break;
        pthread_mutex_unlock(&fixture->lock);
        take_news(fixture, request);
        pthread_mutex_lock(&fixture->lock);
    }
    pthread_mutex_unlock(&fixture->lock);
    return NULL;
}

static void deliver(void *context, struct request *first)
{
    struct engine_fixture *fixture = context;
    struct request *last = first;
    if (fixture->on_deliver != NULL) {
        fixture->on_deliver();
        take_news(fixture, first);
        return;
    }
    while (last->next_news != NULL) last = last->next_news;
    pthread_mutex_lock(&fixture->lock);
    last->next_news = fixture->first;
    fixture->first = first;
    pthread_cond_signal(&fixture->news);
    pthread_mutex_unlock(&fixture->lock);
}

void engine_fixture_start(struct engine_fixture *fixture, struct engine_options options)
{
    struct tiny_model tiny = tiny_model_default();
    struct err_info info;
    size_t length = 0;

    fixture->bytes = tiny_model_bytes(&tiny, &length);
    must(gguf_open_memory(fixture->bytes, length, &fixture->gguf, &info), &info);
    must(tokenizer_create(fixture->gguf, &fixture->tokenizer, &info), &info);
    must(grammar_vocabulary_create(fixture->tokenizer, &fixture->vocabulary, &info), &info);
    must(workers_create(2, &fixture->workers, &info), &info);
    must(backend_cpu_create(fixture->workers, "auto", &fixture->backend, &info), &info);
    if (options.parallel == 0) options.parallel = 16;
    if (options.max_batch_tokens == 0) options.max_batch_tokens = 512;
    if (options.max_logits == 0) options.max_logits = options.parallel;
    if (options.ctx_size == 0) options.ctx_size = 1024;
    if (options.kv_bytes == 0) options.kv_bytes = (size_t)64 << 20;
    if (options.max_queue == 0) options.max_queue = 1000;
    if (options.step_target_ms == 0) options.step_target_ms = -1;
    must(model_load(fixture->gguf, fixture->backend, options.max_batch_tokens, options.max_logits,
                    &fixture->model, &info),
         &info);
    struct kv_shape shape;
    model_kv_shape(fixture->model, &shape);
    must(kv_formats_create(&shape, ENGINE_FIXTURE_FORMATS, NULL, options.ctx_size / KV_FRAME_TOKENS + 1,
                           model_inv_freq(fixture->model), &fixture->formats, &info),
         &info);
    memset(&fixture->metrics, 0, sizeof fixture->metrics);
    options.formats = fixture->formats;
    options.backend = fixture->backend;
    options.workers = fixture->workers;
    options.model = fixture->model;
    options.tokenizer = fixture->tokenizer;
    options.vocabulary = fixture->vocabulary;
    options.metrics = &fixture->metrics;
    options.deliver = deliver;
    options.deliver_context = fixture;
    fixture->options = options;
    fixture->first = NULL;
    fixture->closing = false;
    pthread_mutex_init(&fixture->lock, NULL);
    pthread_cond_init(&fixture->news, NULL);
    pthread_cond_init(&fixture->over, NULL);
    if (pthread_create(&fixture->courier, NULL, courier_run, fixture) != 0) abort();
    must(engine_create(&options, &fixture->engine, &info), &info);
}

void engine_fixture_stop_engine(struct engine_fixture *fixture)
{
    engine_free(fixture->engine);
    fixture->engine = NULL;
}

void engine_fixture_stop(struct engine_fixture *fixture)
{
    engine_fixture_stop_engine(fixture);
    pthread_mutex_lock(&fixture->lock);
    fixture->closing = true;
    pthread_cond_signal(&fixture->news);
    pthread_mutex_unlock(&fixture->lock);
    pthread_join(fixture->courier, NULL);
    pthread_cond_destroy(&fixture->news);
    pthread_cond_destroy(&fixture->over);
    pthread_mutex_destroy(&fixture->lock);
    kv_formats_free(fixture->formats);
    model_free(fixture->model);
    fixture->backend->destroy(fixture->backend);
    workers_free(fixture->workers);
    grammar_vocabulary_free(fixture->vocabulary);
    tokenizer_free(fixture->tokenizer);
    gguf_close(fixture->gguf);
    free(fixture->bytes);
}

static void *need(void *memory)
{
    if (memory == NULL) abort();
    return memory;
}

struct request *engine_fixture_request(uint64_t seed, int n_prompt, int max_tokens, int n_choices,
                                       bool scored)
{
    struct arena *arena = need(arena_create((size_t)16 << 20));
    struct request *request = need(arena_alloc(arena, 1, sizeof *request));
    struct client *client = need(arena_alloc(arena, 1, sizeof *client));
    int32_t *prompt = need(arena_alloc(arena, (size_t)n_prompt + 1, sizeof *prompt));
    uint64_t random = seed;

    for (int i = 0; i < n_prompt; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        prompt[i] = (int32_t)((random >> 33) % 256);
    }
    client->n_read = need(arena_alloc(arena, (size_t)n_choices, sizeof *client->n_read));
    request->arena = arena;
    request->http_state = client;
    request->n_choices = n_choices;
    request->max_tokens = max_tokens;
    request->choices = need(arena_alloc(arena, (size_t)n_choices, sizeof *request->choices));
    atomic_store(&request->references, 1);
    for (int i = 0; i < n_choices; i++) {
        struct choice *choice = &request->choices[i];
        choice->request = request;
        choice->index = i;
        choice->prompt = prompt;
        choice->n_prompt = n_prompt;
        choice->sampler = (struct sampler_params){
            .top_p = 1, .repetition_penalty = 1, .seed = seed + (uint64_t)i, .n_logprobs = 0};
        choice->records = need(arena_alloc(arena, (size_t)max_tokens + 1, sizeof *choice->records));
        if (scored)
            choice->prompt_records = need(arena_alloc(arena, (size_t)n_prompt, sizeof *choice->records));
    }
    return request;
}

void engine_fixture_constrain(struct engine_fixture *fixture, struct request *request, const char *gbnf)
{
    struct grammar_builder *builder = need(grammar_builder_create(&grammar_limits_default));
    struct err_info info;
    int root = -1;
    must(grammar_gbnf(builder, gbnf, strlen(gbnf), &root, &info), &info);
    must(grammar_build(builder, root, fixture->vocabulary, &request->grammar, &info), &info);
    grammar_builder_free(builder);
}

enum err engine_fixture_submit(struct engine_fixture *fixture, struct request *request)
{
    struct err_info info;
    int retry_after_s = 0;
    return engine_submit(fixture->engine, request, &retry_after_s, &info);
}

void engine_fixture_wait(struct engine_fixture *fixture, struct request *request)
{
    struct client *client = request->http_state;
    pthread_mutex_lock(&fixture->lock);
    while (!client->over) pthread_cond_wait(&fixture->over, &fixture->lock);
    pthread_mutex_unlock(&fixture->lock);
}

bool engine_fixture_at_rest(struct engine_fixture *fixture)
{
    struct metrics *metrics = &fixture->metrics;
    uint64_t kv = atomic_load(&metrics->stored_values);
    for (int format = 0; format < FIXTURE_FORMATS; format++) {
        for (int kind = 0; kind < METRICS_KV_KINDS; kind++)
            kv += atomic_load(&metrics->kv_bytes[format][kind]);
    }
    return engine_idle(fixture->engine) && kv == 0 && atomic_load(&metrics->waiting) == 0 &&
           atomic_load(&metrics->running) == 0 &&
           atomic_load(&metrics->pool_free_bytes) == atomic_load(&metrics->pool_budget_bytes);
}
