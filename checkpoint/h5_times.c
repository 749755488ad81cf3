/* HDF5 keeps times in one object header that no property list reaches: the superblock's extension,
   which tells that space is dealt out by pages. It is written again without them. Specification,
   II.A and IV.A.1.b. */
#include <inttypes.h>
#include <string.h>

#include "checkpoint/file_impl.h"
#include "checkpoint/h5_impl.h"
#include "checkpoint/h5_read_impl.h"

enum {
    EXTENSION_AT = 20, /* in the superblock: where the extension begins */
    FLAGS_AT = 5,
    HAS_ORDER = 0x04,
    HAS_PHASE_CHANGE = 0x10,
    HAS_TIMES = 0x20,
    TIMES_AT = 6,
    TIMES_BYTES = 16,
    NIL_BYTES = TIMES_BYTES - 4, /* of a message that fills their room, behind its head */
    CHECKSUM_BYTES = 4,
    HEADER_BYTES = 256 /* more than HDF5 writes there */
};

static void put_number(unsigned char *to, uint64_t value, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        to[i] = (unsigned char)(value >> 8 * i);
    }
}

/* What follows the times moves to their place, and a message that says nothing fills the end. */
static sy_status leave_out_times(const char *path, unsigned char head[HEADER_BYTES], int64_t *n)
{
    sy_status st = SY_OK;
    const int64_t size_bytes = 1 << (head[FLAGS_AT] & 3);
    const int64_t size_at = TIMES_AT + (head[FLAGS_AT] & HAS_PHASE_CHANGE ? 4 : 0);
    const int64_t size = sy__h5_number(head + TIMES_BYTES + size_at, size_bytes);
    const int64_t end = TIMES_BYTES + size_at + size_bytes + size;
    SY_REQUIRE(end + CHECKSUM_BYTES <= HEADER_BYTES && size + TIMES_BYTES < 1 << 8 &&
                   !(head[FLAGS_AT] & HAS_ORDER),
               SY_ERR_INTERNAL, "HDF5 describes the space of '%s' in another way than it did",
               path);
    memmove(head + TIMES_AT, head + TIMES_AT + TIMES_BYTES, (size_t)(end - TIMES_AT - TIMES_BYTES));
    head[FLAGS_AT] &= (unsigned char)~HAS_TIMES;
    put_number(head + size_at, (uint64_t)(size + TIMES_BYTES), size_bytes);
    memset(head + end - TIMES_BYTES, 0, TIMES_BYTES);
    put_number(head + end - TIMES_BYTES + 1, NIL_BYTES, 2);
    put_number(head + end, sy__h5_checksum(head, end), CHECKSUM_BYTES);
    *n = end + CHECKSUM_BYTES;
cleanup:
    return st;
}

sy_status sy__h5_clear_times(const char *path, int image)
{
    sy_status st = SY_OK;
    unsigned char address[8], head[HEADER_BYTES];
    int64_t bytes = 0, n = 0;
    SY_TRY(sy__file_bytes(image, path, &bytes));
    SY_TRY(sy__file_read(image, path, address, sizeof address, EXTENSION_AT));
    const int64_t at = sy__h5_number(address, sizeof address);
    if (at > bytes - HEADER_BYTES) {
        return SY_OK; /* no extension */
    }
    SY_TRY(sy__file_read(image, path, head, HEADER_BYTES, at));
    if (memcmp(head, "OHDR", 4) == 0 && (head[FLAGS_AT] & HAS_TIMES)) {
        SY_TRY(leave_out_times(path, head, &n));
        SY_TRY(sy__file_write(image, path, head, n, at));
    }
cleanup:
    return st;
}
