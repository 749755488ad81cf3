/* Ops that treat every element alike: memory-bound, so 16 bytes at a time where the operands allow
   it. */
#include <Random123/philox.h>

#include "backend/cuda/kernel_impl.cuh"

namespace
{

enum { THREADS = 256 };

/* ---- fill ---- */

template <class T> __global__ void fill_kernel(T *y, T value, int64_t n)
{
    const int64_t i = grid_index();
    if (i < n) {
        y[i] = value;
    }
}

template <class T> sy_status fill(sy_stream *stream, const sy_fill_args *args, T value)
{
    const int64_t n = sy_tensor_numel(&args->y);
    return launch(stream, "fill", blocks_for(n, THREADS), THREADS, 0, fill_kernel<T>,
                  data<T>(args->y), value, n);
}

/* ---- a function of each element ---- */

/* y[i] = f(x...[i], i) for contiguous operands of one type, N elements per thread. */
template <class T, int N, class F>
__global__ void map_kernel(const T *a, const T *b, T *y, int64_t n, F f)
{
    struct alignas(N * sizeof(T)) group {
        T x[N];
    };
    const int64_t i = grid_index() * N;
    if (i >= n) {
        return;
    }
    group va = *reinterpret_cast<const group *>(a + i), vb = {}, vy;
    if (b) {
        vb = *reinterpret_cast<const group *>(b + i);
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
        vy.x[k] = narrow<T>(f(wide(va.x[k]), wide(vb.x[k])));
    }
    *reinterpret_cast<group *>(y + i) = vy;
}

template <class T, class F>
sy_status map(sy_stream *stream, const char *name, const T *a, const T *b, T *y, int64_t n, F f)
{
    enum { N = pack<T>::N };
    if (packs<T>(a, n, 0) && packs<T>(b, n, 0) && packs<T>(y, n, 0)) {
        return launch(stream, name, blocks_for(n / N, THREADS), THREADS, 0, map_kernel<T, N, F>, a,
                      b, y, n, f);
    }
    return launch(stream, name, blocks_for(n, THREADS), THREADS, 0, map_kernel<T, 1, F>, a, b, y, n,
                  f);
}

struct sum_of_two {
    __device__ float operator()(float a, float b) const
    {
        return a + b;
    }
};
struct times {
    float factor;
    __device__ float operator()(float a, float) const
    {
        return factor * a;
    }
};

/* ---- strided ---- */

/* Up to three dimensions, the last with stride 1. */
struct shape3 {
    int64_t n0, n1, n2;
};
struct stride2 {
    int64_t s0, s1;
};

shape3 shape_of(const sy_tensor &t)
{
    const int32_t last = t.n_dim - 1;
    return {last >= 1 ? t.shape[0] : 1, last >= 2 ? t.shape[1] : 1, t.shape[last]};
}

stride2 stride_of(const sy_tensor &t)
{
    const int32_t last = t.n_dim - 1;
    return {last >= 1 ? t.stride[0] : 0, last >= 2 ? t.stride[1] : 0};
}

__device__ inline int64_t offset(const shape3 &shape, const stride2 &stride, int64_t i)
{
    const int64_t row = i / shape.n2;
    return row / shape.n1 * stride.s0 + row % shape.n1 * stride.s1 + i % shape.n2;
}

template <class T>
__global__ void add_kernel(shape3 shape, const T *a, stride2 sa, const T *b, stride2 sb, T *y,
                           stride2 sy)
{
    const int64_t i = grid_index();
    if (i < shape.n0 * shape.n1 * shape.n2) {
        y[offset(shape, sy, i)] =
            narrow<T>(wide(a[offset(shape, sa, i)]) + wide(b[offset(shape, sb, i)]));
    }
}

/* ---- cast ---- */

__device__ inline void convert(float *y, float x)
{
    *y = x;
}
__device__ inline void convert(double *y, float x)
{
    *y = x;
}
__device__ inline void convert(bf16 *y, float x)
{
    *y = narrow<bf16>(x);
}
__device__ inline void convert(float *y, bf16 x)
{
    *y = wide(x);
}
__device__ inline void convert(double *y, bf16 x)
{
    *y = wide(x);
}
__device__ inline void convert(float *y, double x)
{
    *y = (float)x;
}
/* Rounded once: first towards zero, with the lowest bit set where anything was lost. */
__device__ inline void convert(bf16 *y, double x)
{
    const float nearest = (float)x;
    unsigned bits = __float_as_uint(nearest);
    if ((double)nearest != x && x == x) {
        bits -= fabs((double)nearest) > fabs(x);
        bits |= 1;
    }
    *y = narrow<bf16>(__uint_as_float(bits));
}
template <class T> __device__ void convert(T *y, T x)
{
    *y = x;
}

template <class X, class Y>
__global__ void cast_kernel(shape3 shape, const X *x, stride2 sx, Y *y, stride2 sy)
{
    const int64_t i = grid_index();
    if (i < shape.n0 * shape.n1 * shape.n2) {
        convert(&y[offset(shape, sy, i)], x[offset(shape, sx, i)]);
    }
}

/* Contiguous on both sides: 8 elements per thread. */
template <class X, class Y> __global__ void cast_flat_kernel(const X *x, Y *y, int64_t n)
{
    enum { N = 8, X_ALIGN = sizeof(X) < 2 ? 8 : 16, Y_ALIGN = sizeof(Y) < 2 ? 8 : 16 };
    struct alignas((int)X_ALIGN) from {
        X x[N];
    };
    struct alignas((int)Y_ALIGN) to {
        Y y[N];
    };
    const int64_t i = grid_index() * N;
    if (i + N <= n) {
        const from vx = *reinterpret_cast<const from *>(x + i);
        to vy;
#pragma unroll
        for (int k = 0; k < N; k++) {
            convert(&vy.y[k], vx.x[k]);
        }
        *reinterpret_cast<to *>(y + i) = vy;
        return;
    }
    for (int64_t k = i; k < n; k++) {
        convert(&y[k], x[k]);
    }
}

template <class X, class Y> sy_status cast(sy_stream *stream, const sy_cast_args *args)
{
    const int64_t n = sy_tensor_numel(&args->x);
    const X *x = data<X>(args->x);
    Y *y = data<Y>(args->y);
    if (sy_tensor_is_contiguous(&args->x) && sy_tensor_is_contiguous(&args->y) && aligned16(x) &&
        aligned16(y)) {
        return launch(stream, "cast", blocks_for(n, 8 * THREADS), THREADS, 0,
                      cast_flat_kernel<X, Y>, x, y, n);
    }
    return launch(stream, "cast", blocks_for(n, THREADS), THREADS, 0, cast_kernel<X, Y>,
                  shape_of(args->x), x, stride_of(args->x), y, stride_of(args->y));
}

template <class X> sy_status cast_from(sy_stream *stream, const sy_cast_args *args)
{
    switch (args->y.dtype) {
    case SY_F32:
        return cast<X, float>(stream, args);
    case SY_BF16:
        return cast<X, bf16>(stream, args);
    default:
        return cast<X, double>(stream, args);
    }
}

/* ---- rows ---- */

template <class T>
__global__ void add_bias_kernel(T *y, int64_t stride, const T *bias, int64_t n_rows, int64_t n)
{
    const int64_t i = grid_index();
    if (i < n_rows * n) {
        T *at = y + i / n * stride + i % n;
        *at = narrow<T>(wide(*at) + wide(bias[i % n]));
    }
}

/* As sy_rng_uniform draws it, bit for bit. */
__device__ inline double uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    philox4x32_ctr_t counter = {
        {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)}};
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    const philox4x32_ctr_t block = philox4x32(counter, key);
    const uint64_t bits = (uint64_t)block.v[1] << 32 | block.v[0];
    return (double)(bits >> 11) * (1.0 / 9007199254740992.0);
}

