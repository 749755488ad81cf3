/* The tree of a file that may be anything: every object must be as we write it. Nothing is followed
   out of the file. */
#include <stdio.h>
#include <string.h>

#include "checkpoint/file_impl.h"
#include "checkpoint/h5_impl.h"
#include "checkpoint/h5_read_impl.h"
#include "checkpoint/integrity_impl.h"

enum { MAX_ITEMS = 1 << 20, MAX_DEPTH = 16, TYPE_BYTES = 256 };

typedef struct scanner {
    sy__h5_file file;
    sy__catalog *cat;
    char name[SY__PATH_BYTES]; /* of the object */
    int32_t depth;
} scanner;

static sy_status damaged(const scanner *s, const char *why)
{
    return sy__h5_damaged(&s->file, why);
}

/* ---- what an object is ---- */

/* Its messages, as far as they matter. */
typedef struct object {
    scanner *s;
    bool is_group, is_shared, has_space, has_layout, is_external, is_filtered;
    sy__item item;                /* shape and place */
    int64_t numel, storage_bytes; /* where it is stored in one piece */
    bool in_one_piece;
    unsigned char type[TYPE_BYTES]; /* [type_bytes] as the message has it; 0: none */
    int64_t type_bytes;
    unsigned char heap[16]; /* of a group: see sy__h5_dense */
} object;

/* Version, flags, a number if bit 0 is set; then the addresses. */
static sy_status take_links(object *o, const sy__h5_message *m)
{
    sy_status st = SY_OK;
    const int64_t at = m->n >= 2 && m->body[1] & 1 ? 10 : 2;
    if (m->n < at + (int64_t)sizeof o->heap) {
        SY_TRY(damaged(o->s, "has a header that is cut short"));
    }
    memcpy(o->heap, m->body + at, sizeof o->heap);
    o->is_group = true;
cleanup:
    return st;
}

/* Version 3 or 4, class; of what lies in one piece: place and bytes. */
static void take_layout(object *o, const sy__h5_message *m)
{
    enum { CONTIGUOUS = 1 };
    o->has_layout = true;
    o->in_one_piece =
        m->n >= 18 && (m->body[0] == 3 || m->body[0] == 4) && m->body[1] == CONTIGUOUS;
    if (o->in_one_piece) {
        o->item.offset = sy__h5_number(m->body + 2, 8);
        o->storage_bytes = sy__h5_number(m->body + 10, 8);
    }
}

static void take_type(object *o, const sy__h5_message *m)
{
    o->type_bytes = m->n < TYPE_BYTES ? m->n : TYPE_BYTES;
    memcpy(o->type, m->body, (size_t)o->type_bytes);
}

static sy_status take_message(void *self, const sy__h5_message *m)
{
    object *o = self;
    switch (m->type) {
    case SY__H5_LINKS:
        return take_links(o, m);
    case SY__H5_SPACE:
        o->has_space = sy__h5_get_space(m, &o->item, &o->numel);
        break;
    case SY__H5_TYPE:
        take_type(o, m);
        break;
    case SY__H5_LAYOUT:
        take_layout(o, m);
        break;
    case SY__H5_EXTERNAL:
        o->is_external = true;
        break;
    case SY__H5_FILTERS:
        o->is_filtered = true;
        break;
    default:
        return SY_OK; /* attributes, times, fill values: nothing that changes what it holds */
    }
    o->is_shared = o->is_shared || (m->flags & SY__H5_SHARED);
    return SY_OK;
}

/* ---- datasets ---- */

/* In one piece, in this file, nothing in between. */
static sy_status check_storage(const object *o)
{
    sy_status st = SY_OK;
    if (o->is_external) {
        SY_TRY(damaged(o->s, "lies in other files"));
    }
    if (!o->in_one_piece) {
        SY_TRY(damaged(o->s, "is not stored in one piece"));
    }
    if (o->is_filtered) {
        SY_TRY(damaged(o->s, "is stored through a filter"));
    }
    if (!o->has_space) {
        SY_TRY(damaged(o->s, "has a shape that no tensor has"));
    }
    if (o->is_shared) {
        SY_TRY(damaged(o->s, "has a type that no tensor has"));
    }
cleanup:
    return st;
}

