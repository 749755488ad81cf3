/* What the page says in words: where the run stands, and what is wrong with it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "report/health.h"
#include "report/html_impl.h"
#include "report/progress.h"

enum { VALUE_BYTES = 48, LIST_BYTES = 120, LAYERS_NAMED = 6, LINES_TO_JUDGE = 20 };

#define RISE_LIMIT 1.03    /* last validation loss over its best, training loss over that before */
#define QUIET_LINES 20.0   /* no line for so many times the usual distance of two ... */
#define QUIET_LEAST_S 60.0 /* ... and for so long: something hangs */

/* ---- state ---- */

static int64_t planned_steps(const sy_flat_config *config)
{
    const char *value = sy_flat_config_find(config, "train.steps");
    long long steps = 0;
    return value != NULL && sscanf(value, "%18lld", &steps) == 1 ? steps : 0;
}

/* Seconds per step over the last tenth of the run, evaluations and checkpoints included; NaN: too
   few steps to tell. */
static double pace(const sy_metrics_log *log)
{
    const sy_series *time = sy__find_numbers(log, "time_s");
    int32_t first = time != NULL ? time->n - 1 : 0;
    while (first > 0 && time->point[first - 1].last >= sy__late_from(log)) {
        first--;
    }
    first = first > 0 && time->n >= 2 ? first - 1 : first; /* two points at least */
    if (time == NULL || time->point[first].last >= time->last_step) {
        return NAN;
    }
    return (time->last - time->point[first].max) /
           (double)(time->last_step - time->point[first].last);
}

static const char *const unfinished = " <code>train --resume</code> goes on from there.";

static void write_progress(sy_text *out, const sy_metrics_log *log, int64_t steps)
{
    char a[VALUE_BYTES], b[VALUE_BYTES];
    sy_text_printf(out, "step %s", sy__format_step(log->last_step, a, sizeof a));
    if (steps > 0) {
        sy_text_printf(out, " of %s (%.0f %%)", sy__format_step(steps, b, sizeof b),
                       floor(100.0 * (double)log->last_step / (double)steps));
    }
}

static void write_sentence(sy_text *out, const sy_report_run *run, int64_t steps)
{
    const sy_metrics_log *log = run->log;
    char buf[VALUE_BYTES];
    const sy_series *time = sy__find_numbers(log, "time_s");
    double left_s = pace(log) * (double)(steps - log->last_step);
    if (log->n_lines == 0) {
        sy_text_puts(out, run->holder == SY_HOLDER_DIED ? "it ended before a step was logged."
                                                        : "No step has been logged yet.");
    } else if (steps > 0 && log->last_step >= steps) {
        sy_text_printf(out, "%s steps", sy__format_step(log->last_step, buf, sizeof buf));
        if (time != NULL) {
            sy_text_printf(out, " in %s", sy_format_duration(time->last, buf, sizeof buf));
        }
        sy_text_puts(out, ".");
    } else {
        write_progress(out, log, steps);
        if (run->holder == SY_HOLDER_RUNS && left_s > 0) {
            sy_text_printf(out, ", about %s to go", sy_format_duration(left_s, buf, sizeof buf));
        }
        sy_text_puts(out, ".");
        sy_text_puts(out, run->holder == SY_HOLDER_RUNS || steps == 0 ? "" : unfinished);
    }
}

