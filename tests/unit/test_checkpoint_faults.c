/* checkpoint/ when things go wrong: bits that change, disks that are full, saves that die. What
   stood before a save stands after it, and no changed file is taken for whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/fault.h"
#include "tests/support/ckpt_state.h"
#include "tests/support/scratch.h"

enum { N_MUTATIONS = 3000, BATCH = 250, BATCH_SECONDS = 60, MAX_POINTS = 64 };

static sy_comm *world;
static sy_mesh *mesh;

static const ckpt_field few[] = {
    CKPT_FIELD("model/embed", SY_BF16, DEAL_FLAT, 2, 16, 9),
    CKPT_FIELD("model/layers/000/attn_norm", SY_F32, DEAL_WHOLE, 1, 40),
    CKPT_FIELD("optim/exp_avg/embed", SY_F32, DEAL_FLAT, 2, 16, 9),
    CKPT_FIELD("state/step", SY_I64, DEAL_WHOLE, 0, 0),
};
enum { N_FEW = sizeof few / sizeof few[0] };
/* Large enough to be aligned, so that there is room between the datasets. */
static const ckpt_field aligned[] = {
    CKPT_FIELD("model/embed", SY_F32, DEAL_STRIPS, 2, 130, 131),
    CKPT_FIELD("model/norm", SY_F32, DEAL_WHOLE, 1, 17000),
};

static int open_world(void **state)
{
    (void)state;
    sy_mesh_spec spec = {.ep = 1};
    sy_status st = sy_comm_world(false, &world);
    st = st == SY_OK ? sy_mesh_create(world, &spec, &mesh) : st;
    return st == SY_OK ? 0 : -1;
}

static int close_world(void **state)
{
    (void)state;
    sy_mesh_destroy(&mesh);
    sy_comm_destroy(&world);
    return 0;
}

static sy_status save(const char *path, const ckpt_field *fields, int32_t n, int64_t step)
{
    ckpt_state s;
    sy_status st = ckpt_open(&s, fields, n, 0, 1);
    st = st == SY_OK ? ckpt_fill(&s) : st;
    s.state.step = step;
    st = st == SY_OK ? sy_checkpoint_save(path, &s.state, mesh->io) : st;
    ckpt_close(&s);
    return st;
}

/* The step of a checkpoint that verifies and loads; -1: it does not. */
static int64_t valid_step(const char *path)
{
    ckpt_state s;
    sy_checkpoint_info info = {0};
    bool ok = ckpt_open(&s, few, N_FEW, 0, 1) == SY_OK &&
              sy_checkpoint_verify(path, NULL, NULL) == SY_OK &&
              sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io) == SY_OK &&
              ckpt_holds(&s) && sy_checkpoint_info_read(path, &info) == SY_OK;
    int64_t step = ok ? info.step : -1;
    sy_error_clear();
    sy_checkpoint_info_free(&info);
    ckpt_close(&s);
    return step;
}

static void arm(const char *text)
{
    setenv("SY_FAULT", text, 1);
    assert_int_equal(sy_fault_setup(0), SY_OK);
}

/* ---- bits ---- */

static uint64_t random_u64(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005U + 1442695040888963407U;
    return *seed >> 24 ^ *seed << 40;
}

/* One bit, or one to four bytes, or the end. Returns the new size. */
static size_t mutate(unsigned char *bytes, size_t n, uint64_t *seed)
{
    uint64_t kind = random_u64(seed) % 8, at = random_u64(seed) % n;
    if (kind == 0) {
        return (size_t)at;
    }
    if (kind < 5) {
        bytes[at] ^= (unsigned char)(1U << random_u64(seed) % 8);
        return n;
    }
    for (uint64_t i = at; i < n && i < at + kind - 3; i++) {
        bytes[i] = (unsigned char)random_u64(seed);
    }
    return n;
}

