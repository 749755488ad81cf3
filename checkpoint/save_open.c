/* The beginning of a save: rank 0 makes the skeleton, everybody lists what it will write. */
#include <string.h>

#include "checkpoint/file_impl.h"
#include "checkpoint/h5_impl.h"
#include "checkpoint/integrity_impl.h"
#include "checkpoint/save_impl.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "core/fault.h"
#include "parallel/agree.h"

/* ---- rank 0 ---- */

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

static sy_status make_skeleton(sy__save *s, const sy_state *state)
{
    sy_status st = SY_OK;
    int fd = -1;
    if (s->io->rank != 0) {
        return SY_OK;
    }
    SY_TRY(describe(state, &s->attributes));
    SY_TRY(sy__catalog_from_state(state, &s->cat));
    SY_TRY(sy_fault("checkpoint_skeleton"));
    SY_TRY(sy__h5_create(s->path, &s->cat, &s->attributes, &s->image));
    SY_TRY(sy__file_create(s->temporary, &fd));
    SY_TRY(sy__file_resize(fd, s->temporary, s->cat.file_bytes));
    SY_TRY(sy__structure_copy(s->image, fd, s->temporary, &s->cat));
    SY_TRY(sy__file_close(&fd, s->temporary, true));
cleanup:
    sy__file_close(&fd, s->temporary, false);
    return st;
}

/* ---- every rank ---- */

static sy_status add_stretch(sy__save *s, const sy__stretch *stretch)
{
    sy_status st = SY_OK;
    if (s->n_stretches == s->capacity) {
        int64_t capacity = 2 * s->capacity + 64;
        SY_TRY(sy_realloc(capacity, sizeof *s->stretch, (void **)&s->stretch));
        s->capacity = capacity;
    }
    s->stretch[s->n_stretches++] = *stretch;
cleanup:
    return st;
}

static sy_status add_field(void *self, const sy_field *field)
{
    sy_status st = SY_OK;
    sy__save *s = self;
    const int64_t i = sy__catalog_find(&s->cat, field->name);
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(field->dtype);
    SY_REQUIRE(i >= 0 && s->cat.item[i].dtype == field->dtype &&
                   sy__item_has_shape(&s->cat.item[i], field),
               SY_ERR_INTERNAL, "field '%s' is not the same on rank 0 and rank %d", field->name,
               s->io->rank);
    for (int32_t p = 0; p < field->n_parts; p++) {
        const sy_part *part = &field->parts[p];
        sy__stretch stretch = {.item = i,
                               .at = sy_box_offset(&part->box, field->shape_glb) * elem_bytes,
                               .n = sy_box_numel(&part->box) * elem_bytes,
                               .data = part->data,
                               .dev = field->dev,
                               .pull = field->pull,
                               .pull_self = field->pull_self};
        SY_REQUIRE(stretch.at >= 0 && stretch.n >= 0 &&
                       stretch.n <= s->cat.item[i].bytes - stretch.at,
                   SY_ERR_INTERNAL, "field '%s' has a part outside its shape", field->name);
        if (part->write && stretch.n > 0) {
            SY_TRY(add_stretch(s, &stretch));
        }
    }
cleanup:
    return st;
}

/* Counters go on while the file is written. */
static sy_status copy_host(sy__save *s)
{
    sy_status st = SY_OK;
    int64_t bytes = 0;
    for (int64_t i = 0; i < s->n_stretches; i++) {
        bytes += s->stretch[i].dev == NULL && s->stretch[i].pull == NULL ? s->stretch[i].n : 0;
    }
    SY_TRY(sy_alloc(bytes, 1, (void **)&s->h_host));
    for (int64_t i = 0, at = 0; i < s->n_stretches; i++) {
        sy__stretch *stretch = &s->stretch[i];
        if (stretch->dev == NULL && stretch->pull == NULL) {
            memcpy(s->h_host + at, stretch->data, (size_t)stretch->n);
            stretch->data = s->h_host + at;
            at += stretch->n;
        }
    }
cleanup:
    return st;
}

static sy_status prepare(sy__save *s, const sy_state *state, bool keep_host)
{
    sy_status st = SY_OK;
    SY_TRY(sy__state_walk(state, s->io->rank == 0, add_field, s));
    SY_TRY(keep_host ? copy_host(s) : SY_OK);
    SY_TRY(sy__stage_init(&s->stage));
    for (int64_t i = 0; i < s->n_stretches && s->stage.dev == NULL; i++) {
        SY_TRY(s->stretch[i].dev != NULL ? sy__stage_use(&s->stage, s->stretch[i].dev) : SY_OK);
    }
    SY_TRY(sy_alloc(s->cat.n_pieces, sizeof *s->written, (void **)&s->written));
    SY_TRY(sy_alloc(s->cat.n_pieces, sizeof *s->hashed, (void **)&s->hashed));
    SY_TRY(sy_alloc(s->cat.n_pieces, sizeof *s->xxh3, (void **)&s->xxh3));
    s->hash = XXH3_createState();
    SY_REQUIRE(s->hash, SY_ERR_MEMORY, "out of memory: no state for a checksum");
    s->next = -1;
cleanup:
    return st;
}

sy_status sy__save_open(sy__save *s, const sy_state *state, bool keep_host)
{
    sy_status st = SY_OK;
    s->image = s->fd = -1;
    s->unsynced = state->unsynced;
    SY_TRY(sy_agree(s->io, sy__file_temporary(s->path, &s->temporary)));
    SY_TRY(sy__catalog_share(&s->cat, s->io, make_skeleton(s, state)));
    SY_TRY(sy_agree(s->io, prepare(s, state, keep_host)));
cleanup:
    return st;
}

void sy__save_close(sy__save *s)
{
    sy__out_close(&s->out, false);
    sy__file_close(&s->fd, s->temporary, false);
    sy__file_close(&s->image, s->path, false);
    XXH3_freeState(s->hash);
    sy__stage_free(&s->stage);
    sy_free(&s->xxh3);
    sy_free(&s->hashed);
    sy_free(&s->written);
    sy_free(&s->h_host);
    sy_free(&s->stretch);
    sy__catalog_free(&s->cat);
    sy__attributes_free(&s->attributes);
    sy_free(&s->temporary);
    *s = (sy__save){.image = -1, .fd = -1};
}

void sy__save_discard(sy__save *s)
{
    if (s->io->rank == 0 && s->temporary) {
        sy__file_remove(s->temporary); /* the first error is the one to tell */
    }
}
