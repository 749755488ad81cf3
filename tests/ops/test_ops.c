/* The ops of one backend against ref, over the case tables; on ref itself also finite differences,
   the golden numbers and the contract checks.

       test_ops --backend=cpu [--op=gemm,topk] [--quick | --support | --time]

   --quick runs every case once and compares nothing: for tools that watch the memory meanwhile. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/ops/op_test.h"

static const op_group *const groups[] = {
#define GROUP(name) &op_group_##name,
    OP_GROUPS(GROUP)};
enum { N_GROUPS = sizeof groups / sizeof groups[0] };

typedef void visit(op_runner *runner, const op_test *test);

/* only_op: names with commas between them, NULL: all. */
static bool is_wanted(const op_runner *runner, const char *op)
{
    const size_t n = strlen(op);
    const char *at = runner->only_op;
    while (at && !(strncmp(at, op, n) == 0 && (at[n] == ',' || at[n] == '\0'))) {
        at = strchr(at, ',');
        if (!at) {
            return false;
        }
        at++;
    }
    return true;
}

static void each_test(op_runner *runner, visit *fn)
{
    for (int32_t g = 0; g < N_GROUPS; g++) {
        for (int32_t i = 0; i < groups[g]->n_tests; i++) {
            const op_test *test = &groups[g]->tests[i];
            if (is_wanted(runner, sy_op_name(test->op))) {
                fn(runner, test);
            }
        }
    }
}

static void compare_test(op_runner *runner, const op_test *test)
{
    if (!op_verdict(runner, sy_op_supported(runner->dev[0], test->op), "%s: backend %s lacks it",
                    sy_op_name(test->op), runner->backend)) {
        return;
    }
    for (int32_t k = 0; k < test->n_cases; k++) {
        op_compare_case(runner, test, &test->cases[k]);
    }
}

static void print_support(op_runner *runner, const op_test *test)
{
    printf("%-20s %s\n", sy_op_name(test->op),
           sy_op_supported(runner->dev[0], test->op) ? "yes" : "lacking");
}

/* Every op of the table has a test. */
static void check_coverage(op_runner *runner)
{
    for (int32_t op = 0; op < SY_N_OPS; op++) {
        bool found = false;
        for (int32_t g = 0; g < N_GROUPS; g++) {
            for (int32_t i = 0; i < groups[g]->n_tests; i++) {
                found = found || groups[g]->tests[i].op == (sy_op)op;
            }
        }
        op_verdict(runner, found, "%s: has no case", sy_op_name((sy_op)op));
    }
}

/* One device per number of threads. check has a worker of its own per stream, so two suffice; ref
   has one thread. The emulator runs threads in another order on each of three streams. */
static void open_devices(op_runner *runner)
{
    static const int32_t cpu[] = {1, 2, 3, 4}, check[] = {1, 3};
    const bool is_ref = strcmp(runner->backend, "ref") == 0;
    const bool is_check = strcmp(runner->backend, "check") == 0;
    const bool is_emulated = strcmp(runner->backend, "cuda_emulated") == 0;
    const bool is_cuda = strcmp(runner->backend, "cuda") == 0;
    runner->n_devices = is_ref || runner->quick ? 1 : is_check || is_cuda ? 2 : is_emulated ? 3 : 4;
    for (int32_t d = 0; d < runner->n_devices; d++) {
        sy_device_spec spec = {.backend = runner->backend, .threads = is_check ? check[d] : cpu[d]};
        const sy_status st = sy_device_open(&spec, &runner->dev[d]);
        if (st == SY_ERR_UNSUPPORTED && is_cuda) {
            printf("test_ops: %s\n", sy_error_message());
            exit(77); /* skipped: no GPU here */
        }
        op_must(st);
        op_must(sy_stream_create(runner->dev[d], "ops", &runner->stream[d]));
    }
    op_must(sy_device_open(&(sy_device_spec){.backend = "ref", .threads = 1}, &runner->ref));
    op_must(sy_stream_create(runner->ref, "oracle", &runner->ref_stream));
}

static void close_devices(op_runner *runner)
{
    for (int32_t d = 0; d < runner->n_devices; d++) {
        sy_stream_destroy(&runner->stream[d]);
        sy_device_close(&runner->dev[d]);
    }
    sy_stream_destroy(&runner->ref_stream);
    sy_device_close(&runner->ref);
}

static int run_suites(op_runner *runner)
{
    if (!runner->only_op) {
        check_coverage(runner);
    }
    each_test(runner, compare_test);
    if (is_wanted(runner, "rmsnorm") && !runner->quick) {
        op_norm_of_sum(runner);
    }
    if (strcmp(runner->backend, "ref") == 0 && !runner->quick) {
        each_test(runner, op_contract_test);
        op_golden(runner);
        op_grad_model(runner);
        op_grad_router(runner);
    }
    printf("test_ops %s: %d passed, %d failed\n", runner->backend, runner->n_passed,
           runner->n_failed);
    return runner->n_failed > 0 || runner->n_passed == 0;
}

static int usage(const char *arg)
{
    fprintf(stderr,
            "test_ops: unknown argument '%s'\n"
            "usage: test_ops --backend=NAME [--op=NAME,..] [--quick | --support | --time]\n",
            arg);
    return 2;
}

int main(int argc, char **argv)
{
    op_runner runner = {.backend = "cpu"};
    bool support = false, timing = false;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--backend=", 10) == 0) {
            runner.backend = argv[i] + 10;
        } else if (strncmp(argv[i], "--op=", 5) == 0) {
            runner.only_op = argv[i] + 5;
        } else if (strcmp(argv[i], "--quick") == 0) {
            runner.quick = true;
        } else if (strcmp(argv[i], "--support") == 0) {
            support = true;
        } else if (strcmp(argv[i], "--time") == 0) {
            timing = true;
        } else {
            return usage(argv[i]);
        }
    }
    int rc = 0;
    open_devices(&runner);
    if (support || timing) {
        each_test(&runner, support ? print_support : op_time_test);
    } else {
        rc = run_suites(&runner);
    }
    close_devices(&runner);
    return rc;
}
