/* Outside JSON, one member at a time: what is held in memory is one value, and the time is that of
   one pass over the text. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/safetensors_impl.h"

/* C1 controls are U+0080 to U+009F, in UTF-8 a byte 0xc2 and one of 0x80 to 0x9f. */
static size_t n_control(const char *c)
{
    const unsigned char *u = (const unsigned char *)c;
    if (u[0] == 0xc2 && u[1] >= 0x80 && u[1] < 0xa0) {
        return 2;
    }
    return u[0] < 0x20 || u[0] == 0x7f ? 1 : 0;
}

const char *sy__st_show(const char *text, char buf[SY__ST_SHOWN])
{
    static const char more[] = "...";
    size_t n = 0, whole = 0; /* whole: where a character ends and there is room for `more` */
    const size_t room = SY__ST_SHOWN - sizeof more;
    while (*text) {
        char piece[16];
        size_t n_hidden = n_control(text), n_piece = 1;
        if (n_hidden > 0) {
            unsigned code = (unsigned char)text[n_hidden - 1];
            n_piece = (size_t)snprintf(piece, sizeof piece, "\\x%02x", code);
        } else {
            n_hidden = 1;
            piece[0] = *text;
        }
        whole = n <= room && ((unsigned char)*text & 0xc0) != 0x80 ? n : whole;
        if (n + n_piece >= SY__ST_SHOWN) {
            memcpy(buf + whole, more, sizeof more);
            return buf;
        }
        memcpy(buf + n, piece, n_piece);
        n += n_piece;
        text += n_hidden;
    }
    buf[n] = '\0';
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

sy_status sy__st_json_object(sy__st_json *json, sy__st_member *member, void *self)
{
    sy_status st = SY_OK;
    json_t *key = NULL;
    const char *outer = json->member;
    SY_TRY(expect(json, '{'));
    if (take(json, '}')) {
        return SY_OK;
    }
    do {
        SY_TRY(next_is(json, '"') ? sy__st_json_value(json, &key) : expect(json, '"'));
        SY_TRY(expect(json, ':'));
        json->member = json_string_value(key);
        SY_TRY(member(self, json, json->member));
        json->member = outer;
        json_decref(key);
        key = NULL;
    } while (take(json, ','));
    SY_TRY(expect(json, '}'));
cleanup:
    json_decref(key);
    return st;
}

sy_status sy__st_json_begin(const char *path, const char *what, const char *text, int64_t n_bytes,
                            sy__st_json *out)
{
    sy__st_json json = {
        .path = path, .what = what, .text = text, .at = text, .end = text + n_bytes};
    const char *zero = memchr(text, '\0', (size_t)n_bytes);
    if (zero) { /* jansson 2.14 passes over one that follows a number, and counts it wrong */
        return refuse(&json, zero - text, "a zero byte");
    }
    *out = json;
    return SY_OK;
}

sy_status sy__st_json_end(sy__st_json *json)
{
    if (!next_is(json, '\0') && json->at == json->end) {
        return SY_OK;
    }
    return refuse(json, json->at - json->text, "the text goes on after its end");
}
