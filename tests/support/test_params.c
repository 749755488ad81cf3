/* The oracles here know nothing of boxes, runs and segments: they walk coordinates. */
#include "tests/support/test_params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "tests/support/test_device.h"

int32_t test_layouts(test_layout out[TEST_MAX_LAYOUTS])
{
    int32_t n = 0, size = mpi_test_world()->size;
    for (int32_t ep = 1; ep <= size; ep++) {
        if (size % ep == 0 && TEST_E % ep == 0) {
            for (int32_t zero = 0; zero <= 2; zero++) {
                out[n++] = (test_layout){ep, zero};
            }
        }
    }
    return n;
}

/* ---- the model ---- */

typedef struct line {
    const char *name;
    int64_t shape[3];
    int32_t n_dim, piece_dim;
    const char *pieces[3];
    int64_t extents[3];
    bool wide, expert, decay;
    sy_init init;
} line;

static const line dense_lines[] = {
    {"embed", {50, 12}, 2, 0, {0}, {0}, false, false, true, SY_INIT_NORMAL},
    {"layers/000/norm", {12}, 1, 0, {0}, {0}, false, false, false, SY_INIT_ONES},
    {"layers/000/qkv",
     {20, 12},
     2,
     0,
     {"layers/000/q", "layers/000/k", "layers/000/v"},
     {12, 5, 3},
     false,
     false,
     true,
     SY_INIT_NORMAL},
    {"layers/000/qkv_bias",
     {20},
     1,
     0,
     {"layers/000/q_bias", "layers/000/k_bias", "layers/000/v_bias"},
     {12, 5, 3},
     false,
     false,
     false,
     SY_INIT_ZEROS},
    {"layers/000/router", {TEST_E, 12}, 2, 0, {0}, {0}, true, false, true, SY_INIT_NORMAL},
    {"layers/000/experts/gate_up",
     {TEST_E, 10, 7},
     3,
     1,
     {"layers/000/experts/gate", "layers/000/experts/up"},
     {5, 5},
     false,
     true,
     true,
     SY_INIT_NORMAL},
    {"layers/000/experts/down", {TEST_E, 7, 5}, 3, 0, {0}, {0}, false, true, true, SY_INIT_NORMAL},
    {"layers/001/experts/gate_up",
     {TEST_E, 10, 7},
     3,
     1,
     {"layers/001/experts/gate", "layers/001/experts/up"},
     {4, 6},
     false,
     true,
     true,
     SY_INIT_NORMAL},
    {"layers/001/experts/down", {TEST_E, 7, 5}, 3, 0, {0}, {0}, false, true, true, SY_INIT_NORMAL},
    {"layers/002/down", {30, 8}, 2, 0, {0}, {0}, false, false, true, SY_INIT_NORMAL},
    {"layers/002/experts/down", {TEST_E, 7, 5}, 3, 0, {0}, {0}, false, true, true, SY_INIT_NORMAL},
    {"layers/003/down", {9, 8}, 2, 0, {0}, {0}, false, false, true, SY_INIT_NORMAL},
    {"layers/003/experts/down", {TEST_E, 7, 5}, 3, 0, {0}, {0}, false, true, true, SY_INIT_NORMAL},
    {"layers/004/down", {30, 8}, 2, 0, {0}, {0}, false, false, true, SY_INIT_NORMAL},
    {"layers/004/experts/down", {TEST_E, 5, 5}, 3, 0, {0}, {0}, false, true, true, SY_INIT_NORMAL},
    {"layers/005/down", {30, 8}, 2, 0, {0}, {0}, false, false, true, SY_INIT_NORMAL},
    {"layers/005/experts/down", {TEST_E, 7, 5}, 3, 0, {0}, {0}, false, true, true, SY_INIT_NORMAL},
    {"layers/006/down", {30, 8}, 2, 0, {0}, {0}, false, false, true, SY_INIT_NORMAL},
    {"layers/006/experts/down", {TEST_E, 7, 5}, 3, 0, {0}, {0}, false, true, true, SY_INIT_NORMAL},
    {"norm", {13}, 1, 0, {0}, {0}, false, false, false, SY_INIT_ONES},
    {"head", {50, 12}, 2, 0, {0}, {0}, false, false, true, SY_INIT_NORMAL},
};
enum { N_LINES = sizeof dense_lines / sizeof dense_lines[0] };

