/* Which element of which of their tensors is which element of ours. Our side is what the decoder
   declares; their side follows from the tables of names. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "moe/decoder.h"
#include "upcycle/hf_impl.h"

enum { MAX_PARTS = 1 << 20 }; /* tensors of theirs, or links: some 200 MB */

/* 2^-30: its sigmoid of anything sane is 1/2 to the last bit, and never of exactly 0, which one
   loader divides by. */
static const double half_gate = 0x1p-30;

static const struct {
    const char *name;
    sy__hf_slot slot;
} our_names[] = {
    {"attn_norm", SY__HF_ATTN_NORM},
    {"attn/q", SY__HF_Q},
    {"attn/k", SY__HF_K},
    {"attn/v", SY__HF_V},
    {"attn/q_bias", SY__HF_Q_BIAS},
    {"attn/k_bias", SY__HF_K_BIAS},
    {"attn/v_bias", SY__HF_V_BIAS},
    {"attn/o", SY__HF_O},
    {"attn/q_norm", SY__HF_Q_NORM},
    {"attn/k_norm", SY__HF_K_NORM},
    {"attn/q_a", SY__HF_Q_A},
    {"attn/q_a_norm", SY__HF_Q_A_NORM},
    {"attn/q_b", SY__HF_Q_B},
    {"attn/kv_a", SY__HF_KV_A},
    {"attn/kv_a_norm", SY__HF_KV_A_NORM},
    {"attn/kv_b", SY__HF_KV_B},
    {"ffn_norm", SY__HF_FFN_NORM},
    {"mlp/gate", SY__HF_GATE},
    {"mlp/up", SY__HF_UP},
    {"mlp/down", SY__HF_DOWN},
    {"moe/router", SY__HF_ROUTER},
    {"moe/bias", SY__HF_ROUTER_BIAS},
    {"moe/experts/gate", SY__HF_EXPERT_GATE},
    {"moe/experts/up", SY__HF_EXPERT_UP},
    {"moe/experts/down", SY__HF_EXPERT_DOWN},
    {"moe/shared/gate", SY__HF_SHARED_GATE},
    {"moe/shared/up", SY__HF_SHARED_UP},
    {"moe/shared/down", SY__HF_SHARED_DOWN},
    {"moe/shared/router", SY__HF_SHARED_ROUTER},
    {"mtp/embed_norm", SY__HF_MTP_EMBED_NORM},
    {"mtp/hidden_norm", SY__HF_MTP_HIDDEN_NORM},
    {"mtp/proj", SY__HF_MTP_PROJ},
};

/* The tensors of one layer: index into the map's, -1 where there is none. */
typedef struct layer {
    int32_t at[SY__HF_N_SLOTS];
} layer;

typedef struct builder {
    const sy__hf_arch *arch;
    const sy_model_config *model;
    const sy_moe_config *moe;
    sy_hf_map map;
    int32_t embed, norm, head; /* of ours; head -1 where embeddings are tied */
    layer *layer;              /* [sy_model_blocks] */
    int32_t their_max, links_max;
} builder;

static int64_t numel(const sy_hf_tensor *t)
{
    int64_t n = 1;
    for (int32_t d = 0; d < t->n_dim; d++) {
        n *= t->shape[d];
    }
    return n;
}

/* ---- our side ---- */

static sy_status place_block(builder *b, const char *name, int32_t index)
{
    int32_t number = 0, used = 0;
    const int32_t n = sy_model_blocks(b->model);
    if (sscanf(name, "mtp/%3d/%n", &number, &used) == 1 && used > 0 && number >= 0 && number < n &&
        strcmp(name + used, "norm") == 0) {
        b->layer[number].at[SY__HF_MTP_NORM] = index;
        return SY_OK;
    }
    if (sscanf(name, "layers/%3d/%n", &number, &used) == 1 && used > 0 && number >= 0 &&
        number < n) {
        for (size_t i = 0; i < sizeof our_names / sizeof our_names[0]; i++) {
            if (strcmp(name + used, our_names[i].name) == 0) {
                b->layer[number].at[our_names[i].slot] = index;
                return SY_OK;
            }
        }
    }
    return sy_error(SY_ERR_INTERNAL, "parameter '%s' has no place in the maps of tensors", name);
}

static sy_status place(builder *b, int32_t index)
{
    const char *name = b->map.our[index].name;
    if (strcmp(name, "embed") == 0) {
        b->embed = index;
    } else if (strcmp(name, "norm") == 0) {
        b->norm = index;
    } else if (strcmp(name, "head") == 0) {
        b->head = index;
    } else {
        return place_block(b, name, index);
    }
    return SY_OK;
}

