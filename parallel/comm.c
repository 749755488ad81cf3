/* What all communicators have in common: the check of the arguments, the count of calls, the
   recorder, shorthands on host memory, and the end of the job. */
#include "parallel/comm_impl.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/fault.h"
#include "core/log.h"
#include "core/pulse.h"
#include "core/span.h"
#include "core/thread.h"
#include "parallel/agree.h"

#define END_DEADLINE_S 2.0

static const struct {
    const char *name;
    bool reduces;
} collectives[SY__N_COLLECTIVES] = {
    [SY__ALL_REDUCE] = {"all_reduce", true},  [SY__REDUCE_SCATTER] = {"reduce_scatter", true},
    [SY__ALL_GATHER] = {"all_gather", false}, [SY__BROADCAST] = {"broadcast", false},
    [SY__ALL_TO_ALL] = {"all_to_all", false}, [SY__SEND_RECV] = {"send_recv", false},
};

const char *sy__collective_name(sy__collective which)
{
    return collectives[which].name;
}

int64_t sy__comm_unit_bytes(const sy_comm_args *args)
{
    return args->row_bytes > 0 ? args->row_bytes : (int64_t)sy_dtype_bytes(args->dtype);
}

sy_status sy__comm_fail(const sy_comm *comm, const sy_comm_args *args, sy__collective which,
                        const char *reason)
{
    char layer[32] = "";
    if (args->layer >= 0) {
        snprintf(layer, sizeof layer, " of layer %d", args->layer);
    }
    return sy_error(SY_ERR_COMM, "'%s'%s failed in %s over '%s' on rank %d of %d: %s", args->what,
                    layer, sy__collective_name(which), comm->name, comm->rank, comm->size, reason);
}

void sy__comm_begun(sy_comm *comm)
{
    comm->begun_s = sy_clock_s();
    __atomic_add_fetch(&comm->n_begun, 1, __ATOMIC_RELEASE);
}

void sy__comm_done(sy_comm *comm)
{
    __atomic_add_fetch(&comm->n_done, 1, __ATOMIC_RELEASE);
    if (comm->n_begun == comm->n_done) {
        sy_pulse_waited(sy_clock_s() - comm->begun_s);
    }
    sy_pulse_beat();
}

int64_t sy__comm_common_bytes(const sy_comm_args *args, sy__collective which)
{
    bool own = which == SY__SEND_RECV || args->h_n_send != NULL;
    return own ? -1 : args->n * sy__comm_unit_bytes(args);
}

/* ---- the digest of calls ---- */

static uint64_t mix(uint64_t digest, uint64_t value)
{
    digest = (digest ^ value) * 0x9E3779B97F4A7C15U;
    return digest ^ digest >> 29;
}

static uint64_t mix_text(uint64_t digest, const char *text)
{
    for (; *text; text++) {
        digest = (digest ^ (unsigned char)*text) * 0x100000001B3U;
    }
    return mix(digest, 0);
}

/* What all ranks must call alike. */
static uint64_t signature_of(const sy_comm_args *args, sy__collective which)
{
    uint64_t c = mix_text((uint64_t)which + 1, args->what);
    c = mix(c, (uint64_t)(uint32_t)args->layer);
    c = mix(c, (uint64_t)sy__comm_common_bytes(args, which));
    if (collectives[which].reduces) {
        c = mix(c, (uint64_t)args->dtype << 8 | (uint64_t)args->reduce);
    }
    return which == SY__BROADCAST ? mix(c, (uint64_t)args->root) : c;
}

static void count_call(sy_comm *comm, const sy_comm_args *args, sy__collective which)
{
    const uint64_t signature = signature_of(args, which);
    comm->n_issued++;
    sy__recorder_add(comm, args, which, mix_text(signature, comm->name));
}

/* ---- argument checks ---- */

static bool sends(const sy_comm_args *args, sy__collective which)
{
    return which != SY__BROADCAST && (which != SY__SEND_RECV || args->root >= 0);
}

static bool receives(const sy_comm_args *args, sy__collective which)
{
    return which != SY__SEND_RECV || args->source >= 0;
}

static sy_status check_peers(const sy_comm *comm, const sy_comm_args *a, sy__collective which)
{
    sy_status st = SY_OK;
    if (which == SY__BROADCAST) {
        SY_REQUIRE(a->root >= 0 && a->root < comm->size, SY_ERR_INTERNAL,
                   "'%s': root %d is not a rank of '%s'", a->what, a->root, comm->name);
    }
    if (which == SY__SEND_RECV) {
        SY_REQUIRE(a->root >= -1 && a->root < comm->size && a->source >= -1 &&
                       a->source < comm->size,
                   SY_ERR_INTERNAL, "'%s': to %d, from %d: not ranks of '%s'", a->what, a->root,
                   a->source, comm->name);
        SY_REQUIRE(comm->size > 1 || a->root == a->source, SY_ERR_INTERNAL,
                   "'%s': '%s' has one rank, which sends what nobody receives", a->what,
                   comm->name);
    }
cleanup:
    return st;
}

