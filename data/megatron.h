/* The order of samples that Megatron-LM makes of indexed data sets (megatron/core/datasets:
   gpt_dataset.py, helpers.cpp, blended_dataset.py), from the same seed, sequence length, split and
   number of samples. Its "documents" are the sequences of an index. The tables lie in files beside
   the data (data/index_cache.h). */
#ifndef SY_DATA_MEGATRON_H
#define SY_DATA_MEGATRON_H

#include "data/token_file.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What of a data set: all of it, or a part of a split. */
typedef enum sy_split_part {
    SY_SPLIT_TRAIN,
    SY_SPLIT_VALID,
    SY_SPLIT_TEST,
    SY_SPLIT_ALL
} sy_split_part;

/* The part of n sequences between two borders of a split, which are shares of their sum:
   rint(border * n), halves to even. All of them: 0 .. n. Not collective. */
void sy_megatron_split(int64_t n, const double share[3], sy_split_part part, int64_t *first,
                       int64_t *end);

/* The tables of one data set. */
typedef struct sy_megatron_shape {
    int64_t n_tokens, n_epochs; /* of the exposed sequences; how often they are gone through */
    int64_t n_documents,
        n_samples;    /* rows of the tables: epochs * sequences; what fits into them */
    bool separate;    /* the last epoch is shuffled by itself */
    int64_t n_before; /* samples of the epochs before it */
} sy_megatron_shape;

/* So many samples of S tokens (and the one behind) are wanted. Not collective. */
sy_megatron_shape sy_megatron_shape_of(int64_t n_sequences, int64_t n_tokens, int32_t S,
                                       int64_t n_wanted);

typedef struct sy_megatron_tables {
    int32_t *document; /* [n_documents] sequence, from 0 */
    int64_t *place;    /* [n_samples + 1] where sample i begins: in `document` */
    int32_t *offset;   /* [n_samples + 1] ... and in the sequence */
    int64_t *shuffle;  /* [n_samples] sample k of the data set is that number */
} sy_megatron_tables;

/* Fill the tables. length [n_sequences]. Not collective. Requires seed < 2^32. */
void sy_megatron_build(const sy_megatron_shape *shape, const int32_t *length, int64_t n_sequences,
                       int32_t S, uint32_t seed, const sy_megatron_tables *out);

/* Samples of a blend of n data sets where `size` are wanted: the sum of ceil(size * weight),
   weights being shares of their sum. Not collective. */
int64_t sy_megatron_blend_size(const double *weight, int32_t n, int64_t size);
/* Which data set, and which sample of it, each of n_out samples of a blend is: dataset, sample
   [n_out]. Always the data set that is furthest behind its share, the first of several. Not
   collective. Requires n < 2^15, weights above 0 with a finite sum. */
void sy_megatron_blend(const double *weight, int32_t n, int64_t n_out, int16_t *dataset,
                       int64_t *sample);

/* ---- data sets ---- */

typedef struct sy_megatron_dataset {
    const sy_token_file *file; /* with an index */
    int64_t first, end;        /* sequences of it */
    double weight;
} sy_megatron_dataset;

typedef struct sy_megatron sy_megatron;

/* Find or build the tables for n_wanted samples of S tokens. The files stay the caller's. Requires
   more than S tokens in the sequences of each data set. SY_ERR_USAGE: too many data sets or sequences, a seed beyond 2^32. Not
   collective. */
sy_status sy_megatron_create(const sy_megatron_dataset *sets, int32_t n, int32_t S, uint64_t seed,
                             int64_t n_wanted, sy_megatron **out);
void sy_megatron_destroy(sy_megatron **megatron);
/* Samples in the order, at least n_wanted. Not collective. */
int64_t sy_megatron_n_samples(const sy_megatron *megatron);
/* Would another n_wanted give the same samples at the same places, as far as both go? Not
   collective. */
bool sy_megatron_same_order(const sy_megatron *megatron, int64_t n_wanted);
/* Sample k: tokens [S + 1], and fresh [S + 1]: 1 where a sequence begins behind the sample's first
   token. Not collective. Errors of reading; SY_ERR_USAGE for tables that are damaged. */
sy_status sy_megatron_read(const sy_megatron *megatron, int64_t k, int32_t *tokens, uint8_t *fresh);

#ifdef __cplusplus
}
#endif
#endif
