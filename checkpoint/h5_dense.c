/* Where an object has many links, or an attribute is large, HDF5 keeps their messages in a heap and
   finds them by a tree. Specification, III.A.2 "Version 2 B-trees" and III.G "Fractal Heap". */
#include <string.h>

#include "checkpoint/h5_read_impl.h"
#include "core/alloc.h"

enum {
    MAX_DEPTH = 8, /* of a tree, and of a heap's blocks */
    MAX_NODE_BYTES = 1 << 16,
    MAX_OBJECT_BYTES = 32 << 20,
    TREE_HUGE = 1 /* records: objects that are too large for a block of the heap */
};

/* ---- the tree ---- */

typedef sy_status take_record(void *self, const unsigned char *record, int64_t n);

typedef struct tree {
    sy__h5_file *file;
    int64_t node_bytes, record_bytes;
    int64_t width[MAX_DEPTH + 1]; /* of a pointer to a node of that depth */
    int64_t count_bytes;          /* of how many records a node has */
    take_record *take;
    void *self;
} tree;

/* Bytes that hold numbers up to n. */
static int64_t width_of(int64_t n)
{
    int64_t bytes = 1;
    for (; n > 0xff; n >>= 8) {
        bytes++;
    }
    return bytes;
}

/* How wide pointers are follows from how many records a subtree can have. */
static void size_pointers(tree *t, int32_t depth)
{
    enum { FRAME = 10 }; /* of a node: "BTLF", version, type, checksum */
    int64_t most = (t->node_bytes - FRAME) / t->record_bytes, subtree = most;
    t->count_bytes = width_of(most);
    t->width[0] = 8 + t->count_bytes;
    for (int32_t d = 1; d <= depth; d++) {
        most = (t->node_bytes - FRAME - t->width[d - 1]) / (t->record_bytes + t->width[d - 1]);
        subtree = (most + 1) * subtree + most;
        subtree = subtree < INT64_MAX >> 20 ? subtree : INT64_MAX >> 20;
        t->width[d] = 8 + t->count_bytes + width_of(subtree);
    }
}

static sy_status walk_node(tree *t, int64_t at, int64_t n, int32_t depth)
{
    enum { HEAD = 6 }; /* "BTLF" or "BTIN", version, type */
    sy_status st = SY_OK;
    unsigned char *node = NULL;
    const int64_t width = depth > 0 ? t->width[depth - 1] : 0;
    const int64_t pointers = HEAD + n * t->record_bytes;
    if (n > t->node_bytes || pointers + (depth > 0 ? n + 1 : 0) * width > t->node_bytes) {
        SY_TRY(sy__h5_damaged(t->file, "has an index that does not fit its nodes"));
    }
    SY_TRY(sy_alloc(t->node_bytes, 1, (void **)&node));
    SY_TRY(sy__h5_read(t->file, at, t->node_bytes, node));
    if (memcmp(node, depth > 0 ? "BTIN" : "BTLF", 4) != 0) {
        SY_TRY(sy__h5_damaged(t->file, "has an index that is not where it should be"));
    }
    for (int64_t i = 0; i < n; i++) {
        SY_TRY(t->take(t->self, node + HEAD + i * t->record_bytes, t->record_bytes));
    }
    for (int64_t i = 0; depth > 0 && i <= n; i++) {
        const unsigned char *pointer = node + pointers + i * width;
        SY_TRY(walk_node(t, sy__h5_number(pointer, 8), sy__h5_number(pointer + 8, t->count_bytes),
                         depth - 1));
    }
cleanup:
    sy_free(&node);
    return st;
}

static sy_status walk_tree(sy__h5_file *file, int64_t at, int32_t records, take_record *take,
                           void *self)
{
    sy_status st = SY_OK;
    unsigned char head[34];
    SY_TRY(sy__h5_read(file, at, sizeof head, head));
    tree t = {.file = file,
              .node_bytes = sy__h5_number(head + 6, 4),
              .record_bytes = sy__h5_number(head + 10, 2),
              .take = take,
              .self = self};
    const int64_t depth = sy__h5_number(head + 12, 2), n = sy__h5_number(head + 24, 2);
    if (memcmp(head, "BTHD", 4) != 0 || head[5] != records || depth > MAX_DEPTH ||
        t.node_bytes < 64 || t.node_bytes > MAX_NODE_BYTES || t.record_bytes < 8 ||
        t.record_bytes > 64) {
        SY_TRY(sy__h5_damaged(file, "has an index that we could not have written"));
    }
    size_pointers(&t, (int32_t)depth);
    if (n > 0) {
        SY_TRY(walk_node(&t, sy__h5_number(head + 16, 8), n, (int32_t)depth));
    }
cleanup:
    return st;
}

