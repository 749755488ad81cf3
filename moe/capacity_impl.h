/* Inside moe: the settings of capacity beside those of a router. */
#ifndef SY_MOE_CAPACITY_IMPL_H
#define SY_MOE_CAPACITY_IMPL_H

#include "moe/moe_config.h"

/* Refuse what does not go together, or not with a router of these traits (moe/router.h); after
 * parsing and defaults. */
sy_status sy__capacity_check(const sy_moe_config *m, uint32_t traits, const sy_config *config);

#endif
