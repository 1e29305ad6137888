#ifndef SERVER_GENERATION_H
#define SERVER_GENERATION_H

#include "config/arena.h"
#include "config/err.h"
#include "config/json.h"
#include "model/sampler.h"
#include "server/api_stop.h"
#include "server/courier.h"
#include "server/reasoning.h"
#include "server/tools.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * What every endpoint that generates text has in common: fields, the way from a body to a request in the
 * engine, the parts of the reply that look alike. An endpoint is a struct generation_kind.
 */
struct api;
struct http_call;

struct generation_prompt {
    const int32_t *tokens;
    int n;
};

/* The fields that all endpoints take. */
struct generation_params {
    const char *model; /* NULL: not given */
    const char *kv_format;
    const char *cache_salt; /* NULL: none */
    int priority;           /* as in vLLM: lower runs earlier */
    int64_t timeout_ms;     /* 0: none */
    int n;                  /* choices of each prompt */
    int max_tokens;
    bool max_tokens_given; /* else as much as fits, up to max_tokens */
    bool stream, include_usage, continuous_usage, ignore_eos, timings_per_token, return_progress;
    bool seeded;                   /* else draw one */
    struct sampler_params sampler; /* n_logprobs -1: none */
    struct api_stop stop;
    const int32_t *stop_tokens;
    int n_stop_tokens;
};

/* What a request gets that does not say. */
struct generation_defaults {
    double temperature, top_p, min_p;
    int top_k;
    int64_t seed;   /* -1: drawn */
    int max_tokens; /* if that much fits */
};
/* An endpoint's own ones, with those over them that the server was started with (api->defaults). */
struct generation_defaults generation_defaults(const struct api *api, struct generation_defaults own);

enum {
    GENERATION_MAX_N = 128,
    GENERATION_MAX_CHOICES = 1024, /* n * prompts */
    GENERATION_MAX_BIAS = 1024,
    GENERATION_MAX_STOP_TOKENS = 256,
    GENERATION_MAX_SHOWN = TOOLS_MAX_SHOWN + REASONING_TAGS,
};

/* Checks them; logprobs, whose meaning differs, is left at none. What it allocates comes from the arena.
   ERR_INVALID names the field. */
enum err generation_parse(const struct json *body, int n_vocab, const struct generation_defaults *defaults,
                          struct arena *arena, struct generation_params *out, struct err_info *info);
enum err generation_parse_object(const struct json *body, struct err_info *info);
/* An array of token ids; path names it ("prompt[3]"). */
enum err generation_parse_tokens(const struct json *array, const char *path, int n_vocab, struct arena *arena,
                                 struct generation_prompt *out, struct err_info *info);

/* One request while its handler makes it; all of it stands in the arena. */
struct generation {
    struct api *api;
    struct arena *arena;
    const struct generation_kind *kind;
    struct generation_params params;
    void *own;                        /* the kind's */
    const char *key;                  /* the client's, or NULL */
    const struct http_tenant *tenant; /* whose key it is, or NULL */
    int64_t timeout_ms;               /* of the header; the body's comes first */

    struct json *translated; /* the body in another kind's form; freed with the body */

    struct tools *tools;           /* what a chat offers; NULL: none. Set by parse, and by prepare: */
    struct tools_parser **parsers; /* [n] the choices'; NULL: replies hold no calls */
    struct reasoning reasoning;    /* of a chat, set by parse; likewise: */
    struct reasoning_parser **reasoning_parsers; /* [n]; NULL: replies hold no thoughts */

    /* Set by prepare: */
    const struct generation_prompt *prompts;
    int n_prompts;
    bool score_prompts; /* logprobs of the prompts' tokens are wanted */
    void *state;        /* of the reply's format; begins with a struct generation_state */

    struct grammar *grammar; /* until the request has it; NULL: any text will do */
    struct request *request;
};

struct generation_kind {
    const char *id_prefix;    /* "cmpl-" */
    const char *prompt_field; /* for messages: "prompt" */
    const struct courier_format *format;
    /* Fills in params and own. */
    enum err (*parse)(struct generation *generation, const struct json *body, struct err_info *info);
    enum err (*prepare)(struct generation *generation, struct err_info *info);
    /* Of a kind that translates: gives an error found after that the names of the endpoint's own fields. */
    void (*rename)(struct err_info *info);
};

