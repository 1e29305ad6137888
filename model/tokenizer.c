/*
 * Text to tokens, in four steps: added tokens are cut out (added.c); what lies between is normalized if the
 * model wants it (nfc.c), cut into words (pretokenizer.c), and each word's bytes are joined by the merges
 * (merges.c).
 */
#include "model/tokenizer.h"

#include "config/utf8.h"
#include "model/added.h"
#include "model/merges.h"
#include "model/nfc.h"
#include "model/pretokenizer.h"
#include "model/vocabulary.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { LONGEST_TEXT = INT32_MAX / 4 };

struct tokenizer {
    struct vocabulary *vocabulary;
    struct merges *merges;
    struct added *added;
    struct pretokenizer *pretokenizer;
    int bos, eos;
    bool adds_bos;
    bool *is_end;   /* [vocabulary size] */
    int32_t *words; /* ordinary tokens by their bytes, open addressing, -1: empty; NULL unless whole words */
    size_t words_mask; /* are looked up */
};

/* ---- Creation ---- */

static const char *const end_names[] = {"<|endoftext|>", "<|im_end|>", "<|end|>",
                                        "<|eot_id|>",    "<|eom_id|>", "<|end_of_text|>",
                                        "<|eot|>",       "<EOT>",      "<end_of_turn>"};

/* -1 when the key is missing. */
static enum err id_read(const struct gguf *gguf, const char *key, int size, int *out, struct err_info *info)
{
    *out = -1;
    if (!gguf_has(gguf, key)) return ERR_OK;
    uint32_t id = 0;
    enum err err = gguf_get_u32(gguf, key, &id, info);
    if (err != ERR_OK) return err;
    if (id >= (uint32_t)size)
        return err_set_param(info, ERR_FORMAT, key, "%s is %u, but the vocabulary has %d tokens", key, id,
                             size);
    *out = (int)id;
    return ERR_OK;
}

static enum err model_check(const struct gguf *gguf, struct err_info *info)
{
    struct gguf_string name;
    enum err err = gguf_get_string(gguf, "tokenizer.ggml.model", &name, info);
    if (err != ERR_OK) return err;
    if (name.length == 4 && memcmp(name.bytes, "gpt2", 4) == 0) return ERR_OK;
    return err_set_param(info, ERR_UNSUPPORTED, "tokenizer.ggml.model",
                         "tokenizer model '%.*s' is not supported (gpt2, byte-level BPE, is)",
                         name.length > 64 ? 64 : (int)name.length, name.bytes);
}

static enum err ids_read(const struct gguf *gguf, struct tokenizer *tokenizer, struct err_info *info)
{
    const struct vocabulary *vocabulary = tokenizer->vocabulary;
    int size = vocabulary_size(vocabulary);
    tokenizer->is_end = calloc((size_t)size, sizeof *tokenizer->is_end);
    if (!tokenizer->is_end) return err_set(info, ERR_MEMORY, "no memory for the vocabulary");
    int ends[3];
    enum err err = id_read(gguf, "tokenizer.ggml.bos_token_id", size, &tokenizer->bos, info);
    if (err == ERR_OK) err = id_read(gguf, "tokenizer.ggml.eos_token_id", size, &ends[0], info);
    if (err == ERR_OK) err = id_read(gguf, "tokenizer.ggml.eot_token_id", size, &ends[1], info);
    if (err == ERR_OK) err = id_read(gguf, "tokenizer.ggml.eom_token_id", size, &ends[2], info);
    if (err != ERR_OK) return err;
    tokenizer->eos = ends[0];
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (ends[i] >= 0) tokenizer->is_end[ends[i]] = true;
    for (size_t i = 0; i < sizeof end_names / sizeof end_names[0]; i++) {
        int32_t token = vocabulary_find(vocabulary, end_names[i], strlen(end_names[i]));
        if (token >= 0 && vocabulary_type(vocabulary, token) == TOKEN_CONTROL)
            tokenizer->is_end[token] = true;
    }
    tokenizer->adds_bos = tokenizer->bos >= 0 && pretokenizer_adds_bos(tokenizer->pretokenizer);
    if (!gguf_has(gguf, "tokenizer.ggml.add_bos_token")) return ERR_OK;
    err = gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &tokenizer->adds_bos, info);
    if (err == ERR_OK && tokenizer->adds_bos && tokenizer->bos < 0)
        err = err_set_param(info, ERR_FORMAT, "tokenizer.ggml.add_bos_token",
                            "tokenizer.ggml.add_bos_token is set without tokenizer.ggml.bos_token_id");
    return err;
}

static size_t word_slot(const struct tokenizer *tokenizer, const char *word, size_t length)
{
    size_t slot = (size_t)XXH3_64bits(word, length) & tokenizer->words_mask;
    for (; tokenizer->words[slot] >= 0; slot = (slot + 1) & tokenizer->words_mask) {
        size_t known_length = 0;
        const char *known = vocabulary_bytes(tokenizer->vocabulary, tokenizer->words[slot], &known_length);
        if (known_length == length && memcmp(known, word, length) == 0) break;
    }
    return slot;
}

