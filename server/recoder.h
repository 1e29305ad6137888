#ifndef SERVER_RECODER_H
#define SERVER_RECODER_H

#include "server/evaluation.h"

/*
 * `octavo eval --rule all`: every token is read through its format's codes, the query's own too, as
 * evaluations of quantizers do (RotateKV's own among them) and no server would. All caches are then f16
 * sequences; as soon as a layer has stored a block, the block is sealed into scratch and unsealed in place,
 * and attention reads on in f16. So a block has to come in one step.
 *
 * What stays exact: the first sink_tokens; for format rotatekv, as published, the 20 largest activations of
 * the window: by layer, the tokens that hold the 20 entries of largest absolute value in what enters the
 * layer. No prompt's first tokens can know them, so the window is run through the f16 cache once before, and
 * they are taken from there.
 *
 * A trellis code of values joins 16 tokens, so what a token is read as depends on those after it in its
 * sixteen: here alone; a server codes complete blocks only.
 */
struct recoder;

/* Of a loaded evaluation, which outlives it. ERR_MEMORY. */
enum err recoder_create(struct evaluation *evaluation, struct recoder **out, struct err_info *info);
void recoder_free(struct recoder *recoder); /* NULL-safe */

/* Does some format need the watching pass before each window? */
bool recoder_wants_watching(const struct recoder *recoder);
/* Forgets the window before. */
void recoder_reset(struct recoder *recoder);

/* The two uses of model_batch.stored; the context is the recoder, told of the step by recoder_step: token
   first_pos of the window is the batch's first row, spans [caches] are those of the batch. */
void recoder_step(struct recoder *recoder, int first_pos, int n_tokens, const struct attention_span *spans);
void recoder_watch(void *recoder, int layer, const float *hidden);
void recoder_recode(void *recoder, int layer, const float *hidden);

#endif
