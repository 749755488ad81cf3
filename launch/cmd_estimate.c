/* estimate: what a run would need and reach on a machine that is not here. Nothing is trained and
   no data is read. */
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/log.h"
#include "launch/bench_impl.h"
#include "launch/commands_impl.h"
#include "launch/estimate_impl.h"
#include "launch/settings.h"
#include "train/batch_ramp.h"
#include "train/machine.h"

enum { MMAP_BYTES = 1 << 18, MAX_RANKS = 1 << 20, TEXT_BYTES = 64, OWN_OVERRIDES = 8 };

/* ---- one variant ---- */

sy_status sy__estimate_settings(const sy__estimate *e, const sy__variant *v, sy_run_settings *out)
{
    sy_status st = SY_OK;
    int32_t n_set = 0, n = 0;
    const char *const *set = sy_cli_list(e->cli, "set", &n_set);
    const char **all = NULL;
    char text[OWN_OVERRIDES][TEXT_BYTES];
    SY_TRY(sy_alloc(n_set + OWN_OVERRIDES, sizeof *all, (void **)&all));
    for (; n < n_set; n++) {
        all[n] = set[n];
    }
    snprintf(text[0], TEXT_BYTES, "device.backend=cpu");
    snprintf(text[1], TEXT_BYTES, "device.precision=bf16");
    snprintf(text[2], TEXT_BYTES, "parallel.ep=%d", v->ep);
    snprintf(text[3], TEXT_BYTES, "train.micro_batch=%d", v->micro_batch);
    snprintf(text[4], TEXT_BYTES, "train.global_batch=%d", v->global_batch);
    snprintf(text[7], TEXT_BYTES, "train.batch_ramp_from=0");
    snprintf(text[5], TEXT_BYTES, "train.recompute=%s", v->recompute != NULL ? v->recompute : "");
    snprintf(text[6], TEXT_BYTES, "parallel.zero=2");
    const bool given[OWN_OVERRIDES] = {true,
                                       e->set_precision,
                                       v->ep > 0,
                                       v->micro_batch > 0,
                                       v->global_batch > 0,
                                       v->recompute != NULL,
                                       v->zero2,
                                       v->global_batch > 0};
    for (int32_t i = 0; i < OWN_OVERRIDES; i++) {
        if (given[i]) {
            all[n++] = text[i];
        }
    }
    SY_TRY(sy_settings_load(e->cli->operand[0], all, n, e->env->world, out));
cleanup:
    sy_free(&all);
    return st;
}

sy_status sy__estimate_run(const sy__estimate *e, const sy__variant *v, sy_rehearsal *out)
{
    sy_status st = SY_OK;
    sy_run_settings settings = {0};
    sy_rehearsal_spec spec = {
        .settings = &settings, .machine = &e->machine, .ranks = v->ranks > 0 ? v->ranks : e->ranks};
    SY_TRY(sy__estimate_settings(e, v, &settings));
    spec.imbalance = sy__estimate_imbalance(e, &settings);
    SY_TRY(sy_rehearse(&spec, out));
cleanup:
    sy_run_settings_free(&settings);
    return st;
}

double sy__estimate_imbalance(const sy__estimate *e, const sy_run_settings *settings)
{
    return e->loads.n_lines > 0 ? sy__estimate_uneven(&e->loads, settings->parallel->ep)
                                : e->imbalance;
}

bool sy__estimate_fits(const sy__estimate *e, const sy_rehearsal *r)
{
    return (double)r->memory_total + e->machine.outside_bytes <= e->machine.memory_bytes;
}

/* ---- the command line ---- */

static sy_status take_machine(sy__estimate *e)
{
    sy_status st = SY_OK;
    const char *gpu = sy_cli_text(e->cli, "gpu"), *file = sy_cli_text(e->cli, "bench");
    SY_REQUIRE(gpu == NULL || file == NULL, SY_ERR_USAGE,
               "--gpu is a machine of the table, --bench one that was measured; give one of them");
    SY_TRY(file != NULL ? sy_machine_read(file, &e->machine)
                        : sy_machine_find(gpu != NULL ? gpu : "h100", &e->machine));
cleanup:
    return st;
}

