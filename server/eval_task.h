#ifndef SERVER_EVAL_TASK_H
#define SERVER_EVAL_TASK_H

#include "server/evaluation.h"

/* `octavo eval --task gsm8k`: solves the problems with every cache, greedily, and prints a row for each
   format, paired with f16. */
enum err eval_task_run(struct evaluation *evaluation, struct err_info *info);

#endif
