#include "server/calibrate_command.h"

#include "config/option.h"
#include "config/option_rows.h"
#include "model/calibrate.h"
#include "model/calibration_text.h"
#include "server/runtime.h"
#include "server/serve_calibration.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct calibrate_command_options {
    const char *model, *data, *output, *device, *cpu;
    int tokens, threads;
    bool help;
};

#define FIELD(field) offsetof(struct calibrate_command_options, field)

static const struct option rows[] = {
    {.name = "model",
     .group = "Calibration",
     .kind = OPTION_TEXT,
     .offset = FIELD(model),
     .aliases = "-m",
     .metavar = "MODEL",
     .help = "GGUF file to measure; the same as the argument without a flag"},
    {.name = "data",
     .group = "Calibration",
     .kind = OPTION_TEXT,
     .offset = FIELD(data),
     .metavar = "FILE",
     .help = "UTF-8 text to measure it on, of which the first 16,384 tokens are used; when not given, a "
             "mixture that is built in"},
    {.name = "tokens",
     .group = "Calibration",
     .kind = OPTION_INT,
     .offset = FIELD(tokens),
     .default_value = "16384",
     .min = 256,
     .max = CALIBRATE_SEQUENCES * CALIBRATE_SEQUENCE_TOKENS,
     .metavar = "N",
     .help = "use fewer tokens: faster and less accurate"},
    {.name = "output",
     .group = "Calibration",
     .kind = OPTION_TEXT,
     .offset = FIELD(output),
     .aliases = "-o",
     .metavar = "FILE",
     .help = "the side file; when not given, MODEL.octocal, where `octavo serve` looks for it"},
    OPTION_ROW_THREADS(FIELD(threads)),
    OPTION_ROW_DEVICE(FIELD(device)),
    OPTION_ROW_CPU(FIELD(cpu)),
    OPTION_ROW_HELP("Other", FIELD(help)),
};

static const struct option_table table = {
    .usage = "octavo calibrate MODEL [options]",
    .about = "Measures a model's keys, values and queries, so that its cache can be coded in few bits, and "
             "writes a side file.",
    .positional = "model",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
};

static bool progress(void *context, int done, int total)
{
    (void)context;
    if (!isatty(STDERR_FILENO)) return true;
    int filled = 40 * done / total;
    fprintf(stderr, "\rcalibrating [%.*s%*s] %3d %%", filled, "########################################",
            40 - filled, "", 100 * done / total);
    if (done == total) fputc('\n', stderr);
    return true;
}

/* The start of the file, as much as can be used; without a file the embedded text. */
static enum err tokens_load(const struct calibrate_command_options *options, const struct runtime *runtime,
                            int32_t **tokens, size_t *n_tokens, struct err_info *info)
{
    enum { MOST_BYTES = 1 << 20 };
    const char *text = calibration_text;
    size_t length = (size_t)(calibration_text_end - calibration_text);
    char *data = NULL;
    enum err err = ERR_OK;
    if (options->data != NULL) {
        err = runtime_text_read("data", options->data, MOST_BYTES, &data, &length, info);
        text = data;
    }
    if (err == ERR_OK)
        err = tokenizer_encode(runtime->tokenizer, text, length, false, false, SIZE_MAX, tokens, n_tokens,
                               info);
    free(data);
    if (err == ERR_OK && *n_tokens > (size_t)options->tokens) *n_tokens = (size_t)options->tokens;
    return err;
}

static enum err measure(const struct calibrate_command_options *options, const char *output,
                        struct err_info *info)
{
    struct runtime_options open = {options->model, options->threads, options->device,
                                   options->cpu,   "auto",           "auto"};
    struct runtime runtime = {0};
    struct calibration *calibration = NULL;
    int32_t *tokens = NULL;
    size_t n_tokens = 0;
    enum err err = runtime_open(&open, &runtime, info);
    if (err == ERR_OK) err = tokens_load(options, &runtime, &tokens, &n_tokens, info);
    if (err == ERR_OK) err = runtime_load(&runtime, CALIBRATE_SEQUENCE_TOKENS, 1, info);
    struct calibrate_options calibrate = {runtime.backend, runtime.workers, 4, progress, NULL};
    if (err == ERR_OK)
        err = calibrate_run(runtime.model, runtime.gguf, &calibrate, tokens, n_tokens, &calibration, info);
    if (err == ERR_OK) err = calibration_save(calibration, output, info);
    if (err == ERR_OK) printf("%s\n", output);
    calibration_free(calibration);
    runtime_close(&runtime);
    free(tokens);
    return err;
}

static enum err command_run(const struct calibrate_command_options *options, struct err_info *info)
{
    char beside[4096];
    if (options->help) {
        option_help(&table, stdout);
        return ERR_OK;
    }
    if (options->model == NULL) return err_set(info, ERR_USAGE, "no model is named; usage: %s", table.usage);
    if (options->output != NULL) return measure(options, options->output, info);
    if (!serve_calibration_beside(options->model, beside, sizeof beside))
        return err_set_param(info, ERR_USAGE, "model", "the model's path is too long; name the --output");
    return measure(options, beside, info);
}

int calibrate_command_main(int argc, char **argv)
{
    struct calibrate_command_options options;
    struct option_state *state = NULL;
    struct err_info info;
    enum err err = option_parse(&table, argc, argv, 1, NULL, "help", &options, &state, &info);
    if (err == ERR_OK) err = command_run(&options, &info);
    if (err != ERR_OK) fprintf(stderr, "octavo calibrate: %s\n", info.message);
    option_state_free(state);
    return err == ERR_OK ? 0 : err == ERR_USAGE ? 2 : 1;
}
