/* What the files of the watchdog share: the wire and stacks. Nothing here is collective. */
#ifndef SY_PARALLEL_WATCH_IMPL_H
#define SY_PARALLEL_WATCH_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "parallel/comm_impl.h"
#include "parallel/watch.h"
#include "parallel/watch_judge.h"

/* ---- the wire (watch_wire.c) ---- */

enum { SY__WATCH_ADDRESSES = 8, SY__WATCH_OBSERVERS = 2, SY__WATCH_KEY = 16 };

typedef enum sy__watch_kind {
    SY__WATCH_BEAT, /* rank -> observer */
    SY__WATCH_ACK,  /* observer -> rank: heard */
    SY__WATCH_BYE,  /* leaves in peace */
    SY__WATCH_SHOW, /* observer -> rank: print your stack */
    SY__WATCH_LOOK, /* observer -> rank: print what you see of process pid, and kill it */
    SY__WATCH_END   /* observer -> rank: the job ends with `status` */
} sy__watch_kind;

typedef struct sy__watch_message {
    unsigned char key[SY__WATCH_KEY]; /* of this job; others are not listened to */
    int32_t kind, from;
    int32_t rank, pid, status; /* of LOOK and END */
    uint64_t started;
    sy_watch_beat beat;
} sy__watch_message;

typedef struct sy__watch_address {
    uint32_t ip; /* both in network order */
    uint16_t port;
} sy__watch_address;

typedef struct sy__watch_observer {
    int32_t rank;
    int32_t n;
    sy__watch_address address[SY__WATCH_ADDRESSES]; /* one of them reaches it */
    sy__watch_address found;                        /* port 0: not found yet */
} sy__watch_observer;

typedef struct sy__watch_wire {
    int fd;
    int wake; /* an eventfd: ends a wait */
    unsigned char key[SY__WATCH_KEY];
} sy__watch_wire;

sy_status sy__watch_wire_open(sy__watch_wire *wire);
void sy__watch_wire_close(sy__watch_wire *wire);
/* Where this process can be reached: all its IPv4 addresses, loopback too. */
void sy__watch_addresses(const sy__watch_wire *wire, sy__watch_observer *out);
/* To one address; what does not go out is lost. */
void sy__watch_send(const sy__watch_wire *wire, sy__watch_message *message, sy__watch_address to);
/* The next message of this job, waiting until `until_s`; false: none came, or woken. */
bool sy__watch_receive(const sy__watch_wire *wire, double until_s, sy__watch_message *message,
                       sy__watch_address *from);
void sy__watch_wake(const sy__watch_wire *wire);

/* ---- stacks (watch_stack.c) ---- */

/* From now on the calling thread's stack can be asked for. */
sy_status sy__watch_stack_setup(void);
/* Log where that thread stands. */
void sy__watch_stack_show(int32_t rank);
/* Log what the kernel tells of another process of this host, if it is still that one. */
void sy__watch_look(int32_t rank, int32_t pid, uint64_t started);
/* Kill it, if it is still that one. */
void sy__watch_kill(int32_t pid, uint64_t started);
/* When a process started, in the kernel's clock ticks; 0: there is none. */
uint64_t sy__watch_started(int32_t pid);

/* ---- the watch itself ---- */

/* That ranks get to print their stacks before the job ends. */
#define SY__WATCH_STACKS_S 0.6

struct sy_watch {
    sy_comm *world;
    _Atomic double timeout_s;      /* the thread takes it into the table */
    double tick_s, now_s, awake_s; /* awake: that this thread saw pass */
    sy__watch_wire wire;
    sy__watch_observer observer[SY__WATCH_OBSERVERS];
    double acked_s[SY__WATCH_OBSERVERS]; /* awake time of the last answer; below 0: none yet */
    bool left[SY__WATCH_OBSERVERS];      /* said goodbye */
    sy_watch_beat own;
    int64_t n_beats;
    _Atomic bool leaving;
    pthread_t thread;
    /* Of an observer, else NULL and 0. */
    sy_watch_table table;
    double *heard_s; /* [n] awake time */
    sy__watch_address *from;
    bool warned_unheard, out_of_step;
    int32_t candidate, named; /* stragglers: in sight, and told; -1: none */
    double candidate_s;
    int64_t candidate_step;
    _Atomic int64_t slowest_ppm; /* its ratio in millionths */
    _Atomic int32_t slowest;
    int32_t look_pid; /* a process of this host that goes with the job */
    uint64_t look_started;
};

/* A message of another rank, or of oneself (watch.c). */
void sy__watch_handle(sy_watch *w, const sy__watch_message *m, sy__watch_address from);

/* Of an observer (watch_observe.c): is this rank one? What it heard; and one look at it all. */
bool sy__watch_observes(const sy_watch *w);
void sy__watch_hear(sy_watch *w, const sy__watch_message *m, sy__watch_address from);
void sy__watch_observe(sy_watch *w);

#endif
