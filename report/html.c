/* The page as a whole: what is read, what stands in which order, where it is written. */
#include "report/html.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

static void write_head(const sy__page *page)
{
    sy_text *out = page->out;
    sy_text_puts(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    sy_text_html(out, page->name);
    sy_text_puts(out, " - Switchyard run</title>\n<style>\n");
    sy__page_style(out);
    sy_text_puts(out, "</style>\n</head>\n<body>\n<header>\n<p class=\"brand\">Switchyard run</p>"
                      "\n<h1>");
    sy_text_html(out, page->name);
    sy_text_puts(out, "</h1>\n</header>\n<main>\n");
}

static void write_config(const sy__page *page)
{
    sy_text *out = page->out;
    sy_text_puts(out, "<section>\n<h2>Configuration</h2>\n");
    if (page->config == NULL) {
        sy_text_puts(out, "<p class=\"empty\">The run directory holds no config.yaml.</p>\n");
    } else {
        sy_text_puts(out, "<details open><summary>config.yaml</summary>\n<pre>");
        sy_text_html(out, page->config);
        sy_text_puts(out, "</pre></details>\n");
    }
    sy_text_puts(out, "</section>\n");
}

static void write_foot(const sy__page *page)
{
    char now[32];
    sy_clock_utc(now, sizeof now);
    sy_text_printf(page->out,
                   "</main>\n<footer>Written %s by switchyard report from %lld logged "
                   "step%s.</footer>\n</body>\n</html>\n",
                   now, (long long)page->log->n_lines, page->log->n_lines == 1 ? "" : "s");
}

sy_status sy_report_render(const sy_metrics_log *log, const char *name, const char *config,
                           char **out)
{
    sy_status st = SY_OK;
    sy_text text = {0};
    sy__page page = {.out = &text, .log = log, .name = name, .config = config};
    page.x_hi = (double)log->last_step;
    page.x_lo = (double)log->first_step <= 0.1 * page.x_hi ? 0 : (double)log->first_step;
    SY_TRY(find_loads(&page));
    write_head(&page);
    sy__page_tiles(&page);
    SY_TRY(sy__page_warnings(&page));
    SY_TRY(sy__page_charts(&page));
    SY_TRY(sy__page_routed(&page));
    SY_TRY(sy__page_loads(&page));
    sy__page_tables(&page);
    write_config(&page);
    write_foot(&page);
    SY_TRY(text.st);
    *out = text.data;
    memset(&text, 0, sizeof text);
cleanup:
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
    int error = file == NULL ? (S_ISDIR(info.st_mode) ? EISDIR : errno) : 0;
    if (file != NULL) {
        error = fputs(page, file) < 0 ? errno : 0;
        error = fclose(file) != 0 && error == 0 ? errno : error;
    }
    if (error != 0) {
        return sy_error(SY_ERR_USAGE, "cannot write '%s': %s", path, strerror(error));
    }
    return SY_OK;
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

sy_status sy_report_write(const char *run_dir, const char *out_path, char **written)
{
    sy_status st = SY_OK;
    sy_run_dir run = {0};
    sy_metrics_log log = {0};
    char *name = NULL, *config = NULL, *page = NULL, *path = NULL;
    SY_TRY(sy_run_dir_init(run_dir, &run));
    SY_REQUIRE(exists(run.path), SY_ERR_USAGE, "there is no run directory '%s'", run.path);
    bool has_metrics = exists(run.metrics), has_config = exists(run.config);
    SY_REQUIRE(has_metrics || has_config, SY_ERR_USAGE,
               "'%s' is no run directory: it holds neither metrics.jsonl nor config.yaml",
               run.path);
    SY_TRY(sy_strdup(out_path != NULL ? out_path : run.report, &path));
    SY_TRY(check_place(path));
    if (has_metrics) {
        SY_TRY(sy_metrics_log_read(run.metrics, &log));
    }
    if (has_config) {
        SY_TRY(sy__text_file_read(run.config, CONFIG_BYTES_MAX, &config));
    }
    SY_TRY(name_of(run.path, &name));
    SY_TRY(sy_report_render(&log, name, config, &page));
    SY_TRY(write_page(path, page));
    if (written != NULL) {
        *written = path;
        path = NULL;
    }
cleanup:
    sy_free(&page);
    sy_free(&config);
    sy_free(&name);
    sy_free(&path);
    sy_metrics_log_free(&log);
    sy_run_dir_free(&run);
    return st;
}
