/* Rows between ranks: what dispatch plus combine do on the wire (counts to all, rows there, rows
   back), beside bare MPI_Alltoallv calls that move the same bytes between the same buffers. */
#include <stdio.h>
#include <stdlib.h>

#include "backend/backend.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "launch/bench_impl.h"
#include "parallel/agree.h"
#include "parallel/bench_mpi.h"

enum {
    DEFAULT_REPEATS = 9,
    EXPERTS = 8,      /* of a rank: counts that are exchanged */
    ROW_BYTES = 2048, /* H 512 in fp32 */
    MAX_BYTES = 1 << 30,
    SAMPLE_BYTES = 4 << 20 /* small messages are repeated within one measurement up to this */
};

typedef struct dispatch_bench {
    const sy__bench *bench;
    sy_device *dev;
    sy_stream *stream;
    sy_comm *comm; /* the world, over device memory */
    int32_t repeats;
    char *send, *recv;       /* [size * bytes] device memory */
    int32_t *count, *matrix; /* [EXPERTS], [size * EXPERTS] device memory */
    int32_t *h_matrix;       /* [size * EXPERTS] */
    int64_t *h_n;            /* [size] rows per peer */
    int *h_bytes, *h_displs; /* [size] the same in bytes, for MPI */
    json_t *rows;
} dispatch_bench;

static sy_status exchange_rows(dispatch_bench *b, const char *what)
{
    return sy_all_to_all(b->comm, &(sy_comm_args){.stream = b->stream,
                                                  .send = b->send,
                                                  .recv = b->recv,
                                                  .row_bytes = ROW_BYTES,
                                                  .h_n_send = b->h_n,
                                                  .h_n_recv = b->h_n,
                                                  .what = what});
}

/* As moe/exchange does it: every rank learns all counts and waits for them, then the rows travel.
 */
static sy_status ours(dispatch_bench *b)
{
    sy_status st = SY_OK;
    SY_TRY(sy_all_gather(b->comm, &(sy_comm_args){.stream = b->stream,
                                                  .send = b->count,
                                                  .recv = b->matrix,
                                                  .n = EXPERTS,
                                                  .dtype = SY_I32,
                                                  .what = "bench counts"}));
    SY_TRY(sy_copy_d2h(b->stream, b->h_matrix, b->matrix,
                       b->comm->size * EXPERTS * (int64_t)sizeof(int32_t)));
    SY_TRY(sy_stream_sync(b->stream));
    SY_TRY(exchange_rows(b, "bench dispatch"));
    SY_TRY(exchange_rows(b, "bench combine"));
    SY_TRY(sy_stream_sync(b->stream));
cleanup:
    return st;
}

static sy_status bare(dispatch_bench *b)
{
    sy_status st = SY_OK;
    SY_TRY(sy_bench_mpi_alltoallv(b->send, b->recv, b->h_bytes, b->h_displs));
    SY_TRY(sy_bench_mpi_alltoallv(b->send, b->recv, b->h_bytes, b->h_displs));
cleanup:
    return st;
}

/* Seconds of one round on the slowest rank. */
static sy_status timed(dispatch_bench *b, sy_status (*round)(dispatch_bench *b), int64_t n_rounds,
                       double *out)
{
    sy_status st = SY_OK;
    sy_comm *world = b->bench->env->world;
    SY_TRY(sy_host_barrier(world, "bench dispatch"));
    double start = sy_clock_s();
    for (int64_t i = 0; i < n_rounds; i++) {
        SY_TRY(round(b));
    }
    *out = (sy_clock_s() - start) / (double)n_rounds;
    SY_TRY(sy_host_all_reduce(world, out, 1, SY_F64, SY_MAX, "bench dispatch"));
cleanup:
    return st;
}

