/* config.json: what released files mean, and what is refused in which words. Expected values were
   read off the files and the classes of transformers by hand. */
#include "tests/support/hf_files.h"

#include <math.h>

/* ---- reading ---- */

typedef struct meaning {
    const char *file;
    sy_hf_arch arch;
    int32_t vocab, hidden, layers, heads, kv_heads, head_dim, ffn, seq_len;
    double theta, eps;
    int32_t scaling, qk_norm;
    bool bias, tied;
    int32_t experts, top_k, expert_hidden, shared, moe_layers;
    bool normalized;
    double aux; /* per layer */
} meaning;

static const meaning meanings[] = {
    {"llama.json",
     SY_HF_LLAMA,
     128256,
     4096,
     32,
     32,
     8,
     128,
     14336,
     131072,
     5e5,
     1e-5,
     SY_ROPE_SCALING_LLAMA3,
     SY_QK_NORM_NONE,
     false,
     false,
     0,
     0,
     0,
     0,
     0,
     false,
     0},
    {"mistral.json",  SY_HF_MISTRAL, 32768, 4096, 32, 32, 8, 128, 14336, 32768, 1e6, 1e-5, 0,
     SY_QK_NORM_NONE, false,         false, 0,    0,  0,  0, 0,   false, 0},
    {"qwen2.json",    SY_HF_QWEN2, 151936, 896, 24, 14, 2, 64, 4864,  32768, 1e6, 1e-6, 0,
     SY_QK_NORM_NONE, true,        true,   0,   0,  0,  0, 0,  false, 0},
    {"qwen3.json",    SY_HF_QWEN3, 151936, 1024, 28, 16, 8, 128, 3072,  40960, 1e6, 1e-6, 0,
     SY_QK_NORM_HEAD, false,       true,   0,    0,  0,  0, 0,   false, 0},
    {"mixtral.json",
     SY_HF_MIXTRAL,
     32000,
     4096,
     32,
     32,
     8,
     128,
     14336,
     32768,
     1e6,
     1e-5,
     0,
     SY_QK_NORM_NONE,
     false,
     false,
     8,
     2,
     14336,
     0,
     32,
     true,
     0.02 * 2 / 32},
    {"qwen2_moe.json",
     SY_HF_QWEN2_MOE,
     151936,
     2048,
     24,
     16,
     16,
     128,
     5632,
     8192,
     1e6,
     1e-6,
     0,
     SY_QK_NORM_NONE,
     true,
     false,
     60,
     4,
     1408,
     5632,
     24,
     false,
     0.001 * 4 / 24},
    {"qwen3_moe.json",
     SY_HF_QWEN3_MOE,
     151936,
     4096,
     94,
     64,
     4,
     128,
     12288,
     40960,
     1e6,
     1e-6,
     0,
     SY_QK_NORM_HEAD,
     false,
     false,
     128,
     8,
     1536,
     0,
     94,
     true,
     0.001 * 8 / 94},
    {"olmoe.json", SY_HF_OLMOE, 50304,           2048,  16,    16, 16, 128,  1024, 4096, 1e4,
     1e-5,         0,           SY_QK_NORM_FULL, false, false, 64, 8,  1024, 0,    16,   false,
     0.01 * 8 / 16},
    {"granite.json",
     SY_HF_GRANITE_MOE_SHARED,
     49155,
     1536,
     32,
     24,
     8,
     64,
     512,
     4096,
     1e4,
     1e-6,
     0,
     SY_QK_NORM_NONE,
     false,
     true,
     40,
     8,
     512,
     1024,
     32,
     true,
     0},
    /* Every second layer, without the fourth. */
    {"v5_sparse.json",
     SY_HF_QWEN3_MOE,
     61,
     20,
     6,
     4,
     2,
     6,
     28,
     32,
     700,
     1e-6,
     SY_ROPE_SCALING_LINEAR,
     SY_QK_NORM_HEAD,
     false,
     false,
     6,
     3,
     12,
     0,
     2,
     true,
     0.001 * 3 / 2},
    {"v5_window.json", SY_HF_QWEN2, 61,    24, 2, 4, 4, 6, 20,    40, 1e4, 1e-6, 0,
     SY_QK_NORM_NONE,  true,        false, 0,  0, 0, 0, 0, false, 0},
    /* Nothing but defaults of the class. */
    {"bare.json", SY_HF_MIXTRAL, 32000,  4096, 32,    32, 8,
     128,         14336,         131072, 1e6,  1e-5,  0,  SY_QK_NORM_NONE,
     false,       false,         8,      2,    14336, 0,  32,
     true,        0.001 * 2 / 32},
};

