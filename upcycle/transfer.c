#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "upcycle/transfer_impl.h"

enum { BLOCK = 1024 };

int64_t sy__hf_numel(const sy_hf_tensor *tensor)
{
    int64_t n = 1;
    for (int32_t d = 0; d < tensor->n_dim; d++) {
        n *= tensor->shape[d];
    }
    return n;
}

sy_status sy__hf_first_links(const sy_hf_map *map, int32_t **first)
{
    sy_status st = SY_OK;
    int32_t *at = NULL, k = 0;
    SY_TRY(sy_alloc(map->n_our + 1, sizeof *at, (void **)&at));
    for (int32_t i = 0; i <= map->n_our; i++) {
        at[i] = k;
        while (k < map->n_links && map->link[k].our == i && !map->link[k].copy) {
            k++;
        }
    }
    *first = at;
cleanup:
    return st;
}

const sy_hf_link *sy__hf_link_at(const sy_hf_link *link, int32_t n, int64_t at)
{
    int32_t low = 0, high = n - 1;
    while (low < high) {
        int32_t mid = low + (high - low + 1) / 2;
        if (link[mid].our_first <= at) {
            low = mid;
        } else {
            high = mid - 1;
        }
    }
    return &link[low];
}

/* The first byte of the tensor, at a piece's edge or its end, that is not before `border`. */
static int64_t edge(int64_t border, int64_t base, int64_t bytes, int64_t piece)
{
    int64_t at = border <= base ? 0 : (border - base + piece - 1) / piece * piece;
    return at < bytes ? at : bytes;
}

void sy__share(const sy_comm *comm, int64_t total, int64_t base, int64_t bytes, int64_t piece,
               int64_t *begin, int64_t *end)
{
    int64_t share = (total + comm->size - 1) / comm->size;
    *begin = edge(share * comm->rank, base, bytes, piece);
    *end =
        comm->rank + 1 == comm->size ? bytes : edge(share * (comm->rank + 1), base, bytes, piece);
}

static sy_status compare(const char *name, sy_dtype dst_type, const double *want, const double *got,
                         int64_t n, sy_transfer_receipt *receipt)
{
    sy_status st = SY_OK;
    for (int64_t i = 0; i < n; i++) {
        if (want[i] != got[i] && !isnan(want[i])) {
            SY_REQUIRE(!isinf(got[i]), SY_ERR_USAGE,
                       "tensor '%s' has the value %g, which is too large for %s", name, want[i],
                       sy_dtype_name(dst_type));
            receipt->n_rounded++;
            receipt->largest_rounding =
                fmax(receipt->largest_rounding, fabs(want[i] - got[i]) / fabs(want[i]));
        }
    }
cleanup:
    return st;
}

/* Does every value of one type have a place in the other? */
static bool holds(sy_dtype dst, sy_dtype src)
{
    return dst == src || dst == SY_F64 || (dst == SY_F32 && src != SY_F64);
}

sy_status sy__convert_counted(const char *name, sy_dtype dst_type, void *dst, sy_dtype src_type,
                              const void *src, int64_t n, double scale,
                              sy_transfer_receipt *receipt)
{
    sy_status st = SY_OK;
    const int64_t src_bytes = (int64_t)sy_dtype_bytes(src_type);
    const int64_t dst_bytes = (int64_t)sy_dtype_bytes(dst_type);
    double raw[BLOCK], want[BLOCK], got[BLOCK]; /* raw: aligned for any type */
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t m = n - i < BLOCK ? n - i : BLOCK;
        void *to = (char *)dst + i * dst_bytes;
        memcpy(raw, (const char *)src + i * src_bytes, (size_t)(m * src_bytes));
        if (scale == 1 && holds(dst_type, src_type)) {
            sy_convert(dst_type, to, src_type, raw, m);
            continue;
        }
        sy_convert(SY_F64, want, src_type, raw, m);
        for (int64_t k = 0; k < m; k++) {
            want[k] *= scale;
        }
        sy_convert(dst_type, to, SY_F64, want, m);
        sy_convert(SY_F64, got, dst_type, to, m);
        SY_TRY(compare(name, dst_type, want, got, m, receipt));
    }
cleanup:
    return st;
}
