/* Inputs -> units of text -> threads -> token writer. Text is cut where the tokenizer allows it, so
   a file of any size passes through a few buffers; a line of JSONL is held whole. Now and then a
   journal says how far all of this is. */
#include "data/tokenize.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/fault.h"
#include "core/log.h"
#include "data/input_impl.h"
#include "data/tokenize_impl.h"

enum { READ_BYTES = 1 << 20, MAX_WARNINGS = 10 };

/* Seconds between two records, where nothing is said, and at least so many times what one takes. */
static const double journal_s = 2, journal_rarity = 20;

typedef struct tokenize_job {
    const sy_tokenize_spec *spec;
    sy_tokenizer *tokenizer;
    sy_token_writer *writer;
    sy__unit_line *line;
    sy__journal journal;
    bool is_recorded; /* the journal tells of this job */
    double record_due_s;
    /* reading */
    sy__text_place place;
    sy__input *input; /* NULL: between two inputs */
    const char *path; /* its name */
    char *rest;       /* [place.rest] read, but not yet given away */
    int64_t max_rest;
    int64_t n_before, n_all; /* bytes of the inputs that are done; of all */
    /* writing */
    int64_t document_tokens; /* of the open document */
    sy_tokenize_result done;
} tokenize_job;

/* The output replaces PREFIX.bin and PREFIX.idx. */
static sy_status check_is_kept(const char *prefix, const char *path, const struct stat *input)
{
    static const char *const ends[] = {"bin", "idx", "bin.tmp", "idx.tmp", "doc.tmp"};
    sy_status st = SY_OK;
    char *output = NULL;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        struct stat info;
        SY_TRY(sy_asprintf(&output, "%s.%s", prefix, ends[i]));
        SY_REQUIRE(stat(output, &info) != 0 || info.st_dev != input->st_dev ||
                       info.st_ino != input->st_ino,
                   SY_ERR_USAGE, "input '%s' is '%s', which the output replaces: choose another -o",
                   path, output);
        sy_free(&output);
    }

cleanup:
    sy_free(&output);
    return st;
}

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
        SY_TRY(check_is_kept(job->spec->prefix, path, &info));
        job->n_all += info.st_size;
    }

cleanup:
    return st;
}

static sy_status make_room(char **bytes, int64_t *max, int64_t n)
{
    sy_status st = SY_OK;
    if (n > *max) {
        SY_TRY(sy_realloc(n, 1, (void **)bytes));
        *max = n;
    }

cleanup:
    return st;
}

/* Where a unit may end within bytes [n]: behind a line, or where the tokenizer says. 0: show more.
 */
static int64_t cut(const tokenize_job *job, const char *bytes, int64_t n, bool jsonl)
{
    const char *end = jsonl && n > 0 ? memrchr(bytes, '\n', (size_t)n) : NULL;
    return !jsonl ? sy_tokenizer_cut(job->tokenizer, bytes, n) : end != NULL ? end - bytes + 1 : 0;
}

static int64_t count_lines(const char *bytes, int64_t n)
{
    int64_t count = 0;
    for (const char *at = bytes; (at = memchr(at, '\n', (size_t)(bytes + n - at))) != NULL; at++) {
        count++;
    }
    return count;
}

/* Open the input of job->place and go to where it stands in it. */
static sy_status open_next(tokenize_job *job)
{
    sy_status st = SY_OK;
    int64_t got = 0;
    job->path = job->spec->inputs[job->place.input];
    SY_TRY(sy__input_open(job->path, &job->input));
    if (job->place.text == 0) {
        job->place.first = sy__input_is_jsonl(job->path) ? 1 : 0;
        goto cleanup;
    }
    SY_TRY(sy__input_skip(job->input, job->place.text));
    SY_TRY(make_room(&job->rest, &job->max_rest, job->place.rest + 1));
    SY_TRY(sy__input_read(job->input, job->rest, job->place.rest, &got));
    SY_REQUIRE(got == job->place.rest, SY_ERR_USAGE,
               "input '%s' is shorter than it was: use --restart", job->path);

cleanup:
    return st;
}

