/* A rehearsal: memory is that of the real engine, traffic that of the declared shapes, and clocks
   add up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "train/probe.h"
#include "train/rehearsal.h"

static void check_near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-9 * fabs(want))) {
        fail_msg("%.12g, not %.12g", got, want);
    }
}

enum { T = 2 * 8, H = 16, K = 2, LAYERS = 3 };
static const char text[] =
    "device: {backend: cpu, precision: fp32}\n"
    "model: {vocab_size: 256, hidden: 16, layers: 3, heads: 2, ffn_hidden: 24, seq_len: 8}\n"
    "moe: {experts: 4, top_k: 2}\n"
    "train: {steps: 100, global_batch: 8, micro_batch: 2}\n";

static void parse(const char *set, sy_run_settings *out)
{
    assert_int_equal(sy_run_settings_parse(text, sizeof text - 1, "c.yaml", &set, set != NULL, out),
                     SY_OK);
}

/* 1 us for every op, 1 GB/s between all. */
static sy_machine plain_machine(bool gpu)
{
    sy_machine m = {
        .gpu = gpu, .peak_flops = {1e12, 1e12}, .workspace_share = 1, .ranks_per_node = 1 << 20};
    for (int32_t kind = 0; kind < SY_N_COSTS; kind++) {
        m.rate[0][kind] = m.rate[1][kind] = (sy_rate){.call = 1e-6};
    }
    m.in_node = m.between = (sy_link){1e-6, 1e9};
    return m;
}

static void rehearse(const sy_run_settings *s, const sy_machine *m, int32_t ranks,
                     sy_rehearsal *out)
{
    sy_rehearsal_spec spec = {.settings = s, .machine = m, .ranks = ranks, .imbalance = 1};
    assert_int_equal(sy_rehearse(&spec, out), SY_OK);
}

static const sy_traffic_sum *traffic_named(const sy_rehearsal *r, const char *what)
{
    for (int32_t i = 0; i < r->n_traffic; i++) {
        if (strcmp(r->traffic[i].traffic.what, what) == 0) {
            return &r->traffic[i];
        }
    }
    fail_msg("no '%s' in the rehearsal", what);
    return NULL;
}

static double seconds_of_work(const sy_rehearsal *r)
{
    double sum = 0;
    for (int32_t kind = 0; kind < SY_N_COSTS; kind++) {
        sum += r->cost[0][kind].seconds + r->cost[1][kind].seconds;
    }
    return sum;
}

static double seconds_of_traffic(const sy_rehearsal *r)
{
    double sum = 0;
    for (int32_t i = 0; i < r->n_traffic; i++) {
        sum += r->traffic[i].traffic.device ? r->traffic[i].seconds : 0;
    }
    return sum;
}

static void memory_is_that_of_the_engine_that_would_train(void **state)
{
    static const char *const sets[] = {NULL, "train.recompute=block", "device.precision=bf16",
                                       "moe.experts=0", "moe.capacity_factor=1.25"};
    const sy_machine m = plain_machine(false);
    (void)state;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        sy_run_settings s = {0};
        sy_comm *world = NULL;
        sy_engine *engine = NULL;
        sy_optimizer *opt = NULL;
        sy_probe *probe = NULL; /* the trainer's, beside the engine */
        sy_rehearsal r;
        parse(sets[i], &s);
        sy_engine_spec spec = {.settings = &s, .use = SY_USE_TRAIN, .B = 2, .S = 8, .threads = 1};
        rehearse(&s, &m, 1, &r);
        assert_int_equal(sy_comm_world(false, &world), SY_OK);
        spec.world = world;
        assert_int_equal(sy_engine_create(&spec, &engine), SY_OK);
        assert_int_equal(sy_optimizer_create(s.optim, engine->params, &opt), SY_OK);
        assert_int_equal(sy_probe_create(engine, NULL, &probe), SY_OK);
        assert_int_equal(r.memory_total, engine->dev->ledger.total_now);
        assert_memory_equal(r.memory, engine->dev->ledger.now, sizeof r.memory);
        assert_int_equal(r.params, sy_params_count(engine->params, false));
        sy_probe_destroy(&probe);
        sy_optimizer_destroy(&opt);
        sy_engine_destroy(&engine);
        sy_comm_destroy(&world);
        sy_run_settings_free(&s);
    }
}

static void every_row_travels_four_times(void **state)
{
    const sy_machine m = plain_machine(false);
    sy_run_settings s = {0};
    sy_rehearsal r;
    (void)state;
    parse("parallel.ep=2", &s);
    rehearse(&s, &m, 4, &r);
    static const char *const ways[] = {"moe dispatch", "moe combine"};
    for (int32_t i = 0; i < 2; i++) { /* forward, and with gradients the other way */
        const sy_traffic_sum *t = traffic_named(&r, ways[i]);
        assert_int_equal(t->traffic.size, 2);
        assert_true(t->calls == 2 * LAYERS);
        assert_true(t->bytes == 2.0 * LAYERS * T * K * H * 4);
        assert_true(t->sent == t->bytes / 2);
    }
    assert_int_equal(r.rounds, 1);
    assert_int_equal(r.tokens, 8 * 8);
    sy_run_settings_free(&s);
}

