/* SwiGLU (Shazeer 2020), the other activations, four-bit weights, and the cross-entropy: one block
 * per row where a row is summed. */
#include "backend/cuda/kernel_impl.cuh"
#include "backend/nf4.h"

namespace
{

enum { THREADS = 256 };

template <class T, int N>
__global__ void swiglu_kernel(const T *x, T *y, int64_t n_groups, int64_t F)
{
    struct alignas(N * sizeof(T)) group {
        T x[N];
    };
    const int64_t i = grid_index() * N;
    if (i >= n_groups * N) {
        return;
    }
    const int64_t row = i / F, f = i % F;
    const group gate = *reinterpret_cast<const group *>(x + row * 2 * F + f);
    const group up = *reinterpret_cast<const group *>(x + row * 2 * F + F + f);
    group out;
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float g = wide(gate.x[k]);
        out.x[k] = narrow<T>(g * sigmoid(g) * wide(up.x[k]));
    }
    *reinterpret_cast<group *>(y + i) = out;
}

/* silu'(g) = s + g s (1 - s) with s = sigmoid(g). */
template <class T, int N>
__global__ void swiglu_backward_kernel(const T *x, const T *dy, const float *weight, T *dx, T *wa,
                                       float *dot, int64_t F)
{
    struct alignas(N * sizeof(T)) group {
        T x[N];
    };
    const int64_t row = blockIdx.x;
    const T *gate = x + row * 2 * F, *grad = dy + row * F;
    T *dgate = dx + row * 2 * F;
    const float w = weight ? weight[row] : 1;
    float sum = 0;
    for (int64_t f = (int64_t)threadIdx.x * N; f < F; f += (int64_t)blockDim.x * N) {
        const group vg = *reinterpret_cast<const group *>(gate + f);
        const group vu = *reinterpret_cast<const group *>(gate + F + f);
        const group vd = *reinterpret_cast<const group *>(grad + f);
        group out_gate, out_up, out_wa;
#pragma unroll
        for (int k = 0; k < N; k++) {
            const float g = wide(vg.x[k]), u = wide(vu.x[k]), d = wide(vd.x[k]);
            const float s = sigmoid(g), silu = g * s;
            out_gate.x[k] = narrow<T>(w * d * u * (s + silu * (1 - s)));
            out_up.x[k] = narrow<T>(w * d * silu);
            out_wa.x[k] = narrow<T>(w * silu * u);
            sum += d * silu * u;
        }
        *reinterpret_cast<group *>(dgate + f) = out_gate;
        *reinterpret_cast<group *>(dgate + F + f) = out_up;
        if (wa) {
            *reinterpret_cast<group *>(wa + row * F + f) = out_wa;
        }
    }
    if (dot) {
        sum = block_sum(sum);
        if (threadIdx.x == 0) {
            dot[row] = sum;
        }
    }
}

/* ---- four-bit weights ---- */

/* A byte, two weights, per thread. */
template <class T>
__global__ void nf4_kernel(const uint8_t *x, T *y, int64_t n_pairs, int64_t K, int64_t row_bytes)
{
    const float levels[16] = SY_NF4_LEVELS;
    const int64_t i = grid_index();
    if (i < n_pairs) {
        const int64_t r = i / (K / 2), k = i % (K / 2) * 2;
        const uint8_t *row = x + r * row_bytes;
        const float scale = *reinterpret_cast<const float *>(row + K / 2 + 4 * (k / SY_NF4_BLOCK));
        y[r * K + k] = narrow<T>(levels[row[k / 2] & 15] * scale);
        y[r * K + k + 1] = narrow<T>(levels[row[k / 2] >> 4] * scale);
    }
}

/* ---- the others: act(first part) times the other parts ---- */

enum { MAX_PARTS = 3 };

/* act(x) and its slope. gelu(x) = x s with s = sigmoid(2 c (x + k x^3)), c = sqrt(2 / pi); its erf
 * form is x Phi(x), Phi(x) = erfc(-x / sqrt 2) / 2. */
