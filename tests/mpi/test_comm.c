/* Every collective, on device memory and on a stream. A payload says where it comes from (rank,
   place), so that what arrives can be compared exactly. */
#include "tests/support/mpi_assert.h"

#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "tests/support/test_device.h"

enum { MAX_RANKS = 8 };

/* A stream, a communicator of its memory, and a buffer on each side. */
typedef struct rig {
    sy_device *dev;
    sy_stream *stream;
    sy_comm *comm;
    void *send, *recv;     /* device */
    void *h_send, *h_recv; /* host */
    int64_t bytes;         /* of each */
} rig;

static int setup(void **state)
{
    static rig r;
    r = (rig){.bytes = 8 << 20};
    sy_comm *world = mpi_test_world();
    const sy_device_spec spec = {.backend = test_backend(), .threads = 1, .shareable = true};
    assert_all_ok(sy_device_open(&spec, &r.dev));
    assert_all_ok(sy_stream_create(r.dev, "comm", &r.stream));
    assert_all_ok(sy_comm_split(world, 0, world->rank, r.dev, "test", &r.comm));
    assert_all_ok(sy_device_alloc(r.dev, r.bytes, SY_MEM_OTHER, &r.send));
    assert_all_ok(sy_device_alloc(r.dev, r.bytes, SY_MEM_OTHER, &r.recv));
    assert_all_ok(sy_alloc(r.bytes, 1, &r.h_send));
    assert_all_ok(sy_alloc(r.bytes, 1, &r.h_recv));
    *state = &r;
    return 0;
}

static int teardown(void **state)
{
    rig *r = *state;
    sy_free(&r->h_recv);
    sy_free(&r->h_send);
    sy_device_free(r->dev, &r->recv);
    sy_device_free(r->dev, &r->send);
    sy_comm_destroy(&r->comm);
    sy_stream_destroy(&r->stream);
    sy_device_close(&r->dev);
    return 0;
}

static sy_comm_args args_of(const rig *r)
{
    return (sy_comm_args){.stream = r->stream,
                          .send = r->send,
                          .recv = r->recv,
                          .dtype = SY_I64,
                          .what = "test",
                          .layer = -1};
}

/* What rank `from` puts at place i for rank `to`. */
static int64_t tag(int32_t from, int32_t to, int64_t i)
{
    return ((int64_t)from + 1) << 50 | ((int64_t)to + 1) << 40 | i;
}

/* Send h_send, run, and have the answer in h_recv. What is not written stays -1. */
static void exchange(rig *r, sy_status (*collective)(sy_comm *, const sy_comm_args *),
                     const sy_comm_args *args)
{
    memset(r->h_recv, 0xff, (size_t)r->bytes);
    assert_all_ok(test_upload(r->stream, r->recv, r->h_recv, r->bytes));
    assert_all_ok(test_upload(r->stream, r->send, r->h_send, r->bytes));
    assert_all_ok(collective(r->comm, args));
    assert_all_ok(test_download(r->stream, r->h_recv, r->recv, r->bytes));
}

/* ---- reductions ---- */

static void put(sy_dtype dtype, void *data, int64_t i, int64_t value)
{
    switch (dtype) {
    case SY_F32:
        ((float *)data)[i] = (float)value;
        break;
    case SY_F64:
        ((double *)data)[i] = (double)value;
        break;
    case SY_I32:
        ((int32_t *)data)[i] = (int32_t)value;
        break;
    case SY_I64:
        ((int64_t *)data)[i] = value;
        break;
    default:
        ((uint8_t *)data)[i] = (uint8_t)value;
        break;
    }
}

static int64_t payload(int32_t rank, int64_t i)
{
    return (rank * 7 + i * 3) % 23;
}

static int64_t reduced(int32_t size, sy_reduce reduce, int64_t i)
{
    int64_t all = payload(0, i);
    for (int32_t p = 1; p < size; p++) {
        int64_t x = payload(p, i);
        all = reduce == SY_SUM   ? all + x
              : reduce == SY_MAX ? (x > all ? x : all)
                                 : (x < all ? x : all);
    }
    return all;
}

