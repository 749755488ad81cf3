/* One unit of text -> ids. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "data/tokenize_impl.h"

static sy_status add_text(const sy_tokenizer *tokenizer, sy__encode_room *room, sy__unit *u,
                          const char *text, int64_t n, int64_t *n_ids)
{
    sy_status st = SY_OK;
    const int64_t max = sy_tokenizer_max_ids(tokenizer, n) + 1;
    *n_ids = 0;
    if (max > room->max_ids) {
        SY_TRY(sy_realloc(max, sizeof *room->ids, (void **)&room->ids));
        room->max_ids = max;
    }
    SY_TRY(sy_tokenizer_encode(tokenizer, text, n, room->ids, n_ids));
    if (u->n_ids + *n_ids + 1 > u->max_ids) { /* one more for the end of a document */
        const int64_t more = u->n_ids + *n_ids + 1 + u->max_ids / 2;
        SY_TRY(sy_realloc(more, sizeof *u->ids, (void **)&u->ids));
        u->max_ids = more;
    }
    memcpy(u->ids + u->n_ids, room->ids, (size_t)*n_ids * sizeof *u->ids);
    u->n_ids += *n_ids;
    u->n_text += n;

cleanup:
    return st;
}

static sy_status end_document(sy__unit *u, int64_t n_ids)
{
    sy_status st = SY_OK;
    if (u->n_documents == u->max_documents) {
        const int64_t max = 2 * u->max_documents + 64;
        SY_TRY(sy_realloc(max, sizeof *u->length, (void **)&u->length));
        u->max_documents = max;
    }
    u->length[u->n_documents++] = n_ids;

cleanup:
    return st;
}

/* *object NULL: it is no JSON. What jansson cannot hold is tried again with values that it can. */
static sy_status parse_line(const sy_tokenize_spec *spec, const char *line, int64_t n,
                            json_t **object, json_error_t *error)
{
    sy_status st = SY_OK;
    sy__text tame = {0};
    *object = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, error);
    if (*object == NULL) {
        SY_TRY(sy__json_tame(line, n, !spec->refuse_invalid, &tame));
        *object = json_loadb(tame.bytes, (size_t)tame.n, JSON_ALLOW_NUL, error);
    }

cleanup:
    sy_free(&tame.bytes);
    return st;
}

/* What is wrong with a line; "": *text is the string under the key. */
static sy_status read_line(const sy_tokenize_spec *spec, const char *line, int64_t n,
                           json_t **object, const json_t **text, char why[128])
{
    sy_status st = SY_OK;
    const char *key = spec->jsonl_key != NULL ? spec->jsonl_key : "text";
    json_error_t error;
    why[0] = '\0';
    SY_TRY(parse_line(spec, line, n, object, &error));
    *text = json_object_get(*object, key);
    if (*object == NULL) {
        (void)snprintf(why, 128, "not a line of JSON: %.100s", error.text);
    } else if (!json_is_object(*object)) {
        (void)snprintf(why, 128, "expected a JSON object {...}");
    } else if (*text == NULL) {
        (void)snprintf(why, 128, "no key '%.60s' (choose it with --jsonl-key)", key);
    } else if (!json_is_string(*text)) {
        (void)snprintf(why, 128, "the value of '%.60s' is not a string", key);
    }

cleanup:
    return st;
}

static sy_status add_line(const sy_tokenize_spec *spec, const sy_tokenizer *tokenizer,
                          sy__encode_room *room, sy__unit *u, int64_t number, const char *line,
                          int64_t n)
{
    sy_status st = SY_OK;
    json_t *object = NULL;
    const json_t *text = NULL;
    char why[128];
    int64_t n_ids = 0;
    SY_TRY(read_line(spec, line, n, &object, &text, why));
    if (why[0] != '\0') {
        SY_REQUIRE(spec->skip_bad_lines, SY_ERR_USAGE, "%s:%lld: %s", u->path, (long long)number,
                   why);
        if (u->n_bad < SY__BAD_LINES) {
            memcpy(u->why[u->n_bad], why, sizeof why);
            u->bad[u->n_bad] = number;
        }
        u->n_bad++;
        goto cleanup;
    }
    SY_TRY(add_text(tokenizer, room, u, json_string_value(text), (int64_t)json_string_length(text),
                    &n_ids));
    if (spec->append_eod && n_ids > 0) {
        u->ids[u->n_ids++] = tokenizer->eod_id;
        n_ids++;
    }
    SY_TRY(end_document(u, n_ids));

cleanup:
    json_decref(object);
    return st;
}

static bool is_blank(const char *line, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') {
            return false;
        }
    }
    return true;
}

static sy_status add_lines(const sy_tokenize_spec *spec, const sy_tokenizer *tokenizer,
                           sy__encode_room *room, sy__unit *u)
{
    sy_status st = SY_OK;
    int64_t number = u->first;
    for (int64_t at = 0; at < u->n; number++) {
        const char *end = memchr(u->bytes + at, '\n', (size_t)(u->n - at));
        const int64_t n = end != NULL ? end - (u->bytes + at) : u->n - at;
        if (!is_blank(u->bytes + at, n)) {
            SY_TRY(add_line(spec, tokenizer, room, u, number, u->bytes + at, n));
        }
        at += n + 1;
    }

cleanup:
    return st;
}

static sy_status add_part(const sy_tokenizer *tokenizer, sy__encode_room *room, sy__unit *u)
{
    sy_status st = SY_OK;
    char why[256];
    int64_t n_ids = 0;
    if (add_text(tokenizer, room, u, u->bytes, u->n, &n_ids) != SY_OK) {
        (void)snprintf(why, sizeof why, "%s", sy_error_message());
        sy_error_clear();
        SY_REQUIRE(false, SY_ERR_USAGE, "%s, the text from byte %lld on: %s", u->path,
                   (long long)u->first, why);
    }

cleanup:
    return st;
}

void sy__unit_encode(const sy_tokenize_spec *spec, const sy_tokenizer *tokenizer,
                     sy__encode_room *room, sy__unit *u)
{
    u->n_ids = u->n_documents = u->n_text = u->n_bad = 0;
    u->error.status = SY_OK;
    if ((u->jsonl ? add_lines(spec, tokenizer, room, u) : add_part(tokenizer, room, u)) != SY_OK) {
        sy_error_take(&u->error);
        sy_error_clear();
    }
}

void sy__unit_free(sy__unit *unit)
{
    sy_free(&unit->bytes);
    sy_free(&unit->ids);
    sy_free(&unit->length);
}
