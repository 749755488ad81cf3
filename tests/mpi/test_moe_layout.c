/* The same training, step by step, on any layout: numbers of ranks, ep, ZeRO; and with what must
   not change the mathematics: recompute, several passes, padding. Every layout is a part of the
   test's world; rank 0 is in all of them and compares. On ref, so that a defect shows at 1e-9. */
#include "tests/support/mpi_assert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "parallel/agree.h"
#include "train/trainer.h"
#include "tests/support/mpi_text.h"

enum { E = 12, L = 2, MAX_STEPS = 20, MAX_SET = 16 };

static const char config_text[] =
    "run: {seed: 5}\n"
    "device: {backend: ref, threads: 1}\n"
    "model: {vocab_size: 256, hidden: 16, layers: 2, heads: 4, kv_heads: 2, ffn_hidden: 24,"
    " seq_len: 8, init_std: 0.2}\n"
    "moe: {experts: 12, top_k: 2, expert_hidden: 8, min_capacity: 1}\n"
    "optim: {lr: 0.01, warmup_steps: 2}\n"
    "train: {steps: 20, global_batch: 7, micro_batch: 1}\n";

typedef struct layout {
    int32_t ranks, ep, zero, chunks; /* padded rows: 1 whatever it says */
} layout;

/* What rank 0 saw of a run. */
typedef struct record {
    int32_t n_steps;
    double loss[MAX_STEPS], norm[MAX_STEPS], aux[MAX_STEPS], z[MAX_STEPS];
    int64_t load[MAX_STEPS][L * E], kept[MAX_STEPS][L * E], n_extra_passes;
    bool finite;
} record;

/* ---- one run ---- */

static sy_status settings_of(layout at, const char *const *set, sy_run_settings *out)
{
    char data[2 * SCRATCH_PATH], ep[32], zero[32], chunks[40];
    const char *overrides[MAX_SET + 4] = {data, ep, zero, chunks};
    int32_t n = 4, n_chunks = at.chunks;
    text_setting(data);
    snprintf(ep, sizeof ep, "parallel.ep=%d", at.ep);
    snprintf(zero, sizeof zero, "parallel.zero=%d", at.zero);
    for (int32_t i = 0; i < MAX_SET && set[i] != NULL; i++) {
        n_chunks = strcmp(set[i], "moe.pad_to_capacity=true") == 0 ? 1 : n_chunks;
        overrides[n++] = set[i];
    }
    snprintf(chunks, sizeof chunks, "parallel.overlap_chunks=%d", n_chunks);
    return sy_run_settings_parse(config_text, sizeof config_text - 1, "test", overrides, n, out);
}

static void note(const sy_step_result *r, int32_t i, record *rec)
{
    rec->n_steps = i + 1;
    rec->loss[i] = r->loss;
    rec->norm[i] = r->grad_norm;
    for (int32_t k = 0; k < L; k++) {
        rec->aux[i] += r->sums[k * SY_N_SUMS + SY_SUM_AUX];
        rec->z[i] += r->sums[k * SY_N_SUMS + SY_SUM_Z];
    }
    memcpy(rec->load[i], r->load, sizeof rec->load[i]);
    memcpy(rec->kept[i], r->kept, sizeof rec->kept[i]);
    rec->n_extra_passes += r->n_extra_passes;
    rec->finite = rec->finite && r->verdict == SY_STEP_DONE && isfinite(r->loss) &&
                  isfinite(r->grad_norm) && isfinite(rec->aux[i]) && isfinite(rec->z[i]);
}

/* Push every token of layer 0 to one expert, by its bias. */
static sy_status push_all_to(sy_trainer *t, int32_t expert)
{
    sy_status st = SY_OK;
    double push = 1e3;
    sy_param *bias = sy_params_find(t->engine->params, "layers/000/moe/bias");
    SY_REQUIRE(bias != NULL, SY_ERR_INTERNAL, "no bias");
    SY_TRY(sy_copy_h2d(t->engine->compute_stream, (double *)bias->value.data + expert, &push,
                       sizeof push));
    SY_TRY(sy_stream_sync(t->engine->compute_stream));
cleanup:
    return st;
}

