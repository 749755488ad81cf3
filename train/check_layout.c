#include "train/check_layout.h"

#include <stdio.h>

#include "core/alloc.h"
#include "core/log.h"
#include "parallel/agree.h"
#include "report/progress.h"
#include "train/check_impl.h"

enum { JUDGED_STEPS = 5, PROGRESS_S = 10 };

/* Figures that are one number per step, or one per layer and step. */
enum { N_PER_STEP = SY_LAYOUT_NORM + 1, N_PER_LAYER = SY_LAYOUT_Z - SY_LAYOUT_NORM };

/* A run of one layout, as rank 0 sees it. */
typedef struct record {
    double *whole;     /* [steps, N_PER_STEP] */
    double *layer;     /* [steps, L, N_PER_LAYER] */
    int64_t *load;     /* [steps, 2, L, E] choices, then those that were kept */
    sy_digest *digest; /* [steps] */
    sy_dtype compute;
} record;

typedef struct checker {
    const sy_layout_check_spec *spec;
    char *config_yaml;
    record first, now;
    sy_progress *progress;
    int64_t n_done, L, E;
} checker;

const char *sy_layout_figure_name(sy_layout_figure figure)
{
    static const char *const names[SY_N_LAYOUT_FIGURES] = {"loss", "grad_norm", "aux",
                                                           "z",    "loads",     "gradient"};
    return names[figure];
}

/* ---- one run ---- */

static sy_status record_alloc(const checker *c, record *r)
{
    sy_status st = SY_OK;
    const int64_t n = c->spec->steps;
    SY_TRY(sy_alloc(n * N_PER_STEP, sizeof *r->whole, (void **)&r->whole));
    SY_TRY(sy_alloc(n * c->L * N_PER_LAYER, sizeof *r->layer, (void **)&r->layer));
    SY_TRY(sy_alloc(n * 2 * c->L * c->E, sizeof *r->load, (void **)&r->load));
    SY_TRY(sy_alloc(n, sizeof *r->digest, (void **)&r->digest));
cleanup:
    return st;
}

static void record_free(const checker *c, record *r)
{
    for (int64_t i = 0; r->digest != NULL && i < c->spec->steps; i++) {
        sy_digest_free(&r->digest[i]);
    }
    sy_free(&r->digest);
    sy_free(&r->load);
    sy_free(&r->layer);
    sy_free(&r->whole);
}

static void note(const checker *c, const sy_step_result *step, int64_t i, record *r)
{
    const int64_t n = c->L * c->E;
    r->whole[i * N_PER_STEP + SY_LAYOUT_LOSS] = step->loss;
    r->whole[i * N_PER_STEP + SY_LAYOUT_NORM] = step->grad_norm;
    for (int64_t k = 0; k < c->L; k++) {
        r->layer[(i * c->L + k) * N_PER_LAYER] = step->sums[k * SY_N_SUMS + SY_SUM_AUX];
        r->layer[(i * c->L + k) * N_PER_LAYER + 1] = step->sums[k * SY_N_SUMS + SY_SUM_Z];
    }
    for (int64_t k = 0; k < n; k++) {
        r->load[i * 2 * n + k] = step->load[k];
        r->load[i * 2 * n + n + k] = step->kept[k];
    }
}

static sy_status plant(checker *c, const sy_layout *at, bool reduced, sy_trainer *t)
{
    const sy_layout_plant *p = c->spec->plant;
    if (p == NULL || (reduced ? p->reduced : p->made) == NULL) {
        return SY_OK;
    }
    return (reduced ? p->reduced : p->made)(p->self, at, t);
}

static sy_status run_step(checker *c, const sy_layout *at, sy_trainer *t, int64_t i, record *r)
{
    sy_status st = SY_OK;
    sy_step_result step;
    SY_TRY(sy_trainer_gradients(t, false, &step));
    SY_TRY(plant(c, at, true, t));
    note(c, &step, i, r);
    SY_TRY(sy_digest_take(t->engine->params, t->engine->compute_stream, &r->digest[i]));
    SY_TRY(sy_trainer_update(t, &step));
    if (c->progress != NULL) {
        char text[SY_LAYOUT_TEXT];
        sy_progress_update(c->progress, ++c->n_done, sy_layout_format(at, text));
    }
cleanup:
    return st;
}

static sy_status train(checker *c, const sy_layout *at, sy_comm *part, record *r)
{
    sy_status st = SY_OK;
    char text[SY_LAYOUT_OVERRIDES][SY_LAYOUT_TEXT];
    const char *overrides[SY_LAYOUT_OVERRIDES];
    sy_run_settings settings = {0};
    sy_trainer *t = NULL;
    sy_trainer_spec spec = {.settings = &settings, .world = part, .threads = c->spec->threads};
    int32_t n = sy_layout_overrides(at, text, overrides);

    SY_TRY(sy_agree(part, sy_run_settings_parse(c->config_yaml, strlen(c->config_yaml),
                                                "the configuration", overrides, n, &settings)));
    SY_TRY(sy_trainer_create(&spec, &t));
    SY_TRY(plant(c, at, false, t));
    r->compute = t->engine->compute;
    for (int64_t i = 0; i < c->spec->steps; i++) {
        SY_TRY(run_step(c, at, t, i, r));
    }
cleanup:
    sy_trainer_destroy(&t);
    sy_run_settings_free(&settings);
    return st;
}

