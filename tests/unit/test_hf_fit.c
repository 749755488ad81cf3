/* Which architecture can hold which model: the matrix of docs/FORMATS.md, said by hand. */
#include "tests/support/hf_files.h"

static const char dense[] =
    "model: {vocab_size: 64, hidden: 24, layers: 3, heads: 4, kv_heads: 2, ffn_hidden: 20,\n"
    "        seq_len: 16}\n"
    "data: {tokenizer: none}\n";
static const char sparse[] =
    "model: {vocab_size: 64, hidden: 24, layers: 3, heads: 4, kv_heads: 2, ffn_hidden: 20,\n"
    "        seq_len: 16}\n"
    "moe: {experts: 4, top_k: 2, expert_hidden: 10}\n"
    "data: {tokenizer: none}\n";

static const char latent[] =
    "model: {vocab_size: 64, hidden: 24, layers: 3, heads: 4, ffn_hidden: 20, seq_len: 16,\n"
    "        norm_eps: 1e-6, kv_lora_rank: 8, qk_nope_head_dim: 4, qk_rope_head_dim: 2,\n"
    "        v_head_dim: 6, rope_interleaved: true}\n"
    "moe: {experts: 4, top_k: 2, expert_hidden: 10, shared_experts: 1, layers: [1, 2],\n"
    "      normalize_weights: false, routed_scale: 2.5}\n"
    "data: {tokenizer: none}\n";

enum { MAX_SET = 4 };

static void parse(const char *text, const char *const set[MAX_SET], sy_run_settings *out)
{
    int32_t n = 0;
    while (n < MAX_SET && set[n] != NULL) {
        n++;
    }
    if (sy_run_settings_parse(text, strlen(text), "c.yaml", set, n, out) != SY_OK) {
        fail_msg("%s", sy_error_message());
    }
}

