/* The skeleton of a file: all groups, attributes and datasets, each dataset contiguous with its
   space allocated at once and never filled, so that others can write the bytes. No object keeps a
   time, so that equal states make equal files. */
#include "checkpoint/h5_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "checkpoint/file_impl.h"
#include "checkpoint/h5_calls_impl.h"
#include "checkpoint/integrity_impl.h"

/* HDF5 fills each page with metadata or with data, never both: what rank 0 writes of the one, on a
   file system that caches pages on each node, touches nothing that another rank writes of the
   other. Datasets of a page or more begin with one. (Alignment alone takes minutes for thousands of
   datasets: each hole is looked through for the next.) */
enum { PAGE_BYTES = 4096 };

enum { ATTRIBUTES_IN_HEADER = 64, ITEM_ROOM = 8192, FILE_ROOM = 1 << 20, NAME_BYTES = 64 };

typedef struct creator {
    const char *path; /* for messages */
    char image[NAME_BYTES];
    hid_t file, root_list, group_list, dataset_list;
} creator;

static sy_status check(const creator *c, int64_t rc, const char *name)
{
    return sy__h5_check(rc, SY_ERR_IO, "create", c->path, name);
}

static sy_status open_lists(creator *c)
{
    sy_status st = SY_OK;
    c->root_list = H5Pcreate(H5P_FILE_CREATE);
    c->group_list = H5Pcreate(H5P_GROUP_CREATE);
    c->dataset_list = H5Pcreate(H5P_DATASET_CREATE);
    bool ok = H5Pset_file_space_strategy(c->root_list, H5F_FSPACE_STRATEGY_PAGE, false, 1) >= 0 &&
              H5Pset_file_space_page_size(c->root_list, PAGE_BYTES) >= 0 &&
              H5Pset_attr_phase_change(c->root_list, ATTRIBUTES_IN_HEADER, 0) >= 0 &&
              H5Pset_obj_track_times(c->root_list, false) >= 0 &&
              H5Pset_obj_track_times(c->group_list, false) >= 0 &&
              H5Pset_obj_track_times(c->dataset_list, false) >= 0 &&
              H5Pset_layout(c->dataset_list, H5D_CONTIGUOUS) >= 0 &&
              H5Pset_alloc_time(c->dataset_list, H5D_ALLOC_TIME_EARLY) >= 0 &&
              H5Pset_fill_time(c->dataset_list, H5D_FILL_TIME_NEVER) >= 0;
    SY_TRY(check(c, ok ? 0 : -1, NULL));
cleanup:
    return st;
}

static sy_status open_file(creator *c)
{
    sy_status st = SY_OK;
    hid_t access = sy__h5_access(true);
    SY_TRY(check(c, access, NULL));
    c->file = H5Fcreate(c->image, H5F_ACC_TRUNC, c->root_list, access);
    SY_TRY(check(c, c->file, NULL));
cleanup:
    sy__h5_close(&access);
    return st;
}

/* ---- attributes ---- */

