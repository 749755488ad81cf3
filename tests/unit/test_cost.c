/* The cost model against numbers worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "train/cost.h"

static void check_near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-9 * fabs(want))) {
        fail_msg("%.12g, not %.12g", got, want);
    }
}

static char somewhere[1]; /* tensors are looked at, not into */

static sy_tensor matrix(sy_dtype dtype, int64_t n0, int64_t n1)
{
    return sy_tensor_2d(somewhere, dtype, n0, n1);
}

static void product_is_described_by_its_layer_in_every_form(void **state)
{
    /* y [6, 8] = x [6, 4] W [8, 4]^T in fp32: 384 FLOPs, W 128 bytes, x 96, y 192. */
    const sy_tensor x = matrix(SY_F32, 6, 4), y = matrix(SY_F32, 6, 8), w = matrix(SY_F32, 8, 4);
    const sy_gemm_args form[3] = {{.a = x, .b = w, .c = y, .trans_b = true},
                                  {.a = y, .b = w, .c = x},
                                  {.a = y, .b = x, .c = w, .trans_a = true, .beta = 1}};
    (void)state;
    for (int32_t i = 0; i < 3; i++) {
        sy_work work = sy_work_of(SY_OP_gemm, &form[i]);
        assert_int_equal(work.kind, SY_OP_gemm * SY_COST_FORMS + i);
        assert_false(work.narrow);
        assert_int_equal(work.rows, 6);
        assert_int_equal(work.out, 8);
        assert_int_equal(work.in, 4);
        assert_true(work.flops == 384);
        assert_true(work.weights == (i == 2 ? 256 : 128)); /* a gradient is read and written */
        assert_true(work.bytes == 96 + 192);
    }
}

static void grouped_product_counts_every_expert(void **state)
{
    /* 10 rows over 3 experts of [8, 4] in bf16: 640 FLOPs, 192 bytes of weights. */
    const sy_grouped_gemm_args args = {.a = matrix(SY_BF16, 10, 4),
                                       .b = sy_tensor_3d(somewhere, SY_BF16, 3, 8, 4),
                                       .c = matrix(SY_BF16, 10, 8),
                                       .start = sy_tensor_1d(somewhere, SY_I32, 4),
                                       .form = SY_GROUPED_NT};
    sy_work work = sy_work_of(SY_OP_grouped_gemm, &args);
    (void)state;
    assert_true(work.narrow);
    assert_true(work.flops == 640);
    assert_true(work.weights == 192);
    assert_true(work.bytes == 80 + 160 + 16);
    assert_int_equal(work.groups, 3);
}

static void attention_counts_the_causal_half(void **state)
{
    /* 2 sequences of 4 tokens, 3 heads of 8: 2 * 3 * 10 pairs, 32 FLOPs each, backward 80. */
    sy_tensor q = sy_tensor_3d(somewhere, SY_F32, 8, 3, 8);
    const sy_attention_args forward = {.q = q, .k = q, .v = q, .o = q, .B = 2};
    const sy_attention_backward_args backward = {.q = q, .k = q, .v = q, .B = 2};
    (void)state;
    assert_true(sy_work_of(SY_OP_attention, &forward).flops == 60 * 32);
    assert_true(sy_work_of(SY_OP_attention_backward, &backward).flops == 60 * 80);
}

static void table_moves_only_the_rows_that_are_looked_up(void **state)
{
    const sy_embed_args args = {.w = matrix(SY_F32, 1000, 4),
                                .ids = sy_tensor_1d(somewhere, SY_I32, 3),
                                .y = matrix(SY_F32, 3, 4)};
    const sy_add_args add = {.a = matrix(SY_F32, 3, 4), .b = matrix(SY_F32, 3, 4)};
    (void)state;
    assert_true(sy_work_of(SY_OP_embed, &args).bytes == 48 + 12 + 48);
    assert_true(sy_work_of(SY_OP_add, &add).bytes == 96); /* y is absent */
    assert_true(sy_work_copy(64, false).bytes == 128);
    assert_true(sy_work_copy(64, true).bytes == 64);
}

/* 1 us a call, 1 GFLOP/s, 1 GB/s, weights at half of it. */
static sy_machine plain_machine(void)
{
    sy_machine m = {.near_bytes = 1000, .ranks_per_node = 8};
    for (int32_t kind = 0; kind < SY_N_COSTS; kind++) {
        m.rate[0][kind] = m.rate[1][kind] = (sy_rate){1e-6, 1e-9, 1e-9, 2e-9};
    }
    m.in_node = (sy_link){1e-6, 100e9};
    m.between = (sy_link){4e-6, 10e9};
    return m;
}

