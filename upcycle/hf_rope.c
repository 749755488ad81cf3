/* Rotary angles in config.json: rope_theta and rope_scaling (v4), rope_parameters (v5). Where a
   file has both, what transformers v5 takes counts: rope_scaling unless it is null or empty. */
#include <stdio.h>
#include <string.h>

#include "upcycle/hf_impl.h"

typedef struct rope {
    const char *name; /* "rope_scaling" */
    json_t *object;   /* NULL: none */
} rope;

/* "rope_scaling.factor" */
static const char *full_name(const rope *rp, const char *key, char buf[64])
{
    snprintf(buf, 64, "%s.%s", rp->name, key);
    return buf;
}

static sy_status find_object(const sy__hf_reader *r, rope *out)
{
    static const char *const names[] = {"rope_scaling", "rope_parameters"};
    *out = (rope){.name = names[1]};
    for (int32_t i = 0; i < 2; i++) {
        json_t *object = sy__hf_find(r, names[i]);
        if (object != NULL && !json_is_object(object)) {
            return sy__hf_refuse(r, names[i], object, "it must be an object or null");
        }
        if (json_object_size(object) > 0 && out->object == NULL) {
            *out = (rope){names[i], object};
        }
    }
    return SY_OK;
}

static sy_status check_partial(const sy__hf_reader *r, const rope *rp)
{
    static const char key[] = "partial_rotary_factor";
    const json_t *values[] = {json_object_get(r->root, key), json_object_get(rp->object, key)};
    for (int32_t i = 0; i < 2; i++) {
        if (values[i] != NULL && !json_is_null(values[i]) && json_number_value(values[i]) != 1) {
            return sy__hf_refuse(r, key, values[i], "only whole heads are rotated here (1)");
        }
    }
    return SY_OK;
}

static sy_status check_flat(const sy__hf_reader *r, const rope *rp)
{
    char full[64];
    const char *key;
    json_t *value;
    json_object_foreach(rp->object, key, value)
    {
        if (json_is_object(value)) {
            return sy__hf_refuse(r, full_name(rp, key, full), value,
                                 "one rule of rotation for all layers is known here");
        }
    }
    return SY_OK;
}

/* rope_type, or type as old files have it. */
static sy_status read_type(const sy__hf_reader *r, const rope *rp, sy_rope_scaling *out)
{
    static const char *const known[] = {"default", "linear", "llama3", "yarn"};
    const int32_t n = r->arch->latent ? 4 : 3;
    const json_t *value = json_object_get(rp->object, "rope_type");
    const json_t *old = json_object_get(rp->object, "type");
    char full[64];
    if (value != NULL && old != NULL && !json_equal(value, old)) {
        return sy__hf_refuse(r, full_name(rp, "type", full), old, "but rope_type says otherwise");
    }
    value = value != NULL ? value : old;
    *out = SY_ROPE_SCALING_NONE;
    if (value == NULL) {
        return SY_OK;
    }
    for (int32_t i = 0; json_is_string(value) && i < n; i++) {
        if (strcmp(json_string_value(value), known[i]) == 0) {
            *out = (sy_rope_scaling)i;
            return SY_OK;
        }
    }
    return sy__hf_refuse(r, full_name(rp, "rope_type", full), value,
                         "known are \"default\", \"linear\" and \"llama3\"%s",
                         n > 3 ? ", and \"yarn\"" : "");
}

/* A number of the object, checked against our key, into the YAML. */
static sy_status add_number(sy__hf_reader *r, const rope *rp, const char *name, const char *ours)
{
    sy_status st = SY_OK;
    char full[64];
    const json_t *value = json_object_get(rp->object, name);
    SY_TRY(sy__hf_check_value(r, full_name(rp, name, full), value, ours));
    sy__hf_add_value(r, ours, json_number_value(value));
cleanup:
    return st;
}

