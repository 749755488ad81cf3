#include "moe/exchange.h"

#include "core/alloc.h"
#include "core/span.h"

sy_status sy_exchange_order(sy_pass *p, const sy_plan *plan, const int32_t *h_count,
                            sy_plan_pass *pass)
{
    sy_status st = SY_OK;
    sy_tensor count;
    SY_TRY(sy_arena_2d(p->keep, SY_I32, plan->ep, plan->E_loc, &count));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, plan->E_loc + 1, &pass->expert_start));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, pass->R, &pass->computed_from));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, pass->n_arrive, &pass->arrival_to));
    SY_TRY(sy_copy_h2d(p->stream, count.data, h_count, sy_tensor_bytes(&count)));
    SY_TRY(
        sy_plan_receive(p->stream, &(sy_plan_receive_args){.count = count,
                                                           .expert_start = pass->expert_start,
                                                           .computed_from = pass->computed_from,
                                                           .arrival_to = pass->arrival_to,
                                                           .align = p->mesh->dev->row_multiple}));
cleanup:
    return st;
}

const sy_exchange_ops *sy_exchange_of(const sy_plan *plan)
{
    return plan->capacity > 0 ? &sy_exchange_padded : &sy_exchange_exact;
}

/* ---- beside the stream of the pass ---- */

sy_status sy_travel_create(sy_device *dev, int32_t chunks, sy_travel **out)
{
    sy_status st = SY_OK;
    sy_travel *t = NULL;
    SY_TRY(sy_alloc(1, sizeof *t, (void **)&t));
    t->chunks = chunks;
    SY_TRY(sy_stream_create(dev, "travel", &t->stream));
    SY_TRY(sy_event_create(dev, &t->ready));
    for (int32_t i = 0; i < SY_TRAVEL_EVENTS; i++) {
        SY_TRY(sy_event_create(dev, &t->landed[i]));
    }
    *out = t;
    t = NULL;
cleanup:
    sy_travel_destroy(&t);
    return st;
}

void sy_travel_destroy(sy_travel **travel)
{
    sy_travel *t = *travel;
    if (t != NULL) {
        for (int32_t i = 0; i < SY_TRAVEL_EVENTS; i++) {
            sy_event_destroy(&t->landed[i]);
        }
        sy_event_destroy(&t->ready);
        sy_stream_destroy(&t->stream);
        sy_free(travel);
    }
}

/* What the pass has enqueued so far is done before what travels from now on. */
static sy_status leave(sy_pass *p)
{
    sy_status st = SY_OK;
    if (p->travel != NULL) {
        SY_TRY(sy_event_record(p->travel->ready, p->stream));
        SY_TRY(sy_stream_wait(p->travel->stream, p->travel->ready));
    }
cleanup:
    return st;
}

static sy_status note_landing(sy_pass *p, sy_shipment *s)
{
    sy_status st = SY_OK;
    sy_travel *t = p->travel;
    s->landed = NULL;
    if (t != NULL) {
        s->landed = t->landed[t->n_landed];
        t->n_landed = (t->n_landed + 1) % SY_TRAVEL_EVENTS;
        SY_TRY(sy_event_record(s->landed, t->stream));
    }
cleanup:
    return st;
}

static sy_status await(sy_pass *p, const sy_shipment *s)
{
    sy_status st = SY_OK;
    const double t = sy_stream_clock(p->stream);
    if (s->landed != NULL) {
        SY_TRY(sy_stream_wait(p->stream, s->landed));
        p->travel->waited_s += sy_stream_clock(p->stream) - t;
    }
cleanup:
    return st;
}

static sy_status all_to_all(sy_pass *p, const sy_plan_pass *pass, bool back, const sy_tensor *send,
                            const sy_tensor *recv, const char *what)
{
    int64_t width = send->shape[1];
    sy_comm_args args = {.stream = p->travel != NULL ? p->travel->stream : p->stream,
                         .send = send->data,
                         .recv = recv->data,
                         .n = pass->n_each,
                         .row_bytes = width * (int64_t)sy_dtype_bytes(send->dtype),
                         .h_n_send = back ? pass->h_n_recv : pass->h_n_send,
                         .h_n_recv = back ? pass->h_n_send : pass->h_n_recv,
                         .what = what,
                         .layer = p->layer};
    return sy_all_to_all(p->mesh->group[SY_EP], &args);
}

sy_status sy_shipment_room(sy_pass *p, int64_t n_send, int64_t n_arrive, int64_t W, bool extra,
                           sy_shipment *out)
{
    sy_status st = SY_OK;
    *out = (sy_shipment){.landed = NULL};
    SY_TRY(sy_arena_2d(p->scratch, p->compute, n_send, W, &out->send[0]));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, n_arrive, W, &out->arrive[0]));
    if (extra) {
        SY_TRY(sy_arena_2d(p->scratch, p->wide, n_send, 1, &out->send[1]));
        SY_TRY(sy_arena_2d(p->scratch, p->wide, n_arrive, 1, &out->arrive[1]));
    }
cleanup:
    return st;
}

/* ---- both ways ---- */

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

