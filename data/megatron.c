/* The tables: which sequences, in which order; where each sample begins; in which order samples
   come; which data set a step's sample is of. */
#include "data/megatron.h"

#include <math.h>
#include <string.h>

#include "data/np_random.h"
#include "core/pulse.h"

void sy_megatron_split(int64_t n, const double share[3], sy_split_part part, int64_t *first,
                       int64_t *end)
{
    const double all = share[0] + share[1] + share[2];
    double border = 0;
    *first = 0;
    *end = n;
    for (int32_t i = 0; i <= (int32_t)part && part != SY_SPLIT_ALL; i++) {
        *first = (int64_t)rint(border * (double)n);
        border += share[i] / all;
        *end = (int64_t)rint(border * (double)n);
    }
}

sy_megatron_shape sy_megatron_shape_of(int64_t n_sequences, int64_t n_tokens, int32_t S,
                                       int64_t n_wanted)
{
    sy_megatron_shape s = {.n_tokens = n_tokens};
    const int64_t wanted = n_wanted * S + 1;
    s.n_epochs = (wanted + n_tokens - 1) / n_tokens;
    s.n_epochs = s.n_epochs > 1 ? s.n_epochs : 1;
    s.n_documents = s.n_epochs * n_sequences;
    s.n_samples = (s.n_epochs * n_tokens - 1) / S;
    if (s.n_epochs > 1) {
        const int64_t n_epoch = (n_tokens - 1) / S;
        s.n_before = ((s.n_epochs - 1) * n_tokens - 1) / S;
        s.separate = n_wanted - s.n_before < (int64_t)(0.80 * (double)n_epoch);
    }
    return s;
}

static void order_documents(const sy_megatron_shape *s, int64_t n_sequences, sy_np_random *r,
                            int32_t *document)
{
    const int64_t before = s->separate ? s->n_documents - n_sequences : s->n_documents;
    for (int64_t i = 0; i < s->n_documents; i++) {
        document[i] = (int32_t)(i % n_sequences);
    }
    sy_np_shuffle_i32(r, document, before);
    sy_np_shuffle_i32(r, document + before, s->n_documents - before);
}

/* Neighbours share a token: the last target of one is the first input of the next. */
static void find_samples(const sy_megatron_shape *s, const int32_t *length, int32_t S,
                         const sy_megatron_tables *t)
{
    int64_t place = 0, offset = 0;
    t->place[0] = 0;
    t->offset[0] = 0;
    for (int64_t i = 1; i <= s->n_samples; i++) {
        int64_t need = (int64_t)S + 1;
        while (need > 0) {
            const int64_t here = length[t->document[place]] - offset;
            need -= here;
            if (need <= 0) {
                offset += need + here - 1;
            } else if (place == s->n_documents - 1) {
                offset = length[t->document[place]] - 1;
                need = 0;
            } else {
                place++;
                offset = 0;
            }
        }
        t->place[i] = place;
        t->offset[i] = (int32_t)offset;
        if (i % 65536 == 0) {
            sy_pulse_beat();
        }
    }
}

static void order_samples(const sy_megatron_shape *s, sy_np_random *r, int64_t *shuffle)
{
    const int64_t before = s->separate ? s->n_before : s->n_samples;
    for (int64_t i = 0; i < s->n_samples; i++) {
        shuffle[i] = i;
    }
    sy_np_shuffle_i64(r, shuffle, before);
    sy_np_shuffle_i64(r, shuffle + before, s->n_samples - before);
}

void sy_megatron_build(const sy_megatron_shape *shape, const int32_t *length, int64_t n_sequences,
                       int32_t S, uint32_t seed, const sy_megatron_tables *out)
{
    sy_np_random r;
    sy_np_seed(&r, seed);
    order_documents(shape, n_sequences, &r, out->document);
    find_samples(shape, length, S, out);
    order_samples(shape, &r, out->shuffle);
}

int64_t sy_megatron_blend_size(const double *weight, int32_t n, int64_t size)
{
    double all = 0;
    int64_t sum = 0;
    for (int32_t d = 0; d < n; d++) {
        all += weight[d];
    }
    for (int32_t d = 0; d < n; d++) {
        sum += (int64_t)ceil((double)size * (weight[d] / all));
    }
    return sum;
}

/* Always the data set that is furthest behind its share, the first of several. */
void sy_megatron_blend(const double *weight, int32_t n, int64_t n_out, int16_t *dataset,
                       int64_t *sample)
{
    double all = 0;
    int64_t count[INT16_MAX] = {0};
    for (int32_t d = 0; d < n; d++) {
        all += weight[d];
    }
    for (int64_t i = 0; i < n_out; i++) {
        const double s = i > 1 ? (double)i : 1;
        int32_t most = 0;
        double error = weight[0] / all * s - (double)count[0];
        for (int32_t d = 1; d < n; d++) {
            const double e = weight[d] / all * s - (double)count[d];
            if (e > error) {
                error = e;
                most = d;
            }
        }
        dataset[i] = (int16_t)most;
        sample[i] = count[most]++;
        if (i % 65536 == 0) {
            sy_pulse_beat();
        }
    }
}
