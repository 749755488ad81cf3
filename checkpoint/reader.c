#include "checkpoint/reader.h"

#include <string.h>

#include "checkpoint/catalog_impl.h"
#include "checkpoint/file_impl.h"
#include "checkpoint/integrity_impl.h"
#include "core/alloc.h"
#include "parallel/agree.h"

struct sy_reader {
    char *path;
    sy__catalog cat;
    int fd;
    char *h_piece; /* the piece that was read last ... */
    int64_t piece; /* ... its number; -1: none */
};

static sy_status open_file(const char *path, sy_reader *r)
{
    sy_status st = SY_OK;
    int64_t largest = 0, bytes = 0;
    for (int64_t i = 0; i < r->cat.n_pieces; i++) {
        largest = r->cat.piece[i].length > largest ? r->cat.piece[i].length : largest;
    }
    SY_TRY(sy_strdup(path, &r->path));
    SY_TRY(sy_alloc(largest, 1, (void **)&r->h_piece));
    SY_TRY(sy__file_open_read(path, &r->fd, &bytes));
    SY_REQUIRE(bytes == r->cat.file_bytes, SY_ERR_IO,
               "'%s' is not the same file on all ranks: it must lie on a file system they share",
               path);
cleanup:
    return st;
}

sy_status sy_reader_open(const char *path, sy_comm *comm, sy_reader **out)
{
    sy_status st = SY_OK;
    sy_reader *r = NULL;
    SY_TRY(sy_agree(comm, sy_alloc(1, sizeof *r, (void **)&r)));
    r->fd = -1;
    r->piece = -1;
    SY_TRY(sy__catalog_share(&r->cat, comm,
                             comm->rank == 0 ? sy__catalog_open_whole(path, &r->cat) : SY_OK));
    SY_TRY(sy_agree(comm, open_file(path, r)));
    *out = r;
    r = NULL;
cleanup:
    sy_reader_close(&r);
    return st;
}

void sy_reader_close(sy_reader **reader)
{
    sy_reader *r = *reader;
    if (r == NULL) {
        return;
    }
    sy__file_close(&r->fd, r->path, false);
    sy_free(&r->h_piece);
    sy__catalog_free(&r->cat);
    sy_free(&r->path);
    sy_free(reader);
}

int32_t sy_reader_n(const sy_reader *reader)
{
    return (int32_t)reader->cat.n_items;
}

sy_checkpoint_entry sy_reader_entry(const sy_reader *reader, int32_t entry)
{
    sy__item *item = &reader->cat.item[entry];
    sy_checkpoint_entry out = {.path = item->path, .dtype = item->dtype, .n_dim = item->n_dim};
    memcpy(out.shape, item->shape, sizeof out.shape);
    return out;
}

int32_t sy_reader_find(const sy_reader *reader, const char *path)
{
    return (int32_t)sy__catalog_find(&reader->cat, path);
}

/* Pieces of files that others wrote may be of any length: the last that begins at or before. */
static int64_t find_piece(const sy__catalog *cat, const sy__item *item, int64_t at_byte)
{
    int64_t low = item->first_piece, high = item->first_piece + item->n_pieces - 1;
    while (low < high) {
        int64_t mid = low + (high - low + 1) / 2;
        if (cat->piece[mid].offset <= at_byte) {
            low = mid;
        } else {
            high = mid - 1;
        }
    }
    return low;
}

void sy_reader_piece(const sy_reader *reader, int32_t entry, int64_t at, int64_t *first, int64_t *n)
{
    const sy__item *item = &reader->cat.item[entry];
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(item->dtype);
    const sy__piece *piece = &reader->cat.piece[find_piece(&reader->cat, item, at * elem_bytes)];
    *first = piece->offset / elem_bytes;
    *n = piece->length / elem_bytes;
}

sy_status sy_reader_get(sy_reader *reader, int32_t entry, int64_t first, int64_t n,
                        const void **h_out, int64_t *n_out)
{
    sy_status st = SY_OK;
    const sy__item *item = &reader->cat.item[entry];
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(item->dtype), at = first * elem_bytes;
    SY_REQUIRE(first >= 0 && n > 0 && n <= item->bytes / elem_bytes - first, SY_ERR_INTERNAL,
               "elements beyond dataset '/%s' are asked for", item->path);
    const int64_t k = find_piece(&reader->cat, item, at);
    const sy__piece *piece = &reader->cat.piece[k];
    if (k != reader->piece) {
        reader->piece = -1;
        SY_TRY(sy__piece_read(reader->fd, reader->path, &reader->cat, entry, k, reader->h_piece));
        reader->piece = k;
    }
    const int64_t rest = (piece->offset + piece->length - at) / elem_bytes;
    *n_out = n < rest ? n : rest;
    *h_out = reader->h_piece + (at - piece->offset);
cleanup:
    return st;
}

sy_status sy_reader_read(sy_reader *reader, int32_t entry, int64_t first, int64_t n, sy_dtype dtype,
                         void *h_to)
{
    sy_status st = SY_OK;
    const sy_dtype from = reader->cat.item[entry].dtype;
    SY_REQUIRE(from == dtype || (sy_dtype_is_float(from) && sy_dtype_is_float(dtype)),
               SY_ERR_INTERNAL, "dataset '/%s' of type %s is asked for as %s",
               reader->cat.item[entry].path, sy_dtype_name(from), sy_dtype_name(dtype));
    for (int64_t done = 0, got = 0; done < n; done += got) {
        const void *h_bytes = NULL;
        SY_TRY(sy_reader_get(reader, entry, first + done, n - done, &h_bytes, &got));
        sy_convert(dtype, (char *)h_to + done * (int64_t)sy_dtype_bytes(dtype), from, h_bytes, got);
    }
cleanup:
    return st;
}
