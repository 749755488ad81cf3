/* The receipt as JSON. jansson's objects keep the order in which they were filled. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "launch/receipt.h"

enum { DIGITS = 9 };

static json_t *real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *text(const char *s)
{
    json_t *json = json_string(s);
    return json != NULL ? json : json_string("?"); /* no UTF-8 */
}

/* ---- where each tensor of a source went ---- */

/* The experts of one tensor of the new model that are made of a source. */
static json_t *experts_json(const sy_receipt *r, int64_t first, int32_t tensor, int32_t source)
{
    json_t *expert = json_array(), *cosine = json_array(), *predicted = json_array();
    for (int64_t k = first; k < r->n_parts && r->part[k].tensor == tensor; k++) {
        if (r->part[k].source == source) {
            json_array_append_new(expert, json_integer(r->part[k].expert));
            json_array_append_new(cosine, real(r->part[k].cosine));
            json_array_append_new(predicted, real(r->part[k].predicted));
        }
    }
    return json_pack("{s:s, s:o, s:o, s:o}", "tensor",
                     sy_recipe_plan(r->recipe)->tensor[tensor].name, "experts", expert, "cosine",
                     cosine, "predicted", predicted);
}

static json_t *part_json(const sy_receipt *r, int64_t k, int32_t source)
{
    const sy_receipt_part *part = &r->part[k];
    const char *name = sy_recipe_plan(r->recipe)->tensor[part->tensor].name;
    if (part->expert >= 0) {
        return experts_json(r, k, part->tensor, source);
    }
    return json_pack("{s:s, s:s}", "tensor", name, "as", part->source < 0 ? "mean" : "copy");
}

static bool has_part_of(const sy_receipt *r, int64_t k, int32_t source)
{
    bool found = false;
    const int32_t tensor = r->part[k].tensor;
    for (; !found && k < r->n_parts && r->part[k].tensor == tensor; k++) {
        found = r->part[k].source == source || r->part[k].source == -1;
    }
    return found;
}

/* List each part of the new model, the first of a tensor's experts for all of them, with the tensor
   it is made of. */
static void fill_destinations(const sy_receipt *r, int32_t source, json_t *const *to)
{
    for (int64_t k = 0; k < r->n_parts; k++) {
        const int32_t tensor = r->part[k].tensor;
        const int32_t from = sy_recipe_origin_of(r->recipe, tensor, source).tensor;
        if (from >= 0 && r->part[k].expert <= 0 && has_part_of(r, k, source)) {
            json_array_append_new(to[from], part_json(r, k, source));
        }
    }
}

static json_t *tensor_json(const sy_receipt *r, int32_t source, int32_t tensor, json_t *to)
{
    const sy_source_tensor *t = &r->spec->source[source]->tensor[tensor];
    json_t *shape = json_array();
    char digest[24];
    for (int32_t d = 0; d < t->n_dim; d++) {
        json_array_append_new(shape, json_integer(t->shape[d]));
    }
    snprintf(digest, sizeof digest, "%016" PRIx64, r->digest[source][tensor]);
    return json_pack("{s:s, s:s, s:o, s:s, s:o}", "name", t->name, "dtype", sy_dtype_name(t->dtype),
                     "shape", shape, "xxh3_64", digest, "to", to);
}

static sy_status source_json(const sy_receipt *r, int32_t s, json_t **out)
{
    sy_status st = SY_OK;
    const sy_source *source = r->spec->source[s];
    json_t *tensors = json_array(), **to = NULL;
    SY_TRY(sy_alloc(source->n_tensors, sizeof(json_t *), (void **)&to));
    for (int32_t i = 0; i < source->n_tensors; i++) {
        to[i] = json_array();
    }
    fill_destinations(r, s, to);
    for (int32_t i = 0; i < source->n_tensors; i++) {
        json_array_append_new(tensors, tensor_json(r, s, i, to[i]));
    }
    *out = json_pack("{s:o, s:s, s:I, s:O}", "path", text(source->path), "form", source->form,
                     "step", (json_int_t)source->step, "tensors", tensors);
    if (source->base != NULL) {
        json_object_set_new(*out, "base", text(source->base));
    }
cleanup:
    json_decref(tensors);
    sy_free(&to);
    return st;
}

static sy_status sources_json(const sy_receipt *r, json_t *all)
{
    sy_status st = SY_OK;
    json_t *sources = json_array();
    for (int32_t s = 0; s < r->spec->n_sources; s++) {
        json_t *one = NULL;
        SY_TRY(source_json(r, s, &one));
        json_array_append_new(sources, one);
    }
    json_object_set(all, "sources", sources);
cleanup:
    json_decref(sources);
    return st;
}

/* ---- the rest ---- */

static json_t *drawn_json(const sy_receipt *r)
{
    json_t *drawn = json_array();
    for (int64_t k = 0; k < r->n_parts; k++) {
        if (r->part[k].source == -2) {
            json_array_append_new(
                drawn, json_string(sy_recipe_plan(r->recipe)->tensor[r->part[k].tensor].name));
        }
    }
    return drawn;
}

