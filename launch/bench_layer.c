/* One MoE layer by itself, forward and backward, with a router that is as drawn: normal numbers
   come in, a normal gradient comes back; between the measurements the device's large product. */
#include <stdio.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/rng.h"
#include "launch/bench_ceiling_impl.h"
#include "launch/bench_step_impl.h"
#include "moe/moe.h"
#include "parallel/agree.h"
#include "train/engine.h"

enum { DEFAULT_REPEATS = 9, N_WARM = 2 };
enum { X, Y, DY, DX, N_TENSORS };

typedef struct layer_bench {
    const sy__bench *bench;
    sy_comm *world;
    sy__bench_data data;
    sy_run_settings settings;
    sy_engine *engine;
    sy__ceiling ceiling;
    sy_tensor t[N_TENSORS]; /* [T, H] */
    void *data_of[N_TENSORS];
    int32_t *h_ids, *h_pos, *h_doc;
    int64_t *h_token;
    int32_t n;
    double forward_s[SY__MAX_REPEATS], backward_s[SY__MAX_REPEATS], both_s[SY__MAX_REPEATS],
        experts_s[SY__MAX_REPEATS], dispatch_s[SY__MAX_REPEATS], combine_s[SY__MAX_REPEATS],
        peak[SY__MAX_REPEATS];
    int64_t extra_passes;
    double imbalance;
} layer_bench;

static int64_t n_tokens(const layer_bench *b)
{
    return (int64_t)b->settings.train->micro_batch * b->settings.model->seq_len;
}

/* ---- what goes in ---- */

static sy_status draw(layer_bench *b, int32_t i)
{
    sy_status st = SY_OK;
    const sy_tensor *t = &b->t[i];
    const int64_t n = sy_tensor_numel(t);
    double *x = NULL;
    void *raw = NULL;
    SY_TRY(sy_alloc(n, sizeof *x, (void **)&x));
    SY_TRY(sy_alloc(n, sy_dtype_bytes(t->dtype), &raw));
    for (int64_t k = 0; k < n; k++) {
        x[k] = sy_rng_normal(1, (uint64_t)(i + N_TENSORS * b->world->rank), (uint64_t)k);
    }
    sy_convert(t->dtype, raw, SY_F64, x, n);
    SY_TRY(sy_copy_h2d(b->engine->compute_stream, t->data, raw, sy_tensor_bytes(t)));
    SY_TRY(sy_stream_sync(b->engine->compute_stream));
cleanup:
    sy_free(&raw);
    sy_free(&x);
    return st;
}

static sy_status make_tokens(layer_bench *b)
{
    sy_status st = SY_OK;
    const int64_t T = n_tokens(b), S = b->settings.model->seq_len;
    SY_TRY(sy_alloc(T, sizeof *b->h_ids, (void **)&b->h_ids));
    SY_TRY(sy_alloc(T, sizeof *b->h_pos, (void **)&b->h_pos));
    SY_TRY(sy_alloc(T, sizeof *b->h_doc, (void **)&b->h_doc));
    SY_TRY(sy_alloc(T, sizeof *b->h_token, (void **)&b->h_token));
    for (int64_t t = 0; t < T; t++) {
        b->h_token[t] = b->world->rank * T + t;
        b->h_ids[t] = (int32_t)((double)b->settings.model->vocab_size *
                                sy_rng_uniform(1, 1, (uint64_t)b->h_token[t]));
        b->h_pos[t] = (int32_t)(t % S);
    }
cleanup:
    return st;
}

static sy_status make(layer_bench *b)
{
    sy_status st = SY_OK;
    sy_engine *e = b->engine;
    const int64_t T = n_tokens(b), H = b->settings.model->hidden;
    SY_TRY(make_tokens(b));
    for (int32_t i = 0; i < N_TENSORS; i++) {
        SY_TRY(sy_device_alloc(e->dev, T * H * (int64_t)sy_dtype_bytes(e->compute), SY_MEM_OTHER,
                               &b->data_of[i]));
        b->t[i] = sy_tensor_2d(b->data_of[i], e->compute, T, H);
    }
    SY_TRY(draw(b, X));
    SY_TRY(draw(b, DY));
    SY_TRY(sy_params_init(e->params, (uint64_t)b->settings.run->seed, e->compute_stream));
    SY_TRY(sy__ceiling_open(b->world, e->dev, e->compute, &b->ceiling));
cleanup:
    return st;
}

/* ---- measuring ---- */