/* Is the file refused as damaged, and does a load that goes through give what was saved? */
static bool is_found(const char *path, const ckpt_field *fields, int32_t n)
{
    ckpt_state s;
    bool found = sy_checkpoint_verify(path, NULL, NULL) == SY_ERR_DAMAGED;
    sy_error_clear();
    bool sound = ckpt_open(&s, fields, n, 0, 1) == SY_OK;
    sy_status st = sound ? sy_checkpoint_load(path, &s.state, SY_LOAD_ALL, mesh->io) : SY_OK;
    sound = sound && (st == SY_ERR_DAMAGED || (st == SY_OK && ckpt_holds(&s)));
    if (!found || !sound) {
        print_error("verify %s it, load says '%s': %s\n", found ? "finds" : "does not find",
                    sy_status_name(st), sy_error_message());
    }
    sy_error_clear();
    ckpt_close(&s);
    return found && sound;
}

/* In a child: mutations number first .. first + BATCH - 1. */
static int run_batch(const char *path, const unsigned char *whole, size_t n, uint64_t first,
                     const ckpt_field *fields, int32_t n_fields)
{
    unsigned char *bytes = malloc(n);
    int n_missed = 0;
    alarm(BATCH_SECONDS);
    signal(SIGSEGV, SIG_DFL);
    for (uint64_t i = first; i < first + BATCH; i++) {
        uint64_t seed = i * 7919 + 1;
        memcpy(bytes, whole, n);
        size_t size = mutate(bytes, n, &seed);
        if (size == n && memcmp(bytes, whole, n) == 0) {
            continue;
        }
        FILE *file = fopen(path, "wb");
        if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) {
            return 1;
        }
        if (!is_found(path, fields, n_fields)) {
            print_error("mutation %d of '%s'\n", (int)i, path);
            n_missed++;
        }
    }
    free(bytes);
    return n_missed > 0;
}

static void expect_every_mutation_is_found(void **state, const ckpt_field *fields, int32_t n_fields,
                                           uint64_t n_mutations)
{
    char path[2 * SCRATCH_PATH], mutant[2 * SCRATCH_PATH];
    size_t n = 0;
    assert_int_equal(save(scratch_path(state, "a.h5", path), fields, n_fields, 7), SY_OK);
    scratch_path(state, "mutant.h5", mutant);
    unsigned char *whole = ckpt_file(path, &n);
    for (uint64_t first = 0; first < n_mutations; first += BATCH) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            _exit(run_batch(mutant, whole, n, first, fields, n_fields));
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status)); /* else it crashed, or hung until the alarm */
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    free(whole);
}

static void every_change_of_a_small_file_is_found(void **state)
{
    expect_every_mutation_is_found(state, few, N_FEW, N_MUTATIONS);
}

static void every_change_between_aligned_datasets_is_found(void **state)
{
    expect_every_mutation_is_found(state, aligned, 2, N_MUTATIONS / 3);
}

static void bytes_added_at_the_end_are_found(void **state)
{
    char path[2 * SCRATCH_PATH];
    assert_int_equal(save(scratch_path(state, "a.h5", path), few, N_FEW, 7), SY_OK);
    FILE *file = fopen(path, "ab");
    assert_true(fputc(0, file) == 0 && fclose(file) == 0);
    assert_int_equal(sy_checkpoint_verify(path, NULL, NULL), SY_ERR_DAMAGED);
    sy_error_clear();
    assert_int_equal(truncate(path, (off_t)1 << 40), 0); /* nobody wants to wait until it is read */
    assert_int_equal(sy_checkpoint_verify(path, NULL, NULL), SY_ERR_DAMAGED);
    assert_non_null(strstr(sy_error_message(), "behind its end"));
    sy_error_clear();
}

/* ---- disks ---- */

/* In place of the C library's: the system call, moody where a test asks for it. */
static struct {
    int64_t n_calls, full_at; /* the full_at-th call meets a full disk */
    bool hesitant;            /* every other call is interrupted, and none writes much */
} disk;

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset);
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset)
{
    disk.n_calls++;
    if (disk.n_calls == disk.full_at) {
        errno = ENOSPC;
        return -1;
    }
    if (disk.hesitant && disk.n_calls % 2 == 0) {
        errno = EINTR;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, bytes, disk.hesitant && n > 5 ? 5 : n, offset);
}

