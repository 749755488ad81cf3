/* One value: tree -> field of a section's struct, and back to YAML. Types come from the table
   alone, so nothing is guessed: decimal or 0x integers, floats by strtod (the program never leaves
   the C locale), true and false, null where it is legal. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/config_impl.h"

/* What every parser below needs to speak about the value. */
typedef struct context {
    const sy__source *source;
    const char *name;
    const sy_config_key *key;
} context;

/* "top_k: 010" is 8 to one YAML reader and 10 to another: numbers with a leading zero are refused.
 */
static bool has_leading_zero(const char *text)
{
    text += *text == '-' || *text == '+';
    return text[0] == '0' && text[1] >= '0' && text[1] <= '9';
}

static bool scan_int(const char *text, int64_t *out)
{
    const char *digits = text + (*text == '-' || *text == '+');
    bool hex = digits[0] == '0' && digits[1] == 'x';
    const char *legal = hex ? "0123456789abcdefABCDEF" : "0123456789";
    digits += hex ? 2 : 0;
    if (!*digits || digits[strspn(digits, legal)] || has_leading_zero(text)) {
        return false;
    }
    errno = 0;
    *out = strtoll(text, NULL, hex ? 16 : 10);
    return errno == 0;
}

static bool scan_float(const char *text, double *out)
{
    char *end = NULL;
    if (!*text || text[strspn(text, "0123456789.eE+-")] || has_leading_zero(text)) {
        return false;
    }
    *out = strtod(text, &end);
    return *end == '\0' && isfinite(*out);
}

void sy__range_format(const sy_config_key *key, char *buf, size_t buf_bytes)
{
    double top = key->type == SY_CFG_I32   ? (double)INT32_MAX
                 : key->type == SY_CFG_I64 ? (double)INT64_MAX
                                           : 1e300;
    int digits = key->type == SY_CFG_I32 || key->type == SY_CFG_I64 ? 17 : 12; /* no exponent */
    bool has_min = key->min > (key->type == SY_CFG_I32 ? (double)INT32_MIN : -1e300);
    if (key->min == 0 && key->max == 0) {
        snprintf(buf, buf_bytes, "%s", "");
    } else if (key->max >= top) {
        snprintf(buf, buf_bytes, ">= %.*g", digits, key->min);
    } else if (!has_min) {
        snprintf(buf, buf_bytes, "<= %.*g", digits, key->max);
    } else {
        snprintf(buf, buf_bytes, "%.*g..%.*g", digits, key->min, digits, key->max);
    }
}

static sy_status check_range(const context *c, const sy__node *node, double value)
{
    char range[64];
    if ((c->key->min == 0 && c->key->max == 0) || (value >= c->key->min && value <= c->key->max)) {
        return SY_OK;
    }
    sy__range_format(c->key, range, sizeof range);
    return sy__refuse(c->source, node->line, "%s %s is out of range: write %s", c->name, node->text,
                      range);
}

/* A scalar with something in it. expected: "an integer". */
static sy_status check_scalar(const context *c, const sy__node *node, const char *expected)
{
    if (node->kind != SY__SCALAR) {
        return sy__refuse(c->source, node->line, "%s is %s, but must be %s", c->name,
                          node->kind == SY__LIST ? "a list" : "a map", expected);
    }
    if (sy__node_is_empty(node)) {
        return sy__refuse(c->source, node->line, "%s has no value: write %s", c->name, expected);
    }
    if (sy__node_is_null(node)) {
        return sy__refuse(c->source, node->line, "%s may not be null: write %s", c->name, expected);
    }
    return SY_OK;
}

static sy_status parse_int(const context *c, const sy__node *node, int64_t low, int64_t high,
                           int64_t *out)
{
    sy_status st = SY_OK;
    int64_t value = 0;
    SY_TRY(check_scalar(c, node, "an integer"));
    if (!node->plain || !scan_int(node->text, &value)) {
        st = sy__refuse(c->source, node->line,
                        "%s '%s' is not an integer: write digits (or 0x and hex digits), unquoted",
                        c->name, node->text);
        goto cleanup;
    }
    if (value < low || value > high) {
        st = sy__refuse(c->source, node->line,
                        "%s %s does not fit its type: write %" PRId64 "..%" PRId64, c->name,
                        node->text, low, high);
        goto cleanup;
    }
    SY_TRY(check_range(c, node, (double)value));
    *out = value;
cleanup:
    return st;
}

static sy_status parse_float(const context *c, const sy__node *node, double *out)
{
    sy_status st = SY_OK;
    double value = 0;
    SY_TRY(check_scalar(c, node, "a number"));
    if (!node->plain || !scan_float(node->text, &value)) {
        st = sy__refuse(c->source, node->line,
                        "%s '%s' is not a finite number: write it like 0.1 or 1.0e-4, unquoted",
                        c->name, node->text);
        goto cleanup;
    }
    SY_TRY(check_range(c, node, value));
    *out = value;
cleanup:
    return st;
}

