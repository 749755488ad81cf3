/* A model in a file, under our names, whatever the file is: a checkpoint of ours, a Hugging Face
   folder, or either with a LoRA adapter merged into it. Read in parts; nobody holds it. What
   import, upcycle and merge take their values from. */
#ifndef SY_UPCYCLE_SOURCE_H
#define SY_UPCYCLE_SOURCE_H

#include "checkpoint/tokenizer_files.h"
#include "model/model_config.h"
#include "moe/moe_config.h"
#include "parallel/comm.h"
#include "parallel/param.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_source_tensor {
    const char *name; /* below /model: "layers/003/attn/q" */
    sy_dtype dtype;
    bool wide;    /* kept in fp32 (f64) in a bf16 model */
    sy_init init; /* of a blueprint: how a new model begins */
    double init_std;
    int64_t packed_columns; /* of a blueprint: NF4 rows of so many weights, U8; else 0 */
    int32_t n_dim;
    int64_t shape[SY_MAX_DIM], numel;
} sy_source_tensor;

typedef struct sy_source {
    const struct sy_source_vt *vt;
    char *path;       /* of the checkpoint file or the folder */
    char *base;       /* of an adapter: the model that it changes; else NULL */
    const char *form; /* "checkpoint", "LlamaForCausalLM", "a LoRA adapter" */
    char *yaml;       /* our configuration; a folder's has the sections model, moe and data */
    sy_source_tensor *tensor; /* [n_tensors] by name; there after sy_source_bind */
    int32_t n_tensors;
    int64_t step, tokens_seen; /* 0 of a folder */
    sy_tokenizer_files files;  /* what travels along */
    void *self;
} sy_source;

/* Open the file or folder and read its configuration. An adapter, which is a folder with an
   adapter_config.json, changes the model that its base_model_name_or_path names, or `base`, where
   one is given; others have no use for that. Collective over comm, which the source borrows. A path
   that is none of them: SY_ERR_USAGE. */
sy_status sy_source_open(const char *path, sy_comm *comm, sy_source **out);
sy_status sy_source_open_on(const char *path, const char *base, sy_comm *comm, sy_source **out);
/* List the tensors; each has the type and shape that the configuration (the yaml's, resolved; what
   has no shape may differ) asks for, none is missing, none is too many. Collective over comm.
   Errors name file and tensor: SY_ERR_USAGE, or SY_ERR_DAMAGED for a checkpoint. */
sy_status sy_source_bind(sy_source *source, const sy_model_config *model, const sy_moe_config *moe,
                         sy_comm *comm);
void sy_source_close(sy_source **source);

/* The largest rank of a LoRA adapter's changes to matrices of MLPs; 0: there are none, or it is no
   adapter. After bind. Not collective. */
int64_t sy_source_adapter_rank(const sy_source *source);
/* From here on the source shows the base's MLPs as they are, and beside each matrix
   "layers/003/mlp/gate" [F, H] its change as "gate_a" [rank, H] and "gate_b" [F, rank]; whatever is
   no MLP is the sum, as before. After bind. Requires rank to be at least that of the adapter; what
   is more is zero. SY_ERR_USAGE for what is no adapter, or one that replaces an MLP. Not
   collective. */
sy_status sy_source_keep_adapter(sy_source *source, int64_t rank);
/* What a training checkpoint keeps of the same parameters: the tensors below "optim/exp_avg",
   "optim/exp_avg_sq" or "optim/master", of which there may be none, under the parameters' names.
   Collective over comm, which it borrows. Requires a source that is a checkpoint. */
sy_status sy_source_open_tree(const sy_source *of, const char *tree, sy_comm *comm,
                              sy_source **out);
/* A counter of a checkpoint ("state/step"); *out stays where there is none, as in a folder. Not
   collective. */
sy_status sy_source_counter(const sy_source *of, const char *path, int64_t *out);

/* The tensor of that name, or -1. Not collective. */
int32_t sy_source_find(const sy_source *source, const char *name);
/* Elements [first, first + n) of a tensor in its own type: *h_out, either h_buf [SY_PULL_BYTES]
   filled in or memory that stays valid until the next call. Requires at most SY_PULL_BYTES.
   Not collective. */
sy_status sy_source_get(sy_source *source, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                        const void **h_out);
/* The same in another float type, any number, into h_to. Not collective. */
sy_status sy_source_read(sy_source *source, int32_t tensor, int64_t first, int64_t n,
                         sy_dtype dtype, void *h_to);

#ifdef __cplusplus
}
#endif
#endif