/* Takes the type. */
static sy_status put_attribute(const creator *c, const char *name, hid_t type, const void *value)
{
    sy_status st = SY_OK;
    hid_t space = H5Screate(H5S_SCALAR), attribute = H5I_INVALID_HID;
    attribute = H5Acreate2(c->file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    SY_TRY(check(c, attribute, name));
    SY_TRY(check(c, H5Awrite(attribute, type, value), name));
cleanup:
    sy__h5_close(&attribute);
    sy__h5_close(&space);
    sy__h5_close(&type);
    return st;
}

static sy_status put_text(const creator *c, const char *name, const char *text)
{
    sy_status st = SY_OK;
    hid_t type = H5Tcopy(H5T_C_S1);
    bool ok = type >= 0 && H5Tset_size(type, strlen(text) + 1) >= 0 &&
              H5Tset_cset(type, H5T_CSET_UTF8) >= 0;
    SY_TRY(check(c, ok ? 0 : -1, name));
    SY_TRY(put_attribute(c, name, type, text));
cleanup:
    return st;
}

static sy_status put_number(const creator *c, const char *name, int64_t value)
{
    return put_attribute(c, name, H5Tcopy(H5T_STD_I64LE), &value);
}

static sy_status put_attributes(const creator *c, const sy__attributes *a)
{
    sy_status st = SY_OK;
    SY_TRY(put_text(c, "format", SY__FORMAT));
    SY_TRY(put_number(c, "format_version", SY__FORMAT_VERSION));
    SY_TRY(put_text(c, "producer", a->producer));
    SY_TRY(put_text(c, "kind", a->kind));
    SY_TRY(put_text(c, "config", a->config_yaml));
    SY_TRY(put_number(c, "step", a->step));
    SY_TRY(put_number(c, "tokens_seen", a->tokens_seen));
    SY_TRY(put_text(c, "created", a->created));
    SY_TRY(put_number(c, "complete", 0));
cleanup:
    return st;
}

/* ---- datasets ---- */

/* The groups that a path leads through. */
static sy_status make_groups(const creator *c, const char *path)
{
    sy_status st = SY_OK;
    hid_t group = H5I_INVALID_HID;
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        char name[SY__PATH_BYTES] = "";
        memcpy(name, path, (size_t)(slash - path));
        htri_t there = H5Lexists(c->file, name, H5P_DEFAULT);
        SY_TRY(check(c, there, name));
        if (there == 0) {
            group = H5Gcreate2(c->file, name, H5P_DEFAULT, c->group_list, H5P_DEFAULT);
            SY_TRY(check(c, group, name));
            sy__h5_close(&group);
        }
    }
cleanup:
    return st;
}

/* Takes the type. n_dim 0: a scalar. */
static sy_status make_dataset(const creator *c, const char *path, hid_t type, int32_t n_dim,
                              const int64_t *shape, int64_t *offset)
{
    sy_status st = SY_OK;
    hsize_t dims[SY_MAX_DIM];
    hid_t space = H5I_INVALID_HID, dataset = H5I_INVALID_HID;
    for (int32_t d = 0; d < n_dim; d++) {
        dims[d] = (hsize_t)shape[d];
    }
    SY_TRY(make_groups(c, path));
    space = n_dim > 0 ? H5Screate_simple(n_dim, dims, NULL) : H5Screate(H5S_SCALAR);
    dataset = H5Dcreate2(c->file, path, type, space, H5P_DEFAULT, c->dataset_list, H5P_DEFAULT);
    SY_TRY(check(c, dataset, path));
    haddr_t at = H5Dget_offset(dataset);
    *offset = at == HADDR_UNDEF ? 0 : (int64_t)at;
cleanup:
    sy__h5_close(&dataset);
    sy__h5_close(&space);
    sy__h5_close(&type);
    return st;
}

static sy_status make_integrity(const creator *c, sy__catalog *cat)
{
    sy_status st = SY_OK;
    cat->table.bytes = cat->n_pieces * (int64_t)sizeof(sy__row);
    cat->digest.bytes = cat->structure.bytes = (int64_t)sizeof(uint64_t);
    SY_TRY(
        make_dataset(c, SY__TABLE_PATH, sy__h5_row_type(), 1, &cat->n_pieces, &cat->table.offset));
    SY_TRY(make_dataset(c, SY__DIGEST_PATH, H5Tcopy(H5T_STD_U64LE), 0, NULL, &cat->digest.offset));
    SY_TRY(make_dataset(c, SY__STRUCTURE_PATH, H5Tcopy(H5T_STD_U64LE), 0, NULL,
                        &cat->structure.offset));
cleanup:
    return st;
}

static sy_status make_datasets(const creator *c, sy__catalog *cat)
{
    sy_status st = SY_OK;
    for (int64_t i = 0; i < cat->n_items; i++) {
        sy__item *item = &cat->item[i];
        SY_TRY(make_dataset(c, item->path, sy__h5_type(item->dtype), item->n_dim, item->shape,
                            &item->offset));
        SY_REQUIRE(item->bytes == 0 || item->offset > 0, SY_ERR_IO,
                   "HDF5 gave dataset '%s' of '%s' no place", item->path, c->path);
    }
    SY_TRY(make_integrity(c, cat));
cleanup:
    return st;
}

