/* NCCL of the emulator. Between every two ranks runs a channel each way, in memory that the
   processes share; a collective is a set of messages and, at its end, a reduction in the order of
   ranks. Like a communicator that does not block, a call only says what is to be done:
   ncclCommGetAsyncError does it, a piece each time it asks. A message says which call it belongs
   to, so that ranks which call different things, or different sizes, are told so, where NCCL would
   hang or mix up data. Every call of a group must be of one communicator.

   With EMULATOR_ORDER a call is taken at once and done in its stream's order, on the thread of
   a stream that runs late. Calls of one communicator are done in the order in which they were made,
   whatever their streams.

   Memory may be registered, once per communicator and in no block that is freed before it is
   deregistered; and what NCCL leaves undefined is refused: a call that has registered memory on one
   rank and other memory on another.

   EMULATOR_NCCL_VERSION=VERSION: what rank 1 of the job answers, where not 22809.
   EMULATOR_NCCL_OLD: there is no ncclAlltoAll, as before 2.28, nor may memory be registered.
   EMULATOR_NCCL_DECLINE=1: nothing comes of memory that rank 1 of the job registers.
   EMULATOR_NCCL_FAULT=CALL: from so many calls on, from 1, rank 1 of the job waits in one for ever,
   as for a stream that never ends, while the communicator's state is an error. */
#include <fcntl.h>
#include <math.h>
#include <nccl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "parallel/nccl_table.h"
#include "tests/emulator/emulator_impl.h"

enum { CHANNEL_BYTES = 256 << 10, MAX_REGISTERED = 64 };

typedef enum kind { MESSAGE = 1, ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST } kind;
enum { REGISTERED = 16 }; /* with a kind: the memory is */

typedef struct channel {
    int32_t full; /* atomic */
    int32_t kind;
    int64_t total, n; /* bytes of the message, and of this piece */
    char data[CHANNEL_BYTES];
} channel;

typedef struct shared {
    int32_t n_joined; /* atomic */
    int32_t unused[15];
    channel between[]; /* [size, size] sender, receiver */
} shared;

typedef struct range {
    const char *first;
    size_t bytes; /* atomic; 0: nothing */
} range;

typedef struct message {
    bool sends, begun, registered;
    int32_t peer;
    char *data;
    int64_t bytes, total, done;
} message;

struct ncclComm {
    char name[128];
    shared *shared;
    size_t shared_bytes;
    int32_t rank, size;
    bool joined, late;
    int64_t n_asked, n_run; /* late: calls made, and (atomic) done */
    ncclResult_t state;
    kind kind;
    range registered[MAX_REGISTERED];
    bool in_registered; /* the collective under way */
    message *message;   /* [2 * size] of the call under way */
    int32_t n_messages;
    /* a reduction: of size parts of n elements into recv */
    char *parts;
    void *recv;
    size_t n;
    ncclDataType_t type;
    ncclRedOp_t op;
};

/* What is asked for. */
typedef struct call {
    ncclComm_t comm;
    kind kind;
    const void *send;
    void *recv;
    size_t n;
    ncclDataType_t type;
    ncclRedOp_t op;
    int32_t root;
    message *list; /* MESSAGE: of a group, freed when it is done */
    int32_t n_list;
    int64_t number; /* late: among the communicator's calls */
} call;

static _Thread_local struct {
    int32_t depth;
    call call;
    cudaStream_t stream;
} group;

static size_t bytes_of(ncclDataType_t type)
{
    switch (type) {
    case ncclInt32:
    case ncclFloat32:
        return 4;
    case ncclInt64:
    case ncclFloat64:
        return 8;
    default:
        return 1;
    }
}

/* ---- memory that is registered ---- */

/* What is asked of rank 1 alone. */
static const char *asked(const char *variable)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    return rank && strcmp(rank, "1") == 0 ? getenv(variable) : NULL;
}

static bool meets(const range *r, const char *first, size_t bytes)
{
    const size_t n = __atomic_load_n(&r->bytes, __ATOMIC_ACQUIRE);
    return n > 0 && first < r->first + n && r->first < first + bytes;
}

static bool is_registered(const struct ncclComm *comm, const void *data, size_t bytes)
{
    const char *first = data;
    for (int32_t i = 0; i < MAX_REGISTERED; i++) {
        const range *r = &comm->registered[i];
        if (meets(r, first, bytes) && first >= r->first && first + bytes <= r->first + r->bytes) {
            return true;
        }
    }
    return false;
}

