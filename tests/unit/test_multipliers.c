/* Granite's multipliers and scaled rotary angles in the whole model, with one dense and one MoE
   layer. A multiplier does what larger or smaller weights would do; the backend under test agrees
   with ref in losses and gradients; and token by token with a cache is what one pass over all of
   them gives. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "model/kv.h"
#include "train/engine.h"

enum { S = 8, V = 256, D = 8, N_Q = 2 * D, H = 16, MAX_SET = 8 };

static const char config_text[] =
    "run: {seed: 3}\n"
    "model: {vocab_size: 256, hidden: 16, layers: 2, heads: 2, kv_heads: 1, ffn_hidden: 20,"
    " seq_len: 8, rope_theta: 100}\n"
    "moe: {experts: 4, top_k: 2, expert_hidden: 6, layers: [1], shared_experts: 1,"
    " eval_capacity_factor: null}\n"
    "train: {steps: 1, global_batch: 1, micro_batch: 1}\n";

#define GRANITE                                                                                    \
    "model.embedding_multiplier=3", "model.residual_multiplier=0.4",                               \
        "model.attention_multiplier=0.9", "model.logits_scaling=1.7"
#define LLAMA3 "model.rope_scaling=llama3", "model.rope_factor=8", "model.rope_original_seq_len=32"

typedef struct rig {
    sy_run_settings settings;
    sy_comm *world;
    sy_engine *e;
    int64_t n_alive; /* blocks of memory before */
} rig;

static const int32_t ids[S] = {7, 250, 31, 7, 99, 180, 3, 64};
static const int32_t targets[S] = {250, 31, 7, 99, 180, 3, 64, 11};

static void must(sy_status st)
{
    if (st != SY_OK) {
        fail_msg("%s", sy_error_message());
    }
}

/* A name that a multiplier acts like a factor of; n elements of it, 0: all. */
typedef struct factor {
    const char *pattern;
    double by;
    int64_t n;
} factor;

static double factor_of(const factor *f, const char *name, int64_t i)
{
    bool hit = f != NULL && fnmatch(f->pattern, name, FNM_EXTMATCH) == 0 && (f->n == 0 || i < f->n);
    return hit ? f->by : 1;
}

/* The same numbers on every backend: norms near 1, the rest of size 0.4. */
static void draw_weights(rig *r, const factor *f)
{
    for (int32_t i = 0; i < r->e->params->n; i++) {
        const sy_param *p = r->e->params->param[i];
        int64_t n = sy_tensor_numel(&p->value);
        double *x = calloc((size_t)n, sizeof *x);
        void *rounded = calloc((size_t)n, sizeof *x);
        assert_non_null(x);
        assert_non_null(rounded);
        for (int64_t k = 0; k < n; k++) {
            double z = sy_rng_normal(41, sy_rng_stream_of(p->spec.name), (uint64_t)k);
            z = p->spec.init == SY_INIT_ONES ? 1 + 0.2 * z : 0.4 * z;
            x[k] = (double)(float)z * factor_of(f, p->spec.name, k);
        }
        sy_convert(p->value.dtype, rounded, SY_F64, x, n);
        must(sy_copy_h2d(r->e->compute_stream, p->value.data, rounded, sy_tensor_bytes(&p->value)));
        must(sy_stream_sync(r->e->compute_stream));
        free(rounded);
        free(x);
    }
}

static void open_rig(rig *r, sy_engine_use use, const char *backend, const char *const *set,
                     const factor *f)
{
    char device[64];
    const char *overrides[MAX_SET + 1] = {device};
    int32_t n = 1;
    memset(r, 0, sizeof *r);
    r->n_alive = sy_alloc_live();
    snprintf(device, sizeof device, "device.backend=%s", backend);
    for (int32_t i = 0; i < MAX_SET && set[i] != NULL; i++) {
        overrides[n++] = set[i];
    }
    must(sy_comm_world(false, &r->world));
    must(sy_run_settings_parse(config_text, sizeof config_text - 1, "test", overrides, n,
                               &r->settings));
    sy_engine_spec spec = {
        .settings = &r->settings, .world = r->world, .use = use, .B = 1, .S = S, .threads = 1};
    must(sy_engine_create(&spec, &r->e));
    draw_weights(r, f);
}

static void close_rig(rig *r)
{
    sy_engine_destroy(&r->e);
    sy_run_settings_free(&r->settings);
    sy_comm_destroy(&r->world);
    assert_int_equal(sy_alloc_live(), r->n_alive);
}

/* Device values as doubles. Waits. */
static void fetch(rig *r, const sy_tensor *from, double *to)
{
    int64_t n = sy_tensor_numel(from);
    void *raw = calloc((size_t)n, sizeof *to);
    assert_non_null(raw);
    must(sy_copy_d2h(r->e->compute_stream, raw, from->data, sy_tensor_bytes(from)));
    must(sy_stream_sync(r->e->compute_stream));
    sy_convert(SY_F64, to, from->dtype, raw, n);
    free(raw);
}

