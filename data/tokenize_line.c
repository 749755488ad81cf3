/* Threads along a ring of units: the caller fills one end and empties the other, so the order of
   the output is that of the input whatever the number of threads. */
#include <pthread.h>

#include "core/alloc.h"
#include "core/thread.h"
#include "data/tokenize_impl.h"

struct sy__unit_line {
    const sy_tokenize_spec *spec;
    const sy_tokenizer *tokenizer;
    pthread_mutex_t lock;
    pthread_cond_t given, done;
    pthread_t *thread;
    int32_t n_threads;
    sy__unit *unit; /* [n_units] a ring; unit i stands at i % n_units */
    bool *is_done;
    int64_t n_units, n_given, n_begun, n_taken;
    bool end;
};

static void *work(void *arg)
{
    sy__unit_line *line = arg;
    sy__encode_room room = {0};
    (void)pthread_mutex_lock(&line->lock);
    while (true) {
        while (line->n_begun == line->n_given && !line->end) {
            (void)pthread_cond_wait(&line->given, &line->lock);
        }
        if (line->end) {
            break;
        }
        const int64_t i = line->n_begun++ % line->n_units;
        (void)pthread_mutex_unlock(&line->lock);
        sy__unit_encode(line->spec, line->tokenizer, &room, &line->unit[i]);
        (void)pthread_mutex_lock(&line->lock);
        line->is_done[i] = true;
        (void)pthread_cond_signal(&line->done);
    }
    (void)pthread_mutex_unlock(&line->lock);
    sy_free(&room.ids);
    return NULL;
}

sy_status sy__unit_line_create(const sy_tokenize_spec *spec, const sy_tokenizer *tokenizer,
                               int32_t n, sy__unit_line **out)
{
    sy_status st = SY_OK;
    sy__unit_line *line = NULL;
    SY_TRY(sy_alloc(1, sizeof *line, (void **)&line));
    line->spec = spec;
    line->tokenizer = tokenizer;
    line->n_units = 2 * (int64_t)n + 1;
    (void)pthread_mutex_init(&line->lock, NULL);
    (void)pthread_cond_init(&line->given, NULL);
    (void)pthread_cond_init(&line->done, NULL);
    SY_TRY(sy_alloc(line->n_units, sizeof *line->unit, (void **)&line->unit));
    SY_TRY(sy_alloc(line->n_units, sizeof *line->is_done, (void **)&line->is_done));
    SY_TRY(sy_alloc(n, sizeof *line->thread, (void **)&line->thread));
    for (; line->n_threads < n; line->n_threads++) {
        SY_TRY(sy_thread_start("tokenize", work, line, &line->thread[line->n_threads]));
    }
    *out = line;
    line = NULL;

cleanup:
    sy__unit_line_destroy(&line);
    return st;
}

void sy__unit_line_destroy(sy__unit_line **line)
{
    sy__unit_line *l = *line;
    if (l == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&l->lock);
    l->end = true;
    (void)pthread_cond_broadcast(&l->given);
    (void)pthread_mutex_unlock(&l->lock);
    for (int32_t i = 0; i < l->n_threads; i++) {
        (void)pthread_join(l->thread[i], NULL);
    }
    for (int64_t i = 0; l->unit != NULL && i < l->n_units; i++) {
        sy__unit_free(&l->unit[i]);
    }
    (void)pthread_cond_destroy(&l->done);
    (void)pthread_cond_destroy(&l->given);
    (void)pthread_mutex_destroy(&l->lock);
    sy_free(&l->thread);
    sy_free(&l->is_done);
    sy_free(&l->unit);
    sy_free(line);
}

/* The caller alone changes n_given and n_taken, so it may read them without the lock. */
sy__unit *sy__unit_line_empty(sy__unit_line *line)
{
    const bool full = line->n_given - line->n_taken == line->n_units;
    return full ? NULL : &line->unit[line->n_given % line->n_units];
}

void sy__unit_line_give(sy__unit_line *line)
{
    (void)pthread_mutex_lock(&line->lock);
    line->is_done[line->n_given++ % line->n_units] = false;
    (void)pthread_cond_signal(&line->given);
    (void)pthread_mutex_unlock(&line->lock);
}

sy__unit *sy__unit_line_take(sy__unit_line *line)
{
    if (line->n_taken == line->n_given) {
        return NULL;
    }
    const int64_t i = line->n_taken % line->n_units;
    (void)pthread_mutex_lock(&line->lock);
    while (!line->is_done[i]) {
        (void)pthread_cond_wait(&line->done, &line->lock);
    }
    (void)pthread_mutex_unlock(&line->lock);
    line->n_taken++;
    return &line->unit[i];
}
