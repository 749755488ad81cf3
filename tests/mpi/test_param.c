/* The parameter table over all layouts of a world: cuts, fields, initial values, freezing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "tests/support/test_device.h"
#include "tests/support/test_params.h"

/* ---- cuts ---- */

/* Marks of all ranks: an element of a segment is told apart by the segment and the ep rank. */
static int32_t *new_marks(const sy_params *params, int64_t *n)
{
    *n = 0;
    for (int32_t s = 0; s < params->n_segments; s++) {
        *n += params->segment[s].n * params->mesh->group[SY_EP]->size;
    }
    return calloc((size_t)*n, sizeof(int32_t));
}

static int32_t *marks_of(const sy_params *params, int32_t *marks, int32_t segment)
{
    const sy_comm *ep = params->mesh->group[SY_EP];
    for (int32_t s = 0; s < segment; s++) {
        marks += params->segment[s].n * ep->size;
    }
    return marks + params->segment[segment].n *
                       (params->segment[segment].replicas == SY_EDP ? ep->rank : 0);
}

static bool every_mark_is(const sy_params *params, int32_t *marks, bool once)
{
    bool ok = true;
    for (int32_t s = 0; s < params->n_segments; s++) {
        const sy_segment *g = &params->segment[s];
        int32_t expected = !g->trainable ? 0 : once ? 1 : params->mesh->group[g->replicas]->size;
        const int32_t *m = marks_of(params, marks, s);
        for (int64_t i = 0; i < g->n; i++) {
            ok = ok && m[i] == expected;
        }
    }
    return ok;
}

static void ranges_cover_every_element_once_over_the_ranks(void **state)
{
    (void)state;
    test_layout layout[TEST_MAX_LAYOUTS];
    const int32_t n_layouts = test_layouts(layout);
    for (int32_t l = 0; l < n_layouts; l++) {
        test_model m;
        int64_t n = 0, shard = 0;
        test_model_open(&m, layout[l], SY_N_DTYPES, "layers/001/*");
        int32_t *marks = new_marks(m.params, &n);
        bool ok = true;
        for (int32_t i = 0; i < m.params->n_ranges; i++) {
            const sy_range *r = &m.params->range[i];
            ok = ok && r->shard_offset == shard && r->n > 0 && r->n % 64 == 0;
            shard += r->n;
            for (int64_t k = 0; k < r->n; k++) {
                marks_of(m.params, marks, r->segment)[r->offset + k]++;
            }
        }
        assert_all(ok && shard == m.params->shard_n);
        assert_all_ok(sy_host_all_reduce(mpi_test_world(), marks, n, SY_I32, SY_SUM, "marks"));
        assert_all(every_mark_is(m.params, marks, layout[l].zero > 0));
        free(marks);
        test_model_close(&m);
    }
}

static void buckets_cut_trainable_segments_into_even_parts(void **state)
{
    (void)state;
    test_layout layout[TEST_MAX_LAYOUTS];
    const int32_t n_layouts = test_layouts(layout);
    for (int32_t l = 0; l < n_layouts; l++) {
        test_model m;
        test_model_open(&m, layout[l], SY_N_DTYPES, "layers/001/*");
        bool ok = true, several = false;
        for (int32_t s = 0; s < m.params->n_segments; s++) {
            const sy_segment *g = &m.params->segment[s];
            int64_t next = 0, unit = 64 * m.params->mesh->group[g->replicas]->size;
            for (int32_t b = g->first_bucket; b < g->first_bucket + g->n_buckets; b++) {
                const sy_bucket *k = &m.params->bucket[b];
                ok = ok && k->segment == s && k->offset == next && k->n > 0 && k->n % unit == 0 &&
                     (k->n <= unit || k->n * (int64_t)sy_dtype_bytes(m.dev->wide) <= 2048);
                next += k->n;
            }
            several = several || g->n_buckets > 2;
            ok = ok && next == (g->trainable ? g->n : 0) && !g->grad == !g->trainable;
        }
        assert_all(ok && several);
        test_model_close(&m);
    }
}

