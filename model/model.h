/* The decoder: embedding, blocks, final norm, head, and what predicts further tokens (model/mtp.h).
 * The feed-forward sublayer of each block is handed in, so it knows nothing of experts. */
#ifndef SY_MODEL_MODEL_H
#define SY_MODEL_MODEL_H

#include "model/block.h"
#include "model/mtp.h"
#include "model/rope.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_model {
    const sy_model_config *config; /* borrowed */
    int32_t n_layers, n_blocks;    /* with those of the modules of multi-token prediction, */
    sy_block *block;               /* [n_blocks] which stand behind the layers */
    double *share;                 /* [n_blocks] of a sequence's tokens that come to a block */
    sy_mtp *mtp;                   /* [n_blocks - n_layers] */
    sy_param *embed, *norm, *head; /* head is embed where tied */
} sy_model;

/* ffn [n], and extra [n], n = sy_model_blocks(config), with ops NULL where a layer has none (NULL:
 * nowhere): ownership moves to the model (also on failure). Not collective. */
sy_status sy_model_create(const sy_model_config *config, const sy_sublayer *ffn,
                          const sy_sublayer *extra, sy_model **out);
void sy_model_destroy(sy_model **model);
sy_status sy_model_declare(sy_model *model, sy_params *params);

/* What a forward leaves for its backward; one per micro-batch in flight, from p->host. */
typedef struct sy_model_saved sy_model_saved;

/* TRAIN, EVAL: nll of every token into p->nll, its sum into p->stats->nll_sum. TRAIN also computes
   the head's gradients (full logits never exist), so p->per_loss_token must be known. *saved NULL
   allowed for EVAL. Collective over the groups of the sublayers, also with T = 0. */
sy_status sy_model_forward(sy_model *model, sy_pass *p, sy_model_saved **saved);
sy_status sy_model_backward(sy_model *model, sy_pass *p, sy_model_saved *saved);
/* DECODE: logits [V] wide of the last of the T tokens (T = 0 on ranks that only serve experts:
 * logits are not written). Collective as above. */
sy_status sy_model_decode(sy_model *model, sy_pass *p, sy_tensor *logits);
/* Before the first step of a run that begins anew. Not collective. */
sy_status sy_model_begin(sy_model *model, const sy_run_begin *begin);
/* After the step's decision. Not collective. */
sy_status sy_model_end_step(sy_model *model, const sy_step_end *end);
/* State of the sublayers that is not a parameter, as a state owner (parallel/state.h). Not
 * collective. */
sy_status sy_model_walk(sy_model *model, sy_emit *emit, void *to);

#ifdef __cplusplus
}
#endif
#endif
