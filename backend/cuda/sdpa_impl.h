/* Attention as a graph of cuDNN's: what tells two graphs apart, and a plan made of one. */
#ifndef SY_BACKEND_CUDA_SDPA_IMPL_H
#define SY_BACKEND_CUDA_SDPA_IMPL_H

#include "backend/cuda/cudnn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What of a graph has an address. */
typedef enum sy__sdpa_id {
    SY__SDPA_Q,
    SY__SDPA_K,
    SY__SDPA_V,
    SY__SDPA_O,
    SY__SDPA_LSE,
    SY__SDPA_DOUT,
    SY__SDPA_DQ,
    SY__SDPA_DK,
    SY__SDPA_DV,
    SY__SDPA_OPERANDS, /* so many are the op's */
    SY__SDPA_SCALE = SY__SDPA_OPERANDS,
    SY__SDPA_HIDDEN, /* the score of a key that is not seen: minus infinity */
    SY__SDPA_ONE,
    SY__SDPA_DELTA,  /* [B, n_heads, S] fp32, <dout, o> of each query */
    SY__SDPA_DQ_SUM, /* [B, n_heads, S, D] fp32 */
    SY__SDPA_IDS
} sy__sdpa_id;

/* What tells attentions apart. Compared as bytes: no padding. */
typedef struct sy__sdpa_form {
    int64_t B, S, n_heads, n_kv, D, D_v;
    int64_t row[SY__SDPA_OPERANDS], head[SY__SDPA_OPERANDS]; /* strides, in elements */
    int64_t backward;
} sy__sdpa_form;

enum { SY__SDPA_DESCRIPTORS = 256 };
typedef struct sy__sdpa_plan {
    sy__sdpa_form form;
    void *desc[SY__SDPA_DESCRIPTORS]; /* what it is made of */
    int32_t n_desc;
    void *plan;              /* NULL: cuDNN declines */
    int64_t workspace_bytes; /* that cuDNN wants for itself, even where that is too much */
} sy__sdpa_plan;

enum { SY__SDPA_OPS = 32 };
/* A plan in the making. Once cuDNN has declined one thing, nothing more is asked of it. */
typedef struct sy__sdpa_builder {
    const sy_cudnn *lib;
    sy__sdpa_plan *out;
    void *op[SY__SDPA_OPS];
    int64_t n_ops, n_virtual;
    bool declined;
} sy__sdpa_builder;

/* Descriptors (sdpa_desc.c): made, which the plan keeps; filled; closed, when they can be used; and
   asked: the number of elements that are there, at most room of them now in elements. */
void *sy__desc_create(sy__sdpa_builder *b, sy_cudnn_kind kind);
void sy__desc_set(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute, sy_cudnn_of of,
                  int64_t count, const void *elements);
void sy__desc_set_int(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute, sy_cudnn_of of,
                      int value);
void sy__desc_set_int64(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute,
                        int64_t value);
void sy__desc_set_true(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute);
void sy__desc_set_desc(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute, void *value);
void sy__desc_finish(sy__sdpa_builder *b, void *desc);
int64_t sy__desc_get(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute, sy_cudnn_of of,
                     int64_t room, void *elements);

/* The graph of b->out->form (sdpa_graph.c). */
void *sy__sdpa_graph(sy__sdpa_builder *b, void *handle);

/* (sdpa_plan.c) Build a plan for out->form that gives the same bits for the same operands and wants
   no more than room_bytes of workspace; out->plan stays NULL where the library has none. */
void sy__sdpa_build(const sy_cudnn *lib, void *handle, int64_t room_bytes, sy__sdpa_plan *out);
/* Requires that no execution of it is under way. */
void sy__sdpa_free(const sy_cudnn *lib, sy__sdpa_plan *plan);

#ifdef __cplusplus
}
#endif
#endif
