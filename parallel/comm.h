/* Collectives: ops on a stream. They take a stream, return at once, and are done when an event
   recorded after them has passed; there are no request objects. comm_self (size 1), comm_mpi (host
   memory, cpu devices) and comm_nccl (GPUs) fill one table. Collectives of one communicator are
   called in one program order on every rank. */
#ifndef SY_PARALLEL_COMM_H
#define SY_PARALLEL_COMM_H

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_reduce { SY_SUM, SY_MAX, SY_MIN } sy_reduce;

typedef struct sy_comm sy_comm;
typedef struct sy_watch sy_watch;

typedef struct sy_comm_args {
    sy_stream *
        stream; /* NULL: now, on the calling thread; only for host communicators (comm->dev NULL) */
    const void *send; /* device memory of comm->dev, or host memory where comm->dev is NULL */
    void *recv;
    int64_t n;         /* see each collective */
    int64_t row_bytes; /* > 0: n and the counts are rows of this many bytes, dtype is not used
                          (all_gather, broadcast, all_to_all, send_recv) */
    sy_dtype dtype;    /* reductions: F32, F64, I32, I64, U8 */
    sy_reduce reduce;
    int32_t root;                       /* broadcast: who has it; send_recv: to whom, -1 nobody */
    int32_t source;                     /* send_recv: from whom, -1 nobody */
    const int64_t *h_n_send, *h_n_recv; /* all_to_all [size]: rows per peer; NULL: equal blocks of
                                           n. Stay valid until the stream has passed */
    const char *what; /* static text, for the flight recorder, the watchdog and every error: "moe
                         dispatch" */
    int32_t layer;    /* -1: none */
} sy_comm_args;

struct sy_comm {
    const struct sy_comm_ops *ops;
    sy_device *dev; /* whose memory it moves; NULL: host memory */
    int32_t rank, size;
    char name[16];
    double timeout_s; /* the longest that a call waits for others while it is enqueued; 0: for ever.
                         Parts of a split have that of the whole */
    uint64_t lane;   /* 0: every rank of the job is in it, so that all make the same calls; else its
                        own number, as parts of a job may make more calls than others */
    uint64_t digest; /* of its calls, where it has a lane of its own */
    void *self;
    sy_watch *watch;                  /* of a world that is watched (parallel/watch.h), else NULL */
    int64_t n_issued;                 /* collectives enqueued; written by the owner's thread */
    volatile int64_t n_begun, n_done; /* collectives that wait for others, or did; and those that
                                         are done. Read by the watchdog */
    double begun_s;                   /* when the last began */
};

/* A call as others see it: fixed size, no pointers, so that it can be sent. */
typedef struct sy_comm_call {
    uint64_t lane;   /* only calls of one lane are compared */
    int64_t common;  /* calls of lane 0 so far: how far the process has come */
    int64_t place;   /* among the calls of its lane, from 1; 0: no call */
    uint64_t digest; /* of those calls */
    int64_t number;  /* among the calls of its communicator */
    int64_t bytes;   /* of this rank's block; -1 where it is each rank's own affair */
    int32_t layer;
    char comm_name[16], collective[16], what[44];
} sy_comm_call;

/* "'moe dispatch' (all_to_all over ep, call 412) of layer 3", into buf. Not collective. */
void sy_comm_call_format(const sy_comm_call *call, char *buf, size_t buf_bytes);

/* The world of this process, host memory. mpi: MPI is up (launch/env.c) and the world is
 * MPI_COMM_WORLD; else a world of one. Collective. */
sy_status sy_comm_world(bool mpi, sy_comm **out);
/* A communicator of those with the same color, ranked by key then rank, over the memory of dev
   (NULL: host). color < 0: none (*out NULL). Collective over comm, which is one of host memory; it
   succeeds on all its ranks or on none. A part of size 1 is a comm_self. */
sy_status sy_comm_split(sy_comm *comm, int32_t color, int32_t key, sy_device *dev, const char *name,
                        sy_comm **out);
void sy_comm_destroy(sy_comm **comm);

/* [ptr, +bytes) of comm->dev is what collectives of comm will move again and again, at the same
   places on every rank, until it is deregistered: the network may then reach it without a copy on
   the way. A hint (NCCL's user buffers; nothing elsewhere, and with one rank): *done says whether
   anything came of it, the same on every rank. Collective over comm. */
