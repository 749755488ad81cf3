/* HDF5 files read without the library, whose own reader dies of files that are made to hurt: as
   much of the file format (specification version 3) as files hold that we write, and no more. What
   is not so is SY_ERR_DAMAGED and names the object; every number is bounded before it is used.
   Nothing here is collective. */
#ifndef SY_CHECKPOINT_H5_READ_IMPL_H
#define SY_CHECKPOINT_H5_READ_IMPL_H

#include "checkpoint/catalog_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy__h5_file {
    const char *path;   /* of the file */
    const char *object; /* that is being read, below /, for messages */
    int fd;
    int64_t bytes;  /* of the file */
    int64_t budget; /* of metadata that may still be read, so that what leads in circles ends */
    int64_t root;   /* where the object header of / begins */
} sy__h5_file;

/* Messages of an object header; types by their number in the specification. */
enum {
    SY__H5_NIL = 0x00,
    SY__H5_SPACE = 0x01,
    SY__H5_LINKS = 0x02, /* a group has one: where its links are, if not among the messages */
    SY__H5_TYPE = 0x03,
    SY__H5_LINK = 0x06,
    SY__H5_EXTERNAL = 0x07,
    SY__H5_LAYOUT = 0x08,
    SY__H5_FILTERS = 0x0b,
    SY__H5_ATTRIBUTE = 0x0c,
    SY__H5_CONTINUATION = 0x10,
    SY__H5_OLD_GROUP = 0x11,
    SY__H5_ATTRIBUTES = 0x15, /* where attributes are, if not among the messages */
    SY__H5_SHARED = 0x02      /* a flag */
};

typedef struct sy__h5_message {
    int32_t type, flags;
    const unsigned char *body; /* [n] */
    int64_t n;
    int64_t offset;      /* of the body in the file; 0: it lies in a heap */
    sy__extent checksum; /* of the chunk that holds it */
} sy__h5_message;
typedef sy_status sy__h5_take(void *self, const sy__h5_message *message);

/* Records of a tree, by their number in the specification. */
enum { SY__H5_TREE_LINKS = 5, SY__H5_TREE_ATTRIBUTES = 8 };

/* A file that is open already: check the superblock, find the root. */
sy_status sy__h5_attach(int fd, const char *path, sy__h5_file *out);
/* "checkpoint 'path': '/object' <why>". */
sy_status sy__h5_damaged(const sy__h5_file *file, const char *why);
/* n bytes at an offset: both may be anything. */
sy_status sy__h5_read(sy__h5_file *file, int64_t at, int64_t n, void *to);
/* Little-endian, n <= 8 bytes. What is beyond 2^60 becomes 2^60: no place in a file, no number of
   anything, and sums of a few such numbers do not overflow. */
int64_t sy__h5_number(const unsigned char *at, int64_t n);

/* Of a block of metadata, as HDF5 keeps it. */
uint32_t sy__h5_checksum(const unsigned char *bytes, int64_t n);

/* Every message of the object header at an offset. */
sy_status sy__h5_messages(sy__h5_file *file, int64_t at, sy__h5_take *take, void *self);
/* Links or attributes that lie in a heap: the address of heap and tree follow each other in the
   message that tells of them. */
sy_status sy__h5_dense(sy__h5_file *file, const unsigned char *addresses, int32_t records,
                       sy__h5_take *take, void *self);

/* A space: shape and number of elements. Not that of a tensor: false. */
bool sy__h5_get_space(const sy__h5_message *space, sy__item *item, int64_t *numel);
/* What of our types it is; SY_N_DTYPES: none. */
sy_dtype sy__h5_get_type(const unsigned char *type, int64_t n);
bool sy__h5_is_u64(const unsigned char *type, int64_t n);
bool sy__h5_is_row(const unsigned char *type, int64_t n);

/* The attributes of /; not complete, or of another format: SY_ERR_DAMAGED. */
sy_status sy__h5_attributes(sy__h5_file *file, sy__attributes *out);

#ifdef __cplusplus
}
#endif
#endif
