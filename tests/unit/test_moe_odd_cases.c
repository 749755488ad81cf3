/* The whole model where a micro-batch, a token or an expert has nothing, or everything: no tokens,
   an idle expert, one expert for all, experts that begin as nothing, equal logits. And how often
   the host waits. */
#include "tests/support/small_model.h"

static void assert_grads_finite(rig *r, double *largest)
{
    *largest = 0;
    for (int32_t i = 0; i < r->e->params->n; i++) {
        const sy_tensor *g = &r->e->params->param[i]->grad;
        for (int64_t k = 0; g->data != NULL && k < sy_tensor_numel(g); k++) {
            double x = get(r, g, k);
            assert_true(isfinite(x));
            *largest = fmax(*largest, fabs(x));
        }
    }
}

static void pass_without_tokens_leaves_gradients_at_zero(void **state)
{
    (void)state;
    static const char *const sets[][MAX_SET] = {
        {"moe.shared_experts=1"},
        {DEEPSEEK},
        {"moe.router=grouped", "moe.grouped.groups=2", "moe.grouped.group_loss_coeff=0.4"},
        {MODULES("1", "2")},
        {NF4},
        {"moe.adapter_kind=bottleneck", "moe.adapter_rank=3"},
        {"moe.router=soft", "moe.aux_loss_coeff=0", "moe.adapter_kind=molora",
         "moe.adapter_rank=2"},
        {"moe.router=soft", "moe.aux_loss_coeff=0", "moe.adapter_kind=mov"},
        {WIDTHS, "moe.width_penalty=true", "moe.capacity_factor=0.7", "moe.capacity_group=4"},
        {"model.depth_capacity=0.5", "model.depth_layers=all", "moe.extra_ffn=true"},
        {"moe.capacity_factor=0.7", "moe.drop_policy=batch_priority", "moe.capacity_scope=global"},
        {"moe.capacity_factor=0.7", "moe.drop_policy=random", "moe.drop_weights=renormalize"},
        {"moe.experts=0", "model.peer_keys=3", "model.peer_top_k=2"},
        {"moe.router=moepp", "moe.capacity_factor=1.0"},
        {"moe.router=stable", NO_LOSSES},
        {"moe.capacity_factor=1.0", "moe.pad_to_capacity=true"},
        {"train.recompute=block", "moe.aux_loss_scope=global_batch"}};
    for (size_t k = 0; k < sizeof sets / sizeof sets[0]; k++) {
        rig r;
        double largest = 1;
        open_rig(&r, sets[k]);
        sy_batch batch = view(&r);
        batch.B = 0;
        zero_grads(&r);
        assert_true(loss_of(&r, &batch, NULL) == 0);
        assert_grads_finite(&r, &largest);
        assert_true(largest == 0);
        close_rig(&r);
    }
}

/* The output of a layer that begins as nothing: its block begins as its attention alone. */
static void base_experts_begin_with_outputs_of_zero(void **state)
{
    (void)state;
    const char *overrides[MAX_SET] = {"moe.router=base", NO_LOSSES};
    rig r;
    open_fresh(&r, overrides);
    must(sy_params_init(r.e->params, 5, r.e->compute_stream));
    sy_batch batch = view(&r);
    loss_of(&r, &batch, NULL);
    for (int32_t i = 0; i < L; i++) {
        const double *sums = r.e->h_sums + 2 + (int64_t)i * SY_N_SUMS;
        assert_true(sums[SY_SUM_INPUT] > 0 && sums[SY_SUM_OUTPUT] == 0);
    }
    close_rig(&r);
}

static void set_bias(rig *r, int32_t layer, int32_t expert, double x)
{
    char name[SY_PARAM_NAME];
    snprintf(name, sizeof name, "layers/%03d/moe/bias", layer);
    const sy_param *p = sy_params_find(r->e->params, name);
    assert_non_null(p);
    set(r, &p->value, expert, x);
}

