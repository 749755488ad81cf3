#include "train/engine.h"

#include <math.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/log.h"
#include "model/depth.h"
#include "model/flops.h"
#include "model/kv.h"
#include "moe/decoder.h"
#include "moe/exchange.h"
#include "moe/moe.h"
#include "moe/peer.h"
#include "moe/router.h"
#include "parallel/agree.h"
#include "parallel/units.h"
#include "train/registered.h"
#include "train/room.h"

int32_t sy_engine_experts(const sy_engine *engine)
{
    return engine->settings->moe->experts;
}

/* Where there is something to compute while rows travel: shared experts, or other chunks. */
static sy_status create_travel(sy_engine *e)
{
    const sy_parallel_config *c = e->settings->parallel;
    const sy_moe_config *moe = e->settings->moe;
    const bool useful = c->overlap_chunks > 1 || moe->shared_experts > 0;
    return moe->experts > 0 && c->ep > 1 && useful
               ? sy_travel_create(e->dev, c->overlap_chunks, &e->travel)
               : SY_OK;
}

int32_t sy_engine_blocks(const sy_engine *engine)
{
    return sy_model_blocks(engine->settings->model);
}

/* place, n_places: of this rank on its node. */
static sy_status open_device(sy_engine *e, int32_t place, int32_t n_places)
{
    sy_status st = SY_OK;
    const sy_device_config *c = e->settings->device;
    sy_device_spec spec = {.backend = c->backend,
                           .threads = c->threads > 0 ? c->threads : e->spec.threads,
                           .dry = e->spec.dry || e->spec.prices != NULL,
                           .prices = e->spec.prices,
                           .place = place,
                           .n_places = n_places,
                           .shareable = e->settings->parallel->register_buffers};
    SY_TRY(sy_device_open(&spec, &e->dev));
    SY_TRY(sy_ops_require_all(e->dev));
    SY_TRY(sy_device_config_dtype(e->settings->config, e->dev->name, &e->compute));
    e->wide = e->dev->wide;
    SY_REQUIRE(e->dev->supports[e->compute], SY_ERR_USAGE,
               "backend '%s' does not compute in %s (device.precision)", e->dev->name,
               sy_dtype_name(e->compute));
    SY_TRY(sy_stream_create(e->dev, "compute", &e->compute_stream));
    SY_TRY(sy_stream_create(e->dev, "comm", &e->comm_stream));
    for (int32_t i = 0; i < 2; i++) {
        SY_TRY(sy_event_create(e->dev, &e->host_free[i]));
    }
    SY_TRY(create_travel(e));
cleanup:
    return st;
}

/* The model and its declared parameters: no memory yet. */
static sy_status declare_model(const sy_run_settings *settings, sy_model **model,
                               sy_params **params)
{
    sy_status st = SY_OK;
    const sy_str_list *freeze = &settings->train->freeze;
    SY_TRY(sy_decoder_create(settings->model, settings->moe, model, params));
    if (freeze->n > 0) {
        SY_TRY(sy_config_blame(
            settings->config, "train.freeze",
            sy_params_freeze(*params, (const char *const *)freeze->item, freeze->n)));
    }
cleanup:
    return st;
}

static sy_status create_mesh(sy_engine *e)
{
    sy_mesh_spec mesh = {
        .ep = e->settings->parallel->ep, .n_experts = e->settings->moe->experts, .dev = e->dev};
    return sy_mesh_create(e->spec.world, &mesh, &e->mesh);
}

static sy_status create_model(sy_engine *e)
{
    sy_status st = SY_OK;
    bool train = e->spec.use == SY_USE_TRAIN;
    sy_bind_spec bind = {.mesh = e->mesh,
                         .dev = e->dev,
                         .compute = e->compute,
                         .zero = train ? e->settings->parallel->zero : 0};
    SY_TRY(declare_model(e->settings, &e->model, &e->params));
    for (int32_t i = 0; !train && i < e->params->n; i++) {
        e->params->param[i]->spec.trainable = false; /* no gradients */
    }
    SY_TRY(sy_params_bind(e->params, &bind));
    SY_TRY(sy_params_init_optional(e->params, e->compute_stream));
cleanup:
    return st;
}

