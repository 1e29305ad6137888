#ifndef SERVER_ENGINE_CACHE_H
#define SERVER_ENGINE_CACHE_H

#include "server/engine_internal.h"

/*
 * The engine's side of the prefix cache (cache/prefix.h) and of the scheduler's view of it (server/sched.h:
 * sched_cache): which keys a sequence's blocks have, what of them is cached, and who computes a block that
 * several sequences want next.
 */

/* Creates engine->prefix and attaches the sequences, unless the options say no. */
enum err engine_cache_create(struct engine *engine, struct err_info *info);
void engine_cache_free(struct engine *engine);

/* options.prompt_cache. A file that is not there yet is none; another fault is an error: ERR_FORMAT, ERR_IO.
 */
enum err engine_cache_load(struct engine *engine, struct err_info *info);
/* Once no sequence has blocks any more; a fault is logged. */
void engine_cache_save(const struct engine *engine);

/* The keys of the first n blocks of a job, whose tokens must be known; and how many of the newest are read
   with their recent parts. */
const struct kv_hash *engine_cache_job_keys(const struct engine *engine, struct engine_job *job, int n);
int engine_cache_recent(const struct kv_policy *policy);

/* For a job's keys: of a whole request of n_prompt + max_tokens tokens. */
int engine_cache_keys(int n_prompt, int max_tokens);

/* A new step: nobody computes anything yet. */
void engine_cache_begin(struct engine *engine);
/* A job that runs without a hit: a sequence of its own. */
void engine_cache_open(struct engine *engine, struct engine_job *job);
/* Its step is done: its full blocks are cached. */
void engine_cache_end(struct engine *engine, struct engine_job *job);
/* The sequence is given back. */
void engine_cache_close(struct engine *engine, struct engine_job *job);

#endif
