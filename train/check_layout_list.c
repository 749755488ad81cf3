/* Which layouts can be compared: their text, what they mean for the configuration, and the list
   that a job allows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "moe/router.h"
#include "train/check_layout.h"

static const struct {
    const char *name, *override;
    bool needs_experts, needs_capacity;
} variants[SY_N_LAYOUT_VARIANTS] = {
    [SY_LAYOUT_AS_IS] = {"", NULL, false, false},
    [SY_LAYOUT_PASSES] = {"passes", "moe.recv_factor=0.25", true, false},
    [SY_LAYOUT_PADDED] = {"padded", "moe.pad_to_capacity=true", true, true},
    [SY_LAYOUT_EXACT] = {"exact", "moe.pad_to_capacity=false", true, true},
    [SY_LAYOUT_RECOMPUTE_NONE] = {"recompute=none", "train.recompute=none", false, false},
    [SY_LAYOUT_RECOMPUTE_MOE] = {"recompute=moe", "train.recompute=moe", true, false},
    [SY_LAYOUT_RECOMPUTE_BLOCK] = {"recompute=block", "train.recompute=block", false, false},
};

/* ---- text ---- */

static bool parse_number(const char *word, int32_t max, int32_t *out)
{
    char *end = NULL;
    bool digits = *word != '\0' && strspn(word, "0123456789") == strlen(word) && strlen(word) < 10;
    long value = strtol(word, &end, 10);
    *out = (int32_t)value;
    return digits && value <= max;
}

static bool parse_variant(const char *word, sy_layout_variant *out)
{
    for (int32_t i = 1; i < SY_N_LAYOUT_VARIANTS; i++) {
        if (strcmp(word, variants[i].name) == 0) {
            *out = (sy_layout_variant)i;
            return true;
        }
    }
    return false;
}

/* The i-th field of a layout's text; after EP they may be left out. */
static bool parse_field(int32_t i, const char *word, sy_layout *out)
{
    if (i < 2) {
        return parse_number(word, INT32_MAX, i == 0 ? &out->ranks : &out->ep);
    }
    if (strncmp(word, "mb", 2) == 0) {
        return parse_number(word + 2, INT32_MAX, &out->micro_batch) && out->micro_batch > 0;
    }
    return i == 2 && parse_number(word, 2, &out->zero) ? true : parse_variant(word, &out->variant);
}

sy_status sy_layout_parse(const char *text, size_t length, int32_t default_zero, sy_layout *out)
{
    sy_status st = SY_OK;
    char copy[SY_LAYOUT_TEXT], *rest = copy;
    sy_layout layout = {.zero = default_zero};
    int32_t n = 0;
    bool ok = length > 0 && length < sizeof copy;
    snprintf(copy, sizeof copy, "%.*s", ok ? (int)length : 0, text);
    for (char *word = strsep(&rest, ":"); ok && word != NULL; word = strsep(&rest, ":")) {
        ok = parse_field(n++, word, &layout);
    }
    SY_REQUIRE(ok && n >= 2, SY_ERR_USAGE,
               "'%.*s' is not a layout: write RANKS:EP[:ZERO][:mbN][:VARIANT], as in 1:1, 4:2:0, "
               "4:4:1:mb2; variants are passes, padded, exact, recompute=none|moe|block",
               (int)length, text);
    *out = layout;
cleanup:
    return st;
}

const char *sy_layout_format(const sy_layout *layout, char *buf)
{
    int used = snprintf(buf, SY_LAYOUT_TEXT, "%d:%d:%d", layout->ranks, layout->ep, layout->zero);
    if (layout->micro_batch > 0) {
        used += snprintf(buf + used, SY_LAYOUT_TEXT - (size_t)used, ":mb%d", layout->micro_batch);
    }
    if (layout->variant != SY_LAYOUT_AS_IS) {
        snprintf(buf + used, SY_LAYOUT_TEXT - (size_t)used, ":%s", variants[layout->variant].name);
    }
    return buf;
}

int32_t sy_layout_overrides(const sy_layout *layout, char buf[][SY_LAYOUT_TEXT],
                            const char **overrides)
{
    int32_t n = 2;
    snprintf(buf[0], SY_LAYOUT_TEXT, "parallel.ep=%d", layout->ep);
    snprintf(buf[1], SY_LAYOUT_TEXT, "parallel.zero=%d", layout->zero);
    if (layout->micro_batch > 0) {
        snprintf(buf[n++], SY_LAYOUT_TEXT, "train.micro_batch=%d", layout->micro_batch);
    }
    if (layout->variant != SY_LAYOUT_AS_IS) {
        snprintf(buf[n++], SY_LAYOUT_TEXT, "%s", variants[layout->variant].override);
    }
    if (layout->variant == SY_LAYOUT_PADDED) {
        snprintf(buf[n++], SY_LAYOUT_TEXT, "parallel.overlap_chunks=1"); /* others cannot be */
    }
    for (int32_t i = 0; i < n; i++) {
        overrides[i] = buf[i];
    }
    return n;
}

