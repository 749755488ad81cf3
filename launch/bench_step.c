/* Whole training steps, as `train` runs them, on random tokens; between them the device's large
   product on all ranks at once. What the steps allocate is counted over all of them. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "launch/bench_ceiling_impl.h"
#include "launch/bench_impl.h"
#include "launch/bench_step_impl.h"
#include "launch/malloc_count.h"
#include "launch/settings.h"
#include "parallel/agree.h"
#include "train/trainer.h"

enum { DEFAULT_REPEATS = 7, N_WARM = 2 };

typedef struct samples {
    double step_s[SY__MAX_REPEATS], experts_s[SY__MAX_REPEATS], dispatch_s[SY__MAX_REPEATS],
        combine_s[SY__MAX_REPEATS], peak[SY__MAX_REPEATS];
} samples;

/* What is counted from the first measured step to the last. */
typedef struct counts {
    int64_t malloc_calls, inside_mpi, heap_growth, sy_allocs, device_allocs, host_waits,
        extra_passes;
} counts;

typedef struct step_bench {
    const sy__bench *bench;
    sy_comm *world;
    sy__bench_data data;
    sy_run_settings settings;
    sy__ceiling ceiling;
    sy_trainer *trainer;
    int32_t n;
    samples s;
    counts counted;  /* of all ranks together */
    json_t *callers; /* of this rank */
    double loss;
    int64_t tokens; /* of a step */
} step_bench;

static sy_status measure_step(step_bench *b, int32_t i)
{
    sy_status st = SY_OK;
    sy_step_result r;
    SY_TRY(sy_trainer_step(b->trainer, false, &r));
    SY_REQUIRE(r.verdict == SY_STEP_DONE, SY_ERR_NUMERIC,
               "step %ld of the benchmark was skipped: its gradients are not finite", (long)r.step);
    b->loss = r.loss;
    b->tokens = r.loss_tokens;
    if (i >= 0) {
        b->s.step_s[i] = r.step_s;
        b->s.experts_s[i] = r.experts_s;
        b->s.dispatch_s[i] = r.dispatch_s;
        b->s.combine_s[i] = r.combine_s;
        b->counted.extra_passes += r.n_extra_passes;
    }
cleanup:
    return st;
}

static void add_caller(const char *library, int64_t calls, void *arg)
{
    json_int_t before = json_integer_value(json_object_get(arg, library));
    json_object_set_new(arg, library, json_integer(before + (json_int_t)calls));
}

static void end_counting(step_bench *b, const sy_ledger *before, int64_t allocs_before,
                         int64_t heap_before)
{
    const sy_ledger *now = &b->trainer->engine->dev->ledger;
    sy_malloc_counts counts = sy_malloc_count_read();
    b->counted.malloc_calls = counts.total;
    b->counted.inside_mpi = counts.inside_mpi;
    b->counted.heap_growth = sy_malloc_heap_bytes() - heap_before;
    b->counted.sy_allocs = sy_alloc_total() - allocs_before;
    b->counted.device_allocs = now->n_allocs - before->n_allocs;
    b->counted.host_waits = now->n_host_waits - before->n_host_waits;
    sy_malloc_count_callers(add_caller, b->callers);
}

static sy_status measure(step_bench *b)
{
    sy_status st = SY_OK;
    sy_ledger before;
    double ignored;
    for (int32_t i = 0; i < N_WARM; i++) {
        SY_TRY(measure_step(b, -1));
        SY_TRY(sy__ceiling_run(&b->ceiling, &ignored));
    }
    before = b->trainer->engine->dev->ledger;
    int64_t allocs_before = sy_alloc_total(), heap_before = sy_malloc_heap_bytes();
    sy_malloc_count_start();
    for (int32_t i = 0; i < b->n && st == SY_OK; i++) {
        st = sy__ceiling_run(&b->ceiling, &b->s.peak[i]);
        st = st == SY_OK ? measure_step(b, i) : st;
    }
    sy_malloc_count_stop();
    SY_TRY(st);
    end_counting(b, &before, allocs_before, heap_before);
    SY_TRY(sy_host_all_reduce(b->world, &b->counted, sizeof b->counted / sizeof(int64_t), SY_I64,
                              SY_SUM, "bench counts"));
cleanup:
    return st;
}

