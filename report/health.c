/* Loads summed over a window, compared with limits at its end, told in sentences when something
 * changed. */
#include "report/health.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/log.h"

enum { SENTENCE_BYTES = 320, LIST_BYTES = 120, SENTENCES_MAX = 4 };

/* What was last said of a layer, so that nothing is said twice. */
typedef struct layer_state {
    int32_t n_dead;
    bool is_dropping, is_uneven, is_late, is_certain, is_growing;
    double output_before; /* mean of the window before; 0: there is none */
} layer_state;

/* Sums over the window, of what need not be known. */
typedef struct layer_sums {
    int64_t dropped_at[SY_HEALTH_PARTS];
    double entropy, output_rms;
} layer_sums;

struct sy_health {
    sy_health_spec spec;
    int32_t *layer_idx; /* [L] */
    int64_t *load;      /* [L, E] sums over the window */
    int64_t *dropped;   /* [L] */
    layer_sums *sums;   /* [L] */
    layer_state *state; /* [L] */
    int32_t n_steps;    /* in the window so far */
    sy_health_figures last;
};

typedef struct voice {
    void (*say)(void *arg, const char *sentence);
    void *arg;
    const char *kind;
    int32_t n_said, n_kept_back;
} voice;

double sy_health_max_over_mean(const int64_t *load, int32_t n)
{
    int64_t sum = 0, most = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += load[i];
        most = load[i] > most ? load[i] : most;
    }
    return sum > 0 ? (double)most * n / (double)sum : 0;
}

int32_t sy_health_dead_experts(const int64_t *load, int32_t n)
{
    int32_t n_dead = 0;
    for (int32_t i = 0; i < n; i++) {
        n_dead += load[i] == 0;
    }
    return n_dead < n ? n_dead : 0;
}

const char *sy_health_list(bool (*is_in)(const void *arg, int32_t i), const void *arg, int32_t n,
                           char *buf, size_t buf_bytes)
{
    size_t used = 0;
    buf[0] = '\0';
    for (int32_t i = 0; i < n; i++) {
        if (!is_in(arg, i)) {
            continue;
        }
        char range[32];
        int32_t first = i;
        while (i + 1 < n && is_in(arg, i + 1)) {
            i++;
        }
        const char *comma = used > 0 ? ", " : "";
        int bytes = first == i ? snprintf(range, sizeof range, "%s%d", comma, first)
                               : snprintf(range, sizeof range, "%s%d-%d", comma, first, i);
        if (used + (size_t)bytes + sizeof ", .." > buf_bytes) {
            snprintf(buf + used, buf_bytes - used, "%s..", comma);
            break;
        }
        memcpy(buf + used, range, (size_t)bytes + 1);
        used += (size_t)bytes;
    }
    return buf;
}

sy_status sy_health_create(const sy_health_spec *spec, sy_health **out)
{
    sy_status st = SY_OK;
    sy_health *h = NULL;
    int64_t L = spec->n_layers, E = spec->n_experts;
    SY_REQUIRE(L >= 0 && E >= 1, SY_ERR_INTERNAL, "health of %lld layers with %lld experts",
               (long long)L, (long long)E);
    SY_TRY(sy_alloc(1, sizeof *h, (void **)&h));
    h->spec = *spec;
    h->spec.window = spec->window > 0 ? spec->window : 100;
    h->spec.drop_limit = spec->drop_limit > 0 ? spec->drop_limit : SY_HEALTH_DROP_LIMIT;
    h->spec.load_limit = spec->load_limit > 0 ? spec->load_limit : SY_HEALTH_LOAD_LIMIT;
    SY_TRY(sy_alloc(L, sizeof *h->layer_idx, (void **)&h->layer_idx));
    SY_TRY(sy_alloc(L * E, sizeof *h->load, (void **)&h->load));
    SY_TRY(sy_alloc(L, sizeof *h->dropped, (void **)&h->dropped));
    SY_TRY(sy_alloc(L, sizeof *h->sums, (void **)&h->sums));
    SY_TRY(sy_alloc(L, sizeof *h->state, (void **)&h->state));
    for (int32_t l = 0; l < spec->n_layers; l++) {
        h->layer_idx[l] = spec->layer_idx != NULL ? spec->layer_idx[l] : l;
    }
    h->spec.layer_idx = h->layer_idx;
    *out = h;
    h = NULL;
cleanup:
    sy_health_destroy(&h);
    return st;
}

void sy_health_destroy(sy_health **health)
{
    if (*health != NULL) {
        sy_free(&(*health)->state);
        sy_free(&(*health)->sums);
        sy_free(&(*health)->dropped);
        sy_free(&(*health)->load);
        sy_free(&(*health)->layer_idx);
        sy_free(health);
    }
}

sy_health_figures sy_health_last(const sy_health *health)
{
    return health->last;
}

static int64_t sum_of(const int64_t *x, int32_t n)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += x[i];
    }
    return sum;
}

