#include "model/depth_choice.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

static bool is_routed(const sy_depth_choice *c, int64_t t)
{
    return c->routed == NULL || c->routed[t];
}

/* Better: routed, then larger r, then earlier. NaN is smaller than any number. */
static bool is_better(const sy_depth_choice *c, int64_t a, int64_t b)
{
    const double x = isnan(c->r[a]) ? -INFINITY : c->r[a], y = isnan(c->r[b]) ? -INFINITY : c->r[b];
    if (is_routed(c, a) != is_routed(c, b)) {
        return is_routed(c, a);
    }
    return x != y ? x > y : a < b;
}

/* A heap of the C best so far, the worst of them on top. */
static void sift(const sy_depth_choice *c, int64_t first, int32_t *heap, int32_t n, int32_t i)
{
    for (;;) {
        int32_t worst = i;
        for (int32_t k = 2 * i + 1; k <= 2 * i + 2 && k < n; k++) {
            worst = is_better(c, first + heap[worst], first + heap[k]) ? k : worst;
        }
        if (worst == i) {
            return;
        }
        const int32_t other = heap[worst];
        heap[worst] = heap[i];
        heap[i] = other;
        i = worst;
    }
}

static void take_best(sy_depth_choice *c, int64_t first)
{
    int32_t *heap = c->order;
    for (int32_t i = 0; i < c->C; i++) {
        heap[i] = i;
    }
    for (int32_t i = c->C / 2; i-- > 0;) {
        sift(c, first, heap, c->C, i);
    }
    for (int32_t s = c->C; s < c->S; s++) {
        if (is_better(c, first + s, first + heap[0])) {
            heap[0] = s;
            sift(c, first, heap, c->C, 0);
        }
    }
    for (int32_t s = 0; s < c->S; s++) {
        c->taken[first + s] = false;
    }
    for (int32_t i = 0; i < c->C; i++) {
        c->taken[first + heap[i]] = true;
    }
}

/* C is what the sequence that takes most takes. */
static void take_predicted(sy_depth_choice *c)
{
    c->C = 0;
    for (int32_t b = 0; b < c->B; b++) {
        int32_t n = 0;
        for (int64_t t = (int64_t)b * c->S; t < (int64_t)(b + 1) * c->S; t++) {
            c->taken[t] = is_routed(c, t) && c->logit[t] > 0;
            n += c->taken[t];
        }
        c->C = n > c->C ? n : c->C;
    }
}

void sy_depth_choose(sy_depth_choice *c)
{
    if (c->by_predictor) {
        take_predicted(c);
        return;
    }
    for (int32_t b = 0; b < c->B; b++) {
        take_best(c, (int64_t)b * c->S);
    }
}

void sy_depth_place(sy_depth_choice *c)
{
    int32_t n = 0;
    for (int64_t j = 0; j < (int64_t)c->B * c->C; j++) {
        c->row[j] = -1;
        c->row_routed[j] = 0;
        c->row_r[j] = 0;
    }
    for (int64_t t = 0, j = 0; t < (int64_t)c->B * c->S; t++) {
        j = t % c->S == 0 ? t / c->S * c->C : j;
        c->token_start[t] = n;
        c->row_of[t] = -1;
        c->token_r[t] = 0;
        if (c->taken[t]) {
            c->row[j] = (int32_t)t;
            c->row_routed[j] = is_routed(c, t);
            c->row_r[j] = c->token_r[t] = c->r[t];
            c->row_of[t] = c->token_row[n++] = (int32_t)j++;
        }
    }
    c->token_start[(int64_t)c->B * c->S] = n;
}

void sy_depth_judge(sy_depth_choice *c)
{
    c->loss = c->n_right = 0;
    for (int64_t t = 0; t < (int64_t)c->B * c->S; t++) {
        const double x = c->logit[t], toward = c->taken[t] ? x : -x;
        c->dlogit[t] = 0;
        if (is_routed(c, t)) { /* ln(1 + e^-x) without overflow */
            c->loss += fmax(-toward, 0) + log1p(exp(-fabs(x)));
            c->dlogit[t] = 1 / (1 + exp(-x)) - c->taken[t];
            c->n_right += toward > 0;
        }
    }
}
