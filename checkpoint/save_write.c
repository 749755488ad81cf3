/* A rank's own part of a save: write its stretches at their offsets and hash the pieces that it
   writes from end to end. With a ring, device memory is copied ahead of the writing, as far as the
   ring holds it. */
#include <string.h>

#include "checkpoint/file_impl.h"
#include "checkpoint/integrity_impl.h"
#include "checkpoint/save_impl.h"
#include "core/fault.h"

enum { FLUSH_BYTES = 1 << 20 }; /* less is not worth a call */

/* ---- chunks ---- */

/* The chunk at the cursor: bytes [*at, *at + *n) of its stretch. */
static const sy__stretch *chunk_at(const sy__save *s, const sy__cursor *c, int64_t *n)
{
    const sy__stretch *stretch = &s->stretch[c->stretch];
    const int64_t at = stretch->at + c->done, rest = stretch->n - c->done;
    const sy__piece *piece = &s->cat.piece[sy__catalog_piece_at(&s->cat, stretch->item, at)];
    const int64_t edge = piece->offset + piece->length - at;
    *n = rest < edge ? rest : edge;
    return stretch;
}

static void step_over(const sy__save *s, sy__cursor *c, int64_t n)
{
    c->done += n;
    if (c->done == s->stretch[c->stretch].n) {
        c->stretch++;
        c->done = 0;
    }
}

static bool is_copied(const sy__save *s, const sy__stretch *stretch)
{
    return s->ring && stretch->dev;
}

/* Where in the ring a chunk of n bytes lies: it is never torn, so the end may stay unused. The same
   for whoever fills the ring and whoever empties it. */
static int64_t place_in_ring(const sy__save *s, const sy__cursor *c, int64_t n)
{
    const int64_t at = c->ring % s->ring_bytes;
    return at + n <= s->ring_bytes ? c->ring : c->ring + s->ring_bytes - at;
}

/* ---- the copy ---- */

/* Copy chunks until the ring is full or there is no more; `tail` is the first that was not written
   yet. */
static sy_status copy_ahead(sy__save *s, sy__cursor *head, const sy__cursor *tail)
{
    sy_status st = SY_OK;
    while (head->stretch < s->n_stretches) {
        int64_t n = 0;
        const sy__stretch *stretch = chunk_at(s, head, &n);
        if (is_copied(s, stretch)) {
            const int64_t place = place_in_ring(s, head, n);
            if (place + n - tail->ring > s->ring_bytes) {
                break;
            }
            SY_TRY(sy__stage_copy(&s->stage, stretch->dev, stretch->data + head->done, n,
                                  s->ring + place % s->ring_bytes));
            head->ring = place + n;
        }
        step_over(s, head, n);
    }
cleanup:
    return st;
}

/* ---- the writing ---- */

/* Bytes of a dataset that were written; never across the edge of a piece. */
static void account(sy__save *s, int64_t item_idx, int64_t at, const void *bytes, int64_t n)
{
    const int64_t piece_idx = sy__catalog_piece_at(&s->cat, item_idx, at);
    const sy__piece *piece = &s->cat.piece[piece_idx];
    s->written[piece_idx] += n;
    if (at == piece->offset) {
        XXH3_64bits_reset(s->hash);
    } else if (s->item != item_idx || s->next != at) {
        s->next = -1; /* the piece's beginning comes from elsewhere */
        return;
    }
    XXH3_64bits_update(s->hash, bytes, (size_t)n);
    s->item = item_idx;
    s->next = at + n;
    if (s->next == piece->offset + piece->length) {
        s->xxh3[piece_idx] = XXH3_64bits_digest(s->hash);
        s->hashed[piece_idx] = 1;
    }
}

/* Host bytes of the chunk at the cursor. */
static sy_status fetch(sy__save *s, sy__cursor *tail, const sy__stretch *stretch, int64_t n,
                       const void **h_bytes)
{
    sy_status st = SY_OK;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(s->cat.item[stretch->item].dtype);
    if (stretch->pull) {
        SY_TRY(stretch->pull(stretch->pull_self, (stretch->at + tail->done) / elem_bytes,
                             n / elem_bytes, s->stage.h_buf, h_bytes));
    } else if (is_copied(s, stretch)) {
        const int64_t place = place_in_ring(s, tail, n);
        *h_bytes = s->ring + place % s->ring_bytes;
        tail->ring = place + n;
    } else {
        SY_TRY(sy__stage_fetch(&s->stage, stretch->dev, stretch->data + tail->done, n, h_bytes));
    }
cleanup:
    return st;
}

