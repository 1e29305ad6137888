#include "server/api.h"

#include "config/buf.h"
#include "config/version.h"
#include "server/api_info.h"
#include "server/api_sequences.h"
#include "server/api_tokens.h"
#include "server/chat.h"
#include "server/completions.h"
#include "server/engine.h"
#include "server/infill.h"
#include "server/messages.h"
#include "server/native.h"
#include "server/openapi.h"
#include "server/responses.h"
#include "server/web.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

void api_reply(struct http_call *call, struct buf *out)
{
    if (out->failed)
        http_fail(call, 500, NULL, NULL, "no memory for the reply");
    else
        http_reply(call, 200, "application/json", out->data, out->length);
    buf_free(out);
}

bool api_ready(const struct api *api, struct http_call *call)
{
    if (atomic_load(&api->state) != API_LOADING) return true;
    http_reply_header(call, "Retry-After", "2");
    http_fail(call, 503, NULL, "loading", "the model is being loaded");
    return false;
}

bool api_body(const struct api *api, struct http_call *call, struct json **out)
{
    struct json_limits limits = json_limits_default;
    limits.max_bytes = api->max_body_bytes;
    size_t length;
    const char *body = http_call_body(call, &length);
    struct err_info info;
    enum err err = length > 0 ? json_parse(body, length, &limits, out, &info)
                              : err_set(&info, ERR_INVALID, "the request has no body; it must be JSON");
    if (err == ERR_OK) return true;
    api_fail(call, &info, 0);
    return false;
}

bool api_has_model(const struct api *api, struct http_call *call, const char *model)
{
    if (api->any_model || !model || !model[0] || strcmp(model, api->model_name) == 0) return true;
    http_fail(call, 404, "model", "model_not_found",
              "the model '%.200s' does not exist; this server has '%.200s'", model, api->model_name);
    return false;
}

void api_fail(struct http_call *call, const struct err_info *info, int retry_after_s)
{
    int status = 500;
    const char *code = NULL;
    switch (info->code) {
    case ERR_INVALID:
    case ERR_LIMIT:
    case ERR_UNSUPPORTED:
        status = 400;
        break;
    case ERR_CAPACITY:
        status = 400;
        code = "capacity_exceeded";
        break;
    case ERR_BUSY:
        status = 429;
        code = "server_busy";
        break;
    case ERR_TIMEOUT:
        status = 504;
        code = "timeout";
        break;
    case ERR_CLOSED:
        status = 503;
        code = "shutting_down";
        break;
    case ERR_DEVICE:
        status = 503;
        code = "device_failed";
        break;
    default:
        break;
    }
    if (status == 429 || status == 503) {
        char seconds[16];
        snprintf(seconds, sizeof(seconds), "%d", retry_after_s > 0 ? retry_after_s : 5);
        http_reply_header(call, "Retry-After", seconds);
    }
    http_fail(call, status, info->param, code, "%s", info->message);
}

/* --- Small endpoints --- */

static void handle_health(struct http_call *call, void *context)
{
    const struct api *api = context;
    static const char *const names[] = {"loading", "ok", "draining"};
    enum api_state state = (enum api_state)atomic_load(&api->state);
    bool restarting = state == API_LOADING ? api->is_restart
                                           : state == API_READY && engine_state(api->engine) == ENGINE_LOST;
    const char *name = restarting ? "restarting" : names[state];
    char body[64];
    bool good = strcmp(name, "ok") == 0;
    int n = snprintf(body, sizeof(body), "{\"status\":\"%s\"}", name);
    if (!good) http_reply_header(call, "Retry-After", "2");
    http_reply(call, good ? 200 : 503, "application/json", body, (size_t)n);
}

static void handle_metrics(struct http_call *call, void *context)
{
    const struct api *api = context;
    struct buf out;
    buf_init(&out, 1 << 20);
    metrics_print(api->metrics, &out);
    if (out.failed)
        http_fail(call, 500, NULL, NULL, "no memory for the metrics");
    else
        http_reply(call, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.length);
    buf_free(&out);
}

static void handle_version(struct http_call *call, void *context)
{
    (void)context;
    static const char body[] = "{\"version\":\"" OCTAVO_VERSION "\"}";
    http_reply(call, 200, "application/json", body, sizeof(body) - 1);
}

