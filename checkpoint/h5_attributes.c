/* The attributes of /, bounded before they are read. */
#include "checkpoint/h5_calls_impl.h"

#include <inttypes.h>
#include <string.h>

#include "core/alloc.h"

enum { MAX_WORD_BYTES = 256, MAX_CONFIG_BYTES = 16 << 20 };

typedef struct reader {
    const char *path;
    hid_t file;
} reader;

static sy_status check(const reader *r, int64_t rc, const char *name)
{
    return sy__h5_check(rc, SY_ERR_DAMAGED, "read", r->path, name);
}

static sy_status open_attribute(const reader *r, const char *name, hid_t *attribute, hid_t *type)
{
    sy_status st = SY_OK;
    hid_t space = H5I_INVALID_HID;
    htri_t there = H5Aexists(r->file, name);
    SY_TRY(check(r, there, name));
    SY_REQUIRE(there, SY_ERR_DAMAGED, "'%s' is not a checkpoint: it has no attribute '%s'", r->path,
               name);
    *attribute = H5Aopen(r->file, name, H5P_DEFAULT);
    SY_TRY(check(r, *attribute, name));
    *type = H5Aget_type(*attribute);
    SY_TRY(check(r, *type, name));
    space = H5Aget_space(*attribute);
    SY_TRY(check(r, space, name));
    SY_REQUIRE(H5Sget_simple_extent_npoints(space) == 1, SY_ERR_DAMAGED,
               "checkpoint '%s': attribute '%s' is not one value", r->path, name);
cleanup:
    sy__h5_close(&space);
    return st;
}

static sy_status get_text(const reader *r, const char *name, size_t max_bytes, char **out)
{
    sy_status st = SY_OK;
    hid_t attribute = H5I_INVALID_HID, type = H5I_INVALID_HID;
    char *text = NULL;
    SY_TRY(open_attribute(r, name, &attribute, &type));
    size_t bytes = H5Tget_size(type);
    SY_REQUIRE(H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 && bytes > 0 &&
                   bytes <= max_bytes,
               SY_ERR_DAMAGED, "checkpoint '%s': attribute '%s' is not a text of 1 to %zu bytes",
               r->path, name, max_bytes);
    SY_TRY(sy_alloc((int64_t)bytes + 1, 1, (void **)&text));
    SY_TRY(check(r, H5Aread(attribute, type, text), name));
    *out = text;
    text = NULL;
cleanup:
    sy_free(&text);
    sy__h5_close(&type);
    sy__h5_close(&attribute);
    return st;
}

static sy_status get_number(const reader *r, const char *name, int64_t *out)
{
    sy_status st = SY_OK;
    hid_t attribute = H5I_INVALID_HID, type = H5I_INVALID_HID;
    int64_t value = 0;
    SY_TRY(open_attribute(r, name, &attribute, &type));
    SY_REQUIRE(H5Tget_class(type) == H5T_INTEGER && H5Tget_size(type) <= sizeof value,
               SY_ERR_DAMAGED, "checkpoint '%s': attribute '%s' is not an integer", r->path, name);
    SY_TRY(check(r, H5Aread(attribute, H5T_NATIVE_INT64, &value), name));
    SY_REQUIRE(value >= 0, SY_ERR_DAMAGED, "checkpoint '%s': attribute '%s' is %" PRId64, r->path,
               name, value);
    *out = value;
cleanup:
    sy__h5_close(&type);
    sy__h5_close(&attribute);
    return st;
}

static sy_status get_format(const reader *r)
{
    sy_status st = SY_OK;
    char *format = NULL;
    int64_t version = 0;
    SY_TRY(get_text(r, "format", MAX_WORD_BYTES, &format));
    SY_REQUIRE(strcmp(format, SY__FORMAT) == 0, SY_ERR_DAMAGED,
               "'%s' is not a checkpoint: its format is '%s'", r->path, format);
    SY_TRY(get_number(r, "format_version", &version));
    SY_REQUIRE(version == SY__FORMAT_VERSION, SY_ERR_DAMAGED,
               "checkpoint '%s' has format_version %" PRId64 ", this program reads %d; use the "
               "program that wrote it, or a newer one",
               r->path, version, SY__FORMAT_VERSION);
cleanup:
    sy_free(&format);
    return st;
}

sy_status sy__h5_attributes(const char *path, hid_t file, sy__attributes *out)
{
    sy_status st = SY_OK;
    const reader from = {path, file}, *r = &from;
    SY_TRY(get_format(r));
    SY_TRY(get_number(r, "complete", &out->complete));
    SY_REQUIRE(out->complete == 1, SY_ERR_DAMAGED,
               "checkpoint '%s' is not complete: the run that wrote it was cut short", r->path);
    SY_TRY(get_text(r, "producer", MAX_WORD_BYTES, &out->producer));
    SY_TRY(get_text(r, "kind", MAX_WORD_BYTES, &out->kind));
    SY_TRY(get_text(r, "config", MAX_CONFIG_BYTES, &out->config_yaml));
    SY_TRY(get_number(r, "step", &out->step));
    SY_TRY(get_number(r, "tokens_seen", &out->tokens_seen));
    SY_TRY(get_text(r, "created", MAX_WORD_BYTES, &out->created));
cleanup:
    return st;
}
