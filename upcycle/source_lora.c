/* A LoRA adapter of PEFT as a source (Hu et al. 2021, arXiv 2106.09685): its base model, another
   source, whose matrices get scale B A added while they are read; tensors that the adapter holds
   whole (modules_to_save, biases) take the place of the base's. A value is computed in double and
   rounded to the base's type, so the source is the merged model as it would be saved. */
#include <string.h>
#include <unistd.h>

#include "checkpoint/safetensors.h"
#include "core/alloc.h"
#include "parallel/agree.h"
#include "parallel/state.h"
#include "upcycle/source_impl.h"
#include "upcycle/source_lora_impl.h"
#include "upcycle/transfer_impl.h"

enum { BLOCK = 1 << 16, TILE = 256 };

/* ---- open ---- */

static sy_status find_weights(const sy_source *s, sy_st_set **out)
{
    sy_status st = SY_OK;
    char *path = NULL;
    SY_TRY(sy_asprintf(&path, "%s/adapter_model.safetensors", s->path));
    SY_REQUIRE(access(path, F_OK) == 0, SY_ERR_USAGE,
               "there is no '%s'; an adapter is read from safetensors alone", path);
    SY_TRY(sy_st_open(path, out));
cleanup:
    sy_free(&path);
    return st;
}

static sy_status name_base(sy_source *s)
{
    sy_status st = SY_OK;
    const sy__lora *l = s->self;
    const char *named = l->config.base_model;
    if (s->base == NULL) {
        SY_REQUIRE(named != NULL && named[0] != '\0', SY_ERR_USAGE,
                   "%s: it names no base_model_name_or_path; give --adapter-base MODEL", l->path);
        SY_TRY(sy_strdup(named, &s->base));
    }
cleanup:
    return st;
}

/* Rank 0 looks. */
static sy_status check_base(const sy_source *s)
{
    sy_status st = SY_OK;
    const sy__lora *l = s->self;
    char *config = NULL;
    SY_REQUIRE(access(s->base, F_OK) == 0, SY_ERR_USAGE,
               "%s: there is no base model '%s' here; give --adapter-base MODEL", l->path, s->base);
    SY_TRY(sy_asprintf(&config, "%s/adapter_config.json", s->base));
    SY_REQUIRE(access(config, F_OK) != 0, SY_ERR_USAGE,
               "%s: the base '%s' is an adapter itself; give the model that both change with "
               "--adapter-base",
               l->path, s->base);
cleanup:
    sy_free(&config);
    return st;
}

/* What the base is, but for the numbers in it. */
static sy_status open_base(sy_source *s, sy_comm *comm)
{
    sy_status st = SY_OK;
    sy__lora *l = s->self;
    SY_TRY(sy_agree(comm, name_base(s)));
    SY_TRY(sy_agree(comm, comm->rank == 0 ? check_base(s) : SY_OK));
    SY_TRY(sy_source_open(s->base, comm, &l->base));
    SY_TRY(sy_agree(comm, sy_strdup(l->base->yaml, &s->yaml)));
    s->step = l->base->step;
    s->tokens_seen = l->base->tokens_seen;
    s->files = l->base->files;
    l->base->files = (sy_tokenizer_files){0};
cleanup:
    return st;
}

static sy_status lora_open(sy_source *s, sy_comm *comm)
{
    sy_status st = SY_OK;
    sy__lora *l = NULL;
    SY_TRY(sy_agree(comm, sy_alloc(1, sizeof *l, &s->self)));
    l = s->self;
    s->form = "a LoRA adapter";
    SY_TRY(sy__source_json(s->path, "adapter_config.json", comm, &l->path, &l->json));
    SY_TRY(sy_agree(comm, sy__lora_config_read(l->path, l->json, &l->config)));
    SY_TRY(sy_agree(comm, find_weights(s, &l->set)));
    SY_TRY(open_base(s, comm));
cleanup:
    return st;
}

static void lora_close(sy_source *s)
{
    sy__lora *l = s->self;
    if (l == NULL) {
        return;
    }
    sy__lora_kept_free(&l->kept);
    sy_free(&l->rounded);
    sy_free(&l->sum);
    sy_free(&l->right);
    sy_free(&l->our);
    sy_free(&l->first);
    sy_free(&l->change);
    sy_hf_map_free(&l->map);
    sy_st_close(&l->set);
    sy__lora_config_free(&l->config);
    sy_free(&l->json);
    sy_free(&l->path);
    sy_source_close(&l->base);
    sy_free(&s->self);
}

/* ---- bind ---- */

