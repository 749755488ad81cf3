/* The sequences of all sets are cut into chunks without regard to ranks, which share out the
   chunks; sums over a chunk are added up in the order of the chunks. So every number is computed
   the same way by any number of ranks. */
#include "train/hidden.h"

#include <math.h>
#include <stdio.h>

#include "core/alloc.h"
#include "data/token_file.h"
#include "parallel/agree.h"
#include "train/compare_impl.h"

enum { LONGEST = 512, CHUNK = 1024 }; /* tokens of a sequence, of a chunk */

typedef struct text {
    sy_token_file *file;
    int64_t n_sequences, n_chunks;
} text;

typedef struct runner {
    const sy_hidden_spec *spec;
    text *text; /* [n_sets] */
    sy__layer layer;
    int64_t L, H, n_chunks;
    int32_t B, S;
    int32_t *ids, *pos; /* [B S] */
    int64_t *token_glb;
    double *x, *ffn, *out; /* [B S, H] the stream, what is added to it, and a slice of that */
    double *norm;          /* [H] */
    void *h_raw;           /* [H] */
    double *sum;           /* [n_chunks, L, H + 1] of x and |x|^2 */
} runner;

/* ---- text ---- */

static sy_status open_texts(runner *r)
{
    sy_status st = SY_OK;
    const sy_hidden_spec *spec = r->spec;
    const int32_t longest = spec->model.settings->model->seq_len;
    SY_TRY(sy_alloc(spec->n_sets, sizeof *r->text, (void **)&r->text));
    r->S = longest < LONGEST ? longest : LONGEST;
    r->S = spec->tokens < r->S ? (int32_t)spec->tokens : r->S;
    for (int32_t i = 0; i < spec->n_sets; i++) {
        SY_TRY(sy_token_file_open(spec->path[i], spec->vocab_size, &r->text[i].file));
        const int64_t n = sy_token_file_n_tokens(r->text[i].file);
        r->S = n < r->S ? (int32_t)n : r->S;
    }
    r->B = CHUNK / r->S > 1 ? CHUNK / r->S : 1;
    for (int32_t i = 0; i < spec->n_sets; i++) {
        text *t = &r->text[i];
        const int64_t there = sy_token_file_n_tokens(t->file) / r->S;
        const int64_t wanted = spec->tokens / r->S;
        t->n_sequences = there < wanted ? there : wanted;
        t->n_chunks = (t->n_sequences + r->B - 1) / r->B;
        r->n_chunks += t->n_chunks;
    }
cleanup:
    return st;
}

/* Sequence i of n begins i/n of the way into the stream. */
static int64_t begin_of(const text *t, int64_t i, int32_t S)
{
    const int64_t last = sy_token_file_n_tokens(t->file) - S;
    return t->n_sequences > 1 ? (int64_t)((double)last * (double)i / (double)(t->n_sequences - 1))
                              : 0;
}

/* Sequences of a chunk of a set. What lacks to B of them is its first once more, and not counted.
 */
static sy_status read_chunk(runner *r, const text *t, int64_t chunk, sy_batch *batch, int64_t *n)
{
    sy_status st = SY_OK;
    const int64_t first = chunk * r->B, left = t->n_sequences - first;
    *n = left < r->B ? left : r->B;
    for (int64_t b = 0; b < r->B; b++) {
        const int64_t sequence = first + (b < *n ? b : 0);
        SY_TRY(sy_token_file_read(t->file, begin_of(t, sequence, r->S), r->S, r->ids + b * r->S));
    }
    for (int64_t i = 0; i < (int64_t)r->B * r->S; i++) {
        r->pos[i] = (int32_t)(i % r->S);
        r->token_glb[i] = i;
    }
    *batch = (sy_batch){.B = r->B,
                        .S = r->S,
                        .ids = r->ids,
                        .targets = r->ids,
                        .pos = r->pos,
                        .token_glb = r->token_glb};
cleanup:
    return st;
}

/* ---- memory ---- */

static sy_status allocate(runner *r)
{
    sy_status st = SY_OK;
    const int64_t T = (int64_t)r->B * r->S, H = r->H;
    SY_TRY(sy_alloc(T, sizeof *r->ids, (void **)&r->ids));
    SY_TRY(sy_alloc(T, sizeof *r->pos, (void **)&r->pos));
    SY_TRY(sy_alloc(T, sizeof *r->token_glb, (void **)&r->token_glb));
    SY_TRY(sy_alloc(T * H, sizeof(double), (void **)&r->x));
    SY_TRY(sy_alloc(T * H, sizeof(double), (void **)&r->ffn));
    SY_TRY(sy_alloc(T * H, sizeof(double), (void **)&r->out));
    SY_TRY(sy_alloc(H, sizeof(double), (void **)&r->norm));
    SY_TRY(sy_alloc(H, sizeof(double), &r->h_raw));
    SY_TRY(sy_alloc(r->n_chunks * r->L * (H + 1), sizeof(double), (void **)&r->sum));
cleanup:
    return st;
}

