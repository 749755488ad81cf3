/* What is no expert: from one source as it is, or the mean of all. */
#include <string.h>

#include "upcycle/recipe_impl.h"

/* The mean in double, sources in their order, rounded once. */
static sy_status make_mean(sy_recipe *r, const sy__ingredient *item, sy_dtype dtype, int64_t first,
                           int64_t n, char *h_to)
{
    sy_status st = SY_OK;
    const int32_t n_sources = r->spec.n_sources;
    double *sum = r->block, *one = r->block + SY__RECIPE_BLOCK;
    for (int64_t done = 0; done < n; done += SY__RECIPE_BLOCK) {
        int64_t m = n - done < SY__RECIPE_BLOCK ? n - done : SY__RECIPE_BLOCK;
        memset(sum, 0, (size_t)m * sizeof *sum);
        for (int32_t s = 0; s < n_sources; s++) {
            SY_TRY(sy_source_read(r->spec.source[s], item->from[s], first + done, m, SY_F64, one));
            for (int64_t i = 0; i < m; i++) {
                sum[i] += one[i];
            }
        }
        for (int64_t i = 0; i < m; i++) {
            sum[i] /= n_sources;
        }
        sy_convert(dtype, h_to + done * (int64_t)sy_dtype_bytes(dtype), SY_F64, sum, m);
    }
cleanup:
    return st;
}

sy_status sy__recipe_mix(sy_recipe *r, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                         const void **h_out)
{
    const sy__ingredient *item = &r->item[tensor];
    const sy_dtype dtype = r->plan.tensor[tensor].dtype;
    const int32_t base = r->spec.n_sources == 1 ? 0 : r->spec.base;
    *h_out = h_buf;
    if (base < 0) {
        return make_mean(r, item, dtype, first, n, h_buf);
    }
    sy_source *source = r->spec.source[base];
    return source->tensor[item->from[base]].dtype == dtype
               ? sy_source_get(source, item->from[base], first, n, h_buf, h_out)
               : sy_source_read(source, item->from[base], first, n, dtype, h_buf);
}
