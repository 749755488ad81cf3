/* The catalog of a file: sorted datasets, and pieces cut by bytes of shape and type alone, so that
   the table of a file says nothing about who wrote it. */
#include "checkpoint/catalog_impl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/alloc.h"
#include "parallel/agree.h"

void sy__catalog_free(sy__catalog *cat)
{
    sy_free(&cat->piece);
    sy_free(&cat->item);
    *cat = (sy__catalog){0};
}

void sy__attributes_free(sy__attributes *attributes)
{
    sy_free(&attributes->kind);
    sy_free(&attributes->config_yaml);
    sy_free(&attributes->producer);
    sy_free(&attributes->created);
    *attributes = (sy__attributes){0};
}

sy_status sy__catalog_add(sy__catalog *cat, const sy__item *item)
{
    sy_status st = SY_OK;
    if (cat->n_items == cat->capacity) {
        int64_t capacity = cat->capacity > 0 ? 2 * cat->capacity : 64;
        SY_TRY(sy_realloc(capacity, sizeof *cat->item, (void **)&cat->item));
        cat->capacity = capacity;
    }
    cat->item[cat->n_items++] = *item;
cleanup:
    return st;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const sy__item *)a)->path, ((const sy__item *)b)->path);
}

sy_status sy__catalog_sort(sy__catalog *cat, const char *path)
{
    sy_status st = SY_OK;
    if (cat->n_items > 0) {
        qsort(cat->item, (size_t)cat->n_items, sizeof *cat->item, by_path);
    }
    for (int64_t i = 1; i < cat->n_items; i++) {
        SY_REQUIRE(by_path(&cat->item[i - 1], &cat->item[i]) != 0,
                   path ? SY_ERR_DAMAGED : SY_ERR_INTERNAL, "%s%s%stwo datasets are called '%s'",
                   path ? "checkpoint '" : "", path ? path : "", path ? "': " : "",
                   cat->item[i].path);
    }
cleanup:
    return st;
}

int64_t sy__catalog_find(const sy__catalog *cat, const char *path)
{
    int64_t low = 0, high = cat->n_items;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        int order = strcmp(cat->item[mid].path, path);
        if (order == 0) {
            return mid;
        }
        low = order < 0 ? mid + 1 : low;
        high = order < 0 ? high : mid;
    }
    return -1;
}

int64_t sy__catalog_item_of(const sy__catalog *cat, int64_t piece)
{
    int64_t low = 0, high = cat->n_items - 1;
    while (low < high) { /* the last dataset that begins at this piece or before it */
        int64_t mid = low + (high - low + 1) / 2;
        low = cat->item[mid].first_piece <= piece ? mid : low;
        high = cat->item[mid].first_piece <= piece ? high : mid - 1;
    }
    return low;
}

int64_t sy__catalog_bytes(const sy__catalog *cat)
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < cat->n_items; i++) {
        bytes += cat->item[i].bytes;
    }
    return bytes;
}

sy_status sy__item_from_field(const sy_field *field, sy__item *out)
{
    sy_status st = SY_OK;
    sy__item item = {.dtype = field->dtype, .n_dim = field->n_dim};
    int64_t factor[SY_MAX_DIM + 1] = {(int64_t)sy_dtype_bytes(field->dtype)};
    int n = snprintf(item.path, sizeof item.path, "%s", field->name);
    SY_REQUIRE(n > 0 && n < SY__PATH_BYTES && field->name[0] != '/', SY_ERR_INTERNAL,
               "'%s' cannot be the name of a field: it wants 1 to %d characters and no leading '/'",
               field->name, SY__PATH_BYTES - 1);
    SY_REQUIRE(item.n_dim >= 0 && item.n_dim <= SY_MAX_DIM, SY_ERR_INTERNAL,
               "field '%s' has %d dimensions", field->name, item.n_dim);
    for (int32_t d = 0; d < item.n_dim; d++) {
        item.shape[d] = factor[d + 1] = field->shape_glb[d];
    }
    SY_TRY(sy_size_product(factor, item.n_dim + 1, &item.bytes));
    *out = item;
cleanup:
    return st;
}

bool sy__item_has_shape(const sy__item *item, const sy_field *field)
{
    bool same = item->n_dim == field->n_dim;
    for (int32_t d = 0; d < item->n_dim && same; d++) {
        same = item->shape[d] == field->shape_glb[d];
    }
    return same;
}

