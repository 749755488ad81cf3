/* The device: which GPU this rank takes, and its memory. */
#include "backend/cuda/cuda_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/pages.h"
#include "backend/cuda/product_impl.h"
#include "core/alloc.h"
#include "core/pci.h"

sy_status sy__cuda_try(cudaError_t error, const char *what)
{
    if (error == cudaSuccess) {
        return SY_OK;
    }
    cudaGetLastError(); /* what does not end the context is forgotten */
    return sy_error(error == cudaErrorMemoryAllocation ? SY_ERR_MEMORY : SY_ERR_INTERNAL,
                    "%s: CUDA says: %s", what, cudaGetErrorString(error));
}

/* ---- which GPU ---- */

/* Why there is no GPU, in one sentence; SY_OK where there is one. */
static sy_status count_gpus(int *count)
{
    int driver = 0, runtime = 0;
    const cudaError_t error = cudaGetDeviceCount(count);
    if (error == cudaSuccess && *count > 0) {
        return SY_OK;
    }
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) {
        return sy_error(SY_ERR_UNSUPPORTED,
                        "backend 'cuda' needs an NVIDIA driver and this machine has none; take "
                        "device.backend: cpu");
    }
    if (driver < runtime && error == cudaErrorInsufficientDriver) {
        return sy_error(SY_ERR_UNSUPPORTED,
                        "the NVIDIA driver is too old: it serves CUDA %d.%d, this program needs "
                        "%d.%d; update the driver or take device.backend: cpu",
                        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    return sy_error(SY_ERR_UNSUPPORTED,
                    "backend 'cuda' finds no GPU (%s); is CUDA_VISIBLE_DEVICES right? Or take "
                    "device.backend: cpu",
                    error == cudaSuccess ? "none is visible" : cudaGetErrorString(error));
}

static sy_status usable(void)
{
    int count = 0;
    return count_gpus(&count);
}

/* Ranks of a node take its GPUs in turn. A launcher that shows every rank one GPU of its own leaves
   nothing to choose; that two did not get the same one is for the ranks to compare (dev->unit). */
static sy_status choose(sy_device *dev, int count)
{
    sy_status st = SY_OK;
    sy__cuda_device *self = sy__cuda_device_of(dev);
    const char *shared = getenv("SY_SHARE_GPU");
    const bool may_share = shared && strcmp(shared, "1") == 0;
    SY_REQUIRE(may_share || count == 1 || dev->n_places <= count, SY_ERR_USAGE,
               "%d ranks on this node, but only %d GPUs: start at most one rank per GPU, or set "
               "SY_SHARE_GPU=1 to let ranks share one",
               dev->n_places, count);
    self->ordinal = dev->place % count;
    SY_TRY(sy_cuda_enter(dev));
    if (!may_share) {
        SY_TRY(sy__cuda_try(cudaDeviceGetPCIBusId(dev->unit, (int)sizeof dev->unit, self->ordinal),
                            "PCI address"));
    }
cleanup:
    return st;
}

/* A rank that nobody has bound runs on the cores of its GPU's memory node, where its pinned memory
   is then too. Network cards are NCCL's to choose: it knows which is near. */
static void stay_near(const sy_device *dev)
{
    char address[32];
    sy_pci_place place;
    const char *wanted = getenv("SY_BIND");
    const int32_t ordinal = sy__cuda_device_of(dev)->ordinal;
    if ((wanted == NULL || strcmp(wanted, "0") != 0) &&
        cudaDeviceGetPCIBusId(address, (int)sizeof address, ordinal) == cudaSuccess &&
        sy_pci_place_of("/sys", address, &place)) {
        sy_pci_bind_cores(&place);
    }
}

static sy_status attribute(int32_t ordinal, enum cudaDeviceAttr attr, int *value)
{
    return sy__cuda_try(cudaDeviceGetAttribute(value, attr, ordinal), "attributes of the GPU");
}

#ifndef SY__CUDA_ARCHS
#define SY__CUDA_ARCHS "none"
#endif

static sy_status look_at(sy_device *dev)
{
    sy_status st = SY_OK;
    sy__cuda_device *self = sy__cuda_device_of(dev);
    int major = 0, minor = 0, shared = 0, sms = 0;
    struct cudaDeviceProp about;
    SY_TRY(sy__cuda_try(cudaGetDeviceProperties(&about, self->ordinal), "name of the GPU"));
    SY_TRY(attribute(self->ordinal, cudaDevAttrComputeCapabilityMajor, &major));
    SY_TRY(attribute(self->ordinal, cudaDevAttrComputeCapabilityMinor, &minor));
    SY_TRY(attribute(self->ordinal, cudaDevAttrMaxSharedMemoryPerBlockOptin, &shared));
    SY_TRY(attribute(self->ordinal, cudaDevAttrMultiProcessorCount, &sms));
    SY_REQUIRE(major >= 8, SY_ERR_UNSUPPORTED,
               "GPU %d has compute capability %d.%d; this program needs 8.0 (A100) or later",
               self->ordinal, major, minor);
    SY_REQUIRE(sy__cuda_has_kernels(), SY_ERR_UNSUPPORTED,
               "GPU %d (%s) has compute capability %d.%d and cannot run this program's kernels, "
               "which were built for " SY__CUDA_ARCHS "; reconfigure with -Dgpu_arch=%d%d",
               self->ordinal, about.name, major, minor, major, minor);
    snprintf(dev->model, sizeof dev->model, "%.90s, %d.%d, %d processors", about.name, major, minor,
             sms);
    self->shared_bytes = (size_t)shared;
    self->n_sms = sms;
    self->capability = 10 * major + minor;
cleanup:
    return st;
}

static void cuda_close(sy_device *dev)
{
    sy__cuda_device *self = sy__cuda_device_of(dev);
    if (self) {
        sy__cudnn_close(dev);
        pthread_mutex_destroy(&self->lock);
        sy_free(&self->blocks);
        sy_free(&dev->self);
    }
}

static sy_status cuda_open(sy_device *dev)
{
    sy_status st = SY_OK;
    int count = 0;
    SY_TRY(count_gpus(&count));
    SY_TRY(sy_alloc(1, sizeof(sy__cuda_device), &dev->self));
    pthread_mutex_init(&sy__cuda_device_of(dev)->lock, NULL);
    SY_TRY(choose(dev, count));
    stay_near(dev);
    SY_TRY(look_at(dev));
    SY_TRY(sy__hopper_open(dev));
    SY_TRY(sy__cudnn_open(dev));
    SY_TRY(sy__products_open(dev));
cleanup:
    if (st != SY_OK) {
        cuda_close(dev);
    }
    return st;
}

int32_t sy_cuda_ordinal(const sy_device *dev)
{
    const bool mine = !dev->dry && strcmp(dev->name, SY__CUDA_NAME) == 0;
    return mine ? sy__cuda_device_of(dev)->ordinal : -1;
}

sy_status sy_cuda_enter(const sy_device *dev)
{
    return sy__cuda_try(cudaSetDevice(sy__cuda_device_of(dev)->ordinal), "taking the GPU");
}

/* ---- memory ---- */

/* Calls in streams take the lock: no function of the runtime under it, which may wait for them. */
static sy_status enlist(sy__cuda_device *self, sy__cuda_block block)
{
    sy_status st = SY_OK;
    pthread_mutex_lock(&self->lock);
    if (self->n_blocks == self->max_blocks) {
        const int32_t more = self->max_blocks > 0 ? 2 * self->max_blocks : 64;
        SY_TRY(sy_realloc(more, sizeof *self->blocks, (void **)&self->blocks));
        self->max_blocks = more;
    }
    self->blocks[self->n_blocks++] = block;
cleanup:
    pthread_mutex_unlock(&self->lock);
    return st;
}

/* An error of the device comes with the next sync. */
static void release(void *ptr, int64_t pages)
{
    if (pages > 0 && ptr != NULL) {
        cudaDeviceSynchronize();
        sy_cuda_pages_give_back(ptr, pages);
    } else {
        cudaFree(ptr);
    }
}

static sy_status cuda_alloc(sy_device *dev, int64_t bytes, void **out)
{
    sy_status st = SY_OK;
    sy__cuda_device *self = sy__cuda_device_of(dev);
    void *ptr = NULL;
    int64_t pages = 0;
    SY_TRY(sy_cuda_enter(dev));
    if (!dev->shareable || !sy_cuda_pages_take(self->ordinal, bytes, &ptr, &pages)) {
        SY_TRY(sy__cuda_try(cudaMalloc(&ptr, bytes > 0 ? (size_t)bytes : 1), "allocating"));
    }
    SY_TRY(sy__cuda_try(cudaMemset(ptr, 0, (size_t)bytes), "clearing"));
    SY_TRY(
        sy__cuda_try(cudaStreamSynchronize(NULL), "clearing")); /* our streams do not wait for it */
    SY_TRY(enlist(self, (sy__cuda_block){ptr, bytes > 0 ? bytes : 1, pages}));
    *out = ptr;
    ptr = NULL;
cleanup:
    release(ptr, pages);
    return st;
}

static void cuda_free(sy_device *dev, void *ptr, int64_t bytes)
{
    sy__cuda_device *self = sy__cuda_device_of(dev);
    int64_t pages = 0;
    (void)bytes;
    pthread_mutex_lock(&self->lock);
    for (int32_t i = 0; i < self->n_blocks; i++) {
        if (self->blocks[i].ptr == ptr) {
            pages = self->blocks[i].pages;
            self->blocks[i] = self->blocks[--self->n_blocks];
        }
    }
    pthread_mutex_unlock(&self->lock);
    if (cudaSetDevice(self->ordinal) == cudaSuccess) {
        release(ptr, pages);
    }
}

/* A call in a stream may not ask the runtime whose memory that is: our own list answers. */
static void *cuda_host_view(const sy_device *dev, const void *ptr)
{
    sy__cuda_device *self = sy__cuda_device_of(dev);
    bool mine = false;
    pthread_mutex_lock(&self->lock);
    for (int32_t i = 0; i < self->n_blocks && !mine; i++) {
        const sy__cuda_block *b = &self->blocks[i];
        mine = (const char *)ptr >= b->ptr && (const char *)ptr < b->ptr + b->bytes;
    }
    pthread_mutex_unlock(&self->lock);
    return mine ? NULL : (void *)ptr;
}

static sy_status capacity(sy_device *dev, int64_t *free_bytes, int64_t *total_bytes)
{
    sy_status st = SY_OK;
    size_t free_now = 0, total = 0;
    SY_TRY(sy_cuda_enter(dev));
    SY_TRY(sy__cuda_try(cudaMemGetInfo(&free_now, &total), "memory of the GPU"));
    *free_bytes = (int64_t)free_now;
    *total_bytes = (int64_t)total;
cleanup:
    return st;
}

static void pin(sy_device *dev, void *h_ptr, int64_t bytes)
{
    if (sy_cuda_enter(dev) != SY_OK ||
        cudaHostRegister(h_ptr, (size_t)bytes, cudaHostRegisterDefault) != cudaSuccess) {
        cudaGetLastError();
        sy_error_clear();
    }
}

static void unpin(sy_device *dev, void *h_ptr)
{
    if (sy_cuda_enter(dev) != SY_OK || cudaHostUnregister(h_ptr) != cudaSuccess) {
        cudaGetLastError(); /* it was not pinned */
        sy_error_clear();
    }
}

/* ---- the backend ---- */

static void describe(sy_device *dev, const sy_device_spec *spec)
{
    (void)spec;
    dev->wide = SY_F32;
    dev->supports[SY_F32] = dev->supports[SY_BF16] = true;
    dev->n_threads = 1;
    dev->row_multiple = SY_CUDA_ROW_MULTIPLE;
}

static const sy_device_vt cuda_vt = {
    .open = cuda_open,
    .close = cuda_close,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .host_view = cuda_host_view,
    .capacity = capacity,
    .pin = pin,
    .unpin = unpin,
    .stream_create = sy__cuda_stream_create,
    .stream_destroy = sy__cuda_stream_destroy,
    .sync = sy__cuda_sync,
    .copy = sy__cuda_copy,
    .zero = sy__cuda_zero,
    .call = sy__cuda_call,
    .run_op = sy__cuda_run_op,
    .event_create = sy__cuda_event_create,
    .event_destroy = sy__cuda_event_destroy,
    .event_record = sy__cuda_event_record,
    .stream_wait = sy__cuda_stream_wait,
    .event_sync = sy__cuda_event_sync,
    .event_done = sy__cuda_event_done,
};

const sy_backend sy__backend_cuda = {.name = SY__CUDA_NAME,
                                     .describe = describe,
                                     .usable = usable,
                                     .vt = &cuda_vt,
                                     .ops = &sy__cuda_ops};
