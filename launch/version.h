/* What this build is made of. */
#ifndef SY_LAUNCH_VERSION_H
#define SY_LAUNCH_VERSION_H

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SY_VERSION "0.1.0"

/* Version, backends and library versions. Not collective. */
void sy_version_print(FILE *out);

#ifdef __cplusplus
}
#endif
#endif
