#include "train/generate.h"

#include <math.h>
#include <stdlib.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "model/kv.h"
#include "parallel/agree.h"

typedef struct candidate {
    double p;
    int32_t id;
} candidate;

static int by_probability(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->p != y->p) {
        return x->p < y->p ? 1 : -1;
    }
    return x->id < y->id ? -1 : x->id > y->id;
}

static int32_t argmax(const double *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++) {
        if (x[i] > x[best]) {
            best = i;
        }
    }
    return (int32_t)best;
}

/* Softmax in place with temperature; the sum is 1. */
static void softmax(double *x, int64_t n, double temperature)
{
    double max = x[argmax(x, n)], sum = 0;
    for (int64_t i = 0; i < n; i++) {
        x[i] = exp((x[i] - max) / temperature);
        sum += x[i];
    }
    for (int64_t i = 0; i < n; i++) {
        x[i] /= sum;
    }
}

/* The id at which the running sum of p, in descending order, passes u times the mass kept. */
static int32_t pick(const double *p, int64_t V, double top_p, double u)
{
    candidate *list = NULL;
    double mass = 0, sum = 0;
    int64_t n = 0;
    int32_t id = argmax(p, V);
    if (sy_alloc(V, sizeof *list, (void **)&list) != SY_OK) {
        sy_error_clear(); /* the likeliest token is a fair answer to running out of memory */
        return id;
    }
    for (int64_t i = 0; i < V; i++) {
        list[i] = (candidate){p[i], (int32_t)i};
    }
    qsort(list, (size_t)V, sizeof *list, by_probability);
    while (n < V && (n == 0 || mass < top_p)) {
        mass += list[n++].p;
    }
    for (int64_t i = 0; i < n; i++) {
        id = list[i].id;
        sum += list[i].p;
        if (sum > u * mass) {
            break;
        }
    }
    sy_free(&list);
    return id;
}

int32_t sy_sample(double *logits, int64_t V, double temperature, double top_p, uint64_t seed,
                  int64_t i)
{
    if (temperature <= 0) {
        return argmax(logits, V);
    }
    softmax(logits, V, temperature);
    return pick(logits, V, top_p, sy_rng_uniform(seed, SY_RNG_SAMPLE, (uint64_t)i));
}

/* State of one text. On ranks other than 0 the batches are empty. */
typedef struct text {
    sy_engine *engine;
    const sy_generate_spec *spec;
    bool holds;         /* this rank holds the text */
    int32_t *ids, *pos; /* [cache length] */
    int64_t *token_glb;
    double *h_logits; /* [V] */
    void *h_raw;      /* [V] wide */
    sy_tensor logits;
    int64_t n; /* tokens in the cache */
} text;

static sy_status init(sy_engine *engine, const sy_generate_spec *spec, text *x)
{
    sy_status st = SY_OK;
    int64_t n = engine->kv->capacity, V = engine->settings->model->vocab_size;
    void *data = NULL;
    *x = (text){.engine = engine, .spec = spec, .holds = engine->mesh->host->rank == 0};
    SY_TRY(sy_alloc(n, sizeof *x->ids, (void **)&x->ids));
    SY_TRY(sy_alloc(n, sizeof *x->pos, (void **)&x->pos));
    SY_TRY(sy_alloc(n, sizeof *x->token_glb, (void **)&x->token_glb));
    SY_TRY(sy_alloc(V, sizeof *x->h_logits, (void **)&x->h_logits));
    SY_TRY(sy_alloc(V, sy_dtype_bytes(engine->wide), &x->h_raw));
    SY_TRY(sy_device_alloc(engine->dev, V * (int64_t)sy_dtype_bytes(engine->wide), SY_MEM_OTHER,
                           &data));
    x->logits = sy_tensor_1d(data, engine->wide, V);
cleanup:
    return st;
}