/* ---- what it says ---- */

static json_t *times_of(const double *x, int32_t n)
{
    json_t *all = json_array();
    for (int32_t i = 0; i < n; i++) {
        json_array_append_new(all, json_real(x[i]));
    }
    return all;
}

static void set_f64(json_t *o, const char *key, double value)
{
    json_object_set_new(o, key, json_real(value));
}

static void set_i64(json_t *o, const char *key, int64_t value)
{
    json_object_set_new(o, key, json_integer((json_int_t)value));
}

static void describe_run(const step_bench *b, json_t *o)
{
    const sy_engine *e = b->trainer->engine;
    const sy_run_settings *s = &b->settings;
    int64_t active = 0;
    double flops = sy_engine_flops_per_token(e, &active);
    char batch[48];
    snprintf(batch, sizeof batch, "%d x %d, micro %d", s->train->global_batch, s->model->seq_len,
             s->train->micro_batch);
    json_object_set_new(o, "bench", json_string("step"));
    json_object_set_new(o, "precision", json_string(sy_dtype_name(e->compute)));
    set_i64(o, "ranks", b->world->size);
    set_i64(o, "threads", e->dev->n_threads);
    set_i64(o, "ep", s->parallel->ep);
    json_object_set_new(o, "batch", json_string(batch));
    set_f64(o, "params_m", (double)sy_params_count(e->params, false) / 1e6);
    set_f64(o, "active_m", (double)active / 1e6);
    set_f64(o, "mflop_per_token", flops / 1e6);
    set_i64(o, "force_balance", s->moe->force_balance);
    set_i64(o, "measured_steps", b->n);
    set_f64(o, "loss", b->loss);
}

static void describe_speed(step_bench *b, json_t *o)
{
    samples *s = &b->s;
    double flops = sy_engine_flops_per_token(b->trainer->engine, NULL);
    json_object_set_new(o, "step_times_s", times_of(s->step_s, b->n));
    json_object_set_new(o, "peak_flops", times_of(s->peak, b->n));
    double step = sy__median(s->step_s, b->n), peak = sy__median(s->peak, b->n);
    double experts = sy__median(s->experts_s, b->n), dispatch = sy__median(s->dispatch_s, b->n);
    double combine = sy__median(s->combine_s, b->n), rate = (double)b->tokens / step;
    set_f64(o, "step_ms", 1e3 * step);
    set_f64(o, "tokens_per_s", rate);
    set_f64(o, "model_gflops", rate * flops / 1e9);
    json_object_set_new(o, "ceiling", json_string(b->ceiling.name));
    set_f64(o, "peak_gflops", peak / 1e9);
    set_f64(o, "percent_of_peak", 100 * rate * flops / peak);
    set_f64(o, "experts_ms", 1e3 * experts);
    set_f64(o, "dispatch_ms", 1e3 * dispatch);
    set_f64(o, "combine_ms", 1e3 * combine);
    set_f64(o, "rest_ms", 1e3 * (step - experts - dispatch - combine));
}

static void describe_memory(const step_bench *b, json_t *o)
{
    const sy_engine *e = b->trainer->engine;
    int64_t program = e->base_rss_bytes + sy__ceiling_host_bytes(&b->ceiling);
    double predicted = (double)(program + e->predicted_bytes);
    double peak = (double)sy_engine_peak_rss_bytes();
    set_f64(o, "program_mib", (double)program / (1 << 20));
    set_f64(o, "arenas_mib", (double)e->predicted_bytes / (1 << 20));
    set_f64(o, "predicted_mib", predicted / (1 << 20));
    set_f64(o, "peak_rss_mib", peak / (1 << 20));
    set_f64(o, "percent_of_predicted", 100 * peak / predicted);
}

static void describe_counts(const step_bench *b, json_t *o)
{
    const counts *c = &b->counted;
    if (sy_malloc_count_works()) {
        set_i64(o, "malloc_calls", c->malloc_calls);
        set_i64(o, "malloc_calls_inside_mpi", c->inside_mpi);
        json_object_set(o, "malloc_callers", b->callers);
        set_i64(o, "heap_growth_bytes", c->heap_growth);
    }
    set_i64(o, "sy_allocs", c->sy_allocs);
    set_i64(o, "device_allocs", c->device_allocs);
    set_f64(o, "host_waits_per_step", (double)c->host_waits / b->n / b->world->size);
    set_i64(o, "extra_passes", c->extra_passes);
}