static sy_status walk_blob(const sy_blob *blob, bool write, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    char name[SY__PATH_BYTES + 16];
    sy_part part = {.box = {.n_dim = 1, .shape = {blob->n}},
                    .data = (void *)(uintptr_t)blob->bytes, /* only read: blobs are never loaded */
                    .write = write};
    sy_field field = {.name = name,
                      .dtype = SY_U8,
                      .n_dim = 1,
                      .n_parts = 1,
                      .shape_glb = {blob->n},
                      .parts = &part};
    SY_REQUIRE(!strchr(blob->name, '/') && strlen(blob->name) < SY__PATH_BYTES, SY_ERR_INTERNAL,
               "'%s' cannot be the name of a blob", blob->name);
    snprintf(name, sizeof name, "tokenizer/%s", blob->name);
    SY_TRY(emit(to, &field));
cleanup:
    return st;
}

/* The room of a receipt: spaces. */
static sy_status pull_spaces(void *self, int64_t first, int64_t n, void *h_buf, const void **h_out)
{
    (void)self, (void)first;
    memset(h_buf, ' ', (size_t)n);
    *h_out = h_buf;
    return SY_OK;
}

static sy_status walk_receipt(int64_t bytes, bool write, sy_emit *emit, void *to)
{
    sy_part part = {.box = {.n_dim = 1, .shape = {bytes}}, .write = write};
    return emit(to, &(sy_field){.name = SY__RECEIPT_PATH,
                                .dtype = SY_U8,
                                .n_dim = 1,
                                .n_parts = 1,
                                .shape_glb = {bytes},
                                .parts = &part,
                                .pull = pull_spaces});
}

sy_status sy__state_walk(const sy_state *state, bool write_blobs, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < state->n_owners; i++) {
        SY_TRY(state->owners[i].walk(state->owners[i].self, emit, to));
    }
    for (int32_t i = 0; i < state->n_blobs; i++) {
        SY_TRY(walk_blob(&state->blobs[i], write_blobs, emit, to));
    }
    if (state->receipt_bytes > 0) {
        SY_TRY(walk_receipt(state->receipt_bytes, write_blobs, emit, to));
    }
cleanup:
    return st;
}

static sy_status add_field(void *to, const sy_field *field)
{
    sy_status st = SY_OK;
    sy__item item;
    SY_TRY(sy__item_from_field(field, &item));
    SY_TRY(sy__catalog_add(to, &item));
cleanup:
    return st;
}

/* Bytes of a slab: each is cut by itself. One expert is a slab, so that who writes whole experts
   writes whole pieces. */
static int64_t slab_bytes(const sy__item *item)
{
    return item->n_dim >= 3 && item->shape[0] > 0 ? item->bytes / item->shape[0] : item->bytes;
}

static int64_t pieces_per_slab(const sy__item *item)
{
    return (slab_bytes(item) + SY__PIECE_BYTES - 1) / SY__PIECE_BYTES;
}

int64_t sy__catalog_piece_at(const sy__catalog *cat, int64_t item, int64_t at)
{
    const sy__item *in = &cat->item[item];
    const int64_t slab = slab_bytes(in);
    return in->first_piece + at / slab * pieces_per_slab(in) + at % slab / SY__PIECE_BYTES;
}

static void cut_slabs(const sy__item *item, sy__piece *piece)
{
    const int64_t slab = slab_bytes(item);
    int64_t offset = 0;
    for (int64_t k = 0; k < item->n_pieces; k++) {
        const int64_t rest = slab - offset % slab;
        piece[k].offset = offset;
        piece[k].length = rest < SY__PIECE_BYTES ? rest : SY__PIECE_BYTES;
        offset += piece[k].length;
    }
}

static sy_status cut_pieces(sy__catalog *cat)
{
    sy_status st = SY_OK;
    int64_t n = 0;
    for (int64_t i = 0; i < cat->n_items; i++) {
        sy__item *item = &cat->item[i];
        item->first_piece = n;
        item->n_pieces =
            item->bytes > 0 ? item->bytes / slab_bytes(item) * pieces_per_slab(item) : 0;
        n += item->n_pieces;
    }
    SY_TRY(sy_alloc(n, sizeof *cat->piece, (void **)&cat->piece));
    cat->n_pieces = n;
    for (int64_t i = 0; i < cat->n_items; i++) {
        cut_slabs(&cat->item[i], cat->piece + cat->item[i].first_piece);
    }
cleanup:
    return st;
}

