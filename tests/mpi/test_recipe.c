/* Recipes: what each method and each kind of merge keeps of the dense models' function, and what
   every value is made of. */
#include "tests/support/mpi_assert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/grow_rig.h"

static bool is_exact(grow_verdict v)
{
    return v.gap <= 1e-12 && v.preserves;
}

static bool is_other(grow_verdict v, double at_least)
{
    return v.gap > at_least && !v.preserves;
}

/* Whole copies of narrow experts are the dense MLP; a part of one is not. */
static void granular_experts_in_whole_copies_keep_the_function(void **state)
{
    (void)state;
    static const char *const whole[GROW_SET] = {"moe.top_k=4", "moe.expert_hidden=10"};
    static const char *const part[GROW_SET] = {"moe.top_k=3", "moe.expert_hidden=10"};
    static const char *const four[GROW_SET] = {"moe.top_k=8", "moe.expert_hidden=5"};
    sy_recipe_spec spec = {.method = SY_UPCYCLE_GRANULAR, .granularity = 2, .router_std = 1};
    grow_model dense;
    sy_probe says = {0};
    grow_open_dense(&dense, "ref", grow_none, &says);
    assert_all(is_exact(grow_judge(&dense, 1, &says, spec, whole)));
    assert_all(is_other(grow_judge(&dense, 1, &says, spec, part), 1e-3));
    spec.granularity = 4;
    assert_all(is_exact(grow_judge(&dense, 1, &says, spec, four)));
    sy_probe_free(&says);
    grow_close(&dense);
}

static void methods_that_change_nothing_keep_the_function_exactly(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"moe.top_k=2"};
    grow_model dense;
    sy_probe says = {0};
    grow_open_dense(&dense, "ref", grow_none, &says);
    sy_recipe_spec spec = {.method = SY_UPCYCLE_DROP, .drop_ratio = 0, .router_std = 1};
    assert_all(is_exact(grow_judge(&dense, 1, &says, spec, set)));
    spec.drop_ratio = 0.5;
    assert_all(is_other(grow_judge(&dense, 1, &says, spec, set), 1e-2));
    spec = (sy_recipe_spec){.method = SY_UPCYCLE_NOISE, .noise_std = 0, .router_std = 1};
    assert_all(is_exact(grow_judge(&dense, 1, &says, spec, set)));
    spec.noise_std = 0.1;
    assert_all(is_other(grow_judge(&dense, 1, &says, spec, set), 1e-3));
    sy_probe_free(&says);
    grow_close(&dense);
}

/* Half of the hidden units of each expert are the dense model's, in gate, up and down alike; the
   others have nothing of it. */
static void dropped_units_are_the_same_in_all_three_matrices(void **state)
{
    (void)state;
    enum { F = 20, H = 16 };
    static const char *const set[GROW_SET] = {"moe.top_k=2"};
    grow_model dense, moe;
    sy_probe says = {0};
    int64_t n = 0;
    int32_t kept_by_expert[GROW_E] = {0}, patterns = 0;
    grow_open_dense(&dense, "ref", grow_none, &says);
    grow_open(&moe, "ref", GROW_E, 1, set);
    assert_all_ok(
        grow_make(&dense, 1, &moe, (sy_recipe_spec){.method = SY_UPCYCLE_DROP, .drop_ratio = 0.5}));
    double *in = grow_fetch(&dense, "layers/001/mlp/gate_up", &n);
    double *out = grow_fetch(&dense, "layers/001/mlp/down", &n);
    double *ins = grow_fetch(&moe, "layers/001/moe/experts/gate_up", &n);
    double *outs = grow_fetch(&moe, "layers/001/moe/experts/down", &n);
    bool alike = true;
    uint32_t pattern[GROW_E] = {0};
    for (int32_t e = 0; e < GROW_E; e++) {
        for (int32_t f = 0; f < F; f++) {
            const double *gate = &ins[((int64_t)e * 2 * F + f) * H], *up = gate + (int64_t)F * H;
            bool same = memcmp(gate, &in[(int64_t)f * H], H * sizeof *gate) == 0;
            bool up_same = memcmp(up, &in[(int64_t)(F + f) * H], H * sizeof *up) == 0;
            for (int32_t h = 0; h < H; h++) {
                bool down_same = outs[((int64_t)e * H + h) * F + f] == out[(int64_t)h * F + f];
                alike = alike && down_same == same && (gate[h] == in[f * H + h]) == same;
            }
            alike = alike && up_same == same;
            kept_by_expert[e] += same;
            pattern[e] |= (uint32_t)same << f;
        }
        alike = alike && kept_by_expert[e] == F / 2;
        patterns += e > 0 && pattern[e] != pattern[e - 1];
    }
    assert_all(alike);
    assert_all(patterns > GROW_E / 2);
    free(outs);
    free(ins);
    free(out);
    free(in);
    grow_close(&moe);
    sy_probe_free(&says);
    grow_close(&dense);
}

