#include "model/vocabulary.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define TOKENS_KEY "tokenizer.ggml.tokens"
#define TYPES_KEY  "tokenizer.ggml.token_type"

/* A character of the byte alphabet is one or two bytes of UTF-8, at most U+0143. */
enum { ALPHABET = 0x144 };

struct vocabulary {
    int size;
    uint8_t *types;
    char *bytes;       /* of all tokens, one after the other */
    uint64_t *offsets; /* [size + 1] into bytes */
    int32_t byte_tokens[256];
    struct gguf_string *texts; /* [size] views into the file; NULL once forgotten */
    int32_t *slots;            /* [n_slots] open addressing by text, -1: empty */
    size_t n_slots;            /* a power of two */
};

void vocabulary_alphabet(uint16_t out[256])
{
    int next = 0x100;
    for (int byte = 0; byte < 256; byte++) {
        bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
        out[byte] = (uint16_t)(printable ? byte : next++);
    }
}

/* The other way: byte_of[character] is the byte or -1. */
static void alphabet_fill(int16_t byte_of[ALPHABET])
{
    uint16_t alphabet[256];
    vocabulary_alphabet(alphabet);
    memset(byte_of, 0xFF, ALPHABET * sizeof *byte_of);
    for (int byte = 0; byte < 256; byte++) byte_of[alphabet[byte]] = (int16_t)byte;
}

/* Undo the alphabet into bytes (room for length); the number of bytes, or -1 when a character is not of the
   alphabet. */
static int64_t alphabet_decode(const int16_t byte_of[ALPHABET], const char *text, size_t length, char *bytes)
{
    int64_t n = 0;
    for (size_t i = 0; i < length;) {
        unsigned point = (unsigned char)text[i++];
        if (point >= 0x80) {
            if (point < 0xC2 || point > 0xDF || i == length || ((unsigned char)text[i] & 0xC0u) != 0x80u)
                return -1;
            point = (point & 0x1Fu) << 6 | ((unsigned char)text[i++] & 0x3Fu);
        }
        if (point >= ALPHABET || byte_of[point] < 0) return -1;
        bytes[n++] = (char)byte_of[point];
    }
    return n;
}

static size_t slot_find(const struct vocabulary *vocabulary, const char *text, size_t length)
{
    size_t slot = (size_t)XXH3_64bits(text, length) & (vocabulary->n_slots - 1);
    for (; vocabulary->slots[slot] >= 0; slot = (slot + 1) & (vocabulary->n_slots - 1)) {
        const struct gguf_string *known = &vocabulary->texts[vocabulary->slots[slot]];
        if (known->length == length && memcmp(known->bytes, text, length) == 0) break;
    }
    return slot;
}

int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *text, size_t length)
{
    return vocabulary->slots[slot_find(vocabulary, text, length)];
}

static enum err texts_index(struct vocabulary *vocabulary, struct err_info *info)
{
    vocabulary->n_slots = 64;
    while (vocabulary->n_slots < (size_t)vocabulary->size * 2) vocabulary->n_slots *= 2;
    vocabulary->slots = malloc(vocabulary->n_slots * sizeof *vocabulary->slots);
    if (!vocabulary->slots) return err_set(info, ERR_MEMORY, "no memory for the vocabulary");
    memset(vocabulary->slots, 0xFF, vocabulary->n_slots * sizeof *vocabulary->slots);
    for (int32_t token = 0; token < vocabulary->size; token++) {
        const struct gguf_string *text = &vocabulary->texts[token];
        size_t slot = slot_find(vocabulary, text->bytes, text->length);
        if (vocabulary->slots[slot] >= 0)
            return err_set_param(info, ERR_FORMAT, TOKENS_KEY, "%s[%d] is '%.*s', which is already token %d",
                                 TOKENS_KEY, token, text->length > 64 ? 64 : (int)text->length, text->bytes,
                                 vocabulary->slots[slot]);
        vocabulary->slots[slot] = token;
    }
    return ERR_OK;
}

static enum err types_read(const struct gguf *gguf, struct vocabulary *vocabulary, struct err_info *info)
{
    size_t size = (size_t)vocabulary->size;
    vocabulary->types = malloc(size);
    if (!vocabulary->types) return err_set(info, ERR_MEMORY, "no memory for the vocabulary");
    memset(vocabulary->types, TOKEN_NORMAL, size);
    if (!gguf_has(gguf, TYPES_KEY)) return ERR_OK;
    int32_t *types = malloc(size * sizeof *types);
    if (!types) return err_set(info, ERR_MEMORY, "no memory for the vocabulary");
    enum err err = gguf_get_i32s(gguf, TYPES_KEY, types, size, info);
    for (size_t i = 0; err == ERR_OK && i < size; i++) {
        if (types[i] < TOKEN_UNDEFINED || types[i] > TOKEN_BYTE)
            err = err_set_param(info, ERR_FORMAT, TYPES_KEY, "%s[%zu] is %d, not one of the types 0 to %d",
                                TYPES_KEY, i, (int)types[i], TOKEN_BYTE);
        else
            vocabulary->types[i] = (uint8_t)types[i];
    }
    free(types);
    return err;
}

