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
    const char *model;       /* path of the GGUF file (positional, or --model) */
    const char *load_format; /* gguf, dummy */
    const char *shape;       /* of a dummy model; NULL: none */
    const char
        *served_model_name; /* name in /v1/models and replies; default: general.name, else the file's name */
    const char *host;
    int port;
    int ctx_size;                  /* longest sequence in tokens; 0: the model's own limit */
    int parallel;                  /* most sequences running at once; 0: as the device likes it */
    double gpu_memory_utilization; /* of a card, for weights, activations and the pool, whose size
                                      kv_cache_bytes 0 leaves open; 0: not said */
    int64_t kv_cache_bytes; /* size of the KV pool; --kv-cache-gib sets it too; 0: a quarter of free memory */
    const char *kv_format;  /* names with commas between, see cache/format.h; the first is the default */
    int kv_recent;          /* newest sealed blocks that keep all parts of their format */
    int sink_tokens;        /* tokens at the start kept in fp16 */
    const char *calibration; /* side file; NULL: found or made, see server/serve_calibration.h */
    bool no_calibration;
    int threads; /* engine's worker threads; 0: the processors this process may use */
    int http_threads;
    int max_batch_tokens; /* tokens in one engine step; 0: as the device likes it */
    int max_queue;        /* requests waiting; more get 429 */
    int64_t max_queue_tokens;
    int max_queue_wait_ms;  /* likely wait in the queue; more get 429 */
    int max_queued_per_key; /* sequences of one API key waiting; 0: half of max_queue where there are several
                             */
    const char *admission;
    bool no_prefix_cache;
    double temperature, top_p, min_p; /* of requests that do not say; -1: each endpoint's own */
    int top_k;
    int64_t seed;                     /* -1: every request draws its own */
    int n_predict;                    /* tokens to generate; -1: each endpoint's own */
    bool any_model;                   /* requests may name any model; else 404 for another one */
    const char *reasoning_format;     /* auto, none, deepseek: auto by another name */
    const char *chat_template_kwargs; /* a JSON object of variables for all chats; NULL: none */
    const char *chat_template; /* file of a template that takes the place of the model's own; NULL: none */
    const char *prompt_cache;  /* NULL: cached prompts are lost at the end */
    int64_t swap_bytes;        /* of the second store, see cache/swap.h; 0: none */
    const char *swap_file;     /* NULL: host memory */
    int max_connections;
    int64_t max_body_bytes;
    int header_timeout_ms;          /* a request's header must be complete by then */
    int idle_timeout_ms;            /* keep-alive connections without traffic are closed */
    int drain_timeout_ms;           /* after SIGTERM, running requests have this long */
    const char *api_key;            /* bearer token that clients must send; NULL: none */
    const char *api_key_file;       /* more of them, with tenants; NULL: none */
    const char *tls_cert, *tls_key; /* paths of PEM files; NULL: plain HTTP */
    bool no_ui;                     /* no page at / */
    const char *cors_origins;       /* web pages that may read replies */
    const char *log_level;          /* debug, info, warn, error */
    const char *log_format;         /* text, json */
    const char *device;             /* auto, cpu, cuda, cuda:N */
    const char *device_weights;     /* auto, f16, file */
    const char *cpu;                /* auto, scalar, avx2, avx512: the most the kernels may use */
    const char *activation_bits;    /* auto, 8, 16 */
    const char *config;             /* path of the config file; NULL: none */
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
