/* What is persistent, as fields that owners emit: global tensors by name and global index, the same
   names in the same order on every rank. All that a checkpoint knows. Nothing in it depends on how
   many ranks there are. */
#ifndef SY_PARALLEL_STATE_H
#define SY_PARALLEL_STATE_H

#include "parallel/mesh.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fields below this path are memories that a run may lose: what a file has of them and the state
   has not is left behind. */
#define SY_STATE_MEMO "state/memo/"

/* A part of a field that this rank holds, contiguous in memory AND in the row-major global tensor
   (so it is one range of the file). Every rank reads its parts; `write` is true on exactly one rank
   for each element. */
typedef struct sy_part {
    sy_box box;
    void *data; /* NULL where the field is pulled */
    bool write;
} sy_part;

/* Elements of a field that is made while it is saved (a conversion from another file), instead of
   lying in memory. Give the host bytes of elements [first, first + n) of the row-major global
   tensor: *h_out, either h_buf [SY_PULL_BYTES] filled in, or memory of the owner's that stays valid
   until the next call. Requires n elements of the field's dtype to be at most SY_PULL_BYTES. */
enum { SY_PULL_BYTES = 4 << 20 };
typedef sy_status sy_pull(void *self, int64_t first, int64_t n, void *h_buf, const void **h_out);

typedef struct sy_field {
    const char *name; /* path in the file below /: "model/layers/003/moe/experts/gate" */
    sy_dtype
        dtype; /* in memory and in a file written from it (readers convert between float types) */
    sy_device *dev; /* whose memory; NULL: host */
    int32_t n_dim, n_parts;
    int64_t shape_glb[SY_MAX_DIM];
    const sy_part *parts;
    /* Save only: the parts have no data, their elements are pulled. NULL: they lie in memory. */
    sy_pull *pull;
    void *pull_self;
    /* On load: read `prefer` where the file has it; where it has neither that nor `name`, read
     * `instead`. NULL: none. The same shape; a float type. */
    const char *prefer, *instead;
    bool optional; /* a load where the file lacks it leaves it as it is (e.g. moments when only
                      weights are wanted) */
} sy_field;

typedef sy_status sy_emit(void *to, const sy_field *field);
typedef struct sy_owner {
    const char *name;
    void *self;
    sy_status (*walk)(void *self, sy_emit *emit,
                      void *to);       /* the field and its parts live during the emit call only */
    sy_status (*restored)(void *self); /* (optional) after all fields were loaded */
} sy_owner;

/* A blob of bytes that travels along (tokenizer files): path "tokenizer/<file>". */
typedef struct sy_blob {
    const char *name;
    const void *bytes;
    int64_t n;
} sy_blob;

typedef struct sy_state {
    const sy_owner *owners;
    int32_t n_owners;
    int64_t step, tokens_seen;
    const char *kind;        /* "training" or "model" */
    const char *config_yaml; /* the complete configuration */
    const sy_blob *blobs;
    int32_t n_blobs;
    bool unsynced;         /* the file is read while it goes to the disk: see sy_checkpoint_sync */
    int64_t receipt_bytes; /* room kept for "x/receipt", a text that is known later; 0: none */
} sy_state;

/* Cut the flat row-major range [begin, end) of a tensor into boxes, each contiguous; at most 2 *
 * n_dim - 1. Returns how many. Not collective. */
int32_t sy_boxes_from_range(int32_t n_dim, const int64_t *shape, int64_t begin, int64_t end,
                            sy_box *out);
/* Row-major offset of a box's first element, and its number of elements. Not collective. */
int64_t sy_box_offset(const sy_box *box, const int64_t *shape_glb);
int64_t sy_box_numel(const sy_box *box);

#ifdef __cplusplus
}
#endif
#endif
