/* What work costs, asked and told. A dry device with prices rehearses: the code that enqueues runs
   as ever, nothing is computed, and the clocks of host and streams move on as they would; so what
   runs beside what comes from the program itself. An observer is the other direction: it is told
   what ops took where they did run, and prices are made of that. */
#ifndef SY_BACKEND_PRICES_H
#define SY_BACKEND_PRICES_H

#include "backend/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sy_prices {
    /* Seconds on the stream. args: sy_<op>_args, whose tensors have shapes but no contents. */
    double (*op)(void *self, sy_op op, const void *args);
    /* A copy, or a fill with zero (then nothing is read), of so many bytes. */
    double (*copy)(void *self, int64_t bytes, bool zero);
    void *self;
    double launch_s;  /* of the host, per op or copy */
    double wait_s;    /* of the host, beyond the end of what it waited for */
    double imbalance; /* rows that come to this rank's experts, over the mean of all ranks */
    bool at_once;     /* streams run inside the enqueue, as on a CPU: there is one clock */
};

struct sy_observer {
    void (*op)(void *self, sy_op op, const void *args, double seconds);
    void (*copy)(void *self, int64_t bytes, bool zero, double seconds);
    void *self;
};

/* Move a stream's clock on: something that is no op took so long. Nothing on a device that does not
 * rehearse. */
void sy_stream_spend(sy_stream *stream, double seconds);

/* The same of the host: what it computes itself. */
void sy_host_spend(sy_device *dev, double seconds);

#ifdef __cplusplus
}
#endif
#endif
