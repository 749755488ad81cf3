/* A dense block on ref said plainly, for tests of what stands around blocks: hidden 8, two heads of
   4 on one of keys and values, MLP of 10, sequences of 7, 64 ids. */
#ifndef SY_TESTS_PLAIN_BLOCK_H
#define SY_TESTS_PLAIN_BLOCK_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "parallel/param.h"

enum { PLAIN_S = 7, PLAIN_V = 64, PLAIN_H = 8, PLAIN_D = 4, PLAIN_F = 10 };

/* Parameters in double, and where the tokens of a sequence stand [PLAIN_S]. */
typedef struct plain_text {
    const sy_params *params;
    const int32_t *pos, *doc;
} plain_text;

/* A parameter's values, as the device has them. */
static inline const double *plain_values(const plain_text *r, const char *name)
{
    const sy_param *p = sy_params_find(r->params, name);
    assert_non_null(p);
    return p->value.data;
}

static inline const double *plain_of_layer(const plain_text *r, int32_t layer, const char *name)
{
    char full[64];
    snprintf(full, sizeof full, "layers/%03d/%s", layer, name);
    return plain_values(r, full);
}

static inline double plain_dot(const double *a, const double *b, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

static inline void plain_times(const double *w, int32_t n, const double *x, int32_t m, double *y)
{
    for (int32_t i = 0; i < n; i++) {
        y[i] = plain_dot(w + i * m, x, m);
    }
}

static inline void plain_norm(const double *w, const double *x, double *y)
{
    const double scale = 1 / sqrt(plain_dot(x, x, PLAIN_H) / PLAIN_H + 1e-5);
    for (int32_t h = 0; h < PLAIN_H; h++) {
        y[h] = x[h] * scale * w[h];
    }
}

static inline void plain_rotate(double *x, int32_t pos)
{
    for (int32_t d = 0; d < PLAIN_D / 2; d++) {
        const double angle = pos * pow(10000, -2.0 * d / PLAIN_D), a = x[d], b = x[d + PLAIN_D / 2];
        x[d] = a * cos(angle) - b * sin(angle);
        x[d + PLAIN_D / 2] = b * cos(angle) + a * sin(angle);
    }
}

/* The tokens `at` [n] of one sequence, which see those before them of the same document. */
static inline void plain_attention(const plain_text *r, int32_t layer, int32_t n, const int32_t *at,
                                   double (*x)[PLAIN_H])
{
    double qkv[PLAIN_S][2 * PLAIN_H], in[PLAIN_H], out[PLAIN_H], add[PLAIN_H];
    for (int32_t i = 0; i < n; i++) {
        plain_norm(plain_of_layer(r, layer, "attn_norm"), x[i], in);
        plain_times(plain_of_layer(r, layer, "attn/qkv"), 2 * PLAIN_H, in, PLAIN_H, qkv[i]);
        for (int32_t head = 0; head < 3; head++) { /* two of q, one of k */
            plain_rotate(qkv[i] + head * PLAIN_D, r->pos[at[i]]);
        }
    }
    for (int32_t i = 0; i < n; i++) {
        memset(out, 0, sizeof out);
        for (int32_t head = 0; head < 2; head++) {
            double sum = 0;
            for (int32_t j = 0; j <= i; j++) {
                const double *q = qkv[i] + head * PLAIN_D, *k = qkv[j] + 2 * PLAIN_D,
                             *v = qkv[j] + 3 * PLAIN_D;
                const double w = r->doc[at[i]] == r->doc[at[j]]
                                     ? exp(plain_dot(q, k, PLAIN_D) / sqrt(PLAIN_D))
                                     : 0;
                sum += w;
                for (int32_t d = 0; d < PLAIN_D; d++) {
                    out[head * PLAIN_D + d] += w * v[d];
                }
            }
            for (int32_t d = 0; d < PLAIN_D; d++) {
                out[head * PLAIN_D + d] /= sum;
            }
        }
        plain_times(plain_of_layer(r, layer, "attn/o"), PLAIN_H, out, PLAIN_H, add);
        for (int32_t h = 0; h < PLAIN_H; h++) {
            x[i][h] += add[h];
        }
    }
}

static inline void plain_block(const plain_text *r, int32_t layer, int32_t n, const int32_t *at,
                               double (*x)[PLAIN_H])
{
    double in[PLAIN_H], h[2 * PLAIN_F], add[PLAIN_H];
    plain_attention(r, layer, n, at, x);
    for (int32_t i = 0; i < n; i++) {
        plain_norm(plain_of_layer(r, layer, "ffn_norm"), x[i], in);
        plain_times(plain_of_layer(r, layer, "mlp/gate_up"), 2 * PLAIN_F, in, PLAIN_H, h);
        for (int32_t f = 0; f < PLAIN_F; f++) {
            h[f] = h[f] / (1 + exp(-h[f])) * h[PLAIN_F + f];
        }
        plain_times(plain_of_layer(r, layer, "mlp/down"), PLAIN_H, h, PLAIN_F, add);
        for (int32_t k = 0; k < PLAIN_H; k++) {
            x[i][k] += add[k];
        }
    }
}

/* -log p(target) of a last hidden state behind its norm. */
static inline double plain_nll(const plain_text *r, const double *y, int32_t target)
{
    double z[PLAIN_V], sum = 0;
    plain_times(plain_values(r, "head"), PLAIN_V, y, PLAIN_H, z);
    for (int32_t v = 0; v < PLAIN_V; v++) {
        sum += exp(z[v]);
    }
    return log(sum) - z[target];
}

#endif
