#include "upcycle/ensemble.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "parallel/agree.h"
#include "upcycle/source_impl.h"

enum { NAME_BYTES = SY_PARAM_NAME + 24 };

typedef struct ensemble {
    const sy_ensemble_spec *spec;
    sy_blueprint member;      /* the tensors of each */
    char (*name)[NAME_BYTES]; /* [n * member.n] "<j>/model/<name>" */
    int32_t *from;            /* [n * member.n] tensor of the source */
    sy_blueprint plan;        /* one member after another, then the prior */
} ensemble;

static sy_status make(void *self, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                      const void **h_out)
{
    const ensemble *e = self;
    const int32_t member = tensor / e->member.n;
    if (member == e->spec->n) {
        *h_out = e->spec->prior + first;
        return SY_OK;
    }
    return sy_source_get(e->spec->source[member], e->from[tensor], first, n, h_buf, h_out);
}

static sy_status plan_tensor(ensemble *e, int32_t j, const sy_source_tensor *like)
{
    sy_status st = SY_OK;
    const sy_source *source = e->spec->source[j];
    const int32_t k = sy_source_find(source, like->name), at = e->plan.n++;
    char have[96], want[96];
    SY_REQUIRE(k >= 0, SY_ERR_USAGE, "'%s' has no tensor '%s', which the configuration asks for",
               source->path, like->name);
    const sy_source_tensor *t = &source->tensor[k];
    SY_REQUIRE(t->n_dim == like->n_dim && memcmp(t->shape, like->shape, sizeof t->shape) == 0,
               SY_ERR_USAGE, "'%s': tensor '%s' has shape %s; the configuration asks for %s",
               source->path, t->name, sy__shape_text(t->n_dim, t->shape, have, sizeof have),
               sy__shape_text(like->n_dim, like->shape, want, sizeof want));
    snprintf(e->name[at], NAME_BYTES, "%d/model/%s", j, t->name);
    e->from[at] = k;
    e->plan.tensor[at] = *t;
    e->plan.tensor[at].name = e->name[at];
cleanup:
    return st;
}

static sy_status plan(ensemble *e)
{
    sy_status st = SY_OK;
    const sy_ensemble_spec *spec = e->spec;
    int64_t n = 0;
    SY_TRY(sy_blueprint_create(spec->model, spec->moe, &e->member));
    n = (int64_t)spec->n * e->member.n;
    SY_TRY(sy_alloc(n, sizeof *e->name, (void **)&e->name));
    SY_TRY(sy_alloc(n, sizeof *e->from, (void **)&e->from));
    SY_TRY(sy_alloc(n + 1, sizeof *e->plan.tensor, (void **)&e->plan.tensor));
    for (int32_t j = 0; j < spec->n; j++) {
        const sy_source *source = spec->source[j];
        SY_REQUIRE(source->n_tensors == e->member.n, SY_ERR_USAGE,
                   "'%s' has %d tensors; the configuration asks for %d", source->path,
                   source->n_tensors, e->member.n);
        for (int32_t i = 0; i < e->member.n; i++) {
            SY_TRY(plan_tensor(e, j, &e->member.tensor[i]));
        }
    }
    e->plan.tensor[e->plan.n++] = (sy_source_tensor){
        .name = "prior", .dtype = SY_F64, .n_dim = 1, .shape = {spec->n}, .numel = spec->n};
cleanup:
    return st;
}

sy_status sy_ensemble_write(const sy_ensemble_spec *spec, const sy_build_spec *build,
                            sy_transfer_receipt *receipt)
{
    sy_status st = SY_OK;
    ensemble e = {.spec = spec};
    sy_build_spec file = *build;
    file.kind = "ensemble";
    file.tree = &(sy_build_tree){"members", &e.plan, make, &e};
    file.n_trees = 1;
    SY_TRY(sy_agree(file.comm, plan(&e)));
    SY_TRY(sy_build(&file, receipt));
    receipt->n_params -= spec->n; /* the prior is none */
    receipt->dtype = e.plan.tensor[sy_blueprint_find(&e.member, "embed")].dtype;
cleanup:
    sy_blueprint_free(&e.plan);
    sy_free(&e.from);
    sy_free(&e.name);
    sy_blueprint_free(&e.member);
    return st;
}
