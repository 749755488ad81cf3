#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "data/token_writer.h"
#include "launch/bench_step_impl.h"
#include "launch/settings.h"
#include "parallel/agree.h"

enum { MAX_OVERRIDES = 4, OVERRIDE_BYTES = 400 };

/* A Mixtral in small: 214 M parameters, a batch of 4 x 256 tokens. */
static const char mini_model[] = "run: {name: bench}\n"
                                 "model: {vocab_size: 32000, hidden: 512, layers: 8, heads: 8, "
                                 "kv_heads: 2, ffn_hidden: 1792, seq_len: 256}\n"
                                 "moe: {experts: 8, top_k: 2}\n"
                                 "optim: {lr: 3.0e-4}\n"
                                 "train: {steps: 1000000, global_batch: 4, micro_batch: %d}\n";

sy_status sy__bench_data_open(sy__bench_data *data)
{
    sy_status st = SY_OK;
    const char *base = getenv("TMPDIR");
    char folder[sizeof data->folder];
    int n = snprintf(folder, sizeof folder, "%s/switchyard-bench-XXXXXX",
                     base != NULL && *base != '\0' ? base : "/tmp");
    SY_REQUIRE(n > 0 && (size_t)n < sizeof folder && mkdtemp(folder) != NULL, SY_ERR_USAGE,
               "no temporary folder can be made as '%s' (TMPDIR): %s", folder, strerror(errno));
    memcpy(data->folder, folder, sizeof folder);
    snprintf(data->prefix, sizeof data->prefix, "%s/random", data->folder);
cleanup:
    return st;
}

void sy__bench_data_close(sy__bench_data *data)
{
    char path[sizeof data->prefix + 8];
    if (data->folder[0] != '\0') {
        snprintf(path, sizeof path, "%s.bin", data->prefix);
        unlink(path);
        snprintf(path, sizeof path, "%s.idx", data->prefix);
        unlink(path);
        rmdir(data->folder);
        data->folder[0] = '\0';
    }
}

/* One document; a sequence more than the steps take. */
sy_status sy__bench_data_write(const sy__bench_data *data, const sy_run_settings *settings,
                               int64_t n_steps)
{
    sy_status st = SY_OK;
    sy_token_writer *writer = NULL;
    int32_t *ids = NULL;
    int64_t S = settings->model->seq_len, V = settings->model->vocab_size;
    SY_TRY(sy_alloc(S + 1, sizeof *ids, (void **)&ids));
    SY_TRY(sy_token_writer_create(data->prefix, V, &writer));
    for (int64_t i = 0; i <= n_steps * settings->train->global_batch; i++) {
        for (int64_t t = 0; t <= S; t++) {
            ids[t] = (int32_t)((double)V * sy_rng_uniform(1, 1, (uint64_t)(i * (S + 1) + t)));
        }
        SY_TRY(sy_token_writer_append(writer, ids, S + 1));
    }
    SY_TRY(sy_token_writer_end_document(writer));
    SY_TRY(sy_token_writer_finish(writer));
cleanup:
    sy_token_writer_destroy(&writer);
    sy_free(&ids);
    return st;
}

/* Overrides as they stand on the command line come last: they win. */
static sy_status list_overrides(const sy__bench *bench, const sy__bench_data *data,
                                const char *const *more, int32_t n_more,
                                char text[MAX_OVERRIDES][OVERRIDE_BYTES], const char ***out,
                                int32_t *n_out)
{
    sy_status st = SY_OK;
    int32_t n = 0, n_set = 0;
    const char *const *set = sy_cli_list(bench->cli, "set", &n_set);
    const char *precision = sy_cli_text(bench->cli, "precision"), **all = NULL;
    SY_TRY(sy_alloc(MAX_OVERRIDES + n_set + n_more, sizeof *all, (void **)&all));
    snprintf(text[n++], OVERRIDE_BYTES, "data.train=[{path: \"%s\"}]", data->prefix);
    snprintf(text[n++], OVERRIDE_BYTES, "train.batch_ramp_from=0"); /* steps that are alike */
    if (precision != NULL) {
        snprintf(text[n++], OVERRIDE_BYTES, "device.precision=%s", precision);
    }
    if (sy_cli_given(bench->cli, "threads")) {
        snprintf(text[n++], OVERRIDE_BYTES, "device.threads=%d", bench->threads);
    }
    for (int32_t i = 0; i < n; i++) {
        all[i] = text[i];
    }
    for (int32_t i = 0; i < n_set; i++) {
        all[n++] = set[i];
    }
    for (int32_t i = 0; i < n_more; i++) {
        all[n++] = more[i];
    }
    *out = all;
    *n_out = n;
cleanup:
    return st;
}

sy_status sy__bench_settings(const sy__bench *bench, const sy__bench_data *data,
                             const char *const *more, int32_t n_more, sy_run_settings *out)
{
    sy_status st = SY_OK;
    sy_comm *world = bench->env->world;
    const char *path = sy_cli_text(bench->cli, "config"), **overrides = NULL;
    char text[MAX_OVERRIDES][OVERRIDE_BYTES], yaml[sizeof mini_model + 16];
    int32_t n = 0;
    SY_TRY(list_overrides(bench, data, more, n_more, text, &overrides, &n));
    if (path != NULL) {
        SY_TRY(sy_settings_load(path, overrides, n, world, out));
    } else {
        int yaml_bytes =
            snprintf(yaml, sizeof yaml, mini_model, world->size < 4 ? 4 / world->size : 1);
        SY_TRY(sy_agree(
            world, sy_run_settings_parse(yaml, (size_t)yaml_bytes, "mini", overrides, n, out)));
    }
cleanup:
    sy_free(&overrides);
    return st;
}
