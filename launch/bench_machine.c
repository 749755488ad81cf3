/* What `estimate --bench` reads: every op of small training steps is timed where it stands, with
   the caches as training leaves them, and rates are fitted to that; then collectives over sizes.
   All ranks train at the same time, each a model of its own, so that they share memory as in a run.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/cpu_peak.h"
#include "backend/prices.h"
#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "core/log.h"
#include "launch/bench_machine_impl.h"
#include "parallel/agree.h"
#include "train/machine.h"
#include "train/trainer.h"

enum {
    DEFAULT_STEPS = 5,
    MOST_SAMPLES = 2048, /* kinds of calls over all models */
    MOST_TIMES = 64,     /* of each kind of call: the last ones */
    PEAK_REPEATS = 5,
    TEXT_BYTES = 400
};

/* Shapes on either side of those that people train on a CPU: narrow and wide, many and few experts,
   short and long sequences, few and many rows. */
static const char *const models[] = {
    "model: {vocab_size: 512, hidden: 128, layers: 2, heads: 4, ffn_hidden: 384, seq_len: 128}\n"
    "moe: {experts: 8, top_k: 2}\ntrain: {global_batch: 4, micro_batch: 4}\n",
    "model: {vocab_size: 4096, hidden: 256, layers: 2, heads: 4, ffn_hidden: 768, seq_len: 128}\n"
    "train: {global_batch: 2, micro_batch: 2}\n",
    "model: {vocab_size: 16384, hidden: 768, layers: 1, heads: 12, kv_heads: 4, ffn_hidden: 2048, "
    "seq_len: 512, qk_norm: head, attention_bias: true}\n"
    "train: {global_batch: 1, micro_batch: 1}\n",
    "model: {vocab_size: 2048, hidden: 256, layers: 2, heads: 4, ffn_hidden: 256, seq_len: 256}\n"
    "moe: {experts: 32, top_k: 4, shared_experts: 1, shared_gate: true}\n"
    "train: {global_batch: 2, micro_batch: 2}\n",
    "model: {vocab_size: 8192, hidden: 512, layers: 2, heads: 8, kv_heads: 2, ffn_hidden: 1536, "
    "seq_len: 256}\n"
    "moe: {experts: 8, top_k: 2}\ntrain: {global_batch: 1, micro_batch: 1}\n",
    "model: {vocab_size: 2048, hidden: 512, layers: 1, heads: 8, kv_heads: 2, ffn_hidden: 1024, "
    "seq_len: 256}\n"
    "moe: {experts: 16, top_k: 2, capacity_factor: 1.5}\n"
    "train: {global_batch: 6, micro_batch: 6}\n",
    "model: {vocab_size: 1024, hidden: 384, layers: 1, heads: 6, ffn_hidden: 1024, seq_len: 2048}\n"
    "train: {global_batch: 1, micro_batch: 1}\n",
};
enum { N_MODELS = sizeof models / sizeof models[0] };

/* Calls that ask for the same. */
typedef struct calls {
    sy_work work;
    double seconds[MOST_TIMES];
    int64_t n;
} calls;

typedef struct machine_bench {
    const sy__bench *bench;
    sy_comm *world, *self; /* self: of this rank alone */
    int32_t steps;
    calls *call; /* [MOST_SAMPLES] */
    int32_t n_calls;
    double op_s, other_s; /* of measured steps: inside ops and copies; between them */
    int64_t n_ops;
    sy_machine machine;
} machine_bench;

/* ---- watching ---- */

static bool is_same(const sy_work *a, const sy_work *b)
{
    return a->kind == b->kind && a->narrow == b->narrow && a->flops == b->flops &&
           a->bytes == b->bytes && a->weights == b->weights && a->groups == b->groups;
}

static void watch(machine_bench *b, const sy_work *work, double seconds)
{
    int32_t i = 0;
    b->op_s += seconds;
    b->n_ops++;
    while (i < b->n_calls && !is_same(&b->call[i].work, work)) {
        i++;
    }
    if (i == MOST_SAMPLES || work->bytes + work->weights <= 0) {
        return;
    }
    if (i == b->n_calls) {
        b->call[b->n_calls++].work = *work;
    }
    calls *c = &b->call[i];
    c->seconds[c->n++ % MOST_TIMES] = seconds;
}

