#include "train/compare.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "parallel/agree.h"
#include "train/compare_impl.h"

enum { MODELS = 2 };

/* Sums of exponentials so far of a row of logits. */
typedef struct softmax {
    double largest, sum, target;
} softmax;

typedef struct comparer {
    const sy_compare_spec *spec;
    const sy_compare_model *model[MODELS];
    sy__layer dense, moe;
    sy_dtype compute;
    int64_t T, H, V;
    int32_t *ids, *targets, *pos; /* [T] */
    int64_t *token_glb;           /* [T] */
    sy_batch batch;
    void *h_raw;                            /* [H] compute */
    double *x[MODELS];                      /* [T, H] the residual stream */
    double *ffn[MODELS], *forced;           /* [T, H] outputs; MoE on the old model's input */
    double *out;                            /* [T, max(H, V_slice)] of one slice */
    double *logits;                         /* [T, V_slice] of the old model */
    double *weight;                         /* [T] sum of the chosen weights */
    double *router, *bias, *norm, *z, *row; /* [E, H], [E], [H], [E], [H] */
    softmax *soft[MODELS];                  /* [T] */
    double worst[5];                        /* logits: gap, largest; nll likewise; rounding */
    double sums[3], bounds[3];              /* n, ratio, weight; -least, largest, off */
} comparer;

/* ---- memory ---- */

static sy_status allocate(comparer *c)
{
    sy_status st = SY_OK;
    const int64_t T = c->T, H = c->H, E = c->model[1]->settings->moe->experts;
    const int64_t V = c->dense.V_slice, wide = H > V ? H : V;
    SY_TRY(sy_alloc(T, sizeof *c->ids, (void **)&c->ids));
    SY_TRY(sy_alloc(T, sizeof *c->targets, (void **)&c->targets));
    SY_TRY(sy_alloc(T, sizeof *c->pos, (void **)&c->pos));
    SY_TRY(sy_alloc(T, sizeof *c->token_glb, (void **)&c->token_glb));
    SY_TRY(sy_alloc(H, sizeof(double), &c->h_raw));
    for (int32_t m = 0; m < MODELS; m++) {
        SY_TRY(sy_alloc(T * H, sizeof(double), (void **)&c->x[m]));
        SY_TRY(sy_alloc(T * H, sizeof(double), (void **)&c->ffn[m]));
        SY_TRY(sy_alloc(T, sizeof(softmax), (void **)&c->soft[m]));
    }
    SY_TRY(sy_alloc(T * H, sizeof(double), (void **)&c->forced));
    SY_TRY(sy_alloc(T * wide, sizeof(double), (void **)&c->out));
    SY_TRY(sy_alloc(T * V, sizeof(double), (void **)&c->logits));
    SY_TRY(sy_alloc(T, sizeof(double), (void **)&c->weight));
    SY_TRY(sy_alloc(E * H, sizeof(double), (void **)&c->router));
    SY_TRY(sy_alloc(E, sizeof(double), (void **)&c->bias));
    SY_TRY(sy_alloc(E, sizeof(double), (void **)&c->z));
    SY_TRY(sy_alloc(H, sizeof(double), (void **)&c->norm));
    SY_TRY(sy_alloc(H, sizeof(double), (void **)&c->row));
cleanup:
    return st;
}

static void release(comparer *c)
{
    void **const all[] = {(void **)&c->row,     (void **)&c->norm,      (void **)&c->z,
                          (void **)&c->bias,    (void **)&c->router,    (void **)&c->weight,
                          (void **)&c->logits,  (void **)&c->out,       (void **)&c->forced,
                          (void **)&c->h_raw,   (void **)&c->token_glb, (void **)&c->pos,
                          (void **)&c->targets, (void **)&c->ids};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        sy_free(all[i]);
    }
    for (int32_t m = 0; m < MODELS; m++) {
        sy_free(&c->soft[m]);
        sy_free(&c->ffn[m]);
        sy_free(&c->x[m]);
    }
    sy__layer_free(&c->moe);
    sy__layer_free(&c->dense);
}

