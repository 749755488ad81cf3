/* core/tensor: views point where index arithmetic says; sizes from outside cannot overflow. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/tensor.h"

static float at(const sy_tensor *t, int64_t i, int64_t j, int64_t k)
{
    return ((const float *)t->data)[i * t->stride[0] + j * t->stride[1] + k * t->stride[2]];
}

static void views_address_the_right_elements(void **state)
{
    (void)state;
    float data[5 * 6];
    for (int i = 0; i < 30; i++) {
        data[i] = (float)i;
    }
    sy_tensor t = sy_tensor_2d(data, SY_F32, 5, 6);
    sy_tensor rows = sy_tensor_rows(&t, 2, 3);
    sy_tensor part = sy_tensor_cols(&rows, 1, 4);
    sy_tensor heads = sy_tensor_heads(&part, 2);
    assert_int_equal(heads.n_dim, 3);
    assert_int_equal(heads.shape[0], 3);
    assert_int_equal(heads.shape[1], 2);
    assert_int_equal(heads.shape[2], 2);
    for (int i = 0; i < 3; i++) {
        for (int g = 0; g < 2; g++) {
            for (int d = 0; d < 2; d++) {
                assert_true(at(&heads, i, g, d) == (float)((2 + i) * 6 + 1 + 2 * g + d));
            }
        }
    }
    assert_true(sy_tensor_is_contiguous(&t));
    assert_true(sy_tensor_is_contiguous(&rows));
    assert_false(sy_tensor_is_contiguous(&part));
    assert_false(sy_tensor_is_contiguous(&heads));
    assert_int_equal(sy_tensor_bytes(&part), 48);
    assert_true(sy_tensor_same_shape(&part, &(sy_tensor){.n_dim = 2, .shape = {3, 4}}));
    assert_false(sy_tensor_same_shape(&part, &heads));
    assert_false(sy_tensor_same_shape(&part, &rows));
}

static void views_of_nothing_have_no_elements(void **state)
{
    (void)state;
    float one = 1;
    sy_tensor empty = sy_tensor_3d(&one, SY_F32, 4, 0, 3), none = sy_tensor_none();
    assert_int_equal(sy_tensor_numel(&empty), 0);
    assert_true(sy_tensor_is_contiguous(&empty));
    assert_int_equal(sy_tensor_numel(&none), 0);
    assert_int_equal(sy_tensor_bytes(&none), 0);
    sy_tensor no_rows = sy_tensor_rows(&empty, 4, 0);
    assert_int_equal(sy_tensor_numel(&no_rows), 0);
}

static void view_with_extent_one_is_contiguous_for_any_stride(void **state)
{
    (void)state;
    float data[8];
    sy_tensor t = sy_tensor_2d(data, SY_F32, 2, 4);
    sy_tensor row = sy_tensor_rows(&t, 1, 1);
    sy_tensor part = sy_tensor_cols(&row, 1, 2);
    assert_true(sy_tensor_is_contiguous(&part));
    assert_ptr_equal(part.data, data + 5);
}

static void format_names_dtype_and_shape(void **state)
{
    (void)state;
    char buf[128];
    float x = 0;
    sy_tensor t = sy_tensor_2d(&x, SY_BF16, 4, 256);
    assert_string_equal(sy_tensor_format(&t, buf, sizeof buf), "bf16 [4, 256]");
    t.data = NULL;
    assert_string_equal(sy_tensor_format(&t, buf, sizeof buf), "bf16 [4, 256] (absent)");
    int64_t huge[SY_MAX_DIM] = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
    t = (sy_tensor){.data = &x, .n_dim = 4};
    memcpy(t.shape, huge, sizeof huge);
    assert_non_null(strstr(sy_tensor_format(&t, buf, sizeof buf), "9223372036854775807]"));
}

static void size_product_overflow_is_refused(void **state)
{
    (void)state;
    int64_t out = 77;
    assert_int_equal(sy_size_product((int64_t[]){3, 5, 7}, 3, &out), SY_OK);
    assert_int_equal(out, 105);
    assert_int_equal(sy_size_product(NULL, 0, &out), SY_OK);
    assert_int_equal(out, 1);
    out = 77;
    assert_int_equal(sy_size_product((int64_t[]){(int64_t)1 << 32, (int64_t)1 << 31}, 2, &out),
                     SY_ERR_USAGE);
    assert_int_equal(sy_size_product((int64_t[]){2, -1}, 2, &out), SY_ERR_USAGE);
    assert_int_equal(sy_size_product((int64_t[]){0, -1}, 2, &out), SY_ERR_USAGE);
    assert_int_equal(out, 77);
    assert_int_equal(sy_size_product((int64_t[]){INT64_MAX, INT64_MAX, 0}, 3, &out), SY_OK);
    assert_int_equal(out, 0);
    sy_error_clear();
}

static void narrowing_out_of_range_is_refused(void **state)
{
    (void)state;
    int32_t out = 5;
    assert_int_equal(sy_i32_from_i64(INT32_MAX, &out), SY_OK);
    assert_int_equal(out, INT32_MAX);
    assert_int_not_equal(sy_i32_from_i64((int64_t)INT32_MAX + 1, &out), SY_OK);
    assert_int_not_equal(sy_i32_from_i64((int64_t)INT32_MIN - 1, &out), SY_OK);
    assert_int_equal(out, INT32_MAX);
    sy_error_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views_address_the_right_elements),
        cmocka_unit_test(views_of_nothing_have_no_elements),
        cmocka_unit_test(view_with_extent_one_is_contiguous_for_any_stride),
        cmocka_unit_test(format_names_dtype_and_shape),
        cmocka_unit_test(size_product_overflow_is_refused),
        cmocka_unit_test(narrowing_out_of_range_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