/* ---- the heap ---- */

typedef struct heap {
    sy__h5_file *file;
    int64_t id_bytes, offset_bytes;
    int64_t width, first_bytes,
        direct_bytes;     /* blocks in a row; the smallest; the largest direct */
    int64_t root, n_rows; /* 0 rows: the root is a direct block */
    int64_t huge;         /* the tree of objects outside blocks */
    int32_t type;         /* of its messages */
    sy__h5_take *take;
    void *self;
} heap;

static bool is_power_of_two(int64_t n)
{
    return n > 0 && (n & (n - 1)) == 0;
}

static sy_status open_heap(heap *h, int64_t at)
{
    sy_status st = SY_OK;
    unsigned char head[142];
    SY_TRY(sy__h5_read(h->file, at, sizeof head, head));
    h->id_bytes = sy__h5_number(head + 5, 2);
    h->huge = sy__h5_number(head + 22, 8);
    h->width = sy__h5_number(head + 110, 2);
    h->first_bytes = sy__h5_number(head + 112, 8);
    h->direct_bytes = sy__h5_number(head + 120, 8);
    h->offset_bytes = (sy__h5_number(head + 128, 2) + 7) / 8;
    h->root = sy__h5_number(head + 132, 8);
    h->n_rows = sy__h5_number(head + 140, 2);
    if (memcmp(head, "FRHP", 4) != 0 || sy__h5_number(head + 7, 2) != 0 ||
        !is_power_of_two(h->width) || !is_power_of_two(h->first_bytes) ||
        !is_power_of_two(h->direct_bytes) || h->direct_bytes < h->first_bytes ||
        h->direct_bytes > MAX_OBJECT_BYTES || h->offset_bytes < 1 || h->offset_bytes > 8 ||
        h->id_bytes < h->offset_bytes + 2 || h->id_bytes > h->offset_bytes + 9) {
        SY_TRY(sy__h5_damaged(h->file, "has a heap that we could not have written"));
    }
cleanup:
    return st;
}

/* A block of the heap: where it lies, which bytes of the heap it has. */
typedef struct place {
    int64_t at, begin, bytes, n_rows;
} place;

/* Of the rows of an indirect block, row 0 and 1 have blocks of the first size, each further one of
   twice the size of that before it. */
static place child_of(const heap *h, const place *parent, int64_t offset, int64_t *row,
                      int64_t *col)
{
    place child = {.begin = parent->begin, .bytes = h->first_bytes};
    for (*row = 0; offset - child.begin >= child.bytes * h->width && *row < 48; ++*row) {
        child.begin += child.bytes * h->width;
        child.bytes *= *row > 0 ? 2 : 1;
        if (child.bytes > INT64_MAX / 4 / h->width) {
            *row = INT64_MAX;
            return child;
        }
    }
    *col = (offset - child.begin) / child.bytes;
    child.begin += *col * child.bytes;
    for (int64_t n = child.bytes / h->first_bytes / h->width; n > 0; n /= 2) {
        child.n_rows++;
    }
    return child;
}

/* The direct block that has a byte of the heap. */
static sy_status find_block(heap *h, int64_t offset, place *out)
{
    sy_status st = SY_OK;
    place block = {.at = h->root, .bytes = h->first_bytes, .n_rows = h->n_rows};
    bool direct = h->n_rows == 0;
    for (int32_t depth = 0; !direct; depth++) {
        unsigned char pointer[8];
        int64_t row = 0, col = 0;
        place child = child_of(h, &block, offset, &row, &col);
        if (depth == MAX_DEPTH || row >= block.n_rows) {
            SY_TRY(sy__h5_damaged(h->file, "has a heap that ends before what is looked for"));
        }
        SY_TRY(sy__h5_read(h->file, block.at + 13 + h->offset_bytes + 8 * (row * h->width + col),
                           sizeof pointer, pointer));
        child.at = sy__h5_number(pointer, 8);
        direct = child.bytes <= h->direct_bytes;
        block = child;
    }
    *out = block;
cleanup:
    return st;
}

