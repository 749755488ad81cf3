/* Which engine of cuDNN's computes a graph. Forward: what it recommends. Backward takes one engine
   by its number and knobs, because that is the only one on Hopper that sums dq in a fixed order
   without a buffer of S^2: dq is gathered in fp32, key block by key block. Whatever cuDNN declines,
   at whichever step, leaves no plan. */
#include "backend/cuda/sdpa_impl.h"

enum { N_ANSWERS = 4, N_NOTES = 16, MAX_KNOBS = 16, PLANNED_TOKENS = 8192 };

/* An engine of cuDNN's and the values of its knobs. */
typedef struct recipe {
    int64_t engine, n_knobs;
    struct {
        int type;
        int64_t value;
    } knob[MAX_KNOBS];
} recipe;

/* The recipe of a configuration; false where its engine may not give the same bits every time. */
static bool read_recipe(sy__sdpa_builder *b, void *config, recipe *out)
{
    void *engine = sy__desc_create(b, SY_CUDNN_ENGINE), *knob[MAX_KNOBS];
    int note[N_NOTES];
    bool steady = true;
    for (int32_t i = 0; i < MAX_KNOBS; i++) {
        knob[i] = sy__desc_create(b, SY_CUDNN_KNOB);
    }
    sy__desc_get(b, config, SY_CUDNN_CONFIG_ENGINE, SY_CUDNN_OF_DESCRIPTOR, 1, &engine);
    sy__desc_get(b, engine, SY_CUDNN_ENGINE_INDEX, SY_CUDNN_OF_INT64, 1, &out->engine);
    const int64_t n_notes =
        sy__desc_get(b, engine, SY_CUDNN_ENGINE_NOTES, SY_CUDNN_OF_NOTE, N_NOTES, note);
    for (int64_t i = 0; i < n_notes; i++) {
        steady = steady && note[i] != SY_CUDNN_NOTE_NONDETERMINISTIC;
    }
    out->n_knobs =
        sy__desc_get(b, config, SY_CUDNN_CONFIG_KNOBS, SY_CUDNN_OF_DESCRIPTOR, MAX_KNOBS, knob);
    for (int64_t i = 0; i < out->n_knobs; i++) {
        sy__desc_get(b, knob[i], SY_CUDNN_KNOB_TYPE, SY_CUDNN_OF_KNOB, 1, &out->knob[i].type);
        sy__desc_get(b, knob[i], SY_CUDNN_KNOB_VALUE, SY_CUDNN_OF_INT64, 1, &out->knob[i].value);
    }
    return steady && !b->declined;
}

/* What cuDNN recommends for this form with PLANNED_TOKENS, the best first: a sequence's bits may
   not depend on how many others there are. */
static int32_t ask(const sy_cudnn *lib, void *handle, const sy__sdpa_form *form,
                   recipe out[N_ANSWERS])
{
    sy__sdpa_plan scratch = {.form = *form};
    sy__sdpa_builder b = {.lib = lib, .out = &scratch};
    void *config[N_ANSWERS];
    int32_t n_good = 0;
    scratch.form.B = form->S < PLANNED_TOKENS ? PLANNED_TOKENS / form->S : 1;
    void *graph = sy__sdpa_graph(&b, handle),
         *heuristics = sy__desc_create(&b, SY_CUDNN_HEURISTICS);
    sy__desc_set_desc(&b, heuristics, SY_CUDNN_HEURISTICS_GRAPH, graph);
    sy__desc_set_int(&b, heuristics, SY_CUDNN_HEURISTICS_MODE, SY_CUDNN_OF_HEURISTIC,
                     SY_CUDNN_HEURISTIC_A);
    sy__desc_finish(&b, heuristics);
    for (int32_t i = 0; i < N_ANSWERS; i++) {
        config[i] = sy__desc_create(&b, SY_CUDNN_CONFIG);
    }
    const int64_t n = sy__desc_get(&b, heuristics, SY_CUDNN_HEURISTICS_RESULTS,
                                   SY_CUDNN_OF_DESCRIPTOR, N_ANSWERS, config);
    for (int64_t i = 0; i < n; i++) {
        n_good += read_recipe(&b, config[i], &out[n_good]);
    }
    sy__sdpa_free(lib, &scratch);
    return n_good;
}

