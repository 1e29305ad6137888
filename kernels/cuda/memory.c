#include "kernels/cuda/cuda.h"

#include <assert.h>
#include <cuda.h>
#include <stdlib.h>

/*
 * Memory of the card: plain allocations, and ranges of addresses for the block pool, of which memory is
 * mapped as blocks come into use. Memory comes in granules of 2 MiB where blocks are smaller or larger, so a
 * granule counts the blocks that need it. The driver's functions for this are asked for by name at run time.
 */

struct driver {
    CUresult (*granularity)(size_t *, const CUmemAllocationProp *, CUmemAllocationGranularity_flags);
    CUresult (*reserve)(CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long);
    CUresult (*address_free)(CUdeviceptr, size_t);
    CUresult (*create)(CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *,
                       unsigned long long);
    CUresult (*release)(CUmemGenericAllocationHandle);
    CUresult (*map)(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long);
    CUresult (*unmap)(CUdeviceptr, size_t);
    CUresult (*access)(CUdeviceptr, size_t, const CUmemAccessDesc *, size_t);
};

struct range {
    struct range *next;
    char *base;
    size_t bytes;
    int32_t *users; /* [granules] blocks that need it */
};

struct cuda_ranges {
    struct driver driver;
    size_t granule;
    CUmemAllocationProp property;
    struct range *first;
    size_t n_mapped; /* granules */
};

static bool driver_open(struct driver *driver)
{
    const struct {
        const char *name;
        void **function;
    } wanted[] = {
        {"cuMemGetAllocationGranularity", (void **)&driver->granularity},
        {"cuMemAddressReserve", (void **)&driver->reserve},
        {"cuMemAddressFree", (void **)&driver->address_free},
        {"cuMemCreate", (void **)&driver->create},
        {"cuMemRelease", (void **)&driver->release},
        {"cuMemMap", (void **)&driver->map},
        {"cuMemUnmap", (void **)&driver->unmap},
        {"cuMemSetAccess", (void **)&driver->access},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        enum cudaDriverEntryPointQueryResult result;
        if (cudaGetDriverEntryPointByVersion(wanted[i].name, wanted[i].function, 12000, cudaEnableDefault,
                                             &result) != cudaSuccess ||
            result != cudaDriverEntryPointSuccess)
            return false;
    }
    return true;
}

static void *cuda_alloc(struct backend *backend, size_t bytes)
{
    (void)backend;
    void *memory = NULL;
    if (cudaMalloc(&memory, bytes ? bytes : 1) == cudaSuccess) return memory;
    cudaGetLastError();
    return NULL;
}

static void cuda_free(struct backend *backend, void *memory)
{
    cudaStreamSynchronize(cuda_state(backend)->stream);
    cudaFree(memory);
}

