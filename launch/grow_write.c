/* The file of a new model: written, read back and proven, its receipt put in, named. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "core/fault.h"
#include "launch/grow.h"
#include "launch/output.h"
#include "launch/receipt.h"
#include "parallel/agree.h"

enum { SEQUENCES = 2, TOKENS = 64, RECEIPT_SLACK = 1024 };

/* ---- what is promised ---- */

double sy_grow_tolerance(const sy_compare_gap *gap)
{
    return gap->compute == SY_F64    ? 1e-12
           : gap->compute == SY_BF16 ? fmax(1e-2, 2 * gap->rounding)
                                     : 1e-5;
}

double sy_grow_ratio_tolerance(sy_dtype compute)
{
    return compute == SY_F64 ? 1e-9 : 1e-3;
}

double sy_grow_uniform_weight(const sy_grow *g)
{
    const sy_moe_config *moe = g->settings.moe;
    return moe->routed_scale * (moe->normalize_weights ? 1 : (double)moe->top_k / moe->experts);
}

double sy_grow_predict_ratio(const sy_grow *g, double weight)
{
    const sy_moe_config *moe = g->settings.moe;
    const sy_recipe_spec *s = &g->spec;
    const int32_t G = s->granularity;
    const bool cut = s->method == SY_UPCYCLE_GRANULAR,
               whole = s->drop_ratio == 0 && moe->top_k % G == 0 && moe->experts % G == 0;
    const bool known = (!cut || whole) && !moe->eval_capacity_factor.set;
    const double routed = known ? (1 - s->drop_ratio) * weight : NAN;
    return moe->shared_experts > 0 ? (1 + routed) / 2 : routed;
}

/* Equal sources are one; a mean of equal ones is that. */
static bool keeps_function(const sy_grow *g)
{
    sy_recipe_spec one = g->spec;
    one.n_sources = 1;
    return (g->n_sources == 1 || g->proof.receipt->one_source) &&
           (g->spec.expert_source == NULL || sy_recipe_preserves(&one));
}

/* The comparison knows the weights of top-k alone. */
static bool knows_weights(const sy_grow *g)
{
    return strcmp(g->settings.moe->router, "topk") == 0;
}

/* Do the chosen weights alone stand between the MoE's output and the dense one? */
static bool only_weighs(const sy_grow *g)
{
    sy_moe_config plain = *g->settings.moe;
    sy_recipe_spec one = g->spec;
    plain.normalize_weights = true;
    plain.routed_scale = 1;
    one.n_sources = 1;
    one.moe = &plain; /* nf4 stays: then something else stands between them too */
    return !g->proof.preserves && sy_recipe_preserves(&one) && plain.shared_experts == 0 &&
           !plain.force_balance && knows_weights(g);
}

/* ---- writing ---- */

/* A receipt with figures as long as figures get, so that there is room for the true one. */
static sy_status plan_receipt(sy_grow *g, int64_t *bytes)
{
    sy_status st = SY_OK;
    const double long_one = -1.23456789e-300;
    sy_grow_proof *p = &g->proof;
    char *text = NULL;
    SY_TRY(sy_recipe_create(&g->spec, &g->recipe));
    SY_TRY(sy_receipt_create(&g->spec, g->recipe, &p->receipt));
    p->n_sequences = SEQUENCES;
    p->S = g->settings.model->seq_len < TOKENS ? g->settings.model->seq_len : TOKENS;
    p->n_gaps = SY_GROW_GAPS;
    for (int32_t i = 0; i < SY_GROW_GAPS; i++) {
        p->gap[i] = (sy_compare_gap){SY_BF16,   long_one, long_one, long_one, long_one, long_one,
                                     INT64_MAX, long_one, long_one, long_one, long_one, long_one};
    }
    SY_TRY(sy_grow_receipt_json(g, &text));
    *bytes = (int64_t)strlen(text) + RECEIPT_SLACK;
    p->n_gaps = 0;
cleanup:
    sy_free(&text);
    return st;
}

