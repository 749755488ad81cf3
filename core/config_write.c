/* The other direction: a field as YAML that our reader and a YAML 1.1 reader (PyYAML) take for the
   same value. So what could pass for a number, a boolean or null is quoted where a text is meant,
   and floats have a point and a signed exponent. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/alloc.h"
#include "core/config_impl.h"

static sy_status reserve(sy__text *text, int64_t n)
{
    sy_status st = SY_OK;
    if (text->n + n + 1 > text->n_max) {
        int64_t n_max = 2 * (text->n + n + 1);
        n_max = n_max > 256 ? n_max : 256;
        SY_TRY(sy_realloc(n_max, 1, (void **)&text->data));
        text->n_max = n_max;
    }
cleanup:
    return st;
}

sy_status sy__text_add(sy__text *text, const char *format, ...)
{
    sy_status st = SY_OK;
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    SY_REQUIRE(n >= 0, SY_ERR_INTERNAL, "cannot format '%s'", format);
    SY_TRY(reserve(text, n));
    vsnprintf(text->data + text->n, (size_t)n + 1, format, again);
    text->n += n;
cleanup:
    va_end(again);
    va_end(args);
    return st;
}

/* Letters, digits and _ - . / with a letter or / in front, and no word that YAML 1.1 resolves. */
static bool is_plain_word(const char *text)
{
    static const char *const resolved[] = {"null", "true", "false", "yes", "no",
                                           "on",   "off",  "y",     "n"};
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/";
    if (!*text || !strchr(letters, *text) ||
        text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./")]) {
        return false;
    }
    for (size_t i = 0; i < sizeof resolved / sizeof resolved[0]; i++) {
        if (strcasecmp(text, resolved[i]) == 0) {
            return false;
        }
    }
    return true;
}

/* 7, -1, 0.25: the same number to every reader (weights of a blend, layer numbers are texts to us).
 */
static bool is_plain_number(const char *text)
{
    size_t n = strlen(text), sign = *text == '-';
    size_t whole = strspn(text + sign, "0123456789"), at = sign + whole;
    if (whole == 0 || n > 20 || (text[sign] == '0' && whole > 1)) {
        return false;
    }
    if (text[at] == '.') {
        size_t part = strspn(text + at + 1, "0123456789");
        at += part > 0 ? 1 + part : 0;
    }
    return at == n;
}

/* The code point at *text, which goes on behind it. The text is valid UTF-8: libyaml read it. */
static uint32_t next_code_point(const unsigned char **text)
{
    const unsigned char *s = *text;
    int n_more = s[0] < 0x80 ? 0 : s[0] < 0xe0 ? 1 : s[0] < 0xf0 ? 2 : 3;
    uint32_t code = n_more == 0 ? s[0] : s[0] & (0x3fU >> n_more);
    int used = 1;
    for (; used <= n_more && (s[used] & 0xc0) == 0x80; used++) {
        code = code << 6 | (s[used] & 0x3fU);
    }
    *text = s + used;
    return code;
}

/* Not printable, or a line break or byte order mark to YAML. */
static bool needs_escape(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 || code == 0x2029 ||
           code == 0xfeff || (code >= 0xd800 && code < 0xe000) || code == 0xfffe || code == 0xffff;
}

static sy_status write_string(sy__text *text, const char *string)
{
    sy_status st = SY_OK;
    if (is_plain_word(string) || is_plain_number(string)) {
        return sy__text_add(text, "%s", string);
    }
    SY_TRY(sy__text_add(text, "\""));
    for (const unsigned char *s = (const unsigned char *)string, *start = s; *s; start = s) {
        uint32_t code = next_code_point(&s);
        if (code == '"' || code == '\\') {
            SY_TRY(sy__text_add(text, "\\%c", (int)code));
        } else if (needs_escape(code)) {
            SY_TRY(sy__text_add(text, code < 0x100 ? "\\x%02x" : "\\u%04x", code));
        } else {
            SY_TRY(sy__text_add(text, "%.*s", (int)(s - start), (const char *)start));
        }
    }
    SY_TRY(sy__text_add(text, "\""));
cleanup:
    return st;
}

