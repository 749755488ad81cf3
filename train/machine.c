#include "train/machine.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/config.h"

/* ---- the table ---- */

/* Vendors' figures of the SXM boards, and the shares of them that programs reach. NVLink and NIC
   per GPU and direction. docs/ESTIMATE.md names the source of every share. */
typedef struct gpu {
    const char *name, *title;
    double bf16_tflops, fp32_tflops, memory_gib, memory_gb_per_s, nvlink_gb_per_s, nic_gb_per_s;
    double gemm, attention, attention_backward, memory; /* shares of the peak */
} gpu;

static const gpu table[] = {
    {"a100", "A100 80 GB SXM", 312, 19.5, 79.3, 2039, 230, 22, 0.84, 0.62, 0.55, 0.86},
    {"h100", "H100 80 GB SXM", 989, 67, 79.6, 3350, 360, 45, 0.78, 0.70, 0.56, 0.866},
    {"h800", "H800 80 GB SXM", 989, 67, 79.6, 3350, 158, 45, 0.78, 0.70, 0.56, 0.866},
    {"h200", "H200 141 GB SXM", 989, 67, 140.4, 4800, 360, 45, 0.78, 0.70, 0.56, 0.875},
    {"b200", "B200 180 GB", 2250, 75, 178.3, 8000, 720, 45, 0.75, 0.60, 0.50, 0.87},
};
enum { N_GPUS = sizeof table / sizeof table[0] };

static void set_rates(const gpu *g, bool narrow, sy_machine *m)
{
    const double peak = m->peak_flops[narrow];
    const double byte = 1 / (1e9 * g->memory_gb_per_s * g->memory);
    for (int32_t kind = 0; kind < SY_N_COSTS; kind++) {
        const sy_op op = (sy_op)(kind / SY_COST_FORMS);
        const bool product = op == SY_OP_gemm || op == SY_OP_grouped_gemm;
        const double share = op == SY_OP_attention            ? g->attention
                             : op == SY_OP_attention_backward ? g->attention_backward
                                                              : g->gemm;
        m->rate[narrow][kind] = (sy_rate){
            .call = 2e-6, .flop = 1 / (peak * share), .byte = byte, .far = product ? byte : 0};
    }
}

static void describe(const gpu *g, sy_machine *m)
{
    *m = (sy_machine){.gpu = true,
                      .peak_flops = {1e12 * g->fp32_tflops, 1e12 * g->bf16_tflops},
                      .memory_bytes = g->memory_gib * (double)(1 << 30),
                      .workspace_share = 1,
                      .outside_bytes = 2.0 * (1 << 30),
                      .roofline = true,
                      .tile_rows = 128,
                      .small_side = 4096,
                      .small_factor = 0.65 / 0.78,
                      .launch_s = 3e-6,
                      .wait_s = 10e-6,
                      .ranks_per_node = 8,
                      .in_node = {20e-6, 1e9 * g->nvlink_gb_per_s},
                      .between = {40e-6, 1e9 * g->nic_gb_per_s}};
    snprintf(m->name, sizeof m->name, "%s", g->title);
    set_rates(g, false, m);
    set_rates(g, true, m);
}

sy_status sy_machine_find(const char *name, sy_machine *out)
{
    const char *names[N_GPUS];
    for (int32_t i = 0; i < N_GPUS; i++) {
        names[i] = table[i].name;
        if (strcmp(name, table[i].name) == 0) {
            describe(&table[i], out);
            return SY_OK;
        }
    }
    const char *near = sy_nearest_name(name, names, N_GPUS);
    return near != NULL
               ? sy_error(SY_ERR_USAGE, "--gpu: '%s' is not in the table (did you mean '%s'?)",
                          name, near)
               : sy_error(SY_ERR_USAGE,
                          "--gpu: '%s' is not in the table, which has a100, h100, h800, h200 and "
                          "b200; for another machine: --bench FILE",
                          name);
}

const char *sy_machine_listed(int32_t i, char *line, size_t line_bytes)
{
    if (i >= N_GPUS) {
        return NULL;
    }
    const gpu *g = &table[i];
    snprintf(line, line_bytes,
             "%.0f TFLOP/s bf16 (%.0f %% reached), %.0f GiB at %.0f GB/s (%.0f %%), NVLink %.0f "
             "GB/s, NIC %.0f GB/s",
             g->bf16_tflops, 100 * g->gemm, g->memory_gib, g->memory_gb_per_s, 100 * g->memory,
             g->nvlink_gb_per_s, g->nic_gb_per_s);
    return g->name;
}

/* ---- files ---- */

