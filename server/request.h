#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H

#include "config/arena.h"
#include "model/grammar.h"
#include "model/sampler.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * A request: the message between HTTP threads, the engine thread and the courier.
 *
 * An HTTP thread makes it (everything in its arena), engine_submit hands it to the engine. The engine writes
 * tokens into each choice's own record array, sized for all it can produce, and publishes how many are ready;
 * so neither side ever waits for the other and a slow reader costs nothing but its own request.
 * Reference-counted: the HTTP side holds one reference, the engine one while it runs; the last
 * request_release frees the arena.
 */

enum finish_reason {
    FINISH_NONE = 0,
    FINISH_STOP,      /* end token or stop token; it is the last record, counted and with its logprob. Or the
                         grammar lets nothing follow: the last record is text like any other */
    FINISH_LENGTH,    /* max_tokens, or the context is full */
    FINISH_CANCELLED, /* the client left, or the courier saw a stop string */
    FINISH_ERROR,     /* the server gave up on it: shutdown, deadline, a grammar that the vocabulary cannot
                         follow; `error` says why */
};

struct token_record {
    int32_t token;
    float logprob;
};

struct token_top {
    int32_t token;
    float logprob;
};

/* One sequence: choice number `index` of the reply. */
struct choice {
    struct request *request;
    int index;
    const int32_t *prompt;
    int n_prompt;
    int n_cached; /* of the prompt, tokens that were in the prefix cache; written by the engine before the
                     first token */
    _Atomic int n_processed; /* of the prompt, tokens in the cache, n_cached too; with return_progress */
    struct sampler_params sampler; /* seed differs per choice */

    /* Output, written by the engine, read by the courier up to n_ready. */
    struct token_record *records; /* [max_tokens] */
    struct token_top *top;        /* [max_tokens][n_logprobs], NULL when n_logprobs <= 0; token -1: none */
    /* Echo with logprobs: of prompt tokens 1..n_prompt-1 given those before; entry 0 is unused. NULL: not
     * asked. */
    struct token_record *prompt_records; /* [n_prompt] */
    struct token_top *prompt_top;        /* [n_prompt][n_logprobs] */
    _Atomic int n_ready;
    _Atomic int finish; /* enum finish_reason, published after the last record */

    void *engine_state; /* the engine's own */
    void *http_state;   /* the courier's own */
};

struct request {
    struct arena *arena;
    char id[48]; /* "cmpl-..." */
    _Atomic int references;
    _Atomic bool cancelled; /* set by engine_cancel; the engine drops it at its next step */
    _Atomic bool satisfied; /* set by the courier before engine_cancel when the reply is complete (stop
                               strings): the engine counts OUTCOME_OK, not OUTCOME_CANCELLED */
    int n_choices;
    struct choice *choices;
    int max_tokens;  /* per choice; 0 is allowed: prompt scoring only */
    bool ignore_eos; /* end tokens are tokens like others; with a grammar: none while anything else can follow
                      */
    bool return_progress;    /* news after each step of a prompt too */
    struct grammar *grammar; /* that rules each choice's text; a reference, the last release gives it back.
                                NULL: none does */
    const int32_t *stop_tokens;
    int n_stop_tokens;
    int kv_format;       /* index in the server's set */
    int priority;        /* lower runs earlier */
    uint64_t tenant;     /* who shares the server's time with whom: a hash of the API key; 0: nobody */
    int tenant_number;   /* in the metrics; -1: none */
    uint64_t cache_salt; /* only requests with the same one share cached prefixes */
    int64_t timeout_us;  /* from arrival until it fails; 0: never */
    int64_t arrival_us;  /* monotonic */
    _Atomic int64_t first_token_us; /* 0 until then; for metrics */
    struct err_info error;          /* with FINISH_ERROR */

    struct request *next_news; /* the courier's queue (engine_options.deliver) */
    _Atomic bool in_news;
    void *http_state;
    void (*http_release)(
        struct request *request); /* called by the last release, before the arena goes; may be NULL */
};

void request_retain(struct request *request);
void request_release(struct request *request);

#endif
