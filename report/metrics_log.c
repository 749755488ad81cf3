/* Reading metrics.jsonl back into series, with neighbouring points merged where a series grows too
 * long. */
#include "report/metrics_log.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "report/file_impl.h"

double sy_series_step(const sy_series_point *point)
{
    return 0.5 * ((double)point->first + (double)point->last);
}

const sy_series *sy_metrics_log_find(const sy_metrics_log *log, const char *key)
{
    for (int32_t i = 0; i < log->n; i++) {
        if (strcmp(log->series[i].key, key) == 0) {
            return &log->series[i];
        }
    }
    return NULL;
}

void sy_metrics_log_free(sy_metrics_log *log)
{
    for (int32_t i = 0; i < log->n; i++) {
        sy_free(&log->series[i].row);
        sy_free(&log->series[i].point);
        sy_free(&log->series[i].key);
    }
    sy_free(&log->series);
    memset(log, 0, sizeof *log);
}

/* *next is where the key is looked for first: lines name their keys in the same order. */
static sy_status find_or_add(sy_metrics_log *log, const char *key, int32_t width, int32_t *next,
                             sy_series **out)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < log->n; i++) {
        int32_t at = (*next + i) % log->n;
        if (strcmp(log->series[at].key, key) == 0) {
            *next = (at + 1) % log->n;
            *out = &log->series[at];
            return SY_OK;
        }
    }
    SY_TRY(sy_realloc(log->n + 1, sizeof *log->series, (void **)&log->series));
    sy_series *series = &log->series[log->n];
    memset(series, 0, sizeof *series);
    series->width = width;
    series->n_per_point = 1;
    SY_TRY(sy_strdup(key, &series->key));
    log->n++;
    *out = series;
cleanup:
    return st;
}

static void merge_rows(const sy_series *s, int32_t to, int32_t a, int32_t b)
{
    double na = (double)s->point[a].n, nb = (double)s->point[b].n;
    const double *x = s->row + (int64_t)a * s->width, *y = s->row + (int64_t)b * s->width;
    double *z = s->row + (int64_t)to * s->width;
    for (int32_t i = 0; i < s->width; i++) {
        z[i] = (na * x[i] + nb * y[i]) / (na + nb);
    }
}

static sy_series_point merged(const sy_series_point *a, const sy_series_point *b)
{
    double na = (double)a->n, nb = (double)b->n;
    return (sy_series_point){
        .first = a->first,
        .last = b->last,
        .n = a->n + b->n,
        .mean = (na * a->mean + nb * b->mean) / (na + nb),
        .min = fmin(a->min, b->min),
        .max = fmax(a->max, b->max),
    };
}

/* Halve a full series. The row of a merged pair is written before its points are, as it weighs by
 * their counts. */
static void halve(sy_series *s)
{
    int32_t n = s->n / 2;
    for (int32_t i = 0; i < n; i++) {
        merge_rows(s, i, 2 * i, 2 * i + 1);
        s->point[i] = merged(&s->point[2 * i], &s->point[2 * i + 1]);
    }
    s->n = n;
    s->n_per_point *= 2;
}

/* A new point, or the last one while it is not full; its row follows the point. */
static sy_status add_point(sy_series *s, const sy_series_point *value, const double *row)
{
    sy_status st = SY_OK;
    int32_t n_max = s->width > 0 ? SY_SERIES_ROWS : SY_SERIES_POINTS;
    if (s->point == NULL) {
        /* One spare place: a value on its way into a point that is not full stands there first. */
        SY_TRY(sy_alloc(n_max + 1, sizeof *s->point, (void **)&s->point));
        SY_TRY(sy_alloc((int64_t)(n_max + 1) * s->width, sizeof *s->row, (void **)&s->row));
    }
    if (s->n == n_max && s->point[s->n - 1].n >= s->n_per_point) {
        halve(s);
    }
    s->point[s->n] = *value;
    if (s->width > 0) {
        memcpy(s->row + (int64_t)s->n * s->width, row, (size_t)s->width * sizeof *row);
    }
    if (s->n > 0 && s->point[s->n - 1].n < s->n_per_point) {
        merge_rows(s, s->n - 1, s->n - 1, s->n);
        s->point[s->n - 1] = merged(&s->point[s->n - 1], &s->point[s->n]);
    } else {
        s->n++;
    }
cleanup:
    return st;
}

/* Sums and differences of values near the end of the doubles would not be finite. */
static double bounded(double x)
{
    const double most = 1e300;
    return fmin(fmax(x, -most), most);
}

static void count_null(sy_series *s, int64_t step)
{
    s->null_first = s->n_null++ == 0 ? step : s->null_first;
}

static sy_status add_number(sy_series *s, int64_t step, double x)
{
    if (!isfinite(x)) {
        count_null(s, step);
        return SY_OK;
    }
    x = bounded(x);
    if (s->n_values++ == 0 || x < s->min) {
        s->min = x;
        s->min_step = step;
    }
    s->last = x;
    s->last_step = step;
    sy_series_point value = {.first = step, .last = step, .n = 1, .mean = x, .min = x, .max = x};
    return add_point(s, &value, NULL);
}

