/* What is predicted from what, where it is not simply the next token: prefix language modelling,
   and the mixture of denoisers UL2 (Tay et al. 2022, arXiv 2205.05131) as OpenMoE trained a decoder
   with it (Xue et al. 2024, arXiv 2402.01739). Attention stays causal; inputs come first, then the
   targets, which alone have a loss. */
#ifndef SY_DATA_OBJECTIVE_H
#define SY_DATA_OBJECTIVE_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_objective {
    SY_OBJECTIVE_CAUSAL,
    SY_OBJECTIVE_PREFIX_LM, /* the rest of a sequence from a beginning of random length */
    SY_OBJECTIVE_UL2 /* half of the sequences so, half with spans of them replaced by sentinels,
                        which the targets repeat before what they stand for (T5) */
} sy_objective;

enum { SY_MODE_NLU, SY_MODE_NLG, SY_MODE_S2S, SY_N_MODES };

typedef struct sy_objective_spec {
    sy_objective objective;
    int32_t S;
    int32_t sentinel_id, n_sentinels; /* span i is sentinel_id - i */
    int32_t mode_id[SY_N_MODES];      /* put before the inputs; -1: none */
    int32_t eod;                      /* ends targets of spans; -1: none */
} sy_objective_spec;

typedef struct sy_objective_maker sy_objective_maker;

/* Not collective. */
sy_status sy_objective_create(const sy_objective_spec *spec, sy_objective_maker **out);
void sy_objective_destroy(sy_objective_maker **maker);

/* The sequence as the model sees it. */
typedef struct sy_objective_out {
    int32_t *ids, *targets, *pos; /* [S]; target -1: no loss */
    uint8_t *routed;              /* [S] 0: padding */
} sy_objective_out;
typedef struct sy_objective_counts {
    int32_t n_loss, n_routed;
} sy_objective_counts;

/* Sequence k of the order, which is tokens [S + 1] of text; of them as many are used as fit. A
   function of (seed, k) and the tokens alone. Not collective; one thread at a time. */
sy_objective_counts sy_objective_make(sy_objective_maker *maker, uint64_t seed, int64_t k,
                                      const int32_t *tokens, const sy_objective_out *out);

#ifdef __cplusplus
}
#endif
#endif