/* The first ranks train, the others wait for them to agree. */
static sy_status run_layout(checker *c, const sy_layout *at, record *r)
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

/* Steps come in order. */
static void book(const sy_layout_check *check, sy_layout_row *row, sy_layout_figure f,
                 sy_layout_deviation now)
{
    sy_layout_deviation *first = &row->first[f];
    if (row->worst[f].step == 0 || sy__is_worse(now.value, row->worst[f].value)) {
        row->worst[f] = now;
    }
    if (!(now.value <= check->bound[f]) &&
        (first->step == 0 || (first->step == now.step && sy__is_worse(now.value, first->value)))) {
        *first = now;
    }
}

/* Half the sum of differences over the sum: choices (or kept ones) that are elsewhere. */
static double load_gap(const int64_t *a, const int64_t *b, int64_t n)
{
    double apart = 0, all = 0;
    for (int64_t k = 0; k < n; k++) {
        apart += fabs((double)(a[k] - b[k])) / 2;
        all += (double)a[k];
    }
    return all > 0 ? apart / all : apart;
}

static void compare_step(const checker *c, const sy_layout_check *check, int64_t i,
                         sy_layout_row *row)
{
    const record *a = &c->first, *b = &c->now;
    for (int32_t f = 0; f < N_PER_STEP; f++) {
        int64_t k = i * N_PER_STEP + f;
        book(check, row, (sy_layout_figure)f,
             (sy_layout_deviation){gap(a->whole[k], b->whole[k]), i + 1, -1, {{0}, -1}});
    }
    for (int32_t layer = 0; layer < c->L; layer++) {
        int64_t load = (2 * i * c->L + layer) * c->E, kept = load + c->L * c->E;
        for (int32_t f = 0; f < N_PER_LAYER; f++) {
            int64_t k = (i * c->L + layer) * N_PER_LAYER + f;
            book(check, row, (sy_layout_figure)(SY_LAYOUT_AUX + f),
                 (sy_layout_deviation){gap(a->layer[k], b->layer[k]), i + 1, layer, {{0}, -1}});
        }
        book(check, row, SY_LAYOUT_LOADS,
             (sy_layout_deviation){fmax(load_gap(a->load + load, b->load + load, c->E),
                                        load_gap(a->load + kept, b->load + kept, c->E)),
                                   i + 1,
                                   layer,
                                   {{0}, -1}});
    }
}

/* Below this part of the whole gradient's norm, a tensor's rounding errors are those of the whole.
 */
static double norm_floor(sy_dtype compute)
{
    return compute == SY_F64 ? 1e-6 : 1e-3;
}

static void compare(const checker *c, const sy_layout_check *check, sy_layout_row *row)
{
    for (int64_t i = 0; i < check->n_judged; i++) {
        compare_step(c, check, i, row);
    }
    for (int64_t i = 0; i < check->n_judged_gradient && c->first.digest[i].n > 0; i++) {
        int32_t at = 0;
        double g =
            sy_digest_gap(&c->first.digest[i], &c->now.digest[i], norm_floor(check->compute), &at);
        book(check, row, SY_LAYOUT_GRADIENT,
             (sy_layout_deviation){g, i + 1, -1, c->first.digest[i].entry[at]});
    }
}

/* On ref what double leaves; else some ten times what was measured (docs/NUMERICS.md). */
static void set_bounds(const sy_layout_check_spec *spec, sy_dtype compute, sy_layout_check *out)
{
    const bool exact = compute == SY_F64;
    const double bound = exact ? 1e-9 : compute == SY_F32 ? 1e-5 : 2e-2;
    out->compute = compute;
    out->n_judged = !exact && spec->steps > JUDGED_STEPS ? JUDGED_STEPS : spec->steps;
    out->n_judged_gradient = exact ? spec->steps : 1;
    for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
        out->bound[f] = bound;
    }
    out->bound[SY_LAYOUT_LOSS] = compute == SY_F32 ? 1e-6 : bound;
    out->bound[SY_LAYOUT_LOADS] = exact ? bound : INFINITY;
}

bool sy_layout_row_passes(const sy_layout_check *check, const sy_layout_row *row,
                          sy_layout_figure figure)
{
    return row->skipped || row->worst[figure].value <= check->bound[figure];
}

