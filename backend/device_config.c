#include "backend/device_config.h"

#include <stdio.h>

#include "backend/backend_impl.h"

static const char *const precision_choices[] = {"auto", "fp32", "bf16", "fp64", NULL};

static const sy_config_key keys[] = {
    {"backend", SY_CFG_STR, offsetof(sy_device_config, backend), "auto", 0, 0, NULL,
     "What computes: auto (cuda where there is one, else cpu), cpu, cpu_check, cuda, ref."},
    {"precision", SY_CFG_ENUM, offsetof(sy_device_config, precision), "auto", 0, 0,
     precision_choices,
     "Compute precision: auto is fp32 on cpu, bf16 on cuda, fp64 on ref (and only there)."},
    {"threads", SY_CFG_I32, offsetof(sy_device_config, threads), "0", 0, 4096, NULL,
     "Threads per rank on a CPU. 0: cores of the node divided by the ranks on it."},
    {0},
};

const sy_config_section sy_device_section = {
    .name = "device",
    .help = "What computes, and in which precision.",
    .keys = keys,
    .struct_bytes = sizeof(sy_device_config),
};

sy_status sy_device_config_check(const sy_config *config)
{
    const sy_device_config *c = sy_config_get(config, "device");
    const sy_backend *backend = NULL;
    sy_dtype compute;
    sy_status st = sy__backend_find(c->backend, &backend);
    if (st == SY_OK && backend->usable) {
        st = backend->usable();
    }
    if (st != SY_OK) {
        char why[256];
        snprintf(why, sizeof why, "%s", sy_error_message());
        sy_error_clear();
        return sy_config_error(config, "device.backend", "device.backend: %s", why);
    }
    return sy_device_config_dtype(config, backend->name, &compute);
}

sy_status sy_device_config_dtype(const sy_config *config, const char *backend, sy_dtype *out)
{
    const sy_device_config *c = sy_config_get(config, "device");
    bool ref = strcmp(backend, "ref") == 0;
    if (ref != (c->precision == SY_PRECISION_FP64) && c->precision != SY_PRECISION_AUTO) {
        return sy_config_error(
            config, "device.precision",
            "device.precision: fp64 goes with the ref backend and only with it; this is '%s'",
            backend);
    }
    switch ((sy_precision)c->precision) {
    case SY_PRECISION_FP32:
        *out = SY_F32;
        break;
    case SY_PRECISION_BF16:
        *out = SY_BF16;
        break;
    case SY_PRECISION_FP64:
        *out = SY_F64;
        break;
    case SY_PRECISION_AUTO:
        *out = ref ? SY_F64 : strcmp(backend, "cuda") == 0 ? SY_BF16 : SY_F32;
        break;
    }
    return SY_OK;
}
