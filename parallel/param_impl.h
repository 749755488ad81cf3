/* How a parameter's local memory relates to the tensors of its pieces. */
#ifndef SY_PARALLEL_PARAM_IMPL_H
#define SY_PARALLEL_PARAM_IMPL_H

#include "parallel/param.h"

/* Parameters and frozen segments are aligned to this many elements, buckets to as many per replica.
 */
enum { SY__PARAM_ALIGN = 64 };

/* A stretch of local memory that is also one stretch of a piece's row-major global tensor. */
typedef struct sy__run {
    int64_t at;    /* first element in the parameter's local memory */
    int64_t index; /* first element in the piece */
    int64_t n;
} sy__run;

/* A parameter that is not cut is one piece of its own name. */
int32_t sy__param_n_pieces(const sy_param *param);
const char *sy__piece_name(const sy_param *param, int32_t piece);
void sy__piece_shape(const sy_param *param, int32_t piece, int64_t *shape_glb);
/* Every piece has the same number of runs; in memory run k of all pieces comes before run k + 1. */
int64_t sy__param_n_runs(const sy_param *param);
sy__run sy__piece_run(const sy_param *param, int32_t piece, int64_t k);

/* This rank and how many there are in the group of replicas. */
const sy_comm *sy__replicas(const sy_params *params, sy_group replicas);

void sy__params_release(sy_params *params);

/* zero 2: whether the gradients of two parameters stand in a window at the same time. */
bool sy__same_turn(const sy_param *a, const sy_param *b);
/* Whether a parameter's gradient may stand in a window: it is written in its layer's backward
   only. */
bool sy__takes_turns(const sy_param *param);
/* Gradient memory of every segment, and where each bucket, range and parameter has it. */
sy_status sy__params_place_gradients(sy_params *params);

#endif