/* ---- tokens ---- */

static void draw(comparer *c)
{
    const uint64_t stream = sy_rng_stream_of("probe");
    const int64_t first = (int64_t)c->spec->world->rank * c->T;
    for (int64_t t = 0; t < c->T; t++) {
        uint64_t bits = sy_rng_u64(c->spec->seed, stream, (uint64_t)(first + t));
        c->ids[t] = (int32_t)((bits & 0xffffffffU) % (uint64_t)c->V);
        c->targets[t] = (int32_t)((bits >> 32) % (uint64_t)c->V);
        c->pos[t] = (int32_t)(t % c->spec->S);
        c->token_glb[t] = first + t;
    }
    c->batch = (sy_batch){.B = c->spec->n_sequences,
                          .S = c->spec->S,
                          .ids = c->ids,
                          .targets = c->targets,
                          .pos = c->pos,
                          .token_glb = c->token_glb};
}

static void round_row(comparer *c, double *x)
{
    sy_convert(c->compute, c->h_raw, SY_F64, x, c->H);
    sy_convert(SY_F64, x, c->compute, c->h_raw, c->H);
}

static sy_status embed(comparer *c, int32_t m)
{
    sy_status st = SY_OK;
    const double factor = c->model[1]->settings->model->embedding_multiplier;
    for (int64_t t = 0; t < c->T; t++) {
        double *x = c->x[m] + t * c->H;
        SY_TRY(c->model[m]->read(c->model[m]->self, "embed", c->ids[t] * c->H, c->H, SY_F64, x));
        for (int64_t h = 0; h < c->H; h++) {
            x[h] *= factor;
        }
        round_row(c, x);
    }
cleanup:
    return st;
}

/* ---- layers ---- */

static sy_status fill(comparer *c, sy__layer *l, int32_t m, sy__stop stop, int32_t layer,
                      int32_t slice)
{
    return sy_agree(c->spec->world, sy__layer_fill(l, c->model[m], stop, layer, slice));
}

static void pass(comparer *c, sy__layer *l, sy__stop stop, const double *x, double *y)
{
    sy_status st = sy__layer_run(l, stop, &c->batch, x, y);
    if (st != SY_OK) { /* the others are in the midst of collectives */
        sy_comm_abort(c->spec->world, st);
    }
}

/* x += m y, as the compute type holds it. */
static void add_to_stream(comparer *c, double *x, const double *y)
{
    const double factor = c->model[1]->settings->model->residual_multiplier;
    for (int64_t t = 0; t < c->T; t++) {
        for (int64_t i = t * c->H; i < (t + 1) * c->H; i++) {
            x[i] += factor * y[i];
        }
        round_row(c, x + t * c->H);
    }
}

static sy_status attend(comparer *c, int32_t m, int32_t layer)
{
    sy_status st = SY_OK;
    SY_TRY(fill(c, &c->dense, m, SY__STOP_ATTENTION, layer, 0));
    pass(c, &c->dense, SY__STOP_ATTENTION, c->x[m], c->out);
    add_to_stream(c, c->x[m], c->out);
cleanup:
    return st;
}

static void add_slice(comparer *c, sy__layer *l, const double *x, double *sum)
{
    pass(c, l, SY__STOP_FFN, x, c->out);
    for (int64_t i = 0; i < c->T * c->H; i++) {
        sum[i] += c->out[i];
    }
}

static bool routes(const comparer *c, int32_t m, int32_t layer)
{
    const sy_moe_config *moe = c->model[m]->settings->moe;
    return moe->experts > 0 && sy_moe_config_layer(moe, layer);
}

static bool has_ratio(const comparer *c, int32_t layer)
{
    return c->spec->ratios && !routes(c, 0, layer) && routes(c, 1, layer);
}

