/* Routers on the host in training: the same steps on one rank and on all of them with the experts
   spread, state that end_step changes included; and bit for bit the same after a checkpoint. */
#include "tests/support/mpi_assert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/saver.h"
#include "parallel/agree.h"
#include "train/tell_data.h"
#include "train/trainer.h"
#include "tests/support/mpi_text.h"

enum { E = 12, L = 2, N_STEPS = 6, N_FIRST = 3, MAX_SET = 20 };

static const char config_text[] =
    "run: {seed: 5}\n"
    "device: {backend: ref, threads: 1}\n"
    "model: {vocab_size: 256, hidden: 16, layers: 2, heads: 4, kv_heads: 2, ffn_hidden: 24,"
    " seq_len: 8, init_std: 0.2}\n"
    "moe: {experts: 12, top_k: 2, expert_hidden: 8, min_capacity: 1}\n"
    "optim: {lr: 0.01, warmup_steps: 2}\n"
    "train: {steps: 6, global_batch: 7, micro_batch: 2}\n";

/* What every rank saw of the steps. */
typedef struct record {
    double loss[N_STEPS], norm[N_STEPS], sums[N_STEPS][L * SY_N_SUMS];
    int64_t load[N_STEPS][L * E], kept[N_STEPS][L * E];
} record;

/* ---- runs ---- */

static sy_status open_trainer(sy_comm *part, int32_t ep, const char *const *set,
                              sy_run_settings *settings, sy_trainer **out)
{
    sy_status st = SY_OK;
    char data[2 * SCRATCH_PATH], experts[32];
    const char *overrides[MAX_SET + 2] = {data, experts};
    int32_t n = 2;
    text_setting(data);
    snprintf(experts, sizeof experts, "parallel.ep=%d", ep);
    for (int32_t i = 0; i < MAX_SET && set[i] != NULL; i++) {
        overrides[n++] = set[i];
    }
    SY_TRY(
        sy_run_settings_parse(config_text, sizeof config_text - 1, "test", overrides, n, settings));
    SY_TRY(sy_trainer_create(&(sy_trainer_spec){.settings = settings, .world = part, .threads = 1},
                             out));
cleanup:
    return st;
}

static sy_status take_steps(sy_trainer *t, int32_t from, int32_t to, record *rec)
{
    sy_status st = SY_OK;
    for (int32_t i = from; i < to; i++) {
        sy_step_result r;
        SY_TRY(sy_trainer_step(t, false, &r));
        SY_REQUIRE(r.verdict == SY_STEP_DONE && isfinite(r.loss), SY_ERR_NUMERIC, "step %d", i);
        rec->loss[i] = r.loss;
        rec->norm[i] = r.grad_norm;
        memcpy(rec->sums[i], r.sums, sizeof rec->sums[i]);
        memcpy(rec->load[i], r.load, sizeof rec->load[i]);
        memcpy(rec->kept[i], r.kept, sizeof rec->kept[i]);
    }
cleanup:
    return st;
}

/* Steps [0, N_STEPS), saved on the way if path is not NULL; or, again, [N_FIRST, N_STEPS) from
 * what was saved. */
static sy_status train(sy_comm *part, int32_t ep, const char *const *set, const char *path,
                       bool again, record *rec)
{
    sy_status st = SY_OK;
    sy_run_settings settings = {0};
    sy_trainer *t = NULL;
    sy_state state;
    SY_TRY(open_trainer(part, ep, set, &settings, &t));
    state = sy_trainer_state(t, config_text);
    if (again) {
        SY_TRY(sy_checkpoint_load(path, &state, SY_LOAD_ALL, t->engine->mesh->io));
    } else {
        SY_TRY(sy_train_tell_data(t));
        SY_TRY(take_steps(t, 0, N_FIRST, rec));
    }
    if (path != NULL && !again) {
        state = sy_trainer_state(t, config_text);
        SY_TRY(sy_checkpoint_save(path, &state, t->engine->mesh->io));
    }
    SY_TRY(take_steps(t, N_FIRST, N_STEPS, rec));
cleanup:
    sy_trainer_destroy(&t);
    sy_run_settings_free(&settings);
    return st;
}

static double gap(const double *a, const double *b, int32_t n)
{
    double worst = 0;
    for (int32_t i = 0; i < n; i++) {
        double g = fabs(a[i] - b[i]) / (1e-9 + fabs(a[i]));
        worst = g <= worst ? worst : g;
    }
    return worst;
}