static sy_status check_reduction(const sy_comm_args *a)
{
    sy_status st = SY_OK;
    bool known = a->dtype == SY_F32 || a->dtype == SY_F64 || a->dtype == SY_I32 ||
                 a->dtype == SY_I64 || a->dtype == SY_U8;
    SY_REQUIRE(known && a->row_bytes == 0, SY_ERR_INTERNAL,
               "'%s': a reduction takes f32, f64, i32, i64 or u8 elements", a->what);
    SY_REQUIRE(a->reduce == SY_SUM || a->reduce == SY_MAX || a->reduce == SY_MIN, SY_ERR_INTERNAL,
               "'%s': unknown reduction %d", a->what, (int)a->reduce);
cleanup:
    return st;
}

static sy_status check_args(const sy_comm *comm, const sy_comm_args *a, sy__collective which)
{
    sy_status st = SY_OK;
    SY_REQUIRE(a->what, SY_ERR_INTERNAL, "a %s over '%s' does not say what it is",
               sy__collective_name(which), comm->name);
    SY_REQUIRE(a->n >= 0 && a->row_bytes >= 0, SY_ERR_INTERNAL, "'%s': negative size", a->what);
    SY_REQUIRE(!comm->dev || (a->stream && sy_stream_device(a->stream) == comm->dev),
               SY_ERR_INTERNAL, "'%s': '%s' moves device memory and needs a stream of its device",
               a->what, comm->name);
    SY_REQUIRE(!a->h_n_send == !a->h_n_recv, SY_ERR_INTERNAL,
               "'%s': counts are given for one direction only", a->what);
    if (!a->h_n_send && a->n > 0) {
        SY_REQUIRE((a->send || !sends(a, which)) && (a->recv || !receives(a, which)),
                   SY_ERR_INTERNAL, "'%s': a buffer is missing", a->what);
    }
    if (collectives[which].reduces) {
        SY_TRY(check_reduction(a));
    }
    SY_TRY(check_peers(comm, a, which));
cleanup:
    return st;
}

/* What leaves this rank, or takes part in a reduction. */
static int64_t sent_bytes(const sy_comm *comm, const sy_comm_args *args, sy__collective which)
{
    bool to_all = which == SY__REDUCE_SCATTER || which == SY__ALL_TO_ALL;
    int64_t n = to_all ? comm->size * args->n : args->n;
    if (which == SY__ALL_TO_ALL && args->h_n_send != NULL) {
        n = 0;
        for (int32_t p = 0; p < comm->size; p++) {
            n += args->h_n_send[p];
        }
    }
    return n * sy__comm_unit_bytes(args);
}

static sy_status call(sy_comm *comm, const sy_comm_args *args, sy__collective which)
{
    const bool is_seen = comm->size > 1 && sy_span_is_on();
    count_call(comm, args, which);
    if (is_seen) {
        sy_span_begin(SY_SPAN_COMM, args->what, args->layer, sent_bytes(comm, args, which));
    }
    sy_status st = comm->ops->start(comm, args, which);
    if (is_seen) {
        sy_span_end();
    }
    return st;
}

/* Fault points before every collective: "collective", and what it is ("moe dispatch"). The others
   would wait for a rank that fails here. */
static sy_status pass_faults(sy_comm *comm, const char *what, sy_fault_action *action)
{
    sy_status st = sy_fault("collective");
    st = st == SY_OK ? sy_fault_pass(what, action) : st;
    if (st != SY_OK && comm->size > 1) {
        sy_comm_abort(comm, st);
    }
    return st;
}

static sy_status issue(sy_comm *comm, const sy_comm_args *args, sy__collective which)
{
    sy_status st = SY_OK;
    sy_fault_action fault;
    sy_comm_args mine = *args;
    SY_TRY(check_args(comm, args, which));
    if (comm->dev && comm->dev->dry) {
        return comm->ops->start(comm, args, which); /* nothing is called */
    }
    SY_TRY(pass_faults(comm, args->what, &fault));
    mine.n = fault == SY_FAULT_SHORT ? args->n / 2 : args->n;
    if (fault != SY_FAULT_SKIP) {
        SY_TRY(call(comm, &mine, which));
    }
    if (fault == SY_FAULT_TWICE) {
        SY_TRY(call(comm, &mine, which));
    }
cleanup:
    return st;
}

sy_status sy_all_reduce(sy_comm *comm, const sy_comm_args *args)
{
    return issue(comm, args, SY__ALL_REDUCE);
}

sy_status sy_reduce_scatter(sy_comm *comm, const sy_comm_args *args)
{
    return issue(comm, args, SY__REDUCE_SCATTER);
}

sy_status sy_all_gather(sy_comm *comm, const sy_comm_args *args)
{
    return issue(comm, args, SY__ALL_GATHER);
}

