/* How many rows an expert takes, which choices it keeps, and what the weights are that remain. */
#ifndef SY_MOE_CAPACITY_H
#define SY_MOE_CAPACITY_H

#include "moe/router.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Slots per expert for T tokens that are counted together, a group or all of them: the share of an
   expert (capacity_factor T K / E, or capacity_factor T / E with basis token) rounded as
   capacity_rounding says, min_capacity at least, up to a multiple of capacity_multiple, at most T.
   -1: unlimited (factor null). docs/NUMERICS.md 2 has what each published system does. Not
   collective. */
int64_t sy_capacity_slots(const sy_moe_config *config, bool eval, int64_t T);
/* The same for an expert whose fair share of the choices is `share`, not 1 / E (0: it is). Not
 * collective. */
int64_t sy_capacity_slots_of(const sy_moe_config *config, bool eval, int64_t T, double share);
/* The most rows that an expert keeps of a rank with at most T tokens, of n_ranks with such ones:
   what a padded exchange makes room for. Requires a factor. Not collective. */
int64_t sy_capacity_rows(const sy_moe_config *config, double share, bool eval, int64_t T,
                         int32_t n_ranks);
/* Tokens that are counted together where a rank has T and n_ranks have as many. Not collective. */
int64_t sy_capacity_tokens(const sy_moe_config *config, int64_t T, int32_t n_ranks);
/* The same in words: "40 rows per expert of 512 tokens, by position; eval: dropless", or
   "dropless". Not collective. */
void sy_capacity_describe(const sy_moe_config *config, int64_t T, int32_t n_ranks, char *buf,
                          size_t buf_bytes);
/* Can a later token take an earlier one's row because it scores higher? Not collective. */
bool sy_capacity_looks_ahead(const sy_moe_config *config);
/* Refuse a group that does not divide a micro-batch of T tokens. Not collective. */
sy_status sy_capacity_check_tokens(const sy_config *config, int64_t T);
/* Is there a capacity in this pass? Not collective. */
bool sy_capacity_limits(const sy_moe_config *config, const sy_pass *p);
/* Write c->kept, or leave it absent where there is no capacity (all are kept). Requires c->kept,
   expert, and priority where drop_policy is probability. Enqueued; temporaries from p->scratch.
   Collective over dp where capacity_scope is global. */
sy_status sy_capacity_apply(const sy_moe_config *config, double share, sy_pass *p,
                            const sy_scores *s, sy_choices *c);
/* With drop_weights renormalize: what a token's kept choices weigh is brought to routed_scale
   again; and g [T, K] back through that. Nothing without it, or without drops. Not collective. */
sy_status sy_capacity_share(const sy_moe_config *config, sy_pass *p, sy_choices *c);
sy_status sy_capacity_share_backward(const sy_moe_config *config, sy_pass *p, const sy_choices *c,
                                     const sy_tensor *g);

#ifdef __cplusplus
}
#endif
#endif
