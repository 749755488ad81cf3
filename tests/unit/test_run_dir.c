/* The run directory: who owns it, what --resume may do with it, and what stands under which name.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "report/report_config.h"
#include "report/run_dir.h"
#include "tests/support/scratch.h"

typedef char path_buf[2 * SCRATCH_PATH];

static sy_run_dir claim_run(void **state)
{
    path_buf path;
    sy_run_dir run = {0};
    assert_int_equal(sy_run_dir_init(scratch_path(state, "runs/a", path), &run), SY_OK);
    assert_int_equal(sy_run_dir_claim(&run, 0), SY_OK);
    return run;
}

static void add_checkpoint_file(const sy_run_dir *run, const char *name)
{
    path_buf path;
    snprintf(path, sizeof path, "%s/%s", run->checkpoints, name);
    scratch_write(path, "x");
}

static bool has_checkpoint_file(const sy_run_dir *run, const char *name)
{
    path_buf path;
    snprintf(path, sizeof path, "%s/%s", run->checkpoints, name);
    return scratch_exists(path);
}

/* A process that owns the run directory until it is killed or told by a byte to end in order. */
typedef struct owner {
    pid_t pid;
    int tell;
} owner;

static owner start_owner(const char *path)
{
    int ready[2], tell[2];
    char byte = 0;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(tell), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        sy_run_dir run = {0};
        close(tell[1]);
        bool is_ours = sy_run_dir_init(path, &run) == SY_OK && sy_run_dir_claim(&run, 0) == SY_OK;
        byte = is_ours ? 'y' : 'n';
        bool ok = write(ready[1], &byte, 1) == 1 && read(tell[0], &byte, 1) == 1;
        sy_clock_sleep_s(0.3); /* long enough to be waited for */
        sy_run_dir_free(&run);
        _exit(ok ? 0 : 1);
    }
    close(tell[0]);
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    close(ready[0]);
    return (owner){pid, tell[1]};
}

static void reap(const owner *o)
{
    int how;
    assert_int_equal(waitpid(o->pid, &how, 0), o->pid);
    close(o->tell);
}

static void lock_held_by_other_refuses_with_its_name(void **state)
{
    path_buf path;
    char host[256] = "", pid[32];
    sy_run_dir run = {0};
    owner o = start_owner(scratch_path(state, "run", path));
    assert_int_equal(sy_run_dir_init(path, &run), SY_OK);
    double begin = sy_clock_s();
    assert_int_equal(sy_run_dir_claim(&run, 0.2), SY_ERR_USAGE);
    assert_true(sy_clock_s() - begin >= 0.2);
    assert_true(sy_clock_s() - begin < 5);
    gethostname(host, sizeof host - 1);
    snprintf(pid, sizeof pid, "process %d", (int)o.pid);
    assert_non_null(strstr(sy_error_message(), path));
    assert_non_null(strstr(sy_error_message(), pid));
    assert_non_null(strstr(sy_error_message(), host));
    assert_non_null(strstr(sy_error_message(), "since 20"));
    sy_error_clear();
    kill(o.pid, SIGKILL);
    reap(&o);
    sy_run_dir_free(&run);
}

static void lock_of_killed_owner_is_taken_at_once(void **state)
{
    path_buf path;
    sy_run_dir run = {0};
    owner o = start_owner(scratch_path(state, "run", path));
    kill(o.pid, SIGKILL);
    reap(&o);
    assert_int_equal(sy_run_dir_init(path, &run), SY_OK);
    assert_int_equal(sy_run_dir_claim(&run, 0), SY_OK);
    sy_run_dir_free(&run);
}

static void lock_of_ending_owner_is_waited_for(void **state)
{
    path_buf path;
    sy_run_dir run = {0};
    owner o = start_owner(scratch_path(state, "run", path));
    assert_int_equal(write(o.tell, "x", 1), 1);
    assert_int_equal(sy_run_dir_init(path, &run), SY_OK);
    assert_int_equal(sy_run_dir_claim(&run, 10), SY_OK);
    reap(&o);
    sy_run_dir_free(&run);
}

