/* AdamW (Loshchilov & Hutter 2019). What changes from step to step is read from device memory. */
#include "backend/cuda/kernel_impl.cuh"

namespace
{

enum { THREADS = 256 };

struct rates {
    float beta1, beta2, eps, decay;
    float rest1, rest2; /* 1 - beta */
};

template <class T>
__global__ void adamw_kernel(float *master, float *m, float *v, float *grad, T *param,
                             const double *ctl, int64_t n, rates r)
{
    const int64_t i = grid_index();
    if (i >= n) {
        return;
    }
    if (ctl[SY_CTL_SKIP] == 0) {
        const float lr = (float)ctl[SY_CTL_LR];
        const float g = grad[i] * (float)ctl[SY_CTL_GRAD_SCALE];
        const float m1 = r.beta1 * m[i] + r.rest1 * g;
        const float v1 = r.beta2 * v[i] + r.rest2 * g * g;
        const float step =
            m1 / (float)ctl[SY_CTL_BIAS1] / (sqrtf(v1 / (float)ctl[SY_CTL_BIAS2]) + r.eps);
        const float value = master[i] - lr * (step + r.decay * master[i]);
        m[i] = m1;
        v[i] = v1;
        master[i] = value;
        if (param) {
            param[i] = narrow<T>(value);
        }
    }
    grad[i] = 0;
}

} // namespace

sy_status sy__cuda_adamw(sy_stream *stream, const sy_adamw_args *args)
{
    const rates r = {(float)args->beta1, (float)args->beta2,       (float)args->eps,
                     (float)args->decay, (float)(1 - args->beta1), (float)(1 - args->beta2)};
    return by_type(args->param.data ? args->param.dtype : SY_F32, [&](auto zero) {
        using T = decltype(zero);
        const int64_t n = args->master.shape[0];
        return launch(stream, "adamw", blocks_for(n, THREADS), THREADS, 0, adamw_kernel<T>,
                      data<float>(args->master), data<float>(args->m), data<float>(args->v),
                      data<float>(args->grad), data<T>(args->param), data<double>(args->ctl), n, r);
    });
}