/* ---- shuffled copies ---- */

enum { G = 4, N_SHUFFLED = 10, F_E = GROW_F / G };

/* The dense unit that unit u of expert e is, by its row of gate; -1: none. */
static int32_t origin(const double *ins, const double *in, int32_t e, int32_t u)
{
    const double *gate = &ins[((int64_t)e * 2 * F_E + u) * GROW_H];
    for (int32_t f = 0; f < GROW_F; f++) {
        if (memcmp(gate, &in[(int64_t)f * GROW_H], GROW_H * sizeof *gate) == 0) {
            return f;
        }
    }
    return -1;
}

/* Up and down have the same unit as gate, down times the granularity. */
static bool is_unit(const double *ins, const double *outs, const double *in, const double *out,
                    int32_t e, int32_t u, int32_t f)
{
    const double *up = &ins[((int64_t)e * 2 * F_E + F_E + u) * GROW_H];
    bool ok = f >= 0 && memcmp(up, &in[((int64_t)GROW_F + f) * GROW_H], GROW_H * sizeof *up) == 0;
    for (int32_t h = 0; ok && h < GROW_H; h++) {
        ok = outs[((int64_t)e * GROW_H + h) * F_E + u] == G * out[(int64_t)h * GROW_F + f];
    }
    return ok;
}

/* Four narrow experts have each unit of the dense MLP once, in an order of their own; of the last
   copy two are left out. */
static void shuffled_copies_have_every_unit_once(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"moe.top_k=4", "moe.expert_hidden=5"};
    const sy_recipe_spec spec = {
        .method = SY_UPCYCLE_GRANULAR, .granularity = G, .shuffle = true, .router_std = 1};
    grow_model dense, moe;
    sy_probe says = {0};
    int64_t n = 0;
    int32_t order[N_SHUFFLED * F_E], n_moved = 0, n_alike = 0;
    bool whole = true;
    grow_open_dense(&dense, "ref", grow_none, &says);
    assert_all(is_exact(grow_judge(&dense, 1, &says, spec, set)));
    grow_open(&moe, "ref", N_SHUFFLED, 1, set);
    assert_all_ok(grow_make(&dense, 1, &moe, spec));
    assert_all(!moe.preserves);
    double *in = grow_fetch(&dense, "layers/001/mlp/gate_up", &n);
    double *out = grow_fetch(&dense, "layers/001/mlp/down", &n);
    double *ins = grow_fetch(&moe, "layers/001/moe/experts/gate_up", &n);
    double *outs = grow_fetch(&moe, "layers/001/moe/experts/down", &n);
    for (int32_t i = 0; i < N_SHUFFLED * F_E; i++) {
        order[i] = origin(ins, in, i / F_E, i % F_E);
        whole = whole && is_unit(ins, outs, in, out, i / F_E, i % F_E, order[i]);
        for (int32_t k = i / GROW_F * GROW_F; k < i; k++) {
            whole = whole && order[k] != order[i];
        }
        n_moved += order[i] != i % GROW_F;
        n_alike += i >= GROW_F && order[i] == order[i - GROW_F];
    }
    assert_all(whole);
    assert_all(n_moved > N_SHUFFLED * F_E / 2 && n_alike < N_SHUFFLED * F_E / 2);
    free(outs);
    free(ins);
    free(out);
    free(in);
    grow_close(&moe);
    sy_probe_free(&says);
    grow_close(&dense);
}

/* ---- what is drawn anew ---- */

typedef struct moments {
    double mean, std;
    int64_t n;
} moments;

static moments moments_of(const double *x, int64_t n)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
    }
    for (int64_t i = 0; i < n; i++) {
        squares += (x[i] - sum / (double)n) * (x[i] - sum / (double)n);
    }
    return (moments){sum / (double)n, sqrt(squares / (double)(n - 1)), n};
}

/* Within four standard errors of a normal sample. */
static bool is_like(moments drawn, double factor, moments lost)
{
    const double error = factor * lost.std / sqrt((double)drawn.n);
    return fabs(drawn.mean - factor * lost.mean) <= 4 * error &&
           fabs(drawn.std - factor * lost.std) <= 4 * error / sqrt(2);
}

