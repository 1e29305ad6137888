#ifndef MODEL_PRETOKENIZER_H
#define MODEL_PRETOKENIZER_H

#include "config/err.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * Cuts text into the words that byte-pair merges never cross. The rules have names (tokenizer.ggml.pre):
 * gpt-2, smollm, qwen2 and llama-bpe. Immutable after creation: any thread may use it.
 */
struct pretokenizer;

/* ERR_UNSUPPORTED names a rule that is not known. */
enum err pretokenizer_create(const char *name, size_t name_length, struct pretokenizer **out,
                             struct err_info *info);
void pretokenizer_free(struct pretokenizer *pretokenizer);

/* What goes with the rule in Hugging Face's tokenizer.json of its models. */
bool pretokenizer_wants_nfc(const struct pretokenizer *pretokenizer);   /* normalize the text to NFC first */
bool pretokenizer_keeps_words(const struct pretokenizer *pretokenizer); /* a word that is a token stays one */
bool pretokenizer_adds_bos(const struct pretokenizer *pretokenizer);    /* unless the file says otherwise */

/* A walk over the words of one text; one owner at a time. */
struct pretokenizer_walk {
    const struct pretokenizer *pretokenizer;
    void *match;
    const char *text;
    size_t length;
    size_t at;
};

/* False when memory is short. */
bool pretokenizer_walk_open(struct pretokenizer_walk *walk, const struct pretokenizer *pretokenizer);
void pretokenizer_walk_close(struct pretokenizer_walk *walk);
/* Begin with this text, which must be well-formed UTF-8 and stay where it is. */
void pretokenizer_walk_start(struct pretokenizer_walk *walk, const char *text, size_t length);
/* The next word; false at the end. The words cover the text in order, without gaps. */
bool pretokenizer_walk_next(struct pretokenizer_walk *walk, const char **word, size_t *word_length);

#endif
