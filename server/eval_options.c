#include "server/eval_options.h"

#include "config/option_rows.h"
#include "server/eval_problems.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(field) offsetof(struct eval_options, field)

#define GROUP_TEXT  "With --text"
#define GROUP_TASK  "With --task"
#define GROUP_GSM8K "With --task gsm8k"

static const struct option rows[] = {
    {.name = "model",
     .group = "Model and cache",
     .kind = OPTION_TEXT,
     .offset = FIELD(model),
     .aliases = "-m",
     .metavar = "MODEL",
     .help = "GGUF file; the same as the argument without a flag"},
    {.name = "kv-format",
     .group = "Model and cache",
     .kind = OPTION_TEXT,
     .offset = FIELD(kv_format),
     .default_value = "o2",
     .metavar = "F[,F...]",
     .help = "cache formats to compare with f16, up to eight: oB and kBvC (bits), rotatekv, f16"},
    {.name = "kv-recent",
     .group = "Model and cache",
     .kind = OPTION_TEXT,
     .offset = FIELD(kv_recent),
     .default_value = "8",
     .metavar = "N[,N...]",
     .help = "blocks of 64 tokens that are read with more bits before they are read with the format's; with "
             "several numbers, each format is compared with each of them"},
    OPTION_ROW_SINK_TOKENS("Model and cache", FIELD(sink_tokens),
                           "tokens at the start of a sequence that stay in fp16"),
    OPTION_ROW_CALIBRATION(
        "Model and cache", FIELD(calibration),
        "what `octavo calibrate` wrote; when not given, MODEL.octocal, or made now and kept"),
    OPTION_ROW_NO_CALIBRATION("Model and cache", FIELD(no_calibration), "use no calibration"),

    {.name = "text",
     .group = GROUP_TEXT,
     .kind = OPTION_TEXT,
     .offset = FIELD(text),
     .metavar = "FILE",
     .help = "UTF-8 text to score: perplexity, KL divergence to the f16 cache, top-1 agreement"},
    {.name = "ctx",
     .group = GROUP_TEXT,
     .kind = OPTION_INT,
     .offset = FIELD(ctx),
     .default_value = "4096",
     .min = 2,
     .max = 1 << 20,
     .aliases = "-c --ctx-size",
     .metavar = "N",
     .help = "tokens of a window"},
    {.name = "windows",
     .group = GROUP_TEXT,
     .kind = OPTION_INT,
     .offset = FIELD(windows),
     .default_value = "0",
     .max = 1 << 20,
     .metavar = "N",
     .help = "windows, from the start of the text; 0: all"},
    {.name = "rule",
     .group = GROUP_TEXT,
     .kind = OPTION_CHOICE,
     .offset = FIELD(rule),
     .default_value = "block",
     .choices = "block|all",
     .help = "what is read coded: older blocks, as a server does; or every token, the query's own too"},

    {.name = "task",
     .group = GROUP_TASK,
     .kind = OPTION_CHOICE,
     .offset = FIELD(task),
     .choices = "gsm8k|choices",
     .help = "gsm8k: problems to solve, exact match of the final number, greedy; choices: answers to choose "
             "from, by log-likelihood"},
    {.name = "data",
     .group = GROUP_TASK,
     .kind = OPTION_TEXT,
     .offset = FIELD(data),
     .metavar = "FILE",
     .help = "the problems, a JSON object on each line: question and answer; for choices also choices, and "
             "answer counts them from 0"},
    {.name = "limit",
     .group = GROUP_TASK,
     .kind = OPTION_INT,
     .offset = FIELD(limit),
     .default_value = "0",
     .max = 1 << 24,
     .metavar = "N",
     .help = "use the first N problems; 0: all"},
    {.name = "shots",
     .group = GROUP_TASK,
     .kind = OPTION_INT,
     .offset = FIELD(shots),
     .default_value = "8",
     .max = 1000,
     .metavar = "N",
     .help = "worked examples before each problem; gsm8k: of 8 of our own; choices: the first N of the file, "
             "which are not asked"},
    {.name = "details",
     .group = GROUP_TASK,
     .kind = OPTION_TEXT,
     .offset = FIELD(details),
     .metavar = "FILE",
     .help = "write what became of each problem, a JSON object on each line"},
    {.name = "chat",
     .group = GROUP_GSM8K,
     .kind = OPTION_FLAG,
     .offset = FIELD(chat),
     .help = "ask in the chat format (ChatML) without examples, for models tuned to it"},
    {.name = "max-tokens",
     .group = GROUP_GSM8K,
     .kind = OPTION_INT,
     .offset = FIELD(max_tokens),
     .default_value = "400",
     .min = 1,
     .max = 1 << 16,
     .metavar = "N",
     .help = "longest answer"},
    {.name = "parallel",
     .group = GROUP_GSM8K,
     .kind = OPTION_INT,
     .offset = FIELD(parallel),
     .default_value = "32",
     .min = 1,
     .max = 256,
     .aliases = "-np",
     .metavar = "N",
     .help = "answers written at once, of all formats together; results do not depend on it"},

    OPTION_ROW_THREADS(FIELD(threads)),
    OPTION_ROW_DEVICE(FIELD(device)),
    OPTION_ROW_DEVICE_WEIGHTS(FIELD(device_weights)),
    OPTION_ROW_CPU(FIELD(cpu)),
    OPTION_ROW_ACTIVATION_BITS(FIELD(activation_bits), "auto", "auto|8|16",
                               "precision of activations in products with quantized weights"),

    {.name = "json",
     .group = "Output",
     .kind = OPTION_FLAG,
     .offset = FIELD(json),
     .help = "print a JSON object per format, each on a line"},
    OPTION_ROW_HELP("Output", FIELD(help)),
};

