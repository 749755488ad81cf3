/* The element types of safetensors, ours and others'. */
#include <string.h>

#include "checkpoint/safetensors_impl.h"

/* In the order of the reference writer's ranks, lowest first. */
static const sy__st_type types[] = {
    {"BOOL", 8, SY_N_DTYPES},
    {"F4", 4, SY_N_DTYPES},
    {"F6_E2M3", 6, SY_N_DTYPES},
    {"F6_E3M2", 6, SY_N_DTYPES},
    {"U8", 8, SY_U8},
    {"I8", 8, SY_N_DTYPES},
    {"F8_E5M2", 8, SY_N_DTYPES},
    {"F8_E4M3", 8, SY_N_DTYPES},
    {"F8_E8M0", 8, SY_N_DTYPES},
    {"F8_E4M3FNUZ", 8, SY_N_DTYPES},
    {"F8_E5M2FNUZ", 8, SY_N_DTYPES},
    {"I16", 16, SY_N_DTYPES},
    {"U16", 16, SY_N_DTYPES},
    {"F16", 16, SY_F16},
    {"BF16", 16, SY_BF16},
    {"I32", 32, SY_I32},
    {"U32", 32, SY_N_DTYPES},
    {"F32", 32, SY_F32},
    {"C64", 64, SY_N_DTYPES},
    {"F64", 64, SY_F64},
    {"I64", 64, SY_I64},
    {"U64", 64, SY_N_DTYPES},
};
enum { N_TYPES = sizeof types / sizeof types[0] };

const sy__st_type *sy__st_type_named(const char *name)
{
    for (int32_t i = 0; i < N_TYPES; i++) {
        if (strcmp(types[i].name, name) == 0) {
            return &types[i];
        }
    }
    return NULL;
}

const sy__st_type *sy__st_type_of(sy_dtype dtype)
{
    for (int32_t i = 0; i < N_TYPES && dtype != SY_N_DTYPES; i++) {
        if (types[i].dtype == dtype) {
            return &types[i];
        }
    }
    return NULL;
}
