/* The device that a test runs on: SY_TEST_BACKEND, or cpu. */
#ifndef SY_TESTS_TEST_DEVICE_H
#define SY_TESTS_TEST_DEVICE_H

#include <stdlib.h>

#include "backend/backend.h"

static inline const char *test_backend(void)
{
    const char *backend = getenv("SY_TEST_BACKEND");
    return backend && *backend ? backend : "cpu";
}

static inline sy_status test_device_open(sy_device **out)
{
    sy_device_spec spec = {.backend = test_backend(), .threads = 1};
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
