/* safetensors files: the tensors of a folder (one file, or shards with an index) as memory-mapped
   bytes that were checked before anybody touches them, and a writer whose folder appears under its
   final name whole or not at all. Knows no model. Format: docs/FORMATS.md. */
#ifndef SY_CHECKPOINT_SAFETENSORS_H
#define SY_CHECKPOINT_SAFETENSORS_H

#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- reading ---- */

typedef struct sy_st_tensor {
    const char *name;
    const char *type_name; /* as the file has it: "BF16" */
    sy_dtype dtype;        /* SY_N_DTYPES: one that no tensor of ours has (F8_E4M3, I8, ...) */
    int32_t n_dim;
    const int64_t *shape;
    const void *data; /* mapped, not aligned; valid until the set is closed */
    int64_t bytes;
    const char *file; /* path, for messages */
} sy_st_tensor;

typedef struct sy_st_set {
    sy_st_tensor *tensor; /* [n] by name */
    int64_t n;
    int64_t bytes; /* of all tensors */
    void *self;    /* the mapping, names, shapes */
} sy_st_set;

/* Open a folder (by its index where it has one, else `model.safetensors`, else the only
   *.safetensors in it) or one file. Not collective. Whatever the format forbids, a shard that is
   missing, a tensor that the index places in a file that lacks it, or a name twice is SY_ERR_USAGE
   naming file and tensor; a tensor that the index does not list is a warning. The files must not be
   changed while the set is open. */
sy_status sy_st_open(const char *path, sy_st_set **out);
/* One file whose bytes lie in memory and stay there while the set is open: what sy_st_open does
   with a file that it mapped. path is for messages. Not collective. */
sy_status sy_st_parse(const char *path, const void *bytes, int64_t n_bytes, sy_st_set **out);
void sy_st_close(sy_st_set **set);
/* NULL where there is none of that name. Not collective. */
const sy_st_tensor *sy_st_find(const sy_st_set *set, const char *name);

/* ---- writing ---- */

typedef struct sy_st_spec {
    const char *name;
    sy_dtype dtype;
    int32_t n_dim;
    int64_t shape[SY_MAX_DIM];
} sy_st_spec;

typedef struct sy_st_writer sy_st_writer;

/* Begin a folder: rank 0 makes <parent>/.<name>.tmp (one that was left over is removed first) with
   every shard at its full size and its header in it, and the index where there are several. The
   layout follows from the specs alone: shards filled in the order given, each up to
   max_shard_bytes (0: 5e9) unless one tensor is larger; within a shard the widest types first, then
   by name. Collective over comm (borrowed). Something of that name exists, or the folder cannot be
   made there: SY_ERR_USAGE; no room: SY_ERR_IO. The specs are copied, and the same on all ranks. */
sy_status sy_st_writer_create(const char *folder, const sy_st_spec *specs, int64_t n,
                              int64_t max_shard_bytes, sy_comm *comm, sy_st_writer **out);
/* n_bytes of tensor `index` (as in specs) from its byte `first`. Not collective; any rank, any
   order, each byte once. */
sy_status sy_st_write(sy_st_writer *writer, int64_t index, int64_t first, const void *bytes,
                      int64_t n_bytes);
/* A whole file beside the shards: config.json. Not collective; one rank. The name has no '/'. */
sy_status sy_st_write_file(sy_st_writer *writer, const char *name, const void *bytes,
                           int64_t n_bytes);
/* Sync all, check that every byte of every tensor was written once, and give the folder its name.
   Collective over the comm. */
sy_status sy_st_writer_publish(sy_st_writer *writer);
/* Also removes what was not published. Collective over the comm where it was not published. */
void sy_st_writer_destroy(sy_st_writer **writer);

#ifdef __cplusplus
}
#endif
#endif