/* ---- what is allowed ---- */

static bool router_sees_micro_batch(const sy_run_settings *s)
{
    const sy_router_ops *router = sy_router_find(s->moe->router);
    return (router->traits & SY_ROUTER_MICRO_BATCH) != 0 ||
           (router->sees_micro_batch != NULL && router->sees_micro_batch(s->moe));
}

/* Capacity of all ranks together is the same where rounds are. */
static bool capacity_sees_micro_batch(const sy_run_settings *s)
{
    return s->moe->capacity_factor.set && s->moe->capacity_scope != SY_CAPACITY_GLOBAL;
}

bool sy_layout_micro_batch_is_free(const sy_run_settings *s)
{
    return s->moe->experts == 0 ||
           (!capacity_sees_micro_batch(s) && s->moe->aux_loss_scope != SY_AUX_MICRO_BATCH &&
            !router_sees_micro_batch(s));
}

static bool rounds_matter(const sy_run_settings *s)
{
    return s->moe->experts > 0 && (s->moe->aux_loss_scope == SY_AUX_GLOBAL_BATCH ||
                                   s->moe->capacity_scope == SY_CAPACITY_GLOBAL);
}

static int32_t micro_batch_of(const sy_run_settings *s, const sy_layout *at)
{
    return at->micro_batch > 0 ? at->micro_batch : s->train->micro_batch;
}

bool sy_layout_same_rounds(const sy_run_settings *s, const sy_layout *a, const sy_layout *b)
{
    int64_t round_a = (int64_t)a->ranks * micro_batch_of(s, a);
    int64_t round_b = (int64_t)b->ranks * micro_batch_of(s, b);
    int64_t all = s->train->global_batch;
    return !rounds_matter(s) || round_a == round_b || (round_a >= all && round_b >= all);
}

static sy_status check_variant(const sy_run_settings *s, const sy_layout *at, const char *text)
{
    sy_status st = SY_OK;
    SY_REQUIRE(s->moe->experts > 0 || !variants[at->variant].needs_experts, SY_ERR_USAGE,
               "layout %s: '%s' is about experts, and the model is dense (moe.experts is 0)", text,
               variants[at->variant].name);
    SY_REQUIRE(s->moe->capacity_factor.set || !variants[at->variant].needs_capacity, SY_ERR_USAGE,
               "layout %s: '%s' needs moe.capacity_factor", text, variants[at->variant].name);
    SY_REQUIRE(at->micro_batch == 0 || at->micro_batch == s->train->micro_batch ||
                   sy_layout_micro_batch_is_free(s),
               SY_ERR_USAGE,
               "layout %s: another micro-batch than %d is another loss here, because %s", text,
               s->train->micro_batch,
               router_sees_micro_batch(s)     ? "moe.router decides over it"
               : capacity_sees_micro_batch(s) ? "capacity is counted in it (moe.capacity_factor)"
                                              : "moe.aux_loss_scope is micro_batch");
    SY_REQUIRE(at->micro_batch <= s->train->global_batch, SY_ERR_USAGE,
               "layout %s: train.global_batch is only %d", text, s->train->global_batch);
cleanup:
    return st;
}

sy_status sy_layout_require(const sy_run_settings *s, int32_t n_ranks, const sy_layout *at)
{
    sy_status st = SY_OK;
    char text[SY_LAYOUT_TEXT];
    const int32_t E = s->moe->experts;
    sy_layout_format(at, text);
    SY_REQUIRE(at->ranks >= 1 && at->ep >= 1, SY_ERR_USAGE,
               "layout %s: ranks and ep are at least 1", text);
    SY_REQUIRE(at->ranks <= n_ranks, SY_ERR_USAGE,
               "layout %s has %d ranks, this job has %d; start it with mpirun -n %d", text,
               at->ranks, n_ranks, at->ranks);
    SY_REQUIRE(at->ep == 1 || E > 0, SY_ERR_USAGE,
               "layout %s: the model is dense (moe.experts is 0), so ep must be 1", text);
    SY_REQUIRE(at->ranks % at->ep == 0 && E % at->ep == 0, SY_ERR_USAGE,
               "layout %s: ep %d does not divide %d ranks and %d experts", text, at->ep, at->ranks,
               E);
    SY_TRY(check_variant(s, at, text));
cleanup:
    return st;
}

/* ---- the list of a job ---- */

typedef struct layout_list {
    const sy_run_settings *settings;
    int32_t n_ranks, n;
    sy_layout *layout;
} layout_list;

