/* Several models of one shape in one checkpoint, as they are, with a prior: Branch-Train-Merge's
   ensemble (Li et al. 2022, arXiv 2208.03306), which eval runs. */
#ifndef SY_UPCYCLE_ENSEMBLE_H
#define SY_UPCYCLE_ENSEMBLE_H

#include "upcycle/blueprint.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_ensemble_spec {
    sy_source *const *source; /* [n] bound */
    int32_t n;
    const double *prior; /* [n] */
    const sy_model_config *model;
    const sy_moe_config *moe;
} sy_ensemble_spec;

/* Write the checkpoint: source j under /members/<j>/model, its tensors in their types, and the
   prior [n] under /members/prior. `build` says the rest: out, config_yaml, step, files, comm,
   progress. Collective over build->comm. Nothing stands under `out` after an error; a source that
   has not just the tensors that the configuration asks for: SY_ERR_USAGE. */
sy_status sy_ensemble_write(const sy_ensemble_spec *spec, const sy_build_spec *build,
                            sy_transfer_receipt *receipt);

#ifdef __cplusplus
}
#endif
#endif
