#ifndef SERVER_EVAL_OPTIONS_H
#define SERVER_EVAL_OPTIONS_H

#include "config/option.h"

enum { EVAL_MAX_RECENTS = 8 };

/* Every setting of `octavo eval`, in one table. */
struct eval_options {
    const char *model;
    const char *kv_format;                    /* names separated by commas; each is compared with f16 */
    const char *kv_recent;                    /* numbers separated by commas */
    int recents[EVAL_MAX_RECENTS], n_recents; /* what kv_recent says */
    int sink_tokens;
    const char *calibration;
    bool no_calibration;

    const char *text; /* scores a text ... */
    int ctx, windows; /* windows 0: all there are */
    const char *rule; /* block or all */

    const char *task; /* ... or solves problems: gsm8k, choices */
    const char *data;
    int limit; /* problems; 0: all */
    int shots;
    bool chat;
    int max_tokens, parallel;
    const char *details; /* file for what became of each problem; NULL: none */

    int threads;
    const char *device, *device_weights, *cpu, *activation_bits;
    bool json, help;
    struct option_state *state;
};

/* argv[0] is "eval". ERR_USAGE names the option at fault: besides what the table checks, exactly one of
   --text and --task is wanted, and none of the other's options. With --help nothing is checked. */
enum err eval_options_parse(int argc, char **argv, struct eval_options *options, struct err_info *info);
void eval_options_free(struct eval_options *options);
void eval_options_help(FILE *out);

#endif
