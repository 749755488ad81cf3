/* One tensor, or one expert of it, as it was written, beside what it was made of. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "parallel/state.h"
#include "upcycle/receipt_impl.h"

/* A part as a matrix [rows, columns], and where it was cut from its source. */
typedef struct matrix {
    const sy_receipt_part *part;
    const sy_source_tensor *to;
    sy_source *source;
    int32_t from; /* tensor there; -1: it has no single one */
    double scale;
    int64_t first, numel; /* elements of `to` */
    int64_t rows, columns;
    int64_t all_columns, first_from; /* of the source; element there of the first one */
    double product, own, source_own; /* sums: written * source, written^2, source^2 */
    double lost, lost_own, n_lost;   /* of the source's elements that are others now: sum, of their
                                        squares, number */
} matrix;

double sy__receipt_product(const double *a, const double *b, int64_t n)
{
    double sum[4] = {0};
    for (int64_t i = 0; i < n; i++) {
        sum[i % 4] += a[i] * b[i];
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

double sy__receipt_cosine(double ab, double aa, double bb)
{
    return aa > 0 && bb > 0 ? ab / sqrt(aa) / sqrt(bb) : 0;
}

/* ---- where it comes from ---- */

/* Rows that were added to a vocabulary have no source, units that change places no certain one. */
static bool fits(const matrix *m, const sy_source_tensor *from, int32_t parts)
{
    return from->numel == m->numel * parts;
}

static matrix matrix_of(const sy__receipt_work *w, const sy_receipt_part *part)
{
    const sy_recipe_spec *spec = w->receipt->spec;
    const sy_source_tensor *to = &sy_recipe_plan(w->receipt->recipe)->tensor[part->tensor];
    const bool expert = part->expert >= 0;
    const int32_t G = expert && spec->method == SY_UPCYCLE_GRANULAR ? spec->granularity : 1;
    matrix m = {.part = part, .to = to, .from = -1, .numel = to->numel, .scale = 1};
    if (expert) {
        m.numel = to->shape[1] * to->shape[2];
        m.first = m.numel * part->expert;
    }
    m.columns = to->shape[to->n_dim - 1];
    m.rows = m.numel / m.columns;
    m.all_columns = m.columns;
    if (part->source >= 0) {
        const sy_recipe_origin origin =
            sy_recipe_origin_of(w->receipt->recipe, part->tensor, part->source);
        m.source = spec->source[part->source];
        const sy_source_tensor *from = &m.source->tensor[origin.tensor];
        m.from = fits(&m, from, G) && !(expert && spec->shuffle) ? origin.tensor : -1;
        m.scale = origin.scale;
        m.all_columns = from->shape[from->n_dim - 1];
        m.first_from = m.all_columns != m.columns ? part->expert % G * m.columns
                       : expert                   ? part->expert % G * m.numel
                                                  : 0;
    }
    return m;
}

/* Elements [at, at + n) of the part as its source has them, in the type of `to`. */
static sy_status read_source(const matrix *m, int64_t at, int64_t n, sy_dtype dtype, char *h_to)
{
    sy_status st = SY_OK;
    const int64_t bytes = (int64_t)sy_dtype_bytes(dtype);
    if (m->all_columns == m->columns) {
        return sy_source_read(m->source, m->from, m->first_from + at, n, dtype, h_to);
    }
    for (int64_t done = 0, k = 0; done < n; done += k) {
        const int64_t row = (at + done) / m->columns, column = (at + done) % m->columns;
        k = m->columns - column < n - done ? m->columns - column : n - done;
        SY_TRY(sy_source_read(m->source, m->from, m->first_from + row * m->all_columns + column, k,
                              dtype, h_to + done * bytes));
    }
cleanup:
    return st;
}

/* ---- equal, bit for bit ---- */

static void scale_values(sy__receipt_work *w, const matrix *m, int64_t n, char *h_values)
{
    const int64_t bytes = (int64_t)sy_dtype_bytes(m->to->dtype);
    for (int64_t at = 0; at < n && m->scale != 1; at += SY__RECEIPT_BLOCK) {
        const int64_t k = n - at < SY__RECEIPT_BLOCK ? n - at : SY__RECEIPT_BLOCK;
        sy_convert(SY_F64, w->block, m->to->dtype, h_values + at * bytes, k);
        for (int64_t i = 0; i < k; i++) {
            w->block[i] *= m->scale;
        }
        sy_convert(m->to->dtype, h_values + at * bytes, SY_F64, w->block, k);
    }
}

/* What stands where, made anew: from the source itself, or by the recipe. */
static sy_status expect(sy__receipt_work *w, const matrix *m, bool by_recipe, int64_t at, int64_t n,
                        const void **h_out)
{
    sy_status st = SY_OK;
    const sy_dtype dtype = m->to->dtype;
    *h_out = w->h_b;
    if (by_recipe) {
        SY_TRY(w->receipt->make(w->receipt->make_self, m->part->tensor, m->first + at, n, w->h_b,
                                h_out));
    } else if (m->source->tensor[m->from].dtype == dtype && m->all_columns == m->columns &&
               m->scale == 1) {
        SY_TRY(sy_source_get(m->source, m->from, m->first_from + at, n, w->h_b, h_out));
    } else {
        SY_TRY(read_source(m, at, n, dtype, w->h_b));
        scale_values(w, m, n, w->h_b);
    }
cleanup:
    return st;
}

static bool is_alike(const matrix *a, const matrix *b)
{
    return a != NULL && a->source == b->source && a->first_from == b->first_from;
}

/* The parts [n] of one tensor; what several have of one source is read once. equal [n]. */
static sy_status compare_bytes(sy__receipt_work *w, const matrix *m, int32_t n_parts,
                               bool by_recipe, bool *equal)
{
    sy_status st = SY_OK;
    const int64_t bytes = (int64_t)sy_dtype_bytes(m->to->dtype), room = SY_PULL_BYTES / bytes;
    memset(equal, true, (size_t)n_parts * sizeof *equal);
    for (int64_t at = 0; at < m->numel; at += room) {
        const int64_t n = m->numel - at < room ? m->numel - at : room;
        const matrix *had = NULL; /* whose values h_wanted are */
        const void *h_written = NULL, *h_wanted = NULL;
        for (int32_t k = 0; k < n_parts; k++) {
            if (!is_alike(had, &m[k]) || by_recipe) {
                SY_TRY(expect(w, &m[k], by_recipe, at, n, &h_wanted));
                had = &m[k];
            }
            SY_TRY(sy_source_get(w->written, m[k].part->tensor, m[k].first + at, n, w->h_a,
                                 &h_written));
            equal[k] = equal[k] && memcmp(h_written, h_wanted, (size_t)(n * bytes)) == 0;
        }
    }
cleanup:
    return st;
}

/* ---- near ---- */

/* Beside its source, times the factor. */
static sy_status measure(sy__receipt_work *w, matrix *m)
{
    sy_status st = SY_OK;
    double *written = w->block, *source = w->block + SY__RECEIPT_BLOCK;
    for (int64_t at = 0; at < m->numel; at += SY__RECEIPT_BLOCK) {
        const int64_t n = m->numel - at < SY__RECEIPT_BLOCK ? m->numel - at : SY__RECEIPT_BLOCK;
        SY_TRY(read_source(m, at, n, m->to->dtype, w->h_b));
        scale_values(w, m, n, w->h_b);
        sy_convert(SY_F64, source, m->to->dtype, w->h_b, n);
        SY_TRY(sy_source_read(w->written, m->part->tensor, m->first + at, n, SY_F64, written));
        m->product += sy__receipt_product(written, source, n);
        m->own += sy__receipt_product(written, written, n);
        m->source_own += sy__receipt_product(source, source, n);
        for (int64_t i = 0; i < n; i++) {
            const bool is_lost = written[i] != source[i];
            m->n_lost += is_lost;
            m->lost += is_lost ? source[i] : 0;
            m->lost_own += is_lost ? source[i] * source[i] : 0;
        }
    }
cleanup:
    return st;
}

/* Noise N(0, s^2) on half of N weights w: <w, w + n> = |w|^2 and |w + n|^2 = |w|^2 + N s^2 / 2,
   both in the mean. Units drawn anew with mean and variance of what they replace: the norm stays,
   and of <w, w'> what was kept and the square of that mean. Eight standard deviations, and bf16's
   rounding.
 */
static double predict(const sy_recipe_spec *spec, const matrix *m, double *slack)
{
    const double n = (double)m->numel, share = m->lost_own / m->source_own;
    const double n_lost = fmax(1, m->n_lost), mean = m->lost * m->lost / n_lost;
    *slack = 8 / sqrt(n) + 0.004;
    if (spec->method == SY_UPCYCLE_NOISE) {
        const double noise = m->scale * spec->noise_std;
        return sqrt(m->source_own / (m->source_own + noise * noise * n / 2));
    }
    *slack += 16 * share / sqrt(n_lost);
    return 1 - share + mean / m->source_own;
}

/* ---- the verdict ---- */

static sy_status lost(const matrix *m, const char *why)
{
    const sy_receipt_part *part = m->part;
    char of[256] = "";
    if (m->from >= 0) {
        snprintf(of, sizeof of, " '%s' of '%s'", m->source->tensor[m->from].name, m->source->path);
    }
    if (part->expert < 0) {
        return sy_error(SY_ERR_NUMERIC,
                        "tensor '%s' of the new model was lost: %s%s; nothing was written",
                        m->to->name, why, of);
    }
    return sy_error(
        SY_ERR_NUMERIC, "layer %ld, tensor '%s', expert %d was lost: %s%s; nothing was written",
        strtol(m->to->name + strlen("layers/"), NULL, 10), m->to->name, part->expert, why, of);
}

/* Copies and cuts. */
static bool is_exact(const sy_recipe_spec *spec, const matrix *m)
{
    const double changed = spec->method == SY_UPCYCLE_NOISE ? spec->noise_std : spec->drop_ratio;
    const bool method = spec->method == SY_UPCYCLE_COPY || m->part->expert < 0;
    return m->from >= 0 && (method || changed == 0);
}

static sy_status check_near(sy__receipt_work *w, matrix *m, sy_receipt_part *part)
{
    sy_status st = SY_OK;
    const sy_recipe_spec *spec = w->receipt->spec;
    double slack = 0;
    char why[96];
    SY_TRY(measure(w, m));
    part->cosine = sy__receipt_cosine(m->product, m->own, m->source_own);
    part->predicted = m->source_own > 0 ? predict(spec, m, &slack) : part->cosine;
    if (fabs(part->cosine - part->predicted) > slack) {
        snprintf(why, sizeof why, "its cosine, to be expected %.4f +- %.4f, is %.4f to",
                 part->predicted, slack, part->cosine);
        SY_TRY(lost(m, why));
    }
cleanup:
    return st;
}

static sy_status judge(sy__receipt_work *w, matrix *m, bool exact, bool equal,
                       sy_receipt_part *part)
{
    sy_status st = SY_OK;
    char why[64] = "its values are not what the recipe makes";
    if (!equal && m->from >= 0) {
        SY_TRY(measure(w, m));
        snprintf(why, sizeof why, "its cosine is %.6f to",
                 sy__receipt_cosine(m->product, m->own, m->source_own));
    }
    SY_TRY(equal ? SY_OK : lost(m, why));
    if (exact || m->from < 0) {
        part->cosine = part->predicted = m->from >= 0 ? 1 : part->source >= 0 ? NAN : 0;
    } else {
        SY_TRY(check_near(w, m, part));
    }
cleanup:
    return st;
}

sy_status sy__receipt_check_tensor(sy__receipt_work *w, sy_receipt_part *part, int32_t n)
{
    sy_status st = SY_OK;
    matrix *m = NULL;
    bool *equal = NULL;
    SY_TRY(sy_alloc(n, sizeof *m, (void **)&m));
    SY_TRY(sy_alloc(n, sizeof *equal, (void **)&equal));
    for (int32_t k = 0; k < n; k++) {
        m[k] = matrix_of(w, &part[k]);
    }
    const bool exact = is_exact(w->receipt->spec, &m[0]); /* one method for all */
    SY_TRY(compare_bytes(w, m, n, !exact, equal));
    for (int32_t k = 0; k < n; k++) {
        SY_TRY(judge(w, &m[k], exact, equal[k], &part[k]));
    }
cleanup:
    sy_free(&equal);
    sy_free(&m);
    return st;
}
