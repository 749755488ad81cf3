/* The trace event format (Chrome): "X" is a complete event, "M" names a process or thread. */
#include "report/timeline.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "report/file_impl.h"

struct sy_timeline_file {
    char *path, *temp;
    FILE *stream;
    bool has_lines;
};

static const char head[] = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", tail[] = "\n]}\n";

static void write_names(sy_text *text, const sy_spans *r, int32_t rank)
{
    sy_text_printf(text,
                   "{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_name\",\"args\":{\"name\":"
                   "\"rank %d\"}},\n"
                   "{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_sort_index\",\"args\":"
                   "{\"sort_index\":%d}}",
                   rank, rank, rank, rank);
    for (int32_t i = 0; i < r->n_threads; i++) {
        sy_text_printf(text,
                       ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"name\":\"thread_name\",\"args\":"
                       "{\"name\":",
                       rank, i);
        sy_text_json(text, i == 0 ? "main" : r->thread[i]);
        sy_text_puts(text, "}}");
    }
}

static void write_span(sy_text *text, const sy_span *r, int32_t rank, double shift_s)
{
    static const char *const kinds[SY_N_SPAN_KINDS] = {"step", "phase", "layer", "part",
                                                       "op",   "comm",  "file"};
    bool is_numbered = r->kind == SY_SPAN_STEP || r->kind == SY_SPAN_LAYER;
    sy_text_printf(text,
                   ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,"
                   "\"cat\":\"%s\",\"name\":\"%s",
                   rank, r->thread, 1e6 * (r->begun_s + shift_s), 1e6 * (r->ended_s - r->begun_s),
                   kinds[r->kind], r->name);
    if (is_numbered) {
        sy_text_printf(text, " %lld", (long long)r->number);
    }
    sy_text_puts(text, "\"");
    if (!is_numbered && r->number >= 0) {
        sy_text_printf(text, ",\"args\":{\"layer\":%lld", (long long)r->number);
    }
    if (r->bytes >= 0) {
        sy_text_printf(text, "%s\"bytes\":%lld", r->number >= 0 ? "," : ",\"args\":{",
                       (long long)r->bytes);
    }
    sy_text_puts(text, (!is_numbered && r->number >= 0) || r->bytes >= 0 ? "}}" : "}");
}

void sy_timeline_rank(sy_text *text, const sy_spans *spans, int32_t rank, double shift_s)
{
    write_names(text, spans, rank);
    for (int64_t i = 0; i < spans->n; i++) {
        write_span(text, &spans->item[i], rank, shift_s);
    }
}

static sy_status put(sy_timeline_file *file, const char *bytes, size_t n)
{
    if (fwrite(bytes, 1, n, file->stream) != n) {
        return sy_error(SY_ERR_IO, "cannot write '%s': %s", file->path, strerror(errno));
    }
    return SY_OK;
}

sy_status sy_timeline_open(const char *path, sy_timeline_file **out)
{
    sy_status st = SY_OK;
    sy_timeline_file *file = NULL;
    char *folder = NULL;
    const char *slash = strrchr(path, '/');
    SY_TRY(sy_alloc(1, sizeof *file, (void **)&file));
    SY_TRY(sy_strdup(path, &file->path));
    SY_TRY(sy__path_folder(path, &folder));
    SY_TRY(sy_asprintf(&file->temp, "%s/.%s.tmp", folder, slash == NULL ? path : slash + 1));
    file->stream = fopen(file->temp, "we");
    SY_REQUIRE(file->stream != NULL, SY_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
    SY_TRY(put(file, head, sizeof head - 1));
    *out = file;
    file = NULL;
cleanup:
    sy_free(&folder);
    if (file != NULL) {
        (void)sy_timeline_close(&file, false); /* which raises nothing */
    }
    return st;
}

sy_status sy_timeline_append(sy_timeline_file *file, const char *lines, int64_t n_bytes)
{
    sy_status st = SY_OK;
    SY_TRY(file->has_lines ? put(file, ",\n", 2) : SY_OK);
    SY_TRY(put(file, lines, (size_t)n_bytes));
    file->has_lines = true;
cleanup:
    return st;
}

sy_status sy_timeline_close(sy_timeline_file **file, bool keep)
{
    sy_status st = SY_OK;
    sy_timeline_file *f = *file;
    if (f == NULL) {
        return SY_OK;
    }
    if (f->stream != NULL) {
        st = keep ? put(f, tail, sizeof tail - 1) : SY_OK;
        bool closed = fclose(f->stream) == 0;
        if (st == SY_OK && keep && (!closed || rename(f->temp, f->path) != 0)) {
            st = sy_error(SY_ERR_IO, "cannot write '%s': %s", f->path, strerror(errno));
        }
        if (st != SY_OK || !keep) {
            unlink(f->temp);
        }
    }
    sy_free(&f->temp);
    sy_free(&f->path);
    sy_free(file);
    return st;
}
