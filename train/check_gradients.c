#include "train/check_gradients.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/log.h"
#include "moe/router.h"
#include "parallel/agree.h"
#include "report/progress.h"
#include "train/check_gradients_impl.h"
#include "train/check_impl.h"

enum { DEFAULT_SEQ_LEN = 16, PROGRESS_S = 10 };

/* Steps of the differences, tried in this order until one is good enough: a long one sees little of
   the loss's rounding, a short one crosses fewer borders between experts. */
static const double steps[] = {0x1p-11, 0x1p-14, 0x1p-17};
enum { N_STEPS = sizeof steps / sizeof steps[0], N_BATCHES = 8 };

typedef struct checker {
    const sy_gradient_check_spec *spec;
    sy_gradient_check *out;
    sy__subject_spec subject; /* as it is now opened */
    sy_progress *progress;
} checker;

static int32_t gcd(int32_t a, int32_t b)
{
    return b == 0 ? a : gcd(b, a % b);
}

/* ---- rows of the result ---- */

/* "layers/003/attn/q" -> its row for "layers/_/attn/q". */
static sy_status row_of(sy_gradient_check *out, const char *name, sy_gradient_row **row)
{
    sy_status st = SY_OK;
    char kind[SY_PARAM_NAME];
    const char *rest = strncmp(name, "layers/", 7) == 0 ? strchr(name + 7, '/') : NULL;
    snprintf(kind, sizeof kind, "%s%s", rest != NULL ? "layers/_" : "", rest != NULL ? rest : name);
    for (int32_t i = 0; i < out->n; i++) {
        if (strcmp(out->row[i].kind, kind) == 0) {
            *row = &out->row[i];
            goto cleanup;
        }
    }
    SY_TRY(sy_realloc(out->n + 1, sizeof *out->row, (void **)&out->row));
    *row = &out->row[out->n++];
    **row = (sy_gradient_row){.param.expert = -1, .index = -1};
    snprintf((*row)->kind, sizeof kind, "%s", kind);
cleanup:
    return st;
}

/* ---- differences ---- */

/* Whoever holds the coordinate sets it. */
static sy_status set_value(sy__subject *s, const sy__coordinate *at, double x)
{
    sy_status st = SY_OK;
    sy_stream *stream = s->t->engine->compute_stream;
    if (at->at != NULL) {
        SY_TRY(sy_copy_h2d(stream, at->at, &x, sizeof x));
        SY_TRY(sy_stream_sync(stream));
    }
cleanup:
    return st;
}

typedef struct base {
    double loss;
    int32_t *chosen;
    uint8_t *kept;
} base;

/* Central difference with one step; *flipped: a choice changed on the way. */
static sy_status difference(sy__subject *s, const base *b, const sy__coordinate *at, double step,
                            double *out, bool *flipped)
{
    sy_status st = SY_OK;
    const double side[2] = {at->x + step, at->x - step};
    double loss[2];
    int64_t n_differ = 0;
    *flipped = false;
    for (int32_t k = 0; k < 2 && !*flipped; k++) {
        SY_TRY(set_value(s, at, side[k]));
        SY_TRY(sy__subject_evaluate(s));
        SY_TRY(sy__subject_compare_choices(s, b->chosen, b->kept, &n_differ));
        loss[k] = s->loss;
        *flipped = n_differ > 0;
    }
    *out = *flipped ? 0 : (loss[0] - loss[1]) / (side[0] - side[1]);
    SY_TRY(set_value(s, at, at->x));
cleanup:
    return st;
}

/* What rounding of the loss alone may do to a difference. */
static double noise(double loss, double step)
{
    return 8 * DBL_EPSILON * fabs(loss) / step;
}

