/* Devices and their memory. The device keeps one entry per block it gave out, so that freeing needs
   no size, the ledger is exact, and whatever the backend does with the memory the count is the
   same. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/backend_impl.h"
#include "core/alloc.h"
#include "core/log.h"

typedef struct block {
    char *ptr;
    int64_t bytes;
    sy_mem_tag tag;
} block;

/* What sy_device_open gives out is the first member. */
typedef struct open_device {
    sy_device dev;
    block *blocks;
    int32_t n_blocks, max_blocks;
} open_device;

static open_device *opened(sy_device *dev)
{
    return (open_device *)dev;
}

const char *sy_mem_tag_name(sy_mem_tag tag)
{
    static const char *const names[SY_N_MEM_TAGS] = {
        [SY_MEM_PARAMS] = "params",         [SY_MEM_GRADS] = "grads",
        [SY_MEM_OPTIM] = "optim",           [SY_MEM_SAVED] = "saved",
        [SY_MEM_SCRATCH] = "scratch",       [SY_MEM_EXCHANGE] = "exchange",
        [SY_MEM_BATCH] = "batch",           [SY_MEM_WORKSPACE] = "workspace",
        [SY_MEM_CHECKPOINT] = "checkpoint", [SY_MEM_OTHER] = "other",
    };
    return (unsigned)tag < SY_N_MEM_TAGS ? names[tag] : "unknown";
}

sy_status sy_device_open(const sy_device_spec *spec, sy_device **out)
{
    sy_status st = SY_OK;
    const sy_backend *backend = NULL;
    open_device *self = NULL;
    SY_TRY(sy__backend_find(spec->backend, &backend));
    SY_REQUIRE(spec->dry || spec->prices == NULL, SY_ERR_INTERNAL,
               "only a dry device can rehearse");
    SY_REQUIRE(spec->threads >= 0, SY_ERR_USAGE, "a device cannot have %d threads", spec->threads);
    SY_TRY(sy_alloc(1, sizeof *self, (void **)&self));

    sy_device *dev = &self->dev;
    snprintf(dev->name, sizeof dev->name, "%s", backend->name);
    dev->dry = spec->dry;
    dev->prices = spec->prices;
    dev->measures = spec->dry && spec->prices == NULL;
    dev->place = spec->place;
    dev->n_places = spec->n_places > 0 ? spec->n_places : 1;
    dev->shareable = spec->shareable;
    dev->ops = backend->ops;
    dev->vt = spec->dry ? &sy__dry_vt : backend->vt;
    backend->describe(dev, spec);
    SY_TRY(dev->vt->open(dev));
    *out = dev;
    self = NULL;
cleanup:
    sy_free(&self);
    return st;
}

void sy_device_close(sy_device **dev)
{
    if (!*dev) {
        return;
    }
    open_device *self = opened(*dev);
    while (self->n_blocks > 0) {
        void *ptr = self->blocks[self->n_blocks - 1].ptr;
        sy_device_free(*dev, &ptr);
    }
    if ((*dev)->ops_self) {
        (*dev)->ops_self_free((*dev)->ops_self);
    }
    (*dev)->vt->close(*dev);
    sy_free(&self->blocks);
    sy_free(&self);
    *dev = NULL;
}

static void book(sy_ledger *ledger, sy_mem_tag tag, int64_t bytes)
{
    ledger->now[tag] += bytes;
    ledger->total_now += bytes;
    if (ledger->now[tag] > ledger->peak[tag]) {
        ledger->peak[tag] = ledger->now[tag];
    }
    if (ledger->total_now > ledger->total_peak) {
        ledger->total_peak = ledger->total_now;
    }
}

void sy_device_book_host(sy_device *dev, sy_mem_tag tag, int64_t bytes)
{
    book(&dev->ledger, tag, bytes);
}

static sy_status reserve_entry(open_device *self)
{
    if (self->n_blocks < self->max_blocks) {
        return SY_OK;
    }
    int32_t more = self->max_blocks > 0 ? 2 * self->max_blocks : 64;
    sy_status st = sy_realloc(more, sizeof *self->blocks, (void **)&self->blocks);
    self->max_blocks = st == SY_OK ? more : self->max_blocks;
    return st;
}

sy_status sy_device_alloc(sy_device *dev, int64_t bytes, sy_mem_tag tag, void **out)
{
    sy_status st = SY_OK;
    open_device *self = opened(dev);
    void *ptr = NULL;
    SY_REQUIRE((unsigned)tag < SY_N_MEM_TAGS, SY_ERR_INTERNAL, "no memory tag %d", (int)tag);
    SY_REQUIRE(bytes >= 0, SY_ERR_INTERNAL, "cannot allocate %" PRId64 " bytes for %s", bytes,
               sy_mem_tag_name(tag));
    SY_TRY(reserve_entry(self));
    if (dev->vt->alloc(dev, bytes, &ptr) != SY_OK) {
        sy_error_clear(); /* this sentence says more than that of the backend */
        st = sy_error(SY_ERR_MEMORY,
                      "device '%s' is out of memory: %" PRId64 " bytes for %s do not fit (%" PRId64
                      " bytes in use)",
                      dev->name, bytes, sy_mem_tag_name(tag), dev->ledger.total_now);
        goto cleanup;
    }
    self->blocks[self->n_blocks++] = (block){.ptr = ptr, .bytes = bytes, .tag = tag};
    dev->ledger.n_allocs++;
    book(&dev->ledger, tag, bytes);
    *out = ptr;
cleanup:
    return st;
}

void sy_device_free(sy_device *dev, void *ptr_to_ptr)
{
    open_device *self = opened(dev);
    char *ptr = NULL;
    memcpy(&ptr, ptr_to_ptr, sizeof ptr); /* any pointer type: no aliasing through void ** */
    int32_t i = self->n_blocks - 1;
    while (i >= 0 && self->blocks[i].ptr != ptr) {
        i--;
    }
    if (ptr && i < 0) {
        sy_warn("%p was not allocated by device '%s' and is not freed", (void *)ptr, dev->name);
    } else if (ptr) {
        block freed = self->blocks[i];
        self->blocks[i] = self->blocks[--self->n_blocks];
        dev->vt->free(dev, ptr, freed.bytes);
        book(&dev->ledger, freed.tag, -freed.bytes);
    }
    ptr = NULL;
    memcpy(ptr_to_ptr, &ptr, sizeof ptr);
}

sy_status sy_device_capacity(sy_device *dev, int64_t *free_bytes, int64_t *total_bytes)
{
    *free_bytes = *total_bytes = 0;
    return dev->vt->capacity ? dev->vt->capacity(dev, free_bytes, total_bytes) : SY_OK;
}

void sy_device_pin(sy_device *dev, void *h_ptr, int64_t bytes)
{
    if (dev->vt->pin && bytes > 0) {
        dev->vt->pin(dev, h_ptr, bytes);
    }
}

void sy_device_unpin(sy_device *dev, void *h_ptr)
{
    if (dev->vt->unpin && h_ptr != NULL) {
        dev->vt->unpin(dev, h_ptr);
    }
}

void *sy_device_host_view(const sy_device *dev, const void *ptr)
{
    return dev->vt->host_view(dev, ptr);
}