/* ---- the image ---- */

/* A limit on the size of files also holds for the image, where HDF5 would run into it. */
static sy_status check_limit(const char *path, const sy__catalog *cat,
                             const sy__attributes *attributes)
{
    sy_status st = SY_OK;
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    getrlimit(RLIMIT_FSIZE, &limit);
    const int64_t text = 4 * (int64_t)strlen(attributes->config_yaml);
    const int64_t room = sy__catalog_bytes(cat) + cat->n_pieces * (int64_t)sizeof(sy__row) +
                         cat->n_items * ITEM_ROOM + text + FILE_ROOM;
    SY_REQUIRE(limit.rlim_cur == RLIM_INFINITY || (rlim_t)room <= limit.rlim_cur, SY_ERR_IO,
               "files may have %.1f MB here, checkpoint '%s' needs room for up to %.1f MB; raise "
               "the limit (ulimit -f)",
               (double)limit.rlim_cur * 1e-6, path, (double)room * 1e-6);
cleanup:
    return st;
}

static void name_image(int image, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "/proc/self/fd/%d", image);
}

static sy_status build(creator *c, sy__catalog *cat, const sy__attributes *attributes)
{
    sy_status st = SY_OK;
    SY_TRY(sy__h5_begin());
    SY_TRY(open_lists(c));
    SY_TRY(open_file(c));
    SY_TRY(put_attributes(c, attributes));
    SY_TRY(make_datasets(c, cat));
    hid_t file = c->file;
    c->file = H5I_INVALID_HID;
    SY_TRY(check(c, H5Fclose(file), NULL));
cleanup:
    sy__h5_close(&c->file);
    sy__h5_close(&c->dataset_list);
    sy__h5_close(&c->group_list);
    sy__h5_close(&c->root_list);
    return st;
}

sy_status sy__h5_create(const char *path, sy__catalog *cat, const sy__attributes *attributes,
                        int *image)
{
    sy_status st = SY_OK;
    creator c = {.path = path};
    int fd = -1;
    SY_TRY(check_limit(path, cat, attributes));
    fd = memfd_create("checkpoint", MFD_CLOEXEC);
    SY_REQUIRE(fd >= 0, SY_ERR_IO, "cannot make a file in memory for checkpoint '%s': %s", path,
               strerror(errno));
    name_image(fd, c.image);
    SY_TRY(build(&c, cat, attributes));
    SY_TRY(sy__file_bytes(fd, path, &cat->file_bytes));
    *image = fd;
    fd = -1;
cleanup:
    sy__file_close(&fd, path, false);
    return st;
}

sy_status sy__h5_complete(const char *path, int image)
{
    sy_status st = SY_OK;
    const int64_t one = 1;
    char name[NAME_BYTES];
    hid_t access = H5I_INVALID_HID, file = H5I_INVALID_HID, attribute = H5I_INVALID_HID;
    name_image(image, name);
    SY_TRY(sy__h5_begin());
    access = sy__h5_access(true);
    file = H5Fopen(name, H5F_ACC_RDWR, access);
    SY_TRY(sy__h5_check(file, SY_ERR_IO, "open the image of", path, NULL));
    attribute = H5Aopen(file, "complete", H5P_DEFAULT);
    SY_TRY(sy__h5_check(attribute, SY_ERR_IO, "open", path, "complete"));
    SY_TRY(sy__h5_check(H5Awrite(attribute, H5T_NATIVE_INT64, &one), SY_ERR_IO, "write", path,
                        "complete"));
    sy__h5_close(&attribute);
    hid_t closing = file;
    file = H5I_INVALID_HID;
    SY_TRY(sy__h5_check(H5Fclose(closing), SY_ERR_IO, "write", path, NULL));
    SY_TRY(sy__h5_clear_times(path, image));
cleanup:
    sy__h5_close(&attribute);
    sy__h5_close(&file);
    sy__h5_close(&access);
    return st;
}
