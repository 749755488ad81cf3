/* One safetensors file as bytes: its header is read member by member, then the tensors must tile
   the data from its first byte to the last of the file, each as large as its shape and type say.
   Nothing but the header is touched. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors_impl.h"
#include "core/alloc.h"

typedef struct entry {
    sy_st_tensor tensor; /* without data and bytes, until the offsets are proved */
    int32_t bits;
    int64_t begin, end; /* in the data */
} entry;

typedef struct parser {
    sy__st_json json;
    entry *entry;
    int64_t n, capacity;
    int64_t *shapes, *shape_end; /* with room: every dimension has two characters */
} parser;

/* ---- entries ---- */

static sy_status bad_entry(const parser *p, const char *name, const char *what)
{
    char shown[SY__ST_SHOWN];
    return sy_error(SY_ERR_USAGE, "'%s': tensor '%s': %s", p->json.path, sy__st_show(name, shown),
                    what);
}

static bool is_count(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= 0;
}

static sy_status read_type(const parser *p, const json_t *value, entry *e)
{
    char shown[SY__ST_SHOWN], what[2 * SY__ST_SHOWN];
    if (!json_is_string(value)) {
        return bad_entry(p, e->tensor.name, "its \"dtype\" is missing or not a text");
    }
    const sy__st_type *type = sy__st_type_named(json_string_value(value));
    if (!type) {
        snprintf(what, sizeof what, "its dtype '%s' is none of safetensors",
                 sy__st_show(json_string_value(value), shown));
        return bad_entry(p, e->tensor.name, what);
    }
    e->tensor.type_name = type->name;
    e->tensor.dtype = type->dtype;
    e->bits = type->bits;
    return SY_OK;
}

static sy_status read_shape(parser *p, const json_t *value, entry *e)
{
    if (!json_is_array(value)) {
        return bad_entry(p, e->tensor.name, "its \"shape\" is missing or not a list");
    }
    e->tensor.shape = p->shape_end;
    e->tensor.n_dim = (int32_t)json_array_size(value);
    for (int32_t d = 0; d < e->tensor.n_dim; d++) {
        const json_t *extent = json_array_get(value, (size_t)d);
        if (!is_count(extent)) {
            return bad_entry(p, e->tensor.name,
                             "an extent of its \"shape\" is not an integer from 0 to 2^63 - 1");
        }
        *p->shape_end++ = json_integer_value(extent);
    }
    return SY_OK;
}

static sy_status read_offsets(const parser *p, const json_t *value, entry *e)
{
    const json_t *begin = json_array_get(value, 0), *end = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !is_count(begin) || !is_count(end)) {
        return bad_entry(
            p, e->tensor.name,
            "its \"data_offsets\" are missing, or not two integers from 0 to 2^63 - 1");
    }
    e->begin = json_integer_value(begin);
    e->end = json_integer_value(end);
    return SY_OK;
}

static sy_status add_entry(parser *p, const char *name, const json_t *value)
{
    sy_status st = SY_OK;
    entry e = {.tensor = {.name = name}};
    if (!json_is_object(value)) {
        return bad_entry(p, name, "what the header says of it is not an object");
    }
    SY_TRY(read_type(p, json_object_get(value, "dtype"), &e));
    SY_TRY(read_shape(p, json_object_get(value, "shape"), &e));
    SY_TRY(read_offsets(p, json_object_get(value, "data_offsets"), &e));
    if (p->n == p->capacity) {
        const int64_t capacity = p->capacity > 0 ? 2 * p->capacity : 64;
        SY_TRY(sy_realloc(capacity, sizeof *p->entry, (void **)&p->entry));
        p->capacity = capacity;
    }
    p->entry[p->n++] = e;
cleanup:
    return st;
}

static sy_status read_metadata(void *self, sy__st_json *json, const char *key)
{
    sy_status st = SY_OK;
    json_t *value = NULL;
    char shown[SY__ST_SHOWN];
    (void)self;
    SY_TRY(sy__st_json_value(json, &value));
    SY_REQUIRE(json_is_string(value), SY_ERR_USAGE,
               "'%s': the value of '%s' in " SY__ST_METADATA " is not a text", json->path,
               sy__st_show(key, shown));
cleanup:
    json_decref(value);
    return st;
}