static sy_status add_ours(builder *b, const sy_param_spec *s, const sy_piece *piece)
{
    sy_status st = SY_OK;
    sy_hf_tensor *t = &b->map.our[b->map.n_our];
    SY_REQUIRE(s->n_dim <= SY_HF_DIM, SY_ERR_INTERNAL, "parameter '%s' has %d dimensions", s->name,
               s->n_dim);
    snprintf(t->name, sizeof t->name, "%s", piece != NULL ? piece->name : s->name);
    t->n_dim = s->n_dim;
    t->wide = s->wide;
    for (int32_t d = 0; d < s->n_dim; d++) {
        t->shape[d] = piece != NULL && d == s->piece_dim ? piece->extent : s->shape_glb[d];
    }
    SY_TRY(place(b, b->map.n_our));
    b->map.n_our++;
cleanup:
    return st;
}

static sy_status list_ours(builder *b, const sy_params *params)
{
    sy_status st = SY_OK;
    int64_t n = 0;
    for (int32_t i = 0; i < params->n; i++) {
        n += params->param[i]->spec.n_pieces > 0 ? params->param[i]->spec.n_pieces : 1;
    }
    SY_TRY(sy_alloc(n, sizeof *b->map.our, (void **)&b->map.our));
    const int32_t n_blocks = sy_model_blocks(b->model);
    SY_TRY(sy_alloc(n_blocks, sizeof *b->layer, (void **)&b->layer));
    memset(b->layer, 0xff, (size_t)n_blocks * sizeof *b->layer); /* -1 */
    b->embed = b->norm = b->head = -1;
    for (int32_t i = 0; i < params->n; i++) {
        const sy_param_spec *s = &params->param[i]->spec;
        for (int32_t k = 0; k < s->n_pieces; k++) {
            SY_TRY(add_ours(b, s, &s->piece[k]));
        }
        if (s->n_pieces == 0) {
            SY_TRY(add_ours(b, s, NULL));
        }
    }
cleanup:
    return st;
}

static sy_status declare_ours(builder *b)
{
    sy_status st = SY_OK;
    sy_model *model = NULL;
    sy_params *params = NULL;
    SY_TRY(sy_decoder_create(b->model, b->moe, &model, &params));
    SY_TRY(list_ours(b, params));
cleanup:
    sy_params_destroy(&params);
    sy_model_destroy(&model);
    return st;
}

/* ---- their side ---- */

static sy_status grow(const builder *b, void **array, size_t elem_bytes, int32_t n, int32_t *n_max)
{
    sy_status st = SY_OK;
    SY_REQUIRE(n < MAX_PARTS, SY_ERR_USAGE,
               "%s: %d layers with %d experts are more than %d tensors", b->arch->name,
               b->model->layers, b->moe->experts, MAX_PARTS);
    if (n == *n_max) {
        int32_t more = n == 0 ? 64 : 2 * n;
        SY_TRY(sy_realloc(more, elem_bytes, array));
        *n_max = more;
    }
cleanup:
    return st;
}

/* prefix and name, a '*' in which becomes the expert's number. */
static sy_status add_theirs(builder *b, int32_t number, const char *name, int64_t expert,
                            sy_hf_tensor shape)
{
    sy_status st = SY_OK;
    const char *star = strchr(name, '*');
    char prefix[32] = "";
    SY_TRY(grow(b, (void **)&b->map.their, sizeof *b->map.their, b->map.n_their, &b->their_max));
    sy_hf_tensor *t = &b->map.their[b->map.n_their++];
    if (number >= 0) {
        snprintf(prefix, sizeof prefix, "model.layers.%d.", number);
    }
    *t = shape;
    t->wide = false;
    if (star == NULL) {
        snprintf(t->name, sizeof t->name, "%s%s", prefix, name);
    } else {
        snprintf(t->name, sizeof t->name, "%s%.*s%" PRId64 "%s", prefix, (int)(star - name), name,
                 expert, star + 1);
    }
cleanup:
    return st;
}

/* Into the tensor that was added last. */
static sy_status add_link(builder *b, sy_hf_link link)
{
    sy_status st = SY_OK;
    SY_TRY(grow(b, (void **)&b->map.link, sizeof *b->map.link, b->map.n_links, &b->links_max));
    link.their = b->map.n_their - 1;
    b->map.link[b->map.n_links++] = link;
cleanup:
    return st;
}

/* Factors that change no number of the model: see hf_fit.c. */
static double scale_of(const builder *b, sy__hf_slot slot)
{
    if (slot == SY__HF_EXPERT_DOWN) {
        return b->arch->latent ? 1 : b->moe->routed_scale; /* DeepSeek has a key for it */
    }
    bool halved = b->arch->shared == SY__HF_SHARED_GATED && !b->moe->shared_gate;
    return slot == SY__HF_SHARED_DOWN && halved ? 2 : 1;
}

