/* Modules that predict further tokens: which tokens they see; that their losses are the plain
   formula of DeepSeek-V3's report (2.2), and that the model's own loss and evaluation do not
   change. Gradients are in test_moe_gradient, layouts and restarts in tests/mpi/test_routers. */
#include <stdlib.h>

#include "core/rng.h"
#include "model/flops.h"
#include "model/mtp.h"
#include "tests/support/plain_block.h"
#include "train/engine.h"

enum { B = 2, S = PLAIN_S, T = B * S, V = PLAIN_V, H = PLAIN_H, D = 2, MAX_SET = 4 };

static void must(sy_status st)
{
    if (st != SY_OK) {
        fail_msg("%s", sy_error_message());
    }
}

/* ---- which tokens ---- */

static void module_sees_tokens_further_ahead_inside_sequence_and_document(void **state)
{
    (void)state;
    static const int32_t ids[8] = {10, 11, 12, 13, 20, 21, 22, 23};
    static const int32_t targets[8] = {11, 12, 13, 14, 21, -1, 23, 24};
    static const int32_t doc[8] = {0, 0, 1, 1, 0, 0, 0, 0};
    static const float weight[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const uint8_t routed[8] = {1, 1, 1, 1, 1, 1, 1, 0};
    /* [case][token] of module 1: in documents, with padding; and of module 3, without either */
    static const int32_t seen[2][8] = {{11, 12, 13, 13, 21, 22, 23, 23},
                                       {13, 13, 13, 13, 23, 23, 23, 23}};
    static const int32_t aim[2][8] = {{12, -1, 14, -1, -1, 23, -1, -1},
                                      {14, -1, -1, -1, 24, -1, -1, -1}};
    static const float weighs[2][8] = {{2, 0, 4, 0, 0, 7, 0, 0}, {1, 0, 0, 0, 1, 0, 0, 0}};
    static const uint8_t there[2][8] = {{1, 0, 1, 0, 1, 1, 0, 0}, {1, 0, 0, 0, 1, 0, 0, 0}};
    for (int32_t k = 0; k < 2; k++) {
        int32_t got_ids[8], got_targets[8];
        float got_weight[8];
        uint8_t got_routed[8];
        const bool all = k == 0;
        sy_batch batch = {.B = 2,
                          .S = 4,
                          .ids = ids,
                          .targets = targets,
                          .doc = all ? doc : NULL,
                          .loss_weight = all ? weight : NULL,
                          .routed = all ? routed : NULL};
        sy_mtp_batch out = {got_ids, got_targets, got_weight, got_routed, 0, 0};
        sy_mtp_shift(&batch, all ? 1 : 3, &out);
        assert_memory_equal(got_ids, seen[k], sizeof got_ids);
        assert_memory_equal(got_targets, aim[k], sizeof got_targets);
        assert_memory_equal(got_weight, weighs[k], sizeof got_weight);
        assert_memory_equal(got_routed, there[k], sizeof got_routed);
        assert_true(out.n_aimed == (all ? 3 : 2) && out.n_routed == (all ? 4 : 2));
    }
}

/* ---- the model ---- */

static const char config_text[] =
    "run: {seed: 3}\n"
    "device: {backend: ref, threads: 1}\n"
    "model: {vocab_size: 64, hidden: 8, layers: 1, heads: 2, kv_heads: 1, ffn_hidden: 10,"
    " seq_len: 7}\n"
    "moe: {experts: 0}\n"
    "data: {tokenizer: none}\n"
    "train: {steps: 1, global_batch: 2, micro_batch: 2}\n";

typedef struct rig {
    sy_run_settings settings;
    sy_comm *world;
    sy_engine *e;
    int32_t ids[T], targets[T], pos[T], doc[T];
    int64_t token_glb[T];
} rig;

static void open_rig(rig *r, const char *const *set)
{
    int32_t n = 0;
    memset(r, 0, sizeof *r);
    while (set[n] != NULL) {
        n++;
    }
    must(sy_comm_world(false, &r->world));
    must(sy_run_settings_parse(config_text, sizeof config_text - 1, "test", set, n, &r->settings));
    sy_engine_spec spec = {.settings = &r->settings,
                           .world = r->world,
                           .use = SY_USE_TRAIN,
                           .B = B,
                           .S = S,
                           .threads = 1};
    must(sy_engine_create(&spec, &r->e));
    for (int32_t i = 0; i < r->e->params->n; i++) {
        const sy_param *p = r->e->params->param[i];
        double x[V * H];
        for (int64_t k = 0; k < sy_tensor_numel(&p->value); k++) {
            x[k] = 0.5 * sy_rng_normal(41, sy_rng_stream_of(p->spec.name), (uint64_t)k) +
                   (p->spec.init == SY_INIT_ONES);
        }
        must(sy_copy_h2d(r->e->compute_stream, p->value.data, x, sy_tensor_bytes(&p->value)));
        must(sy_stream_sync(r->e->compute_stream));
    }
    for (int32_t t = 0; t < T; t++) {
        r->ids[t] = (int32_t)(sy_rng_u64(7, SY_RNG_TEST, (uint64_t)t) % V);
        r->targets[t] = (int32_t)(sy_rng_u64(8, SY_RNG_TEST, (uint64_t)t) % V);
        r->pos[t] = t % S;
        r->doc[t] = t % S >= 4;
        r->token_glb[t] = t;
    }
    r->targets[2] = -1;
}

static void close_rig(rig *r)
{
    sy_engine_destroy(&r->e);
    sy_run_settings_free(&r->settings);
    sy_comm_destroy(&r->world);
}

static void run(rig *r, sy_pass_kind kind, double *nll)
{
    const sy_batch batch = {.B = B,
                            .S = S,
                            .ids = r->ids,
                            .targets = r->targets,
                            .pos = r->pos,
                            .doc = r->doc,
                            .token_glb = r->token_glb};
    sy_model_saved *saved = NULL;
    sy_pass p;
    must(sy_engine_zero_stats(r->e));
    must(sy_engine_begin(r->e, kind, &batch, 1, 0, &p));
    must(sy_model_forward(r->e->model, &p, kind == SY_PASS_TRAIN ? &saved : NULL));
    must(sy_engine_end(r->e, &p));
    must(sy_copy_d2h(r->e->compute_stream, nll, p.nll.data, sy_tensor_bytes(&p.nll)));
    must(sy_engine_reduce_stats(r->e));
}

/* ---- the same, said plainly ---- */

/* x = M [norm(embed); norm(h)] for the tokens of sequence b, all of them: those without a next one
   are nobody's concern. */
static void plain_join(const rig *of, const plain_text *r, int32_t b, int32_t k,
                       const double (*h)[H], double (*x)[H])
{
    const int32_t layer = k; /* one layer, then the modules */
    for (int32_t t = 0; t < S; t++) {
        const int32_t at = b * S + (t + k < S ? t + k : S - 1);
        double both[2 * H];
        plain_norm(plain_of_layer(r, layer, "mtp/embed_norm"),
                   plain_values(r, "embed") + of->ids[at] * H, both);
        plain_norm(plain_of_layer(r, layer, "mtp/hidden_norm"), h[t], both + H);
        plain_times(plain_of_layer(r, layer, "mtp/proj"), H, both, 2 * H, x[t]);
    }
}

/* nll[0] of the model, nll[k] of module k, summed over sequence b; n[k] their targets. */
static void plain_losses(const rig *of, int32_t b, double *nll, int32_t *n)
{
    static const int32_t all[S] = {0, 1, 2, 3, 4, 5, 6};
    const plain_text text = {of->e->params, of->pos, of->doc}, *r = &text;
    double x[S][H], h[S][H];
    for (int32_t t = 0; t < S; t++) {
        memcpy(x[t], plain_values(r, "embed") + of->ids[b * S + t] * H, sizeof x[t]);
    }
    for (int32_t k = 0; k <= D; k++) {
        if (k > 0) {
            plain_join(of, r, b, k, (const double(*)[H])h, x);
        }
        plain_block(r, k, S, all, x);
        for (int32_t t = 0; t < S; t++) {
            char name[32] = "norm";
            if (k > 0) {
                snprintf(name, sizeof name, "mtp/%03d/norm", k);
            }
            plain_norm(plain_values(r, name), x[t], h[t]);
            const bool there = t + k < S && of->doc[t] == of->doc[t + k];
            if (there && of->targets[b * S + t + k] >= 0) {
                nll[k] += plain_nll(r, h[t], of->targets[b * S + t + k]);
                n[k]++;
            }
        }
    }
}

static void losses_are_those_of_the_plain_formula(void **state)
{
    (void)state;
    static const char *const sets[2][MAX_SET] = {
        {"model.mtp_layers=2", NULL}, {"model.mtp_layers=2", "train.recompute=block", NULL}};
    for (int32_t i = 0; i < 2; i++) {
        double wanted[D + 1] = {0}, nll[T], own = 0;
        int32_t n[D + 1] = {0};
        rig r;
        open_rig(&r, sets[i]);
        for (int32_t b = 0; b < B; b++) {
            plain_losses(&r, b, wanted, n);
        }
        run(&r, SY_PASS_TRAIN, nll);
        for (int32_t t = 0; t < T; t++) {
            own += nll[t];
        }
        assert_true(fabs(own - wanted[0]) < 1e-10 && fabs(r.e->h_sums[1] - own) < 1e-10);
        assert_true(n[1] == 9 && n[2] == 5);
        for (int32_t k = 1; k <= D; k++) {
            const int64_t blocks = sy_engine_blocks(r.e);
            const double *sums =
                r.e->h_sums + 3 + blocks * SY_N_SUMS + (int64_t)(k - 1) * SY_MTP_N_SUMS;
            if (!(fabs(sums[SY_MTP_NLL] - wanted[k]) < 1e-10)) {
                fail_msg("module %d: %.15g, plainly %.15g", k, sums[SY_MTP_NLL], wanted[k]);
            }
            assert_true(sums[SY_MTP_TARGETS] == n[k]);
        }
        close_rig(&r);
    }
}

/* With the same weights a model says the same with modules and without, and evaluates alike. */
static void model_with_modules_says_what_it_says_without(void **state)
{
    (void)state;
    static const char *const sets[2][MAX_SET] = {{NULL}, {"model.mtp_layers=2", NULL}};
    double nll[2][2][T];
    for (int32_t i = 0; i < 2; i++) {
        rig r;
        open_rig(&r, sets[i]);
        run(&r, SY_PASS_TRAIN, nll[i][0]);
        run(&r, SY_PASS_EVAL, nll[i][1]);
        assert_true(i == 0 || r.e->h_sums[3 + 3 * SY_N_SUMS] == 0); /* nothing was predicted */
        close_rig(&r);
    }
    assert_memory_equal(nll[0], nll[1], sizeof nll[0]);
}

/* A module is a block, a projection of two to one and the head, for 6 of 7 tokens, and 5 of 7. */
static void flops_count_modules_and_active_parameters_do_not(void **state)
{
    (void)state;
    static const char *const sets[2][MAX_SET] = {{NULL}, {"model.mtp_layers=2", NULL}};
    const int64_t block = H * (2 * H + 2 * 4) + 3 * H * 10, per = block + 2 * H * H + H * V;
    int64_t active[2], mtp[2];
    double flops[2];
    for (int32_t i = 0; i < 2; i++) {
        rig r;
        open_rig(&r, sets[i]);
        flops[i] = sy_engine_flops_per_token(r.e, &active[i]);
        mtp[i] = sy_engine_mtp_params(r.e);
        close_rig(&r);
    }
    const double pairs = 6.0 * S * H * (36.0 / 49 + 25.0 / 49);
    assert_true(active[0] == active[1] && mtp[0] == 0);
    assert_int_equal(mtp[1], 2 * (block + 2 * H * H + 5 * H));
    assert_true(fabs(flops[1] - flops[0] - 6.0 * (double)per * 11 / 7 - pairs) < 6 * 4);
}

/* ---- settings ---- */

static void settings_that_do_not_go_together_are_refused_with_the_mend(void **state)
{
    (void)state;
    static const struct {
        const char *set[3];
        const char *word[2];
    } cases[] = {
        {{"model.mtp_layers=1", "model.depth_capacity=0.5"}, {"depth_capacity", "to null"}},
        {{"model.mtp_layers=7", NULL}, {"model.seq_len 7", "6 or less"}},
        {{"model.mtp_layers=1", "model.layers=999"}, {"999 blocks", "model.layers"}},
        {{"model.mtp_loss_coeff=0.1", NULL}, {"model.mtp_loss_coeff", "model.mtp_layers"}},
        {{"train.mtp_phases=[1 constant 1]", NULL}, {"train.mtp_phases", "model.mtp_layers"}},
        {{"model.mtp_layers=1", "train.mtp_phases=[0.5 flat 1]"}, {"0.5 flat 1", "constant"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_run_settings s = {0};
        assert_int_equal(sy_run_settings_parse(config_text, sizeof config_text - 1, "test",
                                               cases[i].set, cases[i].set[1] != NULL ? 2 : 1, &s),
                         SY_ERR_USAGE);
        for (int32_t k = 0; k < 2; k++) {
            if (strstr(sy_error_message(), cases[i].word[k]) == NULL) {
                fail_msg("case %zu: '%s' is not in: %s", i, cases[i].word[k], sy_error_message());
            }
        }
        sy_error_clear();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(module_sees_tokens_further_ahead_inside_sequence_and_document),
        cmocka_unit_test(losses_are_those_of_the_plain_formula),
        cmocka_unit_test(model_with_modules_says_what_it_says_without),
        cmocka_unit_test(flops_count_modules_and_active_parameters_do_not),
        cmocka_unit_test(settings_that_do_not_go_together_are_refused_with_the_mend),
    };
    return cmocka_run_group_tests_name("mtp", tests, NULL, NULL);
}
