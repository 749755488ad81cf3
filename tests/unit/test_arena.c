/* The bump allocator: what it hands out, what it says when it is exhausted, and that measuring
 * tells what a pass will take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/arena.h"

static int open_device(void **state)
{
    sy_device_spec spec = {.backend = "cpu", .threads = 1};
    return sy_device_open(&spec, (sy_device **)state) == SY_OK ? 0 : -1;
}

static int close_device(void **state)
{
    sy_device_close((sy_device **)state);
    return 0;
}

static void alloc_pieces_are_aligned_and_apart(void **state)
{
    sy_arena arena;
    char *a = NULL, *b = NULL, *c = NULL;
    assert_int_equal(sy_arena_init(&arena, *state, 1024, SY_MEM_SCRATCH), SY_OK);
    assert_int_equal(sy_arena_alloc(&arena, 1, (void **)&a), SY_OK);
    assert_int_equal(sy_arena_alloc(&arena, 0, (void **)&b), SY_OK);
    assert_int_equal(sy_arena_alloc(&arena, 65, (void **)&c), SY_OK);
    assert_non_null(b);
    assert_int_equal((uintptr_t)a % 64, 0);
    assert_int_equal((uintptr_t)c % 64, 0);
    assert_true(c >= a + 1);
    memset(a, 1, 1);
    memset(c, 2, 65);
    assert_int_equal(a[0], 1);
    sy_arena_free(&arena);
}

static void alloc_beyond_capacity_names_tag_wanted_and_left(void **state)
{
    sy_arena arena;
    void *ptr = NULL;
    assert_int_equal(sy_arena_init(&arena, *state, 200, SY_MEM_SAVED), SY_OK);
    assert_int_equal(sy_arena_alloc(&arena, 100, &ptr), SY_OK);
    void *before = ptr;
    assert_int_equal(sy_arena_alloc(&arena, 73, &ptr), SY_ERR_MEMORY);
    assert_ptr_equal(ptr, before);
    assert_string_equal(sy_error_message(),
                        "the saved arena is exhausted: 73 bytes wanted, 72 of 200 left");
    sy_error_clear();
    assert_int_equal(sy_arena_alloc(&arena, 72, &ptr), SY_OK); /* the last byte can be had */
    assert_int_equal(sy_arena_alloc(&arena, -1, &ptr), SY_ERR_INTERNAL);
    sy_error_clear();
    sy_arena_free(&arena);
}

static void release_gives_back_what_came_after_the_mark(void **state)
{
    sy_arena arena;
    void *a = NULL, *b = NULL, *again = NULL;
    assert_int_equal(sy_arena_init(&arena, *state, 4096, SY_MEM_SCRATCH), SY_OK);
    assert_int_equal(sy_arena_alloc(&arena, 64, &a), SY_OK);
    int64_t mark = sy_arena_mark(&arena);
    assert_int_equal(sy_arena_alloc(&arena, 2000, &b), SY_OK);
    sy_arena_release(&arena, mark);
    assert_int_equal(sy_arena_alloc(&arena, 10, &again), SY_OK);
    assert_ptr_equal(again, b);
    assert_int_equal(arena.used, 128);
    assert_int_equal(arena.peak, 64 + 2048); /* 2000 rounded up to whole lines of 64 */
    sy_arena_free(&arena);
}

/* What a pass might do. */
static sy_status a_pass(sy_arena *arena)
{
    sy_status st = SY_OK;
    sy_tensor x, y, z;
    SY_TRY(sy_arena_2d(arena, SY_F32, 7, 33, &x));
    int64_t mark = sy_arena_mark(arena);
    SY_TRY(sy_arena_1d(arena, SY_BF16, 1001, &y));
    sy_arena_release(arena, mark);
    SY_TRY(sy_arena_tensor(arena, SY_I64, 3, (int64_t[]){2, 3, 5}, &z));
cleanup:
    return st;
}

static void measured_peak_is_just_enough(void **state)
{
    sy_device *dev = *state;
    sy_arena measuring, real;
    int64_t booked = dev->ledger.total_now, n_allocs = dev->ledger.n_allocs;
    assert_int_equal(sy_arena_init(&measuring, dev, -1, SY_MEM_SCRATCH), SY_OK);
    assert_int_equal(a_pass(&measuring), SY_OK);
    int64_t peak = measuring.peak;
    assert_int_equal(dev->ledger.total_now, booked);
    assert_int_equal(dev->ledger.n_allocs, n_allocs);
    sy_arena_free(&measuring);

    assert_int_equal(sy_arena_init(&real, dev, peak, SY_MEM_SCRATCH), SY_OK);
    assert_int_equal(dev->ledger.now[SY_MEM_SCRATCH], peak);
    assert_int_equal(a_pass(&real), SY_OK);
    assert_int_equal(real.peak, peak);
    sy_arena_free(&real);
    assert_int_equal(sy_arena_init(&real, dev, peak - 64, SY_MEM_SCRATCH), SY_OK);
    assert_int_equal(a_pass(&real), SY_ERR_MEMORY);
    sy_error_clear();
    sy_arena_free(&real);
}

static void tensor_is_contiguous_and_refuses_overflow(void **state)
{
    sy_arena arena;
    sy_tensor t = sy_tensor_none();
    assert_int_equal(sy_arena_init(&arena, *state, -1, SY_MEM_SCRATCH), SY_OK);
    assert_int_equal(sy_arena_2d(&arena, SY_BF16, 5, 0, &t), SY_OK);
    assert_non_null(t.data);
    assert_int_equal(sy_tensor_numel(&t), 0);
    assert_int_equal(sy_arena_2d(&arena, SY_BF16, 5, 6, &t), SY_OK);
    assert_true(sy_tensor_is_contiguous(&t) && t.shape[1] == 6 && t.dtype == SY_BF16);
    assert_int_equal(sy_arena_2d(&arena, SY_F64, INT64_C(1) << 31, INT64_C(1) << 31, &t),
                     SY_ERR_USAGE);
    sy_error_clear();
    assert_int_equal(t.shape[0], 5); /* untouched by the failure */
    sy_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alloc_pieces_are_aligned_and_apart),
        cmocka_unit_test(alloc_beyond_capacity_names_tag_wanted_and_left),
        cmocka_unit_test(release_gives_back_what_came_after_the_mark),
        cmocka_unit_test(measured_peak_is_just_enough),
        cmocka_unit_test(tensor_is_contiguous_and_refuses_overflow),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