static sy_status set_place(object *o, int64_t elem_bytes)
{
    sy_status st = SY_OK;
    sy__item *item = &o->item;
    if (__builtin_mul_overflow(o->numel, elem_bytes, &item->bytes) ||
        item->bytes > o->s->file.bytes) {
        SY_TRY(damaged(o->s, "has a shape that does not fit the file"));
    }
    if (item->bytes != o->storage_bytes) {
        SY_TRY(damaged(o->s, "has a shape that does not fit its storage"));
    }
    if (item->bytes > 0 && (item->offset <= 0 || item->offset > o->s->file.bytes)) {
        SY_TRY(damaged(o->s, "has no place in the file"));
    }
    item->offset = item->bytes > 0 ? item->offset : 0;
cleanup:
    return st;
}

/* One of those below /integrity, of its type and shape. */
static sy_status add_integrity(object *o)
{
    sy_status st = SY_OK;
    sy__catalog *cat = o->s->cat;
    const char *name = o->s->name;
    const bool row = strcmp(name, SY__TABLE_PATH) == 0 && o->item.n_dim == 1 &&
                     sy__h5_is_row(o->type, o->type_bytes);
    const bool sum = o->item.n_dim == 0 && sy__h5_is_u64(o->type, o->type_bytes);
    sy__extent *extent = row                                            ? &cat->table
                         : sum && strcmp(name, SY__DIGEST_PATH) == 0    ? &cat->digest
                         : sum && strcmp(name, SY__STRUCTURE_PATH) == 0 ? &cat->structure
                                                                        : NULL;
    if (!extent) {
        SY_TRY(damaged(o->s, "is not known, or has another type or shape than it should"));
    }
    SY_TRY(set_place(o, row ? (int64_t)sizeof(sy__row) : (int64_t)sizeof(uint64_t)));
    *extent = (sy__extent){o->item.offset, o->item.bytes};
cleanup:
    return st;
}

static sy_status add_dataset(object *o)
{
    sy_status st = SY_OK;
    scanner *s = o->s;
    memcpy(o->item.path, s->name, sizeof o->item.path);
    SY_TRY(check_storage(o));
    if (strncmp(s->name, "integrity/", strlen("integrity/")) == 0) {
        return add_integrity(o);
    }
    o->item.dtype = sy__h5_get_type(o->type, o->type_bytes);
    if (o->item.dtype == SY_N_DTYPES) {
        SY_TRY(damaged(s, "has a type that no tensor has"));
    }
    SY_TRY(set_place(o, (int64_t)sy_dtype_bytes(o->item.dtype)));
    if (s->cat->n_items >= MAX_ITEMS) {
        SY_TRY(damaged(s, "is one dataset too many"));
    }
    SY_TRY(sy__catalog_add(s->cat, &o->item));
cleanup:
    return st;
}

/* ---- the tree ---- */

static sy_status visit_object(scanner *s, int64_t at);

static bool is_plain(const unsigned char *name, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (name[i] < 0x20 || name[i] == 0x7f || name[i] == '/') {
            return false;
        }
    }
    return n > 0;
}

static bool is_x(const scanner *s, size_t end, const unsigned char *name, int64_t n)
{
    return s->depth == 0 && end == 0 && n == 1 && name[0] == 'x';
}

/* Below /x, or to be: our receipt is known, whatever else stands there belongs to others. */
static bool is_foreign(const scanner *s, const unsigned char *name, int64_t n)
{
    static const char known[] = "receipt";
    return strncmp(s->name, "x/", 2) == 0 ||
           (strcmp(s->name, "x") == 0 &&
            (n != (int64_t)sizeof known - 1 || memcmp(name, known, sizeof known - 1) != 0));
}

/* /x itself: what is not as we write it, and what that costs, is not the file's fault. */
static void enter_x(scanner *s, int64_t at)
{
    const int64_t budget = s->file.budget, n_items = s->cat->n_items;
    s->name[0] = 'x';
    s->depth = 1;
    if (at < 0 || visit_object(s, at) != SY_OK) {
        sy_error_clear();
        s->cat->foreign = true;
    }
    s->cat->foreign = s->cat->foreign || s->cat->n_items == n_items;
    s->depth = 0;
    memset(s->name, 0, sizeof s->name);
    s->file.budget = budget;
}