static void release(runner *r)
{
    void **const all[] = {(void **)&r->sum, &r->h_raw,        (void **)&r->norm,
                          (void **)&r->out, (void **)&r->ffn, (void **)&r->x,
                          (void **)&r->pos, (void **)&r->ids, (void **)&r->token_glb};
    sy__layer_free(&r->layer);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        sy_free(all[i]);
    }
    for (int32_t i = 0; i < r->spec->n_sets && r->text != NULL; i++) {
        sy_token_file_close(&r->text[i].file);
    }
    sy_free(&r->text);
}

/* ---- one chunk ---- */

static sy_status read_values(const runner *r, const char *name, int64_t first, int64_t n,
                             double *to)
{
    const sy_compare_model *m = &r->spec->model;
    return m->read(m->self, name, first, n, SY_F64, to);
}

/* x as the compute type holds it. */
static void round_row(const runner *r, double *x)
{
    const sy_dtype compute = r->layer.engine->compute;
    sy_convert(compute, r->h_raw, SY_F64, x, r->H);
    sy_convert(SY_F64, x, compute, r->h_raw, r->H);
}

static sy_status embed(runner *r)
{
    sy_status st = SY_OK;
    const double factor = r->spec->model.settings->model->embedding_multiplier;
    for (int64_t t = 0; t < (int64_t)r->B * r->S; t++) {
        double *x = r->x + t * r->H;
        SY_TRY(read_values(r, "embed", r->ids[t] * r->H, r->H, x));
        for (int64_t h = 0; h < r->H; h++) {
            x[h] *= factor;
        }
        round_row(r, x);
    }
cleanup:
    return st;
}

static void add_to_stream(runner *r, const double *y)
{
    const double factor = r->spec->model.settings->model->residual_multiplier;
    for (int64_t t = 0; t < (int64_t)r->B * r->S; t++) {
        for (int64_t i = t * r->H; i < (t + 1) * r->H; i++) {
            r->x[i] += factor * y[i];
        }
        round_row(r, r->x + t * r->H);
    }
}

static sy_status run(runner *r, sy__stop stop, int32_t layer, int32_t slice, const sy_batch *batch)
{
    sy_status st = SY_OK;
    SY_TRY(sy__layer_fill(&r->layer, &r->spec->model, stop, layer, slice));
    SY_TRY(sy__layer_run(&r->layer, stop, batch, r->x, r->out));
cleanup:
    return st;
}

/* sum += x, |x|^2 of the first n tokens, x behind the norm. */
static sy_status take(runner *r, int32_t layer, int64_t n, double *sum)
{
    sy_status st = SY_OK;
    char name[SY_PARAM_NAME];
    snprintf(name, sizeof name, "layers/%03d/ffn_norm", layer);
    SY_TRY(read_values(r, name, 0, r->H, r->norm));
    for (int64_t t = 0; t < n; t++) {
        const double *x = r->x + t * r->H;
        double square = 0;
        for (int64_t h = 0; h < r->H; h++) {
            square += x[h] * x[h];
        }
        const double rstd =
            1 / sqrt(square / (double)r->H + r->spec->model.settings->model->norm_eps);
        for (int64_t h = 0; h < r->H; h++) {
            const double y = x[h] * rstd * r->norm[h];
            sum[h] += y;
            sum[r->H] += y * y;
        }
    }
cleanup:
    return st;
}

static sy_status run_layer(runner *r, int32_t layer, const sy_batch *batch, int64_t n, double *sum)
{
    sy_status st = SY_OK;
    const int64_t values = (int64_t)r->B * r->S * r->H;
    SY_TRY(run(r, SY__STOP_ATTENTION, layer, 0, batch));
    add_to_stream(r, r->out);
    SY_TRY(take(r, layer, n * r->S, sum));
    memset(r->ffn, 0, (size_t)values * sizeof *r->ffn);
    for (int32_t slice = 0; slice < r->layer.n_slices; slice++) {
        SY_TRY(run(r, SY__STOP_FFN, layer, slice, batch));
        for (int64_t i = 0; i < values; i++) {
            r->ffn[i] += r->out[i];
        }
    }
    add_to_stream(r, r->ffn);
cleanup:
    return st;
}

