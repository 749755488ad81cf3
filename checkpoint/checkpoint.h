/* Checkpoints: one HDF5 file, independent of layout (docs/INTERFACES.md section 5,
   docs/FORMATS.md). Saved by all ranks of a mesh: rank 0 makes the skeleton and broadcasts where
   each dataset's bytes lie; every rank writes its ranges at their offsets, hashing as it goes; rank
   0 adds the integrity table and `complete`, closes, syncs and renames. A file under its final name
   is whole. */
#ifndef SY_CHECKPOINT_CHECKPOINT_H
#define SY_CHECKPOINT_CHECKPOINT_H

#include "parallel/state.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Write state as `path` (folder/step_00000010.h5) by way of folder/.step_00000010.h5.tmp.
   Collective over io (host memory). Requires that the work on device fields has been waited for. On
   failure what stood under `path` before, if anything, still stands there, the temporary file is
   removed, and every rank returns the same status (SY_ERR_IO where the disk is to blame). Only
   where the folder's own sync fails does the new file, whole, already stand under `path`. */
sy_status sy_checkpoint_save(const char *path, const sy_state *state, sy_comm *io);

/* SY_ERR_USAGE where SY_CHECKPOINT_IO names no way to write, so that it shows before the first
   save. Not collective. */
sy_status sy_checkpoint_io_check(void);

/* What is wanted of a load. */
typedef enum sy_load_what {
    SY_LOAD_ALL,
    SY_LOAD_MODEL, /* fields below model/ alone; the others stay as they are */
    SY_LOAD_PART   /* the fields of state, whatever else the file holds */
} sy_load_what;

/* Read the fields of state from a file of any layout and any float types, verifying the integrity
   pieces that are read. Collective over io (host memory). A damaged or incomplete file:
   SY_ERR_DAMAGED naming dataset and reason; a field that is missing, one too many, or of another
   shape: SY_ERR_USAGE if the file is whole (another model). Owners' `restored` is called at the
   end. Fields may be half loaded after an error. */
sy_status sy_checkpoint_load(const char *path, const sy_state *state, sy_load_what what,
                             sy_comm *io);

/* What a file says about itself. */
typedef struct sy_checkpoint_entry {
    char *path;
    sy_dtype dtype;
    int32_t n_dim;
    int64_t shape[SY_MAX_DIM];
} sy_checkpoint_entry;
typedef struct sy_checkpoint_info {
    char *kind, *config_yaml, *producer, *created;
    int64_t step, tokens_seen;
    sy_checkpoint_entry *entry; /* every dataset but the integrity tables, sorted by path */
    int32_t n_entries;
} sy_checkpoint_info;

/* Open, check format, version and `complete`, read attributes and list datasets. Not collective:
   rank 0 calls it and broadcasts what others need. A missing path: SY_ERR_USAGE; empty, not HDF5,
   an unknown format_version, not complete: SY_ERR_DAMAGED. Refuses links, external storage, filters
   and sizes that do not fit the file before anything is read. */
sy_status sy_checkpoint_info_read(const char *path, sy_checkpoint_info *out);
void sy_checkpoint_info_free(sy_checkpoint_info *info);

/* Every checksum of the file: of the pieces, the digest over table, names, shapes, types and
   attributes, and, where no group /x was added, of every byte that lies between the datasets.
   Collective over comm (pieces are shared out), or alone (comm NULL). A failure is SY_ERR_DAMAGED
   naming the first dataset and piece; n_bytes (may be NULL) is what was read. */
sy_status sy_checkpoint_verify(const char *path, sy_comm *comm, int64_t *n_bytes);

/* Bytes of a blob "tokenizer/<name>"; freed with sy_free; *out NULL where the file has none. Not
 * collective. */
sy_status sy_checkpoint_read_blob(const char *path, const char *name, void **out, int64_t *n_bytes);

/* Bring a file that was saved with sy_state.unsynced to the disk, every rank what it wrote: it can
   be read and judged meanwhile, and is to get its name only then. Errors of writing show here at
   the latest. Collective over io. */
sy_status sy_checkpoint_sync(const char *path, sy_comm *io);

/* How a model was made, a text in JSON, in a file that was saved with room for it
   (sy_state.receipt_bytes): read, freed with sy_free, *text NULL where the file has none; or put
   there, with its checksums. For a file that nobody reads yet and that sy_checkpoint_sync follows.
   Not collective. */
sy_status sy_checkpoint_read_receipt(const char *path, char **text);
sy_status sy_checkpoint_write_receipt(const char *path, const char *text);

#ifdef __cplusplus
}
#endif
#endif
