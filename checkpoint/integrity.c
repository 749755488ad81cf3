/* Checksums: rows of the table against the datasets, and the bytes between the datasets. */
#include "checkpoint/integrity_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/file_impl.h"
#include "checkpoint/h5_impl.h"
#include "checkpoint/hash_impl.h"
#include "core/alloc.h"

enum { ROWS = 4096, BUFFER_BYTES = 1 << 20 };

_Static_assert(sizeof(sy__row) == SY__PATH_BYTES + 24, "rows of the table have no gaps");

/* ---- table and digest ---- */

static sy_status write_rows(int fd, const char *path, const sy__catalog *cat, sy__row *row)
{
    sy_status st = SY_OK;
    for (int64_t first = 0; first < cat->n_pieces; first += ROWS) {
        int64_t n = cat->n_pieces - first < ROWS ? cat->n_pieces - first : ROWS;
        memset(row, 0, (size_t)n * sizeof *row);
        for (int64_t i = 0; i < n; i++) {
            const sy__piece *piece = &cat->piece[first + i];
            const sy__item *item = &cat->item[sy__catalog_item_of(cat, first + i)];
            memcpy(row[i].dataset, item->path, sizeof item->path);
            row[i].offset = (uint64_t)piece->offset;
            row[i].length = (uint64_t)piece->length;
            row[i].xxh3 = piece->xxh3;
        }
        SY_TRY(sy__file_write(fd, path, row, n * (int64_t)sizeof *row,
                              cat->table.offset + first * (int64_t)sizeof *row));
    }
cleanup:
    return st;
}

sy_status sy__integrity_write(int fd, const char *path, const sy__catalog *cat,
                              const sy__attributes *attributes)
{
    sy_status st = SY_OK;
    sy__row *row = NULL;
    uint64_t digest = 0;
    SY_TRY(sy_alloc(ROWS, sizeof *row, (void **)&row));
    SY_TRY(write_rows(fd, path, cat, row));
    SY_TRY(sy__catalog_digest(cat, attributes, &digest));
    SY_TRY(sy__file_write(fd, path, &digest, sizeof digest, cat->digest.offset));
cleanup:
    sy_free(&row);
    return st;
}

/* Reads rows in the order of the datasets; `done` is how far the pieces of `item` reach. */
typedef struct table_reader {
    const char *path;
    sy__catalog *cat;
    int64_t item, done;
} table_reader;

static void skip_finished(table_reader *r)
{
    while (r->item < r->cat->n_items && r->done == r->cat->item[r->item].bytes) {
        r->cat->item[r->item].n_pieces = r->cat->n_pieces - r->cat->item[r->item].first_piece;
        r->item++;
        r->done = 0;
        if (r->item < r->cat->n_items) {
            r->cat->item[r->item].first_piece = r->cat->n_pieces;
        }
    }
}

static sy_status take_row(table_reader *r, const sy__row *row)
{
    sy_status st = SY_OK;
    const sy__item *item = r->item < r->cat->n_items ? &r->cat->item[r->item] : NULL;
    bool fits = item && memcmp(row->dataset, item->path, sizeof item->path) == 0 &&
                row->offset == (uint64_t)r->done && row->length > 0 &&
                row->length <= SY__PIECE_MAX_BYTES &&
                row->length <= (uint64_t)(item->bytes - r->done) &&
                row->length % sy_dtype_bytes(item->dtype) == 0;
    SY_REQUIRE(fits, SY_ERR_DAMAGED,
               "checkpoint '%s': row %" PRId64 " of the table of checksums does not fit dataset "
               "'%s'",
               r->path, r->cat->n_pieces, item ? item->path : "(none)");
    r->cat->piece[r->cat->n_pieces++] =
        (sy__piece){(int64_t)row->offset, (int64_t)row->length, row->xxh3};
    r->done += (int64_t)row->length;
    skip_finished(r);
cleanup:
    return st;
}

/* The last dataset by name: without rows it is another program's, as all of /x may be. */
static void drop_foreign_receipt(table_reader *r)
{
    sy__catalog *cat = r->cat;
    if (r->item == cat->n_items - 1 && r->done == 0 &&
        strcmp(cat->item[r->item].path, SY__RECEIPT_PATH) == 0) {
        cat->n_items--;
        cat->foreign = true;
    }
}

static sy_status read_rows(int fd, const char *path, sy__catalog *cat, sy__row *row)
{
    sy_status st = SY_OK;
    const int64_t n_rows = cat->table.bytes / (int64_t)sizeof *row;
    table_reader reader = {.path = path, .cat = cat};
    skip_finished(&reader);
    for (int64_t first = 0; first < n_rows; first += ROWS) {
        int64_t n = n_rows - first < ROWS ? n_rows - first : ROWS;
        SY_TRY(sy__file_read(fd, path, row, n * (int64_t)sizeof *row,
                             cat->table.offset + first * (int64_t)sizeof *row));
        for (int64_t i = 0; i < n; i++) {
            SY_TRY(take_row(&reader, &row[i]));
        }
    }
    drop_foreign_receipt(&reader);
    SY_REQUIRE(reader.item == cat->n_items, SY_ERR_DAMAGED,
               "checkpoint '%s': the table of checksums does not cover dataset '%s'", path,
               cat->item[reader.item].path);
cleanup:
    return st;
}

