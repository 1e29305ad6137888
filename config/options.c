#include "config/options.h"

#include "config/option.h"

#include <assert.h>
#include <string.h>

#define FIELD(field) offsetof(struct options, field)

/* Names follow llama-server and vLLM where both agree or one is well known; the other's name is an alias. */
static const struct option rows[] = {
    {.name = "model",
     .group = "Model",
     .kind = OPTION_TEXT,
     .offset = FIELD(model),
     .aliases = "-m",
     .metavar = "MODEL",
     .help = "GGUF file to serve; the same as the argument without a flag"},
    {.name = "served-model-name",
     .group = "Model",
     .kind = OPTION_TEXT,
     .offset = FIELD(served_model_name),
     .aliases = "-a --alias",
     .metavar = "NAME",
     .help = "the model's name in requests and replies; when not given, the name that the file states, or "
             "the file's own"},
    {.name = "ctx-size",
     .group = "Model",
     .kind = OPTION_INT,
     .offset = FIELD(ctx_size),
     .default_value = "0",
     .max = 1 << 24,
     .aliases = "-c --max-model-len",
     .metavar = "N",
     .help = "longest sequence, prompt and output, in tokens; 0: what the model was trained for"},

    {.name = "kv-cache-bytes",
     .group = "KV cache",
     .kind = OPTION_BYTES,
     .offset = FIELD(kv_cache_bytes),
     .default_value = "0",
     .aliases = "--kv-cache-memory-bytes",
     .metavar = "SIZE",
     .help = "size of the block pool, all of it; suffixes k M G are powers of 1000, Ki Mi Gi of 1024; 0: a "
             "quarter of the memory that is free at the start"},
    {.name = "kv-cache-gib",
     .group = "KV cache",
     .kind = OPTION_BYTES,
     .offset = FIELD(kv_cache_bytes),
     .unit = 1 << 30,
     .metavar = "GIB",
     .help = "the same in GiB (1.5)"},
    {.name = "kv-format",
     .group = "KV cache",
     .kind = OPTION_CHOICE,
     .offset = FIELD(kv_format),
     .default_value = "f16",
     .choices = "f16|o4|o2",
     .help = "how blocks are kept: 16, 4 or 2 bits a value"},
    {.name = "kv-recent",
     .group = "KV cache",
     .kind = OPTION_INT,
     .offset = FIELD(kv_recent),
     .default_value = "8",
     .max = 1 << 18,
     .metavar = "N",
     .help = "with o2: blocks of 64 tokens that are read at 4 bits before they are read at 2"},
    {.name = "calibration",
     .group = "KV cache",
     .kind = OPTION_TEXT,
     .offset = FIELD(calibration),
     .metavar = "FILE",
     .help = "what `octavo calibrate` wrote; default: MODEL.octocal, or made at the first start"},
    {.name = "no-calibration",
     .group = "KV cache",
     .kind = OPTION_FLAG,
     .offset = FIELD(no_calibration),
     .help = "use no calibration: o4 and o2 then err several times more"},
    {.name = "sink-tokens",
     .group = "KV cache",
     .kind = OPTION_INT,
     .offset = FIELD(sink_tokens),
     .default_value = "4",
     .max = 64,
     .metavar = "N",
     .help = "with o4 and o2: tokens at the start of a sequence that stay in fp16"},

    {.name = "parallel",
     .group = "Scheduling",
     .kind = OPTION_INT,
     .offset = FIELD(parallel),
     .default_value = "64",
     .min = 1,
     .max = 4096,
     .aliases = "-np --max-num-seqs",
     .metavar = "N",
     .help = "most sequences that run at once"},
    {.name = "max-batch-tokens",
     .group = "Scheduling",
     .kind = OPTION_INT,
     .offset = FIELD(max_batch_tokens),
     .default_value = "512",
     .min = 1,
     .max = 65536,
     .aliases = "-b --batch-size --max-num-batched-tokens",
     .metavar = "N",
     .help = "most tokens of one engine step; longer prompts are read in several"},
    {.name = "max-queue",
     .group = "Scheduling",
     .kind = OPTION_INT,
     .offset = FIELD(max_queue),
     .default_value = "1024",
     .min = 1,
     .max = 1 << 20,
     .metavar = "N",
     .help = "sequences that may wait; further requests get 429 and a time to come back"},
    {.name = "drain-timeout-ms",
     .group = "Scheduling",
     .kind = OPTION_INT,
     .offset = FIELD(drain_timeout_ms),
     .default_value = "30000",
     .max = 86400000,
     .metavar = "MS",
     .help = "after SIGTERM, how long running requests may take to finish"},

    {.name = "threads",
     .group = "Processor",
     .kind = OPTION_INT,
     .offset = FIELD(threads),
     .default_value = "0",
     .max = 1024,
     .aliases = "-t",
     .metavar = "N",
     .help = "threads that compute; 0: as many as there are processors for this process"},
    {.name = "cpu",
     .group = "Processor",
     .kind = OPTION_CHOICE,
     .offset = FIELD(cpu),
     .default_value = "auto",
     .choices = "auto|scalar|avx2|avx512",
     .help = "instructions that may be used; results do not depend on it"},
    {.name = "activation-bits",
     .group = "Processor",
     .kind = OPTION_CHOICE,
     .offset = FIELD(activation_bits),
     .default_value = "auto",
     .choices = "auto|8|16",
     .help = "precision of activations in products with quantized weights; auto: 16 for models of fewer than "
             "a billion parameters, 8 for larger ones"},

    {.name = "host",
     .group = "Network",
     .kind = OPTION_TEXT,
     .offset = FIELD(host),
     .default_value = "127.0.0.1",
     .metavar = "ADDRESS",
     .help = "address to listen on; 0.0.0.0 for every interface"},
    {.name = "port",
     .group = "Network",
     .kind = OPTION_INT,
     .offset = FIELD(port),
     .default_value = "8080",
     .max = 65535,
     .metavar = "PORT",
     .help = "port to listen on; 0: any free one, which the log names"},
    {.name = "api-key",
     .group = "Network",
     .kind = OPTION_TEXT,
     .offset = FIELD(api_key),
     .secret = true,
     .metavar = "KEY",
     .help = "clients must send it as a bearer token; better given in the environment, which other users do "
             "not see"},
    {.name = "http-threads",
     .group = "Network",
     .kind = OPTION_INT,
     .offset = FIELD(http_threads),
     .default_value = "2",
     .min = 1,
     .max = 256,
     .aliases = "--threads-http",
     .metavar = "N",
     .help = "threads that talk to clients"},
    {.name = "max-connections",
     .group = "Network",
     .kind = OPTION_INT,
     .offset = FIELD(max_connections),
     .default_value = "1024",
     .min = 1,
     .max = 65536,
     .metavar = "N",
     .help = "connections that may be open at once"},
    {.name = "max-body-bytes",
     .group = "Network",
     .kind = OPTION_BYTES,
     .offset = FIELD(max_body_bytes),
     .default_value = "8Mi",
     .min = 1,
     .max = 1 << 30,
     .metavar = "SIZE",
     .help = "longest request body; longer ones get 413"},
    {.name = "header-timeout-ms",
     .group = "Network",
     .kind = OPTION_INT,
     .offset = FIELD(header_timeout_ms),
     .default_value = "10000",
     .min = 1,
     .max = 86400000,
     .metavar = "MS",
     .help = "a request's header must be complete by then"},
    {.name = "idle-timeout-ms",
     .group = "Network",
     .kind = OPTION_INT,
     .offset = FIELD(idle_timeout_ms),
     .default_value = "60000",
     .min = 1,
     .max = 86400000,
     .metavar = "MS",
     .help = "kept-alive connections without traffic are closed after this time"},

    {.name = "log-level",
     .group = "Log",
     .kind = OPTION_CHOICE,
     .offset = FIELD(log_level),
     .default_value = "info",
     .choices = "debug|info|warn|error",
     .help = "least important lines that are written"},
    {.name = "log-format",
     .group = "Log",
     .kind = OPTION_CHOICE,
     .offset = FIELD(log_format),
     .default_value = "text",
     .choices = "text|json",
     .help = "text for people, JSON lines for machines; both on stderr"},

    {.name = "config",
     .group = "Other",
     .kind = OPTION_TEXT,
     .offset = FIELD(config),
     .config_file = true,
     .metavar = "FILE",
     .help = "read options from this file, ini (ctx-size = 4096) or JSON"},
    {.name = "print-config",
     .group = "Other",
     .kind = OPTION_FLAG,
     .offset = FIELD(print_config),
     .command_line = true,
     .help = "print every option, its value and where it comes from, and exit"},
    {.name = "version",
     .group = "Other",
     .kind = OPTION_FLAG,
     .offset = FIELD(version),
     .command_line = true,
     .help = "print the version and exit"},
    {.name = "help",
     .group = "Other",
     .kind = OPTION_FLAG,
     .offset = FIELD(help),
     .command_line = true,
     .aliases = "-h",
     .help = "print this and exit"},
};

const struct option_table options_table = {
    .usage = "octavo serve MODEL [options]",
    .about =
        "Serves a GGUF model over HTTP with the OpenAI API. The command line beats the environment, which "
        "beats\nthe config file, which beats the default.",
    .env_prefix = "OCTAVO_",
    .positional = "model",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
};

enum err options_parse(int argc, char **argv, int first, char **environment, struct options *options,
                       struct err_info *info)
{
    struct options read;
    enum err err = option_parse(&options_table, argc, argv, first, environment, "help version", &read,
                                &read.state, info);
    if (!err) *options = read;
    return err;
}

void options_free(struct options *options)
{
    option_state_free(options->state);
    options->state = NULL;
}

void options_warn(const struct options *options)
{
    option_warn(options->state);
}

void options_help(FILE *out)
{
    option_help(&options_table, out);
}

void options_print(const struct options *options, FILE *out)
{
    option_print(&options_table, options->state, options, out);
}

enum log_level options_log_level(const struct options *options)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (int i = LOG_LEVEL_DEBUG; i <= LOG_LEVEL_ERROR; i++)
        if (strcmp(options->log_level, names[i]) == 0) return (enum log_level)i;
    assert(false);
    return LOG_LEVEL_INFO;
}
