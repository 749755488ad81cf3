/* Maps of tensors: names and shapes against files that transformers wrote, single elements against
   places worked out by hand, what tricks add, and sizes of real models. */
#include "tests/support/hf_files.h"

#include <dirent.h>

#include "moe/decoder.h"

static const char sparse[] =
    "model: {vocab_size: 64, hidden: 24, layers: 2, heads: 4, kv_heads: 2, ffn_hidden: 20,\n"
    "        seq_len: 16}\n"
    "moe: {experts: 3, top_k: 2, expert_hidden: 10}\n"
    "data: {tokenizer: none}\n";

static void parse(const char *const *set, int32_t n, sy_run_settings *out)
{
    if (sy_run_settings_parse(sparse, strlen(sparse), "c.yaml", set, n, out) != SY_OK) {
        fail_msg("%s", sy_error_message());
    }
}

static void make_map(sy_hf_arch arch, sy_hf_form form, const sy_run_settings *s, sy_hf_map *map)
{
    if (sy_hf_map_create(arch, form, s->model, s->moe, map) != SY_OK) {
        fail_msg("%s", sy_error_message());
    }
}

static int32_t find(const sy_hf_tensor *t, int32_t n, const char *name)
{
    for (int32_t i = 0; i < n; i++) {
        if (strcmp(t[i].name, name) == 0) {
            return i;
        }
    }
    fail_msg("there is no tensor %s", name);
    return -1;
}

/* ---- names and shapes ---- */

/* The tensors of a safetensors file: its header, read here by itself. */
static json_t *read_header(const char *folder)
{
    size_t n;
    uint64_t length;
    char *bytes = hf_slurp(folder, "model.safetensors", &n);
    memcpy(&length, bytes, 8);
    json_t *header = json_loadb(bytes + 8, length, 0, NULL);
    assert_non_null(header);
    json_object_del(header, "__metadata__");
    free(bytes);
    return header;
}

static void compare_with_file(const sy_hf_map *map, const char *folder)
{
    json_t *header = read_header(folder);
    for (int32_t i = 0; i < map->n_their; i++) {
        const sy_hf_tensor *t = &map->their[i];
        const json_t *shape = json_object_get(json_object_get(header, t->name), "shape");
        if (shape == NULL || json_array_size(shape) != (size_t)t->n_dim) {
            fail_msg("%s: %s is not there, or of another shape", folder, t->name);
        }
        for (int32_t d = 0; d < t->n_dim; d++) {
            assert_int_equal(json_integer_value(json_array_get(shape, (size_t)d)), t->shape[d]);
        }
    }
    assert_int_equal(json_object_size(header), map->n_their);
    json_decref(header);
}

/* Nothing is added or scaled where a model of theirs came in. */
static void compare_with_model(const sy_hf_map *map, const sy_run_settings *s)
{
    sy_model *model = NULL;
    sy_params *params = NULL;
    int64_t sum = 0;
    for (int32_t i = 0; i < map->n_links; i++) {
        assert_true(map->link[i].our >= 0 && map->link[i].scale == 1);
        sum += map->link[i].n;
    }
    assert_int_equal(sy_decoder_create(s->model, s->moe, &model, &params), SY_OK);
    assert_int_equal(sum, sy_params_count(params, false));
    sy_params_destroy(&params);
    sy_model_destroy(&model);
}

static void names_and_shapes_are_those_of_files_by_transformers(void **state)
{
    bool seen[SY_N_HF_ARCHS] = {false};
    DIR *dir = opendir(HF_FIXTURES);
    (void)state;
    assert_non_null(dir);
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        char folder[1024];
        size_t n;
        sy_run_settings s = {0};
        sy_hf_map map;
        if (strchr(e->d_name, '.') != NULL) { /* README.md */
            continue;
        }
        snprintf(folder, sizeof folder, "%s/%s", HF_FIXTURES, e->d_name);
        char *json = hf_slurp(folder, "config.json", &n);
        sy_hf_arch arch = hf_settings(json, &s);
        make_map(arch, SY_HF_PER_EXPERT, &s, &map);
        compare_with_file(&map, folder);
        compare_with_model(&map, &s);
        seen[arch] = true;
        sy_hf_map_free(&map);
        sy_run_settings_free(&s);
        free(json);
    }
    closedir(dir);
    for (int32_t i = 0; i < SY_N_HF_ARCHS; i++) {
        assert_true(seen[i]);
    }
    assert_int_equal(sy_alloc_live(), 0);
}