void sy__page_state(const sy__page *page, int32_t r)
{
    const sy_report_run *run = &page->run[r];
    const sy_metrics_log *log = run->log;
    sy_text *out = page->out;
    int64_t steps = planned_steps(&page->flat[r]);
    bool is_over = steps > 0 && log->last_step >= steps, is_live = run->holder == SY_HOLDER_RUNS;
    bool is_dead = !is_over && run->holder == SY_HOLDER_DIED;
    sy_text_puts(out, "<p class=\"state\">");
    if (page->n_runs > 1) {
        sy_text_printf(out, "<i class=\"c%d\"></i><b>", r);
        sy_text_html(out, run->name);
        sy_text_puts(out, "</b> ");
    }
    sy_text_printf(out, "<span class=\"pill %s\">%s</span> ",
                   is_over   ? "good"
                   : is_live ? "live"
                   : is_dead ? "dead"
                             : "rest",
                   is_over             ? "finished"
                   : is_live           ? "running"
                   : is_dead           ? "died"
                   : log->n_lines == 0 ? "empty"
                                       : "stopped");
    write_sentence(out, run, steps);
    sy_text_puts(out, "</p>\n");
    if (page->n_runs == 1 && steps > 0 && log->n_lines > 0 && !is_over) {
        sy_text_printf(out, "<div class=\"bar\"><div style=\"width:%.1f%%\"></div></div>\n",
                       100 * fmin(1, (double)log->last_step / (double)steps));
    }
}

/* ---- warnings ---- */

/* Warnings are collected first: whether there are any decides the frame around them. */
typedef struct item_list {
    sy_text text;
    int32_t n;
} item_list;

static void open_item(item_list *items)
{
    sy_text_puts(&items->text, "<li>");
    items->n++;
}

static void close_item(item_list *items)
{
    sy_text_puts(&items->text, "</li>\n");
}

/* How the run stands; what is wrong with its file. */
static void warn_of_file(const sy__page *page, item_list *items)
{
    const sy_metrics_log *log = page->log;
    const char *forced = sy_flat_config_find(&page->flat[0], "moe.force_balance");
    if (forced != NULL && strcmp(forced, "true") == 0) {
        open_item(items);
        sy_text_puts(&items->text,
                     "moe.force_balance was set: tokens went to experts by turns, not by "
                     "the router. The figures are a benchmark, the model is worth nothing.");
        close_item(items);
    }
    if (log->n_bad > 0) {
        open_item(items);
        sy_text_printf(&items->text, "Line %lld of metrics.jsonl is damaged and was left out",
                       (long long)log->bad_first);
        if (log->n_bad > 1) {
            sy_text_printf(&items->text, ", and so were %lld more", (long long)log->n_bad - 1);
        }
        sy_text_puts(&items->text, ".");
        close_item(items);
    }
    if (log->is_cut && page->run[0].holder != SY_HOLDER_RUNS) {
        open_item(items);
        sy_text_puts(&items->text,
                     "The last line of metrics.jsonl has no end, as a crash leaves it, and "
                     "was left out.");
        close_item(items);
    }
}

/* A run that is there but writes nothing. */
static void warn_of_quiet(const sy__page *page, item_list *items)
{
    const sy_report_run *run = &page->run[0];
    const sy_metrics_log *log = run->log;
    double steps_per_line =
        log->n_lines > 1 ? (double)(log->last_step - log->first_step) / (double)(log->n_lines - 1)
                         : 1;
    double usual_s = pace(log) * steps_per_line;
    char quiet[VALUE_BYTES], usual[VALUE_BYTES];
    if (run->holder == SY_HOLDER_RUNS && run->quiet_s > QUIET_LEAST_S &&
        run->quiet_s > QUIET_LINES * usual_s) {
        open_item(items);
        sy_text_printf(&items->text,
                       "No line for %s, where one came every %s: an evaluation, a checkpoint, or "
                       "a rank that hangs.",
                       sy_format_duration(run->quiet_s, quiet, sizeof quiet),
                       sy_format_duration(usual_s, usual, sizeof usual));
        close_item(items);
    }
}

