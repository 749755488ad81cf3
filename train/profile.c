#include "train/profile.h"

#include <stdio.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/span.h"
#include "parallel/agree.h"
#include "parallel/clock_offset.h"
#include "report/timeline.h"

enum { SPANS_MAX = 1 << 20, WARM_UP = 2 };

sy_status sy_profile_plan(sy_profile *profile, int64_t n, int64_t first, int64_t step, int64_t last)
{
    sy_status st = SY_OK;
    if (n == 0) {
        return SY_OK;
    }
    SY_REQUIRE(first == 0 || (first > step && first <= last), SY_ERR_USAGE,
               "--profile %ld@%ld: this run goes from step %ld to step %ld", (long)n, (long)first,
               (long)step + 1, (long)last);
    if (first == 0) {
        first = step + 1 + WARM_UP;
        first = first + n - 1 > last ? last - n + 1 : first;
        first = first < step + 1 ? step + 1 : first;
    }
    profile->first = first;
    profile->n = n;
cleanup:
    return st;
}

/* A failure of all ranks alike. */
static void give_up(sy_profile *p)
{
    if (p->world->rank == 0) {
        sy_warn("no profile: %s", sy_error_message());
    }
    sy_error_clear();
    sy_span_discard();
    p->n = 0;
    p->is_on = false;
}

static sy_status start(sy_profile *p)
{
    sy_status st = SY_OK;
    SY_TRY(sy_clock_offset(p->world, &p->ahead_s));
    p->begun_s = sy_clock_s();
    SY_TRY(sy_host_broadcast(p->world, &p->begun_s, sizeof p->begun_s, 0, "profile"));
    SY_TRY(sy_agree(p->world, sy_span_start(SPANS_MAX)));
    p->is_on = true;
cleanup:
    return st;
}

void sy_profile_before(sy_profile *p, int64_t step)
{
    if (p->n > 0 && step == p->first && !p->is_on && start(p) != SY_OK) {
        give_up(p);
    }
}

/* One rank's lines to rank 0, which writes them as they come. */
static sy_status bring(const sy_profile *p, int32_t rank, int64_t n_bytes, char *lines,
                       sy_timeline_file *file)
{
    sy_status st = SY_OK;
    if (rank > 0) {
        SY_TRY(sy_send_recv(p->world, &(sy_comm_args){.send = lines,
                                                      .recv = lines,
                                                      .n = n_bytes,
                                                      .row_bytes = 1,
                                                      .root = p->world->rank == rank ? 0 : -1,
                                                      .source = p->world->rank == 0 ? rank : -1,
                                                      .what = "profile",
                                                      .layer = -1}));
    }
    SY_TRY(sy_agree(p->world, file != NULL ? sy_timeline_append(file, lines, n_bytes) : SY_OK));
cleanup:
    return st;
}

/* Where rank 0 keeps the lines of another rank; the others need no such place. */
static sy_status make_room(const sy_profile *p, const int64_t *n_bytes, char **out)
{
    int64_t most = 0;
    for (int32_t r = 1; r < p->world->size && p->world->rank == 0; r++) {
        most = n_bytes[r] > most ? n_bytes[r] : most;
    }
    return sy_alloc(most, 1, (void **)out);
}

static sy_status gather(const sy_profile *p, const sy_text *own, sy_timeline_file *file)
{
    sy_status st = SY_OK;
    int64_t *n_bytes = NULL;
    char *theirs = NULL;
    sy_comm *w = p->world;
    SY_TRY(sy_agree(w, sy_alloc(w->size, sizeof *n_bytes, (void **)&n_bytes)));
    SY_TRY(sy_host_all_gather(w, &own->n, n_bytes, sizeof own->n, "profile"));
    SY_TRY(sy_agree(w, make_room(p, n_bytes, &theirs)));
    for (int32_t r = 0; r < w->size; r++) {
        SY_TRY(bring(p, r, n_bytes[r], r == w->rank ? own->data : theirs, file));
    }
cleanup:
    sy_free(&theirs);
    sy_free(&n_bytes);
    return st;
}

static sy_status open_file(const sy_profile *p, char **path, sy_timeline_file **out)
{
    sy_status st = SY_OK;
    if (p->world->rank == 0) {
        SY_TRY(sy_asprintf(path, "%s/trace.json", p->folder));
        SY_TRY(sy_timeline_open(*path, out));
    }
cleanup:
    return st;
}

static sy_status write_all(const sy_profile *p)
{
    sy_status st = SY_OK;
    sy_spans spans = sy_span_recorded();
    sy_timeline_file *file = NULL;
    sy_text lines = {0};
    char *path = NULL;
    sy_timeline_rank(&lines, &spans, p->world->rank, p->ahead_s - p->begun_s);
    SY_TRY(sy_agree(p->world, lines.st));
    SY_TRY(sy_agree(p->world, open_file(p, &path, &file)));
    SY_TRY(gather(p, &lines, file));
    SY_TRY(sy_agree(p->world, sy_timeline_close(&file, true)));
    if (path != NULL) {
        sy_info("%s: open it in ui.perfetto.dev or chrome://tracing", path);
    }
    if (spans.n_lost > 0) {
        sy_warn("%ld spans did not fit and are not in the profile: profile fewer steps",
                (long)spans.n_lost);
    }
cleanup:
    (void)sy_timeline_close(&file, false);
    sy_text_free(&lines);
    sy_free(&path);
    return st;
}

void sy_profile_finish(sy_profile *p)
{
    if (!p->is_on) {
        return;
    }
    sy_span_stop();
    if (write_all(p) != SY_OK) {
        give_up(p);
    }
    sy_span_discard();
    p->is_on = false;
    p->n = 0; /* a run that goes back some steps is not profiled twice */
}

void sy_profile_after(sy_profile *p, int64_t step)
{
    if (p->is_on && step >= p->first + p->n - 1) {
        sy_profile_finish(p);
    }
}
