/* The config section `run`: what a run is called, where it lives, and what its randomness starts
 * from. */
#ifndef SY_REPORT_REPORT_CONFIG_H
#define SY_REPORT_REPORT_CONFIG_H

#include "core/config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_run_config {
    char *name; /* NULL: not given */
    char *dir;  /* NULL: runs/<name> */
    int64_t seed;
    bool deterministic;
} sy_run_config;

extern const sy_config_section sy_run_section;

/* The run directory: --run-dir (option, NULL if not given), else run.dir, else runs/<run.name>;
   free with sy_free. Not collective. SY_ERR_USAGE if none of the three says. */
sy_status sy_run_config_dir(const sy_run_config *run, const char *option, char **out);

#ifdef __cplusplus
}
#endif
#endif
