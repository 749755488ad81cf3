/* What the communicators share: the recorder, how an error reads, and how each kind is made. */
#ifndef SY_PARALLEL_COMM_IMPL_H
#define SY_PARALLEL_COMM_IMPL_H

#include "parallel/comm.h"

typedef enum sy__collective {
    SY__ALL_REDUCE,
    SY__REDUCE_SCATTER,
    SY__ALL_GATHER,
    SY__BROADCAST,
    SY__ALL_TO_ALL,
    SY__SEND_RECV,
    SY__N_COLLECTIVES
} sy__collective;
const char *sy__collective_name(sy__collective which);

/* A kind of communicator. start: a collective whose arguments were checked. */
typedef struct sy_comm_ops {
    sy_status (*start)(sy_comm *comm, const sy_comm_args *args, sy__collective which);
    sy_status (*split)(sy_comm *comm, int32_t color, int32_t key, sy_device *dev, sy_comm **out);
    void (*destroy)(sy_comm *comm);
    void (*abort)(sy_comm *comm, int32_t exit_code);
    sy_status (*register_memory)(sy_comm *comm, void *ptr, int64_t bytes,
                                 bool *done);                  /* optional, */
    void (*deregister_memory)(sy_comm *comm, const void *ptr); /* with this */
} sy_comm_ops;

/* Ends every process of the job with this exit status; does not return. */
typedef void sy__end_job(int32_t exit_code);
/* That, where this process is the whole job. */
void sy__end_process(int32_t exit_code);

/* Bytes of one row or element of a collective. */
int64_t sy__comm_unit_bytes(const sy_comm_args *args);
/* SY_ERR_COMM in the one form that all communicators use. */
sy_status sy__comm_fail(const sy_comm *comm, const sy_comm_args *args, sy__collective which,
                        const char *reason);
/* The oldest collective that has not begun waits for other ranks from now on; the oldest that is
   not done has just finished. Called in the order of the stream, by every kind of communicator: all
   that the watchdog knows of collectives comes from these two. */
void sy__comm_begun(sy_comm *comm);
void sy__comm_done(sy_comm *comm);

/* One more call of the process; the communicator has counted it already. signature: of what all
   ranks must call alike. Any thread. */
void sy__recorder_add(sy_comm *comm, const sy_comm_args *args, sy__collective which,
                      uint64_t signature);
/* The communicator goes away: its calls keep their last state. */
void sy__recorder_forget(const sy_comm *comm);
/* The oldest call that waits for other ranks, and true; else the last call, and false; and those
   before it, newest first: n in all. Any thread. */
bool sy__recorder_last(sy_comm_call *out, int32_t n);
/* The oldest call of this communicator that is not done; place 0: there is none. Any thread. */
void sy__recorder_first(const sy_comm *comm, sy_comm_call *out);
/* Calls of lane 0 between the last two sy_comm_calls_take: the k-th of them from 0 on, false where
   it is not kept (any more), and its signature. */
bool sy__recorder_call(int64_t k, sy_comm_call *out, uint64_t *signature);
int64_t sy__recorder_count(int64_t *first_kept);
/* Seconds that a rank whose collective failed leaves to the watchdog. */
void sy__recorder_be_patient(double seconds);
double sy__recorder_patience(void);
/* Bytes of a call where all ranks must give the same, else -1. */
int64_t sy__comm_common_bytes(const sy_comm_args *args, sy__collective which);

/* End the job, whatever state it is in: through the launcher, and by force where that takes more
   than seconds. Does not return. */
void sy__comm_end_job(sy_comm *comm, int32_t exit_code);

/* Not collective. */
sy_status sy__comm_self_create(const char *name, sy_device *dev, sy__end_job *end, sy_comm **out);
/* Collective over MPI_COMM_WORLD. */
sy_status sy__comm_mpi_world(sy_comm **out);

/* Can the host, and so MPI, not reach the memory of dev (NULL: host memory)? */
bool sy__comm_device_is_apart(const sy_device *dev);
/* Of the ranks of *host, over the memory of such a dev; *host is taken once nothing but the network
   can fail. Collective over *host, and it succeeds on all its ranks or on none. */
sy_status sy__comm_device_create(sy_comm **host, sy_device *dev, sy_comm **out);
/* The first error that the network of devices met while calls were under way, once: SY_ERR_COMM
   naming step, call and rank. Any thread. */
sy_status sy__comm_device_check(void);
/* Abort every communicator of devices, so that nothing in the process waits for others. It may
   hang. Any thread. */
void sy__comm_device_abort(void);
/* The same, over NCCL. */
sy_status sy__comm_nccl_create(sy_comm **host, sy_device *dev, sy_comm **out);
sy_status sy__comm_nccl_check(void);
void sy__comm_nccl_abort(void);

#endif
