#include "moe/experts_impl.h"

#include <stdio.h>

#include "core/span.h"

static const sy__experts_ops *kind_of(const sy_experts *x)
{
    return x->bottlenecks     ? &sy__bottleneck_experts
           : x->rank > 0      ? &sy__adapter_experts
           : x->width != NULL ? &sy__ragged_experts
                              : &sy__swiglu_experts;
}

int64_t sy_experts_inner(const sy_experts *x)
{
    return sy_act_parts(x->act) * x->ffn;
}

sy_status sy_experts_declare(sy_experts *x, const char *prefix, sy_params *params)
{
    return kind_of(x)->declare(x, prefix, params);
}

sy_status sy_experts_hidden(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                            const sy_tensor *rows, sy_tensor *h)
{
    sy_span_begin(SY_SPAN_PART, "experts", p->layer, -1);
    sy_status st = kind_of(x)->hidden(x, p, start, rows, h);
    sy_span_end();
    return st;
}

sy_status sy_experts_output(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                            const sy_tensor *h, sy_tensor *out)
{
    sy_span_begin(SY_SPAN_PART, "experts", p->layer, -1);
    sy_status st = kind_of(x)->output(x, p, start, h, out);
    sy_span_end();
    return st;
}

sy_status sy_experts_backward(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                              const sy_tensor *rows, const sy_tensor *h, const sy_tensor *dout,
                              const sy_tensor *weight, sy_tensor *drows, sy_tensor *dot)
{
    sy_span_begin(SY_SPAN_PART, "experts", p->layer, -1);
    sy_status st = kind_of(x)->backward(x, p, start, rows, h, dout, weight, drows, dot);
    sy_span_end();
    return st;
}

sy_param_spec sy__experts_param(const sy_experts *x, const char *prefix, const char *name,
                                int64_t rows, int64_t columns)
{
    sy_param_spec spec = {.n_dim = 3,
                          .shape_glb = {x->E, rows, columns},
                          .shard_by = SY_EP,
                          .shard_dim = 0,
                          .replicas = SY_EDP,
                          .init = SY_INIT_NORMAL,
                          .init_std = x->init_std,
                          .trainable = true,
                          .decay = true};
    snprintf(spec.name, sizeof spec.name, "%s/experts/%s", prefix, name);
    return spec;
}

void sy__experts_split(sy_param_spec *spec, const char *prefix, const char *first,
                       const char *second)
{
    spec->n_pieces = 2;
    spec->piece_dim = 1;
    spec->piece[0].extent = spec->piece[1].extent = spec->shape_glb[1] / 2;
    snprintf(spec->piece[0].name, sizeof spec->piece[0].name, "%s/experts/%s", prefix, first);
    snprintf(spec->piece[1].name, sizeof spec->piece[1].name, "%s/experts/%s", prefix, second);
}

sy_status sy__experts_gemm(sy_pass *p, sy_grouped_form form, const sy_tensor *a, const sy_tensor *b,
                           const sy_tensor *start, const sy_tensor *c)
{
    if (c->data == NULL) {
        return SY_OK;
    }
    return sy_grouped_gemm(p->stream,
                           &(sy_grouped_gemm_args){.a = *a,
                                                   .b = *b,
                                                   .c = *c,
                                                   .start = *start,
                                                   .form = form,
                                                   .beta = form == SY_GROUPED_TN ? 1 : 0});
}
