/* The stages of a save in their order, run in a thread of this rank or, for a save that training
   waits for, at once. */
#include <string.h>

#include "checkpoint/file_impl.h"
#include "checkpoint/save_impl.h"
#include "checkpoint/saver.h"
#include "core/alloc.h"
#include "core/span.h"
#include "core/thread.h"
#include "parallel/agree.h"

typedef enum stage {
    STAGE_NONE,
    STAGE_WRITE,
    STAGE_READ_BACK,
    STAGE_PUBLISH,
    STAGE_END /* the thread is to end */
} stage;

struct sy_saver {
    sy_saver_spec spec;
    sy__save save;
    char *path;
    char *ring;
    stage now;      /* of the save under way; the main thread's */
    sy_status mine; /* of this rank's part of the last stage, */
    sy_trace trace; /* and its message, where that failed */
    bool threaded;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    stage todo; /* what the thread is to do, or does */
    bool copied;
};

/* ---- this rank's part ---- */

static void tell_copied(void *self)
{
    sy_saver *saver = self;
    pthread_mutex_lock(&saver->lock);
    saver->copied = true;
    pthread_cond_broadcast(&saver->changed);
    pthread_mutex_unlock(&saver->lock);
}

static void run_stage(sy_saver *saver, stage todo)
{
    static const char *const names[] = {[STAGE_WRITE] = "checkpoint: write",
                                        [STAGE_READ_BACK] = "checkpoint: read back",
                                        [STAGE_PUBLISH] = "checkpoint: publish"};
    sy__save *s = &saver->save;
    sy_span_begin(SY_SPAN_FILE, names[todo], -1, -1);
    saver->mine = todo == STAGE_WRITE       ? sy__save_write(s, tell_copied, saver)
                  : todo == STAGE_READ_BACK ? sy__save_read_back(s)
                                            : sy__save_publish(s);
    sy_span_end();
    sy_error_take(&saver->trace);
    sy_error_clear();
}

static void *thread_main(void *arg)
{
    sy_saver *saver = arg;
    memset(saver->ring, 0,
           (size_t)saver->spec.staging_bytes); /* no page is new in the first save */
    pthread_mutex_lock(&saver->lock);
    while (saver->todo != STAGE_END) {
        if (saver->todo == STAGE_NONE) {
            pthread_cond_wait(&saver->changed, &saver->lock);
            continue;
        }
        stage todo = saver->todo;
        pthread_mutex_unlock(&saver->lock);
        run_stage(saver, todo);
        pthread_mutex_lock(&saver->lock);
        saver->todo = STAGE_NONE;
        pthread_cond_broadcast(&saver->changed);
    }
    pthread_mutex_unlock(&saver->lock);
    return NULL;
}

/* ---- orders ---- */

static void hand_over(sy_saver *saver, stage todo)
{
    pthread_mutex_lock(&saver->lock);
    saver->todo = todo;
    pthread_cond_broadcast(&saver->changed);
    pthread_mutex_unlock(&saver->lock);
}

static void start(sy_saver *saver, stage todo)
{
    saver->now = todo;
    if (saver->threaded) {
        hand_over(saver, todo);
    } else {
        run_stage(saver, todo);
    }
}

static void wait_for_thread(sy_saver *saver)
{
    pthread_mutex_lock(&saver->lock);
    while (saver->todo != STAGE_NONE) {
        pthread_cond_wait(&saver->changed, &saver->lock);
    }
    pthread_mutex_unlock(&saver->lock);
}

void sy_saver_wait_copied(sy_saver *saver)
{
    pthread_mutex_lock(&saver->lock);
    while (saver->now == STAGE_WRITE && !saver->copied) {
        pthread_cond_wait(&saver->changed, &saver->lock);
    }
    pthread_mutex_unlock(&saver->lock);
}

bool sy_saver_busy(const sy_saver *saver)
{
    return saver->now != STAGE_NONE;
}

bool sy_saver_ready(sy_saver *saver)
{
    pthread_mutex_lock(&saver->lock);
    bool ready = saver->todo == STAGE_NONE;
    pthread_mutex_unlock(&saver->lock);
    return ready;
}

/* ---- the stages ---- */

static sy_status after_write(sy_saver *saver)
{
    sy_status st = SY_OK;
    bool shared = false;
    SY_TRY(sy__save_check(&saver->save, &shared));
    if (shared) {
        start(saver, STAGE_READ_BACK);
    } else {
        SY_TRY(sy__save_gather(&saver->save));
        start(saver, STAGE_PUBLISH);
    }
cleanup:
    return st;
}

static sy_status after_read_back(sy_saver *saver)
{
    sy_status st = SY_OK;
    SY_TRY(sy__save_gather(&saver->save));
    start(saver, STAGE_PUBLISH);
cleanup:
    return st;
}

static void end(sy_saver *saver, sy_status st)
{
    if (st != SY_OK) {
        sy__save_discard(&saver->save);
    }
    sy__save_close(&saver->save);
    sy_free(&saver->path);
    saver->now = STAGE_NONE;
}