sy_status sy_broadcast(sy_comm *comm, const sy_comm_args *args)
{
    return issue(comm, args, SY__BROADCAST);
}

sy_status sy_all_to_all(sy_comm *comm, const sy_comm_args *args)
{
    return issue(comm, args, SY__ALL_TO_ALL);
}

sy_status sy_send_recv(sy_comm *comm, const sy_comm_args *args)
{
    return issue(comm, args, SY__SEND_RECV);
}

/* ---- life ---- */

/* Not exit(): another thread may be inside a collective, and handlers would wait for it. */
void sy__end_process(int32_t exit_code)
{
    _exit(exit_code);
}

sy_status sy_comm_world(bool mpi, sy_comm **out)
{
    return mpi ? sy__comm_mpi_world(out)
               : sy__comm_self_create("world", NULL, sy__end_process, out);
}

/* Its members have all come to this split by the same calls. */
static uint64_t lane_of(const sy_comm *whole, int32_t color, int32_t size)
{
    if (whole->lane == 0 && size == whole->size) {
        return 0;
    }
    uint64_t lane = mix(mix(whole->lane, (uint64_t)whole->n_issued), (uint64_t)(uint32_t)color);
    return lane != 0 ? lane : 1;
}

sy_status sy_comm_split(sy_comm *comm, int32_t color, int32_t key, sy_device *dev, const char *name,
                        sy_comm **out)
{
    sy_status st = SY_OK;
    sy_comm *part = NULL;
    SY_TRY(sy_agree(comm, comm->ops->split(comm, color, key, dev, &part)));
    if (part) {
        snprintf(part->name, sizeof part->name, "%s", name);
        part->timeout_s = comm->timeout_s;
        part->lane = lane_of(comm, color, part->size);
    }
    *out = part;
    part = NULL;
cleanup:
    sy_comm_destroy(&part);
    return st;
}

void sy_comm_destroy(sy_comm **comm)
{
    if (*comm) {
        sy__recorder_forget(*comm);
        (*comm)->ops->destroy(*comm);
        sy_free(comm);
    }
}

static void *end_by_force(void *exit_code)
{
    sy_clock_sleep_s(END_DEADLINE_S);
    _exit((int)(intptr_t)exit_code);
}

void sy__comm_end_job(sy_comm *comm, int32_t exit_code)
{
    pthread_t thread;
    if (sy_thread_start("sy-end", end_by_force, (void *)(intptr_t)exit_code, &thread) != SY_OK) {
        _exit(exit_code);
    }
    sy__comm_device_abort();
    comm->ops->abort(comm, exit_code);
    _exit(exit_code);
}

void sy_comm_abort(sy_comm *comm, sy_status st)
{
    static _Thread_local char text[2 * SY_TRACE_MESSAGE];
    sy_trace trace;
    if (st == SY_ERR_COMM) { /* a watchdog may know better why: ranks that are out of step */
        sy_clock_sleep_s(sy__recorder_patience());
    }
    sy_error_take(&trace);
    sy_error_format(&trace, true, text, sizeof text);
    sy_log(SY_LOG_ERROR, "%s", text);
    sy__comm_end_job(comm, sy_status_exit_code(st));
}

/* ---- memory that stays ---- */

sy_status sy_comm_register(sy_comm *comm, void *ptr, int64_t bytes, bool *done)
{
    *done = false;
    return comm->ops->register_memory ? comm->ops->register_memory(comm, ptr, bytes, done) : SY_OK;
}

void sy_comm_deregister(sy_comm *comm, const void *ptr)
{
    if (comm->ops->register_memory) {
        comm->ops->deregister_memory(comm, ptr);
    }
}

/* ---- shorthands on host memory ---- */

sy_status sy_host_all_reduce(sy_comm *host, void *inout, int64_t n, sy_dtype dtype,
                             sy_reduce reduce, const char *what)
{
    sy_comm_args args = {.send = inout,
                         .recv = inout,
                         .n = n,
                         .dtype = dtype,
                         .reduce = reduce,
                         .what = what,
                         .layer = -1};
    return sy_all_reduce(host, &args);
}

sy_status sy_host_broadcast(sy_comm *host, void *data, int64_t bytes, int32_t root,
                            const char *what)
{
    sy_comm_args args = {
        .recv = data, .n = bytes, .row_bytes = 1, .root = root, .what = what, .layer = -1};
    return sy_broadcast(host, &args);
}

sy_status sy_host_all_gather(sy_comm *host, const void *send, void *recv, int64_t bytes,
                             const char *what)
{
    sy_comm_args args = {
        .send = send, .recv = recv, .n = bytes, .row_bytes = 1, .what = what, .layer = -1};
    return sy_all_gather(host, &args);
}

sy_status sy_host_barrier(sy_comm *host, const char *what)
{
    int32_t one = 1; /* nobody has the sum before everybody has come */
    return sy_host_all_reduce(host, &one, 1, SY_I32, SY_SUM, what);
}
