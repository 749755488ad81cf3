/* Config section `device`. */
#ifndef SY_BACKEND_DEVICE_CONFIG_H
#define SY_BACKEND_DEVICE_CONFIG_H

#include "core/config.h"
#include "core/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_precision {
    SY_PRECISION_AUTO,
    SY_PRECISION_FP32,
    SY_PRECISION_BF16,
    SY_PRECISION_FP64
} sy_precision;

typedef struct sy_device_config {
    char *backend;
    int32_t precision; /* sy_precision */
    int32_t threads;   /* 0: cores of the node / local ranks */
} sy_device_config;

extern const sy_config_section sy_device_section;

/* Is the backend in this build, has this machine what it needs, and does the precision go with it?
 * Opens nothing. SY_ERR_USAGE names file, line and key. */
sy_status sy_device_config_check(const sy_config *config);

/* The compute dtype on an opened backend (its name): auto is fp64 on ref, bf16 on cuda, fp32
 * elsewhere. fp64 elsewhere, or anything else on ref: SY_ERR_USAGE. */
sy_status sy_device_config_dtype(const sy_config *config, const char *backend, sy_dtype *out);

#ifdef __cplusplus
}
#endif
#endif