static const sy_dtype reducible[] = {SY_F32, SY_F64, SY_I32, SY_I64, SY_U8};
static const int64_t sizes[] = {0, 1, 2, 3, 17, 1000, 40001};

/* NCCL has no maximum of floats in which a NaN wins. */
static bool may_reduce(const rig *r, const sy_comm_args *a)
{
    const bool nccl = r->comm->size > 1 && strncmp(r->dev->name, "cuda", 4) == 0;
    return !nccl || a->reduce == SY_SUM || !sy_dtype_is_float(a->dtype);
}

static void all_reduce_any_type_and_size_is_the_reduction(void **state)
{
    rig *r = *state;
    static uint8_t expected[40001 * 8];
    for (int t = 0; t < 5; t++) {
        for (int k = 0; k < 7 * 3 * 2; k++) {
            sy_comm_args a = args_of(r);
            a.n = sizes[k % 7];
            a.reduce = (sy_reduce)(k / 7 % 3);
            a.dtype = reducible[t];
            a.send = k < 21 ? r->send : r->recv; /* the second time in place */
            for (int64_t i = 0; i < a.n; i++) {
                put(a.dtype, r->h_send, i, payload(r->comm->rank, i));
                put(a.dtype, expected, i, reduced(r->comm->size, a.reduce, i));
            }
            if (!may_reduce(r, &a)) {
                assert_all_status(sy_all_reduce(r->comm, &a), SY_ERR_UNSUPPORTED);
                continue;
            }
            size_t bytes = (size_t)a.n * sy_dtype_bytes(a.dtype);
            assert_all_ok(
                test_upload(r->stream, (void *)(uintptr_t)a.send, r->h_send, (int64_t)bytes));
            assert_all_ok(sy_all_reduce(r->comm, &a));
            assert_all_ok(test_download(r->stream, r->h_recv, r->recv, (int64_t)bytes));
            assert_all(memcmp(r->h_recv, expected, bytes) == 0);
        }
    }
}

static void fill_random(rig *r, int64_t n)
{
    float *x = r->h_send;
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)sy_rng_normal(1, (uint64_t)r->comm->rank, (uint64_t)i);
    }
}

static void all_reduce_of_floats_gives_every_rank_the_same_bits(void **state)
{
    rig *r = *state;
    const int64_t n_floats[] = {1, 3, 5, 64, 1023, 10001, 300007, 1 << 20};
    for (int k = 0; k < 8; k++) {
        sy_comm_args a = args_of(r);
        a.n = n_floats[k];
        a.dtype = SY_F32;
        fill_random(r, a.n);
        exchange(r, sy_all_reduce, &a);
        float *root = r->h_send; /* now what rank 0 got */
        memcpy(root, r->h_recv, (size_t)a.n * 4);
        assert_all_ok(sy_host_broadcast(mpi_test_world(), root, a.n * 4, 0, "bits of rank 0"));
        assert_all(memcmp(root, r->h_recv, (size_t)a.n * 4) == 0);

        fill_random(r, a.n); /* again: the same order of additions */
        assert_all_ok(test_upload(r->stream, r->send, r->h_send, a.n * 4));
        assert_all_ok(sy_all_reduce(r->comm, &a));
        assert_all_ok(test_download(r->stream, r->h_send, r->recv, a.n * 4));
        assert_all(memcmp(r->h_send, r->h_recv, (size_t)a.n * 4) == 0);
    }
}

static void all_reduce_max_of_a_nan_is_nan_on_every_rank(void **state)
{
    rig *r = *state;
    for (int32_t who = 0; who < r->comm->size; who++) {
        sy_comm_args a = args_of(r);
        a.n = 2;
        a.dtype = SY_F32;
        a.reduce = SY_MAX;
        float *x = r->h_send, *y = r->h_recv;
        x[0] = r->comm->rank == who ? NAN : 1.0F;
        x[1] = r->comm->rank == who ? 0.0F : -0.0F;
        if (!may_reduce(r, &a)) {
            return;
        }
        exchange(r, sy_all_reduce, &a);
        assert_all(isnan(y[0]));
        assert_all(y[1] == 0 && !signbit(y[1]));
        a.reduce = SY_MIN;
        exchange(r, sy_all_reduce, &a);
        assert_all(isnan(y[0]));
        assert_all(y[1] == 0 && !signbit(y[1]) == (r->comm->size == 1));
    }
}