/* The next stretch of the open input. */
static sy_status fill(tokenize_job *job, sy__unit *u)
{
    sy_status st = SY_OK;
    int64_t got = 0, use = 0;
    bool more = true;
    u->path = job->path;
    u->jsonl = sy__input_is_jsonl(job->path);
    u->first = job->place.first;
    u->n = job->place.rest;
    SY_TRY(make_room(&u->bytes, &u->max, u->n + 1));
    if (u->n > 0) {
        memcpy(u->bytes, job->rest, (size_t)u->n);
    }
    for (int64_t step = READ_BYTES; more && use == 0; step = u->n) {
        step = step > READ_BYTES ? step : READ_BYTES;
        SY_TRY(make_room(&u->bytes, &u->max, u->n + step));
        SY_TRY(sy__input_read(job->input, u->bytes + u->n, step, &got));
        u->n += got;
        more = got == step;
        use = more ? cut(job, u->bytes, u->n, u->jsonl) : u->n;
    }
    job->place.rest = u->n - use;
    SY_TRY(make_room(&job->rest, &job->max_rest, job->place.rest + 1));
    memcpy(job->rest, u->bytes + use, (size_t)job->place.rest);
    u->n = use;
    u->ends_document = !more && !u->jsonl;
    u->n_done = job->n_before + sy__input_position(job->input);
    job->place.text += u->n;
    job->place.first += u->jsonl ? count_lines(u->bytes, u->n) : u->n;
    if (!more) {
        job->place = (sy__text_place){.input = job->place.input + 1};
        job->n_before = u->n_done;
        sy__input_close(&job->input);
    }
    u->after = job->place;

cleanup:
    return st;
}

static void report_bad_lines(tokenize_job *job, const sy__unit *u)
{
    for (int64_t i = 0; i < u->n_bad && i < SY__BAD_LINES; i++) {
        if (job->done.n_bad_lines + i >= MAX_WARNINGS) {
            break;
        }
        sy_warn("%s:%lld: skipped: %s", u->path, (long long)u->bad[i], u->why[i]);
    }
    if (u->n_bad > 0 && job->done.n_bad_lines == 0) {
        (void)snprintf(job->done.first_bad, sizeof job->done.first_bad, "%s:%lld", u->path,
                       (long long)u->bad[0]);
    }
    job->done.n_bad_lines += u->n_bad;
}

static sy_status end_document(tokenize_job *job)
{
    sy_status st = SY_OK;
    SY_TRY(sy_token_writer_end_document(job->writer));
    job->done.n_tokens += job->document_tokens;
    job->done.n_documents++;
    job->document_tokens = 0;

cleanup:
    return st;
}

/* All up to the end of u, durably, where it is time. */
static sy_status keep_record(tokenize_job *job, const sy__unit *u)
{
    sy_status st = SY_OK;
    const double asked = job->spec->journal_s;
    const double begun = sy_clock_s();
    sy__job_state state = {.place = u->after, .done = job->done};
    if (!job->journal.is_kept || begun < job->record_due_s) {
        return SY_OK;
    }
    SY_TRY(sy_token_writer_sync(job->writer, &state.written));
    SY_TRY(sy_fault("tokenize.synced"));
    SY_TRY(sy__journal_write(&job->journal, &state));
    job->is_recorded = true;
    const double now = sy_clock_s();
    job->record_due_s = now + (asked > 0 ? asked : fmax(journal_s, journal_rarity * (now - begun)));

cleanup:
    return st;
}

static sy_status write_unit(tokenize_job *job, const sy__unit *u)
{
    sy_status st = SY_OK;
    const int32_t *ids = u->ids;
    if (u->error.status != SY_OK) {
        SY_TRY(sy_error_raise(&u->error));
    }
    for (int64_t i = 0; i < u->n_documents; ids += u->length[i++]) {
        SY_TRY(sy_token_writer_append(job->writer, ids, u->length[i]));
        job->document_tokens = u->length[i];
        SY_TRY(end_document(job));
    }
    if (!u->jsonl) {
        SY_TRY(sy_token_writer_append(job->writer, ids, u->n_ids));
        job->document_tokens += u->n_ids;
    }
    if (u->ends_document) {
        if (job->spec->append_eod && job->document_tokens > 0) {
            SY_TRY(sy_token_writer_append(job->writer, &job->tokenizer->eod_id, 1));
            job->document_tokens++;
        }
        SY_TRY(end_document(job));
    }
    job->done.n_bytes += u->n_text;
    report_bad_lines(job, u);
    if (job->spec->progress != NULL) {
        job->spec->progress(job->spec->progress_arg, u->n_done, job->n_all, job->done.n_bytes);
    }
    SY_TRY(sy_fault("tokenize.unit"));
    SY_TRY(keep_record(job, u));

cleanup:
    return st;
}

static sy_status take_one(tokenize_job *job, bool *any)
{
    const sy__unit *u = sy__unit_line_take(job->line);
    *any = u != NULL;
    return u != NULL ? write_unit(job, u) : SY_OK;
}

static sy_status add_inputs(tokenize_job *job)
{
    sy_status st = SY_OK;
    bool any = true;
    job->record_due_s =
        sy_clock_s() + (job->spec->journal_s > 0 ? job->spec->journal_s : journal_s);
    if (job->spec->progress != NULL) { /* from where */
        SY_TRY(job->input == NULL && job->place.text > 0 ? open_next(job) : SY_OK);
        job->spec->progress(job->spec->progress_arg,
                            job->n_before +
                                (job->input != NULL ? sy__input_position(job->input) : 0),
                            job->n_all, job->done.n_bytes);
    }
    while (job->input != NULL || job->place.input < job->spec->n_inputs) {
        if (job->input == NULL) {
            SY_TRY(open_next(job));
        }
        sy__unit *u = sy__unit_line_empty(job->line);
        if (u == NULL) {
            SY_TRY(take_one(job, &any));
            continue;
        }
        SY_TRY(fill(job, u));
        sy__unit_line_give(job->line);
    }
    while (any) {
        SY_TRY(take_one(job, &any));
    }

cleanup:
    return st;
}

