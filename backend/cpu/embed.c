/* Token embedding: a gather of rows, and its transpose. */
#include "backend/cpu/tile_impl.h"

sy_status sy__cpu_embed(sy_stream *stream, const sy_embed_args *args)
{
    const sy_gather_rows_args gather = {.x = args->w, .idx = args->ids, .y = args->y};
    return sy__cpu_gather_rows(stream, &gather);
}

sy_status sy__cpu_embed_backward(sy_stream *stream, const sy_embed_backward_args *args)
{
    /* A thread owns columns and adds all tokens into them: every sum runs over t ascending. */
    enum { STRIP = 128 };
    const int64_t T = args->dy.shape[0], H = args->dy.shape[1];
    const int32_t *ids = args->ids.data;
    float *dw = args->dw.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * H > SY_CPU_PARALLEL_MIN)
    for (int64_t h = 0; h < H; h += STRIP) {
        float buf[STRIP];
        const int64_t n = sy__cpu_min(STRIP, H - h);
        for (int64_t t = 0; t < T; t++) {
            const float *dy = sy__tile_read(&args->dy, t * H + h, n, buf);
            sy__cpu_axpy_run(dw + ids[t] * H + h, 1.0F, dy, n);
        }
    }
    return SY_OK;
}
