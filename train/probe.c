#include "train/probe.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "moe/router.h"
#include "parallel/agree.h"

bool sy_probe_shape(const sy_run_settings *s, int64_t *T, int32_t *n_layers, int32_t *K)
{
    const int64_t S = s->model->seq_len, G = s->train->global_batch;
    int64_t n = SY_PROBE_TOKENS / S;
    *n_layers = 0;
    for (int32_t i = 0; i < s->model->layers; i++) {
        *n_layers += sy_moe_config_layer(s->moe, i);
    }
    if (*n_layers == 0 || s->train->probe_every == 0) {
        return false;
    }
    *K = sy_router_slots(s->moe);
    n = n < G ? n : G; /* no dearer than a step, and of bounded size where K is large */
    while (n > 1 && n * S * *n_layers * *K > SY_PROBE_CHOICES) {
        n /= 2;
    }
    *T = (n > 0 ? n : 1) * S;
    return true;
}

static int64_t n_choices(const sy_probe *p)
{
    return p->T * p->n_layers * p->K;
}

sy_status sy_probe_create(sy_engine *e, sy_loader *loader, sy_probe **out)
{
    sy_status st = SY_OK;
    sy_probe *p = NULL;
    int64_t T = 0, n;
    int32_t n_layers, K = 0;
    if (!sy_probe_shape(e->settings, &T, &n_layers, &K)) {
        return SY_OK;
    }
    SY_TRY(sy_alloc(1, sizeof *p, (void **)&p));
    *p = (sy_probe){.engine = e, .loader = loader, .T = T, .K = K, .n_layers = n_layers};
    n = (int64_t)e->spec.B * e->spec.S * n_layers * K;
    SY_TRY(sy_alloc(n_choices(p), sizeof *p->h_before, (void **)&p->h_before));
    SY_TRY(sy_alloc(n_choices(p), sizeof *p->h_now, (void **)&p->h_now));
    SY_TRY(sy_alloc(n_layers, sizeof *p->overlap, (void **)&p->overlap));
    SY_TRY(sy_alloc(n, sizeof *p->h_chosen, (void **)&p->h_chosen));
    SY_TRY(sy_device_alloc(e->dev, n * (int64_t)sizeof *p->h_chosen, SY_MEM_OTHER, &p->chosen));
    SY_TRY(sy_device_alloc(e->dev, n, SY_MEM_OTHER, &p->kept));
    *out = p;
    p = NULL;
cleanup:
    sy_probe_destroy(&p);
    return st;
}

void sy_probe_destroy(sy_probe **probe)
{
    sy_probe *p = *probe;
    if (p != NULL) {
        sy_device_free(p->engine->dev, &p->kept);
        sy_device_free(p->engine->dev, &p->chosen);
        sy_free(&p->h_chosen);
        sy_free(&p->overlap);
        sy_free(&p->h_now);
        sy_free(&p->h_before);
        sy_free(probe);
    }
}

/* ---- routing ---- */

/* Choices of the sequences from `first` on, as the passes noted them ([layer, token, K]), to their
   places. */
static void put_choices(sy_probe *p, const sy_batch *batch, int64_t first)
{
    const int64_t T = (int64_t)batch->B * batch->S, at = first * batch->S;
    for (int32_t l = 0; l < p->n_layers; l++) {
        for (int64_t t = 0; t < T; t++) {
            int64_t *to = p->h_now + ((at + t) * p->n_layers + l) * p->K;
            for (int32_t k = 0; k < p->K; k++) {
                to[k] = p->h_chosen[(l * T + t) * p->K + k] + 1;
            }
        }
    }
}

static sy_status route(sy_probe *p, const sy_batch *batch, int64_t first, int64_t step)
{
    sy_status st = SY_OK;
    sy_engine *e = p->engine;
    const int64_t n = (int64_t)batch->B * batch->S * p->n_layers * p->K;
    sy_pass pass;
    e->stats.n_chosen = 0;
    SY_TRY(sy_engine_begin(e, SY_PASS_EVAL, batch, step, 0, &pass));
    SY_TRY(sy_model_forward(e->model, &pass, NULL));
    SY_TRY(sy_engine_end(e, &pass));
    SY_REQUIRE(e->stats.n_chosen == n, SY_ERR_INTERNAL, "%ld choices where there should be %ld",
               (long)e->stats.n_chosen, (long)n);
    SY_TRY(sy_copy_d2h(e->compute_stream, p->h_chosen, p->chosen, n * (int64_t)sizeof(int32_t)));
    SY_TRY(sy_stream_sync(e->compute_stream));
    put_choices(p, batch, first);
cleanup:
    return st;
}

/* The first sequences of the batch alone, in its micro-batches: every rank takes part in each
   round, maybe with none. */
