/* Inputs -> tokenizer -> token writer. Text is cut where the tokenizer allows it, so a file of any
   size passes through one buffer; a line of JSONL is held whole. */
#include "data/tokenize.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "data/token_writer.h"
#include "data/tokenizer.h"

enum { READ_BYTES = 1 << 20 };

typedef struct tokenize_job {
    const sy_tokenize_spec *spec;
    sy_tokenizer *tokenizer;
    sy_token_writer *writer;
    int32_t *ids; /* grows to the longest piece */
    int64_t max_ids;
    int64_t n_read, n_all;   /* bytes of the inputs, for the progress line */
    int64_t document_tokens; /* of the open document */
    sy_tokenize_result done;
} tokenize_job;

static sy_status measure_inputs(tokenize_job *job)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < job->spec->n_inputs; i++) {
        const char *path = job->spec->inputs[i];
        struct stat info;
        SY_REQUIRE(stat(path, &info) == 0, SY_ERR_USAGE, "cannot read input '%s': %s", path,
                   strerror(errno));
        SY_REQUIRE(!S_ISDIR(info.st_mode), SY_ERR_USAGE, "input '%s' is a folder; give its files",
                   path);
        job->n_all += info.st_size;
    }

cleanup:
    return st;
}

static void advance(tokenize_job *job, int64_t n_bytes)
{
    job->n_read += n_bytes;
    if (job->spec->progress != NULL) {
        job->spec->progress(job->spec->progress_arg, job->n_read, job->n_all);
    }
}

static sy_status add_text(tokenize_job *job, const char *text, int64_t n_bytes)
{
    sy_status st = SY_OK;
    int64_t n_ids = 0, max_ids = sy_tokenizer_max_ids(job->tokenizer, n_bytes);
    if (max_ids > job->max_ids) {
        SY_TRY(sy_realloc(max_ids, sizeof *job->ids, (void **)&job->ids));
        job->max_ids = max_ids;
    }
    SY_TRY(sy_tokenizer_encode(job->tokenizer, text, n_bytes, job->ids, &n_ids));
    SY_TRY(sy_token_writer_append(job->writer, job->ids, n_ids));
    job->document_tokens += n_ids;
    job->done.n_bytes += n_bytes;

cleanup:
    return st;
}

static sy_status end_document(tokenize_job *job)
{
    sy_status st = SY_OK;
    if (job->spec->append_eod && job->document_tokens > 0) {
        SY_TRY(sy_token_writer_append(job->writer, &job->tokenizer->eod_id, 1));
        job->document_tokens++;
    }
    SY_TRY(sy_token_writer_end_document(job->writer));
    job->done.n_tokens += job->document_tokens;
    job->done.n_documents++;
    job->document_tokens = 0;

cleanup:
    return st;
}

/* A whole text file: one document. */
static sy_status add_text_file(tokenize_job *job, const char *path, FILE *stream)
{
    sy_status st = SY_OK;
    char *buffer = NULL;
    int64_t size = READ_BYTES, have = 0;

    SY_TRY(sy_alloc(size, 1, (void **)&buffer));
    for (bool more = true; more;) {
        size_t got = fread(buffer + have, 1, (size_t)(size - have), stream);
        SY_REQUIRE(!ferror(stream), SY_ERR_IO, "cannot read input '%s': %s", path, strerror(errno));
        more = !feof(stream);
        have += (int64_t)got;
        int64_t use = more ? sy_tokenizer_cut(job->tokenizer, buffer, have) : have;
        SY_TRY(add_text(job, buffer, use));
        memmove(buffer, buffer + use, (size_t)(have - use));
        have -= use;
        if (have == size) {
            size *= 2;
            SY_TRY(sy_realloc(size, 1, (void **)&buffer));
        }
        advance(job, (int64_t)got);
    }
    SY_TRY(end_document(job));

cleanup:
    sy_free(&buffer);
    return st;
}

