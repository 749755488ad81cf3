/* Ops of fp32 and bf16 share one fp32 kernel: they walk their operands in tiles that stay in the
   first cache. An fp32 operand is used where it lies; a bf16 one is widened into a buffer before
   and rounded out of it after. */
#ifndef SY_BACKEND_CPU_TILE_IMPL_H
#define SY_BACKEND_CPU_TILE_IMPL_H

#include "backend/cpu/cpu_impl.h"

enum {
    SY_CPU_TILE = 1024,              /* elements */
    SY_CPU_PARALLEL_MIN = 16 * 1024, /* below this many elements one thread is faster */
    SY_CPU_MAX_PARTIALS = 64
};

/* dst = src converted. */
void sy__cpu_widen(float *dst, const sy_bf16 *src, int64_t n);
void sy__cpu_narrow(sy_bf16 *dst, const float *src, int64_t n);
/* y = a + b; y may be either. */
void sy__cpu_add_run(float *y, const float *a, const float *b, int64_t n);
/* y = c * x; y may be x. */
void sy__cpu_scale_run(float *y, float c, const float *x, int64_t n);
/* y += c * x. */
void sy__cpu_axpy_run(float *y, float c, const float *x, int64_t n);
/* sum of a[i] * b[i], and the largest element (NaN ignored; -infinity where n is 0). */
float sy__cpu_dot_run(const float *a, const float *b, int64_t n);
float sy__cpu_max_run(const float *x, int64_t n);
/* Sum of exp(x[i] - shift). */
double sy__cpu_sum_exp_run(const float *x, float shift, int64_t n);
/* y[i] = scale * exp(x[i] - shift); y may be x. */
void sy__cpu_exp_run(float *y, const float *x, float shift, float scale, int64_t n);

/* Elements at .. at+n-1 of a float tensor's memory, n <= SY_CPU_TILE: in place or widened into buf.
 */
static inline const float *sy__tile_read(const sy_tensor *t, int64_t at, int64_t n, float *buf)
{
    if (t->dtype == SY_F32) {
        return (const float *)t->data + at;
    }
    sy__cpu_widen(buf, (const sy_bf16 *)t->data + at, n);
    return buf;
}

/* Where to compute a tile of an output; sy__tile_write of the same buf completes it. */
static inline float *sy__tile_target(const sy_tensor *t, int64_t at, float *buf)
{
    return t->dtype == SY_F32 ? (float *)t->data + at : buf;
}

static inline void sy__tile_write(const sy_tensor *t, int64_t at, int64_t n, const float *buf)
{
    if (t->dtype == SY_BF16) {
        sy__cpu_narrow((sy_bf16 *)t->data + at, buf, n);
    }
}

/* Sums over rows: every block of rows adds into columns of its own, then the blocks are added in
   ascending order. Borders depend on the sizes alone. */
typedef struct sy__partials {
    int64_t n_blocks, block_rows, columns;
    float *sums; /* [n_blocks, columns] scratch; with one block: out itself */
    float *out;  /* [columns] */
} sy__partials;

/* Zeroes the partial sums, which take scratch_bytes at most. */
sy__partials sy__partials_begin(int64_t rows, int64_t columns, float *out, void *scratch,
                                int64_t scratch_bytes);
/* out += the partial sums. */
void sy__partials_end(sy_stream *stream, const sy__partials *p);
/* The columns that block b adds into. */
static inline float *sy__partials_of(const sy__partials *p, int64_t block)
{
    return p->sums + block * p->columns;
}

#endif
