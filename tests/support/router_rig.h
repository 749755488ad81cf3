/* One router by itself, and a micro-batch for it: no layer. One made of ops runs on ref, whose
   memory is the host's. */
#ifndef SY_TESTS_ROUTER_RIG_H
#define SY_TESTS_ROUTER_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/rng.h"
#include "moe/host_route.h"
#include "tests/support/router_config.h"

enum {
    MAX_T = 64,
    MAX_E = 12,
    MAX_M = 36,
    MAX_LIST = 8,
    MAX_PARAM = 64 * 50,
    WIDTH = 3,
    MAX_STATE = 400
};

/* One router, and a micro-batch for it. */
typedef struct rig {
    sy_config *config;
    const sy_router_ops *router;
    sy_host_route r;
    double in[MAX_T * MAX_M], z[MAX_T * MAX_E], weight[MAX_T * MAX_E], weight_grad[MAX_T * MAX_E];
    double note[MAX_T * MAX_E], scratch[2 * (MAX_E + MAX_M + MAX_T)], g[MAX_T * MAX_E];
    double dz[MAX_T * MAX_E], din[MAX_T * MAX_M], state[MAX_STATE], bias[MAX_E];
    int32_t expert[MAX_T * MAX_E], ids[MAX_T];
    int64_t count[MAX_T * MAX_E], token_glb[MAX_T];
    uint8_t routed[MAX_T];
    double copy[MAX_T], mix[MAX_T * 4], dcopy[MAX_T], dmix[MAX_T * 4], work[1024];
    double carry[MAX_T * MAX_M], dcarry[MAX_T * MAX_M], below[MAX_T * MAX_M];
    double dbelow[MAX_T * MAX_M], param[SY_ROUTER_PARAMS][MAX_PARAM];
    double dparam[SY_ROUTER_PARAMS][MAX_PARAM];
    /* made of ops: */
    sy_device *dev;
    sy_device_batch batch;
    sy_pass pass;
    sy_arena arena;
    sy_scores scores;
    sy_choices choices;
    double p[MAX_T * MAX_E], lse[MAX_T];
    int32_t token[MAX_T * MAX_E];
} rig;

/* z of the golden fixture: four tokens, four experts; choices, weights and losses below were
   computed from it by other code in double. */
static const double golden[16] = {2,   1, 0.5,  -1,   0,  3,   1,   -2,
                                  1.5, 1, -0.5, 0.25, -1, 0.5, 2.5, 1.25};

static inline void must_ok(sy_status st)
{
    if (st != SY_OK) {
        print_error("%s\n", sy_error_message());
        fail();
    }
}

static inline void open_device(rig *k)
{
    sy_pass *p = &k->pass;
    must_ok(sy_device_open(&(sy_device_spec){.backend = "ref"}, &k->dev));
    must_ok(sy_arena_init(&k->arena, k->dev, 1 << 16, SY_MEM_SCRATCH));
    *p = (sy_pass){.kind = SY_PASS_TRAIN,
                   .compute = SY_F64,
                   .wide = SY_F64,
                   .batch = &k->batch,
                   .keep = &k->arena,
                   .scratch = &k->arena};
    must_ok(sy_stream_create(k->dev, "rig", &p->stream));
}

static inline void rig_open(rig *k, const char *const *set)
{
    memset(k, 0, sizeof *k);
    must_ok(configure(set, &k->config));
    const sy_moe_config *c = sy_config_get(k->config, "moe");
    sy_router_layout layout;
    k->router = sy_router_find(c->router);
    sy_router_layout_of(c, WIDTH, &layout);
    assert_true(layout.M <= MAX_M && layout.K <= MAX_E);
    const bool by_ops = k->router->host == NULL;
    const bool same = layout.M == c->experts && (by_ops || k->router->host->score == NULL);
    k->r = (sy_host_route){.config = c,
                           .E = c->experts,
                           .K = layout.K,
                           .M = layout.M,
                           .H = WIDTH,
                           .vocab = 300,
                           .training = true,
                           .seed = 7,
                           .stream = 11,
                           .n_scopes = 1,
                           .ids = k->ids,
                           .token_glb = k->token_glb,
                           .in = same ? k->z : k->in,
                           .z = k->z,
                           .expert = k->expert,
                           .weight = k->weight,
                           .weight_grad = k->weight_grad,
                           .count = k->count,
                           .copy = k->copy,
                           .mix = k->mix,
                           .dcopy = k->dcopy,
                           .dmix = k->dmix,
                           .work = k->work,
                           .carry = k->carry,
                           .dcarry = k->dcarry,
                           .state = k->state,
                           .note = k->note,
                           .scratch = k->scratch,
                           .g = k->g,
                           .dz = k->dz,
                           .din = same ? k->dz : k->din};
    for (int32_t i = 0; i < layout.n_params; i++) {
        k->r.param[i] = k->param[i];
        k->r.dparam[i] = k->dparam[i];
    }
    if (by_ops) {
        open_device(k);
    }
}

