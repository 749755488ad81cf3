#include "moe/peer.h"

#include <math.h>
#include <stdio.h>

#include "backend/prices.h"
#include "core/alloc.h"

/* Rows of width H that are gathered, and scores of sub-keys, at a time, in elements. */
enum { CHUNK = 1 << 24 };

typedef struct peer {
    const sy_model_config *config;
    int64_t n, heads, k, d; /* sub-keys of a half, heads, choices of a head, width of a query */
    sy_param *query, *norm, *keys[2], *u, *v;
} peer;

/* R = T heads queries, N = R k choices. */
typedef struct peer_saved {
    sy_tensor raw, q, rstd; /* [T, heads d] twice, before and after the norm; [T, heads] */
    sy_tensor id, key[2];   /* [N] chosen experts and sub-keys */
    sy_tensor token, row, slot, iota; /* [N] token, query and place of a choice, and itself */
    sy_tensor of_token, of_row;       /* [T + 1], [R + 1]: where choices begin */
    sy_tensor g, z;                   /* [R, k] wide: gates; [N, 1] x u */
} peer_saved;

/* ---- parameters ---- */

static sy_status declare(const char *prefix, const char *name, int64_t n0, int64_t n1, double std,
                         sy_params *params, sy_param **out)
{
    const sy_param_spec spec = sy_param_matrix(n0, n1, std, "%s/peer/%s", prefix, name);
    return sy_params_declare(params, &spec, out);
}

/* Scores and x u begin with variance 1. */
static sy_status peer_declare(void *self, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    peer *m = self;
    const sy_model_config *c = m->config;
    const int64_t H = c->hidden, half = m->d / 2;
    const double key_std = 1 / sqrt((double)half), u_std = 1 / sqrt((double)H);
    const sy_param_spec norm = sy_param_vector(m->d, SY_INIT_ONES, "%s/peer/query_norm", prefix);
    SY_TRY(declare(prefix, "query", m->heads * m->d, H, c->init_std, params, &m->query));
    SY_TRY(sy_params_declare(params, &norm, &m->norm));
    SY_TRY(declare(prefix, "keys_0", m->n, half, key_std, params, &m->keys[0]));
    SY_TRY(declare(prefix, "keys_1", m->n, half, key_std, params, &m->keys[1]));
    SY_TRY(declare(prefix, "u", m->n * m->n, H, u_std, params, &m->u));
    SY_TRY(
        declare(prefix, "v", m->n * m->n, H, c->init_std / sqrt(2.0 * c->layers), params, &m->v));
cleanup:
    return st;
}

/* ---- the choice ---- */

static sy_tensor half_of(const peer *m, const sy_tensor *q, int32_t i)
{
    const sy_tensor rows =
        sy_tensor_2d(q->data, q->dtype, q->shape[0] * m->heads, q->shape[1] / m->heads);
    return sy_tensor_cols(&rows, i * m->d / 2, m->d / 2);
}

static sy_tensor column(const sy_tensor *t)
{
    return sy_tensor_1d(t->data, t->dtype, sy_tensor_numel(t));
}

static sy_tensor narrow(const sy_tensor *t)
{
    return sy_tensor_2d(t->data, t->dtype, sy_tensor_numel(t), 1);
}

static sy_tensor row(const sy_tensor *t)
{
    return sy_tensor_2d(t->data, t->dtype, 1, sy_tensor_numel(t));
}

/* What the host has of one half: the k best sub-keys of each query, best first, and their scores.
 */
typedef struct best {
    int32_t *key;  /* [R, k] */
    double *score; /* [R, k] */
    void *raw;
} best;

