/* Attention by cuDNN, where it is there and takes the form: bf16, causal, whole sequences. A plan
   is made once per form, and kept. Backward runs in pieces, so many sequences and heads at a time
   as the stream's workspace has room for; each piece is the same plan at other addresses. What
   cuDNN does not take is left to our own kernels (attention*.cu). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_impl.h"
#include "backend/cuda/sdpa_impl.h"
#include "core/alloc.h"
#include "core/log.h"

/* Before 9.15.1 the causal backward and the sums of a length that is no multiple of 128 were wrong,
   before 9.26 lse was read as if it were packed by heads, whatever its strides said. */
enum { LEAST_VERSION = 91501, BACKWARD_VERSION = 92600, N_PLANS = 32, HOPPER = 90 };

/* One form: how many pieces it is cut into, and the plan of a piece. */
typedef struct planned {
    sy__sdpa_form whole;
    sy__sdpa_plan piece;
} planned;

struct sy__cudnn {
    pthread_mutex_t lock;
    bool tried, usable;
    sy_cudnn lib;
    void *handle, *stream; /* the one that the handle is at */
    int64_t n_made;
    planned plans[N_PLANS]; /* the oldest makes room */
};

sy_status sy__cudnn_open(sy_device *dev)
{
    sy_status st = SY_OK;
    sy__cuda_device *self = sy__cuda_device_of(dev);
    SY_TRY(sy_alloc(1, sizeof *self->cudnn, (void **)&self->cudnn));
    pthread_mutex_init(&self->cudnn->lock, NULL);
cleanup:
    return st;
}

void sy__cudnn_close(sy_device *dev)
{
    sy__cuda_device *owner = sy__cuda_device_of(dev);
    struct sy__cudnn *self = owner->cudnn;
    if (!self) {
        return;
    }
    for (int32_t i = 0; i < N_PLANS; i++) {
        sy__sdpa_free(&self->lib, &self->plans[i].piece);
    }
    if (self->handle) {
        self->lib.cudnnDestroy(self->handle);
    }
    sy_cudnn_unload(&self->lib);
    pthread_mutex_destroy(&self->lock);
    sy_free(&owner->cudnn);
}

/* At the first attention: is there a library, new enough, and does it open? */
static bool is_usable(struct sy__cudnn *self)
{
    const char *wanted = getenv("SY_CUDNN");
    if (self->tried) {
        return self->usable;
    }
    self->tried = true;
    if (wanted && strcmp(wanted, "0") == 0) {
        return false;
    }
    if (sy_cudnn_load(&self->lib) != SY_OK) {
        sy_error_clear();
        return false;
    }
    const size_t version = self->lib.cudnnGetVersion();
    self->usable =
        version >= LEAST_VERSION && self->lib.cudnnCreate(&self->handle) == SY_CUDNN_SUCCESS;
    sy_debug("attention: cuDNN %zu is %s", version,
             !self->usable                 ? "too old, or does not open"
             : version >= BACKWARD_VERSION ? "used"
                                           : "used forward");
    return self->usable;
}

/* ---- forms ---- */

typedef struct operands {
    const sy_tensor *t[SY__SDPA_OPERANDS]; /* NULL: not of this op */
    int32_t B;
    double scale;
} operands;

static bool fits(const sy_tensor *t)
{
    return t->dtype == SY_BF16 && (uintptr_t)t->data % 16 == 0 && t->shape[2] % 8 == 0 &&
           t->shape[2] <= 256 && t->stride[0] % 8 == 0 && t->stride[1] % 8 == 0;
}

static bool all_fit(const operands *o)
{
    bool fit = true;
    for (int32_t i = 0; i < SY__SDPA_OPERANDS && fit; i++) {
        fit = i == SY__SDPA_LSE || !o->t[i] || fits(o->t[i]);
    }
    return fit;
}

static sy__sdpa_form form_of(const operands *o)
{
    const sy_tensor *q = o->t[SY__SDPA_Q], *v = o->t[SY__SDPA_V];
    sy__sdpa_form f = {.B = o->B,
                       .S = q->shape[0] / o->B,
                       .n_heads = q->shape[1],
                       .n_kv = v->shape[1],
                       .D = q->shape[2],
                       .D_v = v->shape[2],
                       .backward = o->t[SY__SDPA_DQ] != NULL};
    for (int32_t i = 0; i < SY__SDPA_OPERANDS; i++) {
        f.row[i] = o->t[i] ? o->t[i]->stride[0] : 0;
        f.head[i] = o->t[i] ? o->t[i]->stride[1] : 0;
    }
    return f;
}

