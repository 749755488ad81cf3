#include "moe/routers_impl.h"

static const sy_router_ops *const routers[] = {&sy__router_topk};
enum { N_ROUTERS = sizeof routers / sizeof routers[0] };

const sy_router_ops *sy_router_find(const char *name)
{
    for (int32_t i = 0; i < N_ROUTERS; i++) {
        if (strcmp(routers[i]->name, name) == 0) {
            return routers[i];
        }
    }
    return NULL;
}

const char *const *sy_router_names(void)
{
    static const char *const names[N_ROUTERS + 1] = {"topk"};
    return names;
}
