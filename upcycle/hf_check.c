/* What config.json says, checked in its own words: types, ranges, and what a model must not be to
   be read here. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "upcycle/hf_impl.h"

/* ---- messages ---- */

sy_status sy__hf_dump(const json_t *value, size_t flags, char **out)
{
    sy_status st = SY_OK;
    const size_t n = json_dumpb(value, NULL, 0, flags);
    SY_REQUIRE(n > 0, SY_ERR_MEMORY, "out of memory for JSON");
    SY_TRY(sy_alloc((int64_t)n + 1, 1, (void **)out));
    json_dumpb(value, *out, n, flags);
cleanup:
    return st;
}

const char *sy__hf_show(const char *text, char *buf, size_t buf_bytes)
{
    size_t n = 0;
    for (; text[n] != '\0' && n + 1 < buf_bytes; n++) {
        buf[n] = (char)(text[n] >= 0x20 && text[n] < 0x7f ? text[n] : '?');
    }
    buf[n] = '\0';
    return buf;
}

sy_status sy__hf_refuse(const sy__hf_reader *r, const char *key, const json_t *value,
                        const char *format, ...)
{
    char why[512], name[96], shown[64], *text = NULL;
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    if (value == NULL) {
        return sy_error(SY_ERR_USAGE, "%s: %s is missing: %s", r->path,
                        sy__hf_show(key, name, sizeof name), why);
    }
    if (sy__hf_dump(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII, &text) != SY_OK) {
        return SY_ERR_MEMORY;
    }
    sy_status st = sy_error(
        SY_ERR_USAGE, "%s: %s is %s%s: %s", r->path, sy__hf_show(key, name, sizeof name),
        sy__hf_show(text, shown, sizeof shown), strlen(text) >= sizeof shown ? "..." : "", why);
    sy_free(&text);
    return st;
}

/* ---- values ---- */

json_t *sy__hf_find(const sy__hf_reader *r, const char *key)
{
    json_t *value = json_object_get(r->root, key);
    return json_is_null(value) ? NULL : value;
}

/* heads where N_kv is null, hidden / heads where D is: as the classes compute them. */
static double derive(const sy__hf_reader *r, const sy__hf_key *key)
{
    if (strcmp(key->ours, "model.kv_heads") == 0) {
        return sy__hf_number(r, "model.heads");
    }
    return floor(sy__hf_number(r, "model.hidden") / sy__hf_number(r, "model.heads"));
}

static bool is_derived(const sy__hf_key *key)
{
    return strcmp(key->ours, "model.kv_heads") == 0 || strcmp(key->ours, "model.head_dim") == 0;
}

double sy__hf_value(const sy__hf_reader *r, const sy__hf_key *key)
{
    const json_t *value = key->json != NULL ? json_object_get(r->root, key->json) : NULL;
    if (value == NULL && key->alias != NULL) {
        value = json_object_get(r->root, key->alias);
    }
    if (is_derived(key) && (json_is_null(value) || (value == NULL && key->absent == 0))) {
        return derive(r, key);
    }
    return value == NULL ? key->absent : json_is_true(value) ? 1 : json_number_value(value);
}

double sy__hf_number(const sy__hf_reader *r, const char *ours)
{
    const sy__hf_key *key = r->arch->keys;
    while (strcmp(key->ours, ours) != 0) {
        key++;
    }
    return sy__hf_value(r, key);
}

sy_status sy__hf_check_value(const sy__hf_reader *r, const char *name, const json_t *value,
                             const char *ours)
{
    bool moe;
    const sy_config_key *key = sy__hf_config_key(ours, &moe);
    double number = json_number_value(value), low = key->min;
    if (key->type == SY_CFG_BOOL) {
        return json_is_boolean(value) ? SY_OK
                                      : sy__hf_refuse(r, name, value, "it must be true or false");
    }
    if (key->type == SY_CFG_I32) {
        /* 0 often means "derived" in our configuration; here it is a number. */
        bool none =
            r->arch->shared == SY__HF_SHARED_PLAIN && strcmp(ours, "moe.shared_hidden") == 0;
        low = none ? 0 : fmax(low, 1);
        if (!json_is_integer(value)) {
            return sy__hf_refuse(r, name, value, "it must be a whole number");
        }
    } else if (!json_is_number(value)) {
        return sy__hf_refuse(r, name, value, "it must be a number");
    }
    if (!(number >= low && number <= key->max)) {
        return sy__hf_refuse(r, name, value, "it must be from %.10g to %.10g", low, key->max);
    }
    return SY_OK;
}

static sy_status check_key(const sy__hf_reader *r, const sy__hf_key *key)
{
    sy_status st = SY_OK;
    const json_t *value = json_object_get(r->root, key->json), *other = NULL;
    if (value != NULL && !(is_derived(key) && json_is_null(value))) {
        SY_TRY(sy__hf_check_value(r, key->json, value, key->ours));
    }
    if (key->alias != NULL) {
        other = json_object_get(r->root, key->alias);
    }
    if (other != NULL) {
        SY_TRY(sy__hf_check_value(r, key->alias, other, key->ours));
        if (value != NULL && !json_equal(value, other)) {
            SY_TRY(sy__hf_refuse(r, key->alias, other, "but %s is %.10g", key->json,
                                 json_number_value(value)));
        }
    }
cleanup:
    return st;
}

