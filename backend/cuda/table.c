/* The table of the cuda backend: an op that is not named here is lacking. */
#include "backend/cuda/cuda_impl.h"

#define SLOT(op) .op = sy__cuda_##op,
const sy_ops sy__cuda_ops = {
    SLOT(fill) SLOT(cast) SLOT(add) SLOT(scale) SLOT(add_bias) SLOT(column_sum) SLOT(sum)
        SLOT(sum_squares) SLOT(row_squares) SLOT(jitter) SLOT(gate) SLOT(gate_backward) SLOT(gemm)
            SLOT(grouped_gemm) SLOT(embed) SLOT(embed_backward) SLOT(rmsnorm) SLOT(rmsnorm_backward)
                SLOT(rope) SLOT(attention) SLOT(attention_backward) SLOT(swiglu)
                    SLOT(swiglu_backward) SLOT(dequantize_nf4) SLOT(activation)
                        SLOT(activation_backward) SLOT(xent) SLOT(gather_rows) SLOT(combine_rows)
                            SLOT(router_scores) SLOT(topk) SLOT(capacity) SLOT(topk_weigh)
                                SLOT(topk_backward) SLOT(share_kept) SLOT(share_kept_backward)
                                    SLOT(expert_count) SLOT(router_stats) SLOT(balance_loss)
                                        SLOT(group_loss) SLOT(plan_rows) SLOT(plan_receive)
                                            SLOT(adamw) SLOT(adafactor_sums) SLOT(adafactor_moments)
                                                SLOT(adafactor_squares) SLOT(adafactor)};