static sy_status route_all(sy_probe *p, const sy_step_batch *batch, int64_t step)
{
    sy_status st = SY_OK;
    sy_engine *e = p->engine;
    const sy_comm *dp = e->mesh->group[SY_DP];
    const int64_t B = e->spec.B, n = p->T / e->spec.S, max = B * e->spec.S * p->n_layers * p->K;
    e->stats.chosen = sy_tensor_1d(p->chosen, SY_I32, max);
    e->stats.chosen_kept = sy_tensor_1d(p->kept, SY_U8, max);
    for (int64_t i = 0; i * B * dp->size < n; i++) {
        const int64_t first = (i * dp->size + dp->rank) * B;
        sy_batch some = batch->micro[i];
        some.B = (int32_t)(first + some.B <= n ? some.B : first < n ? n - first : 0);
        SY_TRY(route(p, &some, first, step));
    }
cleanup:
    e->stats.chosen = e->stats.chosen_kept = sy_tensor_none();
    e->stats.n_chosen = 0;
    return st;
}

/* A number that depends on the tokens and their places, and not on which rank has them. Of those of
   all ranks, the sum. */
static int64_t digest_ids(const sy_probe *p, const sy_step_batch *batch)
{
    const sy_comm *dp = p->engine->mesh->group[SY_DP];
    const int64_t B = p->engine->spec.B, S = p->engine->spec.S;
    uint64_t sum = 0;
    for (int64_t i = 0; i < batch->n_micro; i++) {
        const int64_t first = (i * dp->size + dp->rank) * B;
        for (int64_t t = 0; t < batch->micro[i].B * S && first * S + t < p->T; t++) {
            const uint64_t id = (uint64_t)batch->micro[i].ids[t];
            sum += sy_rng_u64(id, 0, (uint64_t)(first * S + t)) >> 16; /* no overflow over all */
        }
    }
    return (int64_t)sum;
}

/* ---- comparing ---- */

static bool has(const int64_t *choices, int32_t K, int64_t expert)
{
    for (int32_t k = 0; k < K; k++) {
        if (choices[k] == expert) {
            return true;
        }
    }
    return false;
}

/* Of the choices of a layer, the share that was made the time before too. */
static double overlap_of(const sy_probe *p, int32_t layer)
{
    int64_t n = 0, n_same = 0;
    for (int64_t t = 0; t < p->T; t++) {
        const int64_t at = (t * p->n_layers + layer) * p->K;
        for (int32_t k = 0; k < p->K; k++) {
            n += p->h_now[at + k] > 0;
            n_same += p->h_now[at + k] > 0 && has(p->h_before + at, p->K, p->h_now[at + k]);
        }
    }
    return n > 0 ? (double)n_same / (double)n : NAN;
}

sy_status sy_probe_take(sy_probe *p, int64_t step)
{
    sy_status st = SY_OK;
    sy_comm *host = p->engine->mesh->host;
    const sy_step_batch *batch = NULL;
    int64_t digest;
    SY_TRY(sy_agree(host, sy_loader_take(p->loader, 0, &batch)));
    digest = digest_ids(p, batch);
    SY_TRY(sy_host_all_reduce(host, &digest, 1, SY_I64, SY_SUM, "probe"));
    memset(p->h_now, 0, (size_t)n_choices(p) * sizeof *p->h_now);
    st = route_all(p, batch, step);
    if (st != SY_OK) {
        sy_comm_abort(host, st); /* the others are in the midst of collectives */
    }
    SY_TRY(sy_host_all_reduce(host, p->h_now, n_choices(p), SY_I64, SY_SUM, "probe"));
    for (int32_t l = 0; l < p->n_layers; l++) {
        p->overlap[l] = p->n_taken > 0 && digest == p->ids_digest ? overlap_of(p, l) : NAN;
    }
    memcpy(p->h_before, p->h_now, (size_t)n_choices(p) * sizeof *p->h_now);
    p->ids_digest = digest;
    p->n_taken++;
cleanup:
    return st;
}

/* ---- what is persistent ---- */

const char *sy_probe_dataset(int64_t T, int32_t K, const char *what, char *buf, size_t buf_bytes)
{
    snprintf(buf, buf_bytes, SY_STATE_MEMO "probe_%ldx%d/%s", (long)T, K, what);
    return buf;
}

sy_status sy_probe_walk(sy_probe *p, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    char name[96];
    struct {
        const char *what;
        int64_t *values, n0, n1;
    } list[] = {{"taken", &p->n_taken, 1, 1},
                {"ids", &p->ids_digest, 1, 1},
                {"choices", p->h_before, p->T, (int64_t)p->n_layers * p->K}};
    for (int32_t i = 0; i < 3; i++) {
        const int32_t n_dim = i < 2 ? 1 : 2;
        sy_part part = {.box = {.n_dim = n_dim, .shape = {list[i].n0, list[i].n1}},
                        .data = list[i].values,
                        .write = p->engine->mesh->host->rank == 0};
        sy_probe_dataset(p->T, p->K, list[i].what, name, sizeof name);
        SY_TRY(emit(to, &(sy_field){.name = name,
                                    .dtype = SY_I64,
                                    .n_dim = n_dim,
                                    .n_parts = 1,
                                    .shape_glb = {list[i].n0, list[i].n1},
                                    .parts = &part,
                                    .optional = true}));
    }
cleanup:
    return st;
}
