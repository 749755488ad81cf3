/* A file whose every checksum holds may still lack an expert: what a configuration asks for, and
   what a file has, dataset by dataset. The files are written with one thing wrong at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/scratch.h"
#include "core/alloc.h"
#include "train/complete.h"
#include "train/run.h"

typedef struct dataset {
    const char *path;
    sy_dtype dtype;
    int32_t n_dim;
    int64_t shape[SY_MAX_DIM];
} dataset;

enum { V = 256, H = 8, F = 6, E = 3, N_Q = 8, N_KV = 4 };

static const char config[] =
    "model: {vocab_size: 256, hidden: 8, layers: 2, heads: 2, kv_heads: 1, "
    "ffn_hidden: 6, seq_len: 16}\n"
    "moe: {experts: 3, top_k: 2, layers: [1]}\n"
    "train: {freeze: [embed]}\n";

/* As docs/INTERFACES.md section 5 lists them: layer 0 dense, layer 1 routed, the embedding frozen.
 */
static const dataset model[] = {
    {"embed", SY_F32, 2, {V, H}},
    {"layers/000/attn_norm", SY_F32, 1, {H}},
    {"layers/000/attn/q", SY_F32, 2, {N_Q, H}},
    {"layers/000/attn/k", SY_F32, 2, {N_KV, H}},
    {"layers/000/attn/v", SY_F32, 2, {N_KV, H}},
    {"layers/000/attn/o", SY_F32, 2, {H, N_Q}},
    {"layers/000/ffn_norm", SY_F32, 1, {H}},
    {"layers/000/mlp/gate", SY_F32, 2, {F, H}},
    {"layers/000/mlp/up", SY_F32, 2, {F, H}},
    {"layers/000/mlp/down", SY_F32, 2, {H, F}},
    {"layers/001/attn_norm", SY_F32, 1, {H}},
    {"layers/001/attn/q", SY_F32, 2, {N_Q, H}},
    {"layers/001/attn/k", SY_F32, 2, {N_KV, H}},
    {"layers/001/attn/v", SY_F32, 2, {N_KV, H}},
    {"layers/001/attn/o", SY_F32, 2, {H, N_Q}},
    {"layers/001/ffn_norm", SY_F32, 1, {H}},
    {"layers/001/moe/router", SY_F32, 2, {E, H}},
    {"layers/001/moe/experts/gate", SY_F32, 3, {E, F, H}},
    {"layers/001/moe/experts/up", SY_F32, 3, {E, F, H}},
    {"layers/001/moe/experts/down", SY_F32, 3, {E, H, F}},
    {"norm", SY_F32, 1, {H}},
    {"head", SY_F32, 2, {V, H}},
};
enum { N_MODEL = sizeof model / sizeof model[0], MAX = 4 * N_MODEL + 16 };

typedef struct file {
    dataset set[MAX];
    char path[MAX][128];
    int32_t n;
    const char *kind, *config;
} file;

static void add(file *f, const char *tree, const dataset *like)
{
    f->set[f->n] = *like;
    snprintf(f->path[f->n], sizeof f->path[0], "%s%s", tree, like->path);
    f->n++;
}

/* All that there should be. */
static void whole(file *f, bool training)
{
    static const char *const counter[] = {"state/step", "state/data_step", "state/tokens_seen",
                                          "state/skipped_steps", "state/optim_t"};
    *f = (file){.kind = training ? "training" : "model", .config = config};
    for (int i = 0; i < N_MODEL; i++) {
        add(f, "model/", &model[i]);
        if (training && i > 0) {
            add(f, "optim/exp_avg/", &model[i]);
            add(f, "optim/exp_avg_sq/", &model[i]);
        }
    }
    for (int i = 0; i < 5 && training; i++) {
        add(f, "", &(dataset){counter[i], SY_I64, 1, {1}});
    }
    add(f, "", &(dataset){"tokenizer/a.json", SY_U8, 1, {3}});
    add(f, "", &(dataset){"x/mine", SY_F32, 1, {3}});
}

static int by_path(const void *a, const void *b)
{
    const sy_checkpoint_entry *x = a, *y = b;
    return strcmp(x->path, y->path);
}

/* What the check says of the file's list of datasets. */
static sy_status check(file *f)
{
    sy_checkpoint_entry entry[MAX];
    char kind[16], yaml[2 * sizeof config];
    snprintf(kind, sizeof kind, "%s", f->kind);
    snprintf(yaml, sizeof yaml, "%s", f->config);
    sy_checkpoint_info info = {
        .kind = kind, .config_yaml = yaml, .entry = entry, .n_entries = f->n};
    for (int32_t i = 0; i < f->n; i++) {
        entry[i] = (sy_checkpoint_entry){
            .path = f->path[i], .dtype = f->set[i].dtype, .n_dim = f->set[i].n_dim};
        memcpy(entry[i].shape, f->set[i].shape, sizeof entry[i].shape);
    }
    qsort(entry, (size_t)f->n, sizeof *entry, by_path);
    return sy_checkpoint_complete("a.h5", &info);
}