static enum err words_index(struct tokenizer *tokenizer, struct err_info *info)
{
    if (!pretokenizer_keeps_words(tokenizer->pretokenizer)) return ERR_OK;
    int size = vocabulary_size(tokenizer->vocabulary);
    size_t n_slots = 64;
    while (n_slots < (size_t)size * 2) n_slots *= 2;
    tokenizer->words = malloc(n_slots * sizeof *tokenizer->words);
    if (!tokenizer->words) return err_set(info, ERR_MEMORY, "no memory for the vocabulary");
    memset(tokenizer->words, 0xFF, n_slots * sizeof *tokenizer->words);
    tokenizer->words_mask = n_slots - 1;
    for (int32_t token = 0; token < size; token++) {
        enum token_type type = vocabulary_type(tokenizer->vocabulary, token);
        if (type != TOKEN_NORMAL && type != TOKEN_UNDEFINED) continue;
        size_t length = 0;
        const char *bytes = vocabulary_bytes(tokenizer->vocabulary, token, &length);
        size_t slot = word_slot(tokenizer, bytes, length);
        if (tokenizer->words[slot] < 0) tokenizer->words[slot] = token;
    }
    return ERR_OK;
}

static enum err parts_create(const struct gguf *gguf, struct tokenizer *tokenizer, struct err_info *info)
{
    struct gguf_string pre;
    enum err err = gguf_get_string(gguf, "tokenizer.ggml.pre", &pre, info);
    if (err == ERR_OK) err = pretokenizer_create(pre.bytes, pre.length, &tokenizer->pretokenizer, info);
    if (err == ERR_OK) err = vocabulary_create(gguf, &tokenizer->vocabulary, info);
    if (err == ERR_OK) err = merges_create(gguf, tokenizer->vocabulary, &tokenizer->merges, info);
    if (err == ERR_OK) err = added_create(tokenizer->vocabulary, &tokenizer->added, info);
    if (err == ERR_OK) err = ids_read(gguf, tokenizer, info);
    if (err == ERR_OK) err = words_index(tokenizer, info);
    return err;
}

enum err tokenizer_create(const struct gguf *gguf, struct tokenizer **out, struct err_info *info)
{
    enum err err = model_check(gguf, info);
    if (err != ERR_OK) return err;
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) return err_set(info, ERR_MEMORY, "no memory for the tokenizer");
    err = parts_create(gguf, tokenizer, info);
    if (err != ERR_OK) {
        tokenizer_free(tokenizer);
        return err;
    }
    vocabulary_forget(tokenizer->vocabulary);
    *out = tokenizer;
    return ERR_OK;
}

void tokenizer_free(struct tokenizer *tokenizer)
{
    if (!tokenizer) return;
    vocabulary_free(tokenizer->vocabulary);
    merges_free(tokenizer->merges);
    added_free(tokenizer->added);
    pretokenizer_free(tokenizer->pretokenizer);
    free(tokenizer->is_end);
    free(tokenizer->words);
    free(tokenizer);
}

/* ---- Questions ---- */

static bool is_token(const struct tokenizer *tokenizer, int32_t token)
{
    return token >= 0 && token < vocabulary_size(tokenizer->vocabulary);
}

int tokenizer_vocab_size(const struct tokenizer *tokenizer)
{
    return vocabulary_size(tokenizer->vocabulary);
}

int tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int tokenizer_eos(const struct tokenizer *tokenizer)
{
    return tokenizer->eos;
}

bool tokenizer_is_end(const struct tokenizer *tokenizer, int32_t token)
{
    return is_token(tokenizer, token) && tokenizer->is_end[token];
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t token)
{
    if (!is_token(tokenizer, token)) return false;
    enum token_type type = vocabulary_type(tokenizer->vocabulary, token);
    return type == TOKEN_CONTROL || type == TOKEN_UNKNOWN;
}

bool tokenizer_is_unused(const struct tokenizer *tokenizer, int32_t token)
{
    return is_token(tokenizer, token) && vocabulary_type(tokenizer->vocabulary, token) == TOKEN_UNUSED;
}

const char *tokenizer_bytes(const struct tokenizer *tokenizer, int32_t token, size_t *length)
{
    if (is_token(tokenizer, token)) return vocabulary_bytes(tokenizer->vocabulary, token, length);
    *length = 0;
    return "";
}

/* ---- Encoding ---- */

struct encoder {
    const struct tokenizer *tokenizer;
    int32_t *tokens;
    size_t n, capacity, max_tokens;
    struct pretokenizer_walk walk;
    struct nfc nfc;
    struct merges_scratch scratch;
    bool no_memory, too_many;
};

/* Room for more tokens past n, which may go beyond max_tokens for a while. */
static bool tokens_reserve(struct encoder *encoder, size_t more)
{
    if (more <= encoder->capacity - encoder->n) return true;
    size_t capacity = encoder->capacity + encoder->capacity / 2 + more + 16;
    int32_t *grown = realloc(encoder->tokens, capacity * sizeof *grown);
    if (!grown) {
        encoder->no_memory = true;
        return false;
    }
    encoder->tokens = grown;
    encoder->capacity = capacity;
    return true;
}