/* One letter for each architecture, in their order: L M Q 3, X 2 3 O G D V. */
static void every_model_fits_where_the_matrix_says(void **state)
{
    static const struct {
        const char *text, *set[MAX_SET], *fits;
    } cases[] = {
        {dense, {NULL}, "LMQ--------"},
        {dense, {"model.attention_bias=true"}, "--Q--------"},
        {dense, {"model.qk_norm=head"}, "---3-------"},
        {dense, {"model.qk_norm=full"}, "-----------"},
        {dense, {"model.qk_norm=head", "model.attention_bias=true"}, "-----------"},
        {dense, {"model.head_dim=10"}, "LMQ--------"},
        {dense, {"model.hidden=22", "model.head_dim=6"}, "-MQ--------"},
        {dense, {"model.tie_embeddings=true", "model.norm_eps=1e-3"}, "LMQ--------"},
        {dense, {"model.rope_scaling=llama3", "model.rope_factor=8"}, "LMQ--------"},
        {dense, {"model.residual_multiplier=0.5"}, "-----------"},
        {dense, {"model.attention_multiplier=0.40824829046386302"}, "LMQ--------"}, /* 1/sqrt(6) */
        {dense, {"model.attention_multiplier=0.4"}, "-----------"},
        {sparse, {NULL}, "----X2--G--"},
        {sparse, {"model.qk_norm=head"}, "------3----"},
        {sparse, {"model.qk_norm=full"}, "-------O---"},
        {sparse, {"model.qk_norm=full", "model.head_dim=10"}, "-----------"},
        {sparse, {"model.attention_bias=true"}, "-----2-----"},
        {sparse, {"model.head_dim=10", "model.hidden=22"}, "----X2--G--"},
        {sparse, {"model.logits_scaling=2"}, "--------G--"},
        {sparse, {"model.attention_multiplier=0.4"}, "--------G--"},
        {sparse, {"model.logits_scaling=2", "model.qk_norm=head"}, "-----------"},
        {sparse, {"moe.normalize_weights=false"}, "-----2-----"},
        {sparse, {"moe.normalize_weights=false", "model.qk_norm=head"}, "------3----"},
        {sparse, {"moe.normalize_weights=false", "model.qk_norm=full"}, "-------O---"},
        {sparse, {"moe.top_k=1"}, "-----2-----"},
        {sparse, {"moe.shared_experts=2"}, "-----2--G--"},
        {sparse, {"moe.adapter_rank=4"}, "-----------"},
        {sparse, {"moe.adapter_kind=mov", "moe.router=soft", "moe.top_k=4"}, "-----------"},
        {sparse, {"moe.expert_hidden=0", "moe.expert_widths=arithmetic:3:9"}, "-----------"},
        {sparse, {"moe.shared_experts=1", "moe.shared_gate=true"}, "-----2-----"},
        {sparse, {"moe.shared_experts=1", "model.qk_norm=head"}, "-----------"},
        {sparse, {"moe.layers=every:2"}, "-----2-----"},
        {sparse, {"moe.layers=[0]", "model.qk_norm=head"}, "------3----"},
        {sparse, {"moe.layers=[0]", "model.qk_norm=full"}, "-----------"},
        {sparse, {"moe.routed_scale=0.25"}, "----X2--G--"},
        {sparse, {"moe.routed_scale=2.5"}, "-----------"},
        {sparse, {"moe.score=sigmoid"}, "-----------"},
        {sparse, {"moe.bias_update_rate=0.001"}, "-----------"},
        {sparse, {"moe.force_balance=true"}, "-----------"},
        {sparse,
         {"moe.capacity_factor=1.25", "moe.jitter=0.01"},
         "----X2--G--"}, /* training only */
        {latent, {NULL}, "---------D-"},
        {latent, {"model.q_lora_rank=6", "model.rope_scaling=yarn"}, "---------D-"},
        {latent, {"model.rope_interleaved=false"}, "-----------"},
        {latent, {"model.norm_eps=1e-5"}, "-----------"},
        {latent, {"moe.shared_experts=0", "moe.score=sigmoid"}, "-----------"},
        {latent, {"moe.shared_hidden=9"}, "-----------"},
        {latent, {"moe.layers=[0, 2]"}, "-----------"},
        {latent, {"moe.normalize_weights=true"}, "-----------"},
        {latent, {"moe.bias_update_rate=0.001"}, "-----------"},
        {latent, {"moe.score=sigmoid"}, "----------V"},
        {latent,
         {"moe.score=sigmoid", "moe.bias_update_rate=0.001", "moe.normalize_weights=true",
          "model.rope_interleaved=false"},
         "----------V"},
        {latent, {"model.hidden=22"}, "-----------"},
        {latent, {"model.hidden=22", "moe.score=sigmoid"}, "----------V"},
        {latent, {"moe.router=grouped", "moe.grouped.groups=2"}, "---------D-"},
        {latent,
         {"moe.router=grouped", "moe.grouped.groups=2", "moe.score=sigmoid"},
         "-----------"},
        {dense, {"model.rope_interleaved=true"}, "-----------"},
        {dense, {"model.rope_scaling=yarn"}, "-----------"},
        {sparse, {"moe.extra_ffn=true"}, "-----------"},
        {sparse, {"model.activation=geglu"}, "-----------"},
        {dense, {"model.activation=relu"}, "-----------"},
        {dense, {"model.activation=gelu_erf"}, "-----------"},
        {latent, {"model.activation=geglu"}, "-----------"},
        {latent, {"moe.extra_ffn=true"}, "-----------"},
    };
    static const char letters[] = "LMQ3X23OGDV";
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_run_settings s = {0};
        char got[SY_N_HF_ARCHS + 1] = "";
        parse(cases[i].text, cases[i].set, &s);
        for (int32_t a = 0; a < SY_N_HF_ARCHS; a++) {
            sy_status st = sy_hf_can_hold((sy_hf_arch)a, s.model, s.moe);
            got[a] = st == SY_OK ? letters[a] : '-';
            assert_true(st == SY_OK || st == SY_ERR_USAGE);
            sy_error_clear();
        }
        if (strcmp(got, cases[i].fits) != 0) {
            fail_msg("%s %s: %s, not %s", cases[i].set[0], cases[i].set[1], got, cases[i].fits);
        }
        sy_run_settings_free(&s);
    }
    assert_int_equal(sy_alloc_live(), 0);
}

