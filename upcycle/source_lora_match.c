/* Which tensors of an adapter change which of the base's, and whether they fit. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "upcycle/source_impl.h"
#include "upcycle/source_lora_impl.h"

/* ---- names ---- */

/* What a tensor of the adapter is, by its name: of which of their tensors it is a part. */
typedef enum part { PART_WHOLE, PART_A, PART_B, PART_EMBEDDING_A, PART_EMBEDDING_B } part;

/* "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" -> PART_A of
   "model.layers.0.self_attn.q_proj.weight". */
static sy_status read_name(const sy_st_tensor *t, part *out, char target[SY_HF_NAME])
{
    static const struct {
        const char *end;
        part part;
    } parts[] = {{".lora_A.weight", PART_A},
                 {".lora_B.weight", PART_B},
                 {".lora_embedding_A", PART_EMBEDDING_A},
                 {".lora_embedding_B", PART_EMBEDDING_B}};
    static const char prefix[] = "base_model.model.", base_layer[] = ".base_layer.";
    sy_status st = SY_OK;
    SY_REQUIRE(strncmp(t->name, prefix, sizeof prefix - 1) == 0, SY_ERR_USAGE,
               "'%s': tensor '%s' is none of an adapter: its name begins not with '%s'", t->file,
               t->name, prefix);
    const char *name = t->name + sizeof prefix - 1, *inner = strstr(name, base_layer);
    const size_t n = strlen(name);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const size_t m = strlen(parts[i].end);
        if (n > m && strcmp(name + n - m, parts[i].end) == 0) {
            *out = parts[i].part;
            snprintf(target, SY_HF_NAME, "%.*s.weight", (int)(n - m), name);
            return SY_OK;
        }
    }
    SY_REQUIRE(strstr(name, "lora_") == NULL, SY_ERR_USAGE,
               "'%s': tensor '%s' is of a kind of adapter that is not read; merge it with PEFT "
               "first",
               t->file, t->name);
    *out = PART_WHOLE;
    snprintf(target, SY_HF_NAME, "%.*s%s", (int)(inner != NULL ? inner - name : (int64_t)n), name,
             inner != NULL ? inner + sizeof base_layer - 2 : "");
cleanup:
    return st;
}

