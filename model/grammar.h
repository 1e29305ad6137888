#ifndef MODEL_GRAMMAR_H
#define MODEL_GRAMMAR_H

#include "config/err.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Which bytes may come next: a context-free grammar over bytes, run as a pushdown automaton beside a sequence
 * that is being generated, and what it means for a vocabulary: the set of tokens that keep the text inside
 * the grammar.
 *
 * A grammar is built bottom-up from nodes (struct grammar_builder), compiled once (grammar_build), and then
 * immutable but for caches of its own: any number of sequences on any threads share it. Each sequence has a
 * struct grammar_state.
 *
 * It fails closed. A text that the grammar does not derive is never generated: a token is allowed only when
 * all its bytes are, an end token only where the text may end. Where a limit (depth of nesting, ambiguity)
 * would be passed, the tokens that pass it are not allowed.
 *
 * Control tokens ("<|im_end|>") stand for no bytes and are not allowed, with one exception: a grammar that
 * has the byte GRAMMAR_CONTROL followed by a control token's text means that token. No UTF-8 has this byte.
 */
struct grammar;
struct grammar_builder;

enum { GRAMMAR_CONTROL = 0xFF };

/* A vocabulary made ready: the tokens' bytes as a trie. Made once for a tokenizer, which must outlive it;
   immutable. ERR_MEMORY. */
struct grammar_vocabulary;
enum err grammar_vocabulary_create(const struct tokenizer *tokenizer, struct grammar_vocabulary **out,
                                   struct err_info *info);
void grammar_vocabulary_free(struct grammar_vocabulary *vocabulary);

/* --- Building --- */

struct grammar_limits {
    size_t max_nodes;    /* of the builder */
    size_t max_states;   /* of the automaton */
    size_t max_bytes;    /* memory of the compiled grammar, its caches included */
    int64_t max_time_us; /* to compile, of the thread's own time, from grammar_builder_create on */
    int max_depth;       /* of the stack while running */
};
extern const struct grammar_limits grammar_limits_default;

/* A node is an int. Functions that make one return -1 when a limit is reached or memory is short, or when
   they are given -1; the builder remembers the first reason, so that callers check once, at grammar_build.
   NULL only when memory is short. */
struct grammar_builder *grammar_builder_create(const struct grammar_limits *limits);
void grammar_builder_free(struct grammar_builder *builder);

int grammar_literal(struct grammar_builder *builder, const char *bytes, size_t length); /* length 0: empty */
/* One byte of the set: bit b & 7 of set[b >> 3]. An empty set matches nothing. */
int grammar_byte(struct grammar_builder *builder, const uint8_t set[32]);
/* One character, in UTF-8, of any of the ranges [first, last]; negated: of none of them. Surrogates are never
   matched. */
struct grammar_range {
    uint32_t first, last;
};
int grammar_character(struct grammar_builder *builder, const struct grammar_range *ranges, int n,
                      bool negated);
int grammar_sequence(struct grammar_builder *builder, const int *nodes, int n); /* n 0: empty */
int grammar_choice(struct grammar_builder *builder, const int *nodes, int n);   /* n 0: matches nothing */
int grammar_repeat(struct grammar_builder *builder, int node, int64_t min, int64_t max /* -1: no end */);
/* Any text (UTF-8) in which none of the strings occurs; an automaton of Aho and Corasick. */
int grammar_without(struct grammar_builder *builder, const char *const *strings, const size_t *lengths,
                    int n);
/* A name for recursion: use the node anywhere, give it its meaning once with grammar_define. */
int grammar_rule(struct grammar_builder *builder, const char *name);
void grammar_define(struct grammar_builder *builder, int rule, int node);
/* For front ends that meet a fault of their own: remembered like a limit, unless there is one already. */
int grammar_fail(struct grammar_builder *builder, const struct err_info *info);

/* ERR_LIMIT once max_time_us is spent: for front ends, which do more than make nodes. Looks at the clock. */
enum err grammar_builder_check(const struct grammar_builder *builder, struct err_info *info);

/* Compiles; the builder can be freed after. ERR_LIMIT: too large or too slow to compile (the message says
   which limit and by what); ERR_INVALID: a rule without meaning, left recursion that derives nothing, a
   language that is empty; and what grammar_fail was given. */
enum err grammar_build(struct grammar_builder *builder, int root, const struct grammar_vocabulary *vocabulary,
                       struct grammar **out, struct err_info *info);
/* Grammars are reference-counted; build gives the first reference. */
void grammar_retain(struct grammar *grammar);
void grammar_release(struct grammar *grammar);       /* NULL-safe */
size_t grammar_bytes(const struct grammar *grammar); /* memory it holds now */

/* --- Running --- */

/* One sequence's place. Its memory is fixed: nothing is allocated while it runs. It borrows the grammar. */
struct grammar_state;
size_t grammar_state_bytes(const struct grammar *grammar);
/* In memory of that size, aligned as malloc aligns. */
struct grammar_state *grammar_state_init(void *memory, const struct grammar *grammar);
void grammar_state_copy(struct grammar_state *to, const struct grammar_state *from); /* of one grammar */

/* Scratch of one worker thread, for masks; for one vocabulary. NULL when memory is short. */
struct grammar_scratch;
struct grammar_scratch *grammar_scratch_create(const struct grammar_vocabulary *vocabulary);
void grammar_scratch_free(struct grammar_scratch *scratch);

/* The tokens allowed next: bit t & 31 of allowed[t >> 5], [(n_vocab + 31) / 32] words, bits past n_vocab 0.
   End tokens (tokenizer_is_end) where the text may end. Returns how many are allowed; 0 means that the
   vocabulary cannot go on. Different states may be asked at once from different threads. */
int grammar_mask(const struct grammar_state *state, struct grammar_scratch *scratch, uint32_t *allowed);
/* Goes on by one token. False, and the state is as before, when it is not allowed. An end token is allowed
   where the text may end and leaves the state as it is. */
bool grammar_accept(struct grammar_state *state, int32_t token);
/* The same for bytes; false: the state is as before. */
bool grammar_accept_bytes(struct grammar_state *state, const char *bytes, size_t length);
bool grammar_can_end(const struct grammar_state *state);
/* It can end, and nothing else can follow. */
bool grammar_must_end(const struct grammar_state *state);

#endif