static void lock_held_twice_by_one_process_refuses(void **state)
{
    sy_run_dir run = claim_run(state), again = {0};
    assert_int_equal(sy_run_dir_init(run.path, &again), SY_OK);
    assert_int_equal(sy_run_dir_claim(&again, 0), SY_ERR_USAGE);
    sy_error_clear();
    sy_run_dir_free(&run);
    assert_int_equal(sy_run_dir_claim(&again, 0), SY_OK);
    sy_run_dir_free(&again);
}

/* While a job waits, the folder is removed and made anew by another owner: what the job then locks
 * is a file without a name. */
static void lock_on_a_removed_file_does_not_count(void **state)
{
    path_buf lock_path;
    int how;
    sy_run_dir first = claim_run(state), second = {0}, waiting = {0};
    assert_int_equal(sy_run_dir_init(first.path, &second), SY_OK);
    assert_int_equal(sy_run_dir_init(first.path, &waiting), SY_OK);
    snprintf(lock_path, sizeof lock_path, "%s/lock", first.path);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(sy_run_dir_claim(&waiting, 1) == SY_ERR_USAGE ? 0 : 1);
    }
    sy_clock_sleep_s(0.3);
    assert_int_equal(unlink(lock_path), 0);
    assert_int_equal(sy_run_dir_claim(&second, 0), SY_OK);
    sy_run_dir_free(&first);
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_int_equal(how, 0);
    sy_run_dir_free(&second);
    sy_run_dir_free(&waiting);
}

static void lock_in_a_folder_that_was_moved_knows_its_successor(void **state)
{
    path_buf moved;
    sy_run_dir first = claim_run(state), second = {0};
    assert_int_equal(sy_run_lock_check(first.lock), SY_OK);
    assert_int_equal(rename(first.path, scratch_path(state, "moved", moved)), 0);
    assert_int_equal(sy_run_lock_check(first.lock), SY_OK); /* nobody is there */
    assert_int_equal(sy_run_dir_init(first.path, &second), SY_OK);
    assert_int_equal(sy_run_dir_claim(&second, 0), SY_OK);
    assert_int_equal(sy_run_lock_check(first.lock), SY_ERR_IO);
    assert_non_null(strstr(sy_error_message(), first.path));
    sy_error_clear();
    assert_int_equal(sy_run_lock_check(second.lock), SY_OK);
    sy_run_dir_free(&first);
    sy_run_dir_free(&second);
}

static void claim_makes_folders_and_leaves_no_probe(void **state)
{
    for (int i = 0; i < 2; i++) {
        sy_run_dir run = claim_run(state);
        path_buf command;
        assert_true(scratch_exists(run.checkpoints));
        snprintf(command, sizeof command, "test -z \"$(find '%s' -name '.probe*')\"", run.path);
        assert_int_equal(system(command), 0);
        snprintf(command, sizeof command, "touch '%s/.probe.tmp' '%s/.probe.tmp'", run.path,
                 run.checkpoints);
        assert_int_equal(system(command), 0); /* as a start that was killed there leaves it */
        sy_run_dir_free(&run);
    }
}

/* What the program has brought to the disk. */
static struct stat synced[16];
static int n_synced;

/* In place of the C library's. */
int fsync(int fd);
int fsync(int fd)
{
    n_synced += n_synced < 16 && fstat(fd, &synced[n_synced]) == 0;
    return (int)syscall(SYS_fsync, fd);
}

static bool was_synced(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    for (int i = 0; i < n_synced; i++) {
        if (synced[i].st_ino == info.st_ino && synced[i].st_dev == info.st_dev) {
            return true;
        }
    }
    return false;
}

