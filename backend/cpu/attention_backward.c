/* Attention backward, recomputing the scores tile by tile (Dao et al. 2022, algorithm 4). Tiles of
   keys give dk and dv, tiles of rows give dq: the scores are computed twice, and in return nothing
   is added up across threads. */
#include "backend/cpu/attention_impl.h"

#include <omp.h>

#include "backend/cpu/vmath_impl.h"

enum { N_TILES = 8 };

/* Scratch of a thread: tiles [64, width] or, transposed, [width, 64], two squares, and two numbers
 * per row. */
typedef struct scratch {
    float *tile[N_TILES], *s, *ds;
    float lse[SY_ATTN_TILE], delta[SY_ATTN_TILE];
} scratch;

/* One (sequence, key/value head). */
typedef struct unit {
    sy__heads q, o, dout, dq, k, v, dk, dv;
    const int32_t *doc;
    const float *lse;
    int64_t n_rows, n_keys, group, N_h, width, width_v;
    float scale;
} unit;

static int64_t scratch_bytes(int64_t width)
{
    return (N_TILES * SY_ATTN_TILE * width + 2 * SY_ATTN_SQUARE) * (int64_t)sizeof(float);
}

static void scratch_set(scratch *x, char *base, int64_t width)
{
    float *at = (float *)base;
    for (int i = 0; i < N_TILES; i++, at += SY_ATTN_TILE * width) {
        x->tile[i] = at;
    }
    x->s = at;
    x->ds = at + SY_ATTN_SQUARE;
}

static unit unit_of(const sy_attention_backward_args *args, int64_t i)
{
    const int64_t N_h = args->q.shape[1], N_kv = args->k.shape[1], group = N_h / N_kv;
    const int64_t S = args->q.shape[0] / args->B, token = i / N_kv * S, kv = i % N_kv;
    return (unit){.q = sy__heads_at(&args->q, token, kv * group, group),
                  .o = sy__heads_at(&args->o, token, kv * group, group),
                  .dout = sy__heads_at(&args->dout, token, kv * group, group),
                  .dq = sy__heads_at(&args->dq, token, kv * group, group),
                  .k = sy__heads_at(&args->k, token, kv, 1),
                  .v = sy__heads_at(&args->v, token, kv, 1),
                  .dk = sy__heads_at(&args->dk, token, kv, 1),
                  .dv = sy__heads_at(&args->dv, token, kv, 1),
                  .doc = args->doc.data ? (const int32_t *)args->doc.data + token : NULL,
                  .lse = (const float *)args->lse.data + token * N_h + kv * group,
                  .n_rows = S * group,
                  .n_keys = S,
                  .group = group,
                  .N_h = N_h,
                  .width = sy__attn_width(args->q.shape[2]),
                  .width_v = sy__attn_width(args->v.shape[2]),
                  .scale = (float)args->scale};
}

static sy__places rows_from(const unit *u, int64_t first)
{
    sy__places p;
    sy__places_set(&p, first, sy__cpu_min(SY_ATTN_TILE, u->n_rows - first), u->group, 0, u->doc);
    return p;
}

static sy__places keys_from(const unit *u, int64_t first)
{
    sy__places p;
    sy__places_set(&p, first, sy__cpu_min(SY_ATTN_TILE, u->n_keys - first), 1, 0, u->doc);
    return p;
}

SY_CPU_CLONES static void dot_rows(float *out, const float *a, const float *b, int64_t width)
{
    for (int64_t i = 0; i < SY_ATTN_TILE; i++) {
        float lane[SY_CPU_LANES] = {0};
        for (int64_t d = 0; d < width; d += SY_CPU_LANES) {
            for (int l = 0; l < SY_CPU_LANES; l++) {
                lane[l] += a[i * width + d + l] * b[i * width + d + l];
            }
        }
        out[i] = sy__fold(lane);
    }
}

/* q (scaled), dout, log-sum-exp and delta = <dout, o> of a tile of rows; `o` is a spare tile. */
static void load_rows(const unit *u, scratch *x, const sy__places *rows, float *q, float *dout,
                      float *o)
{
    sy__attn_load(q, &u->q, rows->first, rows->n, u->scale);
    sy__attn_load(dout, &u->dout, rows->first, rows->n, 1.0F);
    sy__attn_load(o, &u->o, rows->first, rows->n, 1.0F);
    dot_rows(x->delta, dout, o, u->width_v);
    for (int64_t i = 0; i < SY_ATTN_TILE; i++) {
        const int64_t r = rows->first + i;
        x->lse[i] = i < rows->n ? u->lse[r / u->group * u->N_h + r % u->group] : 0.0F;
    }
}

/* s: scores become probabilities p; ds: <dout, v> becomes p (<dout, v> - delta). Rows down, keys
 * across. */
SY_CPU_CLONES static void differentiate(scratch *x, const sy__places *rows, const sy__places *keys)
{
    for (int i = 0; i < SY_ATTN_TILE; i++) {
        float *s = x->s + i * SY_ATTN_TILE, *ds = x->ds + i * SY_ATTN_TILE;
        const int32_t pos = rows->pos[i], doc = rows->doc[i];
        const float lse = x->lse[i], delta = x->delta[i];
        for (int j = 0; j < SY_ATTN_TILE; j++) {
            const int seen = (keys->pos[j] >= 0) & (keys->pos[j] <= pos) & (keys->doc[j] == doc);
            const float p = sy__exp(s[j] - lse);
            s[j] = seen ? p : 0.0F;
            ds[j] = s[j] * (ds[j] - delta);
        }
    }
}

