/* Gradients over all layouts: each is the sum over the replicas, whoever keeps it; the norm counts
   every element once. The payload is a small integer of (rank, parameter, place), so that sums are
   exact. And the values that come back after an update (parallel/value_sync.h). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ops.h"
#include "parallel/grad_sync.h"
#include "parallel/value_sync.h"
#include "tests/support/test_device.h"
#include "tests/support/test_params.h"

static int64_t payload(int32_t rank, int32_t param, int64_t place)
{
    return (rank * 31 + param * 17 + place * 7) % 13 - 6;
}

/* Which ranks hold element `place` (global, of dimension 0's row) of a parameter. */
static bool holds(const test_model *m, int32_t rank, const sy_param *p, int64_t place)
{
    int64_t row_elems = 1;
    for (int32_t d = 1; d < p->spec.n_dim; d++) {
        row_elems *= p->spec.shape_glb[d];
    }
    int32_t ep = m->mesh->placement->ep, E_loc = m->mesh->placement->E_loc;
    return p->spec.shard_dim < 0 || place / row_elems / E_loc == rank % ep;
}

static int64_t whole_gradient(const test_model *m, const sy_param *p, int64_t place)
{
    int64_t sum = 0;
    for (int32_t rank = 0; rank < mpi_test_world()->size; rank++) {
        sum += holds(m, rank, p, place) ? payload(rank, p->index, place) : 0;
    }
    return sum;
}

/* The parameter's local element i, in the whole parameter. */
static int64_t place_of(const sy_param *p, int64_t i)
{
    return sy_box_offset(&p->box, p->spec.shape_glb) + i;
}

static sy_status put_number(const test_model *m, char *h_dst, double x, int64_t i)
{
    sy_convert(m->params->wide, h_dst + i * (int64_t)sy_dtype_bytes(m->params->wide), SY_F64, &x,
               1);
    return SY_OK;
}

static double get_number(const test_model *m, const char *h_src, int64_t i)
{
    double x = 0;
    sy_convert(SY_F64, &x, m->params->wide, h_src + i * (int64_t)sy_dtype_bytes(m->params->wide),
               1);
    return x;
}

static const sy_range *range_of(const sy_params *params, int32_t segment, int64_t at)
{
    for (int32_t i = 0; i < params->n_ranges; i++) {
        const sy_range *r = &params->range[i];
        if (r->segment == segment && at >= r->offset && at < r->offset + r->n) {
            return r;
        }
    }
    return NULL;
}

static bool is_mine(const sy_params *params, int32_t segment, int64_t at)
{
    return range_of(params, segment, at) != NULL;
}

/* `times` micro-batches' sum where this rank has the element. */
static bool own_is_reduced(const test_model *m, const sy_param *p, int times)
{
    const int64_t bytes = (int64_t)sy_dtype_bytes(m->params->wide);
    bool ok = true;
    for (int64_t i = 0; i < sy_box_numel(&p->box) && ok; i++) {
        const sy_range *r = range_of(m->params, p->segment, p->offset + i);
        char h_grad[8];
        if (r != NULL) {
            const int64_t at = p->offset + i - r->offset;
            ok = test_download(m->compute, h_grad, (char *)r->grad + at * bytes, bytes) == SY_OK;
            ok = ok &&
                 get_number(m, h_grad, 0) == (double)(times * whole_gradient(m, p, place_of(p, i)));
        }
    }
    return ok;
}

/* Where backward adds, nothing is left but what this rank has. */
static bool rest_is_zero(const test_model *m, const sy_param *p)
{
    const int64_t n = sy_box_numel(&p->box), bytes = (int64_t)sy_dtype_bytes(m->params->wide);
    char *h_grad = calloc((size_t)n, 8);
    bool ok = test_download(m->compute, h_grad, p->grad.data, n * bytes) == SY_OK;
    for (int64_t i = 0; i < n && ok; i++) {
        const sy_range *r = range_of(m->params, p->segment, p->offset + i);
        const bool here = r != NULL && (char *)p->grad.data + i * bytes ==
                                           (char *)r->grad + (p->offset + i - r->offset) * bytes;
        ok = here || get_number(m, h_grad, i) == 0;
    }
    free(h_grad);
    return ok;
}

