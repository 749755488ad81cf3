/* --router-data: routers that begin with what tells texts apart, for upcycle and merge. */
#ifndef SY_LAUNCH_ROUTER_DATA_H
#define SY_LAUNCH_ROUTER_DATA_H

#include "launch/grow.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where --router-data is given: run what is no expert of the new model (the only source, the seed
   model, or the mean of all) over the texts and give the recipe the rows. Copy c of an MLP, or of
   the sources one after the other, belongs to text c mod n. Requires a configured g, before it is
   written. A layer that hardly tells the texts apart is a warning. Collective; errors are agreed
   upon. */
sy_status sy_grow_route(sy_grow *g);

#ifdef __cplusplus
}
#endif
#endif
