/* Outside JSON, one member at a time: what is held in memory is one value, and the time is that of
   one pass over the text. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors_impl.h"
#include "core/alloc.h"

/* Bytes of the character that begins here; 0: a control character, or not UTF-8. */
static size_t n_printable(const char *text)
{
    const unsigned char *u = (const unsigned char *)text;
    const size_t n = u[0] < 0x80 ? 1 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
    const bool is_control = u[0] < 0x20 || u[0] == 0x7f || (u[0] == 0xc2 && u[1] < 0xa0);
    if (is_control || (n > 1 && (u[0] < 0xc2 || u[0] > 0xf4))) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((u[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return n;
}

bool sy__st_is_printable(const char *text)
{
    size_t n = 1;
    while (*text && n > 0) {
        n = n_printable(text);
        text += n;
    }
    return n > 0;
}

const char *sy__st_show(const char *text, char buf[SY__ST_SHOWN])
{
    static const char more[] = "...";
    size_t at = 0;
    while (*text) {
        char hidden[8];
        const size_t n = n_printable(text);
        const int n_hidden = snprintf(hidden, sizeof hidden, "\\x%02x", (unsigned char)*text);
        const size_t n_piece = n > 0 ? n : (size_t)n_hidden;
        if (at + n_piece + sizeof more > SY__ST_SHOWN) {
            memcpy(buf + at, more, sizeof more);
            return buf;
        }
        memcpy(buf + at, n > 0 ? text : hidden, n_piece);
        at += n_piece;
        text += n > 0 ? n : 1;
    }
    buf[at] = '\0';
    return buf;
}

static sy_status refuse(const sy__st_json *json, int64_t at, const char *why)
{
    char shown[SY__ST_SHOWN], name[SY__ST_SHOWN];
    const bool named = json->member != NULL;
    return sy_error(SY_ERR_USAGE, "'%s': the %s is not valid at its byte %" PRId64 "%s%s%s: %s",
                    json->path, json->what, at, named ? ", in '" : "",
                    named ? sy__st_show(json->member, name) : "", named ? "'" : "",
                    sy__st_show(why, shown));
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Is this the next character, white space aside? */
static bool next_is(sy__st_json *json, char wanted)
{
    while (json->at < json->end && is_space(*json->at)) {
        json->at++;
    }
    return json->at < json->end && *json->at == wanted;
}

static bool take(sy__st_json *json, char wanted)
{
    bool taken = next_is(json, wanted);
    json->at += taken ? 1 : 0;
    return taken;
}

static sy_status expect(sy__st_json *json, char wanted)
{
    char why[32];
    if (take(json, wanted)) {
        return SY_OK;
    }
    snprintf(why, sizeof why, "'%c' is expected", wanted);
    return refuse(json, json->at - json->text, why);
}

sy_status sy__st_json_value(sy__st_json *json, json_t **out)
{
    sy_status st = SY_OK;
    json_error_t error;
    const bool bounded = !next_is(json, '"');
    const int64_t left = json->end - json->at, begin = json->at - json->text;
    const bool cut = bounded && left > SY__ST_VALUE_MAX;
    json_t *value =
        json_loadb(json->at, (size_t)(cut ? SY__ST_VALUE_MAX : left),
                   JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK | JSON_REJECT_DUPLICATES, &error);
    if (value) {
        json->at += error.position;
        *out = value;
    } else if (json_error_code(&error) == json_error_out_of_memory) {
        st = sy_error(SY_ERR_MEMORY, "out of memory: cannot read the %s of '%s'", json->what,
                      json->path);
    } else if (cut && error.position > SY__ST_VALUE_MAX - 8) { /* perhaps within a character */
        st = refuse(json, begin, "a value is longer than 1 MiB");
    } else if (json_error_code(&error) == json_error_invalid_utf8) {
        st = refuse(json, begin + error.position, "it is not UTF-8");
    } else {
        st = refuse(json, begin + error.position, error.text);
    }
    return st;
}

const char *sy__st_json_keep(sy__st_json *json, const json_t *string)
{
    const size_t n = json_string_length(string) + 1;
    char *kept = json->kept_end;
    memcpy(kept, json_string_value(string), n);
    json->kept_end += n;
    return kept;
}

/* ---- objects ---- */

typedef struct key_list {
    const char **key;
    int64_t n, capacity;
} key_list;

static sy_status read_key(sy__st_json *json, key_list *keys)
{
    sy_status st = SY_OK;
    json_t *key = NULL;
    SY_TRY(next_is(json, '"') ? sy__st_json_value(json, &key) : expect(json, '"'));
    if (keys->n == keys->capacity) {
        const int64_t capacity = keys->capacity > 0 ? 2 * keys->capacity : 8;
        SY_TRY(sy_realloc(capacity, sizeof *keys->key, (void **)&keys->key));
        keys->capacity = capacity;
    }
    keys->key[keys->n++] = sy__st_json_keep(json, key);
cleanup:
    json_decref(key);
    return st;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static sy_status check_unique(const sy__st_json *json, key_list *keys)
{
    sy_status st = SY_OK;
    char shown[SY__ST_SHOWN];
    qsort(keys->key, (size_t)keys->n, sizeof *keys->key, by_text);
    for (int64_t i = 1; i < keys->n; i++) {
        SY_REQUIRE(strcmp(keys->key[i - 1], keys->key[i]) != 0, SY_ERR_USAGE,
                   "'%s': the %s has '%s' twice", json->path, json->what,
                   sy__st_show(keys->key[i], shown));
    }
cleanup:
    return st;
}

sy_status sy__st_json_object(sy__st_json *json, sy__st_member *member, void *self)
{
    sy_status st = SY_OK;
    key_list keys = {0};
    const char *outer = json->member;
    SY_TRY(expect(json, '{'));
    if (take(json, '}')) {
        return SY_OK;
    }
    do {
        SY_TRY(read_key(json, &keys));
        SY_TRY(expect(json, ':'));
        json->member = keys.key[keys.n - 1];
        SY_TRY(member(self, json, json->member));
        json->member = outer;
    } while (take(json, ','));
    SY_TRY(expect(json, '}'));
    SY_TRY(check_unique(json, &keys));
cleanup:
    sy_free(&keys.key);
    return st;
}

/* ---- the whole text ---- */

sy_status sy__st_json_begin(const char *path, const char *what, const char *text, int64_t n_bytes,
                            sy__st_json *out)
{
    sy_status st = SY_OK;
    sy__st_json json = {
        .path = path, .what = what, .text = text, .at = text, .end = text + n_bytes};
    const char *zero = memchr(text, '\0', (size_t)n_bytes);
    if (zero) { /* jansson 2.14 passes over one that follows a number, and counts it wrong */
        SY_TRY(refuse(&json, zero - text, "a zero byte"));
    }
    SY_TRY(sy_alloc(n_bytes, 1, (void **)&json.kept));
    json.kept_end = json.kept;
    *out = json;
cleanup:
    return st;
}

void sy__st_json_free(sy__st_json *json)
{
    sy_free(&json->kept);
}

sy_status sy__st_json_end(sy__st_json *json)
{
    if (!next_is(json, '\0') && json->at == json->end) {
        return SY_OK;
    }
    return refuse(json, json->at - json->text, "the text goes on after its end");
}
