/* Hugging Face to checkpoint: the recipe that changes nothing, or adds rows to the vocabulary. */
#include "parallel/agree.h"
#include "upcycle/recipe.h"
#include "upcycle/transfer.h"

sy_status sy_import(const sy_import_spec *spec, sy_transfer_receipt *receipt)
{
    sy_status st = SY_OK;
    sy_model_config has = *spec->model;
    sy_source *source = spec->source;
    sy_recipe *recipe = NULL;
    has.vocab_size = spec->vocab_size > 0 ? spec->vocab_size : has.vocab_size;
    SY_TRY(sy_source_bind(source, &has, spec->moe, spec->comm));
    SY_TRY(sy_agree(spec->comm, sy_recipe_create(&(sy_recipe_spec){.source = &source,
                                                                   .n_sources = 1,
                                                                   .model = spec->model,
                                                                   .moe = spec->moe,
                                                                   .granularity = 1},
                                                 &recipe)));
    SY_TRY(sy_build(&(sy_build_spec){.tree = &(sy_build_tree){"model", sy_recipe_plan(recipe),
                                                              sy_recipe_make, recipe},
                                     .n_trees = 1,
                                     .out = spec->out,
                                     .config_yaml = spec->config_yaml,
                                     .files = &source->files,
                                     .comm = spec->comm,
                                     .progress = spec->progress,
                                     .progress_self = spec->progress_self},
                    receipt));
cleanup:
    sy_recipe_destroy(&recipe);
    return st;
}
