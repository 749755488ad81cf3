#include "launch/model_load.h"

#include <stdio.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "core/pulse.h"
#include "parallel/agree.h"
#include "parallel/watch.h"
#include "train/run.h"

static sy_status walk_params(void *self, sy_emit *emit, void *to)
{
    sy_engine *engine = self;
    return sy_params_walk(engine->params, "model", emit, to);
}

sy_status sy_engine_load(sy_engine *engine, const char *path)
{
    sy_owner owner = {.name = "model", .self = engine, .walk = walk_params};
    sy_state state = {.owners = &owner, .n_owners = 1, .kind = "model"};
    return sy_checkpoint_load(path, &state, SY_LOAD_MODEL, engine->mesh->io);
}

typedef struct filler {
    sy_engine *engine;
    sy_source *source;
    void *h_buf; /* [SY_PULL_BYTES] */
} filler;

static sy_status fill_part(const filler *f, const sy_field *field, int32_t tensor,
                           const sy_part *part)
{
    sy_status st = SY_OK;
    sy_stream *stream = f->engine->compute_stream;
    const int64_t bytes = (int64_t)sy_dtype_bytes(field->dtype), at_once = SY_PULL_BYTES / bytes;
    const int64_t first = sy_box_offset(&part->box, field->shape_glb);
    const int64_t n = sy_box_numel(&part->box);
    for (int64_t done = 0; done < n; done += at_once) {
        int64_t m = n - done < at_once ? n - done : at_once;
        SY_TRY(sy_source_read(f->source, tensor, first + done, m, field->dtype, f->h_buf));
        SY_TRY(sy_copy_h2d(stream, (char *)part->data + done * bytes, f->h_buf, m * bytes));
        SY_TRY(sy_stream_sync(stream));
    }
cleanup:
    return st;
}

static sy_status fill_field(void *to, const sy_field *field)
{
    sy_status st = SY_OK;
    const filler *f = to;
    const int32_t tensor = sy_source_find(f->source, field->name + strlen("model/"));
    SY_REQUIRE(tensor >= 0, SY_ERR_USAGE, "'%s' has no tensor '%s'", f->source->path, field->name);
    for (int32_t p = 0; p < field->n_parts; p++) {
        SY_TRY(fill_part(f, field, tensor, &field->parts[p]));
    }
cleanup:
    return st;
}

sy_status sy_engine_fill(sy_engine *engine, sy_source *source)
{
    sy_status st = SY_OK;
    filler f = {engine, source, NULL};
    st = sy_alloc(SY_PULL_BYTES, 1, &f.h_buf);
    if (st == SY_OK) {
        st = sy_params_walk(engine->params, "model", fill_field, &f);
    }
    st = sy_agree(engine->spec.world, st);
    sy_free(&f.h_buf);
    return st;
}

int32_t sy_largest_ep(int32_t ranks, int32_t experts)
{
    int32_t ep = experts > 0 ? ranks : 1;
    while (ep > 1 && (ranks % ep != 0 || experts % ep != 0)) {
        ep--;
    }
    return ep;
}

/* A model trained at ep 64 is evaluated on a laptop without being told. */
static sy_status fit_layout(const sy_comm *world, sy_run_settings *s)
{
    sy_status st = SY_OK;
    int32_t ep = s->parallel->ep;
    char text[16];
    if (world->size % ep != 0 || (s->moe->experts > 0 && s->moe->experts % ep != 0) ||
        (s->moe->experts == 0 && ep > 1)) {
        snprintf(text, sizeof text, "%d", sy_largest_ep(world->size, s->moe->experts));
        SY_TRY(sy_config_default(s->config, "parallel.ep", text));
    }
cleanup:
    return st;
}

static bool sets_ep(const char *const *overrides, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        if (strncmp(overrides[i], "parallel.ep=", 12) == 0) {
            return true;
        }
    }
    return false;
}

static sy_status read_step(const char *path, sy_comm *world, int64_t *step)
{
    sy_status st = SY_OK;
    sy_checkpoint_info info = {0};
    if (world->rank == 0) {
        st = sy_checkpoint_info_read(path, &info);
        *step = info.step;
    }
    SY_TRY(sy_agree(world, st));
    SY_TRY(sy_host_broadcast(world, step, sizeof *step, 0, "checkpoint step"));
cleanup:
    sy_checkpoint_info_free(&info);
    return st;
}

sy_status sy_model_load(const char *ckpt, const char *const *overrides, int32_t n_overrides,
                        sy_engine_use use, const sy_env *env, sy_loaded_model *out)
{
    sy_status st = SY_OK;
    sy_comm *world = env->world;
    sy_loaded_model m = {0};
    sy_engine_spec spec = {
        .settings = &out->settings, .world = world, .use = use, .threads = env->threads};

    SY_TRY(use == SY_USE_EVAL ? sy_find_checkpoint(ckpt, world, &m.path)
                              : sy_find_model(ckpt, world, &m.path));
    SY_TRY(sy_ensemble_open(m.path, world, &m.ensemble));
    SY_TRY(read_step(m.path, world, &m.step));
    SY_TRY(sy_checkpoint_settings(m.path, overrides, n_overrides, world, &m.settings));
    if (!sets_ep(overrides, n_overrides)) {
        SY_TRY(fit_layout(world, &m.settings));
    }
    SY_TRY(sy_device_config_check(m.settings.config));
    SY_TRY(sy_parallel_config_check(m.settings.config, world->size, m.settings.moe->experts));
    *out = m; /* the engine keeps a pointer to the settings */
    m = (sy_loaded_model){0};
    sy_watch_set_timeout(world, out->settings.parallel->timeout_s);
    sy_pulse_phase("load");
    spec.B = use == SY_USE_GENERATE ? 1 : out->settings.train->micro_batch;
    spec.S = out->settings.model->seq_len;
    SY_TRY(sy_engine_create(&spec, &out->engine));
    SY_TRY(out->ensemble.n > 0 ? SY_OK : sy_engine_load(out->engine, out->path));
    sy_pulse_phase(use == SY_USE_GENERATE ? "generation" : "evaluation");
cleanup:
    sy_loaded_model_free(&m);
    if (st != SY_OK) {
        sy_loaded_model_free(out);
    }
    return st;
}

void sy_loaded_model_free(sy_loaded_model *model)
{
    sy_engine_destroy(&model->engine);
    sy_ensemble_free(&model->ensemble);
    sy_run_settings_free(&model->settings);
    sy_free(&model->path);
    *model = (sy_loaded_model){0};
}
