/* Attention forward: a thread takes a tile of rows, meets the tiles of keys in order and keeps a
   running maximum and sum per row, so that no matrix of scores exists (Dao et al. 2022, algorithm
   1). */
#include "backend/cpu/attention_impl.h"

#include <math.h>
#include <omp.h>

#include "backend/cpu/vmath_impl.h"

/* Scratch of a thread; tiles are [64, width] or, transposed, [width, 64], with room for the wider
   of keys and values. */
typedef struct scratch {
    float *q, *k, *k_trans, *v, *o, *s;
    float max[SY_ATTN_TILE], sum[SY_ATTN_TILE];
} scratch;

static int64_t scratch_bytes(int64_t width)
{
    return (5 * SY_ATTN_TILE * width + SY_ATTN_SQUARE) * (int64_t)sizeof(float);
}

static void scratch_set(scratch *x, char *base, int64_t width)
{
    float **const tiles[] = {&x->q, &x->k, &x->k_trans, &x->v, &x->o};
    float *at = (float *)base;
    for (int i = 0; i < 5; i++, at += SY_ATTN_TILE * width) {
        *tiles[i] = at;
    }
    x->s = at;
}

/* Scores of one row become exp(score - max); the row's running values and output follow. */
__attribute__((always_inline)) static inline void update_row(float *s, float *o, int64_t width,
                                                             const sy__places *keys, int32_t pos,
                                                             int32_t doc, float *max, float *sum)
{
    float lane[SY_CPU_LANES];
    for (int j = 0; j < SY_ATTN_TILE; j++) {
        const int seen = (keys->pos[j] >= 0) & (keys->pos[j] <= pos) & (keys->doc[j] == doc);
        s[j] = seen ? s[j] : -INFINITY;
    }
    for (int l = 0; l < SY_CPU_LANES; l++) {
        lane[l] = s[l] > s[l + SY_CPU_LANES] ? s[l] : s[l + SY_CPU_LANES];
    }
    for (int half = SY_CPU_LANES / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) {
            lane[l] = lane[l] > lane[l + half] ? lane[l] : lane[l + half];
        }
    }
    const float new_max = lane[0] > *max ? lane[0] : *max;
    const float shift = new_max == -INFINITY ? 0.0F : new_max; /* nothing seen yet: all exp are 0 */
    const float keep = sy__exp(*max - shift);
    for (int j = 0; j < SY_ATTN_TILE; j++) {
        s[j] = sy__exp(s[j] - shift);
    }
    for (int l = 0; l < SY_CPU_LANES; l++) {
        lane[l] = s[l] + s[l + SY_CPU_LANES];
    }
    *sum = *sum * keep + sy__fold(lane);
    *max = new_max;
#pragma GCC ivdep
    for (int64_t d = 0; d < width; d++) {
        o[d] *= keep;
    }
}

SY_CPU_CLONES static void update_rows(scratch *x, int64_t width, const sy__places *rows,
                                      const sy__places *keys)
{
    for (int64_t i = 0; i < rows->n; i++) {
        update_row(x->s + i * SY_ATTN_TILE, x->o + i * width, width, keys, rows->pos[i],
                   rows->doc[i], &x->max[i], &x->sum[i]);
    }
}

/* A tile of rows of unit (b, kv): against all keys it may see. */
static void attend(const sy_attention_args *args, scratch *x, int64_t b, int64_t kv,
                   const sy__places *rows, int64_t Skv)
{
    const int64_t width = sy__attn_width(args->q.shape[2]);
    const int64_t width_v = sy__attn_width(args->v.shape[2]);
    const int64_t m = sy__cpu_blocks(rows->n, 4) * 4;
    const int32_t *doc = args->doc.data ? (const int32_t *)args->doc.data + b * Skv : NULL;
    const sy__heads k = sy__heads_at(&args->k, b * Skv, kv, 1);
    const sy__heads v = sy__heads_at(&args->v, b * Skv, kv, 1);
    memset(x->s, 0, SY_ATTN_SQUARE * sizeof *x->s);
    memset(x->o, 0, (size_t)(SY_ATTN_TILE * width_v) * sizeof *x->o);
    for (int64_t i = 0; i < SY_ATTN_TILE; i++) {
        x->max[i] = -INFINITY;
        x->sum[i] = 0;
    }
    for (int64_t j = 0; j < Skv && j <= rows->last_pos; j += SY_ATTN_TILE) {
        sy__places keys;
        sy__places_set(&keys, j, sy__cpu_min(SY_ATTN_TILE, Skv - j), 1, 0, doc);
        if (sy__places_meet(rows, &keys)) {
            sy__attn_load(x->k, &k, j, keys.n, 1.0F);
            sy__attn_load(x->v, &v, j, keys.n, 1.0F);
            sy__attn_transpose(x->k_trans, x->k, width);
            sy__attn_product(x->s, x->q, width, x->k_trans, m, SY_ATTN_TILE, width, false);
            update_rows(x, width_v, rows, &keys);
            sy__attn_product(x->o, x->s, SY_ATTN_TILE, x->v, m, width_v, keys.n, true);
        }
    }
}

