/* Whether a device takes experts' products by product_hopper.cu. Descriptors of matrices and tensor
   maps are easily wrong in a way that gives other numbers, so when a device is opened, small
   products of whole numbers, which are exact, are compared with those of product.cu, bit for bit.
 */
#include "backend/cuda/product_impl.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"

enum { W = 128, G = 3, R = 100, TAIL = 2, PATIENCE_S = 60 };

/* Rows x and y [R, W], matrices w [G, W, W], results of two kernels. The last TAIL rows belong to
   nobody and are NaN. */
typedef struct trial {
    uint16_t x[R * W], y[R * W], w[G * W * W];
    int32_t start[G + 1];
    float c[2][G * W * W];
} trial;

static uint16_t whole_number(int32_t i)
{
    const float value = (float)((i * 7 + i / W * 5 + i / 64 * 3) % 5 - 2);
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16); /* a bf16 is the upper half */
}

static void fill(trial *t)
{
    const int32_t start[G + 1] = {0, R - 10, R - 10, R - TAIL};
    memcpy(t->start, start, sizeof start);
    for (int32_t i = 0; i < R * W; i++) {
        const bool tail = i >= (R - TAIL) * W;
        t->x[i] = tail ? 0x7fc0 : whole_number(i);
        t->y[i] = tail ? 0x7fc0 : whole_number(i + 17);
    }
    for (int32_t i = 0; i < G * W * W; i++) {
        t->w[i] = whole_number(i + 29);
    }
}

static sy__product product_of(trial *t, sy_grouped_form form, float *c)
{
    const bool wgrad = form == SY_GROUPED_TN;
    return (sy__product){.a = t->x,
                         .b = wgrad ? t->y : t->w,
                         .c = c,
                         .lda = W,
                         .ldb = W,
                         .ldc = W,
                         .b_group = wgrad ? 0 : W * W,
                         .c_group = wgrad ? W * W : 0,
                         .start = t->start,
                         .n_groups = G,
                         .M = wgrad ? W : R,
                         .N = W,
                         .K = wgrad ? R : W,
                         .trans_a = wgrad,
                         .trans_b = form == SY_GROUPED_NT,
                         .by_depth = wgrad,
                         .in = SY_BF16,
                         .out = SY_F32,
                         .alpha = 1,
                         .beta = 1};
}

/* Wait, but not for ever. */
static sy_status finish(void)
{
    const double begin = sy_clock_s();
    cudaError_t error = cudaErrorNotReady;
    while ((error = cudaStreamQuery(NULL)) == cudaErrorNotReady) {
        if (sy_clock_s() - begin > PATIENCE_S) {
            return sy_error(SY_ERR_INTERNAL, "it does not end");
        }
        sched_yield();
    }
    return sy__cuda_try(error, "its end");
}

/* Both kernels on one form, from t [host] by d [device]. */
static sy_status compare(sy_stream *stream, trial *t, trial *d, sy_grouped_form form, bool *same)
{
    sy_status st = SY_OK;
    sy__cuda_device *dev = sy__cuda_device_of(stream->dev);
    void *const encode = dev->encode_tensor_map;
    bool done = false;
    SY_TRY(sy__cuda_try(cudaMemsetAsync(d->c, 0, sizeof d->c, NULL), "clearing"));
    for (int32_t i = 0; i < 2; i++) {
        const sy__product p = product_of(d, form, d->c[i]);
        dev->encode_tensor_map = i == 0 ? encode : NULL;
        st = i == 0 ? sy__hopper_product(stream, &p, &done) : sy__cuda_product(stream, &p);
        dev->encode_tensor_map = encode;
        SY_TRY(st);
    }
    SY_TRY(finish()); /* the copy would wait for ever */
    SY_TRY(sy__cuda_try(cudaMemcpyAsync(t->c, d->c, sizeof t->c, cudaMemcpyDeviceToHost, NULL),
                        "copying"));
    SY_TRY(finish());
    *same = *same && done && memcmp(t->c[0], t->c[1], sizeof t->c[0]) == 0;
cleanup:
    return st;
}

static sy_status try_out(sy_device *dev, bool *same)
{
    sy_status st = SY_OK;
    sy__cuda_stream *none = NULL; /* the runtime's own stream */
    sy_stream stream = {.dev = dev};
    trial *t = NULL;
    void *d = NULL;
    SY_TRY(sy_alloc(1, sizeof *none, (void **)&none));
    SY_TRY(sy_alloc(1, sizeof *t, (void **)&t));
    SY_TRY(sy__cuda_try(cudaMalloc(&d, sizeof *t), "allocating"));
    stream.self = none;
    fill(t);
    *same = true;
    SY_TRY(sy__cuda_try(cudaMemcpyAsync(d, t, sizeof *t, cudaMemcpyHostToDevice, NULL), "copying"));
    for (int32_t form = SY_GROUPED_NT; form <= SY_GROUPED_TN; form++) {
        SY_TRY(compare(&stream, t, d, (sy_grouped_form)form, same));
    }
cleanup:
    *same = *same && st == SY_OK;
    if (cudaStreamQuery(NULL) != cudaErrorNotReady) { /* it too would wait for ever */
        cudaFree(d);
    }
    sy_free(&t);
    sy_free(&none);
    return st;
}

sy_status sy__hopper_open(sy_device *dev)
{
    sy_status st = SY_OK;
    sy__cuda_device *self = sy__cuda_device_of(dev);
    const char *wanted = getenv("SY_HOPPER");
    bool same = false;
    if (self->capability != 90 || (wanted && strcmp(wanted, "0") == 0)) {
        return SY_OK;
    }
    self->encode_tensor_map = sy__hopper_encoder();
    if (!self->encode_tensor_map) {
        return SY_OK;
    }
    SY_REQUIRE(try_out(dev, &same) == SY_OK || cudaStreamQuery(NULL) == cudaSuccess,
               SY_ERR_INTERNAL,
               "GPU %d: trying out the experts' products for Hopper failed; SY_HOPPER=0 does "
               "without them",
               self->ordinal);
    SY_REQUIRE(same || !wanted || strcmp(wanted, "1") != 0, SY_ERR_INTERNAL,
               "GPU %d: the experts' products for Hopper do not work or give wrong numbers, and "
               "SY_HOPPER=1 does not let slower ones be taken",
               self->ordinal);
    if (!same) {
        sy_error_clear();
        sy_warn("GPU %d: the experts' products for Hopper do not work or give wrong numbers; "
                "slower ones are taken (SY_HOPPER=0 asks for them and silences this)",
                self->ordinal);
        self->encode_tensor_map = NULL;
    }
cleanup:
    return st;
}
