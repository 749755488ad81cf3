/* The owner lock of a run directory: one file held with an advisory lock for the life of a process.
   The kernel lets go of it when the process ends, however it ends, so a lock cannot be left behind;
   the file's text only says who holds it. */
#ifndef SY_REPORT_RUN_LOCK_H
#define SY_REPORT_RUN_LOCK_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_run_lock sy_run_lock;

/* Take the lock file `path`, creating it if need be.
   Not collective. Rank 0 only.
   A holder that is ending is waited for, at most wait_s seconds; a holder that was killed holds
   nothing. Then SY_ERR_USAGE with the holder's process, host and start (UTC). SY_ERR_USAGE too if
   the file cannot be written. Where the file system offers no locks this is said loudly and the
   lock counts as taken. A child made by fork() that outlives this process, if that was killed,
   keeps the lock; one made by exec() does not. */
sy_status sy_run_lock_take(const char *path, double wait_s, sy_run_lock **out);

/* SY_ERR_IO where the path names another file by now: the folder was moved or removed, and another
   job has begun there. That the file is gone alone is fine. Not collective. Rank 0 only. */
sy_status sy_run_lock_check(const sy_run_lock *lock);

/* Who holds the lock file, without taking it. */
typedef enum sy_run_holder {
    SY_HOLDER_NONE, /* nobody: let go in order, or never taken */
    SY_HOLDER_SELF, /* this process */
    SY_HOLDER_RUNS, /* another */
    SY_HOLDER_DIED  /* one that ended without letting go */
} sy_run_holder;

/* Not collective. Any rank. Where there are no locks, whoever signed and did not let go holds it.
 */
sy_run_holder sy_run_lock_holder(const char *path);

/* Let go, and set *lock NULL; NULL is fine. The file stays (removing it would race with the next
   owner). Not collective. Rank 0 only. */
void sy_run_lock_release(sy_run_lock **lock);

#ifdef __cplusplus
}
#endif
#endif