static ncclResult_t register_memory(const ncclComm_t comm, void *memory, size_t bytes,
                                    void **handle)
{
    range *free_one = NULL;
    const char *declines = asked("EMULATOR_NCCL_DECLINE");
    if (declines && strcmp(declines, "1") == 0) {
        return ncclSuccess; /* and no handle, as where NCCL_LOCAL_REGISTER is 0 */
    }
    for (int32_t i = 0; i < MAX_REGISTERED; i++) {
        range *r = &comm->registered[i];
        if (meets(r, memory, bytes)) {
            return ncclInvalidUsage;
        }
        free_one = r->bytes == 0 ? r : free_one;
    }
    if (free_one == NULL || bytes == 0) {
        return ncclInvalidArgument;
    }
    if (!emulator_lend(memory)) {
        return ncclSuccess; /* nothing comes of memory of cudaMalloc */
    }
    free_one->first = memory;
    __atomic_store_n(&free_one->bytes, bytes, __ATOMIC_RELEASE);
    *handle = free_one;
    return ncclSuccess;
}

static ncclResult_t deregister_memory(const ncclComm_t comm, void *handle)
{
    range *r = handle;
    if (r < comm->registered || r >= comm->registered + MAX_REGISTERED || r->bytes == 0) {
        return ncclInvalidArgument;
    }
    emulator_take_back((void *)r->first);
    __atomic_store_n(&r->bytes, 0, __ATOMIC_RELEASE);
    return ncclSuccess;
}

/* At the end of a communicator: what is left was forgotten, but where it is aborted. */
static void end_registrations(ncclComm_t comm, bool aborted)
{
    for (int32_t i = 0; i < MAX_REGISTERED; i++) {
        if (comm->registered[i].bytes > 0) {
            if (!aborted) {
                fprintf(stderr, "emulator: a communicator ends with memory that it registered\n");
                abort();
            }
            deregister_memory(comm, &comm->registered[i]);
        }
    }
}

/* ---- what is asked for ---- */

static bool is_faulty(void)
{
    static int32_t n_calls;
    const char *text = asked("EMULATOR_NCCL_FAULT");
    return text && __atomic_add_fetch(&n_calls, 1, __ATOMIC_RELAXED) >= atoi(text);
}

/* A call begins. */
static ncclResult_t begin(ncclComm_t comm, kind kind)
{
    if (comm->state != ncclSuccess) {
        return comm->state == ncclInProgress ? ncclInvalidUsage : comm->state;
    }
    comm->kind = kind;
    comm->n_messages = 0;
    if (is_faulty()) {
        __atomic_store_n(&comm->state, ncclSystemError, __ATOMIC_RELEASE);
        for (;;) {
            pause();
        }
    }
    return ncclSuccess;
}

static void add(ncclComm_t comm, bool sends, int32_t peer, const void *data, size_t bytes)
{
    if (bytes > 0) {
        comm->message[comm->n_messages++] =
            (message){.sends = sends, .peer = peer, .data = (char *)data, .bytes = (int64_t)bytes};
        comm->message[comm->n_messages - 1].registered =
            comm->kind == MESSAGE ? is_registered(comm, data, bytes) : comm->in_registered;
    }
}

/* What is the same on all ranks of one call. */
static int32_t form_of(const struct ncclComm *comm, const message *m)
{
    return (int32_t)comm->kind + (m->registered ? REGISTERED : 0);
}

static ncclResult_t go(ncclComm_t comm)
{
    return comm->state = ncclInProgress;
}

/* ---- what is done ---- */

static void send_piece(ncclComm_t comm, message *m)
{
    channel *c = &comm->shared->between[comm->rank * comm->size + m->peer];
    if (!__atomic_load_n(&c->full, __ATOMIC_ACQUIRE)) {
        const int64_t rest = m->bytes - m->done;
        c->n = rest < CHANNEL_BYTES ? rest : CHANNEL_BYTES;
        c->total = m->total = m->bytes;
        c->kind = form_of(comm, m);
        memcpy(c->data, m->data + m->done, (size_t)c->n);
        m->done += c->n;
        m->begun = true;
        __atomic_store_n(&c->full, 1, __ATOMIC_RELEASE);
    }
}

/* What does not fit is thrown away. */
static bool receive_piece(ncclComm_t comm, message *m)
{
    channel *c = &comm->shared->between[m->peer * comm->size + comm->rank];
    bool fits = true;
    if (__atomic_load_n(&c->full, __ATOMIC_ACQUIRE)) {
        fits = c->total == m->bytes && c->kind == form_of(comm, m);
        if (fits) {
            memcpy(m->data + m->done, c->data, (size_t)c->n);
        }
        m->total = c->total;
        m->done += c->n;
        m->begun = true;
        __atomic_store_n(&c->full, 0, __ATOMIC_RELEASE);
    }
    return fits;
}