/* What the balance loss counts. */
static inline void count_choices(rig *k)
{
    const sy_choices *c = &k->choices;
    const int32_t *counted = c->counted.data != NULL ? c->counted.data : c->expert.data;
    for (int64_t i = 0; i < c->T * c->K; i++) {
        k->count[counted[i] >= 0 ? counted[i] : MAX_E]++;
    }
}

static inline void choose_by_ops(rig *k)
{
    const sy_host_route *r = &k->r;
    const sy_tensor none = sy_tensor_none();
    const sy_tensor bias = r->bias != NULL ? sy_tensor_1d(r->bias, SY_F64, r->E) : none;
    sy_choices *c = &k->choices;
    sy_arena_release(&k->arena, 0);
    k->batch = (sy_device_batch){.B = r->B, .S = r->S, .T = r->T};
    k->batch.routed = r->routed != NULL ? sy_tensor_1d(k->routed, SY_U8, r->T) : none;
    k->pass.per_routed_token = r->per_token;
    k->scores = (sy_scores){.z = sy_tensor_2d(k->z, SY_F64, r->T, r->E),
                            .p = sy_tensor_2d(k->p, SY_F64, r->T, r->E),
                            .lse = sy_tensor_1d(k->lse, SY_F64, r->T)};
    *c = (sy_choices){.T = r->T,
                      .K = r->K,
                      .token = sy_tensor_2d(k->token, SY_I32, r->T, r->K),
                      .expert = sy_tensor_2d(k->expert, SY_I32, r->T, r->K),
                      .weight = sy_tensor_2d(k->weight, SY_F64, r->T, r->K)};
    must_ok(sy_router_scores(k->pass.stream,
                             &(sy_router_scores_args){.z = k->scores.z,
                                                      .p = k->scores.p,
                                                      .lse = k->scores.lse,
                                                      .score = (sy_score)r->config->score}));
    must_ok(k->router->choose(r->config, &k->pass, &k->scores, &bias, c));
    must_ok(k->router->weigh(r->config, &k->pass, &k->scores, c));
    count_choices(k);
}

/* From k->g; to k->dz and the loss of the router's own. */
static inline void backward(rig *k)
{
    const sy_host_route *r = &k->r;
    if (k->router->host != NULL) {
        k->router->host->backward(&k->r);
        return;
    }
    const sy_tensor g = sy_tensor_2d(k->g, SY_F64, r->T, r->K);
    const sy_tensor loss = sy_tensor_1d(&k->r.loss, SY_F64, 1);
    sy_tensor dz = sy_tensor_2d(k->dz, SY_F64, r->T, r->E);
    must_ok(k->router->backward(r->config, &k->pass, &k->scores, &k->choices, &g, &loss, &dz));
}

/* Choose for T tokens with these inputs [T, M]. */
static inline void choose(rig *k, int32_t T, const double *in)
{
    sy_host_route *r = &k->r;
    assert_true(T <= MAX_T);
    r->T = T;
    r->B = 1;
    r->S = T;
    r->per_token = T > 0 ? 1.0 / T : 0;
    r->loss = r->metric = 0;
    memset(k->count, 0, sizeof k->count);
    memset(k->note, 0, sizeof k->note);
    memset(k->dz, 0, sizeof k->dz);
    memset(k->din, 0, sizeof k->din);
    memset(k->weight, 0, sizeof k->weight);
    memset(k->copy, 0, sizeof k->copy);
    memset(k->mix, 0, sizeof k->mix);
    for (int32_t i = 0; i < MAX_T * MAX_E; i++) {
        k->expert[i] = -1;
    }
    for (int32_t t = 0; t < T; t++) {
        k->token_glb[t] = t;
    }
    if (in != NULL) {
        memcpy(r->in, in, sizeof *in * (size_t)(T * r->M));
    }
    if (k->router->host == NULL) {
        choose_by_ops(k);
        return;
    }
    if (k->router->host->score != NULL) {
        k->router->host->score(r);
    }
    k->router->host->choose(r);
}

static inline void draw(double *z, int32_t n, uint64_t seed)
{
    for (int32_t i = 0; i < n; i++) {
        z[i] = sy_rng_normal(seed, SY_RNG_TEST, (uint64_t)i);
    }
}

/* The token's experts are these, in any order, -1 behind them. */
static inline void assert_experts(const rig *k, int32_t t, const int32_t *list)
{
    int32_t n = 0;
    for (; n < MAX_LIST && list[n] >= 0; n++) {
        bool found = false;
        for (int32_t i = 0; i < k->r.K; i++) {
            found = found || k->expert[t * k->r.K + i] == list[n];
        }
        assert_true(found);
    }
    for (int32_t i = n; i < k->r.K; i++) {
        assert_int_equal(k->expert[t * k->r.K + i], -1);
    }
}

static inline void assert_near(double a, double b, double bound)
{
    if (!(fabs(a - b) <= bound)) {
        fail_msg("%.12g where %.12g is expected", a, b);
    }
}

static inline void close_rig(rig *k)
{
    if (k->dev != NULL) {
        sy_arena_free(&k->arena);
        sy_stream_destroy(&k->pass.stream);
        sy_device_close(&k->dev);
    }
    sy_config_destroy(&k->config);
}

#define NONE -1

#endif