/* What sy_recipe_make makes; tests lose an expert here, or write another in its place. */
static sy_status make(void *self, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                      const void **h_out)
{
    sy_status st = SY_OK;
    sy_grow *g = self;
    const sy_source_tensor *t = &sy_recipe_plan(g->recipe)->tensor[tensor];
    const bool experts = t->n_dim == 3;
    const int64_t each = t->numel / t->shape[0];
    if (experts && sy_fault_hit("upcycle_lost_expert") != SY_FAULT_NONE) {
        memset(h_buf, 0, (size_t)n * sy_dtype_bytes(t->dtype));
        *h_out = h_buf;
        goto cleanup;
    }
    if (experts && sy_fault_hit("upcycle_wrong_expert") != SY_FAULT_NONE) {
        first = (first + each) % t->numel;
    }
    SY_TRY(sy_recipe_make(g->recipe, tensor, first, n, h_buf, h_out));
cleanup:
    return st;
}

static sy_status write_model(sy_grow *g, sy_transfer_receipt *written)
{
    sy_status st = SY_OK;
    sy_output_progress progress = {.what = g->cli->command->name};
    sy_build_tree model;
    sy_build_spec build = {.tree = &model,
                           .n_trees = 1,
                           .out = g->unproven,
                           .config_yaml = g->config_yaml,
                           .step = g->source[0]->step,
                           .tokens_seen = g->source[0]->tokens_seen,
                           .files = &g->source[0]->files,
                           .unsynced = true,
                           .comm = g->env->world,
                           .progress = sy_output_progress_update,
                           .progress_self = &progress};
    g->spec.source = g->source;
    g->spec.n_sources = g->n_sources;
    g->spec.model = g->settings.model;
    g->spec.moe = g->settings.moe;
    g->spec.expert_source = g->expert_source;
    g->spec.freeze = (const char *const *)g->settings.train->freeze.item;
    g->spec.n_freeze = g->settings.train->freeze.n;
    SY_TRY(sy_agree(g->env->world, plan_receipt(g, &build.receipt_bytes)));
    model = (sy_build_tree){"model", sy_recipe_plan(g->recipe), make, g};
    if (g->carry) {
        SY_TRY(sy_carry_create(&g->spec, g->recipe, g->env->world, &g->carried));
        build.tree = sy_carry_trees(g->carried, &build.n_trees);
        build.counters = sy_carry_counters(g->carried);
        build.kind = "training";
        g->proof.receipt->make = build.tree->make;
        g->proof.receipt->make_self = build.tree->self;
    }
    st = sy_build(&build, written);
    sy_progress_destroy(&progress.line);
cleanup:
    return st;
}

/* ---- the proof ---- */

static sy_status read_tensor(void *self, const char *name, int64_t first, int64_t n, sy_dtype dtype,
                             void *h_to)
{
    sy_status st = SY_OK;
    sy_source *source = self;
    const int32_t tensor = sy_source_find(source, name);
    SY_REQUIRE(tensor >= 0, SY_ERR_USAGE, "'%s' has no tensor '%s'", source->path, name);
    SY_TRY(sy_source_read(source, tensor, first, n, dtype, h_to));
cleanup:
    return st;
}

static sy_status compare(sy_grow *g, sy_source *written)
{
    static const char *const precisions[] = {"fp32", "bf16"}, *const doubles[] = {"fp64"};
    sy_status st = SY_OK;
    sy_grow_proof *p = &g->proof;
    const bool ref = strcmp(g->settings.device->backend, "ref") == 0;
    const bool upcycled = g->spec.expert_source != NULL && g->source_settings[0].moe->experts == 0;
    sy_compare_spec spec = {.old = {&g->source_settings[0], read_tensor, g->source[0]},
                            .now = {&g->settings, read_tensor, written},
                            .world = g->env->world,
                            .threads = 1, /* reading takes longer than computing */
                            .n_sequences = p->n_sequences,
                            .S = p->S,
                            .seed = g->spec.seed};
    SY_TRY(sy_agree(g->env->world, sy_alloc((int64_t)p->n_sequences * p->S * SY_COMPARE_COLUMNS,
                                            sizeof *spec.wide, (void **)&spec.wide)));
    for (int32_t i = 0; i < (ref ? 1 : SY_GROW_GAPS); i++) {
        spec.precision = ref ? doubles[i] : precisions[i];
        spec.ratios = !p->preserves && upcycled && i == 0 && knows_weights(g);
        SY_TRY(sy_compare_models(&spec, &p->gap[i]));
        p->n_gaps = i + 1;
    }
cleanup:
    sy_free(&spec.wide);
    return st;
}