/* An object of this name in the group that is being read; at < 0: it is not in this file. */
static sy_status enter(scanner *s, const unsigned char *name, int64_t n, int64_t at)
{
    sy_status st = SY_OK;
    const size_t end = strlen(s->name);
    if (is_x(s, end, name, n)) {
        enter_x(s, at);
        return SY_OK;
    }
    if (is_foreign(s, name, n)) {
        s->cat->foreign = true;
        return SY_OK;
    }
    if (!is_plain(name, n) || (int64_t)end + n + 2 > (int64_t)sizeof s->name) {
        SY_TRY(damaged(s, "holds a name that is too long or cannot be printed"));
    }
    snprintf(s->name + end, sizeof s->name - end, "%s%.*s", end > 0 ? "/" : "", (int)n,
             (const char *)name);
    if (at < 0) {
        SY_TRY(damaged(s, "is a link that leads elsewhere"));
    }
    if (s->depth >= MAX_DEPTH) {
        SY_TRY(damaged(s, "lies too deep"));
    }
    s->depth++;
    SY_TRY(visit_object(s, at));
    s->depth--;
    memset(s->name + end, 0, sizeof s->name - end);
cleanup:
    return st;
}

/* Version, flags, what the flags tell of, length of the name, name, address. Specification,
   IV.A.2.g "The Link Message". */
static sy_status take_link(void *self, const sy__h5_message *m)
{
    enum { HAS_ORDER = 0x04, HAS_KIND = 0x08, HAS_CHARSET = 0x10, HARD = 0 };
    sy_status st = SY_OK;
    scanner *s = self;
    if (m->type != SY__H5_LINK) {
        return SY_OK;
    }
    const int32_t flags = m->n >= 2 ? m->body[1] : 0, length_bytes = 1 << (flags & 3);
    const int64_t kind_at = 2, length_at = kind_at + (flags & HAS_KIND ? 1 : 0) +
                                           (flags & HAS_ORDER ? 8 : 0) +
                                           (flags & HAS_CHARSET ? 1 : 0);
    const int64_t name_at = length_at + length_bytes;
    const int64_t n = m->n >= name_at ? sy__h5_number(m->body + length_at, length_bytes) : m->n;
    if (n > m->n - name_at || m->flags & SY__H5_SHARED) {
        SY_TRY(damaged(s, "holds a link that is cut short"));
    }
    const bool hard = (flags & HAS_KIND) == 0 || m->body[kind_at] == HARD;
    if (hard && m->n - name_at - n < 8) {
        SY_TRY(damaged(s, "holds a link that is cut short"));
    }
    SY_TRY(enter(s, m->body + name_at, n, hard ? sy__h5_number(m->body + name_at + n, 8) : -1));
cleanup:
    return st;
}

static sy_status visit_object(scanner *s, int64_t at)
{
    sy_status st = SY_OK;
    object o = {.s = s};
    SY_TRY(sy__h5_messages(&s->file, at, take_message, &o));
    if (o.is_group) {
        SY_TRY(sy__h5_messages(&s->file, at, take_link, s));
        SY_TRY(sy__h5_dense(&s->file, o.heap, SY__H5_TREE_LINKS, take_link, s));
    } else if (o.has_layout && strcmp(s->name, "x") != 0) {
        SY_TRY(add_dataset(&o));
    } else {
        SY_TRY(damaged(s, "is neither group nor dataset"));
    }
cleanup:
    return st;
}

static sy_status scan_tree(scanner *s)
{
    sy_status st = SY_OK;
    SY_TRY(visit_object(s, s->file.root));
    SY_REQUIRE(s->cat->digest.bytes > 0 && s->cat->structure.bytes > 0, SY_ERR_DAMAGED,
               "checkpoint '%s' lacks its checksums ('/integrity')", s->file.path);
    SY_TRY(sy__catalog_sort(s->cat, s->file.path));
    SY_TRY(sy__extents_check(s->file.path, s->cat));
cleanup:
    return st;
}

sy_status sy__h5_scan(const char *path, sy__catalog *cat, sy__attributes *attributes)
{
    sy_status st = SY_OK;
    sy__catalog found = {0};
    sy__attributes read = {0};
    scanner s = {.cat = &found};
    int fd = -1;
    SY_TRY(sy__file_open_read(path, &fd, &found.file_bytes));
    SY_TRY(sy__h5_attach(fd, path, &s.file));
    SY_TRY(sy__h5_attributes(&s.file, &read));
    s.file.object = s.name;
    SY_TRY(scan_tree(&s));
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
