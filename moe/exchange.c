#include "moe/exchange.h"

#include "core/span.h"

const sy_exchange_ops *sy_exchange_of(const sy_plan *plan)
{
    return plan->capacity > 0 ? &sy_exchange_padded : &sy_exchange_exact;
}

static sy_status all_to_all(sy_pass *p, const sy_plan_pass *pass, bool back, const sy_tensor *send,
                            sy_tensor *recv, const char *what)
{
    int64_t width = send->shape[1];
    return sy_all_to_all(p->mesh->group[SY_EP],
                         &(sy_comm_args){.stream = p->stream,
                                         .send = send->data,
                                         .recv = recv->data,
                                         .n = pass->n_each,
                                         .row_bytes = width * (int64_t)sy_dtype_bytes(send->dtype),
                                         .h_n_send = back ? pass->h_n_recv : pass->h_n_send,
                                         .h_n_recv = back ? pass->h_n_send : pass->h_n_recv,
                                         .what = what,
                                         .layer = p->layer});
}

/* Does the pass send all wire rows, in place? Then wire order is send order. A dry device measures
 * the other way, which takes more. */
static bool is_whole(const sy_pass *p, const sy_plan *plan)
{
    return plan->n_passes == 1 && !(p->mesh->dev->measures && plan->may_split);
}

/* send [n_send, W] = the rows of this pass, taken from x by idx [n_wire], or from wire order itself
 * (idx absent). */
static sy_status collect(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                         const sy_tensor *x, const sy_tensor *idx, sy_tensor *send)
{
    sy_status st = SY_OK;
    int64_t at = 0;
    for (int32_t d = 0; d < plan->ep; d++) {
        bool whole = is_whole(p, plan);
        int64_t first = whole ? 0 : pass->h_first[d], n = whole ? pass->n_send : pass->h_n_send[d];
        sy_tensor part = sy_tensor_rows(send, at, n);
        if (idx->data != NULL) {
            sy_tensor part_idx = sy_tensor_rows(idx, first, n);
            SY_TRY(sy_gather_rows(p->stream,
                                  &(sy_gather_rows_args){.x = *x, .idx = part_idx, .y = part}));
        } else {
            sy_tensor part_x = sy_tensor_rows(x, first, n);
            SY_TRY(sy_copy_d2d(p->stream, part.data, part_x.data, sy_tensor_bytes(&part)));
        }
        at += n;
        if (whole) {
            break;
        }
    }
cleanup:
    return st;
}

/* One kind of payload out: collect, exchange, sort by expert. */
static sy_status send_out(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                          const sy_tensor *x, const sy_tensor *idx, sy_tensor *rows,
                          const char *what)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), W = x->shape[1];
    sy_tensor send, arrive;
    SY_TRY(sy_arena_2d(p->scratch, x->dtype, pass->n_send, W, &send));
    SY_TRY(sy_arena_2d(p->scratch, x->dtype, pass->n_arrive, W, &arrive));
    SY_TRY(collect(p, plan, pass, x, idx, &send));
    SY_TRY(all_to_all(p, pass, false, &send, &arrive, what));
    SY_TRY(sy_gather_rows(
        p->stream, &(sy_gather_rows_args){.x = arrive, .idx = pass->computed_from, .y = *rows}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* The way back: unsort, exchange, put each block at its place in wire order. */
static sy_status bring_back(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                            const sy_tensor *rows, sy_tensor *wire, const char *what)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), W = rows->shape[1], at = 0;
    sy_tensor arrive, back = sy_tensor_rows(wire, 0, pass->n_send);
    SY_TRY(sy_arena_2d(p->scratch, rows->dtype, pass->n_arrive, W, &arrive));
    SY_TRY(sy_gather_rows(
        p->stream, &(sy_gather_rows_args){.x = *rows, .idx = pass->arrival_to, .y = arrive}));
    if (!is_whole(p, plan)) {
        SY_TRY(sy_arena_2d(p->scratch, rows->dtype, pass->n_send, W, &back));
    }
    SY_TRY(all_to_all(p, pass, true, &arrive, &back, what));
    for (int32_t d = 0; d < plan->ep && !is_whole(p, plan); d++) {
        sy_tensor from = sy_tensor_rows(&back, at, pass->h_n_send[d]);
        sy_tensor to = sy_tensor_rows(wire, pass->h_first[d], pass->h_n_send[d]);
        SY_TRY(sy_copy_d2d(p->stream, to.data, from.data, sy_tensor_bytes(&from)));
        at += pass->h_n_send[d];
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_dispatch(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass, const sy_tensor *x,
                      sy_tensor *rows, const sy_tensor *extra, sy_tensor *rows_extra)
{
    sy_status st = SY_OK;
    sy_tensor none = sy_tensor_none();
    sy_span_begin(SY_SPAN_PART, "dispatch", p->layer, -1);
    SY_TRY(send_out(p, plan, pass, x, &plan->row_token, rows, "moe dispatch"));
    if (extra->data != NULL) {
        SY_TRY(send_out(p, plan, pass, extra, &none, rows_extra, "moe dispatch extra"));
    }
cleanup:
    sy_span_end();
    return st;
}

sy_status sy_combine(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                     const sy_tensor *rows, sy_tensor *wire, const sy_tensor *rows_extra,
                     sy_tensor *wire_extra)
{
    sy_status st = SY_OK;
    sy_span_begin(SY_SPAN_PART, "combine", p->layer, -1);
    SY_TRY(bring_back(p, plan, pass, rows, wire, "moe combine"));
    if (rows_extra->data != NULL) {
        SY_TRY(bring_back(p, plan, pass, rows_extra, wire_extra, "moe combine extra"));
    }
cleanup:
    sy_span_end();
    return st;
}