static sy_status check_digest(int fd, const char *path, const sy__catalog *cat,
                              const sy__attributes *attributes)
{
    sy_status st = SY_OK;
    uint64_t stored = 0, digest = 0;
    SY_TRY(sy__file_read(fd, path, &stored, sizeof stored, cat->digest.offset));
    SY_TRY(sy__catalog_digest(cat, attributes, &digest));
    SY_REQUIRE(stored == digest, SY_ERR_DAMAGED,
               "checkpoint '%s': the digest of its table, names, shapes, types and attributes does "
               "not hold",
               path);
cleanup:
    return st;
}

sy_status sy__integrity_read(int fd, const char *path, sy__catalog *cat,
                             const sy__attributes *attributes)
{
    sy_status st = SY_OK;
    sy__row *row = NULL;
    sy_free(&cat->piece);
    cat->n_pieces = 0;
    SY_TRY(sy_alloc(ROWS, sizeof *row, (void **)&row));
    SY_TRY(sy_alloc(cat->table.bytes / (int64_t)sizeof *row, sizeof *cat->piece,
                    (void **)&cat->piece));
    SY_TRY(read_rows(fd, path, cat, row));
    SY_TRY(check_digest(fd, path, cat, attributes));
cleanup:
    sy_free(&row);
    return st;
}

/* ---- what lies between ---- */

