/* Two models a layer at a time say what they say as a whole, whatever the slices and the layout;
   what a receipt reads back is what it says. */
#include "tests/support/mpi_assert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parallel/agree.h"
#include "tests/support/grow_rig.h"
#include "train/compare.h"
#include "upcycle/receipt.h"

enum { PATH_BYTES = 1024 };

static sy_source *open_file(const char *name, const grow_model *model)
{
    char path[PATH_BYTES];
    sy_source *source = NULL;
    sy_comm *world = mpi_test_world();
    assert_all_ok(sy_source_open(grow_path(name, path), world, &source));
    assert_all_ok(sy_source_bind(source, model->settings.model, model->settings.moe, world));
    return source;
}

typedef struct reader {
    sy_source *source;
    double change; /* of the first value of the last expert's down matrix in layer 1 */
} reader;

static sy_status read_values(void *self, const char *name, int64_t first, int64_t n, sy_dtype dtype,
                             void *h_to)
{
    sy_status st = SY_OK;
    const reader *r = self;
    const int32_t tensor = sy_source_find(r->source, name);
    double *values = h_to;
    const int64_t at = (int64_t)(GROW_E - 1) * GROW_H * GROW_F;
    SY_REQUIRE(tensor >= 0, SY_ERR_INTERNAL, "no tensor '%s'", name);
    SY_TRY(sy_source_read(r->source, tensor, first, n, dtype, h_to));
    if (r->change != 0 && strcmp(name, "layers/001/moe/experts/down") == 0 && at >= first &&
        at < first + n) {
        values[at - first] += r->change;
    }
cleanup:
    return st;
}

typedef struct options {
    const char *precision;
    int64_t slice_bytes;
    double change;
    float *wide;
} options;

/* The files that grow_make has left. */
static sy_compare_gap compare(const grow_model *dense, const grow_model *moe, options o)
{
    reader old = {.source = open_file("d0.h5", dense)};
    reader now = {.source = open_file("moe.h5", moe), .change = o.change};
    sy_compare_gap gap = {.ratio = NAN};
    sy_compare_spec spec = {.old = {&dense->settings, read_values, &old},
                            .now = {&moe->settings, read_values, &now},
                            .world = mpi_test_world(),
                            .threads = 1,
                            .n_sequences = 3,
                            .S = 12,
                            .seed = 2,
                            .precision = o.precision != NULL ? o.precision : "fp64",
                            .ratios = true,
                            .wide = o.wide,
                            .slice_bytes = o.slice_bytes};
    assert_all_ok(sy_compare_models(&spec, &gap));
    sy_source_close(&now.source);
    sy_source_close(&old.source);
    return gap;
}

static bool near(double a, double b, double relative)
{
    return fabs(a - b) <= relative * fmax(fabs(a), fabs(b)) + 1e-300;
}

static int32_t ep_of(int32_t experts)
{
    const int32_t size = mpi_test_world()->size;
    return experts % size == 0 ? size : 1;
}

/* ---- against engines that hold the models ---- */

static const char *const functions[][GROW_SET] = {
    {"moe.top_k=2", "moe.normalize_weights=false"},
    {"moe.top_k=1", "moe.layers=[0, 2]"},
    {"moe.top_k=3", "moe.routed_scale=2.0", "moe.score=sigmoid", "moe.bias_update_rate=0.1"},
    {"moe.top_k=2", "moe.normalize_weights=false", "moe.shared_experts=1", "moe.shared_hidden=20",
     "moe.shared_gate=true"},
    {"moe.top_k=2", "moe.normalize_weights=false", "moe.recv_factor=0.4",
     "model.residual_multiplier=0.5", "model.embedding_multiplier=2", "model.logits_scaling=3"},
};

