#include "kernels/backend.h"

#include <stdlib.h>
#include <string.h>

/* Which backend a device's name means. */

#ifndef OCTAVO_CUDA
enum err backend_cuda_create(int device, struct backend **out, struct err_info *info)
{
    (void)out;
    return err_set_param(info, ERR_UNSUPPORTED, "device",
                         "device: cuda:%d is not available: this octavo was built without CUDA (CMake: "
                         "-DOCTAVO_CUDA=ON, or --preset cuda)",
                         device);
}
#endif

/* "cuda" and "cuda:N"; -1: neither. */
static int cuda_device(const char *name)
{
    char *end;
    if (!strcmp(name, "cuda")) return 0;
    if (strncmp(name, "cuda:", 5) || name[5] < '0' || name[5] > '9') return -1;
    long device = strtol(name + 5, &end, 10);
    return *end == 0 && device < 1024 ? (int)device : -1;
}

enum err backend_create(const char *device, struct workers *workers, const char *level, struct backend **out,
                        struct err_info *info)
{
    if (!strcmp(device, "cpu")) return backend_cpu_create(workers, level, out, info);
    if (!strcmp(device, "auto")) {
        if (backend_cuda_create(0, out, NULL) == ERR_OK) return ERR_OK;
        return backend_cpu_create(workers, level, out, info);
    }
    int number = cuda_device(device);
    if (number < 0)
        return err_set_param(info, ERR_USAGE, "device", "device: '%s' is none of auto, cpu, cuda, cuda:N",
                             device);
    return backend_cuda_create(number, out, info);
}

enum backend_weights backend_weights_named(const char *name)
{
    if (!strcmp(name, "f16")) return BACKEND_WEIGHTS_F16;
    return !strcmp(name, "file") ? BACKEND_WEIGHTS_FILE : BACKEND_WEIGHTS_AUTO;
}
