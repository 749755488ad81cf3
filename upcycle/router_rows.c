#include "upcycle/router_rows.h"

#include <math.h>

#include "core/alloc.h"

enum { MAX_SWEEPS = 60 };

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* One rotation of Jacobi's method: g[p, q] becomes 0. */
static void rotate(double *g, int64_t n, int64_t p, int64_t q)
{
    const double theta = (g[q * n + q] - g[p * n + p]) / (2 * g[p * n + q]);
    const double t = copysign(1, theta) / (fabs(theta) + sqrt(theta * theta + 1));
    const double c = 1 / sqrt(t * t + 1), s = t * c;
    for (int64_t k = 0; k < n; k++) {
        const double a = g[k * n + p], b = g[k * n + q];
        g[k * n + p] = c * a - s * b;
        g[k * n + q] = s * a + c * b;
    }
    for (int64_t k = 0; k < n; k++) {
        const double a = g[p * n + k], b = g[q * n + k];
        g[p * n + k] = c * a - s * b;
        g[q * n + k] = s * a + c * b;
    }
}

/* Symmetric [n, n] -> its eigenvalues on the diagonal. Returns the sum of squares beside it. */
static double sweep(double *g, int64_t n)
{
    double beside = 0;
    for (int64_t p = 0; p < n; p++) {
        for (int64_t q = p + 1; q < n; q++) {
            beside += g[p * n + q] * g[p * n + q];
            if (g[p * n + q] != 0) {
                rotate(g, n, p, q);
            }
        }
    }
    return beside;
}

/* Of unit rows, by way of their products with each other. */
static sy_status find_condition(const double *rows, int64_t n, int64_t H, double length,
                                double *condition)
{
    sy_status st = SY_OK;
    double *g = NULL, least = INFINITY, largest = 0;
    SY_TRY(sy_alloc(n * n, sizeof *g, (void **)&g));
    for (int64_t i = 0; i < n * n; i++) {
        g[i] = dot(rows + i / n * H, rows + i % n * H, H) / (length * length);
    }
    for (int32_t i = 0; i < MAX_SWEEPS && sweep(g, n) > 1e-24 * (double)n; i++) {
    }
    for (int64_t i = 0; i < n; i++) {
        least = fmin(least, g[i * n + i]);
        largest = fmax(largest, g[i * n + i]);
    }
    *condition = least > 1e-12 * largest ? sqrt(largest / least) : INFINITY;
cleanup:
    sy_free(&g);
    return st;
}

sy_status sy_router_rows(const double *mean, const double *square, int64_t n, int64_t H,
                         double scale, double *rows, double *condition)
{
    sy_status st = SY_OK;
    double all = 0;
    for (int64_t i = 0; i < n; i++) {
        all += square[i] / (double)n;
    }
    const double length = scale / sqrt(all);
    for (int64_t i = 0; i < n; i++) {
        const double norm = sqrt(dot(mean + i * H, mean + i * H, H));
        SY_REQUIRE(isfinite(norm) && norm > 0, SY_ERR_NUMERIC,
                   "the mean hidden state of a text is %s", isfinite(norm) ? "zero" : "not finite");
        for (int64_t h = 0; h < H; h++) {
            rows[i * H + h] = mean[i * H + h] / norm * length;
        }
    }
    SY_TRY(find_condition(rows, n, H, length, condition));
cleanup:
    return st;
}
