/* parallel/desync: ranks that made the same calls have the same number; a call that one rank made
   and the others did not, and that hung nobody, is found and named with both calls. */
#include <stdio.h>
#include <string.h>

#include "parallel/agree.h"
#include "tests/support/mpi_assert.h"

static sy_status spread(sy_comm *comm, int64_t n, const char *what)
{
    char data[64] = {0};
    sy_comm_args args = {.recv = data, .n = n, .row_bytes = 1, .root = 0, .what = what, .layer = 2};
    return sy_broadcast(comm, &args);
}

static bool in_step(sy_comm *world)
{
    int64_t number[2] = {sy_comm_calls_take(), 0};
    number[1] = ~number[0];
    return sy_host_all_reduce(world, number, 2, SY_I64, SY_MIN, "numbers") == SY_OK &&
           number[0] == ~number[1];
}

static void ranks_with_the_same_calls_have_the_same_number(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    (void)sy_comm_calls_take();
    for (int i = 0; i < 300; i++) { /* more than the recorder keeps */
        assert_all_ok(spread(world, i % 64, "same"));
    }
    assert_all(in_step(world));
    assert_all(sy_comm_calls_take() >= 0 && sy_comm_calls_take() < 1 << 24);
}

/* Rank 0 is the root, whose small broadcast waits for nobody. */
static void call_that_one_rank_made_alone_is_named(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world(), *aside = NULL;
    char message[512];
    assert_all_ok(sy_comm_split(world, 0, world->rank, NULL, "aside", &aside));
    (void)sy_comm_calls_take();
    sy_status st = spread(world, 8, "before");
    if (world->rank == 0) {
        st = spread(aside, 16, "left out");
    }
    st = st == SY_OK ? spread(world, 24, "after") : st;
    const bool same = in_step(world);
    assert_all_ok(st);
    assert_all(same == (world->size == 1));
    if (world->size > 1) {
        st = sy_comm_calls_compare(world);
        snprintf(message, sizeof message, "%s", sy_error_message());
        assert_all_status(st, SY_ERR_INTERNAL);
        assert_all(
            strstr(message, "'left out' (broadcast over aside, call 1, 16 bytes) of layer 2"));
        assert_all(strstr(message, "'after' (broadcast over world, call "));
        assert_all(world->size == 2 ||
                   strstr(message, "rank 0 called 'left out'")); /* the others are more */
    }
    sy_comm_destroy(&aside);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_with_the_same_calls_have_the_same_number),
        cmocka_unit_test(call_that_one_rank_made_alone_is_named),
    };
    return mpi_test_main("desync", tests, sizeof tests / sizeof tests[0]);
}
