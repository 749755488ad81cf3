/* Slots per expert: C = ceil(CF T K / E) in exact arithmetic, its lower and upper bound, which of
   the two factors is used, and what each published system makes of the same factor. And who keeps
   a slot, in every order, beside an oracle that lets every choice ask all others. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "core/rng.h"
#include "moe/capacity.h"

static sy_moe_config make(double factor, int32_t K, int32_t E)
{
    return (sy_moe_config){
        .experts = E, .top_k = K, .capacity_factor = {.set = true, .value = factor}};
}

static void slots_are_the_share_of_the_assignments_rounded_up(void **state)
{
    static const struct {
        double factor;
        int32_t K, E;
        int64_t T, C;
    } cases[] = {
        {1.0, 1, 4, 16, 4},
        {1.0, 2, 4, 16, 8},
        {1.0, 1, 4, 17, 5},
        {1.0, 2, 4, 17, 9},
        {1.25, 2, 8, 64, 20},
        {1.25, 1, 8, 65, 11},
        {0.5, 1, 4, 16, 2},
        {0.1, 1, 8, 16, 1},
        {1.5, 2, 64, 10, 1},
        {2.0, 1, 3, 7, 5},
        {1.0, 8, 256, 8192, 256},
        {1.25, 2, 16, 1000, 157}, /* as Megatron and DeepSpeed count; Switch and T5X: 78 */
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_moe_config c = make(cases[i].factor, cases[i].K, cases[i].E);
        assert_int_equal(sy_capacity_slots(&c, false, cases[i].T), cases[i].C);
    }
}

/* CF = hundredths / 100 and E divides T K, so that the wanted C comes from whole numbers alone. */
static void decimal_factors_give_the_exact_ceiling(void **state)
{
    sy_moe_config ten = make(1.1, 1, 8);
    (void)state;
    assert_int_equal(sy_capacity_slots(&ten, false, 80), 11); /* 1.1 * 10: above 11 in binary */
    for (int32_t hundredths = 1; hundredths <= 400; hundredths++) {
        for (int64_t share = 1; share <= 200;
             share++) { /* T K / E, with T = 8 share, K / E = 1/8 */
            sy_moe_config c = make(hundredths / 100.0, 1, 8);
            int64_t want = (hundredths * share + 99) / 100;
            int64_t got = sy_capacity_slots(&c, false, 8 * share);
            if (got != want) {
                fail_msg("factor 0.01 * %d, share %ld: %ld slots, not %ld", hundredths, (long)share,
                         (long)got, (long)want);
            }
        }
    }
}

static void a_small_excess_is_still_rounded_up(void **state)
{
    sy_moe_config c = make(1.000001, 1, 8);
    (void)state;
    assert_int_equal(sy_capacity_slots(&c, false, 80), 11);
    assert_int_equal(sy_capacity_slots(&c, false, 8000), 1001);
}

static void min_capacity_is_the_least_and_T_the_most(void **state)
{
    sy_moe_config c = make(1.0, 1, 8);
    (void)state;
    c.min_capacity = 4;
    assert_int_equal(sy_capacity_slots(&c, false, 16), 4);
    assert_int_equal(sy_capacity_slots(&c, false, 32), 4);
    assert_int_equal(sy_capacity_slots(&c, false, 33), 5);
    assert_int_equal(sy_capacity_slots(&c, false, 3), 3); /* no expert gets a token twice */
    assert_int_equal(sy_capacity_slots(&c, false, 0), 0);
    c = make(100, 2, 4);
    assert_int_equal(sy_capacity_slots(&c, false, 16), 16);
}

static void null_factor_is_unlimited_whatever_min_capacity_says(void **state)
{
    sy_moe_config c = {.experts = 8, .top_k = 2, .min_capacity = 4};
    (void)state;
    assert_int_equal(sy_capacity_slots(&c, false, 64), -1);
    assert_int_equal(sy_capacity_slots(&c, true, 64), -1);
    assert_int_equal(sy_capacity_slots(&c, false, 0), -1);
}

