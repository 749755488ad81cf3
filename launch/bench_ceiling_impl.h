/* The ceiling of matrix products that figures of a device stand beside: on a CPU oneDNN's own large
   product (backend/cpu_peak.h), on a GPU its backend's product of 8192, which is cuBLAS's. */
#ifndef SY_LAUNCH_BENCH_CEILING_IMPL_H
#define SY_LAUNCH_BENCH_CEILING_IMPL_H

#include "backend/cpu_peak.h"
#include "parallel/comm.h"
#include "train/peak.h"

typedef struct sy__ceiling {
    sy_comm *world;
    sy_cpu_peak *cpu;
    sy_peak *gpu;
    char name[64]; /* "oneDNN, 2048^3" */
} sy__ceiling;

/* Not collective, both. close is good for one that was never opened. */
sy_status sy__ceiling_open(sy_comm *world, sy_device *dev, sy_dtype dtype, sy__ceiling *out);
void sy__ceiling_close(sy__ceiling *ceiling);
/* Bytes of host memory that it holds. Not collective. */
int64_t sy__ceiling_host_bytes(const sy__ceiling *ceiling);
/* FLOP/s of all ranks together, each multiplying while the others do. Allocates nothing. Collective
 * over world. */
sy_status sy__ceiling_run(sy__ceiling *ceiling, double *flops_per_s);

#endif