static void refusals_name_reason_and_remedy(void **state)
{
    static const struct {
        const char *text, *set[MAX_SET];
        sy_hf_arch arch;
        const char *says, *also;
    } cases[] = {
        {sparse,
         {"model.qk_norm=head"},
         SY_HF_MIXTRAL,
         "model.qk_norm is head",
         "possible: Qwen3MoeForCausalLM"},
        {sparse, {NULL}, SY_HF_LLAMA, "moe.experts is 4", "MixtralForCausalLM, Qwen2Moe"},
        {dense, {NULL}, SY_HF_MIXTRAL, "moe.experts is 0", "LlamaForCausalLM, Mistral"},
        {sparse, {"moe.routed_scale=2.5"}, SY_HF_MIXTRAL, "2.5, no power of two", "no known"},
        {sparse, {"moe.score=sigmoid"}, SY_HF_MIXTRAL, "moe.score is sigmoid", "no known"},
        {sparse, {"model.activation=gelu"}, SY_HF_MIXTRAL, "activation is gelu", "no known"},
        {sparse, {"moe.adapter_rank=4"}, SY_HF_MIXTRAL, "moe.adapter_rank is 4", "no known"},
        {sparse, {"moe.shared_experts=3"}, SY_HF_MIXTRAL, "moe.shared_experts is 3", "Granite"},
        {sparse,
         {"moe.shared_experts=1", "moe.shared_gate=true"},
         SY_HF_GRANITE_MOE_SHARED,
         "moe.shared_gate is true",
         "Qwen2MoeForCausalLM"},
        {sparse, {"moe.layers=[1]"}, SY_HF_MIXTRAL, "2 of 3 layers dense", "Qwen2Moe"},
        {sparse,
         {"moe.normalize_weights=false"},
         SY_HF_MIXTRAL,
         "normalize_weights is false",
         "Qwen2Moe"},
        {sparse,
         {"model.embedding_multiplier=12"},
         SY_HF_MIXTRAL,
         "embedding_multiplier is 12",
         "Granite"},
        {dense,
         {"model.hidden=22", "model.head_dim=6"},
         SY_HF_LLAMA,
         "model.hidden 22",
         "MistralForCausalLM"},
        {sparse,
         {"model.qk_norm=full", "model.head_dim=10"},
         SY_HF_OLMOE,
         "model.head_dim 10",
         "no known"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_run_settings s = {0};
        parse(cases[i].text, cases[i].set, &s);
        assert_int_equal(sy_hf_can_hold(cases[i].arch, s.model, s.moe), SY_ERR_USAGE);
        const char *message = sy_error_message();
        if (strstr(message, cases[i].says) == NULL || strstr(message, cases[i].also) == NULL ||
            strstr(message, sy_hf_arch_name(cases[i].arch)) == NULL) {
            fail_msg("%s", message);
        }
        sy_error_clear();
        sy_run_settings_free(&s);
    }
}

static void choice_prefers_what_needs_no_trick(void **state)
{
    static const struct {
        const char *text, *set[MAX_SET];
        sy_hf_arch arch;
    } cases[] = {
        {dense, {NULL}, SY_HF_LLAMA},
        {dense, {"model.hidden=22", "model.head_dim=6"}, SY_HF_MISTRAL},
        {dense, {"model.attention_bias=true"}, SY_HF_QWEN2},
        {sparse, {NULL}, SY_HF_MIXTRAL},
        {sparse, {"moe.shared_experts=1"}, SY_HF_GRANITE_MOE_SHARED}, /* not Qwen2's half gate */
        {sparse, {"moe.shared_experts=1", "moe.layers=[1]"}, SY_HF_QWEN2_MOE},
        {sparse, {"moe.routed_scale=2"}, SY_HF_MIXTRAL}, /* a trick in each */
        {sparse, {"moe.top_k=1"}, SY_HF_QWEN2_MOE},
    };
    sy_run_settings s = {0};
    sy_hf_arch arch = SY_HF_OLMOE;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        parse(cases[i].text, cases[i].set, &s);
        assert_int_equal(sy_hf_choose(s.model, s.moe, &arch), SY_OK);
        assert_string_equal(sy_hf_arch_name(arch), sy_hf_arch_name(cases[i].arch));
        sy_run_settings_free(&s);
    }
    parse(sparse, (const char *const[MAX_SET]){"moe.routed_scale=2.5", "model.qk_norm=head"}, &s);
    assert_int_equal(sy_hf_choose(s.model, s.moe, &arch), SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "MixtralForCausalLM: model.qk_norm is head"));
    assert_non_null(strstr(sy_error_message(), "Qwen3MoeForCausalLM: moe.routed_scale is 2.5"));
    assert_null(strstr(sy_error_message(), "Llama"));
    sy_error_clear();
    sy_run_settings_free(&s);
}

static void names_go_both_ways(void **state)
{
    sy_hf_arch arch = SY_HF_LLAMA;
    (void)state;
    for (int32_t i = 0; i < SY_N_HF_ARCHS; i++) {
        assert_int_equal(sy_hf_arch_parse(sy_hf_arch_name((sy_hf_arch)i), &arch), SY_OK);
        assert_int_equal(arch, i);
    }
    assert_int_equal(sy_hf_arch_parse("mixtral", &arch), SY_OK);
    assert_int_equal(arch, SY_HF_MIXTRAL);
    assert_int_equal(sy_hf_arch_parse("MixtralForCasualLM", &arch), SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "did you mean 'MixtralForCausalLM'"));
    assert_non_null(strstr(sy_error_message(), "known are LlamaForCausalLM, "));
    sy_error_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_model_fits_where_the_matrix_says),
        cmocka_unit_test(refusals_name_reason_and_remedy),
        cmocka_unit_test(choice_prefers_what_needs_no_trick),
        cmocka_unit_test(names_go_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