static void parameters_lie_apart_against_the_order_of_declaration(void **state)
{
    (void)state;
    test_model m;
    test_model_open(&m, (test_layout){mpi_test_world()->size, 1}, SY_N_DTYPES, "embed");
    bool ok = true;
    for (int32_t i = 0; i < m.params->n; i++) {
        const sy_param *p = m.params->param[i];
        const sy_segment *g = &m.params->segment[p->segment];
        ok = ok && p->index == i && p->offset % 64 == 0 && g->trainable == p->spec.trainable &&
             g->decay == p->spec.decay && g->dtype == p->value.dtype &&
             p->offset + sy_box_numel(&p->box) <= g->n && !p->grad.data == !p->spec.trainable;
        for (int32_t k = i + 1; k < m.params->n; k++) {
            const sy_param *q = m.params->param[k]; /* declared later: lies before */
            ok = ok && (q->segment != p->segment || q->offset + sy_box_numel(&q->box) <= p->offset);
        }
    }
    assert_all(ok);
    assert_all(sy_params_find(m.params, "head") == m.params->param[m.params->n - 1]);
    assert_all(sy_params_find(m.params, "layers/000/q") == NULL);
    test_model_close(&m);
}

static void count_is_over_the_whole_model(void **state)
{
    (void)state;
    sy_params *params = NULL;
    const char *pattern = "layers/*/experts/*";
    const int64_t experts = TEST_E * (2 * 10 * 7 + 6 * 7 * 5 + 5 * 5);
    const int64_t rest = 600 + 12 + 240 + 20 + 144 + 4 * 240 + 72 + 13 + 600;
    assert_all_ok(sy_params_create(&params));
    assert_all_ok(test_model_declare(params));
    assert_all_ok(sy_params_freeze(params, &pattern, 1));
    assert_all(sy_params_count(params, false) == experts + rest);
    assert_all(sy_params_count(params, true) == rest);
    sy_params_destroy(&params);
}

/* ---- values and fields ---- */

static bool file_is_initial(const test_file *file, const char *prefix, sy_dtype compute)
{
    bool ok = true;
    for (int32_t k = 0; k < file->n; k++) {
        const test_field *f = &file->field[k];
        const char *piece = f->name + strlen(prefix) + 1;
        for (int64_t i = 0; i < f->n; i++) {
            double x = test_initial(piece, i), rounded = x;
            char bits[8];
            bool wide = strstr(piece, "router") != NULL;
            sy_dtype dtype = !wide ? compute : f->dtype;
            sy_convert(dtype, bits, SY_F64, &x, 1);
            sy_convert(SY_F64, &rounded, dtype, bits, 1);
            ok = ok && f->data[i] == rounded;
        }
    }
    return ok;
}

/* Every layout starts from the same values, writes each element once, and so writes the same file.
 */
static void initial_values_and_their_fields_are_the_same_in_every_layout(void **state)
{
    (void)state;
    test_layout layout[TEST_MAX_LAYOUTS];
    const int32_t n_layouts = test_layouts(layout);
    for (int32_t l = 0; l < 2 * n_layouts; l++) {
        test_model m;
        test_file file = {0};
        test_model_open(&m, layout[l / 2], SY_N_DTYPES, "norm");
        sy_dtype compute = m.params->compute;
        if (l % 2 && m.dev->supports[SY_BF16]) {
            test_model_close(&m);
            compute = SY_BF16;
            test_model_open(&m, layout[l / 2], compute, "norm");
        }
        file.stream = m.compute;
        assert_all_ok(sy_params_init(m.params, TEST_SEED, m.compute));
        assert_all_ok(sy_params_walk(m.params, "model", test_file_write, &file));
        assert_all(test_file_merge(&file, mpi_test_world()) && file.n == 27);
        assert_all(file_is_initial(&file, "model", compute));
        assert_all_ok(sy_params_walk(m.params, "model", test_file_check, &file));
        assert_all(file.n_wrong == 0);
        test_file_free(&file);
        test_model_close(&m);
    }
}

