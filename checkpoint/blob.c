/* Tokenizer files in a checkpoint. */
#include "checkpoint/checkpoint.h"

#include <stdio.h>

#include "checkpoint/catalog_impl.h"
#include "checkpoint/file_impl.h"
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

sy_status sy_checkpoint_read_blob(const char *path, const char *name, void **out, int64_t *n_bytes)
{
    sy_status st = SY_OK;
    sy__catalog cat = {0};
    sy__attributes attributes = {0};
    char full[SY__PATH_BYTES];
    char *bytes = NULL;
    int64_t i = -1;
    SY_TRY(sy__catalog_open(path, &cat, &attributes));
    if (snprintf(full, sizeof full, "tokenizer/%s", name) < (int)sizeof full) {
        i = sy__catalog_find(&cat, full);
    }
    if (i >= 0) {
        SY_TRY(sy_alloc(cat.item[i].bytes, 1, (void **)&bytes));
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
