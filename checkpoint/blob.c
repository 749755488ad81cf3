/* Files that travel in a checkpoint, and the receipt of how it was made. */
#include "checkpoint/checkpoint.h"

#include <stdio.h>
#include <string.h>

#include "checkpoint/catalog_impl.h"
#include "checkpoint/file_impl.h"
#include "checkpoint/hash_impl.h"
#include "checkpoint/integrity_impl.h"
#include "core/alloc.h"

static sy_status read_bytes(const char *path, const sy__catalog *cat, int64_t item_idx, char *to)
{
    sy_status st = SY_OK;
    const sy__item *item = &cat->item[item_idx];
    int64_t bytes = 0;
    int fd = -1;
    SY_TRY(sy__file_open_read(path, &fd, &bytes));
    for (int64_t k = item->first_piece; k < item->first_piece + item->n_pieces; k++) {
        SY_TRY(sy__piece_read(fd, path, cat, item_idx, k, to + cat->piece[k].offset));
    }
cleanup:
    sy__file_close(&fd, path, false);
    return st;
}

/* The bytes of a dataset, and a zero behind them; NULL where there is none. */
static sy_status read_dataset(const char *path, const char *name, void **out, int64_t *n_bytes)
{
    sy_status st = SY_OK;
    sy__catalog cat = {0};
    sy__attributes attributes = {0};
    char *bytes = NULL;
    SY_TRY(sy__catalog_open(path, &cat, &attributes));
    const int64_t i = sy__catalog_find(&cat, name);
    if (i >= 0) {
        SY_TRY(sy_alloc(cat.item[i].bytes + 1, 1, (void **)&bytes));
        SY_TRY(read_bytes(path, &cat, i, bytes));
    }
    *n_bytes = i >= 0 ? cat.item[i].bytes : 0;
    *out = bytes;
    bytes = NULL;
cleanup:
    sy_free(&bytes);
    sy__attributes_free(&attributes);
    sy__catalog_free(&cat);
    return st;
}

sy_status sy_checkpoint_read_blob(const char *path, const char *name, void **out, int64_t *n_bytes)
{
    char full[SY__PATH_BYTES + 16];
    snprintf(full, sizeof full, "tokenizer/%.*s", SY__PATH_BYTES, name);
    return read_dataset(path, full, out, n_bytes);
}

/* ---- the receipt ---- */

sy_status sy_checkpoint_read_receipt(const char *path, char **text)
{
    sy_status st = SY_OK;
    int64_t n = 0;
    SY_TRY(read_dataset(path, SY__RECEIPT_PATH, (void **)text, &n));
    for (; n > 0 && (*text)[n - 1] == ' '; n--) {
        (*text)[n - 1] = '\0'; /* room that was left over */
    }
cleanup:
    return st;
}

/* The text with spaces behind it, and the checksums of its pieces. */
static sy_status write_text(int fd, const char *path, sy__catalog *cat, int64_t item_idx,
                            const char *text)
{
    sy_status st = SY_OK;
    const sy__item *item = &cat->item[item_idx];
    char *bytes = NULL;
    SY_TRY(sy_alloc(item->bytes, 1, (void **)&bytes));
    memset(bytes, ' ', (size_t)item->bytes);
    memcpy(bytes, text, strlen(text));
    for (int64_t k = item->first_piece; k < item->first_piece + item->n_pieces; k++) {
        sy__piece *piece = &cat->piece[k];
        piece->xxh3 = XXH3_64bits(bytes + piece->offset, (size_t)piece->length);
    }
    SY_TRY(sy__file_write(fd, path, bytes, item->bytes, item->offset));
cleanup:
    sy_free(&bytes);
    return st;
}

sy_status sy_checkpoint_write_receipt(const char *path, const char *text)
{
    sy_status st = SY_OK;
    sy__catalog cat = {0};
    sy__attributes attributes = {0};
    int fd = -1;
    SY_TRY(sy__catalog_open(path, &cat, &attributes));
    const int64_t i = sy__catalog_find(&cat, SY__RECEIPT_PATH);
    SY_REQUIRE(i >= 0 && (int64_t)strlen(text) <= cat.item[i].bytes, SY_ERR_INTERNAL,
               "'%s' has no room for a receipt of %zu bytes", path, strlen(text));
    SY_TRY(sy__file_open_write(path, &fd));
    SY_TRY(write_text(fd, path, &cat, i, text));
    SY_TRY(sy__integrity_write(fd, path, &cat, &attributes));
    SY_TRY(sy__file_close(&fd, path, true));
cleanup:
    sy__file_close(&fd, path, false);
    sy__attributes_free(&attributes);
    sy__catalog_free(&cat);
    return st;
}
