/* What each tensor of a new model is made of: for every expert a source and what is done to it,
   for everything else one source or the mean of all. Sparse upcycling is the case of one source,
   Branch-Train-MiX that of several. */
#ifndef SY_UPCYCLE_RECIPE_H
#define SY_UPCYCLE_RECIPE_H

#include "upcycle/blueprint.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_upcycle_method {
    SY_UPCYCLE_COPY,    /* Komatsuzaki et al. 2023 (arXiv 2212.05055) section 3 */
    SY_UPCYCLE_NOISE,   /* a random half of the weights gets noise N(0, noise_std^2) */
    SY_UPCYCLE_DROP,    /* Drop-Upcycling (arXiv 2502.19261): a share of the hidden units, the same
                           of gate, up and down, is drawn anew with the mean and standard deviation
                           of what it replaces */
    SY_UPCYCLE_GRANULAR /* He et al. 2024 (arXiv 2410.07524): each copy is cut into narrow experts
                           with one router row, down times granularity: exact where top_k is a
                           multiple of it. With shuffle and drop_ratio as Qwen2-MoE (arXiv
                           2407.10671 section 2.2.2): the hidden units of each copy are permuted
                           before, the same in gate, up and down; a share of the weights is drawn
                           anew, like those of the dense matrix; what is left of the last copy goes
                         */
} sy_upcycle_method;

/* Which values of each parameter: a recipe for the model, and the same for what an optimizer keeps.
 */
typedef enum sy_recipe_values {
    SY_RECIPE_MODEL,
    SY_RECIPE_MASTER,    /* what the model's are rounded from: only where the source has one */
    SY_RECIPE_EXP_AVG,   /* of the trained parameters; zero where anything is new */
    SY_RECIPE_EXP_AVG_SQ /* the same, squared */
} sy_recipe_values;

typedef struct sy_recipe_spec {
    sy_source *const *source; /* bound, dense, of one shape */
    int32_t n_sources;
    int32_t base; /* source of what is no expert; -1: the mean of all, in their order */
    const sy_model_config *model; /* of the new model */
    const sy_moe_config *moe;
    const int32_t *expert_source; /* [experts]; NULL: the sources have all tensors themselves */
    sy_upcycle_method method;
    double drop_ratio, noise_std;
    int32_t granularity; /* 1 for the other methods */
    bool shuffle;        /* of GRANULAR */
    double router_std;   /* of the routers, drawn and cut at 3 std; 0: all zero */
    /* [layers, router_texts, H] what is drawn is added to: of copy c the row c mod router_texts.
       NULL: zeros. Borrowed. */
    const double *router_rows;
    int32_t router_texts;
    uint64_t seed;
    sy_recipe_values values;   /* the sources show these */
    const char *const *freeze; /* [n_freeze] of the new model; looked at for other than MODEL */
    int32_t n_freeze;
} sy_recipe_spec;

typedef struct sy_recipe sy_recipe;

/* Plan the new model. SY_ERR_USAGE names the tensor that no source can fill, or that the new model
   has no place for. Not collective. */
sy_status sy_recipe_create(const sy_recipe_spec *spec, sy_recipe **out);
void sy_recipe_destroy(sy_recipe **recipe);
const sy_blueprint *sy_recipe_plan(const sy_recipe *recipe);
/* See sy_make; self is the recipe. Not collective. */
sy_status sy_recipe_make(void *self, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                         const void **h_out);

/* What a tensor of the new model is made of. */
typedef struct sy_recipe_origin {
    int32_t tensor; /* of the source; -1: it is made of nothing */
    double scale;   /* of the values */
} sy_recipe_origin;
/* Not collective. */
sy_recipe_origin sy_recipe_origin_of(const sy_recipe *recipe, int32_t tensor, int32_t source);

/* Does the new model compute what its source does? Yes for copies of one source whose weights add
   up to 1 for every token (normalised, not scaled, nothing dropped in evaluation), granular ones
   where whole copies are chosen; for the other methods where their amount is 0. Not collective. */
bool sy_recipe_preserves(const sy_recipe_spec *spec);

#ifdef __cplusplus
}
#endif
#endif