static sy_status take_ranks(sy__estimate *e)
{
    sy_status st = SY_OK;
    int64_t gpus = 0, nodes = 0, per_node = e->machine.ranks_per_node;
    SY_TRY(sy_cli_i64(e->cli, "gpus", 1, MAX_RANKS, &gpus));
    SY_TRY(sy_cli_i64(e->cli, "nodes", 1, MAX_RANKS, &nodes));
    SY_TRY(sy_cli_i64(e->cli, "gpus-per-node", 1, MAX_RANKS, &per_node));
    SY_REQUIRE(gpus > 0 || nodes > 0, SY_ERR_USAGE,
               "estimate: --gpus N is missing (or --nodes N): how many ranks are there?");
    SY_REQUIRE(nodes == 0 || e->machine.gpu || sy_cli_given(e->cli, "gpus-per-node"), SY_ERR_USAGE,
               "--nodes needs --gpus-per-node with a measured machine");
    SY_REQUIRE(nodes == 0 || nodes * per_node <= MAX_RANKS, SY_ERR_USAGE,
               "--nodes %ld of %ld GPUs each are more than %d ranks", (long)nodes, (long)per_node,
               MAX_RANKS);
    SY_REQUIRE(gpus == 0 || nodes == 0 || gpus == nodes * per_node, SY_ERR_USAGE,
               "--gpus %ld is not --nodes %ld times %ld of each node; leave one of them out",
               (long)gpus, (long)nodes, (long)per_node);
    e->ranks = (int32_t)(gpus > 0 ? gpus : nodes * per_node);
    e->machine.ranks_per_node = (int32_t)per_node;
    SY_REQUIRE(e->machine.gpu || e->ranks == 1 || e->machine.measured_ranks > 1, SY_ERR_USAGE,
               "--bench: '%s' was written by one rank and knows no collectives; write it under "
               "mpirun -n %d",
               sy_cli_text(e->cli, "bench"), e->ranks);
    if (!e->machine.gpu && e->ranks != e->machine.measured_ranks) {
        sy_warn("the machine was measured with %d rank%s at once, the run has %d: ranks that share "
                "cores and memory slow each other down, and that is not known",
                e->machine.measured_ranks, e->machine.measured_ranks == 1 ? "" : "s", e->ranks);
    }
cleanup:
    return st;
}

/* Precision auto is bf16 on a GPU; what the machine's figures do not have is refused. */
static sy_status take_precision(sy__estimate *e)
{
    sy_status st = SY_OK;
    sy_run_settings settings = {0};
    sy_dtype dtype = SY_F32;
    SY_TRY(sy__estimate_settings(e, &(sy__variant){0}, &settings));
    e->set_precision = e->machine.gpu && settings.device->precision == SY_PRECISION_AUTO;
    SY_TRY(sy_device_config_dtype(settings.config, "cpu", &dtype));
    dtype = e->set_precision ? SY_BF16 : dtype;
    SY_REQUIRE(e->machine.peak_flops[dtype == SY_BF16] > 0, SY_ERR_USAGE,
               "--bench: '%s' has no figures for %s; write it anew without --precision",
               sy_cli_text(e->cli, "bench"), sy_dtype_name(dtype));
cleanup:
    sy_run_settings_free(&settings);
    return st;
}

/* A measured imbalance, where a run is named. */
static sy_status take_loads(sy__estimate *e)
{
    sy_status st = SY_OK;
    sy_run_settings settings = {0};
    const char *run_dir = sy_cli_text(e->cli, "loads");
    if (run_dir == NULL) {
        return SY_OK;
    }
    SY_REQUIRE(!sy_cli_given(e->cli, "imbalance"), SY_ERR_USAGE,
               "--loads measures what --imbalance says; give one of them");
    SY_TRY(sy__estimate_settings(e, &(sy__variant){0}, &settings));
    SY_TRY(sy__estimate_loads_read(run_dir, settings.moe->experts, &e->loads));
cleanup:
    sy_run_settings_free(&settings);
    return st;
}

static sy_status take_options(const sy_cli *cli, sy_env *env, sy__estimate *e)
{
    sy_status st = SY_OK;
    *e = (sy__estimate){.cli = cli, .env = env, .imbalance = 1};
    SY_TRY(take_machine(e));
    SY_TRY(take_ranks(e));
    SY_TRY(sy_cli_f64(cli, "imbalance", 1, 1000, &e->imbalance));
    SY_TRY(sy_cli_f64(cli, "tokens", 1, 1e18, &e->tokens));
    SY_TRY(take_precision(e));
    SY_TRY(take_loads(e));
cleanup:
    return st;
}

/* ---- the figures ---- */

/* The layout of the configuration, then all others. */
static sy_status add_layouts(const sy__estimate *e, json_t *all, sy__variant *best)
{
    sy_status st = SY_OK;
    char *missing = NULL;
    json_t *rows = json_array();
    json_object_set_new(all, "layouts", rows);
    SY_TRY(sy__estimate_layouts(e, rows, best));
    if (best->ep == 0) {
        SY_TRY(sy__estimate_missing(e, &missing));
        json_object_set_new(all, "missing", json_string(missing));
    } else {
        json_object_set_new(
            all, "best", json_pack("{s:i, s:i}", "ep", best->ep, "micro_batch", best->micro_batch));
    }
cleanup:
    sy_free(&missing);
    return st;
}

