/* config.json -> our configuration, as YAML. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "data/data_config.h"
#include "moe/router.h"
#include "upcycle/hf_impl.h"

void sy__hf_add(sy__hf_reader *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(r->text + r->n_text, SY__HF_TEXT - r->n_text, format, args);
    va_end(args);
    if (n > 0 && r->n_text + (size_t)n < SY__HF_TEXT) {
        r->n_text += (size_t)n;
    }
}

/* ---- YAML ---- */

void sy__hf_add_value(sy__hf_reader *r, const char *ours, double value)
{
    bool moe;
    const sy_config_key *key = sy__hf_config_key(ours, &moe);
    if (key->type == SY_CFG_BOOL) {
        sy__hf_add(r, "  %s: %s\n", key->name, value != 0 ? "true" : "false");
    } else if (key->type == SY_CFG_ENUM) {
        sy__hf_add(r, "  %s: %s\n", key->name, key->choices[(int32_t)value]);
    } else if (isnan(value)) {
        sy__hf_add(r, "  %s: null\n", key->name);
    } else {
        sy__hf_add(r, "  %s: %.*g\n", key->name, sy__hf_digits(value), value);
    }
}

static const char aux_key[] = "moe.aux_loss_coeff";

/* Without the balance loss, which is converted. */
static void add_keys(sy__hf_reader *r, const char *section)
{
    for (const sy__hf_key *key = r->arch->keys; key->ours != NULL; key++) {
        if (strncmp(key->ours, section, strlen(section)) == 0 && strcmp(key->ours, aux_key) != 0) {
            sy__hf_add_value(r, key->ours, sy__hf_value(r, key));
        }
    }
}

/* dense[i]: layer i has no experts. [number of layers] */
static sy_status read_dense_layers(const sy__hf_reader *r, int32_t layers, bool *dense)
{
    sy_status st = SY_OK;
    const json_t *every = sy__hf_find(r, "decoder_sparse_step"),
                 *list = sy__hf_find(r, "mlp_only_layers");
    const json_int_t step = every != NULL ? json_integer_value(every) : 1;
    if (step < 1) {
        SY_TRY(sy__hf_refuse(r, "decoder_sparse_step", every, "it must be a whole number from 1"));
    }
    if (list != NULL && !json_is_array(list)) {
        SY_TRY(sy__hf_refuse(r, "mlp_only_layers", list, "it must be a list of layers"));
    }
    for (int32_t i = 0; i < layers; i++) {
        dense[i] = (i + 1) % step != 0;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        json_int_t layer = json_is_integer(item) ? json_integer_value(item) : -1;
        if (layer < 0 || layer >= layers) {
            SY_TRY(sy__hf_refuse(r, "mlp_only_layers", list, "its layers must be from 0 to %d",
                                 layers - 1));
        }
        dense[layer] = true;
    }
cleanup:
    return st;
}

/* moe.layers. *n: how many have experts. */
static sy_status add_layers(sy__hf_reader *r, int32_t *n)
{
    sy_status st = SY_OK;
    bool *dense = NULL;
    const int32_t layers = (int32_t)sy__hf_number(r, "model.layers");
    SY_TRY(sy_alloc(layers, sizeof *dense, (void **)&dense));
    if (r->arch->dense_layers) {
        SY_TRY(read_dense_layers(r, layers, dense));
    }
    *n = 0;
    for (int32_t i = 0; i < layers; i++) {
        *n += !dense[i];
    }
    SY_REQUIRE(*n > 0, SY_ERR_USAGE,
               "%s: no layer has experts, by decoder_sparse_step and mlp_only_layers", r->path);
    sy__hf_add(r, *n == layers ? "  layers: all\n" : "  layers: [");
    for (int32_t i = 0, k = 0; i < layers && *n < layers; i++) {
        if (!dense[i]) {
            sy__hf_add(r, "%d%s", i, ++k < *n ? ", " : "]\n");
        }
    }
cleanup:
    sy_free(&dense);
    return st;
}

/* What no config.json says. */
#define REST                                                                                       \
    "  z_loss_coeff: 0.0\n  jitter: 0.0\n  capacity_factor: null\n  eval_capacity_factor: null\n"

static sy_status add_moe(sy__hf_reader *r)
{
    sy_status st = SY_OK;
    bool moe;
    int32_t n = 0, shared = r->arch->shared == SY__HF_SHARED_GATED;
    sy__hf_add(r, "moe:\n");
    if (!r->arch->moe) {
        sy__hf_add(r, "  experts: 0\n");
        return SY_OK;
    }
    add_keys(r, "moe.");
    if (r->arch->latent) {
        SY_TRY(sy__hf_read_deepseek(r));
        sy__hf_add(r, REST);
        goto cleanup;
    }
    SY_TRY(add_layers(r, &n));
    if (r->arch->shared == SY__HF_SHARED_PLAIN) {
        shared = sy__hf_number(r, "moe.shared_hidden") > 0;
    }
    sy__hf_add(r, "  shared_experts: %d\n  shared_gate: %s\n", shared,
               r->arch->shared == SY__HF_SHARED_GATED ? "true" : "false");
    double aux = sy__hf_number(r, aux_key) * sy__hf_number(r, "moe.top_k") / n;
    if (aux > sy__hf_config_key(aux_key, &moe)->max) {
        SY_TRY(sy__hf_refuse(r, "router_aux_loss_coef",
                             json_object_get(r->root, "router_aux_loss_coef"), "it is too large"));
    }
    sy__hf_add_value(r, aux_key, aux);
    sy__hf_add(r, "  aux_loss_scope: micro_batch\n  router: topk\n" REST);
cleanup:
    return st;
}

