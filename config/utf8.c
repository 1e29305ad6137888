#include "config/utf8.h"

#include <stdbool.h>

static bool in_range(char byte, unsigned low, unsigned high)
{
    return (unsigned char)byte >= low && (unsigned char)byte <= high;
}

size_t utf8_sequence(const char *text, size_t length)
{
    if (length == 0) return 0;
    unsigned char lead = (unsigned char)text[0];
    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return 0;
    size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length < size) return 0;
    /* The second byte's range is what shuts out overlong forms, surrogates and values past U+10FFFF. */
    unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (!in_range(text[1], low, high)) return 0;
    for (size_t i = 2; i < size; i++)
        if (!in_range(text[i], 0x80, 0xBF)) return 0;
    return size;
}

size_t utf8_valid(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length) {
        size_t size = utf8_sequence(text + at, length - at);
        if (size == 0) break;
        at += size;
    }
    return at;
}

size_t utf8_count(const char *text, size_t length)
{
    size_t n = 0;
    for (size_t i = 0; i < length; i++) n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

uint32_t utf8_decode(const char *text, size_t *size)
{
    const unsigned char *b = (const unsigned char *)text;
    *size = b[0] < 0x80 ? 1 : b[0] < 0xE0 ? 2 : b[0] < 0xF0 ? 3 : 4;
    static const unsigned char lead[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t code = b[0] & lead[*size];
    for (size_t i = 1; i < *size; i++) code = code << 6 | (b[i] & 0x3Fu);
    return code;
}

size_t utf8_encode(uint32_t code, char bytes[4])
{
    size_t size = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = size; i-- > 1; code >>= 6) bytes[i] = (char)(0x80 | (code & 0x3F));
    bytes[0] = (char)(lead[size] | code);
    return size;
}