static void interrupted_and_short_writes_are_continued(void **state)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    disk.n_calls = 0;
    disk.hesitant = true;
    sy_status st = save(path, few, N_FEW, 7);
    disk.hesitant = false;
    assert_true(disk.n_calls > 1000);
    assert_int_equal(st, SY_OK);
    assert_int_equal(valid_step(path), 7);
}

/* ---- failures ---- */

/* A failed save over an old file and beside it leaves nothing but the old file. */
static void expect_clean_failure(void **state, sy_status st, const char *old, const char *new)
{
    char temporary[2 * SCRATCH_PATH];
    assert_int_equal(st, SY_ERR_IO);
    sy_error_clear();
    assert_int_equal(valid_step(old), 7);
    assert_false(scratch_exists(new));
    assert_false(scratch_exists(scratch_path(state, ".old.h5.tmp", temporary)));
    assert_false(scratch_exists(scratch_path(state, ".new.h5.tmp", temporary)));
}

static void save_that_fails_at_any_point_leaves_the_old_file(void **state)
{
    static const char *const points[] = {"checkpoint_skeleton", "checkpoint_write",
                                         "checkpoint_fsync", "checkpoint_rename"};
    static const int n_least[] = {1, 6, 2, 1};
    char old[2 * SCRATCH_PATH], new[2 * SCRATCH_PATH], text[128];
    scratch_path(state, "old.h5", old);
    scratch_path(state, "new.h5", new);
    for (int p = 0; p < 4; p++) {
        assert_int_equal(save(old, few, N_FEW, 7), SY_OK);
        int nth = 1;
        for (; nth < MAX_POINTS; nth++) {
            snprintf(text, sizeof text, "%s:%d:fail", points[p], nth);
            arm(text);
            sy_status st = save(new, few, N_FEW, 8);
            if (st == SY_OK || scratch_exists(new)) { /* whole under its name: see below */
                sy_error_clear();
                break;
            }
            expect_clean_failure(state, st, old, new);
            arm(text);
            expect_clean_failure(state, save(old, few, N_FEW, 8), old, new);
        }
        assert_true(nth > n_least[p] && nth < MAX_POINTS);
        arm("");
        assert_int_equal(valid_step(new), 8);
        assert_int_equal(unlink(new), 0);
    }
}

static void disk_that_fills_up_leaves_the_old_file(void **state)
{
    char old[2 * SCRATCH_PATH], new[2 * SCRATCH_PATH];
    assert_int_equal(save(scratch_path(state, "old.h5", old), few, N_FEW, 7), SY_OK);
    disk.n_calls = 0;
    assert_int_equal(save(scratch_path(state, "new.h5", new), few, N_FEW, 8), SY_OK);
    assert_int_equal(unlink(new), 0);
    for (int64_t at = 1, n = disk.n_calls; at <= n; at++) {
        disk.n_calls = 0;
        disk.full_at = at;
        sy_status st = save(new, few, N_FEW, 8);
        disk.full_at = 0;
        assert_non_null(strstr(sy_error_message(), "No space left on device"));
        expect_clean_failure(state, st, old, new);
    }
}

/* In a child, as root: on a disk of 128 kB in the folder `path` is in. */
static int save_on_small_disk(const char *folder, const char *path)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", folder, "tmpfs", 0, "size=128k") != 0) {
        return SY_N_STATUS;
    }
    sy_status st = save(path, few, N_FEW, 7);
    sy_status full = st == SY_OK ? save(path, aligned, 2, 8) : SY_N_STATUS;
    return valid_step(path) == 7 ? (int)full : SY_N_STATUS + 1;
}

