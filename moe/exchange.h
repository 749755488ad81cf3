/* Moving rows between ranks: dispatch takes token rows to their experts, combine brings rows back;
   each is the other's backward. An exchange is a file behind a table: exact counts, or padded to
   capacity (fixed shapes, no host wait). Each way has a begin and a finish, and with a sy_travel
   what is enqueued between the two runs while the rows travel. */
#ifndef SY_MOE_EXCHANGE_H
#define SY_MOE_EXCHANGE_H

#include "moe/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_exchange_ops {
    const char *name;
    /* Fill plan[0 .. n-1].pass, of the chunks of one micro-batch; their counts [n, E] stand one
       after the other from plan[0].count on. recv_rows: of each. Collective over mesh->ep. */
    sy_status (*prepare)(sy_pass *p, int64_t recv_rows, sy_plan *plan, int32_t n);
} sy_exchange_ops;

/* The computed order of what arrives in a pass, from h_count [ep, E_loc], the rows of each source
   and local expert. Requires pass->R and pass->n_arrive. Not collective. */
sy_status sy_exchange_order(sy_pass *p, const sy_plan *plan, const int32_t *h_count,
                            sy_plan_pass *pass);

extern const sy_exchange_ops sy_exchange_exact, sy_exchange_padded;
/* The exchange that a plan asks for. Not collective. */
const sy_exchange_ops *sy_exchange_of(const sy_plan *plan);

/* A stream that rows travel on while others are computed, and the events between it and the
   stream of the pass: `ready` marks what has been packed, `landed` what has come, so many at a time
   that nobody waits for more than its own. */
enum { SY_TRAVEL_EVENTS = 8 };
typedef struct sy_travel {
    sy_stream *stream;
    sy_event *ready, *landed[SY_TRAVEL_EVENTS];
    int32_t n_landed; /* so far, modulo SY_TRAVEL_EVENTS */
    int32_t chunks;   /* of a micro-batch's tokens that travel one behind the other */
    double waited_s;  /* that the pass has stood still for it, by the clock of its stream */
} sy_travel;
/* Not collective, both. */
sy_status sy_travel_create(sy_device *dev, int32_t chunks, sy_travel **out);
void sy_travel_destroy(sy_travel **travel);

/* Rows on their way, [0], and what rides along, [1] (absent: nothing). From its begin to its finish
   nobody else touches what it holds, nor the wire rows it brings. */
typedef struct sy_shipment {
    sy_tensor send[2], arrive[2]; /* [n, W] compute dtype, [n, 1] wide */
    sy_event *landed;             /* NULL: the stream of the pass brought it itself */
} sy_shipment;
/* Room for so many rows of width W, from p->scratch. It may be used again once it has landed. Not
 * collective. */
sy_status sy_shipment_room(sy_pass *p, int64_t n_send, int64_t n_arrive, int64_t W, bool extra,
                           sy_shipment *out);

/* x [T, H] compute dtype leaves as the rows of one pass; extra [n_wire, 1] wide rides along
   (absent: nothing). What is enqueued until `finish` is computed meanwhile. Collective over
   mesh->ep. */
sy_status sy_dispatch_begin(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                            const sy_tensor *x, const sy_tensor *extra, sy_shipment *s);
/* It has come: rows [R, H], in computed order, and rows_extra [R, 1] wide. Not collective. */
sy_status sy_dispatch_finish(sy_pass *p, const sy_plan_pass *pass, const sy_shipment *s,
                             const sy_tensor *rows, const sy_tensor *rows_extra);
/* rows [R, H] of one pass leave for their places in wire [n_wire, H], rows_extra [R, 1] for
 * wire_extra [n_wire, 1] (absent: nothing). Collective over mesh->ep. */
sy_status sy_combine_begin(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                           const sy_tensor *rows, const sy_tensor *rows_extra,
                           const sy_tensor *wire, const sy_tensor *wire_extra, sy_shipment *s);
/* They are there. Not collective. */
sy_status sy_combine_finish(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                            const sy_shipment *s, const sy_tensor *wire,
                            const sy_tensor *wire_extra);
/* Both, with temporaries from p->scratch. Collective over mesh->ep. */
sy_status sy_combine(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                     const sy_tensor *rows, const sy_tensor *rows_extra, const sy_tensor *wire,
                     const sy_tensor *wire_extra);

#ifdef __cplusplus
}
#endif
#endif
