/* A frozen base of four bits (backend/nf4.h), packed from a source's matrix: a row is read whole.
 */
#include "backend/nf4.h"

#include "core/alloc.h"
#include "upcycle/recipe_impl.h"

typedef struct rows {
    sy_source *source;
    int32_t tensor;
    int64_t K, row; /* which stands in values; -1: none */
    double scale, *values;
    sy_status st;
} rows;

static void read_block(void *self, int64_t row, int64_t column, int64_t n, double *values)
{
    rows *from = self;
    if (row != from->row && from->st == SY_OK) {
        from->st = sy_source_read(from->source, from->tensor, row * from->K, from->K, SY_F64,
                                  from->values);
        from->row = row;
    }
    for (int64_t i = 0; i < n; i++) {
        values[i] = from->scale * from->values[column + i];
    }
}

sy_status sy__recipe_packed(sy_recipe *r, int32_t tensor, int64_t first, int64_t n, void *h_to)
{
    sy_status st = SY_OK;
    const sy__ingredient *item = &r->item[tensor];
    const int32_t base = r->spec.n_sources == 1 ? 0 : r->spec.base;
    rows from = {.source = r->spec.source[base],
                 .tensor = item->from[base],
                 .K = r->plan.tensor[tensor].packed_columns,
                 .row = -1,
                 .scale = item->scale};
    SY_TRY(sy_alloc(from.K, sizeof *from.values, (void **)&from.values));
    sy_nf4_pack(from.K, first, n, read_block, &from, h_to);
    SY_TRY(from.st);
cleanup:
    sy_free(&from.values);
    return st;
}
