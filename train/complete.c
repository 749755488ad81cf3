#include "train/complete.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "moe/decoder.h"
#include "train/probe.h"
#include "train/spikes.h"
#include "train/train_config.h"

typedef struct checker {
    const char *path;
    const sy_optim_config *optim;
    const sy_checkpoint_info *info;
    bool *seen; /* [n_entries] */
} checker;

static int by_path(const void *key, const void *entry)
{
    return strcmp(key, ((const sy_checkpoint_entry *)entry)->path);
}

static const sy_checkpoint_entry *find(checker *c, const char *path)
{
    const sy_checkpoint_entry *e =
        bsearch(path, c->info->entry, (size_t)c->info->n_entries, sizeof *c->info->entry, by_path);
    if (e != NULL) {
        c->seen[e - c->info->entry] = true;
    }
    return e;
}

/* type F32: any float; else this one. */
static sy_status want(checker *c, const char *path, sy_dtype type, int32_t n_dim,
                      const int64_t *shape)
{
    sy_status st = SY_OK;
    const sy_checkpoint_entry *e = find(c, path);
    bool same = false;
    SY_REQUIRE(e != NULL, SY_ERR_DAMAGED,
               "checkpoint '%s' has no dataset '/%s', which its configuration asks for", c->path,
               path);
    same = e->n_dim == n_dim;
    for (int32_t d = 0; same && d < n_dim; d++) {
        same = e->shape[d] == shape[d];
    }
    SY_REQUIRE(same, SY_ERR_DAMAGED,
               "dataset '/%s' of checkpoint '%s' has not the shape that its configuration asks for",
               path, c->path);
    SY_REQUIRE(e->dtype == type || (type == SY_F32 && sy_dtype_is_float(e->dtype)), SY_ERR_DAMAGED,
               "dataset '/%s' of checkpoint '%s' is of type %s", path, c->path,
               sy_dtype_name(e->dtype));
cleanup:
    return st;
}

static sy_status want_in(checker *c, const char *tree, const char *name, sy_dtype type,
                         int32_t n_dim, const int64_t *shape)
{
    char path[SY_PARAM_NAME + 32];
    snprintf(path, sizeof path, "%s/%s", tree, name);
    return want(c, path, type, n_dim, shape);
}

/* Second moments of Adafactor: whole ones, or sums of rows and columns. */
static sy_status want_factors(checker *c, const char *name, int32_t n_dim, const int64_t *shape)
{
    sy_status st = SY_OK;
    int64_t column[SY_MAX_DIM];
    if (n_dim < 2 ||
        !sy_adafactor_factors(c->optim->adafactor, n_dim, shape[n_dim - 2], shape[n_dim - 1])) {
        return want_in(c, "optim/exp_avg_sq", name, SY_F32, n_dim, shape);
    }
    memcpy(column, shape, sizeof column);
    column[n_dim - 2] = shape[n_dim - 1];
    SY_TRY(want_in(c, "optim/exp_avg_sq_row", name, SY_F32, n_dim - 1, shape));
    SY_TRY(want_in(c, "optim/exp_avg_sq_col", name, SY_F32, n_dim - 1, column));
cleanup:
    return st;
}

static sy_status want_moments(checker *c, const char *name, int32_t n_dim, const int64_t *shape)
{
    sy_status st = SY_OK;
    const sy_adafactor_config *a = c->optim->adafactor;
    if (a == NULL || a->momentum > 0) {
        SY_TRY(want_in(c, "optim/exp_avg", name, SY_F32, n_dim, shape));
    }
    SY_TRY(a != NULL ? want_factors(c, name, n_dim, shape)
                     : want_in(c, "optim/exp_avg_sq", name, SY_F32, n_dim, shape));
cleanup:
    return st;
}

/* Values below `tree`, and in training what the optimizer keeps of a parameter that is trained. A
   narrow value has a master. */
static sy_status want_piece(checker *c, const char *tree, const char *name, bool moments,
                            sy_dtype type, int32_t n_dim, const int64_t *shape)
{
    sy_status st = SY_OK;
    char path[SY_PARAM_NAME + 32];
    const sy_checkpoint_entry *value = NULL;
    SY_TRY(want_in(c, tree, name, type, n_dim, shape));
    if (moments) {
        snprintf(path, sizeof path, "%s/%s", tree, name);
        value = find(c, path);
        SY_TRY(want_moments(c, name, n_dim, shape));
        if (value->dtype == SY_BF16) {
            SY_TRY(want_in(c, "optim/master", name, SY_F32, n_dim, shape));
        }
    }
cleanup:
    return st;
}

static sy_status want_param(checker *c, const char *tree, const sy_param_spec *spec, bool training)
{
    sy_status st = SY_OK;
    const sy_dtype type = spec->packed_columns > 0 ? SY_U8 : SY_F32;
    int64_t shape[SY_MAX_DIM];
    char path[SY_PARAM_NAME + 32];
    memcpy(shape, spec->shape_glb, sizeof shape);
    snprintf(path, sizeof path, "%s/%s", tree, spec->name);
    if (spec->optional && find(c, path) == NULL) {
        return SY_OK;
    }
    if (spec->n_pieces == 0) {
        SY_TRY(
            want_piece(c, tree, spec->name, training && spec->trainable, type, spec->n_dim, shape));
    }
    for (int32_t i = 0; i < spec->n_pieces; i++) {
        shape[spec->piece_dim] = spec->piece[i].extent;
        SY_TRY(want_piece(c, tree, spec->piece[i].name, training && spec->trainable, type,
                          spec->n_dim, shape));
    }
cleanup:
    return st;
}

