/* A step rehearsed: the trainer's own code on a dry device and a network that is not here, at a
   machine's prices. What it would hold, move and take comes from that one run, not from formulas
   beside the code. */
#ifndef SY_TRAIN_REHEARSAL_H
#define SY_TRAIN_REHEARSAL_H

#include "train/cost.h"
#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_rehearsal_spec {
    const sy_run_settings *settings; /* ep, micro_batch, .. as they are in it */
    const sy_machine *machine;
    int32_t ranks;
    double imbalance; /* rows of the most loaded rank over the mean; 1: balanced */
} sy_rehearsal_spec;

/* Sums over one step of one rank. */
typedef struct sy_cost_sum {
    double calls, flops, bytes, seconds;
} sy_cost_sum;

enum { SY_MAX_TRAFFIC = 24 };
typedef struct sy_traffic_sum {
    sy_traffic traffic;                 /* its bytes are those of one call of many */
    double calls, bytes, sent, seconds; /* sent: what leaves the rank for others */
} sy_traffic_sum;

typedef struct sy_rehearsal {
    int64_t params, active_params, mtp_params, tokens; /* tokens: of a step, over all ranks */
    double flops_per_token;
    int32_t rounds;                              /* micro-batches of a rank in a step */
    int64_t memory[SY_N_MEM_TAGS], memory_total; /* of the arenas and parameters of a rank */
    double step_s, dispatch_s, experts_s, combine_s;
    sy_step_times time;
    double exchange_s, exposed_s; /* all collectives; of them, those that computing waits for */
    double rows_waited_s;         /* the same of rows that travel on a stream of their own */
    sy_cost_sum cost[2][SY_N_COSTS];
    sy_traffic_sum traffic[SY_MAX_TRAFFIC];
    int32_t n_traffic;
} sy_rehearsal;

/* Not collective. ep that does not divide ranks or experts: SY_ERR_USAGE. */
sy_status sy_rehearse(const sy_rehearsal_spec *spec, sy_rehearsal *out);

/* Tokens per second, and model FLOPs over the peak of all ranks. Not collective. */
double sy_rehearsal_rate(const sy_rehearsal *r);
double sy_rehearsal_mfu(const sy_rehearsal *r, const sy_rehearsal_spec *spec);

#ifdef __cplusplus
}
#endif
#endif
