#ifndef SERVER_COMPLETIONS_H
#define SERVER_COMPLETIONS_H

#include "config/arena.h"
#include "config/err.h"
#include "config/json.h"
#include "server/generation.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * POST /v1/completions: OpenAI's legacy endpoint, with the fields that vLLM and llama-server add.
 */
struct http_call;

/* A prompt is text or tokens; text is borrowed from the JSON tree. */
struct completions_prompt {
    const char *text; /* NULL: tokens */
    size_t length;
    struct generation_prompt tokens;
};

struct completions_params {
    struct generation_params common;
    const struct completions_prompt *prompts;
    int n_prompts;
    bool echo;
    int n_wanted;       /* of each prompt's common.n (best_of) choices, those that the client gets */
    const char *suffix; /* what follows the completion; NULL: none. Borrowed */
    size_t suffix_length;
};

extern const struct generation_defaults completions_defaults;

/* Checks every field that octavo knows and ignores the others. What it allocates comes from the arena.
   ERR_INVALID names the field. */
enum err completions_parse(const struct json *body, int n_vocab, const struct generation_defaults *defaults,
                           struct arena *arena, struct completions_params *out, struct err_info *info);

/* Just "prompt": a string, token ids, an array of either. */
enum err completions_parse_prompts(const struct json *body, int n_vocab, struct arena *arena,
                                   struct completions_params *out, struct err_info *info);

/* The handler; context is a struct api. */
void completions_handle(struct http_call *call, void *context);

/* How the reply looks; the state it wants in courier_reply.state: */
struct completions_state {
    struct generation_state common;
    int n_wanted;
    bool echo;
    struct completions_echo {
        const char *text;
        size_t length;
        bool has_bos; /* its first token stands for no text */
    } * echoes;       /* [prompts]; NULL without echo */
};
extern const struct courier_format completions_format;

#endif
