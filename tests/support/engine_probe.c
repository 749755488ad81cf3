#include "tests/support/engine_probe.h"

#include <math.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "parallel/agree.h"

typedef struct prober {
    sy_engine *engine;
    const sy_probe_spec *spec;
    sy_probe *probe;
    int32_t *ids, *targets, *pos; /* [S] */
    int64_t *token_glb;           /* [S] */
    void *h_raw;                  /* [max(S, V)] wide */
    sy_tensor logits;             /* [V] device */
    int64_t V;                    /* tokens and logits of interest */
} prober;

static sy_status allocate(prober *x)
{
    sy_status st = SY_OK;
    sy_engine *e = x->engine;
    int64_t S = x->spec->S, V = e->settings->model->vocab_size;
    void *data = NULL;
    x->V = x->spec->vocab_size > 0 ? x->spec->vocab_size : V;
    x->probe->n_nll = x->spec->n_sequences * S;
    x->probe->n_logits = x->spec->n_sequences * x->V;
    SY_TRY(sy_alloc(x->probe->n_nll, sizeof(double), (void **)&x->probe->nll));
    SY_TRY(sy_alloc(x->probe->n_logits, sizeof(double), (void **)&x->probe->logits));
    SY_TRY(sy_alloc(S, sizeof *x->ids, (void **)&x->ids));
    SY_TRY(sy_alloc(S, sizeof *x->targets, (void **)&x->targets));
    SY_TRY(sy_alloc(S, sizeof *x->pos, (void **)&x->pos));
    SY_TRY(sy_alloc(S, sizeof *x->token_glb, (void **)&x->token_glb));
    SY_TRY(sy_alloc(S > V ? S : V, sy_dtype_bytes(e->wide), &x->h_raw));
    SY_TRY(sy_device_alloc(e->dev, V * (int64_t)sy_dtype_bytes(e->wide), SY_MEM_OTHER, &data));
    x->logits = sy_tensor_1d(data, e->wide, V);
cleanup:
    return st;
}

static void release(prober *x)
{
    sy_device_free(x->engine->dev, &x->logits.data);
    sy_free(&x->h_raw);
    sy_free(&x->token_glb);
    sy_free(&x->pos);
    sy_free(&x->targets);
    sy_free(&x->ids);
}

/* Sequence i of this rank. */
static sy_batch draw(prober *x, int32_t i)
{
    int64_t S = x->spec->S, V = x->V;
    int64_t first = ((int64_t)x->engine->mesh->host->rank * x->spec->n_sequences + i) * S;
    uint64_t stream = sy_rng_stream_of("probe");
    for (int64_t t = 0; t < S; t++) {
        uint64_t bits = sy_rng_u64(x->spec->seed, stream, (uint64_t)(first + t));
        x->ids[t] = (int32_t)((bits & 0xffffffffU) % (uint64_t)V);
        x->targets[t] = (int32_t)((bits >> 32) % (uint64_t)V);
        x->pos[t] = (int32_t)t;
        x->token_glb[t] = first + t;
    }
    return (sy_batch){.B = 1,
                      .S = (int32_t)S,
                      .ids = x->ids,
                      .targets = x->targets,
                      .pos = x->pos,
                      .token_glb = x->token_glb};
}

/* Device values as doubles on the host. Waits. */
static sy_status fetch(prober *x, const sy_tensor *from, double *to)
{
    sy_status st = SY_OK;
    sy_stream *stream = x->engine->compute_stream;
    SY_TRY(sy_copy_d2h(stream, x->h_raw, from->data, sy_tensor_bytes(from)));
    SY_TRY(sy_stream_sync(stream));
    sy_convert(SY_F64, to, from->dtype, x->h_raw, sy_tensor_numel(from));
cleanup:
    return st;
}

static sy_status run_sequence(prober *x, int32_t i)
{
    sy_status st = SY_OK;
    sy_engine *e = x->engine;
    sy_batch batch = draw(x, i);
    sy_tensor logits = sy_tensor_1d(x->logits.data, x->logits.dtype, x->V);
    sy_pass p;
    SY_TRY(sy_engine_begin(e, SY_PASS_EVAL, &batch, 0, i, &p));
    SY_TRY(sy_model_forward(e->model, &p, NULL));
    SY_TRY(sy_engine_end(e, &p));
    SY_TRY(fetch(x, &p.nll, x->probe->nll + (int64_t)i * x->spec->S));
    SY_TRY(sy_engine_begin(e, SY_PASS_EVAL, &batch, 0, i, &p));
    SY_TRY(sy_model_decode(e->model, &p, &x->logits)); /* the last token's, without a cache */
    SY_TRY(sy_engine_end(e, &p));
    SY_TRY(fetch(x, &logits, x->probe->logits + i * x->V));
cleanup:
    return st;
}

sy_status sy_probe_run(sy_engine *engine, const sy_probe_spec *spec, sy_probe *out)
{
    sy_status st = SY_OK;
    sy_probe probe = {0};
    prober x = {.engine = engine, .spec = spec, .probe = &probe};
    SY_TRY(sy_agree(engine->mesh->host, allocate(&x)));
    SY_TRY(sy_engine_zero_stats(engine));
    for (int32_t i = 0; i < spec->n_sequences; i++) {
        st = run_sequence(&x, i);
        if (st != SY_OK) { /* the others are in the midst of collectives */
            sy_comm_abort(engine->mesh->host, st);
        }
    }
    *out = probe;
    probe = (sy_probe){0};
cleanup:
    sy_probe_free(&probe);
    release(&x);
    return st;
}

void sy_probe_free(sy_probe *probe)
{
    sy_free(&probe->logits);
    sy_free(&probe->nll);
    *probe = (sy_probe){0};
}

/* worst[0] = largest |a - b|, worst[1] = largest |a|; a NaN is larger than anything. */
static void worst_of(const double *a, const double *b, int64_t n, double worst[2])
{
    worst[0] = worst[1] = 0;
    for (int64_t i = 0; i < n; i++) {
        double gap = fabs(a[i] - b[i]);
        worst[0] = gap <= worst[0] || isnan(worst[0]) ? worst[0] : gap;
        worst[1] = fmax(worst[1], fabs(a[i]));
    }
}

static double part_of(double gap, double largest)
{
    return largest > 0 ? gap / largest : gap;
}

sy_status sy_probe_compare(const sy_probe *a, const sy_probe *b, sy_comm *host, sy_probe_gap *out)
{
    sy_status st = SY_OK;
    double worst[4];
    SY_REQUIRE(a->n_nll == b->n_nll && a->n_logits == b->n_logits, SY_ERR_INTERNAL,
               "two probes of different sizes are compared");
    worst_of(a->logits, b->logits, a->n_logits, worst);
    worst_of(a->nll, b->nll, a->n_nll, worst + 2);
    SY_TRY(sy_host_all_reduce(host, worst, 4, SY_F64, SY_MAX, "probe"));
    *out = (sy_probe_gap){.logits_abs = worst[0],
                          .logits_rel = part_of(worst[0], worst[1]),
                          .nll_abs = worst[2],
                          .nll_rel = part_of(worst[2], worst[3])};
cleanup:
    return st;
}
