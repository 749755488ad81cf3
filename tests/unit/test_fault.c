/* core/fault: the nth passage of the named point on the named rank, nothing else; deadly actions in
 * a child process. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/clock.h"
#include "core/fault.h"

static void arm(const char *text, int32_t rank)
{
    setenv("SY_FAULT", text, 1);
    assert_int_equal(sy_fault_setup(rank), SY_OK);
}

static void point_unarmed_does_nothing(void **state)
{
    (void)state;
    unsetenv("SY_FAULT");
    assert_int_equal(sy_fault_setup(0), SY_OK);
    assert_int_equal(sy_fault("save.write"), SY_OK);
    arm("", 0);
    assert_int_equal(sy_fault("save.write"), SY_OK);
}

static void point_fails_at_its_nth_passage_only(void **state)
{
    (void)state;
    arm("save.write:3:fail", 0);
    for (int pass = 1; pass <= 6; pass++) {
        assert_int_equal(sy_fault("save.close"), SY_OK);
        assert_int_equal(sy_fault("save.write"), pass == 3 ? SY_ERR_IO : SY_OK);
    }
    assert_non_null(strstr(sy_error_message(), "save.write"));
    sy_error_clear();
    arm("save.write:1:fail", 0);
    assert_int_equal(sy_fault("save.write"), SY_ERR_IO);
    sy_error_clear();
}

static void point_with_a_rank_spares_the_others(void **state)
{
    (void)state;
    arm("a:1:fail:2,b:1:fail", 1);
    assert_int_equal(sy_fault("a"), SY_OK);
    assert_int_equal(sy_fault("b"), SY_ERR_IO);
    sy_error_clear();
    arm("a:1:fail:2,b:1:fail", 2);
    assert_int_equal(sy_fault("a"), SY_ERR_IO);
    sy_error_clear();
}

static double passes_for(const char *armed, int n)
{
    const double begun_s = sy_clock_s();
    arm(armed, 1);
    for (int i = 0; i < n; i++) {
        assert_int_equal(sy_fault("a"), SY_OK);
    }
    return sy_clock_s() - begun_s;
}

static void slow_and_jitter_stay_from_their_nth_passage_on(void **state)
{
    (void)state;
    assert_true(passes_for("a:3:slow=0.02", 7) >= 5 * 0.02);
    const double jitter = passes_for("a:3:jitter=0.04", 42); /* 40 draws of 0.02 on average */
    assert_true(jitter >= 40 * 0.02 * 0.6);
    assert_true(passes_for("a:1:sleep=0.02", 7) >= 0.02);
}

static void pass_tells_what_happens_to_a_collective(void **state)
{
    (void)state;
    sy_fault_action action = SY_FAULT_FAIL;
    arm("a:2:skip,b:1:twice,c:1:short", 0);
    assert_int_equal(sy_fault_pass("a", &action), SY_OK);
    assert_int_equal(action, SY_FAULT_NONE);
    assert_int_equal(sy_fault_pass("a", &action), SY_OK);
    assert_int_equal(action, SY_FAULT_SKIP);
    assert_int_equal(sy_fault_pass("b", &action), SY_OK);
    assert_int_equal(action, SY_FAULT_TWICE);
    assert_int_equal(sy_fault_pass("c", &action), SY_OK);
    assert_int_equal(action, SY_FAULT_SHORT);
}

static void hit_tells_the_action_and_does_nothing(void **state)
{
    (void)state;
    arm("loss:2:nan,step:1:kill", 0);
    assert_int_equal(sy_fault_hit("loss"), SY_FAULT_NONE);
    assert_int_equal(sy_fault_hit("loss"), SY_FAULT_NAN);
    assert_int_equal(sy_fault_hit("loss"), SY_FAULT_NONE);
    assert_int_equal(sy_fault_hit("step"), SY_FAULT_KILL);
    arm("loss:1:nan", 0);
    assert_int_equal(sy_fault("loss"), SY_OK);
    int32_t bit = -1;
    arm("loss:1:inf,step:1:flip=52", 0);
    assert_int_equal(sy_fault_hit_bit("loss", &bit), SY_FAULT_INF);
    assert_int_equal(sy_fault_hit_bit("step", &bit), SY_FAULT_FLIP);
    assert_int_equal(bit, 52);
}

static void sleep_takes_its_time(void **state)
{
    (void)state;
    arm("slow:1:sleep=0.05", 0);
    double start = sy_clock_s();
    assert_int_equal(sy_fault("slow"), SY_OK);
    assert_true(sy_clock_s() - start >= 0.05);
}

static void kill_and_stop_reach_the_process(void **state)
{
    (void)state;
    int status = 0;
    arm("die:1:kill,halt:1:stop", 0);
    pid_t child = fork();
    if (child == 0) {
        sy_fault("halt");
        sy_fault("die");
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    kill(child, SIGCONT);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void setup_bad_text_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"a",         "a:1",         "a:0:fail",     "a:x:fail",
                                      ":1:fail",   "a:1:explode", "a:1:fail:x",   "a:1:fail:0:9",
                                      "a:1:fail,", "a:1:sleep=",  "a:1:sleep=-1", "a:1:flip=64"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        setenv("SY_FAULT", bad[i], 1);
        assert_int_equal(sy_fault_setup(0), SY_ERR_USAGE);
        assert_non_null(strstr(sy_error_message(), "SY_FAULT"));
        assert_int_equal(sy_fault("a"), SY_OK);
        sy_error_clear();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(point_unarmed_does_nothing),
        cmocka_unit_test(point_fails_at_its_nth_passage_only),
        cmocka_unit_test(point_with_a_rank_spares_the_others),
        cmocka_unit_test(hit_tells_the_action_and_does_nothing),
        cmocka_unit_test(slow_and_jitter_stay_from_their_nth_passage_on),
        cmocka_unit_test(pass_tells_what_happens_to_a_collective),
        cmocka_unit_test(sleep_takes_its_time),
        cmocka_unit_test(kill_and_stop_reach_the_process),
        cmocka_unit_test(setup_bad_text_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
