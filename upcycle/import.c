/* Hugging Face to checkpoint: everything as it is. */
#include "upcycle/blueprint.h"

#include "core/alloc.h"
#include "parallel/agree.h"

typedef struct importer {
    sy_source *source;
    const sy_blueprint *plan;
    int32_t *from; /* [n] of the source */
} importer;

static sy_status make(void *self, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                      const void **h_out)
{
    const importer *im = self;
    return sy_source_get(im->source, im->from[tensor], first, n, h_buf, h_out);
}

/* Both lists come from the same declarations, so every tensor has its like. */
static sy_status match(importer *im, sy_blueprint *plan)
{
    sy_status st = SY_OK;
    SY_TRY(sy_alloc(plan->n, sizeof *im->from, (void **)&im->from));
    for (int32_t i = 0; i < plan->n; i++) {
        im->from[i] = sy_source_find(im->source, plan->tensor[i].name);
        SY_REQUIRE(im->from[i] >= 0, SY_ERR_INTERNAL, "'%s' is not mapped", plan->tensor[i].name);
        plan->tensor[i].dtype = im->source->tensor[im->from[i]].dtype;
    }
cleanup:
    return st;
}

sy_status sy_import(const sy_import_spec *spec, sy_transfer_receipt *receipt)
{
    sy_status st = SY_OK;
    sy_blueprint plan = {0};
    importer im = {.source = spec->source, .plan = &plan};
    SY_TRY(sy_source_bind(spec->source, spec->model, spec->moe, spec->comm));
    SY_TRY(sy_agree(spec->comm, sy_blueprint_create(spec->model, spec->moe, &plan)));
    SY_TRY(sy_agree(spec->comm, match(&im, &plan)));
    SY_TRY(sy_build(&(sy_build_spec){.tree = &(sy_build_tree){"model", &plan, make, &im},
                                     .n_trees = 1,
                                     .out = spec->out,
                                     .config_yaml = spec->config_yaml,
                                     .files = &spec->source->files,
                                     .comm = spec->comm,
                                     .progress = spec->progress,
                                     .progress_self = spec->progress_self},
                    receipt));
cleanup:
    sy_free(&im.from);
    sy_blueprint_free(&plan);
    return st;
}
