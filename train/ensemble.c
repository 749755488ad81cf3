#include "train/ensemble.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/reader.h"
#include "core/alloc.h"
#include "parallel/agree.h"
#include "train/eval_impl.h"

enum { CHUNK_VALUES = 1 << 22 }; /* nll of all members that a rank keeps at a time */

/* ---- the file ---- */

static sy_status read_prior(sy_reader *reader, sy_ensemble *e)
{
    sy_status st = SY_OK;
    const int32_t entry = sy_reader_find(reader, "members/prior");
    double sum = 0;
    int64_t n = 0;
    if (entry >= 0 && sy_reader_entry(reader, entry).n_dim == 1) {
        n = sy_reader_entry(reader, entry).shape[0];
    }
    SY_REQUIRE(n > 0 && n <= INT32_MAX, SY_ERR_DAMAGED,
               "checkpoint '%s' is an ensemble without a dataset '/members/prior' [n]", e->path);
    SY_TRY(sy_alloc(n, sizeof *e->prior, (void **)&e->prior));
    SY_TRY(sy_reader_read(reader, entry, 0, n, SY_F64, e->prior));
    for (int64_t j = 0; j < n; j++) {
        SY_REQUIRE(e->prior[j] > 0 && e->prior[j] <= 1, SY_ERR_DAMAGED,
                   "checkpoint '%s': the prior %g of member %ld is no share", e->path, e->prior[j],
                   (long)j);
        sum += e->prior[j];
    }
    SY_REQUIRE(fabs(sum - 1) < 1e-6, SY_ERR_DAMAGED,
               "checkpoint '%s': the sum of /members/prior is %g, not 1", e->path, sum);
    e->n = (int32_t)n;
cleanup:
    return st;
}

/* Rank 0. */
static sy_status is_ensemble(const char *path, int32_t *out)
{
    sy_status st = SY_OK;
    sy_checkpoint_info info = {0};
    SY_TRY(sy_checkpoint_info_read(path, &info));
    *out = strcmp(info.kind, "ensemble") == 0;
cleanup:
    sy_checkpoint_info_free(&info);
    return st;
}

sy_status sy_ensemble_open(const char *path, sy_comm *world, sy_ensemble *out)
{
    sy_status st = SY_OK;
    sy_ensemble e = {0};
    sy_reader *reader = NULL;
    int32_t found = 0;
    SY_TRY(sy_agree(world, world->rank == 0 ? is_ensemble(path, &found) : SY_OK));
    SY_TRY(sy_host_broadcast(world, &found, sizeof found, 0, "kind of checkpoint"));
    if (found) {
        SY_TRY(sy_agree(world, sy_strdup(path, &e.path)));
        SY_TRY(sy_reader_open(path, world, &reader));
        SY_TRY(sy_agree(world, read_prior(reader, &e)));
    }
    *out = e;
    e = (sy_ensemble){0};
cleanup:
    sy_reader_close(&reader);
    sy_ensemble_free(&e);
    return st;
}

void sy_ensemble_free(sy_ensemble *ensemble)
{
    sy_free(&ensemble->prior);
    sy_free(&ensemble->path);
    *ensemble = (sy_ensemble){0};
}

typedef struct member {
    sy_params *params;
    char prefix[48];
} member;

static sy_status walk_member(void *self, sy_emit *emit, void *to)
{
    member *m = self;
    return sy_params_walk(m->params, m->prefix, emit, to);
}

/* Collective. */
static sy_status load_member(sy_engine *engine, const sy_ensemble *e, int32_t j)
{
    member m = {.params = engine->params};
    sy_owner owner = {.name = "member", .self = &m, .walk = walk_member};
    sy_state state = {.owners = &owner, .n_owners = 1, .kind = "ensemble"};
    snprintf(m.prefix, sizeof m.prefix, "members/%d/model", j);
    return sy_checkpoint_load(e->path, &state, SY_LOAD_PART, engine->mesh->io);
}

/* ---- the mixture ---- */

