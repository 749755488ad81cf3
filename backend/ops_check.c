/* What the checks of the ops are made of: dtype, shape and strides of one operand, rules over
 * scalars, and the search for operands that overlap. */
#include "backend/ops_check_impl.h"

#include <inttypes.h>
#include <stdio.h>

unsigned sy__set_a(const sy__check *c)
{
    unsigned set = 0;
    for (int32_t d = 0; d < SY_N_DTYPES; d++) {
        set |= c->dev->supports[d] ? SY_SET(d) : 0;
    }
    return set;
}

unsigned sy__set_w(const sy__check *c)
{
    return SY_SET(c->dev->wide);
}

sy__check sy__check_start(const sy_device *dev, sy_op op, const void *args)
{
    return (sy__check){.dev = dev, .args = args, .info = sy_op_describe(op)};
}

static const sy_tensor *operand_at(const sy__check *c, int32_t i)
{
    return (const sy_tensor *)((const char *)c->args + c->info->operands[i].offset);
}

static const char *operand_name(const sy__check *c, const sy_tensor *t)
{
    for (int32_t i = 0; i < c->info->n_operands; i++) {
        if (operand_at(c, i) == t) {
            return c->info->operands[i].name;
        }
    }
    return "an operand";
}

/* ---- dtype and shape ---- */

static void format_wanted(char *buf, size_t bytes, unsigned dtypes, int32_t n_dim,
                          const int64_t *shape)
{
    size_t n = 0;
    for (int32_t d = 0; d < SY_N_DTYPES; d++) {
        if (dtypes & SY_SET(d)) {
            n += (size_t)snprintf(buf + n, bytes - n, "%s%s", n ? " or " : "",
                                  sy_dtype_name((sy_dtype)d));
        }
    }
    for (int32_t d = 0; d < n_dim; d++) {
        n += (size_t)snprintf(buf + n, bytes - n, "%s", d ? ", " : " [");
        n += shape[d] == SY_ANY ? (size_t)snprintf(buf + n, bytes - n, "any")
                                : (size_t)snprintf(buf + n, bytes - n, "%" PRId64, shape[d]);
    }
    snprintf(buf + n, bytes - n, "%s", n_dim > 0 ? "]" : "");
}

static void refuse_kind(sy__check *c, const sy_tensor *t, unsigned dtypes, int32_t n_dim,
                        const int64_t *shape)
{
    char found[160], wanted[200];
    format_wanted(wanted, sizeof wanted, dtypes, n_dim, shape);
    c->st = sy_error(SY_ERR_INTERNAL, "op %s: %s is %s, wanted %s", c->info->name,
                     operand_name(c, t), sy_tensor_format(t, found, sizeof found), wanted);
}

static void refuse_strides(sy__check *c, const sy_tensor *t, const char *wanted)
{
    char found[160], strides[100] = "";
    size_t n = 0;
    for (int32_t d = 0; d < t->n_dim; d++) {
        n += (size_t)snprintf(strides + n, sizeof strides - n, "%s%" PRId64, d ? ", " : "",
                              t->stride[d]);
    }
    c->st = sy_error(SY_ERR_INTERNAL, "op %s: %s is %s with strides [%s], wanted %s", c->info->name,
                     operand_name(c, t), sy_tensor_format(t, found, sizeof found), strides, wanted);
}

/* Elements from the first to one past the last of dimensions dim .. n_dim-1. */
static int64_t extent_from(const sy_tensor *t, int32_t dim)
{
    int64_t last = 0;
    for (int32_t d = dim; d < t->n_dim; d++) {
        last += (t->shape[d] - 1) * t->stride[d];
    }
    return last + 1;
}

/* Last stride 1, and no element twice: the rows of a 2-d tensor lie apart; of a 3-d one the two
   outer dimensions may come in either order. */
static bool strides_fit(const sy_tensor *t)
{
    const int32_t last = t->n_dim - 1;
    if (last < 0 || (t->shape[last] > 1 && t->stride[last] != 1)) {
        return false;
    }
    for (int32_t d = 0; d < last; d++) {
        if (t->shape[d] > 1 && t->stride[d] < t->shape[last]) {
            return false;
        }
    }
    if (t->n_dim == 3 && t->shape[0] > 1 && t->shape[1] > 1) {
        const int64_t *shape = t->shape, *stride = t->stride;
        return stride[0] >= (shape[1] - 1) * stride[1] + shape[2] ||
               stride[1] >= (shape[0] - 1) * stride[0] + shape[2];
    }
    return true;
}

static bool shape_fits(const sy_tensor *t, int32_t n_dim, const int64_t *shape)
{
    if (t->n_dim != n_dim) {
        return false;
    }
    for (int32_t d = 0; d < n_dim; d++) {
        if (t->shape[d] < 0 || (shape[d] != SY_ANY && t->shape[d] != shape[d])) {
            return false;
        }
    }
    return true;
}