static void claim_brings_each_new_folder_to_the_disk(void **state)
{
    path_buf path;
    sy_run_dir run = {0};
    assert_int_equal(sy_run_dir_init(scratch_path(state, "runs/of/mine", path), &run), SY_OK);
    n_synced = 0;
    assert_int_equal(sy_run_dir_claim(&run, 0), SY_OK);
    assert_true(was_synced(path)); /* has `checkpoints` */
    for (int levels = 3; levels > 0; levels--) {
        *strrchr(path, '/') = '\0';
        assert_true(was_synced(path));
    }
    sy_run_dir_free(&run);
}

static void claim_in_place_that_cannot_be_written_says_where_and_why(void **state)
{
    path_buf path;
    sy_run_dir run = {0};
    scratch_write(scratch_path(state, "file", path), "");
    assert_int_equal(sy_run_dir_init(scratch_path(state, "file/run", path), &run), SY_OK);
    assert_int_equal(sy_run_dir_claim(&run, 0), SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "/file'"));
    assert_non_null(strstr(sy_error_message(), strerror(ENOTDIR)));
    sy_error_clear();
    sy_run_dir_free(&run);
    assert_int_equal(sy_run_dir_init("/proc/nothing/run", &run), SY_OK);
    assert_int_equal(sy_run_dir_claim(&run, 0), SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "/proc/nothing"));
    sy_error_clear();
    sy_run_dir_free(&run);
}