static sy_status add_scaling(const sy__estimate *e, const sy__variant *best, json_t *all)
{
    sy_status st = SY_OK;
    const char *plot = sy_cli_text(e->cli, "plot");
    json_t *rows = json_array();
    json_object_set_new(all, "scaling", rows);
    SY_TRY(sy__estimate_scaling(e, best, rows));
    if (plot != NULL) {
        SY_TRY(sy__estimate_plot(e, rows, plot));
    }
cleanup:
    return st;
}

/* What makes the figures say less than they seem to. */
static void warn_of(const sy__estimate *e, const sy_run_settings *settings)
{
    if (settings->train->global_batch < e->ranks) {
        sy_warn("train.global_batch = %d leaves %d of %d ranks without work",
                settings->train->global_batch, e->ranks - settings->train->global_batch, e->ranks);
    } else if (sy_batch_ramp_size(settings, 1) < e->ranks) {
        sy_warn("train.batch_ramp_from = %d leaves %d of %d ranks without work in the first steps",
                settings->train->batch_ramp_from, e->ranks - settings->train->batch_ramp_from,
                e->ranks);
    }
}

static sy_status estimate(const sy__estimate *e, json_t **out)
{
    sy_status st = SY_OK;
    sy_run_settings settings = {0};
    sy_rehearsal *r = NULL;
    sy__variant own = {0}, best = {0};
    SY_TRY(sy_alloc(1, sizeof *r, (void **)&r));
    SY_TRY(sy__estimate_settings(e, &own, &settings));
    warn_of(e, &settings);
    SY_TRY(sy__estimate_run(e, &own, r));
    *out = sy__estimate_figures(e, &settings, r);
    const bool whole = !sy_cli_given(e->cli, "short");
    if (whole) {
        SY_TRY(add_layouts(e, *out, &best));
    }
    if ((whole && e->machine.gpu) || sy_cli_given(e->cli, "plot")) {
        SY_TRY(add_scaling(e, &best, *out));
    }
cleanup:
    sy_run_settings_free(&settings);
    sy_free(&r);
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    sy__estimate e = {0};
    json_t *all = NULL;
    (void)exit_code;
    /* Gigabytes of a rank's buffers stand for nothing here: as pages of their own nobody touches
       them, while what the heap uses again would be zeroed. */
    (void)mallopt(M_MMAP_THRESHOLD, MMAP_BYTES);
    SY_TRY(take_options(cli, env, &e));
    SY_TRY(estimate(&e, &all));
    if (sy_cli_given(cli, "json")) {
        SY_TRY(sy__print_json(all));
    } else {
        sy__estimate_print(all);
    }
cleanup:
    json_decref(all);
    sy_metrics_log_free(&e.loads);
    return st;
}

static const sy_option options[] = {
    {"gpus", SY_OPTION_VALUE, "N", "Ranks of the run."},
    {"gpu", SY_OPTION_VALUE, "NAME", "a100, h100 (default), h800, h200 or b200: nodes of eight."},
    {"nodes", SY_OPTION_VALUE, "N", "Nodes, instead of --gpus."},
    {"gpus-per-node", SY_OPTION_VALUE, "N", "Ranks of a node (8)."},
    {"bench", SY_OPTION_VALUE, "FILE",
     "A machine that was measured (switchyard bench machine -o FILE), instead of --gpu."},
    {"tokens", SY_OPTION_VALUE, "T", "Tokens to train on (default: those of the configuration)."},
    {"imbalance", SY_OPTION_VALUE, "X",
     "Rows of the most loaded rank over the mean (1: balanced routing)."},
    {"loads", SY_OPTION_VALUE, "RUN_DIR",
     "Take that from a run with as many experts: its metrics say how its tokens fell."},
    {"plot", SY_OPTION_VALUE, "FILE", "Tokens/s and MFU over 8 to 4096 GPUs, as .svg or .html."},
    {"short", SY_OPTION_FLAG, NULL, "The configuration's own layout alone."},
    {"set", SY_OPTION_LIST, "KEY=VALUE", "Override a key of the configuration."},
    {"json", SY_OPTION_FLAG, NULL, "Print one JSON object."},
    {0},
};

const sy_command sy_cmd_estimate = {
    .name = "estimate",
    .operands = "CONFIG.yaml",
    .help = "Memory, bytes of each collective, step time, MFU and cost of a run on machines that "
            "are not here.",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .alone = true,
    .run = run};
