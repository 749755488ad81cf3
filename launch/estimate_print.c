/* The figures of an estimate, as JSON and for a person. */
#include <stdio.h>
#include <string.h>

#include "launch/bench_impl.h"
#include "launch/estimate_impl.h"
#include "moe/capacity.h"
#include "train/batch_ramp.h"

static double gib(double bytes)
{
    return bytes / (double)(1 << 30);
}

/* ---- JSON ---- */

static json_t *memory_of(const sy__estimate *e, const sy_rehearsal *r)
{
    json_t *rows = json_array();
    for (int32_t tag = 0; tag < SY_N_MEM_TAGS; tag++) {
        if (r->memory[tag] > 0) {
            json_array_append_new(rows, json_pack("{s:s, s:I, s:f}", "purpose",
                                                  sy_mem_tag_name((sy_mem_tag)tag), "bytes",
                                                  (json_int_t)r->memory[tag], "gib",
                                                  gib((double)r->memory[tag])));
        }
    }
    json_array_append_new(rows, json_pack("{s:s, s:I, s:f}", "purpose", "program", "bytes",
                                          (json_int_t)e->machine.outside_bytes, "gib",
                                          gib(e->machine.outside_bytes)));
    return rows;
}

static json_t *traffic_of(const sy_rehearsal *r)
{
    json_t *rows = json_array();
    for (int32_t i = 0; i < r->n_traffic; i++) {
        const sy_traffic_sum *t = &r->traffic[i];
        json_array_append_new(rows, json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f}", "what",
                                              t->traffic.what, "collective", t->traffic.collective,
                                              "ranks", t->traffic.size, "calls", t->calls, "bytes",
                                              t->bytes, "mb", t->bytes / 1e6, "sent_mb",
                                              t->sent / 1e6, "ms", 1e3 * t->seconds));
    }
    return rows;
}

/* Ops by what they are, as far as they take a hundredth of the step. */
static json_t *work_of(const sy_rehearsal *r)
{
    char name[64];
    json_t *rows = json_array();
    for (int32_t kind = 0; kind < SY_N_COSTS; kind++) {
        const sy_cost_sum *a = &r->cost[0][kind], *b = &r->cost[1][kind];
        const double s = a->seconds + b->seconds, flops = a->flops + b->flops;
        if (s > 0) {
            json_array_append_new(rows, json_pack("{s:s, s:f, s:f, s:f, s:f, s:f}", "op",
                                                  sy_cost_name(kind, name, sizeof name), "calls",
                                                  a->calls + b->calls, "ms", 1e3 * s,
                                                  "percent_of_step", 100 * s / r->step_s, "gflop",
                                                  flops / 1e9, "gb", (a->bytes + b->bytes) / 1e9));
        }
    }
    return rows;
}

static json_t *phases_of(const sy_rehearsal *r)
{
    const struct {
        const char *name;
        double s;
    } phase[] = {{"forward", r->time.forward_s},
                 {"backward", r->time.backward_s},
                 {"gradients, not hidden", r->time.grad_sync_wait_s},
                 {"norm and sums", r->time.sync_s},
                 {"optimizer", r->time.optimizer_s},
                 {"parameters, gathered", r->time.param_gather_s},
                 {"in these: dispatch", r->dispatch_s},
                 {"in these: experts", r->experts_s},
                 {"in these: combine", r->combine_s}};
    json_t *rows = json_array();
    for (size_t i = 0; i < sizeof phase / sizeof phase[0]; i++) {
        json_array_append_new(rows, json_pack("{s:s, s:f, s:f}", "phase", phase[i].name, "ms",
                                              1e3 * phase[i].s, "percent_of_step",
                                              100 * phase[i].s / r->step_s));
    }
    return rows;
}

static void set_f64(json_t *o, const char *key, double value)
{
    json_object_set_new(o, key, json_real(value));
}

static void set_i64(json_t *o, const char *key, int64_t value)
{
    json_object_set_new(o, key, json_integer((json_int_t)value));
}

static void describe_capacity(const sy__estimate *e, const sy_run_settings *s, json_t *o)
{
    const int64_t T = (int64_t)s->train->micro_batch * s->model->seq_len;
    char text[256];
    sy_capacity_describe(s->moe, T, e->ranks, text, sizeof text);
    json_object_set_new(o, "capacity", json_string(text));
    if (s->moe->capacity_factor.set) {
        set_i64(o, "capacity_slots",
                sy_capacity_slots(s->moe, false, sy_capacity_tokens(s->moe, T, e->ranks)));
    }
}

