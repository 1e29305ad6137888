#ifndef CONFIG_UTF8_H
#define CONFIG_UTF8_H

#include <stddef.h>

/*
 * Length in bytes (1 to 4) of the well-formed UTF-8 sequence at text, of which `length` bytes are there; 0
 * when there is none: overlong forms, surrogates, values past U+10FFFF, stray and missing continuation bytes,
 * or length 0 (Unicode 15, table 3-7).
 */
size_t utf8_sequence(const char *text, size_t length);

/* Bytes at the start of text that are well-formed; equal to length when all are. */
size_t utf8_valid(const char *text, size_t length);

#endif
