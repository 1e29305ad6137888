#ifndef MODEL_FIM_H
#define MODEL_FIM_H

#include "config/err.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Fill in the middle: models of code are trained on files cut in three and put together as
 *
 *   PREFIX text before SUFFIX text after MIDDLE
 *
 * and go on with what belongs between. (Bavarian et al. 2022, arXiv:2207.14255; the order "prefix, suffix,
 * middle", which llama-server uses too.) Where a model also has tokens for repositories and files, other
 * files go first (Qwen2.5-Coder, arXiv:2409.12186):
 *
 *   REPOSITORY name FILE name text FILE name text ... FILE name PREFIX ...
 */
struct fim {
    int32_t prefix, suffix, middle;     /* -1: the model has none */
    int32_t pad, repository, separator; /* the same */
};

/* From the keys tokenizer.ggml.fim_*_token_id (or their older names), else by well-known names. */
void fim_find(const struct gguf *gguf, const struct tokenizer *tokenizer, struct fim *out);
bool fim_usable(const struct fim *fim);

/* A piece of a prompt: tokens when not NULL, else text, in which nothing is a control token. */
struct fim_piece {
    const char *text;
    size_t length;
    const int32_t *tokens;
    size_t n;
};

struct fim_file {
    const char *name, *text;
    size_t name_length, text_length;
};

/* BOS where the model wants it, files, prefix, suffix. *tokens is malloc'ed, at most max_tokens, else
   ERR_LIMIT without a field; of the files the beginning is dropped until they fit. The model must be usable.
 */
enum err fim_encode(const struct fim *fim, const struct tokenizer *tokenizer, const struct fim_piece *before,
                    const struct fim_piece *after, const struct fim_file *files, size_t n_files,
                    size_t max_tokens, int32_t **tokens, size_t *n, struct err_info *info);

#endif
