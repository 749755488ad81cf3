/* checkpoint/: what comes back from a file, what HDF5 and xxHash say about it, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <hdf5.h>
#include <xxhash.h>

#include "core/alloc.h"
#include "core/fault.h"
#include "tests/support/ckpt_state.h"
#include "tests/support/ckpt_world.h"
#include "tests/support/scratch.h"

/* Every type, every number of dimensions, nothing at all, and more than a piece. */
static const ckpt_field all_kinds[] = {
    CKPT_FIELD("model/embed", SY_F32, DEAL_WHOLE, 2, 1200, 1000),
    CKPT_FIELD("model/layers/000/attn/q", SY_BF16, DEAL_FLAT, 2, 7, 5),
    CKPT_FIELD("model/layers/000/moe/experts/gate", SY_F32, DEAL_ROWS, 3, 4, 30, 11),
    CKPT_FIELD("model/norm", SY_F64, DEAL_ALONE, 1, 33),
    CKPT_FIELD("optim/exp_avg/embed", SY_F32, DEAL_STRIPS, 2, 12, 1001),
    CKPT_FIELD("state/counts", SY_I32, DEAL_WHOLE, 4, 2, 3, 2, 2),
    CKPT_FIELD("state/empty", SY_F32, DEAL_WHOLE, 2, 0, 5),
    CKPT_FIELD("state/flags", SY_U8, DEAL_WHOLE, 1, 13),
    CKPT_FIELD("state/step", SY_I64, DEAL_WHOLE, 0, 0),
};
/* A few kB: for tests that make many copies. */
static const ckpt_field few[] = {
    CKPT_FIELD("model/embed", SY_BF16, DEAL_FLAT, 2, 16, 9),
    CKPT_FIELD("model/layers/000/attn_norm", SY_F32, DEAL_WHOLE, 1, 40),
    CKPT_FIELD("optim/exp_avg/embed", SY_F32, DEAL_FLAT, 2, 16, 9),
    CKPT_FIELD("state/step", SY_I64, DEAL_WHOLE, 0, 0),
};
enum { N_ALL = sizeof all_kinds / sizeof all_kinds[0], N_FEW = sizeof few / sizeof few[0] };

static void open_filled(ckpt_state *s, const ckpt_field *fields, int32_t n)
{
    assert_ok(ckpt_open(s, fields, n, 0, 1));
    assert_ok(ckpt_fill(s));
}

/* A file of `few` under this name. */
static void save_few(const char *path)
{
    ckpt_state s;
    open_filled(&s, few, N_FEW);
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    ckpt_close(&s);
}

/* ---- round trips ---- */

static void load_of_a_saved_state_gives_the_same_bits(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "step_00000007.h5", path);
    ckpt_state s;
    open_filled(&s, all_kinds, N_ALL);
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    assert_ok(ckpt_clear(&s));
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io));
    assert_true(ckpt_holds(&s));
    assert_int_equal(s.n_restored, 1);
    ckpt_close(&s);
}

static void load_of_device_fields_gives_the_same_bits(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    ckpt_field fields[N_ALL];
    memcpy(fields, all_kinds, sizeof fields);
    for (int k = 0; k < N_ALL; k++) {
        fields[k].dev = k % 3 == 2 ? NULL : dev;
    }
    ckpt_state s;
    open_filled(&s, fields, N_ALL);
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    assert_ok(ckpt_clear(&s));
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io));
    assert_true(ckpt_holds(&s));
    ckpt_close(&s);
}

