/* CMocka on several ranks. A plain assert that fails on one rank leaves the others waiting in the
   next collective for ever: here the verdict is reduced first, then every rank asserts the same.
   Every assert_all is collective: all ranks come by it, in the same order. */
#ifndef SY_TESTS_MPI_ASSERT_H
#define SY_TESTS_MPI_ASSERT_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "parallel/comm.h"

/* Starts MPI (MPI_THREAD_MULTIPLE), runs the cases on every rank (SY_TEST_FILTER: those whose names
   match), ends MPI. Rank 0 speaks. Memory
   that is still held at the end is a failure too. */
int mpi_test_main(const char *name, const struct CMUnitTest *tests, size_t n_tests);
/* The world of the test, host memory. */
sy_comm *mpi_test_world(void);

/* True on every rank, or every rank fails with the lowest rank where it is not. */
#define assert_all(cond) mpi_assert_all((cond), #cond, __FILE__, __LINE__)
/* SY_OK on every rank; else the message of the lowest rank that has another status. Clears the
 * trace. */
#define assert_all_ok(status) mpi_assert_status((status), SY_OK, #status, __FILE__, __LINE__)
/* Every rank has this status. Clears the trace; take the message before. */
#define assert_all_status(status, expected)                                                        \
    mpi_assert_status((status), (expected), #status, __FILE__, __LINE__)

void mpi_assert_all(bool ok, const char *text, const char *file, int line);
void mpi_assert_status(sy_status st, sy_status expected, const char *text, const char *file,
                       int line);

#endif
