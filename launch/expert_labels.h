/* What the experts of a merged model are called: after the models they were. */
#ifndef SY_LAUNCH_EXPERT_LABELS_H
#define SY_LAUNCH_EXPERT_LABELS_H

#include "launch/grow.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Derive moe.expert_labels from the first n sources: run.name, or where there is none the last part
   of the path [n] as the user gave it; letters that a label may not have become '_', and the second
   of two alike ends with -2. Not collective. */
sy_status sy_grow_label_experts(sy_grow *g, const char *const *path, int32_t n);

#ifdef __cplusplus
}
#endif
#endif