static sy_status create_batch(sy_engine *e)
{
    static const sy_dtype dtype[7] = {SY_I32, SY_I32, SY_F32, SY_U8, SY_I32, SY_I32, SY_I64};
    sy_status st = SY_OK;
    int64_t T = (int64_t)e->spec.B * e->spec.S;
    for (int32_t i = 0; i < 7; i++) {
        void *data = NULL;
        SY_TRY(sy_device_alloc(e->dev, T * (int64_t)sy_dtype_bytes(dtype[i]), SY_MEM_BATCH, &data));
        e->batch_mem[i] = sy_tensor_1d(data, dtype[i], T);
    }
cleanup:
    return st;
}

/* What lives as long as the engine: statistics, losses per token, the table of angles. */
static sy_status create_fixed(sy_engine *e)
{
    sy_status st = SY_OK;
    const int64_t L = sy_engine_blocks(e), E = sy_engine_experts(e);
    const int64_t n_mtp = (int64_t)e->settings->model->mtp_layers * SY_MTP_N_SUMS;
    int64_t T = (int64_t)e->spec.B * e->spec.S;
    sy_tensor part;
    SY_TRY(sy_arena_1d(&e->fixed, SY_F64, 3 + L * SY_N_SUMS + n_mtp, &e->sums));
    SY_TRY(sy_arena_1d(&e->fixed, SY_I64, L * (2 * E + SY_DROP_PARTS), &e->loads));
    SY_TRY(sy_arena_1d(&e->fixed, e->wide, T, &e->nll));
    SY_TRY(sy_rope_table(e->settings->model, e->spec.S, &e->fixed, e->compute_stream, e->wide,
                         &e->rope));
    SY_TRY(sy_alloc(e->sums.shape[0], sizeof *e->h_sums, (void **)&e->h_sums));
    SY_TRY(sy_alloc(e->sums.shape[0], sizeof *e->h_own_sums, (void **)&e->h_own_sums));
    SY_TRY(sy_alloc(e->loads.shape[0], sizeof *e->h_loads, (void **)&e->h_loads));
    e->n_router_sums = E > 0 ? L * sy_router_sums(e->settings->moe, e->settings->model->hidden) : 0;
    if (e->n_router_sums > 0) {
        SY_TRY(sy_alloc(e->n_router_sums, sizeof(double), (void **)&e->stats.h_router));
    }
    part = sy_tensor_rows(&e->sums, 2, L * SY_N_SUMS);
    e->stats.sums = sy_tensor_2d(part.data, SY_F64, L, SY_N_SUMS);
    e->stats.nll_sum = sy_tensor_rows(&e->sums, 1, 1);
    e->stats.output_z = sy_tensor_rows(&e->sums, 2 + L * SY_N_SUMS, 1);
    e->stats.mtp = sy_tensor_rows(&e->sums, 3 + L * SY_N_SUMS, n_mtp);
    part = sy_tensor_rows(&e->loads, 0, L * E);
    e->stats.load = sy_tensor_2d(part.data, SY_I64, L, E);
    part = sy_tensor_rows(&e->loads, L * E, L * E);
    e->stats.kept = sy_tensor_2d(part.data, SY_I64, L, E);
    part = sy_tensor_rows(&e->loads, 2 * L * E, L * SY_DROP_PARTS);
    e->stats.dropped_at = sy_tensor_2d(part.data, SY_I64, L, SY_DROP_PARTS);
    if (e->spec.use == SY_USE_GENERATE) {
        SY_TRY(sy_kv_create(e->dev, e->settings->model, e->compute, &e->kv));
    }
cleanup:
    return st;
}

static sy_status init_arenas(sy_engine *e, const sy_engine *measured)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_init(&e->fixed, e->dev, measured ? measured->fixed.peak : -1, SY_MEM_OTHER));
    SY_TRY(sy_arena_init(&e->keep, e->dev, measured ? measured->keep.peak : -1, SY_MEM_SAVED));
    SY_TRY(sy_arena_init(&e->block, e->dev, measured ? measured->block.peak : -1, SY_MEM_SAVED));
    SY_TRY(
        sy_arena_init(&e->scratch, e->dev, measured ? measured->scratch.peak : -1, SY_MEM_SCRATCH));
cleanup:
    return st;
}

