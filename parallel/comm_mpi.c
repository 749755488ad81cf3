/* Collectives over MPI, for host memory and devices whose memory the host can see. On a stream a
   collective is a call in the stream's order: it starts when its operands are ready, and the
   arguments travel by copy. One MPI communicator per sy_comm, so that no message meets another's.

   Counts. MPI counts in int, so rows are a datatype of their own and n a number of rows. Datatypes,
   counts and displacements are kept with the communicator: a warm call allocates nothing here.

   Bits. A sum of floats depends on its order, so an all-reduce may give every rank the same bits
   only if the order of one element's additions is the same tree for all. Open MPI's algorithms keep
   to that: recursive doubling adds the same pairs on both sides (a + b and b + a are the same
   bits), the ring and Rabenseifner's compute an element on one rank and then spread it. Which is
   taken depends on count and size alone, so a repeated run repeats its bits. */
#include "parallel/comm_impl.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"

enum { SCRATCH_BYTES = 1 << 20, REDUCE_MAX = 1 << 30, ROW_TYPES = 32 };

typedef struct row_type {
    int64_t bytes;
    MPI_Datatype type;
} row_type;

typedef struct mpi_comm {
    MPI_Comm comm;
    MPI_Op max, min; /* of floats; a NaN wins */
    int *counts;     /* [4 * size] send counts and displacements, then those of receiving */
    row_type row_types[ROW_TYPES]; /* of the row sizes seen last */
    int64_t n_row_types;           /* made so far */
    void *scratch;                 /* SCRATCH_BYTES, from the first reduce-scatter on */
} mpi_comm;

typedef struct mpi_call {
    sy_comm *comm;
    sy_comm_args args;
    sy__collective which;
} mpi_call;