__device__ inline float act_of(sy_act act, float x, float *slope)
{
    const float c2 = 1.5957691216f, k = 0.044715f;
    if (act == SY_ACT_RELU) {
        *slope = x > 0 ? 1.0f : 0.0f;
        return x > 0 ? x : 0;
    }
    if (act == SY_ACT_GELU_ERF) {
        const float below = 0.5f * erfcf(-x * 0.70710678f);
        *slope = below + x * 0.39894228f * expf(-0.5f * x * x);
        return x * below;
    }
    const bool gelu = act == SY_ACT_GEGLU || act == SY_ACT_GELU;
    const float s = sigmoid(gelu ? c2 * x * (1 + k * x * x) : x);
    const float steep = gelu ? c2 * (1 + 3 * k * x * x) : 1;
    *slope = s + (s < 1 && s > 0 ? s * (1 - s) * x * steep : 0);
    return x * s;
}

template <class T>
__global__ void activation_kernel(const T *x, T *y, int64_t n, int64_t F, sy_act act, int32_t parts)
{
    const int64_t i = grid_index();
    if (i >= n) {
        return;
    }
    const T *in = x + i / F * parts * F + i % F;
    float slope, a = act_of(act, wide(in[0]), &slope);
    for (int32_t k = 1; k < parts; k++) {
        a *= wide(in[k * F]);
    }
    y[i] = narrow<T>(a);
}

/* One block per row. */
template <class T>
__global__ void activation_backward_kernel(const T *x, const T *dy, const float *weight, T *dx,
                                           T *wa, float *dot, int64_t F, sy_act act, int32_t parts)
{
    const int64_t row = blockIdx.x;
    const float w = weight ? weight[row] : 1;
    float sum = 0;
    for (int64_t f = threadIdx.x; f < F; f += blockDim.x) {
        const int64_t at = row * parts * F + f;
        const float d = wide(dy[row * F + f]);
        float part[MAX_PARTS], slope, first, others = 1;
        for (int32_t k = 0; k < parts; k++) {
            part[k] = wide(x[at + k * F]);
            others *= k > 0 ? part[k] : 1;
        }
        first = act_of(act, part[0], &slope);
        dx[at] = narrow<T>(w * d * slope * others);
        if (parts > 1) { /* of the other parts, each gets the product of the rest */
            dx[at + F] = narrow<T>(w * d * first * (parts > 2 ? part[2] : 1));
        }
        if (parts > 2) {
            dx[at + 2 * F] = narrow<T>(w * d * first * part[1]);
        }
        if (wa) {
            wa[row * F + f] = narrow<T>(w * first * others);
        }
        sum += d * first * others;
    }
    if (dot) {
        sum = block_sum(sum);
        if (threadIdx.x == 0) {
            dot[row] = sum;
        }
    }
}

/* ---- cross-entropy ---- */

/* The maximum so far, and the sum of exponentials relative to it. */
struct running {
    float max, sum;
};

__device__ inline void take(running *r, float x)
{
    if (x > r->max) {
        r->sum = r->sum * expf(r->max - x) + 1;
        r->max = x;
    } else if (x > -INFINITY) {
        r->sum += expf(x - r->max);
    }
}

/* dlogits may be the logits: an element is read for the last time by the thread that writes it. */
template <class T>
__global__ void xent_kernel(const float *logits, const int32_t *targets, const float *loss_weight,
                            float *nll, T *dlogits, float *lses, int64_t V, float grad_scale,
                            float z_coeff)
{
    const int64_t row = blockIdx.x;
    const float *x = logits + row * V;
    const int32_t target = targets[row];
    running mine = {-INFINITY, 0};
    for (int64_t v = threadIdx.x; v < V; v += blockDim.x) {
        take(&mine, x[v]);
    }
    const float max = block_max(mine.max);
    const float lse = max + logf(block_sum(mine.sum > 0 ? mine.sum * expf(mine.max - max) : 0.0f));
    if (threadIdx.x == 0) {
        nll[row] = target < 0 ? 0 : lse - x[target];
        if (lses) {
            lses[row] = target < 0 ? 0 : lse;
        }
    }
    if (!dlogits) {
        return;
    }
    __syncthreads(); /* the target's logit was read */
    const float more = 1 + 2 * z_coeff * lse;
    const float scale = target < 0 ? 0 : grad_scale * (loss_weight ? loss_weight[row] : 1);
    for (int64_t v = threadIdx.x; v < V; v += blockDim.x) {
        const float grad = scale * (more * expf(x[v] - lse) - (v == target ? 1.0f : 0.0f));
        dlogits[row * V + v] = narrow<T>(target < 0 ? 0 : grad);
    }
}

} // namespace

