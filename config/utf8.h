#ifndef CONFIG_UTF8_H
#define CONFIG_UTF8_H

#include <stddef.h>
#include <stdint.h>

/*
 * Length in bytes (1 to 4) of the well-formed UTF-8 sequence at text, of which `length` bytes are there; 0
 * when there is none: overlong forms, surrogates, values past U+10FFFF, stray and missing continuation bytes,
 * or length 0 (Unicode 15, table 3-7).
 */
size_t utf8_sequence(const char *text, size_t length);

/* Bytes at the start of text that are well-formed; equal to length when all are. */
size_t utf8_valid(const char *text, size_t length);

/* Characters in text: bytes that begin one, also where it is not well-formed. */
size_t utf8_count(const char *text, size_t length);

/* The character at text, which is well-formed, and its length in bytes. */
uint32_t utf8_decode(const char *text, size_t *size);

/* The bytes of a character (below 0x110000); returns how many. */
size_t utf8_encode(uint32_t code, char bytes[4]);

#endif
