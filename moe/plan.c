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
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->n_wire, &plan->row_token));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->n_wire, &plan->row_choice));
    SY_TRY(sy_arena_2d(p->keep, p->wide, plan->n_wire, 1, &plan->row_weight));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->N, &plan->choice_row));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->T + 1, &plan->token_start));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->N, &plan->token_row));
cleanup:
    return st;
}

/* Rows first .. first+n-1 of [T, K], seen as a list. */
static sy_tensor list(const sy_tensor *t, int64_t first, int64_t n)
{
    if (t->data == NULL) {
        return sy_tensor_none();
    }
    const sy_tensor part = sy_tensor_rows(t, first, n);
    return sy_tensor_1d(part.data, part.dtype, sy_tensor_numel(&part));
}

static sy_status fill_rows(sy_pass *p, const sy_choices *c, const sy_tensor *wire, sy_plan *plan)
{
    sy_status st = SY_OK;
    const sy_tensor weight = list(&c->weight, plan->first, plan->T);
    SY_TRY(sy_plan_rows(
        p->stream,
        &(sy_plan_rows_args){.token = list(&c->token, 0, plan->T), /* a chunk's count from 0 too */
                             .expert = list(&c->expert, plan->first, plan->T),
                             .kept = list(&c->kept, plan->first, plan->T),
                             .wire = *wire,
                             .count = plan->count,
                             .row_token = plan->row_token,
                             .row_choice = plan->row_choice,
                             .choice_row = plan->choice_row,
                             .token_start = plan->token_start,
                             .token_row = plan->token_row,
                             .capacity = plan->capacity}));
    SY_TRY(sy_gather_rows(
        p->stream, &(sy_gather_rows_args){.x = sy_tensor_2d(weight.data, weight.dtype, plan->N, 1),
                                          .idx = plan->row_choice,
                                          .y = plan->row_weight}));
cleanup:
    return st;
}

sy_status sy_plan_build(sy_pass *p, const sy_plan_spec *spec, const sy_choices *c, sy_plan *plan)
{
    sy_status st = SY_OK;
    const int32_t n = spec->n > 1 ? spec->n : 1;
    sy_tensor wire, count;
    SY_REQUIRE(n == 1 || spec->capacity == 0, SY_ERR_INTERNAL,
               "chunks of tokens have no capacity of their own to be padded to");
    SY_TRY(wire_table(p, &wire));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, (int64_t)n * spec->E, &count));
    for (int32_t i = 0; i < n; i++) {
        const int64_t first = c->T * i / n, T = c->T * (i + 1) / n - first;
        plan[i] = (sy_plan){.first = first,
                            .T = T,
                            .N = T * c->K,
                            .E = spec->E,
                            .E_loc = p->mesh->placement->E_loc,
                            .ep = p->mesh->placement->ep,
                            .capacity = spec->capacity,
                            .n_wire = spec->capacity > 0 ? spec->E * spec->capacity : T * c->K,
                            .count = sy_tensor_rows(&count, (int64_t)i * spec->E, spec->E)};
        SY_TRY(allocate(p, &plan[i]));
        SY_TRY(fill_rows(p, c, &wire, &plan[i]));
    }
    SY_TRY(sy_exchange_of(plan)->prepare(p, spec->recv_rows, plan, n));
cleanup:
    return st;
}