/* The same with keys down and rows across. */
SY_CPU_CLONES static void differentiate_trans(scratch *x, const sy__places *rows,
                                              const sy__places *keys)
{
    for (int j = 0; j < SY_ATTN_TILE; j++) {
        float *s = x->s + j * SY_ATTN_TILE, *ds = x->ds + j * SY_ATTN_TILE;
        const int32_t pos = keys->pos[j], doc = keys->doc[j];
        for (int i = 0; i < SY_ATTN_TILE; i++) {
            const int seen = (pos >= 0) & (pos <= rows->pos[i]) & (doc == rows->doc[i]);
            const float p = sy__exp(s[i] - x->lse[i]);
            s[i] = seen ? p : 0.0F;
            ds[i] = s[i] * (ds[i] - x->delta[i]);
        }
    }
}

/* dk and dv of a tile of keys, from all rows that may see it. */
static void run_keys(const unit *u, scratch *x, int64_t first)
{
    enum { T = SY_ATTN_TILE };
    float *k = x->tile[0], *v = x->tile[1], *dk = x->tile[2], *dv = x->tile[3];
    float *q = x->tile[4], *dout = x->tile[5], *q_trans = x->tile[6], *dout_trans = x->tile[7];
    const sy__places keys = keys_from(u, first);
    const int64_t w = u->width, w_v = u->width_v;
    sy__attn_load(k, &u->k, first, keys.n, 1.0F);
    sy__attn_load(v, &u->v, first, keys.n, 1.0F);
    memset(dk, 0, (size_t)(T * w) * sizeof *dk);
    memset(dv, 0, (size_t)(T * w_v) * sizeof *dv);
    for (int64_t row = first * u->group / T * T; row < u->n_rows; row += T) {
        const sy__places rows = rows_from(u, row);
        if (!sy__places_meet(&rows, &keys)) {
            continue;
        }
        load_rows(u, x, &rows, q, dout, q_trans);
        sy__attn_transpose(q_trans, q, w);
        sy__attn_transpose(dout_trans, dout, w_v);
        sy__attn_product(x->s, k, w, q_trans, T, T, w, false);
        sy__attn_product(x->ds, v, w_v, dout_trans, T, T, w_v, false);
        differentiate_trans(x, &rows, &keys);
        sy__attn_product(dv, x->s, T, dout, T, w_v, T, true);
        sy__attn_product(dk, x->ds, T, q, T, w, T, true);
    }
    sy__attn_store(&u->dk, first, keys.n, dk, 1.0F); /* q came scaled */
    sy__attn_store(&u->dv, first, keys.n, dv, 1.0F);
}

/* dq of a tile of rows, from all keys that it may see. */
static void run_rows(const unit *u, scratch *x, int64_t first)
{
    enum { T = SY_ATTN_TILE };
    float *q = x->tile[0], *dout = x->tile[1], *dq = x->tile[2];
    float *k = x->tile[3], *v = x->tile[4], *k_trans = x->tile[5], *v_trans = x->tile[6];
    const sy__places rows = rows_from(u, first);
    const int64_t w = u->width, w_v = u->width_v;
    load_rows(u, x, &rows, q, dout, k);
    memset(dq, 0, (size_t)(T * w) * sizeof *dq);
    for (int64_t key = 0; key < u->n_keys && key <= rows.last_pos; key += T) {
        const sy__places keys = keys_from(u, key);
        if (!sy__places_meet(&rows, &keys)) {
            continue;
        }
        sy__attn_load(k, &u->k, key, keys.n, 1.0F);
        sy__attn_load(v, &u->v, key, keys.n, 1.0F);
        sy__attn_transpose(k_trans, k, w);
        sy__attn_transpose(v_trans, v, w_v);
        sy__attn_product(x->s, q, w, k_trans, T, T, w, false);
        sy__attn_product(x->ds, dout, w_v, v_trans, T, T, w_v, false);
        differentiate(x, &rows, &keys);
        sy__attn_product(dq, x->ds, T, k, T, w, T, true);
    }
    sy__attn_store(&u->dq, first, rows.n, dq, u->scale);
}

sy_status sy__cpu_attention_backward(sy_stream *stream, const sy_attention_backward_args *args)
{
    if (sy_tensor_numel(&args->q) == 0) {
        return SY_OK;
    }
    const int64_t width = sy__attn_room(&args->q, &args->v);
    const int64_t bytes = scratch_bytes(width);
    const int64_t n_units = args->B * args->k.shape[1];
    const unit any = unit_of(args, 0);
    const int64_t key_tiles = sy__cpu_blocks(any.n_keys, SY_ATTN_TILE);
    const int64_t row_tiles = sy__cpu_blocks(any.n_rows, SY_ATTN_TILE);
    char *workspace = sy_stream_workspace(stream);
    const int n_threads = sy__attn_threads(stream, bytes, (key_tiles + row_tiles) * n_units);
#pragma omp parallel num_threads(n_threads)
    {
        scratch x;
        scratch_set(&x, workspace + omp_get_thread_num() * bytes, width);
        /* A tile of keys is the larger piece, the first one the largest. */
#pragma omp for schedule(dynamic) nowait
        for (int64_t i = 0; i < (key_tiles + row_tiles) * n_units; i++) {
            const unit u = unit_of(args, i % n_units);
            const int64_t tile = i / n_units;
            if (tile < key_tiles) {
                run_keys(&u, &x, tile * SY_ATTN_TILE);
            } else {
                run_rows(&u, &x, (tile - key_tiles) * SY_ATTN_TILE);
            }
        }
    }
    return SY_OK;
}