static bool same_layer(const sy_param *a, const sy_param *b)
{
    return strncmp(a->spec.name, b->spec.name, strlen("layers/000")) == 0 &&
           strncmp(a->spec.name, "layers/", strlen("layers/")) == 0;
}

static sy_status clear_ranges(const test_model *m)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < m->params->n_ranges; i++) {
        const sy_range *r = &m->params->range[i];
        SY_TRY(sy_zero(m->compute, r->grad, r->n * (int64_t)sy_dtype_bytes(m->params->wide)));
    }
cleanup:
    return st;
}

/* Enqueued only: h_grad and the scratch stay until the stream has passed, and what reads the
 * gradient must wait by itself. */
static sy_status add_gradient(const test_model *m, const sy_param *p, char *h_grad, void *scratch)
{
    sy_status st = SY_OK;
    const int64_t n = sy_box_numel(&p->box);
    const sy_tensor sum = sy_tensor_1d(p->grad.data, m->params->wide, n);
    for (int64_t i = 0; i < n; i++) {
        double x = (double)payload(mpi_test_world()->rank, p->index, place_of(p, i));
        SY_TRY(put_number(m, h_grad, x, i));
    }
    SY_TRY(sy_copy_h2d(m->compute, scratch, h_grad, sy_tensor_bytes(&sum)));
    SY_TRY(
        sy_add(m->compute,
               &(sy_add_args){.a = sum, .b = sy_tensor_1d(scratch, m->params->wide, n), .y = sum}));
cleanup:
    return st;
}

/* As backward does: from the last parameter to the first. */
static sy_status run_backward(const test_model *m, sy_grad_sync *gs, bool last)
{
    sy_status st = SY_OK;
    char *h_grad[32] = {NULL};
    void *scratch = NULL;
    SY_TRY(sy_device_alloc(m->dev, 1 << 16, SY_MEM_OTHER, &scratch));
    SY_TRY(sy_grad_sync_begin(gs, last));
    for (int32_t i = m->params->n - 1; i >= 0; i--) {
        const sy_param *p = m->params->param[i];
        if (p->spec.trainable) {
            h_grad[i] = calloc((size_t)sy_box_numel(&p->box), 8);
            SY_TRY(add_gradient(m, p, h_grad[i], scratch));
        }
        if (i > 0 && !same_layer(p, m->params->param[i - 1])) {
            SY_TRY(sy_grad_sync_reached(gs, p));
        }
    }
    SY_TRY(sy_grad_sync_finish(gs));
    SY_TRY(sy_stream_sync(m->compute));
cleanup:
    for (int32_t i = 0; i < m->params->n; i++) {
        free(h_grad[i]);
    }
    sy_device_free(m->dev, &scratch);
    return st;
}

static void gradients_are_summed_over_replicas_in_every_layout(void **state)
{
    (void)state;
    test_layout layout[TEST_MAX_LAYOUTS];
    const int32_t n_layouts = test_layouts(layout);
    for (int32_t l = 0; l < n_layouts; l++) {
        test_model m;
        sy_grad_sync *gs = NULL;
        test_model_open(&m, layout[l], SY_N_DTYPES, "layers/001/*");
        assert_all_ok(sy_grad_sync_create(m.params, m.compute, m.comm, &gs));
        for (int n_micro = 1; n_micro <= 3; n_micro++) { /* a step must not see the one before */
            for (int i = 0; i < n_micro; i++) {
                assert_all_ok(run_backward(&m, gs, i == n_micro - 1));
            }
            bool ok = true;
            for (int32_t i = 0; i < m.params->n; i++) {
                const sy_param *p = m.params->param[i];
                ok = ok && (!p->spec.trainable ||
                            (own_is_reduced(&m, p, n_micro) && rest_is_zero(&m, p)));
            }
            assert_all(ok);
            assert_all_ok(clear_ranges(&m));
        }
        sy_grad_sync_destroy(&gs);
        test_model_close(&m);
    }
}