static void print_record(const json_t *o)
{
    static const sy__column lines[] = {
        {"precision", "precision", 0},
        {"ranks", "ranks", 0},
        {"threads", "threads of each rank", 0},
        {"ep", "expert-parallel ranks", 0},
        {"batch", "sequences x tokens", 0},
        {"params_m", "parameters, M", 2},
        {"active_m", "active, without the input embedding, M", 2},
        {"mflop_per_token", "model MFLOP per token", 1},
        {"measured_steps", "measured steps", 0},
        {"step_ms", "step, median, ms", 1},
        {"experts_ms", "  experts", 1},
        {"dispatch_ms", "  dispatch", 1},
        {"combine_ms", "  combine", 1},
        {"rest_ms", "  rest", 1},
        {"tokens_per_s", "tokens/s", 1},
        {"model_gflops", "model GFLOP/s", 1},
        {"ceiling", "ceiling: one product by", 0},
        {"peak_gflops", "  all ranks at once, GFLOP/s", 1},
        {"percent_of_peak", "MFU, % of that", 1},
        {"program_mib", "memory before the run, MiB", 1},
        {"arenas_mib", "predicted by the arena report, MiB", 1},
        {"peak_rss_mib", "peak of the process, MiB", 1},
        {"percent_of_predicted", "peak, % of both together", 1},
        {"device_allocs", "device allocations in the measured steps", 0},
        {"sy_allocs", "host allocations of the program's own", 0},
        {"malloc_calls", "calls of malloc, by all libraries and ranks", 0},
        {"malloc_calls_inside_mpi", "  of them inside MPI", 0},
        {"heap_growth_bytes", "growth of the heap, bytes", 0},
        {"host_waits_per_step", "host waits per step and rank", 1},
        {"extra_passes", "extra exchange passes", 0},
        {0}};
    const char *library;
    json_t *calls, *callers = json_object_get(o, "malloc_callers");
    if (json_integer_value(json_object_get(o, "force_balance")) != 0) {
        printf("moe.force_balance is on: routing is not learned\n");
    }
    sy__print_record(lines, o);
    json_object_foreach(callers, library, calls)
    {
        printf("  rank 0, by %-31s %14lld\n", library, (long long)json_integer_value(calls));
    }
}

static sy_status report(step_bench *b)
{
    sy_status st = SY_OK;
    json_t *o = json_object();
    describe_run(b, o);
    describe_speed(b, o);
    describe_memory(b, o);
    describe_counts(b, o);
    if (b->bench->json) {
        SY_TRY(sy__print_json(o));
    } else {
        print_record(o);
    }
cleanup:
    json_decref(o);
    return st;
}

/* ---- the run ---- */

sy_status sy__bench_step(const sy__bench *bench)
{
    sy_status st = SY_OK;
    step_bench b = {.bench = bench,
                    .world = bench->env->world,
                    .n = bench->repeats > 0 ? bench->repeats : DEFAULT_REPEATS,
                    .callers = json_object()};
    sy_trainer_spec spec = {.settings = &b.settings, .world = b.world, .threads = bench->threads};
    SY_TRY(sy_agree(b.world, sy__bench_data_open(&b.data)));
    SY_TRY(sy__bench_settings(bench, &b.data, NULL, 0, &b.settings));
    SY_TRY(sy_agree(b.world, sy__bench_data_write(&b.data, &b.settings, b.n + N_WARM)));
    SY_TRY(sy_trainer_create(&spec, &b.trainer));
    SY_TRY(sy_agree(b.world, sy__ceiling_open(b.world, b.trainer->engine->dev,
                                              b.trainer->engine->compute, &b.ceiling)));
    SY_TRY(measure(&b));
    if (b.world->rank == 0) {
        SY_TRY(report(&b));
    }
cleanup:
    sy__ceiling_close(&b.ceiling);
    sy_trainer_destroy(&b.trainer);
    sy_run_settings_free(&b.settings);
    sy__bench_data_close(&b.data);
    json_decref(b.callers);
    return st;
}
