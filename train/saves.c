#include "train/saves.h"

#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "parallel/agree.h"

enum { SMALLEST_COPY = 8 << 20 };

static const sy_train_config *config(const sy_saves *s)
{
    return s->spec.trainer->settings->train;
}

static sy_comm *world(const sy_saves *s)
{
    return s->spec.trainer->engine->mesh->host;
}

static sy_state state_now(const sy_saves *s)
{
    sy_state state = sy_trainer_state(s->spec.trainer, s->spec.config_yaml);
    state.blobs = s->spec.blobs;
    state.n_blobs = s->spec.n_blobs;
    return state;
}

/* ---- life ---- */

/* The copy holds all that this rank writes, unless the configuration bounds it. */
static sy_status create_saver(sy_saves *s)
{
    sy_status st = SY_OK;
    const sy_engine *e = s->spec.trainer->engine;
    sy_state state = state_now(s);
    sy_saver_spec spec = {.io = e->mesh->io, .dev = e->dev};
    double bound = config(s)->checkpoint_staging_gb.value * 1e9;
    SY_TRY(sy_saver_bytes(&state, &spec.staging_bytes));
    if (config(s)->checkpoint_staging_gb.set && (double)spec.staging_bytes > bound) {
        spec.staging_bytes = (int64_t)bound;
    }
    if (spec.staging_bytes < SMALLEST_COPY) {
        spec.staging_bytes = SMALLEST_COPY;
    }
    SY_TRY(sy_saver_create(&spec, &s->saver));
cleanup:
    return st;
}

sy_status sy_saves_open(const sy_saves_spec *spec, int64_t saved_step, sy_saves *out)
{
    sy_status st = SY_OK;
    *out = (sy_saves){.spec = *spec, .saved_step = saved_step, .begun_s = sy_clock_s()};
    if (config(out)->checkpoint_async) {
        sy_engine *e = spec->trainer->engine;
        SY_TRY(sy_agree(world(out), create_saver(out)));
        e->predicted_bytes = e->dev->ledger.total_now; /* the copy's memory is part of it */
    }
cleanup:
    return st;
}

void sy_saves_close(sy_saves *saves)
{
    sy_saver_destroy(&saves->saver);
}

/* ---- when ---- */

bool sy_saves_time_is_up(const sy_saves *saves)
{
    double minutes = config(saves)->checkpoint_minutes;
    return minutes > 0 && sy_clock_s() - saves->begun_s >= 60 * minutes;
}

bool sy_saves_ready(const sy_saves *saves)
{
    return saves->saver != NULL && sy_saver_busy(saves->saver) && sy_saver_ready(saves->saver);
}

bool sy_saves_due(const sy_saves *saves, bool time_is_up)
{
    int64_t step = saves->spec.trainer->count.step, every = config(saves)->checkpoint_every;
    return time_is_up || step == config(saves)->steps || (every > 0 && step % every == 0);
}

/* Training has waited since then. */
static void add_wait(sy_saves *s, double since_s)
{
    const double waited_s = sy_clock_s() - since_s;
    s->stall_s += waited_s;
    s->waited_s += waited_s;
}

/* ---- after a save ---- */

/* Rank 0: the file stands under its name, and is saved whatever becomes of the rest. */
static void publish(const sy_saves *s, int64_t step)
{
    if (sy_run_dir_publish(s->spec.dir, step) != SY_OK) {
        sy_warn("the checkpoint of step %ld is saved, but %s", (long)step, sy_error_message());
        sy_error_clear();
    }
    if (sy_run_dir_prune(s->spec.dir, step, config(s)->checkpoint_keep,
                         config(s)->checkpoint_keep_every) != SY_OK) {
        sy_warn("old checkpoints stay: %s", sy_error_message());
        sy_error_clear();
    }
}

/* Tell how it ended. `st` is the same on every rank. */
static void conclude(sy_saves *s, int64_t step, bool final, sy_status st)
{
    const bool root = world(s)->rank == 0;
    s->last_failed = st != SY_OK;
    if (st == SY_OK) {
        s->saved_step = step;
    }
    if (root && st == SY_OK) {
        publish(s, step);
        sy_info("checkpoint of step %ld saved (%.2f s, training waited %.2f s)", (long)step,
                sy_clock_s() - s->begun_s, s->waited_s);
    } else if (root) {
        sy_warn("CHECKPOINT NOT SAVED at step %ld: %s%s", (long)step, sy_error_message(),
                final ? "" : "; training goes on, the next try is at the next interval");
    }
    sy_error_clear();
}

/* ---- saving ---- */

void sy_saves_go_on(sy_saves *saves)
{
    double t0 = sy_clock_s();
    bool finished = false;
    sy_status st = sy_saver_advance(saves->saver, &finished);
    add_wait(saves, t0);
    if (finished || st != SY_OK) {
        conclude(saves, saves->under_way, false, st);
    }
}

void sy_saves_finish(sy_saves *saves)
{
    while (saves->saver != NULL && sy_saver_busy(saves->saver)) {
        sy_saves_go_on(saves);
    }
}

void sy_saves_wait_copied(sy_saves *saves)
{
    if (saves->saver != NULL && sy_saver_busy(saves->saver)) {
        double t0 = sy_clock_s();
        sy_saver_wait_copied(saves->saver);
        add_wait(saves, t0);
    }
}

static sy_status save(sy_saves *s, bool beside, sy_status mine)
{
    sy_status st = SY_OK;
    const int64_t step = s->spec.trainer->count.step;
    sy_state state = state_now(s);
    char *path = NULL;
    if (mine == SY_OK && world(s)->rank == 0) {
        mine = sy_run_lock_check(s->spec.dir->lock); /* what stands there may be another's by now */
    }
    SY_TRY(sy_agree(world(s), mine));
    SY_TRY(sy_agree(world(s), sy_run_checkpoint_path(s->spec.dir, step, &path)));
    if (beside) {
        s->under_way = step;
        SY_TRY(sy_saver_begin(s->saver, path, &state));
    } else {
        SY_TRY(sy_checkpoint_save(path, &state, s->spec.trainer->engine->mesh->io));
    }
cleanup:
    sy_free(&path);
    return st;
}

void sy_saves_save(sy_saves *saves, bool final, sy_status mine)
{
    const bool beside = saves->saver != NULL && !final;
    sy_saves_finish(saves); /* saves are never queued */
    saves->begun_s = sy_clock_s();
    saves->waited_s = 0;
    sy_status st = save(saves, beside, mine);
    add_wait(saves, saves->begun_s);
    if (!beside || st != SY_OK) {
        conclude(saves, saves->spec.trainer->count.step, final, st);
    }
}
