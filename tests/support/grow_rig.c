#include "tests/support/grow_rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "parallel/agree.h"
#include "tests/support/mpi_scratch.h"
#include "tests/support/test_device.h"

const char *const grow_none[GROW_SET] = {NULL};

static const char config_text[] =
    "run: {seed: 4}\n"
    "device: {threads: 1}\n"
    "model: {vocab_size: 256, hidden: 16, layers: 3, heads: 4, kv_heads: 2, ffn_hidden: 20,"
    " seq_len: 12, init_std: 0.3, attention_bias: true}\n"
    "train: {steps: 1, global_batch: 1, micro_batch: 1}\n";

void grow_open(grow_model *m, const char *backend, int32_t experts, int32_t ep,
               const char *const *set)
{
    char device[48], moe[48], parallel[48];
    const char *overrides[GROW_SET + 3] = {device, moe, parallel};
    int32_t n = 3;
    snprintf(device, sizeof device, "device.backend=%s", backend);
    snprintf(moe, sizeof moe, "moe.experts=%d", experts);
    snprintf(parallel, sizeof parallel, "parallel.ep=%d", ep);
    for (int32_t i = 0; i < GROW_SET && set[i] != NULL; i++) {
        overrides[n++] = set[i];
    }
    assert_all_ok(sy_run_settings_parse(config_text, sizeof config_text - 1, "test", overrides, n,
                                        &m->settings));
    sy_engine_spec spec = {.settings = &m->settings,
                           .world = mpi_test_world(),
                           .use = SY_USE_EVAL,
                           .B = 1,
                           .S = 12,
                           .threads = 1};
    assert_all_ok(sy_engine_create(&spec, &m->engine));
}

void grow_close(grow_model *m)
{
    sy_engine_destroy(&m->engine);
    sy_run_settings_free(&m->settings);
}

int grow_folder_open(void **state)
{
    return open_folder(state);
}

int grow_folder_close(void **state)
{
    return close_folder(state);
}

const char *grow_path(const char *name, char path[2 * SCRATCH_PATH])
{
    return path_of(name, path);
}

static sy_status walk(void *self, sy_emit *emit, void *to)
{
    return sy_params_walk(((grow_model *)self)->engine->params, "model", emit, to);
}

static sy_status save(grow_model *m, const char *path)
{
    sy_status st = SY_OK;
    sy_owner owner = {.name = "model", .self = m, .walk = walk};
    sy_state state = {.owners = &owner, .n_owners = 1, .kind = "model"};
    char *yaml = NULL;
    SY_TRY(sy_config_echo(m->settings.config, &yaml));
    state.config_yaml = yaml;
    SY_TRY(sy_checkpoint_save(path, &state, mpi_test_world()));
cleanup:
    sy_free(&yaml);
    return st;
}

static sy_status load(grow_model *m, const char *path)
{
    sy_owner owner = {.name = "model", .self = m, .walk = walk};
    sy_state state = {.owners = &owner, .n_owners = 1, .kind = "model"};
    return sy_checkpoint_load(path, &state, SY_LOAD_MODEL, mpi_test_world());
}

sy_status grow_make(grow_model *dense, int32_t n, grow_model *moe, sy_recipe_spec spec)
{
    sy_status st = SY_OK;
    sy_comm *world = mpi_test_world();
    sy_source *source[GROW_SOURCES] = {NULL};
    int32_t expert_source[2 * GROW_E];
    sy_recipe *recipe = NULL;
    sy_build_tree tree;
    sy_transfer_receipt receipt;
    sy_tokenizer_files files = {0};
    char path[2 * SCRATCH_PATH];
    for (int32_t i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/d%d.h5", folder, i);
        SY_TRY(save(&dense[i], path));
        SY_TRY(sy_source_open(path, world, &source[i]));
        SY_TRY(sy_source_bind(source[i], dense[i].settings.model, dense[i].settings.moe, world));
    }
    for (int32_t e = 0; e < moe->settings.moe->experts; e++) {
        expert_source[e] = e % n;
    }
    spec.source = source;
    spec.n_sources = n;
    spec.model = moe->settings.model;
    spec.moe = moe->settings.moe;
    spec.expert_source = moe->settings.moe->experts > 0 ? expert_source : NULL;
    spec.granularity = spec.granularity > 0 ? spec.granularity : 1;
    spec.seed = spec.seed > 0 ? spec.seed : GROW_SEED;
    moe->preserves = sy_recipe_preserves(&spec);
    SY_TRY(sy_agree(world, sy_recipe_create(&spec, &recipe)));
    snprintf(path, sizeof path, "%s/moe.h5", folder);
    tree = (sy_build_tree){"model", sy_recipe_plan(recipe), sy_recipe_make, recipe};
    SY_TRY(sy_build(&(sy_build_spec){.tree = &tree,
                                     .n_trees = 1,
                                     .out = path,
                                     .config_yaml = "run: {name: moe}\n",
                                     .files = &files,
                                     .comm = world},
                    &receipt));
    SY_TRY(load(moe, path));
cleanup:
    sy_recipe_destroy(&recipe);
    for (int32_t i = 0; i < n; i++) {
        sy_source_close(&source[i]);
    }
    return st;
}

void grow_open_dense(grow_model *dense, const char *backend, const char *const *set, sy_probe *says)
{
    static const sy_probe_spec probe = {.n_sequences = 3, .S = 12, .vocab_size = GROW_V, .seed = 2};
    grow_open(dense, backend, 0, 1, set);
    assert_all_ok(sy_params_init(dense->engine->params, 6, dense->engine->compute_stream));
    assert_all_ok(sy_probe_run(dense->engine, &probe, says));
}

sy_probe_gap grow_gap(grow_model *moe, const sy_probe *dense)
{
    static const sy_probe_spec probe = {.n_sequences = 3, .S = 12, .vocab_size = GROW_V, .seed = 2};
    sy_probe says = {0};
    sy_probe_gap gap = {NAN, NAN, NAN, NAN};
    assert_all_ok(sy_probe_run(moe->engine, &probe, &says));
    assert_all_ok(sy_probe_compare(dense, &says, mpi_test_world(), &gap));
    sy_probe_free(&says);
    return gap;
}

double *grow_fetch(const grow_model *m, const char *name, int64_t *n)
{
    const sy_param *p = sy_params_find(m->engine->params, name);
    double *x = NULL;
    *n = p != NULL ? sy_tensor_numel(&p->value) : 0;
    x = calloc((size_t)*n + 1, sizeof *x);
    if (x != NULL && p != NULL) {
        test_download(m->engine->compute_stream, x, p->value.data, sy_tensor_bytes(&p->value));
    }
    return x;
}

grow_verdict grow_judge(grow_model *dense, int32_t n, const sy_probe *says, sy_recipe_spec spec,
                        const char *const *set)
{
    int32_t size = mpi_test_world()->size;
    grow_model moe;
    grow_verdict v;
    grow_open(&moe, "ref", GROW_E, GROW_E % size == 0 ? size : 1, set);
    assert_all_ok(grow_make(dense, n, &moe, spec));
    v = (grow_verdict){grow_gap(&moe, says).logits_rel, moe.preserves};
    grow_close(&moe);
    return v;
}

void grow_open_three(grow_model *dense, sy_probe *says, bool equal)
{
    for (int32_t i = 0; i < GROW_SOURCES; i++) {
        sy_probe_free(says);
        grow_open_dense(&dense[i], "ref", grow_none, says);
        assert_all_ok(sy_params_init(dense[i].engine->params, equal ? 6 : 6 + (uint64_t)i,
                                     dense[i].engine->compute_stream));
    }
}
