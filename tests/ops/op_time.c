/* Time of the largest case of an op, per compute dtype and number of threads. Prints only; nobody
 * judges it. */
#include <stdio.h>

#include "core/clock.h"
#include "tests/ops/op_test.h"

static int64_t size_of(op_runner *runner, const op_test *test, const op_case *c)
{
    op_instance in;
    int64_t n = 0;
    op_instance_build(&in, runner, test, c, SY_F32, SY_F32);
    for (int32_t i = 0; i < in.info->n_operands; i++) {
        n += in.operand[i].values ? op_numel(&in.operand[i]) : 0;
    }
    op_instance_free(&in);
    return n;
}

static const op_case *largest_case(op_runner *runner, const op_test *test)
{
    const op_case *best = test->cases;
    int64_t best_size = -1;
    for (int32_t i = 0; i < test->n_cases; i++) {
        const int64_t size = size_of(runner, test, &test->cases[i]);
        if (size > best_size) {
            best = &test->cases[i];
            best_size = size;
        }
    }
    return best;
}

/* Seconds per call over at least 50 ms, after one call to warm up. */
static double seconds_per_call(op_loaded *l)
{
    int64_t n = 0;
    op_must(op_launch(l));
    op_must(sy_stream_sync(l->stream));
    const double begin = sy_clock_s();
    double spent = 0;
    for (; spent < 0.05; n++) {
        op_must(op_launch(l));
        op_must(sy_stream_sync(l->stream));
        spent = sy_clock_s() - begin;
    }
    return spent / (double)n;
}

void op_time_test(op_runner *runner, const op_test *test)
{
    static const sy_dtype compute[] = {SY_F32, SY_BF16, SY_F64};
    const op_case *c = largest_case(runner, test);
    char text[300];
    op_case_format(c, text, sizeof text);
    for (size_t k = 0; k < sizeof compute / sizeof compute[0]; k++) {
        op_instance in;
        if (!runner->dev[0]->supports[compute[k]]) {
            continue;
        }
        op_instance_build(&in, runner, test, c, compute[k], runner->dev[0]->wide);
        for (int32_t d = 0; d < runner->n_devices && (k == 0 || op_has_compute_dtype(&in)); d++) {
            op_loaded l;
            op_load(&l, &in, runner->dev[d], runner->stream[d], compute[k]);
            printf("%-20s %-5s threads %d  %10.1f us  [%s]\n", in.info->name,
                   sy_dtype_name(compute[k]), runner->dev[d]->n_threads, 1e6 * seconds_per_call(&l),
                   text);
            op_unload(&l);
        }
        op_instance_free(&in);
    }
}
