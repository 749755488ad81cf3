/* A save under way, and what its stages do. */
#ifndef SY_CHECKPOINT_SAVE_IMPL_H
#define SY_CHECKPOINT_SAVE_IMPL_H

#include "checkpoint/catalog_impl.h"
#include "checkpoint/hash_impl.h"
#include "checkpoint/out_impl.h"
#include "checkpoint/stage_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What this rank writes of a dataset in one stretch. */
typedef struct sy__stretch {
    int64_t item, at, n; /* bytes of the dataset */
    const char *data;    /* NULL where it is pulled */
    sy_device *dev;      /* NULL: host memory */
    sy_pull *pull;
    void *pull_self;
} sy__stretch;

/* Where the next chunk begins. Chunks never cross the edge of a piece. */
typedef struct sy__cursor {
    int64_t stretch, done; /* bytes of the stretch */
    int64_t ring;          /* bytes that went through the ring so far */
} sy__cursor;

typedef struct sy__save {
    const char *path;
    sy_comm *io;
    char *temporary;
    bool unsynced;             /* see sy_state */
    sy__attributes attributes; /* rank 0 alone */
    int image;                 /* rank 0 alone: see sy__h5_create */
    sy__catalog cat;

    sy__stretch *stretch; /* [n_stretches] of this rank, in the order of the state */
    int64_t n_stretches, capacity;
    char *h_host; /* copies of host fields, where the state may change before they are written */

    char *ring;         /* [ring_bytes] the copy of device fields; NULL: they are not copied */
    int64_t ring_bytes; /* at least two chunks */

    int64_t *written; /* [n_pieces] bytes, by this rank */
    int32_t *hashed;  /* [n_pieces] 1: this rank has the piece's checksum */
    uint64_t *xxh3;   /* [n_pieces] what this rank contributes */
    sy__out out;      /* of the first stage, */
    int fd;           /* of the others */
    sy__stage stage;
    XXH3_state_t *hash; /* over the piece that is being written ... */
    int64_t item, next; /* ... as long as it goes on at this byte of this dataset */
} sy__save;

/* Of whoever waits for the copy: called once, when all is copied. */
typedef void sy__copied(void *self);

/* Skeleton and offsets, then this rank's stretches. keep_host: copy host fields. Collective. */
sy_status sy__save_open(sy__save *s, const sy_state *state, bool keep_host);
void sy__save_close(sy__save *s);
/* Remove what a failed save has left. Rank 0 does it. Not collective. */
void sy__save_discard(sy__save *s);

/* ---- this rank's part of the stages. Not collective. ---- */

sy_status sy__save_write(sy__save *s, sy__copied *copied, void *self);
sy_status sy__save_read_back(sy__save *s);
sy_status sy__save_publish(sy__save *s);

/* ---- between the stages. Collective over s->io. ---- */

/* Was every byte written by one rank? *shared: some pieces are of several ranks. */
sy_status sy__save_check(sy__save *s, bool *shared);
/* All checksums on every rank; rank 0 marks the file complete. */
sy_status sy__save_gather(sy__save *s);

#ifdef __cplusplus
}
#endif
#endif