static void disk_too_small_leaves_the_old_file(void **state)
{
    char folder[2 * SCRATCH_PATH], path[2 * SCRATCH_PATH];
    int status = 0;
    assert_int_equal(mkdir(scratch_path(state, "small", folder), 0700), 0);
    scratch_path(state, "small/a.h5", path);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(save_on_small_disk(folder, path));
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == SY_N_STATUS) {
        print_message("no small disk: mounting one is not allowed here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), SY_ERR_IO);
}

/* In a child with a limit on the size of files, at which HDF5 itself would die. */
static int save_under_limit(const char *path, rlim_t bytes)
{
    struct rlimit limit = {bytes, bytes};
    signal(SIGSEGV, SIG_DFL);
    alarm(BATCH_SECONDS);
    setrlimit(RLIMIT_FSIZE, &limit);
    sy_status st = save(path, few, N_FEW, 8);
    exit((int)st); /* by way of HDF5's own end, which must not trip over the failure */
}

static void limit_on_files_leaves_the_old_file(void **state)
{
    char old[2 * SCRATCH_PATH], new[2 * SCRATCH_PATH];
    size_t n = 0;
    scratch_path(state, "new.h5", new);
    assert_int_equal(save(scratch_path(state, "old.h5", old), few, N_FEW, 7), SY_OK);
    free(ckpt_file(old, &n));
    for (size_t limit = 0; limit < n; limit += 1 + n / 40) {
        for (int i = 0; i < 2; i++) {
            int status = 0;
            pid_t child = fork();
            if (child == 0) {
                save_under_limit(i == 0 ? new : old, limit);
            }
            assert_int_equal(waitpid(child, &status, 0), child);
            assert_true(WIFEXITED(status));
            expect_clean_failure(state, (sy_status)WEXITSTATUS(status), old, new);
        }
    }
}

static void temporary_that_cannot_be_removed_fails_the_save(void **state)
{
    char path[2 * SCRATCH_PATH], temporary[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    assert_int_equal(mkdir(scratch_path(state, ".a.h5.tmp", temporary), 0700), 0);
    assert_int_equal(save(path, few, N_FEW, 7), SY_ERR_IO);
    assert_non_null(strstr(sy_error_message(), ".a.h5.tmp"));
    sy_error_clear();
    assert_int_equal(save("/nowhere/a.h5", few, N_FEW, 7), SY_ERR_IO);
    assert_non_null(strstr(sy_error_message(), "/nowhere/.a.h5.tmp"));
    sy_error_clear();
}

/* ---- deaths ---- */

/* Kill the save at its nth passage; was it killed? */
static bool save_is_killed(const char *path, const char *point, int nth)
{
    char text[128];
    int status = 0;
    snprintf(text, sizeof text, "%s:%d:kill", point, nth);
    pid_t child = fork();
    if (child == 0) {
        arm(text);
        alarm(BATCH_SECONDS);
        _exit(save(path, few, N_FEW, 8) == SY_OK ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void save_killed_at_any_point_leaves_old_or_new(void **state)
{
    static const char *const points[] = {"checkpoint_skeleton", "checkpoint_write",
                                         "checkpoint_fsync", "checkpoint_rename"};
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "a.h5", path);
    for (int p = 0; p < 4; p++) {
        int nth = 1;
        assert_int_equal(save(path, few, N_FEW, 7), SY_OK);
        while (nth < MAX_POINTS && save_is_killed(path, points[p], nth)) {
            int64_t step = valid_step(path);
            assert_true(step == 7 || step == 8);
            assert_int_equal(save(path, few, N_FEW, 7), SY_OK); /* over what was left behind */
            assert_int_equal(valid_step(path), 7);
            nth++;
        }
        assert_true(nth > 1 && nth < MAX_POINTS);
        assert_int_equal(valid_step(path), 8);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(every_change_of_a_small_file_is_found),
        CASE(every_change_between_aligned_datasets_is_found),
        CASE(bytes_added_at_the_end_are_found),
        CASE(save_that_fails_at_any_point_leaves_the_old_file),
        CASE(interrupted_and_short_writes_are_continued),
        CASE(disk_that_fills_up_leaves_the_old_file),
        CASE(disk_too_small_leaves_the_old_file),
        CASE(limit_on_files_leaves_the_old_file),
        CASE(temporary_that_cannot_be_removed_fails_the_save),
        CASE(save_killed_at_any_point_leaves_old_or_new),
    };
    return cmocka_run_group_tests_name("checkpoint_faults", tests, open_world, close_world);
}
