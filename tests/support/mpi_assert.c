/* The verdict goes over a communicator of its own, so that it works whatever state the tested ones
   are in. */
#include "tests/support/mpi_assert.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/alloc.h"
#include "core/log.h"

enum { TEXT_BYTES = 1024 };

static MPI_Comm verdict_comm;
static sy_comm *test_world;

sy_comm *mpi_test_world(void)
{
    return test_world;
}

/* text: why it failed here; that of the lowest failing rank is everybody's. */
static void settle(bool ok, char *text, const char *file, int line)
{
    int rank = 0, size = 1;
    MPI_Comm_rank(verdict_comm, &rank);
    MPI_Comm_size(verdict_comm, &size);
    int first = ok ? size : rank;
    MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, verdict_comm);
    if (first < size) {
        MPI_Bcast(text, TEXT_BYTES, MPI_CHAR, first, verdict_comm);
        if (rank == 0) {
            print_error("rank %d of %d: %s\n", first, size, text);
        }
        _fail(file, line);
    }
}

void mpi_assert_all(bool ok, const char *text, const char *file, int line)
{
    char why[TEXT_BYTES];
    snprintf(why, sizeof why, "%s", text);
    settle(ok, why, file, line);
}

void mpi_assert_status(sy_status st, sy_status expected, const char *text, const char *file,
                       int line)
{
    char why[TEXT_BYTES];
    snprintf(why, sizeof why, "%s is '%s', not '%s': %.600s", text, sy_status_name(st),
             sy_status_name(expected), sy_error_message());
    sy_error_clear();
    settle(st == expected, why, file, line);
}

int mpi_test_main(const char *name, const struct CMUnitTest *tests, size_t n_tests)
{
    int level = 0, n_failed = 1;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
    if (level == MPI_THREAD_MULTIPLE && sy_comm_world(true, &test_world) == SY_OK) {
        MPI_Comm_dup(MPI_COMM_WORLD, &verdict_comm);
        sy_log_setup(test_world->rank, test_world->size, SY_LOG_INFO);
        if (test_world->rank != 0 &&
            (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))) {
            return 1;
        }
        cmocka_set_test_filter(getenv("SY_TEST_FILTER"));
        n_failed = _cmocka_run_group_tests(name, tests, n_tests, NULL, NULL);
        MPI_Comm_free(&verdict_comm);
        sy_comm_destroy(&test_world);
        if (n_failed == 0 && sy_alloc_live() != 0) {
            print_error("%lld blocks of memory were never freed\n", (long long)sy_alloc_live());
            n_failed = 1;
        }
    }
    MPI_Finalize();
    return n_failed;
}