static sy_status measure_pass(sy_engine *e, sy_pass_kind kind, const sy_batch *batch)
{
    sy_status st = SY_OK;
    sy_pass p;
    sy_model_saved *saved = NULL;
    sy_tensor logits;
    SY_TRY(sy_engine_begin(e, kind, batch, 0, 0, &p));
    if (kind == SY_PASS_DECODE) {
        SY_TRY(sy_arena_1d(&e->keep, e->wide, e->settings->model->vocab_size, &logits));
        SY_TRY(sy_model_decode(e->model, &p, &logits));
    } else if (kind == SY_PASS_TRAIN) {
        SY_TRY(sy_model_forward(e->model, &p, &saved));
        SY_TRY(sy_model_backward(e->model, &p, saved));
    } else {
        SY_TRY(sy_model_forward(e->model, &p, NULL));
    }
    SY_TRY(sy_engine_end(e, &p));
cleanup:
    return st;
}

/* Run a dry twin over the largest micro-batch: its arenas tell how large ours must be. */
static sy_status measure(const sy_engine_spec *spec, sy_engine **twin)
{
    static const int32_t dummy[1] = {0};
    sy_status st = SY_OK;
    sy_engine_spec dry = *spec;
    sy_batch batch = {.B = spec->B,
                      .S = spec->S,
                      .ids = dummy,
                      .targets = dummy,
                      .pos = dummy,
                      .doc = dummy,
                      .routed = (const uint8_t *)dummy,
                      .loss_weight = (const float *)dummy,
                      .token_glb = (const int64_t *)dummy};
    dry.dry = true;
    dry.prices = NULL;
    SY_TRY(sy_engine_create(&dry, twin));
    if (spec->use == SY_USE_GENERATE) {
        SY_TRY(measure_pass(*twin, SY_PASS_DECODE, &batch));
    } else {
        SY_TRY(measure_pass(*twin, SY_PASS_EVAL, &batch));
    }
    if (spec->use == SY_USE_TRAIN) {
        SY_TRY(measure_pass(*twin, SY_PASS_TRAIN, &batch));
    }
cleanup:
    return st;
}

int64_t sy_engine_rss_bytes(void)
{
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f != NULL) {
        if (fscanf(f, "%ld %ld", &pages, &resident) != 2) {
            resident = 0;
        }
        fclose(f);
    }
    return (int64_t)resident * sysconf(_SC_PAGESIZE);
}

int64_t sy_engine_peak_rss_bytes(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)usage.ru_maxrss * 1024;
}

static sy_status create_memory(sy_engine *e)
{
    sy_status st = SY_OK;
    SY_TRY(create_model(e));
    SY_TRY(create_batch(e));
cleanup:
    return st;
}

/* A dry twin, made by all ranks together, tells what passes will need; the device must have it. */
static sy_status measure_work(sy_engine *e, sy_engine **twin)
{
    sy_status st = SY_OK;
    if (!e->spec.dry) {
        SY_TRY(measure(&e->spec, twin));
        SY_TRY(sy_room_check(e->dev, *twin));
    }
cleanup:
    return st;
}

/* What passes work in. */
static sy_status create_work(sy_engine *e, const sy_engine *twin)
{
    sy_status st = SY_OK;
    SY_TRY(init_arenas(e, twin));
    SY_TRY(create_fixed(e));
cleanup:
    return st;
}

/* What a step's collectives move is made known to their network. */
static sy_status register_memory(sy_engine *e)
{
    sy_status st = SY_OK;
    int64_t bytes = 0;
    SY_TRY(sy_registered_begin(e, &bytes));
    if (e->settings->parallel->register_buffers) {
        sy_info("parallel.register_buffers: %.1f MiB of a rank registered%s",
                (double)bytes / (1 << 20),
                bytes > 0 ? "" : "; that takes several ranks on GPUs and NCCL 2.19 or later");
    }
cleanup:
    return st;
}

/* Ranks agree before each step that needs them all: the mesh, and the twin's. */
static sy_status build(sy_engine *e)
{
    sy_status st = SY_OK;
    sy_comm *world = e->spec.world;
    sy_engine *twin = NULL;
    const bool real = !e->spec.dry && e->spec.prices == NULL;
    int32_t place = 0, n_places = 1;
    SY_TRY(real ? sy_units_place(world, &place, &n_places) : SY_OK);
    SY_TRY(sy_agree(world, open_device(e, place, n_places)));
    SY_TRY(real ? sy_units_apart(world, e->dev) : SY_OK);
    SY_TRY(create_mesh(e));
    SY_TRY(sy_agree(world, measure_work(e, &twin)));
    SY_TRY(sy_agree(world, create_memory(e)));
    SY_TRY(sy_agree(world, create_work(e, twin)));
    if (real && e->spec.use == SY_USE_TRAIN) {
        SY_TRY(sy_agree(world, register_memory(e)));
    }
cleanup:
    sy_engine_destroy(&twin);
    return st;
}

