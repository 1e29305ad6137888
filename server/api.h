#ifndef SERVER_API_H
#define SERVER_API_H

#include "cache/policy.h"
#include "config/json.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "server/http.h"
#include "server/metrics.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What every handler of the API needs, and the routes. serve.c fills it: all below `state` before API_READY
 * is set, and unchanged from then on.
 */
struct courier;
struct engine;

enum api_state { API_LOADING, API_READY, API_DRAINING };

struct api {
    size_t max_body_bytes;
    const char *model_path;
    struct metrics *metrics;
    int64_t created; /* Unix time of the start, s */
    _Atomic int state;

    const char *model_name; /* what clients call it */
    const struct model_config *config;
    size_t model_bytes;
    const struct tokenizer *tokenizer;
    struct engine *engine;
    struct courier *courier;
    int ctx_size;
    int parallel;
    enum kv_format kv_format;
};

extern const struct http_route api_routes[];
extern const int api_n_routes;

/* For handlers. Each returns false when it has replied with the error. */

/* Past loading; draining is the engine's to refuse. */
bool api_ready(const struct api *api, struct http_call *call);
/* The body as JSON; the caller frees it. */
bool api_body(const struct api *api, struct http_call *call, struct json **out);
/* The request's model, NULL when not given, is the one that is served. */
bool api_has_model(const struct api *api, struct http_call *call, const char *model);
/* An error of a handler's own checks or of the engine: 400, 429, 500 or 503. */
void api_fail(struct http_call *call, const struct err_info *info, int retry_after_s);

#endif
