/* Collectives over NCCL, for the memory of GPUs, on the CUDA stream behind the sy_stream.

   Every communicator is made over one of the host with the same ranks, which brings NCCL's
   identifier to them and stays for splits. NCCL's are not blocking: a call that needs other ranks
   returns at once and is asked about until it is done or parallel.timeout_s has passed, so that a
   rank that died holds nobody in here for ever. What goes wrong after a call was taken shows in
   ncclCommGetAsyncError alone, and the stream then never ends: the watchdog's thread asks for it
   (sy__comm_nccl_check). At the end of a job that failed all communicators are aborted, which is
   known to hang at times: sy__comm_end_job gives it a deadline. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cuda/native.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "core/pulse.h"
#include "parallel/agree.h"
#include "parallel/comm_impl.h"
#include "parallel/nccl_table.h"

#define CLOSE_S 5.0 /* that a communicator gets to end in peace */
#define SPIN_S 1e-3 /* asking without a pause, then with */
#define PAUSE_S 1e-4

/* Memory that NCCL has registered. */
typedef struct registered_memory {
    const void *ptr;
    void *handle;
} registered_memory;

typedef struct nccl_comm {
    sy_comm *about;
    sy_comm *host; /* the same ranks */
    sy_nccl lib;
    ncclComm_t nccl;
    registered_memory *registered;
    int32_t n_registered;
    _Atomic bool failed; /* said so already */
    struct nccl_comm *next;
} nccl_comm;

/* All communicators of the process, for the watchdog's thread and for the end. NCCL's state is
   asked for under the lock, so that nobody asks about what is being aborted. */
static struct {
    pthread_mutex_t lock;
    nccl_comm *first;
    _Atomic bool aborted;
} live = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void enlist(nccl_comm *self)
{
    pthread_mutex_lock(&live.lock);
    self->next = live.first;
    live.first = self;
    pthread_mutex_unlock(&live.lock);
}

static void strike_off(const nccl_comm *self)
{
    pthread_mutex_lock(&live.lock);
    for (nccl_comm **at = &live.first; *at; at = &(*at)->next) {
        if (*at == self) {
            *at = self->next;
            break;
        }
    }
    pthread_mutex_unlock(&live.lock);
}

/* ---- waiting for NCCL ---- */

static ncclResult_t ask(nccl_comm *self)
{
    ncclResult_t state = ncclRemoteError;
    pthread_mutex_lock(&live.lock);
    if (!live.aborted) {
        const ncclResult_t result = self->lib.ncclCommGetAsyncError(self->nccl, &state);
        state = result == ncclSuccess ? state : result;
    }
    self->failed = self->failed || (state != ncclSuccess && state != ncclInProgress);
    pthread_mutex_unlock(&live.lock);
    return state;
}

/* Until NCCL has taken what it was given; ncclInProgress: not within so many seconds (0: for ever).
 */
static ncclResult_t settle(nccl_comm *self, ncclResult_t result, double seconds)
{
    const double begin_s = sy_clock_s();
    while (result == ncclInProgress) {
        const double waited_s = sy_clock_s() - begin_s;
        if (seconds > 0 && waited_s > seconds) {
            break;
        }
        if (waited_s > SPIN_S) {
            sy_clock_sleep_s(PAUSE_S);
        } else {
            sched_yield();
        }
        result = ask(self);
    }
    return result;
}

static void describe(nccl_comm *self, ncclResult_t result, double seconds, char *buf, size_t bytes)
{
    if (result == ncclInProgress) {
        snprintf(buf, bytes, "NCCL waits for other ranks for %g s (parallel.timeout_s)", seconds);
    } else if (live.aborted) {
        snprintf(buf, bytes, "the job is ending");
    } else {
        const char *more = self->lib.ncclGetLastError(self->nccl);
        snprintf(buf, bytes, "NCCL: %s (%s); NCCL_DEBUG=INFO tells more",
                 self->lib.ncclGetErrorString(result), more ? more : "no more is known");
    }
}

/* ---- the six ---- */

typedef struct nccl_call {
    nccl_comm *self;
    const sy_comm_args *args;
    cudaStream_t stream;
    size_t bytes; /* of args->n rows or elements */
} nccl_call;

