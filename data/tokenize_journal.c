/* PREFIX.journal.tmp: what a job was asked, and how far it is. Replaced as a whole, behind the
   tokens that it speaks of, so that it is true whenever a job dies. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "core/alloc.h"
#include "core/fault.h"
#include "data/tokenize_impl.h"

typedef struct journal_file {
    uint64_t order; /* what the job was asked */
    sy__job_state state;
    uint64_t checksum; /* of what stands before it */
} journal_file;

/* ---- what a job is asked ---- */

static void add(XXH3_state_t *hash, const void *bytes, size_t n)
{
    const uint64_t length = n; /* so that two texts are not another two */
    (void)XXH3_64bits_update(hash, &length, sizeof length);
    (void)XXH3_64bits_update(hash, bytes, n);
}

static void add_text(XXH3_state_t *hash, const char *text)
{
    add(hash, text != NULL ? text : "", text != NULL ? strlen(text) : 0);
}

/* Everything the output depends on. *regular: all inputs are files, which can be read again. */
static sy_status digest(const sy_tokenize_spec *spec, const sy_tokenizer *tokenizer, uint64_t *out,
                        bool *regular)
{
    sy_status st = SY_OK;
    XXH3_state_t *hash = XXH3_createState();
    const uint64_t facts[] = {tokenizer->digest,          spec->append_eod,
                              spec->match_special,        spec->refuse_invalid,
                              spec->skip_bad_lines,       (uint64_t)spec->n_inputs,
                              (uint64_t)tokenizer->eod_id};
    SY_REQUIRE(hash != NULL && XXH3_64bits_reset(hash) == XXH_OK, SY_ERR_MEMORY,
               "out of memory for a hash");
    add_text(hash, SY_VERSION);
    add_text(hash, spec->tokenizer);
    add_text(hash, spec->jsonl_key);
    add(hash, facts, sizeof facts);
    *regular = true;
    for (int32_t i = 0; i < spec->n_inputs; i++) {
        struct stat info;
        SY_REQUIRE(stat(spec->inputs[i], &info) == 0, SY_ERR_USAGE, "cannot read input '%s': %s",
                   spec->inputs[i], strerror(errno));
        const int64_t file[] = {info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
        add_text(hash, spec->inputs[i]);
        add(hash, file, sizeof file);
        *regular = *regular && S_ISREG(info.st_mode);
    }
    *out = XXH3_64bits_digest(hash);

cleanup:
    (void)XXH3_freeState(hash);
    return st;
}

/* ---- the file ---- */

sy_status sy__journal_open(const sy_tokenize_spec *spec, const sy_tokenizer *tokenizer,
                           sy__journal *out)
{
    sy_status st = SY_OK;
    bool regular = false;
    SY_TRY(digest(spec, tokenizer, &out->order, &regular));
    SY_TRY(sy_asprintf(&out->path, "%s.journal.tmp", spec->prefix));
    SY_TRY(sy_asprintf(&out->next, "%s.journal.tmp.new", spec->prefix));
    out->is_kept = regular;

cleanup:
    return st;
}

void sy__journal_close(sy__journal *journal)
{
    sy_free(&journal->next);
    sy_free(&journal->path);
}

sy__journal_found sy__journal_read(const sy__journal *journal, sy__job_state *out)
{
    journal_file file;
    FILE *stream = fopen(journal->path, "rb");
    if (stream == NULL) {
        return SY__JOURNAL_NONE;
    }
    const bool whole = fread(&file, 1, sizeof file, stream) == sizeof file;
    (void)fclose(stream); /* only read from */
    if (!whole || file.checksum != XXH3_64bits(&file, offsetof(journal_file, checksum)) ||
        file.order != journal->order) {
        return SY__JOURNAL_OTHER;
    }
    *out = file.state;
    return SY__JOURNAL_OURS;
}

sy_status sy__journal_write(const sy__journal *journal, const sy__job_state *state)
{
    sy_status st = SY_OK;
    journal_file file = {.order = journal->order, .state = *state};
    file.checksum = XXH3_64bits(&file, offsetof(journal_file, checksum));
    const int fd = open(journal->next, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    const bool good =
        fd >= 0 && write(fd, &file, sizeof file) == (ssize_t)sizeof file && fsync(fd) == 0;
    const int reason = errno;
    const bool closed = fd < 0 || close(fd) == 0;
    SY_REQUIRE(good && closed, SY_ERR_IO, "cannot write '%s': %s", journal->next,
               strerror(good ? errno : reason));
    SY_TRY(sy_fault("tokenize.rename"));
    SY_REQUIRE(rename(journal->next, journal->path) == 0, SY_ERR_IO,
               "cannot rename '%s' to '%s': %s", journal->next, journal->path, strerror(errno));

cleanup:
    return st;
}

void sy__journal_remove(const sy__journal *journal)
{
    (void)unlink(journal->next);
    (void)unlink(journal->path);
}