/* i < 0: warming up. */
static sy_status measure_once(layer_bench *b, int32_t i)
{
    sy_status st = SY_OK;
    sy_engine *e = b->engine;
    const sy_sublayer *moe = &e->model->block[0].ffn;
    const sy_batch batch = {.B = b->settings.train->micro_batch,
                            .S = b->settings.model->seq_len,
                            .ids = b->h_ids,
                            .pos = b->h_pos,
                            .doc = b->h_doc,
                            .token_glb = b->h_token};
    sy_pass p;
    void *saved = NULL;
    double t[3];
    SY_TRY(sy_engine_zero_stats(e));
    SY_TRY(sy_engine_begin(e, SY_PASS_TRAIN, &batch, 1, 0, &p));
    p.per_routed_token = 1.0 / (double)(n_tokens(b) * b->world->size);
    SY_TRY(sy_stream_sync(e->compute_stream));
    SY_TRY(sy_host_barrier(b->world, "bench layer"));
    t[0] = sy_clock_s();
    SY_TRY(moe->ops->forward(moe->self, &p, &b->t[X], &b->t[Y], &saved));
    SY_TRY(sy_stream_sync(e->compute_stream));
    t[1] = sy_clock_s();
    SY_TRY(moe->ops->backward(moe->self, &p, saved, &b->t[X], &b->t[DY], &b->t[DX]));
    SY_TRY(sy_stream_sync(e->compute_stream));
    t[2] = sy_clock_s();
    SY_TRY(sy_engine_end(e, &p));
    if (i >= 0) {
        b->forward_s[i] = t[1] - t[0];
        b->backward_s[i] = t[2] - t[1];
        b->both_s[i] = t[2] - t[0];
        b->experts_s[i] = e->stats.experts_s;
        b->dispatch_s[i] = e->stats.dispatch_s;
        b->combine_s[i] = e->stats.combine_s;
        b->extra_passes += e->stats.n_extra_passes;
    }
cleanup:
    return st;
}

static sy_status measure(layer_bench *b)
{
    sy_status st = SY_OK;
    double ignored;
    for (int32_t i = -N_WARM; i < b->n; i++) {
        SY_TRY(sy__ceiling_run(&b->ceiling, i >= 0 ? &b->peak[i] : &ignored));
        SY_TRY(measure_once(b, i));
    }
    SY_TRY(sy_engine_reduce_stats(b->engine));
    const int64_t E = b->settings.moe->experts;
    double sum = 0, most = 0;
    for (int64_t i = 0; i < E; i++) {
        const double load = (double)b->engine->h_loads[i];
        sum += load;
        most = load > most ? load : most;
    }
    b->imbalance = sum > 0 ? most * (double)E / sum : 0;
cleanup:
    return st;
}

/* ---- what it says ---- */

static json_t *record_of(layer_bench *b)
{
    const sy_run_settings *s = &b->settings;
    const double T = (double)(n_tokens(b) * b->world->size);
    const double forward_flops = 2 * T * (double)sy_moe_active_params(s->model, s->moe);
    const double forward = sy__median(b->forward_s, b->n),
                 backward = sy__median(b->backward_s, b->n);
    const double both = sy__median(b->both_s, b->n), peak = sy__median(b->peak, b->n);
    json_t *o =
        json_pack("{s:s, s:s, s:i, s:i, s:i, s:s, s:I, s:i, s:i, s:i, s:i, s:i, s:b}", "bench",
                  "layer", "precision", sy_dtype_name(b->engine->compute), "ranks", b->world->size,
                  "threads", b->engine->dev->n_threads, "ep", s->parallel->ep, "router",
                  s->moe->router, "tokens", (json_int_t)T, "hidden", s->model->hidden,
                  "expert_hidden", s->moe->expert_hidden, "experts", s->moe->experts, "top_k",
                  s->moe->top_k, "repeats", b->n, "force_balance", s->moe->force_balance);
    json_t *figures = json_pack(
        "{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:s, s:f, s:f, s:f, s:f, s:f, s:I}",
        "layer_ms", 1e3 * both, "forward_ms", 1e3 * forward, "backward_ms", 1e3 * backward,
        "experts_ms", 1e3 * sy__median(b->experts_s, b->n), "dispatch_ms",
        1e3 * sy__median(b->dispatch_s, b->n), "combine_ms", 1e3 * sy__median(b->combine_s, b->n),
        "gflops", 3 * forward_flops / both / 1e9, "forward_gflops", forward_flops / forward / 1e9,
        "backward_gflops", 2 * forward_flops / backward / 1e9, "ceiling", b->ceiling.name,
        "peak_gflops", peak / 1e9, "percent_of_peak", 100 * 3 * forward_flops / both / peak,
        "forward_percent_of_peak", 100 * forward_flops / forward / peak, "backward_percent_of_peak",
        100 * 2 * forward_flops / backward / peak, "load_max_over_mean", b->imbalance,
        "extra_passes", (json_int_t)b->extra_passes);
    json_object_update(o, figures);
    json_decref(figures);
    return o;
}