/* The fewest digits, at most 17, that read back to the same bits. */
static sy_status write_float(sy__text *text, double value)
{
    char buf[40];
    if (fabs(value) < 1e15 && value == floor(value)) {
        return sy__text_add(text, "%.1f", value);
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(buf, sizeof buf, "%.*g", digits, value);
        if (strtod(buf, NULL) == value) {
            break;
        }
    }
    const char *exponent = strchr(buf, 'e');
    if (!exponent || strchr(buf, '.')) {
        return sy__text_add(text, "%s", buf);
    }
    return sy__text_add(text, "%.*s.0%s", (int)(exponent - buf), buf, exponent);
}

static sy_status write_strings(sy__text *text, const sy_str_list *list)
{
    sy_status st = SY_OK;
    SY_TRY(sy__text_add(text, "["));
    for (int32_t i = 0; i < list->n; i++) {
        SY_TRY(sy__text_add(text, "%s", i ? ", " : ""));
        SY_TRY(write_string(text, list->item[i]));
    }
    SY_TRY(sy__text_add(text, "]"));
cleanup:
    return st;
}

static sy_status write_map(sy__text *text, const sy_map *map)
{
    sy_status st = SY_OK;
    SY_TRY(sy__text_add(text, "{"));
    for (int32_t i = 0; i < map->n; i++) {
        SY_TRY(sy__text_add(text, "%s%s: ", i ? ", " : "", map->entry[i].key));
        SY_TRY(write_string(text, map->entry[i].value));
    }
    SY_TRY(sy__text_add(text, "}"));
cleanup:
    return st;
}

static sy_status write_maps(sy__text *text, const sy_map_list *list)
{
    sy_status st = SY_OK;
    SY_TRY(sy__text_add(text, "["));
    for (int32_t i = 0; i < list->n; i++) {
        SY_TRY(sy__text_add(text, "%s", i ? ", " : ""));
        SY_TRY(write_map(text, &list->item[i]));
    }
    SY_TRY(sy__text_add(text, "]"));
cleanup:
    return st;
}

static sy_status write_pair(sy__text *text, const double *pair)
{
    sy_status st = SY_OK;
    SY_TRY(sy__text_add(text, "["));
    SY_TRY(write_float(text, pair[0]));
    SY_TRY(sy__text_add(text, ", "));
    SY_TRY(write_float(text, pair[1]));
    SY_TRY(sy__text_add(text, "]"));
cleanup:
    return st;
}

sy_status sy__value_write(sy__text *text, const sy_config_key *key, const void *field)
{
    const sy_opt_f64 *opt = field;
    switch (key->type) {
    case SY_CFG_BOOL:
        return sy__text_add(text, "%s", *(const bool *)field ? "true" : "false");
    case SY_CFG_I32:
        return sy__text_add(text, "%" PRId32, *(const int32_t *)field);
    case SY_CFG_I64:
        return sy__text_add(text, "%" PRId64, *(const int64_t *)field);
    case SY_CFG_F64:
        return write_float(text, *(const double *)field);
    case SY_CFG_STR:
        return *(char *const *)field ? write_string(text, *(char *const *)field)
                                     : sy__text_add(text, "null");
    case SY_CFG_ENUM:
        return write_string(text, key->choices[*(const int32_t *)field]);
    case SY_CFG_OPT_F64:
        return opt->set ? write_float(text, opt->value) : sy__text_add(text, "null");
    case SY_CFG_STR_LIST:
        return write_strings(text, field);
    case SY_CFG_F64_PAIR:
        return write_pair(text, field);
    case SY_CFG_MAP_LIST:
        return write_maps(text, field);
    }
    return sy_error(SY_ERR_INTERNAL, "%s has no config type", key->name);
}
