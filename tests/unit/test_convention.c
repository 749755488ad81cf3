/* Coefficients of other codes: a small version of each code's formula, written from its own terms,
   over random routers of several layers, against the house's losses times the factor that is
   claimed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/rng.h"
#include "moe/convention.h"

enum { T = 24, E = 6, L = 3, MAX_K = 3, S = 8 };

/* Probabilities, choices and log-sum-exps of a layer. */
typedef struct layer {
    double p[T][E], lse[T];
    int32_t choice[T][MAX_K];
} layer;

static void draw(layer *l, uint64_t seed)
{
    for (int32_t t = 0; t < T; t++) {
        double sum = 0, z[E];
        bool taken[E] = {false};
        for (int32_t e = 0; e < E; e++) {
            z[e] = sy_rng_normal(seed, SY_RNG_TEST, (uint64_t)(t * E + e));
            sum += exp(z[e]);
        }
        l->lse[t] = log(sum);
        for (int32_t e = 0; e < E; e++) {
            l->p[t][e] = exp(z[e]) / sum;
        }
        for (int32_t k = 0; k < MAX_K; k++) {
            int32_t best = -1;
            for (int32_t e = 0; e < E; e++) {
                best = !taken[e] && (best < 0 || z[e] > z[best]) ? e : best;
            }
            taken[best] = true;
            l->choice[t][k] = best;
        }
    }
}

static double mean_p(const layer *l, int32_t e, int32_t from, int32_t to)
{
    double sum = 0;
    for (int32_t t = from; t < to; t++) {
        sum += l->p[t][e];
    }
    return sum / (to - from);
}

static double count(const layer *l, int32_t e, int32_t K, int32_t from, int32_t to)
{
    double n = 0;
    for (int32_t t = from; t < to; t++) {
        for (int32_t k = 0; k < K; k++) {
            n += l->choice[t][k] == e;
        }
    }
    return n;
}

static double mean_square(const layer *l)
{
    double sum = 0;
    for (int32_t t = 0; t < T; t++) {
        sum += l->lse[t] * l->lse[t];
    }
    return sum / T;
}

/* ---- the house: sums over layers, f sums to 1 ---- */

static double house_balance(const layer *l, int32_t K, sy_aux_counts counts, int32_t scope)
{
    const int32_t n = scope == SY_AUX_SEQUENCE ? S : T,
                  counted = counts == SY_AUX_COUNT_FIRST ? 1 : K;
    double loss = 0;
    for (int32_t i = 0; i < L; i++) {
        for (int32_t from = 0; from < T; from += n) {
            for (int32_t e = 0; e < E; e++) {
                const double f = count(&l[i], e, counted, from, from + n) / (counted * n);
                loss += E * f * mean_p(&l[i], e, from, from + n) * n / T;
            }
        }
    }
    return loss;
}

static double house_z(const layer *l)
{
    double loss = 0;
    for (int32_t i = 0; i < L; i++) {
        loss += mean_square(&l[i]);
    }
    return loss;
}

/* ---- the others, each in its own words ---- */

/* aggregated probabilities times tokens per expert, E / (T T K). */
static double megatron(const layer *l, int32_t K)
{
    double loss = 0;
    for (int32_t i = 0; i < L; i++) {
        for (int32_t e = 0; e < E; e++) {
            double aggregated = 0;
            for (int32_t t = 0; t < T; t++) {
                aggregated += l[i].p[t][e];
            }
            loss += aggregated * count(&l[i], e, K, 0, T) * E / ((double)T * T * K);
        }
    }
    return loss;
}

/* top-1: sum(me ce) E; top-2: mean(me ce) E E, both of the first mask; top-k: mean(me ce) E E / k
   of the whole mask. */
static double deepspeed(const layer *l, int32_t K)
{
    double loss = 0;
    for (int32_t i = 0; i < L; i++) {
        double sum = 0;
        for (int32_t e = 0; e < E; e++) {
            sum += mean_p(&l[i], e, 0, T) * count(&l[i], e, K > 2 ? K : 1, 0, T) / T;
        }
        loss += K == 1 ? sum * E : K == 2 ? sum / E * E * E : sum / E * E * E / K;
    }
    return loss;
}

/* sum(me ce) / T with me a sum over tokens, ce a sum of E / T where the first choice is. */
static double tutel(const layer *l, int32_t K)
{
    double loss = 0;
    (void)K;
    for (int32_t i = 0; i < L; i++) {
        for (int32_t e = 0; e < E; e++) {
            double me = 0, ce = 0;
            for (int32_t t = 0; t < T; t++) {
                me += l[i].p[t][e];
                ce += l[i].choice[t][0] == e ? (double)E / T : 0;
            }
            loss += me * ce / T;
        }
    }
    return loss;
}

/* All layers' tokens behind each other; a mean mask per slot. */
static double hf(const layer *l, int32_t K)
{
    double loss = 0;
    for (int32_t k = 0; k < K; k++) {
        for (int32_t e = 0; e < E; e++) {
            double mask = 0, p = 0;
            for (int32_t i = 0; i < L; i++) {
                for (int32_t t = 0; t < T; t++) {
                    mask += l[i].choice[t][k] == e;
                    p += l[i].p[t][e];
                }
            }
            loss += mask / (L * T) * (p / (L * T));
        }
    }
    return loss * E;
}

/* E / (L T K) times the dot product of counts and mean scores, over all layers. */
static double megablocks(const layer *l, int32_t K)
{
    double dot = 0;
    for (int32_t i = 0; i < L; i++) {
        for (int32_t e = 0; e < E; e++) {
            dot += count(&l[i], e, K, 0, T) * mean_p(&l[i], e, 0, T);
        }
    }
    return dot * E / ((double)L * T * K);
}

