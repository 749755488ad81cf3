/* Merging: the symbols of a piece are a linked list, and the pairs that may merge lie in a heap. A
   pair that has changed since it was pushed is known by its rank and passed over, so nothing is
   ever searched or taken out of the middle. */
#include <string.h>

#include "core/alloc.h"
#include "data/bpe_impl.h"

typedef struct sy__symbol {
    int32_t id;
    int32_t rank;       /* of the pair with the next one; NO_RANK: they do not merge */
    int32_t merged;     /* what that pair becomes */
    int32_t prev, next; /* -1: none */
} sy__symbol;

static const int32_t no_rank = INT32_MAX;

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static int64_t find_slot(const sy__merges *m, uint64_t key)
{
    const uint64_t hash = key * 0x9e3779b97f4a7c15u;
    int64_t i = (int64_t)((hash ^ hash >> 32) & (uint64_t)(m->n_slots - 1));
    while (m->slot[i].id != 0 && m->slot[i].key != key) {
        i = (i + 1) & (m->n_slots - 1);
    }
    return i;
}

const sy__pair *sy__merges_find(const sy__merges *m, int32_t left, int32_t right)
{
    if (m->n_slots == 0) {
        return NULL;
    }
    const sy__pair *pair = &m->slot[find_slot(m, pair_key(left, right))];
    return pair->id != 0 ? pair : NULL;
}

static sy_status grow(sy__merges *m)
{
    sy_status st = SY_OK;
    const sy__merges old = *m;
    sy__pair *slot = NULL;
    const int64_t n = old.n_slots > 0 ? 2 * old.n_slots : 1024;
    SY_TRY(sy_alloc(n, sizeof *slot, (void **)&slot));
    m->slot = slot;
    m->n_slots = n;
    for (int64_t i = 0; i < old.n_slots; i++) {
        if (old.slot[i].id != 0) {
            slot[find_slot(m, old.slot[i].key)] = old.slot[i];
        }
    }
    slot = old.slot;

cleanup:
    sy_free(&slot);
    return st;
}

sy_status sy__merges_add(sy__merges *m, int32_t left, int32_t right, int32_t rank, int32_t id)
{
    sy_status st = SY_OK;
    const uint64_t key = pair_key(left, right);
    if (2 * m->n >= m->n_slots) {
        SY_TRY(grow(m));
    }
    sy__pair *pair = &m->slot[find_slot(m, key)];
    m->n += pair->id == 0;
    *pair = (sy__pair){.key = key, .rank = rank, .id = id + 1};

cleanup:
    return st;
}

void sy__merges_free(sy__merges *m)
{
    sy_free(&m->slot);
    *m = (sy__merges){0};
}

static void push(uint64_t *heap, int64_t *n, uint64_t value)
{
    int64_t i = (*n)++;
    while (i > 0 && heap[(i - 1) / 2] > value) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = value;
}

static uint64_t pop(uint64_t *heap, int64_t *n)
{
    const uint64_t top = heap[0], last = heap[--(*n)];
    int64_t i = 0;
    for (int64_t child = 1; child < *n; child = 2 * i + 1) {
        child += child + 1 < *n && heap[child + 1] < heap[child];
        if (heap[child] >= last) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

/* What symbol i may do with the next one. */
static void pair_up(const sy__merges *m, sy__merge_room *room, int32_t i, int64_t *n_heap)
{
    sy__symbol *s = &room->symbol[i];
    const sy__pair *pair =
        s->next >= 0 ? sy__merges_find(m, s->id, room->symbol[s->next].id) : NULL;
    s->rank = no_rank;
    if (pair != NULL) {
        s->rank = pair->rank;
        s->merged = pair->id - 1;
        push(room->heap, n_heap, (uint64_t)(uint32_t)pair->rank << 32 | (uint32_t)i);
    }
}

static sy_status make_room(sy__merge_room *room, int64_t n)
{
    sy_status st = SY_OK;
    SY_REQUIRE(n < INT32_MAX / 4, SY_ERR_USAGE,
               "%lld bytes of text without a boundary between tokens are too many", (long long)n);
    if (n > room->max) {
        SY_TRY(sy_realloc(2 * n, sizeof *room->symbol, (void **)&room->symbol));
        SY_TRY(sy_realloc(6 * n, sizeof *room->heap, (void **)&room->heap));
        room->max = 2 * n;
    }

cleanup:
    return st;
}

sy_status sy__merges_apply(const sy__merges *m, const int32_t byte_id[256], sy__merge_room *room,
                           const char *piece, int64_t n, int32_t *ids, int64_t *n_ids)
{
    sy_status st = SY_OK;
    int64_t n_heap = 0, n_out = 0;
    SY_TRY(make_room(room, n));
    sy__symbol *symbol = room->symbol;
    for (int32_t i = 0; i < n; i++) {
        symbol[i] = (sy__symbol){
            .id = byte_id[(uint8_t)piece[i]], .prev = i - 1, .next = i + 1 < n ? i + 1 : -1};
    }
    for (int32_t i = 0; i < n; i++) {
        pair_up(m, room, i, &n_heap);
    }
    while (n_heap >
           0) { /* each merge pushes at most two, so 3 n are the most that ever lie there */
        const uint64_t top = pop(room->heap, &n_heap);
        const int32_t i = (int32_t)(uint32_t)top, next = symbol[i].next;
        if (symbol[i].rank != (int32_t)(top >> 32)) {
            continue;
        }
        symbol[i].id = symbol[i].merged;
        symbol[i].next = symbol[next].next;
        symbol[next].rank = no_rank;
        if (symbol[i].next >= 0) {
            symbol[symbol[i].next].prev = i;
        }
        if (symbol[i].prev >= 0) {
            pair_up(m, room, symbol[i].prev, &n_heap);
        }
        pair_up(m, room, i, &n_heap);
    }
    for (int32_t i = 0; i >= 0; i = symbol[i].next) {
        ids[n_out++] = symbol[i].id;
    }
    *n_ids = n_out;

cleanup:
    return st;
}

void sy__merge_room_free(sy__merge_room *room)
{
    sy_free(&room->symbol);
    sy_free(&room->heap);
    *room = (sy__merge_room){0};
}