static void eval_uses_its_own_factor(void **state)
{
    sy_moe_config c = make(1.0, 1, 8);
    (void)state;
    assert_int_equal(sy_capacity_slots(&c, true, 64), -1);
    c.eval_capacity_factor = (sy_opt_f64){.set = true, .value = 2.0};
    assert_int_equal(sy_capacity_slots(&c, true, 64), 16);
    assert_int_equal(sy_capacity_slots(&c, false, 64), 8);
    c.capacity_factor.set = false;
    assert_int_equal(sy_capacity_slots(&c, true, 64), 16);
    assert_int_equal(sy_capacity_slots(&c, false, 64), -1);
}

/* T tokens, E = 16, K = 2, factor 1.25: what the codes in algorithms of each system come to. */
static void published_systems_have_their_slots(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t basis, rounding, min, multiple;
        double factor;
        int64_t of_1000, of_16, of_1010; /* tokens */
    } cases[] = {
        {"Switch, mesh-TF", SY_BASIS_TOKEN, SY_ROUND_FLOOR, 4, 1, 1.25, 78, 4, 78},
        {"flaxformer", SY_BASIS_TOKEN, SY_ROUND_NEAREST, 4, 1, 1.25, 78, 4, 79},
        {"Lingvo", SY_BASIS_TOKEN, SY_ROUND_FLOOR, 4, 4, 1.25, 80, 4, 80},
        {"V-MoE", SY_BASIS_ASSIGNMENT, SY_ROUND_CEIL, 1, 4, 1.25, 160, 4, 160},
        {"Megatron-LM", SY_BASIS_ASSIGNMENT, SY_ROUND_CEIL, 0, 1, 1.25, 157, 3, 158},
        {"DeepSpeed", SY_BASIS_ASSIGNMENT, SY_ROUND_CEIL, 4, 1, 1.25, 157, 4, 158},
        {"Tutel", SY_BASIS_ASSIGNMENT, SY_ROUND_PER_CHOICE, 0, 1, 1.25, 156, 2, 160},
        {"FastMoE", SY_BASIS_ASSIGNMENT, SY_ROUND_PER_RANK, 0, 1, 1.25, 156, 2, 157},
        {"MegaBlocks", SY_BASIS_ASSIGNMENT, SY_ROUND_FLOOR, 0, 1, 1.25, 156, 2, 157},
        {"fairseq", SY_BASIS_ASSIGNMENT, SY_ROUND_PER_CHOICE, 0, 1, 1.0, 126, 2, 128},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t T[3] = {1000, 16, 1010};
        const int64_t want[3] = {cases[i].of_1000, cases[i].of_16, cases[i].of_1010};
        sy_moe_config c = make(cases[i].factor, 2, 16);
        c.capacity_basis = cases[i].basis;
        c.capacity_rounding = cases[i].rounding;
        c.capacity_multiple = cases[i].multiple;
        c.min_capacity = cases[i].min;
        for (int32_t k = 0; k < 3; k++) {
            const int64_t got = sy_capacity_slots(&c, false, T[k]);
            if (got != want[k]) {
                fail_msg("%s, %ld tokens: %ld slots, not %ld", cases[i].name, (long)T[k], (long)got,
                         (long)want[k]);
            }
        }
    }
}

static void nearest_takes_halves_to_even(void **state)
{
    (void)state;
    sy_moe_config c = make(1, 1, 2);
    c.capacity_rounding = SY_ROUND_NEAREST;
    for (int64_t T = 1; T < 40; T++) {
        assert_int_equal(sy_capacity_slots(&c, false, T), (int64_t)rint((double)T / 2));
    }
}

static void groups_and_ranks_make_room_for_what_they_may_keep(void **state)
{
    (void)state;
    sy_moe_config c = make(1, 2, 8);
    assert_int_equal(sy_capacity_rows(&c, 0, false, 64, 4), 16);
    c.capacity_scope = SY_CAPACITY_GLOBAL; /* one rank may fill what is there for all of them */
    assert_int_equal(sy_capacity_rows(&c, 0, false, 64, 2), 32);
    assert_int_equal(sy_capacity_rows(&c, 0, false, 64, 100), 64);
    assert_int_equal(sy_capacity_tokens(&c, 64, 4), 256);
    c.capacity_scope = SY_CAPACITY_RANK;
    c.capacity_group = 24; /* 6 of each of the two whole ones, and of the rest */
    assert_int_equal(sy_capacity_rows(&c, 0, false, 64, 4), 18);
    assert_int_equal(sy_capacity_tokens(&c, 64, 4), 24);
    assert_int_equal(sy_capacity_rows(&c, 0, false, 0, 4), 0);
}

