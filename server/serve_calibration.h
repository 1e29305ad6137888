#ifndef SERVER_SERVE_CALIBRATION_H
#define SERVER_SERVE_CALIBRATION_H

#include "cache/calibration.h"
#include "config/options.h"
#include "kernels/backend.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

#include <stdbool.h>

/*
 * The calibration that a server starts with. --calibration names it; otherwise it is MODEL.octocal, or a file
 * named after the model's hash in the user's cache folder; otherwise it is made on the spot from the embedded
 * text and kept in the first of these two places that can be written.
 */
struct workers;

struct serve_calibration {
    const struct options *options;
    const struct gguf *gguf;
    const struct tokenizer *tokenizer;
    struct backend *backend;
    struct workers *workers;
    bool (*stop)(void); /* asked a few times a second: true ends a calibration that is being made */
};

/* MODEL.octocal, into path. False: longer than size. */
bool serve_calibration_beside(const char *model, char *path, size_t size);

/* *out: NULL when there is none: with --no-calibration, and when it could not be made, which the log says.
   Loads the model a second time while it calibrates. Errors: a file that was asked for and is not good;
   ERR_CLOSED: stopped. */
enum err serve_calibration_get(const struct serve_calibration *call, struct calibration **out,
                               struct err_info *info);

#endif