/* The best of the steps, ten times better than the bound if it can be had. */
static sy_status check_coordinate(sy_gradient_check *out, sy__subject *s, const base *b,
                                  const sy__samples *samples, const sy__coordinate *at)
{
    sy_status st = SY_OK;
    const sy__sampled_tensor *t = &samples->tensor[at->tensor];
    double best = INFINITY, best_found = 0;
    sy_gradient_row *row;
    bool any = false;
    for (int32_t i = 0; i < N_STEPS && !(best <= out->bound / 10); i++) {
        double found, error;
        bool flipped;
        SY_TRY(difference(s, b, at, steps[i], &found, &flipped));
        if (flipped) {
            continue;
        }
        error = fabs(found - at->slope) /
                fmax(fmax(fabs(found), fabs(at->slope)), noise(b->loss, steps[i]) / out->bound);
        if (!any || error < best || isnan(error)) {
            best = error;
            best_found = found;
        }
        any = true;
    }
    if (any && !(best <= out->bound)) { /* rounding is no excuse */
        best = fabs(best_found - at->slope) / fmax(fabs(best_found), fabs(at->slope));
    }
    SY_TRY(row_of(out, t->name, &row));
    row->n_checked += any;
    row->n_flipped += !any;
    if (any && (row->param.name[0] == '\0' || sy__is_worse(best, row->worst))) {
        row->worst = best;
        row->index = at->index;
        row->gradient = at->slope;
        row->difference = best_found;
        row->param.expert = t->each > 0 ? (int32_t)(at->index / t->each) : -1;
        snprintf(row->param.name, sizeof row->param.name, "%s", t->name);
    }
cleanup:
    return st;
}

static sy_status remember(const sy__subject *s, base *b)
{
    sy_status st = SY_OK;
    const int64_t n = s->t->engine->stats.n_chosen;
    b->loss = s->loss;
    SY_TRY(sy_alloc(n, sizeof *b->chosen, (void **)&b->chosen));
    SY_TRY(sy_alloc(n, sizeof *b->kept, (void **)&b->kept));
    if (n > 0) {
        memcpy(b->chosen, s->h_chosen, (size_t)n * sizeof *b->chosen);
        memcpy(b->kept, s->h_kept, (size_t)n);
    }
cleanup:
    return st;
}

static sy_status open_progress(checker *c, int64_t total)
{
    sy_progress_spec spec = {.what = "coordinate", .total = total, .plain_s = PROGRESS_S};
    return c->spec->progress && c->spec->world->rank == 0 ? sy_progress_create(&spec, &c->progress)
                                                          : SY_OK;
}

/* A router may mean to learn by another gradient than that of its output. */
static sy_status require_gradients(const sy_moe_config *moe)
{
    sy_status st = SY_OK;
    SY_REQUIRE(moe->experts == 0 || !(sy_router_find(moe->router)->traits & SY_ROUTER_ESTIMATES),
               SY_ERR_USAGE,
               "check gradients: moe.router %s learns by an estimate, which is by intent not the "
               "gradient of the loss; --backend cpu compares with ref instead",
               moe->router);
cleanup:
    return st;
}

static sy_status by_differences(checker *c, sy__subject *s)
{
    sy_status st = SY_OK;
    sy__samples samples = {0};
    sy_gradient_row *row;
    base b = {0};
    SY_TRY(require_gradients(c->spec->settings->moe));
    SY_TRY(sy__subject_evaluate(s));
    SY_TRY(sy_agree(c->spec->world, remember(s, &b)));
    c->out->loss = b.loss;
    SY_TRY(sy__samples_draw(s, c->spec->samples, &samples));
    for (int32_t i = 0; i < samples.n_tensors; i++) {
        SY_TRY(row_of(c->out, samples.tensor[i].name, &row));
        row->n_tensors++;
    }
    sy_info("check gradients: %d coordinates of %d tensors, 2 to %d evaluations each", samples.n,
            samples.n_tensors, 2 * N_STEPS);
    SY_TRY(sy_agree(c->spec->world, open_progress(c, samples.n)));
    for (int32_t i = 0; i < samples.n; i++) {
        SY_TRY(check_coordinate(c->out, s, &b, &samples, &samples.coordinate[i]));
        if (c->progress != NULL) {
            sy_progress_update(c->progress, i + 1,
                               samples.tensor[samples.coordinate[i].tensor].name);
        }
    }
cleanup:
    sy_free(&b.kept);
    sy_free(&b.chosen);
    sy__samples_free(&samples);
    return st;
}

