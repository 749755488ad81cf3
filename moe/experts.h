/* Expert kinds: what runs on the rows of a rank's experts. A kind is one file in moe/experts/. */
#ifndef SY_MOE_EXPERTS_H
#define SY_MOE_EXPERTS_H

#include "moe/base.h"
#include "moe/moe_config.h"
#include "model/pass.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_experts {
    int64_t E, hidden, ffn; /* ffn = F_e */
    int64_t rank;           /* r of the deltas on a base; 0: every expert has matrices of its own */
    bool bottlenecks; /* r is the width of adapters, which have no base here: ffn, once declared */
    const int32_t *width; /* [E] units of each expert, F_e the most; NULL: all have F_e. Borrowed */
    double mean_width;
    double init_std, down_std;
    sy_act act;
    /* rank 0, bottlenecks. [E, P F_e, H] (file: gate, up, or what act has), [E, H, F_e]; sharded
       over ep */
    sy_param *gate_up, *down;
    /* Else. The base, whole on every rank; the deltas B A, sharded over ep: in_a [E, 2r, H]
       (file: gate_a, up_a), gate_b and up_b [E, F_e, r], down_a [E, r, F_e], down_b [E, H, r] */
    sy_base base;
    sy_param *in_a, *gate_b, *up_b, *down_a, *down_b;
} sy_experts;

/* Columns of what sy_experts_hidden gives, once they are declared. Not collective. */
int64_t sy_experts_inner(const sy_experts *x);

/* Declare "<prefix>/experts/{gate,up,down}", or "<prefix>/base/{gate,up,down}" and
   "<prefix>/experts/{gate,up,down}_{a,b}". Not collective. */
sy_status sy_experts_declare(sy_experts *x, const char *prefix, sy_params *params);
/* h [R, inner], 2F_e = rows W_gate_up^T, per expert; start [E_loc+1]. What
 * backward needs, next to the rows. Not collective, all three. */
sy_status sy_experts_hidden(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                            const sy_tensor *rows, sy_tensor *h);
/* out [R, H] = swiglu(h) W_down^T. */
sy_status sy_experts_output(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                            const sy_tensor *h, sy_tensor *out);
/* dout [R, H]: gradient of the layer's output at the token of each row (not weighted); weight [R,
   1] wide. drows [R, H] = gradient of rows; dot [R, 1] wide = <dout, out> per row, the router
   signal G (docs/NUMERICS.md 2); gradients of the weights +=. */
sy_status sy_experts_backward(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                              const sy_tensor *rows, const sy_tensor *h, const sy_tensor *dout,
                              const sy_tensor *weight, sy_tensor *drows, sy_tensor *dot);

#ifdef __cplusplus
}
#endif
#endif
