#include "server/completions.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Any bytes as a request body: JSON, then every field. What is accepted must keep its promises. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { N_VOCAB = 1000 };
    struct json_limits limits = json_limits_default;
    limits.max_bytes = 1 << 20;
    struct json *body;
    struct err_info info;
    if (json_parse((const char *)data, size, &limits, &body, &info) != ERR_OK) return 0;
    struct arena *arena = arena_create(1 << 22);
    struct completions_params params;
    enum err err = completions_parse(body, N_VOCAB, &completions_defaults, arena, &params, &info);
    if (err == ERR_OK) {
        if (params.n_prompts < 1 || params.common.n < 1 ||
            params.common.n * params.n_prompts > GENERATION_MAX_CHOICES)
            abort();
        for (int i = 0; i < params.n_prompts; i++)
            for (int t = 0; !params.prompts[i].text && t < params.prompts[i].tokens.n; t++)
                if (params.prompts[i].tokens.tokens[t] < 0 || params.prompts[i].tokens.tokens[t] >= N_VOCAB)
                    abort();
        const struct sampler_params *sampler = &params.common.sampler;
        if (!(sampler->temperature >= 0 && sampler->top_p > 0 && sampler->top_p <= 1 && sampler->min_p >= 0 &&
              sampler->min_p < 1 && sampler->repetition_penalty > 0))
            abort();
        if (params.common.max_tokens < 0 || sampler->n_logprobs > SAMPLER_MAX_LOGPROBS) abort();
    } else if (info.code != err || info.message[0] == '\0') {
        abort();
    }
    arena_free(arena);
    json_free(body);
    return 0;
}