/* The document of one line: the string under the key. */
static sy_status add_json_line(tokenize_job *job, const char *path, int64_t number,
                               const char *line, size_t n_bytes)
{
    sy_status st = SY_OK;
    const char *key = job->spec->jsonl_key != NULL ? job->spec->jsonl_key : "text";
    json_error_t error;
    json_t *value = NULL;

    json_t *object = json_loadb(line, n_bytes, JSON_ALLOW_NUL, &error);
    SY_REQUIRE(object != NULL, SY_ERR_USAGE, "%s:%lld: not a line of JSON: %s", path,
               (long long)number, error.text);
    SY_REQUIRE(json_is_object(object), SY_ERR_USAGE, "%s:%lld: expected a JSON object {...}", path,
               (long long)number);
    value = json_object_get(object, key);
    SY_REQUIRE(value != NULL, SY_ERR_USAGE, "%s:%lld: no key '%s' (choose it with --jsonl-key)",
               path, (long long)number, key);
    SY_REQUIRE(json_is_string(value), SY_ERR_USAGE, "%s:%lld: the value of '%s' is not a string",
               path, (long long)number, key);
    SY_TRY(add_text(job, json_string_value(value), (int64_t)json_string_length(value)));
    SY_TRY(end_document(job));

cleanup:
    json_decref(object);
    return st;
}

static bool is_blank(const char *line, ssize_t n)
{
    for (ssize_t i = 0; i < n; i++) {
        if (strchr(" \t\r\n", line[i]) == NULL || line[i] == '\0') {
            return false;
        }
    }
    return true;
}

static sy_status add_jsonl_file(tokenize_job *job, const char *path, FILE *stream)
{
    sy_status st = SY_OK;
    char *line = NULL; /* getline's own allocation */
    size_t size = 0;
    int64_t number = 0, n_new = 0;

    for (ssize_t n = 0; (n = getline(&line, &size, stream)) >= 0;) {
        number++;
        if (!is_blank(line, n)) {
            SY_TRY(add_json_line(job, path, number, line, (size_t)n));
        }
        n_new += n;
        if (n_new >= READ_BYTES) {
            advance(job, n_new);
            n_new = 0;
        }
    }
    SY_REQUIRE(feof(stream) && !ferror(stream), SY_ERR_IO, "cannot read input '%s': %s", path,
               strerror(errno));
    advance(job, n_new);

cleanup:
    free(line);
    return st;
}

static sy_status add_input(tokenize_job *job, const char *path)
{
    sy_status st = SY_OK;
    const char *dot = strrchr(path, '.');
    FILE *stream = fopen(path, "rb");
    SY_REQUIRE(stream != NULL, SY_ERR_USAGE, "cannot read input '%s': %s", path, strerror(errno));
    if (dot != NULL && strcmp(dot, ".jsonl") == 0) {
        SY_TRY(add_jsonl_file(job, path, stream));
    } else {
        SY_TRY(add_text_file(job, path, stream));
    }

cleanup:
    if (stream != NULL) {
        (void)fclose(stream); /* only read from */
    }
    return st;
}

sy_status sy_tokenize(const sy_tokenize_spec *spec, sy_tokenize_result *out)
{
    sy_status st = SY_OK;
    tokenize_job job = {.spec = spec};
    int64_t vocab_size = 0;

    SY_TRY(sy_tokenizer_open(spec->tokenizer, &job.tokenizer));
    SY_TRY(measure_inputs(&job));
    vocab_size = job.tokenizer->vocab_size;
    if (spec->append_eod && job.tokenizer->eod_id >= vocab_size) {
        vocab_size = (int64_t)job.tokenizer->eod_id + 1;
    }
    SY_TRY(sy_token_writer_create(spec->prefix, vocab_size, &job.writer));
    for (int32_t i = 0; i < spec->n_inputs; i++) {
        SY_TRY(add_input(&job, spec->inputs[i]));
    }
    SY_TRY(sy_token_writer_finish(job.writer));
    *out = job.done;

cleanup:
    sy_free(&job.ids);
    sy_token_writer_destroy(&job.writer);
    sy_tokenizer_close(&job.tokenizer);
    return st;
}
