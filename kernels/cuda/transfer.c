#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

/*
 * To the card and back. What the host sends is copied into page-locked memory first, from where the card
 * fetches it when its turn comes: the caller may use its own again at once, and nobody waits. There are two
 * such lanes; one is filled while the card may still read the other.
 */

enum { LANES = 2, LANE_BYTES = 8 << 20 };

struct cuda_lanes {
    struct cuda_lane {
        char *memory; /* [LANE_BYTES], page-locked */
        size_t used;
        cudaEvent_t read; /* after the last copy out of it */
        bool is_full;     /* and `read` is in the stream */
    } lanes[LANES];
    int now;
};

static bool lane_open(struct cuda_state *cuda, struct cuda_lane *lane)
{
    if (lane->memory) return true;
    void *memory = NULL;
    if (cudaEventCreateWithFlags(&lane->read, cudaEventDisableTiming) != cudaSuccess) return false;
    if (cudaMallocHost(&memory, LANE_BYTES) != cudaSuccess) {
        cudaGetLastError();
        cudaEventDestroy(lane->read);
        return false;
    }
    (void)cuda;
    lane->memory = memory;
    return true;
}

/* A lane with room for bytes; NULL: there is no page-locked memory. */
static struct cuda_lane *lane_for(struct cuda_state *cuda, size_t bytes)
{
    struct cuda_lanes *lanes = cuda->lanes;
    struct cuda_lane *lane = &lanes->lanes[lanes->now];
    if (!lane_open(cuda, lane)) return NULL;
    if (lane->used + bytes <= LANE_BYTES) return lane;
    if (cudaEventRecord(lane->read, cuda->stream) != cudaSuccess) return NULL;
    lane->is_full = true;
    lanes->now = (lanes->now + 1) % LANES;
    lane = &lanes->lanes[lanes->now];
    if (!lane_open(cuda, lane)) return NULL;
    if (lane->is_full && cudaEventSynchronize(lane->read) != cudaSuccess) return NULL;
    lane->is_full = false;
    lane->used = 0;
    return lane;
}

bool cuda_send(struct cuda_state *cuda, void *to, const void *from, size_t bytes, const char *what)
{
    for (size_t at = 0, n; at < bytes; at += n) {
        n = bytes - at < LANE_BYTES ? bytes - at : LANE_BYTES;
        struct cuda_lane *lane = lane_for(cuda, n);
        const char *source = (const char *)from + at;
        if (lane) {
            source = memcpy(lane->memory + lane->used, source, n);
            lane->used += (n + 255) / 256 * 256;
        }
        if (!cuda_check(cuda,
                        cudaMemcpyAsync((char *)to + at, source, n, cudaMemcpyHostToDevice, cuda->stream),
                        what))
            return false;
    }
    return true;
}

static void cuda_copy(struct backend *backend, void *to, const void *from, size_t bytes)
{
    struct cuda_state *cuda = cuda_state(backend);
    if (cuda->failure[0] || bytes == 0) return;
    cuda_check(cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda->stream), "copy");
}

static void cuda_upload(struct backend *backend, void *to, const void *from, size_t bytes)
{
    struct cuda_state *cuda = cuda_state(backend);
    if (!cuda->failure[0]) cuda_send(cuda, to, from, bytes, "upload");
}

static void cuda_download(struct backend *backend, void *to, const void *from, size_t bytes)
{
    struct cuda_state *cuda = cuda_state(backend);
    if (cuda->failure[0] || bytes == 0) return;
    if (cuda_check(cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda->stream), "download"))
        cuda_check(cuda, cudaStreamSynchronize(cuda->stream), "step");
}

static void *host_alloc(struct backend *backend, size_t bytes)
{
    (void)backend;
    void *memory = NULL;
    if (cudaMallocHost(&memory, bytes ? bytes : 1) == cudaSuccess) return memory;
    cudaGetLastError();
    return NULL;
}

static void host_free(struct backend *backend, void *memory)
{
    (void)backend;
    cudaFreeHost(memory);
}

bool cuda_fill_transfer(struct backend *backend)
{
    backend->copy = cuda_copy;
    backend->upload = cuda_upload;
    backend->download = cuda_download;
    backend->host_alloc = host_alloc;
    backend->host_free = host_free;
    return (cuda_state(backend)->lanes = calloc(1, sizeof(struct cuda_lanes))) != NULL;
}

void cuda_free_transfer(struct cuda_state *cuda)
{
    for (int i = 0; cuda->lanes && i < LANES; i++) {
        struct cuda_lane *lane = &cuda->lanes->lanes[i];
        if (!lane->memory) continue;
        cudaEventDestroy(lane->read);
        cudaFreeHost(lane->memory);
    }
    free(cuda->lanes);
}