static void describe_run(const sy__estimate *e, const sy_run_settings *s, const sy_rehearsal *r,
                         json_t *o)
{
    static const char *const recompute[] = {"none", "moe", "block"};
    sy_dtype dtype = SY_F32;
    char layout[96];
    if (sy_device_config_dtype(s->config, "cpu", &dtype) != SY_OK) {
        dtype = SY_F32; /* it was checked before */
    }
    snprintf(layout, sizeof layout, "ep %d, zero %d, micro-batch %d x %d, recompute %s",
             s->parallel->ep, s->parallel->zero, s->train->micro_batch, s->model->seq_len,
             recompute[s->train->recompute]);
    json_object_set_new(o, "machine", json_string(e->machine.name));
    set_i64(o, "ranks", e->ranks);
    json_object_set_new(o, "precision", json_string(sy_dtype_name(dtype)));
    json_object_set_new(o, "layout", json_string(layout));
    if (s->moe->experts > 0) {
        describe_capacity(e, s, o);
    }
    set_i64(o, "ep", s->parallel->ep);
    set_i64(o, "micro_batch", s->train->micro_batch);
    set_i64(o, "global_batch", s->train->global_batch);
    set_i64(o, "rounds", r->rounds);
    set_i64(o, "params", r->params);
    set_i64(o, "active_params", r->active_params);
    if (r->mtp_params > 0) {
        set_i64(o, "mtp_params", r->mtp_params);
        set_f64(o, "mtp_m", (double)r->mtp_params / 1e6);
    }
    set_f64(o, "params_m", (double)r->params / 1e6);
    set_f64(o, "active_m", (double)r->active_params / 1e6);
    set_f64(o, "mflop_per_token", r->flops_per_token / 1e6);
    set_f64(o, "imbalance", sy__estimate_imbalance(e, s));
}

/* Of the run, with its smaller steps at the beginning. */
static double own_tokens(const sy_run_settings *s)
{
    return (double)sy_batch_ramp_sequences(s, s->train->steps) * s->model->seq_len;
}

json_t *sy__estimate_figures(const sy__estimate *e, const sy_run_settings *s, const sy_rehearsal *r)
{
    const sy_rehearsal_spec spec = {.settings = s, .machine = &e->machine, .ranks = e->ranks};
    json_t *o = json_object();
    const double rate = sy_rehearsal_rate(r), all = (double)r->memory_total;
    const double tokens = e->tokens > 0 ? e->tokens : own_tokens(s);
    const double hours = rate > 0 ? tokens / rate / 3600 : 0;
    describe_run(e, s, r, o);
    set_i64(o, "memory_bytes", (int64_t)(all + e->machine.outside_bytes));
    set_i64(o, "arena_bytes", r->memory_total);
    set_f64(o, "memory_gib", gib(all + e->machine.outside_bytes));
    set_f64(o, "room_gib", gib(e->machine.memory_bytes));
    json_object_set_new(o, "fits", json_boolean(sy__estimate_fits(e, r)));
    set_f64(o, "step_ms", 1e3 * r->step_s);
    set_f64(o, "tokens_per_s", rate);
    set_f64(o, "tokens_per_s_rank", rate / e->ranks);
    set_f64(o, "tflops_rank", rate / e->ranks * r->flops_per_token / 1e12);
    set_f64(o, "mfu_percent", 100 * sy_rehearsal_mfu(r, &spec));
    set_f64(o, "exchange_ms", 1e3 * r->exchange_s);
    set_f64(o, "exposed_ms", 1e3 * r->exposed_s);
    set_f64(o, "budget_tokens", tokens);
    set_f64(o, "hours", hours);
    set_f64(o, "gpu_hours", hours * e->ranks);
    json_object_set_new(o, "memory", memory_of(e, r));
    json_object_set_new(o, "collectives", traffic_of(r));
    json_object_set_new(o, "phases", phases_of(r));
    json_object_set_new(o, "work", work_of(r));
    return o;
}

/* ---- for a person ---- */

static void print_rows(const char *title, const sy__column *columns, const json_t *rows)
{
    if (json_array_size(rows) > 0) {
        printf("\n%s\n", title);
        (void)sy__print_table(columns, rows);
    }
}

