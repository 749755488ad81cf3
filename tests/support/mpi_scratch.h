/* A folder of a test's own that all ranks know. */
#ifndef SY_TESTS_SUPPORT_MPI_SCRATCH_H
#define SY_TESTS_SUPPORT_MPI_SCRATCH_H

#include "tests/support/mpi_assert.h"
#include "tests/support/scratch.h"

static char folder[SCRATCH_PATH];
static void *own_scratch; /* rank 0's. Not cmocka's state, which may be the test's case */

/* Setup and teardown of a test; they leave its state alone. */
static inline int open_folder(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    bool ok = world->rank != 0 || scratch_setup(&own_scratch) == 0;
    if (ok && world->rank == 0) {
        snprintf(folder, sizeof folder, "%s", ((scratch *)own_scratch)->dir);
    }
    assert_all(ok);
    assert_all_ok(sy_host_broadcast(world, folder, sizeof folder, 0, "scratch folder"));
    return 0;
}

static inline int close_folder(void **state)
{
    (void)state;
    bool ok = mpi_test_world()->rank != 0 || scratch_teardown(&own_scratch) == 0;
    assert_all(ok);
    return 0;
}

static inline const char *path_of(const char *name, char path[2 * SCRATCH_PATH])
{
    snprintf(path, 2 * SCRATCH_PATH, "%s/%s", folder, name);
    return path;
}

#endif
