/* Padded to capacity: every rank sends `capacity` rows to every expert, full or not. Shapes are
   fixed, so nothing is read back and no counts travel; the empty rows are zero, stay zero through
   the experts and belong to no token. Lepikhin et al. 2020 (GShard), DeepSpeed-MoE. */
#include "moe/exchange.h"

static sy_status prepare(sy_pass *p, int64_t recv_rows, sy_plan *plan, int32_t n)
{
    sy_status st = SY_OK;
    int64_t block = plan->E_loc * plan->capacity, align = p->mesh->dev->row_multiple;
    int64_t per_expert = (plan->ep * plan->capacity + align - 1) / align * align;
    int32_t *h_count = NULL;
    sy_plan_pass *pass = NULL;

    (void)recv_rows, (void)n; /* the shapes are their own bound; there is one plan */
    SY_TRY(sy_host_arena_alloc(p->host, sizeof *pass, (void **)&pass));
    SY_TRY(sy_host_arena_alloc(p->host, plan->E * (int64_t)sizeof *h_count, (void **)&h_count));
    SY_TRY(
        sy_host_arena_alloc(p->host, plan->ep * (int64_t)sizeof(int64_t), (void **)&pass->h_first));
    for (int32_t i = 0; i < plan->E; i++) {
        h_count[i] = (int32_t)plan->capacity;
    }
    for (int32_t d = 0; d < plan->ep; d++) {
        pass->h_first[d] = d * block;
    }
    pass->n_each = block;
    pass->n_send = pass->n_arrive = plan->ep * block;
    pass->R = plan->E_loc * per_expert;
    SY_TRY(sy_exchange_order(p, plan, h_count, pass));
    plan->pass = pass;
    plan->n_passes = 1;
cleanup:
    return st;
}

const sy_exchange_ops sy_exchange_padded = {.name = "padded", .prepare = prepare};
