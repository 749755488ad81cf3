/* Two models side by side, a layer at a time: how far apart is what they say to random tokens?
   Neither is ever whole in memory: a layer's attention, a slice of its feed-forward part and a
   slice of the head are read when their turn comes, and what goes on from layer to layer waits on
   the host. A receipt's proof that a new model computes what an old one does. */
#ifndef SY_TRAIN_COMPARE_H
#define SY_TRAIN_COMPARE_H

#include "parallel/comm.h"
#include "train/train_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Elements [first, first + n) of the tensor of that name below /model, as `dtype`. Not collective.
 */
typedef sy_status sy_compare_read(void *self, const char *name, int64_t first, int64_t n,
                                  sy_dtype dtype, void *h_to);

typedef struct sy_compare_model {
    const sy_run_settings *settings;
    sy_compare_read *read;
    void *self;
} sy_compare_model;

enum { SY_COMPARE_COLUMNS = 512 };

typedef struct sy_compare_spec {
    sy_compare_model old, now; /* of one H and number of layers; what has no shape is as in `now`,
                                  whose vocabulary may be larger: what was added is left out */
    sy_comm *world;
    int32_t threads;        /* where the config says 0 */
    int32_t n_sequences, S; /* of each rank, drawn from the old vocabulary */
    uint64_t seed;
    const char *precision; /* device.precision */
    bool ratios;           /* measure them */
    float *wide;         /* [n_sequences * S, SY_COMPARE_COLUMNS] the first logits of `old`: kept by
                            a comparison in fp32, looked at by one in bf16; NULL: neither */
    int64_t slice_bytes; /* parameters of a feed-forward slice; 0: what attention leaves of
                            640 MiB */
} sy_compare_spec;

/* Over all ranks: the largest difference, and the same as a part of the largest value; not finite
   where a value is not. Ratios: of what a MoE layer of `now` makes of the input of the same, dense,
   layer of `old` to what that makes of it, <moe, dense> / <dense, dense> of every token and layer;
   beside it what the routers give: the sum of the chosen weights. Rounding: how far `old` itself is
   in bf16 from what it is in fp32, as a part of the largest logit. */
typedef struct sy_compare_gap {
    sy_dtype compute;
    double logits_abs, logits_rel, nll_abs, nll_rel, rounding;
    int64_t n_ratios;
    double ratio, ratio_min, ratio_max; /* mean, least, largest */
    double weight;                      /* mean */
    double ratio_off;                   /* largest |ratio - weight| of a token */
} sy_compare_gap;

/* Collective over spec->world. Errors are agreed upon; one in the midst of a pass ends the job. */
sy_status sy_compare_models(const sy_compare_spec *spec, sy_compare_gap *out);

#ifdef __cplusplus
}
#endif
#endif
