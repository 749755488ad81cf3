/* What a kind of experts has to offer, see moe/experts.h, and what the kinds share. */
#ifndef SY_MOE_EXPERTS_IMPL_H
#define SY_MOE_EXPERTS_IMPL_H

#include "moe/experts.h"

typedef struct sy__experts_ops {
    sy_status (*declare)(sy_experts *x, const char *prefix, sy_params *params);
    sy_status (*hidden)(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                        const sy_tensor *rows, sy_tensor *h);
    sy_status (*output)(const sy_experts *x, sy_pass *p, const sy_tensor *start, const sy_tensor *h,
                        sy_tensor *out);
    sy_status (*backward)(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                          const sy_tensor *rows, const sy_tensor *h, const sy_tensor *dout,
                          const sy_tensor *weight, sy_tensor *drows, sy_tensor *dot);
} sy__experts_ops;

extern const sy__experts_ops sy__swiglu_experts, sy__adapter_experts, sy__ragged_experts,
    sy__bottleneck_experts;

/* Of experts that are MLPs of their own, by x->gate_up, act and down. */
sy_status sy__mlps_hidden(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                          const sy_tensor *rows, sy_tensor *h);
sy_status sy__mlps_output(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                          const sy_tensor *h, sy_tensor *out);
sy_status sy__mlps_backward(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                            const sy_tensor *rows, const sy_tensor *h, const sy_tensor *dout,
                            const sy_tensor *weight, sy_tensor *drows, sy_tensor *dot);

/* A tensor with one matrix [rows, columns] per expert, sharded over ep; its one piece is itself. */
sy_param_spec sy__experts_param(const sy_experts *x, const char *prefix, const char *name,
                                int64_t rows, int64_t columns);
/* The tensor's rows are two pieces of equal size. */
void sy__experts_split(sy_param_spec *spec, const char *prefix, const char *first,
                       const char *second);
/* c = or += a product per expert; nothing where c has no data (frozen). See
 * sy_grouped_gemm_args. */
sy_status sy__experts_gemm(sy_pass *p, sy_grouped_form form, const sy_tensor *a, const sy_tensor *b,
                           const sy_tensor *start, const sy_tensor *c);

#endif
