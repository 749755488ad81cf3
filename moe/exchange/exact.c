/* Exact counts: every rank learns how many rows each rank sends to each expert (one all-gather, one
   host wait), then exactly these rows travel. Rows beyond the receive buffer go in further passes:
   pass q of a destination takes arrivals [q*recv_rows, (q+1)*recv_rows) in the order (source,
   expert, token). Everybody knows the whole matrix, so everybody knows everybody's passes. */
#include "backend/prices.h"
#include "moe/exchange.h"

/* counts[source][place]: rows; places of rank d are d*E_loc .. */
typedef struct count_matrix {
    const int32_t *n;
    int64_t pitch; /* from source to source */
    int32_t ep, E_loc;
} count_matrix;

static int64_t block_rows(const count_matrix *m, int32_t source, int32_t dest)
{
    int64_t n = 0;
    for (int32_t i = 0; i < m->E_loc; i++) {
        n += m->n[source * m->pitch + dest * m->E_loc + i];
    }
    return n;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Length of [begin, begin+n) inside [lo, hi), and where it starts within the block. */
static int64_t clip(int64_t begin, int64_t n, int64_t lo, int64_t hi, int64_t *first)
{
    int64_t from = max64(begin, lo), to = min64(begin + n, hi);
    *first = max64(from - begin, 0);
    return max64(to - from, 0);
}

static int32_t count_passes(const count_matrix *m, int64_t recv_rows)
{
    int64_t most = 0;
    for (int32_t d = 0; d < m->ep; d++) {
        int64_t n = 0;
        for (int32_t s = 0; s < m->ep; s++) {
            n += block_rows(m, s, d);
        }
        most = max64(most, n);
    }
    return (int32_t)max64(1, (most + recv_rows - 1) / recv_rows);
}

/* What this rank sends in a pass: for each destination a range of its block. */
static void fill_send(const count_matrix *m, int32_t rank, int64_t lo, int64_t hi,
                      sy_plan_pass *pass)
{
    int64_t wire = 0;
    for (int32_t d = 0; d < m->ep; d++) {
        int64_t before = 0, first = 0, n = block_rows(m, rank, d);
        for (int32_t s = 0; s < rank; s++) {
            before += block_rows(m, s, d);
        }
        pass->h_n_send[d] = clip(before, n, lo, hi, &first);
        pass->h_first[d] = wire + first;
        pass->n_send += pass->h_n_send[d];
        wire += n;
    }
}

/* What arrives: rows per (source, local expert) inside the window, in arrival order. */
static void fill_recv(const count_matrix *m, int32_t rank, int64_t lo, int64_t hi,
                      sy_plan_pass *pass, int32_t *h_count)
{
    int64_t at = 0, first = 0;
    for (int32_t s = 0; s < m->ep; s++) {
        for (int32_t i = 0; i < m->E_loc; i++) {
            int64_t n = m->n[s * m->pitch + rank * m->E_loc + i];
            int64_t in = clip(at, n, lo, hi, &first);
            h_count[s * m->E_loc + i] = (int32_t)in;
            pass->h_n_recv[s] += in;
            at += n;
        }
        pass->n_arrive += pass->h_n_recv[s];
    }
}

static int64_t aligned_rows(const int32_t *h_count, int32_t ep, int32_t E_loc, int64_t align)
{
    int64_t R = 0;
    for (int32_t i = 0; i < E_loc; i++) {
        int64_t n = 0;
        for (int32_t s = 0; s < ep; s++) {
            n += h_count[s * E_loc + i];
        }
        R += (n + align - 1) / align * align;
    }
    return R;
}

static sy_status build_pass(sy_pass *p, const sy_plan *plan, const count_matrix *m, int64_t lo,
                            int64_t hi, sy_plan_pass *pass)
{
    sy_status st = SY_OK;
    int32_t rank = p->mesh->group[SY_EP]->rank, *h_count = NULL;
    int64_t bytes = plan->ep * (int64_t)sizeof(int64_t);
    SY_TRY(sy_host_arena_alloc(p->host, bytes, (void **)&pass->h_n_send));
    SY_TRY(sy_host_arena_alloc(p->host, bytes, (void **)&pass->h_n_recv));
    SY_TRY(sy_host_arena_alloc(p->host, bytes, (void **)&pass->h_first));
    SY_TRY(sy_host_arena_alloc(p->host, (int64_t)plan->ep * plan->E_loc * (int64_t)sizeof(int32_t),
                               (void **)&h_count));
    fill_send(m, rank, lo, hi, pass);
    fill_recv(m, rank, lo, hi, pass, h_count);
    pass->R = aligned_rows(h_count, plan->ep, plan->E_loc, p->mesh->dev->row_multiple);
    if (p->mesh->dev->measures) { /* the worst case */
        pass->n_send = plan->N;
        pass->n_arrive = hi - lo;
        pass->R = hi - lo + (int64_t)plan->E_loc * (p->mesh->dev->row_multiple - 1);
    }
    SY_TRY(sy_exchange_order(p, plan, h_count, pass));
cleanup:
    return st;
}

/* A rehearsal has no choices to count: every rank sends this one's experts their share times
   `imbalance`, and the other experts the rest alike. */
static void spread_evenly(const sy_plan *plan, int32_t rank, double imbalance, int64_t pitch,
                          int32_t *h_matrix)
{
    const int64_t first = (int64_t)rank * plan->E_loc, others = plan->E - plan->E_loc;
    int64_t mine = (int64_t)(imbalance * (double)plan->N / plan->ep + 0.5);
    mine = others == 0 ? plan->N : min64(mine, plan->N);
    for (int64_t e = 0, at = 0; e < plan->E; e++) {
        const bool own = e >= first && e < first + plan->E_loc;
        const int64_t n = own ? mine : plan->N - mine, of = own ? plan->E_loc : others;
        const int64_t i = own ? e - first : at++;
        for (int32_t s = 0; s < plan->ep; s++) {
            h_matrix[s * pitch + e] = (int32_t)(n / of + (i < n % of));
        }
    }
}

/* The matrix [ep, n, E] of all ranks' counts, on the host. */
static sy_status gather_counts(sy_pass *p, const sy_plan *plan, int32_t n, int32_t **h_matrix)
{
    sy_status st = SY_OK;
    sy_comm *ep = p->mesh->group[SY_EP];
    const int64_t mark = sy_arena_mark(p->scratch), pitch = (int64_t)n * plan->E;
    sy_tensor matrix;
    SY_TRY(sy_arena_2d(p->scratch, SY_I32, plan->ep, pitch, &matrix));
    SY_TRY(sy_host_arena_alloc(p->host, sy_tensor_bytes(&matrix), (void **)h_matrix));
    SY_TRY(sy_all_gather(ep, &(sy_comm_args){.stream = p->stream,
                                             .send = plan->count.data,
                                             .recv = matrix.data,
                                             .n = pitch,
                                             .dtype = SY_I32,
                                             .what = "moe counts",
                                             .layer = p->layer}));
    SY_TRY(sy_copy_d2h(p->stream, *h_matrix, matrix.data, sy_tensor_bytes(&matrix)));
    SY_TRY(sy_stream_sync(p->stream));
    for (int32_t i = 0; i < n && p->mesh->dev->prices != NULL; i++) {
        spread_evenly(&plan[i], ep->rank, p->mesh->dev->prices->imbalance, pitch,
                      *h_matrix + (int64_t)i * plan->E);
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* most_rows: that could ever come to a rank. */
static sy_status build_passes(sy_pass *p, int64_t recv_rows, int64_t most_rows,
                              const count_matrix *m, sy_plan *plan)
{
    sy_status st = SY_OK;
    int32_t n_built = 0;
    plan->n_passes = count_passes(m, recv_rows);
    plan->may_split = recv_rows < most_rows;
    if (p->mesh->dev->measures) { /* tables of as many passes as there could ever be */
        n_built = (int32_t)((most_rows + recv_rows - 1) / recv_rows);
    }
    n_built = n_built > plan->n_passes ? n_built : plan->n_passes;
    SY_TRY(
        sy_host_arena_alloc(p->host, n_built * (int64_t)sizeof *plan->pass, (void **)&plan->pass));
    for (int32_t q = 0; q < n_built; q++) {
        SY_TRY(build_pass(p, plan, m, q * recv_rows, (q + 1) * recv_rows, &plan->pass[q]));
    }
    if (p->stats != NULL) {
        p->stats->n_extra_passes += plan->n_passes - 1;
    }
cleanup:
    return st;
}

static sy_status prepare(sy_pass *p, int64_t recv_rows, sy_plan *plan, int32_t n)
{
    sy_status st = SY_OK;
    int32_t *h_matrix = NULL;
    SY_TRY(gather_counts(p, plan, n, &h_matrix));
    for (int32_t i = 0; i < n; i++) {
        const count_matrix m = {.n = h_matrix + (int64_t)i * plan->E,
                                .pitch = (int64_t)n * plan->E,
                                .ep = plan->ep,
                                .E_loc = plan->E_loc};
        const int64_t K = plan[i].N / max64(plan[i].T, 1);
        SY_TRY(build_passes(p, recv_rows, (p->T_max + n - 1) / n * K * plan->ep, &m, &plan[i]));
    }
cleanup:
    return st;
}

const sy_exchange_ops sy_exchange_exact = {.name = "exact", .prepare = prepare};