/* R queries against all sub-keys of a half, into R rows of key and score. */
static sy_status score_some(const peer *m, sy_pass *p, const sy_tensor *queries,
                            const sy_param *keys, const sy_tensor *key, const sy_tensor *score)
{
    sy_status st = SY_OK;
    const int64_t R = queries->shape[0], mark = sy_arena_mark(p->scratch);
    sy_tensor s, row;
    SY_TRY(sy_arena_2d(p->scratch, p->wide, R, m->n, &s));
    SY_TRY(sy_arena_2d(p->scratch, SY_I32, R, m->k, &row));
    SY_TRY(sy_gemm(
        p->stream,
        &(sy_gemm_args){.a = *queries, .b = keys->value, .c = s, .trans_b = true, .alpha = 1}));
    SY_TRY(sy_topk(p->stream, &(sy_topk_args){.p = s, .expert = *key, .token = row}));
    SY_TRY(sy_topk_weigh(
        p->stream, &(sy_topk_weigh_args){.p = s, .expert = *key, .weight = *score, .scale = 1}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status fetch_best(const peer *m, sy_pass *p, const sy_tensor *q, int32_t i, best *b)
{
    sy_status st = SY_OK;
    const int64_t R = q->shape[0] * m->heads, most = CHUNK / m->n;
    const sy_tensor all = half_of(m, q, i);
    sy_tensor key, score;
    SY_TRY(sy_arena_2d(p->scratch, SY_I32, R, m->k, &key));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, R, m->k, &score));
    for (int64_t r = 0; r < R; r += most) {
        const int64_t n = R - r < most ? R - r : most;
        const sy_tensor queries = sy_tensor_rows(&all, r, n);
        const sy_tensor some_keys = sy_tensor_rows(&key, r, n);
        const sy_tensor some_scores = sy_tensor_rows(&score, r, n);
        SY_TRY(score_some(m, p, &queries, m->keys[i], &some_keys, &some_scores));
    }
    SY_TRY(sy_host_arena_alloc(p->host, sy_tensor_bytes(&key), (void **)&b->key));
    SY_TRY(sy_host_arena_alloc(p->host, sy_tensor_bytes(&score), &b->raw));
    SY_TRY(sy_host_arena_alloc(p->host, R * m->k * (int64_t)sizeof(double), (void **)&b->score));
    SY_TRY(sy_copy_d2h(p->stream, b->key, key.data, sy_tensor_bytes(&key)));
    SY_TRY(sy_copy_d2h(p->stream, b->raw, score.data, sy_tensor_bytes(&score)));
cleanup:
    return st;
}

/* The k largest of the k^2 sums of two descending rows: of every a the best b not yet taken is
   looked at. Ties: the lower a. NaN is never larger: places are distinct whatever the scores are.
 */
static void best_sums(const double *s0, const double *s1, int64_t k, int32_t *next, int32_t *place,
                      double *sum)
{
    for (int64_t a = 0; a < k; a++) {
        next[a] = 0;
    }
    for (int64_t j = 0; j < k; j++) {
        int64_t at = -1;
        for (int64_t a = 0; a < k; a++) {
            if (next[a] < k && (at < 0 || s0[a] + s1[next[a]] > s0[at] + s1[next[at]])) {
                at = a;
            }
        }
        sum[j] = s0[at] + s1[next[at]];
        place[j] = (int32_t)(at * k) + next[at]++;
    }
}

/* Index arrays on the host, each with its place on the device. */
enum { ID, KEY_0, KEY_1, TOKEN, ROW, SLOT, IOTA, OF_TOKEN, OF_ROW, N_INDEX };
typedef struct indices {
    int32_t *h[N_INDEX];
    sy_tensor *d[N_INDEX];
} indices;

static sy_status open_indices(sy_pass *p, peer_saved *s, int64_t T, int64_t R, int64_t N,
                              indices *x)
{
    sy_status st = SY_OK;
    sy_tensor *const to[N_INDEX] = {&s->id,   &s->key[0], &s->key[1],   &s->token, &s->row,
                                    &s->slot, &s->iota,   &s->of_token, &s->of_row};
    for (int32_t i = 0; i < N_INDEX; i++) {
        const int64_t n = i == OF_TOKEN ? T + 1 : i == OF_ROW ? R + 1 : N;
        x->d[i] = to[i];
        SY_TRY(sy_arena_1d(p->keep, SY_I32, n, to[i]));
        SY_TRY(sy_host_arena_alloc(p->host, sy_tensor_bytes(to[i]), (void **)&x->h[i]));
    }
cleanup:
    return st;
}

static void fill_indices(const peer *m, const best b[2], int64_t T, indices *x, int32_t *next,
                         int32_t *place, double *sum)
{
    const int64_t k = m->k, R = T * m->heads;
    for (int64_t r = 0; r < R; r++) {
        best_sums(b[0].score + r * k, b[1].score + r * k, k, next, place, sum + r * k);
        for (int64_t j = 0; j < k; j++) {
            const int64_t i = r * k + j;
            x->h[KEY_0][i] = b[0].key[r * k + place[j] / k];
            x->h[KEY_1][i] = b[1].key[r * k + place[j] % k];
            x->h[ID][i] = (int32_t)(x->h[KEY_0][i] * m->n) + x->h[KEY_1][i];
            x->h[TOKEN][i] = (int32_t)(r / m->heads);
            x->h[ROW][i] = (int32_t)r;
            x->h[SLOT][i] = (int32_t)j;
            x->h[IOTA][i] = (int32_t)i;
        }
        x->h[OF_ROW][r + 1] = (int32_t)((r + 1) * k);
    }
    for (int64_t t = 0; t < T; t++) {
        x->h[OF_TOKEN][t + 1] = (int32_t)((t + 1) * m->heads * k);
    }
}

/* The scores of the chosen, then their softmax. */
static sy_status put_gates(const peer *m, sy_pass *p, const double *sum, int64_t R, peer_saved *s)
{
    sy_status st = SY_OK;
    void *raw = NULL;
    sy_tensor score, lse;
    SY_TRY(sy_arena_2d(p->scratch, p->wide, R, m->k, &score));
    SY_TRY(sy_arena_1d(p->scratch, p->wide, R, &lse));
    SY_TRY(sy_arena_2d(p->keep, p->wide, R, m->k, &s->g));
    SY_TRY(sy_host_arena_alloc(p->host, sy_tensor_bytes(&score), &raw));
    sy_convert(p->wide, raw, SY_F64, sum, R * m->k);
    SY_TRY(sy_copy_h2d(p->stream, score.data, raw, sy_tensor_bytes(&score)));
    SY_TRY(sy_router_scores(
        p->stream,
        &(sy_router_scores_args){.z = score, .p = s->g, .lse = lse, .score = SY_SCORE_SOFTMAX}));
cleanup:
    return st;
}

static sy_status choose(const peer *m, sy_pass *p, peer_saved *s)
{
    sy_status st = SY_OK;
    const int64_t T = s->q.shape[0], R = T * m->heads, N = R * m->k;
    int64_t mark = sy_arena_mark(p->scratch);
    best b[2] = {{0}};
    int32_t *next = NULL;
    double *sum = NULL;
    indices x = {0};
    for (int32_t i = 0; i < 2; i++) {
        SY_TRY(fetch_best(m, p, &s->q, i, &b[i]));
    }
    SY_TRY(open_indices(p, s, T, R, N, &x));
    SY_TRY(sy_host_arena_alloc(p->host, 2 * m->k * (int64_t)sizeof *next, (void **)&next));
    SY_TRY(sy_host_arena_alloc(p->host, N * (int64_t)sizeof *sum, (void **)&sum));
    SY_TRY(sy_stream_sync(p->stream));
    if (p->mesh->dev->dry) {
        sy_host_spend(p->mesh->dev, 1e-9 * (double)(N * m->k));
    } else {
        for (int32_t i = 0; i < 2; i++) {
            sy_convert(SY_F64, b[i].score, p->wide, b[i].raw, N);
        }
        fill_indices(m, b, T, &x, next, next + m->k, sum);
    }
    for (int32_t i = 0; i < N_INDEX; i++) {
        SY_TRY(sy_copy_h2d(p->stream, x.d[i]->data, x.h[i], sy_tensor_bytes(x.d[i])));
    }
    SY_TRY(put_gates(m, p, sum, R, s));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* ---- some tokens at a time ---- */

/* Tokens first .. first + T - 1 and their N choices. */
typedef struct chunk {
    int64_t first, T, N;
    sy_tensor id, token, g, z;
} chunk;

static sy_tensor part_of(const sy_tensor *t, int64_t first, int64_t n)
{
    const sy_tensor all = column(t);
    return sy_tensor_rows(&all, first, n);
}

static chunk chunk_at(const peer *m, const peer_saved *s, int64_t first, int64_t T)
{
    const int64_t each = m->heads * m->k, fit = CHUNK / (each * m->config->hidden);
    chunk c = {.first = first, .T = T - first};
    c.T = fit < 1 ? 1 : fit < c.T ? fit : c.T;
    c.N = c.T * each;
    c.id = part_of(&s->id, first * each, c.N);
    c.token = part_of(&s->token, first * each, c.N);
    c.g = part_of(&s->g, first * each, c.N);
    c.z = part_of(&s->z, first * each, c.N);
    return c;
}

static sy_status experts_of(sy_pass *p, const chunk *c, const sy_param *table, sy_tensor *out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, c->N, table->value.shape[1], out));
    SY_TRY(sy_embed(p->stream, &(sy_embed_args){.w = table->value, .ids = c->id, .y = *out}));
cleanup:
    return st;
}

