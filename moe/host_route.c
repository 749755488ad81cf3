/* Routers on the host: device arrays to doubles and back around plain C. Everything lives in
   p->host and p->keep. On a device that only measures nothing is computed. */
#include "moe/moe_impl.h"

#include "backend/prices.h"
#include "core/rng.h"
#include "moe/capacity.h"

/* ---- copies ---- */

/* Arrays on their way to the host: enqueued, waited for once, then widened. */
enum { MAX_FETCHED = 8 };
typedef struct fetched {
    struct {
        sy_dtype dtype;
        int64_t n;
        const void *raw;
        double *to;
    } item[MAX_FETCHED];
    int32_t n;
} fetched;

static sy_status host_doubles(sy_pass *p, int64_t n, double **out)
{
    return sy_host_arena_alloc(p->host, n * (int64_t)sizeof(double), (void **)out);
}

/* Bytes as they are; NULL where the tensor is absent. */
static sy_status fetch_raw(sy_pass *p, const sy_tensor *t, void **out)
{
    sy_status st = SY_OK;
    *out = NULL;
    if (t->data != NULL) {
        SY_TRY(sy_host_arena_alloc(p->host, sy_tensor_bytes(t), out));
        SY_TRY(sy_copy_d2h(p->stream, *out, t->data, sy_tensor_bytes(t)));
    }
cleanup:
    return st;
}

static sy_status fetch(sy_pass *p, fetched *f, const sy_tensor *t, double **out)
{
    sy_status st = SY_OK;
    const int64_t n = sy_tensor_numel(t);
    void *raw = NULL;
    SY_TRY(fetch_raw(p, t, &raw));
    *out = raw;
    if (t->dtype != SY_F64) {
        SY_TRY(host_doubles(p, n, out));
        f->item[f->n].dtype = t->dtype;
        f->item[f->n].n = n;
        f->item[f->n].raw = raw;
        f->item[f->n++].to = *out;
    }
cleanup:
    return st;
}

static sy_status wait_for(sy_pass *p, const fetched *f)
{
    sy_status st = SY_OK;
    SY_TRY(sy_stream_sync(p->stream));
    for (int32_t i = 0; i < f->n && !p->mesh->dev->dry; i++) {
        sy_convert(SY_F64, f->item[i].to, f->item[i].dtype, f->item[i].raw, f->item[i].n);
    }
cleanup:
    return st;
}

/* Doubles to an array of the device, rounded to its dtype. The host's stay as they are until the
   stream has passed: they are the pass's. */
static sy_status put(sy_pass *p, const double *from, const sy_tensor *t)
{
    sy_status st = SY_OK;
    const void *raw = from;
    void *narrow = NULL;
    if (t->dtype != SY_F64) {
        SY_TRY(sy_host_arena_alloc(p->host, sy_tensor_bytes(t), &narrow));
        if (!p->mesh->dev->dry) {
            sy_convert(t->dtype, narrow, SY_F64, from, sy_tensor_numel(t));
        }
        raw = narrow;
    }
    SY_TRY(sy_copy_h2d(p->stream, t->data, raw, sy_tensor_bytes(t)));
cleanup:
    return st;
}

/* A device that only measures computes nothing; where it rehearses, the host's clock goes on. */
static void rehearse(sy_pass *p, const sy_host_route *r, const sy_host_cost *cost)
{
    const double ns = cost->ns + cost->ns_per_expert * r->E;
    sy_host_spend(p->mesh->dev, 1e-9 * ns * (double)r->T * r->E);
}

/* ---- forward ---- */

/* What this layer shows the one above, and sees of the one below. */
static sy_status join_layers(const sy__moe *moe, sy_pass *p, sy_host_route *r)
{
    sy_status st = SY_OK;
    if (moe->layout.n_carry == 0) {
        return SY_OK;
    }
    SY_TRY(host_doubles(p, r->T * moe->layout.n_carry, &r->carry));
    r->lower = p->carry;
    r->below = r->lower != NULL ? r->lower->carry : NULL;
    p->carry = r;
cleanup:
    return st;
}

