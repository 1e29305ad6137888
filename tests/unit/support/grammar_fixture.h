#ifndef SUPPORT_GRAMMAR_FIXTURE_H
#define SUPPORT_GRAMMAR_FIXTURE_H

#include "model/grammar.h"

/*
 * A small vocabulary for tests of grammars: the 256 bytes (token b is byte b), the texts that a test gives,
 * then GRAMMAR_FIXTURE_* tokens. Aborts when something cannot be made.
 */
struct grammar_fixture {
    struct tokenizer *tokenizer;
    struct grammar_vocabulary *vocabulary;
    int n_tokens;
    int32_t end, control, unused; /* "<|endoftext|>", "<|call|>" (a control token), a token that pads */
};

/* texts: NUL-terminated bytes, none twice and none of one byte. */
void grammar_fixture_init(struct grammar_fixture *fixture, const char *const *texts, size_t n);
void grammar_fixture_free(struct grammar_fixture *fixture);

/* The mask of the state holds just the tokens that grammar_accept takes; how many. Aborts otherwise, naming
   the token. */
int grammar_fixture_check(const struct grammar_fixture *fixture, const struct grammar *grammar,
                          const struct grammar_state *state, struct grammar_scratch *scratch,
                          uint32_t *allowed /* [(n_tokens + 31) / 32] */);

#endif
