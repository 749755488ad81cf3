/* Config section `parallel`. */
#ifndef SY_PARALLEL_PARALLEL_CONFIG_H
#define SY_PARALLEL_PARALLEL_CONFIG_H

#include "core/config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_parallel_config {
    int32_t ep, zero, overlap_chunks;
    bool register_buffers;
    double timeout_s;
} sy_parallel_config;

extern const sy_config_section sy_parallel_section;

/* What needs the number of ranks and experts: ep divides both. SY_ERR_USAGE naming the key. Not
 * collective. */
sy_status sy_parallel_config_check(const sy_config *config, int32_t n_ranks, int32_t n_experts);

#ifdef __cplusplus
}
#endif
#endif
