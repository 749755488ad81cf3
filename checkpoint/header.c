/* Where the attribute `created` lies in a file: the one thing in which two saves of the same state
   differ. The root's object header is walked as the HDF5 file format specification (version 3,
   section IV.A.1.b, "Version 2 Data Object Header Prefix") lays it out. What is not found is not
   left out of the checksum, so that this code need not be trusted. */
#include "checkpoint/integrity_impl.h"

#include <string.h>

#include "checkpoint/file_impl.h"
#include "core/alloc.h"

enum {
    ROOT_AT = 36, /* in superblocks of version 2 and 3 */
    HEAD_BYTES = 48,
    MAX_CHUNKS = 16,
    MAX_CHUNK_BYTES = 1 << 17,
    CHECKSUM_BYTES = 4,
    MESSAGE_ATTRIBUTE = 0x0c,
    MESSAGE_CONTINUATION = 0x10,
    HAS_ORDER = 0x04,
    HAS_PHASE_CHANGE = 0x10,
    HAS_TIMES = 0x20
};

typedef struct header {
    sy__extent chunk[MAX_CHUNKS]; /* messages, without the checksum that follows them */
    int32_t n_chunks;
    bool has_order;
    sy__extent value, checksum; /* of `created`, and of the chunk that holds it */
} header;

/* Little-endian. The top bits are cut, so that sums of a few numbers cannot overflow. */
static int64_t number(const unsigned char *at, int32_t n_bytes)
{
    uint64_t value = 0;
    memcpy(&value, at, (size_t)n_bytes);
    return (int64_t)(value & UINT64_MAX >> 4);
}

static void add_chunk(header *h, int64_t offset, int64_t bytes, int64_t file_bytes)
{
    bool fits = offset > 0 && bytes > 0 && bytes <= MAX_CHUNK_BYTES &&
                offset <= file_bytes - bytes - CHECKSUM_BYTES;
    if (fits && h->n_chunks < MAX_CHUNKS) {
        h->chunk[h->n_chunks++] = (sy__extent){offset, bytes};
    }
}

static sy_status read_prefix(int fd, const char *path, int64_t file_bytes, header *h)
{
    sy_status st = SY_OK;
    unsigned char head[HEAD_BYTES];
    if (file_bytes < HEAD_BYTES) {
        return SY_OK;
    }
    SY_TRY(sy__file_read(fd, path, head, sizeof head, 0));
    const int64_t root = number(head + ROOT_AT, 8);
    if (root <= 0 || root > file_bytes - HEAD_BYTES) {
        return SY_OK;
    }
    SY_TRY(sy__file_read(fd, path, head, sizeof head, root));
    const int32_t flags = head[5], size_bytes = 1 << (flags & 3);
    const int32_t at = 6 + (flags & HAS_TIMES ? 16 : 0) + (flags & HAS_PHASE_CHANGE ? 4 : 0);
    h->has_order = flags & HAS_ORDER;
    if (memcmp(head, "OHDR", 4) == 0) {
        add_chunk(h, root + at + size_bytes, number(head + at, size_bytes), file_bytes);
    }
cleanup:
    return st;
}

/* An attribute message at `offset` of the file, with n bytes. */
static void take_attribute(header *h, const sy__extent *chunk, const unsigned char *body,
                           int64_t offset, int64_t n)
{
    if (n < 9 + (int64_t)sizeof "created" || memcmp(body + 9, "created", sizeof "created") != 0) {
        return;
    }
    const int64_t value = 9 + number(body + 2, 2) + number(body + 4, 2) + number(body + 6, 2);
    if (value < n) {
        h->value = (sy__extent){offset + value, n - value};
        h->checksum = (sy__extent){chunk->offset + chunk->bytes, CHECKSUM_BYTES};
    }
}

static void scan_chunk(header *h, const sy__extent *chunk, const unsigned char *bytes,
                       int64_t file_bytes)
{
    const int64_t head = h->has_order ? 6 : 4;
    int64_t at = 0;
    while (at + head <= chunk->bytes) {
        const int64_t n = number(bytes + at + 1, 2), body = at + head;
        const int32_t type = bytes[at];
        if (n > chunk->bytes - body) {
            return;
        }
        if (type == MESSAGE_ATTRIBUTE) {
            take_attribute(h, chunk, bytes + body, chunk->offset + body, n);
        } else if (type == MESSAGE_CONTINUATION && n >= 16) { /* "OCHK", messages, checksum */
            add_chunk(h, number(bytes + body, 8) + 4, number(bytes + body + 8, 8) - 8, file_bytes);
        }
        at = body + n;
    }
}

sy_status sy__created_extents(int fd, const char *path, int64_t file_bytes, sy__extent *value,
                              sy__extent *checksum)
{
    sy_status st = SY_OK;
    header h = {.n_chunks = 0};
    unsigned char *bytes = NULL;
    SY_TRY(sy_alloc(MAX_CHUNK_BYTES, 1, (void **)&bytes));
    SY_TRY(read_prefix(fd, path, file_bytes, &h));
    for (int32_t i = 0; i < h.n_chunks && h.value.bytes == 0; i++) {
        SY_TRY(sy__file_read(fd, path, bytes, h.chunk[i].bytes, h.chunk[i].offset));
        scan_chunk(&h, &h.chunk[i], bytes, file_bytes);
    }
    *value = h.value;
    *checksum = h.checksum;
cleanup:
    sy_free(&bytes);
    return st;
}
