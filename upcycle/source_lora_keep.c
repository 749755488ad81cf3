/* Adapters that stay adapters: an adapter's source shows the base's MLP as it is, and the deltas of
   its matrices as tensors of their own: beside "layers/003/mlp/gate" [F, H] also
   "layers/003/mlp/gate_a" [r, H] and "gate_b" [F, r], whose product is the delta, its scale in
   b. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "parallel/param.h"
#include "upcycle/source_impl.h"
#include "upcycle/source_lora_impl.h"

struct sy__lora_kept {
    sy__lora_side *side; /* [n_tensors] */
    const sy__lora_change **change;
    double *scale;               /* of b */
    char (*name)[SY_PARAM_NAME]; /* [2 * matrices] of the added tensors */
};

static bool is_mlp(const char *name)
{
    return strstr(name, "/mlp/") != NULL;
}

/* What is done to one of our matrices. */
static const sy_hf_link *link_of(const sy__lora *l, const sy_source *s, int32_t tensor)
{
    const int32_t our = l->our[tensor], n = l->first[our + 1] - l->first[our];
    const sy_hf_link *link = &l->map.link[l->first[our]];
    return n == 1 && link->n == s->tensor[tensor].numel ? link : NULL;
}

int64_t sy_source_adapter_rank(const sy_source *s)
{
    const sy__lora *l = s->self;
    int64_t rank = 0;
    for (int32_t i = 0; s->vt == &sy__source_lora && i < s->n_tensors; i++) {
        const sy_hf_link *link = is_mlp(s->tensor[i].name) ? link_of(l, s, i) : NULL;
        const int64_t r =
            link != NULL && l->change[link->their].a != NULL ? l->change[link->their].r : 0;
        rank = r > rank ? r : rank;
    }
    return rank;
}

/* ---- the list ---- */

typedef struct shown {
    sy_source_tensor tensor;
    int32_t our;
    sy__lora_side side;
    const sy__lora_change *change;
    double scale;
} shown;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const shown *)a)->tensor.name, ((const shown *)b)->tensor.name);
}

static shown factor_of(const shown *matrix, sy__lora_side side, int64_t rank, char *name)
{
    const int64_t *shape = matrix->tensor.shape;
    const sy__lora_change *c = matrix->change;
    shown f = *matrix;
    snprintf(name, SY_PARAM_NAME, "%s_%c", matrix->tensor.name, side == SY__LORA_A ? 'a' : 'b');
    f.side = side;
    f.tensor.name = name;
    f.tensor.dtype = c->a == NULL ? SY_F32 : side == SY__LORA_A ? c->a->dtype : c->b->dtype;
    f.tensor.shape[side == SY__LORA_A ? 0 : 1] = rank;
    f.tensor.numel = rank * shape[side == SY__LORA_A ? 1 : 0];
    return f;
}

static sy_status list_shown(sy_source *s, int64_t rank, shown *out, int32_t *n)
{
    sy_status st = SY_OK;
    const sy__lora *l = s->self;
    int32_t n_names = 0;
    *n = 0;
    for (int32_t i = 0; i < s->n_tensors; i++) {
        shown *t = &out[(*n)++];
        *t = (shown){.tensor = s->tensor[i], .our = l->our[i], .side = SY__LORA_SUM};
        if (!is_mlp(t->tensor.name)) {
            continue;
        }
        const sy_hf_link *link = link_of(l, s, i);
        SY_REQUIRE(link != NULL && l->change[link->their].whole == NULL, SY_ERR_USAGE,
                   "'%s' replaces '%s' of its base: it can be merged, not kept as an adapter",
                   s->path, t->tensor.name);
        t->side = SY__LORA_BASE;
        t->change = &l->change[link->their];
        t->scale = t->change->scale / link->scale;
        out[(*n)++] = factor_of(t, SY__LORA_A, rank, l->kept->name[n_names++]);
        out[(*n)++] = factor_of(t, SY__LORA_B, rank, l->kept->name[n_names++]);
    }
    qsort(out, (size_t)*n, sizeof *out, by_name);
cleanup:
    return st;
}

static sy_status take_shown(sy_source *s, const shown *list, int32_t n)
{
    sy_status st = SY_OK;
    sy__lora *l = s->self;
    sy__lora_kept *k = l->kept;
    sy_free(&s->tensor);
    sy_free(&l->our);
    SY_TRY(sy_alloc(n, sizeof *s->tensor, (void **)&s->tensor));
    SY_TRY(sy_alloc(n, sizeof *l->our, (void **)&l->our));
    SY_TRY(sy_alloc(n, sizeof *k->side, (void **)&k->side));
    SY_TRY(sy_alloc(n, sizeof *k->change, (void **)&k->change));
    SY_TRY(sy_alloc(n, sizeof *k->scale, (void **)&k->scale));
    for (int32_t i = 0; i < n; i++) {
        s->tensor[i] = list[i].tensor;
        l->our[i] = list[i].our;
        k->side[i] = list[i].side;
        k->change[i] = list[i].change;
        k->scale[i] = list[i].scale;
    }
    s->n_tensors = n;
cleanup:
    return st;
}

sy_status sy_source_keep_adapter(sy_source *s, int64_t rank)
{
    sy_status st = SY_OK;
    sy__lora *l = s->self;
    shown *list = NULL;
    int32_t n = 0;
    SY_REQUIRE(sy_source_adapter_rank(s) > 0, SY_ERR_USAGE,
               "'%s' is no LoRA adapter of a model's MLP, and cannot be kept as one", s->path);
    SY_TRY(sy_alloc(1, sizeof *l->kept, (void **)&l->kept));
    SY_TRY(sy_alloc(2 * (int64_t)s->n_tensors, sizeof *l->kept->name, (void **)&l->kept->name));
    SY_TRY(sy_alloc(3 * (int64_t)s->n_tensors, sizeof *list, (void **)&list));
    SY_TRY(list_shown(s, rank, list, &n));
    SY_TRY(take_shown(s, list, n));
cleanup:
    sy_free(&list);
    return st;
}

void sy__lora_kept_free(sy__lora_kept **kept)
{
    sy__lora_kept *k = *kept;
    if (k != NULL) {
        sy_free(&k->side);
        sy_free(&k->change);
        sy_free(&k->scale);
        sy_free(&k->name);
        sy_free(kept);
    }
}

/* ---- values ---- */

sy__lora_side sy__lora_side_of(const sy__lora *l, int32_t tensor)
{
    return l->kept != NULL ? l->kept->side[tensor] : SY__LORA_SUM;
}

void sy__lora_read_factor(const sy_source *s, int32_t tensor, int64_t first, int64_t n,
                          sy_dtype dtype, void *h_to)
{
    const sy__lora *l = s->self;
    const sy__lora_kept *k = l->kept;
    const sy_source_tensor *t = &s->tensor[tensor];
    const sy__lora_change *c = k->change[tensor];
    const bool is_a = k->side[tensor] == SY__LORA_A;
    const int64_t columns = t->shape[1], bytes = (int64_t)sy_dtype_bytes(dtype);
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = (first + i) / columns, column = (first + i) % columns;
        const bool there = c->a != NULL && (is_a ? row : column) < c->r;
        double x = 0;
        if (there && is_a) {
            x = sy__lora_value(c->a, row * columns + column);
        } else if (there) {
            x = k->scale[tensor] * sy__lora_value(c->b, row * c->r + column);
        }
        sy_convert(dtype, (char *)h_to + i * bytes, SY_F64, &x, 1);
    }
}
