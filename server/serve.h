#ifndef SERVER_SERVE_H
#define SERVER_SERVE_H

#include "config/err.h"

struct options;

/*
 * `octavo serve`, from the parsed options to a clean end: binds the port, loads the model, starts engine,
 * courier and HTTP threads, and returns after SIGTERM or SIGINT once the running requests have finished
 * (drain_timeout_ms at most; a second signal stops at once). While the model loads, /health answers 503.
 *
 * When a card fails, the process is replaced by a new one with the same arguments: argv, the program's name
 * first.
 *
 * ERR_OK: it served and was asked to stop. ERR_USAGE: an option does not fit the model or this machine (exit
 * code 2). Anything else: it could not start; the message names the file, tensor, key or address at fault.
 * Call log_configure first. Takes over SIGTERM, SIGINT and SIGPIPE of the process.
 */
enum err serve_run(const struct options *options, char **argv, struct err_info *info);

#endif