static bool contains(const double *x, int64_t n, double value)
{
    bool found = false;
    for (int64_t i = 0; i < n; i++) {
        found = found || x[i] == value;
    }
    return found;
}

typedef struct drawn_case {
    sy_recipe_spec spec;
    const char *width;
    double kept, factor; /* share of the dense weights; of down */
} drawn_case;

/* A ratio of 1 leaves nothing of the dense MLP, whose mean and spread the new weights have. */
static void weights_drawn_anew_are_like_those_that_went(void **state)
{
    (void)state;
    static const drawn_case cases[] = {
        {{.method = SY_UPCYCLE_DROP, .drop_ratio = 1}, "moe.expert_hidden=20", 0, 1},
        {{.method = SY_UPCYCLE_GRANULAR, .drop_ratio = 1, .granularity = 2, .shuffle = true},
         "moe.expert_hidden=10",
         0,
         2},
        {{.method = SY_UPCYCLE_GRANULAR, .drop_ratio = 0.5, .granularity = 2, .shuffle = true},
         "moe.expert_hidden=10",
         0.5,
         2}};
    grow_model dense, moe;
    sy_probe says = {0};
    int64_t n = 0, n_all = 0;
    grow_open_dense(&dense, "ref", grow_none, &says);
    double *out = grow_fetch(&dense, "layers/001/mlp/down", &n);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *const set[GROW_SET] = {"moe.top_k=2", cases[i].width};
        int64_t kept = 0;
        grow_open(&moe, "ref", GROW_E, 1, set);
        assert_all_ok(grow_make(&dense, 1, &moe, cases[i].spec));
        assert_all(!moe.preserves);
        double *outs = grow_fetch(&moe, "layers/001/moe/experts/down", &n_all);
        for (int64_t k = 0; k < n_all; k++) {
            kept += contains(out, n, outs[k] / cases[i].factor);
        }
        assert_all(fabs((double)kept / (double)n_all - cases[i].kept) <= 0.05);
        assert_all(is_like(moments_of(outs, n_all), cases[i].factor, moments_of(out, n)));
        free(outs);
        grow_close(&moe);
    }
    free(out);
    sy_probe_free(&says);
    grow_close(&dense);
}

/* ---- shared experts ---- */

typedef struct shared_case {
    const char *set[GROW_SET];
    sy_recipe_spec spec;
    double routed, shared; /* factors of down */
} shared_case;

static bool is_times(const double *x, const double *of, double factor, int64_t n)
{
    bool ok = true;
    for (int64_t i = 0; i < n; i++) {
        ok = ok && x[i] == factor * of[i];
    }
    return ok;
}

/* Half the function each, whatever a gate does: by the factors of the last matrices alone. */
static void shared_experts_and_routed_ones_make_half_each(void **state)
{
    (void)state;
    static const char whole[] = "moe.expert_hidden=20", half[] = "moe.expert_hidden=10";
    static const char width[] = "moe.shared_hidden=20";
    static const shared_case cases[] = {
        {{"moe.top_k=2", "moe.shared_experts=1", whole, width}, {.router_std = 1}, 0.5, 0.5},
        {{"moe.top_k=2", "moe.shared_experts=2", whole, width, "moe.shared_gate=true"},
         {.router_std = 1},
         0.5,
         1},
        {{"moe.top_k=4", "moe.shared_experts=2", half, width},
         {.method = SY_UPCYCLE_GRANULAR, .granularity = 2, .router_std = 1},
         1,
         0.5}};
    grow_model dense, moe;
    sy_probe says = {0};
    grow_open_dense(&dense, "ref", grow_none, &says);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const shared_case *c = &cases[i];
        int64_t n = 0, n_gate = 0;
        assert_all(is_exact(grow_judge(&dense, 1, &says, c->spec, c->set)));
        grow_open(&moe, "ref", GROW_E, 1, c->set);
        assert_all_ok(grow_make(&dense, 1, &moe, c->spec));
        double *mlp = grow_fetch(&dense, "layers/002/mlp/down", &n);
        double *shared = grow_fetch(&moe, "layers/002/moe/shared/down", &n);
        double *gate = grow_fetch(&moe, "layers/002/moe/shared/router", &n_gate);
        double *experts = grow_fetch(&moe, "layers/002/moe/experts/down", &n_gate);
        assert_all(is_times(shared, mlp, c->shared, n));
        assert_all(experts[0] == c->routed * mlp[0] && (c->shared < 1 || gate[GROW_H - 1] == 0));
        free(experts);
        free(gate);
        free(shared);
        free(mlp);
        grow_close(&moe);
    }
    sy_probe_free(&says);
    grow_close(&dense);
}

