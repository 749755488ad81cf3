/* Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, 2.2): D modules behind the last block, of
   which module k = 1 .. D predicts token i+1+k of each sequence from what is known at token i:
   h^0 is the model's last hidden state behind its final norm, and

     x = M [norm(embed(t_{i+k})); norm(h^{k-1}_i)],  y = block(x),  h^k = norm(y),  logits =
   head(h^k)

   Embedding and head are the model's own; the block is made like the last one and is layer L+k-1
   to whoever counts layers. The order of the two halves is that of DeepSeek's weights (the report
   has them the other way round). Module k adds coeff / D * sum(nll) / n to the loss, n the loss
   tokens of the model itself, so that tokens without a target weigh nothing. The last k tokens of a
   sequence, or of a document where attention stays inside it, have none: they are padding to the
   module. Only training runs the modules. */
#ifndef SY_MODEL_MTP_H
#define SY_MODEL_MTP_H

#include "core/batch.h"
#include "model/block.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_mtp {
    sy_block *block;                                  /* the model's */
    sy_param *embed_norm, *hidden_norm, *proj, *norm; /* [H], [H], [H, 2H], [H] */
} sy_mtp;

struct sy_model;

/* Declare module k's parameters, its block's among them. Not collective. */
sy_status sy_mtp_declare(struct sy_model *model, int32_t k, sy_params *params);

/* The tokens as module k sees them, [T] each. Of host arrays alone. Not collective. */
typedef struct sy_mtp_batch {
    int32_t *ids, *targets; /* t_{i+k}; t_{i+1+k}, -1: none */
    float *loss_weight;     /* 0 where there is no target */
    uint8_t *routed;        /* 0: padding to the module */
    int64_t n_aimed, n_routed;
} sy_mtp_batch;
void sy_mtp_shift(const sy_batch *batch, int32_t k, sy_mtp_batch *out);

/* What the modules leave for backward, from p->host. */
typedef struct sy_mtp_saved sy_mtp_saved;
/* y [T, H]: the last block's output; it stays valid until backward. Losses into p->stats->mtp, the
 * head's gradients +=. Collective as the blocks' sublayers are. */
sy_status sy_mtp_forward(struct sy_model *model, sy_pass *p, const sy_tensor *y,
                         sy_mtp_saved **saved);
/* g [T, H] += the gradient of y. Collective likewise. */
sy_status sy_mtp_backward(struct sy_model *model, sy_pass *p, sy_mtp_saved *saved,
                          const sy_tensor *y, sy_tensor *g);

#ifdef __cplusplus
}
#endif
#endif
