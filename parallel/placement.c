/* Linear placement: E_loc consecutive experts per rank of ep. */
#include "parallel/placement.h"

#include "core/alloc.h"

sy_status sy_placement_create(int32_t E, int32_t ep, sy_placement **out)
{
    sy_status st = SY_OK;
    sy_placement *p = NULL;
    SY_REQUIRE(E >= 0 && ep >= 1, SY_ERR_USAGE,
               "%d experts on %d ranks: there is no such placement", E, ep);
    SY_REQUIRE(E % ep == 0, SY_ERR_USAGE,
               "%d experts cannot be shared evenly by parallel.ep = %d ranks; choose an ep that "
               "divides moe.experts",
               E, ep);
    SY_TRY(sy_alloc(1, sizeof *p, (void **)&p));
    p->E = E;
    p->ep = ep;
    p->E_loc = E / ep;
    SY_TRY(sy_alloc(E, sizeof *p->owner, (void **)&p->owner));
    SY_TRY(sy_alloc(E, sizeof *p->slot, (void **)&p->slot));
    SY_TRY(sy_alloc(E, sizeof *p->wire, (void **)&p->wire));
    SY_TRY(sy_alloc(E, sizeof *p->expert_at, (void **)&p->expert_at));
    for (int32_t e = 0; e < E; e++) {
        p->owner[e] = e / p->E_loc;
        p->slot[e] = e % p->E_loc;
        p->wire[e] = p->owner[e] * p->E_loc + p->slot[e];
        p->expert_at[p->wire[e]] = e;
    }
    *out = p;
    p = NULL;
cleanup:
    sy_placement_destroy(&p);
    return st;
}

void sy_placement_destroy(sy_placement **placement)
{
    sy_placement *p = *placement;
    if (p) {
        sy_free(&p->expert_at);
        sy_free(&p->wire);
        sy_free(&p->slot);
        sy_free(&p->owner);
        sy_free(placement);
    }
}
