/* The check backend finds what it is there for: each case plants one defect. Timing must play no
   part, so what could depend on it runs many times. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/arena.h"
#include "backend/ops.h"

enum { N = 1000, N_REPEATS = 20 };

/* The thread sanitizer refuses threads in a forked child unless told otherwise. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "die_after_fork=0";
}

/* A device with two streams, an event and three arrays of N floats. */
typedef struct fixture {
    sy_device *dev;
    sy_stream *one, *two;
    sy_event *event;
    float *x, *y, *z;
    const sy_ops *ops; /* as the backend has them */
} fixture;

static fixture set_up(void)
{
    fixture f = {.dev = NULL};
    sy_device_spec spec = {.backend = "check", .threads = 1};
    assert_int_equal(sy_device_open(&spec, &f.dev), SY_OK);
    assert_int_equal(sy_stream_create(f.dev, "one", &f.one), SY_OK);
    assert_int_equal(sy_stream_create(f.dev, "two", &f.two), SY_OK);
    assert_int_equal(sy_event_create(f.dev, &f.event), SY_OK);
    assert_int_equal(sy_device_alloc(f.dev, N * 4, SY_MEM_OTHER, (void **)&f.x), SY_OK);
    assert_int_equal(sy_device_alloc(f.dev, N * 4, SY_MEM_OTHER, (void **)&f.y), SY_OK);
    assert_int_equal(sy_device_alloc(f.dev, N * 4, SY_MEM_OTHER, (void **)&f.z), SY_OK);
    f.ops = f.dev->ops;
    return f;
}

static void tear_down(fixture *f)
{
    sy_error_clear();
    sy_event_destroy(&f->event);
    sy_stream_destroy(&f->two);
    sy_stream_destroy(&f->one);
    sy_device_close(&f->dev);
}

static sy_tensor vector(float *data)
{
    return sy_tensor_1d(data, SY_F32, N);
}

static sy_status fill(sy_stream *stream, float *y, double value)
{
    return sy_fill(stream, &(sy_fill_args){.y = vector(y), .value = value});
}

static sy_status add(sy_stream *stream, float *a, float *b, float *y)
{
    return sy_add(stream, &(sy_add_args){.a = vector(a), .b = vector(b), .y = vector(y)});
}

static void expect_message(const char *part)
{
    if (!strstr(sy_error_message(), part)) {
        fail_msg("'%s' does not contain '%s'", sy_error_message(), part);
    }
    sy_error_clear();
}

/* ---- host code and device memory ---- */

