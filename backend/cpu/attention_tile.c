/* Tiles of attention: loading, storing, and a register-blocked product that the compiler
 * vectorises. */
#include "backend/cpu/attention_impl.h"
#include "backend/cpu/pack_impl.h"

enum { LANES = 16, ROWS = 4, COLS = 2 * LANES };

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

sy__heads sy__heads_at(const sy_tensor *t, int64_t token, int64_t head, int64_t group)
{
    const int64_t at = token * t->stride[0] + head * t->stride[1];
    return (sy__heads){.data = (char *)t->data + at * (int64_t)sy_dtype_bytes(t->dtype),
                       .dtype = t->dtype,
                       .token_stride = t->stride[0],
                       .head_stride = t->stride[1],
                       .group = group,
                       .D = t->shape[2]};
}

static void *row_at(const sy__heads *h, int64_t r)
{
    const int64_t at = r / h->group * h->token_stride + r % h->group * h->head_stride;
    return h->data + at * (int64_t)sy_dtype_bytes(h->dtype);
}

void sy__places_set(sy__places *p, int64_t first, int64_t n, int64_t group, int64_t start,
                    const int32_t *doc)
{
    *p = (sy__places){.first = first, .n = n, .min_doc = INT32_MAX, .max_doc = INT32_MIN};
    for (int64_t i = 0; i < SY_ATTN_TILE; i++) {
        const int64_t token = (first + i) / group;
        p->pos[i] = i < n ? (int32_t)(start + token) : -1;
        p->doc[i] = i < n && doc ? doc[token] : 0;
        p->min_doc = i < n && p->doc[i] < p->min_doc ? p->doc[i] : p->min_doc;
        p->max_doc = i < n && p->doc[i] > p->max_doc ? p->doc[i] : p->max_doc;
    }
    p->last_pos = n > 0 ? p->pos[n - 1] : -1;
}

bool sy__places_meet(const sy__places *rows, const sy__places *keys)
{
    return rows->n > 0 && keys->n > 0 && rows->last_pos >= keys->pos[0] &&
           rows->max_doc >= keys->min_doc && rows->min_doc <= keys->max_doc;
}

int64_t sy__attn_width(int64_t D)
{
    return sy__cpu_blocks(D, COLS) * COLS;
}

int64_t sy__attn_room(const sy_tensor *q, const sy_tensor *v)
{
    return sy__attn_width(q->shape[2] > v->shape[2] ? q->shape[2] : v->shape[2]);
}

SY_CPU_CLONES void sy__attn_load(float *dst, const sy__heads *heads, int64_t first, int64_t n,
                                 float scale)
{
    const int64_t D = heads->D, width = sy__attn_width(D);
    for (int64_t i = 0; i < SY_ATTN_TILE; i++) {
        float *to = dst + i * width;
        const void *from = i < n ? row_at(heads, first + i) : NULL;
        int64_t filled = i < n ? D : 0;
        if (i < n && heads->dtype == SY_F32) {
#pragma GCC ivdep
            for (int64_t d = 0; d < D; d++) {
                to[d] = scale * ((const float *)from)[d];
            }
        } else if (i < n) {
#pragma GCC ivdep
            for (int64_t d = 0; d < D; d++) {
                to[d] = scale * sy_bf16_to_f32(((const sy_bf16 *)from)[d]);
            }
        }
        for (; filled < width; filled++) {
            to[filled] = 0;
        }
    }
}

SY_CPU_CLONES void sy__attn_store(const sy__heads *heads, int64_t first, int64_t n,
                                  const float *src, float scale)
{
    const int64_t D = heads->D, width = sy__attn_width(D);
    for (int64_t i = 0; i < n; i++) {
        const float *from = src + i * width;
        void *to = row_at(heads, first + i);
        if (heads->dtype == SY_F32) {
#pragma GCC ivdep
            for (int64_t d = 0; d < D; d++) {
                ((float *)to)[d] = scale * from[d];
            }
        } else {
#pragma GCC ivdep
            for (int64_t d = 0; d < D; d++) {
                ((sy_bf16 *)to)[d] = sy_bf16_from_f32(scale * from[d]);
            }
        }
    }
}

void sy__attn_transpose(float *dst, const float *src, int64_t width)
{
    const sy__part part = {.src = src,
                           .dtype = SY_F32,
                           .ld = width,
                           .rows = width,
                           .cols = SY_ATTN_TILE,
                           .trans = true};
    sy__pack_rows(SY_F32, dst, &part, width, SY_ATTN_TILE);
}

SY_CPU_CLONES void sy__attn_product(float *c, const float *a, int64_t lda, const float *b,
                                    int64_t m, int64_t n, int64_t k, bool add)
{
    for (int64_t col = 0; col < n; col += COLS) {
        for (int64_t row = 0; row < m; row += ROWS) {
            float *to = c + row * n + col;
            const float *from = a + row * lda, *with = b + col;
            lanes sum[ROWS][2];
            for (int r = 0; r < ROWS; r++) {
                const lanes zero = {0};
                sum[r][0] = add ? *(const lanes *)(to + r * n) : zero;
                sum[r][1] = add ? *(const lanes *)(to + r * n + LANES) : zero;
            }
            for (int64_t i = 0; i < k; i++, with += n) {
                const lanes left = *(const lanes *)with, right = *(const lanes *)(with + LANES);
                for (int r = 0; r < ROWS; r++) {
                    sum[r][0] += from[r * lda + i] * left;
                    sum[r][1] += from[r * lda + i] * right;
                }
            }
            for (int r = 0; r < ROWS; r++) {
                *(lanes *)(to + r * n) = sum[r][0];
                *(lanes *)(to + r * n + LANES) = sum[r][1];
            }
        }
    }
}

int sy__attn_threads(const sy_stream *stream, int64_t bytes, int64_t n_pieces)
{
    const int64_t room = SY_WORKSPACE_BYTES / bytes;
    return (int)sy__cpu_min(sy__cpu_threads(stream), sy__cpu_min(room, n_pieces));
}