static sy_status mpi_try(const mpi_call *c, int rc)
{
    char reason[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (rc == MPI_SUCCESS) {
        return SY_OK;
    }
    MPI_Error_string(rc, reason, &length);
    return sy__comm_fail(c->comm, &c->args, c->which, reason);
}

/* ---- reductions of floats ---- */

/* MPI_MAX compares, and what a comparison makes of a NaN or of two zeros depends on which side it
   stands: ranks would end with different values. Here NaN beats all and +0 is above -0. */
#define FLOAT_REDUCTION(name, T, wins)                                                             \
    static void name(const T *in, T *inout, int n)                                                 \
    {                                                                                              \
        for (int i = 0; i < n; i++) {                                                              \
            T a = in[i], b = inout[i];                                                             \
            bool a_wins = a == b ? (signbit(a) != 0) != (1 wins 0) : a wins b;                     \
            inout[i] = isnan(b) || (!isnan(a) && !a_wins) ? b : a;                                 \
        }                                                                                          \
    }
FLOAT_REDUCTION(max_f32, float, >)
FLOAT_REDUCTION(max_f64, double, >)
FLOAT_REDUCTION(min_f32, float, <)
FLOAT_REDUCTION(min_f64, double, <)
#undef FLOAT_REDUCTION

static void max_op(void *in, void *inout, int *n, MPI_Datatype *type)
{
    if (*type == MPI_FLOAT) {
        max_f32(in, inout, *n);
    } else {
        max_f64(in, inout, *n);
    }
}

static void min_op(void *in, void *inout, int *n, MPI_Datatype *type)
{
    if (*type == MPI_FLOAT) {
        min_f32(in, inout, *n);
    } else {
        min_f64(in, inout, *n);
    }
}

static MPI_Op reduction(const mpi_comm *self, const sy_comm_args *a)
{
    if (a->reduce == SY_SUM) {
        return MPI_SUM;
    }
    if (sy_dtype_is_float(a->dtype)) {
        return a->reduce == SY_MAX ? self->max : self->min;
    }
    return a->reduce == SY_MAX ? MPI_MAX : MPI_MIN;
}

static MPI_Datatype element_type(sy_dtype dtype)
{
    switch (dtype) {
    case SY_F32:
        return MPI_FLOAT;
    case SY_F64:
        return MPI_DOUBLE;
    case SY_I32:
        return MPI_INT32_T;
    case SY_I64:
        return MPI_INT64_T;
    default:
        return MPI_UINT8_T;
    }
}

/* ---- rows ---- */

static int32_t n_row_types(const mpi_comm *self)
{
    return self->n_row_types < ROW_TYPES ? (int32_t)self->n_row_types : ROW_TYPES;
}

/* Allocates nothing of ours: a rank that failed here would leave the others waiting. */
static sy_status row_type_of(const mpi_call *c, MPI_Datatype *out)
{
    sy_status st = SY_OK;
    mpi_comm *self = c->comm->self;
    const int64_t bytes = sy__comm_unit_bytes(&c->args);
    MPI_Datatype type = MPI_DATATYPE_NULL;
    int32_t count = 0;
    for (int32_t i = 0; i < n_row_types(self); i++) {
        if (self->row_types[i].bytes == bytes) {
            *out = self->row_types[i].type;
            return SY_OK;
        }
    }
    SY_TRY(sy_i32_from_i64(bytes, &count));
    SY_TRY(mpi_try(c, MPI_Type_contiguous(count, MPI_BYTE, &type)));
    SY_TRY(mpi_try(c, MPI_Type_commit(&type)));
    row_type *place = &self->row_types[self->n_row_types % ROW_TYPES];
    if (self->n_row_types++ >= ROW_TYPES) {
        MPI_Type_free(&place->type); /* the oldest goes */
    }
    *place = (row_type){bytes, type};
    *out = type;
cleanup:
    return st;
}

/* Block p starts where block p - 1 ends. */
static sy_status fill_counts(int32_t size, const int64_t *h_n, int *counts, int *displs)
{
    sy_status st = SY_OK;
    int64_t start = 0;
    for (int32_t p = 0; p < size; p++) {
        SY_REQUIRE(h_n[p] >= 0, SY_ERR_INTERNAL, "a count of rows is negative");
        SY_TRY(sy_i32_from_i64(h_n[p], &counts[p]));
        SY_TRY(sy_i32_from_i64(start, &displs[p]));
        start += h_n[p];
    }
cleanup:
    return st;
}

/* ---- the six; all pointers can be read and written here ---- */

static sy_status run_all_reduce(const mpi_call *c)
{
    sy_status st = SY_OK;
    mpi_comm *self = c->comm->self;
    const sy_comm_args *a = &c->args;
    const int64_t bytes = (int64_t)sy_dtype_bytes(a->dtype);
    const bool in_place = a->send == a->recv;
    for (int64_t done = 0; done < a->n; done += REDUCE_MAX) {
        int n = (int)(a->n - done < REDUCE_MAX ? a->n - done : REDUCE_MAX);
        const void *send = in_place ? MPI_IN_PLACE : (const char *)a->send + done * bytes;
        SY_TRY(mpi_try(c, MPI_Allreduce(send, (char *)a->recv + done * bytes, n,
                                        element_type(a->dtype), reduction(self, a), self->comm)));
    }
cleanup:
    return st;
}

/* Chunk by chunk, peer by peer: the block's owner adds what rank - 1, rank - 2, ... send it. MPI's
   own would not let recv lie inside send, and takes memory for the whole of it. */
static sy_status reduce_block(const mpi_call *c, int64_t first, int n)
{
    sy_status st = SY_OK;
    mpi_comm *self = c->comm->self;
    const sy_comm_args *a = &c->args;
    const int32_t rank = c->comm->rank, size = c->comm->size;
    const int64_t bytes = (int64_t)sy_dtype_bytes(a->dtype);
    const MPI_Datatype type = element_type(a->dtype);
    for (int32_t step = 1; step < size; step++) {
        int32_t to = (rank + step) % size, from = (rank - step + size) % size;
        const char *send = (const char *)a->send + (to * a->n + first) * bytes;
        char *sum = (char *)a->recv + first * bytes;
        SY_TRY(mpi_try(c, MPI_Sendrecv(send, n, type, to, 0, self->scratch, n, type, from, 0,
                                       self->comm, MPI_STATUS_IGNORE)));
        SY_TRY(mpi_try(c, MPI_Reduce_local(self->scratch, sum, n, type, reduction(self, a))));
    }
cleanup:
    return st;
}

static sy_status run_reduce_scatter(const mpi_call *c)
{
    sy_status st = SY_OK;
    mpi_comm *self = c->comm->self;
    const sy_comm_args *a = &c->args;
    const int64_t bytes = (int64_t)sy_dtype_bytes(a->dtype), chunk = SCRATCH_BYTES / bytes;
    const char *own = (const char *)a->send + c->comm->rank * a->n * bytes;
    if (!self->scratch) {
        SY_TRY(sy_alloc(SCRATCH_BYTES, 1, &self->scratch));
    }
    if (a->n > 0 && own != a->recv) {
        memcpy(a->recv, own, (size_t)(a->n * bytes));
    }
    for (int64_t first = 0; first < a->n; first += chunk) {
        SY_TRY(reduce_block(c, first, (int)(a->n - first < chunk ? a->n - first : chunk)));
    }
cleanup:
    return st;
}

static sy_status run_all_gather(const mpi_call *c)
{
    sy_status st = SY_OK;
    mpi_comm *self = c->comm->self;
    const sy_comm_args *a = &c->args;
    MPI_Datatype type;
    int32_t n = 0;
    SY_TRY(row_type_of(c, &type));
    SY_TRY(sy_i32_from_i64(a->n, &n));
    const char *own = (char *)a->recv + c->comm->rank * a->n * sy__comm_unit_bytes(a);
    const void *send = own == a->send ? MPI_IN_PLACE : a->send;
    SY_TRY(mpi_try(c, MPI_Allgather(send, n, type, a->recv, n, type, self->comm)));
cleanup:
    return st;
}

static sy_status run_broadcast(const mpi_call *c)
{
    sy_status st = SY_OK;
    mpi_comm *self = c->comm->self;
    MPI_Datatype type;
    int32_t n = 0;
    SY_TRY(row_type_of(c, &type));
    SY_TRY(sy_i32_from_i64(c->args.n, &n));
    SY_TRY(mpi_try(c, MPI_Bcast(c->args.recv, n, type, c->args.root, self->comm)));
cleanup:
    return st;
}

static sy_status run_all_to_all(const mpi_call *c)
{
    sy_status st = SY_OK;
    mpi_comm *self = c->comm->self;
    const sy_comm_args *a = &c->args;
    const int32_t size = c->comm->size;
    MPI_Datatype type;
    SY_TRY(row_type_of(c, &type));
    if (a->h_n_send) {
        int *n_send = self->counts, *at_send = n_send + size;
        int *n_recv = at_send + size, *at_recv = n_recv + size;
        SY_TRY(fill_counts(size, a->h_n_send, n_send, at_send));
        SY_TRY(fill_counts(size, a->h_n_recv, n_recv, at_recv));
        SY_TRY(mpi_try(c, MPI_Alltoallv(a->send, n_send, at_send, type, a->recv, n_recv, at_recv,
                                        type, self->comm)));
    } else {
        int32_t n = 0;
        SY_TRY(sy_i32_from_i64(a->n, &n));
        SY_TRY(mpi_try(c, MPI_Alltoall(a->send, n, type, a->recv, n, type, self->comm)));
    }
cleanup:
    return st;
}

static sy_status run_send_recv(const mpi_call *c)
{
    sy_status st = SY_OK;
    mpi_comm *self = c->comm->self;
    const sy_comm_args *a = &c->args;
    const int to = a->root < 0 ? MPI_PROC_NULL : a->root;
    const int from = a->source < 0 ? MPI_PROC_NULL : a->source;
    MPI_Datatype type;
    int32_t n = 0;
    SY_TRY(row_type_of(c, &type));
    SY_TRY(sy_i32_from_i64(a->n, &n));
    SY_TRY(mpi_try(c, MPI_Sendrecv(a->send, n, type, to, 0, a->recv, n, type, from, 0, self->comm,
                                   MPI_STATUS_IGNORE)));
cleanup:
    return st;
}

/* ---- on a stream, or now ---- */

static sy_status run_call(sy_stream *stream, const void *args)
{
    static sy_status (*const run[SY__N_COLLECTIVES])(const mpi_call *) = {
        [SY__ALL_REDUCE] = run_all_reduce, [SY__REDUCE_SCATTER] = run_reduce_scatter,
        [SY__ALL_GATHER] = run_all_gather, [SY__BROADCAST] = run_broadcast,
        [SY__ALL_TO_ALL] = run_all_to_all, [SY__SEND_RECV] = run_send_recv};
    mpi_call c = *(const mpi_call *)args;
    if (stream) {
        const sy_device *dev = sy_stream_device(stream);
        c.args.send = sy_device_host_view(dev, c.args.send);
        c.args.recv = sy_device_host_view(dev, c.args.recv);
    }
    sy__comm_begun(c.comm);
    const sy_status st = run[c.which](&c);
    if (st != SY_OK) {
        sy_comm_abort(c.comm,
                      st); /* the others are in it, or will be: nothing can be agreed upon */
    }
    sy__comm_done(c.comm);
    return st;
}

static int64_t total(const int64_t *h_n, int32_t size, int64_t n_each)
{
    int64_t n = h_n ? 0 : size * n_each;
    for (int32_t p = 0; p < size && h_n; p++) {
        n += h_n[p];
    }
    return n;
}

/* Tell the device what memory the call will touch: it cannot see into the arguments. */
static sy_status announce(const mpi_call *c)
{
    sy_status st = SY_OK;
    const sy_comm_args *a = &c->args;
    const int32_t size = c->comm->size;
    const int64_t unit = sy__comm_unit_bytes(a);
    int64_t n_read = a->n, n_written = a->n;
    switch (c->which) {
    case SY__REDUCE_SCATTER:
        n_read = size * a->n;
        break;
    case SY__ALL_GATHER:
        n_written = size * a->n;
        break;
    case SY__BROADCAST:
        n_read = 0;
        break;
    case SY__ALL_TO_ALL:
        n_read = total(a->h_n_send, size, a->n);
        n_written = total(a->h_n_recv, size, a->n);
        break;
    case SY__SEND_RECV:
        n_read = a->root < 0 ? 0 : a->n;
        n_written = a->source < 0 ? 0 : a->n;
        break;
    default:
        break;
    }
    SY_TRY(sy_stream_announce(a->stream, a->send, n_read * unit, false));
    SY_TRY(sy_stream_announce(a->stream, a->recv, n_written * unit, true));
cleanup:
    return st;
}

static sy_status start(sy_comm *comm, const sy_comm_args *args, sy__collective which)
{
    _Static_assert(sizeof(mpi_call) <= SY_CALL_BYTES, "a call travels by copy");
    sy_status st = SY_OK;
    mpi_call call = {comm, *args, which};
    if (!args->stream) {
        SY_TRY(run_call(NULL, &call));
        goto cleanup;
    }
    if (comm->dev) {
        SY_TRY(announce(&call));
    }
    SY_TRY(sy_stream_call(args->stream, run_call, &call, sizeof call));
cleanup:
    return st;
}

/* ---- life ---- */

/* For what is not a collective of a communicator. */
static sy_status setup_try(int rc, const char *doing)
{
    char reason[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (rc == MPI_SUCCESS) {
        return SY_OK;
    }
    MPI_Error_string(rc, reason, &length);
    return sy_error(SY_ERR_COMM, "MPI could not %s: %s", doing, reason);
}

static void end_job(int32_t exit_code)
{
    MPI_Abort(MPI_COMM_WORLD, exit_code);
}

static void mpi_abort(sy_comm *comm, int32_t exit_code)
{
    (void)comm;
    end_job(exit_code);
}

static void mpi_destroy(sy_comm *comm)
{
    mpi_comm *self = comm->self;
    for (int32_t i = 0; i < n_row_types(self); i++) {
        MPI_Type_free(&self->row_types[i].type);
    }
    MPI_Op_free(&self->min);
    MPI_Op_free(&self->max);
    MPI_Comm_free(&self->comm);
    sy_free(&self->scratch);
    sy_free(&self->counts);
    sy_free(&comm->self);
}

static sy_status mpi_split(sy_comm *comm, int32_t color, int32_t key, sy_device *dev,
                           sy_comm **out);

static const sy_comm_ops mpi_ops = {
    .start = start, .split = mpi_split, .destroy = mpi_destroy, .abort = mpi_abort};

/* Takes the handle: it is freed with the communicator, and at once where one rank needs none. */
static sy_status adopt(MPI_Comm handle, const char *name, sy_device *dev, sy_comm **out)
{
    sy_status st = SY_OK;
    sy_comm *comm = NULL;
    mpi_comm *self = NULL;
    int rank = 0, size = 1;
    SY_TRY(setup_try(MPI_Comm_set_errhandler(handle, MPI_ERRORS_RETURN), "set its error handler"));
    SY_TRY(setup_try(MPI_Comm_rank(handle, &rank), "tell the rank"));
    SY_TRY(setup_try(MPI_Comm_size(handle, &size), "tell the size"));
    if (size == 1) {
        SY_TRY(sy__comm_self_create(name, dev, end_job, out));
        goto cleanup;
    }
    SY_TRY(sy_alloc(1, sizeof *comm, (void **)&comm));
    SY_TRY(sy_alloc(1, sizeof *self, (void **)&self));
    SY_TRY(sy_alloc(4 * (int64_t)size, sizeof *self->counts, (void **)&self->counts));
    SY_TRY(setup_try(MPI_Op_create(max_op, 1, &self->max), "create a reduction"));
    SY_TRY(setup_try(MPI_Op_create(min_op, 1, &self->min), "create a reduction"));
    self->comm = handle;
    handle = MPI_COMM_NULL;
    *comm = (sy_comm){.ops = &mpi_ops, .dev = dev, .rank = rank, .size = size, .self = self};
    snprintf(comm->name, sizeof comm->name, "%s", name);
    *out = comm;
    comm = NULL;
    self = NULL;
cleanup:
    if (self) {
        sy_free(&self->counts);
    }
    sy_free(&self);
    sy_free(&comm);
    if (handle != MPI_COMM_NULL) {
        MPI_Comm_free(&handle);
    }
    return st;
}

static sy_status mpi_split(sy_comm *comm, int32_t color, int32_t key, sy_device *dev, sy_comm **out)
{
    sy_status st = SY_OK;
    const mpi_comm *self = comm->self;
    MPI_Comm part = MPI_COMM_NULL;
    sy_comm *made = NULL;
    SY_TRY(setup_try(MPI_Comm_split(self->comm, color < 0 ? MPI_UNDEFINED : color, key, &part),
                     "split a communicator"));
    *out = NULL;
    if (part != MPI_COMM_NULL) {
        const bool apart = sy__comm_device_is_apart(dev);
        SY_TRY(adopt(part, comm->name, apart ? NULL : dev, &made));
        made->timeout_s = comm->timeout_s;
        if (apart && made->size > 1) {
            SY_TRY(sy__comm_device_create(&made, dev, out));
            goto cleanup;
        }
        made->dev = dev;
        *out = made;
        made = NULL;
    }
cleanup:
    sy_comm_destroy(&made);
    return st;
}

sy_status sy__comm_mpi_world(sy_comm **out)
{
    sy_status st = SY_OK;
    MPI_Comm world = MPI_COMM_NULL;
    SY_TRY(setup_try(MPI_Comm_dup(MPI_COMM_WORLD, &world), "copy the world's communicator"));
    SY_TRY(adopt(world, "world", NULL, out));
cleanup:
    return st;
}
