#include "emulated.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <map>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/*
 * The runtime's and the driver's functions over the host's memory. The card's memory is filled with 0xff when
 * it is given out: NaN, in fp32 and fp16, to whoever reads what was never written. It can be read and written
 * only while a launch or a copy is under way, so the host's code faults when it follows a pointer of the
 * card; and an allocation ends at the end of a page, behind which there is none. (Under ASan it is ordinary
 * memory, whose ends ASan watches to the byte.)
 *
 *   OCTAVO_EMULATED_MEMORY       bytes of the card (default: 8 GiB)
 *   OCTAVO_EMULATED_FAIL         a file: while it is there, the next launch fails, and all calls of the
 * process after it; it has the number of launches to fail, and goes with the last
 */

enum { GRANULE_BYTES = 2 << 20, PLAIN_SHARED_BYTES = 48 << 10, MOST_SHARED_BYTES = 227 << 10 };

#if defined(__SANITIZE_ADDRESS__)
enum { IS_HIDDEN = 0 };
#else
enum { IS_HIDDEN = 1 };
#endif

struct allocation {
    size_t bytes;
    char *base; /* of its pages, and how many bytes they have; without the one behind them */
    size_t page_bytes;
};

static struct {
    std::mutex mutex;
    size_t total_bytes, used_bytes;
    std::map<char *, allocation> allocations;
    int n_users; /* launches and copies under way */
    std::map<CUdeviceptr, size_t> reserved, mapped;
    std::map<const void *, size_t> most_shared; /* of kernels that asked for more than others get */
    cudaError_t sticky, last;
} card;

static void card_open()
{
    if (card.total_bytes) return;
    const char *bytes = getenv("OCTAVO_EMULATED_MEMORY");
    card.total_bytes = bytes ? strtoull(bytes, NULL, 10) : (size_t)8 << 30;
}

/* What a call returns: the sticky error, or its own, which is also remembered. */
static cudaError_t told(cudaError_t error)
{
    if (card.sticky) error = card.sticky;
    if (error) card.last = error;
    return error;
}

static bool take(size_t bytes)
{
    card_open();
    if (bytes > card.total_bytes - card.used_bytes) return false;
    card.used_bytes += bytes;
    return true;
}

/* ---- devices and errors ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return told(cudaSuccess);
}

cudaError_t cudaSetDevice(int device)
{
    return told(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return told(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    if (device) return told(cudaErrorInvalidDevice);
    card_open();
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "emulated");
    properties->totalGlobalMem = card.total_bytes;
    properties->sharedMemPerBlock = PLAIN_SHARED_BYTES;
    properties->sharedMemPerBlockOptin = MOST_SHARED_BYTES;
    properties->major = 9;
    properties->multiProcessorCount = 2;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    return told(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int)
{
    *value = attribute == cudaDevAttrMultiProcessorCount ? 2 : (int)MOST_SHARED_BYTES;
    return told(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize(void)
{
    return told(cudaSuccess);
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = card.sticky ? card.sticky : card.last;
    card.last = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return card.sticky ? card.sticky : card.last;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure:
        return "unspecified launch failure";
    case cudaErrorNotReady:
        return "device not ready";
    case cudaErrorNotSupported:
        return "operation not supported";
    }
    return "unrecognized error code";
}

const char *cudaGetErrorName(cudaError_t error)
{
    return cudaGetErrorString(error);
}

/* ---- memory ---- */

static void show(bool visible)
{
    int protection = visible ? PROT_READ | PROT_WRITE : PROT_NONE;
    for (const auto &entry : card.allocations)
        if (IS_HIDDEN) mprotect(entry.second.base, entry.second.page_bytes, protection);
    for (const auto &entry : card.mapped)
        if (IS_HIDDEN) mprotect((void *)entry.first, entry.second, protection);
}

void emulated_memory_enter()
{
    std::lock_guard<std::mutex> lock(card.mutex);
    if (card.n_users++ == 0) show(true);
}

void emulated_memory_leave()
{
    std::lock_guard<std::mutex> lock(card.mutex);
    if (--card.n_users == 0) show(false);
}