static void fused_names_are_those_of_transformers_in_memory(void **state)
{
    static const struct {
        sy_hf_arch arch;
        const char *set, *name;
        int32_t n_dim;
        int64_t shape[3];
    } cases[] = {
        {SY_HF_MIXTRAL, "moe.top_k=2", "model.layers.1.mlp.gate.weight", 2, {3, 24}},
        {SY_HF_MIXTRAL, "moe.top_k=2", "model.layers.1.mlp.experts.gate_up_proj", 3, {3, 20, 24}},
        {SY_HF_MIXTRAL, "moe.top_k=2", "model.layers.1.mlp.experts.down_proj", 3, {3, 24, 10}},
        {SY_HF_QWEN3_MOE,
         "model.qk_norm=head",
         "model.layers.0.mlp.experts.gate_up_proj",
         3,
         {3, 20, 24}},
        {SY_HF_OLMOE, "model.qk_norm=full", "model.layers.0.mlp.experts.down_proj", 3, {3, 24, 10}},
        {SY_HF_QWEN2_MOE,
         "moe.top_k=2",
         "model.layers.0.mlp.shared_expert_gate.weight",
         2,
         {1, 24}},
        {SY_HF_GRANITE_MOE_SHARED,
         "moe.shared_experts=1",
         "model.layers.0.shared_mlp.input_linear.weight",
         2,
         {20, 24}},
        {SY_HF_GRANITE_MOE_SHARED,
         "moe.shared_experts=1",
         "model.layers.0.block_sparse_moe.router.weight",
         2,
         {3, 24}},
        {SY_HF_GRANITE_MOE_SHARED,
         "moe.shared_experts=1",
         "model.layers.0.block_sparse_moe.experts.down_proj",
         3,
         {3, 24, 10}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_run_settings s = {0};
        sy_hf_map map;
        parse(&cases[i].set, 1, &s);
        make_map(cases[i].arch, SY_HF_FUSED, &s, &map);
        const sy_hf_tensor *t = &map.their[find(map.their, map.n_their, cases[i].name)];
        assert_int_equal(t->n_dim, cases[i].n_dim);
        assert_memory_equal(t->shape, cases[i].shape, sizeof t->shape);
        sy_hf_map_free(&map);
        sy_run_settings_free(&s);
    }
}

/* ---- elements ---- */

enum { I = 10, H = 24 }; /* of `sparse`: an expert is I x H */

static void elements_lie_where_they_should(void **state)
{
    static const struct {
        sy_hf_arch arch;
        sy_hf_form form;
        const char *their;
        int64_t their_at;
        const char *our;
        int64_t our_at;
    } cases[] = {
        {SY_HF_MIXTRAL, SY_HF_PER_EXPERT, "block_sparse_moe.experts.2.w1.weight", 7,
         "moe/experts/gate", 2 * I * H + 7},
        {SY_HF_MIXTRAL, SY_HF_PER_EXPERT, "block_sparse_moe.experts.1.w3.weight", I * H - 1,
         "moe/experts/up", 2 * I * H - 1},
        {SY_HF_MIXTRAL, SY_HF_PER_EXPERT, "block_sparse_moe.experts.0.w2.weight", 5,
         "moe/experts/down", 5},
        {SY_HF_MIXTRAL, SY_HF_FUSED, "mlp.experts.gate_up_proj", 2 * I * H * 2 + I * H - 1,
         "moe/experts/gate", 3 * I * H - 1},
        {SY_HF_MIXTRAL, SY_HF_FUSED, "mlp.experts.gate_up_proj", 2 * I * H * 2 + I * H,
         "moe/experts/up", 2 * I * H},
        {SY_HF_MIXTRAL, SY_HF_FUSED, "mlp.experts.down_proj", I * H + 3, "moe/experts/down",
         I * H + 3},
        {SY_HF_MIXTRAL, SY_HF_FUSED, "mlp.gate.weight", 50, "moe/router", 50},
        {SY_HF_QWEN2_MOE, SY_HF_PER_EXPERT, "mlp.experts.1.gate_proj.weight", 1, "moe/experts/gate",
         I * H + 1},
        {SY_HF_QWEN2_MOE, SY_HF_PER_EXPERT, "mlp.experts.1.down_proj.weight", 1, "moe/experts/down",
         I * H + 1},
        {SY_HF_GRANITE_MOE_SHARED, SY_HF_PER_EXPERT, "block_sparse_moe.input_linear.weight",
         2 * I * H + 4, "moe/experts/gate", I * H + 4},
        {SY_HF_GRANITE_MOE_SHARED, SY_HF_FUSED, "block_sparse_moe.experts.gate_up_proj",
         3 * I * H + 4, "moe/experts/up", I * H + 4},
        {SY_HF_MIXTRAL, SY_HF_PER_EXPERT, "self_attn.v_proj.weight", 9, "attn/v", 9},
        {SY_HF_MIXTRAL, SY_HF_PER_EXPERT, "post_attention_layernorm.weight", 2, "ffn_norm", 2},
    };
    sy_run_settings s = {0};
    (void)state;
    parse(NULL, 0, &s);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_hf_map map;
        char their[SY_HF_NAME], our[SY_HF_NAME];
        int32_t hits = 0;
        make_map(cases[i].arch, cases[i].form, &s, &map);
        snprintf(their, sizeof their, "model.layers.1.%s", cases[i].their);
        snprintf(our, sizeof our, "layers/001/%s", cases[i].our);
        int32_t t = find(map.their, map.n_their, their), o = find(map.our, map.n_our, our);
        for (int32_t k = 0; k < map.n_links; k++) {
            const sy_hf_link *link = &map.link[k];
            int64_t within = cases[i].their_at - link->their_first;
            if (link->their == t && within >= 0 && within < link->n) {
                assert_int_equal(link->our, o);
                assert_int_equal(link->our_first + within, cases[i].our_at);
                hits++;
            }
        }
        assert_int_equal(hits, 1);
        sy_hf_map_free(&map);
    }
    sy_run_settings_free(&s);
}

