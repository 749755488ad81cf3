/* A stream is a thread with a ring of tasks. It starts a task when somebody waits for it, or when
   the task has lain for a while: so code that forgets to wait finds that nothing has happened yet,
   and code that waits loses no time. */
#include <signal.h>
#include <string.h>
#include <time.h>

#include "backend/check/check_impl.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/thread.h"

/* How long a task lies if nobody waits for it. Long against a hiccup of the machine, short enough
   for two ranks that wait for each other outside the streams. */
static const double lie_s = 0.1;

int32_t sy__lane_index(const sy__lane *lane)
{
    return (int32_t)(lane - lane->check->lanes);
}

/* ---- the worker ---- */

static bool may_start(const sy__lane *lane)
{
    return lane->n_queued > lane->n_done &&
           (lane->n_wanted > lane->n_done ||
            sy_clock_s() >= lane->tasks[lane->n_done % SY__TASKS].due_s);
}

static void sleep_until_next(sy__lane *lane)
{
    if (lane->n_queued == lane->n_done) {
        pthread_cond_wait(&lane->wake, &lane->check->lock);
        return;
    }
    double due_s = lane->tasks[lane->n_done % SY__TASKS].due_s;
    struct timespec until = {.tv_sec = (time_t)due_s};
    until.tv_nsec = (long)((due_s - (double)until.tv_sec) * 1e9);
    pthread_cond_timedwait(&lane->wake, &lane->check->lock, &until);
}

/* The lane is now in order behind another one, and so are its errors. */
static void inherit_error(sy__lane *lane, const sy__lane *from, int64_t ticket)
{
    if (lane->error.status == SY_OK && from->error.status != SY_OK &&
        from->error_ticket <= ticket) {
        lane->error = from->error;
        lane->error_ticket = lane->n_done + 1;
    }
}

static void run_task(sy__lane *lane, sy__task *task)
{
    sy__check *check = lane->check;
    if (task->wait_for >= 0) {
        sy__lane *other = &check->lanes[task->wait_for];
        sy__lane_await(other, task->wait_ticket);
        inherit_error(lane, other, task->wait_ticket);
        return;
    }
    if (lane->error.status != SY_OK) {
        return; /* what follows a failure would only fail worse */
    }
    pthread_mutex_unlock(&check->lock);
    sy_error_clear();
    sy_status st = sy__task_run(lane, task);
    pthread_mutex_lock(&check->lock);
    if (st != SY_OK) {
        sy_error_take(&lane->error);
        lane->error.status = st;
        lane->error_ticket = lane->n_done + 1;
    }
}

static void *work(void *arg)
{
    sy__lane *lane = arg;
    sigset_t faults;
    sigemptyset(&faults);
    sigaddset(&faults, SIGSEGV); /* a blocked one would kill without a word */
    pthread_sigmask(SIG_UNBLOCK, &faults, NULL);

    pthread_mutex_lock(&lane->check->lock);
    while (!lane->quit || lane->n_queued > lane->n_done) {
        if (!may_start(lane)) {
            sleep_until_next(lane);
            continue;
        }
        run_task(lane, &lane->tasks[lane->n_done % SY__TASKS]);
        lane->n_done++;
        pthread_cond_broadcast(&lane->check->progress);
    }
    pthread_mutex_unlock(&lane->check->lock);
    return NULL;
}

/* ---- the host's side ---- */

static void want(sy__lane *lane, int64_t ticket)
{
    if (ticket > lane->n_wanted) {
        lane->n_wanted = ticket;
        pthread_cond_signal(&lane->wake);
    }
}

void sy__lane_await(sy__lane *lane, int64_t ticket)
{
    want(lane, ticket);
    while (lane->n_done < ticket) {
        pthread_cond_wait(&lane->check->progress, &lane->check->lock);
    }
}

void sy__lane_await_all(sy__check *check)
{
    for (int32_t i = 0; i < SY__LANES; i++) {
        sy__lane_await(&check->lanes[i], check->lanes[i].n_queued);
    }
}

sy__task *sy__lane_reserve(sy__lane *lane)
{
    if (lane->n_queued - lane->n_done == SY__TASKS) {
        sy__lane_await(lane, lane->n_queued - SY__TASKS / 2);
    }
    sy__task *task = &lane->tasks[lane->n_queued % SY__TASKS];
    task->op = task->wait_for = -1;
    task->run = NULL;
    return task;
}

void sy__lane_push(sy__lane *lane)
{
    bool idle = lane->n_queued == lane->n_done;
    lane->tasks[lane->n_queued % SY__TASKS].due_s = sy_clock_s() + lie_s;
    lane->n_queued++;
    lane->seen.ticket[sy__lane_index(lane)] = lane->n_queued;
    if (idle) {
        pthread_cond_signal(&lane->wake);
    }
}

sy_status sy__lane_take_error(sy__lane *lane, int64_t ticket)
{
    sy_status st = SY_OK;
    if (lane->error.status != SY_OK && lane->error_ticket <= ticket) {
        st = sy_error_raise(&lane->error);
        lane->error.status = SY_OK;
    } else if (lane->check->late.status != SY_OK) {
        st = sy_error_raise(&lane->check->late);
        lane->check->late.status = SY_OK;
    }
    return st;
}

/* A lane that nobody has; its counts stay, so that tickets of its last owner have all passed. */
static sy__lane *free_lane(sy__check *check)
{
    for (int32_t i = 0; i < SY__LANES; i++) {
        if (!check->lanes[i].stream) {
            return &check->lanes[i];
        }
    }
    return NULL;
}

