/* Chunks of a micro-batch's tokens that travel one behind the other: while the rows of one are
   computed, those of the next come and the results of the one before go home. Every pass of every
   chunk's plan is a step, in the same order on every rank, and a step does the same three things
   in forward and in backward: it starts (its rows leave), computes (they have come; results
   leave), lands (the results are home). Step i + 1 starts before step i computes, and step i - 1
   lands after it: three are under way at most, and each has a slot of buffers. */
#include "moe/moe_impl.h"

enum { SLOTS = 3, WIRES = 2 };

typedef struct step {
    sy__moe_chunk *chunk;
    const sy_plan_pass *pass;
    int32_t parity; /* of the chunk */
    bool last;      /* pass of its chunk */
} step;

typedef struct slot {
    sy_shipment ship;
    sy_shipment again; /* backward: rows that forward did not keep */
} slot;

typedef struct line {
    const sy__moe *moe;
    sy_pass *p;
    sy__moe_saved *s;
    const sy_tensor *x, *dy; /* dy NULL: forward */
    const sy_tensor *y;      /* forward: the output; backward: dx */
    const sy_tensor *g;
    step *step;
    int32_t n;
    slot slot[SLOTS];
    /* rows in wire order, of a chunk that computes and of one that lands: results, or gradients of
       rows and of weights */
    sy_tensor wire[WIRES], g_wire[WIRES];
} line;

/* ---- what a line needs ---- */

static sy_status list_steps(line *l)
{
    sy_status st = SY_OK;
    int32_t n = 0;
    for (int32_t c = 0; c < l->s->n_chunks; c++) {
        n += l->s->chunk[c].plan.n_passes;
    }
    SY_TRY(sy_host_arena_alloc(l->p->host, n * (int64_t)sizeof *l->step, (void **)&l->step));
    for (int32_t c = 0; c < l->s->n_chunks; c++) {
        sy__moe_chunk *chunk = &l->s->chunk[c];
        for (int32_t q = 0; q < chunk->plan.n_passes; q++) {
            l->step[l->n++] = (step){.chunk = chunk,
                                     .pass = &chunk->plan.pass[q],
                                     .parity = c % WIRES,
                                     .last = q == chunk->plan.n_passes - 1};
        }
    }
cleanup:
    return st;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Does backward dispatch the rows of a step again? A dry device measures that too. */
static bool comes_again(const line *l, const step *at)
{
    const bool measures = l->p->mesh->dev->measures && at->chunk->plan.may_split;
    return l->dy != NULL && (!at->chunk->kept_rows || measures);
}

static sy_status make_room(line *l)
{
    sy_status st = SY_OK;
    sy_pass *p = l->p;
    const int64_t H = l->x->shape[1];
    int64_t n_send = 0, n_arrive = 0, n_wire = 0;
    bool again = false;
    for (int32_t i = 0; i < l->n; i++) {
        n_send = max64(n_send, l->step[i].pass->n_send);
        n_arrive = max64(n_arrive, l->step[i].pass->n_arrive);
        n_wire = max64(n_wire, l->step[i].chunk->plan.n_wire);
        again = again || comes_again(l, &l->step[i]);
    }
    for (int32_t i = 0; i < SLOTS; i++) {
        SY_TRY(sy_shipment_room(p, n_send, n_arrive, H, l->dy != NULL, &l->slot[i].ship));
        if (again) {
            SY_TRY(sy_shipment_room(p, n_send, n_arrive, H, false, &l->slot[i].again));
        }
    }
    for (int32_t i = 0; i < WIRES; i++) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, n_wire, H, &l->wire[i]));
        l->g_wire[i] = sy_tensor_none();
        if (l->dy != NULL) {
            SY_TRY(sy_arena_2d(p->scratch, p->wide, n_wire, 1, &l->g_wire[i]));
        }
    }
cleanup:
    return st;
}

/* ---- a step ---- */

/* The rows of a plan's tokens. */
static sy_tensor tokens_of(const sy_plan *plan, const sy_tensor *x)
{
    return x->data != NULL ? sy_tensor_rows(x, plan->first, plan->T) : *x;
}

static slot *slot_of(line *l, int32_t i)
{
    return &l->slot[i % SLOTS];
}

