#include "train/peak.h"

#include "backend/ops.h"
#include "core/alloc.h"
#include "core/clock.h"

enum { SMALL = 512 };

/* Random values: constants would flatter a chip that throttles. */
static sy_status fill_random(sy_stream *stream, sy_tensor *t)
{
    sy_status st = SY_OK;
    int64_t n = sy_tensor_numel(t);
    double *x = NULL;
    void *raw = NULL;
    SY_TRY(sy_alloc(n, sizeof *x, (void **)&x));
    SY_TRY(sy_alloc(n, sy_dtype_bytes(t->dtype), &raw));
    for (int64_t i = 0; i < n; i++) {
        x[i] = (double)(i * 2654435761U % 1024) / 512 - 1;
    }
    sy_convert(t->dtype, raw, SY_F64, x, n);
    SY_TRY(sy_copy_h2d(stream, t->data, raw, sy_tensor_bytes(t)));
    SY_TRY(sy_stream_sync(stream));
cleanup:
    sy_free(&raw);
    sy_free(&x);
    return st;
}

struct sy_peak {
    sy_device *dev;
    sy_stream *stream;
    sy_tensor t[3];
    void *data[3];
    int64_t n;
};

static sy_status create(sy_device *dev, sy_dtype dtype, int64_t n, sy_peak **out)
{
    sy_status st = SY_OK;
    sy_peak *p = NULL;
    SY_TRY(sy_alloc(1, sizeof *p, (void **)&p));
    p->dev = dev;
    p->n = n;
    SY_TRY(sy_stream_create(dev, "peak", &p->stream));
    for (int32_t i = 0; i < 3; i++) {
        SY_TRY(sy_device_alloc(dev, p->n * p->n * (int64_t)sy_dtype_bytes(dtype), SY_MEM_OTHER,
                               &p->data[i]));
        p->t[i] = sy_tensor_2d(p->data[i], dtype, p->n, p->n);
    }
    SY_TRY(fill_random(p->stream, &p->t[0]));
    SY_TRY(fill_random(p->stream, &p->t[1]));
    *out = p;
    p = NULL;
cleanup:
    sy_peak_destroy(&p);
    return st;
}

/* A GPU of today is not busy with a product of 512. One that would take long over more (the
   emulator) is. */
static sy_status suitable_n(sy_device *dev, sy_dtype dtype, int64_t *n)
{
    sy_status st = SY_OK;
    sy_peak *small = NULL;
    int64_t free_bytes = 0, total_bytes = 0;
    double rate = 0;
    *n = SMALL;
    SY_TRY(sy_device_capacity(dev, &free_bytes, &total_bytes));
    if (total_bytes > 0) {
        SY_TRY(create(dev, dtype, SMALL, &small));
        SY_TRY(sy_peak_run(small, &rate)); /* builds kernels */
        SY_TRY(sy_peak_run(small, &rate));
    }
    for (int64_t larger = 4096; total_bytes > 0 && larger <= 8192; larger *= 2) {
        const double flops = 2.0 * (double)larger * (double)larger * (double)larger;
        const int64_t bytes = 3 * larger * larger * (int64_t)sy_dtype_bytes(dtype);
        *n = flops < rate && 2 * bytes < free_bytes ? larger : *n; /* a second at most */
    }
cleanup:
    sy_peak_destroy(&small);
    return st;
}

sy_status sy_peak_create(sy_device *dev, sy_dtype dtype, int64_t n, sy_peak **out)
{
    sy_status st = SY_OK;
    if (n == 0) {
        SY_TRY(suitable_n(dev, dtype, &n));
    }
    SY_TRY(create(dev, dtype, n, out));
cleanup:
    return st;
}

void sy_peak_destroy(sy_peak **peak)
{
    sy_peak *p = *peak;
    if (p == NULL) {
        return;
    }
    for (int32_t i = 0; i < 3; i++) {
        sy_device_free(p->dev, &p->data[i]);
    }
    sy_stream_destroy(&p->stream);
    sy_free(peak);
}

int64_t sy_peak_n(const sy_peak *peak)
{
    return peak->n;
}

sy_status sy_peak_run(sy_peak *peak, double *flops_per_s)
{
    sy_status st = SY_OK;
    const double from = sy_clock_s(), n = (double)peak->n;
    SY_TRY(sy_gemm(
        peak->stream,
        &(sy_gemm_args){
            .a = peak->t[0], .b = peak->t[1], .c = peak->t[2], .trans_b = true, .alpha = 1}));
    SY_TRY(sy_stream_sync(peak->stream));
    *flops_per_s = 2 * n * n * n / (sy_clock_s() - from);
cleanup:
    return st;
}

sy_status sy_measure_peak(sy_device *dev, sy_dtype dtype, double seconds, double *out)
{
    sy_status st = SY_OK;
    sy_peak *peak = NULL;
    double from, rate;
    *out = 0;
    if (dev->dry) {
        return SY_OK;
    }
    SY_TRY(sy_peak_create(dev, dtype, 0, &peak));
    SY_TRY(sy_peak_run(peak, &rate)); /* builds kernels */
    from = sy_clock_s();
    do {
        SY_TRY(sy_peak_run(peak, &rate));
        *out = rate > *out ? rate : *out;
    } while (sy_clock_s() - from < seconds);
cleanup:
    sy_peak_destroy(&peak);
    return st;
}
