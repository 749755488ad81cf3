/* Saves that run beside their owner: the file holds the state as it was at the beginning, however
   small the copy's memory is; a failure comes back at the next stage; nothing is lost by giving up.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "checkpoint/saver.h"
#include "core/alloc.h"
#include "core/fault.h"
#include "tests/support/ckpt_state.h"
#include "tests/support/scratch.h"

enum { MIB = 1 << 20, SMALLEST = 8 * MIB };

static sy_device *dev;
static sy_comm *io;

/* 34 MB on the device, in sizes that do not fill the ring evenly; a counter in host memory. */
static const ckpt_field fields[] = {
    CKPT_FIELD("model/embed", SY_F32, DEAL_WHOLE, 2, 3001, 1000),
    CKPT_FIELD("model/layers/000/moe/experts/gate", SY_BF16, DEAL_WHOLE, 3, 12, 300, 1311),
    CKPT_FIELD("model/norm", SY_F32, DEAL_WHOLE, 1, 3333),
    CKPT_FIELD("optim/exp_avg/embed", SY_F32, DEAL_STRIPS, 2, 3001, 1000),
    CKPT_FIELD("state/step", SY_I64, DEAL_WHOLE, 1, 1),
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

static void open_state(ckpt_state *s)
{
    ckpt_field mine[N_FIELDS];
    memcpy(mine, fields, sizeof mine);
    for (int k = 0; k + 1 < N_FIELDS; k++) {
        mine[k].dev = dev;
    }
    assert_int_equal(ckpt_open(s, mine, N_FIELDS, 0, 1), SY_OK);
    assert_int_equal(ckpt_fill(s), SY_OK);
}

static sy_saver *create(int64_t staging_bytes)
{
    sy_saver_spec spec = {.io = io, .dev = dev, .staging_bytes = staging_bytes};
    sy_saver *saver = NULL;
    assert_int_equal(sy_saver_create(&spec, &saver), SY_OK);
    return saver;
}

static void expect_whole(const char *path)
{
    ckpt_state s;
    open_state(&s);
    assert_int_equal(ckpt_clear(&s), SY_OK);
    assert_int_equal(sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, io), SY_OK);
    assert_true(ckpt_holds(&s));
    assert_int_equal(sy_checkpoint_verify(path, io, NULL), SY_OK);
    ckpt_close(&s);
}

static void file_holds_the_state_of_the_beginning(void **state)
{
    static const int64_t staging[] = {SMALLEST, SMALLEST + 1, 13 * MIB, 64 * MIB};
    char path[2 * SCRATCH_PATH];
    ckpt_state *s = calloc(1, sizeof *s);
    for (size_t i = 0; i < sizeof staging / sizeof staging[0]; i++) {
        scratch_path(state, "a.h5", path);
        open_state(s);
        sy_saver *saver = create(staging[i]);
        assert_false(sy_saver_busy(saver));
        assert_int_equal(sy_saver_begin(saver, path, &s->state), SY_OK);
        assert_true(sy_saver_busy(saver));
        assert_int_equal(ckpt_upload(&s->field[N_FIELDS - 1], &(int64_t){-1}), SY_OK);
        sy_saver_wait_copied(saver);
        assert_int_equal(ckpt_clear(s), SY_OK);
        assert_false(scratch_exists(path)); /* nobody has met yet */
        assert_int_equal(sy_saver_finish(saver), SY_OK);
        assert_false(sy_saver_busy(saver));
        sy_saver_destroy(&saver);
        ckpt_close(s);
        expect_whole(path);
        assert_int_equal(unlink(path), 0);
    }
    free(s);
}

static void second_save_of_a_saver_is_as_good(void **state)
{
    char path[2 * SCRATCH_PATH];
    ckpt_state *s = calloc(1, sizeof *s);
    sy_saver *saver = create(SMALLEST);
    open_state(s);
    for (int i = 0; i < 3; i++) {
        bool finished = false;
        char name[16];
        snprintf(name, sizeof name, "%d.h5", i);
        scratch_path(state, name, path);
        assert_int_equal(sy_saver_begin(saver, path, &s->state), SY_OK);
        while (!finished) {
            while (!sy_saver_ready(saver)) {
                usleep(100);
            }
            assert_int_equal(sy_saver_advance(saver, &finished), SY_OK);
        }
        expect_whole(path);
    }
    sy_saver_destroy(&saver);
    ckpt_close(s);
    free(s);
}

/* The thread's failure is this thread's error at the next stage, and the saver can save again. */
static void failure_of_the_thread_comes_back_at_the_next_stage(void **state)
{
    static const char *const faults[] = {"checkpoint_write:14:fail", "checkpoint_fsync:1:fail",
                                         "checkpoint_fsync:2:fail", "checkpoint_rename:1:fail"};
    char path[2 * SCRATCH_PATH], left[2 * SCRATCH_PATH];
    ckpt_state *s = calloc(1, sizeof *s);
    sy_saver *saver = create(SMALLEST);
    open_state(s);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        scratch_path(state, "a.h5", path);
        scratch_path(state, ".a.h5.tmp", left);
        setenv("SY_FAULT", faults[i], 1);
        assert_int_equal(sy_fault_setup(0), SY_OK);
        assert_int_equal(sy_saver_begin(saver, path, &s->state), SY_OK);
        sy_saver_wait_copied(saver); /* ends although the thread has failed */
        assert_int_equal(sy_saver_finish(saver), SY_ERR_IO);
        assert_non_null(strstr(sy_error_message(), "checkpoint_"));
        sy_error_clear();
        assert_false(sy_saver_busy(saver));
        assert_false(scratch_exists(path));
        assert_false(scratch_exists(left));
        unsetenv("SY_FAULT");
        assert_int_equal(sy_fault_setup(0), SY_OK);
        assert_int_equal(sy_saver_begin(saver, path, &s->state), SY_OK);
        assert_int_equal(sy_saver_finish(saver), SY_OK);
        expect_whole(path);
        assert_int_equal(unlink(path), 0);
    }
    sy_saver_destroy(&saver);
    ckpt_close(s);
    free(s);
}

static void saver_that_is_given_up_leaves_nothing(void **state)
{
    char path[2 * SCRATCH_PATH], left[2 * SCRATCH_PATH];
    ckpt_state *s = calloc(1, sizeof *s);
    open_state(s);
    int64_t live = sy_alloc_live(), booked = dev->ledger.now[SY_MEM_CHECKPOINT];
    sy_saver *saver = create(SMALLEST);
    assert_int_equal(dev->ledger.now[SY_MEM_CHECKPOINT], booked + SMALLEST);
    scratch_path(state, "a.h5", path);
    scratch_path(state, ".a.h5.tmp", left);
    assert_int_equal(sy_saver_begin(saver, path, &s->state), SY_OK);
    sy_saver_destroy(&saver);
    assert_int_equal(sy_alloc_live(), live);
    assert_int_equal(dev->ledger.now[SY_MEM_CHECKPOINT], booked);
    assert_false(scratch_exists(path));
    assert_false(scratch_exists(left));
    ckpt_close(s);
    free(s);
}

static int open_device(void **state)
{
    (void)state;
    return test_device_open(&dev) == SY_OK && sy_comm_world(false, &io) == SY_OK ? 0 : -1;
}

static int close_device(void **state)
{
    (void)state;
    sy_comm_destroy(&io);
    sy_device_close(&dev);
    return 0;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(file_holds_the_state_of_the_beginning),
        CASE(second_save_of_a_saver_is_as_good),
        CASE(failure_of_the_thread_comes_back_at_the_next_stage),
        CASE(saver_that_is_given_up_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