static ncclDataType_t element_type(sy_dtype dtype)
{
    switch (dtype) {
    case SY_F32:
        return ncclFloat32;
    case SY_F64:
        return ncclFloat64;
    case SY_I32:
        return ncclInt32;
    case SY_I64:
        return ncclInt64;
    default:
        return ncclUint8;
    }
}

static ncclRedOp_t reduction(sy_reduce reduce)
{
    return reduce == SY_SUM ? ncclSum : reduce == SY_MAX ? ncclMax : ncclMin;
}

static ncclResult_t run_all_reduce(const nccl_call *c)
{
    const sy_comm_args *a = c->args;
    return c->self->lib.ncclAllReduce(a->send, a->recv, (size_t)a->n, element_type(a->dtype),
                                      reduction(a->reduce), c->self->nccl, c->stream);
}

static ncclResult_t run_reduce_scatter(const nccl_call *c)
{
    const sy_comm_args *a = c->args;
    return c->self->lib.ncclReduceScatter(a->send, a->recv, (size_t)a->n, element_type(a->dtype),
                                          reduction(a->reduce), c->self->nccl, c->stream);
}

static ncclResult_t run_all_gather(const nccl_call *c)
{
    return c->self->lib.ncclAllGather(c->args->send, c->args->recv, c->bytes, ncclInt8,
                                      c->self->nccl, c->stream);
}

static ncclResult_t run_broadcast(const nccl_call *c)
{
    const sy_comm_args *a = c->args;
    return c->self->lib.ncclBroadcast(a->recv, a->recv, c->bytes, ncclInt8, a->root, c->self->nccl,
                                      c->stream);
}

/* Nothing is sent where there is nothing to send: the receiver knows it too. */
static ncclResult_t send_to(const nccl_call *c, const char *at, int64_t bytes, int32_t peer)
{
    return bytes == 0
               ? ncclSuccess
               : c->self->lib.ncclSend(at, (size_t)bytes, ncclInt8, peer, c->self->nccl, c->stream);
}

static ncclResult_t receive_from(const nccl_call *c, char *at, int64_t bytes, int32_t peer)
{
    return bytes == 0
               ? ncclSuccess
               : c->self->lib.ncclRecv(at, (size_t)bytes, ncclInt8, peer, c->self->nccl, c->stream);
}

/* A group is ended whatever happened in it; the first error counts. */
static ncclResult_t end_group(const nccl_call *c, ncclResult_t result)
{
    const ncclResult_t end = c->self->lib.ncclGroupEnd();
    return result == ncclSuccess || result == ncclInProgress ? end : result;
}

static ncclResult_t run_all_to_all(const nccl_call *c)
{
    const sy_comm_args *a = c->args;
    const sy_nccl *lib = &c->self->lib;
    const int64_t unit = sy__comm_unit_bytes(a);
    const char *send = a->send;
    char *recv = a->recv;
    if (!a->h_n_send && lib->ncclAlltoAll) {
        return lib->ncclAlltoAll(send, recv, c->bytes, ncclInt8, c->self->nccl, c->stream);
    }
    ncclResult_t result = lib->ncclGroupStart();
    for (int32_t p = 0; p < c->self->about->size; p++) {
        const int64_t out = unit * (a->h_n_send ? a->h_n_send[p] : a->n);
        const int64_t in = unit * (a->h_n_recv ? a->h_n_recv[p] : a->n);
        result = result == ncclSuccess ? send_to(c, send, out, p) : result;
        result = result == ncclSuccess ? receive_from(c, recv, in, p) : result;
        send += out;
        recv += in;
    }
    return end_group(c, result);
}

static ncclResult_t run_send_recv(const nccl_call *c)
{
    const sy_comm_args *a = c->args;
    const int64_t bytes = (int64_t)c->bytes;
    ncclResult_t result = c->self->lib.ncclGroupStart();
    if (result == ncclSuccess && a->root >= 0) {
        result = send_to(c, a->send, bytes, a->root);
    }
    if (result == ncclSuccess && a->source >= 0) {
        result = receive_from(c, a->recv, bytes, a->source);
    }
    return end_group(c, result);
}

/* ---- on the stream ---- */

