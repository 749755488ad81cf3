/* The whole model on ref, router included, against central differences of the loss that is trained
   on: cross-entropy, balance loss and z-loss together. Choices of experts carry no gradient: where
   a nudge changes one, the coordinate is left out. And recomputing changes no bit. */
#include "tests/support/small_model.h"

enum { PER_PARAM = 5 };

/* ---- central differences ---- */

typedef struct tally {
    int32_t n_checked, n_skipped, n_wrong;
    double worst;
} tally;

/* Fourth order; false where a choice of experts changed on the way. */
static bool difference(rig *r, const sy_tensor *value, int64_t i, const int64_t *loads, double *out)
{
    static const double at[4] = {-2, -1, 1, 2}, weight[4] = {1, -8, 8, -1};
    const double h = 1e-4, x = get(r, value, i);
    sy_batch batch = view(r);
    bool same = true;
    *out = 0;
    for (int32_t k = 0; k < 4 && same; k++) {
        int64_t now[N_LOADS];
        set(r, value, i, x + at[k] * h);
        *out += weight[k] * loss_of(r, &batch, now) / (12 * h);
        same = memcmp(now, loads, sizeof now) == 0;
    }
    set(r, value, i, x);
    return same;
}

/* A few coordinates of a parameter, the one with the largest gradient among them. */
static void check_param(rig *r, const sy_param *p, const int64_t *loads, tally *sum)
{
    int64_t n = sy_tensor_numel(&p->value), largest = 0;
    double *grad = calloc((size_t)n, sizeof *grad);
    assert_non_null(grad);
    must(sy_copy_d2h(r->e->compute_stream, grad, p->grad.data, sy_tensor_bytes(&p->grad)));
    must(sy_stream_sync(r->e->compute_stream));
    for (int64_t i = 0; i < n; i++) {
        largest = fabs(grad[i]) > fabs(grad[largest]) ? i : largest;
    }
    r->of_predictor =
        strstr(p->spec.name, "/depth/") != NULL && strstr(p->spec.name, "/router") == NULL;
    const bool routes =
        strstr(p->spec.name, "/moe/") != NULL && strstr(p->spec.name, "/experts/") == NULL;
    for (int32_t k = 0; k < (routes ? 3 * PER_PARAM : PER_PARAM); k++) {
        uint64_t draw = sy_rng_u64(9, sy_rng_stream_of(p->spec.name), (uint64_t)k);
        int64_t i = k == 0 ? largest : (int64_t)(draw % (uint64_t)n);
        double found = 0, gap;
        if (!difference(r, &p->value, i, loads, &found)) {
            sum->n_skipped++;
            continue;
        }
        gap = fabs(found - grad[i]) / (1e-6 * fmax(fabs(found), fabs(grad[i])) + 1e-9);
        sum->n_checked++;
        sum->worst = fmax(sum->worst, gap);
        if (!(gap <= 1)) {
            sum->n_wrong++;
            print_error("%s[%ld]: gradient %.12g, by differences %.12g\n", p->spec.name, (long)i,
                        grad[i], found);
        }
    }
    free(grad);
}

typedef struct check_case {
    const char *name;
    const char *set[MAX_SET];
    bool with_mask, with_weight, with_doc;
} check_case;

static void gradient_is_that_of_the_loss(void **state)
{
    const check_case *c = *state;
    int64_t loads[N_LOADS];
    tally sum = {0};
    rig r;
    open_rig(&r, c->set);
    r.with_mask = c->with_mask;
    r.with_weight = c->with_weight;
    r.with_doc = c->with_doc;
    sy_batch batch = view(&r);
    zero_grads(&r);
    assert_true(isfinite(loss_of(&r, &batch, loads)));
    /* the gradients of later calls are added up as well: keep the first ones apart */
    int64_t n_params = r.e->params->n;
    sy_tensor *kept = calloc((size_t)n_params, sizeof *kept);
    assert_non_null(kept);
    for (int32_t i = 0; i < n_params; i++) {
        sy_param *p = r.e->params->param[i];
        kept[i] = p->grad;
        if (p->grad.data != NULL) {
            void *copy = NULL;
            must(sy_device_alloc(r.e->dev, sy_tensor_bytes(&p->grad), SY_MEM_OTHER, &copy));
            must(sy_copy_d2d(r.e->compute_stream, copy, p->grad.data, sy_tensor_bytes(&p->grad)));
            kept[i].data = copy;
        }
    }
    for (int32_t i = 0; i < n_params; i++) {
        sy_param view_of = *r.e->params->param[i];
        view_of.grad = kept[i];
        if (kept[i].data != NULL) {
            check_param(&r, &view_of, loads, &sum);
        }
    }
    for (int32_t i = 0; i < n_params; i++) {
        if (kept[i].data != NULL) {
            sy_device_free(r.e->dev, &kept[i].data);
        }
    }
    free(kept);
    print_message("%s: %d coordinates, %d skipped, worst %.2g of the bound\n", c->name,
                  sum.n_checked, sum.n_skipped, sum.worst);
    assert_int_equal(sum.n_wrong, 0);
    assert_true(sum.n_checked >= 50 && sum.n_skipped * 10 < sum.n_checked);
    close_rig(&r);
}

