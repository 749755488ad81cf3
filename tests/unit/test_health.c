/* Health: figures against hand counts, and sentences that are said once when something changes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/alloc.h"
#include "report/health.h"

enum { HEARD_BYTES = 8192 };

typedef struct ear {
    char text[HEARD_BYTES];
    int32_t n;
} ear;

static void hear(void *arg, const char *sentence)
{
    ear *to = arg;
    size_t n = strlen(to->text);
    snprintf(to->text + n, sizeof to->text - n, "%s\n", sentence);
    to->n++;
}

static sy_health *health_of(int32_t n_layers, int32_t n_experts, const int32_t *layer_idx,
                            int32_t window)
{
    sy_health *h = NULL;
    sy_health_spec spec = {
        .n_layers = n_layers, .n_experts = n_experts, .layer_idx = layer_idx, .window = window};
    assert_int_equal(sy_health_create(&spec, &h), SY_OK);
    return h;
}

static void window(sy_health *h, int32_t n, const int64_t *load, const int64_t *dropped, ear *to)
{
    memset(to, 0, sizeof *to);
    for (int32_t i = 0; i < n; i++) {
        sy_health_observe(h, &(sy_health_step){.load = load, .dropped = dropped}, hear, to);
    }
}

static void figures_of_a_step_match_hand_counts(void **state)
{
    (void)state;
    ear to;
    sy_health *h = health_of(3, 4, NULL, 100);
    /* max/mean 10/4 = 2.5 and 4/4 = 1; the third layer routed nothing and counts nowhere. */
    const int64_t load[] = {10, 6, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0}, dropped[] = {3, 1, 0};
    assert_int_equal(sy_health_last(h).dead_experts, 0);
    window(h, 1, load, dropped, &to);
    sy_health_figures f = sy_health_last(h);
    assert_true(fabs(f.load_max_over_mean - (2.5 + 1) / 2) < 1e-12);
    assert_true(fabs(f.drop_fraction - 4.0 / 32) < 1e-12);
    assert_int_equal(f.dead_experts, 2);
    sy_health_destroy(&h);
}

static void dead_experts_are_named_once_until_it_changes(void **state)
{
    (void)state;
    ear to;
    const int32_t layer_idx[] = {7};
    const int64_t starved[] = {5, 0, 5, 0, 0, 6}, fine[] = {5, 1, 5, 1, 1, 6};
    sy_health *h = health_of(1, 6, layer_idx, 100);
    window(h, 99, starved, NULL, &to);
    assert_int_equal(to.n, 0);
    window(h, 1, starved, NULL, &to);
    assert_string_equal(to.text, "layer 7: 3 of 6 experts got no token in 100 steps (1, 3-4)\n");
    window(h, 100, starved, NULL, &to);
    assert_string_equal(to.text, "");
    window(h, 99, starved, NULL, &to);
    window(h, 1, fine, NULL, &to); /* one token in the window is enough */
    assert_string_equal(to.text, "layer 7: every expert gets tokens again\n");
    window(h, 100, fine, NULL, &to);
    assert_int_equal(to.n, 0);
    sy_health_destroy(&h);
}

static void window_without_tokens_says_nothing(void **state)
{
    (void)state;
    ear to;
    const int64_t nothing[] = {0, 0, 0}, starved[] = {1, 0, 1};
    sy_health *h = health_of(1, 3, NULL, 2);
    window(h, 4, nothing, NULL, &to);
    assert_int_equal(to.n, 0);
    assert_true(sy_health_last(h).load_max_over_mean == 0);
    assert_int_equal(sy_health_last(h).dead_experts, 0);
    window(h, 2, starved, NULL, &to);
    assert_int_equal(to.n, 1);
    window(h, 2, nothing, NULL, &to);
    assert_int_equal(to.n, 0);
    sy_health_destroy(&h);
}

static void drops_and_uneven_load_are_told_with_their_size(void **state)
{
    (void)state;
    ear to;
    const int64_t load[] = {93, 1, 1, 1, 1, 1, 1, 1}, dropped[] = {25};
    sy_health *h = health_of(1, 8, NULL, 10);
    window(h, 10, load, dropped, &to);
    assert_non_null(strstr(to.text, "layer 0: 25.0 % of the rows were dropped in 10 steps"));
    assert_non_null(strstr(
        to.text, "layer 0: expert 0 got 93.0 % of the rows in 10 steps, 7.4 times the mean"));
    assert_int_equal(to.n, 2);
    window(h, 10, load, dropped, &to);
    assert_int_equal(to.n, 0);
    sy_health_destroy(&h);
}

