/* Models in and out of Hugging Face folders. Streams: no rank ever holds more than a few pieces of
   4 MiB, whatever the model's size; ranks share out the bytes. */
#ifndef SY_UPCYCLE_TRANSFER_H
#define SY_UPCYCLE_TRANSFER_H

#include "parallel/comm.h"
#include "upcycle/hf.h"
#include "upcycle/source.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Told by rank 0 now and then: bytes of its own share. */
typedef void sy_transfer_progress(void *self, int64_t done, int64_t total);

typedef struct sy_transfer_receipt {
    int64_t n_tensors, n_params, n_bytes; /* of the file that was written */
    sy_dtype dtype;                       /* of the embedding */
    int64_t n_rounded;                    /* values that the narrower type does not hold exactly */
    double largest_rounding;              /* relative, of those */
    double seconds;
} sy_transfer_receipt;

/* ---- in ---- */

typedef struct sy_import_spec {
    sy_source *source;            /* open, not bound */
    const sy_model_config *model; /* the yaml's, resolved; what has no shape may differ */
    int32_t vocab_size;           /* of the source, at most the model's; 0: the model's */
    const sy_moe_config *moe;
    const char *config_yaml; /* the complete configuration, for the checkpoint */
    const char *out;         /* path of the checkpoint */
    sy_comm *comm;
    sy_transfer_progress *progress; /* NULL: none */
    void *progress_self;
} sy_import_spec;

/* Check every tensor's name, shape and type, then write the checkpoint (kind model). Every tensor
   keeps its type. config.json and the tokenizer's files
   travel along as /tokenizer/<file>. Collective over comm. Nothing stands under `out` after an
   error. */
sy_status sy_import(const sy_import_spec *spec, sy_transfer_receipt *receipt);

/* ---- out ---- */

typedef struct sy_export_spec {
    const char *checkpoint; /* a file */
    const char *out;        /* a folder that does not exist */
    const sy_model_config *model;
    const sy_moe_config *moe;
    sy_hf_arch arch;
    sy_dtype dtype;          /* SY_N_DTYPES: each tensor as it is (F64: F32) */
    int64_t max_shard_bytes; /* 0: 5e9 */
    sy_comm *comm;
    sy_transfer_progress *progress;
    void *progress_self;
} sy_export_spec;

/* Write the folder: config.json, shards, the tokenizer's files. F32 comes from /optim/master where
   the checkpoint has it. Every checksum of what is read holds, or SY_ERR_DAMAGED. A value that the
   type cannot hold at all: SY_ERR_USAGE. Collective over comm. Nothing stands under `out` after an
   error. */
sy_status sy_export(const sy_export_spec *spec, sy_transfer_receipt *receipt);

#ifdef __cplusplus
}
#endif
#endif
