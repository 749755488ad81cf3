/* Data sets in Megatron's order: tables found or built, samples read through them. What stands in a
   table that was found is not trusted: every number is checked where it is used. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include <xxhash.h>

#include "core/alloc.h"
#include "core/pulse.h"
#include "data/index_cache.h"
#include "data/megatron.h"

/* Of an order, and places in its tables: products with a sequence's length stay below 2^63. */
#define MOST_SAMPLES (INT64_C(1) << 36)

enum { LENGTHS = 4096 }; /* hashed at a time */

typedef struct set {
    sy_megatron_dataset data;
    int64_t n_wanted;
    sy_megatron_shape shape;
    sy_megatron_tables table;
    sy_index_cache cache;
} set;

struct sy_megatron {
    int32_t n, S;
    uint32_t seed;
    int64_t n_samples;
    double *weight; /* [n] */
    set *set;       /* [n] */
    /* Of a blend; NULL: one data set. */
    const int16_t *dataset;
    const int64_t *sample;
    sy_index_cache blend;
};

/* ---- one data set ---- */

static int64_t length_of(const set *s, int64_t i)
{
    return sy_token_file_sequence_start(s->data.file, s->data.first + i + 1) -
           sy_token_file_sequence_start(s->data.file, s->data.first + i);
}

static int64_t table_bytes(const sy_megatron_shape *s)
{
    return 8 * (2 * s->n_samples + 1) + 4 * (s->n_samples + 1 + s->n_documents);
}

/* Large elements first: all are aligned. */
static sy_megatron_tables cut_table(const sy_megatron_shape *s, const void *table)
{
    sy_megatron_tables t;
    t.place = (int64_t *)(uintptr_t)table;
    t.shuffle = t.place + s->n_samples + 1;
    t.offset = (int32_t *)(t.shuffle + s->n_samples);
    t.document = t.offset + s->n_samples + 1;
    return t;
}

static void read_lengths(const set *s, int64_t first, int64_t n, int32_t *out)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = (int32_t)length_of(s, first + i);
    }
}

typedef struct build_job {
    const sy_megatron *m;
    const set *set;
} build_job;

static sy_status build_tables(void *self, void *table)
{
    sy_status st = SY_OK;
    const build_job *j = self;
    const int64_t n = j->set->data.end - j->set->data.first;
    const sy_megatron_tables t = cut_table(&j->set->shape, table);
    int32_t *length = NULL;
    SY_TRY(sy_alloc(n, sizeof *length, (void **)&length));
    read_lengths(j->set, 0, n, length);
    sy_megatron_build(&j->set->shape, length, n, j->m->S, j->m->seed, &t);
cleanup:
    sy_free(&length);
    return st;
}

/* Whatever the tables depend on; the lengths block by block, for there may be very many. */
static uint64_t key_of(const sy_megatron *m, const set *s)
{
    const int64_t n = s->data.end - s->data.first;
    const int64_t facts[] = {
        m->S, m->seed, s->n_wanted, n, s->shape.n_documents, s->shape.n_samples};
    uint64_t key = XXH3_64bits(facts, sizeof facts);
    int32_t length[LENGTHS];
    for (int64_t at = 0; at < n; at += LENGTHS) {
        const int64_t here = n - at < LENGTHS ? n - at : LENGTHS;
        read_lengths(s, at, here, length);
        sy_pulse_beat();
        key = XXH3_64bits_withSeed(length, (size_t)here * sizeof *length, key);
    }
    return key;
}

