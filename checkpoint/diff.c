#include "checkpoint/diff.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/reader.h"
#include "core/alloc.h"
#include "parallel/agree.h"

enum { BLOCK = 1 << 16 /* elements that a rank compares at once */ };

typedef struct differ {
    sy_reader *a, *b;
    double tolerance;
    sy_comm *comm;
    void *h_a, *h_b; /* [BLOCK] elements of the widest type */
    sy_diff out;
} differ;

/* ---- rows ---- */

static sy_status add_row(sy_diff *diff, const sy_diff_row *like, const char *path, const char *a,
                         const char *b)
{
    sy_status st = SY_OK;
    sy_diff_row *row = NULL;
    SY_TRY(sy_realloc(diff->n + 1, sizeof *diff->row, (void **)&diff->row));
    row = &diff->row[diff->n++];
    *row = *like;
    row->path = row->a = row->b = NULL;
    SY_TRY(sy_strdup(path, &row->path));
    SY_TRY(a != NULL ? sy_strdup(a, &row->a) : SY_OK);
    SY_TRY(b != NULL ? sy_strdup(b, &row->b) : SY_OK);
cleanup:
    return st;
}

static sy_status add(sy_diff *diff, sy_diff_kind kind, const char *path, const char *a,
                     const char *b)
{
    return add_row(diff, &(sy_diff_row){.kind = kind}, path, a, b);
}

/* Between the collectives of the comparison: a row that one rank has no memory for ends it. */
static sy_status add_together(differ *d, const sy_diff_row *like, const char *path, const char *a,
                              const char *b)
{
    return sy_agree(d->comm, add_row(&d->out, like, path, a, b));
}

void sy_diff_free(sy_diff *diff)
{
    for (int32_t i = 0; i < diff->n; i++) {
        sy_free(&diff->row[i].path);
        sy_free(&diff->row[i].a);
        sy_free(&diff->row[i].b);
    }
    sy_free(&diff->row);
    *diff = (sy_diff){0};
}

/* ---- attributes ---- */

static sy_status compare_text(sy_diff *diff, const char *name, const char *a, const char *b)
{
    return strcmp(a, b) == 0 ? SY_OK : add(diff, SY_DIFF_ATTRIBUTE, name, a, b);
}

static sy_status compare_number(sy_diff *diff, const char *name, int64_t a, int64_t b)
{
    char text[2][32];
    snprintf(text[0], sizeof text[0], "%" PRId64, a);
    snprintf(text[1], sizeof text[1], "%" PRId64, b);
    return compare_text(diff, name, text[0], text[1]);
}

/* Each rank reads both for itself: what rank 0 alone knew would have to be sent. */
static sy_status compare_attributes(sy_diff *diff, const char *path_a, const char *path_b)
{
    sy_status st = SY_OK;
    sy_checkpoint_info a = {0}, b = {0};
    SY_TRY(sy_checkpoint_info_read(path_a, &a));
    SY_TRY(sy_checkpoint_info_read(path_b, &b));
    SY_TRY(compare_text(diff, "kind", a.kind, b.kind));
    SY_TRY(compare_text(diff, "producer", a.producer, b.producer));
    SY_TRY(compare_text(diff, "config", a.config_yaml, b.config_yaml));
    SY_TRY(compare_number(diff, "step", a.step, b.step));
    SY_TRY(compare_number(diff, "tokens_seen", a.tokens_seen, b.tokens_seen));
cleanup:
    sy_checkpoint_info_free(&a);
    sy_checkpoint_info_free(&b);
    return st;
}

/* ---- values ---- */

/* A NaN is largest. */
static double larger(double a, double b)
{
    return isnan(a) || a >= b ? a : b;
}

static void note(sy_diff_row *row, int64_t at, double a, double b)
{
    double gap = fabs(a - b), size = fmax(fabs(a), fabs(b)), rel = gap == 0 ? 0 : gap / size;
    if (row->n_different++ == 0) {
        row->first = at;
    }
    row->largest_abs = larger(row->largest_abs, gap);
    row->largest_rel = larger(row->largest_rel, rel);
}

/* No part of infinity is a bound. */
static bool is_same(double a, double b, double tolerance)
{
    const double gap = fabs(a - b);
    return a == b || (isnan(a) && isnan(b)) ||
           (isfinite(gap) && gap <= tolerance * fmax(fabs(a), fabs(b)));
}