/* E / (tokens K) of the same dot product, added up over layers. */
static double olmo_core(const layer *l, int32_t K)
{
    return megablocks(l, K) * L;
}

/* mean over experts of (share of tokens that chose it) (mean p), E^2; mean over layers. */
static double flaxformer(const layer *l, int32_t K)
{
    double loss = 0;
    for (int32_t i = 0; i < L; i++) {
        for (int32_t e = 0; e < E; e++) {
            loss += count(&l[i], e, K, 0, T) / T * mean_p(&l[i], e, 0, T) / E * E * E / L;
        }
    }
    return loss;
}

/* mean over experts of density_1 times density_1_proxy, E^2. */
static double mesh(const layer *l, int32_t K)
{
    (void)K;
    return flaxformer(l, 1) * L;
}

/* mean over sequences of sum f_i P_i with f_i = E / (K S) n_i. */
static double deepseek(const layer *l, int32_t K)
{
    double loss = 0;
    for (int32_t i = 0; i < L; i++) {
        for (int32_t s = 0; s < T / S; s++) {
            for (int32_t e = 0; e < E; e++) {
                loss += (double)E / (K * S) * count(&l[i], e, K, s * S, (s + 1) * S) *
                        mean_p(&l[i], e, s * S, (s + 1) * S) / ((double)T / S);
            }
        }
    }
    return loss;
}

static const struct {
    const char *name;
    double (*balance)(const layer *l, int32_t K);
} codes[] = {{"megatron", megatron},
             {"deepspeed", deepspeed},
             {"tutel", tutel},
             {"hf", hf},
             {"megablocks", megablocks},
             {"olmoe", megablocks},
             {"olmo_core", olmo_core},
             {"flaxformer", flaxformer},
             {"mesh", mesh},
             {"lingvo", mesh},
             {"deepseek", deepseek}};
enum { N_CODES = sizeof codes / sizeof codes[0] };

static void near(const char *what, const char *code, int32_t K, double got, double want)
{
    if (!(fabs(got - want) <= 1e-12 * (1 + fabs(want)))) {
        fail_msg("%s of %s, K = %d: %.15g here, %.15g there", what, code, K, got, want);
    }
}

static void every_code_has_an_oracle(void **state)
{
    (void)state;
    int32_t n = 0;
    const sy_convention *c = sy_conventions(&n);
    assert_int_equal(n, N_CODES);
    for (int32_t i = 0; i < n; i++) {
        assert_string_equal(c[i].name, codes[i].name);
        assert_ptr_equal(sy_convention_find(c[i].name), &c[i]);
    }
    assert_null(sy_convention_find("megatrom"));
}

static void balance_losses_are_ours_times_the_factor(void **state)
{
    (void)state;
    const double c_theirs = 0.013;
    for (int32_t i = 0; i < N_CODES * MAX_K; i++) {
        const sy_convention *c = sy_convention_find(codes[i / MAX_K].name);
        const int32_t K = i % MAX_K + 1;
        layer l[L];
        for (int32_t k = 0; k < L; k++) { /* pooled: exact where layers are alike */
            draw(&l[k], (uint64_t)(40 + (c->pooled ? 0 : k)));
        }
        near("the balance loss", c->name, K,
             c_theirs * sy_convention_balance_factor(c, L, K) *
                 house_balance(l, K, sy_convention_counts(c, K), c->scope),
             c_theirs * codes[i / MAX_K].balance(l, K));
    }
}

static void pooled_layers_are_another_loss(void **state)
{
    (void)state;
    layer l[L];
    for (int32_t k = 0; k < L; k++) {
        draw(&l[k], (uint64_t)(40 + k));
    }
    const double ours = house_balance(l, 2, SY_AUX_COUNT_ALL, SY_AUX_MICRO_BATCH) * 2 / L;
    assert_true(fabs(ours - hf(l, 2)) > 1e-3);
}

/* mean lse^2 summed or averaged over layers; OLMoE's sum over L T K; mesh's times both. */
static void z_losses_are_ours_times_the_factor(void **state)
{
    (void)state;
    layer l[L];
    const double c_z = 0.002, c_balance = 0.03;
    for (int32_t k = 0; k < L; k++) {
        draw(&l[k], (uint64_t)(70 + k));
    }
    for (int32_t K = 1; K <= MAX_K; K++) {
        double sum = 0;
        for (int32_t i = 0; i < L; i++) {
            for (int32_t t = 0; t < T; t++) {
                sum += l[i].lse[t] * l[i].lse[t];
            }
        }
        const struct {
            const char *name;
            double loss;
        } theirs[] = {{"megatron", c_z * sum / T},
                      {"olmo_core", c_z * sum / T},
                      {"megablocks", c_z * sum / T / L},
                      {"flaxformer", c_z * sum / T / L},
                      {"olmoe", c_z * sum / (L * T * K)},
                      {"mesh", c_balance * (c_z * sum / T)},
                      {"deepseek", 0},
                      {"hf", 0}};
        for (size_t i = 0; i < sizeof theirs / sizeof theirs[0]; i++) {
            const sy_convention *c = sy_convention_find(theirs[i].name);
            near("the z-loss", c->name, K,
                 c_z * sy_convention_z_factor(c, L, K, c_balance) * house_z(l), theirs[i].loss);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_an_oracle),
        cmocka_unit_test(balance_losses_are_ours_times_the_factor),
        cmocka_unit_test(pooled_layers_are_another_loss),
        cmocka_unit_test(z_losses_are_ours_times_the_factor),
    };
    return cmocka_run_group_tests_name("convention", tests, NULL, NULL);
}
