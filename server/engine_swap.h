#ifndef SERVER_ENGINE_SWAP_H
#define SERVER_ENGINE_SWAP_H

#include "server/engine_internal.h"

/*
 * The engine's side of the second store (cache/swap.h): what goes there when the prefix cache gives it up,
 * what comes back when a sequence is admitted, and whether either is cheaper than to compute it again. Both
 * are measured: microseconds to compute a token of a prompt, and to copy a byte out and in.
 *
 * A sequence whose blocks are on their way from the file stays the next one in the queue, and is admitted by
 * the first plan that finds them there; those that run go on meanwhile.
 */

/* Creates engine->swap unless options.swap_bytes is 0. After the prefix cache. */
enum err engine_swap_create(struct engine *engine, struct err_info *info);
void engine_swap_free(struct engine *engine);

/* Before every plan: what has come back. */
void engine_swap_begin(struct engine *engine);
/* After a plan with nothing to do: waits, for some ms at most, when that is because blocks are on their way.
 */
void engine_swap_wait(struct engine *engine);

/* Whether to copy so many bytes is cheaper than to compute so many tokens; what is not known yet (0) is
   tried. A copy found too dear makes its estimate cheaper by a hundredth: what was slow once is tried again.
 */
bool engine_swap_pays(double token_us, int n_tokens, double byte_us, size_t n_bytes);

#endif
