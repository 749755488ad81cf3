/* Agreement: one rank's failure is everybody's, with its words and its place. */
#include "tests/support/mpi_assert.h"

#include <stdio.h>
#include <string.h>

#include "parallel/agree.h"
#include "parallel/same.h"

static sy_status open_the_moon(int32_t rank)
{
    return sy_error(SY_ERR_IO, "cannot open '/moon/%d'", rank);
}

static sy_status fail_here(int32_t rank)
{
    sy_status st = SY_OK;
    SY_TRY(open_the_moon(rank));
cleanup:
    return st;
}

static void agree_nobody_failed_is_ok(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    int64_t before = world->n_issued;
    assert_all(sy_agree(world, SY_OK) == SY_OK);
    assert_all(world->n_issued == before + 1);
    assert_all(sy_error_message()[0] == '\0');
}

static bool trace_is_of(const sy_trace *trace, int32_t rank)
{
    char message[64];
    snprintf(message, sizeof message, "cannot open '/moon/%d'", rank);
    return trace->status == SY_ERR_IO && trace->rank == rank && trace->n_frames == 2 &&
           strcmp(trace->message, message) == 0 &&
           strcmp(trace->frames[0].func, "open_the_moon") == 0 &&
           strcmp(trace->frames[1].func, "fail_here") == 0 &&
           strstr(trace->frames[1].file, "test_agree.c") && trace->frames[1].line > 0;
}

static void agree_one_rank_failed_every_rank_has_its_trace(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    for (int32_t who = 0; who < world->size; who++) {
        sy_trace trace;
        sy_status mine = world->rank == who ? fail_here(who) : SY_OK;
        sy_status all = sy_agree(world, mine);
        sy_error_take(&trace);
        assert_all(all == SY_ERR_IO);
        assert_all(trace_is_of(&trace, who));
        /* A second agreement on the way up hands the same trace on. */
        all = sy_agree(world, all);
        sy_error_take(&trace);
        assert_all(all == SY_ERR_IO && strstr(trace.message, "/moon/"));
        assert_all(strcmp(trace.frames[0].func, "open_the_moon") == 0);
        sy_error_clear();
    }
}

static void agree_worst_status_wins_and_then_the_lowest_rank(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    const int32_t last = world->size - 1;
    sy_trace trace;
    /* Everybody fails; all but rank 0 worse than it. */
    sy_status mine =
        world->rank == 0 && last > 0 ? sy_error(SY_ERR_USAGE, "little") : fail_here(world->rank);
    sy_status all = sy_agree(world, mine);
    sy_error_take(&trace);
    sy_error_clear();
    assert_all(all == SY_ERR_IO);
    assert_all(trace_is_of(&trace, last > 0 ? 1 : 0));
}

static void agree_same_names_both_ends(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    assert_all_ok(sy_agree_same(world, INT64_MIN, "seed"));
    assert_all_ok(sy_agree_same(world, -1, "seed"));
    if (world->size > 1) {
        sy_status st = sy_agree_same(world, 100 + world->rank, "data.seed");
        char ends[64];
        snprintf(ends, sizeof ends, "from 100 to %d", 99 + world->size);
        bool named = strstr(sy_error_message(), "'data.seed'") && strstr(sy_error_message(), ends);
        assert_all(named);
        assert_all_status(st, SY_ERR_USAGE);
    }
}

static sy_same item(const char *what, uint64_t digest)
{
    sy_same item = {.mend = "mend it", .digest = digest};
    snprintf(item.what, sizeof item.what, "%s", what);
    snprintf(item.here, sizeof item.here, "it is %d", (int)(digest % 1000));
    return item;
}

static void same_items_that_are_alike_cost_one_collective(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    sy_same all[3] = {item("a", 0), item("b", UINT64_MAX), item("c", INT64_MAX)};
    const int64_t before = world->n_issued;
    assert_all_ok(sy_same_check(world, all, 3));
    assert_all(world->n_issued <= before + 2);
}

static void same_item_that_differs_is_named_with_its_ranks(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    const int32_t last = world->size - 1;
    /* a is alike everywhere, b is another one on the last rank, c on the first */
    sy_same all[3] = {item("a", 5), item("b", world->rank == last ? 8 : UINT64_MAX / 2 + 7),
                      item("c", world->rank > 0)};
    if (world->size > 1) {
        char words[96];
        sy_status st = sy_same_check(world, all, 3);
        snprintf(words, sizeof words,
                 "b is not the same on all ranks: rank %d: it is 8; rank 0: ", last);
        bool named = strstr(sy_error_message(), words) && strstr(sy_error_message(), "mend it");
        assert_all(named);
        assert_all_status(st, SY_ERR_USAGE);
        st = sy_same_check(world, &all[2], 1);
        named = strstr(sy_error_message(), world->size == 2 ? ": rank 1: it is 1; rank 0: it is 0"
                                                            : ": rank 0: it is 0; rank 1: it is 1");
        assert_all(named);
        assert_all_status(st, SY_ERR_USAGE);
    }
    if (world->size > 3) {
        sy_same two = item("d", world->rank == 1 || world->rank == 2 ? 3 : 4 + world->rank);
        sy_status st = sy_same_check(world, &two, 1);
        bool named = strstr(sy_error_message(), "ranks 0, 3: it is 4; rank 1: it is 3") != NULL;
        assert_all(named);
        assert_all_status(st, SY_ERR_USAGE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agree_nobody_failed_is_ok),
        cmocka_unit_test(agree_one_rank_failed_every_rank_has_its_trace),
        cmocka_unit_test(agree_worst_status_wins_and_then_the_lowest_rank),
        cmocka_unit_test(agree_same_names_both_ends),
        cmocka_unit_test(same_items_that_are_alike_cost_one_collective),
        cmocka_unit_test(same_item_that_differs_is_named_with_its_ranks),
    };
    return mpi_test_main("agree", tests, sizeof tests / sizeof tests[0]);
}
