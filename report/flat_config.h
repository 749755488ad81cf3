/* A configuration as a flat list: "train.steps" -> "300". For the echo that stands in a run
   directory: sections of plain keys, each value on its line. Whatever else a file may hold, its
   lines are kept as well as may be. */
#ifndef SY_REPORT_FLAT_CONFIG_H
#define SY_REPORT_FLAT_CONFIG_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_flat_config {
    char *text; /* keys and values lie in it */
    struct sy_flat_key {
        const char *key, *value;
    } * item; /* [n] in the order of the file */
    int32_t n;
} sy_flat_config;

/* yaml NULL: no keys. SY_ERR_MEMORY. */
sy_status sy_flat_config_parse(const char *yaml, sy_flat_config *out);
void sy_flat_config_free(sy_flat_config *config);
/* NULL if the key is not there. */
const char *sy_flat_config_find(const sy_flat_config *config, const char *key);

#ifdef __cplusplus
}
#endif
#endif