/* b += rate * sign(mean load - load), once per step, not where it is skipped; nothing allocated. */
static void bias_moves_against_the_load(void **state)
{
    (void)state;
    const char *overrides[MAX_SET] = {"moe.bias_update_rate=0.125", "moe.bias_update_steps=7"};
    static const double sign[E] = {-1, 1, 0, 1};
    int64_t loads[L * E], n_allocs;
    rig r;
    open_rig(&r, overrides);
    for (int32_t i = 0; i < L * E; i++) {
        static const int64_t load[E] = {9, 2, 4, 1};
        loads[i] = load[i % E];
        set_bias(&r, i / E, i % E, 0.5);
    }
    n_allocs = sy_alloc_total();
    sy_step_end end = {.h_load = loads, .L = L, .E = E, .step = 7, .stream = r.e->compute_stream};
    end.skipped = true;
    must(sy_model_end_step(r.e->model, &end));
    end.skipped = false;
    must(sy_model_end_step(r.e->model, &end));
    end.step = 8;
    must(sy_model_end_step(r.e->model, &end));
    assert_int_equal(sy_alloc_total(), n_allocs);
    for (int32_t i = 0; i < L * E; i++) {
        char name[SY_PARAM_NAME];
        snprintf(name, sizeof name, "layers/%03d/moe/bias", i / E);
        const sy_param *p = sy_params_find(r.e->params, name);
        assert_true(get(&r, &p->value, i % E) == 0.5 + 0.125 * sign[i % E]);
    }
    close_rig(&r);
}

/* Of every kind of routed experts. */
static void expert_without_tokens_has_no_gradient(void **state)
{
    (void)state;
    static const char *const kinds[][MAX_SET] = {
        {"moe.bias_update_rate=0.1"},
        {"moe.bias_update_rate=0.1", "moe.adapter_rank=3"},
        {"moe.bias_update_rate=0.1", NF4},
        {"moe.bias_update_rate=0.1", "moe.adapter_kind=bottleneck", "moe.adapter_rank=3"},
        {"moe.bias_update_rate=0.1", WIDTHS},
        {"moe.bias_update_rate=0.1", "model.activation=swiglu_linear", "moe.recv_factor=0.2"},
        {"moe.bias_update_rate=0.1", "model.activation=relu", "moe.capacity_factor=1.0",
         "moe.pad_to_capacity=true"}};
    for (size_t c = 0; c < sizeof kinds / sizeof kinds[0]; c++) {
        int64_t loads[N_LOADS];
        double largest = 0;
        int32_t n_tensors = 0;
        rig r;
        open_rig(&r, kinds[c]);
        sy_batch batch = view(&r);
        for (int32_t i = 0; i < L; i++) {
            set_bias(&r, i, 2, -1e3);
        }
        zero_grads(&r);
        assert_true(isfinite(loss_of(&r, &batch, loads)));
        assert_grads_finite(&r, &largest);
        assert_true(largest > 0);
        for (int32_t i = 0; i < L; i++) {
            assert_int_equal(loads[i * E + 2], 0);
        }
        for (int32_t i = 0; i < r.e->params->n; i++) {
            const sy_param *p = r.e->params->param[i];
            const int64_t per_expert = sy_tensor_numel(&p->grad) / E;
            if (strstr(p->spec.name, "/moe/experts/") == NULL) {
                continue;
            }
            for (int64_t k = 2 * per_expert; k < 3 * per_expert; k++) {
                assert_true(get(&r, &p->grad, k) == 0);
            }
            n_tensors++;
        }
        assert_true(n_tensors >= 2 * L);
        close_rig(&r);
    }
}

static void one_expert_for_all_tokens_stays_finite(void **state)
{
    (void)state;
    static const char *const sets[3][MAX_SET] = {
        {"moe.bias_update_rate=0.1", "moe.top_k=1"},
        {"moe.bias_update_rate=0.1", "moe.top_k=1", "moe.recv_factor=0.2"},
        {"moe.bias_update_rate=0.1", "moe.top_k=1", "moe.capacity_factor=1.0"}};
    for (int32_t k = 0; k < 3; k++) {
        int64_t loads[N_LOADS];
        double largest = 0;
        rig r;
        open_rig(&r, sets[k]);
        sy_batch batch = view(&r);
        for (int32_t i = 0; i < L; i++) {
            set_bias(&r, i, 1, 1e3);
        }
        zero_grads(&r);
        assert_true(isfinite(loss_of(&r, &batch, loads)));
        assert_grads_finite(&r, &largest);
        for (int32_t i = 0; i < L; i++) {
            assert_int_equal(loads[i * E + 1], T);
            assert_int_equal(loads[(L + i) * E + 1], k == 2 ? (T + E - 1) / E : T);
        }
        close_rig(&r);
    }
}

