/* A list of layers as configurations write it: all, every:N (layers i with i mod N = N-1), from:N
   (layers N and later), or numbers from 0. */
#ifndef SY_MODEL_LAYER_LIST_H
#define SY_MODEL_LAYER_LIST_H

#include "core/config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The value of `key` is such a list; after parsing its section. SY_ERR_USAGE. Not collective. */
sy_status sy_layer_list_check(const sy_str_list *list, const char *key, const sy_config *config);
/* Of a model of n_layers: no number is beyond them. SY_ERR_USAGE. Not collective. */
sy_status sy_layer_list_fits(const sy_str_list *list, const char *key, int32_t n_layers,
                             const sy_config *config);
/* Layer i is in the list. Not collective. */
bool sy_layer_list_has(const sy_str_list *list, int32_t layer);

#ifdef __cplusplus
}
#endif
#endif