template <class T>
__global__ void jitter_kernel(const T *x, const int64_t *token_glb, T *y, int64_t n, int64_t H,
                              double eps, uint64_t seed, uint64_t stream)
{
    const int64_t i = grid_index();
    if (i < n) {
        const double u = uniform(seed, stream, (uint64_t)(token_glb[i / H] * H + i % H));
        y[i] = narrow<T>(wide(x[i]) * (float)(1 + eps * (2 * u - 1)));
    }
}

template <class T>
__global__ void gate_kernel(const T *x, const float *s, T *y, int64_t n, int64_t H, bool plain)
{
    const int64_t i = grid_index();
    if (i < n) {
        y[i] = narrow<T>((plain ? s[i / H] : sigmoid(s[i / H])) * wide(x[i]));
    }
}

/* One block per token. */
template <class T>
__global__ void gate_backward_kernel(const T *x, const float *s, const T *dy, T *dx, float *ds,
                                     int64_t H, bool plain)
{
    const int64_t first = (int64_t)blockIdx.x * H;
    const float gate = plain ? s[blockIdx.x] : sigmoid(s[blockIdx.x]);
    float dot = 0;
    for (int64_t h = threadIdx.x; h < H; h += blockDim.x) {
        const float d = wide(dy[first + h]);
        dot += d * wide(x[first + h]);
        dx[first + h] = narrow<T>(gate * d);
    }
    dot = block_sum(dot);
    if (threadIdx.x == 0) {
        ds[blockIdx.x] = (plain ? 1 : gate * (1 - gate)) * dot;
    }
}

} // namespace

