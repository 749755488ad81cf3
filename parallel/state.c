/* Boxes of a row-major tensor. */
#include "parallel/state.h"

int64_t sy_box_numel(const sy_box *box)
{
    int64_t n = 1;
    for (int32_t d = 0; d < box->n_dim; d++) {
        n *= box->shape[d];
    }
    return n;
}

int64_t sy_box_offset(const sy_box *box, const int64_t *shape_glb)
{
    int64_t offset = 0;
    for (int32_t d = 0; d < box->n_dim; d++) {
        offset = offset * shape_glb[d] + box->start[d];
    }
    return offset;
}

/* The longest contiguous box that starts at `begin` and does not reach beyond `end`: as many whole
   blocks of one dimension as fit, of the outermost dimension that `begin` is aligned to. */
static int64_t take_box(int32_t n_dim, const int64_t *shape, int64_t begin, int64_t end,
                        sy_box *box)
{
    int32_t d = n_dim - 1; /* counts blocks of `block` elements along dimension d */
    int64_t block = 1;
    while (d > 0 && begin % (block * shape[d]) == 0 && end - begin >= block * shape[d]) {
        block *= shape[d--];
    }
    int64_t rest = begin / block;
    int64_t n = (end - begin) / block, room = shape[d] - rest % shape[d];
    n = n < room ? n : room;
    box->n_dim = n_dim;
    for (int32_t i = n_dim - 1; i > d; i--) {
        box->start[i] = 0;
        box->shape[i] = shape[i];
    }
    for (int32_t i = d; i >= 0; i--) {
        box->start[i] = rest % shape[i];
        box->shape[i] = i == d ? n : 1;
        rest /= shape[i];
    }
    return n * block;
}

int32_t sy_boxes_from_range(int32_t n_dim, const int64_t *shape, int64_t begin, int64_t end,
                            sy_box *out)
{
    int32_t n = 0;
    while (begin < end) {
        begin += take_box(n_dim, shape, begin, end, &out[n++]);
    }
    return n;
}