static sy_health_figures figures_of(const sy_health *h, const sy_health_step *step)
{
    sy_health_figures f = {0};
    int32_t E = h->spec.n_experts, n_active = 0;
    int64_t n_rows = 0, n_dropped = 0;
    for (int32_t l = 0; l < h->spec.n_layers; l++) {
        const int64_t *load = step->load + (int64_t)l * E;
        double ratio = sy_health_max_over_mean(load, E);
        f.load_max_over_mean += ratio;
        n_active += ratio > 0;
        f.dead_experts += sy_health_dead_experts(load, E);
        n_rows += sum_of(load, E);
        n_dropped += step->dropped != NULL ? step->dropped[l] : 0;
    }
    f.load_max_over_mean /= n_active > 0 ? n_active : 1;
    f.drop_fraction = n_rows > 0 ? (double)n_dropped / (double)n_rows : 0;
    return f;
}

static bool is_empty(const void *load, int32_t i)
{
    return ((const int64_t *)load)[i] == 0;
}

/* At most SENTENCES_MAX of a kind per window: a model of 48 layers does not flood the log. */
static void speak(voice *to, const char *sentence)
{
    if (to->n_said == SENTENCES_MAX) {
        to->n_kept_back++;
    } else {
        to->n_said++;
        to->say(to->arg, sentence);
    }
}

static void end_kind(voice *to)
{
    char sentence[SENTENCE_BYTES];
    if (to->n_kept_back > 0) {
        snprintf(sentence, sizeof sentence, "%d more layers: the same (%s)", to->n_kept_back,
                 to->kind);
        to->say(to->arg, sentence);
    }
}

static void look_for_dead(sy_health *h, int32_t l, voice *to)
{
    char sentence[SENTENCE_BYTES], list[LIST_BYTES];
    int32_t E = h->spec.n_experts;
    const int64_t *load = h->load + (int64_t)l * E;
    layer_state *state = &h->state[l];
    int32_t n_dead = sy_health_dead_experts(load, E);
    if (sum_of(load, E) == 0) {
        return; /* nothing was routed here: nothing is known */
    }
    if (n_dead > state->n_dead) {
        snprintf(sentence, sizeof sentence,
                 "layer %d: %d of %d experts got no token in %d steps (%s)", h->layer_idx[l],
                 n_dead, E, h->n_steps, sy_health_list(is_empty, load, E, list, sizeof list));
        speak(to, sentence);
    } else if (n_dead == 0 && state->n_dead > 0) {
        snprintf(sentence, sizeof sentence, "layer %d: every expert gets tokens again",
                 h->layer_idx[l]);
        speak(to, sentence);
    }
    state->n_dead = n_dead;
}

static void look_for_drops(sy_health *h, int32_t l, voice *to)
{
    char sentence[SENTENCE_BYTES];
    int64_t n_rows = sum_of(h->load + (int64_t)l * h->spec.n_experts, h->spec.n_experts);
    double fraction = n_rows > 0 ? (double)h->dropped[l] / (double)n_rows : 0;
    bool is_dropping = fraction > h->spec.drop_limit;
    if (is_dropping && !h->state[l].is_dropping) {
        snprintf(sentence, sizeof sentence,
                 "layer %d: %.1f %% of the rows were dropped in %d steps; a larger "
                 "moe.capacity_factor or aux_loss_coeff drops fewer",
                 h->layer_idx[l], 100 * fraction, h->n_steps);
        speak(to, sentence);
    }
    h->state[l].is_dropping = is_dropping;
}

static void look_for_uneven(sy_health *h, int32_t l, voice *to)
{
    char sentence[SENTENCE_BYTES];
    int32_t E = h->spec.n_experts, fullest = 0;
    const int64_t *load = h->load + (int64_t)l * E;
    double ratio = sy_health_max_over_mean(load, E);
    bool is_uneven = ratio > h->spec.load_limit;
    for (int32_t e = 1; e < E; e++) {
        fullest = load[e] > load[fullest] ? e : fullest;
    }
    if (is_uneven && !h->state[l].is_uneven) {
        snprintf(sentence, sizeof sentence,
                 "layer %d: expert %d got %.1f %% of the rows in %d steps, %.1f times the mean",
                 h->layer_idx[l], fullest, 100 * ratio / E, h->n_steps, ratio);
        speak(to, sentence);
    }
    h->state[l].is_uneven = is_uneven;
}

/* By position, whoever comes late finds the experts full: it is the ends of sequences that are not
   learned from. */
