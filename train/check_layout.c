#include "train/check_layout.h"

#include <math.h>
#include <stdio.h>

#include "core/alloc.h"
#include "core/log.h"
#include "parallel/agree.h"
#include "train/trainer.h"

enum { JUDGED_STEPS = 5 };

/* A run of one layout, as rank 0 sees it. */
typedef struct record {
    double *figure; /* [steps, SY_LAYOUT_LOADS] */
    int64_t *load;  /* [steps, n_loads] choices, then those that were kept */
    int64_t n_loads;
    sy_dtype compute;
} record;

typedef struct checker {
    const sy_layout_check_spec *spec;
    char *config_yaml;
    record first, now;
} checker;

const char *sy_layout_figure_name(sy_layout_figure figure)
{
    static const char *const names[SY_N_LAYOUT_FIGURES] = {"loss", "grad_norm", "aux", "z",
                                                           "loads"};
    return names[figure];
}

/* ---- which layouts ---- */

static sy_status add(sy_layout layout, sy_layout **list, int32_t *n)
{
    sy_status st = SY_OK;
    SY_TRY(sy_realloc(*n + 1, sizeof **list, (void **)list));
    (*list)[(*n)++] = layout;
cleanup:
    return st;
}

static bool is_possible(const sy_run_settings *s, sy_layout at)
{
    return at.ep >= 1 && at.ranks % at.ep == 0 && s->moe->experts % at.ep == 0 &&
           (s->moe->experts > 0 || at.ep == 1);
}

sy_status sy_layouts_all(const sy_run_settings *settings, int32_t n_ranks, sy_layout **out,
                         int32_t *n)
{
    sy_status st = SY_OK;
    bool largest_first = settings->moe->aux_loss_scope == SY_AUX_GLOBAL_BATCH;
    sy_layout *list = NULL;
    *n = 0;
    for (int32_t i = 1; i <= n_ranks; i++) {
        sy_layout at = {.ranks = largest_first ? n_ranks + 1 - i : i};
        for (at.ep = 1; at.ep <= at.ranks; at.ep++) {
            for (at.zero = 0; at.zero <= 1 && is_possible(settings, at); at.zero++) {
                SY_TRY(add(at, &list, n));
            }
        }
    }
    *out = list;
    list = NULL;
cleanup:
    sy_free(&list);
    return st;
}

static sy_status check_spec(const sy_layout_check_spec *spec)
{
    sy_status st = SY_OK;
    int32_t experts = spec->settings->moe->experts;
    for (int32_t i = 0; i < spec->n_layouts; i++) {
        const sy_layout *at = &spec->layouts[i];
        SY_REQUIRE(at->ranks >= 1 && at->ranks <= spec->world->size, SY_ERR_USAGE,
                   "a layout of %d ranks in a job of %d", at->ranks, spec->world->size);
        SY_REQUIRE(is_possible(spec->settings, *at), SY_ERR_USAGE,
                   "ep %d does not divide %d ranks and %d experts", at->ep, at->ranks, experts);
    }
    SY_REQUIRE(spec->n_layouts > 0, SY_ERR_USAGE, "there is no layout to check");
cleanup:
    return st;
}

/* With global_batch the load fractions are those of the micro-batches so far: they are the same
   only where the ranks go through them in the same rounds. */
static bool same_rounds(const sy_run_settings *s, const sy_layout *a, const sy_layout *b)
{
    int32_t B = s->train->micro_batch, n_micro = (s->train->global_batch + B - 1) / B;
    return s->moe->experts == 0 || s->moe->aux_loss_scope != SY_AUX_GLOBAL_BATCH ||
           a->ranks == b->ranks || (a->ranks >= n_micro && b->ranks >= n_micro);
}

/* ---- one run ---- */

