/* What the writer and the reader of HDF5 files share. */
#include "checkpoint/h5_calls_impl.h"

#include <stdio.h>

#include "checkpoint/integrity_impl.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "tensors lie in the file as they lie in memory: little-endian");

enum { TEXT_BYTES = 256 };

sy_status sy__h5_begin(void)
{
    sy_status st = SY_OK;
    SY_REQUIRE(H5open() >= 0 && H5Eset_auto2(H5E_DEFAULT, NULL, NULL) >= 0, SY_ERR_INTERNAL,
               "the HDF5 library does not start");
cleanup:
    return st;
}

/* The first entry of the walk is the cause. */
static herr_t take_cause(unsigned n, const H5E_error2_t *error, void *text)
{
    if (n == 0 && error->desc) {
        snprintf(text, TEXT_BYTES, "%s", error->desc);
    }
    return 0;
}

sy_status sy__h5_check(int64_t rc, sy_status kind, const char *verb, const char *path,
                       const char *name)
{
    char cause[TEXT_BYTES] = "HDF5 gives no reason";
    if (rc >= 0) {
        return SY_OK;
    }
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_cause, cause);
    H5Eclear2(H5E_DEFAULT);
    return name ? sy_error(kind, "cannot %s '%s' of '%s': %s", verb, name, path, cause)
                : sy_error(kind, "cannot %s '%s': %s", verb, path, cause);
}

void sy__h5_close(hid_t *id)
{
    if (*id > 0) {
        H5Idec_ref(*id);
    }
    *id = H5I_INVALID_HID;
}

/* A float of 16 bits: bf16 is the upper half of an F32, f16 is IEEE's. Fields before size: HDF5
   wants them to fit at every moment. */
static hid_t narrow_type(size_t exponent_bits)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    size_t man = 15 - exponent_bits, bias = ((size_t)1 << (exponent_bits - 1)) - 1;
    bool ok = type >= 0 && H5Tset_fields(type, 15, man, exponent_bits, 0, man) >= 0 &&
              H5Tset_precision(type, 16) >= 0 && H5Tset_size(type, 2) >= 0 &&
              H5Tset_ebias(type, bias) >= 0;
    if (!ok) {
        sy__h5_close(&type);
    }
    return type;
}

hid_t sy__h5_type(sy_dtype dtype)
{
    switch (dtype) {
    case SY_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case SY_BF16:
        return narrow_type(8);
    case SY_F16:
        return narrow_type(5);
    case SY_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case SY_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case SY_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case SY_U8:
        return H5Tcopy(H5T_STD_U8LE);
    default:
        return H5I_INVALID_HID;
    }
}

hid_t sy__h5_row_type(void)
{
    hid_t name = H5Tcopy(H5T_C_S1), row = H5Tcreate(H5T_COMPOUND, sizeof(sy__row));
    bool ok = name >= 0 && row >= 0 && H5Tset_size(name, SY__PATH_BYTES) >= 0 &&
              H5Tinsert(row, "dataset", offsetof(sy__row, dataset), name) >= 0 &&
              H5Tinsert(row, "offset", offsetof(sy__row, offset), H5T_STD_U64LE) >= 0 &&
              H5Tinsert(row, "length", offsetof(sy__row, length), H5T_STD_U64LE) >= 0 &&
              H5Tinsert(row, "xxh3_64", offsetof(sy__row, xxh3), H5T_STD_U64LE) >= 0;
    sy__h5_close(&name);
    if (!ok) {
        sy__h5_close(&row);
    }
    return row;
}

hid_t sy__h5_access(bool image)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    bool ok = access >= 0 && H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
              (!image || H5Pset_fapl_stdio(access) >= 0) &&
              H5Pset_file_locking(access, false, true) >= 0 &&
              H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0;
    if (!ok) {
        sy__h5_close(&access);
    }
    return access;
}