/* ---- another backend ---- */

/* Below this part of the whole gradient's norm, a tensor's rounding errors are those of the whole.
 */
static const double norm_floor = 1e-3;

static sy_status compare(sy_gradient_check *out, const sy_digest *ref, const sy_digest *mine)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < ref->n; i++) {
        const sy_digest_entry *entry = &ref->entry[i];
        sy_gradient_row *row;
        double g = sy_digest_entry_gap(ref, mine, norm_floor, i);
        SY_TRY(row_of(out, entry->name, &row));
        row->n_tensors += entry->expert <= 0;
        row->n_checked++;
        if (row->param.name[0] == '\0' || sy__is_worse(g, row->worst)) {
            row->worst = g;
            row->param = *entry;
            row->gradient = mine->figures[i].norm;
            row->difference = ref->figures[i].norm;
        }
    }
cleanup:
    return st;
}

/* Both on the same batches, until they choose the same experts in one. */
static sy_status try_batches(const sy__subject_spec *spec, sy__subject *ref, sy__subject *mine,
                             int64_t *n_differ)
{
    sy_status st = SY_OK;
    *n_differ = 1;
    for (int32_t i = 0; i<N_BATCHES && * n_differ> 0; i++) {
        mine->t->count.data_step = ref->t->count.data_step = (int64_t)i * spec->sequences;
        SY_TRY(sy__subject_evaluate(mine));
        SY_TRY(sy__subject_evaluate(ref));
        SY_TRY(sy__subject_compare_choices(mine, ref->h_chosen, ref->h_kept, n_differ));
    }
    if (*n_differ > 0) {
        sy_info("check gradients: in %d batches of %d sequences of %d tokens some token goes to "
                "another expert than on ref",
                N_BATCHES, spec->sequences, spec->seq_len);
    }
cleanup:
    return st;
}

static sy_status open_both(sy__subject_spec *spec, sy__subject *ref, sy__subject *mine)
{
    sy_status st = SY_OK;
    sy__subject_close(mine);
    sy__subject_close(ref);
    spec->on_ref = false;
    SY_TRY(sy__subject_open(spec, mine));
    spec->on_ref = true;
    SY_TRY(sy__subject_open(spec, ref));
cleanup:
    return st;
}

/* Where a token goes to another expert than on ref, gradients are others too. So look for a batch
   in which none does, and among shorter ones if there is none; of one token each, attention would
   be a constant. */
static sy_status against_ref(checker *c, sy__subject *mine)
{
    sy_status st = SY_OK;
    sy__subject ref = {0};
    sy_digest digest[2] = {{0}, {0}};
    int64_t n_differ = 0;
    SY_TRY(open_both(&c->subject, &ref, mine));
    SY_TRY(try_batches(&c->subject, &ref, mine, &n_differ));
    while (n_differ > 0 && c->subject.seq_len > 3) {
        c->subject.seq_len /= 2;
        SY_TRY(open_both(&c->subject, &ref, mine));
        SY_TRY(try_batches(&c->subject, &ref, mine, &n_differ));
    }
    SY_REQUIRE(n_differ == 0, SY_ERR_NUMERIC,
               "check gradients: however short the batch, some tokens go to other experts than on "
               "ref: nothing can be compared");
    c->out->loss = mine->loss;
    SY_TRY(sy_digest_take(ref.t->engine->params, ref.t->engine->compute_stream, &digest[0]));
    SY_TRY(sy_digest_take(mine->t->engine->params, mine->t->engine->compute_stream, &digest[1]));
    SY_TRY(sy_agree(c->spec->world, compare(c->out, &digest[0], &digest[1])));
cleanup:
    sy_digest_free(&digest[1]);
    sy_digest_free(&digest[0]);
    sy__subject_close(&ref);
    return st;
}

/* ---- the check ---- */

