/* One line per router; moe/routers.c lists them. */
#ifndef SY_MOE_ROUTERS_IMPL_H
#define SY_MOE_ROUTERS_IMPL_H

#include "moe/router.h"

extern const sy_router_ops sy__router_topk;

#endif
