/* Writer of token files. While tokens stream into .bin, each document's length goes to a third
   temporary file; the index is made from that in three passes at the end, so nothing is held in
   memory however many documents there are. */
#include "data/token_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/fault.h"
#include "data/token_file_impl.h"

enum { MEGATRON_U16_BELOW = 65500, CHUNK = 4096 };

typedef struct out_file {
    char *tmp, *path; /* path NULL: removed at the end */
    FILE *stream;     /* NULL: not open */
    bool exists;      /* tmp is on disk */
} out_file;

struct sy_token_writer {
    out_file bin, idx, doc;
    sy__token_type type;
    int64_t vocab_size, item_bytes;
    sy_token_writer_mark at;
};

/* Does the name of the file still lead to it? The job that held its lock may have published or
   removed it since it was opened. */
static bool out_is_there(const out_file *file, int fd)
{
    struct stat opened, named;
    return fstat(fd, &opened) == 0 && stat(file->tmp, &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/* The file under construction carries a lock until it has its final name, so that two jobs do not
   write one. What stands in it stays for now. */
static sy_status out_open(out_file *file, const char *prefix, const char *extension, bool keep)
{
    sy_status st = SY_OK;
    int fd = -1;
    SY_TRY(sy_asprintf(&file->tmp, "%s.%s.tmp", prefix, extension));
    if (keep) {
        SY_TRY(sy_asprintf(&file->path, "%s.%s", prefix, extension));
    }
    fd = open(file->tmp, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    SY_REQUIRE(fd >= 0, SY_ERR_USAGE, "cannot create '%s': %s", file->tmp, strerror(errno));
    SY_REQUIRE((flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) &&
                   out_is_there(file, fd),
               SY_ERR_USAGE, "another job is writing '%s'", file->tmp);
    file->stream = fdopen(fd, "r+b");
    SY_REQUIRE(file->stream != NULL, SY_ERR_USAGE, "cannot write '%s': %s", file->tmp,
               strerror(errno));
    fd = -1;
    file->exists = true;

cleanup:
    if (fd >= 0) {
        close(fd);
    }
    return st;
}

/* Keep `bytes` of it and go on behind them. */
static sy_status out_cut(out_file *file, int64_t bytes)
{
    sy_status st = SY_OK;
    const int fd = fileno(file->stream);
    SY_REQUIRE((ftruncate(fd, bytes) == 0 || (bytes == 0 && errno == EINVAL)) &&
                   fseeko(file->stream, bytes, SEEK_SET) == 0,
               SY_ERR_USAGE, "cannot write '%s': %s", file->tmp, strerror(errno));

cleanup:
    return st;
}

static bool out_holds(const out_file *file, int64_t bytes)
{
    struct stat info;
    return fstat(fileno(file->stream), &info) == 0 && info.st_size >= bytes;
}

static sy_status out_sync(out_file *file)
{
    sy_status st = SY_OK;
    SY_REQUIRE(fflush(file->stream) == 0 && fsync(fileno(file->stream)) == 0, SY_ERR_IO,
               "cannot write '%s': %s", file->tmp, strerror(errno));

cleanup:
    return st;
}

static sy_status out_write(out_file *file, const void *data, size_t bytes)
{
    sy_status st = SY_OK;
    SY_REQUIRE(fwrite(data, 1, bytes, file->stream) == bytes, SY_ERR_IO, "cannot write '%s': %s",
               file->tmp, strerror(errno));

cleanup:
    return st;
}

static sy_status out_publish(out_file *file)
{
    sy_status st = SY_OK;
    SY_REQUIRE(rename(file->tmp, file->path) == 0, SY_ERR_IO, "cannot rename '%s' to '%s': %s",
               file->tmp, file->path, strerror(errno));
    file->exists = false;

cleanup:
    return st;
}

/* Removed before its lock is given back: who gets that must not see it vanish. */
static void out_free(out_file *file)
{
    if (file->exists) {
        (void)unlink(file->tmp);
    }
    if (file->stream != NULL) {
        (void)fclose(file->stream); /* given up, or synced: what it loses does not matter */
    }
    sy_free(&file->tmp);
    sy_free(&file->path);
}

static sy_status open_writer(const char *prefix, int64_t vocab_size, sy_token_writer **out)
{
    sy_status st = SY_OK;
    sy_token_writer *writer = NULL;

    SY_REQUIRE(vocab_size > 0, SY_ERR_INTERNAL, "token writer with vocab_size %lld",
               (long long)vocab_size);
    SY_TRY(sy_alloc(1, sizeof *writer, (void **)&writer));
    writer->vocab_size = vocab_size;
    writer->type = vocab_size < MEGATRON_U16_BELOW ? SY__TOKEN_U16 : SY__TOKEN_I32;
    writer->item_bytes = writer->type == SY__TOKEN_U16 ? 2 : 4;
    SY_TRY(out_open(&writer->bin, prefix, "bin", true));
    SY_TRY(out_open(&writer->idx, prefix, "idx", true));
    SY_TRY(out_open(&writer->doc, prefix, "doc", false));
    *out = writer;
    writer = NULL;

cleanup:
    sy_token_writer_destroy(&writer);
    return st;
}

static sy_status go_on_at(sy_token_writer *writer, const sy_token_writer_mark *mark)
{
    sy_status st = SY_OK;
    SY_TRY(out_cut(&writer->bin, mark->n_tokens * writer->item_bytes));
    SY_TRY(out_cut(&writer->doc, mark->n_documents * (int64_t)sizeof(int32_t)));
    SY_TRY(out_cut(&writer->idx, 0)); /* it is made at the end */
    writer->at = *mark;

cleanup:
    return st;
}

sy_status sy_token_writer_create(const char *prefix, int64_t vocab_size, sy_token_writer **out)
{
    sy_status st = SY_OK;
    sy_token_writer *writer = NULL;
    SY_TRY(open_writer(prefix, vocab_size, &writer));
    SY_TRY(go_on_at(writer, &(sy_token_writer_mark){0}));
    *out = writer;
    writer = NULL;

cleanup:
    sy_token_writer_destroy(&writer);
    return st;
}

sy_status sy_token_writer_reopen(const char *prefix, int64_t vocab_size,
                                 const sy_token_writer_mark *mark, sy_token_writer **out)
{
    sy_status st = SY_OK;
    sy_token_writer *writer = NULL;
    *out = NULL;
    SY_TRY(open_writer(prefix, vocab_size, &writer));
    if (out_holds(&writer->bin, mark->n_tokens * writer->item_bytes) &&
        out_holds(&writer->doc, mark->n_documents * (int64_t)sizeof(int32_t))) {
        SY_TRY(go_on_at(writer, mark));
        *out = writer;
        writer = NULL;
    }

cleanup:
    sy_token_writer_destroy(&writer);
    return st;
}

sy_status sy_token_writer_sync(sy_token_writer *writer, sy_token_writer_mark *mark)
{
    sy_status st = SY_OK;
    SY_TRY(out_sync(&writer->bin));
    SY_TRY(out_sync(&writer->doc));
    *mark = writer->at;

cleanup:
    return st;
}

void sy_token_writer_leave(sy_token_writer **writer)
{
    if (*writer != NULL) {
        (*writer)->bin.exists = (*writer)->doc.exists = false;
        sy_token_writer_destroy(writer);
    }
}

void sy_token_writer_destroy(sy_token_writer **writer)
{
    if (*writer == NULL) {
        return;
    }
    out_free(&(*writer)->doc);
    out_free(&(*writer)->idx);
    out_free(&(*writer)->bin);
    sy_free(writer);
}

static sy_status check_ids(const sy_token_writer *writer, const int32_t *ids, int64_t n)
{
    sy_status st = SY_OK;
    for (int64_t i = 0; i < n; i++) {
        SY_REQUIRE(ids[i] >= 0 && ids[i] < writer->vocab_size, SY_ERR_INTERNAL,
                   "token id %d is not in 0 .. %lld", ids[i], (long long)writer->vocab_size - 1);
    }

cleanup:
    return st;
}

static sy_status write_u16(sy_token_writer *writer, const int32_t *ids, int64_t n)
{
    sy_status st = SY_OK;
    uint16_t chunk[CHUNK];
    while (n > 0) {
        int64_t here = n < CHUNK ? n : CHUNK;
        for (int64_t i = 0; i < here; i++) {
            chunk[i] = (uint16_t)ids[i];
        }
        SY_TRY(out_write(&writer->bin, chunk, (size_t)here * sizeof chunk[0]));
        ids += here;
        n -= here;
    }

cleanup:
    return st;
}

sy_status sy_token_writer_append(sy_token_writer *writer, const int32_t *ids, int64_t n)
{
    sy_status st = SY_OK;
    SY_REQUIRE(n >= 0 && n <= INT32_MAX - writer->at.open_tokens, SY_ERR_USAGE,
               "document %lld has more than %d tokens, the format's limit; split it",
               (long long)writer->at.n_documents, INT32_MAX);
    SY_TRY(check_ids(writer, ids, n));
    if (writer->type == SY__TOKEN_U16) {
        SY_TRY(write_u16(writer, ids, n));
    } else {
        SY_TRY(out_write(&writer->bin, ids, (size_t)n * sizeof ids[0]));
    }
    writer->at.open_tokens += n;
    writer->at.n_tokens += n;

cleanup:
    return st;
}

sy_status sy_token_writer_end_document(sy_token_writer *writer)
{
    sy_status st = SY_OK;
    int32_t length = (int32_t)writer->at.open_tokens;
    SY_TRY(out_write(&writer->doc, &length, sizeof length));
    writer->at.n_documents++;
    writer->at.n_sequences += length > 0;
    writer->at.open_tokens = 0;

cleanup:
    return st;
}

static sy_status write_header(sy_token_writer *writer)
{
    uint8_t header[SY__IDX_HEADER_BYTES];
    uint64_t version = SY__IDX_VERSION, n_seq = (uint64_t)writer->at.n_sequences,
             n_doc = (uint64_t)writer->at.n_documents + 1;
    memcpy(header, SY__IDX_MAGIC, SY__IDX_MAGIC_BYTES);
    memcpy(header + SY__IDX_AT_VERSION, &version, sizeof version);
    header[SY__IDX_AT_TYPE] = (uint8_t)writer->type;
    memcpy(header + SY__IDX_AT_SEQUENCES, &n_seq, sizeof n_seq);
    memcpy(header + SY__IDX_AT_DOCUMENTS, &n_doc, sizeof n_doc);
    return out_write(&writer->idx, header, sizeof header);
}

typedef enum idx_array { IDX_LENGTH, IDX_POINTER, IDX_DOCUMENT } idx_array;

/* One of the three arrays, from one pass over the documents' lengths. A document is one sequence,
 * an empty one is none. */
static sy_status write_array(sy_token_writer *writer, idx_array array)
{
    sy_status st = SY_OK;
    int64_t pointer = 0, sequence = 0;
    rewind(writer->doc.stream);
    for (int64_t d = 0; d < writer->at.n_documents; d++) {
        int32_t length;
        SY_REQUIRE(fread(&length, sizeof length, 1, writer->doc.stream) == 1, SY_ERR_IO,
                   "cannot read back '%s'", writer->doc.tmp);
        if (array == IDX_DOCUMENT) {
            SY_TRY(out_write(&writer->idx, &sequence, sizeof sequence));
        } else if (length > 0 && array == IDX_LENGTH) {
            SY_TRY(out_write(&writer->idx, &length, sizeof length));
        } else if (length > 0) {
            SY_TRY(out_write(&writer->idx, &pointer, sizeof pointer));
        }
        pointer += length * writer->item_bytes;
        sequence += length > 0;
    }
    if (array == IDX_DOCUMENT) {
        SY_TRY(out_write(&writer->idx, &sequence, sizeof sequence));
    }

cleanup:
    return st;
}

sy_status sy_token_writer_finish(sy_token_writer *writer)
{
    sy_status st = SY_OK;
    SY_REQUIRE(writer->at.open_tokens == 0, SY_ERR_INTERNAL, "the last document was not ended");
    SY_REQUIRE(writer->at.n_tokens > 0, SY_ERR_USAGE, "there are no tokens to write to '%s'",
               writer->bin.path);
    SY_TRY(write_header(writer));
    SY_TRY(write_array(writer, IDX_LENGTH));
    SY_TRY(write_array(writer, IDX_POINTER));
    SY_TRY(write_array(writer, IDX_DOCUMENT));
    SY_TRY(out_sync(&writer->bin));
    SY_TRY(out_sync(&writer->idx));
    /* An older index must never stand beside the new tokens, not even after a crash between the
     * renames. */
    SY_REQUIRE(unlink(writer->idx.path) == 0 || errno == ENOENT, SY_ERR_IO,
               "cannot replace '%s': %s", writer->idx.path, strerror(errno));
    SY_TRY(out_publish(&writer->bin));
    SY_TRY(sy_fault("tokens.rename"));
    SY_TRY(out_publish(&writer->idx));

cleanup:
    return st;
}