bool sy__cuda_has_kernels(void)
{
    cudaFuncAttributes about;
    const bool found = cudaFuncGetAttributes(&about, fill_kernel<float>) == cudaSuccess;
    cudaGetLastError();
    return found;
}

sy_status sy__cuda_fill(sy_stream *stream, const sy_fill_args *args)
{
    const double v = args->value;
    switch (args->y.dtype) {
    case SY_F32:
        return fill(stream, args, (float)v);
    case SY_BF16: {
        sy_bf16 bits;
        sy_convert(SY_BF16, &bits, SY_F64, &v, 1);
        return fill(stream, args, (uint16_t)bits);
    }
    case SY_F64:
        return fill(stream, args, v);
    case SY_I32:
        return fill(stream, args, (int32_t)v);
    case SY_I64:
        return fill(stream, args, (int64_t)v);
    case SY_U8:
        return fill(stream, args, (uint8_t)v);
    default:
        return sy_error(SY_ERR_UNSUPPORTED, "op fill on cuda does not write %s",
                        sy_dtype_name(args->y.dtype));
    }
}

sy_status sy__cuda_cast(sy_stream *stream, const sy_cast_args *args)
{
    switch (args->x.dtype) {
    case SY_F32:
        return cast_from<float>(stream, args);
    case SY_BF16:
        return cast_from<bf16>(stream, args);
    case SY_F64:
        return cast_from<double>(stream, args);
    case SY_I32:
        return cast<int32_t, int32_t>(stream, args);
    case SY_I64:
        return cast<int64_t, int64_t>(stream, args);
    case SY_U8:
        return cast<uint8_t, uint8_t>(stream, args);
    default:
        return sy_error(SY_ERR_UNSUPPORTED, "op cast on cuda does not read %s",
                        sy_dtype_name(args->x.dtype));
    }
}

sy_status sy__cuda_add(sy_stream *stream, const sy_add_args *args)
{
    return by_type(args->y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const sy_tensor &a = args->a, &b = args->b, &y = args->y;
        const int64_t n = sy_tensor_numel(&y);
        if (sy_tensor_is_contiguous(&a) && sy_tensor_is_contiguous(&b) &&
            sy_tensor_is_contiguous(&y)) {
            return map(stream, "add", data<T>(a), data<T>(b), data<T>(y), n, sum_of_two());
        }
        return launch(stream, "add", blocks_for(n, THREADS), THREADS, 0, add_kernel<T>, shape_of(y),
                      data<T>(a), stride_of(a), data<T>(b), stride_of(b), data<T>(y), stride_of(y));
    });
}

sy_status sy__cuda_scale(sy_stream *stream, const sy_scale_args *args)
{
    return by_type(args->y.dtype, [&](auto zero) {
        using T = decltype(zero);
        return map(stream, "scale", data<T>(args->x), (T *)nullptr, data<T>(args->y),
                   sy_tensor_numel(&args->y), times{(float)args->factor});
    });
}

sy_status sy__cuda_add_bias(sy_stream *stream, const sy_add_bias_args *args)
{
    return by_type(args->y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t T_rows = args->y.shape[0], N = args->y.shape[1];
        return launch(stream, "add_bias", blocks_for(T_rows * N, THREADS), THREADS, 0,
                      add_bias_kernel<T>, data<T>(args->y), args->y.stride[0], data<T>(args->bias),
                      T_rows, N);
    });
}

sy_status sy__cuda_jitter(sy_stream *stream, const sy_jitter_args *args)
{
    return by_type(args->y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t n = sy_tensor_numel(&args->y);
        return launch(stream, "jitter", blocks_for(n, THREADS), THREADS, 0, jitter_kernel<T>,
                      data<T>(args->x), data<int64_t>(args->token_glb), data<T>(args->y), n,
                      args->x.shape[1], args->eps, args->seed, args->stream);
    });
}

sy_status sy__cuda_gate(sy_stream *stream, const sy_gate_args *args)
{
    return by_type(args->y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t n = sy_tensor_numel(&args->y);
        return launch(stream, "gate", blocks_for(n, THREADS), THREADS, 0, gate_kernel<T>,
                      data<T>(args->x), data<float>(args->s), data<T>(args->y), n, args->x.shape[1],
                      args->plain);
    });
}

sy_status sy__cuda_gate_backward(sy_stream *stream, const sy_gate_backward_args *args)
{
    return by_type(args->dx.dtype, [&](auto zero) {
        using T = decltype(zero);
        return launch(stream, "gate_backward", (unsigned)args->x.shape[0], THREADS, 0,
                      gate_backward_kernel<T>, data<T>(args->x), data<float>(args->s),
                      data<T>(args->dy), data<T>(args->dx), data<float>(args->ds), args->x.shape[1],
                      args->plain);
    });
}
