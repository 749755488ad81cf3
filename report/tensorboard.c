#include "report/tensorboard.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/alloc.h"
#include "report/file_impl.h"
#include "report/metrics_impl.h"
#include "report/text.h"

struct sy_tensorboard {
    char *folder, *path;
    int fd; /* -1: nothing was said yet */
    int64_t keep_step;
    bool broken;
    uint32_t crc_table[256];
    sy_text out, event, part, value;
};

/* ---- records ---- */

/* CRC-32C (Castagnoli), bits reversed, a byte at a time. */
static void fill_table(uint32_t table[256])
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        table[byte] = byte;
        for (int32_t k = 0; k < 8; k++) {
            table[byte] = (table[byte] >> 1) ^ ((table[byte] & 1) != 0 ? 0x82f63b78u : 0);
        }
    }
}

static uint32_t crc32c(const uint32_t table[256], const char *bytes, int64_t n)
{
    uint32_t crc = 0xffffffffu;
    for (int64_t i = 0; i < n; i++) {
        crc = (crc >> 8) ^ table[(crc ^ (unsigned char)bytes[i]) & 0xff];
    }
    return ~crc;
}

static void put_checksum(sy_text *out, const uint32_t table[256], const char *bytes, int64_t n)
{
    const uint32_t crc = crc32c(table, bytes, n),
                   masked = ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
    sy_text_append(out, (const char *)&masked, sizeof masked);
}

static void put_record(sy_text *out, const uint32_t table[256], const sy_text *event)
{
    const uint64_t n = (uint64_t)event->n;
    sy_text_append(out, (const char *)&n, sizeof n);
    put_checksum(out, table, (const char *)&n, sizeof n);
    sy_text_append(out, event->data, event->n);
    put_checksum(out, table, event->data, event->n);
}

/* ---- protocol buffers ---- */

enum { WIRE_VARINT = 0, WIRE_8 = 1, WIRE_BYTES = 2, WIRE_4 = 5 };

static void put_varint(sy_text *out, uint64_t x)
{
    char bytes[10];
    int32_t n = 0;
    do {
        bytes[n] = (char)((x & 0x7f) | (x > 0x7f ? 0x80 : 0));
        x >>= 7;
        n++;
    } while (x > 0);
    sy_text_append(out, bytes, n);
}

static void put_tag(sy_text *out, uint32_t field, uint32_t wire)
{
    put_varint(out, field << 3 | wire);
}

static void put_f64(sy_text *out, uint32_t field, double x)
{
    put_tag(out, field, WIRE_8);
    sy_text_append(out, (const char *)&x, sizeof x);
}

static void put_f32(sy_text *out, uint32_t field, float x)
{
    put_tag(out, field, WIRE_4);
    sy_text_append(out, (const char *)&x, sizeof x);
}

static void put_i64(sy_text *out, uint32_t field, int64_t x)
{
    put_tag(out, field, WIRE_VARINT);
    put_varint(out, (uint64_t)x);
}

static void put_bytes(sy_text *out, uint32_t field, const char *bytes, int64_t n)
{
    put_tag(out, field, WIRE_BYTES);
    put_varint(out, (uint64_t)n);
    sy_text_append(out, bytes, n);
}

/* ---- events: field numbers of event.proto and summary.proto ---- */

enum {
    EVENT_WALL_TIME = 1,
    EVENT_STEP = 2,
    EVENT_VERSION = 3,
    EVENT_SUMMARY = 5,
    EVENT_SESSION = 7
};
enum { SESSION_STATUS = 1, SESSION_START = 1 };
enum { SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_SIMPLE = 2, VALUE_HISTOGRAM = 5 };
enum {
    HISTO_MIN = 1,
    HISTO_MAX,
    HISTO_NUM,
    HISTO_SUM,
    HISTO_SUM_SQUARES,
    HISTO_LIMIT,
    HISTO_BUCKET
};

static void make_version(sy_text *event, double wall_time)
{
    static const char version[] = "brain.Event:2";
    sy_text_clear(event);
    put_f64(event, EVENT_WALL_TIME, wall_time);
    put_bytes(event, EVENT_VERSION, version, sizeof version - 1);
}

/* "A session starts here": whatever was said of this step and later ones is void. */
static void make_restart(sy_text *event, double wall_time, int64_t step, sy_text *part)
{
    sy_text_clear(part);
    put_i64(part, SESSION_STATUS, SESSION_START);
    sy_text_clear(event);
    put_f64(event, EVENT_WALL_TIME, wall_time);
    put_i64(event, EVENT_STEP, step);
    put_bytes(event, EVENT_SESSION, part->data, part->n);
}

/* A value that is not finite counts as none: a reader would lose the histogram. */
static double counted(double x)
{
    return isfinite(x) ? x : 0;
}

/* Bucket e, from e to e + 1, holds what place e of the array does. */
static void make_histogram(sy_text *out, const double *load, int64_t n)
{
    double num = 0, sum = 0, squares = 0;
    for (int64_t e = 0; e < n; e++) {
        num += counted(load[e]);
        sum += counted(load[e]) * (double)e;
        squares += counted(load[e]) * (double)e * (double)e;
    }
    sy_text_clear(out);
    put_f64(out, HISTO_MIN, 0);
    put_f64(out, HISTO_MAX, (double)n);
    put_f64(out, HISTO_NUM, num);
    put_f64(out, HISTO_SUM, sum);
    put_f64(out, HISTO_SUM_SQUARES, squares);
    for (int32_t field = HISTO_LIMIT; field <= HISTO_BUCKET; field++) {
        put_tag(out, (uint32_t)field, WIRE_BYTES);
        put_varint(out, (uint64_t)n * sizeof(double));
        for (int64_t e = 0; e < n; e++) {
            const double x = field == HISTO_LIMIT ? (double)(e + 1) : counted(load[e]);
            sy_text_append(out, (const char *)&x, sizeof x);
        }
    }
}

