#include "tests/parity/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "tests/support/mpi_assert.h"

/* ---- comparing ---- */

static double worse(double a, double b)
{
    return !(b <= a) ? b : a; /* a NaN is worst */
}

/* Largest difference, relative to the largest value. */
static double gap_to_largest(const double *a, const double *b, int64_t n)
{
    double gap = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        gap = worse(gap, fabs(a[i] - b[i]));
        largest = fmax(largest, fabs(b[i]));
    }
    return gap / largest;
}

/* Norm of the difference, relative to the norm; of what is all zero, the norm itself. */
static double gap_to_norm(const double *a, const double *b, int64_t n)
{
    double gap = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        gap += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return sqrt(norm > 0 ? gap / norm : gap);
}

static double gap_rms(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    }
    return sqrt(sum / (double)n);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median_gap(const double *a, const double *b, int64_t rows, int64_t n)
{
    double *gaps = calloc((size_t)rows, sizeof *gaps), median;
    for (int64_t i = 0; i < rows; i++) {
        gaps[i] = gap_rms(a + i * n, b + i * n, n);
    }
    qsort(gaps, (size_t)rows, sizeof *gaps, by_size);
    median = gaps[rows / 2];
    free(gaps);
    return median;
}

static double gap(double a, double b)
{
    return fabs(a - b) / fabs(b);
}

/* ---- the parts ---- */

double *expected(const fixture *f, const char *name, int64_t *n)
{
    int64_t shape[3];
    double *values = fixture_read(f, name, shape);
    if (values == NULL) {
        print_error("%s/expected.safetensors has no tensor '%s'\n", f->dir, name);
    }
    assert_all(values != NULL);
    *n = shape[0] * shape[1] * shape[2];
    return values;
}

void compare_logits(const subject *s, const char *name, deviation *d)
{
    int64_t n = 0;
    double *want = expected(s->spec.fixture, name, &n), *have = NULL;
    assert_all_ok(sy_alloc(n, sizeof *have, (void **)&have));
    assert_all_ok(subject_logits(s, have));
    d->logits = gap_to_largest(have, want, n);
    sy_free(&have);
    sy_free(&want);
}

/* Our gradients in the places of their tensors. What the map fills with a constant has none. */
static void to_their_names(const sy_hf_map *map, double **ours, double **theirs)
{
    for (int32_t i = 0; i < map->n_their; i++) {
        int64_t n = 1;
        for (int32_t k = 0; k < map->their[i].n_dim; k++) {
            n *= map->their[i].shape[k];
        }
        assert_all_ok(sy_alloc(n, sizeof(double), (void **)&theirs[i]));
    }
    for (int32_t i = 0; i < map->n_links; i++) {
        const sy_hf_link *l = &map->link[i];
        assert_all(l->our >= 0 && l->scale == 1); /* nothing here needs a trick to be stored */
        memcpy(theirs[l->their] + l->their_first, ours[l->our] + l->our_first,
               (size_t)l->n * sizeof(double));
    }
}

static void compare_gradients(subject *s, sy_step_result *step, deviation *d)
{
    const sy_hf_map *map = &s->map;
    double **ours = calloc((size_t)map->n_our, sizeof *ours);
    double **theirs = calloc((size_t)map->n_their, sizeof *theirs);
    int64_t n_seen = 0;
    assert_all_ok(subject_gradients(s, ours, step));
    to_their_names(map, ours, theirs);
    for (int32_t i = 0; i < map->n_their; i++) {
        char name[SY_HF_NAME + 8];
        int64_t n = 0;
        snprintf(name, sizeof name, "grad/%s", map->their[i].name);
        double *want = expected(s->spec.fixture, name, &n), g = gap_to_norm(theirs[i], want, n);
        if (!(g <= d->gradient)) {
            d->gradient = g;
            snprintf(d->where, sizeof d->where, "%s", map->their[i].name);
        }
        n_seen++;
        sy_free(&want);
        sy_free(&theirs[i]);
    }
    for (int64_t i = 0; i < s->spec.fixture->expected->n; i++) {
        n_seen -= strncmp(s->spec.fixture->expected->tensor[i].name, "grad/", 5) == 0;
    }
    assert_all(n_seen == 0); /* no parameter of theirs was left out */
    for (int32_t i = 0; i < map->n_our; i++) {
        sy_free(&ours[i]);
    }
    free(theirs);
    free(ours);
}

/* Balance and z-loss of one step; the fixture has the MoE layers alone. */
static void compare_router(const subject *s, const sy_step_result *step, int64_t at,
                           const double *aux, const double *z, int64_t n_moe, deviation *d)
{
    int64_t k = 0;
    for (int32_t i = 0; i < s->settings.model->layers && n_moe > 0; i++) {
        const double *sums = step->sums + (int64_t)i * SY_N_SUMS;
        if (sy_moe_config_layer(s->settings.moe, i)) {
            assert_all(k < n_moe);
            d->aux = worse(d->aux, gap(sums[SY_SUM_AUX], aux[at * n_moe + k]));
            d->z = worse(d->z, gap(sums[SY_SUM_Z], z[at * n_moe + k]));
            k++;
        }
    }
    assert_all(k == n_moe);
}

/* The library's own balance loss is K times ours where one layer routes and f counts over the
 * batch.
 */
static void compare_library_aux(const subject *s, const sy_step_result *step, deviation *d)
{
    int64_t shape[3];
    double *want = fixture_read(s->spec.fixture, "hf_aux_loss", shape), have = 0;
    if (want != NULL) {
        for (int32_t i = 0; i < s->settings.model->layers; i++) {
            have += step->sums[(int64_t)i * SY_N_SUMS + SY_SUM_AUX];
        }
        d->aux = worse(d->aux, gap(have * s->settings.moe->top_k, *want));
    }
    sy_free(&want);
}

/* Gradients of the first step, then all steps. */
void compare_training(subject *s, const char *loss_name, deviation *d)
{
    const fixture *f = s->spec.fixture;
    bool routed = s->settings.moe->experts > 0;
    int64_t n = 0, n_aux = 0;
    double *first = expected(f, loss_name, &n);
    double *loss = expected(f, "loss", &n), *norm = expected(f, "grad_norm", &n);
    double *aux = routed ? expected(f, "aux", &n_aux) : NULL;
    double *z = routed ? expected(f, "z", &n_aux) : NULL;
    sy_step_result step;
    for (int64_t i = 0; i < n; i++) {
        if (i == 0) {
            compare_gradients(s, &step, d);
            compare_library_aux(s, &step, d);
            d->loss = gap(step.loss, *first);
        } else {
            assert_all_ok(sy_trainer_gradients(s->trainer, false, &step));
        }
        assert_all(step.verdict == SY_STEP_DONE);
        d->curve = worse(d->curve, gap(step.loss, loss[i]));
        d->norm = worse(d->norm, gap(step.grad_norm, norm[i]));
        compare_router(s, &step, i, aux, z, n_aux / n, d);
        assert_all_ok(sy_trainer_update(s->trainer, &step));
    }
    assert_all(n >= 20);
    sy_free(&z);
    sy_free(&aux);
    sy_free(&norm);
    sy_free(&loss);
    sy_free(&first);
}
