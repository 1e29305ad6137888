#include "model/fim.h"

#include <stdlib.h>
#include <string.h>

/* ---- which tokens ---- */

enum { MOST_NAMES = 8 };

static const struct fim_names {
    size_t offset;
    const char *keys[2];
    const char *names[MOST_NAMES];
} table[] = {
    {offsetof(struct fim, prefix),
     {"tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"},
     {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
      "<|code_prefix|>"}},
    {offsetof(struct fim, suffix),
     {"tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"},
     {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
      "<|code_suffix|>"}},
    {offsetof(struct fim, middle),
     {"tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"},
     {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
      "<|code_middle|>"}},
    {offsetof(struct fim, pad),
     {"tokenizer.ggml.fim_pad_token_id"},
     {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>"}},
    {offsetof(struct fim, repository),
     {"tokenizer.ggml.fim_rep_token_id"},
     {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
    {offsetof(struct fim, separator),
     {"tokenizer.ggml.fim_sep_token_id"},
     {"<|file_sep|>", "<|file_separator|>"}},
};

/* The one token that this text is, not as plain text but as an entry of its own; -1 when there is none. */
static int32_t token_named(const struct tokenizer *tokenizer, const char *name)
{
    int32_t *tokens = NULL;
    size_t n = 0, length = 0;
    struct err_info info;
    if (tokenizer_encode(tokenizer, name, strlen(name), false, true, 64, &tokens, &n, &info) != ERR_OK)
        return -1;
    int32_t found = n == 1 ? tokens[0] : -1;
    free(tokens);
    if (found < 0 || !tokenizer_is_special(tokenizer, found)) return -1;
    const char *bytes = tokenizer_bytes(tokenizer, found, &length);
    return length == strlen(name) && memcmp(bytes, name, length) == 0 ? found : -1;
}

static int32_t find(const struct gguf *gguf, const struct tokenizer *tokenizer, const struct fim_names *entry)
{
    struct err_info info;
    uint32_t id;
    for (int i = 0; i < 2 && entry->keys[i] != NULL; i++)
        if (gguf_has(gguf, entry->keys[i]) && gguf_get_u32(gguf, entry->keys[i], &id, &info) == ERR_OK &&
            id < (uint32_t)tokenizer_vocab_size(tokenizer))
            return (int32_t)id;
    for (int i = 0; i < MOST_NAMES && entry->names[i] != NULL; i++) {
        int32_t token = token_named(tokenizer, entry->names[i]);
        if (token >= 0) return token;
    }
    return -1;
}

void fim_find(const struct gguf *gguf, const struct tokenizer *tokenizer, struct fim *out)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        int32_t token = find(gguf, tokenizer, &table[i]);
        memcpy((char *)out + table[i].offset, &token, sizeof token);
    }
}

bool fim_usable(const struct fim *fim)
{
    return fim->prefix >= 0 && fim->suffix >= 0 && fim->middle >= 0;
}

/* ---- the prompt ---- */

/* Tokens that grow. The first failure sticks. */
struct writer {
    const struct tokenizer *tokenizer;
    size_t max_tokens;
    int32_t *tokens;
    size_t n, room;
    enum err err;
    struct err_info *info;
};

static void append(struct writer *writer, const int32_t *tokens, size_t n)
{
    if (writer->err != ERR_OK || n == 0) return;
    if (n > writer->max_tokens - writer->n) {
        writer->err = err_set(writer->info, ERR_LIMIT, "more than %zu tokens", writer->max_tokens);
        return;
    }
    if (n > writer->room - writer->n) {
        size_t room = 2 * (writer->n + n);
        int32_t *larger = realloc(writer->tokens, room * sizeof *larger);
        if (larger == NULL) {
            writer->err = err_set(writer->info, ERR_MEMORY, "no memory for the prompt");
            return;
        }
        writer->tokens = larger;
        writer->room = room;
    }
    memcpy(writer->tokens + writer->n, tokens, n * sizeof *tokens);
    writer->n += n;
}

static void append_token(struct writer *writer, int32_t token)
{
    if (token >= 0) append(writer, &token, 1);
}

static void append_text(struct writer *writer, const char *text, size_t length, bool add_special)
{
    int32_t *tokens = NULL;
    size_t n = 0;
    if (writer->err == ERR_OK)
        writer->err = tokenizer_encode(writer->tokenizer, text, length, add_special, false,
                                       writer->max_tokens, &tokens, &n, writer->info);
    append(writer, tokens, n);
    free(tokens);
}

static void append_piece(struct writer *writer, const struct fim_piece *piece)
{
    if (piece->tokens != NULL)
        append(writer, piece->tokens, piece->n);
    else
        append_text(writer, piece->text, piece->length, false);
}

static void append_files(struct writer *writer, const struct fim *fim, const struct fim_file *files,
                         size_t n_files)
{
    static const char repository[] = "repository\n", current[] = "current\n", rule[] = "\n\n";
    if (fim->separator >= 0 && fim->repository >= 0) {
        append_token(writer, fim->repository);
        append_text(writer, repository, sizeof repository - 1, false);
    }
    for (size_t i = 0; i < n_files; i++) {
        append_token(writer, fim->separator);
        if (fim->separator >= 0) {
            append_text(writer, files[i].name, files[i].name_length, false);
            append_text(writer, "\n", 1, false);
        }
        append_text(writer, files[i].text, files[i].text_length, false);
        if (fim->separator < 0) append_text(writer, rule, sizeof rule - 1, false);
    }
    append_token(writer, fim->separator);
    if (fim->separator >= 0) append_text(writer, current, sizeof current - 1, false);
}

/* The last tokens of the other files that `room` takes, in front. */
static void put_in_front(struct writer *writer, const struct writer *files, size_t at)
{
    size_t room = writer->max_tokens - writer->n, n = files->n < room ? files->n : room,
           rest = writer->n - at;
    const int32_t *last = files->tokens + (files->n - n);
    append(writer, last, n); /* makes the room */
    if (writer->err != ERR_OK || n == 0) return;
    memmove(writer->tokens + at + n, writer->tokens + at, rest * sizeof *writer->tokens);
    memcpy(writer->tokens + at, last, n * sizeof *writer->tokens);
}

enum err fim_encode(const struct fim *fim, const struct tokenizer *tokenizer, const struct fim_piece *before,
                    const struct fim_piece *after, const struct fim_file *files, size_t n_files,
                    size_t max_tokens, int32_t **tokens, size_t *n, struct err_info *info)
{
    struct writer writer = {.tokenizer = tokenizer, .max_tokens = max_tokens, .info = info};
    struct writer others = {.tokenizer = tokenizer, .max_tokens = SIZE_MAX / sizeof(int32_t), .info = info};
    append_text(&writer, "", 0, true);
    size_t at = writer.n;
    append_token(&writer, fim->prefix);
    append_piece(&writer, before);
    append_token(&writer, fim->suffix);
    append_piece(&writer, after);
    append_token(&writer, fim->middle);
    if (writer.err == ERR_OK && n_files > 0) {
        append_files(&others, fim, files, n_files);
        writer.err = others.err;
        if (writer.err == ERR_OK) put_in_front(&writer, &others, at);
    }
    free(others.tokens);
    if (writer.err != ERR_OK) {
        free(writer.tokens);
        return writer.err;
    }
    *tokens = writer.tokens;
    *n = writer.n;
    return ERR_OK;
}
