/* Products in blocks: a thread takes a block of a result and goes over K in chunks; it packs the
   chunk of a once and that of b strip by strip, and leaves the arithmetic to tile products in fp32.
   The size of blocks never changes a bit: every element is the sum of the same chunks in the same
   order. */
#include "backend/cpu/product_impl.h"

#include <omp.h>

typedef struct run {
    sy__crew *crew;
    char *workspace;
    sy_dtype dtype, c_dtype; /* of the operands and results */
    int64_t n;
    sy__product_at *at;
    const void *list;
    int64_t block_rows, block_cols, worker_bytes;
} run;

/* A thread's part of the workspace. */
typedef struct buffers {
    char *a, *b;
    float *c;
} buffers;

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

static int64_t bytes_of_worker(int64_t block_rows, int64_t block_cols)
{
    return (block_rows * SY_TILE_K + SY_TILE_K * SY_TILE_N + block_rows * block_cols) *
           (int64_t)sizeof(float);
}

static buffers buffers_of(const run *r, int worker)
{
    char *base = r->workspace + worker * r->worker_bytes;
    buffers buf = {.a = base};
    buf.b = buf.a + r->block_rows * SY_TILE_K * (int64_t)sizeof(float);
    buf.c = (float *)(buf.b + SY_TILE_K * SY_TILE_N * (int64_t)sizeof(float));
    return buf;
}

/* Blocks of equal height, so that none is left with a few rows for which all of b must be packed.
 */
static int64_t rows_of_block(const run *r, const sy__product *p)
{
    return round_up(sy__cpu_blocks(p->M, sy__cpu_blocks(p->M, r->block_rows)), SY_TILE_M);
}

static int64_t count_blocks(const run *r, const sy__product *p)
{
    if (p->M == 0 || p->N == 0) {
        return 0;
    }
    return sy__cpu_blocks(p->M, rows_of_block(r, p)) * sy__cpu_blocks(p->N, r->block_cols);
}

static int64_t count_all_blocks(const run *r)
{
    int64_t n = 0;
    for (int64_t i = 0; i < r->n; i++) {
        sy__product p;
        r->at(r->list, i, &p);
        n += count_blocks(r, &p);
    }
    return n;
}

SY_CPU_CLONES static void store_f32(float *c, int64_t ldc, const float *tile, int64_t rows,
                                    int64_t cols, float alpha, float beta)
{
    for (int64_t i = 0; i < rows; i++) {
        float *to = c + i * ldc;
        const float *from = tile + i * SY_TILE_N;
        if (beta == 0) {
#pragma GCC ivdep
            for (int64_t j = 0; j < cols; j++) {
                to[j] = alpha * from[j];
            }
        } else {
#pragma GCC ivdep
            for (int64_t j = 0; j < cols; j++) {
                to[j] = alpha * from[j] + beta * to[j];
            }
        }
    }
}

SY_CPU_CLONES static void store_bf16(sy_bf16 *c, int64_t ldc, const float *tile, int64_t rows,
                                     int64_t cols, float alpha, float beta)
{
    for (int64_t i = 0; i < rows; i++) {
        sy_bf16 *to = c + i * ldc;
        const float *from = tile + i * SY_TILE_N;
        if (beta == 0) {
#pragma GCC ivdep
            for (int64_t j = 0; j < cols; j++) {
                to[j] = sy_bf16_from_f32(alpha * from[j]);
            }
        } else {
#pragma GCC ivdep
            for (int64_t j = 0; j < cols; j++) {
                to[j] = sy_bf16_from_f32(alpha * from[j] + beta * sy_bf16_to_f32(to[j]));
            }
        }
    }
}

static void store(const run *r, const sy__product *p, int64_t m, int64_t n, const float *tile,
                  int64_t tile_rows)
{
    const int64_t rows = sy__cpu_min(tile_rows, p->M - m), cols = sy__cpu_min(SY_TILE_N, p->N - n);
    const int64_t at = m * p->ldc + n;
    if (r->c_dtype == SY_BF16) {
        store_bf16((sy_bf16 *)p->c + at, p->ldc, tile, rows, cols, p->alpha, p->beta);
    } else {
        store_f32((float *)p->c + at, p->ldc, tile, rows, cols, p->alpha, p->beta);
    }
}

/* rows x cols of an operand from (row, col) of op(x) on. */
static sy__part part_of(const run *r, const void *x, int64_t ld, bool trans, int64_t row,
                        int64_t col, int64_t rows, int64_t cols)
{
    const int64_t at = trans ? col * ld + row : row * ld + col;
    return (sy__part){.src = (const char *)x + at * (int64_t)sy_dtype_bytes(r->dtype),
                      .dtype = r->dtype,
                      .ld = ld,
                      .rows = rows,
                      .cols = cols,
                      .trans = trans};
}

