/* Each rank hashes tensor by tensor. Those of one kind of replicas make one number; that it is the
 * same everywhere is seen from the largest of it and of its complement. Only where it is not are
 * the tensors' digests sent round. */
#include "train/replicas.h"

#include <stdio.h>

#include "checkpoint/hash.h"
#include "core/alloc.h"
#include "parallel/agree.h"

enum { CHUNK_BYTES = 1 << 20 };

typedef enum part { VALUE, MASTER, MOMENT, SQUARE, GRADIENT, N_PARTS } part;
static const char *const part_name[N_PARTS] = {"weights", "master weights", "first moments",
                                               "second moments", "gradients"};

struct sy_replicas {
    const sy_trainer *t;
    sy_hash *hash;
    char *h_chunk;    /* [CHUNK_BYTES] */
    int64_t *digest;  /* [N_PARTS, n], 0: not compared */
    int64_t *largest; /* [2 + 2 ep] */
};

static int64_t n_digests(const sy_replicas *r)
{
    return (int64_t)N_PARTS * r->t->engine->params->n;
}

sy_status sy_replicas_create(const sy_trainer *trainer, sy_replicas **out)
{
    sy_status st = SY_OK;
    sy_replicas *r = NULL;
    SY_TRY(sy_alloc(1, sizeof *r, (void **)&r));
    r->t = trainer;
    SY_TRY(sy_hash_create(&r->hash));
    SY_TRY(sy_alloc(CHUNK_BYTES, 1, (void **)&r->h_chunk));
    SY_TRY(sy_alloc(n_digests(r), sizeof *r->digest, (void **)&r->digest));
    SY_TRY(sy_alloc(2 + 2 * (int64_t)trainer->engine->mesh->group[SY_EP]->size, sizeof *r->largest,
                    (void **)&r->largest));
    *out = r;
    r = NULL;
cleanup:
    sy_replicas_destroy(&r);
    return st;
}

void sy_replicas_destroy(sy_replicas **replicas)
{
    sy_replicas *r = *replicas;
    if (r != NULL) {
        sy_free(&r->largest);
        sy_free(&r->digest);
        sy_free(&r->h_chunk);
        sy_hash_destroy(&r->hash);
        sy_free(replicas);
    }
}

/* ---- what is read ---- */

/* The place of a parameter in arrays [shard_n]; NULL: it has none. */
static void *in_shard(const sy_params *params, const sy_param *p, void *base)
{
    for (int32_t i = 0; i < params->n_ranges && base != NULL; i++) {
        const sy_range *range = &params->range[i];
        if (range->segment == p->segment) { /* without ZeRO the whole segment */
            const int64_t at = range->shard_offset + p->offset - range->offset;
            return (char *)base + at * (int64_t)sy_dtype_bytes(params->wide);
        }
    }
    return NULL;
}

/* Absent where the part has no replicas. */
static sy_tensor tensor_of(const sy_replicas *r, const sy_param *p, part what, bool gradients)
{
    const sy_params *params = r->t->engine->params;
    const sy_optimizer *opt = r->t->opt;
    void *const base[] = {[MASTER] = opt->master, [MOMENT] = opt->m, [SQUARE] = opt->v};
    void *data = NULL;
    if (params->mesh->group[p->spec.replicas]->size == 1) {
        return sy_tensor_none();
    }
    if (what == VALUE) {
        return p->value;
    }
    if (params->zero > 0) {
        return sy_tensor_none();
    }
    if (what == GRADIENT) {
        return gradients ? p->grad : sy_tensor_none();
    }
    if (what != MASTER || p->value.dtype != params->wide) {
        data = in_shard(params, p, base[what]);
    }
    return data != NULL ? sy_tensor_1d(data, params->wide, sy_tensor_numel(&p->value))
                        : sy_tensor_none();
}

static sy_status digest_tensor(sy_replicas *r, const sy_tensor *x, int64_t *out)
{
    sy_status st = SY_OK;
    sy_stream *stream = r->t->engine->compute_stream;
    const int64_t bytes = sy_tensor_bytes(x);
    for (int64_t at = 0; at < bytes; at += CHUNK_BYTES) {
        const int64_t n = bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES;
        SY_TRY(sy_copy_d2h(stream, r->h_chunk, (const char *)x->data + at, n));
        SY_TRY(sy_stream_sync(stream));
        sy_hash_add(r->hash, r->h_chunk, n);
    }
    *out = (int64_t)sy_hash_take(r->hash);
cleanup:
    return st;
}

static sy_status digest_all(sy_replicas *r, bool gradients)
{
    sy_status st = SY_OK;
    const sy_params *params = r->t->engine->params;
    for (int64_t i = 0; i < n_digests(r); i++) {
        const sy_tensor x =
            tensor_of(r, params->param[i % params->n], (part)(i / params->n), gradients);
        r->digest[i] = 0;
        SY_TRY(x.data != NULL ? digest_tensor(r, &x, &r->digest[i]) : SY_OK);
    }
cleanup:
    return st;
}

static bool is_dense(const sy_replicas *r, int64_t i)
{
    const sy_params *params = r->t->engine->params;
    return params->param[i % params->n]->spec.replicas == SY_DENSE;
}

