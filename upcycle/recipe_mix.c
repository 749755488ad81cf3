/* What is no expert: from one source as it is, or the mean of all. Rows that are added to a
   vocabulary are the mean of those that are there (Hewitt 2021, "Initializing New Word Embeddings
   for Pretrained Language Models"), so that no new token is likelier than the old ones are on
   average. */
#include <string.h>

#include "core/alloc.h"
#include "upcycle/recipe_impl.h"

void sy__recipe_scale(sy_recipe *r, sy_dtype dtype, double scale, int64_t n, char *h_values)
{
    const int64_t bytes = (int64_t)sy_dtype_bytes(dtype);
    for (int64_t done = 0; done < n && scale != 1; done += SY__RECIPE_BLOCK) {
        int64_t m = n - done < SY__RECIPE_BLOCK ? n - done : SY__RECIPE_BLOCK;
        sy_convert(SY_F64, r->block, dtype, h_values + done * bytes, m);
        for (int64_t i = 0; i < m; i++) {
            r->block[i] *= scale;
        }
        sy_convert(dtype, h_values + done * bytes, SY_F64, r->block, m);
    }
}

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

/* What the sources have. */
static sy_status make_known(sy_recipe *r, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                            const void **h_out)
{
    sy_status st = SY_OK;
    const sy__ingredient *item = &r->item[tensor];
    const sy_dtype dtype = r->plan.tensor[tensor].dtype;
    const int32_t base = r->spec.n_sources == 1 ? 0 : r->spec.base;
    sy_source *source = base >= 0 ? r->spec.source[base] : NULL;
    *h_out = h_buf;
    if (base < 0) {
        SY_TRY(make_mean(r, item, dtype, first, n, h_buf));
    } else if (source->tensor[item->from[base]].dtype == dtype && item->scale == 1) {
        SY_TRY(sy_source_get(source, item->from[base], first, n, h_buf, h_out));
    } else {
        SY_TRY(sy_source_read(source, item->from[base], first, n, dtype, h_buf));
    }
    sy__recipe_scale(r, dtype, item->scale, n, h_buf);
cleanup:
    return st;
}

/* The mean of all rows that the sources have, by way of the rows of the mix. */
static sy_status measure_rows(sy_recipe *r, int32_t tensor)
{
    sy_status st = SY_OK;
    sy__ingredient *item = &r->item[tensor];
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    const int64_t H = t->shape[1], rows = item->known / H,
                  bytes = (int64_t)sy_dtype_bytes(t->dtype);
    double *mean = NULL, *row = NULL;
    const void *h_row = NULL;
    void *h_buf = NULL;
    SY_TRY(sy_alloc(H, sizeof *mean, (void **)&mean));
    SY_TRY(sy_alloc(H, sizeof *row, (void **)&row));
    SY_TRY(sy_alloc(H, (size_t)bytes, &h_buf));
    for (int64_t i = 0; i < rows; i++) {
        SY_TRY(make_known(r, tensor, i * H, H, h_buf, &h_row));
        sy_convert(SY_F64, row, t->dtype, h_row, H);
        for (int64_t h = 0; h < H; h++) {
            mean[h] += row[h] / (double)rows;
        }
    }
    item->mean = mean;
    mean = NULL;
cleanup:
    sy_free(&h_buf);
    sy_free(&row);
    sy_free(&mean);
    return st;
}

static sy_status make_added(sy_recipe *r, int32_t tensor, int64_t first, int64_t n, char *h_to)
{
    sy_status st = SY_OK;
    sy__ingredient *item = &r->item[tensor];
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    const int64_t H = t->shape[1], bytes = (int64_t)sy_dtype_bytes(t->dtype);
    if (sy__recipe_is_moment(r)) {
        memset(h_to, 0, (size_t)(n * bytes));
        return SY_OK;
    }
    if (n > 0 && item->mean == NULL) {
        SY_TRY(measure_rows(r, tensor));
    }
    for (int64_t done = 0, m = 0; done < n; done += m) {
        int64_t column = (first + done) % H;
        m = H - column < n - done ? H - column : n - done;
        sy_convert(t->dtype, h_to + done * bytes, SY_F64, item->mean + column, m);
    }
cleanup:
    return st;
}

sy_status sy__recipe_mix(sy_recipe *r, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                         const void **h_out)
{
    sy_status st = SY_OK;
    const int64_t left = r->item[tensor].known - first, n_known = left < 0   ? 0
                                                                  : left < n ? left
                                                                             : n;
    const int64_t bytes = (int64_t)sy_dtype_bytes(r->plan.tensor[tensor].dtype);
    if (n_known == n) {
        return make_known(r, tensor, first, n, h_buf, h_out);
    }
    if (n_known > 0) {
        SY_TRY(make_known(r, tensor, first, n_known, h_buf, h_out));
        memmove(h_buf, *h_out, (size_t)(n_known * bytes));
    }
    SY_TRY(make_added(r, tensor, first + n_known, n - n_known, (char *)h_buf + n_known * bytes));
    *h_out = h_buf;
cleanup:
    return st;
}