static sy_status report(layer_bench *b)
{
    static const sy__column lines[] = {{"precision", "precision", 0},
                                       {"ranks", "ranks", 0},
                                       {"threads", "threads of each rank", 0},
                                       {"ep", "expert-parallel ranks", 0},
                                       {"router", "router", 0},
                                       {"tokens", "tokens of all ranks", 0},
                                       {"hidden", "hidden", 0},
                                       {"expert_hidden", "expert_hidden", 0},
                                       {"experts", "experts", 0},
                                       {"top_k", "top_k", 0},
                                       {"load_max_over_mean", "fullest expert over the mean", 2},
                                       {"layer_ms", "forward and backward, median, ms", 2},
                                       {"forward_ms", "  forward", 2},
                                       {"backward_ms", "  backward", 2},
                                       {"experts_ms", "  experts, of both", 2},
                                       {"dispatch_ms", "  rows out, of both", 2},
                                       {"combine_ms", "  rows back, of both", 2},
                                       {"gflops", "model GFLOP/s", 1},
                                       {"ceiling", "ceiling: one product by", 0},
                                       {"peak_gflops", "  all ranks at once, GFLOP/s", 1},
                                       {"percent_of_peak", "% of that", 1},
                                       {"forward_percent_of_peak", "  forward alone", 1},
                                       {"backward_percent_of_peak", "  backward alone", 1},
                                       {"extra_passes", "extra exchange passes", 0},
                                       {0}};
    sy_status st = SY_OK;
    json_t *o = record_of(b);
    SY_REQUIRE(o != NULL, SY_ERR_MEMORY, "no memory for the figures");
    if (b->bench->json) {
        SY_TRY(sy__print_json(o));
    } else {
        if (b->settings.moe->force_balance) {
            printf("moe.force_balance is on: routing is not learned\n");
        }
        sy__print_record(lines, o);
    }
cleanup:
    json_decref(o);
    return st;
}

static void close(layer_bench *b)
{
    sy__ceiling_close(&b->ceiling);
    for (int32_t i = 0; b->engine != NULL && i < N_TENSORS; i++) {
        sy_device_free(b->engine->dev, &b->data_of[i]);
    }
    sy_engine_destroy(&b->engine);
    sy_free(&b->h_token);
    sy_free(&b->h_doc);
    sy_free(&b->h_pos);
    sy_free(&b->h_ids);
    sy_run_settings_free(&b->settings);
    sy__bench_data_close(&b->data);
}

sy_status sy__bench_layer(const sy__bench *bench)
{
    static const char *const one_layer[] = {"model.layers=1",         "moe.layers=all",
                                            "train.freeze=[]",        "model.depth_capacity=null",
                                            "model.peer_keys=0",      "model.peer_layers=all",
                                            "model.depth_layers=all", "model.mtp_layers=0",
                                            "train.mtp_phases=[]"};
    sy_status st = SY_OK;
    layer_bench b = {.bench = bench,
                     .world = bench->env->world,
                     .n = bench->repeats > 0 ? bench->repeats : DEFAULT_REPEATS};
    SY_TRY(sy_agree(b.world, sy__bench_data_open(&b.data)));
    SY_TRY(sy__bench_settings(bench, &b.data, one_layer, 9, &b.settings));
    SY_REQUIRE(b.settings.moe->experts > 0, SY_ERR_USAGE,
               "bench layer measures a MoE layer: set moe.experts");
    sy_engine_spec spec = {.settings = &b.settings,
                           .world = b.world,
                           .use = SY_USE_TRAIN,
                           .B = b.settings.train->micro_batch,
                           .S = b.settings.model->seq_len,
                           .threads = bench->threads};
    SY_TRY(sy_engine_create(&spec, &b.engine));
    SY_TRY(sy_agree(b.world, make(&b)));
    SY_TRY(measure(&b));
    if (b.world->rank == 0) {
        SY_TRY(report(&b));
    }
cleanup:
    close(&b);
    return st;
}
