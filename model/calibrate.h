#ifndef MODEL_CALIBRATE_H
#define MODEL_CALIBRATE_H

#include "cache/calibration.h"
#include "model/model.h"

/*
 * Calibration: some sequences of text run through the model with its f16 cache; their queries, keys and
 * values give the means and transforms of design 2.2.
 */
struct workers;

enum { CALIBRATE_SEQUENCE_TOKENS = 2048, CALIBRATE_SEQUENCES = 8 };

struct calibrate_options {
    struct backend *backend;
    struct workers *workers;
    int sink_tokens;
    /* Called often, on the calling thread: done of total. False stops the calibration. May be NULL. */
    bool (*progress)(void *context, int done, int total);
    void *progress_context;
};

/* tokens [n_tokens]: cut into sequences of CALIBRATE_SEQUENCE_TOKENS (less when the model's context is
   shorter), at most CALIBRATE_SEQUENCES of them; a model made with max_rows >= CALIBRATE_SEQUENCE_TOKENS. The
   result carries the file's hash. ERR_INVALID: fewer than four blocks of tokens; ERR_CLOSED: `progress` said
   so. */
enum err calibrate_run(struct model *model, const struct gguf *gguf, const struct calibrate_options *options,
                       const int32_t *tokens, size_t n_tokens, struct calibration **out,
                       struct err_info *info);

#endif