static void print_run(const json_t *o)
{
    static const sy__column lines[] = {{"machine", "machine", 0},
                                       {"ranks", "ranks", 0},
                                       {"precision", "precision", 0},
                                       {"layout", "layout", 0},
                                       {"capacity", "capacity", 0},
                                       {"global_batch", "global batch, sequences", 0},
                                       {"rounds", "micro-batches of a rank", 0},
                                       {"params_m", "parameters, M", 1},
                                       {"mtp_m", "  of modules that predict further tokens, M", 1},
                                       {"active_m", "active, without the input embedding, M", 1},
                                       {"mflop_per_token", "model MFLOP per token", 1},
                                       {"imbalance", "rows of the fullest rank / mean", 2},
                                       {"memory_gib", "memory of a rank, GiB", 2},
                                       {"room_gib", "  of", 2},
                                       {"step_ms", "step, ms", 1},
                                       {"tokens_per_s", "tokens/s", 0},
                                       {"tokens_per_s_rank", "  of a rank", 0},
                                       {"tflops_rank", "model TFLOP/s of a rank", 3},
                                       {"mfu_percent", "MFU, %", 1},
                                       {"exchange_ms", "collectives, ms", 1},
                                       {"exposed_ms", "  not hidden", 1},
                                       {"budget_tokens", "tokens of the run", 0},
                                       {"hours", "  hours", 2},
                                       {"gpu_hours", "  GPU-hours", 1},
                                       {0}};
    sy__print_record(lines, o);
    if (!json_is_true(json_object_get(o, "fits"))) {
        printf("this layout does not fit into memory; its times are what they would be\n");
    }
}

static void print_parts(const json_t *o)
{
    static const sy__column memory[] = {{"purpose", "purpose", 0}, {"gib", "GiB", 3}, {0}};
    static const sy__column traffic[] = {{"what", "what", 0},   {"collective", "collective", 0},
                                         {"ranks", "ranks", 0}, {"calls", "calls", 0},
                                         {"mb", "MB", 2},       {"sent_mb", "sent MB", 2},
                                         {"ms", "ms", 2},       {0}};
    static const sy__column phases[] = {
        {"phase", "phase", 0}, {"ms", "ms", 2}, {"percent_of_step", "% of step", 1}, {0}};
    static const sy__column work[] = {{"op", "op", 0},
                                      {"calls", "calls", 0},
                                      {"ms", "ms", 2},
                                      {"percent_of_step", "% of step", 1},
                                      {"gflop", "GFLOP", 1},
                                      {"gb", "GB", 2},
                                      {0}};
    print_rows("memory of a rank", memory, json_object_get(o, "memory"));
    print_rows("collectives of a step, bytes of this rank", traffic,
               json_object_get(o, "collectives"));
    print_rows("time of a step by phase", phases, json_object_get(o, "phases"));
    print_rows("time of a step by op", work, json_object_get(o, "work"));
}

static void print_choices(const json_t *o)
{
    static const sy__column layouts[] = {{"ep", "ep", 0},
                                         {"micro_batch", "micro-batch", 0},
                                         {"rounds", "rounds", 0},
                                         {"memory_gib", "GiB", 1},
                                         {"step_ms", "step ms", 1},
                                         {"tokens_per_s", "tokens/s", 0},
                                         {"mfu_percent", "MFU %", 1},
                                         {"note", "", 0},
                                         {0}};
    static const sy__column scaling[] = {{"gpus", "GPUs", 0},
                                         {"ep", "ep", 0},
                                         {"global_batch", "global batch", 0},
                                         {"memory_gib", "GiB", 1},
                                         {"step_ms", "step ms", 1},
                                         {"tokens_per_s", "tokens/s", 0},
                                         {"mfu_percent", "MFU %", 1},
                                         {0}};
    const json_t *best = json_object_get(o, "best"), *missing = json_object_get(o, "missing");
    print_rows("layouts with the same global batch", layouts, json_object_get(o, "layouts"));
    if (best != NULL) {
        printf("the fastest that fits: parallel.ep %lld, train.micro_batch %lld\n",
               (long long)json_integer_value(json_object_get(best, "ep")),
               (long long)json_integer_value(json_object_get(best, "micro_batch")));
    }
    if (missing != NULL) {
        printf("nothing fits. %s\n", json_string_value(missing));
    }
    print_rows(best != NULL
                   ? "the fastest one over more ranks, the global batch growing with them"
                   : "the configuration's layout over more ranks, the global batch growing "
                     "with them",
               scaling, json_object_get(o, "scaling"));
}

void sy__estimate_print(const json_t *all)
{
    print_run(all);
    print_parts(all);
    print_choices(all);
}
