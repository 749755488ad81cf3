/* Batches of a step, for one rank. The step's global batch is a function of (seed, position) alone;
   this rank takes every dp_size-th micro-batch of it. A thread prepares the next step while the
   current one is in use. */
#ifndef SY_DATA_LOADER_H
#define SY_DATA_LOADER_H

#include "core/batch.h"
#include "core/status.h"
#include "data/megatron.h"
#include "data/objective.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_loader sy_loader;

typedef struct sy_loader_dataset {
    const char *path; /* PREFIX of a token file */
    double weight;    /* share of the sequences; unused where sequential */
    sy_split_part part;
} sy_loader_dataset;

typedef struct sy_loader_spec {
    const sy_loader_dataset *datasets;
    int32_t n_datasets;
    /* false: training, endless, in the sampler's order, S whole targets each.
       true: validation, one data set, in file order, once; the last sequence may be partial (target
       -1, routed 0). */
    bool sequential;
    int32_t stride; /* validation: sequences begin so many tokens apart, and what the one before has
                       seen has no loss; 0: S, none overlap */
    uint64_t seed;
    /* Training alone: Megatron's order, of so many sequences at least; 0: the sampler's. */
    int64_t megatron_samples;
    sy_objective_spec objective; /* training alone; zero: causal */
    double split[3];             /* shares of the parts; all 0: there are none */
    sy_token_file_spec file;     /* how the files are read */
    int32_t S, B;                /* sequence; sequences in a micro-batch */
    int32_t global_batch;        /* sequences in a step; the most, where they differ */
    int32_t dp_rank, dp_size;
    bool mask_documents; /* doc and pos begin anew at document borders; else doc NULL, pos 0 .. S-1
                          */
} sy_loader_spec;

/* Sequence i of a data set is tokens i*S .. i*S+S of its part of the stream: S inputs, and targets
   shifted by one; in Megatron's order it is a sample of data/megatron.h. Micro-batch j of a step is
   sequences j*B .. min((j+1)*B, global_batch)-1 of it and belongs to rank j mod dp_size; so the
   last one may have a smaller B, and a rank's last may have none (T = 0). n_micro is the same on
   every rank: ceil(n_sequences / (B * dp_size)). */
typedef struct sy_step_batch {
    const sy_batch *micro; /* [n_micro] */
    int32_t n_micro;
    int64_t position;    /* in the data, in sequences since the start of the run (of the file, if
                            sequential) */
    int32_t n_sequences; /* of the whole step, all ranks: as many as were asked for, fewer at the
                            end of validation data */
    int64_t loss_tokens, routed_tokens; /* of this rank's micro-batches */
} sy_step_batch;

/* Open the data sets, allocate two steps' batches and start the thread.
   Not collective. Errors: SY_ERR_USAGE for a file that cannot be used or is shorter than one
   sequence, or for no file. */
sy_status sy_loader_create(const sy_loader_spec *spec, sy_loader **out);
/* Stop the thread and free; NULL is fine. Not collective. */
void sy_loader_destroy(sy_loader **loader);

/* The step of global_batch sequences that begins at a position; the one after it is then prepared
   in the background. Not collective. Allocates nothing. *out and all it points to stay valid until
   the next take. Any position may be asked at any time; the one that follows the last step is the
   fast one. Beyond the end of validation data a step is empty (n_micro 0). Errors: those of
   reading, met by this call even where the thread met them earlier; a later take tries anew. */
sy_status sy_loader_take(sy_loader *loader, int64_t position, const sy_step_batch **out);
/* The same for a step of n sequences, 1 .. global_batch; n_next: of the one after it. */
sy_status sy_loader_take_sized(sy_loader *loader, int64_t position, int32_t n, int32_t n_next,
                               const sy_step_batch **out);

/* Sequences of all data sets together, a partial one at the end of validation data included. Not
 * collective. */
int64_t sy_loader_n_sequences(const sy_loader *loader);
/* How often each id comes in the training data: shares of the tokens, data sets by their weights;
   the sum is 1. A set of more than SY_COUNT_TOKENS tokens is looked at in stretches at equal
   distances, as many tokens in all. It is the text that is counted, before an objective changes it.
   share [vocab]. Not collective; any time. Errors: those of reading. */
enum { SY_COUNT_TOKENS = 1 << 24 };
sy_status sy_loader_token_shares(const sy_loader *loader, int64_t vocab, double *share);
/* Would another megatron_samples give the same sequences at the same positions, as far as both go?
   Our own order does not depend on it. Not collective. */
bool sy_loader_same_order(const sy_loader *loader, int64_t megatron_samples);

#ifdef __cplusplus
}
#endif
#endif