static bool tokens_added(struct encoder *encoder, size_t more)
{
    encoder->n += more;
    encoder->too_many = encoder->n > encoder->max_tokens;
    return !encoder->too_many;
}

static bool token_append(struct encoder *encoder, int32_t token)
{
    if (!tokens_reserve(encoder, 1)) return false;
    encoder->tokens[encoder->n] = token;
    return tokens_added(encoder, 1);
}

static bool word_encode(struct encoder *encoder, const char *word, size_t length)
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    if (tokenizer->words) {
        int32_t token = tokenizer->words[word_slot(tokenizer, word, length)];
        if (token >= 0) return token_append(encoder, token);
    }
    if (!tokens_reserve(encoder, length)) return false;
    int32_t *symbols = encoder->tokens + encoder->n;
    int32_t n = 0;
    for (size_t i = 0; i < length; i++) {
        int32_t token = vocabulary_byte_token(tokenizer->vocabulary, (unsigned char)word[i]);
        if (token >= 0) symbols[n++] = token;
    }
    n = merges_apply(tokenizer->merges, &encoder->scratch, symbols, n);
    encoder->no_memory = n < 0;
    return n >= 0 && tokens_added(encoder, (size_t)n);
}

/* Well-formed UTF-8 without added tokens. */
static bool text_encode(struct encoder *encoder, const char *text, size_t length)
{
    if (pretokenizer_wants_nfc(encoder->tokenizer->pretokenizer) && nfc_may_change(text, length)) {
        if (!nfc_compose(&encoder->nfc, text, length)) {
            encoder->no_memory = true;
            return false;
        }
        text = encoder->nfc.text;
        length = encoder->nfc.length;
    }
    const char *word = NULL;
    size_t word_length = 0;
    pretokenizer_walk_start(&encoder->walk, text, length);
    while (pretokenizer_walk_next(&encoder->walk, &word, &word_length))
        if (!word_encode(encoder, word, word_length)) return false;
    return true;
}

/* Any bytes without added tokens: stretches of text, and between them bytes that are none. */
static bool bytes_encode(struct encoder *encoder, const char *bytes, size_t length)
{
    for (size_t at = 0; at < length;) {
        size_t valid = utf8_valid(bytes + at, length - at);
        if (valid > 0 && !text_encode(encoder, bytes + at, valid)) return false;
        at += valid;
        for (; at < length && utf8_sequence(bytes + at, length - at) == 0; at++) {
            int32_t token = vocabulary_byte_token(encoder->tokenizer->vocabulary, (unsigned char)bytes[at]);
            if (token >= 0 && !token_append(encoder, token)) return false;
        }
    }
    return true;
}

static bool all_encode(struct encoder *encoder, const char *text, size_t length, const unsigned char *marks,
                       bool parse_special)
{
    const struct added *added = encoder->tokenizer->added;
    for (size_t done = 0; done < length;) {
        size_t at = length, match_length = 0;
        int32_t token = added_find(added, text, length, marks, done, parse_special, &at, &match_length);
        if (at > done && !bytes_encode(encoder, text + done, at - done)) return false;
        if (token >= 0 && !token_append(encoder, token)) return false;
        done = at + match_length;
    }
    return true;
}

static enum err encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                       const unsigned char *marks, bool add_special, bool parse_special, size_t max_tokens,
                       int32_t **tokens, size_t *n, struct err_info *info)
{
    if (length > LONGEST_TEXT)
        return err_set(info, ERR_LIMIT, "the text has %zu bytes, more than %d", length, LONGEST_TEXT);
    struct encoder encoder = {.tokenizer = tokenizer, .max_tokens = max_tokens};
    nfc_init(&encoder.nfc);
    bool done = pretokenizer_walk_open(&encoder.walk, tokenizer->pretokenizer) && tokens_reserve(&encoder, 1);
    if (done && add_special && tokenizer->adds_bos) done = token_append(&encoder, tokenizer->bos);
    done = done && all_encode(&encoder, text, length, marks, parse_special);
    pretokenizer_walk_close(&encoder.walk);
    nfc_free(&encoder.nfc);
    merges_scratch_free(&encoder.scratch);
    if (done) {
        *tokens = encoder.tokens;
        *n = encoder.n;
        return ERR_OK;
    }
    free(encoder.tokens);
    if (encoder.too_many) return err_set(info, ERR_LIMIT, "the text has more than %zu tokens", max_tokens);
    return err_set(info, ERR_MEMORY, "no memory to encode %zu bytes", length);
}

enum err tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                          bool add_special, bool parse_special, size_t max_tokens, int32_t **tokens,
                          size_t *n, struct err_info *info)
{
    return encode(tokenizer, text, length, NULL, add_special, parse_special, max_tokens, tokens, n, info);
}

enum err tokenizer_encode_marked(const struct tokenizer *tokenizer, const char *text, size_t length,
                                 const unsigned char *marks, bool add_special, size_t max_tokens,
                                 int32_t **tokens, size_t *n, struct err_info *info)
{
    return encode(tokenizer, text, length, marks, add_special, true, max_tokens, tokens, n, info);
}
