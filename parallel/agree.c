/* Agreement: one small all-reduce where all is well. Where it is not, the lowest rank with the
   worst status sends its trace, as text, because the strings of one process have no address in
   another. */
#include "parallel/agree.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"

enum { NAME_BYTES = 96 };

typedef struct wire_frame {
    char file[NAME_BYTES], func[NAME_BYTES];
    int32_t line;
} wire_frame;

typedef struct wire_trace {
    int32_t rank, n_frames;
    wire_frame frames[SY_TRACE_FRAMES];
    char message[SY_TRACE_MESSAGE];
} wire_trace;

static void pack(const sy_trace *trace, int32_t rank, wire_trace *out)
{
    out->rank = trace->rank >= 0 ? trace->rank : rank; /* agreed upon before: keep who it was */
    out->n_frames = trace->n_frames;
    for (int32_t i = 0; i < trace->n_frames; i++) {
        snprintf(out->frames[i].file, NAME_BYTES, "%s", trace->frames[i].file);
        snprintf(out->frames[i].func, NAME_BYTES, "%s", trace->frames[i].func);
        out->frames[i].line = trace->frames[i].line;
    }
    snprintf(out->message, sizeof out->message, "%s", trace->message);
}

/* `wire` is what the frames' names point to from now on. */
static void unpack(const wire_trace *wire, sy_status status, sy_trace *out)
{
    out->status = status;
    out->rank = wire->rank;
    out->n_frames = wire->n_frames;
    for (int32_t i = 0; i < wire->n_frames; i++) {
        const wire_frame *f = &wire->frames[i];
        out->frames[i] = (sy_trace_frame){.file = f->file, .func = f->func, .line = f->line};
    }
    snprintf(out->message, sizeof out->message, "%s", wire->message);
}

static sy_status spread_trace(sy_comm *host, sy_status worst, int32_t from)
{
    /* Names of a trace must outlive it, so this belongs to the thread, like the trace itself. */
    static _Thread_local wire_trace wire;
    sy_status st = SY_OK;
    sy_trace trace;
    sy_error_take(&trace);
    if (host->rank == from) {
        static _Thread_local wire_trace packed; /* the old frames may point into `wire` */
        pack(&trace, host->rank, &packed);
        wire = packed;
    }
    sy_error_clear();
    SY_TRY(sy_host_broadcast(host, &wire, sizeof wire, from, "error trace"));
    unpack(&wire, worst, &trace);
    st = sy_error_raise(&trace);
cleanup:
    return st;
}

sy_status sy_agree(sy_comm *host, sy_status mine)
{
    sy_status st = SY_OK;
    int32_t worst = (int32_t)mine;
    SY_TRY(sy_host_all_reduce(host, &worst, 1, SY_I32, SY_MAX, "status"));
    if (worst != SY_OK) {
        int32_t from = (int32_t)mine == worst ? host->rank : host->size;
        SY_TRY(sy_host_all_reduce(host, &from, 1, SY_I32, SY_MIN, "rank of the error"));
        st = spread_trace(host, (sy_status)worst, from); /* the trace is not ours: no frame */
    }
cleanup:
    return st;
}

sy_status sy_agree_same(sy_comm *host, int64_t value, const char *what)
{
    sy_status st = SY_OK;
    int64_t least[2] = {value, ~value}; /* ~ turns the order round, and cannot overflow */
    SY_TRY(sy_host_all_reduce(host, least, 2, SY_I64, SY_MIN, what));
    SY_REQUIRE(least[0] == ~least[1], SY_ERR_USAGE,
               "'%s' is not the same on all ranks: it goes from %" PRId64 " to %" PRId64
               "; start every rank with the same command, configuration and files",
               what, least[0], ~least[1]);
cleanup:
    return st;
}

sy_status sy_host_broadcast_text(sy_comm *host, char **text)
{
    sy_status st = SY_OK;
    int64_t n = host->rank == 0 && *text != NULL ? (int64_t)strlen(*text) + 1 : 0;
    char *mine = NULL;
    SY_TRY(sy_host_broadcast(host, &n, sizeof n, 0, "text length"));
    if (n > 0) {
        st = SY_OK;
        if (host->rank != 0) {
            st = sy_alloc(n, 1, (void **)&mine);
        }
        SY_TRY(sy_agree(host, st));
        SY_TRY(sy_host_broadcast(host, host->rank == 0 ? *text : mine, n, 0, "text"));
    }
    if (host->rank != 0) {
        *text = mine;
        mine = NULL;
    }
cleanup:
    sy_free(&mine);
    return st;
}
