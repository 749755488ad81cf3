/* What a backend fills in. Shared inside backend/ only. The public functions count, check and
   describe, once for all; a backend does. A dry device keeps the description of its backend and
   gets a table that does nothing (dry.c). */
#ifndef SY_BACKEND_BACKEND_IMPL_H
#define SY_BACKEND_BACKEND_IMPL_H

#include "backend/ops.h"

struct sy_stream {
    sy_device *dev;
    char name[16];
    void *workspace; /* device memory */
    void *self;      /* of the backend */
};

struct sy_event {
    sy_device *dev;
    void *self; /* of the backend */
};

typedef enum sy_copy_kind { SY_COPY_H2D, SY_COPY_D2H, SY_COPY_D2D } sy_copy_kind;

/* No slot is ever NULL unless it says "(optional)". bytes are >= 0, pointers were given out by the
 * same device. */
typedef struct sy_device_vt {
    sy_status (*open)(sy_device *dev); /* the describing fields are set */
    void (*close)(sy_device *dev);     /* everything was freed before */

    sy_status (*alloc)(sy_device *dev, int64_t bytes,
                       void **out); /* zeroed, 64-byte aligned, never NULL */
    void (*free)(sy_device *dev, void *ptr, int64_t bytes);
    void *(*host_view)(const sy_device *dev, const void *ptr);
    /* Memory of its own: free and in all. (optional) */
    sy_status (*capacity)(sy_device *dev, int64_t *free_bytes, int64_t *total_bytes);
    /* Host memory that large copies go from and to; failing changes nothing. (optional) */
    void (*pin)(sy_device *dev, void *h_ptr, int64_t bytes);
    void (*unpin)(sy_device *dev, void *h_ptr);
    /* The contents of these bytes no longer mean anything. (optional) check fills them with NaN. */
    void (*undefine)(sy_device *dev, void *ptr, int64_t bytes);

    sy_status (*stream_create)(sy_stream *stream); /* dev and name are set */
    void (*stream_destroy)(sy_stream *stream);
    sy_status (*sync)(sy_stream *stream);
    sy_status (*copy)(sy_stream *stream, sy_copy_kind kind, void *dst, const void *src,
                      int64_t bytes);
    sy_status (*zero)(sy_stream *stream, void *dst, int64_t bytes);
    /* A host function in the stream's order, args copied. */
    sy_status (*call)(sy_stream *stream, sy_call *fn, const void *args, int64_t args_bytes);
    /* The next call on the stream touches these bytes. (optional) */
    sy_status (*announce)(sy_stream *stream, const void *ptr, int64_t bytes, bool writes);
    /* An op whose contract holds: run(stream, args) calls the slot of the table. */
    sy_status (*run_op)(sy_stream *stream, sy_op op, sy_call *run, const void *args,
                        int64_t args_bytes);

    sy_status (*event_create)(sy_event *event);
    void (*event_destroy)(sy_event *event);
    sy_status (*event_record)(sy_event *event, sy_stream *stream);
    sy_status (*stream_wait)(sy_stream *stream, sy_event *event);
    sy_status (*event_sync)(sy_event *event);
    bool (*event_done)(sy_event *event);
} sy_device_vt;

typedef struct sy_backend {
    const char *name;
    /* Fill wide, supports, n_threads and row_multiple. */
    void (*describe)(sy_device *dev, const sy_device_spec *spec);
    /* Has this machine what it takes? If not, the error says what is missing. (optional: it has) */
    sy_status (*usable)(void);
    const sy_device_vt *vt;
    const sy_ops *ops;
} sy_backend;

/* One line each in registry.c. */
extern const sy_backend sy__backend_ref, sy__backend_cpu, sy__backend_check;
extern const sy_device_vt sy__dry_vt;

/* The backend of a name ("auto" and "cpu_check" included); errors as sy_device_open says. */
sy_status sy__backend_find(const char *name, const sy_backend **out);

/* The clock of a stream of a device that rehearses. */
double sy__dry_clock(const sy_stream *stream);

/* Run an op and tell the device's observer what it took. */
sy_status sy__observe_op(sy_stream *stream, sy_op op, sy_call *run, const void *args,
                         size_t args_bytes);
/* The same of a copy; src NULL: a fill with zero. */
sy_status sy__observe_copy(sy_stream *stream, sy_copy_kind kind, void *dst, const void *src,
                           int64_t bytes);

/* Where addresses that nobody may touch begin: no processor maps it. Dry devices and measuring
 * arenas count up from here. */
#define SY__NOWHERE ((char *)(UINT64_C(1) << 54))
enum { SY__ALIGN_BYTES = 64 };
/* Up to the next multiple of the alignment. */
static inline int64_t sy__align_up(int64_t bytes)
{
    return (bytes + SY__ALIGN_BYTES - 1) / SY__ALIGN_BYTES * SY__ALIGN_BYTES;
}

#endif