/* The stream is the input still. */
static sy_status feed_forward(comparer *c, int32_t m, int32_t layer)
{
    sy_status st = SY_OK;
    sy__layer *l = routes(c, m, layer) ? &c->moe : &c->dense;
    const bool forced = m == 1 && has_ratio(c, layer);
    const size_t bytes = (size_t)(c->T * c->H) * sizeof(double);
    memset(c->ffn[m], 0, bytes);
    memset(c->forced, 0, bytes);
    for (int32_t slice = 0; slice < l->n_slices; slice++) {
        SY_TRY(fill(c, l, m, SY__STOP_FFN, layer, slice));
        add_slice(c, l, c->x[m], c->ffn[m]);
        if (forced) {
            add_slice(c, l, c->x[0], c->forced);
        }
    }
cleanup:
    return st;
}

/* ---- ratios ---- */

static sy_status read_router(comparer *c, int32_t layer)
{
    sy_status st = SY_OK;
    const sy_compare_model *m = c->model[1];
    const int64_t E = m->settings->moe->experts;
    char name[SY_PARAM_NAME];
    snprintf(name, sizeof name, "layers/%03d/moe/router", layer);
    SY_TRY(m->read(m->self, name, 0, E * c->H, SY_F64, c->router));
    snprintf(name, sizeof name, "layers/%03d/ffn_norm", layer);
    SY_TRY(m->read(m->self, name, 0, c->H, SY_F64, c->norm));
    if (m->settings->moe->bias_update_rate > 0) {
        snprintf(name, sizeof name, "layers/%03d/moe/bias", layer);
        SY_TRY(m->read(m->self, name, 0, E, SY_F64, c->bias));
    }
cleanup:
    return st;
}

/* z = scores of the router for a row of the stream. */
static void score(comparer *c, const double *x)
{
    const sy_run_settings *s = c->model[1]->settings;
    const int32_t E = s->moe->experts;
    double squares = 0, largest = -INFINITY, sum = 0;
    for (int64_t h = 0; h < c->H; h++) {
        squares += x[h] * x[h];
    }
    const double rstd = 1 / sqrt(squares / (double)c->H + s->model->norm_eps);
    for (int64_t h = 0; h < c->H; h++) {
        c->row[h] = x[h] * rstd * c->norm[h];
    }
    for (int32_t e = 0; e < E; e++) {
        c->z[e] = 0;
        for (int64_t h = 0; h < c->H; h++) {
            c->z[e] += c->router[e * c->H + h] * c->row[h];
        }
        largest = fmax(largest, c->z[e]);
    }
    const bool sigmoid = s->moe->score == SY_SCORE_SIGMOID;
    for (int32_t e = 0; e < E; e++) {
        c->z[e] = sigmoid ? 1 / (1 + exp(-c->z[e])) : exp(c->z[e] - largest);
        sum += c->z[e];
    }
    for (int32_t e = 0; e < E && !sigmoid; e++) {
        c->z[e] /= sum;
    }
}

/* Sum of the K chosen scores, chosen with the bias: the weights that the experts' outputs get. */
static double chosen_weight(comparer *c)
{
    const sy_moe_config *moe = c->model[1]->settings->moe;
    double sum = 0;
    for (int32_t k = 0; k < moe->top_k && !moe->normalize_weights; k++) {
        int32_t best = 0;
        for (int32_t e = 1; e < moe->experts; e++) {
            best = c->z[e] + c->bias[e] > c->z[best] + c->bias[best] ? e : best;
        }
        sum += c->z[best];
        c->z[best] = -INFINITY;
    }
    return moe->routed_scale * (moe->normalize_weights ? 1 : sum);
}

static sy_status weigh(comparer *c, int32_t layer)
{
    sy_status st = SY_OK;
    SY_TRY(sy_agree(c->spec->world, read_router(c, layer)));
    for (int64_t t = 0; t < c->T; t++) {
        score(c, c->x[0] + t * c->H);
        c->weight[t] = chosen_weight(c);
    }
cleanup:
    return st;
}

