/* core/alloc: aligned, zeroed, counted; failure leaves everything as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/alloc.h"

/* The address sanitizer ends the process on an impossible size unless told to answer as calloc
 * does. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static bool is_zero(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i]) {
            return false;
        }
    }
    return true;
}

static void alloc_any_size_is_aligned_and_zero(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 3, 63, 64, 65, 4096, 1000003};
    int64_t live = sy_alloc_live(), total = sy_alloc_total();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *p = NULL;
        assert_int_equal(sy_alloc(sizes[i], 1, (void **)&p), SY_OK);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        assert_true(is_zero(p, (size_t)sizes[i]));
        memset(p, 0xff, (size_t)sizes[i]);
        assert_int_equal(sy_alloc_live(), live + 1);
        sy_free(&p);
        assert_null(p);
        sy_free(&p);
        assert_int_equal(sy_alloc_live(), live);
    }
    assert_int_equal(sy_alloc_total(), total + 8);
}

static void alloc_impossible_size_is_refused(void **state)
{
    (void)state;
    void *p = &p;
    int64_t live = sy_alloc_live();
    assert_int_equal(sy_alloc(INT64_MAX, 8, &p), SY_ERR_MEMORY);
    assert_int_equal(sy_alloc(-1, 1, &p), SY_ERR_MEMORY);
    assert_int_equal(sy_alloc(INT64_MAX, 2, &p), SY_ERR_MEMORY);
    assert_int_equal(sy_alloc((int64_t)1 << 60, 1, &p), SY_ERR_MEMORY);
    assert_ptr_equal(p, &p);
    assert_int_equal(sy_alloc_live(), live);
    sy_error_clear();
}

static void realloc_growth_keeps_old_and_zeroes_new(void **state)
{
    (void)state;
    int32_t *p = NULL;
    assert_int_equal(sy_realloc(3, sizeof *p, (void **)&p), SY_OK);
    memcpy(p, (int32_t[]){7, 8, 9}, 12);
    assert_int_equal(sy_realloc(1000, sizeof *p, (void **)&p), SY_OK);
    assert_memory_equal(p, ((int32_t[]){7, 8, 9}), 12);
    assert_true(is_zero((unsigned char *)(p + 3), 997 * sizeof *p));
    memset(p + 2, 0xff, 998 * sizeof *p);
    assert_int_equal(sy_realloc(2, sizeof *p, (void **)&p), SY_OK);
    assert_int_equal(sy_realloc(10, sizeof *p, (void **)&p), SY_OK);
    assert_memory_equal(p, ((int32_t[]){7, 8, 0, 0}), 16);
    int32_t *before = p;
    assert_int_equal(sy_realloc(INT64_MAX, sizeof *p, (void **)&p), SY_ERR_MEMORY);
    assert_ptr_equal(p, before);
    assert_int_equal(p[1], 8);
    sy_error_clear();
    sy_free(&p);
}

static void strings_are_copied_and_formatted(void **state)
{
    (void)state;
    char *a = NULL, *b = NULL;
    int64_t live = sy_alloc_live();
    assert_int_equal(sy_strdup("", &a), SY_OK);
    assert_string_equal(a, "");
    assert_int_equal(sy_asprintf(&b, "%s-%d-%.1f", "x", 12, 0.5), SY_OK);
    assert_string_equal(b, "x-12-0.5");
    sy_free(&b);
    sy_free(&a);
    assert_int_equal(sy_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alloc_any_size_is_aligned_and_zero),
        cmocka_unit_test(alloc_impossible_size_is_refused),
        cmocka_unit_test(realloc_growth_keeps_old_and_zeroes_new),
        cmocka_unit_test(strings_are_copied_and_formatted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
