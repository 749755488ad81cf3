/* The list of routers: PLAIN(name), or OWN(name) for those that have a section moe.<name> of their
   own. moe/routers/<name>.c defines sy__router_<name>, and sy_router_section_<name>. */
#ifndef SY_MOE_ROUTERS_LIST_H
#define SY_MOE_ROUTERS_LIST_H

#define SY_ROUTERS(PLAIN, OWN)                                                                     \
    PLAIN(topk)                                                                                    \
    PLAIN(soft)                                                                                    \
    OWN(grouped)                                                                                   \
    OWN(gshard)                                                                                    \
    OWN(noisy)                                                                                     \
    OWN(sinkhorn)                                                                                  \
    OWN(hash)                                                                                      \
    OWN(top_p)                                                                                     \
    OWN(remoe)                                                                                     \
    OWN(expert_choice)                                                                             \
    OWN(adamoe)                                                                                    \
    PLAIN(prototype)                                                                               \
    PLAIN(yuan)                                                                                    \
    OWN(cosine)                                                                                    \
    OWN(skywork)                                                                                   \
    OWN(maskmoe)                                                                                   \
    OWN(grin)                                                                                      \
    OWN(dynmoe)                                                                                    \
    PLAIN(base)                                                                                    \
    OWN(moepp)                                                                                     \
    OWN(stable)

#endif