static sy_param_spec spec_of(const line *l)
{
    sy_param_spec s = {
        .wide = l->wide, .n_dim = l->n_dim, .piece_dim = l->piece_dim, .shard_dim = -1};
    snprintf(s.name, sizeof s.name, "%s", l->name);
    memcpy(s.shape_glb, l->shape, sizeof l->shape);
    for (int i = 0; i < 3 && l->pieces[i]; i++, s.n_pieces++) {
        snprintf(s.piece[i].name, sizeof s.piece[i].name, "%s", l->pieces[i]);
        s.piece[i].extent = l->extents[i];
    }
    s.replicas = SY_DENSE;
    if (l->expert) {
        s.shard_by = SY_EP;
        s.shard_dim = 0;
        s.replicas = SY_EDP;
    }
    s.init = l->init;
    s.init_std = 0.02;
    s.trainable = true;
    s.decay = l->decay;
    return s;
}

sy_status test_model_declare(sy_params *params)
{
    sy_status st = SY_OK;
    for (int i = 0; i < N_LINES; i++) {
        sy_param *param = NULL;
        sy_param_spec spec = spec_of(&dense_lines[i]);
        SY_TRY(sy_params_declare(params, &spec, &param));
    }
cleanup:
    return st;
}

double test_initial(const char *piece_name, int64_t index)
{
    sy_init init = SY_INIT_NORMAL;
    for (int i = 0; i < N_LINES; i++) {
        const line *l = &dense_lines[i];
        bool is_it = strcmp(l->name, piece_name) == 0;
        for (int k = 0; k < 3 && l->pieces[k]; k++) {
            is_it = is_it || strcmp(l->pieces[k], piece_name) == 0;
        }
        init = is_it ? l->init : init;
    }
    if (init != SY_INIT_NORMAL) {
        return init == SY_INIT_ONES ? 1.0 : 0.0;
    }
    for (uint64_t again = 0;; again++) {
        uint64_t at = (uint64_t)index + again * ((uint64_t)1 << 48);
        double x = sy_rng_normal(TEST_SEED, sy_rng_stream_of(piece_name), at);
        if (fabs(x) <= 3) {
            return 0.02 * x;
        }
    }
}

void test_model_open(test_model *m, test_layout layout, sy_dtype compute, const char *freeze)
{
    *m = (test_model){0};
    assert_all_ok(test_device_open(&m->dev));
    assert_all_ok(sy_stream_create(m->dev, "compute", &m->compute));
    assert_all_ok(sy_stream_create(m->dev, "comm", &m->comm));
    sy_mesh_spec mesh = {.ep = layout.ep, .n_experts = TEST_E, .dev = m->dev};
    assert_all_ok(sy_mesh_create(mpi_test_world(), &mesh, &m->mesh));
    assert_all_ok(sy_params_create(&m->params));
    assert_all_ok(test_model_declare(m->params));
    if (freeze) {
        assert_all_ok(sy_params_freeze(m->params, &freeze, 1));
    }
    sy_bind_spec bind = {.mesh = m->mesh,
                         .dev = m->dev,
                         .compute = compute == SY_N_DTYPES ? m->dev->wide : compute,
                         .zero = layout.zero,
                         .bucket_bytes = 2048};
    assert_all_ok(sy_params_bind(m->params, &bind));
}

void test_model_close(test_model *m)
{
    sy_params_destroy(&m->params);
    sy_mesh_destroy(&m->mesh);
    sy_stream_destroy(&m->comm);
    sy_stream_destroy(&m->compute);
    sy_device_close(&m->dev);
}

/* ---- the file ---- */