#define REDUCTION(name, T, lower, upper)                                                           \
    static void name(T *out, const T *part, size_t n, int32_t size, ncclRedOp_t op)                \
    {                                                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            T all = part[i];                                                                       \
            for (int32_t p = 1; p < size; p++) {                                                   \
                const T x = part[(size_t)p * n + i];                                               \
                all = op == ncclSum ? (T)(all + x) : op == ncclMax ? upper : lower;                \
            }                                                                                      \
            out[i] = all;                                                                          \
        }                                                                                          \
    }
REDUCTION(reduce_f32, float, fminf(all, x), fmaxf(all, x))
REDUCTION(reduce_f64, double, fmin(all, x), fmax(all, x))
REDUCTION(reduce_i32, int32_t, x<all ? x : all, x> all ? x : all)
REDUCTION(reduce_i64, int64_t, x<all ? x : all, x> all ? x : all)
REDUCTION(reduce_u8, uint8_t, x<all ? x : all, x> all ? x : all)
#undef REDUCTION

static void reduce(ncclComm_t c)
{
    void *parts = c->parts;
    switch (c->type) {
    case ncclFloat32:
        reduce_f32(c->recv, parts, c->n, c->size, c->op);
        break;
    case ncclFloat64:
        reduce_f64(c->recv, parts, c->n, c->size, c->op);
        break;
    case ncclInt32:
        reduce_i32(c->recv, parts, c->n, c->size, c->op);
        break;
    case ncclInt64:
        reduce_i64(c->recv, parts, c->n, c->size, c->op);
        break;
    default:
        reduce_u8(c->recv, parts, c->n, c->size, c->op);
        break;
    }
    free(c->parts);
    c->parts = NULL;
}

static void join(ncclComm_t comm)
{
    if (__atomic_load_n(&comm->shared->n_joined, __ATOMIC_ACQUIRE) == comm->size) {
        comm->joined = true;
        comm->state = ncclSuccess;
        if (comm->rank == 0) {
            shm_unlink(comm->name);
        }
    }
}

static void progress(ncclComm_t comm)
{
    bool fits = true, done = true;
    for (int32_t i = 0; i < comm->n_messages; i++) {
        message *m = &comm->message[i];
        if (!m->begun || m->done < m->total) {
            if (m->sends) {
                send_piece(comm, m);
            } else {
                fits = receive_piece(comm, m) && fits;
            }
        }
        done = done && m->begun && m->done >= m->total;
    }
    if (!fits) {
        comm->state = ncclInvalidUsage;
    } else if (done) {
        if (comm->parts) {
            reduce(comm);
        }
        comm->state = ncclSuccess;
    }
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    if (!comm->joined) {
        join(comm);
    } else if (!comm->late && __atomic_load_n(&comm->state, __ATOMIC_ACQUIRE) == ncclInProgress) {
        progress(comm);
    }
    *state = __atomic_load_n(&comm->state, __ATOMIC_ACQUIRE);
    if (comm->late && comm->joined && *state == ncclInProgress) {
        *state = ncclSuccess; /* the call was taken */
    }
    return ncclSuccess;
}

/* ---- the calls ---- */

/* Everybody's part of n elements is reduced here; the own one stands at `own`. */
static void receive_parts(ncclComm_t comm, const void *own, void *recv, size_t n,
                          ncclDataType_t type, ncclRedOp_t op)
{
    const size_t bytes = n * bytes_of(type);
    if (n == 0) {
        return;
    }
    comm->parts = malloc((size_t)comm->size * bytes);
    comm->recv = recv;
    comm->n = n;
    comm->type = type;
    comm->op = op;
    for (int32_t p = 0; p < comm->size; p++) {
        if (p == comm->rank) {
            memcpy(comm->parts + (size_t)p * bytes, own, bytes);
        } else {
            add(comm, false, p, comm->parts + (size_t)p * bytes, bytes);
        }
    }
}

/* Messages to all others: block p of send, or (stride 0) the same for everybody. */
static void send_to_all(ncclComm_t comm, const char *send, size_t bytes, size_t stride)
{
    for (int32_t p = 0; p < comm->size; p++) {
        if (p != comm->rank) {
            add(comm, true, p, send + (size_t)p * stride, bytes);
        }
    }
}