/* Elements by shape alone: an absent operand of extent 0 is as good as a present one. */
static int64_t n_elems(const sy_tensor *t)
{
    int64_t n = 1;
    for (int32_t d = 0; d < t->n_dim; d++) {
        n *= t->shape[d];
    }
    return n;
}

void sy__want(sy__check *c, const sy_tensor *t, unsigned dtypes, int32_t flags, int32_t n_dim,
              const int64_t *shape)
{
    if (c->st != SY_OK || ((flags & SY_OPTIONAL) && !t->data)) {
        return;
    }
    const bool known = (unsigned)t->dtype < SY_N_DTYPES;
    if (!known || !(dtypes & SY_SET(t->dtype)) || !shape_fits(t, n_dim, shape) ||
        (!t->data && n_elems(t) > 0)) {
        refuse_kind(c, t, dtypes, n_dim, shape);
    } else if (n_elems(t) == 0) {
        return; /* strides of nothing */
    } else if (!(flags & SY_STRIDED) && !sy_tensor_is_contiguous(t)) {
        refuse_strides(c, t, "it contiguous");
    } else if (!strides_fit(t)) {
        refuse_strides(c, t, "the last one 1 and no element twice");
    }
}

void sy__want_any_shape(sy__check *c, const sy_tensor *t, unsigned dtypes)
{
    if (t->n_dim < 1 || t->n_dim > SY_MAX_DIM) {
        sy__want(c, t, dtypes, SY_CONTIGUOUS, 1, SY__SHAPE(SY_ANY));
    } else {
        sy__want(c, t, dtypes, SY_CONTIGUOUS, t->n_dim, SY__SHAPE(SY_ANY, SY_ANY, SY_ANY, SY_ANY));
    }
}

void sy__want_that(sy__check *c, bool holds, const char *what)
{
    if (c->st == SY_OK && !holds) {
        c->st = sy_error(SY_ERR_INTERNAL, "op %s: wanted that %s", c->info->name, what);
    }
}

/* ---- overlap ---- */

void sy__may_alias(sy__check *c, const sy_tensor *y, const sy_tensor *x)
{
    c->alias[c->n_aliases][0] = y;
    c->alias[c->n_aliases][1] = x;
    c->n_aliases++;
}

static bool same_place(const sy_tensor *a, const sy_tensor *b)
{
    if (a->data != b->data || a->dtype != b->dtype || !sy_tensor_same_shape(a, b)) {
        return false;
    }
    for (int32_t d = 0; d < a->n_dim; d++) {
        if (a->shape[d] > 1 && a->stride[d] != b->stride[d]) {
            return false;
        }
    }
    return true;
}

static bool alias_is_allowed(const sy__check *c, const sy_tensor *y, const sy_tensor *x)
{
    for (int32_t i = 0; i < c->n_aliases; i++) {
        if (c->alias[i][0] == y && c->alias[i][1] == x && same_place(y, x)) {
            return true;
        }
    }
    return false;
}

/* May two tensors share a byte? Two column ranges of the rows of one matrix (q and k of a fused
   projection) lie within each other's span and yet apart: equal row strides and disjoint places in
   the row. */
static bool overlap(const sy_tensor *a, const sy_tensor *b)
{
    const int64_t a_bytes = (int64_t)sy_dtype_bytes(a->dtype);
    const int64_t b_bytes = (int64_t)sy_dtype_bytes(b->dtype);
    const intptr_t a_first = (intptr_t)a->data, b_first = (intptr_t)b->data;
    if (b_first >= a_first + extent_from(a, 0) * a_bytes ||
        a_first >= b_first + extent_from(b, 0) * b_bytes) {
        return false;
    }
    const int64_t row = a->stride[0] * a_bytes;
    if (a->n_dim < 2 || b->n_dim < 2 || row != b->stride[0] * b_bytes || row <= 0) {
        return true;
    }
    const int64_t place = ((b_first - a_first) % row + row) % row; /* of b in a row of a */
    return place < extent_from(a, 1) * a_bytes || place + extent_from(b, 1) * b_bytes > row;
}

static void want_apart(sy__check *c, int32_t i, int32_t j)
{
    const sy_tensor *y = operand_at(c, i), *x = operand_at(c, j);
    if (sy_tensor_numel(x) > 0 && overlap(y, x) && !alias_is_allowed(c, y, x) &&
        !alias_is_allowed(c, x, y)) {
        c->st = sy_error(SY_ERR_INTERNAL, "op %s: %s overlaps %s, wanted memory of its own",
                         c->info->name, c->info->operands[i].name, c->info->operands[j].name);
    }
}

sy_status sy__check_end(sy__check *c)
{
    for (int32_t i = 0; i < c->info->n_operands; i++) {
        const bool written = c->info->operands[i].role != SY_ROLE_IN;
        if (!written || c->st != SY_OK || sy_tensor_numel(operand_at(c, i)) == 0) {
            continue;
        }
        for (int32_t j = 0; j < c->info->n_operands && c->st == SY_OK; j++) {
            if (j != i) {
                want_apart(c, i, j);
            }
        }
    }
    return c->st;
}