static sy_status run_all(checker *c, sy_layout_check *out)
{
    sy_status st = SY_OK;
    const sy_layout_check_spec *spec = c->spec;
    for (int32_t i = 0; i < out->n; i++) {
        sy_layout_row *row = &out->row[i];
        if (row->skipped) {
            continue;
        }
        SY_TRY(run_layout(c, &row->layout, i == 0 ? &c->first : &c->now));
        if (i == 0) {
            set_bounds(spec, c->first.compute, out);
        } else if (spec->world->rank == 0) {
            compare(c, out, row);
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
    sy_layout_check head = *check;
    SY_TRY(sy_host_broadcast(world, check->row, bytes, 0, "layout check"));
    SY_TRY(sy_host_broadcast(world, &head, sizeof head, 0, "layout check"));
    head.row = check->row;
    *check = head;
cleanup:
    return st;
}

static sy_status check_spec(const sy_layout_check_spec *spec)
{
    sy_status st = SY_OK;
    SY_REQUIRE(spec->n_layouts > 0, SY_ERR_USAGE, "there is no layout to check");
    for (int32_t i = 0; i < spec->n_layouts; i++) {
        SY_TRY(sy_layout_require(spec->settings, spec->world->size, &spec->layouts[i]));
    }
cleanup:
    return st;
}

/* What each rank does alone. */
static sy_status prepare(checker *c, sy_layout_check *check)
{
    sy_status st = SY_OK;
    const sy_layout_check_spec *spec = c->spec;
    sy_progress_spec progress = {.what = "step", .plain_s = PROGRESS_S};
    c->L = sy_model_blocks(spec->settings->model);
    c->E = spec->settings->moe->experts;
    SY_TRY(check_spec(spec));
    SY_TRY(sy_config_echo(spec->settings->config, &c->config_yaml));
    SY_TRY(record_alloc(c, &c->first));
    SY_TRY(record_alloc(c, &c->now));
    SY_TRY(sy_alloc(spec->n_layouts, sizeof *check->row, (void **)&check->row));
    check->n = spec->n_layouts;
    int32_t n_compared = -1; /* the first is what the others are compared with */
    for (int32_t i = 0; i < check->n; i++) {
        check->row[i].layout = spec->layouts[i];
        check->row[i].skipped =
            !sy_layout_same_rounds(spec->settings, &spec->layouts[i], &spec->layouts[0]);
        progress.total += check->row[i].skipped ? 0 : spec->steps;
        n_compared += !check->row[i].skipped;
    }
    SY_REQUIRE(n_compared > 0, SY_ERR_USAGE,
               "check layout: there is nothing to compare; give two layouts that go through the "
               "micro-batches in the same rounds");
    if (spec->progress && spec->world->rank == 0) {
        SY_TRY(sy_progress_create(&progress, &c->progress));
    }
cleanup:
    return st;
}

sy_status sy_check_layout(const sy_layout_check_spec *spec, sy_layout_check *out)
{
    sy_status st = SY_OK;
    checker c = {.spec = spec};
    sy_layout_check check = {0};
    SY_TRY(sy_agree(spec->world, prepare(&c, &check)));
    SY_TRY(run_all(&c, &check));
    SY_TRY(share(spec->world, &check));
    *out = check;
    check = (sy_layout_check){0};
cleanup:
    sy_progress_destroy(&c.progress);
    sy_layout_check_free(&check);
    record_free(&c, &c.now);
    record_free(&c, &c.first);
    sy_free(&c.config_yaml);
    return st;
}

void sy_layout_check_free(sy_layout_check *check)
{
    sy_free(&check->row);
    *check = (sy_layout_check){0};
}

/* ---- the verdict ---- */

static void format_place(const sy_layout_deviation *d, char *buf, size_t buf_bytes)
{
    if (d->param.expert >= 0) {
        snprintf(buf, buf_bytes, " of %s, expert %d,", d->param.name, d->param.expert);
    } else if (d->param.name[0] != '\0') {
        snprintf(buf, buf_bytes, " of %s", d->param.name);
    } else if (d->layer >= 0) {
        snprintf(buf, buf_bytes, " of layer %d", d->layer);
    } else {
        buf[0] = '\0';
    }
}

/* An earlier step decides, then how far over its bound. */
static bool comes_first(const sy_layout_check *check, const sy_layout_deviation *a,
                        int32_t figure_a, const sy_layout_deviation *b, int32_t figure_b)
{
    if (a->step == 0 || b->step == 0 || a->step != b->step) {
        return a->step > 0 && (b->step == 0 || a->step < b->step);
    }
    return sy__is_worse(a->value / check->bound[figure_a], b->value / check->bound[figure_b]);
}

sy_status sy_layout_check_verdict(const sy_layout_check *check)
{
    sy_status st = SY_OK;
    int32_t row = 0, figure = 0;
    const sy_layout_deviation *found = &check->row[0].first[0];
    char layout[SY_LAYOUT_TEXT], first[SY_LAYOUT_TEXT], place[SY_PARAM_NAME + 32];
    for (int32_t i = 1; i < check->n; i++) {
        for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
            if (comes_first(check, &check->row[i].first[f], f, found, figure)) {
                found = &check->row[i].first[f];
                row = i;
                figure = f;
            }
        }
    }
    format_place(found, place, sizeof place);
    SY_REQUIRE(row == 0, SY_ERR_NUMERIC,
               "check layout: %s%s in layout %s deviates from layout %s by %.2e at step %ld; "
               "allowed is %.0e",
               sy_layout_figure_name((sy_layout_figure)figure), place,
               sy_layout_format(&check->row[row].layout, layout),
               sy_layout_format(&check->row[0].layout, first), found->value, (long)found->step,
               check->bound[figure]);
cleanup:
    return st;
}
