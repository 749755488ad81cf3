/* A model out of a checkpoint, ready to run: what eval, generate and upcycle begin with. */
#ifndef SY_LAUNCH_MODEL_LOAD_H
#define SY_LAUNCH_MODEL_LOAD_H

#include "data/tokenizer.h"
#include "launch/env.h"
#include "train/ensemble.h"
#include "upcycle/source.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_loaded_model {
    char *path; /* of the checkpoint file */
    int64_t step;
    sy_run_settings settings;
    sy_ensemble ensemble; /* n > 0: the engine has no member loaded yet */
    sy_engine *engine;
} sy_loaded_model;

/* Find, configure (the checkpoint's configuration with overrides; parallel.ep is fitted to the
 * ranks unless overridden), create, load. An ensemble is SY_ERR_USAGE but for
 * evaluation. Collective over env->world. */
sy_status sy_model_load(const char *ckpt, const char *const *overrides, int32_t n_overrides,
                        sy_engine_use use, const sy_env *env, sy_loaded_model *out);
void sy_loaded_model_free(sy_loaded_model *model);

/* The tokenizer that texts for a model need: `named` (NULL: data.tokenizer), or, where that is
   none, the tokenizer.json or tokenizer.model that came with the checkpoint. Collective over host.
 */
sy_status sy_model_tokenizer(const sy_loaded_model *model, const char *named, sy_comm *host,
                             sy_tokenizer **out);

/* The largest ep that divides both ranks and experts; dense: 1. Not collective. */
int32_t sy_largest_ep(int32_t ranks, int32_t experts);

/* Load the parameters of an engine from a checkpoint file, or from a bound source. Collective. */
sy_status sy_engine_load(sy_engine *engine, const char *path);
sy_status sy_engine_fill(sy_engine *engine, sy_source *source);

#ifdef __cplusplus
}
#endif
#endif
