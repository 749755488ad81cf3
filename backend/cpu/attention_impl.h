/* What both directions of attention share. A (sequence, key/value head) pair is the unit: its
   "rows" are the (query, head) pairs that read the head, row r being query r / group and head r %
   group of the group; so a single decoded token still fills a tile. All arithmetic is fp32 on tiles
   of 64 rows and 64 keys, whose borders depend on positions alone. */
#ifndef SY_BACKEND_CPU_ATTENTION_IMPL_H
#define SY_BACKEND_CPU_ATTENTION_IMPL_H

#include "backend/cpu/cpu_impl.h"

enum { SY_ATTN_TILE = 64, SY_ATTN_SQUARE = SY_ATTN_TILE * SY_ATTN_TILE };

/* Rows of a [T, N, D] tensor that belong to one unit. */
typedef struct sy__heads {
    char *data;
    sy_dtype dtype;
    int64_t token_stride, head_stride, group, D;
} sy__heads;

/* From token `token` and head `head` on, `group` heads per token. */
sy__heads sy__heads_at(const sy_tensor *t, int64_t token, int64_t head, int64_t group);

/* Who may see whom: up to 64 rows or keys. Behind n: position -1, which sees nothing. */
typedef struct sy__places {
    int64_t first, n;
    int32_t pos[SY_ATTN_TILE], doc[SY_ATTN_TILE];
    int32_t min_doc, max_doc, last_pos;
} sy__places;

/* Rows or keys first .. first+n-1 of a sequence that starts at position start, group of them per
 * token. doc: of the sequence, or NULL. */
void sy__places_set(sy__places *p, int64_t first, int64_t n, int64_t group, int64_t start,
                    const int32_t *doc);
/* Can any of these rows see any of these keys? */
bool sy__places_meet(const sy__places *rows, const sy__places *keys);

/* Width of a tile in memory: D rounded up to what the product wants. */
int64_t sy__attn_width(int64_t D);
/* The same for the wider of queries and values. */
int64_t sy__attn_room(const sy_tensor *q, const sy_tensor *v);
/* dst [64, width] = scale * rows first .. first+n-1, zero elsewhere. */
void sy__attn_load(float *dst, const sy__heads *heads, int64_t first, int64_t n, float scale);
/* Rows first .. first+n-1 = scale * src [n, width]. */
void sy__attn_store(const sy__heads *heads, int64_t first, int64_t n, const float *src,
                    float scale);
/* dst [width, 64] = src [64, width] transposed. */
void sy__attn_transpose(float *dst, const float *src, int64_t width);
/* c [m, n] = a [m, k] b [k, n], added to c where add; rows of a, b, c are lda, n, n apart. m a
   multiple of 4, n of 32. An element is summed over k in order, whatever m and n. */
void sy__attn_product(float *c, const float *a, int64_t lda, const float *b, int64_t m, int64_t n,
                      int64_t k, bool add);

/* Threads for n_pieces of work, with scratch of `bytes` each. */
int sy__attn_threads(const sy_stream *stream, int64_t bytes, int64_t n_pieces);

#endif
