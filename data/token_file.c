/* Reader of token files. Nothing is copied: a sequence's start in the stream is its byte pointer
   over the item size, unless the index has gaps (legal, rare); only then a table of starts is
   built. Arrays in .idx are unaligned, hence memcpy. */
#include "data/token_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/log.h"
#include "data/token_file_impl.h"

typedef struct mapping {
    char *path;
    const uint8_t *data;
    int64_t n_bytes;
} mapping;

struct sy_token_file {
    mapping bin, idx;
    sy__token_type type;
    int64_t item_bytes;
    int64_t n_tokens, n_sequences, n_documents;
    int64_t vocab_size;
    const uint8_t *length, *pointer, *document; /* the arrays of .idx */
    int64_t *start;                             /* [n_sequences+1]; NULL: no gaps */
};

static int64_t load_i64(const uint8_t *array, int64_t i)
{
    int64_t value;
    memcpy(&value, array + 8 * i, sizeof value);
    return value;
}

static int64_t load_i32(const uint8_t *array, int64_t i)
{
    int32_t value;
    memcpy(&value, array + 4 * i, sizeof value);
    return value;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The likeliest mistake: the path was given with its extension. */
static const char *path_hint(const char *path)
{
    bool doubled = ends_with(path, ".bin.bin") || ends_with(path, ".idx.bin") ||
                   ends_with(path, ".bin.idx") || ends_with(path, ".idx.idx");
    return doubled ? "; give the path without .bin or .idx" : "";
}

static sy_status map_file(mapping *map)
{
    sy_status st = SY_OK;
    struct stat info;
    void *data = NULL;

    int fd = open(map->path, O_RDONLY | O_CLOEXEC);
    SY_REQUIRE(fd >= 0, SY_ERR_USAGE, "cannot open token file '%s': %s%s", map->path,
               strerror(errno), path_hint(map->path));
    SY_REQUIRE(fstat(fd, &info) == 0, SY_ERR_IO, "cannot stat '%s': %s", map->path,
               strerror(errno));
    SY_REQUIRE(S_ISREG(info.st_mode), SY_ERR_USAGE, "token file '%s' is not a regular file",
               map->path);
    SY_REQUIRE(info.st_size > 0, SY_ERR_USAGE, "token file '%s' is empty", map->path);
    data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    SY_REQUIRE(data != MAP_FAILED, SY_ERR_IO, "cannot map '%s': %s", map->path, strerror(errno));
    map->data = data;
    map->n_bytes = info.st_size;

cleanup:
    if (fd >= 0) {
        close(fd);
    }
    return st;
}

static void unmap_file(mapping *map)
{
    if (map->data != NULL) {
        munmap((void *)(uintptr_t)map->data, (size_t)map->n_bytes);
        map->data = NULL;
    }
    sy_free(&map->path);
}

static int64_t type_bytes(int32_t type)
{
    switch (type) {
    case SY__TOKEN_U8:
        return 1;
    case SY__TOKEN_I16:
    case SY__TOKEN_U16:
        return 2;
    case SY__TOKEN_I32:
        return 4;
    case SY__TOKEN_I64:
        return 8;
    default:
        return 0;
    }
}

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
    file->item_bytes = type_bytes((int32_t)file->type);
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
    SY_REQUIRE(load_i64(file->document, 0) == 0, SY_ERR_USAGE,
               "'%s' is damaged: its first document does not begin at sequence 0", file->idx.path);
    for (int64_t d = 1; d <= file->n_documents; d++) {
        int64_t at = load_i64(file->document, d);
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

/* Every sequence lies inside .bin. Counts the tokens; *gaps: the stream is not simply .bin from its
 * first byte. */
static sy_status check_sequences(sy_token_file *file, bool *gaps)
{
    sy_status st = SY_OK;
    int64_t n_tokens = 0, follows = 0;
    *gaps = false;
    for (int64_t i = 0; i < file->n_sequences; i++) {
        int64_t length = load_i32(file->length, i), pointer = load_i64(file->pointer, i);
        SY_REQUIRE(length >= 0 && pointer >= 0, SY_ERR_USAGE,
                   "'%s' is damaged: sequence %lld has length %lld at byte %lld", file->idx.path,
                   (long long)i, (long long)length, (long long)pointer);
        int64_t bytes = length * file->item_bytes;
        SY_REQUIRE(bytes <= file->bin.n_bytes && pointer <= file->bin.n_bytes - bytes, SY_ERR_USAGE,
                   "'%s' is truncated: %lld bytes, but sequence %lld of its index has %lld tokens "
                   "of %lld bytes at byte %lld",
                   file->bin.path, (long long)file->bin.n_bytes, (long long)i, (long long)length,
                   (long long)file->item_bytes, (long long)pointer);
        *gaps = *gaps || pointer != follows;
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
        file->start[i + 1] = file->start[i] + load_i32(file->length, i);
    }
    sy_info("token file '%s' has gaps between its sequences; they are skipped", file->bin.path);

cleanup:
    return st;
}

/* Can the item type hold an id that must be refused? */
static bool type_is_safe(const sy_token_file *file)
{
    return (file->type == SY__TOKEN_U8 &&
            (file->vocab_size == 0 || file->vocab_size > UINT8_MAX)) ||
           (file->type == SY__TOKEN_U16 &&
            (file->vocab_size == 0 || file->vocab_size > UINT16_MAX));
}

static sy_status scan(const sy_token_file *file)
{
    sy_status st = SY_OK;
    int32_t chunk[4096];
    const int64_t max = (int64_t)(sizeof chunk / sizeof chunk[0]);
    for (int64_t at = 0; at < file->n_tokens; at += max) {
        int64_t left = file->n_tokens - at;
        SY_TRY(sy_token_file_read(file, at, left < max ? left : max, chunk));
    }

cleanup:
    return st;
}

sy_status sy_token_file_open(const char *prefix, int64_t vocab_size, sy_token_file **out)
{
    sy_status st = SY_OK;
    sy_token_file *file = NULL;
    bool gaps = false;

    SY_TRY(sy_alloc(1, sizeof *file, (void **)&file));
    file->vocab_size = vocab_size;
    SY_TRY(sy_asprintf(&file->idx.path, "%s.idx", prefix));
    SY_TRY(sy_asprintf(&file->bin.path, "%s.bin", prefix));
    SY_TRY(map_file(&file->idx));
    SY_TRY(check_header(file));
    SY_TRY(check_documents(file));
    SY_TRY(map_file(&file->bin));
    SY_TRY(check_sequences(file, &gaps));
    if (gaps) {
        SY_TRY(build_starts(file));
    }
    if (file->bin.n_bytes <= SY_TOKEN_SCAN_BYTES && !type_is_safe(file)) {
        SY_TRY(scan(file));
    }
    /* Sequences are drawn in a shuffled order: reading ahead would only waste memory. A refusal
     * costs nothing but speed. */
    (void)posix_madvise((void *)(uintptr_t)file->bin.data, (size_t)file->bin.n_bytes,
                        POSIX_MADV_RANDOM);
    *out = file;
    file = NULL;

cleanup:
    sy_token_file_close(&file);
    return st;
}

void sy_token_file_close(sy_token_file **file)
{
    if (*file == NULL) {
        return;
    }
    sy_free(&(*file)->start);
    unmap_file(&(*file)->bin);
    unmap_file(&(*file)->idx);
    sy_free(file);
}

int64_t sy_token_file_n_tokens(const sy_token_file *file)
{
    return file->n_tokens;
}

int64_t sy_token_file_n_sequences(const sy_token_file *file)
{
    return file->n_sequences;
}

int64_t sy_token_file_n_documents(const sy_token_file *file)
{
    return file->n_documents;
}

/* Position in the stream of sequence i; i == n_sequences: the end. */
static int64_t sequence_start(const sy_token_file *file, int64_t i)
{
    if (i == file->n_sequences) {
        return file->n_tokens;
    }
    return file->start != NULL ? file->start[i] : load_i64(file->pointer, i) / file->item_bytes;
}

int64_t sy_token_file_document_start(const sy_token_file *file, int64_t document)
{
    return sequence_start(file, load_i64(file->document, document));
}

int64_t sy_token_file_document_length(const sy_token_file *file, int64_t document)
{
    return sy_token_file_document_start(file, document + 1) -
           sy_token_file_document_start(file, document);
}

/* The last of 0 .. n-1 that starts at or before a position. Of several at the same place, all but
 * the last are empty. */
static int64_t last_at_or_before(const sy_token_file *file, int64_t n, int64_t position,
                                 int64_t (*start_of)(const sy_token_file *, int64_t))
{
    int64_t low = 0, high = n;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (start_of(file, middle) <= position) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

int64_t sy_token_file_document_of(const sy_token_file *file, int64_t position)
{
    return last_at_or_before(file, file->n_documents, position, sy_token_file_document_start);
}

static int64_t load_token(sy__token_type type, const uint8_t *array, int64_t i)
{
    uint16_t u16;
    int16_t i16;
    switch (type) {
    case SY__TOKEN_U8:
        return array[i];
    case SY__TOKEN_U16:
        memcpy(&u16, array + 2 * i, sizeof u16);
        return u16;
    case SY__TOKEN_I16:
        memcpy(&i16, array + 2 * i, sizeof i16);
        return i16;
    case SY__TOKEN_I32:
        return load_i32(array, i);
    case SY__TOKEN_I64:
        break;
    }
    return load_i64(array, i);
}

/* n tokens from a byte offset of .bin, all inside it. */
static sy_status convert(const sy_token_file *file, int64_t byte, int64_t n, int32_t *out)
{
    sy_status st = SY_OK;
    const uint8_t *array = file->bin.data + byte;
    const int64_t limit = file->vocab_size > 0 ? file->vocab_size : (int64_t)INT32_MAX + 1;
    for (int64_t i = 0; i < n; i++) {
        int64_t token = load_token(file->type, array, i);
        SY_REQUIRE(token >= 0 && token < limit, SY_ERR_USAGE,
                   "token file '%s': token id %lld at byte %lld is not in 0 .. %lld; it was made "
                   "with another tokenizer, or model.vocab_size is too small",
                   file->bin.path, (long long)token, (long long)(byte + i * file->item_bytes),
                   (long long)(limit - 1));
        out[i] = (int32_t)token;
    }

cleanup:
    return st;
}

sy_status sy_token_file_read(const sy_token_file *file, int64_t first, int64_t n, int32_t *out)
{
    sy_status st = SY_OK;
    SY_REQUIRE(first >= 0 && n >= 0 && n <= file->n_tokens && first <= file->n_tokens - n,
               SY_ERR_INTERNAL, "tokens %lld .. %lld asked of '%s', which has %lld",
               (long long)first, (long long)(first + n - 1), file->bin.path,
               (long long)file->n_tokens);
    if (file->start == NULL) {
        return convert(file, first * file->item_bytes, n, out);
    }
    int64_t i = last_at_or_before(file, file->n_sequences, first, sequence_start);
    while (n > 0) {
        int64_t inside = first - file->start[i], here = file->start[i + 1] - first;
        here = here < n ? here : n;
        SY_TRY(convert(file, load_i64(file->pointer, i) + inside * file->item_bytes, here, out));
        first += here;
        out += here;
        n -= here;
        i++;
    }

cleanup:
    return st;
}
