/* The parameter table before it is bound: declarations, freezing, look-up; and the geometry of
   pieces. */
#include "parallel/param_impl.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend/nf4.h"
#include "core/alloc.h"
#include "core/config.h"

sy_status sy_params_create(sy_params **out)
{
    return sy_alloc(1, sizeof **out, (void **)out);
}

void sy_params_destroy(sy_params **params)
{
    sy_params *p = *params;
    if (p) {
        sy__params_release(p);
        for (int32_t i = 0; i < p->n; i++) {
            sy_free(&p->param[i]);
        }
        sy_free(&p->param);
        sy_free(params);
    }
}

/* ---- pieces ---- */

int32_t sy__param_n_pieces(const sy_param *param)
{
    return param->spec.n_pieces > 0 ? param->spec.n_pieces : 1;
}

const char *sy__piece_name(const sy_param *param, int32_t piece)
{
    return param->spec.n_pieces > 0 ? param->spec.piece[piece].name : param->spec.name;
}

void sy__piece_shape(const sy_param *param, int32_t piece, int64_t *shape_glb)
{
    memcpy(shape_glb, param->spec.shape_glb, sizeof param->spec.shape_glb);
    if (param->spec.n_pieces > 0) {
        shape_glb[param->spec.piece_dim] = param->spec.piece[piece].extent;
    }
}

static int64_t product(const int64_t *shape, int32_t first, int32_t end)
{
    int64_t n = 1;
    for (int32_t d = first; d < end; d++) {
        n *= shape[d];
    }
    return n;
}

int64_t sy__param_n_runs(const sy_param *param)
{
    return param->spec.n_pieces > 0 ? product(param->box.shape, 0, param->spec.piece_dim) : 1;
}

sy__run sy__piece_run(const sy_param *param, int32_t piece, int64_t k)
{
    const sy_param_spec *s = &param->spec;
    if (s->n_pieces == 0) {
        return (sy__run){.at = 0,
                         .index = sy_box_offset(&param->box, s->shape_glb),
                         .n = sy_box_numel(&param->box)};
    }
    int64_t inner = product(s->shape_glb, s->piece_dim + 1, s->n_dim), before = 0;
    for (int32_t i = 0; i < piece; i++) {
        before += s->piece[i].extent;
    }
    /* Only dimension 0 is ever sharded, and never the one that is cut into pieces. */
    int64_t k_glb = k + param->box.start[0] * product(s->shape_glb, 1, s->piece_dim);
    return (sy__run){.at = (k * s->shape_glb[s->piece_dim] + before) * inner,
                     .index = k_glb * s->piece[piece].extent * inner,
                     .n = s->piece[piece].extent * inner};
}

/* ---- declaration ---- */

static bool is_name(const char *name)
{
    size_t n = strnlen(name, SY_PARAM_NAME);
    return n > 0 && n < SY_PARAM_NAME;
}

static sy_status check_pieces(const sy_param_spec *s)
{
    sy_status st = SY_OK;
    int64_t sum = 0;
    SY_REQUIRE(s->n_pieces >= 0 && s->n_pieces <= SY_MAX_PIECES, SY_ERR_INTERNAL,
               "parameter '%s': %d pieces", s->name, s->n_pieces);
    if (s->n_pieces == 0) {
        goto cleanup;
    }
    SY_REQUIRE(s->piece_dim >= 0 && s->piece_dim < s->n_dim && s->piece_dim != s->shard_dim,
               SY_ERR_INTERNAL, "parameter '%s': cannot be cut along dimension %d", s->name,
               s->piece_dim);
    for (int32_t i = 0; i < s->n_pieces; i++) {
        SY_REQUIRE(is_name(s->piece[i].name) && s->piece[i].extent > 0, SY_ERR_INTERNAL,
                   "parameter '%s': piece %d has no name or no extent", s->name, i);
        sum += s->piece[i].extent;
    }
    SY_REQUIRE(sum == s->shape_glb[s->piece_dim], SY_ERR_INTERNAL,
               "parameter '%s': its pieces add up to %" PRId64 ", dimension %d has %" PRId64,
               s->name, sum, s->piece_dim, s->shape_glb[s->piece_dim]);
cleanup:
    return st;
}