/* One block as double, where a figure is wanted of each value. */
static void compare_doubles(const differ *d, bool exact, const sy_checkpoint_entry *a,
                            const sy_checkpoint_entry *b, int64_t first, int64_t n,
                            sy_diff_row *row)
{
    const size_t a_bytes = sy_dtype_bytes(a->dtype), b_bytes = sy_dtype_bytes(b->dtype);
    for (int64_t i = 0; i < n; i++) {
        const char *pa = (const char *)d->h_a + (size_t)i * a_bytes;
        const char *pb = (const char *)d->h_b + (size_t)i * b_bytes;
        double x = 0, y = 0;
        if (exact && memcmp(pa, pb, a_bytes) == 0) {
            continue;
        }
        sy_convert(SY_F64, &x, a->dtype, pa, 1);
        sy_convert(SY_F64, &y, b->dtype, pb, 1);
        if (exact || !is_same(x, y, d->tolerance)) {
            note(row, first + i, x, y);
        }
    }
}

static void compare_integers(const differ *d, sy_dtype dtype, int64_t first, int64_t n,
                             sy_diff_row *row)
{
    for (int64_t i = 0; i < n; i++) {
        double x = dtype == SY_I64   ? (double)((const int64_t *)d->h_a)[i]
                   : dtype == SY_I32 ? (double)((const int32_t *)d->h_a)[i]
                                     : (double)((const uint8_t *)d->h_a)[i];
        double y = dtype == SY_I64   ? (double)((const int64_t *)d->h_b)[i]
                   : dtype == SY_I32 ? (double)((const int32_t *)d->h_b)[i]
                                     : (double)((const uint8_t *)d->h_b)[i];
        const size_t bytes = sy_dtype_bytes(dtype), at = (size_t)i * bytes;
        if (memcmp((const char *)d->h_a + at, (const char *)d->h_b + at, bytes) != 0) {
            note(row, first + i, x, y); /* by 0 where a double does not tell them apart */
        }
    }
}

static sy_status compare_block(differ *d, int32_t ia, int32_t ib, int64_t first, int64_t n,
                               sy_diff_row *row)
{
    sy_status st = SY_OK;
    const sy_checkpoint_entry a = sy_reader_entry(d->a, ia), b = sy_reader_entry(d->b, ib);
    SY_TRY(sy_reader_read(d->a, ia, first, n, a.dtype, d->h_a));
    SY_TRY(sy_reader_read(d->b, ib, first, n, b.dtype, d->h_b));
    const bool exact = a.dtype == b.dtype && d->tolerance == 0;
    if (a.dtype == b.dtype && memcmp(d->h_a, d->h_b, (size_t)n * sy_dtype_bytes(a.dtype)) == 0) {
        goto cleanup;
    }
    if (sy_dtype_is_float(a.dtype)) {
        compare_doubles(d, exact, &a, &b, first, n, row);
    } else {
        compare_integers(d, a.dtype, first, n, row);
    }
cleanup:
    return st;
}

/* This rank's part of a dataset: whole blocks, one stretch of them. */
static sy_status compare_values(differ *d, int32_t ia, int32_t ib, sy_diff_row *row)
{
    sy_status st = SY_OK;
    const int64_t n_blocks = (row->n_values + BLOCK - 1) / BLOCK;
    const int64_t begin = n_blocks * d->comm->rank / d->comm->size;
    const int64_t end = n_blocks * (d->comm->rank + 1) / d->comm->size;
    for (int64_t k = begin; k < end; k++) {
        int64_t first = k * BLOCK, rest = row->n_values - first;
        SY_TRY(compare_block(d, ia, ib, first, rest < BLOCK ? rest : BLOCK, row));
    }
cleanup:
    return st;
}

/* The ranks' parts of a row together. */
static sy_status merge(sy_comm *comm, sy_diff_row *row)
{
    sy_status st = SY_OK;
    int64_t first = row->n_different > 0 ? row->first : INT64_MAX;
    SY_TRY(sy_host_all_reduce(comm, &row->n_different, 1, SY_I64, SY_SUM, "values that differ"));
    SY_TRY(sy_host_all_reduce(comm, &first, 1, SY_I64, SY_MIN, "first that differs"));
    SY_TRY(sy_host_all_reduce(comm, &row->largest_abs, 1, SY_F64, SY_MAX, "largest difference"));
    SY_TRY(sy_host_all_reduce(comm, &row->largest_rel, 1, SY_F64, SY_MAX, "largest difference"));
    row->first = first;
cleanup:
    return st;
}

/* ---- datasets ---- */

