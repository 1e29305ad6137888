#include "kernels/cuda/cuda.h"
#include "config/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * The CUDA backend's table: rows and elements here, weights, cache and memory in their own files. The CUDA
 * runtime is linked in and opens the driver's library when it is first called, so a machine without one only
 * sees cudaGetDeviceCount fail.
 */

bool cuda_check(struct cuda_state *cuda, cudaError_t error, const char *operation)
{
    if (error == cudaSuccess) return true;
    if (cuda->failure[0] == 0) {
        snprintf(cuda->failure, sizeof cuda->failure, "%s: %s", operation, cudaGetErrorString(error));
        log_error("cuda", "%s", cuda->failure);
    }
    return false;
}

bool cuda_buffer_need(struct cuda_state *cuda, struct cuda_buffer *buffer, size_t bytes)
{
    if (bytes <= buffer->bytes) return true;
    size_t larger = bytes + bytes / 2;
    if (!cuda_check(cuda, cudaStreamSynchronize(cuda->stream), "wait")) return false;
    cudaFree(buffer->memory);
    *buffer = (struct cuda_buffer){0};
    if (!cuda_check(cuda, cudaMalloc(&buffer->memory, larger), "memory of the card")) return false;
    buffer->bytes = larger;
    return true;
}

static bool is_failed(const struct backend *backend)
{
    return cuda_state(backend)->failure[0] != 0;
}

static const char *cuda_failure(const struct backend *backend)
{
    return is_failed(backend) ? cuda_state(backend)->failure : NULL;
}

static void cuda_rmsnorm(struct backend *backend, const float *x, const float *gain, float eps, int n_rows,
                         int n, float *out)
{
    struct cuda_state *cuda = cuda_state(backend);
    if (is_failed(backend) || n_rows == 0) return;
    cuda_check(cuda, cuda_rmsnorm_run(x, gain, eps, n_rows, n, out, cuda->stream), "rmsnorm");
}

static void cuda_rope(struct backend *backend, float *x, int n_rows, int n_heads, int head_dim,
                      const float *cosines, const float *sines)
{
    struct cuda_state *cuda = cuda_state(backend);
    if (is_failed(backend) || n_rows == 0) return;
    cuda_check(cuda, cuda_rope_run(x, n_rows, n_heads, head_dim, cosines, sines, cuda->stream), "rope");
}

static void cuda_swiglu(struct backend *backend, const float *gate, const float *up, size_t n, float *out)
{
    struct cuda_state *cuda = cuda_state(backend);
    if (is_failed(backend) || n == 0) return;
    cuda_check(cuda, cuda_swiglu_run(gate, up, n, out, cuda->stream), "swiglu");
}

static void cuda_add(struct backend *backend, float *x, const float *y, size_t n)
{
    struct cuda_state *cuda = cuda_state(backend);
    if (is_failed(backend) || n == 0) return;
    cuda_check(cuda, cuda_add_run(x, y, n, cuda->stream), "add");
}

/* After a failure the card's calls do nothing. */
static void cuda_destroy(struct backend *backend)
{
    if (!backend) return;
    struct cuda_state *cuda = cuda_state(backend);
    if (cuda->stream) cudaStreamSynchronize(cuda->stream);
    cuda_free_kv(cuda);
    cuda_free_memory(cuda);
    cuda_free_choose(cuda);
    cuda_free_marks(cuda);
    cuda_free_transfer(cuda);
    cudaFree(cuda->tokens.memory);
    cudaFree(cuda->unpacked.memory);
    if (cuda->stream) cudaStreamDestroy(cuda->stream);
    free(cuda);
    free(backend);
}

static enum err device_open(struct cuda_state *cuda, int device, struct err_info *info)
{
    int n_devices = 0;
    cudaError_t error = cudaGetDeviceCount(&n_devices);
    if (error != cudaSuccess)
        return err_set_param(info, ERR_UNSUPPORTED, "device", "device: no CUDA here: %s",
                             cudaGetErrorString(error));
    if (device >= n_devices)
        return err_set_param(info, ERR_UNSUPPORTED, "device",
                             "device: cuda:%d does not exist; there are %d cards", device, n_devices);
    struct cudaDeviceProp properties;
    error = cudaSetDevice(device);
    if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, device);
    if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking);
    if (error != cudaSuccess)
        return err_set_param(info, ERR_UNSUPPORTED, "device", "device: cuda:%d: %s", device,
                             cudaGetErrorString(error));
    if (properties.major < 8)
        return err_set_param(info, ERR_UNSUPPORTED, "device",
                             "device: cuda:%d, %s, has compute capability %d.%d; octavo needs 8.0", device,
                             properties.name, properties.major, properties.minor);
    cuda->device = device;
    cuda->n_processors = properties.multiProcessorCount;
    cuda->most_shared_bytes = (int)properties.sharedMemPerBlockOptin;
    snprintf(cuda->name, sizeof cuda->name, "cuda:%d (%.120s)", device, properties.name);
    return ERR_OK;
}

/* A whole number from the environment, within bounds. */
static int number_of(const char *name, int least, int otherwise, int most)
{
    const char *text = getenv(name);
    int x = text ? atoi(text) : otherwise;
    return x < least ? least : x > most ? most : x;
}

/* Which attention, and its measures: for comparisons (docs/cuda.md). */
static void kernels_choose(struct cuda_state *cuda)
{
    const char *plain = getenv("OCTAVO_CUDA_PLAIN");
    cuda->is_plain = plain && plain[0] == '1';
    cuda->walk_warps = number_of("OCTAVO_CUDA_WARPS", 1, 16, 16);
    cuda->rotated.scratch_bytes = number_of("OCTAVO_CUDA_ROTATED_BYTES", 0, 256 << 20, 1 << 30);
}

enum err backend_cuda_create(int device, struct backend **out, struct err_info *info)
{
    struct backend *backend = calloc(1, sizeof *backend);
    struct cuda_state *cuda = calloc(1, sizeof *cuda);
    if (!backend || !cuda) {
        free(backend);
        free(cuda);
        return err_set(info, ERR_MEMORY, "cuda backend: out of memory");
    }
    backend->state = cuda;
    enum err err = device_open(cuda, device, info);
    if (!err) err = cuda_fill_memory(backend, info);
    if (!err && !(cuda_fill_marks(backend) && cuda_fill_transfer(backend)))
        err = err_set(info, ERR_MEMORY, "cuda backend: out of memory");
    if (err) {
        cuda_destroy(backend);
        return err;
    }
    backend->name = cuda->name;
    backend->failure = cuda_failure;
    backend->rmsnorm = cuda_rmsnorm;
    backend->rope = cuda_rope;
    backend->swiglu = cuda_swiglu;
    backend->add = cuda_add;
    backend->destroy = cuda_destroy;
    cuda_fill_weights(backend);
    cuda_fill_kv(backend);
    cuda_fill_choose(backend);
    kernels_choose(cuda);
    *out = backend;
    return ERR_OK;
}