sy_status sy__catalog_from_state(const sy_state *state, sy__catalog *out)
{
    sy_status st = SY_OK;
    sy__catalog cat = {0};
    SY_TRY(sy__state_walk(state, false, add_field, &cat));
    SY_TRY(sy__catalog_sort(&cat, NULL));
    SY_TRY(cut_pieces(&cat));
    *out = cat;
    cat = (sy__catalog){0};
cleanup:
    sy__catalog_free(&cat);
    return st;
}

/* Room for what rank 0 is about to send. */
static sy_status receive(const sy__catalog *head, sy__catalog *cat)
{
    sy_status st = SY_OK;
    sy__catalog copy = *head;
    copy.capacity = copy.n_items;
    copy.item = NULL;
    copy.piece = NULL;
    SY_TRY(sy_alloc(copy.n_items, sizeof *copy.item, (void **)&copy.item));
    SY_TRY(sy_alloc(copy.n_pieces, sizeof *copy.piece, (void **)&copy.piece));
    *cat = copy;
    copy = (sy__catalog){0};
cleanup:
    sy__catalog_free(&copy);
    return st;
}

sy_status sy__catalog_share(sy__catalog *cat, sy_comm *io, sy_status mine)
{
    sy_status st = SY_OK;
    sy__catalog head = *cat;
    SY_TRY(sy_agree(io, mine));
    SY_TRY(sy_host_broadcast(io, &head, sizeof head, 0, "checkpoint sizes"));
    SY_TRY(sy_agree(io, io->rank == 0 ? SY_OK : receive(&head, cat)));
    SY_TRY(sy_host_broadcast(io, cat->item, cat->n_items * (int64_t)sizeof *cat->item, 0,
                             "checkpoint datasets"));
    SY_TRY(sy_host_broadcast(io, cat->piece, cat->n_pieces * (int64_t)sizeof *cat->piece, 0,
                             "checkpoint pieces"));
cleanup:
    return st;
}

/* ---- digest ---- */

static void feed(XXH3_state_t *hash, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void feed(XXH3_state_t *hash, const char *format, ...)
{
    char line[2 * SY__PATH_BYTES + 128];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    XXH3_64bits_update(hash, line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
}

static void feed_text(XXH3_state_t *hash, const char *name, const char *text)
{
    feed(hash, "%s %zu\n", name, strlen(text));
    XXH3_64bits_update(hash, text, strlen(text));
    feed(hash, "\n");
}

static void feed_item(XXH3_state_t *hash, const sy__catalog *cat, const sy__item *item)
{
    feed(hash, "dataset %s %s", item->path, sy_dtype_name(item->dtype));
    for (int32_t d = 0; d < item->n_dim; d++) {
        feed(hash, " %" PRId64, item->shape[d]);
    }
    feed(hash, "\n");
    for (int64_t k = 0; k < item->n_pieces; k++) {
        const sy__piece *piece = &cat->piece[item->first_piece + k];
        feed(hash, "piece %" PRId64 " %" PRId64 " %016" PRIx64 "\n", piece->offset, piece->length,
             piece->xxh3);
    }
}

sy_status sy__catalog_digest(const sy__catalog *cat, const sy__attributes *attributes,
                             uint64_t *out)
{
    sy_status st = SY_OK;
    XXH3_state_t *hash = XXH3_createState();
    SY_REQUIRE(hash, SY_ERR_MEMORY, "out of memory: no state for a checksum");
    XXH3_64bits_reset(hash);
    feed(hash, "switchyard 1\n");
    feed_text(hash, "producer", attributes->producer);
    feed_text(hash, "kind", attributes->kind);
    feed_text(hash, "config", attributes->config_yaml);
    feed(hash, "step %" PRId64 "\ntokens_seen %" PRId64 "\ncomplete %" PRId64 "\n",
         attributes->step, attributes->tokens_seen, attributes->complete);
    for (int64_t i = 0; i < cat->n_items; i++) {
        feed_item(hash, cat, &cat->item[i]);
    }
    *out = XXH3_64bits_digest(hash);
cleanup:
    XXH3_freeState(hash);
    return st;
}
