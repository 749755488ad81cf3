/* Where the time of a step and the memory go: shares that make up a whole, as areas over steps and
   as bars. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "report/html_impl.h"
#include "report/svg.h"

enum { COLUMNS = 120, PARTS = 6, TERMS = 6, VALUE_BYTES = 48 };

/* Parts of a step that lie beside each other, as sums of metrics; those to be taken away come last.
 */
static const struct {
    const char *name, *plus[TERMS], *minus[TERMS];
} parts[PARTS] = {
    {"experts", {"perf/experts_ms"}, {NULL}},
    {"dispatch and combine", {"perf/dispatch_ms", "perf/combine_ms"}, {NULL}},
    {"rest of forward and backward",
     {"perf/forward_ms", "perf/backward_ms"},
     {"perf/experts_ms", "perf/dispatch_ms", "perf/combine_ms"}},
    {"gradients and parameters between ranks",
     {"perf/grad_sync_wait_ms", "perf/param_gather_ms"},
     {NULL}},
    {"optimizer", {"perf/optimizer_ms"}, {NULL}},
    {"waiting for data and other ranks, digests",
     {"perf/data_wait_ms", "perf/sync_ms", "perf/digest_ms"},
     {NULL}},
};

static void add(const sy__page *page, const char *key, double sign, double *sum)
{
    double column[COLUMNS];
    const sy_series *series = key != NULL ? sy__find_numbers(page->log, key) : NULL;
    if (series != NULL) {
        sy__bin(page, series, 0, COLUMNS, column);
        for (int32_t c = 0; c < COLUMNS; c++) {
            sum[c] += sign * column[c]; /* NaN: nothing was logged yet */
        }
    }
}

/* upto [PARTS + 1, COLUMNS]: where part p begins and ends in each column, in ms. */
static void stack(const sy__page *page, double upto[][COLUMNS])
{
    for (int32_t p = 0; p < PARTS; p++) {
        memset(upto[p + 1], 0, sizeof upto[p + 1]);
        for (int32_t k = 0; k < TERMS; k++) {
            add(page, parts[p].plus[k], 1, upto[p + 1]);
            add(page, parts[p].minus[k], -1, upto[p + 1]);
        }
        for (int32_t c = 0; c < COLUMNS; c++) {
            upto[p + 1][c] = upto[p][c] + fmax(upto[p + 1][c], 0);
        }
    }
}

static void write_areas(const sy__page *page, double upto[][COLUMNS])
{
    sy_text *out = page->out;
    double x[COLUMNS], lo[COLUMNS], hi[COLUMNS], top = 0;
    char css[8];
    int32_t n = 0;
    for (int32_t c = 0; c < COLUMNS; c++) {
        top = isnan(upto[PARTS][c]) ? top : fmax(top, upto[PARTS][c]);
    }
    sy_svg_plot plot = sy_svg_plot_make(520, 220, page->x_lo, page->x_hi, 0, 1.05 * top, false);
    plot.name = "Time of a step by phase";
    sy_svg_open(out, &plot);
    for (int32_t p = 0; p < PARTS; p++) {
        n = 0;
        for (int32_t c = 0; c < COLUMNS; c++) {
            if (!isnan(upto[PARTS][c])) {
                x[n] = page->x_lo + (c + 0.5) * (page->x_hi - page->x_lo) / COLUMNS;
                lo[n] = upto[p][c];
                hi[n++] = upto[p + 1][c];
            }
        }
        snprintf(css, sizeof css, "area c%d", p);
        sy_svg_band(out, &plot, x, lo, hi, n, css);
    }
    sy_svg_close(out);
}

static void open_bars(sy_text *out)
{
    sy_text_puts(out, "<table class=\"bars\">\n");
}

/* A row: name, value, a bar of its share. colour -1: none of a figure's. */
static void write_bar(sy_text *out, const char *name, int32_t colour, const char *value,
                      double share)
{
    sy_text_puts(out, "<tr><td>");
    if (colour >= 0) {
        sy_text_printf(out, "<i class=\"c%d\"></i>", colour);
    }
    sy_text_html(out, name);
    sy_text_printf(out,
                   "</td><td>%s</td><td>%.1f %%</td><td class=\"track\"><div class=\"c%d\" "
                   "style=\"width:%.1f%%\"></div></td></tr>\n",
                   value, 100 * share, colour >= 0 ? colour : 0, 100 * fmin(share, 1));
}