static sy_status train(sy_comm *part, layout at, const char *const *set, int32_t n_steps,
                       int32_t favourite, record *rec)
{
    sy_status st = SY_OK;
    sy_run_settings settings = {0};
    sy_trainer *t = NULL;
    sy_step_result r;
    rec->finite = true;
    SY_TRY(settings_of(at, set, &settings));
    sy_trainer_spec spec = {.settings = &settings, .world = part, .threads = 1};
    SY_TRY(sy_trainer_create(&spec, &t));
    if (favourite >= 0) {
        SY_TRY(push_all_to(t, favourite));
    }
    for (int32_t i = 0; i < n_steps; i++) {
        SY_TRY(sy_trainer_step(t, false, &r));
        note(&r, i, rec);
    }
cleanup:
    sy_trainer_destroy(&t);
    sy_run_settings_free(&settings);
    return st;
}

/* Every rank is told the same losses and loads, so that it is enough that one of them logs. */
static bool is_what_the_root_saw(const record *rec)
{
    static record root;
    root = *rec;
    bool ok = sy_host_broadcast(mpi_test_world(), &root, sizeof root, 0, "record") == SY_OK;
    root.n_extra_passes = rec->n_extra_passes; /* of a rank's own ep group */
    return ok && memcmp(rec, &root, sizeof root) == 0;
}

/* Run on the first ranks of the world; the others wait at the assertion. rec counts on rank 0. */
static void run(layout at, const char *const *set, int32_t n_steps, int32_t favourite, record *rec)
{
    sy_comm *world = mpi_test_world(), *part = NULL;
    sy_status st = SY_OK;
    memset(rec, 0, sizeof *rec);
    assert_all_ok(
        sy_comm_split(world, world->rank < at.ranks ? 0 : -1, world->rank, NULL, "part", &part));
    if (part != NULL) {
        st = train(part, at, set, n_steps, favourite, rec);
    }
    sy_comm_destroy(&part);
    assert_all_ok(st);
    assert_all(world->rank != 0 || rec->finite);
    assert_all(is_what_the_root_saw(rec) || world->rank >= at.ranks);
}

/* ---- comparing ---- */

static double gap(const double *a, const double *b, int32_t n)
{
    double worst = 0;
    for (int32_t i = 0; i < n; i++) {
        double g = fabs(a[i] - b[i]) / fmax(fabs(a[i]), 1e-300);
        worst = g <= worst ? worst : g; /* a NaN stays */
    }
    return worst;
}

static void compare_all(const char *name, layout at, const record *a, const record *b, double bound)
{
    bool root = mpi_test_world()->rank == 0;
    double loss = gap(a->loss, b->loss, a->n_steps), norm = gap(a->norm, b->norm, a->n_steps);
    double aux = gap(a->aux, b->aux, a->n_steps), z = gap(a->z, b->z, a->n_steps);
    bool loads = memcmp(a->load, b->load, sizeof a->load) == 0 &&
                 memcmp(a->kept, b->kept, sizeof a->kept) == 0;
    bool ok = a->n_steps == b->n_steps && loss <= bound && norm <= 10 * bound && aux <= bound &&
              z <= bound && loads;
    if (root && !ok) {
        print_error(
            "%s on %d ranks, ep %d, zero %d, chunks %d: loss %.2e, norm %.2e, aux %.2e, z %.2e, "
            "loads %s\n",
            name, at.ranks, at.ep, at.zero, at.chunks, loss, norm, aux, z,
            loads ? "same" : "differ");
    }
    assert_all(!root || ok);
}

static int64_t n_dropped(const record *rec)
{
    int64_t n = 0;
    for (int32_t i = 0; i < rec->n_steps; i++) {
        for (int32_t k = 0; k < L * E; k++) {
            n += rec->load[i][k] - rec->kept[i][k];
        }
    }
    return n;
}

/* The layouts that take the whole world of the test; the one to compare with is a single rank. */
static const layout all_layouts[] = {{1, 1, 0, 1}, {2, 2, 1, 1}, {2, 1, 0, 1}, {2, 2, 0, 3},
                                     {2, 1, 1, 1}, {3, 1, 0, 1}, {3, 3, 1, 1}, {3, 1, 1, 1},
                                     {3, 3, 0, 2}, {4, 4, 1, 1}, {4, 2, 0, 2}, {4, 1, 1, 1},
                                     {4, 4, 0, 4}, {4, 2, 1, 5}, {5, 1, 1, 1}, {5, 1, 0, 1}};
