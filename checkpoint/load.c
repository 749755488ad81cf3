/* Load. Rank 0 reads what the file is and shares it; every rank then reads the pieces that its
   parts touch, each once and whole, and believes a piece only when its checksum holds. */
#include "checkpoint/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "checkpoint/ahead_impl.h"
#include "checkpoint/integrity_impl.h"
#include "checkpoint/stage_impl.h"
#include "core/alloc.h"
#include "parallel/agree.h"

/* A part as a range of elements of its dataset. */
typedef struct range {
    int64_t begin, end;
    char *data; /* of element `begin` */
} range;

typedef struct loader {
    const char *path;
    sy_load_what what;
    sy__catalog cat;
    bool *wanted; /* [n_items] by a field of the state */
    range *range; /* of the field, in the order of the dataset */
    int32_t n_ranges, capacity;
    sy__want *want; /* [n_wants] pieces that will be taken, in this order */
    int64_t n_wants, want_capacity;
    sy__ahead *ahead; /* NULL: they are still being listed */
    sy__stage stage;
} loader;

static bool is_model(const char *path)
{
    return strncmp(path, "model/", strlen("model/")) == 0;
}

/* ---- does the file fit the state? ---- */

static const char *format_shape(int32_t n_dim, const int64_t *shape, char *buf, size_t buf_bytes)
{
    sy_tensor t = sy_tensor_nd(buf, SY_U8, n_dim, shape);
    sy_tensor_format(&t, buf, buf_bytes);
    const char *bracket = strchr(buf, '[');
    return bracket ? bracket : buf;
}

/* Is the field asked for? */
static bool concerns(const loader *l, const sy_field *field)
{
    return l->what != SY_LOAD_MODEL || is_model(field->name);
}

/* The dataset to read a field from; -1: the file has none. */
static int64_t source_of(const loader *l, const sy_field *field)
{
    const bool all = l->what == SY_LOAD_ALL;
    int64_t i = all && field->prefer ? sy__catalog_find(&l->cat, field->prefer) : -1;
    if (i < 0) {
        i = sy__catalog_find(&l->cat, field->name);
    }
    return i < 0 && field->instead ? sy__catalog_find(&l->cat, field->instead) : i;
}

static sy_status check_field(void *self, const sy_field *field)
{
    sy_status st = SY_OK;
    loader *l = self;
    char have[128], want[128];
    if (!concerns(l, field)) {
        return SY_OK;
    }
    const int64_t i = source_of(l, field), own = sy__catalog_find(&l->cat, field->name);
    if (own >= 0) {
        l->wanted[own] = true; /* known, though another may be preferred */
    }
    if (i < 0 && field->optional) {
        return SY_OK;
    }
    SY_REQUIRE(i >= 0, SY_ERR_USAGE,
               "checkpoint '%s' has no dataset '/%s': it is of another model or kind", l->path,
               field->name);
    const sy__item *item = &l->cat.item[i];
    SY_REQUIRE(sy__item_has_shape(item, field), SY_ERR_USAGE,
               "dataset '/%s' of checkpoint '%s' has shape %s, not %s: it is of another model",
               item->path, l->path, format_shape(item->n_dim, item->shape, have, sizeof have),
               format_shape(field->n_dim, field->shape_glb, want, sizeof want));
    SY_REQUIRE(item->dtype == field->dtype ||
                   (sy_dtype_is_float(item->dtype) && sy_dtype_is_float(field->dtype)),
               SY_ERR_USAGE, "dataset '/%s' of checkpoint '%s' has type %s, which is no %s",
               item->path, l->path, sy_dtype_name(item->dtype), sy_dtype_name(field->dtype));
    l->wanted[i] = true;
cleanup:
    return st;
}

