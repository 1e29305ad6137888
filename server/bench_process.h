#ifndef SERVER_BENCH_PROCESS_H
#define SERVER_BENCH_PROCESS_H

#include "server/bench_http.h"

#include <sys/types.h>

/* A server of our own, for the time of a measurement: this same binary, started anew. */
struct bench_process {
    pid_t pid;
    struct bench_url url;
};

/* Starts `octavo ARGUMENTS` (NULL-terminated, the command first) and waits until its /health answers 200 on
   127.0.0.1:port. On failure nothing is left running. ERR_IO: it could not be started, ended, or was not
   ready within timeout_s. */
enum err bench_process_start(char *const *arguments, int port, int timeout_s, struct bench_process *out,
                             struct err_info *info);
/* SIGTERM; after 10 seconds SIGKILL. */
void bench_process_stop(struct bench_process *process);

/* A TCP port of 127.0.0.1 that is free at the moment. */
enum err bench_port_find(int *port, struct err_info *info);

#endif