static void layers_one_by_one_say_what_the_whole_models_say(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        const bool scaled = i == 4;
        const char *const dense_set[GROW_SET] = {scaled ? functions[i][3] : NULL,
                                                 scaled ? functions[i][4] : NULL,
                                                 scaled ? functions[i][5] : NULL};
        grow_model dense, moe;
        sy_probe says = {0};
        grow_open_dense(&dense, "ref", dense_set, &says);
        grow_open(&moe, "ref", GROW_E, ep_of(GROW_E), functions[i]);
        assert_all_ok(grow_make(&dense, 1, &moe, (sy_recipe_spec){.router_std = 1}));
        const sy_probe_gap whole = grow_gap(&moe, &says);
        for (int64_t bytes = 0; bytes <= 20000; bytes += 20000) { /* one slice, and two of F */
            const sy_compare_gap gap = compare(&dense, &moe, (options){.slice_bytes = bytes});
            assert_all(whole.nll_abs > 1e-6);
            assert_all(near(gap.nll_abs, whole.nll_abs, 1e-8));
            assert_all(near(gap.nll_rel, whole.nll_rel, 1e-8));
            assert_all(gap.logits_abs >= whole.logits_abs * (1 - 1e-8));
        }
        grow_close(&moe);
        sy_probe_free(&says);
        grow_close(&dense);
    }
}

/* A vocabulary of several slices, on a device that computes in floats too. */
static void slices_change_nothing(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"model.vocab_size=1300", "moe.top_k=2",
                                              "moe.normalize_weights=false"};
    grow_model dense, moe;
    sy_probe says = {0};
    grow_open_dense(&dense, "ref", set, &says);
    grow_open(&moe, "ref", GROW_E, ep_of(GROW_E), set);
    assert_all_ok(grow_make(&dense, 1, &moe, (sy_recipe_spec){.router_std = 1}));
    const sy_compare_gap one = compare(&dense, &moe, (options){.slice_bytes = 0});
    const sy_compare_gap many = compare(&dense, &moe, (options){.slice_bytes = 10000});
    assert_all(near(one.logits_abs, many.logits_abs, 1e-9) &&
               near(one.nll_abs, many.nll_abs, 1e-9));
    assert_all(near(one.logits_rel, many.logits_rel, 1e-9) && one.logits_rel > 1e-6);
    assert_all(near(one.ratio, many.ratio, 1e-9) && one.n_ratios == many.n_ratios);
    grow_close(&moe);
    sy_probe_free(&says);
    grow_close(&dense);
}

static void copies_keep_the_function_in_each_precision(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"moe.top_k=2"};
    float *wide = calloc(3 * 12 * SY_COMPARE_COLUMNS, sizeof *wide);
    grow_model dense, moe;
    sy_probe says = {0};
    grow_open_dense(&dense, "cpu", grow_none, &says);
    grow_open(&moe, "cpu", GROW_E, ep_of(GROW_E), set);
    assert_all_ok(grow_make(&dense, 1, &moe, (sy_recipe_spec){.router_std = 1}));
    const sy_compare_gap f32 = compare(&dense, &moe, (options){.precision = "fp32", .wide = wide});
    const sy_compare_gap bf16 = compare(&dense, &moe, (options){.precision = "bf16", .wide = wide});
    assert_all(f32.compute == SY_F32 && f32.logits_rel <= 1e-5 && f32.nll_rel <= 1e-5);
    assert_all(bf16.compute == SY_BF16 && bf16.logits_rel <= 1e-2 && bf16.nll_rel <= 1e-2);
    assert_all(bf16.rounding > 1e-4 && bf16.rounding < 0.1 && f32.rounding == 0);
    grow_close(&moe);
    sy_probe_free(&says);
    grow_close(&dense);
    free(wide);
}

static void one_changed_weight_is_seen(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"moe.top_k=12"};
    grow_model dense, moe;
    sy_probe says = {0};
    grow_open_dense(&dense, "ref", grow_none, &says);
    grow_open(&moe, "ref", GROW_E, ep_of(GROW_E), set);
    assert_all_ok(grow_make(&dense, 1, &moe, (sy_recipe_spec){.router_std = 0.02}));
    const sy_compare_gap same = compare(&dense, &moe, (options){.change = 0});
    const sy_compare_gap other = compare(&dense, &moe, (options){.change = 2});
    const sy_compare_gap nan = compare(&dense, &moe, (options){.change = NAN});
    assert_all(same.logits_rel <= 1e-12 && same.nll_rel <= 1e-12);
    assert_all(other.logits_rel > 1e-6 && other.nll_rel > 1e-6);
    assert_all(!(nan.logits_rel <= 1) && !(nan.nll_rel <= 1));
    grow_close(&moe);
    sy_probe_free(&says);
    grow_close(&dense);
}