static sy_status tokens_of(sy_pass *p, const chunk *c, const sy_tensor *x, sy_tensor *out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, c->N, x->shape[1], out));
    SY_TRY(sy_gather_rows(p->stream, &(sy_gather_rows_args){.x = *x, .idx = c->token, .y = *out}));
cleanup:
    return st;
}

/* dot [N] wide = <a, b> by rows, and by = w b. */
static sy_status products(sy_pass *p, const sy_tensor *a, const sy_tensor *b, const sy_tensor *w,
                          sy_tensor *by, sy_tensor *dot)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, a->shape[0], a->shape[1], by));
    SY_TRY(sy_arena_1d(p->scratch, p->wide, a->shape[0], dot));
    SY_TRY(sy_gate_backward(p->stream,
                            &(sy_gate_backward_args){
                                .x = *a, .s = *w, .dy = *b, .dx = *by, .ds = *dot, .plain = true}));
cleanup:
    return st;
}

/* y = sum over a token's choices of w rows, in the chunk's rows of y. */
static sy_status sum_up(sy_pass *p, const peer_saved *s, const chunk *c, const sy_tensor *rows,
                        const sy_tensor *w, const sy_tensor *y)
{
    return sy_combine_rows(
        p->stream, &(sy_combine_rows_args){.rows = *rows,
                                           .weight = *w,
                                           .token_start = part_of(&s->of_token, 0, c->T + 1),
                                           .token_row = part_of(&s->iota, 0, c->N),
                                           .y = sy_tensor_rows(y, c->first, c->T)});
}

