/* Whom the choices of an evaluation went to: the experts, gathered under moe.expert_labels where
   there are any. After Branch-Train-MiX a label is a source, so this tells which text goes to which
   source's experts. Not collective: every rank has the reduced loads. */
#ifndef SY_TRAIN_ROUTED_H
#define SY_TRAIN_ROUTED_H

#include "train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Groups of experts: the labels, or without them every expert by itself. 0: a dense model. */
int32_t sy_routed_groups(const sy_run_settings *settings);
/* The name of one: its label, or the expert's number. Returns label or buf [SY_EXPERT_LABEL + 1].
 */
const char *sy_routed_name(const sy_run_settings *settings, int32_t group, char *buf);
/* Shares [groups] of the choices in a layer, or in all layers together (layer -1), of what the
   engine evaluated last. All 0 where nothing was routed. */
void sy_routed_shares(const sy_engine *engine, int32_t layer, double *share);

#ifdef __cplusplus
}
#endif
#endif
