/* checkpoint/: what comes back from a file, what HDF5 and xxHash say about it, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <hdf5.h>

#include "core/alloc.h"
#include "core/fault.h"
#include "tests/support/ckpt_state.h"
#include "tests/support/ckpt_world.h"
#include "tests/support/scratch.h"

/* A few kB: for tests that make many copies. */
static const ckpt_field few[] = {
    CKPT_FIELD("model/embed", SY_BF16, DEAL_FLAT, 2, 16, 9),
    CKPT_FIELD("model/layers/000/attn_norm", SY_F32, DEAL_WHOLE, 1, 40),
    CKPT_FIELD("optim/exp_avg/embed", SY_F32, DEAL_FLAT, 2, 16, 9),
    CKPT_FIELD("state/step", SY_I64, DEAL_WHOLE, 0, 0),
};
/* More than a piece. */
static const ckpt_field large[] = {
    CKPT_FIELD("model/embed", SY_F32, DEAL_WHOLE, 2, 1200, 1000),
    CKPT_FIELD("state/step", SY_I64, DEAL_WHOLE, 0, 0),
};
enum { N_FEW = sizeof few / sizeof few[0], N_LARGE = sizeof large / sizeof large[0] };

/* A file of `few` under this name. */
static void save_few(const char *path)
{
    ckpt_state s;
    assert_ok(ckpt_open(&s, few, N_FEW, 0, 1));
    assert_ok(ckpt_fill(&s));
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    ckpt_close(&s);
}

/* ---- not a checkpoint ---- */

static void expect_damaged(const char *path, sy_status want, const char *words)
{
    sy_checkpoint_info info;
    ckpt_state s;
    void *bytes = NULL;
    int64_t n = 0;
    assert_ok(ckpt_open(&s, few, N_FEW, 0, 1));
    assert_status(sy_checkpoint_info_read(path, &info), want, words);
    assert_status(sy_checkpoint_verify(path, NULL, NULL), want, words);
    assert_status(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io), want, words);
    assert_status(sy_checkpoint_read_blob(path, "a", &bytes, &n), want, words);
    ckpt_close(&s);
}

static void what_is_no_checkpoint_is_refused(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    expect_damaged(path, SY_ERR_USAGE, "there is no checkpoint");
    expect_damaged(((scratch *)*state)->dir, SY_ERR_USAGE, "is not a file");
    scratch_write(path, "");
    expect_damaged(path, SY_ERR_DAMAGED, "it has 0 bytes");
    scratch_write(path, "once upon a time there was a file");
    expect_damaged(path, SY_ERR_DAMAGED, "it is not an HDF5 file");
    H5Fclose(H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
    expect_damaged(path, SY_ERR_DAMAGED, "superblock");
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Fclose(H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access));
    H5Pclose(access);
    expect_damaged(path, SY_ERR_DAMAGED, "no attribute 'format'");
}

static hid_t open_to_change(const char *path)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, access);
    H5Pclose(access);
    assert_true(file >= 0);
    return file;
}

static void set_number(const char *path, const char *name, int64_t value)
{
    hid_t file = open_to_change(path), attribute = H5Aopen(file, name, H5P_DEFAULT);
    assert_true(H5Awrite(attribute, H5T_NATIVE_INT64, &value) >= 0);
    H5Aclose(attribute);
    H5Fclose(file);
}

static void changed_attributes_are_refused(void **state)
{
    char path[2 * SCRATCH_PATH];
    save_few(scratch_path(state, "a.h5", path));
    set_number(path, "format_version", 2);
    expect_damaged(path, SY_ERR_DAMAGED, "format_version 2, this program reads 1");
    set_number(path, "format_version", 1);
    set_number(path, "complete", 0);
    expect_damaged(path, SY_ERR_DAMAGED, "is not complete");
    set_number(path, "complete", 1);
    assert_ok(sy_checkpoint_verify(path, NULL, NULL)); /* as it was, byte for byte */
    set_number(path, "step", -1);
    expect_damaged(path, SY_ERR_DAMAGED, "attribute 'step' is -1");
    set_number(path, "step", 8);
    assert_status(sy_checkpoint_verify(path, NULL, NULL), SY_ERR_DAMAGED, "digest");
}