static sy_status create(const sy__moe *moe, sy_pass *p, sy_host_route **out)
{
    sy_status st = SY_OK;
    const sy_moe_config *c = moe->config;
    const int64_t T = p->batch->T, E = c->experts, K = moe->layout.K, M = moe->layout.M;
    sy_host_route *r = NULL;
    SY_TRY(sy_host_arena_alloc(p->host, sizeof *r, (void **)&r));
    *r = (sy_host_route){.config = c,
                         .T = T,
                         .B = p->batch->B,
                         .S = p->batch->S,
                         .E = (int32_t)E,
                         .K = (int32_t)K,
                         .M = (int32_t)M,
                         .H = moe->layout.H,
                         .layer = moe->layer,
                         .vocab = moe->model->vocab_size,
                         .training = p->kind == SY_PASS_TRAIN || p->kind == SY_PASS_RECOMPUTE,
                         .seed = p->seed,
                         .stream = ((uint64_t)SY_RNG_ROUTE << 56) ^ ((uint64_t)moe->layer << 40) ^
                                   (uint64_t)p->step,
                         .per_token = p->per_routed_token,
                         .n_scopes = c->aux_loss_scope == SY_AUX_SEQUENCE ? p->batch->B : 1};
    SY_TRY(sy_host_arena_alloc(p->host, T * K * (int64_t)sizeof *r->expert, (void **)&r->expert));
    SY_TRY(host_doubles(p, T * K, &r->weight));
    if (moe->router->traits & SY_ROUTER_TWO_WEIGHTS) {
        SY_TRY(host_doubles(p, T * K, &r->weight_grad));
    }
    SY_TRY(host_doubles(p, T * E, &r->note));
    SY_TRY(host_doubles(p, 2 * (E + M + T), &r->scratch));
    SY_TRY(host_doubles(p, T, &r->copy));
    SY_TRY(host_doubles(p, T * moe->layout.n_vectors, &r->mix));
    if (moe->router->host->work_bytes != NULL) {
        SY_TRY(sy_host_arena_alloc(p->host, moe->router->host->work_bytes(r), &r->work));
    }
    SY_TRY(join_layers(moe, p, r));
    SY_TRY(sy_host_arena_alloc(p->host, r->n_scopes * E * (int64_t)sizeof *r->count,
                               (void **)&r->count));
    for (int64_t i = 0; i < T * K; i++) {
        r->expert[i] = -1;
    }
    *out = r;
cleanup:
    return st;
}

/* A parameter of the router's own as it sees it. */
static sy_status fetch_param(const sy__moe *moe, sy_pass *p, int32_t i, fetched *f, double **out)
{
    sy_status st = SY_OK;
    sy_tensor rows = sy_tensor_none();
    if (moe->own[i] == NULL) {
        return SY_OK;
    }
    rows = moe->own[i]->value;
    if (moe->layout.param[i].by_id) {
        SY_TRY(sy_arena_2d(p->scratch, p->wide, p->batch->T, rows.shape[1], &rows));
        SY_TRY(sy_gather_rows(
            p->stream,
            &(sy_gather_rows_args){.x = moe->own[i]->value, .idx = p->batch->ids, .y = rows}));
    }
    SY_TRY(fetch(p, f, &rows, out));
cleanup:
    return st;
}

/* The device's arrays that the router reads; one wait. */
static sy_status fetch_inputs(const sy__moe *moe, sy_pass *p, const sy_tensor *in, sy_host_route *r)
{
    sy_status st = SY_OK;
    fetched f = {0};
    void *raw = NULL;
    SY_TRY(fetch(p, &f, in, &r->in));
    SY_TRY(fetch_raw(p, &p->batch->routed, &raw));
    r->routed = raw;
    SY_TRY(fetch_raw(p, &p->batch->ids, &raw));
    r->ids = raw;
    SY_TRY(fetch_raw(p, &p->batch->token_glb, &raw));
    r->token_glb = raw;
    for (int32_t i = 0; i < moe->layout.n_params; i++) {
        SY_TRY(fetch_param(moe, p, i, &f, &r->param[i]));
    }
    if (moe->state != NULL) {
        SY_TRY(fetch(p, &f, &moe->state->value, &r->state));
    }
    if (moe->bias != NULL) {
        SY_TRY(fetch(p, &f, &moe->bias->value, &r->bias));
    }
    SY_TRY(wait_for(p, &f));
cleanup:
    return st;
}

static sy_status put_choices(sy_pass *p, const sy_host_route *r, sy_choices *c)
{
    sy_status st = SY_OK;
    int32_t *token = NULL;
    const int64_t n = r->T * r->K;
    SY_TRY(sy_host_arena_alloc(p->host, n * (int64_t)sizeof *token, (void **)&token));
    for (int64_t i = 0; i < n; i++) {
        token[i] = (int32_t)(i / r->K);
    }
    SY_TRY(sy_copy_h2d(p->stream, c->token.data, token, sy_tensor_bytes(&c->token)));
    SY_TRY(sy_copy_h2d(p->stream, c->expert.data, r->expert, sy_tensor_bytes(&c->expert)));
    SY_TRY(put(p, r->weight, &c->weight));
    if (c->priority.data != NULL) {
        SY_TRY(put(p, r->weight, &c->priority));
    }
    if (r->weight_grad != NULL) {
        SY_TRY(put(p, r->weight_grad, &c->weight_grad));
    }
cleanup:
    return st;
}