static void look_for_late_drops(sy_health *h, int32_t l, voice *to)
{
    char sentence[SENTENCE_BYTES];
    const int64_t *at = h->sums[l].dropped_at;
    const int64_t n_dropped = sum_of(at, SY_HEALTH_PARTS);
    const int64_t n_rows = sum_of(h->load + (int64_t)l * h->spec.n_experts, h->spec.n_experts);
    const double share = n_dropped > 0 ? (double)at[SY_HEALTH_PARTS - 1] / (double)n_dropped : 0;
    const bool is_late =
        share > SY_HEALTH_PLACE_LIMIT && (double)n_dropped > SY_HEALTH_PLACE_DROPS * (double)n_rows;
    if (is_late && !h->state[l].is_late) {
        snprintf(sentence, sizeof sentence,
                 "layer %d: %.0f %% of the rows dropped in %d steps were in the last eighth of "
                 "their sequence; moe.drop_policy: probability drops wherever weights are small",
                 h->layer_idx[l], 100 * share, h->n_steps);
        speak(to, sentence);
    }
    h->state[l].is_late = is_late;
}

static void look_for_certainty(sy_health *h, int32_t l, voice *to)
{
    char sentence[SENTENCE_BYTES];
    const double most = log(h->spec.n_experts), mean = h->sums[l].entropy / h->n_steps;
    const bool is_known = sum_of(h->load + (int64_t)l * h->spec.n_experts, h->spec.n_experts) > 0;
    const bool is_certain = is_known && mean < SY_HEALTH_ENTROPY_LIMIT * most;
    if (is_certain && !h->state[l].is_certain) {
        snprintf(
            sentence, sizeof sentence,
            "layer %d: the router's entropy was %.3f of at most %.3f nats over %d steps: it is "
            "certain of nearly every token and learns little; a larger moe.z_loss_coeff keeps "
            "logits small",
            h->layer_idx[l], mean, most, h->n_steps);
        speak(to, sentence);
    }
    h->state[l].is_certain = is_certain;
}

static void look_for_growth(sy_health *h, int32_t l, voice *to)
{
    char sentence[SENTENCE_BYTES];
    layer_state *state = &h->state[l];
    const double mean = h->sums[l].output_rms / h->n_steps;
    const bool is_growing =
        state->output_before > 0 && !(mean <= SY_HEALTH_GROWTH_LIMIT * state->output_before);
    if (is_growing && !state->is_growing) {
        snprintf(sentence, sizeof sentence,
                 "layer %d: the experts' output grew from %.3g to %.3g times the size of their "
                 "input within %d steps",
                 h->layer_idx[l], state->output_before, mean, h->n_steps);
        speak(to, sentence);
    }
    state->is_growing = is_growing;
    state->output_before = isfinite(mean) ? mean : state->output_before;
}

static void say_info(void *arg, const char *sentence)
{
    (void)arg;
    sy_info("%s", sentence);
}

static void end_window(sy_health *h, void (*say)(void *arg, const char *sentence), void *arg)
{
    static const struct {
        const char *kind;
        void (*look)(sy_health *h, int32_t l, voice *to);
    } looks[] = {{"experts without a token", look_for_dead},
                 {"dropped rows", look_for_drops},
                 {"uneven load", look_for_uneven},
                 {"drops at the end of sequences", look_for_late_drops},
                 {"a router that is certain", look_for_certainty},
                 {"growing outputs", look_for_growth}};
    for (size_t i = 0; i < sizeof looks / sizeof looks[0]; i++) {
        voice to = {.say = say != NULL ? say : say_info, .arg = arg, .kind = looks[i].kind};
        for (int32_t l = 0; l < h->spec.n_layers; l++) {
            looks[i].look(h, l, &to);
        }
        end_kind(&to);
    }
    int64_t L = h->spec.n_layers, E = h->spec.n_experts;
    memset(h->load, 0, (size_t)(L * E) * sizeof *h->load);
    memset(h->dropped, 0, (size_t)L * sizeof *h->dropped);
    memset(h->sums, 0, (size_t)L * sizeof *h->sums);
    h->n_steps = 0;
}

/* What a step does not say counts as nothing wrong. */
static void add_layer(sy_health *h, const sy_health_step *step, int32_t l)
{
    layer_sums *sums = &h->sums[l];
    h->dropped[l] += step->dropped != NULL ? step->dropped[l] : 0;
    sums->entropy += step->entropy != NULL ? step->entropy[l] : log(h->spec.n_experts);
    sums->output_rms += step->output_rms != NULL ? step->output_rms[l] : 0;
    for (int32_t i = 0; i < SY_HEALTH_PARTS && step->dropped_at != NULL; i++) {
        sums->dropped_at[i] += step->dropped_at[l * SY_HEALTH_PARTS + i];
    }
}

void sy_health_observe(sy_health *health, const sy_health_step *step,
                       void (*say)(void *arg, const char *sentence), void *arg)
{
    int64_t n = (int64_t)health->spec.n_layers * health->spec.n_experts;
    for (int64_t i = 0; i < n; i++) {
        health->load[i] += step->load[i];
    }
    for (int32_t l = 0; l < health->spec.n_layers; l++) {
        add_layer(health, step, l);
    }
    health->last = figures_of(health, step);
    if (++health->n_steps == health->spec.window) {
        end_window(health, say, arg);
    }
}
