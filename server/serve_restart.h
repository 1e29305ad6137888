#ifndef SERVER_SERVE_RESTART_H
#define SERVER_SERVE_RESTART_H

#include <stdbool.h>

/*
 * A card that has failed cannot be had again by the process that it failed (docs/cuda.md), so that process
 * ends by becoming a new one: the same program with the same arguments, under the same process id, on the
 * same port. What the new one has to know goes through the environment.
 */
enum { SERVE_RESTART_MOST = 5 };

struct serve_restart {
    int n_total;  /* cards lost since the first start */
    int n_in_row; /* starts since a step worked; 0: this process was started by others */
    int port;     /* where the process before listened */
};

/* What the process before left, which is removed from the environment; zeros: there was none. */
void serve_restart_read(struct serve_restart *out);

/* The card was lost, or, before a step worked, could not be had: what the next process has to know. False
   when that would be one start too many. has_stepped: a step had worked in this process. */
bool serve_restart_next(struct serve_restart *restart, bool was_up, bool has_stepped);

/* How long to wait before the next start. */
int serve_restart_wait_ms(const struct serve_restart *restart);

/* Becomes the new process. SIGTERM and SIGINT have to be blocked: they wait for it. Returns when that fails,
   with errno set. */
void serve_restart_run(const struct serve_restart *restart, char **argv);

#endif