/* Cut into n pieces, by sequences and then by heads; false where it does not divide. */
static bool cut(const sy__sdpa_form *whole, int64_t n, sy__sdpa_form *piece)
{
    const int64_t group = whole->n_heads / whole->n_kv;
    *piece = *whole;
    if (n <= whole->B) {
        piece->B = whole->B / n;
        return whole->B % n == 0;
    }
    piece->B = 1;
    piece->n_kv = whole->n_kv * whole->B / n;
    piece->n_heads = piece->n_kv * group;
    return n % whole->B == 0 && whole->n_kv % (n / whole->B) == 0;
}

/* ---- workspace: delta, the sums of dq, and then what cuDNN wants ---- */

static int64_t delta_bytes(const sy__sdpa_form *f)
{
    return f->backward ? sy__align_up(f->B * f->n_heads * f->S * (int64_t)sizeof(float)) : 0;
}

static int64_t dq_sum_bytes(const sy__sdpa_form *f)
{
    return f->backward ? sy__align_up(f->B * f->n_heads * f->S * f->D * (int64_t)sizeof(float)) : 0;
}

/* ---- plans ---- */

/* As few pieces as have room. */
static void make_plan(struct sy__cudnn *self, planned *p)
{
    const int64_t n_most = p->whole.backward ? p->whole.B * p->whole.n_kv : 1;
    int64_t wanted = SY_WORKSPACE_BYTES + 1;
    for (int64_t n = 1; n <= n_most && wanted > SY_WORKSPACE_BYTES; n++) {
        sy__sdpa_plan *piece = &p->piece;
        if (!cut(&p->whole, n, &piece->form)) {
            continue;
        }
        wanted = delta_bytes(&piece->form) + dq_sum_bytes(&piece->form);
        if (wanted <= SY_WORKSPACE_BYTES) {
            sy__sdpa_build(&self->lib, self->handle, SY_WORKSPACE_BYTES - wanted, piece);
            wanted += piece->workspace_bytes;
        }
    }
}

static planned *find_plan(struct sy__cudnn *self, const sy__sdpa_form *whole)
{
    for (int32_t i = 0; i < N_PLANS && i < self->n_made; i++) {
        if (memcmp(&self->plans[i].whole, whole, sizeof *whole) == 0) {
            return &self->plans[i];
        }
    }
    planned *p = &self->plans[self->n_made++ % N_PLANS];
    if (p->piece.n_desc > 0) {
        cudaDeviceSynchronize(); /* it may still run */
        sy__sdpa_free(&self->lib, &p->piece);
    }
    p->whole = *whole;
    make_plan(self, p);
    return p;
}

/* ---- running them ---- */

static int run_pack(struct sy__cudnn *self, void *plan, int64_t n, const int64_t *id,
                    void *const *pointer, const void *workspace)
{
    const sy_cudnn *lib = &self->lib;
    void *pack = NULL;
    int status = lib->cudnnBackendCreateDescriptor(SY_CUDNN_PACK, &pack);
    status = status
                 ? status
                 : lib->cudnnBackendSetAttribute(pack, SY_CUDNN_PACK_IDS, SY_CUDNN_OF_INT64, n, id);
    status = status ? status
                    : lib->cudnnBackendSetAttribute(pack, SY_CUDNN_PACK_POINTERS,
                                                    SY_CUDNN_OF_POINTER, n, pointer);
    status = status ? status
                    : lib->cudnnBackendSetAttribute(pack, SY_CUDNN_PACK_WORKSPACE,
                                                    SY_CUDNN_OF_POINTER, 1, &workspace);
    status = status ? status : lib->cudnnBackendFinalize(pack);
    status = status ? status : lib->cudnnBackendExecute(self->handle, plan, pack);
    if (pack) {
        lib->cudnnBackendDestroyDescriptor(pack);
    }
    return status;
}

/* The piece that begins at sequence b and key head h. */
static int run_piece(struct sy__cudnn *self, char *workspace, const operands *o, const planned *p,
                     int64_t b, int64_t h)
{
    const sy__sdpa_form *f = &p->piece.form;
    float scale = (float)o->scale, hidden = -INFINITY, one = 1;
    void *at[SY__SDPA_IDS] = {[SY__SDPA_SCALE] = &scale,
                              [SY__SDPA_HIDDEN] = &hidden,
                              [SY__SDPA_ONE] = f->backward ? &one : NULL,
                              [SY__SDPA_DELTA] = f->backward ? workspace : NULL,
                              [SY__SDPA_DQ_SUM] = f->backward ? workspace + delta_bytes(f) : NULL};
    void *pointer[SY__SDPA_IDS];
    int64_t id[SY__SDPA_IDS], n = 0;
    for (int32_t i = 0; i < SY__SDPA_OPERANDS; i++) {
        const sy_tensor *t = o->t[i];
        if (t) {
            const int64_t head = h * t->shape[1] / p->whole.n_kv;
            const int64_t offset = b * f->S * t->stride[0] + head * t->stride[1];
            at[i] = (char *)t->data + offset * (int64_t)sy_dtype_bytes(t->dtype);
        }
    }
    for (int32_t i = 0; i < SY__SDPA_IDS; i++) {
        if (at[i]) {
            id[n] = i;
            pointer[n++] = at[i];
        }
    }
    return run_pack(self, p->piece.plan, n, id, pointer,
                    workspace + delta_bytes(f) + dq_sum_bytes(f));
}

