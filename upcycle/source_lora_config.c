/* adapter_config.json of PEFT (0.21): what is read, and what is refused because the adapter would
   be something else than W + scale B A. */
#include <math.h>
#include <string.h>

#include "upcycle/source_lora_impl.h"

enum { MAX_RANK = 1 << 16 };

/* ---- names of modules ---- */

bool sy__lora_names(const char *name, const char *module)
{
    const bool whole = name[0] == '^';
    name += whole;
    size_t n = strlen(module), m = strlen(name);
    return n >= m && strcmp(module + n - m, name) == 0 &&
           (n == m || (!whole && module[n - m - 1] == '.'));
}

static bool is_name(const char *text)
{
    size_t n =
        strspn(text + (text[0] == '^'), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                        "0123456789_.");
    return n > 0 && text[n + (text[0] == '^')] == '\0';
}

static bool list_names(const json_t *list, const char *module)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (sy__lora_names(json_string_value(json_array_get(list, i)), module)) {
            return true;
        }
    }
    return false;
}

/* The value of the first key that names the module; NULL: none does. */
static const json_t *pattern_value(const sy__lora_config *c, const char *pattern,
                                   const char *module)
{
    const char *key;
    json_t *value, *object = json_object_get(c->file.root, pattern);
    json_object_foreach(object, key, value)
    {
        if (sy__lora_names(key, module)) {
            return value;
        }
    }
    return NULL;
}

int64_t sy__lora_rank(const sy__lora_config *c, const char *module)
{
    const json_t *own = pattern_value(c, "rank_pattern", module);
    return own != NULL ? json_integer_value(own) : c->r;
}

double sy__lora_scale(const sy__lora_config *c, const char *module)
{
    const json_t *own = pattern_value(c, "alpha_pattern", module);
    const double alpha = own != NULL ? json_number_value(own) : c->alpha;
    const double r = (double)sy__lora_rank(c, module);
    return alpha / (c->rank_stabilized ? sqrt(r) : r);
}

/* layers_to_transform: all where it is not there. */
static bool has_layer(const sy__lora_config *c, const char *module)
{
    const json_t *layers = sy__hf_find(&c->file, "layers_to_transform");
    int number = -1;
    bool found = layers == NULL || (json_is_array(layers) && json_array_size(layers) == 0);
    if (!found && sscanf(module, "model.layers.%9d.", &number) == 1) {
        found = json_is_integer(layers) && json_integer_value(layers) == number;
        for (size_t i = 0; i < json_array_size(layers) && !found; i++) {
            found = json_integer_value(json_array_get(layers, i)) == number;
        }
    }
    return found;
}

/* "all-linear": attention and dense MLPs; how experts are held is another matter. */
static bool is_linear(const char *module)
{
    return sy__lora_names("q_proj", module) || sy__lora_names("k_proj", module) ||
           sy__lora_names("v_proj", module) || sy__lora_names("o_proj", module) ||
           sy__lora_names("mlp.gate_proj", module) || sy__lora_names("mlp.up_proj", module) ||
           sy__lora_names("mlp.down_proj", module);
}

sy__lora_aim sy__lora_aims_at(const sy__lora_config *c, const char *module)
{
    const json_t *targets = sy__hf_find(&c->file, "target_modules");
    const json_t *excluded = sy__hf_find(&c->file, "exclude_modules");
    const bool all =
        json_is_string(targets) && strcmp(json_string_value(targets), "all-linear") == 0;
    if (json_is_string(excluded) || (!json_is_array(targets) && !all)) {
        return SY__LORA_UNKNOWN;
    }
    if (all && !is_linear(module)) {
        return SY__LORA_UNKNOWN;
    }
    return (all || list_names(targets, module)) && !list_names(excluded, module) &&
                   has_layer(c, module)
               ? SY__LORA_YES
               : SY__LORA_NO;
}

/* ---- checks ---- */

/* What may only be off: null, false, empty or 0. */
static sy_status check_off(const sy__hf_reader *r)
{
    static const struct {
        const char *key, *why;
    } unknown[] = {
        {"use_dora", "DoRA is not read; merge it with PEFT first"},
        {"use_qalora", "adapters of quantized weights are not read"},
        {"use_bdlora", "block-diagonal adapters are not read"},
        {"kasa_config", "KaSA is not read; merge it with PEFT first"},
        {"monteclora_config", "Monte Carlo adapters are not read"},
        {"arrow_config", "Arrow routing is not read"},
        {"alora_invocation_tokens", "an adapter that acts on some tokens only cannot be merged"},
        {"trainable_token_indices", "single trained tokens are not read; merge with PEFT first"},
        {"target_parameters", "adapters of parameters are not read; those of modules are"},
        {"layer_replication", "an adapter that repeats layers changes the model's shape"},
        {"lora_bias", "a bias of B is not read; merge it with PEFT first"},
        {"megatron_config", "adapters of Megatron's layers are not read"},
    };
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        const json_t *value = sy__hf_find(r, unknown[i].key);
        const bool empty = (json_is_array(value) || json_is_object(value)) &&
                           json_array_size(value) + json_object_size(value) == 0;
        if (value != NULL && !json_is_false(value) && !empty) {
            return sy__hf_refuse(r, unknown[i].key, value, "%s", unknown[i].why);
        }
    }
    return SY_OK;
}

/* Some ways to begin change the base too; such an adapter belongs to another base than the one it
   names. */
