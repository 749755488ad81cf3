/* Least squares without negative terms: there are four, so every choice of some of them is solved,
   and the best one without a negative is taken. */
#include "train/fit.h"

#include <math.h>
#include <string.h>

enum { TERMS = 4, CHOICES = 1 << TERMS };

/* What seconds are made of, in the order of sy_rate. */
static void terms_of(const sy_work *w, double near_bytes, double x[TERMS])
{
    x[0] = 1;
    x[1] = w->flops;
    x[2] = w->bytes;
    x[3] = w->groups > 0 ? w->weights : fmax(0, w->bytes - near_bytes);
}

/* Gauss with pivots; false where the terms do not tell each other apart. */
static bool solve(double a[TERMS][TERMS], double b[TERMS], int32_t n)
{
    for (int32_t k = 0; k < n; k++) {
        int32_t best = k;
        for (int32_t i = k + 1; i < n; i++) {
            best = fabs(a[i][k]) > fabs(a[best][k]) ? i : best;
        }
        if (fabs(a[best][k]) < 1e-9) {
            return false;
        }
        for (int32_t j = 0; j < n; j++) {
            double t = a[k][j];
            a[k][j] = a[best][j];
            a[best][j] = t;
        }
        double t = b[k];
        b[k] = b[best];
        b[best] = t;
        for (int32_t i = k + 1; i < n; i++) {
            double f = a[i][k] / a[k][k];
            for (int32_t j = k; j < n; j++) {
                a[i][j] -= f * a[k][j];
            }
            b[i] -= f * b[k];
        }
    }
    for (int32_t k = n - 1; k >= 0; k--) {
        for (int32_t j = k + 1; j < n; j++) {
            b[k] -= a[k][j] * b[j];
        }
        b[k] /= a[k][k];
    }
    return true;
}

typedef struct normal {
    double a[TERMS][TERMS], b[TERMS], scale[TERMS], yy;
} normal;

/* Sums over the samples; every term scaled to a length of 1. */
static void set_normal(const sy_sample *s, int32_t n, double near_bytes, normal *out)
{
    double x[TERMS];
    *out = (normal){0};
    for (int32_t i = 0; i < n; i++) {
        const double w = s[i].calls / s[i].seconds;
        terms_of(&s[i].work, near_bytes, x);
        for (int32_t p = 0; p < TERMS; p++) {
            for (int32_t q = 0; q < TERMS; q++) {
                out->a[p][q] += w * x[p] * x[q];
            }
            out->b[p] += w * x[p] * s[i].seconds;
        }
        out->yy += w * s[i].seconds * s[i].seconds;
    }
    for (int32_t p = 0; p < TERMS; p++) {
        out->scale[p] = out->a[p][p] > 0 ? 1 / sqrt(out->a[p][p]) : 0;
    }
}

/* The terms of `choice` alone; false: not solvable, or one is negative. *left: squares that remain.
 */
static bool try_choice(const normal *all, int32_t choice, double out[TERMS], double *left)
{
    double a[TERMS][TERMS], b[TERMS];
    int32_t term[TERMS], n = 0;
    for (int32_t p = 0; p < TERMS; p++) {
        if (choice >> p & 1) {
            term[n++] = p;
        }
    }
    for (int32_t i = 0; i < n; i++) {
        b[i] = all->b[term[i]] * all->scale[term[i]];
        for (int32_t j = 0; j < n; j++) {
            a[i][j] = all->a[term[i]][term[j]] * all->scale[term[i]] * all->scale[term[j]];
        }
    }
    if (!solve(a, b, n)) {
        return false;
    }
    memset(out, 0, TERMS * sizeof *out);
    *left = all->yy;
    for (int32_t i = 0; i < n; i++) {
        if (b[i] < 0) {
            return false;
        }
        *left -= b[i] * all->b[term[i]] * all->scale[term[i]];
        out[term[i]] = b[i] * all->scale[term[i]];
    }
    return true;
}

void sy_fit_rate(const sy_sample *s, int32_t n, double near_bytes, sy_rate *out, double *error)
{
    normal all;
    double best[TERMS] = {0}, x[TERMS], least = INFINITY, time = 0, off = 0;
    set_normal(s, n, near_bytes, &all);
    for (int32_t choice = CHOICES - 1; choice > 0; choice--) { /* a constant alone comes last */
        double left = 0;
        if (try_choice(&all, choice, x, &left) && left < least * (1 - 1e-9)) {
            least = left;
            memcpy(best, x, sizeof best);
        }
    }
    *out = (sy_rate){best[0], best[1], best[2], best[3]};
    for (int32_t i = 0; i < n; i++) {
        double sum = 0;
        terms_of(&s[i].work, near_bytes, x);
        for (int32_t p = 0; p < TERMS; p++) {
            sum += best[p] * x[p];
        }
        time += s[i].calls * s[i].seconds;
        off += s[i].calls * fabs(sum - s[i].seconds);
    }
    *error = time > 0 ? off / time : 0;
}
