#ifndef SERVER_API_H
#define SERVER_API_H

#include "cache/format.h"
#include "config/json.h"
#include "model/chat_template.h"
#include "model/fim.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/metrics.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What every handler of the API needs, and the routes. serve.c fills it: all below `state` before API_READY
 * is set, and unchanged from then on.
 */
struct constraint_cache;
struct courier;
struct engine;

enum api_state { API_LOADING, API_READY, API_DRAINING };

struct api {
    size_t max_body_bytes;
    bool no_ui; /* the page is switched off */
    const char *model_path;
    struct metrics *metrics;
    int64_t created; /* Unix time of the start, s */
    _Atomic int state;
    bool is_restart; /* the process before this one lost its card */

    const char *model_name; /* what clients call it */
    bool any_model;         /* or anything else */
    bool splits_reasoning;  /* a model's thoughts are told apart from its answer, unless a request says
                               otherwise */
    const struct model_config *config;
    size_t model_bytes;
    const struct tokenizer *tokenizer;
    const struct chat_template *chat_template;
    struct fim fim;
    const struct gguf *gguf;
    struct engine *engine;
    struct courier *courier;
    struct constraint_cache *constraints;
    int ctx_size;
    int parallel;
    struct generation_defaults defaults; /* of all endpoints; below 0: the endpoint's own */
    const struct kv_formats *formats;    /* the first is the default */
};

extern const struct http_route api_routes[];
extern const int api_n_routes;

/* For handlers. Those that return a bool return false when it has replied with the error. */

/* Past loading; draining is the engine's to refuse. */
bool api_ready(const struct api *api, struct http_call *call);
/* The body as JSON; the caller frees it. */
bool api_body(const struct api *api, struct http_call *call, struct json **out);
/* The request's model, NULL when not given, is the one that is served. */
bool api_has_model(const struct api *api, struct http_call *call, const char *model);
/* Replies with the JSON that out holds, or 500 when it has failed; frees it. */
struct buf;
void api_reply(struct http_call *call, struct buf *out);
/* An error of a handler's own checks or of the engine: 400, 429, 500 or 503. */
void api_fail(struct http_call *call, const struct err_info *info, int retry_after_s);

#endif
