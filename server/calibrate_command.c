#include "server/calibrate_command.h"

#include "kernels/workers.h"
#include "model/calibrate.h"
#include "model/calibration_text.h"
#include "model/tokenizer.h"
#include "server/serve_machine.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct command {
    const char *model, *data, *output;
    char default_output[4096];
    char *text; /* of the data file */
    struct gguf *gguf;
    struct workers *workers;
    struct backend *backend;
    struct model *loaded;
    struct calibration *calibration;
    int32_t *tokens;
    size_t n_tokens;
};

static void usage(FILE *out)
{
    fputs("usage: octavo calibrate MODEL [--data FILE] [-o FILE]\n\n"
          "  --data FILE   UTF-8 text to calibrate on, at least 16,384 tokens (default: a mixture built in)\n"
          "  -o FILE       the side file (default: MODEL with .octocal appended)\n",
          out);
}

static enum err command_read(int argc, char **argv, struct command *command, struct err_info *info)
{
    static const struct option table[] = {{"data", 1, 0, 'd'}, {"output", 1, 0, 'o'}, {0, 0, 0, 0}};
    int flag;
    optind = 1;
    opterr = 0;
    while ((flag = getopt_long(argc, argv, "o:", table, NULL)) != -1) {
        if (flag == 'd')
            command->data = optarg;
        else if (flag == 'o')
            command->output = optarg;
        else
            return err_set(info, ERR_USAGE, "unknown option, or one without its value: '%s'",
                           argv[optind - 1]);
    }
    if (optind != argc - 1) return err_set(info, ERR_USAGE, "one MODEL is needed");
    command->model = argv[optind];
    if (command->output == NULL) {
        int n =
            snprintf(command->default_output, sizeof command->default_output, "%s.octocal", command->model);
        if (n >= (int)sizeof command->default_output) return err_set(info, ERR_USAGE, "MODEL: path too long");
        command->output = command->default_output;
    }
    return ERR_OK;
}

/* The start of the file that calibration can use: more text is not read. Without a file the embedded text. */
static enum err text_load(struct command *command, const char **text, size_t *length, struct err_info *info)
{
    enum { LIMIT = 1 << 20 };
    if (command->data == NULL) {
        *text = calibration_text;
        *length = (size_t)(calibration_text_end - calibration_text);
        return ERR_OK;
    }
    enum err err = ERR_OK;
    FILE *file = fopen(command->data, "rb");
    command->text = malloc(LIMIT);
    if (file == NULL)
        err = err_set_param(info, ERR_IO, "data", "%s: %s", command->data, strerror(errno));
    else if (command->text == NULL)
        err = err_set(info, ERR_MEMORY, "%s: out of memory", command->data);
    else {
        *length = fread(command->text, 1, LIMIT, file);
        *text = command->text;
        if (ferror(file)) err = err_set_param(info, ERR_IO, "data", "%s: %s", command->data, strerror(errno));
    }
    if (file != NULL) fclose(file);
    return err;
}

static enum err tokens_load(struct command *command, struct err_info *info)
{
    struct tokenizer *tokenizer = NULL;
    const char *text = NULL;
    size_t length = 0;
    enum err err = text_load(command, &text, &length, info);
    if (err == ERR_OK) err = tokenizer_create(command->gguf, &tokenizer, info);
    if (err == ERR_OK)
        err = tokenizer_encode(tokenizer, text, length, false, false, SIZE_MAX, &command->tokens,
                               &command->n_tokens, info);
    tokenizer_free(tokenizer);
    return err;
}

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

static enum err command_run(struct command *command, struct err_info *info)
{
    enum err err = gguf_open(command->model, &command->gguf, info);
    if (err == ERR_OK) err = tokens_load(command, info);
    if (err == ERR_OK) err = workers_create(serve_machine_processors(), &command->workers, info);
    if (err == ERR_OK) err = backend_cpu_create(command->workers, "auto", &command->backend, info);
    if (err == ERR_OK)
        err =
            model_load(command->gguf, command->backend, CALIBRATE_SEQUENCE_TOKENS, 1, &command->loaded, info);
    if (err != ERR_OK) return err;
    struct calibrate_options options = {command->backend, command->workers, 4, progress, NULL};
    err = calibrate_run(command->loaded, command->gguf, &options, command->tokens, command->n_tokens,
                        &command->calibration, info);
    if (err == ERR_OK) err = calibration_save(command->calibration, command->output, info);
    return err;
}

int calibrate_command_main(int argc, char **argv)
{
    struct command command = {0};
    struct err_info info = {0};
    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        usage(stdout);
        return 0;
    }
    enum err err = command_read(argc, argv, &command, &info);
    if (err == ERR_OK) err = command_run(&command, &info);
    if (err == ERR_OK)
        printf("%s\n", command.output);
    else
        fprintf(stderr, "octavo calibrate: %s\n", info.message);
    calibration_free(command.calibration);
    if (command.loaded != NULL) model_free(command.loaded);
    if (command.backend != NULL) command.backend->destroy(command.backend);
    if (command.workers != NULL) workers_free(command.workers);
    if (command.gguf != NULL) gguf_close(command.gguf);
    free(command.tokens);
    free(command.text);
    return err == ERR_OK ? 0 : err == ERR_USAGE ? 2 : 1;
}
