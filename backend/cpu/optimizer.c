/* AdamW: one pass over masters, moments and gradients; a block's parameters are rounded while its
 * masters are in cache. */
#include "backend/cpu/tile_impl.h"

#include <float.h>
#include <math.h>

/* The constants of a step, rounded to fp32 once. */
typedef struct adamw_step {
    float grad_scale, beta1, rest1, beta2, rest2, inv_bias1, inv_bias2, eps, decay, lr;
} adamw_step;

/* A moment that decays without gradients stops at 0: denormal numbers are slow and change no
 * weight. */
static inline float flush(float x)
{
    return x < FLT_MIN && x > -FLT_MIN ? 0.0F : x;
}

SY_CPU_CLONES static void adamw_run(float *master, float *m, float *v, float *grad, int64_t n,
                                    const adamw_step *step)
{
    const adamw_step s = *step;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        const float g = grad[i] * s.grad_scale;
        const float m_new = flush(s.beta1 * m[i] + s.rest1 * g);
        const float v_new = flush(s.beta2 * v[i] + s.rest2 * (g * g));
        const float move = m_new * s.inv_bias1 / (sqrtf(v_new * s.inv_bias2) + s.eps);
        master[i] -= s.lr * (move + s.decay * master[i]);
        m[i] = m_new;
        v[i] = v_new;
        grad[i] = 0.0F;
    }
}

static void write_param(const sy_tensor *param, int64_t at, const float *master, int64_t n)
{
    if (param->dtype == SY_BF16) {
        sy__cpu_narrow((sy_bf16 *)param->data + at, master, n);
    } else {
        memcpy((float *)param->data + at, master, (size_t)n * sizeof *master);
    }
}

sy_status sy__cpu_adamw(sy_stream *stream, const sy_adamw_args *args)
{
    enum { BLOCK = 8 * 1024 };
    const double *ctl = args->ctl.data;
    const adamw_step step = {
        .grad_scale = (float)ctl[SY_CTL_GRAD_SCALE],
        .beta1 = (float)args->beta1,
        .rest1 = (float)(1.0 - args->beta1),
        .beta2 = (float)args->beta2,
        .rest2 = (float)(1.0 - args->beta2),
        .inv_bias1 = (float)(1.0 / ctl[SY_CTL_BIAS1]),
        .inv_bias2 = (float)(1.0 / ctl[SY_CTL_BIAS2]),
        .eps = (float)args->eps,
        .decay = (float)args->decay,
        .lr = (float)ctl[SY_CTL_LR],
    };
    const bool skip = ctl[SY_CTL_SKIP] != 0;
    const int64_t n = sy_tensor_numel(&args->master);
    float *master = args->master.data, *m = args->m.data, *v = args->v.data;
    float *grad = args->grad.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (n > SY_CPU_PARALLEL_MIN)
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t len = sy__cpu_min(BLOCK, n - at);
        if (skip) {
            memset(grad + at, 0, (size_t)len * sizeof *grad);
            continue;
        }
        adamw_run(master + at, m + at, v + at, grad + at, len, &step);
        if (args->param.data != NULL) {
            write_param(&args->param, at, master + at, len);
        }
    }
    return SY_OK;
}
