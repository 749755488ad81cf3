/* metrics.jsonl: cut back at open, one write per line, a failed write undone. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "report/file_impl.h"
#include "report/metrics_impl.h"

struct sy_metrics_file {
    char *path;
    int fd;
    int64_t step;    /* of the last line, -1 if none */
    int64_t n_bytes; /* of the file */
    sy_text line;
};

/* false: the line is no record. Our own lines open with the step, which spares parsing the rest of
 * a long file. */
static bool read_step(const sy__line *line, int64_t *step)
{
    long long number;
    int n_read = 0;
    if (sscanf(line->text, "{\"step\":%18lld%n", &number, &n_read) == 1 &&
        (line->text[n_read] == ',' || line->text[n_read] == '}')) {
        *step = number;
        return true;
    }
    json_t *object = json_loadb(line->text, (size_t)line->n, 0, NULL);
    json_t *value = json_object_get(object, "step");
    bool found = json_is_integer(value);
    if (found) {
        *step = json_integer_value(value);
    }
    json_decref(object);
    return found;
}

static double read_time(const sy__line *line)
{
    json_t *object = json_loadb(line->text, (size_t)line->n, 0, NULL);
    double time_s = json_number_value(json_object_get(object, "time_s"));
    json_decref(object);
    return time_s;
}

/* The last line that has a step. Its place is known from the scan; reading it again spares parsing
 * every line. */
static sy_status read_tail_time(int fd, int64_t offset, double *time_s)
{
    sy_status st = SY_OK;
    sy__lines lines;
    sy__line line;
    bool found = false;
    sy__lines_init(&lines, fd);
    SY_REQUIRE(lseek(fd, offset, SEEK_SET) == offset, SY_ERR_IO, "cannot seek: %s",
               strerror(errno));
    SY_TRY(sy__lines_next(&lines, &line, &found));
    *time_s = found ? read_time(&line) : 0;
cleanup:
    sy__lines_free(&lines);
    return st;
}

/* Where to cut: before the first line beyond keep_step, or before a last line without an end. */
static sy_status scan(int fd, int64_t keep_step, sy_metrics_tail *tail)
{
    sy_status st = SY_OK;
    sy__lines lines;
    sy__line line;
    bool found = false;
    int64_t step = -1, last_offset = -1;
    sy__lines_init(&lines, fd);
    *tail = (sy_metrics_tail){.step = -1};
    SY_TRY(sy__lines_next(&lines, &line, &found));
    while (found && line.complete) {
        bool is_record = read_step(&line, &step);
        if (is_record && step > keep_step) {
            break;
        }
        if (is_record) {
            tail->step = step;
            last_offset = line.offset;
        }
        tail->n_bytes = line.offset + line.n + 1;
        SY_TRY(sy__lines_next(&lines, &line, &found));
    }
    if (last_offset >= 0) {
        SY_TRY(read_tail_time(fd, last_offset, &tail->time_s));
    }
cleanup:
    sy__lines_free(&lines);
    return st;
}

static sy_status cut(int fd, const char *path, int64_t keep_step, sy_metrics_tail *tail)
{
    sy_status st = SY_OK;
    sy_metrics_tail kept = {.step = -1};
    int64_t n_before = lseek(fd, 0, SEEK_END);
    SY_REQUIRE(n_before >= 0 && lseek(fd, 0, SEEK_SET) == 0, SY_ERR_IO, "cannot read '%s': %s",
               path, strerror(errno));
    if (keep_step >= 0) {
        SY_TRY(scan(fd, keep_step, &kept));
    }
    kept.n_dropped = n_before - kept.n_bytes;
    if (kept.n_dropped > 0) {
        char end = '\n';
        SY_REQUIRE(pread(fd, &end, 1, n_before - 1) == 1, SY_ERR_IO, "cannot read '%s': %s", path,
                   strerror(errno));
        kept.torn = end != '\n';
        SY_REQUIRE(ftruncate(fd, kept.n_bytes) == 0 && fsync(fd) == 0, SY_ERR_IO,
                   "cannot cut '%s': %s", path, strerror(errno));
    }
    *tail = kept;
cleanup:
    return st;
}

sy_status sy_metrics_file_open(const char *path, int64_t keep_step, sy_metrics_tail *tail,
                               sy_metrics_file **out)
{
    sy_status st = SY_OK;
    sy_metrics_tail kept = {0};
    sy_metrics_file *file = NULL;
    SY_TRY(sy_alloc(1, sizeof *file, (void **)&file));
    file->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    SY_REQUIRE(file->fd >= 0, SY_ERR_USAGE, "cannot write '%s': %s", path, strerror(errno));
    SY_TRY(sy_strdup(path, &file->path));
    SY_TRY(cut(file->fd, path, keep_step, &kept));
    file->step = kept.step;
    file->n_bytes = kept.n_bytes;
    if (tail != NULL) {
        *tail = kept;
    }
    *out = file;
    file = NULL;
cleanup:
    sy_metrics_file_close(&file);
    return st;
}

sy_status sy_metrics_file_append(sy_metrics_file *file, int64_t step, const sy_metrics *metrics)
{
    sy_status st = SY_OK;
    SY_REQUIRE(step > file->step, SY_ERR_INTERNAL,
               "metrics of step %lld come after those of step %lld", (long long)step,
               (long long)file->step);
    sy_text_clear(&file->line);
    sy__metrics_line(&file->line, step, metrics);
    SY_TRY(file->line.st);
    int error = sy__write_all(file->fd, file->line.data, file->line.n);
    if (error != 0 && ftruncate(file->fd, file->n_bytes) != 0) {
        error = errno;
    }
    SY_REQUIRE(error == 0, SY_ERR_IO, "cannot append step %lld to '%s': %s", (long long)step,
               file->path, strerror(error));
    file->step = step;
    file->n_bytes += file->line.n;
cleanup:
    return st;
}

sy_status sy_metrics_file_sync(sy_metrics_file *file)
{
    if (fsync(file->fd) != 0) {
        return sy_error(SY_ERR_IO, "cannot sync '%s': %s", file->path, strerror(errno));
    }
    return SY_OK;
}

void sy_metrics_file_close(sy_metrics_file **file)
{
    if (*file != NULL) {
        if ((*file)->fd >= 0) {
            close((*file)->fd);
        }
        sy_text_free(&(*file)->line);
        sy_free(&(*file)->path);
        sy_free(file);
    }
}
