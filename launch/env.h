/* How a process starts and ends: MPI, its place on the node, signals, and dying with its launcher.
 */
#ifndef SY_LAUNCH_ENV_H
#define SY_LAUNCH_ENV_H

#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_env {
    sy_comm *world;                 /* host memory */
    int32_t local_rank, local_size; /* on this node */
    int32_t threads;                /* default per rank: cores of the node / local ranks */
    bool mpi;
} sy_env;

/* MPI_Init_thread(MPI_THREAD_MULTIPLE) where a launcher started us, else a world of one; log and
 * fault points are set up. Collective. */
sy_status sy_env_open(int *argc, char ***argv, sy_env *env);
/* Finalize MPI. Collective. */
void sy_env_close(sy_env *env);
/* From now on SIGUSR1, SIGTERM, SIGINT and, if it was not ignored, SIGHUP ask to stop; a second one
   of them ends the process at once. SIGPIPE is ignored. Not collective. */
sy_status sy_env_catch_signals(void);
bool sy_env_stop_requested(void);
/* Has this process rank 0? Known before sy_env_open, for messages about the command line. Not
 * collective. */
bool sy_env_is_root(void);

#ifdef __cplusplus
}
#endif
#endif
