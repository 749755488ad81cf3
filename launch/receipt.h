/* The receipt of upcycle and merge: what a new model is made of and how near it is to that,
   measured on what was written. As a table for people, and as JSON, which the file keeps
   (/x/receipt). */
#ifndef SY_LAUNCH_RECEIPT_H
#define SY_LAUNCH_RECEIPT_H

#include "launch/grow.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What logits and losses may differ by, relative to the largest, where the function is kept (in
   bf16 more than 1e-2 where the source's own rounding is half as large); and the ratio of a MoE
   layer to a dense one from the sum of the routers' weights. Not collective. */
double sy_grow_tolerance(const sy_compare_gap *gap);
double sy_grow_ratio_tolerance(sy_dtype compute);
/* The sum of a token's weights where routers are uniform; and the ratio that a sum of weights makes
   in the mean, NaN where nobody can tell. Not collective. */
double sy_grow_uniform_weight(const sy_grow *g);
double sy_grow_predict_ratio(const sy_grow *g, double weight);

/* Keys of the source's function that were set anew, "key: old -> new" in a line each: both models
   are compared as they are with the new ones. Freed with sy_free. Not collective. */
sy_status sy_grow_set_anew(const sy_grow *g, char **out);
/* The whole receipt; freed with sy_free. Not collective. */
sy_status sy_grow_receipt_json(const sy_grow *g, char **out);
/* The table, on standard output. Not collective: rank 0 calls it. */
void sy_grow_receipt_print(const sy_grow *g);

#ifdef __cplusplus
}
#endif
#endif