static sy_status check_spec(const sy_param_spec *s)
{
    sy_status st = SY_OK;
    int64_t numel = 0;
    SY_REQUIRE(is_name(s->name), SY_ERR_INTERNAL, "a parameter's name is empty or too long");
    SY_REQUIRE(s->n_dim >= 1 && s->n_dim <= SY_MAX_DIM, SY_ERR_INTERNAL,
               "parameter '%s' has %d dimensions", s->name, s->n_dim);
    for (int32_t d = 0; d < s->n_dim; d++) {
        SY_REQUIRE(s->shape_glb[d] > 0, SY_ERR_INTERNAL, "parameter '%s': dimension %d is %" PRId64,
                   s->name, d, s->shape_glb[d]);
    }
    SY_TRY(sy_size_product(s->shape_glb, s->n_dim, &numel));
    SY_REQUIRE(s->shard_dim == -1 || (s->shard_dim == 0 && s->shard_by == SY_EP), SY_ERR_INTERNAL,
               "parameter '%s': only dimension 0 can be sharded, over ep", s->name);
    SY_REQUIRE(s->replicas >= 0 && s->replicas < SY_N_GROUPS, SY_ERR_INTERNAL,
               "parameter '%s': no such group of replicas", s->name);
    SY_TRY(check_pieces(s));
cleanup:
    return st;
}

/* Is the name taken, as a parameter's or as a piece's? */
static bool is_taken(const sy_params *params, const char *name)
{
    for (int32_t i = 0; i < params->n; i++) {
        const sy_param *p = params->param[i];
        if (strcmp(p->spec.name, name) == 0) {
            return true;
        }
        for (int32_t k = 0; k < p->spec.n_pieces; k++) {
            if (strcmp(p->spec.piece[k].name, name) == 0) {
                return true;
            }
        }
    }
    return false;
}

static sy_status check_names(const sy_params *params, const sy_param_spec *s)
{
    sy_status st = SY_OK;
    SY_REQUIRE(!is_taken(params, s->name), SY_ERR_INTERNAL, "parameter '%s' is declared twice",
               s->name);
    for (int32_t i = 0; i < s->n_pieces; i++) {
        bool again = is_taken(params, s->piece[i].name);
        for (int32_t k = 0; k < i; k++) {
            again = again || strcmp(s->piece[i].name, s->piece[k].name) == 0;
        }
        SY_REQUIRE(!again, SY_ERR_INTERNAL, "piece '%s' of parameter '%s' is declared twice",
                   s->piece[i].name, s->name);
    }
cleanup:
    return st;
}

sy_param_spec sy_param_matrix(int64_t rows, int64_t columns, double init_std, const char *name, ...)
{
    va_list args;
    sy_param_spec spec = {.n_dim = 2,
                          .shape_glb = {rows, columns},
                          .shard_dim = -1,
                          .replicas = SY_DENSE,
                          .init = SY_INIT_NORMAL,
                          .init_std = init_std,
                          .trainable = true,
                          .decay = true};
    va_start(args, name);
    vsnprintf(spec.name, sizeof spec.name, name, args);
    va_end(args);
    return spec;
}

sy_param_spec sy_param_vector(int64_t n, sy_init init, const char *name, ...)
{
    va_list args;
    sy_param_spec spec = {.n_dim = 1,
                          .shape_glb = {n},
                          .shard_dim = -1,
                          .replicas = SY_DENSE,
                          .init = init,
                          .trainable = true};
    va_start(args, name);
    vsnprintf(spec.name, sizeof spec.name, name, args);
    va_end(args);
    return spec;
}

sy_status sy_params_declare(sy_params *params, const sy_param_spec *spec, sy_param **out)
{
    sy_status st = SY_OK;
    sy_param *p = NULL;
    SY_REQUIRE(!params->mesh, SY_ERR_INTERNAL, "parameter '%s' is declared after bind", spec->name);
    SY_TRY(check_spec(spec));
    SY_TRY(check_names(params, spec));
    SY_TRY(sy_alloc(1, sizeof *p, (void **)&p));
    SY_TRY(sy_realloc(params->n + 1, sizeof *params->param, (void **)&params->param));
    p->spec = *spec;
    p->index = params->n;
    p->box.n_dim = spec->n_dim;
    memcpy(p->box.shape, spec->shape_glb, sizeof p->box.shape);
    p->segment = -1;
    params->param[params->n++] = p;
    *out = p;
    p = NULL;
cleanup:
    sy_free(&p);
    return st;
}

sy_param *sy_params_find(const sy_params *params, const char *name)
{
    for (int32_t i = 0; i < params->n; i++) {
        if (strcmp(params->param[i]->spec.name, name) == 0) {
            return params->param[i];
        }
    }
    return NULL;
}

