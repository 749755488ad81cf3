/* Prefix language modelling and denoisers: what a sequence becomes, taken apart again; and over
   many of them the shares and lengths that the mixture is said to have. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "core/alloc.h"
#include "data/objective.h"

enum { S = 512, SENTINEL = 9999, N_SENTINELS = 300, MODE = 5000, EOD = 4999, MAX_S = 2048 };

typedef struct sequence {
    int32_t ids[MAX_S], targets[MAX_S], pos[MAX_S];
    uint8_t routed[MAX_S];
    sy_objective_counts count;
} sequence;

static sy_objective_spec spec_of(sy_objective objective)
{
    return (sy_objective_spec){objective, S, SENTINEL, N_SENTINELS, {MODE, MODE + 1, MODE + 2},
                               EOD};
}

/* Token i of sequence k is i + 1, so that every token tells where it stood. */
static void make(sy_objective_maker *maker, int64_t k, sequence *out)
{
    int32_t tokens[MAX_S + 1];
    for (int32_t i = 0; i <= MAX_S; i++) {
        tokens[i] = i + 1;
    }
    out->count = sy_objective_make(
        maker, 7, k, tokens, &(sy_objective_out){out->ids, out->targets, out->pos, out->routed});
}

/* ids and targets are one text, shifted; text [*n]; *first_aimed: where the targets begin. */
static void join(const sequence *s, int32_t length, int32_t *text, int32_t *n, int32_t *first_aimed)
{
    int32_t n_loss = 0;
    *first_aimed = -1;
    *n = s->count.n_routed + 1;
    assert_true(*n <= length + 1);
    text[0] = s->ids[0];
    for (int32_t t = 0; t < length; t++) {
        assert_int_equal(s->pos[t], t);
        assert_int_equal(s->routed[t], t < s->count.n_routed);
        if (t >= s->count.n_routed) {
            assert_int_equal(s->targets[t], -1);
            continue;
        }
        assert_true(t == 0 || s->targets[t - 1] < 0 || s->targets[t - 1] == s->ids[t]);
        text[t] = s->ids[t];
        if (s->targets[t] >= 0) {
            *first_aimed = *first_aimed < 0 ? t + 1 : *first_aimed;
            text[t + 1] = s->targets[t];
            n_loss++;
        } else {
            assert_true(*first_aimed < 0); /* the loss, once begun, does not pause */
        }
    }
    assert_int_equal(n_loss, s->count.n_loss);
    assert_int_equal(n_loss, *n - *first_aimed);
}

static void prefixes_are_split_anywhere(void **state)
{
    enum { N = 20000 };
    const sy_objective_spec spec = spec_of(SY_OBJECTIVE_PREFIX_LM);
    sy_objective_maker *maker = NULL;
    double sum = 0;
    int32_t shortest = S, longest = 0;
    (void)state;
    assert_int_equal(sy_objective_create(&spec, &maker), SY_OK);
    for (int64_t k = 0; k < N; k++) {
        static sequence s;
        int32_t text[MAX_S + 1], n, aimed;
        make(maker, k, &s);
        join(&s, S, text, &n, &aimed);
        assert_int_equal(n, S + 1);
        assert_int_equal(text[0], MODE + SY_MODE_S2S);
        for (int32_t i = 1; i < n; i++) {
            assert_int_equal(text[i], i);
        }
        const int32_t inputs = aimed - 1;
        sum += inputs;
        shortest = inputs < shortest ? inputs : shortest;
        longest = inputs > longest ? inputs : longest;
    }
    assert_int_equal(shortest, 1);
    assert_int_equal(longest, S - 1);
    assert_true(sum / N > 0.49 * S && sum / N < 0.51 * S);
    sy_objective_destroy(&maker);
    assert_int_equal(sy_alloc_live(), 0);
}

typedef struct tally {
    int64_t sequences, tokens, lost, spans, first_kept;
} tally;

/* Put the spans back where their sentinels stand: the text as it was. */
static void restore(const int32_t *text, int32_t n, int32_t aimed, tally *t)
{
    int32_t next = 1, at = aimed, n_spans = 0;
    for (int32_t i = 1; i < aimed; i++) {
        if (text[i] <= MAX_S) {
            assert_int_equal(text[i], next++);
            continue;
        }
        assert_int_equal(text[i], SENTINEL - n_spans);
        assert_int_equal(text[at++], SENTINEL - n_spans++);
        const int32_t before = next;
        while (at < n && text[at] <= MAX_S) {
            assert_int_equal(text[at++], next++);
        }
        assert_true(next > before);
        t->lost += next - before;
    }
    assert_int_equal(at, n - 1);
    assert_int_equal(text[at], EOD);
    assert_true(text[1] <= MAX_S); /* text comes first, a span last */
    t->sequences++;
    t->tokens += next - 1;
    t->spans += n_spans;
}