static void reduce_scatter_gives_each_rank_its_block(void **state)
{
    rig *r = *state;
    const int32_t size = r->comm->size, rank = r->comm->rank;
    const int64_t n_block[] = {0, 1, 5, 4096, 200003};
    for (int k = 0; k < 10; k++) {
        const bool own = k >= 5; /* recv is the rank's own block of send */
        sy_comm_args a = args_of(r);
        a.n = n_block[k % 5];
        a.dtype = SY_F32;
        a.recv = own ? (char *)r->send + rank * a.n * 4 : r->recv;
        for (int64_t i = 0; i < size * a.n; i++) {
            ((float *)r->h_send)[i] = (float)payload(rank, i);
        }
        assert_all_ok(test_upload(r->stream, r->send, r->h_send, r->bytes));
        assert_all_ok(sy_reduce_scatter(r->comm, &a));
        assert_all_ok(test_download(r->stream, r->h_recv, a.recv, a.n * 4));
        bool ok = true;
        for (int64_t i = 0; i < a.n; i++) {
            ok = ok && ((float *)r->h_recv)[i] == (float)reduced(size, SY_SUM, rank * a.n + i);
        }
        assert_all(ok);
    }
}

/* ---- moves ---- */

static void all_gather_orders_blocks_by_rank(void **state)
{
    rig *r = *state;
    const int64_t n_block[] = {0, 1, 100, 30001};
    for (int k = 0; k < 8; k++) {
        sy_comm_args a = args_of(r);
        int64_t *mine = r->h_send, *all = r->h_recv;
        a.n = n_block[k % 4];
        for (int64_t i = 0; i < a.n; i++) {
            mine[i] = tag(r->comm->rank, 0, i);
        }
        memset(all, 0xff, (size_t)r->bytes);
        assert_all_ok(test_upload(r->stream, r->recv, all, r->bytes));
        a.send = k < 4 ? r->send : (char *)r->recv + r->comm->rank * a.n * 8;
        assert_all_ok(test_upload(r->stream, (void *)(uintptr_t)a.send, mine, a.n * 8));
        assert_all_ok(sy_all_gather(r->comm, &a));
        assert_all_ok(test_download(r->stream, all, r->recv, r->bytes));
        bool ok = all[r->comm->size * a.n] == -1;
        for (int32_t p = 0; p < r->comm->size; p++) {
            for (int64_t i = 0; i < a.n; i++) {
                ok = ok && all[p * a.n + i] == tag(p, 0, i);
            }
        }
        assert_all(ok);
    }
}

static void broadcast_from_each_root_reaches_all(void **state)
{
    rig *r = *state;
    for (int32_t root = 0; root < r->comm->size; root++) {
        sy_comm_args a = args_of(r);
        int64_t *x = r->h_recv;
        a.n = 77;
        a.row_bytes = 24; /* rows of three */
        a.root = root;
        for (int64_t i = 0; i < 3 * a.n; i++) {
            x[i] = tag(r->comm->rank, 0, i);
        }
        assert_all_ok(test_upload(r->stream, r->recv, x, 3 * a.n * 8));
        assert_all_ok(sy_broadcast(r->comm, &a));
        assert_all_ok(test_download(r->stream, x, r->recv, 3 * a.n * 8));
        bool ok = true;
        for (int64_t i = 0; i < 3 * a.n; i++) {
            ok = ok && x[i] == tag(root, 0, i);
        }
        assert_all(ok);
    }
}