static void shared_experts_of_granite_are_gate_over_up(void **state)
{
    const char *set = "moe.shared_experts=1";
    sy_run_settings s = {0};
    sy_hf_map map;
    int32_t n = 0;
    (void)state;
    parse(&set, 1, &s);
    make_map(SY_HF_GRANITE_MOE_SHARED, SY_HF_PER_EXPERT, &s, &map);
    int32_t t = find(map.their, map.n_their, "model.layers.0.shared_mlp.input_linear.weight");
    for (int32_t i = 0; i < map.n_links; i++) {
        if (map.link[i].their == t) {
            bool up = map.link[i].their_first > 0;
            assert_int_equal(map.link[i].their_first, up ? I * H : 0);
            assert_string_equal(map.our[map.link[i].our].name,
                                up ? "layers/000/moe/shared/up" : "layers/000/moe/shared/gate");
            n++;
        }
    }
    assert_int_equal(n, 2);
    sy_hf_map_free(&map);
    sy_run_settings_free(&s);
}

/* ---- tricks ---- */

/* The only link of a tensor of theirs. */
static const sy_hf_link *link_of(const sy_hf_map *map, const char *their)
{
    int32_t t = find(map->their, map->n_their, their);
    const sy_hf_link *found = NULL;
    for (int32_t i = 0; i < map->n_links; i++) {
        if (map->link[i].their == t) {
            assert_null(found);
            found = &map->link[i];
        }
    }
    assert_non_null(found);
    return found;
}

