/* A whole model of three small blocks on ref, with a batch, and the loss that its gradients belong
 * to. */
#ifndef SY_TESTS_SMALL_MODEL_H
#define SY_TESTS_SMALL_MODEL_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "train/engine.h"

/* L: blocks, those of modules that predict further tokens among them */
enum { B = 2, S = 6, T = B * S, L = 3, E = 4, N_LOADS = 2 * L * E, MAX_SET = 24 };

static const char config_text[] =
    "run: {seed: 3}\n"
    "device: {backend: ref, threads: 1}\n"
    "model: {vocab_size: 256, hidden: 8, layers: 3, heads: 2, kv_heads: 1, ffn_hidden: 10,"
    " seq_len: 6}\n"
    "moe: {experts: 4, expert_hidden: 6, aux_loss_coeff: 0.3, z_loss_coeff: 0.2, min_capacity: 1}\n"
    "train: {steps: 1, global_batch: 2, micro_batch: 2}\n";

typedef struct rig {
    sy_run_settings settings;
    sy_comm *world;
    sy_engine *e;
    int32_t ids[T], targets[T], pos[T], doc[T];
    float loss_weight[T];
    uint8_t routed[T];
    int64_t token_glb[T];
    bool with_mask, with_weight, with_doc;
    bool of_predictor; /* its loss moves nothing but a predictor of depth */
    int64_t n_alive;   /* blocks of memory before */
} rig;

static inline void must(sy_status st)
{
    if (st != SY_OK) {
        print_error("%s\n", sy_error_message());
        fail();
    }
}

static inline double noise(uint64_t stream, int64_t i)
{
    return sy_rng_normal(41, stream, (uint64_t)i);
}

static inline void make_batch(rig *r)
{
    for (int32_t t = 0; t < T; t++) {
        r->ids[t] = (int32_t)(sy_rng_u64(7, SY_RNG_TEST, (uint64_t)t) % 256);
        r->targets[t] = (int32_t)(sy_rng_u64(8, SY_RNG_TEST, (uint64_t)t) % 256);
        r->pos[t] = t % S;
        r->doc[t] = t % S >= 4;
        r->token_glb[t] = t;
        r->routed[t] = t != 4 && t != 5 && t != 9;
        r->loss_weight[t] = (float)(0.5 + 0.25 * t);
    }
    r->targets[2] = -1;
}

static inline sy_batch view(const rig *r)
{
    return (sy_batch){.B = B,
                      .S = S,
                      .ids = r->ids,
                      .targets = r->targets,
                      .loss_weight = r->with_weight ? r->loss_weight : NULL,
                      .routed = r->with_mask ? r->routed : NULL,
                      .pos = r->pos,
                      .doc = r->with_doc ? r->doc : NULL,
                      .token_glb = r->token_glb};
}

static inline double get(rig *r, const sy_tensor *t, int64_t i)
{
    double x = 0;
    must(sy_copy_d2h(r->e->compute_stream, &x, (double *)t->data + i, sizeof x));
    must(sy_stream_sync(r->e->compute_stream));
    return x;
}

static inline void set(rig *r, const sy_tensor *t, int64_t i, double x)
{
    must(sy_copy_h2d(r->e->compute_stream, (double *)t->data + i, &x, sizeof x));
    must(sy_stream_sync(r->e->compute_stream));
}

/* Every parameter far from anything special: norms near 1, the rest of size 0.4. */
static inline void randomise(rig *r)
{
    for (int32_t i = 0; i < r->e->params->n; i++) {
        const sy_param *p = r->e->params->param[i];
        bool norm = p->spec.init == SY_INIT_ONES;
        if (p->value.dtype != SY_F64) {
            continue; /* of four bits: as drawn */
        }
        for (int64_t k = 0; k < sy_tensor_numel(&p->value); k++) {
            double x = noise(sy_rng_stream_of(p->spec.name), k);
            set(r, &p->value, k, norm ? 1 + 0.2 * x : 0.4 * x);
        }
    }
}

static inline void open_fresh(rig *r, const char *const *overrides)
{
    int32_t n = 0;
    memset(r, 0, sizeof *r);
    r->n_alive = sy_alloc_live();
    while (n < MAX_SET && overrides[n] != NULL) {
        n++;
    }
    must(sy_comm_world(false, &r->world));
    must(sy_run_settings_parse(config_text, sizeof config_text - 1, "test", overrides, n,
                               &r->settings));
    sy_engine_spec spec = {.settings = &r->settings,
                           .world = r->world,
                           .use = SY_USE_TRAIN,
                           .B = B,
                           .S = S,
                           .threads = 1};
    must(sy_engine_create(&spec, &r->e));
    make_batch(r);
}