static const char file_format[] = "switchyard machine";
enum { FILE_VERSION = 1 };
static const char *const precisions[2] = {"fp32", "bf16"};
static const char *const curves[SY_N_CURVES] = {"all_to_all", "all_reduce", "reduce_scatter",
                                                "all_gather"};

typedef struct reading {
    const char *path;
    const json_t *root;
} reading;

/* A number from 0 to `most`; absent: SY_ERR_USAGE. */
static sy_status take(const reading *r, const json_t *object, const char *key, double most,
                      double *out)
{
    sy_status st = SY_OK;
    const json_t *value = json_object_get(object, key);
    SY_REQUIRE(json_is_number(value), SY_ERR_USAGE,
               "'%s': '%s' is missing or no number; write the file anew with switchyard bench "
               "machine -o",
               r->path, key);
    double x = json_number_value(value);
    SY_REQUIRE(isfinite(x) && x >= 0 && x <= most, SY_ERR_USAGE,
               "'%s': '%s' is %g, which is not between 0 and %g", r->path, key, x, most);
    *out = x;
cleanup:
    return st;
}

/* A rate is written as a person says it; 0: it costs nothing. */
static double per_giga(double rate)
{
    return rate > 0 ? 1 / (1e9 * rate) : 0;
}

static sy_status take_rate(const reading *r, const json_t *object, sy_rate *out)
{
    sy_status st = SY_OK;
    double call_us = 0, gflops = 0, gb = 0, far = 0;
    SY_TRY(take(r, object, "call_us", 1e9, &call_us));
    SY_TRY(take(r, object, "gflops", 1e9, &gflops));
    SY_TRY(take(r, object, "gb_per_s", 1e9, &gb));
    SY_TRY(take(r, object, "far_gb_per_s", 1e9, &far));
    *out = (sy_rate){1e-6 * call_us, per_giga(gflops), per_giga(gb), per_giga(far)};
cleanup:
    return st;
}

/* Ops that were not measured cost what a copy does. */
static sy_status take_rates(const reading *r, bool narrow, sy_machine *m)
{
    sy_status st = SY_OK;
    char name[64];
    const json_t *rates = json_object_get(json_object_get(r->root, "rates"), precisions[narrow]);
    SY_TRY(take(r, json_object_get(r->root, "peak_gflops"), precisions[narrow], 1e9,
                &m->peak_flops[narrow]));
    m->peak_flops[narrow] *= 1e9;
    SY_TRY(take_rate(
        r, json_object_get(json_object_get(json_object_get(r->root, "rates"), "fp32"), "copy"),
        &m->rate[narrow][SY_COST_COPY]));
    for (int32_t kind = 0; kind < SY_N_COSTS; kind++) {
        const json_t *rate = json_object_get(rates, sy_cost_name(kind, name, sizeof name));
        m->rate[narrow][kind] = m->rate[narrow][SY_COST_COPY];
        if (rate != NULL) {
            SY_TRY(take_rate(r, rate, &m->rate[narrow][kind]));
        }
    }
cleanup:
    return st;
}

static sy_status take_curve(const reading *r, const char *name, sy_curve *out)
{
    sy_status st = SY_OK;
    const json_t *points = json_object_get(json_object_get(r->root, "collectives"), name);
    size_t n = json_array_size(points);
    SY_REQUIRE(n >= 1 && n <= SY_MAX_POINTS, SY_ERR_USAGE,
               "'%s': collectives.%s has %zu points, not 1 to %d", r->path, name, n, SY_MAX_POINTS);
    for (size_t i = 0; i < n; i++) {
        const json_t *point = json_array_get(points, i);
        SY_TRY(take(r, point, "bytes", 1e15, &out->bytes[i]));
        SY_TRY(take(r, point, "us", 1e12, &out->seconds[i]));
        out->seconds[i] *= 1e-6;
        SY_REQUIRE(i == 0 || out->bytes[i] > out->bytes[i - 1], SY_ERR_USAGE,
                   "'%s': the points of collectives.%s are not in order", r->path, name);
    }
    out->n = (int32_t)n;
cleanup:
    return st;
}

static sy_status take_machine(const reading *r, sy_machine *m)
{
    sy_status st = SY_OK;
    const char *name = json_string_value(json_object_get(r->root, "name"));
    double launch_us = 0, ranks = 0;
    snprintf(m->name, sizeof m->name, "%s", name != NULL ? name : "a measured machine");
    SY_TRY(take(r, r->root, "memory_bytes", 1e18, &m->memory_bytes));
    SY_TRY(take(r, r->root, "program_bytes", 1e18, &m->outside_bytes));
    SY_TRY(take(r, r->root, "workspace_share", 1, &m->workspace_share));
    SY_TRY(take(r, r->root, "near_bytes", 1e18, &m->near_bytes));
    SY_TRY(take(r, r->root, "call_us", 1e6, &launch_us));
    SY_TRY(take(r, r->root, "ranks", 1 << 20, &ranks));
    SY_TRY(take_rates(r, false, m));
    SY_TRY(take_rates(r, true, m));
    m->launch_s = 1e-6 * launch_us;
    m->measured_ranks = (int32_t)ranks;
    m->ranks_per_node = 1 << 20; /* what was measured is all there is */
    for (int32_t i = 0; i < SY_N_CURVES && ranks > 1; i++) {
        SY_TRY(take_curve(r, curves[i], &m->curve[i]));
    }
    m->in_node = m->between = (sy_link){1e-6, 5e9}; /* for what has no curve */
cleanup:
    return st;
}