static void take_ratio(comparer *c, const double *dense, const double *moe, double weight)
{
    double both = 0, own = 0;
    for (int64_t h = 0; h < c->H; h++) {
        both += dense[h] * moe[h];
        own += dense[h] * dense[h];
    }
    if (own > 0) {
        const double ratio = both / own;
        c->sums[0]++;
        c->sums[1] += ratio;
        c->sums[2] += weight;
        c->bounds[0] = fmax(c->bounds[0], -ratio);
        c->bounds[1] = fmax(c->bounds[1], ratio);
        c->bounds[2] = fmax(c->bounds[2], fabs(ratio - weight));
    }
}

static sy_status run_layer(comparer *c, int32_t layer)
{
    sy_status st = SY_OK;
    for (int32_t m = 0; m < MODELS; m++) {
        SY_TRY(attend(c, m, layer));
        SY_TRY(feed_forward(c, m, layer));
    }
    if (has_ratio(c, layer)) {
        SY_TRY(weigh(c, layer));
        for (int64_t t = 0; t < c->T; t++) {
            take_ratio(c, c->ffn[0] + t * c->H, c->forced + t * c->H, c->weight[t]);
        }
    }
    for (int32_t m = 0; m < MODELS; m++) {
        add_to_stream(c, c->x[m], c->ffn[m]);
    }
cleanup:
    return st;
}

/* ---- the head ---- */

/* A NaN is larger than anything. */
static void keep_worst(double *worst, double gap)
{
    *worst = gap <= *worst || isnan(*worst) ? *worst : gap;
}

static void sum_up(softmax *s, const double *logits, int64_t n, int64_t target)
{
    double largest = s->largest;
    for (int64_t v = 0; v < n; v++) {
        largest = fmax(largest, logits[v]);
    }
    s->sum *= exp(s->largest - largest);
    for (int64_t v = 0; v < n; v++) {
        s->sum += exp(logits[v] - largest);
    }
    s->largest = largest;
    s->target = target >= 0 && target < n ? logits[target] : s->target;
}

static sy_status read_logits(comparer *c, int32_t m, int32_t slice, double *logits)
{
    sy_status st = SY_OK;
    const int64_t width = c->dense.V_slice, first = slice * width;
    const int64_t n = c->V - first < width ? c->V - first : width;
    SY_TRY(fill(c, &c->dense, m, SY__STOP_HEAD, 0, slice));
    pass(c, &c->dense, SY__STOP_HEAD, c->x[m], logits);
    for (int64_t t = 0; t < c->T; t++) {
        sum_up(&c->soft[m][t], logits + t * width, n, c->targets[t] - first);
    }
cleanup:
    return st;
}

/* Logits of the first slice. */
static void keep_rounding(comparer *c)
{
    const int64_t width = c->dense.V_slice;
    const int64_t n = width < SY_COMPARE_COLUMNS ? width : SY_COMPARE_COLUMNS;
    for (int64_t t = 0; c->spec->wide != NULL && t < c->T; t++) {
        float *wide = c->spec->wide + t * SY_COMPARE_COLUMNS;
        for (int64_t v = 0; v < n && v < c->V; v++) {
            const double logit = c->logits[t * width + v];
            if (c->compute == SY_BF16) {
                keep_worst(&c->worst[4], fabs(logit - (double)wide[v]));
            } else {
                wide[v] = (float)logit;
            }
        }
    }
}

