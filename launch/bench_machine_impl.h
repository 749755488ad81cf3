/* What the files of `bench machine` share. */
#ifndef SY_LAUNCH_BENCH_MACHINE_IMPL_H
#define SY_LAUNCH_BENCH_MACHINE_IMPL_H

#include "launch/bench_step_impl.h"
#include "train/fit.h"

/* Seconds of collectives over all ranks, by bytes. Collective over the bench's world. */
sy_status sy__bench_collectives(const sy__bench *bench, sy_machine *machine);

#endif