/* Divide by the sums, and write the tile and its log-sum-exp. A row that saw no key gives 0 and
 * -infinity. */
static void finish(const sy_attention_args *args, scratch *x, const sy__heads *o, int64_t token,
                   int64_t head, const sy__places *rows)
{
    const int64_t N_h = args->q.shape[1], width = sy__attn_width(args->v.shape[2]);
    float *lse = args->lse.data;
    for (int64_t i = 0; i < rows->n; i++) {
        const int64_t r = rows->first + i;
        const float inverse = x->sum[i] > 0 ? 1.0F / x->sum[i] : x->sum[i];
        lse[(token + r / o->group) * N_h + head + r % o->group] = x->max[i] + logf(x->sum[i]);
        for (int64_t d = 0; d < width; d++) {
            x->o[i * width + d] *= inverse;
        }
    }
    sy__attn_store(o, rows->first, rows->n, x->o, 1.0F);
}

static void run_tile(const sy_attention_args *args, scratch *x, int64_t unit, int64_t tile)
{
    const int64_t N_kv = args->k.shape[1], group = args->q.shape[1] / N_kv;
    const int64_t Sq = args->q.shape[0] / args->B, Skv = args->k.shape[0] / args->B;
    const int64_t b = unit / N_kv, kv = unit % N_kv, first = tile * SY_ATTN_TILE;
    const int32_t *doc = args->doc.data ? (const int32_t *)args->doc.data + b * Sq : NULL;
    const int64_t start = args->q_start.data ? ((const int32_t *)args->q_start.data)[b] : 0;
    const sy__heads q = sy__heads_at(&args->q, b * Sq, kv * group, group);
    const sy__heads o = sy__heads_at(&args->o, b * Sq, kv * group, group);
    sy__places rows;
    sy__places_set(&rows, first, sy__cpu_min(SY_ATTN_TILE, Sq * group - first), group, start, doc);
    sy__attn_load(x->q, &q, first, rows.n, (float)args->scale);
    attend(args, x, b, kv, &rows, Skv);
    finish(args, x, &o, b * Sq, kv * group, &rows);
}

sy_status sy__cpu_attention(sy_stream *stream, const sy_attention_args *args)
{
    if (sy_tensor_numel(&args->q) == 0) {
        return SY_OK;
    }
    const int64_t width = sy__attn_room(&args->q, &args->v);
    const int64_t bytes = scratch_bytes(width);
    const int64_t n_units = args->B * args->k.shape[1];
    const int64_t n_rows = args->q.shape[0] / args->B * (args->q.shape[1] / args->k.shape[1]);
    const int64_t n_tiles = sy__cpu_blocks(n_rows, SY_ATTN_TILE);
    char *workspace = sy_stream_workspace(stream);
    const int n_threads = sy__attn_threads(stream, bytes, n_tiles * n_units);
#pragma omp parallel num_threads(n_threads)
    {
        scratch x;
        scratch_set(&x, workspace + omp_get_thread_num() * bytes, width);
        /* The last tiles see most keys: they go first. */
#pragma omp for schedule(dynamic) nowait
        for (int64_t i = n_tiles * n_units - 1; i >= 0; i--) {
            run_tile(args, &x, i % n_units, i / n_units);
        }
    }
    return SY_OK;
}
