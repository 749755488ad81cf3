/* Evaluation: loss, perplexity and routing statistics over a data set. */
#ifndef SY_TRAIN_EVAL_H
#define SY_TRAIN_EVAL_H

#include "data/loader.h"
#include "train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The same on every rank. */
typedef struct sy_eval_result {
    int64_t tokens;       /* with a loss */
    double loss;          /* mean nll in nats */
    double drop_fraction; /* choices refused for capacity */
    bool stopped;         /* a rank was asked to stop: there are no figures */
} sy_eval_result;

typedef struct sy_eval_set {
    const char *name, *path;
    sy_loader *loader;
} sy_eval_set;

/* Open a set for sequential reading, dealt over the engine's ranks in global batches of
 * `sequences`. Collective: errors are agreed upon. */
sy_status sy_eval_set_open(sy_engine *engine, const sy_data_valid *from, int32_t micro_batch,
                           int32_t sequences, bool mask_documents, sy_eval_set *out);
void sy_eval_set_close(sy_eval_set *set);
/* Was this rank asked to stop? */
typedef bool sy_eval_stop(const void *self);

/* Run the first n_batches global batches (0: all). stop, where given (on all ranks or on none), is
   asked before each batch. Uses the engine's arenas and statistics. Collective over its world. */
sy_status sy_evaluate(sy_engine *engine, sy_eval_set *set, int64_t n_batches, sy_eval_stop *stop,
                      const void *stop_self, sy_eval_result *out);

#ifdef __cplusplus
}
#endif
#endif