/* Half of the drops at the end is no word, more is one; without drops to speak of there is none. */
static void drops_at_the_end_of_sequences_are_told(void **state)
{
    (void)state;
    ear to;
    const int64_t load[] = {50, 50}, dropped[] = {10}, even[] = {1, 1, 1, 1, 1, 1, 1, 3},
                  late[] = {0, 0, 0, 0, 0, 0, 4, 6}, few[] = {0, 0, 0, 0, 0, 0, 0, 1};
    const int64_t *const at[] = {even, late, late, few};
    const int32_t n_said[] = {0, 1, 0, 0};
    sy_health *h = health_of(1, 2, NULL, 2);
    for (int32_t i = 0; i < 4; i++) {
        memset(&to, 0, sizeof to);
        for (int32_t k = 0; k < 2; k++) {
            const int64_t one[] = {1};
            sy_health_step step = {
                .load = load, .dropped = i < 3 ? dropped : one, .dropped_at = at[i]};
            sy_health_observe(h, &step, hear, &to);
        }
        assert_int_equal(to.n, n_said[i]);
    }
    sy_health_destroy(&h);
}

static void collapsed_entropy_and_growing_outputs_are_told_once(void **state)
{
    (void)state;
    ear to;
    const int64_t load[] = {4, 4, 4, 4};
    const double entropy[] = {1.2, 0.04, 0.05, 1.2, 1.2, 1.2}, rms[] = {0.5, 0.6, 2.7, 50, 50, NAN};
    const char *const said[] = {"",
                                "layer 0: the router's entropy was 0.040 of at most 1.386",
                                "from 0.6 to 2.7 times",
                                "",
                                "",
                                "to nan times"};
    sy_health *h = health_of(1, 4, NULL, 2);
    for (int32_t i = 0; i < 6; i++) {
        memset(&to, 0, sizeof to);
        for (int32_t k = 0; k < 2; k++) {
            sy_health_step step = {.load = load, .entropy = &entropy[i], .output_rms = &rms[i]};
            sy_health_observe(h, &step, hear, &to);
        }
        assert_int_equal(to.n, said[i][0] != '\0');
        assert_non_null(strstr(to.text, said[i]));
    }
    sy_health_destroy(&h);
}

static void many_layers_do_not_flood_the_log(void **state)
{
    (void)state;
    ear to;
    enum { L = 48 };
    int64_t load[L * 2];
    for (int32_t l = 0; l < L; l++) {
        load[2 * l] = 4;
        load[2 * l + 1] = 0;
    }
    sy_health *h = health_of(L, 2, NULL, 1);
    window(h, 1, load, NULL, &to);
    assert_int_equal(to.n, 5);
    assert_non_null(strstr(to.text, "44 more layers: the same (experts without a token)"));
    sy_health_destroy(&h);
}

static void observing_allocates_nothing(void **state)
{
    (void)state;
    ear to;
    const int64_t load[] = {1, 0};
    sy_health *h = health_of(1, 2, NULL, 2);
    int64_t n_before = sy_alloc_total();
    window(h, 10, load, NULL, &to);
    assert_int_equal(sy_alloc_total(), n_before);
    sy_health_destroy(&h);
    assert_int_equal(sy_alloc_live(), 0);
}

static bool is_odd(const void *arg, int32_t i)
{
    (void)arg;
    return i % 2 == 1;
}

static void long_lists_are_cut_inside_the_buffer(void **state)
{
    (void)state;
    char buf[24];
    assert_string_equal(sy_health_list(is_odd, NULL, 6, buf, sizeof buf), "1, 3, 5");
    sy_health_list(is_odd, NULL, 1000, buf, sizeof buf);
    assert_true(strlen(buf) < sizeof buf);
    assert_non_null(strstr(buf, ", .."));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_of_a_step_match_hand_counts),
        cmocka_unit_test(dead_experts_are_named_once_until_it_changes),
        cmocka_unit_test(window_without_tokens_says_nothing),
        cmocka_unit_test(drops_and_uneven_load_are_told_with_their_size),
        cmocka_unit_test(drops_at_the_end_of_sequences_are_told),
        cmocka_unit_test(collapsed_entropy_and_growing_outputs_are_told_once),
        cmocka_unit_test(many_layers_do_not_flood_the_log),
        cmocka_unit_test(observing_allocates_nothing),
        cmocka_unit_test(long_lists_are_cut_inside_the_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