/* ZeRO-1: gradients are scattered, values gathered, experts' over those that hold the same. */
static void gradients_and_parameters_cross_once(void **state)
{
    const sy_machine m = plain_machine(false);
    const int64_t experts = (int64_t)LAYERS * 4 * 3 * 24 * H;
    sy_run_settings s = {0};
    sy_rehearsal r;
    double gradients = 0, parameters = 0;
    (void)state;
    parse("parallel.ep=2", &s);
    rehearse(&s, &m, 4, &r);
    for (int32_t i = 0; i < r.n_traffic; i++) {
        const sy_traffic_sum *t = &r.traffic[i];
        gradients += strcmp(t->traffic.what, "gradients") == 0 ? t->bytes : 0;
        parameters += strcmp(t->traffic.what, "parameters") == 0 ? t->bytes : 0;
    }
    /* beside padding: all that is dense, and this rank's half of the experts */
    const double held = 4.0 * (double)(r.params - experts / 2);
    assert_true(gradients == parameters);
    assert_in_range((int64_t)gradients, (int64_t)held, (int64_t)held + 8 * 4096);
    sy_run_settings_free(&s);
}

static void streams_that_run_at_once_add_up(void **state)
{
    const sy_machine m = plain_machine(false);
    sy_run_settings s = {0};
    sy_rehearsal r;
    (void)state;
    parse("parallel.ep=2", &s);
    rehearse(&s, &m, 4, &r);
    check_near(r.step_s, seconds_of_work(&r) + seconds_of_traffic(&r));
    sy_run_settings_free(&s);
}

static void streams_beside_each_other_hide_gradients(void **state)
{
    sy_machine m = plain_machine(true);
    sy_run_settings s = {0};
    sy_rehearsal r;
    (void)state;
    parse("parallel.ep=2", &s);
    rehearse(&s, &m, 4, &r);
    const double all = seconds_of_work(&r) + seconds_of_traffic(&r);
    assert_true(r.step_s < all);
    assert_true(r.exposed_s < r.exchange_s);
    assert_true(r.step_s > seconds_of_work(&r) / 2);
    m.launch_s = 1e-3; /* now the host is what everything waits for */
    rehearse(&s, &m, 4, &r);
    assert_true(r.step_s > 100 * all);
    sy_run_settings_free(&s);
}

/* Slow links, and experts that take as long. Shared experts do not make dispatch longer but are
   computed meanwhile; so is one chunk while another travels. */
static void rows_travel_beside_shared_experts_and_other_chunks(void **state)
{
    sy_machine m = plain_machine(true);
    static const char *const sets[3] = {NULL, "moe.shared_experts=1", "parallel.overlap_chunks=2"};
    sy_rehearsal r[3];
    (void)state;
    m.in_node = m.between = (sy_link){1e-6, 1e7};
    for (int32_t form = 0; form < SY_COST_FORMS; form++) {
        m.rate[0][SY_OP_grouped_gemm * SY_COST_FORMS + form].call = 1e-4;
    }
    for (int32_t i = 0; i < 3; i++) {
        sy_run_settings s = {0};
        const char *set[2] = {"parallel.ep=2", sets[i]};
        assert_int_equal(
            sy_run_settings_parse(text, sizeof text - 1, "c.yaml", set, i > 0 ? 2 : 1, &s), SY_OK);
        rehearse(&s, &m, 2, &r[i]);
        sy_run_settings_free(&s);
    }
    assert_true(r[1].dispatch_s < r[0].dispatch_s);
    check_near(r[1].combine_s, r[0].combine_s);
    assert_true(r[1].rows_waited_s > 0 && r[1].exposed_s < r[1].exchange_s);
    const double rows = traffic_named(&r[0], "moe dispatch")->seconds +
                        traffic_named(&r[0], "moe combine")->seconds;
    assert_true(r[2].rows_waited_s > 0 && r[2].rows_waited_s < 0.8 * rows);
    assert_true(r[2].dispatch_s + r[2].combine_s < 0.8 * (r[0].dispatch_s + r[0].combine_s));
    assert_true(traffic_named(&r[2], "moe dispatch")->bytes ==
                traffic_named(&r[0], "moe dispatch")->bytes);
}

static double step_of(const char *set)
{
    const sy_machine m = plain_machine(false);
    sy_run_settings s = {0};
    sy_rehearsal r;
    parse(set, &s);
    rehearse(&s, &m, 1, &r);
    sy_run_settings_free(&s);
    return r.step_s;
}

static void every_further_micro_batch_takes_as_long(void **state)
{
    (void)state;
    const double two = step_of("train.global_batch=4"), three = step_of("train.global_batch=6");
    const double ten = step_of("train.global_batch=20");
    check_near(ten, two + 8 * (three - two));
    assert_true(three > two);
}

static void ranks_that_ep_does_not_divide_are_refused(void **state)
{
    const sy_machine m = plain_machine(false);
    sy_run_settings s = {0};
    sy_rehearsal r;
    (void)state;
    parse("parallel.ep=2", &s);
    sy_rehearsal_spec spec = {.settings = &s, .machine = &m, .ranks = 3, .imbalance = 1};
    assert_int_equal(sy_rehearse(&spec, &r), SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "parallel.ep = 2 does not divide the 3 ranks"));
    sy_error_clear();
    sy_run_settings_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_that_of_the_engine_that_would_train),
        cmocka_unit_test(every_row_travels_four_times),
        cmocka_unit_test(gradients_and_parameters_cross_once),
        cmocka_unit_test(streams_that_run_at_once_add_up),
        cmocka_unit_test(streams_beside_each_other_hide_gradients),
        cmocka_unit_test(rows_travel_beside_shared_experts_and_other_chunks),
        cmocka_unit_test(every_further_micro_batch_takes_as_long),
        cmocka_unit_test(ranks_that_ep_does_not_divide_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