/* w [N] wide = g gelu(z). */
static sy_status weights(sy_pass *p, const chunk *c, sy_tensor *w)
{
    sy_status st = SY_OK;
    sy_tensor a, ga;
    SY_TRY(sy_arena_1d(p->scratch, p->wide, c->N, w));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, c->N, 1, &a));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, c->N, 1, &ga));
    SY_TRY(sy_activation(
        p->stream, &(sy_activation_args){.x = row(&c->z), .y = row(&a), .act = SY_ACT_GELU_ERF}));
    SY_TRY(sy_gate(p->stream, &(sy_gate_args){.x = a, .s = c->g, .y = ga, .plain = true}));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = column(&ga), .y = *w}));
cleanup:
    return st;
}

/* ---- forward ---- */

static sy_status query_forward(const peer *m, sy_pass *p, sy_arena *arena, const sy_tensor *x,
                               peer_saved *s)
{
    sy_status st = SY_OK;
    const int64_t T = x->shape[0];
    SY_TRY(sy_arena_2d(arena, p->compute, T, m->heads * m->d, &s->raw));
    SY_TRY(sy_arena_2d(arena, p->compute, T, m->heads * m->d, &s->q));
    SY_TRY(sy_arena_2d(arena, p->wide, T, m->heads, &s->rstd));
    SY_TRY(sy_linear_forward(p, x, &m->query->value, &s->raw));
    SY_TRY(sy_rmsnorm(p->stream, &(sy_rmsnorm_args){.x = sy_tensor_heads(&s->raw, m->heads),
                                                    .w = m->norm->value,
                                                    .y = sy_tensor_heads(&s->q, m->heads),
                                                    .rstd = s->rstd,
                                                    .eps = m->config->norm_eps}));
cleanup:
    return st;
}

