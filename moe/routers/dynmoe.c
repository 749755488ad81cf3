/* DynMoE: a token visits every expert whose cosine passes that expert's own threshold,
   g_e = [sigmoid(cos(x, c_e)) > sigmoid(G_e)], and the mean of what they say is the output. In
   training a token may visit none; evaluation then takes the nearest expert. The gradient goes
   straight through the step: that of g_e, where it is 1, is that of sigmoid(cos) - sigmoid(G_e).
   Two losses of the live experts' c: diversity |C C^T - I|_F of unit rows, simplicity mean |c_e|.
   Experts come and go, E being the most there can be: for `pause` steps nothing is noted, for
   `window` steps it is; then experts that nobody chose are put to sleep, and if tokens chose none,
   one sleeping expert wakes up with c the direction of those tokens' sum and G = 0. Guo et al. 2024
   (arXiv 2405.14297) 3. */
#include <math.h>

#include "moe/routers_impl.h"

typedef struct dynmoe_config {
    int32_t start_experts, window, pause;
    double diversity_coeff, simplicity_coeff;
} dynmoe_config;
enum { CENTROIDS, THRESHOLDS };

/* The state: steps since the last change; [E] is not what it was at the start (alive or asleep);
   [E] was chosen; [H] sum of the tokens that chose none. */
typedef struct memory {
    double *step, *changed, *chosen, *unclaimed;
} memory;

static memory memory_of(double *state, int32_t E)
{
    return (memory){state, state + 1, state + 1 + E, state + 1 + 2 * E};
}

static bool alive(const dynmoe_config *own, const memory *m, int32_t e)
{
    const bool at_start = own->start_experts == 0 || e < own->start_experts;
    return at_start != (m->changed[e] != 0);
}

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    out->K = config->experts;
    out->reads_x = true;
    out->n_params = 2;
    out->param[CENTROIDS].name = "centroids";
    out->param[CENTROIDS].shape[0] = config->experts;
    out->param[CENTROIDS].shape[1] = out->H;
    out->param[CENTROIDS].std = out->H > 0 ? 1 / sqrt((double)out->H) : 0;
    out->param[THRESHOLDS].name = "thresholds";
    out->param[THRESHOLDS].shape[0] = config->experts;
    out->param[THRESHOLDS].shape[1] = 1;
    out->param[THRESHOLDS].init = SY_INIT_ZEROS;
    out->n_state = 1 + 2 * (int64_t)config->experts + out->H;
    out->n_sums = out->H;
}

/* z = cos - G: positive where the expert is chosen. Cosines are noted. */
static void score(sy_host_route *r)
{
    const double asleep = -1e30; /* finite in fp32; its probability is 0 */
    const memory m = memory_of(r->state, r->E);
    double *length = r->scratch;
    for (int32_t e = 0; e < r->E; e++) {
        length[e] = sy__length(r->param[CENTROIDS] + e * r->H, r->H);
    }
    for (int64_t t = 0; t < r->T; t++) {
        const double *x = r->in + t * r->H, of_x = sy__length(x, r->H);
        for (int32_t e = 0; e < r->E; e++) {
            const int64_t i = t * r->E + e;
            r->note[i] = sy__dot(x, r->param[CENTROIDS] + e * r->H, r->H) / (of_x * length[e]);
            r->z[i] = alive(r->config->own, &m, e) ? r->note[i] - r->param[THRESHOLDS][e] : asleep;
        }
    }
}

static int32_t nearest(const sy_host_route *r, int64_t t)
{
    const memory m = memory_of(r->state, r->E);
    int32_t best = -1;
    for (int32_t e = 0; e < r->E; e++) {
        if (alive(r->config->own, &m, e) &&
            (best < 0 || r->note[t * r->E + e] > r->note[t * r->E + best])) {
            best = e;
        }
    }
    return best;
}

static void choose(sy_host_route *r)
{
    for (int64_t t = 0; t < r->T; t++) {
        int32_t *expert = r->expert + t * r->K, n = 0;
        if (!sy_host_routed(r, t)) {
            continue;
        }
        for (int32_t e = 0; e < r->E; e++) {
            if (r->z[t * r->E + e] > 0) {
                expert[n++] = e;
            }
        }
        if (n == 0 && !r->training) {
            expert[n++] = nearest(r, t);
        }
        for (int32_t k = 0; k < n; k++) {
            r->weight[t * r->K + k] = r->config->routed_scale / n;
        }
        for (int64_t h = 0; h < r->H && n == 0 && r->sum != NULL; h++) {
            r->sum[h] += r->in[t * r->H + h];
        }
    }
}