static sy_status read_member(void *self, sy__st_json *json, const char *key)
{
    sy_status st = SY_OK;
    parser *p = self;
    json_t *value = NULL;
    if (strcmp(key, SY__ST_METADATA) == 0) {
        SY_TRY(sy__st_json_object(json, read_metadata, NULL));
    } else {
        SY_TRY(sy__st_json_value(json, &value));
        SY_TRY(add_entry(p, key, value));
    }
cleanup:
    json_decref(value);
    return st;
}

/* ---- what holds for all entries together ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->tensor.name, ((const entry *)b)->tensor.name);
}

static int by_place(const void *a, const void *b)
{
    const entry *x = *(const entry *const *)a, *y = *(const entry *const *)b;
    const int begin = (x->begin > y->begin) - (x->begin < y->begin);
    return begin != 0 ? begin : (x->end > y->end) - (x->end < y->end);
}

/* before NULL: b is the first. */
static sy_status bad_place(const parser *p, const entry *before, const entry *b)
{
    char shown[SY__ST_SHOWN], what[2 * SY__ST_SHOWN];
    const int64_t end = before ? before->end : 0;
    const char *neighbour = before ? sy__st_show(before->tensor.name, shown) : "";
    if (b->begin < end) {
        snprintf(what, sizeof what, "it begins at byte %" PRId64 ", where tensor '%s' still lies",
                 b->begin, neighbour);
    } else {
        snprintf(what, sizeof what,
                 "the bytes from %" PRId64 " to %" PRId64 " before it belong to no tensor%s%s%s",
                 end, b->begin, before ? "; what comes before them is '" : "", neighbour,
                 before ? "'" : "");
    }
    return bad_entry(p, b->tensor.name, what);
}

/* *end: where the last one ends. */
static sy_status check_tiling(const parser *p, int64_t *end)
{
    sy_status st = SY_OK;
    const entry **sorted = NULL;
    SY_TRY(sy_alloc(p->n, sizeof *sorted, (void **)&sorted));
    for (int64_t i = 0; i < p->n; i++) {
        sorted[i] = &p->entry[i];
    }
    if (p->n > 0) {
        qsort(sorted, (size_t)p->n, sizeof *sorted, by_place);
    }
    int64_t at = 0;
    for (int64_t i = 0; i < p->n; i++) {
        const entry *e = sorted[i];
        if (e->begin != at) {
            SY_TRY(bad_place(p, i > 0 ? sorted[i - 1] : NULL, e));
        }
        if (e->end < e->begin) {
            SY_TRY(bad_entry(p, e->tensor.name, "it ends before it begins"));
        }
        at = e->end;
    }
    *end = at;
cleanup:
    sy_free(&sorted);
    return st;
}

static sy_status check_size(const parser *p, const entry *e)
{
    char what[SY__ST_SHOWN];
    int64_t bits = 1;
    bool fits = true;
    for (int32_t d = 0; d < e->tensor.n_dim; d++) {
        fits = fits && !__builtin_mul_overflow(bits, e->tensor.shape[d], &bits);
    }
    fits = fits && !__builtin_mul_overflow(bits, (int64_t)e->bits, &bits);
    if (!fits) {
        return bad_entry(p, e->tensor.name, "its shape has more elements than can be counted");
    }
    if (bits % 8 != 0) {
        return bad_entry(p, e->tensor.name, "its elements do not fill whole bytes");
    }
    if (bits / 8 != e->end - e->begin) {
        snprintf(what, sizeof what, "its shape wants %" PRId64 " bytes, its data_offsets %" PRId64,
                 bits / 8, e->end - e->begin);
        return bad_entry(p, e->tensor.name, what);
    }
    return SY_OK;
}