sy_status sy_engine_create(const sy_engine_spec *spec, sy_engine **out)
{
    sy_status st = SY_OK;
    sy_engine *e = NULL;
    SY_TRY(sy_agree(spec->world, sy_alloc(1, sizeof *e, (void **)&e)));
    e->spec = *spec;
    e->settings = spec->settings;
    e->base_rss_bytes = sy_engine_rss_bytes();
    SY_TRY(build(e));
    e->predicted_bytes = e->dev->ledger.total_now;
    *out = e;
    e = NULL;
cleanup:
    sy_engine_destroy(&e);
    return st;
}

void sy_engine_destroy(sy_engine **engine)
{
    sy_engine *e = *engine;
    if (e == NULL) {
        return;
    }
    sy_registered_end(e);
    sy_kv_destroy(&e->kv);
    sy_free(&e->stats.h_router);
    sy_free(&e->h_loads);
    sy_free(&e->h_own_sums);
    sy_free(&e->h_sums);
    if (e->dev != NULL) {
        sy_arena_free(&e->scratch);
        sy_arena_free(&e->block);
        sy_arena_free(&e->keep);
        sy_arena_free(&e->fixed);
        for (int32_t i = 0; i < 7; i++) {
            sy_device_free(e->dev, &e->batch_mem[i].data);
        }
    }
    sy_host_arena_free(&e->host[0]);
    sy_host_arena_free(&e->host[1]);
    sy_params_destroy(&e->params);
    sy_model_destroy(&e->model);
    sy_mesh_destroy(&e->mesh);
    sy_travel_destroy(&e->travel);
    sy_event_destroy(&e->host_free[0]);
    sy_event_destroy(&e->host_free[1]);
    sy_stream_destroy(&e->comm_stream);
    sy_stream_destroy(&e->compute_stream);
    sy_device_close(&e->dev);
    sy_free(engine);
}

double sy_engine_flops_per_token(const sy_engine *engine, int64_t *active_params)
{
    const sy_run_settings *s = engine->settings;
    int64_t active = sy_model_attention_head_params(s->model);
    int64_t ahead = sy_model_mtp_params(s->model); /* of what looks further ahead, in training */
    const int64_t dense = (sy_act_parts((sy_act)s->model->activation) + 1) *
                          (int64_t)s->model->hidden * s->model->ffn_hidden;
    for (int32_t i = 0; i < sy_engine_blocks(engine); i++) {
        const bool routed = sy_moe_config_layer(s->moe, i);
        const int64_t mlp =
            sy_model_layer_peer(s->model, i) ? sy_peer_active_params(s->model) : dense;
        const int64_t n = (routed ? sy_moe_active_params(s->model, s->moe) : mlp) +
                          (routed && s->moe->extra_ffn ? dense : 0);
        *(i < s->model->layers ? &active : &ahead) +=
            sy_model_layer_params(s->model, i, n) + sy_depth_params(s->model, i);
    }
    if (active_params != NULL) {
        *active_params = active;
    }
    return sy_model_flops_per_token(s->model, active + ahead);
}

int64_t sy_engine_mtp_params(const sy_engine *engine)
{
    const int32_t D = engine->settings->model->mtp_layers;
    const sy_mtp *mtp = engine->model->mtp;
    int64_t sum = 0;
    for (int32_t i = D > 0 ? mtp[0].embed_norm->index : 0; D > 0 && i <= mtp[D - 1].norm->index;
         i++) {
        sum += sy_param_count(&engine->params->param[i]->spec);
    }
    return sum;
}

void sy_engine_memory_format(const sy_engine *engine, char *buf, size_t buf_bytes)
{
    const sy_ledger *ledger = &engine->dev->ledger;
    size_t used = (size_t)snprintf(buf, buf_bytes, "%.1f MiB per rank before the first step:",
                                   (double)engine->predicted_bytes / (1 << 20));
    for (int32_t tag = 0; tag < SY_N_MEM_TAGS && used < buf_bytes; tag++) {
        if (ledger->now[tag] > 0) {
            used += (size_t)snprintf(buf + used, buf_bytes - used, " %s %.1f",
                                     sy_mem_tag_name((sy_mem_tag)tag),
                                     (double)ledger->now[tag] / (1 << 20));
        }
    }
}