/* ---- losses ---- */

/* R_ij = <c_i, c_j> / (|c_i| |c_j|), 0 for i = j and for experts that sleep; length [E] of the
   live ones, 0 of others. */
static double likeness(const sy_host_route *r, const double *length, int32_t i, int32_t j)
{
    if (i == j || length[i] == 0 || length[j] == 0) {
        return 0;
    }
    return sy__dot(r->param[CENTROIDS] + i * r->H, r->param[CENTROIDS] + j * r->H, r->H) /
           (length[i] * length[j]);
}

/* D = sqrt(sum R_ij^2); dD / dc_i = 2/D sum_j R_ij (c_j / |c_j| - R_ij c_i / |c_i|) / |c_i|. */
static double add_diversity(sy_host_route *r, const double *length, double factor)
{
    double squares = 0;
    for (int32_t i = 0; i < r->E * r->E; i++) {
        const double R = likeness(r, length, i / r->E, i % r->E);
        squares += R * R;
    }
    const double D = sqrt(squares);
    for (int32_t i = 0; i < r->E * r->E && D > 0; i++) {
        const int64_t a = i / r->E, b = i % r->E;
        const double R = likeness(r, length, (int32_t)a, (int32_t)b);
        for (int64_t h = 0; h < r->H && R != 0; h++) {
            r->dparam[CENTROIDS][a * r->H + h] +=
                factor * 2 / D * R / length[a] *
                (r->param[CENTROIDS][b * r->H + h] / length[b] -
                 R * r->param[CENTROIDS][a * r->H + h] / length[a]);
        }
    }
    return factor * D;
}

static double add_simplicity(sy_host_route *r, const double *length, double factor)
{
    double sum = 0, n = 0;
    for (int32_t e = 0; e < r->E; e++) {
        n += length[e] > 0;
        sum += length[e];
    }
    for (int64_t i = 0; i < r->E * r->H; i++) {
        const double of_c = length[i / r->H];
        r->dparam[CENTROIDS][i] += of_c > 0 ? factor / n * r->param[CENTROIDS][i] / of_c : 0;
    }
    return factor * sum / n;
}

static void backward(sy_host_route *r)
{
    const dynmoe_config *own = r->config->own;
    const memory m = memory_of(r->state, r->E);
    double *length = r->scratch, n_routed = 0;
    for (int64_t t = 0; t < r->T; t++) {
        n_routed += sy_host_routed(r, t);
        for (int32_t k = 0; k < r->K && r->expert[t * r->K + k] >= 0; k++) {
            const int64_t i = t * r->K + k;
            r->dz[t * r->E + r->expert[i]] += r->weight[i] * r->g[i];
            r->metric++;
        }
    }
    for (int32_t e = 0; e < r->E; e++) {
        const double *c = r->param[CENTROIDS] + e * r->H;
        length[e] = alive(own, &m, e) ? sy__length(c, r->H) : 0;
    }
    /* once per step, by shares of its tokens */
    r->loss += add_diversity(r, length, own->diversity_coeff * n_routed * r->per_token);
    r->loss += add_simplicity(r, length, own->simplicity_coeff * n_routed * r->per_token);
}

static double slope(double x)
{
    const double s = 1 / (1 + exp(-x));
    return s * (1 - s);
}

/* dz is the gradient of g; of the cosine it is slope(cos) times that, of G it is -slope(G) times.
   d cos / dx = (c / |c| - cos x / |x|) / |x|, and the same with x and c changed. */
static void score_backward(sy_host_route *r)
{
    for (int64_t i = 0; i < r->T * r->K; i++) {
        const int64_t t = i / r->K, e = r->expert[i];
        if (e < 0) {
            continue;
        }
        const double *x = r->in + t * r->H, *c = r->param[CENTROIDS] + e * r->H;
        const double of_x = sy__length(x, r->H), of_c = sy__length(c, r->H);
        const double cosine = r->note[t * r->E + e], dz = r->dz[t * r->E + e];
        const double d = dz * slope(cosine), G = r->param[THRESHOLDS][e];
        for (int64_t h = 0; h < r->H; h++) {
            r->din[t * r->H + h] += d / of_x * (c[h] / of_c - cosine * x[h] / of_x);
            r->dparam[CENTROIDS][e * r->H + h] += d / of_c * (x[h] / of_x - cosine * c[h] / of_c);
        }
        r->dparam[THRESHOLDS][e] -= dz * slope(G);
    }
}

/* ---- experts come and go ---- */

