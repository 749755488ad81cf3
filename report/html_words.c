/* What the page says in words and figures: the tiles at its head, the warnings, the tables at its
 * end. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "report/health.h"
#include "report/html_impl.h"
#include "report/progress.h"

enum { VALUE_BYTES = 48, LIST_BYTES = 120, LAYERS_NAMED = 6, LINES_TO_JUDGE = 20 };

#define RISE_LIMIT 1.03 /* last validation loss over its best */

static const struct {
    const char *key, *label;
    sy__unit unit;
} rows[] = {
    {"train/loss", "Training loss (nats per token)", SY__PLAIN},
    {"moe/aux_loss", "Load-balance loss", SY__PLAIN},
    {"moe/z_loss", "Router z-loss", SY__PLAIN},
    {"moe/load_max_over_mean", "Expert load, max / mean", SY__PLAIN},
    {"moe/drop_fraction", "Dropped rows", SY__PERCENT},
    {"moe/router_entropy", "Router entropy (nats)", SY__PLAIN},
    {"moe/dead_experts", "Experts without a token in a step", SY__PLAIN},
    {"train/grad_norm", "Gradient norm", SY__PLAIN},
    {"train/lr", "Learning rate", SY__PLAIN},
    {"train/skipped_steps", "Skipped steps", SY__COUNT},
    {"perf/tokens_per_s", "Tokens per second", SY__COUNT},
    {"perf/step_ms", "Step (ms)", SY__PLAIN},
    {"perf/experts_ms", "Step, experts (ms)", SY__PLAIN},
    {"perf/data_wait_ms", "Waiting for data (ms)", SY__PLAIN},
    {"perf/dispatch_ms", "Step, dispatch (ms)", SY__PLAIN},
    {"perf/combine_ms", "Step, combine (ms)", SY__PLAIN},
    {"perf/checkpoint_stall_ms", "Waiting for checkpoints (ms)", SY__PLAIN},
    {"perf/mfu", "Model FLOPs utilisation", SY__PERCENT},
    {"mem/peak_bytes", "Peak memory", SY__BYTES},
};

