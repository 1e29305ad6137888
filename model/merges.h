#ifndef MODEL_MERGES_H
#define MODEL_MERGES_H

#include "config/err.h"
#include "model/gguf.h"
#include "model/vocabulary.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Byte-pair merges: of all neighbours in a word that the table can join, the pair with the lowest rank (the
 * leftmost of equals) is joined first, until none is left (Sennrich et al. 2016).
 */
struct merges;

/* From tokenizer.ggml.merges. ERR_FORMAT names the index of a merge that is not two tokens with one space
   between, or whose result is not a token. Of equal pairs the first counts. */
enum err merges_create(const struct gguf *gguf, const struct vocabulary *vocabulary, struct merges **out,
                       struct err_info *info);
void merges_free(struct merges *merges);

/* Work space for merges_apply, kept between words; one owner at a time. All zero to begin with. */
struct merges_scratch {
    void *memory;
    size_t bytes;
};

void merges_scratch_free(struct merges_scratch *scratch);

/* Join the n symbols of one word in place; the number left, -1 when memory is short. The time is n log n. */
int32_t merges_apply(const struct merges *merges, struct merges_scratch *scratch, int32_t *symbols,
                     int32_t n);

#endif
