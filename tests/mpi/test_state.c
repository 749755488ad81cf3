/* Boxes: for every range of small tensors they are contiguous, in order, and cover it exactly. */
#include "tests/support/mpi_assert.h"

#include <string.h>

#include "parallel/state.h"

/* The flat index of the i-th element of a box, by walking its coordinates. */
static int64_t flat_index(const sy_box *box, const int64_t *shape, int64_t i)
{
    int64_t coord[SY_MAX_DIM], flat = 0;
    for (int32_t d = box->n_dim - 1; d >= 0; d--) {
        coord[d] = box->start[d] + i % box->shape[d];
        i /= box->shape[d];
        if (coord[d] >= shape[d]) {
            return -1;
        }
    }
    for (int32_t d = 0; d < box->n_dim; d++) {
        flat = flat * shape[d] + coord[d];
    }
    return flat;
}

static bool covers(int32_t n_dim, const int64_t *shape, int64_t begin, int64_t end)
{
    sy_box box[2 * SY_MAX_DIM];
    int32_t n = sy_boxes_from_range(n_dim, shape, begin, end, box);
    int64_t next = begin;
    if (n > 2 * n_dim - 1) {
        return false;
    }
    for (int32_t b = 0; b < n; b++) {
        if (box[b].n_dim != n_dim || sy_box_numel(&box[b]) < 1 ||
            sy_box_offset(&box[b], shape) != next) {
            return false;
        }
        for (int64_t i = 0; i < sy_box_numel(&box[b]); i++) {
            if (flat_index(&box[b], shape, i) != next++) {
                return false;
            }
        }
    }
    return next == end;
}

static void boxes_of_every_range_cover_it_in_order(void **state)
{
    (void)state;
    static const int64_t shapes[][SY_MAX_DIM] = {{7},       {5, 4},       {1, 9},      {9, 1},
                                                 {3, 4, 5}, {2, 3, 2, 4}, {3, 1, 4, 1}};
    static const int32_t n_dims[] = {1, 2, 2, 2, 3, 4, 4};
    for (int s = 0; s < 7; s++) {
        int64_t n = 1;
        bool ok = true;
        for (int32_t d = 0; d < n_dims[s]; d++) {
            n *= shapes[s][d];
        }
        for (int64_t begin = 0; begin <= n; begin++) {
            for (int64_t end = begin; end <= n; end++) {
                ok = ok && covers(n_dims[s], shapes[s], begin, end);
            }
        }
        assert_all(ok);
    }
}

static void boxes_of_whole_rows_are_one_box(void **state)
{
    (void)state;
    const int64_t shape[] = {8, 6, 5};
    sy_box box[5];
    assert_all(sy_boxes_from_range(3, shape, 2 * 30, 7 * 30, box) == 1);
    assert_all(box[0].start[0] == 2 && box[0].shape[0] == 5 && box[0].shape[2] == 5);
    assert_all(sy_boxes_from_range(3, shape, 40, 40, box) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boxes_of_every_range_cover_it_in_order),
        cmocka_unit_test(boxes_of_whole_rows_are_one_box),
    };
    return mpi_test_main("state", tests, sizeof tests / sizeof tests[0]);
}
