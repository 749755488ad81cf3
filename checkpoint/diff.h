/* Where two checkpoints differ: attributes, datasets, values. Reads both in pieces, on all ranks,
   and believes no piece whose checksum does not hold. */
#ifndef SY_CHECKPOINT_DIFF_H
#define SY_CHECKPOINT_DIFF_H

#include "checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_diff_kind {
    SY_DIFF_ONLY_A,
    SY_DIFF_ONLY_B,
    SY_DIFF_ATTRIBUTE,
    SY_DIFF_SHAPE,
    SY_DIFF_TYPE, /* and nothing else where a tolerance is given */
    SY_DIFF_VALUES
} sy_diff_kind;

typedef struct sy_diff_row {
    sy_diff_kind kind;
    char *path;                           /* of the dataset, or name of the attribute */
    char *a, *b;                          /* attribute, shape, type: as text; else NULL */
    int64_t n_values, n_different, first; /* SY_DIFF_VALUES: of elements; the first that differs */
    double largest_abs, largest_rel;      /* NaN where one side is not a number */
} sy_diff_row;

typedef struct sy_diff {
    sy_diff_row *row; /* attributes, then datasets by path; the same on every rank */
    int32_t n;
    int64_t n_values; /* that were compared */
} sy_diff;

/* Values differ where their bits do; with a tolerance > 0 where |a - b| > tolerance max(|a|, |b|)
   (then float types may differ, and NaN equals NaN). The attribute `created` is not compared.
   Collective over comm. A missing path: SY_ERR_USAGE; a damaged file: SY_ERR_DAMAGED. */
sy_status sy_checkpoint_diff(const char *a, const char *b, double tolerance, sy_comm *comm,
                             sy_diff *out);
void sy_diff_free(sy_diff *diff);

#ifdef __cplusplus
}
#endif
#endif
