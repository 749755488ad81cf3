/* What MPI does by itself, for benchmarks: the ceiling that our collectives stand beside. */
#ifndef SY_PARALLEL_BENCH_MPI_H
#define SY_PARALLEL_BENCH_MPI_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One bare MPI_Alltoallv of bytes: block p of send goes to rank p. counts and displs [size].
   Collective over MPI_COMM_WORLD. */
sy_status sy_bench_mpi_alltoallv(const void *send, void *recv, const int *counts,
                                 const int *displs);

#ifdef __cplusplus
}
#endif
#endif
