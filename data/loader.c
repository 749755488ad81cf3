/* Two steps' storage: the caller holds the front one, the thread fills the back one. The thread
   fills only what was asked (WANTED), and the caller looks at the back only when it is not (READY),
   so the lock guards the state, never the arrays. */
#include "data/loader.h"

#include "core/alloc.h"
#include "core/span.h"
#include "core/thread.h"
#include "data/loader_impl.h"

typedef enum back_state { BACK_IDLE, BACK_WANTED, BACK_READY } back_state;

struct sy_loader {
    sy_loader_spec spec; /* its datasets are only looked at during create */
    sy__source source;   /* the thread's, once it runs */
    sy__step step[2];
    int32_t front; /* the one the caller holds */

    pthread_mutex_t mutex;
    pthread_cond_t changed;
    pthread_t thread;
    bool running, stop;
    back_state state; /* of step[!front]; with it the four below */
    int64_t position;
    int32_t n;
    sy_status status;
    sy_trace trace; /* where status is an error */
};

static void *run_loader(void *arg)
{
    sy_loader *loader = arg;
    pthread_mutex_lock(&loader->mutex);
    for (;;) {
        while (!loader->stop && loader->state != BACK_WANTED) {
            pthread_cond_wait(&loader->changed, &loader->mutex);
        }
        if (loader->stop) {
            break;
        }
        const int64_t position = loader->position;
        const int32_t n = loader->n;
        sy__step *back = &loader->step[!loader->front];
        pthread_mutex_unlock(&loader->mutex);

        sy_span_begin(SY_SPAN_FILE, "read batch", -1, -1);
        sy_status st = sy__step_fill(&loader->spec, &loader->source, position, n, back);
        sy_span_end();

        pthread_mutex_lock(&loader->mutex);
        loader->status = st;
        if (st != SY_OK) {
            sy_error_take(&loader->trace);
            sy_error_clear();
        }
        loader->state = BACK_READY;
        pthread_cond_broadcast(&loader->changed);
    }
    pthread_mutex_unlock(&loader->mutex);
    return NULL;
}

static sy_status check_spec(const sy_loader_spec *spec)
{
    sy_status st = SY_OK;
    SY_REQUIRE(spec->n_datasets >= 1, SY_ERR_USAGE,
               "no training data: data.train lists no token file");
    SY_REQUIRE(!spec->sequential || spec->n_datasets == 1, SY_ERR_INTERNAL,
               "validation reads one data set at a time, not %d", spec->n_datasets);
    SY_REQUIRE(spec->S >= 1 && spec->B >= 1 && spec->global_batch >= 1 &&
                   (int64_t)spec->B * spec->S <= INT32_MAX,
               SY_ERR_USAGE,
               "model.seq_len %d, train.micro_batch %d and train.global_batch %d must be positive "
               "and a micro-batch below 2^31 tokens",
               spec->S, spec->B, spec->global_batch);
    SY_REQUIRE(spec->dp_rank >= 0 && spec->dp_rank < spec->dp_size, SY_ERR_INTERNAL,
               "data rank %d of %d", spec->dp_rank, spec->dp_size);

cleanup:
    return st;
}

sy_status sy_loader_create(const sy_loader_spec *spec, sy_loader **out)
{
    sy_status st = SY_OK;
    sy_loader *loader = NULL;

    SY_TRY(check_spec(spec));
    SY_TRY(sy_alloc(1, sizeof *loader, (void **)&loader));
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->changed, NULL);
    loader->spec = *spec;
    loader->spec.datasets = NULL; /* the caller's memory */
    SY_TRY(sy__source_open(spec, &loader->source));
    SY_TRY(sy__step_alloc(spec, &loader->step[0]));
    SY_TRY(sy__step_alloc(spec, &loader->step[1]));
    SY_TRY(sy_thread_start("sy-data", run_loader, loader, &loader->thread));
    loader->running = true;
    *out = loader;
    loader = NULL;

cleanup:
    sy_loader_destroy(&loader);
    return st;
}

void sy_loader_destroy(sy_loader **loader_ptr)
{
    sy_loader *loader = *loader_ptr;
    if (loader == NULL) {
        return;
    }
    if (loader->running) {
        pthread_mutex_lock(&loader->mutex);
        loader->stop = true;
        pthread_cond_broadcast(&loader->changed);
        pthread_mutex_unlock(&loader->mutex);
        pthread_join(loader->thread, NULL);
    }
    sy__step_free(&loader->step[1]);
    sy__step_free(&loader->step[0]);
    sy__source_close(&loader->source);
    pthread_cond_destroy(&loader->changed);
    pthread_mutex_destroy(&loader->mutex);
    sy_free(loader_ptr);
}

/* Requires the lock. */
static void want(sy_loader *loader, int64_t position, int32_t n)
{
    loader->state = BACK_WANTED;
    loader->position = position;
    loader->n = n;
    pthread_cond_broadcast(&loader->changed);
}

/* Requires the lock, which is given up while waiting. */
static void wait_for_thread(sy_loader *loader)
{
    while (loader->state == BACK_WANTED) {
        pthread_cond_wait(&loader->changed, &loader->mutex);
    }
}

sy_status sy_loader_take_sized(sy_loader *loader, int64_t position, int32_t n, int32_t n_next,
                               const sy_step_batch **out)
{
    sy_status st = SY_OK;
    const int32_t most = loader->spec.global_batch;
    pthread_mutex_lock(&loader->mutex);
    SY_REQUIRE(position >= 0, SY_ERR_INTERNAL, "data position %lld", (long long)position);
    SY_REQUIRE(n >= 1 && n <= most && n_next >= 1 && n_next <= most, SY_ERR_INTERNAL,
               "steps of %d and %d sequences of at most %d", n, n_next, most);
    wait_for_thread(loader);
    if (loader->state == BACK_IDLE || loader->position != position || loader->n != n) {
        want(loader, position, n);
        wait_for_thread(loader);
    }
    if (loader->status != SY_OK) {
        loader->state = BACK_IDLE;
        SY_TRY(sy_error_raise(&loader->trace));
    }
    loader->front = !loader->front;
    *out = &loader->step[loader->front].batch;
    want(loader, position + (*out)->n_sequences, n_next);

cleanup:
    pthread_mutex_unlock(&loader->mutex);
    return st;
}

sy_status sy_loader_take(sy_loader *loader, int64_t position, const sy_step_batch **out)
{
    const int32_t n = loader->spec.global_batch;
    return sy_loader_take_sized(loader, position, n, n, out);
}

int64_t sy_loader_n_sequences(const sy_loader *loader)
{
    return sy__source_n_sequences(&loader->source);
}

sy_status sy_loader_token_shares(const sy_loader *loader, int64_t vocab, double *share)
{
    return sy__source_token_shares(&loader->source, vocab, share);
}

bool sy_loader_same_order(const sy_loader *loader, int64_t megatron_samples)
{
    const sy_megatron *m = loader->source.megatron;
    return m == NULL || sy_megatron_same_order(m, megatron_samples);
}
