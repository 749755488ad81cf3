/* Where every byte of a written folder lies, and the JSON in front of it: from the specs alone, so
   that each rank computes the same. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors_impl.h"
#include "core/alloc.h"

#define DEFAULT_SHARD_BYTES INT64_C(5000000000)
enum { DATA_ALIGN = 8 }; /* of the first byte of data; wider types come first, so of every tensor */

void sy__st_layout_free(sy__st_layout *layout)
{
    for (int32_t s = 0; s < layout->n_shards; s++) {
        sy_free(&layout->shard[s].head);
        sy_free(&layout->shard[s].name);
    }
    sy_free(&layout->index);
    sy_free(&layout->shard);
    sy_free(&layout->place);
    sy_free(&layout->names);
    sy_free(&layout->spec);
    *layout = (sy__st_layout){0};
}

/* ---- specs ---- */

static sy_status measure(const sy_st_spec *spec, int64_t *bytes)
{
    sy_status st = SY_OK;
    int64_t factor[SY_MAX_DIM + 1] = {0};
    SY_REQUIRE(sy__st_type_of(spec->dtype) && spec->n_dim >= 0 && spec->n_dim <= SY_MAX_DIM,
               SY_ERR_INTERNAL,
               "tensor '%s' has a type or a number of dimensions (%d) that cannot "
               "be written",
               spec->name, spec->n_dim);
    SY_REQUIRE(strcmp(spec->name, SY__ST_METADATA) != 0, SY_ERR_INTERNAL,
               "'%s' cannot be the name of a tensor", spec->name);
    factor[0] = (int64_t)sy_dtype_bytes(spec->dtype);
    memcpy(factor + 1, spec->shape, sizeof spec->shape);
    SY_TRY(sy_size_product(factor, spec->n_dim + 1, bytes));
cleanup:
    return st;
}

static sy_status copy_specs(const sy_st_spec *specs, int64_t n, sy__st_layout *layout)
{
    sy_status st = SY_OK;
    int64_t n_chars = 0;
    for (int64_t i = 0; i < n; i++) {
        n_chars += (int64_t)strlen(specs[i].name) + 1;
    }
    SY_TRY(sy_alloc(n, sizeof *layout->spec, (void **)&layout->spec));
    SY_TRY(sy_alloc(n, sizeof *layout->place, (void **)&layout->place));
    SY_TRY(sy_alloc(n_chars, 1, (void **)&layout->names));
    layout->n = n;
    char *name = layout->names;
    for (int64_t i = 0; i < n; i++) {
        const size_t n_name = strlen(specs[i].name) + 1;
        memcpy(name, specs[i].name, n_name);
        layout->spec[i] = specs[i];
        layout->spec[i].name = name;
        name += n_name;
        SY_TRY(measure(&layout->spec[i], &layout->place[i].bytes));
        layout->bytes += layout->place[i].bytes;
    }
cleanup:
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const sy_st_spec *const *)a)->name, (*(const sy_st_spec *const *)b)->name);
}

/* The widest type first, as the reference writer has it. */
static int by_rank(const void *a, const void *b)
{
    const sy__st_type *x = sy__st_type_of((*(const sy_st_spec *const *)a)->dtype);
    const sy__st_type *y = sy__st_type_of((*(const sy_st_spec *const *)b)->dtype);
    return x != y ? (x < y) - (x > y) : by_name(a, b);
}

static sy_status check_names(const sy__st_layout *layout, const sy_st_spec **sorted)
{
    sy_status st = SY_OK;
    for (int64_t i = 0; i < layout->n; i++) {
        sorted[i] = &layout->spec[i];
    }
    if (layout->n > 0) {
        qsort(sorted, (size_t)layout->n, sizeof *sorted, by_name);
    }
    for (int64_t i = 1; i < layout->n; i++) {
        SY_REQUIRE(by_name(&sorted[i - 1], &sorted[i]) != 0, SY_ERR_INTERNAL,
                   "tensor '%s' is to be written twice", sorted[i]->name);
    }
cleanup:
    return st;
}

/* ---- shards ---- */

/* Does the tensor begin a new shard? *filled: bytes in the shard so far. */
static bool begins_shard(int64_t bytes, int64_t max_bytes, int64_t *filled)
{
    bool begins = *filled > 0 && bytes > max_bytes - *filled;
    *filled = begins ? bytes : *filled + bytes;
    return begins;
}

static sy_status cut_shards(sy__st_layout *layout, int64_t max_bytes)
{
    sy_status st = SY_OK;
    int64_t filled = 0;
    int32_t n = 1;
    for (int64_t i = 0; i < layout->n; i++) {
        n += begins_shard(layout->place[i].bytes, max_bytes, &filled) ? 1 : 0;
        layout->place[i].shard = n - 1;
    }
    SY_TRY(sy_alloc(n, sizeof *layout->shard, (void **)&layout->shard));
    layout->n_shards = n;
    for (int64_t i = layout->n; i-- > 0;) {
        sy__st_shard *shard = &layout->shard[layout->place[i].shard];
        shard->first = i;
        shard->n++;
    }
    for (int32_t s = 0; s < n; s++) {
        SY_TRY(n == 1 ? sy_strdup(SY__ST_FILE, &layout->shard[s].name)
                      : sy_asprintf(&layout->shard[s].name, "model-%05d-of-%05d.safetensors", s + 1,
                                    n));
    }
cleanup:
    return st;
}

