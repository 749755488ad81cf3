#include "train/registered.h"

typedef struct memory {
    sy_comm *comm;
    void *ptr;
    int64_t bytes;
} memory;

/* Two of each segment, then that of the exchange: the i-th; bytes 0: it is not needed. */
static memory memory_at(const sy_engine *e, int32_t i)
{
    const sy_params *params = e->params;
    const sy_segment *g = i < 2 * params->n_segments ? &params->segment[i / 2] : NULL;
    memory m = {
        .comm = e->mesh->group[SY_EP], .ptr = e->scratch.base, .bytes = e->scratch.capacity};
    if (g != NULL && i % 2 == 0) {
        const int64_t n = params->zero > 0 && g->trainable ? g->n : 0;
        m = (memory){params->mesh->group[g->replicas], g->value,
                     n * (int64_t)sy_dtype_bytes(g->dtype)};
    } else if (g != NULL) {
        m = (memory){params->mesh->group[g->replicas], g->grad,
                     g->grad_n * (int64_t)sy_dtype_bytes(params->wide)};
    }
    return m;
}

static int32_t count(const sy_engine *e)
{
    return e->params != NULL && e->mesh != NULL ? 2 * e->params->n_segments + 1 : 0;
}

sy_status sy_registered_begin(sy_engine *e, int64_t *bytes)
{
    sy_status st = SY_OK;
    *bytes = 0;
    for (int32_t i = 0; i < count(e) && e->settings->parallel->register_buffers; i++) {
        const memory m = memory_at(e, i);
        bool done = false;
        if (m.bytes > 0) { /* whoever fails goes on all the same: other groups have other ranks */
            const sy_status now = sy_comm_register(m.comm, m.ptr, m.bytes, &done);
            st = st == SY_OK ? now : st;
        }
        *bytes += done ? m.bytes : 0;
    }
    return st;
}

void sy_registered_end(sy_engine *e)
{
    for (int32_t i = 0; i < count(e); i++) {
        const memory m = memory_at(e, i);
        if (m.bytes > 0) {
            sy_comm_deregister(m.comm, m.ptr);
        }
    }
}