/* Not the last ones: if nobody alive was chosen, all stay. */
static void remove_idle(const dynmoe_config *own, memory *m, int32_t E)
{
    bool any = false;
    for (int32_t e = 0; e < E; e++) {
        any = any || (alive(own, m, e) && m->chosen[e] != 0);
    }
    for (int32_t e = 0; e < E && any; e++) {
        if (alive(own, m, e) && m->chosen[e] == 0) {
            m->changed[e] = !m->changed[e];
        }
    }
}

static bool add_one(const dynmoe_config *own, memory *m, int32_t E, int64_t H, double *const *param)
{
    const double length = sqrt(sy__dot(m->unclaimed, m->unclaimed, H));
    int32_t e = 0;
    while (e < E && alive(own, m, e)) {
        e++;
    }
    if (e == E || length == 0) {
        return false;
    }
    m->changed[e] = !m->changed[e];
    for (int64_t h = 0; h < H; h++) {
        param[CENTROIDS][e * H + h] = m->unclaimed[h] / length;
    }
    param[THRESHOLDS][e] = 0;
    return true;
}

static bool adapt(const sy_moe_config *config, const sy_step_end *end, int32_t layer, double *state,
                  double *const *param)
{
    const dynmoe_config *own = config->own;
    const int32_t E = config->experts;
    const int64_t H = end->n_router;
    memory m = memory_of(state, E);
    bool added;
    if (own->window == 0) {
        return false;
    }
    for (int32_t e = 0; e < E && *m.step >= own->pause; e++) {
        m.chosen[e] = m.chosen[e] != 0 || end->h_load[(int64_t)layer * E + e] > 0;
    }
    for (int64_t h = 0; h < H && *m.step >= own->pause; h++) {
        m.unclaimed[h] += end->h_router[layer * H + h];
    }
    if (++*m.step < own->pause + own->window) {
        return false;
    }
    remove_idle(own, &m, E);
    added = add_one(own, &m, E, H, param);
    *m.step = 0;
    for (int64_t i = 0; i < E + H; i++) {
        m.chosen[i] = 0;
    }
    return added;
}

static sy_status check(const sy_moe_config *config, const sy_config *all)
{
    const dynmoe_config *own = config->own;
    if (own->start_experts > config->experts) {
        return sy_config_error(all, "moe.dynmoe.start_experts",
                               "moe.dynmoe.start_experts %d of moe.experts %d, the most there can "
                               "be; set it to %d, or to 0 for all",
                               own->start_experts, config->experts, config->experts);
    }
    return SY_OK;
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(dynmoe_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(start_experts, SY_CFG_I32, "0", 0, 1 << 16, NULL,
        "Experts that are alive at the start. 0: all."),
    KEY(window, SY_CFG_I32, "300", 0, 1 << 24, NULL,
        "Steps in which choices are noted; then experts go and come. 0: they never do."),
    KEY(pause, SY_CFG_I32, "600", 0, 1 << 24, NULL,
        "Steps between two windows, and before the first."),
    KEY(diversity_coeff, SY_CFG_F64, "0.01", 0, 1e6, NULL,
        "Coefficient of the distance of the centroids from being orthogonal."),
    KEY(simplicity_coeff, SY_CFG_F64, "0.01", 0, 1e6, NULL,
        "Coefficient of the centroids' mean length."),
    {0},
};
const sy_config_section sy_router_section_dynmoe = {
    .name = "moe.dynmoe",
    .help = "Experts by thresholds of their own, which come and go; moe.experts is the most there "
            "can be, moe.top_k counts for FLOPs.",
    .keys = keys,
    .struct_bytes = sizeof(dynmoe_config)};

static const sy_router_loss losses[] = {
    {"moe.dynmoe.diversity_coeff",
     "sum over layers of the distance of the experts' cosines from the unit matrix"},
    {"moe.dynmoe.simplicity_coeff",
     "sum over layers of the mean length of the experts' directions"},
    {0},
};

const sy_router_ops sy__router_dynmoe = {
    .name = "dynmoe",
    .source = "Guo et al. 2024 (DynMoE, arXiv 2405.14297) 3",
    .traits = SY_ROUTER_NO_CAPACITY | SY_ROUTER_NO_AUX | SY_ROUTER_NO_Z | SY_ROUTER_FIXED_WEIGHTS |
              SY_ROUTER_ESTIMATES,
    .check = check,
    .metric = "experts_per_token",
    .losses = losses,
    .host = &(const sy_host_router_ops){.forward_cost = {44.7, 0},
                                        .backward_cost = {163, 0.15},
                                        .layout = layout,
                                        .score = score,
                                        .choose = choose,
                                        .backward = backward,
                                        .score_backward = score_backward,
                                        .adapt = adapt}};