enum { N_MEANINGS = sizeof meanings / sizeof meanings[0] };

static void check_experts(const meaning *want, const sy_run_settings *s)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->model->layers; i++) {
        n += sy_moe_config_layer(s->moe, i);
    }
    assert_int_equal(n, want->moe_layers);
    assert_int_equal(s->moe->top_k, want->top_k);
    assert_int_equal(s->moe->expert_hidden, want->expert_hidden);
    assert_int_equal(s->moe->shared_experts, want->shared > 0);
    assert_true(want->shared == 0 || s->moe->shared_hidden == want->shared);
    assert_int_equal(s->moe->shared_gate, want->arch == SY_HF_QWEN2_MOE);
    assert_int_equal(s->moe->normalize_weights, want->normalized);
    assert_true(fabs(s->moe->aux_loss_coeff - want->aux) <= 1e-15);
    assert_int_equal(s->moe->aux_loss_scope, SY_AUX_MICRO_BATCH);
    assert_true(s->moe->z_loss_coeff == 0);
    assert_false(s->moe->capacity_factor.set);
    assert_string_equal(s->moe->router, "topk");
}

static void released_files_mean_what_their_models_are(void **state)
{
    (void)state;
    for (int32_t i = 0; i < N_MEANINGS; i++) {
        const meaning *want = &meanings[i];
        sy_run_settings s = {0};
        size_t n;
        char *json = hf_slurp(HF_CONFIGS, want->file, &n);
        assert_int_equal(hf_settings(json, &s), want->arch);
        const sy_model_config *m = s.model;
        assert_int_equal(m->vocab_size, want->vocab);
        assert_int_equal(m->hidden, want->hidden);
        assert_int_equal(m->layers, want->layers);
        assert_int_equal(m->heads, want->heads);
        assert_int_equal(m->kv_heads, want->kv_heads);
        assert_int_equal(m->head_dim, want->head_dim);
        assert_int_equal(m->ffn_hidden, want->ffn);
        assert_int_equal(m->seq_len, want->seq_len);
        assert_true(m->rope_theta == want->theta && m->norm_eps == want->eps);
        assert_int_equal(m->rope_scaling, want->scaling);
        assert_int_equal(m->qk_norm, want->qk_norm);
        assert_int_equal(m->attention_bias, want->bias);
        assert_int_equal(m->tie_embeddings, want->tied);
        assert_true(m->init_std == 0.02);
        assert_int_equal(s.moe->experts, want->experts);
        if (want->experts > 0) {
            check_experts(want, &s);
        }
        assert_string_equal(s.data->tokenizer, "none");
        sy_run_settings_free(&s);
        free(json);
    }
    assert_int_equal(sy_alloc_live(), 0);
}

static void scaled_angles_and_multipliers_are_read(void **state)
{
    sy_run_settings s = {0};
    (void)state;
    hf_read_file("llama.json", &s);
    assert_true(s.model->rope_factor == 8 && s.model->rope_low_freq_factor == 1);
    assert_true(s.model->rope_high_freq_factor == 4);
    assert_int_equal(s.model->rope_original_seq_len, 8192);
    assert_false(s.model->attention_multiplier.set);
    sy_run_settings_free(&s);
    hf_read_file("v5_sparse.json", &s);
    assert_true(s.model->rope_factor == 2.5);
    assert_false(sy_moe_config_layer(s.moe, 3));
    assert_true(sy_moe_config_layer(s.moe, 1) && sy_moe_config_layer(s.moe, 5));
    sy_run_settings_free(&s);
    hf_read_file("granite.json", &s);
    assert_true(s.model->embedding_multiplier == 12 && s.model->residual_multiplier == 0.22);
    assert_true(s.model->attention_multiplier.set);
    assert_true(s.model->attention_multiplier.value == 1.0 / 64 && s.model->logits_scaling == 6);
    sy_run_settings_free(&s);
}

