/* One case on the backend under test: against ref, with 1 to 4 threads and the same bits for each,
   inputs and gaps untouched, and a subset of the rows with the same bits as in the whole. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "tests/ops/op_test.h"

/* Where and why a comparison fails. */
typedef struct complaint {
    char text[400];
} complaint;

static void index_format(const op_operand *o, int64_t i, char *buf, size_t bytes)
{
    int64_t index[SY_MAX_DIM];
    size_t n = 0;
    for (int32_t d = o->n_dim - 1; d >= 0; d--) {
        index[d] = i % o->shape[d];
        i /= o->shape[d];
    }
    buf[0] = 0;
    for (int32_t d = 0; d < o->n_dim; d++) {
        n += (size_t)snprintf(buf + n, bytes - n, "%s%lld", d ? ", " : "", (long long)index[d]);
    }
}

static double root_mean_square(const op_operand *o, const double *values)
{
    op_operand view = *o;
    double sum = 0;
    view.values = (double *)values;
    for (int64_t i = 0; i < op_numel(o); i++) {
        const double x = *op_at(&view, i);
        sum += isfinite(x) ? x * x : 0;
    }
    return op_numel(o) > 0 ? sqrt(sum / (double)op_numel(o)) : 0;
}

/* Does attention go through cuDNN, where that is there? */
static bool asks_cudnn(const sy_device *dev)
{
    const char *wanted = getenv("SY_CUDNN");
    return strncmp(dev->name, "cuda", 4) == 0 && (wanted == NULL || strcmp(wanted, "0") != 0);
}

static double tolerance_of(const op_loaded *l, sy_dtype dtype)
{
    const op_tolerance *tol = &l->in->test->tol;
    const sy_dtype a = l->a;
    if (!sy_dtype_is_float(dtype)) {
        return 0;
    }
    if (dtype == SY_BF16) {
        return tol->bf16_cudnn > 0 && asks_cudnn(l->dev) ? tol->bf16_cudnn : tol->bf16;
    }
    if (dtype == SY_F64) {
        return tol->f64 > 0 ? tol->f64 : tol->f32;
    }
    return a == SY_BF16 && tol->bf16_wide > 0 ? tol->bf16_wide : tol->f32;
}

/* 0 where got is the nearest number of its dtype: tolerance 0 asks for just that. */
static double error_of(sy_dtype dtype, double got, double want, double rms)
{
    if (got == want || got == op_rounded(dtype, want)) {
        return 0;
    }
    const double error = fabs(got - want) / (fabs(want) + rms);
    return isnan(error) ? INFINITY : error;
}

/* Worst element of output i against ref. */
static bool output_agrees(const op_loaded *l, int32_t i, const op_result *got,
                          const op_result *want, complaint *why)
{
    const op_operand *o = &l->in->operand[i];
    const double rms = fmax(root_mean_square(o, want->values[i]), l->in->test->tol.floor);
    const sy_dtype dtype = op_dtype(l->dev, l->a, o->kind);
    const double tol = tolerance_of(l, dtype);
    op_operand g = *o, w = *o;
    g.values = got->values[i];
    w.values = want->values[i];
    double worst = -1;
    int64_t worst_at = 0;
    for (int64_t k = 0; k < op_numel(o); k++) {
        const double error = error_of(dtype, *op_at(&g, k), *op_at(&w, k), rms);
        if (error > worst) {
            worst = error;
            worst_at = k;
        }
    }
    if (worst <= tol) {
        return true;
    }
    char at[80];
    index_format(o, worst_at, at, sizeof at);
    snprintf(why->text, sizeof why->text, "%s[%s] is %.9g, wanted %.9g: error %.2e > %.1e",
             o->about->name, at, *op_at(&g, worst_at), *op_at(&w, worst_at), worst, tol);
    return false;
}

/* Inputs, and what lies between the rows of outputs, are as before. */
static bool rest_is_untouched(const op_loaded *l, int32_t i, const op_result *got, complaint *why)
{
    const op_operand *o = &l->in->operand[i];
    const size_t elem = sy_dtype_bytes(op_dtype(l->dev, l->a, o->kind));
    bool *element = NULL;
    int64_t bad = -1;
    for (int32_t k = 0; k < l->in->info->n_operands; k++) {
        if (l->in->operand[k].alias == i) {
            return true; /* written through another operand */
        }
    }
    op_must(sy_alloc(o->span, sizeof *element, (void **)&element));
    for (int64_t k = 0; k < op_numel(o) && op_written(l->in, i); k++) {
        element[op_at(o, k) - o->values] = true;
    }
    for (int64_t k = 0; k < o->span; k++) {
        const size_t at = (size_t)k * elem;
        if (!element[k] &&
            memcmp((char *)got->bytes[i] + at, (char *)l->h_before[i] + at, elem) != 0) {
            bad = k;
        }
    }
    sy_free(&element);
    if (bad >= 0) {
        snprintf(why->text, sizeof why->text, "%s was changed %s at offset %lld", o->about->name,
                 op_written(l->in, i) ? "between its rows" : "though it is an input",
                 (long long)bad);
    }
    return bad < 0;
}