const char *sy__format_value(double value, sy__unit unit, char *buf, size_t buf_bytes)
{
    static const char *const bytes[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int power = 0;
    switch (unit) {
    case SY__COUNT:
        return fabs(value) < 1e3 || fabs(value) >= 1e6
                   ? sy_format_count(value, buf, buf_bytes)
                   : sy__format_step(llround(value), buf, buf_bytes);
    case SY__STEPS:
        return sy__format_step((int64_t)value, buf, buf_bytes);
    case SY__DURATION:
        return sy_format_duration(value, buf, buf_bytes);
    case SY__PERCENT:
        snprintf(buf, buf_bytes, "%.3g %%", 100 * value);
        break;
    case SY__BYTES:
        for (; fabs(value) >= 1024 && power < 4; power++) {
            value /= 1024;
        }
        snprintf(buf, buf_bytes, "%.3g %s", value, bytes[power]);
        break;
    default:
        snprintf(buf, buf_bytes, value == floor(value) && fabs(value) < 1e6 ? "%.0f" : "%.4g",
                 value);
        break;
    }
    return buf;
}

const char *sy__format_step(int64_t step, char *buf, size_t buf_bytes)
{
    if (step < 10000) {
        snprintf(buf, buf_bytes, "%lld", (long long)step);
    } else if (step < 1000000) {
        snprintf(buf, buf_bytes, "%lld,%03lld", (long long)step / 1000, (long long)step % 1000);
    } else {
        snprintf(buf, buf_bytes, "%lld,%03lld,%03lld", (long long)step / 1000000,
                 (long long)step / 1000 % 1000, (long long)step % 1000);
    }
    return buf;
}

bool sy__is_valid_loss(const char *key, const char **name, int32_t *name_bytes)
{
    static const char head[] = "valid/", tail[] = "/loss";
    size_t n = strlen(key), around = sizeof head + sizeof tail - 2;
    if (n <= around || strncmp(key, head, sizeof head - 1) != 0 ||
        strcmp(key + n - (sizeof tail - 1), tail) != 0) {
        return false;
    }
    *name = key; /* "valid/prose": the word says what it is */
    *name_bytes = (int32_t)(n - (sizeof tail - 1));
    return true;
}

/* First step of the last tenth of the run. */
static int64_t late_from(const sy__page *page)
{
    return page->log->last_step - (page->log->last_step - page->log->first_step) / 10;
}

double sy__late_mean(const sy__page *page, const sy_series *series)
{
    double sum = 0, n = 0;
    for (int32_t i = 0; i < series->n; i++) {
        if (series->point[i].last >= late_from(page)) {
            sum += (double)series->point[i].n * series->point[i].mean;
            n += (double)series->point[i].n;
        }
    }
    return n > 0 ? sum / n : NAN;
}

int64_t sy__late_load(const sy__page *page, const sy_series *series, double *sum)
{
    int64_t first = page->log->last_step;
    memset(sum, 0, (size_t)series->width * sizeof *sum);
    for (int32_t i = 0; i < series->n; i++) {
        if (series->point[i].last >= late_from(page)) {
            first = series->point[i].first < first ? series->point[i].first : first;
            for (int32_t e = 0; e < series->width; e++) {
                sum[e] += (double)series->point[i].n * series->row[(int64_t)i * series->width + e];
            }
        }
    }
    return first;
}

/* A series of numbers with at least one value; NULL if there is none. */
static const sy_series *find_numbers(const sy__page *page, const char *key)
{
    const sy_series *series = sy_metrics_log_find(page->log, key);
    return series != NULL && series->width == 0 && series->n > 0 ? series : NULL;
}

static void write_tile(const sy__page *page, double value, sy__unit unit, const char *label,
                       int32_t label_bytes)
{
    char text[VALUE_BYTES], name[128];
    snprintf(name, sizeof name, "%.*s", label_bytes < 0 ? 127 : label_bytes, label);
    sy_text_puts(page->out, "<div class=\"tile\"><b>");
    sy_text_html(page->out, sy__format_value(value, unit, text, sizeof text));
    sy_text_puts(page->out, "</b><span>");
    sy_text_html(page->out, name);
    sy_text_puts(page->out, "</span></div>\n");
}

static void write_tile_of(const sy__page *page, const char *key, bool is_late, sy__unit unit,
                          const char *label)
{
    const sy_series *series = find_numbers(page, key);
    if (series != NULL) {
        double value = is_late ? sy__late_mean(page, series) : series->last;
        write_tile(page, isnan(value) ? series->last : value, unit, label, -1);
    }
}

void sy__page_tiles(const sy__page *page)
{
    const char *name;
    int32_t name_bytes, n_valid = 0;
    if (page->log->n_lines == 0) {
        return;
    }
    sy_text_puts(page->out, "<div class=\"tiles\">\n");
    write_tile(page, (double)page->log->last_step, SY__STEPS, "steps", -1);
    write_tile_of(page, "train/loss", true, SY__PLAIN, "training loss");
    for (int32_t i = 0; i < page->log->n && n_valid < 2; i++) {
        const sy_series *series = &page->log->series[i];
        if (series->width == 0 && series->n > 0 &&
            sy__is_valid_loss(series->key, &name, &name_bytes)) {
            write_tile(page, series->last, SY__PLAIN, name, name_bytes);
            n_valid++;
        }
    }
    write_tile_of(page, "moe/load_max_over_mean", true, SY__PLAIN, "load max / mean");
    write_tile_of(page, "tokens", false, SY__COUNT, "tokens seen");
    write_tile_of(page, "perf/tokens_per_s", true, SY__COUNT, "tokens per second");
    write_tile_of(page, "time_s", false, SY__DURATION, "time");
    sy_text_puts(page->out, "</div>\n<p class=\"foot\">Training loss, load and tokens per second: "
                            "means over the last tenth of the run.</p>\n");
}

/* Warnings are collected first: whether there are any decides the frame around them. */
static void open_item(sy_text *items)
{
    sy_text_puts(items, "<li>");
}

static void close_item(sy_text *items)
{
    sy_text_puts(items, "</li>\n");
}

/* Is "force_balance: true" among the lines of the configuration? */
static bool has_forced_balance(const char *config)
{
    const char *at = config != NULL ? strstr(config, "force_balance:") : NULL;
    if (at == NULL) {
        return false;
    }
    at += sizeof "force_balance:" - 1;
    at += strspn(at, " ");
    return strncmp(at, "true", 4) == 0;
}

static void warn_of_file(const sy__page *page, sy_text *items)
{
    if (has_forced_balance(page->config)) {
        open_item(items);
        sy_text_puts(items, "moe.force_balance was set: tokens went to experts by turns, not by "
                            "the router. The figures are a benchmark, the model is worth nothing.");
        close_item(items);
    }
    if (page->log->n_lines == 0) {
        open_item(items);
        sy_text_puts(items, "No step has been logged yet.");
        close_item(items);
    }
    if (page->log->n_bad > 0) {
        open_item(items);
        sy_text_printf(items, "%lld line%s of metrics.jsonl could not be read and %s left out.",
                       (long long)page->log->n_bad, page->log->n_bad == 1 ? "" : "s",
                       page->log->n_bad == 1 ? "was" : "were");
        close_item(items);
    }
}

static void warn_of_losses(const sy__page *page, sy_text *items)
{
    char step[VALUE_BYTES];
    const sy_series *train = sy_metrics_log_find(page->log, "train/loss");
    const sy_series *skipped = find_numbers(page, "train/skipped_steps");
    if (train != NULL && train->n_null > 0) {
        open_item(items);
        sy_text_printf(items,
                       "The training loss was not finite in %lld logged step%s, first in "
                       "step %s.",
                       (long long)train->n_null, train->n_null == 1 ? "" : "s",
                       sy__format_step(train->null_first, step, sizeof step));
        close_item(items);
    }
    if (skipped != NULL && skipped->last > 0) {
        open_item(items);
        sy_text_printf(items, "%.0f step%s skipped because loss or gradient was not finite.",
                       skipped->last, skipped->last == 1 ? " was" : "s were");
        close_item(items);
    }
    for (int32_t i = 0; i < page->log->n; i++) {
        const sy_series *s = &page->log->series[i];
        const char *name;
        int32_t name_bytes;
        if (s->width == 0 && s->n > 0 && sy__is_valid_loss(s->key, &name, &name_bytes) &&
            s->min > 0 && s->last > RISE_LIMIT * s->min) {
            open_item(items);
            sy_text_html(items, s->key);
            sy_text_printf(items,
                           " was lowest at step %s (%.4g) and ended at %.4g: the model may "
                           "have seen its data too often.",
                           sy__format_step(s->min_step, step, sizeof step), s->min, s->last);
            close_item(items);
        }
    }
}

static bool is_zero(const void *sum, int32_t i)
{
    return ((const double *)sum)[i] == 0;
}

static int32_t count_zeros(const double *sum, int32_t n)
{
    int32_t n_zero = 0;
    for (int32_t i = 0; i < n; i++) {
        n_zero += sum[i] == 0;
    }
    return n_zero;
}

/* Experts without a token over the last tenth of the run, layer by layer; a few steps prove
 * nothing. */
static sy_status warn_of_dead(const sy__page *page, sy_text *items)
{
    sy_status st = SY_OK;
    double *sum = NULL;
    char step[VALUE_BYTES], list[LIST_BYTES];
    int32_t n_layers = 0;
    for (int32_t i = 0; i < page->n_loads && page->log->n_lines >= LINES_TO_JUDGE; i++) {
        const sy_series *series = page->load[i].series;
        SY_TRY(sy_realloc(series->width, sizeof *sum, (void **)&sum));
        int64_t first = sy__late_load(page, series, sum);
        int32_t n_dead = count_zeros(sum, series->width);
        if (n_dead == 0 || n_dead == series->width || ++n_layers > LAYERS_NAMED) {
            continue;
        }
        open_item(items);
        sy_text_printf(items, "Layer %d: %d of %d experts (%s) got no token from step %s on.",
                       page->load[i].layer, n_dead, series->width,
                       sy_health_list(is_zero, sum, series->width, list, sizeof list),
                       sy__format_step(first, step, sizeof step));
        close_item(items);
    }
    if (n_layers > LAYERS_NAMED) {
        open_item(items);
        sy_text_printf(items, "%d more layers have experts without a token.",
                       n_layers - LAYERS_NAMED);
        close_item(items);
    }
cleanup:
    sy_free(&sum);
    return st;
}

static void warn_of_routing(const sy__page *page, sy_text *items)
{
    const sy_series *drop = find_numbers(page, "moe/drop_fraction");
    const sy_series *load = find_numbers(page, "moe/load_max_over_mean");
    double dropped = drop != NULL ? sy__late_mean(page, drop) : NAN;
    double uneven = load != NULL ? sy__late_mean(page, load) : NAN;
    if (dropped > SY_HEALTH_DROP_LIMIT) {
        open_item(items);
        sy_text_printf(items,
                       "%.1f %% of the rows were dropped in the last tenth of the run; a "
                       "larger moe.capacity_factor or moe.aux_loss_coeff drops fewer.",
                       100 * dropped);
        close_item(items);
    }
    if (uneven > SY_HEALTH_LOAD_LIMIT) {
        open_item(items);
        sy_text_printf(items,
                       "The fullest expert of a layer got %.1f times the mean load in the "
                       "last tenth of the run.",
                       uneven);
        close_item(items);
    }
}

sy_status sy__page_warnings(const sy__page *page)
{
    sy_status st = SY_OK;
    sy_text items = {0};
    warn_of_file(page, &items);
    warn_of_losses(page, &items);
    SY_TRY(warn_of_dead(page, &items));
    warn_of_routing(page, &items);
    SY_TRY(items.st);
    if (items.n > 0) {
        sy_text_puts(page->out, "<ul class=\"words\">\n");
        sy_text_append(page->out, items.data, items.n);
        sy_text_puts(page->out, "</ul>\n");
    } else {
        sy_text_puts(page->out, "<p class=\"words good\">Nothing to warn of.</p>\n");
    }
cleanup:
    sy_text_free(&items);
    return st;
}

/* Last, late mean, lowest and highest of one metric. */
static void write_row(const sy__page *page, const sy_series *s, const char *label, sy__unit unit)
{
    char value[VALUE_BYTES], step[VALUE_BYTES];
    double late = sy__late_mean(page, s), max = -INFINITY;
    for (int32_t i = 0; i < s->n; i++) {
        max = fmax(max, s->point[i].max);
    }
    sy_text_puts(page->out, "<tr><td>");
    sy_text_html(page->out, label);
    sy_text_printf(page->out, "</td><td>%s</td>",
                   sy__format_value(s->last, unit, value, sizeof value));
    sy_text_printf(page->out, "<td>%s</td>",
                   isnan(late) ? "" : sy__format_value(late, unit, value, sizeof value));
    sy_text_printf(page->out, "<td>%s <small>step %s</small></td>",
                   sy__format_value(s->min, unit, value, sizeof value),
                   sy__format_step(s->min_step, step, sizeof step));
    sy_text_printf(page->out, "<td>%s</td></tr>\n",
                   sy__format_value(max, unit, value, sizeof value));
}

static void write_figures(const sy__page *page)
{
    sy_text_puts(page->out, "<section>\n<h2>Figures</h2>\n<div class=\"card scroll\"><table>\n"
                            "<tr><th>metric</th><th>last</th><th>last tenth</th><th>lowest</th>"
                            "<th>highest</th></tr>\n");
    for (int32_t i = 0; i < page->log->n; i++) {
        const sy_series *s = &page->log->series[i];
        const char *name;
        int32_t name_bytes;
        if (s->width == 0 && s->n > 0 && sy__is_valid_loss(s->key, &name, &name_bytes)) {
            write_row(page, s, s->key, SY__PLAIN);
        }
    }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const sy_series *series = find_numbers(page, rows[i].key);
        if (series != NULL) {
            write_row(page, series, rows[i].label, rows[i].unit);
        }
    }
    sy_text_puts(page->out, "</table></div>\n</section>\n");
}

