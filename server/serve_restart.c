#define _GNU_SOURCE /* close_range */

#include "server/serve_restart.h"

#include <linux/close_range.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char variable[] = "_OCTAVO_RESTART"; /* without the prefix of options */

enum { FIRST_WAIT_MS = 500 };

void serve_restart_read(struct serve_restart *out)
{
    const char *text = getenv(variable);
    *out = (struct serve_restart){0};
    if (!text) return;
    struct serve_restart read;
    if (sscanf(text, "%d,%d,%d", &read.n_total, &read.n_in_row, &read.port) == 3) *out = read;
    unsetenv(variable);
}

bool serve_restart_next(struct serve_restart *restart, bool was_up, bool has_stepped)
{
    restart->n_total += was_up;
    if (has_stepped) restart->n_in_row = 0;
    return restart->n_in_row++ < SERVE_RESTART_MOST;
}

int serve_restart_wait_ms(const struct serve_restart *restart)
{
    return restart->n_in_row <= 1 ? 0 : FIRST_WAIT_MS << (restart->n_in_row - 1);
}

void serve_restart_run(const struct serve_restart *restart, char **argv)
{
    char text[64];
    snprintf(text, sizeof text, "%d,%d,%d", restart->n_total, restart->n_in_row, restart->port);
    if (setenv(variable, text, 1) != 0) return;
    /* Whatever a library has open of the card goes with this process. */
    close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC);
    execv("/proc/self/exe", argv);
}
