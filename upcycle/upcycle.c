/* Values travel from one device to the other by way of a small host buffer; a stretch of a dense
   MLP is read once and written to each local expert. */
#include "upcycle/upcycle.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"

enum { STAGE_BYTES = 4 << 20 };

static const char expert_part[] = "/moe/experts/";

typedef struct job {
    const sy_upcycle_spec *spec;
    char *h_stage; /* [STAGE_BYTES] */
} job;

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* "layers/003/moe/experts/down" -> "layers/003/mlp/down"; false for other names. */
static bool dense_name(const char *name, char out[SY_PARAM_NAME])
{
    const char *part = strstr(name, expert_part);
    if (part == NULL) {
        return false;
    }
    snprintf(out, SY_PARAM_NAME, "%.*s/mlp/%s", (int)(part - name), name,
             part + sizeof expert_part - 1);
    return true;
}

/* Write the dense value n_copies times, back to back, over the MoE's. */
static sy_status copy_value(const job *j, const sy_param *from, const sy_param *to,
                            int64_t n_copies)
{
    sy_status st = SY_OK;
    sy_stream *in = j->spec->dense_stream, *out = j->spec->moe_stream;
    const char *src = from->value.data;
    char *dst = to->value.data;
    int64_t bytes = sy_tensor_bytes(&from->value);
    for (int64_t at = 0; at < bytes; at += STAGE_BYTES) {
        int64_t n = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;
        SY_TRY(sy_copy_d2h(in, j->h_stage, src + at, n));
        SY_TRY(sy_stream_sync(in));
        for (int64_t i = 0; i < n_copies; i++) {
            SY_TRY(sy_copy_h2d(out, dst + i * bytes + at, j->h_stage, n));
        }
        SY_TRY(sy_stream_sync(out)); /* the stage is filled again */
    }
cleanup:
    return st;
}

/* The shapes are equal; an expert's has the experts in front. */
static bool fits(const sy_param *from, const sy_param *to)
{
    int32_t lead = to->spec.n_dim - from->spec.n_dim;
    bool same = from->value.dtype == to->value.dtype && from->spec.n_pieces == to->spec.n_pieces &&
                from->spec.shard_dim < 0 && lead == (to->spec.shard_dim < 0 ? 0 : 1);
    for (int32_t d = 0; same && d < from->spec.n_dim; d++) {
        same = from->spec.shape_glb[d] == to->spec.shape_glb[d + lead];
    }
    for (int32_t i = 0; same && i < from->spec.n_pieces; i++) {
        same = from->spec.piece[i].extent == to->spec.piece[i].extent;
    }
    return same;
}

static sy_status copy_param(const job *j, const sy_param *from, const sy_param *to)
{
    sy_status st = SY_OK;
    SY_REQUIRE(fits(from, to), SY_ERR_USAGE,
               "'%s' of the dense model cannot fill '%s' of the MoE: their shapes or types differ",
               from->spec.name, to->spec.name);
    SY_TRY(copy_value(j, from, to, to->spec.shard_dim < 0 ? 1 : to->box.shape[0]));
cleanup:
    return st;
}

/* What no dense parameter stands for. */
static sy_status make_param(const job *j, const sy_param *to)
{
    sy_status st = SY_OK;
    sy_param drawn = *to;
    bool router = ends_with(to->spec.name, "/moe/router");
    drawn.spec.init = router ? SY_INIT_NORMAL : SY_INIT_ZEROS;
    drawn.spec.init_std = j->spec->router_std;
    SY_REQUIRE(router || ends_with(to->spec.name, "/moe/bias"), SY_ERR_USAGE,
               "the dense model has nothing to fill '%s' with", to->spec.name);
    SY_TRY(sy_param_init(j->spec->moe, &drawn, j->spec->seed, j->spec->moe_stream));
cleanup:
    return st;
}

static sy_status fill_param(const job *j, const sy_param *to)
{
    char name[SY_PARAM_NAME];
    const char *wanted = dense_name(to->spec.name, name) ? name : to->spec.name;
    const sy_param *from = sy_params_find(j->spec->dense, wanted);
    return from != NULL ? copy_param(j, from, to) : make_param(j, to);
}

/* Nothing of the dense model is left behind. */
static sy_status check_all_used(const sy_upcycle_spec *spec)
{
    sy_status st = SY_OK;
    char name[SY_PARAM_NAME];
    for (int32_t i = 0; i < spec->dense->n; i++) {
        const char *dense = spec->dense->param[i]->spec.name;
        bool used = sy_params_find(spec->moe, dense) != NULL;
        for (int32_t k = 0; !used && k < spec->moe->n; k++) {
            used = dense_name(spec->moe->param[k]->spec.name, name) && strcmp(name, dense) == 0;
        }
        SY_REQUIRE(used, SY_ERR_USAGE, "the MoE has no place for '%s' of the dense model", dense);
    }
cleanup:
    return st;
}

sy_status sy_upcycle_copy(const sy_upcycle_spec *spec)
{
    sy_status st = SY_OK;
    job j = {.spec = spec};
    SY_TRY(check_all_used(spec));
    SY_TRY(sy_alloc(STAGE_BYTES, 1, (void **)&j.h_stage));
    for (int32_t i = 0; i < spec->moe->n; i++) {
        SY_TRY(fill_param(&j, spec->moe->param[i]));
    }
cleanup:
    sy_free(&j.h_stage);
    return st;
}

bool sy_upcycle_preserves(const sy_moe_config *config)
{
    return config->normalize_weights && config->routed_scale == 1 && config->shared_experts == 0 &&
           !config->eval_capacity_factor.set;
}
