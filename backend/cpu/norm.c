/* RMSNorm over the last dimension, of the sum of two rows where there is one to add. A row is read
 * for its statistic and, still in cache, a second time for the result. */
#include "backend/cpu/tile_impl.h"

#include <math.h>

#include "backend/cpu/vmath_impl.h"

/* Room for the weight in the front of the workspace. */
static sy_status weight_room(const sy_tensor *w, int64_t *bytes)
{
    sy_status st = SY_OK;
    *bytes = sy__cpu_blocks(w->shape[0], 16) * 64;
    SY_REQUIRE(*bytes <= SY_WORKSPACE_BYTES, SY_ERR_UNSUPPORTED,
               "a norm over %lld elements is wider than the workspace of the cpu backend",
               (long long)w->shape[0]);
cleanup:
    return st;
}

/* The weight as fp32, widened once for all rows. */
static const float *wide_weight(const sy_tensor *w, float *room)
{
    if (w->dtype == SY_F32) {
        return w->data;
    }
    sy__cpu_widen(room, w->data, w->shape[0]);
    return room;
}

/* y = (x * rstd) * w. */
SY_CPU_CLONES static void norm_run(float *y, const float *x, const float *w, float rstd, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] * rstd * w[i];
    }
}

/* sum = x + factor * add. */
SY_CPU_CLONES static void sum_run(float *sum, const float *x, float factor, const float *add,
                                  int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        sum[i] = x[i] + factor * add[i];
    }
}

/* Makes a tile of sum, d elements into row t. */
static void add_tile(const sy_rmsnorm_args *args, int64_t t, int64_t d, int64_t n)
{
    float x_buf[SY_CPU_TILE], add_buf[SY_CPU_TILE];
    const int64_t to = t * args->sum.stride[0] + d;
    const float *x = sy__tile_read(&args->x, t * args->x.stride[0] + d, n, x_buf);
    const float *add = sy__tile_read(&args->add, t * args->add.stride[0] + d, n, add_buf);
    sum_run(sy__tile_target(&args->sum, to, x_buf), x, (float)args->factor, add, n);
    sy__tile_write(&args->sum, to, n, x_buf);
}

static float norm_row(const sy_rmsnorm_args *args, const float *w, int64_t t, int64_t g)
{
    const int64_t D = args->x.shape[2];
    const bool adds = args->add.data != NULL;
    const sy_tensor *from = adds ? &args->sum : &args->x, *y = &args->y;
    const int64_t at = t * from->stride[0] + g * from->stride[1];
    const int64_t to = t * y->stride[0] + g * y->stride[1];
    float buf[SY_CPU_TILE];
    double squares = 0;
    for (int64_t d = 0; d < D; d += SY_CPU_TILE) {
        const int64_t n = sy__cpu_min(SY_CPU_TILE, D - d);
        if (adds) {
            add_tile(args, t, d, n);
        }
        const float *x = sy__tile_read(from, at + d, n, buf);
        squares += (double)sy__cpu_dot_run(x, x, n);
    }
    const float rstd = (float)(1.0 / sqrt(squares / (double)D + args->eps));
    for (int64_t d = 0; d < D; d += SY_CPU_TILE) {
        const int64_t n = sy__cpu_min(SY_CPU_TILE, D - d);
        const float *x = sy__tile_read(from, at + d, n, buf);
        norm_run(sy__tile_target(y, to + d, buf), x, w + d, rstd, n);
        sy__tile_write(y, to + d, n, buf);
    }
    return rstd;
}

sy_status sy__cpu_rmsnorm(sy_stream *stream, const sy_rmsnorm_args *args)
{
    sy_status st = SY_OK;
    int64_t room;
    SY_TRY(weight_room(&args->w, &room));
    const int64_t G = args->x.shape[1], rows = args->x.shape[0] * G;
    const float *w = wide_weight(&args->w, sy_stream_workspace(stream));
    float *rstd = args->rstd.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads)                                                      \
    schedule(static) if (rows * args->x.shape[2] > SY_CPU_PARALLEL_MIN)
    for (int64_t r = 0; r < rows; r++) {
        rstd[r] = norm_row(args, w, r / G, r % G);
    }
cleanup:
    return st;
}