static void padding_stays_zero(void **state)
{
    (void)state;
    test_model m;
    test_model_open(&m, (test_layout){1, 1}, SY_N_DTYPES, NULL);
    assert_all_ok(sy_params_init(m.params, TEST_SEED, m.compute));
    bool ok = true;
    const int64_t elem = (int64_t)sy_dtype_bytes(m.params->wide);
    for (int32_t s = 0; s < m.params->n_segments; s++) {
        const sy_segment *g = &m.params->segment[s];
        char *h_value = calloc((size_t)g->n, (size_t)elem), zero[8] = {0};
        ok = ok && test_download(m.compute, h_value, g->value, g->n * elem) == SY_OK;
        for (int64_t i = 0; i < g->n; i++) {
            bool inside = false;
            for (int32_t k = 0; k < m.params->n; k++) {
                const sy_param *p = m.params->param[k];
                inside = inside || (p->segment == s && i >= p->offset &&
                                    i < p->offset + sy_box_numel(&p->box));
            }
            ok = ok && (inside || memcmp(h_value + i * elem, zero, (size_t)elem) == 0);
        }
        free(h_value);
    }
    assert_all(ok);
    test_model_close(&m);
}

/* As the optimizer fills its masters: by ranges, from the values. */
static sy_status copy_values_to_shard(const test_model *m, void *shard)
{
    sy_status st = SY_OK;
    const int64_t elem = (int64_t)sy_dtype_bytes(m->params->wide);
    for (int32_t i = 0; i < m->params->n_ranges; i++) {
        const sy_range *r = &m->params->range[i];
        SY_TRY(sy_copy_d2d(m->compute, (char *)shard + r->shard_offset * elem,
                           (char *)m->params->segment[r->segment].value + r->offset * elem,
                           r->n * elem));
    }
    SY_TRY(sy_stream_sync(m->compute));
cleanup:
    return st;
}

/* A file written from the shards of one layout fills the shards of every other. */
static void shards_written_in_one_layout_are_read_in_any_other(void **state)
{
    (void)state;
    test_layout layout[TEST_MAX_LAYOUTS];
    test_file file = {0};
    const int32_t n_layouts = test_layouts(layout);
    for (int32_t l = 0; l <= n_layouts; l++) { /* the first comes again, as reader of the last */
        test_model m;
        void *shard = NULL;
        test_model_open(&m, layout[l % n_layouts], SY_N_DTYPES, "layers/000/norm");
        const sy_dtype wide = m.params->wide;
        int64_t bytes = m.params->shard_n * (int64_t)sy_dtype_bytes(wide);
        assert_all_ok(sy_params_init(m.params, TEST_SEED, m.compute));
        assert_all_ok(sy_device_alloc(m.dev, bytes, SY_MEM_OPTIM, &shard));
        if (l >
            0) { /* read what the layout before has written, compare with this one's own values */
            file.stream = m.compute;
            char *h_read = calloc((size_t)bytes, 1), *h_own = calloc((size_t)bytes, 1);
            assert_all_ok(sy_params_walk_shard(m.params, "optim/m", wide, shard, false,
                                               test_file_load, &file));
            assert_all_ok(test_download(m.compute, h_read, shard, bytes));
            assert_all_ok(copy_values_to_shard(&m, shard));
            assert_all_ok(test_download(m.compute, h_own, shard, bytes));
            assert_all(file.n_wrong == 0 && memcmp(h_read, h_own, (size_t)bytes) == 0);
            free(h_own);
            free(h_read);
            test_file_free(&file);
        }
        file.stream = m.compute;
        assert_all_ok(copy_values_to_shard(&m, shard));
        assert_all_ok(
            sy_params_walk_shard(m.params, "optim/m", wide, shard, false, test_file_write, &file));
        assert_all(test_file_merge(&file, mpi_test_world()) && file.n == 26);
        assert_all(file_is_initial(&file, "optim/m", wide));
        sy_device_free(m.dev, &shard);
        test_model_close(&m);
    }
    test_file_free(&file);
}