static bool memory_take(size_t bytes, char **out, allocation *allocation)
{
    enum { ALIGNMENT = 256, PAGE_BYTES = 4096 };
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    size_t page_bytes = (rounded + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (!IS_HIDDEN) {
        *allocation = {bytes, NULL, 0};
        return posix_memalign((void **)out, ALIGNMENT, bytes ? bytes : 1) == 0;
    }
    void *base =
        mmap(NULL, page_bytes + PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return false;
    *allocation = {bytes, (char *)base, page_bytes};
    *out = (char *)base + page_bytes - rounded;
    return mprotect(base, page_bytes, PROT_READ | PROT_WRITE) == 0;
}

static void memory_give(char *memory, const allocation &allocation)
{
    if (allocation.base)
        munmap(allocation.base, allocation.page_bytes + 4096);
    else
        free(memory);
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    std::lock_guard<std::mutex> lock(card.mutex);
    allocation allocation;
    char *at;
    if (card.sticky) return told(card.sticky);
    if (!take(bytes) || !memory_take(bytes, &at, &allocation)) return told(cudaErrorMemoryAllocation);
    memset(at, 0xff, bytes);
    if (allocation.base && !card.n_users) mprotect(allocation.base, allocation.page_bytes, PROT_NONE);
    card.allocations[at] = allocation;
    *memory = at;
    return told(cudaSuccess);
}

cudaError_t cudaFree(void *memory)
{
    std::lock_guard<std::mutex> lock(card.mutex);
    if (!memory || card.sticky) return told(cudaSuccess);
    auto found = card.allocations.find((char *)memory);
    if (found == card.allocations.end()) emulated_fault("cudaFree of what is no allocation");
    card.used_bytes -= found->second.bytes;
    memory_give((char *)memory, found->second);
    card.allocations.erase(found);
    return told(cudaSuccess);
}

cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    *memory = malloc(bytes ? bytes : 1);
    return told(*memory ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *memory)
{
    free(memory);
    return told(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    std::lock_guard<std::mutex> lock(card.mutex);
    card_open();
    *free_bytes = card.total_bytes - card.used_bytes;
    *total_bytes = card.total_bytes;
    return told(cudaSuccess);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind)
{
    if (card.sticky) return told(card.sticky);
    emulated_memory_enter();
    memmove(to, from, bytes);
    emulated_memory_leave();
    return told(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t)
{
    return cudaMemcpy(to, from, bytes, kind);
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    if (card.sticky) return told(card.sticky);
    emulated_memory_enter();
    memset(to, value, bytes);
    emulated_memory_leave();
    return told(cudaSuccess);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t)
{
    return cudaMemset(to, value, bytes);
}

/* ---- streams and events ---- */

struct CUstream_st {
    unsigned flags;
};

struct CUevent_st {
    struct timespec at;
};

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    if (!card.sticky) *stream = new CUstream_st{flags};
    return told(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return told(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return told(cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned)
{
    return told(cudaSuccess);
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    *event = new CUevent_st{};
    return told(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    return cudaEventCreate(event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return told(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
    clock_gettime(CLOCK_MONOTONIC, &event->at);
    return told(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t)
{
    return told(cudaSuccess);
}

cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return told(cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    *ms = (float)(end->at.tv_sec - start->at.tv_sec) * 1e3f +
          (float)(end->at.tv_nsec - start->at.tv_nsec) / 1e6f;
    return told(cudaSuccess);
}

/* ---- launches ---- */

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute, int value)
{
    std::lock_guard<std::mutex> lock(card.mutex);
    if (value < 0 || value > MOST_SHARED_BYTES) return told(cudaErrorInvalidValue);
    card.most_shared[function] = (size_t)value;
    return told(cudaSuccess);
}

static bool is_to_fail()
{
    static const char *path = getenv("OCTAVO_EMULATED_FAIL");
    FILE *file = path ? fopen(path, "r+") : NULL;
    if (!file) return false;
    int n = 0;
    bool fails = fscanf(file, "%d", &n) == 1 && n > 0; /* else it is still being written */
    rewind(file);
    if (n > 1) fprintf(file, "%d ", n - 1);
    fclose(file);
    if (n == 1) remove(path);
    return fails;
}

bool emulated_launch_begins(const char *name, const void *function, dim3 grid, dim3 block,
                            size_t shared_bytes)
{
    std::lock_guard<std::mutex> lock(card.mutex);
    if (card.sticky) return false;
    if (is_to_fail()) {
        fprintf(stderr, "emulated card: the launch of %s fails as asked\n", name);
        card.sticky = cudaErrorIllegalAddress;
        return false;
    }
    auto most = card.most_shared.find(function);
    size_t limit = most == card.most_shared.end() ? (size_t)PLAIN_SHARED_BYTES : most->second;
    size_t n_threads = (size_t)block.x * block.y * block.z;
    bool good = n_threads && n_threads <= 1024 && grid.x && grid.y && grid.z && grid.y < 65536 &&
                grid.z < 65536 && shared_bytes <= (limit > PLAIN_SHARED_BYTES ? limit : PLAIN_SHARED_BYTES);
    if (!good) card.last = cudaErrorInvalidConfiguration;
    return good;
}

/* ---- the driver's virtual memory ---- */

static CUresult vm_granularity(size_t *bytes, const CUmemAllocationProp *, CUmemAllocationGranularity_flags)
{
    *bytes = GRANULE_BYTES;
    return CUDA_SUCCESS;
}

static CUresult vm_reserve(CUdeviceptr *at, size_t bytes, size_t, CUdeviceptr, unsigned long long)
{
    std::lock_guard<std::mutex> lock(card.mutex);
    void *memory = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    *at = (CUdeviceptr)memory;
    card.reserved[*at] = bytes;
    return CUDA_SUCCESS;
}

static CUresult vm_address_free(CUdeviceptr at, size_t bytes)
{
    std::lock_guard<std::mutex> lock(card.mutex);
    if (card.sticky) return (CUresult)card.sticky;
    if (!card.reserved.erase(at)) return CUDA_ERROR_INVALID_VALUE;
    munmap((void *)at, bytes);
    return CUDA_SUCCESS;
}

/* A handle is only its size. */
static CUresult vm_create(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *,
                          unsigned long long)
{
    std::lock_guard<std::mutex> lock(card.mutex);
    if (card.sticky) return (CUresult)card.sticky;
    if (!take(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = bytes;
    return CUDA_SUCCESS;
}

static CUresult vm_release(CUmemGenericAllocationHandle)
{
    return CUDA_SUCCESS;
}

static CUresult vm_map(CUdeviceptr at, size_t bytes, size_t, CUmemGenericAllocationHandle, unsigned long long)
{
    std::lock_guard<std::mutex> lock(card.mutex);
    if (at % GRANULE_BYTES && bytes % GRANULE_BYTES) return CUDA_ERROR_INVALID_VALUE;
    card.mapped[at] = bytes;
    return CUDA_SUCCESS;
}

static CUresult vm_unmap(CUdeviceptr at, size_t bytes)
{
    std::lock_guard<std::mutex> lock(card.mutex);
    if (card.sticky) return (CUresult)card.sticky;
    auto found = card.mapped.find(at);
    if (found == card.mapped.end()) emulated_fault("cuMemUnmap of what is not mapped");
    card.used_bytes -= found->second;
    card.mapped.erase(found);
    madvise((void *)at, bytes, MADV_DONTNEED);
    mprotect((void *)at, bytes, PROT_NONE);
    return CUDA_SUCCESS;
}

static CUresult vm_access(CUdeviceptr at, size_t bytes, const CUmemAccessDesc *, size_t)
{
    if (mprotect((void *)at, bytes, PROT_READ | PROT_WRITE)) return CUDA_ERROR_INVALID_VALUE;
    memset((void *)at, 0xff, bytes);
    std::lock_guard<std::mutex> lock(card.mutex);
    if (IS_HIDDEN && !card.n_users) mprotect((void *)at, bytes, PROT_NONE);
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned,
                                             unsigned long long, enum cudaDriverEntryPointQueryResult *result)
{
    static const struct {
        const char *name;
        void *function;
    } known[] = {
        {"cuMemGetAllocationGranularity", (void *)vm_granularity},
        {"cuMemAddressReserve", (void *)vm_reserve},
        {"cuMemAddressFree", (void *)vm_address_free},
        {"cuMemCreate", (void *)vm_create},
        {"cuMemRelease", (void *)vm_release},
        {"cuMemMap", (void *)vm_map},
        {"cuMemUnmap", (void *)vm_unmap},
        {"cuMemSetAccess", (void *)vm_access},
    };
    *result = cudaDriverEntryPointSymbolNotFound;
    for (const auto &entry : known)
        if (!strcmp(entry.name, symbol)) {
            *function = entry.function;
            *result = cudaDriverEntryPointSuccess;
        }
    return told(cudaSuccess);
}
