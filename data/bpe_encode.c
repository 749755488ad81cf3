/* Text -> added tokens and what lies between them -> normal form -> pieces -> ids. What a call
   writes is a scratch from a pool; with it come the ids of short pieces that were met before. */
#include <pthread.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/alloc.h"
#include "data/bpe_impl.h"

enum { CACHE_SLOTS = 1 << 15, PIECE_BYTES = 34, PIECE_IDS = 7 };

typedef struct cached { /* a cache line; n_bytes 0: empty */
    uint8_t n_bytes, n_ids;
    char bytes[PIECE_BYTES];
    int32_t ids[PIECE_IDS];
} cached;

typedef struct scratch {
    struct scratch *next;
    cached *cache;
    sy__merge_room merge;
    sy__match_room match[SY__MAX_SPLITS];
    sy__text valid, normal, spaced;
    /* of the call that has it */
    const sy__bpe *b;
    bool special;
    int32_t *ids;
    int64_t n_ids;
} scratch;

struct sy__bpe_pool {
    pthread_mutex_t lock;
    scratch *idle;
};

static sy_status take(const sy__bpe *b, scratch **out)
{
    sy_status st = SY_OK;
    scratch *s = NULL;
    (void)pthread_mutex_lock(&b->pool->lock);
    s = b->pool->idle;
    if (s != NULL) {
        b->pool->idle = s->next;
    }
    (void)pthread_mutex_unlock(&b->pool->lock);
    if (s == NULL) {
        SY_TRY(sy_alloc(1, sizeof *s, (void **)&s));
        SY_TRY(sy_alloc(CACHE_SLOTS, sizeof *s->cache, (void **)&s->cache));
    }
    *out = s;
    s = NULL;

cleanup:
    sy_free(&s);
    return st;
}

static void give_back(const sy__bpe *b, scratch *s)
{
    (void)pthread_mutex_lock(&b->pool->lock);
    s->next = b->pool->idle;
    b->pool->idle = s;
    (void)pthread_mutex_unlock(&b->pool->lock);
}

static void free_scratch(scratch *s)
{
    for (int32_t i = 0; i < SY__MAX_SPLITS; i++) {
        sy__match_room_free(&s->match[i]);
    }
    sy__merge_room_free(&s->merge);
    sy_free(&s->valid.bytes);
    sy_free(&s->normal.bytes);
    sy_free(&s->spaced.bytes);
    sy_free(&s->cache);
    sy_free(&s);
}

sy_status sy__bpe_pool_create(struct sy__bpe_pool **out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_alloc(1, sizeof **out, (void **)out));
    (void)pthread_mutex_init(&(*out)->lock, NULL);

cleanup:
    return st;
}

void sy__bpe_pool_destroy(struct sy__bpe_pool **pool)
{
    if (*pool == NULL) {
        return;
    }
    for (scratch *s = (*pool)->idle, *next; s != NULL; s = next) {
        next = s->next;
        free_scratch(s);
    }
    (void)pthread_mutex_destroy(&(*pool)->lock);
    sy_free(pool);
}

static sy_status merge_piece(scratch *s, const char *piece, int64_t n, int64_t *n_ids)
{
    const int32_t id = s->b->whole_first ? sy__vocab_find(&s->b->vocab, piece, n) : -1;
    if (id >= 0) {
        s->ids[s->n_ids] = id;
        *n_ids = 1;
        return SY_OK;
    }
    return sy__merges_apply(&s->b->merges, s->b->byte_id, &s->merge, piece, n, s->ids + s->n_ids,
                            n_ids);
}

static sy_status add_piece(scratch *s, const char *piece, int64_t n)
{
    sy_status st = SY_OK;
    int64_t n_ids = 0;
    cached *c = NULL;
    if (n <= PIECE_BYTES) {
        c = &s->cache[XXH3_64bits(piece, (size_t)n) & (CACHE_SLOTS - 1)];
    }
    if (c != NULL && c->n_bytes == n && memcmp(c->bytes, piece, (size_t)n) == 0) {
        for (int32_t i = 0; i < c->n_ids; i++) {
            s->ids[s->n_ids++] = c->ids[i];
        }
        return SY_OK;
    }
    SY_TRY(merge_piece(s, piece, n, &n_ids));
    if (c != NULL && n_ids <= PIECE_IDS) {
        c->n_bytes = (uint8_t)n;
        c->n_ids = (uint8_t)n_ids;
        memcpy(c->bytes, piece, (size_t)n);
        memcpy(c->ids, s->ids + s->n_ids, (size_t)n_ids * sizeof *c->ids);
    }
    s->n_ids += n_ids;

cleanup:
    return st;
}