static sy_status make_wake(sy__lane *lane)
{
    sy_status st = SY_OK;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* as sy_clock_s */
    int rc = pthread_cond_init(&lane->wake, &attr);
    pthread_condattr_destroy(&attr);
    SY_REQUIRE(rc == 0, SY_ERR_MEMORY, "cannot make a condition variable: %s", strerror(rc));
cleanup:
    return st;
}

sy_status sy__lane_create(sy_stream *stream)
{
    sy_status st = SY_OK;
    sy__check *check = sy__check_of(stream->dev);
    sy__lane *lane = free_lane(check);
    bool has_wake = false;
    SY_REQUIRE(lane, SY_ERR_UNSUPPORTED, "the check backend has at most %d streams at a time",
               SY__LANES);
    lane->check = check;
    lane->quit = false;
    lane->error.status = SY_OK;
    SY_TRY(sy_alloc(SY__TASKS, sizeof *lane->tasks, (void **)&lane->tasks));
    SY_TRY(sy_alloc(SY__ACCESSES, sizeof *lane->accesses, (void **)&lane->accesses));
    SY_TRY(make_wake(lane));
    has_wake = true;
    SY_TRY(sy_thread_start(stream->name, work, lane, &lane->thread));
    lane->stream = stream;
    stream->self = lane;
    return SY_OK;
cleanup:
    if (has_wake) {
        pthread_cond_destroy(&lane->wake);
    }
    if (lane) {
        sy_free(&lane->accesses);
        sy_free(&lane->tasks);
    }
    return st;
}

void sy__lane_destroy(sy_stream *stream)
{
    sy__lane *lane = sy__lane_of(stream);
    pthread_mutex_lock(&lane->check->lock);
    sy__lane_await_all(lane->check); /* other lanes may wait for this one */
    lane->quit = true;
    pthread_cond_signal(&lane->wake);
    pthread_mutex_unlock(&lane->check->lock);

    pthread_join(lane->thread, NULL);
    if (lane->error.status != SY_OK) {
        sy_warn("stream '%s' ends with an error that nobody waited for: %s", stream->name,
                lane->error.message);
    }
    pthread_cond_destroy(&lane->wake);
    lane->n_forgotten = lane->n_accesses;
    sy_free(&lane->accesses);
    sy_free(&lane->tasks);
    lane->stream = NULL;
}

sy_status sy__check_sync(sy_stream *stream)
{
    sy__lane *lane = sy__lane_of(stream);
    pthread_mutex_lock(&lane->check->lock);
    sy__lane_await(lane, lane->n_queued);
    sy__order_host_saw(lane->check, &lane->seen);
    sy_status st = sy__lane_take_error(lane, lane->n_queued);
    pthread_mutex_unlock(&lane->check->lock);
    return st;
}

/* ---- events: a place in a lane's order ---- */

sy_status sy__check_event_create(sy_event *event)
{
    sy_status st = SY_OK;
    sy__check_event *mark = NULL;
    SY_TRY(sy_alloc(1, sizeof *mark, (void **)&mark));
    mark->lane = -1;
    event->self = mark;
cleanup:
    return st;
}

void sy__check_event_destroy(sy_event *event)
{
    sy_free(&event->self);
}

sy_status sy__check_event_record(sy_event *event, sy_stream *stream)
{
    sy__lane *lane = sy__lane_of(stream);
    sy__check_event *mark = event->self;
    pthread_mutex_lock(&lane->check->lock);
    *mark = (sy__check_event){
        .lane = sy__lane_index(lane), .ticket = lane->n_queued, .seen = lane->seen};
    pthread_mutex_unlock(&lane->check->lock);
    return SY_OK;
}

sy_status sy__check_stream_wait(sy_stream *stream, sy_event *event)
{
    sy__lane *lane = sy__lane_of(stream);
    const sy__check_event *mark = event->self;
    pthread_mutex_lock(&lane->check->lock);
    if (mark->lane >= 0 && mark->lane != sy__lane_index(lane)) {
        sy__task *task = sy__lane_reserve(lane);
        task->wait_for = mark->lane;
        task->wait_ticket = mark->ticket;
        sy__lane_push(lane);
        sy__clock_join(&lane->seen, &mark->seen);
    }
    pthread_mutex_unlock(&lane->check->lock);
    return SY_OK;
}

sy_status sy__check_event_sync(sy_event *event)
{
    sy__check *check = sy__check_of(event->dev);
    const sy__check_event *mark = event->self;
    sy_status st = SY_OK;
    pthread_mutex_lock(&check->lock);
    if (mark->lane >= 0) {
        sy__lane *lane = &check->lanes[mark->lane];
        sy__lane_await(lane, mark->ticket);
        sy__order_host_saw(check, &mark->seen);
        st = sy__lane_take_error(lane, mark->ticket);
    }
    pthread_mutex_unlock(&check->lock);
    return st;
}

bool sy__check_event_done(sy_event *event)
{
    sy__check *check = sy__check_of(event->dev);
    const sy__check_event *mark = event->self;
    bool done = true;
    pthread_mutex_lock(&check->lock);
    if (mark->lane >= 0) {
        sy__lane *lane = &check->lanes[mark->lane];
        want(lane, mark->ticket); /* who asks again and again must see it pass */
        done = lane->n_done >= mark->ticket;
        if (done) {
            sy__order_host_saw(check, &mark->seen);
        }
    }
    pthread_mutex_unlock(&check->lock);
    return done;
}
