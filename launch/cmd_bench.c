#include <stdio.h>
#include <string.h>

#include "core/config.h"
#include "launch/bench_impl.h"
#include "launch/commands_impl.h"

static const struct {
    const char *name;
    sy_status (*run)(const sy__bench *bench);
} benchmarks[] = {
    {"checkpoint", sy__bench_checkpoint},
    {"dispatch", sy__bench_dispatch},
    {"gemm", sy__bench_gemm},
    {"layer", sy__bench_layer},
    {"machine", sy__bench_machine},
    {"step", sy__bench_step},
};

enum { N_BENCHMARKS = sizeof benchmarks / sizeof benchmarks[0] };

static sy_status unknown(const char *name)
{
    const char *names[N_BENCHMARKS];
    for (int32_t i = 0; i < N_BENCHMARKS; i++) {
        names[i] = benchmarks[i].name;
    }
    const char *near = sy_nearest_name(name, names, N_BENCHMARKS);
    return near != NULL ? sy_error(SY_ERR_USAGE,
                                   "bench: unknown benchmark '%s' (did you mean '%s'?)", name, near)
                        : sy_error(SY_ERR_USAGE,
                                   "bench: unknown benchmark '%s'; there are "
                                   "checkpoint, dispatch, gemm, layer, machine and step",
                                   name);
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    int64_t repeats = 0, threads = env->threads;
    sy__bench bench = {.cli = cli, .env = env, .json = sy_cli_given(cli, "json")};
    (void)exit_code;
    SY_TRY(sy_cli_i64(cli, "repeats", 1, SY__MAX_REPEATS, &repeats));
    SY_TRY(sy_cli_i64(cli, "threads", 1, 1024, &threads));
    bench.repeats = (int32_t)repeats;
    bench.threads = (int32_t)threads;
    for (int32_t i = 0; i < N_BENCHMARKS; i++) {
        if (strcmp(benchmarks[i].name, cli->operand[0]) == 0) {
            SY_TRY(benchmarks[i].run(&bench));
            goto cleanup;
        }
    }
    SY_TRY(unknown(cli->operand[0]));
cleanup:
    return st;
}

static const sy_option options[] = {
    {"precision", SY_OPTION_VALUE, "P", "fp32 or bf16 (gemm, machine: both if not given)."},
    {"threads", SY_OPTION_VALUE, "N", "Threads of each rank (default: its share of the cores)."},
    {"repeats", SY_OPTION_VALUE, "N", "Measurements of each figure; the median is printed."},
    {"shape", SY_OPTION_LIST, "MxNxK[xG]",
     "gemm: a product instead of those of the mini model; G: one of G experts' weights per M/G "
     "rows."},
    {"bytes", SY_OPTION_LIST, "N", "dispatch: bytes per pair of ranks (default 4 kB to 16 MB)."},
    {"config", SY_OPTION_VALUE, "FILE",
     "layer, step: a configuration instead of the mini model's."},
    {"set", SY_OPTION_LIST, "KEY=VALUE", "layer, step: override a key of the configuration."},
    {"size", SY_OPTION_VALUE, "N", "checkpoint: bytes from each rank (default 512 MiB)."},
    {"dir", SY_OPTION_VALUE, "DIR", "checkpoint: where the files go (default: here)."},
    {"output", SY_OPTION_VALUE, "FILE",
     "machine: where the figures go that estimate --bench reads."},
    {"json", SY_OPTION_FLAG, NULL, "Print one JSON object."},
    {0},
};

const sy_command sy_cmd_bench = {
    .name = "bench",
    .operands = "checkpoint|dispatch|gemm|layer|machine|step",
    .help =
        "Figures beside a ceiling measured in the same run: matrix products, row exchange, a MoE "
        "layer, a training step, saving and loading.",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .run = run};