static void assert_all_alike(const char *name, const record *one, const record *all)
{
    const double loss = gap(one->loss, all->loss, N_STEPS),
                 norm = gap(one->norm, all->norm, N_STEPS);
    const double sums = gap(one->sums[0], all->sums[0], N_STEPS * L * SY_N_SUMS);
    const bool loads = memcmp(one->load, all->load, sizeof one->load) == 0 &&
                       memcmp(one->kept, all->kept, sizeof one->kept) == 0;
    const bool ok = loss <= 1e-9 && norm <= 1e-8 && sums <= 1e-8 && loads;
    if (!ok && mpi_test_world()->rank == 0) {
        print_error("%s: loss %.2e, norm %.2e, sums %.2e, loads %s\n", name, loss, norm, sums,
                    loads ? "same" : "differ");
    }
    assert_all(mpi_test_world()->rank != 0 || ok);
}

static bool same_bits(const record *a, const record *b)
{
    const int32_t n = N_STEPS - N_FIRST;
    return memcmp(a->loss + N_FIRST, b->loss + N_FIRST, sizeof a->loss[0] * n) == 0 &&
           memcmp(a->norm + N_FIRST, b->norm + N_FIRST, sizeof a->norm[0] * n) == 0 &&
           memcmp(a->sums[N_FIRST], b->sums[N_FIRST], sizeof a->sums[0] * n) == 0 &&
           memcmp(a->load[N_FIRST], b->load[N_FIRST], sizeof a->load[0] * n) == 0;
}

typedef struct router_case {
    const char *name;
    const char *set[MAX_SET];
} router_case;

static void training_does_not_depend_on_layout_or_restart(void **state)
{
    static record one, all, resumed;
    const router_case *c = *state;
    sy_comm *world = mpi_test_world(), *part = NULL;
    const int32_t ep = E % world->size == 0 ? world->size : 1;
    sy_status st = SY_OK;
    char path[2 * SCRATCH_PATH];
    memset(&resumed, 0, sizeof resumed);
    path_of("saved.h5", path);
    assert_all_ok(sy_comm_split(world, world->rank == 0 ? 0 : -1, world->rank, NULL, "one", &part));
    if (part != NULL) {
        st = train(part, 1, c->set, NULL, false, &one);
    }
    sy_comm_destroy(&part);
    assert_all_ok(st);
    assert_all_ok(train(world, ep, c->set, path, false, &all));
    assert_all_alike(c->name, &one, &all);
    assert_all_ok(train(world, ep, c->set, path, true, &resumed));
    assert_all(same_bits(&all, &resumed));
}

/* A checkpoint from before there were tables, or of a model made without data. */
static void hash_without_a_table_in_the_checkpoint_deals_evenly(void **state)
{
    (void)state;
    static record all, resumed;
    static const char *const even[MAX_SET] = {"moe.router=hash", "moe.hash.table=even"};
    static const char *const balanced[MAX_SET] = {"moe.router=hash", "moe.hash.table=balanced"};
    sy_comm *world = mpi_test_world();
    const int32_t ep = E % world->size == 0 ? world->size : 1;
    char path[2 * SCRATCH_PATH];
    path_of("saved.h5", path);
    assert_all_ok(train(world, ep, even, path, false, &all));
    assert_all_ok(train(world, ep, balanced, path, true, &resumed));
    assert_all(same_bits(&all, &resumed));
}