/* The handler of a kind. */
void generation_handle(struct http_call *call, struct api *api, const struct generation_kind *kind);

/* The arena is full. */
enum err generation_no_room(struct err_info *info);
/* Moves tokens that an encoder gave (malloc'ed, at most ctx_size of them) with its result into the arena. An
   ERR_LIMIT without a field means that they are too many for the context. */
enum err generation_keep(const struct generation *generation, enum err encoded, int32_t *tokens, size_t n,
                         struct generation_prompt *out, struct err_info *info);

/* How replies look. */
struct generation_state {
    int64_t created; /* Unix time, s */
    const char *model;
    const struct tokenizer *tokenizer;
    int n; /* choice i belongs to prompt i / n */
    bool include_usage, continuous_usage;
    bool timings_per_token;
    int n_logprobs;
    struct tools_parser **parsers;               /* [n] of a chat whose replies may hold calls, else NULL */
    struct reasoning_parser **reasoning_parsers; /* [n] of one whose replies may hold thoughts, else NULL */
    int n_shown;
    int32_t shown[GENERATION_MAX_SHOWN]; /* control tokens that the parsers want to see */
};
struct generation_state generation_state(const struct generation *generation);
/* For formats: shows the control tokens of the state. */
bool generation_shows(const struct courier_reply *reply, int32_t token);
/* More text of a choice (all formats whose replies may hold thoughts or calls): as events. */
void generation_read_piece(const struct courier_piece *piece, tools_emit *emit, void *context);
/* Of a choice's tokens, those that are thoughts and their tags. */
int generation_reasoning_tokens(const struct courier_choice *choice);
/* Calls so far. */
int generation_calls(const struct courier_choice *choice);

/* Parts of replies (generation_reply.c). */

/* {"id":...,"object":...,"created":...,"model":...,"choices":[ */
void generation_print_head(struct buf *out, const struct courier_reply *reply, const char *object);
/* "usage":{...}. A prompt counts once, however many choices it has. */
void generation_print_usage(struct buf *out, const struct courier_reply *reply);
/* "timings":{...} of a choice so far, as llama-server has them; and the same with a comma before it where
   timings_per_token asks for it. */
void generation_print_timings(struct buf *out, const struct courier_choice *choice);
void generation_print_timings_given(struct buf *out, const struct courier_choice *choice);
/* "prompt_progress":{...}, with timings where they are asked for: n tokens of the choice's prompt are read.
 */
void generation_print_progress(struct buf *out, const struct courier_choice *choice, int n);
/* The end of an event: "usage", which is null or what it has come to, if it is wanted. */
void generation_print_event_end(struct buf *out, const struct courier_reply *reply);
/* The last events of a stream: usage if it is wanted, [DONE]. */
void generation_print_stream_end(struct buf *out, const struct courier_reply *reply, const char *object);
/* A token's bytes as a JSON string; what is not UTF-8 by itself in OpenAI's notation, "bytes:\xe2\x80". */
void generation_print_token(struct buf *out, const struct tokenizer *tokenizer, int32_t token);
/* Tokens [first, end) of a choice as objects, after what out holds: each as `begin` writes it, without its
   end, with its alternatives (`top`: "top_logprobs") as objects like it. */
typedef void generation_begin_entry(struct buf *out, const struct tokenizer *tokenizer, int32_t token,
                                    float logprob);
void generation_print_entries(struct buf *out, const struct courier_choice *choice, int first, int end,
                              generation_begin_entry *begin, const char *top);
/* "bytes":[...] of a token. */
void generation_print_bytes(struct buf *out, const struct tokenizer *tokenizer, int32_t token);
/* JSON has no infinity; -9999 is what vLLM writes for a token without probability. */
void generation_print_logprob(struct buf *out, float logprob);
/* out fails when one of the choice's own buffers has. */
void generation_check_buffers(struct courier_choice *choice, struct buf *out);

#endif