/* Whole numbers below 128 are the same in all three types. */
static void load_into_other_float_types_converts(void **state)
{
    static const sy_dtype types[] = {SY_F32, SY_BF16, SY_F64};
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    for (int file_type = 0; file_type < 3; file_type++) {
        ckpt_field fields[2];
        memcpy(fields, all_kinds, sizeof fields);
        fields[0].dtype = fields[1].dtype = types[file_type];
        ckpt_state s;
        open_filled(&s, fields, 2);
        assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
        ckpt_close(&s);
        for (int type = 0; type < 6; type++) {
            fields[0].dtype = fields[1].dtype = types[type % 3];
            fields[0].dev = fields[1].dev = type < 3 ? NULL : dev;
            assert_ok(ckpt_open(&s, fields, 2, 0, 1));
            assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io));
            assert_true(ckpt_holds(&s));
            ckpt_close(&s);
        }
    }
}

/* 1 + 2^-8 + 2^-30 is above the middle of two bf16 numbers, but through a float it is the middle.
 */
static void load_of_f64_into_bf16_rounds_once(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    ckpt_field field = CKPT_FIELD("model/norm", SY_F64, DEAL_WHOLE, 1, 2);
    const double values[] = {1 + 0x1p-8 + 0x1p-30, -0x1.9p-130};
    ckpt_state s;
    assert_ok(ckpt_open(&s, &field, 1, 0, 1));
    memcpy(s.field[0].data, values, sizeof values);
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    ckpt_close(&s);
    field.dtype = SY_BF16;
    assert_ok(ckpt_open(&s, &field, 1, 0, 1));
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io));
    const uint16_t *bits = s.field[0].data;
    assert_int_equal(bits[0], 0x3f81);
    assert_int_equal(bits[1], 0x800c); /* 1.5625 * 2^-130 = 12.5 * 2^-133: a tie, to even */
    ckpt_close(&s);
}

static void load_of_the_model_alone_leaves_the_rest(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    save_few(path);
    ckpt_state s;
    assert_ok(ckpt_open(&s, few, N_FEW, 0, 1));
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_MODEL, mesh->io));
    assert_true(ckpt_field_holds(&s, 0) && ckpt_field_holds(&s, 1));
    const float *moment = s.field[2].data;
    for (int64_t i = 0; i < ckpt_numel(&s.field[2]); i++) {
        assert_true(moment[i] == 0.0F);
    }
    ckpt_close(&s);
}

static void load_of_a_missing_optional_field_leaves_it(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    save_few(path);
    ckpt_field fields[N_FEW + 1];
    memcpy(fields, few, sizeof few);
    fields[N_FEW] = all_kinds[3];
    fields[N_FEW].optional = true;
    ckpt_state s;
    assert_ok(ckpt_open(&s, fields, N_FEW + 1, 0, 1));
    ((double *)s.field[N_FEW].data)[0] = 3.25;
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io));
    assert_true(((double *)s.field[N_FEW].data)[0] == 3.25);
    assert_true(ckpt_field_holds(&s, 0) && ckpt_field_holds(&s, 3));
    ckpt_close(&s);
}

/* The values of `name` in another field's memory. */
static bool field_has_values_of(const ckpt_field *field, const char *name)
{
    ckpt_field as = *field;
    as.name = name;
    void *want = ckpt_expected(&as);
    bool same = memcmp(field->data, want, (size_t)ckpt_bytes(field)) == 0;
    free(want);
    return same;
}

static void load_prefers_masters_where_the_field_asks_for_them(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    const ckpt_field narrow[] = {
        {.name = "model/norm", .dtype = SY_BF16, .n_dim = 1, .shape = {33}},
        {.name = "optim/master/norm", .dtype = SY_F32, .n_dim = 1, .shape = {33}}};
    const ckpt_field wide = {.name = "model/norm",
                             .dtype = SY_F32,
                             .n_dim = 1,
                             .shape = {33},
                             .prefer = "optim/master/norm"};
    ckpt_state s;
    open_filled(&s, narrow, 2);
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    ckpt_close(&s);
    assert_ok(ckpt_open(&s, &wide, 1, 0, 1));
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io));
    assert_true(field_has_values_of(&s.field[0], "optim/master/norm"));
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_MODEL, mesh->io));
    assert_true(field_has_values_of(&s.field[0], "model/norm"));
    ckpt_close(&s);
}