static sy_status check_begin(const sy__hf_reader *r)
{
    static const char *const harmless[] = {"gaussian", "eva", "orthogonal"};
    const json_t *value = sy__hf_find(r, "init_lora_weights");
    for (size_t i = 0; i < sizeof harmless / sizeof harmless[0]; i++) {
        if (json_is_string(value) && strcmp(json_string_value(value), harmless[i]) == 0) {
            return SY_OK;
        }
    }
    return value == NULL || json_is_boolean(value)
               ? SY_OK
               : sy__hf_refuse(r, "init_lora_weights", value,
                               "the adapter may begin by changing its base; save it with PEFT as "
                               "a plain LoRA of the original base");
}

static sy_status check_type(const sy__hf_reader *r, const char *key, bool right, const char *what)
{
    const json_t *value = sy__hf_find(r, key);
    return value == NULL || right ? SY_OK : sy__hf_refuse(r, key, value, "it must be %s", what);
}

static bool all_strings(const json_t *list)
{
    bool all = json_is_array(list);
    for (size_t i = 0; i < json_array_size(list); i++) {
        all = all && json_is_string(json_array_get(list, i));
    }
    return all;
}

static bool all_integers(const json_t *list)
{
    bool all = json_is_array(list);
    for (size_t i = 0; i < json_array_size(list); i++) {
        all = all && json_is_integer(json_array_get(list, i));
    }
    return all;
}

static sy_status check_types(const sy__hf_reader *r)
{
    static const char *const modules[] = {"target_modules", "exclude_modules"};
    static const char *const flags[] = {"use_rslora", "fan_in_fan_out"};
    sy_status st = SY_OK;
    for (int32_t i = 0; i < 2; i++) {
        const json_t *value = sy__hf_find(r, modules[i]), *flag = sy__hf_find(r, flags[i]);
        SY_TRY(check_type(r, modules[i], json_is_string(value) || all_strings(value),
                          "a list of names or one regular expression"));
        SY_TRY(check_type(r, flags[i], json_is_boolean(flag), "true or false"));
    }
    const json_t *layers = sy__hf_find(r, "layers_to_transform");
    SY_TRY(check_type(r, "modules_to_save", all_strings(sy__hf_find(r, "modules_to_save")),
                      "a list of names"));
    SY_TRY(check_type(r, "layers_to_transform", json_is_integer(layers) || all_integers(layers),
                      "a whole number or a list of them"));
    SY_TRY(check_type(r, "base_model_name_or_path",
                      json_is_string(sy__hf_find(r, "base_model_name_or_path")), "a text"));
cleanup:
    return st;
}

static bool is_rank(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= 1 &&
           json_integer_value(value) <= MAX_RANK;
}

static bool is_alpha(const json_t *value)
{
    const double alpha = json_number_value(value);
    return json_is_number(value) && alpha > 0 && alpha <= 1e9;
}

static const char rank_range[] = "it must be a whole number from 1 to 65536";
static const char alpha_range[] = "it must be a number above 0, at most 1e9";

static sy_status check_pattern(const sy__hf_reader *r, const char *pattern,
                               bool (*fits)(const json_t *value), const char *range)
{
    sy_status st = SY_OK;
    const char *key;
    json_t *value, *object = sy__hf_find(r, pattern);
    SY_TRY(check_type(r, pattern, json_is_object(object), "an object of names and numbers"));
    json_object_foreach(object, key, value)
    {
        if (!is_name(key)) {
            SY_TRY(sy__hf_refuse(r, pattern, object,
                                 "names of modules are read here, no regular expressions"));
        }
        if (!fits(value)) {
            SY_TRY(sy__hf_refuse(r, key, value, "%s", range));
        }
    }
cleanup:
    return st;
}

/* r and alpha are there in every file of PEFT; their defaults are its class's. */
static sy_status read_numbers(sy__lora_config *c)
{
    sy_status st = SY_OK;
    const sy__hf_reader *f = &c->file;
    const json_t *r = sy__hf_find(f, "r"), *alpha = sy__hf_find(f, "lora_alpha");
    if (r == NULL || !is_rank(r)) {
        SY_TRY(sy__hf_refuse(f, "r", r, "%s", rank_range));
    }
    if (alpha == NULL || !is_alpha(alpha)) {
        SY_TRY(sy__hf_refuse(f, "lora_alpha", alpha, "%s", alpha_range));
    }
    SY_TRY(check_pattern(f, "rank_pattern", is_rank, rank_range));
    SY_TRY(check_pattern(f, "alpha_pattern", is_alpha, alpha_range));
    c->r = json_integer_value(r);
    c->alpha = json_number_value(alpha);
    c->rank_stabilized = json_is_true(sy__hf_find(f, "use_rslora"));
cleanup:
    return st;
}

static sy_status check_kind(const sy__hf_reader *r)
{
    const json_t *kind = sy__hf_find(r, "peft_type");
    return json_is_string(kind) && strcmp(json_string_value(kind), "LORA") == 0
               ? SY_OK
               : sy__hf_refuse(r, "peft_type", kind, "only \"LORA\" is read");
}

sy_status sy__lora_config_read(const char *path, const char *json, sy__lora_config *out)
{
    sy_status st = SY_OK;
    sy__lora_config c = {.file.path = path};
    SY_TRY(sy__hf_parse(&c.file, json, strlen(json)));
    SY_TRY(check_kind(&c.file));
    SY_TRY(check_off(&c.file));
    SY_TRY(check_begin(&c.file));
    SY_TRY(check_types(&c.file));
    SY_TRY(read_numbers(&c));
    c.base_model = json_string_value(sy__hf_find(&c.file, "base_model_name_or_path"));
    *out = c;
    c.file.root = NULL;
cleanup:
    json_decref(c.file.root);
    return st;
}

void sy__lora_config_free(sy__lora_config *c)
{
    json_decref(c->file.root);
    *c = (sy__lora_config){0};
}