static sy_status run_chunk(runner *r, const text *t, int64_t chunk, double *sum)
{
    sy_status st = SY_OK;
    sy_batch batch;
    int64_t n = 0;
    SY_TRY(read_chunk(r, t, chunk, &batch, &n));
    SY_TRY(embed(r));
    for (int32_t layer = 0; layer < r->L; layer++) {
        SY_TRY(run_layer(r, layer, &batch, n, sum + layer * (r->H + 1)));
    }
cleanup:
    return st;
}

/* Those of this rank. A dense model needs no other rank in the midst of a pass. */
static sy_status run_chunks(runner *r)
{
    sy_status st = SY_OK;
    const sy_comm *world = r->spec->world;
    int64_t index = 0;
    for (int32_t i = 0; i < r->spec->n_sets; i++) {
        for (int64_t chunk = 0; chunk < r->text[i].n_chunks; chunk++, index++) {
            if (index % world->size == world->rank) {
                SY_TRY(run_chunk(r, &r->text[i], chunk, r->sum + index * r->L * (r->H + 1)));
            }
        }
    }
cleanup:
    return st;
}

/* ---- all of it ---- */

static sy_status create_layer(runner *r)
{
    sy_status st = SY_OK;
    const sy_hidden_spec *spec = r->spec;
    const sy_compare_spec layer = {.old = spec->model,
                                   .now = spec->model,
                                   .world = spec->world,
                                   .threads = spec->threads,
                                   .n_sequences = r->B,
                                   .S = r->S,
                                   .precision = spec->precision};
    SY_TRY(sy__layer_create(&layer, false, &r->layer));
cleanup:
    return st;
}

/* Chunks of other ranks are zero here, so the sum over ranks is exact. */
static sy_status add_up(runner *r, sy_hidden *out)
{
    sy_status st = SY_OK;
    const int64_t H = r->H, L = r->L;
    const double *sum = r->sum;
    SY_TRY(sy_host_all_reduce(r->spec->world, r->sum, r->n_chunks * L * (H + 1), SY_F64, SY_SUM,
                              "hidden states"));
    for (int64_t i = 0; i < out->n_sets; i++) {
        const double n = (double)(r->text[i].n_sequences * r->S);
        out->tokens[i] = r->text[i].n_sequences * r->S;
        for (int64_t chunk = 0; chunk < r->text[i].n_chunks; chunk++) {
            for (int64_t l = 0; l < L; l++, sum += H + 1) {
                for (int64_t h = 0; h < H; h++) {
                    out->mean[(l * out->n_sets + i) * H + h] += sum[h] / n;
                }
                out->square[l * out->n_sets + i] += sum[H] / n;
            }
        }
    }
cleanup:
    return st;
}

static sy_status create_hidden(const runner *r, sy_hidden *out)
{
    sy_status st = SY_OK;
    *out = (sy_hidden){.n_layers = r->L, .n_sets = r->spec->n_sets, .H = r->H};
    SY_TRY(sy_alloc(r->L * out->n_sets * r->H, sizeof *out->mean, (void **)&out->mean));
    SY_TRY(sy_alloc(r->L * out->n_sets, sizeof *out->square, (void **)&out->square));
    SY_TRY(sy_alloc(out->n_sets, sizeof *out->tokens, (void **)&out->tokens));
cleanup:
    return st;
}

sy_status sy_hidden_measure(const sy_hidden_spec *spec, sy_hidden *out)
{
    sy_status st = SY_OK;
    const sy_model_config *model = spec->model.settings->model;
    runner r = {.spec = spec, .L = model->layers, .H = model->hidden};
    sy_hidden hidden = {0};
    SY_TRY(sy_agree(spec->world, open_texts(&r)));
    SY_TRY(create_layer(&r));
    SY_TRY(sy_agree(spec->world, allocate(&r)));
    SY_TRY(sy_agree(spec->world, create_hidden(&r, &hidden)));
    SY_TRY(sy_agree(spec->world, run_chunks(&r)));
    SY_TRY(add_up(&r, &hidden));
    *out = hidden;
    hidden = (sy_hidden){0};
cleanup:
    sy_hidden_free(&hidden);
    release(&r);
    return st;
}

void sy_hidden_free(sy_hidden *hidden)
{
    sy_free(&hidden->tokens);
    sy_free(&hidden->square);
    sy_free(&hidden->mean);
    *hidden = (sy_hidden){0};
}
