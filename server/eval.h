#ifndef SERVER_EVAL_H
#define SERVER_EVAL_H

/*
 * `octavo eval`: what a cache format costs in quality. With --text the same text runs through the f16 cache
 * and through each format side by side, one batch a step, so that nothing needs to be stored: at every
 * position the next-token distributions are compared (KL divergence to f16, top-1 agreement) and both
 * perplexities taken. With --task problems are solved with every cache, or answers chosen, and counted.
 */

/* argv[0] is "eval". Returns the process's exit code: 0, 1 (failed) or 2 (usage). */
int eval_main(int argc, char **argv);

#endif