/* Copies whose weights do not add up to 1: each token's ratio is the sum of them. */
static void ratio_of_copies_is_the_routers_weight(void **state)
{
    (void)state;
    static const char *const sets[][GROW_SET] = {
        {"moe.top_k=1"},
        {"moe.top_k=3", "moe.normalize_weights=false", "moe.layers=[1]"},
        {"moe.top_k=2", "moe.normalize_weights=false", "moe.score=sigmoid"},
        {"moe.top_k=2", "moe.routed_scale=2.5"}};
    grow_model dense, moe;
    sy_probe says = {0};
    grow_open_dense(&dense, "ref", grow_none, &says);
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        grow_open(&moe, "ref", GROW_E, ep_of(GROW_E), sets[i]);
        assert_all_ok(grow_make(&dense, 1, &moe, (sy_recipe_spec){.router_std = i < 3 ? 1 : 0}));
        const sy_compare_gap gap = compare(&dense, &moe, (options){.change = 0});
        const int64_t n_layers = i == 1 ? 1 : 3;
        assert_all(gap.n_ratios == n_layers * 3 * 12 * mpi_test_world()->size);
        assert_all(gap.ratio_off <= 1e-12 && near(gap.ratio, gap.weight, 1e-12));
        assert_all(gap.ratio_min <= gap.ratio && gap.ratio <= gap.ratio_max);
        assert_all(i != 0 || (gap.ratio > 1.0 / GROW_E && gap.ratio_max < 1));
        assert_all(i != 3 || near(gap.ratio, 2.5, 1e-12));
        grow_close(&moe);
    }
    sy_probe_free(&says);
    grow_close(&dense);
}

/* ---- the receipt ---- */

typedef struct bench {
    grow_model dense, moe;
    sy_source *source, *written;
    int32_t expert_source[GROW_E];
    sy_recipe_spec spec;
    sy_recipe *recipe;
    sy_receipt *receipt;
} bench;

static const char *const two[GROW_SET] = {"moe.top_k=2"};

/* The file is made by one recipe, and judged by another, which may be the same. */
static sy_status check(bench *b, sy_recipe_spec made, sy_recipe_spec judged)
{
    sy_probe says = {0};
    memset(b, 0, sizeof *b);
    grow_open_dense(&b->dense, "ref", grow_none, &says);
    grow_open(&b->moe, "ref", GROW_E, ep_of(GROW_E), two);
    assert_all_ok(grow_make(&b->dense, 1, &b->moe, made));
    sy_probe_free(&says);
    b->source = open_file("d0.h5", &b->dense);
    b->written = open_file("moe.h5", &b->moe);
    b->spec = judged;
    b->spec.source = &b->source;
    b->spec.n_sources = 1;
    b->spec.model = b->moe.settings.model;
    b->spec.moe = b->moe.settings.moe;
    b->spec.expert_source = b->expert_source;
    b->spec.granularity = 1;
    b->spec.seed = judged.seed > 0 ? judged.seed : GROW_SEED;
    assert_all_ok(sy_recipe_create(&b->spec, &b->recipe));
    assert_all_ok(sy_receipt_create(&b->spec, b->recipe, &b->receipt));
    return sy_receipt_check(b->receipt, b->written, mpi_test_world());
}

static void release(bench *b)
{
    sy_receipt_destroy(&b->receipt);
    sy_recipe_destroy(&b->recipe);
    sy_source_close(&b->written);
    sy_source_close(&b->source);
    grow_close(&b->moe);
    grow_close(&b->dense);
}

