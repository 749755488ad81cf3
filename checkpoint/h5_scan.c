/* Reading a file that may be anything. The library is given only files with the superblock that we
   write, whose metadata carries checksums; every object must be as we write it, and every number is
   bounded before it is used. Nothing is followed out of the file. */
#include "checkpoint/h5_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/file_impl.h"
#include "checkpoint/h5_calls_impl.h"
#include "checkpoint/integrity_impl.h"

enum { MAX_ITEMS = 1 << 20, MAX_DEPTH = 16, SUPERBLOCK = 3 };

typedef struct scanner {
    const char *path; /* of the file */
    sy__catalog *cat;
    hid_t file, u64, row, type[SY_N_DTYPES];
    char name[SY__PATH_BYTES]; /* of the object */
    int32_t depth;
    sy_status st; /* carried out of HDF5's iteration */
} scanner;

static sy_status damaged(const scanner *s, const char *why)
{
    return sy_error(SY_ERR_DAMAGED, "checkpoint '%s': '/%s' %s", s->path, s->name, why);
}

static sy_status check(const scanner *s, int64_t rc, const char *name)
{
    return sy__h5_check(rc, SY_ERR_DAMAGED, "read", s->path, name);
}

/* ---- before the library ---- */

static sy_status check_head(const char *path, int64_t *file_bytes)
{
    sy_status st = SY_OK;
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char head[9] = {0};
    int fd = -1;
    SY_TRY(sy__file_open_read(path, &fd, file_bytes));
    SY_REQUIRE(*file_bytes >= (int64_t)sizeof head, SY_ERR_DAMAGED,
               "'%s' is not a checkpoint: it has %" PRId64 " bytes", path, *file_bytes);
    SY_TRY(sy__file_read(fd, path, head, sizeof head, 0));
    SY_REQUIRE(memcmp(head, signature, sizeof signature) == 0, SY_ERR_DAMAGED,
               "'%s' is not a checkpoint: it is not an HDF5 file", path);
    SY_REQUIRE(head[8] == SUPERBLOCK, SY_ERR_DAMAGED,
               "'%s' is not a checkpoint: its HDF5 superblock has version %d, ours %d", path,
               head[8], SUPERBLOCK);
cleanup:
    sy__file_close(&fd, path, false);
    return st;
}

/* ---- datasets ---- */

/* Contiguous, in this file, nothing in between. */
static sy_status check_storage(const scanner *s, hid_t dataset)
{
    sy_status st = SY_OK;
    hid_t list = H5Dget_create_plist(dataset);
    SY_TRY(check(s, list, s->name));
    if (H5Pget_layout(list) != H5D_CONTIGUOUS) {
        SY_TRY(damaged(s, "is not stored in one piece"));
    }
    if (H5Pget_external_count(list) != 0) {
        SY_TRY(damaged(s, "lies in other files"));
    }
    if (H5Pget_nfilters(list) != 0) {
        SY_TRY(damaged(s, "is stored through a filter"));
    }
cleanup:
    sy__h5_close(&list);
    return st;
}

static sy_status get_shape(const scanner *s, hid_t dataset, int64_t elem_bytes, sy__item *item)
{
    sy_status st = SY_OK;
    hsize_t dims[H5S_MAX_RANK];
    hid_t space = H5Dget_space(dataset);
    SY_TRY(check(s, space, s->name));
    int n_dim = H5Sget_simple_extent_ndims(space);
    if (H5Sget_simple_extent_type(space) == H5S_NULL || n_dim < 0 || n_dim > SY_MAX_DIM) {
        SY_TRY(damaged(s, "has a shape that no tensor has"));
    }
    SY_TRY(check(s, H5Sget_simple_extent_dims(space, dims, NULL), s->name));
    item->n_dim = n_dim;
    item->bytes = elem_bytes;
    for (int32_t d = 0; d < n_dim; d++) {
        item->shape[d] = (int64_t)dims[d];
        if (item->shape[d] < 0 ||
            __builtin_mul_overflow(item->bytes, item->shape[d], &item->bytes)) {
            SY_TRY(damaged(s, "has a shape that does not fit the file"));
        }
    }
cleanup:
    sy__h5_close(&space);
    return st;
}

