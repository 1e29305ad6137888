#ifndef SERVER_SERVE_MACHINE_H
#define SERVER_SERVE_MACHINE_H

#include <stddef.h>

/* What this process may use of the machine. */

/* Processors in its affinity mask; at least 1. */
int serve_machine_processors(void);
/* Memory that can be had without swapping: MemAvailable, or what the control group leaves when that is less.
   0 when the system does not tell. */
size_t serve_machine_free_bytes(void);
/* Raises the limit of open files as far as it goes; returns it. */
int serve_machine_raise_files(void);

#endif
