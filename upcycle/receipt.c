#include "upcycle/receipt.h"

#include <math.h>
#include <string.h>

#include "checkpoint/hash.h"
#include "core/alloc.h"
#include "moe/adapters.h"
#include "parallel/agree.h"
#include "parallel/state.h"
#include "upcycle/receipt_impl.h"

/* As long in writing as a figure gets. */
static const double unknown = -1.23456789e-300;

/* ---- the list ---- */

static bool has_experts(const sy_source_tensor *t)
{
    return t->n_dim == 3 && strstr(t->name, "/moe/experts/") != NULL;
}

/* Index of the source, as in sy_receipt_part. */
static int32_t source_of(const sy_recipe_spec *spec, const sy_recipe *recipe, int32_t tensor,
                         int32_t expert)
{
    const int32_t one = spec->n_sources == 1 ? 0 : spec->base;
    const int32_t s = expert >= 0 ? spec->expert_source[expert] : one;
    return sy_recipe_origin_of(recipe, tensor, s > 0 ? s : 0).tensor >= 0 ? s : -2;
}

static sy_status list_parts(sy_receipt *r)
{
    sy_status st = SY_OK;
    const sy_blueprint *plan = sy_recipe_plan(r->recipe);
    for (int32_t pass = 0; pass < 2; pass++) {
        r->n_parts = 0;
        for (int32_t i = 0; i < plan->n; i++) {
            const bool experts = r->spec->expert_source != NULL && has_experts(&plan->tensor[i]);
            const int64_t n = experts ? plan->tensor[i].shape[0] : 1;
            for (int32_t e = 0; e < n && pass == 1; e++) {
                const int32_t expert = experts ? e : -1;
                r->part[r->n_parts + e] =
                    (sy_receipt_part){.tensor = i,
                                      .expert = expert,
                                      .source = source_of(r->spec, r->recipe, i, expert),
                                      .cosine = unknown,
                                      .predicted = unknown};
            }
            r->n_parts += n;
        }
        SY_TRY(pass == 0 ? sy_alloc(r->n_parts, sizeof *r->part, (void **)&r->part) : SY_OK);
    }
cleanup:
    return st;
}

/* Factors of adapters are no matrices that could be compared, and a seed model has none. */
static sy_status list_ffn(sy_receipt *r)
{
    sy_status st = SY_OK;
    const sy_blueprint *plan = sy_recipe_plan(r->recipe);
    const int64_t n = r->spec->n_sources;
    SY_TRY(sy_alloc(plan->n, sizeof *r->ffn, (void **)&r->ffn));
    for (int64_t k = 0; k < r->n_parts && !sy_moe_has_adapters(r->spec->moe); k++) {
        if (r->part[k].expert == 0) {
            r->ffn[r->n_ffn++] = sy_recipe_origin_of(r->recipe, r->part[k].tensor, 0).tensor;
        }
    }
    if (n > 1) {
        SY_TRY(sy_alloc(r->n_ffn * n * n, sizeof *r->pair, (void **)&r->pair));
        for (int64_t k = 0; k < r->n_ffn * n * n; k++) {
            r->pair[k] = unknown;
        }
    }
cleanup:
    return st;
}

sy_status sy_receipt_create(const sy_recipe_spec *spec, sy_recipe *recipe, sy_receipt **out)
{
    sy_status st = SY_OK;
    sy_receipt *r = NULL;
    SY_TRY(sy_alloc(1, sizeof *r, (void **)&r));
    r->spec = spec;
    r->recipe = recipe;
    r->make = sy_recipe_make;
    r->make_self = recipe;
    SY_TRY(sy_alloc(spec->n_sources, sizeof *r->digest, (void **)&r->digest));
    for (int32_t s = 0; s < spec->n_sources; s++) {
        SY_TRY(sy_alloc(spec->source[s]->n_tensors, sizeof **r->digest, (void **)&r->digest[s]));
    }
    SY_TRY(list_parts(r));
    SY_TRY(list_ffn(r));
    *out = r;
    r = NULL;
cleanup:
    sy_receipt_destroy(&r);
    return st;
}

void sy_receipt_destroy(sy_receipt **receipt)
{
    sy_receipt *r = *receipt;
    if (r == NULL) {
        return;
    }
    for (int32_t s = 0; r->digest != NULL && s < r->spec->n_sources; s++) {
        sy_free(&r->digest[s]);
    }
    sy_free(&r->pair);
    sy_free(&r->ffn);
    sy_free(&r->digest);
    sy_free(&r->part);
    sy_free(receipt);
}