static sy_status want_params(checker *c, const char *tree, const sy_run_settings *s, bool training)
{
    sy_status st = SY_OK;
    sy_model *model = NULL;
    sy_params *params = NULL;
    const sy_str_list *freeze = &s->train->freeze;
    SY_TRY(sy_decoder_create(s->model, s->moe, &model, &params));
    if (freeze->n > 0) {
        SY_TRY(sy_params_freeze(params, (const char *const *)freeze->item, freeze->n));
    }
    for (int32_t i = 0; i < params->n; i++) {
        SY_TRY(want_param(c, tree, &params->param[i]->spec, training));
    }
cleanup:
    sy_params_destroy(&params);
    sy_model_destroy(&model);
    return st;
}

/* Every member is a model, and there is a prior for each. */
static sy_status want_members(checker *c, const sy_run_settings *s)
{
    sy_status st = SY_OK;
    const sy_checkpoint_entry *prior = find(c, "members/prior");
    char tree[48];
    SY_REQUIRE(prior != NULL && prior->n_dim == 1 && prior->dtype == SY_F64 && prior->shape[0] > 0,
               SY_ERR_DAMAGED,
               "checkpoint '%s' is an ensemble without a dataset '/members/prior' [n] of f64",
               c->path);
    for (int64_t j = 0; j < prior->shape[0]; j++) {
        snprintf(tree, sizeof tree, "members/%ld/model", (long)j);
        SY_TRY(want_params(c, tree, s, false));
    }
cleanup:
    return st;
}

/* Older files lack it. */
static sy_status want_if_there(checker *c, const char *path, sy_dtype type, int32_t n_dim,
                               const int64_t *shape)
{
    return find(c, path) != NULL ? want(c, path, type, n_dim, shape) : SY_OK;
}

static sy_status want_probe(checker *c, const sy_run_settings *s)
{
    sy_status st = SY_OK;
    int64_t T = 0;
    int32_t n_layers = 0, K = 0;
    char name[96];
    if (sy_probe_shape(s, &T, &n_layers, &K)) {
        const int64_t one = 1, all[] = {T, (int64_t)n_layers * K};
        sy_probe_dataset(T, K, "taken", name, sizeof name);
        SY_TRY(want_if_there(c, name, SY_I64, 1, &one));
        sy_probe_dataset(T, K, "ids", name, sizeof name);
        SY_TRY(want_if_there(c, name, SY_I64, 1, &one));
        sy_probe_dataset(T, K, "choices", name, sizeof name);
        SY_TRY(want_if_there(c, name, SY_I64, 2, all));
    }
cleanup:
    return st;
}

static sy_status want_state(checker *c, const sy_run_settings *s)
{
    static const char *const name[] = {"state/step", "state/data_step", "state/tokens_seen",
                                       "state/skipped_steps", "state/optim_t"};
    static const char *const later[] = {"state/schedule_start",   "state/skipped_in_row",
                                        "state/spikes",           "state/rollbacks",
                                        "state/rollbacks_in_row", "state/skipped_sequences",
                                        "state/window_updates"};
    sy_status st = SY_OK;
    for (size_t i = 0; i < sizeof name / sizeof name[0]; i++) {
        SY_TRY(want(c, name[i], SY_I64, 1, &(int64_t){1}));
    }
    for (size_t i = 0; i < sizeof later / sizeof later[0]; i++) {
        SY_TRY(want_if_there(c, later[i], SY_I64, 1, &(int64_t){1}));
    }
    SY_TRY(want_if_there(c, "state/window_loss", SY_F32, 1, &(int64_t){SY_SPIKE_MEMORY}));
    SY_TRY(want_if_there(c, "state/window_grad_norm", SY_F32, 1, &(int64_t){SY_SPIKE_MEMORY}));
    SY_TRY(want_probe(c, s));
    if (s->moe->experts > 0) {
        SY_TRY(want_if_there(c, "state/loads", SY_I64, 2,
                             (int64_t[]){sy_model_blocks(s->model), s->moe->experts}));
    }
cleanup:
    return st;
}

static bool is_ours(const char *path)
{
    return strncmp(path, "model/", 6) == 0 || strncmp(path, "members/", 8) == 0 ||
           strncmp(path, "optim/", 6) == 0 || strncmp(path, "state/", 6) == 0;
}

static sy_status check_leftover(const checker *c)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < c->info->n_entries; i++) {
        SY_REQUIRE(c->seen[i] || !is_ours(c->info->entry[i].path), SY_ERR_DAMAGED,
                   "checkpoint '%s' has a dataset '/%s', which its configuration has not", c->path,
                   c->info->entry[i].path);
    }
cleanup:
    return st;
}

sy_status sy_checkpoint_complete(const char *path, const sy_checkpoint_info *info)
{
    sy_status st = SY_OK;
    checker c = {.path = path, .info = info};
    sy_run_settings settings = {0};
    bool training = strcmp(info->kind, "training") == 0;
    bool ensemble = strcmp(info->kind, "ensemble") == 0;
    SY_REQUIRE(training || ensemble || strcmp(info->kind, "model") == 0, SY_ERR_DAMAGED,
               "checkpoint '%s' is of kind '%s', which this version does not know", path,
               info->kind);
    SY_TRY(sy_alloc(info->n_entries, sizeof *c.seen, (void **)&c.seen));
    SY_TRY(sy_run_settings_parse(info->config_yaml, strlen(info->config_yaml), path, NULL, 0,
                                 &settings));
    c.optim = settings.optim;
    SY_TRY(ensemble ? want_members(&c, &settings) : want_params(&c, "model", &settings, training));
    SY_TRY(training ? want_state(&c, &settings) : SY_OK);
    SY_TRY(check_leftover(&c));
cleanup:
    sy_run_settings_free(&settings);
    sy_free(&c.seen);
    return st;
}