static sy_status add_array(sy_series *s, int64_t step, const json_t *array)
{
    sy_status st = SY_OK;
    double *row = NULL;
    SY_TRY(sy_alloc(s->width, sizeof *row, (void **)&row));
    for (int32_t i = 0; i < s->width; i++) {
        const json_t *x = json_array_get(array, (size_t)i);
        if (!json_is_number(x)) {
            count_null(s, step);
            goto cleanup;
        }
        row[i] = bounded(json_number_value(x));
    }
    s->n_values++;
    s->last_step = step;
    sy_series_point value = {.first = step, .last = step, .n = 1};
    SY_TRY(add_point(s, &value, row));
cleanup:
    sy_free(&row);
    return st;
}

/* A key may change its kind only in a file that we did not write; such values are passed over. */
static sy_status add_value(sy_metrics_log *log, int64_t step, const char *key, const json_t *value,
                           int32_t *next)
{
    sy_status st = SY_OK;
    sy_series *series;
    bool is_array = json_is_array(value);
    size_t width = is_array ? json_array_size(value) : 0;
    bool fits =
        is_array ? width > 0 && width <= INT16_MAX : json_is_number(value) || json_is_null(value);
    if (!fits) {
        return SY_OK;
    }
    SY_TRY(find_or_add(log, key, (int32_t)width, next, &series));
    if (series->width != (int32_t)width) {
        return SY_OK;
    }
    if (is_array) {
        SY_TRY(add_array(series, step, value));
    } else {
        SY_TRY(add_number(series, step, json_is_null(value) ? NAN : json_number_value(value)));
    }
cleanup:
    return st;
}

/* A line on its way into the log: whether its step can be right shows at the next one. */
typedef struct held_line {
    json_t *record; /* NULL: none */
    int64_t step, number;
} held_line;

static void count_bad(sy_metrics_log *log, int64_t line_number)
{
    log->bad_first =
        log->n_bad++ == 0 || line_number < log->bad_first ? line_number : log->bad_first;
}

static sy_status add_record(sy_metrics_log *log, const held_line *line)
{
    sy_status st = SY_OK;
    const char *key;
    json_t *value;
    int32_t next = 0;
    log->first_step = log->n_lines++ == 0 ? line->step : log->first_step;
    log->last_step = line->step;
    json_object_foreach(line->record, key, value)
    {
        if (strcmp(key, "step") != 0) {
            SY_TRY(add_value(log, line->step, key, value, &next));
        }
    }
cleanup:
    return st;
}

/* Steps rise. One below those before it is damaged; one above the step that follows is, too, as
   long as that one still lies above all others. */
static sy_status take(sy_metrics_log *log, held_line *held, held_line *line)
{
    sy_status st = SY_OK;
    const int64_t before = log->n_lines > 0 ? log->last_step : 0;
    if (line->step <= before || line->step > SY_METRICS_STEP_MAX) {
        count_bad(log, line->number);
        goto cleanup;
    }
    if (held->record != NULL && line->step <= held->step) {
        count_bad(log, held->number);
    } else if (held->record != NULL) {
        SY_TRY(add_record(log, held));
    }
    json_decref(held->record);
    *held = *line;
    line->record = NULL;
cleanup:
    return st;
}

static sy_status add_line(sy_metrics_log *log, const sy__line *line, int64_t number,
                          held_line *held)
{
    sy_status st = SY_OK;
    held_line read = {.record = json_loadb(line->text, (size_t)line->n, 0, NULL), .number = number};
    const json_t *step = json_object_get(read.record, "step");
    if (json_is_integer(step)) {
        read.step = json_integer_value(step);
        SY_TRY(take(log, held, &read));
    } else {
        count_bad(log, number);
    }
cleanup:
    json_decref(read.record);
    return st;
}

sy_status sy_metrics_log_read(const char *path, sy_metrics_log *out)
{
    sy_status st = SY_OK;
    sy_metrics_log log = {0};
    held_line held = {0};
    sy__lines lines;
    sy__line line;
    bool found = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    sy__lines_init(&lines, fd);
    SY_REQUIRE(fd >= 0, errno == ENOENT ? SY_ERR_USAGE : SY_ERR_IO, "cannot open '%s': %s", path,
               strerror(errno));
    SY_TRY(sy__lines_next(&lines, &line, &found));
    for (int64_t number = 1; found && line.complete; number++) {
        SY_TRY(add_line(&log, &line, number, &held));
        SY_TRY(sy__lines_next(&lines, &line, &found));
    }
    SY_TRY(held.record != NULL ? add_record(&log, &held) : SY_OK);
    log.is_cut = found;
    *out = log;
    memset(&log, 0, sizeof log);
cleanup:
    json_decref(held.record);
    sy_metrics_log_free(&log);
    sy__lines_free(&lines);
    if (fd >= 0) {
        close(fd);
    }
    return st;
}