static void latents_groups_and_biases_of_deepseek_are_read(void **state)
{
    sy_run_settings s = {0};
    (void)state;
    hf_read_file("deepseek_v3.json", &s);
    const sy_model_config *m = s.model;
    assert_true(m->kv_lora_rank == 512 && m->q_lora_rank == 1536 && m->v_head_dim == 128);
    assert_true(m->qk_nope_head_dim == 128 && m->qk_rope_head_dim == 64 && m->head_dim == 192);
    assert_true(m->kv_heads == 128 && m->rope_interleaved && m->norm_eps == 1e-6);
    assert_true(m->rope_scaling == SY_ROPE_SCALING_YARN && m->rope_factor == 40);
    assert_true(m->rope_mscale == 1 && m->rope_mscale_all_dim == 1);
    assert_true(m->rope_beta_fast == 32 && m->rope_original_seq_len == 4096);
    assert_string_equal(s.moe->router, "grouped");
    assert_true(s.moe->score == 1 && s.moe->routed_scale == 2.5 && s.moe->normalize_weights);
    assert_true(s.moe->experts == 256 && s.moe->top_k == 8 && s.moe->expert_hidden == 2048);
    assert_true(s.moe->shared_experts == 1 && s.moe->shared_hidden == 2048);
    assert_true(s.moe->aux_loss_coeff == 0.001 && s.moe->aux_loss_scope == SY_AUX_SEQUENCE);
    assert_true(s.moe->bias_update_rate == 0.001);
    assert_true(!sy_moe_config_layer(s.moe, 2) && sy_moe_config_layer(s.moe, 3));
    assert_true(m->mtp_layers == 1 && sy_moe_config_layer(s.moe, 61));
    sy_run_settings_free(&s);
    hf_read_file("deepseek_v2.json", &s);
    assert_string_equal(s.moe->router, "grouped");
    assert_true(s.moe->score == 0 && s.moe->routed_scale == 16 && !s.moe->normalize_weights);
    assert_true(s.moe->shared_experts == 2 && s.moe->shared_hidden == 3072);
    assert_true(s.moe->bias_update_rate == 0 && s.model->rope_mscale_all_dim == 0.707);
    sy_run_settings_free(&s);
    hf_read_file("deepseek_v2_lite.json", &s);
    assert_string_equal(s.moe->router, "topk");
    assert_true(s.model->q_lora_rank == 0 && s.model->rope_scaling == SY_ROPE_SCALING_YARN);
    sy_run_settings_free(&s);
}

