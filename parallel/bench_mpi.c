#include "parallel/bench_mpi.h"

#include <mpi.h>

sy_status sy_bench_mpi_alltoallv(const void *send, void *recv, const int *counts, const int *displs)
{
    sy_status st = SY_OK;
    SY_REQUIRE(MPI_Alltoallv(send, counts, displs, MPI_BYTE, recv, counts, displs, MPI_BYTE,
                             MPI_COMM_WORLD) == MPI_SUCCESS,
               SY_ERR_COMM, "the bare MPI_Alltoallv failed");
cleanup:
    return st;
}