static sy_status parse_bool(const context *c, const sy__node *node, bool *out)
{
    sy_status st = SY_OK;
    SY_TRY(check_scalar(c, node, "true or false"));
    bool is_true = strcmp(node->text, "true") == 0;
    if (!node->plain || (!is_true && strcmp(node->text, "false") != 0)) {
        st = sy__refuse(c->source, node->line, "%s '%s' is neither true nor false", c->name,
                        node->text);
        goto cleanup;
    }
    *out = is_true;
cleanup:
    return st;
}

static sy_status parse_string(const context *c, const sy__node *node, char **out)
{
    sy_status st = SY_OK;
    SY_TRY(check_scalar(c, node, "a text"));
    if (node->plain && strcmp(node->text, "~") == 0) {
        st = sy__refuse(c->source, node->line,
                        "%s is ~: write null if nothing is meant, or put it in quotes", c->name);
        goto cleanup;
    }
    SY_TRY(sy_strdup(node->text, out));
cleanup:
    return st;
}

static sy_status refuse_choice(const context *c, const sy__node *node, int32_t n_choices)
{
    char list[512] = "", hint[SY__NAME_BYTES + 32];
    size_t n = 0;
    for (int32_t i = 0; i < n_choices && n < sizeof list; i++) {
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", c->key->choices[i]);
    }
    const char *near = sy_nearest_name(node->text, c->key->choices, n_choices);
    return sy__refuse(c->source, node->line, "%s '%s' is not one of %s%s", c->name, node->text,
                      list, sy__hint_format(near, hint, sizeof hint));
}

static sy_status parse_choice(const context *c, const sy__node *node, int32_t *out)
{
    sy_status st = SY_OK;
    SY_TRY(check_scalar(c, node, "one word"));
    int32_t n = 0;
    for (; c->key->choices[n]; n++) {
        if (strcmp(node->text, c->key->choices[n]) == 0) {
            *out = n;
            return SY_OK;
        }
    }
    st = refuse_choice(c, node, n);
cleanup:
    return st;
}

static sy_status parse_pair(const context *c, const sy__node *node, double out[2])
{
    sy_status st = SY_OK;
    double value[2];
    if (node->kind != SY__LIST || node->n_children != 2) {
        return sy__refuse(c->source, node->line, "%s must be a list of two numbers: write [a, b]",
                          c->name);
    }
    SY_TRY(parse_float(c, node->first_child, &value[0]));
    SY_TRY(parse_float(c, node->first_child->next, &value[1]));
    memcpy(out, value, sizeof value);
cleanup:
    return st;
}

static void free_strings(sy_str_list *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        sy_free(&list->item[i]);
    }
    sy_free(&list->item);
    list->n = 0;
}

static sy_status parse_strings(const context *c, const sy__node *node, sy_str_list *out)
{
    sy_status st = SY_OK;
    sy_str_list list = {0};
    bool lone = node->kind == SY__SCALAR;
    int32_t n = lone ? 1 : node->n_children;
    if (node->kind == SY__MAP) {
        return sy__refuse(c->source, node->line, "%s is a map, but must be a list of texts",
                          c->name);
    }
    SY_TRY(sy_alloc(n, sizeof *list.item, (void **)&list.item));
    for (const sy__node *item = lone ? node : node->first_child; list.n < n; item = item->next) {
        SY_TRY(parse_string(c, item, &list.item[list.n]));
        list.n++;
    }
    *out = list;
    list = (sy_str_list){0};
cleanup:
    free_strings(&list);
    return st;
}

static void free_maps(sy_map_list *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        for (int32_t j = 0; j < list->item[i].n; j++) {
            sy_free(&list->item[i].entry[j].key);
            sy_free(&list->item[i].entry[j].value);
        }
        sy_free(&list->item[i].entry);
    }
    sy_free(&list->item);
    list->n = 0;
}

/* Choices of a map list are its legal keys; a '*' in front marks the required ones. */
static const char *choice_word(const char *choice)
{
    return choice + (*choice == '*');
}

static sy_status check_map_key(const context *c, const sy__node *value)
{
    enum { MAX_KEYS = 32 };
    const char *words[MAX_KEYS];
    char hint[SY__NAME_BYTES + 32];
    int32_t n = 0;
    for (; c->key->choices[n] && n < MAX_KEYS; n++) {
        words[n] = choice_word(c->key->choices[n]);
        if (strcmp(words[n], value->key) == 0) {
            return SY_OK;
        }
    }
    const char *near = sy_nearest_name(value->key, words, n);
    return sy__refuse(c->source, value->line, "unknown key '%s' in an item of %s%s", value->key,
                      c->name, sy__hint_format(near, hint, sizeof hint));
}

static sy_status check_map_is_complete(const context *c, const sy__node *map)
{
    for (const char *const *choice = c->key->choices; *choice; choice++) {
        bool found = **choice != '*';
        for (const sy__node *value = map->first_child; value && !found; value = value->next) {
            found = strcmp(value->key, choice_word(*choice)) == 0;
        }
        if (!found) {
            return sy__refuse(c->source, map->line, "an item of %s lacks its key '%s'", c->name,
                              choice_word(*choice));
        }
    }
    return SY_OK;
}

