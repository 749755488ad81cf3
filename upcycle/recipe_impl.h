/* The recipe's inside: what each tensor of the new model is made of, and the files that make it. */
#ifndef SY_UPCYCLE_RECIPE_IMPL_H
#define SY_UPCYCLE_RECIPE_IMPL_H

#include "upcycle/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY__RECIPE_BLOCK = 4096 };

typedef enum sy__role {
    SY__ROLE_MIX,
    SY__ROLE_EXPERT,
    SY__ROLE_ROUTER,
    SY__ROLE_ZERO,
    SY__ROLE_ADAPTER, /* of no source: as a new model begins */
    SY__ROLE_PACKED   /* NF4 of one source's matrix (recipe_packed.c) */
} sy__role;

/* Mean and standard deviation of the weights that an expert loses. */
typedef struct sy__lost {
    bool known;
    double mean, std;
} sy__lost;

/* Of one tensor of the new model. */
typedef struct sy__ingredient {
    sy__role role;
    int32_t *from;  /* [n_sources] tensor there */
    bool down;      /* units are columns, not rows */
    double scale;   /* of all values */
    int64_t known;  /* MIX: elements that the sources have; rows behind them are the mean row */
    double *mean;   /* [H] of them; NULL: not needed yet */
    sy__lost *lost; /* EXPERT of DROP: [experts]; of GRANULAR: [n_sources], of all weights */
} sy__ingredient;

struct sy_recipe {
    sy_recipe_spec spec;
    sy_blueprint plan;
    sy__ingredient *item; /* [plan.n] */
    double *block;        /* [2, SY__RECIPE_BLOCK] */
    int32_t unit_tensor;  /* whose units stand in unit [F]; -1: nobody's */
    int64_t unit_expert, *unit;
    int64_t *place; /* [F] the other way round: which unit of the expert a dense one is, or -1 */
    char *row;      /* [F] of a source, of any type */
};

/* "/moe/experts/" within a tensor's name. */
extern const char sy__expert_part[];

/* Elements [first, first + n) of a tensor, as in sy_recipe_make: what is no expert, copied from one
   source or the mean of all; and experts. Not collective. */
sy_status sy__recipe_mix(sy_recipe *r, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                         const void **h_out);
sy_status sy__recipe_experts(sy_recipe *r, int32_t tensor, int64_t first, int64_t n, char *h_to);
sy_status sy__recipe_packed(sy_recipe *r, int32_t tensor, int64_t first, int64_t n, void *h_to);
/* Moments of what is new are zero. Not collective. */
bool sy__recipe_is_moment(const sy_recipe *r);
/* Values times a factor, each rounded once. Not collective. */
void sy__recipe_scale(sy_recipe *r, sy_dtype dtype, double scale, int64_t n, char *h_values);

#ifdef __cplusplus
}
#endif
#endif
