#ifndef MODEL_TOKENIZER_H
#define MODEL_TOKENIZER_H

#include "config/err.h"
#include "model/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Byte-level BPE from a GGUF file's vocabulary and merges (tokenizer.ggml.*), with the pre-tokenizers gpt-2,
 * smollm, qwen2 and llama-bpe. Immutable after creation: any thread may use it. The ids are those of Hugging
 * Face's tokenizers for the same model.
 */
struct tokenizer;

/* The gguf may be closed after. ERR_UNSUPPORTED names a tokenizer model or pre-tokenizer that octavo does not
   know; ERR_FORMAT the key, and the index in it, of what is wrong. */
enum err tokenizer_create(const struct gguf *gguf, struct tokenizer **out, struct err_info *info);
void tokenizer_free(struct tokenizer *tokenizer);

int tokenizer_vocab_size(const struct tokenizer *tokenizer);
int tokenizer_bos(const struct tokenizer *tokenizer); /* -1: none */
int tokenizer_eos(const struct tokenizer *tokenizer); /* -1: none */
/* Tokens that end generation: eos, eot, eom, and control tokens of well-known names such as "<|im_end|>". */
bool tokenizer_is_end(const struct tokenizer *tokenizer, int32_t token);
/* Control tokens (special): their text is not shown unless asked for. */
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t token);
/* Places in the vocabulary that no text gives (padding). */
bool tokenizer_is_unused(const struct tokenizer *tokenizer, int32_t token);

/* Encode length bytes of UTF-8 (invalid bytes are encoded as they are, byte by byte; a byte that the
   vocabulary has no token for, as SmolLM2's lacks 0x04 and twenty more, is dropped). add_special: put BOS
   first when the model asks for it (tokenizer.ggml.add_bos_token). parse_special: text such as "<|im_start|>"
   becomes its control token; otherwise it is ordinary text. User-defined tokens, which are not control tokens
   ("<tool_call>"), are found in either case. *tokens is malloc'ed (also when *n is 0), the caller frees.
   ERR_LIMIT above max_tokens. Time n log n. */
enum err tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                          bool add_special, bool parse_special, size_t max_tokens, int32_t **tokens,
                          size_t *n, struct err_info *info);

/* The same for text of two origins: control tokens are found only where all their bytes have a mark other
   than 0, and elsewhere they are ordinary text. marks: [length]. */
enum err tokenizer_encode_marked(const struct tokenizer *tokenizer, const char *text, size_t length,
                                 const unsigned char *marks, bool add_special, size_t max_tokens,
                                 int32_t **tokens, size_t *n, struct err_info *info);

/* The raw bytes of one token (byte-level decoding undone): may be part of a UTF-8 sequence. Valid as long as
   the tokenizer. Special tokens give their text. An id outside the vocabulary gives length 0. */
const char *tokenizer_bytes(const struct tokenizer *tokenizer, int32_t token, size_t *length);

/* Streaming detokenization: holds back the bytes of an incomplete UTF-8 sequence (at most 3) until it is
   complete; bytes that can never become valid come out as U+FFFD. */
struct detokenizer {
    unsigned char held[4];
    int n_held;
};

/* Append what is now complete to out; skip_special drops control tokens. */
struct buf;
void detokenizer_push(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, int32_t token,
                      bool skip_special, struct buf *out);
/* The end of the text: held bytes come out as U+FFFD. */
void detokenizer_flush(struct detokenizer *detokenizer, struct buf *out);

#endif
