/* The results of the checks: tables of at most 120 columns, or JSON. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "launch/bench_impl.h"
#include "launch/check_impl.h"
#include "train/batch_ramp.h"

enum { CELL_BYTES = 128 };

/* ---- layouts, as a table ---- */

/* What two layouts must have in common to have the same loss. */
static const char *held_fixed(const sy_run_settings *s)
{
    bool rounds = s->moe->experts > 0 && s->moe->aux_loss_scope == SY_AUX_GLOBAL_BATCH;
    const bool capacity = s->moe->experts > 0 && s->moe->capacity_factor.set;
    if (capacity && s->moe->capacity_scope == SY_CAPACITY_GLOBAL) {
        return sy_layout_micro_batch_is_free(s)
                   ? "the sequences of each round of accumulation, in which capacity is counted"
                   : "the micro-batch, over which the balance loss is taken, or the router decides";
    }
    if (capacity) {
        return rounds ? "the micro-batch, in which capacity is counted, and the sequences of each "
                        "round of\naccumulation, whose loads the balance loss of global_batch sees"
                      : "the micro-batch, in which capacity is counted";
    }
    if (rounds) {
        return "the sequences of each round of accumulation, whose loads the balance loss of "
               "global_batch sees";
    }
    return sy_layout_micro_batch_is_free(s) ? "nothing; micro-batches may be cut and dealt in any "
                                              "way"
                                            : "the micro-batch, over which the balance loss is "
                                              "taken, or the router decides";
}

static int label_width(const sy_layout_check *check)
{
    char text[SY_LAYOUT_TEXT];
    int width = 9;
    for (int32_t i = 0; i < check->n; i++) {
        int n = (int)strlen(sy_layout_format(&check->row[i].layout, text));
        width = n > width ? n : width;
    }
    return width;
}

/* Widths of the columns; the last one is open. */
static const int widths[SY_N_LAYOUT_FIGURES] = {10, 10, 12, 12, 8, 0};

static void print_layout_head(const sy_run_settings *s, const sy_layout_check *check, int64_t steps,
                              int left)
{
    char first[SY_LAYOUT_TEXT], batch[64];
    printf("check layout: %ld steps on %s in %s, global batch %s in micro-batches of %d\n",
           (long)steps, s->device->backend, sy_dtype_name(check->compute),
           sy_batch_ramp_format(s, steps, batch, sizeof batch), s->train->micro_batch);
    printf("held fixed by definition: %s\n", held_fixed(s));
    if (check->n_judged_gradient < steps) {
        printf("judged: the first %ld steps, gradients of the first; one flipped choice of an "
               "expert grows\n",
               (long)check->n_judged);
    }
    printf("worst relative deviation from %s @step/layer; layout = RANKS:EP:ZERO\n\n%-*s",
           sy_layout_format(&check->row[0].layout, first), left, "layout");
    for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
        printf(" %-*s", widths[f], sy_layout_figure_name((sy_layout_figure)f));
    }
    putchar('\n');
}

static void format_deviation(const sy_layout_check *check, const sy_layout_row *row,
                             sy_layout_figure f, char cell[CELL_BYTES])
{
    const sy_layout_deviation *d = &row->worst[f];
    int used = snprintf(cell, CELL_BYTES, "%.1e@%ld", d->value, (long)d->step);
    if (d->value == 0) {
        snprintf(cell, CELL_BYTES, "0");
        return;
    }
    if (d->layer >= 0) {
        used += snprintf(cell + used, CELL_BYTES - (size_t)used, "/%d", d->layer);
    }
    if (!sy_layout_row_passes(check, row, f)) {
        used += snprintf(cell + used, CELL_BYTES - (size_t)used, "!");
    }
    if (f == SY_LAYOUT_GRADIENT) {
        used += snprintf(cell + used, CELL_BYTES - (size_t)used, " %s", d->param.name);
    }
    if (f == SY_LAYOUT_GRADIENT && d->param.expert >= 0) {
        snprintf(cell + used, CELL_BYTES - (size_t)used, "[%d]", d->param.expert);
    }
}

