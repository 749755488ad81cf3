/* AdamW (Loshchilov & Hutter 2019). */
#include "backend/ref/ref_impl.h"

#include <math.h>

sy_status sy__ref_adamw(sy_stream *stream, const sy_adamw_args *args)
{
    (void)stream;
    const double *ctl = args->ctl.data;
    double *master = args->master.data, *m = args->m.data, *v = args->v.data;
    double *grad = args->grad.data, *param = args->param.data;
    const int64_t n = args->master.shape[0];
    for (int64_t i = 0; i < n && ctl[SY_CTL_SKIP] == 0; i++) {
        const double g = grad[i] * ctl[SY_CTL_GRAD_SCALE];
        m[i] = args->beta1 * m[i] + (1 - args->beta1) * g;
        v[i] = args->beta2 * v[i] + (1 - args->beta2) * g * g;
        const double step = m[i] / ctl[SY_CTL_BIAS1] / (sqrt(v[i] / ctl[SY_CTL_BIAS2]) + args->eps);
        master[i] -= ctl[SY_CTL_LR] * (step + args->decay * master[i]);
        if (param) {
            param[i] = master[i];
        }
    }
    memset(grad, 0, (size_t)n * sizeof *grad);
    return SY_OK;
}
