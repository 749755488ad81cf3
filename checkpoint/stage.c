/* One buffer, one stream, and a wait per chunk: a save or load is bound by the disk. */
#include "checkpoint/stage_impl.h"

#include <string.h>

#include "core/alloc.h"

sy_status sy__stage_init(sy__stage *stage)
{
    *stage = (sy__stage){0};
    return sy_alloc(SY__STAGE_BYTES, 1, &stage->h_buf);
}

static void leave_device(sy__stage *stage)
{
    sy_stream_destroy(&stage->stream);
    if (stage->dev != NULL) {
        sy_device_unpin(stage->dev, stage->h_buf);
        stage->dev = NULL;
    }
}

void sy__stage_free(sy__stage *stage)
{
    leave_device(stage);
    sy_free(&stage->h_buf);
}

/* A stream of this device; kept, as the fields of a state nearly always lie on one. */
sy_status sy__stage_use(sy__stage *stage, sy_device *dev)
{
    sy_status st = SY_OK;
    if (stage->dev != dev) {
        leave_device(stage);
        SY_TRY(sy_stream_create(dev, "checkpoint", &stage->stream));
        stage->dev = dev;
        sy_device_pin(dev, stage->h_buf, SY__STAGE_BYTES);
    }
cleanup:
    return st;
}

void *sy__stage_view(sy_device *dev, void *ptr)
{
    return dev == NULL || sy_device_host_view(dev, ptr) == ptr ? ptr : NULL;
}

sy_status sy__stage_fetch(sy__stage *stage, sy_device *dev, const void *src, int64_t n,
                          const void **h_out)
{
    sy_status st = SY_OK;
    const void *h_src = sy__stage_view(dev, (void *)(uintptr_t)src);
    if (!h_src) {
        SY_TRY(sy__stage_use(stage, dev));
        SY_TRY(sy_copy_d2h(stage->stream, stage->h_buf, src, n));
        SY_TRY(sy_stream_sync(stage->stream));
        h_src = stage->h_buf;
    }
    *h_out = h_src;
cleanup:
    return st;
}

sy_status sy__stage_copy(sy__stage *stage, sy_device *dev, const void *src, int64_t n, void *h_to)
{
    sy_status st = SY_OK;
    SY_TRY(sy__stage_use(stage, dev));
    SY_TRY(sy_copy_d2h(stage->stream, h_to, src, n));
    SY_TRY(sy_stream_sync(stage->stream));
cleanup:
    return st;
}

static sy_status upload(sy__stage *stage, sy_device *dev, void *dst, const void *h_src, int64_t n)
{
    sy_status st = SY_OK;
    SY_TRY(sy__stage_use(stage, dev));
    SY_TRY(sy_copy_h2d(stage->stream, dst, h_src, n));
    SY_TRY(sy_stream_sync(stage->stream));
cleanup:
    return st;
}

static void convert(sy_dtype dst_type, void *dst, sy_dtype src_type, const void *src, int64_t n)
{
    if (dst_type == src_type) {
        memcpy(dst, src, (size_t)n * sy_dtype_bytes(dst_type));
    } else {
        sy_convert(dst_type, dst, src_type, src, n);
    }
}

sy_status sy__stage_store(sy__stage *stage, sy_device *dev, sy_dtype dst_type, void *dst,
                          sy_dtype src_type, const void *h_src, int64_t n)
{
    sy_status st = SY_OK;
    const int64_t dst_size = (int64_t)sy_dtype_bytes(dst_type);
    const int64_t src_size = (int64_t)sy_dtype_bytes(src_type), chunk = SY__STAGE_BYTES / dst_size;
    if (!dev) {
        convert(dst_type, dst, src_type, h_src, n);
        return SY_OK;
    }
    if (dst_type == src_type) {
        return upload(stage, dev, dst, h_src, n * dst_size);
    }
    for (int64_t i = 0; i < n; i += chunk) {
        int64_t part = n - i < chunk ? n - i : chunk;
        convert(dst_type, stage->h_buf, src_type, (const char *)h_src + i * src_size, part);
        SY_TRY(upload(stage, dev, (char *)dst + i * dst_size, stage->h_buf, part * dst_size));
    }
cleanup:
    return st;
}
