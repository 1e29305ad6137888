#ifndef SERVER_BENCH_H
#define SERVER_BENCH_H

#include "config/err.h"

/* `octavo bench serve ...`, `octavo bench capacity ...` and `octavo bench kernels ...`; argv[0] is "bench".
   Returns the process's exit code: 0, 1 (a measurement failed) or 2 (usage). */
int bench_main(int argc, char **argv);

/* They; argv[0] is the command's name. They print to stdout, progress to stderr. */
enum err bench_serve_run(int argc, char **argv, struct err_info *info);
enum err bench_capacity_run(int argc, char **argv, struct err_info *info);
enum err bench_kernels_run(int argc, char **argv, struct err_info *info);

#endif
