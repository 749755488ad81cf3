/* What a new model turned out to be, read back from its file: every tensor beside what it was made
   of, every expert by itself; digests of the sources; how far the sources' MLPs are from each
   other. A lost or wrong expert is an error. */
#ifndef SY_UPCYCLE_RECEIPT_H
#define SY_UPCYCLE_RECEIPT_H

#include "upcycle/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A tensor of the new model, or one expert of it. */
typedef struct sy_receipt_part {
    int32_t tensor;   /* of the recipe's plan */
    int32_t expert;   /* -1: the tensor is not of experts */
    int32_t source;   /* -1: the mean of all; -2: none, it was drawn */
    double cosine;    /* with its source; 1: equal (but for a factor); NaN where source < 0 */
    double predicted; /* what the method lets expect */
} sy_receipt_part;

typedef struct sy_receipt {
    const sy_recipe_spec *spec;
    sy_recipe *recipe;
    sy_make *make; /* what the file was made by: the recipe, or who rounds from what it makes */
    void *make_self;
    sy_receipt_part *part; /* [n_parts] in the order of the plan, then of experts */
    int64_t n_parts;
    uint64_t **digest; /* [n_sources] of [n_tensors]: XXH3-64 of a tensor's bytes as its source
                          gives them */
    bool one_source;   /* the sources are equal, tensor by tensor */
    int32_t *ffn;      /* [n_ffn] tensors of the first source that became experts */
    int32_t n_ffn;
    double
        *pair; /* [n_ffn, n_sources, n_sources] cosines between the sources; NULL: there is one */
} sy_receipt;

/* A receipt without figures: they are as long in writing as figures get. Both are borrowed; the
   recipe makes the file, unless another `make` is put in its place. Not collective. */
sy_status sy_receipt_create(const sy_recipe_spec *spec, sy_recipe *recipe, sy_receipt **out);
void sy_receipt_destroy(sy_receipt **receipt);
/* Read back `written` (bound), and fill in the figures. Copies and cuts are equal to their source
   bit for bit; what has noise or drawn units is what the recipe makes again, and as near its source
   as the method lets expect; the rest is what the recipe makes again. Else SY_ERR_NUMERIC names
   tensor and expert. SY_ERR_USAGE names a source's tensor with a value that is not finite. The
   ranks share out the tensors. Collective over comm. */
sy_status sy_receipt_check(sy_receipt *receipt, sy_source *written, sy_comm *comm);

#ifdef __cplusplus
}
#endif
#endif
