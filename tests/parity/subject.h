/* Our side of a comparison: a Hugging Face folder imported, loaded by the trainer, and run on a
   fixture's tokens. Collective over the world, all of it. */
#ifndef SY_TESTS_PARITY_SUBJECT_H
#define SY_TESTS_PARITY_SUBJECT_H

#include "tests/parity/fixture.h"
#include "train/trainer.h"
#include "upcycle/transfer.h"

typedef struct subject_spec {
    const fixture *fixture;
    sy_comm *world;
    const char *scratch; /* an existing folder, the same on every rank */
    const char *backend, *precision;
    int32_t micro_batch;
} subject_spec;

typedef struct subject {
    subject_spec spec;
    sy_run_settings settings;
    sy_hf_arch arch;
    sy_hf_map map;
    char checkpoint[FIXTURE_PATH], tokens[FIXTURE_PATH]; /* in scratch */
    sy_trainer *trainer;
} subject;

/* Experts are shared out over all ranks where their number allows, else over none.
   Import, write the tokens so that step s of the trainer gets batch s, create the trainer, load. */
sy_status subject_open(const subject_spec *spec, subject *out);
void subject_close(subject *s);

/* Logits [B, S, V] of batch 0, each position's as the last one of its prefix, in an evaluation
   engine of its own. One rank. */
sy_status subject_logits(const subject *s, double *logits);
/* The next step up to its gradients; sy_trainer_update finishes it. grad [map.n_our]: the whole
   gradient of each of our tensors, in order of the map, freed with sy_free. */
sy_status subject_gradients(subject *s, double **grad, sy_step_result *step);

#endif