/* ---- the sources ---- */

/* 0 times infinity, or times NaN, is NaN. */
static sy_status check_finite(sy__receipt_work *w, const sy_source *source,
                              const sy_source_tensor *t, const char *h_values, int64_t n)
{
    sy_status st = SY_OK;
    const int64_t bytes = (int64_t)sy_dtype_bytes(t->dtype);
    for (int64_t at = 0; at < n; at += SY__RECEIPT_BLOCK) {
        const int64_t m = n - at < SY__RECEIPT_BLOCK ? n - at : SY__RECEIPT_BLOCK;
        double bad = 0;
        sy_convert(SY_F64, w->block, t->dtype, h_values + at * bytes, m);
        for (int64_t i = 0; i < m; i++) {
            bad += 0 * w->block[i];
        }
        SY_REQUIRE(bad == 0, SY_ERR_USAGE,
                   "'%s': tensor '%s' has values that are not finite; nothing was written",
                   source->path, t->name);
    }
cleanup:
    return st;
}

static sy_status digest(sy__receipt_work *w, sy_source *source, int32_t tensor, uint64_t *out)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &source->tensor[tensor];
    const int64_t bytes = (int64_t)sy_dtype_bytes(t->dtype), room = SY_PULL_BYTES / bytes;
    const void *h_bytes = NULL;
    for (int64_t at = 0; at < t->numel; at += room) {
        const int64_t n = t->numel - at < room ? t->numel - at : room;
        SY_TRY(sy_source_get(source, tensor, at, n, w->h_a, &h_bytes));
        sy_hash_add(w->hash, h_bytes, n * bytes);
        SY_TRY(check_finite(w, source, t, h_bytes, n));
    }
    *out = sy_hash_take(w->hash);
cleanup:
    return st;
}

/* Products of every two sources over a tensor of them all. */
static sy_status multiply(sy__receipt_work *w, int32_t tensor, double *product)
{
    sy_status st = SY_OK;
    const sy_recipe_spec *spec = w->receipt->spec;
    const int32_t n = spec->n_sources;
    const int64_t numel = spec->source[0]->tensor[tensor].numel;
    const char *name = spec->source[0]->tensor[tensor].name;
    memset(product, 0, (size_t)n * (size_t)n * sizeof *product);
    for (int64_t at = 0; at < numel; at += SY__RECEIPT_BLOCK) {
        const int64_t m = numel - at < SY__RECEIPT_BLOCK ? numel - at : SY__RECEIPT_BLOCK;
        for (int32_t s = 0; s < n; s++) {
            sy_source *source = spec->source[s];
            SY_TRY(sy_source_read(source, sy_source_find(source, name), at, m, SY_F64,
                                  w->block + s * SY__RECEIPT_BLOCK));
        }
        for (int32_t a = 0; a < n; a++) {
            for (int32_t b = a; b < n; b++) {
                product[a * n + b] += sy__receipt_product(w->block + a * SY__RECEIPT_BLOCK,
                                                          w->block + b * SY__RECEIPT_BLOCK, m);
            }
        }
    }
cleanup:
    return st;
}

static sy_status compare_sources(sy__receipt_work *w, int32_t k)
{
    sy_status st = SY_OK;
    const int32_t n = w->receipt->spec->n_sources;
    double *pair = w->receipt->pair + (int64_t)k * n * n, *product = NULL;
    SY_TRY(sy_alloc((int64_t)n * n, sizeof *product, (void **)&product));
    SY_TRY(multiply(w, w->receipt->ffn[k], product));
    for (int32_t a = 0; a < n; a++) {
        for (int32_t b = a; b < n; b++) {
            pair[a * n + b] = pair[b * n + a] =
                sy__receipt_cosine(product[a * n + b], product[a * n + a], product[b * n + b]);
        }
    }
cleanup:
    sy_free(&product);
    return st;
}

