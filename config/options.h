#ifndef CONFIG_OPTIONS_H
#define CONFIG_OPTIONS_H

#include "config/err.h"
#include "config/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * Every setting of `octavo serve`, from one table (options.c) that yields the command line flag (--ctx-size),
 * the environment variable (OCTAVO_CTX_SIZE), the key in a config file (ctx-size, ini or JSON, --config
 * FILE), --help and --print-config. The command line beats the environment, which beats the file, which beats
 * the default.
 */
struct options {
    const char *model; /* path of the GGUF file (positional, or --model) */
    const char
        *served_model_name; /* name in /v1/models and replies; default: general.name, else the file's name */
    const char *host;
    int port;
    int ctx_size;           /* longest sequence in tokens; 0: the model's own limit */
    int parallel;           /* most sequences running at once */
    int64_t kv_cache_bytes; /* size of the KV pool; --kv-cache-gib sets it too; 0: a quarter of free memory */
    const char *kv_format;  /* f16, o4, o2 */
    int kv_recent;          /* blocks read at 4 bits before they are read at 2 */
    int sink_tokens;        /* tokens at the start kept in fp16 */
    const char *calibration; /* side file; NULL: found or made, see server/serve_calibration.h */
    bool no_calibration;
    int threads; /* engine's worker threads; 0: the processors this process may use */
    int http_threads;
    int max_batch_tokens; /* tokens in one engine step */
    int max_queue;        /* requests waiting; more get 429 */
    int max_connections;
    int64_t max_body_bytes;
    int header_timeout_ms;       /* a request's header must be complete by then */
    int idle_timeout_ms;         /* keep-alive connections without traffic are closed */
    int drain_timeout_ms;        /* after SIGTERM, running requests have this long */
    const char *api_key;         /* bearer token that clients must send; NULL: none */
    const char *log_level;       /* debug, info, warn, error */
    const char *log_format;      /* text, json */
    const char *cpu;             /* auto, scalar, avx2, avx512: the most the kernels may use */
    const char *activation_bits; /* auto, 8, 16 */
    const char *config;          /* path of the config file; NULL: none */
    bool help, version, print_config;
    struct option_state *state; /* strings and origins, options.c's own */
};

/* Defaults, then the config file, then environment (environ-style, NULL-terminated), then argv[first..argc).
   Strings live in storage owned by *options; options_free releases it. With --help or --version the rest of
   the words is not looked at. ERR_USAGE names the option at fault, suggests the nearest known one for an
   unknown name, and covers contradictions (two different sizes for the pool...). That a model is named is for
   the caller to check. */
enum err options_parse(int argc, char **argv, int first, char **environment, struct options *options,
                       struct err_info *info);
void options_free(struct options *options);
/* Logs environment variables that look like options and are none. After log_configure. */
void options_warn(const struct options *options);

/* --help: aligned, grouped, with defaults and environment names. */
void options_help(FILE *out);
/* --print-config: every option with its value and where it came from, as an ini file that --config accepts.
   An api key prints as a comment, "(set)". */
void options_print(const struct options *options, FILE *out);

/* The enum of log_level's text, which options_parse has checked. */
enum log_level options_log_level(const struct options *options);

/* The table itself, for tests and fuzzing. */
struct option_table;
extern const struct option_table options_table;

#endif
