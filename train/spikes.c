#include "train/spikes.h"

#include <math.h>

/* Mean and standard deviation of the last n of a ring, before place `end`. */
static void window_of(const double *ring, int64_t end, int64_t n, sy_trouble *out)
{
    double sum = 0, squares = 0;
    for (int64_t i = end - n; i < end; i++) {
        sum += ring[i % SY_SPIKE_MEMORY];
    }
    out->mean = sum / (double)n;
    for (int64_t i = end - n; i < end; i++) {
        const double d = ring[i % SY_SPIKE_MEMORY] - out->mean;
        squares += d * d;
    }
    out->deviation = sqrt(squares / (double)(n - 1));
}

sy_trouble sy_spikes_judge(const sy_spikes *spikes, int32_t window, double sigma, double loss,
                           double grad_norm)
{
    const int64_t n = spikes->n < window ? spikes->n : window;
    const double *const ring[] = {spikes->loss, spikes->grad_norm};
    const double value[] = {loss, grad_norm};
    const sy_trouble_kind kind[] = {SY_TROUBLE_LOSS, SY_TROUBLE_GRAD_NORM};
    if (!isfinite(loss) || !isfinite(grad_norm)) {
        return (sy_trouble){.kind = SY_TROUBLE_NONFINITE,
                            .value = isfinite(loss) ? grad_norm : loss};
    }
    for (int32_t i = 0; i < 2 && n >= 2 && 2 * n >= window; i++) {
        sy_trouble t = {.kind = kind[i], .value = value[i]};
        window_of(ring[i], spikes->n, n, &t);
        if (value[i] - t.mean > sigma * t.deviation) {
            return t;
        }
    }
    return (sy_trouble){.kind = SY_TROUBLE_NONE};
}

void sy_spikes_accept(sy_spikes *spikes, double loss, double grad_norm)
{
    spikes->loss[spikes->n % SY_SPIKE_MEMORY] = loss;
    spikes->grad_norm[spikes->n % SY_SPIKE_MEMORY] = grad_norm;
    spikes->n++;
}