static sy_status prepare(checker *c)
{
    const sy_gradient_check_spec *spec = c->spec;
    const sy_run_settings *s = spec->settings;
    const int32_t two = spec->world->size > 2 ? spec->world->size : 2;
    const int32_t S = s->model->seq_len < DEFAULT_SEQ_LEN ? s->model->seq_len : DEFAULT_SEQ_LEN;
    c->subject = (sy__subject_spec){.check = spec,
                                    .ep = gcd(s->parallel->ep, spec->world->size),
                                    .sequences = spec->sequences > 0 ? spec->sequences : two,
                                    .seq_len = spec->seq_len > 0 ? spec->seq_len : S};
    return sy_config_echo(s->config, &c->subject.config_yaml);
}

/* Differences see seven digits; the others are 30 and 5 times what was measured
   (docs/NUMERICS.md). */
static double bound_of(sy_dtype compute)
{
    return compute == SY_F64 ? 1e-6 : compute == SY_F32 ? 1e-4 : 1e-1;
}

static sy_status describe(const sy__subject_spec *spec, const sy__subject *s,
                          sy_gradient_check *out)
{
    out->ep = spec->ep;
    out->sequences = spec->sequences;
    out->seq_len = spec->seq_len;
    out->n_evaluations = s->n_evaluations;
    out->n_choices = s->t->engine->stats.n_chosen;
    return sy_host_all_reduce(s->t->engine->mesh->host, &out->n_choices, 1, SY_I64, SY_SUM,
                              "choices");
}

sy_status sy_check_gradients(const sy_gradient_check_spec *spec, sy_gradient_check *out)
{
    sy_status st = SY_OK;
    sy_gradient_check check = {0};
    sy__subject subject = {0};
    checker c = {.spec = spec, .out = &check};
    SY_TRY(sy_agree(spec->world, prepare(&c)));
    SY_TRY(sy__subject_open(&c.subject, &subject));
    check.compute = subject.t->engine->compute;
    check.bound = bound_of(check.compute);
    check.by_differences = check.compute == SY_F64;
    SY_TRY(check.by_differences ? by_differences(&c, &subject) : against_ref(&c, &subject));
    SY_TRY(describe(&c.subject, &subject, &check));
    *out = check;
    check = (sy_gradient_check){0};
cleanup:
    sy_progress_destroy(&c.progress);
    sy__subject_close(&subject);
    sy_gradient_check_free(&check);
    sy_free(&c.subject.config_yaml);
    return st;
}

void sy_gradient_check_free(sy_gradient_check *check)
{
    sy_free(&check->row);
    *check = (sy_gradient_check){0};
}

sy_status sy_gradient_check_verdict(const sy_gradient_check *check)
{
    sy_status st = SY_OK;
    int32_t row = -1;
    double most = check->bound;
    char place[64] = "";
    int64_t n_checked = 0;
    for (int32_t i = 0; i < check->n; i++) {
        n_checked += check->row[i].n_checked;
        if (sy__is_worse(check->row[i].worst, most)) {
            most = check->row[i].worst;
            row = i;
        }
    }
    SY_REQUIRE(n_checked > 0, SY_ERR_USAGE,
               "check gradients: there was nothing to check: every parameter is frozen, or every "
               "nudge changes which expert a token goes to");
    if (row < 0) {
        goto cleanup;
    }
    const sy_gradient_row *worst = &check->row[row];
    if (worst->param.expert >= 0) {
        snprintf(place, sizeof place, ", expert %d", worst->param.expert);
    }
    SY_REQUIRE(!check->by_differences, SY_ERR_NUMERIC,
               "check gradients: %s%s, element %ld: gradient %.9g, by differences of the loss "
               "%.9g; apart by %.2e, allowed is %.0e",
               worst->param.name, place, (long)worst->index, worst->gradient, worst->difference,
               worst->worst, check->bound);
    SY_REQUIRE(false, SY_ERR_NUMERIC,
               "check gradients: the gradient of %s%s is apart from that of ref by %.2e; allowed "
               "is %.0e",
               worst->param.name, place, worst->worst, check->bound);
cleanup:
    return st;
}
