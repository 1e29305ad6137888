/*
 * libcuda_fault.so, for LD_PRELOAD: breaks the card for the process it is loaded into, as a faulty kernel
 * would. While the file that CUDA_FAULT_FILE names holds a number n > 0, a thread of its own runs a kernel
 * that writes where there is no memory, in the context which the process uses; n counts down, and at 0 the
 * file goes. The next one comes when the process has its context anew. OCTAVO_EMULATED_FAIL is the same for
 * the emulated card.
 */
#include <cuda.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { POLL_MS = 5 };

static const char kernel[] =
    ".version 7.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry fault()\n{\n"
    "    .reg .u64 %at;\n    mov.u64 %at, 64;\n    st.global.u32 [%at], 1;\n    ret;\n}\n";

static struct {
    CUresult (*state)(CUdevice, unsigned *, int *);
    CUresult (*retain)(CUcontext *, CUdevice);
    CUresult (*release)(CUdevice);
    CUresult (*current)(CUcontext);
    CUresult (*load)(CUmodule *, const void *);
    CUresult (*function)(CUfunction *, CUmodule, const char *);
    CUresult (*launch)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                       CUstream, void **, void **);
    CUresult (*wait)(void);
} driver;

static bool driver_open(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    const struct {
        const char *name;
        void *function;
    } wanted[] = {
        {"cuDevicePrimaryCtxGetState", &driver.state},
        {"cuDevicePrimaryCtxRetain", &driver.retain},
        {"cuDevicePrimaryCtxRelease_v2", &driver.release},
        {"cuCtxSetCurrent", &driver.current},
        {"cuModuleLoadData", &driver.load},
        {"cuModuleGetFunction", &driver.function},
        {"cuLaunchKernel", &driver.launch},
        {"cuCtxSynchronize", &driver.wait},
    };
    for (size_t i = 0; library && i < sizeof wanted / sizeof *wanted; i++)
        if (!(*(void **)wanted[i].function = dlsym(library, wanted[i].name))) return false;
    return library != NULL;
}

/* False when there is no context that works. */
static bool card_break(void)
{
    unsigned flags;
    int is_active = 0;
    CUcontext context;
    CUmodule module;
    CUfunction function;
    if (driver.state(0, &flags, &is_active) != CUDA_SUCCESS || !is_active) return false;
    if (driver.retain(&context, 0) != CUDA_SUCCESS) return false;
    bool broke = driver.current(context) == CUDA_SUCCESS && driver.load(&module, kernel) == CUDA_SUCCESS &&
                 driver.function(&function, module, "fault") == CUDA_SUCCESS &&
                 driver.launch(function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL) == CUDA_SUCCESS &&
                 driver.wait() != CUDA_SUCCESS;
    driver.current(NULL);
    driver.release(0);
    return broke;
}

static int file_read(const char *path)
{
    FILE *file = fopen(path, "r");
    int n = 0;
    if (!file) return 0;
    if (fscanf(file, "%d", &n) != 1) n = 0;
    fclose(file);
    return n;
}

static void file_write(const char *path, int n)
{
    FILE *file = n > 0 ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%d\n", n);
        fclose(file);
    } else {
        remove(path);
    }
}

static void *watch(void *path)
{
    for (;;) {
        nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
        int n = file_read(path);
        if (n <= 0 || (!driver.wait && !driver_open()) || !card_break()) continue;
        fprintf(stderr, "fault.c: the card was broken as asked, %d more\n", n - 1);
        file_write(path, n - 1);
    }
    return NULL;
}

__attribute__((constructor)) static void fault_start(void)
{
    pthread_t thread;
    char *path = getenv("CUDA_FAULT_FILE");
    if (path && pthread_create(&thread, NULL, watch, path) == 0) pthread_detach(thread);
}