/* ---- beginning, going on ---- */

static sy_status go_on(tokenize_job *job, const sy__job_state *state)
{
    sy_status st = SY_OK;
    const bool inside = state->place.input < job->spec->n_inputs;
    job->place = state->place;
    job->done = state->done;
    job->document_tokens = state->written.open_tokens;
    job->is_recorded = true;
    for (int64_t i = 0; i < job->place.input; i++) {
        struct stat info;
        SY_REQUIRE(stat(job->spec->inputs[i], &info) == 0, SY_ERR_IO, "cannot read input '%s': %s",
                   job->spec->inputs[i], strerror(errno));
        job->n_before += info.st_size;
    }
    sy_info("going on behind %lld documents, %lld tokens and %.1f MB of text, %s%s",
            (long long)job->done.n_documents, (long long)state->written.n_tokens,
            (double)job->done.n_bytes / 1e6, inside ? "in " : "at the end",
            inside ? job->spec->inputs[job->place.input] : "");

cleanup:
    return st;
}

static sy_status open_output(tokenize_job *job, int64_t vocab_size)
{
    sy_status st = SY_OK;
    const char *prefix = job->spec->prefix;
    sy__job_state state = {0};
    SY_TRY(sy__journal_open(job->spec, job->tokenizer, &job->journal));
    const sy__journal_found found = sy__journal_read(&job->journal, &state);
    if (found == SY__JOURNAL_OURS && !job->spec->restart) {
        SY_TRY(sy_token_writer_reopen(prefix, vocab_size, &state.written, &job->writer));
    }
    if (job->writer != NULL) {
        SY_TRY(go_on(job, &state));
        goto cleanup;
    }
    SY_TRY(sy_token_writer_create(prefix, vocab_size, &job->writer));
    if (found != SY__JOURNAL_NONE && !job->spec->restart) {
        sy_warn("beginning anew: what an unfinished job left as %s.*.tmp %s", prefix,
                found == SY__JOURNAL_OTHER
                    ? "is of other inputs (names, sizes, times), options or tokenizer, or damaged"
                    : "is not whole");
    }
    sy__journal_remove(&job->journal);

cleanup:
    return st;
}

/* The journal is that of the job that has the writer, and so its lock. Where the inputs or the
   command are wrong, going on would be no use. */
static void close_output(tokenize_job *job, sy_status st)
{
    const bool stays = st != SY_OK && st != SY_ERR_USAGE && job->is_recorded;
    if (job->writer != NULL && stays) {
        sy_token_writer_leave(&job->writer);
        sy_info("what is done stays as %s.*.tmp: the same command goes on from there",
                job->spec->prefix);
    } else if (job->writer != NULL) {
        sy__journal_remove(&job->journal);
        sy_token_writer_destroy(&job->writer);
    }
    sy__journal_close(&job->journal);
}

sy_status sy_tokenize(const sy_tokenize_spec *spec, sy_tokenize_result *out)
{
    sy_status st = SY_OK;
    tokenize_job job = {.spec = spec};
    int64_t vocab_size = 0;

    SY_TRY(sy_tokenizer_open(spec->tokenizer, &job.tokenizer));
    job.tokenizer->match_special = spec->match_special;
    job.tokenizer->refuse_invalid = spec->refuse_invalid;
    if (spec->eod != NULL) {
        SY_TRY(sy_tokenizer_set_eod(job.tokenizer, spec->eod));
    }
    SY_TRY(measure_inputs(&job));
    vocab_size = job.tokenizer->vocab_size;
    if (spec->append_eod && job.tokenizer->eod_id >= vocab_size) {
        vocab_size = (int64_t)job.tokenizer->eod_id + 1;
    }
    SY_TRY(open_output(&job, vocab_size));
    SY_TRY(sy__unit_line_create(spec, job.tokenizer, spec->n_workers > 0 ? spec->n_workers : 1,
                                &job.line));
    SY_TRY(add_inputs(&job));
    SY_TRY(sy_token_writer_finish(job.writer));
    SY_TRY(sy_fault("tokenize.done"));
    *out = job.done;

cleanup:
    sy__unit_line_destroy(&job.line);
    sy__input_close(&job.input);
    sy_free(&job.rest);
    close_output(&job, st);
    sy_tokenizer_close(&job.tokenizer);
    return st;
}