/* ---- what is refused ---- */

static sy_param_spec vector_of(const char *name)
{
    sy_param_spec s = {.n_dim = 1, .shape_glb = {8}, .shard_dim = -1, .replicas = SY_DENSE};
    snprintf(s.name, sizeof s.name, "%s", name);
    return s;
}

static void declare_broken_parameter_is_refused(void **state)
{
    (void)state;
    sy_params *params = NULL;
    sy_param *param = NULL;
    assert_all_ok(sy_params_create(&params));
    sy_param_spec good = vector_of("a"), bad;
    assert_all_ok(sy_params_declare(params, &good, &param));
    assert_all_status(sy_params_declare(params, &good, &param), SY_ERR_INTERNAL); /* twice */
    bad = vector_of("b");
    bad.shape_glb[0] = 0;
    assert_all_status(sy_params_declare(params, &bad, &param), SY_ERR_INTERNAL);
    bad = vector_of("c");
    bad.n_pieces = 2;
    strcpy(bad.piece[0].name, "c/0");
    strcpy(bad.piece[1].name, "c/1");
    bad.piece[0].extent = bad.piece[1].extent = 3; /* of 8 */
    assert_all_status(sy_params_declare(params, &bad, &param), SY_ERR_INTERNAL);
    bad.piece[1].extent = 5;
    strcpy(bad.piece[1].name, "a"); /* taken */
    assert_all_status(sy_params_declare(params, &bad, &param), SY_ERR_INTERNAL);
    assert_all(params->n == 1 && param == params->param[0]);
    sy_params_destroy(&params);
}

static void freeze_says_what_does_not_fit(void **state)
{
    (void)state;
    sy_params *params = NULL;
    const char *nothing = "layers/000/nrom", *half[] = {"norm", "layers/000/q"};
    const char *both[] = {"layers/*/experts/*", "layers/000/[qkv]"};
    assert_all_ok(sy_params_create(&params));
    assert_all_ok(test_model_declare(params));
    sy_status st = sy_params_freeze(params, &nothing, 1);
    assert_all(strstr(sy_error_message(), "'layers/000/nrom'") &&
               strstr(sy_error_message(), "did you mean 'layers/000/norm'"));
    assert_all_status(st, SY_ERR_USAGE);
    st = sy_params_freeze(params, half, 2);
    assert_all(strstr(sy_error_message(), "'layers/000/q'") &&
               strstr(sy_error_message(), "'layers/000/k'"));
    assert_all_status(st, SY_ERR_USAGE);
    assert_all(sy_params_find(params, "norm")->spec.trainable); /* nothing was changed */
    assert_all_ok(sy_params_freeze(params, both, 2));
    assert_all(!sy_params_find(params, "layers/000/qkv")->spec.trainable &&
               !sy_params_find(params, "layers/001/experts/down")->spec.trainable &&
               sy_params_find(params, "layers/000/qkv_bias")->spec.trainable);
    sy_params_destroy(&params);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_cover_every_element_once_over_the_ranks),
        cmocka_unit_test(buckets_cut_trainable_segments_into_even_parts),
        cmocka_unit_test(parameters_lie_apart_against_the_order_of_declaration),
        cmocka_unit_test(count_is_over_the_whole_model),
        cmocka_unit_test(initial_values_and_their_fields_are_the_same_in_every_layout),
        cmocka_unit_test(padding_stays_zero),
        cmocka_unit_test(shards_written_in_one_layout_are_read_in_any_other),
        cmocka_unit_test(declare_broken_parameter_is_refused),
        cmocka_unit_test(freeze_says_what_does_not_fit),
    };
    return mpi_test_main("param", tests, sizeof tests / sizeof tests[0]);
}