/* One row per router on the host, with what only it has. */
#define ROUTER(router, ...)                                                                        \
    {                                                                                              \
        .name = "gradient_router_" router "_is_that_of_the_loss",                                  \
        .set = {"moe.router=" router, __VA_ARGS__}, .with_mask = true                              \
    }

static const check_case cases[] = {
    {.name = "gradient_form_a_is_that_of_the_loss", .set = {"moe.top_k=2"}},
    {.name = "gradient_form_b_is_that_of_the_loss",
     .set = {"moe.top_k=2", "moe.normalize_weights=false"}},
    {.name = "gradient_switch_is_that_of_the_loss", .set = {"moe.top_k=1"}},
    {.name = "gradient_form_c_is_that_of_the_loss",
     .set = {"moe.top_k=2", "moe.score=sigmoid", "moe.routed_scale=2.5"}},
    {.name = "gradient_form_e_is_that_of_the_loss", .set = {"moe.top_k=1", "moe.score=sigmoid"}},
    {.name = "gradient_with_all_experts_is_that_of_the_loss", .set = {"moe.top_k=4"}},
    {.name = "gradient_micro_batch_scope_is_that_of_the_loss",
     .set = {"moe.aux_loss_scope=micro_batch"}},
    {.name = "gradient_global_scope_is_that_of_the_loss",
     .set = {"moe.aux_loss_scope=global_batch", "moe.score=sigmoid"}},
    {.name = "gradient_capacity_by_position_is_that_of_the_loss",
     .set = {"moe.capacity_factor=0.7"}},
    {.name = "gradient_capacity_by_probability_is_that_of_the_loss",
     .set = {"moe.capacity_factor=0.7", "moe.drop_policy=probability"}},
    {.name = "gradient_weights_renormalized_after_drops_is_that_of_the_loss",
     .set = {"moe.capacity_factor=0.7", "moe.drop_weights=renormalize", "moe.routed_scale=1.5",
             "moe.score=sigmoid", "moe.top_k=3", "moe.drop_policy=token_position"},
     .with_mask = true},
    {.name = "gradient_first_choices_counted_is_that_of_the_loss",
     .set = {"moe.aux_loss_counts=first", "moe.capacity_factor=0.7", "moe.drop_policy=random",
             "moe.capacity_group=4"}},
    {.name = "gradient_padded_is_that_of_the_loss",
     .set = {"moe.capacity_factor=0.7", "moe.pad_to_capacity=true"}},
    {.name = "gradient_padded_form_b_is_that_of_the_loss",
     .set = {"moe.capacity_factor=0.7", "moe.pad_to_capacity=true", "moe.normalize_weights=false"}},
    {.name = "gradient_with_jitter_is_that_of_the_loss", .set = {"moe.jitter=0.3"}},
    {.name = "gradient_several_passes_is_that_of_the_loss", .set = {"moe.recv_factor=0.2"}},
    {.name = "gradient_recompute_moe_is_that_of_the_loss", .set = {"train.recompute=moe"}},
    {.name = "gradient_recompute_block_is_that_of_the_loss",
     .set = {"train.recompute=block", "moe.jitter=0.3", "moe.capacity_factor=0.7",
             "moe.shared_experts=1", "moe.shared_gate=true", "moe.aux_loss_scope=global_batch"}},
    {.name = "gradient_latent_attention_is_that_of_the_loss",
     .set = {LATENT, "model.q_lora_rank=3", "model.rope_interleaved=true",
             "train.recompute=block"}},
    {.name = "gradient_latent_attention_with_plain_queries_is_that_of_the_loss",
     .set = {LATENT, "model.activation=swiglu_linear"}},
    {.name = "gradient_deepseek_is_that_of_the_loss",
     .set = {DEEPSEEK, "moe.grouped.group_score=top2", "train.recompute=block"},
     .with_mask = true},
    {.name = "gradient_shared_experts_is_that_of_the_loss", .set = {"moe.shared_experts=2"}},
    {.name = "gradient_adapter_experts_is_that_of_the_loss", .set = {"moe.adapter_rank=3"}},
    {.name = "gradient_bottleneck_adapters_is_that_of_the_loss",
     .set = {"moe.adapter_kind=bottleneck", "moe.adapter_rank=3", "moe.recv_factor=0.2",
             "moe.normalize_weights=false", "moe.capacity_factor=0.7"},
     .with_mask = true},
    {.name = "gradient_bottleneck_adapters_recompute_block_is_that_of_the_loss",
     .set = {"moe.adapter_kind=bottleneck", "moe.adapter_rank=3", "train.recompute=block",
             "moe.shared_experts=1"}},
    {.name = "gradient_deltas_on_four_bits_is_that_of_the_loss",
     .set = {NF4, "model.init_std=0.4"}},
    {.name = "gradient_bottlenecks_on_four_bits_is_that_of_the_loss",
     .set = {NF4, "model.init_std=0.4", "moe.adapter_kind=bottleneck"}},
    {.name = "gradient_router_soft_is_that_of_the_loss",
     .set = {"moe.router=soft", "moe.aux_loss_coeff=0", "moe.routed_scale=2"},
     .with_mask = true},
    {.name = "gradient_mixed_deltas_is_that_of_the_loss",
     .set = {"moe.router=soft", "moe.aux_loss_coeff=0", "moe.adapter_kind=molora",
             "moe.adapter_rank=3", "moe.shared_experts=1", "train.recompute=block"}},
    {.name = "gradient_mixed_vectors_is_that_of_the_loss",
     .set = {"moe.router=soft", "moe.aux_loss_coeff=0", "moe.adapter_kind=mov"},
     .with_mask = true},
    {.name = "gradient_vectors_on_keys_and_values_is_that_of_the_loss",
     .set = {"moe.router=soft", "moe.aux_loss_coeff=0", "moe.adapter_kind=mov",
             "moe.adapter_attention=true", "model.qk_norm=full", "model.attention_bias=true",
             "model.kv_heads=2", "train.recompute=block"},
     .with_doc = true},
    {.name = "gradient_gated_shared_experts_is_that_of_the_loss",
     .set = {"moe.shared_experts=1", "moe.shared_gate=true", "moe.shared_hidden=7"}},
    {.name = "gradient_geglu_with_extra_ffn_and_output_z_is_that_of_the_loss",
     .set = {"model.activation=geglu", "moe.extra_ffn=true", "moe.layers=[1]",
             "model.output_z_loss_coeff=0.1", "train.recompute=block"}},
    {.name = "gradient_relu_is_that_of_the_loss",
     .set = {"model.activation=relu", "moe.shared_experts=1"}},
    {.name = "gradient_gelu_is_that_of_the_loss",
     .set = {"model.activation=gelu", "moe.layers=[0, 2]", "moe.recv_factor=0.2"}},
    {.name = "gradient_swiglu_linear_is_that_of_the_loss",
     .set = {"model.activation=swiglu_linear", "moe.extra_ffn=true", MULTIPLIERS}},
    {.name = "gradient_with_bias_is_that_of_the_loss",
     .set = {"moe.bias_update_rate=0.1", "moe.score=sigmoid"}},
    {.name = "gradient_qk_norm_per_head_is_that_of_the_loss",
     .set = {"model.qk_norm=head", "model.attention_bias=true"}},
    {.name = "gradient_qk_norm_full_is_that_of_the_loss",
     .set = {"model.qk_norm=full", "model.tie_embeddings=true"}},
    {.name = "gradient_multipliers_is_that_of_the_loss",
     .set = {MULTIPLIERS, "moe.shared_experts=1"},
     .with_weight = true},
    {.name = "gradient_multipliers_tied_recompute_block_is_that_of_the_loss",
     .set = {MULTIPLIERS, "model.tie_embeddings=true", "train.recompute=block"}},
    {.name = "gradient_multipliers_recompute_moe_is_that_of_the_loss",
     .set = {MULTIPLIERS, "train.recompute=moe", "moe.recv_factor=0.2"}},
    {.name = "gradient_linear_rope_is_that_of_the_loss",
     .set = {"model.rope_scaling=linear", "model.rope_factor=3"}},
    {.name = "gradient_llama3_rope_is_that_of_the_loss",
     .set = {"model.rope_scaling=llama3", "model.rope_factor=8", "model.rope_original_seq_len=16",
             "model.qk_norm=head"}},
    {.name = "gradient_mixed_layers_is_that_of_the_loss",
     .set = {"moe.layers=[0, 2]", "model.attention_bias=true"}},
    {.name = "gradient_dense_is_that_of_the_loss", .set = {"moe.experts=0"}},
    {.name = "gradient_with_padding_is_that_of_the_loss", .with_mask = true},
    {.name = "gradient_with_padding_and_capacity_is_that_of_the_loss",
     .set = {"moe.capacity_factor=0.7", "moe.aux_loss_scope=global_batch"},
     .with_mask = true,
     .with_doc = true},
    {.name = "gradient_experts_of_different_width_is_that_of_the_loss",
     .set = {WIDTHS, "moe.width_penalty=true", "moe.recv_factor=0.2"},
     .with_mask = true},
    {.name = "gradient_experts_of_different_width_any_number_is_that_of_the_loss",
     .set = {WIDTHS, "moe.width_penalty=true", "moe.router=top_p", "moe.top_p.threshold=0.6",
             "train.recompute=moe"}},
    ROUTER("grouped", "moe.experts=4", "moe.grouped.groups=2", "moe.grouped.group_loss_coeff=0.4",
           "moe.grouped.comm_loss_coeff=0.3"),
    ROUTER("grouped", "moe.grouped.groups=2", "moe.grouped.group_score=top2",
           "moe.bias_update_rate=0.1", "moe.score=sigmoid", "moe.routed_scale=2.5"),
    ROUTER("gshard", "moe.capacity_factor=0.7", "moe.drop_weights=renormalize",
           "moe.drop_policy=batch_priority", "moe.pad_to_capacity=true"),
    ROUTER("gshard", "moe.gshard.second=sampling", "moe.normalize_weights=false"),
    ROUTER("noisy", NO_LOSSES, "moe.noisy.importance_coeff=0.3", "moe.noisy.load_coeff=0.2"),
    ROUTER("sinkhorn", NO_LOSSES, "moe.recv_factor=0.2"),
    ROUTER("sinkhorn", NO_LOSSES, "moe.top_k=1", "train.recompute=block"),
    ROUTER("hash", NO_LOSSES),
    ROUTER("top_p", "moe.top_p.entropy_coeff=0.2", "moe.top_p.threshold=0.6", "moe.jitter=0.3"),
    ROUTER("remoe", NO_LOSSES, "moe.remoe.lambda=0.3", "moe.routed_scale=1.5"),
    ROUTER("adamoe", "moe.adamoe.null_experts=3", "moe.top_k=3", "moe.aux_loss_scope=micro_batch"),
    ROUTER("prototype", "moe.aux_loss_coeff=0", "moe.routed_scale=2"),
    ROUTER("yuan", "moe.score=softmax"),
    ROUTER("yuan", "moe.score=sigmoid", "moe.aux_loss_scope=micro_batch"),
    ROUTER("cosine", "moe.cosine.dim=3", "moe.cosine.temperature=0.4", "moe.jitter=0.2"),
    ROUTER("skywork", "moe.skywork.scale=1.5", "moe.capacity_factor=0.7"),
    ROUTER("maskmoe", "moe.maskmoe.visible=3", "moe.maskmoe.frequent_ids=100"),
    ROUTER("expert_choice", NO_LOSSES, "moe.look_ahead=true", "moe.expert_choice.factor=1.7"),
    ROUTER("moepp", "moe.capacity_factor=0.8", "moe.normalize_weights=false"),
    ROUTER("moepp", "moe.top_k=3", "train.recompute=block", "moe.layers=[0, 2]",
           "moe.aux_loss_scope=micro_batch", "moe.jitter=0.2"),
    ROUTER("moepp", "moe.moepp.residual=false", "moe.moepp.constant_experts=0",
           "moe.moepp.zero_experts=0", "train.recompute=moe", "moe.shared_experts=1"),
    ROUTER("stable", NO_LOSSES, "moe.stable.dim=3", "moe.capacity_factor=1.5"),
    ROUTER("base", NO_LOSSES, "moe.routed_scale=1.5", "train.recompute=block"),
    {.name = "gradient_depth_dense_is_that_of_the_loss",
     .set = {"moe.experts=0", "model.depth_capacity=0.5", "model.depth_predictor_coeff=0.7"},
     .with_doc = true},
    {.name = "gradient_depth_of_experts_is_that_of_the_loss",
     .set = {"model.depth_capacity=0.5", "model.depth_layers=[0, 2]", "model.tie_embeddings=true",
             "model.depth_predictor_coeff=0.7", "moe.recv_factor=0.2"},
     .with_mask = true},
    {.name = "gradient_depth_recompute_block_is_that_of_the_loss",
     .set = {"model.depth_capacity=0.34", "model.depth_layers=all", "train.recompute=block",
             "model.residual_multiplier=0.4", "moe.router=grouped", "moe.grouped.groups=2",
             "moe.extra_ffn=true", "model.activation=gelu_erf"},
     .with_mask = true,
     .with_doc = true},
    {.name = "gradient_peer_is_that_of_the_loss",
     .set = {"moe.experts=0", "model.peer_keys=3", "model.peer_heads=2", "model.peer_top_k=2",
             "model.peer_query=6"}},
    {.name = "gradient_peer_beside_experts_is_that_of_the_loss",
     .set = {"moe.layers=[1]", "model.peer_layers=[0, 2]", "model.peer_keys=3",
             "model.peer_heads=2", "model.peer_top_k=3", "model.peer_query=4",
             "train.recompute=block"},
     .with_mask = true},
    {.name = "gradient_further_tokens_is_that_of_the_loss",
     .set = {MODULES("2", "1"), "moe.score=sigmoid", "moe.bias_update_rate=0.1",
             "train.recompute=block"},
     .with_mask = true},
    {.name = "gradient_further_tokens_latent_is_that_of_the_loss",
     .set = {MODULES("1", "2"), DEEPSEEK},
     .with_doc = true},
    {.name = "gradient_further_tokens_dense_tied_is_that_of_the_loss",
     .set = {MODULES("2", "1"), "moe.experts=0", "model.tie_embeddings=true",
             "model.embedding_multiplier=3", "model.logits_scaling=1.7",
             "model.output_z_loss_coeff=0.1"},
     .with_doc = true},
    {.name = "gradient_further_tokens_of_joined_routers_is_that_of_the_loss",
     .set = {MODULES("1", "2"), "moe.router=moepp", "moe.normalize_weights=false"}},
    {.name = "gradient_with_loss_weights_is_that_of_the_loss",
     .with_weight = true,
     .with_doc = true},
};

