#ifndef SERVER_NATIVE_H
#define SERVER_NATIVE_H

#include "server/generation.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * POST /completion, llama-server's own endpoint: its field names, its defaults (native_defaults), its
 * replies. Samplers that octavo does not have are refused when they would do something. n_probs are those of
 * the model's own distribution, with post_sampling_probs of the one that was drawn from.
 */
struct http_call;

enum { NATIVE_MAX_FIELDS = 64 };

struct native_params {
    bool return_tokens;
    bool post_sampling_probs;
    int64_t n_predict;   /* as given; -1: no limit */
    const char **fields; /* [n_fields] response_fields: paths like "generation_settings/seed"; none: all */
    int n_fields;
};

extern const struct generation_defaults native_defaults;

/* The body with the names that generation_parse knows, without prompt, and with the defaults of this
   endpoint. The caller frees *out with json_free. ERR_INVALID names the client's field. */
enum err native_translate(const struct json *body, const struct tokenizer *tokenizer,
                          struct native_params *params, struct json **out, struct err_info *info);

/* For kinds whose replies look like this: parse fills in params and leaves the prompts to the kind, prepare
   wants them in generation->prompts. */
enum err native_parse(struct generation *generation, const struct json *body, struct err_info *info);
enum err native_prepare(struct generation *generation, struct err_info *info);
void native_rename(struct err_info *info);

/* The handler; context is a struct api. prompt: a string, token ids, a mixture of both, or an array of those.
 */
void native_handle(struct http_call *call, void *context);

/* How the reply looks; the state it wants in courier_reply.state: */
struct native_state {
    struct generation_state common;
    const struct generation_params *params;
    const struct native_params *own;
    bool many;           /* several prompts: an array of objects */
    bool *has_new_line;  /* [choices] */
    int *n_shown_tokens; /* [choices] that have stood in an event */
};
extern const struct courier_format native_format;
/* ,"name":value of the settings that cannot be changed here, because what they belong to is off. */
void native_print_fixed(struct buf *out);

#endif
