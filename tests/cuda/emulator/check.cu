/*
 * emulator_check: does the emulated card see what it is there to see? Small kernels that are right, and the
 * same with one fault each; every case in a process of its own, since a fault ends it.
 */
#include "kernels/cuda/ptx.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
enum { IS_ASAN = 1 };
#else
enum { IS_ASAN = 0 };
#endif
enum { N = 256, SEEDS = 6 };

/* ---- kernels ---- */

/* Each thread reads what its neighbour wrote. */
__global__ void turn_kernel(int *out, bool has_barrier)
{
    CUDA_SHARED(int, shared, [N]);
    shared[threadIdx.x] = (int)threadIdx.x;
    if (has_barrier) __syncthreads();
    out[threadIdx.x] = shared[(threadIdx.x + 1) % N];
}

/* The same within a warp, twice: the second time the first reading may not be over. */
__global__ void warp_kernel(int *out, bool has_barrier)
{
    CUDA_SHARED(int, shared, [32]);
    int sum = 0;
    for (int round = 0; round < 2; round++) {
        shared[threadIdx.x] = (int)threadIdx.x + round;
        __syncwarp();
        sum += shared[threadIdx.x ^ 1];
        if (has_barrier) __syncwarp();
    }
    out[threadIdx.x] = sum;
}

__global__ void copy_kernel(const int *from, int *out, bool waits)
{
    CUDA_SHARED(int, shared, [128]);
    ptx_copy(ptx_shared(shared + 4 * threadIdx.x), from + 4 * threadIdx.x);
    ptx_copy_commit();
    if (waits) ptx_copy_wait<0>();
    __syncwarp();
    for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = shared[(4 * threadIdx.x + i + 4) % 128];
}

__global__ void bounds_kernel(int *out, int at)
{
    CUDA_SHARED(int, shared, [32]);
    shared[threadIdx.x] = 1;
    if (threadIdx.x == 31) shared[at] = 2;
    __syncwarp();
    out[threadIdx.x] = shared[threadIdx.x ^ 1];
}

__global__ void meet_kernel(int *out, bool diverges)
{
    int lane = (int)threadIdx.x;
    if (diverges && lane >= 16)
        out[lane] = (int)__ballot_sync(~0u, 1);
    else
        out[lane] = __shfl_xor_sync(~0u, lane, 1);
}

__global__ void leave_kernel(int *out, bool leaves)
{
    if (leaves && threadIdx.x == 7) return;
    out[threadIdx.x] = __shfl_xor_sync(~0u, (int)threadIdx.x, 1);
}

/* ---- cases: status 0 when the result is right ---- */

static int turn_run(int *out, bool good)
{
    CUDA_LAUNCH(turn_kernel, 1, N, 0, NULL, out, good);
    int got[N], wrong = 0;
    cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost);
    for (int i = 0; i < N; i++) wrong += got[i] != (i + 1) % N;
    return wrong != 0;
}

static int warp_run(int *out, bool good)
{
    CUDA_LAUNCH(warp_kernel, 1, 32, 0, NULL, out, good);
    int got[32], wrong = 0;
    cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost);
    for (int i = 0; i < 32; i++) wrong += got[i] != 2 * (i ^ 1) + 1;
    return wrong != 0;
}

static int copy_run(int *out, bool good)
{
    int *from, given[128], got[128], wrong = 0;
    for (int i = 0; i < 128; i++) given[i] = 3 * i + 1;
    cudaMalloc(&from, sizeof given);
    cudaMemcpy(from, given, sizeof given, cudaMemcpyHostToDevice);
    CUDA_LAUNCH(copy_kernel, 1, 32, 0, NULL, from, out, good);
    cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost);
    for (int i = 0; i < 128; i++) wrong += got[i] != given[(i + 4) % 128];
    cudaFree(from);
    return wrong != 0;
}

static int bounds_run(int *out, bool good)
{
    CUDA_LAUNCH(bounds_kernel, 1, 32, 0, NULL, out, good ? 31 : 33);
    return 0;
}

static int meet_run(int *out, bool good)
{
    CUDA_LAUNCH(meet_kernel, 1, 32, 0, NULL, out, !good);
    return 0;
}

static int leave_run(int *out, bool good)
{
    CUDA_LAUNCH(leave_kernel, 1, 32, 0, NULL, out, !good);
    return 0;
}

/* More shared memory than was asked for. */
static int config_run(int *out, bool good)
{
    CUDA_LAUNCH(bounds_kernel, 1, 32, good ? 48 << 10 : 49 << 10, NULL, out, 0);
    return cudaGetLastError() != cudaSuccess;
}

/* The host follows a pointer of the card; or a kernel writes behind an allocation. */
static int host_run(int *out, bool good)
{
    int value = 5;
    if (good)
        cudaMemcpy(out, &value, sizeof value, cudaMemcpyHostToDevice);
    else
        *(volatile int *)out = value;
    return 0;
}

static int end_run(int *out, bool good)
{
    CUDA_LAUNCH(bounds_kernel, 1, 32, 0, NULL, out + N - (good ? 32 : 31), 0);
    return 0;
}

static const struct {
    const char *name;
    int (*run)(int *out, bool good);
} cases[] = {
    {"a missing __syncthreads", turn_run},       {"a missing __syncwarp", warp_run},
    {"a missing wait for cp.async", copy_run},   {"shared memory out of bounds", bounds_run},
    {"lanes in different operations", meet_run}, {"a lane that has ended", leave_run},
    {"too much shared memory", config_run},      {"the card's memory in the host's hands", host_run},
    {"memory behind an allocation", end_run},
};

/* In how many orders of fibers all was well. */
static int count_good(int (*run)(int *, bool), bool good)
{
    int n = 0;
    for (int seed = 1; seed <= SEEDS; seed++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            char text[16];
            snprintf(text, sizeof text, "%d", seed);
            setenv("OCTAVO_EMULATED_SEED", text, 1);
            if (!good) freopen("/dev/null", "w", stderr);
            int *out;
            cudaMalloc(&out, N * sizeof *out);
            _exit(run(out, good));
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child) return -1;
        n += WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    return n;
}

int main(void)
{
    int n_failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].run == host_run && IS_ASAN) continue; /* there it is ordinary memory */
        int good = count_good(cases[i].run, true), bad = count_good(cases[i].run, false);
        bool passed = good == SEEDS && bad >= 0 && bad < SEEDS;
        printf("%s %s: without the fault %d of %d runs are right, with it %d\n", passed ? "ok" : "FAILED",
               cases[i].name, good, SEEDS, bad);
        n_failed += !passed;
    }
    return n_failed != 0;
}