static void make_value(sy_text *value, const sy__metric *m, sy_text *part)
{
    sy_text_clear(value);
    put_bytes(value, VALUE_TAG, m->key, (int64_t)strlen(m->key));
    if (m->kind == SY__METRIC_ARRAY) {
        make_histogram(part, m->array, m->n);
        put_bytes(value, VALUE_HISTOGRAM, part->data, part->n);
    } else {
        put_f32(value, VALUE_SIMPLE, (float)(m->kind == SY__METRIC_I64 ? (double)m->i64 : m->f64));
    }
}

static void make_step(sy_text *event, double wall_time, int64_t step, const sy_metrics *metrics,
                      sy_text *part, sy_text *value)
{
    sy_text summary = {0};
    for (int32_t i = 0; i < metrics->n; i++) {
        const sy__metric *m = &metrics->item[i];
        if (m->kind != SY__METRIC_UNSET && (m->kind != SY__METRIC_ARRAY || m->n > 0)) {
            make_value(value, m, part);
            put_bytes(&summary, SUMMARY_VALUE, value->data, value->n);
        }
    }
    sy_text_clear(event);
    put_f64(event, EVENT_WALL_TIME, wall_time);
    put_i64(event, EVENT_STEP, step);
    put_bytes(event, EVENT_SUMMARY, summary.data, summary.n);
    event->st = event->st == SY_OK ? summary.st : event->st;
    sy_text_free(&summary);
}

/* ---- the file ---- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static sy_status write_event(sy_tensorboard *b)
{
    sy_status st = SY_OK;
    int error = 0;
    sy_text_clear(&b->out);
    put_record(&b->out, b->crc_table, &b->event);
    SY_REQUIRE(b->out.st == SY_OK && b->event.st == SY_OK, SY_ERR_MEMORY,
               "out of memory for a line of '%s'", b->path);
    SY_REQUIRE(!b->broken, SY_ERR_IO, "'%s' could not be written before", b->path);
    error = sy__write_all(b->fd, b->out.data, b->out.n);
    b->broken = error != 0; /* half a record hides what follows it */
    SY_REQUIRE(error == 0, SY_ERR_IO, "cannot write '%s': %s", b->path, strerror(error));
cleanup:
    return st;
}

/* Event files of a run that begins anew. */
static void delete_events(const char *folder)
{
    DIR *dir = opendir(folder);
    if (dir == NULL) {
        return;
    }
    for (const struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        if (strncmp(e->d_name, "events.out.tfevents.", 20) == 0) {
            (void)unlinkat(dirfd(dir), e->d_name, 0);
        }
    }
    closedir(dir);
}

static sy_status open_file(sy_tensorboard *b)
{
    sy_status st = SY_OK;
    char host[256] = "host";
    SY_REQUIRE(mkdir(b->folder, 0777) == 0 || errno == EEXIST, SY_ERR_IO, "cannot make '%s': %s",
               b->folder, strerror(errno));
    (void)gethostname(host, sizeof host - 1);
    for (int32_t i = 0; b->fd < 0; i++) { /* two in a second have two names */
        sy_free(&b->path);
        SY_TRY(sy_asprintf(&b->path, "%s/events.out.tfevents.%010lld.%s.%d.%d", b->folder,
                           (long long)now(), host, (int)getpid(), i));
        b->fd = open(b->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        SY_REQUIRE(b->fd >= 0 || errno == EEXIST, SY_ERR_IO, "cannot write '%s': %s", b->path,
                   strerror(errno));
    }
    make_version(&b->event, now());
    SY_TRY(write_event(b));
    if (b->keep_step >= 0) {
        make_restart(&b->event, now(), b->keep_step + 1, &b->part);
        SY_TRY(write_event(b));
    }
cleanup:
    return st;
}

sy_status sy_tensorboard_open(const char *folder, int64_t keep_step, sy_tensorboard **out)
{
    sy_status st = SY_OK;
    sy_tensorboard *b = NULL;
    SY_TRY(sy_alloc(1, sizeof *b, (void **)&b));
    b->fd = -1;
    b->keep_step = keep_step;
    fill_table(b->crc_table);
    SY_TRY(sy_strdup(folder, &b->folder));
    if (keep_step < 0) {
        delete_events(folder);
    }
    *out = b;
    b = NULL;
cleanup:
    sy_tensorboard_close(&b);
    return st;
}

sy_status sy_tensorboard_append(sy_tensorboard *board, int64_t step, const sy_metrics *metrics)
{
    sy_status st = SY_OK;
    if (board->fd < 0) {
        SY_TRY(open_file(board));
    }
    make_step(&board->event, now(), step, metrics, &board->part, &board->value);
    SY_TRY(write_event(board));
cleanup:
    return st;
}

void sy_tensorboard_close(sy_tensorboard **board)
{
    sy_tensorboard *b = *board;
    if (b == NULL) {
        return;
    }
    if (b->fd >= 0) {
        close(b->fd);
    }
    sy_text_free(&b->value);
    sy_text_free(&b->part);
    sy_text_free(&b->event);
    sy_text_free(&b->out);
    sy_free(&b->path);
    sy_free(&b->folder);
    sy_free(board);
}