typedef struct huge {
    int64_t id, at, n; /* at 0: not found yet */
} huge;

static sy_status take_huge(void *self, const unsigned char *record, int64_t n)
{
    huge *wanted = self;
    if (n >= 24 && sy__h5_number(record + 16, 8) == wanted->id) {
        wanted->at = sy__h5_number(record, 8);
        wanted->n = sy__h5_number(record + 8, 8);
    }
    return SY_OK;
}

/* Where in the file the object of that name lies. */
static sy_status find_object(heap *h, const unsigned char *id, int64_t *at, int64_t *n)
{
    sy_status st = SY_OK;
    const int32_t kind = id[0] >> 4;
    const int64_t rest = h->id_bytes - 1 - h->offset_bytes;
    if (kind == 0) {
        place block;
        const int64_t offset = sy__h5_number(id + 1, h->offset_bytes);
        *n = sy__h5_number(id + 1 + h->offset_bytes, rest);
        SY_TRY(find_block(h, offset, &block));
        if (offset < block.begin || *n > block.bytes - (offset - block.begin)) {
            SY_TRY(sy__h5_damaged(h->file, "has a heap that ends before what is looked for"));
        }
        *at = block.at + (offset - block.begin);
    } else if (kind == 1) {
        huge wanted = {.id = sy__h5_number(id + 1, h->id_bytes - 1 < 8 ? h->id_bytes - 1 : 8)};
        SY_TRY(walk_tree(h->file, h->huge, TREE_HUGE, take_huge, &wanted));
        *at = wanted.at;
        *n = wanted.n;
    } else {
        SY_TRY(sy__h5_damaged(h->file, "has a heap that we could not have written"));
    }
    if (*n > MAX_OBJECT_BYTES) {
        SY_TRY(sy__h5_damaged(h->file, "has a heap that we could not have written"));
    }
cleanup:
    return st;
}

static sy_status take_object(heap *h, const unsigned char *id)
{
    sy_status st = SY_OK;
    int64_t at = 0, n = 0;
    unsigned char *body = NULL;
    SY_TRY(find_object(h, id, &at, &n));
    if (n > h->file->bytes) {
        SY_TRY(sy__h5_damaged(h->file, "is described where the file has ended"));
    }
    SY_TRY(sy_alloc(n, 1, (void **)&body));
    SY_TRY(sy__h5_read(h->file, at, n, body));
    SY_TRY(h->take(h->self, &(sy__h5_message){.type = h->type, .body = body, .n = n}));
cleanup:
    sy_free(&body);
    return st;
}

static sy_status take_link(void *self, const unsigned char *record, int64_t n)
{
    heap *h = self;
    return n >= 4 + h->id_bytes
               ? take_object(h, record + 4) /* behind the hash of its name */
               : sy__h5_damaged(h->file, "has an index that we could not have written");
}

static sy_status take_attribute(void *self, const unsigned char *record, int64_t n)
{
    heap *h = self;
    return n >= h->id_bytes
               ? take_object(h, record)
               : sy__h5_damaged(h->file, "has an index that we could not have written");
}

sy_status sy__h5_dense(sy__h5_file *file, const unsigned char *addresses, int32_t records,
                       sy__h5_take *take, void *self)
{
    sy_status st = SY_OK;
    const bool links = records == SY__H5_TREE_LINKS;
    static const unsigned char nowhere[8] = {255, 255, 255, 255, 255, 255, 255, 255};
    heap h = {
        .file = file, .type = links ? SY__H5_LINK : SY__H5_ATTRIBUTE, .take = take, .self = self};
    if (memcmp(addresses, nowhere, sizeof nowhere) != 0) {
        SY_TRY(open_heap(&h, sy__h5_number(addresses, 8)));
        SY_TRY(walk_tree(file, sy__h5_number(addresses + 8, 8), records,
                         links ? take_link : take_attribute, &h));
    }
cleanup:
    return st;
}
