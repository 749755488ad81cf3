/* What a file holds, as tables: its datasets, where their bytes lie, and the pieces their checksums
   are of. Made from the state by a save, from the file by a reader, and on rank 0 alone; the others
   get a copy, so that they need nothing but the offsets. */
#ifndef SY_CHECKPOINT_CATALOG_IMPL_H
#define SY_CHECKPOINT_CATALOG_IMPL_H

#include "parallel/state.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SY__FORMAT "switchyard"
#define SY__TABLE_PATH "integrity/xxh3_64"
#define SY__DIGEST_PATH "integrity/digest"
#define SY__STRUCTURE_PATH "integrity/structure"
#define SY__RECEIPT_PATH "x/receipt" /* what we know of /x */

enum {
    SY__FORMAT_VERSION = 1,
    SY__PATH_BYTES = 192,          /* of a dataset's path, with its end */
    SY__PIECE_BYTES = 4 << 20,     /* of a piece that we write */
    SY__PIECE_MAX_BYTES = 64 << 20 /* of a piece that we read */
};

typedef struct sy__item {
    char path[SY__PATH_BYTES]; /* below /, without a leading slash */
    sy_dtype dtype;
    int32_t n_dim;
    int64_t shape[SY_MAX_DIM];
    int64_t bytes;
    int64_t offset; /* in the file; 0 where there are no bytes */
    int64_t first_piece, n_pieces;
} sy__item;

typedef struct sy__piece {
    int64_t offset, length; /* bytes, within the dataset */
    uint64_t xxh3;
} sy__piece;

/* Where one of the datasets below /integrity lies. */
typedef struct sy__extent {
    int64_t offset, bytes;
} sy__extent;

typedef struct sy__catalog {
    sy__item *item;   /* by path */
    sy__piece *piece; /* by item, then offset; they cover every dataset exactly */
    int64_t n_items, n_pieces, capacity; /* of item */
    sy__extent table, digest, structure;
    int64_t file_bytes;
    bool foreign; /* somebody added to /x */
} sy__catalog;

/* The attributes of /. */
typedef struct sy__attributes {
    char *kind, *config_yaml, *producer, *created;
    int64_t step, tokens_seen, complete;
} sy__attributes;

void sy__catalog_free(sy__catalog *cat);
void sy__attributes_free(sy__attributes *attributes);

/* Add a dataset; the order does not matter until sy__catalog_sort. Not collective. */
sy_status sy__catalog_add(sy__catalog *cat, const sy__item *item);
/* Put the datasets in order. A name twice: SY_ERR_DAMAGED in the file `path`; SY_ERR_INTERNAL where
   that is NULL, in a state. Not collective. */
sy_status sy__catalog_sort(sy__catalog *cat, const char *path);
/* The dataset of that path, or -1. Not collective. */
int64_t sy__catalog_find(const sy__catalog *cat, const char *path);
/* Which dataset a piece belongs to. Not collective. */
int64_t sy__catalog_item_of(const sy__catalog *cat, int64_t piece);
/* Which piece of a dataset that we write holds a byte of it. Not collective. */
int64_t sy__catalog_piece_at(const sy__catalog *cat, int64_t item, int64_t at);
/* Bytes of all datasets. Not collective. */
int64_t sy__catalog_bytes(const sy__catalog *cat);

/* Fields of the state's owners, then its blobs as fields of bytes (which one rank writes).
   Not collective. */
sy_status sy__state_walk(const sy_state *state, bool write_blobs, sy_emit *emit, void *to);
/* Datasets and pieces of a state: from shapes and types alone. Not collective. */
sy_status sy__catalog_from_state(const sy_state *state, sy__catalog *out);
/* A field as a dataset, without its place in the file. A name that is too long, a shape that
   overflows: SY_ERR_INTERNAL. Not collective. */
sy_status sy__item_from_field(const sy_field *field, sy__item *out);
/* Does the file hold the field in this shape? Not collective. */
bool sy__item_has_shape(const sy__item *item, const sy_field *field);

/* The catalog of rank 0 on every rank; mine is how rank 0 came by it. Collective over io. */
sy_status sy__catalog_share(sy__catalog *cat, sy_comm *io, sy_status mine);

/* Checksum over the table, the names, shapes and types of all datasets and the attributes of / but
   `created`: XXH3-64 of the text described in docs/FORMATS.md. Not collective. */
sy_status sy__catalog_digest(const sy__catalog *cat, const sy__attributes *attributes,
                             uint64_t *out);

#ifdef __cplusplus
}
#endif
#endif