sy_status sy_dispatch_begin(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                            const sy_tensor *x, const sy_tensor *extra, sy_shipment *s)
{
    sy_status st = SY_OK;
    const sy_tensor none = sy_tensor_none();
    const sy_tensor *from[2] = {x, extra}, *idx[2] = {&plan->row_token, &none};
    static const char *const what[2] = {"moe dispatch", "moe dispatch extra"};
    sy_tensor send[2], arrive[2];
    sy_span_begin(SY_SPAN_PART, "dispatch", p->layer, -1);
    for (int32_t i = 0; i < 2 && from[i]->data != NULL; i++) {
        send[i] = sy_tensor_rows(&s->send[i], 0, pass->n_send);
        arrive[i] = sy_tensor_rows(&s->arrive[i], 0, pass->n_arrive);
        SY_TRY(collect(p, plan, pass, from[i], idx[i], &send[i]));
    }
    SY_TRY(leave(p));
    for (int32_t i = 0; i < 2 && from[i]->data != NULL; i++) {
        SY_TRY(all_to_all(p, pass, false, &send[i], &arrive[i], what[i]));
    }
    SY_TRY(note_landing(p, s));
cleanup:
    sy_span_end();
    return st;
}

sy_status sy_dispatch_finish(sy_pass *p, const sy_plan_pass *pass, const sy_shipment *s,
                             const sy_tensor *rows, const sy_tensor *rows_extra)
{
    sy_status st = SY_OK;
    const sy_tensor *to[2] = {rows, rows_extra};
    sy_span_begin(SY_SPAN_PART, "dispatch", p->layer, -1);
    SY_TRY(await(p, s));
    for (int32_t i = 0; i < 2 && to[i]->data != NULL; i++) {
        const sy_tensor arrive = sy_tensor_rows(&s->arrive[i], 0, pass->n_arrive);
        SY_TRY(sy_gather_rows(
            p->stream,
            &(sy_gather_rows_args){.x = arrive, .idx = pass->computed_from, .y = *to[i]}));
    }
cleanup:
    sy_span_end();
    return st;
}

/* Where a block of results comes to: the wire itself where wire order is send order. */
static sy_tensor landing_of(const sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                            const sy_tensor *wire, const sy_tensor *send)
{
    return sy_tensor_rows(is_whole(p, plan) ? wire : send, 0, pass->n_send);
}

sy_status sy_combine_begin(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                           const sy_tensor *rows, const sy_tensor *rows_extra,
                           const sy_tensor *wire, const sy_tensor *wire_extra, sy_shipment *s)
{
    sy_status st = SY_OK;
    const sy_tensor *from[2] = {rows, rows_extra}, *to[2] = {wire, wire_extra};
    static const char *const what[2] = {"moe combine", "moe combine extra"};
    sy_tensor arrive[2];
    sy_span_begin(SY_SPAN_PART, "combine", p->layer, -1);
    for (int32_t i = 0; i < 2 && from[i]->data != NULL; i++) {
        arrive[i] = sy_tensor_rows(&s->arrive[i], 0, pass->n_arrive);
        SY_TRY(sy_gather_rows(
            p->stream,
            &(sy_gather_rows_args){.x = *from[i], .idx = pass->arrival_to, .y = arrive[i]}));
    }
    SY_TRY(leave(p));
    for (int32_t i = 0; i < 2 && from[i]->data != NULL; i++) {
        const sy_tensor back = landing_of(p, plan, pass, to[i], &s->send[i]);
        SY_TRY(all_to_all(p, pass, true, &arrive[i], &back, what[i]));
    }
    SY_TRY(note_landing(p, s));
cleanup:
    sy_span_end();
    return st;
}

/* Each block to its place in wire order. */
static sy_status spread(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                        const sy_tensor *back, const sy_tensor *wire)
{
    sy_status st = SY_OK;
    int64_t at = 0;
    for (int32_t d = 0; d < plan->ep; d++) {
        sy_tensor from = sy_tensor_rows(back, at, pass->h_n_send[d]);
        sy_tensor to = sy_tensor_rows(wire, pass->h_first[d], pass->h_n_send[d]);
        SY_TRY(sy_copy_d2d(p->stream, to.data, from.data, sy_tensor_bytes(&from)));
        at += pass->h_n_send[d];
    }
cleanup:
    return st;
}

sy_status sy_combine_finish(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                            const sy_shipment *s, const sy_tensor *wire,
                            const sy_tensor *wire_extra)
{
    sy_status st = SY_OK;
    const sy_tensor *to[2] = {wire, wire_extra};
    sy_span_begin(SY_SPAN_PART, "combine", p->layer, -1);
    SY_TRY(await(p, s));
    for (int32_t i = 0; i < 2 && to[i]->data != NULL && !is_whole(p, plan); i++) {
        SY_TRY(spread(p, plan, pass, &s->send[i], to[i]));
    }
cleanup:
    sy_span_end();
    return st;
}

sy_status sy_combine(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                     const sy_tensor *rows, const sy_tensor *rows_extra, const sy_tensor *wire,
                     const sy_tensor *wire_extra)
{
    sy_status st = SY_OK;
    const int64_t mark = sy_arena_mark(p->scratch), n_back = is_whole(p, plan) ? 0 : pass->n_send;
    sy_shipment s;
    SY_TRY(
        sy_shipment_room(p, n_back, pass->n_arrive, rows->shape[1], rows_extra->data != NULL, &s));
    SY_TRY(sy_combine_begin(p, plan, pass, rows, rows_extra, wire, wire_extra, &s));
    SY_TRY(sy_combine_finish(p, plan, pass, &s, wire, wire_extra));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}
