/* Dense to MoE: every expert of a converted layer begins as the layer's dense MLP, everything else
   is copied by name, routers are drawn anew. Works on two bound parameter tables of any layout. */
#ifndef SY_UPCYCLE_UPCYCLE_H
#define SY_UPCYCLE_UPCYCLE_H

#include "moe/moe_config.h"
#include "parallel/param.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_upcycle_spec {
    const sy_params *dense;               /* bound, with ep 1: every rank holds the whole model */
    sy_params *moe;                       /* bound, any layout; its values are overwritten */
    sy_stream *dense_stream, *moe_stream; /* of the devices of the two; waited for */
    double router_std;                    /* of the new routers, cut at 3 std */
    uint64_t seed; /* element i of a router = f(seed, its name, i), on any layout */
} sy_upcycle_spec;

/* Fill spec->moe. Sparse Upcycling: Komatsuzaki et al. 2023 (arXiv 2212.05055) section 3.
   Not collective. Uses a few MiB of host memory whatever the model's size. Requires that both have
   the same compute dtype. Errors: SY_ERR_USAGE for a parameter that the dense model cannot fill
   (another shape, shared experts) or that the MoE has no place for. */
sy_status sy_upcycle_copy(const sy_upcycle_spec *spec);
/* Does a copy keep the dense model's function exactly? Yes where the weights of a token's experts
   always add up to 1: normalised, not scaled, nothing dropped in evaluation. Not collective. */
bool sy_upcycle_preserves(const sy_moe_config *config);

#ifdef __cplusplus
}
#endif
#endif
