#include "server/eval.h"

#include "server/eval_choices.h"
#include "server/eval_task.h"
#include "server/eval_text.h"
#include "server/evaluation.h"

#include <stdio.h>
#include <string.h>

static enum err eval_run(const struct eval_options *options, struct err_info *info)
{
    struct evaluation evaluation;
    if (options->help) {
        eval_options_help(stdout);
        return ERR_OK;
    }
    enum err err = evaluation_open(options, &evaluation, info);
    if (err != ERR_OK) return err;
    if (options->task == NULL)
        err = eval_text_run(&evaluation, info);
    else if (strcmp(options->task, "choices") == 0)
        err = eval_choices_run(&evaluation, info);
    else
        err = eval_task_run(&evaluation, info);
    evaluation_close(&evaluation);
    return err;
}

int eval_main(int argc, char **argv)
{
    struct eval_options options;
    struct err_info info;
    enum err err = eval_options_parse(argc, argv, &options, &info);
    if (err == ERR_OK) {
        err = eval_run(&options, &info);
        eval_options_free(&options);
    }
    if (err != ERR_OK) fprintf(stderr, "octavo eval: %s\n", info.message);
    return err == ERR_OK ? 0 : err == ERR_USAGE ? 2 : 1;
}
