/* Several runs beside each other: figures of each, and where their configurations differ. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report/html_impl.h"

enum { VALUE_BYTES = 48 };

static const struct {
    const char *key, *name;
    sy__unit unit;
    bool is_last; /* the last value, not the mean of the last tenth */
} rows[] = {
    {"train/loss", "training loss", SY__PLAIN, false},
    {"tokens", "tokens seen", SY__COUNT, true},
    {"time_s", "time", SY__DURATION, true},
    {"perf/tokens_per_s", "tokens per second", SY__COUNT, false},
    {"perf/mfu", "model FLOPs utilisation", SY__PERCENT, false},
    {"moe/load_max_over_mean", "expert load, max / mean", SY__PLAIN, false},
    {"moe/drop_fraction", "dropped rows", SY__PERCENT, false},
    {"moe/dead_experts", "experts without a token in a step", SY__PLAIN, false},
    {"moe/router_entropy", "router entropy (nats)", SY__PLAIN, false},
    {"train/grad_norm", "gradient norm", SY__PLAIN, false},
    {"train/skipped_steps", "skipped steps", SY__COUNT, true},
    {"mem/peak_bytes", "peak memory", SY__BYTES, true},
};

static void write_names(const sy__page *page, const char *first)
{
    sy_text_printf(page->out, "<tr><th>%s</th>", first);
    for (int32_t r = 0; r < page->n_runs; r++) {
        sy_text_printf(page->out, "<th><i class=\"c%d\"></i>", r);
        sy_text_html(page->out, page->run[r].name);
        sy_text_puts(page->out, "</th>");
    }
    sy_text_puts(page->out, "</tr>\n");
}

static void write_row(const sy__page *page, const char *key, const char *name, sy__unit unit,
                      bool is_last)
{
    char value[VALUE_BYTES];
    bool is_any = false;
    for (int32_t r = 0; r < page->n_runs; r++) {
        is_any = is_any || sy__find_numbers(page->run[r].log, key) != NULL;
    }
    if (!is_any) {
        return;
    }
    sy_text_puts(page->out, "<tr><td>");
    sy_text_html(page->out, name);
    sy_text_puts(page->out, "</td>");
    for (int32_t r = 0; r < page->n_runs; r++) {
        const sy_series *series = sy__find_numbers(page->run[r].log, key);
        double late = series != NULL ? sy__late_mean(page->run[r].log, series) : NAN;
        sy_text_puts(page->out, "<td>");
        if (series != NULL) {
            sy_text_puts(page->out, sy__format_value(is_last || isnan(late) ? series->last : late,
                                                     unit, value, sizeof value));
        }
        sy_text_puts(page->out, "</td>");
    }
    sy_text_puts(page->out, "</tr>\n");
}

/* Did an earlier run have the key? Then it has its row. */
static bool is_seen(const sy__page *page, int32_t run, const char *key)
{
    for (int32_t r = 0; r < run; r++) {
        if (sy_metrics_log_find(page->run[r].log, key) != NULL) {
            return true;
        }
    }
    return false;
}

void sy__page_compare(const sy__page *page)
{
    const char *name;
    int32_t name_bytes;
    sy_text_puts(page->out, "<section>\n<h2>Figures</h2>\n<div class=\"card scroll\"><table>\n");
    write_names(page, "last tenth of each run");
    for (int32_t r = 0; r < page->n_runs; r++) {
        for (int32_t i = 0; i < page->run[r].log->n; i++) {
            const char *key = page->run[r].log->series[i].key;
            if (sy__is_valid_loss(key, &name, &name_bytes) && !is_seen(page, r, key)) {
                write_row(page, key, key, SY__PLAIN, true);
            }
        }
    }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        write_row(page, rows[i].key, rows[i].name, rows[i].unit, rows[i].is_last);
    }
    sy_text_puts(page->out, "</table></div>\n</section>\n");
}

/* ---- configurations ---- */

static bool is_equal(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool differs(const sy__page *page, const char *key)
{
    const char *first = sy_flat_config_find(&page->flat[0], key);
    for (int32_t r = 1; r < page->n_runs; r++) {
        if (!is_equal(first, sy_flat_config_find(&page->flat[r], key))) {
            return true;
        }
    }
    return false;
}

static void write_difference(const sy__page *page, const char *key)
{
    const char *first = sy_flat_config_find(&page->flat[0], key);
    sy_text_puts(page->out, "<tr><td><code>");
    sy_text_html(page->out, key);
    sy_text_puts(page->out, "</code></td>");
    for (int32_t r = 0; r < page->n_runs; r++) {
        const char *value = sy_flat_config_find(&page->flat[r], key);
        sy_text_puts(page->out, is_equal(first, value) ? "<td>" : "<td class=\"new\">");
        sy_text_html(page->out, value != NULL ? value : "-");
        sy_text_puts(page->out, "</td>");
    }
    sy_text_puts(page->out, "</tr>\n");
}

void sy__page_diff(const sy__page *page)
{
    int32_t n = 0;
    sy_text_puts(page->out, "<div class=\"card scroll\"><table class=\"diff\">\n");
    write_names(page, "where they differ");
    for (int32_t r = 0; r < page->n_runs; r++) {
        for (int32_t i = 0; i < page->flat[r].n; i++) {
            const char *key = page->flat[r].item[i].key;
            bool is_new = true;
            for (int32_t before = 0; before < r; before++) {
                is_new = is_new && sy_flat_config_find(&page->flat[before], key) == NULL;
            }
            if (is_new && differs(page, key)) {
                write_difference(page, key);
                n++;
            }
        }
    }
    if (n == 0) {
        sy_text_printf(page->out, "<tr><td colspan=\"%d\">nowhere</td></tr>\n", page->n_runs + 1);
    }
    sy_text_puts(page->out, "</table></div>\n");
}
