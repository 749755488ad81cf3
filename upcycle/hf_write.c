/* Our configuration -> config.json, for transformers v5 (strict types, rope_parameters, dtype) and
   v4 (rope_theta, rope_scaling, torch_dtype). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "upcycle/hf_impl.h"

/* A JSON number as our key's type wants it. NULL: out of memory. */
static json_t *number(const char *ours, double value)
{
    bool moe;
    switch (sy__hf_config_key(ours, &moe)->type) {
    case SY_CFG_BOOL:
        return json_boolean(value != 0);
    case SY_CFG_I32:
        return json_integer((json_int_t)value);
    default:
        return json_real(value);
    }
}

/* Steals value. */
static sy_status set(json_t *root, const char *key, json_t *value)
{
    return json_object_set_new(root, key, value) == 0
               ? SY_OK
               : sy_error(SY_ERR_MEMORY, "out of memory for config.json");
}

/* ---- what is kept of the source ---- */

static sy_status read_source(const char *text, json_t **out)
{
    json_error_t error = {.text = "no object"};
    bool none = text == NULL || text[0] == '\0';
    *out = json_loads(none ? "{}" : text, JSON_REJECT_DUPLICATES, &error);
    return json_is_object(*out)
               ? SY_OK
               : sy_error(SY_ERR_USAGE, "the config.json that came with the model, line %d: %s",
                          error.line, error.text);
}

/* The same architecture: all but what is written anew in other words. */
static sy_status keep_all(json_t *root, json_t *source, const sy__hf_arch *a)
{
    static const char *const stale[] = {"rope_parameters", "rope_scaling", "partial_rotary_factor",
                                        "layer_types"};
    sy_status st = SY_OK;
    SY_REQUIRE(json_object_update(root, source) == 0, SY_ERR_MEMORY,
               "out of memory for config.json");
    for (size_t i = 0; i < sizeof stale / sizeof stale[0]; i++) {
        json_object_del(root, stale[i]);
    }
    for (const sy__hf_key *key = a->keys; key->ours != NULL; key++) {
        if (key->alias != NULL) {
            json_object_del(root, key->alias);
        }
    }
cleanup:
    return st;
}

/* Another architecture: ids of tokens mean the same there. Where there are none the key says so,
   since classes have defaults. */
static sy_status keep_tokens(json_t *root, json_t *source)
{
    static const char *const ids[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    sy_status st = SY_OK;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        json_t *id = json_object_get(source, ids[i]);
        SY_TRY(set(root, ids[i], id != NULL ? json_incref(id) : json_null()));
    }
cleanup:
    return st;
}

/* A source of v4 may have 0 for 0.0, which v5 refuses. */
static sy_status make_real(json_t *root, json_t *extra)
{
    sy_status st = SY_OK;
    const char *key;
    json_t *value;
    json_object_foreach(extra, key, value)
    {
        const json_t *kept = json_object_get(root, key);
        if (json_is_real(value) && json_is_integer(kept)) {
            SY_TRY(set(root, key, json_real((double)json_integer_value(kept))));
        }
    }
cleanup:
    return st;
}

static sy_status keep(json_t *root, json_t *source, const sy__hf_arch *a)
{
    sy_status st = SY_OK;
    const char *type = json_string_value(json_object_get(source, "model_type"));
    json_t *extra = json_loads(a->extra, 0, NULL);
    SY_REQUIRE(extra != NULL && json_object_update(root, extra) == 0, SY_ERR_MEMORY,
               "out of memory for config.json");
    if (type != NULL && strcmp(type, a->model_type) == 0) {
        SY_TRY(keep_all(root, source, a));
        SY_TRY(make_real(root, extra));
    } else {
        SY_TRY(keep_tokens(root, source));
    }
cleanup:
    json_decref(extra);
    return st;
}

/* ---- our values ---- */

/* To the digits that people write: what was read as 0.001 and converted is 0.001 again. */
static double round_digits(double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.12g", value);
    return strtod(text, NULL);
}