static bool results_agree(const op_loaded *l, const op_result *got, const op_result *want,
                          complaint *why)
{
    for (int32_t i = 0; i < l->in->info->n_operands; i++) {
        if (!l->in->operand[i].values) {
            continue;
        }
        if ((op_written(l->in, i) && !output_agrees(l, i, got, want, why)) ||
            !rest_is_untouched(l, i, got, why)) {
            return false;
        }
    }
    return true;
}

static bool same_bits(const op_loaded *l, const op_result *a, const op_result *b, complaint *why)
{
    for (int32_t i = 0; i < l->in->info->n_operands; i++) {
        const op_operand *o = &l->in->operand[i];
        const size_t elem = sy_dtype_bytes(op_dtype(l->dev, l->a, o->kind));
        for (int64_t k = 0; k < op_numel(o) && op_written(l->in, i); k++) {
            const size_t at = (size_t)(op_at(o, k) - o->values);
            if (memcmp((char *)a->bytes[i] + at * elem, (char *)b->bytes[i] + at * elem, elem)) {
                char index[80];
                index_format(o, k, index, sizeof index);
                snprintf(why->text, sizeof why->text,
                         "%s[%s] is %.9g, with one thread it was %.9g: not the same bits",
                         o->about->name, index, a->values[i][at], b->values[i][at]);
                return false;
            }
        }
    }
    return true;
}

static bool execute(op_loaded *l, op_result *result, complaint *why)
{
    sy_status st = op_launch(l);
    st = st == SY_OK ? sy_stream_sync(l->stream) : st;
    if (st != SY_OK) {
        snprintf(why->text, sizeof why->text, "failed: %.350s", sy_error_message());
        return false;
    }
    op_fetch(l, result);
    return true;
}

/* ---- rows ---- */

static int64_t n_rows(const op_instance *in)
{
    for (int32_t i = 0; i < in->info->n_operands; i++) {
        const op_operand *o = &in->operand[i];
        if (o->values && o->row_dim >= 0) {
            return (o->shape[o->row_dim] - o->row_extra) / o->row_unit;
        }
    }
    return 0;
}

/* Element k of o, in rows first .. first+n-1? */
static bool in_rows(const op_operand *o, int64_t k, int64_t first, int64_t n)
{
    for (int32_t d = o->n_dim - 1; d > o->row_dim; d--) {
        k /= o->shape[d];
    }
    const int64_t row = k % o->shape[o->row_dim] / o->row_unit;
    return row >= first && row < first + n;
}

static bool rows_equal(const op_loaded *l, const op_result *part, const op_result *whole,
                       int64_t first, int64_t n, complaint *why)
{
    for (int32_t i = 0; i < l->in->info->n_operands; i++) {
        const op_operand *o = &l->in->operand[i];
        if (!op_written(l->in, i) || o->row_dim < 0 || o->row_numbered) {
            continue;
        }
        const size_t elem = sy_dtype_bytes(op_dtype(l->dev, l->a, o->kind));
        for (int64_t k = 0; k < op_numel(o); k++) {
            const size_t at = (size_t)(op_at(o, k) - o->values) * elem;
            const bool inside = in_rows(o, k, first, n);
            const void *want = inside ? whole->bytes[i] : l->h_before[i];
            if (memcmp((char *)part->bytes[i] + at, (const char *)want + at, elem) != 0) {
                snprintf(why->text, sizeof why->text, "rows %lld .. %lld alone: %s element %lld %s",
                         (long long)first, (long long)(first + n - 1), o->about->name, (long long)k,
                         inside ? "has other bits than in the whole"
                                : "was written though outside");
                return false;
            }
        }
    }
    return true;
}

static bool subset_agrees(op_runner *runner, const op_instance *in, sy_dtype a,
                          const op_result *whole, int64_t first, int64_t n, complaint *why)
{
    op_instance cut = *in; /* shares the operands' memory, but for what cut() replaces */
    op_loaded l;
    op_result part;
    bool ok = false;
    if (in->test->cut) {
        in->test->cut(&cut, first, n);
    }
    op_load(&l, &cut, runner->dev[0], runner->stream[0], a);
    op_load_slice(&l, first, n);
    if (execute(&l, &part, why)) {
        ok = rows_equal(&l, &part, whole, first, n, why);
        op_result_free(&part);
    }
    op_unload(&l);
    for (int32_t i = 0; i < in->info->n_operands; i++) {
        if (cut.operand[i].values != in->operand[i].values) {
            sy_free(&cut.operand[i].values);
        }
    }
    return ok;
}