/* Rows from rank `from` to rank `to`. */
typedef int64_t count_rule(int32_t from, int32_t to, int32_t size);
static int64_t no_rows(int32_t from, int32_t to, int32_t size)
{
    return (void)from, (void)to, (void)size, 0;
}
static int64_t to_self(int32_t from, int32_t to, int32_t size)
{
    return (void)size, from == to ? 9 : 0;
}
static int64_t all_to_last(int32_t from, int32_t to, int32_t size)
{
    return to == size - 1 ? 5 + from : 0;
}
static int64_t uneven(int32_t from, int32_t to, int32_t size)
{
    return (void)size, (from * 3 + to * 5) % 4 * 10;
}
static int64_t big_blocks(int32_t from, int32_t to, int32_t size)
{
    return (void)size, 40000 + from * 10 + to;
}

static bool blocks_are_right(const rig *r, count_rule *rule)
{
    const int64_t *got = r->h_recv;
    int64_t at = 0;
    for (int32_t p = 0; p < r->comm->size; p++) {
        for (int64_t i = 0; i < rule(p, r->comm->rank, r->comm->size); i++, at += 2) {
            if (got[at] != tag(p, r->comm->rank, i) || got[at + 1] != ~got[at]) {
                return false;
            }
        }
    }
    return got[at] == -1; /* nothing behind the last row */
}

static void all_to_all_delivers_every_row_in_order(void **state)
{
    rig *r = *state;
    count_rule *rules[] = {no_rows, to_self, all_to_last, uneven, big_blocks};
    for (int k = 0; k < 5; k++) {
        int64_t n_send[MAX_RANKS], n_recv[MAX_RANKS], at = 0, *x = r->h_send;
        sy_comm_args a = args_of(r);
        a.row_bytes = 16;
        a.h_n_send = n_send;
        a.h_n_recv = n_recv;
        for (int32_t p = 0; p < r->comm->size; p++) {
            n_send[p] = rules[k](r->comm->rank, p, r->comm->size);
            n_recv[p] = rules[k](p, r->comm->rank, r->comm->size);
            for (int64_t i = 0; i < n_send[p]; i++, at += 2) {
                x[at] = tag(r->comm->rank, p, i);
                x[at + 1] = ~x[at];
            }
        }
        exchange(r, sy_all_to_all, &a);
        assert_all(blocks_are_right(r, rules[k]));
    }
}

static void all_to_all_equal_blocks_need_no_counts(void **state)
{
    rig *r = *state;
    for (int64_t n = 0; n < 3000; n = 2 * n + 7) {
        sy_comm_args a = args_of(r);
        int64_t *x = r->h_send, *y = r->h_recv;
        a.n = n;
        for (int64_t i = 0; i < r->comm->size * n; i++) {
            x[i] = tag(r->comm->rank, (int32_t)(i / n), i % n);
        }
        exchange(r, sy_all_to_all, &a);
        bool ok = true;
        for (int64_t i = 0; i < r->comm->size * n; i++) {
            ok = ok && y[i] == tag((int32_t)(i / n), r->comm->rank, i % n);
        }
        assert_all(ok);
    }
}

static void send_recv_goes_round_a_ring_and_along_a_line(void **state)
{
    rig *r = *state;
    const int32_t size = r->comm->size, rank = r->comm->rank;
    for (int line = 0; line < 2; line++) {
        sy_comm_args a = args_of(r);
        a.n = 33;
        a.root = (rank + 1) % size;
        a.source = (rank + size - 1) % size;
        if (line) {
            a.root = rank == size - 1 ? -1 : a.root;
            a.source = rank == 0 ? -1 : a.source;
        }
        for (int64_t i = 0; i < a.n; i++) {
            ((int64_t *)r->h_send)[i] = tag(rank, 0, i);
        }
        exchange(r, sy_send_recv, &a);
        const int64_t *y = r->h_recv;
        assert_all(y[32] == (a.source < 0 ? -1 : tag(a.source, 0, 32)));
    }
}

/* ---- around them ---- */