/* One number of all digests of a kind. */
static int64_t sum_up(sy_replicas *r, bool dense)
{
    for (int64_t i = 0; i < n_digests(r); i++) {
        if (is_dense(r, i) == dense) {
            sy_hash_add(r->hash, &r->digest[i], sizeof r->digest[i]);
        }
    }
    return (int64_t)sy_hash_take(r->hash);
}

/* ---- who differs ---- */

/* Do both ranks hold what i names? */
static bool are_replicas(const sy_replicas *r, int64_t i, int32_t a, int32_t b)
{
    const int32_t ep = r->t->engine->mesh->group[SY_EP]->size; /* consecutive ranks */
    return is_dense(r, i) || a % ep == b % ep;
}

/* How many replicas are not like that of `rank`, of all [size, n]. */
static int32_t n_unlike(const sy_replicas *r, const int64_t *all, int64_t i, int32_t rank)
{
    const int64_t n = n_digests(r);
    int32_t unlike = 0;
    for (int32_t other = 0; other < r->t->engine->mesh->host->size; other++) {
        unlike += are_replicas(r, i, rank, other) && all[rank * n + i] != all[other * n + i];
    }
    return unlike;
}

/* The rank that most others are unlike, -1: all are alike; and the next that is as odd, -1: none.
 */
static int32_t oddest(const sy_replicas *r, const int64_t *all, int64_t i, int32_t *rival)
{
    int32_t odd = -1, most = 0;
    *rival = -1;
    for (int32_t rank = 0; rank < r->t->engine->mesh->host->size; rank++) {
        const int32_t unlike = n_unlike(r, all, i, rank);
        if (unlike > most) {
            most = unlike;
            odd = rank;
            *rival = -1;
        } else if (unlike > 0 && unlike == most && *rival < 0) {
            *rival = rank;
        }
    }
    return odd;
}

/* The message, from the digests of all ranks, and of a second reading. */
static sy_status tell(const sy_replicas *r, int64_t step, const int64_t *all, const int64_t *again)
{
    const sy_params *params = r->t->engine->params;
    const int64_t n = n_digests(r), size = r->t->engine->mesh->host->size;
    int64_t first = -1, n_differ = 0;
    int32_t rank = -1, rival = -1;
    bool same = true;
    char who[64];
    for (int64_t i = n - 1; i >= 0; i--) {
        int32_t second = -1, odd = oddest(r, all, i, &second);
        if (odd >= 0) {
            n_differ++;
            first = i;
            rank = odd;
            rival = second;
        }
    }
    for (int64_t i = 0; i < n * size; i++) {
        same = same && all[i] == again[i];
    }
    if (rival < 0) {
        snprintf(who, sizeof who, "rank %d is not like the others", rank);
    } else {
        snprintf(who, sizeof who, "ranks %d and %d differ", rank, rival);
    }
    return sy_error(
        SY_ERR_NUMERIC,
        "step %ld: replicas are not alike: %s of model/%s: %s (%ld tensors differ; %s); a "
        "restart goes on from the newest checkpoint",
        (long)step, part_name[first / params->n], params->param[first % params->n]->spec.name, who,
        (long)n_differ,
        same ? "the same when read again: it stands in memory"
             : "not the same when read again: reading is not reliable");
}

/* Rare: memory is taken for it. */
static sy_status find(sy_replicas *r, int64_t step, bool gradients)
{
    sy_status st = SY_OK;
    sy_comm *host = r->t->engine->mesh->host;
    const int64_t n = n_digests(r);
    int64_t *all = NULL, *again = NULL;
    SY_TRY(sy_agree(host, sy_alloc(n * host->size, sizeof *all, (void **)&all)));
    SY_TRY(sy_agree(host, sy_alloc(n * host->size, sizeof *again, (void **)&again)));
    SY_TRY(sy_host_all_gather(host, r->digest, all, n * (int64_t)sizeof *all, "replicas"));
    SY_TRY(sy_agree(host, digest_all(r, gradients)));
    SY_TRY(sy_host_all_gather(host, r->digest, again, n * (int64_t)sizeof *all, "replicas"));
    SY_TRY(tell(r, step, all, again));
cleanup:
    sy_free(&again);
    sy_free(&all);
    return st;
}

sy_status sy_replicas_check(sy_replicas *r, int64_t step, bool gradients)
{
    sy_status st = SY_OK;
    const sy_mesh *mesh = r->t->engine->mesh;
    const int32_t ep = mesh->group[SY_EP]->size, slot = 2 + 2 * mesh->group[SY_EP]->rank;
    bool alike = true;
    if (mesh->host->size == 1) {
        return SY_OK;
    }
    SY_TRY(sy_agree(mesh->host, digest_all(r, gradients)));
    for (int32_t i = 0; i < 2 + 2 * ep; i++) {
        r->largest[i] = INT64_MIN;
    }
    r->largest[0] = sum_up(r, true);
    r->largest[1] = ~r->largest[0];
    r->largest[slot] = sum_up(r, false);
    r->largest[slot + 1] = ~r->largest[slot];
    SY_TRY(sy_host_all_reduce(mesh->host, r->largest, 2 + 2 * ep, SY_I64, SY_MAX, "replicas"));
    for (int32_t i = 0; i < 2 + 2 * ep; i += 2) {
        alike = alike && r->largest[i] == ~r->largest[i + 1];
    }
    SY_TRY(alike ? SY_OK : find(r, step, gradients));
cleanup:
    return st;
}