/* Datasets that the state would lose. */
static sy_status check_leftover(const loader *l)
{
    sy_status st = SY_OK;
    for (int64_t i = 0; i < l->cat.n_items; i++) {
        const char *path = l->cat.item[i].path;
        bool ours = l->what == SY_LOAD_ALL
                        ? strncmp(path, "tokenizer/", 10) != 0 &&
                              strncmp(path, SY_STATE_MEMO, strlen(SY_STATE_MEMO)) != 0 &&
                              strcmp(path, SY__RECEIPT_PATH) != 0
                        : l->what == SY_LOAD_MODEL && is_model(path);
        SY_REQUIRE(!ours || l->wanted[i], SY_ERR_USAGE,
                   "checkpoint '%s' has a dataset '/%s' that this configuration has not: it is of "
                   "another model or kind",
                   l->path, path);
    }
cleanup:
    return st;
}

static sy_status check_state(loader *l, const sy_state *state)
{
    sy_status st = SY_OK;
    SY_TRY(sy_alloc(l->cat.n_items, sizeof *l->wanted, (void **)&l->wanted));
    for (int32_t i = 0; i < state->n_owners; i++) {
        SY_TRY(state->owners[i].walk(state->owners[i].self, check_field, l));
    }
    SY_TRY(check_leftover(l));
cleanup:
    return st;
}

/* ---- reading ---- */

static int by_begin(const void *a, const void *b)
{
    const range *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static sy_status collect_ranges(loader *l, const sy_field *field, int64_t numel)
{
    sy_status st = SY_OK;
    if (field->n_parts > l->capacity) {
        SY_TRY(sy_realloc(field->n_parts, sizeof *l->range, (void **)&l->range));
        l->capacity = field->n_parts;
    }
    l->n_ranges = 0;
    for (int32_t p = 0; p < field->n_parts; p++) {
        const sy_part *part = &field->parts[p];
        const int64_t begin = sy_box_offset(&part->box, field->shape_glb);
        const int64_t n = sy_box_numel(&part->box);
        SY_REQUIRE(begin >= 0 && n >= 0 && n <= numel - begin, SY_ERR_INTERNAL,
                   "field '%s' has a part outside its shape", field->name);
        if (n > 0) {
            l->range[l->n_ranges++] = (range){begin, begin + n, part->data};
        }
    }
    if (l->n_ranges > 0) {
        qsort(l->range, (size_t)l->n_ranges, sizeof *l->range, by_begin);
    }
cleanup:
    return st;
}

/* What of elements [first, first + n) belongs to a range. */
static sy_status store_overlap(loader *l, const sy_field *field, sy_dtype file_type, const range *r,
                               const char *h_bytes, int64_t first, int64_t n)
{
    const int64_t begin = r->begin > first ? r->begin : first;
    const int64_t end = r->end < first + n ? r->end : first + n;
    if (begin >= end) {
        return SY_OK;
    }
    return sy__stage_store(
        &l->stage, field->dev, field->dtype,
        r->data + (begin - r->begin) * (int64_t)sy_dtype_bytes(field->dtype), file_type,
        h_bytes + (begin - first) * (int64_t)sy_dtype_bytes(file_type), end - begin);
}

/* A piece that is all of a range's, in its type, can be read right to where it belongs. */
static void *place_of(const loader *l, const sy_field *field, sy_dtype file_type, int32_t open,
                      int64_t first, int64_t n)
{
    const range *r = &l->range[open];
    const bool alone = r->begin <= first && r->end >= first + n &&
                       (open + 1 == l->n_ranges || r[1].begin >= first + n);
    return alone && file_type == field->dtype
               ? sy__stage_view(field->dev,
                                r->data + (first - r->begin) * (int64_t)sy_dtype_bytes(file_type))
               : NULL;
}

static sy_status list_piece(loader *l, int64_t piece, void *h_to)
{
    sy_status st = SY_OK;
    if (l->n_wants == l->want_capacity) {
        const int64_t capacity = 2 * l->want_capacity + 64;
        SY_TRY(sy_realloc(capacity, sizeof *l->want, (void **)&l->want));
        l->want_capacity = capacity;
    }
    l->want[l->n_wants++] = (sy__want){piece, h_to};
cleanup:
    return st;
}

/* Elements [first, first + n) are a piece; ranges from `open` on may have some of them. */
static sy_status take_piece(loader *l, const sy_field *field, sy_dtype file_type, int32_t open,
                            int64_t first, int64_t n)
{
    sy_status st = SY_OK;
    const void *h_bytes = NULL;
    SY_TRY(sy__ahead_next(l->ahead, &h_bytes));
    if (h_bytes == place_of(l, field, file_type, open, first, n)) {
        return SY_OK;
    }
    for (int32_t r = open; r < l->n_ranges && l->range[r].begin < first + n; r++) {
        SY_TRY(store_overlap(l, field, file_type, &l->range[r], h_bytes, first, n));
    }
cleanup:
    return st;
}

/* List, or take, the pieces that the ranges touch. */
static sy_status walk_pieces(loader *l, const sy_field *field, int64_t item_idx)
{
    sy_status st = SY_OK;
    const sy__item *item = &l->cat.item[item_idx];
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(item->dtype);
    int32_t open = 0; /* the ranges before it have ended */
    for (int64_t k = 0; k < item->n_pieces; k++) {
        const sy__piece *piece = &l->cat.piece[item->first_piece + k];
        const int64_t first = piece->offset / elem_bytes, n = piece->length / elem_bytes;
        while (open < l->n_ranges && l->range[open].end <= first) {
            open++;
        }
        if (open == l->n_ranges || l->range[open].begin >= first + n) {
            continue;
        }
        SY_TRY(l->ahead == NULL ? list_piece(l, item->first_piece + k,
                                             place_of(l, field, item->dtype, open, first, n))
                                : take_piece(l, field, item->dtype, open, first, n));
    }
cleanup:
    return st;
}

static sy_status walk_field(void *self, const sy_field *field)
{
    sy_status st = SY_OK;
    loader *l = self;
    const int64_t i = concerns(l, field) ? source_of(l, field) : -1;
    if (i < 0) {
        return SY_OK;
    }
    SY_TRY(collect_ranges(l, field,
                          l->cat.item[i].bytes / (int64_t)sy_dtype_bytes(l->cat.item[i].dtype)));
    SY_TRY(walk_pieces(l, field, i));
cleanup:
    return st;
}

static sy_status walk_state(loader *l, const sy_state *state)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < state->n_owners; i++) {
        SY_TRY(state->owners[i].walk(state->owners[i].self, walk_field, l));
    }
