#ifndef SERVER_COMPLETIONS_H
#define SERVER_COMPLETIONS_H

#include "config/arena.h"
#include "config/err.h"
#include "config/json.h"
#include "model/sampler.h"
#include "server/api_stop.h"
#include "server/courier.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * POST /v1/completions: OpenAI's legacy endpoint, with the fields that vLLM and llama-server add.
 */
struct http_call;

/* A prompt is text or tokens; text is borrowed from the JSON tree. */
struct completions_prompt {
    const char *text; /* NULL: tokens */
    size_t length;
    const int32_t *tokens;
    int n_tokens;
};

struct completions_params {
    const char *model; /* NULL: not given */
    const char *kv_format;
    const struct completions_prompt *prompts;
    int n_prompts;
    int n; /* choices of each prompt */
    int max_tokens;
    bool max_tokens_given;
    bool stream, include_usage, echo, ignore_eos;
    bool seeded;                   /* else draw one */
    struct sampler_params sampler; /* n_logprobs -1: none */
    struct api_stop stop;
    const int32_t *stop_tokens;
    int n_stop_tokens;
};

enum {
    COMPLETIONS_MAX_N = 128,
    COMPLETIONS_MAX_CHOICES = 1024, /* n * prompts */
    COMPLETIONS_DEFAULT_MAX_TOKENS = 16,
    COMPLETIONS_MAX_BIAS = 1024,
    COMPLETIONS_MAX_STOP_TOKENS = 256,
};

/* Checks every field that octavo knows and ignores the others. What it allocates comes from the arena.
   ERR_INVALID names the field. */
enum err completions_parse(const struct json *body, int n_vocab, struct arena *arena,
                           struct completions_params *out, struct err_info *info);

/* The handler; context is a struct api. */
void completions_handle(struct http_call *call, void *context);

/* How the reply looks; the state it wants in courier_reply.state: */
struct completions_state {
    int64_t created; /* Unix time, s */
    const char *model;
    const struct tokenizer *tokenizer;
    int n; /* choice i belongs to prompt i / n */
    bool include_usage;
    int n_logprobs;
    bool echo;
    struct completions_echo {
        const char *text;
        size_t length;
        bool has_bos; /* its first token stands for no text */
    } * echoes;       /* [prompts]; NULL without echo */
};
extern const struct courier_format completions_format;

#endif
