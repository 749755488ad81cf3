/* An engine of one layer, filled with one layer after another. */
#ifndef SY_TRAIN_COMPARE_IMPL_H
#define SY_TRAIN_COMPARE_IMPL_H

#include "train/compare.h"
#include "train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy__stop { SY__STOP_ATTENTION, SY__STOP_FFN, SY__STOP_HEAD } sy__stop;

/* F and V are cut into slices: the output of the feed-forward part is the sum over those of F. What
   reaches beyond the end is zero. */
typedef struct sy__layer {
    sy_run_settings settings;
    sy_engine *engine;
    int64_t T, H;
    int64_t F, F_slice, F_shared, F_shared_slice, V_slice;
    int32_t n_slices; /* of the feed-forward part */
    void *h_buf;      /* [SY_PULL_BYTES] */
    void *h_raw;      /* [T, max(H, V_slice)] wide */
} sy__layer;

/* `moe`: the layer routes, and has next to no attention; else it is dense, and has a head.
   Collective over spec->world; errors are agreed upon. */
sy_status sy__layer_create(const sy_compare_spec *spec, bool moe, sy__layer *out);
void sy__layer_free(sy__layer *layer);

/* Fill in what a stop needs of layer `index` of a model. Not collective. */
sy_status sy__layer_fill(sy__layer *layer, const sy_compare_model *model, sy__stop stop,
                         int32_t index, int32_t slice);
/* h_y = stop(norm(h_x)), [T, H]; of the head a slice of logits [T, V_slice]. Collective as the
   model's sublayers are. */
sy_status sy__layer_run(sy__layer *layer, sy__stop stop, const sy_batch *batch, const double *h_x,
                        double *h_y);

#ifdef __cplusplus
}
#endif
#endif
