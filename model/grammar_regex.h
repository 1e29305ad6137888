#ifndef MODEL_GRAMMAR_REGEX_H
#define MODEL_GRAMMAR_REGEX_H

#include "model/grammar_text.h"

/*
 * Regular expressions from text to tree (grammar_regex_parse.c), and sets of characters
 * (grammar_regex_set.c). grammar_regex.c makes nodes of a grammar of them. Private to these.
 */

enum regex_type {
    REGEX_SET,      /* one character */
    REGEX_SEQUENCE, /* of any number of children */
    REGEX_CHOICE,
    REGEX_REPEAT, /* of one child */
    REGEX_START,  /* ^ */
    REGEX_END,    /* $ */
};

/* A set of characters as it is written: n ranges from `first` in the tree's ranges, and the general
   categories of Unicode whose bits are set; negated: all others. */
struct regex_set {
    int first, n;
    uint32_t categories;
    bool negated;
};

struct regex_node {
    enum regex_type type;
    bool anchored;   /* there is a ^ or $ in it */
    int child, next; /* the first child, the next of the same parent; -1: none */
    int offset;      /* in the pattern */
    union {
        struct {
            int64_t min, max; /* max -1: no end */
        };
        struct regex_set set;
    };
};

struct regex {
    struct regex_node *nodes;
    int n_nodes, nodes_capacity;
    struct grammar_range *ranges;
    int n_ranges, ranges_capacity;
    int root;
};

/* ERR_INVALID, ERR_UNSUPPORTED and ERR_LIMIT say at which character. regex_free only after ERR_OK. */
enum err regex_parse(const char *pattern, size_t length, struct regex *out, struct err_info *info);
void regex_free(struct regex *regex);

/* Fails with "character N: ...", N counted from 1. */
enum err regex_fail(struct err_info *info, enum err err, const char *pattern, int offset, const char *format,
                    ...) __attribute__((format(printf, 5, 6)));

/* The bits of a property's name, as in \p{Lu} or \p{gc=Letter}; 0: octavo does not know it. */
uint32_t regex_categories(const char *name, size_t length);

/* The set's characters in order, in ranges that do not touch, without surrogates. The caller frees *out. */
enum err regex_set_ranges(const struct regex *regex, const struct regex_set *set, struct grammar_range **out,
                          int *n, struct err_info *info);

#endif
