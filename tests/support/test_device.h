/* The device that a test runs on: SY_TEST_BACKEND, or cpu. */
#ifndef SY_TESTS_TEST_DEVICE_H
#define SY_TESTS_TEST_DEVICE_H

#include <stdlib.h>

#include "backend/backend.h"

static inline sy_status test_device_open(sy_device **out)
{
    const char *backend = getenv("SY_TEST_BACKEND");
    sy_device_spec spec = {.backend = backend && *backend ? backend : "cpu", .threads = 1};
    return sy_device_open(&spec, out);
}

/* Copy and wait. */
static inline sy_status test_upload(sy_stream *stream, void *dst, const void *h_src, int64_t bytes)
{
    sy_status st = sy_copy_h2d(stream, dst, h_src, bytes);
    return st != SY_OK ? st : sy_stream_sync(stream);
}

static inline sy_status test_download(sy_stream *stream, void *h_dst, const void *src,
                                      int64_t bytes)
{
    sy_status st = sy_copy_d2h(stream, h_dst, src, bytes);
    return st != SY_OK ? st : sy_stream_sync(stream);
}

#endif