static void release(text *x)
{
    sy_device_free(x->engine->dev, &x->logits.data);
    sy_free(&x->h_raw);
    sy_free(&x->h_logits);
    sy_free(&x->token_glb);
    sy_free(&x->pos);
    sy_free(&x->ids);
}

/* Run T new tokens through the model; h_logits of the last one on the rank that holds the text. */
static sy_status forward(text *x, int64_t T)
{
    sy_status st = SY_OK;
    sy_engine *e = x->engine;
    sy_batch batch = {.B = 1,
                      .S = x->holds ? (int32_t)T : 0,
                      .ids = x->ids,
                      .targets = x->ids,
                      .pos = x->pos,
                      .token_glb = x->token_glb};
    sy_pass p;
    for (int64_t i = 0; x->holds && i < T; i++) {
        x->pos[i] = (int32_t)(x->n + i);
        x->token_glb[i] = x->n + i;
    }
    SY_TRY(sy_engine_begin(e, SY_PASS_DECODE, &batch, 0, 0, &p));
    SY_TRY(sy_model_decode(e->model, &p, &x->logits));
    SY_TRY(sy_engine_end(e, &p));
    if (x->holds) {
        SY_TRY(sy_kv_advance(e->kv, e->compute_stream, T));
        SY_TRY(
            sy_copy_d2h(e->compute_stream, x->h_raw, x->logits.data, sy_tensor_bytes(&x->logits)));
    }
    SY_TRY(sy_stream_sync(e->compute_stream));
    if (x->holds) {
        sy_convert(SY_F64, x->h_logits, e->wide, x->h_raw, x->logits.shape[0]);
    }
    x->n += T;
cleanup:
    return st;
}

/* Sample the next token on rank 0 and hand it to the caller; go_on is 0 when the text is over. */
static sy_status next_token(text *x, int64_t i, int64_t *go_on)
{
    sy_status st = SY_OK;
    const sy_generate_spec *spec = x->spec;
    int32_t id =
        sy_sample(x->h_logits, x->logits.shape[0], spec->temperature, spec->top_p, spec->seed, i);
    *go_on = id != spec->eod_id && x->n < x->engine->kv->capacity && i + 1 < spec->max_tokens;
    x->ids[0] = id;
    if (id != spec->eod_id) {
        SY_TRY(spec->emit(spec->arg, id));
    }
cleanup:
    return st;
}

static sy_status run(text *x)
{
    sy_status st = SY_OK;
    sy_comm *host = x->engine->mesh->host;
    int64_t T = x->spec->n_prompt, go_on = x->spec->max_tokens > 0;
    SY_TRY(sy_host_broadcast(host, &T, sizeof T, 0, "generate prompt"));
    SY_TRY(sy_host_broadcast(host, &go_on, sizeof go_on, 0, "generate start"));
    for (int64_t i = 0; go_on; i++) {
        sy_status mine = forward(x, T);
        if (mine == SY_OK && x->holds) {
            mine = next_token(x, i, &go_on);
        }
        SY_TRY(sy_agree(host, mine));
        SY_TRY(sy_host_broadcast(host, &go_on, sizeof go_on, 0, "generate go on"));
        T = 1;
    }
cleanup:
    return st;
}

sy_status sy_generate(sy_engine *engine, const sy_generate_spec *spec)
{
    sy_status st = SY_OK;
    text x = {.engine = engine};
    sy_status mine = init(engine, spec, &x);
    if (mine == SY_OK && x.holds && (spec->n_prompt < 1 || spec->n_prompt > engine->kv->capacity)) {
        mine = sy_error(SY_ERR_USAGE,
                        "the prompt has %ld tokens; the model takes 1 to %ld (model.seq_len)",
                        (long)spec->n_prompt, (long)engine->kv->capacity);
    }
    SY_TRY(sy_agree(engine->mesh->host, mine));
    memcpy(x.ids, spec->prompt, x.holds ? (size_t)spec->n_prompt * sizeof *x.ids : 0);
    SY_TRY(run(&x));
cleanup:
    release(&x);
    return st;
}
