/* Save. Rank 0 makes the skeleton; every rank writes its parts at their offsets and hashes the
   pieces that it writes from end to end; pieces that several ranks share are read back once all is
   on disk; rank 0 adds the tables and publishes the file. At each edge all ranks agree. */
#include "checkpoint/checkpoint.h"

#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

#include "checkpoint/catalog_impl.h"
#include "checkpoint/file_impl.h"
#include "checkpoint/h5_impl.h"
#include "checkpoint/integrity_impl.h"
#include "checkpoint/stage_impl.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "core/fault.h"
#include "parallel/agree.h"

typedef struct saver {
    const sy_state *state;
    const char *path;
    sy_comm *io;
    char *temporary;
    sy__attributes attributes; /* rank 0 alone */
    int image;                 /* rank 0 alone: see sy__h5_create */
    sy__catalog cat;
    int64_t *written; /* [n_pieces] bytes, by this rank */
    int32_t *hashed;  /* [n_pieces] 1: this rank has the piece's checksum */
    int fd;
    sy__stage stage;
    XXH3_state_t *hash; /* over the piece that is being written ... */
    int64_t item, next; /* ... as long as it goes on at this byte of this dataset */
} saver;

/* ---- rank 0 before ---- */

static sy_status describe(const sy_state *state, sy__attributes *out)
{
    sy_status st = SY_OK;
    char now[32];
    sy_clock_utc(now, sizeof now);
    out->step = state->step;
    out->tokens_seen = state->tokens_seen;
    out->complete = 1;
    SY_TRY(sy_strdup("switchyard " SY_VERSION, &out->producer));
    SY_TRY(sy_strdup(state->kind, &out->kind));
    SY_TRY(sy_strdup(state->config_yaml, &out->config_yaml));
    SY_TRY(sy_strdup(now, &out->created));
cleanup:
    return st;
}

static sy_status make_skeleton(saver *s)
{
    sy_status st = SY_OK;
    int fd = -1;
    if (s->io->rank != 0) {
        return SY_OK;
    }
    SY_TRY(describe(s->state, &s->attributes));
    SY_TRY(sy__catalog_from_state(s->state, &s->cat));
    SY_TRY(sy_fault("checkpoint_skeleton"));
    SY_TRY(sy__h5_create(s->path, &s->cat, &s->attributes, &s->image));
    SY_TRY(sy__file_create(s->temporary, &fd));
    SY_TRY(sy__file_reserve(fd, s->temporary, s->cat.file_bytes));
    SY_TRY(sy__structure_copy(s->image, fd, s->temporary, &s->cat));
    SY_TRY(sy__file_close(&fd, s->temporary, true));
cleanup:
    sy__file_close(&fd, s->temporary, false);
    return st;
}

static sy_status prepare(saver *s)
{
    sy_status st = SY_OK;
    SY_TRY(sy__stage_init(&s->stage));
    SY_TRY(sy_alloc(s->cat.n_pieces, sizeof *s->written, (void **)&s->written));
    SY_TRY(sy_alloc(s->cat.n_pieces, sizeof *s->hashed, (void **)&s->hashed));
    s->hash = XXH3_createState();
    SY_REQUIRE(s->hash, SY_ERR_MEMORY, "out of memory: no state for a checksum");
    s->next = -1;
    SY_TRY(sy__file_open_write(s->temporary, &s->fd));
cleanup:
    return st;
}

/* ---- every rank ---- */

/* Bytes of a dataset that were written; never across the edge of a piece. */
static void account(saver *s, int64_t item_idx, int64_t at, const void *bytes, int64_t n)
{
    const sy__item *item = &s->cat.item[item_idx];
    const int64_t piece_idx = item->first_piece + at / SY__PIECE_BYTES;
    sy__piece *piece = &s->cat.piece[piece_idx];
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
        piece->xxh3 = XXH3_64bits_digest(s->hash);
        s->hashed[piece_idx] = 1;
    }
}

static sy_status write_part(saver *s, const sy_field *field, int64_t item_idx, const sy_part *part)
{
    sy_status st = SY_OK;
    const sy__item *item = &s->cat.item[item_idx];
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(field->dtype);
    const int64_t begin = sy_box_offset(&part->box, field->shape_glb) * elem_bytes;
    const int64_t n = sy_box_numel(&part->box) * elem_bytes;
    SY_REQUIRE(begin >= 0 && n >= 0 && n <= item->bytes - begin, SY_ERR_INTERNAL,
               "field '%s' has a part outside its shape", field->name);
    for (int64_t done = 0; done < n;) {
        const int64_t at = begin + done, edge = SY__PIECE_BYTES - at % SY__PIECE_BYTES;
        const int64_t chunk = n - done < edge ? n - done : edge;
        const void *h_bytes = NULL;
        if (field->pull) {
            SY_TRY(field->pull(field->pull_self, at / elem_bytes, chunk / elem_bytes,
                               s->stage.h_buf, &h_bytes));
        } else {
            SY_TRY(sy__stage_fetch(&s->stage, field->dev, (const char *)part->data + done, chunk,
                                   &h_bytes));
        }
        SY_TRY(sy__file_write(s->fd, s->temporary, h_bytes, chunk, item->offset + at));
        account(s, item_idx, at, h_bytes, chunk);
        done += chunk;
    }
cleanup:
    return st;
}

static sy_status write_field(void *self, const sy_field *field)
{
    sy_status st = SY_OK;
    saver *s = self;
    const int64_t i = sy__catalog_find(&s->cat, field->name);
    SY_REQUIRE(i >= 0 && s->cat.item[i].dtype == field->dtype &&
                   sy__item_has_shape(&s->cat.item[i], field),
               SY_ERR_INTERNAL, "field '%s' is not the same on rank 0 and rank %d", field->name,
               s->io->rank);
    for (int32_t p = 0; p < field->n_parts; p++) {
        if (field->parts[p].write) {
            SY_TRY(write_part(s, field, i, &field->parts[p]));
        }
    }
cleanup:
    return st;
}