/* ---- who keeps a slot ---- */

enum { T = 23, K = 3, E = 5 };

typedef struct rig {
    sy_device *dev;
    sy_stream *stream;
    sy_arena scratch;
    double p[T * E], priority[T * K];
    int32_t expert[T * K];
    uint8_t kept[T * K];
    int64_t token_glb[T];
} rig;

/* K different experts of a token, the best first; some have fewer. Few values: ties. */
static void draw(rig *r, uint64_t seed)
{
    memset(r->expert, 0xff, sizeof r->expert);
    for (int32_t i = 0; i < T * E; i++) {
        r->p[i] = (double)(sy_rng_u64(seed, SY_RNG_TEST, (uint64_t)i) % 7) / 8;
    }
    for (int32_t t = 0; t < T; t++) {
        const int32_t n = (int32_t)(sy_rng_u64(seed + 1, SY_RNG_TEST, (uint64_t)t) % (K + 1));
        r->token_glb[t] = 100 + t;
        for (int32_t k = 0; k < K; k++) {
            const double *p = r->p + t * E;
            int32_t best = -1;
            for (int32_t e = 0; e < E && k < n; e++) {
                bool taken = false;
                for (int32_t j = 0; j < k; j++) {
                    taken = taken || r->expert[t * K + j] == e;
                }
                best = !taken && (best < 0 || p[e] > p[best]) ? e : best;
            }
            r->expert[t * K + k] = best;
            r->priority[t * K + k] = best >= 0 ? 0.5 * p[best] : 0; /* weights are not scores */
        }
    }
}

/* Does choice (u, j) have its slot before (t, k)? */
static bool is_before(const rig *r, int32_t policy, int32_t u, int32_t j, int32_t t, int32_t k)
{
    const int32_t *expert = r->expert;
    double mine = 0, other = 0;
    if (policy == SY_DROP_PROBABILITY) {
        mine = r->priority[t * K + k];
        other = r->priority[u * K + j];
    } else if (policy == SY_DROP_BATCH_PRIORITY) {
        mine = r->p[t * E + expert[t * K]];
        other = r->p[u * E + expert[u * K]];
    } else if (policy == SY_DROP_RANDOM) {
        const uint64_t stream = ((uint64_t)SY_RNG_DROP << 56) ^ (3ULL << 40) ^ 7;
        mine = sy_rng_uniform(11, stream, (uint64_t)(r->token_glb[t] * K + k));
        other = sy_rng_uniform(11, stream, (uint64_t)(r->token_glb[u] * K + j));
    }
    if ((policy == SY_DROP_POSITION || policy == SY_DROP_BATCH_PRIORITY) && j != k) {
        return j < k;
    }
    return mine != other ? other > mine : u != t ? u < t : j < k;
}

static void assert_kept(const rig *r, const sy_moe_config *c)
{
    const int32_t G = c->capacity_group > 0 ? c->capacity_group : T;
    for (int32_t i = 0; i < T * K; i++) {
        const int32_t first = i / K / G * G, last = first + G < T ? first + G : T;
        int64_t n_before = 0;
        for (int32_t o = first * K; o < last * K; o++) {
            n_before += o != i && r->expert[o] == r->expert[i] &&
                        is_before(r, c->drop_policy, o / K, o % K, i / K, i % K);
        }
        const bool want = r->expert[i] >= 0 && n_before < sy_capacity_slots(c, false, last - first);
        if (want != (r->kept[i] != 0)) {
            fail_msg("policy %d, groups of %d: choice %d of token %d is %s", c->drop_policy, G,
                     i % K, i / K, want ? "dropped" : "kept");
        }
    }
}