static void warn_of_losses(const sy__page *page, item_list *items)
{
    char step[VALUE_BYTES];
    const sy_series *train = sy_metrics_log_find(page->log, "train/loss");
    const sy_series *skipped = sy__find_numbers(page->log, "train/skipped_steps");
    if (train != NULL && train->n_null > 0) {
        open_item(items);
        sy_text_printf(&items->text,
                       "The training loss was not finite in %lld logged step%s, first in "
                       "step %s.",
                       (long long)train->n_null, train->n_null == 1 ? "" : "s",
                       sy__format_step(train->null_first, step, sizeof step));
        close_item(items);
    }
    if (skipped != NULL && skipped->last > 0) {
        open_item(items);
        sy_text_printf(&items->text, "%.0f step%s skipped because loss or gradient was not finite.",
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
            sy_text_html(&items->text, s->key);
            sy_text_printf(&items->text,
                           " was lowest at step %s (%.4g) and ended at %.4g: the model may "
                           "have seen its data too often.",
                           sy__format_step(s->min_step, step, sizeof step), s->min, s->last);
            close_item(items);
        }
    }
}

/* The last tenth against the tenth before it. */
static double earlier_mean(const sy_metrics_log *log, const sy_series *s)
{
    int64_t late = sy__late_from(log), before = late - (log->last_step - late);
    double sum = 0, n = 0;
    for (int32_t i = 0; i < s->n; i++) {
        if (s->point[i].first >= before && s->point[i].last < late) {
            sum += (double)s->point[i].n * s->point[i].mean;
            n += (double)s->point[i].n;
        }
    }
    return n > 0 ? sum / n : NAN;
}

static void warn_of_rise(const sy__page *page, item_list *items)
{
    const sy_series *train = sy__find_numbers(page->log, "train/loss");
    if (train == NULL || page->log->n_lines < 5 * LINES_TO_JUDGE) {
        return;
    }
    double late = sy__late_mean(page->log, train), before = earlier_mean(page->log, train);
    if (late > RISE_LIMIT * before) {
        open_item(items);
        sy_text_printf(&items->text,
                       "The training loss rises: %.4g over the last tenth of the run, %.4g over "
                       "the tenth before. A lower optim.lr, or the data, may be why.",
                       late, before);
        close_item(items);
    }
}

/* Time that goes by without work, as a share of the steps. */
static void warn_of_waiting(const sy__page *page, item_list *items)
{
    static const struct {
        const char *key, *words;
        double limit;
    } waits[] = {
        {"perf/data_wait_ms", "Steps wait for their data", 0.05},
        {"perf/checkpoint_stall_ms",
         "Training waits for checkpoints; train.checkpoint_async or a longer "
         "train.checkpoint_every would spare it",
         0.1},
        {"perf/sync_ms", "Ranks wait for each other: one of them, or its machine, is slower", 0.25},
        {"perf/metrics_ms",
         "Metrics and progress output cost much; a larger train.log_every would "
         "spare it",
         0.02},
    };
    double step_ms = sy__late(page->log, "perf/step_ms");
    for (size_t i = 0; i < sizeof waits / sizeof waits[0]; i++) {
        double share = sy__late(page->log, waits[i].key) / step_ms;
        if (page->log->n_lines >= LINES_TO_JUDGE && share > waits[i].limit) {
            open_item(items);
            sy_text_printf(&items->text,
                           "%s: %.0f %% of the step's time in the last tenth of the run.",
                           waits[i].words, 100 * share);
            close_item(items);
        }
    }
}

static bool is_zero(const void *sum, int32_t i)
{
    return ((const double *)sum)[i] == 0;
}

/* Experts without a token over the last tenth of the run, layer by layer; a few steps prove
 * nothing. */
