/* What the benchmarks share: what was asked for, medians, and results as a table or as JSON. Every
   figure stands beside a ceiling that was measured in the same run; docs/BENCH.md defines them. */
#ifndef SY_LAUNCH_BENCH_IMPL_H
#define SY_LAUNCH_BENCH_IMPL_H

#include <jansson.h>

#include "launch/cli.h"

enum { SY__PEAK_N = 2048, SY__MAX_REPEATS = 1000 };

typedef struct sy__bench {
    const sy_cli *cli;
    sy_env *env;
    int32_t repeats; /* 0: the benchmark's own number */
    int32_t threads; /* of each rank */
    bool json;
} sy__bench;

/* The benchmarks, one file each. Collective over env->world; rank 0 prints. */
sy_status sy__bench_checkpoint(const sy__bench *bench);
sy_status sy__bench_gemm(const sy__bench *bench);
sy_status sy__bench_dispatch(const sy__bench *bench);
sy_status sy__bench_layer(const sy__bench *bench);
sy_status sy__bench_machine(const sy__bench *bench);
sy_status sy__bench_step(const sy__bench *bench);

/* The middle of x [n], which is sorted by this; n > 0. */
double sy__median(double *x, int32_t n);
/* The same numbers on every run, in -1 .. 1. */
void sy__bench_numbers(double *x, int64_t n);

/* A column of a table, or a line of a record. */
typedef struct sy__column {
    const char *key;   /* in the JSON object */
    const char *title; /* what a person reads, with the unit */
    int decimals;      /* of a number; whole numbers and texts are printed as they are */
} sy__column;

/* rows: JSON objects. Titles, then one aligned line per object. columns end with key NULL. */
sy_status sy__print_table(const sy__column *columns, const json_t *rows);
/* One line per column that the object has: title, value. */
void sy__print_record(const sy__column *columns, const json_t *record);
sy_status sy__print_json(const json_t *object);

#endif
