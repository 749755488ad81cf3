/* Superblock and object headers. Specification, II.A "Format Signature and Superblock" and IV.A.1.b
   "Version 2 Data Object Header Prefix". */
#include "checkpoint/h5_read_impl.h"

#include <inttypes.h>
#include <string.h>

#include "checkpoint/file_impl.h"
#include "core/alloc.h"

enum {
    SUPERBLOCK = 3,
    SUPERBLOCK_BYTES = 48,
    PREFIX_BYTES = 34, /* at most */
    CHECKSUM_BYTES = 4,
    MAX_CHUNKS = 64,
    MAX_CHUNK_BYTES = 1 << 20,
    READ_COSTS = 64,     /* bytes of the budget, at least */
    BUDGET_PER_BYTE = 16 /* of the file: our files need less than 4 */
};
static const int64_t max_budget = (int64_t)4 << 30;

sy_status sy__h5_damaged(const sy__h5_file *file, const char *why)
{
    return sy_error(SY_ERR_DAMAGED, "checkpoint '%s': '/%s' %s", file->path, file->object, why);
}

int64_t sy__h5_number(const unsigned char *at, int64_t n)
{
    uint64_t value = 0;
    memcpy(&value, at, (size_t)n);
    return (int64_t)(value < UINT64_MAX >> 4 ? value : UINT64_MAX >> 4);
}

sy_status sy__h5_read(sy__h5_file *file, int64_t at, int64_t n, void *to)
{
    sy_status st = SY_OK;
    if (at <= 0 || n < 0 || n > file->bytes || at > file->bytes - n) {
        SY_TRY(sy__h5_damaged(file, "is described where the file has ended"));
    }
    file->budget -= n < READ_COSTS ? READ_COSTS : n;
    if (file->budget < 0) {
        SY_TRY(sy__h5_damaged(file, "is described by more than the file can hold"));
    }
    SY_TRY(sy__file_read(file->fd, file->path, to, n, at));
cleanup:
    return st;
}

/* ---- the superblock ---- */

static sy_status check_superblock(sy__h5_file *file)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    sy_status st = SY_OK;
    unsigned char head[SUPERBLOCK_BYTES] = {0};
    const int64_t n = file->bytes < SUPERBLOCK_BYTES ? file->bytes : SUPERBLOCK_BYTES;
    SY_TRY(sy__file_read(file->fd, file->path, head, n, 0));
    SY_REQUIRE(n > (int64_t)sizeof signature, SY_ERR_DAMAGED,
               "'%s' is not a checkpoint: it has %" PRId64 " bytes", file->path, n);
    SY_REQUIRE(memcmp(head, signature, sizeof signature) == 0, SY_ERR_DAMAGED,
               "'%s' is not a checkpoint: it is not an HDF5 file", file->path);
    SY_REQUIRE(head[8] == SUPERBLOCK, SY_ERR_DAMAGED,
               "'%s' is not a checkpoint: its HDF5 superblock has version %d, ours %d", file->path,
               head[8], SUPERBLOCK);
    SY_REQUIRE(head[9] == 8 && head[10] == 8 && sy__h5_number(head + 12, 8) == 0, SY_ERR_DAMAGED,
               "'%s' is not a checkpoint: its HDF5 superblock is not one that we write",
               file->path);
    SY_REQUIRE(head[11] == 0, SY_ERR_DAMAGED,
               "checkpoint '%s' is open in another program that changes it, or was when that died",
               file->path);
    SY_REQUIRE(sy__h5_number(head + 44, 4) == (int64_t)sy__h5_checksum(head, 44), SY_ERR_DAMAGED,
               "checkpoint '%s' has a damaged superblock: its checksum does not hold", file->path);
    SY_REQUIRE(sy__h5_number(head + 28, 8) <= file->bytes, SY_ERR_DAMAGED,
               "checkpoint '%s' ends at byte %" PRId64 " of %" PRId64 ": it is truncated",
               file->path, file->bytes, sy__h5_number(head + 28, 8));
    SY_REQUIRE(sy__h5_number(head + 28, 8) == file->bytes, SY_ERR_DAMAGED,
               "checkpoint '%s' goes on behind its end at byte %" PRId64 ", to byte %" PRId64,
               file->path, sy__h5_number(head + 28, 8), file->bytes);
    file->root = sy__h5_number(head + 36, 8);
cleanup:
    return st;
}

sy_status sy__h5_attach(int fd, const char *path, sy__h5_file *out)
{
    sy_status st = SY_OK;
    sy__h5_file file = {.path = path, .object = "", .fd = fd};
    SY_TRY(sy__file_bytes(fd, path, &file.bytes));
    file.budget =
        file.bytes < max_budget / BUDGET_PER_BYTE ? BUDGET_PER_BYTE * file.bytes : max_budget;
    SY_TRY(check_superblock(&file));
    *out = file;
cleanup:
    return st;
}

/* ---- object headers ---- */

