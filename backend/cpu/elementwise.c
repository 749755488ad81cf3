/* Elementwise ops and gates: each tile is read once and written once. */
#include "backend/cpu/tile_impl.h"

#include <math.h>

#include "core/rng.h"

/* The value as n equal elements of the tensor's dtype. */
static void fill_run(const sy_tensor *y, int64_t at, int64_t n, double value)
{
    const size_t bytes = sy_dtype_bytes(y->dtype);
    unsigned char element[8] = {0};
    const int32_t i32 = (int32_t)value;
    const int64_t i64 = (int64_t)value;
    if (sy_dtype_is_float(y->dtype)) {
        sy_convert(y->dtype, element, SY_F64, &value, 1);
    } else if (y->dtype == SY_I32) {
        memcpy(element, &i32, sizeof i32);
    } else if (y->dtype == SY_I64) {
        memcpy(element, &i64, sizeof i64);
    } else {
        element[0] = (unsigned char)i32;
    }
    char *to = (char *)y->data + (size_t)at * bytes;
    for (int64_t i = 0; i < n; i++) {
        memcpy(to + (size_t)i * bytes, element, bytes);
    }
}

sy_status sy__cpu_fill(sy_stream *stream, const sy_fill_args *args)
{
    const sy_tensor *y = &args->y;
    const int64_t n = sy_tensor_numel(y);
    const int threads = sy__cpu_threads(stream);
    const bool zero = args->value == 0.0 && !signbit(args->value);
#pragma omp parallel for num_threads(threads) schedule(static) if (n > SY_CPU_PARALLEL_MIN)
    for (int64_t at = 0; at < n; at += SY_CPU_TILE) {
        const int64_t len = sy__cpu_min(SY_CPU_TILE, n - at);
        const size_t bytes = sy_dtype_bytes(y->dtype);
        if (zero) {
            memset((char *)y->data + (size_t)at * bytes, 0, (size_t)len * bytes);
        } else {
            fill_run(y, at, len, args->value);
        }
    }
    return SY_OK;
}

static void convert_run(const sy_tensor *y, int64_t y_at, const sy_tensor *x, int64_t x_at,
                        int64_t n)
{
    char *dst = (char *)y->data + (size_t)y_at * sy_dtype_bytes(y->dtype);
    const char *src = (const char *)x->data + (size_t)x_at * sy_dtype_bytes(x->dtype);
    if (x->dtype == y->dtype) {
        memcpy(dst, src, (size_t)n * sy_dtype_bytes(x->dtype));
    } else if (x->dtype == SY_BF16 && y->dtype == SY_F32) {
        sy__cpu_widen((float *)dst, (const sy_bf16 *)src, n);
    } else if (x->dtype == SY_F32 && y->dtype == SY_BF16) {
        sy__cpu_narrow((sy_bf16 *)dst, (const float *)src, n);
    } else {
        sy_convert(y->dtype, dst, x->dtype, src, n);
    }
}

/* Where row r begins, the rows being all but the last dimension. */
static int64_t row_offset(const sy_tensor *t, int64_t r)
{
    if (t->n_dim == 3) {
        return r / t->shape[1] * t->stride[0] + r % t->shape[1] * t->stride[1];
    }
    return t->n_dim == 2 ? r * t->stride[0] : 0;
}

/* Rows of columns, cut into tiles; one row where every operand is contiguous. */
typedef struct tiling {
    int64_t columns, n_tiles, n;
} tiling;

static tiling tile_rows(int32_t n_operands, sy_tensor *const *operand)
{
    const int64_t numel = sy_tensor_numel(operand[0]);
    bool flat = true;
    tiling t;
    for (int32_t i = 0; i < n_operands; i++) {
        flat = flat && sy_tensor_is_contiguous(operand[i]);
    }
    for (int32_t i = 0; i < n_operands && flat; i++) {
        *operand[i] = sy_tensor_1d(operand[i]->data, operand[i]->dtype, numel);
    }
    t.columns = operand[0]->shape[operand[0]->n_dim - 1];
    t.n_tiles = sy__cpu_blocks(t.columns, SY_CPU_TILE);
    t.n = numel > 0 ? numel / t.columns * t.n_tiles : 0;
    return t;
}

sy_status sy__cpu_cast(sy_stream *stream, const sy_cast_args *args)
{
    const int64_t numel = sy_tensor_numel(&args->x);
    sy_tensor x = args->x, y = args->y;
    const tiling t = tile_rows(2, (sy_tensor *[]){&x, &y});
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (numel > SY_CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < t.n; i++) {
        const int64_t row = i / t.n_tiles, at = i % t.n_tiles * SY_CPU_TILE;
        convert_run(&y, row_offset(&y, row) + at, &x, row_offset(&x, row) + at,
                    sy__cpu_min(SY_CPU_TILE, t.columns - at));
    }
    return SY_OK;
}