static sy_status add_per_expert(builder *b, int32_t number, const sy__hf_name *name, int32_t our)
{
    sy_status st = SY_OK;
    const sy_hf_tensor *t = &b->map.our[our];
    const sy_hf_tensor shape = {.n_dim = 2, .shape = {t->shape[1], t->shape[2]}};
    const int64_t n = numel(&shape);
    for (int64_t e = 0; e < t->shape[0]; e++) {
        SY_TRY(add_theirs(b, number, name->name, e, shape));
        SY_TRY(add_link(
            b, (sy_hf_link){
                   .our = our, .our_first = e * n, .n = n, .scale = scale_of(b, name->slot)}));
    }
cleanup:
    return st;
}

static sy_status add_whole(builder *b, int32_t number, const char *name, int32_t our, double scale)
{
    sy_status st = SY_OK;
    SY_TRY(add_theirs(b, number, name, 0, b->map.our[our]));
    SY_TRY(add_link(b, (sy_hf_link){.our = our, .n = numel(&b->map.our[our]), .scale = scale}));
cleanup:
    return st;
}

/* Two matrices one below the other, of each expert or alone. */
static sy_status add_pair(builder *b, int32_t number, const sy__hf_name *name, int32_t first,
                          int32_t second)
{
    sy_status st = SY_OK;
    sy_hf_tensor shape = b->map.our[first];
    const int64_t lead = shape.n_dim == 3 ? shape.shape[0] : 1, n = numel(&shape) / lead;
    shape.shape[shape.n_dim - 2] *= 2;
    SY_TRY(add_theirs(b, number, name->name, 0, shape));
    for (int64_t e = 0; e < lead; e++) {
        SY_TRY(add_link(
            b,
            (sy_hf_link){
                .our = first, .our_first = e * n, .their_first = 2 * e * n, .n = n, .scale = 1}));
        SY_TRY(add_link(b, (sy_hf_link){.our = second,
                                        .our_first = e * n,
                                        .their_first = (2 * e + 1) * n,
                                        .n = n,
                                        .scale = 1}));
    }
cleanup:
    return st;
}

/* The shape of a tensor that is theirs alone; n_dim 0: they have none either. */
static sy_hf_tensor missing(const builder *b, const layer *at, sy__hf_slot slot)
{
    const int64_t H = b->model->hidden, W = SY__HF_NO_SHARED_WIDTH;
    if (slot >= SY__HF_Q_BIAS && slot <= SY__HF_V_BIAS && b->arch->has_bias) {
        int32_t weight = at->at[slot - SY__HF_Q_BIAS + SY__HF_Q];
        return (sy_hf_tensor){.n_dim = 1, .shape = {b->map.our[weight].shape[0]}};
    }
    if (slot == SY__HF_ROUTER_BIAS) {
        return (sy_hf_tensor){.n_dim = b->arch->router_bias ? 1 : 0, .shape = {b->moe->experts}};
    }
    if (slot >= SY__HF_SHARED_GATE && b->arch->shared == SY__HF_SHARED_GATED) {
        bool down = slot == SY__HF_SHARED_DOWN;
        int64_t rows = slot == SY__HF_SHARED_ROUTER ? 1 : W;
        return (sy_hf_tensor){.n_dim = 2, .shape = {down ? H : rows, down ? W : H}};
    }
    return (sy_hf_tensor){0};
}

static sy_status add_missing(builder *b, int32_t number, const sy__hf_name *name)
{
    sy_status st = SY_OK;
    const sy_hf_tensor shape = missing(b, &b->layer[number], name->slot);
    if (shape.n_dim > 0) {
        SY_TRY(add_theirs(b, number, name->name, 0, shape));
        SY_TRY(
            add_link(b, (sy_hf_link){.our = -1,
                                     .n = numel(&shape),
                                     .scale = 1,
                                     .fill = name->slot == SY__HF_SHARED_ROUTER ? half_gate : 0}));
    }
cleanup:
    return st;
}

static sy_status add_names(builder *b, int32_t number, const sy__hf_name *names)
{
    sy_status st = SY_OK;
    const layer *at = &b->layer[number];
    for (const sy__hf_name *name = names; name->name != NULL; name++) {
        int32_t our = at->at[name->slot];
        if (our < 0) {
            SY_TRY(add_missing(b, number, name));
        } else if (name->second != SY__HF_NO_SLOT) {
            SY_TRY(add_pair(b, number, name, our, at->at[name->second]));
        } else if (strchr(name->name, '*') != NULL) {
            SY_TRY(add_per_expert(b, number, name, our));
        } else {
            SY_TRY(add_whole(b, number, name->name, our, scale_of(b, name->slot)));
        }
    }
cleanup:
    return st;
}

