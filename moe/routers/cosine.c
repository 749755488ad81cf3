/* Cosine router: x is projected to few dimensions, u = x W; z_e = cos(u, c_e) / tau, with learnt
   centroids c and temperature tau, which stays above 0.01 (Tutel's gates/cosine_top.py): logits
   are within 100, and experts do not collapse to one direction. Chi et al. 2022 (X-MoE, arXiv
   2204.09179) 3. */
#include <math.h>

#include "moe/routers_impl.h"

typedef struct cosine_config {
    int32_t dim;
    double temperature;
} cosine_config;
enum { CENTROIDS, LOG_TEMPERATURE };
static const double coldest = 0.01;

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    const cosine_config *own = config->own;
    out->M = own->dim > 0 ? own->dim : (config->experts + 1) / 2;
    out->n_params = 2;
    out->param[CENTROIDS].name = "centroids";
    out->param[CENTROIDS].shape[0] = config->experts;
    out->param[CENTROIDS].shape[1] = out->M;
    out->param[CENTROIDS].std = 1;
    out->param[LOG_TEMPERATURE].name = "log_temperature"; /* of tau over its first value */
    out->param[LOG_TEMPERATURE].shape[0] = 1;
    out->param[LOG_TEMPERATURE].shape[1] = 1;
    out->param[LOG_TEMPERATURE].init = SY_INIT_ZEROS;
}

/* What is learnt; the bound, where there is one, is a constant to the gradient. */
static double temperature(const sy_host_route *r)
{
    const cosine_config *own = r->config->own;
    return own->temperature * exp(r->param[LOG_TEMPERATURE][0]);
}

static void score(sy_host_route *r)
{
    const double tau = fmax(temperature(r), coldest);
    for (int64_t t = 0; t < r->T; t++) {
        const double *u = r->in + t * r->M, of_u = sy__length(u, r->M);
        for (int32_t e = 0; e < r->E; e++) {
            const double *c = r->param[CENTROIDS] + e * r->M;
            r->z[t * r->E + e] = sy__dot(u, c, r->M) / (of_u * sy__length(c, r->M) * tau);
        }
    }
}

/* dz_e / du = (c_e / (|u| |c_e|) - cos u / |u|^2) / tau, and the same with u and c changed. */
static void score_backward(sy_host_route *r)
{
    const bool bounded = temperature(r) < coldest;
    const double tau = bounded ? coldest : temperature(r);
    for (int64_t t = 0; t < r->T; t++) {
        const double *u = r->in + t * r->M, of_u = sy__length(u, r->M);
        double *du = r->din + t * r->M;
        for (int32_t e = 0; e < r->E; e++) {
            const double *c = r->param[CENTROIDS] + e * r->M, of_c = sy__length(c, r->M);
            double *dc = r->dparam[CENTROIDS] + e * r->M;
            const double z = r->z[t * r->E + e], dz = r->dz[t * r->E + e];
            const double both = dz / (tau * of_u * of_c);
            for (int32_t i = 0; i < r->M; i++) {
                du[i] += both * c[i] - dz * z * u[i] / (of_u * of_u);
                dc[i] += both * u[i] - dz * z * c[i] / (of_c * of_c);
            }
            r->dparam[LOG_TEMPERATURE][0] -= bounded ? 0 : dz * z;
        }
    }
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(cosine_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(dim, SY_CFG_I32, "0", 0, 1 << 16, NULL, "Dimensions of the projection. 0: E / 2."),
    KEY(temperature, SY_CFG_F64, "0.07", 0.01, 1e6, NULL,
        "First value of the temperature; it never acts below 0.01."),
    {0},
};
const sy_config_section sy_router_section_cosine = {
    .name = "moe.cosine",
    .help = "Cosine of a projection and learnt centroids (X-MoE).",
    .keys = keys,
    .struct_bytes = sizeof(cosine_config)};

const sy_router_ops sy__router_cosine = {
    .name = "cosine",
    .source = "Chi et al. 2022 (X-MoE, arXiv 2204.09179) 3",
    .host = &(const sy_host_router_ops){.forward_cost = {23, 0.55},
                                        .backward_cost = {21.5, 0.98},
                                        .layout = layout,
                                        .score = score,
                                        .choose = sy__plain_choose,
                                        .backward = sy__plain_backward,
                                        .score_backward = score_backward}};