static sy_status open_set(sy_megatron *m, set *s)
{
    sy_status st = SY_OK;
    const int64_t n = s->data.end - s->data.first;
    const int64_t n_tokens = sy_token_file_sequence_start(s->data.file, s->data.end) -
                             sy_token_file_sequence_start(s->data.file, s->data.first);
    s->shape = sy_megatron_shape_of(n, n_tokens, m->S, s->n_wanted);
    SY_REQUIRE(n <= INT32_MAX, SY_ERR_USAGE,
               "token file '%s' has %" PRId64 " sequences, more than Megatron's order can number",
               sy_token_file_path(s->data.file), n);
    SY_REQUIRE(s->shape.n_documents <= MOST_SAMPLES, SY_ERR_USAGE,
               "token file '%s' would be gone through %" PRId64 " times, too often for Megatron's "
               "order",
               sy_token_file_path(s->data.file), s->shape.n_epochs);
    build_job job = {m, s};
    SY_TRY(sy_index_cache_open(&(sy_index_cache_spec){.beside = sy_token_file_path(s->data.file),
                                                      .what = "order",
                                                      .key = key_of(m, s),
                                                      .bytes = table_bytes(&s->shape),
                                                      .build = build_tables,
                                                      .self = &job},
                               &s->cache));
    s->table = cut_table(&s->shape, s->cache.table);
cleanup:
    return st;
}

/* ---- the blend ---- */

static sy_status build_blend(void *self, void *table)
{
    const sy_megatron *m = self;
    sy_megatron_blend(m->weight, m->n, m->n_samples, (int16_t *)((int64_t *)table + m->n_samples),
                      table);
    return SY_OK;
}

/* Samples of data set d in an order of n_wanted: half a percent more than its share, as there. */
static int64_t share_of(const sy_megatron *m, int32_t d, int64_t n_wanted)
{
    double all = 0;
    for (int32_t i = 0; i < m->n; i++) {
        all += m->weight[i];
    }
    return m->n == 1 ? n_wanted
                     : (int64_t)ceil(ceil((double)n_wanted * (m->weight[d] / all)) * 1.005);
}

static sy_status open_blend(sy_megatron *m, int64_t n_wanted)
{
    sy_status st = SY_OK;
    m->n_samples = sy_megatron_blend_size(m->weight, m->n, n_wanted);
    SY_TRY(sy_index_cache_open(
        &(sy_index_cache_spec){.beside = sy_token_file_path(m->set[0].data.file),
                               .what = "blend",
                               .key =
                                   XXH3_64bits_withSeed(m->weight, (size_t)m->n * sizeof *m->weight,
                                                        (uint64_t)m->n_samples),
                               .bytes = 10 * m->n_samples,
                               .build = build_blend,
                               .self = m},
        &m->blend));
    m->sample = m->blend.table;
    m->dataset = (const int16_t *)(m->sample + m->n_samples);
cleanup:
    return st;
}

sy_status sy_megatron_create(const sy_megatron_dataset *sets, int32_t n, int32_t S, uint64_t seed,
                             int64_t n_wanted, sy_megatron **out)
{
    sy_status st = SY_OK;
    sy_megatron *m = NULL;
    SY_REQUIRE(seed <= UINT32_MAX, SY_ERR_USAGE,
               "run.seed %" PRIu64 " is larger than 2^32 - 1, the largest of Megatron's order",
               seed);
    SY_REQUIRE(n < INT16_MAX, SY_ERR_USAGE, "%d data sets; Megatron's order has at most %d", n,
               INT16_MAX - 1);
    SY_REQUIRE(n_wanted <= MOST_SAMPLES, SY_ERR_USAGE,
               "the batches of train.steps are %" PRId64
               " sequences; Megatron's order has at most %" PRId64,
               n_wanted, MOST_SAMPLES);
    SY_TRY(sy_alloc(1, sizeof *m, (void **)&m));
    m->n = n;
    m->S = S;
    m->seed = (uint32_t)seed;
    SY_TRY(sy_alloc(n, sizeof *m->weight, (void **)&m->weight));
    SY_TRY(sy_alloc(n, sizeof *m->set, (void **)&m->set));
    for (int32_t d = 0; d < n; d++) {
        m->weight[d] = sets[d].weight;
        m->set[d].data = sets[d];
    }
    for (int32_t d = 0; d < n; d++) {
        m->set[d].n_wanted = share_of(m, d, n_wanted);
    }
    SY_TRY(n > 1 ? open_blend(m, n_wanted) : SY_OK);
    for (int32_t d = 0; d < n; d++) {
        SY_TRY(open_set(m, &m->set[d]));
    }
    m->n_samples = n > 1 ? m->n_samples : m->set[0].shape.n_samples;
    *out = m;
    m = NULL;
cleanup:
    sy_megatron_destroy(&m);
    return st;
}