static void set_sizes(dispatch_bench *b, int64_t bytes)
{
    for (int32_t p = 0; p < b->comm->size; p++) {
        b->h_n[p] = bytes / ROW_BYTES;
        b->h_bytes[p] = (int)bytes;
        b->h_displs[p] = (int)(p * bytes);
    }
}

/* One size, both ways in turn, each the first one in every other turn. */
static sy_status measure(dispatch_bench *b, int64_t bytes)
{
    sy_status st = SY_OK;
    double t_ours[SY__MAX_REPEATS], t_bare[SY__MAX_REPEATS];
    int64_t n = SAMPLE_BYTES / bytes + 1;
    double moved = 2 * (double)bytes * (b->comm->size - 1);
    set_sizes(b, bytes);
    SY_TRY(ours(b));
    SY_TRY(bare(b));
    for (int32_t i = 0; i < b->repeats; i++) {
        if (i % 2 == 0) {
            SY_TRY(timed(b, ours, n, &t_ours[i]));
            SY_TRY(timed(b, bare, n, &t_bare[i]));
        } else {
            SY_TRY(timed(b, bare, n, &t_bare[i]));
            SY_TRY(timed(b, ours, n, &t_ours[i]));
        }
    }
    double m_ours = sy__median(t_ours, b->repeats), m_bare = sy__median(t_bare, b->repeats);
    json_array_append_new(b->rows,
                          json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "bytes_per_pair",
                                    (json_int_t)bytes, "rows", (json_int_t)(bytes / ROW_BYTES),
                                    "us", m_ours * 1e6, "bare_us", m_bare * 1e6, "gb_per_s",
                                    moved / m_ours / 1e9, "bare_gb_per_s", moved / m_bare / 1e9,
                                    "percent_of_bare", 100 * m_bare / m_ours));
cleanup:
    return st;
}

static sy_status allocate(dispatch_bench *b, int64_t max_bytes)
{
    sy_status st = SY_OK;
    int64_t size = b->bench->env->world->size, n_matrix = size * EXPERTS;
    sy_device_spec spec = {.backend = "cpu", .threads = b->bench->threads};
    SY_TRY(sy_device_open(&spec, &b->dev));
    SY_TRY(sy_stream_create(b->dev, "bench", &b->stream));
    SY_TRY(sy_device_alloc(b->dev, size * max_bytes, SY_MEM_EXCHANGE, (void **)&b->send));
    SY_TRY(sy_device_alloc(b->dev, size * max_bytes, SY_MEM_EXCHANGE, (void **)&b->recv));
    SY_TRY(sy_device_alloc(b->dev, EXPERTS * (int64_t)sizeof *b->count, SY_MEM_EXCHANGE,
                           (void **)&b->count));
    SY_TRY(sy_device_alloc(b->dev, n_matrix * (int64_t)sizeof *b->matrix, SY_MEM_EXCHANGE,
                           (void **)&b->matrix));
    SY_TRY(sy_alloc(n_matrix, sizeof *b->h_matrix, (void **)&b->h_matrix));
    SY_TRY(sy_alloc(size, sizeof *b->h_n, (void **)&b->h_n));
    SY_TRY(sy_alloc(size, sizeof *b->h_bytes, (void **)&b->h_bytes));
    SY_TRY(sy_alloc(size, sizeof *b->h_displs, (void **)&b->h_displs));
    SY_TRY(sy_zero(b->stream, b->send, size * max_bytes)); /* touched before they are timed */
    SY_TRY(sy_zero(b->stream, b->recv, size * max_bytes));
    SY_TRY(sy_stream_sync(b->stream));
cleanup:
    return st;
}

static void release(dispatch_bench *b)
{
    sy_free(&b->h_displs);
    sy_free(&b->h_bytes);
    sy_free(&b->h_n);
    sy_free(&b->h_matrix);
    if (b->dev != NULL) {
        sy_device_free(b->dev, &b->matrix);
        sy_device_free(b->dev, &b->count);
        sy_device_free(b->dev, &b->recv);
        sy_device_free(b->dev, &b->send);
    }
    sy_comm_destroy(&b->comm);
    sy_stream_destroy(&b->stream);
    sy_device_close(&b->dev);
    json_decref(b->rows);
}