static sy_status measure(sy_grow *g)
{
    sy_status st = SY_OK;
    sy_source *written = NULL;
    SY_TRY(sy_source_open(g->unproven, g->env->world, &written));
    SY_TRY(sy_source_bind(written, g->settings.model, g->settings.moe, g->env->world));
    SY_TRY(sy_receipt_check(g->proof.receipt, written, g->env->world));
    g->proof.preserves = keeps_function(g);
    g->proof.weighs = only_weighs(g);
    if (g->n_sources == 1 || (g->proof.receipt->one_source && g->settings.moe->adapter_rank == 0 &&
                              g->settings.moe->expert_widths.n == 0)) {
        SY_TRY(compare(g, written));
    }
cleanup:
    sy_source_close(&written);
    return st;
}

static sy_status check_promises(const sy_grow *g)
{
    sy_status st = SY_OK;
    const char *command = g->cli->command->name;
    for (int32_t i = 0; i < g->proof.n_gaps; i++) {
        const sy_compare_gap *gap = &g->proof.gap[i];
        const double bound = sy_grow_tolerance(gap),
                     ratio_bound = sy_grow_ratio_tolerance(gap->compute);
        SY_REQUIRE(!g->proof.preserves || (gap->logits_rel <= bound && gap->nll_rel <= bound),
                   SY_ERR_NUMERIC,
                   "%s: the new model does not compute what '%s' does: in %s logits differ by %g, "
                   "nll by %g, allowed is %g; nothing was written",
                   command, g->source[0]->path, sy_dtype_name(gap->compute), gap->logits_rel,
                   gap->nll_rel, bound);
        SY_REQUIRE(!g->proof.weighs || i > 0 || gap->ratio_off <= ratio_bound, SY_ERR_NUMERIC,
                   "%s: the MoE layers' outputs are not the dense ones times the routers' weights: "
                   "a token's ratio differs by %g, allowed is %g; nothing was written",
                   command, gap->ratio_off, ratio_bound);
    }
cleanup:
    return st;
}

static sy_status put_receipt(const sy_grow *g)
{
    sy_status st = SY_OK;
    char *text = NULL;
    SY_TRY(sy_fault("receipt_write"));
    SY_TRY(sy_grow_receipt_json(g, &text));
    SY_TRY(sy_checkpoint_write_receipt(g->unproven, text));
cleanup:
    sy_free(&text);
    return st;
}

/* ---- the name ---- */

static sy_status publish(const sy_grow *g)
{
    sy_status st = SY_OK;
    const char *slash = strrchr(g->out, '/');
    char *folder = NULL;
    int fd = -1;
    SY_TRY(sy_fault("grow_rename"));
    SY_REQUIRE(access(g->out, F_OK) != 0, SY_ERR_IO,
               "'%s' was made by somebody else in the meantime; nothing was written", g->out);
    SY_REQUIRE(rename(g->unproven, g->out) == 0, SY_ERR_IO, "cannot rename '%s' to '%s': %s",
               g->unproven, g->out, strerror(errno));
    SY_TRY(slash != NULL ? sy_asprintf(&folder, "%.*s", (int)(slash + 1 - g->out), g->out)
                         : sy_strdup(".", &folder));
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    SY_REQUIRE(fd >= 0 && fsync(fd) == 0, SY_ERR_IO, "cannot bring '%s' to the disk: %s", folder,
               strerror(errno));
cleanup:
    if (fd >= 0) {
        close(fd);
    }
    sy_free(&folder);
    return st;
}

sy_status sy_grow_publish(sy_grow *g)
{
    return sy_agree(g->env->world, g->env->world->rank == 0 ? publish(g) : SY_OK);
}

/* ---- all of it ---- */

sy_status sy_grow_run(sy_grow *g, sy_transfer_receipt *written)
{
    sy_status st = SY_OK;
    const bool first = g->env->world->rank == 0;
    bool hidden = false;
    SY_TRY(write_model(g, written));
    hidden = first;
    const double t0 = sy_clock_s();
    SY_TRY(measure(g)); /* while the disk is at work */
    if (first) {
        sy_grow_receipt_print(g);
    }
    SY_TRY(sy_agree(g->env->world, check_promises(g)));
    SY_TRY(sy_agree(g->env->world, first ? put_receipt(g) : SY_OK));
    SY_TRY(sy_checkpoint_sync(g->unproven, g->env->world));
    g->proof.seconds = sy_clock_s() - t0;
    SY_TRY(sy_grow_publish(g));
cleanup:
    if (hidden && st != SY_OK) {
        (void)unlink(g->unproven); /* the first error is the one to tell */
    }
    return st;
}