/* ---- several sources ---- */

static void close_three(grow_model *dense)
{
    for (int32_t i = 0; i < GROW_SOURCES; i++) {
        grow_close(&dense[i]);
    }
}

static void mix_of_equal_sources_is_the_source(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"moe.top_k=2"};
    grow_model dense[GROW_SOURCES];
    sy_probe says = {0};
    grow_open_three(dense, &says, true);
    assert_all(
        grow_judge(dense, GROW_SOURCES, &says, (sy_recipe_spec){.base = -1, .router_std = 1}, set)
            .gap <= 1e-12);
    close_three(dense);
    sy_probe_free(&says);
}

/* Experts bit for bit from their sources, the rest their mean, or one source's. */
static void mix_takes_experts_from_each_and_the_mean_of_the_rest(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"moe.top_k=2", "moe.layers=[1]"};
    grow_model dense[GROW_SOURCES], moe;
    sy_probe says = {0};
    grow_open_three(dense, &says, false);
    for (int32_t base = -1; base < GROW_SOURCES; base++) {
        int64_t n = 0, n_all = 0;
        double *of[GROW_SOURCES], *mean = NULL, *all = NULL;
        bool ok = true;
        grow_open(&moe, "ref", GROW_E, 1, set);
        assert_all_ok(grow_make(dense, GROW_SOURCES, &moe, (sy_recipe_spec){.base = base}));
        for (int32_t i = 0; i < GROW_SOURCES; i++) {
            of[i] = grow_fetch(&dense[i], "layers/000/attn/qkv", &n);
        }
        mean = grow_fetch(&moe, "layers/000/attn/qkv", &n);
        for (int64_t i = 0; i < n; i++) {
            double sum = ((0.0 + of[0][i]) + of[1][i]) + of[2][i];
            ok = ok && mean[i] == (base < 0 ? sum / GROW_SOURCES : of[base][i]);
        }
        free(mean);
        for (int32_t i = 0; i < GROW_SOURCES; i++) {
            free(of[i]);
            of[i] = grow_fetch(&dense[i], "layers/001/mlp/down", &n);
        }
        all = grow_fetch(&moe, "layers/001/moe/experts/down", &n_all);
        for (int64_t i = 0; i < n_all; i++) {
            ok = ok && all[i] == of[i / n % GROW_SOURCES][i % n];
        }
        free(all);
        for (int32_t i = 0; i < GROW_SOURCES; i++) {
            free(of[i]);
        }
        assert_all(ok && n_all == GROW_E * n);
        grow_close(&moe);
    }
    close_three(dense);
    sy_probe_free(&says);
}

/* The domain experts beside the seed model's MLP, which is always on. */
static void mix_with_an_expert_that_is_always_on_takes_it_from_the_base(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"moe.top_k=2", "moe.shared_experts=1"};
    grow_model dense[GROW_SOURCES], moe;
    sy_probe says = {0};
    int64_t n = 0, n_all = 0;
    grow_open_three(dense, &says, true);
    sy_recipe_spec spec = {.base = 2, .router_std = 1};
    assert_all(grow_judge(dense, GROW_SOURCES, &says, spec, set).gap <= 1e-12);
    close_three(dense);
    grow_open_three(dense, &says, false);
    grow_open(&moe, "ref", GROW_E, 1, set);
    assert_all_ok(grow_make(dense, GROW_SOURCES, &moe, spec));
    double *base = grow_fetch(&dense[2], "layers/001/mlp/down", &n);
    double *first = grow_fetch(&dense[0], "layers/001/mlp/down", &n);
    double *shared = grow_fetch(&moe, "layers/001/moe/shared/down", &n);
    double *experts = grow_fetch(&moe, "layers/001/moe/experts/down", &n_all);
    assert_all(is_times(shared, base, 0.5, n) && is_times(experts, first, 0.5, n));
    free(experts);
    free(shared);
    free(first);
    free(base);
    grow_close(&moe);
    close_three(dense);
    sy_probe_free(&says);
}

/* Models that differ in their last matrices alone: the mean of their MLPs is an MLP, that of the
   plain average. Routers of zero and all experts compute the same. */