/* An attribute in the place of that of this name; takes type and space. */
static void put_attribute(const char *path, const char *name, hid_t type, hid_t space,
                          const void *value)
{
    hid_t file = open_to_change(path);
    H5Adelete(file, name);
    hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(attribute >= 0 && (value == NULL || H5Awrite(attribute, type, value) >= 0));
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
    H5Fclose(file);
}

static hid_t text_type(size_t bytes)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, bytes);
    return type;
}

static void attributes_of_another_kind_are_refused(void **state)
{
    enum { ABSURD = (16 << 20) + 1 };
    char path[2 * SCRATCH_PATH], *text = calloc(ABSURD, 1);
    const hsize_t two = 2;
    memset(text, 'a', ABSURD - 1);
    const struct {
        const char *name;
        hid_t type, space;
        const void *value;
        const char *words;
    } cases[] = {
        {"step", text_type(9), H5Screate(H5S_SCALAR), text, "attribute 'step' is not an integer"},
        {"step", H5Tcopy(H5T_IEEE_F64LE), H5Screate(H5S_SCALAR), text, "'step' is not an integer"},
        {"step", H5Tcopy(H5T_STD_I64LE), H5Screate_simple(1, &two, NULL), text,
         "attribute 'step' is not one value"},
        {"step", H5Tcopy(H5T_STD_I64LE), H5Screate(H5S_NULL), NULL, "'step' is not one value"},
        {"format_version", text_type(2), H5Screate(H5S_SCALAR), "1", "'format_version' is not"},
        {"complete", H5Tcopy(H5T_STD_U8LE), H5Screate(H5S_SCALAR), "\1", "'complete' is not"},
        {"kind", H5Tcopy(H5T_STD_I64LE), H5Screate(H5S_SCALAR), text, "'kind' is not a text"},
        {"kind", text_type(H5T_VARIABLE), H5Screate(H5S_SCALAR), &text, "'kind' is not a text"},
        {"kind", text_type(257), H5Screate(H5S_SCALAR), text, "'kind' is not a text of 1 to 256"},
        {"kind", text_type(5), H5Screate(H5S_SCALAR), "\033[2J", "'kind' cannot be printed"},
        {"format", text_type(9), H5Screate(H5S_SCALAR), "othermod", "its format is 'othermod'"},
        {"config", text_type(ABSURD), H5Screate(H5S_SCALAR), text,
         "'config' is not a text of 1 to"},
    };
    scratch_path(state, "a.h5", path);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        save_few(path);
        put_attribute(path, cases[i].name, cases[i].type, cases[i].space, cases[i].value);
        expect_damaged(path, SY_ERR_DAMAGED, cases[i].words);
    }
    free(text);
}

/* ---- files made to hurt ---- */

static void add_dataset(hid_t file, const char *name, hid_t type, hid_t space, hid_t list)
{
    hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    assert_true(dataset >= 0);
    H5Dclose(dataset);
    H5Sclose(space);
    H5Pclose(list);
}

static hid_t space_of(hsize_t n)
{
    return H5Screate_simple(1, &n, NULL);
}

static void add_virtual(hid_t file)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE), space = space_of(4);
    H5Pset_virtual(list, space, "/etc/passwd", "/a", space);
    add_dataset(file, "model/extra", H5T_IEEE_F32LE, space, list);
}

static void add_external(hid_t file)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(list, "/etc/passwd", 0, 16);
    add_dataset(file, "model/extra", H5T_IEEE_F32LE, space_of(4), list);
}

static void add_filtered(hid_t file)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk = 4;
    H5Pset_chunk(list, 1, &chunk);
    H5Pset_fletcher32(list);
    add_dataset(file, "model/extra", H5T_IEEE_F32LE, space_of(4), list);
}

static void add_other_type(hid_t file)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY);
    add_dataset(file, "model/extra", H5T_IEEE_F32BE, space_of(4), list);
}

/* Space that is not allocated before something is written. */
static void add_unallocated(hid_t file)
{
    add_dataset(file, "model/extra", H5T_IEEE_F32LE, space_of((hsize_t)1 << 60),
                H5Pcreate(H5P_DATASET_CREATE));
}

static void add_too_many_dimensions(hid_t file)
{
    hsize_t dims[] = {1, 2, 1, 2, 1};
    add_dataset(file, "model/extra", H5T_IEEE_F32LE, H5Screate_simple(5, dims, NULL),
                H5Pcreate(H5P_DATASET_CREATE));
}