static void load_takes_another_dataset_instead_of_a_missing_one(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    const ckpt_field narrow[] = {
        {.name = "model/norm", .dtype = SY_BF16, .n_dim = 1, .shape = {33}},
        {.name = "optim/master/norm",
         .dtype = SY_F32,
         .n_dim = 1,
         .shape = {33},
         .instead = "model/norm"}};
    const ckpt_field wide = {.name = "model/norm", .dtype = SY_F32, .n_dim = 1, .shape = {33}};
    ckpt_state s;
    open_filled(&s, &wide, 1);
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    ckpt_close(&s);
    assert_ok(ckpt_open(&s, narrow, 2, 0, 1));
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_MODEL, mesh->io));
    assert_true(((float *)s.field[1].data)[0] == 0.0F); /* is not of the model */
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io));
    assert_true(field_has_values_of(&s.field[0], "model/norm"));
    assert_true(field_has_values_of(&s.field[1], "model/norm"));
    ckpt_close(&s);
}

/* ---- what others see ---- */

static void file_read_by_hdf5_holds_the_values(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    ckpt_state s;
    open_filled(&s, all_kinds, N_ALL);
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(file >= 0);
    for (int32_t k = 0; k < N_ALL; k++) {
        const ckpt_field *f = &s.field[k];
        double *values = calloc((size_t)ckpt_numel(f) + 1, sizeof *values);
        hid_t dataset = H5Dopen2(file, f->name, H5P_DEFAULT), space = H5Dget_space(dataset);
        hsize_t dims[SY_MAX_DIM];
        assert_int_equal(H5Sget_simple_extent_dims(space, dims, NULL), f->n_dim);
        for (int32_t d = 0; d < f->n_dim; d++) {
            assert_int_equal(dims[d], f->shape[d]);
        }
        assert_true(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >=
                    0);
        for (int64_t i = 0; i < ckpt_numel(f); i++) {
            double want = ckpt_value(f, i);
            assert_true(values[i] == (f->dtype == SY_U8 ? (double)(uint8_t)(int)want : want));
        }
        free(values);
        H5Sclose(space);
        H5Dclose(dataset);
    }
    H5Fclose(file);
    ckpt_close(&s);
}

typedef struct table_row {
    char dataset[256];
    uint64_t offset, length, xxh3_64;
} table_row;

/* The whole table, as any reader of HDF5 would get it. */
static table_row *read_table(const char *path, hsize_t *n_rows)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t dataset = H5Dopen2(file, "/integrity/xxh3_64", H5P_DEFAULT);
    hid_t space = H5Dget_space(dataset), name = H5Tcopy(H5T_C_S1);
    hid_t row = H5Tcreate(H5T_COMPOUND, sizeof(table_row));
    assert_int_equal(H5Sget_simple_extent_dims(space, n_rows, NULL), 1);
    H5Tset_size(name, 256);
    H5Tinsert(row, "dataset", offsetof(table_row, dataset), name);
    H5Tinsert(row, "offset", offsetof(table_row, offset), H5T_NATIVE_UINT64);
    H5Tinsert(row, "length", offsetof(table_row, length), H5T_NATIVE_UINT64);
    H5Tinsert(row, "xxh3_64", offsetof(table_row, xxh3_64), H5T_NATIVE_UINT64);
    table_row *rows = calloc(*n_rows, sizeof *rows);
    assert_true(H5Dread(dataset, row, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows) >= 0);
    H5Tclose(row);
    H5Tclose(name);
    H5Sclose(space);
    H5Dclose(dataset);
    H5Fclose(file);
    return rows;
}