static void claim_in_read_only_folder_refuses(void **state)
{
    path_buf path;
    sy_run_dir run = {0};
    int how;
    assert_int_equal(mkdir(scratch_path(state, "locked", path), 0555), 0);
    assert_int_equal(chmod(((scratch *)*state)->dir, 0755), 0);
    pid_t pid = fork();
    if (pid == 0) {
        /* Root may write anywhere; another user may not. */
        bool is_other = geteuid() != 0 || setuid(65534) == 0;
        bool ok = is_other && sy_run_dir_init(path, &run) == SY_OK &&
                  sy_run_dir_claim(&run, 0) == SY_ERR_USAGE &&
                  strstr(sy_error_message(), path) != NULL;
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_int_equal(how, 0);
}

static void config_is_replaced_whole(void **state)
{
    sy_run_dir run = claim_run(state);
    assert_int_equal(sy_run_dir_write_config(&run, "run:\n  name: a longer first text\n"), SY_OK);
    assert_int_equal(sy_run_dir_write_config(&run, "run:\n  name: b\n"), SY_OK);
    char *text = scratch_read(run.config);
    assert_string_equal(text, "run:\n  name: b\n");
    free(text);
    sy_run_dir_free(&run);
}

static void checkpoints_are_listed_newest_first_and_foreign_names_passed_over(void **state)
{
    sy_run_dir run = claim_run(state);
    sy_run_checkpoints list = {0};
    static const char *const names[] = {
        "step_00000500.h5",  "step_123456789.h5",    "step_00001000.h5",
        "step_500.h5",       "step_00000700.h5.tmp", "step_0000x700.h5",
        "step_00000600.h5 ", "step_-0000600.h5",     "latest",
        "notes.txt"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        add_checkpoint_file(&run, names[i]);
    }
    path_buf folder;
    snprintf(folder, sizeof folder, "%s/step_00000900.h5", run.checkpoints);
    assert_int_equal(mkdir(folder, 0777), 0);
    assert_int_equal(sy_run_checkpoints_list(run.checkpoints, &list), SY_OK);
    assert_int_equal(list.n, 3);
    assert_int_equal(list.item[0].step, 123456789);
    assert_int_equal(list.item[1].step, 1000);
    assert_int_equal(list.item[2].step, 500);
    assert_non_null(strstr(list.item[2].path, "checkpoints/step_00000500.h5"));
    assert_int_equal(list.n_unfinished, 0);
    sy_run_checkpoints_free(&list);
    assert_int_equal(sy_run_checkpoints_list("/nonexistent/checkpoints", &list), SY_OK);
    assert_int_equal(list.n, 0);
    sy_run_dir_free(&run);
}

static void clean_removes_unfinished_saves_alone(void **state)
{
    sy_run_dir run = claim_run(state);
    int32_t n_removed = -1;
    add_checkpoint_file(&run, ".step_00000500.h5.tmp");
    add_checkpoint_file(&run, ".step_7.h5.tmp");
    add_checkpoint_file(&run, "step_00000400.h5");
    add_checkpoint_file(&run, ".step_00000400.h5");
    add_checkpoint_file(&run, "mine.h5.tmp");
    assert_int_equal(sy_run_dir_clean(&run, &n_removed), SY_OK);
    assert_int_equal(n_removed, 2);
    assert_false(has_checkpoint_file(&run, ".step_00000500.h5.tmp"));
    assert_false(has_checkpoint_file(&run, ".step_7.h5.tmp"));
    assert_true(has_checkpoint_file(&run, "step_00000400.h5"));
    assert_true(has_checkpoint_file(&run, ".step_00000400.h5"));
    assert_true(has_checkpoint_file(&run, "mine.h5.tmp"));
    sy_run_dir_free(&run);
}

static void clean_without_the_lock_is_refused(void **state)
{
    sy_run_dir run = claim_run(state), other = {0};
    add_checkpoint_file(&run, ".step_00000500.h5.tmp");
    assert_int_equal(sy_run_dir_init(run.path, &other), SY_OK);
    assert_int_equal(sy_run_dir_clean(&other, NULL), SY_ERR_INTERNAL);
    sy_error_clear();
    assert_true(has_checkpoint_file(&run, ".step_00000500.h5.tmp"));
    sy_run_dir_free(&other);
    sy_run_dir_free(&run);
}

static void latest_is_a_relative_link_that_moves(void **state)
{
    sy_run_dir run = claim_run(state);
    path_buf link;
    char target[64] = "";
    add_checkpoint_file(&run, "step_00000500.h5");
    assert_int_equal(sy_run_dir_publish(&run, 250), SY_OK);
    add_checkpoint_file(&run, ".latest.tmp"); /* as a process killed in between leaves it */
    assert_int_equal(sy_run_dir_publish(&run, 500), SY_OK);
    snprintf(link, sizeof link, "%s/latest", run.checkpoints);
    assert_int_equal(readlink(link, target, sizeof target - 1), strlen("step_00000500.h5"));
    assert_string_equal(target, "step_00000500.h5");
    assert_int_equal(access(link, R_OK), 0);
    assert_false(has_checkpoint_file(&run, ".latest.tmp"));
    sy_run_dir_free(&run);
}

static void prune_keeps_the_newest_and_every_later_step(void **state)
{
    sy_run_dir run = claim_run(state);
    add_checkpoint_file(&run, "step_00000100.h5");
    add_checkpoint_file(&run, "step_00000150.h5");
    add_checkpoint_file(&run, "step_00000200.h5");
    add_checkpoint_file(&run, "step_00000900.h5");
    assert_int_equal(sy_run_dir_prune(&run, 200, 0, 0), SY_OK);
    assert_true(has_checkpoint_file(&run, "step_00000100.h5"));
    assert_int_equal(sy_run_dir_prune(&run, 200, 2, 0), SY_OK);
    assert_false(has_checkpoint_file(&run, "step_00000100.h5"));
    assert_true(has_checkpoint_file(&run, "step_00000150.h5"));
    assert_true(has_checkpoint_file(&run, "step_00000200.h5"));
    assert_true(has_checkpoint_file(&run, "step_00000900.h5"));
    sy_run_dir_free(&run);
}

static void prune_leaves_milestones(void **state)
{
    sy_run_dir run = claim_run(state);
    for (int step = 100; step <= 600; step += 100) {
        char name[32];
        snprintf(name, sizeof name, "step_%08d.h5", step);
        add_checkpoint_file(&run, name);
    }
    assert_int_equal(sy_run_dir_prune(&run, 600, 2, 300), SY_OK);
    for (int step = 100; step <= 600; step += 100) {
        char name[32];
        snprintf(name, sizeof name, "step_%08d.h5", step);
        assert_true(has_checkpoint_file(&run, name) == (step == 300 || step >= 500));
    }
    sy_run_dir_free(&run);
}

static void later_checkpoints_are_set_aside_and_none_is_lost(void **state)
{
    sy_run_dir run = claim_run(state);
    sy_run_checkpoints list = {0};
    path_buf path, target = {0}, named;
    bool stands = false;
    add_checkpoint_file(&run, "step_00000100.h5");
    add_checkpoint_file(&run, "step_00000200.h5");
    add_checkpoint_file(&run, "step_00000300.h5");
    add_checkpoint_file(&run, "step_00000300.h5.old");
    assert_int_equal(sy_run_dir_publish(&run, 300), SY_OK);

    snprintf(named, sizeof named, "%s/latest", run.checkpoints);
    assert_int_equal(sy_run_dir_set_aside(&run, 300, named, &stands), SY_OK);
    assert_true(stands);
    assert_true(has_checkpoint_file(&run, "step_00000300.h5"));
    assert_int_equal(sy_run_dir_set_aside(&run, 150, "elsewhere.h5", &stands), SY_OK);
    assert_false(stands);
    assert_true(has_checkpoint_file(&run, "step_00000200.h5.old"));
    assert_true(has_checkpoint_file(&run, "step_00000300.h5.old"));
    assert_true(has_checkpoint_file(&run, "step_00000300.h5.old2"));
    assert_int_equal(sy_run_checkpoints_list(run.checkpoints, &list), SY_OK);
    assert_int_equal(list.n, 1);
    assert_int_equal(list.item[0].step, 100);
    snprintf(path, sizeof path, "%s/latest", run.checkpoints);
    assert_true(readlink(path, target, sizeof target - 1) > 0);
    assert_string_equal(target, "step_00000100.h5");
    sy_run_checkpoints_free(&list);

    snprintf(named, sizeof named, "%s/step_00000200.h5.old", run.checkpoints);
    add_checkpoint_file(&run, "step_00000200.h5"); /* of that step, and not what is named */
    assert_int_equal(sy_run_dir_set_aside(&run, 200, named, &stands), SY_OK);
    assert_false(stands);
    assert_false(has_checkpoint_file(&run, "step_00000200.h5"));
    assert_true(has_checkpoint_file(&run, "step_00000200.h5.old2"));
    sy_run_dir_free(&run);
}

static void resume_rules_hold_for_each_kind_of_folder(void **state)
{
    sy_run_dir run = claim_run(state);
    sy_run_start start = SY_RUN_CONTINUE;
    /* Nothing there: the lock file and empty folders are no past. */
    assert_int_equal(sy_run_dir_decide(&run, false, NULL, &start), SY_OK);
    assert_int_equal(start, SY_RUN_NEW);
    start = SY_RUN_CONTINUE;
    assert_int_equal(sy_run_dir_decide(&run, true, NULL, &start), SY_OK);
    assert_int_equal(start, SY_RUN_NEW);
    /* A checkpoint from elsewhere. */
    assert_int_equal(sy_run_dir_decide(&run, true, "other/step_00000007.h5", &start), SY_OK);
    assert_int_equal(start, SY_RUN_CONTINUE);
    /* Leftovers only. */
    add_checkpoint_file(&run, ".step_00000500.h5.tmp");
    assert_int_equal(sy_run_dir_decide(&run, false, NULL, &start), SY_OK);
    assert_int_equal(start, SY_RUN_AGAIN);
    assert_int_equal(sy_run_dir_clean(&run, NULL), SY_OK);
    scratch_write(run.metrics, "{\"step\":1}\n");
    assert_int_equal(sy_run_dir_decide(&run, true, NULL, &start), SY_OK);
    assert_int_equal(start, SY_RUN_AGAIN);
    /* Checkpoints. */
    add_checkpoint_file(&run, "step_00000500.h5");
    assert_int_equal(sy_run_dir_decide(&run, true, NULL, &start), SY_OK);
    assert_int_equal(start, SY_RUN_CONTINUE);
    start = SY_RUN_NEW;
    assert_int_equal(sy_run_dir_decide(&run, false, NULL, &start), SY_ERR_USAGE);
    assert_int_equal(start, SY_RUN_NEW);
    assert_non_null(strstr(sy_error_message(), run.path));
    assert_non_null(strstr(sy_error_message(), "step 500"));
    assert_non_null(strstr(sy_error_message(), "--resume"));
    sy_error_clear();
    sy_run_dir_free(&run);
}

static sy_status parse_run(const char *yaml, sy_config **out)
{
    const sy_config_section *const sections[] = {&sy_run_section};
    return sy_config_parse(sections, 1, yaml, strlen(yaml), "c.yaml", NULL, 0, out);
}

static void run_section_gives_the_directory_its_name(void **state)
{
    (void)state;
    sy_config *config = NULL;
    char *dir = NULL;
    assert_int_equal(parse_run("run: {name: tiny}\n", &config), SY_OK);
    const sy_run_config *run = sy_config_get(config, "run");
    assert_int_equal(run->seed, 1);
    assert_true(run->deterministic);
    assert_int_equal(sy_run_config_dir(run, NULL, &dir), SY_OK);
    assert_string_equal(dir, "runs/tiny");
    sy_free(&dir);
    assert_int_equal(sy_run_config_dir(run, "elsewhere", &dir), SY_OK);
    assert_string_equal(dir, "elsewhere");
    sy_free(&dir);
    sy_config_destroy(&config);
    assert_int_equal(parse_run("run: {name: tiny, dir: /data/x}\n", &config), SY_OK);
    assert_int_equal(sy_run_config_dir(sy_config_get(config, "run"), NULL, &dir), SY_OK);
    assert_string_equal(dir, "/data/x");
    sy_free(&dir);
    sy_config_destroy(&config);
    assert_int_equal(parse_run("run: {seed: 3}\n", &config), SY_OK);
    assert_int_equal(sy_run_config_dir(sy_config_get(config, "run"), NULL, &dir), SY_ERR_USAGE);
    sy_error_clear();
    sy_config_destroy(&config);
    assert_int_equal(parse_run("run: {name: ../up}\n", &config), SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "c.yaml:1"));
    sy_error_clear();
}

