#include "tests/support/moe_rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/rng.h"
#include "tests/support/test_device.h"

enum { ARENA_BYTES = 2 << 20 };

sy_moe_config rig_config(int32_t E, int32_t K)
{
    static char topk[] = "topk";
    return (sy_moe_config){.experts = E,
                           .top_k = K,
                           .expert_hidden = RIG_F,
                           .shared_hidden = RIG_F,
                           .router = topk,
                           .normalize_weights = true,
                           .routed_scale = 1,
                           .min_capacity = 1,
                           .recv_factor = 2};
}

static void draw(uint64_t seed, uint64_t stream, double scale, double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = scale * sy_rng_normal(seed, 100 + stream, (uint64_t)i);
    }
}

void rig_draw_weights(uint64_t seed, rig_weights *out)
{
    draw(seed, 0, 0.6, out->router, RIG_E * RIG_H);
    draw(seed, 1, 0.3, out->bias, RIG_E);
    draw(seed, 2, 0.5, out->gate_up, RIG_E * RIG_GATED);
    draw(seed, 3, 0.5, out->down, RIG_E * RIG_H * RIG_F);
    draw(seed, 4, 0.5, out->shared_gate_up, RIG_GATED);
    draw(seed, 5, 0.5, out->shared_down, RIG_H * RIG_F);
    draw(seed, 6, 0.5, out->shared_router, RIG_H);
}

void rig_draw_tokens(uint64_t seed, int32_t B, int32_t S, rig_tokens *out)
{
    *out = (rig_tokens){.B = B, .S = S};
    draw(seed, 7, 1, out->x, (int64_t)B * S * RIG_H);
    draw(seed, 8, 1, out->dy, (int64_t)B * S * RIG_H);
}

/* ---- memory ---- */

static sy_status open_device(moe_rig *rig, const rig_spec *spec)
{
    sy_status st = SY_OK;
    sy_mesh_spec mesh = {.ep = spec->ep, .n_experts = spec->moe.experts};
    SY_TRY(sy_device_open(&(sy_device_spec){.backend = spec->backend, .threads = 1}, &rig->dev));
    SY_TRY(sy_stream_create(rig->dev, "compute", &rig->stream));
    SY_TRY(sy_stream_create(rig->dev, "comm", &rig->comm));
    mesh.dev = rig->dev;
    SY_TRY(sy_mesh_create(spec->world, &mesh, &rig->mesh));
    SY_TRY(sy_arena_init(&rig->fixed, rig->dev, ARENA_BYTES, SY_MEM_OTHER));
    SY_TRY(sy_arena_init(&rig->keep, rig->dev, ARENA_BYTES, SY_MEM_SAVED));
    SY_TRY(sy_arena_init(&rig->scratch, rig->dev, ARENA_BYTES, SY_MEM_SCRATCH));
cleanup:
    return st;
}

static sy_status create_layer(moe_rig *rig)
{
    sy_status st = SY_OK;
    sy_bind_spec bind = {.mesh = rig->mesh, .dev = rig->dev, .compute = rig->dev->wide};
    SY_TRY(sy_moe_create(&rig->model, &rig->moe, 0, &rig->layer));
    SY_TRY(sy_params_create(&rig->params));
    SY_TRY(rig->layer.ops->declare(rig->layer.self, "layer", rig->params));
    SY_TRY(sy_params_bind(rig->params, &bind));
cleanup:
    return st;
}

static sy_status create_stats(moe_rig *rig)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_2d(&rig->fixed, SY_I64, 1, rig->moe.experts, &rig->stats.load));
    SY_TRY(sy_arena_2d(&rig->fixed, SY_I64, 1, rig->moe.experts, &rig->stats.kept));
    SY_TRY(sy_arena_2d(&rig->fixed, SY_I64, 1, SY_DROP_PARTS, &rig->stats.dropped_at));
    SY_TRY(sy_arena_2d(&rig->fixed, SY_F64, 1, SY_N_SUMS, &rig->stats.sums));
cleanup:
    return st;
}

sy_status rig_open(moe_rig *rig, const rig_spec *spec)
{
    sy_status st = SY_OK;
    *rig = (moe_rig){.moe = spec->moe,
                     .model = {.hidden = RIG_H, .layers = 1, .init_std = 0.02, .heads = 1}};
    SY_TRY(open_device(rig, spec));
    SY_TRY(create_layer(rig));
    SY_TRY(create_stats(rig));
cleanup:
    return st;
}

