/* The receipt as a table: tensors of equal name in all layers are one line. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "launch/receipt.h"

enum { MAX_PAIRS = 15 };

/* ---- tensors ---- */

/* "layers/003/moe/router" -> "layers/" star "/moe/router". */
static void class_of(const char *name, char out[SY_PARAM_NAME])
{
    const size_t n = strlen("layers/"), digits = strspn(name + strnlen(name, n), "0123456789");
    if (strncmp(name, "layers/", n) == 0) {
        snprintf(out, SY_PARAM_NAME, "layers/*%s", name + n + digits);
    } else {
        snprintf(out, SY_PARAM_NAME, "%s", name);
    }
}

/* A class of tensors of the new model. */
typedef struct group {
    char name[SY_PARAM_NAME], from[SY_PARAM_NAME];
    int32_t n_tensors, n_experts, source; /* n_experts: over all layers */
    int32_t n_cosines;
    double scale, least, sum, largest;
} group;

static void add_part(const sy_receipt *r, group *g, const sy_receipt_part *part)
{
    const int32_t s = part->source > 0 ? part->source : 0;
    const sy_recipe_origin origin = sy_recipe_origin_of(r->recipe, part->tensor, s);
    const int32_t from = origin.tensor;
    g->scale = origin.scale;
    g->n_tensors += part->expert <= 0;
    g->n_experts += part->expert >= 0;
    g->source = part->source;
    if (from >= 0) {
        class_of(r->spec->source[s]->tensor[from].name, g->from);
    }
    if (isfinite(part->cosine)) {
        g->least = g->n_cosines > 0 ? fmin(g->least, part->cosine) : part->cosine;
        g->largest = g->n_cosines > 0 ? fmax(g->largest, part->cosine) : part->cosine;
        g->sum += part->cosine;
        g->n_cosines++;
    }
}

/* Of what has no source. */
static void name_origin(const sy_recipe_spec *spec, const char *name, char out[SY_PARAM_NAME])
{
    if (strstr(name, "/moe/router") == NULL) {
        snprintf(out, SY_PARAM_NAME, "zeros");
    } else if (spec->router_rows != NULL) {
        snprintf(out, SY_PARAM_NAME, "means of %d texts", spec->router_texts);
    } else {
        snprintf(out, SY_PARAM_NAME, "drawn, std %g", spec->router_std);
    }
}

static void print_group(const sy_receipt *r, const group *g)
{
    char source[SY_PARAM_NAME] = "", cosine[64] = "";
    if (g->source == -2) {
        name_origin(r->spec, g->name, source);
    } else if (g->source == -1) {
        snprintf(source, sizeof source, "mean of %d", r->spec->n_sources);
    } else if (g->source >= 0) {
        snprintf(source, sizeof source, "%s", strcmp(g->from, g->name) == 0 ? "the same" : g->from);
    }
    if (g->n_experts > 0 && g->n_cosines > 0) {
        snprintf(cosine, sizeof cosine, "%8.5f %8.5f %8.5f", g->least, g->sum / g->n_cosines,
                 g->largest);
    } else if (g->n_cosines > 0) {
        snprintf(cosine, sizeof cosine, "equal");
    }
    if (g->source >= 0 && g->scale != 1) {
        snprintf(cosine + strlen(cosine), sizeof cosine - strlen(cosine), " times %g", g->scale);
    }
    printf("  %-32s %6d  %-24s", g->name, g->n_tensors, source);
    if (g->n_experts > 0) {
        printf(" %7d  %s\n", g->n_experts / g->n_tensors, cosine);
    } else {
        printf(" %7s  %s\n", "", cosine);
    }
}

/* The parts come by name, layer after layer: each class is put together when its first tensor is
   met. */
static void print_groups(const sy_receipt *r)
{
    const sy_blueprint *plan = sy_recipe_plan(r->recipe);
    char name[SY_PARAM_NAME];
    for (int64_t first = 0; first < r->n_parts; first++) {
        group g = {.n_tensors = 0};
        bool is_first = r->part[first].expert <= 0;
        class_of(plan->tensor[r->part[first].tensor].name, g.name);
        for (int64_t k = 0; is_first && k < r->n_parts; k++) {
            class_of(plan->tensor[r->part[k].tensor].name, name);
            if (strcmp(name, g.name) == 0) {
                is_first = k >= first;
                add_part(r, &g, &r->part[k]);
            }
        }
        if (is_first) {
            print_group(r, &g);
        }
    }
}

/* ---- sources ---- */

/* The experts of a source, as a list; nothing where there are none. */
static void print_experts(const sy_grow *g, int32_t source)
{
    const char *before = "  experts ";
    for (int32_t e = 0; g->spec.expert_source != NULL && e < g->spec.moe->experts; e++) {
        if (g->spec.expert_source[e] == source) {
            printf("%s%d", before, e);
            before = ", ";
        }
    }
    if (before[0] == ',') {
        printf(" of every MoE layer: %s, step %ld\n", g->source[source]->path,
               (long)g->source[source]->step);
    }
}

