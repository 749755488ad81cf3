/* The tensors that a configuration asks for, and a checkpoint made of them: each piece of each
   tensor is made when its turn comes, by the rank that writes it. */
#ifndef SY_UPCYCLE_BLUEPRINT_H
#define SY_UPCYCLE_BLUEPRINT_H

#include "model/model.h"
#include "upcycle/source.h"
#include "upcycle/transfer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* By name. dtype is for the owner to set (F32 at first). */
typedef struct sy_blueprint {
    sy_source_tensor *tensor;
    int32_t n;
    sy_model *model; /* whose parameters have the names */
    sy_params *params;
} sy_blueprint;

/* Not collective. */
sy_status sy_blueprint_create(const sy_model_config *model, const sy_moe_config *moe,
                              sy_blueprint *out);
/* The tensors alone that are trained where these patterns are frozen (sy_params_freeze): what has
   moments. Not collective. */
sy_status sy_blueprint_create_trained(const sy_model_config *model, const sy_moe_config *moe,
                                      const char *const *freeze, int32_t n_freeze,
                                      sy_blueprint *out);
void sy_blueprint_free(sy_blueprint *plan);
/* The tensor of that name, or -1. Not collective. */
int32_t sy_blueprint_find(const sy_blueprint *plan, const char *name);

/* Make elements [first, first + n) of a tensor, in its type: *h_out, either h_buf [SY_PULL_BYTES]
   filled in or memory that stays valid until the next call. */
typedef sy_status sy_make(void *self, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                          const void **h_out);

typedef struct sy_build_tree {
    const char *name; /* "model", "optim/exp_avg" */
    const sy_blueprint *plan;
    sy_make *make;
    void *self;
} sy_build_tree;

typedef struct sy_build_spec {
    const char *kind;          /* of the checkpoint; NULL: "model" */
    const sy_build_tree *tree; /* the model's first, up to 4 */
    int32_t n_trees;
    const sy_owner *counters; /* of kind training; NULL: none */
    const char *out, *config_yaml;
    int64_t step, tokens_seen;
    const sy_tokenizer_files *files;
    bool unsynced;         /* see sy_state */
    int64_t receipt_bytes; /* room for sy_checkpoint_write_receipt; 0: none */
    sy_comm *comm;
    sy_transfer_progress *progress; /* NULL: none */
    void *progress_self;
} sy_build_spec;
/* Write the checkpoint. The ranks share out the bytes; each makes what it writes.
   Collective over comm. Nothing stands under `out` after an error. */
sy_status sy_build(const sy_build_spec *spec, sy_transfer_receipt *receipt);

#ifdef __cplusplus
}
#endif
#endif