static int by_name(const void *a, const void *b)
{
    const sy_hf_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static sy_status take_tensor(sy__lora *l, const sy_hf_tensor **sorted, const sy_st_tensor *t)
{
    sy_status st = SY_OK;
    sy_hf_tensor want = {0}, *key = &want;
    part part = PART_WHOLE;
    SY_REQUIRE(t->dtype != SY_N_DTYPES && sy_dtype_is_float(t->dtype), SY_ERR_USAGE,
               "'%s': tensor '%s' is of type %s; weights are read in F32, BF16, F16 and F64",
               t->file, t->name, t->type_name);
    SY_TRY(read_name(t, &part, want.name));
    const sy_hf_tensor *const *at =
        bsearch(&key, sorted, (size_t)l->map.n_their, sizeof *sorted, by_name);
    SY_REQUIRE(at != NULL, SY_ERR_USAGE, "'%s': tensor '%s' has no place in the base '%s'%s",
               t->file, t->name, l->base->path,
               strcmp(want.name, "lm_head.weight") == 0 ? ", which ties its embeddings" : "");
    sy__lora_change *c = &l->change[*at - l->map.their];
    const sy_st_tensor **slot = part == PART_WHOLE                           ? &c->whole
                                : part == PART_A || part == PART_EMBEDDING_A ? &c->a
                                                                             : &c->b;
    SY_REQUIRE(*slot == NULL, SY_ERR_USAGE, "'%s': tensor '%s' says the same as '%s'", t->file,
               t->name, (*slot)->name);
    *slot = t;
    c->embedding = c->embedding || part == PART_EMBEDDING_A || part == PART_EMBEDDING_B;
cleanup:
    return st;
}

static sy_status take_tensors(sy__lora *l)
{
    sy_status st = SY_OK;
    const sy_hf_tensor **sorted = NULL;
    SY_TRY(sy_alloc(l->map.n_their, sizeof *l->change, (void **)&l->change));
    SY_TRY(sy_alloc(l->map.n_their, sizeof *sorted, (void **)&sorted));
    for (int32_t i = 0; i < l->map.n_their; i++) {
        sorted[i] = &l->map.their[i];
    }
    qsort(sorted, (size_t)l->map.n_their, sizeof *sorted, by_name);
    for (int64_t i = 0; i < l->set->n; i++) {
        SY_TRY(take_tensor(l, sorted, &l->set->tensor[i]));
    }
cleanup:
    sy_free(&sorted);
    return st;
}

/* ---- do they fit? ---- */

static sy_status check_shape(const sy__lora *l, const sy_st_tensor *t, int32_t n_dim,
                             const int64_t *want)
{
    sy_status st = SY_OK;
    char have[128], wanted[128];
    bool same = t->n_dim == n_dim;
    for (int32_t d = 0; same && d < n_dim; d++) {
        same = t->shape[d] == want[d];
    }
    SY_REQUIRE(same, SY_ERR_USAGE,
               "'%s': tensor '%s' has shape %s; by adapter_config.json and the base '%s' it must "
               "be %s",
               t->file, t->name, sy__shape_text(t->n_dim, t->shape, have, sizeof have),
               l->base->path, sy__shape_text(n_dim, want, wanted, sizeof wanted));
cleanup:
    return st;
}

/* A and B of one matrix: both there, of the rank that the configuration says. */
static sy_status check_pair(const sy__lora *l, sy__lora_change *c, const sy_hf_tensor *their,
                            const char *module)
{
    sy_status st = SY_OK;
    const sy_st_tensor *one = c->a != NULL ? c->a : c->b;
    SY_REQUIRE(c->a != NULL && c->b != NULL, SY_ERR_USAGE, "'%s': tensor '%s' has no %c beside it",
               one->file, one->name, c->a == NULL ? 'A' : 'B');
    SY_REQUIRE(their->n_dim == 2, SY_ERR_USAGE,
               "'%s': tensor '%s' would change '%s', which is no matrix", one->file, one->name,
               their->name);
    c->r = sy__lora_rank(&l->config, module);
    c->scale = sy__lora_scale(&l->config, module);
    const int64_t in = their->shape[c->embedding ? 0 : 1], out = their->shape[c->embedding ? 1 : 0];
    SY_TRY(check_shape(l, c->a, 2, (const int64_t[]){c->r, in}));
    SY_TRY(check_shape(l, c->b, 2, (const int64_t[]){out, c->r}));
cleanup:
    return st;
}

static sy_status check_change(const sy__lora *l, sy__lora_change *c, const sy_hf_tensor *their)
{
    sy_status st = SY_OK;
    static const char weight[] = ".weight";
    char module[SY_HF_NAME];
    const size_t n = strlen(their->name), m = sizeof weight - 1;
    const bool is_weight = n > m && strcmp(their->name + n - m, weight) == 0;
    snprintf(module, sizeof module, "%.*s", (int)(is_weight ? n - m : n), their->name);
    const sy__lora_aim aim = is_weight ? sy__lora_aims_at(&l->config, module) : SY__LORA_NO;
    const sy_st_tensor *one = c->a != NULL ? c->a : c->b;
    SY_REQUIRE(one == NULL || aim != SY__LORA_NO, SY_ERR_USAGE,
               "'%s': tensor '%s' is of a module that target_modules of adapter_config.json does "
               "not name",
               one->file, one->name);
    SY_REQUIRE(one != NULL || aim != SY__LORA_YES, SY_ERR_USAGE,
               "'%s' has no tensors for '%s' of the base '%s', which its target_modules ask for",
               l->path, their->name, l->base->path);
    if (one != NULL) {
        SY_TRY(check_pair(l, c, their, module));
    }
    if (c->whole != NULL) {
        SY_TRY(check_shape(l, c->whole, their->n_dim, their->shape));
    }
cleanup:
    return st;
}

/* Whether the output side changes with a tied embedding, PEFT leaves open. */
static sy_status check_tied(const sy__lora *l, const sy_model_config *model)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < l->map.n_their && model->tie_embeddings; i++) {
        const sy__lora_change *c = &l->change[i];
        SY_REQUIRE(c->a == NULL || !c->embedding, SY_ERR_USAGE,
                   "'%s': tensor '%s' changes an embedding that the base '%s' ties to its head; "
                   "merge it with PEFT first",
                   c->a->file, c->a->name, l->base->path);
    }
cleanup:
    return st;
}

/* modules_to_save: something of each. */
static sy_status check_saved(const sy__lora *l)
{
    sy_status st = SY_OK;
    const json_t *list = sy__hf_find(&l->config.file, "modules_to_save");
    for (size_t k = 0; k < json_array_size(list); k++) {
        const char *name = json_string_value(json_array_get(list, k));
        bool found = false;
        for (int32_t i = 0; i < l->map.n_their && !found; i++) {
            char module[SY_HF_NAME];
            const char *dot = strrchr(l->map.their[i].name, '.');
            snprintf(module, sizeof module, "%.*s", (int)(dot - l->map.their[i].name),
                     l->map.their[i].name);
            found = l->change[i].whole != NULL && sy__lora_names(name, module);
        }
        SY_REQUIRE(found, SY_ERR_USAGE,
                   "%s: modules_to_save names '%s', of which adapter_model.safetensors has nothing",
                   l->path, name);
    }
cleanup:
    return st;
}

sy_status sy__lora_match(sy__lora *l, const sy_model_config *model)
{
    sy_status st = SY_OK;
    SY_TRY(take_tensors(l));
    for (int32_t i = 0; i < l->map.n_their; i++) {
        SY_TRY(check_change(l, &l->change[i], &l->map.their[i]));
    }
    SY_TRY(check_tied(l, model));
    SY_TRY(check_saved(l));
cleanup:
    return st;
}