static void print_model(struct buf *out, const struct api *api)
{
    const struct model_config *config = api->config;
    buf_text(out, "{\"id\":");
    json_write_text(out, api->model_name);
    buf_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"octavo\",\"max_model_len\":%d",
               (long long)api->created, api->ctx_size);
    buf_printf(out,
               ",\"meta\":{\"n_vocab\":%d,\"n_ctx_train\":%d,\"n_embd\":%d,\"n_params\":%lld,\"size\":%zu}}",
               config->n_vocab, config->context_length, config->n_embd, (long long)config->n_params,
               api->model_bytes);
}

static void handle_models(struct http_call *call, void *context)
{
    const struct api *api = context;
    if (!api_ready(api, call)) return;
    struct buf out;
    buf_init(&out, 1 << 16);
    buf_text(&out, "{\"object\":\"list\",\"data\":[");
    print_model(&out, api);
    buf_text(&out, "]}");
    api_reply(call, &out);
}

static void handle_model(struct http_call *call, void *context)
{
    const struct api *api = context;
    if (!api_ready(api, call)) return;
    if (!api_has_model(api, call, http_call_path(call) + strlen("/v1/models/"))) return;
    struct buf out;
    buf_init(&out, 1 << 16);
    print_model(&out, api);
    api_reply(call, &out);
}

const struct http_route api_routes[] = {
    {.method = "GET", .path = "/", .open = true, .handle = web_handle},
    {.method = "GET", .path = "/favicon.ico", .open = true, .handle = web_handle},
    {.method = "GET", .path = "/web/page.css", .open = true, .handle = web_handle},
    {.method = "GET", .path = "/web/cache.js", .open = true, .handle = web_handle},
    {.method = "GET", .path = "/web/chat.js", .open = true, .handle = web_handle},
    {.method = "GET", .path = "/health", .open = true, .handle = handle_health},
    {.method = "GET", .path = "/metrics", .handle = handle_metrics},
    {.method = "GET", .path = "/openapi.json", .open = true, .handle = openapi_handle},
    {.method = "GET", .path = "/version", .handle = handle_version},
    {.method = "GET", .path = "/v1/health", .open = true, .handle = handle_health},
    {.method = "GET", .path = "/props", .handle = api_info_props},
    {.method = "GET", .path = "/slots", .handle = api_sequences_slots},
    {.method = "GET", .path = "/v1/octavo/sequences", .handle = api_sequences},
    {.method = "GET", .path = "/tokenizer_info", .handle = api_info_tokenizer},
    {.method = "GET", .path = "/models", .handle = handle_models},
    {.method = "GET", .path = "/v1/models", .handle = handle_models},
    {.method = "GET", .path = "/v1/models/", .prefix = true, .handle = handle_model},
    {.method = "POST", .path = "/v1/completions", .handle = completions_handle},
    {.method = "POST", .path = "/v1/chat/completions", .handle = chat_handle},
    {.method = "POST", .path = "/chat/completions", .handle = chat_handle},
    {.method = "POST", .path = "/v1/chat/completions/input_tokens", .handle = chat_handle_count},
    {.method = "POST", .path = "/chat/completions/input_tokens", .handle = chat_handle_count},
    {.method = "POST", .path = "/v1/responses/input_tokens", .handle = responses_handle_count},
    {.method = "POST", .path = "/responses/input_tokens", .handle = responses_handle_count},
    {.method = "POST", .path = "/v1/responses", .handle = responses_handle},
    {.method = "POST", .path = "/responses", .handle = responses_handle},
    {.method = "POST", .path = "/v1/messages", .errors = API_ERROR_ANTHROPIC, .handle = messages_handle},
    {.method = "POST",
     .path = "/v1/messages/count_tokens",
     .errors = API_ERROR_ANTHROPIC,
     .handle = messages_handle_count},
    {.method = "POST", .path = "/completion", .handle = native_handle},
    {.method = "POST", .path = "/completions", .handle = native_handle},
    {.method = "POST", .path = "/infill", .handle = infill_handle},
    {.method = "POST", .path = "/apply-template", .handle = chat_handle_template},
    {.method = "POST", .path = "/tokenize", .handle = api_tokenize},
    {.method = "POST", .path = "/detokenize", .handle = api_detokenize},
    {.method = "POST", .path = "/v1/embeddings", .handle = api_info_embeddings},
};
const int api_n_routes = sizeof(api_routes) / sizeof(api_routes[0]);