static test_field *field_of(test_file *file, const sy_field *field)
{
    int64_t n = 1;
    if (file->cursor < file->n) {
        test_field *f = &file->field[file->cursor++];
        file->n_wrong += strcmp(f->name, field->name) != 0;
        return f;
    }
    test_field *f = &file->field[file->n++];
    file->cursor = file->n;
    snprintf(f->name, sizeof f->name, "%s", field->name);
    for (int32_t d = 0; d < field->n_dim; d++) {
        n *= field->shape_glb[d];
    }
    f->dtype = field->dtype;
    f->n = n;
    f->data = calloc((size_t)n, sizeof *f->data);
    f->n_writes = calloc((size_t)n, sizeof *f->n_writes);
    f->n_reads = calloc((size_t)n, sizeof *f->n_reads);
    return f;
}

/* Where the i-th element of a box stands in the whole tensor. */
static int64_t place_of(const sy_box *box, const int64_t *shape, int64_t i)
{
    int64_t coord[SY_MAX_DIM] = {0}, place = 0;
    for (int32_t d = box->n_dim - 1; d >= 0; d--) {
        coord[d] = box->start[d] + i % box->shape[d];
        i /= box->shape[d];
    }
    for (int32_t d = 0; d < box->n_dim; d++) {
        place = place * shape[d] + coord[d];
    }
    return place;
}

typedef enum file_use { WRITE, CHECK, LOAD } file_use;

static sy_status use_part(test_file *file, test_field *f, const sy_field *field,
                          const sy_part *part, file_use use)
{
    sy_status st = SY_OK;
    const int64_t n = sy_box_numel(&part->box), bytes = n * (int64_t)sy_dtype_bytes(field->dtype);
    double *wide = calloc((size_t)n + 1, sizeof *wide),
           *rounded = calloc((size_t)n + 1, sizeof *rounded);
    SY_TRY(test_download(file->stream, rounded, part->data, bytes));
    sy_convert(SY_F64, wide, field->dtype, rounded, n);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = place_of(&part->box, field->shape_glb, i);
        if (use == WRITE && part->write) {
            f->data[at] += wide[i];
            f->n_writes[at]++;
        }
        file->n_wrong += use == CHECK && wide[i] != f->data[at];
        f->n_reads[at] += use != WRITE;
        wide[i] = f->data[at];
    }
    if (use == LOAD) {
        sy_convert(field->dtype, rounded, SY_F64, wide, n);
        SY_TRY(test_upload(file->stream, part->data, rounded, bytes));
    }
cleanup:
    free(rounded);
    free(wide);
    return st;
}

static sy_status use_field(test_file *file, const sy_field *field, file_use use)
{
    sy_status st = SY_OK;
    test_field *f = field_of(file, field);
    for (int32_t p = 0; p < field->n_parts; p++) {
        SY_TRY(use_part(file, f, field, &field->parts[p], use));
    }
cleanup:
    return st;
}

sy_status test_file_write(void *to, const sy_field *field)
{
    return use_field(to, field, WRITE);
}

sy_status test_file_check(void *to, const sy_field *field)
{
    return use_field(to, field, CHECK);
}

sy_status test_file_load(void *to, const sy_field *field)
{
    return use_field(to, field, LOAD);
}

bool test_file_merge(test_file *file, sy_comm *host)
{
    bool ok = file->n_wrong == 0;
    for (int32_t k = 0; k < file->n; k++) {
        test_field *f = &file->field[k];
        int64_t mine = (int64_t)sy_rng_stream_of(f->name), root = mine;
        ok = sy_host_broadcast(host, &root, sizeof root, 0, "field name") == SY_OK && ok;
        ok = ok && root == mine;
        ok = sy_host_all_reduce(host, f->data, f->n, SY_F64, SY_SUM, "field") == SY_OK && ok;
        ok = sy_host_all_reduce(host, f->n_writes, f->n, SY_I32, SY_SUM, "writes") == SY_OK && ok;
        for (int64_t i = 0; i < f->n; i++) {
            ok = ok && f->n_writes[i] == 1;
        }
    }
    file->cursor = 0;
    return ok;
}

void test_file_free(test_file *file)
{
    for (int32_t k = 0; k < file->n; k++) {
        free(file->field[k].n_reads);
        free(file->field[k].n_writes);
        free(file->field[k].data);
    }
    *file = (test_file){0};
}