static sy_status check(parser *p, int64_t n_data)
{
    sy_status st = SY_OK;
    int64_t end = 0;
    SY_TRY(check_tiling(p, &end));
    for (int64_t i = 0; i < p->n; i++) {
        SY_TRY(check_size(p, &p->entry[i]));
    }
    SY_REQUIRE(end == n_data, SY_ERR_USAGE,
               "'%s' has %" PRId64 " bytes of data, its tensors have %" PRId64
               ": it is %s; copy or download it again",
               p->json.path, n_data, end, end > n_data ? "truncated" : "too long");
cleanup:
    return st;
}

/* ---- the file ---- */

/* *n: bytes of the header. */
static sy_status read_length(const char *path, const uint8_t *bytes, int64_t n_bytes, int64_t *n)
{
    sy_status st = SY_OK;
    uint64_t length = 0;
    SY_REQUIRE(n_bytes >= SY__ST_LENGTH_BYTES, SY_ERR_USAGE,
               "'%s' has %" PRId64 " bytes, too few for a safetensors file", path, n_bytes);
    for (int i = SY__ST_LENGTH_BYTES; i-- > 0;) {
        length = length << 8 | bytes[i];
    }
    SY_REQUIRE(length <= SY__ST_JSON_MAX, SY_ERR_USAGE,
               "'%s' begins with a header length of %" PRIu64
               " bytes, above the %d that safetensors allows: it is another kind of file, or "
               "damaged",
               path, length, SY__ST_JSON_MAX);
    SY_REQUIRE((int64_t)length <= n_bytes - SY__ST_LENGTH_BYTES, SY_ERR_USAGE,
               "'%s' has a header of %" PRIu64 " bytes but only %" PRId64
               " bytes in all: it is truncated; copy or download it again",
               path, length, n_bytes);
    *n = (int64_t)length;
cleanup:
    return st;
}

/* The entries become the set's, in order of their names. */
static sy_status make_set(parser *p, const char *data, sy_st_set **out)
{
    sy_status st = SY_OK;
    sy_st_set *set = NULL;
    SY_TRY(sy__st_set_create(&set));
    SY_TRY(sy_alloc(p->n, sizeof *set->tensor, (void **)&set->tensor));
    sy__st_storage *storage = set->self;
    SY_TRY(sy_strdup(p->json.path, &storage->path));
    storage->names = p->json.kept;
    storage->shapes = p->shapes;
    p->json.kept = NULL;
    p->shapes = NULL;
    if (p->n > 0) {
        qsort(p->entry, (size_t)p->n, sizeof *p->entry, by_name);
    }
    set->n = p->n;
    for (int64_t i = 0; i < p->n; i++) {
        const entry *e = &p->entry[i];
        sy_st_tensor *t = &set->tensor[i];
        *t = e->tensor;
        t->file = storage->path;
        t->data = data + e->begin;
        t->bytes = e->end - e->begin;
        set->bytes += t->bytes;
    }
    *out = set;
    set = NULL;
cleanup:
    sy_st_close(&set);
    return st;
}

sy_status sy_st_parse(const char *path, const void *bytes, int64_t n_bytes, sy_st_set **out)
{
    sy_status st = SY_OK;
    parser p = {0};
    int64_t n = 0;
    SY_TRY(read_length(path, bytes, n_bytes, &n));
    const char *text = (const char *)bytes + SY__ST_LENGTH_BYTES;
    SY_TRY(sy__st_json_begin(path, "header", text, n, &p.json));
    SY_TRY(sy_alloc(n / 2, sizeof *p.shapes, (void **)&p.shapes));
    p.shape_end = p.shapes;
    SY_TRY(sy__st_json_object(&p.json, read_member, &p));
    SY_TRY(sy__st_json_end(&p.json));
    SY_TRY(check(&p, n_bytes - SY__ST_LENGTH_BYTES - n));
    SY_TRY(make_set(&p, text + n, out));
cleanup:
    sy_free(&p.shapes);
    sy_free(&p.entry);
    sy__st_json_free(&p.json);
    return st;
}