static sy_status record_alloc(const sy_layout_check_spec *spec, record *r)
{
    sy_status st = SY_OK;
    r->n_loads = 2 * (int64_t)spec->settings->model->layers * spec->settings->moe->experts;
    SY_TRY(sy_alloc(spec->steps * SY_LAYOUT_LOADS, sizeof *r->figure, (void **)&r->figure));
    SY_TRY(sy_alloc(spec->steps * r->n_loads, sizeof *r->load, (void **)&r->load));
cleanup:
    return st;
}

static void record_free(record *r)
{
    sy_free(&r->load);
    sy_free(&r->figure);
}

static void note(const sy_run_settings *s, const sy_step_result *step, int64_t i, record *r)
{
    double *figure = r->figure + i * SY_LAYOUT_LOADS;
    figure[SY_LAYOUT_LOSS] = step->loss;
    figure[SY_LAYOUT_NORM] = step->grad_norm;
    figure[SY_LAYOUT_AUX] = figure[SY_LAYOUT_Z] = 0;
    for (int32_t k = 0; k < s->model->layers; k++) {
        figure[SY_LAYOUT_AUX] += step->sums[(int64_t)k * SY_N_SUMS + SY_SUM_AUX];
        figure[SY_LAYOUT_Z] += step->sums[(int64_t)k * SY_N_SUMS + SY_SUM_Z];
    }
    for (int64_t k = 0; k < r->n_loads / 2; k++) {
        r->load[i * r->n_loads + k] = step->load[k];
        r->load[i * r->n_loads + r->n_loads / 2 + k] = step->kept[k];
    }
}

static sy_status train(const checker *c, const sy_layout *at, sy_comm *part, record *r)
{
    sy_status st = SY_OK;
    char ep[32], zero[32];
    const char *overrides[2] = {ep, zero};
    sy_run_settings settings = {0};
    sy_trainer *t = NULL;
    sy_trainer_spec spec = {.settings = &settings, .world = part, .threads = c->spec->threads};
    sy_step_result step;

    snprintf(ep, sizeof ep, "parallel.ep=%d", at->ep);
    snprintf(zero, sizeof zero, "parallel.zero=%d", at->zero);
    SY_TRY(sy_run_settings_parse(c->config_yaml, strlen(c->config_yaml), "the configuration",
                                 overrides, 2, &settings));
    SY_TRY(sy_trainer_create(&spec, &t));
    r->compute = t->engine->compute;
    for (int64_t i = 0; i < c->spec->steps; i++) {
        SY_TRY(sy_trainer_step(t, false, &step));
        note(&settings, &step, i, r);
    }
cleanup:
    sy_trainer_destroy(&t);
    sy_run_settings_free(&settings);
    return st;
}

/* The first ranks train, the others wait for them to agree. */
static sy_status run_layout(const checker *c, const sy_layout *at, record *r)
{
    sy_status st = SY_OK, mine = SY_OK;
    sy_comm *world = c->spec->world, *part = NULL;
    SY_TRY(
        sy_comm_split(world, world->rank < at->ranks ? 0 : -1, world->rank, NULL, "layout", &part));
    if (part != NULL) {
        mine = train(c, at, part, r);
    }
    SY_TRY(sy_agree(world, mine));
cleanup:
    sy_comm_destroy(&part);
    return st;
}

/* ---- comparing ---- */

static double gap(double a, double b)
{
    return a == b ? 0 : fabs(a - b) / fabs(a);
}

/* Half the sum of differences over the sum: choices (or kept ones) that are elsewhere. */
static double load_gap(const record *a, const record *b, int64_t step)
{
    double apart = 0, all = 0;
    for (int64_t k = step * a->n_loads; k < (step + 1) * a->n_loads; k++) {
        apart += fabs((double)(a->load[k] - b->load[k])) / 2;
        all += (double)a->load[k];
    }
    return all > 0 ? apart / all : apart;
}

static void compare(const record *a, const record *b, int64_t n_steps, sy_layout_row *row)
{
    for (int64_t i = 0; i < n_steps; i++) {
        for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
            double g = f == SY_LAYOUT_LOADS ? load_gap(a, b, i)
                                            : gap(a->figure[i * SY_LAYOUT_LOADS + f],
                                                  b->figure[i * SY_LAYOUT_LOADS + f]);
            if (i == 0 || !(g <= row->worst[f])) { /* a NaN is worst */
                row->worst[f] = g;
                row->at_step[f] = i + 1;
            }
        }
    }
}