static int run_pieces(struct sy__cudnn *self, char *workspace, const operands *o, const planned *p)
{
    int status = SY_CUDNN_SUCCESS;
    for (int64_t b = 0; b < p->whole.B && !status; b += p->piece.form.B) {
        for (int64_t h = 0; h < p->whole.n_kv && !status; h += p->piece.form.n_kv) {
            status = run_piece(self, workspace, o, p, b, h);
        }
    }
    return status;
}

static sy_status enter(struct sy__cudnn *self, sy_stream *stream)
{
    void *wanted = sy_cuda_stream(stream);
    if (self->stream != wanted) {
        const int status = self->lib.cudnnSetStream(self->handle, wanted);
        if (status != SY_CUDNN_SUCCESS) {
            return sy_error(SY_ERR_INTERNAL, "attention: cuDNN does not take the stream: %s",
                            self->lib.cudnnGetErrorString(status));
        }
        self->stream = wanted;
    }
    return SY_OK;
}

static sy_status run(struct sy__cudnn *self, sy_stream *stream, const operands *o, bool *done)
{
    sy_status st = SY_OK;
    if (!is_usable(self)) {
        return SY_OK;
    }
    if (o->t[SY__SDPA_DQ] && (self->lib.cudnnGetVersion() < BACKWARD_VERSION ||
                              sy__cuda_device_of(stream->dev)->capability != HOPPER)) {
        return SY_OK;
    }
    const sy__sdpa_form whole = form_of(o);
    planned *p = find_plan(self, &whole);
    if (!p->piece.plan) {
        return SY_OK;
    }
    SY_TRY(enter(self, stream));
    const int status = run_pieces(self, stream->workspace, o, p);
    if (status >= SY_CUDNN_NOT_SUPPORTED && status < SY_CUDNN_NOT_SUPPORTED_END) {
        p->piece.plan = NULL; /* it says so late, and is not asked again */
        goto cleanup;
    }
    SY_REQUIRE(status == SY_CUDNN_SUCCESS, SY_ERR_INTERNAL,
               "attention: cuDNN says: %s; SY_CUDNN=0 in the environment computes it without cuDNN",
               self->lib.cudnnGetErrorString(status));
    *done = true;
cleanup:
    return st;
}

static sy_status run_locked(sy_stream *stream, const operands *o, bool *done)
{
    struct sy__cudnn *self = sy__cuda_device_of(stream->dev)->cudnn;
    pthread_mutex_lock(&self->lock);
    const sy_status st = run(self, stream, o, done);
    pthread_mutex_unlock(&self->lock);
    return st;
}

sy_status sy__cudnn_attention(sy_stream *stream, const sy_attention_args *args, bool *done)
{
    const operands o = {.t = {[SY__SDPA_Q] = &args->q,
                              [SY__SDPA_K] = &args->k,
                              [SY__SDPA_V] = &args->v,
                              [SY__SDPA_O] = &args->o,
                              [SY__SDPA_LSE] = &args->lse},
                        .B = args->B,
                        .scale = args->scale};
    *done = false;
    const bool whole = !args->doc.data && !args->q_start.data && args->q.shape[0] > args->B &&
                       args->q.shape[0] == args->k.shape[0];
    return whole && all_fit(&o) ? run_locked(stream, &o, done) : SY_OK;
}

sy_status sy__cudnn_attention_backward(sy_stream *stream, const sy_attention_backward_args *args,
                                       bool *done)
{
    const operands o = {.t = {[SY__SDPA_Q] = &args->q,
                              [SY__SDPA_K] = &args->k,
                              [SY__SDPA_V] = &args->v,
                              [SY__SDPA_O] = &args->o,
                              [SY__SDPA_LSE] = &args->lse,
                              [SY__SDPA_DOUT] = &args->dout,
                              [SY__SDPA_DQ] = &args->dq,
                              [SY__SDPA_DK] = &args->dk,
                              [SY__SDPA_DV] = &args->dv},
                        .B = args->B,
                        .scale = args->scale};
    *done = false;
    const bool whole = !args->doc.data && args->q.shape[0] > args->B;
    return whole && all_fit(&o) ? run_locked(stream, &o, done) : SY_OK;
}