static void table_holds_the_checksum_of_every_byte(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    ckpt_state s;
    open_filled(&s, all_kinds, N_ALL);
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    hsize_t n_rows = 0, at = 0;
    table_row *rows = read_table(path, &n_rows);
    for (int32_t k = 0; k < N_ALL; k++) { /* the fields stand in the order of their names */
        char *want = ckpt_expected(&s.field[k]);
        uint64_t done = 0, bytes = (uint64_t)ckpt_bytes(&s.field[k]);
        while (done < bytes) {
            assert_true(at < n_rows);
            assert_string_equal(rows[at].dataset, s.field[k].name);
            assert_int_equal(rows[at].offset, done);
            assert_int_equal(rows[at].xxh3_64, XXH3_64bits(want + done, rows[at].length));
            done += rows[at++].length;
        }
        assert_int_equal(done, bytes);
        free(want);
    }
    assert_int_equal(at, n_rows);
    assert_true(n_rows > N_ALL - 1); /* one is empty, one is cut */
    free(rows);
    ckpt_close(&s);
}

/* So that ranks which own whole experts share no piece. */
static void no_piece_holds_bytes_of_two_experts(void **state)
{
    static const ckpt_field experts[] = {
        CKPT_FIELD("model/down", SY_F32, DEAL_WHOLE, 3, 3, 1100, 1000),
        CKPT_FIELD("model/gate", SY_BF16, DEAL_WHOLE, 4, 5, 3, 2, 7),
    };
    static const uint64_t length[] = {4194304, 205696, 4194304, 205696, 4194304, 205696,
                                      84,      84,     84,      84,     84};
    char path[2 * SCRATCH_PATH];
    ckpt_state s;
    hsize_t n_rows = 0;
    scratch_path(state, "a.h5", path);
    open_filled(&s, experts, 2);
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    ckpt_close(&s);
    table_row *rows = read_table(path, &n_rows);
    assert_int_equal(n_rows, sizeof length / sizeof length[0]);
    for (hsize_t i = 0; i < n_rows; i++) {
        assert_int_equal(rows[i].length, length[i]);
    }
    assert_ok(sy_checkpoint_verify(path, NULL, NULL));
    free(rows);
}

static void info_tells_what_was_saved(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    ckpt_state s;
    sy_checkpoint_info info;
    open_filled(&s, all_kinds, N_ALL);
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    assert_ok(sy_checkpoint_info_read(path, &info));
    assert_string_equal(info.kind, "training");
    assert_string_equal(info.config_yaml, "run:\n  name: made-up\n");
    assert_int_equal(info.step, 7);
    assert_int_equal(info.tokens_seen, 700);
    assert_int_equal(strlen(info.created), strlen("2026-01-01T00:00:00Z"));
    assert_true(strncmp(info.producer, "switchyard ", 11) == 0);
    assert_int_equal(info.n_entries, N_ALL);
    for (int32_t k = 0; k < N_ALL; k++) {
        assert_string_equal(info.entry[k].path, s.field[k].name);
        assert_int_equal(info.entry[k].dtype, s.field[k].dtype);
        assert_int_equal(info.entry[k].n_dim, s.field[k].n_dim);
        assert_memory_equal(info.entry[k].shape, s.field[k].shape, sizeof info.entry[k].shape);
    }
    sy_checkpoint_info_free(&info);
    ckpt_close(&s);
}

static void config_beyond_64_kb_comes_back(void **state)
{
    enum { N = 200000 };
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    ckpt_state s;
    sy_checkpoint_info info;
    char *config = malloc(N + 1);
    memset(config, 'c', N);
    config[N] = '\0';
    open_filled(&s, few, N_FEW);
    s.state.config_yaml = config;
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    assert_ok(sy_checkpoint_verify(path, NULL, NULL));
    assert_ok(sy_checkpoint_info_read(path, &info));
    assert_string_equal(info.config_yaml, config);
    sy_checkpoint_info_free(&info);
    ckpt_close(&s);
    free(config);
}

