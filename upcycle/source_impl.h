/* The kinds of sources: one file each. */
#ifndef SY_UPCYCLE_SOURCE_IMPL_H
#define SY_UPCYCLE_SOURCE_IMPL_H

#include "upcycle/source.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sy_source_vt {
    /* Fill form, yaml, files, step; self. Collective. */
    sy_status (*open)(sy_source *source, sy_comm *comm);
    /* Fill tensor and n_tensors. Collective. */
    sy_status (*bind)(sy_source *source, const sy_model_config *model, const sy_moe_config *moe,
                      sy_comm *comm);
    sy_status (*get)(sy_source *source, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                     const void **h_out);
    sy_status (*read)(sy_source *source, int32_t tensor, int64_t first, int64_t n, sy_dtype dtype,
                      void *h_to);
    void (*close)(sy_source *source);
};

extern const struct sy_source_vt sy__source_checkpoint, sy__source_hf, sy__source_lora;

/* folder/name, at most 16 MiB of text, which rank 0 reads. *path and *json are freed with sy_free,
   after an error too. Collective over comm. */
sy_status sy__source_json(const char *folder, const char *name, sy_comm *comm, char **path,
                          char **json);

/* Are the tensors of a checkpoint those that a configuration asks for? SY_ERR_DAMAGED names the
   first that is missing, wrong or one too many. Fills `wide`. Not collective. */
sy_status sy__source_check(sy_source *source, const sy_model_config *model,
                           const sy_moe_config *moe);

/* numel from shape. Not collective. */
void sy__source_count(sy_source_tensor *tensor);

/* "[12, 300]". Returns buf. Not collective. */
const char *sy__shape_text(int32_t n_dim, const int64_t *shape, char *buf, size_t buf_bytes);

#ifdef __cplusplus
}
#endif
#endif
