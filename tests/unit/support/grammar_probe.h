#ifndef SUPPORT_GRAMMAR_PROBE_H
#define SUPPORT_GRAMMAR_PROBE_H

#include "config/buf.h"
#include "model/grammar.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Questions about a grammar's language, for tests: a grammar with one state of it.
 */
struct grammar_probe {
    struct grammar *grammar;
    struct grammar_state *start, *now, *other; /* of the text's start; scratch */
    const char *favourites;                    /* bytes that walks prefer now and then; NULL at first */
};

/* A tokenizer's vocabulary (tiny_model.h), made once for the process. */
const struct grammar_vocabulary *grammar_probe_vocabulary(void);
const struct tokenizer *grammar_probe_tokenizer(void);

/* The end of every way from a text to a grammar: builds root for that vocabulary unless a front end has
   failed (err), and frees the builder. */
enum err grammar_probe_build(struct grammar_builder *builder, enum err err, int root, struct grammar **out,
                             struct err_info *info);

/* Takes the reference. */
void grammar_probe_init(struct grammar_probe *probe, struct grammar *grammar);
void grammar_probe_free(struct grammar_probe *probe);

/* How many of the bytes the grammar accepts one after the other; *ends: the text may end there. */
size_t grammar_probe_accept(struct grammar_probe *probe, const char *text, size_t length, bool *ends);

/* texts: those that the grammar has, NULL, those that it has not, NULL. The first that is not as it should
   be, or NULL; *expected and *n: whether it should be accepted, and how many of its bytes are. */
const char *grammar_probe_wrong(struct grammar_probe *probe, const char *const *texts, bool *expected,
                                size_t *n);

enum grammar_walk { GRAMMAR_WALK_ENDED, GRAMMAR_WALK_CUT, GRAMMAR_WALK_DEAD };
/* Appends a random text, byte by byte among those that the grammar allows, and stops at random where it may
   end. CUT: max_bytes came first. DEAD: nothing was allowed where the text may not end. */
enum grammar_walk grammar_probe_walk(struct grammar_probe *probe, uint64_t *seed, size_t max_bytes,
                                     struct buf *out);

/* For fuzz targets: what grammar_probe_build returned. Aborts when a refusal has no message, or when a text's
   start cannot be finished; releases the grammar. */
void grammar_probe_check(enum err err, struct grammar *grammar, const struct err_info *info);

#endif
