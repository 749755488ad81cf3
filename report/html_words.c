/* What the page says in figures: the tiles at its head, the tables at its end. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "report/html_impl.h"
#include "report/progress.h"

enum { VALUE_BYTES = 48 };

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
    {"moe/router_confidence", "Router confidence", SY__PERCENT},
    {"moe/routing_overlap", "Overlap with earlier routing", SY__PERCENT},
    {"moe/output_rms", "Experts' output (RMS)", SY__PLAIN},
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
    {"perf/grad_sync_wait_ms", "Waiting for gradients (ms)", SY__PLAIN},
    {"perf/sync_ms", "Waiting for other ranks (ms)", SY__PLAIN},
    {"perf/metrics_ms", "Metrics and progress output (ms)", SY__PLAIN},
    {"perf/mfu", "Model FLOPs utilisation", SY__PERCENT},
    {"mem/peak_bytes", "Peak memory", SY__BYTES},
};

const char *sy__format_value(double value, sy__unit unit, char *buf, size_t buf_bytes)
{
    static const char *const bytes[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int power = 0;
    switch (unit) {
    case SY__COUNT:
        return fabs(value) < 1e3 || fabs(value) >= 1e5
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

int64_t sy__late_from(const sy_metrics_log *log)
{
    return log->last_step - (log->last_step - log->first_step) / 10;
}

double sy__late_mean(const sy_metrics_log *log, const sy_series *series)
{
    double sum = 0, n = 0;
    for (int32_t i = 0; i < series->n; i++) {
        if (series->point[i].last >= sy__late_from(log)) {
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
        if (series->point[i].last >= sy__late_from(page->log)) {
            first = series->point[i].first < first ? series->point[i].first : first;
            for (int32_t e = 0; e < series->width; e++) {
                sum[e] += (double)series->point[i].n * series->row[(int64_t)i * series->width + e];
            }
        }
    }
    return first;
}

const sy_series *sy__find_numbers(const sy_metrics_log *log, const char *key)
{
    const sy_series *series = sy_metrics_log_find(log, key);
    return series != NULL && series->width == 0 && series->n > 0 ? series : NULL;
}

double sy__late(const sy_metrics_log *log, const char *key)
{
    const sy_series *series = sy__find_numbers(log, key);
    return series != NULL ? sy__late_mean(log, series) : NAN;
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
    const sy_series *series = sy__find_numbers(page->log, key);
    if (series != NULL) {
        double value = is_late ? sy__late_mean(page->log, series) : series->last;
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
    write_tile_of(page, "perf/mfu", true, SY__PERCENT, "model FLOPs utilisation");
    write_tile_of(page, "time_s", false, SY__DURATION, "time");
    sy_text_puts(page->out, "</div>\n<p class=\"foot\">Training loss, load, tokens per second and "
                            "utilisation: means over the last tenth of the run.</p>\n");
}

/* Last, late mean, lowest and highest of one metric. */
static void write_row(const sy__page *page, const sy_series *s, const char *label, sy__unit unit)
{
    char value[VALUE_BYTES], step[VALUE_BYTES];
    double late = sy__late_mean(page->log, s), max = -INFINITY;
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
        const sy_series *series = sy__find_numbers(page->log, rows[i].key);
        if (series != NULL) {
            write_row(page, series, rows[i].label, rows[i].unit);
        }
    }
    sy_text_puts(page->out, "</table></div>\n</section>\n");
}

int32_t sy__count_zeros(const double *sum, int32_t n)
{
    int32_t n_zero = 0;
    for (int32_t i = 0; i < n; i++) {
        n_zero += sum[i] == 0;
    }
    return n_zero;
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
                       100 * sum[least] / total, least, sy__count_zeros(sum, n));
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