static sy_status start(line *l, int32_t i)
{
    sy_status st = SY_OK;
    sy_pass *p = l->p;
    const step *at = &l->step[i];
    const sy_plan *plan = &at->chunk->plan;
    const int64_t mark = sy_arena_mark(p->scratch);
    const sy_tensor none = sy_tensor_none(), x = tokens_of(plan, l->x);
    const double t = sy_stream_clock(p->stream);
    sy_tensor dy, row_weight;
    if (l->dy == NULL) {
        SY_TRY(sy_dispatch_begin(p, plan, at->pass, &x, &none, &slot_of(l, i)->ship));
    } else {
        dy = tokens_of(plan, l->dy);
        SY_TRY(sy__moe_row_weight(p, l->s, plan, &row_weight));
        if (comes_again(l, at)) {
            SY_TRY(sy_dispatch_begin(p, plan, at->pass, &x, &none, &slot_of(l, i)->again));
        }
        SY_TRY(sy_dispatch_begin(p, plan, at->pass, &dy, &row_weight, &slot_of(l, i)->ship));
    }
    sy__moe_book(p, SY__MOE_DISPATCH, t);
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* rows and h, from what has come. */
static sy_status receive(line *l, const step *at, const sy_shipment *ship, sy_tensor *rows,
                         sy_tensor *h)
{
    sy_status st = SY_OK;
    sy_pass *p = l->p;
    const sy_tensor none = sy_tensor_none();
    double t = sy_stream_clock(p->stream);
    SY_TRY(sy_dispatch_finish(p, at->pass, ship, rows, &none));
    t = sy__moe_book(p, SY__MOE_DISPATCH, t);
    SY_TRY(sy_experts_hidden(&l->moe->experts, p, &at->pass->expert_start, rows, h));
    sy__moe_book(p, SY__MOE_EXPERTS, t);
cleanup:
    return st;
}

static sy_status compute_forward(line *l, int32_t i)
{
    sy_status st = SY_OK;
    sy_pass *p = l->p;
    const step *at = &l->step[i];
    sy__moe_chunk *c = at->chunk;
    const int64_t mark = sy_arena_mark(p->scratch);
    const sy_tensor none = sy_tensor_none();
    sy_shipment *ship = &slot_of(l, i)->ship;
    sy_tensor out;
    SY_TRY(sy__moe_rows_room(l->moe, p, &c->plan, at->pass, c->kept_rows ? p->saved : p->scratch,
                             &c->rows, &c->h));
    SY_TRY(receive(l, at, ship, &c->rows, &c->h));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, at->pass->R, l->x->shape[1], &out));
    double t = sy_stream_clock(p->stream);
    SY_TRY(sy_experts_output(&l->moe->experts, p, &at->pass->expert_start, &c->h, &out));
    t = sy__moe_book(p, SY__MOE_EXPERTS, t);
    SY_TRY(sy_combine_begin(p, &c->plan, at->pass, &out, &none, &l->wire[at->parity], &none, ship));
    sy__moe_book(p, SY__MOE_COMBINE, t);
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status compute_backward(line *l, int32_t i)
{
    sy_status st = SY_OK;
    sy_pass *p = l->p;
    const step *at = &l->step[i];
    const sy__moe_chunk *c = at->chunk;
    const int64_t mark = sy_arena_mark(p->scratch), R = at->pass->R, H = l->x->shape[1];
    slot *slot = slot_of(l, i);
    sy_tensor rows = c->rows, h = c->h, dout, weight, drows, dot;
    if (comes_again(l, at)) {
        SY_TRY(sy__moe_rows_room(l->moe, p, &c->plan, at->pass, p->scratch, &rows, &h));
        SY_TRY(receive(l, at, &slot->again, &rows, &h));
    }
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, H, &dout));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, R, 1, &weight));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, H, &drows));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, R, 1, &dot));
    double t = sy_stream_clock(p->stream);
    SY_TRY(sy_dispatch_finish(p, at->pass, &slot->ship, &dout, &weight));
    t = sy__moe_book(p, SY__MOE_DISPATCH, t);
    SY_TRY(sy_experts_backward(&l->moe->experts, p, &at->pass->expert_start, &rows, &h, &dout,
                               &weight, &drows, &dot));
    t = sy__moe_book(p, SY__MOE_EXPERTS, t);
    SY_TRY(sy_combine_begin(p, &c->plan, at->pass, &drows, &dot, &l->wire[at->parity],
                            &l->g_wire[at->parity], &slot->ship));
    sy__moe_book(p, SY__MOE_COMBINE, t);
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status land(line *l, int32_t i)
{
    sy_status st = SY_OK;
    sy_pass *p = l->p;
    const step *at = &l->step[i];
    const sy_plan *plan = &at->chunk->plan;
    const sy_tensor *wire = &l->wire[at->parity], *g_wire = &l->g_wire[at->parity];
    const sy_tensor y = tokens_of(plan, l->y);
    const sy_tensor rows = sy_tensor_rows(wire, 0, plan->n_wire);
    const double t = sy_stream_clock(p->stream);
    SY_TRY(sy_combine_finish(p, plan, at->pass, &slot_of(l, i)->ship, wire, g_wire));
    sy__moe_book(p, SY__MOE_COMBINE, t);
    if (!at->last) {
        goto cleanup;
    }
    if (l->dy == NULL) {
        SY_TRY(sy__moe_sum_rows(p, plan, &rows, &y));
    } else {
        const sy_tensor g = tokens_of(plan, l->g);
        const sy_tensor g_rows = sy_tensor_rows(g_wire, 0, plan->n_wire);
        SY_TRY(sy__moe_sum_grads(p, plan, &rows, &g_rows, &y, &g));
    }
cleanup:
    return st;
}

static sy_status run(line *l, const sy__beside *beside)
{
    sy_status st = SY_OK;
    const int64_t mark = sy_arena_mark(l->p->scratch);
    SY_TRY(list_steps(l));
    SY_TRY(make_room(l));
    SY_TRY(start(l, 0));
    for (int32_t i = 0; i < l->n; i++) {
        if (i + 1 < l->n) {
            SY_TRY(start(l, i + 1));
        }
        if (i == 0) {
            SY_TRY(sy__moe_beside(l->p, beside));
        }
        SY_TRY(l->dy == NULL ? compute_forward(l, i) : compute_backward(l, i));
        if (i > 0) {
            SY_TRY(land(l, i - 1));
        }
    }
    SY_TRY(land(l, l->n - 1));
cleanup:
    sy_arena_release(l->p->scratch, mark);
    return st;
}

sy_status sy__chunks_forward(const sy__moe *moe, sy_pass *p, sy__moe_saved *s, const sy_tensor *x,
                             const sy_tensor *y, const sy__beside *beside)
{
    line l = {.moe = moe, .p = p, .s = s, .x = x, .y = y};
    return run(&l, beside);
}

sy_status sy__chunks_backward(const sy__moe *moe, sy_pass *p, sy__moe_saved *s, const sy_tensor *x,
                              const sy_tensor *dy, const sy_tensor *dx, const sy_tensor *g,
                              const sy__beside *beside)
{
    line l = {.moe = moe, .p = p, .s = s, .x = x, .dy = dy, .y = dx, .g = g};
    return run(&l, beside);
}