static sy_status write_parts(saver *s)
{
    sy_status st = SY_OK;
    SY_TRY(prepare(s));
    SY_TRY(sy__state_walk(s->state, s->io->rank == 0, write_field, s));
    SY_TRY(sy__file_sync(s->fd, s->temporary));
cleanup:
    return sy__file_close(&s->fd, s->temporary, st == SY_OK) == SY_OK ? st : SY_ERR_IO;
}

/* ---- together ---- */

/* Every byte was written by one rank: a part that no rank or two ranks write is a bug that would
   otherwise stay in the file. */
static sy_status check_coverage(saver *s)
{
    sy_status st = SY_OK;
    SY_TRY(sy_host_all_reduce(s->io, s->written, s->cat.n_pieces, SY_I64, SY_SUM,
                              "checkpoint bytes written"));
    for (int64_t i = 0; i < s->cat.n_pieces; i++) {
        const sy__piece *piece = &s->cat.piece[i];
        SY_REQUIRE(s->written[i] == piece->length, SY_ERR_INTERNAL,
                   "the ranks wrote %" PRId64 " bytes of the %" PRId64 " at byte %" PRId64
                   " of dataset '%s'",
                   s->written[i], piece->length, piece->offset,
                   s->cat.item[sy__catalog_item_of(&s->cat, i)].path);
    }
cleanup:
    return st;
}

/* One round of the checksums: the sum has at most one summand that is not zero. */
static sy_status gather_hashes(saver *s, uint64_t *xxh3)
{
    sy_status st = SY_OK;
    SY_TRY(
        sy_host_all_reduce(s->io, xxh3, s->cat.n_pieces, SY_I64, SY_SUM, "checkpoint checksums"));
    for (int64_t i = 0; i < s->cat.n_pieces; i++) {
        s->cat.piece[i].xxh3 = xxh3[i];
    }
cleanup:
    return st;
}

/* Pieces that no rank wrote alone are dealt out, and read back from the file as it stands. Opened
   anew, so that a network file system looks again. */
static sy_status read_back(saver *s, uint64_t *xxh3)
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
        xxh3[i] = XXH3_64bits(s->stage.h_buf, (size_t)piece->length);
    }
cleanup:
    sy__file_close(&s->fd, s->temporary, false);
    return st;
}

static sy_status collect_hashes(saver *s, uint64_t *xxh3)
{
    sy_status st = SY_OK;
    for (int64_t i = 0; i < s->cat.n_pieces; i++) {
        xxh3[i] = s->hashed[i] > 0 ? s->cat.piece[i].xxh3 : 0;
    }
    SY_TRY(sy_host_all_reduce(s->io, s->hashed, s->cat.n_pieces, SY_I32, SY_SUM,
                              "checkpoint pieces hashed"));
    SY_TRY(sy_agree(s->io, read_back(s, xxh3)));
    SY_TRY(gather_hashes(s, xxh3));
cleanup:
    return st;
}

/* ---- rank 0 after ---- */

static sy_status finish(saver *s)
{
    sy_status st = SY_OK;
    if (s->io->rank != 0) {
        return SY_OK;
    }
    SY_TRY(sy__file_open_write(s->temporary, &s->fd));
    SY_TRY(sy__integrity_write(s->fd, s->temporary, &s->cat, &s->attributes));
    SY_TRY(sy__h5_complete(s->path, s->image));
    SY_TRY(sy__structure_copy(s->image, s->fd, s->temporary, &s->cat));
    SY_TRY(sy__structure_write(s->fd, s->temporary, &s->cat));
    SY_TRY(sy__file_sync(s->fd, s->temporary));
    SY_TRY(sy__file_close(&s->fd, s->temporary, true));
    SY_TRY(sy__file_publish(s->temporary, s->path));
cleanup:
    sy__file_close(&s->fd, s->temporary, false);
    return st;
}

static sy_status save(saver *s, uint64_t **xxh3)
{
    sy_status st = SY_OK;
    SY_TRY(sy__catalog_share(&s->cat, s->io, make_skeleton(s)));
    SY_TRY(sy_agree(s->io, write_parts(s)));
    SY_TRY(check_coverage(s));
    SY_TRY(sy_agree(s->io, sy_alloc(s->cat.n_pieces, sizeof **xxh3, (void **)xxh3)));
    SY_TRY(collect_hashes(s, *xxh3));
    SY_TRY(sy_agree(s->io, finish(s)));
cleanup:
    return st;
}

static void discard(saver *s)
{
    if (s->io->rank == 0 && s->temporary) {
        sy__file_remove(s->temporary); /* the first error is the one to tell */
    }
}

sy_status sy_checkpoint_save(const char *path, const sy_state *state, sy_comm *io)
{
    sy_status st = SY_OK;
    saver s = {.state = state, .path = path, .io = io, .image = -1, .fd = -1};
    uint64_t *xxh3 = NULL;
    SY_TRY(sy_agree(s.io, sy__file_temporary(path, &s.temporary)));
    st = save(&s, &xxh3);
    if (st != SY_OK) {
        sy_error_frame(__FILE__, __LINE__, __func__);
        discard(&s);
    }
cleanup:
    sy_free(&xxh3);
    sy__file_close(&s.image, path, false);
    XXH3_freeState(s.hash);
    sy__stage_free(&s.stage);
    sy_free(&s.hashed);
    sy_free(&s.written);
    sy__catalog_free(&s.cat);
    sy__attributes_free(&s.attributes);
    sy_free(&s.temporary);
    return st;
}