static int32_t find(const file *f, const char *path)
{
    for (int32_t i = 0; i < f->n; i++) {
        if (strcmp(f->path[i], path) == 0) {
            return i;
        }
    }
    fail_msg("no dataset '%s' in the test's own list", path);
    return -1;
}

static void expect_damaged(file *f, const char *path)
{
    char quoted[160];
    snprintf(quoted, sizeof quoted, "'/%s'", path);
    assert_int_equal(check(f), SY_ERR_DAMAGED);
    if (strstr(sy_error_message(), quoted) == NULL) {
        fail_msg("'%s' does not name %s", sy_error_message(), quoted);
    }
    sy_error_clear();
}

static void whole_files_are_complete(void **state)
{
    (void)state;
    file f;
    for (int training = 0; training < 2; training++) {
        whole(&f, training);
        assert_int_equal(check(&f), SY_OK);
        for (int32_t i = 0; i < N_MODEL; i++) { /* any float type is as good */
            f.set[i].dtype = f.set[i].dtype == SY_F32 ? SY_F64 : f.set[i].dtype;
        }
        assert_int_equal(check(&f), SY_OK);
    }
}

static void every_dataset_that_is_missing_is_named(void **state)
{
    (void)state;
    for (int training = 0; training < 2; training++) {
        file f, less;
        whole(&f, training);
        for (int32_t i = 0; i < f.n - 2; i++) {
            less = f;
            snprintf(less.path[i], sizeof less.path[i], "x/gone");
            expect_damaged(&less, f.path[i]);
        }
    }
}

static void every_wrong_shape_or_type_is_named(void **state)
{
    (void)state;
    file f, wrong;
    whole(&f, true);
    for (int32_t i = 0; i < f.n - 2; i++) {
        wrong = f;
        wrong.set[i].shape[0]--;
        expect_damaged(&wrong, f.path[i]);
        wrong = f;
        wrong.set[i].n_dim++;
        wrong.set[i].shape[wrong.set[i].n_dim - 1] = 1;
        expect_damaged(&wrong, f.path[i]);
        wrong = f;
        wrong.set[i].dtype = f.set[i].dtype == SY_I64 ? SY_F32 : SY_I32;
        expect_damaged(&wrong, f.path[i]);
    }
}

/* Older files lack these. */
static void what_may_be_there_has_its_shape_and_type(void **state)
{
    static const dataset more[] = {{"state/schedule_start", SY_I64, 1, {1}},
                                   {"state/loads", SY_I64, 2, {2, E}}};
    (void)state;
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
        file f;
        whole(&f, true);
        add(&f, "", &more[i]);
        assert_int_equal(check(&f), SY_OK);
        f.set[f.n - 1].shape[0]++;
        expect_damaged(&f, more[i].path);
        f.set[f.n - 1] = more[i];
        f.set[f.n - 1].dtype = SY_F32;
        expect_damaged(&f, more[i].path);
    }
}

/* A table of ids that is made from the data may be missing: files of before have none. */
static void table_from_the_data_may_be_missing(void **state)
{
    static const char hash[] =
        "model: {vocab_size: 256, hidden: 8, layers: 2, heads: 2, kv_heads: 1, "
        "ffn_hidden: 6, seq_len: 16}\n"
        "moe: {experts: 3, top_k: 1, layers: [1], router: hash, aux_loss_coeff: 0, "
        "z_loss_coeff: 0}\n";
    static const dataset table = {"layers/001/moe/state", SY_F32, 1, {V + 1}};
    (void)state;
    file f;
    whole(&f, false);
    f.config = hash;
    snprintf(f.path[find(&f, "model/layers/001/moe/router")], sizeof f.path[0], "x/gone");
    assert_int_equal(check(&f), SY_OK);
    add(&f, "model/", &table);
    assert_int_equal(check(&f), SY_OK);
    f.set[f.n - 1].shape[0]--;
    expect_damaged(&f, "model/layers/001/moe/state");
}

static void what_is_one_too_many_is_named(void **state)
{
    static const char *const extra[] = {"model/layers/002/attn_norm", "model/layers/000/moe/router",
                                        "optim/exp_avg/embed", "optim/other", "state/other"};
    (void)state;
    file f;
    for (size_t i = 0; i < sizeof extra / sizeof extra[0]; i++) {
        whole(&f, true);
        add(&f, "", &(dataset){extra[i], SY_F32, 1, {H}});
        expect_damaged(&f, extra[i]);
    }
    whole(&f, false);
    add(&f, "optim/exp_avg/", &model[1]);
    expect_damaged(&f, "optim/exp_avg/layers/000/attn_norm");
}

