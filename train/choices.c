#include "train/choices.h"

#include <string.h>

#include "core/alloc.h"
#include "parallel/agree.h"

/* One micro-batch on the host, and what it says. */
typedef struct scorer {
    sy_engine *engine;
    int32_t B, S;
    int32_t *ids, *targets, *pos; /* [B * S] */
    uint8_t *routed;
    int64_t *token_glb;
    void *raw;   /* [B * S] losses as the device has them */
    double *nll; /* the same in double */
} scorer;

static sy_status create(scorer *s)
{
    sy_status st = SY_OK;
    const int64_t T = (int64_t)s->B * s->S;
    SY_TRY(sy_alloc(T, sizeof *s->ids, (void **)&s->ids));
    SY_TRY(sy_alloc(T, sizeof *s->targets, (void **)&s->targets));
    SY_TRY(sy_alloc(T, sizeof *s->pos, (void **)&s->pos));
    SY_TRY(sy_alloc(T, sizeof *s->routed, (void **)&s->routed));
    SY_TRY(sy_alloc(T, sizeof *s->token_glb, (void **)&s->token_glb));
    SY_TRY(sy_alloc(T, sizeof(double), &s->raw));
    SY_TRY(sy_alloc(T, sizeof *s->nll, (void **)&s->nll));
cleanup:
    return st;
}

static void destroy(scorer *s)
{
    sy_free(&s->nll);
    sy_free(&s->raw);
    sy_free(&s->token_glb);
    sy_free(&s->routed);
    sy_free(&s->pos);
    sy_free(&s->targets);
    sy_free(&s->ids);
}

/* Row b: the end of a sequence that fits, then padding. */
static void fill_row(scorer *s, int32_t b, const sy_scored *from)
{
    const int64_t left_out = from->n > s->S + 1 ? from->n - s->S - 1 : 0;
    const int32_t *ids = from->ids + left_out;
    const int64_t n = from->n - left_out - 1;
    for (int32_t t = 0; t < s->S; t++) {
        const int64_t at = (int64_t)b * s->S + t;
        s->ids[at] = t < n ? ids[t] : 0;
        s->targets[at] = t < n && t >= n - from->n_scored ? ids[t + 1] : -1;
        s->routed[at] = t < n;
        s->pos[at] = t;
        s->token_glb[at] = at;
    }
}

/* Sequences first .. first + B - 1 of this pass; B may be 0. */
static sy_status run(scorer *s, const sy_scored *sequences, int32_t B, double *out)
{
    sy_status st = SY_OK;
    sy_engine *e = s->engine;
    sy_pass p;
    for (int32_t b = 0; b < B; b++) {
        fill_row(s, b, &sequences[b]);
    }
    const sy_batch batch = {.B = B,
                            .S = s->S,
                            .ids = s->ids,
                            .targets = s->targets,
                            .routed = s->routed,
                            .pos = s->pos,
                            .token_glb = s->token_glb};
    SY_TRY(sy_engine_begin(e, SY_PASS_EVAL, &batch, 0, 0, &p));
    SY_TRY(sy_model_forward(e->model, &p, NULL));
    SY_TRY(sy_engine_end(e, &p));
    SY_TRY(sy_copy_d2h(e->compute_stream, s->raw, e->nll.data,
                       (int64_t)B * s->S * (int64_t)sy_dtype_bytes(e->wide)));
    SY_TRY(sy_stream_sync(e->compute_stream));
    sy_convert(SY_F64, s->nll, e->wide, s->raw, (int64_t)B * s->S);
    for (int64_t at = 0; at < (int64_t)B * s->S; at++) {
        out[at / s->S] -= s->targets[at] >= 0 ? s->nll[at] : 0;
    }
cleanup:
    return st;
}

sy_status sy_score_sequences(sy_engine *engine, const sy_scored *sequences, int64_t n, double *out)
{
    sy_status st = SY_OK;
    sy_comm *host = engine->mesh->host;
    scorer s = {.engine = engine, .B = engine->spec.B, .S = engine->spec.S};
    const int64_t stride = (int64_t)s.B * host->size;
    SY_TRY(sy_agree(host, create(&s)));
    SY_TRY(sy_engine_zero_stats(engine));
    memset(out, 0, (size_t)n * sizeof *out);
    for (int64_t at = 0; at < n; at += stride) { /* every rank takes part in every pass */
        const int64_t first = at + (int64_t)host->rank * s.B;
        const int64_t left = first < n ? n - first : 0;
        const int32_t B = left < s.B ? (int32_t)left : s.B;
        st = run(&s, sequences + (B > 0 ? first : 0), B, out + (B > 0 ? first : 0));
        if (st != SY_OK) {
            sy_comm_abort(host, st);
        }
    }
    SY_TRY(sy_host_all_reduce(host, out, n, SY_F64, SY_SUM, "scores"));
cleanup:
    destroy(&s);
    return st;
}
