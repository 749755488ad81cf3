/* A few slots in a ring: piece i of the list goes through slot i mod SLOTS. Threads fill what is
   free, each the next piece that nobody reads yet; the taker empties them in order. */
#include "checkpoint/ahead_impl.h"

#include <fcntl.h>

#include "checkpoint/file_impl.h"
#include "checkpoint/integrity_impl.h"
#include "core/alloc.h"
#include "core/thread.h"

enum { SLOTS = 4, THREADS = 2 };

typedef struct slot {
    void *h_bytes;   /* [largest piece] */
    int64_t n_ready; /* i + 1: holds piece i of the list */
    sy_status st;    /* of reading it, */
    sy_trace trace;  /* and its message, where that failed */
} slot;

struct sy__ahead {
    const char *path;
    const sy__catalog *cat;
    const sy__want *want;
    int64_t n;
    int fd;
    pthread_t thread[THREADS];
    int32_t n_threads;
    pthread_mutex_t lock; /* of what follows, but the bytes of a slot that is being filled */
    pthread_cond_t changed;
    slot slot[SLOTS];
    int64_t n_begun; /* pieces that a thread reads or has read */
    int64_t n_taken; /* the last of them is still in use */
    bool stop;
};

/* ---- the threads ---- */

static void fill(sy__ahead *a, slot *to, const sy__want *want)
{
    to->st = sy__piece_read(a->fd, a->path, a->cat, sy__catalog_item_of(a->cat, want->piece),
                            want->piece, want->h_to ? want->h_to : to->h_bytes);
    sy_error_take(&to->trace);
    sy_error_clear();
}

static void *thread_main(void *arg)
{
    sy__ahead *a = arg;
    pthread_mutex_lock(&a->lock);
    while (!a->stop && a->n_begun < a->n) {
        const int64_t i = a->n_begun;
        if (i >= a->n_taken - 1 + SLOTS) { /* its slot holds what is in use or to be taken */
            pthread_cond_wait(&a->changed, &a->lock);
            continue;
        }
        a->n_begun++;
        pthread_mutex_unlock(&a->lock);
        fill(a, &a->slot[i % SLOTS], &a->want[i]);
        pthread_mutex_lock(&a->lock);
        a->slot[i % SLOTS].n_ready = i + 1;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

/* ---- the taker ---- */

sy_status sy__ahead_next(sy__ahead *ahead, const void **h_bytes)
{
    const int64_t i = ahead->n_taken;
    slot *from = &ahead->slot[i % SLOTS];
    pthread_mutex_lock(&ahead->lock);
    ahead->n_taken++;
    pthread_cond_broadcast(&ahead->changed);
    while (from->n_ready != i + 1) {
        pthread_cond_wait(&ahead->changed, &ahead->lock);
    }
    pthread_mutex_unlock(&ahead->lock);
    if (from->st != SY_OK) {
        (void)sy_error_raise(&from->trace);
    }
    *h_bytes = ahead->want[i].h_to ? ahead->want[i].h_to : from->h_bytes;
    return from->st;
}

/* ---- life ---- */

static sy_status make_slots(sy__ahead *a)
{
    sy_status st = SY_OK;
    int64_t largest = 0;
    for (int64_t i = 0; i < a->n; i++) {
        const int64_t length = a->cat->piece[a->want[i].piece].length;
        largest = length > largest ? length : largest;
    }
    for (int32_t k = 0; k < SLOTS; k++) {
        SY_TRY(sy_alloc(largest, 1, &a->slot[k].h_bytes));
    }
cleanup:
    return st;
}

static sy_status open_file(sy__ahead *a)
{
    sy_status st = SY_OK;
    int64_t bytes = 0;
    SY_TRY(sy__file_open_read(a->path, &a->fd, &bytes));
    SY_REQUIRE(bytes == a->cat->file_bytes, SY_ERR_IO,
               "'%s' is not the same file on all ranks: it must lie on a file system they share",
               a->path);
cleanup:
    return st;
}

sy_status sy__ahead_open(const char *path, const sy__catalog *cat, const sy__want *want, int64_t n,
                         sy__ahead **out)
{
    sy_status st = SY_OK;
    sy__ahead *a = NULL;
    SY_TRY(sy_alloc(1, sizeof *a, (void **)&a));
    a->path = path;
    a->cat = cat;
    a->want = want;
    a->n = n;
    a->fd = -1;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    SY_TRY(open_file(a));
    (void)posix_fadvise(a->fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* by rising offset: read far ahead */
    SY_TRY(make_slots(a));
    for (; a->n_threads < THREADS && a->n_threads < n; a->n_threads++) {
        SY_TRY(sy_thread_start("reader", thread_main, a, &a->thread[a->n_threads]));
    }
    *out = a;
    a = NULL;
cleanup:
    sy__ahead_close(&a);
    return st;
}

void sy__ahead_close(sy__ahead **ahead)
{
    sy__ahead *a = *ahead;
    if (a == NULL) {
        return;
    }
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    while (a->n_threads > 0) {
        pthread_join(a->thread[--a->n_threads], NULL);
    }
    for (int32_t k = 0; k < SLOTS; k++) {
        sy_free(&a->slot[k].h_bytes);
    }
    sy__file_close(&a->fd, a->path, false);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    sy_free(ahead);
}