static sy_status run_head(comparer *c)
{
    sy_status st = SY_OK;
    const int64_t width = c->dense.V_slice;
    for (int64_t t = 0; t < MODELS * c->T; t++) {
        c->soft[t % MODELS][t / MODELS].largest = -INFINITY;
    }
    for (int32_t slice = 0; slice * width < c->V; slice++) {
        const int64_t left = c->V - slice * width, n = left < width ? left : width;
        SY_TRY(read_logits(c, 0, slice, c->logits));
        SY_TRY(read_logits(c, 1, slice, c->out));
        if (slice == 0) {
            keep_rounding(c);
        }
        for (int64_t i = 0; i < c->T * n; i++) {
            const int64_t at = i / n * width + i % n;
            keep_worst(&c->worst[0], fabs(c->logits[at] - c->out[at]));
            c->worst[1] = fmax(c->worst[1], fabs(c->logits[at]));
        }
    }
    for (int64_t t = 0; t < c->T; t++) {
        double nll[MODELS];
        for (int32_t m = 0; m < MODELS; m++) {
            const softmax *s = &c->soft[m][t];
            nll[m] = log(s->sum) + s->largest - s->target;
        }
        keep_worst(&c->worst[2], fabs(nll[0] - nll[1]));
        c->worst[3] = fmax(c->worst[3], fabs(nll[0]));
    }
cleanup:
    return st;
}

/* ---- all of it ---- */

static double part_of(double gap, double largest)
{
    return largest > 0 ? gap / largest : gap;
}

static sy_status sum_over_ranks(comparer *c, sy_compare_gap *out)
{
    sy_status st = SY_OK;
    sy_comm *world = c->spec->world;
    SY_TRY(sy_host_all_reduce(world, c->worst, 5, SY_F64, SY_MAX, "largest differences"));
    SY_TRY(sy_host_all_reduce(world, c->sums, 3, SY_F64, SY_SUM, "sums of ratios"));
    SY_TRY(sy_host_all_reduce(world, c->bounds, 3, SY_F64, SY_MAX, "bounds of ratios"));
    *out = (sy_compare_gap){.compute = c->compute,
                            .logits_abs = c->worst[0],
                            .logits_rel = part_of(c->worst[0], c->worst[1]),
                            .nll_abs = c->worst[2],
                            .nll_rel = part_of(c->worst[2], c->worst[3]),
                            .rounding = part_of(c->worst[4], c->worst[1]),
                            .n_ratios = (int64_t)c->sums[0],
                            .ratio = c->sums[1] / fmax(1, c->sums[0]),
                            .weight = c->sums[2] / fmax(1, c->sums[0]),
                            .ratio_min = -c->bounds[0],
                            .ratio_max = c->bounds[1],
                            .ratio_off = c->bounds[2]};
cleanup:
    return st;
}

static sy_status open_layers(comparer *c)
{
    sy_status st = SY_OK;
    SY_TRY(sy__layer_create(c->spec, false, &c->dense));
    if (c->model[1]->settings->moe->experts > 0) {
        SY_TRY(sy__layer_create(c->spec, true, &c->moe));
    }
    c->compute = c->dense.engine->compute;
    SY_TRY(sy_agree(c->spec->world, allocate(c)));
cleanup:
    return st;
}

sy_status sy_compare_models(const sy_compare_spec *spec, sy_compare_gap *out)
{
    sy_status st = SY_OK;
    const sy_model_config *now = spec->now.settings->model;
    comparer c = {.spec = spec,
                  .model = {&spec->old, &spec->now},
                  .T = (int64_t)spec->n_sequences * spec->S,
                  .H = now->hidden,
                  .V = spec->old.settings->model->vocab_size,
                  .bounds = {-INFINITY, -INFINITY, 0}};
    SY_TRY(open_layers(&c));
    draw(&c);
    for (int32_t m = 0; m < MODELS; m++) {
        SY_TRY(sy_agree(spec->world, embed(&c, m)));
    }
    for (int32_t layer = 0; layer < now->layers; layer++) {
        SY_TRY(run_layer(&c, layer));
    }
    SY_TRY(run_head(&c));
    SY_TRY(sum_over_ranks(&c, out));
cleanup:
    release(&c);
    return st;
}
