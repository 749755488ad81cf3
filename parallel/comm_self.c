/* A communicator of one rank: every collective is at most a copy, so that no caller asks how many
   ranks there are. */
#include "parallel/comm_impl.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"

typedef struct self_comm {
    sy__end_job *end;
} self_comm;

typedef struct copy_call {
    void *dst;
    const void *src;
    size_t bytes;
} copy_call;

static sy_status run_copy(sy_stream *stream, const void *args)
{
    const copy_call *c = args;
    const sy_device *dev = sy_stream_device(stream);
    memmove(sy_device_host_view(dev, c->dst), sy_device_host_view(dev, c->src), c->bytes);
    return SY_OK;
}

static sy_status copy(sy_comm *comm, const sy_comm_args *args, int64_t n)
{
    sy_status st = SY_OK;
    int64_t bytes = n * sy__comm_unit_bytes(args);
    if (bytes > 0 && args->recv != args->send) {
        copy_call call = {args->recv, args->send, (size_t)bytes};
        if (!args->stream) {
            memmove(call.dst, call.src, call.bytes);
        } else if (comm->dev) {
            SY_TRY(sy_copy_d2d(args->stream, args->recv, args->send, bytes));
        } else {
            SY_TRY(sy_stream_call(args->stream, run_copy, &call, sizeof call));
        }
    }
    sy__comm_begun(comm);
    sy__comm_done(comm);
cleanup:
    return st;
}

/* The root of a broadcast has it already. */
static sy_status start(sy_comm *comm, const sy_comm_args *args, sy__collective which)
{
    sy_status st = SY_OK;
    int64_t n = args->n;
    if (which == SY__BROADCAST || (which == SY__SEND_RECV && args->root != 0)) {
        n = 0;
    }
    if (which == SY__ALL_TO_ALL && args->h_n_send != NULL) {
        n = args->h_n_send[0];
        SY_REQUIRE(args->h_n_recv[0] == n, SY_ERR_INTERNAL,
                   "'%s': the one rank of '%s' sends %lld rows to itself but expects %lld",
                   args->what, comm->name, (long long)n, (long long)args->h_n_recv[0]);
    }
    SY_TRY(copy(comm, args, n));
cleanup:
    return st;
}

static sy_status self_split(sy_comm *comm, int32_t color, int32_t key, sy_device *dev,
                            sy_comm **out)
{
    (void)key;
    const self_comm *self = comm->self;
    if (color < 0) {
        *out = NULL;
        return SY_OK;
    }
    return sy__comm_self_create(comm->name, dev, self->end, out);
}

static void self_destroy(sy_comm *comm)
{
    sy_free(&comm->self);
}

static void self_abort(sy_comm *comm, int32_t exit_code)
{
    const self_comm *self = comm->self;
    self->end(exit_code);
}

static const sy_comm_ops self_ops = {
    .start = start, .split = self_split, .destroy = self_destroy, .abort = self_abort};

sy_status sy__comm_self_create(const char *name, sy_device *dev, sy__end_job *end, sy_comm **out)
{
    sy_status st = SY_OK;
    sy_comm *comm = NULL;
    self_comm *self = NULL;
    SY_TRY(sy_alloc(1, sizeof *comm, (void **)&comm));
    SY_TRY(sy_alloc(1, sizeof *self, (void **)&self));
    self->end = end;
    *comm = (sy_comm){.ops = &self_ops, .dev = dev, .rank = 0, .size = 1, .self = self};
    snprintf(comm->name, sizeof comm->name, "%s", name);
    *out = comm;
    comm = NULL;
    self = NULL;
cleanup:
    sy_free(&self);
    sy_free(&comm);
    return st;
}