/* With equal logits the balance loss is 1, the z-loss (ln E)^2, the entropy ln E. */
static void losses_of_equal_logits_are_known(void **state)
{
    (void)state;
    static const char *const scopes[3] = {"moe.aux_loss_scope=micro_batch",
                                          "moe.aux_loss_scope=sequence",
                                          "moe.aux_loss_scope=global_batch"};
    for (int32_t k = 0; k < 3; k++) {
        const char *overrides[MAX_SET] = {scopes[k]};
        const double share = T / 13.0; /* per_routed_token is 1/13 here */
        rig r;
        open_rig(&r, overrides);
        sy_batch batch = view(&r);
        for (int32_t i = 0; i < L; i++) {
            char name[SY_PARAM_NAME];
            snprintf(name, sizeof name, "layers/%03d/moe/router", i);
            const sy_param *p = sy_params_find(r.e->params, name);
            must(sy_zero(r.e->compute_stream, p->value.data, sy_tensor_bytes(&p->value)));
        }
        loss_of(&r, &batch, NULL);
        for (int32_t i = 0; i < L; i++) {
            const double *sums = r.e->h_sums + 2 + (int64_t)i * SY_N_SUMS;
            assert_true(fabs(sums[SY_SUM_AUX] - share) < 1e-12);
            assert_true(fabs(sums[SY_SUM_Z] - share * log(E) * log(E)) < 1e-12);
            assert_true(fabs(sums[SY_SUM_ENTROPY] - T * log(E)) < 1e-12 * T);
        }
        close_rig(&r);
    }
}

/* ---- waiting ---- */

static int64_t waits_of(const char *const *overrides)
{
    rig r;
    open_rig(&r, overrides);
    sy_batch batch = view(&r);
    const int64_t before = r.e->dev->ledger.n_host_waits;
    loss_of(&r, &batch, NULL);
    const int64_t n = r.e->dev->ledger.n_host_waits - before;
    close_rig(&r);
    return n;
}

/* A router on the host waits for the device twice in each layer; one made of ops never. */
static void grouped_makes_the_host_wait_no_more_than_topk(void **state)
{
    (void)state;
    const char *const topk[MAX_SET] = {"moe.router=topk"};
    const char *const remoe[MAX_SET] = {"moe.router=remoe", NO_LOSSES};
    const char *const v2[MAX_SET] = {"moe.router=grouped", "moe.grouped.groups=2",
                                     "moe.grouped.group_loss_coeff=0.4"};
    const char *const v3[MAX_SET] = {DEEPSEEK, "moe.grouped.group_score=top2"};
    const char *const plain[MAX_SET] = {LATENT, "moe.layers=from:1", "moe.shared_experts=1"};
    assert_int_equal(waits_of(remoe), waits_of(topk) + 2 * L);
    assert_int_equal(waits_of(v2), waits_of(topk));
    assert_int_equal(waits_of(v3), waits_of(plain));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pass_without_tokens_leaves_gradients_at_zero),
        cmocka_unit_test(base_experts_begin_with_outputs_of_zero),
        cmocka_unit_test(bias_moves_against_the_load),
        cmocka_unit_test(expert_without_tokens_has_no_gradient),
        cmocka_unit_test(one_expert_for_all_tokens_stays_finite),
        cmocka_unit_test(losses_of_equal_logits_are_known),
        cmocka_unit_test(grouped_makes_the_host_wait_no_more_than_topk),
    };
    return cmocka_run_group_tests_name("moe_odd_cases", tests, NULL, NULL);
}