static int by_offset(const void *a, const void *b)
{
    const sy__extent *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Datasets that have bytes, those of /integrity and `also` [n_also] among them, in the order of the
   file. */
static sy_status sorted_extents(const sy__catalog *cat, const sy__extent *also, int32_t n_also,
                                sy__extent **out, int64_t *n_out)
{
    sy_status st = SY_OK;
    sy__extent *extent = NULL;
    int64_t n = 0, n_kept = 0;
    SY_TRY(sy_alloc(cat->n_items + 3 + n_also, sizeof *extent, (void **)&extent));
    for (int64_t i = 0; i < cat->n_items; i++) {
        extent[n++] = (sy__extent){cat->item[i].offset, cat->item[i].bytes};
    }
    extent[n++] = cat->table;
    extent[n++] = cat->digest;
    extent[n++] = cat->structure;
    for (int32_t i = 0; i < n_also; i++) {
        extent[n++] = also[i];
    }
    for (int64_t i = 0; i < n; i++) {
        if (extent[i].bytes > 0) {
            extent[n_kept++] = extent[i];
        }
    }
    qsort(extent, (size_t)n_kept, sizeof *extent, by_offset);
    *out = extent;
    *n_out = n_kept;
cleanup:
    return st;
}

sy_status sy__extents_check(const char *path, const sy__catalog *cat)
{
    sy_status st = SY_OK;
    sy__extent *extent = NULL;
    int64_t n = 0, end = 0;
    SY_TRY(sorted_extents(cat, NULL, 0, &extent, &n));
    for (int64_t i = 0; i < n; i++) {
        SY_REQUIRE(extent[i].offset >= end, SY_ERR_DAMAGED,
                   "checkpoint '%s': two datasets share byte %" PRId64, path, extent[i].offset);
        SY_REQUIRE(extent[i].bytes <= cat->file_bytes - extent[i].offset, SY_ERR_DAMAGED,
                   "checkpoint '%s': a dataset of %" PRId64 " bytes at %" PRId64
                   " reaches beyond the end of the file",
                   path, extent[i].bytes, extent[i].offset);
        end = extent[i].offset + extent[i].bytes;
    }
cleanup:
    sy_free(&extent);
    return st;
}

/* What is done with bytes that lie between datasets. */
typedef sy_status take_bytes(void *self, const void *bytes, int64_t n, int64_t offset);

static sy_status walk_range(int fd, const char *path, int64_t begin, int64_t end, void *buffer,
                            take_bytes *take, void *self)
{
    sy_status st = SY_OK;
    while (begin < end) {
        int64_t n = end - begin < BUFFER_BYTES ? end - begin : BUFFER_BYTES;
        SY_TRY(sy__file_read(fd, path, buffer, n, begin));
        SY_TRY(take(self, buffer, n, begin));
        begin += n;
    }
cleanup:
    return st;
}

/* Every byte of the file that belongs neither to a dataset nor to `also` [n_also]. */
static sy_status walk_between(int fd, const char *path, const sy__catalog *cat,
                              const sy__extent *also, int32_t n_also, take_bytes *take, void *self)
{
    sy_status st = SY_OK;
    sy__extent *extent = NULL;
    void *buffer = NULL;
    int64_t n = 0, at = 0;
    SY_TRY(sy_alloc(BUFFER_BYTES, 1, &buffer));
    SY_TRY(sorted_extents(cat, also, n_also, &extent, &n));
    for (int64_t i = 0; i < n; i++) {
        SY_TRY(walk_range(fd, path, at, extent[i].offset, buffer, take, self));
        at = extent[i].offset + extent[i].bytes;
    }
    SY_TRY(walk_range(fd, path, at, cat->file_bytes, buffer, take, self));
cleanup:
    sy_free(&extent);
    sy_free(&buffer);
    return st;
}

typedef struct target {
    int fd;
    const char *path;
} target;

static sy_status copy_bytes(void *self, const void *bytes, int64_t n, int64_t offset)
{
    const target *to = self;
    return sy__file_write(to->fd, to->path, bytes, n, offset);
}

sy_status sy__structure_copy(int from, int to, const char *path, const sy__catalog *cat)
{
    target self = {to, path};
    return walk_between(from, path, cat, NULL, 0, copy_bytes, &self);
}

static sy_status hash_bytes(void *self, const void *bytes, int64_t n, int64_t offset)
{
    (void)offset;
    XXH3_64bits_update(self, bytes, (size_t)n);
    return SY_OK;
}

static sy_status structure_hash(int fd, const char *path, const sy__catalog *cat, uint64_t *out)
{
    sy_status st = SY_OK;
    sy__extent created[2];
    XXH3_state_t *hash = XXH3_createState();
    SY_REQUIRE(hash, SY_ERR_MEMORY, "out of memory: no state for a checksum");
    XXH3_64bits_reset(hash);
    SY_TRY(sy__created_extents(fd, path, &created[0], &created[1]));
    SY_TRY(walk_between(fd, path, cat, created, 2, hash_bytes, hash));
    *out = XXH3_64bits_digest(hash);
cleanup:
    XXH3_freeState(hash);
    return st;
}

sy_status sy__structure_write(int fd, const char *path, const sy__catalog *cat)
{
    sy_status st = SY_OK;
    uint64_t hash = 0;
    SY_TRY(structure_hash(fd, path, cat, &hash));
    SY_TRY(sy__file_write(fd, path, &hash, sizeof hash, cat->structure.offset));
cleanup:
    return st;
}

sy_status sy__structure_check(int fd, const char *path, const sy__catalog *cat)
{
    sy_status st = SY_OK;
    uint64_t stored = 0, hash = 0;
    SY_TRY(sy__file_read(fd, path, &stored, sizeof stored, cat->structure.offset));
    SY_TRY(structure_hash(fd, path, cat, &hash));
    SY_REQUIRE(stored == hash, SY_ERR_DAMAGED,
               "checkpoint '%s': bytes outside the datasets are damaged, or another program has "
               "changed the file",
               path);
cleanup:
    return st;
}

/* ---- reading ---- */

sy_status sy__catalog_open(const char *path, sy__catalog *cat, sy__attributes *attributes)
{
    sy_status st = SY_OK;
    sy__catalog found = {0};
    sy__attributes read = {0};
    int64_t bytes = 0;
    int fd = -1;
    SY_TRY(sy__h5_scan(path, &found, &read));
    SY_TRY(sy__file_open_read(path, &fd, &bytes));
    SY_TRY(sy__integrity_read(fd, path, &found, &read));
    *cat = found;
    *attributes = read;
    found = (sy__catalog){0};
    read = (sy__attributes){0};
cleanup:
    sy__file_close(&fd, path, false);
    sy__attributes_free(&read);
    sy__catalog_free(&found);
    return st;
}

sy_status sy__catalog_open_whole(const char *path, sy__catalog *cat)
{
    sy_status st = SY_OK;
    sy__attributes attributes = {0};
    int64_t bytes = 0;
    int fd = -1;
    SY_TRY(sy__catalog_open(path, cat, &attributes));
    if (!cat->foreign) {
        SY_TRY(sy__file_open_read(path, &fd, &bytes));
        SY_TRY(sy__structure_check(fd, path, cat));
    }
cleanup:
    sy__file_close(&fd, path, false);
    sy__attributes_free(&attributes);
    return st;
}

sy_status sy__piece_read(int fd, const char *path, const sy__catalog *cat, int64_t item,
                         int64_t piece, void *to)
{
    sy_status st = SY_OK;
    const sy__item *from = &cat->item[item];
    const sy__piece *p = &cat->piece[piece];
    SY_TRY(sy__file_read(fd, path, to, p->length, from->offset + p->offset));
    SY_REQUIRE(XXH3_64bits(to, (size_t)p->length) == p->xxh3, SY_ERR_DAMAGED,
               "checkpoint '%s': bytes %" PRId64 " to %" PRId64
               " of dataset '/%s' are damaged: their checksum does not hold",
               path, p->offset, p->offset + p->length - 1, from->path);
cleanup:
    return st;
}