static json_t *pairs_json(const sy_receipt *r)
{
    const int64_t n = r->spec->n_sources;
    json_t *pairs = json_array();
    for (int32_t k = 0; r->pair != NULL && k < r->n_ffn; k++) {
        json_t *rows = json_array();
        for (int64_t a = 0; a < n; a++) {
            json_t *row = json_array();
            for (int64_t b = 0; b < n; b++) {
                json_array_append_new(row, real(r->pair[(k * n + a) * n + b]));
            }
            json_array_append_new(rows, row);
        }
        json_array_append_new(pairs, json_pack("{s:s, s:o}", "tensor",
                                               r->spec->source[0]->tensor[r->ffn[k]].name, "cosine",
                                               rows));
    }
    return pairs;
}

static json_t *gap_json(const sy_grow *g, const sy_compare_gap *gap)
{
    const bool bound = g->proof.preserves;
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "compute", sy_dtype_name(gap->compute),
                     "bound", bound ? real(sy_grow_tolerance(gap)) : json_null(), "logits",
                     real(gap->logits_abs), "logits_relative", real(gap->logits_rel), "nll",
                     real(gap->nll_abs), "nll_relative", real(gap->nll_rel), "source_rounding",
                     real(gap->rounding));
}

static json_t *ratio_json(const sy_grow *g)
{
    const sy_compare_gap *gap = &g->proof.gap[0];
    if (gap->n_ratios == 0) {
        return json_null();
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:b}", "uniform_router",
                     real(sy_grow_predict_ratio(g, sy_grow_uniform_weight(g))), "predicted",
                     real(sy_grow_predict_ratio(g, gap->weight)), "measured", real(gap->ratio),
                     "least", real(gap->ratio_min), "largest", real(gap->ratio_max),
                     "largest_difference", real(gap->ratio_off), "promised", g->proof.weighs);
}

static bool is_of_function(const char *key)
{
    return strncmp(key, "model.", 6) == 0 && strcmp(key, "model.vocab_size") != 0 &&
           strcmp(key, "model.init_std") != 0;
}

sy_status sy_grow_set_anew(const sy_grow *g, char **out)
{
    return sy_config_diff(g->source_settings[0].config, g->settings.config, is_of_function, out);
}

static json_t *set_anew_json(const sy_grow *g)
{
    json_t *list = json_array();
    char *lines = NULL;
    if (sy_grow_set_anew(g, &lines) == SY_OK) {
        for (char *rest = lines, *line = strtok_r(rest, "\n", &rest); line != NULL;
             line = strtok_r(NULL, "\n", &rest)) {
            json_array_append_new(list, text(line));
        }
    }
    sy_free(&lines);
    return list;
}

static json_t *probe_json(const sy_grow *g)
{
    json_t *runs = json_array();
    for (int32_t i = 0; i < g->proof.n_gaps; i++) {
        json_array_append_new(runs, gap_json(g, &g->proof.gap[i]));
    }
    return json_pack("{s:i, s:i, s:i, s:I, s:o, s:b, s:o, s:o}", "ranks", g->env->world->size,
                     "sequences", g->proof.n_sequences, "tokens", g->proof.S, "seed",
                     (json_int_t)g->spec.seed, "set_anew", set_anew_json(g), "preserves",
                     g->proof.preserves, "runs", runs, "ffn_ratio", ratio_json(g));
}

static const char *method_name(const sy_grow *g)
{
    static const char *const upcycle[] = {"copy", "noise", "drop", "granular"};
    return strcmp(g->cli->command->name, "upcycle") == 0 ? upcycle[g->spec.method]
                                                         : sy_cli_text(g->cli, "method");
}

static json_t *texts_json(const sy_grow *g)
{
    int32_t n = 0;
    const char *const *path = sy_cli_list(g->cli, "router-data", &n);
    json_t *texts = json_array();
    for (int32_t i = 0; i < n; i++) {
        json_array_append_new(texts, text(path[i]));
    }
    return texts;
}

static json_t *method_json(const sy_grow *g)
{
    const sy_recipe_spec *s = &g->spec;
    return json_pack("{s:s, s:i, s:i, s:i, s:o, s:o, s:b, s:o, s:o, s:I}", "name", method_name(g),
                     "experts", s->moe->experts, "top_k", s->moe->top_k, "granularity",
                     s->granularity, "noise_std", real(s->noise_std), "drop_ratio",
                     real(s->drop_ratio), "shuffle", s->shuffle, "router_std", real(s->router_std),
                     "router_data", texts_json(g), "seed", (json_int_t)s->seed);
}

sy_status sy_grow_receipt_json(const sy_grow *g, char **out)
{
    sy_status st = SY_OK;
    const sy_receipt *r = g->proof.receipt;
    json_t *all =
        json_pack("{s:s, s:o}", "command", g->cli->command->name, "method", method_json(g));
    SY_TRY(sources_json(r, all));
    json_object_set_new(all, "drawn", drawn_json(r));
    json_object_set_new(all, "between_sources", pairs_json(r));
    json_object_set_new(all, "probe", probe_json(g));
    const size_t flags = JSON_COMPACT | JSON_REAL_PRECISION(DIGITS);
    const size_t n = json_dumpb(all, NULL, 0, flags);
    SY_REQUIRE(n > 0, SY_ERR_MEMORY, "the receipt cannot be written as JSON");
    SY_TRY(sy_alloc((int64_t)n + 1, 1, (void **)out));
    (void)json_dumpb(all, *out, n, flags);
cleanup:
    json_decref(all);
    return st;
}
