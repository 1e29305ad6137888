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
