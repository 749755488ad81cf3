#include "launch/bench_ceiling_impl.h"

#include <stdio.h>

#include "launch/bench_impl.h"

sy_status sy__ceiling_open(sy_comm *world, sy_device *dev, sy_dtype dtype, sy__ceiling *out)
{
    sy_status st = SY_OK;
    int64_t free_bytes = 0, total_bytes = 0;
    *out = (sy__ceiling){.world = world};
    SY_TRY(sy_device_capacity(dev, &free_bytes, &total_bytes));
    if (total_bytes > 0) {
        SY_TRY(sy_peak_create(dev, dtype, 0, &out->gpu));
        snprintf(out->name, sizeof out->name, "%s, %ld^3", dev->name, (long)sy_peak_n(out->gpu));
    } else {
        SY_TRY(sy_cpu_peak_create(dtype, SY__PEAK_N, dev->n_threads, &out->cpu));
        snprintf(out->name, sizeof out->name, "oneDNN, %d^3", SY__PEAK_N);
    }
cleanup:
    return st;
}

void sy__ceiling_close(sy__ceiling *ceiling)
{
    sy_peak_destroy(&ceiling->gpu);
    sy_cpu_peak_destroy(&ceiling->cpu);
}

int64_t sy__ceiling_host_bytes(const sy__ceiling *ceiling)
{
    return ceiling->cpu != NULL ? sy_cpu_peak_bytes(ceiling->cpu) : 0;
}

sy_status sy__ceiling_run(sy__ceiling *ceiling, double *flops_per_s)
{
    sy_status st = SY_OK;
    SY_TRY(sy_host_barrier(ceiling->world, "bench peak"));
    SY_TRY(ceiling->gpu != NULL ? sy_peak_run(ceiling->gpu, flops_per_s)
                                : sy_cpu_peak_run(ceiling->cpu, flops_per_s));
    SY_TRY(sy_host_all_reduce(ceiling->world, flops_per_s, 1, SY_F64, SY_SUM, "bench peak"));
cleanup:
    return st;
}
