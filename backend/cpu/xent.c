/* Cross-entropy of a chunk of tokens. A row of logits is read once from memory; the passes after
 * the first find it in cache. */
#include "backend/cpu/tile_impl.h"

#include <math.h>

/* A row as the passes see it: largest logit, sum of exp(logit - largest). */
typedef struct xent_row {
    const float *logits;
    int64_t at, V, target;
    float max;
    double sum;
} xent_row;

/* dlogits = scale * (more * softmax - onehot). Where dlogits is logits, a tile is read before it is
 * written. */
static void write_gradient(const sy_tensor *dlogits, const xent_row *row, double scale, double more)
{
    const float factor = (float)(scale * more / row->sum);
    for (int64_t v = 0; v < row->V; v += SY_CPU_TILE) {
        float buf[SY_CPU_TILE], *d = sy__tile_target(dlogits, row->at + v, buf);
        const int64_t n = sy__cpu_min(SY_CPU_TILE, row->V - v);
        sy__cpu_exp_run(d, row->logits + v, row->max, factor, n);
        if (row->target >= v && row->target < v + n) {
            d[row->target - v] -= (float)scale;
        }
        sy__tile_write(dlogits, row->at + v, n, buf);
    }
}

static void zero_gradient(const sy_tensor *dlogits, const xent_row *row)
{
    const size_t bytes = sy_dtype_bytes(dlogits->dtype);
    memset((char *)dlogits->data + (size_t)row->at * bytes, 0, (size_t)row->V * bytes);
}

/* nll of row i, and its gradient where it is wanted. */
static float xent_of_row(const sy_xent_args *args, int64_t i)
{
    const int32_t *targets = args->targets.data;
    const float *weights = args->loss_weight.data;
    const int64_t V = args->logits.shape[1];
    xent_row row = {.logits = (const float *)args->logits.data + i * V,
                    .at = i * V,
                    .V = V,
                    .target = targets[i]};
    if (row.target < 0) {
        if (args->dlogits.data != NULL) {
            zero_gradient(&args->dlogits, &row);
        }
        if (args->lse.data != NULL) {
            ((float *)args->lse.data)[i] = 0.0F;
        }
        return 0.0F;
    }
    row.max = sy__cpu_max_run(row.logits, V);
    row.sum = sy__cpu_sum_exp_run(row.logits, row.max, V);
    const double lse = (double)row.max + log(row.sum);
    const double nll = lse - (double)row.logits[row.target];
    if (args->lse.data != NULL) {
        ((float *)args->lse.data)[i] = (float)lse;
    }
    if (args->dlogits.data != NULL) {
        const double weight = weights == NULL ? 1.0 : (double)weights[i];
        write_gradient(&args->dlogits, &row, args->grad_scale * weight,
                       1 + 2 * args->z_coeff * lse);
    }
    return (float)nll;
}

sy_status sy__cpu_xent(sy_stream *stream, const sy_xent_args *args)
{
    const int64_t n = args->logits.shape[0], V = args->logits.shape[1];
    float *nll = args->nll.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (n * V > SY_CPU_PARALLEL_MIN / 4)
    for (int64_t i = 0; i < n; i++) {
        nll[i] = xent_of_row(args, i);
    }
    return SY_OK;
}