static sy_status chunk_forward(const peer *m, sy_pass *p, const peer_saved *s, const chunk *c,
                               const sy_tensor *x, const sy_tensor *y)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor u, v, xs, unused, z, w;
    SY_TRY(experts_of(p, c, m->u, &u));
    SY_TRY(tokens_of(p, c, x, &xs));
    SY_TRY(products(p, &u, &xs, &c->g, &unused, &z));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = z, .y = c->z}));
    SY_TRY(weights(p, c, &w));
    SY_TRY(experts_of(p, c, m->v, &v));
    SY_TRY(sum_up(p, s, c, &v, &w, y));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status peer_forward(void *self, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                              void **saved)
{
    sy_status st = SY_OK;
    const peer *m = self;
    const int64_t T = x->shape[0];
    int64_t mark = sy_arena_mark(p->scratch);
    sy_arena *arena = saved != NULL ? p->saved : p->scratch;
    peer_saved *s = saved != NULL ? *saved : NULL;
    const bool anew = s == NULL;
    if (anew) {
        SY_TRY(sy_host_arena_alloc(p->host, sizeof *s, (void **)&s));
    }
    SY_TRY(query_forward(m, p, arena, x, s));
    if (anew) { /* a second forward keeps what the first one chose */
        SY_TRY(choose(m, p, s));
    }
    SY_TRY(sy_arena_2d(arena, p->compute, T * m->heads * m->k, 1, &s->z));
    for (int64_t t = 0; t < T;) {
        const chunk c = chunk_at(m, s, t, T);
        SY_TRY(chunk_forward(m, p, s, &c, x, y));
        t += c.T;
    }
    if (saved != NULL) {
        *saved = s;
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* ---- backward ---- */

/* Rows of dy to the chosen rows of a table. Not where it is frozen. */
static sy_status scatter(sy_pass *p, const sy_tensor *ids, const sy_tensor *dy,
                         const sy_param *table)
{
    if (table->grad.data == NULL) {
        return SY_OK;
    }
    return sy_embed_backward(p->stream,
                             &(sy_embed_backward_args){.ids = *ids, .dy = *dy, .dw = table->grad});
}

/* dv, and from <dy, v>: the gates' dg and the hidden dz, [N] wide. */
static sy_status outer_backward(const peer *m, sy_pass *p, const chunk *c, const sy_tensor *dy,
                                const sy_tensor *dg, const sy_tensor *dz)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor v, dys, w, dv, dw, da, dh;
    SY_TRY(weights(p, c, &w));
    SY_TRY(experts_of(p, c, m->v, &v));
    SY_TRY(tokens_of(p, c, dy, &dys));
    SY_TRY(products(p, &v, &dys, &w, &dv, &dw));
    SY_TRY(scatter(p, &c->id, &dv, m->v));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, c->N, 1, &da));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, c->N, 1, &dh));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = dw, .y = column(&da)}));
    SY_TRY(
        sy_activation_backward(p->stream, &(sy_activation_backward_args){.x = narrow(&c->z),
                                                                         .dy = da,
                                                                         .weight = c->g,
                                                                         .dx = dh,
                                                                         .dot = *dg,
                                                                         .act = SY_ACT_GELU_ERF}));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = column(&dh), .y = *dz}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status chunk_backward(const peer *m, sy_pass *p, const peer_saved *s, const chunk *c,
                                const sy_tensor *x, const sy_tensor *dy, const sy_tensor *dx,
                                const sy_tensor *dg)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor u, xs, du, dz;
    const sy_tensor mine = part_of(dg, c->first * m->heads * m->k, c->N);
    SY_TRY(sy_arena_1d(p->scratch, p->wide, c->N, &dz));
    SY_TRY(outer_backward(m, p, c, dy, &mine, &dz));
    SY_TRY(tokens_of(p, c, x, &xs));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, c->N, x->shape[1], &du));
    SY_TRY(sy_gate(p->stream, &(sy_gate_args){.x = xs, .s = dz, .y = du, .plain = true}));
    SY_TRY(scatter(p, &c->id, &du, m->u));
    if (dx->data != NULL) {
        SY_TRY(experts_of(p, c, m->u, &u));
        SY_TRY(sum_up(p, s, c, &u, &dz, dx));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* Of one half: its sub-keys' gradient, and its columns of dq, from ds [N] wide. */
static sy_status half_backward(const peer *m, sy_pass *p, const peer_saved *s, int32_t i,
                               const sy_tensor *ds, const sy_tensor *dq)
{
    sy_status st = SY_OK;
    const int64_t N = ds->shape[0], half = m->d / 2;
    int64_t mark = sy_arena_mark(p->scratch);
    const sy_tensor q = half_of(m, &s->q, i), to = half_of(m, dq, i);
    sy_tensor qs, dkey, keys, mine;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, N, half, &qs));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, N, half, &dkey));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, N, half, &keys));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, q.shape[0], half, &mine));
    SY_TRY(sy_gather_rows(p->stream, &(sy_gather_rows_args){.x = q, .idx = s->row, .y = qs}));
    SY_TRY(sy_gate(p->stream, &(sy_gate_args){.x = qs, .s = *ds, .y = dkey, .plain = true}));
    SY_TRY(scatter(p, &s->key[i], &dkey, m->keys[i]));
    SY_TRY(
        sy_embed(p->stream, &(sy_embed_args){.w = m->keys[i]->value, .ids = s->key[i], .y = keys}));
    SY_TRY(sy_combine_rows(p->stream, &(sy_combine_rows_args){.rows = keys,
                                                              .weight = *ds,
                                                              .token_start = s->of_row,
                                                              .token_row = s->iota,
                                                              .y = mine}));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = mine, .y = to}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* Through softmax, sub-keys, norm and projection; dx += . */