static void write_layer_row(sy_text *out, int32_t layer, const double *sum, int32_t n)
{
    double total = 0;
    int32_t most = 0, least = 0;
    for (int32_t e = 0; e < n; e++) {
        total += sum[e];
        most = sum[e] > sum[most] ? e : most;
        least = sum[e] < sum[least] ? e : least;
    }
    if (total > 0) {
        sy_text_printf(out,
                       "<tr><td>%d</td><td>%.2f</td><td>%.1f %% <small>expert %d</small></td>"
                       "<td>%.1f %% <small>expert %d</small></td><td>%d</td></tr>\n",
                       layer, sum[most] * n / total, 100 * sum[most] / total, most,
                       100 * sum[least] / total, least, count_zeros(sum, n));
    }
}

static void write_layers(const sy__page *page)
{
    double *sum = NULL;
    sy_text *out = page->out;
    sy_text_puts(out, "<section>\n<h2>Expert load by layer, last tenth of the run</h2>\n"
                      "<div class=\"card scroll\"><table>\n<tr><th>layer</th><th>max / mean</th>"
                      "<th>fullest</th><th>emptiest</th><th>without a token</th></tr>\n");
    for (int32_t i = 0; i < page->n_loads && out->st == SY_OK; i++) {
        int32_t n = page->load[i].series->width;
        out->st = sy_realloc(n, sizeof *sum, (void **)&sum);
        if (out->st == SY_OK) {
            sy__late_load(page, page->load[i].series, sum);
            write_layer_row(out, page->load[i].layer, sum, n);
        }
    }
    sy_text_puts(out, "</table></div>\n</section>\n");
    sy_free(&sum);
}

void sy__page_tables(const sy__page *page)
{
    if (page->log->n_lines > 0) {
        write_figures(page);
    }
    if (page->n_loads > 0) {
        write_layers(page);
    }
}
