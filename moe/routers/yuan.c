/* Attention router: q, k, v = x W, x W', x W'' in R^E; logits are z_i = sum_j softmax_j(q_i k_j)
   v_j, so that experts see how they go together. The K largest z, weights by form. Wu et al. 2024
   (Yuan 2.0-M32, arXiv 2405.17976) 3.1. */
#include "moe/routers_impl.h"

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    out->M = 3 * config->experts;
    out->n_pieces = 3;
    out->piece[0] = "query";
    out->piece[1] = "key";
    out->piece[2] = "value";
}

/* Row i of the attention: a [E]. */
static void attend(const sy_host_route *r, const double *q, int32_t i, double *s, double *a)
{
    for (int32_t j = 0; j < r->E; j++) {
        s[j] = q[i] * q[r->E + j];
    }
    sy__scores(false, s, r->E, a);
}

static void score(sy_host_route *r)
{
    double *s = r->scratch, *a = r->scratch + r->E;
    for (int64_t t = 0; t < r->T; t++) {
        const double *q = r->in + t * r->M;
        for (int32_t i = 0; i < r->E; i++) {
            double z = 0;
            attend(r, q, i, s, a);
            for (int32_t j = 0; j < r->E; j++) {
                z += a[j] * q[2 * r->E + j];
            }
            r->z[t * r->E + i] = z;
        }
    }
}

/* dv_j += a_ij dz_i; ds_ij = a_ij dz_i (v_j - z_i); dq_i += ds_ij k_j; dk_j += ds_ij q_i. */
static void score_backward(sy_host_route *r)
{
    double *s = r->scratch, *a = r->scratch + r->E;
    for (int64_t t = 0; t < r->T; t++) {
        const double *q = r->in + t * r->M, *k = q + r->E, *v = k + r->E;
        double *dq = r->din + t * r->M, *dk = dq + r->E, *dv = dk + r->E;
        for (int32_t i = 0; i < r->E; i++) {
            const double dz = r->dz[t * r->E + i], z = r->z[t * r->E + i];
            attend(r, q, i, s, a);
            for (int32_t j = 0; j < r->E; j++) {
                const double ds = a[j] * dz * (v[j] - z);
                dv[j] += a[j] * dz;
                dq[i] += ds * k[j];
                dk[j] += ds * q[i];
            }
        }
    }
}

const sy_router_ops sy__router_yuan = {
    .name = "yuan",
    .source = "Wu et al. 2024 (Yuan 2.0-M32, arXiv 2405.17976) 3.1",
    .host = &(const sy_host_router_ops){.forward_cost = {39.8, 9.3},
                                        .backward_cost = {24.1, 12},
                                        .layout = layout,
                                        .score = score,
                                        .choose = sy__plain_choose,
                                        .backward = sy__plain_backward,
                                        .score_backward = score_backward}};