/* Our values as the architecture has them. */
static void convert(const sy__hf_arch *a, sy_model_config *model, sy_moe_config *moe)
{
    model->attention_bias = model->attention_bias || a->has_bias;
    model->init_std = fmin(model->init_std, 1); /* Llama's class accepts no more */
    if (!model->attention_multiplier.set) {
        model->attention_multiplier = (sy_opt_f64){true, 1 / sqrt(model->head_dim)};
    }
    if (a->moe && !a->latent) {
        moe->aux_loss_coeff = round_digits(moe->aux_loss_coeff / sy__hf_aux_factor(model, moe));
    }
    if (moe->shared_experts == 0) {
        moe->shared_hidden = a->shared == SY__HF_SHARED_GATED ? SY__HF_NO_SHARED_WIDTH : 0;
    }
}

static sy_status set_keys(json_t *root, const sy__hf_arch *a, const sy_model_config *model,
                          const sy_moe_config *moe)
{
    sy_status st = SY_OK;
    for (const sy__hf_key *key = a->keys; key->ours != NULL; key++) {
        if (key->json != NULL) {
            SY_TRY(set(root, key->json, number(key->ours, sy__hf_get(key->ours, model, moe))));
        }
    }
    for (const sy__hf_only *only = a->only; only->json != NULL; only++) {
        SY_TRY(set(root, only->json, json_loads(only->value, JSON_DECODE_ANY, NULL)));
    }
cleanup:
    return st;
}

/* What the source says stays, if its window is as wide as any sequence. */
static sy_status set_window(json_t *root, const sy__hf_arch *a, const sy_model_config *model)
{
    sy_status st = SY_OK;
    if (a->window == SY__HF_WINDOW_NONE ||
        json_integer_value(json_object_get(root, "sliding_window")) >= model->seq_len) {
        return SY_OK;
    }
    SY_TRY(set(root, "sliding_window", json_null()));
    if (a->window == SY__HF_WINDOW_SWITCHED) {
        SY_TRY(set(root, "use_sliding_window", json_false()));
    }
cleanup:
    return st;
}

/* rope_parameters has theta in it, rope_scaling beside it. */
static sy_status rope_object(const sy_model_config *m, bool with_theta, json_t **out)
{
    static const char *const types[] = {"default", "linear", "llama3", "yarn"};
    sy_status st = SY_OK;
    json_t *rope = json_object();
    SY_TRY(set(rope, "rope_type", json_string(types[m->rope_scaling])));
    if (with_theta) {
        SY_TRY(set(rope, "rope_theta", json_real(m->rope_theta)));
    }
    if (m->rope_scaling != SY_ROPE_SCALING_NONE) {
        SY_TRY(set(rope, "factor", json_real(m->rope_factor)));
    }
    if (m->rope_scaling == SY_ROPE_SCALING_LLAMA3) {
        SY_TRY(set(rope, "low_freq_factor", json_real(m->rope_low_freq_factor)));
        SY_TRY(set(rope, "high_freq_factor", json_real(m->rope_high_freq_factor)));
    }
    if (m->rope_scaling == SY_ROPE_SCALING_YARN) {
        SY_TRY(set(rope, "beta_fast", json_real(m->rope_beta_fast)));
        SY_TRY(set(rope, "beta_slow", json_real(m->rope_beta_slow)));
    }
    if (m->rope_scaling == SY_ROPE_SCALING_YARN && m->rope_mscale > 0) {
        SY_TRY(set(rope, "mscale", json_real(m->rope_mscale)));
    }
    if (m->rope_scaling == SY_ROPE_SCALING_YARN && m->rope_mscale_all_dim > 0) {
        SY_TRY(set(rope, "mscale_all_dim", json_real(m->rope_mscale_all_dim)));
    }
    if (m->rope_scaling > SY_ROPE_SCALING_LINEAR) {
        SY_TRY(
            set(rope, "original_max_position_embeddings", json_integer(m->rope_original_seq_len)));
    }
    *out = rope;
    rope = NULL;
cleanup:
    json_decref(rope);
    return st;
}

static sy_status set_rope(json_t *root, const sy_model_config *m)
{
    sy_status st = SY_OK;
    json_t *rope = NULL;
    SY_TRY(set(root, "rope_theta", json_real(m->rope_theta)));
    SY_TRY(rope_object(m, true, &rope));
    SY_TRY(set(root, "rope_parameters", rope));
    if (m->rope_scaling == SY_ROPE_SCALING_NONE) {
        SY_TRY(set(root, "rope_scaling", json_null()));
        goto cleanup;
    }
    SY_TRY(rope_object(m, false, &rope));
    SY_TRY(set(root, "rope_scaling", rope));
cleanup:
    return st;
}