/* Of a block that predicts further tokens. */
static sy_status add_copies(builder *b, int32_t number)
{
    sy_status st = SY_OK;
    const int32_t head = b->head >= 0 ? b->head : b->embed;
    SY_TRY(add_whole(b, number, SY__HF_MTP_EMBED, b->embed, 1));
    b->map.link[b->map.n_links - 1].copy = true;
    SY_TRY(add_whole(b, number, SY__HF_MTP_HEAD, head, 1));
    b->map.link[b->map.n_links - 1].copy = true;
cleanup:
    return st;
}

static sy_status list_theirs(builder *b, sy_hf_form form)
{
    sy_status st = SY_OK;
    SY_TRY(add_whole(b, -1, "model.embed_tokens.weight", b->embed, 1));
    for (int32_t i = 0; i < sy_model_blocks(b->model); i++) {
        SY_TRY(add_names(b, i, sy__hf_block_names));
        if (b->layer[i].at[SY__HF_ROUTER] >= 0) {
            SY_TRY(add_names(b, i, b->arch->moe_names[form]));
        }
        if (b->layer[i].at[SY__HF_MTP_NORM] >= 0) {
            SY_TRY(add_copies(b, i));
        }
    }
    SY_TRY(add_whole(b, -1, "model.norm.weight", b->norm, 1));
    if (b->head >= 0) {
        SY_TRY(add_whole(b, -1, "lm_head.weight", b->head, 1));
    }
cleanup:
    return st;
}

/* ---- every element once ---- */

static int compare(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static int by_theirs(const void *a, const void *b)
{
    const sy_hf_link *x = a, *y = b;
    return x->their != y->their ? compare(x->their, y->their)
                                : compare(x->their_first, y->their_first);
}

static bool is_extra(const sy_hf_link *link)
{
    return link->our < 0 || link->copy;
}

/* Fills and copies last. */
static int by_ours(const void *a, const void *b)
{
    const sy_hf_link *x = a, *y = b;
    int64_t i = is_extra(x) ? INT32_MAX : x->our, k = is_extra(y) ? INT32_MAX : y->our;
    return i != k ? compare(i, k)
                  : (i == INT32_MAX ? by_theirs(a, b) : compare(x->our_first, y->our_first));
}

/* Do the links, in order, run through every tensor from end to end? */
static sy_status check_cover(const sy_hf_map *map, bool ours)
{
    sy_status st = SY_OK;
    const sy_hf_tensor *tensor = ours ? map->our : map->their;
    int32_t n = ours ? map->n_our : map->n_their, k = 0;
    for (int32_t i = 0; i < n; i++) {
        int64_t at = 0;
        for (; k < map->n_links; k++) {
            const sy_hf_link *link = &map->link[k];
            if ((ours ? link->our : link->their) != i || (ours && link->copy) ||
                (ours ? link->our_first : link->their_first) != at) {
                break;
            }
            at += link->n;
        }
        SY_REQUIRE(at == numel(&tensor[i]), SY_ERR_INTERNAL,
                   "tensor '%s': %" PRId64 " of %" PRId64 " elements are mapped", tensor[i].name,
                   at, numel(&tensor[i]));
    }
    SY_REQUIRE(k == map->n_links || (ours && is_extra(&map->link[k])), SY_ERR_INTERNAL,
               "a link of tensors leads nowhere");
cleanup:
    return st;
}

static sy_status finish(sy_hf_map *map)
{
    sy_status st = SY_OK;
    qsort(map->link, (size_t)map->n_links, sizeof *map->link, by_theirs);
    SY_TRY(check_cover(map, false));
    qsort(map->link, (size_t)map->n_links, sizeof *map->link, by_ours);
    SY_TRY(check_cover(map, true));
cleanup:
    return st;
}

sy_status sy_hf_map_create(sy_hf_arch arch, sy_hf_form form, const sy_model_config *model,
                           const sy_moe_config *moe, sy_hf_map *out)
{
    sy_status st = SY_OK;
    builder b = {.arch = sy__hf_arch_at(arch), .model = model, .moe = moe};
    SY_TRY(sy_hf_can_hold(arch, model, moe));
    SY_TRY(declare_ours(&b));
    SY_TRY(list_theirs(&b, form));
    SY_TRY(finish(&b.map));
    *out = b.map;
    b.map = (sy_hf_map){0};
cleanup:
    sy_hf_map_free(&b.map);
    sy_free(&b.layer);
    return st;
}

void sy_hf_map_free(sy_hf_map *map)
{
    sy_free(&map->link);
    sy_free(&map->their);
    sy_free(&map->our);
    *map = (sy_hf_map){0};
}