static sy_status put_local(const sy__moe *moe, sy_pass *p, const sy_host_route *r, sy__local *out)
{
    sy_status st = SY_OK;
    SY_TRY(sy__local_allocate(moe, p, out));
    if (out->copy.data != NULL) {
        SY_TRY(put(p, r->copy, &out->copy));
    }
    if (out->mix.data != NULL) {
        SY_TRY(put(p, r->mix, &out->mix));
    }
cleanup:
    return st;
}

static sy_status allocate(const sy__moe *moe, sy_pass *p, sy_scores *s, sy_choices *c)
{
    sy_status st = SY_OK;
    const bool limited = sy_capacity_limits(moe->config, p);
    const int64_t T = p->batch->T, E = moe->config->experts, K = moe->layout.K;
    *c = (sy_choices){.T = T, .K = (int32_t)K};
    SY_TRY(sy_arena_2d(p->keep, p->wide, T, E, &s->z));
    SY_TRY(sy_arena_2d(p->keep, p->wide, T, E, &s->p));
    SY_TRY(sy_arena_1d(p->keep, p->wide, T, &s->lse));
    SY_TRY(sy_arena_2d(p->keep, SY_I32, T, K, &c->token));
    SY_TRY(sy_arena_2d(p->keep, SY_I32, T, K, &c->expert));
    SY_TRY(sy_arena_2d(p->keep, p->wide, T, K, &c->weight));
    if (moe->router->traits & SY_ROUTER_TWO_WEIGHTS) {
        SY_TRY(sy_arena_2d(p->keep, p->wide, T, K, &c->weight_grad));
    }
    if (limited) {
        SY_TRY(sy_arena_2d(p->keep, SY_U8, T, K, &c->kept));
    }
    if (limited && moe->config->drop_policy == SY_DROP_PROBABILITY) {
        SY_TRY(sy_arena_2d(p->keep, p->wide, T, K, &c->priority));
    }
cleanup:
    return st;
}

/* in [T, M] = x W^T, or x itself, in p->scratch; absent where the router wants neither. */
static sy_status matrix(const sy__moe *moe, sy_pass *p, const sy_tensor *x, sy_tensor *in)
{
    sy_status st = SY_OK;
    sy_tensor input;
    if (moe->layout.reads_x) {
        return sy__moe_router_input(moe, p, x, in);
    }
    SY_TRY(sy_arena_2d(p->scratch, p->wide, x->shape[0], moe->layout.M, in));
    if (moe->layout.M > 0) {
        SY_TRY(sy__moe_router_input(moe, p, x, &input));
        SY_TRY(sy_linear_forward(p, &input, &moe->router_w->value, in));
    }
cleanup:
    return st;
}