enum { N_LAYOUTS = sizeof all_layouts / sizeof all_layouts[0] };
static const layout alone = {1, 1, 1, 1};

typedef struct layout_case {
    const char *name;
    const char *set[MAX_SET];
    bool drops, passes; /* both must really happen */
} layout_case;

static void losses_do_not_depend_on_the_layout(void **state)
{
    const layout_case *c = *state;
    static record one, many;
    const int32_t size = mpi_test_world()->size;
    bool root = mpi_test_world()->rank == 0;
    int64_t n_passes = 0;
    run(alone, c->set, MAX_STEPS, -1, &one);
    assert_all(!root || one.loss[MAX_STEPS - 1] != one.loss[0]);
    assert_all(!root || (n_dropped(&one) > 0) == c->drops);
    for (int32_t i = 0; i < N_LAYOUTS; i++) {
        if (all_layouts[i].ranks != size) {
            continue;
        }
        run(all_layouts[i], c->set, MAX_STEPS, -1, &many);
        compare_all(c->name, all_layouts[i], &one, &many, 1e-9);
        n_passes += many.n_extra_passes;
    }
    assert_all(!root || !c->passes || n_passes + one.n_extra_passes > 0);
}

static const layout_case cases[] = {
    {.name = "losses_dropless_do_not_depend_on_the_layout"},
    {.name = "losses_capacity_by_position_do_not_depend_on_the_layout",
     .set = {"moe.capacity_factor=0.8", "train.micro_batch=2"},
     .drops = true},
    {.name = "losses_padded_by_probability_do_not_depend_on_the_layout",
     .set = {"moe.capacity_factor=0.8", "moe.drop_policy=probability", "moe.pad_to_capacity=true",
             "train.micro_batch=2", "moe.normalize_weights=false"},
     .drops = true},
    {.name = "losses_in_several_passes_do_not_depend_on_the_layout",
     .set = {"moe.recv_factor=0.3", "train.recompute=moe", "moe.aux_loss_scope=micro_batch"},
     .passes = true},
    {.name = "losses_sigmoid_shared_bias_do_not_depend_on_the_layout",
     .set = {"moe.score=sigmoid", "moe.shared_experts=1", "moe.shared_gate=true",
             "moe.bias_update_rate=0.01", "moe.routed_scale=1.5", "model.qk_norm=head",
             "model.attention_bias=true"}},
    {.name = "losses_switch_jitter_block_do_not_depend_on_the_layout",
     .set = {"moe.top_k=1", "moe.jitter=0.1", "model.tie_embeddings=true", "moe.layers=[1]",
             "model.qk_norm=full", "train.recompute=block", "train.global_batch=5",
             "train.freeze=[layers/000/mlp/*]"}},
    {.name = "losses_adapters_in_several_passes_do_not_depend_on_the_layout",
     .set = {"moe.adapter_rank=3", "moe.recv_factor=0.3", "train.freeze=[layers/*/moe/base/down]"},
     .passes = true},
    {.name = "losses_few_sequences_do_not_depend_on_the_layout",
     .set = {"train.global_batch=1", "moe.capacity_factor=1.0", "moe.pad_to_capacity=true",
             "moe.shared_experts=2"},
     .drops = true},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

/* The loads of the global batch are those of the micro-batches so far, so accumulation is held
   fixed: as many sequences as ranks, on 1 rank in one micro-batch. */
static void losses_global_scope_depend_on_accumulation_only(void **state)
{
    (void)state;
    static record one, many;
    const int32_t size = mpi_test_world()->size;
    char batch[32], whole[32];
    const char *set_one[MAX_SET] = {"moe.aux_loss_scope=global_batch", batch, whole};
    const char *set_many[MAX_SET] = {"moe.aux_loss_scope=global_batch", batch};
    snprintf(batch, sizeof batch, "train.global_batch=%d", size);
    snprintf(whole, sizeof whole, "train.micro_batch=%d", size);
    run(alone, set_one, MAX_STEPS, -1, &one);
    for (int32_t i = 0; i < N_LAYOUTS; i++) {
        if (all_layouts[i].ranks == size) {
            run(all_layouts[i], set_many, MAX_STEPS, -1, &many);
            compare_all("global scope", all_layouts[i], &one, &many, 1e-9);
        }
    }
}

/* Capacity counted over all ranks' micro-batches drops what one rank drops that has them all, in
   every order, padded or not, and in a last round in which a rank has no tokens. */
static void losses_global_capacity_do_not_depend_on_the_ranks(void **state)
{
    (void)state;
    static record one, many;
    static const char *const policies[3] = {"moe.drop_policy=position",
                                            "moe.drop_policy=batch_priority",
                                            "moe.drop_policy=probability"};
    const int32_t size = mpi_test_world()->size;
    char batch[32], whole[32];
    snprintf(batch, sizeof batch, "train.global_batch=%d", 2 * size - 1);
    snprintf(whole, sizeof whole, "train.micro_batch=%d", size);
    for (int32_t k = 0; k < 3; k++) {
        const char *set[MAX_SET] = {batch,
                                    policies[k],
                                    "moe.capacity_factor=0.8",
                                    "moe.capacity_scope=global",
                                    k == 1 ? "moe.pad_to_capacity=true" : "moe.recv_factor=0.3",
                                    whole};
        run(alone, set, 3, -1, &one);
        assert_all(mpi_test_world()->rank != 0 || n_dropped(&one) > 0);
        set[5] = NULL;
        for (int32_t i = 0; i < N_LAYOUTS; i++) {
            if (all_layouts[i].ranks == size && all_layouts[i].zero == (k == 0)) {
                run(all_layouts[i], set, 3, -1, &many);
                compare_all(policies[k], all_layouts[i], &one, &many, 1e-9);
            }
        }
    }
}

/* One global batch, cut into micro-batches of 1, 2, 3 or 6 sequences. Where the loads are counted
   per sequence nothing depends on it; else the balance loss does, by its definition, and nothing
   but that: the first step's cross-entropy and z-loss are the same. */
static void losses_per_sequence_do_not_depend_on_how_the_batch_is_cut(void **state)
{
    (void)state;
    static record one, many;
    static const char *const scopes[3] = {"moe.aux_loss_scope=sequence",
                                          "moe.aux_loss_scope=micro_batch",
                                          "moe.aux_loss_scope=global_batch"};
    static const char *const cuts[4] = {"train.micro_batch=1", "train.micro_batch=2",
                                        "train.micro_batch=3", "train.micro_batch=6"};
    layout at = {mpi_test_world()->size, 1, 1, 1};
    at.ep = E % at.ranks == 0 ? at.ranks : 1;
    for (int32_t k = 0; k < 3; k++) {
        const char *set[MAX_SET] = {"train.global_batch=6", "moe.jitter=0.1", scopes[k], cuts[0]};
        run(alone, set, 6, -1, &one);
        for (int32_t i = 1; i < 4; i++) {
            set[3] = cuts[i];
            run(at, set, 6, -1, &many);
            if (k == 0) {
                compare_all("cut otherwise", at, &one, &many, 1e-9);
            }
            assert_all(mpi_test_world()->rank != 0 ||
                       (gap(one.loss, many.loss, 1) < 1e-12 && gap(one.z, many.z, 1) < 1e-12 &&
                        (gap(one.aux, many.aux, 1) < 1e-12) == (k == 0)));
        }
    }
}

static void losses_with_any_recompute_are_the_same_bits(void **state)
{
    (void)state;
    static record first, next;
    static const char *const kinds[3] = {"train.recompute=none", "train.recompute=moe",
                                         "train.recompute=block"};
    layout at = {mpi_test_world()->size, 1, 1, 2};
    at.ep = E % at.ranks == 0 ? at.ranks : 1;
    for (int32_t k = 0; k < 3; k++) {
        const char *set[MAX_SET] = {kinds[k], "moe.jitter=0.1", "moe.shared_experts=1",
                                    "moe.recv_factor=0.6"};
        run(at, set, 6, -1, k == 0 ? &first : &next);
        if (k > 0) {
            assert_all(mpi_test_world()->rank != 0 ||
                       (memcmp(first.loss, next.loss, sizeof first.loss) == 0 &&
                        memcmp(first.norm, next.norm, sizeof first.norm) == 0 &&
                        memcmp(first.load, next.load, sizeof first.load) == 0));
        }
    }
}

static void losses_padded_are_those_of_exact_counts(void **state)
{
    (void)state;
    static record exact, padded;
    layout at = {mpi_test_world()->size, 1, 1, 1};
    at.ep = E % at.ranks == 0 ? at.ranks : 1;
    const char *set[MAX_SET] = {"moe.capacity_factor=0.8", "train.micro_batch=3"};
    run(at, set, MAX_STEPS, -1, &exact);
    set[2] = "moe.pad_to_capacity=true";
    run(at, set, MAX_STEPS, -1, &padded);
    compare_all("padded", at, &exact, &padded, 1e-9);
    assert_all(mpi_test_world()->rank != 0 || n_dropped(&exact) > 0);
}

/* On the device under test: cpu, or check. */
static void losses_on_cpu_in_fp32_agree_for_five_steps(void **state)
{
    (void)state;
    static record one, many;
    const char *under_test = getenv("SY_TEST_BACKEND");
    char backend[48];
    const char *const sets[2][MAX_SET] = {
        {backend, "moe.shared_experts=1"},
        {backend, "moe.capacity_factor=0.8", "moe.pad_to_capacity=true", "train.micro_batch=2"}};
    snprintf(backend, sizeof backend, "device.backend=%s",
             under_test != NULL && *under_test != '\0' ? under_test : "cpu");
    for (int32_t k = 0; k < 2; k++) {
        run(alone, sets[k], 5, -1, &one);
        for (int32_t i = 0; i < N_LAYOUTS; i++) {
            if (all_layouts[i].ranks == mpi_test_world()->size) {
                run(all_layouts[i], sets[k], 5, -1, &many);
                compare_all("cpu fp32", all_layouts[i], &one, &many, 1e-6);
            }
        }
    }
}

static void one_expert_for_all_tokens_trains_on(void **state)
{
    (void)state;
    static record one, many;
    static const char *const sets[2][MAX_SET] = {
        {"moe.top_k=1", "moe.bias_update_rate=0.001", "moe.recv_factor=0.5"},
        {"moe.top_k=1", "moe.bias_update_rate=0.001", "moe.capacity_factor=2.0",
         "moe.pad_to_capacity=true"}};
    const int32_t size = mpi_test_world()->size;
    for (int32_t k = 0; k < 2; k++) {
        run(alone, sets[k], 6, 4, &one);
        assert_all(mpi_test_world()->rank != 0 || one.load[5][4] == 7 * 8);
        for (int32_t i = 0; i < N_LAYOUTS; i++) {
            if (all_layouts[i].ranks == size) {
                run(all_layouts[i], sets[k], 6, 4, &many);
                compare_all("one expert", all_layouts[i], &one, &many, 1e-9);
            }
        }
    }
}

int main(void)
{
    enum { N_ON_BACKEND = 1, N_OWN = 7, N = N_OWN + N_CASES };
    struct CMUnitTest tests[N] = {
        cmocka_unit_test_setup_teardown(losses_on_cpu_in_fp32_agree_for_five_steps, open_text,
                                        close_folder),
        cmocka_unit_test_setup_teardown(losses_global_scope_depend_on_accumulation_only, open_text,
                                        close_folder),
        cmocka_unit_test_setup_teardown(losses_global_capacity_do_not_depend_on_the_ranks,
                                        open_text, close_folder),
        cmocka_unit_test_setup_teardown(losses_per_sequence_do_not_depend_on_how_the_batch_is_cut,
                                        open_text, close_folder),
        cmocka_unit_test_setup_teardown(losses_with_any_recompute_are_the_same_bits, open_text,
                                        close_folder),
        cmocka_unit_test_setup_teardown(losses_padded_are_those_of_exact_counts, open_text,
                                        close_folder),
        cmocka_unit_test_setup_teardown(one_expert_for_all_tokens_trains_on, open_text,
                                        close_folder),
    };
    for (int32_t i = 0; i < N_CASES; i++) {
        tests[N_OWN + i] = (struct CMUnitTest){.name = cases[i].name,
                                               .test_func = losses_do_not_depend_on_the_layout,
                                               .setup_func = open_text,
                                               .teardown_func = close_folder,
                                               .initial_state = (void *)(uintptr_t)&cases[i]};
    }
    /* The rest runs on ref, whatever the backend under test is. */
    return mpi_test_main("moe_layout", tests, getenv("SY_TEST_BACKEND") != NULL ? N_ON_BACKEND : N);
}
