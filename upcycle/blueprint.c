#include "upcycle/blueprint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "moe/decoder.h"
#include "parallel/agree.h"
#include "upcycle/transfer_impl.h"

/* ---- the tensors ---- */

static int by_name(const void *a, const void *b)
{
    const sy_source_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static void add(sy_blueprint *plan, const sy_param_spec *spec, int32_t piece)
{
    sy_source_tensor *t = &plan->tensor[plan->n++];
    *t = (sy_source_tensor){.name = piece < 0 ? spec->name : spec->piece[piece].name,
                            .dtype = spec->packed_columns > 0 ? SY_U8 : SY_F32,
                            .packed_columns = spec->packed_columns,
                            .wide = spec->wide,
                            .init = spec->init,
                            .init_std = spec->init_std,
                            .n_dim = spec->n_dim,
                            .numel = 1};
    memcpy(t->shape, spec->shape_glb, sizeof t->shape);
    if (piece >= 0) {
        t->shape[spec->piece_dim] = spec->piece[piece].extent;
    }
    for (int32_t d = 0; d < t->n_dim; d++) {
        t->numel *= t->shape[d];
    }
}

static sy_status create(const sy_model_config *model, const sy_moe_config *moe, bool trained_only,
                        const char *const *freeze, int32_t n_freeze, sy_blueprint *out)
{
    sy_status st = SY_OK;
    sy_blueprint plan = {0};
    SY_TRY(sy_decoder_create(model, moe, &plan.model, &plan.params));
    SY_TRY(n_freeze > 0 ? sy_params_freeze(plan.params, freeze, n_freeze) : SY_OK);
    SY_TRY(sy_alloc((int64_t)plan.params->n * SY_MAX_PIECES, sizeof *plan.tensor,
                    (void **)&plan.tensor));
    for (int32_t i = 0; i < plan.params->n; i++) {
        const sy_param_spec *spec = &plan.params->param[i]->spec;
        for (int32_t k = spec->n_pieces > 0 ? 0 : -1;
             k < spec->n_pieces && (spec->trainable || !trained_only); k++) {
            add(&plan, spec, k);
        }
    }
    qsort(plan.tensor, (size_t)plan.n, sizeof *plan.tensor, by_name);
    *out = plan;
    plan = (sy_blueprint){0};
cleanup:
    sy_blueprint_free(&plan);
    return st;
}

sy_status sy_blueprint_create(const sy_model_config *model, const sy_moe_config *moe,
                              sy_blueprint *out)
{
    return create(model, moe, false, NULL, 0, out);
}

sy_status sy_blueprint_create_trained(const sy_model_config *model, const sy_moe_config *moe,
                                      const char *const *freeze, int32_t n_freeze,
                                      sy_blueprint *out)
{
    return create(model, moe, true, freeze, n_freeze, out);
}

void sy_blueprint_free(sy_blueprint *plan)
{
    sy_free(&plan->tensor);
    sy_params_destroy(&plan->params);
    sy_model_destroy(&plan->model);
    *plan = (sy_blueprint){0};
}

int32_t sy_blueprint_find(const sy_blueprint *plan, const char *name)
{
    sy_source_tensor key = {.name = name};
    const sy_source_tensor *t =
        bsearch(&key, plan->tensor, (size_t)plan->n, sizeof *plan->tensor, by_name);
    return t != NULL ? (int32_t)(t - plan->tensor) : -1;
}

/* ---- the file ---- */

typedef struct branch branch;

typedef struct pull_state {
    branch *of;
    int32_t tensor;
} pull_state;

typedef struct builder {
    const sy_build_spec *spec;
    int64_t total, done; /* bytes: of all tensors; of this rank's share so far */
} builder;

/* A tree of the file. */
struct branch {
    builder *b;
    const sy_build_tree *tree;
    pull_state *pull; /* [n] pulled after the walk is over */
    int64_t base;     /* where its bytes begin among those of all trees */
};

enum { MAX_TREES = 4 };

static sy_status pull(void *self, int64_t first, int64_t n, void *h_buf, const void **h_out)
{
    sy_status st = SY_OK;
    const pull_state *p = self;
    const sy_build_tree *tree = p->of->tree;
    builder *b = p->of->b;
    SY_TRY(tree->make(tree->self, p->tensor, first, n, h_buf, h_out));
    b->done += n * (int64_t)sy_dtype_bytes(tree->plan->tensor[p->tensor].dtype);
    if (b->spec->progress != NULL && b->spec->comm->rank == 0) {
        b->spec->progress(b->spec->progress_self, b->done, b->total / b->spec->comm->size);
    }
cleanup:
    return st;
}

/* This rank's share of each tensor as parts. */
static sy_status walk(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    const branch *br = self;
    const builder *b = br->b;
    const sy_blueprint *plan = br->tree->plan;
    int64_t base = br->base;
    for (int32_t i = 0; i < plan->n; i++) {
        const sy_source_tensor *t = &plan->tensor[i];
        const int64_t elem_bytes = (int64_t)sy_dtype_bytes(t->dtype), bytes = t->numel * elem_bytes;
        int64_t begin = 0, end = 0;
        char name[SY_PARAM_NAME + 32];
        sy_box box[2 * SY_MAX_DIM];
        sy_part part[2 * SY_MAX_DIM];
        sy_field field = {.name = name,
                          .dtype = t->dtype,
                          .n_dim = t->n_dim,
                          .parts = part,
                          .pull = pull,
                          .pull_self = &br->pull[i]};
        snprintf(name, sizeof name, "%s/%s", br->tree->name, t->name);
        memcpy(field.shape_glb, t->shape, sizeof field.shape_glb);
        sy__share(b->spec->comm, b->total, base, bytes, SY_PULL_BYTES, &begin, &end);
        if (end > begin) {
            field.n_parts = sy_boxes_from_range(field.n_dim, field.shape_glb, begin / elem_bytes,
                                                end / elem_bytes, box);
        }
        for (int32_t k = 0; k < field.n_parts; k++) {
            part[k] = (sy_part){.box = box[k], .write = true};
        }
        SY_TRY(emit(to, &field));
        base += bytes;
    }
cleanup:
    return st;
}

static sy_status prepare(builder *b, branch *br, const sy_build_tree *tree,
                         sy_transfer_receipt *receipt)
{
    sy_status st = SY_OK;
    const bool is_model = tree == b->spec->tree; /* the first */
    *br = (branch){.b = b, .tree = tree, .base = b->total};
    SY_TRY(sy_alloc(tree->plan->n, sizeof *br->pull, (void **)&br->pull));
    for (int32_t i = 0; i < tree->plan->n; i++) {
        const sy_source_tensor *t = &tree->plan->tensor[i];
        br->pull[i] = (pull_state){br, i};
        b->total += t->numel * (int64_t)sy_dtype_bytes(t->dtype);
        receipt->n_params += is_model ? t->numel : 0;
        if (is_model && strcmp(t->name, "embed") == 0) {
            receipt->dtype = t->dtype;
        }
    }
    receipt->n_tensors += tree->plan->n;
    receipt->n_bytes = b->total;
cleanup:
    return st;
}

sy_status sy_build(const sy_build_spec *spec, sy_transfer_receipt *receipt)
{
    sy_status st = SY_OK;
    const double t0 = sy_clock_s();
    builder b = {.spec = spec};
    branch br[MAX_TREES] = {{0}};
    sy_owner owner[MAX_TREES + 1];
    sy_state state = {.owners = owner,
                      .n_owners = spec->n_trees,
                      .step = spec->step,
                      .tokens_seen = spec->tokens_seen,
                      .kind = spec->kind != NULL ? spec->kind : "model",
                      .config_yaml = spec->config_yaml,
                      .blobs = spec->files->blob,
                      .n_blobs = spec->files->n,
                      .unsynced = spec->unsynced,
                      .receipt_bytes = spec->receipt_bytes};
    *receipt = (sy_transfer_receipt){.dtype = SY_F32};
    for (int32_t i = 0; i < spec->n_trees; i++) {
        SY_TRY(sy_agree(spec->comm, prepare(&b, &br[i], &spec->tree[i], receipt)));
        owner[i] = (sy_owner){.name = spec->tree[i].name, .self = &br[i], .walk = walk};
    }
    if (spec->counters != NULL) {
        owner[state.n_owners++] = *spec->counters;
    }
    SY_TRY(sy_checkpoint_save(spec->out, &state, spec->comm));
    receipt->seconds = sy_clock_s() - t0;
cleanup:
    for (int32_t i = 0; i < spec->n_trees; i++) {
        sy_free(&br[i].pull);
    }
    return st;
}