/* The tiles of one strip of columns, for one chunk of K of depth k (padded). */
static bool run_strip(const run *r, int worker, const sy__product *p, const buffers *buf, int64_t m,
                      int64_t rows, int64_t n, float *c, int64_t k, bool first, bool last)
{
    const int64_t row_bytes = k * (int64_t)sy_dtype_bytes(sy__crew_dtype(r->crew));
    const int64_t padded = round_up(rows, sy__crew_min_rows(r->crew));
    const bool keep = !(first && last); /* else one tile is enough, and stays in the cache */
    bool ok = true;
    for (int64_t at = 0, height = 0; at < padded; at += height) {
        float *tile = c + (keep ? at * SY_TILE_N : 0);
        height = SY_TILE_M;
        while (height > padded - at) {
            height /= 2;
        }
        if (first) {
            memset(tile, 0, (size_t)(height * SY_TILE_N) * sizeof *tile);
        }
        if (k > 0) {
            ok = sy__tile_product(r->crew, worker, height, k, buf->a + at * row_bytes, buf->b,
                                  tile) &&
                 ok;
        }
        if (last) {
            store(r, p, m + at, n, tile, sy__cpu_min(height, rows - at));
        }
    }
    return ok;
}

/* Block of the result at (m, n). */
static bool run_block(const run *r, int worker, const sy__product *p, int64_t m, int64_t n)
{
    const buffers buf = buffers_of(r, worker);
    const sy_dtype to = sy__crew_dtype(r->crew);
    const int64_t rows = sy__cpu_min(rows_of_block(r, p), p->M - m);
    const int64_t padded = round_up(rows, sy__crew_min_rows(r->crew));
    const int64_t n_end = sy__cpu_min(n + r->block_cols, p->N);
    bool ok = true;
    int64_t k = 0;
    do {
        const int64_t depth = sy__cpu_min(SY_TILE_K, p->K - k);
        const int64_t depth_padded = round_up(depth, SY_TILE_K_STEP);
        const sy__part a = part_of(r, p->a, p->lda, p->trans_a, m, k, rows, depth);
        sy__pack_rows(to, buf.a, &a, padded, depth_padded);
        for (int64_t strip = n; strip < n_end; strip += SY_TILE_N) {
            const int64_t cols = sy__cpu_min(SY_TILE_N, n_end - strip);
            const sy__part b = part_of(r, p->b, p->ldb, p->trans_b, k, strip, depth, cols);
            sy__pack_strip(to, buf.b, &b, depth_padded);
            ok = run_strip(r, worker, p, &buf, m, rows, strip, buf.c + (strip - n) * padded,
                           depth_padded, k == 0, k + depth == p->K) &&
                 ok;
        }
        k += depth;
    } while (k < p->K);
    return ok;
}

/* Where a thread stands in the list: it meets its blocks in ascending order. */
typedef struct cursor {
    sy__product product;
    int64_t i, first, end; /* number of the product, and its blocks */
} cursor;

static bool run_nth_block(const run *r, int worker, cursor *cur, int64_t block)
{
    while (block >= cur->end) {
        cur->first = cur->end;
        r->at(r->list, ++cur->i, &cur->product);
        cur->end += count_blocks(r, &cur->product);
    }
    const int64_t n_rows = rows_of_block(r, &cur->product);
    const int64_t in_column = sy__cpu_blocks(cur->product.M, n_rows), at = block - cur->first;
    return run_block(r, worker, &cur->product, at % in_column * n_rows,
                     at / in_column * r->block_cols);
}

static bool run_blocks(const run *r, int n_threads, int64_t n_blocks)
{
    bool ok = true;
#pragma omp parallel num_threads(n_threads) reduction(&& : ok)
    {
        cursor cur = {.i = -1};
        omp_set_num_threads(1); /* of whatever oneDNN starts; ends with the region */
#pragma omp for schedule(monotonic : dynamic)
        for (int64_t block = 0; block < n_blocks; block++) {
            ok = run_nth_block(r, omp_get_thread_num(), &cur, block) && ok;
        }
    }
    return ok;
}

/* Large blocks pack least; smaller ones where that leaves threads idle or the workspace is too
 * small. */
static void choose_blocks(run *r, int n_threads)
{
    const int64_t wanted = n_threads > 1 ? 4 * (int64_t)n_threads : 1;
    r->block_rows = r->block_cols = 512;
    while (r->block_cols > SY_TILE_N && count_all_blocks(r) < wanted) {
        r->block_cols /= 2;
    }
    while (r->block_rows > SY_TILE_M &&
           n_threads * bytes_of_worker(r->block_rows, r->block_cols) > SY_WORKSPACE_BYTES) {
        r->block_rows /= 2;
        r->block_cols = sy__cpu_min(r->block_cols, r->block_rows);
    }
    r->worker_bytes = bytes_of_worker(r->block_rows, r->block_cols);
}

sy_status sy__products_run(sy_stream *stream, sy_dtype dtype, sy_dtype c_dtype, int64_t n,
                           sy__product_at *at, const void *list)
{
    sy_status st = SY_OK;
    run r = {.dtype = dtype, .c_dtype = c_dtype, .n = n, .at = at, .list = list};
    int n_threads = sy__cpu_threads(stream);
    choose_blocks(&r, n_threads);
    n_threads = (int)sy__cpu_min(n_threads, SY_WORKSPACE_BYTES / r.worker_bytes);
    r.workspace = sy_stream_workspace(stream);
    SY_TRY(sy__crew_borrow(sy_stream_device(stream), dtype, &r.crew));
    SY_REQUIRE(run_blocks(&r, n_threads, count_all_blocks(&r)), SY_ERR_INTERNAL,
               "oneDNN failed in a matrix product");
cleanup:
    sy__crew_return(&r.crew);
    return st;
}