static void add_external_link(hid_t file)
{
    H5Lcreate_external("/etc/passwd", "/a", file, "model/extra", H5P_DEFAULT, H5P_DEFAULT);
}

static void add_soft_link(hid_t file)
{
    H5Lcreate_soft("/model/embed", file, "model/extra", H5P_DEFAULT, H5P_DEFAULT);
}

static void add_soft_loop(hid_t file)
{
    H5Lcreate_soft("/model", file, "model/extra", H5P_DEFAULT, H5P_DEFAULT);
}

static void add_hard_link(hid_t file)
{
    H5Lcreate_hard(file, "model/embed", file, "model/extra", H5P_DEFAULT, H5P_DEFAULT);
}

static void add_loop(hid_t file)
{
    H5Lcreate_hard(file, "model", file, "model/extra", H5P_DEFAULT, H5P_DEFAULT);
}

/* Groups in which eight names each lead to the next: 8^13 ways through a few kB. */
static void add_web(hid_t file)
{
    char name[64], again[64];
    for (int depth = 0; depth < 13; depth++) {
        snprintf(name, sizeof name, "extra%.*s", 2 * depth, "/0/0/0/0/0/0/0/0/0/0/0/0/0");
        H5Gclose(H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
        for (int way = 1; depth > 0 && way < 8; way++) {
            snprintf(again, sizeof again, "%.*s%d", (int)strlen(name) - 1, name, way);
            H5Lcreate_hard(file, name, file, again, H5P_DEFAULT, H5P_DEFAULT);
        }
    }
}

static void add_named_type(hid_t file)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    H5Tcommit2(file, "model/extra", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Tclose(type);
}

static void add_to_integrity(hid_t file)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY);
    add_dataset(file, "integrity/extra", H5T_STD_U64LE, H5Screate(H5S_SCALAR), list);
}

static void remove_digest(hid_t file)
{
    H5Ldelete(file, "integrity/digest", H5P_DEFAULT);
}

static void add_bad_name(hid_t file)
{
    H5Lcreate_hard(file, "model/embed", file, "model/a\033[2J", H5P_DEFAULT, H5P_DEFAULT);
}

static void add_long_name(hid_t file)
{
    char name[1024] = "model/";
    memset(name + 6, 'n', sizeof name - 7);
    H5Lcreate_hard(file, "model/embed", file, name, H5P_DEFAULT, H5P_DEFAULT);
}

static void files_made_to_hurt_are_refused(void **state)
{
    static const struct {
        void (*change)(hid_t file);
        const char *words;
    } cases[] = {
        {add_virtual, "'/model/extra' is not stored in one piece"},
        {add_external, "'/model/extra' lies in other files"},
        {add_filtered, "'/model/extra' is not stored in one piece"},
        {add_other_type, "'/model/extra' has a type that no tensor has"},
        {add_unallocated, "'/model/extra' has"},
        {add_too_many_dimensions, "'/model/extra' has a shape that no tensor has"},
        {add_external_link, "'/model/extra' is a link that leads elsewhere"},
        {add_soft_link, "'/model/extra' is a link that leads elsewhere"},
        {add_soft_loop, "'/model/extra' is a link that leads elsewhere"},
        {add_hard_link, "two datasets share byte"},
        {add_loop, "lies too deep"},
        {add_web, "is described by more than the file can hold"},
        {add_named_type, "'/model/extra' is neither group nor dataset"},
        {add_to_integrity, "'/integrity/extra' is not known"},
        {remove_digest, "lacks its checksums"},
        {add_bad_name, "'/model' holds a name that is too long or cannot be printed"},
        {add_long_name, "'/model' holds a name that is too long or cannot be printed"},
    };
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        save_few(path);
        hid_t file = open_to_change(path);
        cases[i].change(file);
        assert_true(H5Fclose(file) >= 0);
        expect_damaged(path, SY_ERR_DAMAGED, cases[i].words);
    }
}

static void extra_dataset_is_not_covered_by_the_table(void **state)
{
    char path[2 * SCRATCH_PATH];
    save_few(scratch_path(state, "a.h5", path));
    hid_t file = open_to_change(path), list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY);
    add_dataset(file, "model/extra", H5T_IEEE_F32LE, space_of(4), list);
    H5Fclose(file);
    assert_status(sy_checkpoint_verify(path, NULL, NULL), SY_ERR_DAMAGED,
                  "table of checksums does not fit dataset 'model/extra'");
}