static void both_generations_of_rope_keys_are_read(void **state)
{
    static const struct {
        const char *file, *key, *value;
        double theta, factor;
        int32_t scaling;
    } cases[] = {
        {"mistral.json", "rope_theta", NULL, 1e4, 1, 0},
        {"mixtral.json", "rope_theta", NULL, 1e6, 1, 0},
        {"mistral.json", "rope_parameters", "{\"rope_theta\": 3e4}", 3e4, 1, 0},
        {"mistral.json", "rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", 1e6, 2, 1},
        {"mistral.json", "rope_scaling", "{}", 1e6, 1, 0},
        /* What v5 does with both: rope_scaling first. */
        {"llama.json", "rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 1e4}", 5e5,
         8, 2},
        {"v5_sparse.json", "rope_scaling", "{\"rope_type\": \"linear\", \"factor\": 4.0}", 1e4, 4,
         1},
        {"v5_sparse.json", "rope_scaling", "null", 700, 2.5, 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_run_settings s = {0};
        char *json = hf_with(cases[i].file, cases[i].key, cases[i].value);
        hf_settings(json, &s);
        assert_true(s.model->rope_theta == cases[i].theta);
        assert_true(s.model->rope_factor == cases[i].factor);
        assert_int_equal(s.model->rope_scaling, cases[i].scaling);
        sy_run_settings_free(&s);
        free(json);
    }
}

/* ---- refusals ---- */

static void expect_refusal(const char *json, size_t n, const char *says, const char *also)
{
    sy_hf_arch arch = SY_HF_OLMOE;
    char *yaml = NULL;
    assert_int_equal(sy_hf_config_read("m/config.json", json, n, &arch, &yaml), SY_ERR_USAGE);
    const char *message = sy_error_message();
    if (strstr(message, "m/config.json") == NULL || strstr(message, says) == NULL ||
        strstr(message, also) == NULL) {
        fail_msg("%.*s\nmessage: %s", (int)n, json, message);
    }
    assert_null(yaml);
    assert_int_equal(arch, SY_HF_OLMOE);
    sy_error_clear();
    assert_int_equal(sy_alloc_live(), 0);
}

static void what_a_model_must_not_be_is_refused_with_key_and_value(void **state)
{
    static const struct {
        const char *file, *key, *value, *says, *also;
    } bad[] = {
        {"llama.json", "quantization_config", "{\"bits\": 4}", "quantization_config is", "bits"},
        {"llama.json", "hidden_act", "\"gelu\"", "hidden_act is \"gelu\"", "\"silu\""},
        {"llama.json", "mlp_bias", "true", "mlp_bias is true", "only false"},
        {"llama.json", "attention_bias", "true", "attention_bias is true", "only false"},
        {"mistral.json", "attention_bias", "true", "attention_bias is true", "only false"},
        {"qwen3.json", "attention_bias", "true", "attention_bias is true", "only false"},
        {"qwen3_moe.json", "attention_bias", "true", "attention_bias is true", "only false"},
        {"olmoe.json", "clip_qkv", "8.0", "clip_qkv is 8.0", "only null"},
        {"llama.json", "partial_rotary_factor", "0.5", "partial_rotary_factor is 0.5", "whole"},
        {"llama.json", "rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 4.0}",
         "rope_scaling.rope_type is \"yarn\"", "\"llama3\""},
        {"llama.json", "rope_scaling", "{\"rope_type\": \"linear\"}",
         "rope_scaling.factor is missing", "a number"},
        {"llama.json", "rope_scaling", "{\"rope_type\": \"linear\", \"type\": \"dynamic\"}",
         "rope_scaling.type is \"dynamic\"", "otherwise"},
        {"llama.json", "rope_scaling", "[1]", "rope_scaling is [1]", "object"},
        {"qwen2.json", "rope_parameters", "{\"full_attention\": {\"rope_theta\": 1e4}}",
         "rope_parameters.full_attention is", "all layers"},
        {"llama.json", "original_max_position_embeddings", "4096",
         "original_max_position_embeddings is 4096", "rope_scaling says otherwise"},
        {"llama.json", "vocab_size", "1", "vocab_size is 1", "from 2"},
        {"llama.json", "rope_theta", "0.5", "rope_theta is 0.5", "from 1 to"},
        {"mistral.json", "sliding_window", "4096", "sliding_window is 4096", "window of 4096"},
        {"mistral.json", "sliding_window", NULL, "sliding_window is missing", "window of 4096"},
        {"mixtral.json", "sliding_window", "0", "sliding_window is 0", "window of 0"},
        {"mixtral.json", "sliding_window", "1.5", "sliding_window is 1.5", "whole number"},
        {"qwen2_moe.json", "layer_types", "[\"full_attention\", \"sliding_attention\"]",
         "layer_types is \"sliding_attention\"", "full_attention"},
        {"v5_window.json", "sliding_window", "39", "sliding_window is 39", "window of 39"},
        {"qwen3.json", "per_layer_config", "{\"0\": {}}", "per_layer_config is", "layers"},
        {"granite.json", "num_local_experts", "0", "num_local_experts is 0", "from 1"},
        {"qwen2_moe.json", "shared_expert_intermediate_size", "0",
         "shared_expert_intermediate_size is 0", "from 1"},
        {"mixtral.json", "num_experts_per_tok", "9", "num_experts_per_tok 9", "8"},
        {"mixtral.json", "num_experts_per_tok", "1", "num_experts_per_tok 1", "no gradient"},
        {"mixtral.json", "num_experts", "9", "num_experts is 9", "num_local_experts is 8"},
        {"llama.json", "num_key_value_heads", "5", "num_key_value_heads 5", "32"},
        {"llama.json", "head_dim", "7", "head_dim is 7", "even"},
        {"llama.json", "num_attention_heads", "24", "24", "model.heads"},
        {"olmoe.json", "head_dim", "64", "64", "model.head_dim"},
        {"llama.json", "hidden_size", "-4096", "hidden_size is -4096", "from 1"},
        {"llama.json", "hidden_size", "99999999999", "hidden_size is 99999999999", "to 1048576"},
        {"llama.json", "hidden_size", "4096.0", "hidden_size is 4096.0", "whole number"},
        {"llama.json", "hidden_size", "true", "hidden_size is true", "whole number"},
        {"llama.json", "num_hidden_layers", "1000", "num_hidden_layers is 1000", "to 999"},
        {"llama.json", "rms_norm_eps", "\"1e-5\"", "rms_norm_eps is \"1e-5\"", "a number"},
        {"llama.json", "tie_word_embeddings", "0", "tie_word_embeddings is 0", "true or false"},
        {"qwen3_moe.json", "mlp_only_layers", "[94]", "mlp_only_layers is [94]", "0 to 93"},
        {"qwen3_moe.json", "mlp_only_layers", "7", "mlp_only_layers is 7", "list"},
        {"qwen3_moe.json", "decoder_sparse_step", "0", "decoder_sparse_step is 0", "from 1"},
        {"qwen3_moe.json", "decoder_sparse_step", "95", "no layer has experts",
         "decoder_sparse_step"},
        {"llama.json", "architectures", "[\"LlamaForCausalML\"]", "'LlamaForCausalML'",
         "did you mean 'LlamaForCausalLM'"},
        {"llama.json", "architectures", "[\"MistralForCausalLM\"]", "model_type is \"llama\"",
         "MistralForCausalLM"},
        {"llama.json", "architectures", "\"LlamaForCausalLM\"", "architectures is", "list"},
        {"deepseek_v3.json", "rms_norm_eps", "1e-5", "rms_norm_eps is", "only 1e-06"},
        {"deepseek_v3.json", "num_key_value_heads", "8", "num_key_value_heads 8", "128"},
        {"deepseek_v3.json", "qk_rope_head_dim", "63", "qk_rope_head_dim is 63", "even"},
        {"deepseek_v3.json", "q_lora_rank", "-1", "q_lora_rank is -1", "from 1"},
        {"deepseek_v3.json", "n_group", "7", "n_group 7", "n_routed_experts 256"},
        {"deepseek_v3.json", "topk_group", "9", "topk_group is 9", "to 8"},
        {"deepseek_v3.json", "first_k_dense_replace", "61", "first_k_dense_replace is 61", "to 60"},
        {"deepseek_v3.json", "scoring_func", "\"softmax\"", "scoring_func is", "sigmoid"},
        {"deepseek_v3.json", "moe_layer_freq", "2", "moe_layer_freq is 2", "only 1"},
        {"deepseek_v3.json", "n_shared_experts", "0", "n_shared_experts is 0", "from 1"},
        {"deepseek_v3.json", "rope_scaling", "{\"type\": \"yarn\", \"factor\": 40}",
         "original_max_position_embeddings is missing", "number"},
        {"deepseek_v2.json", "norm_topk_prob", "true", "norm_topk_prob is true", "only false"},
        {"deepseek_v2.json", "topk_method", "\"noaux_tc\"", "topk_method is", "greedy"},
        {"llama.json", "architectures", "[3]", "architectures is [3]", "name"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char *json = hf_with(bad[i].file, bad[i].key, bad[i].value);
        expect_refusal(json, strlen(json), bad[i].says, bad[i].also);
        free(json);
    }
}

static void sequence_of_too_many_rows_is_refused(void **state)
{
    const char json[] = "{\"model_type\": \"mixtral\", \"max_position_embeddings\": 16777216,"
                        " \"num_local_experts\": 128, \"num_experts_per_tok\": 128}";
    (void)state;
    expect_refusal(json, strlen(json), "num_experts_per_tok 128", "2^31");
}

static void what_is_no_config_is_refused(void **state)
{
    static const struct {
        const char *text, *says, *also;
    } bad[] = {
        {"", "m/config.json:", "expected"},
        {"[]", "not a JSON object", "m/"},
        {"{\"model_type\": \"llama\",\n \"model_type\": \"llama\"}", "m/config.json:2",
         "duplicate"},
        {"{\"model_type\": \"llama\", \"hidden_size\": NaN}", "m/config.json:1", "NaN"},
        {"{}", "model_type is missing", "architecture"},
        {"{\"model_type\": \"gpt2\"}", "'gpt2' is not known", "GraniteMoeSharedForCausalLM"},
        {"{\"model_type\": \"qwen2-moe\"}", "did you mean 'qwen2_moe'", "known are Llama"},
        {"{\"model_type\": \"a\\u0007b\\u009bc\"}", "'a?b??c' is not known", "known are"},
    };
    size_t n;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        expect_refusal(bad[i].text, strlen(bad[i].text), bad[i].says, bad[i].also);
    }
    static const char with_nul[] = "{\"model_type\": \"llama\", \"vocab_size\": 61\0}";
    expect_refusal(with_nul, sizeof with_nul - 1, "NUL byte", "m/");
    char *json = hf_slurp(HF_CONFIGS, "unknown.json", &n);
    expect_refusal(json, n, "'GptOssForCausalLM' is not known", "MixtralForCausalLM");
    free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(released_files_mean_what_their_models_are),
        cmocka_unit_test(scaled_angles_and_multipliers_are_read),
        cmocka_unit_test(latents_groups_and_biases_of_deepseek_are_read),
        cmocka_unit_test(both_generations_of_rope_keys_are_read),
        cmocka_unit_test(what_a_model_must_not_be_is_refused_with_key_and_value),
        cmocka_unit_test(sequence_of_too_many_rows_is_refused),
        cmocka_unit_test(what_is_no_config_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