static void memory_is_all_given_back(void **state)
{
    (void)state;
    assert_int_equal(sy_alloc_live(), 0);
}

#define IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(lock_held_by_other_refuses_with_its_name),
        IN_SCRATCH(lock_of_killed_owner_is_taken_at_once),
        IN_SCRATCH(lock_of_ending_owner_is_waited_for),
        IN_SCRATCH(lock_held_twice_by_one_process_refuses),
        IN_SCRATCH(lock_on_a_removed_file_does_not_count),
        IN_SCRATCH(lock_in_a_folder_that_was_moved_knows_its_successor),
        IN_SCRATCH(claim_makes_folders_and_leaves_no_probe),
        IN_SCRATCH(claim_brings_each_new_folder_to_the_disk),
        IN_SCRATCH(claim_in_place_that_cannot_be_written_says_where_and_why),
        IN_SCRATCH(claim_in_read_only_folder_refuses),
        IN_SCRATCH(config_is_replaced_whole),
        IN_SCRATCH(checkpoints_are_listed_newest_first_and_foreign_names_passed_over),
        IN_SCRATCH(clean_removes_unfinished_saves_alone),
        IN_SCRATCH(clean_without_the_lock_is_refused),
        IN_SCRATCH(latest_is_a_relative_link_that_moves),
        IN_SCRATCH(prune_keeps_the_newest_and_every_later_step),
        IN_SCRATCH(prune_leaves_milestones),
        IN_SCRATCH(later_checkpoints_are_set_aside_and_none_is_lost),
        IN_SCRATCH(resume_rules_hold_for_each_kind_of_folder),
        cmocka_unit_test(run_section_gives_the_directory_its_name),
        cmocka_unit_test(memory_is_all_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