sy_status sy__cpu_add(sy_stream *stream, const sy_add_args *args)
{
    const int64_t numel = sy_tensor_numel(&args->y);
    sy_tensor a = args->a, b = args->b, y = args->y;
    const tiling t = tile_rows(3, (sy_tensor *[]){&y, &a, &b});
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (numel > SY_CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < t.n; i++) {
        float a_buf[SY_CPU_TILE], b_buf[SY_CPU_TILE];
        const int64_t row = i / t.n_tiles, at = i % t.n_tiles * SY_CPU_TILE;
        const int64_t len = sy__cpu_min(SY_CPU_TILE, t.columns - at);
        const float *from_a = sy__tile_read(&a, row_offset(&a, row) + at, len, a_buf);
        const float *from_b = sy__tile_read(&b, row_offset(&b, row) + at, len, b_buf);
        const int64_t to = row_offset(&y, row) + at;
        sy__cpu_add_run(sy__tile_target(&y, to, a_buf), from_a, from_b, len);
        sy__tile_write(&y, to, len, a_buf);
    }
    return SY_OK;
}

sy_status sy__cpu_scale(sy_stream *stream, const sy_scale_args *args)
{
    const int64_t n = sy_tensor_numel(&args->y);
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (n > SY_CPU_PARALLEL_MIN)
    for (int64_t at = 0; at < n; at += SY_CPU_TILE) {
        float buf[SY_CPU_TILE];
        const int64_t len = sy__cpu_min(SY_CPU_TILE, n - at);
        const float *x = sy__tile_read(&args->x, at, len, buf);
        sy__cpu_scale_run(sy__tile_target(&args->y, at, buf), (float)args->factor, x, len);
        sy__tile_write(&args->y, at, len, buf);
    }
    return SY_OK;
}

sy_status sy__cpu_add_bias(sy_stream *stream, const sy_add_bias_args *args)
{
    const int64_t T = args->y.shape[0], N = args->y.shape[1];
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * N > SY_CPU_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        for (int64_t n = 0; n < N; n += SY_CPU_TILE) {
            float y_buf[SY_CPU_TILE], bias_buf[SY_CPU_TILE];
            const int64_t at = t * args->y.stride[0] + n, len = sy__cpu_min(SY_CPU_TILE, N - n);
            const float *y = sy__tile_read(&args->y, at, len, y_buf);
            const float *bias = sy__tile_read(&args->bias, n, len, bias_buf);
            sy__cpu_add_run(sy__tile_target(&args->y, at, y_buf), y, bias, len);
            sy__tile_write(&args->y, at, len, y_buf);
        }
    }
    return SY_OK;
}

static void jitter_run(float *y, const float *x, int64_t n, const sy_jitter_args *args,
                       uint64_t index)
{
    for (int64_t i = 0; i < n; i++) {
        double draw = sy_rng_uniform(args->seed, args->stream, index + (uint64_t)i);
        y[i] = x[i] * (float)(1.0 + args->eps * (2.0 * draw - 1.0));
    }
}

sy_status sy__cpu_jitter(sy_stream *stream, const sy_jitter_args *args)
{
    enum { DRAW_COST = 16 }; /* a draw is worth that many elements of plain arithmetic */
    const int64_t T = args->x.shape[0], H = args->x.shape[1];
    const int64_t *token_glb = args->token_glb.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads)                                                      \
    schedule(static) if (T * H * DRAW_COST > SY_CPU_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        for (int64_t h = 0; h < H; h += SY_CPU_TILE) {
            float buf[SY_CPU_TILE];
            const int64_t at = t * H + h, len = sy__cpu_min(SY_CPU_TILE, H - h);
            const float *x = sy__tile_read(&args->x, at, len, buf);
            jitter_run(sy__tile_target(&args->y, at, buf), x, len, args,
                       (uint64_t)(token_glb[t] * H + h));
            sy__tile_write(&args->y, at, len, buf);
        }
    }
    return SY_OK;
}

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

sy_status sy__cpu_gate(sy_stream *stream, const sy_gate_args *args)
{
    const int64_t T = args->x.shape[0], H = args->x.shape[1];
    const float *s = args->s.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * H > SY_CPU_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        const float gate = args->plain ? s[t] : (float)sigmoid((double)s[t]);
        for (int64_t h = 0; h < H; h += SY_CPU_TILE) {
            float buf[SY_CPU_TILE];
            const int64_t at = t * H + h, len = sy__cpu_min(SY_CPU_TILE, H - h);
            const float *x = sy__tile_read(&args->x, at, len, buf);
            sy__cpu_scale_run(sy__tile_target(&args->y, at, buf), gate, x, len);
            sy__tile_write(&args->y, at, len, buf);
        }
    }
    return SY_OK;
}

sy_status sy__cpu_gate_backward(sy_stream *stream, const sy_gate_backward_args *args)
{
    const int64_t T = args->x.shape[0], H = args->x.shape[1];
    const float *s = args->s.data;
    float *ds = args->ds.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * H > SY_CPU_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        const double gate = args->plain ? (double)s[t] : sigmoid((double)s[t]);
        double dot = 0;
        for (int64_t h = 0; h < H; h += SY_CPU_TILE) {
            float x_buf[SY_CPU_TILE], dy_buf[SY_CPU_TILE];
            const int64_t at = t * H + h, len = sy__cpu_min(SY_CPU_TILE, H - h);
            const float *x = sy__tile_read(&args->x, at, len, x_buf);
            const float *dy = sy__tile_read(&args->dy, at, len, dy_buf);
            dot += (double)sy__cpu_dot_run(dy, x, len);
            sy__cpu_scale_run(sy__tile_target(&args->dx, at, dy_buf), (float)gate, dy, len);
            sy__tile_write(&args->dx, at, len, dy_buf);
        }
        ds[t] = (float)((args->plain ? 1.0 : gate * (1.0 - gate)) * dot);
    }
    return SY_OK;
}