/* The base's tensors are the source's; which of the map's each is. */
static sy_status list_tensors(sy_source *s)
{
    sy_status st = SY_OK;
    sy__lora *l = s->self;
    const sy_source *base = l->base;
    SY_TRY(sy_alloc(base->n_tensors, sizeof *l->our, (void **)&l->our));
    SY_TRY(sy_alloc(base->n_tensors, sizeof *s->tensor, (void **)&s->tensor));
    memcpy(s->tensor, base->tensor, (size_t)base->n_tensors * sizeof *s->tensor);
    s->n_tensors = base->n_tensors;
    for (int32_t i = 0; i < l->map.n_our; i++) {
        const int32_t k = sy_source_find(base, l->map.our[i].name);
        SY_REQUIRE(k >= 0, SY_ERR_INTERNAL, "'%s' is not in '%s'", l->map.our[i].name, base->path);
        l->our[k] = i;
    }
cleanup:
    return st;
}

/* Adapters have the names of an architecture; a checkpoint of ours has those that it would be
   exported with. */
static sy_status bind_alone(sy_source *s, const sy_model_config *model, const sy_moe_config *moe)
{
    sy_status st = SY_OK;
    sy__lora *l = s->self;
    sy_hf_arch arch = SY_HF_LLAMA;
    SY_TRY(l->base->vt == &sy__source_hf ? sy_hf_arch_parse(l->base->form, &arch)
                                         : sy_hf_choose(model, moe, &arch));
    SY_TRY(sy_hf_map_create(arch, SY_HF_PER_EXPERT, model, moe, &l->map));
    SY_TRY(sy__hf_first_links(&l->map, &l->first));
    SY_TRY(sy__lora_match(l, model));
    SY_TRY(list_tensors(s));
    SY_TRY(sy_alloc(BLOCK, sizeof *l->sum, (void **)&l->sum));
    SY_TRY(sy_alloc(BLOCK, sizeof(double), &l->rounded));
cleanup:
    return st;
}

static sy_status lora_bind(sy_source *s, const sy_model_config *model, const sy_moe_config *moe,
                           sy_comm *comm)
{
    sy_status st = SY_OK;
    sy__lora *l = s->self;
    SY_TRY(sy_source_bind(l->base, model, moe, comm));
    SY_TRY(sy_agree(comm, bind_alone(s, model, moe)));
cleanup:
    return st;
}

/* ---- read ---- */

double sy__lora_value(const sy_st_tensor *t, int64_t at)
{
    const size_t bytes = sy_dtype_bytes(t->dtype);
    double raw, value;
    memcpy(&raw, (const char *)t->data + (size_t)at * bytes, bytes);
    sy_convert(SY_F64, &value, t->dtype, &raw, 1);
    return value;
}

/* The right side as doubles [r, columns], kept until another matrix is read. */
static sy_status get_right(sy__lora *l, const sy__lora_change *c, int64_t columns)
{
    sy_status st = SY_OK;
    if (l->current == c) {
        return SY_OK;
    }
    l->current = NULL;
    sy_free(&l->right);
    SY_TRY(sy_alloc(c->r * columns, sizeof *l->right, (void **)&l->right));
    for (int64_t k = 0; k < c->r; k++) {
        for (int64_t j = 0; j < columns; j++) {
            l->right[k * columns + j] = c->embedding ? sy__lora_value(c->b, j * c->r + k)
                                                     : sy__lora_value(c->a, k * columns + j);
        }
    }
    l->current = c;
cleanup:
    return st;
}

/* h_sum[0 .. n) += factor B A of the elements of a row from a column on. */
static void add_row(const sy__lora *l, const sy__lora_change *c, const sy_hf_tensor *their,
                    int64_t row, int64_t column, int64_t n, double factor, double *h_sum)
{
    const int64_t rows = their->shape[0], columns = their->shape[1];
    double delta[TILE] = {0};
    for (int64_t k = 0; k < c->r; k++) {
        const double left = c->embedding ? sy__lora_value(c->a, k * rows + row)
                                         : sy__lora_value(c->b, row * c->r + k);
        const double *right = l->right + k * columns + column;
        for (int64_t i = 0; i < n; i++) {
            delta[i] += left * right[i];
        }
    }
    for (int64_t i = 0; i < n; i++) {
        h_sum[i] += factor * delta[i];
    }
}

/* The same of elements [at, at + n) of their matrix. A few columns of all rows at once, so that
   they come out of the cache. */