/* every N-th layer, from 1; 0: another pattern. */
static int32_t sparse_step(const sy_model_config *model, const sy_moe_config *moe)
{
    int32_t step = 1;
    while (step <= model->layers && !sy_moe_config_layer(moe, step - 1)) {
        step++;
    }
    for (int32_t i = 0; i < model->layers; i++) {
        if (sy_moe_config_layer(moe, i) != ((i + 1) % step == 0)) {
            return 0;
        }
    }
    return step;
}

static sy_status set_layers(json_t *root, const sy_model_config *model, const sy_moe_config *moe)
{
    sy_status st = SY_OK;
    json_t *dense = json_array();
    int32_t step = sparse_step(model, moe);
    SY_TRY(set(root, "decoder_sparse_step", json_integer(step > 0 ? step : 1)));
    SY_TRY(set(root, "mlp_only_layers", dense));
    for (int32_t i = 0; i < model->layers && step == 0; i++) {
        SY_REQUIRE(sy_moe_config_layer(moe, i) ||
                       json_array_append_new(dense, json_integer(i)) == 0,
                   SY_ERR_MEMORY, "out of memory for config.json");
    }
cleanup:
    return st;
}

static sy_status set_names(json_t *root, const sy__hf_arch *a, sy_dtype dtype)
{
    static const char *const dtypes[SY_N_DTYPES] = {
        [SY_F32] = "float32", [SY_BF16] = "bfloat16", [SY_F16] = "float16", [SY_F64] = "float64"};
    sy_status st = SY_OK;
    const char *name = dtype < SY_N_DTYPES ? dtypes[dtype] : NULL;
    SY_REQUIRE(name != NULL, SY_ERR_INTERNAL, "config.json: no weights are of dtype %d", dtype);
    SY_TRY(set(root, "model_type", json_string(a->model_type)));
    SY_TRY(set(root, "architectures", json_pack("[s]", a->name)));
    SY_TRY(set(root, "dtype", json_string(name)));
    SY_TRY(set(root, "torch_dtype", json_string(name)));
cleanup:
    return st;
}

/* ---- text ---- */

/* The digits that its numbers need: with more than that 1e-05 is 1.0000000000000001e-05. */
static int digits_of(json_t *value)
{
    int most = json_is_real(value) ? sy__hf_digits(json_real_value(value)) : 15;
    const char *key;
    json_t *child;
    json_object_foreach(value, key, child)
    {
        int n = digits_of(child);
        most = n > most ? n : most;
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        int n = digits_of(json_array_get(value, i));
        most = n > most ? n : most;
    }
    return most;
}

static sy_status to_text(json_t *root, char **out)
{
    sy_status st = SY_OK;
    const size_t digits = (size_t)digits_of(root);
    char *text = NULL;
    SY_TRY(sy__hf_dump(root, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(digits), &text));
    SY_TRY(sy_asprintf(out, "%s\n", text));
cleanup:
    sy_free(&text);
    return st;
}

sy_status sy_hf_config_write(const sy_hf_config_spec *spec, char **json)
{
    sy_status st = SY_OK;
    const sy__hf_arch *a = sy__hf_arch_at(spec->arch);
    sy_model_config model = *spec->model;
    sy_moe_config moe = *spec->moe;
    json_t *root = json_object(), *source = NULL;
    SY_TRY(sy_hf_can_hold(spec->arch, spec->model, spec->moe));
    convert(a, &model, &moe);
    SY_TRY(read_source(spec->source_json, &source));
    SY_TRY(keep(root, source, a));
    SY_TRY(set_keys(root, a, &model, &moe));
    SY_TRY(set_window(root, a, &model));
    SY_TRY(set_rope(root, &model));
    if (a->dense_layers) {
        SY_TRY(set_layers(root, &model, &moe));
    }
    if (a->latent) {
        SY_TRY(sy__hf_write_deepseek(root, a, &model, &moe));
    }
    SY_TRY(set_names(root, a, spec->dtype));
    SY_TRY(to_text(root, json));
cleanup:
    json_decref(source);
    json_decref(root);
    return st;
}