/* Pieces of the splits from `level` on; each split sees a piece of the one before as a whole text.
 */
static sy_status add_split(scratch *s, int32_t level, const char *text, int64_t n)
{
    sy_status st = SY_OK;
    if (level == s->b->n_splits) {
        return n > 0 ? add_piece(s, text, n) : SY_OK;
    }
    const sy__pattern *p = &s->b->split[level];
    for (int64_t from = 0, begin = 0, end = 0; from < n; from = end) {
        SY_TRY(sy__pattern_next(p, &s->match[level], text, n, from, &begin, &end));
        if (begin > from && !p->drop_gaps) {
            SY_TRY(add_split(s, level + 1, text + from, begin - from));
        }
        if (end > begin) {
            SY_TRY(add_split(s, level + 1, text + begin, end - begin));
        }
    }

cleanup:
    return st;
}

static sy_status add_plain(scratch *s, const char *text, int64_t n)
{
    sy_status st = SY_OK;
    if (s->b->prefix_space && n > 0 && text[0] != ' ') {
        SY_TRY(sy__text_reserve(&s->spaced, n + 1));
        s->spaced.bytes[0] = ' ';
        memcpy(s->spaced.bytes + 1, text, (size_t)n);
        text = s->spaced.bytes;
        n++;
    }
    SY_TRY(add_split(s, 0, text, n));

cleanup:
    return st;
}

static sy_status add_text(scratch *s, bool normalized, const char *text, int64_t n);

static sy_status add_between(scratch *s, bool normalized, const char *text, int64_t n)
{
    sy_status st = SY_OK;
    bool same = true;
    if (normalized) {
        return add_plain(s, text, n);
    }
    if (s->b->nfc) {
        SY_TRY(sy__utf8_nfc(text, n, &s->normal, &same));
    }
    SY_TRY(add_text(s, true, same ? text : s->normal.bytes, same ? n : s->normal.n));

cleanup:
    return st;
}

/* First the tokens that are looked for in the text as it is, then those in its normal form. */
static sy_status add_text(scratch *s, bool normalized, const char *text, int64_t n)
{
    sy_status st = SY_OK;
    int64_t done = 0, begin = 0, end = 0;
    for (int64_t from = 0; from < n;) {
        const sy__added_token *t =
            sy__added_next(&s->b->added, normalized, s->special, text, n, &from, &begin, &end);
        if (t == NULL) {
            break;
        }
        SY_TRY(add_between(s, normalized, text + done, begin - done));
        s->ids[s->n_ids++] = t->id;
        done = end;
    }
    SY_TRY(add_between(s, normalized, text + done, n - done));

cleanup:
    return st;
}

sy_status sy__bpe_encode(const sy__bpe *b, bool special, bool refuse, const char *text, int64_t n,
                         int32_t *ids, int64_t *n_ids)
{
    sy_status st = SY_OK;
    scratch *s = NULL;
    const int64_t valid = sy__utf8_valid(text, n);
    SY_REQUIRE(valid == n || !refuse, SY_ERR_USAGE, "byte %lld of the text is not UTF-8",
               (long long)valid);
    SY_TRY(take(b, &s));
    s->b = b;
    s->special = special;
    s->ids = ids;
    s->n_ids = 0;
    if (valid < n) {
        SY_TRY(sy__utf8_repair(text, n, &s->valid));
        text = s->valid.bytes;
        n = s->valid.n;
    }
    SY_TRY(add_text(s, false, text, n));
    *n_ids = s->n_ids;

cleanup:
    if (s != NULL) {
        give_back(b, s);
    }
    return st;
}
