/* Moving rows between ranks: dispatch takes token rows to their experts, combine brings rows back;
   each is the other's backward. An exchange is a file behind a table: exact counts, or padded to
   capacity (fixed shapes, no host wait). */
#ifndef SY_MOE_EXCHANGE_H
#define SY_MOE_EXCHANGE_H

#include "moe/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_exchange_ops {
    const char *name;
    /* Fill plan->pass. Collective over mesh->ep. */
    sy_status (*prepare)(sy_pass *p, int64_t recv_rows, sy_plan *plan);
} sy_exchange_ops;

extern const sy_exchange_ops sy_exchange_exact, sy_exchange_padded;
/* The exchange that a plan asks for. Not collective. */
const sy_exchange_ops *sy_exchange_of(const sy_plan *plan);

/* x [T, H] compute dtype -> rows [R, H] of one pass, in computed order; extra [n_wire, 1] ->
   rows_extra [R, 1], wide, riding along (absent: nothing). Collective over mesh->ep. Temporaries
   from p->scratch. */
sy_status sy_dispatch(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass, const sy_tensor *x,
                      sy_tensor *rows, const sy_tensor *extra, sy_tensor *rows_extra);
/* rows [R, H] of one pass -> their places in wire [n_wire, H]; rows_extra [R, 1] -> wire_extra
 * [n_wire, 1] (absent: nothing). Collective over mesh->ep. */
sy_status sy_combine(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                     const sy_tensor *rows, sy_tensor *wire, const sy_tensor *rows_extra,
                     sy_tensor *wire_extra);

#ifdef __cplusplus
}
#endif
#endif