/* Worked out here from the two files alone. */
static double cosine_of(const bench *b, const sy_receipt_part *part)
{
    enum { N = GROW_H * GROW_F };
    static double a[N], c[N];
    char from[96];
    const char *name = b->written->tensor[part->tensor].name;
    double ac = 0, aa = 0, cc = 0;
    snprintf(from, sizeof from, "%.10s/mlp/%s", name, strrchr(name, '/') + 1);
    assert_all_ok(sy_source_read(b->source, sy_source_find(b->source, from), 0, N, SY_F64, a));
    assert_all_ok(
        sy_source_read(b->written, part->tensor, (int64_t)part->expert * N, N, SY_F64, c));
    for (int32_t i = 0; i < N; i++) {
        ac += a[i] * c[i];
        aa += a[i] * a[i];
        cc += c[i] * c[i];
    }
    return ac / sqrt(aa * cc);
}

static void receipt_has_the_cosine_of_every_expert(void **state)
{
    (void)state;
    const sy_recipe_spec specs[] = {{.method = SY_UPCYCLE_COPY},
                                    {.method = SY_UPCYCLE_NOISE, .noise_std = 0.2},
                                    {.method = SY_UPCYCLE_DROP, .drop_ratio = 0.5}};
    const double least[] = {1, 0.5, 0.3}, most[] = {1, 0.95, 0.7}; /* of what is predicted */
    for (int32_t i = 0; i < 3; i++) {
        bench b;
        int32_t n_experts = 0;
        assert_all_ok(check(&b, specs[i], specs[i]));
        for (int64_t k = 0; k < b.receipt->n_parts; k++) {
            const sy_receipt_part *part = &b.receipt->part[k];
            if (part->expert >= 0) {
                const double cosine = cosine_of(&b, part);
                assert_all(fabs(part->cosine - cosine) <= 1e-12);
                assert_all(part->predicted >= least[i] && part->predicted <= most[i]);
                assert_all(fabs(part->cosine - part->predicted) <= (i > 0 ? 0.2 : 0));
                n_experts++;
            } else {
                assert_all(part->source == -2 ? isnan(part->cosine) : part->cosine == 1);
            }
        }
        assert_all(n_experts == 3 * 3 * GROW_E);
        release(&b);
    }
}

static void file_that_is_not_what_the_recipe_makes_is_refused(void **state)
{
    (void)state;
    static const struct {
        sy_recipe_spec made, judged;
        const char *word;
    } cases[] = {{{.method = SY_UPCYCLE_DROP, .drop_ratio = 0.5},
                  {.method = SY_UPCYCLE_COPY},
                  "layer 0, tensor 'layers/000/moe/experts/down', expert 0 was lost"},
                 {{.method = SY_UPCYCLE_NOISE, .noise_std = 0.1, .seed = 7},
                  {.method = SY_UPCYCLE_NOISE, .noise_std = 0.1},
                  "expert 0 was lost"},
                 {{.method = SY_UPCYCLE_COPY},
                  {.method = SY_UPCYCLE_DROP, .drop_ratio = 0.5},
                  "expert 0 was lost"},
                 {{.router_std = 1},
                  {.router_std = 0.5},
                  "tensor 'layers/000/moe/router' of the new model"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bench b;
        const sy_status st = check(&b, cases[i].made, cases[i].judged);
        const bool named = strstr(sy_error_message(), cases[i].word) != NULL;
        assert_all_status(st, SY_ERR_NUMERIC);
        assert_all(named || mpi_test_world()->size > 1); /* others may have met theirs first */
        release(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GROW_CASE(layers_one_by_one_say_what_the_whole_models_say),
        GROW_CASE(slices_change_nothing),
        GROW_CASE(copies_keep_the_function_in_each_precision),
        GROW_CASE(one_changed_weight_is_seen),
        GROW_CASE(ratio_of_copies_is_the_routers_weight),
        GROW_CASE(receipt_has_the_cosine_of_every_expert),
        GROW_CASE(file_that_is_not_what_the_recipe_makes_is_refused),
    };
    return mpi_test_main("compare", tests, sizeof tests / sizeof tests[0]);
}