static sy_status note_begun(sy_stream *stream, const void *comm)
{
    (void)stream;
    sy__comm_begun(*(sy_comm *const *)comm);
    return SY_OK;
}

static sy_status note_done(sy_stream *stream, const void *comm)
{
    (void)stream;
    sy__comm_done(*(sy_comm *const *)comm);
    return SY_OK;
}

static sy_status check_counts(const sy_comm *comm, const sy_comm_args *a)
{
    sy_status st = SY_OK;
    for (int32_t p = 0; p < comm->size && a->h_n_send; p++) {
        SY_REQUIRE(a->h_n_send[p] >= 0 && a->h_n_recv[p] >= 0, SY_ERR_INTERNAL,
                   "a count of rows is negative");
    }
cleanup:
    return st;
}

/* NCCL's maximum and minimum pass over a NaN, which here would have to win. */
static sy_status check_reduction(const sy_comm_args *a, sy__collective which)
{
    sy_status st = SY_OK;
    const bool reduces = which == SY__ALL_REDUCE || which == SY__REDUCE_SCATTER;
    SY_REQUIRE(!reduces || a->reduce == SY_SUM || !sy_dtype_is_float(a->dtype), SY_ERR_UNSUPPORTED,
               "'%s': NCCL has no maximum or minimum of floats in which a NaN wins", a->what);
cleanup:
    return st;
}

static sy_status start(sy_comm *comm, const sy_comm_args *args, sy__collective which)
{
    static ncclResult_t (*const run[SY__N_COLLECTIVES])(const nccl_call *) = {
        [SY__ALL_REDUCE] = run_all_reduce, [SY__REDUCE_SCATTER] = run_reduce_scatter,
        [SY__ALL_GATHER] = run_all_gather, [SY__BROADCAST] = run_broadcast,
        [SY__ALL_TO_ALL] = run_all_to_all, [SY__SEND_RECV] = run_send_recv};
    sy_status st = SY_OK;
    nccl_comm *self = comm->self;
    const nccl_call call = {self, args, sy_cuda_stream(args->stream),
                            (size_t)(args->n * sy__comm_unit_bytes(args))};
    char reason[512];
    SY_TRY(check_counts(comm, args));
    SY_TRY(check_reduction(args, which));
    SY_TRY(sy_cuda_enter(comm->dev));
    SY_TRY(sy_stream_call(args->stream, note_begun, &comm, sizeof comm));
    const ncclResult_t result = settle(self, run[which](&call), comm->timeout_s);
    if (result != ncclSuccess) {
        self->failed = true;
        describe(self, result, comm->timeout_s, reason, sizeof reason);
        SY_TRY(sy__comm_fail(comm, args, which, reason));
    }
    SY_TRY(sy_stream_call(args->stream, note_done, &comm, sizeof comm));
cleanup:
    return st;
}

/* ---- memory that stays ---- */

static sy_status register_memory(nccl_comm *self, void *ptr, int64_t bytes, void **handle)
{
    sy_status st = SY_OK;
    const sy_nccl *lib = &self->lib;
    SY_TRY(
        sy_realloc(self->n_registered + 1, sizeof *self->registered, (void **)&self->registered));
    if (!lib->ncclCommRegister || !lib->ncclCommDeregister) {
        goto cleanup;
    }
    SY_TRY(sy_cuda_enter(self->about->dev));
    const ncclResult_t result =
        settle(self, lib->ncclCommRegister(self->nccl, ptr, (size_t)bytes, handle),
               self->about->timeout_s);
    if (result != ncclSuccess) {
        *handle = NULL;
    }
cleanup:
    return st;
}

static void deregister_memory(nccl_comm *self, void *handle)
{
    if (handle && !self->failed && sy_cuda_enter(self->about->dev) == SY_OK) {
        settle(self, self->lib.ncclCommDeregister(self->nccl, handle), CLOSE_S);
    }
}

