#include "server/eval_prompts.h"

#include "config/buf.h"

#include <stdlib.h>
#include <string.h>

enum text_of { OURS, THEIRS }; /* special tokens count in our text, not in a problem's */

static enum err tokens_add(const struct tokenizer *tokenizer, const char *text, size_t length, bool begins,
                           enum text_of whose, struct eval_tokens *tokens, struct err_info *info)
{
    struct eval_tokens more;
    enum err err =
        tokenizer_encode(tokenizer, text, length, begins, whose == OURS, SIZE_MAX, &more.ids, &more.n, info);
    if (err != ERR_OK) return err;
    int32_t *ids = realloc(tokens->ids, (tokens->n + more.n + 1) * sizeof *ids);
    if (ids == NULL) {
        free(more.ids);
        return err_set(info, ERR_MEMORY, "eval: out of memory");
    }
    memcpy(ids + tokens->n, more.ids, more.n * sizeof *ids);
    tokens->ids = ids;
    tokens->n += more.n;
    free(more.ids);
    return ERR_OK;
}

static enum err text_add(const struct tokenizer *tokenizer, const char *text, enum text_of whose,
                         struct eval_tokens *tokens, struct err_info *info)
{
    return tokens_add(tokenizer, text, strlen(text), false, whose, tokens, info);
}

static enum err chat_check(const struct tokenizer *tokenizer, struct err_info *info)
{
    struct eval_tokens mark = {0};
    enum err err = text_add(tokenizer, "<|im_start|>", OURS, &mark, info);
    if (err == ERR_OK && (mark.n != 1 || !tokenizer_is_special(tokenizer, mark.ids[0])))
        err = err_set_param(info, ERR_UNSUPPORTED, "chat",
                            "--chat: the model has no token <|im_start|>, so it was not tuned to ChatML");
    free(mark.ids);
    return err;
}

static enum err prefix_make(const struct tokenizer *tokenizer, const struct eval_options *options,
                            struct eval_tokens *prefix, struct err_info *info)
{
    enum err err = options->chat ? chat_check(tokenizer, info) : ERR_OK;
    if (err == ERR_OK) err = tokens_add(tokenizer, "", 0, true, OURS, prefix, info); /* BOS, if any */
    if (err != ERR_OK) return err;
    if (options->chat)
        return text_add(tokenizer,
                        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
                        OURS, prefix, info);
    return tokens_add(tokenizer, eval_examples, eval_examples_length(options->shots), false, THEIRS, prefix,
                      info);
}

static enum err chat_prompt_make(const struct tokenizer *tokenizer, const char *question,
                                 struct eval_tokens *prompt, struct err_info *info)
{
    enum err err = text_add(tokenizer, question, THEIRS, prompt, info);
    if (err != ERR_OK) return err;
    return text_add(tokenizer,
                    "\nReason step by step. Put your final answer within \\boxed{}.<|im_end|>\n"
                    "<|im_start|>assistant\n",
                    OURS, prompt, info);
}

static enum err plain_prompt_make(const struct tokenizer *tokenizer, const char *question,
                                  struct eval_tokens *prompt, struct err_info *info)
{
    struct buf text;
    buf_init(&text, SIZE_MAX);
    buf_printf(&text, EVAL_QUESTION " %s\nAnswer:", question);
    enum err err = text.failed ? err_set(info, ERR_MEMORY, "eval: out of memory")
                               : text_add(tokenizer, text.data, THEIRS, prompt, info);
    buf_free(&text);
    return err;
}

enum err eval_prompts_make(const struct tokenizer *tokenizer, const struct eval_options *options,
                           const struct eval_problems *problems, struct eval_prompts *out,
                           struct err_info *info)
{
    struct eval_prompts made = {.prompts = calloc((size_t)problems->count, sizeof *made.prompts),
                                .count = problems->count};
    enum err err = made.prompts != NULL ? prefix_make(tokenizer, options, &made.prefix, info)
                                        : err_set(info, ERR_MEMORY, "eval: out of memory");
    for (int p = 0; p < made.count && err == ERR_OK; p++) {
        const char *question = problems->problems[p].question;
        err = options->chat ? chat_prompt_make(tokenizer, question, &made.prompts[p], info)
                            : plain_prompt_make(tokenizer, question, &made.prompts[p], info);
        if (made.prompts[p].n > made.longest) made.longest = made.prompts[p].n;
    }
    if (err == ERR_OK)
        *out = made;
    else
        eval_prompts_free(&made);
    return err;
}

void eval_prompts_free(struct eval_prompts *prompts)
{
    for (int p = 0; prompts->prompts && p < prompts->count; p++) free(prompts->prompts[p].ids);
    free(prompts->prompts);
    free(prompts->prefix.ids);
    *prompts = (struct eval_prompts){0};
}
