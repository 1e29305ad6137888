/*
 * Any bytes as text for each pre-tokenizer, on the tiny model's vocabulary (which has every byte). The first
 * byte chooses the pre-tokenizer and whether control tokens are parsed. The tokens' bytes put together are
 * the text again, unless it was normalized; what the detokenizer makes of them is well-formed UTF-8.
 */
#include "config/buf.h"
#include "config/utf8.h"
#include "model/gguf.h"
#include "model/nfc.h"
#include "model/tokenizer.h"
#include "tests/unit/support/tiny_model.h"

#include <stdlib.h>
#include <string.h>

enum { N_RULES = 4, QWEN2 = 2, PARSE_SPECIAL = 4, LONGEST = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool right)
{
    if (!right) abort();
}

static const struct tokenizer *tokenizer_of(unsigned rule)
{
    static const char *const names[N_RULES] = {"gpt-2", "smollm", "qwen2", "llama-bpe"};
    static struct tokenizer *tokenizers[N_RULES];
    if (tokenizers[rule]) return tokenizers[rule];
    struct tiny_model tiny = tiny_model_default();
    tiny.pre = names[rule];
    size_t length = 0;
    void *bytes = tiny_model_bytes(&tiny, &length);
    struct gguf *gguf = NULL;
    check(gguf_open_memory(bytes, length, &gguf, NULL) == ERR_OK);
    check(tokenizer_create(gguf, &tokenizers[rule], NULL) == ERR_OK);
    gguf_close(gguf);
    free(bytes);
    return tokenizers[rule];
}

static void check_round_trip(const struct tokenizer *tokenizer, const int32_t *tokens, size_t n,
                             const char *text, size_t length)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t token_length = 0;
        const char *bytes = tokenizer_bytes(tokenizer, tokens[i], &token_length);
        check(token_length <= length - at && memcmp(text + at, bytes, token_length) == 0);
        at += token_length;
    }
    check(at == length);
}

static void check_stream(const struct tokenizer *tokenizer, const int32_t *tokens, size_t n, const char *text,
                         size_t length)
{
    struct detokenizer detokenizer = {0};
    struct buf out;
    buf_init(&out, 4 * (size_t)LONGEST);
    for (size_t i = 0; i < n; i++) {
        size_t before = out.length;
        detokenizer_push(&detokenizer, tokenizer, tokens[i], false, &out);
        if (out.length > before)
            check(utf8_valid(out.data + before, out.length - before) == out.length - before);
    }
    detokenizer_flush(&detokenizer, &out);
    check(!out.failed);
    if (text && utf8_valid(text, length) == length)
        check(out.length == length && (length == 0 || memcmp(out.data, text, length) == 0));
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > LONGEST) return 0;
    unsigned rule = data[0] % N_RULES;
    const struct tokenizer *tokenizer = tokenizer_of(rule);
    size_t length = size - 1;
    char *text = malloc(length + 1); /* a copy of its own, so that asan sees reads past its end */
    if (!text) return 0;
    memcpy(text, data + 1, length);
    int32_t *tokens = NULL;
    size_t n = 0;
    check(tokenizer_encode(tokenizer, text, length, false, data[0] & PARSE_SPECIAL, SIZE_MAX, &tokens, &n,
                           NULL) == ERR_OK);
    bool kept = rule != QWEN2 || !nfc_may_change(text, length);
    if (kept) check_round_trip(tokenizer, tokens, n, text, length);
    check_stream(tokenizer, tokens, n, kept ? text : NULL, length);
    free(tokens);
    free(text);
    return 0;
}
