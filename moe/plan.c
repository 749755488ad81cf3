#include "moe/plan.h"

#include "moe/exchange.h"

static sy_status wire_table(sy_pass *p, sy_tensor *wire)
{
    sy_status st = SY_OK;
    const sy_placement *placement = p->mesh->placement;
    SY_TRY(sy_arena_1d(p->keep, SY_I32, placement->E, wire));
    SY_TRY(sy_copy_h2d(p->stream, wire->data, placement->wire, sy_tensor_bytes(wire)));
cleanup:
    return st;
}

static sy_status allocate(sy_pass *p, sy_plan *plan)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->E, &plan->count));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->n_wire, &plan->row_token));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->n_wire, &plan->row_choice));
    SY_TRY(sy_arena_2d(p->keep, p->wide, plan->n_wire, 1, &plan->row_weight));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->N, &plan->choice_row));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->T + 1, &plan->token_start));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->N, &plan->token_row));
cleanup:
    return st;
}

/* [T, K] seen as a list. */
static sy_tensor flat(const sy_tensor *t)
{
    return t->data == NULL ? sy_tensor_none() : sy_tensor_1d(t->data, t->dtype, sy_tensor_numel(t));
}

static sy_status fill_rows(sy_pass *p, const sy_choices *c, const sy_tensor *wire, sy_plan *plan)
{
    sy_status st = SY_OK;
    SY_TRY(sy_plan_rows(p->stream, &(sy_plan_rows_args){.token = flat(&c->token),
                                                        .expert = flat(&c->expert),
                                                        .kept = flat(&c->kept),
                                                        .wire = *wire,
                                                        .count = plan->count,
                                                        .row_token = plan->row_token,
                                                        .row_choice = plan->row_choice,
                                                        .choice_row = plan->choice_row,
                                                        .token_start = plan->token_start,
                                                        .token_row = plan->token_row,
                                                        .capacity = plan->capacity}));
    SY_TRY(sy_gather_rows(
        p->stream,
        &(sy_gather_rows_args){.x = sy_tensor_2d(c->weight.data, c->weight.dtype, plan->N, 1),
                               .idx = plan->row_choice,
                               .y = plan->row_weight}));
cleanup:
    return st;
}

sy_status sy_plan_build(sy_pass *p, const sy_plan_spec *spec, const sy_choices *c, sy_plan *plan)
{
    sy_status st = SY_OK;
    sy_tensor wire;
    *plan = (sy_plan){.T = c->T,
                      .N = c->T * c->K,
                      .E = spec->E,
                      .E_loc = p->mesh->placement->E_loc,
                      .ep = p->mesh->placement->ep,
                      .capacity = spec->capacity};
    plan->n_wire = spec->capacity > 0 ? spec->E * spec->capacity : plan->N;
    SY_TRY(wire_table(p, &wire));
    SY_TRY(allocate(p, plan));
    SY_TRY(fill_rows(p, c, &wire, plan));
    SY_TRY(sy_exchange_of(plan)->prepare(p, spec->recv_rows, plan));
cleanup:
    return st;
}