static void mix_of_equal_weights_is_the_mean_of_the_experts(void **state)
{
    (void)state;
    static const char *const all[GROW_SET] = {"moe.top_k=12"};
    static const char *const two[GROW_SET] = {"moe.top_k=2"};
    static const sy_probe_spec probe = {.n_sequences = 3, .S = 12, .vocab_size = GROW_V, .seed = 2};
    const sy_recipe_spec spec = {.base = -1};
    grow_model dense[GROW_SOURCES], mean;
    sy_probe says = {0}, average = {0};
    grow_open_three(dense, &says, true);
    for (int32_t i = 1; i < GROW_SOURCES; i++) {
        for (int32_t layer = 0; layer < 3; layer++) {
            char name[32];
            snprintf(name, sizeof name, "layers/%03d/mlp/down", layer);
            assert_all_ok(sy_param_init(dense[i].engine->params,
                                        sy_params_find(dense[i].engine->params, name),
                                        40 + (uint64_t)i, dense[i].engine->compute_stream));
        }
    }
    grow_open(&mean, "ref", 0, 1, grow_none);
    assert_all_ok(grow_make(dense, GROW_SOURCES, &mean, spec));
    assert_all_ok(sy_probe_run(mean.engine, &probe, &average));
    assert_all(grow_judge(dense, GROW_SOURCES, &average, spec, all).gap <= 1e-12);
    assert_all(grow_judge(dense, GROW_SOURCES, &average, spec, two).gap > 1e-3);
    grow_close(&mean);
    close_three(dense);
    sy_probe_free(&average);
    sy_probe_free(&says);
}

/* ---- more tokens ---- */

/* Rows that are there stay; the others are their mean, here summed the other way round. */
static bool is_padded(const grow_model *m, const char *name, double *const *of, int32_t n_of)
{
    int64_t n = 0;
    double *x = grow_fetch(m, name, &n);
    bool ok = n == 300 * GROW_H;
    for (int64_t i = 0; ok && i < GROW_V * GROW_H; i++) {
        double sum = 0;
        for (int32_t s = 0; s < n_of; s++) {
            sum += of[s][i];
        }
        ok = x[i] == sum / n_of;
    }
    for (int64_t i = GROW_V * GROW_H; ok && i < n; i++) {
        double sum = 0;
        for (int64_t row = GROW_V - 1; row >= 0; row--) {
            sum += x[row * GROW_H + i % GROW_H];
        }
        ok = fabs(x[i] - sum / GROW_V) <= 1e-15;
    }
    free(x);
    return ok;
}

static void added_tokens_get_the_mean_row_and_change_no_logit(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"moe.top_k=2", "model.vocab_size=300"};
    static const char *const names[] = {"embed", "head"};
    grow_model dense[GROW_SOURCES], moe;
    sy_probe says = {0};
    grow_open_three(dense, &says, true);
    assert_all(is_exact(grow_judge(dense, 1, &says, (sy_recipe_spec){.router_std = 1}, set)));
    close_three(dense);
    grow_open_three(dense, &says, false);
    for (int32_t n = 1; n <= GROW_SOURCES; n += 2) {
        grow_open(&moe, "ref", GROW_E, 1, set);
        assert_all_ok(grow_make(dense, n, &moe, (sy_recipe_spec){.base = -1}));
        for (int32_t k = 0; k < 2; k++) {
            double *of[GROW_SOURCES];
            int64_t numel = 0;
            for (int32_t s = 0; s < n; s++) {
                of[s] = grow_fetch(&dense[s], names[k], &numel);
            }
            assert_all(is_padded(&moe, names[k], of, n));
            for (int32_t s = 0; s < n; s++) {
                free(of[s]);
            }
        }
        grow_close(&moe);
    }
    close_three(dense);
    sy_probe_free(&says);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GROW_CASE(granular_experts_in_whole_copies_keep_the_function),
        GROW_CASE(methods_that_change_nothing_keep_the_function_exactly),
        GROW_CASE(dropped_units_are_the_same_in_all_three_matrices),
        GROW_CASE(shuffled_copies_have_every_unit_once),
        GROW_CASE(weights_drawn_anew_are_like_those_that_went),
        GROW_CASE(shared_experts_and_routed_ones_make_half_each),
        GROW_CASE(mix_of_equal_sources_is_the_source),
        GROW_CASE(mix_takes_experts_from_each_and_the_mean_of_the_rest),
        GROW_CASE(mix_with_an_expert_that_is_always_on_takes_it_from_the_base),
        GROW_CASE(mix_of_equal_weights_is_the_mean_of_the_experts),
        GROW_CASE(added_tokens_get_the_mean_row_and_change_no_logit),
    };
    return mpi_test_main("recipe", tests, sizeof tests / sizeof tests[0]);
}
