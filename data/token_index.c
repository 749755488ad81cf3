/* The index of Megatron's format: checked against its own size and that of .bin before anything in
   it is used. */
#include <string.h>

#include "core/alloc.h"
#include "core/log.h"
#include "core/pulse.h"
#include "data/token_file_impl.h"

enum { BEAT_EVERY = 1 << 20 };

/* Magic, version, type and the counts against the file's size; sets the array pointers. */
static sy_status check_header(sy_token_file *file)
{
    sy_status st = SY_OK;
    const char *path = file->idx.path;
    const uint8_t *idx = file->idx.data;
    uint64_t n_bytes = (uint64_t)file->idx.n_bytes, version, n_seq, n_doc, want;

    SY_REQUIRE(
        n_bytes < SY__IDX_MAGIC_BYTES || memcmp(idx, SY__IDX_MAGIC, SY__IDX_MAGIC_BYTES) == 0,
        SY_ERR_USAGE, "'%s' is not a Megatron token index: it does not begin with MMIDIDX", path);
    SY_REQUIRE(n_bytes >= SY__IDX_HEADER_BYTES, SY_ERR_USAGE,
               "'%s' is truncated: %llu bytes, the header alone has %d", path,
               (unsigned long long)n_bytes, SY__IDX_HEADER_BYTES);
    memcpy(&version, idx + SY__IDX_AT_VERSION, sizeof version);
    SY_REQUIRE(version == SY__IDX_VERSION, SY_ERR_USAGE,
               "'%s' has index version %llu; only version 1 is known", path,
               (unsigned long long)version);
    file->type = (sy__token_type)idx[SY__IDX_AT_TYPE];
    file->item_bytes = sy__token_type_bytes((int32_t)file->type);
    SY_REQUIRE(file->item_bytes > 0, SY_ERR_USAGE,
               "'%s' has type code %d; tokens are 1 (u8), 3 (i16), 4 (i32), 5 (i64) or 8 (u16)",
               path, idx[SY__IDX_AT_TYPE]);

    memcpy(&n_seq, idx + SY__IDX_AT_SEQUENCES, sizeof n_seq);
    memcpy(&n_doc, idx + SY__IDX_AT_DOCUMENTS, sizeof n_doc);
    SY_REQUIRE(n_seq <= n_bytes / 12 && n_doc <= n_bytes / 8, SY_ERR_USAGE,
               "'%s' is truncated or damaged: %llu bytes cannot hold %llu sequences and %llu "
               "document entries",
               path, (unsigned long long)n_bytes, (unsigned long long)n_seq,
               (unsigned long long)n_doc);
    want = SY__IDX_HEADER_BYTES + 12 * n_seq + 8 * n_doc;
    SY_REQUIRE(n_bytes == want || n_bytes == want + n_seq, SY_ERR_USAGE,
               "'%s' is truncated or damaged: %llu bytes, its header asks for %llu", path,
               (unsigned long long)n_bytes, (unsigned long long)want);
    SY_REQUIRE(n_doc >= 1, SY_ERR_USAGE, "'%s' has an empty document index", path);
    file->n_sequences = (int64_t)n_seq;
    file->n_documents = (int64_t)n_doc - 1;
    file->length = idx + SY__IDX_HEADER_BYTES;
    file->pointer = file->length + 4 * n_seq;
    file->document = file->pointer + 8 * n_seq;

cleanup:
    return st;
}

/* Document entries: 0, never falling, S at the end. */
static sy_status check_documents(const sy_token_file *file)
{
    sy_status st = SY_OK;
    int64_t before = 0;
    SY_REQUIRE(sy__token_i64(file->document, 0) == 0, SY_ERR_USAGE,
               "'%s' is damaged: its first document does not begin at sequence 0", file->idx.path);
    for (int64_t d = 1; d <= file->n_documents; d++) {
        int64_t at = sy__token_i64(file->document, d);
        SY_REQUIRE(at >= before && at <= file->n_sequences, SY_ERR_USAGE,
                   "'%s' is damaged: document entry %lld is %lld, after %lld and of %lld sequences",
                   file->idx.path, (long long)d, (long long)at, (long long)before,
                   (long long)file->n_sequences);
        before = at;
    }
    SY_REQUIRE(before == file->n_sequences, SY_ERR_USAGE,
               "'%s' is damaged: its documents end at sequence %lld of %lld", file->idx.path,
               (long long)before, (long long)file->n_sequences);

cleanup:
    return st;
}

/* Every sequence lies inside .bin. Counts the tokens; *scattered: they do not
 * stand one behind the other from its first byte. */
static sy_status check_sequences(sy_token_file *file, bool *scattered)
{
    sy_status st = SY_OK;
    int64_t n_tokens = 0, follows = 0;
    *scattered = false;
    for (int64_t i = 0; i < file->n_sequences; i++) {
        int64_t length = sy__token_i32(file->length, i), pointer = sy__token_i64(file->pointer, i);
        SY_REQUIRE(length >= 0 && pointer >= 0, SY_ERR_USAGE,
                   "'%s' is damaged: sequence %lld has length %lld at byte %lld", file->idx.path,
                   (long long)i, (long long)length, (long long)pointer);
        int64_t bytes = length * file->item_bytes;
        SY_REQUIRE(bytes <= file->bin.n_bytes && pointer <= file->bin.n_bytes - bytes, SY_ERR_USAGE,
                   "'%s' is truncated: %lld bytes, but sequence %lld of its index has %lld tokens "
                   "of %lld bytes at byte %lld",
                   file->bin.path, (long long)file->bin.n_bytes, (long long)i, (long long)length,
                   (long long)file->item_bytes, (long long)pointer);
        if (i % BEAT_EVERY == 0) {
            sy_pulse_beat();
        }
        *scattered = *scattered || pointer != follows;
        follows = pointer + bytes;
        n_tokens += length;
    }
    SY_REQUIRE(n_tokens > 0, SY_ERR_USAGE, "token file '%s' holds no tokens", file->idx.path);
    file->n_tokens = n_tokens;

cleanup:
    return st;
}

static sy_status build_starts(sy_token_file *file)
{
    sy_status st = SY_OK;
    SY_TRY(sy_alloc(file->n_sequences + 1, sizeof *file->start, (void **)&file->start));
    for (int64_t i = 0; i < file->n_sequences; i++) {
        file->start[i + 1] = file->start[i] + sy__token_i32(file->length, i);
    }
    sy_info("in token file '%s' sequences do not stand one behind the other; they are read where "
            "the index has them",
            file->bin.path);

cleanup:
    return st;
}

sy_status sy__token_index_open(sy_token_file *file)
{
    sy_status st = SY_OK;
    bool scattered = false;
    SY_TRY(check_header(file));
    SY_TRY(check_documents(file));
    SY_TRY(sy__token_map(&file->bin));
    SY_TRY(check_sequences(file, &scattered));
    if (scattered) {
        SY_TRY(build_starts(file));
    }
cleanup:
    return st;
}