static void begin_all_gather(const call *c, size_t bytes)
{
    char *block = c->recv;
    char *own = block + (size_t)c->comm->rank * bytes;
    memmove(own, c->send, bytes);
    send_to_all(c->comm, own, bytes, 0);
    for (int32_t p = 0; p < c->comm->size; p++) {
        if (p != c->comm->rank) {
            add(c->comm, false, p, block + (size_t)p * bytes, bytes);
        }
    }
}

static void begin_broadcast(const call *c, size_t bytes)
{
    if (c->comm->rank != c->root) {
        add(c->comm, false, c->root, c->recv, bytes);
        return;
    }
    memmove(c->recv, c->send, bytes);
    send_to_all(c->comm, c->recv, bytes, 0);
}

/* Bytes of the call's own block, and of all of it. */
static bool uses_registered(const call *c, size_t bytes)
{
    const size_t all = bytes * (size_t)c->comm->size;
    return is_registered(c->comm, c->send, c->kind == REDUCE_SCATTER ? all : bytes) &&
           is_registered(c->comm, c->recv, c->kind == ALL_GATHER ? all : bytes);
}

/* Say what is to be done; progress() does it. */
static ncclResult_t perform(const call *c)
{
    const ncclResult_t result = begin(c->comm, c->kind);
    const size_t bytes = c->n * bytes_of(c->type);
    if (result != ncclSuccess) {
        return result;
    }
    c->comm->in_registered = c->kind != MESSAGE && uses_registered(c, bytes);
    switch (c->kind) {
    case ALL_REDUCE:
        receive_parts(c->comm, c->send, c->recv, c->n, c->type, c->op);
        send_to_all(c->comm, c->send, bytes, 0);
        break;
    case REDUCE_SCATTER:
        receive_parts(c->comm, (const char *)c->send + (size_t)c->comm->rank * bytes, c->recv, c->n,
                      c->type, c->op);
        send_to_all(c->comm, c->send, bytes, bytes);
        break;
    case ALL_GATHER:
        begin_all_gather(c, bytes);
        break;
    case BROADCAST:
        begin_broadcast(c, bytes);
        break;
    case MESSAGE:
        for (int32_t i = 0; i < c->n_list; i++) {
            const message *m = &c->list[i];
            add(c->comm, m->sends, m->peer, m->data, (size_t)m->bytes);
        }
        break;
    }
    return go(c->comm);
}

/* In the stream's order. A communicator that has failed does nothing any more. */
static void perform_late(const void *args)
{
    const call *c = args;
    while (__atomic_load_n(&c->comm->n_run, __ATOMIC_ACQUIRE) < c->number) {
        sched_yield();
    }
    ncclResult_t result = perform(c);
    while (result == ncclInProgress) {
        progress(c->comm);
        result = __atomic_load_n(&c->comm->state, __ATOMIC_ACQUIRE);
        sched_yield();
    }
    free(c->list);
    __atomic_add_fetch(&c->comm->n_run, 1, __ATOMIC_RELEASE);
}

static ncclResult_t issue(call c, cudaStream_t stream)
{
    if (c.comm->late) {
        c.number = c.comm->n_asked++;
        emulator_enqueue(stream, perform_late, &c, sizeof c);
        return ncclSuccess;
    }
    const ncclResult_t result = perform(&c);
    free(c.list);
    return result;
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t n, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    return issue((call){.comm = comm,
                        .kind = ALL_REDUCE,
                        .send = send,
                        .recv = recv,
                        .n = n,
                        .type = type,
                        .op = op},
                 stream);
}

ncclResult_t ncclReduceScatter(const void *send, void *recv, size_t n, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    return issue((call){.comm = comm,
                        .kind = REDUCE_SCATTER,
                        .send = send,
                        .recv = recv,
                        .n = n,
                        .type = type,
                        .op = op},
                 stream);
}

ncclResult_t ncclAllGather(const void *send, void *recv, size_t n, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    return issue(
        (call){.comm = comm, .kind = ALL_GATHER, .send = send, .recv = recv, .n = n, .type = type},
        stream);
}

ncclResult_t ncclBroadcast(const void *send, void *recv, size_t n, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    return issue((call){.comm = comm,
                        .kind = BROADCAST,
                        .send = send,
                        .recv = recv,
                        .n = n,
                        .type = type,
                        .root = root},
                 stream);
}

