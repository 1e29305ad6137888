#ifndef TESTS_UNIT_SUPPORT_ATTENTION_REFERENCE_H
#define TESTS_UNIT_SUPPORT_ATTENTION_REFERENCE_H

#include "kernels/backend.h"

/*
 * Attention of one query row by the book, in double precision: the formulas of kernels/kv_codec.h and
 * kernels/kv_page.h over what the pages say, sharing nothing with the kernels.
 */
enum attention_rounding {
    ATTENTION_EXACT,   /* queries and weights as they are */
    ATTENTION_ROUNDED, /* to 8 bits, as kernels/cpu/attention.h defines it */
};

/* out [head_dim]: row r of the span, query head h. */
void attention_reference(const struct attention_args *args, const struct attention_span *span, int r, int h,
                         enum attention_rounding rounding, double *out);

#endif
