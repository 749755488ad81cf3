/* Experts of different width (HMoE: Wang et al. 2024, arXiv 2408.10681): what moe.expert_widths
   says. Nothing here is collective. */
#ifndef SY_MOE_WIDTHS_H
#define SY_MOE_WIDTHS_H

#include "moe/moe_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Are there widths at all? Without them every expert has expert_hidden units. */
bool sy_moe_has_widths(const sy_moe_config *config);
/* Units of expert e. Requires a checked configuration. */
int32_t sy_moe_width(const sy_moe_config *config, int32_t e);
/* The mean of all experts' units. */
double sy_moe_mean_width(const sy_moe_config *config);
/* Refuse what is no list of E widths, and what does not go together with them; the widest becomes
   expert_hidden. After parsing. */
sy_status sy_moe_widths_settle(sy_config *config);

#ifdef __cplusplus
}
#endif
#endif