static void watch_op(void *self, sy_op op, const void *args, double seconds)
{
    const sy_work work = sy_work_of(op, args);
    watch(self, &work, seconds);
}

static void watch_copy(void *self, int64_t bytes, bool zero, double seconds)
{
    const sy_work work = sy_work_copy(bytes, zero);
    watch(self, &work, seconds);
}

/* ---- a model ---- */

static sy_status parse_model(const machine_bench *b, const sy__bench_data *data, int32_t model,
                             const char *precision, sy_run_settings *out)
{
    char set[3][TEXT_BYTES];
    snprintf(set[0], TEXT_BYTES, "data.train=[{path: \"%s\"}]", data->prefix);
    snprintf(set[1], TEXT_BYTES, "device.precision=%s", precision);
    snprintf(set[2], TEXT_BYTES, "device.threads=%d", b->bench->threads);
    const char *overrides[3] = {set[0], set[1], set[2]};
    return sy_run_settings_parse(models[model], strlen(models[model]), "bench machine", overrides,
                                 3, out);
}

static sy_status run_steps(machine_bench *b, sy_trainer *trainer)
{
    sy_status st = SY_OK;
    sy_device *dev = trainer->engine->dev;
    const sy_observer observer = {.op = watch_op, .copy = watch_copy, .self = b};
    sy_step_result r;
    SY_TRY(sy_trainer_step(trainer, false, &r)); /* kernels are built, pages touched */
    dev->observer = &observer;
    for (int32_t i = 0; i < b->steps && st == SY_OK; i++) {
        const double before = b->op_s;
        st = sy_trainer_step(trainer, false, &r);
        b->other_s += r.step_s - r.data_wait_s - (b->op_s - before);
    }
    dev->observer = NULL;
cleanup:
    return st;
}

/* Beside the arenas there is what the process held when the first engine was made, and of the
   streams' workspaces only what was touched counts: of the first model, as what earlier ones left
   in the heap only adds, and as its arenas are small and touched all over. */
static void note_memory(machine_bench *b, const sy_engine *e)
{
    sy_machine *m = &b->machine;
    const double workspace = (double)e->dev->ledger.now[SY_MEM_WORKSPACE];
    const double arenas = (double)e->dev->ledger.total_now - workspace;
    m->outside_bytes = (double)e->base_rss_bytes;
    const double touched = (double)sy_engine_rss_bytes() - m->outside_bytes - arenas;
    m->workspace_share = touched < 0 ? 0 : touched > workspace ? 1 : touched / workspace;
}

/* A run saves: the library that writes checkpoints, and what it keeps. */
static sy_status note_saving(machine_bench *b, const sy__bench_data *data, sy_trainer *trainer)
{
    enum { SAVES = 2 };
    sy_status st = SY_OK;
    const sy_state state = sy_trainer_state(trainer, "run: {}\n");
    const double before = (double)sy_engine_rss_bytes();
    char *path = NULL;
    SY_TRY(sy_asprintf(&path, "%s.h5", data->prefix));
    for (int32_t i = 0; i < SAVES; i++) {
        SY_TRY(sy_checkpoint_save(path, &state, b->self));
    }
    b->machine.outside_bytes += (double)sy_engine_rss_bytes() - before;
cleanup:
    if (path != NULL) {
        unlink(path);
    }
    sy_free(&path);
    return st;
}

static sy_status run_model(machine_bench *b, int32_t model, const char *precision)
{
    sy_status st = SY_OK;
    sy__bench_data data = {0};
    sy_run_settings settings = {0};
    sy_trainer *trainer = NULL;
    sy_trainer_spec spec = {.settings = &settings, .world = b->self};
    SY_TRY(sy__bench_data_open(&data));
    SY_TRY(parse_model(b, &data, model, precision, &settings));
    SY_TRY(sy__bench_data_write(&data, &settings, b->steps + 1));
    SY_TRY(sy_trainer_create(&spec, &trainer));
    SY_TRY(run_steps(b, trainer));
    if (b->machine.outside_bytes <= 0) {
        note_memory(b, trainer->engine);
        SY_TRY(note_saving(b, &data, trainer));
    }
cleanup:
    sy_trainer_destroy(&trainer);
    sy_run_settings_free(&settings);
    sy__bench_data_close(&data);
    return st;
}

