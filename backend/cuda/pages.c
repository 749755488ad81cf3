#include "backend/cuda/pages.h"

#include <cuda.h>
#include <dlfcn.h>
#include <string.h>

/* The runtime has the driver's library open already. */
#define FUNCTIONS(X)                                                                               \
    X(cuDeviceGetAttribute)                                                                        \
    X(cuMemAddressFree)                                                                            \
    X(cuMemAddressReserve)                                                                         \
    X(cuMemCreate)                                                                                 \
    X(cuMemGetAllocationGranularity)                                                               \
    X(cuMemMap)                                                                                    \
    X(cuMemRelease)                                                                                \
    X(cuMemSetAccess)                                                                              \
    X(cuMemUnmap)
typedef struct driver {
    void *library;
#define MEMBER(name) __typeof__(name) *name;
    FUNCTIONS(MEMBER)
#undef MEMBER
} driver;

static bool open_driver(driver *d)
{
    void *found = NULL;
    *d = (driver){.library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)};
    bool complete = d->library != NULL;
#define FIND(name)                                                                                 \
    found = complete ? dlsym(d->library, #name) : NULL;                                            \
    complete = found != NULL;                                                                      \
    memcpy(&d->name, &found, sizeof found);
    FUNCTIONS(FIND)
#undef FIND
    return complete;
}

static void close_driver(driver *d)
{
    if (d->library != NULL) {
        dlclose(d->library);
    }
}

static bool has(const driver *d, CUdevice gpu, CUdevice_attribute what)
{
    int value = 0;
    return d->cuDeviceGetAttribute(&value, what, gpu) == CUDA_SUCCESS && value != 0;
}

/* By file descriptor on this host, and by the fabric where there is one and it will have it. */
static bool create(const driver *d, CUmemAllocationProp *prop, size_t bytes,
                   CUmemGenericAllocationHandle *out)
{
    CUmemAllocationProp fabric = *prop;
    fabric.requestedHandleTypes =
        (CUmemAllocationHandleType)(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR |
                                    CU_MEM_HANDLE_TYPE_FABRIC);
    return (has(d, prop->location.id, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED) &&
            d->cuMemCreate(out, bytes, &fabric, 0) == CUDA_SUCCESS) ||
           d->cuMemCreate(out, bytes, prop, 0) == CUDA_SUCCESS;
}

static bool map(const driver *d, const CUmemAllocationProp *prop, size_t bytes, size_t page,
                CUmemGenericAllocationHandle memory, CUdeviceptr *at)
{
    const CUmemAccessDesc access = {.location = prop->location,
                                    .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    if (d->cuMemAddressReserve(at, bytes, page, 0, 0) != CUDA_SUCCESS) {
        return false;
    }
    if (d->cuMemMap(*at, bytes, 0, memory, 0) == CUDA_SUCCESS) {
        if (d->cuMemSetAccess(*at, bytes, &access, 1) == CUDA_SUCCESS) {
            return true;
        }
        d->cuMemUnmap(*at, bytes);
    }
    d->cuMemAddressFree(*at, bytes);
    return false;
}

/* The mapping holds the memory: its handle is not needed afterwards. */
static bool take(const driver *d, int32_t ordinal, size_t bytes, CUdeviceptr *at, size_t *taken)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = ordinal}};
    CUmemGenericAllocationHandle memory;
    size_t page = 0;
    if (!has(d, ordinal, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) ||
        !has(d, ordinal, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED)) {
        return false;
    }
    prop.allocFlags.gpuDirectRDMACapable =
        has(d, ordinal, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED);
    if (d->cuMemGetAllocationGranularity(&page, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) !=
            CUDA_SUCCESS ||
        page == 0 || bytes < page) {
        return false;
    }
    *taken = (bytes + page - 1) / page * page;
    if (!create(d, &prop, *taken, &memory)) {
        return false;
    }
    const bool mapped = map(d, &prop, *taken, page, memory, at);
    d->cuMemRelease(memory);
    return mapped;
}

bool sy_cuda_pages_take(int32_t ordinal, int64_t bytes, void **ptr, int64_t *taken)
{
    driver d;
    CUdeviceptr at = 0;
    size_t whole = 0;
    const bool done = open_driver(&d) && take(&d, ordinal, (size_t)bytes, &at, &whole);
    close_driver(&d);
    if (done) {
        *ptr = (void *)(uintptr_t)at;
        *taken = (int64_t)whole;
    }
    return done;
}

void sy_cuda_pages_give_back(void *ptr, int64_t taken)
{
    driver d;
    const CUdeviceptr at = (CUdeviceptr)(uintptr_t)ptr;
    if (open_driver(&d) && d.cuMemUnmap(at, (size_t)taken) == CUDA_SUCCESS) {
        d.cuMemAddressFree(at, (size_t)taken);
    }
    close_driver(&d);
}