static void keep(rig *r, const sy_moe_config *c)
{
    const sy_device_batch batch = {
        .B = 1, .S = T, .T = T, .token_glb = sy_tensor_1d(r->token_glb, SY_I64, T)};
    sy_pass p = {.kind = SY_PASS_TRAIN,
                 .step = 7,
                 .seed = 11,
                 .layer = 3,
                 .wide = SY_F64,
                 .compute = SY_F64,
                 .batch = &batch,
                 .T_max = T,
                 .stream = r->stream,
                 .scratch = &r->scratch};
    const sy_scores s = {.p = sy_tensor_2d(r->p, SY_F64, T, E)};
    sy_choices choices = {.T = T,
                          .K = K,
                          .expert = sy_tensor_2d(r->expert, SY_I32, T, K),
                          .kept = sy_tensor_2d(r->kept, SY_U8, T, K),
                          .priority = sy_tensor_2d(r->priority, SY_F64, T, K)};
    memset(r->kept, 7, sizeof r->kept);
    assert_int_equal(sy_capacity_apply(c, 0, &p, &s, &choices), SY_OK);
    assert_int_equal(sy_stream_sync(r->stream), SY_OK);
}

static void open_rig(rig *r)
{
    assert_int_equal(sy_device_open(&(sy_device_spec){.backend = "ref", .threads = 1}, &r->dev),
                     SY_OK);
    assert_int_equal(sy_stream_create(r->dev, "compute", &r->stream), SY_OK);
    assert_int_equal(sy_arena_init(&r->scratch, r->dev, 1 << 20, SY_MEM_SCRATCH), SY_OK);
}

static void close_rig(rig *r)
{
    sy_arena_free(&r->scratch);
    sy_stream_destroy(&r->stream);
    sy_device_close(&r->dev);
}

static void choices_keep_their_slots_in_every_order(void **state)
{
    (void)state;
    static rig r;
    open_rig(&r);
    for (int32_t i = 0; i < 60; i++) {
        sy_moe_config c = make(0.1 + 0.1 * (i % 7), K, E);
        c.drop_policy = i % 5;
        c.capacity_group = i % 3 * 5;
        draw(&r, (uint64_t)(100 + 2 * i));
        keep(&r, &c);
        assert_kept(&r, &c);
    }
    close_rig(&r);
}

/* By hand: one slot for each of two experts; three tokens choose (0, 1), (0, 1) and (1, 0). */
static void one_slot_goes_to_whom_the_order_says(void **state)
{
    (void)state;
    static int32_t expert[6] = {0, 1, 0, 1, 1, 0};
    static double weight[6] = {.44, .40, .45, .10, .50, .48};
    static const uint8_t want[4][6] = {
        {1, 0, 0, 0, 1, 0},  /* position: who comes first and puts it first */
        {0, 0, 0, 0, 1, 1},  /* probability: .50 and .48, though a second choice */
        {0, 0, 1, 0, 1, 0},  /* batch_priority: first choices, .45 before .44 */
        {1, 1, 0, 0, 0, 0}}; /* token_position: token 0 has both */
    static rig r;
    open_rig(&r);
    for (int32_t policy = 0; policy < 4; policy++) {
        const bool sorted = policy == SY_DROP_PROBABILITY || policy == SY_DROP_BATCH_PRIORITY;
        uint8_t kept[6];
        const sy_capacity_args args = {
            .expert = sy_tensor_2d(expert, SY_I32, 3, 2),
            .kept = sy_tensor_2d(kept, SY_U8, 3, 2),
            .priority = sorted ? sy_tensor_2d(weight, SY_F64, 3, 2) : sy_tensor_none(),
            .E = 2,
            .capacity = 1,
            .by_choice = policy == SY_DROP_POSITION || policy == SY_DROP_BATCH_PRIORITY};
        assert_int_equal(sy_capacity(r.stream, &args), SY_OK);
        assert_int_equal(sy_stream_sync(r.stream), SY_OK);
        assert_memory_equal(kept, want[policy], sizeof kept);
    }
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_the_share_of_the_assignments_rounded_up),
        cmocka_unit_test(decimal_factors_give_the_exact_ceiling),
        cmocka_unit_test(a_small_excess_is_still_rounded_up),
        cmocka_unit_test(min_capacity_is_the_least_and_T_the_most),
        cmocka_unit_test(null_factor_is_unlimited_whatever_min_capacity_says),
        cmocka_unit_test(eval_uses_its_own_factor),
        cmocka_unit_test(published_systems_have_their_slots),
        cmocka_unit_test(nearest_takes_halves_to_even),
        cmocka_unit_test(groups_and_ranks_make_room_for_what_they_may_keep),
        cmocka_unit_test(choices_keep_their_slots_in_every_order),
        cmocka_unit_test(one_slot_goes_to_whom_the_order_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
