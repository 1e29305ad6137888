#ifndef CONFIG_NEAREST_H
#define CONFIG_NEAREST_H

#include <stddef.h>

/* The name closest to what was typed (edit distance, at most a third of its length, and 2 at least), for "did
   you mean"; NULL when none is close. Names past 63 bytes are never close. */
const char *nearest_name(const char *typed, const char *const *names, size_t n_names);

#endif