cleanup:
    return st;
}

static sy_status read_state(loader *l, const sy_state *state)
{
    sy_status st = SY_OK;
    SY_TRY(sy__stage_init(&l->stage));
    SY_TRY(walk_state(l, state));
    SY_TRY(sy__ahead_open(l->path, &l->cat, l->want, l->n_wants, &l->ahead));
    SY_TRY(walk_state(l, state));
cleanup:
    return st;
}

static sy_status tell_owners(const sy_state *state)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < state->n_owners; i++) {
        if (state->owners[i].restored) {
            SY_TRY(state->owners[i].restored(state->owners[i].self));
        }
    }
cleanup:
    return st;
}

static sy_status open_catalog(const char *path, sy_comm *io, sy__catalog *cat)
{
    sy__attributes attributes = {0};
    sy_status st = io->rank == 0 ? sy__catalog_open(path, cat, &attributes) : SY_OK;
    sy__attributes_free(&attributes);
    return st;
}

sy_status sy_checkpoint_load(const char *path, const sy_state *state, sy_load_what what,
                             sy_comm *io)
{
    sy_status st = SY_OK;
    loader l = {.path = path, .what = what};
    SY_TRY(sy__catalog_share(&l.cat, io, open_catalog(path, io, &l.cat)));
    SY_TRY(sy_agree(io, check_state(&l, state)));
    SY_TRY(sy_agree(io, read_state(&l, state)));
    SY_TRY(sy_agree(io, tell_owners(state)));
cleanup:
    sy__ahead_close(&l.ahead);
    sy__stage_free(&l.stage);
    sy_free(&l.want);
    sy_free(&l.range);
    sy_free(&l.wanted);
    sy__catalog_free(&l.cat);
    return st;
}
