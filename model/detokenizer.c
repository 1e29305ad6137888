/*
 * Tokens to text while they come. What is invalid is replaced as Python's bytes.decode("utf-8", "replace")
 * does (Unicode 15, section 3.9, "substitution of maximal subparts"): each longest beginning of a sequence
 * that cannot go on becomes one U+FFFD. So only a beginning that can still go on is held back.
 */
#include "config/buf.h"
#include "model/tokenizer.h"

#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD"

enum part { PART_WHOLE, PART_BEGINNING, PART_INVALID };

/* What stands at bytes (n > 0 of them), and how many belong to it. */
static enum part part_find(const unsigned char *bytes, size_t n, size_t *size)
{
    unsigned char lead = bytes[0];
    *size = 1;
    if (lead < 0x80) return PART_WHOLE;
    if (lead < 0xC2 || lead > 0xF4) return PART_INVALID;
    size_t need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    for (; *size < need; ++*size) {
        if (*size == n) return PART_BEGINNING;
        unsigned char low = 0x80, high = 0xBF;
        if (*size == 1) { /* shuts out overlong forms, surrogates and values past U+10FFFF */
            low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
            high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        }
        if (bytes[*size] < low || bytes[*size] > high) return PART_INVALID;
    }
    return PART_WHOLE;
}

/* Append bytes, invalid parts replaced; the number left at the end that are the beginning of a sequence. */
static size_t text_append(const unsigned char *bytes, size_t n, struct buf *out)
{
    size_t done = 0, at = 0, size = 0;
    while (at < n) {
        enum part part = part_find(bytes + at, n - at, &size);
        if (part == PART_BEGINNING) break;
        if (part == PART_INVALID) {
            buf_append(out, bytes + done, at - done);
            buf_append(out, REPLACEMENT, 3);
            done = at + size;
        }
        at += size;
    }
    buf_append(out, bytes + done, at - done);
    return n - at;
}

void detokenizer_push(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, int32_t token,
                      bool skip_special, struct buf *out)
{
    if (skip_special && tokenizer_is_special(tokenizer, token)) return;
    size_t n = 0;
    const unsigned char *bytes = (const unsigned char *)tokenizer_bytes(tokenizer, token, &n);
    /* Byte by byte until what was held is complete or refuted. */
    while (detokenizer->n_held > 0 && n > 0) {
        size_t held = (size_t)detokenizer->n_held;
        detokenizer->held[held++] = *bytes++;
        n--;
        size_t left = text_append(detokenizer->held, held, out);
        memmove(detokenizer->held, detokenizer->held + held - left, left);
        detokenizer->n_held = (int)left;
    }
    if (n == 0) return;
    size_t left = text_append(bytes, n, out);
    memcpy(detokenizer->held, bytes + n - left, left);
    detokenizer->n_held = (int)left;
}

void detokenizer_flush(struct detokenizer *detokenizer, struct buf *out)
{
    if (detokenizer->n_held > 0) buf_append(out, REPLACEMENT, 3);
    detokenizer->n_held = 0;
}