sy_status sy_comm_register(sy_comm *comm, void *ptr, int64_t bytes, bool *done);
/* Before that memory is freed and comm is destroyed, with no call under way; nothing where it is
   not registered. Not collective. */
void sy_comm_deregister(sy_comm *comm, const void *ptr);

/* What a collective on a network that is not here moves. */
typedef struct sy_traffic {
    const char *collective, *what; /* "all_reduce", "gradients" */
    int32_t size, stride;          /* ranks of the group, and their distance in the world */
    int64_t bytes; /* of this rank: all_reduce, broadcast: the array; reduce_scatter and all_gather:
                      the whole of all ranks' parts; all_to_all, send_recv: what it sends or what it
                      receives, whichever is more, its own block included */
    bool device;   /* on a stream */
} sy_traffic;
typedef struct sy_net {
    double (*seconds)(void *self, const sy_traffic *traffic);
    void *self;
} sy_net;
/* A world of `size` ranks of which this process is `rank` and the others do not exist: collectives
   move nothing, and cost what net (borrowed) says on streams that rehearse (backend/prices.h). For
   sy_mesh_create; it is not split by color. Not collective. */
sy_status sy_comm_rehearse(int32_t size, int32_t rank, const sy_net *net, sy_comm **out);
/* Is it such a world? Not collective. */
bool sy_comm_rehearses(const sy_comm *comm);
/* A group of it: of so many ranks, so far apart. Not collective. */
sy_status sy_comm_rehearse_group(const sy_comm *world, int32_t size, int32_t stride, sy_device *dev,
                                 const char *name, sy_comm **out);

/* Collective over comm, all six. What fails under way on one rank, between the others' calls,
   cannot be agreed upon any more: over MPI the job ends there (sy_comm_abort), with a message
   naming what, layer, comm and rank. Over NCCL that is SY_ERR_COMM, at once or at the stream's next
   wait. Wrong arguments are SY_ERR_INTERNAL before anything is called. */
/* recv[0..n-1] = reduction of send over all ranks; send == recv is allowed; every rank gets the
   same bits. SY_MAX and SY_MIN of floats: a NaN wins; GPUs have none: SY_ERR_UNSUPPORTED. */
sy_status sy_all_reduce(sy_comm *comm, const sy_comm_args *args);
/* Rank r gets elements r*n .. r*n+n-1 of the reduction of send [size*n]; recv may be its own block
 * of send. */
sy_status sy_reduce_scatter(sy_comm *comm, const sy_comm_args *args);
/* recv [size*n] = every rank's send [n], by rank; send may be its own block of recv. */
sy_status sy_all_gather(sy_comm *comm, const sy_comm_args *args);
/* recv [n] of every rank = recv [n] of root. send is not used. */
sy_status sy_broadcast(sy_comm *comm, const sy_comm_args *args);
/* Block p of send goes to rank p, block p of recv comes from rank p; blocks of n, or of h_n_send[p]
 * and h_n_recv[p], back to back. */
sy_status sy_all_to_all(sy_comm *comm, const sy_comm_args *args);
/* send [n] to root, recv [n] from source. */
sy_status sy_send_recv(sy_comm *comm, const sy_comm_args *args);

/* Host shorthands, now, on the calling thread. Collective over host, which has dev NULL. */
sy_status sy_host_all_reduce(sy_comm *host, void *inout, int64_t n, sy_dtype dtype,
                             sy_reduce reduce, const char *what);
sy_status sy_host_broadcast(sy_comm *host, void *data, int64_t bytes, int32_t root,
                            const char *what);
sy_status sy_host_all_gather(sy_comm *host, const void *send, void *recv, int64_t bytes,
                             const char *what);
sy_status sy_host_barrier(sy_comm *host, const char *what);

/* The last calls of this process, oldest first, one line each, into buf: "12 world all_reduce 'step
 * head' done". Not collective; any thread. */
void sy_comm_recorder_format(char *buf, size_t buf_bytes);
/* A number below 2^24 that ranks have in common if they made the same calls with others, in the
   same order, since they last took it. Not collective. */
int64_t sy_comm_calls_take(void);
/* What differs in the calls between the last two takes: SY_ERR_INTERNAL naming ranks and both
   calls. Collective over host, whose calls must be in step again. */
sy_status sy_comm_calls_compare(sy_comm *host);
/* Print this thread's trace, then end every rank with its exit status. Not collective; does not
 * return. */
void sy_comm_abort(sy_comm *comm, sy_status st);

#ifdef __cplusplus
}
#endif
#endif
