#include "data/objective.h"

#include <math.h>

#include "core/alloc.h"
#include "core/rng.h"

struct sy_objective_maker {
    sy_objective_spec spec;
    int32_t *text; /* [S + 1] mode, inputs, targets */
    bool *aimed;   /* [S + 1] of the targets */
    int32_t n;
    int32_t *keep, *lose;  /* [spans] lengths in turn */
    uint64_t seed, stream; /* of this sequence */
    uint64_t n_draws;
};

/* Mean length of a span, share of the tokens that are in one, and the mode they are announced as:
   t5/data/mixtures.py of OpenMoE. */
typedef struct denoiser {
    double span, share;
    int32_t mode;
} denoiser;
static const denoiser denoisers[] = {{3, 0.15, SY_MODE_NLU},
                                     {8, 0.15, SY_MODE_NLU},
                                     {3, 0.5, SY_MODE_NLG},
                                     {8, 0.5, SY_MODE_NLG},
                                     {64, 0.5, SY_MODE_NLG}};
enum { N_DENOISERS = sizeof denoisers / sizeof denoisers[0] };

sy_status sy_objective_create(const sy_objective_spec *spec, sy_objective_maker **out)
{
    sy_status st = SY_OK;
    const int64_t room = (int64_t)spec->S + 1;
    sy_objective_maker *m = NULL;
    SY_TRY(sy_alloc(1, sizeof *m, (void **)&m));
    m->spec = *spec;
    SY_TRY(sy_alloc(room, sizeof *m->text, (void **)&m->text));
    SY_TRY(sy_alloc(room, sizeof *m->aimed, (void **)&m->aimed));
    SY_TRY(sy_alloc(room, sizeof *m->keep, (void **)&m->keep));
    SY_TRY(sy_alloc(room, sizeof *m->lose, (void **)&m->lose));
    *out = m;
    m = NULL;
cleanup:
    sy_objective_destroy(&m);
    return st;
}

void sy_objective_destroy(sy_objective_maker **maker)
{
    if (*maker != NULL) {
        sy_free(&(*maker)->lose);
        sy_free(&(*maker)->keep);
        sy_free(&(*maker)->aimed);
        sy_free(&(*maker)->text);
        sy_free(maker);
    }
}

static double draw(sy_objective_maker *m)
{
    return sy_rng_uniform(m->seed, m->stream, m->n_draws++);
}

static void put(sy_objective_maker *m, int32_t id, bool aimed)
{
    m->text[m->n] = id;
    m->aimed[m->n++] = aimed;
}

static void put_mode(sy_objective_maker *m, int32_t mode)
{
    if (m->spec.mode_id[mode] >= 0) {
        put(m, m->spec.mode_id[mode], false);
    }
}

/* Split at a place that is any with the same chance; one token on each side at least. */
static void make_prefix(sy_objective_maker *m, const int32_t *tokens)
{
    put_mode(m, SY_MODE_S2S);
    const int32_t n = m->spec.S + 1 - m->n;
    const int32_t split = 1 + (int32_t)(draw(m) * (n - 1));
    for (int32_t i = 0; i < n; i++) {
        put(m, tokens[i], i >= split);
    }
}

/* ---- spans ---- */

typedef struct plan {
    int32_t n, n_lost, n_spans; /* tokens of text, in spans, spans */
} plan;

static plan plan_for(const sy_objective_spec *s, const denoiser *d, int32_t n)
{
    plan p = {.n = n, .n_lost = (int32_t)lround(n * d->share)};
    p.n_lost = p.n_lost < 1 ? 1 : p.n_lost > n - 1 ? n - 1 : p.n_lost;
    p.n_spans = (int32_t)lround(p.n_lost / d->span);
    p.n_spans = p.n_spans < 1 ? 1 : p.n_spans;
    p.n_spans = p.n_spans > n - p.n_lost ? n - p.n_lost : p.n_spans;
    p.n_spans = p.n_spans > s->n_sentinels ? s->n_sentinels : p.n_spans;
    return p;
}

/* As much text as fits with a sentinel in the inputs and one in the targets for each span. */
static plan largest_plan(const sy_objective_spec *s, const denoiser *d)
{
    const int32_t room = s->S + 1 - (s->mode_id[d->mode] >= 0) - (s->eod >= 0);
    plan p = plan_for(s, d, room);
    while (p.n > 2 && p.n + 2 * p.n_spans > room) {
        p = plan_for(s, d, p.n - 1);
    }
    return p;
}

/* n into m parts of 1 at least, every way with the same chance: which m - 1 of the n - 1 gaps are
   cuts. */
static void cut(sy_objective_maker *m, int32_t n, int32_t parts, int32_t *length)
{
    int32_t left = parts - 1, part = 0;
    length[0] = 1;
    for (int32_t gap = 0; gap < n - 1; gap++) {
        if (draw(m) * (n - 1 - gap) < left) {
            left--;
            length[++part] = 0;
        }
        length[part]++;
    }
}

static void make_spans(sy_objective_maker *m, const denoiser *d, const int32_t *tokens)
{
    const plan p = largest_plan(&m->spec, d);
    int32_t at = 0;
    cut(m, p.n - p.n_lost, p.n_spans, m->keep);
    cut(m, p.n_lost, p.n_spans, m->lose);
    put_mode(m, d->mode);
    for (int32_t i = 0; i < p.n_spans; i++) {
        for (int32_t k = 0; k < m->keep[i]; k++) {
            put(m, tokens[at++], false);
        }
        put(m, m->spec.sentinel_id - i, false);
        at += m->lose[i];
    }
    at = 0;
    for (int32_t i = 0; i < p.n_spans; i++) {
        at += m->keep[i];
        put(m, m->spec.sentinel_id - i, true);
        for (int32_t k = 0; k < m->lose[i]; k++) {
            put(m, tokens[at++], true);
        }
    }
    if (m->spec.eod >= 0) {
        put(m, m->spec.eod, true);
    }
}

/* ---- the sequence ---- */

/* Each position predicts the next token of the text, where that is one of the targets. */
static sy_objective_counts lay_out(const sy_objective_maker *m, const sy_objective_out *out)
{
    sy_objective_counts count = {.n_routed = m->n - 1};
    for (int32_t t = 0; t < m->spec.S; t++) {
        const bool real = t < m->n - 1;
        out->ids[t] = real ? m->text[t] : 0;
        out->targets[t] = real && m->aimed[t + 1] ? m->text[t + 1] : -1;
        out->routed[t] = real;
        out->pos[t] = t;
        count.n_loss += out->targets[t] >= 0;
    }
    return count;
}

sy_objective_counts sy_objective_make(sy_objective_maker *m, uint64_t seed, int64_t k,
                                      const int32_t *tokens, const sy_objective_out *out)
{
    m->seed = seed;
    m->stream = sy_rng_u64(seed, SY_RNG_OBJECTIVE, (uint64_t)k);
    m->n_draws = 0;
    m->n = 0;
    const double task = m->spec.objective == SY_OBJECTIVE_UL2 ? 2 * draw(m) : 1;
    if (task < 1) {
        make_spans(m, &denoisers[(int32_t)(task * N_DENOISERS)], tokens);
    } else {
        make_prefix(m, tokens);
    }
    return lay_out(m, out);
}