static sy_status run_models(machine_bench *b, const char *precision)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < N_MODELS; i++) {
        SY_TRY(sy_agree(b->world, run_model(b, i, precision))); /* and all begin together */
    }
cleanup:
    return st;
}

static sy_status measure_peak(machine_bench *b, bool narrow)
{
    sy_status st = SY_OK;
    sy_cpu_peak *peak = NULL;
    double rate[PEAK_REPEATS];
    SY_TRY(sy_cpu_peak_create(narrow ? SY_BF16 : SY_F32, SY__PEAK_N, b->bench->threads, &peak));
    for (int32_t i = 0; i < PEAK_REPEATS; i++) {
        SY_TRY(sy_host_barrier(b->world, "bench machine"));
        SY_TRY(sy_cpu_peak_run(peak, &rate[i]));
    }
    b->machine.peak_flops[narrow] = sy__median(rate, PEAK_REPEATS);
cleanup:
    sy_cpu_peak_destroy(&peak);
    return st;
}

/* ---- rates ---- */

static sy_sample sample_of(calls *c)
{
    const int32_t n = (int32_t)(c->n < MOST_TIMES ? c->n : MOST_TIMES);
    return (sy_sample){
        .work = c->work, .seconds = sy__median(c->seconds, n), .calls = (double)c->n};
}

/* Fit all kinds for one border between near and far; the time-weighted error over all. */
static double fit_all(const sy_sample *all, int32_t n_all, sy_sample *some, double near_bytes,
                      sy_machine *m)
{
    double time = 0, off = 0;
    m->near_bytes = near_bytes;
    for (int32_t i = 0; i < 2 * SY_N_COSTS; i++) {
        const bool narrow = i >= SY_N_COSTS;
        const int32_t kind = i % SY_N_COSTS;
        double error = 0, seconds = 0;
        int32_t n = 0;
        for (int32_t k = 0; k < n_all; k++) {
            if (all[k].work.kind == kind && all[k].work.narrow == narrow) {
                some[n++] = all[k];
                seconds += all[k].calls * all[k].seconds;
            }
        }
        sy_fit_rate(some, n, near_bytes, &m->rate[narrow][kind], &error);
        time += seconds;
        off += seconds * error;
    }
    return time > 0 ? off / time : 0;
}

static sy_status fit(machine_bench *b, double *error)
{
    sy_status st = SY_OK;
    sy_sample *all = NULL, *some = NULL;
    double best = 0;
    SY_TRY(sy_alloc(b->n_calls, sizeof *all, (void **)&all));
    SY_TRY(sy_alloc(b->n_calls, sizeof *some, (void **)&some));
    for (int32_t i = 0; i < b->n_calls; i++) {
        all[i] = sample_of(&b->call[i]);
    }
    *error = 0;
    for (double near = 256 << 10; near <= 64 << 20; near *= 2) {
        const double e = fit_all(all, b->n_calls, some, near, &b->machine);
        if (best == 0 || e < *error) {
            best = near;
            *error = e;
        }
    }
    *error = fit_all(all, b->n_calls, some, best, &b->machine);
    b->machine.launch_s = b->n_ops > 0 && b->other_s > 0 ? b->other_s / (double)b->n_ops : 0;
cleanup:
    sy_free(&some);
    sy_free(&all);
    return st;
}

/* ---- the run ---- */

static void describe(machine_bench *b)
{
    const double pages = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    b->machine.memory_bytes = pages / b->world->size;
    b->machine.measured_ranks = b->world->size;
    snprintf(b->machine.name, sizeof b->machine.name, "measured, %d rank%s x %d thread%s",
             b->world->size, b->world->size == 1 ? "" : "s", b->bench->threads,
             b->bench->threads == 1 ? "" : "s");
}

