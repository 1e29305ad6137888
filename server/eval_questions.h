#ifndef SERVER_EVAL_QUESTIONS_H
#define SERVER_EVAL_QUESTIONS_H

#include "model/tokenizer.h"

/*
 * Questions with answers to choose from, as `octavo eval --task choices` reads them: on each line
 *
 *     {"question": "What do bees make?", "choices": ["Milk", "Honey"], "answer": 1}
 *
 * where answer counts from 0. A question becomes "Question: ...\nAnswer:"; "context" in place of "question"
 * is taken as it is. Between it and a choice comes a space. The first `shots` of the file stand before every
 * other one, answered, with an empty line between, and are not asked.
 */
enum { EVAL_QUESTION_MAX_CHOICES = 26 };

struct eval_choice {
    /* The context's last token, then the choice: tokens[i + 1] is what row i is to predict. The context's
       tokens are those that it has alone. */
    const int32_t *tokens;
    int n_tokens;
    int n_characters; /* without the space */
};

struct eval_question {
    const int32_t *context; /* the examples too, and BOS if the model wants it */
    int n_context;          /* at least 1 */
    struct eval_choice *choices;
    int n_choices, answer;
};

struct eval_questions {
    int count;
    struct eval_question *questions;
    int n_shared;        /* tokens that all contexts begin with, fewer than the shortest has */
    int max_tokens;      /* the most that a context and one of its choices have together */
    int max_choices;     /* of a question */
    struct arena *arena; /* everything's */
};

/* The questions among the first limit + shots lines (limit 0: all). ERR_USAGE: no more than `shots`;
   ERR_FORMAT with the line that is wrong; ERR_IO, ERR_MEMORY. */
enum err eval_questions_read(const char *path, int shots, int limit, const struct tokenizer *tokenizer,
                             struct eval_questions *out, struct err_info *info);
/* The same from memory; name is for messages. */
enum err eval_questions_parse(const char *name, const char *text, size_t length, int shots, int limit,
                              const struct tokenizer *tokenizer, struct eval_questions *out,
                              struct err_info *info);
void eval_questions_free(struct eval_questions *questions); /* of zeroed ones too */

#endif