static sy_status get_place(const scanner *s, hid_t dataset, sy__item *item)
{
    sy_status st = SY_OK;
    haddr_t at = H5Dget_offset(dataset);
    if (H5Dget_storage_size(dataset) != (hsize_t)item->bytes) {
        SY_TRY(damaged(s, "has a shape that does not fit its storage"));
    }
    if (item->bytes > 0 && (at == HADDR_UNDEF || at > INT64_MAX)) {
        SY_TRY(damaged(s, "has no place in the file"));
    }
    item->offset = item->bytes > 0 ? (int64_t)at : 0;
cleanup:
    return st;
}

/* Where the dataset is one of those below /integrity, and of its type: where it goes. */
static sy__extent *integrity_extent(const scanner *s, hid_t type, const sy__item *item)
{
    if (strcmp(s->name, SY__TABLE_PATH) == 0 && H5Tequal(type, s->row) > 0 && item->n_dim == 1) {
        return &s->cat->table;
    }
    if (item->n_dim != 0 || H5Tequal(type, s->u64) <= 0) {
        return NULL;
    }
    if (strcmp(s->name, SY__DIGEST_PATH) == 0) {
        return &s->cat->digest;
    }
    return strcmp(s->name, SY__STRUCTURE_PATH) == 0 ? &s->cat->structure : NULL;
}

static sy_status add_dataset(scanner *s, hid_t dataset, hid_t type)
{
    sy_status st = SY_OK;
    sy__item item = {.dtype = SY_N_DTYPES};
    sy__extent *extent = NULL;
    memcpy(item.path, s->name, sizeof item.path);
    SY_TRY(check_storage(s, dataset));
    SY_TRY(get_shape(s, dataset, (int64_t)H5Tget_size(type), &item));
    SY_TRY(get_place(s, dataset, &item));
    if (strncmp(s->name, "integrity/", strlen("integrity/")) == 0) {
        extent = integrity_extent(s, type, &item);
        if (!extent) {
            SY_TRY(damaged(s, "is not known, or has another type or shape than it should"));
        }
        *extent = (sy__extent){item.offset, item.bytes};
        goto cleanup;
    }
    for (int32_t t = 0; t < SY_N_DTYPES && item.dtype == SY_N_DTYPES; t++) {
        item.dtype = H5Tequal(type, s->type[t]) > 0 ? (sy_dtype)t : SY_N_DTYPES;
    }
    if (item.dtype == SY_N_DTYPES || s->cat->n_items >= MAX_ITEMS) {
        SY_TRY(damaged(s, item.dtype == SY_N_DTYPES ? "has a type that no tensor has"
                                                    : "is one dataset too many"));
    }
    SY_TRY(sy__catalog_add(s->cat, &item));
cleanup:
    return st;
}

/* ---- the tree ---- */

static herr_t visit_link(hid_t group, const char *name, const H5L_info_t *info, void *self);

static sy_status visit_object(scanner *s, hid_t object)
{
    sy_status st = SY_OK;
    hid_t type = H5I_INVALID_HID;
    if (H5Iget_type(object) == H5I_DATASET) {
        type = H5Dget_type(object);
        SY_TRY(check(s, type, s->name));
        SY_TRY(add_dataset(s, object, type));
    } else if (H5Iget_type(object) == H5I_GROUP) {
        herr_t rc = H5Literate(object, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit_link, s);
        SY_TRY(s->st);
        SY_TRY(check(s, rc, s->name));
    } else {
        SY_TRY(damaged(s, "is neither group nor dataset"));
    }
cleanup:
    sy__h5_close(&type);
    return st;
}