static bool rows_are_independent(op_runner *runner, const op_instance *in, sy_dtype a,
                                 const op_result *whole, complaint *why)
{
    const int64_t n = n_rows(in);
    return n < 2 || (subset_agrees(runner, in, a, whole, n / 3, (n + 1) / 2, why) &&
                     subset_agrees(runner, in, a, whole, n - 1, 1, why));
}

/* ---- a case ---- */

/* The oracle's results; it must write all, and satisfy the test's own judge. */
static bool run_ref(op_runner *runner, const op_instance *in, op_result *want, complaint *why)
{
    op_loaded l;
    op_load(&l, in, runner->ref, runner->ref_stream, SY_F64);
    bool ok = execute(&l, want, why);
    for (int32_t i = 0; i < in->info->n_operands && ok; i++) {
        const op_operand *o = &in->operand[i];
        op_operand view = *o;
        view.values = want->values[i];
        for (int64_t k = 0; k < op_numel(o) && op_written(in, i) && ok; k++) {
            ok = !isnan(*op_at(&view, k));
        }
        if (!ok) {
            snprintf(why->text, sizeof why->text, "%s holds NaN after ref", o->about->name);
        }
    }
    if (ok && in->test->judge) {
        const char *wrong = in->test->judge(in, want);
        ok = !wrong;
        snprintf(why->text, sizeof why->text, "ref is wrong: %s", wrong ? wrong : "");
    }
    op_unload(&l);
    return ok;
}

/* On one device; the first one sets the bits for the others. */
static bool run_device(op_runner *runner, const op_instance *in, int32_t d, sy_dtype a,
                       const op_result *want, op_result *first, complaint *why)
{
    op_loaded l;
    op_result got = {0};
    op_load(&l, in, runner->dev[d], runner->stream[d], a);
    bool ok = execute(&l, &got, why);
    if (ok && d == 0) {
        ok = results_agree(&l, &got, want, why) && rows_are_independent(runner, in, a, &got, why);
        *first = got;
    } else if (ok) {
        ok = same_bits(&l, &got, first, why);
        op_result_free(&got);
    }
    op_unload(&l);
    return ok;
}

/* Nothing is compared. */
static void run_once(op_runner *runner, const op_instance *in, sy_dtype a)
{
    op_loaded l;
    op_result got;
    complaint why = {""};
    char text[300];
    op_load(&l, in, runner->dev[0], runner->stream[0], a);
    const bool ok = execute(&l, &got, &why);
    if (ok) {
        op_result_free(&got);
    }
    op_unload(&l);
    op_case_format(in->c, text, sizeof text);
    op_verdict(runner, ok, "%s [%s] %s on %s: %s", in->info->name, text, sy_dtype_name(a),
               runner->backend, why.text);
}

static void compare_dtype(op_runner *runner, const op_instance *in, sy_dtype a)
{
    op_result want = {0}, first = {0};
    complaint why = {""};
    char text[300];
    bool ok = run_ref(runner, in, &want, &why);
    int32_t d = 0;
    for (; ok && d < runner->n_devices; d++) {
        ok = run_device(runner, in, d, a, &want, &first, &why);
    }
    op_case_format(in->c, text, sizeof text);
    op_verdict(runner, ok, "%s [%s] %s on %s, threads %d: %s", in->info->name, text,
               sy_dtype_name(a), d > 0 ? runner->backend : "ref",
               d > 0 ? runner->dev[d - 1]->n_threads : 1, why.text);
    op_result_free(&first);
    op_result_free(&want);
}

void op_compare_case(op_runner *runner, const op_test *test, const op_case *c)
{
    static const sy_dtype compute[] = {SY_F32, SY_BF16, SY_F64};
    bool done = false;
    for (size_t k = 0; k < sizeof compute / sizeof compute[0]; k++) {
        op_instance in;
        if (!runner->dev[0]->supports[compute[k]]) {
            continue;
        }
        op_instance_build(&in, runner, test, c, compute[k], runner->dev[0]->wide);
        if (!done || op_has_compute_dtype(&in)) {
            (runner->quick ? run_once : compare_dtype)(runner, &in, compute[k]);
            done = true;
        }
        op_instance_free(&in);
    }
}
