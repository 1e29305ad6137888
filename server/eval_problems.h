#ifndef SERVER_EVAL_PROBLEMS_H
#define SERVER_EVAL_PROBLEMS_H

#include "config/err.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * Word problems with a number for an answer, as GSM8K has them: a JSON object on each line, with the strings
 * "question" and "answer", where the answer ends with "#### 72".
 */
struct eval_problem {
    const char *question;
    double answer;
};

struct eval_problems {
    int count;
    struct eval_problem *problems;
    struct arena *arena; /* everything's */
};

/* The first `limit` problems of the file (0: all). ERR_USAGE, ERR_FORMAT with the line that is wrong, ERR_IO,
   ERR_MEMORY. */
enum err eval_problems_read(const char *path, int limit, struct eval_problems *out, struct err_info *info);
/* The same from memory; name is for messages. */
enum err eval_problems_parse(const char *name, const char *text, size_t length, int limit,
                             struct eval_problems *out, struct err_info *info);
void eval_problems_free(struct eval_problems *problems);

/* The number that an answer (NUL-terminated) arrives at: the first one in the last "\boxed{...}", else after
   the last "####", else after the last "answer is", else the last one in the text. Thousands commas and a
   dollar sign are passed over: "-$1,234.50" is -1234.5. False: there is none. */
bool eval_answer_number(const char *text, double *out);

/* Are they the same number? To 1e-6 of their size: answers in decimals are rounded differently. */
bool eval_answer_same(double a, double b);

/* Eight worked problems of our own, in the style of chain-of-thought prompting (Wei et al. 2022), each
   "Question: ...\nAnswer: ... The answer is N.\n\n": server/eval_examples.txt. */
enum { EVAL_EXAMPLES = 8 };
extern const char eval_examples[];
extern const char eval_examples_end[]; /* one past the last byte; a NUL stands there */
/* Bytes of the first n of them. */
size_t eval_examples_length(int n);

/* What begins a problem, and so ends the answer before it. */
#define EVAL_QUESTION "Question:"

#endif