static sy_status print(const dispatch_bench *b)
{
    static const sy__column columns[] = {{"bytes_per_pair", "bytes per pair", 0},
                                         {"rows", "rows", 0},
                                         {"us", "us", 1},
                                         {"bare_us", "bare us", 1},
                                         {"gb_per_s", "GB/s", 2},
                                         {"bare_gb_per_s", "bare GB/s", 2},
                                         {"percent_of_bare", "% of bare", 1},
                                         {0}};
    sy_status st = SY_OK;
    json_t *all = NULL;
    if (b->bench->json) {
        all = json_pack("{s:s, s:i, s:i, s:i, s:O}", "bench", "dispatch", "ranks", b->comm->size,
                        "row_bytes", ROW_BYTES, "repeats", b->repeats, "sizes", b->rows);
        SY_TRY(sy__print_json(all));
    } else {
        printf("dispatch plus combine without permutation, %d ranks, rows of %d bytes, median of "
               "%d; bare: two MPI_Alltoallv of the same bytes\n",
               b->comm->size, ROW_BYTES, b->repeats);
        SY_TRY(sy__print_table(columns, b->rows));
    }
cleanup:
    json_decref(all);
    return st;
}

/* Sizes asked for, or powers of four from 4 kB to 16 MB; whole rows. */
static sy_status list_sizes(const sy__bench *bench, int64_t *size, int32_t max, int32_t *n)
{
    sy_status st = SY_OK;
    const char *const *texts = sy_cli_list(bench->cli, "bytes", n);
    if (*n == 0) {
        for (int64_t bytes = 4 << 10; bytes <= 16 << 20; bytes *= 4) {
            size[(*n)++] = bytes;
        }
        return SY_OK;
    }
    SY_REQUIRE(*n <= max, SY_ERR_USAGE, "--bytes: at most %d sizes", max);
    for (int32_t i = 0; i < *n; i++) {
        char *end = NULL;
        size[i] = strtoll(texts[i], &end, 10);
        SY_REQUIRE(end != texts[i] && *end == '\0' && size[i] >= ROW_BYTES &&
                       size[i] * bench->env->world->size <= MAX_BYTES && size[i] % ROW_BYTES == 0,
                   SY_ERR_USAGE, "--bytes: '%s' is not a multiple of %d up to %d for all ranks",
                   texts[i], ROW_BYTES, MAX_BYTES);
    }
cleanup:
    return st;
}

sy_status sy__bench_dispatch(const sy__bench *bench)
{
    enum { MAX_SIZES = 32 };
    sy_status st = SY_OK;
    sy_comm *world = bench->env->world;
    int64_t size[MAX_SIZES], most = 0;
    int32_t n = 0;
    dispatch_bench b = {.bench = bench,
                        .repeats = bench->repeats > 0 ? bench->repeats : DEFAULT_REPEATS,
                        .rows = json_array()};
    SY_REQUIRE(world->size > 1, SY_ERR_USAGE,
               "bench dispatch needs at least two ranks: mpirun -n 2 switchyard bench dispatch");
    SY_TRY(list_sizes(bench, size, MAX_SIZES, &n));
    for (int32_t i = 0; i < n; i++) {
        most = size[i] > most ? size[i] : most;
    }
    SY_TRY(sy_agree(world, allocate(&b, most)));
    SY_TRY(sy_comm_split(world, 0, world->rank, b.dev, "bench", &b.comm));
    for (int32_t i = 0; i < n; i++) {
        SY_TRY(measure(&b, size[i]));
    }
    if (world->rank == 0) {
        SY_TRY(print(&b));
    }
cleanup:
    release(&b);
    return st;
}