/* NCCL wants registered memory from all ranks or from none. */
static sy_status nccl_register(sy_comm *comm, void *ptr, int64_t bytes, bool *done)
{
    sy_status st = SY_OK;
    nccl_comm *self = comm->self;
    void *handle = NULL;
    int32_t all = 0;
    SY_TRY(sy_agree(self->host, register_memory(self, ptr, bytes, &handle)));
    all = handle != NULL;
    SY_TRY(sy_host_all_reduce(self->host, &all, 1, SY_I32, SY_MIN, "registered memory"));
    if (all) {
        self->registered[self->n_registered++] = (registered_memory){ptr, handle};
        handle = NULL;
    }
    *done = all;
cleanup:
    deregister_memory(self, handle);
    return st;
}

static void nccl_deregister(sy_comm *comm, const void *ptr)
{
    nccl_comm *self = comm->self;
    for (int32_t i = 0; i < self->n_registered; i++) {
        if (self->registered[i].ptr == ptr) {
            deregister_memory(self, self->registered[i].handle);
            self->registered[i] = self->registered[--self->n_registered];
            break;
        }
    }
}

/* ---- life ---- */

static sy_status nccl_split(sy_comm *comm, int32_t color, int32_t key, sy_device *dev,
                            sy_comm **out)
{
    const nccl_comm *self = comm->self;
    return self->host->ops->split(self->host, color, key, dev, out);
}

/* The calls in its streams are of this communicator still. */
static void await_calls(const sy_comm *comm)
{
    const double end_s = sy_clock_s() + CLOSE_S;
    while (__atomic_load_n(&comm->n_done, __ATOMIC_ACQUIRE) < comm->n_issued &&
           sy_clock_s() < end_s) {
        sy_clock_sleep_s(PAUSE_S);
    }
}

static void close_nccl(nccl_comm *self)
{
    ncclResult_t result = ncclInternalError;
    if (self->nccl && !self->failed) {
        result = settle(self, self->lib.ncclCommFinalize(self->nccl), CLOSE_S);
    }
    strike_off(self);
    if (self->nccl && !live.aborted) {
        if (result == ncclSuccess) {
            self->lib.ncclCommDestroy(self->nccl);
        } else {
            self->lib.ncclCommAbort(self->nccl);
        }
    }
}

static void nccl_destroy(sy_comm *comm)
{
    nccl_comm *self = comm->self;
    if (!self->failed) {
        await_calls(comm);
    }
    close_nccl(self);
    sy_nccl_unload(&self->lib);
    sy_comm_destroy(&self->host);
    sy_free(&self->registered);
    sy_free(&comm->self);
}

static void nccl_abort(sy_comm *comm, int32_t exit_code)
{
    const nccl_comm *self = comm->self;
    self->host->ops->abort(self->host, exit_code);
}

static const sy_comm_ops nccl_ops = {.start = start,
                                     .split = nccl_split,
                                     .destroy = nccl_destroy,
                                     .abort = nccl_abort,
                                     .register_memory = nccl_register,
                                     .deregister_memory = nccl_deregister};

static sy_status setup_try(nccl_comm *self, ncclResult_t result, const char *doing)
{
    sy_status st = SY_OK;
    char reason[512];
    if (result != ncclSuccess) {
        self->failed = true;
        describe(self, result, self->about->timeout_s, reason, sizeof reason);
    }
    SY_REQUIRE(result == ncclSuccess, SY_ERR_COMM, "rank %d of %d could not %s: %s",
               self->about->rank, self->about->size, doing, reason);
cleanup:
    return st;
}

/* NCCL refuses a GPU that it sees twice on a host: ranks that are to share one are hosts of their
   own, which talk over sockets. */
static void share_gpu(void)
{
    char host[128] = "", id[192];
    const char *shared = getenv("SY_SHARE_GPU");
    if (shared && strcmp(shared, "1") == 0) {
        gethostname(host, sizeof host - 1);
        snprintf(id, sizeof id, "%s %ld", host, (long)getpid());
        setenv("NCCL_HOSTID", id, 0); /* before NCCL begins; what the user has set stays */
    }
}

static sy_status load(nccl_comm *self, int *version)
{
    sy_status st = SY_OK;
    share_gpu();
    SY_TRY(sy_nccl_load(&self->lib));
    SY_TRY(setup_try(self, self->lib.ncclGetVersion(version), "ask for the version of NCCL"));
cleanup:
    return st;
}

