/* A communicator whose other ranks do not exist: collectives move nothing, and cost what a price
   list says. The buffers are those of a dry device, or small host arrays whose contents stay. */
#include <stdio.h>

#include "backend/prices.h"
#include "core/alloc.h"
#include "parallel/comm_impl.h"

typedef struct rehearsal {
    const sy_net *net; /* borrowed */
    int32_t stride;
} rehearsal;

/* The larger of what leaves and what arrives. */
static int64_t rows_of(const sy_comm *comm, const sy_comm_args *args, sy__collective which)
{
    int64_t sent = 0, received = 0;
    if (which == SY__ALL_REDUCE || which == SY__BROADCAST || which == SY__SEND_RECV) {
        return args->n;
    }
    if (args->h_n_send == NULL) {
        return args->n * comm->size;
    }
    for (int32_t p = 0; p < comm->size; p++) {
        sent += args->h_n_send[p];
        received += args->h_n_recv[p];
    }
    return sent > received ? sent : received;
}

static sy_status start(sy_comm *comm, const sy_comm_args *args, sy__collective which)
{
    const rehearsal *self = comm->self;
    const sy_traffic traffic = {.collective = sy__collective_name(which),
                                .what = args->what,
                                .size = comm->size,
                                .stride = self->stride,
                                .bytes = rows_of(comm, args, which) * sy__comm_unit_bytes(args),
                                .device = args->stream != NULL};
    const double seconds = self->net->seconds(self->net->self, &traffic);
    if (args->stream != NULL) {
        sy_stream_spend(args->stream, seconds);
    }
    sy__comm_done(comm);
    return SY_OK;
}

static sy_status rehearse_split(sy_comm *comm, int32_t color, int32_t key, sy_device *dev,
                                sy_comm **out)
{
    (void)color, (void)key, (void)dev, (void)out;
    return sy_error(SY_ERR_INTERNAL, "'%s' has no other ranks and cannot be split", comm->name);
}

static void rehearse_destroy(sy_comm *comm)
{
    sy_free(&comm->self);
}

static void rehearse_abort(sy_comm *comm, int32_t exit_code)
{
    (void)comm;
    sy__end_process(exit_code);
}

static const sy_comm_ops rehearse_ops = {
    .start = start, .split = rehearse_split, .destroy = rehearse_destroy, .abort = rehearse_abort};

static sy_status create(const char *name, const sy_net *net, sy_comm part, int32_t stride,
                        sy_comm **out)
{
    sy_status st = SY_OK;
    sy_comm *comm = NULL;
    rehearsal *self = NULL;
    SY_TRY(sy_alloc(1, sizeof *comm, (void **)&comm));
    SY_TRY(sy_alloc(1, sizeof *self, (void **)&self));
    *self = (rehearsal){.net = net, .stride = stride};
    *comm = part;
    comm->ops = &rehearse_ops;
    comm->self = self;
    snprintf(comm->name, sizeof comm->name, "%s", name);
    *out = comm;
    comm = NULL;
    self = NULL;
cleanup:
    sy_free(&self);
    sy_free(&comm);
    return st;
}

sy_status sy_comm_rehearse(int32_t size, int32_t rank, const sy_net *net, sy_comm **out)
{
    return create("world", net, (sy_comm){.rank = rank, .size = size}, 1, out);
}

bool sy_comm_rehearses(const sy_comm *comm)
{
    return comm->ops == &rehearse_ops;
}

sy_status sy_comm_rehearse_group(const sy_comm *world, int32_t size, int32_t stride, sy_device *dev,
                                 const char *name, sy_comm **out)
{
    const rehearsal *self = world->self;
    if (size == 1) {
        return sy__comm_self_create(name, dev, sy__end_process, out);
    }
    sy_comm part = {.dev = dev, .rank = world->rank / stride % size, .size = size};
    return create(name, self->net, part, stride, out);
}
