/* Collectives of all ranks over sizes, as seconds on the slowest rank. */
#include <stdio.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "launch/bench_machine_impl.h"
#include "parallel/agree.h"

enum { MOST_BYTES = 64 << 20, LEAST_BYTES = 256, GROWTH = 4, SAMPLE_BYTES = 8 << 20, REPEATS = 5 };

typedef struct comm_bench {
    const sy__bench *bench;
    sy_device *dev;
    sy_stream *stream;
    sy_comm *comm; /* the world, over device memory */
    char *send, *recv;
} comm_bench;

/* bytes: of the array, as sy_traffic counts them. */
static sy_status call(comm_bench *b, int32_t which, int64_t bytes)
{
    const int64_t size = b->comm->size, n = bytes / 4 / size;
    sy_comm_args args = {.stream = b->stream,
                         .send = b->send,
                         .recv = b->recv,
                         .n = n,
                         .dtype = SY_F32,
                         .what = "bench machine",
                         .layer = -1};
    switch (which) {
    case SY_CURVE_ALL_REDUCE: /* in place, as gradients are */
        args.n = bytes / 4;
        args.recv = b->send;
        return sy_all_reduce(b->comm, &args);
    case SY_CURVE_REDUCE_SCATTER:
        args.recv = b->send + b->comm->rank * n * 4;
        return sy_reduce_scatter(b->comm, &args);
    case SY_CURVE_ALL_GATHER:
        args.send = b->recv + b->comm->rank * n * 4;
        return sy_all_gather(b->comm, &args);
    default:
        args.row_bytes = 4;
        return sy_all_to_all(b->comm, &args);
    }
}

static sy_status measure(comm_bench *b, int32_t which, int64_t bytes, double *out)
{
    sy_status st = SY_OK;
    sy_comm *world = b->bench->env->world;
    double t[REPEATS];
    const int64_t n = SAMPLE_BYTES / bytes < 1     ? 1
                      : SAMPLE_BYTES / bytes > 200 ? 200
                                                   : SAMPLE_BYTES / bytes;
    SY_TRY(call(b, which, bytes));
    for (int32_t i = 0; i < REPEATS; i++) {
        SY_TRY(sy_host_barrier(world, "bench machine"));
        const double from = sy_clock_s();
        for (int64_t k = 0; k < n; k++) {
            SY_TRY(call(b, which, bytes));
        }
        SY_TRY(sy_stream_sync(b->stream));
        t[i] = (sy_clock_s() - from) / (double)n;
        SY_TRY(sy_host_all_reduce(world, &t[i], 1, SY_F64, SY_MAX, "bench machine"));
    }
    *out = sy__median(t, REPEATS);
cleanup:
    return st;
}

static sy_status open(comm_bench *b)
{
    sy_status st = SY_OK;
    sy_device_spec spec = {.backend = "cpu", .threads = b->bench->threads};
    SY_TRY(sy_device_open(&spec, &b->dev));
    SY_TRY(sy_stream_create(b->dev, "bench", &b->stream));
    SY_TRY(sy_device_alloc(b->dev, MOST_BYTES, SY_MEM_OTHER, (void **)&b->send));
    SY_TRY(sy_device_alloc(b->dev, MOST_BYTES, SY_MEM_OTHER, (void **)&b->recv));
    SY_TRY(sy_zero(b->stream, b->send, MOST_BYTES));
    SY_TRY(sy_zero(b->stream, b->recv, MOST_BYTES));
cleanup:
    return st;
}

static void close_all(comm_bench *b)
{
    sy_comm_destroy(&b->comm);
    if (b->dev != NULL) {
        sy_device_free(b->dev, &b->recv);
        sy_device_free(b->dev, &b->send);
    }
    sy_stream_destroy(&b->stream);
    sy_device_close(&b->dev);
}

sy_status sy__bench_collectives(const sy__bench *bench, sy_machine *machine)
{
    sy_status st = SY_OK;
    sy_comm *world = bench->env->world;
    comm_bench b = {.bench = bench};
    SY_TRY(sy_agree(world, open(&b)));
    SY_TRY(sy_comm_split(world, 0, world->rank, b.dev, "bench", &b.comm));
    for (int32_t which = 0; which < SY_N_CURVES; which++) {
        sy_curve *c = &machine->curve[which];
        for (int64_t unit = LEAST_BYTES; unit <= MOST_BYTES; unit *= GROWTH) {
            const int64_t bytes = unit / (4 * world->size) * (4 * world->size);
            if (bytes > 0) {
                c->bytes[c->n] = (double)bytes;
                SY_TRY(measure(&b, which, bytes, &c->seconds[c->n++]));
            }
        }
    }
cleanup:
    close_all(&b);
    return st;
}
