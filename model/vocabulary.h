#ifndef MODEL_VOCABULARY_H
#define MODEL_VOCABULARY_H

#include "config/err.h"
#include "model/gguf.h"

#include <stddef.h>
#include <stdint.h>

/*
 * The tokens of a byte-level vocabulary, as GGUF stores it: an ordinary token is written in GPT-2's alphabet
 * of 256 printable characters, one for each byte; a control or user-defined token is written as it is.
 *
 * While a tokenizer is made, tokens are looked up by the text in the file; afterwards only their bytes are
 * kept.
 */
enum token_type {
    TOKEN_UNDEFINED = 0,
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6,
};

/* GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others get U+0100 and on, in order.
   out: the character of each byte. (Radford et al. 2019, bytes_to_unicode in encoder.py.) */
void vocabulary_alphabet(uint16_t out[256]);

struct vocabulary;

/* From tokenizer.ggml.tokens and tokenizer.ggml.token_type (all normal when missing). ERR_FORMAT names the
   index of a duplicate token or an unknown type. */
enum err vocabulary_create(const struct gguf *gguf, struct vocabulary **out, struct err_info *info);
void vocabulary_free(struct vocabulary *vocabulary);

int vocabulary_size(const struct vocabulary *vocabulary);
enum token_type vocabulary_type(const struct vocabulary *vocabulary, int32_t token);
/* The bytes that the token stands for. */
const char *vocabulary_bytes(const struct vocabulary *vocabulary, int32_t token, size_t *length);

/* The token with this text in the file, -1 when there is none. Until vocabulary_forget. */
int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *text, size_t length);
/* Release what only vocabulary_find needs; the gguf may be closed after. */
void vocabulary_forget(struct vocabulary *vocabulary);

/* The ordinary token of one byte, -1 when the vocabulary lacks it. */
int32_t vocabulary_byte_token(const struct vocabulary *vocabulary, unsigned char byte);

#endif