static sy_status add_json(json_t *object, const char *key, json_t *value)
{
    sy_status st = SY_OK;
    SY_REQUIRE(value && json_object_set_new(object, key, value) == 0, SY_ERR_INTERNAL,
               "cannot put tensor '%s' into a header: is its name UTF-8?", key);
cleanup:
    return st;
}

/* The text with `before` bytes in front of it and spaces behind up to a multiple of `align`. */
static sy_status json_text(const json_t *json, size_t flags, int64_t before, int64_t align,
                           char **out, int64_t *n_bytes)
{
    sy_status st = SY_OK;
    char *text = NULL;
    const int64_t n = (int64_t)json_dumpb(json, NULL, 0, flags);
    const int64_t padded = (n + align - 1) / align * align;
    SY_REQUIRE(n > 0, SY_ERR_MEMORY, "out of memory: cannot write a header");
    SY_TRY(sy_alloc(before + padded, 1, (void **)&text));
    json_dumpb(json, text + before, (size_t)n, flags);
    memset(text + before + n, ' ', (size_t)(padded - n));
    *out = text;
    *n_bytes = before + padded;
cleanup:
    return st;
}

static json_t *describe(const sy_st_spec *spec, int64_t begin, int64_t end)
{
    json_t *shape = json_array();
    for (int32_t d = 0; d < spec->n_dim; d++) {
        json_array_append_new(shape, json_integer(spec->shape[d]));
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", sy__st_type_of(spec->dtype)->name, "shape",
                     shape, "data_offsets", (json_int_t)begin, (json_int_t)end);
}

/* sorted: room for the shard's specs. */
static sy_status lay_out(sy__st_layout *layout, sy__st_shard *shard, const sy_st_spec **sorted)
{
    sy_status st = SY_OK;
    int64_t at = 0;
    json_t *header = json_pack("{s:{s:s}}", SY__ST_METADATA, "format", "pt");
    for (int64_t i = 0; i < shard->n; i++) {
        sorted[i] = &layout->spec[shard->first + i];
    }
    if (shard->n > 0) {
        qsort(sorted, (size_t)shard->n, sizeof *sorted, by_rank);
    }
    for (int64_t i = 0; i < shard->n; i++) {
        sy__st_place *place = &layout->place[sorted[i] - layout->spec];
        place->at = at;
        at += place->bytes;
        SY_TRY(add_json(header, sorted[i]->name, describe(sorted[i], place->at, at)));
    }
    SY_TRY(json_text(header, JSON_COMPACT, SY__ST_LENGTH_BYTES, DATA_ALIGN, &shard->head,
                     &shard->head_bytes));
    const int64_t length = shard->head_bytes - SY__ST_LENGTH_BYTES;
    SY_REQUIRE(length <= SY__ST_JSON_MAX, SY_ERR_UNSUPPORTED,
               "'%s' would have a header of %" PRId64 " bytes, above the %d that safetensors "
               "allows: use smaller shards",
               shard->name, length, SY__ST_JSON_MAX);
    for (int i = 0; i < SY__ST_LENGTH_BYTES; i++) {
        shard->head[i] = (char)(uint8_t)(length >> 8 * i);
    }
    for (int64_t i = shard->first; i < shard->first + shard->n; i++) {
        layout->place[i].at += shard->head_bytes;
    }
    shard->bytes = shard->head_bytes + at;
cleanup:
    json_decref(header);
    return st;
}

static sy_status make_index(sy__st_layout *layout)
{
    sy_status st = SY_OK;
    json_t *map = json_object(), *root = NULL;
    for (int64_t i = 0; i < layout->n; i++) {
        const char *shard = layout->shard[layout->place[i].shard].name;
        SY_TRY(add_json(map, layout->spec[i].name, json_string(shard)));
    }
    root = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)layout->bytes,
                     "weight_map", map);
    SY_TRY(json_text(root, JSON_INDENT(2), 0, 1, &layout->index, &layout->index_bytes));
cleanup:
    json_decref(root);
    json_decref(map);
    return st;
}

sy_status sy__st_layout_create(const sy_st_spec *specs, int64_t n, int64_t max_shard_bytes,
                               sy__st_layout *out)
{
    sy_status st = SY_OK;
    sy__st_layout layout = {0};
    const sy_st_spec **sorted = NULL;
    SY_TRY(copy_specs(specs, n, &layout));
    SY_TRY(sy_alloc(n, sizeof *sorted, (void **)&sorted));
    SY_TRY(check_names(&layout, sorted));
    SY_TRY(cut_shards(&layout, max_shard_bytes > 0 ? max_shard_bytes : DEFAULT_SHARD_BYTES));
    for (int32_t s = 0; s < layout.n_shards; s++) {
        SY_TRY(lay_out(&layout, &layout.shard[s], sorted));
    }
    if (layout.n_shards > 1) {
        SY_TRY(make_index(&layout));
    }
    *out = layout;
    layout = (sy__st_layout){0};
cleanup:
    sy_free(&sorted);
    sy__st_layout_free(&layout);
    return st;
}