/* Tokens first .. first+n-1 as a batch. */
static sy_batch tokens(int64_t first, int32_t n)
{
    static const int32_t pos[S] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const int64_t token_glb[S] = {0, 1, 2, 3, 4, 5, 6, 7};
    return (sy_batch){.B = 1,
                      .S = n,
                      .ids = ids + first,
                      .targets = targets + first,
                      .pos = pos + first,
                      .token_glb = token_glb + first};
}

/* nll [S] of one pass over all tokens; TRAIN leaves the gradients in the parameters. */
static void run_pass(rig *r, sy_pass_kind kind, double *nll)
{
    sy_engine *e = r->e;
    sy_batch batch = tokens(0, S);
    sy_model_saved *saved = NULL;
    sy_pass p;
    must(sy_engine_zero_stats(e));
    must(sy_engine_begin(e, kind, &batch, 1, 0, &p));
    p.per_loss_token = 1.0 / S;
    p.per_routed_token = 1.0 / S;
    must(sy_model_forward(e->model, &p, kind == SY_PASS_TRAIN ? &saved : NULL));
    if (kind == SY_PASS_TRAIN) {
        must(sy_model_backward(e->model, &p, saved));
    }
    must(sy_engine_end(e, &p));
    fetch(r, &p.nll, nll);
}

static void eval_of(const char *const *set, const factor *f, double *nll)
{
    rig r;
    open_rig(&r, SY_USE_EVAL, "ref", set, f);
    run_pass(&r, SY_PASS_EVAL, nll);
    close_rig(&r);
}

static double largest_gap(const double *a, const double *b, int64_t n)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs(a[i] - b[i]));
        if (isnan(a[i]) || isnan(b[i])) {
            return INFINITY;
        }
    }
    return worst;
}

/* ---- what a multiplier means ---- */

static void multiplier_does_what_scaled_weights_do(void **state)
{
    static const struct {
        const char *set;
        factor f;
    } pairs[] = {
        {"model.embedding_multiplier=12", {"embed", 12, 0}},
        {"model.logits_scaling=6", {"head", 1.0 / 6, 0}},
        /* the queries' rows of the fused matrix; without the key the scale is 1/sqrt(D) */
        {"model.attention_multiplier=0.9", {"*/attn/qkv", 0.9 * 2.8284271247461903, N_Q * H}},
        /* what writes into the residual stream: attn/o, mlp/down, moe/experts/down, moe/shared/down
         */
        {"model.residual_multiplier=0.22", {"layers/*/@(attn/o|*down)", 0.22, 0}},
    };
    const char *const plain_set[MAX_SET] = {NULL};
    double plain[S];
    (void)state;
    eval_of(plain_set, NULL, plain);
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        const char *const set[MAX_SET] = {pairs[i].set};
        double multiplied[S], scaled[S];
        eval_of(set, NULL, multiplied);
        eval_of(plain_set, &pairs[i].f, scaled);
        print_message("%s: %.2g apart, %.2g from the plain model\n", pairs[i].set,
                      largest_gap(multiplied, scaled, S), largest_gap(multiplied, plain, S));
        assert_true(largest_gap(multiplied, scaled, S) < 1e-11);
        assert_true(largest_gap(multiplied, plain, S) > 1e-2);
    }
}

static void rope_scaling_changes_the_model(void **state)
{
    const char *const sets[3][MAX_SET] = {
        {NULL}, {"model.rope_scaling=linear", "model.rope_factor=8"}, {LLAMA3}};
    double nll[3][S];
    (void)state;
    for (int32_t i = 0; i < 3; i++) {
        eval_of(sets[i], NULL, nll[i]);
    }
    for (int32_t i = 0; i < 3; i++) {
        assert_true(largest_gap(nll[i], nll[(i + 1) % 3], S) > 1e-3);
        assert_true(fabs(nll[i][0] - nll[0][0]) < 1e-12); /* the first token is not turned */
    }
}

/* ---- another backend, a cache ---- */

static const char *const sets[][MAX_SET] = {
    {GRANITE, LLAMA3},
    {GRANITE, "model.rope_scaling=linear", "model.rope_factor=2.5", "model.tie_embeddings=true"},
    {GRANITE, "train.recompute=block", "model.attention_bias=true"},
    {GRANITE, "train.recompute=moe", "model.qk_norm=head"},
    {LLAMA3},
    {"moe.router=moepp", "moe.layers=[0, 1]", "moe.normalize_weights=false"},
    {"model.depth_capacity=0.4", "model.depth_layers=[1]"},
    {"model.depth_capacity=0.6", "model.depth_layers=all", "model.residual_multiplier=0.4"},
};
enum { N_SETS = sizeof sets / sizeof sets[0] };

