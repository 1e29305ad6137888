#ifndef SERVER_API_STOP_H
#define SERVER_API_STOP_H

#include "config/arena.h"
#include "config/err.h"

#include <stddef.h>
#include <stdint.h>

/*
 * Stop strings in a stream of text. Each string is a Knuth-Morris-Pratt automaton that reads the text byte by
 * byte, so the work is bounded by its length, a string is found across any borders of tokens, and where it is
 * found does not depend on how the text arrived. Its state is the length of the longest suffix of the text
 * that may be the start of the string: the longest of these over all strings must be held back.
 */
struct api_stop_string {
    const char *text;
    size_t length;         /* 1 or more */
    const uint16_t *retry; /* [length] longest proper border of text[0..i] */
};

enum { API_STOP_MAX = 16, API_STOP_MAX_LENGTH = 4096 };

/* The set is immutable and shared by a request's choices. */
struct api_stop {
    int n;
    struct api_stop_string strings[API_STOP_MAX];
};

/* One text's place in all automata. Zero to begin. */
struct api_stop_scan {
    uint16_t state[API_STOP_MAX];
};

/* Adds a string (copied into the arena). ERR_INVALID: empty; ERR_LIMIT: too many or too long. */
enum err api_stop_add(struct api_stop *stop, struct arena *arena, const char *text, size_t length,
                      struct err_info *info);

/* Reads length more bytes. When a string is complete, *end is how many of these bytes were read up to and
   with its last one, and its length is returned (the longest of those that end there); 0 when none is. */
size_t api_stop_feed(const struct api_stop *stop, struct api_stop_scan *scan, const char *text, size_t length,
                     size_t *end);
/* The string that api_stop_feed found last; NULL when none was. */
const struct api_stop_string *api_stop_found(const struct api_stop *stop, const struct api_stop_scan *scan);
/* Bytes at the end of the text that may be the start of a stop string. */
size_t api_stop_held(const struct api_stop *stop, const struct api_stop_scan *scan);

#endif