static sy_status add_delta(sy__lora *l, const sy__lora_change *c, const sy_hf_tensor *their,
                           int64_t at, int64_t n, double factor, double *h_sum)
{
    sy_status st = SY_OK;
    const int64_t columns = their->shape[1];
    SY_TRY(get_right(l, c, columns));
    for (int64_t tile = 0; tile < columns; tile += TILE) {
        const int64_t tile_end = tile + TILE < columns ? tile + TILE : columns;
        for (int64_t row = at / columns; row * columns < at + n; row++) {
            const int64_t begin = row * columns + tile, end = row * columns + tile_end;
            const int64_t first = begin > at ? begin : at, last = end < at + n ? end : at + n;
            if (first < last) {
                add_row(l, c, their, row, first - row * columns, last - first, factor,
                        h_sum + first - at);
            }
        }
    }
cleanup:
    return st;
}

static bool is_changed(const sy__lora *l, int32_t tensor)
{
    const int32_t our = l->our[tensor];
    bool changed = false;
    for (int32_t i = l->first[our]; i < l->first[our + 1]; i++) {
        const sy__lora_change *c = &l->change[l->map.link[i].their];
        changed = changed || c->a != NULL || c->whole != NULL;
    }
    return changed && sy__lora_side_of(l, tensor) == SY__LORA_SUM;
}

/* Its number in the base. */
static int32_t base_tensor(const sy_source *s, int32_t tensor)
{
    const sy__lora *l = s->self;
    return l->kept == NULL ? tensor : sy_source_find(l->base, s->tensor[tensor].name);
}

static bool is_factor(const sy__lora *l, int32_t tensor)
{
    const sy__lora_side side = sy__lora_side_of(l, tensor);
    return side == SY__LORA_A || side == SY__LORA_B;
}

/* What is done to elements [first, first + n) of our tensor, which are the base's in h_sum. */
static sy_status apply(sy__lora *l, int32_t our, int64_t first, int64_t n, double *h_sum)
{
    sy_status st = SY_OK;
    const int32_t begin = l->first[our];
    const sy_hf_link *link = sy__hf_link_at(&l->map.link[begin], l->first[our + 1] - begin, first);
    sy_transfer_receipt none = {0};
    for (int64_t done = 0, m = 0; done < n; done += m, link++) {
        const sy__lora_change *c = &l->change[link->their];
        const int64_t rest = link->our_first + link->n - first - done;
        const int64_t at = link->their_first + first + done - link->our_first;
        m = n - done < rest ? n - done : rest;
        if (c->whole != NULL) {
            SY_TRY(sy__convert_counted(c->whole->name, SY_F64, h_sum + done, c->whole->dtype,
                                       (const char *)c->whole->data +
                                           at * (int64_t)sy_dtype_bytes(c->whole->dtype),
                                       m, 1 / link->scale, &none));
        }
        if (c->a != NULL) {
            SY_TRY(add_delta(l, c, &l->map.their[link->their], at, m, c->scale / link->scale,
                             h_sum + done));
        }
    }
cleanup:
    return st;
}

static sy_status lora_read(sy_source *s, int32_t tensor, int64_t first, int64_t n, sy_dtype dtype,
                           void *h_to)
{
    sy_status st = SY_OK;
    sy__lora *l = s->self;
    const sy_dtype own = s->tensor[tensor].dtype;
    const int32_t under = base_tensor(s, tensor);
    if (is_factor(l, tensor)) {
        sy__lora_read_factor(s, tensor, first, n, dtype, h_to);
        return SY_OK;
    }
    if (!is_changed(l, tensor)) {
        return sy_source_read(l->base, under, first, n, dtype, h_to);
    }
    for (int64_t done = 0, m = 0; done < n; done += m) {
        m = n - done < BLOCK ? n - done : BLOCK;
        SY_TRY(sy_source_read(l->base, under, first + done, m, SY_F64, l->sum));
        SY_TRY(apply(l, l->our[tensor], first + done, m, l->sum));
        sy_convert(own, l->rounded, SY_F64, l->sum, m);
        sy_convert(dtype, (char *)h_to + done * (int64_t)sy_dtype_bytes(dtype), own, l->rounded, m);
    }
cleanup:
    return st;
}

static sy_status lora_get(sy_source *s, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                          const void **h_out)
{
    sy__lora *l = s->self;
    if (!is_factor(l, tensor) && !is_changed(l, tensor)) {
        return sy_source_get(l->base, base_tensor(s, tensor), first, n, h_buf, h_out);
    }
    *h_out = h_buf;
    return lora_read(s, tensor, first, n, s->tensor[tensor].dtype, h_buf);
}

const struct sy_source_vt sy__source_lora = {lora_open, lora_bind, lora_get, lora_read, lora_close};
