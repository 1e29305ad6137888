#ifndef SERVER_EVAL_TEXT_H
#define SERVER_EVAL_TEXT_H

#include "server/evaluation.h"

/* What became of one cache; rows[0] is f16, the base. */
struct eval_text_row {
    const char *format; /* the evaluation's */
    int recent_blocks;
    double ppl, base_ppl;
    double kl, kl99; /* to f16: mean, and what 99 of 100 positions are below */
    double top1;     /* share of positions with f16's likeliest token */
    double bits;     /* per value, all-in, at the window's end */
};

/* Scores windows of options->text with every cache. rows: [EVALUATION_MAX_CACHES]; *n_windows: how many. */
enum err eval_text_measure(struct evaluation *evaluation, struct eval_text_row *rows, int *n_windows,
                           struct err_info *info);

/* `octavo eval --text`: scores windows of the text with every cache and prints a row for each format. */
enum err eval_text_run(struct evaluation *evaluation, struct err_info *info);

#endif