sy_status sy_machine_read(const char *path, sy_machine *out)
{
    sy_status st = SY_OK;
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    double version = 0;
    reading r = {path, root};
    SY_REQUIRE(root != NULL, SY_ERR_USAGE, "--bench: '%s' cannot be read: %s (line %d)", path,
               error.text, error.line);
    const char *format = json_string_value(json_object_get(root, "format"));
    SY_REQUIRE(format != NULL && strcmp(format, file_format) == 0, SY_ERR_USAGE,
               "--bench: '%s' is no file of switchyard bench machine -o", path);
    SY_TRY(take(&r, root, "version", 1e6, &version));
    SY_REQUIRE(version == FILE_VERSION, SY_ERR_USAGE,
               "--bench: '%s' is of version %g, this program reads %d; write it anew with "
               "switchyard bench machine -o",
               path, version, FILE_VERSION);
    *out = (sy_machine){0};
    SY_TRY(take_machine(&r, out));
cleanup:
    json_decref(root);
    return st;
}

/* ---- writing ---- */

static double giga(double seconds_each)
{
    return seconds_each > 0 ? 1e-9 / seconds_each : 0;
}

static bool is_known(const sy_rate *r)
{
    return r->call > 0 || r->flop > 0 || r->byte > 0 || r->far > 0;
}

static json_t *rates_of(const sy_machine *m, bool narrow)
{
    char name[64];
    json_t *all = json_object();
    for (int32_t kind = 0; kind < SY_N_COSTS; kind++) {
        const sy_rate *r = &m->rate[narrow][kind];
        if (is_known(r)) {
            json_object_set_new(all, sy_cost_name(kind, name, sizeof name),
                                json_pack("{s:f, s:f, s:f, s:f}", "call_us", 1e6 * r->call,
                                          "gflops", giga(r->flop), "gb_per_s", giga(r->byte),
                                          "far_gb_per_s", giga(r->far)));
        }
    }
    return all;
}

static json_t *curves_of(const sy_machine *m)
{
    json_t *all = json_object();
    for (int32_t i = 0; i < SY_N_CURVES && m->measured_ranks > 1; i++) {
        json_t *points = json_array();
        for (int32_t p = 0; p < m->curve[i].n; p++) {
            json_array_append_new(points, json_pack("{s:f, s:f}", "bytes", m->curve[i].bytes[p],
                                                    "us", 1e6 * m->curve[i].seconds[p]));
        }
        json_object_set_new(all, curves[i], points);
    }
    return all;
}

sy_status sy_machine_write(const sy_machine *m, const char *path)
{
    sy_status st = SY_OK;
    char *hidden = NULL;
    json_t *root = json_pack(
        "{s:s, s:i, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:{s:f, s:f}, s:{s:o, s:o}, s:o}", "format",
        file_format, "version", FILE_VERSION, "name", m->name, "ranks", m->measured_ranks,
        "memory_bytes", m->memory_bytes, "program_bytes", m->outside_bytes, "workspace_share",
        m->workspace_share, "near_bytes", m->near_bytes, "call_us", 1e6 * m->launch_s,
        "peak_gflops", precisions[0], 1e-9 * m->peak_flops[0], precisions[1],
        1e-9 * m->peak_flops[1], "rates", precisions[0], rates_of(m, false), precisions[1],
        rates_of(m, true), "collectives", curves_of(m));
    SY_TRY(sy_asprintf(&hidden, "%s.tmp", path));
    SY_REQUIRE(root != NULL && json_dump_file(root, hidden, JSON_INDENT(1)) == 0, SY_ERR_IO,
               "'%s' cannot be written: %s", hidden, strerror(errno));
    SY_REQUIRE(rename(hidden, path) == 0, SY_ERR_IO, "'%s' cannot be renamed to '%s': %s", hidden,
               path, strerror(errno));
cleanup:
    if (st != SY_OK && hidden != NULL) {
        unlink(hidden);
    }
    sy_free(&hidden);
    json_decref(root);
    return st;
}