static void split_ranks_by_key_and_leaves_out_the_negative(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world(), *part = NULL, *none = NULL;
    int32_t all[MAX_RANKS] = {0};
    assert_all_ok(sy_comm_split(world, world->rank % 2, -world->rank, NULL, "half", &part));
    assert_all(part->size == (world->size + 1 - world->rank % 2) / 2);
    assert_all(strcmp(part->name, "half") == 0 && part->dev == NULL);
    assert_all_ok(sy_host_all_gather(part, &world->rank, all, sizeof all[0], "world ranks"));
    bool descending = all[part->rank] == world->rank;
    for (int32_t i = 1; i < part->size; i++) {
        descending = descending && all[i] == all[i - 1] - 2;
    }
    assert_all(descending);
    sy_comm_destroy(&part);
    assert_all_ok(sy_comm_split(world, world->rank == 0 ? -1 : 0, 0, NULL, "most", &none));
    assert_all((none == NULL) == (world->rank == 0));
    sy_comm_destroy(&none);
}

static void host_shorthands_work_without_a_stream(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    int64_t sum = world->rank, all[MAX_RANKS] = {0}, one = 41 + world->rank;
    assert_all_ok(sy_host_all_reduce(world, &sum, 1, SY_I64, SY_SUM, "ranks"));
    assert_all(sum == (int64_t)world->size * (world->size - 1) / 2);
    assert_all_ok(sy_host_all_gather(world, &one, all, sizeof one, "numbers"));
    assert_all(all[0] == 41 && all[world->size - 1] == 40 + world->size);
    assert_all_ok(sy_host_broadcast(world, &one, sizeof one, world->size - 1, "number"));
    assert_all(one == 40 + world->size);
    assert_all_ok(sy_host_barrier(world, "end"));
}

/* NCCL takes memory, or does not on one rank (which the emulation can be told): then on none. */
static void registered_memory_moves_as_other_memory_does(void **state)
{
    rig *r = *state;
    const bool emulated = strcmp(r->dev->name, "cuda_emulated") == 0;
    const int32_t size = r->comm->size;
    for (int declined = 0; declined < 2; declined++) {
        bool done[2] = {false, false}, ok = true;
        assert_all(setenv("EMULATOR_NCCL_DECLINE", declined ? "1" : "0", 1) == 0);
        assert_all_ok(sy_comm_register(r->comm, r->send, r->bytes, &done[0]));
        assert_all_ok(sy_comm_register(r->comm, r->recv, r->bytes, &done[1]));
        assert_all(!emulated || size == 1 || (done[0] == !declined && done[1] == !declined));
        sy_comm_args a = args_of(r);
        a.n = 50;
        for (int64_t i = 0; i < a.n; i++) {
            ((int64_t *)r->h_send)[i] = tag(r->comm->rank, 0, i);
        }
        exchange(r, sy_all_gather, &a);
        for (int64_t i = 0; i < size * a.n; i++) {
            ok = ok && ((int64_t *)r->h_recv)[i] == tag((int32_t)(i / a.n), 0, i % a.n);
        }
        assert_all(ok);
        sy_comm_deregister(r->comm, r->send);
        sy_comm_deregister(r->comm, r->recv);
        sy_comm_deregister(r->comm, r->recv); /* nothing any more */
    }
    assert_all(unsetenv("EMULATOR_NCCL_DECLINE") == 0);
}

static void warm_call_allocates_nothing(void **state)
{
    rig *r = *state;
    int64_t n[MAX_RANKS], blocks = 0, device_blocks = 0;
    for (int32_t p = 0; p < MAX_RANKS; p++) {
        n[p] = 11;
    }
    for (int round = 0; round < 3; round++) {
        if (round == 1) {
            blocks = sy_alloc_total();
            device_blocks = r->dev->ledger.n_allocs;
        }
        sy_comm_args a = args_of(r);
        a.n = 100;
        assert_all_ok(sy_all_reduce(r->comm, &a));
        assert_all_ok(sy_reduce_scatter(r->comm, &a));
        a.row_bytes = 40;
        assert_all_ok(sy_all_gather(r->comm, &a));
        a.h_n_send = a.h_n_recv = n;
        assert_all_ok(sy_all_to_all(r->comm, &a));
        assert_all_ok(sy_stream_sync(r->stream));
    }
    assert_all(sy_alloc_total() == blocks && r->dev->ledger.n_allocs == device_blocks);
}

