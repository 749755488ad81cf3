/* Models in and out of Hugging Face folders. Streams: no rank ever holds more than a few pieces of
   4 MiB, whatever the model's size; ranks share out the bytes. */
#ifndef SY_UPCYCLE_TRANSFER_H
#define SY_UPCYCLE_TRANSFER_H

#include "parallel/mesh.h"
#include "upcycle/hf.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A Hugging Face folder as a model of ours. */
typedef struct sy_hf_source sy_hf_source;

/* Read config.json, map the weights, and check every tensor's name, shape and type against the
   configuration. Collective over comm. yaml: see sy_hf_config_read. */
sy_status sy_hf_source_open(const char *folder, sy_comm *comm, sy_hf_source **out);
void sy_hf_source_close(sy_hf_source **source);
const char *sy_hf_source_yaml(const sy_hf_source *source);
sy_hf_arch sy_hf_source_arch(const sy_hf_source *source);

typedef struct sy_import_spec {
    sy_hf_source *source;
    const sy_model_config
        *model; /* the yaml's, resolved; seq_len and what has no shape may differ */
    const sy_moe_config *moe;
    const char *config_yaml; /* the complete configuration, for the checkpoint */
    const char *out;         /* path of the checkpoint */
    sy_mesh *mesh;
} sy_import_spec;
typedef struct sy_transfer_receipt {
    int64_t n_tensors, n_params, bytes; /* of the other side's file */
    int64_t n_rounded;                  /* values that the narrower type could not hold exactly */
    double largest_rounding;            /* relative, of those */
    double seconds;
} sy_transfer_receipt;
/* Write the checkpoint (kind model). Every tensor keeps its type, but the router, which is F32 at
   least. config.json and the tokenizer's files travel along as /tokenizer/<file>. Collective over
   mesh->io. Nothing stands under `out` after an error. */
sy_status sy_import(const sy_import_spec *spec, sy_transfer_receipt *receipt);

typedef struct sy_export_spec {
    const char *checkpoint; /* a file */
    const char *out;        /* a folder that does not exist */
    const sy_model_config *model;
    const sy_moe_config *moe;
    sy_hf_arch arch;
    sy_dtype dtype;          /* SY_N_DTYPES: as the checkpoint's embedding */
    int64_t max_shard_bytes; /* 0: 5e9 */
    sy_comm *comm;
} sy_export_spec;
/* Write the folder: config.json, generation_config.json, shards, the tokenizer's files. F32 comes
   from /optim/master where the checkpoint has it. Every checksum of what is read holds, or
   SY_ERR_DAMAGED. Collective over comm. Nothing stands under `out` after an error. */
sy_status sy_export(const sy_export_spec *spec, sy_transfer_receipt *receipt);

#ifdef __cplusplus
}
#endif
#endif