static void print_layout_row(const sy_layout_check *check, int32_t i, int left)
{
    const sy_layout_row *row = &check->row[i];
    char text[SY_LAYOUT_TEXT], cell[CELL_BYTES];
    printf("%-*s", left, sy_layout_format(&row->layout, text));
    if (i == 0 || row->skipped) {
        printf(" %s\n", i == 0 ? "what the others are compared with"
                               : "skipped: other rounds of accumulation");
        return;
    }
    for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
        format_deviation(check, row, (sy_layout_figure)f, cell);
        printf(" %-*s", widths[f], cell);
    }
    putchar('\n');
}

static void print_bounds(const sy_layout_check *check, int left)
{
    printf("%-*s", left, "bound");
    for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
        char cell[CELL_BYTES] = "none";
        if (isfinite(check->bound[f])) {
            snprintf(cell, sizeof cell, "%.0e", check->bound[f]);
        }
        printf(" %-*s", widths[f], cell);
    }
    putchar('\n');
}

/* ---- layouts, as JSON ---- */

/* JSON has no NaN and no infinity. */
static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *deviation_json(const sy_layout_deviation *d)
{
    json_t *o = json_pack("{s:o, s:I}", "value", number(d->value), "step", (json_int_t)d->step);
    if (d->layer >= 0) {
        json_object_set_new(o, "layer", json_integer(d->layer));
    }
    if (d->param.name[0] != '\0') {
        json_object_set_new(o, "param", json_string(d->param.name));
    }
    if (d->param.expert >= 0) {
        json_object_set_new(o, "expert", json_integer(d->param.expert));
    }
    return o;
}

static json_t *row_json(const sy_layout_check *check, int32_t i)
{
    const sy_layout_row *row = &check->row[i];
    char text[SY_LAYOUT_TEXT];
    json_t *worst = json_object();
    bool passes = true;
    for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES && i > 0 && !row->skipped; f++) {
        passes = passes && sy_layout_row_passes(check, row, (sy_layout_figure)f);
        json_object_set_new(worst, sy_layout_figure_name((sy_layout_figure)f),
                            deviation_json(&row->worst[f]));
    }
    return json_pack("{s:s, s:i, s:i, s:i, s:b, s:o, s:o}", "layout",
                     sy_layout_format(&row->layout, text), "ranks", row->layout.ranks, "ep",
                     row->layout.ep, "zero", row->layout.zero, "skipped", row->skipped, "passes",
                     row->skipped ? json_null() : json_boolean(passes), "worst", worst);
}

static sy_status print_layout_json(const sy_run_settings *s, const sy_layout_check *check,
                                   int64_t steps)
{
    sy_status st = SY_OK;
    json_t *bounds = json_object(), *rows = json_array(), *all = NULL;
    for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
        json_object_set_new(bounds, sy_layout_figure_name((sy_layout_figure)f),
                            number(check->bound[f]));
    }
    for (int32_t i = 0; i < check->n; i++) {
        json_array_append_new(rows, row_json(check, i));
    }
    all = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:i, s:i, s:s, s:o, s:o}", "check", "layout",
                    "backend", s->device->backend, "dtype", sy_dtype_name(check->compute), "steps",
                    (json_int_t)steps, "judged_steps", (json_int_t)check->n_judged,
                    "judged_gradient_steps", (json_int_t)check->n_judged_gradient, "global_batch",
                    s->train->global_batch, "micro_batch", s->train->micro_batch, "held_fixed",
                    held_fixed(s), "bounds", bounds, "layouts", rows);
    SY_TRY(sy__print_json(all));
cleanup:
    json_decref(all);
    return st;
}

sy_status sy__print_layout_check(const sy_run_settings *settings, const sy_layout_check *check,
                                 int64_t steps, bool json)
{
    const int left = label_width(check);
    if (json) {
        return print_layout_json(settings, check, steps);
    }
    print_layout_head(settings, check, steps, left);
    for (int32_t i = 0; i < check->n; i++) {
        print_layout_row(check, i, left);
    }
    print_bounds(check, left);
    return fflush(stdout) == 0 ? SY_OK : sy_error(SY_ERR_IO, "the table cannot be written");
}

/* ---- gradients ---- */

