/* The layer by its definition (docs/NUMERICS.md 2 and 3): every token asks every expert, and places
   are handed out one by one. */
#include <math.h>
#include <string.h>

#include "backend/ops.h"
#include "tests/support/moe_rig.h"

/* One token's scores, and its standing with each expert. */
typedef struct standing {
    double p[RIG_E], lse, weight[RIG_E]; /* weight: 0 where not chosen */
    int32_t choice[RIG_E];               /* 0: first choice, .., -1: none */
    bool kept[RIG_E];
} standing;

static double sigmoid(double z)
{
    return 1 / (1 + exp(-z));
}

static double dot(const double *a, const double *b, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

void plain_ffn(const double *gate_up, const double *down, const double *x, double *out)
{
    double a[RIG_F];
    for (int32_t f = 0; f < RIG_F; f++) {
        double gate = dot(gate_up + f * RIG_H, x, RIG_H);
        double up = dot(gate_up + (RIG_F + f) * RIG_H, x, RIG_H);
        a[f] = gate * sigmoid(gate) * up;
    }
    for (int32_t h = 0; h < RIG_H; h++) {
        out[h] = dot(down + h * RIG_F, a, RIG_F);
    }
}

static void score(const sy_moe_config *c, const rig_weights *w, const double *x, standing *s)
{
    double sum = 0, z[RIG_E];
    for (int32_t e = 0; e < c->experts; e++) {
        z[e] = dot(w->router + e * RIG_H, x, RIG_H);
        sum += exp(z[e]);
    }
    s->lse = log(sum);
    for (int32_t e = 0; e < c->experts; e++) {
        s->p[e] = c->score == SY_SCORE_SIGMOID ? sigmoid(z[e]) : exp(z[e]) / sum;
    }
}

/* An expert's place among the others: how many have more, or as much and come before it. */
static void choose(const sy_moe_config *c, const rig_weights *w, standing *s)
{
    double sum = 0;
    for (int32_t e = 0; e < c->experts; e++) {
        int32_t n_before = 0;
        for (int32_t j = 0; j < c->experts; j++) {
            double mine = s->p[e], other = s->p[j];
            if (c->bias_update_rate > 0) {
                mine += w->bias[e];
                other += w->bias[j];
            }
            n_before += other > mine || (other == mine && j < e);
        }
        s->choice[e] = n_before < c->top_k ? n_before : -1;
        sum += s->choice[e] >= 0 ? s->p[e] : 0;
    }
    for (int32_t e = 0; e < c->experts; e++) {
        double weight = c->normalize_weights ? s->p[e] / sum : s->p[e];
        s->weight[e] = s->choice[e] >= 0 ? weight : 0;
        s->kept[e] = s->choice[e] >= 0;
    }
}

/* Hand out an expert's places: by position, first choices first; or to the largest weight left. */
static void hand_out(const sy_moe_config *c, standing *s, int64_t T, int32_t e, int64_t places)
{
    for (int64_t t = 0; t < T; t++) {
        s[t].kept[e] = false;
    }
    for (int32_t k = 0; k < c->top_k && c->drop_policy == SY_DROP_POSITION; k++) {
        for (int64_t t = 0; t < T && places > 0; t++) {
            if (s[t].choice[e] == k) {
                s[t].kept[e] = true;
                places--;
            }
        }
    }
    for (; places > 0 && c->drop_policy == SY_DROP_PROBABILITY; places--) {
        int64_t best = -1;
        for (int64_t t = 0; t < T; t++) {
            bool wants = s[t].choice[e] >= 0 && !s[t].kept[e];
            best = wants && (best < 0 || s[t].weight[e] > s[best].weight[e]) ? t : best;
        }
        if (best < 0) {
            break;
        }
        s[best].kept[e] = true;
    }
}

static void add_expert(double weight, const double *gate_up, const double *down, const double *x,
                       double *y)
{
    double out[RIG_H];
    plain_ffn(gate_up, down, x, out);
    for (int32_t h = 0; h < RIG_H; h++) {
        y[h] += weight * out[h];
    }
}

static void output(const sy_moe_config *c, const rig_weights *w, const standing *s, const double *x,
                   double *y)
{
    for (int32_t e = 0; e < c->experts; e++) {
        if (s->kept[e]) {
            add_expert(c->routed_scale * s->weight[e], w->gate_up + e * RIG_GATED,
                       w->down + e * RIG_H * RIG_F, x, y);
        }
    }
    if (c->shared_experts > 0) {
        double gate = c->shared_gate ? sigmoid(dot(w->shared_router, x, RIG_H)) : 1;
        add_expert(gate, w->shared_gate_up, w->shared_down, x, y);
    }
}

static double entropy(const double *p, int32_t E)
{
    double sum = 0, h = 0;
    for (int32_t e = 0; e < E; e++) {
        sum += p[e];
    }
    for (int32_t e = 0; e < E; e++) {
        h -= p[e] / sum * log(p[e] / sum);
    }
    return h;
}

/* E <f, q> of one token, f being the shares of `load`, q its scores over their sum. */
static double balance(const double *p, const int64_t *load, int32_t E)
{
    double n = 0, sum = 0, loss = 0;
    for (int32_t e = 0; e < E; e++) {
        n += (double)load[e];
        sum += p[e];
    }
    for (int32_t e = 0; e < E && n > 0; e++) {
        loss += E * ((double)load[e] / n) * (p[e] / sum);
    }
    return loss;
}

static void count(const standing *s, int64_t n, int32_t E, int64_t *load, int64_t *kept)
{
    memset(load, 0, RIG_E * sizeof *load);
    memset(kept, 0, RIG_E * sizeof *kept);
    for (int64_t t = 0; t < n; t++) {
        for (int32_t e = 0; e < E; e++) {
            load[e] += s[t].choice[e] >= 0;
            kept[e] += s[t].kept[e];
        }
    }
}

static void add_sums(const sy_moe_config *c, const standing *s, const int64_t *load,
                     double per_routed, double *sums)
{
    double largest = 0;
    for (int32_t e = 0; e < c->experts; e++) {
        largest = fmax(largest, s->p[e]);
    }
    sums[SY_SUM_ENTROPY] += entropy(s->p, c->experts);
    sums[SY_SUM_CONFIDENCE] += largest;
    sums[SY_SUM_AUX] += per_routed * balance(s->p, load, c->experts);
    sums[SY_SUM_Z] += per_routed * s->lse * s->lse;
}

static void add_squares(const double *x, const double *y, double *sums)
{
    sums[SY_SUM_OUTPUT] += dot(y, y, RIG_H);
    sums[SY_SUM_INPUT] += dot(x, x, RIG_H);
}

void plain_moe(const sy_moe_config *c, const rig_weights *w, const rig_tokens *in, int64_t capacity,
               const int64_t *load_glb, double per_routed, rig_result *out)
{
    standing s[RIG_T];
    const int64_t T = (int64_t)in->B * in->S;
    *out = (rig_result){0};
    for (int64_t t = 0; t < T; t++) {
        score(c, w, in->x + t * RIG_H, &s[t]);
        choose(c, w, &s[t]);
        for (int32_t e = 0; e < c->experts && in->masked && !in->routed[t]; e++) {
            s[t].choice[e] = -1;
            s[t].kept[e] = false;
        }
    }
    for (int32_t e = 0; e < c->experts && capacity >= 0; e++) {
        hand_out(c, s, T, e, capacity);
    }
    count(s, T, c->experts, out->load, out->kept);
    for (int64_t t = 0; t < T; t++) {
        for (int32_t e = 0; e < c->experts; e++) {
            out->dropped_at[t % in->S * SY_DROP_PARTS / in->S] +=
                s[t].choice[e] >= 0 && !s[t].kept[e];
        }
    }
    for (int64_t t = 0; t < T; t++) {
        int64_t in_sequence[RIG_E], unused[RIG_E];
        count(s + t / in->S * in->S, in->S, c->experts, in_sequence, unused);
        const int64_t *load = c->aux_loss_scope == SY_AUX_SEQUENCE ? in_sequence : out->load;
        if (c->aux_loss_scope == SY_AUX_GLOBAL_BATCH && load_glb != NULL) {
            load = load_glb;
        }
        output(c, w, &s[t], in->x + t * RIG_H, out->y + t * RIG_H);
        if (!in->masked || in->routed[t]) {
            add_sums(c, &s[t], load, per_routed, out->sums);
            add_squares(in->x + t * RIG_H, out->y + t * RIG_H, out->sums);
        }
    }
}