static size_t free_bytes(struct backend *backend)
{
    (void)backend;
    size_t free = 0, total = 0;
    return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

static void cuda_memory(struct backend *backend, struct backend_memory *out)
{
    const struct cuda_state *cuda = cuda_state(backend);
    *out = (struct backend_memory){.activations = cuda->acts_bytes,
                                   .scratch = cuda->tokens.bytes + cuda->table.device.bytes +
                                              cuda->sealed.device.bytes + cuda->tiles.device.bytes +
                                              cuda->partials.bytes + cuda->records.bytes +
                                              cuda->unpacked.bytes + cuda->rotated.table.device.bytes +
                                              cuda->rotated.scratch.bytes + cuda_choose_bytes(cuda)};
    for (int i = 0; i < CUDA_MAX_CODECS; i++) out->scratch += cuda->codecs[i].bytes;
    if (cuda->ranges) out->ranges = cuda->ranges->n_mapped * cuda->ranges->granule;
    if (!cuda->failure[0] && cudaMemGetInfo(&out->free, &out->total) != cudaSuccess)
        out->free = out->total = 0;
}

static void *range_reserve(struct backend *backend, size_t bytes)
{
    struct cuda_ranges *ranges = cuda_state(backend)->ranges;
    struct range *range = calloc(1, sizeof *range);
    size_t n_granules = (bytes + ranges->granule - 1) / ranges->granule;
    CUdeviceptr base = 0;
    if (!range) return NULL;
    range->bytes = n_granules * ranges->granule;
    range->users = calloc(n_granules, sizeof *range->users);
    if (!range->users || ranges->driver.reserve(&base, range->bytes, ranges->granule, 0, 0) != CUDA_SUCCESS) {
        free(range->users);
        free(range);
        return NULL;
    }
    range->base = (char *)base; /* NOLINT: addresses of the card are numbers to the driver */
    range->next = ranges->first;
    ranges->first = range;
    return range->base;
}

static struct range *range_of(struct cuda_ranges *ranges, const char *at)
{
    struct range *range = ranges->first;
    while (range && !(at >= range->base && at < range->base + range->bytes)) range = range->next;
    assert(range);
    return range;
}

static bool granule_map(struct cuda_ranges *ranges, const struct range *range, size_t granule)
{
    const struct driver *driver = &ranges->driver;
    CUdeviceptr at = (CUdeviceptr)(range->base + granule * ranges->granule);
    CUmemGenericAllocationHandle handle;
    CUmemAccessDesc access = {ranges->property.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    if (driver->create(&handle, ranges->granule, &ranges->property, 0) != CUDA_SUCCESS) return false;
    bool is_mapped = driver->map(at, ranges->granule, 0, handle, 0) == CUDA_SUCCESS;
    bool good = is_mapped && driver->access(at, ranges->granule, &access, 1) == CUDA_SUCCESS;
    if (is_mapped && !good) driver->unmap(at, ranges->granule);
    driver->release(handle); /* a mapping keeps it */
    ranges->n_mapped += good;
    return good;
}

static void granule_unmap(struct cuda_ranges *ranges, const struct range *range, size_t granule)
{
    ranges->driver.unmap((CUdeviceptr)(range->base + granule * ranges->granule), ranges->granule);
    ranges->n_mapped--;
}

static void granules_leave(struct cuda_ranges *ranges, struct range *range, size_t first, size_t end)
{
    for (size_t g = first; g < end; g++)
        if (--range->users[g] == 0) granule_unmap(ranges, range, g);
}

static bool range_commit(struct backend *backend, void *at, size_t bytes)
{
    struct cuda_ranges *ranges = cuda_state(backend)->ranges;
    struct range *range = range_of(ranges, at);
    size_t offset = (size_t)((char *)at - range->base), first = offset / ranges->granule;
    size_t end = (offset + bytes + ranges->granule - 1) / ranges->granule;
    for (size_t g = first; g < end; g++) {
        if (range->users[g] == 0 && !granule_map(ranges, range, g)) {
            granules_leave(ranges, range, first, g);
            return false;
        }
        range->users[g]++;
    }
    return true;
}

static void range_decommit(struct backend *backend, void *at, size_t bytes)
{
    struct cuda_ranges *ranges = cuda_state(backend)->ranges;
    struct range *range = range_of(ranges, at);
    size_t offset = (size_t)((char *)at - range->base);
    cudaStreamSynchronize(cuda_state(backend)->stream); /* nobody may still read it */
    granules_leave(ranges, range, offset / ranges->granule,
                   (offset + bytes + ranges->granule - 1) / ranges->granule);
}

static void range_release(struct backend *backend, void *base)
{
    struct cuda_ranges *ranges = cuda_state(backend)->ranges;
    struct range **at = &ranges->first;
    while (*at && (*at)->base != base) at = &(*at)->next;
    struct range *range = *at;
    assert(range);
    *at = range->next;
    cudaStreamSynchronize(cuda_state(backend)->stream);
    for (size_t g = 0; g < range->bytes / ranges->granule; g++)
        if (range->users[g]) granule_unmap(ranges, range, g);
    ranges->driver.address_free((CUdeviceptr)range->base, range->bytes);
    free(range->users);
    free(range);
}

enum err cuda_fill_memory(struct backend *backend, struct err_info *info)
{
    struct cuda_state *cuda = cuda_state(backend);
    struct cuda_ranges *ranges = calloc(1, sizeof *ranges);
    if (!ranges) return err_set(info, ERR_MEMORY, "cuda backend: out of memory");
    ranges->property =
        (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                              .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda->device}};
    if (cudaFree(NULL) != cudaSuccess || !driver_open(&ranges->driver) ||
        ranges->driver.granularity(&ranges->granule, &ranges->property, CU_MEM_ALLOC_GRANULARITY_MINIMUM) !=
            CUDA_SUCCESS) {
        free(ranges);
        return err_set_param(info, ERR_UNSUPPORTED, "device",
                             "device: the driver has no virtual memory management; a newer one is needed");
    }
    cuda->ranges = ranges;
    backend->alloc = cuda_alloc;
    backend->free = cuda_free;
    backend->free_bytes = free_bytes;
    backend->memory = cuda_memory;
    backend->range_reserve = range_reserve;
    backend->range_commit = range_commit;
    backend->range_decommit = range_decommit;
    backend->range_release = range_release;
    return ERR_OK;
}

void cuda_free_memory(struct cuda_state *cuda)
{
    free(cuda->ranges);
    cuda->ranges = NULL;
}