static void format_shape(const sy_checkpoint_entry *e, char *buf, size_t buf_bytes)
{
    size_t at = (size_t)snprintf(buf, buf_bytes, "[");
    for (int32_t i = 0; i < e->n_dim && at < buf_bytes; i++) {
        at += (size_t)snprintf(buf + at, buf_bytes - at, i > 0 ? ", %" PRId64 : "%" PRId64,
                               e->shape[i]);
    }
    if (at < buf_bytes) {
        snprintf(buf + at, buf_bytes - at, "]");
    }
}

static bool has_shape(const sy_checkpoint_entry *a, const sy_checkpoint_entry *b)
{
    return a->n_dim == b->n_dim &&
           memcmp(a->shape, b->shape, (size_t)a->n_dim * sizeof a->shape[0]) == 0;
}

static sy_status compare_dataset(differ *d, int32_t ia, int32_t ib)
{
    sy_status st = SY_OK;
    const sy_checkpoint_entry a = sy_reader_entry(d->a, ia), b = sy_reader_entry(d->b, ib);
    const bool floats = sy_dtype_is_float(a.dtype) && sy_dtype_is_float(b.dtype);
    char shape[2][96];
    sy_diff_row row = {.kind = SY_DIFF_VALUES, .n_values = 1};
    if (!has_shape(&a, &b)) {
        format_shape(&a, shape[0], sizeof shape[0]);
        format_shape(&b, shape[1], sizeof shape[1]);
        row.kind = SY_DIFF_SHAPE;
        return add_together(d, &row, a.path, shape[0], shape[1]);
    }
    if (a.dtype != b.dtype && (d->tolerance == 0 || !floats)) {
        SY_TRY(add_together(d, &(sy_diff_row){.kind = SY_DIFF_TYPE}, a.path, sy_dtype_name(a.dtype),
                            sy_dtype_name(b.dtype)));
        if (!floats) {
            goto cleanup;
        }
    }
    for (int32_t i = 0; i < a.n_dim; i++) {
        row.n_values *= a.shape[i];
    }
    SY_TRY(sy_agree(d->comm, compare_values(d, ia, ib, &row)));
    SY_TRY(merge(d->comm, &row));
    d->out.n_values += row.n_values;
    if (row.n_different > 0) {
        SY_TRY(add_together(d, &row, a.path, NULL, NULL));
    }
cleanup:
    return st;
}

/* Datasets without the receipt, the last by name: how a model came to be is not what it is. */
static int32_t n_compared(const sy_reader *reader)
{
    return sy_reader_n(reader) - (sy_reader_find(reader, "x/receipt") >= 0 ? 1 : 0);
}

/* Both lists are sorted by path. */
static sy_status compare_datasets(differ *d)
{
    sy_status st = SY_OK;
    const int32_t n_a = n_compared(d->a), n_b = n_compared(d->b);
    for (int32_t ia = 0, ib = 0; ia < n_a || ib < n_b;) {
        const char *pa = ia < n_a ? sy_reader_entry(d->a, ia).path : NULL;
        const char *pb = ib < n_b ? sy_reader_entry(d->b, ib).path : NULL;
        int order = pa == NULL ? 1 : pb == NULL ? -1 : strcmp(pa, pb);
        if (order == 0) {
            SY_TRY(compare_dataset(d, ia++, ib++));
        } else if (order < 0) {
            SY_TRY(add_together(d, &(sy_diff_row){.kind = SY_DIFF_ONLY_A}, pa, NULL, NULL));
            ia++;
        } else {
            SY_TRY(add_together(d, &(sy_diff_row){.kind = SY_DIFF_ONLY_B}, pb, NULL, NULL));
            ib++;
        }
    }
cleanup:
    return st;
}

sy_status sy_checkpoint_diff(const char *a, const char *b, double tolerance, sy_comm *comm,
                             sy_diff *out)
{
    sy_status st = SY_OK;
    differ d = {.tolerance = tolerance, .comm = comm};
    SY_TRY(sy_reader_open(a, comm, &d.a));
    SY_TRY(sy_reader_open(b, comm, &d.b));
    SY_TRY(sy_agree(comm, sy_alloc(BLOCK, sizeof(double), &d.h_a)));
    SY_TRY(sy_agree(comm, sy_alloc(BLOCK, sizeof(double), &d.h_b)));
    SY_TRY(sy_agree(comm, compare_attributes(&d.out, a, b)));
    SY_TRY(compare_datasets(&d));
    *out = d.out;
    d.out = (sy_diff){0};
cleanup:
    sy_diff_free(&d.out);
    sy_free(&d.h_a);
    sy_free(&d.h_b);
    sy_reader_close(&d.b);
    sy_reader_close(&d.a);
    return st;
}