/* Elements, less those beyond the widths of matrices of different size. */
int64_t sy_param_count(const sy_param_spec *s)
{
    const int64_t n = product(s->shape_glb, 0, s->n_dim);
    const int64_t extent = s->n_pieces > 0 ? s->piece[0].extent : s->shape_glb[s->width_dim];
    int64_t used = 0;
    for (int64_t i = 0; s->width != NULL && i < s->shape_glb[0]; i++) {
        used += s->width[i];
    }
    if (s->packed_columns > 0) {
        return n / sy_nf4_row_bytes(s->packed_columns) * s->packed_columns;
    }
    return s->width == NULL ? n : n / (s->shape_glb[0] * extent) * used;
}

int64_t sy_params_count(const sy_params *params, bool trainable_only)
{
    int64_t n = 0;
    for (int32_t i = 0; i < params->n; i++) {
        const sy_param_spec *s = &params->param[i]->spec;
        if (s->trainable || !trainable_only) {
            n += sy_param_count(s);
        }
    }
    return n;
}

/* ---- freezing ---- */

/* names [n_names] of all pieces, in order of declaration. */
static sy_status list_piece_names(const sy_params *params, const char ***names, int32_t *n_names)
{
    sy_status st = SY_OK;
    const char **list = NULL;
    int32_t n = 0;
    SY_TRY(sy_alloc((int64_t)params->n * SY_MAX_PIECES, sizeof *list, (void **)&list));
    for (int32_t i = 0; i < params->n; i++) {
        for (int32_t k = 0; k < sy__param_n_pieces(params->param[i]); k++) {
            list[n++] = sy__piece_name(params->param[i], k);
        }
    }
    *names = list;
    *n_names = n;
cleanup:
    return st;
}

static sy_status match_pattern(const char *pattern, const char *const *names, int32_t n_names,
                               bool *frozen)
{
    sy_status st = SY_OK;
    int32_t n_matches = 0;
    for (int32_t i = 0; i < n_names; i++) {
        if (fnmatch(pattern, names[i], 0) == 0) {
            frozen[i] = true;
            n_matches++;
        }
    }
    if (n_matches == 0) {
        const char *nearest = sy_nearest_name(pattern, names, n_names);
        st = sy_error(SY_ERR_USAGE, "train.freeze: no parameter matches '%s'%s%s%s", pattern,
                      nearest ? " (did you mean '" : "", nearest ? nearest : "",
                      nearest ? "'?)" : "");
    }
    return st;
}

/* frozen [n_pieces]: one matrix trains as a whole or not at all. */
static sy_status check_whole(const sy_param *p, const bool *frozen)
{
    sy_status st = SY_OK;
    for (int32_t k = 1; k < sy__param_n_pieces(p); k++) {
        int32_t in = frozen[k] ? k : 0, free = frozen[k] ? 0 : k;
        SY_REQUIRE(frozen[k] == frozen[0], SY_ERR_USAGE,
                   "train.freeze: '%s' would be frozen but '%s' not, and they are one matrix in "
                   "memory; freeze all of its parts or none",
                   sy__piece_name(p, in), sy__piece_name(p, free));
    }
cleanup:
    return st;
}

sy_status sy_params_freeze(sy_params *params, const char *const *patterns, int32_t n_patterns)
{
    sy_status st = SY_OK;
    const char **names = NULL;
    bool *frozen = NULL;
    int32_t n_names = 0;
    SY_REQUIRE(!params->mesh, SY_ERR_INTERNAL, "parameters are frozen after bind");
    SY_TRY(list_piece_names(params, &names, &n_names));
    SY_TRY(sy_alloc(n_names, sizeof *frozen, (void **)&frozen));
    for (int32_t i = 0; i < n_patterns; i++) {
        SY_TRY(match_pattern(patterns[i], names, n_names, frozen));
    }
    for (int32_t i = 0, at = 0; i < params->n; at += sy__param_n_pieces(params->param[i++])) {
        SY_TRY(check_whole(params->param[i], frozen + at));
    }
    for (int32_t i = 0, at = 0; i < params->n; at += sy__param_n_pieces(params->param[i++])) {
        params->param[i]->spec.trainable = params->param[i]->spec.trainable && !frozen[at];
    }
cleanup:
    sy_free(&frozen);
    sy_free(&names);
    return st;
}
