/* How much routing has changed: a few sequences that stay the same for the whole run are routed
   every train.probe_every steps, in an evaluation pass, and the choices laid beside those of the
   time before. The earlier choices belong to the checkpoint. */
#ifndef SY_TRAIN_PROBE_H
#define SY_TRAIN_PROBE_H

#include "data/loader.h"
#include "train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SY_PROBE_TOKENS = 4096,    /* about so many tokens are followed, */
    SY_PROBE_CHOICES = 4 << 20 /* and so many choices in all layers */
};

typedef struct sy_probe {
    sy_engine *engine; /* borrowed, as is the loader */
    sy_loader *loader;
    int64_t T;           /* tokens, of the first sequences of the run's data */
    int32_t K, n_layers; /* slots of a token; layers that route */
    int64_t n_taken;     /* how often */
    int64_t ids_digest;  /* of the tokens that h_before was made of */
    int64_t *h_before;   /* [T, n_layers, K] expert + 1, 0: none */
    int64_t *h_now;      /* likewise */
    int32_t *h_chosen;   /* of one micro-batch */
    void *chosen, *kept; /* the same in device memory */
    double *overlap;     /* [n_layers] of the last time; NaN: there was none before */
} sy_probe;

/* *out stays NULL for a dense model, or where train.probe_every is 0. Not collective. */
sy_status sy_probe_create(sy_engine *engine, sy_loader *loader, sy_probe **out);
void sy_probe_destroy(sy_probe **probe);

/* Route the sequences and fill overlap: by layer, the share of the choices that the tokens made the
   time before too (Muennighoff et al. 2024, OLMoE, 5.1: router saturation, with the time before in
   place of the end of training). Engine statistics are overwritten, and what the loader prepared is
   dropped: between steps only. Collective over the engine's world; errors are agreed upon, but for
   those of a pass, which end the job. */
sy_status sy_probe_take(sy_probe *probe, int64_t step);

/* Tokens and slots that a configuration's probe has; false: it has none. Not collective. */
bool sy_probe_shape(const sy_run_settings *settings, int64_t *T, int32_t *n_layers, int32_t *K);
/* Emit what is persistent. Not collective. */
sy_status sy_probe_walk(sy_probe *probe, sy_emit *emit, void *to);
/* "state/memo/probe_<T>x<K>/<what>", of taken, ids, choices: what is followed otherwise has other
   names. Not collective. */
const char *sy_probe_dataset(int64_t T, int32_t K, const char *what, char *buf, size_t buf_bytes);

#ifdef __cplusplus
}
#endif
#endif