/* One row per router on the host, with settings that make all of it work. */
#define ROUTER(router, ...)                                                                        \
    {                                                                                              \
        .name = "router_" router "_does_not_depend_on_layout_or_restart", .set = {                 \
            "moe.router=" router,                                                                  \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
static const router_case cases[] = {
    {.name = "depth_of_experts_does_not_depend_on_layout_or_restart",
     .set = {"model.depth_capacity=0.4", "model.depth_layers=all", "train.recompute=block",
             "parallel.zero=2", "moe.recv_factor=0.3"}},
    {.name = "depth_with_capacity_does_not_depend_on_layout_or_restart",
     .set = {"model.depth_capacity=0.6", "moe.capacity_factor=1.0", "moe.pad_to_capacity=true"}},
    {.name = "peer_does_not_depend_on_layout_or_restart",
     .set = {"moe.layers=[1]", "model.peer_layers=[0]", "model.peer_keys=6", "model.peer_heads=2",
             "model.peer_top_k=3", "model.peer_query=8", "train.recompute=block",
             "parallel.zero=2"}},
    {.name = "further_tokens_do_not_depend_on_layout_or_restart",
     .set = {"model.layers=1", "model.mtp_layers=1", "moe.bias_update_rate=0.01",
             "moe.score=sigmoid", "parallel.zero=2", "train.recompute=block",
             "moe.recv_factor=0.3"}},
    ROUTER("grouped", "moe.grouped.groups=4", "moe.grouped.groups_kept=2",
           "moe.grouped.group_score=top2", "moe.bias_update_rate=0.01", "moe.score=sigmoid"),
    {.name = "deepseek_does_not_depend_on_layout_or_restart",
     .set = {"model.kv_heads=4",
             "model.kv_lora_rank=6",
             "model.q_lora_rank=5",
             "model.qk_nope_head_dim=4",
             "model.qk_rope_head_dim=2",
             "model.v_head_dim=4",
             "model.rope_interleaved=true",
             "model.rope_scaling=yarn",
             "model.rope_factor=4",
             "model.rope_mscale_all_dim=1",
             "model.rope_original_seq_len=8",
             "moe.layers=from:1",
             "moe.shared_experts=1",
             "moe.router=grouped",
             "moe.grouped.groups=4",
             "moe.grouped.groups_kept=2",
             "moe.bias_update_rate=0.01",
             "moe.score=sigmoid",
             "moe.routed_scale=2.5",
             "parallel.zero=2"}},
    ROUTER("gshard", "moe.capacity_factor=0.8", "moe.drop_policy=random",
           "moe.drop_weights=renormalize", "moe.expert_hidden=0",
           "moe.expert_widths=arithmetic:2:13", "moe.width_penalty=true"),
    ROUTER("soft", "moe.top_k=12", "moe.recv_factor=0.3"),
    ROUTER("soft", "moe.top_k=12", "moe.adapter_kind=molora", "moe.adapter_rank=2",
           "train.recompute=block", "moe.adapter_base=nf4"),
    ROUTER("soft", "moe.top_k=12", "moe.adapter_kind=mov", "moe.adapter_attention=true",
           "train.recompute=block", "parallel.zero=2"),
    ROUTER("topk", "moe.adapter_kind=bottleneck", "moe.adapter_rank=3", "train.recompute=moe",
           "moe.recv_factor=0.3", "moe.capacity_factor=0.8"),
    ROUTER("topk", "moe.adapter_rank=2", "moe.adapter_base=nf4"),
    ROUTER("topk", "model.activation=geglu", "moe.extra_ffn=true", "moe.normalize_weights=false",
           "moe.capacity_factor=1.25", "moe.capacity_basis=token", "moe.capacity_rounding=nearest"),
    ROUTER("noisy", "train.recompute=block"),
    ROUTER("sinkhorn", "train.recompute=moe"),
    ROUTER("hash", "moe.recv_factor=0.3"),
    ROUTER("hash", "moe.hash.table=even"),
    ROUTER("top_p", "moe.top_p.threshold=0.5"),
    ROUTER("remoe", "moe.remoe.lambda=0.1", "moe.recv_factor=0.1"),
    ROUTER("expert_choice", "moe.look_ahead=true"),
    ROUTER("adamoe", "moe.top_k=3", "moe.adamoe.null_experts=6"),
    ROUTER("prototype", "moe.top_k=3"),
    ROUTER("yuan", "moe.shared_experts=1"),
    ROUTER("cosine", "moe.jitter=0.1"),
    ROUTER("skywork", "moe.capacity_factor=0.7", "moe.skywork.keep=0.5"),
    ROUTER("maskmoe", "moe.maskmoe.visible=4", "moe.maskmoe.frequent_ids=100"),
    ROUTER("maskmoe", "moe.maskmoe.visible=4", "moe.maskmoe.frequent_share=0.5"),
    ROUTER("dynmoe", "moe.dynmoe.window=2", "moe.dynmoe.pause=0", "moe.dynmoe.start_experts=6",
           "moe.jitter=0.1", "moe.dynmoe.diversity_coeff=0.2", "parallel.zero=1"),
    ROUTER("moepp", "moe.top_k=3", "moe.capacity_factor=0.9", "moe.recv_factor=0.4",
           "train.recompute=block"),
    ROUTER("stable", "moe.top_k=1", "moe.stable.switch_step=2", "moe.stable.dim=4"),
    ROUTER("stable", "moe.top_k=1", "moe.stable.switch_step=4", "moe.stable.dim=4",
           "moe.capacity_factor=1.5", "train.recompute=block"),
    ROUTER("base", "moe.top_k=1", "moe.recv_factor=0.4"),
    ROUTER("grin", "moe.grin.near=0.5", "train.recompute=block", "moe.recv_factor=0.4"),
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

int main(void)
{
    struct CMUnitTest tests[N_CASES + 1];
    for (int32_t i = 0; i < N_CASES; i++) {
        tests[i] = (struct CMUnitTest){.name = cases[i].name,
                                       .test_func = training_does_not_depend_on_layout_or_restart,
                                       .setup_func = open_text,
                                       .teardown_func = close_folder,
                                       .initial_state = (void *)(uintptr_t)&cases[i]};
    }
    tests[N_CASES] = (struct CMUnitTest)cmocka_unit_test_setup_teardown(
        hash_without_a_table_in_the_checkpoint_deals_evenly, open_text, close_folder);
    return mpi_test_main("routers", tests, N_CASES + 1);
}