static void dataset_of_another_shape_or_type_is_refused(void **state)
{
    static const struct {
        int rank;
        hsize_t dims[2];
        bool whole_numbers;
    } cases[] = {{2, {5, 8}, false}, {1, {40}, true}, {1, {20}, false}, {0, {0}, false}};
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        save_few(path);
        hid_t file = open_to_change(path), list = H5Pcreate(H5P_DATASET_CREATE);
        H5Ldelete(file, "model/layers/000/attn_norm", H5P_DEFAULT);
        H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY);
        add_dataset(file, "model/layers/000/attn_norm",
                    cases[i].whole_numbers ? H5T_STD_I32LE : H5T_IEEE_F32LE,
                    H5Screate_simple(cases[i].rank, cases[i].dims, NULL), list);
        H5Fclose(file);
        assert_status(sy_checkpoint_verify(path, NULL, NULL), SY_ERR_DAMAGED,
                      cases[i].rank == 0 || cases[i].dims[0] == 20 ? "model/layers/000/attn_norm"
                                                                   : "digest");
    }
}

/* What is below /x is nobody's business: neither its types nor where its links lead. */
static void groups_below_x_are_allowed(void **state)
{
    char path[2 * SCRATCH_PATH];
    save_few(scratch_path(state, "a.h5", path));
    hid_t file = open_to_change(path);
    H5Gclose(H5Gcreate2(file, "x", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    add_dataset(file, "x/notes", H5T_IEEE_F32BE, space_of(4), H5Pcreate(H5P_DATASET_CREATE));
    H5Lcreate_external("/nowhere", "/a", file, "x/link", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    ckpt_state s;
    assert_ok(sy_checkpoint_verify(path, NULL, NULL));
    assert_ok(ckpt_open(&s, few, N_FEW, 0, 1));
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io));
    assert_true(ckpt_holds(&s));
    ckpt_close(&s);
}

static void flip(const char *path, int64_t offset)
{
    int fd = open(path, O_RDWR);
    unsigned char byte = 0;
    assert_int_equal(pread(fd, &byte, 1, offset), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
    close(fd);
}

static int64_t place_of(const char *path, const char *dataset_path)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t dataset = H5Dopen2(file, dataset_path, H5P_DEFAULT);
    int64_t at = (int64_t)H5Dget_offset(dataset);
    H5Dclose(dataset);
    H5Fclose(file);
    return at;
}

static void x_as_dataset(hid_t file)
{
    add_dataset(file, "x", H5T_IEEE_F32LE, space_of(4), H5Pcreate(H5P_DATASET_CREATE));
}

static void x_elsewhere(hid_t file)
{
    H5Lcreate_external("/nowhere", "/a", file, "x", H5P_DEFAULT, H5P_DEFAULT);
}

static void receipt_as_group(hid_t file)
{
    H5Gclose(H5Gcreate2(file, "x", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Gclose(H5Gcreate2(file, "x/receipt", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    add_dataset(file, "x/receipt/of", H5T_IEEE_F32LE, space_of(4), H5Pcreate(H5P_DATASET_CREATE));
}

static void receipt_of_others(hid_t file)
{
    H5Gclose(H5Gcreate2(file, "x", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY);
    add_dataset(file, "x/receipt", H5T_STD_U8LE, space_of(4), list);
}

static void receipt_through_a_filter(hid_t file)
{
    const hsize_t chunk = 4;
    H5Gclose(H5Gcreate2(file, "x", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(list, 1, &chunk);
    add_dataset(file, "x/receipt", H5T_STD_U8LE, space_of(4), list);
}

/* Whoever else uses the name has no receipt and does no harm. */
static void receipts_of_others_are_ignored(void **state)
{
    void (*const change[])(hid_t) = {x_as_dataset, x_elsewhere, receipt_as_group, receipt_of_others,
                                     receipt_through_a_filter};
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    for (size_t i = 0; i < sizeof change / sizeof change[0]; i++) {
        char *text = NULL;
        ckpt_state s;
        save_few(path);
        hid_t file = open_to_change(path);
        change[i](file);
        H5Fclose(file);
        assert_ok(sy_checkpoint_verify(path, NULL, NULL));
        assert_ok(sy_checkpoint_read_receipt(path, &text));
        assert_null(text);
        assert_ok(ckpt_open(&s, few, N_FEW, 0, 1));
        assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io));
        ckpt_close(&s);
    }
}

static void save_with_room(const char *path, int64_t bytes)
{
    ckpt_state s;
    assert_ok(ckpt_open(&s, few, N_FEW, 0, 1));
    assert_ok(ckpt_fill(&s));
    s.state.receipt_bytes = bytes;
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    ckpt_close(&s);
}

static void receipt_is_kept_and_checked(void **state)
{
    enum { ROOM = 5 << 20, LENGTH = ROOM - 7 };
    char path[2 * SCRATCH_PATH], *text = malloc(ROOM + 2), *read = NULL;
    scratch_path(state, "a.h5", path);
    save_with_room(path, ROOM);
    assert_ok(sy_checkpoint_verify(path, NULL, NULL));
    assert_ok(sy_checkpoint_read_receipt(path, &read));
    assert_string_equal(read, "");
    sy_free(&read);
    memset(text, 'r', ROOM + 1);
    text[ROOM + 1] = '\0';
    assert_status(sy_checkpoint_write_receipt(path, text), SY_ERR_INTERNAL, "no room");
    text[LENGTH] = '\0';
    assert_ok(sy_checkpoint_write_receipt(path, text));
    assert_ok(sy_checkpoint_verify(path, NULL, NULL));
    assert_ok(sy_checkpoint_read_receipt(path, &read));
    assert_string_equal(read, text);
    sy_free(&read);
    flip(path, place_of(path, "x/receipt") + ROOM - 1);
    assert_status(sy_checkpoint_verify(path, NULL, NULL), SY_ERR_DAMAGED, "x/receipt");
    flip(path, place_of(path, "x/receipt") + ROOM - 1);
    hid_t file = open_to_change(path); /* others may add to it */
    add_dataset(file, "x/notes", H5T_IEEE_F32BE, space_of(4), H5Pcreate(H5P_DATASET_CREATE));
    H5Fclose(file);
    assert_ok(sy_checkpoint_verify(path, NULL, NULL));
    assert_ok(sy_checkpoint_read_receipt(path, &read));
    assert_string_equal(read, text);
    sy_free(&read);
    free(text);
}

/* The bytes around datasets are looked at as in any file. */
static void file_with_a_receipt_keeps_its_structure(void **state)
{
    char path[2 * SCRATCH_PATH];
    save_with_room(scratch_path(state, "a.h5", path), 100);
    hid_t file = open_to_change(path);
    H5Gclose(H5Gcreate2(file, "tokenizer", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Fclose(file);
    assert_status(sy_checkpoint_verify(path, NULL, NULL), SY_ERR_DAMAGED, "outside the datasets");
}

static void damage_is_told_with_dataset_and_bytes(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    ckpt_state s;
    assert_ok(ckpt_open(&s, large, N_LARGE, 0, 1));
    assert_ok(ckpt_fill(&s));
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    flip(path, place_of(path, "model/embed") + (4 << 20) + 5); /* the second piece */
    flip(path, place_of(path, "state/step"));
    static const char words[] = "bytes 4194304 to 4799999 of dataset '/model/embed' are damaged";
    assert_status(sy_checkpoint_verify(path, NULL, NULL), SY_ERR_DAMAGED, words);
    assert_status(sy_checkpoint_load(path, &s.state, SY_LOAD_MODEL, mesh->io), SY_ERR_DAMAGED,
                  words);
    flip(path, place_of(path, "model/embed") + (4 << 20) + 5);
    assert_status(sy_checkpoint_verify(path, NULL, NULL), SY_ERR_DAMAGED, "'/state/step'");
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_MODEL, mesh->io)); /* does not touch it */
    ckpt_close(&s);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(what_is_no_checkpoint_is_refused),
        CASE(changed_attributes_are_refused),
        CASE(attributes_of_another_kind_are_refused),
        CASE(files_made_to_hurt_are_refused),
        CASE(extra_dataset_is_not_covered_by_the_table),
        CASE(dataset_of_another_shape_or_type_is_refused),
        CASE(groups_below_x_are_allowed),
        CASE(receipts_of_others_are_ignored),
        CASE(receipt_is_kept_and_checked),
        CASE(file_with_a_receipt_keeps_its_structure),
        CASE(damage_is_told_with_dataset_and_bytes),
    };
    return cmocka_run_group_tests_name("checkpoint_hostile", tests, open_world, close_world);
}