static sy_status add(layout_list *list, sy_layout at)
{
    sy_status st = SY_OK;
    at.micro_batch = at.micro_batch == list->settings->train->micro_batch ? 0 : at.micro_batch;
    SY_TRY(sy_realloc(list->n + 1, sizeof at, (void **)&list->layout));
    list->layout[list->n++] = at;
cleanup:
    return st;
}

/* Other ranks go through the same sequences in a round with a micro-batch of another size. */
static bool fit_rounds(const layout_list *list, sy_layout *at)
{
    const sy_run_settings *s = list->settings;
    int64_t round = (int64_t)list->n_ranks * s->train->micro_batch;
    if (!rounds_matter(s) || at->ranks == list->n_ranks) {
        return true;
    }
    round = round < s->train->global_batch ? round : s->train->global_batch;
    if (sy_layout_micro_batch_is_free(s) && round % at->ranks == 0) {
        at->micro_batch = (int32_t)(round / at->ranks);
    }
    return sy_layout_same_rounds(s, at, &(sy_layout){.ranks = list->n_ranks});
}

/* One rank has nobody to share with: zero 0 alone. */
static sy_status add_ranks(layout_list *list, int32_t ranks)
{
    sy_status st = SY_OK;
    const int32_t E = list->settings->moe->experts;
    for (int32_t ep = 1; ep <= (E > 0 ? ranks : 1); ep++) {
        for (int32_t zero = 0; zero <= (ranks > 1) && ranks % ep == 0 && E % ep == 0; zero++) {
            sy_layout at = {.ranks = ranks, .ep = ep, .zero = zero};
            if (fit_rounds(list, &at)) {
                SY_TRY(add(list, at));
            }
        }
    }
cleanup:
    return st;
}

/* On all ranks, with as much ep as there can be. */
static sy_status add_variants(layout_list *list)
{
    sy_status st = SY_OK;
    const sy_run_settings *s = list->settings;
    const int32_t B = s->train->micro_batch;
    sy_layout at = {.ranks = list->n_ranks, .ep = 1, .zero = list->n_ranks > 1};
    for (int32_t ep = 2; ep <= at.ranks && s->moe->experts > 0; ep++) {
        at.ep = at.ranks % ep == 0 && s->moe->experts % ep == 0 ? ep : at.ep;
    }
    if (at.ranks > 1) {
        at.zero = 2;
        SY_TRY(add(list, at));
        at.zero = 1;
    }
    if (sy_layout_micro_batch_is_free(s) && !rounds_matter(s)) {
        const int32_t other[2] = {1,
                                  2 * B < s->train->global_batch ? 2 * B : s->train->global_batch};
        for (int32_t i = 0; i < 2; i++) {
            at.micro_batch = other[i];
            if (other[i] != B && (i == 0 || other[i] != other[0])) {
                SY_TRY(add(list, at));
            }
        }
        at.micro_batch = 0;
    }
    for (int32_t v = 1; v < SY_N_LAYOUT_VARIANTS; v++) {
        const bool as_it_is =
            v == (s->moe->pad_to_capacity ? SY_LAYOUT_PADDED : SY_LAYOUT_EXACT) ||
            v == SY_LAYOUT_RECOMPUTE_NONE + s->train->recompute ||
            (v >= SY_LAYOUT_RECOMPUTE_NONE && s->moe->experts == 0 && v == SY_LAYOUT_RECOMPUTE_MOE);
        at.variant = (sy_layout_variant)v;
        if (!as_it_is && (s->moe->experts > 0 || !variants[v].needs_experts) &&
            (s->moe->capacity_factor.set || !variants[v].needs_capacity)) {
            SY_TRY(add(list, at));
        }
    }
cleanup:
    return st;
}

/* 1, 2, 3, then powers of two. */
static int32_t next_ranks(int32_t ranks, int32_t n_ranks)
{
    int32_t next = ranks < 4 ? ranks + 1 : 2 * ranks;
    return ranks < n_ranks && next > n_ranks ? n_ranks : next;
}

sy_status sy_layouts_all(const sy_run_settings *settings, int32_t n_ranks, sy_layout **out,
                         int32_t *n)
{
    sy_status st = SY_OK;
    layout_list list = {.settings = settings, .n_ranks = n_ranks};
    if (rounds_matter(settings)) {
        SY_TRY(add_ranks(&list, n_ranks));
    }
    for (int32_t ranks = 1; ranks <= n_ranks; ranks = next_ranks(ranks, n_ranks)) {
        if (!rounds_matter(settings) || ranks < n_ranks) {
            SY_TRY(add_ranks(&list, ranks));
        }
    }
    SY_TRY(add_variants(&list));
    *out = list.layout;
    *n = list.n;
    list.layout = NULL;
cleanup:
    sy_free(&list.layout);
    return st;
}