static void plain_shared_expert_becomes_half_a_gated_one(void **state)
{
    const char *set[] = {"moe.shared_experts=1", "moe.routed_scale=0.25"};
    sy_run_settings s = {0};
    sy_hf_map map;
    (void)state;
    parse(set, 2, &s);
    make_map(SY_HF_QWEN2_MOE, SY_HF_PER_EXPERT, &s, &map);
    const sy_hf_link *gate = link_of(&map, "model.layers.1.mlp.shared_expert_gate.weight");
    assert_true(gate->our < 0 && gate->fill == 0x1p-30 && gate->n == H);
    assert_true(link_of(&map, "model.layers.1.mlp.shared_expert.down_proj.weight")->scale == 2);
    assert_true(link_of(&map, "model.layers.1.mlp.shared_expert.up_proj.weight")->scale == 1);
    assert_true(link_of(&map, "model.layers.1.mlp.experts.2.down_proj.weight")->scale == 0.25);
    assert_true(link_of(&map, "model.layers.1.mlp.experts.2.up_proj.weight")->scale == 1);
    const sy_hf_link *bias = link_of(&map, "model.layers.0.self_attn.k_proj.bias");
    assert_true(bias->our < 0 && bias->fill == 0 && bias->n == 12);
    assert_true(map.link[map.n_links - 1].our < 0); /* fills last */
    sy_hf_map_free(&map);
    sy_run_settings_free(&s);
}

static void no_shared_expert_becomes_one_of_zeros(void **state)
{
    sy_run_settings s = {0};
    sy_hf_map map;
    char *json = NULL;
    (void)state;
    parse(NULL, 0, &s);
    make_map(SY_HF_QWEN2_MOE, SY_HF_FUSED, &s, &map);
    int32_t t = find(map.their, map.n_their, "model.layers.0.mlp.shared_expert.down_proj.weight");
    const sy_hf_link *down = link_of(&map, map.their[t].name);
    assert_true(down->our < 0 && down->fill == 0);
    assert_int_equal(map.their[t].shape[0], H);
    assert_true(link_of(&map, "model.layers.0.mlp.shared_expert_gate.weight")->fill > 0);
    assert_int_equal(sy_hf_config_write(&(sy_hf_config_spec){.arch = SY_HF_QWEN2_MOE,
                                                             .model = s.model,
                                                             .moe = s.moe,
                                                             .dtype = SY_F32},
                                        &json),
                     SY_OK);
    json_t *root = json_loads(json, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(root, "shared_expert_intermediate_size")),
                     map.their[t].shape[1]);
    json_decref(root);
    sy_free(&json);
    sy_hf_map_free(&map);
    sy_run_settings_free(&s);
}

static void map_of_a_model_that_does_not_fit_is_refused(void **state)
{
    const char *set[] = {"moe.experts=65536", "model.layers=20"};
    sy_run_settings s = {0};
    sy_hf_map map;
    (void)state;
    parse(NULL, 0, &s);
    assert_int_equal(sy_hf_map_create(SY_HF_QWEN3_MOE, SY_HF_PER_EXPERT, s.model, s.moe, &map),
                     SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "model.qk_norm is none"));
    sy_error_clear();
    sy_run_settings_free(&s);
    parse(set, 2, &s);
    assert_int_equal(sy_hf_map_create(SY_HF_MIXTRAL, SY_HF_PER_EXPERT, s.model, s.moe, &map),
                     SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "65536 experts"));
    sy_error_clear();
    sy_run_settings_free(&s);
    assert_int_equal(sy_alloc_live(), 0);
}

/* ---- size ---- */

