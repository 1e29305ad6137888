#ifndef SERVER_EVAL_PROMPTS_H
#define SERVER_EVAL_PROMPTS_H

#include "model/tokenizer.h"
#include "server/eval_options.h"
#include "server/eval_problems.h"

/*
 * What a model is asked, as tokens: what all problems begin with (the worked examples, or the chat format's
 * head), and what follows for each problem. Encoded apart, so the first is the same for all to the token.
 */
struct eval_tokens {
    int32_t *ids;
    size_t n;
};

struct eval_prompts {
    struct eval_tokens prefix;
    struct eval_tokens *prompts; /* [count] */
    int count;
    size_t longest; /* of the prompts */
};

/* By options->shots and options->chat. ERR_UNSUPPORTED: chat, and the model has no ChatML; ERR_MEMORY. */
enum err eval_prompts_make(const struct tokenizer *tokenizer, const struct eval_options *options,
                           const struct eval_problems *problems, struct eval_prompts *out,
                           struct err_info *info);
void eval_prompts_free(struct eval_prompts *prompts); /* of zeroed ones too */

#endif
