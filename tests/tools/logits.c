/*
 * logits MODEL.gguf FORMAT [CHUNK [RECENT [LEVEL [BITS [WEIGHTS]]]]]: token ids on stdin, one a line; on
 * stdout the logits after each of them as fp32, [ids][vocabulary]. FORMAT is the cache's: f16, o2...,
 * uncalibrated. CHUNK (default 512): tokens in one forward pass. BITS: of activations, 8 or 16 (default, and
 * 0: as for serving). WEIGHTS: on a card, as --device-weights takes it.
 */
#include "tests/unit/support/rig.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_TOKENS = 1 << 15 };

int main(int argc, char **argv)
{
    static int32_t tokens[MAX_TOKENS];
    struct rig_setup setup = {
        .level = argc > 5 ? argv[5] : "auto", .threads = 2, .sink_tokens = 4, .max_sequences = 1};
    struct err_info info;
    int n = 0;
    if (argc < 3 || kv_formats_check(argv[2], &info)) {
        fprintf(stderr, "logits MODEL.gguf FORMAT [CHUNK [RECENT [LEVEL [BITS [WEIGHTS]]]]] < ids\n");
        return 2;
    }
    while (n < MAX_TOKENS && scanf("%d", &tokens[n]) == 1) n++;
    setup.path = argv[1];
    setup.formats = argv[2];
    setup.max_rows = argc > 3 ? atoi(argv[3]) : 512;
    setup.recent_blocks = argc > 4 ? atoi(argv[4]) : 8;
    setup.activation_bits = argc > 6 ? atoi(argv[6]) : 0;
    if (argc > 7) setup.weights = backend_weights_named(argv[7]);
    setup.max_tokens = n;
    struct rig *rig = rig_create(&setup);
    struct kv_sequence *seq = rig_sequence(rig);
    size_t width = (size_t)model_config(rig->model)->n_vocab;
    for (int at = 0, step; at < n; at += step) {
        step = n - at < setup.max_rows ? n - at : setup.max_rows;
        const float *logits = rig_step(rig, &(struct rig_part){seq, tokens + at, step, false}, 1);
        if (fwrite(logits, width * sizeof *logits, (size_t)step, stdout) != (size_t)step) return 1;
    }
    kv_sequence_free(seq);
    rig_free(rig);
    return 0;
}