static sy_status warn_of_dead(const sy__page *page, item_list *items)
{
    sy_status st = SY_OK;
    double *sum = NULL;
    char step[VALUE_BYTES], list[LIST_BYTES];
    int32_t n_layers = 0;
    for (int32_t i = 0; i < page->n_loads && page->log->n_lines >= LINES_TO_JUDGE; i++) {
        const sy_series *series = page->load[i].series;
        SY_TRY(sy_realloc(series->width, sizeof *sum, (void **)&sum));
        int64_t first = sy__late_load(page, series, sum);
        int32_t n_dead = sy__count_zeros(sum, series->width);
        if (n_dead == 0 || n_dead == series->width || ++n_layers > LAYERS_NAMED) {
            continue;
        }
        open_item(items);
        sy_text_printf(&items->text,
                       "Layer %d: %d of %d experts (%s) got no token from step %s on.",
                       page->load[i].layer, n_dead, series->width,
                       sy_health_list(is_zero, sum, series->width, list, sizeof list),
                       sy__format_step(first, step, sizeof step));
        close_item(items);
    }
    if (n_layers > LAYERS_NAMED) {
        open_item(items);
        sy_text_printf(&items->text, "%d more layers have experts without a token.",
                       n_layers - LAYERS_NAMED);
        close_item(items);
    }
cleanup:
    sy_free(&sum);
    return st;
}

/* Where in the sequence drops fall, where they do not fall everywhere alike: means over the layers
   of their shares in the last tenth of the run. */
static void say_where(const sy__page *page, sy_text *text)
{
    char key[64];
    double last = 0, n = 0;
    int32_t n_places = 0;
    for (int32_t i = 0; i < page->n_loads; i++) {
        snprintf(key, sizeof key, "moe/layer_%d/drop_position", page->load[i].layer);
        const sy_series *s = sy_metrics_log_find(page->log, key);
        for (int32_t k = 0; s != NULL && s->width > 1 && k < s->n; k++) {
            if (s->point[k].last >= sy__late_from(page->log)) {
                n_places = s->width;
                last += (double)s->point[k].n * s->row[(int64_t)k * s->width + s->width - 1];
                n += (double)s->point[k].n;
            }
        }
    }
    if (n > 0 && last / n > 1.5 / n_places) {
        sy_text_printf(text, " The last 1/%d of the sequence has %.0f %% of them.", n_places,
                       100 * last / n);
    }
}

static void warn_of_routing(const sy__page *page, item_list *items)
{
    const sy_series *drop = sy__find_numbers(page->log, "moe/drop_fraction");
    const sy_series *load = sy__find_numbers(page->log, "moe/load_max_over_mean");
    double dropped = drop != NULL ? sy__late_mean(page->log, drop) : NAN;
    double uneven = load != NULL ? sy__late_mean(page->log, load) : NAN;
    if (dropped > SY_HEALTH_DROP_LIMIT) {
        open_item(items);
        sy_text_printf(&items->text,
                       "%.1f %% of the rows were dropped in the last tenth of the run; a "
                       "larger moe.capacity_factor or moe.aux_loss_coeff drops fewer.",
                       100 * dropped);
        say_where(page, &items->text);
        close_item(items);
    }
    if (uneven > SY_HEALTH_LOAD_LIMIT) {
        open_item(items);
        sy_text_printf(&items->text,
                       "The fullest expert of a layer got %.1f times the mean load in the "
                       "last tenth of the run.",
                       uneven);
        close_item(items);
    }
}

sy_status sy__page_warnings(const sy__page *page)
{
    sy_status st = SY_OK;
    item_list items = {0};
    warn_of_file(page, &items);
    warn_of_quiet(page, &items);
    warn_of_losses(page, &items);
    warn_of_rise(page, &items);
    SY_TRY(warn_of_dead(page, &items));
    warn_of_routing(page, &items);
    warn_of_waiting(page, &items);
    SY_TRY(items.text.st);
    if (page->log->n_lines == 0 && items.n == 0) {
        goto cleanup; /* the state has said it */
    }
    if (items.n > 0) {
        sy_text_printf(page->out, "<div class=\"words\">\n<b>%d thing%s to look at</b>\n<ul>\n",
                       items.n, items.n == 1 ? "" : "s");
        sy_text_append(page->out, items.text.data, items.text.n);
        sy_text_puts(page->out, "</ul>\n</div>\n");
    } else {
        sy_text_puts(page->out, "<p class=\"words good\">Healthy: nothing to warn of.</p>\n");
    }
cleanup:
    sy_text_free(&items.text);
    return st;
}