static void zero_grads(rig *r)
{
    for (int32_t s = 0; s < r->e->params->n_segments; s++) {
        const sy_segment *g = &r->e->params->segment[s];
        if (g->grad != NULL) {
            must(
                sy_zero(r->e->compute_stream, g->grad, g->n * (int64_t)sy_dtype_bytes(r->e->wide)));
        }
    }
}

/* Gradients of one parameter, relative to the largest of them. */
static void compare_grads(rig *ref, rig *other, int32_t i)
{
    const sy_param *p = ref->e->params->param[i], *q = other->e->params->param[i];
    int64_t n = sy_tensor_numel(&p->value);
    double *a = calloc((size_t)n, sizeof *a), *b = calloc((size_t)n, sizeof *b), largest = 0;
    assert_non_null(a);
    assert_non_null(b);
    assert_string_equal(p->spec.name, q->spec.name);
    fetch(ref, &p->grad, a);
    fetch(other, &q->grad, b);
    for (int64_t k = 0; k < n; k++) {
        largest = fmax(largest, fabs(a[k]));
    }
    if (!(largest_gap(a, b, n) <= 2e-5 * largest)) {
        fail_msg("gradient of %s: %.2g of its largest away from ref's", p->spec.name,
                 largest_gap(a, b, n) / largest);
    }
    free(b);
    free(a);
}

static void losses_and_gradients_of_the_backend_are_those_of_ref(void **state)
{
    const char *name = getenv("SY_TEST_BACKEND");
    (void)state;
    for (int32_t k = 0; k < N_SETS; k++) {
        rig ref, other;
        double nll[2][S];
        open_rig(&ref, SY_USE_TRAIN, "ref", sets[k], NULL);
        zero_grads(&ref);
        run_pass(&ref, SY_PASS_TRAIN, nll[0]);
        open_rig(&other, SY_USE_TRAIN, name != NULL && *name != '\0' ? name : "cpu", sets[k], NULL);
        zero_grads(&other);
        run_pass(&other, SY_PASS_TRAIN, nll[1]);
        assert_true(largest_gap(nll[0], nll[1], S) < 2e-5);
        for (int32_t i = 0; i < ref.e->params->n; i++) {
            if (ref.e->params->param[i]->grad.data != NULL) {
                compare_grads(&ref, &other, i);
            }
        }
        close_rig(&other);
        close_rig(&ref);
    }
}

static double nll_of(const double *logits, int32_t target)
{
    double sum = 0;
    for (int32_t i = 0; i < V; i++) {
        sum += exp(logits[i] - logits[target]);
    }
    return log(sum);
}

/* n more tokens through the cache; the nll of the last one. */
static double decode(rig *r, int32_t n)
{
    sy_engine *e = r->e;
    int64_t first = e->kv->n;
    sy_batch batch = tokens(first, n);
    sy_tensor out;
    double logits[V];
    void *data = NULL;
    sy_pass p;
    must(sy_device_alloc(e->dev, V * (int64_t)sy_dtype_bytes(e->wide), SY_MEM_OTHER, &data));
    out = sy_tensor_1d(data, e->wide, V);
    must(sy_engine_begin(e, SY_PASS_DECODE, &batch, 0, 0, &p));
    must(sy_model_decode(e->model, &p, &out));
    must(sy_engine_end(e, &p));
    must(sy_kv_advance(e->kv, e->compute_stream, n));
    fetch(r, &out, logits);
    sy_device_free(e->dev, &out.data);
    return nll_of(logits, targets[first + n - 1]);
}

static void decode_with_a_cache_equals_one_pass(void **state)
{
    static const int32_t parts[] = {3, 1, 1, 2, 1};
    (void)state;
    for (int32_t k = 0; k < N_SETS; k++) {
        double nll[S];
        int64_t last = -1;
        rig r;
        eval_of(sets[k], NULL, nll);
        open_rig(&r, SY_USE_GENERATE, "ref", sets[k], NULL);
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
            double now = decode(&r, parts[i]);
            last += parts[i];
            if (!(fabs(now - nll[last]) < 1e-11)) {
                fail_msg("set %d, token %ld: %.15g with a cache, %.15g without", k, (long)last, now,
                         nll[last]);
            }
        }
        assert_int_equal(last, S - 1);
        close_rig(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(multiplier_does_what_scaled_weights_do),
        cmocka_unit_test(rope_scaling_changes_the_model),
        cmocka_unit_test(losses_and_gradients_of_the_backend_are_those_of_ref),
        cmocka_unit_test(decode_with_a_cache_equals_one_pass),
    };
    return cmocka_run_group_tests_name("multipliers", tests, NULL, NULL);
}
