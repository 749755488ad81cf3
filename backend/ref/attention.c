/* Causal grouped-query attention, one query at a time. Backward is that of the textbook: with p =
   softmax(scale q k) and delta = <dout, o>, ds = p (<dout, v> - delta). */
#include "backend/ref/ref_impl.h"

#include <math.h>

/* Does the query at position pos, number i of its sequence, see key j? */
static bool sees(const int32_t *doc, int64_t i, int64_t pos, int64_t j)
{
    return j <= pos && (!doc || doc[i] == doc[j]);
}

/* One query and head: which rows it reads. Row i of sequence b is row b * Sq + i. */
static void attend(const sy_attention_args *args, double *score, int64_t b, int64_t i, int64_t h)
{
    const int64_t Sq = args->q.shape[0] / args->B, Skv = args->k.shape[0] / args->B;
    const int64_t D = args->q.shape[2], D_v = args->v.shape[2];
    const int64_t kv = h / (args->q.shape[1] / args->k.shape[1]);
    const int32_t *doc = args->doc.data ? (const int32_t *)args->doc.data + b * Sq : NULL;
    const int64_t pos = i + (args->q_start.data ? ((const int32_t *)args->q_start.data)[b] : 0);
    const double *q = sy__ref_row3(&args->q, b * Sq + i, h);
    double *o = sy__ref_row3(&args->o, b * Sq + i, h);
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < Skv; j++) {
        const double *k = sy__ref_row3(&args->k, b * Skv + j, kv);
        score[j] = sees(doc, i, pos, j) ? args->scale * sy__ref_dot(q, k, D) : -INFINITY;
        max = fmax(max, score[j]);
    }
    for (int64_t d = 0; d < D_v; d++) {
        o[d] = 0;
    }
    for (int64_t j = 0; j < Skv; j++) {
        sum += max > -INFINITY ? exp(score[j] - max) : 0;
    }
    const double lse = max + log(sum);
    sy__ref_row(&args->lse, b * Sq + i)[h] = lse;
    for (int64_t j = 0; j < Skv; j++) {
        const double *v = sy__ref_row3(&args->v, b * Skv + j, kv);
        const double p = sees(doc, i, pos, j) ? exp(score[j] - lse) : 0;
        for (int64_t d = 0; d < D_v && p > 0; d++) {
            o[d] += p * v[d];
        }
    }
}

sy_status sy__ref_attention(sy_stream *stream, const sy_attention_args *args)
{
    sy_status st = SY_OK;
    const int64_t Sq = args->B > 0 ? args->q.shape[0] / args->B : 0;
    const int64_t Skv = args->B > 0 ? args->k.shape[0] / args->B : 0;
    double *score = sy_stream_workspace(stream);
    SY_REQUIRE(Skv <= (int64_t)(SY_WORKSPACE_BYTES / sizeof *score), SY_ERR_UNSUPPORTED,
               "op attention on ref takes at most %zu keys",
               (size_t)SY_WORKSPACE_BYTES / sizeof *score);
    for (int64_t b = 0; b < args->B; b++) {
        for (int64_t i = 0; i < Sq; i++) {
            for (int64_t h = 0; h < args->q.shape[1]; h++) {
                attend(args, score, b, i, h);
            }
        }
    }
cleanup:
    return st;
}

static void zero(const sy_tensor *t)
{
    for (int64_t i = 0; i < t->shape[0]; i++) {
        for (int64_t j = 0; j < t->shape[1]; j++) {
            memset(sy__ref_row3(t, i, j), 0, (size_t)t->shape[2] * sizeof(double));
        }
    }
}

static void attend_backward(const sy_attention_backward_args *args, int64_t b, int64_t i, int64_t h)
{
    const int64_t S = args->q.shape[0] / args->B, row = b * S + i;
    const int64_t D = args->q.shape[2], D_v = args->v.shape[2];
    const int64_t kv = h / (args->q.shape[1] / args->k.shape[1]);
    const int32_t *doc = args->doc.data ? (const int32_t *)args->doc.data + b * S : NULL;
    const double *q = sy__ref_row3(&args->q, row, h), *dout = sy__ref_row3(&args->dout, row, h);
    const double delta = sy__ref_dot(dout, sy__ref_row3(&args->o, row, h), D_v);
    const double lse = sy__ref_row(&args->lse, row)[h];
    double *dq = sy__ref_row3(&args->dq, row, h);
    for (int64_t j = 0; j <= i; j++) {
        if (!sees(doc, i, i, j)) {
            continue;
        }
        const double *k = sy__ref_row3(&args->k, b * S + j, kv);
        const double *v = sy__ref_row3(&args->v, b * S + j, kv);
        double *dk = sy__ref_row3(&args->dk, b * S + j, kv);
        double *dv = sy__ref_row3(&args->dv, b * S + j, kv);
        const double p = exp(args->scale * sy__ref_dot(q, k, D) - lse);
        const double ds = args->scale * p * (sy__ref_dot(dout, v, D_v) - delta);
        for (int64_t d = 0; d < D; d++) {
            dq[d] += ds * k[d];
            dk[d] += ds * q[d];
        }
        for (int64_t d = 0; d < D_v; d++) {
            dv[d] += p * dout[d];
        }
    }
}

sy_status sy__ref_attention_backward(sy_stream *stream, const sy_attention_backward_args *args)
{
    (void)stream;
    const int64_t S = args->B > 0 ? args->q.shape[0] / args->B : 0;
    zero(&args->dq);
    zero(&args->dk);
    zero(&args->dv);
    for (int64_t b = 0; b < args->B; b++) {
        for (int64_t i = 0; i < S; i++) {
            for (int64_t h = 0; h < args->q.shape[1]; h++) {
                attend_backward(args, b, i, h);
            }
        }
    }
    return SY_OK;
}
