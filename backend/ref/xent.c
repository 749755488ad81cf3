/* Cross-entropy of a chunk of tokens and its gradient. */
#include "backend/ref/ref_impl.h"

#include <math.h>

static double log_sum_exp(const double *x, int64_t n)
{
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        max = fmax(max, x[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        sum += exp(x[i] - max);
    }
    return max + log(sum);
}

sy_status sy__ref_xent(sy_stream *stream, const sy_xent_args *args)
{
    (void)stream;
    const int64_t V = args->logits.shape[1];
    const int32_t *targets = args->targets.data;
    const float *loss_weight = args->loss_weight.data;
    for (int64_t i = 0; i < args->logits.shape[0]; i++) {
        const double *logits = sy__ref_row(&args->logits, i);
        const int64_t target = targets[i];
        const double lse = log_sum_exp(logits, V);
        const double weight = target < 0 ? 0 : loss_weight ? loss_weight[i] : 1;
        ((double *)args->nll.data)[i] = target < 0 ? 0 : lse - logits[target];
        if (args->lse.data) {
            ((double *)args->lse.data)[i] = target < 0 ? 0 : lse;
        }
        if (!args->dlogits.data) {
            continue;
        }
        double *dlogits = sy__ref_row(&args->dlogits, i);
        for (int64_t v = 0; v < V; v++) {
            const double onehot = v == target ? 1 : 0;
            const double p = exp(logits[v] - lse) * (1 + 2 * args->z_coeff * lse);
            const double grad = args->grad_scale * weight * (p - onehot);
            dlogits[v] = target < 0 ? 0 : grad;
        }
    }
    return SY_OK;
}
