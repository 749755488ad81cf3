/* Two factorisations of one world, last index fastest: dense pp x dp x cp x tp, expert pp x edp x
   ep x etp. Today only dp, edp and ep exceed 1; nobody asks "is there tp?": a group of size 1 is
   comm_self. ep is made of consecutive ranks. */
#ifndef SY_PARALLEL_MESH_H
#define SY_PARALLEL_MESH_H

#include "parallel/comm.h"
#include "parallel/placement.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_group {
    SY_WORLD,
    SY_PP,
    SY_DP,
    SY_CP,
    SY_TP,
    SY_EDP,
    SY_EP,
    SY_ETP,
    SY_DENSE, /* dp x cp: replicas of a dense parameter */
    SY_N_GROUPS
} sy_group;

typedef struct sy_mesh_spec {
    int32_t ep;        /* divides the world's size */
    int32_t n_experts; /* 0: dense; else divisible by ep */
    sy_device *dev;
} sy_mesh_spec;

typedef struct sy_mesh {
    sy_comm *group[SY_N_GROUPS]; /* device memory, never NULL */
    sy_comm *host;               /* world, host memory: status, counts */
    sy_comm *io;                 /* the same, of the checkpoints */
    sy_placement *placement;     /* expert <-> (ep rank, slot) */
    sy_device *dev;
} sy_mesh;

/* Collective over world (host memory), which may be a split. ep that does not divide it, experts
 * not divisible by ep: SY_ERR_USAGE. */
sy_status sy_mesh_create(sy_comm *world, const sy_mesh_spec *spec, sy_mesh **out);
void sy_mesh_destroy(sy_mesh **mesh);
const char *sy_group_name(sy_group group);

#ifdef __cplusplus
}
#endif
#endif