void sy_megatron_destroy(sy_megatron **megatron)
{
    sy_megatron *m = *megatron;
    if (m == NULL) {
        return;
    }
    for (int32_t d = 0; d < m->n && m->set != NULL; d++) {
        sy_index_cache_close(&m->set[d].cache);
    }
    sy_index_cache_close(&m->blend);
    sy_free(&m->set);
    sy_free(&m->weight);
    sy_free(megatron);
}

int64_t sy_megatron_n_samples(const sy_megatron *megatron)
{
    return megatron->n_samples;
}

/* A blend takes the same data sets whatever its length, and a data set's tables are a function of
   how often it is gone through and whether the last time is shuffled apart. */
bool sy_megatron_same_order(const sy_megatron *m, int64_t n_wanted)
{
    for (int32_t d = 0; d < m->n; d++) {
        const sy_megatron_dataset *data = &m->set[d].data;
        const sy_megatron_shape *now = &m->set[d].shape;
        const sy_megatron_shape then = sy_megatron_shape_of(data->end - data->first, now->n_tokens,
                                                            m->S, share_of(m, d, n_wanted));
        if (then.n_epochs != now->n_epochs || then.separate != now->separate) {
            return false;
        }
    }
    return true;
}

/* ---- reading ---- */

static sy_status damaged(const set *s)
{
    return sy_error(
        SY_ERR_USAGE,
        "the tables of the order of '%s' are damaged: delete the .index files beside it",
        sy_token_file_path(s->data.file));
}

static sy_status read_sample(const sy_megatron *m, const set *s, int64_t i, int32_t *tokens,
                             uint8_t *fresh)
{
    sy_status st = SY_OK;
    const sy_megatron_tables *t = &s->table;
    const int64_t n = s->data.end - s->data.first;
    int64_t done = 0;
    memset(fresh, 0, (size_t)m->S + 1);
    for (int64_t p = t->place[i]; p <= t->place[i + 1]; p++) {
        if (p < 0 || p >= s->shape.n_documents || t->document[p] < 0 || t->document[p] >= n) {
            return damaged(s);
        }
        const int64_t begin = p == t->place[i] ? t->offset[i] : 0;
        const int64_t length = length_of(s, t->document[p]);
        const int64_t end = p == t->place[i + 1] ? t->offset[i + 1] + (int64_t)1 : length;
        if (begin < 0 || begin > end || end > length || done + end - begin > m->S + 1) {
            return damaged(s);
        }
        if (done > 0 && end > begin) {
            fresh[done] = 1;
        }
        SY_TRY(sy_token_file_read(
            s->data.file,
            sy_token_file_sequence_start(s->data.file, s->data.first + t->document[p]) + begin,
            end - begin, tokens + done));
        done += end - begin;
    }
    if (done != m->S + 1) {
        return damaged(s);
    }
cleanup:
    return st;
}

sy_status sy_megatron_read(const sy_megatron *m, int64_t k, int32_t *tokens, uint8_t *fresh)
{
    sy_status st = SY_OK;
    SY_REQUIRE(k >= 0 && k < m->n_samples, SY_ERR_USAGE,
               "sequence %" PRId64 " of an order of %" PRId64 ": Megatron's order is made of "
               "train.steps and train.global_batch; go on with those of before, or with --reset "
               "data",
               k, m->n_samples);
    const int32_t d = m->dataset != NULL ? m->dataset[k] : 0;
    const int64_t j = m->dataset != NULL ? m->sample[k] : k;
    if (d < 0 || d >= m->n) {
        return damaged(&m->set[0]);
    }
    const set *s = &m->set[d];
    if (j < 0 || j >= s->shape.n_samples || s->table.shuffle[j] < 0 ||
        s->table.shuffle[j] >= s->shape.n_samples) {
        return damaged(s);
    }
    SY_TRY(read_sample(m, s, s->table.shuffle[j], tokens, fresh));
cleanup:
    return st;
}