/* scratch: logarithms of the weights. After each token they are made to add up to 1 again. */
void sy_mixture_run(const sy_mixture *m)
{
    double *log_w = m->scratch;
    for (int64_t t = 0; t < m->T; t++) {
        double top = -INFINITY, sum = 0;
        for (int32_t j = 0; j < m->n; j++) {
            log_w[j] = m->begins[t] ? log(m->prior[j]) : log_w[j];
            m->weight[j] += m->counted[t] ? exp(log_w[j]) : 0;
            log_w[j] -= m->nll[j * m->T + t]; /* 0 where there is nothing to predict */
            top = fmax(top, log_w[j]);
        }
        for (int32_t j = 0; j < m->n; j++) {
            sum += exp(log_w[j] - top);
        }
        m->mixed[t] = -(top + log(sum));
        for (int32_t j = 0; j < m->n; j++) {
            log_w[j] += m->mixed[t];
        }
    }
}

/* ---- evaluation ---- */

/* The tokens of this rank in one chunk of batches. */
typedef struct chunk {
    sy_engine *engine;
    int32_t n;        /* members */
    int64_t capacity; /* tokens */
    int64_t T;        /* tokens seen */
    int32_t member;   /* that runs */
    double *nll;      /* [n * capacity]: of member j at j * capacity */
    double *raw;      /* [largest micro-batch] as the device has them */
    double *mixed;    /* [capacity] */
    double *scratch;  /* [n] */
    double *sum;      /* [1 + 2 n]: nll of the mixture; of each member its nll, its weight */
    bool *begins, *counted;
} chunk;

static sy_status see(void *self, const sy_batch *h)
{
    sy_status st = SY_OK;
    chunk *c = self;
    const int64_t T = (int64_t)h->B * h->S;
    const sy_engine *e = c->engine;
    SY_REQUIRE(c->T + T <= c->capacity, SY_ERR_INTERNAL, "more tokens than a chunk holds");
    if (T == 0) {
        return SY_OK;
    }
    SY_TRY(
        sy_copy_d2h(e->compute_stream, c->raw, e->nll.data, T * (int64_t)sy_dtype_bytes(e->wide)));
    SY_TRY(sy_stream_sync(e->compute_stream));
    sy_convert(SY_F64, c->nll + c->member * c->capacity + c->T, e->wide, c->raw, T);
    for (int64_t t = 0; t < T; t++) {
        c->begins[c->T + t] = t % h->S == 0 || (h->doc != NULL && h->doc[t] != h->doc[t - 1]);
        c->counted[c->T + t] = h->targets[t] >= 0;
    }
    c->T += T;
cleanup:
    return st;
}

static void mix(chunk *c, const double *prior)
{
    for (int32_t j = 1; j < c->n; j++) { /* members side by side */
        memmove(c->nll + j * c->T, c->nll + j * c->capacity, (size_t)c->T * sizeof *c->nll);
    }
    sy_mixture_run(&(sy_mixture){.n = c->n,
                                 .prior = prior,
                                 .nll = c->nll,
                                 .T = c->T,
                                 .begins = c->begins,
                                 .counted = c->counted,
                                 .mixed = c->mixed,
                                 .weight = c->sum + 1 + c->n,
                                 .scratch = c->scratch});
    for (int64_t t = 0; t < c->T; t++) {
        c->sum[0] += c->mixed[t];
        for (int32_t j = 0; j < c->n; j++) {
            c->sum[1 + j] += c->nll[j * c->T + t];
        }
    }
}