static sy_status parse_map(const context *c, const sy__node *node, sy_map *out)
{
    sy_status st = SY_OK;
    if (node->kind != SY__MAP) {
        return sy__refuse(c->source, node->line, "an item of %s must be a map: write {%s: ...}",
                          c->name, choice_word(c->key->choices[0]));
    }
    SY_TRY(check_map_is_complete(c, node));
    out->line = c->source->has_lines ? node->line : 0;
    SY_TRY(sy_alloc(node->n_children, sizeof *out->entry, (void **)&out->entry));
    for (const sy__node *value = node->first_child; value; value = value->next) {
        sy_map_entry *entry = &out->entry[out->n];
        SY_TRY(check_map_key(c, value));
        out->n++; /* from here on free_maps frees what the entry holds */
        SY_TRY(sy_strdup(value->key, &entry->key));
        SY_TRY(parse_string(c, value, &entry->value));
    }
cleanup:
    return st;
}

static sy_status parse_maps(const context *c, const sy__node *node, sy_map_list *out)
{
    sy_status st = SY_OK;
    sy_map_list list = {0};
    if (node->kind != SY__LIST) {
        return sy__refuse(c->source, node->line, "%s must be a list of maps: write [{%s: ...}]",
                          c->name, choice_word(c->key->choices[0]));
    }
    SY_TRY(sy_alloc(node->n_children, sizeof *list.item, (void **)&list.item));
    for (const sy__node *item = node->first_child; item; item = item->next) {
        SY_TRY(parse_map(c, item, &list.item[list.n++]));
    }
    *out = list;
    list = (sy_map_list){0};
cleanup:
    free_maps(&list);
    return st;
}

/* Nothing said: legal for an optional number, and for texts and lists whose default is null. */
static bool null_is_legal(const sy_config_key *key)
{
    bool by_default = key->default_text && strcmp(key->default_text, "null") == 0;
    return key->type == SY_CFG_OPT_F64 ||
           (by_default && (key->type == SY_CFG_STR || key->type == SY_CFG_STR_LIST ||
                           key->type == SY_CFG_MAP_LIST));
}

typedef union value {
    bool b;
    int32_t i32;
    int64_t i64;
    double f64, pair[2];
    char *str;
    sy_opt_f64 opt;
    sy_str_list strings;
    sy_map_list maps;
} value;

static const size_t value_bytes[] = {
    [SY_CFG_BOOL] = sizeof(bool),           [SY_CFG_I32] = sizeof(int32_t),
    [SY_CFG_I64] = sizeof(int64_t),         [SY_CFG_F64] = sizeof(double),
    [SY_CFG_STR] = sizeof(char *),          [SY_CFG_ENUM] = sizeof(int32_t),
    [SY_CFG_OPT_F64] = sizeof(sy_opt_f64),  [SY_CFG_STR_LIST] = sizeof(sy_str_list),
    [SY_CFG_F64_PAIR] = 2 * sizeof(double), [SY_CFG_MAP_LIST] = sizeof(sy_map_list),
};

static sy_status parse_any(const context *c, const sy__node *node, value *out)
{
    sy_status st = SY_OK;
    int64_t integer = 0;
    switch (c->key->type) {
    case SY_CFG_BOOL:
        return parse_bool(c, node, &out->b);
    case SY_CFG_I32:
        st = parse_int(c, node, INT32_MIN, INT32_MAX, &integer);
        out->i32 = (int32_t)integer;
        return st;
    case SY_CFG_I64:
        return parse_int(c, node, INT64_MIN, INT64_MAX, &out->i64);
    case SY_CFG_F64:
        return parse_float(c, node, &out->f64);
    case SY_CFG_STR:
        return parse_string(c, node, &out->str);
    case SY_CFG_ENUM:
        return parse_choice(c, node, &out->i32);
    case SY_CFG_OPT_F64:
        out->opt.set = true;
        return parse_float(c, node, &out->opt.value);
    case SY_CFG_STR_LIST:
        return parse_strings(c, node, &out->strings);
    case SY_CFG_F64_PAIR:
        return parse_pair(c, node, out->pair);
    case SY_CFG_MAP_LIST:
        return parse_maps(c, node, &out->maps);
    }
    return sy_error(SY_ERR_INTERNAL, "%s has no config type", c->name);
}

sy_status sy__value_parse(const sy__source *source, const char *full_name, const sy_config_key *key,
                          const sy__node *node, void *field)
{
    sy_status st = SY_OK;
    context c = {.source = source, .name = full_name, .key = key};
    value parsed;
    memset(&parsed, 0, sizeof parsed);
    if (!sy__node_is_null(node) || !null_is_legal(key)) {
        SY_TRY(parse_any(&c, node, &parsed));
    }
    sy__value_free(key, field);
    memcpy(field, &parsed, value_bytes[key->type]);
cleanup:
    return st;
}

void sy__value_free(const sy_config_key *key, void *field)
{
    if (key->type == SY_CFG_STR) {
        sy_free(field);
    } else if (key->type == SY_CFG_STR_LIST) {
        free_strings(field);
    } else if (key->type == SY_CFG_MAP_LIST) {
        free_maps(field);
    }
}