static void equal_states_make_equal_files_but_created(void **state)
{
    char a[2 * SCRATCH_PATH], b[2 * SCRATCH_PATH], now[32], then[32];
    save_few(scratch_path(state, "a.h5", a));
    sy_checkpoint_info info;
    assert_ok(sy_checkpoint_info_read(a, &info));
    snprintf(then, sizeof then, "%s", info.created);
    sy_checkpoint_info_free(&info);
    do {
        save_few(scratch_path(state, "b.h5", b));
        assert_ok(sy_checkpoint_info_read(b, &info));
        snprintf(now, sizeof now, "%s", info.created);
        sy_checkpoint_info_free(&info);
    } while (strcmp(now, then) == 0);
    int64_t most = CKPT_CHECKSUM_BYTES; /* which HDF5 keeps over it */
    for (int32_t i = 0; now[i] != '\0'; i++) {
        most += now[i] != then[i];
    }
    assert_true(ckpt_files_are_alike(a, b, most));
    assert_ok(sy_checkpoint_verify(b, NULL, NULL));
}

enum { N_MANY = 5000 };

static sy_status walk_many(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < N_MANY; i++) {
        char name[64];
        sy_part part = {.data = (int64_t *)self + i, .write = true};
        sy_field field = {.name = name, .dtype = SY_I64, .n_parts = 1, .parts = &part};
        snprintf(name, sizeof name, "state/%d/number", i);
        SY_TRY(emit(to, &field));
    }
cleanup:
    return st;
}

static void thousands_of_datasets_come_back(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    int64_t *numbers = calloc(N_MANY, sizeof *numbers);
    sy_owner owner = {.name = "many", .self = numbers, .walk = walk_many};
    sy_state many = {.owners = &owner, .n_owners = 1, .kind = "model", .config_yaml = ""};
    for (int64_t i = 0; i < N_MANY; i++) {
        numbers[i] = i * i;
    }
    assert_ok(sy_checkpoint_save(path, &many, mesh->io));
    memset(numbers, 0, N_MANY * sizeof *numbers);
    assert_ok(sy_checkpoint_load(path, &many, SY_LOAD_ALL, mesh->io));
    for (int64_t i = 0; i < N_MANY; i++) {
        assert_int_equal(numbers[i], i * i);
    }
    assert_ok(sy_checkpoint_verify(path, NULL, NULL));
    free(numbers);
}

static void blobs_travel_along(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    const sy_blob blobs[] = {{"vocab.json", "{\"a\": 0}", 8}, {"merges.txt", "", 0}};
    ckpt_state s;
    void *bytes = NULL;
    int64_t n = -1;
    open_filled(&s, few, N_FEW);
    s.state.blobs = blobs;
    s.state.n_blobs = 2;
    assert_ok(sy_checkpoint_save(path, &s.state, mesh->io));
    assert_ok(sy_checkpoint_read_blob(path, "vocab.json", &bytes, &n));
    assert_int_equal(n, 8);
    assert_memory_equal(bytes, blobs[0].bytes, 8);
    sy_free(&bytes);
    assert_ok(sy_checkpoint_read_blob(path, "merges.txt", &bytes, &n));
    assert_true(bytes && n == 0);
    sy_free(&bytes);
    assert_ok(sy_checkpoint_read_blob(path, "other", &bytes, &n));
    assert_true(!bytes && n == 0);
    assert_ok(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io)); /* they are not fields */
    ckpt_close(&s);
}

/* ---- another model ---- */

static void expect_refused(const char *path, const ckpt_field *fields, int32_t n, sy_load_what what,
                           const char *words)
{
    ckpt_state s;
    assert_ok(ckpt_open(&s, fields, n, 0, 1));
    assert_status(sy_checkpoint_load(path, &s.state, what, mesh->io), SY_ERR_USAGE, words);
    for (int32_t k = 0; k < n; k++) { /* nothing was read */
        for (int64_t i = 0; i < ckpt_bytes(&s.field[k]); i++) {
            assert_int_equal(((char *)s.field[k].data)[i], 0);
        }
    }
    assert_int_equal(s.n_restored, 0);
    ckpt_close(&s);
}

