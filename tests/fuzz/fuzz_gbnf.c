#include "model/grammar_text.h"

#include "tests/unit/support/grammar_probe.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Any bytes as GBNF: refused with a message, or a grammar from whose texts every start can be finished, if
   only within the limit of depth. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct grammar_limits limits = {
        .max_nodes = 4000, .max_states = 4000, .max_bytes = 1 << 22, .max_time_us = 200000, .max_depth = 64};
    struct grammar_builder *builder = grammar_builder_create(&limits);
    struct grammar *grammar = NULL;
    struct err_info info = {0};
    int root = -1;
    if (!builder) abort();
    enum err err = grammar_gbnf(builder, (const char *)data, size, &root, &info);
    err = grammar_probe_build(builder, err, root, &grammar, &info);
    grammar_probe_check(err, grammar, &info);
    return 0;
}
