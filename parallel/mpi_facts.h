/* What MPI says about itself, for people. */
#ifndef SY_PARALLEL_MPI_FACTS_H
#define SY_PARALLEL_MPI_FACTS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_mpi_facts {
    char library[128];    /* "Open MPI v4.1.4" */
    char transports[128]; /* "tcp vader self ob1": what this process has loaded; "" where
                             that does not tell */
    bool has_ulfm;
} sy_mpi_facts;

/* Requires that MPI is up. Not collective. */
void sy_mpi_facts_get(sy_mpi_facts *out);

#ifdef __cplusplus
}
#endif
#endif
