#include "model/grammar_text.h"

#include "tests/unit/support/grammar_probe.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte gives the options, the rest is a pattern. Whatever it is, it is refused with a message or
   becomes a grammar from whose texts every start can be finished. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct grammar_limits limits = {
        .max_nodes = 4000, .max_states = 4000, .max_bytes = 1 << 22, .max_time_us = 200000, .max_depth = 64};
    if (size == 0) return 0;
    struct grammar_regex_options options = {data[0] & 1, data[0] >> 1 & 1};
    struct grammar_builder *builder = grammar_builder_create(&limits);
    struct grammar *grammar = NULL;
    struct err_info info = {0};
    int root = -1;
    if (!builder) abort();
    enum err err = grammar_regex(builder, (const char *)data + 1, size - 1, &options, &root, &info);
    err = grammar_probe_build(builder, err, root, &grammar, &info);
    grammar_probe_check(err, grammar, &info);
    return 0;
}
