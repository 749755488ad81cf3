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

SY_CPU_CLONES static void store_f32(float *c, int64_t ldc, float *tile, int64_t rows, int64_t cols,
                                    float alpha, float beta)
{
    for (int64_t i = 0; i < rows; i++) {
        float *to = c + i * ldc;
        float *from = tile + i * SY_TILE_N;
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

SY_CPU_CLONES static void store_bf16(sy_bf16 *c, int64_t ldc, float *tile, int64_t rows,
                                     int64_t cols, float alpha, float beta)
{
    for (int64_t i = 0; i < rows; i++) {
        sy_bf16 *to = c + i * ldc;
        float *from = tile + i * SY_TILE_N;
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

static void store(const run *r, const sy__product *p, int64_t m, int64_t n, float *tile,
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

/* A block of the result, at (m, n). */
typedef struct block {
    const run *r;
    const sy__product *p;
    int worker;
    buffers buf;
    sy_dtype dtype; /* of packed operands */
    int64_t m, rows, rows_padded, n, n_end;
    bool keep; /* partial sums of all tiles; else one tile is enough, and stays in the cache */
} block;

/* A chunk of K. Rows 0 .. n_stored-1 of a are used where they lie, at `stored`; those behind are
 * packed. */
typedef struct chunk {
    int64_t k, depth, padded, n_stored;
    const char *stored;
    bool last;
} chunk;

static sy__part part_of(sy_dtype dtype, const void *x, int64_t ld, bool trans, int64_t row,
                        int64_t col, int64_t rows, int64_t cols)
{
    const int64_t at = trans ? col * ld + row : row * ld + col;
    return (sy__part){.src = (const char *)x + at * (int64_t)sy_dtype_bytes(dtype),
                      .dtype = dtype,
                      .ld = ld,
                      .rows = rows > 0 ? rows : 0,
                      .cols = cols > 0 ? cols : 0,
                      .trans = trans};
}

/* Rows of op(a) from `row` of the block on, and columns from k on. */
static sy__part part_of_a(const block *b, int64_t row, int64_t k)
{
    const sy__product *p = b->p;
    return part_of(b->r->dtype, p->a, p->lda, p->trans_a, b->m + row, k, b->rows - row,
                   sy__cpu_min(SY_TILE_K, p->K - k));
}

/* The strip of op(b) at column n. */
static sy__part part_of_b(const block *b, const chunk *c, int64_t n)
{
    const sy__product *p = b->p;
    return part_of(b->r->dtype, p->b, p->ldb, p->trans_b, c->k, n, c->depth,
                   sy__cpu_min(SY_TILE_N, b->n_end - n));
}

static void pack_a(const block *b, chunk *c)
{
    const sy__product *p = b->p;
    const int64_t row_bytes = c->padded * (int64_t)sy_dtype_bytes(b->dtype);
    if (!p->trans_a && b->dtype == b->r->dtype && p->lda == c->padded && p->K == c->padded) {
        c->stored = (const char *)p->a + b->m * row_bytes;
        c->n_stored = b->rows / SY_TILE_M * SY_TILE_M;
    }
    const sy__part part = part_of_a(b, c->n_stored, c->k);
    sy__pack_rows(b->dtype, b->buf.a + c->n_stored * row_bytes, &part, b->rows_padded - c->n_stored,
                  c->padded);
}

/* Ask for the part of the result that a tile will be stored to. */
static void prefetch_result(const block *b, int64_t row, int64_t n, int64_t height)
{
    const sy__product *p = b->p;
    const int64_t rows = sy__cpu_min(height, b->rows - row);
    const int64_t cols = sy__cpu_min(SY_TILE_N, b->n_end - n);
    const sy__part part = part_of(b->r->c_dtype, p->c, p->ldc, false, b->m + row, n, rows, cols);
    sy__part_prefetch(&part, 0, 1);
}

/* The tiles of the strip at column n. */
static bool run_strip(const block *b, const chunk *c, int64_t n)
{
    const int64_t row_bytes = c->padded * (int64_t)sy_dtype_bytes(b->dtype);
    const sy__part next = part_of_b(b, c, n + SY_TILE_N);
    float *sums = b->buf.c + (b->keep ? (n - b->n) * b->rows_padded : 0);
    bool ok = true;
    for (int64_t row = 0, height = 0; row < b->rows_padded; row += height) {
        float *tile = sums + (b->keep ? row * SY_TILE_N : 0);
        const char *a = (row < c->n_stored ? c->stored : b->buf.a) + row * row_bytes;
        height = SY_TILE_M;
        while (height > b->rows_padded - row) {
            height /= 2;
        }
        if (c->last) {
            prefetch_result(b, row, n, height);
        }
        sy__part_prefetch(&next, row / SY_TILE_M, sy__cpu_blocks(b->rows_padded, SY_TILE_M));
        if (c->padded > 0) {
            ok =
                sy__tile_product(b->r->crew, b->worker, height, c->padded, a, b->buf.b, tile) && ok;
        }
        if (c->last) {
            store(b->r, b->p, b->m + row, n, tile, sy__cpu_min(height, b->rows - row));
            if (!b->keep) {
                memset(tile, 0, (size_t)(height * SY_TILE_N) * sizeof *tile); /* for the next */
            }
        }
    }
    return ok;
}

static bool run_chunk(const block *b, chunk *c)
{
    const int64_t n_strips = sy__cpu_blocks(b->n_end - b->n, SY_TILE_N);
    const sy__part next_a = part_of_a(b, 0, c->k + c->depth);
    bool ok = true;
    pack_a(b, c);
    for (int64_t i = 0; i < n_strips; i++) {
        const sy__part strip = part_of_b(b, c, b->n + i * SY_TILE_N);
        sy__pack_strip(b->dtype, b->buf.b, &strip, c->padded);
        sy__part_prefetch(&next_a, i, n_strips);
        ok = run_strip(b, c, b->n + i * SY_TILE_N) && ok;
    }
    return ok;
}

static bool run_block(const run *r, int worker, const sy__product *p, int64_t m, int64_t n)
{
    block b = {.r = r,
               .p = p,
               .worker = worker,
               .buf = buffers_of(r, worker),
               .dtype = sy__crew_dtype(r->crew),
               .m = m,
               .rows = sy__cpu_min(rows_of_block(r, p), p->M - m),
               .n = n,
               .n_end = sy__cpu_min(n + r->block_cols, p->N),
               .keep = p->K > SY_TILE_K};
    b.rows_padded = round_up(b.rows, sy__crew_min_rows(r->crew));
    const int64_t n_sums =
        b.keep ? b.rows_padded * round_up(b.n_end - n, SY_TILE_N) : SY_TILE_M * SY_TILE_N;
    memset(b.buf.c, 0, (size_t)n_sums * sizeof *b.buf.c);
    bool ok = true;
    chunk c = {0};
    do {
        c = (chunk){.k = c.k + c.depth};
        c.depth = sy__cpu_min(SY_TILE_K, p->K - c.k);
        c.padded = round_up(c.depth, SY_TILE_K_STEP);
        c.last = c.k + c.depth == p->K;
        ok = run_chunk(&b, &c) && ok;
    } while (!c.last);
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
#pragma omp for schedule(monotonic : dynamic) nowait
        for (int64_t block = 0; block < n_blocks; block++) {
            ok = run_nth_block(r, omp_get_thread_num(), &cur, block) && ok;
        }
    }
    return ok;
}

/* No more threads than there is work for. */
static int choose_threads(const run *r, int n_threads)
{
    enum { WORTH_A_THREAD = 1 << 20 /* multiplications: tens of microseconds */ };
    int64_t work = 0;
    for (int64_t i = 0; i < r->n && work < n_threads * (int64_t)WORTH_A_THREAD; i++) {
        sy__product p;
        r->at(r->list, i, &p);
        work += p.M * p.N * (p.K + 1);
    }
    return (int)sy__cpu_min(n_threads, sy__cpu_blocks(work + 1, WORTH_A_THREAD));
}

static int64_t greatest_height(const run *r)
{
    int64_t height = 0;
    for (int64_t i = 0; i < r->n; i++) {
        sy__product p;
        r->at(r->list, i, &p);
        height = p.M > height ? p.M : height;
    }
    return height;
}

/* Large blocks pack least: a is packed once per block of columns, b once per block of rows. Smaller
   ones, still near to squares, where threads would be idle; products of unequal height need more.
 */
static void choose_blocks(run *r, int n_threads)
{
    const int64_t wanted = n_threads > 1 ? (r->n > 1 ? 4 : 2) * (int64_t)n_threads : 1;
    r->block_rows = r->block_cols = 512;
    while (r->block_cols > SY_TILE_N && count_all_blocks(r) < wanted) {
        const int64_t height = sy__cpu_min(r->block_rows, greatest_height(r));
        if (height > r->block_cols && r->block_rows > SY_TILE_M) {
            r->block_rows /= 2;
        } else {
            r->block_cols /= 2;
        }
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
    int n_threads = choose_threads(&r, sy__cpu_threads(stream));
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
