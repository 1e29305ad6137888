#ifndef CONFIG_OPTION_H
#define CONFIG_OPTION_H

#include "config/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * Options from tables. A command describes its settings in one array of struct option; from it come the
 * command line (--name VALUE, --name=VALUE, short and foreign aliases), the environment (PREFIX_NAME), a
 * config file (ini or JSON), --help and --print-config. Values go straight into the fields of a struct of the
 * command's own, found by offset.
 *
 * Two options may share a field (--kv-cache-bytes and --kv-cache-gib); the first one is then the field's
 * owner, which holds its default. Giving a field two different values in the same place is a contradiction
 * and an error; between places the command line beats the environment, which beats the file.
 */

enum option_kind {
    OPTION_TEXT,   /* const char * */
    OPTION_CHOICE, /* const char *, one of `choices` */
    OPTION_INT,    /* int */
    OPTION_INT64,  /* int64_t */
    OPTION_BYTES,  /* int64_t, a decimal fraction times `unit` (1 when 0); with unit 1 also with suffix: k, M,
                      G, T are powers of 1000 (either case), Ki, Mi, Gi, Ti of 1024; a final B is allowed */
    OPTION_REAL,   /* double */
    OPTION_FLAG,   /* bool; on the command line the value may be left out */
};

enum option_origin { ORIGIN_UNSET, ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_ENVIRONMENT, ORIGIN_COMMAND_LINE };

struct option {
    const char *name;  /* "ctx-size"; '_' in what users write counts as '-' */
    const char *group; /* heading in --help; options of a group stand together */
    enum option_kind kind;
    size_t offset;             /* of the field in the command's struct */
    const char *default_value; /* as a user would write it; NULL: zero, or NULL for text */
    int64_t min, max;          /* INT, INT64, BYTES, REAL; max 0: none */
    int64_t unit;              /* BYTES */
    const char *choices;       /* CHOICE: "f16|o4|o2" */
    const char *aliases;       /* "-c --max-model-len", or NULL */
    const char *metavar;       /* "N"; NULL for flags and choices */
    const char *help;
    bool secret;       /* its value is never printed */
    bool command_line; /* not in the environment and files (help, version ...) */
    bool config_file;  /* its value is the path of the config file */
};

struct option_table {
    const char *usage;      /* "octavo serve MODEL [options]" */
    const char *about;      /* a sentence or two under it */
    const char *env_prefix; /* "OCTAVO_"; NULL: the environment is not read */
    const char *positional; /* name of the option that the one argument without a flag sets; NULL: none */
    const struct option *options;
    size_t n_options;
};

/* Where the values came from, and the strings' memory. */
struct option_state;

/* Fills *values (any content before) and *state; on failure neither is valid and nothing is left to free.
   When --help or another flag named in stop_flags ("help version", may be NULL) is given, the rest is not
   looked at: defaults, and that flag. environment: environ-style, NULL-terminated, or NULL.
   ERR_USAGE: the message names the option as the user wrote it and, in a file, the line. */
enum err option_parse(const struct option_table *table, int argc, char **argv, int first, char **environment,
                      const char *stop_flags, void *values, struct option_state **state,
                      struct err_info *info);
void option_state_free(struct option_state *state); /* NULL-safe */

/* Logs the environment variables that have the prefix and are no option; apart from option_parse because how
   to log is itself an option. */
void option_warn(const struct option_state *state);

/* Where the value of the option of this name came from. */
enum option_origin option_origin(const struct option_table *table, const struct option_state *state,
                                 const char *name);

/* --help: grouped, aligned, with defaults, environment names and aliases. */
void option_help(const struct option_table *table, FILE *out);
/* --print-config: every value and its origin, as an ini file that reads back to the same values. */
void option_print(const struct option_table *table, const struct option_state *state, const void *values,
                  FILE *out);

#endif