static void print_sources(const sy_grow *g)
{
    const int32_t base = g->n_sources == 1 ? 0 : g->spec.base;
    const bool experts = g->spec.expert_source != NULL;
    for (int32_t s = 0; s < g->n_sources; s++) {
        print_experts(g, s);
    }
    if (base >= 0) {
        printf("  everything else: %s, step %ld\n", g->source[base]->path,
               (long)g->source[base]->step);
    } else {
        printf("  %s: the mean of %d models\n", experts ? "everything else" : "everything",
               g->n_sources);
    }
    for (int32_t s = 0; s < g->n_sources && !experts; s++) {
        printf("    %s, step %ld\n", g->source[s]->path, (long)g->source[s]->step);
    }
    if (g->proof.receipt->one_source && g->n_sources > 1) {
        printf("  the sources are equal, tensor by tensor\n");
    }
}

/* Mean over layers, gate, up and down apart. */
static void print_pair(const sy_receipt *r, int32_t a, int32_t b)
{
    static const char *const part[] = {"gate", "up", "down"};
    const int64_t n = r->spec->n_sources;
    printf("    %d and %d ", a + 1, b + 1);
    for (int32_t p = 0; p < 3; p++) {
        double sum = 0;
        int32_t found = 0;
        for (int32_t k = 0; k < r->n_ffn; k++) {
            const char *last = strrchr(r->spec->source[0]->tensor[r->ffn[k]].name, '/');
            if (last != NULL && strcmp(last + 1, part[p]) == 0) {
                sum += r->pair[(k * n + a) * n + b];
                found++;
            }
        }
        printf("  %s %.5f", part[p], found > 0 ? sum / found : 0);
    }
    printf("\n");
}

static void print_pairs(const sy_receipt *r)
{
    const int32_t n = r->spec->n_sources;
    int32_t printed = 0;
    if (r->pair == NULL || r->n_ffn == 0) {
        return;
    }
    printf("  cosine between the sources' MLPs, mean over layers\n");
    for (int32_t a = 0; a < n; a++) {
        for (int32_t b = a + 1; b < n && printed < MAX_PAIRS; b++, printed++) {
            print_pair(r, a, b);
        }
    }
    if (n * (n - 1) / 2 > printed) {
        printf("    and %d more in the file\n", n * (n - 1) / 2 - printed);
    }
}

/* ---- the probe ---- */

static void print_settings(const sy_grow *g)
{
    char *text = NULL;
    if (sy_grow_set_anew(g, &text) == SY_OK) {
        for (char *rest = text, *line = strtok_r(rest, "\n", &rest); line != NULL;
             line = strtok_r(NULL, "\n", &rest)) {
            printf("  both with %s\n", line);
        }
    }
    sy_free(&text);
}

static void print_ratio(const sy_grow *g, const sy_compare_gap *gap)
{
    const double predicted = sy_grow_predict_ratio(g, gap->weight),
                 uniform = sy_grow_predict_ratio(g, sy_grow_uniform_weight(g));
    printf("  MoE over dense output of the same input: %.4f (%.4f to %.4f)\n", gap->ratio,
           gap->ratio_min, gap->ratio_max);
    if (isfinite(predicted)) {
        printf("    predicted %.4f from the routers' weights, %s; %.4f if routers were uniform\n",
               predicted,
               g->proof.weighs ? "for each token, and so it is" : "in the mean, without a bound",
               uniform);
    } else {
        printf("    no prediction: parts of copies are chosen, or choices dropped\n");
    }
}

static void print_probe(const sy_grow *g)
{
    const sy_grow_proof *p = &g->proof;
    char bound[32] = "none";
    if (p->n_gaps == 0) {
        printf("  no logits to compare: there is no one model whose function it should have\n");
        return;
    }
    printf("  against the first source, %d sequences of %d random tokens on each of %d ranks\n",
           p->n_sequences, p->S, g->env->world->size);
    print_settings(g);
    printf("               largest difference   relative to the largest   bound\n");
    for (int32_t i = 0; i < p->n_gaps; i++) {
        const sy_compare_gap *gap = &p->gap[i];
        const char *type = sy_dtype_name(gap->compute);
        if (p->preserves) {
            snprintf(bound, sizeof bound, "%.0e", sy_grow_tolerance(gap));
        }
        printf("  %-4s logits  %-20.3e %-25.3e %s\n", type, gap->logits_abs, gap->logits_rel,
               bound);
        printf("  %-4s nll     %-20.3e %-25.3e %s\n", type, gap->nll_abs, gap->nll_rel, bound);
    }
    if (!p->preserves) {
        printf("  no bound: this method and configuration do not keep the dense model's function "
               "(copies and whole granular copies do, with normalised weights, routed_scale 1 and "
               "no eval capacity)\n");
    }
    if (p->gap[0].n_ratios > 0) {
        print_ratio(g, &p->gap[0]);
    }
}

void sy_grow_receipt_print(const sy_grow *g)
{
    printf("receipt: read back from what was written; all figures stand in the file (inspect "
           "--receipt)\n");
    print_sources(g);
    printf("  %-32s %6s  %-24s %7s  %s\n", "tensor", "layers", "made of", "experts",
           "cosine: least, mean, most");
    print_groups(g->proof.receipt);
    print_pairs(g->proof.receipt);
    print_probe(g);
    fflush(stdout);
}