static void map_of_the_largest_model_is_sorted_and_complete(void **state)
{
    sy_run_settings s = {0};
    sy_hf_map map;
    int64_t sum = 0;
    (void)state;
    hf_read_file("qwen3_moe.json", &s);
    make_map(SY_HF_QWEN3_MOE, SY_HF_PER_EXPERT, &s, &map);
    assert_int_equal(map.n_their, 94 * (9 + 3 * 128) + 3);
    assert_int_equal(map.n_our, 94 * (9 + 3) + 3);
    assert_int_equal(map.n_links, map.n_their);
    for (int32_t i = 0; i < map.n_links; i++) {
        const sy_hf_link *link = &map.link[i];
        assert_true(i == 0 || link[-1].our < link->our ||
                    (link[-1].our == link->our && link[-1].our_first < link->our_first));
        sum += link->n;
    }
    assert_int_equal(sum, 235093634560); /* parameters, by the model's card and by hand */
    assert_true(map.our[find(map.our, map.n_our, "layers/093/moe/router")].wide);
    assert_false(map.our[find(map.our, map.n_our, "layers/093/moe/experts/up")].wide);
    sy_hf_map_free(&map);
    sy_run_settings_free(&s);
}

/* ---- names alone ---- */

static void names_tell_the_form(void **state)
{
    static const struct {
        const char *name;
        bool known;
        sy_hf_form form;
    } cases[] = {
        {"model.layers.0.block_sparse_moe.experts.7.w2.weight", true, SY_HF_PER_EXPERT},
        {"model.layers.10.mlp.experts.11.up_proj.weight", true, SY_HF_PER_EXPERT},
        {"model.layers.3.mlp.experts.gate_up_proj", true, SY_HF_FUSED},
        {"model.layers.3.mlp.experts.down_proj", true, SY_HF_FUSED},
        {"model.layers.3.block_sparse_moe.input_linear.weight", true, SY_HF_PER_EXPERT},
        {"model.layers.3.block_sparse_moe.experts.gate_up_proj", true, SY_HF_FUSED},
        {"model.layers.0.mlp.shared_expert.up_proj.weight", false, SY_HF_PER_EXPERT},
        {"model.layers.0.mlp.gate.weight", false, SY_HF_PER_EXPERT},
        {"model.layers.0.mlp.up_proj.weight", false, SY_HF_PER_EXPERT},
        {"model.layers.x.mlp.experts.gate_up_proj", false, SY_HF_PER_EXPERT},
        {"model.layers.0.mlp.experts..up_proj.weight", false, SY_HF_PER_EXPERT},
        {"model.layers.0.mlp.experts.1.up_proj.weight_scale", false, SY_HF_PER_EXPERT},
        {"", false, SY_HF_PER_EXPERT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool known = !cases[i].known;
        assert_int_equal(sy_hf_form_of(cases[i].name, &known), cases[i].form);
        assert_int_equal(known, cases[i].known);
    }
}

static void tensors_that_loaders_ignore_are_ignored(void **state)
{
    sy_model_config model = {.tie_embeddings = true};
    (void)state;
    assert_true(sy_hf_is_ignored("model.layers.3.self_attn.rotary_emb.inv_freq", &model));
    assert_true(sy_hf_is_ignored("lm_head.weight", &model));
    assert_false(sy_hf_is_ignored("model.norm.weight", &model));
    model.tie_embeddings = false;
    assert_false(sy_hf_is_ignored("lm_head.weight", &model));
    model.layers = 61;
    assert_false(sy_hf_is_ignored("model.layers.61.eh_proj.weight", &model));
    model.kv_lora_rank = 512;
    assert_true(sy_hf_is_ignored("model.layers.61.eh_proj.weight", &model));
    assert_false(sy_hf_is_ignored("model.layers.60.eh_proj.weight", &model));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_shapes_are_those_of_files_by_transformers),
        cmocka_unit_test(fused_names_are_those_of_transformers_in_memory),
        cmocka_unit_test(elements_lie_where_they_should),
        cmocka_unit_test(shared_experts_of_granite_are_gate_over_up),
        cmocka_unit_test(plain_shared_expert_becomes_half_a_gated_one),
        cmocka_unit_test(no_shared_expert_becomes_one_of_zeros),
        cmocka_unit_test(map_of_a_model_that_does_not_fit_is_refused),
        cmocka_unit_test(map_of_the_largest_model_is_sorted_and_complete),
        cmocka_unit_test(names_tell_the_form),
        cmocka_unit_test(tensors_that_loaders_ignore_are_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