static sy_status make_chunk(sy_engine *engine, int32_t n, int64_t batches, int64_t T_batch,
                            chunk *out)
{
    sy_status st = SY_OK;
    const int64_t T_micro = (int64_t)engine->spec.B * engine->spec.S;
    *out = (chunk){.engine = engine, .n = n, .capacity = batches * T_batch};
    SY_TRY(sy_alloc(n * out->capacity, sizeof *out->nll, (void **)&out->nll));
    SY_TRY(sy_alloc(T_micro, sizeof *out->raw, (void **)&out->raw));
    SY_TRY(sy_alloc(out->capacity, sizeof *out->mixed, (void **)&out->mixed));
    SY_TRY(sy_alloc(n, sizeof *out->scratch, (void **)&out->scratch));
    SY_TRY(sy_alloc(1 + 2 * n, sizeof *out->sum, (void **)&out->sum));
    SY_TRY(sy_alloc(out->capacity, sizeof *out->begins, (void **)&out->begins));
    SY_TRY(sy_alloc(out->capacity, sizeof *out->counted, (void **)&out->counted));
cleanup:
    return st;
}

static void free_chunk(chunk *c)
{
    sy_free(&c->counted);
    sy_free(&c->begins);
    sy_free(&c->sum);
    sy_free(&c->scratch);
    sy_free(&c->mixed);
    sy_free(&c->raw);
    sy_free(&c->nll);
}

/* All members over the same batches. */
static sy_status run_chunk(const sy_ensemble *e, sy_eval_set *set, sy__eval_part *part, chunk *c,
                           sy_eval_result *total)
{
    sy_status st = SY_OK;
    int64_t end = part->position;
    sy_eval_result one = {0};
    for (int32_t j = 0; j < e->n; j++) {
        c->member = j;
        c->T = 0;
        SY_TRY(load_member(c->engine, e, j));
        SY_TRY(sy__evaluate_part(c->engine, set, part, &one, &end));
        total->drop_fraction += one.drop_fraction * (double)one.tokens / e->n;
    }
    total->tokens += one.tokens;
    part->position = end;
    mix(c, e->prior);
cleanup:
    return st;
}

/* From sums to means. */
static sy_status reduce(sy_engine *engine, chunk *c, sy_eval_result *out, double *loss,
                        double *weight)
{
    sy_status st = SY_OK;
    const double n = out->tokens > 0 ? (double)out->tokens : 1;
    SY_TRY(sy_host_all_reduce(engine->mesh->host, c->sum, 1 + 2 * c->n, SY_F64, SY_SUM,
                              "ensemble's sums"));
    out->loss = c->sum[0] / n;
    out->drop_fraction /= n;
    for (int32_t j = 0; j < c->n; j++) {
        loss[j] = c->sum[1 + j] / n;
        weight[j] = c->sum[1 + c->n + j] / n;
    }
cleanup:
    return st;
}

sy_status sy_evaluate_ensemble(sy_engine *engine, const sy_ensemble *e, sy_eval_set *set,
                               int64_t n_batches, sy_eval_result *out, double *loss, double *weight)
{
    sy_status st = SY_OK;
    const sy_train_config *train = engine->settings->train;
    const int64_t in_a_round = (int64_t)engine->mesh->group[SY_DP]->size * engine->spec.B;
    const int64_t rounds = (train->global_batch + in_a_round - 1) / in_a_round;
    const int64_t T_batch = rounds * engine->spec.B * engine->spec.S;
    const int64_t n_sequences = sy_loader_n_sequences(set->loader);
    const int64_t n_all = (n_sequences + train->global_batch - 1) / train->global_batch;
    const int64_t wanted = n_batches > 0 && n_batches < n_all ? n_batches : n_all;
    const int64_t fit = CHUNK_VALUES / (e->n * T_batch), at_once = fit > 1 ? fit : 1;
    chunk c = {0};
    sy__eval_part part = {.see = see, .self = &c};
    sy_eval_result sum = {0};

    SY_TRY(sy_agree(engine->mesh->host,
                    make_chunk(engine, e->n, at_once < wanted ? at_once : wanted, T_batch, &c)));
    for (int64_t done = 0; done < wanted; done += part.n_batches) {
        part.n_batches = at_once < wanted - done ? at_once : wanted - done;
        SY_TRY(run_chunk(e, set, &part, &c, &sum));
    }
    SY_TRY(reduce(engine, &c, &sum, loss, weight));
    *out = sum;
cleanup:
    free_chunk(&c);
    return st;
}
