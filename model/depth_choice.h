/* Which tokens a layer of Mixture-of-Depths takes: plain C in double. */
#ifndef SY_MODEL_DEPTH_CHOICE_H
#define SY_MODEL_DEPTH_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A micro-batch of B sequences of S tokens. Rows are the tokens that are taken, C of every
   sequence, in their order; -1 behind the last one of a sequence that has fewer. */
typedef struct sy_depth_choice {
    int32_t B, S, C;
    const uint8_t *routed;   /* [B S] NULL: 1 */
    const double *r, *logit; /* [B S] of the router, of the predictor */
    bool by_predictor;       /* evaluation; else C is given, and 1 .. S */
    bool *taken;             /* [B S] */
    int32_t *row, *row_of;   /* [B C], [B S]: token of a row, row of a token or -1 */
    int32_t *token_start;    /* [B S + 1], with token_row [B C]: the row of each token, if any */
    int32_t *token_row;
    uint8_t *row_routed;     /* [B C] */
    double *row_r, *token_r; /* [B C], [B S] r, 0 where there is no row */
    double loss;             /* sum of the predictor's cross-entropy over routed tokens */
    double *dlogit;          /* [B S] its gradient */
    double n_right;          /* routed tokens on which it agrees */
    int32_t *order;          /* [S] scratch */
} sy_depth_choice;

/* Fills taken, and C where the predictor chooses. Not collective. */
void sy_depth_choose(sy_depth_choice *c);
/* Then all the rest but loss, dlogit and n_right. Not collective. */
void sy_depth_place(sy_depth_choice *c);
/* What the predictor learns of that choice: loss, dlogit, n_right. Not collective. */
void sy_depth_judge(sy_depth_choice *c);

#ifdef __cplusplus
}
#endif
#endif
