#ifndef SERVER_EVAL_CHOICES_H
#define SERVER_EVAL_CHOICES_H

#include "server/evaluation.h"

/* `octavo eval --task choices`: which answer each cache makes likeliest, by its log-likelihood and by that
   per character. Prints a row for each format, paired with f16. */
enum err eval_choices_run(struct evaluation *evaluation, struct err_info *info);

#endif
