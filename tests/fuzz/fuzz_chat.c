#include "server/chat.h"
#include "server/constraint_internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Any bytes as the body of a chat: the fields of the request, and the form that its reply is asked to have.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { N_VOCAB = 1000 };
    struct json_limits limits = json_limits_default;
    limits.max_bytes = 1 << 20;
    struct json *body;
    struct err_info info;
    if (json_parse((const char *)data, size, &limits, &body, &info) != ERR_OK) return 0;
    struct arena *arena = arena_create(1 << 22);
    struct generation_params params;
    struct constraint_ask ask;
    enum err err = chat_parse(body, N_VOCAB, &chat_defaults, arena, &params, &info);
    if (err != ERR_OK && (info.code != err || info.message[0] == '\0')) abort();
    if (err == ERR_OK &&
        (params.n < 1 || params.max_tokens < 0 || params.sampler.n_logprobs > SAMPLER_MAX_LOGPROBS))
        abort();
    err = constraint_parse(body, &ask, &info);
    if (err == ERR_OK) {
        bool text = ask.kind == CONSTRAINT_REGEX || ask.kind == CONSTRAINT_GRAMMAR;
        if (ask.field && (text ? !ask.text : !ask.value && ask.kind != CONSTRAINT_JSON_OBJECT)) abort();
        json_free(ask.owned);
    } else if (info.code != err || info.message[0] == '\0' || info.param[0] == '\0') {
        abort();
    }
    bool split = false;
    err = reasoning_parse(body, &split, &info);
    if (err != ERR_OK && (split || info.code != err || info.param[0] == '\0')) abort();
    arena_free(arena);
    json_free(body);
    return 0;
}
