#include "tests/unit/support/grammar_fixture.h"

#include "model/gguf.h"
#include "model/gguf_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_BYTES = 256, N_SPECIAL = 3, LONGEST_NAME = 512 };

static void die(const char *message)
{
    fprintf(stderr, "grammar fixture: %s\n", message);
    abort();
}

/* The byte in GPT-2's alphabet. */
static size_t byte_name(unsigned byte, char *out)
{
    unsigned shifted = 0x100, point = 0;
    for (unsigned b = 0; b <= byte; b++) {
        bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        point = printable ? b : shifted++;
    }
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    out[0] = (char)(0xC0 | point >> 6);
    out[1] = (char)(0x80 | (point & 0x3F));
    return 2;
}

void grammar_fixture_init(struct grammar_fixture *fixture, const char *const *texts, size_t n)
{
    size_t n_tokens = N_BYTES + n + N_SPECIAL;
    char(*names)[LONGEST_NAME] = calloc(n_tokens, sizeof *names);
    const char **tokens = calloc(n_tokens, sizeof *tokens);
    int32_t *types = calloc(n_tokens, sizeof *types);
    if (!names || !tokens || !types) die("no memory");
    for (size_t i = 0; i < n_tokens; i++) {
        tokens[i] = names[i];
        types[i] = 1;
        if (i < N_BYTES) byte_name((unsigned)i, names[i]);
        if (i < N_BYTES || i >= N_BYTES + n) continue;
        const char *text = texts[i - N_BYTES];
        if (strlen(text) * 2 >= LONGEST_NAME) die("a text is too long");
        for (size_t j = 0, at = 0; text[j]; j++) at += byte_name((unsigned char)text[j], names[i] + at);
    }
    fixture->end = (int32_t)(N_BYTES + n);
    fixture->control = fixture->end + 1;
    fixture->unused = fixture->end + 2;
    fixture->n_tokens = (int)n_tokens;
    strcpy(names[fixture->end], "<|endoftext|>");
    strcpy(names[fixture->control], "<|call|>");
    strcpy(names[fixture->unused], "[PAD]");
    types[fixture->end] = types[fixture->control] = 3;
    types[fixture->unused] = 5;
    struct gguf_writer *writer = gguf_writer_create(32);
    gguf_writer_string(writer, "tokenizer.ggml.model", "gpt2");
    gguf_writer_string(writer, "tokenizer.ggml.pre", "gpt-2");
    gguf_writer_strings(writer, "tokenizer.ggml.tokens", tokens, n_tokens);
    gguf_writer_i32s(writer, "tokenizer.ggml.token_type", types, n_tokens);
    gguf_writer_strings(writer, "tokenizer.ggml.merges", (const char *const[]){"a b"}, 0);
    gguf_writer_u32(writer, "tokenizer.ggml.eos_token_id", (uint32_t)fixture->end);
    size_t length = 0;
    void *file = gguf_writer_finish(writer, &length);
    struct gguf *gguf = NULL;
    struct err_info info = {0};
    if (gguf_open_memory(file, length, &gguf, &info) != ERR_OK ||
        tokenizer_create(gguf, &fixture->tokenizer, &info) != ERR_OK ||
        grammar_vocabulary_create(fixture->tokenizer, &fixture->vocabulary, &info) != ERR_OK)
        die(info.message);
    gguf_close(gguf);
    free(file);
    free(names);
    free(tokens);
    free(types);
}

void grammar_fixture_free(struct grammar_fixture *fixture)
{
    grammar_vocabulary_free(fixture->vocabulary);
    tokenizer_free(fixture->tokenizer);
}

int grammar_fixture_check(const struct grammar_fixture *fixture, const struct grammar *grammar,
                          const struct grammar_state *state, struct grammar_scratch *scratch,
                          uint32_t *allowed)
{
    void *memory = malloc(grammar_state_bytes(grammar));
    if (!memory) die("no memory");
    int n = grammar_mask(state, scratch, allowed), count = 0;
    for (int32_t token = 0; token < (fixture->n_tokens + 31) / 32 * 32; token++) {
        struct grammar_state *copy = grammar_state_init(memory, grammar);
        grammar_state_copy(copy, state);
        bool expected = token < fixture->n_tokens && grammar_accept(copy, token);
        bool got = allowed[token >> 5] >> (token & 31) & 1;
        count += expected;
        if (got == expected) continue;
        size_t length = 0;
        const char *bytes = tokenizer_bytes(fixture->tokenizer, token, &length);
        fprintf(stderr, "token %d '%.*s' is %s by the mask, and grammar_accept says otherwise\n", token,
                (int)length, bytes, got ? "allowed" : "not allowed");
        abort();
    }
    if (n != count) die("the mask's count is wrong");
    free(memory);
    return n;
}