static sy_status query_backward(const peer *m, sy_pass *p, const peer_saved *s, const sy_tensor *dg,
                                const sy_tensor *x, sy_tensor *dx)
{
    sy_status st = SY_OK;
    const int64_t T = x->shape[0], R = T * m->heads;
    sy_tensor ds, dq;
    SY_TRY(sy_arena_2d(p->scratch, p->wide, R, m->k, &ds));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, m->heads * m->d, &dq));
    SY_TRY(sy_topk_backward(
        p->stream, &(sy_topk_backward_args){.p = s->g,
                                            .expert = sy_tensor_2d(s->slot.data, SY_I32, R, m->k),
                                            .g = *dg,
                                            .dz = ds,
                                            .score = SY_SCORE_SOFTMAX,
                                            .scale = 1}));
    for (int32_t i = 0; i < 2; i++) {
        const sy_tensor flat = column(&ds);
        SY_TRY(half_backward(m, p, s, i, &flat, &dq));
    }
    SY_TRY(sy_rmsnorm_backward(p->stream,
                               &(sy_rmsnorm_backward_args){.x = sy_tensor_heads(&s->raw, m->heads),
                                                           .w = m->norm->value,
                                                           .rstd = s->rstd,
                                                           .dy = sy_tensor_heads(&dq, m->heads),
                                                           .dx = sy_tensor_heads(&dq, m->heads),
                                                           .dw = m->norm->grad}));
    SY_TRY(sy_linear_wgrad(p, &dq, x, &m->query->grad));
    if (dx->data != NULL) {
        SY_TRY(sy_linear_dgrad(p, &dq, &m->query->value, dx, 1));
    }
cleanup:
    return st;
}

static sy_status peer_backward(void *self, sy_pass *p, void *saved, const sy_tensor *x,
                               const sy_tensor *dy, sy_tensor *dx)
{
    sy_status st = SY_OK;
    const peer *m = self;
    const peer_saved *s = saved;
    const int64_t T = x->shape[0];
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor dg;
    SY_TRY(sy_arena_2d(p->scratch, p->wide, T * m->heads, m->k, &dg));
    for (int64_t t = 0; t < T;) {
        const chunk c = chunk_at(m, s, t, T);
        SY_TRY(chunk_backward(m, p, s, &c, x, dy, dx, &dg));
        t += c.T;
    }
    SY_TRY(query_backward(m, p, s, &dg, x, dx));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static void peer_destroy(void *self)
{
    peer *m = self;
    sy_free(&m);
}

static const sy_sublayer_ops peer_ops = {
    .name = "peer",
    .declare = peer_declare,
    .forward = peer_forward,
    .backward = peer_backward,
    .destroy = peer_destroy,
};

sy_status sy_peer_create(const sy_model_config *config, sy_sublayer *out)
{
    sy_status st = SY_OK;
    peer *m = NULL;
    SY_TRY(sy_alloc(1, sizeof *m, (void **)&m));
    *m = (peer){.config = config,
                .n = config->peer_keys,
                .heads = config->peer_heads,
                .k = config->peer_top_k,
                .d = config->peer_query};
    *out = (sy_sublayer){&peer_ops, m};
cleanup:
    return st;
}

int64_t sy_peer_active_params(const sy_model_config *config)
{
    const int64_t H = config->hidden, heads = config->peer_heads, d = config->peer_query;
    return heads * (d * H + d * config->peer_keys + 2 * H * config->peer_top_k);
}