static inline void open_rig(rig *r, const char *const *overrides)
{
    open_fresh(r, overrides);
    randomise(r);
}

static inline void close_rig(rig *r)
{
    sy_engine_destroy(&r->e);
    sy_run_settings_free(&r->settings);
    sy_comm_destroy(&r->world);
    assert_int_equal(sy_alloc_live(), r->n_alive);
}

static inline void zero_grads(rig *r)
{
    for (int32_t s = 0; s < r->e->params->n_segments; s++) {
        const sy_segment *g = &r->e->params->segment[s];
        if (g->grad != NULL) {
            must(sy_zero(r->e->compute_stream, g->grad, g->n * (int64_t)sizeof(double)));
        }
    }
}

/* Forward and backward; the loss that its gradients belong to. loads [N_LOADS] may be NULL. */
static inline double loss_of(rig *r, const sy_batch *batch, int64_t *loads)
{
    sy_engine *e = r->e;
    const sy_moe_config *moe = r->settings.moe;
    sy_model_saved *saved = NULL;
    double nll[T] = {0}, loss = 0;
    int64_t n = (int64_t)batch->B * batch->S;
    sy_pass p;
    must(sy_engine_zero_stats(e));
    must(sy_engine_begin(e, SY_PASS_TRAIN, batch, 1, 0, &p));
    p.per_loss_token = 1.0 / 11;
    p.per_routed_token = 1.0 / 13;
    must(sy_model_forward(e->model, &p, &saved));
    must(sy_model_backward(e->model, &p, saved));
    must(sy_engine_end(e, &p));
    must(sy_copy_d2h(e->compute_stream, nll, p.nll.data, sy_tensor_bytes(&p.nll)));
    must(sy_engine_reduce_stats(e));
    for (int64_t t = 0; t < n; t++) {
        loss += p.per_loss_token * nll[t] * (r->with_weight ? (double)r->loss_weight[t] : 1.0);
    }
    for (int32_t i = 0; i < L; i++) {
        const double *sums = e->h_sums + 2 + (int64_t)i * SY_N_SUMS;
        loss += moe->aux_loss_coeff * sums[SY_SUM_AUX] + moe->z_loss_coeff * sums[SY_SUM_Z] +
                sums[SY_SUM_ROUTER] + (r->of_predictor ? sums[SY_SUM_DEPTH] : 0);
    }
    loss += r->settings.model->output_z_loss_coeff * p.per_loss_token *
            e->h_sums[2 + (int64_t)L * SY_N_SUMS];
    for (int32_t k = 0; k < r->settings.model->mtp_layers; k++) {
        const int64_t at = 3 + (int64_t)L * SY_N_SUMS + (int64_t)k * SY_MTP_N_SUMS + SY_MTP_NLL;
        loss += r->settings.model->mtp_loss_coeff / r->settings.model->mtp_layers *
                p.per_loss_token * e->h_sums[at];
    }
    if (loads != NULL) {
        memset(loads, 0, N_LOADS * sizeof *loads); /* a dense model has none */
        memcpy(loads, e->h_loads, (size_t)(2 * L * moe->experts) * sizeof *loads);
    }
    return loss;
}

/* ---- settings that several tests ask for ---- */

#define LATENT                                                                                     \
    "model.kv_heads=2", "model.kv_lora_rank=5", "model.qk_nope_head_dim=3",                        \
        "model.qk_rope_head_dim=2", "model.v_head_dim=4"
/* All of DeepSeek-V3's parts at once. */
#define DEEPSEEK                                                                                   \
    LATENT, "model.q_lora_rank=3", "model.rope_interleaved=true", "model.rope_scaling=yarn",       \
        "model.rope_factor=4", "model.rope_mscale=0.7", "model.rope_mscale_all_dim=1.3",           \
        "model.rope_original_seq_len=16", "moe.layers=from:1", "moe.shared_experts=1",             \
        "moe.router=grouped", "moe.grouped.groups=2", "moe.score=sigmoid",                         \
        "moe.bias_update_rate=0.1"
#define MULTIPLIERS                                                                                \
    "model.embedding_multiplier=3", "model.residual_multiplier=0.4",                               \
        "model.attention_multiplier=0.9", "model.logits_scaling=1.7"

#define NO_LOSSES "moe.aux_loss_coeff=0", "moe.z_loss_coeff=0"
#define WIDTHS "moe.expert_hidden=0", "moe.expert_widths=[3, 1, 9, 4]"
#define NF4 "moe.adapter_base=nf4", "moe.adapter_rank=2", "moe.expert_hidden=72"
#define MODULES(n, layers) "model.mtp_layers=" n, "model.layers=" layers, "model.mtp_loss_coeff=0.9"

#endif
