#include "server/bench.h"

#include "config/nearest.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static const char usage[] =
    "Usage: octavo bench serve [options]     loads a running server: latencies and throughput\n"
    "       octavo bench capacity [options]  starts servers with equal KV pools: how many sequences run at "
    "once\n"
    "       octavo bench kernels [options]   times the parts of a step, on the CPU or on a card\n"
    "\n"
    "'octavo bench COMMAND --help' describes the options.\n";

/* A connection each; the usual soft limit of 1024 descriptors is soon reached. */
static void descriptors_raise(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int bench_main(int argc, char **argv)
{
    static const char *const names[] = {"serve", "capacity", "kernels"};
    const char *name = argc > 1 ? argv[1] : "";
    struct err_info info;
    enum err err;
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    descriptors_raise();
    if (strcmp(name, "serve") == 0) {
        err = bench_serve_run(argc - 1, argv + 1, &info);
    } else if (strcmp(name, "capacity") == 0) {
        err = bench_capacity_run(argc - 1, argv + 1, &info);
    } else if (strcmp(name, "kernels") == 0) {
        err = bench_kernels_run(argc - 1, argv + 1, &info);
    } else if (*name == '\0') {
        fputs(usage, stderr);
        return 2;
    } else {
        const char *nearest = nearest_name(name, names, 3);
        fprintf(stderr, "octavo bench: unknown command '%s'%s%s%s\n", name, nearest ? "; did you mean '" : "",
                nearest ? nearest : "", nearest ? "'?" : "; there are 'serve', 'capacity' and 'kernels'");
        return 2;
    }
    if (err) fprintf(stderr, "octavo bench %s: %s\n", name, info.message);
    return err == ERR_OK ? 0 : err == ERR_USAGE ? 2 : 1;
}
