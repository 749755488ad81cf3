/* Noisy top-k: h = x W + n softplus(x W_noise) + .., n normal, in training; the K largest h,
   weights softmax over them. Two losses on squared coefficients of variation: of the importance
   (sums of weights) and of the load, estimated smoothly: P_te, the probability that expert e would
   be chosen if its noise were drawn again, = Phi((clean_te - threshold) / sigma_te), the threshold
   being the K-th largest h of the others. Both per micro-batch, weighed by its tokens. Shazeer et
   al. 2017 (arXiv 1701.06538) 2.1, 4, appendix A. */
#include <math.h>

#include "moe/routers_impl.h"

typedef struct noisy_config {
    double importance_coeff, load_coeff, epsilon;
} noisy_config;

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    out->M = 2 * config->experts;
    out->n_pieces = 2;
    out->piece[0] = "router";
    out->piece[1] = "noise";
    out->zero_matrix = true;
}

static double softplus(double x)
{
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static double spread(const sy_host_route *r, int64_t t, int32_t e)
{
    const noisy_config *own = r->config->own;
    return softplus(r->in[t * r->M + r->E + e]) + own->epsilon;
}

static void score(sy_host_route *r)
{
    for (int64_t t = 0; t < r->T; t++) {
        for (int32_t e = 0; e < r->E; e++) {
            const int64_t i = t * r->E + e;
            r->note[i] = r->training ? sy__route_normal(r, t, e, 0) : 0;
            r->z[i] = r->in[t * r->M + e] + r->note[i] * spread(r, t, e);
        }
    }
}

static bool is_chosen(const sy_host_route *r, int64_t t, int32_t e)
{
    for (int32_t k = 0; k < r->K; k++) {
        if (r->expert[t * r->K + k] == e) {
            return true;
        }
    }
    return false;
}

/* The largest h that was not chosen; -1: all were. */
static int32_t first_left(const sy_host_route *r, int64_t t)
{
    int32_t best = -1;
    for (int32_t e = 0; e < r->E; e++) {
        if (!is_chosen(r, t, e) && (best < 0 || r->z[t * r->E + e] > r->z[t * r->E + best])) {
            best = e;
        }
    }
    return best;
}

/* CV^2 = variance / mean^2 of x [n]; dx [n] its gradient. */
static double variation(const double *x, int32_t n, double *dx)
{
    double mean = 0, variance = 0;
    for (int32_t e = 0; e < n; e++) {
        mean += x[e] / n;
    }
    for (int32_t e = 0; e < n; e++) {
        variance += (x[e] - mean) * (x[e] - mean) / n;
    }
    const double square = mean * mean + 1e-10;
    for (int32_t e = 0; e < n; e++) {
        dx[e] = 2 * (x[e] - mean) / n / square - variance * 2 * mean / n / (square * square);
    }
    return variance / square;
}

/* Loss of the importance; d [E] its gradient. */
static void importance(sy_host_route *r, double weight, double *sum, double *d)
{
    for (int32_t e = 0; e < r->E; e++) {
        sum[e] = 0;
    }
    for (int64_t i = 0; i < r->T * r->K; i++) {
        if (r->expert[i] >= 0) {
            sum[r->expert[i]] += r->weight[i];
        }
    }
    r->loss += weight * variation(sum, r->E, d);
    for (int32_t e = 0; e < r->E; e++) {
        d[e] *= weight;
    }
}

/* The K-th largest h of the other experts is the K-th of all, or the one behind it. */
static void load_of_token(sy_host_route *r, int64_t t, double *sum, const double *d)
{
    const double *clean = r->in + t * r->M, *h = r->z + t * r->E;
    const int32_t last = r->expert[t * r->K + r->K - 1], next = first_left(r, t);
    for (int32_t e = 0; e < r->E; e++) {
        const int32_t at = is_chosen(r, t, e) ? next : last;
        const double sigma = spread(r, t, e), raw = clean[r->E + e];
        const double a = at >= 0 ? (clean[e] - h[at]) / sigma : INFINITY;
        if (d == NULL) {
            sum[e] += 0.5 * erfc(-a * M_SQRT1_2);
        } else if (at >= 0) {
            const double slope = d[e] * exp(-a * a / 2) / sqrt(2 * M_PI) / sigma;
            r->din[t * r->M + e] += slope;
            r->dz[t * r->E + at] -= slope;
            r->din[t * r->M + r->E + e] -= slope * a / (1 + exp(-raw));
        }
    }
}

static void load(sy_host_route *r, double weight, double *sum, double *d)
{
    for (int32_t e = 0; e < r->E; e++) {
        sum[e] = 0;
    }
    for (int64_t t = 0; t < r->T; t++) {
        if (sy_host_routed(r, t)) {
            load_of_token(r, t, sum, NULL);
        }
    }
    r->loss += weight * variation(sum, r->E, d);
    for (int32_t e = 0; e < r->E; e++) {
        d[e] *= weight;
    }
    for (int64_t t = 0; t < r->T; t++) {
        if (sy_host_routed(r, t)) {
            load_of_token(r, t, NULL, d);
        }
    }
}

static void backward(sy_host_route *r)
{
    const noisy_config *own = r->config->own;
    const sy__form form = sy__form_of(r->config);
    double *sum = r->scratch, *d = r->scratch + r->E, n_routed = 0;
    for (int64_t t = 0; t < r->T; t++) {
        n_routed += sy_host_routed(r, t);
    }
    importance(r, own->importance_coeff * r->per_token * n_routed, sum, d);
    for (int64_t i = 0; i < r->T * r->K; i++) {
        r->g[i] += r->expert[i] >= 0 ? d[r->expert[i]] : 0;
    }
    sy__weigh_all_backward(r, &form);
    load(r, own->load_coeff * r->per_token * n_routed, sum, d);
}

static void score_backward(sy_host_route *r)
{
    for (int64_t t = 0; t < r->T; t++) {
        for (int32_t e = 0; e < r->E; e++) {
            const double dz = r->dz[t * r->E + e], raw = r->in[t * r->M + r->E + e];
            r->din[t * r->M + e] += dz;
            r->din[t * r->M + r->E + e] += dz * r->note[t * r->E + e] / (1 + exp(-raw));
        }
    }
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(noisy_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(importance_coeff, SY_CFG_F64, "0.01", 0, 1e6, NULL,
        "Coefficient of the squared variation of the experts' sums of weights."),
    KEY(load_coeff, SY_CFG_F64, "0.01", 0, 1e6, NULL,
        "Coefficient of the squared variation of the experts' expected loads."),
    KEY(epsilon, SY_CFG_F64, "0.01", 1e-9, 1e6, NULL, "Least spread of the noise."),
    {0},
};
const sy_config_section sy_router_section_noisy = {
    .name = "moe.noisy",
    .help = "Noisy top-k with importance and load losses (Shazeer 2017).",
    .keys = keys,
    .struct_bytes = sizeof(noisy_config)};

static const sy_router_loss losses[] = {
    {"moe.noisy.importance_coeff",
     "sum over layers of var / mean^2 of the experts' sums of weights"},
    {"moe.noisy.load_coeff", "sum over layers of var / mean^2 of the experts' expected loads"},
    {0},
};

const sy_router_ops sy__router_noisy = {
    .name = "noisy",
    .source = "Shazeer et al. 2017 (arXiv 1701.06538) 2.1, 4, appendix A",
    .traits = SY_ROUTER_MICRO_BATCH | SY_ROUTER_NO_AUX,
    .losses = losses,
    .host = &(const sy_host_router_ops){.forward_cost = {77.6, 0},
                                        .backward_cost = {97.6, 0.18},
                                        .layout = layout,
                                        .score = score,
                                        .choose = sy__plain_choose,
                                        .backward = backward,
                                        .score_backward = score_backward}};