/* This rank's share; zero elsewhere. */
static sy_status measure_sources(sy__receipt_work *w, const sy_comm *comm)
{
    sy_status st = SY_OK;
    sy_receipt *r = w->receipt;
    int64_t turn = 0;
    for (int32_t s = 0; s < r->spec->n_sources; s++) {
        for (int32_t i = 0; i < r->spec->source[s]->n_tensors; i++) {
            if (turn++ % comm->size == comm->rank) {
                SY_TRY(digest(w, r->spec->source[s], i, &r->digest[s][i]));
            }
        }
    }
    for (int32_t k = 0; r->pair != NULL && k < r->n_ffn; k++) {
        const int64_t n = r->spec->n_sources;
        memset(r->pair + k * n * n, 0, (size_t)(n * n) * sizeof *r->pair);
        if (turn++ % comm->size == comm->rank) {
            SY_TRY(compare_sources(w, k));
        }
    }
cleanup:
    return st;
}

static bool are_equal(const sy_receipt *r)
{
    bool equal = true;
    for (int32_t s = 1; s < r->spec->n_sources; s++) {
        const sy_source *first = r->spec->source[0], *other = r->spec->source[s];
        equal = equal && first->n_tensors == other->n_tensors;
        for (int32_t i = 0; equal && i < first->n_tensors; i++) {
            equal = r->digest[0][i] == r->digest[s][i] &&
                    first->tensor[i].dtype == other->tensor[i].dtype;
        }
    }
    return equal;
}

/* ---- all of it ---- */

static sy_status measure(sy__receipt_work *w, const sy_comm *comm)
{
    sy_status st = SY_OK;
    sy_receipt *r = w->receipt;
    const int64_t n_blocks = r->spec->n_sources > 2 ? r->spec->n_sources : 2;
    SY_TRY(sy_alloc(SY_PULL_BYTES, 1, &w->h_a));
    SY_TRY(sy_alloc(SY_PULL_BYTES, 1, &w->h_b));
    SY_TRY(sy_alloc(n_blocks * SY__RECEIPT_BLOCK, sizeof *w->block, (void **)&w->block));
    SY_TRY(sy_hash_create(&w->hash));
    SY_TRY(measure_sources(w, comm));
    for (int64_t k = 0, n = 0; k < r->n_parts; k += n) {
        const int32_t tensor = r->part[k].tensor;
        for (n = 0; k + n < r->n_parts && r->part[k + n].tensor == tensor; n++) {
            r->part[k + n].cosine = r->part[k + n].predicted = 0;
        }
        if (tensor % comm->size == comm->rank) {
            SY_TRY(sy__receipt_check_tensor(w, &r->part[k], (int32_t)n));
        }
    }
cleanup:
    return st;
}

/* Each figure was measured by one rank. */
static sy_status gather(sy_receipt *r, sy_comm *comm)
{
    sy_status st = SY_OK;
    const int64_t n = r->spec->n_sources;
    double *cosine = NULL;
    SY_TRY(sy_agree(comm, sy_alloc(2 * r->n_parts, sizeof *cosine, (void **)&cosine)));
    for (int64_t k = 0; k < r->n_parts; k++) {
        cosine[2 * k] = r->part[k].cosine;
        cosine[2 * k + 1] = r->part[k].predicted;
    }
    SY_TRY(sy_host_all_reduce(comm, cosine, 2 * r->n_parts, SY_F64, SY_SUM, "cosines"));
    for (int64_t k = 0; k < r->n_parts; k++) {
        const bool one = r->part[k].source >= 0;
        r->part[k].cosine = one ? cosine[2 * k] : NAN;
        r->part[k].predicted = one ? cosine[2 * k + 1] : NAN;
    }
    for (int32_t s = 0; s < n; s++) {
        SY_TRY(sy_host_all_reduce(comm, r->digest[s], r->spec->source[s]->n_tensors, SY_I64, SY_SUM,
                                  "digests of a source"));
    }
    if (r->pair != NULL) {
        SY_TRY(sy_host_all_reduce(comm, r->pair, r->n_ffn * n * n, SY_F64, SY_SUM,
                                  "cosines of sources"));
    }
    r->one_source = are_equal(r);
cleanup:
    sy_free(&cosine);
    return st;
}

sy_status sy_receipt_check(sy_receipt *receipt, sy_source *written, sy_comm *comm)
{
    sy_status st = SY_OK;
    sy__receipt_work w = {.receipt = receipt, .written = written};
    SY_TRY(sy_agree(comm, measure(&w, comm)));
    SY_TRY(gather(receipt, comm));
cleanup:
    sy_hash_destroy(&w.hash);
    sy_free(&w.block);
    sy_free(&w.h_b);
    sy_free(&w.h_a);
    return st;
}
