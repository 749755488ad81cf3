/* What two checkpoints differ in, over every number of ranks: values that are no numbers, values
   without bounds, and integers that a double does not hold. */
#include "tests/support/mpi_assert.h"

#include <math.h>

#include "checkpoint/diff.h"
#include "core/alloc.h"
#include "tests/support/mpi_scratch.h"

enum { N = 3 << 16 }; /* three blocks, so that other ranks than the first have something to say */

static double values[N];
static int64_t step;

/* Rank 0 writes all. */
static sy_status walk(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    const bool write = mpi_test_world()->rank == 0;
    sy_part numbers = {.box = {.n_dim = 1, .shape = {N}}, .data = values, .write = write};
    sy_part counter = {.data = &step, .write = write};
    (void)self;
    SY_TRY(emit(to, &(sy_field){.name = "model/norm",
                                .dtype = SY_F64,
                                .n_dim = 1,
                                .shape_glb = {N},
                                .n_parts = 1,
                                .parts = &numbers}));
    SY_TRY(emit(
        to, &(sy_field){.name = "state/step", .dtype = SY_I64, .n_parts = 1, .parts = &counter}));
cleanup:
    return st;
}

/* A file with one value at element `at`, zero elsewhere. */
static void save(const char *name, int64_t at, double value, int64_t counter,
                 char path[2 * SCRATCH_PATH])
{
    sy_owner owner = {.name = "all", .walk = walk};
    sy_state state = {.owners = &owner, .n_owners = 1, .kind = "model", .config_yaml = ""};
    snprintf(path, 2 * SCRATCH_PATH, "%s/%s", folder, name);
    values[at] = value;
    step = counter;
    assert_all_ok(sy_checkpoint_save(path, &state, mpi_test_world()));
    values[at] = 0;
}

/* The one row in which files with a and b at the same place differ; none where `same`. */
static sy_diff_row compare(int64_t at, double a, double b, double tolerance, bool same)
{
    char path[2][2 * SCRATCH_PATH];
    sy_diff diff = {0};
    sy_diff_row row = {0};
    save("a.h5", at, a, 1, path[0]);
    save("b.h5", at, b, 1, path[1]);
    assert_all_ok(sy_checkpoint_diff(path[0], path[1], tolerance, mpi_test_world(), &diff));
    assert_all(diff.n == (same ? 0 : 1));
    if (!same) {
        row = diff.row[0];
        assert_all(row.n_different == 1 && row.first == at);
    }
    sy_diff_free(&diff);
    return row;
}

static void infinity_is_near_nothing_else(void **state)
{
    (void)state;
    assert_all(isinf(compare(N - 1, INFINITY, 1, 0.5, false).largest_abs));
    assert_all(isinf(compare(0, -INFINITY, INFINITY, 0.5, false).largest_abs));
    compare(0, INFINITY, INFINITY, 0.5, true);
    compare(0, 2, 1, 0.5, true);
}

static void value_that_is_no_number_is_the_largest_difference_on_any_rank(void **state)
{
    (void)state;
    for (int64_t at = 0; at < N; at += N / 3) {
        sy_diff_row row = compare(at, NAN, 1, 0, false);
        assert_all(isnan(row.largest_abs) && isnan(row.largest_rel));
    }
    compare(N - 1, NAN, NAN, 0.5, true);
}

static void integers_are_compared_whole(void **state)
{
    (void)state;
    char path[2][2 * SCRATCH_PATH];
    sy_diff diff = {0};
    save("a.h5", 0, 0, (int64_t)1 << 53, path[0]);
    save("b.h5", 0, 0, ((int64_t)1 << 53) + 1, path[1]);
    assert_all_ok(sy_checkpoint_diff(path[0], path[1], 0.5, mpi_test_world(), &diff));
    assert_all(diff.n == 1);
    assert_all(strcmp(diff.row[0].path, "state/step") == 0 && diff.row[0].n_different == 1);
    sy_diff_free(&diff);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_folder, close_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(infinity_is_near_nothing_else),
        CASE(value_that_is_no_number_is_the_largest_difference_on_any_rank),
        CASE(integers_are_compared_whole),
    };
    return mpi_test_main("checkpoint_diff", tests, sizeof tests / sizeof tests[0]);
}
