/* config.json as it is written: back to what was read, for both generations of transformers, in
   types that the strict one accepts. */
#include "tests/support/hf_files.h"

#include <math.h>

static char *write_as(sy_hf_arch arch, const sy_run_settings *s, sy_dtype dtype, const char *source)
{
    char *json = NULL;
    if (sy_hf_config_write(&(sy_hf_config_spec){.arch = arch,
                                                .model = s->model,
                                                .moe = s->moe,
                                                .dtype = dtype,
                                                .source_json = source},
                           &json) != SY_OK) {
        fail_msg("%s", sy_error_message());
    }
    return json;
}

static char *read_yaml(const char *json)
{
    sy_hf_arch arch;
    char *yaml = NULL;
    if (sy_hf_config_read("w", json, strlen(json), &arch, &yaml) != SY_OK) {
        fail_msg("%s\n%s", sy_error_message(), json);
    }
    return yaml;
}

static void what_was_read_is_written_and_read_the_same(void **state)
{
    static const char *const files[] = {
        "llama.json",       "mistral.json",          "qwen2.json",      "qwen3.json",
        "mixtral.json",     "qwen2_moe.json",        "qwen3_moe.json",  "olmoe.json",
        "granite.json",     "v5_sparse.json",        "v5_window.json",  "bare.json",
        "deepseek_v2.json", "deepseek_v2_lite.json", "deepseek_v3.json"};
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        sy_run_settings s = {0};
        size_t n;
        char *source = hf_slurp(HF_CONFIGS, files[i], &n);
        char *first = read_yaml(source);
        sy_hf_arch arch = hf_settings(source, &s);
        for (int32_t k = 0; k < 2; k++) {
            char *json = write_as(arch, &s, SY_BF16, k == 0 ? source : "");
            char *second = read_yaml(json);
            assert_string_equal(first, second);
            sy_free(&second);
            sy_free(&json);
        }
        sy_run_settings_free(&s);
        sy_free(&first);
        free(source);
    }
    assert_int_equal(sy_alloc_live(), 0);
}

/* transformers v5 refuses a float without a point, and an int with one. */
static void numbers_have_the_types_of_the_classes(void **state)
{
    static const char *const reals[] = {"rms_norm_eps", "initializer_range", "rope_theta",
                                        "router_aux_loss_coef"};
    static const char *const integers[] = {"vocab_size", "hidden_size", "head_dim",
                                           "num_key_value_heads", "num_experts_per_tok"};
    sy_run_settings s = {0};
    (void)state;
    hf_read_file("granite.json", &s); /* aux 0, theta and scaling without a point */
    char *json = write_as(SY_HF_GRANITE_MOE_SHARED, &s, SY_F32, "");
    json_t *root = json_loads(json, 0, NULL);
    assert_non_null(root);
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        assert_true(json_is_real(json_object_get(root, reals[i])));
    }
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        assert_true(json_is_integer(json_object_get(root, integers[i])));
    }
    assert_true(json_is_false(json_object_get(root, "attention_bias")));
    assert_string_equal(json_string_value(json_object_get(root, "dtype")), "float32");
    assert_string_equal(json_string_value(json_object_get(root, "torch_dtype")), "float32");
    json_decref(root);
    sy_free(&json);
    sy_run_settings_free(&s);
}

static void rope_is_written_for_both_generations(void **state)
{
    sy_run_settings s = {0};
    json_t *theta, *v4, *v5;
    (void)state;
    hf_read_file("llama.json", &s);
    char *json = write_as(SY_HF_LLAMA, &s, SY_BF16, "");
    json_t *root = json_loads(json, 0, NULL);
    assert_int_equal(json_unpack(root, "{s:o, s:o, s:o}", "rope_theta", &theta, "rope_scaling", &v4,
                                 "rope_parameters", &v5),
                     0);
    assert_true(json_real_value(theta) == 5e5);
    assert_true(json_equal(theta, json_object_get(v5, "rope_theta")));
    assert_null(json_object_get(v4, "rope_theta")); /* v4 knows no such key there */
    json_object_del(v5, "rope_theta");
    assert_true(json_equal(v4, v5));
    assert_int_equal(json_object_size(v4), 5);
    json_decref(root);
    sy_free(&json);
    sy_run_settings_free(&s);
}

static void the_source_is_kept_where_the_architecture_is_the_same(void **state)
{
    sy_run_settings s = {0};
    size_t n;
    (void)state;
    char *source = hf_slurp(HF_CONFIGS, "granite.json", &n);
    hf_settings(source, &s);
    char *json = write_as(SY_HF_GRANITE_MOE_SHARED, &s, SY_BF16, source);
    assert_non_null(strstr(json, "\"attention_dropout\": 0.1,")); /* not ours */
    assert_non_null(strstr(json, "\"pad_token_id\": 0,"));
    json_t *root = json_loads(json, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(root, "eos_token_id")), 2);
    json_decref(root);
    sy_free(&json);
    sy_run_settings_free(&s);
    free(source);
    /* Another architecture takes the tokens along, and says that the others are none. */
    source = hf_with("mixtral.json", "router_jitter_noise", "0.3");
    hf_settings(source, &s);
    json = write_as(SY_HF_QWEN2_MOE, &s, SY_BF16, source);
    assert_null(strstr(json, "router_jitter_noise"));
    assert_non_null(strstr(json, "\"bos_token_id\": 1,"));
    assert_non_null(strstr(json, "\"pad_token_id\": null,"));
    assert_non_null(strstr(json, "\"qkv_bias\": true"));
    assert_non_null(strstr(json, "\"router_aux_loss_coef\": 0.02,"));
    sy_free(&json);
    sy_run_settings_free(&s);
    free(source);
}

/* 1/sqrt(D) is nobody's default: Granite's is 1. */
static void whole_numbers_of_the_source_become_real_where_they_must(void **state)
{
    sy_run_settings s = {0};
    (void)state;
    char *source = hf_with("mixtral.json", "router_jitter_noise", "0");
    hf_settings(source, &s);
    char *json = write_as(SY_HF_MIXTRAL, &s, SY_BF16, source);
    assert_non_null(strstr(json, "\"router_jitter_noise\": 0.0"));
    assert_non_null(strstr(json, "\"bos_token_id\": 1,"));
    sy_free(&json);
    sy_run_settings_free(&s);
    free(source);
}

static void granite_is_told_the_attention_scale(void **state)
{
    sy_run_settings s = {0};
    (void)state;
    hf_read_file("mixtral.json", &s);
    char *json = write_as(SY_HF_GRANITE_MOE_SHARED, &s, SY_BF16, "");
    json_t *root = json_loads(json, 0, NULL);
    assert_true(json_real_value(json_object_get(root, "attention_multiplier")) == 1 / sqrt(128));
    assert_true(json_real_value(json_object_get(root, "embedding_multiplier")) == 1);
    assert_true(json_real_value(json_object_get(root, "residual_multiplier")) == 1);
    assert_true(json_real_value(json_object_get(root, "logits_scaling")) == 1);
    assert_int_equal(json_integer_value(json_object_get(root, "shared_intermediate_size")), 0);
    json_decref(root);
    sy_free(&json);
    sy_run_settings_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_read_is_written_and_read_the_same),
        cmocka_unit_test(numbers_have_the_types_of_the_classes),
        cmocka_unit_test(rope_is_written_for_both_generations),
        cmocka_unit_test(the_source_is_kept_where_the_architecture_is_the_same),
        cmocka_unit_test(whole_numbers_of_the_source_become_real_where_they_must),
        cmocka_unit_test(granite_is_told_the_attention_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
