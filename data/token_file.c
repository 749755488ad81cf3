/* Reader of token files: indexed (token_index.c) or raw (token_raw.c). Nothing is copied: a
   sequence's start in the stream is its byte pointer over the item size, unless the index has gaps
   (legal, rare); only then a table of starts is built. Arrays in .idx are unaligned, hence memcpy.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "data/token_file_impl.h"

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

sy_status sy__token_map(sy__mapping *map)
{
    sy_status st = SY_OK;
    struct stat info;
    void *data = NULL;

    int fd = open(map->path, O_RDONLY | O_CLOEXEC);
    SY_REQUIRE(fd >= 0, SY_ERR_USAGE, "cannot open token file '%s': %s", map->path,
               strerror(errno));
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

static void unmap_file(sy__mapping *map)
{
    if (map->data != NULL) {
        munmap((void *)(uintptr_t)map->data, (size_t)map->n_bytes);
        map->data = NULL;
    }
    sy_free(&map->path);
}

int64_t sy__token_type_bytes(int32_t type)
{
    switch (type) {
    case SY__TOKEN_U8:
        return 1;
    case SY__TOKEN_I16:
    case SY__TOKEN_U16:
        return 2;
    case SY__TOKEN_I32:
    case SY__TOKEN_U32:
        return 4;
    case SY__TOKEN_I64:
    case SY__TOKEN_U64:
        return 8;
    default:
        return 0;
    }
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

static bool is_there(const char *stem, int n, const char *end)
{
    struct stat info;
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%.*s%s", n, stem, end);
    return length < (int)sizeof path && stat(path, &info) == 0;
}

/* An index beside it makes it Megatron's, with or without ".bin"; a path that is a file is raw. */
static sy_status open_files(sy_token_file *file, const char *path, const sy_token_file_spec *spec)
{
    sy_status st = SY_OK;
    const int whole = (int)strlen(path);
    const bool named = ends_with(path, ".bin") || ends_with(path, ".idx");
    const int prefix = named && !is_there(path, whole, ".idx") ? whole - 4 : whole;
    if (!is_there(path, prefix, ".idx") && is_there(path, whole, "")) {
        SY_TRY(sy_strdup(path, &file->bin.path));
        SY_TRY(sy__token_map(&file->bin));
        SY_TRY(sy__token_raw_open(file, spec));
    } else {
        SY_TRY(sy_asprintf(&file->idx.path, "%.*s.idx", prefix, path));
        SY_TRY(sy_asprintf(&file->bin.path, "%.*s.bin", prefix, path));
        SY_TRY(sy__token_map(&file->idx));
        SY_TRY(sy__token_index_open(file));
    }
cleanup:
    return st;
}

sy_status sy_token_file_open_as(const char *path, const sy_token_file_spec *spec,
                                sy_token_file **out)
{
    sy_status st = SY_OK;
    sy_token_file *file = NULL;

    SY_TRY(sy_alloc(1, sizeof *file, (void **)&file));
    file->vocab_size = spec->vocab_size;
    file->eod = spec->has_eod ? spec->eod : -1;
    SY_TRY(open_files(file, path, spec));
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

sy_status sy_token_file_open(const char *path, int64_t vocab_size, sy_token_file **out)
{
    return sy_token_file_open_as(path, &(sy_token_file_spec){.vocab_size = vocab_size}, out);
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

const char *sy_token_file_path(const sy_token_file *file)
{
    return file->bin.path;
}

int64_t sy_token_file_n_tokens(const sy_token_file *file)
{
    return file->n_tokens;
}

bool sy_token_file_has_documents(const sy_token_file *file)
{
    return file->idx.path != NULL;
}

int64_t sy_token_file_eod(const sy_token_file *file)
{
    return file->eod;
}

int64_t sy_token_file_n_sequences(const sy_token_file *file)
{
    return file->n_sequences;
}

int64_t sy_token_file_n_documents(const sy_token_file *file)
{
    return file->n_documents;
}

int64_t sy_token_file_sequence_start(const sy_token_file *file, int64_t i)
{
    if (i == file->n_sequences) {
        return file->n_tokens;
    }
    return file->start != NULL ? file->start[i]
                               : sy__token_i64(file->pointer, i) / file->item_bytes;
}

int64_t sy_token_file_document_start(const sy_token_file *file, int64_t document)
{
    return sy_token_file_sequence_start(file, sy__token_i64(file->document, document));
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
    uint32_t u32;
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
        return sy__token_i32(array, i);
    case SY__TOKEN_U32:
        memcpy(&u32, array + 4 * i, sizeof u32);
        return u32;
    case SY__TOKEN_I64:
    case SY__TOKEN_U64: /* beyond 2^63 is below 0, and refused like it */
        break;
    }
    return sy__token_i64(array, i);
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
        return convert(file, file->first_byte + first * file->item_bytes, n, out);
    }
    int64_t i = last_at_or_before(file, file->n_sequences, first, sy_token_file_sequence_start);
    while (n > 0) {
        int64_t inside = first - file->start[i], here = file->start[i + 1] - first;
        here = here < n ? here : n;
        SY_TRY(
            convert(file, sy__token_i64(file->pointer, i) + inside * file->item_bytes, here, out));
        first += here;
        out += here;
        n -= here;
        i++;
    }

cleanup:
    return st;
}