static double late_part(const sy__page *page, int32_t p)
{
    double sum = 0;
    for (int32_t k = 0; k < TERMS; k++) {
        double plus = parts[p].plus[k] ? sy__late(page->log, parts[p].plus[k]) : 0;
        double minus = parts[p].minus[k] ? sy__late(page->log, parts[p].minus[k]) : 0;
        sum += (isnan(plus) ? 0 : plus) - (isnan(minus) ? 0 : minus);
    }
    return fmax(sum, 0);
}

static void write_phase_bars(const sy__page *page)
{
    double step_ms = sy__late(page->log, "perf/step_ms"), rest = step_ms;
    char value[VALUE_BYTES];
    open_bars(page->out);
    for (int32_t p = 0; p < PARTS; p++) {
        double ms = late_part(page, p);
        rest -= ms;
        if (ms > 0) {
            snprintf(value, sizeof value, "%.3g ms", ms);
            write_bar(page->out, parts[p].name, p, value, ms / step_ms);
        }
    }
    snprintf(value, sizeof value, "%.3g ms", fmax(rest, 0));
    write_bar(page->out, "what no timer covers", -1, value, fmax(rest, 0) / step_ms);
    sy_text_puts(page->out, "</table>\n");
}

sy_status sy__page_phases(const sy__page *page)
{
    sy_status st = SY_OK;
    double(*upto)[COLUMNS] = NULL;
    if (sy__find_numbers(page->log, "perf/forward_ms") == NULL ||
        !(sy__late(page->log, "perf/step_ms") > 0)) {
        return SY_OK;
    }
    SY_TRY(sy_alloc(PARTS + 1, sizeof *upto, (void **)&upto));
    stack(page, upto);
    sy_text_puts(page->out,
                 "<section>\n<h2>Time of a step</h2>\n<div class=\"grid2\">\n<div "
                 "class=\"card\">\n<div class=\"head\"><h3>By phase</h3><span class=\"unit\">ms, "
                 "on rank 0</span></div>\n");
    write_areas(page, upto);
    sy_text_puts(page->out, "</div>\n<div class=\"card\">\n<div class=\"head\"><h3>Shares</h3>"
                            "<span class=\"unit\">last tenth of the run, on rank 0</span></div>\n");
    write_phase_bars(page);
    sy_text_puts(page->out, "</div>\n</div>\n<p class=\"note\">Other ranks may differ, in the time "
                            "for their experts and in waiting; <code>train --profile</code> shows "
                            "all of them.</p>\n</section>\n");
cleanup:
    sy_free(&upto);
    return st;
}

/* ---- memory ---- */

static const struct {
    const char *key, *name;
} purposes[] = {
    {"mem/params_bytes", "parameters"},
    {"mem/grads_bytes", "gradients"},
    {"mem/optim_bytes", "optimizer: moments and masters"},
    {"mem/saved_bytes", "activations kept for backward"},
    {"mem/scratch_bytes", "scratch of layers"},
    {"mem/exchange_bytes", "exchange of rows"},
    {"mem/batch_bytes", "batches"},
    {"mem/workspace_bytes", "workspaces of ops"},
    {"mem/checkpoint_bytes", "copy for checkpoints"},
    {"mem/other_bytes", "other"},
};

void sy__page_memory(const sy__page *page)
{
    enum { N = sizeof purposes / sizeof purposes[0] };
    double bytes[N], booked = 0;
    char value[VALUE_BYTES];
    const sy_series *peak = sy__find_numbers(page->log, "mem/peak_bytes");
    for (int32_t i = 0; i < N; i++) {
        const sy_series *series = sy__find_numbers(page->log, purposes[i].key);
        bytes[i] = series != NULL ? series->last : 0;
        booked += bytes[i];
    }
    if (booked <= 0) {
        return;
    }
    sy_text_printf(page->out,
                   "<section>\n<h2>Memory</h2>\n<div class=\"card\">\n<div class=\"head\"><h3>By "
                   "purpose: %s</h3><span class=\"unit\">on rank 0",
                   sy__format_value(booked, SY__BYTES, value, sizeof value));
    if (peak != NULL) {
        sy_text_printf(page->out, "; the process held %s at most, pages never touched not counted",
                       sy__format_value(peak->last, SY__BYTES, value, sizeof value));
    }
    sy_text_puts(page->out, "</span></div>\n");
    open_bars(page->out);
    for (int32_t i = 0; i < N; i++) {
        if (bytes[i] > 0) {
            write_bar(page->out, purposes[i].name, -1,
                      sy__format_value(bytes[i], SY__BYTES, value, sizeof value),
                      bytes[i] / booked);
        }
    }
    sy_text_puts(page->out, "</table>\n</div>\n<p class=\"note\">Other ranks hold other experts "
                            "and may hold more.</p>\n</section>\n");
}