static void norm_of_all_ranks_is_that_of_the_whole_gradient(void **state)
{
    (void)state;
    test_layout layout[TEST_MAX_LAYOUTS];
    const int32_t n_layouts = test_layouts(layout);
    for (int32_t l = 0; l < n_layouts; l++) {
        test_model m;
        sy_grad_sync *gs = NULL;
        void *out = NULL;
        double expected = 0, sum = 1e9;
        test_model_open(&m, layout[l], SY_N_DTYPES, "layers/001/*");
        assert_all_ok(sy_grad_sync_create(m.params, m.compute, m.comm, &gs));
        assert_all_ok(sy_device_alloc(m.dev, 8, SY_MEM_OTHER, &out));
        assert_all_ok(test_upload(m.compute, out, &sum, 8)); /* is not added to */
        sy_tensor norm = sy_tensor_1d(out, SY_F64, 1);
        assert_all_ok(run_backward(&m, gs, true));
        assert_all_ok(sy_grad_sync_norm(gs, &norm));
        assert_all_ok(test_download(m.compute, &sum, out, 8));
        assert_all_ok(sy_host_all_reduce(m.mesh->host, &sum, 1, SY_F64, SY_SUM, "norm"));
        for (int32_t i = 0; i < m.params->n; i++) {
            const sy_param *p = m.params->param[i];
            int64_t n = p->spec.shape_glb[0] * (p->spec.n_dim > 1 ? p->spec.shape_glb[1] : 1) *
                        (p->spec.n_dim > 2 ? p->spec.shape_glb[2] : 1);
            for (int64_t k = 0; k < n && p->spec.trainable; k++) {
                double g = (double)whole_gradient(&m, p, k);
                expected += g * g;
            }
        }
        assert_all(fabs(sum - expected) <= 1e-12 * expected && expected > 1000);
        sy_device_free(m.dev, &out);
        sy_grad_sync_destroy(&gs);
        test_model_close(&m);
    }
}

static int64_t n_collectives(const test_model *m)
{
    return m->mesh->group[SY_DENSE]->n_issued + m->mesh->group[SY_EDP]->n_issued;
}

static void reduction_starts_before_backward_ends(void **state)
{
    (void)state;
    test_model m;
    sy_grad_sync *gs = NULL;
    test_model_open(&m, (test_layout){1, 0}, SY_N_DTYPES, NULL);
    assert_all_ok(sy_grad_sync_create(m.params, m.compute, m.comm, &gs));
    const bool alone = mpi_test_world()->size == 1;
    const sy_param *head = sy_params_find(m.params, "head"), *embed = m.params->param[0];
    assert_all_ok(sy_grad_sync_begin(gs, true));
    assert_all(n_collectives(&m) == 0);
    assert_all_ok(sy_grad_sync_reached(gs, head));
    int64_t after_head =
        n_collectives(&m); /* 600 elements of the head: a bucket or more, but not all */
    assert_all(alone ? after_head == 0 : after_head > 0 && after_head < m.params->n_buckets);
    assert_all_ok(sy_grad_sync_reached(gs, head)); /* again: nothing new */
    assert_all(n_collectives(&m) == after_head);
    assert_all_ok(sy_grad_sync_reached(gs, embed));
    assert_all_ok(sy_grad_sync_finish(gs));
    assert_all(n_collectives(&m) == (alone ? 0 : m.params->n_buckets)); /* each once */
    assert_all_ok(sy_stream_sync(m.compute));
    assert_all_status(sy_grad_sync_reached(gs, embed), SY_ERR_INTERNAL); /* not begun */
    sy_grad_sync_destroy(&gs);
    test_model_close(&m);
}

/* ---- values ---- */

/* What the owner of an element writes there in a round. */
static double updated(int64_t place, int32_t round)
{
    return (double)((place + 7 * round) % 999);
}

/* Where this rank is the owner; elsewhere stands junk. */
static sy_status update_values(const test_model *m, int32_t round)
{
    sy_status st = SY_OK;
    for (int32_t s = 0; s < m->params->n_segments && st == SY_OK; s++) {
        const sy_segment *g = &m->params->segment[s];
        char *h_value = calloc((size_t)g->n, 8);
        for (int64_t i = 0; i < g->n && g->trainable; i++) {
            put_number(m, h_value, is_mine(m->params, s, i) ? updated(i, round) : -1, i);
        }
        st = g->trainable ? test_upload(m->compute, g->value, h_value,
                                        g->n * (int64_t)sy_dtype_bytes(m->params->wide))
                          : SY_OK;
        free(h_value);
    }
    return st;
}