sy_status sy__cuda_swiglu(sy_stream *stream, const sy_swiglu_args *args)
{
    return by_type(args->y.dtype, [&](auto zero) {
        using T = decltype(zero);
        enum { N = pack<T>::N };
        const T *x = data<T>(args->x);
        T *y = data<T>(args->y);
        const int64_t F = args->y.shape[1], n = sy_tensor_numel(&args->y);
        if (packs<T>(x, F, F) && packs<T>(y, F, F)) {
            return launch(stream, "swiglu", blocks_for(n / N, THREADS), THREADS, 0,
                          swiglu_kernel<T, N>, x, y, n / N, F);
        }
        return launch(stream, "swiglu", blocks_for(n, THREADS), THREADS, 0, swiglu_kernel<T, 1>, x,
                      y, n, F);
    });
}

sy_status sy__cuda_swiglu_backward(sy_stream *stream, const sy_swiglu_backward_args *args)
{
    return by_type(args->dy.dtype, [&](auto zero) {
        using T = decltype(zero);
        enum { N = pack<T>::N };
        const T *x = data<T>(args->x), *dy = data<T>(args->dy);
        T *dx = data<T>(args->dx), *wa = data<T>(args->wa);
        const int64_t R = args->dy.shape[0], F = args->dy.shape[1];
        const bool packed =
            packs<T>(x, F, F) && packs<T>(dy, F, F) && packs<T>(dx, F, F) && packs<T>(wa, F, F);
        return launch(stream, "swiglu_backward", (unsigned)R, THREADS, 0,
                      packed ? swiglu_backward_kernel<T, N> : swiglu_backward_kernel<T, 1>, x, dy,
                      data<float>(args->weight), dx, wa, data<float>(args->dot), F);
    });
}

sy_status sy__cuda_dequantize_nf4(sy_stream *stream, const sy_dequantize_nf4_args *args)
{
    return by_type(args->y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t K = args->y.shape[1], n = args->y.shape[0] * (K / 2);
        return launch(stream, "dequantize_nf4", blocks_for(n, THREADS), THREADS, 0, nf4_kernel<T>,
                      data<uint8_t>(args->x), data<T>(args->y), n, K, args->x.shape[1]);
    });
}

sy_status sy__cuda_activation(sy_stream *stream, const sy_activation_args *args)
{
    return by_type(args->y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t F = args->y.shape[1], n = sy_tensor_numel(&args->y);
        return launch(stream, "activation", blocks_for(n, THREADS), THREADS, 0,
                      activation_kernel<T>, data<T>(args->x), data<T>(args->y), n, F, args->act,
                      sy_act_parts(args->act));
    });
}

sy_status sy__cuda_activation_backward(sy_stream *stream, const sy_activation_backward_args *args)
{
    return by_type(args->dy.dtype, [&](auto zero) {
        using T = decltype(zero);
        return launch(stream, "activation_backward", (unsigned)args->dy.shape[0], THREADS, 0,
                      activation_backward_kernel<T>, data<T>(args->x), data<T>(args->dy),
                      data<float>(args->weight), data<T>(args->dx), data<T>(args->wa),
                      data<float>(args->dot), args->dy.shape[1], args->act,
                      sy_act_parts(args->act));
    });
}

sy_status sy__cuda_xent(sy_stream *stream, const sy_xent_args *args)
{
    return by_type(args->dlogits.data ? args->dlogits.dtype : SY_F32, [&](auto zero) {
        using T = decltype(zero);
        return launch(stream, "xent", (unsigned)args->logits.shape[0], 2 * THREADS, 0,
                      xent_kernel<T>, data<float>(args->logits), data<int32_t>(args->targets),
                      data<float>(args->loss_weight), data<float>(args->nll),
                      data<T>(args->dlogits), data<float>(args->lse), args->logits.shape[1],
                      (float)args->grad_scale, (float)args->z_coeff);
    });
}
