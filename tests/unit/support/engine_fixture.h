#ifndef SUPPORT_ENGINE_FIXTURE_H
#define SUPPORT_ENGINE_FIXTURE_H

#include "kernels/workers.h"
#include "server/engine.h"

#include <pthread.h>

/*
 * An engine on a tiny model, with a courier thread that does what the server's own does: takes the lists of
 * news, reads what is ready, and tells clients when their request is over. Every failure aborts.
 */
struct engine_fixture {
    void *bytes;
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    struct grammar_vocabulary *vocabulary;
    struct workers *workers;
    struct backend *backend;
    struct model *model;
    struct kv_formats *formats;
    struct metrics metrics;
    struct engine_options options; /* as the engine was created */
    struct engine *engine;
    pthread_t courier;
    pthread_mutex_t lock;
    pthread_cond_t news, over;
    struct request *first;
    bool closing;
    /* When not NULL: called on the engine thread at every delivery, and the news are taken right there, so
       that every step with news comes by. */
    void (*on_deliver)(void);
};

/* The formats of every fixture: f16, one without and two with refinement of recent blocks, by index. */
#define ENGINE_FIXTURE_FORMATS "f16,o4,o2,k3v1.5"
enum { FIXTURE_F16, FIXTURE_O4, FIXTURE_O2, FIXTURE_K3V1_5, FIXTURE_FORMATS };

/* options: backend, workers, model, tokenizer, formats, metrics and deliver are filled in; zero limits get
   small ones. */
void engine_fixture_start(struct engine_fixture *fixture, struct engine_options options);
/* Frees the engine (unfinished requests end with FINISH_ERROR), the courier, the model. */
void engine_fixture_stop(struct engine_fixture *fixture);
/* The pieces of it: the engine alone, so that requests can be looked at afterwards. */
void engine_fixture_stop_engine(struct engine_fixture *fixture);

/* A greedy request of n_choices times a prompt of n_prompt tokens that depends on `seed` alone; the caller
   holds one reference. scored: prompt_records are asked for. */
struct request *engine_fixture_request(uint64_t seed, int n_prompt, int max_tokens, int n_choices,
                                       bool scored);
/* The request's text becomes what the language of this notation (GBNF) allows. */
void engine_fixture_constrain(struct engine_fixture *fixture, struct request *request, const char *gbnf);
enum err engine_fixture_submit(struct engine_fixture *fixture, struct request *request);
/* Until the courier has seen every choice finish. */
void engine_fixture_wait(struct engine_fixture *fixture, struct request *request);
/* Whether all gauges are zero and the pool is free. */
bool engine_fixture_at_rest(struct engine_fixture *fixture);

#endif