static void plan_by(sy__sdpa_builder *b, void *graph, const recipe *how, int64_t room_bytes)
{
    void *engine = sy__desc_create(b, SY_CUDNN_ENGINE),
         *config = sy__desc_create(b, SY_CUDNN_CONFIG);
    void *knob[MAX_KNOBS], *plan = NULL;
    int64_t bytes = 0;
    sy__desc_set_desc(b, engine, SY_CUDNN_ENGINE_GRAPH, graph);
    sy__desc_set_int64(b, engine, SY_CUDNN_ENGINE_INDEX, how->engine);
    sy__desc_finish(b, engine);
    for (int64_t i = 0; i < how->n_knobs; i++) {
        knob[i] = sy__desc_create(b, SY_CUDNN_KNOB);
        sy__desc_set_int(b, knob[i], SY_CUDNN_KNOB_TYPE, SY_CUDNN_OF_KNOB, how->knob[i].type);
        sy__desc_set_int64(b, knob[i], SY_CUDNN_KNOB_VALUE, how->knob[i].value);
        sy__desc_finish(b, knob[i]);
    }
    sy__desc_set_desc(b, config, SY_CUDNN_CONFIG_ENGINE, engine);
    sy__desc_set(b, config, SY_CUDNN_CONFIG_KNOBS, SY_CUDNN_OF_DESCRIPTOR, how->n_knobs, knob);
    sy__desc_finish(b, config);
    sy__desc_get(b, config, SY_CUDNN_CONFIG_WORKSPACE, SY_CUDNN_OF_INT64, 1, &bytes);
    if (!b->declined && bytes <= room_bytes) { /* only now: making a plan may take seconds */
        plan = sy__desc_create(b, SY_CUDNN_PLAN);
        sy__desc_set_desc(b, plan, SY_CUDNN_PLAN_CONFIG, config);
        sy__desc_finish(b, plan);
        sy__desc_get(b, plan, SY_CUDNN_PLAN_WORKSPACE, SY_CUDNN_OF_INT64, 1, &bytes);
    }
    if (!b->declined) {
        b->out->workspace_bytes = bytes;
        b->out->plan = bytes <= room_bytes ? plan : NULL;
    }
}

/* Hopper's backward kernel with tiles of 64 by 64, whose key blocks add to dq in their order. */
static const recipe in_order = {.engine = 6,
                                .n_knobs = 6,
                                .knob = {{SY_CUDNN_KNOB_TILE_M, 2},
                                         {SY_CUDNN_KNOB_TILE_N, 1},
                                         {SY_CUDNN_KNOB_KERNEL_CFG, 2},
                                         {SY_CUDNN_KNOB_STREAM_K, 0},
                                         {SY_CUDNN_KNOB_TILE_CGA_M, 0},
                                         {SY_CUDNN_KNOB_STAGES, 4}}};

static void build_by(const sy_cudnn *lib, void *handle, const recipe *how, int64_t room_bytes,
                     sy__sdpa_plan *out)
{
    sy__sdpa_builder b = {.lib = lib, .out = out};
    plan_by(&b, sy__sdpa_graph(&b, handle), how, room_bytes);
    if (!out->plan) {
        sy__sdpa_free(lib, out);
    }
}

void sy__sdpa_build(const sy_cudnn *lib, void *handle, int64_t room_bytes, sy__sdpa_plan *out)
{
    recipe answer[N_ANSWERS];
    out->workspace_bytes = 0;
    if (out->form.backward) {
        build_by(lib, handle, &in_order, room_bytes, out);
        return;
    }
    const int32_t n = ask(lib, handle, &out->form, answer);
    for (int32_t i = 0; i < n && !out->plan; i++) {
        build_by(lib, handle, &answer[i], room_bytes, out);
    }
}