void rig_close(moe_rig *rig)
{
    if (rig->dev != NULL) {
        sy_arena_free(&rig->scratch);
        sy_arena_free(&rig->keep);
        sy_arena_free(&rig->fixed);
    }
    sy_host_arena_free(&rig->host);
    sy_params_destroy(&rig->params);
    if (rig->layer.ops != NULL) {
        rig->layer.ops->destroy(rig->layer.self);
    }
    sy_mesh_destroy(&rig->mesh);
    sy_stream_destroy(&rig->comm);
    sy_stream_destroy(&rig->stream);
    sy_device_close(&rig->dev);
}

/* ---- numbers in and out, in the device's wide dtype ---- */

static sy_status upload(moe_rig *rig, const double *x, int64_t n, void *dst)
{
    sy_status st = SY_OK;
    int64_t bytes = n * (int64_t)sy_dtype_bytes(rig->dev->wide);
    void *narrow = malloc((size_t)bytes + 1);
    sy_convert(rig->dev->wide, narrow, SY_F64, x, n);
    SY_TRY(test_upload(rig->stream, dst, narrow, bytes));
cleanup:
    free(narrow);
    return st;
}

static sy_status download(moe_rig *rig, const void *src, int64_t n, double *x)
{
    sy_status st = SY_OK;
    int64_t bytes = n * (int64_t)sy_dtype_bytes(rig->dev->wide);
    void *narrow = malloc((size_t)bytes + 1);
    SY_TRY(test_download(rig->stream, narrow, src, bytes));
    sy_convert(SY_F64, x, rig->dev->wide, narrow, n);
cleanup:
    free(narrow);
    return st;
}

typedef struct slot {
    const char *name;
    size_t offset;
} slot;

static const slot slots[] = {
    {"layer/moe/router", offsetof(rig_weights, router)},
    {"layer/moe/bias", offsetof(rig_weights, bias)},
    {"layer/moe/experts/gate_up", offsetof(rig_weights, gate_up)},
    {"layer/moe/experts/down", offsetof(rig_weights, down)},
    {"layer/moe/shared/gate_up", offsetof(rig_weights, shared_gate_up)},
    {"layer/moe/shared/down", offsetof(rig_weights, shared_down)},
    {"layer/moe/shared/router", offsetof(rig_weights, shared_router)},
};
enum { N_SLOTS = sizeof slots / sizeof slots[0] };

/* Where this rank's part of a parameter lies in the host's copy. */
static double *place_of(const rig_weights *w, const slot *s, const sy_param *p)
{
    return (double *)(void *)((char *)(uintptr_t)w + s->offset) +
           sy_box_offset(&p->box, p->spec.shape_glb);
}

sy_status rig_put(moe_rig *rig, const rig_weights *w)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < N_SLOTS; i++) {
        const sy_param *p = sy_params_find(rig->params, slots[i].name);
        if (p != NULL) {
            SY_TRY(
                upload(rig, place_of(w, &slots[i], p), sy_tensor_numel(&p->value), p->value.data));
        }
    }
cleanup:
    return st;
}

sy_status rig_get_gradients(moe_rig *rig, rig_weights *out)
{
    sy_status st = SY_OK;
    *out = (rig_weights){0};
    for (int32_t i = 0; i < N_SLOTS; i++) {
        const sy_param *p = sy_params_find(rig->params, slots[i].name);
        if (p != NULL && p->grad.data != NULL) {
            SY_TRY(download(rig, p->grad.data, sy_tensor_numel(&p->grad),
                            place_of(out, &slots[i], p)));
        }
    }
cleanup:
    return st;
}

/* ---- a pass ---- */

static sy_status upload_tokens(moe_rig *rig, const rig_tokens *in, sy_tensor *x, sy_tensor *dy)
{
    sy_status st = SY_OK;
    int64_t T = (int64_t)in->B * in->S;
    sy_tensor *routed = &rig->batch.routed;
    rig->batch = (sy_device_batch){.B = in->B, .S = in->S, .T = T};
    SY_TRY(sy_arena_2d(&rig->keep, rig->dev->wide, T, RIG_H, x));
    SY_TRY(sy_arena_2d(&rig->keep, rig->dev->wide, T, RIG_H, dy));
    SY_TRY(upload(rig, in->x, T * RIG_H, x->data));
    SY_TRY(upload(rig, in->dy, T * RIG_H, dy->data));
    if (in->masked) {
        SY_TRY(sy_arena_1d(&rig->keep, SY_U8, T, routed));
        SY_TRY(test_upload(rig->stream, routed->data, in->routed, T));
    }
cleanup:
    return st;
}