enum { N_CASES = sizeof cases / sizeof cases[0] };

/* ---- recompute ---- */

/* Loss and all gradients, as bytes. */
static double *everything(const char *const *overrides, int64_t *n)
{
    rig r;
    open_rig(&r, overrides);
    sy_batch batch = view(&r);
    zero_grads(&r);
    double loss = loss_of(&r, &batch, NULL), *all = NULL;
    *n = 1;
    for (int32_t i = 0; i < r.e->params->n; i++) {
        *n += sy_tensor_numel(&r.e->params->param[i]->grad);
    }
    all = calloc((size_t)*n, sizeof *all);
    assert_non_null(all);
    all[0] = loss;
    for (int64_t i = 0, at = 1; i < r.e->params->n; i++) {
        const sy_tensor *g = &r.e->params->param[i]->grad;
        if (g->data != NULL) {
            must(sy_copy_d2h(r.e->compute_stream, all + at, g->data, sy_tensor_bytes(g)));
            at += sy_tensor_numel(g);
        }
    }
    must(sy_stream_sync(r.e->compute_stream));
    close_rig(&r);
    return all;
}

static void recompute_any_kind_gives_the_same_bits(void **state)
{
    (void)state;
    static const char *const kinds[3] = {"train.recompute=none", "train.recompute=moe",
                                         "train.recompute=block"};
    static const char *const passes[2] = {"moe.recv_factor=2.0", "moe.recv_factor=0.3"};
    double *first = NULL;
    int64_t n_first = 0, n = 0;
    for (int32_t k = 0; k < 6; k++) {
        const char *set[MAX_SET] = {kinds[k % 3], "moe.jitter=0.2", "moe.shared_experts=1",
                                    passes[k / 3]};
        double *now = everything(set, &n);
        if (k % 3 == 0) {
            free(first);
            first = now;
            n_first = n;
            continue;
        }
        assert_int_equal(n, n_first);
        assert_memory_equal(now, first, (size_t)n * sizeof *now);
        free(now);
    }
    free(first);
}

int main(void)
{
    struct CMUnitTest tests[N_CASES + 1] = {
        cmocka_unit_test(recompute_any_kind_gives_the_same_bits),
    };
    for (int32_t i = 0; i < N_CASES; i++) {
        tests[1 + i] = (struct CMUnitTest){.name = cases[i].name,
                                           .test_func = gradient_is_that_of_the_loss,
                                           .initial_state = (void *)(uintptr_t)&cases[i]};
    }
    return cmocka_run_group_tests_name("moe_gradient", tests, NULL, NULL);
}