static void print(const machine_bench *b, double error)
{
    char name[64];
    printf("%s: rates fitted to %d kinds of calls, off by %.1f %% of their time\n", b->machine.name,
           b->n_calls, 100 * error);
    printf("peak GFLOP/s fp32 %.1f, bf16 %.1f; the program %.0f MiB and %.0f %% of workspaces; "
           "between ops %.2f us; "
           "caches hold %.1f MiB\n",
           b->machine.peak_flops[0] / 1e9, b->machine.peak_flops[1] / 1e9,
           b->machine.outside_bytes / (1 << 20), 100 * b->machine.workspace_share,
           1e6 * b->machine.launch_s, b->machine.near_bytes / (1 << 20));
    for (int32_t i = 0; i < 2 * SY_N_COSTS; i++) {
        const sy_rate *r = &b->machine.rate[i >= SY_N_COSTS][i % SY_N_COSTS];
        if (r->call + r->flop + r->byte + r->far > 0) {
            printf("%-24s %s  call %7.2f us  %7.1f GFLOP/s  %7.2f GB/s  far %7.2f GB/s\n",
                   sy_cost_name(i % SY_N_COSTS, name, sizeof name),
                   i >= SY_N_COSTS ? "bf16" : "fp32", 1e6 * r->call,
                   r->flop > 0 ? 1e-9 / r->flop : 0, r->byte > 0 ? 1e-9 / r->byte : 0,
                   r->far > 0 ? 1e-9 / r->far : 0);
        }
    }
}

static sy_status measure(machine_bench *b)
{
    sy_status st = SY_OK;
    static const char *const precisions[] = {"fp32", "bf16"};
    const char *wanted = sy_cli_text(b->bench->cli, "precision");
    for (int32_t i = 0; i < 2; i++) {
        if (wanted == NULL || strcmp(wanted, precisions[i]) == 0) {
            SY_TRY(run_models(b, precisions[i]));
        }
    }
    for (int32_t i = 0; i < 2; i++) { /* last: its operands are no part of a training process */
        if (wanted == NULL || strcmp(wanted, precisions[i]) == 0) {
            SY_TRY(sy_agree(b->world, measure_peak(b, i == 1)));
        }
    }
    if (b->world->size > 1) {
        SY_TRY(sy__bench_collectives(b->bench, &b->machine));
    }
cleanup:
    return st;
}

static sy_status finish(machine_bench *b)
{
    sy_status st = SY_OK;
    const char *path = sy_cli_text(b->bench->cli, "output");
    double error = 0;
    SY_TRY(fit(b, &error));
    describe(b);
    print(b, error);
    if (path != NULL) {
        SY_TRY(sy_machine_write(&b->machine, path));
    }
cleanup:
    return st;
}

sy_status sy__bench_machine(const sy__bench *bench)
{
    sy_status st = SY_OK;
    machine_bench b = {.bench = bench,
                       .world = bench->env->world,
                       .steps = bench->repeats > 0 ? bench->repeats : DEFAULT_STEPS};
    const char *precision = sy_cli_text(bench->cli, "precision");
    SY_REQUIRE(precision == NULL || strcmp(precision, "fp32") == 0 ||
                   strcmp(precision, "bf16") == 0,
               SY_ERR_USAGE, "--precision: '%s' is not fp32 or bf16", precision);
    SY_REQUIRE(!bench->json, SY_ERR_USAGE,
               "bench machine prints no JSON; -o FILE writes what estimate --bench reads");
    SY_TRY(sy_agree(b.world, sy_alloc(MOST_SAMPLES, sizeof *b.call, (void **)&b.call)));
    SY_TRY(sy_agree(b.world, sy_comm_world(false, &b.self)));
    SY_TRY(measure(&b));
    SY_TRY(sy_agree(b.world, b.world->rank == 0 ? finish(&b) : SY_OK));
cleanup:
    sy_comm_destroy(&b.self);
    sy_free(&b.call);
    return st;
}