static sy_status join(nccl_comm *self, ncclUniqueId id)
{
    sy_status st = SY_OK;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    SY_TRY(sy_cuda_enter(self->about->dev));
    ncclResult_t result = self->lib.ncclCommInitRankConfig(&self->nccl, self->about->size, id,
                                                           self->about->rank, &config);
    if (self->nccl) {
        enlist(self);
        result = settle(self, result, self->about->timeout_s);
    }
    SY_TRY(setup_try(self, result, "join the others through NCCL"));
cleanup:
    return st;
}

static sy_status meet(nccl_comm *self)
{
    sy_status st = SY_OK;
    sy_comm *host = self->host;
    int version = 0;
    ncclUniqueId id = {{0}};
    SY_TRY(sy_agree(host, load(self, &version)));
    SY_TRY(sy_agree_same(host, version, "the version of NCCL"));
    if (host->rank == 0) {
        st = setup_try(self, self->lib.ncclGetUniqueId(&id), "open NCCL's meeting point");
    }
    SY_TRY(sy_agree(host, st));
    SY_TRY(sy_host_broadcast(host, &id, sizeof id, 0, "nccl id"));
    SY_TRY(sy_agree(host, join(self, id)));
cleanup:
    return st;
}

static sy_status create(const sy_comm *host, sy_device *dev, sy_comm **out)
{
    sy_status st = SY_OK;
    sy_comm *comm = NULL;
    SY_TRY(sy_alloc(1, sizeof *comm, (void **)&comm));
    *comm = *host;
    comm->ops = &nccl_ops;
    comm->dev = dev;
    comm->n_issued = comm->n_begun = comm->n_done = 0;
    comm->self = NULL;
    SY_TRY(sy_alloc(1, sizeof(nccl_comm), &comm->self));
    ((nccl_comm *)comm->self)->about = comm;
    *out = comm;
    comm = NULL;
cleanup:
    sy_free(&comm);
    return st;
}

sy_status sy__comm_nccl_create(sy_comm **host, sy_device *dev, sy_comm **out)
{
    sy_status st = SY_OK;
    sy_comm *comm = NULL;
    SY_TRY(sy_agree(*host, create(*host, dev, &comm)));
    nccl_comm *self = comm->self;
    self->host = *host;
    *host = NULL;
    SY_TRY(meet(self));
    *out = comm;
    comm = NULL;
cleanup:
    if (comm) {
        if (!((nccl_comm *)comm->self)->host) { /* another rank has no memory */
            sy_free(&comm->self);
            sy_free(&comm);
        }
        sy_comm_destroy(&comm);
    }
    return st;
}

/* ---- the watchdog, and the end ---- */

/* On another thread than the calls, and under the lock. */
static sy_status check_one(nccl_comm *self)
{
    sy_status st = SY_OK;
    const sy_comm *comm = self->about;
    ncclResult_t state = ncclSuccess;
    char reason[512], text[160];
    sy_comm_call call;
    const ncclResult_t result = self->lib.ncclCommGetAsyncError(self->nccl, &state);
    state = result == ncclSuccess ? state : result;
    if (state != ncclSuccess && state != ncclInProgress && !atomic_exchange(&self->failed, true)) {
        describe(self, state, 0, reason, sizeof reason);
        sy__recorder_first(comm, &call);
        sy_comm_call_format(&call, text, sizeof text);
        SY_TRY(sy_error(SY_ERR_COMM, "step %lld: %s failed under way on rank %d of %d: %s",
                        (long long)sy_pulse_read().step, text, comm->rank, comm->size, reason));
    }
cleanup:
    return st;
}

sy_status sy__comm_nccl_check(void)
{
    sy_status st = SY_OK;
    pthread_mutex_lock(&live.lock);
    for (nccl_comm *c = live.first; c && st == SY_OK && !live.aborted; c = c->next) {
        st = check_one(c);
    }
    pthread_mutex_unlock(&live.lock);
    return st;
}

void sy__comm_nccl_abort(void)
{
    pthread_mutex_lock(&live.lock);
    for (nccl_comm *c = live.first; c && !live.aborted; c = c->next) {
        c->failed = true;
        c->lib.ncclCommAbort(c->nccl);
    }
    live.aborted = true;
    pthread_mutex_unlock(&live.lock);
}