static void set_bounds(const sy_layout_check_spec *spec, sy_dtype compute, sy_layout_check *out)
{
    double bound = compute == SY_F64 ? 1e-9 : compute == SY_F32 ? 1e-6 : 2e-2;
    out->compute = compute;
    out->n_judged = compute != SY_F64 && spec->steps > JUDGED_STEPS ? JUDGED_STEPS : spec->steps;
    for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
        out->bound[f] = f == SY_LAYOUT_LOADS && compute != SY_F64 ? INFINITY : bound;
    }
}

bool sy_layout_row_passes(const sy_layout_check *check, const sy_layout_row *row)
{
    bool ok = true;
    for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
        ok = ok && row->worst[f] <= check->bound[f];
    }
    return ok || row->skipped;
}

static sy_status run_all(checker *c, sy_layout_check *out)
{
    sy_status st = SY_OK;
    const sy_layout_check_spec *spec = c->spec;
    for (int32_t i = 0; i < spec->n_layouts; i++) {
        sy_layout_row *row = &out->row[i];
        row->layout = spec->layouts[i];
        row->skipped = !same_rounds(spec->settings, &row->layout, &spec->layouts[0]);
        if (row->skipped) {
            continue;
        }
        sy_info("check layout: %d of %d, %d ranks with ep %d, zero %d", i + 1, spec->n_layouts,
                row->layout.ranks, row->layout.ep, row->layout.zero);
        SY_TRY(run_layout(c, &row->layout, i == 0 ? &c->first : &c->now));
        if (i == 0) {
            set_bounds(spec, c->first.compute, out);
        } else {
            compare(&c->first, &c->now, out->n_judged, row);
        }
    }
cleanup:
    return st;
}

/* Only rank 0 was in all of them. */
static sy_status share(sy_comm *world, sy_layout_check *check)
{
    sy_status st = SY_OK;
    int64_t bytes = check->n * (int64_t)sizeof *check->row;
    SY_TRY(sy_host_broadcast(world, check->row, bytes, 0, "layout check"));
    SY_TRY(sy_host_broadcast(world, &check->compute, sizeof check->compute, 0, "layout check"));
    SY_TRY(sy_host_broadcast(world, &check->n_judged, sizeof check->n_judged, 0, "layout check"));
    SY_TRY(sy_host_broadcast(world, check->bound, sizeof check->bound, 0, "layout check"));
cleanup:
    return st;
}

static sy_status prepare(checker *c, sy_layout_check *check)
{
    sy_status st = SY_OK;
    SY_TRY(sy_config_echo(c->spec->settings->config, &c->config_yaml));
    SY_TRY(record_alloc(c->spec, &c->first));
    SY_TRY(record_alloc(c->spec, &c->now));
    SY_TRY(sy_alloc(c->spec->n_layouts, sizeof *check->row, (void **)&check->row));
    check->n = c->spec->n_layouts;
cleanup:
    return st;
}

sy_status sy_check_layout(const sy_layout_check_spec *spec, sy_layout_check *out)
{
    sy_status st = SY_OK;
    checker c = {.spec = spec};
    sy_layout_check check = {0};
    SY_TRY(check_spec(spec));
    SY_TRY(sy_agree(spec->world, prepare(&c, &check)));
    SY_TRY(run_all(&c, &check));
    SY_TRY(share(spec->world, &check));
    *out = check;
    check = (sy_layout_check){0};
cleanup:
    sy_layout_check_free(&check);
    record_free(&c.now);
    record_free(&c.first);
    sy_free(&c.config_yaml);
    return st;
}

void sy_layout_check_free(sy_layout_check *check)
{
    sy_free(&check->row);
    *check = (sy_layout_check){0};
}
