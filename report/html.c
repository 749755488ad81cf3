/* The page as a whole: what is read, what stands in which order, where it is written. */
#include "report/html.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "report/file_impl.h"
#include "report/html_impl.h"
#include "report/run_dir.h"

enum { CONFIG_BYTES_MAX = 16 << 20 };

static int by_layer(const void *a, const void *b)
{
    return ((const sy__layer_load *)a)->layer - ((const sy__layer_load *)b)->layer;
}

/* The series "moe/layer_<i>/load", by layer. */
static sy_status find_loads(sy__page *page)
{
    sy_status st = SY_OK;
    SY_TRY(sy_alloc(page->log->n, sizeof *page->load, (void **)&page->load));
    for (int32_t i = 0; i < page->log->n; i++) {
        const sy_series *series = &page->log->series[i];
        int32_t layer = 0;
        int n_read = 0;
        if (series->width > 0 && series->n > 0 &&
            sscanf(series->key, "moe/layer_%7d/load%n", &layer, &n_read) == 1 && n_read > 0 &&
            series->key[n_read] == '\0') {
            page->load[page->n_loads++] = (sy__layer_load){layer, series};
        }
    }
    if (page->n_loads > 1) {
        qsort(page->load, (size_t)page->n_loads, sizeof *page->load, by_layer);
    }
cleanup:
    return st;
}

static void write_title(const sy__page *page)
{
    for (int32_t r = 0; r < page->n_runs; r++) {
        sy_text_puts(page->out, r > 0 ? ", " : "");
        sy_text_html(page->out, page->run[r].name);
    }
}