static void work_takes_the_sum_or_the_longer_of_the_two(void **state)
{
    sy_machine m = plain_machine();
    const sy_work work = {
        .flops = 5000, .bytes = 2000, .weights = 1000, .rows = 100, .groups = 2, .out = 8, .in = 4};
    const sy_work copy = {.kind = SY_COST_COPY, .bytes = 3000};
    (void)state;
    check_near(sy_work_seconds(&m, &work), 10e-6); /* 1 + 5 + 2 + 2 us */
    check_near(sy_work_seconds(&m, &copy), 8e-6);  /* 1 + 3 + 2 x 2 beyond 1000 */
    m.roofline = true;
    check_near(sy_work_seconds(&m, &work), 6e-6);
    m.tile_rows = 128; /* 50 rows of an expert take as long as 128 */
    check_near(sy_work_seconds(&m, &work), 1e-6 + 2.56 * 5e-6);
    m.small_side = 5;
    m.small_factor = 0.5;
    check_near(sy_work_seconds(&m, &work), 1e-6 + 2 * 2.56 * 5e-6);
    assert_true(sy_work_seconds(&m, &(sy_work){.kind = SY_COST_COPY}) == 0);
}

static void all_to_all_over_nodes_waits_for_the_slower_links(void **state)
{
    sy_machine m = plain_machine();
    sy_traffic t = {.collective = "all_to_all", .size = 8, .stride = 1, .bytes = 8000000};
    (void)state;
    check_near(sy_traffic_sent(&t), 7e6);
    check_near(sy_traffic_seconds(&m, &t), 1e-6 + 7e6 / 100e9);
    t.size = 16; /* of 16 parts of half a megabyte 7 stay in the node, 8 leave it */
    check_near(sy_traffic_seconds(&m, &t), 4e-6 + 8 * 0.5e6 / 10e9);
    t.size = 1;
    assert_true(sy_traffic_seconds(&m, &t) == 0);
}

static void ring_over_nodes_has_a_link_for_each_rank_of_a_node(void **state)
{
    sy_machine m = plain_machine();
    sy_traffic t = {.collective = "reduce_scatter", .size = 4, .stride = 8, .bytes = 4000000};
    (void)state;
    /* every eighth rank: one on each of 4 nodes */
    check_near(sy_traffic_seconds(&m, &t), 2 * 4e-6 + 1e-6 + 3e6 / 10e9);
    t.collective = "all_reduce";
    check_near(sy_traffic_seconds(&m, &t), 2 * 9e-6 + 6e6 / 10e9);
    t.stride = 2; /* four on one node */
    check_near(sy_traffic_seconds(&m, &t), 2 * 1e-6 + 6e6 / 100e9);
    t.size = 32; /* four on each of 8 nodes: 40 GB/s */
    check_near(sy_traffic_seconds(&m, &t), 2 * (3 * 4e-6 + 1e-6) + 2 * 3.875e6 / 40e9);
}

static void measured_curve_is_read_between_its_points(void **state)
{
    sy_machine m = plain_machine();
    sy_traffic t = {.collective = "all_gather", .size = 2, .stride = 1, .bytes = 500};
    (void)state;
    m.measured_ranks = 2;
    m.curve[SY_CURVE_ALL_GATHER] =
        (sy_curve){.n = 3, .bytes = {1000, 2000, 4000}, .seconds = {1e-6, 3e-6, 5e-6}};
    check_near(sy_traffic_seconds(&m, &t), 1e-6); /* nothing is faster */
    t.bytes = 1500;
    check_near(sy_traffic_seconds(&m, &t), 2e-6);
    t.bytes = 6000; /* as between the last two */
    check_near(sy_traffic_seconds(&m, &t), 7e-6);
    t.size = 4; /* three quarters leave the rank where one half did */
    t.bytes = 1000;
    check_near(sy_traffic_seconds(&m, &t), 2e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(product_is_described_by_its_layer_in_every_form),
        cmocka_unit_test(grouped_product_counts_every_expert),
        cmocka_unit_test(attention_counts_the_causal_half),
        cmocka_unit_test(table_moves_only_the_rows_that_are_looked_up),
        cmocka_unit_test(work_takes_the_sum_or_the_longer_of_the_two),
        cmocka_unit_test(all_to_all_over_nodes_waits_for_the_slower_links),
        cmocka_unit_test(ring_over_nodes_has_a_link_for_each_rank_of_a_node),
        cmocka_unit_test(measured_curve_is_read_between_its_points),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
