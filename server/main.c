#include "config/log.h"
#include "config/nearest.h"
#include "config/options.h"
#include "config/version.h"
#include "kernels/cpu_features.h"
#include "server/bench.h"
#include "server/calibrate_command.h"
#include "server/eval.h"
#include "server/inspect.h"
#include "server/model_source.h"
#include "server/serve.h"

#include <stdio.h>
#include <string.h>

/*
 * The command line's first word chooses a command; each takes the rest (argv[0] is its own name) and returns
 * the exit code: 0 done, 1 failed, 2 used wrongly.
 */

extern char **environ; /* POSIX; <unistd.h> declares it for GNU sources only */

static int serve_main(int argc, char **argv);
static int help_main(int argc, char **argv);
static int version_main(int argc, char **argv);

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about; /* NULL: not listed */
} commands[] = {
    {"serve", serve_main, "serve a model over HTTP with the OpenAI API"},
    {"inspect", inspect_main, "list the keys and tensors of a GGUF file"},
    {"calibrate", calibrate_command_main, "measure a model, so that its cache can be coded in 4 and 2 bits"},
    {"eval", eval_main, "measure what a cache format costs: perplexity, KL divergence, top-1"},
    {"bench", bench_main, "measure a server: latency, throughput, sequences at once"},
    {"version", version_main, "print the version, the compiler and the processor's features"},
    {"help", help_main, "print this"},
    {"--version", version_main, NULL},
    {"-V", version_main, NULL},
    {"--help", help_main, NULL},
    {"-h", help_main, NULL},
};

enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void help_print(FILE *out)
{
    fprintf(out,
            "octavo " OCTAVO_VERSION ": OpenAI-compatible inference server with a 2-bit paged KV cache\n\n"
            "Usage: octavo COMMAND [arguments]\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        if (commands[i].about) fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].about);
    fprintf(out, "\n'octavo COMMAND --help' describes a command's options.\n");
}

static int help_main(int argc, char **argv)
{
    (void)argc, (void)argv;
    help_print(stdout);
    return 0;
}

static int version_main(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("octavo %s\ncompiler: %s %s\nprocessor: %s\n", OCTAVO_VERSION,
#ifdef __clang__
           "clang",
#else
           "gcc",
#endif
           __VERSION__, cpu_features_text());
    return 0;
}

static enum err serve_start(const struct options *options, char **argv, struct err_info *info)
{
    if (options->help) {
        options_help(stdout);
        return ERR_OK;
    }
    if (options->version) {
        version_main(0, NULL);
        return ERR_OK;
    }
    if (options->print_config) {
        options_print(options, stdout);
        return ERR_OK;
    }
    const struct model_source source = {options->load_format, options->model, options->shape};
    enum err err = model_source_check(&source, "octavo serve MODEL, --model or OCTAVO_MODEL", info);
    if (err != ERR_OK) return err;
    log_configure(options_log_level(options), strcmp(options->log_format, "json") == 0);
    options_warn(options);
    return serve_run(options, argv, info);
}

static int serve_main(int argc, char **argv)
{
    struct options options;
    struct err_info info;
    enum err err = options_parse(argc, argv, 1, environ, &options, &info);
    if (err) {
        fprintf(stderr, "octavo serve: %s\n", info.message);
        return err == ERR_USAGE ? 2 : 1;
    }
    err = serve_start(&options, argv - 1, &info); /* main has taken off the program's name */
    if (err) fprintf(stderr, "octavo serve: %s\n", info.message);
    options_free(&options);
    return err == ERR_OK ? 0 : err == ERR_USAGE ? 2 : 1;
}

static int command_unknown(const char *name)
{
    const char *names[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    const char *nearest = nearest_name(name, names, N_COMMANDS);
    if (nearest)
        fprintf(stderr, "octavo: unknown command '%s'; did you mean '%s'?\n", name, nearest);
    else
        fprintf(stderr, "octavo: unknown command '%s'; 'octavo --help' lists all of them\n", name);
    return 2;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        help_print(stderr);
        return 2;
    }
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) != 0) continue;
        int code = commands[i].run(argc - 1, argv + 1);
        /* Output that did not get out is a failure, whatever the command thought. */
        if (fflush(stdout) != 0 || ferror(stdout)) {
            perror("octavo: standard output");
            return code ? code : 1;
        }
        return code;
    }
    return command_unknown(argv[1]);
}