static void print_gradient_head(const sy_run_settings *s, const sy_gradient_check *c)
{
    printf("check gradients: %d sequences of %d tokens on %s in %s, ep %d, loss %.6f\n",
           c->sequences, c->seq_len, s->device->backend, sy_dtype_name(c->compute), c->ep, c->loss);
    if (c->by_differences) {
        printf("central differences of cross-entropy, balance loss and z-loss together, with step "
               "2^-11, then 2^-14\nand 2^-17 where that is not near enough; %ld evaluations\n",
               (long)c->n_evaluations);
    } else {
        printf("compared with the gradients of ref in f64%s\n",
               s->moe->experts > 0 ? "; every token goes to the same experts there" : "");
    }
    if (s->moe->experts > 0 && s->moe->jitter > 0) {
        printf("moe.jitter: the same draws in every evaluation\n");
    }
    printf("\n%-32s %7s %8s %8s  %s\n", "parameter", "tensors",
           c->by_differences ? "elements" : "parts", c->by_differences ? "flipped" : "",
           "worst relative error, and where");
}

static void print_gradient_row(const sy_gradient_check *c, const sy_gradient_row *r)
{
    char where[CELL_BYTES] = "", expert[32] = "", flipped[16] = "";
    if (r->param.expert >= 0) {
        snprintf(expert, sizeof expert, "[%d]", r->param.expert);
    }
    if (c->by_differences) {
        snprintf(where, sizeof where, "%s%s #%ld: %.6g", r->param.name, expert, (long)r->index,
                 r->gradient);
    } else {
        snprintf(where, sizeof where, "%s%s", r->param.name, expert);
    }
    if (r->n_checked == 0) {
        snprintf(where, sizeof where, "not checked: any nudge sends a token to another expert");
    }
    if (c->by_differences) {
        snprintf(flipped, sizeof flipped, "%d", r->n_flipped);
    }
    printf("%-32s %7d %8d %8s  %.1e%s %s\n", r->kind, r->n_tensors, r->n_checked, flipped, r->worst,
           r->worst <= c->bound ? "" : "!", where);
}

static json_t *gradient_row_json(const sy_gradient_check *c, const sy_gradient_row *r)
{
    return json_pack("{s:s, s:i, s:i, s:i, s:o, s:b, s:s, s:i, s:I, s:o, s:o}", "kind", r->kind,
                     "tensors", r->n_tensors, "checked", r->n_checked, "flipped", r->n_flipped,
                     "worst", number(r->worst), "passes", r->worst <= c->bound, "param",
                     r->param.name, "expert", r->param.expert, "index", (json_int_t)r->index,
                     "gradient", number(r->gradient), c->by_differences ? "difference" : "ref",
                     number(r->difference));
}

static sy_status print_gradient_json(const sy_run_settings *s, const sy_gradient_check *c)
{
    sy_status st = SY_OK;
    json_t *rows = json_array(), *all = NULL;
    for (int32_t i = 0; i < c->n; i++) {
        json_array_append_new(rows, gradient_row_json(c, &c->row[i]));
    }
    all = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:I, s:I, s:o}", "check",
                    "gradients", "against", c->by_differences ? "differences" : "ref", "backend",
                    s->device->backend, "dtype", sy_dtype_name(c->compute), "ep", c->ep,
                    "sequences", c->sequences, "seq_len", c->seq_len, "loss", c->loss, "bound",
                    c->bound, "evaluations", (json_int_t)c->n_evaluations, "choices",
                    (json_int_t)c->n_choices, "parameters", rows);
    SY_TRY(sy__print_json(all));
cleanup:
    json_decref(all);
    return st;
}

sy_status sy__print_gradient_check(const sy_run_settings *settings, const sy_gradient_check *check,
                                   bool json)
{
    if (json) {
        return print_gradient_json(settings, check);
    }
    print_gradient_head(settings, check);
    for (int32_t i = 0; i < check->n; i++) {
        print_gradient_row(check, &check->row[i]);
    }
    printf("%-32s %7s %8s %8s  %.0e\n", "bound", "", "", "", check->bound);
    return fflush(stdout) == 0 ? SY_OK : sy_error(SY_ERR_IO, "the table cannot be written");
}