static bool is_verbatim(uint8_t type)
{
    return type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED || type == TOKEN_UNKNOWN;
}

static enum err bytes_decode(struct vocabulary *vocabulary, struct err_info *info)
{
    size_t total = 1;
    for (int i = 0; i < vocabulary->size; i++) total += vocabulary->texts[i].length; /* within the file */
    vocabulary->bytes = malloc(total);
    vocabulary->offsets = malloc(((size_t)vocabulary->size + 1) * sizeof *vocabulary->offsets);
    if (!vocabulary->bytes || !vocabulary->offsets)
        return err_set(info, ERR_MEMORY, "no memory for the vocabulary");
    int16_t byte_of[ALPHABET];
    alphabet_fill(byte_of);
    memset(vocabulary->byte_tokens, 0xFF, sizeof vocabulary->byte_tokens);
    uint64_t at = 0;
    for (int32_t token = 0; token < vocabulary->size; token++) {
        const struct gguf_string *text = &vocabulary->texts[token];
        char *bytes = vocabulary->bytes + at;
        bool verbatim = is_verbatim(vocabulary->types[token]);
        int64_t n = verbatim ? -1 : alphabet_decode(byte_of, text->bytes, text->length, bytes);
        /* An ordinary token outside the alphabet stands for its own text, as in Hugging Face's decoder. */
        if (n < 0) {
            if (text->length > 0) memcpy(bytes, text->bytes, text->length);
            n = (int64_t)text->length;
        } else if (n == 1 && vocabulary->types[token] != TOKEN_UNUSED) {
            vocabulary->byte_tokens[(unsigned char)bytes[0]] = token;
        }
        vocabulary->offsets[token] = at;
        at += (uint64_t)n;
    }
    vocabulary->offsets[vocabulary->size] = at;
    return ERR_OK;
}

enum err vocabulary_create(const struct gguf *gguf, struct vocabulary **out, struct err_info *info)
{
    size_t size = 0;
    enum err err = gguf_array_length(gguf, TOKENS_KEY, &size, info);
    if (err != ERR_OK) return err;
    if (size == 0 || size > INT32_MAX / 4)
        return err_set_param(info, ERR_FORMAT, TOKENS_KEY, "%s has %zu elements", TOKENS_KEY, size);
    struct vocabulary *vocabulary = calloc(1, sizeof *vocabulary);
    if (!vocabulary) return err_set(info, ERR_MEMORY, "no memory for the vocabulary");
    vocabulary->size = (int)size;
    vocabulary->texts = malloc(size * sizeof *vocabulary->texts);
    err = vocabulary->texts ? gguf_get_strings(gguf, TOKENS_KEY, vocabulary->texts, size, info)
                            : err_set(info, ERR_MEMORY, "no memory for the vocabulary");
    if (err == ERR_OK) err = texts_index(vocabulary, info);
    if (err == ERR_OK) err = types_read(gguf, vocabulary, info);
    if (err == ERR_OK) err = bytes_decode(vocabulary, info);
    if (err == ERR_OK)
        *out = vocabulary;
    else
        vocabulary_free(vocabulary);
    return err;
}

void vocabulary_forget(struct vocabulary *vocabulary)
{
    free(vocabulary->texts);
    free(vocabulary->slots);
    vocabulary->texts = NULL;
    vocabulary->slots = NULL;
}

void vocabulary_free(struct vocabulary *vocabulary)
{
    if (!vocabulary) return;
    vocabulary_forget(vocabulary);
    free(vocabulary->types);
    free(vocabulary->bytes);
    free(vocabulary->offsets);
    free(vocabulary);
}

int vocabulary_size(const struct vocabulary *vocabulary)
{
    return vocabulary->size;
}

enum token_type vocabulary_type(const struct vocabulary *vocabulary, int32_t token)
{
    return (enum token_type)vocabulary->types[token];
}

const char *vocabulary_bytes(const struct vocabulary *vocabulary, int32_t token, size_t *length)
{
    *length = (size_t)(vocabulary->offsets[token + 1] - vocabulary->offsets[token]);
    return vocabulary->bytes + vocabulary->offsets[token];
}

int32_t vocabulary_byte_token(const struct vocabulary *vocabulary, unsigned char byte)
{
    return vocabulary->byte_tokens[byte];
}