static ncclResult_t add_to_group(ncclComm_t comm, bool sends, int peer, const void *data,
                                 size_t bytes, cudaStream_t stream)
{
    call *c = &group.call;
    if (group.depth == 0 || (c->comm && c->comm != comm)) {
        return ncclInvalidUsage;
    }
    if (!c->comm) {
        *c = (call){.comm = comm, .kind = MESSAGE};
        c->list = calloc((size_t)comm->size * 2, sizeof *c->list);
        group.stream = stream;
    }
    c->list[c->n_list++] =
        (message){.sends = sends, .peer = peer, .data = (char *)data, .bytes = (int64_t)bytes};
    return ncclSuccess;
}

ncclResult_t ncclSend(const void *send, size_t n, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return add_to_group(comm, true, peer, send, n * bytes_of(type), stream);
}

ncclResult_t ncclRecv(void *recv, size_t n, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return add_to_group(comm, false, peer, recv, n * bytes_of(type), stream);
}

ncclResult_t ncclGroupStart(void)
{
    group.depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    const call c = group.call;
    group.call = (call){0};
    group.depth--;
    return c.comm ? issue(c, group.stream) : ncclSuccess;
}

static ncclResult_t all_to_all(const void *send, void *recv, size_t n, ncclDataType_t type,
                               ncclComm_t comm, cudaStream_t stream)
{
    const size_t bytes = n * bytes_of(type);
    ncclResult_t result = ncclGroupStart();
    for (int32_t p = 0; p < comm->size && result == ncclSuccess; p++) {
        result = add_to_group(comm, true, p, (const char *)send + (size_t)p * bytes, bytes, stream);
        if (result == ncclSuccess) {
            result = add_to_group(comm, false, p, (char *)recv + (size_t)p * bytes, bytes, stream);
        }
    }
    const ncclResult_t end = ncclGroupEnd();
    return result == ncclSuccess ? end : result;
}

/* ---- life ---- */

ncclResult_t ncclGetVersion(int *version)
{
    const char *text = asked("EMULATOR_NCCL_VERSION");
    *version = text ? atoi(text) : 22809;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int32_t n_made;
    snprintf(id->internal, sizeof id->internal, "/sy_nccl_%d_%d", (int)getpid(),
             __atomic_add_fetch(&n_made, 1, __ATOMIC_RELAXED));
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    return result == ncclSystemError    ? "unhandled system error"
           : result == ncclInvalidUsage ? "invalid usage"
                                        : "another error";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return "an emulation";
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int n_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    ncclComm_t c = calloc(1, sizeof *c);
    if (config->blocking) {
        return ncclInvalidArgument;
    }
    c->rank = rank;
    c->size = n_ranks;
    c->late = emulator_is_late();
    c->state = ncclInProgress;
    c->message = calloc((size_t)n_ranks * 2, sizeof *c->message);
    c->shared_bytes = sizeof *c->shared + (size_t)(n_ranks * n_ranks) * sizeof(channel);
    snprintf(c->name, sizeof c->name, "%s", id.internal);
    const int fd = shm_open(c->name, O_CREAT | O_RDWR, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)c->shared_bytes) != 0) {
        return ncclSystemError;
    }
    c->shared = mmap(NULL, c->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (c->shared == MAP_FAILED) {
        return ncclSystemError;
    }
    __atomic_add_fetch(&c->shared->n_joined, 1, __ATOMIC_ACQ_REL);
    *comm = c;
    return ncclInProgress;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    while (comm->late && __atomic_load_n(&comm->n_run, __ATOMIC_ACQUIRE) < comm->n_asked) {
        sched_yield();
    }
    end_registrations(comm, false);
    comm->n_messages = 0;
    return comm->late ? ncclSuccess : go(comm);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    munmap(comm->shared, comm->shared_bytes);
    free(comm->parts);
    free(comm->message);
    free(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    if (!comm->joined) {
        shm_unlink(comm->name);
    }
    end_registrations(comm, true);
    return ncclCommDestroy(comm);
}

sy_status sy_nccl_load(sy_nccl *out)
{
    *out = (sy_nccl){.ncclAlltoAll = all_to_all,
                     .ncclCommRegister = register_memory,
                     .ncclCommDeregister = deregister_memory};
    if (getenv("EMULATOR_NCCL_OLD")) {
        *out = (sy_nccl){.library = NULL};
    }
#define FIND(name) out->name = name;
    SY_NCCL_FUNCTIONS(FIND)
#undef FIND
    return SY_OK;
}

void sy_nccl_unload(sy_nccl *lib)
{
    (void)lib;
}