static void narrow_values_need_their_masters(void **state)
{
    (void)state;
    file f;
    whole(&f, true);
    f.set[find(&f, "model/embed")].dtype = SY_BF16; /* frozen: its value is all there is */
    assert_int_equal(check(&f), SY_OK);
    f.set[find(&f, "model/norm")].dtype = SY_BF16;
    expect_damaged(&f, "optim/master/norm");
    add(&f, "optim/master/", &model[find(&f, "model/norm") > 0 ? N_MODEL - 2 : 0]);
    assert_int_equal(check(&f), SY_OK);
}

/* Two whole models and their prior. */
static void ensembles_are_complete_where_every_member_is(void **state)
{
    (void)state;
    file f = {.kind = "ensemble", .config = config}, wrong;
    for (int i = 0; i < N_MODEL; i++) {
        add(&f, "members/0/model/", &model[i]);
        add(&f, "members/1/model/", &model[i]);
    }
    add(&f, "", &(dataset){"members/prior", SY_F64, 1, {2}});
    assert_int_equal(check(&f), SY_OK);
    for (int32_t i = 0; i < f.n; i++) {
        wrong = f;
        snprintf(wrong.path[i], sizeof wrong.path[i], "x/gone");
        expect_damaged(&wrong, f.path[i]);
    }
    wrong = f;
    wrong.set[f.n - 1].shape[0] = 1; /* a member too many */
    assert_int_equal(check(&wrong), SY_ERR_DAMAGED);
    assert_non_null(strstr(sy_error_message(), "/members/1/model/"));
    sy_error_clear();
    wrong.set[f.n - 1].shape[0] = 3; /* one too few */
    expect_damaged(&wrong, "members/2/model/embed");
    wrong = f;
    add(&wrong, "model/", &model[0]);
    expect_damaged(&wrong, "model/embed");
}

/* ---- the search ---- */

static sy_status walk_model(void *self, sy_emit *emit, void *to)
{
    static float zeros[V * H];
    const int *n = self;
    char name[128];
    for (int i = 0; i < *n; i++) {
        sy_box box = {.n_dim = model[i].n_dim};
        memcpy(box.shape, model[i].shape, sizeof box.shape);
        snprintf(name, sizeof name, "model/%s", model[i].path);
        sy_part part = {.box = box, .data = zeros, .write = true};
        sy_field field = {
            .name = name, .dtype = SY_F32, .n_dim = box.n_dim, .n_parts = 1, .parts = &part};
        memcpy(field.shape_glb, box.shape, sizeof field.shape_glb);
        assert_int_equal(emit(to, &field), SY_OK);
    }
    return SY_OK;
}

/* A file of the first n of the model. */
static void save(const char *path, int n, sy_comm *world)
{
    sy_owner owner = {.name = "model", .self = &n, .walk = walk_model};
    sy_state all = {.owners = &owner, .n_owners = 1, .kind = "model", .config_yaml = config};
    assert_int_equal(sy_checkpoint_save(path, &all, world), SY_OK);
}

static void checkpoint_that_lacks_a_dataset_is_passed_over(void **state)
{
    char older[2 * SCRATCH_PATH], newer[2 * SCRATCH_PATH];
    sy_comm *world = NULL;
    char *found = NULL;
    assert_int_equal(sy_comm_world(false, &world), SY_OK);
    scratch_path(state, "step_00000001.h5", older);
    save(scratch_path(state, "step_00000002.h5", newer), N_MODEL - 1, world);
    assert_int_equal(sy_checkpoint_verify(newer, world, NULL), SY_OK); /* its sums hold */
    assert_int_equal(sy_find_checkpoint(((scratch *)*state)->dir, world, &found), SY_ERR_DAMAGED);
    sy_error_clear();
    save(older, N_MODEL, world);
    assert_int_equal(sy_find_checkpoint(((scratch *)*state)->dir, world, &found), SY_OK);
    assert_string_equal(found, older);
    sy_free(&found);
    sy_comm_destroy(&world);
}

static void unknown_kind_is_damaged(void **state)
{
    (void)state;
    file f;
    whole(&f, false);
    f.kind = "soup";
    assert_int_equal(check(&f), SY_ERR_DAMAGED);
    assert_non_null(strstr(sy_error_message(), "'soup'"));
    sy_error_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_files_are_complete),
        cmocka_unit_test(every_dataset_that_is_missing_is_named),
        cmocka_unit_test(every_wrong_shape_or_type_is_named),
        cmocka_unit_test(what_may_be_there_has_its_shape_and_type),
        cmocka_unit_test(table_from_the_data_may_be_missing),
        cmocka_unit_test(what_is_one_too_many_is_named),
        cmocka_unit_test(narrow_values_need_their_masters),
        cmocka_unit_test(ensembles_are_complete_where_every_member_is),
        cmocka_unit_test_setup_teardown(checkpoint_that_lacks_a_dataset_is_passed_over,
                                        scratch_setup, scratch_teardown),
        cmocka_unit_test(unknown_kind_is_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