/* Run in a child that must die of the touch, and read what it said. */
static void expect_death(void (*touch)(fixture *f), const char *sentence)
{
    int channel[2];
    char said[1 << 16] = "";
    assert_int_equal(pipe(channel), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(channel[1], STDERR_FILENO);
        signal(SIGSEGV, SIG_DFL); /* instead of the handler of the test library */
        fixture f = set_up();
        touch(&f);
        _exit(0);
    }
    close(channel[1]);
    size_t n = 0;
    for (ssize_t got = 1; got > 0;
         n += (size_t)(got > 0 ? got : 0)) { /* to the end: so that it can die */
        got = read(channel[0], said + n, sizeof said - 1 - n);
    }
    close(channel[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGSEGV : WEXITSTATUS(status) != 0);
    assert_non_null(strstr(said, sentence));
}

static void read_on_host(fixture *f)
{
    volatile float value = f->x[10];
    (void)value;
}

static void write_on_host(fixture *f)
{
    f->x[10] = 1;
}

static sy_status write_without_view(sy_stream *stream, const void *args)
{
    (void)stream;
    **(float *const *)args = 1;
    return SY_OK;
}

static void write_in_a_call(fixture *f)
{
    (void)sy_stream_call(f->one, write_without_view, &f->x, sizeof f->x);
    (void)sy_stream_sync(f->one);
}

static void write_after_free(fixture *f)
{
    float *view = sy_device_host_view(f->dev, f->x);
    sy_device_free(f->dev, &f->x);
    view[0] = 1;
}

static void host_access_dies_with_a_sentence(void **state)
{
    (void)state;
    expect_death(read_on_host, "host code touched device memory at 0x");
    expect_death(write_on_host, "host code touched device memory at 0x");
    expect_death(write_in_a_call, "host code touched device memory at 0x");
    expect_death(write_after_free, "outside every block of device memory");
}

static void operand_on_the_host_is_refused(void **state)
{
    (void)state;
    fixture f = set_up();
    float on_host[N];
    assert_int_equal(add(f.one, f.x, on_host, f.y), SY_ERR_INTERNAL);
    expect_message("op add on stream 'one': b is not device memory");
    assert_int_equal(sy_copy_h2d(f.one, on_host, on_host, 4), SY_ERR_INTERNAL);
    expect_message("dst is not device memory");
    assert_int_equal(sy_copy_d2h(f.one, f.x, f.y, 4), SY_ERR_INTERNAL);
    expect_message("dst is device memory where host memory is wanted");
    assert_int_equal(sy_zero(f.one, f.x, N * 4 + 1), SY_ERR_INTERNAL);
    expect_message("dst is not inside one block");
    tear_down(&f);
}

/* ---- ops that do not keep their word ---- */

static const sy_ops *true_ops;

static sy_status add_but_one(sy_stream *stream, const sy_add_args *args)
{
    (void)stream;
    const float *a = args->a.data, *b = args->b.data;
    float *y = args->y.data;
    for (int32_t i = 0; i < N; i++) {
        if (i != 384) {
            y[i] = a[i] + b[i];
        }
    }
    return SY_OK;
}

static void unwritten_element_is_named(void **state)
{
    (void)state;
    fixture f = set_up();
    sy_ops planted = *f.ops;
    planted.add = add_but_one;
    f.dev->ops = &planted;
    assert_int_equal(fill(f.one, f.x, 1), SY_OK);
    assert_int_equal(add(f.one, f.x, f.x, f.y), SY_OK); /* enqueued: not yet known */
    assert_int_equal(sy_stream_sync(f.one), SY_ERR_INTERNAL);
    expect_message("op add: y[384] never written");
    assert_int_equal(sy_stream_sync(f.one), SY_OK);
    /* In place the op reads what it writes: nothing to poison, nothing to find. */
    assert_int_equal(add(f.one, f.x, f.x, f.x), SY_OK);
    assert_int_equal(sy_stream_sync(f.one), SY_OK);
    tear_down(&f);
}

static sy_status cast_nothing(sy_stream *stream, const sy_cast_args *args)
{
    (void)stream, (void)args;
    return SY_OK;
}

static sy_status cast_row_0(sy_stream *stream, const sy_cast_args *args)
{
    sy_cast_args part = {.x = sy_tensor_rows(&args->x, 0, 1), .y = sy_tensor_rows(&args->y, 0, 1)};
    return true_ops->cast(stream, &part);
}

/* Columns 2 .. 4 of a matrix are the output: only they may be poisoned, only they must be written.
 */
static void strided_output_is_poisoned_and_searched_alone(void **state)
{
    (void)state;
    fixture f = set_up();
    sy_ops planted = *f.ops;
    true_ops = f.ops;
    f.dev->ops = &planted;
    sy_tensor matrix = sy_tensor_2d(f.x, SY_F32, 4, 10), columns = sy_tensor_cols(&matrix, 2, 3);
    sy_tensor source = sy_tensor_2d(f.y, SY_F32, 4, 3);
    sy_cast_args args = {.x = source, .y = columns};
    assert_int_equal(fill(f.one, f.x, 1), SY_OK);
    assert_int_equal(fill(f.one, f.y, 2), SY_OK);
    assert_int_equal(sy_cast(f.one, &args), SY_OK);
    float out[40];
    assert_int_equal(sy_copy_d2h(f.one, out, f.x, sizeof out), SY_OK);
    assert_int_equal(sy_stream_sync(f.one), SY_OK);
    for (int32_t i = 0; i < 40; i++) {
        bool inside = i % 10 >= 2 && i % 10 < 5;
        assert_true(out[i] == (inside ? 2.0f : 1.0f));
    }
    planted.cast = cast_row_0;
    assert_int_equal(sy_cast(f.one, &args), SY_OK);
    assert_int_equal(sy_stream_sync(f.one), SY_ERR_INTERNAL);
    expect_message("op cast: y[1, 0] never written, nor are 8 more");
    tear_down(&f);
}

static void unwritten_output_is_found_in_every_dtype(void **state)
{
    (void)state;
    const sy_dtype dtypes[] = {SY_F32, SY_BF16, SY_F64, SY_I32, SY_I64};
    fixture f = set_up();
    sy_ops planted = *f.ops;
    planted.cast = cast_nothing;
    f.dev->ops = &planted;
    for (int32_t i = 0; i < 5; i++) {
        sy_cast_args args = {.x = sy_tensor_1d(f.x, dtypes[i], 100),
                             .y = sy_tensor_1d(f.y, dtypes[i], 100)};
        assert_int_equal(sy_cast(f.one, &args), SY_OK);
        assert_int_equal(sy_stream_sync(f.one), SY_ERR_INTERNAL);
        expect_message("op cast: y[0] never written, nor are 99 more");
    }
    tear_down(&f);
}

static sy_status add_and_one_more(sy_stream *stream, const sy_add_args *args)
{
    sy_status st = true_ops->add(stream, args);
    ((float *)args->y.data)[N] = 5;
    return st;
}

static sy_status fill_from_before(sy_stream *stream, const sy_fill_args *args)
{
    sy_status st = true_ops->fill(stream, args);
    ((char *)args->y.data)[-3] = 5;
    return st;
}

static void write_outside_of_a_block_is_named(void **state)
{
    (void)state;
    fixture f = set_up();
    sy_ops planted = *f.ops;
    true_ops = f.ops;
    planted.add = add_and_one_more;
    planted.fill = fill_from_before;
    f.dev->ops = &planted;
    assert_int_equal(add(f.one, f.x, f.x, f.y), SY_OK);
    assert_int_equal(sy_stream_sync(f.one), SY_ERR_INTERNAL);
    expect_message("op add: y: overrun: something was written 0 bytes behind the end of a block of "
                   "4000 bytes");
    assert_int_equal(fill(f.two, f.x, 1), SY_OK);
    assert_int_equal(sy_stream_sync(f.two), SY_ERR_INTERNAL);
    expect_message("op fill: y: something was written 3 bytes before a block of 4000 bytes");
    tear_down(&f);
}

static sy_status overrun_in_a_call(sy_stream *stream, const void *args)
{
    float *z = sy_device_host_view(sy_stream_device(stream), *(float *const *)args);
    z[N + 2] = 1;
    return SY_OK;
}

/* Calls say nothing about what they touch: their overruns come out when the block is freed. */
static void overrun_of_a_call_is_found_when_the_block_is_freed(void **state)
{
    (void)state;
    fixture f = set_up();
    assert_int_equal(sy_stream_call(f.one, overrun_in_a_call, &f.z, sizeof f.z), SY_OK);
    assert_int_equal(sy_stream_sync(f.one), SY_OK);
    sy_device_free(f.dev, &f.z);
    assert_string_equal(sy_error_message(), "");
    assert_int_equal(sy_stream_sync(f.one), SY_ERR_INTERNAL);
    expect_message("sy_device_free: overrun");
    tear_down(&f);
}

/* ---- order ---- */

static void missing_wait_between_streams_is_named(void **state)
{
    (void)state;
    for (int32_t i = 0; i < N_REPEATS; i++) {
        fixture f = set_up();
        assert_int_equal(fill(f.one, f.x, 1), SY_OK);
        assert_int_equal(add(f.two, f.y, f.y, f.z), SY_OK); /* nothing in common */
        assert_int_equal(add(f.two, f.x, f.y, f.z), SY_ERR_INTERNAL);
        expect_message("op add on stream 'two' reads a, which op fill on stream 'one' writes as y, "
                       "and nothing orders the two");
        assert_int_equal(sy_stream_sync(f.one), SY_OK); /* the host has waited: now it is fine */
        assert_int_equal(add(f.two, f.x, f.y, f.z), SY_OK);
        /* Write after read, and write after write. */
        assert_int_equal(fill(f.one, f.x, 2), SY_ERR_INTERNAL);
        expect_message("op fill on stream 'one' writes y, which op add on stream 'two' reads as a");
        assert_int_equal(sy_zero(f.one, f.z, 4), SY_ERR_INTERNAL);
        expect_message(
            "sy_zero on stream 'one' writes dst, which op add on stream 'two' writes as y");
        tear_down(&f);
    }
}

static void wait_before_the_producer_is_recorded_does_not_help(void **state)
{
    (void)state;
    fixture f = set_up();
    assert_int_equal(sy_event_record(f.event, f.one), SY_OK);
    assert_int_equal(fill(f.one, f.x, 1), SY_OK); /* behind the event */
    assert_int_equal(sy_stream_wait(f.two, f.event), SY_OK);
    assert_int_equal(add(f.two, f.x, f.x, f.y), SY_ERR_INTERNAL);
    expect_message("a sy_stream_wait is missing");
    tear_down(&f);
}

static void event_orders_two_streams(void **state)
{
    (void)state;
    fixture f = set_up();
    for (int32_t i = 0; i < N_REPEATS; i++) {
        float out[N];
        assert_int_equal(fill(f.one, f.x, i), SY_OK);
        assert_int_equal(add(f.one, f.x, f.x, f.y), SY_OK);
        assert_int_equal(sy_event_record(f.event, f.one), SY_OK);
        assert_int_equal(sy_stream_wait(f.two, f.event), SY_OK);
        assert_int_equal(add(f.two, f.x, f.y, f.z), SY_OK);
        assert_int_equal(sy_copy_d2h(f.two, out, f.z, sizeof out), SY_OK);
        assert_int_equal(sy_stream_sync(f.two), SY_OK); /* carries stream one along */
        for (int32_t k = 0; k < N; k++) {
            assert_true(out[k] == (float)(3 * i));
        }
    }
    tear_down(&f);
}

/* Columns of one matrix belong to whoever works on them. */
static void views_side_by_side_may_be_written_at_one_time(void **state)
{
    (void)state;
    fixture f = set_up();
    sy_tensor matrix = sy_tensor_2d(f.x, SY_F32, 10, 30), small = sy_tensor_2d(f.y, SY_F32, 10, 10);
    sy_cast_args left = {.x = small, .y = sy_tensor_cols(&matrix, 0, 10)};
    sy_cast_args right = {.x = small, .y = sy_tensor_cols(&matrix, 20, 10)};
    sy_cast_args middle = {.x = small, .y = sy_tensor_cols(&matrix, 15, 10)};
    assert_int_equal(sy_cast(f.one, &left), SY_OK);
    assert_int_equal(sy_cast(f.two, &right), SY_OK);
    assert_int_equal(sy_cast(f.one, &middle), SY_ERR_INTERNAL);
    expect_message("writes y, which op cast on stream 'two' writes as y");
    tear_down(&f);
}

static sy_status set_to_4(sy_stream *stream, const void *args)
{
    float *view = sy_device_host_view(sy_stream_device(stream), *(float *const *)args);
    for (int32_t i = 0; i < N; i++) {
        view[i] = 4;
    }
    return SY_OK;
}

static void announced_call_without_wait_is_named(void **state)
{
    (void)state;
    fixture f = set_up();
    assert_int_equal(fill(f.one, f.x, 1), SY_OK);
    assert_int_equal(sy_stream_announce(f.two, f.x, 4, false), SY_ERR_INTERNAL);
    expect_message("a call on stream 'two' reads what it announced to read, which op fill");
    assert_int_equal(sy_stream_sync(f.one), SY_OK);
    assert_int_equal(sy_stream_announce(f.two, f.x, 4, true), SY_OK);
    assert_int_equal(sy_stream_call(f.two, set_to_4, &f.x, sizeof f.x), SY_OK);
    assert_int_equal(add(f.one, f.x, f.x, f.y), SY_ERR_INTERNAL);
    expect_message("which a call on stream 'two' writes as what it announced to write");
    tear_down(&f);
}

/* ---- the host and the streams ---- */

static void result_read_before_the_sync_is_nan(void **state)
{
    (void)state;
    fixture f = set_up();
    for (int32_t i = 0; i < N_REPEATS; i++) {
        float out[N] = {0};
        assert_int_equal(fill(f.one, f.x, 7), SY_OK);
        assert_int_equal(sy_copy_d2h(f.one, out, f.x, sizeof out), SY_OK);
        assert_true(isnan(out[0]) && isnan(out[N - 1])); /* who forgets the sync trains on this */
        assert_int_equal(sy_stream_sync(f.one), SY_OK);
        assert_true(out[0] == 7 && out[N - 1] == 7);
    }
    tear_down(&f);
}

static void source_changed_before_the_sync_is_seen(void **state)
{
    (void)state;
    fixture f = set_up();
    for (int32_t i = 0; i < N_REPEATS; i++) {
        float in[2] = {1, 2}, out[2];
        assert_int_equal(sy_copy_h2d(f.one, f.x, in, sizeof in), SY_OK);
        in[0] = -1; /* the defect: the copy has not passed */
        assert_int_equal(sy_copy_d2h(f.one, out, f.x, sizeof out), SY_OK);
        assert_int_equal(sy_stream_sync(f.one), SY_OK);
        assert_true(out[0] == -1 && out[1] == 2);
    }
    tear_down(&f);
}

static sy_status raise_flag(sy_stream *stream, const void *args)
{
    (void)stream;
    atomic_store(*(atomic_bool *const *)args, true);
    return SY_OK;
}

static void stream_nobody_waits_for_runs_in_the_end(void **state)
{
    (void)state;
    fixture f = set_up();
    atomic_bool called = false, *flag = &called;
    assert_int_equal(sy_stream_call(f.one, raise_flag, &flag, sizeof flag), SY_OK);
    assert_int_equal(sy_event_record(f.event, f.one), SY_OK);
    assert_false(atomic_load(&called)); /* not at once */
    for (int32_t i = 0; i < 60000 && !atomic_load(&called); i++) {
        usleep(1000);
    }
    assert_true(atomic_load(&called));
    assert_int_equal(sy_event_sync(f.event), SY_OK);
    tear_down(&f);
}

static void polling_an_event_sees_it_pass(void **state)
{
    (void)state;
    fixture f = set_up();
    assert_int_equal(fill(f.one, f.x, 1), SY_OK);
    assert_int_equal(sy_event_record(f.event, f.one), SY_OK);
    int32_t n_polls = 0;
    while (!sy_event_done(f.event)) {
        usleep(1000);
        assert_true(++n_polls < 60000);
    }
    assert_int_equal(add(f.two, f.x, f.x, f.y), SY_OK); /* the host knows, so it is in order */
    tear_down(&f);
}

static void failure_travels_over_an_event(void **state)
{
    (void)state;
    fixture f = set_up();
    sy_ops planted = *f.ops;
    planted.add = add_but_one;
    f.dev->ops = &planted;
    assert_int_equal(add(f.one, f.x, f.x, f.y), SY_OK);
    assert_int_equal(sy_event_record(f.event, f.one), SY_OK);
    assert_int_equal(sy_stream_wait(f.two, f.event), SY_OK);
    assert_int_equal(fill(f.two, f.y, 1), SY_OK);
    assert_int_equal(sy_stream_sync(f.two), SY_ERR_INTERNAL);
    expect_message("op add: y[384] never written");
    assert_int_equal(sy_event_sync(f.event), SY_ERR_INTERNAL);
    expect_message("op add: y[384] never written");
    tear_down(&f);
}

/* ---- undefined memory ---- */

static void arena_memory_is_nan_until_it_is_written(void **state)
{
    (void)state;
    fixture f = set_up();
    sy_arena arena;
    sy_tensor a, b;
    float out[N];
    assert_int_equal(sy_arena_init(&arena, f.dev, 2 * N * 4 + 64, SY_MEM_SCRATCH), SY_OK);
    assert_int_equal(sy_arena_1d(&arena, SY_F32, N, &a), SY_OK);
    assert_int_equal(fill(f.one, a.data, 3), SY_OK);
    assert_int_equal(sy_copy_d2d(f.one, f.x, a.data, N * 4), SY_OK);
    /* Handed out again while the ops on what was there before have not run. */
    sy_arena_release(&arena, 0);
    assert_int_equal(sy_arena_1d(&arena, SY_F32, N, &b), SY_OK);
    assert_ptr_equal(a.data, b.data);
    assert_int_equal(sy_zero(f.one, b.data, 40), SY_OK); /* the first ten only */
    assert_int_equal(add(f.one, b.data, f.x, f.y), SY_OK);
    assert_int_equal(sy_copy_d2h(f.one, out, f.y, sizeof out), SY_OK);
    assert_int_equal(sy_stream_sync(f.one), SY_OK);
    assert_true(out[0] == 3 && out[9] == 3); /* the old contents reached x, the new zeros stand */
    assert_true(isnan(out[10]) && isnan(out[N - 1]));
    sy_arena_free(&arena);
    tear_down(&f);
}

static void arena_memory_written_by_a_call_is_left_alone(void **state)
{
    (void)state;
    for (int32_t announced = 0; announced < 2; announced++) {
        fixture f = set_up();
        sy_arena arena;
        sy_tensor a;
        float out[N];
        assert_int_equal(sy_arena_init(&arena, f.dev, N * 4, SY_MEM_SCRATCH), SY_OK);
        assert_int_equal(sy_arena_1d(&arena, SY_F32, N, &a), SY_OK);
        if (announced) {
            assert_int_equal(sy_stream_announce(f.one, a.data, N * 4, true), SY_OK);
        }
        assert_int_equal(sy_stream_call(f.one, set_to_4, &a.data, sizeof a.data), SY_OK);
        assert_int_equal(add(f.one, a.data, a.data, f.y), SY_OK);
        assert_int_equal(sy_copy_d2h(f.one, out, f.y, sizeof out), SY_OK);
        assert_int_equal(sy_stream_sync(f.one), SY_OK);
        assert_true(out[0] == 8 && out[N - 1] == 8);
        sy_arena_free(&arena);
        tear_down(&f);
    }
}

/* ---- nothing to do ---- */

static void empty_operands_are_fine(void **state)
{
    (void)state;
    fixture f = set_up();
    void *empty = NULL;
    assert_int_equal(sy_device_alloc(f.dev, 0, SY_MEM_OTHER, &empty), SY_OK);
    sy_tensor none = sy_tensor_1d(empty, SY_F32, 0);
    assert_int_equal(sy_add(f.one, &(sy_add_args){.a = none, .b = none, .y = none}), SY_OK);
    assert_int_equal(sy_copy_d2d(f.one, empty, empty, 0), SY_OK);
    assert_int_equal(sy_stream_sync(f.one), SY_OK);
    tear_down(&f);
}

static void results_have_the_bits_of_cpu(void **state)
{
    (void)state;
    float in[N], out[2][N];
    const char *const names[] = {"cpu", "check"};
    for (int32_t i = 0; i < N; i++) {
        in[i] = sinf((float)i);
    }
    for (int32_t b = 0; b < 2; b++) {
        sy_device *dev = NULL;
        sy_stream *stream = NULL;
        float *x = NULL, *y = NULL;
        sy_device_spec spec = {.backend = names[b], .threads = 1};
        assert_int_equal(sy_device_open(&spec, &dev), SY_OK);
        assert_int_equal(sy_stream_create(dev, "main", &stream), SY_OK);
        assert_int_equal(sy_device_alloc(dev, N * 4, SY_MEM_OTHER, (void **)&x), SY_OK);
        assert_int_equal(sy_device_alloc(dev, N * 4, SY_MEM_OTHER, (void **)&y), SY_OK);
        assert_int_equal(sy_copy_h2d(stream, x, in, sizeof in), SY_OK);
        sy_swiglu_args args = {.x = sy_tensor_2d(x, SY_F32, 10, 100),
                               .y = sy_tensor_2d(y, SY_F32, 10, 50)};
        assert_int_equal(sy_swiglu(stream, &args), SY_OK);
        assert_int_equal(sy_copy_d2h(stream, out[b], y, 500 * 4), SY_OK);
        assert_int_equal(sy_stream_sync(stream), SY_OK);
        sy_stream_destroy(&stream);
        sy_device_close(&dev);
    }
    assert_memory_equal(out[0], out[1], 500 * 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_access_dies_with_a_sentence),
        cmocka_unit_test(operand_on_the_host_is_refused),
        cmocka_unit_test(unwritten_element_is_named),
        cmocka_unit_test(strided_output_is_poisoned_and_searched_alone),
        cmocka_unit_test(unwritten_output_is_found_in_every_dtype),
        cmocka_unit_test(write_outside_of_a_block_is_named),
        cmocka_unit_test(overrun_of_a_call_is_found_when_the_block_is_freed),
        cmocka_unit_test(missing_wait_between_streams_is_named),
        cmocka_unit_test(wait_before_the_producer_is_recorded_does_not_help),
        cmocka_unit_test(event_orders_two_streams),
        cmocka_unit_test(views_side_by_side_may_be_written_at_one_time),
        cmocka_unit_test(announced_call_without_wait_is_named),
        cmocka_unit_test(result_read_before_the_sync_is_nan),
        cmocka_unit_test(source_changed_before_the_sync_is_seen),
        cmocka_unit_test(stream_nobody_waits_for_runs_in_the_end),
        cmocka_unit_test(polling_an_event_sees_it_pass),
        cmocka_unit_test(failure_travels_over_an_event),
        cmocka_unit_test(arena_memory_is_nan_until_it_is_written),
        cmocka_unit_test(arena_memory_written_by_a_call_is_left_alone),
        cmocka_unit_test(empty_operands_are_fine),
        cmocka_unit_test(results_have_the_bits_of_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