sy_status sy_saver_begin(sy_saver *saver, const char *path, const sy_state *state)
{
    sy_status st = SY_OK;
    saver->save = (sy__save){.io = saver->spec.io,
                             .ring = saver->ring,
                             .ring_bytes = saver->spec.staging_bytes,
                             .image = -1,
                             .fd = -1};
    SY_TRY(sy_agree(saver->spec.io, sy_strdup(path, &saver->path)));
    saver->save.path = saver->path;
    sy_span_begin(SY_SPAN_FILE, "checkpoint: open", -1, -1);
    st = sy__save_open(&saver->save, state, saver->threaded);
    sy_span_end();
    SY_TRY(st);
    saver->copied = false;
    start(saver, STAGE_WRITE);
cleanup:
    if (st != SY_OK) {
        end(saver, st);
    }
    return st;
}

sy_status sy_saver_advance(sy_saver *saver, bool *finished)
{
    sy_status st = SY_OK;
    stage ended = saver->now;
    *finished = false;
    wait_for_thread(saver);
    if (saver->mine != SY_OK) {
        sy_error_clear();
        (void)sy_error_raise(&saver->trace);
    }
    SY_TRY(sy_agree(saver->spec.io, saver->mine));
    if (ended == STAGE_WRITE) {
        SY_TRY(after_write(saver));
    } else if (ended == STAGE_READ_BACK) {
        SY_TRY(after_read_back(saver));
    } else {
        end(saver, SY_OK);
        *finished = true;
    }
cleanup:
    if (st != SY_OK) {
        end(saver, st);
    }
    return st;
}

sy_status sy_saver_finish(sy_saver *saver)
{
    sy_status st = SY_OK;
    bool finished = saver->now == STAGE_NONE;
    while (!finished) {
        SY_TRY(sy_saver_advance(saver, &finished));
    }
cleanup:
    return st;
}

/* ---- life ---- */

static void init(sy_saver *saver, const sy_saver_spec *spec)
{
    *saver = (sy_saver){.spec = *spec};
    saver->save.image = saver->save.fd = -1;
    pthread_mutex_init(&saver->lock, NULL);
    pthread_cond_init(&saver->changed, NULL);
}

static void release(sy_saver *saver)
{
    pthread_cond_destroy(&saver->changed);
    pthread_mutex_destroy(&saver->lock);
}

sy_status sy_saver_create(const sy_saver_spec *spec, sy_saver **out)
{
    sy_status st = SY_OK;
    sy_saver *saver = NULL;
    SY_TRY(sy_alloc(1, sizeof *saver, (void **)&saver));
    init(saver, spec);
    SY_REQUIRE(spec->staging_bytes >= 2 * SY_PULL_BYTES, SY_ERR_INTERNAL,
               "a copy of %ld bytes is too small to save through", (long)spec->staging_bytes);
    SY_TRY(sy_alloc(spec->staging_bytes, 1, (void **)&saver->ring));
    sy_device_book_host(spec->dev, SY_MEM_CHECKPOINT, spec->staging_bytes);
    sy_device_pin(spec->dev, saver->ring, spec->staging_bytes);
    SY_TRY(sy_thread_start("saver", thread_main, saver, &saver->thread));
    saver->threaded = true;
    *out = saver;
    saver = NULL;
cleanup:
    sy_saver_destroy(&saver);
    return st;
}

void sy_saver_destroy(sy_saver **saver)
{
    sy_saver *gone = *saver;
    if (gone == NULL) {
        return;
    }
    if (gone->threaded) {
        wait_for_thread(gone);
        hand_over(gone, STAGE_END);
        pthread_join(gone->thread, NULL);
    }
    if (gone->now != STAGE_NONE) {
        end(gone, SY_ERR_IO);
    }
    if (gone->ring != NULL) {
        sy_device_unpin(gone->spec.dev, gone->ring);
        sy_device_book_host(gone->spec.dev, SY_MEM_CHECKPOINT, -gone->spec.staging_bytes);
    }
    sy_free(&gone->ring);
    release(gone);
    sy_free(saver);
}

static sy_status add_bytes(void *to, const sy_field *field)
{
    int64_t *bytes = to;
    for (int32_t p = 0; p < field->n_parts; p++) {
        if (field->parts[p].write && field->dev != NULL) {
            *bytes += sy_box_numel(&field->parts[p].box) * (int64_t)sy_dtype_bytes(field->dtype);
        }
    }
    return SY_OK;
}

sy_status sy_saver_bytes(const sy_state *state, int64_t *out)
{
    *out = 0;
    return sy__state_walk(state, false, add_bytes, out);
}

sy_status sy_checkpoint_save(const char *path, const sy_state *state, sy_comm *io)
{
    sy_status st = SY_OK;
    sy_saver saver;
    init(&saver, &(sy_saver_spec){.io = io});
    SY_TRY(sy_saver_begin(&saver, path, state));
    SY_TRY(sy_saver_finish(&saver));
cleanup:
    release(&saver);
    return st;
}

static sy_status sync_file(const char *path)
{
    sy_status st = SY_OK;
    int fd = -1;
    SY_TRY(sy__file_open_write(path, &fd));
    SY_TRY(sy__file_sync(fd, path));
    SY_TRY(sy__file_close(&fd, path, true));
cleanup:
    sy__file_close(&fd, path, false);
    return st;
}

sy_status sy_checkpoint_sync(const char *path, sy_comm *io)
{
    return sy_agree(io, sync_file(path));
}