/* ---- the file ---- */

sy_status sy__hf_parse(sy__hf_reader *r, const char *json, size_t json_bytes)
{
    json_error_t error;
    char shown[sizeof error.text];
    if (memchr(json, '\0', json_bytes) != NULL) { /* one behind a number escapes jansson */
        return sy_error(SY_ERR_USAGE, "%s: there is a NUL byte in it", r->path);
    }
    r->root = json_loadb(json, json_bytes, JSON_REJECT_DUPLICATES, &error);
    if (r->root == NULL) {
        return sy_error(SY_ERR_USAGE, "%s:%d: %s", r->path, error.line,
                        sy__hf_show(error.text, shown, sizeof shown));
    }
    return json_is_object(r->root)
               ? SY_OK
               : sy_error(SY_ERR_USAGE, "%s: this is not a JSON object", r->path);
}

static sy_status find_arch(sy__hf_reader *r, sy_hf_arch *out)
{
    sy_status st = SY_OK;
    const json_t *list = sy__hf_find(r, "architectures"), *type = sy__hf_find(r, "model_type");
    const json_t *name = json_array_size(list) > 0 ? json_array_get(list, 0) : type;
    if (list != NULL && !json_is_array(list)) {
        SY_TRY(sy__hf_refuse(r, "architectures", list, "it must be a list of names"));
    }
    if (name == NULL || !json_is_string(name)) {
        SY_TRY(sy__hf_refuse(r, list != NULL ? "architectures" : "model_type",
                             list != NULL ? list : type, "it must name an architecture"));
    }
    SY_TRY(sy__hf_arch_find(r->path, json_string_value(name), out));
    r->arch = sy__hf_arch_at(*out);
    if (type != NULL &&
        (!json_is_string(type) || strcmp(json_string_value(type), r->arch->model_type) != 0)) {
        SY_TRY(sy__hf_refuse(r, "model_type", type, "but architectures names %s, which is %s",
                             r->arch->name, r->arch->model_type));
    }
cleanup:
    return st;
}

/* The YAML says what a checkpoint of ours can hold, and what the architecture can. */
static sy_status settle(const sy__hf_reader *r)
{
    sy_status st = SY_OK;
    const sy_config_section *const sections[] = {&sy_model_section, &sy_moe_section,
                                                 &sy_data_section, &sy_router_section_grouped};
    sy_config *config = NULL;
    const sy_model_config *model;
    const sy_moe_config *moe;
    char why[SY__HF_WHY];
    bool trick;
    SY_TRY(sy_config_parse(sections, 4, r->text, r->n_text, r->path, NULL, 0, &config));
    model = sy_config_get(config, "model");
    moe = sy_config_get(config, "moe");
    SY_TRY(sy_model_config_resolve(config));
    SY_TRY(sy_moe_config_resolve(config, model->layers, model->ffn_hidden));
    SY_REQUIRE(sy__hf_fits(r->arch, model, moe, why, &trick), SY_ERR_USAGE,
               "%s: a %s cannot have this: %s", r->path, r->arch->name, why);
cleanup:
    sy_config_destroy(&config);
    return st;
}

static sy_status read_config(const char *path, const char *json, size_t json_bytes, bool no_mtp,
                             sy_hf_arch *arch, char **yaml)
{
    sy_status st = SY_OK;
    sy__hf_reader r = {.path = path, .no_mtp = no_mtp};
    sy_hf_arch found = SY_HF_LLAMA;
    SY_TRY(sy__hf_parse(&r, json, json_bytes));
    SY_TRY(find_arch(&r, &found));
    SY_TRY(sy__hf_check(&r));
    SY_TRY(sy_alloc(SY__HF_TEXT, 1, (void **)&r.text));
    sy__hf_add(&r, "model:\n");
    add_keys(&r, "model.");
    if (r.arch->latent) {
        SY_TRY(sy__hf_read_latent(&r));
    }
    SY_TRY(sy__hf_read_rope(&r));
    SY_TRY(add_moe(&r));
    sy__hf_add(&r, "data:\n  tokenizer: none\n");
    SY_TRY(settle(&r));
    *arch = found;
    *yaml = r.text;
    r.text = NULL;
cleanup:
    sy_free(&r.text);
    json_decref(r.root);
    return st;
}

sy_status sy_hf_config_read(const char *path, const char *json, size_t json_bytes, sy_hf_arch *arch,
                            char **yaml)
{
    return read_config(path, json, json_bytes, false, arch, yaml);
}

sy_status sy_hf_config_read_without_mtp(const char *path, const char *json, size_t json_bytes,
                                        sy_hf_arch *arch, char **yaml)
{
    return read_config(path, json, json_bytes, true, arch, yaml);
}