/* Sum of w * dy * x. */
SY_CPU_CLONES static float slope_run(const float *w, const float *dy, const float *x, int64_t n)
{
    float lane[SY_CPU_LANES] = {0};
    int64_t i = 0;
    for (; i + SY_CPU_LANES <= n; i += SY_CPU_LANES) {
        for (int l = 0; l < SY_CPU_LANES; l++) {
            lane[l] += w[i + l] * dy[i + l] * x[i + l];
        }
    }
    for (int l = 0; i + l < n; l++) {
        lane[l] += w[i + l] * dy[i + l] * x[i + l];
    }
    return sy__fold(lane);
}

/* dx = old + rstd * w * dy - slope * x (no old: 0); dw += dy * x * rstd where dw is wanted. dx may
 * be dy or old. */
SY_CPU_CLONES static void norm_backward_run(float *dx, const float *old, float *dw, const float *w,
                                            const float *dy, const float *x, float rstd,
                                            float slope, int64_t n)
{
    if (dw != NULL) {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
            dw[i] += dy[i] * (x[i] * rstd);
        }
    }
    if (old == NULL) {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
            dx[i] = rstd * (w[i] * dy[i]) - slope * x[i];
        }
        return;
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        dx[i] = old[i] + (rstd * (w[i] * dy[i]) - slope * x[i]);
    }
}

/* Where a row begins in x, dy and dx. */
typedef struct row_places {
    int64_t x, dy, dx;
} row_places;

static void backward_row(const sy_rmsnorm_backward_args *args, const float *w, float rstd,
                         row_places at, float *dw)
{
    const int64_t D = args->x.shape[2];
    float x_buf[SY_CPU_TILE], dy_buf[SY_CPU_TILE], dx_buf[SY_CPU_TILE];
    double slope = 0;
    for (int64_t d = 0; d < D; d += SY_CPU_TILE) {
        const int64_t n = sy__cpu_min(SY_CPU_TILE, D - d);
        const float *x = sy__tile_read(&args->x, at.x + d, n, x_buf);
        const float *dy = sy__tile_read(&args->dy, at.dy + d, n, dy_buf);
        slope += (double)slope_run(w + d, dy, x, n);
    }
    slope *= (double)rstd * (double)rstd * (double)rstd / (double)D;
    for (int64_t d = 0; d < D; d += SY_CPU_TILE) {
        const int64_t n = sy__cpu_min(SY_CPU_TILE, D - d);
        const float *x = sy__tile_read(&args->x, at.x + d, n, x_buf);
        const float *dy = sy__tile_read(&args->dy, at.dy + d, n, dy_buf);
        const float *old = args->beta == 0 ? NULL : sy__tile_read(&args->dx, at.dx + d, n, dx_buf);
        norm_backward_run(sy__tile_target(&args->dx, at.dx + d, dx_buf), old,
                          dw == NULL ? NULL : dw + d, w + d, dy, x, rstd, (float)slope, n);
        sy__tile_write(&args->dx, at.dx + d, n, dx_buf);
    }
}

sy_status sy__cpu_rmsnorm_backward(sy_stream *stream, const sy_rmsnorm_backward_args *args)
{
    sy_status st = SY_OK;
    int64_t room;
    SY_TRY(weight_room(&args->w, &room));
    char *scratch = sy_stream_workspace(stream);
    const sy_tensor *x = &args->x, *dy = &args->dy, *dx = &args->dx;
    const int64_t G = x->shape[1], D = x->shape[2], rows = x->shape[0] * G;
    const float *w = wide_weight(&args->w, (float *)scratch), *rstd = args->rstd.data;
    sy__partials dw =
        sy__partials_begin(rows, D, args->dw.data, scratch + room, SY_WORKSPACE_BYTES - room);
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * D > SY_CPU_PARALLEL_MIN)
    for (int64_t b = 0; b < dw.n_blocks; b++) {
        const int64_t end = sy__cpu_min(rows, (b + 1) * dw.block_rows);
        for (int64_t r = b * dw.block_rows; r < end; r++) {
            const int64_t t = r / G, g = r % G;
            const row_places at = {.x = t * x->stride[0] + g * x->stride[1],
                                   .dy = t * dy->stride[0] + g * dy->stride[1],
                                   .dx = t * dx->stride[0] + g * dx->stride[1]};
            backward_row(args, w, rstd[r], at,
                         args->dw.data == NULL ? NULL : sy__partials_of(&dw, b));
        }
    }
    if (args->dw.data != NULL) {
        sy__partials_end(stream, &dw);
    }
cleanup:
    return st;
}