sy_status sy__host_route_forward(const sy__moe *moe, sy_pass *p, const sy_tensor *x,
                                 sy__moe_saved *s)
{
    sy_status st = SY_OK;
    const sy_host_router_ops *ops = moe->router->host;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_host_route *r = NULL;
    sy_tensor in;
    SY_TRY(allocate(moe, p, &s->scores, &s->choices));
    SY_TRY(matrix(moe, p, x, &in));
    SY_TRY(create(moe, p, &r));
    SY_TRY(fetch_inputs(moe, p, &in, r));
    r->z = r->in;
    if (moe->layout.M != r->E || ops->score != NULL) {
        SY_TRY(host_doubles(p, r->T * r->E, &r->z));
    }
    if (p->kind == SY_PASS_TRAIN && p->stats != NULL && p->stats->h_router != NULL) {
        r->sum = p->stats->h_router + moe->layer * moe->layout.n_sums;
    }
    if (p->mesh->dev->dry) {
        rehearse(p, r, &ops->forward_cost);
    } else {
        if (ops->score != NULL) {
            ops->score(r);
        }
        ops->choose(r);
    }
    SY_TRY(put(p, r->z, &s->scores.z));
    SY_TRY(put_choices(p, r, &s->choices));
    SY_TRY(put_local(moe, p, r, &s->local));
    SY_TRY(sy_router_scores(p->stream,
                            &(sy_router_scores_args){.z = s->scores.z,
                                                     .p = s->scores.p,
                                                     .lse = s->scores.lse,
                                                     .score = (sy_score)moe->config->score}));
    SY_TRY(sy_capacity_apply(moe->config, moe->layout.share, p, &s->scores, &s->choices));
    s->host = r;
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy__host_route_count(sy_pass *p, const sy_host_route *r, const sy_tensor *count)
{
    return sy_copy_h2d(p->stream, count->data, r->count, sy_tensor_bytes(count));
}

/* ---- backward ---- */

/* out [1] F64 += x. */
static sy_status add_sum(sy_pass *p, const double *x, void *out)
{
    sy_status st = SY_OK;
    sy_tensor one;
    SY_TRY(sy_arena_1d(p->scratch, SY_F64, 1, &one));
    SY_TRY(put(p, x, &one));
    SY_TRY(sy_sum(p->stream,
                  &(sy_sum_args){.x = one, .out = sy_tensor_1d(out, SY_F64, 1), .scale = 1}));
cleanup:
    return st;
}

static sy_status add_sums(const sy__moe *moe, sy_pass *p, const sy_host_route *r)
{
    sy_status st = SY_OK;
    sy_tensor sums = sy_tensor_rows(&p->stats->sums, moe->layer, 1);
    SY_TRY(add_sum(p, &r->loss, (double *)sums.data + SY_SUM_ROUTER));
    SY_TRY(add_sum(p, &r->metric, (double *)sums.data + SY_SUM_METRIC));
cleanup:
    return st;
}

static sy_status add_own_gradient(sy_pass *p, const double *dparam, bool by_id,
                                  const sy_tensor *grad)
{
    sy_status st = SY_OK;
    const int64_t rows = by_id ? p->batch->T : grad->shape[0];
    sy_tensor mine;
    SY_TRY(sy_arena_2d(p->scratch, p->wide, rows, grad->shape[1], &mine));
    SY_TRY(put(p, dparam, &mine));
    if (by_id) {
        SY_TRY(sy_embed_backward(
            p->stream, &(sy_embed_backward_args){.ids = p->batch->ids, .dy = mine, .dw = *grad}));
    } else {
        SY_TRY(sy_add(p->stream, &(sy_add_args){.a = *grad, .b = mine, .y = *grad}));
    }
cleanup:
    return st;
}

static sy_status add_own_gradients(const sy__moe *moe, sy_pass *p, const sy_host_route *r)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < moe->layout.n_params; i++) {
        if (moe->own[i] != NULL && moe->own[i]->grad.data != NULL) {
            SY_TRY(
                add_own_gradient(p, r->dparam[i], moe->layout.param[i].by_id, &moe->own[i]->grad));
        }
    }
cleanup:
    return st;
}

/* Room for what the router's backward adds to. The layer above was here before and left what it
 * has for this one's carry. */
static sy_status make_room(const sy__moe *moe, sy_pass *p, sy_host_route *r)
{
    sy_status st = SY_OK;
    const int64_t n_carry = r->T * moe->layout.n_carry;
    r->din = r->dz;
    if (r->z != r->in) {
        SY_TRY(host_doubles(p, r->T * r->M, &r->din));
    }
    for (int32_t i = 0; i < moe->layout.n_params; i++) {
        const int64_t columns = moe->layout.param[i].shape[1];
        const int64_t rows = moe->layout.param[i].by_id ? r->T : moe->layout.param[i].shape[0];
        if (moe->own[i] != NULL) {
            SY_TRY(host_doubles(p, rows * columns, &r->dparam[i]));
        }
    }
    if (r->dcarry == NULL) {
        SY_TRY(host_doubles(p, n_carry, &r->dcarry));
    }
    if (r->lower != NULL) {
        SY_TRY(host_doubles(p, n_carry, &r->lower->dcarry));
        r->dbelow = r->lower->dcarry;
    }
cleanup:
    return st;
}

sy_status sy__host_route_backward(const sy__moe *moe, sy_pass *p, const sy__moe_saved *s,
                                  const sy_tensor *g, const sy_tensor *dz, const sy__local *dlocal,
                                  sy_tensor *din)
{
    sy_status st = SY_OK;
    const sy_host_router_ops *ops = moe->router->host;
    sy_host_route *r = s->host;
    fetched f = {0};
    SY_TRY(fetch(p, &f, g, &r->g));
    SY_TRY(fetch(p, &f, dz, &r->dz));
    if (dlocal->copy.data != NULL) {
        SY_TRY(fetch(p, &f, &dlocal->copy, &r->dcopy));
    }
    if (dlocal->mix.data != NULL) {
        SY_TRY(fetch(p, &f, &dlocal->mix, &r->dmix));
    }
    SY_TRY(wait_for(p, &f));
    SY_TRY(make_room(moe, p, r));
    if (p->mesh->dev->dry) {
        rehearse(p, r, &ops->backward_cost);
    } else {
        ops->backward(r);
        if (ops->score_backward != NULL) {
            ops->score_backward(r);
        }
    }
    SY_TRY(sy_arena_2d(p->scratch, p->wide, r->T, r->M, din));
    SY_TRY(put(p, r->din, din));
    SY_TRY(add_own_gradients(moe, p, r));
    SY_TRY(add_sums(moe, p, r));
cleanup:
    return st;
}