/* Part of a header: a few bytes, messages, a checksum over both. */
typedef struct chunk {
    int64_t at, messages_at, end; /* in the file; end: of the messages */
} chunk;

typedef struct header {
    sy__h5_file *file;
    chunk chunk[MAX_CHUNKS];
    int32_t n_chunks;
    bool has_order; /* each message says when it was made */
    sy__h5_take *take;
    void *self;
} header;

static sy_status add_chunk(header *h, int64_t at, int64_t messages_at, int64_t n)
{
    sy_status st = SY_OK;
    if (h->n_chunks == MAX_CHUNKS || n < 0 || n > MAX_CHUNK_BYTES) {
        SY_TRY(sy__h5_damaged(h->file, "has a header that is too large"));
    }
    h->chunk[h->n_chunks++] = (chunk){at, messages_at, messages_at + n};
cleanup:
    return st;
}

static sy_status read_prefix(header *h, int64_t at)
{
    enum { HAS_ORDER = 0x04, HAS_PHASE_CHANGE = 0x10, HAS_TIMES = 0x20 };
    sy_status st = SY_OK;
    unsigned char head[PREFIX_BYTES] = {0};
    const int64_t rest = h->file->bytes - at;
    SY_TRY(sy__h5_read(h->file, at, rest < PREFIX_BYTES ? rest : PREFIX_BYTES, head));
    const int32_t flags = head[5], size_bytes = 1 << (flags & 3);
    const int32_t size_at = 6 + (flags & HAS_TIMES ? 16 : 0) + (flags & HAS_PHASE_CHANGE ? 4 : 0);
    if (memcmp(head, "OHDR", 4) != 0 || head[4] != 2) {
        SY_TRY(sy__h5_damaged(h->file, "has no header that we could have written"));
    }
    h->has_order = flags & HAS_ORDER;
    SY_TRY(add_chunk(h, at, at + size_at + size_bytes, sy__h5_number(head + size_at, size_bytes)));
cleanup:
    return st;
}

/* Elsewhere there are "OCHK", messages and a checksum. */
static sy_status take_continuation(header *h, const unsigned char *body, int64_t n)
{
    enum { WORD_BYTES = 4 };
    sy_status st = SY_OK;
    if (n < 16) {
        SY_TRY(sy__h5_damaged(h->file, "has a header that is cut short"));
    }
    const int64_t at = sy__h5_number(body, 8), bytes = sy__h5_number(body + 8, 8);
    SY_TRY(add_chunk(h, at, at + WORD_BYTES, bytes - WORD_BYTES - CHECKSUM_BYTES));
cleanup:
    return st;
}

static sy_status read_chunk(header *h, const chunk *c, unsigned char **out)
{
    sy_status st = SY_OK;
    const int64_t n = c->end - c->at;
    unsigned char *bytes = NULL;
    SY_TRY(sy_alloc(n + CHECKSUM_BYTES, 1, (void **)&bytes));
    SY_TRY(sy__h5_read(h->file, c->at, n + CHECKSUM_BYTES, bytes));
    if (sy__h5_number(bytes + n, CHECKSUM_BYTES) != (int64_t)sy__h5_checksum(bytes, n)) {
        SY_TRY(sy__h5_damaged(h->file, "has a damaged header: its checksum does not hold"));
    }
    *out = bytes;
    bytes = NULL;
cleanup:
    sy_free(&bytes);
    return st;
}

static sy_status scan_chunk(header *h, const chunk *c, const unsigned char *bytes)
{
    sy_status st = SY_OK;
    const int64_t head = h->has_order ? 6 : 4, end = c->end - c->at;
    for (int64_t at = c->messages_at - c->at; at + head <= end;) {
        const sy__h5_message message = {.type = bytes[at],
                                        .flags = bytes[at + 3],
                                        .body = bytes + at + head,
                                        .n = sy__h5_number(bytes + at + 1, 2),
                                        .offset = c->at + at + head,
                                        .checksum = {c->end, CHECKSUM_BYTES}};
        if (message.n > end - at - head) {
            SY_TRY(sy__h5_damaged(h->file, "has a header that is cut short"));
        }
        SY_TRY(message.type == SY__H5_CONTINUATION ? take_continuation(h, message.body, message.n)
                                                   : h->take(h->self, &message));
        at += head + message.n;
    }
cleanup:
    return st;
}

sy_status sy__h5_messages(sy__h5_file *file, int64_t at, sy__h5_take *take, void *self)
{
    sy_status st = SY_OK;
    header h = {.file = file, .take = take, .self = self};
    unsigned char *bytes = NULL;
    SY_TRY(read_prefix(&h, at));
    for (int32_t i = 0; i < h.n_chunks; i++) {
        const chunk c = h.chunk[i];
        sy_free(&bytes);
        SY_TRY(read_chunk(&h, &c, &bytes));
        SY_TRY(scan_chunk(&h, &c, bytes));
    }
cleanup:
    sy_free(&bytes);
    return st;
}
