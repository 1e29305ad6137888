#ifndef MODEL_ADDED_H
#define MODEL_ADDED_H

#include "config/err.h"
#include "model/vocabulary.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Added tokens: control and user-defined tokens, which are found in the text before it is cut into words. The
 * leftmost match counts, and of those the longest, as in Hugging Face's tokenizers.
 */
struct added;

enum err added_create(const struct vocabulary *vocabulary, struct added **out, struct err_info *info);
void added_free(struct added *added);

/* The first added token at or after text + from: its place and length, and its id as the result; -1 when
   there is none. User-defined tokens always count, control tokens only with_control, and where there are
   marks ([length], may be NULL) only those of whose bytes all are marked. */
int32_t added_find(const struct added *added, const char *text, size_t length, const unsigned char *marks,
                   size_t from, bool with_control, size_t *at, size_t *match_length);

#endif