static sy_status enter_link(scanner *s, hid_t group, const char *name, const H5L_info_t *info)
{
    sy_status st = SY_OK;
    hid_t object = H5I_INVALID_HID;
    if (info->type != H5L_TYPE_HARD) {
        SY_TRY(damaged(s, "is a link that leads elsewhere"));
    }
    if (s->depth >= MAX_DEPTH) {
        SY_TRY(damaged(s, "lies too deep"));
    }
    object = H5Oopen(group, name, H5P_DEFAULT);
    SY_TRY(check(s, object, s->name));
    s->depth++;
    SY_TRY(visit_object(s, object));
    s->depth--;
cleanup:
    sy__h5_close(&object);
    return st;
}

static bool is_plain(const char *name)
{
    const unsigned char *c = (const unsigned char *)name;
    while (*c >= 0x20 && *c != 0x7f) {
        c++;
    }
    return *c == '\0';
}

/* For H5Literate. What lies below /x belongs to others. */
static herr_t visit_link(hid_t group, const char *name, const H5L_info_t *info, void *self)
{
    scanner *s = self;
    size_t at = strlen(s->name), n = strlen(name);
    if (s->depth == 0 && strcmp(name, "x") == 0) {
        s->cat->foreign = true;
        return 0;
    }
    if (at + n + 2 > sizeof s->name || !is_plain(name)) {
        s->st = damaged(s, "holds a name that is too long or cannot be printed");
        return -1;
    }
    snprintf(s->name + at, sizeof s->name - at, "%s%s", at > 0 ? "/" : "", name);
    s->st = enter_link(s, group, name, info);
    memset(s->name + at, 0, sizeof s->name - at);
    return s->st == SY_OK ? 0 : -1;
}

static sy_status scan_tree(scanner *s)
{
    sy_status st = SY_OK;
    herr_t rc = H5Literate(s->file, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit_link, s);
    SY_TRY(s->st);
    SY_TRY(check(s, rc, "/"));
    SY_REQUIRE(s->cat->digest.bytes > 0 && s->cat->structure.bytes > 0, SY_ERR_DAMAGED,
               "checkpoint '%s' lacks its checksums ('/integrity')", s->path);
    SY_TRY(sy__catalog_sort(s->cat, SY_ERR_DAMAGED));
    SY_TRY(sy__extents_check(s->path, s->cat));
cleanup:
    return st;
}

/* ---- the file ---- */

static sy_status open_file(scanner *s)
{
    sy_status st = SY_OK;
    hid_t access = sy__h5_access(false);
    s->file = H5Fopen(s->path, H5F_ACC_RDONLY, access);
    SY_TRY(sy__h5_check(s->file, SY_ERR_DAMAGED, "open checkpoint", s->path, NULL));
    s->u64 = H5Tcopy(H5T_STD_U64LE);
    s->row = sy__h5_row_type();
    for (int32_t t = 0; t < SY_N_DTYPES; t++) {
        s->type[t] = sy__h5_type((sy_dtype)t);
    }
cleanup:
    sy__h5_close(&access);
    return st;
}

static void close_file(scanner *s)
{
    for (int32_t t = 0; t < SY_N_DTYPES; t++) {
        sy__h5_close(&s->type[t]);
    }
    sy__h5_close(&s->row);
    sy__h5_close(&s->u64);
    sy__h5_close(&s->file);
}

sy_status sy__h5_scan(const char *path, sy__catalog *cat, sy__attributes *attributes)
{
    sy_status st = SY_OK;
    sy__catalog found = {0};
    sy__attributes read = {0};
    scanner s = {.path = path, .cat = &found};
    SY_TRY(check_head(path, &found.file_bytes));
    SY_TRY(sy__h5_begin());
    SY_TRY(open_file(&s));
    SY_TRY(sy__h5_attributes(path, s.file, &read));
    SY_TRY(scan_tree(&s));
    *cat = found;
    *attributes = read;
    found = (sy__catalog){0};
    read = (sy__attributes){0};
cleanup:
    close_file(&s);
    sy__attributes_free(&read);
    sy__catalog_free(&found);
    return st;
}