static sy_status zero_stats(moe_rig *rig)
{
    sy_status st = SY_OK;
    sy_tensor *t[] = {&rig->stats.load, &rig->stats.kept, &rig->stats.dropped_at, &rig->stats.sums};
    for (int32_t i = 0; i < 4; i++) {
        SY_TRY(sy_zero(rig->stream, t[i]->data, sy_tensor_bytes(t[i])));
    }
    rig->stats.n_extra_passes = 0;
cleanup:
    return st;
}

static sy_status fetch(moe_rig *rig, const sy_tensor *y, const sy_tensor *dx, rig_result *out)
{
    sy_status st = SY_OK;
    const sy_stats *s = &rig->stats;
    *out = (rig_result){.n_extra_passes = s->n_extra_passes};
    SY_TRY(download(rig, y->data, sy_tensor_numel(y), out->y));
    SY_TRY(download(rig, dx->data, sy_tensor_numel(dx), out->dx));
    SY_TRY(test_download(rig->stream, out->load, s->load.data, sy_tensor_bytes(&s->load)));
    SY_TRY(test_download(rig->stream, out->kept, s->kept.data, sy_tensor_bytes(&s->kept)));
    SY_TRY(test_download(rig->stream, out->dropped_at, s->dropped_at.data,
                         sy_tensor_bytes(&s->dropped_at)));
    SY_TRY(test_download(rig->stream, out->sums, s->sums.data, sy_tensor_bytes(&s->sums)));
cleanup:
    return st;
}

sy_status rig_train(moe_rig *rig, const rig_tokens *in, double per_routed, rig_result *out)
{
    sy_status st = SY_OK;
    const sy_sublayer *layer = &rig->layer;
    sy_tensor x, dy, y, dx;
    void *saved = NULL;
    sy_pass p = {.kind = SY_PASS_TRAIN,
                 .compute = rig->dev->wide,
                 .wide = rig->dev->wide,
                 .batch = &rig->batch,
                 .T_max = RIG_T,
                 .mesh = rig->mesh,
                 .stream = rig->stream,
                 .comm = rig->comm,
                 .keep = &rig->keep,
                 .saved = &rig->keep,
                 .scratch = &rig->scratch,
                 .host = &rig->host,
                 .per_routed_token = per_routed,
                 .stats = &rig->stats};
    sy_arena_release(&rig->keep, 0);
    sy_host_arena_reset(&rig->host);
    SY_TRY(zero_stats(rig));
    SY_TRY(upload_tokens(rig, in, &x, &dy));
    SY_TRY(sy_arena_2d(&rig->keep, p.compute, x.shape[0], RIG_H, &y));
    SY_TRY(sy_arena_2d(&rig->keep, p.compute, x.shape[0], RIG_H, &dx));
    SY_TRY(layer->ops->forward(layer->self, &p, &x, &y, &saved));
    SY_TRY(layer->ops->backward(layer->self, &p, saved, &x, &dy, &dx));
    SY_TRY(fetch(rig, &y, &dx, out));
cleanup:
    return st;
}

sy_status rig_end_step(moe_rig *rig, const int64_t *load, bool skipped, double *bias)
{
    sy_status st = SY_OK;
    const sy_param *p = sy_params_find(rig->params, "layer/moe/bias");
    SY_REQUIRE(p != NULL, SY_ERR_INTERNAL, "the layer has no bias");
    SY_TRY(rig->layer.ops->end_step(rig->layer.self, &(sy_step_end){.h_load = load,
                                                                    .L = 1,
                                                                    .E = rig->moe.experts,
                                                                    .skipped = skipped,
                                                                    .stream = rig->stream}));
    SY_TRY(download(rig, p->value.data, rig->moe.experts, bias));
cleanup:
    return st;
}

double rig_gap(const double *a, const double *b, int64_t n)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double gap = fabs(a[i] - b[i]) / (1 + fabs(b[i]));
        worst = gap <= worst ? worst : isnan(gap) ? INFINITY : gap;
    }
    return worst;
}