static void spans_can_be_put_back_and_have_their_shares(void **state)
{
    enum { N = 20000 };
    const sy_objective_spec spec = spec_of(SY_OBJECTIVE_UL2);
    sy_objective_maker *maker = NULL;
    tally of[SY_N_MODES] = {{0}};
    (void)state;
    assert_int_equal(sy_objective_create(&spec, &maker), SY_OK);
    for (int64_t k = 0; k < N; k++) {
        static sequence s;
        int32_t text[MAX_S + 1], n, aimed;
        make(maker, k, &s);
        join(&s, S, text, &n, &aimed);
        const int32_t mode = text[0] - MODE;
        assert_in_range(mode, 0, SY_N_MODES - 1);
        if (mode == SY_MODE_S2S) {
            of[mode].sequences++;
        } else {
            restore(text, n, aimed, &of[mode]);
            assert_true(n >= S - 3); /* little room is left */
        }
    }
    const tally *nlu = &of[SY_MODE_NLU], *nlg = &of[SY_MODE_NLG];
    assert_in_range(of[SY_MODE_S2S].sequences, N * 49 / 100, N * 51 / 100);
    assert_in_range(nlu->sequences, N * 19 / 100, N * 21 / 100);
    assert_in_range(nlg->sequences, N * 29 / 100, N * 31 / 100);
    assert_true(fabs((double)nlu->lost / (double)nlu->tokens - 0.15) < 0.002);
    assert_true(fabs((double)nlg->lost / (double)nlg->tokens - 0.5) < 0.002);
    /* half of the short ones have a mean of 3, half of 8: by number of spans 2 / (1/3 + 1/8) */
    assert_true(fabs((double)nlu->lost / (double)nlu->spans - 4.36) < 0.2);
    assert_true((double)nlg->lost / (double)nlg->spans > 5);
    sy_objective_destroy(&maker);
    assert_int_equal(sy_alloc_live(), 0);
}

static void sequences_are_functions_of_their_number(void **state)
{
    static sequence first[50], again;
    const sy_objective_spec spec = spec_of(SY_OBJECTIVE_UL2);
    sy_objective_maker *maker = NULL;
    int32_t n_same = 0;
    (void)state;
    assert_int_equal(sy_objective_create(&spec, &maker), SY_OK);
    for (int64_t k = 0; k < 50; k++) {
        make(maker, k, &first[k]);
    }
    for (int64_t k = 49; k >= 0; k--) {
        make(maker, k, &again);
        assert_memory_equal(again.ids, first[k].ids, sizeof again.ids);
        assert_memory_equal(again.targets, first[k].targets, sizeof again.targets);
        n_same +=
            k > 0 && memcmp(again.targets, first[k - 1].targets, S * sizeof *again.targets) == 0;
    }
    assert_int_equal(n_same, 0);
    sy_objective_destroy(&maker);
}

/* No modes, no end, few sentinels, short sequences: everything still fits and can be put back. */
static void small_settings_fit(void **state)
{
    (void)state;
    for (int32_t length = 8; length < 80; length += 7) {
        for (int32_t sentinels = 1; sentinels < 12; sentinels += 5) {
            const sy_objective_spec spec = {SY_OBJECTIVE_UL2, length,       SENTINEL,
                                            sentinels,        {-1, -1, -1}, /* eod */ -1};
            sy_objective_maker *maker = NULL;
            assert_int_equal(sy_objective_create(&spec, &maker), SY_OK);
            for (int64_t k = 0; k < 300; k++) {
                static sequence s;
                int32_t text[MAX_S + 1], n, aimed;
                make(maker, k, &s);
                join(&s, length, text, &n, &aimed);
                assert_true(s.count.n_loss >= 1);
                for (int32_t i = 0; i < n; i++) {
                    assert_true(text[i] <= length + 1 || text[i] > SENTINEL - sentinels);
                }
            }
            sy_objective_destroy(&maker);
        }
    }
    assert_int_equal(sy_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefixes_are_split_anywhere),
        cmocka_unit_test(spans_can_be_put_back_and_have_their_shares),
        cmocka_unit_test(sequences_are_functions_of_their_number),
        cmocka_unit_test(small_settings_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