static bool has_updated_values(const test_model *m, const sy_param *p, int32_t round)
{
    const int64_t n = sy_box_numel(&p->box);
    char *h_value = calloc((size_t)n, 8);
    bool ok = test_download(m->compute, h_value, p->value.data,
                            n * (int64_t)sy_dtype_bytes(m->params->wide)) == SY_OK;
    for (int64_t i = 0; i < n && p->spec.trainable; i++) {
        ok = ok && get_number(m, h_value, i) == updated(p->offset + i, round);
    }
    free(h_value);
    return ok;
}

/* As forward does: from the first parameter to the last, asking for each layer's last one. */
static bool forward_has_updated_values(const test_model *m, sy_value_sync *vs, int32_t round)
{
    const sy_params *params = m->params;
    bool ok = true;
    for (int32_t first = 0, last = 0; first < params->n; first = last + 1) {
        for (last = first;
             last + 1 < params->n && same_layer(params->param[first], params->param[last + 1]);
             last++) {
        }
        ok = ok && sy_value_sync_need(vs, params->param[last]) == SY_OK;
        for (int32_t i = first; i <= last; i++) {
            ok = ok && has_updated_values(m, params->param[i], round);
        }
    }
    return ok;
}

static void values_arrive_in_the_order_of_forward_in_every_layout(void **state)
{
    (void)state;
    test_layout layout[TEST_MAX_LAYOUTS];
    const int32_t n_layouts = test_layouts(layout);
    for (int32_t l = 0; l < n_layouts; l++) {
        test_model m;
        sy_value_sync *vs = NULL;
        test_model_open(&m, layout[l], SY_N_DTYPES, "layers/001/*");
        assert_all_ok(sy_value_sync_create(m.params, m.compute, m.comm, &vs));
        for (int32_t round = 0; round < 2; round++) {
            assert_all_ok(update_values(&m, round));
            assert_all_ok(sy_value_sync_begin(vs));
            assert_all(forward_has_updated_values(&m, vs, round));
            assert_all_ok(sy_value_sync_finish(vs));
        }
        sy_value_sync_destroy(&vs);
        test_model_close(&m);
    }
}

/* On the hostile backend, whatever the one under test is: it finds a wait that is missing. So the
   first parameter's is none for the last, and who does not ask reads what is under way. */
static void value_that_was_not_asked_for_is_found_by_check(void **state)
{
    (void)state;
    const char *set = getenv("SY_TEST_BACKEND");
    char under_test[32] = "";
    test_model m;
    sy_value_sync *vs = NULL;
    snprintf(under_test, sizeof under_test, "%s", set ? set : "");
    assert_all(setenv("SY_TEST_BACKEND", "check", 1) == 0);
    test_model_open(&m, (test_layout){1, 1}, SY_N_DTYPES, NULL);
    const sy_param *embed = m.params->param[0], *head = sy_params_find(m.params, "head");
    const bool alone = mpi_test_world()->size == 1;
    assert_all_ok(sy_value_sync_create(m.params, m.compute, m.comm, &vs));
    assert_all_ok(update_values(&m, 0));
    assert_all_ok(sy_value_sync_begin(vs));
    assert_all_status(sy_value_sync_begin(vs), alone ? SY_OK : SY_ERR_INTERNAL);
    assert_all_status(sy_zero(m.compute, embed->value.data, 8), alone ? SY_OK : SY_ERR_INTERNAL);
    assert_all_ok(sy_value_sync_need(vs, embed));
    assert_all_ok(sy_zero(m.compute, embed->value.data, 8));
    assert_all_status(sy_zero(m.compute, head->value.data, 8), alone ? SY_OK : SY_ERR_INTERNAL);
    assert_all_ok(sy_value_sync_finish(vs));
    assert_all_ok(sy_zero(m.compute, head->value.data, 8)); /* gathers wait for what is written */
    assert_all_ok(sy_value_sync_begin(vs));                 /* nobody waits: destroying does */
    sy_value_sync_destroy(&vs);
    test_model_close(&m);
    assert_all(setenv("SY_TEST_BACKEND", under_test, 1) == 0); /* empty: the one by default */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_summed_over_replicas_in_every_layout),
        cmocka_unit_test(norm_of_all_ranks_is_that_of_the_whole_gradient),
        cmocka_unit_test(reduction_starts_before_backward_ends),
        cmocka_unit_test(values_arrive_in_the_order_of_forward_in_every_layout),
        cmocka_unit_test(value_that_was_not_asked_for_is_found_by_check),
    };
    return mpi_test_main("grad_sync", tests, sizeof tests / sizeof tests[0]);
}
