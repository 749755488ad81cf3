/* Are the ranks of one job the same program, called in the same way? */
#ifndef SY_LAUNCH_IDENTITY_H
#define SY_LAUNCH_IDENTITY_H

#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* SY_ERR_USAGE naming the ranks where the program (its build id), the command line, or a variable
   of the environment that changes what is computed or sent is not the same on all of them.
   Collective over world. */
sy_status sy_identity_check(int argc, char **argv, sy_comm *world);

#ifdef __cplusplus
}
#endif
#endif
