#ifndef SERVER_INFILL_H
#define SERVER_INFILL_H

#include "server/generation.h"

/*
 * Fill in the middle over HTTP: what /v1/completions with `suffix` and llama-server's POST /infill share, and
 * the latter:
 *
 *   {"input_prefix", "input_suffix", "prompt" (comes after input_prefix), "input_extra": [{"filename",
 *    "text"}], and the fields of /completion} -> as /completion
 */
struct http_call;

/* For parse: ERR_INVALID naming the field when the model was not made for it; else the tokens that end a file
   end the choice. */
enum err infill_begin(struct generation *generation, const char *field, struct err_info *info);

/* The handler; context is a struct api. */
void infill_handle(struct http_call *call, void *context);

#endif