static void recorder_tells_what_was_called_and_done(void **state)
{
    rig *r = *state;
    static char text[16384];
    sy_comm_args a = args_of(r);
    a.n = 8;
    a.what = "moe dispatch";
    a.layer = 3;
    assert_all_ok(sy_all_to_all(r->comm, &a));
    assert_all_ok(sy_stream_sync(r->stream));
    sy_comm_recorder_format(text, sizeof text);
    assert_all(strstr(text, " test all_to_all 'moe dispatch' layer 3 done\n") != NULL);
    assert_all(r->comm->n_done == r->comm->n_issued);
    sy_comm_recorder_format(text, 40); /* a short buffer ends after a whole line */
    assert_all(strlen(text) < 40 && (!*text || text[strlen(text) - 1] == '\n'));
}

/* The check backend hears from every collective what memory it touches. */
static void result_used_without_a_wait_is_found_by_check(void **state)
{
    rig *r = *state;
    sy_stream *other = NULL;
    bool hostile = strcmp(r->dev->name, "check") == 0 || strcmp(r->dev->name, "cpu_check") == 0;
    assert_all_ok(sy_stream_create(r->dev, "other", &other));
    sy_comm_args a = args_of(r);
    a.n = 10;
    assert_all_ok(sy_all_gather(r->comm, &a));
    sy_status st = sy_copy_d2h(other, r->h_recv, r->recv, 8);
    sy_error_clear();
    assert_all(st == (hostile ? SY_ERR_INTERNAL : SY_OK));
    assert_all_ok(sy_stream_sync(r->stream));
    assert_all_ok(sy_stream_sync(other));
    sy_stream_destroy(&other);
}

static void wrong_arguments_are_refused_before_anything_is_sent(void **state)
{
    rig *r = *state;
    int64_t before = r->comm->n_issued;
    sy_comm_args good = args_of(r), a = good;
    good.n = a.n = 1;
    a.what = NULL;
    assert_all_status(sy_all_reduce(r->comm, &a), SY_ERR_INTERNAL);
    a = good;
    a.dtype = SY_BF16;
    assert_all_status(sy_all_reduce(r->comm, &a), SY_ERR_INTERNAL);
    a = good;
    a.stream = NULL; /* device memory without a stream */
    assert_all_status(sy_all_gather(r->comm, &a), SY_ERR_INTERNAL);
    a = good;
    a.root = r->comm->size;
    assert_all_status(sy_broadcast(r->comm, &a), SY_ERR_INTERNAL);
    a = good;
    a.recv = NULL;
    assert_all_status(sy_all_gather(r->comm, &a), SY_ERR_INTERNAL);
    a = good;
    a.n = -1;
    assert_all_status(sy_all_to_all(r->comm, &a), SY_ERR_INTERNAL);
    assert_all(r->comm->n_issued == before);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(all_reduce_any_type_and_size_is_the_reduction),
        CASE(all_reduce_of_floats_gives_every_rank_the_same_bits),
        CASE(all_reduce_max_of_a_nan_is_nan_on_every_rank),
        CASE(reduce_scatter_gives_each_rank_its_block),
        CASE(all_gather_orders_blocks_by_rank),
        CASE(broadcast_from_each_root_reaches_all),
        CASE(all_to_all_delivers_every_row_in_order),
        CASE(all_to_all_equal_blocks_need_no_counts),
        CASE(send_recv_goes_round_a_ring_and_along_a_line),
        CASE(split_ranks_by_key_and_leaves_out_the_negative),
        CASE(host_shorthands_work_without_a_stream),
        CASE(registered_memory_moves_as_other_memory_does),
        CASE(warm_call_allocates_nothing),
        CASE(recorder_tells_what_was_called_and_done),
        CASE(result_used_without_a_wait_is_found_by_check),
        CASE(wrong_arguments_are_refused_before_anything_is_sent),
    };
    return mpi_test_main("comm", tests, sizeof tests / sizeof tests[0]);
}