static void write_head(const sy__page *page)
{
    sy_text *out = page->out;
    sy_text_puts(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    write_title(page);
    sy_text_puts(out, " - Switchyard</title>\n<style>\n");
    sy__page_style(out);
    sy_text_printf(out, "</style>\n</head>\n<body>\n<header>\n<p class=\"brand\">%s</p>\n<h1>",
                   page->n_runs > 1 ? "Switchyard runs" : "Switchyard run");
    write_title(page);
    sy_text_puts(out, "</h1>\n");
    for (int32_t r = 0; r < page->n_runs; r++) {
        sy__page_state(page, r);
    }
    sy_text_puts(out, "</header>\n<main>\n");
}

static void write_config(const sy__page *page, int32_t run)
{
    sy_text *out = page->out;
    const sy_report_run *r = &page->run[run];
    if (r->config == NULL) {
        sy_text_puts(out, "<p class=\"empty\">The run directory holds no config.yaml.</p>\n");
        return;
    }
    sy_text_puts(out, "<details><summary>config.yaml");
    if (page->n_runs > 1) {
        sy_text_puts(out, " of ");
        sy_text_html(out, r->name);
    }
    sy_text_puts(out, "</summary>\n<pre>");
    sy_text_html(out, r->config);
    sy_text_puts(out, "</pre></details>\n");
}

static void write_configs(const sy__page *page)
{
    sy_text_puts(page->out, "<section>\n<h2>Configuration</h2>\n");
    if (page->n_runs > 1) {
        sy__page_diff(page);
    }
    for (int32_t r = 0; r < page->n_runs; r++) {
        write_config(page, r);
    }
    sy_text_puts(page->out, "</section>\n");
}

static void write_foot(const sy__page *page)
{
    char now[32];
    int64_t n_lines = 0;
    for (int32_t r = 0; r < page->n_runs; r++) {
        n_lines += page->run[r].log->n_lines;
    }
    sy_clock_utc(now, sizeof now);
    sy_text_printf(page->out,
                   "</main>\n<footer>Written %s by switchyard report from %lld logged "
                   "step%s.</footer>\n</body>\n</html>\n",
                   now, (long long)n_lines, n_lines == 1 ? "" : "s");
}

/* One run, from what a person asks first to what they look up. */
static sy_status write_one(const sy__page *page)
{
    sy_status st = SY_OK;
    SY_TRY(sy__page_warnings(page));
    sy__page_tiles(page);
    if (page->log->n_lines > 0) {
        SY_TRY(sy__page_losses(page));
        SY_TRY(sy__page_loads(page));
        SY_TRY(sy__page_routing(page));
        SY_TRY(sy__page_layers(page));
        SY_TRY(sy__page_routed(page));
        SY_TRY(sy__page_speed(page));
        SY_TRY(sy__page_phases(page));
        sy__page_memory(page);
        SY_TRY(sy__page_optimization(page));
    }
    sy__page_tables(page);
    write_configs(page);
cleanup:
    return st;
}

static sy_status write_several(const sy__page *page)
{
    sy_status st = SY_OK;
    sy__page_compare(page);
    SY_TRY(sy__page_losses(page));
    SY_TRY(sy__page_routing(page));
    SY_TRY(sy__page_speed(page));
    SY_TRY(sy__page_optimization(page));
    write_configs(page);
cleanup:
    return st;
}

/* The steps that all figures show: from 0, unless the logs begin late. */
static void set_axis(sy__page *page)
{
    double first = INFINITY;
    for (int32_t r = 0; r < page->n_runs; r++) {
        const sy_metrics_log *log = page->run[r].log;
        if (log->n_lines > 0) {
            first = fmin(first, (double)log->first_step);
            page->x_hi = fmax(page->x_hi, (double)log->last_step);
        }
    }
    page->x_lo = first <= 0.1 * page->x_hi || isinf(first) ? 0 : first;
}

sy_status sy_report_render(const sy_report_run *run, int32_t n_runs, char **out)
{
    sy_status st = SY_OK;
    sy_text text = {0};
    sy_flat_config flat[SY_REPORT_RUNS_MAX] = {0};
    sy__page page = {.out = &text, .run = run, .n_runs = n_runs, .flat = flat, .log = run[0].log};
    set_axis(&page);
    for (int32_t r = 0; r < n_runs; r++) {
        SY_TRY(sy_flat_config_parse(run[r].config, &flat[r]));
    }
    SY_TRY(find_loads(&page));
    write_head(&page);
    SY_TRY(n_runs > 1 ? write_several(&page) : write_one(&page));
    write_foot(&page);
    SY_TRY(text.st);
    *out = text.data;
    memset(&text, 0, sizeof text);
cleanup:
    for (int32_t r = 0; r < n_runs; r++) {
        sy_flat_config_free(&flat[r]);
    }
    sy_free(&page.load);
    sy_text_free(&text);
    return st;
}

static bool exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

/* A device or pipe ("-o /dev/stdout") is written as it is; renaming a file over it would replace
 * it. */
static sy_status write_page(const char *path, const char *page)
{
    struct stat info;
    if (stat(path, &info) != 0 || S_ISREG(info.st_mode)) {
        return sy__text_file_replace(path, page, (int64_t)strlen(page));
    }
    FILE *file = S_ISDIR(info.st_mode) ? NULL : fopen(path, "we");
    if (file == NULL) {
        return sy_error(SY_ERR_USAGE, "cannot write '%s': %s", path,
                        strerror(S_ISDIR(info.st_mode) ? EISDIR : errno));
    }
    int error = fputs(page, file) < 0 ? errno : 0;
    error = fclose(file) != 0 && error == 0 ? errno : error;
    return error == 0 ? SY_OK : sy_error(SY_ERR_IO, "cannot write '%s': %s", path, strerror(error));
}

/* A place that cannot be written is the user's to mend, and is told before the work. */
static sy_status check_place(const char *path)
{
    sy_status st = SY_OK;
    char *folder = NULL;
    SY_TRY(sy__path_folder(path, &folder));
    SY_REQUIRE(access(folder, W_OK | X_OK) == 0, SY_ERR_USAGE, "cannot write '%s': %s", path,
               strerror(errno));
cleanup:
    sy_free(&folder);
    return st;
}

/* The name of the folder itself, also for "." and "runs/..". */
static sy_status name_of(const char *path, char **out)
{
    char real[PATH_MAX];
    const char *slash = realpath(path, real) != NULL ? strrchr(real, '/') : NULL;
    return sy_strdup(slash != NULL && slash[1] != '\0' ? slash + 1 : path, out);
}

/* What is read of one run directory. */
typedef struct read_run {
    sy_run_dir dir;
    sy_metrics_log log;
    char *name, *config;
    double quiet_s;
} read_run;

static void free_run(read_run *r)
{
    sy_metrics_log_free(&r->log);
    sy_free(&r->config);
    sy_free(&r->name);
    sy_run_dir_free(&r->dir);
}

static sy_status open_run(const char *path, read_run *r)
{
    sy_status st = SY_OK;
    SY_TRY(sy_run_dir_init(path, &r->dir));
    SY_REQUIRE(exists(r->dir.path), SY_ERR_USAGE, "there is no run directory '%s'", r->dir.path);
    SY_REQUIRE(exists(r->dir.metrics) || exists(r->dir.config), SY_ERR_USAGE,
               "'%s' is no run directory: it holds neither metrics.jsonl nor config.yaml",
               r->dir.path);
cleanup:
    return st;
}

static sy_status read_one(read_run *r)
{
    sy_status st = SY_OK;
    struct stat info;
    r->quiet_s = -1;
    if (stat(r->dir.metrics, &info) == 0) {
        r->quiet_s = fmax(difftime(time(NULL), info.st_mtime), 0);
        SY_TRY(sy_metrics_log_read(r->dir.metrics, &r->log));
    }
    if (exists(r->dir.config)) {
        SY_TRY(sy__text_file_read(r->dir.config, CONFIG_BYTES_MAX, &r->config));
    }
    SY_TRY(name_of(r->dir.path, &r->name));
cleanup:
    return st;
}

/* Is this a folder that came before, whatever path leads to it? */
static bool is_again(const read_run *r, int32_t n)
{
    struct stat info, before;
    bool again = false;
    for (int32_t k = 0; k < n && !again && stat(r[n].dir.path, &info) == 0; k++) {
        again = stat(r[k].dir.path, &before) == 0 && info.st_dev == before.st_dev &&
                info.st_ino == before.st_ino;
    }
    return again;
}

/* Folders of the same name in different places go by their paths; a folder that came before says
 * so. */
static sy_status tell_apart(read_run *r, int32_t n)
{
    sy_status st = SY_OK;
    bool clash = false;
    for (int32_t i = 0; i < n; i++) {
        for (int32_t k = 0; k < i; k++) {
            clash = clash || strcmp(r[i].name, r[k].name) == 0;
        }
    }
    for (int32_t i = 0; i < n && clash; i++) {
        sy_free(&r[i].name);
        SY_TRY(sy_asprintf(&r[i].name, "%s%s", r[i].dir.path,
                           is_again(r, i) ? " (the same run again)" : ""));
    }
cleanup:
    return st;
}

static sy_status render(read_run *r, int32_t n, char **page)
{
    sy_status st = SY_OK;
    sy_report_run run[SY_REPORT_RUNS_MAX];
    char *lock = NULL;
    SY_TRY(tell_apart(r, n));
    for (int32_t i = 0; i < n; i++) {
        SY_TRY(sy_asprintf(&lock, "%s/lock", r[i].dir.path));
        run[i] = (sy_report_run){.log = &r[i].log,
                                 .name = r[i].name,
                                 .config = r[i].config,
                                 .holder = sy_run_lock_holder(lock),
                                 .quiet_s = r[i].quiet_s};
        sy_free(&lock);
    }
    SY_TRY(sy_report_render(run, n, page));
cleanup:
    sy_free(&lock);
    return st;
}

sy_status sy_report_write(const char *const *run_dir, int32_t n_runs, const char *out_path,
                          char **written)
{
    sy_status st = SY_OK;
    read_run run[SY_REPORT_RUNS_MAX] = {0};
    char *page = NULL, *path = NULL;
    SY_REQUIRE(n_runs <= SY_REPORT_RUNS_MAX, SY_ERR_USAGE,
               "%d runs are too many for one page: at most %d", n_runs, SY_REPORT_RUNS_MAX);
    SY_REQUIRE(out_path == NULL || out_path[0] != '\0', SY_ERR_USAGE,
               "-o: an empty name is no file; leave the option out for the usual place");
    for (int32_t i = 0; i < n_runs; i++) {
        SY_TRY(open_run(run_dir[i], &run[i]));
    }
    if (out_path != NULL || n_runs == 1) {
        SY_TRY(sy_strdup(out_path != NULL ? out_path : run[0].dir.report, &path));
    } else {
        SY_TRY(sy_asprintf(&path, "%s/compare.html", run[0].dir.path));
    }
    SY_TRY(check_place(path));
    for (int32_t i = 0; i < n_runs; i++) {
        SY_TRY(read_one(&run[i]));
    }
    SY_TRY(render(run, n_runs, &page));
    SY_TRY(write_page(path, page));
    if (written != NULL) {
        *written = path;
        path = NULL;
    }
cleanup:
    for (int32_t i = 0; i < n_runs && i < SY_REPORT_RUNS_MAX; i++) {
        free_run(&run[i]);
    }
    sy_free(&page);
    sy_free(&path);
    return st;
}
