#ifndef SERVER_CONSTRAINT_H
#define SERVER_CONSTRAINT_H

#include "config/err.h"
#include "config/json.h"
#include "model/grammar.h"
#include "server/metrics.h"
#include "server/reasoning.h"
#include "server/tools.h"

/*
 * What a body asks a reply's text to be: response_format (OpenAI), guided_json, guided_regex, guided_choice,
 * guided_grammar, structured_outputs (vLLM), grammar, json_schema (llama-server). Compiled on the HTTP
 * thread, kept by content: requests that ask for the same share one grammar and its masks.
 */
struct constraint_cache; /* least recently used ones go first; a lock of its own */
/* metrics may be NULL. */
enum err constraint_cache_create(const struct tokenizer *tokenizer, size_t max_bytes, struct metrics *metrics,
                                 struct constraint_cache **out, struct err_info *info);
void constraint_cache_free(struct constraint_cache *cache);
const struct grammar_vocabulary *constraint_vocabulary(const struct constraint_cache *cache);

/* *out: a reference, or NULL when the body asks for nothing. At most one of the fields may be given; with
   tools that constrain (required, named) none; with tools that may be called (auto) the reply is calls, or
   has the form asked for. tools: NULL or those of the request. ERR_INVALID, ERR_UNSUPPORTED and ERR_LIMIT
   name the field ("response_format.json_schema.schema"), and the message the place in it.

   reasoning: how the replies are read; thoughts come before what is asked for, which holds for the answer
   alone. `exact` is set where a form is asked for. A regex, a grammar or choices could themselves begin with
   the tag that opens thoughts: with them a reply thinks only where the prompt says so, else place becomes
   REASONING_NONE. */
enum err constraint_get(struct constraint_cache *cache, const struct json *body, const struct tools *tools,
                        struct reasoning *reasoning, struct grammar **out, struct err_info *info);

#endif