static void load_of_another_model_is_refused_before_anything_is_read(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    save_few(path);
    ckpt_field fields[N_FEW + 1];
    memcpy(fields, few, sizeof few);
    expect_refused(path, fields, N_FEW - 1, SY_LOAD_ALL, "has a dataset '/state/step'");
    expect_refused(path, fields, 1, SY_LOAD_MODEL, "'/model/layers/000/attn_norm'");
    fields[N_FEW] = all_kinds[1];
    expect_refused(path, fields, N_FEW + 1, SY_LOAD_ALL, "no dataset '/model/layers/000/attn/q'");
    fields[1].shape[0] = 41;
    expect_refused(path, fields, N_FEW, SY_LOAD_MODEL, "has shape [40], not [41]");
    fields[1].shape[0] = 40;
    fields[3].dtype = SY_I32;
    expect_refused(path, fields, N_FEW, SY_LOAD_ALL, "has type i64, which is no i32");
}

/* ---- bugs of a caller ---- */

static sy_status walk_half(void *self, sy_emit *emit, void *to)
{
    sy_part part = {.box = {.n_dim = 1, .shape = {2}}, .data = self, .write = true};
    sy_field field = {.name = "model/norm",
                      .dtype = SY_F32,
                      .n_dim = 1,
                      .n_parts = 1,
                      .shape_glb = {4},
                      .parts = &part};
    return emit(to, &field);
}

static sy_status walk_one_twice(void *self, sy_emit *emit, void *to)
{
    sy_part part[2] = {{.box = {.n_dim = 1, .shape = {2}}, .data = self, .write = true}};
    sy_field field = {.name = "model/norm",
                      .dtype = SY_F32,
                      .n_dim = 1,
                      .n_parts = 2,
                      .shape_glb = {2},
                      .parts = part};
    part[1] = part[0];
    return emit(to, &field);
}

static void elements_that_nobody_or_two_write_fail_the_save(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    float values[4] = {1, 2, 3, 4};
    sy_owner owner = {.name = "half", .self = values, .walk = walk_half};
    sy_state half = {.owners = &owner, .n_owners = 1, .kind = "model", .config_yaml = ""};
    assert_status(sy_checkpoint_save(path, &half, mesh->io), SY_ERR_INTERNAL,
                  "wrote 8 bytes of the 16 at byte 0 of dataset 'model/norm'");
    owner.walk = walk_one_twice;
    assert_status(sy_checkpoint_save(path, &half, mesh->io), SY_ERR_INTERNAL,
                  "wrote 16 bytes of the 8");
    assert_false(scratch_exists(path));
    const sy_owner twice[] = {owner, owner};
    half.owners = twice;
    half.n_owners = 2;
    assert_status(sy_checkpoint_save(path, &half, mesh->io), SY_ERR_INTERNAL,
                  "two datasets are called 'model/norm'");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(load_of_a_saved_state_gives_the_same_bits),
        CASE(load_of_device_fields_gives_the_same_bits),
        CASE(load_into_other_float_types_converts),
        CASE(load_of_f64_into_bf16_rounds_once),
        CASE(load_of_the_model_alone_leaves_the_rest),
        CASE(load_of_a_missing_optional_field_leaves_it),
        CASE(load_prefers_masters_where_the_field_asks_for_them),
        CASE(load_takes_another_dataset_instead_of_a_missing_one),
        CASE(file_read_by_hdf5_holds_the_values),
        CASE(table_holds_the_checksum_of_every_byte),
        CASE(no_piece_holds_bytes_of_two_experts),
        CASE(info_tells_what_was_saved),
        CASE(config_beyond_64_kb_comes_back),
        CASE(equal_states_make_equal_files_but_created),
        CASE(thousands_of_datasets_come_back),
        CASE(blobs_travel_along),
        CASE(load_of_another_model_is_refused_before_anything_is_read),
        CASE(elements_that_nobody_or_two_write_fail_the_save),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, open_world, close_world);
}