/* ---- what we have not ---- */

/* Keys that change what a model computes, in every architecture. */
static sy_status check_absent(const sy__hf_reader *r)
{
    static const struct {
        const char *key, *why;
    } unknown[] = {
        {"quantization_config", "quantized weights are not read; use the original, or cast them to "
                                "bf16 first (DeepSeek-V3: "
                                "inference/fp8_cast_bf16.py of its code) and take the key out"},
        {"per_layer_config", "layers of different shapes are not known here"},
    };
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        const json_t *value = sy__hf_find(r, unknown[i].key);
        if (value != NULL) {
            return sy__hf_refuse(r, unknown[i].key, value, "%s", unknown[i].why);
        }
    }
    return SY_OK;
}

static sy_status check_only(const sy__hf_reader *r)
{
    sy_status st = SY_OK;
    for (const sy__hf_only *only = r->arch->only; only->json != NULL && st == SY_OK; only++) {
        const json_t *value = sy__hf_find(r, only->json);
        json_t *known = json_loads(only->value, JSON_DECODE_ANY, NULL);
        if (value != NULL && !json_equal(value, known)) {
            st = sy__hf_refuse(r, only->json, value, "only %s is known here", only->value);
        }
        json_decref(known);
    }
    return st;
}

/* A window as wide as the longest sequence is none. */
static sy_status check_window(const sy__hf_reader *r)
{
    const json_t *value = json_object_get(r->root, "sliding_window");
    const json_t *on = sy__hf_find(r, "use_sliding_window"), *types = sy__hf_find(r, "layer_types");
    const bool switched = r->arch->window == SY__HF_WINDOW_SWITCHED;
    const bool windows = r->arch->window == SY__HF_WINDOW_ALWAYS || (switched && json_is_true(on));
    bool given = value != NULL ? !json_is_null(value) : r->arch->sliding_window > 0;
    double width = value != NULL ? json_number_value(value) : r->arch->sliding_window;
    if (windows && given && value != NULL && !json_is_integer(value)) {
        return sy__hf_refuse(r, "sliding_window", value, "it must be a whole number or null");
    }
    if (windows && given && width < sy__hf_number(r, "model.seq_len")) {
        return sy__hf_refuse(r, "sliding_window", value,
                             "attention to a window of %.10g is not known here; set "
                             "max_position_embeddings to it to use the model up to that length",
                             width);
    }
    for (size_t i = 0; switched && i < json_array_size(types); i++) {
        const json_t *type = json_array_get(types, i);
        const char *name = json_is_string(type) ? json_string_value(type) : "";
        if (strcmp(name, "full_attention") != 0 &&
            !(windows && strcmp(name, "sliding_attention") == 0)) {
            return sy__hf_refuse(r, "layer_types", type, "only \"full_attention\" is known here");
        }
    }
    return SY_OK;
}

/* Combinations of values that are in order one by one. */
static sy_status check_together(const sy__hf_reader *r)
{
    sy_status st = SY_OK;
    const double heads = sy__hf_number(r, "model.heads");
    const double kv_heads = sy__hf_number(r, "model.kv_heads");
    const double head_dim = r->arch->latent ? 2 : sy__hf_number(r, "model.head_dim");
    SY_REQUIRE(fmod(heads, kv_heads) == 0, SY_ERR_USAGE,
               "%s: num_attention_heads %g is not divisible by num_key_value_heads %g", r->path,
               heads, kv_heads);
    SY_REQUIRE(head_dim >= 2 && fmod(head_dim, 2) == 0, SY_ERR_USAGE,
               "%s: head_dim is %g (hidden_size %g, num_attention_heads %g): rotary angles need "
               "an even number",
               r->path, head_dim, sy__hf_number(r, "model.hidden"), heads);
cleanup:
    return st;
}

static sy_status check_experts(const sy__hf_reader *r)
{
    sy_status st = SY_OK;
    const double experts = sy__hf_number(r, "moe.experts"), top_k = sy__hf_number(r, "moe.top_k");
    const double longest = sy__hf_number(r, "model.seq_len");
    SY_REQUIRE(top_k <= experts, SY_ERR_USAGE,
               "%s: num_experts_per_tok %g is larger than the number of experts %g", r->path, top_k,
               experts);
    SY_REQUIRE(top_k > 1 || sy__hf_number(r, "moe.normalize_weights") == 0, SY_ERR_USAGE,
               "%s: num_experts_per_tok 1 with normalised weights: the weight is always 1 and the "
               "router gets no gradient",
               r->path);
    SY_REQUIRE(top_k * longest <= INT32_MAX, SY_ERR_USAGE,
               "%s: max_position_embeddings %.10g with num_experts_per_tok %g: a sequence of more "
               "than 2^31 rows",
               r->path, longest, top_k);
cleanup:
    return st;
}

sy_status sy__hf_check(const sy__hf_reader *r)
{
    sy_status st = SY_OK;
    SY_TRY(check_absent(r));
    SY_TRY(check_only(r));
    for (const sy__hf_key *key = r->arch->keys; key->ours != NULL; key++) {
        if (key->json != NULL) {
            SY_TRY(check_key(r, key));
        }
    }
    SY_TRY(check_together(r));
    SY_TRY(check_window(r));
    if (r->arch->moe) {
        SY_TRY(check_experts(r));
    }
cleanup:
    return st;
}