static const struct option_table table = {
    .usage = "octavo eval MODEL (--text FILE | --task NAME --data FILE) [options]",
    .about = "Measures what cache formats cost in quality: the same input through the f16 cache and through "
             "each format.",
    .positional = "model",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
};

/* The numbers of --kv-recent. */
static enum err recents_read(struct eval_options *options, struct err_info *info)
{
    enum { MOST = 1 << 18 };
    for (const char *at = options->kv_recent;; at++) {
        char *end;
        errno = 0;
        long number = strtol(at, &end, 10);
        if (!isdigit((unsigned char)*at) || (*end != ',' && *end != '\0') || errno != 0 || number > MOST)
            return err_set_param(info, ERR_USAGE, "kv-recent",
                                 "--kv-recent: '%s' is not whole numbers from 0 to %d with commas between",
                                 options->kv_recent, MOST);
        if (options->n_recents == EVAL_MAX_RECENTS)
            return err_set_param(info, ERR_USAGE, "kv-recent", "--kv-recent: more than %d numbers",
                                 EVAL_MAX_RECENTS);
        options->recents[options->n_recents++] = (int)number;
        at = end;
        if (*at == '\0') return ERR_OK;
    }
}

static bool is_task(const struct eval_options *options, const char *name)
{
    return options->task != NULL && strcmp(options->task, name) == 0;
}

static bool group_applies(const struct eval_options *options, const char *group)
{
    if (strcmp(group, GROUP_TEXT) == 0) return options->text != NULL;
    if (strcmp(group, GROUP_TASK) == 0) return options->task != NULL;
    return strcmp(group, GROUP_GSM8K) != 0 || is_task(options, "gsm8k");
}

static enum err options_check(const struct eval_options *options, struct err_info *info)
{
    if (options->help) return ERR_OK;
    if (options->model == NULL) return err_set(info, ERR_USAGE, "no model is named; usage: %s", table.usage);
    if ((options->text == NULL) == (options->task == NULL))
        return err_set_param(info, ERR_USAGE, "text", "one of --text FILE and --task NAME is wanted%s",
                             options->text != NULL ? ", not both" : "");
    for (size_t i = 0; i < table.n_options; i++)
        if (!group_applies(options, rows[i].group) &&
            option_origin(&table, options->state, rows[i].name) == ORIGIN_COMMAND_LINE)
            return err_set_param(info, ERR_USAGE, rows[i].name, "--%s goes with %s", rows[i].name,
                                 rows[i].group + strlen("With "));
    if (is_task(options, "gsm8k") && options->shots > EVAL_EXAMPLES)
        return err_set_param(info, ERR_USAGE, "shots", "--shots %d: there are %d worked examples for gsm8k",
                             options->shots, EVAL_EXAMPLES);
    if (options->task != NULL && options->data == NULL)
        return err_set_param(info, ERR_USAGE, "data", "--task %s wants its problems: --data FILE",
                             options->task);
    if (options->chat && option_origin(&table, options->state, "shots") == ORIGIN_COMMAND_LINE &&
        options->shots > 0)
        return err_set_param(info, ERR_USAGE, "shots", "--chat asks without examples: --shots is not for it");
    if (options->calibration != NULL && options->no_calibration)
        return err_set_param(info, ERR_USAGE, "calibration",
                             "--calibration and --no-calibration contradict each other");
    bool all = options->text != NULL && strcmp(options->rule, "all") == 0;
    if (all && option_origin(&table, options->state, "kv-recent") == ORIGIN_COMMAND_LINE &&
        strcmp(options->kv_recent, "0") != 0)
        return err_set_param(
            info, ERR_USAGE, "kv-recent",
            "--rule all reads every token with the format's own bits: --kv-recent is not for "
            "it");
    if (all && options->ctx % 64 != 0)
        return err_set_param(info, ERR_USAGE, "ctx",
                             "--ctx %d: with --rule all it must be a multiple of 64, the tokens of a block",
                             options->ctx);
    return ERR_OK;
}

enum err eval_options_parse(int argc, char **argv, struct eval_options *options, struct err_info *info)
{
    struct eval_options read = {0};
    enum err err = option_parse(&table, argc, argv, 1, NULL, "help", &read, &read.state, info);
    if (err != ERR_OK) return err;
    err = recents_read(&read, info);
    if (err == ERR_OK) err = options_check(&read, info);
    if (err == ERR_OK)
        *options = read;
    else
        option_state_free(read.state);
    return err;
}

void eval_options_free(struct eval_options *options)
{
    option_state_free(options->state);
    options->state = NULL;
}

void eval_options_help(FILE *out)
{
    option_help(&table, out);
}
