/* Routers: ways to fill the list of choices. choose -> capacity (moe/capacity.h) -> weigh; backward
   turns the router signal G into dz. A router is one file in moe/routers/, one line in
   moe/routers.c, one line in meson.build, one row in a test table. */
#ifndef SY_MOE_ROUTER_H
#define SY_MOE_ROUTER_H

#include "moe/moe_config.h"
#include "model/pass.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Choices of a micro-batch: up to K per token, in slots [T, K]; expert -1 in a slot that is not
 * used. All in p->keep. */
typedef struct sy_choices {
    int64_t T;
    int32_t K;
    sy_tensor token, expert; /* [T, K] I32 */
    sy_tensor kept;          /* [T, K] U8, written by capacity; absent: all are kept */
    sy_tensor priority;      /* [T, K] wide, what capacity by probability sorts by */
    sy_tensor weight;        /* [T, K] wide: combine weights */
} sy_choices;

/* Scores of a micro-batch. All in p->keep. */
typedef struct sy_scores {
    sy_tensor z, p, lse;
} sy_scores; /* [T, E], [T, E], [T] wide */

typedef enum sy_router_trait {
    SY_ROUTER_ON_HOST = 1,     /* plain C on host copies, one counted wait per layer */
    SY_ROUTER_NO_CAPACITY = 2, /* capacity is part of the choice */
    SY_ROUTER_LOOKS_AHEAD = 4, /* a later token may decide an earlier one: not causal */
    SY_ROUTER_RANDOM = 8
} sy_router_trait;

typedef struct sy_router_ops {
    const char *name, *source; /* source: paper and section */
    uint32_t traits;
    int32_t (*slots)(const sy_moe_config *config); /* K: slots per token */
    /* Fill token, expert and (where drop_policy is probability) priority. bias [E] wide may be
     * absent. */
    sy_status (*choose)(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                        const sy_tensor *bias, sy_choices *c);
    /* Fill weight, after drops. */
    sy_status (*weigh)(const sy_moe_config *config, sy_pass *p, const sy_scores *s, sy_choices *c);
    /* dz [T, E] wide from G [T, K] wide (0 where dropped). */
    sy_status (*backward)(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                          const sy_choices *c, const sy_tensor *g, sy_tensor *dz);
} sy_router_ops;

/* NULL if there is none of that name. Not collective. */
const sy_router_ops *sy_router_find(const char *name);
/* All names, NULL-terminated. Not collective. */
const char *const *sy_router_names(void);

#ifdef __cplusplus
}
#endif
#endif