static sy_status add_theta(sy__hf_reader *r, const rope *rp)
{
    static const char ours[] = "model.rope_theta";
    sy_status st = SY_OK;
    const json_t *value = json_object_get(r->root, "rope_theta");
    if (json_object_get(rp->object, "rope_theta") != NULL) {
        return add_number(r, rp, "rope_theta", ours);
    }
    if (value != NULL) {
        SY_TRY(sy__hf_check_value(r, "rope_theta", value, ours));
    }
    sy__hf_add_value(r, ours, value != NULL ? json_number_value(value) : r->arch->rope_theta);
cleanup:
    return st;
}

static sy_status add_llama3(sy__hf_reader *r, const rope *rp)
{
    static const char original[] = "original_max_position_embeddings";
    sy_status st = SY_OK;
    const json_t *low = json_object_get(rp->object, "low_freq_factor");
    const json_t *high = json_object_get(rp->object, "high_freq_factor");
    const json_t *outer = sy__hf_find(r, original);
    char full[64];
    SY_TRY(add_number(r, rp, "low_freq_factor", "model.rope_low_freq_factor"));
    SY_TRY(add_number(r, rp, "high_freq_factor", "model.rope_high_freq_factor"));
    if (json_number_value(high) <= json_number_value(low)) {
        SY_TRY(sy__hf_refuse(r, full_name(rp, "high_freq_factor", full), high,
                             "it must be larger than low_freq_factor %g", json_number_value(low)));
    }
    /* v5 comes to prefer the outer one. */
    if (outer != NULL && !json_equal(outer, json_object_get(rp->object, original))) {
        SY_TRY(sy__hf_refuse(r, original, outer, "but %s says otherwise", rp->name));
    }
    if (json_object_get(rp->object, original) != NULL) {
        SY_TRY(add_number(r, rp, original, "model.rope_original_seq_len"));
    } else {
        sy__hf_add_value(r, "model.rope_original_seq_len", sy__hf_number(r, "model.seq_len"));
    }
cleanup:
    return st;
}

/* As transformers computes them; what it can compute beyond that, no DeepSeek has. */
static sy_status add_yarn(sy__hf_reader *r, const rope *rp)
{
    static const struct {
        const char *json, *ours;
        double absent;
    } numbers[] = {{"beta_fast", "model.rope_beta_fast", 32},
                   {"beta_slow", "model.rope_beta_slow", 1},
                   {"mscale", "model.rope_mscale", 0},
                   {"mscale_all_dim", "model.rope_mscale_all_dim", 0}};
    static const char *const unknown[] = {"attention_factor", "truncate"};
    sy_status st = SY_OK;
    char full[64];
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        const json_t *value = json_object_get(rp->object, unknown[i]);
        if (value != NULL && !json_is_null(value)) {
            SY_TRY(
                sy__hf_refuse(r, full_name(rp, unknown[i], full), value, "it is not known here"));
        }
    }
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (json_object_get(rp->object, numbers[i].json) != NULL) {
            SY_TRY(add_number(r, rp, numbers[i].json, numbers[i].ours));
        } else {
            sy__hf_add_value(r, numbers[i].ours, numbers[i].absent);
        }
    }
    SY_TRY(add_number(r, rp, "original_max_position_embeddings", "model.rope_original_seq_len"));
cleanup:
    return st;
}

sy_status sy__hf_read_rope(sy__hf_reader *r)
{
    sy_status st = SY_OK;
    rope rp;
    sy_rope_scaling scaling = SY_ROPE_SCALING_NONE;
    SY_TRY(find_object(r, &rp));
    SY_TRY(check_partial(r, &rp));
    SY_TRY(check_flat(r, &rp));
    SY_TRY(read_type(r, &rp, &scaling));
    SY_TRY(add_theta(r, &rp));
    sy__hf_add_value(r, "model.rope_scaling", scaling);
    if (scaling != SY_ROPE_SCALING_NONE) {
        SY_TRY(add_number(r, &rp, "factor", "model.rope_factor"));
    }
    if (scaling == SY_ROPE_SCALING_LLAMA3) {
        SY_TRY(add_llama3(r, &rp));
    }
    if (scaling == SY_ROPE_SCALING_YARN) {
        SY_TRY(add_yarn(r, &rp));
    }
cleanup:
    return st;
}