static sy_status write_chunk(sy__save *s, sy__cursor *tail)
{
    sy_status st = SY_OK;
    int64_t n = 0;
    const sy__stretch *stretch = chunk_at(s, tail, &n);
    const int64_t at = stretch->at + tail->done;
    const void *h_bytes = NULL;
    SY_TRY(fetch(s, tail, stretch, n, &h_bytes));
    SY_TRY(sy__out_write(&s->out, h_bytes, n, s->cat.item[stretch->item].offset + at));
    if (n >= FLUSH_BYTES) {
        sy__out_flush(&s->out, n, s->cat.item[stretch->item].offset + at);
    }
    account(s, stretch->item, at, h_bytes, n);
    step_over(s, tail, n);
cleanup:
    return st;
}

sy_status sy__save_write(sy__save *s, sy__copied *copied, void *self)
{
    sy_status st = SY_OK;
    sy__cursor head = {0}, tail = {0};
    bool told = false;
    SY_TRY(sy__out_open(s->temporary, &s->out));
    SY_TRY(s->io->rank == 0 ? sy__out_claim(&s->out, s->cat.file_bytes) : SY_OK);
    while (tail.stretch < s->n_stretches || !told) {
        SY_TRY(copy_ahead(s, &head, &tail));
        if (head.stretch == s->n_stretches && !told) {
            told = true;
            copied(self);
        } else {
            SY_TRY(write_chunk(s, &tail));
        }
    }
    if (!s->unsynced || s->out.fd < 0) { /* MPI-IO shows others what was synced only */
        SY_TRY(sy__out_sync(&s->out));
    }
cleanup:
    if (!told) {
        copied(self);
    }
    return sy__out_close(&s->out, st == SY_OK) == SY_OK ? st : SY_ERR_IO;
}

/* ---- after ---- */

/* Pieces that no rank wrote alone are dealt out, and read back from the file as it stands. Opened
   anew, so that a network file system looks again. */
sy_status sy__save_read_back(sy__save *s)
{
    sy_status st = SY_OK;
    int64_t turn = 0, bytes = 0;
    SY_TRY(sy__file_open_read(s->temporary, &s->fd, &bytes));
    for (int64_t i = 0; i < s->cat.n_pieces; i++) {
        if (s->hashed[i] > 0 || turn++ % s->io->size != s->io->rank) {
            continue;
        }
        const sy__item *item = &s->cat.item[sy__catalog_item_of(&s->cat, i)];
        const sy__piece *piece = &s->cat.piece[i];
        SY_TRY(sy__file_read(s->fd, s->temporary, s->stage.h_buf, piece->length,
                             item->offset + piece->offset));
        s->xxh3[i] = XXH3_64bits(s->stage.h_buf, (size_t)piece->length);
    }
cleanup:
    sy__file_close(&s->fd, s->temporary, false);
    return st;
}

sy_status sy__save_publish(sy__save *s)
{
    sy_status st = SY_OK;
    if (s->io->rank != 0) {
        return SY_OK;
    }
    SY_TRY(sy__file_open_write(s->temporary, &s->fd));
    SY_TRY(sy__integrity_write(s->fd, s->temporary, &s->cat, &s->attributes));
    SY_TRY(sy__structure_copy(s->image, s->fd, s->temporary, &s->cat));
    SY_TRY(sy__structure_write(s->fd, s->temporary, &s->cat));
    SY_TRY(s->unsynced ? SY_OK : sy__file_sync(s->fd, s->temporary));
    SY_TRY(sy__file_close(&s->fd, s->temporary, true));
    SY_TRY(sy__file_publish(s->temporary, s->path, !s->unsynced));
cleanup:
    sy__file_close(&s->fd, s->temporary, false);
    return st;
}
