/* What a receipt is measured with. */
#ifndef SY_UPCYCLE_RECEIPT_IMPL_H
#define SY_UPCYCLE_RECEIPT_IMPL_H

#include "checkpoint/hash.h"
#include "upcycle/receipt.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY__RECEIPT_BLOCK = 4096 };

typedef struct sy__receipt_work {
    sy_receipt *receipt;
    sy_source *written;
    void *h_a, *h_b; /* [SY_PULL_BYTES] */
    double *block;   /* [2 or n_sources, SY__RECEIPT_BLOCK] */
    sy_hash *hash;
} sy__receipt_work;

/* Read back the parts [n] of one tensor and fill in their figures; SY_ERR_NUMERIC where one is not
   what it should be. Not collective. */
sy_status sy__receipt_check_tensor(sy__receipt_work *w, sy_receipt_part *part, int32_t n);

/* Sum of products. Not collective. */
double sy__receipt_product(const double *a, const double *b, int64_t n);
/* ab / sqrt(aa bb); 0 where one is zero. Not collective. */
double sy__receipt_cosine(double ab, double aa, double bb);

#ifdef __cplusplus
}
#endif
#endif
